//! The desk of the checks: reports, the handbook, remedies, and who is told when nobody sees to it.

use crate::support::bench::{Bench, lockstep};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tallystone::check::{About, Check, Quantiles, Severity, rules};
use tallystone::event::{Raw, Tags};
use tallystone::prelude::*;
use tallystone::testing::{Random, SimClock};
use tallystone::watch::{self, NotificationKind, RemedyError, State, Violation};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Order {
    Placed { order: u32, cents: i64 },
    Shipped { order: u32 },
    Cancelled { order: u32 },
    Noted { order: u32 },
}

impl Event for Order {
    const FAMILY: &'static str = "order";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Placed { order, .. }
        | Self::Shipped { order }
        | Self::Cancelled { order }
        | Self::Noted { order }) = self;
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

fn cancelled(event: &Order) -> bool {
    matches!(event, Order::Cancelled { .. })
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn placing(order: u32) -> Order {
    Order::Placed { order, cents: 500 }
}

fn setup(clock: &SimClock, checks: impl IntoIterator<Item = Check>) -> Setup {
    checks.into_iter().fold(lockstep(clock).events::<Order>(), Setup::check)
}

fn bench(checks: impl IntoIterator<Item = Check>) -> Bench {
    let clock = SimClock::default();
    Bench::of(clock.clone(), setup(&clock, checks))
}

// ---- flows, and things done in two steps ----

/// Steps of buying an add-on, in their order. A decision may end it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Step {
    Asked,
    Authenticated,
    Available,
    Charged,
    Provisioned,
    Declined,
}

const STEPS: [Step; 5] =
    [Step::Asked, Step::Authenticated, Step::Available, Step::Charged, Step::Provisioned];

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Purchase {
    flow: u32,
    step: Step,
}

impl Event for Purchase {
    const FAMILY: &'static str = "purchase";
    type Id = u32;

    fn id(&self) -> u32 {
        self.flow
    }
}

/// Each step is followed by the next, or the flow was ended.
fn flow_complete() -> impl Iterator<Item = Check> {
    let names = ["flow-authenticated", "flow-available", "flow-charged", "flow-provisioned"];
    STEPS.windows(2).zip(names).map(|(pair, id)| {
        let (before, after) = (pair[0], pair[1]);
        about(id)
            .response(move |e: &Purchase| e.step == before, move |e: &Purchase| e.step == after)
            .until(|e: &Purchase| e.step == Step::Declined)
            .within(HOUR)
            .into()
    })
}

#[test]
fn row_000_28_stopped_flow_names_missing_step() {
    let clock = SimClock::default();
    let setup = lockstep(&clock).events::<Purchase>().alerts(|_| ());
    let bench = Bench::of(clock, flow_complete().fold(setup, Setup::check));
    let take = |flow, steps: &[Step]| {
        for step in steps {
            bench.append(Purchase { flow, step: *step });
        }
    };
    // Flow n takes n steps and stops; flow 5 is complete, and flow 6 was declined after two.
    (1..=5u32).for_each(|flow| take(flow, &STEPS[..flow as usize]));
    take(6, &[Step::Asked, Step::Authenticated, Step::Declined]);
    bench.pass(HOUR);
    assert_eq!(bench.store.checks().open().expect("rows are read"), [], "an hour is allowed");
    bench.pass(SECOND);
    let checks = bench.store.checks();
    let found = checks.open().expect("rows are read").into_iter().map(|violation| {
        let explained = checks.explain(&violation).expect("it is known");
        (violation.check, explained.key)
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by(|(_, one), (_, other)| one.cmp(other));
    let missing = ["flow-authenticated", "flow-available", "flow-charged", "flow-provisioned"];
    let must = (1..).zip(missing).map(|(flow, step)| (step.to_owned(), format!("purchase/{flow}")));
    assert_eq!(found, must.collect::<Vec<_>>());
}

/// A product is marked as out of stock, and then its last piece is ordered: two transactions, in this order.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Stock {
    MarkedOut { product: u32 },
    LastOrdered { product: u32 },
    MarkedIn { product: u32 },
}

impl Event for Stock {
    const FAMILY: &'static str = "stock";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::MarkedOut { product } | Self::LastOrdered { product } | Self::MarkedIn { product }) = self;
        *product
    }
}

#[test]
fn row_001_27_missing_half_is_named_and_remedied() {
    let marked = |event: &Stock| matches!(event, Stock::MarkedOut { .. });
    let ordered = |event: &Stock| matches!(event, Stock::LastOrdered { .. });
    let both = about("marked-and-ordered")
        .succession(marked, ordered)
        .until(|event| matches!(event, Stock::MarkedIn { .. }))
        .within(MINUTE);
    let both = Check::from(both).remedied(|case| match case.began()? {
        Stock::MarkedOut { product } => Ok(Append::event(Stock::MarkedIn { product })),
        _ => Err("the order is there: ask the warehouse".into()),
    });
    let dir = tempfile::tempdir().expect("a directory");
    let clock = SimClock::default();
    let open = || {
        let setup = lockstep(&clock).events::<Stock>().alerts(|_| ());
        Store::open_or_create(dir.path().join("store"), setup.check(both.clone())).expect("it opens")
    };
    let take = |store: &Store, event| store.append(Append::event(event)).expect("it is taken").receipt.last;
    // Both halves of 1; the first of 2, and then the process ends; the second of 3 alone.
    let store = open();
    take(&store, Stock::MarkedOut { product: 1 });
    take(&store, Stock::LastOrdered { product: 1 });
    let first = take(&store, Stock::MarkedOut { product: 2 });
    store.close();
    let bench = Bench { store: open(), clock: clock.clone() };
    let second = bench.append(Stock::LastOrdered { product: 3 });
    bench.pass(MINUTE + SECOND);
    let checks = bench.store.checks();
    let open = checks.open().expect("rows are read");
    let halves: Vec<_> = open.iter().map(|violation| (violation.activation, violation.by)).collect();
    // Nothing came after the first half; what decided the second is itself.
    assert_eq!(halves, [(first, None), (second, Some(second))]);
    let text = checks.explain(&open[0]).expect("it is known").to_string();
    assert!(
        text.contains("stock.MarkedOut of stock/2") && text.contains("nothing that it waits for came"),
        "{text}"
    );
    // Marked incorrectly: taken back, once.
    let plan = checks.remediation(&open[0]).expect("it is known what to do");
    assert!(plan.to_string().contains("stock.MarkedIn to stock/2"), "{plan}");
    plan.run("ana").expect("it is open");
    let refused = checks.remediation(&open[1]).expect_err("a person has to look");
    assert!(refused.to_string().contains("ask the warehouse"), "{refused}");
    assert_eq!(checks.open().expect("rows are read").len(), 1);
}

