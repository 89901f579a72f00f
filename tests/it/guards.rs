//! Guards and invariants, from the outside: what is refused, that nothing of it stays, and that what is refused is a function of
//! what was committed.

use crate::support::bench::{lockstep, settle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use tallystone::Options;
use tallystone::check::{About, Check, Definition, Sequence, Severity};
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::request::Retry;
use tallystone::testing::{Fault as DiskFault, Faults, ImagePolicy, Random, SimClock, SimDisk, SimEntropy};

/// A case of some kind, which may be opened and closed again and again, but not twice at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Case {
    Opened { case: u32 },
    Closed { case: u32 },
    Noted { case: u32, note: u32 },
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

fn about(id: &'static str) -> About {
    About {
        id,
        severity: Severity::Ticket,
        owner: "desk",
        means: "It is not as it must be.",
        remedy: "1 look",
    }
}

fn never_two_open() -> Sequence<Case> {
    about("never-two-open").absent_between(opened, opened).until(closed)
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn setup(clock: &SimClock, checks: impl IntoIterator<Item = Check>) -> Setup {
    checks.into_iter().fold(lockstep(clock).events::<Case>().alerts(|_| ()), Setup::check)
}

fn in_memory(checks: impl IntoIterator<Item = Check>) -> (SimClock, Store) {
    let clock = SimClock::default();
    let store = Store::in_memory(setup(&clock, checks)).expect("the setup is well");
    (clock, store)
}

fn append(store: &Store, event: Case) -> Result<Position, AppendError> {
    Ok(store.append(Append::event(event))?.receipt.last)
}

fn take(store: &Store, event: Case) -> Position {
    append(store, event).expect("it is taken")
}

/// The check, the key, the earlier events and the place in the append.
fn refused<T: std::fmt::Debug>(answer: Result<T, AppendError>) -> (String, String, Vec<u64>, usize) {
    match answer {
        Err(AppendError::Violated { check, key, events, index }) => {
            (check, key, events.into_iter().map(Position::get).collect(), index)
        }
        other => panic!("it must be refused: {other:?}"),
    }
}

fn refusal(check: &str, key: &str, events: &[Position], index: usize) -> (String, String, Vec<u64>, usize) {
    (check.to_owned(), key.to_owned(), events.iter().map(|position| position.get()).collect(), index)
}

fn events(store: &Store) -> Vec<Case> {
    let view = store.view().expect("a view");
    view.query::<Case>(QueryItem::family::<Case>()).map(|event| event.expect("it is read").event).collect()
}

fn verified(store: &Store) {
    let report = store.verify().expect("it is looked at");
    assert_eq!((report.first_bad, report.folded_otherwise), (None, None));
}

// ---- one word ----

#[test]
fn row_000_02_promoted_check_refuses_what_it_only_reported() {
    let ((_, reports), (_, refuses)) =
        (in_memory([never_two_open().into()]), in_memory([never_two_open().guard().into()]));
    for store in [&reports, &refuses] {
        take(store, Opened { case: 7 });
    }
    let second = take(&reports, Opened { case: 7 });
    settle(&reports);
    let [violation] = &reports.checks().open().expect("rows are read")[..] else { panic!("one is open") };
    assert_eq!((violation.activation.get(), violation.by), (1, Some(second)));

    let (before, stats) = (events(&refuses), refuses.stats());
    let untouched = refuses.fork().expect("in memory");
    let answer = append(&refuses, Opened { case: 7 });
    assert_eq!(
        answer.as_ref().expect_err("it is refused").to_string(),
        "event 0 of the append would violate `never-two-open` on case/7, after the events 1"
    );
    assert!(!answer.as_ref().expect_err("it is refused").is_retryable());
    assert_eq!(refused(answer), refusal("never-two-open", "case/7", &[Position::new(1)], 0));

    // It left nothing: what comes after goes the same way in a store that was never asked.
    assert_eq!((events(&refuses), refuses.stats().commit), (before, stats.commit));
    for store in [&refuses, &untouched] {
        take(store, Closed { case: 7 });
        take(store, Opened { case: 7 });
        refused(append(store, Opened { case: 7 }));
        settle(store);
        assert_eq!(store.checks().all().expect("rows are read"), []);
        verified(store);
    }
    assert_eq!(events(&refuses), events(&untouched));
    assert_eq!(refuses.stats().log_bytes, untouched.stats().log_bytes);
    // It is a check like any other, too.
    let [one] = &refuses.checks().stats()[..] else { panic!("there is one") };
    assert_eq!((one.activations, one.satisfied, one.violated, one.pending), (2, 1, 0, 1));
}

/// A script: an event for each letter, `!` behind one that must be refused. `+` lets a day pass.
fn plays(check: Check, script: &str) {
    let name = check.id().to_owned();
    let (clock, store) = in_memory([check.guard()]);
    let mut letters = script.chars().peekable();
    while let Some(letter) = letters.next() {
        let event = match letter {
            'o' => Opened { case: 1 },
            'c' => Closed { case: 1 },
            'n' => Noted { case: 1, note: 1 },
            '+' => {
                clock.advance(DAY);
                continue;
            }
            other => panic!("no event `{other}`"),
        };
        let is_refused = letters.next_if_eq(&'!').is_some();
        match append(&store, event) {
            Err(AppendError::Violated { .. }) if is_refused => {}
            Ok(_) if !is_refused => {}
            other => panic!("{name}, {script}, at {letter}: {other:?}"),
        }
    }
    verified(&store);
}

#[test]
fn each_template_refuses_only_its_deciding_event() {
    plays(about("absence").absence(2, opened).into(), "onco!no!c");
    plays(about("exactly").exactly(2, opened).within(DAY).into(), "nocono!");
    plays(about("init").init(opened).into(), "c!n!onc");
    plays(about("not_coexistence").not_coexistence(opened, closed).into(), "noc!oc!n");
    plays(about("precedence").precedence(opened, closed).into(), "c!noccc");
    plays(about("precedence in time").precedence(opened, closed).within(DAY).into(), "o+c+c!oc");
    plays(about("not_precedence").not_precedence(opened, closed).into(), "cnoc!n");
    plays(about("alternate_precedence").alternate_precedence(opened, closed).into(), "c!occ!oc");
    plays(about("chain_precedence").chain_precedence(opened, closed).into(), "onc!oc");
    plays(about("succession").succession(opened, closed).within(DAY).into(), "c!o+o+c");
    plays(about("alternate_response").alternate_response(opened, closed).within(2 * DAY).into(), "ono!co");
    plays(about("chain_response").chain_response(opened, closed).within(2 * DAY).into(), "on!o!cn");
    plays(about("not_response").not_response(opened, closed).within(DAY).into(), "co+c!+c");
    plays(about("not_chain_response").not_chain_response(opened, closed).within(DAY).into(), "oc!nc");
    plays(about("absent_between").absent_between(opened, closed).until(noted).into(), "oc!nc");
    plays(about("each_closed_by").each_closed_by(opened, closed).within(DAY).into(), "c!ooccc!");
}

/// What time has decided is found behind the writer. Who comes too late is let in, and heals it.
#[test]
fn what_time_has_decided_refuses_nothing() {
    plays(about("each_closed_by").each_closed_by(opened, closed).within(DAY).into(), "o++cc!");
    plays(about("chain_response").chain_response(opened, closed).within(DAY).into(), "o++noc");
    plays(about("alternate_response").alternate_response(opened, closed).within(DAY).into(), "o++o");
    plays(about("response").response(opened, closed).within(DAY).closed_by(noted).into(), "o++n");
    let (clock, store) = in_memory([about("late").each_closed_by(opened, closed).within(DAY).guard().into()]);
    take(&store, Opened { case: 1 });
    clock.advance(3 * DAY);
    take(&store, Closed { case: 1 });
    settle(&store);
    let found = store.checks().all().expect("rows are read");
    assert!(matches!(found[..], [ref one] if one.by.is_none()), "{found:?}");
}

#[test]
fn closing_event_is_refused_while_obligation_is_pending() {
    let response = |check: tallystone::check::Open<Case>| check.closed_by(noted).into();
    plays(response(about("response").response(opened, closed)), "on!cn");
    plays(response(about("responded_existence").responded_existence(opened, closed)), "on!cn");
    plays(about("existence").existence(1, opened).closed_by(noted).into(), "cn!on");
    plays(about("end").end(opened).closed_by(noted).into(), "ocn!on");
    plays(about("exactly").exactly(2, opened).closed_by(noted).into(), "on!oo!n");
}

#[test]
fn guard_that_cannot_refuse_is_rejected() {
    let never: [Check; 4] = [
        about("response").response(opened, closed).within(DAY).into(),
        about("responded").responded_existence(opened, closed).within(DAY).into(),
        about("existence").existence(1, opened).within(DAY).into(),
        about("standing").switched_off(opened, closed, DAY).closed_by(noted).into(),
    ];
    for check in never {
        let name = check.id().to_owned();
        assert!(Store::in_memory(Setup::new().check(check.clone()).alerts(|_| ())).is_ok());
        let refused = Store::in_memory(Setup::new().check(check.guard()));
        let Err(OpenError::Setup(why)) = refused else { panic!("{name} must not open") };
        assert!(
            matches!(&why[..], [one] if one.starts_with(&format!("check `{name}`: `guard`: no event violates"))
                && one.contains("nothing could ever be refused")),
            "{why:?}"
        );
    }
}

// ---- declared as data ----

fn rule(guard: bool, kind: &str) -> String {
    format!(
        "expects = [\"payment.Paid\"]\n[check.paid-once]\nkind = \"{kind}\"\nn = 2\nwhen = \"payment.Paid\"\nkey = \"order.id\"\nguard = {guard}\n\
         severity = \"page\"\nowner = \"payments\"\nmeans = \"An order is paid twice.\"\nremedy = \"1 pay back\"\n"
    )
}

fn paid(order: serde_json::Value) -> Append {
    Append::raw(Raw::json("payment.Paid", "payment/eu", Tags::none(), &json!({ "order": order })))
}

#[test]
fn one_line_in_rule_file_declares_guard() {
    for guard in [false, true] {
        let checks =
            tallystone::check::rules::parse(&rule(guard, "absence"), "rules.toml").expect("it is a rule");
        let store = Store::in_memory(checks.into_iter().fold(Setup::new().alerts(|_| ()), Setup::check));
        let store = store.expect("the setup is well");
        store.append(paid(json!({ "id": 5 }))).expect("it is taken");
        store.append(paid(json!({ "id": 6 }))).expect("it is taken");
        let again = store.append(paid(json!({ "id": 5 })));
        match guard {
            false => assert!(again.is_ok()),
            true => assert_eq!(refused(again), refusal("paid-once", "5", &[Position::new(1)], 0)),
        }
    }
    let never = tallystone::check::rules::parse(&rule(true, "existence"), "rules.toml");
    let error = never.expect_err("nothing could be refused").to_string();
    assert!(error.starts_with("rules.toml:7:9: `guard`: no event violates `existence`"), "{error}");
}

/// Fields of payloads without names are read by the layouts of the log, and those of a type that is new by what is about to be
/// declared with it.
#[test]
fn guard_reads_fields_of_new_event_type() {
    let definition: Definition = serde_json::from_value(json!({
        "id": "noted-once", "kind": "absence", "n": 2, "key": "note", "guard": true,
        "when": { "type": "case.Noted", "where": { "case": 3 } }, "severity": "note",
        "owner": "desk", "means": "Noted twice.", "remedy": "look",
    }))
    .expect("it is a definition");
    let check = Check::try_from(definition).expect("it is well formed");
    let twice = [Noted { case: 3, note: 8 }, Noted { case: 3, note: 8 }];

    let (_, store) = in_memory([check.clone()]);
    assert_eq!(refused(store.append(Append::events(twice.clone()))), refusal("noted-once", "8", &[], 1));
    let answers: Vec<_> = twice.iter().map(|event| store.submit(Append::event(event.clone()))).collect();
    store.step();
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.wait()).collect();
    assert!(matches!(answers[..], [Ok(_), Err(AppendError::Violated { index: 0, .. })]), "{answers:?}");
    verified(&store);

    let (_, store) = in_memory([check]);
    let answer = store.transact(Request::new("note"), |tx| -> Decision {
        for event in twice.clone() {
            tx.append(event)?;
        }
        Ok(())
    });
    assert!(matches!(answer, Err(TxError::Violated { index: 1, .. })), "{answer:?}");
}

// ---- what cannot be told ----

#[test]
fn event_unreadable_by_guard_is_refused() {
    let fragile = about("fragile").absence(3, |event: &Case| {
        assert!(event.id() != 13, "unlucky");
        opened(event)
    });
    let (_, store) = in_memory([fragile.guard().into()]);
    take(&store, Opened { case: 1 });
    let answer = store.append(Append::events([Opened { case: 2 }, Opened { case: 13 }]));
    assert!(
        matches!(&answer, Err(AppendError::CannotTell { check, index: 1, why })
            if check == "fragile" && why.contains("unlucky")),
        "{answer:?}"
    );
    let answer =
        store.transact(Request::new("open"), |tx| -> Decision { Ok(tx.append(Opened { case: 13 })?) });
    assert!(matches!(answer, Err(TxError::CannotTell { index: 0, .. })), "{answer:?}");
    assert_eq!(events(&store), [Opened { case: 1 }]);

    let checks = tallystone::check::rules::parse(&rule(true, "absence"), "rules.toml").expect("it is a rule");
    let store =
        Store::in_memory(checks.into_iter().fold(Setup::new(), Setup::check)).expect("the setup is well");
    let answer = store.append(paid(json!({ "number": 5 })));
    assert!(
        matches!(&answer, Err(AppendError::CannotTell { why, .. }) if why.contains("`order.id` is not there")),
        "{answer:?}"
    );
}

/// The same event in the log is of the past: a guard that cannot read it there goes on, and its check says so.
#[test]
fn unreadable_past_event_does_not_stop_guard() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = SimClock::default();
    let fragile = |guard: bool| {
        let check: Check = about("fragile")
            .absence(2, |event: &Case| {
                assert!(event.id() != 13, "unlucky");
                opened(event)
            })
            .into();
        if guard { check.guard() } else { check }
    };
    let store = Store::create(dir.path().join("s"), setup(&clock, [fragile(false)])).expect("it is made");
    take(&store, Opened { case: 13 });
    take(&store, Opened { case: 1 });
    store.close();
    let store = Store::open(dir.path().join("s"), setup(&clock, [fragile(true)])).expect("it opens");
    refused(append(&store, Opened { case: 1 }));
    take(&store, Opened { case: 2 });
    verified(&store);
    settle(&store);
    assert_eq!(store.checks().stats()[0].unread, 1);
}

