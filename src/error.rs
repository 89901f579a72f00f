//! Errors, grouped by the call that can fail. Each variant calls for another reaction of the caller.
//!
//! - Messages carry names, positions and sizes, never payloads.
//! - `Display` is whole: it names the operating system's cause, once. So `source()` is `None` throughout: a report that prints a
//!   chain of sources (as `anyhow` does) repeats nothing. For code that asks, [`StorageError::io_error`] has the cause itself.
//! - [`Error`] prints the same as `Debug`, for that is what `main` prints.

use crate::order::{CommitNo, Position};
use crate::request::Append;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::panic::Location;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error as ThisError;

pub use crate::misfit::{DecodeError, LayoutError};

/// An error of the disk, of a file or of a checksum. Opaque: a caller can only stop, or `recover()`.
#[derive(Debug, Clone)]
pub struct StorageError(Arc<StorageErrorInner>);

#[derive(Debug)]
struct StorageErrorInner {
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
    /// Nothing keeps another process from writing the store, or this one must not.
    Lock,
}

impl StorageError {
    pub(crate) fn new(kind: TroubleKind, what: impl Into<String>) -> Self {
        Self(Arc::new(StorageErrorInner { kind, what: what.into(), source: None }))
    }

    pub(crate) fn caused(
        kind: TroubleKind,
        what: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(StorageErrorInner { kind, what: what.into(), source: Some(source.into()) }))
    }

    /// Prefixes the message with the name of the file that it is about.
    pub(crate) fn of(self, file: &str) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(StorageErrorInner { kind, what, source }) => {
                Self(Arc::new(StorageErrorInner { kind, what: format!("{file}: {what}"), source }))
            }
            // Somebody has it already, as it is.
            Err(shared) => Self(shared),
        }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        Self::caused(if full { TroubleKind::NoSpace } else { TroubleKind::Io }, what, source)
    }

    /// Returns whether bytes did not read back as they were written.
    pub fn is_corruption(&self) -> bool {
        matches!(self.0.kind, TroubleKind::Log | TroubleKind::State)
    }

    /// Returns whether only derived state is damaged. Nothing is lost then: `Store::recover` (or the next open) rebuilds it from
    /// the log.
    pub fn is_rebuildable(&self) -> bool {
        self.0.kind == TroubleKind::State
    }

    /// Returns whether the file that failed answers nothing any more until it is opened again.
    pub(crate) fn ends_handle(&self) -> bool {
        matches!(self.0.kind, TroubleKind::Io | TroubleKind::NoSpace)
    }

    /// Returns whether the file was closed under its reader.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.kind == TroubleKind::Closed
    }

    /// Returns the operating system's error. `None` for damage, and for what no call to it has caused.
    ///
    /// ```no_run
    /// # use tallystone::prelude::*;
    /// # fn show(error: &tallystone::error::StorageError) {
    /// match error.io_error().and_then(std::io::Error::raw_os_error) {
    ///     Some(code) => eprintln!("errno {code}"),
    ///     None => eprintln!("{error}"),
    /// }
    /// # }
    /// ```
    pub fn io_error(&self) -> Option<&io::Error> {
        let mut cause: &(dyn StdError + 'static) = &**self.0.source.as_ref()?;
        loop {
            if let Some(storage) = cause.downcast_ref::<Self>() {
                return storage.io_error();
            }
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                // One that only carries another of ours is no call that failed.
                return match error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
                    Some(storage) => storage.io_error(),
                    None => Some(error),
                };
            }
            cause = cause.source()?;
        }
    }

    /// Returns whether the lock that keeps other processes out was removed or replaced while the store was open, or this process
    /// is a fork of the one that opened it. Nothing was written. Find out who has the store now before `Store::recover`, which
    /// takes the lock again.
    pub fn is_lock_lost(&self) -> bool {
        self.0.kind == TroubleKind::Lock
    }

    /// Returns whether the disk is full, or a quota is used up.
    pub fn is_no_space(&self) -> bool {
        self.0.kind == TroubleKind::NoSpace
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        let mut told = self.0.what.clone();
        let mut cause = self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static));
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors name their cause in their own text.
            if !told.contains(&text) {
                write!(f, ": {text}")?;
                told.push_str(&text);
            }
            cause = error.source();
        }
        Ok(())
    }
}

