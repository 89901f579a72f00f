//! Properties that must hold for any bytes: for fuzz targets, and for tests that damage a log.
//!
//! - Nothing here may panic but by an assertion of its own.

use super::group::{self, HEAD, array};
use super::record::{self, FRAME, Record};
use super::segment::{self, HEADER, TRAILER};
use super::segments::{LogOptions, Prepare, SegmentLog};
use super::{Hash, Head, Log, LogError, Page, Seek, StoreId};
use crate::disk::Disk;
use crate::order::{CommitNo, Position};
use std::path::Path;
use std::sync::Arc;

/// Checks that the owned copy of a decoded record encodes to the same bytes.
pub(crate) fn canonical(body: &[u8]) {
    let Ok(record) = Record::decode(body) else { return };
    let store = StoreId([7; 16]);
    let mut framed = Vec::new();
    record.to_commit().encode_into(store, &mut framed);
    let (again, rest) = record::check(store, &framed).expect("what was encoded checks");
    assert_eq!(again, body, "one meaning has one spelling");
    assert!(rest.is_empty(), "a record fills its frame");
}

/// Opens the log in `dir`, reads all of it in every way, appends nothing, and returns its head.
///
/// Opening the log again must not change the records it serves.
pub(crate) fn log(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Head, LogError> {
    let (log, _) = SegmentLog::open(disk, dir, SMALL, None)?;
    let head = log.head();
    let served = everything(&log)?;
    log.check(&mut |page, _| {
        page.records().try_for_each(|record| record.map(|_| ()).map_err(LogError::from))
    })?;
    drop(log);
    let (log, opened) = SegmentLog::open(disk, dir, SMALL, None)?;
    assert_eq!((opened.cut, opened.rewritten), (None, None), "an open leaves nothing to make good");
    assert_eq!((log.head(), everything(&log)?), (head, served), "opened again it is the same log");
    Ok(head)
}

/// Returns all bodies of a log, read page by page, and each commit and event again by itself.
pub(crate) fn everything(log: &dyn Log) -> Result<Vec<Vec<u8>>, LogError> {
    let (head, mut bodies, mut next) = (log.head(), Vec::new(), CommitNo(1));
    loop {
        let page = log.read(Seek::Commit(next), head.commit, 4096)?;
        if page.is_empty() {
            break;
        }
        for body in page.records.iter().map(|range| &page.bytes[range.clone()]) {
            let alone = log.read(Seek::Commit(next), next, 1)?;
            assert_eq!(only(&alone), Some(body), "a commit reads alike alone and in a page");
            let record = Record::decode(body)?;
            assert_eq!(record.commit(), next, "commits are gapless");
            for position in (record.first().0..=record.last().0).take(3) {
                let found = log.read(Seek::Event(Position(position)), head.commit, 1)?;
                assert_eq!(only(&found), Some(body), "an event leads to its commit");
            }
            bodies.push(body.to_vec());
            next = next.next();
        }
    }
    assert_eq!(next, head.commit.next(), "reading goes up to the head");
    Ok(bodies)
}

fn only(page: &Page) -> Option<&[u8]> {
    match &page.records[..] {
        [range] => Some(&page.bytes[range.clone()]),
        _ => None,
    }
}

/// Makes the checksums and the chain of a segment fit its content, as far as its structure can be followed. Goes on from the
/// chain of the segment before, if there is one, and returns its own.
pub(crate) fn mend(file: &mut [u8], before: Option<Hash>) -> Option<Hash> {
    let (header, mut rest) = file.split_first_chunk_mut::<HEADER>()?;
    if let Some(chain) = before {
        header[56..88].copy_from_slice(&chain.0);
    }
    segment::put_header_crc(header);
    let (store, mut chain) = (StoreId(array(&header[16..])), Hash(array(&header[56..])));
    while group::is_magic(rest) && rest.len() >= HEAD {
        let bytes = u32::from_le_bytes(array(&rest[44..])) as usize;
        let Some((group, after)) = std::mem::take(&mut rest).split_at_mut_checked(HEAD + bytes) else {
            break;
        };
        let is_seal = bytes == 0;
        let next = mend_group(store, chain, group);
        chain = if is_seal { chain } else { next };
        rest = after;
    }
    if let Some(trailer) =
        file.last_chunk_mut::<TRAILER>().filter(|trailer| trailer.ends_with(segment::END_MAGIC))
    {
        trailer[48..80].copy_from_slice(&chain.0);
        segment::put_trailer_crc(trailer);
    }
    Some(chain)
}

fn mend_group(store: StoreId, before: Hash, group: &mut [u8]) -> Hash {
    group[56..HEAD].copy_from_slice(&before.0);
    let mut rest = &mut group[HEAD..];
    while let Some((frame, after)) = rest.split_first_chunk_mut::<FRAME>() {
        let len: [u8; 4] = array(frame);
        let size = u32::from_le_bytes(len) as usize;
        let Some(body) = after.get(..size) else { break };
        frame[4..].copy_from_slice(&record::crc(store, len, body).to_le_bytes());
        let padded = (FRAME + size).next_multiple_of(8) - FRAME;
        rest = after.get_mut(padded..).unwrap_or_default();
    }
    group::put_crc(group);
    group::link(group)
}

/// Options for segments of a few groups.
pub(crate) const SMALL: LogOptions =
    LogOptions { segment_bytes_min: 512, segment_bytes: 4096, prepare: Prepare::AtNeed };