/// A guard keeps what it must remember of a key in a row, and a row has a limit.
#[test]
fn guard_state_beyond_row_limit_is_refused() {
    let clock = SimClock::default();
    let pairs = about("pairs").each_closed_by(opened, closed).unbounded().guard();
    let mut options = Options::default();
    options.row_bytes_max = 200;
    let store = Store::in_memory(setup(&clock, [pairs.into()]).options(options)).expect("the setup is well");
    let answer = (0..100).find_map(|_| append(&store, Opened { case: 1 }).err()).expect("it is full");
    assert!(
        matches!(&answer, AppendError::CannotTell { why, .. } if why.ends_with("the limit is 200")),
        "{answer}"
    );
    take(&store, Closed { case: 1 });
    take(&store, Opened { case: 1 });
    verified(&store);
}

// ---- appends ----

#[test]
fn refused_append_stores_nothing() {
    let (_, store) = in_memory([never_two_open().guard().into()]);
    let first = take(&store, Opened { case: 1 });
    let answer =
        store.append(Append::events([Opened { case: 2 }, Noted { case: 1, note: 1 }, Opened { case: 1 }]));
    assert_eq!(refused(answer), refusal("never-two-open", "case/1", &[first], 2));
    // What an append does itself it may also break itself; only positions that are there are named.
    let answer = store.append(Append::events([Opened { case: 2 }, Opened { case: 2 }]));
    assert_eq!(refused(answer), refusal("never-two-open", "case/2", &[], 1));
    take(&store, Opened { case: 2 });
    store
        .append(Append::events([
            Closed { case: 2 },
            Opened { case: 2 },
            Closed { case: 2 },
            Opened { case: 2 },
        ]))
        .expect("one after another");
    assert_eq!(events(&store).len(), 6);
    verified(&store);
}

