//! A service that calls another one after its commit, and what is known when that goes wrong: by a plain worker, which looks at rows.

use crate::support::bench::{Bench, lockstep};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tallystone::Timestamp;
use tallystone::check::{About, Check, Severity};
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::testing::{ImagePolicy, SimClock, SimDisk, SimEntropy};
use tallystone::watch::State;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Booking {
    Made { booking: u32, cents: i64 },
    Tried { booking: u32 },
    Charged { booking: u32, receipt: u64 },
}

use Booking::{Charged, Made, Tried};

impl Event for Booking {
    const FAMILY: &'static str = "booking";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Made { booking, .. } | Tried { booking } | Charged { booking, .. }) = self;
        *booking
    }
}

/// Calls that are still to be made.
struct ToCharge;

impl Projection for ToCharge {
    const NAME: &'static str = "to_charge";
    type Event = Booking;
    type Key = u32;
    type Row = i64;

    fn fold(event: &Booking, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Made { booking, cents } => rows.put(*booking, *cents),
            Tried { .. } => Ok(()),
            Charged { booking, .. } => rows.remove(booking),
        }
    }
}

/// What was done about each call, and when: the times are those of the commits that say so.
struct Calls;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Call {
    staged_at: Option<SystemTime>,
    first_attempt_at: Option<SystemTime>,
    last_attempt_at: Option<SystemTime>,
    succeeded_at: Option<SystemTime>,
    receipt: Option<u64>,
}

impl Projection for Calls {
    const NAME: &'static str = "calls";
    type Event = Booking;
    type Key = u32;
    type Row = Call;

    fn fold(event: &Booking, rows: &mut Rows<'_, Self>) -> Folded {
        let now = Some(rows.recorded_at());
        rows.update(event.id(), |call| match event {
            Made { .. } => call.staged_at = now,
            Tried { .. } => {
                call.first_attempt_at = call.first_attempt_at.or(now);
                call.last_attempt_at = now;
            }
            Charged { receipt, .. } => (call.succeeded_at, call.receipt) = (now, Some(*receipt)),
        })
    }
}

/// The other service. What it has done it has done, whatever becomes of us; a key it knows is answered as before.
#[derive(Debug, Default)]
struct Remote {
    is_down: bool,
    calls: u32,
    charged: BTreeMap<String, (u64, i64)>,
}

impl Remote {
    fn charge(&mut self, key: String, cents: i64) -> Result<u64, String> {
        if self.is_down {
            return Err("503".to_owned());
        }
        self.calls += 1;
        let receipt = 1000 + self.charged.len() as u64;
        Ok(self.charged.entry(key).or_insert((receipt, cents)).0)
    }
}

/// Makes the calls that are to be made. The transaction is over, and nothing is held meanwhile.
fn work(store: &Store, remote: &Mutex<Remote>) -> Result<(), String> {
    let waiting: Vec<(u32, i64)> = {
        let view = store.view().map_err(|error| error.to_string())?;
        view.rows::<ToCharge>(..)
            .map(|row| row.map_err(|error| error.to_string()))
            .collect::<Result<_, _>>()?
    };
    for (booking, cents) in waiting {
        let key = format!("charge/{booking}");
        let receipt = remote.lock().expect("nobody panicked").charge(key.clone(), cents)?;
        let outcome = Append::event(Charged { booking, receipt }).key("worker", key);
        store.append(outcome).map_err(|error| error.to_string())?;
    }
    Ok(())
}

const MINUTE: Duration = Duration::from_secs(60);

fn committed_but_not_fulfilled() -> Check {
    let about = About {
        id: "committed-but-not-fulfilled",
        severity: Severity::Page,
        owner: "payments",
        means: "We have the booking and not the money.",
        remedy: "1 look whether the other service answers; 2 let the worker run",
    };
    let made = |event: &Booking| matches!(event, Made { .. });
    let charged = |event: &Booking| matches!(event, Charged { .. });
    about.response(made, charged).within(15 * MINUTE).into()
}

