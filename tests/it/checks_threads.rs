//! Sixty-four threads append at once, on a real disk, and checks judge behind them: what is on record in the end is what a naive rule
//! says of the log that came of it, each once.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;
use tallystone::check::{About, Outside, PullError, Pulled, Severity};
use tallystone::disk::Platform;
use tallystone::event::Raw;
use tallystone::prelude::*;
use tallystone::testing::SimClock;
use tallystone::watch::{State, Violation};

const THREADS: u32 = 64;
const ROUNDS: u32 = 24;
const CASES: u32 = 8;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Case {
    Opened {
        case: u32,
    },
    Closed {
        case: u32,
    },
    /// What it adds to its case, and what that has come to, as far as the thread knew.
    Noted {
        case: u32,
        adds: i64,
        says: i64,
    },
}

use Case::{Closed, Noted, Opened};

impl Event for Case {
    const FAMILY: &'static str = "case";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Opened { case } | Closed { case } | Noted { case, .. }) = self;
        *case
    }
}

fn opened(event: &Case) -> bool {
    matches!(event, Opened { .. })
}

fn closed(event: &Case) -> bool {
    matches!(event, Closed { .. })
}

fn noted(event: &Case) -> bool {
    matches!(event, Noted { .. })
}

fn adds(event: &Case) -> Option<i64> {
    match event {
        Noted { adds, .. } => Some(*adds),
        _ => None,
    }
}

fn says(event: &Case) -> Option<i64> {
    match event {
        Noted { says, .. } => Some(*says),
        _ => None,
    }
}

/// Whether a case is open.
struct Doors;

impl Projection for Doors {
    const NAME: &'static str = "doors";
    type Event = Case;
    type Key = u32;
    type Row = bool;

    fn fold(event: &Case, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Opened { case } => rows.put(*case, true),
            Closed { case } => rows.put(*case, false),
            Noted { .. } => Ok(()),
        }
    }
}

/// What the notes of a case add up to.
struct Sums;

impl Projection for Sums {
    const NAME: &'static str = "sums";
    type Event = Case;
    type Key = u32;
    type Row = i64;

    fn fold(event: &Case, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Noted { case, adds, .. } => rows.update(*case, |sum| *sum += adds),
            _ => Ok(()),
        }
    }
}

fn is_odd(open: Option<&bool>, sum: Option<&i64>) -> bool {
    open == Some(&false) && sum.is_some_and(|sum| sum % 2 != 0)
}

fn about(id: &'static str) -> About {
    About { id, severity: Severity::Note, owner: "desk", means: "It is not as it must be.", remedy: "1 look" }
}

fn open(path: &Path) -> Store {
    let setup = Setup::new()
        .inline::<Sums>()
        .check(about("one-open").absent_between(opened, opened).until(closed).guard())
        .check(about("opened-first").precedence(opened, noted))
        .check(about("few-notes").absence(9, noted))
        .check(about("sum").equals(adds, says))
        .check(
            about("closed-and-odd")
                .standing::<(Doors, Sums)>(|_, (open, sum)| is_odd(open, sum))
                .for_longer_than(Duration::ZERO),
        )
        .alerts(|_| {});
    Store::open_or_create(path, setup).expect("it opens")
}

fn settle(store: &Store) {
    let head = store.stats().position;
    assert!(store.checks().wait_for(head, Duration::from_secs(600)), "{:?}", store.checks().stats());
}

/// What is found: by which check, of which event and key, and what healed it.
type Found = (String, u64, Option<String>, Option<u64>);

fn found(violation: Violation) -> Found {
    let healed = match violation.state {
        State::Open => None,
        State::Healed { by, .. } => Some(by.get()),
        other => panic!("nobody did that: {other:?}"),
    };
    (violation.check, violation.activation.get(), violation.subject, healed)
}

fn all(store: &Store) -> Vec<Found> {
    store.checks().all().expect("rows are read").into_iter().map(found).collect()
}

/// How many findings are on record, of violations and of their ends.
fn recorded(store: &Store) -> [usize; 2] {
    let view = store.view().expect("a view");
    ["Violated", "Healed"]
        .map(|kind| view.query::<Raw>(QueryItem::types([format!("tallystone.{kind}")])).count())
}

/// What the rules say of a log. Each looks at all events of the case anew.
fn expected(log: &[Sequenced<Case>], end: std::time::SystemTime) -> BTreeSet<Found> {
    let mut cases: BTreeMap<u32, Vec<&Sequenced<Case>>> = BTreeMap::new();
    log.iter().for_each(|event| cases.entry(event.id()).or_default().push(event));
    let mut all = BTreeSet::new();
    for (case, events) in cases {
        let mut find = |check: &str, at: &Sequenced<Case>, subject, healed: Option<&Sequenced<Case>>| {
            all.insert((check.to_owned(), at.position.get(), subject, healed.map(|by| by.position.get())));
        };
        if events.iter().filter(|event| noted(event)).count() >= 9 {
            find("few-notes", events[0], None, None);
        }
        // When it became odd while it was closed.
        let mut odd: Option<&Sequenced<Case>> = None;
        for (index, event) in events.iter().enumerate() {
            let so_far = &events[..=index];
            let sum: i64 = so_far.iter().filter_map(|event| adds(event)).sum();
            if noted(event) && !so_far.iter().any(|event| opened(event)) {
                find("opened-first", event, None, None);
            }
            if says(event).is_some_and(|says| says != sum) {
                find("sum", event, None, None);
            }
            let door = so_far.iter().rev().find(|event| !noted(event)).map(|event| opened(event));
            match (odd, is_odd(door.as_ref(), Some(&sum))) {
                (None, true) => odd = Some(event),
                (Some(since), false) => {
                    // In one group with what healed it, it stood for no time at all.
                    if since.recorded_at < event.recorded_at {
                        find("closed-and-odd", since, Some(case.to_string()), Some(event));
                    }
                    odd = None;
                }
                _ => {}
            }
        }
        if let Some(since) = odd.filter(|since| since.recorded_at < end) {
            find("closed-and-odd", since, Some(case.to_string()), None);
        }
    }
    all
}

