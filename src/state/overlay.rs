//! State newer than redb, in memory: a group's private delta, and the overlay that readers share.
//!
//! - Typed, not one generic map: positions of a term are a rising list and need no versions; only rows have versions.
//! - A delta is private to the writer. It enters the overlay after the sync, so nothing un-synced is ever in here.
//! - Entries never change once they are in an overlay. Readers cut them at their own head.

use super::keys::KeyUse;
use super::layer::{Direction, History, KeyRange, Layer, RowEntry, RowKey, RowVersion, Since, Span};
use super::term::{Term, TermMap};
use crate::error::StorageError;
use crate::log::record::LayoutDecl;
use crate::order::{CommitNo, Position};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, RwLock};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeBounds;
use std::sync::Arc;

/// The positions of one term, rising.
#[derive(Debug, Default, Clone)]
pub(crate) struct Postings {
    /// For a stream: the version of the first position here, from 1. Else 0.
    pub first_version: u64,
    pub positions: Vec<Position>,
}

impl Postings {
    pub(super) fn select(&self, span: Span, direction: Direction, limit: usize, out: &mut Vec<Position>) {
        let from = self.positions.partition_point(|position| *position <= span.after);
        let to = self.positions.partition_point(|position| *position <= span.through);
        let visible = self.positions.get(from..to).unwrap_or_default();
        match direction {
            Direction::Forward => out.extend(visible.iter().take(limit)),
            Direction::Backward => out.extend(visible.iter().rev().take(limit)),
        }
    }

    pub(super) fn version(&self, through: Position) -> Option<u64> {
        let visible = self.positions.partition_point(|position| *position <= through) as u64;
        (visible > 0).then(|| self.first_version + visible - 1)
    }

    fn extend(&mut self, newer: Postings) {
        if self.positions.is_empty() {
            *self = newer;
        } else {
            debug_assert!(self.positions.last() < newer.positions.first(), "positions rise");
            self.positions.extend(newer.positions);
        }
    }
}

/// Changes of one request, or of one group.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pub postings: TermMap<Postings>,
    pub rows: BTreeMap<RowKey, RowVersion>,
    /// The last use of each key.
    pub keys: TermMap<KeyUse>,
    /// Number of commits with a key.
    pub keys_used: u64,
    pub layouts: Vec<LayoutDecl>,
    /// The inline projections, if they were declared anew.
    pub inline: Option<InlineSet>,
}

/// Ids of inline projections, rising.
pub(crate) type InlineSet = Arc<[u32]>;

impl Delta {
    pub fn post(&mut self, term: Term, first_version: u64, position: Position) {
        let postings = self.postings.entry(term).or_default();
        if postings.positions.is_empty() {
            postings.first_version = first_version;
        }
        // An event may carry a tag once only, but a type and a stream once in any case.
        debug_assert!(postings.positions.last() < Some(&position), "positions rise");
        postings.positions.push(position);
    }

    /// Notes that a commit used a key, perhaps one that was used before.
    pub fn use_key(&mut self, term: Term, used: KeyUse) {
        self.keys.insert(term, used);
        self.keys_used += 1;
    }

    pub fn put_row(&mut self, key: RowKey, version: RowVersion) {
        self.rows.insert(key, version);
    }

    /// Takes over the changes of a request of this group.
    pub fn absorb(&mut self, newer: Delta) {
        for (term, postings) in newer.postings {
            self.postings.entry(term).or_default().extend(postings);
        }
        match self.rows.is_empty() {
            true => self.rows = newer.rows,
            false => self.rows.extend(newer.rows),
        }
        self.keys.extend(newer.keys);
        self.keys_used += newer.keys_used;
        self.layouts.extend(newer.layouts);
        self.inline = newer.inline.or_else(|| self.inline.take());
    }
}

impl Layer for Delta {
    fn row(&self, key: &[u8], _: CommitNo) -> Result<Option<RowVersion>, StorageError> {
        Ok(self.rows.get(key).cloned())
    }

    fn rows(
        &self,
        range: &KeyRange,
        direction: Direction,
        _: CommitNo,
        limit: usize,
    ) -> Result<Vec<RowEntry>, StorageError> {
        let rows = self.rows.range::<[u8], _>(range.as_bounds());
        let copy = |(key, version): (&RowKey, &RowVersion)| (key.clone(), version.clone());
        Ok(match direction {
            Direction::Forward => rows.map(copy).take(limit).collect(),
            Direction::Backward => rows.rev().map(copy).take(limit).collect(),
        })
    }

