//! Windows of calendar days and months: declared in Rust and as data, on clocks of the test, and over the real log of fines.

use crate::naive;
use crate::naive::data;
use crate::support::bench::{lockstep, settle};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tallystone::Timestamp;
use tallystone::check::{About, Check, Definition, Severity, Span};
use tallystone::error::OpenError;
use tallystone::event::{Raw, Tags};
use tallystone::prelude::*;
use tallystone::testing::SimClock;
use tallystone::watch::CheckStats;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Fine {
    Notified { fine: u32, at: u64 },
    Paid { fine: u32, at: u64 },
}

impl Event for Fine {
    const FAMILY: &'static str = "fine";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Notified { fine, .. } | Self::Paid { fine, .. }) = self;
        *fine
    }
}

impl Fine {
    fn at(&self) -> Option<SystemTime> {
        let (Self::Notified { at, .. } | Self::Paid { at, .. }) = self;
        Some(UNIX_EPOCH + Duration::from_millis(*at))
    }
}

fn notified(event: &Fine) -> bool {
    matches!(event, Fine::Notified { .. })
}

fn paid(event: &Fine) -> bool {
    matches!(event, Fine::Paid { .. })
}

fn about(id: &'static str) -> About {
    About {
        id,
        severity: Severity::Ticket,
        owner: "fines",
        means: "It was paid late.",
        remedy: "1 add the penalty",
    }
}

fn store(checks: impl IntoIterator<Item = Check>) -> Result<Store, OpenError> {
    // After all that happens.
    let setup = lockstep(&clock("2030-01-01T00:00")).events::<Fine>().alerts(|_| ());
    Store::in_memory(checks.into_iter().fold(setup, Setup::check))
}

fn settled(store: &Store) -> Vec<CheckStats> {
    settle(store);
    store.checks().stats()
}

/// One that stands at a time in UTC until the test moves it.
fn clock(text: &str) -> SimClock {
    SimClock::new(Timestamp::from_micros(millis(text) * 1000))
}

/// Of a time in UTC.
fn millis(text: &str) -> u64 {
    let millis = data::milliseconds(&format!("{text}:00.000Z"));
    u64::try_from(millis.expect("it is a time")).expect("after 1970")
}

/// A fine is notified and paid: whether by each check that was in time.
fn in_time<const N: usize>(checks: [Check; N], notified: &str, paid: &str) -> [bool; N] {
    let store = store(checks).expect("the checks are well");
    store.append(Append::event(Fine::Notified { fine: 1, at: millis(notified) })).expect("it is taken");
    store.append(Append::event(Fine::Paid { fine: 1, at: millis(paid) })).expect("it is taken");
    let stats = settled(&store);
    std::array::from_fn(|index| {
        let CheckStats { satisfied, violated, .. } = stats[index];
        assert_eq!(satisfied + violated, 1, "{:?}", stats[index]);
        satisfied == 1
    })
}

#[test]
fn day_window_follows_zone_and_includes_both_ends() {
    let checks = || {
        let response = |id| about(id).response(notified, paid).at(Fine::at, Duration::ZERO).imported();
        let precedence = |id| about(id).precedence(notified, paid).at(Fine::at, Duration::ZERO).imported();
        let a_day = || Span::in_zone("Europe/Rome").days(1);
        [
            response("days").within_days(1, "Europe/Rome"),
            response("span").within(a_day()),
            response("exact").within(Duration::from_secs(86_400)),
            precedence("back").within_days(1, "Europe/Rome"),
            precedence("from").between(a_day(), a_day().days(1)),
            precedence("after").after(a_day()),
        ]
        .map(Check::from)
    };
    for (from, to, found) in [
        // In spring it has 23 hours,
        ("2024-03-30T12:00", "2024-03-31T11:00", [true, true, true, true, true, true]),
        ("2024-03-30T12:00", "2024-03-31T11:01", [false, false, true, false, true, true]),
        ("2024-03-30T12:00", "2024-03-31T10:59", [true, true, true, true, false, false]),
        ("2024-03-30T12:00", "2024-04-01T11:00", [false, false, false, false, true, true]),
        ("2024-03-30T12:00", "2024-04-01T11:01", [false, false, false, false, false, true]),
        // and in autumn 25.
        ("2024-10-26T12:00", "2024-10-27T13:00", [true, true, false, true, true, true]),
        ("2024-10-26T12:00", "2024-10-27T13:01", [false, false, false, false, true, true]),
    ] {
        assert_eq!(in_time(checks(), from, to), found, "{from} {to}");
    }
}

