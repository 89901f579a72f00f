//! Digests of applied events: what a consumer reports, compared with the log.
//!
//! Positions tell that a consumer has come far, not that it has skipped nothing. A [`Digest`] is over the events themselves, in
//! any order; the store makes the same of its log, up to the same position.

use super::outside::freshness_id;
use super::rows::Rowed;
use super::standing::over;
use super::{About, Check, Described};
use crate::codec;
use crate::error::{DecodeError, FoldError};
use crate::event::{Event, EventSet, Family, RawRef};
use crate::order::Position;
use crate::own::Own;
use crate::projection::{Code, Folded, Registered, Table, hex};
use crate::state::layer::KeyRange;
use serde::{Deserialize, Serialize};
use std::any::TypeId;
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

/// Digest of the events that were applied: their number, the last position, and a hash that does not depend on their order.
///
/// A consumer keeps it with its own state, in the same transaction, and reports it with
/// [`Checks::applied`](crate::watch::Checks::applied). An event that is added twice shows, as one that is left out does.
///
/// ```
/// use tallystone::check::Digest;
/// use tallystone::prelude::*;
///
/// let (mut whole, mut skips) = (Digest::default(), Digest::default());
/// [1, 2, 3].map(|at| whole.add(Position::new(at)));
/// [3, 1].map(|at| skips.add(Position::new(at)));
/// assert_eq!((whole.count(), skips.count()), (3, 2));
/// assert_eq!(whole.through(), skips.through());
/// assert_ne!(whole, skips);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest {
    count: u64,
    through: u64,
    /// Hashes of the positions, added up.
    sum: (u64, u64),
}

impl Digest {
    /// Adds the event at this position.
    pub fn add(&mut self, position: Position) {
        let mut hash = [0; 16];
        blake3::Hasher::new().update(&position.get().to_le_bytes()).finalize_xof().fill(&mut hash);
        let (low, high) = hash.split_first_chunk().expect("16 bytes are two words");
        let word = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes are a word"));
        self.sum = (self.sum.0.wrapping_add(word(low as &[u8; 8])), self.sum.1.wrapping_add(word(high)));
        self.count += 1;
        self.through = self.through.max(position.get());
    }

    /// Returns the number of events.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the position of the last event.
    pub fn through(&self) -> Position {
        Position::new(self.through)
    }

    /// Returns the system event that reports it for a consumer.
    pub(crate) fn reported(self, consumer: &str) -> Own {
        let Self { count, through, sum } = self;
        Own::Applied { consumer: consumer.to_owned(), count, through, sum }
    }
}

impl About {
    /// Requires that a consumer's report agrees with the log: every event of `E` applied once, up to the position it reports.
    ///
    /// A consumer is anything that keeps a [`Digest`] and reports it: a subscription, a cache, another store. It heals with the
    /// next report that agrees. A report of events that the log does not have yet disagrees, too. A consumer that goes back, to
    /// apply again what it lost, is compared again when it reaches its earlier position: its reports until then change nothing.
    ///
    /// The check `ID.fresh` comes with it: it is violated if there are events for the consumer and it does not advance in an
    /// hour. See [`applied_within`](Self::applied_within) for another time. The check remembers the last thousand positions, and
    /// older ones more and more sparsely. If a consumer is far behind, a report between two of them is not compared; a later one
    /// is.
    pub fn applied_by<E: EventSet>(self, consumer: &'static str) -> Check {
        self.applied_within::<E>(consumer, Duration::from_secs(3600))
    }

    /// As [`applied_by`](Self::applied_by), for a consumer that must come further in this time, while there are events for it.
    pub fn applied_within<E: EventSet>(self, consumer: &'static str, longest: Duration) -> Check {
        let shape = format!("applied by {consumer};");
        let fresh = over(self, Arc::new(ConsumerProgress::of::<E>(consumer)), longest, &shape);
        let about = Described {
            id: freshness_id(self.id).into(),
            means: format!("`{consumer}` does not come further, and there are events for it.").into(),
            remedy: format!(
                "1 see whether `{consumer}` runs, and why not; 2 have it apply and report what is missing; it heals with the next \
                 report that has come further"
            )
            .into(),
            ..self.into()
        };
        let check = over(self, Arc::new(Applied::of::<E>(consumer)), Duration::ZERO, &shape);
        Check { companion: Some(Arc::new(Check { about, ..fresh })), ..check }
    }
}

/// Last report of a consumer that was compared, and what the log had for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ReportComparison {
    said: Digest,
    log: Digest,
}

/// The key of the row that is compared. Keys of the digests of events are positions, and longer.
const COMPARED: &[u8] = b"=";

