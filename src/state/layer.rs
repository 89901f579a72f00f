//! One layer of derived state, and the one routine that merges layers.
//!
//! A view is a stack of layers, newest first: a request's changes, its group's changes, the active overlay, the frozen one,
//! redb. The same merge serves readers, the writer and the folds.
//!
//! - Versions newer than the reader are skipped *before* layers are merged, so that a removal a reader cannot see yet never
//!   hides the row below it.
//! - Positions of the layers are disjoint and rise from the bottom up; rows may stand in several, and the newest wins.

use super::term::Term;
use crate::error::StorageError;
use crate::order::{CommitNo, Position};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A row as one commit left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowVersion {
    /// The commit that wrote this version.
    pub commit: CommitNo,
    /// The last event of that commit that touched it.
    pub position: Position,
    /// `None` if the row was removed.
    pub value: Option<Arc<[u8]>>,
}

/// A full row key: the table, then the key's ordered bytes.
pub(crate) type RowKey = Arc<[u8]>;

/// A row with its key.
pub(crate) type RowEntry = (RowKey, RowVersion);

/// Direction of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// A range of row keys.
#[derive(Debug, Clone)]
pub(crate) struct KeyRange {
    pub lower: Bound<Vec<u8>>,
    pub upper: Bound<Vec<u8>>,
}

impl KeyRange {
    pub fn as_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.lower.as_ref().map(Vec::as_slice), self.upper.as_ref().map(Vec::as_slice))
    }

    /// Returns whether nothing can stand in it. `BTreeMap::range` and redb refuse such bounds.
    pub fn is_empty(&self) -> bool {
        use Bound::{Excluded, Included};
        match (&self.lower, &self.upper) {
            (Included(low), Included(high)) => low > high,
            (Included(low) | Excluded(low), Excluded(high)) | (Excluded(low), Included(high)) => low >= high,
            _ => false,
        }
    }

    /// Returns the table of its keys, if it begins with a key.
    pub fn table(&self) -> Option<[u8; 4]> {
        match &self.lower {
            Bound::Included(key) | Bound::Excluded(key) => key.first_chunk().copied(),
            Bound::Unbounded => None,
        }
    }

    /// Returns the range of one key.
    pub fn of(key: &[u8]) -> Self {
        Self { lower: Bound::Included(key.to_vec()), upper: Bound::Included(key.to_vec()) }
    }

    /// Cuts the range to the rest, once everything up to `key` was seen.
    pub fn continue_past(&mut self, key: &[u8], direction: Direction) {
        match direction {
            Direction::Forward => self.lower = Bound::Excluded(key.to_vec()),
            Direction::Backward => self.upper = Bound::Excluded(key.to_vec()),
        }
    }
}

/// Positions after one and up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Exclusive.
    pub after: Position,
    /// Inclusive.
    pub through: Position,
}

impl Span {
    /// All present and future positions.
    pub const EVERYTHING: Self = Self { after: Position::START, through: Position(u64::MAX) };

    pub fn is_empty(self) -> bool {
        self.after >= self.through
    }
}

/// Commits after one and up to another: an overlay may hold more than is published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    /// Exclusive.
    pub after: CommitNo,
    /// Inclusive.
    pub through: CommitNo,
}

impl Since {
    pub fn has(self, commit: CommitNo) -> bool {
        self.after < commit && commit <= self.through
    }
}

/// One layer. Every answer is cut at the reader's own commit or position.
pub(crate) trait Layer {
    fn row(&self, key: &[u8], through: CommitNo) -> Result<Option<RowVersion>, StorageError>;

    /// Returns up to `limit` rows, in the scan's order, removals included.
    fn rows(
        &self,
        range: &KeyRange,
        direction: Direction,
        through: CommitNo,
        limit: usize,
    ) -> Result<Vec<RowEntry>, StorageError>;

    /// Appends up to `limit` positions of the term, in the scan's order.
    fn positions(
        &self,
        term: Term,
        span: Span,
        direction: Direction,
        limit: usize,
        out: &mut Vec<Position>,
    ) -> Result<(), StorageError>;

