//! The log: an append-only chain of commits, and the only truth.
//!
//! - A commit is readable if and only if its group was written and synced whole.
//! - Every read verifies a checksum; `open` verifies the chain of the tail, `check` that of the whole log.
//! - The log does not interpret commits: no rows, no keys, no queries.
//!
//! One trait, two forms: [`segments`] on a disk, [`memory`] for tests and short-lived stores.

pub(crate) mod record;
mod event;
mod group;
mod segment;
mod window;
mod descriptors;
mod recover;
pub(crate) mod segments;
pub(crate) mod memory;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod hostile;
#[cfg(test)]
mod tests;

use crate::error::{OpenError, StorageError, TroubleKind};
use crate::order::{CommitNo, Position, Timestamp};
use group::Walk;
use record::{Commit, Record};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// The end of the log: its last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The last commit; `CommitNo::START` in an empty log.
    pub commit: CommitNo,
    /// The last event's position.
    pub position: Position,
    /// The last commit's time.
    pub time: Timestamp,
    /// The chain up to here.
    pub hash: Hash,
}

impl Head {
    /// The end of an empty log of this store. The chain starts from the store id, so two stores never share one.
    pub fn empty(store: StoreId) -> Self {
        let hash = blake3::derive_key("tallystone 2026 log chain", &store.0);
        Self { commit: CommitNo::START, position: Position::START, time: Timestamp(0), hash: Hash(hash) }
    }
}

/// A link of the BLAKE3 chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The store's own random name, in every frame of its log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Operations of a log. A later form may keep it on other machines: hence the expected head.
pub(crate) trait Log: Send + Sync + fmt::Debug {
    /// Returns the id of the store that owns this log.
    fn store(&self) -> StoreId;

    /// Returns the end of the durable commits.
    fn head(&self) -> Head;

    /// Writes one group of commits in one write and syncs it. `commits` follow `expected` without a gap.
    ///
    /// After `NotHeld` nothing was written. After `Io` nothing is known about the group, and every later append is refused with
    /// `Io` too. (Only a group over 1 GiB, `InvalidInput`, is known to be refused and stops nothing.)
    ///
    /// # Panics
    /// If numbers are not gapless or time runs backwards: before anything is written.
    fn append(&self, expected: &Head, commits: &[Commit]) -> Result<Head, LogError>;

    /// Returns whole records in commit order from the one at `from`, up to and including `through`, until `bytes` are read.
    ///
    /// At least one record, unless there is none in that range; fewer than `bytes` do not mean the end: only an empty
    /// page does. Never reads past `head()`. Checksums are verified.
    fn read(&self, from: Seek, through: CommitNo, bytes: usize) -> Result<Page, LogError>;

    /// Walks the log from the group after `after` to the head, chain and checksums, and calls `step` with each group's page
    /// and the head after it. `step` may stop the walk with an error of its own.
    ///
    /// `NotAtHead` if no group of this log ends with exactly `after`.
    fn walk(
        &self,
        after: &Head,
        step: &mut dyn FnMut(&Page, &Head) -> Result<(), LogError>,
    ) -> Result<(), LogError>;

    /// Walks the whole log.
    fn check(&self, step: &mut dyn FnMut(&Page, &Head) -> Result<(), LogError>) -> Result<(), LogError> {
        self.walk(&Head::empty(self.store()), step)
    }

    /// Returns whether a group of this log ends with exactly `head`, or nothing is before it. Reads one record.
    fn has(&self, head: &Head) -> Result<bool, LogError> {
        let end = self.head();
        if head.commit.0 == 0 || head.commit >= end.commit {
            return Ok(*head == end || *head == Head::empty(self.store()));
        }
        Ok(self.read(Seek::Commit(head.commit.next()), end.commit, 0)?.before() == Some(head.hash))
    }

    /// Stops background work: from here on nothing writes to the directory. Nothing is appended after it.
    fn end(&self) {}

    /// Returns the bytes kept and the files held.
    fn size(&self) -> LogSize;

    /// Returns an independent copy, if that costs next to nothing.
    fn fork(&self) -> Option<Arc<dyn Log>> {
        None
    }

    /// Marks the end of the log, so that the next open need not distrust the tail. Optional: it may fail.
    fn seal(&self) -> Result<(), LogError>;
}

/// The record to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seek {
    /// The record of this commit.
    Commit(CommitNo),
    /// The record that holds the event at this position.
    Event(Position),
}

/// Verified records, in one buffer.
#[derive(Default)]
pub(crate) struct Page {
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
    bounds: Bounds,
}

/// Group boundaries in a page.
#[derive(Debug, Default)]
struct Bounds {
    /// The chain before the first record; `None` if that does not begin a group.
    before: Option<Hash>,
    /// The last head within the page that a group is known to end with.
    boundary: Option<Head>,
    /// The last commit in it.
    last: CommitNo,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page of {} records", self.records.len())
    }
}

