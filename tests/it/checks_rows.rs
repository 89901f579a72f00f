//! Checks over rows, and over amounts that are added up: the first seed's audit query, and what was recorded against what was summed.

use crate::support::bench::{Bench, lockstep};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tallystone::Options;
use tallystone::check::{About, Check, Severity};
use tallystone::event::Raw;
use tallystone::prelude::*;
use tallystone::testing::SimClock;
use tallystone::watch::State;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Sale {
    Sold { product: u32 },
    Cancelled { product: u32 },
    Billed { product: u32, cents: i64 },
    Ended { product: u32 },
    Swapped { from: u32, to: u32 },
}

impl Event for Sale {
    const FAMILY: &'static str = "sale";
    type Id = u32;

    fn id(&self) -> u32 {
        match self {
            Self::Sold { product }
            | Self::Cancelled { product }
            | Self::Billed { product, .. }
            | Self::Ended { product } => *product,
            Self::Swapped { from, .. } => *from,
        }
    }
}

/// Whether a product is active.
struct Products;

impl Projection for Products {
    const NAME: &'static str = "products";
    type Event = Sale;
    type Key = u32;
    type Row = bool;

    fn fold(event: &Sale, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Sale::Sold { product } => rows.put(*product, true),
            Sale::Cancelled { product } => rows.put(*product, false),
            Sale::Swapped { from, to } => {
                rows.put(*from, false)?;
                rows.put(*to, false)
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Bill {
    cents: i64,
}

struct Bills;

impl Projection for Bills {
    const NAME: &'static str = "bills";
    type Event = Sale;
    type Key = u32;
    type Row = Bill;

    fn fold(event: &Sale, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Sale::Billed { product, cents } => rows.update(*product, |bill| bill.cents += cents),
            Sale::Ended { product } => rows.remove(product),
            Sale::Swapped { from, to } => {
                rows.put(*from, Bill { cents: 1 })?;
                rows.put(*to, Bill { cents: 1 })
            }
            _ => Ok(()),
        }
    }
}

const QUARTER: Duration = Duration::from_secs(15 * 60);
const SECOND: Duration = Duration::from_secs(1);

fn about(id: &'static str) -> About {
    About {
        id,
        severity: Severity::Page,
        owner: "payments",
        means: "The customer cancelled, and we still bill.",
        remedy: "1 end the billing; 2 refund what was billed since",
    }
}

fn still_billed() -> Check {
    about("still-billed")
        .standing::<(Products, Bills)>(|_, (active, bill)| active == Some(&false) && bill.is_some())
        .for_longer_than(QUARTER)
}

fn setup(clock: &SimClock, checks: impl IntoIterator<Item = Check>) -> Setup {
    checks
        .into_iter()
        .fold(lockstep(clock).events::<Sale>().inline::<Products>().alerts(|_| {}), Setup::check)
}

fn bench(checks: impl IntoIterator<Item = Check>) -> Bench {
    let clock = SimClock::default();
    Bench::of(clock.clone(), setup(&clock, checks))
}

#[test]
fn row_000_18_billing_after_cancellation_is_reported() {
    let bench = bench([still_billed()]);
    bench.append(Sale::Sold { product: 7 });
    bench.append(Sale::Billed { product: 7, cents: 990 });
    let cancelled = bench.append(Sale::Cancelled { product: 7 });
    bench.pass(QUARTER - SECOND);
    assert_eq!(bench.all(), []);
    // The interval is strict: after a quarter of an hour it may still be billed.
    bench.pass(SECOND);
    assert_eq!(bench.all(), []);
    bench.pass(SECOND);
    let [found] = &bench.all()[..] else { panic!("one violation: {:?}", bench.all()) };
    assert_eq!((found.activation, &found.state), (cancelled, &State::Open));
    assert_eq!(found.subject.as_deref(), Some("7"));
    assert_eq!(found.disagrees, "products has false, bills has {cents: 990}");
    let explained = bench.store.checks().explain(found).expect("its events are read").to_string();
    assert!(
        explained.contains("on 7: The customer cancelled") && explained.contains("bills has {cents: 990}")
    );
    assert!(
        explained.contains("3 sale.Cancelled of sale-7") || explained.contains("3 sale.Cancelled"),
        "{explained}"
    );

    let ended = bench.append(Sale::Ended { product: 7 });
    bench.settle();
    assert!(matches!(bench.all()[0].state, State::Healed { by, .. } if by == ended));
    bench.pass(10 * QUARTER);
    assert_eq!(bench.all().len(), 1);
}

#[test]
fn momentary_recovery_restarts_the_window() {
    let bench = bench([still_billed()]);
    bench.append(Sale::Billed { product: 7, cents: 990 });
    bench.append(Sale::Cancelled { product: 7 });
    bench.clock.advance(QUARTER - SECOND);
    // Nobody looks between the two: a poll would take it for one long time.
    bench.append(Sale::Sold { product: 7 });
    let again = bench.append(Sale::Cancelled { product: 7 });
    bench.pass(2 * SECOND);
    assert_eq!(bench.all(), []);
    bench.pass(QUARTER);
    assert_eq!(bench.all().iter().map(|found| found.activation).collect::<Vec<_>>(), [again]);
    let stats = &bench.store.checks().stats()[0];
    assert_eq!((stats.activations, stats.satisfied, stats.violated), (2, 1, 1));
}

#[test]
fn rows_are_judged_per_whole_commit() {
    let bench = bench([still_billed()]);
    let both = Append::event(Sale::Billed { product: 1, cents: 5 })
        .and(Sale::Cancelled { product: 1 })
        .and(Sale::Ended { product: 1 });
    bench.store.append(both).expect("it is taken");
    bench.pass(2 * QUARTER);
    assert_eq!(bench.store.checks().stats()[0].activations, 0);
}

#[test]
fn violation_begins_at_last_commit_event() {
    let bench = bench([still_billed()]);
    let (billed, cancelled) =
        (|product| Sale::Billed { product, cents: 5 }, |product| Sale::Cancelled { product });
    let commits = [[billed(1), cancelled(1)], [cancelled(2), billed(2)]];
    let last =
        commits.map(|both| bench.store.append(Append::events(both)).expect("it is taken").receipt.last);
    bench.pass(QUARTER + SECOND);
    assert_eq!(bench.all().iter().map(|found| found.activation).collect::<Vec<_>>(), last);
}

/// Takes no bill below zero, and has written it by then.
struct Halves;

impl Projection for Halves {
    const NAME: &'static str = "halves";
    type Event = Sale;
    type Key = u32;
    type Row = i64;

    fn fold(event: &Sale, rows: &mut Rows<'_, Self>) -> Folded {
        let Sale::Billed { product, cents } = event else { return Ok(()) };
        rows.put(*product, *cents)?;
        if *cents < 0 { Err(FoldError::refuse("a bill below zero")) } else { Ok(()) }
    }
}

#[test]
fn writes_of_refused_fold_are_discarded() {
    let check =
        about("below-zero").standing::<(Halves,)>(|_, (cents,)| cents.is_some_and(|cents| *cents < 0));
    let bench = bench([check.for_longer_than(QUARTER)]);
    bench.append(Sale::Billed { product: 7, cents: 5 });
    let refused = bench.append(Sale::Billed { product: 7, cents: -5 });
    bench.pass(QUARTER + SECOND);
    assert_eq!(bench.all(), []);
    let stats = &bench.store.checks().stats()[0];
    assert_eq!((stats.activations, stats.unread), (0, 1));
    assert_eq!(stats.last_unread.as_ref().map(|(at, _)| *at), Some(refused.get()));
}

#[test]
fn one_event_can_violate_several_keys() {
    let bench = bench([still_billed()]);
    let swapped = bench.append(Sale::Swapped { from: 1, to: 2 });
    bench.pass(QUARTER + SECOND);
    let found: Vec<_> = bench.all().into_iter().map(|found| (found.activation, found.subject)).collect();
    assert_eq!(found, [(swapped, Some("1".into())), (swapped, Some("2".into()))]);
    bench.append(Sale::Ended { product: 2 });
    bench.settle();
    let open = bench.store.checks().open().expect("rows are read");
    assert_eq!(open.iter().map(|found| found.subject.as_deref()).collect::<Vec<_>>(), [Some("1")]);
}

#[test]
fn panicking_condition_is_reported_as_unread() {
    let check = about("panics")
        .standing::<(Bills,)>(|key, _| if *key == 3 { panic!("no") } else { true })
        .for_longer_than(QUARTER);
    let bench = bench([check]);
    bench.append(Sale::Billed { product: 3, cents: 1 });
    bench.append(Sale::Billed { product: 4, cents: 1 });
    bench.pass(QUARTER + SECOND);
    let stats = &bench.store.checks().stats()[0];
    assert_eq!((stats.unread, stats.violated), (1, 1));
    assert_eq!(stats.last_unread, Some((1, "panicked: no".into())));
}

#[test]
fn check_rows_survive_restart_and_file_loss() {
    let clock = SimClock::default();
    for (forget, keys_max) in [(false, 1_000_000), (true, 1_000_000), (false, 2)] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let setup = || {
            let mut options = Options::default();
            options.check_keys_max = keys_max;
            setup(&clock, [still_billed()]).options(options)
        };
        let open = || Bench {
            clock: clock.clone(),
            store: Store::open_or_create(&path, setup()).expect("it opens"),
        };
        let mut bench = open();
        for product in 0..20 {
            bench.append(Sale::Billed { product, cents: 1 });
            bench.append(Sale::Cancelled { product });
            if product % 5 == 0 {
                bench.settle();
                bench.store.close();
                if forget {
                    std::fs::remove_file(path.join("checks.redb")).expect("it is there");
                }
                bench = open();
            }
        }
        bench.append(Sale::Ended { product: 3 });
        bench.settle();
        bench.store.close();
        bench = open();
        bench.append(Sale::Ended { product: 4 });
        bench.pass(QUARTER + SECOND);
        let subjects: Vec<_> = bench.all().into_iter().filter_map(|found| found.subject).collect();
        assert_eq!(subjects.len(), 18, "{subjects:?}");
        assert!(!subjects.contains(&"3".to_owned()) && !subjects.contains(&"4".to_owned()));
        let stats = &bench.store.checks().stats()[0];
        assert_eq!((stats.activations, stats.satisfied, stats.violated), (20, 2, 18));
        // Healing needs the key of what was wrong, which only the file may hold.
        bench.append(Sale::Ended { product: 5 });
        bench.settle();
        let healed = bench.all().into_iter().filter(|found| matches!(found.state, State::Healed { .. }));
        assert_eq!(healed.filter_map(|found| found.subject).collect::<Vec<_>>(), ["5"]);
        bench.store.close();
    }
}

#[test]
fn removed_row_ignores_stale_saved_state() {
    let (dir, clock) = (tempfile::tempdir().expect("a directory"), SimClock::default());
    let open = || {
        let setup = setup(&clock, [still_billed()]);
        let store = Store::open_or_create(dir.path().join("store"), setup).expect("it opens");
        Bench { clock: clock.clone(), store }
    };
    let bench = open();
    bench.append(Sale::Billed { product: 7, cents: 990 });
    bench.append(Sale::Cancelled { product: 7 });
    bench.settle();
    bench.store.close();
    let bench = open();
    bench.append(Sale::Ended { product: 7 });
    bench.append(Sale::Billed { product: 7, cents: 10 });
    bench.pass(QUARTER + SECOND);
    assert_eq!(bench.all()[0].disagrees, "products has false, bills has {cents: 10}");
}

/// Events of the other family, whoever appends them.
struct Others;

impl Projection for Others {
    const NAME: &'static str = "others";
    type Event = Raw;
    type Key = u32;
    type Row = u64;

