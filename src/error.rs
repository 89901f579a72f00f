//! What can go wrong, grouped by the call that can fail. A variant is something the caller does differently.
//!
//! Messages carry names, positions and sizes, never payloads.

use crate::order::{CommitNo, Position};
use crate::request::Append;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error as ThisError;

pub use crate::misfit::{DecodeError, LayoutError};

/// The disk, a file, a checksum. Opaque: nothing a caller does differently but stop, or `recover()`.
#[derive(Debug, Clone)]
pub struct StorageError(Arc<Trouble>);

#[derive(Debug)]
struct Trouble {
    kind: TroubleKind,
    what: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    Io,
    NoSpace,
    /// Ground truth does not read back as written.
    Log,
    /// Derived state does not read back as written: a rebuild mends it.
    State,
    /// The file was closed under a reader.
    Closed,
}

impl StorageError {
    pub(crate) fn new(kind: TroubleKind, what: impl Into<String>) -> Self {
        Self(Arc::new(Trouble { kind, what: what.into(), source: None }))
    }

    pub(crate) fn caused(
        kind: TroubleKind,
        what: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Trouble { kind, what: what.into(), source: Some(source.into()) }))
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        Self::caused(if full { TroubleKind::NoSpace } else { TroubleKind::Io }, what, source)
    }

    /// Bytes did not read back as they were written.
    pub fn is_corruption(&self) -> bool {
        matches!(self.0.kind, TroubleKind::Log | TroubleKind::State)
    }

    /// Only derived state is damaged: `Store::recover` (or the next open) rebuilds it from the log, and nothing is lost.
    pub fn is_rebuildable(&self) -> bool {
        self.0.kind == TroubleKind::State
    }

    /// After it, the file that failed answers nothing any more until it is opened again.
    pub(crate) fn ends_handle(&self) -> bool {
        matches!(self.0.kind, TroubleKind::Io | TroubleKind::NoSpace)
    }

    /// The disk is full, or a quota is used up.
    pub fn is_no_space(&self) -> bool {
        self.0.kind == TroubleKind::NoSpace
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl StdError for StorageError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// What the program uses and the store was not told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// "event type `account.Closed`: 17 events, the first at position 4"
    pub what: String,
    /// "add `.events::<..>()` to the setup"
    pub add: String,
}

impl Missing {
    pub(crate) fn new(what: impl Into<String>, add: impl Into<String>) -> Self {
        Self { what: what.into(), add: add.into() }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.add)
    }
}

/// Why a store was not opened. Nothing was changed, unless the variant says so.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum OpenError {
    /// `open` found no store there. It never creates one; `create` does.
    #[error("no store at {}", .path.display())]
    NotFound {
        /// Where it looked.
        path: PathBuf,
    },
    /// `create` found something there, and touched nothing.
    #[error("something is at {} already", .path.display())]
    AlreadyExists {
        /// Where it looked.
        path: PathBuf,
    },
    /// Another handle, here or in another process, has the store open.
    #[error("the store at {} is open already", .path.display())]
    AlreadyOpen {
        /// The store.
        path: PathBuf,
    },
    /// What stands there is not a store: a file, a link, a foreign directory.
    #[error("{} is not a store: {why}", .path.display())]
    NotAStore {
        /// Where it looked.
        path: PathBuf,
        /// What is there instead.
        why: String,
    },
    /// The directory may not be written.
    #[error("the store at {} may not be written", .path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
    },
    /// Events that were acknowledged do not read back. Restore a backup; nothing was cut or changed.
    #[error("damaged at position {position} (commit {commit}): {what}")]
    Corrupt {
        /// The first damaged event, or the one after which the damage lies.
        position: Position,
        /// The damaged commit.
        commit: CommitNo,
        /// What was found.
        what: String,
    },
    /// Written by a later version of this crate. Files are untouched.
    #[error("the store has format {is}, this version knows {known}")]
    NewerFormat {
        /// The store's.
        is: u32,
        /// The latest this version reads.
        known: u32,
    },
    /// Everything the log needs and the setup lacks, at once.
    #[error("the setup lacks: {}", join(.0))]
    Missing(Vec<Missing>),
    /// The setup contradicts itself, or the types in the log. One sentence each.
    #[error("the setup is wrong: {}", .0.join("; "))]
    Setup(Vec<String>),
    /// The disk.
    #[error("the store could not be opened: {0}")]
    Storage(#[from] StorageError),
}

fn join(missing: &[Missing]) -> String {
    missing.iter().map(Missing::to_string).collect::<Vec<_>>().join("; ")
}

