//! The life of a violation, and of the notifications about it.

use crate::support::bench::{Bench, lockstep};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tallystone::Options;
use tallystone::check::{About, Check, Severity};
use tallystone::disk::Clock;
use tallystone::prelude::*;
use tallystone::testing::SimClock;
use tallystone::watch::{Notification, NotificationKind, Route, State, Violation};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Order {
    Placed { order: u32 },
    Shipped { order: u32 },
}

impl Event for Order {
    const FAMILY: &'static str = "order";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Placed { order } | Self::Shipped { order }) = self;
        *order
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn about(id: &'static str, severity: Severity) -> About {
    About { id, severity, owner: "warehouse", means: "It was not shipped.", remedy: "1 ship it" }
}

fn placed(event: &Order) -> bool {
    matches!(event, Order::Placed { .. })
}

fn shipped(event: &Order) -> bool {
    matches!(event, Order::Shipped { .. })
}

/// What is placed is shipped within an hour.
fn in_time() -> Check {
    about("in-time", Severity::Ticket).response(placed, shipped).within(HOUR).into()
}

/// A store that is opened again and again, and a sink that outlives it.
struct Desk {
    dir: tempfile::TempDir,
    clock: SimClock,
    told: Arc<Mutex<Vec<Notification>>>,
    is_down: Arc<AtomicBool>,
    bench: Option<Bench>,
}

impl Desk {
    fn open(checks: &[Check]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (told, is_down) = Default::default();
        let mut desk = Self { dir, clock: SimClock::default(), told, is_down, bench: None };
        desk.reopen(checks);
        desk
    }

    fn reopen(&mut self, checks: &[Check]) {
        if let Some(bench) = self.bench.take() {
            bench.store.close();
        }
        let (told, is_down) = (self.told.clone(), self.is_down.clone());
        let setup = checks.iter().cloned().fold(lockstep(&self.clock).events::<Order>(), Setup::check);
        let setup = setup.name("shop").alerts(move |one| {
            if is_down.load(Ordering::Relaxed) {
                return Err("nobody is there");
            }
            told.lock().expect("no test panics in it").push(one.clone());
            Ok(())
        });
        let store = Store::open_or_create(self.dir.path().join("store"), setup).expect("it opens");
        self.bench = Some(Bench { clock: self.clock.clone(), store });
    }

    fn bench(&self) -> &Bench {
        self.bench.as_ref().expect("it is open")
    }

    fn place(&self, order: u32) {
        self.bench().append(Order::Placed { order });
    }

    fn ship(&self, order: u32) {
        self.bench().append(Order::Shipped { order });
    }

    fn pass(&self, time: Duration) {
        self.bench().pass(time);
    }

    fn open_ones(&self) -> Vec<Violation> {
        self.bench().store.checks().open().expect("rows are read")
    }

    fn all(&self) -> Vec<Violation> {
        self.bench().store.checks().all().expect("rows are read")
    }

    fn now(&self) -> SystemTime {
        self.clock.now().into()
    }

    /// Everything told since it was asked last.
    fn take(&self) -> Vec<Notification> {
        std::mem::take(&mut *self.told.lock().expect("no test panics in it"))
    }

