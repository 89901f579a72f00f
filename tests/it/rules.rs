//! Checks as files: what is wrong with one is named with its place, and what is right runs as if it were written in Rust.

use crate::support::bench::{lockstep, settle};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tallystone::check::rules::{self, RuleError};
use tallystone::check::{About, Check, Severity};
use tallystone::prelude::*;
use tallystone::testing::{Random, SimClock};
use tallystone::watch::CheckStats;

const SECOND: i64 = 1000;

fn store(clock: &SimClock, checks: impl IntoIterator<Item = Check>) -> Store {
    let setup = lockstep(clock).events::<Order>();
    Store::in_memory(checks.into_iter().fold(setup, Setup::check)).expect("the setup is well")
}

fn settled(store: &Store) -> Vec<CheckStats> {
    settle(store);
    store.checks().stats()
}

// ---- what is wrong ----

/// A rule with nothing wrong, and lines for others.
fn rule(lines: &str) -> String {
    format!(
        "[check.paid]\nkind = \"response\"\nwhen = \"order.Placed\"\nthen = \"order.Paid\"\nseverity = \"page\"\n\
         owner = \"sales\"\nmeans = \"It was not paid.\"\nremedy = \"1 ask\"\n{lines}"
    )
}

fn refused(text: &str, line: usize, column: usize, says: &str) {
    let error = rules::parse(text, "bad.toml").expect_err(text);
    let RuleError { file, line: at, column: column_at, what, .. } = &error;
    assert_eq!(
        (file.as_str(), *at, *column_at, what.contains(says)),
        ("bad.toml", line, column, true),
        "{error}\n, and must say {says:?} of\n{text}"
    );
}

#[test]
fn rule_errors_have_line_and_column() {
    // Not toml.
    refused("[check.a", 1, 9, "]");
    refused("[check.a]\nkind = response", 2, 8, "quote");
    refused("[check.a]\nü = 1", 2, 1, "");
    refused(&format!("{0}\n{0}", rule("within = \"1d\"")), 10, 8, "duplicate");
    refused(&rule("owner = \"others\""), 9, 1, "duplicate");
    // Not rules.
    refused("[chekc.a]", 1, 2, "a rule is a table `[check.NAME]`");
    refused("kind = \"response\"", 1, 1, "a rule is a table `[check.NAME]`");
    refused("check = 1", 1, 9, "a rule is a table `[check.NAME]`");
    refused("[check]\na = 1", 2, 5, "a rule is a table `[check.NAME]`");
    refused("[check.a]", 1, 8, "missing field `kind`");
    refused(&rule("within = \"1d\"\nthne = \"a.B\""), 10, 1, "unknown field `thne`");
    refused(&rule("within = 5"), 9, 10, "expected a string");
    refused(&rule("n = -1"), 9, 5, "expected u32");
    refused(&rule("id = \"b\""), 9, 6, "`id` is the name of the table: `paid`");
    refused(&rule("until = { typ = \"a.B\" }"), 9, 11, "unknown field `typ`, expected `type` or `where`");
    refused(&rule("until = 5"), 9, 9, "a type like \"order.Placed\"");
    refused(&rule("until = [\"a.B\", true]"), 9, 17, "a type like \"order.Placed\"");
    refused(&rule("until = { where = { a = [] } }"), 9, 25, "true, false, a number or a text");
    refused(&rule("").replace("page", "paging"), 5, 12, "unknown variant `paging`");
    // Rules that say nothing, or nothing that can be.
    refused(&rule(""), 2, 8, "say `unbounded = true`");
    refused(&rule("").replace("response", "reponse"), 2, 8, "there is no `reponse`; there are existence");
    refused(&rule("").replace("order.Placed", "Placed"), 3, 8, "FAMILY.Variant");
    refused(&rule("").replace("\"order.Paid\"", "[]"), 4, 8, "selects nothing");
    refused(&rule("").replace("then = \"order.Paid\"", ""), 1, 8, "`then`: `response` needs it");
    refused(&rule("").replace("response", "init"), 4, 8, "`init` has none");
    refused(&rule("n = 2\nwithin = \"1d\""), 9, 5, "does not count");
    refused(&rule("within = \"1 day\""), 9, 10, "`1 day` is no time: write one like `15m`");
    refused(&rule("within = \"200000000000d\""), 9, 10, "is no time");
    refused(&rule("not_before = \"2d\"\nwithin = \"1d\""), 10, 10, "the window ends before it begins");
    refused(&rule("within = \"1d\"\nlateness = \"1h\""), 10, 12, "say `time`");
    refused(&rule("within = \"60d\"\nzone = \"Europe/Rom\""), 10, 8, "there is no zone `Europe/Rom`");
    refused(&rule("within = \"60d\"\nzone = \"europe/rome\""), 10, 8, "there is `Europe/Rome`");
    refused(&rule("within = \"2mo\""), 9, 10, "months and years are of a calendar");
    refused(&rule("within = \"1y2d\""), 9, 10, "say whose, like `zone = \"Europe/Rome\"`");
    refused(&rule("zone = \"Europe/Rome\"\nunbounded = true"), 9, 8, "it is of `within` and `not_before`");
    refused(
        &rule("not_before = \"40d\"\nwithin = \"1mo\"\nzone = \"Europe/Rome\""),
        10,
        10,
        "the window ends before it begins",
    );
    refused(
        &rule("within = \"1d\"\ntime = \"at\"\nlateness = \"1mo\"\nzone = \"Europe/Rome\""),
        11,
        12,
        "months and years are of a calendar",
    );
    refused(&rule("within = \"1d\"").replace("1 ask", "  "), 8, 10, "`remedy`: it is empty");
    refused(&rule("within = \"1d\"").replace("check.paid", "check.\"\""), 1, 8, "a check's name is empty");
    refused(
        &rule("within = \"1d\"").replace("check.paid", "check.\"a\\nb\""),
        1,
        8,
        "a check's name holds a control character",
    );
}

