//! Properties that must hold for any bytes: for fuzz targets, and for tests that damage a log.
//!
//! - Nothing here may panic but by an assertion of its own.

use super::record::Record;
use super::segments::{LogOptions, Prepare, SegmentLog};
use super::{Head, Log, LogError, Page, Seek};
use crate::disk::Disk;
use crate::order::{CommitNo, Position};
use std::path::Path;
use std::sync::Arc;

/// What decodes as a record encodes to the same bytes, owned and in place alike.
pub(crate) fn record(body: &[u8]) {
    let Ok(record) = Record::decode(body) else { return };
    let store = super::StoreId([7; 16]);
    let mut framed = Vec::new();
    record.to_commit().encode_into(store, &mut framed);
    let (again, rest) = super::record::check(store, &framed).expect("what was encoded checks");
    assert_eq!(again, body, "one meaning has one spelling");
    assert!(rest.is_empty(), "a record fills its frame");
}

/// Opens whatever stands in `dir`, reads all of it in every way, appends nothing, and returns its last state.
///
/// What is served must not change by being opened again.
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

/// All bodies of a log, read page by page, and each commit and event again by itself.
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

/// Segments of a few groups.
pub(crate) const SMALL: LogOptions =
    LogOptions { segment_bytes_min: 512, segment_bytes: 4096, prepare: Prepare::AtNeed };
