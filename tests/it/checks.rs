//! Checks of sequences, from the outside: what is found, that it is on record once, and that time alone is enough.

use crate::support::bench::{Bench, lockstep};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tallystone::check::{About, Check, Definition, Severity};
use tallystone::disk::Clock;
use tallystone::error::OpenError;
use tallystone::event::{Raw, Tags};
use tallystone::prelude::*;
use tallystone::testing::SimClock;
use tallystone::watch::State;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Order {
    Placed { order: u32 },
    Shipped { order: u32 },
    Cancelled { order: u32 },
}

impl Event for Order {
    const FAMILY: &'static str = "order";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Placed { order } | Self::Shipped { order } | Self::Cancelled { order }) = self;
        *order
    }
}

fn about(id: &'static str) -> About {
    About {
        id,
        severity: Severity::Ticket,
        owner: "warehouse",
        means: "We took the order and did not ship it.",
        remedy: "1 look for the parcel; 2 ship it again",
    }
}

fn placed(event: &Order) -> bool {
    matches!(event, Order::Placed { .. })
}

fn shipped(event: &Order) -> bool {
    matches!(event, Order::Shipped { .. })
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn shipped_within_a_day() -> Check {
    about("shipped")
        .response(placed, shipped)
        .unless(|e| matches!(e, Order::Cancelled { .. }))
        .within(DAY)
        .into()
}

fn setup(clock: &SimClock, checks: impl IntoIterator<Item = Check>) -> Setup {
    checks.into_iter().fold(lockstep(clock).events::<Order>(), Setup::check)
}

fn bench(checks: impl IntoIterator<Item = Check>) -> Bench {
    let clock = SimClock::default();
    Bench::of(clock.clone(), setup(&clock, checks))
}

/// Activations, and how they stand.
fn states(bench: &Bench) -> Vec<(u64, State)> {
    bench.all().into_iter().map(|violation| (violation.activation.get(), violation.state)).collect()
}

#[test]
fn row_000_01_late_event_is_violated_then_healed() {
    let bench = bench([shipped_within_a_day()]);
    let first = bench.append(Order::Placed { order: 1 });
    bench.settle();
    let stats = &bench.store.checks().stats()[0];
    assert_eq!((stats.activations, stats.pending, stats.violated), (1, 1, 0));

    // At the end of the window it may still come.
    bench.pass(DAY);
    assert_eq!(states(&bench), []);
    bench.pass(Duration::from_secs(1));
    assert_eq!(states(&bench), [(first.get(), State::Open)]);

    let late = bench.append(Order::Shipped { order: 1 });
    bench.settle();
    let healed = states(&bench);
    assert!(
        matches!(healed[..], [(_, State::Healed { by, after })] if by == late && after < Duration::from_secs(2))
    );
    let stats = &bench.store.checks().stats()[0];
    assert_eq!((stats.violated, stats.healed, stats.pending, stats.satisfied), (1, 1, 0, 0));
}

#[test]
fn row_000_01_event_within_window_records_no_violation() {
    let bench = bench([shipped_within_a_day()]);
    bench.append(Order::Placed { order: 1 });
    bench.append(Order::Placed { order: 2 });
    bench.clock.advance(DAY);
    bench.append(Order::Shipped { order: 1 });
    bench.append(Order::Cancelled { order: 2 });
    bench.pass(10 * DAY);
    assert_eq!(states(&bench), []);
    let stats = &bench.store.checks().stats()[0];
    assert_eq!((stats.activations, stats.satisfied, stats.pending), (2, 2, 0));
}

#[test]
fn event_without_counterpart_is_accepted_and_reported() {
    let bench = bench([Check::from(about("paid-first").precedence(placed, shipped))]);
    let shipped = bench.append(Order::Shipped { order: 3 });
    bench.settle();
    let [violation] = &bench.store.checks().open().expect("rows are read")[..] else { panic!("one is open") };
    assert_eq!((violation.activation, violation.by), (shipped, Some(shipped)));
}

#[test]
fn row_000_23_check_without_remedy_is_refused() {
    let silent = About { remedy: " ", ..about("silent") };
    let check = Check::from(silent.precedence(placed, shipped));
    let refused = Store::in_memory(Setup::new().check(check));
    let Err(OpenError::Setup(why)) = refused else { panic!("it must not open") };
    assert_eq!(why, ["check `silent`: `remedy`: it is empty"]);
}

/// A check's name is that of a stream. One that no stream can have stopped all checks when the first thing was found.
#[test]
fn check_with_invalid_name_is_refused() {
    let named = |id: &'static str| Check::from(about(id).precedence(placed, shipped));
    let long: &'static str = "n".repeat(129).leak();
    let refused = Store::in_memory(Setup::new().check(named("a\nb")).check(named(long)).check(named("")));
    let Err(OpenError::Setup(why)) = refused else { panic!("it must not open") };
    assert_eq!(
        why,
        [
            "check `a\nb`: `id`: a check's name holds a control character".to_owned(),
            format!("check `{long}`: `id`: a check's name is 129 bytes, limit is 128 bytes"),
            "check ``: `id`: a check's name is empty".to_owned(),
        ]
    );
    let bench = bench([named("n".repeat(128).leak())]);
    bench.append(Order::Shipped { order: 1 });
    bench.settle();
    assert_eq!(states(&bench).len(), 1);
}

#[test]
fn duplicate_check_names_are_refused() {
    let refused = Store::in_memory(Setup::new().check(shipped_within_a_day()).check(shipped_within_a_day()));
    assert!(matches!(refused, Err(OpenError::Setup(why)) if why == ["two checks are called `shipped`"]));
}

#[test]
fn explanation_shows_events_and_remedy() {
    let bench = bench([shipped_within_a_day()]);
    bench.append(Order::Placed { order: 7 });
    bench.pass(DAY + Duration::from_secs(1));
    let checks = bench.store.checks();
    let open = checks.open().expect("rows are read");
    let explained = checks.explain(&open[0]).expect("its events are read");
    assert_eq!((explained.key.as_str(), explained.events.len()), ("order/7", 1));
    let text = explained.to_string();
    for part in [
        "shipped (Ticket, warehouse) on order/7",
        "order.Placed",
        "nothing that it waits for came",
        "2 ship it again",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn acknowledgement_and_waiver_are_recorded() {
    let bench = bench([shipped_within_a_day()]);
    bench.append(Order::Placed { order: 7 });
    bench.pass(DAY + Duration::from_secs(1));
    let checks = bench.store.checks();
    let open = checks.open().expect("rows are read").remove(0);
    checks.acknowledge(&open, "ana").expect("it is taken");
    assert_eq!(checks.open().expect("rows are read")[0].acknowledged.as_deref(), Some("ana"));

    let until = bench.now() + DAY;
    checks.waive(&open, "ana", "a test order", until).expect("it is taken");
    assert_eq!(checks.open().expect("rows are read"), []);
    assert!(matches!(&states(&bench)[..], [(_, State::Waived { reason, .. })] if reason == "a test order"));
}

/// What was taken before, and did nothing.
#[test]
fn operator_actions_without_effect_are_refused() {
    let by_events = |id| about(id).response(placed, shipped).at(|_| None, Duration::ZERO).within(DAY);
    let bench = bench([shipped_within_a_day(), by_events("by-events").into()]);
    bench.append(Order::Placed { order: 7 });
    bench.pass(DAY + Duration::from_secs(1));
    let (checks, until) = (bench.store.checks(), bench.now() + DAY);
    let open = checks.open().expect("rows are read").remove(0);
    let refused = |done: Result<_, AppendError>| match done.map(drop) {
        Err(AppendError::Invalid { what, why }) => (what, why),
        other => panic!("{other:?}"),
    };
    let none = refused(checks.mute("shiped", "ana", "a reason", until));
    assert_eq!(none, ("check", "no check is called `shiped`; there are shipped, by-events".to_owned()));
    assert_eq!(refused(checks.mute("shipped", "ana", " ", until)).0, "reason");
    assert_eq!(refused(checks.mute("shipped", "", "a reason", until)).0, "by");
    assert_eq!(refused(checks.mute("shipped", "ana", "a reason", bench.now())).0, "until");
    assert_eq!(refused(checks.complete("shiped", until)).0, "check");
    assert_eq!(refused(checks.complete("shipped", until)).0, "check", "it goes by the time of commits");
    assert_eq!(refused(checks.complete("by-events", UNIX_EPOCH)).0, "until");
    assert_eq!(refused(checks.waive(&open, "ana", "", until)).0, "reason");
    assert_eq!(refused(checks.waive(&open, "ana", "a reason", UNIX_EPOCH)).0, "until");
    assert_eq!(refused(checks.acknowledge(&open, " ")).0, "by");
    let mut unknown = open.clone();
    unknown.activation = Position::new(999);
    assert_eq!(refused(checks.acknowledge(&unknown, "ana")).0, "violation");
    assert_eq!(refused(checks.waive(&unknown, "ana", "a reason", until)).0, "violation");
    bench.append(Order::Shipped { order: 7 });
    bench.settle();
    assert_eq!(refused(checks.acknowledge(&open, "ana")).0, "violation", "it is healed by now");
    assert_eq!(refused(checks.waive(&open, "ana", "a reason", until)).0, "violation");
    let own = checks.mute("tallystone.freshness", "ana", "the pager moves", until);
    own.expect("a check of the store's own is one");
}

#[test]
fn check_handles_are_send_and_sync() {
    fn shared<T: Send + Sync>() {}
    shared::<tallystone::watch::Checks<'static>>();
    shared::<tallystone::watch::Remediation<'static>>();
    shared::<Check>();
    shared::<tallystone::watch::Violation>();
    shared::<tallystone::watch::Explanation>();
    shared::<tallystone::check::Trial>();
    shared::<tallystone::check::Invariant>();
}

// ---- what can never be violated, and time ----

#[test]
fn check_without_possible_violation_is_refused() {
    let checks: [(Check, &str); 6] = [
        (about("existence").existence(1, placed).into(), "within"),
        (about("exactly").exactly(1, placed).into(), "within"),
        (about("end").end(placed).into(), "closed_by"),
        (about("end-within").end(placed).within(DAY).into(), "closed_by"),
        (about("response").response(placed, shipped).until(|_| false).into(), "within"),
        (about("absence").absence(2, placed).between(DAY, 2 * DAY).into(), "within"),
    ];
    for (check, field) in checks {
        let id = check.id().to_owned();
        let Err(OpenError::Setup(why)) = Store::in_memory(Setup::new().check(check)) else { panic!("{id}") };
        assert!(why[0].starts_with(&format!("check `{id}`: `{field}`: ")), "{why:?}");
    }
    let cancelled = |event: &Order| matches!(event, Order::Cancelled { .. });
    let checks: [Check; 4] = [
        about("existence").existence(1, placed).within(DAY).into(),
        about("exactly").exactly(1, placed).closed_by(cancelled).into(),
        about("end").end(placed).closed_by(cancelled).into(),
        about("response").response(placed, shipped).unbounded().into(),
    ];
    bench(checks);
}

#[test]
fn absence_is_judged_in_every_window() {
    let minute = Duration::from_secs(60);
    let bench = bench([about("burst").absence(3, placed).within(minute).into()]);
    let place = |after: Duration| {
        bench.clock.advance(after);
        bench.append(Order::Placed { order: 1 }).get()
    };
    for _ in 0..4 {
        place(minute / 2 + Duration::from_millis(1));
    }
    bench.settle();
    assert_eq!(states(&bench), []);
    place(100 * minute);
    let first = place(100 * minute);
    place(minute / 2);
    place(minute / 2);
    let second = place(minute);
    place(Duration::ZERO);
    place(Duration::ZERO);
    bench.settle();
    assert_eq!(states(&bench), [(first, State::Open), (second, State::Open)]);
    let stats = &bench.store.checks().stats()[0];
    assert_eq!((stats.activations, stats.violated, stats.keys_violated), (2, 2, 1));
}

/// What an order says of its time: its number, in seconds after the clock of the tests began.
fn at_number(event: &Order) -> Option<SystemTime> {
    let begin = SystemTime::from(SimClock::default().now());
    Some(begin + Duration::from_secs(u64::from(event.id())))
}

/// Nothing comes after the event: what it waits for was pending for ever.
#[test]
fn event_time_deadline_expires_in_idle_store() {
    let (lateness, skew) = (Duration::from_secs(600), Duration::from_secs(60));
    let shipped = |id| about(id).response(placed, shipped).at(at_number, lateness).skew(skew);
    let bench = bench([shipped("live").within(DAY).into(), shipped("history").imported().within(DAY).into()]);
    let at = bench.append(Order::Placed { order: 0 }).get();
    bench.pass(DAY + lateness + skew);
    assert_eq!(states(&bench), [], "it may still come");
    bench.pass(Duration::from_secs(1));
    assert_eq!(states(&bench), [(at, State::Open)]);
    bench.pass(365 * DAY);
    let pending: Vec<_> = bench.store.checks().stats().iter().map(|stats| stats.pending).collect();
    assert_eq!(pending, [0, 1]);
    let position = bench.store.stats().position;
    bench.pass(365 * DAY);
    assert_eq!(bench.store.stats().position, position, "time is recorded only where something is due");
}

#[test]
fn future_event_is_reported_and_keeps_watermark() {
    let skew = Duration::from_secs(60);
    let check = about("live").response(placed, shipped).at(at_number, Duration::ZERO).skew(skew).within(skew);
    let bench = bench([check.into()]);
    bench.append(Order::Placed { order: 0 });
    let watermark = || bench.store.checks().stats()[0].watermark;
    bench.settle();
    let before = watermark();
    let ahead = bench.append(Order::Placed { order: 1_000_000 });
    bench.settle();
    let stats = &bench.store.checks().stats()[0];
    assert_eq!((watermark(), stats.skewed, stats.unread, stats.pending), (before, 1, 0, 2));
    let view = bench.store.view().expect("the store is open");
    let found = view.query::<Raw>(QueryItem::types(["tallystone.Skewed"])).next();
    let found = found.expect("it is on record").expect("it is read");
    assert!(found.position > ahead && String::from_utf8_lossy(found.data()).contains("ahead of the store's"));
    // As far as the skew goes it is believed.
    bench.append(Order::Placed { order: 60 });
    bench.settle();
    assert_eq!(watermark(), before.map(|before| before + 60_000_000));
}

#[test]
fn idle_store_records_due_time_only_once() {
    let bench = bench([shipped_within_a_day()]);
    bench.append(Order::Placed { order: 1 });
    bench.pass(DAY + Duration::from_secs(1));
    let after = bench.store.stats().position;
    // The event, the time, the violation; two routes that begin, the notice, and that it was delivered.
    assert_eq!(after.get(), 7);
    for _ in 0..10 {
        bench.pass(DAY);
    }
    assert_eq!(bench.store.stats().position, after);
}

#[test]
fn unexercised_check_reports_zero_activations() {
    let bench = bench([shipped_within_a_day()]);
    bench.append(Order::Shipped { order: 1 });
    bench.settle();
    assert_eq!(bench.store.checks().stats()[0].activations, 0);
}

#[test]
fn panicking_check_is_recorded_and_others_continue() {
    let panics = about("panics").precedence(|_: &Order| panic!("a bug in a check"), shipped);
    let bench = bench([Check::from(panics), shipped_within_a_day()]);
    let at = bench.append(Order::Placed { order: 1 });
    bench.append(Order::Shipped { order: 1 });
    bench.settle();
    let stats = bench.store.checks().stats();
    assert_eq!((stats[0].unread, stats[1].satisfied), (2, 1));
    assert!(stats[0].last_unread.as_ref().is_some_and(|(_, why)| why.contains("a bug in a check")));
    let view = bench.store.view().expect("the store is open");
    let untold = view.query::<Raw>(QueryItem::types(["tallystone.Untold"])).next();
    assert!(untold.is_some_and(|event| event.is_ok_and(|event| event.position > at)));
}

/// Times that an event says come from outside. Two of them, further apart than a number holds, stopped all checks.
#[test]
fn extreme_event_times_do_not_stop_checks() {
    let check = |kind: &str| {
        let definition = serde_json::json!({
            "id": kind, "kind": kind, "expects": ["log.*"], "when": "log.A", "then": "log.B", "within": "1d", "time": "at", "severity": "note",
            "owner": "o", "means": "m", "remedy": "r",
        });
        let definition: Definition = serde_json::from_value(definition).expect("it is one");
        Check::try_from(definition).expect("it is right")
    };
    let kinds =
        ["response", "precedence", "responded_existence", "chain_response", "each_closed_by", "standing"];
    let bench = bench(kinds.map(check));
    for times in [[i64::MIN, i64::MAX], [i64::MAX, i64::MIN], [0, i64::MIN]] {
        for (kind, at) in ["log.A", "log.B"].into_iter().zip(times) {
            let event = Raw::json(kind, "log/1", Tags::none(), &serde_json::json!({ "at": at }));
            bench.store.append(Append::raw(event)).expect("it is taken");
            bench.settle();
        }
    }
    for stats in bench.store.checks().stats() {
        assert!(stats.trouble.is_none(), "{}: {:?}", stats.check, stats.trouble);
        assert!(stats.activations >= 2, "{}", stats.check);
    }
}

#[test]
fn restart_keeps_deadlines_and_repeats_no_findings() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = SimClock::default();
    let open = || {
        let setup = setup(&clock, [shipped_within_a_day()]);
        let store = Store::open_or_create(dir.path().join("store"), setup).expect("it opens");
        Bench { clock: clock.clone(), store }
    };
    for order in 0..10 {
        let bench = open();
        bench.append(Order::Placed { order });
        if order % 3 == 0 {
            bench.settle();
        }
        bench.store.close();
    }
    let bench = open();
    bench.append(Order::Shipped { order: 4 });
    bench.pass(DAY + Duration::from_secs(1));
    assert_eq!(states(&bench).len(), 9);
    let position = bench.store.stats().position;
    bench.store.close();
    let bench = open();
    bench.pass(DAY);
    assert_eq!((states(&bench).len(), bench.store.stats().position), (9, position));
}

#[test]
fn findings_survive_lost_or_damaged_check_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = SimClock::default();
    let path = dir.path().join("store");
    let open = || {
        let setup = setup(&clock, [shipped_within_a_day()]);
        Bench { clock: clock.clone(), store: Store::open_or_create(&path, setup).expect("it opens") }
    };
    let bench = open();
    for order in 0..50 {
        bench.append(Order::Placed { order });
    }
    bench.pass(DAY + Duration::from_secs(1));
    let found = states(&bench);
    let position = bench.store.stats().position;
    bench.store.close();
    std::fs::remove_file(path.join("checks.redb")).expect("it is there");
    let bench = open();
    bench.settle();
    assert_eq!((states(&bench), bench.store.stats().position), (found.clone(), position));
    bench.store.close();
    let mut bytes = std::fs::read(path.join("checks.redb")).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5A);
    std::fs::write(path.join("checks.redb"), bytes).expect("it is written");
    let bench = open();
    bench.settle();
    assert_eq!((states(&bench), bench.store.stats().position), (found, position));
}

