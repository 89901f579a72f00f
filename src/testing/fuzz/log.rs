//! A small log with any damage.

use super::{Oracle, two_bytes};
use crate::disk::Disk;
use crate::log::hostile::{self, SMALL};
use crate::log::record::{Commit, Digests, Fold, Kept, KeyPart, Payload, StoredEvent};
use crate::log::segments::SegmentLog;
use crate::log::{Head, Log, StoreId};
use crate::order::Timestamp;
use crate::testing::{Random, SimDisk};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Checks that a small log, damaged as `bytes` say, opens and reads back as it was written, or is refused by name. Records that
/// are served once must be served again.
///
/// `bytes` are edits of its files. One of them makes all checksums true again, so that the code behind them is reached: such a
/// log may say anything that it can say, and is held to the rest.
pub fn hostile_log(bytes: &[u8], oracle: Oracle) {
    static HONEST: OnceLock<(SimDisk, Vec<Vec<u8>>)> = OnceLock::new();
    let (disk, honest) = HONEST.get_or_init(|| {
        let disk = SimDisk::new(1);
        let served = small_log(&disk);
        (disk, served)
    });
    let disk = disk.fork(1);
    let mut edits = Edits { files: disk.files(), disk: &disk, is_mended: false, is_cut: false };
    let mut draws = Random::from_bytes(bytes);
    while !draws.is_used_up() {
        edits.edit(&mut draws);
    }
    if oracle == Oracle::Canary && edits.is_cut {
        // The canary: a log that believes all bytes before a torn tail.
        edits.mend();
        edits.is_mended = false;
    }
    let is_mended = edits.is_mended;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    if hostile::log(&disk, Path::new(DIR)).is_ok() && !is_mended {
        served_is_a_prefix(&disk, honest);
    }
}

const DIR: &str = "/log";

/// Makes a log of three segments or more, and returns what it serves.
fn small_log(disk: &SimDisk) -> Vec<Vec<u8>> {
    let (seam, dir): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Path::new(DIR));
    SegmentLog::create(&seam, dir, StoreId([7; 16]), &SMALL).expect("an honest disk makes a log");
    let (log, _) = SegmentLog::open(&seam, dir, SMALL, None).expect("and opens it");
    for number in 1..=12 {
        let head = log.head();
        let mut group = vec![commit(number, &head)];
        if number % 3 == 0 {
            let last = &group[0];
            let after = Head { commit: last.commit, position: last.last(), time: last.time, ..head };
            group.push(commit(number, &after));
        }
        log.append(&head, &group).expect("an honest disk takes it");
    }
    hostile::everything(&log).expect("an honest log reads back")
}

fn commit(number: u64, before: &Head) -> Commit {
    let event = |number: u64| StoredEvent {
        type_name: "family.Variant".into(),
        schema: 1,
        codec: 1,
        stream: "family/1".into(),
        stream_version: number,
        tags: vec!["kind:id".into()],
        data: number.to_le_bytes().repeat(4),
    };
    let key = (number % 4 == 1).then(|| KeyPart {
        scope: "shop".into(),
        key: format!("k{number}"),
        parts: vec![("input".into(), [9; 16])],
        digests: Digests::ByNames,
        kept: Kept::UntilKeys(number),
    });
    Commit {
        commit: before.commit.next(),
        first: before.position.next(),
        time: Timestamp(number),
        label: String::new(),
        layouts: Vec::new(),
        response: key.as_ref().map(|_| Payload { codec: 1, bytes: vec![1; 5] }),
        key,
        // Numbers divisible by 5 give commits without an event.
        events: (0..number % 5).map(|event_number| event(number + event_number)).collect(),
        folds: vec![Fold { projection: 1, digest: number }],
        inline: (number == 1).then(|| vec![1]),
    }
}

