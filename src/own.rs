//! Events of the store's own, in the log among all others. Their family's name is taken.

use crate::event::Event;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// An event of the store's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Own {
    /// A flag was taken.
    Once { flag: String },
    /// Nothing happened, and time passed: checks that wait are told so.
    Passed,
    /// No event of a check that goes by event time is older than this any more: the check may judge up to it.
    Complete { check: String, until: i64 },
    /// A check found an activation violated.
    Violated(Found),
    /// A violation is over: the missing event came, too late.
    Healed(Found),
    /// A violation never was: the missing event had come in time, and was told late.
    Retracted(Found),
    /// A check could not read an event that it must judge.
    Untold(Found),
    /// Nobody is to be alerted of what a check finds until then.
    Muted { check: String, by: String, reason: String, until: u64 },
    /// Somebody has seen to a violation.
    Acknowledged(Seen),
    /// Somebody has decided that a violation may stand.
    Waived { seen: Seen, reason: String, until: u64 },
    /// Something was done about a violation. It counts as remediated until then.
    Remediated { seen: Seen, note: String, until: u64 },
    /// Digest of the events that a consumer says it has applied.
    Applied { consumer: String, count: u64, through: u64, sum: (u64, u64) },
    /// The store was opened: from here on the source of a check is pulled, for rows of this shape.
    Sourced { source: String, shape: [u8; 4] },
    /// The store was closed: nobody pulls, and nobody expects it.
    Left { source: String },
    /// Differences of a source to its last snapshot: keys, and their rows where they have one. Each was read after `as_of` and not
    /// after `until`, by the source's time.
    Evidence { source: String, shape: [u8; 4], as_of: i64, until: i64, changed: Vec<(Bytes, Option<Bytes>)> },
    /// All that a snapshot of a source shows is on record: after `as_of` every row was read, and there were this many.
    Pulled { source: String, shape: [u8; 4], as_of: i64, rows: u64 },
    /// The hashes of the ranges of a source, by where each begins, as far as they are known of the rows on record.
    Hashed { source: String, ranges: Vec<(Bytes, Option<u64>)> },
    /// A source could not be read: what kind of trouble it is, and why.
    Unreachable { source: String, kind: String, why: String },
    /// The log goes on after the commit `end`, without a tail of which a later head was known to be durable.
    TailLost {
        end_commit: u64,
        end_position: u64,
        end_hash: [u8; 32],
        known_commit: u64,
        known_position: u64,
        /// Zeros if it is not known.
        known_hash: [u8; 32],
        known_by: String,
    },
    /// An event says a time too far ahead of the store's clock.
    Skewed(Found),
    /// A projection behind the writer passes over an event, and why.
    Skipped { projection: String, version: u32, position: u64, reason: String },
    /// Columns of a source, as the snapshot shows them that is recorded with this: name, declared type, may be missing.
    Columns { source: String, columns: Vec<(String, Option<String>, bool)> },
    /// A snapshot of a source is not believed: what kind of trouble it is, and why; and what it shows.
    Refused {
        source: String,
        kind: String,
        why: String,
        columns: Vec<(String, Option<String>, bool)>,
        rows: u64,
    },
    /// Somebody accepts what the snapshot was refused for whose refusal is on record there.
    Accepted { source: String, refused: u64, by: String, reason: String },
    /// Violations are open again, by activation and subject: a waiver or the grace after a remediation is over.
    Reopened { check: String, of: Vec<(u64, String)> },
    /// Violations, by activation and subject, ended because this definition of their check does not find them, or because no check
    /// has the name any more; then the definition is zeros.
    Retired { check: String, definition: [u8; 8], of: Vec<(u64, String)> },
    /// Somebody is to be notified.
    Notified(Notice),
    /// A route begins: it takes notices after this position.
    Routed { route: String, after: u64 },
    /// A route has taken the notice at this position. `group`: the notice's, 0 for none; `is_over`: nothing more of it is due.
    Delivered { route: String, through: u64, group: u64, is_over: bool },
    /// A file of rules was read and runs: its text, and the owner and severity that its folder gives to rules without.
    RulesTaken { file: String, text: String, owner: Option<String>, severity: Option<String> },
    /// A file of rules is not there any more.
    RulesRemoved { file: String },
}

