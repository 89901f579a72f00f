//! Violations, as rows of the store's own events.
//!
//! - A violation is an episode: it opens, and is healed, retracted, acknowledged, waived or remediated; nothing is deleted.
//! - [`Told`] says how many findings of a definition are on record, so that none is recorded twice.

use crate::order::{Position, Timestamp};
use crate::own::{Found, Own, Seen};
use crate::projection::{Folded, Projection, Rows};
use serde::{Deserialize, Serialize};
use std::ops::RangeBounds;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A violation, as it is kept. Its key is its check, the position of its activation, and its subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Episode {
    pub definition: [u8; 8],
    /// Number of the finding, among those of its definition.
    pub number: u64,
    pub by: u64,
    pub decided: i64,
    pub disagrees: String,
    /// Position at which the finding is on record.
    pub recorded: u64,
    pub end: Option<End>,
    pub acknowledged: Option<String>,
    pub waived: Option<Waiver>,
    pub remediated: Option<(String, u64)>,
    /// Position at which it was opened again last, after a waiver or a remediation. 0: it was not.
    pub reopened: u64,
}

impl Episode {
    pub fn new(
        definition: [u8; 8],
        number: u64,
        by: u64,
        decided: i64,
        disagrees: String,
        recorded: u64,
    ) -> Self {
        let (end, acknowledged, waived, remediated) = (None, None, None, None);
        let reopened = 0;
        Self {
            definition,
            number,
            by,
            decided,
            disagrees,
            recorded,
            end,
            acknowledged,
            waived,
            remediated,
            reopened,
        }
    }
}

/// End of a violation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    Healed { by: u64, decided: i64 },
    Retracted { by: u64 },
    Retired { at: u64 },
}

/// Person who lets it stand, reason, and end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiver {
    pub by: String,
    pub reason: String,
    pub until: u64,
}

/// Violations of checks.
pub(crate) struct Episodes;

impl Episodes {
    /// Keys of one check.
    pub fn of(check: &str) -> impl RangeBounds<(String, u64, String)> + use<> {
        // No event has the largest number for its position.
        (check.to_owned(), 0, String::new())..(check.to_owned(), u64::MAX, String::new())
    }
}

impl Projection for Episodes {
    const NAME: &'static str = "tallystone.episodes";
    type Event = Own;
    type Key = (String, u64, String);
    type Row = Episode;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        let key = |seen: &Seen| (seen.check.clone(), seen.activation, seen.subject.clone());
        match event {
            Own::Violated(found) => {
                let Found { definition, number, by, decided, disagrees, .. } = found.clone();
                let key = (found.check.clone(), found.activation, found.subject.clone());
                let new = Episode::new(definition, number, by, decided, disagrees, rows.position().get());
                // Another definition has found the same: what people said of it stays.
                let episode = match rows.get(&key)?.filter(|older| older.end.is_none()) {
                    Some(Episode { recorded, acknowledged, waived, remediated, reopened, .. }) => {
                        Episode { recorded, acknowledged, waived, remediated, reopened, ..new }
                    }
                    None => new,
                };
                rows.put(key, episode)
            }
            Own::Healed(found) | Own::Retracted(found) => {
                let end = match event {
                    Own::Retracted(_) => End::Retracted { by: found.by },
                    _ => End::Healed { by: found.by, decided: found.decided },
                };
                let key = (found.check.clone(), found.activation, found.subject.clone());
                rows.modify(&key, |row| row.end = Some(end))
            }
            Own::Retired { check, of, .. } => {
                let at = rows.position().get();
                of.iter().try_for_each(|(activation, subject)| {
                    let key = (check.clone(), *activation, subject.clone());
                    rows.modify(&key, |row| row.end = Some(End::Retired { at }))
                })
            }
            Own::Reopened { check, of } => of.iter().try_for_each(|(activation, subject)| {
                let key = (check.clone(), *activation, subject.clone());
                let at = rows.position().get();
                rows.modify(&key, |row| (row.waived, row.remediated, row.reopened) = (None, None, at))
            }),
            Own::Acknowledged(seen) => {
                rows.modify(&key(seen), |row| row.acknowledged = Some(seen.by.clone()))
            }
            Own::Waived { seen, reason, until } => {
                let waiver = Waiver { by: seen.by.clone(), reason: reason.clone(), until: *until };
                rows.modify(&key(seen), |row| (row.waived, row.remediated) = (Some(waiver), None))
            }
            Own::Remediated { seen, .. } => {
                let at = rows.position().get();
                rows.modify(&key(seen), |row| row.remediated = Some((seen.by.clone(), at)))
            }
            _ => Ok(()),
        }
    }
}