    fn fold(event: &Raw, rows: &mut Rows<'_, Self>) -> Folded {
        match event.family() == Account::FAMILY {
            true => rows.update(0, |count| *count += 1),
            false => Ok(()),
        }
    }
}

#[test]
fn projection_of_all_events_receives_other_families() {
    let check = about("others").standing::<(Bills, Others)>(|_, (_, others)| others == Some(&2));
    let books = Books::new(check.for_longer_than(Duration::ZERO));
    books.paid(1, None);
    let second = books.paid(1, None);
    books.clock.advance(2 * SECOND);
    assert_eq!(books.found(), [(second.get(), "bills has no row, others has 2".into())]);
}

/// Folds as [`Bills`] does, and says that it does not.
struct OtherBills;

impl Projection for OtherBills {
    const NAME: &'static str = Bills::NAME;
    const VERSION: u32 = 2;
    type Event = Sale;
    type Key = u32;
    type Row = Bill;

    fn fold(_: &Sale, _: &mut Rows<'_, Self>) -> Folded {
        Ok(())
    }
}

#[test]
fn row_and_amount_parameters_change_definition() {
    use tallystone::check::Span;
    fn billed<P: Projection<Key = u32>>(window: Duration) -> Check {
        about("it").standing::<(P,)>(|_, (row,)| row.is_some()).for_longer_than(window)
    }
    let total = || about("it").equals(adds, says);
    let day = 24 * 3600 * SECOND;
    let checks = [
        billed::<Bills>(QUARTER),
        billed::<Bills>(2 * QUARTER),
        billed::<OtherBills>(QUARTER),
        about("it").conserved::<Bills>(|_| 0, |bill| bill.cents),
        about("it").balances(adds).within(day).into(),
        total().into(),
        total().carried().into(),
        total().tolerance(1).into(),
        total().rounded(|_| true).into(),
        total().bucket(day).into(),
        total().bucket(2 * day).into(),
        total().bucket(Span::in_zone("UTC").days(1)).into(),
        total().bucket(Span::in_zone("Europe/Rome").days(1)).into(),
        about("it").applied_by::<Account>("one"),
        about("it").applied_by::<Account>("two"),
    ];
    let definitions = checks.map(|check| Books::new(check).store.checks().stats()[0].definition);
    let others = definitions.iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(others.len(), definitions.len(), "{definitions:?}");
}

// ---- amounts ----

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Account {
    Paid { account: u32, cents: i64, total: Option<i64> },
    Interest { account: u32, cents: i64 },
    Closed { account: u32 },
}

impl Event for Account {
    const FAMILY: &'static str = "account";
    type Id = u32;

