//! Rules over rows and amounts, in files: they find what the same checks in Rust find, and what is wrong with them is named.

use crate::support::bench::lockstep;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tallystone::check::{About, Check, Severity, Span, rules};
use tallystone::error::OpenError;
use tallystone::prelude::*;
use tallystone::testing::SimClock;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Sale {
    Sold { product: u32, cents: i64 },
    Cancelled { product: u32 },
    Paid { product: u32, euros: f64, total: Option<f64> },
    Returned { product: u32, euros: f64 },
    Closed { product: u32 },
}

impl Event for Sale {
    const FAMILY: &'static str = "sale";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Sold { product, .. }
        | Self::Cancelled { product }
        | Self::Paid { product, .. }
        | Self::Returned { product, .. }
        | Self::Closed { product }) = self;
        *product
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Product {
    active: bool,
    cents: i64,
}

struct Products;

impl Projection for Products {
    const NAME: &'static str = "products";
    type Event = Sale;
    type Key = u32;
    type Row = Product;

    fn fold(event: &Sale, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Sale::Sold { product, cents } => rows.put(*product, Product { active: true, cents: *cents }),
            Sale::Cancelled { product } => rows.modify(product, |row| row.active = false),
            Sale::Closed { product } => rows.remove(product),
            _ => Ok(()),
        }
    }
}

struct Paid;

impl Projection for Paid {
    const NAME: &'static str = "paid";
    type Event = Sale;
    type Key = u32;
    type Row = i64;

    fn fold(event: &Sale, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Sale::Paid { product, euros, .. } => rows.update(*product, |paid| *paid += cents(*euros)),
            Sale::Returned { product, euros } => rows.update(*product, |paid| *paid -= cents(*euros)),
            Sale::Closed { product } => rows.remove(product),
            _ => Ok(()),
        }
    }
}

fn cents(euros: f64) -> i64 {
    (euros * 100.0).round() as i64
}

fn about(id: &'static str) -> About {
    About { id, severity: Severity::Ticket, owner: "audit", means: "It is wrong.", remedy: "1 mend it" }
}

fn adds(event: &Sale) -> Option<i64> {
    match event {
        Sale::Paid { euros, .. } => Some(cents(*euros)),
        Sale::Returned { euros, .. } => Some(-cents(*euros)),
        _ => None,
    }
}

fn says(event: &Sale) -> Option<i64> {
    match event {
        Sale::Paid { total, .. } => total.map(cents),
        _ => None,
    }
}

fn closed(event: &Sale) -> bool {
    matches!(event, Sale::Closed { .. })
}

const MINUTE: Duration = Duration::from_secs(60);

/// The same checks twice: in Rust, and as a file with other names.
fn in_rust() -> Vec<Check> {
    vec![
        about("r-rows")
            .standing::<(Products, Paid)>(|_, (product, paid)| {
                product.is_some_and(|product| !product.active && product.cents > 230) && paid.is_some()
            })
            .for_longer_than(15 * MINUTE),
        about("r-differs")
            .standing::<(Products, Paid)>(|_, (product, paid)| {
                product.zip(paid).is_some_and(|(product, paid)| product.cents != *paid && *paid < 345)
            })
            .for_longer_than(MINUTE),
        about("r-absent")
            .standing::<(Paid, Products)>(|_, (paid, product)| paid.is_some() && product.is_none())
            .for_longer_than(MINUTE),
        about("r-equals")
            .equals(adds, says)
            .tolerance(1)
            .rounded(|e| matches!(e, Sale::Returned { .. }))
            .carried()
            .into(),
        // Payments that say what was returned, and add nothing to it: their being rounded does not count.
        about("r-said")
            .equals(|e| adds(e).filter(|cents| *cents < 0), says)
            .tolerance(60)
            .rounded(|_| true)
            .into(),
        about("r-bucket").equals(adds, says).bucket(10 * MINUTE).into(),
        about("r-zone").equals(adds, says).bucket(Span::in_zone("Europe/Rome").days(1)).into(),
        about("r-balances").balances(adds).within(10 * MINUTE).closed_by(closed).into(),
    ]
}