#[test]
fn state_and_count_windows_follow_calendar_months() {
    let a_month = || Span::in_zone("Australia/Sydney").months(1);
    let checks = || {
        [
            about("stands")
                .switched_off(notified, paid, a_month())
                .at(Fine::at, Duration::ZERO)
                .imported()
                .into(),
            about("counted")
                .existence(1, paid)
                .at(Fine::at, Duration::ZERO)
                .imported()
                .within(a_month())
                .into(),
            about("either way")
                .responded_existence(notified, paid)
                .at(Fine::at, Duration::ZERO)
                .imported()
                .within(a_month())
                .into(),
        ]
    };
    // From January 31 to the end of February, noon in Sydney.
    assert_eq!(in_time(checks(), "2024-01-31T01:00", "2024-02-29T01:00"), [true; 3]);
    assert_eq!(in_time(checks(), "2024-01-31T01:00", "2024-02-29T01:01"), [false; 3]);
    // Its summer ends on April 7.
    assert_eq!(in_time(checks(), "2024-03-31T01:00", "2024-04-30T02:00"), [true; 3]);
    assert_eq!(in_time(checks(), "2024-03-31T01:00", "2024-04-30T02:01"), [false; 3]);
}

#[test]
fn calendar_deadline_passes_without_events() {
    let clock = clock("2024-10-26T12:00");
    let check = about("paid").response(notified, paid).within_days(1, "Europe/Rome");
    let setup = lockstep(&clock).events::<Fine>().alerts(|_| ()).check(check);
    let store = Store::in_memory(setup).expect("the setup is well");
    store.append(Append::event(Fine::Notified { fine: 1, at: 0 })).expect("it is taken");
    for (hours, violated) in [(0, 0), (24, 0), (1, 0)] {
        clock.advance(Duration::from_secs(hours * 3600));
        store.accept_clock();
        (0..4).for_each(|_| store.step());
        assert_eq!(settled(&store)[0].violated, violated, "{hours} hours more");
    }
    clock.advance(Duration::from_secs(1));
    (0..4).for_each(|_| store.step());
    assert_eq!(settled(&store)[0].violated, 1);
}

