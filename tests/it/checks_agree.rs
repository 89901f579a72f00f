//! The store's checks and the brute-force judge agree, whatever the log, the definition, and when it was judged.
//!
//! `SEEDS=100000 cargo test --test it checks_agree::` runs more of them.

use crate::naive;
use crate::naive::random::{Random, Shape, random_def, random_log};
use crate::naive::rome::{Calendar, Unit};
use crate::naive::{Cases, Def, Event, Mode, Selector, judge};
use crate::support::bench::settle;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};
use tallystone::check::{Check, Definition};
use tallystone::event::{Raw, Tags};
use tallystone::prelude::*;
use tallystone::watch::State;

const CLOSED: &str = "log.closed";
/// Logs begin at a time before which nothing can lie.
const BEGIN_MS: i64 = 1_000_000_000_000;

fn selector(given: &Selector) -> Value {
    let typed = |kind: &str| json!(format!("log.{kind}"));
    match given {
        Selector::Type(kind) => typed(kind),
        Selector::Any(all) => Value::Array(all.iter().map(selector).collect()),
        Selector::Where(of) => {
            let fields: BTreeMap<_, _> =
                of.attr.iter().map(|(name, is)| (format!("attrs.{name}"), is)).collect();
            let mut out = json!({ "where": fields });
            if let Some(kind) = &of.kind {
                out["type"] = typed(kind);
            }
            out
        }
    }
}

fn check(index: usize, def: &Def, mode: Mode, late_ms: i64) -> Check {
    let unit = match def.calendar {
        None => "ms",
        Some(Calendar { unit: Unit::Days, .. }) => "d",
        Some(Calendar { unit: Unit::Months, .. }) => "mo",
    };
    let length = |bound: Option<i64>| bound.map(|bound| format!("{bound}{unit}"));
    let hi = def.window.map_or(def.lasting, |window| window.hi);
    let has_window = def.window.is_some() || def.lasting.is_some();
    let definition = json!({
        "id": format!("check {index}"),
        "kind": kind(def),
        "when": def.a.as_ref().map(selector),
        "then": def.b.as_ref().map(selector),
        "until": def.c.as_ref().map(selector),
        "n": def.n,
        "not_before": length(def.window.map(|window| window.lo)),
        "within": length(hi),
        "zone": (def.calendar.is_some() && has_window).then_some("Europe/Rome"),
        "tied": def.corr.iter().map(|name| format!("attrs.{name}")).collect::<Vec<_>>(),
        "families": ["log"],
        "expects": ["log.*"],
        "time": "ts",
        "lateness": format!("{late_ms}ms"),
        "imported": true,
        "closed_by": (mode == Mode::Closed).then_some(CLOSED),
        "unbounded": true,
        "severity": "note",
        "owner": "tests",
        "means": "it does not hold",
        "remedy": "look",
    });
    let definition: Definition = serde_json::from_value(definition).expect("it is a definition");
    Check::try_from(definition).expect("it is well formed")
}

/// The name a word has in files: as serde reads it.
fn kind(def: &Def) -> String {
    let mut out = String::new();
    for character in format!("{:?}", def.template).chars() {
        if character.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(character.to_lowercase());
    }
    out
}

fn event(event: &Event) -> Raw {
    let payload = json!({
        "case": event.case, "idx": event.idx, "ts": BEGIN_MS + event.ts, "attrs": event.attrs,
    });
    Raw::json(format!("log.{}", event.kind), format!("log/{}", event.case), Tags::none(), &payload)
}

/// What is compared: counts, and which activations are violated.
type Found = ([u64; 5], BTreeSet<String>);

fn expected(log: &[Event], def: &Def, mode: Mode) -> Found {
    let verdicts = judge(&Cases::of(log), def, mode);
    let counts = [
        verdicts.activations as u64,
        verdicts.satisfied as u64,
        verdicts.violated as u64,
        verdicts.pending as u64,
        verdicts.cases_violated as u64,
    ];
    (counts, verdicts.violations)
}

/// Judges a log by many definitions. `settles` says after which event the checks are let to see what there is.
fn found(log: &[Event], defs: &[Def], mode: Mode, settles: impl Fn(usize) -> bool) -> Vec<Found> {
    let mut latest = i64::MIN;
    let mut late_ms = 0;
    for event in log {
        latest = latest.max(event.ts);
        late_ms = late_ms.max(latest - event.ts);
    }
    let checks = defs.iter().enumerate().map(|(index, def)| check(index, def, mode, late_ms));
    let setup = checks.fold(Setup::new().lockstep().alerts(|_| ()), Setup::check);
    let store = Store::in_memory(setup).expect("the setup is well");
    let mut names = BTreeMap::new();
    for (index, logged) in log.iter().enumerate() {
        let at = store.append(Append::raw(event(logged))).expect("it is taken").receipt.last;
        names.insert(at, (logged.case.clone(), logged.idx));
        if settles(index) {
            settle(&store);
        }
    }
    let horizon_ms = u64::try_from(BEGIN_MS + latest).expect("it is after 1970");
    for index in 0..defs.len() {
        let until = UNIX_EPOCH + Duration::from_millis(horizon_ms);
        store.checks().complete(&format!("check {index}"), until).expect("it is taken");
    }
    if mode == Mode::Closed {
        let cases: BTreeSet<_> = log.iter().map(|event| event.case.clone()).collect();
        for case in cases {
            let payload = json!({ "ts": horizon_ms });
            let closed = Raw::json(CLOSED, format!("log/{case}"), Tags::none(), &payload);
            store.append(Append::raw(closed)).expect("it is taken");
        }
    }
    settle(&store);
    let stats = store.checks().stats();
    let of = |(index, def): (usize, &Def)| {
        let one = &stats[index];
        assert_eq!(one.unread, 0, "{:?}", one.last_unread);
        let all = store.checks().of(&format!("check {index}")).expect("rows are read");
        let stands = all.iter().filter(|violation| !matches!(violation.state, State::Retracted { .. }));
        let ids = stands.map(|violation| {
            let (case, idx) = &names[&violation.activation];
            if def.template.of_the_case() { format!("{case}:-") } else { format!("{case}:{idx}") }
        });
        ([one.activations, one.satisfied, one.violated, one.pending, one.keys_violated], ids.collect())
    };
    defs.iter().enumerate().map(of).collect()
}

