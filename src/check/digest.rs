//! What a consumer says that it has applied, against what the log has for it.
//!
//! Positions tell that a consumer has come far, not that it has skipped nothing. A [`Digest`] is over the events themselves, in
//! any order; the store makes the same of its log, up to the same position.

use super::rows::Rowed;
use super::standing::over;
use super::{About, Check};
use crate::codec;
use crate::error::{DecodeError, FoldError};
use crate::event::{Event, EventSet, Family, RawRef};
use crate::order::Position;
use crate::own::Own;
use crate::projection::{Code, Folded, Registered, Table, hex};
use crate::state::layer::KeyRange;
use serde::{Deserialize, Serialize};
use std::any::TypeId;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// Which events were applied: how many, through which position, and a hash of them in any order.
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

    /// How many events.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last of them.
    pub fn through(&self) -> Position {
        Position::new(self.through)
    }

    /// As the log has it.
    pub(crate) fn reported(self, consumer: &str) -> Own {
        let Self { count, through, sum } = self;
        Own::Applied { consumer: consumer.to_owned(), count, through, sum }
    }
}

impl About {
    /// What a consumer reports that it has applied is what the log has for it: every event of `E`, once, up to where it says it is.
    ///
    /// A subscription, a cache, another store: whatever keeps a [`Digest`] and reports it. It heals with the next report that
    /// agrees. What was reported of events that the log does not have yet disagrees, too. One that goes back, to apply again what it
    /// lost, is compared again when it has come to where it was: its reports until then change nothing.
    pub fn applied_by<E: EventSet>(self, consumer: &'static str) -> Check {
        over(self, Arc::new(Applied::of::<E>(consumer)), Duration::ZERO, &format!("applied by {consumer};"))
    }
}

/// What the table holds of a consumer: what it said last, and what it should have said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Compared {
    said: Digest,
    log: Digest,
}

/// The key of the row that is compared. Those of the digests that lead there are positions, and longer.
const COMPARED: &[u8] = b"=";

/// A table of digests: after each event that the consumer has yet to report, and at its last report.
struct Applied {
    consumer: &'static str,
    table: Registered,
}

impl Applied {
    fn of<E: EventSet>(consumer: &'static str) -> Self {
        let wanted = E::families();
        // Of a set without families, all but the store's own.
        let families: Vec<Family> = match wanted.is_empty() {
            true => Vec::new(),
            false => wanted.iter().copied().chain([Family::of::<Own>()]).collect(),
        };
        let fold = move |raw: &RawRef<'_>, table: &mut dyn Table| match raw.family() == Own::FAMILY {
            true => report(consumer, raw, table),
            false => count(table),
        };
        let table = Registered {
            name: "applied",
            version: 1,
            families,
            id: *b"appl",
            type_id: TypeId::of::<Applied>(),
            faults: Vec::new(),
            code: Code::Folds(Arc::new(fold)),
            row: None,
            key_text: hex,
        };
        Self { consumer, table }
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

/// Digests after events that were not reported, up to a position.
fn unreported(table: &dyn Table, through: u64) -> KeyRange {
    let key = |position: u64| full(table, &position.to_be_bytes());
    KeyRange { lower: Bound::Included(key(0)), upper: Bound::Included(key(through)) }
}

const LATEST: &[u8] = b"~";

/// An event that the consumer must apply.
fn count(table: &mut dyn Table) -> Folded {
    let latest = table.get(&full(table, LATEST))?;
    let mut digest: Digest = read(latest.as_ref().and_then(|row| row.value.as_deref()))?.unwrap_or_default();
    let position = table.at().position;
    digest.add(position);
    put(table, LATEST, &digest)?;
    put(table, &position.get().to_be_bytes(), &digest)
}

/// A report, of this consumer or another.
fn report(consumer: &str, raw: &RawRef<'_>, table: &mut dyn Table) -> Folded {
    let own = Own::decode(raw).map_err(|error| FoldError::refuse(error.to_string()))?;
    let said = match own {
        Own::Applied { consumer: of, count, through, sum } if of == consumer => {
            Digest { count, through, sum }
        }
        _ => return Ok(()),
    };
    let before = table.get(&full(table, COMPARED))?;
    let before: Option<Compared> = read(before.as_ref().and_then(|row| row.value.as_deref()))?;
    let passed = table.scan(&unreported(table, said.through))?;
    let log = match (passed.last(), before) {
        (Some((_, row)), _) => read(row.value.as_deref())?.unwrap_or_default(),
        // It has gone back, to where it is not known any more what it should have.
        (None, Some(before)) if said.through < before.log.through => return Ok(()),
        // Nothing has come for it since.
        (None, before) => before.map(|before| before.log).unwrap_or_default(),
    };
    for (key, _) in passed {
        table.put(key.to_vec(), None);
    }
    put(table, COMPARED, &Compared { said, log })
}

impl Rowed for Applied {
    fn projections(&self) -> Vec<&Registered> {
        vec![&self.table]
    }

    /// Reports are.
    fn folds_own(&self) -> bool {
        true
    }

    fn type_name(&self, _: usize) -> &'static str {
        "Applied"
    }

    fn wrong(&self, key: &[u8], rows: &[Option<&[u8]>]) -> Result<bool, DecodeError> {
        match rows {
            [Some(row)] if key == COMPARED => {
                let Compared { said, log } = codec::decode(row)?;
                Ok(said != log)
            }
            _ => Ok(false),
        }
    }

    fn key_text(&self, _: &[u8]) -> Result<String, DecodeError> {
        Ok(self.consumer.to_owned())
    }

    fn row_text(&self, _: usize, row: &[u8]) -> String {
        match codec::decode::<Compared>(row) {
            Ok(Compared { said, log }) if said.count == log.count => format!(
                "other events than the log: {} of them through {}, and not the same ones",
                said.count, said.through
            ),
            Ok(Compared { said, log }) => {
                format!("{} events through {}, where the log has {}", said.count, said.through, log.count)
            }
            Err(error) => error.to_string(),
        }
    }
}
