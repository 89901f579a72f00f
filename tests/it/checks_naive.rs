//! The brute-force judge of checks, held against cases judged by hand and against the oracles of real logs.
//!
//! The real logs are not part of the project, see `naive/data.rs` for where they are looked for.

use crate::naive::random::{Random, Shape, random_def, random_log};
use crate::naive::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A log in one line. `ab@5` is an event of case `k` with the roles A and B at millisecond 5, `z/c` one of case `z`, and `a(1)`
/// has the attribute x = 1. Without a time it is at its place in the line.
fn log(text: &str) -> Vec<Event> {
    let mut lengths: BTreeMap<String, usize> = BTreeMap::new();
    let event = |(place, word): (usize, &str)| {
        let (word, ts) =
            word.split_once('@').map_or((word, place as i64), |(word, ts)| (word, ts.parse().unwrap()));
        let (case, word) = word.split_once('/').unwrap_or(("k", word));
        let (kind, attrs) = match word.trim_end_matches(')').split_once('(') {
            Some((kind, x)) => (kind, Map::from_iter([("x".to_owned(), serde_json::from_str(x).unwrap())])),
            None => (word, Map::new()),
        };
        let idx = lengths.entry(case.to_owned()).and_modify(|length| *length += 1).or_default();
        Event { case: case.to_owned(), idx: *idx, kind: kind.to_owned(), ts, attrs }
    };
    text.split_whitespace().enumerate().map(event).collect()
}

/// A template with the selectors it needs, so that the type `ab` is both A and B, and what else is given.
fn def(template: &str, more: Value) -> Def {
    let mut def = json!({ "id": template, "template": template, "A": ["a", "ab", "ac", "abc"] });
    if !["existence", "absence", "exactly", "init", "end"].contains(&template) {
        def["B"] = json!(["b", "ab", "bc", "abc"]);
    }
    if template == "absent_between" {
        def["C"] = json!(["c", "ac", "bc", "abc"]);
    }
    def.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(def).unwrap()
}

fn none() -> Value {
    json!({})
}

fn within(lo: i64, hi: i64) -> Value {
    json!({ "window": [lo, hi] })
}

