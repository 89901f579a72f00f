//! The rules of transactions, one test each, made from the scenario that each of them closes; and who starves.

use crate::support::interleave;
use crate::support::interleave::{Cell, Cells, State, fill};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tallystone::Options;
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::request::Retry;
use tallystone::testing::{Random, SimClock, SimDisk, SimEntropy};
use tallystone::transaction::{TxEvent, TxState};

/// Two types of events, each with a tag of its own.
#[derive(Serialize, Deserialize)]
enum Filler {
    Left { number: u64, tags: Vec<String> },
    Right { number: u64 },
}

impl Event for Filler {
    const FAMILY: &str = "filler";
    type Id = ();

    fn id(&self) {}

    fn tags(&self) -> Tags {
        match self {
            Self::Left { tags, .. } => {
                tags.iter().fold(Tags::of("side", "left"), |all, tag| all.and("f", tag))
            }
            Self::Right { .. } => Tags::of("side", "right"),
        }
    }
}

/// In lockstep on a simulated disk: a few appends flush.
struct Lab {
    disk: SimDisk,
    store: Store,
}

impl Lab {
    fn new(base: &[(u32, i64)]) -> Self {
        Self::with(base, |setup| setup)
    }

    fn with(base: &[(u32, i64)], more: impl FnOnce(Setup) -> Setup) -> Self {
        let disk = SimDisk::new(1);
        let (clock, entropy) = (Arc::new(SimClock::default()), Arc::new(SimEntropy::new(1)));
        let platform = Platform { disk: Arc::new(disk.clone()), clock, entropy };
        let mut options = Options::default();
        (options.segment_bytes_min, options.segment_bytes_max) = (64 << 10, 1 << 20);
        (options.overlay_bytes_max, options.state_cache_bytes) = (4096, 1 << 16);
        let setup = Setup::new().inline::<Cells>().events::<Filler>().options(options);
        let store = Store::create("/store", more(setup.platform(platform).lockstep())).expect("a new store");
        fill(&store, base);
        Self { disk, store }
    }

    /// Fills the overlay with what nobody reads, until it is flushed once.
    fn flush(&self) {
        let before = self.store.stats().flushed_commit;
        for number in 0.. {
            if self.store.stats().flushed_commit > before {
                break;
            }
            let run = self.store.stats().position;
            let tags = (0..30).map(|tag| format!("{run}-{number}-{tag}")).collect();
            self.store.append(Append::event(Filler::Left { number, tags })).expect("nothing refuses it");
        }
    }
}

fn set(store: &Store, cell: u32, value: i64) {
    store.append(Append::event(Cell::Set { cell, value })).expect("nothing refuses it");
}

fn remove(store: &Store, cell: u32) {
    store.append(Append::event(Cell::Removed { cell })).expect("nothing refuses it");
}

/// The read that was changed, if one was.
fn conflict(committed: Result<Committed<()>, TxError>) -> Option<String> {
    match committed {
        Ok(_) => None,
        Err(TxError::Conflict(conflict)) => Some(conflict.read),
        Err(error) => panic!("{error} ({error:?})"),
    }
}

const ROWS: &[(u32, i64)] = &[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)];

