//! Checks of recorded values and of what stands, on real logs, through the store: as the oracles say, to the hash.
//!
//! The logs are not part of the project, see `naive/data.rs` for where they are looked for.

mod naive;

use naive::{Event as Line, data, recorded, sha256};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tallystone::check::{About, Check, Severity};
use tallystone::prelude::*;
use tallystone::watch::Violation;

/// A line of a log, as an event.
#[derive(Serialize, Deserialize)]
struct Booked {
    case: String,
    idx: u32,
    kind: String,
    ts: i64,
    /// What it adds, and what it says that it has come to.
    adds: Option<i64>,
    says: Option<i64>,
    rounded: bool,
}

impl Event for Booked {
    const FAMILY: &'static str = "booked";
    type Id = String;

    fn id(&self) -> String {
        self.case.clone()
    }
}

fn about(id: &'static str) -> About {
    About {
        id,
        severity: Severity::Ticket,
        owner: "audit",
        means: "It does not add up.",
        remedy: "1 add it up",
    }
}

fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).expect("these logs are of after 1970"))
}

/// What a check finds in a log, and which event stands where.
struct Judged {
    found: Vec<Violation>,
    activations: u64,
    at: BTreeMap<u64, (String, u32, i64)>,
}

impl Judged {
    /// `case:idx` of the activations.
    fn ids(&self) -> BTreeSet<String> {
        self.found
            .iter()
            .map(|found| self.at[&found.activation.get()].clone())
            .map(|(case, idx, _)| format!("{case}:{idx}"))
            .collect()
    }

    fn cases(&self) -> BTreeSet<&str> {
        self.found.iter().map(|found| self.at[&found.activation.get()].0.as_str()).collect()
    }
}

/// Appends a log and judges it. `closed`: all of it is over in the end.
fn judge(log: &[Line], check: impl Into<Check>, event: impl Fn(&Line) -> Booked, closed: bool) -> Judged {
    let check = check.into();
    let id = check.id().to_owned();
    let setup = Setup::new().events::<Booked>().check(check).alerts(|_| {});
    let store = Store::in_memory(setup).expect("the setup is well");
    let mut at = BTreeMap::new();
    for lines in log.chunks(500) {
        let first =
            store.append(Append::events(lines.iter().map(&event))).expect("they are taken").receipt.first;
        for (index, line) in lines.iter().enumerate() {
            at.insert(first.get() + index as u64, (line.case.clone(), line.idx as u32, line.ts));
        }
    }
    let end = log.iter().map(|line| line.ts).max().expect("it has events");
    let end = end + if closed { 400 * 86_400_000 } else { 0 };
    let last = store.checks().complete(&id, time(end)).expect("it is taken").last;
    assert!(store.checks().wait_for(last, Duration::from_secs(600)), "{:?}", store.checks().stats());
    let found = store.checks().all().expect("rows are read");
    let activations = store.checks().stats()[0].activations;
    Judged { found, activations, at }
}

fn cents(line: &Line, name: &str) -> Option<i64> {
    let euros = line.attrs.get(name)?.as_f64().expect("an amount");
    Some((euros * 100.0).round() as i64)
}

fn booked(line: &Line, adds: Option<i64>, says: Option<i64>) -> Booked {
    let (case, idx, kind, ts) = (line.case.clone(), line.idx as u32, line.kind.clone(), line.ts);
    let rounded = line.attrs.get("k_symbol").is_some_and(|symbol| symbol == "UROK");
    Booked { case, idx, kind, ts, adds, says, rounded }
}

fn fine(line: &Line) -> Booked {
    booked(line, cents(line, "paymentAmount"), cents(line, "totalPaymentAmount"))
}

fn row(line: &Line) -> Booked {
    booked(line, line.attrs["delta"].as_i64(), line.attrs["balance"].as_i64())
}

#[test]
fn totals_recorded_on_payments_are_judged_as_their_oracle_says() {
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "projections");
    let expected = &oracle["rtfm_total_payment"];
    let log = data::log(&folder, "rtfm");
    let judged = judge(&log, about("total").equals(|e: &Booked| e.adds, |e| e.says), fine, false);
    assert_eq!(json!(judged.activations), expected["checked"]);
    assert_eq!(json!(judged.found.len()), expected["mismatches"]);
    assert_eq!(json!(judged.cases().len()), expected["cases"]);
    assert_eq!(json!(sha256(&judged.ids())), expected["ids_sha256"]);
    for first in expected["first"].as_array().expect("a list") {
        let off = |found: &&Violation| {
            difference(found) == first["recorded_minus_events_cents"].as_i64().expect("cents")
        };
        let (case, idx, _) = judged
            .found
            .iter()
            .filter(off)
            .map(|found| &judged.at[&found.activation.get()])
            .find(|(case, idx, _)| json!(format!("{case}:{idx}")) == first["id"])
            .expect("it is found with its difference");
        assert!(!case.is_empty() && *idx > 0);
    }
}