/// The verdicts on case `k`: `0+ 2- 3?` for satisfied, violated and pending, `case` for a case as a whole.
fn verdicts(def: &Def, log: &[Event], mode: Mode) -> String {
    let all = activations(&Cases::of(log), def, mode);
    let of_k = all.iter().filter(|(of, _)| of.case == "k").map(|(of, verdict)| {
        let mark = match verdict {
            Verdict::Satisfied => '+',
            Verdict::Violated => '-',
            Verdict::Pending => '?',
        };
        of.idx.map_or(format!("case{mark}"), |idx| format!("{idx}{mark}"))
    });
    of_k.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn judged(template: &str, more: Value, text: &str, open: &str, closed: &str) {
    let (def, log) = (def(template, more), log(text));
    assert_eq!(verdicts(&def, &log, Mode::Open), open, "open: {def:?} on {text}");
    assert_eq!(verdicts(&def, &log, Mode::Closed), closed, "closed: {def:?} on {text}");
}

// Order and time.

#[test]
fn append_order_decides_without_window() {
    judged("response", none(), "a@9 b@1", "0+", "0+");
    judged("response", none(), "b@9 a@1", "1?", "1-");
    judged("precedence", none(), "a@9 b@1", "1+", "1+");
    judged("chain_response", none(), "a@9 b@1 c@5", "0+", "0+");
    judged("init", none(), "a@9 b@1", "case+", "case+");
    judged("each_closed_by", none(), "a@9 b@1", "0+", "0+");
    judged("response", none(), "a@0 z/z@1000000", "0?", "0-");
}

#[test]
fn window_includes_both_ends() {
    for (at, inside) in [(11, false), (12, true), (15, true), (16, false)] {
        let text = format!("a@10 b@{at}");
        let (good, bad) = if inside { ("+", "-") } else { ("-", "+") };
        for (template, activation, verdict) in [
            ("response", 0, good),
            ("alternate_response", 0, good),
            ("chain_response", 0, good),
            ("responded_existence", 0, good),
            ("each_closed_by", 0, good),
            ("precedence", 1, good),
            ("alternate_precedence", 1, good),
            ("chain_precedence", 1, good),
            ("not_response", 0, bad),
            ("not_precedence", 1, bad),
            ("not_chain_response", 0, bad),
            ("absent_between", 0, bad),
        ] {
            let verdict = format!("{activation}{verdict}");
            let closed = verdicts(&def(template, within(2, 5)), &log(&text), Mode::Closed);
            assert_eq!(closed, verdict, "{template} on {text}");
        }
    }
}

#[test]
fn b_with_earlier_timestamp_is_outside_window() {
    judged("response", within(0, 5), "a@9 b@8", "0?", "0-");
    judged("not_response", within(0, 5), "a@9 b@8", "0?", "0+");
    judged("precedence", within(0, 5), "a@9 b@8", "1-", "1-");
    judged("responded_existence", within(0, 5), "a@9 b@8", "0+", "0+");
}

#[test]
fn deadline_passes_only_when_horizon_is_later() {
    for (template, more, passed) in [
        ("response", none(), "0-"),
        ("alternate_response", none(), "0-"),
        ("chain_response", none(), "0-"),
        ("responded_existence", none(), "0-"),
        ("each_closed_by", none(), "0-"),
        ("existence", json!({ "n": 2 }), "case-"),
        ("exactly", json!({ "n": 2 }), "case-"),
        ("exactly", json!({ "n": 1 }), "case+"),
        ("not_response", none(), "0+"),
        ("not_chain_response", none(), "0+"),
        ("absent_between", none(), "0+"),
        ("succession", none(), "0-"),
    ] {
        let with = |window: Value| {
            let mut more = more.clone();
            more["window"] = window;
            def(template, more)
        };
        let pending = passed.replace(['+', '-'], "?");
        // The horizon is that of all cases.
        for (def, text, verdict) in [
            (with(json!([0, 5])), "a@10 z/z@15", &*pending),
            (with(json!([0, 5])), "a@10 z/z@16", passed),
            (with(json!([0, null])), "a@10 z/z@1000000", &*pending),
        ] {
            assert_eq!(verdicts(&def, &log(text), Mode::Open), verdict, "{def:?} on {text}");
            assert_eq!(verdicts(&def, &log(text), Mode::Closed), passed, "{def:?} on {text}");
        }
    }
}

#[test]
fn naive_calendar_follows_rome_time() {
    let at = |text: &str| data::milliseconds(&format!("{text}:00.000Z")).unwrap();
    for (text, hours) in [
        ("2001-10-28T00:59", 2),
        ("2001-10-28T01:00", 1),
        ("2002-03-31T00:59", 1),
        ("2002-03-31T01:00", 2),
        ("2024-07-01T00:00", 2),
        ("2024-12-31T23:59", 1),
    ] {
        assert_eq!(rome::ahead(at(text)), hours * 3_600_000, "{text}");
    }
    for (unit, by, from, to) in [
        (rome::Unit::Days, 1, "2002-03-30T12:00", "2002-03-31T11:00"),
        (rome::Unit::Days, 1, "2001-10-27T12:00", "2001-10-28T13:00"),
        // Skipped, and twice.
        (rome::Unit::Days, 1, "2002-03-30T01:30", "2002-03-31T01:30"),
        (rome::Unit::Days, 1, "2001-10-27T00:30", "2001-10-28T00:30"),
        (rome::Unit::Days, 0, "2001-10-28T01:30", "2001-10-28T01:30"),
        (rome::Unit::Months, 1, "2004-01-31T12:00", "2004-02-29T12:00"),
        (rome::Unit::Months, 13, "2004-12-31T22:59", "2006-01-31T22:59"),
        (rome::Unit::Months, 12, "2004-02-29T12:00", "2005-02-28T12:00"),
    ] {
        let begin = at("2001-01-01T00:00");
        let later = rome::Calendar { unit, begin }.later(at(from) - begin, by) + begin;
        assert_eq!(later, at(to), "{unit:?} {by} {from}");
    }
}

// What each template asks.

#[test]
fn a_response_is_any_later_b() {
    judged("response", none(), "a c b", "0+", "0+");
    judged("response", none(), "b a c", "1?", "1-");
    judged("response", none(), "a a b a", "0+ 1+ 3?", "0+ 1+ 3-");
    judged("not_response", none(), "a c b", "0-", "0-");
    judged("not_response", none(), "b a c", "1?", "1+");
}

#[test]
fn event_with_both_roles_never_answers_itself() {
    judged("response", none(), "ab", "0?", "0-");
    judged("response", none(), "ab b", "0+", "0+");
    judged("not_response", none(), "ab", "0?", "0+");
    judged("precedence", none(), "ab", "0-", "0-");
    judged("not_precedence", none(), "ab", "0+", "0+");
    judged("alternate_response", none(), "ab", "0?", "0-");
    judged("alternate_precedence", none(), "ab", "0-", "0-");
    judged("absent_between", none(), "ab", "0?", "0+");
    judged("chain_response", none(), "ab", "0?", "0-");
    judged("chain_precedence", none(), "ab", "0-", "0-");
    judged("succession", none(), "ab", "0? 0-", "0- 0-");
}

#[test]
fn precedence_is_decided_at_the_b() {
    judged("precedence", none(), "b a b", "0- 2+", "0- 2+");
    judged("not_precedence", none(), "b a b", "0+ 2-", "0+ 2-");
    judged("not_precedence", within(2, 5), "a@0 b@1 b@2 b@6", "1+ 2- 3+", "1+ 2- 3+");
    // One A in the window is enough, the oldest or not.
    judged("precedence", within(2, 5), "a@0 a@4 b@6", "2+", "2+");
    judged("precedence", within(2, 5), "a@3 a@6 b@6", "2+", "2+");
}

#[test]
fn succession_counts_every_a_and_b() {
    judged("succession", none(), "b a b", "0- 1+ 2+", "0- 1+ 2+");
    judged("succession", none(), "a b a", "0+ 1+ 2?", "0+ 1+ 2-");
}

#[test]
fn event_violating_both_roles_counts_twice_listed_once() {
    let log = log("ab");
    let verdicts = judge(&Cases::of(&log), &def("succession", none()), Mode::Closed);
    assert_eq!((verdicts.activations, verdicts.violated, verdicts.cases_violated), (2, 2, 1));
    assert_eq!(verdicts.violations, BTreeSet::from(["k:0".to_owned()]));
}

#[test]
fn alternate_response_must_come_by_next_a() {
    judged("alternate_response", none(), "a a b", "0- 1+", "0- 1+");
    judged("alternate_response", none(), "a c b a", "0+ 3?", "0+ 3-");
    judged("alternate_response", none(), "a ab b", "0+ 1+", "0+ 1+");
    judged("alternate_response", within(0, 5), "a@0 b@9 a@9", "0- 2?", "0- 2-");
    judged("alternate_response", within(2, 5), "a@0 b@1 a@2", "0- 2?", "0- 2-");
    // The next A is any, whatever its attributes.
    judged("alternate_response", json!({ "corr": ["x"] }), "a(1) a(2) b(1)", "0- 1?", "0- 1-");
}

#[test]
fn alternate_precedence_looks_back_to_previous_b() {
    judged("alternate_precedence", none(), "a b b", "1+ 2-", "1+ 2-");
    judged("alternate_precedence", none(), "a b a b", "1+ 3+", "1+ 3+");
    judged("alternate_precedence", none(), "ab b", "0- 1+", "0- 1+");
    judged("alternate_precedence", within(0, 5), "a@0 b@1 a@2 b@8", "1+ 3-", "1+ 3-");
    // The previous B is any, whatever its attributes.
    judged("alternate_precedence", json!({ "corr": ["x"] }), "a(1) b(2) b(1)", "1- 2-", "1- 2-");
}

#[test]
fn chain_rules_use_next_event_of_case() {
    judged("chain_response", none(), "a z/c b", "0+", "0+");
    judged("chain_response", none(), "a c b", "0-", "0-");
    judged("chain_response", none(), "a", "0?", "0-");
    judged("chain_response", none(), "a ab b", "0+ 1+", "0+ 1+");
    judged("chain_response", within(0, 5), "a@0 b@6", "0-", "0-");
    judged("chain_precedence", none(), "b a z/c b c b", "0- 2+ 4-", "0- 2+ 4-");
    judged("chain_precedence", within(0, 5), "a@0 b@6", "1-", "1-");
}

#[test]
fn not_chain_response_violation_needs_window_and_attributes() {
    judged("not_chain_response", none(), "a b a c a", "0- 2+ 4?", "0- 2+ 4+");
    judged("not_chain_response", within(0, 5), "a@0 b@6", "0+", "0+");
    let equal = json!({ "corr": ["x"] });
    judged("not_chain_response", equal, "a(1) b(2) a(1) b(1)", "0+ 2-", "0+ 2-");
}

#[test]
fn absent_between_scope_ends_at_next_c() {
    judged("absent_between", none(), "a b c", "0-", "0-");
    judged("absent_between", none(), "a c b", "0+", "0+");
    judged("absent_between", none(), "a a b", "0- 1-", "0- 1-");
    judged("absent_between", none(), "a a c", "0+ 1+", "0+ 1+");
    judged("absent_between", none(), "a", "0?", "0+");
    judged("absent_between", within(2, 5), "a@0 b@1 b@6 c@6", "0+", "0+");
    judged("absent_between", within(2, 5), "a@0 b@1 b@5 c@6", "0-", "0-");
    // The C is any, whatever its attributes.
    judged("absent_between", json!({ "corr": ["x"] }), "a(1) c(2) b(1)", "0+", "0+");
}

#[test]
fn role_c_applies_before_b_and_a() {
    judged("absent_between", none(), "a bc b", "0+", "0+");
    judged("absent_between", none(), "ac b", "0-", "0-");
    judged("absent_between", none(), "a ac b", "0+ 1-", "0+ 1-");
    judged("absent_between", none(), "a abc b", "0+ 1-", "0+ 1-");
}

#[test]
fn responded_existence_accepts_earlier_later_or_same_event() {
    judged("responded_existence", none(), "b a", "1+", "1+");
    judged("responded_existence", none(), "a b", "0+", "0+");
    judged("responded_existence", none(), "ab", "0+", "0+");
    judged("responded_existence", none(), "a", "0?", "0-");
    judged("responded_existence", within(2, 5), "b@0 a@5", "1+", "1+");
    judged("responded_existence", within(2, 5), "b@0 a@6", "1?", "1-");
    judged("responded_existence", within(2, 5), "a@0 b@1 z/z@5", "0?", "0-");
    // The distance to itself is none.
    judged("responded_existence", within(1, 5), "ab", "0?", "0-");
    judged("responded_existence", json!({ "corr": ["x"] }), "b(1) ab(2) a(1) a(3)", "1+ 2+ 3?", "1+ 2+ 3-");
}

#[test]
fn not_coexistence_is_violated_once_both_occur() {
    judged("not_coexistence", none(), "c", "", "");
    judged("not_coexistence", none(), "a a", "case?", "case+");
    judged("not_coexistence", none(), "b", "case?", "case+");
    judged("not_coexistence", none(), "b a", "case-", "case-");
    judged("not_coexistence", none(), "ab", "case-", "case-");
}

#[test]
fn each_b_closes_oldest_open_a() {
    judged("each_closed_by", none(), "a a b", "0+ 1?", "0+ 1-");
    judged("each_closed_by", none(), "b a", "0- 1?", "0- 1-");
    judged("each_closed_by", none(), "a b b", "0+ 2-", "0+ 2-");
    judged("each_closed_by", none(), "a ab b", "0+ 1+", "0+ 1+");
    judged("each_closed_by", none(), "ab", "0- 0?", "0- 0-");
    let equal = json!({ "corr": ["x"] });
    judged("each_closed_by", equal.clone(), "a(1) a(2) a(2) b(2)", "0? 1+ 2?", "0- 1+ 2-");
    judged("each_closed_by", equal, "a(1) b(2)", "0? 1-", "0- 1-");
}

#[test]
fn b_outside_window_closes_and_violates_a() {
    judged("each_closed_by", within(0, 5), "a@0 b@9 b@9", "0- 2-", "0- 2-");
    judged("each_closed_by", within(2, 5), "a@0 b@1 z/z@1", "0-", "0-");
    // The second A is open and in time, and yet the B is the first's.
    judged("each_closed_by", within(0, 5), "a@0 a@8 b@9", "0- 1?", "0- 1-");
}

#[test]
fn counts_are_judged_once_they_are_final() {
    judged("existence", json!({ "n": 2 }), "a c", "case?", "case-");
    judged("existence", json!({ "n": 2 }), "a c a", "case+", "case+");
    judged("absence", json!({ "n": 2 }), "a c", "case?", "case+");
    judged("absence", json!({ "n": 2 }), "a c a", "case-", "case-");
    judged("exactly", json!({ "n": 1 }), "c", "case?", "case-");
    judged("exactly", json!({ "n": 1 }), "a c", "case?", "case+");
    judged("exactly", json!({ "n": 1 }), "a c a", "case-", "case-");
}

#[test]
fn count_window_begins_with_first_case_event() {
    let two = json!({ "n": 2, "window": [2, 5] });
    judged("existence", two.clone(), "c@10 a@11 a@12 a@15", "case+", "case+");
    judged("existence", two.clone(), "c@10 a@11 a@12 a@16", "case-", "case-");
    judged("exactly", two.clone(), "c@10 a@12 a@15 z/z@15", "case?", "case+");
    judged("exactly", two.clone(), "c@10 a@12 a@15 a@16", "case+", "case+");
    judged("exactly", two, "c@10 a@12 a@12 a@12", "case-", "case-");
}

#[test]
fn sliding_absence_window_counts_each_a_once() {
    let two = json!({ "n": 2, "window": [0, 5] });
    judged("absence", two.clone(), "c@10 a@11 a@17", "case?", "case+");
    judged("absence", two.clone(), "c@10 a@12 a@17", "case-", "case-");
    judged("absence", two.clone(), "c@10 a@100 a@200 a@205 a@206", "case-", "case-");
    judged("absence", two.clone(), "a@10 a@15 a@100 a@105", "case- case-", "case- case-");
    // By their times, in whatever order they are told.
    judged("absence", two, "a@100 a@10 a@14", "case-", "case-");
}

#[test]
fn init_is_decided_immediately_end_at_close() {
    judged("init", none(), "a c", "case+", "case+");
    judged("init", none(), "c a", "case-", "case-");
    judged("end", none(), "c a", "case?", "case+");
    judged("end", none(), "a c", "case?", "case-");
}

#[test]
fn case_templates_are_activated_by_every_case() {
    let log = log("x/a y/b z/a");
    for template in ["init", "end"] {
        assert_eq!(
            judge(&Cases::of(&log), &def(template, none()), Mode::Closed).activations,
            3,
            "{template}"
        );
    }
    let closed = judge(&Cases::of(&log), &def("existence", json!({ "n": 1 })), Mode::Closed);
    assert_eq!(closed.violations, BTreeSet::from(["y:-".to_owned()]));
}

#[test]
fn standing_longer_than_allowed_is_violated() {
    let five = json!({ "for": 5 });
    judged("standing", five.clone(), "a@0 b@5", "0+", "0+");
    judged("standing", five.clone(), "a@0 b@6", "0-", "0-");
    judged("standing", five.clone(), "a@0 z/z@5", "0?", "0+");
    judged("standing", five.clone(), "a@0 z/z@6", "0-", "0-");
    // While it stands another A changes nothing, and while it does not a B does not either.
    judged("standing", five.clone(), "b@0 a@0 a@4 b@6 b@20 a@21 b@22", "1- 5+", "1- 5+");
    // One event may end an episode and begin the next.
    judged("standing", five, "a@0 ab@5 b@9", "0+ 1+", "0+ 1+");
}

// Attributes, selectors, definitions.

#[test]
fn missing_attributes_are_equal_null_is_not() {
    let equal = json!({ "corr": ["x"] });
    judged("response", equal.clone(), "a(1) b(1)", "0+", "0+");
    judged("response", equal.clone(), "a(1) b(2)", "0?", "0-");
    judged("response", equal.clone(), "a b", "0+", "0+");
    judged("response", equal.clone(), "a(1) b", "0?", "0-");
    judged("response", equal.clone(), "a b(1)", "0?", "0-");
    judged("response", equal.clone(), "a b(null)", "0?", "0-");
    judged("precedence", equal.clone(), "a(1) a(2) b(1) b(3)", "2+ 3-", "2+ 3-");
    judged("chain_precedence", equal, "a(1) b(2) a(1) b(1)", "1- 3+", "1- 3+");
    judged("response", json!({ "corr": ["x", "y"] }), "a(1) b(1)", "0+", "0+");
}

#[test]
fn selector_matches_type_any_alternative_or_all_attributes() {
    let event = &log("a(1)")[0];
    for (selector, takes) in [
        (json!("a"), true),
        (json!("b"), false),
        (json!(["b", "a"]), true),
        (json!([]), false),
        (json!({ "type": "a" }), true),
        (json!({ "attr": { "x": 1 } }), true),
        (json!({ "attr": { "x": 2 } }), false),
        (json!({ "attr": { "x": 1, "y": 1 } }), false),
        (json!({ "attr": { "y": null } }), false),
        (json!({ "type": "a", "attr": { "x": 1 } }), true),
        (json!({ "type": "b", "attr": { "x": 1 } }), false),
        (json!({}), true),
        (json!(["b", { "attr": { "x": 1 } }]), true),
    ] {
        let read: Selector = serde_json::from_value(selector.clone()).unwrap();
        assert_eq!(read.takes(event), takes, "{selector}");
    }
}

#[test]
fn definition_with_unknown_part_is_refused() {
    let sound = json!({ "id": "i", "template": "response", "A": "a", "B": "b" });
    assert!(serde_json::from_value::<Def>(sound.clone()).is_ok());
    for (part, value) in [
        ("D", json!("d")),
        ("template", json!("responds")),
        ("A", json!({ "kind": "a" })),
        ("window", json!([0])),
        ("window", json!(["0", null])),
    ] {
        let mut unsound = sound.clone();
        unsound[part] = value;
        assert!(serde_json::from_value::<Def>(unsound.clone()).is_err(), "{unsound}");
    }
}

#[test]
fn definition_with_missing_or_unused_part_is_refused() {
    let refused = |text: &str| {
        let def: Def = serde_json::from_str(text).unwrap();
        catch_unwind(AssertUnwindSafe(|| def.assert_well_formed())).is_err()
    };
    for text in [
        r#"{"id": "i", "template": "response", "A": "a"}"#,
        r#"{"id": "i", "template": "response", "B": "b"}"#,
        r#"{"id": "i", "template": "response", "A": "a", "B": "b", "C": "c"}"#,
        r#"{"id": "i", "template": "response", "A": "a", "B": "b", "n": 1}"#,
        r#"{"id": "i", "template": "response", "A": "a", "B": "b", "window": [5, 4]}"#,
        r#"{"id": "i", "template": "response", "A": "a", "B": "b", "window": [-1, 4]}"#,
        r#"{"id": "i", "template": "absent_between", "A": "a", "B": "b"}"#,
        r#"{"id": "i", "template": "existence", "A": "a"}"#,
        r#"{"id": "i", "template": "existence", "A": "a", "n": 0}"#,
        r#"{"id": "i", "template": "existence", "A": "a", "n": 1, "corr": ["x"]}"#,
        r#"{"id": "i", "template": "init", "A": "a", "window": [0, 5]}"#,
        r#"{"id": "i", "template": "not_coexistence", "A": "a", "B": "b", "window": [0, 5]}"#,
        r#"{"id": "i", "template": "standing", "A": "a", "B": "b"}"#,
    ] {
        assert!(refused(text), "{text}");
    }
    assert!(!refused(
        r#"{"id": "i", "template": "standing", "A": "a", "B": "b", "for": 5, "note": "sound"}"#
    ));
}

// Random logs and definitions.

fn orderly(seed: u64) -> Vec<Event> {
    random_log(seed, Shape { events: 30, cases: 3, late: 0 })
}

#[test]
fn same_seed_gives_same_log_and_definition() {
    let shape = Shape { events: 40, cases: 3, late: 7 };
    assert_eq!(random_log(5, shape), random_log(5, shape));
    assert_ne!(random_log(5, shape), random_log(6, shape));
    assert_eq!(format!("{:?}", random_def(5)), format!("{:?}", random_def(5)));
    // The first number that splitmix64 gives for nought, so that seeds mean the same for ever.
    assert_eq!(Random::new(0).next(), 0xE220_A839_7B1D_CDAF);
}

#[test]
fn random_lateness_reaches_but_never_exceeds_limit() {
    let late = 7;
    let mut most = 0;
    for seed in 0..50 {
        let mut latest = 0;
        for event in random_log(seed, Shape { events: 40, cases: 3, late }) {
            latest = latest.max(event.ts);
            most = most.max(latest - event.ts);
        }
        assert!(orderly(seed).is_sorted_by_key(|event| event.ts), "seed {seed}");
    }
    assert_eq!(most, late);
}

#[test]
fn random_definitions_cover_every_template_and_verdict() {
    let mut met: BTreeMap<Template, BTreeSet<Verdict>> = BTreeMap::new();
    for seed in 0..4000 {
        let (def, log) = (random_def(seed), orderly(seed));
        met.entry(def.template)
            .or_default()
            .extend(activations(&Cases::of(&log), &def, Mode::Open).iter().map(|(_, verdict)| *verdict));
    }
    for template in Template::ALL {
        use Verdict::*;
        let all: &[Verdict] = match template {
            Template::End => &[Pending],
            // A window of an absence slides on, until the case is closed.
            Template::NotCoexistence | Template::Absence => &[Violated, Pending],
            Template::Init
            | Template::Precedence
            | Template::AlternatePrecedence
            | Template::ChainPrecedence
            | Template::NotPrecedence => &[Satisfied, Violated],
            _ => &[Satisfied, Violated, Pending],
        };
        assert_eq!(met[&template], all.iter().copied().collect(), "{template:?}");
    }
}

#[test]
fn verdicts_are_final_and_none_pending_when_closed() {
    let mut decided = 0;
    for seed in 0..2000 {
        let (def, log) = (random_def(seed), orderly(seed));
        let at_end = verdicts_by_activation(&log, &def, Mode::Open);
        for cut in (1..log.len()).step_by(4) {
            for (activation, before) in verdicts_by_activation(&log[..cut], &def, Mode::Open) {
                // In the order of their roles, so that those of one event are compared with themselves.
                for (before, after) in before.iter().zip(&at_end[&activation]) {
                    decided += usize::from(*before != Verdict::Pending);
                    let taken_back = *before != Verdict::Pending && before != after;
                    assert!(!taken_back, "{def:?}, {activation} of {cut}: {before:?}, then {after:?}");
                }
            }
        }
        let closed = judge(&Cases::of(&log), &def, Mode::Closed);
        assert_eq!(closed.pending, 0, "{def:?}");
    }
    assert!(decided > 10_000, "{decided}");
}

#[test]
fn open_and_closed_verdicts_agree_once_decided() {
    for seed in 0..2000 {
        let (def, log) = (random_def(seed), random_log(seed, Shape { events: 30, cases: 3, late: 7 }));
        let cases = Cases::of(&log);
        let (open, closed) = (activations(&cases, &def, Mode::Open), activations(&cases, &def, Mode::Closed));
        assert_eq!(open.len(), closed.len(), "{def:?}");
        for ((activation, open), (_, closed)) in open.iter().zip(&closed) {
            assert!(*open == Verdict::Pending || open == closed, "{def:?}, {activation}");
        }
    }
}

#[test]
fn opposite_templates_disagree_on_every_activation() {
    for (one, opposite) in [
        (Template::Response, Template::NotResponse),
        (Template::Precedence, Template::NotPrecedence),
        (Template::ChainResponse, Template::NotChainResponse),
        (Template::Existence, Template::Absence),
    ] {
        let mut compared = 0;
        for seed in 0..4000 {
            let (mut def, log) = (random_def(seed), orderly(seed));
            if def.template != one {
                continue;
            }
            if opposite == Template::Absence {
                // With one, it counts in every window, and the other in the first.
                def.window = None;
            }
            for mode in [Mode::Open, Mode::Closed] {
                def.template = one;
                let yes = activations(&Cases::of(&log), &def, mode);
                def.template = opposite;
                let no = activations(&Cases::of(&log), &def, mode);
                assert_eq!(yes.len(), no.len(), "{def:?}");
                compared += yes.len();
                for ((activation, yes), (_, no)) in yes.iter().zip(&no) {
                    let opposed = match yes {
                        Verdict::Satisfied => Verdict::Violated,
                        Verdict::Violated => Verdict::Satisfied,
                        Verdict::Pending => Verdict::Pending,
                    };
                    assert_eq!(*no, opposed, "{def:?}, {activation}");
                }
            }
        }
        assert!(compared > 100, "{one:?}: {compared}");
    }
}

fn verdicts_by_activation(log: &[Event], def: &Def, mode: Mode) -> BTreeMap<Activation, Vec<Verdict>> {
    let mut by: BTreeMap<Activation, Vec<Verdict>> = BTreeMap::new();
    for (activation, verdict) in activations(&Cases::of(log), def, mode) {
        by.entry(activation).or_default().push(verdict);
    }
    by
}

// Real logs and their oracles.

#[derive(Deserialize)]
struct Oracle {
    events: usize,
    cases: usize,
    horizon_ms: i64,
    constraints: Vec<Constraint>,
}

#[derive(Deserialize)]
struct Constraint {
    def: Def,
    closed: Expected,
    open: Expected,
}

#[derive(Deserialize)]
struct Expected {
    activations: usize,
    satisfied: usize,
    violated: usize,
    pending: usize,
    cases_activated: usize,
    cases_vacuous: usize,
    cases_violated: usize,
    violations_sha256: String,
}

fn agrees_with_its_oracle(log: &[Event], oracle: &Oracle) {
    let cases = Cases::of(log);
    let size = (log.len(), cases.events.len(), cases.horizon);
    assert_eq!(size, (oracle.events, oracle.cases, oracle.horizon_ms));
    assert!(!oracle.constraints.is_empty());
    for Constraint { def, closed, open } in &oracle.constraints {
        for (mode, expected) in [(Mode::Open, open), (Mode::Closed, closed)] {
            let found = judge(&cases, def, mode);
            let names = "activations, satisfied, violated, pending, cases activated, vacuous, violated";
            assert_eq!(
                [
                    found.activations,
                    found.satisfied,
                    found.violated,
                    found.pending,
                    found.cases_activated,
                    cases.events.len() - found.cases_activated,
                    found.cases_violated,
                ],
                [
                    expected.activations,
                    expected.satisfied,
                    expected.violated,
                    expected.pending,
                    expected.cases_activated,
                    expected.cases_vacuous,
                    expected.cases_violated,
                ],
                "{} {mode:?}: {names}",
                def.id
            );
            assert_eq!(found.sha256(), expected.violations_sha256, "{} {mode:?}", def.id);
        }
    }
}

#[test]
fn real_log_constraints_match_their_oracle() {
    let Some(folder) = data::folder() else { return };
    agrees_with_its_oracle(data::fines(&folder), &data::oracle(&folder, "rtfm"));
    let hospital = data::log(&folder, "hospital_billing");
    agrees_with_its_oracle(&hospital, &data::oracle(&folder, "hospital_billing"));
}

#[test]
fn unbilled_cases_match_oracle_for_every_window() {
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "projections");
    let log = data::log(&folder, "hospital_billing");
    let cases = Cases::of(&log);
    let times: BTreeMap<String, i64> =
        log.iter().map(|event| (format!("{}:{}", event.case, event.idx), event.ts)).collect();
    let by_window =
        oracle["hospital_billable_not_billed_persisting"]["alerts_by_window"].as_object().unwrap();
    assert!(!by_window.is_empty());
    for (window, expected) in by_window {
        let days: i64 = window.trim_end_matches('d').parse().unwrap();
        let def = json!({
            "id": window,
            "template": "standing",
            "A": "CODE OK",
            "B": ["BILLED", "REOPEN", "DELETE", "SET STATUS", "CODE NOK"],
            "for": days * 86_400_000,
        });
        let found = judge(&cases, &serde_json::from_value(def).unwrap(), Mode::Open);
        assert_eq!(json!(found.violated), expected["alerts"], "{window}");
        // This oracle names an episode by the case and the time of its beginning.
        let names = found.violations.iter().map(|id| {
            let (case, _) = id.rsplit_once(':').unwrap();
            format!("{case}@{}", times[id])
        });
        assert_eq!(json!(sha256(&names.collect())), expected["sha256"], "{window}");
    }
}

