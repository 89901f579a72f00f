//! How long keys are kept: by time and by count, to the exact boundary, and the same on every path and after every rebuild.

use crate::support::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::request::Retention;
use tallystone::testing::{SimClock, SimDisk, SimEntropy};
use tallystone::{Setup, Timestamp};

const HOUR: Duration = Duration::from_secs(3600);
const TICK: Duration = Duration::from_micros(1);

/// A disk, a clock, and the store on them.
struct Lab {
    disk: SimDisk,
    clock: SimClock,
}

impl Lab {
    fn new(seed: u64) -> Self {
        Self { disk: SimDisk::new(seed), clock: SimClock::default() }
    }

    fn setup(&self, retention: Retention) -> Setup {
        let entropy = Arc::new(SimEntropy::new(7));
        let (disk, clock) = (Arc::new(self.disk.clone()), Arc::new(self.clock.clone()));
        setup().options(small()).retention(retention).platform(Platform { disk, clock, entropy }).lockstep()
    }

    fn open(&self, retention: Retention) -> Store {
        Store::open_or_create(Path::new("/store"), self.setup(retention)).expect("an honest disk opens")
    }

    /// Opens again from the log alone.
    fn rebuilt(&self, store: Store, retention: Retention) -> Store {
        store.close();
        self.disk.remove_file("/store/state.redb");
        self.open(retention)
    }
}

trait Remove {
    fn remove_file(&self, path: &str);
}

impl Remove for SimDisk {
    fn remove_file(&self, path: &str) {
        tallystone::disk::Disk::remove(self, Path::new(path)).expect("it is there");
    }
}

fn keyed(key: &str) -> Append {
    deposit(1, 5).key("shop", key).response(key)
}

fn replayed(store: &Store, append: Append) -> bool {
    store.append(append).expect("it is taken").replayed
}

/// Everything is as the log says.
fn assert_sound(store: &Store) {
    assert_eq!(store.verify().expect("it can be read").first_bad, None);
}

// ---- by time ----

#[test]
fn key_expires_at_exact_microsecond_everywhere() {
    let kept = Retention::For(HOUR);
    for rebuild in [false, true] {
        let lab = Lab::new(1);
        let mut store = lab.open(kept);
        let request = || Request::new("pay").key("desk", "a", &1).retention(kept);
        let pay = |tx: &mut Tx| -> Decision<u32> {
            tx.append(Bank::Deposited { account: 2, cents: 1 })?;
            Ok(7)
        };
        assert!(!replayed(&store, keyed("a")) && !store.transact(request(), pay).unwrap().replayed);
        lab.clock.advance(HOUR - TICK);
        if rebuild {
            store = lab.rebuilt(store, kept);
        }
        // The caller's thread, and a group in which the answer is asked for behind a commit.
        assert!(replayed(&store, keyed("a")) && store.transact(request(), pay).unwrap().replayed);
        let behind = [store.submit(deposit(1, 1)), store.submit(keyed("a"))];
        store.step();
        assert_eq!(behind.map(|commit| commit.wait().unwrap().replayed), [false, true]);

        lab.clock.advance(TICK);
        if rebuild {
            store = lab.rebuilt(store, kept);
        }
        let twice = [store.submit(keyed("a")), store.submit(keyed("a"))];
        store.step();
        assert_eq!(twice.map(|commit| commit.wait().unwrap().replayed), [false, true], "new, and once");
        assert!(!store.transact(request(), pay).unwrap().replayed);
        assert!(store.transact(request(), pay).unwrap().replayed);
        assert_sound(&store);
    }
}

#[test]
fn an_expired_key_takes_another_input() {
    let lab = Lab::new(1);
    let store = lab.open(Retention::For(HOUR));
    store.append(keyed("a")).unwrap();
    let other = || deposit(1, 6).key("shop", "a");
    assert!(matches!(store.append(other()), Err(AppendError::KeyReused { .. })));
    lab.clock.advance(HOUR);
    assert!(!replayed(&store, other()));
    assert!(matches!(store.append(keyed("a")), Err(AppendError::KeyReused { .. })), "now it is the other's");
}

