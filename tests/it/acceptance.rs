//! Rows of the acceptance list that the ground meets, each a test named after its row.

use crate::support::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use tallystone::prelude::*;
use tallystone::testing::{ImagePolicy, SimDisk};
use tallystone::{Options, Setup};

/// Runs `scenario` on a fresh disk with the power cut at every operation in turn, under every image policy, and gives what is
/// left to `check`. Returns the number of cuts.
fn cut_everywhere(scenario: impl Fn(&SimDisk), check: impl Fn(&SimDisk, u64)) -> u64 {
    let rehearsal = fresh_disk(1);
    scenario(&rehearsal);
    let mut cuts = 0;
    for op in 1..=rehearsal.op_count() {
        let disk = fresh_disk(1);
        disk.cut_at(op, ImagePolicy::KeepAll);
        scenario(&disk);
        for policy in ImagePolicy::ALL {
            let image = disk.fork(op);
            image.power_cut(policy);
            check(&image, op);
            cuts += 1;
        }
    }
    cuts
}

#[test]
fn row_001_01_batch_is_atomic_for_crashes_and_readers() {
    // In every crash: an order of four events.
    let order = || {
        deposit(1, 1)
            .and(Bank::Deposited { account: 2, cents: 2 })
            .and(Bank::Deposited { account: 3, cents: 3 })
    };
    let cuts = cut_everywhere(
        |disk| {
            if let Ok(store) = open(disk) {
                for _ in 0..4 {
                    let _ = store.append(order());
                }
            }
        },
        |disk, op| {
            let store = open(disk).unwrap_or_else(|error| panic!("cut at {op}: {error}"));
            let found = events(&store).len();
            assert_eq!(found % 3, 0, "cut at {op}: {found} events");
            assert_eq!(balance(&store, 3), found as u64, "cut at {op}: rows and events differ");
        },
    );
    assert!(cuts > 100, "{cuts} cuts");

    // And beside a reader that never stops looking.
    let store = Store::in_memory(setup()).expect("a store in memory opens");
    let done = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (store, done) = (store.clone(), done.clone());
        move || {
            let mut looks = 0;
            while !done.load(Ordering::Acquire) || looks == 0 {
                let view = store.view().expect("the store is open");
                let found = view.query::<Bank>(Query::all()).count() as u64;
                assert_eq!(found % 3, 0);
                assert_eq!(view.position().get(), found);
                assert_eq!(view.row::<Balances>(&3).expect("rows can be read").unwrap_or(0), found);
                looks += 1;
            }
        }
    });
    for _ in 0..500 {
        store.append(order()).expect("nothing refuses it");
    }
    done.store(true, Ordering::Release);
    reader.join().expect("the reader saw only whole batches");
}

/// Row 001-03, "two writes without a transaction", is met by the type system: see the documentation test of this name in
/// `tallystone::testing`. Here: what is given to one call is one commit.
#[test]
fn row_001_03_one_append_is_one_commit() {
    let store = Store::in_memory(setup()).expect("a store in memory opens");
    let receipt =
        store.append(deposit(1, 5).and(Bank::Deposited { account: 2, cents: 5 })).expect("appended").receipt;
    assert_eq!((receipt.commit.get(), receipt.first.get(), receipt.last.get()), (1, 1, 2));
    // One of the two is refused: neither is there.
    let refused = store.append(deposit(1, 5).and(Bank::Withdrawn { account: 2, cents: 50 }));
    assert!(matches!(refused, Err(AppendError::Fold { index: 1, .. })), "{refused:?}");
    assert_eq!((balance(&store, 1), balance(&store, 2), events(&store).len()), (5, 5, 2));
}

static GATE: Mutex<Option<Arc<(Barrier, Barrier)>>> = Mutex::new(None);

/// A fold that waits for the test in the middle of a commit.
struct Waiting;

impl Projection for Waiting {
    const NAME: &str = "waiting";
    type Event = Bank;
    type Key = u32;
    type Row = u64;

    fn fold(_: &Bank, _: &mut Rows<Self>) -> Folded {
        let gate = GATE.lock().expect("no test panicked").clone();
        if let Some(gate) = gate {
            gate.0.wait();
            gate.1.wait();
        }
        Ok(())
    }
}

#[test]
fn row_001_42_reads_never_wait_for_writer() {
    let store = Store::in_memory(setup().inline::<Waiting>()).expect("a store in memory opens");
    // A single event with a condition needs no transaction object.
    let unused = QueryItem::tag("account", 1);
    store.append(deposit(1, 5).fail_if_events_match(unused, None)).expect("no such event yet");

    let gate = Arc::new((Barrier::new(2), Barrier::new(2)));
    *GATE.lock().expect("no test panicked") = Some(gate.clone());
    let commit = store.submit(deposit(1, 7).key("client", "k"));
    gate.0.wait();
    // The writer stands in the middle of a decision, and will until we let it go.
    assert_eq!((balance(&store, 1), events(&store).len()), (5, 1), "readers go on, and see what is durable");
    assert_eq!(store.view().expect("the store is open").answer("client", "k").expect("readable"), None);
    *GATE.lock().expect("no test panicked") = None;
    gate.1.wait();
    commit.wait().expect("appended");
    assert_eq!((balance(&store, 1), events(&store).len()), (12, 2));
}

