//! Evidence that is not ours: rows of a source outside the store, pulled now and then and compared with rows of its own.
//!
//! - Snapshots are recorded, so the verdicts on them are a function of the log, as all others are.
//! - Both sides are compared, both ways: a row that the source has and we have not counts like one that we have alone.
//! - A source that cannot be read proves nothing. It becomes old, and that is a finding of its own.

use super::columns::{self, Column};
use super::glance::Glance;
use super::lens::{Lens, Looked};
use super::rows::{Rowed, rowed};
use super::word::{Amount, Roles, Rule, Seen, Time};
use super::{About, Check, Clocked, Described, Fault, micros, time_of};
use crate::codec;
use crate::error::{DecodeError, LayoutError};
use crate::event::{Event, Family};
use crate::key::{self, Key};
use crate::layout::{self, Layout, Samples};
use crate::own::Own;
use crate::projection::{Folded, Projection, Registered};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::TypeId;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A source of rows outside the store: a file, a table, a service. It is called on a thread of its own.
///
/// A source that says no times is good enough: when a row was seen first follows from the snapshots. [`crate::outside`] has
/// sources for files, and for the rows of another store.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tallystone::check::{Outside, PullError, Pulled};
///
/// #[derive(Serialize, Deserialize, Clone, PartialEq)]
/// struct Invoice { cents: u64 }
///
/// struct Ledger;
/// impl Outside for Ledger {
///     type Key = u32;
///     type Row = Invoice;
///     fn pull(&self) -> Result<Pulled<u32, Invoice>, PullError> {
///         let body = "7 500\n8 900"; // what a service answered
///         let row = |line: &str| {
///             let (product, cents) = line.split_once(' ')?;
///             Some((product.parse().ok()?, Invoice { cents: cents.parse().ok()? }))
///         };
///         let rows: Option<Vec<_>> = body.lines().map(row).collect();
///         rows.map(Pulled::new).ok_or_else(|| PullError::Unreachable("the answer cannot be read".into()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a source outside",
    label = "a source has `impl Outside`",
    note = "there are `outside::CsvFile`, `JsonLines` and `SqliteQuery`, each with a feature of its own, and `outside::rows_of`"
)]
pub trait Outside: Send + Sync + 'static {
    /// Key of a row: that of the rows it is compared with.
    type Key: Key;
    /// A row, as far as it is compared. Rows that are equal are not recorded again.
    type Row: Serialize + DeserializeOwned + PartialEq + Clone + Send + Sync + 'static;

    /// Reads all of it: one snapshot, in any order.
    ///
    /// # Errors
    ///
    /// Any failure that keeps the snapshot from being whole. Nothing of it is used then, and the next period tries again.
    fn pull(&self) -> Result<Pulled<Self::Key, Self::Row>, PullError>;

    /// Reads these rows again: they disagree, and that is not on record yet. `None`: there is no such row.
    ///
    /// By default, all of it is pulled again if anything disagrees: write one if that is expensive. A source that says its
    /// columns says those of this reading, too.
    ///
    /// # Errors
    ///
    /// As [`pull`](Self::pull).
    fn again(&self, keys: &[Self::Key]) -> Result<Pulled<Self::Key, Option<Self::Row>>, PullError> {
        let Pulled { as_of, columns, rows } = self.pull()?;
        let mut rows: BTreeMap<_, _> = rows.into_iter().collect();
        Ok(Pulled { as_of, columns, rows: keys.iter().map(|key| (key.clone(), rows.remove(key))).collect() })
    }

    /// Returns whether a snapshot may have no rows. If not, an empty one is taken for a mistake: see [`Compared::may_be_empty`].
    fn may_be_empty(&self) -> bool {
        false
    }

    /// Returns hashes of ranges of keys, for a large source that can tell cheaply what has changed. Then only ranges with a new
    /// hash are read, by [`pull_range`](Self::pull_range), and never all by [`pull`](Self::pull).
    ///
    /// # Errors
    ///
    /// As [`pull`](Self::pull).
    fn ranges(&self) -> Result<Option<Ranges<Self::Key>>, PullError> {
        Ok(None)
    }

    /// Reads the rows of a range, and their hash, in one go: a hash of other rows would hide a change.
    ///
    /// # Errors
    ///
    /// As [`pull`](Self::pull).
    fn pull_range(&self, range: KeyRange<'_, Self::Key>) -> Result<RangeRows<Self>, PullError> {
        let _ = range;
        Err(PullError::Unreachable("it has ranges, and does not read them".into()))
    }
}