    fn id(&self) -> u32 {
        match self {
            Self::Paid { account, .. } | Self::Interest { account, .. } | Self::Closed { account } => {
                *account
            }
        }
    }
}

fn adds(event: &Account) -> Option<i64> {
    match event {
        Account::Paid { cents, .. } | Account::Interest { cents, .. } => Some(*cents),
        Account::Closed { .. } => None,
    }
}

fn says(event: &Account) -> Option<i64> {
    match event {
        Account::Paid { total, .. } => *total,
        _ => None,
    }
}

struct Books(Bench);

impl Books {
    fn new(check: impl Into<Check>) -> Self {
        Self::of([check.into()])
    }

    fn of(checks: impl IntoIterator<Item = Check>) -> Self {
        let clock = SimClock::default();
        let setup = lockstep(&clock).events::<Account>().alerts(|_| {});
        Self(Bench::of(clock, checks.into_iter().fold(setup, Setup::check)))
    }

    fn paid(&self, cents: i64, total: impl Into<Option<i64>>) -> Position {
        self.append(Account::Paid { account: 1, cents, total: total.into() })
    }

    /// Check, subject and what disagrees.
    fn all_open(&self) -> Vec<(String, Option<String>, String)> {
        self.pass(Duration::ZERO);
        let open = self.store.checks().open().expect("rows are read");
        open.into_iter().map(|found| (found.check, found.subject, found.disagrees)).collect()
    }

