//! Checks of recorded values and of what stands, on real logs, through the store: as the oracles say, to the hash.
//!
//! The logs are not part of the project, see `naive/data.rs` for where they are looked for.

use crate::naive;
use crate::naive::{Event as Line, data, recorded, sha256};
use crate::support::bench::{lockstep, settle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tallystone::check::{About, Check, Outside, PullError, Pulled, Severity};
use tallystone::prelude::*;
use tallystone::testing::SimClock;
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

const DAY: Duration = Duration::from_secs(24 * 3600);

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
    let last = match store.checks().complete(&id, time(end)) {
        Ok(receipt) => receipt.last,
        // It goes by the time of commits.
        Err(AppendError::Invalid { what: "check", .. }) => store.stats().position,
        Err(error) => panic!("{error}"),
    };
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
fn recorded_payment_totals_match_the_oracle() {
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "projections");
    let expected = &oracle["rtfm_total_payment"];
    let log = data::fines(&folder);
    let judged = judge(log, about("total").equals(|e: &Booked| e.adds, |e| e.says), fine, false);
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
fn ledger_balances_match_oracle_by_row_and_day() {
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "projections");
    let expected = &oracle["berka_ledger"];
    let log = data::log(&folder, "berka_ledger");
    let equal = || about("balance").equals(|e: &Booked| e.adds, |e| e.says).carried();
    let rows = judge(&log, equal(), row, false);
    assert_eq!(json!(rows.found.len()), expected["per_row_mismatch"]);
    assert_eq!(json!(sha256(&rows.ids())), expected["per_row_ids_sha256"]);

    let daily = || equal().bucket(DAY).at(|e: &Booked| Some(time(e.ts)), Duration::ZERO).imported();
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
fn unbilled_cases_match_oracle_for_every_window() {
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "projections");
    let log = data::log(&folder, "hospital_billing");
    let by_window =
        oracle["hospital_billable_not_billed_persisting"]["alerts_by_window"].as_object().expect("windows");
    for (window, expected) in by_window {
        let days: u32 = window.trim_end_matches('d').parse().expect("days");
        let off = ["BILLED", "REOPEN", "DELETE", "SET STATUS", "CODE NOK"];
        let check = about("unbilled")
            .switched_off(
                |e: &Booked| e.kind == "CODE OK",
                move |e| off.contains(&e.kind.as_str()),
                days * DAY,
            )
            .at(|e| Some(time(e.ts)), Duration::ZERO)
            .imported();
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
fn ledger_row_faults_match_brute_force() {
    let Some(folder) = data::folder() else { return };
    let log = data::log(&folder, "berka_faulty");
    let wrong = recorded::wrong_rows(&naive::Cases::of(&log));
    let equal = about("balance").equals(|e: &Booked| e.adds, |e| e.says).carried();
    let judged = judge(&log, equal, row, false);
    // What the brute force finds is compared with the oracle in its own tests.
    assert_eq!(judged.ids(), wrong);
    assert_eq!(judged.found.len(), wrong.len());
}

// ---- a ledger beside its source ----

/// How many rows an account has, and what they come to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Account {
    rows: u64,
    adds: i64,
}

impl Account {
    fn add(&mut self, adds: Option<i64>) {
        self.rows += 1;
        self.adds += adds.expect("a row of a ledger adds something");
    }
}

struct Accounts;

impl Projection for Accounts {
    const NAME: &'static str = "accounts";
    type Event = Booked;
    type Key = String;
    type Row = Account;

    fn fold(event: &Booked, rows: &mut Rows<'_, Self>) -> Folded {
        rows.update(event.case.clone(), |account| account.add(event.adds))
    }
}

/// Where a ledger was copied from.
struct Source(Vec<(String, Account)>);

impl Source {
    fn of(log: &[Line]) -> Self {
        let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
        for line in log {
            accounts.entry(line.case.clone()).or_default().add(row(line).adds);
        }
        Self(accounts.into_iter().collect())
    }
}

impl Outside for Source {
    type Key = String;
    type Row = Account;

    fn pull(&self) -> Result<Pulled<String, Account>, PullError> {
        Ok(Pulled::new(self.0.clone()))
    }
}

/// Accounts of which each check finds something: row by row, and beside the source.
fn audited(copy: &[Line], source: &[Line]) -> [BTreeSet<String>; 2] {
    let by_row = about("balance").equals(|e: &Booked| e.adds, |e| e.says).carried();
    let by_source = about("copied")
        .outside::<Accounts, _>(Source::of(source), |ours, theirs| ours == theirs)
        .for_longer_than(Duration::ZERO);
    let clock = SimClock::default();
    let store =
        Store::in_memory(lockstep(&clock).inline::<Accounts>().check(by_row).check(by_source).alerts(|_| {}));
    let store = store.expect("the setup is well");
    let mut at = Vec::new();
    for lines in copy.chunks(500) {
        let first =
            store.append(Append::events(lines.iter().map(row))).expect("they are taken").receipt.first;
        at.extend(lines.iter().zip(first.get()..).map(|(line, position)| (position, &line.case)));
    }
    let at: BTreeMap<_, _> = at.into_iter().collect();
    // What disagrees with one snapshot and still does with the next.
    for _ in 0..2 {
        clock.advance(Duration::from_secs(3600));
        store.step();
        settle(&store);
    }
    let of = |check: &str| store.checks().of(check).expect("rows are read").into_iter();
    let by_row = of("balance").map(|found| at[&found.activation.get()].clone()).collect();
    let by_source = of("copied").map(|found| found.subject.expect("an account")).collect();
    [by_row, by_source]
}

#[test]
fn ledger_faults_are_found_by_row_or_source() {
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "berka_faulty");
    let faults = oracle["faults"].as_array().expect("a list");
    let accounts = |which: &dyn Fn(&Value) -> bool| -> BTreeSet<String> {
        let faults = faults.iter().filter(|fault| which(fault));
        faults.map(|fault| fault["case"].as_str().expect("an account").to_owned()).collect()
    };
    let mut source = data::log(&folder, "berka_ledger");
    // As the faulty one was made: balances are carried from row to row.
    let mut balances: BTreeMap<String, i64> = BTreeMap::new();
    for line in &mut source {
        let balance = balances.entry(line.case.clone()).or_default();
        *balance += row(line).adds.expect("a row of a ledger adds something");
        line.attrs.insert("balance".to_owned(), json!(*balance));
    }
    assert_eq!(audited(&source, &source), [BTreeSet::new(), BTreeSet::new()]);

    let [by_row, by_source] = audited(&data::log(&folder, "berka_faulty"), &source);
    let shows = |fault: &Value| !fault["row_check_reports"].as_array().expect("a list").is_empty();
    assert_eq!(by_row, accounts(&shows));
    assert_eq!(json!(by_row.len()), oracle["accounts_reported"]);
    // Rows in another order and other balances are as many rows, which add up to the same.
    let adds = |fault: &Value| ["drop", "dup", "tamper"].map(|kind| json!(kind)).contains(&fault["kind"]);
    assert_eq!(by_source, accounts(&adds));
    let found: BTreeSet<String> = by_row.union(&by_source).cloned().collect();
    assert_eq!((found.len(), found), (faults.len(), accounts(&|_| true)));
}