/// T1 reads at 100, T2 removes at 101, the flush takes the row out of redb and drops the overlay: nothing newer than 100 is left
/// to be found.
#[test]
fn risk_12_removed_and_flushed_row_is_conflict() {
    type Read = fn(&Tx<'_>) -> bool;
    let reads: [(&str, Read); 3] = [
        ("rows of `cells`", |tx| tx.rows::<Cells>(1..=10).expect("it can be read").len() == 5),
        ("row 5 of `cells`", |tx| tx.row::<Cells>(&5).expect("it can be read") == Some(5)),
        ("rows of `cells`", |tx| tx.last_rows::<Cells>(.., 1).expect("it can be read") == [(5, 5)]),
    ];
    for (words, read) in reads {
        for flushed in [false, true] {
            let lab = Lab::new(ROWS);
            lab.flush();
            let mut tx = lab.store.begin("t1").expect("it begins");
            assert!(read(&tx));
            remove(&lab.store, 5);
            if flushed {
                lab.flush();
            }
            tx.append(Cell::Set { cell: 100, value: 0 }).expect("nothing refuses it");
            assert_eq!(conflict(tx.commit(())).as_deref(), Some(words), "flushed: {flushed}");
        }
    }
}

/// An absence that was filled and emptied again in between leaves no row at all.
#[test]
fn risk_12_row_added_then_removed_is_conflict() {
    for flushed in [false, true] {
        let lab = Lab::new(ROWS);
        let mut absent = lab.store.begin("t1").expect("it begins");
        assert_eq!(absent.row::<Cells>(&7).expect("it can be read"), None);
        let mut empty = lab.store.begin("t2").expect("it begins");
        assert_eq!(empty.rows::<Cells>(6..).expect("it can be read"), []);
        set(&lab.store, 7, 7);
        remove(&lab.store, 7);
        if flushed {
            lab.flush();
        }
        for tx in [&mut absent, &mut empty] {
            tx.append(Cell::Set { cell: 100, value: 0 }).expect("nothing refuses it");
        }
        assert_eq!(conflict(absent.commit(())).as_deref(), Some("row 7 of `cells`"), "flushed: {flushed}");
        assert_eq!(conflict(empty.commit(())).as_deref(), Some("rows of `cells`"), "flushed: {flushed}");
    }
}

#[test]
fn risk_12_snapshot_two_flushes_old_expires_for_rows_only() {
    let lab = Lab::new(ROWS);
    let begin = || lab.store.begin("t").expect("it begins");
    let (mut rows, mut events, only_reads) = (begin(), begin(), begin());
    assert_eq!(rows.row::<Cells>(&1).expect("it can be read"), Some(1));
    assert_eq!(events.stream::<Cell>(&1).expect("it can be read").len(), 1);
    lab.flush();
    lab.flush();
    assert_eq!(only_reads.rows::<Cells>(..).expect("it can be read"), ROWS, "the snapshot itself is whole");
    for tx in [&mut rows, &mut events] {
        tx.append(Cell::Set { cell: 1, value: 0 }).expect("nothing refuses it");
    }
    assert!(matches!(rows.commit(()), Err(TxError::TooOld)));
    assert_eq!(conflict(events.commit(())), None);
    assert_eq!(conflict(only_reads.commit(())), None);
}

#[test]
fn risk_12_too_old_transaction_is_retried() {
    let (heard, hears) = ears();
    let lab = Lab::with(ROWS, |setup| setup.on_tx(hears));
    let mut tries = 0;
    let done = lab.store.transact("t", |tx| -> Decision<i64> {
        tries += 1;
        let is = tx.row::<Cells>(&1)?.unwrap_or_default();
        if tries == 1 {
            elsewhere(|| {
                set(&lab.store, 1, 10);
                lab.flush();
                lab.flush();
            });
        }
        tx.append(Cell::Set { cell: 1, value: is + 1 })?;
        Ok(is)
    });
    assert_eq!((done.expect("it is decided again").response, tries), (10, 2));
    assert_eq!(heard.lock().expect("nobody panics in here").last().expect("it was told of").attempts, 2);
    assert_eq!(interleave::state(&lab.store)[0], (1, 11));
}

/// Everything but what a limited scan looked at: a row beyond its last is no conflict, a row before it is one.
#[test]
fn risk_13_limited_scan_conflicts_only_with_rows_read() {
    const BASE: [u32; 5] = [10, 20, 30, 40, 50];
    let base: State = BASE.iter().map(|cell| (*cell, i64::from(*cell))).collect();
    for (backwards, limit, changed, flushed) in cases() {
        let lab = Lab::new(&base);
        let mut tx = lab.store.begin("t1").expect("it begins");
        let seen = match backwards {
            false => tx.first_rows::<Cells>(.., limit),
            true => tx.last_rows::<Cells>(.., limit),
        };
        let seen: Vec<u32> = seen.expect("it can be read").into_iter().map(|(cell, _)| cell).collect();
        let mut expected = BASE.to_vec();
        if backwards {
            expected.reverse();
        }
        expected.truncate(limit);
        assert_eq!(seen, expected);
        match BASE.contains(&changed) && limit % 2 == 0 {
            true => remove(&lab.store, changed),
            false => set(&lab.store, changed, -1),
        }
        if flushed {
            lab.flush();
        }
        tx.append(Cell::Set { cell: 1000, value: 0 }).expect("nothing refuses it");
        let looked_at = seen.len() < limit
            || seen.last().is_some_and(|last| if backwards { changed >= *last } else { changed <= *last });
        let answer = conflict(tx.commit(()));
        assert_eq!(answer.is_some(), looked_at, "{limit}, backwards: {backwards}, {changed} changed");
    }
}

fn cases() -> impl Iterator<Item = (bool, usize, u32, bool)> {
    let changed = |limit| (1..12).map(move |cell| (limit, 5 * cell));
    let ways = |(limit, cell)| [(false, limit, cell), (true, limit, cell)];
    let all = (1..=6).flat_map(changed).flat_map(ways);
    all.flat_map(|(backwards, limit, cell)| [false, true].map(|flushed| (backwards, limit, cell, flushed)))
}

/// What it put there itself ends a scan like any other row.
#[test]
fn risk_13_own_row_can_end_limited_scan() {
    for (changed, looked_at) in [(5, true), (12, true), (17, false), (20, false)] {
        let lab = Lab::new(&[(10, 0), (20, 0)]);
        let mut tx = lab.store.begin("t1").expect("it begins");
        tx.append(Cell::Set { cell: 15, value: 0 }).expect("nothing refuses it");
        assert_eq!(tx.first_rows::<Cells>(.., 2).expect("it can be read"), [(10, 0), (15, 0)]);
        set(&lab.store, changed, 1);
        assert_eq!(conflict(tx.commit(())).is_some(), looked_at, "{changed} changed");
    }
}

/// Two long lists that never meet, and a condition on both since the beginning: whoever asks walks them, and the writer does not.
#[test]
fn risk_14_condition_from_start_adds_no_writer_reads() {
    let lab = Lab::new(ROWS);
    for number in 0..3000 {
        let left = Filler::Left { number, tags: Vec::new() };
        let both = Append::event(left).and(Filler::Right { number });
        lab.store.append(both).expect("nothing refuses it");
    }
    lab.flush();
    let plain = || Append::event(Filler::Right { number: 0 });
    let never = QueryItem::family::<Filler>().only(["Left"]).and_tag("side", "right");
    // Reads of the caller, then of the writer.
    let reads = |append: Append| {
        let before = lab.disk.read_count();
        let asked = lab.store.submit(append);
        let between = lab.disk.read_count();
        lab.store.step();
        asked.wait().expect("nothing matches");
        (between - before, lab.disk.read_count() - between)
    };
    // After the first, the version of the stream is known without a read.
    reads(plain());
    let ((_, writer), (by_caller, by_writer)) =
        (reads(plain()), reads(plain().fail_if_events_match(never, None)));
    assert!(by_caller > 20, "{by_caller} reads: the lists were not walked at all");
    assert_eq!(by_writer, writer, "no more than without a condition");
}

// ---- the writer held ----

/// Listens to what transactions report.
fn ears() -> (Arc<Mutex<Vec<TxEvent>>>, impl Fn(&TxEvent) + Send + Sync + 'static) {
    let heard: Arc<Mutex<Vec<TxEvent>>> = Arc::default();
    let hears = heard.clone();
    (heard, move |event: &TxEvent| hears.lock().expect("nobody panics in here").push(event.clone()))
}

/// On another thread, and waits for it: this one is inside a transaction.
fn elsewhere<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
}