    fn found(&self) -> Vec<(u64, String)> {
        self.pass(Duration::ZERO);
        self.all().into_iter().map(|found| (found.activation.get(), found.disagrees)).collect()
    }
}

impl std::ops::Deref for Books {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.0
    }
}

#[test]
fn stated_total_must_equal_event_sum() {
    let books = Books::new(about("total").equals(adds, says));
    books.paid(500, 500);
    books.paid(-200, 300);
    books.paid(1, None);
    let wrong = books.paid(9, 300);
    books.append(Account::Paid { account: 2, cents: 5, total: Some(5) });
    let still = books.paid(0, 300);
    books.paid(0, 310);
    let difference = "says 300, the events add up to 310".to_owned();
    assert_eq!(books.found(), [(wrong.get(), difference.clone()), (still.get(), difference)]);
}

#[test]
fn carried_total_reports_error_once() {
    let books = Books::new(about("total").equals(adds, says).carried());
    books.paid(500, 500);
    let wrong = books.paid(100, 700);
    books.paid(100, 800);
    assert_eq!(books.found(), [(wrong.get(), "says 700, the events add up to 600".into())]);
}

#[test]
fn tolerance_scales_with_rounded_contributions() {
    let interest = |event: &Account| matches!(event, Account::Interest { .. });
    let books = Books::new(about("total").equals(adds, says).tolerance(10).rounded(interest).carried());
    books.paid(100, 110);
    let wrong = books.paid(100, 221);
    books.append(Account::Interest { account: 1, cents: 5 });
    books.append(Account::Interest { account: 1, cents: 5 });
    books.paid(0, 211);
    let again = books.paid(0, 222);
    let found: Vec<_> = books.found().into_iter().map(|(at, _)| at).collect();
    assert_eq!(found, [wrong.get(), again.get()]);
}

