//! Layouts are complete, have one text, and read bytes that the codec wrote; types that cannot be carried are refused by name.

use super::*;
use crate::event::Tags;
use crate::event::{Event, Family};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::{NonZeroI64, NonZeroU8, NonZeroU128};

fn check<T: Serialize + DeserializeOwned>(expected: &str) {
    let layout = Layout::of::<T>().unwrap_or_else(|e| panic!("{expected}: {e}"));
    assert_eq!(layout.to_string(), expected);
    assert_eq!(Layout::parse(expected).unwrap(), layout);
}

fn refused<T: Serialize + DeserializeOwned>() -> String {
    Layout::of::<T>().expect_err("it is to be refused").to_string()
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Cents(u64);
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Kind {
    Small,
    Big(u8),
    Cut { at: u32 },
    Two(u8, String),
    Deep(Inner),
}
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Inner {
    One(Cents),
    Two { of: Vec<Inner2> },
}
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Inner2 {
    Left(bool),
    Right,
}
const KIND: &str = "<Small|Big(u8)|Cut{at:u32}|Two(u8,str)|Deep(<One(u64)|Two{of:[<Left(bool)|Right>]}>)>";

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Paid {
    to: String,
    cents: Cents,
    kind: Kind,
    by: Option<BTreeMap<String, (u8, f64)>>,
    key: [u8; 32],
    at: std::time::SystemTime,
}

#[test]
fn layout_names_every_field_and_variant() {
    check::<Kind>(KIND);
    check::<Paid>(&format!(
        "{{to:str,cents:u64,kind:{KIND},by:?map<str,(u8,f64)>,key:[u8;32],\
         at:{{secs_since_epoch:u64,nanos_since_epoch:u32}}}}"
    ));
    check::<(bool, i8, i16, i32, i64, i128, u8, u16, u32, u64, u128, f32, f64, char)>(
        "(bool,i8,i16,i32,i64,i128,u8,u16,u32,u64,u128,f32,f64,char)",
    );
    check::<()>("unit");
    check::<(u8,)>("(u8,)");
    check::<(u8, u8)>("(u8,u8)");
    check::<[u8; 0]>("()");
    check::<[(u8, u8, u8); 4]>("[[u8;3];4]");
    check::<Vec<Option<HashSet<String>>>>("[?[str]]");
    check::<Result<u8, String>>("<Ok(u8)|Err(str)>");
    check::<HashMap<u8, Vec<u8>>>("map<u8,[u8]>");
}

mod recursive {
    use super::*;

    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub struct Chain {
        pub value: u8,
        pub next: Option<Box<Chain>>,
    }
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub enum Term {
        Add(Box<Term>, Box<Term>),
        Not(Box<Term>),
        All(Vec<Term>),
        Let { name: String, be: Box<Term>, env: BTreeMap<String, Term> },
        Number(i64),
    }
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    #[serde(transparent)]
    pub struct Tree(pub Vec<Tree>);
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub struct Even(pub Option<Box<Odd>>);
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub struct Odd {
        pub kind: Kind,
        pub even: Vec<Even>,
    }
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub enum Endless {
        More(Box<Endless>),
    }
}
use recursive::*;

#[test]
fn recursion_is_a_reference() {
    check::<Chain>("{value:u8,next:?^2}");
    check::<Term>("<Add(^2,^2)|Not(^1)|All([^2])|Let{name:str,be:^2,env:map<str,^3>}|Number(i64)>");
    check::<Tree>("[^1]");
    check::<Even>(&format!("?{{kind:{KIND},even:[^3]}}"));
    check::<(Chain, Chain)>("({value:u8,next:?^2},{value:u8,next:?^2})");
    assert!(refused::<Endless>().contains("no value that ends"), "{}", refused::<Endless>());
}

mod a {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub struct Money {
        v: u64,
    }
}
mod b {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub struct Money {
        v: super::a::Money,
    }
}

#[test]
fn same_named_types_stay_distinct() {
    check::<b::Money>("{v:{v:u64}}");
}

#[test]
fn aliases_change_nothing() {
    #[derive(Serialize, Deserialize)]
    struct Plain {
        first: NonZeroU8,
        zulu: String,
        kind: Plainly,
    }
    #[derive(Serialize, Deserialize)]
    enum Plainly {
        Mid { x: u8, y: u8 },
        Other,
    }
    #[derive(Serialize, Deserialize)]
    struct Aliased {
        #[serde(alias = "aaa", alias = "zzz")]
        first: NonZeroU8,
        zulu: String,
        #[serde(alias = "before")]
        kind: Aliasly,
    }
    #[derive(Serialize, Deserialize)]
    enum Aliasly {
        #[serde(alias = "Aaa", alias = "Zzz")]
        Mid {
            x: u8,
            #[serde(alias = "ex")]
            y: u8,
        },
        #[serde(alias = "A")]
        Other,
    }
    check::<Plain>("{first:u8,zulu:str,kind:<Mid{x:u8,y:u8}|Other>}");
    check::<Aliased>("{first:u8,zulu:str,kind:<Mid{x:u8,y:u8}|Other>}");
}

#[test]
fn names_of_any_letters_come_back() {
    #[derive(Serialize, Deserialize)]
    struct Odd {
        #[serde(rename = "a:b\"c\\")]
        a: u8,
        #[serde(rename = "größe-2")]
        b: u8,
        #[serde(rename = "")]
        c: u8,
    }
    check::<Odd>("{\"a:b\\\"c\\\\\":u8,größe-2:u8,\"\":u8}");
}

#[derive(Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Date(String);
impl Clone for Date {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
impl From<Date> for String {
    fn from(date: Date) -> Self {
        date.0
    }
}
impl TryFrom<String> for Date {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        let parts: Vec<_> = text.split('-').map(str::parse::<u16>).collect();
        if matches!(parts[..], [Ok(1000..), Ok(1..=12), Ok(1..=31)]) {
            Ok(Self(text))
        } else {
            Err("not a date")
        }
    }
}
#[derive(Serialize, Deserialize, Clone)]
#[serde(try_from = "(i32, u8, u8)", into = "(i32, u8, u8)")]
struct Calendar((i32, u8, u8));
impl From<Calendar> for (i32, u8, u8) {
    fn from(date: Calendar) -> Self {
        date.0
    }
}
impl TryFrom<(i32, u8, u8)> for Calendar {
    type Error = String;
    fn try_from(date: (i32, u8, u8)) -> Result<Self, String> {
        if (1..=12).contains(&date.1) && (1..=31).contains(&date.2) {
            Ok(Self(date))
        } else {
            Err("no day".into())
        }
    }
}
#[derive(Serialize, Deserialize, Clone)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
struct Few(Vec<u8>);
impl From<Few> for Vec<u8> {
    fn from(few: Few) -> Self {
        few.0
    }
}
impl TryFrom<Vec<u8>> for Few {
    type Error = String;
    fn try_from(list: Vec<u8>) -> Result<Self, String> {
        if list.len() == 4 { Ok(Self(list)) } else { Err("four".into()) }
    }
}

#[test]
fn type_refusing_samples_gets_other_samples() {
    check::<NonZeroU8>("u8");
    check::<(NonZeroU8, NonZeroI64, Option<NonZeroU128>)>("(u8,i64,?u128)");
    check::<Date>("str");
    check::<Vec<Date>>("[str]");
    check::<BTreeMap<Date, NonZeroU8>>("map<str,u8>");
    check::<(u8, Calendar, NonZeroU8)>("(u8,(i32,u8,u8),u8)");
    check::<Few>("[u8]");
    check::<(std::net::IpAddr, std::time::Duration, std::path::PathBuf)>(
        "(<V4([u8;4])|V6([u8;16])>,{secs:u64,nanos:u32},str)",
    );
}
impl PartialEq for Date {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Date {}
impl PartialOrd for Date {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Date {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

#[test]
fn field_refusing_every_sample_is_named() {
    #[derive(Serialize, Deserialize)]
    #[serde(try_from = "String")]
    struct Never(String);
    impl TryFrom<String> for Never {
        type Error = &'static str;
        fn try_from(_: String) -> Result<Self, &'static str> {
            Err("not a checksum")
        }
    }
    #[derive(Serialize, Deserialize)]
    struct Outer {
        id: u8,
        inner: Option<Holds>,
    }
    #[derive(Serialize, Deserialize)]
    struct Holds {
        sum: Never,
    }
    let error = refused::<Outer>();
    assert!(error.contains("field `inner.sum`: the type refuses every sample"), "{error}");
    assert!(error.contains("not a checksum") && error.contains("Outer"), "{error}");
}

#[test]
fn self_describing_serde_attribute_is_refused() {
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        A { x: u32 },
        B(String),
    }
    #[derive(Serialize, Deserialize)]
    #[serde(tag = "t")]
    enum Tagged {
        A { x: u32 },
        B,
    }
    #[derive(Serialize, Deserialize)]
    #[serde(tag = "t", content = "c")]
    enum Adjacent {
        A { x: u32 },
        B(u8),
    }
    #[derive(Serialize, Deserialize)]
    struct Flat {
        a: u8,
        #[serde(flatten)]
        rest: Cents1,
    }
    #[derive(Serialize, Deserialize)]
    struct Cents1 {
        cents: u64,
    }
    #[derive(Serialize, Deserialize)]
    enum FlatInside {
        A {
            #[serde(flatten)]
            rest: Cents1,
        },
    }
    #[derive(Serialize, Deserialize)]
    struct In<T> {
        deep: Vec<T>,
    }
    fn both<T: Serialize + DeserializeOwned>(attribute: &str) {
        for error in [refused::<T>(), refused::<In<T>>()] {
            assert!(error.contains(attribute), "{attribute}: {error}");
        }
        assert!(refused::<In<T>>().contains("field `deep.0"));
    }
    both::<Untagged>("`#[serde(untagged)]` cannot be carried");
    both::<Tagged>("`#[serde(tag)]` cannot be carried");
    both::<Adjacent>("`#[serde(tag, content)]` cannot be carried");
    both::<Flat>("`#[serde(flatten)]` cannot be carried");
    both::<FlatInside>("`#[serde(flatten)]` cannot be carried");
    both::<serde_json::Value>("asks the bytes what they are");
}

#[test]
fn asymmetric_serde_type_is_refused() {
    #[derive(Serialize, Deserialize)]
    struct Skips {
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        list: Vec<u8>,
        b: u8,
    }
    #[derive(Serialize, Deserialize)]
    struct SkipsInTuple(
        #[serde(skip_serializing_if = "Option::is_none", default)] Option<u8>,
        #[serde(default)] u8,
    );
    #[derive(Serialize, Deserialize)]
    struct OneSided {
        #[serde(skip_serializing, default)]
        _a: u8,
        b: u8,
    }
    #[derive(Serialize, Deserialize)]
    struct OtherSide {
        #[serde(skip_deserializing)]
        a: u8,
        b: u8,
    }
    #[derive(Serialize, Deserialize)]
    enum Shifted {
        #[serde(skip)]
        #[allow(dead_code)]
        Hidden(u32),
        A {
            x: u32,
        },
        B(u8),
    }
    #[derive(Serialize, Deserialize)]
    struct BothSides {
        #[serde(skip)]
        _a: u8,
        b: u8,
    }
    assert!(refused::<Skips>().contains("field `list`: `#[serde(skip_serializing_if)]` cannot be carried"));
    for error in
        [refused::<SkipsInTuple>(), refused::<OneSided>(), refused::<OtherSide>(), refused::<Shifted>()]
    {
        assert!(error.contains("it writes other than it reads"), "{error}");
    }
    check::<BothSides>("{b:u8}");
}

#[test]
fn oversized_type_is_refused() {
    type Eight<T> = (T, T, T, T, T, T, T, T);
    type Many = Eight<(u8, Eight<(u16, Eight<(u32, Eight<(u64, Eight<u8>)>)>)>)>;
    assert!(refused::<Many>().contains("too large") || refused::<Many>().contains("more than 4096 parts"));
}

// Events

#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum Pay {
    #[serde(alias = "Payed", alias = "Zahlung")]
    Made {
        to: String,
        cents: Cents,
    },
    Void(u32),
    Closed,
    #[serde(skip_serializing)]
    Retired {
        old: u8,
    },
}
impl Event for Pay {
    const FAMILY: &str = "pay";
    type Id = ();
    fn id(&self) {}
    fn tags(&self) -> Tags {
        Tags::none()
    }
}

#[test]
fn family_types_are_variants_with_aliases() {
    let types = Family::of::<Pay>().types().unwrap();
    let told: Vec<_> = types.iter().map(|t| (t.name.as_str(), t.layout.to_string())).collect();
    assert_eq!(
        told,
        [
            ("pay.Made", "{to:str,cents:u64}".into()),
            ("pay.Void", "u32".into()),
            ("pay.Closed", "unit".into()),
            ("pay.Retired", "{old:u8}".to_owned())
        ]
    );
    assert_eq!(types[0].aliases, ["pay.Payed", "pay.Zahlung"]);
    for old in ["Made", "Payed", "Zahlung"] {
        assert_eq!(
            of_variant(ErasedEvent::of::<Pay>(), old, &Samples::default()).unwrap().to_string(),
            "{to:str,cents:u64}"
        );
    }
    assert!(
        of_variant(ErasedEvent::of::<Pay>(), "Other", &Samples::default())
            .unwrap_err()
            .to_string()
            .contains("no variant Other")
    );
}

#[derive(Serialize, Deserialize)]
enum Folds {
    Again { first: Option<Box<Folds>> },
    End,
}
impl Event for Folds {
    const FAMILY: &str = "folds";
    type Id = ();
    fn id(&self) {}
}
#[derive(Serialize, Deserialize)]
enum SkipsSome {
    Fine,
    Not {
        #[serde(skip_serializing_if = "Option::is_none", default)]
        a: Option<u8>,
    },
}
impl Event for SkipsSome {
    const FAMILY: &str = "skips";
    type Id = ();
    fn id(&self) {}
}

#[test]
fn family_with_unsupported_variant_is_refused() {
    let told = |e: Vec<LayoutError>| e[0].to_string();
    assert!(told(Family::of::<Folds>().types().unwrap_err()).contains("holds its own family"));
    let error = told(Family::of::<SkipsSome>().types().unwrap_err());
    assert!(error.contains("field `a`: `#[serde(skip_serializing_if)]`"), "{error}");
}

// Reading

fn leaf() -> impl Strategy<Value = Layout> {
    proptest::sample::select(vec![
        Layout::Bool,
        Layout::I8,
        Layout::I64,
        Layout::U8,
        Layout::U32,
        Layout::U128,
        Layout::F64,
        Layout::Char,
        Layout::Str,
        Layout::Bytes,
        Layout::Unit,
        Layout::Ref(1),
        Layout::Ref(3),
    ])
}

fn layouts() -> impl Strategy<Value = Layout> {
    let named = |inner: BoxedStrategy<Layout>| {
        proptest::collection::vec((".{0,4}".prop_map(Arc::<str>::from), inner), 0..4)
    };
    leaf().prop_recursive(4, 24, 4, move |inner| {
        let inner = inner.boxed();
        prop_oneof![
            inner.clone().prop_map(|l| Layout::Option(Box::new(l))),
            inner.clone().prop_map(|l| Layout::Seq(Box::new(l))),
            (inner.clone(), 3..9u32).prop_map(|(l, n)| Layout::Array(Box::new(l), n)),
            (inner.clone(), inner.clone()).prop_map(|(k, v)| Layout::Map(Box::new(k), Box::new(v))),
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Layout::tuple),
            named(inner.clone()).prop_map(Layout::Struct),
            named(inner.clone()).prop_map(Layout::Enum),
        ]
    })
}

