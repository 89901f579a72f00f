//! Checks of sequences, judged by brute force: what the store's own evaluator is held against.
//!
//! It knows the whole log, asks for each activation what the definition asks, and looks at every event of the case to answer. It
//! shares no code with the store, keeps no state between events, and has no deadlines: that a window is over is read off the
//! largest timestamp of the log, the horizon.
//!
//! - [`judge`] gives the verdicts on a log, [`activations`] those of each activation.
//! - [`random`] makes logs and definitions from a seed, [`data`] reads the real ones with their oracles.
//! - [`rome`] is a calendar, for windows of days and months.
//! - [`recorded`] compares what an event recorded with the fold of the events before it.
//!
//! What it holds to, where the table of templates leaves room:
//!
//! - Order is that of appends. Timestamps matter to windows only.
//! - An event that has several roles is C before it is B, and B before it is A. So it is never its own partner, except for
//!   `responded_existence`, which asks for a B anywhere.
//! - `corr` relates an A to its B. The next A of `alternate_response`, the previous B of `alternate_precedence` and the C of
//!   `absent_between` are any.
//! - An attribute that both lack is equal; one that is null is not lacking.

mod def;
mod judge;
pub mod data;
pub mod random;
pub mod recorded;
pub mod rome;

pub use def::{Def, Selector, Template, Where, Window};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub case: String,
    /// Its place in the case.
    pub idx: usize,
    pub kind: String,
    /// Milliseconds.
    pub ts: i64,
    pub attrs: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The log is the beginning of one: violated is only what no continuation can rescue.
    Open,
    /// Every case is complete.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Satisfied,
    Violated,
    Pending,
}

/// The events of a log by case, in the order of the log.
pub struct Cases<'a> {
    pub events: BTreeMap<&'a str, Vec<&'a Event>>,
    /// Up to when time is known to have passed: the largest timestamp.
    pub horizon: i64,
}

impl<'a> Cases<'a> {
    pub fn of(log: &'a [Event]) -> Self {
        let mut events: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        for event in log {
            let case = events.entry(&event.case).or_default();
            assert!(
                case.last().is_none_or(|last| last.idx < event.idx),
                "{} {}: out of order",
                event.case,
                event.idx
            );
            case.push(event);
        }
        Self { events, horizon: log.iter().map(|event| event.ts).max().unwrap_or(i64::MIN) }
    }
}

/// What a verdict is about: an event, or a case as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Activation {
    pub case: String,
    pub idx: Option<usize>,
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.idx {
            Some(idx) => write!(f, "{}:{idx}", self.case),
            None => write!(f, "{}:-", self.case),
        }
    }
}

/// Every activation with its verdict, case by case. An event that activates in two roles is there twice.
pub fn activations(cases: &Cases<'_>, def: &Def, mode: Mode) -> Vec<(Activation, Verdict)> {
    def.assert_well_formed();
    let mut all = Vec::new();
    for (case, events) in &cases.events {
        for (at, verdict) in judge::case(events, def, mode, cases.horizon) {
            all.push((Activation { case: case.to_string(), idx: at.map(|at| events[at].idx) }, verdict));
        }
    }
    all
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    pub activations: usize,
    pub satisfied: usize,
    pub violated: usize,
    pub pending: usize,
    pub cases_activated: usize,
    pub cases_violated: usize,
    /// Of activations that are violated, an event once.
    pub violations: BTreeSet<String>,
}

impl Verdicts {
    pub fn sha256(&self) -> String {
        sha256(&self.violations)
    }
}

pub fn judge(cases: &Cases<'_>, def: &Def, mode: Mode) -> Verdicts {
    let all = activations(cases, def, mode);
    let with = |wanted: Verdict| all.iter().filter(move |(_, verdict)| *verdict == wanted);
    let violated_cases: BTreeSet<&str> = with(Verdict::Violated).map(|(of, _)| of.case.as_str()).collect();
    Verdicts {
        activations: all.len(),
        satisfied: with(Verdict::Satisfied).count(),
        violated: with(Verdict::Violated).count(),
        pending: with(Verdict::Pending).count(),
        cases_activated: all.iter().map(|(of, _)| of.case.as_str()).collect::<BTreeSet<_>>().len(),
        cases_violated: violated_cases.len(),
        violations: with(Verdict::Violated).map(|(of, _)| of.to_string()).collect(),
    }
}

/// Of sorted ids, one a line: by this the oracles name a set.
pub fn sha256(ids: &BTreeSet<String>) -> String {
    let lines = ids.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
    Sha256::digest(lines).iter().map(|byte| format!("{byte:02x}")).collect()
}