/// Without a source: `Display` has named the cause.
impl StdError for StorageError {}

/// An item that the program or the log needs and the setup lacks, such as an event type or a projection.
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

/// An error from opening a store. Nothing was changed, unless the variant says so.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum OpenError {
    /// `open` found no store there. It never creates one; `create` does.
    #[error("no store at {}", .path.display())]
    NotFound {
        /// The path that was looked at.
        path: PathBuf,
    },
    /// `create` found something there, and touched nothing.
    #[error("something is at {} already", .path.display())]
    AlreadyExists {
        /// The path that was looked at.
        path: PathBuf,
    },
    /// Another handle, here or in another process, has the store open.
    #[error("the store at {} is open already", .path.display())]
    AlreadyOpen {
        /// The store.
        path: PathBuf,
    },
    /// Something other than a store is there: a file, a link, a foreign directory.
    #[error("{} is not a store: {why}", .path.display())]
    NotAStore {
        /// The path that was looked at.
        path: PathBuf,
        /// Description of what is there instead.
        why: String,
    },
    /// The directory may not be written: wrong permissions, or a medium that is mounted for reading only. `Store::inspect` reads
    /// it.
    #[error("the store at {} may not be written: {why}; `Store::inspect` reads it as it is", .path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
        /// The operating system's reason.
        why: String,
    },
    /// Events that were acknowledged do not read back. Restore a backup; nothing was cut or changed.
    #[error("damaged at position {position} (commit {commit}): {what}")]
    Corrupt {
        /// The first damaged event, or the one after which the damage lies.
        position: Position,
        /// The damaged commit.
        commit: CommitNo,
        /// Description of the damage.
        what: String,
    },
    /// The log lacks commits that were durable: it ends before a head that is known, or has another history there. Put the rest
    /// of the log back. Or go on without it, with [`Setup::accept_lost_tail`](crate::Setup::accept_lost_tail), which goes on
    /// record; or remove everything but `log/`, if this log is what is to be served.
    #[error("{} ends at commit {commit} (position {position}), but {known_by} knows {} commit {known_commit} (position {known_position}) to be durable: put the rest of the log back, or go on without it by `.accept_lost_tail(CommitNo::new({commit}))` in the setup", .path.display(), other(.commit, .known_commit))]
    TailLost {
        /// The log.
        path: PathBuf,
        /// Its last commit.
        commit: CommitNo,
        /// Its last event.
        position: Position,
        /// The commit that was durable.
        known_commit: CommitNo,
        /// The last event up to that.
        known_position: Position,
        /// The file that says so, or "this process".
        known_by: String,
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
    /// Of `recover` and `fork`: called on a thread that they would wait for, or inside a fold, a guard or an invariant. Call it
    /// on another thread.
    #[error("called inside {outer}, which it would wait for")]
    Nested {
        /// Name of the code that the call is inside of.
        outer: String,
    },
    /// The setup contradicts itself, or the types in the log. One sentence each.
    #[error("the setup is wrong: {}", .0.join("; "))]
    Setup(Vec<String>),
    /// The disk.
    #[error("the store could not be opened: {0}")]
    Storage(StorageError),
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// A commit that the log has too, with another history.
fn other(end: &CommitNo, known: &CommitNo) -> &'static str {
    if known <= end { "another" } else { "a later" }
}

fn join(missing: &[Missing]) -> String {
    missing.iter().map(Missing::to_string).collect::<Vec<_>>().join("; ")
}

/// The assumption that no longer held, and who changed it.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
#[error("{read}{}, was changed by the event at position {position} ({type_name} in {stream}){}", place(.read_at), work(.label))]
pub struct Conflict {
    /// The read, in words: "row 7 of `seats`".
    pub read: String,
    /// The caller's line that read it; none for the condition of an append.
    pub read_at: Option<&'static Location<'static>>,
    /// Position at which the reader stood.
    pub snapshot: Position,
    /// The event that changed it.
    pub position: Position,
    /// Its type.
    pub type_name: String,
    /// Its stream.
    pub stream: String,
    /// The commit it is part of.
    pub commit: CommitNo,
    /// The label of the request that wrote it; empty if it had none.
    pub label: String,
    /// The read holds only if nothing at all comes between: the next try has the writer held.
    pub(crate) needs_writer: bool,
}