#[test]
fn check_with_unknown_zone_refuses_open() {
    let paid_within = |span: Span| about("paid").response(notified, paid).within(span);
    for (span, says) in [
        (Span::in_zone("Europe/Rom").days(60), "check `paid`: `zone`: there is no zone `Europe/Rom`"),
        (Span::in_zone("Europe/Rom").and(Duration::from_secs(1)), "check `paid`: `zone`: there is no zone"),
        (Span::in_zone("").days(1), "check `paid`: `zone`: there is no zone ``"),
        (Span::in_zone(String::from("CET\0")).days(1), "check `paid`: `zone`: there is no zone"),
    ] {
        match store([paid_within(span).into()]) {
            Err(OpenError::Setup(wrong)) => assert!(wrong.iter().any(|one| one.contains(says)), "{wrong:?}"),
            other => panic!("{other:?}"),
        }
    }
    let shorter = Span::in_zone("Europe/Rome").days(1);
    let empty = about("paid").response(notified, paid).between(shorter.clone().days(1), shorter);
    match store([empty.into()]) {
        Err(OpenError::Setup(wrong)) => {
            assert!(wrong[0].contains("the window ends before it begins"), "{wrong:?}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn window_beyond_calendar_range_never_expires() {
    let far = [
        Span::in_zone("Europe/Rome").days(u32::MAX),
        Span::in_zone("Europe/Rome").years(u32::MAX).weeks(u32::MAX).months(7),
        Span::in_zone("Europe/Rome").days(1).and(Duration::MAX),
        Span::from(Duration::MAX),
    ];
    let names = ["days", "years", "and", "exact"];
    let checks = far
        .into_iter()
        .zip(names)
        .map(|(span, name)| about(name).response(notified, paid).within(span).into());
    let store = store(checks).expect("the checks are well");
    store.append(Append::event(Fine::Notified { fine: 1, at: 0 })).expect("it is taken");
    for check in settled(&store) {
        assert_eq!((check.pending, check.violated), (1, 0), "{check:?}");
    }
    store.append(Append::event(Fine::Paid { fine: 1, at: 0 })).expect("it is taken");
    for check in settled(&store) {
        assert_eq!((check.pending, check.satisfied), (0, 1), "{check:?}");
    }
}

#[test]
fn definition_hash_covers_zone_and_unit_not_spelling() {
    let hash = |within: &str, zone: Option<&str>| {
        let definition = json!({
            "id": "paid", "kind": "response", "expects": ["fine.*"], "when": "fine.Notified", "then": "fine.Paid", "within": within, "zone": zone,
            "severity": "note", "owner": "fines", "means": "It was paid late.", "remedy": "1 look",
        });
        let definition: Definition = serde_json::from_value(definition).expect("it is a definition");
        let store = store([Check::try_from(definition).expect("it is well formed")]).expect("it opens");
        settled(&store)[0].definition
    };
    let rome = Some("Europe/Rome");
    let all = [
        hash("60d", None),
        hash("60d", rome),
        hash("60d", Some("Europe/Paris")),
        hash("2mo", rome),
        hash("60d1ms", rome),
        hash("61d", rome),
    ];
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    assert_eq!(hash("60d", None), hash("1440h", None));
    assert_eq!(hash("8w4d", rome), hash("60d", rome));
    assert_eq!(hash("1440h", rome), hash("60d", None), "what is exact is of no zone");
    let in_rust = |check: Check| settled(&store([check]).expect("it opens"))[0].definition;
    let within = |days| Check::from(about("paid").response(notified, paid).within_days(days, "Europe/Rome"));
    assert_ne!(in_rust(within(60)), in_rust(within(61)));
    assert_eq!(
        in_rust(within(60)),
        in_rust(
            about("paid")
                .response(notified, paid)
                .within(Span::in_zone("Europe/Rome").weeks(8).days(4))
                .into()
        )
    );
}

// ---- a real log ----

/// A fine is due 60 days after it was notified, and then gets a penalty. The police count days on the calendar.
#[test]
fn late_penalties_of_fines_match_the_oracle() {
    const NOTIFIED: &str = "Insert Fine Notification";
    const PENALTY: &str = "Add penalty";
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "rtfm");
    let constraints = oracle["constraints"].as_array().expect("it has constraints");
    let expected = constraints.iter().find(|one| one["def"]["id"] == "R07").expect("R07 is one of them");
    assert_eq!(
        (&expected["def"]["A"], &expected["def"]["B"], &expected["def"]["window"]),
        (&json!(NOTIFIED), &json!(PENALTY), &json!([0, 60 * 86_400_000_i64]))
    );
    let check = |id: &str, zone: Option<&str>| {
        let definition = json!({
            "id": id, "kind": "response", "expects": ["log.*"], "when": format!("log.{NOTIFIED}"), "then": format!("log.{PENALTY}"), "within": "60d",
            "zone": zone, "time": "ts", "imported": true, "severity": "note", "owner": "tests", "means": "No penalty came.", "remedy": "1 look",
        });
        let definition: Definition = serde_json::from_value(definition).expect("it is a definition");
        Check::try_from(definition).expect("it is well formed")
    };
    let checks = [check("by the calendar", Some("Europe/Rome")), check("exactly", None)];
    let setup = checks.into_iter().fold(Setup::new().lockstep().alerts(|_| ()), Setup::check);
    let store = Store::in_memory(setup).expect("the setup is well");

    let log = data::fines(&folder);
    let horizon = log.iter().map(|event| event.ts).max().expect("it has events");
    // Others are nothing to this rule.
    let of_rule: Vec<_> = log.iter().filter(|event| [NOTIFIED, PENALTY].contains(&&*event.kind)).collect();
    let mut names = BTreeMap::new();
    for batch in of_rule.chunks(500) {
        let raw = |event: &&naive::Event| {
            let (kind, stream) = (format!("log.{}", event.kind), format!("log/{}", event.case));
            Raw::json(kind, stream, Tags::none(), &json!({ "ts": event.ts }))
        };
        let mut all = batch.iter().map(raw);
        let first = Append::raw(all.next().expect("a batch has events"));
        let receipt = store.append(all.fold(first, Append::and_raw)).expect("it is taken").receipt;
        names.extend(
            (receipt.first.get()..).zip(batch.iter().map(|event| format!("{}:{}", event.case, event.idx))),
        );
    }
    let until = UNIX_EPOCH + Duration::from_millis(u64::try_from(horizon).expect("after 1970"));
    for id in ["by the calendar", "exactly"] {
        store.checks().complete(id, until).expect("it is taken");
    }
    let [by_calendar, exactly] = &settled(&store)[..] else { panic!("there are two checks") };
    let counts =
        |stats: &CheckStats| json!([stats.activations, stats.satisfied, stats.violated, stats.pending]);
    let open = &expected["open"];
    assert_eq!(
        counts(exactly),
        json!([open["activations"], open["satisfied"], open["violated"], open["pending"]])
    );
    let all = store.checks().of("exactly").expect("rows are read");
    let ids = all.iter().map(|violation| names[&violation.activation.get()].clone()).collect();
    assert_eq!(json!(naive::sha256(&ids)), open["violations_sha256"]);
    assert!(exactly.violated > 17_000, "{exactly:?}");
    assert_eq!((by_calendar.activations, by_calendar.violated), (exactly.activations, 0));
    assert_eq!(by_calendar.satisfied, by_calendar.activations);
}
