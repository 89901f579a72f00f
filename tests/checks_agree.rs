//! The store's checks and the brute-force judge agree, whatever the log, the definition, and when it was judged.
//!
//! `SEEDS=100000 cargo test --test checks_agree` runs more of them.

mod naive;

use naive::random::{Random, Shape, random_def, random_log};
use naive::{Cases, Def, Event, Mode, Selector, judge};
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
    let millis = |bound: Option<i64>| bound.map(|bound| format!("{bound}ms"));
    let hi = def.window.map_or(def.lasting, |window| window.hi);
    let definition = json!({
        "id": format!("check {index}"),
        "kind": kind(def),
        "when": def.a.as_ref().map(selector),
        "then": def.b.as_ref().map(selector),
        "until": def.c.as_ref().map(selector),
        "n": def.n,
        "not_before": millis(def.window.map(|window| window.lo)),
        "within": millis(hi),
        "tied": def.corr.iter().map(|name| format!("attrs.{name}")).collect::<Vec<_>>(),
        "families": ["log"],
        "time": "ts",
        "lateness": format!("{late_ms}ms"),
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
    let settle = || {
        while store.checks().stats().iter().any(|check| !check.is_settled()) {
            assert!(
                store.checks().wait_for(store.stats().position, Duration::ZERO),
                "{:?}",
                store.checks().stats()
            );
        }
    };
    let mut names = BTreeMap::new();
    for (index, logged) in log.iter().enumerate() {
        let at = store.append(Append::raw(event(logged))).expect("it is taken").receipt.last;
        names.insert(at, (logged.case.clone(), logged.idx));
        if settles(index) {
            settle();
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
    settle();
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

#[test]
fn the_checks_agree_with_the_naive_judge_whenever_they_look() {
    let mut compared = 0;
    for seed in 0..seeds() {
        let mut random = Random::new(seed);
        let late = if random.one_in(2) { 0 } else { random.within(1, 40) };
        let shape = Shape { events: 5 + random.below(35), cases: 1 + random.below(3), late };
        let log = random_log(random.next(), shape);
        let defs: Vec<_> = (0..25).map(|_| random_def(random.next())).collect();
        let every = 1 + random.below(12);
        for mode in [Mode::Open, Mode::Closed] {
            for (when, found) in [
                ("at the end", found(&log, &defs, mode, |_| false)),
                ("meanwhile", found(&log, &defs, mode, |index| index % every == 0)),
            ] {
                for (def, found) in defs.iter().zip(found) {
                    let expected = expected(&log, def, mode);
                    assert_eq!(found, expected, "seed {seed}, {mode:?}, judged {when}: {def:#?}\n{log:#?}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, seeds() * 100);
}
