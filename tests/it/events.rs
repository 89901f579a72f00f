//! Events as a user sees them: names from the derive, payloads there and back, several families, raw events, json.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tallystone::event::{Codec, Event, EventSet, Family, Raw, Tags};
use tallystone::layout::Layout;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Card {
    Created { card: u32, signers: Vec<String> },
    Signed { card: u32, by: String, note: Option<String> },
    Sent(u32),
    Burnt,
}
impl Event for Card {
    const FAMILY: &str = "card";
    type Id = (u32, String);
    fn id(&self) -> (u32, String) {
        match self {
            Card::Created { card, .. } | Card::Signed { card, .. } | Card::Sent(card) => {
                (*card, "a/b".into())
            }
            Card::Burnt => (0, String::new()),
        }
    }
    fn tags(&self) -> Tags {
        match self {
            Card::Signed { card, by, .. } => Tags::of("card", card).and("by", by).and("card", card),
            _ => Tags::none(),
        }
    }
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Deposited {
    account: u32,
    cents: i64,
}
impl Event for Deposited {
    const FAMILY: &str = "account";
    type Id = u32;
    fn id(&self) -> u32 {
        self.account
    }
}

tallystone::any_of! {
    /// Both.
    #[derive(Debug, Clone, PartialEq)]
    enum Both { Card(Card), Money(Deposited) }
}

fn there_and_back<E: EventSet + PartialEq + std::fmt::Debug>(event: &E) -> Raw {
    let raw = event.encode().unwrap();
    assert_eq!(E::decode(&raw.borrowed()).unwrap(), *event);
    assert_eq!(Raw::decode(&raw.borrowed()).unwrap(), raw);
    raw
}

fn check(event: &Both, type_name: &str, stream: &str, tags: &[&str]) {
    let raw = there_and_back(event);
    assert_eq!(
        (raw.type_name(), raw.stream(), raw.codec(), raw.schema()),
        (type_name, stream, Codec::Bincode, 1)
    );
    assert_eq!(raw.tags().iter().collect::<Vec<_>>(), tags);
}

#[test]
fn event_is_stored_under_readable_names() {
    let signed = Card::Signed { card: 7, by: "ana".into(), note: None };
    check(&signed.into(), "card.Signed", "card/7/a%2Fb", &["card:7", "by:ana"]);
    check(&Card::Sent(7).into(), "card.Sent", "card/7/a%2Fb", &[]);
    check(&Card::Burnt.into(), "card.Burnt", "card/0/", &[]);
    check(&Deposited { account: 7, cents: -5 }.into(), "account.Deposited", "account/7", &[]);
}

proptest! {
    #[test]
    fn every_event_comes_back(card in any::<u32>(), by in ".{0,9}", note in proptest::option::of(".{0,9}"), signers in proptest::collection::vec(".{0,5}", 0..4), cents in any::<i64>()) {
        there_and_back(&Card::Created { card, signers });
        there_and_back(&Card::Signed { card, by, note });
        there_and_back(&Deposited { account: card, cents });
        there_and_back(&Both::Card(Card::Sent(card)));
    }

    #[test]
    fn hostile_payloads_are_refused_or_canonical(data in any::<Vec<u8>>(), at in 0..5usize) {
        let name = ["card.Created", "card.Signed", "card.Sent", "card.Burnt", "account.Deposited"][at];
        let raw = Raw::new(name, 1, Codec::Bincode, "x/1", Tags::none(), data.clone());
        if let Ok(event) = Both::decode(&raw.borrowed()) {
            let again = event.encode().unwrap();
            prop_assert_eq!(again.data(), data);
        }
    }
}

mod renamed {
    use super::*;

