//! Rot: derived files with damaged, moved, outdated and foreign blocks never lead to a wrong answer or a wrong append.
//!
//! Each trial damages one derived file of a closed or an open store, and then reads, appends and decides on top of it. A plain
//! model kept here says what each answer must be. An error that names damage is right too: after `recover` everything must be.
//!
//! `ROT=10000 cargo test --test it rot:: -- --nocapture` runs a campaign of that many trials and prints counts by kind; `ROT_SEED=2`
//! runs others.

use crate::support::{Balances, Bank, Dice, deposit, platform};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tallystone::check::{About, Check, Severity};
use tallystone::error::{AppendError, ReadError, TxError};
use tallystone::prelude::*;
use tallystone::testing::SimDisk;
use tallystone::{Options, Setup};

const STORE: &str = "/store";
const BLOCK: usize = 4096;

/// Number of events and sum of deposits of each account.
struct Totals;

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Total {
    events: u64,
    cents: u64,
}

impl Projection for Totals {
    const NAME: &'static str = "totals";
    type Event = Bank;
    type Key = u32;
    type Row = Total;

    fn fold(event: &Bank, rows: &mut Rows<'_, Self>) -> Folded {
        let (Bank::Opened { account } | Bank::Deposited { account, .. } | Bank::Withdrawn { account, .. }) =
            event;
        rows.update(*account, |total| {
            total.events += 1;
            total.cents += if let Bank::Deposited { cents, .. } = event { *cents } else { 0 };
        })
    }
}

fn opened_once() -> Check {
    About {
        id: "opened-once",
        severity: Severity::Ticket,
        owner: "accounts",
        means: "An account was opened twice.",
        remedy: "1 merge the two accounts",
    }
    .absence(2, |event: &Bank| matches!(event, Bank::Opened { .. }))
    .into()
}

/// Expected answers of a store.
#[derive(Debug, Clone, Default)]
struct Model {
    accounts: Arc<BTreeMap<u32, Vec<Bank>>>,
    /// Accounts that changed since.
    changed: BTreeMap<u32, Vec<Bank>>,
    opened_twice: BTreeSet<u32>,
}

impl Model {
    fn events(&self, account: u32) -> &[Bank] {
        self.changed.get(&account).or_else(|| self.accounts.get(&account)).map_or(&[], Vec::as_slice)
    }

    fn push(&mut self, event: Bank) {
        let account = event.id();
        let mut events = self.events(account).to_vec();
        let opened = |event: &&Bank| matches!(event, Bank::Opened { .. });
        if opened(&&event) && events.iter().any(|event| opened(&event)) {
            self.opened_twice.insert(account);
        }
        events.push(event);
        self.changed.insert(account, events);
    }

    fn balance(&self, account: u32) -> Option<u64> {
        let events = self.events(account);
        (!events.is_empty()).then(|| {
            events.iter().fold(0, |balance, event| match event {
                Bank::Opened { .. } => 0,
                Bank::Deposited { cents, .. } => balance + cents,
                Bank::Withdrawn { cents, .. } => balance - cents,
            })
        })
    }

    fn total(&self, account: u32) -> Option<Total> {
        let events = self.events(account);
        let cents = |event: &Bank| if let Bank::Deposited { cents, .. } = event { *cents } else { 0 };
        let (events, cents) = (events.len() as u64, events.iter().map(cents).sum());
        (events > 0).then_some(Total { events, cents })
    }

    /// Accounts of a range, in order.
    fn accounts(&self, from: u32, through: u32) -> Vec<u32> {
        let keys = self.accounts.range(from..=through).map(|(account, _)| *account);
        let all: BTreeSet<u32> =
            keys.chain(self.changed.range(from..=through).map(|(account, _)| *account)).collect();
        all.into_iter().collect()
    }
}

/// A closed store, what it must answer, and its derived files at an earlier time.
struct Sound {
    disk: SimDisk,
    model: Model,
    earlier: BTreeMap<PathBuf, Vec<u8>>,
    rows: u32,
}

fn options() -> Options {
    let mut options = Options::default();
    // Small caches, so that reads go to disk.
    (options.state_cache_bytes, options.overlay_bytes_max) = (1 << 16, 4 << 20);
    (options.segment_bytes_min, options.segment_bytes_max) = (1 << 16, 8 << 20);
    options.check_keys_max = 40;
    options
}

fn setup(disk: &SimDisk) -> Setup {
    let setup = Setup::new().inline::<Balances>().behind::<Totals>().check(opened_once()).alerts(|_| ());
    setup.options(options()).platform(platform(disk)).lockstep()
}

