//! Reads of rows that a transaction's own events had changed on its snapshot: validated by value.
//!
//! - Own events are folded at the snapshot. Those folds read rows that the transaction did not read, and get a position and
//!   a time that are guesses. A read of their rows rests on all of that.
//! - The writer folds the events again and compares, after each, the results of the reads after that event. A row that comes
//!   out the same is no conflict, whatever its fold depended on: blind updates stay free.
//! - The commit takes the guessed time where it may, so that rows which hold it come out the same.

use super::reads::{Reads, What};
use super::{Draft, Group};
use crate::error::{AppendError, Conflict, StorageError};
use crate::order::{CommitNo, Position, Timestamp};
use crate::projection::{At, Registered, Step};
use crate::state::keys::Moment;
use crate::state::layer::{History, RowEntry, RowKey, RowVersion, Since};
use crate::state::overlay::Delta;
use std::panic::Location;

/// The speculative reads of one decision, in their order.
#[derive(Debug, Default)]
pub(crate) struct Speculation {
    pub reads: Vec<SpeculativeRead>,
    /// The time that own events were folded with.
    pub time: Timestamp,
}

/// A read after some of the transaction's own events.
#[derive(Debug)]
pub(crate) struct SpeculativeRead {
    pub what: What,
    /// The rows in it that own events had changed. The others are a condition like any other.
    pub own: Vec<RowEntry>,
    /// The number of own events that were folded before it.
    pub folded: usize,
    pub at: &'static Location<'static>,
}

/// The rows of a read that `scratch` changes, in the order of their keys.
pub(crate) fn own_rows(what: &What, scratch: &Delta) -> Vec<RowEntry> {
    let copy = |(key, version): (&RowKey, &RowVersion)| (key.clone(), version.clone());
    match what {
        What::Row(key, _) => scratch.rows.get_key_value(key).map(copy).into_iter().collect(),
        What::Rows(range, _) if !range.is_empty() => {
            scratch.rows.range::<[u8], _>(range.as_bounds()).map(copy).collect()
        }
        What::Rows(..) | What::Events(..) => Vec::new(),
    }
}

impl Speculation {
    /// Returns the time of the commit: the guessed one, unless no read rests on it, the last commit is later, or the clock was
    /// set back.
    pub fn commit_time(&self, last: Timestamp, now: Timestamp) -> Timestamp {
        let holds = !self.reads.is_empty() && (last..=now).contains(&self.time);
        if holds { self.time } else { now }
    }
}

impl Group<'_> {
    /// Checks that own events which a query returned get the positions and the time that it returned. Needs no fold.
    pub(super) fn check_own_events(&self, reads: &Reads, now: Moment) -> Result<(), AppendError> {
        let (Speculation { reads: all, time }, snapshot) = (&reads.speculation, reads.snapshot.1);
        match all.iter().find(|read| matches!(read.what, What::Events(..))) {
            Some(read) if self.position != snapshot || now.time != *time => {
                Err(self.changed_under(reads, read, snapshot.next(), true)?)
            }
            _ => Ok(()),
        }
    }

    /// Compares the results of the first of `rest` with `draft`, into which `folded` own events were folded, and takes them off.
    pub(super) fn check_own_rows(
        &self,
        reads: &Reads,
        rest: &mut &[SpeculativeRead],
        folded: usize,
        draft: &Draft,
    ) -> Result<(), AppendError> {
        while let Some((read, later)) = rest.split_first().filter(|(read, _)| read.folded <= folded) {
            if !self.are_same(&read.own, &own_rows(&read.what, &draft.delta))? {
                return Err(self.came_out_otherwise(reads, read, draft)?);
            }
            *rest = later;
        }
        Ok(())
    }

    /// Returns whether the rows are the same. A row that own events leave alone is that of the snapshot, and of the group as
    /// well: it is a condition, and was checked.
    fn are_same(&self, was: &[RowEntry], is: &[RowEntry]) -> Result<bool, StorageError> {
        for (one, other) in [(was, is), (is, was)] {
            for (key, own) in one {
                let same = match other.binary_search_by(|(other, _)| other.cmp(key)) {
                    Ok(at) => other[at].1.value == own.value,
                    Err(_) => {
                        let below = self.read(&Delta::default(), |layers| layers.row(key))?;
                        below.and_then(|version| version.value) == own.value
                    }
                };
                if !same {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Returns the cause: a commit changed a row that the folds looked at, or moved position or time by coming between. If
    /// neither, a fold is no function of the event and the rows.
    fn came_out_otherwise(
        &self,
        reads: &Reads,
        read: &SpeculativeRead,
        draft: &Draft,
    ) -> Result<AppendError, StorageError> {
        let (commit, position) = reads.snapshot;
        let table = match &read.what {
            What::Row(key, _) => key.first_chunk().copied(),
            What::Rows(range, _) => range.table(),
            What::Events(..) => None,
        };
        let projection = self.rules.projections.all.iter().find(|projection| Some(projection.id) == table);
        let Some(projection) = projection else {
            return self.changed_under(reads, read, position.next(), true);
        };
        if draft.commit.commit == commit.next() && draft.commit.time == reads.speculation.time {
            let why = format!(
                "{} came out otherwise when the same events were folded again on the same rows: a fold is a function \
                 of the event and the rows, nothing else",
                read.what.words()
            );
            return Ok(AppendError::Fold { projection: projection.name, index: read.folded - 1, why });
        }
        let cause = self.cause(reads, read.folded, draft, projection)?;
        self.changed_under(reads, read, cause.unwrap_or(position.next()), cause.is_none())
    }

    /// Returns the first change since the snapshot of a row that the folds of the first `folded` own events look at.
    fn cause(
        &self,
        reads: &Reads,
        folded: usize,
        draft: &Draft,
        projection: &Registered,
    ) -> Result<Option<Position>, StorageError> {
        let (mut scratch, mut looked_at) = (Delta::default(), Vec::new());
        for (index, event) in draft.commit.events[..folded].iter().enumerate() {
            let position = Position(draft.commit.first.0 + index as u64);
            let at = At { commit: draft.commit.commit, position, time: draft.commit.time };
            let (limits, published, group) = (self.rules.limits, &*self.published, &self.delta);
            let mut step = Step { at, limits, published, group, scratch: &mut scratch };
            if let Some(raw) = event.borrowed().ok().filter(|raw| projection.wants(raw.family())) {
                projection.fold_noting(&raw, &mut step, &mut looked_at)?;
            }
        }
        let since = Since { after: reads.snapshot.0, through: CommitNo(u64::MAX) };
        let kept = self.published.history(since.after).into_iter().flatten();
        let history: Vec<&dyn History> = kept.chain([&self.delta as &dyn History]).collect();
        let changes = looked_at.iter().filter_map(|range| {
            history.iter().find_map(|layer| layer.range_change(range, since)).map(|version| version.position)
        });
        Ok(changes.min())
    }

    fn changed_under(
        &self,
        reads: &Reads,
        read: &SpeculativeRead,
        changed_at: Position,
        needs_writer: bool,
    ) -> Result<AppendError, StorageError> {
        // No event came between: a commit without one moved the time, or the clock was set back.
        if changed_at > self.position {
            return Ok(AppendError::TooOld);
        }
        let by = self.event_at(changed_at)?;
        let words = format!("{} with the transaction's own events", read.what.words());
        let (read_at, snapshot) = (Some(read.at), reads.snapshot.1);
        Ok(AppendError::Conflict(Box::new(Conflict { read: words, read_at, snapshot, needs_writer, ..by })))
    }
}