    /// The same events in another order, under new Rust names, with one more.
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub enum Card {
        New,
        #[serde(rename = "Sent")]
        Mailed(u32),
        Burnt,
        #[serde(alias = "Signed")]
        Subscribed {
            card: u32,
            by: String,
            note: Option<String>,
        },
        Created {
            card: u32,
            signers: Vec<String>,
        },
    }
    impl Event for Card {
        const FAMILY: &str = "card";
        type Id = ();
        fn id(&self) {}
    }
}

#[test]
fn reordered_variants_decode_stored_events() {
    let old = Card::Sent(7).encode().unwrap();
    let new = renamed::Card::decode(&old.borrowed()).unwrap();
    assert_eq!(new, renamed::Card::Mailed(7));
    let again = new.encode().unwrap();
    assert_eq!((again.type_name(), again.data()), (old.type_name(), old.data()));
    let signed = Card::Signed { card: 1, by: "bo".into(), note: Some("hi".into()) }.encode().unwrap();
    let read = renamed::Card::decode(&signed.borrowed()).unwrap();
    assert_eq!(read, renamed::Card::Subscribed { card: 1, by: "bo".into(), note: Some("hi".into()) });
}

/// Was read as a variant of its own, so that the open refused it as gone.
#[test]
fn single_variant_family_accepts_alias() {
    #[derive(Serialize, Deserialize)]
    enum Rang {
        #[serde(alias = "Bell")]
        Chime { times: u32 },
    }
    impl Event for Rang {
        const FAMILY: &str = "rang";
        type Id = ();
        fn id(&self) {}
    }
    let family = Family::of::<Rang>();
    assert_eq!(family.types().unwrap()[0].aliases, ["rang.Bell"]);
    assert_eq!(family.layout_of("Bell").unwrap(), family.layout_of("Chime").unwrap());
}

#[test]
fn decode_errors_name_cause_without_payload() {
    fn told<E: EventSet + std::fmt::Debug>(raw: &Raw) -> String {
        E::decode(&raw.borrowed()).unwrap_err().to_string()
    }
    let raw = |name: &str, schema, data: &[u8]| {
        Raw::new(name, schema, Codec::Bincode, "card/1", Tags::none(), data.to_vec())
    };
    assert_eq!(
        told::<Card>(&raw("card.Sent", 1, &[1, 2, 3, 4, 5])),
        "card.Sent: at byte 4: 1 bytes too many"
    );
    assert_eq!(
        told::<Card>(&raw("card.Eaten", 1, &[])),
        "card.Eaten: this code knows only Created, Signed, Sent, Burnt"
    );
    assert_eq!(
        told::<Card>(&raw("card.Sent", 2, &[0; 4])),
        "card.Sent: written with schema 2, this code knows 1"
    );
    assert_eq!(
        told::<Card>(&raw("account.Deposited", 1, &[0; 12])),
        "account.Deposited: not an event of family card"
    );
    assert_eq!(told::<Both>(&raw("other.Thing", 1, &[])), "other.Thing: no family of this set has it");
    assert_eq!(
        told::<Deposited>(&raw("account.Withdrawn", 1, &[0; 12])),
        "account.Withdrawn: this code knows only Deposited"
    );
    let cut = told::<Card>(&raw("card.Signed", 1, &[1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, b's', b'e', b'c']));
    assert_eq!(cut, "card.Signed: field `by` at byte 4: the bytes end: 6 wanted, 3 left");
    assert!(!format!("{:?}", raw("card.Sent", 1, b"secret")).contains("secret"));
}

#[test]
fn families_know_their_types_and_layouts() {
    let families = Both::families();
    assert_eq!(families.iter().map(Family::name).collect::<Vec<_>>(), ["card", "account"]);
    assert!(Raw::families().is_empty());
    let types = families[0].types().unwrap();
    let told: Vec<_> = types.iter().map(|t| format!("{} {}", t.name, t.layout)).collect();
    assert_eq!(
        told,
        [
            "card.Created {card:u32,signers:[str]}",
            "card.Signed {card:u32,by:str,note:?str}",
            "card.Sent u32",
            "card.Burnt unit"
        ]
    );
    let new = Family::of::<renamed::Card>();
    assert_eq!(new.layout_of("Signed").unwrap(), families[0].layout_of("Signed").unwrap());
    let subscribed = &new.types().unwrap()[3];
    assert_eq!(
        (subscribed.name.as_str(), subscribed.aliases.as_slice()),
        ("card.Subscribed", &["card.Signed".into()][..])
    );
}

#[test]
fn layout_reads_payload_by_field_name() {
    let raw = Card::Signed { card: 7, by: "ana".into(), note: None }.encode().unwrap();
    let layout = Layout::parse("{card:u32,by:str,note:?str}").unwrap();
    let value = layout.read(raw.data()).unwrap();
    assert_eq!(value.get("by").unwrap().as_str(), Some("ana"));
    assert_eq!(value.get("card").unwrap().as_i64(), Some(7));
    assert!(value.get("note").unwrap().is_null() && value.get("other").is_none());
}

/// Families that cannot be one, each with what is said.
mod refused {
    use super::*;

    #[derive(Serialize, Deserialize, Debug)]
    #[serde(untagged)]
    pub enum Untagged {
        A { a: u8 },
    }
    #[derive(Serialize, Deserialize, Debug)]
    #[serde(tag = "kind")]
    pub enum Tagged {
        A { a: u8 },
    }
    #[derive(Serialize, Deserialize, Debug)]
    #[serde(tag = "kind", content = "is")]
    pub enum Adjacent {
        A { a: u8 },
    }
    #[derive(Serialize, Deserialize, Debug)]
    pub struct Inner {
        pub a: u8,
    }
    #[derive(Serialize, Deserialize, Debug)]
    pub struct Flat {
        #[serde(flatten)]
        pub inner: Inner,
    }
    #[derive(Serialize, Deserialize, Debug)]
    pub enum Skipping {
        A {
            #[serde(skip_serializing_if = "Option::is_none", default)]
            a: Option<u8>,
        },
    }
    #[derive(Serialize, Deserialize, Debug)]
    #[serde(transparent)]
    pub struct Number(pub u8);
    #[derive(Serialize, Deserialize, Debug)]
    pub enum Dotted {
        A,
    }