    fn positions(
        &self,
        term: Term,
        span: Span,
        direction: Direction,
        limit: usize,
        out: &mut Vec<Position>,
    ) -> Result<(), StorageError> {
        if let Some(postings) = self.postings.get(&term) {
            postings.select(span, direction, limit, out);
        }
        Ok(())
    }

    fn stream_version(&self, stream: Term, through: Position) -> Result<Option<u64>, StorageError> {
        Ok(self.postings.get(&stream).and_then(|postings| postings.version(through)))
    }
}

impl History for Delta {
    fn row_change(&self, key: &[u8], _: Since) -> Option<RowVersion> {
        self.rows.get(key).cloned()
    }

    fn range_change(&self, range: &KeyRange, _: Since) -> Option<RowVersion> {
        if range.is_empty() {
            return None;
        }
        self.rows.range::<[u8], _>(range.as_bounds()).next().map(|(_, version)| version.clone())
    }
}

/// Everything committed since the last freeze.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// The commit before its first: it has every change of the commits after this one, up to the next overlay's.
    pub after: CommitNo,
    postings: RwLock<TermMap<Postings>>,
    rows: RwLock<RowMap>,
    /// Row keys in order, for ranges. Locked before `rows`.
    in_order: Mutex<InOrder>,
    keys: Mutex<Vec<(Term, KeyUse)>>,
    layouts: Mutex<Vec<LayoutDecl>>,
    inline: Mutex<Option<InlineSet>>,
    /// Estimated size in bytes: changed by the writer, read by its pacing and by `stats`.
    bytes: AtomicUsize,
}

/// A row's versions, rising. Most rows change once between two flushes.
type Versions = SmallVec<[RowVersion; 1]>;

/// Rows, found by hash. The writer looks up and puts in a row with every event: comparing its way through a tree was a seventh
/// of its time.
#[derive(Debug, Default)]
struct RowMap {
    by_key: HashMap<RowKey, Versions>,
    /// Rows that commits changed, in the order of the commits. Validation walks this.
    changes: Vec<(CommitNo, RowKey)>,
}

impl RowMap {
    /// Adds a version of a row, and returns the bytes that it takes, estimated.
    fn push(&mut self, key: RowKey, version: RowVersion) -> usize {
        let value_len = version.value.as_ref().map_or(0, |value| value.len());
        let entry = self.by_key.entry(key);
        // The stored key, not the given one: a row that changes often has its key once.
        let key = entry.key().clone();
        let versions = entry.or_default();
        let bytes = if versions.is_empty() { ROW_BYTES + key.len() } else { VERSION_BYTES };
        self.changes.push((version.commit, key));
        versions.push(version);
        bytes + value_len
    }

    fn fork(&self, through: CommitNo) -> Self {
        let changes = self.changes.iter().filter(|(commit, _)| *commit <= through).cloned().collect();
        let cut = |(key, versions): (&RowKey, &Versions)| {
            let visible = versions.partition_point(|version| version.commit <= through);
            (visible > 0).then(|| (key.clone(), versions[..visible].into()))
        };
        Self { by_key: self.by_key.iter().filter_map(cut).collect(), changes }
    }
}

/// Row keys in order. The reader of a range puts new keys in.
#[derive(Debug, Default)]
struct InOrder {
    keys: BTreeSet<RowKey>,
    /// Number of changes whose keys are in.
    changes: usize,
}

impl InOrder {
    fn catch_up(&mut self, rows: &RowMap) {
        self.keys.extend(rows.changes[self.changes..].iter().map(|(_, key)| key.clone()));
        self.changes = rows.changes.len();
    }
}

/// Bytes an entry takes beside its content, measured on a 64-bit machine: a hash slot, a vector, a tree node's share.
const TERM_BYTES: usize = 96;
const POSITION_BYTES: usize = 12;
const ROW_BYTES: usize = 136;
const VERSION_BYTES: usize = 88;
const KEY_BYTES: usize = 64;

/// Entries put in under one lock, so that a large group never keeps readers out for long.
const ENTRIES_PER_LOCK: usize = 64;

impl Overlay {
    /// Makes an empty overlay for the commits after this one.
    pub fn after(after: CommitNo) -> Self {
        Self { after, ..Self::default() }
    }