impl Conflict {
    /// Of a read that is still to be named.
    pub(crate) fn by(
        position: Position,
        type_name: String,
        stream: String,
        commit: CommitNo,
        label: String,
    ) -> Self {
        let (read, snapshot, needs_writer) = (String::new(), Position::START, false);
        Self { read, read_at: None, snapshot, position, type_name, stream, commit, label, needs_writer }
    }
}

fn place(at: &Option<&'static Location<'static>>) -> String {
    at.map_or_else(String::new, |at| format!(", read at {}:{}", at.file(), at.line()))
}

fn work(label: &str) -> String {
    if label.is_empty() { String::new() } else { format!(", by `{label}`") }
}

fn after(events: &[Position]) -> String {
    let events: Vec<_> = events.iter().map(Position::to_string).collect();
    if events.is_empty() { String::new() } else { format!(", after the events {}", events.join(", ")) }
}

/// An error from an append, which was not acknowledged.
///
/// Nothing was written, except after [`Unknown`](Self::Unknown). A retry with the same key is always safe.
#[derive(Debug, Clone, ThisError)]
#[non_exhaustive]
pub enum AppendError {
    /// The basis of the append has changed: an event that matches its condition exists. Read again, decide again.
    #[error(transparent)]
    Conflict(Box<Conflict>),
    /// Of a transaction: its snapshot is older than the changes that are kept. Read again, decide again.
    #[error("the snapshot is too old to tell whether its rows have changed")]
    TooOld,
    /// The position is beyond the last event: it was kept for another store, or for a later copy of this one. Find out which
    /// before anything rests on it.
    #[error(
        "position {position} is beyond the last event, {head}: it is of another store, or of a later copy of this one"
    )]
    BeyondHead {
        /// The position, as it was given.
        position: Position,
        /// The last event that is there to be read.
        head: Position,
    },
    /// The stream is not at the expected version. Read again, decide again.
    #[error("stream {stream} is at version {is}, expected {expected}")]
    WrongVersion {
        /// The stream.
        stream: String,
        /// The version that the caller expected.
        expected: crate::request::Expected,
        /// Its version: the number of its events.
        is: u64,
        /// Its last event, if there is one.
        last: Option<Position>,
    },
    /// This thread is inside a transaction of the store, whose decision may be made again: append through it. Or it is inside a
    /// fold, a guard or an invariant, where no call of a store is taken: it would wait for the commit that it is part of.
    #[error("an append inside `{outer}`")]
    Nested {
        /// The label of the transaction, or what else it is inside of.
        outer: String,
    },
    /// The key was used before with another input. Correct the caller; never retry.
    #[error("this key was used with another `{part}` (commit {commit})")]
    KeyReused {
        /// The part of the fingerprint that differs.
        part: String,
        /// The commit that used the key.
        commit: CommitNo,
    },
    /// An inline projection refused the event, failed or panicked on it.
    #[error("projection `{projection}` refused event {index} of the append: {why}")]
    Fold {
        /// The projection.
        projection: &'static str,
        /// Index of the event in the append, from 0.
        index: usize,
        /// Its reason.
        why: String,
    },
    /// A guard or an invariant would be violated. Change the request, or do first what it asks for; as it is, it is refused
    /// again. A key that it has can be used again, with a corrected request.
    #[error("event {index} of the append would violate `{check}` on {key}{}", after(.events))]
    Violated {
        /// The check.
        check: String,
        /// The key of the events or rows, as people read it.
        key: String,
        /// The earlier events that matter: what was activated by them, or who last changed the rows. Empty, if what matters is
        /// that nothing came before. Those of the append itself are not among them.
        events: Vec<Position>,
        /// Index of the event in the append, from 0.
        index: usize,
    },
    /// A guard or an invariant cannot tell: it cannot read the event or a row, panicked on it, or keeps more of its key than it
    /// may. Mend the event or the code.
    #[error("`{check}` cannot tell about event {index} of the append: {why}")]
    CannotTell {
        /// The check.
        check: String,
        /// Index of the event in the append, from 0.
        index: usize,
        /// The reason.
        why: String,
    },
    /// The setup lacks this family.
    #[error("the setup lacks {0}")]
    Unregistered(Missing),
    /// Larger than `Options` allows.
    #[error("{what} has {size}, the limit is {limit}")]
    TooLarge {
        /// The item that is too large, such as `append (events)`; its unit is bytes if none is named.
        what: &'static str,
        /// Its size.
        size: u64,
        /// Its limit.
        limit: u64,
    },
    /// A name that is empty or has control characters, or an event no codec can carry.
    #[error("{what}: {why}")]
    Invalid {
        /// The invalid item, such as `event` or `key`.
        what: &'static str,
        /// The reason.
        why: String,
    },
    /// The clock is too far ahead to be believed: of what has run since it was last right, or, just opened, of the last commit.
    /// Nothing was decided. Set the clock right, or say with `Store::accept_clock` that it is; then try again.
    #[error("the clock jumped {} s ahead, the limit is {} s; set it right, or call accept_clock()", .ahead.as_secs(), .limit.as_secs())]
    ClockJumped {
        /// Time by which the clock is ahead of what it should say.
        ahead: Duration,
        /// Limit of that: `Options::clock_jump_ms_max`, or `clock_gap_ms_max`.
        limit: Duration,
    },
    /// The queue is full. The append is given back untouched; try again later.
    #[error("too many requests wait for the writer")]
    Overloaded(Box<Append>),
    /// The store is closed. The append is given back untouched.
    #[error("the store is closed")]
    Closed(Box<Append>),
    /// An earlier write failed. The append is given back untouched; `Store::recover`, then try again.
    #[error("an earlier write failed; call recover(): {cause}")]
    Poisoned {
        /// The append, untouched.
        append: Box<Append>,
        /// The failure that stopped the store.
        cause: StorageError,
    },
    /// The commit may or may not be there: its write or sync failed. `Store::recover`, then ask again with the same key.
    #[error("the outcome of the write is not known: {0}")]
    Unknown(StorageError),
    /// The disk, before anything was written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl AppendError {
    /// The same append may succeed later, without a change. After `Poisoned` and `Unknown`, `recover()` first; after
    /// `ClockJumped`, somebody has to look at the clock.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Overloaded(_) | Self::ClockJumped { .. } | Self::Poisoned { .. } | Self::Unknown(_)
        )
    }
}

