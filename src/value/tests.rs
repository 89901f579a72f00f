use super::*;
use crate::codec;
use crate::layout::Layout;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Who {
    Nobody,
    User(u64),
    Maybe(Option<u8>),
    Pair(i8, String),
    Named { name: String, age: Option<u16> },
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Payload {
    who: Who,
    signed: i128,
    unsigned: u128,
    float: f64,
    text: String,
    letter: char,
    is: bool,
    list: Vec<Who>,
    pair: (u8, i64),
    map: BTreeMap<u32, Option<String>>,
    nothing: (),
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        Just(Who::Nobody),
        any::<u64>().prop_map(Who::User),
        any::<Option<u8>>().prop_map(Who::Maybe),
        any::<(i8, String)>().prop_map(|(number, text)| Who::Pair(number, text)),
        any::<(String, Option<u16>)>().prop_map(|(name, age)| Who::Named { name, age }),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    let float = prop_oneof![-1e300..1e300_f64, (-9..9_i32).prop_map(f64::from), Just(-0.0)];
    let plain = (any::<i128>(), any::<u128>(), float, any::<String>(), any::<char>(), any::<bool>());
    let held =
        (prop::collection::vec(who(), 0..3), any::<(u8, i64)>(), any::<BTreeMap<u32, Option<String>>>());
    (who(), plain, held).prop_map(|(who, (signed, unsigned, float, text, letter, is), (list, pair, map))| {
        Payload { who, signed, unsigned, float, text, letter, is, list, pair, map, nothing: () }
    })
}

fn typed<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> Value {
    let bytes = codec::encode(value).expect("it can be written");
    Layout::of::<T>().expect("it has a layout").read(&bytes).expect("it is read as it was written")
}

fn from_json<T: Serialize>(value: &T) -> Value {
    Value::from_json(&serde_json::to_vec(value).expect("it can be written")).expect("it is json")
}

fn key(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    value.as_key(&mut Writer::new(&mut out)).expect("it can be a key");
    out
}

proptest! {
    #[test]
    fn typed_and_json_payloads_share_keys(payload in payload()) {
        let (typed, json) = (typed(&payload), from_json(&payload));
        prop_assert!(typed.is_same(&json), "{typed:?} {json:?}");
        prop_assert_eq!(key(&typed), key(&json));
    }

    #[test]
    fn keys_are_equal_exactly_when_values_are(one in who(), other in who()) {
        for (a, b) in [(typed(&one), typed(&other)), (typed(&one), from_json(&other))] {
            prop_assert_eq!(key(&a) == key(&b), one == other);
            prop_assert_eq!(a.is_same(&b), one == other);
        }
    }

    #[test]
    fn numbers_compare_by_value(int in any::<i128>(), float in any::<f64>()) {
        let order = Value::Int(int).compare_to(float);
        // Neither side is rounded if the integer is the float's own whole part.
        let whole = float.trunc();
        if whole.abs() < 1e38 {
            let exact = int.cmp(&(whole as i128)).then(0.0.partial_cmp(&float.fract()).expect("it is finite"));
            prop_assert_eq!(order, Some(exact));
        }
        prop_assert_eq!(Value::Float(float).whole().is_some(), whole == float && whole.abs() < 1.7e38);
    }

    #[test]
    fn any_bytes_are_valid_json_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "[\\[\\]{}:,\" 0-9a-eE.+-]{0,40}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            let ours = Value::from_json(bytes);
            let theirs = serde_json::from_slice::<serde_json::Value>(bytes);
            prop_assert!(ours.is_err() || theirs.is_ok(), "{ours:?} {theirs:?}");
        }
    }
}

/// Regression: they had one key, so that a guard took one user for the other.
#[test]
fn different_variant_contents_have_different_keys() {
    assert_ne!(key(&typed(&Who::User(1))), key(&typed(&Who::User(2))));
    assert_ne!(key(&typed(&Who::User(1))), key(&typed(&Who::Nobody)));
}

/// Regression: they were rounded to a float, and several users had one key.
#[test]
fn json_integers_are_exact_or_refused() {
    let read = |text: &str| Value::from_json(text.as_bytes());
    assert_eq!(read("18446744073709551617"), Ok(Value::Int((1 << 64) + 1)));
    assert_eq!(read(&u128::MAX.to_string()), Ok(Value::UInt(u128::MAX)));
    assert_eq!(read(&i128::MIN.to_string()), Ok(Value::Int(i128::MIN)));
    assert!(read(&format!("{}0", u128::MAX)).is_err());
    assert!(read(&format!("{}0", i128::MIN)).is_err());
    assert!(read("1e999").is_err());
    assert_eq!(read("0.1"), Ok(Value::Float(0.1)));
}

#[test]
fn json_with_duplicate_name_is_refused() {
    assert!(Value::from_json(br#"{"a": 1, "b": {"a": 2}}"#).is_ok());
    assert!(Value::from_json(br#"{"a": 1, "a": 2}"#).is_err());
    assert!(Value::from_json(br#"[{"\u0061": 1, "a": 2}]"#).is_err());
}

#[test]
fn json_too_deep_is_refused() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(Value::from_json(nested(100).as_bytes()).is_ok());
    assert!(Value::from_json(nested(100_000).as_bytes()).is_err());
}

#[test]
fn equal_integer_and_float_share_key() {
    assert_eq!(key(&Value::Float(1.0)), key(&Value::Int(1)));
    assert_eq!(key(&Value::Float(-0.0)), key(&Value::Int(0)));
    assert_eq!(key(&Value::Float(f64::NAN)), key(&Value::Float(-f64::NAN)));
    assert_ne!(key(&Value::Float(9_007_199_254_740_992.0)), key(&Value::Int((1 << 53) + 1)));
}