#[test]
fn bucket_ignores_order_and_ends_by_time() {
    let day = Duration::from_secs(24 * 3600);
    let books = Books::new(about("total").equals(adds, says).bucket(day));
    // The second was booked before the first: neither said what it had come to until then.
    books.paid(500, 800);
    books.paid(300, 300);
    books.clock.advance(day);
    let wrong = books.paid(1, 5);
    books.paid(1, 6);
    assert_eq!(books.found(), []);
    books.clock.advance(day);
    assert_eq!(books.found(), [(wrong.get(), "says 6, the events add up to 802".into())]);
    let stats = &books.store.checks().stats()[0];
    assert_eq!((stats.activations, stats.satisfied, stats.violated, stats.pending), (2, 1, 1, 0));
}

#[test]
fn zone_day_bucket_follows_clock_changes() {
    use tallystone::check::Span;
    let hours = |hours| std::time::UNIX_EPOCH + Duration::from_secs(hours * 3600);
    let day = Span::in_zone("Europe/Rome").days(1);
    let of_event = move |event: &Account| match event {
        Account::Paid { account, .. } => Some(hours(u64::from(*account))),
        _ => None,
    };
    let equal =
        about("total").equals(adds, says).by(|_| 0).bucket(day).at(of_event, Duration::ZERO).imported();
    let books = Books::new(equal);
    // 2024-03-31, on which clocks are set forward, begins there at 23:00 UTC and has 23 hours.
    let begins = 475_511;
    books.clock.advance(Duration::from_secs((begins + 100) * 3600));
    let pay = |hour: u64, cents, total| {
        let account = u32::try_from(begins + hour).expect("a number of hours");
        books.append(Account::Paid { account, cents, total: Some(total) })
    };
    pay(0, 500, 0);
    // Its last hour, and the first of the next day.
    pay(22, 300, 800);
    let next = pay(23, 100, 7);
    let after = pay(47, 100, 1001);
    pay(71, 0, 1000);
    let found: Vec<_> = books.found().into_iter().map(|(at, _)| at).collect();
    assert_eq!(found, [next.get(), after.get()]);
}

/// A payment that is told a day late made its own day wrong, and the next one too.
#[test]
fn late_event_counts_in_own_bucket() {
    let hours = |hours: u64| std::time::UNIX_EPOCH + Duration::from_secs(hours * 3600);
    let hour = Duration::from_secs(3600);
    let of_event = move |event: &Account| match event {
        Account::Paid { account, .. } => Some(hours(u64::from(*account))),
        _ => None,
    };
    let equal =
        about("total").equals(adds, says).by(|_| 0).bucket(24 * hour).at(of_event, 6 * hour).imported();
    let books = Books::new(equal);
    let pay =
        |hour: u32, cents, total| books.append(Account::Paid { account: 24 * 20_000 + hour, cents, total });
    pay(1, 500, Some(800));
    pay(25, 100, Some(900));
    // Of the first day, in time: its total was right.
    pay(23, 300, None);
    pay(30, 0, None);
    assert_eq!(books.found(), []);
    pay(31, 0, None);
    let stats = || {
        books.settle();
        books.store.checks().stats()[0].clone()
    };
    assert_eq!((stats().satisfied, stats().pending, stats().unread), (1, 1, 0));
    // Of the first day, too late to compare what it says; what it adds is in all later sums.
    pay(23, 50, Some(850));
    let wrong = pay(50, 0, Some(951));
    pay(80, 0, None);
    assert_eq!((stats().satisfied, stats().violated, stats().unread), (1, 2, 1));
    let found = books.found();
    assert_eq!(found[0].1, "says 900, the events add up to 950");
    assert_eq!(found[1], (wrong.get(), "says 951, the events add up to 950".to_owned()));
}