/// An error from a transaction, which was not acknowledged. `E` is the domain's own refusal.
///
/// Nothing was written, except after [`Unknown`](Self::Unknown). The same from every form of store.
#[derive(Debug, Clone, ThisError)]
#[non_exhaustive]
pub enum TxError<E = Infallible> {
    /// The decision said no. Nothing is stored under the key, and a retry decides again.
    #[error("refused: {0:?}")]
    Refused(E),
    /// Something that was read has changed, and retries are used up or forbidden. Decide again.
    #[error(transparent)]
    Conflict(Box<Conflict>),
    /// The snapshot is older than the changes that are kept: it took longer than two flushes. Or a row was read that holds the
    /// time of an event of its own, and the clock was set back since. Decide again.
    #[error("the transaction's snapshot is too old")]
    TooOld,
    /// The position is beyond the last event: it was kept for another store, or for a later copy of this one. Find out which
    /// before anything rests on it.
    #[error(
        "position {position} is beyond the last event, {head}: it is of another store, or of a later copy of this one"
    )]
    BeyondHead {
        /// The position, as it was given.
        position: Position,
        /// The last event that is there to be read.
        head: Position,
    },
    /// It costs more than its budget, and the rule denies. Make it smaller.
    #[error("`{rule}`: {used}, the limit is {limit}")]
    Budget {
        /// The rule.
        rule: Rule,
        /// Amount that it used: milliseconds, operations, rows, reads or bytes, as the rule says.
        used: u64,
        /// The limit, in the same unit.
        limit: u64,
    },
    /// This thread is inside a transaction already, or inside a fold, a guard or an invariant, where no call of a store is taken.
    #[error("a transaction inside `{outer}`")]
    Nested {
        /// The label of the transaction, or what else it is inside of.
        outer: String,
    },
    /// The key was used before with another input. Correct the caller; never retry.
    #[error("this key was used with another `{part}` (commit {commit})")]
    KeyReused {
        /// The part of the fingerprint that differs.
        part: String,
        /// The commit that used the key.
        commit: CommitNo,
    },
    /// The stored answer was written with another shape of `T`. `View::answer` has its bytes.
    #[error("the stored answer of commit {commit} has another shape than the type asked for")]
    AnswerChanged {
        /// The commit that stored it.
        commit: CommitNo,
    },
    /// An inline projection refused the event, failed or panicked on it; or it made other rows of the same event, folded again on
    /// the same rows, and the transaction had read them.
    #[error("projection `{projection}` refused event {index} of the transaction: {why}")]
    Fold {
        /// The projection.
        projection: &'static str,
        /// Index of the event in the transaction, from 0.
        index: usize,
        /// Its reason.
        why: String,
    },
    /// A guard or an invariant would be violated. Decide otherwise; it is no conflict, and nothing is tried again: either what
    /// was read still holds, so that the same would be decided and refused again, or the refusal was right at the snapshot.
    #[error("event {index} of the transaction would violate `{check}` on {key}{}", after(.events))]
    Violated {
        /// The check.
        check: String,
        /// The key of the events or rows, as people read it.
        key: String,
        /// The earlier events that matter, as in [`AppendError::Violated`].
        events: Vec<Position>,
        /// Index of the event in the transaction, from 0.
        index: usize,
    },
    /// A guard or an invariant cannot tell, as in [`AppendError::CannotTell`]. Mend the event or the code.
    #[error("`{check}` cannot tell about event {index} of the transaction: {why}")]
    CannotTell {
        /// The check.
        check: String,
        /// Index of the event in the transaction, from 0.
        index: usize,
        /// The reason.
        why: String,
    },
    /// The setup lacks this family or projection.
    #[error("the setup lacks {0}")]
    Unregistered(Missing),
    /// Larger than `Options` allows.
    #[error("{what} has {size}, the limit is {limit}")]
    TooLarge {
        /// The item that is too large, such as `append (events)`; its unit is bytes if none is named.
        what: &'static str,
        /// Its size.
        size: u64,
        /// Its limit.
        limit: u64,
    },
    /// A name that is empty or has control characters, or a value no codec can carry.
    #[error("{what}: {why}")]
    Invalid {
        /// The invalid item, such as `event` or `key`.
        what: &'static str,
        /// The reason.
        why: String,
    },
    /// The clock is too far ahead to be believed: of what has run since it was last right, or, just opened, of the last commit.
    /// Nothing was decided. Set the clock right, or say with `Store::accept_clock` that it is; then try again.
    #[error("the clock jumped {} s ahead, the limit is {} s; set it right, or call accept_clock()", .ahead.as_secs(), .limit.as_secs())]
    ClockJumped {
        /// Time by which the clock is ahead of what it should say.
        ahead: Duration,
        /// Limit of that: `Options::clock_jump_ms_max`, or `clock_gap_ms_max`.
        limit: Duration,
    },
    /// A read failed for a reason of its own.
    #[error(transparent)]
    Read(ReadError),
    /// The decision went on after one of its operations had failed, and said yes: that cannot be committed. Pass faults on
    /// with `?`.
    #[error("an operation failed and its error was swallowed: {0}")]
    Swallowed(Fault),
    /// Too many wait for the writer, or one holds it for too long. Try again later.
    #[error("no turn within {} ms{}", .waited.as_millis(), held_by(.holder))]
    Overloaded {
        /// Time that it waited.
        waited: Duration,
        /// The label of the transaction that held the writer, if one did.
        holder: Option<String>,
    },
    /// The commit may or may not be there: its write or sync failed. `Store::recover`, then ask again with the same key.
    #[error("the outcome of the write is not known: {0}")]
    Unknown(StorageError),
    /// An earlier write failed. `Store::recover`, then try again.
    #[error("an earlier write failed; call recover(): {0}")]
    Poisoned(StorageError),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The disk, before anything was written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn held_by(label: &Option<String>) -> String {
    label.as_ref().map_or_else(String::new, |label| format!(", while `{label}` held the writer"))
}