#[test]
fn violations_of_concurrent_writers_match_naive_rule() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = open(&path);
    let (taken, refused, begin) = (AtomicUsize::new(0), AtomicUsize::new(0), Barrier::new(THREADS as usize));
    std::thread::scope(|threads| {
        for thread in 0..THREADS {
            let (store, taken, refused, begin) = (store.clone(), &taken, &refused, &begin);
            threads.spawn(move || {
                begin.wait();
                for round in 0..ROUNDS {
                    let case = (thread * 5 + round * 3) % CASES;
                    let event = match (thread + round) % 4 {
                        0 => Opened { case },
                        1 => Closed { case },
                        // Whoever notes something knows what there was a moment ago; one in eight does not look.
                        _ => {
                            let view = store.view().expect("a view");
                            let sum = view.row::<Sums>(&case).expect("rows are read").unwrap_or(0);
                            let adds = i64::from(1 + round % 3);
                            let says = if thread % 8 == 3 { 0 } else { sum + adds };
                            Noted { case, adds, says }
                        }
                    };
                    match store.append(Append::event(event)) {
                        Ok(_) => taken.fetch_add(1, Ordering::Relaxed),
                        Err(AppendError::Violated { check, .. }) if check == "one-open" => {
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        Err(other) => panic!("{other}"),
                    };
                }
            });
        }
    });
    // One more that is closed and odd; and the last tells the time to what still stands.
    let afterwards =
        [Closed { case: CASES }, Noted { case: CASES, adds: 1, says: 1 }, Opened { case: CASES + 1 }];
    for event in afterwards.clone() {
        store.append(Append::event(event)).expect("it is taken");
    }
    settle(&store);

    let view = store.view().expect("a view");
    let log: Vec<Sequenced<Case>> =
        view.query::<Case>(QueryItem::family::<Case>()).collect::<Result<_, _>>().expect("events are read");
    assert_eq!(log.len(), taken.load(Ordering::Relaxed) + afterwards.len());
    assert_eq!(taken.into_inner() + refused.into_inner(), (THREADS * ROUNDS) as usize);
    for case in 0..CASES {
        let doors: Vec<bool> = log
            .iter()
            .filter(|event| event.id() == case && !noted(event))
            .map(|event| opened(event))
            .collect();
        assert!(!doors.windows(2).any(|two| two == [true, true]), "{case}: two are open");
    }

    let last = log.last().expect("there are events");
    let rules = expected(&log, last.recorded_at);
    let on_record = all(&store);
    assert_eq!(on_record.iter().cloned().collect::<BTreeSet<_>>(), rules);
    let kinds: BTreeSet<_> = rules.iter().map(|(check, ..)| check.as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["closed-and-odd", "few-notes", "opened-first", "sum"]));
    let healed = rules.iter().filter(|(.., healed)| healed.is_some()).count();
    let once = [rules.len(), healed];
    assert_eq!(recorded(&store), once);
    drop(view);
    store.close();

    // Neither a restart nor the loss of what checks remember repeats any of it.
    for forget in [false, true] {
        if forget {
            std::fs::remove_file(path.join("checks.redb")).expect("it is there");
        }
        let store = open(&path);
        settle(&store);
        assert_eq!((all(&store), recorded(&store)), (on_record.clone(), once));
        store.close();
    }
}

/// A deadline an hour ahead, and a source that is pulled once a day, on the store's own threads.
#[test]
fn simulated_clock_moves_wake_check_threads() {
    const HOUR: Duration = Duration::from_secs(3600);
    const PATIENCE: Duration = Duration::from_secs(60);
    let (clock, (told, alerts), (pulled, pulls)) = (SimClock::default(), mpsc::channel(), mpsc::channel());
    let closes = About { id: "closes", ..ABOUT }.response(opened, closed).within(HOUR);
    let agrees =
        About { id: "agrees", ..ABOUT }.outside::<Doors, _>(Nothing(pulled), |ours, _| ours.is_none());
    let setup = Setup::new()
        .inline::<Doors>()
        .platform(Platform { clock: Arc::new(clock.clone()), ..Platform::real() })
        .check(closes)
        .check(agrees.every(24 * HOUR).for_longer_than(72 * HOUR))
        .alerts(move |alert| told.send(alert.check.clone()).unwrap_or_default());
    let store = Store::in_memory(setup).expect("it opens");
    store.append(Append::event(Opened { case: 1 })).expect("it is taken");
    assert!(store.checks().wait_for(store.stats().position, PATIENCE));
    pulls.recv_timeout(PATIENCE).expect("the first pull is at once");
    clock.advance(HOUR + Duration::from_secs(1));
    assert_eq!(alerts.recv_timeout(PATIENCE).as_deref(), Ok("closes"));
    // The clock tells them all, of each move.
    for _ in 0..3 {
        clock.advance(24 * HOUR);
        pulls.recv_timeout(PATIENCE).expect("its day is over");
    }
}

const ABOUT: About =
    About { id: "", severity: Severity::Page, owner: "desk", means: "Left open.", remedy: "close it" };

/// A source without rows, which tells when it is pulled.
struct Nothing(mpsc::Sender<()>);

impl Outside for Nothing {
    type Key = u32;
    type Row = bool;

    fn pull(&self) -> Result<Pulled<u32, bool>, PullError> {
        let _ = self.0.send(());
        Ok(Pulled::new(Vec::new()))
    }
}