    /// Returns the number of events that the stream has up to `through`; `None` if this layer knows of none.
    fn stream_version(&self, stream: Term, through: Position) -> Result<Option<u64>, StorageError>;
}

/// Changes that a layer in memory remembers, removals too. redb does not: it keeps nothing of a removed row.
pub(crate) trait History {
    /// Returns the first change of the row by one of these commits.
    fn row_change(&self, key: &[u8], since: Since) -> Option<RowVersion>;

    /// Returns the first change of any row in the range by one of these commits.
    fn range_change(&self, range: &KeyRange, since: Since) -> Option<RowVersion>;
}

/// Layers, newest first, as one reader sees them.
#[derive(Clone, Copy)]
pub(crate) struct Layers<'a> {
    pub layers: &'a [&'a dyn Layer],
    pub commit: CommitNo,
    pub position: Position,
}

impl Layers<'_> {
    /// Returns the row; `None` if it is not there or removed.
    pub fn row(&self, key: &[u8]) -> Result<Option<RowVersion>, StorageError> {
        for layer in self.layers {
            if let Some(version) = layer.row(key, self.commit)? {
                return Ok(Some(version).filter(|version| version.value.is_some()));
            }
        }
        Ok(None)
    }

    /// Returns up to `limit` rows of the range, in the scan's order.
    pub fn rows(
        &self,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RowEntry>, StorageError> {
        let mut found = Vec::new();
        let mut rest = range.clone();
        while found.len() < limit && !rest.is_empty() {
            let want = (limit - found.len()).clamp(16, 4096);
            let pages = self
                .layers
                .iter()
                .map(|layer| layer.rows(&rest, direction, self.commit, want))
                .collect::<Result<Vec<_>, _>>()?;
            // Past the end of a full page its layer may have more: rows of the others beyond it must wait.
            let ends = pages.iter().filter(|page| page.len() >= want).filter_map(|page| page.last());
            let edge = match direction {
                Direction::Forward => ends.map(|(key, _)| key.clone()).min(),
                Direction::Backward => ends.map(|(key, _)| key.clone()).max(),
            };
            let before_edge = |key: &RowKey| match (&edge, direction) {
                (None, _) => true,
                (Some(edge), Direction::Forward) => key <= edge,
                (Some(edge), Direction::Backward) => key >= edge,
            };
            let mut merged = BTreeMap::new();
            for (key, version) in pages.into_iter().flatten().filter(|(key, _)| before_edge(key)) {
                merged.entry(key).or_insert(version);
            }
            let kept = merged.into_iter().filter(|(_, version)| version.value.is_some());
            let room = limit - found.len();
            match direction {
                Direction::Forward => found.extend(kept.take(room)),
                Direction::Backward => found.extend(kept.rev().take(room)),
            }
            match edge {
                Some(edge) => rest.continue_past(&edge, direction),
                None => break,
            }
        }
        Ok(found)
    }

    /// Returns up to `limit` positions of the term, in the scan's order.
    pub fn positions(
        &self,
        term: Term,
        span: Span,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Position>, StorageError> {
        let span = Span { after: span.after, through: span.through.min(self.position) };
        let mut found = Vec::new();
        let mut ask = |layer: &dyn Layer| match limit - found.len() {
            0 => Ok(()),
            room => layer.positions(term, span, direction, room, &mut found),
        };
        if !span.is_empty() {
            match direction {
                Direction::Forward => self.layers.iter().rev().try_for_each(|layer| ask(*layer))?,
                Direction::Backward => self.layers.iter().try_for_each(|layer| ask(*layer))?,
            }
        }
        Ok(found)
    }

    /// Returns the number of events in the stream.
    pub fn stream_version(&self, stream: Term) -> Result<u64, StorageError> {
        for layer in self.layers {
            if let Some(version) = layer.stream_version(stream, self.position)? {
                return Ok(version);
            }
        }
        Ok(0)
    }
}