/// A range of keys: all of those of a source lie in one.
pub type KeyRange<'a, K> = (Bound<&'a K>, Bound<&'a K>);

/// The hash of a range, and its rows.
pub type RangeRows<O> = (u64, Vec<(<O as Outside>::Key, <O as Outside>::Row)>);

/// Hashes of the ranges of a source, as they are now.
///
/// ```
/// use tallystone::check::Ranges;
///
/// // Two ranges: keys below 1000, and the others.
/// let ranges = Ranges::new(vec![(0_u32, 0x3f2a), (1000, 0x91c4)]);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ranges<K> {
    /// As in [`Pulled`].
    pub as_of: Option<SystemTime>,
    /// Columns of the rows, as in [`Pulled`].
    pub columns: Vec<Column>,
    /// Start of each range, in order, and its hash: any value that changes if a row of it changes, comes or goes. The first range
    /// holds all keys below it, too.
    pub hashes: Vec<(K, u64)>,
}

impl<K> Ranges<K> {
    /// Creates ranges that were hashed since the pull began.
    pub fn new(hashes: Vec<(K, u64)>) -> Self {
        Self { as_of: None, columns: Vec::new(), hashes }
    }

    /// Says which columns the source has, as [`Pulled::columns`] does.
    pub fn columns(mut self, columns: impl IntoIterator<Item = Column>) -> Self {
        self.columns = columns.into_iter().collect();
        self
    }

    /// As [`Pulled::as_of`].
    pub fn as_of(mut self, time: SystemTime) -> Self {
        self.as_of = Some(time);
        self
    }
}

/// A snapshot of a source.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pulled<K, R> {
    /// A time before the first of the rows was read. `None`: the time at which the pull began, which is right for code that
    /// reads the source itself.
    pub as_of: Option<SystemTime>,
    /// Columns of the rows, as the source has them now. Empty: it does not say.
    pub columns: Vec<Column>,
    /// All rows, each key once.
    pub rows: Vec<(K, R)>,
}

impl<K, R> Pulled<K, R> {
    /// Creates a snapshot of rows that were all read since the pull began.
    pub fn new(rows: Vec<(K, R)>) -> Self {
        Self { as_of: None, columns: Vec::new(), rows }
    }

    /// Says which columns the source has, read together with the rows. They go on record. A later snapshot in which one is gone or
    /// has another type is refused, until it is back or [accepted](crate::watch::Checks::accept_source); an added one is recorded.
    pub fn columns(mut self, columns: impl IntoIterator<Item = Column>) -> Self {
        self.columns = columns.into_iter().collect();
        self
    }

    /// Sets an earlier time of the rows: that of an export or a lagging replica. One ahead of the store's clock is not believed.
    pub fn as_of(mut self, time: SystemTime) -> Self {
        self.as_of = Some(time);
        self
    }
}