fn derived(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|path| path.extension().is_some_and(|name| name == "redb")).collect()
}

/// Every third number is an account.
fn build(rows: u32, seed: u64) -> Sound {
    let disk = SimDisk::new(seed);
    let (mut model, mut earlier) = (BTreeMap::<u32, Vec<Bank>>::new(), BTreeMap::new());
    let mut append = |store: &Store, events: Vec<Bank>| {
        events.iter().for_each(|event| model.entry(event.id()).or_default().push(event.clone()));
        let key = format!("{:?}", events[0]);
        store.append(Append::events(events).key("build", key)).expect("it is accepted");
    };
    let accounts: Vec<u32> = (0..rows).map(|row| row * 3).collect();
    let half = accounts.len() / 2;
    for (part, accounts) in [&accounts[..half], &accounts[half..]].into_iter().enumerate() {
        let store = Store::open_or_create(STORE, setup(&disk)).expect("it opens");
        for some in accounts.chunks(if rows > 1000 { 1000 } else { 7 }) {
            append(&store, some.iter().map(|account| Bank::Opened { account: *account }).collect());
        }
        let some = accounts.iter().step_by(if rows > 1000 { 50 } else { 2 });
        some.for_each(|account| append(&store, vec![Bank::Deposited { account: *account, cents: 9 }]));
        assert!(caught_up(&store), "a sound store catches up");
        store.close();
        if part == 0 {
            let files = derived(&disk).into_iter();
            earlier = files.map(|path| (path.clone(), disk.read_file(path).expect("it is there"))).collect();
        }
    }
    let model = Model { accounts: Arc::new(model), ..Model::default() };
    Sound { disk, model, earlier, rows }
}

/// Returns whether the projection behind the writer and the check are at the head, after as many steps as it takes.
fn caught_up(store: &Store) -> bool {
    for _ in 0..2_000 {
        let behind = &store.stats().behind[0];
        if behind.lag_len == 0 && behind.rebuilding.is_none() {
            return store.checks().wait_for(store.stats().position, Duration::ZERO);
        }
        store.step();
    }
    false
}

// ---- damage ----

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Nothing is damaged, so nothing may be detected: what counts detections is tried, too.
    Sound,
    Flipped,
    Zeroed,
    Duplicated,
    Stale,
    Foreign,
    Older,
    Truncated,
    Extended,
}

const KINDS: [Kind; 9] = [
    Kind::Sound,
    Kind::Flipped,
    Kind::Zeroed,
    Kind::Duplicated,
    Kind::Stale,
    Kind::Foreign,
    Kind::Older,
    Kind::Truncated,
    Kind::Extended,
];

fn block(dice: &mut Dice, len: usize) -> std::ops::Range<usize> {
    let start = dice.roll(len.div_ceil(BLOCK) as u64) as usize * BLOCK;
    start..(start + BLOCK).min(len)
}

/// Bytes of the damaged file; `None` if this kind changes nothing in it.
fn damage(kind: Kind, path: &Path, sound: &Sound, other: &Sound, dice: &mut Dice) -> Option<Vec<u8>> {
    let bytes = sound.disk.read_file(path).expect("it is there");
    let mut rotten = bytes.clone();
    let to = block(dice, bytes.len());
    match kind {
        Kind::Sound => return Some(rotten),
        Kind::Flipped => rotten[dice.roll(bytes.len() as u64) as usize] ^= 1 << dice.roll(8),
        Kind::Zeroed => rotten[to].fill(0),
        Kind::Duplicated => {
            let from = block(dice, bytes.len());
            let len = from.len().min(to.len());
            rotten.copy_within(from.start..from.start + len, to.start);
        }
        Kind::Stale => {
            let earlier = sound.earlier.get(path)?;
            let blocks = bytes.chunks(BLOCK).zip(earlier.chunks(BLOCK)).zip((0..).step_by(BLOCK));
            let differ: Vec<_> = blocks.filter(|((is, was), _)| is != was).collect();
            let ((_, was), at) = differ.get(dice.roll(differ.len().max(1) as u64) as usize)?;
            rotten[*at..at + was.len()].copy_from_slice(was);
        }
        Kind::Foreign => {
            let mut others: Vec<_> = derived(&sound.disk).into_iter().filter(|other| other != path).collect();
            let file = others.swap_remove(dice.roll(others.len() as u64) as usize);
            rotten = match dice.roll(2) {
                0 => sound.disk.read_file(file),
                _ => other.disk.read_file(path),
            }
            .expect("it is there");
        }
        Kind::Older => rotten = sound.earlier.get(path)?.clone(),
        Kind::Truncated => rotten.truncate(dice.roll(bytes.len() as u64) as usize),
        Kind::Extended => rotten.extend((0..1 + dice.roll(3 * BLOCK as u64)).map(|_| dice.roll(3) as u8)),
    }
    (rotten != bytes).then_some(rotten)
}