#[test]
fn refused_append_leaves_idempotency_key_free() {
    let (_, store) = in_memory([never_two_open().guard().into()]);
    take(&store, Opened { case: 1 });
    let keyed = |event: Case| Append::event(event).key("client", "k-1");
    refused(store.append(keyed(Opened { case: 1 })));
    // Refused again, as nothing has changed, and not answered from the key.
    refused(store.append(keyed(Opened { case: 1 })));
    let other = store.append(keyed(Opened { case: 2 })).expect("it is taken");
    assert!(!other.replayed);
    assert!(store.append(keyed(Opened { case: 2 })).expect("it is answered").replayed);
    // Once it is used, an answer is an answer: what would be refused today was taken then.
    take(&store, Closed { case: 1 });
    let taken = store.append(Append::event(Opened { case: 1 }).key("client", "k-2")).expect("it is taken");
    let again = store.append(Append::event(Opened { case: 1 }).key("client", "k-2")).expect("it is answered");
    assert!(again.replayed && again.receipt == taken.receipt);
}

/// Guards see earlier appends of a group, and a refusal leaves its neighbours untouched.
#[test]
fn group_appends_are_guarded_one_by_one() {
    let (_, store) = in_memory([never_two_open().guard().into()]);
    let wanted = [
        Opened { case: 1 },
        Opened { case: 1 },
        Opened { case: 2 },
        Closed { case: 1 },
        Opened { case: 1 },
        Opened { case: 2 },
    ];
    let answers: Vec<_> = wanted.iter().map(|event| store.submit(Append::event(event.clone()))).collect();
    store.step();
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.wait()).collect();
    let positions: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().ok().map(|taken| taken.receipt.last.get())).collect();
    assert_eq!(positions, [Some(1), None, Some(2), Some(3), Some(4), None]);
    assert_eq!(
        refused(answers.into_iter().next_back().expect("six")),
        refusal("never-two-open", "case/2", &[Position::new(2)], 0)
    );
    verified(&store);
}

