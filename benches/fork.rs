//! What a test pays for a store of its own: a fresh one, and a fork of one that was filled once. Each is opened, and dropped
//! again with its threads.

#![allow(missing_docs, reason = "criterion's macros")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tallystone::prelude::*;

#[derive(Serialize, Deserialize)]
struct Counted {
    cell: u32,
}

impl Event for Counted {
    const FAMILY: &'static str = "counted";
    type Id = u32;

    fn id(&self) -> u32 {
        self.cell
    }
}

struct Cells;

impl Projection for Cells {
    const NAME: &'static str = "cells";
    type Event = Counted;
    type Key = u32;
    type Row = u64;

    fn fold(event: &Counted, rows: &mut Rows<'_, Self>) -> Folded {
        rows.update(event.cell, |count| *count += 1)
    }
}

/// Where its rows are folded.
#[derive(Debug, Clone, Copy)]
enum Fold {
    Inline,
    Behind,
}

impl Fold {
    fn setup(self) -> Setup {
        match self {
            Self::Inline => Setup::new().inline::<Cells>(),
            Self::Behind => Setup::new().behind::<Cells>(),
        }
    }

    /// A store with so many events in as many commits, over so many rows.
    fn filled(self, events: u32, rows: u32) -> Store {
        let store = Store::in_memory(self.setup()).expect("a store in memory");
        for event in 0..events {
            store.append(Append::event(Counted { cell: event % rows })).expect("the append is good");
        }
        store.wait_for::<Cells>(store.stats().position, Duration::MAX).expect("its fold does not fail");
        store
    }
}

fn fork(criterion: &mut Criterion) {
    for fold in [Fold::Inline, Fold::Behind] {
        let mut group = criterion.benchmark_group(format!("{fold:?}").to_lowercase());
        group.bench_function("fresh", |bencher| {
            bencher.iter(|| Store::in_memory(fold.setup()).expect("a store in memory"));
        });
        for (events, rows) in [(1_000, 200), (100_000, 200), (100_000, 20_000)] {
            let (base, head) = (fold.filled(events, rows), Position::new(events.into()));
            group.bench_function(
                BenchmarkId::new("fork", format!("{events}_events_{rows}_rows")),
                |bencher| {
                    bencher.iter(|| base.fork().expect("it is in memory"));
                },
            );
            // Until its rows can be read.
            group.bench_function(
                BenchmarkId::new("read", format!("{events}_events_{rows}_rows")),
                |bencher| {
                    bencher.iter(|| {
                        let fork = base.fork().expect("it is in memory");
                        let view =
                            fork.wait_for::<Cells>(head, Duration::MAX).expect("its fold does not fail");
                        assert_eq!(
                            view.row::<Cells>(&7).expect("rows can be read"),
                            Some((events / rows).into())
                        );
                    });
                },
            );
        }
        group.finish();
    }
}

criterion_group!(benches, fork);
criterion_main!(benches);
