//! Sold, cancelled more than 15 minutes ago, and still billed: the query of the audit, as a check over joined rows, against a
//! naive model of it.

use crate::support::example::example;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tallystone::check::{About, Check, Severity};
use tallystone::disk::{Clock, Platform};
use tallystone::prelude::{Event, Position, Projection, Rows, Setup, Store};
use tallystone::projection::Folded;
use tallystone::request::Append;
use tallystone::testing::SimClock;
use tallystone::watch::State;

const QUARTER: Duration = Duration::from_secs(15 * 60);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Product {
    Sold { product: u32 },
    Deleted { product: u32 },
}

impl Event for Product {
    const FAMILY: &'static str = "product";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Sold { product } | Self::Deleted { product }) = self;
        *product
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Billing {
    Started { product: u32 },
    Ended { product: u32 },
}

impl Event for Billing {
    const FAMILY: &'static str = "billing";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Started { product } | Self::Ended { product }) = self;
        *product
    }
}

/// Product -> is it deleted?
struct Products;

impl Projection for Products {
    const NAME: &'static str = "products";
    type Event = Product;
    type Key = u32;
    type Row = bool;

    fn fold(event: &Product, rows: &mut Rows<Self>) -> Folded {
        rows.put(event.id(), matches!(event, Product::Deleted { .. }))
    }
}

/// Product -> it is billed.
struct Bills;

impl Projection for Bills {
    const NAME: &'static str = "bills";
    type Event = Billing;
    type Key = u32;
    type Row = ();

    fn fold(event: &Billing, rows: &mut Rows<Self>) -> Folded {
        match event {
            Billing::Started { product } => rows.put(*product, ()),
            Billing::Ended { product } => rows.remove(product),
        }
    }
}

fn cancelled_but_billing() -> Check {
    About {
        id: "cancelled-but-billing",
        severity: Severity::Page,
        owner: "payments",
        means: "The customer cancelled, and we still bill.",
        remedy: "1 end the billing; 2 refund what was billed since",
    }
    .standing::<(Products, Bills)>(|_, (deleted, bill)| deleted == Some(&true) && bill.is_some())
    .for_longer_than(QUARTER)
}

struct Bench {
    clock: SimClock,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let clock = SimClock::default();
        let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
        let setup = Setup::new().inline::<Products>().inline::<Bills>().platform(platform).lockstep();
        let setup = setup.check(cancelled_but_billing()).alerts(|_| {});
        Self { store: Store::in_memory(setup).expect("it opens"), clock }
    }

    fn append(&self, event: impl Event) -> Position {
        self.store.append(Append::event(event)).expect("it is taken").receipt.last
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        for _ in 0..6 {
            self.store.step();
        }
    }

    /// The products that are reported now.
    fn reported(&self) -> BTreeSet<String> {
        let open = self.store.checks().open().expect("rows are read");
        open.into_iter().filter_map(|violation| violation.subject).collect()
    }
}

#[test]
fn row_000_18_billing_after_cancellation_is_reported_then_healed() {
    let bench = Bench::new();
    bench.append(Product::Sold { product: 7 });
    bench.append(Billing::Started { product: 7 });
    bench.append(Product::Deleted { product: 7 });
    bench.pass(QUARTER - SECOND);
    assert!(bench.reported().is_empty());
    // Strictly longer.
    bench.pass(SECOND);
    assert!(bench.reported().is_empty());
    bench.pass(SECOND);
    assert_eq!(bench.reported(), ["7".to_owned()].into());
    let ended = bench.append(Billing::Ended { product: 7 });
    bench.pass(SECOND);
    assert!(bench.reported().is_empty());
    let all = bench.store.checks().all().expect("rows are read");
    assert!(
        matches!(&all[..], [one] if matches!(one.state, State::Healed { by, .. } if by == ended)),
        "{all:?}"
    );
}

/// What the tables of the query hold.
#[derive(Debug, Clone, Copy, Default)]
struct Tables {
    deleted_at: Option<SystemTime>,
    billed_since: Option<SystemTime>,
}

impl Tables {
    /// `deleted_at < now - 15 minutes AND billing record is live`.
    fn query(&self, now: SystemTime) -> bool {
        self.deleted_at.is_some_and(|deleted| deleted + QUARTER < now) && self.billed_since.is_some()
    }

    /// The same where it was true all the time: the query does not ask since when it is billed.
    fn stands(&self, now: SystemTime) -> bool {
        self.query(now) && self.billed_since.is_some_and(|since| since + QUARTER < now)
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Sold,
    Deleted,
    Started,
    Ended,
    Nothing,
}

fn history() -> impl Strategy<Value = Vec<(u32, Step, u64)>> {
    let step = prop_oneof![
        Just(Step::Sold),
        Just(Step::Deleted),
        Just(Step::Started),
        Just(Step::Ended),
        Just(Step::Nothing)
    ];
    let gap = prop_oneof![Just(0), Just(1), Just(899), Just(900), Just(901), 2..2000_u64];
    prop::collection::vec((0..3_u32, step, gap), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn row_000_18_reported_products_match_the_query(history in history()) {
        let (bench, mut tables) = (Bench::new(), BTreeMap::<u32, Tables>::new());
        for (product, step, gap) in history {
            let now: SystemTime = bench.clock.now().into();
            let table = tables.entry(product).or_default();
            match step {
                Step::Sold => {
                    bench.append(Product::Sold { product });
                    table.deleted_at = None;
                }
                Step::Deleted => {
                    bench.append(Product::Deleted { product });
                    table.deleted_at.get_or_insert(now);
                }
                Step::Started => {
                    bench.append(Billing::Started { product });
                    table.billed_since.get_or_insert(now);
                }
                Step::Ended => {
                    bench.append(Billing::Ended { product });
                    table.billed_since = None;
                }
                Step::Nothing => {}
            }
            bench.pass(Duration::from_secs(gap));
            let now: SystemTime = bench.clock.now().into();
            let reported = bench.reported();
            for (product, table) in &tables {
                let is_reported = reported.contains(&product.to_string());
                prop_assert_eq!(is_reported, table.stands(now), "{} {:?}", product, table);
                // Billed before it was deleted, as in the audit: then the query says no more than the check.
                if table.billed_since <= table.deleted_at || table.billed_since.is_none() {
                    prop_assert_eq!(is_reported, table.query(now), "{} {:?}", product, table);
                }
            }
            prop_assert!(reported.len() <= tables.len());
        }
    }
}

#[test]
fn row_000_03_example_shows_cause_prevention_and_detection() {
    let run = std::process::Command::new(example("three_parts")).output().expect("it is built");
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{run:?}");
    let line = |part: &str| {
        let line = text.lines().find(|line| line.starts_with(part));
        line.unwrap_or_else(|| panic!("no {part} in {text}")).to_owned()
    };
    assert!(!line("cause: ").contains(" at 0 of them"), "{text}");
    assert!(line("prevention: ").ends_with("at 0 of them"), "{text}");
    assert!(
        line("detection: ").contains("0 violations while the bill may still come, 1 after that"),
        "{text}"
    );
    assert!(line("sold-is-billed (Page, billing) on product/7").contains("nobody pays"), "{text}");
}