// ---- fines ----

/// An event of a fine: what it says that is to be paid, what it adds to that, what is paid, and what all payments come to. In cents.
#[derive(Serialize, Deserialize)]
struct Fined {
    fine: String,
    amount: Option<i64>,
    expense: Option<i64>,
    payment: Option<i64>,
    total: Option<i64>,
}

impl Event for Fined {
    const FAMILY: &'static str = "fined";
    type Id = String;

    fn id(&self) -> String {
        self.fine.clone()
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Fine {
    amount: i64,
    expense: i64,
    paid: i64,
    recorded: i64,
}

struct Fines;

impl Projection for Fines {
    const NAME: &'static str = "fines";
    type Event = Fined;
    type Key = String;
    type Row = Fine;

    fn fold(event: &Fined, rows: &mut Rows<'_, Self>) -> Folded {
        rows.update(event.fine.clone(), |fine| {
            fine.amount = event.amount.unwrap_or(fine.amount);
            fine.expense += event.expense.unwrap_or(0);
            fine.paid += event.payment.unwrap_or(0);
            fine.recorded = event.total.unwrap_or(fine.recorded);
        })
    }
}

fn fined(line: &Line) -> Fined {
    Fined {
        fine: line.case.clone(),
        amount: cents(line, "amount"),
        expense: cents(line, "expense"),
        payment: cents(line, "paymentAmount"),
        total: cents(line, "totalPaymentAmount"),
    }
}

/// The events of a log in commits, not too large: each has events of one time, and one of a case at most.
fn commits(log: &[Line]) -> Vec<&[Line]> {
    let (mut commits, mut begin, mut cases) = (Vec::new(), 0, BTreeSet::new());
    for (index, line) in log.iter().enumerate() {
        if line.ts != log[begin].ts || index - begin == 500 || !cases.insert(line.case.as_str()) {
            commits.push(&log[begin..index]);
            (begin, cases) = (index, BTreeSet::from([line.case.as_str()]));
        }
    }
    commits.push(&log[begin..]);
    commits
}

#[test]
fn fine_totals_and_mismatch_episodes_match_oracle() {
    const WINDOWS: [(&str, u32); 5] = [("0", 0), ("1d", 1), ("7d", 7), ("90d", 90), ("365d", 365)];
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "projections");
    let log = data::fines(&folder);
    let clock = SimClock::new(time(log[0].ts).into());
    let setup =
        WINDOWS.iter().fold(lockstep(&clock).inline::<Fines>().alerts(|_| {}), |setup, (id, days)| {
            let differ =
                about(id).standing::<(Fines,)>(|_, (fine,)| fine.is_some_and(|f| f.recorded != f.paid));
            setup.check(differ.for_longer_than(*days * DAY))
        });
    let store = Store::in_memory(setup).expect("the setup is well");
    let mut now = log[0].ts;
    for lines in commits(log) {
        clock.advance(Duration::from_millis(lines[0].ts.abs_diff(now)));
        now = lines[0].ts;
        store.append(Append::events(lines.iter().map(fined))).expect("they are taken");
    }
    settle(&store);

    let episodes = &oracle["rtfm_total_payment"]["episodes_by_coalescing_window"];
    for (stats, (window, _)) in store.checks().stats().iter().zip(WINDOWS) {
        let found = store.checks().of(window).expect("rows are read");
        assert_eq!(json!(found.len()), episodes[window], "{window}");
        assert_eq!(json!(stats.activations), episodes["0 (any, instant)"]);
        assert_eq!(stats.violated, found.len() as u64);
    }

    let expected = &oracle["rtfm_final_projection"];
    let view = store.view().expect("the store is open");
    let fines = view.rows::<Fines>(..).collect::<Result<Vec<_>, _>>().expect("rows are read");
    assert_eq!(json!(fines.len()), expected["lines"]);
    let sum = |of: fn(&Fine) -> i64| json!(fines.iter().map(|(_, fine)| of(fine)).sum::<i64>());
    assert_eq!(sum(|fine| fine.amount), expected["sum_amount"]);
    assert_eq!(sum(|fine| fine.expense), expected["sum_expense"]);
    assert_eq!(sum(|fine| fine.paid), expected["sum_paid_events"]);
    assert_eq!(sum(|fine| fine.recorded), expected["sum_recorded"]);
    let line =
        |(id, f): &(String, Fine)| format!("{id},{},{},{},{}", f.amount, f.expense, f.paid, f.recorded);
    assert_eq!(json!(sha256(&fines.iter().map(line).collect())), expected["sha256"]);
}