/// Reason why a source could not be read. None of its rows is used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// It is not there, or does not answer.
    #[error("it cannot be read: {0}")]
    Unreachable(String),
    /// It is being written: half of it would have been read.
    #[error("it is not finished: {0}")]
    Unfinished(String),
    /// One of its rows is not what the type says.
    #[error("{place}: {why}")]
    Row {
        /// Place of the row: a line of a file, or a row of an answer, from 1.
        place: String,
        /// Reason.
        why: String,
    },
    /// Two rows have one key.
    #[error("two rows have the key {0}")]
    Twice(String),
    /// A row or its key is larger than `Options` allows.
    #[error("{what} of {key} has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// `row` or `key`.
        what: &'static str,
        /// Key of the row.
        key: String,
        /// Its size, in bytes.
        size: usize,
        /// Maximum size, in bytes.
        limit: usize,
    },
    /// It has fewer rows than it must have: see [`Compared::at_least`].
    #[error("it has {rows} rows, at least {at_least} are expected")]
    TooFew {
        /// Number of rows it has.
        rows: u64,
        /// Number of rows it must have.
        at_least: u64,
    },
    /// Columns that are on record are gone, or have another type. Code that reads them would find their values missing.
    ///
    /// Have them put back, or accept the new ones with [`Checks::accept_source`](crate::watch::Checks::accept_source). A row type
    /// with another layout, or another id of the check, begins anew.
    #[error(
        "its columns are not those on record: {}: put them back, or accept them with `accept_source`",
        columns::difference(gone, changed, added)
    )]
    Columns {
        /// Columns that it has no more.
        gone: Vec<String>,
        /// Columns of another type: name, type on record, type now.
        changed: Vec<(String, String, String)>,
        /// Columns that are not on record.
        added: Vec<String>,
    },
    /// It has far fewer rows than the snapshot before it: half an export, or a table that was emptied by mistake.
    ///
    /// It is believed again when the rows are back. If it may shrink so, say [`Compared::shrinks_to`], or accept it once with
    /// [`Checks::accept_source`](crate::watch::Checks::accept_source).
    #[error(
        "{what} shrank from {from} rows to {to}: if that may be, say `shrinks_to` or `may_be_empty`, or accept it once with `accept_source`"
    )]
    Shrunk {
        /// `it`, or one of its ranges.
        what: String,
        /// Rows of the last snapshot that counted.
        from: u64,
        /// Rows of this one.
        to: u64,
    },
    /// Its first snapshot has no rows, and ours would all be wrong: a header without an export, or an empty table.
    #[error(
        "it has no rows, and that disagrees with ours: if it may have none, say `may_be_empty`, or accept it once with `accept_source`"
    )]
    Empty,
    /// It is of a time before that of the snapshot before it: an old export, say.
    #[error("it is older than the snapshot before it")]
    Older,
    /// Its code panicked, or that of the comparison.
    #[error("panicked: {0}")]
    Panicked(String),
}

impl PullError {
    /// Returns the name of its kind.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Unfinished(_) => "unfinished",
            Self::Row { .. } => "row",
            Self::Twice(_) => "twice",
            Self::TooLarge { .. } => "too large",
            Self::TooFew { .. } => "too few",
            Self::Columns { .. } => "columns",
            Self::Shrunk { .. } | Self::Empty => "shrunk",
            Self::Older => "older",
            Self::Panicked(_) => "panicked",
        }
    }
}

// ---- types erased ----

/// Rows by the ordered bytes of their keys.
pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Start of a range, and the hash of its rows.
pub(crate) type Hashed = (Vec<u8>, u64);

/// Data that was read of a source, with the time and columns that it reports.
pub(crate) struct Shown<T> {
    /// Snapshot time reported by the source.
    pub said: Option<SystemTime>,
    pub columns: Vec<Column>,
    pub of: T,
}

/// A source of bytes.
pub(crate) trait Source: Send + Sync {
    fn pull(&self) -> Result<Shown<Rows>, PullError>;

    /// Returns its ranges. `None`: it has none.
    fn ranges(&self) -> Result<Option<Shown<Vec<Hashed>>>, PullError>;

    /// Reads the rows of a range, by the key bytes of its start and of the next one's. `None`: it is the first, or the last.
    fn pull_range(&self, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<(u64, Rows), PullError>;

    /// Reads the rows of these keys again. Returns those keys that the source answers for.
    fn again(&self, keys: &[Vec<u8>]) -> Result<Shown<Vec<(Vec<u8>, Option<Vec<u8>>)>>, PullError>;

    /// Returns whether a snapshot may have no rows.
    fn may_be_empty(&self) -> bool;

    /// Returns whether two rows are equal, by their bytes or their values.
    fn is_same(&self, one: &[u8], other: &[u8]) -> bool;

    fn key_text(&self, key: &[u8]) -> String;
}

/// A source, its types erased.
struct TypedSource<O>(O);

impl<O: Outside> Source for TypedSource<O> {
    fn pull(&self) -> Result<Shown<Rows>, PullError> {
        let Pulled { as_of, columns, rows } = self.0.pull()?;
        columns::check_names::<O::Row>(&columns)?;
        Ok(Shown { said: as_of, columns, of: bytes_of(&rows)? })
    }

    fn ranges(&self) -> Result<Option<Shown<Vec<Hashed>>>, PullError> {
        let Some(Ranges { as_of, columns, hashes }) = self.0.ranges()? else { return Ok(None) };
        columns::check_names::<O::Row>(&columns)?;
        let mut ranges: Vec<Hashed> = Vec::with_capacity(hashes.len());
        for (index, (key, hash)) in hashes.iter().enumerate() {
            let from = key_bytes(key, index)?;
            if ranges.last().is_some_and(|(before, _)| *before >= from) {
                let place = format!("range {}", index + 1);
                return Err(PullError::Row { place, why: "it does not begin behind the one before".into() });
            }
            ranges.push((from, *hash));
        }
        Ok(Some(Shown { said: as_of, columns, of: ranges }))
    }