// ---- events that are wrong ----

/// What is claimed of a product, and what the service that claims it has written of it in the same commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Product {
    Sold { product: u32 },
    Cancelled { product: u32 },
    Stored { product: u32, active: bool },
}

impl Event for Product {
    const FAMILY: &'static str = "product";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Sold { product } | Self::Cancelled { product } | Self::Stored { product, .. }) = self;
        *product
    }
}

struct Claimed;

impl Projection for Claimed {
    const NAME: &'static str = "claimed_active";
    type Event = Product;
    type Key = u32;
    type Row = bool;

    fn fold(event: &Product, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Product::Sold { product } => rows.put(*product, true),
            Product::Cancelled { product } => rows.put(*product, false),
            Product::Stored { .. } => Ok(()),
        }
    }
}

struct Stored;

impl Projection for Stored {
    const NAME: &'static str = "stored_active";
    type Event = Product;
    type Key = u32;
    type Row = bool;

    fn fold(event: &Product, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Product::Stored { product, active } => rows.put(*product, *active),
            _ => Ok(()),
        }
    }
}

/// Refusal by the event's layout, or a violation found in the row that was written with it.
#[test]
fn row_000_29_wrong_event_is_refused_or_reported() {
    let clock = SimClock::default();
    let setup = lockstep(&clock).inline::<Claimed>().inline::<Stored>().alerts(|_| ());
    let differs = about("claimed-is-stored")
        .standing::<(Claimed, Stored)>(|_, (claimed, stored)| claimed != stored)
        .for_longer_than(SECOND);
    let bench = Bench::of(clock, setup.check(differs));
    let commit =
        |events: [Product; 2]| bench.store.append(Append::events(events)).expect("it is taken").receipt;
    commit([Product::Sold { product: 7 }, Product::Stored { product: 7, active: true }]);
    commit([Product::Sold { product: 8 }, Product::Stored { product: 8, active: true }]);
    // A type that there is not, and a payload that is another one's.
    let refused = |type_name: &str, payload: &serde_json::Value| {
        let wrong = Append::raw(Raw::json(type_name, "product/8", Tags::none(), payload));
        bench.store.append(wrong).expect_err("it is no event of the family")
    };
    let unknown = refused("product.Canceled", &json!({ "product": 8 }));
    assert!(matches!(unknown, AppendError::Unregistered(_)), "{unknown:?}");
    let misread = refused("product.Cancelled", &json!({ "produkt": 8 }));
    assert!(matches!(misread, AppendError::Fold { index: 0, .. }), "{misread:?}");
    // It says cancelled, and the row says active.
    let wrong = commit([Product::Cancelled { product: 7 }, Product::Stored { product: 7, active: true }]);
    bench.pass(2 * SECOND);
    let checks = bench.store.checks();
    let [found] = &checks.open().expect("rows are read")[..] else { panic!("one is wrong") };
    assert!((wrong.first..=wrong.last).contains(&found.activation), "{found:?} of {wrong:?}");
    assert_eq!(found.subject.as_deref(), Some("7"));
    assert_eq!(found.disagrees, "claimed_active has false, stored_active has true");
    let text = checks.explain(found).expect("it is known").to_string();
    assert!(text.contains("of product/7"), "{text}");
}

// ---- how long things take ----

/// Orders that are placed and, most of them, shipped after a time: the times, and the store.
fn converging(check: Check, seed: u64, orders: u32) -> (Bench, Vec<Duration>) {
    let (bench, mut random) = (bench([check]), Random::new(seed));
    let (mut due, mut waits) = (BTreeMap::<(Duration, u32), Order>::new(), Vec::new());
    let mut now = Duration::ZERO;
    let mut go_to = |time: Duration| {
        bench.clock.advance(time - now);
        now = time;
    };
    for order in 0..orders {
        let placed_at = SECOND * order;
        while let Some(entry) = due.first_entry().filter(|entry| entry.key().0 <= placed_at) {
            let ((time, _), event) = entry.remove_entry();
            go_to(time);
            bench.append(event);
        }
        go_to(placed_at);
        bench.append(placing(order));
        // A tail as things have it: a few take very long.
        let wait = match random.below(100) {
            0 => Duration::from_secs(3600 + random.below(7200)),
            1..10 => Duration::from_secs(60 + random.below(600)),
            _ => Duration::from_millis(100 + random.below(30_000)),
        };
        match random.below(50) {
            0 => {}
            1 => {
                due.insert((placed_at + wait, order), Order::Cancelled { order });
            }
            _ => {
                due.insert((placed_at + wait, order), Order::Shipped { order });
                waits.push(wait);
            }
        }
    }
    for ((time, _), event) in due {
        go_to(time.max(SECOND * (orders - 1)));
        bench.append(event);
    }
    waits.sort();
    (bench, waits)
}

