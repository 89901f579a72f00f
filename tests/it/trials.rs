//! Checks tried on a few events, without a store: what a store would find of them, and nothing else.

use crate::support::bench::{lockstep, settle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tallystone::check::{About, Check, Definition, Outcome, Severity, Trial, TrialError, Tried, rules};
use tallystone::event::{Raw, Tags};
use tallystone::prelude::*;
use tallystone::testing::{Random, SimClock};
use tallystone::watch::{CheckStats, State};

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Order {
    Placed { order: u32, cents: u32 },
    Shipped { order: u32 },
    Cancelled { order: u32 },
}

impl Event for Order {
    const FAMILY: &'static str = "order";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Placed { order, .. } | Self::Shipped { order } | Self::Cancelled { order }) = self;
        *order
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn about(id: &'static str) -> About {
    About { id, severity: Severity::Ticket, owner: "warehouse", means: "It is not so.", remedy: "1 look" }
}

fn placed(event: &Order) -> bool {
    matches!(event, Order::Placed { .. })
}

fn shipped(event: &Order) -> bool {
    matches!(event, Order::Shipped { .. })
}

fn in_rust() -> Check {
    let cancelled = |event: &Order| matches!(event, Order::Cancelled { .. });
    about("shipped").response(placed, shipped).unless(cancelled).within(72 * HOUR).into()
}

const AS_DATA: &str = r#"
    [check.shipped]
    kind = "response"
    when = { type = "order.Placed", where = { cents = 500 } }
    then = "order.Shipped"
    until = "order.Cancelled"
    key = "order"
    within = "72h"
    severity = "ticket"
    owner = "warehouse"
    means = "We took the order and did not ship it."
    remedy = "1 look"
"#;

fn as_data() -> Check {
    rules::parse(AS_DATA, "shipped.toml").expect("it is right").remove(0)
}

/// What was found: outcome, the event that began it, the one that decided it.
fn found(tried: &Tried) -> Vec<(Outcome, usize, Option<usize>)> {
    tried.findings.iter().map(|found| (found.outcome, found.began, found.decided_by)).collect()
}

#[test]
fn rust_and_data_checks_agree_across_encodings() {
    let placed = |order| Order::Placed { order, cents: 500 };
    for check in [in_rust(), as_data()] {
        let tried = Trial::of(check.clone())
            .at(Duration::ZERO, placed(1))
            .at(HOUR, placed(2))
            .at(HOUR, placed(3))
            .at(2 * HOUR, placed(4))
            .at(72 * HOUR, Order::Shipped { order: 1 })
            .at(72 * HOUR, Order::Cancelled { order: 3 })
            .at(80 * HOUR, Order::Shipped { order: 2 })
            .until(90 * HOUR)
            .judge()
            .expect("the trial is well");
        assert_eq!((tried.activations, tried.satisfied, tried.violated, tried.pending), (4, 2, 2, 0));
        assert_eq!((tried.healed, tried.retracted, tried.unread), (1, 0, 0));
        let expected =
            [(Outcome::Violated, 1, None), (Outcome::Violated, 3, None), (Outcome::Healed, 1, Some(6))];
        assert_eq!(found(&tried), expected, "{check:?}");
        assert_eq!(tried.findings[2].decided_at, UNIX_EPOCH + 80 * HOUR);

        let json = |order: u32| json!({ "order": order, "cents": 500 });
        let tried = Trial::of(check.clone())
            .at_json(Duration::ZERO, "order.Placed", "order/1", &json(1))
            .at_json(72 * HOUR, "order.Shipped", "order/1", &json!({ "order": 1 }))
            .at_json(72 * HOUR, "order.Placed", "order/2", &json(2))
            .until(144 * HOUR)
            .judge()
            .expect("the trial is well");
        // At the very end of the window it may still come.
        assert_eq!((tried.satisfied, tried.violated, tried.pending), (1, 0, 1), "{check:?}");
    }
}

#[test]
fn retraction_is_found_under_event_time() {
    let at = |time: u64| json!({ "at": 1000 * time });
    let definition = json!({
        "id": "answered", "kind": "response", "expects": ["log.*"], "when": "log.Asked", "then": "log.Answered", "within": "10s", "time": "at",
        "severity": "note", "owner": "o", "means": "m", "remedy": "r",
    });
    let definition: Definition = serde_json::from_value(definition).expect("it is one");
    let tried = Trial::of(Check::try_from(definition).expect("it is right"))
        .at_json(Duration::from_secs(5), "log.Asked", "log/1", &at(5))
        .at_json(Duration::from_secs(20), "log.Noise", "log/2", &at(20))
        .at_json(Duration::from_secs(21), "log.Answered", "log/1", &at(14))
        .judge()
        .expect("the trial is well");
    assert_eq!(found(&tried), [(Outcome::Violated, 0, None), (Outcome::Retracted, 0, Some(2))]);
    assert_eq!((tried.violated, tried.satisfied, tried.retracted), (0, 1, 1));
}

#[test]
fn unreadable_event_yields_cannot_tell_with_reason() {
    let panics = about("panics").precedence(|_: &Order| panic!("a bug in a check"), shipped);
    let tried = Trial::of(panics).at(HOUR, Order::Shipped { order: 1 }).judge().expect("the trial is well");
    assert_eq!((tried.unread, tried.activations), (1, 0));
    assert_eq!(found(&tried), [(Outcome::CannotTell, 0, Some(0))]);
    let why = tried.findings[0].why.as_deref().expect("it says why");
    assert!(why.contains("a bug in a check"), "{why}");

    let tried = Trial::of(as_data())
        .at_json(HOUR, "order.Placed", "order/1", &json!({ "cents": 500 }))
        .judge()
        .expect("the trial is well");
    let why = tried.findings[0].why.as_deref().expect("it says why");
    assert!(why.contains("`order` is not there"), "{why}");
}

#[test]
fn invalid_trial_is_refused_with_reason() {
    let order = Order::Shipped { order: 1 };
    let silent = About { remedy: "", ..about("silent") };
    let refused = Trial::of(silent.precedence(placed, shipped)).judge();
    assert_eq!(refused.expect_err("it has no remedy").to_string(), "check `silent`: `remedy`: it is empty");

    let back = Trial::of(in_rust()).at(2 * HOUR, order.clone()).at(HOUR, order.clone()).judge();
    assert_eq!(back, Err(TrialError::Order { index: 1, at: HOUR, before: 2 * HOUR }));

    let early = Trial::of(in_rust()).at(2 * HOUR, order.clone()).until(HOUR).judge();
    assert_eq!(early, Err(TrialError::Until { until: HOUR, end: 2 * HOUR }));

    let never = Trial::of(in_rust()).at(HOUR, order.clone()).until(Duration::MAX).judge();
    assert_eq!(never, Err(TrialError::Time { at: Duration::MAX }));

    let nameless = Raw::json("Shipped", "order/1", Tags::none(), &json!({}));
    let refused = Trial::of(in_rust()).at(HOUR, order).at(HOUR, nameless).judge();
    assert!(matches!(refused, Err(TrialError::Event { index: 1, .. })), "{refused:?}");
}

#[test]
fn unexercised_check_reports_no_activations() {
    let tried = Trial::of(in_rust()).at(HOUR, Order::Shipped { order: 1 }).judge().expect("it is well");
    assert_eq!((tried.activations, tried.findings.len()), (0, 0));
}

// ---- a store finds the same ----

const KINDS: [&str; 20] = [
    "existence",
    "absence",
    "exactly",
    "init",
    "end",
    "not_coexistence",
    "responded_existence",
    "response",
    "precedence",
    "succession",
    "alternate_response",
    "alternate_precedence",
    "chain_response",
    "chain_precedence",
    "not_response",
    "not_precedence",
    "not_chain_response",
    "absent_between",
    "each_closed_by",
    "standing",
];

const BEGIN_MS: u64 = 1_780_000_000_000;

fn draw_check(random: &mut Random, kind: &str) -> Check {
    let targets = !["existence", "absence", "exactly", "init", "end"].contains(&kind);
    let counts = ["existence", "absence", "exactly"].contains(&kind);
    let mut definition = json!({
        "id": kind, "kind": kind, "expects": ["log.*"], "when": "log.A", "families": ["log"], "unbounded": true, "severity": "note", "owner": "o",
        "means": "m", "remedy": "r",
    });
    let mut put = |name: &str, is: bool, value: Value| {
        if is {
            definition[name] = value;
        }
    };
    put("then", targets, json!("log.B"));
    put("n", counts, json!(1 + random.below(3)));
    put("within", kind == "standing" || random.coin(), json!(format!("{}s", 1 + random.below(20))));
    put("not_before", !["standing", "absence"].contains(&kind) && random.chance(0.2), json!("1s"));
    put("until", random.chance(0.3), json!("log.C"));
    put("closed_by", random.chance(0.3), json!("log.Closed"));
    put("key", random.coin(), json!("key"));
    put("tied", targets && random.chance(0.3), json!(["line"]));
    if random.coin() {
        put("time", true, json!("at"));
        put("lateness", random.coin(), json!("4s"));
    }
    Check::try_from(serde_json::from_value::<Definition>(definition).expect("it is one"))
        .expect("it is right")
}

struct Fixture {
    events: Vec<(Duration, String, String, Value)>,
    until: Duration,
}

fn draw_events(random: &mut Random) -> Fixture {
    let (mut events, mut now) = (Vec::new(), Duration::ZERO);
    for _ in 0..random.below(40) {
        now += Duration::from_millis(500 * random.below(8));
        let name = ["A", "A", "B", "B", "C", "D", "Closed"][random.below(7) as usize];
        let told_late = 500 * random.below(20);
        let at = BEGIN_MS + u64::try_from(now.as_millis()).expect("it is short") - told_late;
        let payload = json!({ "key": random.below(3), "line": random.below(2), "at": at });
        // One in thirty cannot be read by those who want the key.
        let payload = if random.below(30) == 0 { json!({ "at": at }) } else { payload };
        events.push((now, format!("log.{name}"), format!("log/{}", random.below(3)), payload));
    }
    Fixture { events, until: now + Duration::from_secs(random.below(30)) }
}

/// Outcome, the event that began it, the one that decided it, when: of violations, in the order of activations.
type Standing = (Outcome, u64, Option<u64>, SystemTime);

fn stands(tried: &Tried) -> Vec<Standing> {
    let mut all: Vec<Standing> = Vec::new();
    for found in &tried.findings {
        let (began, by) = (found.began as u64, found.decided_by.map(|by| by as u64));
        match found.outcome {
            Outcome::Violated => {
                all.retain(|(_, known, ..)| *known != began);
                all.push((Outcome::Violated, began, by, found.decided_at));
            }
            outcome @ (Outcome::Healed | Outcome::Retracted) => {
                all.iter_mut().filter(|(_, known, ..)| *known == began).for_each(|one| one.0 = outcome);
            }
            _ => {}
        }
    }
    all.sort_by_key(|(_, began, ..)| *began);
    all
}

#[test]
fn trial_and_store_agree_on_events() {
    let (mut violated, mut unread, mut healed, mut retracted) = (0, 0, 0, 0);
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let fixture = draw_events(&mut random);
        let checks: Vec<_> = KINDS.iter().map(|kind| draw_check(&mut random, kind)).collect();
        let clock = SimClock::new(tallystone::Timestamp::from_micros(BEGIN_MS * 1000));
        let setup = lockstep(&clock).alerts(|_| ());
        let store =
            Store::in_memory(checks.iter().cloned().fold(setup, Setup::check)).expect("the setup is well");
        let (mut now, mut positions) = (Duration::ZERO, Vec::new());
        for (time, name, stream, payload) in &fixture.events {
            clock.advance(*time - now);
            now = *time;
            let raw = Raw::json(name.clone(), stream.clone(), Tags::none(), payload);
            positions.push(store.append(Append::raw(raw)).expect("it is taken").receipt.last);
            if random.chance(0.2) {
                settle(&store);
            }
        }
        clock.advance(fixture.until - now);
        settle(&store);
        for _ in 0..8 {
            store.step();
        }
        let horizon = UNIX_EPOCH + Duration::from_millis(BEGIN_MS) + fixture.until;
        for check in &checks {
            match store.checks().complete(check.id(), horizon) {
                // Half of them go by the time of commits.
                Ok(_) | Err(AppendError::Invalid { what: "check", .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        settle(&store);
        for (check, stats) in checks.iter().zip(store.checks().stats()) {
            let trial = Trial::of(check.clone()).starting(UNIX_EPOCH + Duration::from_millis(BEGIN_MS));
            let shown = fixture.events.iter().fold(trial, |trial, (time, name, stream, payload)| {
                trial.at_json(*time, name.clone(), stream.clone(), payload)
            });
            let tried = shown.until(fixture.until).judge().expect("the trial is well");
            let of_store = [
                stats.activations,
                stats.satisfied,
                stats.violated,
                stats.pending,
                stats.healed,
                stats.retracted,
                stats.unread,
            ];
            let of_trial = [
                tried.activations,
                tried.satisfied,
                tried.violated,
                tried.pending,
                tried.healed,
                tried.retracted,
                tried.unread,
            ];
            assert_eq!(of_trial, of_store, "seed {seed}, {check:?}");
            let index = |at: Position| {
                positions.iter().position(|known| *known == at).expect("it is one of them") as u64
            };
            let all = store.checks().of(check.id()).expect("rows are read");
            let all: Vec<Standing> = all
                .into_iter()
                .map(|one| {
                    let outcome = match one.state {
                        State::Healed { .. } => Outcome::Healed,
                        State::Retracted { .. } => Outcome::Retracted,
                        _ => Outcome::Violated,
                    };
                    (outcome, index(one.activation), one.by.map(index), one.decided_at)
                })
                .collect();
            assert_eq!(stands(&tried), all, "seed {seed}, {check:?}");
            let CheckStats { violated: more, unread: unread_more, .. } = stats;
            (violated, unread) = (violated + more, unread + unread_more);
            (healed, retracted) = (healed + stats.healed, retracted + stats.retracted);
        }
    }
    // It is no agreement on nothing.
    assert!(
        violated > 1000 && unread > 50 && healed > 50 && retracted > 20,
        "{violated} {unread} {healed} {retracted}"
    );
}