/// Calls that fail after the commit stay pending, are found after their window, and heal once they succeed.
#[test]
fn row_001_22_failed_call_after_commit_is_found_and_healed() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = SimClock::default();
    let open = || {
        let setup = lockstep(&clock).inline::<ToCharge>().alerts(|_| ());
        let setup = setup.check(committed_but_not_fulfilled());
        let store = Store::open_or_create(dir.path().join("store"), setup).expect("it opens");
        Bench { store, clock: clock.clone() }
    };
    let remote = Mutex::new(Remote { is_down: true, ..Remote::default() });
    let bench = open();
    let made = bench.append(Made { booking: 7, cents: 500 });
    assert_eq!(work(&bench.store, &remote), Err("503".to_owned()));
    assert_eq!(
        bench.store.view().unwrap().row::<ToCharge>(&7).unwrap(),
        Some(500),
        "the call is still to be made"
    );
    bench.pass(15 * MINUTE);
    assert_eq!((bench.all(), bench.store.checks().stats()[0].pending), (vec![], 1));
    // Neither the call nor its window is forgotten when the process ends.
    bench.store.close();
    let bench = open();
    bench.pass(Duration::from_secs(1));
    let open = bench.store.checks().open().expect("rows are read");
    assert_eq!(
        open.iter().map(|found| (&*found.check, found.activation)).collect::<Vec<_>>(),
        [("committed-but-not-fulfilled", made)]
    );
    // It answers again, and the worker runs twice.
    remote.lock().unwrap().is_down = false;
    for _ in 0..2 {
        assert_eq!(work(&bench.store, &remote), Ok(()));
    }
    bench.settle();
    assert!(
        matches!(bench.all()[..], [ref found] if matches!(found.state, State::Healed { .. })),
        "{:?}",
        bench.all()
    );
    assert_eq!(bench.store.view().unwrap().row::<ToCharge>(&7).unwrap(), None);
    let remote = remote.into_inner().unwrap();
    assert_eq!((remote.calls, remote.charged["charge/7"]), (1, (1000, 500)));
}

#[test]
fn row_000_16_call_times_are_monotonic_despite_clock_jumps() {
    let begins = Timestamp::from_micros(1_780_000_000_000_000);
    let (clock, start) = (SimClock::new(begins), SystemTime::from(begins));
    let bench = Bench::of(clock.clone(), lockstep(&clock).inline::<Calls>());
    let call = || bench.store.view().unwrap().row::<Calls>(&7).unwrap().expect("it was made");
    bench.append(Made { booking: 7, cents: 500 });
    clock.advance(MINUTE);
    bench.append(Tried { booking: 7 });
    let first = call();
    assert_eq!((first.staged_at, first.first_attempt_at), (Some(start), Some(start + MINUTE)));
    assert_eq!((first.last_attempt_at, first.succeeded_at), (first.first_attempt_at, None));
    // An hour back: until the clock has caught up, it is as late as it was.
    clock.jump(Timestamp::from_micros(begins.micros() - 59 * 60_000_000));
    bench.append(Tried { booking: 7 });
    clock.advance(61 * MINUTE);
    bench.append(Charged { booking: 7, receipt: 1000 });
    let last = call();
    assert_eq!(
        last,
        Call {
            last_attempt_at: Some(start + MINUTE),
            succeeded_at: Some(start + 2 * MINUTE),
            receipt: Some(1000),
            ..first
        }
    );
}

#[test]
fn row_000_17_call_time_and_outcome_are_atomic() {
    let setup = |disk: &SimDisk| {
        let (clock, entropy) = (Arc::new(SimClock::default()), Arc::new(SimEntropy::new(5)));
        let setup =
            Setup::new().platform(Platform { disk: Arc::new(disk.clone()), clock, entropy }).lockstep();
        setup.inline::<ToCharge>().inline::<Calls>()
    };
    // How a life was cut: the other service had done its part and we did not know; or we knew.
    let (mut unknown, mut known) = (0, 0);
    for cut in 1.. {
        let disk = SimDisk::new(cut);
        let remote = Mutex::new(Remote::default());
        let store = Store::open_or_create("/s", setup(&disk)).expect("it is made");
        store.append(Append::event(Made { booking: 7, cents: 500 })).expect("the power is on");
        disk.cut_at(disk.op_count() + cut, ImagePolicy::ALL[cut as usize % ImagePolicy::ALL.len()]);
        let _ = work(&store, &remote);
        drop(store);
        let is_cut = disk.is_off();
        match is_cut {
            true => drop(disk.restart()),
            false => drop(disk.power_cut(ImagePolicy::KeepAll)),
        }

        let store = Store::open_or_create("/s", setup(&disk)).expect("it opens");
        let view = store.view().expect("it is there");
        let to_charge = view.row::<ToCharge>(&7).expect("rows are read");
        let call = view.row::<Calls>(&7).expect("rows are read").expect("it was made");
        match (to_charge, call.succeeded_at, call.receipt) {
            (Some(500), None, None) => unknown += remote.lock().unwrap().calls,
            (None, Some(_), Some(1000)) => known += 1,
            other => panic!("cut {cut}: {other:?}"),
        }
        drop(view);
        // The call can be claimed still, and is made once.
        work(&store, &remote).expect("the power is on");
        let view = store.view().expect("it is there");
        assert_eq!(view.row::<ToCharge>(&7).expect("rows are read"), None, "cut {cut}");
        let call = view.row::<Calls>(&7).expect("rows are read").expect("it was made");
        assert_eq!(call.receipt, Some(1000), "cut {cut}");
        assert_eq!(remote.lock().unwrap().charged.len(), 1, "cut {cut}");
        if !is_cut {
            break;
        }
    }
    assert!(unknown > 0 && known > 0, "{unknown} cut between the call and its outcome, {known} after");
}