/// A table of digests: after each event that the consumer has yet to report, and at its last report.
struct Applied {
    consumer: &'static str,
    table: Registered,
}

impl Applied {
    fn of<E: EventSet>(consumer: &'static str) -> Self {
        let fold = move |raw: &RawRef<'_>, table: &mut dyn Table| match raw.family() == Own::FAMILY {
            true => report(consumer, raw, table),
            false => count(table),
        };
        Self { consumer, table: table::<E>("applied", *b"appl", fold) }
    }
}

/// Creates a table for one consumer, folded from the events that it applies and from its reports.
fn table<E: EventSet>(
    name: &'static str,
    id: [u8; 4],
    fold: impl Fn(&RawRef<'_>, &mut dyn Table) -> Folded + Send + Sync + 'static,
) -> Registered {
    let wanted = E::families();
    // An empty list stands for all families but the store's own.
    let families: Vec<Family> = match wanted.is_empty() {
        true => Vec::new(),
        false => wanted.iter().copied().chain([Family::of::<Own>()]).collect(),
    };
    Registered {
        name,
        version: 1,
        families,
        id,
        type_id: TypeId::of::<Applied>(),
        faults: Vec::new(),
        code: Code::Folds(Arc::new(fold)),
        row: None,
        skipped: None,
        key_text: hex,
    }
}

fn full(table: &dyn Table, key: &[u8]) -> Vec<u8> {
    [&table.id()[..], key].concat()
}

fn read<T: serde::de::DeserializeOwned>(value: Option<&[u8]>) -> Result<Option<T>, FoldError> {
    value.map(|value| codec::decode(value).map_err(|error| FoldError::refuse(error.to_string()))).transpose()
}

fn put<T: Serialize>(table: &mut dyn Table, key: &[u8], row: &T) -> Folded {
    let row = codec::encode(row).map_err(|error| FoldError::refuse(error.to_string()))?;
    let key = full(table, key);
    table.put(key, Some(Arc::from(row)));
    Ok(())
}

/// No event has a later position: the table's other keys sort after this one.
const LAST: u64 = u64::MAX >> 8;

/// Digests after events that were not reported, by position.
fn unreported(table: &dyn Table, positions: RangeInclusive<u64>) -> KeyRange {
    let key = |position: &u64| full(table, &(*position).min(LAST).to_be_bytes());
    KeyRange { lower: Bound::Included(key(positions.start())), upper: Bound::Included(key(positions.end())) }
}

const LATEST: &[u8] = b"~";

/// Counts an event that the consumer must apply.
fn count(table: &mut dyn Table) -> Folded {
    let latest = table.get(&full(table, LATEST))?;
    let mut digest: Digest = read(latest.as_ref().and_then(|row| row.value.as_deref()))?.unwrap_or_default();
    let position = table.at().position;
    digest.add(position);
    put(table, LATEST, &digest)?;
    put(table, &position.get().to_be_bytes(), &digest)?;
    if digest.count.is_multiple_of(EXACT) { thin(table) } else { Ok(()) }
}

/// Digests of at least this many last events are kept.
const EXACT: u64 = 1024;

/// Drops every second digest of the older half, if there are many: four times [`EXACT`] are never exceeded by much.
fn thin(table: &mut dyn Table) -> Folded {
    let kept = table.scan(&unreported(table, 0..=LAST))?;
    if kept.len() as u64 > 2 * EXACT {
        let older = kept.len() / 2;
        kept.into_iter().take(older).step_by(2).for_each(|(key, _)| table.put(key.to_vec(), None));
    }
    Ok(())
}

/// Returns the digest that a system event reports of a consumer. `None` if it reports none.
fn reported(consumer: &str, raw: &RawRef<'_>) -> Result<Option<Digest>, FoldError> {
    if raw.type_name() != Own::APPLIED {
        return Ok(None);
    }
    let own = Own::decode(raw).map_err(|error| FoldError::refuse(error.to_string()))?;
    Ok(match own {
        Own::Applied { consumer: of, count, through, sum } if of == consumer => {
            Some(Digest { count, through, sum })
        }
        _ => None,
    })
}

/// Folds a report, of this consumer or another.
fn report(consumer: &str, raw: &RawRef<'_>, table: &mut dyn Table) -> Folded {
    let Some(said) = reported(consumer, raw)? else { return Ok(()) };
    let before = table.get(&full(table, COMPARED))?;
    let before: Option<ReportComparison> = read(before.as_ref().and_then(|row| row.value.as_deref()))?;
    let mut passed = table.scan(&unreported(table, 0..=said.through))?;
    let log = match (passed.last(), before) {
        (Some((_, row)), _) => read(row.value.as_deref())?.unwrap_or_default(),
        // It has gone back, to a position whose digest is not kept any more.
        (None, Some(before)) if said.through < before.log.through => return Ok(()),
        // No event has come for it since.
        (None, before) => before.map(|before| before.log).unwrap_or_default(),
    };
    let next = table.scan(&unreported(table, said.through.saturating_add(1)..=LAST))?;
    let next: Option<Digest> = read(next.first().and_then(|(_, row)| row.value.as_deref()))?;
    // Digests in between were dropped: it is compared when the consumer has reached one that is kept.
    let is_known = next.is_none_or(|next| next.count == log.count + 1);
    if !is_known {
        passed.pop();
    }
    for (key, _) in passed {
        table.put(key.to_vec(), None);
    }
    if is_known { put(table, COMPARED, &ReportComparison { said, log }) } else { Ok(()) }
}

impl Rowed for Applied {
    fn projections(&self) -> Vec<&Registered> {
        vec![&self.table]
    }

    /// Returns true: reports are system events.
    fn folds_own(&self) -> bool {
        true
    }

    fn type_name(&self, _: usize) -> &'static str {
        "Applied"
    }

    fn wrong(&self, key: &[u8], rows: &[Option<&[u8]>]) -> Result<bool, DecodeError> {
        match rows {
            [Some(row)] if key == COMPARED => {
                let ReportComparison { said, log } = codec::decode(row)?;
                Ok(said != log)
            }
            _ => Ok(false),
        }
    }

    fn key_text(&self, _: &[u8]) -> Result<String, DecodeError> {
        Ok(self.consumer.to_owned())
    }

    fn row_text(&self, _: usize, row: &[u8]) -> String {
        match codec::decode::<ReportComparison>(row) {
            Ok(ReportComparison { said, log }) if said.count == log.count => format!(
                "other events than the log: {} of them through {}, and not the same ones",
                said.count, said.through
            ),
            Ok(ReportComparison { said, log }) => {
                format!("{} events through {}, where the log has {}", said.count, said.through, log.count)
            }
            Err(error) => error.to_string(),
        }
    }
}