#[test]
fn clock_going_back_revives_no_key() {
    let lab = Lab::new(1);
    let store = lab.open(Retention::For(HOUR));
    store.append(keyed("a")).unwrap();
    lab.clock.advance(HOUR);
    let late = store.append(deposit(2, 1)).unwrap();
    lab.clock.jump(Timestamp::from_micros(5));
    assert!(!replayed(&store, keyed("a")), "the store's time never goes back");
    assert!(replayed(&store, keyed("a")));
    let again = store.append(deposit(2, 1)).unwrap();
    assert_eq!(again.receipt.committed_at, late.receipt.committed_at);
}

// ---- by count ----

#[test]
fn keyless_commits_do_not_expire_last_keys() {
    let lab = Lab::new(1);
    let mut store = lab.open(Retention::Last(3));
    for key in ["a", "b", "c"] {
        store.append(keyed(key)).unwrap();
    }
    for _ in 0..50 {
        store.append(deposit(1, 1)).unwrap();
    }
    lab.clock.advance(1000 * HOUR);
    for key in ["a", "b", "c"] {
        assert!(replayed(&store, keyed(key)), "{key} is one of the last three");
    }
    store.append(keyed("d")).unwrap();
    store = lab.rebuilt(store, Retention::Last(3));
    assert!(["b", "c", "d"].iter().all(|key| replayed(&store, keyed(key))));
    assert!(!replayed(&store, keyed("a")), "the fourth from the end");
    assert!(!replayed(&store, keyed("b")), "its own use has made it so");
    assert_sound(&store);
}

#[test]
fn key_expires_and_is_reused_within_group() {
    let lab = Lab::new(1);
    let mut store = lab.open(Retention::Last(1));
    let asked = ["a", "a", "b", "a", "a"].map(|key| store.submit(keyed(key)));
    store.step();
    let commits = asked.map(|commit| commit.wait().unwrap());
    assert_eq!(
        commits.map(|commit| (commit.receipt.commit.get(), commit.replayed)),
        [(1, false), (1, true), (2, false), (3, false), (3, true),]
    );
    assert_sound(&store);
    store = lab.rebuilt(store, Retention::Last(1));
    assert_eq!(store.append(keyed("a")).unwrap().receipt.commit.get(), 3);
    assert_sound(&store);
}

// ---- on record ----

#[test]
fn changed_retention_applies_only_to_later_keys() {
    let policies = [Retention::Forever, Retention::For(HOUR), Retention::Last(2)];
    for (was, is) in policies.iter().flat_map(|was| policies.iter().map(move |is| (*was, *is))) {
        for rebuild in [false, true] {
            let lab = Lab::new(1);
            let mut store = lab.open(was);
            let first = store.append(keyed("a")).unwrap().receipt;
            match rebuild {
                true => store = lab.rebuilt(store, is),
                false => {
                    store.close();
                    store = lab.open(is);
                }
            }
            assert_eq!(store.stats().retention, is, "it is published");
            lab.clock.advance(HOUR);
            store.append(keyed("b")).unwrap();
            let by_time = was == Retention::For(HOUR);
            assert_eq!(replayed(&store, keyed("a")), !by_time, "{was:?}, then {is:?}");
            store.append(keyed("c")).unwrap();
            let again = store.append(keyed("a")).unwrap();
            assert_eq!(again.replayed, was != Retention::Last(2), "{was:?}, then {is:?}");
            assert_eq!(again.receipt == first, was == Retention::Forever);
            assert_sound(&store);
        }
    }
}

#[test]
fn request_overrides_key_retention() {
    let lab = Lab::new(1);
    let store = lab.open(Retention::For(HOUR));
    store.append(keyed("long").retention(Retention::Forever)).unwrap();
    store.append(keyed("short").retention(Retention::For(TICK))).unwrap();
    store.append(keyed("usual")).unwrap();
    lab.clock.advance(TICK);
    assert!(replayed(&store, keyed("long")) && replayed(&store, keyed("usual")));
    assert!(!replayed(&store, keyed("short")), "and this use is kept for an hour");
    lab.clock.advance(HOUR - TICK);
    assert!(replayed(&store, keyed("short")) && !replayed(&store, keyed("usual")));
    lab.clock.advance(10_000 * HOUR);
    assert!(replayed(&store, keyed("long")));
}