// ---- one trial ----

struct Trial {
    store: Store,
    model: Model,
    dice: Dice,
    rows: u32,
    /// Errors that named damage.
    errors: u64,
}

/// The call met damage, said so, and changed nothing.
struct Damaged;

fn read<T>(result: Result<T, ReadError>) -> Result<T, Damaged> {
    match result {
        Ok(value) => Ok(value),
        Err(ReadError::Storage(error)) => {
            assert!(error.is_rebuildable(), "{error:?}");
            Err(Damaged)
        }
        Err(ReadError::Rebuilding { .. }) => Err(Damaged),
        Err(error) => panic!("{error:?}"),
    }
}

impl Trial {
    fn account(&mut self) -> u32 {
        let account = self.dice.roll(u64::from(self.rows) * 3) as u32;
        if self.dice.roll(3) == 0 { account } else { account / 3 * 3 }
    }

    /// After an error that named damage. Each file is damaged at most once.
    fn recover(&mut self) {
        self.errors += 1;
        assert!(self.errors < 5, "damage comes back after it was recovered from");
        self.store.recover().expect("it recovers");
        // A projection behind the writer hears of the damage with its next step.
        self.store.step();
    }

    fn reopened(self, disk: &SimDisk) -> Self {
        self.store.close();
        Self { store: Store::open(STORE, setup(disk)).expect("it opens again"), ..self }
    }

    /// Damage that no read met so far is found, and is gone after a recovery.
    fn verify(&mut self) {
        while let Some(bad) = self.store.verify().expect("it can be read").first_bad {
            assert!(bad.what.contains("damaged"), "{bad:?}");
            self.recover();
            self.catch_up();
        }
    }

    fn catch_up(&mut self) {
        while !caught_up(&self.store) {
            self.recover();
        }
    }

    fn look(&mut self) -> Result<(), Damaged> {
        let (account, view) = (self.account(), read(self.store.view())?);
        match self.dice.roll(8) {
            0 | 1 => {
                let row = read(view.row::<Balances>(&account))?;
                assert_eq!(row, self.model.balance(account), "row {account}");
            }
            2 => {
                let rows = view.rows::<Balances>(account..=account + 60).collect::<Result<Vec<_>, _>>();
                let accounts = self.model.accounts(account, account + 60).into_iter();
                let expected: Vec<_> = accounts.map(|one| (one, self.model.balance(one).unwrap())).collect();
                assert_eq!(read(rows)?, expected, "rows from {account}");
            }
            3 => {
                let rows =
                    view.rows_backwards::<Balances>(..=account).take(20).collect::<Result<Vec<_>, _>>();
                let low = account.saturating_sub(100);
                let accounts = self.model.accounts(low, account).into_iter().rev().take(20);
                let expected: Vec<_> = accounts.map(|one| (one, self.model.balance(one).unwrap())).collect();
                assert_eq!(read(rows)?, expected, "rows back from {account}");
            }
            4 => {
                let version = read(view.stream_version::<Bank>(&account))?;
                assert_eq!(version, self.model.events(account).len() as u64, "version of {account}");
                let events = read(view.stream::<Bank>(&account).collect::<Result<Vec<_>, _>>())?;
                let events: Vec<_> = events.into_iter().map(|event| event.event).collect();
                assert_eq!(events, self.model.events(account), "stream {account}");
            }
            5 | 6 => {
                let backwards = self.dice.roll(2) == 0;
                let query: Query = QueryItem::tag("account", account).into();
                let query = if backwards { query.backwards() } else { query };
                let events = read(view.query::<Bank>(query).collect::<Result<Vec<_>, _>>())?;
                let mut events: Vec<_> = events.into_iter().map(|event| event.event).collect();
                if backwards {
                    events.reverse();
                }
                assert_eq!(events, self.model.events(account), "query of {account}");
            }
            _ if self.store.stats().behind[0].lag_len == 0 => {
                let range = (Bound::Included(account), Bound::Included(account + 30));
                let rows = read(view.rows::<Totals>(range).collect::<Result<Vec<_>, _>>())?;
                let accounts = self.model.accounts(account, account + 30).into_iter();
                let expected: Vec<_> = accounts.map(|one| (one, self.model.total(one).unwrap())).collect();
                assert_eq!(rows, expected, "totals from {account}");
            }
            _ => self.catch_up(),
        }
        Ok(())
    }

