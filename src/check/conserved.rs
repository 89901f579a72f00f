//! Conservation: the sum of all rows equals the sum that the events brought in.

use super::rows::Rowed;
use super::standing::over;
use super::{About, Check};
use crate::codec;
use crate::error::{DecodeError, FoldError};
use crate::event::{EventSet, RawRef};
use crate::projection::{At, Code, Folded, Limits, Projection, Registered, Rewrites, Rows, Table};
use crate::state::layer::{KeyRange, RowEntry, RowVersion};
use std::any::TypeId;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

impl About {
    /// Requires that the sum over all rows of a projection equals the sum that the events brought in: none is made, none is lost.
    ///
    /// Amounts are whole numbers of the smallest unit. The rows are folded once more for the check. A difference is found in the
    /// commit after which it exists, and heals when it is gone.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use std::time::Duration;
    /// use tallystone::check::{About, Severity};
    /// use tallystone::prelude::*;
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum Money { Put { to: u32, cents: i64 }, Moved { from: u32, to: u32, cents: i64 } }
    /// # impl Event for Money {
    /// #     const FAMILY: &str = "money";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 { let (Self::Put { to, .. } | Self::Moved { to, .. }) = self; *to }
    /// # }
    /// struct Purses;
    /// impl Projection for Purses {
    ///     const NAME: &'static str = "purses";
    ///     type Event = Money;
    ///     type Key = u32;
    ///     type Row = i64;
    ///     fn fold(event: &Money, rows: &mut Rows<'_, Self>) -> Folded {
    ///         match event {
    ///             Money::Put { to, cents } => rows.update(*to, |purse| *purse += cents),
    ///             // Example: one of the two halves is forgotten.
    ///             Money::Moved { to, cents, .. } => rows.update(*to, |purse| *purse += cents),
    ///         }
    ///     }
    /// }
    /// # fn main() -> Result<(), Error> {
    /// let kept = About {
    ///     id: "money-is-kept",
    ///     severity: Severity::Page,
    ///     owner: "ledger",
    ///     means: "Purses hold more or less than was put in.",
    ///     remedy: "1 stop payments; 2 find the fold that does it; 3 raise its version",
    /// }
    /// .conserved::<Purses>(
    ///     |event| match event {
    ///         Money::Put { cents, .. } => *cents,
    ///         Money::Moved { .. } => 0,
    ///     },
    ///     |purse| *purse,
    /// );
    /// let store = Store::in_memory(Setup::new().inline::<Purses>().check(kept))?;
    /// store.append(Append::event(Money::Put { to: 1, cents: 500 }))?;
    /// store.append(Append::event(Money::Moved { from: 1, to: 2, cents: 200 }))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn conserved<P: Projection>(
        self,
        brings: impl Fn(&P::Event) -> i64 + Send + Sync + 'static,
        holds: impl Fn(&P::Row) -> i64 + Send + Sync + 'static,
    ) -> Check {
        over(self, Arc::new(Conserved::of::<P>(brings, holds)), Duration::ZERO, "conserved;")
    }
}

/// The key of the difference. Keys of rows begin with another byte.
const DIFFERENCE: &[u8] = b"=";
const ROW: u8 = b'r';

struct Conserved {
    of: &'static str,
    table: Registered,
}

impl Conserved {
    fn of<P: Projection>(
        brings: impl Fn(&P::Event) -> i64 + Send + Sync + 'static,
        holds: impl Fn(&P::Row) -> i64 + Send + Sync + 'static,
    ) -> Self {
        let rewrites = Rewrites::default();
        let fold = move |raw: &RawRef<'_>, table: &mut dyn Table| {
            let event = P::Event::decode(raw).map_err(|error| FoldError::refuse(error.to_string()))?;
            let mut noting = BeforeImageTable { table, changed: BTreeMap::new() };
            P::fold(&event, &mut Rows::on(&mut noting, &rewrites))?;
            let mut difference = 0_i64.wrapping_sub(brings(&event));
            let BeforeImageTable { table, changed } = noting;
            for (key, before) in changed {
                let after = table.get(&key)?;
                let held = |version: Option<RowVersion>| -> Result<i64, FoldError> {
                    let Some(value) = version.and_then(|version| version.value) else { return Ok(0) };
                    let row = codec::decode(&value).map_err(|error| FoldError::refuse(error.to_string()))?;
                    Ok(holds(&row))
                };
                difference = difference.wrapping_add(held(after)?).wrapping_sub(held(before)?);
            }
            add(table, difference)
        };
        let inner = Registered::of::<P>();
        let mut id = inner.id;
        // Its own table id: other checks may fold the same rows beside it.
        id[0] ^= 0x80;
        let table =
            Registered { id, type_id: TypeId::of::<Conserved>(), code: Code::Folds(Arc::new(fold)), ..inner };
        Self { of: P::NAME, table }
    }
}