/// What was said less what it should have been, as a violation tells it.
fn difference(found: &Violation) -> i64 {
    let numbers: Vec<i64> = found.disagrees.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    numbers[0] - numbers[1]
}

#[test]
fn balances_of_a_ledger_are_judged_as_their_oracle_says_by_row_and_by_day() {
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "projections");
    let expected = &oracle["berka_ledger"];
    let log = data::log(&folder, "berka_ledger");
    let equal = || about("balance").equals(|e: &Booked| e.adds, |e| e.says).carried();
    let rows = judge(&log, equal(), row, false);
    assert_eq!(json!(rows.found.len()), expected["per_row_mismatch"]);
    assert_eq!(json!(sha256(&rows.ids())), expected["per_row_ids_sha256"]);

    let day = Duration::from_secs(24 * 3600);
    let daily = || equal().bucket(day).at(|e: &Booked| Some(time(e.ts)), Duration::ZERO);
    let exact = judge(&log, daily(), row, true);
    assert_eq!(json!(exact.activations), expected["account_days"]);
    assert_eq!(json!(exact.found.len()), expected["per_day_mismatch"]);
    for (residual, count) in expected["per_day_residuals"].as_object().expect("counts") {
        let found = exact.found.iter().filter(|found| difference(found).to_string() == *residual).count();
        assert_eq!(json!(found), *count, "{residual}");
    }
    let by_ten = judge(&log, daily().tolerance(10), row, true);
    assert_eq!(json!(by_ten.found.len()), expected["per_day_tol10_mismatch"]);
    let scaled = judge(&log, daily().tolerance(10).rounded(|e| e.rounded), row, true);
    assert_eq!(json!(scaled.found.len()), expected["per_day_tol_scaled_mismatch"]);
    let ids = scaled.found.iter().map(|found| {
        let (account, _, day) = &scaled.at[&found.activation.get()];
        format!("{account}:{day}:{}", difference(found))
    });
    assert_eq!(json!(sha256(&ids.collect())), expected["per_day_tol_scaled_ids_sha256"]);
}

#[test]
fn what_stands_unbilled_is_judged_as_its_oracle_says_for_every_window() {
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "projections");
    let log = data::log(&folder, "hospital_billing");
    let by_window =
        oracle["hospital_billable_not_billed_persisting"]["alerts_by_window"].as_object().expect("windows");
    for (window, expected) in by_window {
        let days: u64 = window.trim_end_matches('d').parse().expect("days");
        let off = ["BILLED", "REOPEN", "DELETE", "SET STATUS", "CODE NOK"];
        let check = about("unbilled")
            .switched_off(
                |e: &Booked| e.kind == "CODE OK",
                move |e| off.contains(&e.kind.as_str()),
                Duration::from_secs(days * 86_400),
            )
            .at(|e| Some(time(e.ts)), Duration::ZERO);
        let judged = judge(&log, check, |line| booked(line, None, None), false);
        let still = judged.found.iter().map(|found| {
            let (case, _, ts) = &judged.at[&found.activation.get()];
            format!("{case}@{ts}")
        });
        let ids: BTreeSet<String> = still.collect();
        assert_eq!(json!(ids.len()), expected["alerts"], "{window}");
        assert_eq!(json!(sha256(&ids)), expected["sha256"], "{window}");
    }
}

#[test]
fn faults_in_a_ledger_are_found_where_they_are_and_none_is_invented() {
    let Some(folder) = data::folder() else { return };
    let log = data::log(&folder, "berka_faulty");
    let wrong = recorded::wrong_rows(&naive::Cases::of(&log));
    let equal = about("balance").equals(|e: &Booked| e.adds, |e| e.says).carried();
    let judged = judge(&log, equal, row, false);
    // What the brute force finds is compared with the oracle in its own tests.
    assert_eq!(judged.ids(), wrong);
    assert_eq!(judged.found.len(), wrong.len());
}