#[test]
fn new_definition_is_judged_over_whole_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = SimClock::default();
    let open = |check: Check| {
        let setup = setup(&clock, [check]);
        Bench {
            clock: clock.clone(),
            store: Store::open_or_create(dir.path().join("store"), setup).expect("it opens"),
        }
    };
    let bench = open(shipped_within_a_day());
    bench.append(Order::Placed { order: 1 });
    bench.clock.advance(DAY / 2);
    bench.append(Order::Shipped { order: 1 });
    bench.settle();
    assert_eq!(states(&bench), []);
    bench.store.close();
    // Half as long as it took.
    let bench = open(about("shipped").response(placed, shipped).within(DAY / 4).into());
    bench.settle();
    assert!(matches!(states(&bench)[..], [(1, State::Healed { .. })]));
}

#[test]
fn check_thread_catches_up_with_writer() {
    let store = Store::in_memory(Setup::new().check(about("once").absence(2, placed))).expect("it opens");
    for order in [1, 2, 1, 3, 1] {
        store.append(Append::event(Order::Placed { order })).expect("it is taken");
    }
    assert!(store.checks().wait_for(store.stats().position, Duration::from_secs(60)));
    let open = store.checks().open().expect("rows are read");
    // Judged once for each key; the key's first event names it.
    assert_eq!(
        open.iter()
            .map(|violation| (violation.activation.get(), violation.by.map(Position::get)))
            .collect::<Vec<_>>(),
        [(1, Some(3))]
    );
}