impl<E> TxError<E> {
    /// The same transaction may succeed later, without a change. After `Poisoned` and `Unknown`, `recover()` first; after
    /// `ClockJumped`, somebody has to look at the clock.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Conflict(_)
                | Self::TooOld
                | Self::Overloaded { .. }
                | Self::ClockJumped { .. }
                | Self::Poisoned(_)
                | Self::Unknown(_)
        )
    }

    /// The domain's refusal, if that is what it is.
    pub fn refused(&self) -> Option<&E> {
        match self {
            Self::Refused(why) => Some(why),
            _ => None,
        }
    }

    /// Puts another domain's refusal into the caller's words.
    pub fn map_refusal<F>(self, map: impl FnOnce(E) -> F) -> TxError<F> {
        match self {
            Self::Refused(why) => TxError::Refused(map(why)),
            Self::Conflict(conflict) => TxError::Conflict(conflict),
            Self::TooOld => TxError::TooOld,
            Self::BeyondHead { position, head } => TxError::BeyondHead { position, head },
            Self::Budget { rule, used, limit } => TxError::Budget { rule, used, limit },
            Self::Nested { outer } => TxError::Nested { outer },
            Self::KeyReused { part, commit } => TxError::KeyReused { part, commit },
            Self::AnswerChanged { commit } => TxError::AnswerChanged { commit },
            Self::Fold { projection, index, why } => TxError::Fold { projection, index, why },
            Self::Violated { check, key, events, index } => TxError::Violated { check, key, events, index },
            Self::CannotTell { check, index, why } => TxError::CannotTell { check, index, why },
            Self::Unregistered(missing) => TxError::Unregistered(missing),
            Self::TooLarge { what, size, limit } => TxError::TooLarge { what, size, limit },
            Self::Invalid { what, why } => TxError::Invalid { what, why },
            Self::ClockJumped { ahead, limit } => TxError::ClockJumped { ahead, limit },
            Self::Read(error) => TxError::Read(error),
            Self::Swallowed(fault) => TxError::Swallowed(fault),
            Self::Overloaded { waited, holder } => TxError::Overloaded { waited, holder },
            Self::Unknown(cause) => TxError::Unknown(cause),
            Self::Poisoned(cause) => TxError::Poisoned(cause),
            Self::Closed => TxError::Closed,
            Self::Storage(error) => TxError::Storage(error),
        }
    }
}