    fn pull_range(&self, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<(u64, Rows), PullError> {
        let typed = |bytes: Option<&[u8]>| bytes.map(key::decode::<O::Key>).transpose();
        let typed = typed(from).and_then(|from| Ok((from, typed(to)?)));
        let (first, next) = typed.map_err(|error| misfit("a range".into(), &error))?;
        let range = (
            first.as_ref().map_or(Bound::Unbounded, Bound::Included),
            next.as_ref().map_or(Bound::Unbounded, Bound::Excluded),
        );
        let (hash, rows) = self.0.pull_range(range)?;
        let all = bytes_of(&rows)?;
        let is_in = |key: &[u8]| from.is_none_or(|from| from <= key) && to.is_none_or(|to| key < to);
        match all.keys().find(|key| !is_in(key)) {
            Some(astray) => {
                let place = format!("the row of {}", self.key_text(astray));
                Err(PullError::Row { place, why: "it is not of the range that was asked for".into() })
            }
            None => Ok((hash, all)),
        }
    }

    fn again(&self, keys: &[Vec<u8>]) -> Result<Shown<Vec<(Vec<u8>, Option<Vec<u8>>)>>, PullError> {
        let typed: Result<Vec<O::Key>, _> = keys.iter().map(|key| key::decode(key)).collect();
        let typed = typed.map_err(|error| misfit("a key".into(), &error))?;
        let Pulled { as_of, columns, rows } = self.0.again(&typed)?;
        let read = |(index, (key, row)): (usize, &(O::Key, Option<O::Row>))| {
            let row = row.as_ref().map(|row| row_bytes(key, row)).transpose()?;
            Ok((key_bytes(key, index)?, row))
        };
        let of: Result<_, PullError> = rows.iter().enumerate().map(read).collect();
        Ok(Shown { said: as_of, columns, of: of? })
    }

    fn may_be_empty(&self) -> bool {
        self.0.may_be_empty()
    }

    fn is_same(&self, one: &[u8], other: &[u8]) -> bool {
        // Compare bytes first: a row with a NaN never equals itself as a value. Compare values too: a hash map has no fixed order
        // in bytes.
        let decode = |bytes| codec::decode::<O::Row>(bytes).ok();
        one == other || decode(one).zip(decode(other)).is_some_and(|(one, other)| one == other)
    }

    fn key_text(&self, key: &[u8]) -> String {
        key::decode::<O::Key>(key).map_or_else(|_| "a key".to_owned(), |key| text(&key))
    }
}

fn bytes_of<K: Key, R: Serialize>(rows: &[(K, R)]) -> Result<Rows, PullError> {
    let mut all = Rows::new();
    for (index, (key, row)) in rows.iter().enumerate() {
        match all.entry(key_bytes(key, index)?) {
            Entry::Occupied(_) => return Err(PullError::Twice(text(key))),
            Entry::Vacant(vacant) => vacant.insert(row_bytes(key, row)?),
        };
    }
    Ok(all)
}

/// Maximum length of a key in a message, in bytes.
const KEY_TEXT_BYTES_MAX: usize = 128;

fn text<K: Key>(key: &K) -> String {
    let text = key::text(key).unwrap_or_else(|_| "a key".to_owned());
    match cut(&text, KEY_TEXT_BYTES_MAX) {
        all if all.len() == text.len() => text,
        begin => format!("{begin}…"),
    }
}

/// Cuts a text to at most this many bytes, at a character's end.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
    &text[..ends.take_while(|end| *end <= bytes_max).last().unwrap_or(0)]
}

fn key_bytes<K: Key>(key: &K, index: usize) -> Result<Vec<u8>, PullError> {
    let mut bytes = Vec::new();
    key::encode(key, &mut bytes).map_err(|error| misfit(format!("row {}: its key", index + 1), &error))?;
    Ok(bytes)
}

fn row_bytes<K: Key, R: Serialize>(key: &K, row: &R) -> Result<Vec<u8>, PullError> {
    codec::encode(row).map_err(|error| misfit(format!("the row of {}", text(key)), &error))
}

fn misfit(place: String, error: &DecodeError) -> PullError {
    PullError::Row { place, why: error.to_string() }
}

/// The rows of a source, as one of the tables that a check looks at. It is filled from snapshots, and folds nothing.
struct SourceTable<O>(PhantomData<fn() -> O>);

impl<O: Outside> Projection for SourceTable<O> {
    const NAME: &'static str = "the source";
    type Event = Own;
    type Key = O::Key;
    type Row = O::Row;

