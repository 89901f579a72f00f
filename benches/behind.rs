//! How fast a projection behind the writer catches up, beside a plain walk over the same bytes.
//!
//! - `BENCH_EVENTS` events, a million by default, each in a commit of its own; 10,000 rows. The page cache is warm.
//! - `catch_up` folds everything from the first commit into a fresh file, until that is served: decoding, folds, flushes, the switch.
//! - `walk_raw` reads and decodes the same events as raw ones; `floor_scan` reads the log's files and checksums what it read.

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time and reads files")]

mod common;

use common::walk::Log;
use common::workload::{self, Totals};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use tallystone::event::Raw;
use tallystone::prelude::*;

const STREAMS: u64 = 10_000;

fn behind(criterion: &mut Criterion) {
    let events = if std::env::var("BENCH_EVENTS").is_ok() { common::preload_events() } else { 1_000_000 };
    let dir = common::place();
    let path = dir.path().join("store");
    let setup = Setup::new().behind::<Totals>().options(workload::options());
    let store = Store::create(&path, setup).expect("a fresh store");
    common::fill(&store, events, STREAMS);
    let head = Position::new(events);
    store.wait_for::<Totals>(head, Duration::MAX).expect("its fold does not fail");

    let mut group = criterion.benchmark_group(format!("behind_{events}"));
    group.throughput(Throughput::Elements(events)).sample_size(10).measurement_time(Duration::from_secs(10));
    let log = Log::open(&path.join("log"));
    group.bench_function("floor_scan", |bencher| bencher.iter(|| log.walk()));
    group.bench_function("walk_raw", |bencher| {
        bencher.iter(|| {
            let all = store.view().expect("an open store").query::<Raw>(Query::all());
            let found = all.inspect(|event| assert!(event.is_ok(), "the log is whole")).count();
            assert_eq!(found as u64, events, "nothing is missing");
        });
    });
    group.bench_function("catch_up", |bencher| {
        bencher.iter(|| store.rebuild::<Totals>().expect("its fold does not fail"));
    });
    group.finish();
    let moves: u64 =
        store.view().expect("an open store").rows::<Totals>(..).map(|row| row.expect("a row").1.moves).sum();
    assert_eq!(moves, events, "nothing was left out");
}

criterion_group!(benches, behind);
criterion_main!(benches);