/// A refusal that rests on a neighbour is as sure as the neighbour: if that is lost, it was never true.
#[test]
fn refusal_after_unsynced_neighbour_waits_for_sync() {
    let disk = SimDisk::new(3);
    let store = Store::open_or_create("/s", simulated(&disk)).expect("it opens");
    take(&store, Opened { case: 9 });
    disk.plan(Faults::none().at(disk.op_count() + 1, DiskFault::SyncError));
    let ask = |case: u32| store.submit(Append::event(Opened { case }));
    // The first refusal rests on what is durable, the second on its neighbour.
    let (durable, neighbour, resting) = (ask(9), ask(1), ask(1));
    store.step();
    assert_eq!(refused(durable.wait()), refusal("never-two-open", "case/9", &[Position::new(1)], 0));
    let answers = [neighbour.wait(), resting.wait()];
    assert!(matches!(answers, [Err(AppendError::Unknown(_)), Err(AppendError::Unknown(_))]), "{answers:?}");
    disk.plan(Faults::none());
    store.recover().expect("it recovers");
    let is_open = events(&store).contains(&Opened { case: 1 });
    assert_eq!(append(&store, Opened { case: 1 }).is_err(), is_open);
    verified(&store);
}

#[test]
fn sixteen_threads_never_open_case_twice() {
    let store =
        Store::in_memory(Setup::new().check(never_two_open().guard()).alerts(|_| ())).expect("it opens");
    let (taken, told, begin) = (AtomicU32::new(0), AtomicU32::new(0), Barrier::new(16));
    std::thread::scope(|threads| {
        for thread in 0..16_u32 {
            let (store, taken, told, begin) = (store.clone(), &taken, &told, &begin);
            threads.spawn(move || {
                begin.wait();
                for round in 0..60 {
                    let case = (thread + round) % 3;
                    let opened = match round % 2 {
                        0 => append(&store, Opened { case }).map(drop),
                        _ => {
                            let open = |tx: &mut Tx<'_>| -> Decision { Ok(tx.append(Opened { case })?) };
                            match store.transact(Request::new("open"), open) {
                                Ok(_) => Ok(()),
                                Err(TxError::Violated { check, key, events, index }) => {
                                    Err(AppendError::Violated { check, key, events, index })
                                }
                                Err(other) => panic!("{other}"),
                            }
                        }
                    };
                    match opened {
                        Ok(()) => {
                            taken.fetch_add(1, Ordering::Relaxed);
                            take(&store, Closed { case });
                        }
                        Err(AppendError::Violated { .. }) => drop(told.fetch_add(1, Ordering::Relaxed)),
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let (mut open, mut seen) = ([false; 3], 0);
    for event in events(&store) {
        let (is, slot) = (opened(&event), &mut open[event.id() as usize]);
        assert!(*slot != is, "two open, or none to close: {event:?}");
        (*slot, seen) = (is, seen + u32::from(is));
    }
    assert_eq!(
        (seen, taken.load(Ordering::Relaxed) + told.load(Ordering::Relaxed)),
        (taken.into_inner(), 16 * 60)
    );
    verified(&store);
}

// ---- transactions ----

#[test]
fn transaction_is_refused_at_violating_append() {
    let (_, store) = in_memory([never_two_open().guard().into()]);
    let first = take(&store, Opened { case: 1 });
    let after = AtomicU32::new(0);
    let answer = store.transact(Request::new("open").key("client", "t-1", &1), |tx| -> Decision<u32> {
        tx.append(Closed { case: 1 })?;
        tx.append(Opened { case: 1 })?;
        tx.append(Opened { case: 1 })?;
        after.fetch_add(1, Ordering::Relaxed);
        Ok(5)
    });
    let Err(TxError::Violated { check, key, events: earlier, index }) = answer else { panic!("{answer:?}") };
    assert_eq!((check.as_str(), key.as_str(), earlier.len(), index), ("never-two-open", "case/1", 0, 2));
    assert_eq!(after.load(Ordering::Relaxed), 0);
    assert!(!TxError::<()>::Violated { check, key, events: earlier, index }.is_retryable());

    // One that swallows it cannot be committed.
    let answer = store.transact(Request::new("open"), |tx| -> Decision {
        let _ = tx.append(Opened { case: 1 });
        Ok(())
    });
    assert!(
        matches!(&answer, Err(TxError::Swallowed(fault))
            if matches!(fault.cause(), TxError::Violated { events, .. } if *events == [first])),
        "{answer:?}"
    );
    assert_eq!(events(&store), [Opened { case: 1 }]);
    let right = store.transact(Request::new("open").key("client", "t-1", &1), |tx| -> Decision<u32> {
        tx.append(Closed { case: 1 })?;
        tx.append(Opened { case: 1 })?;
        Ok(5)
    });
    assert!(right.is_ok_and(|answer| !answer.replayed));
    verified(&store);
}

/// Another commit comes between a decision and its turn, and makes it a violation.
fn overtaken(reads: bool) -> (Result<Committed<bool>, TxError>, u32) {
    let store =
        Store::in_memory(Setup::new().check(never_two_open().guard()).alerts(|_| ())).expect("it opens");
    let tries = AtomicU32::new(0);
    let answer = store.transact(Request::new("open").retry(Retry::UpTo(3)), |tx| {
        let is_open = reads && !tx.stream::<Case>(&1)?.is_empty();
        if tries.fetch_add(1, Ordering::Relaxed) == 0 {
            std::thread::scope(|other| drop(other.spawn(|| take(&store, Opened { case: 1 }))));
        }
        if !is_open {
            tx.append(Opened { case: 1 })?;
        }
        Ok(is_open)
    });
    assert_eq!(events(&store), [Opened { case: 1 }]);
    (answer, tries.into_inner())
}

#[test]
fn writer_refusal_retries_only_on_read_conflict() {
    // What it read is no more: it decides again, and otherwise.
    let (answer, tries) = overtaken(true);
    assert!(answer.is_ok_and(|answer| answer.response), "it saw that it is open");
    assert_eq!(tries, 2);
    // It read nothing, so it would decide the same again.
    let (answer, tries) = overtaken(false);
    assert!(
        matches!(&answer, Err(TxError::Violated { events, .. }) if events[..] == [Position::new(1)]),
        "{answer:?}"
    );
    assert_eq!(tries, 1);
}

/// A refusal is as good as the snapshot it rests on, like whatever else a transaction decides.
#[test]
fn transaction_is_refused_by_its_snapshot() {
    let (_, store) = in_memory([never_two_open().guard().into()]);
    take(&store, Opened { case: 1 });
    let mut tx = store.begin(Request::new("open")).expect("it begins");
    take(&store, Closed { case: 1 });
    let fault = tx.append(Opened { case: 1 }).expect_err("at its snapshot it is open");
    assert!(matches!(fault.cause(), TxError::Violated { index: 0, .. }), "{fault}");
    drop(tx);
    let mut tx = store.begin(Request::new("open")).expect("it begins");
    tx.append(Opened { case: 1 }).expect("now it is not");
    tx.commit(()).expect("it is taken");

    // Rows are asked when it has said all it wants.
    let store = Store::in_memory(bank()).expect("the setup is well");
    let mut tx = store.begin(Request::new("bill")).expect("it begins");
    enter(&store, [Paid { account: 1, cents: 5 }]).expect("it is taken");
    tx.append(Billed { account: 1, cents: 5 }).expect("it may still be mended");
    let answer = tx.commit(());
    assert!(matches!(&answer, Err(TxError::Violated { check, .. }) if check == "covered"), "{answer:?}");
    assert_eq!(store.stats().position, Position::new(1));
}

#[test]
fn complete_applies_only_to_named_guard() {
    // A note says its own time, in seconds since 1970; the first of a pair, in tens, forbids the second for a minute.
    let time = |event: &Case| match event {
        Noted { note, .. } => Some(UNIX_EPOCH + Duration::from_secs(u64::from(*note))),
        _ => None,
    };
    let first = |event: &Case| matches!(event, Noted { note, .. } if note % 10 == 0);
    let second = |event: &Case| matches!(event, Noted { note, .. } if note % 10 == 1);
    let minute = Duration::from_secs(60);
    let guard = |id| -> Check {
        about(id).not_response(first, second).within(minute).at(time, 10 * minute).imported().guard().into()
    };
    for complete in ["one", "other"] {
        let (_, store) = in_memory([guard("one"), guard("other")]);
        let there = take(&store, Noted { case: 1, note: 100 });
        let until = UNIX_EPOCH + Duration::from_secs(200);
        store.checks().complete(complete, until).expect("it is taken");
        // For the guard that was told, the minute is over; for the other one this came in it.
        let not_told = if complete == "one" { "other" } else { "one" };
        let late = append(&store, Noted { case: 1, note: 121 });
        assert_eq!(refused(late), refusal(not_told, "case/1", &[there], 0));
        store.checks().complete(not_told, until).expect("it is taken");
        take(&store, Noted { case: 1, note: 121 });
        verified(&store);
    }
}

/// Its row grew until appends were refused for their size, with no name of what was too much.
#[test]
fn guard_names_limit_of_events_per_key() {
    let second = Duration::from_secs(1);
    let guard = about("noted-first").precedence(noted, closed).between(second, 30 * DAY).guard();
    let (clock, store) = in_memory([guard.into()]);
    let note = |note| Noted { case: 1, note };
    for number in 0..1024 {
        take(&store, note(number));
    }
    let refused = append(&store, note(1024)).expect_err("it would keep too much");
    let AppendError::CannotTell { check, why, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(check, "noted-first");
    assert!(why.starts_with("it would keep 1025 events of one key, the limit is 1024"), "{why}");
    // Events that add nothing to what is kept pass, and so does any event of another key.
    clock.advance(2 * second);
    take(&store, Closed { case: 1 });
    take(&store, Noted { case: 2, note: 0 });
    clock.advance(31 * DAY);
    take(&store, note(1025));
    verified(&store);
}

// ---- after a restart ----

fn path_of(dir: &tempfile::TempDir) -> std::path::PathBuf {
    dir.path().join("store")
}

fn rows(store: &Store) -> u64 {
    store.verify().expect("it is looked at").rows
}

#[test]
fn guard_state_survives_restart_and_rebuild() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = path_of(&dir);
    let clock = SimClock::default();
    let guards = || -> [Check; 2] {
        let note = about("closed-soon").each_closed_by(opened, closed).within(DAY);
        [never_two_open().guard().into(), note.guard().into()]
    };
    let store = Store::create(&path, setup(&clock, guards())).expect("it is made");
    let first = take(&store, Opened { case: 1 });
    take(&store, Opened { case: 2 });
    take(&store, Closed { case: 2 });
    for delete in [false, true, false] {
        let again = |store: &Store| {
            assert_eq!(
                refused(append(store, Opened { case: 1 })),
                refusal("never-two-open", "case/1", &[first], 0)
            );
            assert_eq!(refused(append(store, Closed { case: 2 })), refusal("closed-soon", "case/2", &[], 0));
            verified(store);
        };
        again(&store.clone());
        if delete {
            let copy = tempfile::tempdir().expect("a directory");
            copy_dir(&path, copy.path());
            std::fs::remove_file(copy.path().join("state.redb")).expect("it is there");
            std::fs::remove_file(copy.path().join("lock")).expect("it is there");
            again(&Store::open(copy.path(), setup(&clock, guards())).expect("it is rebuilt"));
        }
        clock.advance(Duration::from_secs(1));
    }
    store.close();
    let store = Store::open(&path, setup(&clock, guards())).expect("it opens");
    refused(append(&store, Opened { case: 1 }));
    refused(append(&store, Closed { case: 2 }));
    verified(&store);
}

#[test]
fn added_guards_know_past_and_removed_leave_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = SimClock::default();
    let open =
        |guards: Vec<Check>| Store::open_or_create(path_of(&dir), setup(&clock, guards)).expect("it opens");
    let pairs = || Check::from(never_two_open().guard());
    let once = || Check::from(about("noted-once").absence(2, noted).guard());
    let store = open(vec![pairs()]);
    let opened = take(&store, Opened { case: 1 });
    take(&store, Noted { case: 1, note: 1 });
    let with_memory = rows(&store);
    store.close();
    for (guards, of_pairs, of_once) in [
        (vec![pairs(), once()], true, true),
        (vec![once(), pairs()], true, true),
        (vec![once()], false, true),
        (vec![], false, false),
        (vec![pairs()], true, false),
    ] {
        let store = open(guards);
        if of_pairs {
            let again = append(&store, Opened { case: 1 });
            assert_eq!(refused(again), refusal("never-two-open", "case/1", &[opened], 0));
        }
        if of_once {
            // Of a word that is judged once for each key it is the key's first event.
            let again = append(&store, Noted { case: 1, note: 1 });
            assert_eq!(refused(again), refusal("noted-once", "case/1", &[opened], 0));
        }
        verified(&store);
        // One row for the key, whoever remembers it.
        let memory = u64::from(of_pairs || of_once);
        assert_eq!(rows(&store), with_memory - 1 + memory);
        store.close();
    }
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it is read");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("it has one").is_dir() {
            true => {
                std::fs::create_dir(&target).expect("it is made");
                copy_dir(&entry.path(), &target);
            }
            false => drop(std::fs::copy(entry.path(), &target).expect("it is copied")),
        }
    }
}

#[test]
fn touching_expired_key_removes_guard_row() {
    let soon = about("soon").not_response(opened, closed).within(DAY);
    let (clock, store) = in_memory([soon.guard().into()]);
    let none = rows(&store);
    for case in 0..50 {
        take(&store, Opened { case });
    }
    assert_eq!(rows(&store), none + 50);
    clock.advance(2 * DAY);
    // Its window is over, which is seen when the key is touched.
    for case in 0..50 {
        take(&store, Closed { case });
    }
    assert_eq!(rows(&store), none);
    verified(&store);
}

/// Promoted over a history that violates it: nothing of that is refused, and it is found once.
#[test]
fn guard_on_violating_history_refuses_only_new_events() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, clock) = (path_of(&dir), SimClock::default());
    let store = Store::create(&path, setup(&clock, [never_two_open().into()])).expect("it is made");
    for event in [Opened { case: 1 }, Opened { case: 1 }, Opened { case: 2 }] {
        take(&store, event);
    }
    settle(&store);
    let before = store.checks().all().expect("rows are read");
    assert_eq!(before.len(), 1);
    store.close();

    let store = Store::open(&path, setup(&clock, [never_two_open().guard().into()])).expect("it opens");
    verified(&store);
    settle(&store);
    assert_eq!(store.checks().all().expect("rows are read"), before);
    assert_eq!(refused(append(&store, Opened { case: 2 })).1, "case/2");
    assert_eq!(refused(append(&store, Opened { case: 1 })).1, "case/1");
    take(&store, Closed { case: 1 });
    take(&store, Opened { case: 1 });
    store.close();

    // And back: without the word its rows go, and what comes is found.
    let store = Store::open(&path, setup(&clock, [never_two_open().into()])).expect("it opens");
    take(&store, Opened { case: 1 });
    settle(&store);
    assert_eq!(store.checks().all().expect("rows are read").len(), 2);
    verified(&store);
}

#[test]
fn fork_keeps_guard_state() {
    let (_, store) = in_memory([never_two_open().guard().into()]);
    take(&store, Opened { case: 1 });
    let fork = store.fork().expect("in memory");
    take(&store, Closed { case: 1 });
    refused(append(&fork, Opened { case: 1 }));
    take(&store, Opened { case: 1 });
    verified(&fork);
    verified(&store);
}

fn simulated(disk: &SimDisk) -> Setup {
    let (clock, entropy) = (Arc::new(SimClock::default()), Arc::new(SimEntropy::new(5)));
    let mut options = Options::default();
    options.overlay_bytes_max = 64 << 10;
    let setup = Setup::new().platform(Platform { disk: Arc::new(disk.clone()), clock, entropy }).lockstep();
    setup.options(options).alerts(|_| ()).check(never_two_open().guard())
}

#[test]
fn guard_matches_log_after_any_crash() {
    let mut refusals = 0;
    for seed in 0..30 {
        let (disk, mut random) = (SimDisk::new(seed), Random::new(seed));
        for life in 0..4 {
            let store = Store::open_or_create("/s", simulated(&disk)).expect("it opens");
            let told = format!("seed {seed}, life {life}");
            assert_eq!(store.verify().expect("it is looked at").first_bad, None, "{told}");
            let mut open = [false; 5];
            for event in events(&store) {
                let is = &mut open[event.id() as usize];
                assert!(!(*is && opened(&event)), "{told}: two are open");
                *is = opened(&event);
            }
            let policy = ImagePolicy::ALL[random.below(ImagePolicy::ALL.len() as u64) as usize];
            disk.cut_at(disk.op_count() + 20 + random.below(200), policy);
            for _ in 0..200 {
                let case = random.below(5) as u32;
                let is = &mut open[case as usize];
                let opens = random.below(3) > 0;
                match append(&store, if opens { Opened { case } } else { Closed { case } }) {
                    Ok(_) => {
                        assert!(!(opens && *is), "{told}: let in");
                        *is = opens;
                    }
                    Err(AppendError::Violated { .. }) => {
                        assert!(opens && *is, "{told}: refused");
                        refusals += 1;
                    }
                    Err(_) => break,
                }
            }
            drop(store);
            match disk.is_off() {
                true => drop(disk.restart()),
                false => drop(disk.power_cut(policy)),
            }
        }
    }
    assert!(refusals > 500, "{refusals}");
}

// ---- invariants of rows ----

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Account {
    Paid { account: u32, cents: i64 },
    Billed { account: u32, cents: i64 },
    Ended { account: u32 },
}

use Account::{Billed, Ended, Paid};

impl Event for Account {
    const FAMILY: &'static str = "account";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Paid { account, .. } | Billed { account, .. } | Ended { account }) = self;
        *account
    }
}

struct Balances;

impl Projection for Balances {
    const NAME: &'static str = "balances";
    type Event = Account;
    type Key = u32;
    type Row = i64;

    fn fold(event: &Account, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Paid { account, cents } => rows.update(*account, |balance| *balance += cents),
            Billed { account, cents } => rows.update(*account, |balance| *balance -= cents),
            Ended { .. } => Ok(()),
        }
    }
}