// ---- alerts ----

/// What a sink was told: check, count, sample.
type Told = std::sync::Arc<std::sync::Mutex<Vec<(String, u64, usize)>>>;

fn alerted(setup: Setup, told: &Told) -> Setup {
    let told = told.clone();
    setup.alerts(move |alert| {
        let told_now = (alert.check.clone(), alert.count, alert.sample.len());
        told.lock().expect("no test panics in it").push(told_now);
    })
}

fn told(told: &Told) -> Vec<(u64, usize)> {
    told.lock().expect("no test panics in it").iter().map(|(_, count, sample)| (*count, *sample)).collect()
}

#[test]
fn first_alert_is_immediate_storms_are_batched() {
    let (clock, heard) = (SimClock::default(), Told::default());
    let setup = alerted(setup(&clock, [Check::from(about("first").precedence(placed, shipped))]), &heard);
    let bench = Bench::of(clock, setup);
    bench.append(Order::Shipped { order: 0 });
    bench.pass(Duration::ZERO);
    assert_eq!(told(&heard), [(1, 1)]);
    for order in 1..=500 {
        bench.append(Order::Shipped { order });
    }
    for _ in 0..20 {
        bench.pass(Duration::from_secs(2));
    }
    assert_eq!(told(&heard), [(1, 1)]);
    for _ in 0..20 {
        bench.pass(Duration::from_secs(2));
    }
    assert_eq!(told(&heard), [(1, 1), (500, 10)]);
}