/// Why an append was not acknowledged.
///
/// Nothing was written, except after [`Unknown`](Self::Unknown). A retry with the same key is always safe.
#[derive(Debug, Clone, ThisError)]
#[non_exhaustive]
pub enum AppendError {
    /// An event that matches the condition exists after `after`. Read again, decide again.
    #[error("the condition is broken by the event at position {position} ({type_name} in {stream})")]
    Conflict {
        /// The first event that matches.
        position: Position,
        /// Its type.
        type_name: String,
        /// Its stream.
        stream: String,
        /// The label of the append that wrote it; empty where it had none.
        label: String,
    },
    /// The stream is not at the expected version. Read again, decide again.
    #[error("stream {stream} is at version {is}, expected {expected}")]
    WrongVersion {
        /// The stream.
        stream: String,
        /// What the caller expected.
        expected: crate::request::Expected,
        /// Its version: the number of its events.
        is: u64,
        /// Its last event, if there is one.
        last: Option<Position>,
    },
    /// The key was used before with another input. Correct the caller; never retry.
    #[error("this key was used with another `{part}` (commit {commit})")]
    KeyReused {
        /// The part of the fingerprint that differs.
        part: String,
        /// Who used it.
        commit: CommitNo,
    },
    /// An inline projection refused the event, failed or panicked on it.
    #[error("projection `{projection}` refused event {index} of the append: {why}")]
    Fold {
        /// The projection.
        projection: &'static str,
        /// Which event of the append, from 0.
        index: usize,
        /// Its reason.
        why: String,
    },
    /// The store was not told about this family.
    #[error("the setup lacks {0}")]
    Unregistered(Missing),
    /// Larger than `Options` allows.
    #[error("{what} has {size}, the limit is {limit}")]
    TooLarge {
        /// Which of them, with its unit.
        what: &'static str,
        /// How large it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A name that is empty or has control characters, or an event no codec can carry.
    #[error("{what}: {why}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The queue is full. The append is given back untouched; try again later.
    #[error("too many requests wait for the writer")]
    Overloaded(Box<Append>),
    /// The store is closed. The append is given back untouched.
    #[error("the store is closed")]
    Closed(Box<Append>),
    /// An earlier write failed. The append is given back untouched; `Store::recover`, then try again.
    #[error("an earlier write failed; call recover()")]
    Poisoned(Box<Append>),
    /// The commit may or may not be there: its write or sync failed. `Store::recover`, then ask again with the same key.
    #[error("the outcome of the write is not known")]
    Unknown,
    /// The disk, before anything was written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl AppendError {
    /// The same append may succeed later, without a change. After `Poisoned` and `Unknown`, `recover()` first.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Overloaded(_) | Self::Poisoned(_) | Self::Unknown)
    }
}

/// Why a read failed.
#[derive(Debug, Clone, ThisError)]
#[non_exhaustive]
pub enum ReadError {
    /// The store was not told about this projection or family.
    #[error("the setup lacks {0}")]
    Unregistered(Missing),
    /// A query names a type its family does not have.
    #[error("no event type `{name}`; there are {}", .known.join(", "))]
    NoSuchType {
        /// As it was written.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// The projection's code failed on an event when its rows were folded again. Mend the code, raise its version, open again.
    #[error("projection `{projection}` is stalled at position {position}: {why}")]
    Stalled {
        /// The projection.
        projection: &'static str,
        /// The event it failed on.
        position: Position,
        /// Its reason.
        why: String,
    },
    /// The view is older than `view_age_ms_max`, and was let go. Take a new one.
    #[error("the view is older than {limit_ms} ms")]
    ViewExpired {
        /// `Options::view_age_ms_max`.
        limit_ms: u64,
    },
    /// An event or row does not decode as the type asked for.
    #[error("at position {position}: {cause}")]
    Decode {
        /// The event, or the one that last changed the row.
        position: Position,
        /// Why.
        cause: DecodeError,
    },
    /// A key or name that cannot be one.
    #[error("{what}: {why}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The disk, or damage.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<crate::query::BadQuery> for ReadError {
    fn from(bad: crate::query::BadQuery) -> Self {
        match bad {
            crate::query::BadQuery::NoSuchType { name, known } => Self::NoSuchType { name, known },
            bad => Self::Invalid { what: "query", why: bad.to_string() },
        }
    }
}

/// Why a fold stopped. Refuses the append in whose commit it runs.
#[derive(Debug, Clone, ThisError)]
#[error("{why}")]
pub struct FoldError {
    pub(crate) why: String,
}

impl FoldError {
    /// Refuses the event, with a reason the caller of `append` sees.
    pub fn refuse(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }
}

/// Any of them, for `main` and for callers who only pass it on.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// From `open` and `create`.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// From `append`.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// From reads.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// From the disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// From codecs.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}
