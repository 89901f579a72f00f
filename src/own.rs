//! Events of the store's own, in the log among all others. Their family's name is taken.

use crate::event::Event;
use serde::{Deserialize, Serialize};

/// An event of the store's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Own {
    /// A flag was taken.
    Once { flag: String },
    /// Nothing happened, and time passed: checks that wait are told so.
    Passed,
    /// Of the events that say their own time none comes any more that is older: checks may take it for over.
    Complete { check: String, until: i64 },
    /// A check found an activation violated.
    Violated(Found),
    /// What was missing came, too late.
    Healed(Found),
    /// What was missing had been there in time, and was told late.
    Retracted(Found),
    /// A check could not read an event that it must judge.
    Untold(Found),
    /// The sink has taken an alert of the findings before this number.
    Alerted { check: String, definition: [u8; 8], through: u64 },
    /// Nobody is to be alerted of what a check finds until then.
    Muted { check: String, by: String, reason: String, until: u64 },
    /// Somebody has seen to a violation.
    Acknowledged(Seen),
    /// Somebody has decided that a violation may stand.
    Waived { seen: Seen, reason: String, until: u64 },
    /// Something was done about a violation.
    Remediated(Seen),
    /// What a consumer says that it has applied.
    Applied { consumer: String, count: u64, through: u64, sum: (u64, u64) },
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub check: String,
    pub definition: [u8; 8],
    /// Which of the findings of this definition: from 0, in their order.
    pub number: u64,
    /// Position of the activation; of words judged once for each key, of the key's first event.
    pub activation: u64,
    /// What it is about, where no activation says so; empty otherwise.
    pub subject: String,
    /// What does not agree with the events: rows, or a sum. Empty: the events do not agree with one another.
    pub disagrees: String,
    /// Position of the event that decided it; 0 where time or the key's end did.
    pub by: u64,
    /// When it was decided, in the check's own time: microseconds since 1970.
    pub decided: i64,
}

/// What a person says of a violation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub check: String,
    pub activation: u64,
    pub subject: String,
    pub by: String,
}

impl Event for Own {
    const FAMILY: &'static str = "tallystone";
    type Id = String;

    fn id(&self) -> String {
        match self {
            Self::Once { flag } => flag.clone(),
            Self::Passed => "time".to_owned(),
            Self::Applied { consumer, .. } => format!("consumer:{consumer}"),
            Self::Complete { check, .. } | Self::Alerted { check, .. } | Self::Muted { check, .. } => {
                of_check(check)
            }
            Self::Violated(found) | Self::Healed(found) | Self::Retracted(found) | Self::Untold(found) => {
                of_check(&found.check)
            }
            Self::Acknowledged(seen) | Self::Waived { seen, .. } | Self::Remediated(seen) => {
                of_check(&seen.check)
            }
        }
    }
}

/// The stream of a check.
fn of_check(id: &str) -> String {
    format!("check:{id}")
}