    /// Returns an independent copy, cut at a commit: rows of async projections may be ahead of the part that is shown.
    pub fn fork(&self, through: CommitNo) -> Self {
        let rows = self.rows.read().fork(through);
        Self {
            after: self.after,
            postings: RwLock::new(self.postings.read().clone()),
            rows: RwLock::new(rows),
            in_order: Mutex::default(),
            keys: Mutex::new(self.keys.lock().clone()),
            layouts: Mutex::new(self.layouts.lock().clone()),
            inline: Mutex::new(self.inline()),
            bytes: AtomicUsize::new(self.bytes()),
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Takes over the changes of a synced group. The writer alone calls it, and publishes the new head after it.
    pub fn apply(&self, delta: Delta) {
        let mut bytes = 0;
        in_batches(delta.postings, |batch| {
            let mut map = self.postings.write();
            for (term, newer) in batch {
                bytes += newer.positions.len() * POSITION_BYTES;
                let postings = map.entry(term).or_default();
                bytes += if postings.positions.is_empty() { TERM_BYTES } else { 0 };
                postings.extend(newer);
            }
        });
        in_batches(delta.rows, |batch| {
            let mut map = self.rows.write();
            for (key, version) in batch {
                bytes += map.push(key, version);
            }
        });
        bytes += delta.keys.len() * KEY_BYTES;
        self.keys.lock().extend(delta.keys);
        bytes += delta.layouts.iter().map(|decl| 64 + decl.layout.len()).sum::<usize>();
        self.layouts.lock().extend(delta.layouts);
        if delta.inline.is_some() {
            *self.inline.lock() = delta.inline;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the inline projections that were declared last in here.
    pub fn inline(&self) -> Option<InlineSet> {
        self.inline.lock().clone()
    }

    /// Calls `each` with every term and its positions.
    pub fn each_postings(&self, each: &mut impl FnMut(Term, &Postings)) {
        self.postings.read().iter().for_each(|(term, postings)| each(*term, postings));
    }

    /// Returns everything in it, sorted, each row in its last version. For the flusher, once nothing is added any more.
    pub fn drain_sorted(&self) -> Drained {
        let map = self.postings.read();
        let mut postings: Vec<_> = map.iter().map(|(term, postings)| (*term, postings.clone())).collect();
        drop(map);
        postings.sort_unstable_by_key(|(term, _)| *term);
        let map = self.rows.read();
        let latest = |versions: &Versions| versions.last().cloned();
        let rows = map.by_key.iter().filter_map(|(key, versions)| Some((key.clone(), latest(versions)?)));
        let mut rows: Vec<RowEntry> = rows.collect();
        drop(map);
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut keys = self.keys.lock().clone();
        keys.sort_unstable_by_key(|(term, used)| (used.lane, used.commit, *term));
        Drained { postings, rows, keys, layouts: self.layouts.lock().clone(), inline: self.inline() }
    }
}

impl History for Overlay {
    fn row_change(&self, key: &[u8], since: Since) -> Option<RowVersion> {
        let map = self.rows.read();
        let versions = map.by_key.get(key)?;
        // Commits rise, and a hot row has many: nearly always the answer is that none is newer than the last.
        let first = versions.partition_point(|version| version.commit <= since.after);
        versions.get(first).filter(|version| since.has(version.commit)).cloned()
    }

    fn range_change(&self, range: &KeyRange, since: Since) -> Option<RowVersion> {
        let map = self.rows.read();
        let from = map.changes.partition_point(|(commit, _)| *commit <= since.after);
        let to = map.changes.partition_point(|(commit, _)| *commit <= since.through);
        let (bounds, changes) = (range.as_bounds(), map.changes.get(from..to).unwrap_or_default());
        let is_in = |key: &[u8]| RangeBounds::<[u8]>::contains(&bounds, key);
        let (commit, key) = changes.iter().find(|(_, key)| is_in(key))?;
        map.by_key.get(key)?.iter().find(|version| version.commit == *commit).cloned()
    }
}

fn in_batches<T>(entries: impl IntoIterator<Item = T>, mut put: impl FnMut(&mut dyn Iterator<Item = T>)) {
    let mut entries = entries.into_iter().peekable();
    while entries.peek().is_some() {
        put(&mut entries.by_ref().take(ENTRIES_PER_LOCK));
    }
}

/// An overlay's content in the order in which redb likes it.
#[derive(Default)]
pub(crate) struct Drained {
    pub postings: Vec<(Term, Postings)>,
    pub rows: Vec<RowEntry>,
    pub keys: Vec<(Term, KeyUse)>,
    pub layouts: Vec<LayoutDecl>,
    pub inline: Option<InlineSet>,
}

fn visible(versions: &[RowVersion], through: CommitNo) -> Option<&RowVersion> {
    versions.iter().rev().find(|version| version.commit <= through)
}

impl Layer for Overlay {
    fn row(&self, key: &[u8], through: CommitNo) -> Result<Option<RowVersion>, StorageError> {
        Ok(self.rows.read().by_key.get(key).and_then(|versions| visible(versions, through)).cloned())
    }

    fn rows(
        &self,
        range: &KeyRange,
        direction: Direction,
        through: CommitNo,
        limit: usize,
    ) -> Result<Vec<RowEntry>, StorageError> {
        let mut in_order = self.in_order.lock();
        let map = self.rows.read();
        in_order.catch_up(&map);
        let keys = in_order.keys.range::<[u8], _>(range.as_bounds());
        let seen = |key: &RowKey| {
            map.by_key
                .get(key)
                .and_then(|versions| visible(versions, through))
                .map(|version| (key.clone(), version.clone()))
        };
        Ok(match direction {
            Direction::Forward => keys.filter_map(seen).take(limit).collect(),
            Direction::Backward => keys.rev().filter_map(seen).take(limit).collect(),
        })
    }

    fn positions(
        &self,
        term: Term,
        span: Span,
        direction: Direction,
        limit: usize,
        out: &mut Vec<Position>,
    ) -> Result<(), StorageError> {
        if let Some(postings) = self.postings.read().get(&term) {
            postings.select(span, direction, limit, out);
        }
        Ok(())
    }

    fn stream_version(&self, stream: Term, through: Position) -> Result<Option<u64>, StorageError> {
        Ok(self.postings.read().get(&stream).and_then(|postings| postings.version(through)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Bound;

    /// Rows of an async projection are in its overlay before they are shown. A fork that took them over would fold the same
    /// events a second time, on top of them.
    #[test]
    fn fork_contains_only_visible_rows() {
        let (overlay, old, new): (Overlay, RowKey, RowKey) =
            (Overlay::default(), [7][..].into(), [8][..].into());
        for (commit, keys) in [(1, &[&old][..]), (2, &[&old, &new])] {
            let mut delta = Delta::default();
            for key in keys {
                let version =
                    RowVersion { commit: CommitNo(commit), position: Position(commit), value: None };
                delta.put_row((*key).clone(), version);
            }
            overlay.apply(delta);
        }
        let fork = overlay.fork(CommitNo(1));
        let ever = Since { after: CommitNo(0), through: CommitNo(u64::MAX) };
        let all = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };
        let last = |key: &RowKey| fork.row(key, ever.through).unwrap().map(|version| version.commit.0);
        assert_eq!((last(&old), last(&new)), (Some(1), None));
        let shown = fork.rows(&all, Direction::Forward, ever.through, 10).unwrap();
        let second = Since { after: CommitNo(1), ..ever };
        assert_eq!((shown.len(), fork.range_change(&all, second)), (1, None));
    }

    /// A group enters the overlay before its head is published. A reader that sees the change between the two, and asks the log
    /// for its event, would get an error about damage.
    #[test]
    fn change_is_visible_only_once_published() {
        let (overlay, key): (Overlay, RowKey) = (Overlay::default(), [7][..].into());
        for commit in [1, 2] {
            let mut delta = Delta::default();
            let version =
                RowVersion { commit: CommitNo(commit), position: Position(10 * commit), value: None };
            delta.put_row(key.clone(), version);
            overlay.apply(delta);
        }
        let all = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };
        for (after, through, first) in
            [(0, 2, Some(10)), (0, 1, Some(10)), (1, 2, Some(20)), (1, 1, None), (2, 1, None)]
        {
            let since = Since { after: CommitNo(after), through: CommitNo(through) };
            for change in [overlay.row_change(&key, since), overlay.range_change(&all, since)] {
                assert_eq!(change.map(|version| version.position.0), first, "{since:?}");
            }
        }
    }
}