const RULES: &str = r#"
[check.t-rows]
kind = "rows"
wrong = [
    { row = "products", where = { active = false }, above = { cents = 230 } },
    { row = "paid", exists = true },
]
within = "15m"

[check.t-differs]
kind = "rows"
wrong = [{ row = "products", differs = { cents = "paid:" } }, { row = "paid", below = { "" = 345 } }]
within = "1m"

[check.t-absent]
kind = "rows"
wrong = [{ row = "paid", exists = true }, { row = "products", exists = false }]
within = "1m"

[check.t-equals]
kind = "equals"
adds = [{ when = "sale.Paid", field = "euros" }, { when = "sale.Returned", field = "euros", times = -1 }]
says = { when = "sale.Paid", field = "total" }
scale = 100
tolerance = 1
rounded = "sale.Returned"
carried = true

[check.t-said]
kind = "equals"
adds = [{ when = "sale.Returned", field = "euros", times = -1 }]
says = { when = "sale.Paid", field = "total" }
scale = 100
tolerance = 60
rounded = ["sale.Paid", "sale.Returned"]

[check.t-bucket]
kind = "equals"
adds = [{ when = "sale.Paid", field = "euros" }, { when = "sale.Returned", field = "euros", times = -1 }]
says = { when = "sale.Paid", field = "total" }
scale = 100
bucket = "10m"

[check.t-zone]
kind = "equals"
adds = [{ when = "sale.Paid", field = "euros" }, { when = "sale.Returned", field = "euros", times = -1 }]
says = { when = "sale.Paid", field = "total" }
scale = 100
bucket = "1d"
zone = "Europe/Rome"

[check.t-balances]
kind = "balances"
adds = [{ when = "sale.Paid", field = "euros" }, { when = "sale.Returned", field = "euros", times = -1 }]
scale = 100
within = "10m"
closed_by = "sale.Closed"
"#;

const ABOUT: &str =
    "severity = \"ticket\"\nowner = \"audit\"\nmeans = \"It is wrong.\"\nremedy = \"1 mend it\"\n";

fn in_a_file() -> Vec<Check> {
    let text = RULES.replace("\nkind", &format!("\n{ABOUT}kind"));
    rules::parse(&text, "rules.toml").unwrap_or_else(|error| panic!("{error}"))
}

fn event() -> impl Strategy<Value = (Sale, u64)> {
    let product = 0_u32..3;
    // No float is 1.15: a hundred of it is a little less than 115.
    let euros = |times: i32| f64::from(times) * 1.15;
    let event =
        (product, 0_u32..9, (1_i32..4).prop_map(euros), proptest::option::of((-8_i32..8).prop_map(euros)))
            .prop_map(|(product, kind, euros, total)| match kind {
                0 | 1 => Sale::Sold { product, cents: cents(euros) },
                2 => Sale::Cancelled { product },
                3..=5 => Sale::Paid { product, euros, total },
                6 | 7 => Sale::Returned { product, euros },
                _ => Sale::Closed { product },
            });
    (event, 0_u64..900)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn row_000_19_rules_over_rows_and_amounts_match_rust_checks(events in prop::collection::vec(event(), 1..40)) {
        let clock = SimClock::default();
        let setup = lockstep(&clock).inline::<Products>().inline::<Paid>().alerts(|_| {});
        let setup = in_rust().into_iter().chain(in_a_file()).fold(setup, Setup::check);
        let store = Store::in_memory(setup).expect("the setup is well");
        for (event, seconds) in events {
            clock.advance(Duration::from_secs(seconds));
            store.append(Append::event(event)).expect("it is taken");
        }
        clock.advance(60 * MINUTE);
        for _ in 0..6 {
            store.step();
            store.checks().wait_for(store.stats().position, Duration::ZERO);
            clock.advance(2 * Duration::from_secs(1));
        }
        let checks = store.checks();
        for name in ["rows", "differs", "absent", "equals", "said", "bucket", "zone", "balances"] {
            let of = |kind: &str| -> Vec<_> {
                let all = checks.of(&format!("{kind}-{name}")).expect("rows are read");
                all.into_iter().map(|found| (found.activation, found.subject, found.disagrees, found.by, found.state)).collect()
            };
            prop_assert_eq!(of("r"), of("t"), "{}", name);
            let counts = |kind: &str| {
                let stats = checks.stats().into_iter().find(|check| check.check == format!("{kind}-{name}")).expect("it is there");
                (stats.activations, stats.satisfied, stats.violated, stats.healed, stats.unread)
            };
            prop_assert_eq!(counts("r"), counts("t"), "{}", name);
            prop_assert_eq!(counts("r").4, 0);
        }
    }
}