/// Position of a consumer, and that of the last event for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct ConsumerPosition {
    through: u64,
    latest: u64,
}

/// A table of one row for the consumer, and one more while there are events after its position: its key is that position. A
/// consumer that advances gets another key, so only one that stands still is found, and not one that is always a little behind.
struct ConsumerProgress {
    consumer: &'static str,
    table: Registered,
}

const STANDS: &[u8] = b"@";
const WAITS: u8 = b'w';

impl ConsumerProgress {
    fn of<E: EventSet>(consumer: &'static str) -> Self {
        let fold = move |raw: &RawRef<'_>, table: &mut dyn Table| {
            let row = table.get(&full(table, STANDS))?;
            let before: ConsumerPosition =
                read(row.as_ref().and_then(|row| row.value.as_deref()))?.unwrap_or_default();
            let now = match raw.family() == Own::FAMILY {
                true => match reported(consumer, raw)? {
                    Some(said) => ConsumerPosition { through: said.through, ..before },
                    None => return Ok(()),
                },
                false => ConsumerPosition { latest: table.at().position.get(), ..before },
            };
            put(table, STANDS, &now)?;
            let waits = |stands: ConsumerPosition| [&[WAITS][..], &stands.through.to_be_bytes()].concat();
            if now.through != before.through {
                let key = full(table, &waits(before));
                table.put(key, None);
            }
            match now.through < now.latest {
                true => put(table, &waits(now), &now),
                false => Ok(()),
            }
        };
        Self { consumer, table: table::<E>("progress", *b"prgr", fold) }
    }
}

impl Rowed for ConsumerProgress {
    fn projections(&self) -> Vec<&Registered> {
        vec![&self.table]
    }

    /// Returns true: reports are system events.
    fn folds_own(&self) -> bool {
        true
    }

    fn type_name(&self, _: usize) -> &'static str {
        "Progress"
    }

    fn wrong(&self, key: &[u8], rows: &[Option<&[u8]>]) -> Result<bool, DecodeError> {
        Ok(key.first() == Some(&WAITS) && rows.iter().any(Option::is_some))
    }

    fn key_text(&self, _: &[u8]) -> Result<String, DecodeError> {
        Ok(self.consumer.to_owned())
    }

    fn row_text(&self, _: usize, row: &[u8]) -> String {
        match codec::decode::<ConsumerPosition>(row) {
            Ok(ConsumerPosition { through: 0, latest }) => {
                format!("never reported, and the log has events for it up to {latest}")
            }
            Ok(ConsumerPosition { through, latest }) => {
                format!("stands at {through}, and the log has events for it up to {latest}")
            }
            Err(error) => error.to_string(),
        }
    }
}