#[test]
fn row_003_02_retries_at_random_points_change_nothing() {
    let disk = fresh_disk(3);
    let mut dice = Dice::new(3);
    let mut store = open(&disk).expect("created");
    let mut expected = [0u64; 4];
    for request in 0..10_000u32 {
        let account = dice.roll(4) as u32;
        let append = || {
            deposit(account, 1).key("client", format!("request-{request}")).response(request.to_be_bytes())
        };
        expected[account as usize] += 1;
        // Sends it one to four times; each time the answer, the connection or the whole server may be lost.
        let mut tries = 1 + dice.roll(4);
        while tries > 0 {
            tries -= 1;
            match dice.roll(if tries == 0 { 1 } else { 200 }) {
                1 => {
                    drop(store.submit(append()));
                    disk.kill();
                    drop(store);
                    store = open(&disk).expect("a killed store opens again");
                }
                2 => {
                    disk.power_cut(ImagePolicy::Random);
                    drop(store);
                    store = open(&disk).expect("a store opens again after a power cut");
                }
                3..100 => drop(store.submit(append())),
                _ => {
                    let answer = store.append(append()).expect("nothing refuses it");
                    assert_eq!(answer.response, request.to_be_bytes());
                }
            }
        }
    }
    let found: Vec<u64> = (0..4).map(|account| balance(&store, account)).collect();
    assert_eq!(found, expected);
    assert_eq!(events(&store).len(), 10_000);
    assert_eq!(store.verify().expect("verified").first_bad, None);
}

#[test]
fn row_003_03_state_key_and_response_commit_atomically() {
    cut_everywhere(
        |disk| {
            if let Ok(store) = open(disk) {
                let _ = store.append(deposit(1, 5).key("client", "a").response("first"));
                let _ = store.append(deposit(1, 6).key("client", "b").response("second"));
            }
        },
        |disk, op| {
            let store = open(disk).unwrap_or_else(|error| panic!("cut at {op}: {error}"));
            let view = store.view().expect("the store is open");
            let answer = |key| view.answer("client", key).expect("answers can be read");
            let state = (events(&store).len(), balance(&store, 1), answer("a"), answer("b"));
            let (first, second) = (b"first".to_vec(), b"second".to_vec());
            let whole =
                [(0, 0, None, None), (1, 5, Some(first.clone()), None), (2, 11, Some(first), Some(second))];
            assert!(whole.contains(&state), "cut at {op}: {state:?}");
        },
    );
}

#[test]
fn row_003_07_fingerprint_covers_every_request_part() {
    let store = Store::in_memory(setup()).expect("a store in memory opens");
    let request = |method: &str, path: &str, cents: u64| {
        deposit(1, cents).key("user/7", "9f1c").part("method", method).part("path", path).response("201")
    };
    let view = store.view().expect("the store is open");
    assert_eq!(view.answer("user/7", "9f1c").expect("readable"), None, "no answer before there is one");
    let first = store.append(request("POST", "/deposits", 500)).expect("appended");
    let again = store.append(request("POST", "/deposits", 500)).expect("answered again");
    assert!(again.replayed && again.receipt == first.receipt && again.response == b"201");
    for (other, wrong) in [
        (request("PUT", "/deposits", 500), "method"),
        (request("POST", "/withdrawals", 500), "path"),
        (request("POST", "/deposits", 501), "input"),
        (deposit(1, 500).key("user/7", "9f1c").part("method", "POST"), "path"),
        (request("POST", "/deposits", 500).part("currency", "EUR"), "currency"),
    ] {
        let refused = store.append(other);
        assert!(
            matches!(&refused, Err(AppendError::KeyReused { part, .. }) if part == wrong),
            "{wrong}: {refused:?}"
        );
    }
    let view = store.view().expect("the store is open");
    assert_eq!(view.answer("user/7", "9f1c").expect("readable"), Some(b"201".to_vec()));
    assert_eq!(events(&store).len(), 1);
}

#[test]
fn row_003_08_key_in_two_scopes_makes_two_requests() {
    let store = Store::in_memory(setup()).expect("a store in memory opens");
    let ana = store.append(deposit(1, 5).key("user/ana", "1").response("ana's")).expect("appended");
    let bo = store.append(deposit(2, 9).key("user/bo", "1").response("bo's")).expect("appended");
    assert!(!ana.replayed && !bo.replayed && ana.receipt != bo.receipt);
    let view = store.view().expect("the store is open");
    assert_eq!(view.answer("user/ana", "1").expect("readable"), Some(b"ana's".to_vec()));
    assert_eq!(view.answer("user/bo", "1").expect("readable"), Some(b"bo's".to_vec()));
    // Nor does a boundary between scope and key move.
    assert_eq!(view.answer("user/an", "a1").expect("readable"), None);
}

