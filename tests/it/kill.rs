//! A real process on a real directory, killed at any moment: the page cache survives, the process does not.
//!
//! - The child is this binary again, told by `TALLY_CHILD` what to do; every receipt it got is a line on its pipe.
//! - `KILLS=1000 cargo test --test it kill::` kills more often; `KILL_SEED=7` draws other moments.
//! - The only sleep is the one before the kill.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tallystone::error::OpenError;
use tallystone::event::Raw;
use tallystone::prelude::{Append, Committed, Position, Query, Store, View};
use tallystone::testing::Random;
use tallystone::testing::workload::{self, Balances, Counts, Fact, Request, Trails};
use tallystone::{Options, Setup};

const CHILD: &str = "TALLY_CHILD";
const DIR: &str = "TALLY_DIR";
const ROUND: &str = "TALLY_ROUND";
const THREADS: u64 = 4;

fn setup() -> Setup {
    let mut options = Options::default();
    options.segment_bytes_min = 16 << 10;
    options.segment_bytes_max = 128 << 10;
    options.overlay_bytes_max = 32 << 10;
    workload::setup(options)
}

/// The request of a thread: money on its account, and bytes of every length.
fn request(round: u64, thread: u64, number: u64) -> Append {
    let facts = [Fact::Opened(thread as u32, 1), Fact::Note(number, (number * 37 % 900) as usize)];
    Request::of(facts).keyed("kill", key(round, thread, number)).append()
}

fn key(round: u64, thread: u64, number: u64) -> String {
    format!("{round}-{thread}-{number}")
}

/// Commit, first and last position.
type Receipt = (u64, u64, u64);

fn receipt(committed: &Committed) -> Receipt {
    let receipt = &committed.receipt;
    (receipt.commit.get(), receipt.first.get(), receipt.last.get())
}

fn say(line: &str) {
    // One write: what is on the pipe is whole. The harness may have begun a line. A parent that is gone needs no answer.
    let _ = std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes());
}

// ---- the child ----

#[test]
fn child() {
    let Ok(mode) = std::env::var(CHILD) else { return };
    let dir = PathBuf::from(std::env::var(DIR).expect("the parent says where"));
    let round = std::env::var(ROUND).ok().and_then(|round| round.parse().ok()).unwrap_or(0);
    match mode.as_str() {
        "append" => append_for_ever(&dir, round),
        "reopen" => reopen_for_ever(&dir, round),
        "create" => {
            drop(Store::open_or_create(&dir, setup()).map(|store| append_some(&store, round, 0, 1000)))
        }
        "race" => race(&dir),
        mode => panic!("no such child: {mode}"),
    }
    std::process::exit(0);
}

fn append_some(store: &Store, round: u64, from: u64, count: u64) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for number in from..from + count {
                    let committed =
                        store.append(request(round, thread, number)).expect("nothing fails but the process");
                    let (commit, first, last) = receipt(&committed);
                    say(&format!("receipt {round} {thread} {number} {commit} {first} {last}"));
                }
            });
        }
    });
}

fn append_for_ever(dir: &Path, round: u64) {
    let store = Store::open(dir, setup()).expect("a killed store opens");
    append_some(&store, round, 0, u64::MAX);
}

fn reopen_for_ever(dir: &Path, round: u64) {
    for times in 0.. {
        let store = Store::open(dir, setup()).expect("a closed store opens");
        append_some(&store, round, times * 5, 5);
        store.close();
    }
}

/// Waits for the word, opens, and holds it until the parent lets go.
fn race(dir: &Path) {
    let mut lines = std::io::stdin().lines();
    say("ready");
    lines.next();
    let store = match Store::open_or_create(dir, setup()) {
        Ok(store) => {
            say("won");
            Some(store)
        }
        Err(OpenError::AlreadyOpen { path }) if path == *dir => {
            say("lost");
            None
        }
        Err(error) => {
            say(&format!("failed {error:?}"));
            None
        }
    };
    lines.next();
    drop(store);
}

