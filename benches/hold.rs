//! How long others wait for their commits beside a transaction that takes its time: under a millisecond, and over a second.
//!
//! - Two clients append, beside the transaction and without it in turn; the ratios are of these two, within one round.
//! - `snapshot`: it reads what nobody changes, waits, and commits. It holds nothing but its snapshot.
//! - `held`: it reads what every commit changes, so its first try meets a conflict; its second has the writer held, and others
//!   wait. The lease ends after `Options::hold_ms_max`, a second: who takes longer meets the next conflict and gives up.
//! - A client that waits for a second makes one commit in it: see the worst wait and the ratio of commits, not the p99.

#![allow(missing_docs, reason = "criterion's macros")]

mod common;

use common::drive::{Load, Numbers, Run, Until};
use common::duel::Duel;
use common::workload::{self, ROWS, Stock, Totals};
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::Duration;
use tallystone::error::Rule;
use tallystone::prelude::*;
use tallystone::request::Retry;
use tallystone::transaction::TxStats;

const CLIENTS: Load = Load::Clients(2);
/// The default of the budget, which observes, is between the two.
const UNDER_1_MS: Duration = Duration::from_micros(900);
const OVER_1_S: Duration = Duration::from_millis(1_010);

/// What is beside the clients.
#[derive(Debug, Clone, Copy)]
struct Slow {
    name: &'static str,
    /// How long it thinks.
    time: Duration,
    /// It reads what every commit changes.
    contended: bool,
    /// Long enough for it to end once.
    round: Duration,
}

#[rustfmt::skip]
const SLOW: [Slow; 4] = [
    Slow { name: "snapshot, under 1 ms", time: UNDER_1_MS, contended: false, round: Duration::from_millis(500) },
    Slow { name: "snapshot, over 1 s", time: OVER_1_S, contended: false, round: Duration::from_millis(1_500) },
    Slow { name: "held, under 1 ms", time: UNDER_1_MS, contended: true, round: Duration::from_millis(500) },
    Slow { name: "held, over 1 s", time: OVER_1_S, contended: true, round: Duration::from_millis(2_500) },
];

/// A row that no client changes.
const APART: u32 = ROWS as u32;

impl Slow {
    /// Decides again and again, until there is nobody to stop it.
    fn run(self, store: &Store, stop: &Receiver<()>) {
        while stop.try_recv() == Err(TryRecvError::Empty) {
            let request = Request::new(self.name).retry(Retry::UpTo(1));
            let done = store.transact(request, |tx| -> Decision {
                let newest = Query::all().backwards().limit(1);
                match self.contended {
                    true => _ = tx.query::<Stock>(newest)?,
                    false => _ = tx.row::<Totals>(&APART)?,
                }
                // The end of the round ends its thinking too.
                let _ = stop.recv_timeout(self.time);
                Ok(tx.append(Stock::Moved { bin: APART, product: APART, amount: 1, note: String::new() })?)
            });
            assert!(matches!(done, Ok(_) | Err(TxError::Conflict(_))), "{:?}", done.err());
        }
    }

    /// The clients, with it beside them.
    fn beside(self, store: &Store, numbers: &Numbers) -> Run {
        thread::scope(|scope| {
            let (go_on, stop) = channel();
            scope.spawn(move || self.run(store, &stop));
            let run = CLIENTS.drive(store, numbers, self.until());
            drop(go_on);
            run
        })
    }

    fn until(self) -> Until {
        Until::Passed(common::round_length().unwrap_or(self.round))
    }
}

fn hold(criterion: &mut Criterion) {
    let dir = common::place();
    let over_a_second = Arc::new(AtomicU64::new(0));
    let counts = over_a_second.clone();
    let setup = workload::setup().on_tx(move |event| {
        let over = event.findings.iter().any(|finding| finding.rule == Rule::Time);
        counts.fetch_add(over.into(), Ordering::Relaxed);
    });
    let (store, numbers) =
        (Store::create(dir.path().join("store"), setup).expect("a fresh store"), Numbers::default());
    let mut report = Vec::new();
    let mut group = criterion.benchmark_group("hold");
    for slow in SLOW {
        let (before, over) = (store.stats().transactions, over_a_second.load(Ordering::Relaxed));
        let mut duel = Duel::new(slow.name, ["beside it", "without it"]);
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(slow.round).measurement_time(slow.round * 10);
        group.bench_function(slow.name.replace(", ", "_").replace(' ', "_"), |bencher| {
            bencher.iter_custom(|commits| {
                let round = duel.round(
                    || slow.beside(&store, &numbers),
                    || CLIENTS.drive(&store, &numbers, Until::Passed(Duration::from_millis(500))),
                );
                round.mul_f64(commits as f64)
            });
        });
        let over = over_a_second.load(Ordering::Relaxed) - over;
        report.push(format!("{duel}    {}\n", told(before, store.stats().transactions, over)));
    }
    group.finish();
    println!("\ntwo clients, on the disk of {}", dir.path().display());
    report.iter().for_each(|lines| print!("{lines}"));
}

/// What came of the transactions in between.
fn told(before: TxStats, now: TxStats, over: u64) -> String {
    format!(
        "its own: {} transactions, {} conflicts, {} retries, {} holds of the writer; {over} over the budget's second",
        now.ended_len - before.ended_len,
        now.conflicts_len - before.conflicts_len,
        now.retries_len - before.retries_len,
        now.holds_len - before.holds_len,
    )
}

criterion_group!(benches, hold);
criterion_main!(benches);
