//! Invariants, asked of the rows that a commit changes, as it would leave them.

use super::{caught, earlier, stalled};
use crate::check::Invariant;
use crate::error::{AppendError, StorageError};
use crate::order::Position;
use crate::projection::Stall;
use crate::state::Published;
use crate::state::layer::{Layer, RowVersion};
use crate::state::overlay::Delta;
use crate::state::tables::table_range;
use std::collections::{BTreeMap, BTreeSet};

/// The rows that a commit changes, as it would leave them.
pub(super) struct ChangedRows<'a> {
    pub stalls: &'a BTreeMap<[u8; 4], Stall>,
    pub first: Position,
    pub published: &'a Published,
    pub group: &'a Delta,
    pub scratch: &'a Delta,
}

impl ChangedRows<'_> {
    pub fn check(&self, invariant: &Invariant) -> Result<(), AppendError> {
        let ids: Vec<[u8; 4]> = invariant.rows.projections().iter().map(|projection| projection.id).collect();
        let changed =
            ids.iter().flat_map(|id| self.scratch.rows.range::<[u8], _>(table_range(*id).as_bounds()));
        let keys: BTreeSet<&[u8]> = changed.map(|(key, _)| &key[4..]).collect();
        if keys.is_empty() {
            return Ok(());
        }
        if let Some(stall) = ids.iter().find_map(|id| self.stalls.get(id)) {
            let check = invariant.id().to_owned();
            return Err(AppendError::CannotTell { check, index: 0, why: stalled(stall) });
        }
        keys.into_iter().try_for_each(|key| self.check_key(invariant, &ids, key))
    }

    fn check_key(&self, invariant: &Invariant, ids: &[[u8; 4]], key: &[u8]) -> Result<(), AppendError> {
        let full: Vec<Vec<u8>> = ids.iter().map(|id| [id, key].concat()).collect();
        let versions = self.read(&full, &[self.scratch, self.group])?;
        let rows: Vec<Option<&[u8]>> = versions
            .iter()
            .map(|version| version.as_ref().and_then(|version| version.value.as_deref()))
            .collect();
        let why = match caught(|| invariant.rows.wrong(key, &rows)) {
            Ok(false) => return Ok(()),
            Ok(true) => None,
            Err(error) => Some(error.to_string()),
        };
        // The last event of the append that had a part in it.
        let touched = full.iter().filter_map(|key| self.scratch.rows.get(&**key));
        let last = touched.map(|version| version.position).max().unwrap_or(self.first);
        let index = (last.0 - self.first.0) as usize;
        let check = invariant.id().to_owned();
        Err(match why {
            Some(why) => AppendError::CannotTell { check, index, why },
            None => {
                let key = caught(|| invariant.rows.key_text(key)).unwrap_or_default();
                // Who last changed the rows, as they stand without the append.
                let before = self.read(&full, &[self.group])?.into_iter().flatten();
                let events = earlier(before.map(|version| version.position), self.first);
                AppendError::Violated { check, key, events, index }
            }
        })
    }

    fn read(&self, keys: &[Vec<u8>], above: &[&dyn Layer]) -> Result<Vec<Option<RowVersion>>, StorageError> {
        self.published.read(above, |layers| keys.iter().map(|key| layers.row(key)).collect())
    }
}