/// Its amount was left out.
#[test]
fn closing_event_is_included_in_balance() {
    let closed = |event: &Account| matches!(event, Account::Paid { total: Some(_), .. });
    let books = Books::new(about("balances").balances(adds).closed_by(closed));
    books.paid(500, None);
    books.paid(-500, 0);
    let first = books.paid(70, None);
    books.paid(-60, 0);
    assert_eq!(books.found(), [(first.get(), "the events add up to 10, not to 0".into())]);
}

#[test]
fn sum_restarts_after_key_is_closed() {
    let closed = |event: &Account| matches!(event, Account::Closed { .. });
    let books = Books::new(about("total").equals(adds, says).closed_by(closed));
    books.paid(500, 500);
    books.append(Account::Closed { account: 1 });
    books.paid(1, 1);
    let wrong = books.paid(1, 502);
    assert_eq!(books.found(), [(wrong.get(), "says 502, the events add up to 2".into())]);
}

#[test]
fn unbalanced_debits_and_credits_are_reported() {
    let window = Duration::from_secs(60);
    let closed = |event: &Account| matches!(event, Account::Closed { .. });
    let books = Books::new(about("balances").balances(adds).within(window).closed_by(closed));
    books.paid(500, None);
    books.clock.advance(window);
    books.paid(-500, None);
    let first = books.paid(70, None);
    books.clock.advance(SECOND);
    books.paid(-30, None);
    books.clock.advance(window);
    assert_eq!(books.found(), [(first.get(), "the events add up to 40, not to 0".into())]);
    books.paid(-40, None);
    // A key that is over before it balances.
    let second = books.append(Account::Paid { account: 2, cents: 5, total: None });
    books.append(Account::Closed { account: 2 });
    let found = books.found();
    assert_eq!(found[1], (second.get(), "the events add up to 5, not to 0".into()));
    let all = books.all();
    assert!(matches!(all[0].state, State::Healed { .. }) && all[1].state == State::Open);
}

// ---- consumers ----

#[test]
fn row_000_32_skipped_event_is_detected_despite_correct_position() {
    use tallystone::check::Digest;
    let books = Books::new(about("copied").applied_by::<Account>("copy"));
    let (mut good, mut skips) = (Digest::default(), Digest::default());
    for at in 1..=10 {
        let position = books.paid(at, None);
        good.add(position);
        if at != 4 {
            skips.add(position);
        }
    }
    let report = |digest| {
        let at = books.store.checks().applied("copy", digest).expect("it is taken").last;
        // What stands for no time at all is found when time is told next.
        books.clock.advance(2 * SECOND);
        at
    };
    // Behind the log, and right about what it has.
    let mut early = Digest::default();
    (1..=6).for_each(|at| early.add(Position::new(at)));
    report(early);
    assert_eq!(books.found(), []);
    assert_eq!(skips.through(), good.through());
    let wrong = report(skips);
    let difference = "applied has 9 events through 10, where the log has 10".to_owned();
    assert_eq!(books.found(), [(wrong.get(), difference.clone())]);
    assert_eq!(books.all()[0].subject.as_deref(), Some("copy"));
    report(good);
    books.found();
    assert!(matches!(&books.all()[0].state, State::Healed { .. }));
    // Applied twice, and one in place of another.
    let mut twice = good;
    twice.add(Position::new(10));
    let twice = report(twice);
    assert_eq!(books.found()[1].0, twice.get());
    report(good);
    let mut other = Digest::default();
    (2..=10).chain([2]).for_each(|at| other.add(Position::new(at)));
    let other = report(other);
    let found = &books.found()[2];
    assert_eq!(found.0, other.get());
    assert_eq!(
        found.1,
        "applied has other events than the log: 10 of them through 10, and not the same ones"
    );
}