impl<E> From<AppendError> for TxError<E> {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict(conflict) => Self::Conflict(conflict),
            AppendError::TooOld => Self::TooOld,
            AppendError::BeyondHead { position, head } => Self::BeyondHead { position, head },
            // A transaction expects no version: what it read is its condition.
            error @ AppendError::WrongVersion { .. } => {
                Self::Invalid { what: "transaction", why: error.to_string() }
            }
            AppendError::Nested { outer } => Self::Nested { outer },
            AppendError::KeyReused { part, commit } => Self::KeyReused { part, commit },
            AppendError::Fold { projection, index, why } => Self::Fold { projection, index, why },
            AppendError::Violated { check, key, events, index } => {
                Self::Violated { check, key, events, index }
            }
            AppendError::CannotTell { check, index, why } => Self::CannotTell { check, index, why },
            AppendError::Unregistered(missing) => Self::Unregistered(missing),
            AppendError::TooLarge { what, size, limit } => Self::TooLarge { what, size, limit },
            AppendError::Invalid { what, why } => Self::Invalid { what, why },
            AppendError::ClockJumped { ahead, limit } => Self::ClockJumped { ahead, limit },
            AppendError::Overloaded(_) => Self::Overloaded { waited: Duration::ZERO, holder: None },
            AppendError::Closed(_) => Self::Closed,
            AppendError::Poisoned { cause, .. } => Self::Poisoned(cause),
            AppendError::Unknown(cause) => Self::Unknown(cause),
            AppendError::Storage(error) => Self::Storage(error),
        }
    }
}

