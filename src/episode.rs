//! What the store's own events say of violations: rows, like any others.
//!
//! - A violation is an episode: it opens, and is healed, retracted, acknowledged, waived or remediated; nothing is deleted.
//! - [`Told`] says how many findings of a definition are on record, so that none is recorded twice.

use crate::own::{Found, Own, Seen};
use crate::projection::{Folded, Projection, Rows};
use serde::{Deserialize, Serialize};

/// A violation, and what became of it. Its key is its check and the position of its activation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Episode {
    pub definition: [u8; 8],
    pub by: u64,
    pub decided: i64,
    /// Where the finding is on record.
    pub recorded: u64,
    pub end: Option<End>,
    pub acknowledged: Option<String>,
    pub waived: Option<Waiver>,
    pub remediated: Option<(String, u64)>,
}

/// How it ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub retracted: bool,
    pub by: u64,
    pub decided: i64,
}

/// Who lets it stand, why, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiver {
    pub by: String,
    pub reason: String,
    pub until: u64,
}

/// Violations of checks.
pub(crate) struct Episodes;

impl Projection for Episodes {
    const NAME: &'static str = "tallystone.episodes";
    type Event = Own;
    type Key = (String, u64);
    type Row = Episode;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        let key = |seen: &Seen| (seen.check.clone(), seen.activation);
        match event {
            Own::Violated(Found { check, definition, activation, by, decided, .. }) => {
                let recorded = rows.position().get();
                let episode = Episode {
                    definition: *definition,
                    by: *by,
                    decided: *decided,
                    recorded,
                    end: None,
                    acknowledged: None,
                    waived: None,
                    remediated: None,
                };
                rows.put((check.clone(), *activation), episode)
            }
            Own::Healed(found) | Own::Retracted(found) => {
                let retracted = matches!(event, Own::Retracted(_));
                let end = End { retracted, by: found.by, decided: found.decided };
                rows.modify(&(found.check.clone(), found.activation), |row| row.end = Some(end))
            }
            Own::Acknowledged(seen) => {
                rows.modify(&key(seen), |row| row.acknowledged = Some(seen.by.clone()))
            }
            Own::Waived { seen, reason, until } => {
                let waiver = Waiver { by: seen.by.clone(), reason: reason.clone(), until: *until };
                rows.modify(&key(seen), |row| row.waived = Some(waiver))
            }
            Own::Remediated(seen) => {
                let at = rows.position().get();
                rows.modify(&key(seen), |row| row.remediated = Some((seen.by.clone(), at)))
            }
            Own::Once { .. } | Own::Passed | Own::Complete { .. } | Own::Untold(_) => Ok(()),
        }
    }
}

/// How many findings of a definition are on record.
pub(crate) struct Told;

impl Projection for Told {
    const NAME: &'static str = "tallystone.told";
    type Event = Own;
    type Key = (String, [u8; 8]);
    type Row = u64;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Own::Violated(found) | Own::Healed(found) | Own::Retracted(found) | Own::Untold(found) => {
                rows.put((found.check.clone(), found.definition), found.number + 1)
            }
            _ => Ok(()),
        }
    }
}