// ---- the parent ----

fn spawn(mode: &str, dir: &Path, round: u64) -> Child {
    Command::new(std::env::current_exe().expect("a test has a binary"))
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .envs([(CHILD, mode), (DIR, dir.to_str().expect("a plain path")), (ROUND, &round.to_string())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts")
}

/// Starts a child, kills it after so long, and reads what it said.
fn killed(mode: &str, dir: &Path, round: u64, after: Duration) -> Vec<String> {
    let mut child = spawn(mode, dir, round);
    let pipe = child.stdout.take().expect("it is piped");
    // Beside: a full pipe would hold the child up.
    let reader = std::thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).collect());
    std::thread::sleep(after);
    child.kill().expect("it is ours");
    let status = child.wait().expect("it ends");
    assert!(!status.success() || mode == "create", "{mode} child ended by itself: {status}");
    reader.join().expect("a pipe is read to its end")
}

/// What the parent knows of a store over all rounds.
#[derive(Default)]
struct Known {
    receipts: BTreeMap<(u64, u64, u64), Receipt>,
    unacknowledged: u64,
}

impl Known {
    fn hear(&mut self, lines: &[String]) -> usize {
        let before = self.receipts.len();
        for line in lines {
            let Some(receipt) = line.strip_prefix("receipt ") else { continue };
            let numbers: Vec<u64> =
                receipt.split(' ').map(|number| number.parse().expect("a number")).collect();
            let [round, thread, number, commit, first, last] = numbers[..] else {
                panic!("half a line: {line}")
            };
            self.receipts.insert((round, thread, number), (commit, first, last));
        }
        self.receipts.len() - before
    }

    /// Everything acknowledged is there; what was not is there whole or not at all, and a retry tells which.
    fn check(&mut self, dir: &Path, rounds: &[u64], random: &mut Random) {
        let store =
            Store::open(dir, setup()).unwrap_or_else(|error| panic!("{rounds:?}: {error} ({error:?})"));
        assert_tidy(dir);
        let before = store.stats().position.get();
        let all: Vec<_> = self.receipts.keys().copied().collect();
        let mut asked: Vec<_> = all.iter().filter(|(round, ..)| rounds.contains(round)).copied().collect();
        asked.extend((0..60.min(all.len())).map(|_| all[random.below(all.len() as u64) as usize]));
        for (round, thread, number) in asked {
            let again = store.append(request(round, thread, number)).expect("a retry is answered");
            let must = self.receipts[&(round, thread, number)];
            assert!(
                again.replayed && receipt(&again) == must,
                "{}: {again:?} is not {must:?}",
                key(round, thread, number)
            );
        }
        assert_eq!(store.stats().position.get(), before, "retries add nothing");
        for (round, thread) in rounds.iter().flat_map(|round| (0..THREADS).map(|thread| (*round, thread))) {
            let next = self.receipts.range((round, thread, 0)..(round, thread + 1, 0)).count() as u64;
            let first = store.append(request(round, thread, next)).expect("the unanswered one");
            let second = store.append(request(round, thread, next)).expect("and again");
            assert!(second.replayed && first.receipt == second.receipt, "one receipt for one key");
            self.unacknowledged += u64::from(first.replayed);
            self.receipts.insert((round, thread, next), receipt(&first));
            let beyond =
                store.view().expect("a view").answer("kill", &key(round, thread, next + 1)).expect("a key");
            assert!(beyond.is_none(), "a request was never sent and is there");
        }
        let keys = self.receipts.len() as u64;
        let view = store.view().expect("a view");
        assert_eq!(
            (store.stats().keys_len, view.commit().get(), view.position().get()),
            (keys, keys, 2 * keys)
        );
        let sum: i64 = view.rows::<Balances>(..).map(|row| row.expect("a row").1).sum();
        let count = view.row::<Counts>("opened").expect("a row").map_or(0, |row| row.0);
        assert_eq!((sum as u64, count), (keys, keys), "rows are those of the events");
        let head = view.position();
        let behind = store.wait_for::<Trails>(head, Duration::from_secs(60)).expect("it catches up");
        let trails = behind.rows::<Trails>(..).map(|row| row.expect("a row"));
        assert_eq!(
            trails.collect::<BTreeMap<_, _>>(),
            trails_of(&view),
            "rows behind are those of the events"
        );
        let mut subscription = store.subscribe::<Raw>(Query::all(), Position::START);
        for position in 1..=head.get() {
            let event = subscription.next().expect("open").expect("readable");
            assert_eq!(event.position.get(), position, "once, in order");
        }
        assert!(subscription.try_next().is_pending());
        drop((view, behind));
        let report = store.verify().expect("verify looks");
        assert_eq!((report.first_bad, report.folded_otherwise), (None, None), "{rounds:?}");
        if random.coin() {
            store.close();
        }
    }
}