    /// Of that: kind, count, why or how it ended.
    fn told(&self) -> Vec<(NotificationKind, u64, String)> {
        self.take().iter().map(short).collect()
    }
}

fn short(one: &Notification) -> (NotificationKind, u64, String) {
    let says = if one.kind == NotificationKind::Resolved { one.ended.to_string() } else { String::new() };
    (one.kind, one.count, one.why.clone().unwrap_or(says))
}

fn told(kind: NotificationKind, count: u64, says: &str) -> (NotificationKind, u64, String) {
    (kind, count, says.to_owned())
}

const OPENED: NotificationKind = NotificationKind::Opened;
const ESCALATED: NotificationKind = NotificationKind::Escalated;
const REMINDED: NotificationKind = NotificationKind::Reminded;
const RESOLVED: NotificationKind = NotificationKind::Resolved;

const OVER: &str = "a waiver or a remediation is over";
const UNHELPED: &str = "the remediation did not help";

#[test]
fn resolved_follows_opened_once_under_same_dedup_key() {
    let mut desk = Desk::open(&[in_time()]);
    desk.place(7);
    desk.pass(HOUR + SECOND);
    let [opened] = &desk.take()[..] else { panic!("it is told once") };
    assert_eq!(short(opened), told(OPENED, 1, ""));
    assert_eq!((opened.store.as_str(), &opened.keys[..]), ("shop", &["order/7".to_owned()][..]));
    assert_eq!(opened.sample[0].activation, Position::new(1));
    desk.reopen(&[in_time()]);
    desk.ship(7);
    desk.pass(MINUTE);
    let [resolved] = &desk.take()[..] else { panic!("it is told once") };
    assert_eq!((short(resolved), &resolved.dedup_key), (told(RESOLVED, 1, "1 healed"), &opened.dedup_key));
    assert!(matches!(resolved.sample[0].state, State::Healed { .. }));
    desk.reopen(&[in_time()]);
    desk.pass(DAY);
    assert_eq!(desk.told(), []);
}

#[test]
fn incident_with_many_violations_resolves_with_last() {
    let desk = Desk::open(&[in_time()]);
    (1..=3).for_each(|order| desk.place(order));
    desk.pass(HOUR + SECOND);
    assert_eq!(desk.told(), [told(OPENED, 3, "")]);
    desk.ship(1);
    desk.pass(MINUTE);
    let waived = desk.open_ones().remove(0);
    let until = desk.now() + DAY;
    desk.bench().store.checks().waive(&waived, "ana", "it is late", until).expect("it is taken");
    desk.pass(MINUTE);
    assert_eq!(desk.told(), []);
    desk.ship(3);
    desk.pass(MINUTE);
    assert_eq!(desk.told(), [told(RESOLVED, 3, "2 healed, 1 waived")]);
}

#[test]
fn violation_healed_before_delivery_is_not_notified() {
    let desk = Desk::open(&[in_time()]);
    desk.place(1);
    desk.pass(MINUTE / 2);
    desk.place(2);
    desk.pass(HOUR);
    assert_eq!(desk.told(), [told(OPENED, 1, "")], "the first");
    desk.pass(SECOND);
    desk.ship(2);
    desk.pass(HOUR);
    assert_eq!(desk.told(), [], "both in one minute");
    // The same while nobody takes anything.
    desk.is_down.store(true, Ordering::Relaxed);
    desk.place(3);
    desk.pass(HOUR + SECOND);
    desk.ship(3);
    desk.pass(HOUR);
    let undelivered = desk.bench().store.checks().routes()[0].undelivered.clone();
    assert_eq!(undelivered.as_deref(), Some("nobody is there"));
    desk.is_down.store(false, Ordering::Relaxed);
    desk.pass(HOUR);
    assert_eq!(desk.told(), []);
    assert_eq!(desk.all().len(), 3, "all are on record");
}

#[test]
fn expired_waiver_reopens_violation() {
    let mut desk = Desk::open(&[in_time()]);
    desk.place(1);
    desk.pass(HOUR + SECOND);
    let first = desk.take().remove(0);
    let (violation, until) = (desk.open_ones().remove(0), desk.now() + DAY);
    desk.bench().store.checks().waive(&violation, "ana", "a holiday", until).expect("it is taken");
    desk.pass(MINUTE);
    assert_eq!((desk.told(), desk.open_ones()), (vec![told(RESOLVED, 1, "1 waived")], vec![]));
    desk.reopen(&[in_time()]);
    desk.pass(DAY - HOUR);
    assert_eq!(desk.told(), []);
    desk.pass(HOUR);
    let again = desk.take().remove(0);
    assert_eq!((short(&again), again.reopened), (told(OPENED, 1, OVER), 1));
    assert_ne!(again.dedup_key, first.dedup_key, "another incident");
    assert_eq!(desk.open_ones()[0].state, State::Open);
    desk.ship(1);
    desk.pass(MINUTE);
    assert_eq!(desk.told(), [told(RESOLVED, 1, "1 healed")]);
}

#[test]
fn healed_waived_violation_is_not_notified() {
    let desk = Desk::open(&[in_time()]);
    desk.place(1);
    desk.pass(HOUR + SECOND);
    let (violation, until) = (desk.open_ones().remove(0), desk.now() + DAY);
    desk.bench().store.checks().waive(&violation, "ana", "a holiday", until).expect("it is taken");
    desk.ship(1);
    desk.pass(MINUTE);
    assert_eq!(desk.told(), [told(OPENED, 1, ""), told(RESOLVED, 1, "1 waived")]);
    desk.pass(2 * DAY);
    assert_eq!(desk.told(), []);
    assert!(matches!(desk.all()[0].state, State::Healed { .. }));
}

#[test]
fn ineffective_remediation_is_escalated_after_grace_period() {
    let desk = Desk::open(&[in_time().remedied_within(2 * HOUR)]);
    desk.place(1);
    desk.place(2);
    desk.pass(HOUR + SECOND);
    let opened = desk.take().remove(0);
    for violation in desk.open_ones() {
        desk.bench().store.checks().remediated(&violation, "ana", "sent it").expect("it is open");
    }
    assert_eq!(desk.open_ones(), [], "both count as done");
    desk.ship(2);
    desk.pass(2 * HOUR - SECOND);
    assert_eq!(desk.told(), []);
    desk.pass(SECOND);
    let [escalated] = &desk.take()[..] else { panic!("it is told once") };
    assert_eq!(short(escalated), told(ESCALATED, 1, UNHELPED));
    assert_eq!(escalated.dedup_key, opened.dedup_key);
    let open = desk.open_ones();
    assert_eq!((open.len(), &open[0].state), (1, &State::Open));
    // It may be remediated again.
    desk.bench().store.checks().remediated(&open[0], "ben", "sent it again").expect("it is open");
    desk.ship(1);
    desk.pass(MINUTE);
    assert_eq!(desk.told(), [told(RESOLVED, 2, "2 healed")]);
}

/// A sum that comes to 0 too late heals its violation, so time shows whether a remediation helped.
#[test]
fn balance_check_remediation_has_grace_period() {
    let adds = |event: &Order| Some(if placed(event) { 1 } else { -1 });
    let check: Check = about("in-time", Severity::Ticket).balances(adds).within(HOUR).into();
    let desk = Desk::open(&[check.remedied_within(2 * HOUR)]);
    desk.place(1);
    desk.pass(HOUR + SECOND);
    desk.take();
    desk.bench().store.checks().remediated(&desk.open_ones()[0], "ana", "sent it").expect("it is open");
    desk.pass(2 * HOUR);
    assert_eq!(desk.told(), [told(ESCALATED, 1, UNHELPED)]);
    desk.ship(1);
    desk.pass(MINUTE);
    assert_eq!(desk.told(), [told(RESOLVED, 1, "1 healed")]);
}

#[test]
fn remediation_before_notice_suppresses_it_while_effective() {
    let desk = Desk::open(&[in_time().remedied_within(2 * HOUR)]);
    let checks = desk.bench().store.checks();
    let until = desk.now() + 2 * HOUR;
    checks.mute("in-time", "ana", "the warehouse moves", until).expect("it is taken");
    desk.place(1);
    desk.place(2);
    desk.pass(HOUR + SECOND);
    for violation in desk.open_ones() {
        checks.remediated(&violation, "ana", "sent it").expect("it is open");
    }
    desk.ship(1);
    desk.pass(HOUR);
    assert_eq!(desk.told(), [], "the mute is over, and both count as done");
    desk.pass(HOUR);
    assert_eq!(desk.told(), [told(OPENED, 1, OVER)]);
}

#[test]
fn escalation_and_reminders_continue_after_acknowledgement() {
    let check = in_time().escalates(2 * HOUR, Severity::Page).reminds(12 * HOUR);
    let mut desk = Desk::open(std::slice::from_ref(&check));
    desk.place(1);
    desk.pass(HOUR + SECOND);
    let opened = desk.take().remove(0);
    desk.bench().store.checks().acknowledge(&desk.open_ones()[0], "ana").expect("it is taken");
    desk.pass(2 * HOUR + SECOND);
    let escalated = desk.take().remove(0);
    assert_eq!(short(&escalated), told(ESCALATED, 1, "open for longer than 2h"));
    assert_eq!((escalated.severity, &escalated.dedup_key), (Severity::Page, &opened.dedup_key));
    desk.reopen(&[check]);
    desk.pass(12 * HOUR);
    desk.pass(12 * HOUR - SECOND);
    assert_eq!(desk.told(), [told(REMINDED, 1, "")]);
    desk.pass(SECOND);
    assert_eq!(desk.told(), [told(REMINDED, 1, "")]);
    desk.ship(1);
    desk.pass(DAY);
    assert_eq!(desk.told(), [told(RESOLVED, 1, "1 healed")]);
}

#[test]
fn page_reminds_daily_unless_check_overrides_it() {
    for (severity, every, times) in [
        (Severity::Page, None, 2),
        (Severity::Page, Some(Duration::ZERO), 0),
        (Severity::Ticket, None, 0),
        (Severity::Note, Some(DAY), 2),
    ] {
        let check = Check::from(about("in-time", severity).response(placed, shipped).within(HOUR));
        let check = every.into_iter().fold(check, Check::reminds);
        let desk = Desk::open(&[check]);
        desk.place(1);
        desk.pass(HOUR + SECOND);
        desk.take();
        (0..60).for_each(|_| desk.pass(HOUR));
        assert_eq!(desk.told(), vec![told(REMINDED, 1, ""); times], "{severity} {every:?}");
    }
}

#[test]
fn muted_check_escalates_after_mute_ends() {
    let desk = Desk::open(&[in_time().escalates(HOUR, Severity::Page)]);
    desk.place(1);
    desk.pass(HOUR + SECOND);
    desk.take();
    let until = desk.now() + 3 * HOUR;
    desk.bench().store.checks().mute("in-time", "ana", "the warehouse moves", until).expect("it is taken");
    desk.pass(2 * HOUR);
    let position = desk.bench().store.stats().position;
    (0..20).for_each(|_| desk.bench().store.step());
    assert_eq!((desk.told(), desk.bench().store.stats().position), (vec![], position));
    desk.pass(HOUR);
    assert_eq!(desk.told(), [told(ESCALATED, 1, "open for longer than 1h")]);
}

#[test]
fn new_version_keeps_decisions_and_notifies_new_violations() {
    let mut desk = Desk::open(&[in_time()]);
    (1..=4).for_each(|order| desk.place(order));
    desk.pass(HOUR + SECOND);
    desk.take();
    let (open, until) = (desk.open_ones(), desk.now() + DAY);
    let checks = desk.bench().store.checks();
    checks.acknowledge(&open[0], "ana").expect("it is taken");
    checks.waive(&open[1], "ana", "a holiday", until).expect("it is taken");
    checks.remediated(&open[2], "ana", "sent it").expect("it is open");
    desk.place(5);
    desk.pass(MINUTE);
    // It finds the same, and half an hour earlier.
    let sooner = about("in-time", Severity::Ticket).response(placed, shipped).within(HOUR / 2).version(2);
    desk.reopen(std::slice::from_ref(&sooner));
    desk.pass(MINUTE);
    assert_eq!(desk.told(), []);
    let all = desk.all();
    assert_eq!(all[0].acknowledged.as_deref(), Some("ana"));
    assert!(matches!(all[1].state, State::Waived { .. }), "{all:?}");
    assert!(matches!(all[2].state, State::Remediated { .. }), "{all:?}");
    assert!(all.iter().all(|one| one.definition != open[0].definition), "all are of the new one");
    assert_eq!(desk.open_ones().len(), 2);
    desk.pass(HOUR / 2);
    assert_eq!(desk.told()[0], told(OPENED, 1, ""), "the fifth, after half an hour");
}

#[test]
fn violations_missing_in_new_version_retire_and_resolve() {
    let first = |order: u32, version| {
        let shipped_first = move |event: &Order| matches!(event, Order::Shipped { order: of } if *of < order);
        about("first", Severity::Ticket).precedence(placed, shipped_first).version(version)
    };
    let mut desk = Desk::open(&[first(10, 1)]);
    (0..10).for_each(|order| desk.ship(order));
    desk.pass(Duration::ZERO);
    assert_eq!(desk.told(), [told(OPENED, 10, "")]);
    desk.reopen(&[first(4, 2)]);
    desk.pass(MINUTE);
    assert_eq!((desk.told(), desk.open_ones().len()), (vec![], 4), "four of ten are still there");
    assert!(matches!(desk.all()[9].state, State::Retired { .. }));
    desk.reopen(&[first(0, 3)]);
    desk.pass(MINUTE);
    assert_eq!((desk.told(), desk.open_ones()), (vec![told(RESOLVED, 10, "10 not found any more")], vec![]));
}

#[test]
fn reverted_rule_notifies_and_escalates_again() {
    let check = |version| in_time().version(version).escalates(HOUR, Severity::Page);
    let never = || {
        let none = |_: &Order| false;
        let of = about("in-time", Severity::Ticket).response(none, shipped).within(HOUR);
        of.version(2).escalates(HOUR, Severity::Page)
    };
    let mut desk = Desk::open(&[check(1)]);
    desk.place(1);
    desk.pass(HOUR + SECOND);
    assert_eq!(desk.told(), [told(OPENED, 1, "")]);
    desk.reopen(&[never()]);
    desk.pass(MINUTE);
    assert_eq!(desk.told(), [told(RESOLVED, 1, "1 not found any more")]);
    desk.reopen(&[check(1)]);
    desk.pass(MINUTE);
    assert_eq!(desk.told(), [told(OPENED, 1, "")]);
    desk.pass(HOUR + SECOND);
    assert_eq!(desk.told(), [told(ESCALATED, 1, "open for longer than 1h")]);
    // As one definition that takes over from another that found the same.
    desk.reopen(&[check(2)]);
    desk.pass(MINUTE);
    desk.reopen(&[check(1)]);
    desk.pass(MINUTE);
    assert_eq!((desk.told(), desk.open_ones().len()), (vec![], 1));
    desk.ship(1);
    desk.pass(MINUTE);
    assert_eq!(desk.told(), [told(RESOLVED, 1, "1 healed")]);
}

#[test]
fn rule_removed_during_sink_outage_resolves_later() {
    let other = || Check::from(about("other", Severity::Note).precedence(placed, |_: &Order| false));
    let mut desk = Desk::open(&[in_time(), other()]);
    desk.place(1);
    desk.is_down.store(true, Ordering::Relaxed);
    desk.pass(HOUR + SECOND);
    desk.reopen(&[other()]);
    desk.pass(MINUTE);
    assert!(matches!(desk.all()[0].state, State::Retired { .. }));
    assert_eq!(desk.open_ones(), []);
    desk.is_down.store(false, Ordering::Relaxed);
    desk.pass(2 * MINUTE);
    // The process before may have told it, and did not say so.
    let both = [told(OPENED, 1, ""), told(RESOLVED, 1, "1 not found any more")];
    assert_eq!(desk.told(), both);
    desk.reopen(&[in_time(), other()]);
    desk.pass(MINUTE);
    assert_eq!(desk.told(), [told(OPENED, 1, "")], "it is back");
}

#[test]
fn unexercised_check_is_reported_while_events_arrive() {
    let never_two = || Check::from(about("never-two", Severity::Ticket).absence(2, placed).within(MINUTE));
    let off = || {
        let on = |_: &Order| false;
        Check::from(about("off", Severity::Ticket).switched_off(on, shipped, MINUTE))
    };
    let mut desk = Desk::open(&[in_time(), never_two(), off()]);
    let found = |desk: &Desk| -> Vec<_> {
        desk.open_ones().into_iter().map(|one| (one.check, one.subject.unwrap_or_default())).collect()
    };
    for order in 0..=10 {
        desk.ship(order);
        desk.pass(HOUR);
    }
    assert_eq!(found(&desk), [], "ten windows are not more than ten");
    desk.pass(100 * DAY);
    assert_eq!(found(&desk), [], "no events came");
    desk.reopen(&[in_time(), never_two(), off()]);
    desk.ship(11);
    desk.pass(MINUTE);
    // What counts the events of a key has them to judge; what stands too long is expected never to.
    assert_eq!(found(&desk), [("tallystone.unexercised".to_owned(), "in-time".to_owned())]);
    let [opened] = &desk.take()[..] else { panic!("it is told once") };
    assert_eq!((opened.severity, opened.owner.as_str()), (Severity::Note, "warehouse"));
    assert!(opened.means.contains("`in-time`") && !opened.remedy.is_empty(), "{opened}");
    desk.place(12);
    desk.ship(12);
    desk.pass(MINUTE);
    assert_eq!((found(&desk), desk.told()), (vec![], vec![told(RESOLVED, 1, "1 healed")]));
}

// ---- routes ----

/// What a route was told, and whether it refuses.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<(NotificationKind, String)>>>, Arc<AtomicBool>);

impl Sink {
    fn route(&self, name: &'static str) -> Route {
        let sink = self.clone();
        Route::new(name, move |one| {
            if sink.1.load(Ordering::Relaxed) {
                return Err("it is down");
            }
            sink.0.lock().expect("no test panics in it").push((one.kind, one.check.clone()));
            Ok(())
        })
    }

