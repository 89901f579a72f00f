//! Rows at a check's own position: the tables it joins, folded again from the log.
//!
//! - What the store serves is ahead of a check that catches up, and has no past. So a check over rows folds its own, commit by
//!   commit, and sees every change, also one that was undone a moment later.
//! - What a commit has changed is looked at when it is whole: between two of its events nobody could see a row.
//! - Rows that its file has need not be in memory.

use super::file::ColdKeys;
use crate::check::keys::KeyHash;
use crate::error::{FoldError, StorageError};
use crate::event::RawRef;
use crate::order::Position;
use crate::projection::{At, Limits, Registered, Table};
use crate::state::layer::{KeyRange, RowEntry, RowKey, RowVersion};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;

/// The rows one check looks at.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// By full key; without a value, removed.
    rows: BTreeMap<RowKey, MirrorRow>,
    /// Changes of the commit that is being folded.
    scratch: BTreeMap<RowKey, RowVersion>,
    /// Keys that are wrong, by their hash: what is decided later, by time, has no event to ask.
    names: HashMap<KeyHash, MirrorKey>,
    unsaved: usize,
}

#[derive(Debug)]
struct MirrorRow {
    version: RowVersion,
    unsaved: bool,
}

#[derive(Debug)]
struct MirrorKey {
    /// `None`: it is not wrong any more, and the file has yet to be told.
    key: Option<Vec<u8>>,
    unsaved: bool,
}

/// Entry of a mirror, as it is saved to the file.
pub(super) enum SavedRow<'a> {
    Row(&'a RowKey, &'a RowVersion),
    Name(KeyHash, Option<&'a [u8]>),
}

impl Mirror {
    /// Folds one event into a table. An error of the fold: it cannot be told what the rows are.
    pub fn fold(
        &mut self,
        table: &Registered,
        raw: &RawRef<'_>,
        at: At,
        limits: Limits,
        cold: &ColdKeys<'_>,
    ) -> Result<Result<(), String>, StorageError> {
        let (written, trouble) = (BTreeMap::new(), RefCell::new(None));
        let (rows, scratch) = (&self.rows, &self.scratch);
        let mut layered = MirrorTable { id: table.id, at, limits, written, scratch, rows, cold, trouble };
        let folded = table.fold_on(raw, &mut layered);
        let MirrorTable { written, trouble, .. } = layered;
        if let Some(trouble) = trouble.into_inner() {
            return Err(trouble);
        }
        if folded.is_ok() {
            self.scratch.extend(written);
        }
        Ok(folded)
    }

    /// Takes over a row that was not folded: what a source outside shows.
    pub fn put(&mut self, table: [u8; 4], key: &[u8], version: RowVersion) {
        self.scratch.insert([&table, key].concat().into(), version);
    }

    /// Takes over what the commit has changed, and says which keys: without their table, each once, with the last event that did.
    pub fn settle(&mut self) -> BTreeMap<Vec<u8>, Position> {
        let mut changed: BTreeMap<Vec<u8>, Position> = BTreeMap::new();
        for (key, version) in mem::take(&mut self.scratch) {
            let at = changed.entry(key[4..].to_vec()).or_default();
            *at = version.position.max(*at);
            let before = self.rows.insert(key, MirrorRow { version, unsaved: true });
            self.unsaved += usize::from(before.is_none_or(|before| !before.unsaved));
        }
        changed
    }

    /// A row, by its full key.
    fn row(&self, key: &[u8], cold: &ColdKeys<'_>) -> Result<Option<RowVersion>, StorageError> {
        match self.rows.get(key) {
            Some(held) => Ok(Some(held.version.clone()).filter(|version| version.value.is_some())),
            None => cold.row(key),
        }
    }

    /// Returns the row of a key in each table.
    pub fn rows_of(
        &self,
        key: &[u8],
        tables: &[&Registered],
        cold: &ColdKeys<'_>,
    ) -> Result<Vec<Option<Arc<[u8]>>>, StorageError> {
        let row = |table: &&Registered| self.row(&[&table.id, key].concat(), cold);
        tables.iter().map(|table| Ok(row(table)?.and_then(|version| version.value))).collect()
    }

    /// Notes that a key is wrong, or that one is not any more.
    pub fn name(&mut self, hash: KeyHash, key: Option<&[u8]>) {
        self.names.insert(hash, MirrorKey { key: key.map(<[u8]>::to_vec), unsaved: true });
    }