/// A violation, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Name of its check.
    pub check: String,
    /// Definition of the check that found it last.
    pub definition: [u8; 8],
    /// The event that began it; of words that are judged once for each key, the key's first.
    pub activation: Position,
    /// Subject, if no event says it: not of checks of sequences.
    pub subject: Option<String>,
    /// Rows as they stood, or a sum, that do not agree with the events. Empty: the events do not agree with one another.
    pub disagrees: String,
    /// The event that decided it. `None`: time did, or the key's end.
    pub by: Option<Position>,
    /// Time of the decision, in the check's own time.
    pub decided_at: SystemTime,
    /// Position at which it is on record.
    pub recorded: Position,
    /// Its state.
    pub state: State,
    /// The person who has seen to it.
    pub acknowledged: Option<String>,
}

/// State of a violation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It is so.
    Open,
    /// The missing event came, this long after it was decided.
    Healed {
        /// The event.
        by: Position,
        /// Time for which it was violated.
        after: Duration,
    },
    /// It never was: the event had come in time, and was told late.
    Retracted {
        /// The event.
        by: Position,
    },
    /// Something was done about it.
    Remediated {
        /// By whom.
        by: String,
        /// Position at which that is on record.
        at: Position,
    },
    /// It may stand, until then.
    Waived {
        /// The person who says so.
        by: String,
        /// Reason.
        reason: String,
        /// End of the waiver.
        until: SystemTime,
    },
    /// No check finds it any more: its check was removed, or is defined otherwise.
    Retired {
        /// Position at which that is on record.
        at: Position,
    },
}

impl Violation {
    pub(crate) fn new((check, activation, subject): (String, u64, String), row: Episode) -> Self {
        let state = match row {
            Episode { end: Some(End::Retracted { by }), .. } => State::Retracted { by: Position::new(by) },
            Episode { end: Some(End::Retired { at }), .. } => State::Retired { at: Position::new(at) },
            // What heals it afterwards is mostly what was done.
            Episode { remediated: Some((by, at)), .. } => State::Remediated { by, at: Position::new(at) },
            Episode { end: Some(End::Healed { by, decided: end }), decided, .. } => State::Healed {
                by: Position::new(by),
                after: Duration::from_micros(u64::try_from(end.saturating_sub(decided)).unwrap_or(0)),
            },
            Episode { waived: Some(waived), .. } => State::Waived {
                by: waived.by,
                reason: waived.reason,
                until: UNIX_EPOCH + Duration::from_micros(waived.until),
            },
            Episode { end: None, .. } => State::Open,
        };
        Self {
            check,
            definition: row.definition,
            activation: Position::new(activation),
            subject: Some(subject).filter(|subject| !subject.is_empty()),
            disagrees: row.disagrees,
            by: (row.by > 0).then(|| Position::new(row.by)),
            decided_at: Timestamp::from_micros(u64::try_from(row.decided).unwrap_or(0)).into(),
            recorded: Position::new(row.recorded),
            state,
            acknowledged: row.acknowledged,
        }
    }

    pub(crate) fn seen(&self, by: &str) -> Seen {
        Seen {
            check: self.check.clone(),
            activation: self.activation.get(),
            subject: self.subject.clone().unwrap_or_default(),
            by: by.to_owned(),
        }
    }
}

/// Number of findings that each definition of a check has on record.
pub(crate) struct Told;

impl Projection for Told {
    const NAME: &'static str = "tallystone.told";
    const VERSION: u32 = 3;
    type Event = Own;
    type Key = (String, [u8; 8]);
    type Row = u64;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Own::Violated(found)
            | Own::Healed(found)
            | Own::Retracted(found)
            | Own::Untold(found)
            | Own::Skewed(found) => rows.put((found.check.clone(), found.definition), found.number + 1),
            _ => Ok(()),
        }
    }
}

/// Mute of a check: nobody is alerted of it until its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mute {
    pub by: String,
    pub reason: String,
    pub until: u64,
}

/// Checks that are muted.
pub(crate) struct Mutes;

impl Projection for Mutes {
    const NAME: &'static str = "tallystone.mutes";
    type Event = Own;
    type Key = String;
    type Row = Mute;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Own::Muted { check, by, reason, until } => {
                let mute = Mute { by: by.clone(), reason: reason.clone(), until: *until };
                rows.put(check.clone(), mute)
            }
            _ => Ok(()),
        }
    }
}