/// What `Trails` must be, from the events: nobody frees a seat here.
fn trails_of(view: &View) -> BTreeMap<String, (u64, u64)> {
    let mut trails: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for event in view.query::<Raw>(Query::all()) {
        let event = event.expect("an event");
        let (count, sum) = trails.entry(event.event.stream().to_owned()).or_default();
        *count += 1;
        *sum = sum.wrapping_mul(31).wrapping_add(event.position.get());
    }
    trails
}

/// Nothing half-made lies about.
fn assert_tidy(dir: &Path) {
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("a directory");
        entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("plain names"))
            .collect()
    };
    for name in names(dir) {
        assert!(
            ["behind", "lock", "log", "state.redb", "verify.redb"].contains(&name.as_str()),
            "{name} lies about"
        );
    }
    if dir.join("behind").exists() {
        // Built anew beside the old one, at most.
        let files = names(&dir.join("behind"));
        assert!(files.len() <= 2 && files.iter().all(|name| name.starts_with("trails.")), "{files:?}");
    }
    for name in names(&dir.join("log")) {
        // The next segment is prepared ahead by a store that is open.
        let known = name.ends_with(".log") || name.starts_with("cut-0") || name == "next.creating";
        assert!(known, "log/{name} lies about");
    }
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn random() -> Random {
    Random::new(env("KILL_SEED").unwrap_or(1))
}

fn rounds(share: u64) -> u64 {
    env("KILLS").unwrap_or(30) / share
}

#[test]
fn killed_process_loses_no_acknowledged_commit() {
    let (room, mut random, mut known) = (tempfile::tempdir().expect("room"), random(), Known::default());
    let dir = room.path().join("store");
    Store::create(&dir, setup()).expect("a new store").close();
    let mut heard = 0;
    for round in 0..rounds(1) {
        let lines = killed("append", &dir, round, Duration::from_millis(random.below(61)));
        heard += known.hear(&lines);
        if random.chance(0.15) {
            // Killed while it folds everything again.
            std::fs::remove_file(dir.join("state.redb")).expect("it was there");
            let another = 1_000_000 + round;
            known.hear(&killed("append", &dir, another, Duration::from_millis(5 + random.below(25))));
            known.check(&dir, &[round, another], &mut random);
        } else {
            known.check(&dir, &[round], &mut random);
        }
    }
    println!("{} kills, {heard} receipts, {} commits nobody was told of", rounds(1), known.unacknowledged);
}

#[test]
fn kill_during_close_loses_nothing() {
    let (room, mut random, mut known) = (tempfile::tempdir().expect("room"), random(), Known::default());
    let dir = room.path().join("store");
    Store::create(&dir, setup()).expect("a new store").close();
    let mut heard = 0;
    for round in 0..rounds(3) {
        let lines = killed("reopen", &dir, round, Duration::from_millis(5 + random.below(60)));
        heard += known.hear(&lines);
        known.check(&dir, &[round], &mut random);
    }
    println!("{} kills around closes, {heard} receipts", rounds(3));
}

