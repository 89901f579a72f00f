//! A guard refuses exactly the events that would add a violation which an event decides: held against the brute-force judge, and
//! against the check that only reports, whatever the log and the definition.
//!
//! `SEEDS=10000 cargo test --test it guards_agree::` runs more of them.

use crate::naive::random::{Random, Shape, random_def, random_log};
use crate::naive::{Cases, Def, Event, Mode, Selector, Template, Verdict, activations};
use crate::support::bench::{lockstep, settle};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};
use tallystone::check::{Check, Definition, Fault};
use tallystone::event::{Raw, Tags};
use tallystone::prelude::*;
use tallystone::testing::SimClock;

const CLOSED: &str = "closed";
/// The first moment of a log, in milliseconds. The clock of a test begins there.
const BEGIN_MS: i64 = 1_780_000_000_000;

/// By whose time a check goes, and what ends its keys.
#[derive(Debug, Clone, Copy)]
struct Manner {
    by_events: Option<i64>,
    closes: bool,
}

fn selector(given: &Selector) -> Value {
    match given {
        Selector::Type(kind) => json!(format!("log.{kind}")),
        Selector::Any(all) => Value::Array(all.iter().map(selector).collect()),
        Selector::Where(of) => {
            let fields: BTreeMap<_, _> =
                of.attr.iter().map(|(name, is)| (format!("attrs.{name}"), is)).collect();
            let mut out = json!({ "where": fields });
            if let Some(kind) = &of.kind {
                out["type"] = json!(format!("log.{kind}"));
            }
            out
        }
    }
}

fn check(def: &Def, manner: Manner, guard: bool) -> Result<Check, Fault> {
    made(definition(def, manner, guard))
}

fn made(definition: Value) -> Result<Check, Fault> {
    Check::try_from(serde_json::from_value::<Definition>(definition).expect("it is a definition"))
}

fn definition(def: &Def, manner: Manner, guard: bool) -> Value {
    let millis = |bound: Option<i64>| bound.map(|bound| format!("{bound}ms"));
    json!({
        "id": "it",
        "kind": kind(def.template),
        "when": def.a.as_ref().map(selector),
        "then": def.b.as_ref().map(selector),
        "until": def.c.as_ref().map(selector),
        "n": def.n,
        "not_before": millis(def.window.map(|window| window.lo)),
        "within": millis(def.window.map_or(def.lasting, |window| window.hi)),
        "tied": def.corr.iter().map(|name| format!("attrs.{name}")).collect::<Vec<_>>(),
        "families": ["log"],
        "expects": ["log.*"],
        "time": manner.by_events.map(|_| "ts"),
        "lateness": millis(manner.by_events),
        "imported": manner.by_events.is_some(),
        "closed_by": manner.closes.then(|| format!("log.{CLOSED}")),
        "guard": guard,
        "unbounded": true,
        "severity": "note",
        "owner": "tests",
        "means": "it does not hold",
        "remedy": "look",
    })
}

/// The name a word has in files: as serde reads it.
fn kind(template: Template) -> String {
    let mut out = String::new();
    for character in format!("{template:?}").chars() {
        if character.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(character.to_lowercase());
    }
    out
}

fn open(checks: impl IntoIterator<Item = Check>) -> (SimClock, Store) {
    let clock = SimClock::default();
    let setup = checks.into_iter().fold(lockstep(&clock).alerts(|_| ()), Setup::check);
    (clock, Store::in_memory(setup).expect("the setup is well"))
}

fn append(store: &Store, event: &Event) -> Result<Position, AppendError> {
    // Cases of one pair have one key, for those who go by it.
    let pair = event.case.bytes().map(u64::from).sum::<u64>() % 2;
    let payload = json!({ "ts": BEGIN_MS + event.ts, "attrs": event.attrs, "pair": pair });
    let raw = Raw::json(format!("log.{}", event.kind), format!("log/{}", event.case), Tags::none(), &payload);
    Ok(store.append(Append::raw(raw))?.receipt.last)
}

/// A log in which keys end now and then.
fn random_closed_log(random: &mut Random, shape: Shape) -> Vec<Event> {
    let mut events = random_log(random.next(), shape);
    for event in &mut events {
        if random.one_in(8) {
            event.kind = CLOSED.to_owned();
        }
    }
    events
}

