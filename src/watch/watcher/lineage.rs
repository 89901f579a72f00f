//! Definitions of a check that follow one another, and the end of what only an earlier one has found.
//!
//! - A definition that was replaced and comes back judges history anew, and records all that it finds again: what it found before was
//!   taken over, or ended, by the one between. So it runs under another name, derived from its own.
//! - What a definition finds is matched with the violations on record by check, activation and subject. Once it has judged all there
//!   is, the others are retired.
//! - Violations of checks that do not run any more are retired, too.

use super::{RunningCheck, Watcher, row, rows_of};
use crate::alerting::{AlertKey, AlertRow, Alerting};
use crate::check::Check;
use crate::check::word::Time;
use crate::episode::Told;
use crate::error::StorageError;
use crate::own::Own;
use crate::view::Reader;
use crate::watch::dog::BUILT_IN;
use std::collections::BTreeMap;

/// Violations in one event, and events in one append: others want to commit, too.
const PER_EVENT: usize = 500;
const EVENTS: usize = 16;
/// Name of no definition: that of checks that were removed.
const NONE: [u8; 8] = [0; 8];

impl Watcher {
    /// Gives each check the definition that it runs under.
    pub(super) fn as_they_run(&self, declared: &[Check]) -> Result<Vec<Check>, StorageError> {
        declared.iter().map(|check| as_it_runs(&self.ground.reader, check)).collect()
    }

    /// Ends what no definition finds any more, as much as one commit takes. `false`: there is nothing, or not now.
    pub(super) fn retire(&mut self) -> Result<bool, StorageError> {
        let head = self.ground.reader.board.load().head.commit;
        for index in 0..self.all.len() {
            let watched = &self.all[index];
            let has_seen_all =
                watched.untold.is_empty() && (watched.caught_up || watched.head.commit >= head);
            if watched.has_retired || !has_seen_all || !watched.has_looked() {
                continue;
            }
            let (id, definition) = (watched.check.id().to_owned(), watched.check.definition());
            let others = rows_of::<Alerting>(&self.ground.reader, Alerting::open_of(&id))?.into_iter();
            let others = others.filter_map(|(key, row)| match (key, row) {
                (AlertKey::Open(_, activation, subject), AlertRow::Open(row))
                    if row.definition != definition =>
                {
                    Some((activation, subject))
                }
                _ => None,
            });
            let events = self.retired(&id, definition, &others.collect::<Vec<_>>());
            if !events.is_empty() {
                return self.append_some(events);
            }
            self.all[index].has_retired = true;
        }
        self.retire_removed()
    }

    /// Ends the findings of checks that were removed. Rules that cannot be read are not removed.
    fn retire_removed(&mut self) -> Result<bool, StorageError> {
        if self.has_retired || !self.watch.known().unread.is_empty() {
            return Ok(false);
        }
        let runs =
            |id: &str| BUILT_IN.contains(&id) || self.all.iter().any(|watched| watched.check.id() == id);
        let mut removed: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
        for (key, _) in rows_of::<Alerting>(&self.ground.reader, Alerting::open())? {
            if let AlertKey::Open(check, activation, subject) = key
                && !runs(&check)
            {
                removed.entry(check).or_default().push((activation, subject));
            }
        }
        let removed = removed.first_key_value();
        let events = removed.map_or(Vec::new(), |(check, all)| self.retired(check, NONE, all));
        if !events.is_empty() {
            return self.append_some(events);
        }
        self.has_retired = true;
        Ok(false)
    }

    /// Returns as many events as one append takes.
    fn retired(&self, check: &str, definition: [u8; 8], all: &[(u64, String)]) -> Vec<Own> {
        let event =
            |of: &[(u64, String)]| Own::Retired { check: check.to_owned(), definition, of: of.to_vec() };
        let room = self.ground.options.append_events_max.min(EVENTS);
        all.chunks(PER_EVENT).map(event).take(room).collect()
    }

    fn append_some(&mut self, events: Vec<Own>) -> Result<bool, StorageError> {
        let is_recorded = self.append("check", events)?.is_some();
        (self.is_refused, self.has_news) = (!is_recorded, self.has_news || is_recorded);
        Ok(is_recorded)
    }
}

impl RunningCheck {
    /// It has judged what there is to judge: a check of a source outside has seen a snapshot of it.
    fn has_looked(&self) -> bool {
        self.evidence.is_none() || self.book.watermark() > Time::MIN
    }
}

/// The first of its names that is on record last, or not at all.
fn as_it_runs(reader: &Reader, check: &Check) -> Result<Check, StorageError> {
    let line = row::<Alerting>(reader, &AlertKey::Line(check.id().to_owned(), String::new()))?;
    let last = match line {
        Some(AlertRow::Line(line)) => line.definition,
        _ => return Ok(check.clone()),
    };
    let mut definition = check.definition();
    while definition != last && row::<Told>(reader, &(check.id().to_owned(), definition))?.is_some() {
        let mut next = [0; 8];
        blake3::Hasher::new().update(b"again").update(&definition).finalize_xof().fill(&mut next);
        definition = next;
    }
    Ok(check.running_as(definition))
}