#[test]
fn retention_that_keeps_nothing_is_refused() {
    for nothing in
        [Retention::For(Duration::ZERO), Retention::For(Duration::from_nanos(999)), Retention::Last(0)]
    {
        let opened = Store::in_memory(setup().retention(nothing));
        assert!(matches!(opened, Err(OpenError::Setup(wrong)) if wrong[0].starts_with("retention: ")));
        let store = Store::in_memory(setup()).unwrap();
        let refused = store.append(keyed("a").retention(nothing));
        assert!(matches!(refused, Err(AppendError::Invalid { what: "retention", .. })));
        let request = Request::new("pay").key("desk", "a", &1).retention(nothing);
        let refused = store.transact(request, |_| Ok::<_, TxError<()>>(7_u32));
        assert!(matches!(refused, Err(TxError::Invalid { what: "retention", .. })));
    }
}

#[test]
fn key_with_maximum_retention_is_kept() {
    let lab = Lab::new(1);
    let mut store = lab.open(Retention::For(Duration::MAX));
    store.append(keyed("a")).unwrap();
    store.append(keyed("b").retention(Retention::Last(u64::MAX))).unwrap();
    store = lab.rebuilt(store, Retention::Forever);
    lab.clock.advance(1_000_000 * HOUR);
    assert!(replayed(&store, keyed("a")) && replayed(&store, keyed("b")));
}

#[test]
fn key_answers_are_unchanged_by_random_rebuilds() {
    let policies = [
        Retention::Forever,
        Retention::For(HOUR),
        Retention::For(5 * HOUR),
        Retention::Last(4),
        Retention::Last(60),
    ];
    for seed in 0..12 {
        let (lab, mut dice) = (Lab::new(seed), Dice::new(seed));
        let mut store = lab.open(Retention::Forever);
        for _ in 0..200 {
            let key = format!("k{}", dice.roll(60));
            match dice.roll(12) {
                0 => lab.clock.advance(HOUR.mul_f64(dice.roll(1000) as f64 / 300.0)),
                1 => {
                    let answers = |store: &Store| -> Vec<_> {
                        let view = store.view().unwrap();
                        (0..60).map(|key| view.answer("shop", &format!("k{key}")).unwrap()).collect()
                    };
                    let before = answers(&store);
                    store = lab.rebuilt(store, policies[dice.roll(5) as usize]);
                    assert_eq!(answers(&store), before, "seed {seed}");
                }
                _ => drop(store.append(keyed(&key).retention(policies[dice.roll(5) as usize])).unwrap()),
            }
        }
        assert_sound(&store);
    }
}

#[test]
fn latest_key_use_is_served_wherever_stored() {
    // A neighbour that lives a little longer keeps the first use in its chunk.
    let lives =
        [(Retention::For(HOUR), Retention::For(HOUR.mul_f64(1.1))), (Retention::Last(1), Retention::Last(2))];
    let again = [Retention::Forever, Retention::For(HOUR), Retention::Last(9)];
    for ((was, neighbour), is) in lives.iter().flat_map(|was| again.iter().map(move |is| (*was, *is))) {
        let lab = Lab::new(1);
        let mut store = lab.open(Retention::Forever);
        store.append(keyed("a").retention(was)).unwrap();
        store.append(keyed("b").retention(neighbour)).unwrap();
        lab.clock.advance(HOUR);
        let last = store.append(keyed("a").retention(is)).unwrap().receipt;
        store.close();
        store = lab.open(Retention::Forever);
        assert_eq!(store.append(keyed("a")).unwrap().receipt, last, "{was:?}, then {is:?}");
    }
}

// ---- what refers to a key ----