    fn change(&mut self) -> Result<(), Damaged> {
        let account = self.account();
        let version = self.model.events(account).len() as u64;
        match self.dice.roll(6) {
            0 => {
                let expected = if version == 0 { Expected::NoStream } else { Expected::Exact(version) };
                self.accepted(Bank::Deposited { account, cents: 5 }, |append| {
                    append.expect::<Bank>(&account, expected)
                })
            }
            1 => {
                let wrong = Expected::Exact(version + 1);
                match self.store.append(deposit(account, 1).expect::<Bank>(&account, wrong)) {
                    Err(AppendError::WrongVersion { is, .. }) => assert_eq!(is, version),
                    other => self.failed(account, version, other.err())?,
                }
                Ok(())
            }
            2 => {
                let condition: Query = QueryItem::tag("account", account).into();
                let event = Bank::Deposited { account, cents: 6 };
                if version == 0 {
                    return self.accepted(event, |append| append.fail_if_events_match(condition, None));
                }
                match self.store.append(Append::event(event).fail_if_events_match(condition, None)) {
                    Err(AppendError::Conflict(_)) => Ok(()),
                    other => self.failed(account, version, other.err()),
                }
            }
            3 => {
                let paid = self.store.transact(Request::new("pay"), |tx| -> Decision<Option<u64>, String> {
                    let balance = tx.row::<Balances>(&account)?;
                    tx.append(Bank::Deposited { account, cents: 7 })?;
                    Ok(balance)
                });
                match paid {
                    Ok(paid) => {
                        assert_eq!(paid.response, self.model.balance(account), "decided on {account}");
                        self.model.push(Bank::Deposited { account, cents: 7 });
                        Ok(())
                    }
                    Err(TxError::Storage(error)) => read(Err(ReadError::Storage(error))),
                    Err(TxError::Read(error)) => read(Err(error)),
                    Err(TxError::Poisoned(_)) => Err(Damaged),
                    Err(error) => panic!("{error:?}"),
                }
            }
            4 => {
                // The key of a batch of the build, by its first event.
                let first = self.dice.roll(u64::from(self.rows).div_ceil(100)) as u32 * 150;
                let event = Bank::Deposited { account: first, cents: 9 };
                if !self.model.accounts.get(&first).is_some_and(|events| events.contains(&event)) {
                    return Ok(());
                }
                let key = format!("{event:?}");
                match self.store.append(Append::events([event]).key("build", key)) {
                    Ok(done) => assert!(done.replayed, "a key was applied twice"),
                    Err(error) => self.failed(account, version, Some(error))?,
                }
                Ok(())
            }
            _ => {
                // Opened a second time if it is there: found by the check, once.
                self.accepted(Bank::Opened { account }, |append| append)
            }
        }
    }

    /// An append that the model accepts.
    fn accepted(&mut self, event: Bank, shape: impl FnOnce(Append) -> Append) -> Result<(), Damaged> {
        let (account, version) = (event.id(), self.model.events(event.id()).len() as u64);
        match self.store.append(shape(Append::event(event.clone()))) {
            Ok(_) => {
                self.model.push(event);
                Ok(())
            }
            Err(error) => self.failed(account, version, Some(error)),
        }
    }

    /// Nothing was appended, because of damage that is named.
    fn failed(&mut self, account: u32, version: u64, error: Option<AppendError>) -> Result<(), Damaged> {
        match error {
            Some(AppendError::Storage(error)) => assert!(error.is_rebuildable(), "{error:?}"),
            Some(AppendError::Poisoned { .. }) => {}
            other => panic!("account {account} at {version}: {other:?}"),
        }
        Err(Damaged)
    }

    fn run(&mut self) {
        for step in 0..14 {
            let done = if step % 2 == 0 || self.dice.roll(4) == 0 { self.look() } else { self.change() };
            if done.is_err() {
                self.recover();
                self.catch_up();
            }
        }
        self.catch_up();
        let found = loop {
            match read(self.store.checks().of("opened-once")) {
                Ok(found) => break found,
                Err(Damaged) => self.recover(),
            }
        };
        // One with a subject is about the check: that damage had stopped it for a while.
        let found: Vec<_> = found.iter().filter(|violation| violation.subject.is_none()).collect();
        assert_eq!(found.len(), self.model.opened_twice.len(), "each account opened twice is found once");
    }
}

// ---- the program ----

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    trials: u64,
    detected: u64,
    harmless: u64,
}