/// The smallest of the sorted times that is no shorter than so many of a thousand: counted, not computed.
fn exact(sorted: &[Duration], permille: usize) -> Duration {
    let enough = |time: &&Duration| {
        let no_longer = sorted.iter().filter(|other| other <= time).count();
        1000 * no_longer >= permille * sorted.len()
    };
    *sorted.iter().find(enough).expect("the longest is enough")
}

fn same_as_sorted(quantiles: &Quantiles, sorted: &[Duration]) {
    let Quantiles { count, p50, p90, p99, p999, max, .. } = *quantiles;
    assert_eq!(count, sorted.len() as u64);
    let expected = [500, 900, 990, 999, 1000].map(|permille| exact(sorted, permille));
    assert_eq!([p50, p90, p99, p999, max], expected);
}

fn shipped_within(window: Duration) -> Check {
    about("shipped").response(placed, shipped).unless(cancelled).within(window).into()
}

#[test]
fn row_000_27_quantiles_are_exact_short_window_warns() {
    for seed in 0..6 {
        let window = 5 * MINUTE;
        let (bench, waits) = converging(shipped_within(window), seed, 700 + 300 * seed as u32);
        let report = bench.store.checks().convergence("shipped", ..).expect("the log is read");
        same_as_sorted(&report.waits.expect("some were answered"), &waits);
        let late = waits.iter().filter(|wait| **wait > window).count() as u64;
        assert_eq!((report.answered, report.late), (waits.len() as u64, late));
        assert_eq!(report.activations, report.answered + report.ended + report.unanswered);
        assert!(report.ended > 0 && report.unanswered > 0, "{report}");

        let (p999, recommended) = (exact(&waits, 999), report.recommended.expect("some were answered"));
        assert!(recommended >= p999 && recommended < 3 * p999, "{recommended:?} for {p999:?}");
        let warning = report.warning().expect("the window is too short");
        assert!(
            warning.contains("the window of 5m is below the p99.9")
                && warning.contains(&format!("{late} of"))
        );
        assert!(report.to_string().ends_with(&warning), "{report}");

        // With the window it recommends there is nothing to warn of; what was seen is the same.
        let (bench, _) = converging(shipped_within(recommended), seed, 700 + 300 * seed as u32);
        let again = bench.store.checks().convergence("shipped", ..).expect("the log is read");
        assert_eq!((again.warning(), again.waits), (None, report.waits));
    }
}

#[test]
fn only_window_below_p999_gives_warning() {
    let times = |window: Duration| {
        let bench = bench([shipped_within(window)]);
        for order in 1..=10 {
            bench.append(placing(order));
        }
        for order in 1..=10 {
            bench.clock.advance(MINUTE);
            bench.append(Order::Shipped { order });
        }
        bench.store.checks().convergence("shipped", ..).expect("the log is read")
    };
    let report = times(10 * MINUTE);
    assert_eq!((report.late, report.warning()), (0, None));
    assert_eq!(report.recommended, Some(10 * MINUTE));
    let report = times(10 * MINUTE - Duration::from_micros(1));
    assert_eq!((report.late, report.warning().is_some()), (1, true));
    assert_eq!(
        report.to_string(),
        "shipped: 10 activations\n  answered    10, 1 of them after the window\n  never       0\n  p50         5m\n  \
         p90         9m\n  p99         10m\n  p99.9       10m\n  max         10m\n  window      9m59s999ms999us\n  \
         recommended 10m\n  warning: the window of 9m59s999ms999us is below the p99.9 of 10m: 1 of 10 came after it; 10m would do"
    );
}

#[test]
fn convergence_report_counts_only_its_range() {
    let bench = bench([shipped_within(MINUTE)]);
    let first = bench.append(placing(1));
    bench.clock.advance(SECOND);
    let second = bench.append(placing(2));
    bench.clock.advance(SECOND);
    let answer = bench.append(Order::Shipped { order: 1 });
    bench.append(Order::Shipped { order: 2 });
    let checks = bench.store.checks();
    let of = |range| {
        let report = checks.convergence("shipped", range).expect("the log is read");
        (report.activations, report.answered, report.waits.map(|waits| waits.max))
    };
    assert_eq!(of(first..answer), (2, 0, None));
    assert_eq!(of(first..Position::new(answer.get() + 1)), (2, 1, Some(2 * SECOND)));
    assert_eq!(of(second..Position::new(u64::MAX)), (1, 1, Some(SECOND)));
}