#[test]
fn row_003_26_expired_key_is_new_and_old_events_remain() {
    let lab = Lab::new(1);
    let mut store = lab.open(Retention::For(3 * 24 * HOUR));
    let ride = || Append::event(Bank::Opened { account: 9 }).key("rides", "ride-9").response("ride 9");
    let first = store.append(ride()).unwrap().receipt;
    lab.clock.advance(3 * 24 * HOUR);
    for key in 0..600 {
        store.append(keyed(&format!("other {key}"))).unwrap();
    }
    store = lab.rebuilt(store, Retention::For(3 * 24 * HOUR));
    let view = store.view().unwrap();
    let found: Vec<_> = view.stream::<Bank>(&9).map(|event| event.unwrap().position).collect();
    assert_eq!(found, [first.first], "the event is where its receipt says");
    assert_eq!(view.row::<Balances>(&9).unwrap(), Some(0), "and so is the row");
    assert_eq!(view.answer("rides", "ride-9").unwrap(), None);
    let again = store.append(ride()).unwrap();
    assert!(!again.replayed && again.receipt.commit > first.commit);
    assert_sound(&store);
}

// ---- what it costs ----

#[test]
fn expired_keys_free_memory_and_disk() {
    let sizes = |retention: Retention| {
        let lab = Lab::new(1);
        let mut store = lab.open(retention);
        let mut most = 0;
        for round in 0..8 {
            for key in 0..2000 {
                store.append(deposit(1, 1).key("shop", format!("{round}/{key}"))).unwrap();
            }
            most = most.max(store.stats().keys_bytes);
            lab.clock.advance(HOUR);
        }
        for _ in 0..200 {
            store.append(deposit(1, 1)).unwrap();
        }
        let left = store.stats();
        store.close();
        let state = lab.disk.read_file("/store/state.redb").expect("it is there").len();
        store = lab.open(Retention::Forever);
        assert_eq!(store.stats().keys_len > 0, retention == Retention::Forever, "nothing comes back");
        assert_sound(&store);
        (left.keys_len, left.keys_bytes, most, state)
    };
    let (kept_len, kept_bytes, _, kept_state) = sizes(Retention::Forever);
    assert_eq!(kept_len, 16_000);
    let (len, bytes, most, state) = sizes(Retention::For(HOUR));
    println!("for ever: {kept_bytes} B, {kept_state} on disk; an hour: {most}, {bytes} B, {state} on disk");
    assert_eq!(len, 0);
    assert!(most < kept_bytes / 2 && bytes < kept_bytes / 20, "{bytes} of {most} B, for ever {kept_bytes}");
    assert!(state + 200_000 < kept_state, "{state} bytes of {kept_state}");
}

#[test]
fn long_lived_keys_retain_no_expired_keys() {
    let lab = Lab::new(1);
    let store = lab.open(Retention::For(HOUR));
    for key in 0..1500 {
        let long = [Retention::Forever, Retention::For(10_000 * HOUR), Retention::Last(1 << 40)];
        if let Some(long) = long.get(key) {
            store.append(keyed(&format!("long {key}")).retention(*long)).unwrap();
        }
        store.append(keyed(&format!("short {key}"))).unwrap();
    }
    lab.clock.advance(HOUR);
    for _ in 0..300 {
        store.append(deposit(1, 1)).unwrap();
    }
    assert_eq!(store.stats().keys_len, 3);
    assert!((0..3).all(|key| replayed(&store, keyed(&format!("long {key}")))));
}

#[test]
fn reused_key_outlives_its_expired_first_use() {
    let lab = Lab::new(1);
    let mut store = lab.open(Retention::For(HOUR));
    store.append(keyed("a")).unwrap();
    lab.clock.advance(HOUR);
    let again = store.append(keyed("a").retention(Retention::For(9 * HOUR))).unwrap().receipt;
    lab.clock.advance(HOUR);
    for _ in 0..300 {
        store.append(deposit(1, 1)).unwrap();
    }
    assert_eq!(store.stats().keys_len, 1);
    assert_eq!(store.append(keyed("a")).unwrap().receipt, again);
    assert_sound(&store);
    for _ in 0..2 {
        store.close();
        store = lab.open(Retention::Forever);
        assert_eq!(store.append(keyed("a")).unwrap().receipt, again);
        store = lab.rebuilt(store, Retention::Forever);
        assert_eq!(store.append(keyed("a")).unwrap().receipt, again);
    }
}
