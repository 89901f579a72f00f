//! Projections behind the writer: what they serve is always the rows of one position, whatever happens to thread, file or code.

use crate::support::{Balances, Bank, Dice, deposit, fresh_disk, platform, small, withdraw};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use tallystone::disk::Disk;
use tallystone::error::{ReadError, TxError};
use tallystone::event::Raw;
use tallystone::prelude::*;
use tallystone::store::BehindStats;
use tallystone::testing::{Fault, Faults, ImagePolicy, SimClock, SimDisk};
use tallystone::{Options, Setup};

const STORE: &str = "/store";
const NO_TIME: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(60);

/// An account's events in the order in which they were folded: one left out, doubled or out of turn gives another row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Trail {
    events: u64,
    hash: u64,
}

impl Trail {
    fn add(&mut self, position: u64, cents: u64) {
        self.events += 1;
        self.hash = (self.hash.rotate_left(7) ^ position).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ cents;
    }
}

/// An account that withdraws nothing has no trail any more.
fn trail(event: &Bank, position: u64, rows: &mut BTreeMap<u32, Trail>) {
    match event {
        Bank::Opened { account } => rows.entry(*account).or_default().add(position, 0),
        Bank::Withdrawn { account, cents: 0 } => drop(rows.remove(account)),
        Bank::Deposited { account, cents } | Bank::Withdrawn { account, cents } => {
            rows.entry(*account).or_default().add(position, *cents);
        }
    }
}

fn fold_trail<P: Projection<Event = Bank, Key = u32, Row = Trail>>(
    event: &Bank,
    rows: &mut Rows<'_, P>,
) -> Folded {
    let position = rows.position().get();
    match event {
        Bank::Opened { account } => rows.update(*account, |row| row.add(position, 0)),
        Bank::Withdrawn { account, cents: 0 } => rows.remove(account),
        Bank::Deposited { account, cents } | Bank::Withdrawn { account, cents } => {
            rows.update(*account, |row| row.add(position, *cents))
        }
    }
}

macro_rules! trails {
    ($type:ident, $name:expr, $version:expr, $before:expr) => {
        struct $type;
        impl Projection for $type {
            const NAME: &'static str = $name;
            const VERSION: u32 = $version;
            type Event = Bank;
            type Key = u32;
            type Row = Trail;
            fn fold(event: &Bank, rows: &mut Rows<'_, Self>) -> Folded {
                let before: fn(&Bank) -> Folded = $before;
                before(event)?;
                fold_trail(event, rows)
            }
        }
    };
}

/// Folds of `Built`, `Copied` and `Mended` so far: each is used by one test.
static BUILT: AtomicU64 = AtomicU64::new(0);
static COPIED: AtomicU64 = AtomicU64::new(0);
static MENDED: AtomicU64 = AtomicU64::new(0);