const HOLD: Duration = Duration::from_secs(50);

/// In memory, with threads, and a clock that stands still: the writer is held until it is let go.
fn held_store(more: impl FnOnce(Setup) -> Setup) -> (Store, SimClock) {
    let clock = SimClock::default();
    let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
    let mut options = Options::default();
    options.hold_ms_max = HOLD.as_millis() as u64;
    options.queue_wait_ms_max = 600_000;
    let setup = more(Setup::new().inline::<Cells>().options(options).platform(platform));
    let store = Store::in_memory(setup).expect("a store in memory opens");
    fill(&store, ROWS);
    (store, clock)
}

fn is_held(store: &Store) -> bool {
    store.active_transactions().iter().any(|tx| tx.state == TxState::Holding)
}

/// Adds 1 to row 1. Its first try meets a conflict, its second holds the writer and does `meanwhile`.
fn hold(store: &Store, mut meanwhile: impl FnMut()) -> Result<Committed<i64>, TxError> {
    let mut tries = 0;
    store.transact(Request::new("holder").retry(Retry::UpTo(1)), |tx| {
        tries += 1;
        let is = tx.row::<Cells>(&1)?.unwrap_or_default();
        match tries {
            1 => elsewhere(|| set(store, 1, is)),
            _ => {
                assert!(is_held(store));
                meanwhile();
            }
        }
        tx.append(Cell::Set { cell: 1, value: is + 1 })?;
        Ok(is + 1)
    })
}

fn value(store: &Store, cell: u32) -> Option<i64> {
    store.view().expect("the store is open").row::<Cells>(&cell).expect("rows can be read")
}