    macro_rules! family {
        ($($type:ident $name:literal)*) => { $(
            impl Event for $type {
                const FAMILY: &str = $name;
                type Id = ();
                fn id(&self) {}
            }
        )* };
    }
    family! { Untagged "u" Tagged "t" Adjacent "a" Flat "f" Skipping "s" Number "n" Dotted "a.b" }
}

fn at_registration<E: Event>(expected: &str) {
    let errors = Family::of::<E>().types().unwrap_err();
    assert!(errors[0].to_string().contains(expected), "{expected}: {}", errors[0]);
}

fn at_writing<E: Event>(event: E, expected: &str) {
    let error = event.encode().unwrap_err().to_string();
    assert!(error.contains(expected), "{expected}: {error}");
}

#[test]
fn unsupported_serde_attribute_is_refused_by_name() {
    use refused::*;
    at_registration::<Untagged>("`#[serde(untagged)]` cannot be carried");
    at_writing(Untagged::A { a: 1 }, "`#[serde(untagged)]` cannot be carried");
    at_registration::<Tagged>("`#[serde(tag)]` cannot be carried");
    at_writing(Tagged::A { a: 1 }, "`#[serde(tag)]` cannot be carried");
    at_registration::<Adjacent>("`#[serde(tag, content)]` cannot be carried");
    at_registration::<Flat>("`#[serde(flatten)]` cannot be carried");
    at_writing(Flat { inner: Inner { a: 1 } }, "`#[serde(flatten)]`");
    at_registration::<Skipping>("field `a`: `#[serde(skip_serializing_if)]` cannot be carried");
    at_writing(Skipping::A { a: None }, "s: field `a`: `#[serde(skip_serializing_if)]` cannot be carried");
    at_registration::<Number>("an event is an enum or a struct");
    at_writing(Number(1), "an event is an enum or a struct");
    at_registration::<Dotted>("family name has not the form");
}

mod json {
    use super::*;
    use serde_json::json;
    use tallystone::value::Value;

    #[test]
    fn json_event_decodes_like_typed_event() {
        let check = |name: &str, payload: serde_json::Value, expected: Both| {
            let raw = Raw::json(name, "card/7", Tags::of("from", "import"), &payload);
            assert_eq!(Both::decode(&raw.borrowed()).unwrap(), expected);
            let text = Raw::json_text(name, "card/7", Tags::none(), &payload.to_string()).unwrap();
            assert_eq!(Both::decode(&text.borrowed()).unwrap(), expected);
        };
        let signed = Card::Signed { card: 7, by: "ana".into(), note: None };
        check("card.Signed", json!({"card": 7, "by": "ana", "note": null}), signed.clone().into());
        check("card.Signed", json!({"by": "ana", "card": 7}), signed.into());
        check("card.Sent", json!(7), Card::Sent(7).into());
        check("card.Burnt", json!(null), Card::Burnt.into());
        check(
            "account.Deposited",
            json!({"account": 1, "cents": -5}),
            Deposited { account: 1, cents: -5 }.into(),
        );
    }

    #[test]
    fn json_decode_error_hides_content() {
        let raw = Raw::json("card.Signed", "card/7", Tags::none(), &json!({"card": "secret", "by": "ana"}));
        let error = Card::decode(&raw.borrowed()).unwrap_err();
        assert_eq!(error.to_string(), "card.Signed: the json does not fit the type (line 1, column 27)");
        assert!(error.said().unwrap().contains("secret"));
        assert!(Raw::json_text("card.Sent", "card/7", Tags::none(), "{\"a\":").is_err());
        let trailing = Raw::new("card.Sent", 1, Codec::Json, "card/7", Tags::none(), b"7 8".to_vec());
        assert!(Card::decode(&trailing.borrowed()).is_err());
        let unknown = Raw::json("card.Eaten", "card/7", Tags::none(), &json!(1));
        assert!(Card::decode(&unknown.borrowed()).unwrap_err().to_string().contains("this code knows only"));
    }

    #[test]
    fn bincode_and_json_give_same_value() {
        let payload = json!({"card": 7, "by": "ana", "note": null});
        let typed = Card::Signed { card: 7, by: "ana".into(), note: None }.encode().unwrap();
        let layout = Family::of::<Card>().layout_of("Signed").unwrap();
        assert_eq!(layout.read(typed.data()).unwrap().to_json(), payload);
        let value = Value::from_json(payload.to_string().as_bytes()).unwrap();
        assert_eq!(value.get("by").unwrap().as_str(), Some("ana"));
        assert_eq!(value.get("card").unwrap().as_i64(), Some(7));
    }

    #[test]
    fn what_json_cannot_say_is_text() {
        let layout = Layout::parse("(u128,f64,bytes,map<u8,str>,map<(u8,u8),str>,<A|B(u8)>)").unwrap();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&u128::MAX.to_le_bytes());
        bytes.extend_from_slice(&f64::NAN.to_le_bytes());
        bytes.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 0xAB, 1]);
        bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0, 0, 0, 0, 0, 0, 0, b'x']);
        bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 7, 8, 1, 0, 0, 0, 0, 0, 0, 0, b'y']);
        bytes.extend_from_slice(&[1, 0, 0, 0, 9]);
        assert_eq!(
            layout.read(&bytes).unwrap().to_json(),
            json!([u128::MAX.to_string(), "NaN", "ab01", {"7": "x"}, [[[7, 8], "y"]], {"B": 9}])
        );
    }
}
