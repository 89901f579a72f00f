//! What ten rules over sequences and one over rows cost: appends beside appends without them, and history that is judged afterwards.
//!
//! - `append`: the same load on a store with the rules and on one without, in turn. `behind` is as they come, judged behind the
//!   writer; what they have not judged yet when the load ends belongs to the round. `guards` makes the ten refuse.
//! - `backfill`: `BENCH_EVENTS` events that are in the log already, half a million by default, judged from the first. An
//!   event-check is one event shown to one check. Beside it, the ten declared as data, and a walk over the same log that only decodes.
//! - The last lines are the ratios, each within one round.

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time and reads files")]

mod common;

use common::drive::{Engine, Load, Numbers, Run, Until};
use common::duel::Duel;
use common::orders::{self, Order, ToShip};
use common::workload;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use serde_json::json;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};
use tallystone::check::{Check, Definition};
use tallystone::prelude::*;
use tallystone::store::Commit;

const LOADS: [(&str, Load); 3] = [
    ("1 client", Load::Clients(1)),
    ("64 in flight", Load::InFlight(64)),
    ("100 events a commit", Load::Batch(100)),
];

/// A store of orders; its checks have judged what is there when a round ends.
struct Watched(Store);

impl Engine for Watched {
    type Ticket = Commit;

    fn submit(&self, numbers: Range<u64>) -> Commit {
        self.0.submit(orders::append(numbers))
    }

    fn wait(&self, ticket: Commit) {
        ticket.wait().expect("no rule is broken");
    }

    fn append(&self, numbers: Range<u64>) {
        self.0.append(orders::append(numbers)).expect("no rule is broken");
    }

    fn settle(&self) {
        self.0.settle();
    }
}

impl Watched {
    fn round(&self, load: Load, numbers: &Numbers, until: Until) -> Run {
        let mut run = load.drive(self, numbers, until);
        let began = Instant::now();
        assert!(self.0.checks().wait_for(self.0.stats().position, Duration::from_secs(600)), "checks go on");
        run.elapsed += began.elapsed();
        run
    }
}

fn setup(checks: impl IntoIterator<Item = Check>) -> Setup {
    let setup = Setup::new().events::<Order>().inline::<ToShip>().options(workload::options());
    checks.into_iter().fold(setup, Setup::check)
}

fn append(criterion: &mut Criterion) {
    let dir = common::place();
    let create = |name: &str, checks: Vec<Check>| {
        Watched(Store::create(dir.path().join(name), setup(checks)).expect("a fresh store"))
    };
    let with = |made: fn(Check) -> Check| {
        orders::sequences().map(made).into_iter().chain([orders::standing()]).collect::<Vec<_>>()
    };
    let mut report = Vec::new();
    for (name, checks) in [("behind", with(|check| check)), ("guards", with(Check::guard))] {
        let (watched, bare) = (create(name, checks), create(&format!("beside {name}"), Vec::new()));
        let (of_watched, of_bare) = (Numbers::default(), Numbers::default());
        let mut group = criterion.benchmark_group(format!("append_{name}"));
        for (load_name, load) in LOADS {
            let length = common::round_length().unwrap_or(Duration::from_secs(1));
            group.sample_size(10).sampling_mode(SamplingMode::Flat);
            group.warm_up_time(length).measurement_time(length * 10);
            group.throughput(Throughput::Elements(load.events()));
            let mut duel = Duel::new(format!("{name}, {load_name}"), ["checked", "unchecked"]);
            group.bench_function(load_name.replace(' ', "_"), |bencher| {
                bencher.iter_custom(|commits| {
                    let until = Until::Passed(length);
                    let round = duel.round(
                        || watched.round(load, &of_watched, until),
                        || bare.round(load, &of_bare, until),
                    );
                    round.mul_f64(commits as f64)
                });
            });
            report.push(duel.to_string());
        }
        group.finish();
        assert_eq!(watched.0.checks().open().expect("they can be read"), [], "no rule is broken");
    }
    println!("\nten rules over sequences and one over rows, on the disk of {}", dir.path().display());
    report.iter().for_each(|lines| print!("{lines}"));
}

