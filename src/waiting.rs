//! Violations that nobody has seen to, and how long they have been there: rows of the store's own events.

use crate::check::Severity;
use crate::order::Timestamp;
use crate::own::{Found, Own, Seen};
use crate::projection::{Folded, Projection, Rows};
use serde::{Deserialize, Serialize};
use std::ops::RangeBounds;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unseen {
    pub definition: [u8; 8],
    /// When it was put on record, in microseconds since 1970.
    pub since: u64,
    /// It may stand until then.
    pub waived_until: u64,
    /// What it was told as because of its age.
    pub escalated: Option<Severity>,
}

/// By check, position of the activation, and subject: what is acknowledged, remediated or over has no row.
pub(crate) struct Waiting;

impl Waiting {
    /// Keys of one check.
    pub fn of(check: &str) -> impl RangeBounds<(String, u64, String)> + use<> {
        (check.to_owned(), 0, String::new())..(check.to_owned(), u64::MAX, String::new())
    }
}

impl Projection for Waiting {
    const NAME: &'static str = "tallystone.waiting";
    type Event = Own;
    type Key = (String, u64, String);
    type Row = Unseen;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        let found = |found: &Found| (found.check.clone(), found.activation, found.subject.clone());
        let seen = |seen: &Seen| (seen.check.clone(), seen.activation, seen.subject.clone());
        match event {
            Own::Violated(violated) => {
                let since = Timestamp::from(rows.recorded_at()).micros();
                let definition = violated.definition;
                rows.put(found(violated), Unseen { definition, since, waived_until: 0, escalated: None })
            }
            Own::Healed(over) | Own::Retracted(over) => rows.remove(&found(over)),
            Own::Acknowledged(by) | Own::Remediated { seen: by, .. } => rows.remove(&seen(by)),
            Own::Waived { seen: by, until, .. } => rows.modify(&seen(by), |row| row.waived_until = *until),
            Own::Escalated { check, severity, of } => of.iter().try_for_each(|(activation, subject)| {
                let key = (check.clone(), *activation, subject.clone());
                rows.modify(&key, |row| row.escalated = Severity::named(severity))
            }),
            _ => Ok(()),
        }
    }
}