#[test]
fn row_and_amount_rule_errors_are_located() {
    for (rule, error) in [
        ("kind = \"rows\"\nwrong = []\nwithin = \"1m\"", "`wrong`: it is empty, so every row is wrong"),
        (
            "kind = \"rows\"\nwrong = [{ row = \"paid\" }]\nwithin = \"1m\"",
            "`wrong`: of `paid` it says nothing",
        ),
        (
            "kind = \"rows\"\nwrong = [{ row = \"paid\", above = { cents = nan } }]\nwithin = \"1m\"",
            "`wrong`: of `paid`, `cents` is compared with NaN: say a finite number",
        ),
        (
            "kind = \"rows\"\nwrong = [{ row = \"paid\", below = { cents = -inf } }]\nwithin = \"1m\"",
            "`wrong`: of `paid`, `cents` is compared with -inf: say a finite number",
        ),
        (
            "kind = \"rows\"\nwrong = [{ row = \"paid\", exist = true }]\nwithin = \"1m\"",
            "unknown field `exist`",
        ),
        (
            "kind = \"rows\"\nwrong = [{ row = \"paid\", exists = true }]\nwithin = \"soon\"",
            "`within`: `soon` is no time",
        ),
        (
            "kind = \"equals\"\nadds = []\nsays = { when = \"sale.Paid\", field = \"total\" }",
            "`adds`: it is empty",
        ),
        (
            "kind = \"equals\"\nadds = [{ when = \"sale.Paid\", field = \"euros\" }]",
            "`says`: `equals` needs it",
        ),
        (
            "kind = \"equals\"\nadds = [{ when = \"sale.Paid\", field = \"euros\" }]\nsays = { when = \"sale.Paid\", field = \"total\" }\nbucket = \"1d\"\nzone = \"Europe/Atlantis\"",
            "`zone`: ",
        ),
        (
            "kind = \"balances\"\nadds = [{ when = \"sale.Paid\", field = \"euros\" }]",
            "`within`: without it or `closed_by`",
        ),
        (
            "kind = \"balances\"\nadds = [{ when = { where = { x = 1 } }, field = \"euros\" }]\nwithin = \"1m\"",
            "`adds`: a selector names no type",
        ),
    ] {
        let text = format!("[check.wrong]\n{ABOUT}{rule}\n");
        let found = rules::parse(&text, "rules.toml").expect_err(rule);
        assert!(found.to_string().contains(error), "{found} instead of {error}");
        assert!(found.line >= 1 && found.line <= text.lines().count() && found.column >= 1, "{found}");
    }
}

#[test]
fn rule_over_unregistered_projection_is_refused() {
    let setup = in_a_file().into_iter().fold(Setup::new().inline::<Paid>(), Setup::check);
    let Err(OpenError::Setup(wrong)) = Store::in_memory(setup) else { panic!("it opens") };
    let wrong = format!("{wrong:?}");
    assert!(wrong.contains("check `t-rows`: `wrong`: there is no projection `products`"), "{wrong}");
    assert!(!wrong.contains("t-equals"), "{wrong}");
}

#[test]
fn nan_amount_is_unread_not_zero() {
    let clock = SimClock::default();
    let setup = lockstep(&clock).inline::<Products>().inline::<Paid>().alerts(|_| {});
    let store =
        Store::in_memory(in_a_file().into_iter().fold(setup, Setup::check)).expect("the setup is well");
    let unknown = Sale::Returned { product: 1, euros: f64::NAN };
    store.append(Append::event(unknown)).expect("it is taken");
    assert!(store.checks().wait_for(store.stats().position, Duration::ZERO));
    let stats = store.checks().stats();
    let equals = stats.iter().find(|check| check.check == "t-equals").expect("it is there");
    assert_eq!((equals.unread, equals.last_unread.clone()), (1, Some((1, "`euros` is no amount".into()))));
}