fn count(folds: &AtomicU64) -> Folded {
    folds.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

trails!(Trails, "trails", 1, |_| Ok(()));
trails!(TrailsTwo, "trails", 2, |_| Ok(()));
trails!(Built, "built", 1, |_| count(&BUILT));
trails!(Copied, "copied", 1, |_| count(&COPIED));
trails!(Twin, "a twin / INLINE", 1, |_| Ok(()));
trails!(Picky, "picky", 1, |event| match event {
    Bank::Deposited { cents: 13, .. } => Err(FoldError::refuse("thirteen")),
    Bank::Deposited { cents: 666, .. } => panic!("on purpose"),
    _ => Ok(()),
});
trails!(Mended, "picky", 1, |_| count(&MENDED));

static GATE: Mutex<()> = Mutex::new(());
trails!(Gated, "gated", 1, |_| {
    drop(GATE.lock());
    Ok(())
});

fn options() -> Options {
    let mut options = small();
    options.page_bytes = 4096;
    options.view_age_ms_max = 3_600_000;
    options
}

fn behind(disk: &SimDisk) -> Setup {
    Setup::new().inline::<Twin>().behind::<Trails>().options(options()).platform(platform(disk)).lockstep()
}

fn open(setup: Setup) -> Store {
    Store::open_or_create(Path::new(STORE), setup).expect("it opens")
}

/// Lets it catch up, in lockstep.
fn settle(store: &Store) {
    for _ in 0..10_000 {
        let before: Vec<_> = store.stats().behind.iter().map(told).collect();
        store.step();
        if store.stats().behind.iter().map(told).collect::<Vec<_>>() == before {
            return;
        }
    }
    panic!("it does not come to rest: {:?}", store.stats());
}

fn told(stats: &BehindStats) -> (Position, Option<(Position, Position)>, bool, bool) {
    (stats.position, stats.rebuilding, stats.stalled.is_some(), stats.trouble.is_some())
}

fn must(view: &View, through: Position) -> BTreeMap<u32, Trail> {
    let mut rows = BTreeMap::new();
    for event in view.query::<Bank>(Query::all().up_to(through)) {
        let event = event.expect("events can be read");
        trail(&event.event, event.position.get(), &mut rows);
    }
    rows
}

fn rows<P: Projection<Key = u32, Row = Trail>>(view: &View) -> BTreeMap<u32, Trail> {
    view.rows::<P>(..).collect::<Result<_, _>>().expect("rows can be read")
}

/// The rows are those of the position that the view names. Returns that.
fn check<P: Projection<Key = u32, Row = Trail>>(store: &Store) -> u64 {
    let view = store.view().expect("the store is open");
    let at = view.folded_through::<P>().expect("it is served");
    assert!(at <= view.position(), "rows of the future");
    let must = must(&view, at);
    assert_eq!(rows::<P>(&view), must, "rows at {at}");
    let back: BTreeMap<_, _> = view.rows_backwards::<P>(3..9).map(|row| row.expect("readable")).collect();
    assert!(back.iter().eq(must.range(3..9)), "a range at {at}");
    for account in 0..10 {
        assert_eq!(view.row::<P>(&account).expect("readable").as_ref(), must.get(&account));
    }
    at.get()
}

fn checked_whole<P: Projection<Key = u32, Row = Trail>>(store: &Store) {
    settle(store);
    assert_eq!(check::<P>(store), store.view().expect("open").position().get(), "it has caught up");
}

fn some(store: &Store, dice: &mut Dice, appends: u64) {
    let mut commits = Vec::new();
    for _ in 0..appends {
        let event = |dice: &mut Dice| match dice.roll(8) {
            0 => Bank::Withdrawn { account: dice.roll(12) as u32, cents: dice.roll(2) },
            _ => Bank::Deposited { account: dice.roll(12) as u32, cents: 20 + dice.roll(9) },
        };
        commits.push(store.submit(Append::events((0..1 + dice.roll(4)).map(|_| event(dice)))));
    }
    store.step();
    commits.into_iter().for_each(|commit| drop(commit.wait().expect("good")));
}

/// So many appends; the last event.
fn fill(store: &Store, appends: u32) -> Position {
    for number in 0..appends {
        store.append(deposit(number % 7, 1)).expect("good");
    }
    store.view().expect("open").position()
}

fn files(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter();
    files.filter(|path| path.parent().is_some_and(|dir| dir.ends_with("behind"))).collect()
}

fn named(disk: &SimDisk, what: &str) -> Vec<PathBuf> {
    files(disk).into_iter().filter(|path| path.to_string_lossy().contains(what)).collect()
}

// ---- rows and positions ----

#[test]
fn rows_match_position_across_flushes_and_restarts() {
    let mut behind_at_times = 0;
    for seed in 0..24 {
        let (disk, mut dice) = (fresh_disk(seed), Dice::new(seed));
        let mut store = open(behind(&disk));
        let mut held = Vec::new();
        for _ in 0..60 {
            match dice.roll(12) {
                0 => {
                    held.clear();
                    match dice.roll(3) {
                        0 => store.close(),
                        cut => {
                            disk.kill();
                            drop(store);
                            if cut == 1 {
                                disk.power_cut(ImagePolicy::ALL[dice.roll(6) as usize]);
                            }
                        }
                    }
                    store = open(behind(&disk));
                }
                1 => {
                    if let Ok(at) = store.view().and_then(|view| view.folded_through::<Trails>()) {
                        let view = store.view().expect("open");
                        held.push((view, at));
                    }
                }
                2 => store.step(),
                _ => {
                    let appends = 1 + dice.roll(40);
                    some(&store, &mut dice, appends);
                }
            }
            if let Some(false) = store.stats().behind.first().map(|stats| stats.rebuilding.is_some()) {
                behind_at_times += u64::from(check::<Trails>(&store) < store.stats().position.get());
            }
            for (view, at) in &held {
                assert_eq!(rows::<Trails>(view), must(view, *at), "a view from before");
            }
        }
        checked_whole::<Trails>(&store);
        let view = store.view().expect("open");
        assert_eq!(rows::<Trails>(&view), rows::<Twin>(&view), "as its inline twin");
        let report = store.verify().expect("it can be read");
        assert_eq!((report.first_bad, report.folded_otherwise), (None, None));
        assert_eq!(report.rows, 2 * rows::<Twin>(&view).len() as u64, "verify looks at both");
    }
    assert!(behind_at_times > 100, "it was behind {behind_at_times} times");
}

#[test]
fn group_longer_than_page_is_folded_completely() {
    let disk = fresh_disk(1);
    let store = open(behind(&disk));
    let commits: Vec<_> = (0..400).map(|number| store.submit(deposit(number % 5, 1))).collect();
    store.step();
    commits.into_iter().for_each(|commit| drop(commit.wait().expect("good")));
    assert_eq!(check::<Trails>(&store), 400, "one group, one step, many pages");
}

#[test]
fn wait_for_reads_what_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let setup = Setup::new().inline::<Twin>().behind::<Trails>().options(options());
    let store = Store::create(dir.path().join("bank"), setup).expect("a fresh store");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = Position::START;
            while !over.load(Ordering::Relaxed) {
                let view = store.view().expect("open");
                let at = view.folded_through::<Trails>().expect("served");
                assert!(last <= at && at <= view.position(), "never back, never ahead");
                last = at;
            }
        });
        let writers: Vec<_> = (0..4)
            .map(|account| {
                let store = store.clone();
                scope.spawn(move || {
                    for number in 1..=200 {
                        let position = store.append(deposit(account, 1)).expect("good").receipt.last;
                        let view = store.wait_for::<Trails>(position, LONG).expect("it gets there");
                        assert!(view.position() >= position);
                        let row = view.row::<Trails>(&account).expect("readable").expect("a row");
                        assert_eq!(row.events, number);
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
        over.store(true, Ordering::Relaxed);
    });
    check::<Trails>(&store);
    assert_eq!(store.verify().expect("readable").first_bad, None);
}

#[test]
fn wait_for_says_where_it_stands() {
    let disk = fresh_disk(2);
    let store = open(behind(&disk));
    let last = store.append(deposit(1, 1)).expect("good").receipt.last;
    let next = Position::new(last.get() + 1);
    assert!(store.wait_for::<Twin>(last, NO_TIME).is_ok(), "an inline one is there with the commit");
    assert!(matches!(store.wait_for::<Twin>(next, NO_TIME), Err(ReadError::Behind { at, wanted, .. })
        if (at, wanted) == (last, next)));
    assert!(store.wait_for::<Trails>(last, NO_TIME).is_ok());
    assert!(matches!(
        store.wait_for::<Trails>(next, NO_TIME),
        Err(ReadError::Behind { projection: "trails", .. })
    ));
    assert!(matches!(store.wait_for::<Balances>(last, NO_TIME), Err(ReadError::Unregistered(_))));
    assert!(matches!(store.rebuild::<Twin>(), Err(ReadError::Unregistered(_))));
    let other = store.clone();
    store.close();
    assert!(matches!(other.wait_for::<Trails>(last, NO_TIME), Err(ReadError::Closed)));
}

#[test]
fn a_close_ends_those_who_wait() {
    let store = Store::in_memory(Setup::new().behind::<Trails>()).expect("a store");
    let waiting = store.clone();
    let waiter = thread::spawn(move || waiting.wait_for::<Trails>(Position::new(1), Duration::MAX).map(drop));
    store.close();
    assert!(matches!(waiter.join().expect("no panic"), Err(ReadError::Closed)));
}

#[test]
fn in_memory_it_follows_too() {
    let store = Store::in_memory(Setup::new().inline::<Twin>().behind::<Trails>()).expect("a store");
    let last = fill(&store, 300);
    let view = store.wait_for::<Trails>(last, LONG).expect("it gets there");
    assert_eq!(rows::<Trails>(&view), rows::<Twin>(&view));
    store.rebuild::<Trails>().expect("it can");
    check::<Trails>(&store);
}

#[test]
fn fork_reuses_base_rows_and_folds_new_events() {
    let setup = Setup::new().inline::<Twin>().behind::<Copied>().options(options()).lockstep();
    let base = Store::in_memory(setup).expect("a store");
    let mut dice = Dice::new(15);
    some(&base, &mut dice, 100);
    checked_whole::<Copied>(&base);
    let at = check::<Copied>(&base);
    fill(&base, 5);
    let before = COPIED.load(Ordering::SeqCst);
    let fork = base.fork().expect("it is in memory");
    assert_eq!(
        (check::<Copied>(&fork), COPIED.load(Ordering::SeqCst)),
        (at, before),
        "it lags as its base does"
    );
    let head = fill(&fork, 7);
    checked_whole::<Copied>(&fork);
    assert_eq!(COPIED.load(Ordering::SeqCst) - before, head.get() - at, "each event once");
    assert_eq!(check::<Copied>(&base), at, "and its base is left alone");
    some(&base, &mut dice, 20);
    checked_whole::<Copied>(&base);
    assert_eq!(check::<Copied>(&fork), head.get());
    for store in [base, fork] {
        assert_eq!(store.verify().expect("readable").first_bad, None);
    }
}

#[test]
fn fork_of_stalled_projection_stalls_at_same_position() {
    let base = Store::in_memory(Setup::new().behind::<Picky>().lockstep()).expect("a store");
    fill(&base, 20);
    let bad = base.append(deposit(3, 13)).expect("the writer does not care").receipt.last;
    settle(&base);
    let fork = base.fork().expect("it is in memory");
    for _ in 0..2 {
        let row = fork.view().expect("open").row::<Picky>(&1);
        assert!(matches!(row, Err(ReadError::Stalled { position, .. }) if position == bad), "{row:?}");
        // The same code fails at the same place.
        fork.recover().expect("it is well");
        settle(&fork);
    }
}

#[test]
fn store_can_be_forked_during_appends() {
    let setup = Setup::new().inline::<Twin>().behind::<Trails>().options(options());
    let base = Store::in_memory(setup).expect("a store");
    thread::scope(|scope| {
        let appends = scope.spawn(|| {
            let mut dice = Dice::new(16);
            for _ in 0..5000 {
                base.append(deposit(dice.roll(12) as u32, dice.roll(9))).expect("good");
            }
        });
        while !appends.is_finished() {
            let fork = base.fork().expect("it is in memory");
            let view = fork.view().expect("open");
            if let Ok(at) = view.folded_through::<Trails>() {
                assert_eq!(rows::<Trails>(&view), must(&view, at));
            }
            let view = fork.wait_for::<Trails>(fill(&fork, 3), LONG).expect("it gets there");
            assert_eq!(rows::<Trails>(&view), rows::<Twin>(&view));
            assert_eq!(fork.verify().expect("readable").first_bad, None);
        }
    });
}

#[test]
fn stats_tell_the_lag() {
    let disk = fresh_disk(3);
    let store = open(behind(&disk));
    let commits: Vec<_> = (0..100).map(|number| store.submit(deposit(number, 1))).collect();
    // Groups of at most one: many steps to follow them.
    store.step();
    commits.into_iter().for_each(|commit| drop(commit.wait().expect("good")));
    some(&store, &mut Dice::new(1), 200);
    let stats = store.stats();
    let one = &stats.behind[0];
    assert_eq!((one.projection, one.position.get() + one.lag_len), ("trails", stats.position.get()));
    settle(&store);
    assert_eq!(store.stats().behind[0].lag_len, 0);
}

#[test]
fn risk_32_view_expires_with_rows_of_behind_projection() {
    let (disk, clock) = (fresh_disk(4), SimClock::default());
    let mut platform = platform(&disk);
    platform.clock = std::sync::Arc::new(clock.clone());
    let mut options = options();
    options.view_age_ms_max = 1_000;
    // No inline projection: what lets go of the view is the flush of the one behind.
    let setup = Setup::new().behind::<Trails>().options(options).platform(platform).lockstep();
    let store = open(setup);
    some(&store, &mut Dice::new(4), 5);
    settle(&store);
    let view = store.view().expect("open");
    assert!(!rows::<Trails>(&view).is_empty());
    clock.advance(Duration::from_secs(2));
    for _ in 0..20 {
        some(&store, &mut Dice::new(5), 20);
        settle(&store);
    }
    assert!(matches!(view.row::<Trails>(&1), Err(ReadError::ViewExpired { .. })));
    assert!(view.query::<Raw>(Query::all()).all(|event| event.is_ok()), "events stay");
    check::<Trails>(&store);
}

/// What it lacks may be what would change the decision.
#[test]
fn transaction_cannot_read_rows_of_behind_projection() {
    let store = Store::in_memory(Setup::new().behind::<Trails>()).expect("a store");
    store.wait_for::<Trails>(fill(&store, 5), LONG).expect("it gets there");
    let refused =
        store.transact("look", |tx: &mut Tx<'_>| -> Decision<bool> { Ok(tx.row::<Trails>(&1)?.is_some()) });
    assert!(matches!(refused, Err(TxError::Invalid { what: "projection", why }) if why.contains("`trails`")));
    let shown = store
        .transact("show", |tx: &mut Tx<'_>| -> Decision<bool> { Ok(tx.peek().row::<Trails>(&1)?.is_some()) });
    assert!(shown.expect("to look at, they are fine").response);
}

// ---- stalls ----

#[test]
fn failing_fold_stalls_only_its_projection_until_fixed() {
    for cents in [13, 666] {
        let disk = fresh_disk(5);
        let with =
            |setup: Setup| setup.behind::<Trails>().options(options()).platform(platform(&disk)).lockstep();
        let store = open(with(Setup::new().inline::<Twin>().behind::<Picky>()));
        let mut dice = Dice::new(cents);
        some(&store, &mut dice, 100);
        settle(&store);
        let bad = store.append(deposit(3, cents)).expect("the writer does not care").receipt.last;
        some(&store, &mut dice, 50);
        settle(&store);

        let stalled = |result: Result<(), ReadError>| match result {
            Err(ReadError::Stalled { projection: "picky", position, why }) => {
                assert_eq!(position, bad);
                assert!(why.contains(if cents == 13 { "thirteen" } else { "on purpose" }), "{why}");
            }
            other => panic!("{other:?}"),
        };
        let view = store.view().expect("open");
        stalled(view.row::<Picky>(&1).map(drop));
        stalled(view.rows::<Picky>(..).next().expect("an answer").map(drop));
        stalled(store.wait_for::<Picky>(bad, LONG).map(drop));
        stalled(store.rebuild::<Picky>());
        let stats = store.stats();
        let (position, why) = stats.behind[0].stalled.clone().expect("it is stalled");
        assert!(
            position == bad && !why.is_empty() && stats.behind[0].lag_len > 0 && stats.poisoned.is_none()
        );
        assert_eq!(stats.behind[1].stalled, None);
        checked_whole::<Trails>(&store);
        assert_eq!(store.verify().expect("readable").first_bad, None);

        // The same code again fails at the same place.
        store.recover().expect("it is well");
        settle(&store);
        stalled(store.view().expect("open").row::<Picky>(&1).map(drop));
        store.close();

        let store = open(with(Setup::new().inline::<Twin>().behind::<Mended>()));
        let folds = MENDED.load(Ordering::SeqCst);
        checked_whole::<Mended>(&store);
        let folds = MENDED.load(Ordering::SeqCst) - folds;
        assert!(
            folds > 0 && folds < 250,
            "it goes on from where it stood, not from the first event: {folds}"
        );
    }
}

// ---- another version, and rebuilds ----

/// Build of another version beside the old one: a power cut at any call leaves one of them whole.
#[test]
fn either_version_is_complete_after_power_cut() {
    let sound = fresh_disk(6);
    let store = open(behind(&sound));
    for seed in 0..8 {
        some(&store, &mut Dice::new(seed), 60);
    }
    checked_whole::<Trails>(&store);
    store.close();
    let two = |disk: &SimDisk| {
        Setup::new()
            .inline::<Twin>()
            .behind::<TrailsTwo>()
            .options(options())
            .platform(platform(disk))
            .lockstep()
    };
    let head = |store: &Store| store.view().expect("open").position();
    // How many calls all of it takes.
    let disk = sound.fork(0);
    let before = disk.op_count();
    let store = open(two(&disk));
    let view = store.view().expect("open");
    assert!(
        matches!(view.row::<TrailsTwo>(&1), Err(ReadError::Rebuilding { projection: "trails", of, .. }) if of == head(&store)),
        "half of it is never taken for the whole"
    );
    assert!(matches!(store.stats().behind[0].rebuilding, Some((_, of)) if of == head(&store)));
    while store.stats().behind[0].rebuilding.is_some() {
        let row = store.view().expect("open").row::<TrailsTwo>(&1);
        assert!(matches!(row, Err(ReadError::Rebuilding { .. })), "{row:?}");
        store.step();
    }
    let whole = store.wait_for::<TrailsTwo>(head(&store), NO_TIME).expect("what is served is whole");
    assert_eq!(rows::<TrailsTwo>(&whole), rows::<Twin>(&whole));
    assert_eq!(named(&disk, "trails").len(), 1, "the old one is gone after the switch: {:?}", files(&disk));
    store.close();
    let calls = disk.op_count() - before;

    let (mut olds, mut news) = (0, 0);
    for call in 1..=calls {
        let disk = sound.fork(call);
        disk.cut_at(disk.op_count() + call, ImagePolicy::ALL[call as usize % 6]);
        let opened = Store::open(STORE, two(&disk));
        if let Ok(store) = opened {
            settle(&store);
            drop(store);
        }
        disk.restart();
        if call % 2 == 0 {
            // Back to the old code: its rows go on, or are built again.
            let store = open(behind(&disk));
            olds += u64::from(store.stats().behind[0].rebuilding.is_none());
            checked_whole::<Trails>(&store);
        } else {
            let store = open(two(&disk));
            news += u64::from(store.stats().behind[0].rebuilding.is_none());
            checked_whole::<TrailsTwo>(&store);
            assert_eq!(named(&disk, "trails").len(), 1, "{:?}", files(&disk));
        }
    }
    assert!(
        olds > 0 && news > 0,
        "{calls} calls, {olds} times the old one was there, {news} times the new one"
    );
}

#[test]
fn interrupted_build_resumes_where_it_stopped() {
    let disk = fresh_disk(7);
    let without =
        |setup: Setup| setup.inline::<Twin>().options(options()).platform(platform(&disk)).lockstep();
    let store = open(without(Setup::new()));
    for seed in 0..10 {
        some(&store, &mut Dice::new(seed), 60);
    }
    let all = store.view().expect("open").position().get();
    store.close();
    let before = BUILT.load(Ordering::SeqCst);
    let mut store = open(without(Setup::new().behind::<Built>()));
    let mut opened = 1;
    while store.stats().behind[0].rebuilding.is_some() {
        store.step();
        store.close();
        store = open(without(Setup::new().behind::<Built>()));
        opened += 1;
        assert!(opened < 1_000, "it never ends");
    }
    assert!(opened > 5);
    checked_whole::<Built>(&store);
    assert_eq!(BUILT.load(Ordering::SeqCst) - before, all, "no event was folded twice");
}

#[test]
fn rebuild_serves_old_rows_until_complete() {
    let dir = tempfile::tempdir().expect("a directory");
    let setup = Setup::new().inline::<Twin>().behind::<Gated>().options(options());
    let store = Store::create(dir.path().join("bank"), setup).expect("a fresh store");
    let last = fill(&store, 500);
    store.wait_for::<Gated>(last, LONG).expect("it gets there");
    thread::scope(|scope| {
        let closed = GATE.lock().expect("nobody panics with it");
        let rebuilding = scope.spawn(|| store.rebuild::<Gated>());
        while store.stats().behind[0].rebuilding.is_none() {
            thread::yield_now();
        }
        let view = store.view().expect("open");
        assert_eq!(rows::<Gated>(&view), rows::<Twin>(&view), "the old rows");
        assert!(!rebuilding.is_finished());
        drop(closed);
        // It goes on meanwhile.
        let last = store.append(deposit(1, 1)).expect("good").receipt.last;
        store.wait_for::<Gated>(last, LONG).expect("it gets there");
        rebuilding.join().expect("no panic").expect("it can be rebuilt");
    });
    assert_eq!(store.stats().behind[0].rebuilding, None);
    check::<Gated>(&store);
    let kept = std::fs::read_dir(dir.path().join("bank/behind")).expect("the folder").count();
    assert_eq!(kept, 1, "the old file is gone");
    store.close();
}

#[test]
fn view_before_rebuild_keeps_rows_or_expires() {
    let disk = fresh_disk(4);
    let store = open(behind(&disk));
    some(&store, &mut Dice::new(4), 200);
    settle(&store);
    let before = store.view().expect("open");
    let was = rows::<Trails>(&before);
    store.rebuild::<Trails>().expect("it can");
    some(&store, &mut Dice::new(5), 200);
    settle(&store);
    // What redb still has in memory may be read on; it is what it was.
    match before.rows::<Trails>(..).collect::<Result<BTreeMap<_, _>, _>>() {
        Ok(old) => assert_eq!(old, was),
        Err(error) => assert!(matches!(error, ReadError::ViewExpired { .. }), "{error}"),
    }
    assert!(store.stats().poisoned.is_none() && store.stats().behind[0].trouble.is_none());
    check::<Trails>(&store);
}

#[test]
fn power_cut_during_rebuild_leaves_complete_rows() {
    for seed in 0..60 {
        let (disk, mut dice) = (fresh_disk(seed), Dice::new(seed));
        let store = open(behind(&disk));
        (0..6).for_each(|_| some(&store, &mut dice, 60));
        settle(&store);
        disk.cut_at(disk.op_count() + 1 + seed, ImagePolicy::ALL[seed as usize % 6]);
        let _ = store.rebuild::<Trails>();
        drop(store);
        if disk.is_off() {
            disk.restart();
        }
        let store = open(behind(&disk));
        assert_eq!(store.stats().behind[0].rebuilding, None, "seed {seed}: one of them is whole");
        checked_whole::<Trails>(&store);
        assert_eq!(named(&disk, "trails").len(), 1, "{:?}", files(&disk));
    }
}

// ---- files ----

#[test]
fn lost_damaged_old_or_foreign_file_is_rebuilt() {
    let disk = fresh_disk(8);
    let store = open(behind(&disk));
    let mut dice = Dice::new(8);
    some(&store, &mut dice, 80);
    settle(&store);
    store.close();
    let file = named(&disk, "trails").pop().expect("its file");
    let old = disk.read_file(&file).expect("its file");
    let state = disk.read_file(Path::new("/store/state.redb")).expect("the state");
    let store = open(behind(&disk));
    some(&store, &mut dice, 80);
    settle(&store);
    store.close();
    let now = disk.read_file(&file).expect("its file");

    // Another store's, of the same length; and this store's from a future that its log does not have.
    let other = SimDisk::new(99);
    let foreign = open(behind(&other).platform(tallystone::disk::Platform {
        disk: std::sync::Arc::new(other.clone()),
        clock: std::sync::Arc::new(SimClock::default()),
        entropy: std::sync::Arc::new(tallystone::testing::SimEntropy::new(1)),
    }));
    some(&foreign, &mut Dice::new(8), 160);
    settle(&foreign);
    foreign.close();
    let foreign = other.read_file(named(&other, "trails").pop().expect("its file")).expect("its file");

    let mut half = now.clone();
    half[now.len() / 4..].fill(0);
    let contents: [(&str, Option<&[u8]>, bool); 7] = [
        ("lost", None, true),
        ("empty", Some(&[]), true),
        ("cut", Some(&now[..now.len() / 2]), true),
        ("half zeros", Some(&half), true),
        ("not its own", Some(&state), true),
        ("foreign", Some(&foreign), true),
        ("old", Some(&old), false),
    ];
    for (name, content, rebuilt) in contents {
        let disk = disk.fork(1);
        match content {
            Some(content) => disk.write_file(&file, content),
            None => disk.remove(&file).expect("it was there"),
        }
        let store = open(behind(&disk));
        assert_eq!(store.stats().behind[0].rebuilding.is_some(), rebuilt, "{name}");
        checked_whole::<Trails>(&store);
        assert_eq!(named(&disk, "trails").len(), 1, "{name}");
    }
}

/// 1. A copy of the store goes its own way from commit 100 on. 2. The file of the one lies below the log of the other, at a
///    commit that both have. The events differ, the numbers do not.
#[test]
fn risk_04_foreign_history_file_is_rebuilt_once_accepted() {
    let disk = fresh_disk(9);
    let store = open(behind(&disk));
    some(&store, &mut Dice::new(9), 50);
    store.close();
    let (one, two) = (disk.fork(1), disk.fork(2));
    for (disk, account, more) in [(&one, 1, 0), (&two, 2, 30)] {
        let store = open(behind(disk));
        for _ in 0..60 + more {
            store.append(deposit(account, 1)).expect("good");
        }
        settle(&store);
        store.close();
    }
    for (from, to) in [(&one, &two), (&two, &one)] {
        let file = named(from, "trails").pop().expect("its file");
        let to = to.fork(3);
        to.write_file(
            named(&to, "trails").pop().expect("its file"),
            &from.read_file(&file).expect("its file"),
        );
        let refused = Store::open(Path::new(STORE), behind(&to));
        let Err(OpenError::TailLost { commit, .. }) = refused else { panic!("{refused:?}") };
        let store = open(behind(&to).accept_lost_tail(commit));
        assert!(store.stats().behind[0].rebuilding.is_some(), "it is noticed");
        checked_whole::<Trails>(&store);
    }
}

#[test]
fn damage_in_open_store_is_rebuilt() {
    let sound = fresh_disk(10);
    let store = open(behind(&sound));
    (0..6).for_each(|seed| some(&store, &mut Dice::new(seed), 60));
    settle(&store);
    store.close();
    let (mut met, mut dice) = (0, Dice::new(10));
    for trial in 0..300 {
        let disk = sound.fork(trial);
        let store = open(behind(&disk));
        let file = named(&disk, "trails").pop().expect("its file");
        let len = disk.read_file(&file).expect("its file").len() as u64;
        for _ in 0..3 {
            disk.flip_bit(&file, dice.roll(len), dice.roll(8) as u8);
        }
        let report = store.verify().expect("it can be read");
        if report.first_bad.is_some() {
            met += 1;
            assert!(store.stats().damaged.is_none(), "state.redb is not to blame");
            checked_whole::<Trails>(&store);
            assert_eq!(store.verify().expect("readable").first_bad, None, "trial {trial}");
        }
    }
    println!("damage met in {met} of 300 trials");
}

#[test]
fn disk_fault_halts_only_its_projection() {
    let mut halted = 0;
    for ahead in 1..60 {
        let disk = fresh_disk(ahead);
        let store =
            open(Setup::new().behind::<Trails>().options(options()).platform(platform(&disk)).lockstep());
        let mut dice = Dice::new(ahead);
        some(&store, &mut dice, 30);
        settle(&store);
        disk.plan(Faults::none().at(disk.op_count() + ahead, Fault::AnyError));
        let _ = store.rebuild::<Trails>();
        disk.plan(Faults::none());
        let stats = store.stats();
        assert!(stats.poisoned.is_none(), "nothing was written but by the projection");
        if stats.behind[0].trouble.is_some() {
            halted += 1;
            assert!(matches!(store.view().expect("open").row::<Trails>(&1), Err(ReadError::Storage(_))));
            store.append(deposit(1, 1)).expect("the store goes on");
            store.recover().expect("it is well");
        }
        some(&store, &mut dice, 30);
        checked_whole::<Trails>(&store);
    }
    assert!(halted > 3, "{halted}");
}

#[test]
fn files_of_removed_projection_are_deleted() {
    let disk = fresh_disk(11);
    let store = open(behind(&disk));
    some(&store, &mut Dice::new(1), 30);
    store.close();
    assert_eq!(files(&disk).len(), 1);
    let store = open(Setup::new().inline::<Twin>().options(options()).platform(platform(&disk)).lockstep());
    assert_eq!(files(&disk), Vec::<PathBuf>::new());
    drop(store);
}

#[test]
fn projection_moves_between_inline_and_behind() {
    let disk = fresh_disk(12);
    let store = open(behind(&disk));
    some(&store, &mut Dice::new(1), 100);
    store.close();
    let swapped = || {
        Setup::new()
            .inline::<Trails>()
            .behind::<Twin>()
            .options(options())
            .platform(platform(&disk))
            .lockstep()
    };
    let store = open(swapped());
    some(&store, &mut Dice::new(2), 100);
    checked_whole::<Twin>(&store);
    check::<Trails>(&store);
    let report = store.verify().expect("it can be read");
    assert_eq!((report.first_bad, report.folded_otherwise), (None, None));
    assert!(
        disk.list(Path::new("/store/behind")).expect("the folder")[0].starts_with("a%20twin%20%2f%20%49")
    );
}

#[test]
fn duplicate_projection_name_is_refused() {
    let refused = Store::in_memory(Setup::new().inline::<Trails>().behind::<TrailsTwo>());
    assert!(
        matches!(refused, Err(OpenError::Setup(wrong)) if wrong[0].contains("two projections are called `trails`"))
    );
}

// ---- other code under the same name ----

#[test]
fn verify_reports_rows_folded_by_other_code() {
    trails!(Wrong, "trails", 1, |event| match event {
        Bank::Deposited { cents: 7, .. } => Err(FoldError::refuse("never met")),
        _ => Ok(()),
    });
    struct Double;
    impl Projection for Double {
        const NAME: &'static str = "trails";
        type Event = Bank;
        type Key = u32;
        type Row = Trail;
        fn fold(event: &Bank, rows: &mut Rows<'_, Self>) -> Folded {
            fold_trail(event, rows)?;
            fold_trail(event, rows)
        }
    }
    let disk = fresh_disk(13);
    let with = |setup: Setup| setup.options(options()).platform(platform(&disk)).lockstep();
    let store = open(with(Setup::new().behind::<Double>()));
    store.append(deposit(1, 1)).expect("good");
    store.append(withdraw(1, 1)).expect("good");
    settle(&store);
    store.close();
    let store = open(with(Setup::new().behind::<Wrong>()));
    let bad = store.verify().expect("it can be read").first_bad.expect("a difference");
    assert!(bad.what.contains("`trails`"), "{}", bad.what);
    store.rebuild::<Wrong>().expect("it can be");
    assert_eq!(store.verify().expect("readable").first_bad, None);
    checked_whole::<Wrong>(&store);
}

// ---- threads that come and go ----

#[test]
fn projections_catch_up_after_random_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("bank");
    let setup = || Setup::new().inline::<Twin>().behind::<Trails>().behind::<Picky>().options(options());
    let mut dice = Dice::new(14);
    for _ in 0..60 {
        let store = Store::open_or_create(&path, setup()).expect("it opens");
        let commits: Vec<_> =
            (0..dice.roll(120)).map(|_| store.submit(deposit(dice.roll(12) as u32, 1))).collect();
        match dice.roll(4) {
            0 => drop(store),
            1 => {
                thread::scope(|scope| {
                    scope.spawn(|| drop(store.rebuild::<Trails>()));
                    scope.spawn(|| store.clone().close());
                });
            }
            2 => commits.into_iter().for_each(|commit| drop(commit.wait())),
            _ => store.close(),
        }
    }
    let store = Store::open(&path, setup()).expect("it opens");
    let head = store.view().expect("open").position();
    store.wait_for::<Trails>(head, LONG).expect("it gets there");
    store.wait_for::<Picky>(head, LONG).expect("it gets there");
    assert_eq!((check::<Trails>(&store), check::<Picky>(&store)), (head.get(), head.get()));
    assert_eq!(store.verify().expect("readable").first_bad, None);
}