/// Whether the guard lets it in.
fn lets_in(store: &Store, event: &Event) -> bool {
    match append(store, event) {
        Ok(_) => true,
        Err(AppendError::Violated { check, key, index: 0, .. }) if check == "it" => {
            assert_eq!(key, format!("log/{}", event.case));
            false
        }
        Err(other) => panic!("{other}"),
    }
}

/// With fewer of them not every word is met.
const SEEDS: u64 = 150;

fn seeds() -> u64 {
    std::env::var("SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("SEEDS is a number"))
}

/// How often which template refused and did not.
type Seen = BTreeMap<Template, (u32, u32)>;

fn tally(seen: &mut Seen, template: Template, let_in: bool) {
    let (refused, taken) = seen.entry(template).or_default();
    *if let_in { taken } else { refused } += 1;
}

// ---- the judge that looks at everything ----

/// Violations by activation: an event that violates in two roles counts twice.
fn violations(log: &[Event], def: &Def, horizon: i64) -> BTreeMap<String, u32> {
    let cases = Cases { horizon, ..Cases::of(log) };
    let mut all = BTreeMap::new();
    for (of, verdict) in activations(&cases, def, Mode::Open) {
        if verdict == Verdict::Violated {
            *all.entry(of.to_string()).or_default() += 1;
        }
    }
    all
}

/// It adds a violation to those that there are at its time without it.
fn decides_a_violation(log: &[Event], event: &Event, def: &Def) -> bool {
    let before = violations(log, def, event.ts);
    let after = violations(&[log, std::slice::from_ref(event)].concat(), def, event.ts);
    after.iter().any(|(of, count)| before.get(of).unwrap_or(&0) < count)
}

#[test]
fn guard_refusals_match_the_naive_judge() {
    let manner = Manner { by_events: None, closes: false };
    let mut seen = Seen::new();
    for seed in 0..seeds() {
        let mut random = Random::new(seed);
        let shape = Shape { events: 5 + random.below(40), cases: 1 + random.below(3), late: 0 };
        let events = random_log(random.next(), shape);
        for _ in 0..8 {
            let def = random_def(random.next());
            let Ok(check) = check(&def, manner, true) else { continue };
            let (clock, store) = open([check]);
            let (mut log, mut now): (Vec<Event>, i64) = (Vec::new(), 0);
            for event in &events {
                clock.advance(Duration::from_millis(u64::try_from(event.ts - now).expect("time goes on")));
                now = event.ts;
                let let_in = lets_in(&store, event);
                assert_eq!(
                    !let_in,
                    decides_a_violation(&log, event, &def),
                    "seed {seed}: {def:#?}\n{event:#?}\nafter {log:#?}"
                );
                tally(&mut seen, def.template, let_in);
                if let_in {
                    log.push(event.clone());
                }
            }
            assert_eq!(store.verify().expect("it is looked at").first_bad, None, "seed {seed}: {def:#?}");
        }
    }
    use Template::{End, Existence, RespondedExistence, Response, Standing};
    for template in Template::ALL {
        match template {
            // Only time decides these.
            End | Existence | RespondedExistence | Response | Standing => {
                assert_eq!(seen.get(&template), None, "{template:?}");
            }
            _ if seeds() < SEEDS => {}
            _ => {
                let (refused, taken) = seen[&template];
                assert!(refused > 20 && taken > 20, "{template:?}: {refused} refused, {taken} taken");
            }
        }
    }
}

// ---- the check that only reports ----

/// What the check finds that an event at this position decides.
fn finds(store: &Store, at: Position) -> bool {
    settle(store);
    store.checks().all().expect("rows are read").iter().any(|violation| violation.by == Some(at))
}

#[test]
fn guard_refusals_match_the_reporting_check() {
    let mut seen = Seen::new();
    for seed in 0..seeds() / 2 {
        let mut random = Random::new(seed ^ 0xF0);
        let late = if random.one_in(2) { 0 } else { random.within(1, 40) };
        let shape = Shape { events: 5 + random.below(25), cases: 1 + random.below(2), late };
        let events = random_closed_log(&mut random, shape);
        for _ in 0..6 {
            let def = random_def(random.next());
            let by_events = (!random.one_in(3)).then(|| random.within(0, 40));
            let manner = Manner { by_events, closes: random.one_in(2) };
            let Ok(guard) = check(&def, manner, true) else { continue };
            let (clock, guarded) = open([guard]);
            let (other_clock, mut reports) = open([check(&def, manner, false).expect("it is well formed")]);
            let mut now = 0;
            for event in &events {
                // The store's clock is behind what events say, now and then.
                let ahead = if random.one_in(3) { random.within(0, 20) } else { 0 };
                let passes = Duration::from_millis(u64::try_from(event.ts - ahead - now).unwrap_or(0));
                now = now.max(event.ts - ahead);
                for clock in [&clock, &other_clock] {
                    clock.advance(passes);
                }
                if by_events.is_some() && random.one_in(10) {
                    let until = UNIX_EPOCH + Duration::from_millis((BEGIN_MS + now) as u64);
                    for store in [&guarded, &reports] {
                        match store.checks().complete("it", until) {
                            // What events say may be ahead of the clock.
                            Ok(_) | Err(AppendError::Invalid { what: "until", .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                let tried = reports.fork().expect("in memory");
                let at = append(&tried, event).expect("it only reports");
                let let_in = lets_in(&guarded, event);
                assert_eq!(
                    !let_in,
                    finds(&tried, at),
                    "seed {seed}, {manner:?}: {def:#?}\n{event:#?}\nof {events:#?}"
                );
                tally(&mut seen, def.template, let_in);
                if let_in {
                    reports = tried;
                }
            }
            assert_eq!(guarded.verify().expect("it is looked at").first_bad, None, "seed {seed}: {def:#?}");
        }
    }
    for template in Template::ALL.into_iter().filter(|_| seeds() >= SEEDS) {
        let (refused, taken) = seen[&template];
        assert!(refused > 0 && taken > 0, "{template:?}: {refused} refused, {taken} taken");
    }
}

// ---- guards beside one another ----

/// Which guard refuses it, if one does.
fn refuses(store: &Store, event: &Event) -> Option<String> {
    match append(store, event) {
        Ok(_) => None,
        Err(AppendError::Violated { check, .. }) => Some(check),
        Err(other) => panic!("{other}"),
    }
}

/// Guards of a setup, and whether each goes by the times of events. Some look at the same key.
fn random_guards(random: &mut Random) -> Vec<(Check, bool)> {
    let (count, mut guards) = (2 + random.below(5), Vec::new());
    while guards.len() < count {
        let by_events = (!random.one_in(3)).then(|| random.within(0, 40));
        let manner = Manner { by_events, closes: random.one_in(2) };
        let mut definition = definition(&random_def(random.next()), manner, true);
        definition["id"] = json!(format!("guard-{}", guards.len()));
        if random.one_in(3) {
            definition["key"] = json!("pair");
        }
        guards.extend(made(definition).map(|guard| (guard, by_events.is_some())));
    }
    guards
}

#[test]
fn combined_guards_answer_with_first_single_refusal() {
    let (mut refused_by, mut taken) = (BTreeMap::<String, u32>::new(), 0);
    for seed in 0..seeds() {
        let mut random = Random::new(seed ^ 0xA5);
        let late = if random.one_in(2) { 0 } else { random.within(1, 40) };
        let shape = Shape { events: 10 + random.below(40), cases: 2 + random.below(3), late };
        let events = random_closed_log(&mut random, shape);
        let guards = random_guards(&mut random);
        let (clock, together) = open(guards.iter().map(|(guard, _)| guard.clone()));
        let mut alone: Vec<_> = guards.iter().map(|(guard, _)| open([guard.clone()])).collect();
        let mut now = 0;
        for event in &events {
            let passes = Duration::from_millis(u64::try_from(event.ts - now).unwrap_or(0));
            now = now.max(event.ts);
            for clock in alone.iter().map(|(clock, _)| clock).chain([&clock]) {
                clock.advance(passes);
            }
            let tried: Vec<_> = alone
                .iter()
                .map(|(clock, store)| (clock.clone(), store.fork().expect("in memory")))
                .collect();
            let first = tried.iter().find_map(|(_, store)| refuses(store, event));
            assert_eq!(refuses(&together, event), first, "seed {seed}: {event:#?}\nof {events:#?}");
            match first {
                Some(guard) => *refused_by.entry(guard).or_default() += 1,
                None => {
                    // Those behind one that refuses were not asked.
                    alone = tried;
                    taken += 1;
                }
            }
        }
        assert_eq!(together.verify().expect("it is looked at").first_bad, None, "seed {seed}");
    }
    if seeds() >= SEEDS {
        assert!(taken > 500, "{taken} taken");
        for guard in 0..4 {
            let refused = refused_by[&format!("guard-{guard}")];
            assert!(refused > 50, "guard-{guard} refused {refused}");
        }
    }
}