    fn fold(_: &Own, _: &mut crate::projection::Rows<'_, Self>) -> Folded {
        Ok(())
    }
}

// ---- declared ----

/// Number of rows from which on a shrunk snapshot is not believed: of fewer, half may go any day.
const FEW_ROWS: u64 = 10;

/// A source that a check compares its rows with, and its settings.
pub(crate) struct Evidence {
    pub source: Arc<dyn Source>,
    /// Predicate: true if a row of ours and one of theirs disagree.
    pub rowed: Arc<dyn Rowed>,
    /// The projection whose rows it is compared with.
    pub ours: Registered,
    /// Hash of the types of its keys and rows, and the table's id: rows recorded under another shape are not read.
    pub shape: [u8; 4],
    /// The source's own type.
    pub type_id: TypeId,
    pub every: Duration,
    pub stale_after: Option<Duration>,
    pub at_least: u64,
    /// Part of the rows before that a snapshot must have: from 0 to 1.
    pub shrinks_to: f64,
    pub may_be_empty: bool,
    /// Faults of its types, by field.
    faults: Vec<(&'static str, String)>,
}

impl Evidence {
    /// Returns how long a snapshot is believed.
    pub fn fresh_for(&self) -> Duration {
        // Allow two pulls to fail, and the third to be late.
        self.stale_after.unwrap_or(self.every.saturating_mul(3))
    }

    /// Compares the rows of a snapshot with those of the last one that counted. `disagrees`: some of ours would be wrong.
    ///
    /// # Errors
    ///
    /// `PullError::Shrunk` or `Empty`: it is not to be believed.
    pub fn check_len(&self, before: Option<u64>, len: u64, disagrees: bool) -> Result<(), PullError> {
        let may_be_empty = self.may_be_empty || self.shrinks_to == 0.0 || self.source.may_be_empty();
        match before {
            _ if len == 0 && may_be_empty => Ok(()),
            None if len == 0 && disagrees => Err(PullError::Empty),
            Some(from) if self.is_shrunk(from, len) || (len == 0 && from > 0) => {
                Err(PullError::Shrunk { what: "it".into(), from, to: len })
            }
            _ => Ok(()),
        }
    }

    /// Returns whether there are fewer rows than the bound allows. Of few rows any part may go.
    pub fn is_shrunk(&self, from: u64, to: u64) -> bool {
        from >= FEW_ROWS && (to as f64) < from as f64 * self.shrinks_to
    }