#[test]
fn kill_during_create_allows_open_or_create() {
    let (room, mut random) = (tempfile::tempdir().expect("room"), random());
    let mut half = 0;
    for round in 0..rounds(2) {
        let (dir, mut known) = (room.path().join(format!("store-{round}")), Known::default());
        known.hear(&killed("create", &dir, round, Duration::from_micros(random.below(20_000))));
        half += u64::from(!dir.join("log").exists());
        match Store::open(&dir, setup()) {
            Ok(_) => {}
            Err(OpenError::NotFound { .. }) => {
                assert!(known.receipts.is_empty(), "receipts of a store that is not there");
                Store::create(&dir, setup()).expect("a crash in create is no hindrance").close();
            }
            Err(error) => panic!("{error} ({error:?})"),
        }
        known.check(&dir, &[round], &mut random);
    }
    println!("{} kills while creating, {half} before there was a store", rounds(2));
}

#[test]
fn kill_during_rebuild_loses_nothing() {
    let (room, mut random, mut known) = (tempfile::tempdir().expect("room"), random(), Known::default());
    let dir = room.path().join("store");
    let store = Store::create(&dir, setup()).expect("a new store");
    for number in 0..1500 {
        // Handed over together: a sync for each would take a while.
        let commits: Vec<_> = (0..THREADS).map(|thread| store.submit(request(0, thread, number))).collect();
        for (thread, commit) in commits.into_iter().enumerate() {
            known.receipts.insert((0, thread as u64, number), receipt(&commit.wait().expect("committed")));
        }
    }
    store.close();
    for round in 1..=rounds(5) {
        std::fs::remove_file(dir.join("state.redb")).expect("it was there");
        if round % 2 == 0 {
            std::fs::remove_dir_all(dir.join("behind")).expect("it was there");
        }
        for _ in 0..2 {
            known.hear(&killed("append", &dir, round, Duration::from_millis(4 + random.below(50))));
        }
        known.check(&dir, &[round], &mut random);
    }
}

/// 1. Both processes are ready. 2. Both get the word. 3. One has it, the other is told by whom it was not waited for.
#[test]
fn only_one_of_two_racing_opens_wins() {
    let room = tempfile::tempdir().expect("room");
    for round in 0..rounds(3) {
        // Every other round there is nothing yet, and both create.
        let dir = room.path().join(format!("store-{round}"));
        if round % 2 == 0 {
            Store::create(&dir, setup()).expect("a new store").close();
        }
        let mut racers: Vec<_> = (0..2).map(|_| spawn("race", &dir, 0)).collect();
        let mut lines: Vec<_> = racers
            .iter_mut()
            .map(|racer| {
                BufReader::new(racer.stdout.take().expect("it is piped")).lines().map_while(Result::ok)
            })
            .collect();
        let words =
            |line: &String| ["ready", "won", "lost", "failed"].iter().any(|word| line.starts_with(word));
        for line in &mut lines {
            assert_eq!(line.find(words).as_deref(), Some("ready"));
        }
        for racer in &mut racers {
            racer.stdin.as_mut().expect("it is piped").write_all(b"go\n").expect("it listens");
        }
        let mut said: Vec<_> = lines.iter_mut().map(|line| line.find(words).expect("an answer")).collect();
        said.sort();
        assert_eq!(said, ["lost", "won"], "round {round}");
        assert!(matches!(Store::open(&dir, setup()), Err(OpenError::AlreadyOpen { .. })));
        for racer in &mut racers {
            drop(racer.stdin.take());
            assert!(racer.wait().expect("it ends").success());
        }
        let store = Store::open(&dir, setup()).expect("the lock is free");
        assert_eq!(store.view().expect("a view").query::<tallystone::event::Raw>(Query::all()).count(), 0);
    }
}