#[test]
fn risk_15_panic_while_holding_writer_releases_it() {
    let (store, _) = held_store(|setup| setup);
    let (waiting, began) = (Mutex::new(None), Instant::now());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        hold(&store, || {
            // Handed over while it is held: it waits.
            let other = elsewhere(|| store.submit(Append::event(Cell::Set { cell: 2, value: 20 })));
            *waiting.lock().expect("nobody panics in here") = Some(other);
            panic!("on purpose");
        })
    }));
    assert!(panicked.is_err());
    let other = waiting.into_inner().expect("nobody panics in here").expect("it was handed over");
    other.wait().expect("it had its turn");
    assert!(began.elapsed() < HOLD, "at once, and not when its time was over");
    set(&store, 3, 30);
    assert_eq!((value(&store, 1), value(&store, 2), value(&store, 3)), (Some(1), Some(20), Some(30)));
    assert!(store.active_transactions().is_empty());
    assert_eq!(hold(&store, || {}).expect("it can be held again").response, 2);
}

#[test]
fn risk_15_holder_commits_after_refused_nested_append() {
    let (store, _) = held_store(|setup| setup);
    let mut told = 0;
    let done = hold(&store, || {
        let event = || Append::event(Cell::Set { cell: 2, value: 20 });
        assert!(matches!(store.append(event()), Err(AppendError::Nested { outer }) if outer == "holder"));
        assert!(matches!(store.submit(event()).wait(), Err(AppendError::Nested { .. })));
        let inner = store.transact("inner", |_| -> Decision { Ok(()) });
        assert!(matches!(inner, Err(TxError::Nested { outer }) if outer == "holder"));
        told += 1;
    });
    assert_eq!((done.expect("it commits").response, told), (2, 1));
    assert_eq!((value(&store, 1), value(&store, 2)), (Some(2), Some(2)));
}

#[test]
fn risk_15_held_writer_blocks_writers_not_readers() {
    let (store, _) = held_store(|setup| setup);
    let waiting = Mutex::new(None);
    let done = hold(&store, || {
        let other = elsewhere(|| {
            assert_eq!(value(&store, 1), Some(1), "a view never waits");
            let hasty = Request::new("hasty").wait_max(Duration::from_millis(1));
            let hasty = store.transact(hasty, |tx| -> Decision { Ok(tx.append(Cell::Removed { cell: 2 })?) });
            let by = matches!(&hasty, Err(TxError::Overloaded { holder, .. }) if holder.as_deref() == Some("holder"));
            assert!(by, "{hasty:?}");
            store.submit(Append::event(Cell::Set { cell: 1, value: 100 }))
        });
        *waiting.lock().expect("nobody panics in here") = Some(other);
    });
    let (done, waiting) = (done.expect("nothing came between"), waiting.into_inner().expect("no panic"));
    let other = waiting.expect("it was handed over").wait().expect("it had its turn");
    assert!(done.receipt.commit < other.receipt.commit, "the holder was first");
    assert_eq!((value(&store, 1), value(&store, 2)), (Some(100), Some(2)), "what was given up is not done");
}

/// 1. The writer is held. 2. Time passes. 3. Another's append goes on. 4. The holder commits only if that changed nothing it read.
#[test]
fn risk_15_expired_hold_lets_other_writers_commit() {
    for (changed, expected) in [(1, None), (2, Some(2))] {
        let (heard, hears) = ears();
        let (store, clock) = held_store(|setup| setup.on_tx(hears));
        let done = hold(&store, || {
            clock.advance(HOLD);
            elsewhere(|| set(&store, changed, 50));
        });
        match (done, expected) {
            (Ok(done), Some(value)) => assert_eq!(done.response, value),
            (Err(TxError::Conflict(conflict)), None) => assert_eq!(conflict.read, "row 1 of `cells`"),
            (done, _) => panic!("{done:?}"),
        }
        assert_eq!(value(&store, changed), Some(50), "nothing is lost");
        let held = heard.lock().expect("nobody panics in here").last().expect("it was told of").held;
        assert!(held >= HOLD, "{held:?} is reported");
        assert_eq!(hold(&store, || {}).expect("it can be held again").response, value(&store, 1).unwrap());
    }
}

// ---- one merge ----

/// Random changes, own ones on top, flushes at random: what a transaction reads is what its own map says.
#[test]
fn risk_18_reads_merge_snapshot_and_own_changes() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("SEED={seed}");
    let (mut random, lab, mut now) = (Random::new(seed), Lab::new(&[(0, 0)]), BTreeMap::from([(0, 0)]));
    for _ in 0..150 {
        let mut tx = lab.store.begin("t").expect("it begins");
        let mut own: BTreeMap<u32, i64> = now.clone();
        for _ in 0..random.below(12) {
            let (cell, number) = (random.below(20) as u32, random.below(1000) as i64);
            let event = match random.chance(0.4) {
                true => Cell::Removed { cell },
                false => Cell::Set { cell, value: number },
            };
            let is_own = random.coin();
            let map = if is_own { &mut own } else { &mut now };
            match &event {
                Cell::Removed { cell } => _ = map.remove(cell),
                Cell::Set { cell, value } => _ = map.insert(*cell, *value),
            }
            match is_own {
                true => tx.append(event).expect("nothing refuses it"),
                false => drop(lab.store.append(Append::event(event)).expect("nothing refuses it")),
            }
            if random.chance(0.1) {
                lab.flush();
            }
        }
        assert_reads(&tx, &own, &mut random);
    }
}