#[test]
fn row_003_09_key_length_limits_are_configurable() {
    let mut options = Options::default();
    (options.key_bytes_min, options.key_bytes_max) = (20, 100);
    let store = Store::in_memory(setup().options(options)).expect("a store in memory opens");
    let append = |key: String| store.append(deposit(1, 1).key("user/7", key));
    assert!(matches!(append("k".repeat(19)), Err(AppendError::Invalid { what: "key", .. })));
    append("k".repeat(20)).expect("as short as it may be");
    append("k".repeat(100)).expect("as long as it may be");
    let too_long = append("k".repeat(101));
    assert!(
        matches!(too_long, Err(AppendError::TooLarge { what: "key", size: 101, limit: 100 })),
        "{too_long:?}"
    );
    for bad in ["", "with a newline in it \n and more", "with a zero in it \0 and more"] {
        let refused = append(bad.to_owned());
        assert!(matches!(refused, Err(AppendError::Invalid { what: "key", .. })), "{bad:?}: {refused:?}");
    }
    assert_eq!(events(&store).len(), 2, "a refused request leaves nothing");
}

#[test]
fn row_003_30_acknowledged_commits_survive_kill_and_power_cut() {
    for seed in 0..40 {
        let (disk, mut dice) = (fresh_disk(seed), Dice::new(seed + 1));
        let mut acknowledged = Vec::new();
        for life in 0..6 {
            let store = open(&disk).unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"));
            disk.cut_at(disk.op_count() + 1 + dice.roll(60), ImagePolicy::ALL[dice.roll(6) as usize]);
            for n in 0..30 {
                let key = format!("{life}-{n}");
                match store.append(deposit(n, 1).key("client", key.clone())) {
                    Ok(answer) => acknowledged.push((key, n, answer.receipt)),
                    Err(_) => break,
                }
            }
            drop(store);
            match disk.is_off() {
                true => drop(disk.restart()),
                false if dice.roll(2) == 0 => disk.kill(),
                false => drop(disk.power_cut(ImagePolicy::DropAll)),
            }
            let store = open(&disk).unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"));
            for (key, account, receipt) in &acknowledged {
                let again =
                    store.append(deposit(*account, 1).key("client", key.clone())).expect("answered again");
                assert!(
                    again.replayed && again.receipt == *receipt,
                    "seed {seed}, life {life}: {key} was lost"
                );
            }
            assert_eq!(store.verify().expect("verified").first_bad, None, "seed {seed}, life {life}");
        }
    }
}

#[test]
fn row_003_32_only_keys_in_same_store_prevent_duplicates() {
    // The same service twice: once with its keys in a store of their own, once with keys and state in one commit. The client
    // retries after every crash, and means one deposit.
    let apart = |disk: &SimDisk| {
        let keys = Store::open_or_create("/keys", simulated(disk)).map_err(drop)?;
        let bank = Store::open_or_create("/bank", simulated(disk)).map_err(drop)?;
        if keys.view().map_err(drop)?.answer("client", "k").map_err(drop)?.is_none() {
            bank.append(deposit(1, 5)).map_err(drop)?;
            keys.append(Append::event(Bank::Opened { account: 1 }).key("client", "k")).map_err(drop)?;
        }
        Ok::<_, ()>(balance(&bank, 1))
    };
    let together = |disk: &SimDisk| {
        let bank = Store::open_or_create("/bank", simulated(disk)).map_err(drop)?;
        bank.append(deposit(1, 5).key("client", "k")).map_err(drop)?;
        Ok::<_, ()>(balance(&bank, 1))
    };
    let doubled = |serve: &dyn Fn(&SimDisk) -> Result<u64, ()>| {
        let doubled = std::cell::Cell::new(0);
        cut_everywhere(
            |disk| {
                let _ = serve(disk);
            },
            |disk, op| match serve(disk).unwrap_or_else(|()| panic!("cut at {op}: the retry failed")) {
                5 => {}
                10 => doubled.set(doubled.get() + 1),
                other => panic!("cut at {op}: the balance is {other}"),
            },
        );
        doubled.get()
    };
    assert!(doubled(&apart) > 0, "two stores disagree after some crash");
    assert_eq!(doubled(&together), 0, "one commit never does");
}

/// Keeps the imports honest: a setup is what every test starts from.
#[test]
fn an_empty_setup_opens() {
    Store::in_memory(Setup::new()).expect("nothing contradicts itself");
}