proptest! {
    #[test]
    fn layout_text_round_trips(layout in layouts()) {
        prop_assert_eq!(Layout::parse(&layout.to_string()).unwrap(), layout);
    }

    #[test]
    fn hostile_text_is_refused_or_canonical(text in "[?\\[\\](){}<>|,:;^a-z0-9\"]{0,24}|.{0,40}") {
        if let Ok(layout) = Layout::parse(&text) {
            prop_assert_eq!(layout.to_string(), text);
        }
    }

    #[test]
    fn damaged_layout_text_never_parses_equal(layout in layouts(), at in any::<prop::sample::Index>(), with in any::<char>()) {
        let text = layout.to_string();
        let mut chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        chars[at] = with;
        let damaged: String = chars.into_iter().collect();
        if let Ok(other) = Layout::parse(&damaged) {
            prop_assert_eq!(other == layout, damaged == text);
        }
    }

    #[test]
    fn hostile_payloads_are_refused_or_read(layout in layouts(), payload in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..64)) {
        let _ = layout.read(&payload);
    }

    #[test]
    fn term_reads_by_name_as_written(term in term()) {
        let layout = Layout::of::<Term>().unwrap();
        let value = layout.read(&codec::encode(&term).unwrap()).unwrap();
        prop_assert_eq!(value.to_json(), serde_json::to_value(&term).unwrap());
    }

    #[test]
    fn family_payload_reads_by_name(to in ".{0,9}", cents in any::<u64>()) {
        let mut payload = Vec::new();
        let variant = codec::encode_event(&Pay::Made { to: to.clone(), cents: Cents(cents) }, &mut payload).unwrap();
        let value = of_variant(ErasedEvent::of::<Pay>(), variant, &Samples::default()).unwrap().read(&payload).unwrap();
        prop_assert_eq!(value.get("to").and_then(Value::as_str), Some(to.as_str()));
        prop_assert_eq!(value.path("cents").and_then(Value::as_u64), Some(cents));
    }
}

