//! Types of events and rows at the boundary: two types under one name, values that a store could not keep apart, and names
//! that are the store's own.

use crate::support::bench::settle;
use crate::support::{fresh_disk, platform, small};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tallystone::check::{About, Severity, rules};
use tallystone::event::{Codec, Upcasts};
use tallystone::prelude::*;
use tallystone::testing::SimDisk;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Money {
    Paid { from: u32, to: u32, cents: u64 },
}

impl Event for Money {
    const FAMILY: &str = "money";
    type Id = ();
    fn id(&self) {}
}

fn paid() -> Money {
    Money::Paid { from: 1, to: 2, cents: 500 }
}

/// Other types under the same family's name.
mod other {
    use super::*;

    macro_rules! money {
        ($name:ident { $($field:ident: $type:ty),+ }) => {
            pub mod $name {
                use super::*;
                #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
                pub enum Money {
                    Paid { $($field: $type),+ },
                }
                impl Event for Money {
                    const FAMILY: &str = "money";
                    type Id = ();
                    fn id(&self) {}
                }
            }
        };
    }
    money! { swapped { to: u32, from: u32, cents: u64 } }
    money! { shorter { from: u32, cents: u64 } }
    money! { same { from: u32, to: u32, cents: u64 } }

    /// The registered type, one version on.
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub enum Later {
        Paid { cents: u64 },
    }
    impl Event for Later {
        const FAMILY: &str = "money";
        type Id = ();
        fn id(&self) {}
        fn upcasts() -> Upcasts<Self> {
            #[derive(Serialize, Deserialize)]
            struct PaidV1 {
                #[allow(dead_code, reason = "it was written, and is read no more")]
                from: u32,
                #[allow(dead_code, reason = "it was written, and is read no more")]
                to: u32,
                cents: u64,
            }
            Upcasts::none().last("Paid", 1, |old: PaidV1| Later::Paid { cents: old.cents })
        }
    }
}

fn store_of_money() -> Store {
    let store = Store::in_memory(Setup::new().events::<Money>()).expect("the setup is right");
    store.append(Append::event(paid())).expect("it is registered");
    store
}

fn assert_names_both(missing: &tallystone::error::Missing, layout: &str) {
    let text = missing.to_string();
    assert!(text.contains("types::Money") && text.contains("other::"), "{text}");
    assert!(text.contains("{from:u32,to:u32,cents:u64}") && text.contains(layout), "{text}");
}

