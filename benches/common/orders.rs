//! Orders on their way, ten rules of what may follow what, and one of what must not stand: what the checks are measured with.
//!
//! - An order's events follow from its number; ten thousand orders are under way at once, and take their steps in turn.
//! - No rule is broken.

use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::time::Duration;
use tallystone::check::{About, Check, Severity};
use tallystone::prelude::*;

/// Orders under way at once.
const UNDER_WAY: u64 = 10_000;
/// Events of an order.
pub const STEPS: u64 = 8;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Order {
    Placed { order: u32, cents: i64, note: String },
    Paid { order: u32, cents: i64 },
    Packed { order: u32 },
    Shipped { order: u32, parcel: u64 },
    Delivered { order: u32 },
    Billed { order: u32, cents: i64 },
    Settled { order: u32 },
    Closed { order: u32 },
    Cancelled { order: u32 },
}

use Order::{Billed, Cancelled, Closed, Delivered, Packed, Paid, Placed, Settled, Shipped};

impl Event for Order {
    const FAMILY: &'static str = "order";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Placed { order, .. }
        | Paid { order, .. }
        | Packed { order }
        | Shipped { order, .. }
        | Delivered { order }
        | Billed { order, .. }
        | Settled { order }
        | Closed { order }
        | Cancelled { order }) = self;
        *order
    }
}

/// The event of a number.
pub fn event(number: u64) -> Order {
    let order = (number / (UNDER_WAY * STEPS) * UNDER_WAY + number % UNDER_WAY) as u32;
    let cents = i64::from(order % 997) + 1;
    match number / UNDER_WAY % STEPS {
        0 => Placed { order, cents, note: "to be left with the neighbours, who know of it".to_owned() },
        1 => Paid { order, cents },
        2 => Packed { order },
        3 => Shipped { order, parcel: number },
        4 => Delivered { order },
        5 => Billed { order, cents },
        6 => Settled { order },
        _ => Closed { order },
    }
}

pub fn append(numbers: Range<u64>) -> Append {
    super::workload::keyed(numbers.start, Append::events(numbers.map(event)))
}

/// Orders that are paid and not shipped.
pub struct ToShip;

impl Projection for ToShip {
    const NAME: &'static str = "to_ship";
    type Event = Order;
    type Key = u32;
    type Row = i64;

    fn fold(event: &Order, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Paid { order, cents } => rows.put(*order, *cents),
            Shipped { order, .. } => rows.remove(order),
            _ => Ok(()),
        }
    }
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

const DAY: Duration = Duration::from_secs(24 * 3600);

fn closed(event: &Order) -> bool {
    matches!(event, Closed { .. })
}

/// Ten rules; each could be a guard.
pub fn sequences() -> [Check; 10] {
    let placed = |event: &Order| matches!(event, Placed { .. });
    let paid = |event: &Order| matches!(event, Paid { .. });
    let packed = |event: &Order| matches!(event, Packed { .. });
    let shipped = |event: &Order| matches!(event, Shipped { .. });
    let billed = |event: &Order| matches!(event, Billed { .. });
    let cancelled = |event: &Order| matches!(event, Cancelled { .. });
    [
        about("paid-before-shipped").precedence(paid, shipped).closed_by(closed).into(),
        about("shipped-before-billed").precedence(shipped, billed).closed_by(closed).into(),
        about("billed-once").absence(2, billed).closed_by(closed).into(),
        about("nothing-sent-after-cancelled").not_response(cancelled, shipped).within(30 * DAY).into(),
        about("packed-for-each-parcel").alternate_precedence(packed, shipped).closed_by(closed).into(),
        about("begins-as-placed").init(placed).closed_by(closed).into(),
        about("placed-once").absent_between(placed, placed).until(closed).into(),
        about("cancelled-or-shipped").not_coexistence(cancelled, shipped).closed_by(closed).into(),
        about("shipped-as-packed").chain_precedence(packed, shipped).closed_by(closed).into(),
        about("placed-is-closed").each_closed_by(placed, closed).within(90 * DAY).into(),
    ]
}

/// One condition over rows.
pub fn standing() -> Check {
    about("paid-is-shipped").standing::<(ToShip,)>(|_, (waits,)| waits.is_some()).for_longer_than(DAY)
}

/// What only opens: each event waits for another that does not come.
pub fn opened(number: u64) -> Order {
    let order = number as u32;
    Placed { order, cents: 1, note: String::new() }
}

/// Asks of each order that it is paid, some day.
pub fn paid_some_day() -> Check {
    let placed = |event: &Order| matches!(event, Placed { .. });
    let paid = |event: &Order| matches!(event, Paid { .. });
    about("placed-is-paid").response(placed, paid).within(90 * DAY).into()
}