impl Page {
    /// The records, decoded in place. Their checksums have been verified.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = Result<Record<'_>, record::Malformed>> {
        self.records.iter().map(|range| Record::decode(&self.bytes[range.clone()]))
    }

    /// Returns the chain before the first record, as the log has it; `None` if that record begins no group.
    pub fn before(&self) -> Option<Hash> {
        self.bounds.before
    }

    /// Returns the last head in it that a group ends with, or `through` if it reaches that; `None` if all is part of one group.
    pub fn boundary(&self, through: &Head) -> Option<Head> {
        if self.bounds.last == through.commit { Some(*through) } else { self.bounds.boundary }
    }

    /// The last commit in it.
    pub fn last(&self) -> CommitNo {
        self.bounds.last
    }

    /// Returns the size of its buffer, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the records of a walk that starts at or before `seek`, and stops at `through` or once `bytes` are read.
    fn from_walk(
        mut walk: Walk<'_>,
        seek: Seek,
        through: CommitNo,
        bytes: usize,
    ) -> Result<(Vec<Range<usize>>, Bounds), LogError> {
        let (mut records, mut taken, mut bounds) = (Vec::new(), 0, Bounds::default());
        while walk.before().commit < through && (records.is_empty() || taken < bytes) {
            let (commit, position) = (walk.before().commit.next(), walk.before().position.next());
            let fault = |fault: record::Malformed| LogError::damaged(commit, position, &fault.to_string());
            let Some(found) = walk.step().map_err(fault)? else { break };
            // An earlier commit without events ends before the position that it starts with.
            let wanted = match seek {
                Seek::Commit(commit) => found.fixed.commit >= commit,
                Seek::Event(position) => found.fixed.last() >= position,
            };
            if wanted {
                let met = walk.boundary().filter(|boundary| boundary.commit.next() >= commit);
                match records.is_empty() {
                    true => bounds.before = met.map(|boundary| boundary.hash),
                    false => bounds.boundary = met.or(bounds.boundary),
                }
                bounds.last = found.fixed.commit;
                taken += found.body.len();
                records.push(found.body);
            }
        }
        let Head { commit, position, .. } = *walk.before();
        if records.is_empty() && commit < through {
            return Err(LogError::damaged(commit.next(), position.next(), "no record where one must be"));
        }
        Ok((records, bounds))
    }
}

/// Size of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogSize {
    pub files: u64,
    /// Bytes on disk, preallocated ones included.
    pub bytes: u64,
}

/// An error of the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// Bytes that were durable do not read back as they were written.
    #[error("log damaged at commit {commit}, position {position}: {what}")]
    Corrupt { commit: CommitNo, position: Position, what: String },
    /// Written by a later version.
    #[error("log format {is}, this version knows {known}")]
    NewerFormat { is: u32, known: u32 },
    /// Not a log of ours.
    #[error("{0}")]
    NotALog(String),
    /// A head that was known to be durable is later than the log's end.
    #[error("the log ends at commit {}, and commit {} was durable", .end.commit, .known.commit)]
    EndsEarly { end: Head, known: Head },
    /// The caller's head is not the log's.
    #[error("the log is at commit {is}, not at {expected}")]
    NotAtHead { is: CommitNo, expected: CommitNo },
    /// Another process may write this log, or its parent does. Nothing was written.
    #[error("{0}")]
    NotHeld(String),
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The refusal of a process that was forked from the one that has the log open.
pub(crate) fn forked() -> LogError {
    LogError::NotHeld(
        "this process is a fork of the one that opened the store, which alone may write: open a store after the fork".to_owned(),
    )
}

impl LogError {
    fn damaged(commit: CommitNo, position: Position, what: &str) -> Self {
        Self::Corrupt { commit, position, what: what.to_owned() }
    }
}

/// Makes the error for an event at `position` that is not where the index and the head say it is.
pub(crate) fn missing(position: Position) -> LogError {
    let what = "no event where one must be".to_owned();
    LogError::Corrupt { commit: CommitNo::START, position, what }
}

impl From<record::Malformed> for LogError {
    fn from(malformed: record::Malformed) -> Self {
        Self::Corrupt { commit: CommitNo::START, position: Position::START, what: malformed.to_string() }
    }
}

impl From<LogError> for StorageError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Io(source) => Self::io("the log could not be read or written", source),
            LogError::NotHeld(what) => Self::new(TroubleKind::Lock, what),
            damage => Self::new(TroubleKind::Log, damage.to_string()),
        }
    }
}

impl From<record::Malformed> for StorageError {
    fn from(malformed: record::Malformed) -> Self {
        LogError::from(malformed).into()
    }
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Corrupt { commit, position, what } => Self::Corrupt { position, commit, what },
            LogError::NewerFormat { is, known } => Self::NewerFormat { is, known },
            error => Self::Storage(error.into()),
        }
    }
}