#[test]
fn consumer_is_judged_by_own_reports() {
    use tallystone::check::Digest;
    let copied = |id, consumer| about(id).applied_by::<Account>(consumer);
    let books = Books::of([copied("one", "first"), copied("two", "second")]);
    let mut digest = Digest::default();
    digest.add(books.paid(1, None));
    books.paid(2, None);
    digest.add(books.paid(3, None));
    books.store.checks().applied("second", digest).expect("it is taken");
    books.clock.advance(2 * SECOND);
    books.found();
    let all = books.all();
    let of: Vec<_> = all.iter().map(|found| (found.check.as_str(), found.subject.as_deref())).collect();
    assert_eq!(of, [("two", Some("second"))]);
}

#[test]
fn consumer_of_all_events_excludes_store_events() {
    use tallystone::check::Digest;
    let books = Books::new(about("copied").applied_by::<Raw>("copy"));
    let (mut whole, mut skips) = (Digest::default(), Digest::default());
    for cents in 1..=3 {
        // The reports between them are events, too.
        whole.add(books.paid(cents, None));
        books.store.checks().applied("copy", whole).expect("it is taken");
        books.clock.advance(2 * SECOND);
        assert_eq!(books.found(), []);
    }
    skips.add(whole.through());
    let wrong = books.store.checks().applied("copy", skips).expect("it is taken").last;
    books.clock.advance(2 * SECOND);
    let difference = format!("applied has 1 events through {}, where the log has 3", whole.through());
    assert_eq!(books.found(), [(wrong.get(), difference)]);
}

/// It was restored from a backup, say: that it is behind is no fault of its own, and what it should have there was forgotten.
#[test]
fn restored_consumer_is_compared_after_catching_up() {
    use tallystone::check::Digest;
    let books = Books::new(about("copied").applied_by::<Account>("copy"));
    let first = books.paid(1, None).get();
    for cents in 2..=10 {
        books.paid(cents, None);
    }
    let through = |last: u64| {
        let mut digest = Digest::default();
        (first..=last).for_each(|at| digest.add(Position::new(at)));
        digest
    };
    let report = |digest| {
        let at = books.store.checks().applied("copy", digest).expect("it is taken").last;
        books.clock.advance(2 * SECOND);
        (at.get(), books.found().into_iter().map(|(at, _)| at).collect::<Vec<_>>())
    };
    for last in [10, 6, 8, 10] {
        assert!(report(through(last)).1.is_empty(), "{last}");
    }
    let mut twice = through(10);
    twice.add(Position::new(10));
    let (wrong, found) = report(twice);
    assert_eq!(found, [wrong]);
    // Nor does it heal by that.
    report(through(6));
    let state = || books.all().remove(0).state;
    assert_eq!(state(), State::Open);
    report(through(10));
    assert!(matches!(state(), State::Healed { .. }));
}