/// Adds to the difference between the sum of the rows and the sum brought in.
fn add(table: &mut dyn Table, change: i64) -> Folded {
    if change == 0 {
        return Ok(());
    }
    let key = [&table.id()[..], DIFFERENCE].concat();
    let before = table.get(&key)?.and_then(|version| version.value);
    let before: Option<i64> = before
        .map(|value| codec::decode(&value).map_err(|error| FoldError::refuse(error.to_string())))
        .transpose()?;
    let row = codec::encode(&before.unwrap_or(0).wrapping_add(change));
    table.put(key, Some(Arc::from(row.map_err(|error| FoldError::refuse(error.to_string()))?)));
    Ok(())
}

/// A table that notes the old values of its rows. Its keys are prefixed with [`ROW`].
struct BeforeImageTable<'a> {
    table: &'a mut dyn Table,
    changed: BTreeMap<Vec<u8>, Option<RowVersion>>,
}

fn inside(key: &[u8]) -> Vec<u8> {
    let (id, key) = key.split_at(4);
    [id, &[ROW], key].concat()
}

impl Table for BeforeImageTable<'_> {
    fn id(&self) -> [u8; 4] {
        self.table.id()
    }

    fn at(&self) -> At {
        self.table.at()
    }

    fn limits(&self) -> Limits {
        self.table.limits()
    }

    fn get(&self, key: &[u8]) -> Result<Option<RowVersion>, FoldError> {
        self.table.get(&inside(key))
    }

    fn scan(&self, range: &KeyRange) -> Result<Vec<RowEntry>, FoldError> {
        let bound = |bound: &Bound<Vec<u8>>, whole: u8| match bound {
            Bound::Included(key) if key.len() >= 4 => Bound::Included(inside(key)),
            Bound::Excluded(key) if key.starts_with(&self.id()) => Bound::Excluded(inside(key)),
            // The end of the table, or no bound at all.
            _ => Bound::Excluded([&self.id()[..], &[whole]].concat()),
        };
        let range = KeyRange { lower: bound(&range.lower, ROW), upper: bound(&range.upper, ROW + 1) };
        let rows = self.table.scan(&range)?;
        let outside = |key: &[u8]| [&key[..4], &key[5..]].concat();
        Ok(rows.into_iter().map(|(key, version)| (outside(&key).into(), version)).collect())
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Arc<[u8]>>) {
        let key = inside(&key);
        if !self.changed.contains_key(&key) {
            // An error of the store is dropped here: it shows when the row is read again.
            let before = self.table.get(&key).unwrap_or_default();
            self.changed.insert(key.clone(), before);
        }
        self.table.put(key, value);
    }
}

impl Rowed for Conserved {
    fn projections(&self) -> Vec<&Registered> {
        vec![&self.table]
    }

    fn type_name(&self, _: usize) -> &'static str {
        self.of
    }

    fn wrong(&self, key: &[u8], rows: &[Option<&[u8]>]) -> Result<bool, DecodeError> {
        match rows {
            [Some(row)] if key == DIFFERENCE => Ok(codec::decode::<i64>(row)? != 0),
            _ => Ok(false),
        }
    }

    fn key_text(&self, _: &[u8]) -> Result<String, DecodeError> {
        Ok(self.of.to_owned())
    }

    fn row_text(&self, _: usize, row: &[u8]) -> String {
        match codec::decode::<i64>(row) {
            Ok(more) if more < 0 => format!("{} less than the events have brought in", more.unsigned_abs()),
            Ok(more) => format!("{more} more than the events have brought in"),
            Err(error) => error.to_string(),
        }
    }
}