/// Waits are timed by the event that answers them; a rule that waits for nothing has no such report.
#[test]
fn waiting_rules_are_timed_others_refused() {
    let about = |id| About { id, ..about(id) };
    let bench = bench([
        about("succession").succession(placed, shipped).within(SECOND).into(),
        about("alternate").alternate_response(placed, shipped).within(SECOND).into(),
        about("chain").chain_response(placed, shipped).within(SECOND).into(),
        about("either way").responded_existence(placed, shipped).within(SECOND).into(),
        about("closed by").each_closed_by(placed, shipped).within(SECOND).into(),
        about("standing").switched_off(placed, shipped, SECOND).into(),
        Check::from(about("twice").existence(2, placed).within(SECOND)),
        about("precedence").precedence(placed, shipped).into(),
        about("absence").absence(2, placed).into(),
    ]);
    for (index, is_placed) in [false, true, true, false, false].into_iter().enumerate() {
        bench.clock.advance(SECOND * (1 << index));
        bench.append(if is_placed { placing(1) } else { Order::Shipped { order: 1 } });
    }
    // Shipped at 1, placed at 3 and 7, shipped at 15 and 31.
    let checks = bench.store.checks();
    let of = |check| {
        let report = checks.convergence(check, ..).expect("the log is read");
        let seconds = report.waits.map(|waits| (waits.p50.as_secs(), waits.max.as_secs()));
        (report.activations, report.answered, seconds)
    };
    assert_eq!(of("succession"), (2, 2, Some((8, 12))));
    assert_eq!(of("alternate"), (2, 1, Some((8, 8))));
    assert_eq!(of("chain"), (2, 1, Some((8, 8))));
    // The one before it is nearer.
    assert_eq!(of("either way"), (2, 2, Some((2, 6))));
    // Each by its own.
    assert_eq!(of("closed by"), (2, 2, Some((12, 24))));
    assert_eq!(of("standing"), (1, 1, Some((12, 12))));
    // From the first event of the key.
    assert_eq!(of("twice"), (1, 1, Some((6, 6))));
    for (check, word) in [("precedence", "precedence"), ("absence", "absence")] {
        let refused = checks.convergence(check, ..).expect_err("it waits for nothing").to_string();
        assert!(refused.contains(&format!("`{word}` waits for nothing")), "{refused}");
    }
}

#[test]
fn group_settles_after_its_quiet_time() {
    let bench = bench([shipped_within(DAY)]);
    let mut expected = Vec::new();
    // Order n moves for n minutes, a minute between two events; then it rests, wakes, and rests again.
    for order in 1..=20 {
        for minute in 0..=order {
            if minute > 0 {
                bench.clock.advance(MINUTE);
            }
            bench.append(if minute % 2 == 0 { placing(order) } else { Order::Shipped { order } });
        }
        // It is nothing to the check, so it keeps nothing awake.
        bench.clock.advance(2 * MINUTE);
        bench.append(Order::Noted { order });
        expected.push(MINUTE * order);
        bench.clock.advance(2 * MINUTE);
        bench.append(Order::Cancelled { order });
        expected.push(Duration::ZERO);
    }
    let checks = bench.store.checks();
    let report = checks.settling("shipped", 3 * MINUTE, ..).expect("the log is read");
    // The last group may go on.
    expected.pop();
    expected.sort();
    same_as_sorted(&report.times.expect("some rest"), &expected);
    assert_eq!((report.settled, report.moving), (39, 1));

    // Exactly the quiet time between two events is no rest.
    let longer = checks.settling("shipped", 4 * MINUTE, ..).expect("the log is read");
    assert_eq!((longer.settled, longer.moving), (19, 1));
    assert_eq!(longer.times.expect("some rest").max, 23 * MINUTE);
}

// ---- the handbook ----

#[test]
fn handbook_shows_meaning_remedy_owner_status() {
    let late = shipped_within(DAY).escalates(4 * HOUR, Severity::Page);
    let quiet = Check::from(about("paid-first").precedence(placed, shipped));
    let bench = bench([late, quiet]);
    bench.append(placing(1));
    bench.append(placing(2));
    bench.pass(DAY + SECOND);
    bench.append(Order::Shipped { order: 2 });
    bench.settle();
    let until = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    bench.store.checks().mute("shipped", "ana", "the warehouse *moves*", until).expect("it is taken");
    let book = bench.store.checks().handbook().expect("rows are read");
    assert_eq!(
        book,
        "# Handbook of the checks\n\
         \n## shipped\n\nWe took the order and did not ship it.\n\n\
         - Severity: ticket: somebody looks at it on a working day\n\
         - Owner: warehouse\n\
         - Rule: response: after each A comes a B, within 1d; of order\n\
         - Escalates: to page when it is open for longer than 4h\n\
         - Judges: events since 2026-05-28T20:26:40Z, up to position 11\n\
         - Found: 2 of 2 violated, 1 of them healed late, 0 pending\n\
         - Violated: first 2026-05-29T20:26:40Z, last 2026-05-29T20:26:40Z; open now: 1\n\
         - Muted: until 2026-09-21T14:13:20Z by ana: the warehouse \\*moves\\*\n\
         \nWhat to do:\n\n1. look for the parcel\n2. ship it again\n\
         \n## paid-first\n\nWe took the order and did not ship it.\n\n\
         - Severity: ticket: somebody looks at it on a working day\n\
         - Owner: warehouse\n\
         - Rule: precedence: before each B came an A; of order\n\
         - Judges: events since 2026-05-28T20:26:40Z, up to position 11\n\
         - Found: 0 of 1 violated, 0 of them healed late, 0 pending\n\
         \nWhat to do:\n\n1. look for the parcel\n2. ship it again\n"
    );
}

#[test]
fn the_handbook_has_invariants_too() {
    struct Cents;
    impl Projection for Cents {
        const NAME: &'static str = "cents";
        type Event = Order;
        type Key = u32;
        type Row = i64;
        fn fold(event: &Order, rows: &mut Rows<'_, Self>) -> Folded {
            match event {
                Order::Placed { order, cents } => rows.put(*order, *cents),
                _ => Ok(()),
            }
        }
    }
    let never_free = about("never-free").invariant::<(Cents,)>(|_, (cents,)| cents == Some(&0));
    let store = Store::in_memory(Setup::new().inline::<Cents>().invariant(never_free)).expect("it opens");
    let book = store.checks().handbook().expect("rows are read");
    assert_eq!(
        book,
        "# Handbook of the checks\n\
         \n## never-free\n\nWe took the order and did not ship it.\n\n\
         - Severity: ticket: somebody looks at it on a working day\n\
         - Owner: warehouse\n\
         - Rule: invariant: no commit leaves rows of cents wrong: it is refused\n\
         \nWhat to do:\n\n1. look for the parcel\n2. ship it again\n"
    );
}