impl Own {
    /// The type of [`Own::Complete`]: who looks for nothing else need not decode the others.
    pub const COMPLETE: &str = "tallystone.Complete";
    /// The type of [`Own::TailLost`].
    pub const TAIL_LOST: &str = "tallystone.TailLost";
    /// The type of [`Own::Notified`].
    pub const NOTIFIED: &str = "tallystone.Notified";
    /// The type of [`Own::Applied`].
    pub const APPLIED: &str = "tallystone.Applied";
}

/// A finding of a check.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub check: String,
    pub definition: [u8; 8],
    /// Number among the findings of this definition: from 0, in their order.
    pub number: u64,
    /// Position of the activation; of words judged once for each key, of the key's first event.
    pub activation: u64,
    /// Subject, if no activation says it; empty otherwise.
    pub subject: String,
    /// Rows or a sum that do not agree with the events. Empty: the events do not agree with one another.
    pub disagrees: String,
    /// Position of the event that decided it; 0 where time or the key's end did.
    pub by: u64,
    /// Time of the decision, by the check's own clock: microseconds since 1970.
    pub decided: i64,
    /// Owner, where it is not that of the check; empty otherwise.
    pub owner: String,
    /// Severity, where it is not that of the check, and why; empty otherwise.
    pub severity: String,
    pub why: String,
}

/// A decision to notify: violations that are told together, and their state. A route needs no more if the check does not run any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notice {
    pub check: String,
    /// Owner of the line of violations; empty: that of the check.
    pub line: String,
    pub kind: NoticeKind,
    /// Position of the notice that opened the group. 0: this one does, or it is of no group.
    pub group: u64,
    /// Position at which the first violation of the group was opened, and its activation.
    pub first: u64,
    pub activation: u64,
    /// Time of that, in microseconds since 1970.
    pub since: u64,
    pub about: NoticeAbout,
    /// Reason for telling it, or for a higher severity; empty: the check found it.
    pub why: String,
    pub count: u64,
    /// Violations among them that were waived, or counted as remediated, before.
    pub reopened: u64,
    pub over: Over,
    /// Activation and subject of the first of them.
    pub sample: Vec<(u64, String)>,
}

/// Kind of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NoticeKind {
    Opened,
    /// `ages`: because of its age.
    Escalated {
        ages: bool,
    },
    Reminded,
    Resolved,
    /// Events that could not be read; of no group.
    Indeterminate,
}

/// Properties that routes go by, as they were when the violations were told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NoticeAbout {
    pub severity: String,
    pub owner: String,
    pub labels: Vec<(String, String)>,
}

/// Violations that are over, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Over {
    pub healed: u64,
    pub retracted: u64,
    pub waived: u64,
    pub retired: u64,
}

/// A statement of a person about a violation.
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
            Self::Skipped { projection, .. } => format!("projection:{projection}"),
            Self::Passed => "time".to_owned(),
            Self::RulesTaken { file, .. } | Self::RulesRemoved { file } => format!("rules:{file}"),
            Self::TailLost { end_commit, .. } => format!("log:{end_commit}"),
            Self::Applied { consumer, .. } => format!("consumer:{consumer}"),
            Self::Complete { check, .. }
            | Self::Muted { check, .. }
            | Self::Reopened { check, .. }
            | Self::Retired { check, .. }
            | Self::Notified(Notice { check, .. }) => of_check(check),
            Self::Routed { route, .. } | Self::Delivered { route, .. } => format!("route:{route}"),
            Self::Violated(found)
            | Self::Healed(found)
            | Self::Retracted(found)
            | Self::Untold(found)
            | Self::Skewed(found) => of_check(&found.check),
            Self::Acknowledged(seen) | Self::Waived { seen, .. } | Self::Remediated { seen, .. } => {
                of_check(&seen.check)
            }
            Self::Sourced { source, .. }
            | Self::Left { source }
            | Self::Evidence { source, .. }
            | Self::Pulled { source, .. }
            | Self::Hashed { source, .. }
            | Self::Columns { source, .. }
            | Self::Refused { source, .. }
            | Self::Accepted { source, .. }
            | Self::Unreachable { source, .. } => of_source(source),
        }
    }
}

/// The stream of a check.
fn of_check(id: &str) -> String {
    format!("check:{id}")
}

/// The stream of what was pulled for a check.
pub(crate) fn of_source(id: &str) -> String {
    format!("evidence:{id}")
}

/// A byte string: as one, not as a list of numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct BytesVisitor;

        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }

        from.deserialize_byte_buf(BytesVisitor)
    }
}