#[test]
fn restart_repeats_and_loses_no_alert() {
    let dir = tempfile::tempdir().expect("a directory");
    let (clock, heard) = (SimClock::default(), Told::default());
    let panics = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let open = || {
        let (heard, panics) = (heard.clone(), panics.clone());
        let setup = setup(&clock, [Check::from(about("first").precedence(placed, shipped))]);
        let setup = setup.alerts(move |alert| {
            assert!(!panics.load(std::sync::atomic::Ordering::Relaxed), "the pager is broken");
            heard.lock().expect("no test panics in it").push((
                alert.check.clone(),
                alert.count,
                alert.sample.len(),
            ));
        });
        Bench {
            clock: clock.clone(),
            store: Store::open_or_create(dir.path().join("store"), setup).expect("it opens"),
        }
    };
    let bench = open();
    bench.append(Order::Shipped { order: 1 });
    bench.append(Order::Shipped { order: 2 });
    bench.pass(Duration::ZERO);
    assert_eq!(told(&heard), [], "nobody could be told");
    bench.store.close();
    panics.store(false, std::sync::atomic::Ordering::Relaxed);
    let bench = open();
    bench.pass(Duration::ZERO);
    assert_eq!(told(&heard), [(2, 2)]);
    bench.store.close();
    let bench = open();
    bench.pass(2 * DAY);
    assert_eq!(told(&heard), [(2, 2)]);
}