/// Was accepted, and read back with its fields swapped, or never again.
#[test]
fn append_with_different_layout_is_refused() {
    let store = store_of_money();
    let swapped = other::swapped::Money::Paid { to: 2, from: 1, cents: 500 };
    let shorter = other::shorter::Money::Paid { from: 1, cents: 500 };
    for (append, layout) in [
        (Append::event(swapped.clone()), "{to:u32,from:u32,cents:u64}"),
        (Append::event(shorter.clone()), "{from:u32,cents:u64}"),
        (
            Append::raw(tallystone::event::EventSet::encode(&shorter).expect("it is an event")),
            "{from:u32,cents:u64}",
        ),
    ] {
        match store.append(append) {
            Err(AppendError::Unregistered(missing)) => assert_names_both(&missing, layout),
            other => panic!("{other:?}"),
        }
    }
    let transacted = store.transact("pay", |tx| -> Decision { Ok(tx.append(swapped.clone())?) });
    match transacted {
        Err(TxError::Unregistered(missing)) => assert_names_both(&missing, "{to:u32,from:u32,cents:u64}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.view().expect("it is open").query::<Money>(Query::all()).count(), 1);
}

#[test]
fn read_with_different_layout_is_refused() {
    use other::swapped::Money as Swapped;
    let store = store_of_money();
    let view = store.view().expect("it is open");
    let refused = |next: Option<Result<Sequenced<Swapped>, ReadError>>| match next {
        Some(Err(ReadError::Unregistered(missing))) => {
            assert_names_both(&missing, "{to:u32,from:u32,cents:u64}")
        }
        other => panic!("{other:?}"),
    };
    refused(view.query::<Swapped>(Query::all()).next());
    refused(view.stream::<Swapped>(&()).next());
    refused(store.subscribe::<Swapped>(Query::all(), Position::START).next());
    let read =
        store.transact("read", |tx| -> Decision { tx.stream::<Swapped>(&()).map(drop).map_err(Into::into) });
    assert!(matches!(read, Err(TxError::Unregistered(_))), "{read:?}");
}

#[test]
fn different_type_with_same_layout_is_accepted() {
    let store = store_of_money();
    let same = other::same::Money::Paid { from: 1, to: 2, cents: 500 };
    store.append(Append::event(same.clone())).expect("its bytes mean the same");
    let view = store.view().expect("it is open");
    assert!(view.query::<Money>(Query::all()).all(|event| event.is_ok_and(|event| event.event == paid())));
    assert!(
        view.query::<other::same::Money>(Query::all())
            .all(|event| event.is_ok_and(|event| event.event == same))
    );
}

#[test]
fn appended_older_type_with_step_is_upcast() {
    let store = Store::in_memory(Setup::new().events::<other::Later>()).expect("the setup is right");
    store.append(Append::event(paid())).expect("there is a step from version 1");
    let read: Vec<_> = store.view().expect("it is open").query::<other::Later>(Query::all()).collect();
    assert!(matches!(&read[..], [Ok(event)] if event.event == other::Later::Paid { cents: 500 }), "{read:?}");
}

// ---- what tells requests apart ----

/// A family whose payload holds an enum, and the same when that was declared in another order.
macro_rules! method {
    ($name:ident, $upcasts:expr, $($variant:ident),+) => {
        mod $name {
            use super::*;
            #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
            pub enum Method {
                $($variant),+
            }
            #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
            pub enum Shop {
                Sold { cents: u64, by: Method },
            }
            impl Event for Shop {
                const FAMILY: &str = "shop";
                type Id = ();
                fn id(&self) {}
                fn upcasts() -> Upcasts<Self> {
                    $upcasts
                }
            }
            pub fn sold(cents: u64, by: Method) -> Append {
                Append::event(Shop::Sold { cents, by }).key("shop", "order-17")
            }
            pub fn take(store: &Store, key: &str, by: Method) -> Result<Committed<u64>, TxError> {
                store.transact(Request::new("take").key("shop", key, &(1_u32, by)), |tx| -> Decision<u64> {
                    Ok(tx.position().get())
                })
            }
        }
    };
}

#[derive(Serialize, Deserialize)]
struct SoldV1 {
    cents: u64,
    by: first::Method,
}

method!(first, Upcasts::none(), Cash, Card);
method!(
    second,
    Upcasts::none().last("Sold", 1, |old: SoldV1| Shop::Sold {
        cents: old.cents,
        by: match old.by {
            first::Method::Cash => Method::Cash,
            first::Method::Card => Method::Card,
        },
    }),
    Card,
    Cash
);

fn on(disk: &SimDisk, setup: Setup) -> Setup {
    setup.options(small()).platform(platform(disk)).lockstep()
}

/// Was another request, and another request got the old answer: a variant was its place.
#[test]
fn retry_with_reordered_variants_is_recognised() {
    let disk = fresh_disk(5);
    let path = Path::new("/store");
    let store = Store::create(path, on(&disk, Setup::new().events::<first::Shop>())).expect("it is new");
    let sold = store.append(first::sold(500, first::Method::Cash)).expect("it is the first");
    let taken = first::take(&store, "take-1", first::Method::Card).expect("it is the first");
    store.close();
    let store = Store::open(path, on(&disk, Setup::new().events::<second::Shop>())).expect("there is a step");
    let again = store.append(second::sold(500, second::Method::Cash)).expect("it is the same");
    assert!(again.replayed && again.receipt == sold.receipt);
    let other = store.append(second::sold(500, second::Method::Card));
    assert!(matches!(&other, Err(AppendError::KeyReused { part, .. }) if part == "input"), "{other:?}");
    let again = second::take(&store, "take-1", second::Method::Card).expect("it is the same");
    assert!(again.replayed && again.response == taken.response);
    let other = second::take(&store, "take-1", second::Method::Cash);
    assert!(matches!(&other, Err(TxError::KeyReused { part, .. }) if part == "input"), "{other:?}");
}

fn ask<T: Serialize>(store: &Store, key: &str, input: &T) -> Result<bool, AppendError> {
    Ok(store.append(Append::event(paid()).key("ask", key).input(input))?.replayed)
}

#[test]
fn inputs_are_compared_by_value_not_bytes() {
    let store = store_of_money();
    assert!(!ask(&store, "pair", &(1_u32, 2_u32)).expect("it is the first"));
    // Its bytes are those of the pair.
    assert!(matches!(ask(&store, "pair", &((1_u64 << 33) + 1)), Err(AppendError::KeyReused { .. })));
    assert!(ask(&store, "pair", &(1_u64, 2_u8)).expect("an integer counts by its value"));
    assert!(!ask(&store, "none", &None::<Option<u8>>).expect("it is the first"));
    assert!(matches!(ask(&store, "none", &Some(None::<u8>)), Err(AppendError::KeyReused { .. })));
}

#[test]
fn hash_map_input_ignores_order() {
    let store = store_of_money();
    let map = || (0..100_u32).map(|key| (key, key.to_string())).collect::<HashMap<_, _>>();
    assert!(!ask(&store, "map", &map()).expect("it is the first"));
    assert!((0..8).all(|_| ask(&store, "map", &map()).expect("it is the same")));
}

#[test]
fn reformatted_json_event_is_same_request() {
    let store = store_of_money();
    let spelled = |text: &str| {
        let raw = Raw::json_text("money.Paid", "money/", Tags::none(), text).expect("it is json");
        store.append(Append::raw(raw).key("json", "1")).map(|committed| committed.replayed)
    };
    assert!(!spelled(r#"{"from":1,"to":2,"cents":500}"#).expect("it is the first"));
    assert!(spelled(r#"{ "cents": 500, "to": 2, "from": 1 }"#).expect("it is the same"));
    for other in [r#"{"from":1,"to":2,"cents":501}"#, r#"{"from":1,"to":2,"cents":500,"note":null}"#] {
        assert!(matches!(spelled(other), Err(AppendError::KeyReused { .. })), "{other}");
    }
    // Digits that a float would lose count.
    let large = |digit| {
        Raw::json_text("other.Thing", "other/", Tags::none(), &format!("1234567890123456789012{digit}"))
    };
    let append = |digit| store.append(Append::raw(large(digit).expect("it is json")).key("json", "2"));
    assert!(!append(1).expect("it is the first").replayed && append(1).expect("it is the same").replayed);
    assert!(matches!(append(2), Err(AppendError::KeyReused { .. })));
}

// ---- rows that are written otherwise each time ----

macro_rules! rows {
    ($name:ident, $row:ty, |$amount:ident, $state:ident| $change:expr) => {
        struct $name;
        impl Projection for $name {
            const NAME: &str = stringify!($name);
            type Event = Money;
            type Key = ();
            type Row = $row;
            fn fold(event: &Money, rows: &mut Rows<'_, Self>) -> Folded {
                let Money::Paid { cents: $amount, .. } = event;
                rows.update((), |$state| $change)
            }
        }
    };
}
rows!(ByMap, HashMap<u64, HashMap<String, u64>>, |cents, row| {
    *row.entry(cents % 7).or_default().entry(cents.to_string()).or_default() += 1;
});
rows!(BySet, HashSet<u64>, |cents, row| {
    row.insert(*cents);
});
rows!(ByOrderedSet, BTreeSet<u64>, |cents, row| {
    row.insert(*cents);
});
rows!(ByChance, Drawn, |cents, row| row.0 = *cents);

#[derive(Default, Clone, Deserialize)]
struct Drawn(u64);

impl Serialize for Drawn {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        static DRAWN: AtomicU64 = AtomicU64::new(0);
        to.serialize_newtype_struct("Drawn", &DRAWN.fetch_add(1, Ordering::Relaxed))
    }
}

fn pay(cents: u64) -> Append {
    Append::event(Money::Paid { from: 1, to: 2, cents })
}

/// Was reported as damage, and folded again from the first commit at each open after a crash.
#[test]
fn rows_with_hash_maps_are_folded_once() {
    let disk = fresh_disk(6);
    let setup = |folded: &Arc<AtomicU64>| {
        let folded = folded.clone();
        on(&disk, Setup::new().inline::<ByMap>().inline::<ByOrderedSet>()).progress(move |progress| {
            let again = matches!(progress.task, tallystone::setup::Task::Project);
            folded.fetch_add(u64::from(again), Ordering::Relaxed);
        })
    };
    let folded = Arc::default();
    let store = Store::create(Path::new("/store"), setup(&folded)).expect("it is new");
    (0..60).for_each(|cents| drop(store.append(pay(cents)).expect("it is folded")));
    let report = store.verify().expect("it is read");
    assert_eq!((report.first_bad, report.folded_otherwise), (None, None));
    assert!(store.audit::<ByMap>().expect("it is folded again").is_clean());
    store.close();
    for round in 0..4 {
        let store = Store::open(Path::new("/store"), setup(&folded)).expect("it is well");
        (0..5).for_each(|cents| drop(store.append(pay(1000 + cents)).expect("it is folded")));
        disk.kill();
        drop(store);
        assert_eq!(folded.load(Ordering::Relaxed), 0, "folded again in round {round}");
    }
}

/// The first of so many appends that the projection's row refuses, and why.
fn first_refusal<P: Projection>() -> (u64, String) {
    let store = Store::in_memory(Setup::new().inline::<P>()).expect("the setup is right");
    let refused = (0..40).find_map(|cents| match store.append(pay(cents)) {
        Err(AppendError::Fold { projection, why, .. }) if projection == P::NAME => Some((cents, why)),
        other => other.map(|_| None).expect("it is folded or refused"),
    });
    let refused = refused.expect("it is refused");
    let report = store.verify().expect("it is read");
    assert_eq!((report.first_bad, report.folded_otherwise), (None, None));
    refused
}

#[test]
fn rows_with_hash_sets_are_refused() {
    let (_, why) = first_refusal::<BySet>();
    assert!(why.contains("HashSet<u64>") && why.contains("use a `BTreeSet`"), "{why}");
}

#[test]
fn rows_with_nondeterministic_serialization_are_refused() {
    let (first, why) = first_refusal::<ByChance>();
    assert!(first == 0 && why.contains("types::Drawn"), "{first}: {why}");
}

// ---- keys by field name ----

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Who {
    Anyone,
    User(u64),
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Access {
    Granted { who: Who, level: f64 },
    Used { who: Who, level: f64 },
}

impl Event for Access {
    const FAMILY: &str = "access";
    type Id = ();
    fn id(&self) {}
}

fn guarded(key: &str) -> Store {
    let rule = format!(
        "[check.granted-first]\nkind = \"precedence\"\nwhen = \"access.Granted\"\nthen = \"access.Used\"\n{key}\n\
         guard = true\nseverity = \"page\"\nowner = \"desk\"\nmeans = \"Used without a grant.\"\nremedy = \"1 ask\"\n"
    );
    let checks = rules::parse(&rule, "rules.toml").expect("it is a rule");
    let setup = Setup::new().events::<Access>().alerts(|_| ());
    Store::in_memory(checks.into_iter().fold(setup, Setup::check)).expect("the setup is right")
}

fn json_event(name: &str, payload: serde_json::Value) -> Append {
    Append::raw(Raw::json(format!("access.{name}"), "access/", Tags::none(), &payload))
}

/// A guard took one user for the other, and a typed event for none of the JSON ones.
#[test]
fn guard_compares_typed_and_json_keys_by_value() {
    let used = |who, level| Append::event(Access::Used { who, level });
    let refused =
        |answer: Result<Committed, AppendError>| matches!(answer, Err(AppendError::Violated { .. }));
    for key in ["key = \"who\"", "tied = [\"who\"]"] {
        let store = guarded(key);
        store
            .append(Append::event(Access::Granted { who: Who::User(1), level: 1.0 }))
            .expect("it is a grant");
        store.append(used(Who::User(1), 1.0)).expect("it was granted");
        store.append(json_event("Used", json!({"who": {"User": 1}, "level": 1}))).expect("it was granted");
        assert!(refused(store.append(used(Who::User(2), 1.0))), "{key}");
        assert!(refused(store.append(used(Who::Anyone, 1.0))), "{key}");
        assert!(refused(store.append(json_event("Used", json!({"who": {"User": 2}, "level": 1})))), "{key}");
        store.append(json_event("Granted", json!({"who": "Anyone", "level": 1}))).expect("it is a grant");
        store.append(used(Who::Anyone, 1.0)).expect("it was granted");
    }
    let store = guarded("key = \"level\"");
    store.append(json_event("Granted", json!({"who": "Anyone", "level": 1}))).expect("it is a grant");
    store.append(used(Who::Anyone, 1.0)).expect("1 and 1.0 are one number");
    assert!(refused(store.append(used(Who::Anyone, 1.5))));
}

#[test]
fn json_integers_beyond_64_bits_are_distinct_keys() {
    let store = guarded("key = \"who\"");
    let event = |name: &str, id: &str| {
        let raw =
            Raw::json_text(format!("access.{name}"), "access/", Tags::none(), &format!("{{\"who\":{id}}}"));
        store.append(Append::raw(raw.expect("it is json")))
    };
    event("Granted", "100000000000000000001").expect("it is a grant");
    event("Used", "100000000000000000001").expect("it was granted");
    assert!(matches!(event("Used", "100000000000000000002"), Err(AppendError::Violated { .. })));
    let beyond = event("Used", &"9".repeat(50));
    assert!(
        matches!(&beyond, Err(AppendError::CannotTell { why, .. }) if why.contains("beyond 128 bits")),
        "{beyond:?}"
    );
}

// ---- names of the store's own ----

fn assert_own(answer: Result<Committed, AppendError>) {
    match answer {
        Err(AppendError::Invalid { what: "event", why }) => assert!(why.contains("the store's own"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// Were taken for findings of the store, and closed or opened violations.
#[test]
fn events_of_reserved_family_are_refused() {
    let store = store_of_money();
    store.transact("flag", |tx| -> Decision<bool> { Ok(tx.once("greeted")?) }).expect("it is the first");
    let copied: Vec<_> = store.view().expect("it is open").query::<Raw>(Query::all()).collect();
    let own = copied.into_iter().map(|event| event.expect("it is read").event);
    let own: Vec<_> = own.filter(|raw| raw.family() == "tallystone").collect();
    assert_eq!(own.len(), 1);
    let other = store_of_money();
    assert_own(other.append(Append::raw(own[0].clone())));
    assert_own(other.append(Append::event(own[0].clone())));
    let refused = other.transact("copy", |tx| -> Decision { Ok(tx.append_raw(own[0].clone())?) });
    assert!(matches!(refused, Err(TxError::Invalid { what: "event", .. })), "{refused:?}");
    for (name, stream) in [("tallystone.Passed", "tallystone/time"), ("note.Made", "tallystone/time")] {
        assert_own(other.append(Append::raw(Raw::json(name, stream, Tags::none(), &json!(null)))));
        let raw = Raw::new(name, 1, Codec::Bincode, stream, Tags::none(), Vec::new());
        assert_own(other.append(Append::raw(raw)));
    }
    assert_eq!(other.stats().position.get(), 1);
}

#[test]
fn flag_named_like_check_is_taken_once() {
    let about = About { id: "paid", severity: Severity::Note, owner: "o", means: "m.", remedy: "1 r" };
    let check = about.absence(1, |_: &Money| true);
    let store =
        Store::in_memory(Setup::new().check(check).alerts(|_| ()).lockstep()).expect("the setup is right");
    store.append(Append::event(paid())).expect("it is taken");
    settle(&store);
    assert_eq!(store.checks().all().expect("rows are read").len(), 1);
    let once = || store.transact("flag", |tx| -> Decision<bool> { Ok(tx.once("check:paid")?) });
    assert!(once().expect("it is free").response);
    assert!(!once().expect("it is taken").response);
}

#[test]
fn reserved_family_and_projection_names_are_refused() {
    #[derive(Serialize, Deserialize)]
    struct Mine;
    impl Event for Mine {
        const FAMILY: &str = "tallystone";
        type Id = ();
        fn id(&self) {}
    }
    struct Episodes;
    impl Projection for Episodes {
        const NAME: &str = "tallystone.episodes";
        type Event = Money;
        type Key = ();
        type Row = ();
        fn fold(_: &Money, _: &mut Rows<'_, Self>) -> Folded {
            Ok(())
        }
    }
    for setup in
        [Setup::new().events::<Mine>(), Setup::new().inline::<Episodes>(), Setup::new().behind::<Episodes>()]
    {
        let refused = Store::in_memory(setup);
        assert!(
            matches!(&refused, Err(OpenError::Setup(why)) if why[0].contains("the store's own")),
            "{refused:?}"
        );
    }
    // One that was never registered is not written either.
    assert_own(store_of_money().append(Append::event(Mine)));
}

// ---- types that take only some values ----

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
struct Iban(String);

impl TryFrom<String> for Iban {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        let digits = text
            .strip_prefix("DE")
            .filter(|rest| rest.len() == 20 && rest.bytes().all(|b| b.is_ascii_digit()));
        // A check digit, as any sample but a real one fails it.
        let sum: u32 = digits.unwrap_or_default().bytes().map(|digit| u32::from(digit - b'0')).sum();
        if sum > 0 && sum % 97 == 80 { Ok(Self(text)) } else { Err("no IBAN") }
    }
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(try_from = "u16")]
struct Year(u16);

impl TryFrom<u16> for Year {
    type Error = &'static str;
    fn try_from(year: u16) -> Result<Self, &'static str> {
        if year >= 1900 { Ok(Self(year)) } else { Err("a year from 1900") }
    }
}

fn iban() -> Iban {
    Iban::try_from("DE89370400440532013999".to_owned()).expect("it is one")
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Account {
    Opened { iban: Iban, since: Year, ratio: f64 },
    Closed { iban: Iban, heirs: Vec<Iban> },
}

impl Event for Account {
    const FAMILY: &str = "account";
    type Id = String;
    fn id(&self) -> String {
        let (Self::Opened { iban, .. } | Self::Closed { iban, .. }) = self;
        iban.0.clone()
    }
    fn samples() -> Vec<Self> {
        vec![Self::Opened { iban: iban(), since: Year(1954), ratio: 0.5 }]
    }
    fn upcasts() -> Upcasts<Self> {
        #[derive(Serialize, Deserialize)]
        struct ClosedV1(Iban, Year);
        Upcasts::none().last("Closed", 1, |old: ClosedV1| Self::Closed { iban: old.0, heirs: Vec::new() })
    }
}

struct Accounts;

impl Projection for Accounts {
    const NAME: &str = "accounts";
    type Event = Account;
    type Key = Iban;
    type Row = Option<Year>;
    fn samples() -> Vec<(Iban, Option<Year>)> {
        vec![(iban(), Some(Year(1954)))]
    }
    fn fold(event: &Account, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Account::Opened { iban, since, .. } => rows.put(iban.clone(), Some(since.clone())),
            Account::Closed { iban, .. } => rows.put(iban.clone(), None),
        }
    }
}

#[test]
fn restricted_value_types_register_by_samples() {
    let store = Store::in_memory(Setup::new().inline::<Accounts>()).expect("its samples are taken");
    let opened = Account::Opened { iban: iban(), since: Year(2001), ratio: 1.0 };
    let open = || {
        store.transact(Request::new("open").key("desk", "1", &iban()), |tx| -> Decision<(Iban, Year)> {
            tx.append(opened.clone())?;
            Ok((iban(), Year(2001)))
        })
    };
    let first = open().expect("it is the first");
    assert_eq!(
        store.view().expect("it is open").row::<Accounts>(&iban()).expect("it is read"),
        Some(Some(Year(2001)))
    );
    let again = open().expect("it is the same");
    assert!(again.replayed && again.response == first.response);
    let view = store.view().expect("it is open");
    let layout = view.layout("account.Opened", 1).expect("it is declared");
    assert_eq!(layout.to_string(), "{iban:str,since:u16,ratio:f64}");
}

#[test]
fn missing_samples_error_names_refusing_field() {
    struct Unsampled;
    impl Projection for Unsampled {
        const NAME: &str = "unsampled";
        type Event = Account;
        type Key = u32;
        type Row = Year;
        fn fold(_: &Account, _: &mut Rows<'_, Self>) -> Folded {
            Ok(())
        }
    }
    let refused = Store::in_memory(Setup::new().inline::<Unsampled>());
    assert!(
        matches!(&refused, Err(OpenError::Setup(why)) if why[0].contains("a year from 1900") && why[0].contains("`samples()`")),
        "{refused:?}"
    );
}