struct Endings;

impl Projection for Endings {
    const NAME: &'static str = "endings";
    type Event = Account;
    type Key = u32;
    type Row = bool;

    fn fold(event: &Account, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Ended { account } => rows.put(*account, true),
            _ => Ok(()),
        }
    }
}

fn bank() -> Setup {
    let covered =
        about("covered").invariant::<(Balances,)>(|_, (balance,)| balance.is_some_and(|cents| *cents < 0));
    let settled = about("settled").invariant::<(Endings, Balances)>(|_, (ended, balance)| {
        ended.is_some() && balance.is_some_and(|cents| *cents != 0)
    });
    Setup::new().inline::<Balances>().inline::<Endings>().invariant(covered).invariant(settled).lockstep()
}

fn enter(store: &Store, events: impl IntoIterator<Item = Account>) -> Result<Position, AppendError> {
    Ok(store.append(Append::events(events))?.receipt.last)
}

#[test]
fn row_004_01_commit_breaking_row_invariant_is_refused() {
    let store = Store::in_memory(bank()).expect("the setup is well");
    let paid = enter(&store, [Paid { account: 1, cents: 500 }]).expect("it is taken");
    let answer = enter(&store, [Billed { account: 1, cents: 100 }, Billed { account: 1, cents: 401 }]);
    assert_eq!(refused(answer), refusal("covered", "1", &[paid], 1));
    // Of a key that had no row there is nothing earlier to name.
    assert_eq!(refused(enter(&store, [Billed { account: 2, cents: 1 }])), refusal("covered", "2", &[], 0));
    // Rows of two projections, whichever of them changes.
    assert_eq!(refused(enter(&store, [Ended { account: 1 }])), refusal("settled", "1", &[paid], 0));
    let billed = enter(&store, [Billed { account: 1, cents: 500 }]).expect("it is taken");
    let ended = enter(&store, [Ended { account: 1 }]).expect("it is taken");
    let answer = enter(&store, [Paid { account: 1, cents: 1 }]);
    assert_eq!(refused(answer), refusal("settled", "1", &[billed, ended], 0));
    let view = store.view().expect("a view");
    assert_eq!(view.row::<Balances>(&1).expect("it is read"), Some(0));
    assert_eq!(view.row::<Balances>(&2).expect("it is read"), None);
    verified(&store);
}

