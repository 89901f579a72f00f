//! Reads of a decision, as the condition of its commit: optimistic concurrency control with backward validation (Kung and
//! Robinson 1981), over events, rows, ranges and absences.
//!
//! - Events never change, so a query changed only if there are new matches. Rows and ranges changed if any commit since put
//!   something there or took it away.
//! - The caller's thread checks up to the head it can see, the writer only the commits since.

use super::speculative::Speculation;
use super::{Group, event_at};
use crate::error::{AppendError, Conflict, StorageError};
use crate::log::{Head, Log};
use crate::order::{CommitNo, Position};
use crate::query::Query;
use crate::state::Published;
use crate::state::layer::{Direction, History, KeyRange, Layers, RowKey, RowVersion, Since, Span};
use crate::state::search::Plan;
use std::panic::Location;

/// One read.
#[derive(Debug)]
pub(crate) struct Read {
    pub what: What,
    /// The caller's line; `None` for the condition of a plain append.
    pub at: Option<&'static Location<'static>>,
    /// For events: only those in this span are new to the caller, whatever its snapshot, and asked for.
    pub within: Span,
}

/// Subject of a read, with the words to name it.
#[derive(Debug)]
pub(crate) enum What {
    /// Every event that matches; without a query it is the condition of a plain append.
    Events(Plan, Option<Query>),
    /// A row, and the words for its key.
    Row(RowKey, fn(&[u8]) -> String),
    /// A range of rows of this projection.
    Rows(KeyRange, &'static str),
}

impl What {
    /// Returns its name in a conflict. Made only then: nearly every read still holds.
    pub fn words(&self) -> String {
        match self {
            Self::Events(_, None) => "the append's condition".to_owned(),
            Self::Events(_, Some(query)) => format!("events: {query}"),
            Self::Row(key, words) => words(key),
            Self::Rows(_, projection) => format!("rows of `{projection}`"),
        }
    }
}

/// The reads of one decision.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub all: Vec<Read>,
    /// Snapshot of the decision: none of the reads had changed then.
    pub snapshot: (CommitNo, Position),
    /// Point up to which none of the reads has changed.
    pub checked: (CommitNo, Position),
    /// Reads that saw own events as well.
    pub speculation: Speculation,
}

/// The first change under one of the reads.
pub(crate) struct Change {
    read: usize,
    position: Position,
}

impl Reads {
    /// Makes an empty set of reads for a decision at this head.
    pub fn at(head: &Head) -> Self {
        let stands = (head.commit, head.position);
        Self { snapshot: stands, checked: stands, ..Self::default() }
    }

    /// Forgets all reads: nothing is a condition any more.
    pub fn clear(&mut self) {
        self.all.clear();
        self.speculation.reads.clear();
    }

    /// Checks the commits since the last check, up to the head of `published`. For the caller's thread.
    pub fn check(&mut self, published: &Published, log: &dyn Log) -> Result<(), AppendError> {
        if self.all.is_empty() {
            return Ok(());
        }
        // No stored event is after such a position, and neither is the next one: the condition would never fail.
        let (position, head) = (self.all.iter().map(|read| read.within.after).max(), published.head.position);
        if let Some(position) = position.filter(|position| *position > head) {
            return Err(AppendError::BeyondHead { position, head });
        }
        let Some(history) = self.history(published) else { return Err(AppendError::TooOld) };
        let changed = published.read(&[], |layers| self.changed(layers, &history))?;
        match changed {
            Some(change) => {
                let event = event_at(log, change.position, published.head.commit)?;
                Err(self.conflict(&change, event))
            }
            None => {
                self.checked = (published.head.commit, published.head.position);
                Ok(())
            }
        }
    }

    /// Returns the changes of rows that its reads may miss; empty if it read no rows.
    fn history<'a>(&self, published: &'a Published) -> Option<Vec<&'a dyn History>> {
        match self.all.iter().all(|read| matches!(read.what, What::Events(..))) {
            true => Some(Vec::new()),
            false => published.history(self.checked.0).map(Iterator::collect),
        }
    }

    fn changed(&self, layers: Layers<'_>, history: &[&dyn History]) -> Result<Option<Change>, StorageError> {
        let (commit, position) = self.checked;
        let since = Since { after: commit, through: layers.commit };
        let first = |change: &dyn Fn(&dyn History) -> Option<RowVersion>| {
            history.iter().find_map(|layer| change(*layer)).map(|version| version.position)
        };
        for (read, Read { what, within, .. }) in self.all.iter().enumerate() {
            let changed = match what {
                What::Row(key, _) => first(&|layer| layer.row_change(key, since)),
                What::Rows(range, _) => first(&|layer| layer.range_change(range, since)),
                What::Events(plan, _) => {
                    let (after, through) = (position.max(within.after), layers.position.min(within.through));
                    let since = Span { after, through };
                    plan.positions(layers, since, Direction::Forward, 1)?.first().copied()
                }
            };
            if let Some(position) = changed {
                return Ok(Some(Change { read, position }));
            }
        }
        Ok(None)
    }

    fn conflict(&self, change: &Change, changed_by: Conflict) -> AppendError {
        let Read { what, at, .. } = &self.all[change.read];
        let (read, read_at, snapshot) = (what.words(), *at, self.snapshot.1);
        AppendError::Conflict(Box::new(Conflict { read, read_at, snapshot, ..changed_by }))
    }
}

impl Group<'_> {
    /// Checks the commits after the caller's own check. For the writer.
    pub(super) fn check_reads(&self, reads: &Reads) -> Result<(), AppendError> {
        if reads.all.is_empty() {
            return Ok(());
        }
        let Some(mut history) = reads.history(&self.published) else { return Err(AppendError::TooOld) };
        history.push(&self.delta);
        let changed = self.read(&super::Delta::default(), |layers| {
            reads.changed(Layers { position: self.position, ..layers }, &history)
        })?;
        match changed {
            Some(change) => Err(reads.conflict(&change, self.event_at(change.position)?)),
            None => Ok(()),
        }
    }
}