fn assert_reads(tx: &Tx<'_>, own: &BTreeMap<u32, i64>, random: &mut Random) {
    let all: State = own.iter().map(|(cell, value)| (*cell, *value)).collect();
    assert_eq!(tx.rows::<Cells>(..).expect("rows can be read"), all);
    let limit = 1 + random.below(5) as usize;
    let (from, to) = (random.below(20) as u32, random.below(25) as u32);
    let mut part: State = all.iter().filter(|(cell, _)| (from..to).contains(cell)).copied().collect();
    let first = tx.first_rows::<Cells>(from..to, limit).expect("rows can be read");
    assert_eq!(first, part[..limit.min(part.len())]);
    part.reverse();
    let last = tx.last_rows::<Cells>(from..to, limit).expect("rows can be read");
    assert_eq!(last, part[..limit.min(part.len())]);
    for cell in 0..20 {
        assert_eq!(tx.row::<Cells>(&cell).expect("rows can be read").as_ref(), own.get(&cell));
    }
}

// ---- who starves ----

const MANY: u32 = 50;

fn many() -> State {
    (0..MANY).map(|cell| (cell, 0)).collect()
}

/// Reads them all, and lets others go on in between.
fn sum(tx: &Tx<'_>) -> Decision<i64> {
    let mut sum = 0;
    for cell in 0..MANY {
        sum += tx.row::<Cells>(&cell)?.unwrap_or_default();
        std::thread::yield_now();
    }
    Ok(sum)
}

/// Four tries, then one with the writer held.
const TRIES_MAX: u32 = 5;

#[test]
fn long_transaction_among_hot_writers_commits_within_bound() {
    let (heard, hears) = ears();
    let (store, _) = held_store(|setup| setup.on_tx(hears));
    fill(&store, &many());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                for value in 1.. {
                    if done.load(Ordering::Acquire) {
                        break;
                    }
                    set(store, (value * 7 + writer) as u32 % MANY, value);
                }
            });
        }
        for _ in 0..20 {
            let request = Request::new("long").retry(Retry::default());
            let long = store.transact(request, |tx| -> Decision<i64> {
                let sum = sum(tx)?;
                tx.append(Cell::Set { cell: 1000, value: sum })?;
                Ok(sum)
            });
            let failed = long.as_ref().err().map(ToString::to_string);
            if failed.is_some() {
                done.store(true, Ordering::Release);
            }
            assert_eq!(failed, None);
        }
        done.store(true, Ordering::Release);
    });
    let attempts: Vec<u32> = heard.lock().expect("no panic").iter().map(|event| event.attempts).collect();
    println!("attempts: {attempts:?}");
    assert!(attempts.iter().all(|attempts| *attempts <= TRIES_MAX), "{attempts:?}");
}

/// Before each commit a hot writer is there first. Returns how it ended and after how many tries.
fn against_a_hot_writer(retry: Retry) -> (bool, u32) {
    let (store, _) = held_store(|setup| setup);
    fill(&store, &many());
    let (mut tries, mut late) = (0, Vec::new());
    let done = store.transact(Request::new("long").retry(retry), |tx| -> Decision {
        tries += 1;
        let sum = sum(tx)?;
        let hot = elsewhere(|| store.submit(Append::event(Cell::Set { cell: tries % MANY, value: sum + 1 })));
        match is_held(&store) {
            // Now it is the hot one that waits.
            true => late.push(hot),
            false => drop(hot.wait().expect("nobody stops it")),
        }
        Ok(tx.append(Cell::Set { cell: 1000, value: sum })?)
    });
    late.into_iter().for_each(|hot| drop(hot.wait().expect("it had its turn")));
    match done {
        Ok(_) => (true, tries),
        Err(TxError::Conflict(_)) => (false, tries),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn long_transaction_starves_without_holding_writer() {
    assert_eq!(against_a_hot_writer(Retry::default()), (true, TRIES_MAX));
    assert_eq!(against_a_hot_writer(Retry::UpTo(2)), (true, 3));
    assert_eq!(against_a_hot_writer(Retry::Optimistic(40)), (false, 41));
    assert_eq!(against_a_hot_writer(Retry::Never), (false, 1));
}