#[test]
fn violation_fixed_within_append_is_accepted() {
    let store = Store::in_memory(bank()).expect("the setup is well");
    let over = [Billed { account: 1, cents: 5 }, Paid { account: 1, cents: 5 }];
    enter(&store, over.clone()).expect("it is whole again");
    store
        .transact(Request::new("pay"), |tx| -> Decision {
            for event in over.clone() {
                tx.append(event)?;
            }
            Ok(())
        })
        .expect("it is whole again");
    let answer = store.transact(Request::new("pay"), |tx| -> Decision {
        tx.append(Paid { account: 2, cents: 5 })?;
        Ok(tx.append(Billed { account: 2, cents: 6 })?)
    });
    let Err(TxError::Violated { check, key, events, index }) = answer else { panic!("{answer:?}") };
    assert_eq!((check.as_str(), key.as_str(), events.len(), index), ("covered", "2", 0, 1));
}

#[test]
fn invariant_sees_rows_changed_by_group_neighbours() {
    let store = Store::in_memory(bank()).expect("the setup is well");
    let ask = |event: Account| store.submit(Append::event(event));
    let answers = [
        ask(Billed { account: 1, cents: 1 }),
        ask(Paid { account: 1, cents: 1 }),
        ask(Billed { account: 1, cents: 1 }),
        ask(Billed { account: 1, cents: 1 }),
        ask(Ended { account: 1 }),
        ask(Paid { account: 1, cents: 1 }),
    ];
    store.step();
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.wait()).collect();
    let told: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            Ok(taken) => taken.receipt.last.to_string(),
            Err(AppendError::Violated { check, .. }) => check.clone(),
            Err(other) => panic!("{other}"),
        })
        .collect();
    assert_eq!(told, ["covered", "1", "2", "covered", "3", "settled"]);
    verified(&store);
}