/// What it reported last was right, and it reports no more.
#[test]
fn stalled_consumer_is_reported_after_time_limit() {
    use tallystone::check::Digest;
    let longest = Duration::from_secs(600);
    let books = Books::new(about("copied").applied_within::<Account>("copy", longest));
    let mut digest = Digest::default();
    let mut report = |through: Option<Position>| {
        through.into_iter().for_each(|at| digest.add(at));
        books.store.checks().applied("copy", digest).expect("it is taken");
    };
    report(Some(books.paid(1, None)));
    books.clock.advance(10 * longest);
    assert_eq!(books.found(), [], "there is nothing for it to do");
    // Always behind a little, as a busy log has it, and moving.
    let mut before = books.paid(2, None);
    for cents in 3..20 {
        books.clock.advance(longest / 2);
        let next = books.paid(cents, None);
        report(Some(before));
        before = next;
    }
    assert_eq!(books.found(), []);
    // It goes on to say that it is where it was.
    books.clock.advance(longest);
    report(None);
    books.clock.advance(SECOND);
    let found = books.all_open();
    let [(check, subject, disagrees)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((check.as_str(), subject.as_deref()), ("copied.fresh", Some("copy")));
    assert!(
        disagrees.contains("stands at") && disagrees.ends_with(&format!("up to {before}")),
        "{disagrees}"
    );
    report(Some(before));
    assert_eq!(books.all_open(), []);
}

#[test]
fn never_reporting_consumer_is_found_without_growing_rows() {
    use tallystone::check::Digest;
    let books = Books::new(about("copied").applied_by::<Account>("copy"));
    let mut positions = Vec::new();
    for _ in 0..12 {
        let events = (0..1000).map(|_| Account::Paid { account: 1, cents: 1, total: None });
        let receipt = books.store.append(Append::events(events)).expect("they are taken").receipt;
        positions.extend(receipt.first.get()..=receipt.last.get());
    }
    books.clock.advance(Duration::from_secs(3601));
    let found = books.all_open();
    assert!(matches!(&found[..], [(check, ..)] if check == "copied.fresh"), "{found:?}");
    assert!(found[0].2.contains("never reported"), "{found:?}");
    // Reports of one that catches up are right, wherever they come: those that cannot be compared are no violation.
    let mut digest = Digest::default();
    for (index, at) in positions.iter().enumerate() {
        digest.add(Position::new(*at));
        if index % 37 == 0 || index + 1 == positions.len() {
            books.store.checks().applied("copy", digest).expect("it is taken");
        }
    }
    books.clock.advance(SECOND);
    assert_eq!(books.all_open(), []);
    let mut skips = Digest::default();
    positions.iter().filter(|at| **at != positions[100]).for_each(|at| skips.add(Position::new(*at)));
    books.store.checks().applied("copy", skips).expect("it is taken");
    books.clock.advance(SECOND);
    assert!(matches!(&books.all_open()[..], [(check, ..)] if check == "copied"));
}

// ---- conservation ----

/// Loses 13 that are paid, and makes twice as much of 17.
struct Purses;

impl Projection for Purses {
    const NAME: &'static str = "purses";
    type Event = Account;
    type Key = u32;
    type Row = i64;

    fn fold(event: &Account, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Account::Paid { cents: 13, .. } => Ok(()),
            Account::Paid { account, cents: 17, .. } => rows.update(*account, |purse| *purse += 2 * 17),
            Account::Paid { account, cents, .. } | Account::Interest { account, cents } => {
                // Twice in one event: what counts is what the row was before it, and is after it.
                rows.update(*account, |purse| *purse += cents - 1)?;
                rows.update(*account, |purse| *purse += 1)
            }
            Account::Closed { account } => {
                // It is the first from itself on, and the first before it takes over what it held.
                let left = rows.range(account..)?.first().map_or(0, |(_, left)| *left);
                let heir = rows.range(..account)?.first().map_or(0, |(heir, _)| *heir);
                rows.remove(account)?;
                rows.update(heir, |purse| *purse += left)
            }
        }
    }
}

#[test]
fn row_total_differing_from_events_is_reported() {
    let kept = || about("kept").conserved::<Purses>(|event| adds(event).unwrap_or(0), |purse| *purse);
    let paid = |account, cents| Account::Paid { account, cents, total: None };
    for (cents, difference) in [(13, "13 less"), (17, "17 more")] {
        let books = Books::new(kept());
        for account in 0..20 {
            let both = Append::event(paid(account, 100)).and(paid(account, 100 * i64::from(account)));
            books.store.append(both).expect("it is taken");
        }
        books.append(Account::Closed { account: 3 });
        books.clock.advance(2 * SECOND);
        assert_eq!(books.found(), []);
        let wrong = books.append(paid(12, cents));
        books.clock.advance(2 * SECOND);
        let difference = format!("purses has {difference} than the events have brought in");
        assert_eq!(books.found(), [(wrong.get(), difference)]);
        let found = &books.all()[0];
        assert_eq!((found.subject.as_deref(), &found.state), (Some("purses"), &State::Open));
    }
}
