//! Checkers of what a store was seen to do, in the manner of Elle, and of Wing, Gong and Lowe.
//!
//! Three oracles, none of which knows how the store works:
//!
//! - [`check`] takes a history of list-append transactions ([`History`]) and reports every anomaly it can prove, each with a
//!   witness in words. It needs no commit order: the order of versions is read off the lists.
//! - [`serial_replay`] takes the commit order as well and runs the transactions one by one on a plain model.
//! - [`linearizable`] takes single calls on a sequential object, such as a store of idempotency keys.
//!
//! What a history must keep, or the verdict means nothing:
//!
//! - A value is appended to a key at most once.
//! - `invoked` is taken before the store is called and `completed` after it replied, from one clock that all processes share. A
//!   counter that each of them bumps will do.
//! - A transaction counts as aborted (`Fail`) only when it certainly did nothing. When in doubt it is `Info`.
//! - Every key is read once at the end: what nobody reads says little.
//!
//! ```ignore
//! let clock = AtomicU64::new(0);
//! let tick = || clock.fetch_add(1, Ordering::SeqCst);
//! let invoked = tick();
//! let seen = run_the_transaction();
//! history.push(Txn::ok(process, invoked..=tick(), vec![read("x", &seen), append("x", 7)]));
//! let report = check(&history);
//! assert!(report.strictly_serializable(), "{report}");
//! ```

mod history;
mod versions;
mod reads;
mod graph;
mod cycles;
mod model;
mod replay;
mod linear;

pub use cycles::{Class, Order};
pub use history::{History, Op, Status, Txn, append, read};
pub use linear::{Call, linearizable};
pub use model::{Answer, Idempotency, Model, Once, OnceOp, Request};
pub use replay::{Committed, replay, serial_replay};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Everything that is wrong with a history, as far as it can be proven from it.
pub fn check(history: &History) -> Report {
    history.assert_well_formed();
    let versions = versions::Versions::of(history);
    let mut findings = reads::findings(&versions);
    let graph = graph::Graph::of(&versions);
    findings.extend(cycles::worst(&graph).iter().map(|cycle| cycle.finding(&versions)));
    Report { findings }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// Two appends of one value to one key: the workload is at fault, not the store.
    RepeatedAppend,
    /// A value was read that nobody appended.
    UnwrittenRead,
    /// A list holds a value twice.
    DuplicateElements,
    /// Two reads of a key of which neither is a prefix of the other.
    IncompatibleOrder,
    /// Reads of a key that together put a value before itself.
    CyclicVersions,
    /// A transaction contradicts what it read or appended before.
    Internal,
    /// A transaction reads what it appends only later.
    FutureRead,
    /// G1a: a read of what an aborted transaction appended.
    AbortedRead,
    /// G1b: a read that stops between two appends of one transaction.
    IntermediateRead,
    /// A committed append stands behind an aborted one.
    DirtyUpdate,
    /// No order of the transactions agrees with all that was seen.
    Cycle(Class, Order),
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Anomaly::RepeatedAppend => f.write_str("repeated-append"),
            Anomaly::UnwrittenRead => f.write_str("unwritten-read"),
            Anomaly::DuplicateElements => f.write_str("duplicate-elements"),
            Anomaly::IncompatibleOrder => f.write_str("incompatible-order"),
            Anomaly::CyclicVersions => f.write_str("cyclic-versions"),
            Anomaly::Internal => f.write_str("internal"),
            Anomaly::FutureRead => f.write_str("future-read"),
            Anomaly::AbortedRead => f.write_str("G1a"),
            Anomaly::IntermediateRead => f.write_str("G1b"),
            Anomaly::DirtyUpdate => f.write_str("dirty-update"),
            Anomaly::Cycle(class, order) => write!(f, "{class}{order}"),
        }
    }
}

/// One anomaly and who it was seen on. Transactions are named `T1`, `T2`, … in the order of the history.
#[derive(Clone, Debug)]
pub struct Finding {
    pub anomaly: Anomaly,
    pub witness: String,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    /// No anomaly at all, real time included.
    pub fn strictly_serializable(&self) -> bool {
        self.findings.is_empty()
    }

    /// No anomaly but such as need a clock, or the order of a process, to be seen.
    pub fn serializable(&self) -> bool {
        self.findings.iter().all(|finding| match finding.anomaly {
            Anomaly::Cycle(_, order) => order != Order::None,
            _ => false,
        })
    }

    pub fn has(&self, anomaly: Anomaly) -> bool {
        self.findings.iter().any(|finding| finding.anomaly == anomaly)
    }

    /// The names of all anomalies found, each once, sorted: `G1a`, `G-single-realtime`, …
    pub fn names(&self) -> Vec<String> {
        let names: BTreeSet<String> =
            self.findings.iter().map(|finding| finding.anomaly.to_string()).collect();
        names.into_iter().collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        if self.findings.is_empty() {
            return f.write_str("no anomaly");
        }
        let mut by_anomaly: BTreeMap<Anomaly, Vec<&str>> = BTreeMap::new();
        for finding in &self.findings {
            by_anomaly.entry(finding.anomaly).or_default().push(&finding.witness);
        }
        for (anomaly, witnesses) in by_anomaly {
            writeln!(f, "{anomaly}, seen {} times:", witnesses.len())?;
            for witness in witnesses.iter().take(SHOWN) {
                writeln!(f, "  {}", witness.replace('\n', "\n  "))?;
            }
        }
        Ok(())
    }
}