fn seeds() -> u64 {
    std::env::var("SEEDS").map_or(60, |seeds| seeds.parse().expect("SEEDS is a number"))
}

/// Both judge a log by the same definitions, at its end and meanwhile, open and closed.
fn agree(seed: u64, log: &[Event], defs: &[Def], every: usize) -> u64 {
    let mut compared = 0;
    for mode in [Mode::Open, Mode::Closed] {
        for (when, found) in [
            ("at the end", found(log, defs, mode, |_| false)),
            ("meanwhile", found(log, defs, mode, |index| index % every == 0)),
        ] {
            for (def, found) in defs.iter().zip(found) {
                let expected = expected(log, def, mode);
                assert_eq!(found, expected, "seed {seed}, {mode:?}, judged {when}: {def:#?}\n{log:#?}");
                compared += 1;
            }
        }
    }
    compared
}

fn random_shape(random: &mut Random) -> Shape {
    let late = if random.one_in(2) { 0 } else { random.within(1, 40) };
    Shape { events: 5 + random.below(35), cases: 1 + random.below(3), late }
}

#[test]
fn checks_agree_with_naive_judge() {
    let mut compared = 0;
    for seed in 0..seeds() {
        let mut random = Random::new(seed);
        let shape = random_shape(&mut random);
        let log = random_log(random.next(), shape);
        let defs: Vec<_> = (0..25).map(|_| random_def(random.next())).collect();
        compared += agree(seed, &log, &defs, 1 + random.below(12));
    }
    assert_eq!(compared, seeds() * 100);
}

// ---- windows of calendar days and months ----

const HALF_HOUR: i64 = 1_800_000;
const DAY: i64 = 48 * HALF_HOUR;

/// Gives events times about whole days apart, around something that happens to the calendar of Rome.
fn make_eventful(random: &mut Random, late: bool, log: &mut [Event]) {
    let eventful = [
        // Clocks are set back at 01:00 UTC, 2001-10-28, and forward at 01:00 UTC, 2002-03-31.
        1_004_230_800_000,
        1_017_536_400_000,
        // Midnight, 2004-01-31 and 2004-02-29 in Rome.
        1_075_503_600_000,
        1_078_009_200_000,
    ];
    let most = *random.of(&[1, 3, 47]);
    let middle = random.of(&eventful) + random.within(-most, most) * HALF_HOUR - BEGIN_MS;
    let draw = |_: &Event| middle + random.within(-1, 1) * DAY + random.within(-2, 2) * HALF_HOUR;
    let mut times: Vec<_> = log.iter().map(draw).collect();
    times.sort();
    for (event, time) in log.iter_mut().zip(times) {
        let behind = if late && random.one_in(4) { random.within(0, 4) } else { 0 };
        event.ts = time - behind * HALF_HOUR;
    }
}

fn by_calendar(random: &mut Random, def: Def) -> Def {
    let (unit, most) = *random.of(&[(Unit::Days, 2), (Unit::Days, 2), (Unit::Months, 2)]);
    let mut def = Def { calendar: Some(Calendar { unit, begin: BEGIN_MS }), ..def };
    if let Some(window) = &mut def.window {
        let length = window.hi.map(|hi| (hi - window.lo) % (most + 1));
        window.lo %= most;
        window.hi = length.map(|length| window.lo + length);
    }
    def.lasting = def.lasting.map(|lasting| lasting % (most + 1));
    def
}

#[test]
fn calendar_windows_match_naive_judge_around_clock_changes() {
    let (mut compared, mut matters) = (0, 0);
    // The hour that comes twice is met in one log of a hundred.
    let seeds = 2 * seeds();
    for seed in 0..seeds {
        let mut random = Random::new(seed);
        let shape = random_shape(&mut random);
        let shape = Shape { cases: 4 + random.below(8), ..shape };
        let mut log = random_log(random.next(), shape);
        make_eventful(&mut random, shape.late > 0, &mut log);
        let defs: Vec<_> = (0..25).map(|_| random_def(random.next())).collect();
        let defs: Vec<_> = defs.into_iter().map(|def| by_calendar(&mut random, def)).collect();
        compared += agree(seed, &log, &defs, 1 + random.below(12));
        let exactly = |def: &Def| {
            let days = |bound: i64| bound * DAY;
            let window =
                def.window.map(|window| naive::Window { lo: days(window.lo), hi: window.hi.map(days) });
            Def { window, lasting: def.lasting.map(days), calendar: None, ..def.clone() }
        };
        let in_days = defs.iter().filter(|def| def.calendar.is_some_and(|by| by.unit == Unit::Days));
        matters += in_days
            .filter(|def| expected(&log, def, Mode::Open) != expected(&log, &exactly(def), Mode::Open))
            .count();
    }
    assert_eq!(compared, seeds * 100);
    // Days of 24 hours would not do.
    assert!(matters as u64 > seeds / 4, "{matters}");
}