#[test]
fn handbook_escapes_markdown_in_texts() {
    let hostile = "# x\n\n## y\n- z\n1. w\n```\n<script> *a* _b_ [c](d) | e | & \\";
    let nasty = About {
        id: "#hash *and* `ticks`",
        severity: Severity::Page,
        owner: hostile,
        means: hostile,
        remedy: hostile,
    };
    let plain = About { remedy: "1 one; 2 two # not a heading", ..about("plain") };
    let checks = [Check::from(nasty.precedence(placed, shipped)), plain.precedence(placed, shipped).into()];
    let book = tallystone::check::handbook(&checks);
    let begins = |with: &str| book.lines().filter(|line| line.starts_with(with)).count();
    assert_eq!((begins("# "), begins("## "), begins("- "), begins("```")), (1, 2, 6, 0), "{book}");
    assert_eq!((begins("1. "), begins("2. ")), (1, 1), "{book}");
    // Without what is escaped, nothing is left that means anything.
    let mut characters = book.lines().filter(|line| !line.starts_with('#')).flat_map(str::chars);
    while let Some(character) = characters.next() {
        if character == '\\' {
            characters.next();
        }
        assert!(!"`*_[]<>|&".contains(character), "{character:?} in\n{book}");
    }
}

// ---- what puts it right ----

/// Shipped first, placed never: the machine steps place the order.
fn placed_first() -> Check {
    Check::from(about("placed-first").precedence(placed, shipped)).remedied(|case| {
        let Order::Shipped { order } = case.began()? else { return Err("that was not shipped".into()) };
        Ok(Append::event(Order::Placed { order, cents: 700 }))
    })
}

fn one_open(bench: &Bench) -> Violation {
    let mut open = bench.store.checks().open().expect("rows are read");
    assert_eq!(open.len(), 1);
    open.remove(0)
}

#[test]
fn row_000_23_remedy_is_previewed_and_run_once() {
    let bench = bench([placed_first()]);
    bench.append(Order::Shipped { order: 7 });
    bench.settle();
    let (checks, violation) = (bench.store.checks(), one_open(&bench));
    let before = bench.store.stats().position;
    let plan = checks.remediation(&violation).expect("it is known what to do");
    let text = plan.to_string();
    for part in ["2 ship it again", "would append 1 events", "order.Placed to order/7"] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert_eq!(bench.store.stats().position, before, "a dry run writes nothing");

    let receipt = plan.run("ana").expect("it is open");
    // One commit: the event, and that it was done.
    assert_eq!((receipt.first.get(), receipt.last.get()), (before.get() + 1, before.get() + 2));
    let State::Remediated { by, at } = &checks.all().expect("rows are read")[0].state else {
        panic!("it is not")
    };
    assert_eq!((by.as_str(), *at), ("ana", receipt.last));
    for by in ["ana", "bo"] {
        assert_eq!(plan.run(by).expect("it was done"), receipt);
        let again = checks.remediation(&violation).expect("it is known what to do");
        assert_eq!(again.run(by).expect("it was done"), receipt);
    }
    assert_eq!(bench.store.stats().position, receipt.last);
    bench.pass(DAY);
    assert_eq!(checks.open().expect("rows are read"), []);
}

