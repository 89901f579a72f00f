//! Checks that come and go while the store is open.

use crate::check::{Check, Severity};
use crate::rule_texts::RuleText;
use std::collections::BTreeMap;
use std::time::Duration;

/// Owner of unreadable rules, if nobody else is named.
pub(crate) const KEEPER: &str = "whoever keeps the rules";

/// Source of checks besides the setup.
pub(crate) trait Origin: Send {
    /// Looks again, if it is time. `None`: nothing is new.
    fn look(&mut self, now: Duration) -> Option<Known>;

    /// Takes over texts of rules that are on record: they stood before, if nothing is known of their files yet.
    fn recall(&mut self, recorded: BTreeMap<String, RuleText>);

    /// Texts of rules that run and are not on record as they are, and files on record that are gone.
    fn unrecorded(&self, bytes_max: usize) -> BTreeMap<String, Option<RuleText>>;

    /// These are on record now.
    fn note_recorded(&mut self, texts: BTreeMap<String, Option<RuleText>>);

    /// Returns the state of the last look.
    fn known(&self) -> Known;

    /// All there are to be, those of the setup first.
    fn checks(&self) -> Vec<Check>;

    /// Time of the next look, by the monotonic clock.
    fn due(&self) -> Duration;
}

/// Known facts about the source of checks.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// By name: how often a check is due.
    pub periods: BTreeMap<String, Duration>,
    /// By file: what cannot be read.
    pub unread: BTreeMap<String, Unread>,
    #[cfg(feature = "rules")]
    pub files: Vec<super::folder::RuleFile>,
}

/// Rules that cannot be read.
#[derive(Debug, Clone)]
pub(crate) struct Unread {
    pub owner: String,
    pub severity: Severity,
    /// Error, with a note if older rules stand.
    pub why: String,
}
