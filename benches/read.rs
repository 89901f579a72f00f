//! What reads cost, beside a plain walk over the same bytes.
//!
//! - `BENCH_EVENTS` events, ten in each stream and twenty under each `carrier` tag; the page cache is warm, since they were
//!   just written.
//! - The floor reads the log's files in order, 1 MiB at a time, and checksums what it read. It parses nothing.

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time and reads files")]

mod common;

use common::walk::Log;
use common::workload::{self, Stock, Totals, spread};
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tallystone::event::Raw;
use tallystone::prelude::*;

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

const STREAM_EVENTS: u64 = 10;

/// A store that only grows while it is filled.
struct Filled {
    store: Store,
    log: PathBuf,
    events: u64,
}

impl Filled {
    fn new(path: &Path, events: u64) -> Self {
        let store = Store::create(path, workload::setup()).expect("a fresh store");
        common::fill(&store, events, events / STREAM_EVENTS);
        Self { store, log: path.join("log"), events }
    }

    fn view(&self) -> View {
        self.store.view().expect("an open store")
    }

    /// A stream that has events, another one each time.
    fn bin(&self, number: &mut u64) -> u32 {
        *number = spread(*number);
        let Stock::Moved { bin, .. } = workload::event_in(*number % self.events, self.events / STREAM_EVENTS)
        else {
            unreachable!("the bench moves only")
        };
        bin
    }
}

fn read(criterion: &mut Criterion) {
    let dir = common::place();
    let filled = Filled::new(&dir.path().join("store"), common::preload_events());
    let mut group = criterion.benchmark_group(format!("read_{}", filled.events));
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    points(&mut group, &filled);
    scans(&mut group, &filled);
    group.finish();
}

/// One thing at a time.
fn points(group: &mut Group<'_>, filled: &Filled) {
    let view = filled.view();
    group.bench_function("take_a_view", |bencher| bencher.iter(|| black_box(filled.view())));

    let mut number = 0;
    group.bench_function("row", |bencher| {
        bencher.iter(|| {
            number = spread(number);
            view_row(&filled.store, (number % workload::ROWS) as u32)
        });
    });
    group.bench_function("stream_of_10", |bencher| {
        bencher.iter(|| {
            let events = view.stream::<Stock>(&filled.bin(&mut number));
            black_box(events.inspect(|event| assert!(event.is_ok(), "the log is whole")).count())
        });
    });
    group.bench_function("tag_first_10", |bencher| {
        bencher.iter(|| {
            let query = Query::from(QueryItem::tag("carrier", filled.bin(&mut number) / 2)).limit(10);
            black_box(
                view.query::<Stock>(query)
                    .inspect(|event| assert!(event.is_ok(), "the log is whole"))
                    .count(),
            )
        });
    });
    let log = Log::open(&filled.log);
    group.bench_function("floor_10_records", |bencher| {
        bencher.iter(|| {
            (0..10).for_each(|_| {
                number = spread(number);
                black_box(log.record(number));
            });
        });
    });
    group.bench_function("replayed_key", |bencher| {
        let again = || {
            number = spread(number) % filled.events;
            let append = Append::event(workload::event_in(number, filled.events / STREAM_EVENTS));
            workload::keyed(number, append)
        };
        let answer = |append| assert!(filled.store.append(append).expect("the key is known").replayed);
        bencher.iter_batched(again, answer, BatchSize::SmallInput);
    });
}

fn view_row(store: &Store, key: u32) -> Option<workload::Total> {
    // A fresh view each time: rows of one view do not stay readable for ever.
    store.view().expect("an open store").row::<Totals>(&key).expect("derived state is whole")
}

/// Everything, in order.
fn scans(group: &mut Group<'_>, filled: &Filled) {
    group.throughput(Throughput::Elements(filled.events)).sample_size(10);
    let log = Log::open(&filled.log);
    group.bench_function("floor_scan", |bencher| bencher.iter(|| log.walk()));
    group.bench_function("scan_raw", |bencher| {
        bencher.iter(|| all(filled.view().query::<Raw>(Query::all()), filled.events));
    });
    group.bench_function("scan_decoded", |bencher| {
        bencher.iter(|| all(filled.view().query::<Stock>(Query::all()), filled.events));
    });
}

fn all<E>(events: impl Iterator<Item = Result<Sequenced<E>, ReadError>>, expected: u64) {
    let found = events.inspect(|event| assert!(black_box(event).is_ok(), "the log is whole")).count();
    assert_eq!(found as u64, expected, "nothing is missing");
}

criterion_group!(benches, read);
criterion_main!(benches);