    /// The key that was wrong, by its hash.
    pub fn named(&self, hash: KeyHash, cold: &ColdKeys<'_>) -> Result<Option<Vec<u8>>, StorageError> {
        match self.names.get(&hash) {
            Some(named) => Ok(named.key.clone()),
            None => cold.name(hash),
        }
    }

    /// Rows that the file lacks.
    pub fn unsaved_len(&self) -> usize {
        self.unsaved
    }

    /// Rows in memory.
    pub fn rows_len(&self) -> usize {
        self.rows.len()
    }

    /// Tells all that the file lacks. After it the file lacks nothing, and without `keep` it alone has the rows.
    pub fn save(&mut self, keep: bool, mut each: impl FnMut(SavedRow<'_>)) {
        for (key, held) in &mut self.rows {
            if mem::take(&mut held.unsaved) {
                each(SavedRow::Row(key, &held.version));
            }
        }
        for (hash, named) in &mut self.names {
            if mem::take(&mut named.unsaved) {
                each(SavedRow::Name(*hash, named.key.as_deref()));
            }
        }
        self.unsaved = 0;
        match keep {
            true => {
                self.rows.retain(|_, held| held.version.value.is_some());
                self.names.retain(|_, named| named.key.is_some());
            }
            false => *self = Self::default(),
        }
    }
}

/// One table during a fold, above the file.
struct MirrorTable<'a> {
    id: [u8; 4],
    at: At,
    limits: Limits,
    /// Changes of this event so far.
    written: BTreeMap<RowKey, RowVersion>,
    scratch: &'a BTreeMap<RowKey, RowVersion>,
    rows: &'a BTreeMap<RowKey, MirrorRow>,
    cold: &'a ColdKeys<'a>,
    /// Not the fold's fault, whatever it makes of it.
    trouble: RefCell<Option<StorageError>>,
}

impl MirrorTable<'_> {
    fn noted<T>(&self, read: Result<T, StorageError>) -> Result<T, FoldError> {
        read.map_err(|error| {
            let why = FoldError::refuse(error.to_string());
            self.trouble.borrow_mut().get_or_insert(error);
            why
        })
    }
}

impl Table for MirrorTable<'_> {
    fn id(&self) -> [u8; 4] {
        self.id
    }

    fn at(&self) -> At {
        self.at
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn get(&self, key: &[u8]) -> Result<Option<RowVersion>, FoldError> {
        let hot = self.written.get(key).or_else(|| self.scratch.get(key));
        let hot = hot.or_else(|| self.rows.get(key).map(|held| &held.version));
        match hot {
            Some(version) => Ok(Some(version.clone()).filter(|version| version.value.is_some())),
            None => self.noted(self.cold.row(key)),
        }
    }

    fn scan(&self, range: &KeyRange) -> Result<Vec<RowEntry>, FoldError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let cold = self.noted(self.cold.rows(range))?;
        let mut rows: BTreeMap<RowKey, RowVersion> = cold.into_iter().collect();
        let hot = self.rows.range::<[u8], _>(range.as_bounds()).map(|(key, held)| (key, &held.version));
        let of_commit = self.scratch.range::<[u8], _>(range.as_bounds());
        let of_event = self.written.range::<[u8], _>(range.as_bounds());
        for (key, version) in hot.chain(of_commit).chain(of_event) {
            rows.insert(key.clone(), version.clone());
        }
        rows.retain(|_, version| version.value.is_some());
        Ok(rows.into_iter().collect())
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Arc<[u8]>>) {
        let version = RowVersion { commit: self.at.commit, position: self.at.position, value };
        self.written.insert(key.into(), version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It may be the file alone that knows it: then it was not told, and kept every key that had ever been wrong.
    #[test]
    fn corrected_key_is_removed_from_file() {
        for keep in [true, false] {
            let (mut mirror, hash) = (Mirror::default(), KeyHash(7, 7));
            for key in [Some(&b"7"[..]), None, Some(b"7"), None] {
                mirror.name(hash, key);
                let mut told = Vec::new();
                mirror.save(keep, |saved| match saved {
                    SavedRow::Name(hash, key) => told.push((hash, key.map(<[u8]>::to_vec))),
                    SavedRow::Row(..) => panic!("there are no rows"),
                });
                assert_eq!(told, [(hash, key.map(<[u8]>::to_vec))], "kept in memory: {keep}");
            }
        }
    }
}
