//! What a transaction costs in memory, without a disk: the price of tracking what was read, and of checking it at the commit,
//! against the number of reads and the size of the store. The floor beside it is the same decision with untracked reads.

#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::{Deserialize, Serialize};
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

fn filled(cells: u32) -> Store {
    let store = Store::in_memory(Setup::new().inline::<Cells>()).expect("a store in memory");
    for first in (0..cells).step_by(1000) {
        let events = (first..cells.min(first + 1000)).map(|cell| Counted { cell });
        store.append(Append::events(events)).expect("the append is good");
    }
    store
}

/// One decision over so many rows that writes one event.
fn decide(store: &Store, cells: u32, reads: u32, tracked: bool, turn: &mut u32) {
    *turn = turn.wrapping_add(1);
    let first = turn.wrapping_mul(2_654_435_761) % cells;
    let done = store.transact("bench", |tx| -> Decision<()> {
        for cell in (0..reads).map(|read| (first + read) % cells) {
            match tracked {
                true => tx.row::<Cells>(&cell)?,
                false => tx.peek_row::<Cells>(&cell)?,
            };
        }
        Ok(tx.append(Counted { cell: first })?)
    });
    done.expect("nobody interferes");
}

fn tracking(criterion: &mut Criterion) {
    for cells in [1_000, 100_000] {
        let store = filled(cells);
        let mut group = criterion.benchmark_group(format!("{cells}_rows"));
        for reads in [1, 10, 100] {
            group.throughput(Throughput::Elements(u64::from(reads)));
            let mut turn = 0;
            for (name, tracked) in [("tracked", true), ("untracked", false)] {
                group.bench_function(BenchmarkId::new(name, reads), |bencher| {
                    bencher.iter(|| decide(&store, cells, reads, tracked, &mut turn));
                });
            }
        }
        group.bench_function("range_of_100", |bencher| {
            bencher.iter(|| {
                let rows = store.transact("bench", |tx| -> Decision<usize> {
                    let rows = tx.rows::<Cells>(100..200)?.len();
                    tx.append(Counted { cell: 7 })?;
                    Ok(rows)
                });
                assert_eq!(rows.expect("nobody interferes").response, 100);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, tracking);
criterion_main!(benches);