#[test]
fn error_column_counts_characters_not_bytes() {
    refused("[check.\"größer\"]\n", 1, 8, "missing");
    refused("check = { \"größer\" = { kind = 5 } }", 1, 31, "invalid type");
}

#[test]
fn deeply_nested_or_oversized_rules_are_refused() {
    for text in
        ["[".repeat(1 << 19), format!("[check.a]\nwhen = {}", "[".repeat(1 << 19)), "a.".repeat(1 << 19)]
    {
        let error = rules::parse(&text, "deep.toml").expect_err("it is no rule");
        assert!(error.what.len() < 200, "{error}");
    }
    let long = rules::parse(&"#".repeat((1 << 20) + 1), "long.toml").expect_err("it is too long");
    assert_eq!(long.to_string(), "long.toml:1:1: the file is 1048577 bytes, limit is 1048576 bytes");
    assert_eq!(rules::parse(&"#".repeat(1 << 20), "long.toml").expect("a comment is no rule").len(), 0);
}

// ---- what is right ----

#[test]
fn parsed_checks_keep_file_order() {
    let text = ["zebra", "\"a b\"", "mouse"]
        .map(|name| rule("within = \"1d\"").replace("check.paid", &format!("check.{name}")));
    let checks = rules::parse(&text.join("\n"), "many.toml").expect("it is right");
    assert_eq!(checks.iter().map(Check::id).collect::<Vec<_>>(), ["zebra", "a b", "mouse"]);
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Order {
    Placed { order: u32, at: i64, sum: u32 },
    Paid { order: u32, at: i64, sum: u32 },
    Shipped { order: u32, at: i64, by: Carrier },
    Cancelled { order: u32, at: i64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Carrier {
    Post,
    Own { van: u8 },
}

impl Event for Order {
    const FAMILY: &'static str = "order";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Placed { order, .. }
        | Self::Paid { order, .. }
        | Self::Shipped { order, .. }
        | Self::Cancelled { order, .. }) = self;
        *order
    }
}

impl Order {
    fn draw(random: &mut Random, at: i64) -> Self {
        let (order, sum) = (random.below(12) as u32, 100 * (1 + random.below(3) as u32));
        match random.below(4) {
            0 => Self::Placed { order, at, sum },
            1 => Self::Paid { order, at, sum },
            2 if random.coin() => Self::Shipped { order, at, by: Carrier::Post },
            2 => Self::Shipped { order, at, by: Carrier::Own { van: random.below(3) as u8 } },
            _ => Self::Cancelled { order, at },
        }
    }

    fn at(&self) -> i64 {
        let (Self::Placed { at, .. }
        | Self::Paid { at, .. }
        | Self::Shipped { at, .. }
        | Self::Cancelled { at, .. }) = self;
        *at
    }
}

fn placed(event: &Order) -> bool {
    matches!(event, Order::Placed { .. })
}

fn paid(event: &Order) -> bool {
    matches!(event, Order::Paid { .. })
}

fn cancelled(event: &Order) -> bool {
    matches!(event, Order::Cancelled { .. })
}

fn about(id: &'static str) -> About {
    About { id, severity: Severity::Ticket, owner: "sales", means: "It is not so.", remedy: "1 look" }
}

const SEED_RULES: &str = r#"
    # Sold, and billing.
    [check.billed]
    kind = "response"
    when = "order.Placed"
    then = "order.Paid"
    until = "order.Cancelled"
    tied = ["sum"]
    within = "15m"
    time = "at"
    lateness = "1m"
    severity = "page"
    owner = "billing"
    means = "We sold it, and nobody pays for it."
    remedy = "1 look for the bill; 2 write one"

    # Cancelled, and still billing.
    [check.cancelled-is-not-billed]
    kind = "absent_between"
    when = "order.Cancelled"
    then = "order.Paid"
    until = "order.Placed"
    key = "order"
    unbounded = true
    severity = "page"
    owner = "billing"
    means = "We cancelled it, and were paid for it."
    remedy = "1 pay back"

    # Work without its event.
    [check.shipped-was-paid]
    kind = "precedence"
    when = ["order.Paid", { type = "order.Shipped", where = { by = "Post" } }]
    then = { type = "order.Shipped", where = { "by.van" = 1 } }
    within = "1h"
    severity = "ticket"
    owner = "warehouse"
    means = "We shipped what nobody paid for."
    remedy = "1 write a bill"
"#;

fn seed_rules_in_rust() -> [Check; 3] {
    let at = |event: &Order| {
        Some(std::time::UNIX_EPOCH + Duration::from_millis(u64::try_from(event.at()).expect("after 1970")))
    };
    let sum = |event: &Order| match event {
        Order::Placed { sum, .. } | Order::Paid { sum, .. } => *sum,
        _ => 0,
    };
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    [
        about("billed in rust")
            .response(placed, paid)
            .tied(sum)
            .at(at, minutes(1))
            .unless(cancelled)
            .within(minutes(15))
            .into(),
        about("cancelled in rust").absent_between(cancelled, paid).by(Order::id).until(placed).into(),
        about("shipped in rust")
            .precedence(
                |e| paid(e) || matches!(e, Order::Shipped { by: Carrier::Post, .. }),
                |e| matches!(e, Order::Shipped { by: Carrier::Own { van: 1 }, .. }),
            )
            .within(minutes(60))
            .into(),
    ]
}

#[test]
fn row_000_19_rules_in_file_match_rust_checks() {
    let mut found_any = [0; 3];
    for seed in 0..40 {
        let (mut random, clock) = (Random::new(seed), SimClock::default());
        let checks = rules::parse(SEED_RULES, "seed.toml").expect("they are right");
        let store = store(&clock, checks.into_iter().chain(seed_rules_in_rust()));
        let mut now = 1_000_000;
        for _ in 0..60 {
            let pass = random.below(400) as i64 * SECOND;
            clock.advance(Duration::from_millis(pass as u64));
            now += pass;
            // Some are told late, and some too late.
            let at = now - random.below(100) as i64 * SECOND;
            store.append(Append::event(Order::draw(&mut random, at))).expect("it is taken");
            if random.chance(0.2) {
                settled(&store);
            }
        }
        let stats = settled(&store);
        for (index, found_any) in found_any.iter_mut().enumerate() {
            let (data, rust) = (&stats[index], &stats[index + 3]);
            let counts = |stats: &CheckStats| {
                let CheckStats { activations, satisfied, violated, pending, healed, retracted, .. } = stats;
                [*activations, *satisfied, *violated, *pending, *healed, *retracted]
            };
            assert_eq!(counts(data), counts(rust), "seed {seed}, {}", data.check);
            let found = |check: &str| {
                let all = store.checks().of(check).expect("rows are read");
                let each = all.into_iter().map(|one| (one.activation, one.by, one.decided_at, one.state));
                each.collect::<Vec<_>>()
            };
            assert_eq!(found(&data.check), found(&rust.check), "seed {seed}");
            *found_any += data.violated;
        }
    }
    assert!(found_any.iter().all(|found| *found > 20), "{found_any:?}");
}