#[test]
fn wrong_payment_totals_match_the_oracle() {
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "projections");
    let expected = &oracle["rtfm_total_payment"];
    let (compared, wrong) = recorded::wrong_totals(&Cases::of(data::fines(&folder)));
    let cases: BTreeSet<&str> = wrong.iter().map(|id| id.rsplit_once(':').unwrap().0).collect();
    assert_eq!(json!(compared), expected["checked"]);
    assert_eq!(json!(wrong.len()), expected["mismatches"]);
    assert_eq!(json!(cases.len()), expected["cases"]);
    assert_eq!(json!(sha256(&wrong)), expected["ids_sha256"]);
}

#[test]
fn wrong_balances_match_oracle_by_row_and_day() {
    let Some(folder) = data::folder() else { return };
    let oracle: Value = data::oracle(&folder, "projections");
    let expected = &oracle["berka_ledger"];
    let log = data::log(&folder, "berka_ledger");
    let cases = Cases::of(&log);
    assert_eq!(
        (json!(log.len()), json!(cases.events.len())),
        (expected["rows"].clone(), expected["accounts"].clone())
    );
    let rows = recorded::wrong_rows(&cases);
    assert_eq!(json!(rows.len()), expected["per_row_mismatch"]);
    assert_eq!(json!(sha256(&rows)), expected["per_row_ids_sha256"]);

    let (days, exactly) = recorded::wrong_days(&cases, |_| 0);
    assert_eq!(json!(days), expected["account_days"]);
    assert_eq!(json!(exactly.len()), expected["per_day_mismatch"]);
    for (residual, count) in expected["per_day_residuals"].as_object().unwrap() {
        let found = exactly.iter().filter(|day| day.residual.to_string() == *residual).count();
        assert_eq!(json!(found), *count, "{residual}");
    }
    let (_, by_ten) = recorded::wrong_days(&cases, |_| 10);
    assert_eq!(json!(by_ten.len()), expected["per_day_tol10_mismatch"]);
    let (_, scaled) = recorded::wrong_days(&cases, recorded::of_interest);
    let last_day = scaled.iter().filter(|day| day.day == cases.horizon).count();
    assert_eq!(json!(scaled.len()), expected["per_day_tol_scaled_mismatch"]);
    assert_eq!(json!(last_day), expected["per_day_tol_scaled_on_last_day"]);
    let ids = scaled.iter().map(recorded::WrongDay::id).collect();
    assert_eq!(json!(sha256(&ids)), expected["per_day_tol_scaled_ids_sha256"]);
}