    pub fn faults(&self, check: &str) -> Vec<Fault> {
        let typed = self.faults.iter().map(|(field, why)| Fault::new(check, field, why.clone()));
        let mut faults: Vec<_> = typed.collect();
        if self.every.is_zero() {
            faults.push(Fault::new(check, "every", "it is 0: name a time between two pulls"));
        }
        if self.fresh_for() <= self.every {
            let why = "it is not longer than the time between two pulls: the evidence would always be old";
            faults.push(Fault::new(check, "stale_after", why));
        }
        if !(0.0..=1.0).contains(&self.shrinks_to) {
            let why = "it is a part of the rows before: name a number from 0 to 1";
            faults.push(Fault::new(check, "shrinks_to", why));
        }
        faults
    }
}

impl About {
    /// Requires that rows of a projection agree with those of a source outside: if either side has a row, `agree` holds.
    ///
    /// Say for how long they may disagree: a change reaches the other side some time later. Only a complete snapshot that was
    /// read after that time makes a violation, so the window is that of the other system's delay, and need not count the time
    /// between two pulls.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use std::time::Duration;
    /// # use tallystone::check::{About, Severity};
    /// # use tallystone::outside;
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # enum Billing { Started { product: u32, cents: u64 }, Ended { product: u32 } }
    /// # impl Event for Billing {
    /// #     const FAMILY: &str = "billing";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 { let (Self::Started { product, .. } | Self::Ended { product }) = self; *product }
    /// # }
    /// # struct Bills;
    /// # impl Projection for Bills {
    /// #     const NAME: &str = "bills";
    /// #     type Event = Billing;
    /// #     type Key = u32;
    /// #     type Row = u64;
    /// #     fn fold(event: &Billing, rows: &mut Rows<Self>) -> Folded {
    /// #         match event {
    /// #             Billing::Started { product, cents } => rows.put(*product, *cents),
    /// #             Billing::Ended { product } => rows.remove(product),
    /// #         }
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Error> {
    /// let invoices = Store::in_memory(Setup::new().inline::<Bills>())?;
    /// let agree = About {
    ///     id: "invoices-agree",
    ///     severity: Severity::Ticket,
    ///     owner: "payments",
    ///     means: "Invoices and bills differ.",
    ///     remedy: "1 trust the contract; 2 correct the other",
    /// }
    /// .outside::<Bills, _>(outside::rows_of::<Bills>(&invoices), |ours, theirs| ours == theirs)
    /// .every(Duration::from_secs(60))
    /// .for_longer_than(Duration::from_secs(15 * 60));
    ///
    /// let store = Store::in_memory(Setup::new().inline::<Bills>().check(agree))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn outside<P: Projection, O: Outside<Key = P::Key>>(
        self,
        evidence: O,
        agree: impl Fn(Option<&P::Row>, Option<&O::Row>) -> bool + Send + Sync + 'static,
    ) -> Compared {
        let mut faults = Vec::new();
        let mut layout = |field, layout: Result<Layout, LayoutError>| {
            faults.extend(layout.err().map(|error| (field, error.to_string())));
        };
        let given = Samples::of(&P::samples());
        layout("key", Layout::with_samples::<O::Key>(&given));
        layout("row", Layout::with_samples::<O::Row>(&given));
        if let Err(error) = layout::check_key::<O::Key>(&given) {
            faults.push(("key", error.to_string()));
        }
        let differ = move |_: &O::Key, (ours, theirs): (Option<&P::Row>, Option<&O::Row>)| {
            (ours.is_some() || theirs.is_some()) && !agree(ours, theirs)
        };
        Compared {
            about: self.into(),
            evidence: Evidence {
                source: Arc::new(TypedSource(evidence)),
                rowed: Arc::new(rowed::<(P, SourceTable<O>)>(differ)),
                ours: Registered::of::<P>(),
                shape: Registered::of::<SourceTable<O>>().id,
                type_id: TypeId::of::<O>(),
                every: Duration::from_secs(5 * 60),
                stale_after: None,
                at_least: 0,
                shrinks_to: 0.5,
                may_be_empty: false,
                faults,
            },
        }
    }
}

/// Rows and a source that are to agree. It becomes a check with [`for_longer_than`](Self::for_longer_than).
#[must_use = "say `for_longer_than`"]
pub struct Compared {
    about: Described,
    evidence: Evidence,
}

impl Compared {
    /// Sets the time between two pulls. Default 5 minutes. Each pull is an event, and one more for what changed.
    pub fn every(mut self, period: Duration) -> Self {
        self.evidence.every = period;
        self
    }

    /// Sets the maximum age of the last snapshot. Default three periods. Evidence that is older proves nothing: the check finds
    /// no violation any more, and the check `ID.fresh`, which comes with it, does.
    pub fn stale_after(mut self, age: Duration) -> Self {
        self.evidence.stale_after = Some(age);
        self
    }

    /// Sets the minimum number of rows, default 0. One with fewer is not believed: half an export, or a table emptied by mistake.
    pub fn at_least(mut self, rows: u64) -> Self {
        self.evidence.at_least = rows;
        self
    }

    /// Sets the part of the rows before that a snapshot must have, from 0 to 1. Default 0.5. One with fewer is not believed: it
    /// is a finding, `ID.fresh`, until the rows are back or somebody [accepts](crate::watch::Checks::accept_source) it.
    ///
    /// If there were fewer than 10 rows before, only an empty snapshot counts. Of a source with [ranges](Outside::ranges) the
    /// same holds for each range that is read again. 0: it may shrink to nothing.
    pub fn shrinks_to(mut self, part: f64) -> Self {
        self.evidence.shrinks_to = part;
        self
    }

    /// Allows a snapshot without rows. Without it, an empty one is not believed after one with rows, nor as the first one if
    /// rows of ours would disagree with it.
    pub fn may_be_empty(mut self) -> Self {
        self.evidence.may_be_empty = true;
        self
    }