/// Checks that an open log serves, damaged or not, a beginning of the honest one.
fn served_is_a_prefix(disk: &Arc<dyn Disk>, honest: &[Vec<u8>]) {
    let (log, _) = SegmentLog::open(disk, Path::new(DIR), SMALL, None).expect("it opened before");
    let served = hostile::everything(&log).expect("it was read before");
    assert!(honest.starts_with(&served), "what is served is what was written");
}

struct Edits<'d> {
    disk: &'d SimDisk,
    /// Files as they were at first; one that is removed may come again.
    files: Vec<PathBuf>,
    is_mended: bool,
    is_cut: bool,
}

impl Edits<'_> {
    fn edit(&mut self, draws: &mut Random) {
        let what = draws.below(16);
        if what == 0 {
            self.mend();
            return;
        }
        let file = self.files[draws.below(self.files.len() as u64) as usize].clone();
        let mut bytes = self.disk.read_file(&file).unwrap_or_default();
        let at = two_bytes(draws) as usize % (bytes.len() + 1);
        match what {
            1 => {
                bytes.truncate(at);
                self.is_cut = true;
            }
            2 => bytes[at..].fill(0),
            3 => bytes.resize(bytes.len() + at % 256, draws.below(256) as u8),
            4 => {
                // Bytes at aligned places, copied to another one.
                let (from, at, len) = (two_bytes(draws) as usize & !7, at & !7, two_bytes(draws) as usize);
                let from = from.min(bytes.len());
                let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
                let room = bytes.len().saturating_sub(at).min(piece.len());
                bytes[at..at + room].copy_from_slice(&piece[..room]);
            }
            5 => {
                drop(self.disk.remove(&file));
                return;
            }
            // Another file in its place.
            6 => bytes = self.disk.read_file(&self.files[at % self.files.len()]).unwrap_or_default(),
            7 => bytes = std::iter::from_fn(|| (!draws.is_used_up()).then(|| draws.next() as u8)).collect(),
            8..11 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << draws.below(8)),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = draws.next() as u8),
        }
        self.disk.write_file(&file, &bytes);
    }

    fn mend(&mut self) {
        self.is_mended = true;
        let mut chain = None;
        for file in &self.files {
            let Ok(mut bytes) = self.disk.read_file(file) else { continue };
            chain = hostile::mend(&mut bytes, chain);
            self.disk.write_file(file, &bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(change: impl Fn(&mut Vec<u8>)) -> (SimDisk, SimDisk) {
        let disk = SimDisk::new(1);
        small_log(&disk);
        let before = disk.fork(1);
        let first =
            disk.files().into_iter().find(|file| file.extension().is_some()).expect("it has segments");
        let mut bytes = disk.read_file(&first).expect("it was listed");
        change(&mut bytes);
        disk.write_file(&first, &bytes);
        Edits { files: disk.files(), disk: &disk, is_mended: false, is_cut: false }.mend();
        (before, disk)
    }

    #[test]
    fn mending_an_undamaged_log_changes_nothing() {
        let (before, after) = mended(|_| ());
        assert!(before.files().len() >= 3, "{:?}", before.files());
        for file in before.files() {
            assert_eq!(before.read_file(&file).unwrap(), after.read_file(&file).unwrap(), "{file:?}");
        }
    }

    #[test]
    fn log_with_repaired_checksums_serves_changed_bytes() {
        let is = b"family.Variant";
        let (_, disk) = mended(|bytes| {
            let at = bytes.windows(is.len()).position(|piece| piece == is).expect("events have a type");
            bytes[at] = b'F';
        });
        let disk: Arc<dyn Disk> = Arc::new(disk);
        hostile::log(&disk, Path::new(DIR)).expect("its checksums are true");
        let (log, _) = SegmentLog::open(&disk, Path::new(DIR), SMALL, None).unwrap();
        let served = hostile::everything(&log).unwrap();
        assert!(served.iter().any(|body| body.windows(is.len()).any(|piece| piece == b"Family.Variant")));
    }
}
