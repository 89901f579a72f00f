//! What the fuzz targets in `fuzz/` call: properties that must hold for any bytes. They panic where one does not.

use crate::disk::Disk;
use crate::log::hostile::{self, SMALL};
use crate::log::record::{Commit, StoredEvent};
use crate::log::segments::SegmentLog;
use crate::log::{Log, StoreId};
use crate::order::Timestamp;
use crate::testing::SimDisk;
use std::path::Path;
use std::sync::Arc;

/// Whatever decodes as a commit record encodes to the same bytes again.
pub fn record_decode(bytes: &[u8]) {
    hostile::record(bytes);
}

/// A small log, damaged as `bytes` say, opens and reads back as it was written, or is refused by name; what is served once is
/// served again.
///
/// `bytes` are edits: file, offset, length and content of each; the first byte says whether one segment is replaced whole.
pub fn hostile_log(bytes: &[u8]) {
    let disk = SimDisk::new(1);
    let honest = small_log(&disk);
    let Some((how, mut edits)) = bytes.split_first() else { return };
    let files = disk.files();
    if how % 4 == 0 {
        let file = &files[usize::from(how / 4) % files.len()];
        disk.write_file(file, edits);
    } else {
        while let Some((edit, rest)) = edits.split_first_chunk::<5>() {
            let file = &files[usize::from(edit[0]) % files.len()];
            let offset = u64::from(u16::from_le_bytes([edit[1], edit[2]]));
            let (content, rest) = rest.split_at(rest.len().min(usize::from(edit[3])));
            let mut whole = disk.read_file(file).expect("it was listed");
            match edit[4] % 4 {
                0 => whole.truncate(offset as usize),
                1 => whole.extend_from_slice(content),
                _ => {
                    let room = whole.len().saturating_sub(offset as usize).min(content.len());
                    let start = whole.len().min(offset as usize);
                    whole[start..start + room].copy_from_slice(&content[..room]);
                }
            }
            disk.write_file(file, &whole);
            edits = rest;
        }
    }
    let disk: Arc<dyn Disk> = Arc::new(disk);
    served_is_a_prefix(&disk, &honest);
}

const DIR: &str = "/log";

/// Makes a log of three segments or more, and returns what it serves.
fn small_log(disk: &SimDisk) -> Vec<Vec<u8>> {
    let (seam, dir): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Path::new(DIR));
    SegmentLog::create(&seam, dir, StoreId([7; 16]), &SMALL).expect("an honest disk makes a log");
    let (log, _) = SegmentLog::open(&seam, dir, SMALL, None).expect("and opens it");
    for number in 1..=24_u64 {
        let head = log.head();
        let event = StoredEvent {
            type_name: "family.Variant".into(),
            schema: 1,
            codec: 1,
            stream: "family/1".into(),
            stream_version: number,
            tags: vec!["kind:id".into()],
            data: number.to_le_bytes().repeat(4),
        };
        let commit = Commit {
            commit: head.commit.next(),
            first: head.position.next(),
            time: Timestamp(number),
            label: String::new(),
            layouts: Vec::new(),
            key: None,
            response: None,
            events: vec![event],
            folds: Vec::new(),
        };
        log.append(&head, &[commit]).expect("an honest disk takes it");
    }
    hostile::everything(&log).expect("an honest log reads back")
}

/// What an open log serves, damaged or not, is how the honest one began; else it is refused.
fn served_is_a_prefix(disk: &Arc<dyn Disk>, honest: &[Vec<u8>]) {
    let dir = Path::new(DIR);
    if hostile::log(disk, dir).is_err() {
        return;
    }
    let (log, _) = SegmentLog::open(disk, dir, SMALL, None).expect("it opened before");
    let served = hostile::everything(&log).expect("it was read before");
    assert!(honest.starts_with(&served), "what is served is what was written");
}