    fn take(&self) -> Vec<(NotificationKind, String)> {
        std::mem::take(&mut *self.0.lock().expect("no test panics in it"))
    }
}

fn owned(id: &'static str, owner: &'static str, severity: Severity) -> Check {
    About { owner, ..about(id, severity) }.response(placed, shipped).within(HOUR).into()
}

#[test]
fn failing_route_delays_no_other_route() {
    let (dir, clock) = (tempfile::tempdir().expect("a directory"), SimClock::default());
    let (ana, ben, rest) = (Sink::default(), Sink::default(), Sink::default());
    let open = || {
        let setup = lockstep(&clock)
            .events::<Order>()
            .check(owned("a", "ana", Severity::Ticket))
            .check(owned("b", "ben", Severity::Ticket))
            .check(owned("c", "cyd", Severity::Ticket))
            .route(ana.route("ana").owner("ana"))
            .route(ben.route("ben").owner("ben"));
        let rest = rest.clone();
        let setup = setup.alerts(move |one| rest.0.lock().expect("free").push((one.kind, one.check.clone())));
        let store = Store::open_or_create(dir.path().join("store"), setup).expect("it opens");
        Bench { clock: clock.clone(), store }
    };
    let bench = open();
    ana.1.store(true, Ordering::Relaxed);
    bench.append(Order::Placed { order: 1 });
    bench.pass(HOUR + SECOND);
    for _ in 0..30 {
        bench.pass(MINUTE);
    }
    let of = |kind, check: &str| vec![(kind, check.to_owned())];
    assert_eq!((ana.take(), ben.take(), rest.take()), (vec![], of(OPENED, "b"), of(OPENED, "c")));
    let routes = bench.store.checks().routes();
    assert_eq!(
        routes.iter().map(|one| one.route.as_str()).collect::<Vec<_>>(),
        ["ana", "ben", "alerts", "standard error"]
    );
    assert_eq!(routes[0].undelivered.as_deref(), Some("it is down"));
    assert_eq!(routes[1].undelivered, None);
    bench.store.close();
    ana.1.store(false, Ordering::Relaxed);
    let bench = open();
    bench.pass(MINUTE);
    assert_eq!((ana.take(), ben.take(), rest.take()), (of(OPENED, "a"), vec![], vec![]));
    bench.append(Order::Shipped { order: 1 });
    bench.pass(MINUTE);
    assert_eq!(
        (ana.take(), ben.take(), rest.take()),
        (of(RESOLVED, "a"), of(RESOLVED, "b"), of(RESOLVED, "c"))
    );
}

/// Delivery of a resolution goes to each route that had an earlier notice of its incident.
#[test]
fn routes_filter_by_severity_and_label() {
    let clock = SimClock::default();
    let (pager, europe, log) = (Sink::default(), Sink::default(), Sink::default());
    let setup = lockstep(&clock)
        .events::<Order>()
        .check(owned("a", "ana", Severity::Ticket).label("region", "eu").escalates(HOUR, Severity::Page))
        .check(owned("b", "ben", Severity::Ticket).label("region", "us"))
        .route(pager.route("pager").at_least(Severity::Page))
        .route(europe.route("europe").label("region", "eu"))
        .route(log.route("log"))
        .alerts(|one| -> () { panic!("another route takes {one}") });
    let bench = Bench::of(clock, setup);
    let of = |kind, check: &str| (kind, check.to_owned());
    bench.append(Order::Placed { order: 1 });
    bench.pass(HOUR + SECOND);
    assert_eq!((pager.take(), europe.take()), (vec![], vec![of(OPENED, "a")]));
    bench.pass(HOUR + SECOND);
    bench.append(Order::Shipped { order: 1 });
    bench.pass(MINUTE);
    let end = vec![of(ESCALATED, "a"), of(RESOLVED, "a")];
    assert_eq!((pager.take(), europe.take()), (end.clone(), end));
    let mut all = log.take();
    all.sort_by_key(|(kind, check)| (check.clone(), *kind as u8));
    let must = [(OPENED, "a"), (ESCALATED, "a"), (RESOLVED, "a"), (OPENED, "b"), (RESOLVED, "b")];
    assert_eq!(all, must.map(|(kind, check)| of(kind, check)));
}

/// Names of routes that are empty, reserved or used twice refuse the open.
#[test]
fn new_route_receives_only_new_incidents() {
    let (dir, clock) = (tempfile::tempdir().expect("a directory"), SimClock::default());
    let (old, new) = (Sink::default(), Sink::default());
    let open = |routes: Vec<Route>| {
        let setup = lockstep(&clock).events::<Order>().check(in_time());
        let setup = routes.into_iter().fold(setup, Setup::route);
        let store = Store::open_or_create(dir.path().join("store"), setup).expect("it opens");
        Bench { clock: clock.clone(), store }
    };
    let bench = open(vec![old.route("old")]);
    bench.append(Order::Placed { order: 1 });
    bench.pass(HOUR + SECOND);
    bench.store.close();
    let bench = open(vec![old.route("old"), new.route("new")]);
    bench.append(Order::Placed { order: 2 });
    bench.append(Order::Shipped { order: 1 });
    bench.pass(HOUR + SECOND);
    bench.append(Order::Shipped { order: 2 });
    bench.pass(MINUTE);
    let kinds = |sink: &Sink| sink.take().iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
    assert_eq!(kinds(&old), [OPENED, RESOLVED, OPENED, RESOLVED]);
    assert_eq!(kinds(&new), [OPENED, RESOLVED], "nothing of the incident that it was not told of");

    for (names, why) in [
        (vec![""], "1 to 128 bytes"),
        (vec!["alerts"], "the store's own"),
        (vec!["standard error"], "the store's own"),
        (vec!["one", "one"], "`one` is there twice"),
    ] {
        let setup = Setup::new().events::<Order>().check(in_time());
        let setup = names.into_iter().fold(setup, |setup, name| setup.route(Route::new(name, |_| ())));
        let refused = Store::in_memory(setup).expect_err(why);
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

/// Owner and labels are in each notice, so what no notice could hold does not open; and one that the options of this store leave no
/// room for is shown.
#[test]
fn oversized_notice_is_refused_or_reported() {
    let long = |bytes: usize| "x".repeat(bytes);
    for (check, why) in [
        (in_time().label("team", long(4093)), "`labels`: names and values have 4097 bytes, allowed are 4096"),
        (
            About { owner: long(257).leak(), ..about("in-time", Severity::Ticket) }
                .response(placed, shipped)
                .within(HOUR)
                .into(),
            "`owner`: it has 257 bytes, allowed are 256",
        ),
    ] {
        let refused = Store::in_memory(Setup::new().events::<Order>().check(check)).expect_err(why);
        assert!(refused.to_string().contains(why), "{refused}");
    }

    let (clock, sink) = (SimClock::default(), Sink::default());
    let told = sink.clone();
    let setup = lockstep(&clock).check(in_time().label("team", long(900)));
    let mut options = Options::default();
    options.event_bytes_max = 600;
    let setup = setup.route(told.route("pager")).options(options);
    let bench = Bench::of(clock, setup);
    bench.append(Order::Placed { order: 1 });
    bench.pass(HOUR + SECOND);
    bench.pass(MINUTE);
    assert_eq!(bench.store.checks().open().expect("rows are read").len(), 1, "it is found");
    let why = bench.store.checks().routes()[0].undelivered.clone().expect("it is shown");
    assert!(why.contains("could not be recorded") && why.contains("600"), "{why}");
    assert_eq!(sink.take(), []);
}

// ---- any history ----

/// Something that happens to a store with one check.
#[derive(Debug, Clone)]
enum Step {
    Place(u32),
    Ship(u32),
    Pass(u64),
    Acknowledge(usize),
    Waive(usize, u64),
    Remediate(usize),
    Mute(u64),
    SinkDown(bool),
    Restart,
    Version(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let minutes = prop_oneof![Just(0u64), 1..10u64, 50..80u64, 200..2000u64];
    let step = prop_oneof![
        4 => (0u32..12).prop_map(Step::Place),
        3 => (0u32..12).prop_map(Step::Ship),
        6 => minutes.prop_map(Step::Pass),
        1 => (0usize..8).prop_map(Step::Acknowledge),
        2 => (0usize..8, 1u64..300).prop_map(|(one, time)| Step::Waive(one, time)),
        2 => (0usize..8).prop_map(Step::Remediate),
        1 => (1u64..200).prop_map(Step::Mute),
        1 => any::<bool>().prop_map(Step::SinkDown),
        1 => Just(Step::Restart),
        1 => (1u32..3).prop_map(Step::Version),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn each_incident_opens_and_resolves_exactly_once(steps in steps()) {
        let check = |number: u32| {
            let of = about("in-time", Severity::Ticket).response(placed, shipped).within(HOUR * number);
            of.escalates(3 * HOUR, Severity::Page).version(number)
        };
        let (mut number, mut desk) = (1, Desk::open(&[check(1)]));
        let mut heard: Vec<Notification> = Vec::new();
        for step in steps {
            let open = desk.open_ones();
            let store = &desk.bench().store;
            match step {
                Step::Place(order) => desk.place(order),
                Step::Ship(order) => desk.ship(order),
                Step::Pass(minutes) => desk.pass(MINUTE * minutes as u32),
                Step::Acknowledge(one) => {
                    open.get(one).map(|one| store.checks().acknowledge(one, "ana").expect("it is open"));
                }
                Step::Waive(one, minutes) => {
                    let until = desk.now() + MINUTE * minutes as u32;
                    open.get(one).map(|one| store.checks().waive(one, "ana", "a holiday", until).expect("it is open"));
                }
                Step::Remediate(one) => {
                    // Done by hand once before, it is done: the store answers the same.
                    open.get(one).map(|one| store.checks().remediated(one, "ana", "sent it").expect("it is open"));
                }
                Step::Mute(minutes) => {
                    let until = desk.now() + MINUTE * minutes as u32;
                    store.checks().mute("in-time", "ana", "a holiday", until).expect("it runs");
                }
                Step::SinkDown(is_down) => desk.is_down.store(is_down, Ordering::Relaxed),
                Step::Restart => desk.reopen(&[check(number)]),
                Step::Version(other) => {
                    number = other;
                    desk.reopen(&[check(number)]);
                }
            }
            (0..4).for_each(|_| desk.bench().store.step());
            heard.extend(desk.take());
            let open: Vec<_> = desk.all().into_iter().filter(|one| one.state == State::Open).collect();
            prop_assert_eq!(desk.open_ones(), open, "the index is of what is open");
        }
        // Everything is seen to, and time passes. There was something to judge.
        desk.place(100);
        desk.ship(100);
        desk.is_down.store(false, Ordering::Relaxed);
        (0..12).for_each(|order| desk.ship(order));
        (0..12).for_each(|_| desk.pass(6 * HOUR));
        heard.extend(desk.take());
        prop_assert_eq!(desk.open_ones(), vec![]);
        let mut by_key: BTreeMap<&str, Vec<NotificationKind>> = BTreeMap::new();
        heard.iter().for_each(|one| by_key.entry(&one.dedup_key).or_default().push(one.kind));
        for (key, kinds) in by_key {
            let ends = (kinds.first(), kinds.last()) == (Some(&OPENED), Some(&RESOLVED));
            let between = kinds.iter().filter(|kind| [OPENED, RESOLVED].contains(kind)).count();
            prop_assert!(ends && between == 2, "{}: {:?}", key, kinds);
        }
        let told: u64 = heard.iter().filter(|one| one.kind == OPENED).map(|one| one.count).sum();
        let ended: u64 = heard.iter().filter(|one| one.kind == RESOLVED).map(|one| one.count).sum();
        prop_assert_eq!(told, ended, "each violation that was told has ended");
    }
}
