//! A log as it stands, for a reader that changes nothing. Another process may write it meanwhile.
//!
//! - A group is shown once something later proves that it was synced; for the last group there may be no proof.
//! - Bytes that look damaged or torn may only be in motion: they are believed once two looks in a row find the same.

use super::{KnownLog, SegmentInfo, TailRepair, finished_or_scanned, names, plan, survey};
use crate::disk::Disk;
use crate::log::descriptors::Descriptors;
use crate::log::segments::{Known, Place, Segment, Tail};
use crate::log::{Head, LogError};
use crate::sync::RwLock;
use std::path::Path;
use std::sync::Arc;

/// Maximum number of looks: one of them outruns a busy writer.
const LOOKS_MAX: u32 = 64;

/// The segments of a log, up to a head that is known to be durable.
pub(in crate::log) struct Looked {
    pub place: Place,
    pub head: Head,
    pub segments: Vec<Arc<Segment>>,
    pub tail: Tail,
}

pub(in crate::log) fn look(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Looked, LogError> {
    let mut before = None;
    let mut looks = 0;
    loop {
        let now = look_once(disk, dir);
        let said = match &now {
            Ok(looked) if looked.tail.torn_bytes == 0 => return now,
            Ok(looked) => Ok((looked.head, looked.tail)),
            Err(error) => Err(error.to_string()),
        };
        looks += 1;
        if looks == LOOKS_MAX || before.as_ref() == Some(&said) {
            return now;
        }
        before = Some(said);
    }
}

fn look_once(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Looked, LogError> {
    let descriptors = Descriptors::new(disk.clone());
    let mut found = survey(&descriptors, disk.as_ref(), dir, &names(disk.as_ref(), dir)?)?;
    let mut scanned = Vec::new();
    for pair in found.windows(2) {
        scanned.push(finished_or_scanned(&pair[0], &pair[1])?);
    }
    let last = found.pop().expect("a log has a segment");
    let place = Place { disk: disk.clone(), dir: dir.to_owned(), store: last.header.store, descriptors };
    let segment = |found: SegmentInfo, marks, end| {
        let SegmentInfo { header, file, len, trailer } = found;
        Arc::new(Segment { header, file, len: len.into(), trailer, known: RwLock::new(Known { marks, end }) })
    };
    let mut segments = Vec::with_capacity(found.len() + 1);
    for (found, scanned) in found.into_iter().zip(scanned) {
        let end = found.trailer.map_or(0, |trailer| u64::from(trailer.groups_end));
        let (marks, end) = scanned.map_or((None, end), |scanned| (Some(scanned.marks), scanned.end));
        segments.push(segment(found, marks, end));
    }
    let TailRepair { last: scanned, torn, proven, .. } = plan(&last, &KnownLog::default())?;
    let (mut head, mut end, mut marks) = (scanned.head, scanned.end, scanned.marks);
    if let Some((from, before)) = scanned.last.filter(|_| !proven) {
        marks.truncate(from);
        (head, end) = (before, from);
    }
    let unproven_commits = scanned.head.commit.0 - head.commit.0;
    let tail = Tail { unproven_commits, torn_bytes: torn.map_or(0, |(_, len)| len) };
    segments.push(segment(last, Some(marks), end));
    Ok(Looked { place, head, segments, tail })
}