#[test]
fn concurrent_or_restarted_remedy_commits_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || {
        let setup = Setup::new().check(placed_first()).alerts(|_| ());
        Store::open_or_create(dir.path().join("store"), setup).expect("it opens")
    };
    let store = open();
    let shipped = store.append(Append::event(Order::Shipped { order: 7 })).expect("it is taken").receipt.last;
    assert!(store.checks().wait_for(shipped, Duration::from_secs(60)));
    let violation = store.checks().open().expect("rows are read").remove(0);
    let receipts: Vec<_> = std::thread::scope(|scope| {
        let run = |by: String| {
            let (store, violation) = (&store, &violation);
            scope.spawn(move || {
                let checks = store.checks();
                let plan = checks.remediation(violation).expect("it is known what to do");
                plan.run(&by).expect("it is done")
            })
        };
        let threads: Vec<_> = (0..8).map(|number| run(format!("worker {number}"))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(receipts.iter().all(|receipt| *receipt == receipts[0]), "{receipts:?}");
    store.close();
    let store = open();
    let plan = store.checks().remediation(&violation).expect("it is known what to do");
    assert_eq!(plan.run("after the restart").expect("it was done").commit, receipts[0].commit);
    let placed =
        store.view().expect("it is open").query::<Order>(QueryItem::family::<Order>().only(["Placed"]));
    assert_eq!(placed.count(), 1);
}

#[test]
fn healed_or_remediated_violation_is_not_remedied_again() {
    let bench = bench([shipped_within(DAY).remedied(|case| {
        let Order::Placed { order, .. } = case.began()? else { return Err("that was not placed".into()) };
        Ok(Append::event(Order::Shipped { order }))
    })]);
    bench.append(placing(1));
    bench.append(placing(2));
    bench.pass(DAY + SECOND);
    let (checks, open) = (bench.store.checks(), bench.store.checks().open().expect("rows are read"));
    let plans: Vec<_> =
        open.iter().map(|violation| checks.remediation(violation).expect("it is known")).collect();
    bench.append(Order::Shipped { order: 1 });
    bench.settle();
    let before = bench.store.stats().position;
    let refused = plans[0].run("ana").expect_err("it was healed");
    assert!(matches!(&refused, RemedyError::NotOpen { state: State::Healed { .. }, .. }), "{refused}");
    assert!(matches!(checks.remediated(&open[0], "ana", "sent it"), Err(RemedyError::NotOpen { .. })));
    assert_eq!(bench.store.stats().position, before, "nothing is written");

    assert!(matches!(checks.remediated(&open[1], "ana", " "), Err(RemedyError::Invalid { .. })));
    assert!(matches!(checks.remediated(&open[1], "", "sent it"), Err(RemedyError::Invalid { .. })));
    let receipt = checks.remediated(&open[1], "ana", "sent it").expect("it is open");
    assert_eq!(checks.remediated(&open[1], "bo", "sent it, too").expect("it was done"), receipt);
    let refused = plans[1].run("bo").expect_err("a person did it");
    assert!(
        matches!(&refused, RemedyError::NotOpen { state: State::Remediated { by, .. }, .. } if by == "ana")
    );
    // What heals it afterwards does not take away that it was remediated.
    bench.append(Order::Shipped { order: 2 });
    bench.settle();
    let all = checks.all().expect("rows are read");
    assert!(matches!(&all[1].state, State::Remediated { by, .. } if by == "ana"), "{all:?}");

    let mut unknown = open[1].clone();
    unknown.definition = [0; 8];
    assert!(matches!(checks.remediated(&unknown, "ana", "x"), Err(RemedyError::Unknown(_))));
}

#[test]
fn invalid_remedy_steps_fail_without_writing() {
    let named = |id: &'static str| Check::from(about(id).precedence(placed, shipped));
    let bench = bench([
        named("by hand"),
        named("fails").remedied(|_| Err("the parcel is lost".into())),
        named("panics").remedied(|_| panic!("a bug in the steps")),
        named("keyed").remedied(|case| Ok(Append::event(case.began::<Order>()?).key("mine", "1"))),
        named("refused").remedied(|_| Ok(Append::event(placing(1)).expect::<Order>(&7, Expected::NoStream))),
    ]);
    bench.append(Order::Shipped { order: 7 });
    bench.settle();
    let (checks, before) = (bench.store.checks(), bench.store.stats().position);
    let plan = |check: &str| {
        let violation = checks.of(check).expect("rows are read").remove(0);
        checks.remediation(&violation)
    };
    let by_hand = plan("by hand").expect("it is a plan for a person");
    assert!(by_hand.events().is_empty() && by_hand.to_string().ends_with("no machine steps"));
    assert!(matches!(by_hand.run("ana"), Err(RemedyError::NoSteps { check }) if check == "by hand"));
    for (check, says) in [("fails", "the parcel is lost"), ("panics", "a bug in the steps")] {
        let refused = plan(check).expect_err("they fail");
        assert!(matches!(&refused, RemedyError::Failed { why, .. } if why.contains(says)), "{refused}");
    }
    assert!(matches!(plan("keyed"), Err(RemedyError::Invalid { .. })));
    let refused = plan("refused").expect("it is a plan").run("ana").expect_err("the stream is there");
    assert!(matches!(refused, RemedyError::Append(AppendError::WrongVersion { .. })), "{refused}");
    assert_eq!(bench.store.stats().position, before);
}

// ---- who is told when nobody sees to it ----

/// Check, severity, count, why it was escalated.
type Heard = Arc<Mutex<Vec<(String, Severity, u64, Option<String>)>>>;

fn hearing(setup: Setup, heard: &Heard) -> Setup {
    let heard = heard.clone();
    setup.alerts(move |alert| {
        if alert.kind == NotificationKind::Resolved {
            return;
        }
        let told = (alert.check.clone(), alert.severity, alert.count, alert.why.clone());
        heard.lock().expect("no test panics in it").push(told);
    })
}

fn take(heard: &Heard) -> Vec<(Severity, u64, Option<String>)> {
    let all = std::mem::take(&mut *heard.lock().expect("no test panics in it"));
    all.into_iter().map(|(_, severity, count, why)| (severity, count, why)).collect()
}

fn why(text: &str) -> Option<String> {
    Some(format!("open for longer than {text}"))
}

/// A bench that is opened again and again on one directory.
struct Restarts {
    dir: tempfile::TempDir,
    clock: SimClock,
    heard: Heard,
    check: Check,
}

impl Restarts {
    fn new(check: Check) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir, clock: SimClock::default(), heard: Heard::default(), check }
    }

    fn open(&self) -> Bench {
        let setup = hearing(setup(&self.clock, [self.check.clone()]), &self.heard);
        let store = Store::open_or_create(self.dir.path().join("store"), setup).expect("it opens");
        Bench { clock: self.clock.clone(), store }
    }
}

