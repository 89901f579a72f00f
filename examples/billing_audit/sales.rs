//! What a shop for add-ons records, what follows from it, and what must stay true of it.

use crate::remote::Invoice;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tallystone::check::{About, Check, Outside, Severity};
use tallystone::prelude::*;

/// The purchase of an add-on: each of its steps is an event.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Sale {
    Asked { product: u64, account: u32 },
    Authenticated { product: u64 },
    Available { product: u64 },
    Sold { product: u64, cents: i64 },
    Answered { product: u64 },
    Cancelled { product: u64 },
}

impl Event for Sale {
    const FAMILY: &str = "sale";
    type Id = u64;

    fn id(&self) -> u64 {
        match self {
            Self::Asked { product, .. }
            | Self::Authenticated { product }
            | Self::Available { product }
            | Self::Sold { product, .. }
            | Self::Answered { product }
            | Self::Cancelled { product } => *product,
        }
    }
}

/// What the background job says that it has done in the billing system.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Billing {
    Started {
        product: u64,
        cents: i64,
    },
    Ended {
        product: u64,
    },
    /// A month was charged; `total` is what the customer is told that it has come to.
    Charged {
        product: u64,
        cents: i64,
        total: i64,
    },
}

impl Event for Billing {
    const FAMILY: &str = "billing";
    type Id = u64;

    fn id(&self) -> u64 {
        match self {
            Self::Started { product, .. } | Self::Ended { product } | Self::Charged { product, .. } => {
                *product
            }
        }
    }
}

tallystone::any_of! { pub enum Shop { Sale(Sale), Billing(Billing) } }

impl Shop {
    fn product(&self) -> u64 {
        match self {
            Self::Sale(sale) => sale.id(),
            Self::Billing(billing) => billing.id(),
        }
    }
}

/// The steps of a purchase, in their order.
const STEPS: [&str; 5] = ["Asked", "Authenticated", "Available", "Sold", "Answered"];

/// How far a purchase has come.
pub struct Flows;

/// The step that comes next; none: it is through.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Flow {
    pub missing: Option<String>,
}

impl Projection for Flows {
    const NAME: &str = "flows";
    type Event = Sale;
    type Key = u64;
    type Row = Flow;

    fn fold(sale: &Sale, rows: &mut Rows<Self>) -> Folded {
        let done = match sale {
            Sale::Asked { .. } => 1,
            Sale::Authenticated { .. } => 2,
            Sale::Available { .. } => 3,
            Sale::Sold { .. } => 4,
            Sale::Answered { .. } => 5,
            Sale::Cancelled { .. } => return Ok(()),
        };
        rows.put(sale.id(), Flow { missing: STEPS.get(done).map(ToString::to_string) })
    }
}

/// What was sold.
pub struct Products;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Product {
    pub active: bool,
    pub cents: i64,
}

impl Projection for Products {
    const NAME: &str = "products";
    type Event = Sale;
    type Key = u64;
    type Row = Product;

    fn fold(sale: &Sale, rows: &mut Rows<Self>) -> Folded {
        match sale {
            Sale::Sold { product, cents } => rows.put(*product, Product { active: true, cents: *cents }),
            Sale::Cancelled { product } => rows.modify(product, |row| row.active = false),
            _ => Ok(()),
        }
    }
}

/// What is billed each month, by our events.
pub struct Bills;

impl Projection for Bills {
    const NAME: &str = "bills";
    type Event = Billing;
    type Key = u64;
    type Row = i64;

    fn fold(billing: &Billing, rows: &mut Rows<Self>) -> Folded {
        match billing {
            Billing::Started { product, cents } => rows.put(*product, *cents),
            Billing::Ended { product } => rows.remove(product),
            Billing::Charged { .. } => Ok(()),
        }
    }
}

/// What may not be for longer than this.
pub const QUARTER: Duration = Duration::from_secs(15 * 60);