impl<E> From<ReadError> for TxError<E> {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unregistered(missing) => Self::Unregistered(missing),
            ReadError::Invalid { what, why } => Self::Invalid { what, why },
            ReadError::ViewExpired { .. } => Self::TooOld,
            ReadError::BeyondHead { position, head } => Self::BeyondHead { position, head },
            ReadError::Nested { outer } => Self::Nested { outer },
            ReadError::Closed => Self::Closed,
            ReadError::Storage(error) => Self::Storage(error),
            error => Self::Read(error),
        }
    }
}

/// An operation of a transaction failed, and the transaction is over. Pass it on with `?`: it knows the cause.
#[derive(Debug, Clone, ThisError)]
#[error("{0}")]
pub struct Fault(Arc<TxError>);

impl Fault {
    pub(crate) fn new(cause: impl Into<TxError>) -> Self {
        Self(Arc::new(cause.into()))
    }

    /// Returns the cause.
    pub fn cause(&self) -> &TxError {
        &self.0
    }
}

impl<E> From<Fault> for TxError<E> {
    fn from(fault: Fault) -> Self {
        (*fault.0).clone().map_refusal(|never| match never {})
    }
}

/// A rule of a transaction's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Its own time, in milliseconds: waiting for the writer and the disk is not counted.
    Time,
    /// The time of one operation, in milliseconds.
    SlowOperation,
    /// Operations.
    Operations,
    /// Work that must never run inside a transaction: calls to the network, mail, jobs, other databases.
    OutsideCall,
    /// A transaction of another store inside this one.
    OtherStore,
    /// Rows or events read by one operation.
    Scan,
    /// Reads that are conditions of the commit.
    Reads,
    /// Bytes to be written.
    Bytes,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Time => "time of a transaction (ms)",
            Self::SlowOperation => "time of an operation (ms)",
            Self::Operations => "operations of a transaction",
            Self::OutsideCall => "outside call in a transaction",
            Self::OtherStore => "transaction of another store in a transaction",
            Self::Scan => "rows or events in one operation",
            Self::Reads => "reads of a transaction",
            Self::Bytes => "bytes of a transaction",
        })
    }
}

