//! What a durable commit costs, beside a raw log on the same disk in the same run.
//!
//! - `BENCH_EVENTS=10000000 cargo bench --bench append` measures in a store of ten million events.
//! - `BENCH_ROUND_S=10` makes each round that long: many flushes in one.
//! - The disk is the one cargo builds on. Nothing here asks for real-time priority: on a busy machine a wake-up may
//!   cost a tick of the scheduler, which the floor pays as well.
//! - The last lines are the ratios, each within one round.

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

mod common;

use common::drive::{Engine, Load, Numbers, Until};
use common::duel::Duel;
use common::floor::RawLog;
use common::workload;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};
use tallystone::Store;

/// Commits in flight while the store is filled: as many as its queue holds.
const PRELOAD_DEPTH: usize = 4096;

const LOADS: [(&str, Load); 6] = [
    ("1 client", Load::Clients(1)),
    ("16 clients", Load::Clients(16)),
    ("64 clients", Load::Clients(64)),
    ("64 in flight", Load::InFlight(64)),
    ("512 in flight", Load::InFlight(512)),
    ("100 events a commit", Load::Batch(100)),
];

fn append(criterion: &mut Criterion) {
    let dir = common::place();
    let path = dir.path().join("store");
    let store = Store::create(&path, workload::setup()).expect("a fresh store");
    let floor = RawLog::create(&dir.path().join("raw"));
    let (numbers, events) = (Numbers::default(), common::preload_events());
    let mut report = preload(&store, &numbers, events, &path);

    for (name, load) in LOADS {
        let mut duel = Duel::new(name, ["tallystone", "raw log"]);
        measure(criterion, name, load, |length| {
            let until = Until::Passed(length);
            duel.round(|| load.drive(&store, &numbers, until), || load.drive(&floor, &numbers, until))
        });
        report.push(duel.to_string());
    }
    replayed(criterion, &store, events);

    println!("\nin a store of {events} events, on the disk of {}", dir.path().display());
    report.iter().for_each(|lines| print!("{lines}"));
    println!("{}", footprint(&store, &path));
}

/// Gives criterion the time of ours; the floor's rounds lie between. A round has a length, not a count of commits.
fn measure(criterion: &mut Criterion, name: &str, load: Load, mut round: impl FnMut(Duration) -> Duration) {
    let mut group = criterion.benchmark_group("append");
    let length = common::round_length().unwrap_or(Duration::from_millis(match load {
        // Long enough to flush.
        Load::InFlight(_) => 1000,
        Load::Clients(_) | Load::Batch(_) => 500,
    }));
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(length)
        .measurement_time(length * 10);
    group.throughput(Throughput::Elements(load.events()));
    group.bench_function(name.replace(' ', "_"), |bencher| {
        bencher.iter_custom(|commits| round(length).mul_f64(commits as f64));
    });
    group.finish();
}

/// A key that was used before: answered on the caller's thread, without a sync.
fn replayed(criterion: &mut Criterion, store: &Store, events: u64) {
    let mut group = criterion.benchmark_group("append");
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    let mut number = 0;
    group.bench_function("replayed_key", |bencher| {
        bencher.iter_custom(|answers| {
            let again: Vec<_> = (0..answers.min(100_000))
                .map(|_| {
                    number = workload::spread(number) % events;
                    workload::append(number..number + 1)
                })
                .collect();
            let mut took = Duration::ZERO;
            let mut left = answers;
            while left > 0 {
                let again: Vec<_> = again.iter().take(left as usize).cloned().collect();
                left -= again.len() as u64;
                let began = Instant::now();
                for append in again {
                    assert!(black_box(store.append(append)).expect("the key is known").replayed);
                }
                took += began.elapsed();
            }
            took
        });
    });
    group.finish();
}

fn preload(store: &Store, numbers: &Numbers, events: u64, path: &Path) -> Vec<String> {
    let began = Instant::now();
    Load::InFlight(PRELOAD_DEPTH).drive(store, numbers, Until::Commits(events));
    let speed = events as f64 / began.elapsed().as_secs_f64();
    let line = format!(
        "filled with {PRELOAD_DEPTH} commits in flight: {speed:.0} events/s; {}\n",
        footprint(store, path)
    );
    print!("{line}");
    vec![line]
}

fn footprint(store: &Store, path: &Path) -> String {
    Engine::settle(store);
    let stats = store.stats();
    let (bytes, events) = (common::bytes_in(path), stats.position.get());
    format!(
        "{events} events in {} MB of files ({} bytes each), log {} MB; memory {} MB, of it keys {} MB, page cache up to {} MB",
        bytes >> 20,
        bytes / events.max(1),
        stats.log_bytes >> 20,
        common::resident_bytes() >> 20,
        stats.keys_bytes >> 20,
        common::state_cache_bytes() >> 20,
    )
}

criterion_group!(benches, append);
criterion_main!(benches);