    /// Sets how long they may disagree, inclusive.
    pub fn for_longer_than(self, window: Duration) -> Check {
        let Self { about, evidence } = self;
        let sides = [(evidence.ours.name, evidence.ours.id), ("outside", evidence.shape)];
        let shape = sides.map(|(name, id)| format!("{name} {id:?};")).concat();
        let lens = SourceMatcher(Arc::new(evidence));
        Check::new(about, Rule::standing(micros(window)), Clocked::Pulled, lens, shape)
    }
}

impl Check {
    /// Returns the check that comes with this one: its evidence, or the reports that it compares, must not be old.
    pub(crate) fn freshness(&self) -> Option<Check> {
        if let Some(companion) = &self.companion {
            return Some(Check::clone(companion));
        }
        let evidence = self.lens.evidence()?;
        let Described { id, severity, owner, .. } = &self.about;
        let about = Described {
            id: freshness_id(id).into(),
            severity: *severity,
            owner: owner.clone(),
            means: format!("The evidence of `{id}` is old: whether it holds cannot be told.").into(),
            remedy: format!(
                "1 read why its source cannot be read, in `store.checks().sources()`; 2 mend that, or accept it with `accept_source`; it heals with the next \
                 pull. \
                 Until then look at what `{id}` is about by hand"
            )
            .into(),
        };
        let fresh_for = micros(evidence.fresh_for());
        let rule = Rule::standing(micros(evidence.fresh_for()));
        let lens = Freshness { source: id.to_string(), fresh_for };
        Some(Check::new(about, rule, Clocked::Recorded, lens, String::new()))
    }
}

/// Returns the name of the check for old evidence.
pub(crate) fn freshness_id(check: &str) -> String {
    format!("{check}.fresh")
}

/// Sees rows of ours beside those of a source.
struct SourceMatcher(Arc<Evidence>);

impl Lens for SourceMatcher {
    fn registers(&self) -> Vec<Family> {
        self.0.ours.families.clone()
    }

    fn families(&self) -> Vec<String> {
        let mut families: Vec<_> = self.registers().iter().map(|family| family.name().to_owned()).collect();
        // An empty list stands for all families.
        if !families.is_empty() {
            families.push(Own::FAMILY.to_owned());
        }
        families
    }

    fn look(&self, _: &mut Glance<'_>) -> Result<Looked, DecodeError> {
        Ok(Looked { time: None, seen: None })
    }

    fn rowed(&self) -> Option<Arc<dyn Rowed>> {
        Some(self.0.rowed.clone())
    }

    fn evidence(&self) -> Option<Arc<Evidence>> {
        Some(self.0.clone())
    }

    fn key_text(&self, glance: &mut Glance<'_>) -> Result<String, DecodeError> {
        Ok(glance.raw.stream().to_owned())
    }
}

/// Sees the snapshots of one source: none may be the last one for too long while the store is open.
struct Freshness {
    source: String,
    fresh_for: Time,
}

impl Lens for Freshness {
    fn registers(&self) -> Vec<Family> {
        Vec::new()
    }

    fn families(&self) -> Vec<String> {
        vec![Own::FAMILY.to_owned()]
    }

    fn look(&self, glance: &mut Glance<'_>) -> Result<Looked, DecodeError> {
        let (position, recorded) = (glance.position.get(), time_of(glance.recorded));
        let key = glance.hash(self.source.as_bytes());
        let (roles, time) = match glance.typed::<Own>()?.0 {
            Own::Sourced { source, .. } if *source == self.source => (Roles::A, recorded),
            Own::Left { source } if *source == self.source => (Roles::C, recorded),
            // A snapshot that is old already ends nothing, and must not be reported again.
            Own::Pulled { source, as_of, .. }
                if *source == self.source && recorded.saturating_sub(*as_of) <= self.fresh_for =>
            {
                (Roles::A.with(Roles::B, true), *as_of)
            }
            _ => return Ok(Looked { time: None, seen: None }),
        };
        let seen = Seen { position, time, roles, tie_a: 0, tie_b: 0, amount: Amount::default() };
        Ok(Looked { time: None, seen: Some((key, seen)) })
    }

    fn key_text(&self, _: &mut Glance<'_>) -> Result<String, DecodeError> {
        Ok(self.source.clone())
    }
}