#[test]
fn invariant_holds_across_racing_threads() {
    let covered =
        about("covered").invariant::<(Balances,)>(|_, (balance,)| balance.is_some_and(|cents| *cents < 0));
    let store = Store::in_memory(Setup::new().inline::<Balances>().invariant(covered)).expect("it opens");
    enter(&store, [Paid { account: 1, cents: 40 }]).expect("it is taken");
    let (taken, begin) = (AtomicU32::new(0), Barrier::new(16));
    std::thread::scope(|threads| {
        for _ in 0..16 {
            let (store, taken, begin) = (store.clone(), &taken, &begin);
            threads.spawn(move || {
                begin.wait();
                for _ in 0..5 {
                    match enter(&store, [Billed { account: 1, cents: 1 }]) {
                        Ok(_) => drop(taken.fetch_add(1, Ordering::Relaxed)),
                        Err(AppendError::Violated { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    assert_eq!(taken.into_inner(), 40);
    let view = store.view().expect("a view");
    assert_eq!(view.row::<Balances>(&1).expect("it is read"), Some(0));
}

#[test]
fn invariant_without_inline_rows_is_refused() {
    let never = || about("never").invariant::<(Balances, Endings)>(|_, _| false);
    let refused = Store::in_memory(Setup::new().inline::<Balances>().behind::<Endings>().invariant(never()));
    let Err(OpenError::Setup(why)) = refused else { panic!("it must not open") };
    assert_eq!(
        why,
        [
            "check `never`: `invariant`: projection `endings` is not folded in the commit: add `.inline::<Endings>()` to the setup"
        ]
    );
    let twice = bank().invariant(about("covered").invariant::<(Balances,)>(|_, _| false));
    let Err(OpenError::Setup(why)) = Store::in_memory(twice) else { panic!("it must not open") };
    assert_eq!(why, ["two checks are called `covered`"]);
    let silent = About { owner: "", ..about("silent") }.invariant::<(Balances,)>(|_, _| false);
    let Err(OpenError::Setup(why)) = Store::in_memory(Setup::new().inline::<Balances>().invariant(silent))
    else {
        panic!("it must not open")
    };
    assert_eq!(why, ["check `silent`: `owner`: it is empty"]);
}

#[test]
fn panicking_invariant_refuses_append_by_name() {
    let fragile = about("fragile").invariant::<(Balances,)>(|account, _| {
        assert!(*account != 13, "unlucky");
        false
    });
    let store = Store::in_memory(Setup::new().inline::<Balances>().invariant(fragile)).expect("it opens");
    let answer = enter(&store, [Paid { account: 1, cents: 1 }, Paid { account: 13, cents: 1 }]);
    assert!(
        matches!(&answer, Err(AppendError::CannotTell { check, index: 1, why })
            if check == "fragile" && why.contains("unlucky")),
        "{answer:?}"
    );
    assert_eq!(store.stats().position, Position::START);
    enter(&store, [Paid { account: 1, cents: 1 }]).expect("it is taken");
}

/// It is newer than its rows: what was wrong before must be mended by whoever touches it next.
#[test]
fn key_violating_new_invariant_accepts_only_repair() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = path_of(&dir);
    let before = Setup::new().inline::<Balances>().inline::<Endings>().lockstep();
    let store = Store::create(&path, before).expect("it is made");
    enter(&store, [Billed { account: 1, cents: 10 }]).expect("nobody minds");
    store.close();
    let store = Store::open(&path, bank()).expect("it opens");
    refused(enter(&store, [Paid { account: 1, cents: 9 }]));
    enter(&store, [Paid { account: 2, cents: 9 }]).expect("another key");
    enter(&store, [Paid { account: 1, cents: 10 }]).expect("it is mended");
    verified(&store);
}