#[test]
fn unattended_violation_escalates_once_per_age_across_restarts() {
    let note = About { severity: Severity::Note, ..about("placed-first") };
    let check = note
        .precedence(placed, shipped)
        .escalates(4 * HOUR, Severity::Page)
        .escalates(HOUR, Severity::Ticket);
    let restarts = Restarts::new(check.into());
    let bench = restarts.open();
    bench.append(Order::Shipped { order: 1 });
    bench.append(Order::Shipped { order: 2 });
    bench.pass(Duration::ZERO);
    assert_eq!(take(&restarts.heard), [(Severity::Note, 2, None)]);
    bench.pass(HOUR);
    assert_eq!(take(&restarts.heard), [], "as old as that is not older");
    bench.store.close();

    let bench = restarts.open();
    bench.pass(SECOND);
    assert_eq!(take(&restarts.heard), [(Severity::Ticket, 2, why("1h"))]);
    bench.pass(2 * HOUR);
    bench.store.close();
    let bench = restarts.open();
    bench.pass(MINUTE);
    assert_eq!(take(&restarts.heard), [], "it was told");
    // A younger one has its own age.
    bench.append(Order::Shipped { order: 3 });
    bench.pass(MINUTE);
    assert_eq!(take(&restarts.heard), [(Severity::Note, 1, None)]);
    bench.clock.advance(HOUR);
    bench.store.close();
    let bench = restarts.open();
    for _ in 0..4 {
        bench.pass(SECOND);
    }
    let mut both = take(&restarts.heard);
    both.sort();
    assert_eq!(both, [(Severity::Ticket, 1, why("1h")), (Severity::Page, 2, why("4h"))]);
    let position = bench.store.stats().position;
    bench.pass(HOUR);
    assert_eq!((take(&restarts.heard), bench.store.stats().position), (vec![], position));
}

#[test]
fn expired_waiver_or_failed_remedy_alerts_again() {
    let restarts = Restarts::new(shipped_within(HOUR).escalates(HOUR, Severity::Page));
    let bench = restarts.open();
    for order in 1..=5 {
        bench.append(placing(order));
    }
    bench.pass(HOUR + SECOND);
    assert_eq!(take(&restarts.heard), [(Severity::Ticket, 5, None)]);
    let (checks, open) = (bench.store.checks(), bench.store.checks().open().expect("rows are read"));
    checks.acknowledge(&open[0], "ana").expect("it is taken");
    let until = restarts.clock_now() + 3 * HOUR;
    checks.waive(&open[1], "ana", "on holiday", until).expect("it is taken");
    checks.remediated(&open[2], "ana", "sent it").expect("it is open");
    bench.append(Order::Shipped { order: 4 });
    bench.pass(HOUR + SECOND);
    let unhelped = Some("the remediation did not help".to_owned());
    let both = [(Severity::Page, 2, why("1h")), (Severity::Page, 1, unhelped)];
    assert_eq!(take(&restarts.heard), both, "the first and the fifth; and the third, whose window is over");
    // A waiver has an end.
    bench.pass(2 * HOUR);
    let over = Some("a waiver or a remediation is over".to_owned());
    assert_eq!(take(&restarts.heard), [(Severity::Ticket, 1, over)]);
    bench.pass(HOUR + SECOND);
    assert_eq!(take(&restarts.heard), [(Severity::Page, 1, why("1h"))]);
}

impl Restarts {
    fn clock_now(&self) -> SystemTime {
        use tallystone::disk::Clock;
        self.clock.now().into()
    }
}

#[test]
fn storm_escalates_once_and_not_while_muted() {
    let check =
        Check::from(about("placed-first").precedence(placed, shipped)).escalates(HOUR, Severity::Page);
    let restarts = Restarts::new(check);
    let bench = restarts.open();
    for order in 0..2500 {
        bench.append(Order::Shipped { order });
    }
    bench.pass(Duration::ZERO);
    bench.pass(MINUTE);
    assert_eq!(take(&restarts.heard).iter().map(|(_, count, _)| count).sum::<u64>(), 2500);
    let until = restarts.clock_now() + 2 * HOUR;
    bench.store.checks().mute("placed-first", "ana", "the warehouse moves", until).expect("it is taken");
    bench.pass(HOUR + MINUTE);
    assert_eq!(take(&restarts.heard), []);
    bench.pass(HOUR);
    assert_eq!(take(&restarts.heard), [(Severity::Page, 2500, why("1h"))]);
    bench.pass(HOUR);
    assert_eq!(take(&restarts.heard), []);
}

#[test]
fn large_amount_raises_severity_immediately() {
    let amount = |event: &Order| match event {
        Order::Placed { cents, .. } => *cents,
        _ => 0,
    };
    let typed = about("shipped").response(placed, shipped).within(HOUR).escalates_above(
        amount,
        10_000,
        Severity::Page,
    );
    let data = r#"
        [check.shipped]
        kind = "response"
        when = "order.Placed"
        then = "order.Shipped"
        within = "1h"
        severity = "ticket"
        escalate = [{ above = 10000, amount = "cents", severity = "page" }, { after = "4h", severity = "page" }]
        owner = "warehouse"
        means = "We took the order and did not ship it."
        remedy = "1 look"
    "#;
    let data = rules::parse(data, "shipped.toml").expect("it is right").remove(0);
    for check in [Check::from(typed), data] {
        let restarts = Restarts::new(check);
        let bench = restarts.open();
        bench.append(Order::Placed { order: 1, cents: 10_000 });
        bench.pass(HOUR + SECOND);
        assert_eq!(take(&restarts.heard), [(Severity::Ticket, 1, None)]);
        bench.append(Order::Placed { order: 2, cents: 5 });
        bench.append(Order::Placed { order: 3, cents: 10_001 });
        bench.append(Order::Placed { order: 4, cents: 5 });
        bench.pass(HOUR + SECOND);
        assert_eq!(take(&restarts.heard), [(Severity::Page, 3, Some("10001 is above 10000".into()))]);
        // What was worth much then is over with that alert.
        bench.append(Order::Placed { order: 5, cents: 5 });
        bench.pass(HOUR + SECOND);
        assert_eq!(take(&restarts.heard), [(Severity::Ticket, 1, None)]);
    }
}

