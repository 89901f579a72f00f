//! What events record, against the fold of the events before them.

use super::{Cases, Event};
use std::collections::{BTreeMap, BTreeSet};

fn id(event: &Event) -> String {
    format!("{}:{}", event.case, event.idx)
}

/// Fines whose recorded total of payments is not the sum of the payments, in cents: how many were compared, and which differ.
pub fn wrong_totals(cases: &Cases<'_>) -> (usize, BTreeSet<String>) {
    let cents = |event: &Event, name: &str| {
        let euros = event.attrs.get(name)?.as_f64().expect("an amount");
        Some((euros * 100.0).round() as i64)
    };
    let (mut compared, mut wrong) = (0, BTreeSet::new());
    for events in cases.events.values() {
        let mut paid = 0;
        for event in events {
            paid += cents(event, "paymentAmount").unwrap_or(0);
            if let Some(total) = cents(event, "totalPaymentAmount") {
                compared += 1;
                if total != paid {
                    wrong.insert(id(event));
                }
            }
        }
    }
    (compared, wrong)
}

fn hellers(event: &Event, name: &str) -> i64 {
    event.attrs[name].as_i64().expect("an amount")
}

/// Rows of a ledger whose balance is not that of the row before, and the difference.
pub fn wrong_rows(cases: &Cases<'_>) -> BTreeSet<String> {
    let mut wrong = BTreeSet::new();
    for events in cases.events.values() {
        let mut before = 0;
        for event in events {
            let balance = hellers(event, "balance");
            if balance != before + hellers(event, "delta") {
                wrong.insert(id(event));
            }
            before = balance;
        }
    }
    wrong
}

/// A day of an account, of which no row records the balance that the day must have led to.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WrongDay {
    pub account: String,
    /// Its midnight, in milliseconds.
    pub day: i64,
    /// The nearest balance that was recorded, less the one expected.
    pub residual: i64,
}

impl WrongDay {
    pub fn id(&self) -> String {
        format!("{}:{}:{}", self.account, self.day, self.residual)
    }
}

/// How many days there are, and which of them are wrong. Rows of a day are in no order, so the nearest balance counts, and is
/// carried on.
pub fn wrong_days(cases: &Cases<'_>, tolerance: impl Fn(&[&Event]) -> i64) -> (usize, BTreeSet<WrongDay>) {
    let (mut count, mut wrong) = (0, BTreeSet::new());
    for (account, events) in &cases.events {
        let mut days: BTreeMap<i64, Vec<&Event>> = BTreeMap::new();
        events.iter().for_each(|event| days.entry(event.ts).or_default().push(event));
        count += days.len();
        let mut carried = 0;
        for (day, rows) in days {
            let expected = carried + rows.iter().map(|row| hellers(row, "delta")).sum::<i64>();
            let recorded = rows.iter().map(|row| hellers(row, "balance"));
            carried = recorded.min_by_key(|balance| (balance - expected).abs()).expect("a day has rows");
            let residual = carried - expected;
            if residual.abs() > tolerance(&rows) {
                wrong.insert(WrongDay { account: account.to_string(), day, residual });
            }
        }
    }
    (count, wrong)
}

/// Interest is rounded when it is paid, by up to 10 hellers a row.
pub fn of_interest(rows: &[&Event]) -> i64 {
    let paid =
        rows.iter().filter(|row| row.attrs.get("k_symbol").is_some_and(|symbol| symbol == "UROK")).count();
    10 * paid.max(1) as i64
}