#[test]
fn row_000_22_muted_check_records_violations_without_alerting() {
    let (clock, heard) = (SimClock::default(), Told::default());
    let setup = alerted(setup(&clock, [Check::from(about("first").precedence(placed, shipped))]), &heard);
    let bench = Bench::of(clock, setup);
    let until = std::time::SystemTime::from(tallystone::Timestamp::from_micros(1_780_000_000_000_000)) + DAY;
    let checks = bench.store.checks();
    checks.mute("first", "ana", "the warehouse moves", until).expect("it is taken");
    bench.append(Order::Shipped { order: 1 });
    bench.pass(DAY / 2);
    assert_eq!((told(&heard), states(&bench).len()), (vec![], 1));
    bench.pass(DAY / 2);
    assert_eq!(told(&heard), [(1, 1)]);
}

#[test]
fn violations_in_existing_log_raise_one_alert() {
    let dir = tempfile::tempdir().expect("a directory");
    let (clock, heard) = (SimClock::default(), Told::default());
    let path = dir.path().join("store");
    let store = Store::open_or_create(&path, setup(&clock, [])).expect("it opens");
    for order in 0..3000 {
        store.append(Append::event(Order::Shipped { order })).expect("it is taken");
    }
    store.close();
    let check = Check::from(about("first").precedence(placed, shipped));
    let setup = alerted(setup(&clock, [check]), &heard);
    let bench = Bench { clock, store: Store::open_or_create(&path, setup).expect("it opens") };
    bench.pass(Duration::ZERO);
    bench.pass(Duration::ZERO);
    assert_eq!(told(&heard), [(3000, 10)]);
}