#[test]
fn row_check_reports_exactly_the_visible_faults() {
    #[derive(Deserialize)]
    struct Faults {
        rows_faulty: usize,
        row_check_mismatches: usize,
        accounts_reported: usize,
        faults_not_seen_by_the_row_check: Vec<Fault>,
        faults: Vec<Fault>,
    }
    #[derive(Deserialize)]
    struct Fault {
        case: String,
        idx: usize,
        row_check_reports: BTreeSet<String>,
    }
    let Some(folder) = data::folder() else { return };
    let expected: Faults = data::oracle(&folder, "berka_faulty");
    let log = data::log(&folder, "berka_faulty");
    assert_eq!(log.len(), expected.rows_faulty);
    let mut reports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for id in recorded::wrong_rows(&Cases::of(&log)) {
        reports.entry(id.rsplit_once(':').unwrap().0.to_owned()).or_default().insert(id);
    }
    assert_eq!(reports.len(), expected.accounts_reported);
    assert_eq!(reports.values().map(BTreeSet::len).sum::<usize>(), expected.row_check_mismatches);
    // No account has two faults, so that what is reported of it is of its fault.
    let mut unseen = BTreeSet::new();
    for Fault { case, idx, row_check_reports } in &expected.faults {
        let found = reports.remove(case).unwrap_or_default();
        assert_eq!(found, *row_check_reports, "{case}:{idx}");
        if found.is_empty() {
            unseen.insert((case, *idx));
        }
    }
    assert!(reports.is_empty(), "no fault is behind {reports:?}");
    let told = expected.faults_not_seen_by_the_row_check.iter().map(|fault| (&fault.case, fault.idx));
    assert_eq!(unseen, told.collect());
}

#[test]
fn log_times_are_parsed_to_the_millisecond() {
    for (text, milliseconds) in [
        ("1970-01-01T00:00:00.000Z", Some(0)),
        ("1969-12-31T23:59:59.999Z", Some(-1)),
        ("2000-02-29T12:34:56.789Z", Some(951_827_696_789)),
        ("2000-03-01T00:00:00.000Z", Some(951_868_800_000)),
        ("2013-06-17T22:00:00.000Z", Some(1_371_506_400_000)),
        ("2013-06-17T22:00:00Z", None),
        ("2013-06-17 22:00:00.000Z", None),
    ] {
        assert_eq!(data::milliseconds(text), milliseconds, "{text}");
    }
}