fn rot(trials: u64, rows: u32, seed: u64) -> BTreeMap<(String, Kind), Counts> {
    let (sound, other) = (build(rows, seed), build(rows.min(300), seed + 1));
    let (mut counts, mut wrong) = (BTreeMap::<_, Counts>::new(), Vec::new());
    for number in 0..trials {
        let mut dice = Dice::new(seed * 1_000_003 + number);
        (0..8).for_each(|_| _ = dice.roll(2));
        let kind = KINDS[number as usize % KINDS.len()];
        let files = derived(&sound.disk);
        let path = &files[dice.roll(files.len() as u64) as usize];
        let name = path.strip_prefix(STORE).unwrap().iter().next().unwrap().to_string_lossy().into_owned();
        let Some(rotten) = damage(kind, path, &sound, &other, &mut dice) else { continue };
        let while_open = matches!(kind, Kind::Flipped | Kind::Zeroed | Kind::Duplicated | Kind::Stale);
        let while_open = while_open && dice.roll(2) == 0;
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let disk = sound.disk.fork(number);
            let removed = disk.removed().len();
            let change = || match disk.read_file(path).expect("it is there").len() == rotten.len() {
                true => disk.corrupt(path, 0, &rotten),
                false => disk.write_file(path, &rotten),
            };
            if !while_open {
                change();
            }
            let store = match Store::open(STORE, setup(&disk)) {
                // State of another store tells of commits that this log never had: a person is asked.
                Err(OpenError::TailLost { .. }) if kind == Kind::Foreign => return true,
                opened => opened.expect("it opens"),
            };
            if while_open {
                change();
            }
            let mut trial = Trial { store, model: sound.model.clone(), dice, rows: sound.rows, errors: 0 };
            trial.run();
            if number % 3 == 0 {
                trial = trial.reopened(&disk);
                trial.run();
            }
            // A derived file that is not usable is removed. So is the scratch file of `verify`, so ask before.
            let rebuilt =
                disk.removed()[removed..].iter().any(|path| path.extension() == Some("redb".as_ref()));
            if number % 40 == 0 {
                trial.verify();
            }
            trial.store.close();
            trial.errors > 0 || rebuilt
        }));
        let count = counts.entry((name, kind)).or_default();
        count.trials += 1;
        match tried {
            Ok(true) => count.detected += 1,
            Ok(false) => count.harmless += 1,
            Err(panic) => {
                let what = panic.downcast_ref::<String>().cloned();
                let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                wrong.push(format!("trial {number}, {kind:?} in {}: {what:?}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {trials} trials went wrong:\n{}", wrong.len(), wrong.join("\n"));
    counts
}

fn campaign(share: u64, of_campaign: f64, rows: u32) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let trials = number("ROT").map_or(share, |asked| (asked as f64 * of_campaign) as u64);
    let counts = rot(trials, rows, number("ROT_SEED").unwrap_or(1));
    println!("{rows} rows:");
    for ((file, kind), Counts { trials, detected, harmless }) in &counts {
        println!(
            "  {file:12} {:11} {trials:6} trials {detected:6} detected {harmless:6} harmless",
            format!("{kind:?}")
        );
    }
    let is_sound = |(_, kind): &&(String, Kind)| *kind == Kind::Sound;
    let invented: u64 = counts.keys().filter(is_sound).map(|key| counts[key].detected).sum();
    assert_eq!(invented, 0, "detected where nothing was damaged");
    let detected: u64 = counts.values().map(|counts| counts.detected).sum();
    let total: u64 = counts.values().map(|counts| counts.trials).sum();
    println!("  {total} trials, {detected} detected, none wrong");
    assert!(detected * 10 > total, "hardly any damage was met");
}

#[test]
fn rot_in_100_rows_gives_no_wrong_answer() {
    campaign(240, 0.7, 100);
}

#[test]
fn rot_in_100000_rows_gives_no_wrong_answer() {
    campaign(10, 0.3, 100_000);
}

#[test]
fn stats_report_derived_file_size_and_free_bytes() {
    let sound = build(100, 1);
    let store = Store::open(STORE, setup(&sound.disk)).expect("it opens");
    store.step();
    let stats = store.stats();
    let told = [stats.state_file, stats.checks_file, stats.behind[0].file];
    let mut bytes: Vec<_> = told.iter().map(|file| file.bytes).collect();
    let len = |path: &PathBuf| sound.disk.read_file(path).expect("it is there").len() as u64;
    let mut lens: Vec<_> = derived(&sound.disk).iter().map(len).collect();
    bytes.sort_unstable();
    lens.sort_unstable();
    assert_eq!(bytes, lens);
    assert!(told.iter().all(|file| 0 < file.free_bytes && file.free_bytes < file.bytes), "{told:?}");
}