#[test]
fn panicking_amount_raises_severity() {
    let panics = about("placed-first").precedence(placed, shipped).escalates_above(
        |_| panic!("a bug in an amount"),
        10,
        Severity::Page,
    );
    let restarts = Restarts::new(panics.into());
    let bench = restarts.open();
    bench.append(Order::Shipped { order: 1 });
    bench.pass(Duration::ZERO);
    let told = take(&restarts.heard);
    assert!(
        matches!(&told[..], [(Severity::Page, 1, Some(why))] if why.contains("a bug in an amount")),
        "{told:?}"
    );
}

#[test]
fn incomplete_or_downward_escalation_is_refused() {
    let down = shipped_within(HOUR).escalates(HOUR, Severity::Ticket);
    let refused = Store::in_memory(Setup::new().check(down));
    let Err(OpenError::Setup(why)) = refused else { panic!("it must not open") };
    assert_eq!(why, ["check `shipped`: `escalate`: `ticket` is no higher than its severity, `ticket`"]);
    for (escalate, says) in [
        ("{ severity = \"page\" }", "say `after`, or `above` and `amount`"),
        ("{ above = 1, severity = \"page\" }", "say `after`, or `above` and `amount`"),
        ("{ after = \"soon\", severity = \"page\" }", "`soon` is no time"),
        ("{ after = \"1h\", severity = \"note\" }", "`note` is no higher"),
        ("{ after = \"1h\", severty = \"page\" }", "unknown field `severty`"),
    ] {
        let text = format!(
            "[check.a]\nkind = \"init\"\nwhen = \"order.Placed\"\nseverity = \"ticket\"\nowner = \"o\"\nmeans = \"m\"\n\
             remedy = \"r\"\nescalate = [{escalate}]"
        );
        let refused = rules::parse(&text, "a.toml").expect_err(escalate);
        assert!(refused.to_string().contains(says), "{refused}");
    }
}

// ---- where alerts go ----

/// Takes so many bytes of a line, and then fails as often as it is told to.
#[derive(Clone, Default)]
struct Flaky {
    written: Arc<Mutex<Vec<u8>>>,
    fails: Arc<Mutex<u32>>,
}

impl std::io::Write for Flaky {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut fails = self.fails.lock().expect("no test panics in it");
        let mut written = self.written.lock().expect("no test panics in it");
        if *fails > 0 {
            *fails -= 1;
            written.extend(&bytes[..5]);
            return Err(std::io::Error::other("the disk is full"));
        }
        written.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn failed_alert_write_is_retried_and_reported() {
    let out = Flaky::default();
    *out.fails.lock().expect("no test panics in it") = 2;
    let clock = SimClock::default();
    let check = Check::from(about("placed-first").precedence(placed, shipped)).escalates(DAY, Severity::Page);
    let setup = setup(&clock, [check]).alerts(watch::json_lines(out.clone()));
    let bench = Bench::of(clock, setup);
    bench.append(Order::Shipped { order: 1 });
    bench.pass(Duration::ZERO);
    let undelivered = || bench.store.checks().routes()[0].undelivered.clone();
    assert_eq!(undelivered().as_deref(), Some("the disk is full"));
    bench.pass(2 * MINUTE);
    bench.append(Order::Shipped { order: 2 });
    bench.pass(2 * MINUTE);
    assert_eq!(undelivered(), None);
    *out.fails.lock().expect("no test panics in it") = 1;
    bench.pass(DAY);
    assert_eq!(undelivered().as_deref(), Some("the disk is full"));
    bench.pass(2 * MINUTE);
    assert_eq!(undelivered(), None);

    let written = String::from_utf8(out.written.lock().expect("no test panics in it").clone()).expect("text");
    let lines: Vec<serde_json::Value> =
        written.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let counts: Vec<_> = lines.iter().map(|line| (&line["count"], &line["severity"])).collect();
    let told = |severity| (json!(1), json!(severity));
    let must = ["ticket", "ticket", "page", "page"].map(told);
    assert!(counts.iter().copied().eq(must.iter().map(|(count, severity)| (count, severity))), "{written}");
    assert_eq!(lines[2]["why"], json!("open for longer than 1d"));
}

/// Collects what `tracing` is told: level, target, fields.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(tracing::Level, String, BTreeMap<String, String>)>>>);

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl tracing::Subscriber for Collector {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        let (level, target) = (*event.metadata().level(), event.metadata().target().to_owned());
        self.0.lock().expect("no test panics in it").push((level, target, fields));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn traced_alerts_carry_level_and_fields() {
    let collector = Collector::default();
    tracing::subscriber::with_default(collector.clone(), || {
        for severity in [Severity::Note, Severity::Ticket, Severity::Page] {
            let clock = SimClock::default();
            let check = Check::from(About { severity, ..about("placed-first") }.precedence(placed, shipped));
            let setup = setup(&clock, [check]).alerts(watch::traced());
            let bench = Bench::of(clock, setup);
            bench.append(Order::Shipped { order: 1 });
            bench.pass(Duration::ZERO);
        }
    });
    let told = collector.0.lock().expect("no test panics in it").clone();
    let levels: Vec<_> = told.iter().map(|(level, ..)| *level).collect();
    assert_eq!(levels, [tracing::Level::INFO, tracing::Level::WARN, tracing::Level::ERROR]);
    let (_, target, fields) = &told[2];
    assert_eq!(target, "tallystone::alert");
    let field = |name: &str| fields.get(name).map(String::as_str);
    assert_eq!(field("check"), Some("\"placed-first\""));
    assert_eq!((field("count"), field("first"), field("kind")), (Some("1"), Some("1"), Some("opened")));
    assert_eq!(field("message"), Some("We took the order and did not ship it."));
}