/// Ten rules as a file would have them.
fn declared() -> [Check; 10] {
    let kind = |name: &str| format!("order.{name}");
    let rule = |id: &str, kind_of: &str, when: &str, then: &str, rest: serde_json::Value| {
        let mut rule = json!({
            "id": id, "kind": kind_of, "when": kind(when), "families": ["order"], "severity": "ticket",
            "owner": "desk", "means": "It is not as it must be.", "remedy": "1 look",
        });
        if !then.is_empty() {
            rule["then"] = json!(kind(then));
        }
        let more = rest.as_object().expect("fields").clone();
        rule.as_object_mut().expect("fields").extend(more);
        let definition: Definition = serde_json::from_value(rule).expect("a definition");
        Check::try_from(definition).expect("a good one")
    };
    let closed = || json!({ "closed_by": kind("Closed") });
    [
        rule("paid-before-shipped", "precedence", "Paid", "Shipped", closed()),
        rule("shipped-before-billed", "precedence", "Shipped", "Billed", closed()),
        rule("billed-once", "absence", "Billed", "", json!({ "n": 2, "closed_by": kind("Closed") })),
        rule(
            "nothing-sent-after-cancelled",
            "not_response",
            "Cancelled",
            "Shipped",
            json!({ "within": "30d" }),
        ),
        rule("packed-for-each-parcel", "alternate_precedence", "Packed", "Shipped", closed()),
        rule("begins-as-placed", "init", "Placed", "", closed()),
        rule("placed-once", "absent_between", "Placed", "Placed", json!({ "until": kind("Closed") })),
        rule("cancelled-or-shipped", "not_coexistence", "Cancelled", "Shipped", closed()),
        rule("shipped-as-packed", "chain_precedence", "Packed", "Shipped", closed()),
        rule("placed-is-closed", "each_closed_by", "Placed", "Closed", json!({ "within": "90d" })),
    ]
}

fn backfill(criterion: &mut Criterion) {
    let events = if std::env::var("BENCH_EVENTS").is_ok() { common::preload_events() } else { 500_000 };
    let dir = common::place();
    let path = dir.path().join("store");
    let store = Store::create(&path, setup([])).expect("a fresh store");
    for first in (0..events).step_by(1000) {
        store.append(orders::append(first..events.min(first + 1000))).expect("the append is good");
    }
    store.close();

    let mut group = criterion.benchmark_group(format!("backfill_{events}"));
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.throughput(Throughput::Elements(events));
    let store = Store::open(&path, setup([])).expect("it was closed");
    group.bench_function("walk_decoded", |bencher| {
        bencher.iter(|| {
            let view = store.view().expect("an open store");
            let found = view.query::<Order>(QueryItem::family::<Order>()).map(|event| event.expect("whole"));
            assert_eq!(found.count() as u64, events, "nothing is missing");
        });
    });
    store.close();
    for (name, checks) in [
        ("10_sequences", orders::sequences().to_vec()),
        ("10_sequences_as_data", declared().to_vec()),
        ("1_standing", vec![orders::standing()]),
    ] {
        group.throughput(Throughput::Elements(events * checks.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| judged(&path, &checks, events)).sum());
        });
    }
    group.finish();
}

/// How long it takes to judge all that is there, from the first event.
fn judged(path: &Path, checks: &[Check], events: u64) -> Duration {
    let _ = std::fs::remove_file(path.join("checks.redb"));
    let began = Instant::now();
    let store = Store::open(path, setup(checks.iter().cloned())).expect("it was closed");
    assert!(store.checks().wait_for(Position::new(events), Duration::from_secs(600)), "checks go on");
    let took = began.elapsed();
    let stats = store.checks().stats();
    assert!(
        stats.iter().all(|check| check.violated == 0 && check.unread == 0),
        "no rule is broken: {stats:?}"
    );
    assert!(
        stats.iter().filter(|check| check.activations > 0).count() + 1 >= checks.len(),
        "they judge: {stats:?}"
    );
    store.close();
    took
}

criterion_group!(benches, append, backfill);
criterion_main!(benches);
