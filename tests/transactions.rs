//! Transactions, as their user sees them.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tallystone::error::Rule;
use tallystone::prelude::*;
use tallystone::request::Retry;
use tallystone::transaction::{Budget, Outcome, Policy, TxEvent, TxState, outside_tx};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Cell {
    Set { cell: u32, value: i64 },
    Added { cell: u32, amount: i64 },
    Cleared { cell: u32 },
}

impl Event for Cell {
    const FAMILY: &'static str = "cell";
    type Id = u32;
    fn id(&self) -> u32 {
        let (Self::Set { cell, .. } | Self::Added { cell, .. } | Self::Cleared { cell }) = self;
        *cell
    }
}

struct Cells;

impl Projection for Cells {
    const NAME: &'static str = "cells";
    type Event = Cell;
    type Key = u32;
    type Row = i64;
    fn fold(event: &Cell, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Cell::Set { cell, value } => rows.put(*cell, *value),
            Cell::Added { cell, amount } => rows.update(*cell, |row| *row += amount),
            Cell::Cleared { cell } => rows.remove(cell),
        }
    }
}

fn setup() -> Setup {
    Setup::new().inline::<Cells>()
}

fn with(cells: &[(u32, i64)]) -> Store {
    filled(Store::in_memory(setup()).unwrap(), cells)
}

fn filled(store: Store, cells: &[(u32, i64)]) -> Store {
    for (cell, value) in cells {
        store.append(Append::event(Cell::Set { cell: *cell, value: *value })).unwrap();
    }
    store
}

fn row(store: &Store, cell: u32) -> Option<i64> {
    store.view().unwrap().row::<Cells>(&cell).unwrap()
}

/// Listens to what transactions report.
fn listened(setup: Setup) -> (Setup, Arc<Mutex<Vec<TxEvent>>>) {
    let heard: Arc<Mutex<Vec<TxEvent>>> = Arc::default();
    let hears = heard.clone();
    (setup.on_tx(move |event| hears.lock().unwrap().push(event.clone())), heard)
}

#[test]
fn a_decision_sees_its_own_events_in_rows_streams_and_queries() {
    let store = with(&[(1, 10)]);
    let answer = store.transact("own", |tx| -> Decision<_> {
        tx.append(Cell::Added { cell: 1, amount: 5 })?;
        tx.append(Cell::Set { cell: 2, value: 7 })?;
        let stream: Vec<_> = tx.stream::<Cell>(&1)?.into_iter().map(|e| (e.stream_version, e.event)).collect();
        let newest = tx.query::<Cell>(Query::all().backwards().limit(1))?;
        Ok((tx.row::<Cells>(&1)?, tx.row::<Cells>(&2)?, tx.rows::<Cells>(..)?.len(), stream, newest[0].event.clone()))
    });
}

#[test]
fn two_transactions_by_hand_and_the_second_is_told_what_changed() {
    let store = with(&[(1, 10), (2, 20)]);
    let mut t1 = store.begin("t1").unwrap();
    let mut t2 = store.begin("t2").unwrap();
    assert_eq!((t1.row::<Cells>(&1).unwrap(), t2.row::<Cells>(&1).unwrap()), (Some(10), Some(10)));
    t1.append(Cell::Set { cell: 1, value: 11 }).unwrap();
    t2.append(Cell::Set { cell: 2, value: 21 }).unwrap();
    t1.commit(()).unwrap();
    let Err(TxError::Conflict(why)) = t2.commit(()) else { panic!("t2 read what t1 changed") };
    assert_eq!((why.read.as_str(), why.label.as_str(), why.position.get()), ("row 1 of `cells`", "t1", 3));
    assert!(why.read_at.is_some_and(|at| at.file().ends_with("transactions.rs")));
    assert_eq!((row(&store, 1), row(&store, 2)), (Some(11), Some(20)));
}

#[test]
fn sixteen_threads_on_one_counter_lose_nothing() {
    let store = with(&[(1, 0)]);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..50 {
                    store
                        .transact("count", |tx| -> Decision<()> {
                            let count = tx.row::<Cells>(&1)?.unwrap_or(0);
                            Ok(tx.append(Cell::Set { cell: 1, value: count + 1 })?)
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(row(&store, 1), Some(800));
}