fn term() -> impl Strategy<Value = Term> {
    any::<i64>().prop_map(Term::Number).prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Term::Add(Box::new(a), Box::new(b))),
            inner.clone().prop_map(|a| Term::Not(Box::new(a))),
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Term::All),
            (".{0,4}", inner.clone(), proptest::collection::btree_map(".{0,4}", inner, 0..3))
                .prop_map(|(name, be, env)| Term::Let { name, be: Box::new(be), env }),
        ]
    })
}

#[test]
fn hostile_texts_do_not_explode() {
    for text in
        ["?".repeat(10_000), "(".repeat(10_000), "<A(".repeat(10_000), format!("({})", "u8,".repeat(5_000))]
    {
        assert!(Layout::parse(&text).is_err());
    }
    assert!(Layout::parse(&"u8".repeat(100_000)).unwrap_err().to_string().contains("limit is 65536"));
    let nested = Layout::parse("[[[[unit;4294967295];4294967295];4294967295];4294967295]").unwrap();
    assert!(nested.read(&[]).unwrap_err().to_string().contains("values"));
    let units = Layout::parse("[unit]").unwrap();
    assert!(units.read(&(1u64 << 23).to_le_bytes()).unwrap_err().to_string().contains("values"));
    assert!(Layout::parse("^1").unwrap().read(&[]).is_err());
    assert!(
        Layout::parse("?^1").unwrap().read(&[1; 4096]).unwrap_err().to_string().contains("deeper than 128")
    );
    assert!(
        Layout::parse("{a:^1}")
            .unwrap()
            .read(&[1; 4096])
            .unwrap_err()
            .to_string()
            .contains("deeper than 128")
    );
}

#[test]
fn read_error_names_field_and_byte() {
    let layout = Layout::parse("{to:str,kind:<Small|Big{flag:bool}>}").unwrap();
    let payload = codec::encode(&("ana", 1u32, 7u8)).unwrap();
    assert_eq!(
        layout.read(&payload).unwrap_err().to_string(),
        "field `kind.Big.flag` at byte 15: a bool is 0 or 1"
    );
    let payload = codec::encode(&("ana", 9u32)).unwrap();
    assert_eq!(layout.read(&payload).unwrap_err().to_string(), "field `kind` at byte 11: variant 9 of 2");
}