/// An error from a read.
#[derive(Debug, Clone, ThisError)]
#[non_exhaustive]
pub enum ReadError {
    /// The setup lacks this projection or family.
    #[error("the setup lacks {0}")]
    Unregistered(Missing),
    /// A query names a type its family does not have.
    #[error("no event type `{name}`; there are {}", .known.join(", "))]
    NoSuchType {
        /// The name, as it was written.
        name: String,
        /// Names of the event types that the family has.
        known: Vec<String>,
    },
    /// The position is beyond the last event: it was kept for another store, or for a later copy of this one. Find out which
    /// before anything rests on it.
    #[error(
        "position {position} is beyond the last event, {head}: it is of another store, or of a later copy of this one"
    )]
    BeyondHead {
        /// The position, as it was given.
        position: Position,
        /// The last event that is there to be read.
        head: Position,
    },
    /// The projection's code failed on an event, when its rows were folded again or behind the writer. Mend the code and open
    /// again; raise its version if rows folded before would come out otherwise.
    #[error("projection `{projection}` is stalled at position {position}: {why}")]
    Stalled {
        /// The projection.
        projection: &'static str,
        /// The event it failed on.
        position: Position,
        /// Its reason.
        why: String,
    },
    /// The projection had not folded the position when the time was over. It goes on; wait again.
    #[error("projection `{projection}` is at position {at}, not yet at {wanted}")]
    Behind {
        /// The projection.
        projection: &'static str,
        /// Position up to which it has folded.
        at: Position,
        /// Position that was waited for.
        wanted: Position,
    },
    /// The projection is folded from the first commit, because it is new, changed or its file was damaged, and cannot be read
    /// until it has caught up.
    #[error("projection `{projection}` is being rebuilt: at position {at} of {of}")]
    Rebuilding {
        /// The projection.
        projection: &'static str,
        /// Position up to which it has folded.
        at: Position,
        /// Position that it must reach.
        of: Position,
    },
    /// The view is older than `view_age_ms_max`, and was let go; or what it looks at was rebuilt in another file. Take a new one.
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
        /// The reason.
        cause: DecodeError,
    },
    /// A key or name that cannot be one.
    #[error("{what}: {why}")]
    Invalid {
        /// The invalid item, such as `query` or `row key`.
        what: &'static str,
        /// The reason.
        why: String,
    },
    /// Called inside a fold, a guard or an invariant, whose result is a function of events and rows alone; or inside the progress
    /// of a call that it would wait for.
    #[error("a read inside {outer}")]
    Nested {
        /// Name of the code that the call is inside of.
        outer: String,
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

/// An error from [`Store::skip`](crate::Store::skip): the projection does not pass over the event. Nothing was changed, unless an
/// [`AppendError`] says that it is not known.
#[derive(Debug, Clone, ThisError)]
#[non_exhaustive]
pub enum SkipError {
    /// The projection has not stalled at that event.
    #[error("projection `{projection}` has not stalled at position {asked}{}", stalled_at(.at))]
    NotStalled {
        /// The projection.
        projection: &'static str,
        /// The event it has stalled at; `None` if it has not stalled.
        at: Option<Position>,
        /// The event that was to be passed over.
        asked: Position,
    },
    /// No projection behind the writer.
    #[error("the setup lacks {0}")]
    Unregistered(Missing),
    /// It has no reason.
    #[error("{what}: {why}")]
    Invalid {
        /// The invalid item.
        what: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// It could not be put on record.
    #[error(transparent)]
    Append(#[from] AppendError),
}

fn stalled_at(at: &Option<Position>) -> String {
    at.map_or_else(|| ": it has not stalled".to_owned(), |at| format!(", but at {at}"))
}

/// An error from a fold, which stops it and refuses the append in whose commit it runs.
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

/// Any of them, for `main` and for callers who only pass it on. Its `Debug` is its message.
///
/// A domain's refusal does not become one by `?`: it is an answer that the caller has to look at. So a decision that refuses
/// nothing needs no annotation, and [`TxError::into_error`] is there for the other.
#[derive(ThisError)]
#[non_exhaustive]
pub enum Error {
    /// From `open` and `create`.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// From `append`.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// From `transact` and `commit`; a refusal of the domain in words.
    #[error(transparent)]
    Tx(TxError<Refusal>),
    /// From an operation of a transaction.
    #[error(transparent)]
    Fault(#[from] Fault),
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

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A domain's refusal, in the words of its `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// Only for what refuses nothing. With an implementation for every `E`, nothing would say which `E` a closure that ends in
// `Ok(())` has, and `transact(..)?` would need a type that means nothing.
impl From<TxError> for Error {
    fn from(error: TxError) -> Self {
        Self::Tx(error.map_refusal(|never| match never {}))
    }
}

impl<E: fmt::Debug> TxError<E> {
    /// Turns it into an [`Error`], a refusal in words: for `main`, and for callers who only pass it on.
    ///
    /// ```
    /// # use tallystone::prelude::*;
    /// # use tallystone::transaction::refuse;
    /// # #[derive(Debug)]
    /// # struct Full { places: u32 }
    /// let store = Store::in_memory(Setup::new())?;
    /// let full = store.transact("seat", |_| refuse::<(), _>(Full { places: 0 }));
    /// let error = full.map_err(TxError::into_error).unwrap_err();
    /// assert_eq!(error.to_string(), "refused: Full { places: 0 }");
    /// # Ok::<(), Error>(())
    /// ```
    pub fn into_error(self) -> Error {
        Error::Tx(self.map_refusal(|why| Refusal(format!("{why:?}"))))
    }
}