fn page(id: &'static str, means: &'static str, remedy: &'static str) -> About {
    About { id, severity: Severity::Page, owner: "payments", means, remedy }
}

fn is_sold(event: &Shop) -> bool {
    matches!(event, Shop::Sale(Sale::Sold { .. }))
}

fn is_started(event: &Shop) -> bool {
    matches!(event, Shop::Billing(Billing::Started { .. }))
}

fn is_ended(event: &Shop) -> bool {
    matches!(event, Shop::Billing(Billing::Ended { .. }))
}

/// The name under which the background job reports what it has applied.
pub const JOB: &str = "billing-job";

/// What must stay true. `billing` is the billing system, read from outside.
pub fn checks(billing: impl Outside<Key = u64, Row = Invoice>) -> Vec<Check> {
    let flow = page(
        "flow-complete",
        "A purchase stopped half way.",
        "1 look which step is missing; 2 take it, or tell the customer",
    )
    .standing::<(Flows,)>(|_, (flow,)| flow.is_some_and(|flow| flow.missing.is_some()))
    .for_longer_than(QUARTER);

    let billed = page(
        "sold-is-billed",
        "We sold it and nobody bills it.",
        "1 run the job for it; 2 find why it did not",
    )
    .response(is_sold, is_started)
    .by(Shop::product)
    .unless(|event| matches!(event, Shop::Sale(Sale::Cancelled { .. })))
    .within(QUARTER);

    let still = page(
        "cancelled-still-billed",
        "The customer cancelled, and we still bill.",
        "1 end the billing; 2 refund what was billed since",
    )
    .standing::<(Products, Bills)>(|_, (product, bill)| {
        product.is_some_and(|sold| !sold.active) && bill.is_some()
    })
    .for_longer_than(QUARTER);

    let price = page(
        "price-agrees",
        "We bill another price than we sold at.",
        "1 correct the bill; 2 refund the difference",
    )
    .standing::<(Products, Bills)>(|_, (product, bill)| {
        product.zip(bill).is_some_and(|(product, cents)| product.active && product.cents != *cents)
    })
    .for_longer_than(Duration::from_secs(60));

    let once =
        page("billed-once", "We bill one product twice.", "1 end the later billing; 2 refund what it took")
            .absence(2, is_started)
            .by(Shop::product)
            .closed_by(is_ended);

    let first = page(
        "sold-before-billed",
        "We bill what was never sold.",
        "1 end the billing; 2 refund; 3 find who started it",
    )
    .precedence(is_sold, is_started)
    .by(Shop::product);

    let total = page(
        "charges-add-up",
        "The total we told is not what was charged.",
        "1 add the charges up; 2 tell the right one",
    )
    .equals(
        |event: &Billing| match event {
            Billing::Charged { cents, .. } => Some(*cents),
            _ => None,
        },
        |event| match event {
            Billing::Charged { total, .. } => Some(*total),
            _ => None,
        },
    );

    let outside = page(
        "invoices-agree",
        "The billing system bills something else than our events say.",
        "1 see which side is right by the sale; 2 correct the other",
    )
    .outside::<Bills, _>(billing, |ours, theirs| ours.copied() == theirs.map(|invoice| invoice.cents))
    .every(Duration::from_secs(5 * 60))
    .stale_after(Duration::from_secs(20 * 60))
    .for_longer_than(QUARTER);

    let applied = page(
        "job-applies-all",
        "The billing job has skipped a sale.",
        "1 compare its position; 2 run it again from there",
    )
    .applied_by::<Sale>(JOB);

    vec![flow, billed.into(), still, price, once.into(), first.into(), total.into(), outside, applied]
}

/// All of a shop.
pub fn setup(billing: impl Outside<Key = u64, Row = Invoice>) -> Setup {
    let setup = Setup::new().inline::<Flows>().inline::<Products>().inline::<Bills>();
    checks(billing).into_iter().fold(setup, Setup::check)
}
