//! Tests of the codec: its bytes are bincode's, they are readable, and hostile bytes are only an error.

use super::*;
use proptest::prelude::*;
use serde::ser::{self, Serializer};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Newtype(u64);
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Pair(u8, String);
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Nothing;
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Kind {
    Small,
    Big(u8),
    Two(u8, String),
    Cut { at: u32, by: Option<Box<Kind>> },
}
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct All {
    flag: bool,
    signed: (i8, i16, i32, i64, i128),
    unsigned: (u8, u16, u32, u64, u128),
    floats: (f32, f64),
    character: char,
    text: String,
    bytes: Vec<u8>,
    maybe: Option<String>,
    kinds: Vec<Kind>,
    map: BTreeMap<String, (u8, f64)>,
    set: BTreeSet<u16>,
    newtype: Newtype,
    pair: Pair,
    nothing: Nothing,
    unit: (),
    array: [u16; 5],
    nested: Vec<Vec<Option<char>>>,
}

fn kind() -> impl Strategy<Value = Kind> {
    let leaf = prop_oneof![
        Just(Kind::Small),
        any::<u8>().prop_map(Kind::Big),
        (any::<u8>(), ".{0,9}").prop_map(|(a, b)| Kind::Two(a, b)),
    ];
    leaf.prop_recursive(4, 8, 2, |inner| {
        (any::<u32>(), proptest::option::of(inner))
            .prop_map(|(at, by)| Kind::Cut { at, by: by.map(Box::new) })
    })
}

prop_compose! {
    fn all()(
        flag in any::<bool>(),
        signed in any::<(i8, i16, i32, i64, i128)>(),
        unsigned in any::<(u8, u16, u32, u64, u128)>(),
        floats in any::<(f32, f64)>(),
        character in any::<char>(),
        text in ".{0,40}",
        bytes in any::<Vec<u8>>(),
        maybe in proptest::option::of(".{0,5}"),
        kinds in proptest::collection::vec(kind(), 0..4),
        map in proptest::collection::btree_map(".{0,5}", any::<(u8, f64)>(), 0..4),
        rest in any::<(BTreeSet<u16>, u64, u8, [u16; 5], Vec<Vec<Option<char>>>)>(),
    ) -> All {
        let (set, newtype, one, array, nested) = rest;
        All {
            flag, signed, unsigned, floats, character, bytes, maybe, kinds, map, set, array, nested,
            newtype: Newtype(newtype), pair: Pair(one, text.clone()), text, nothing: Nothing, unit: (),
        }
    }
}

proptest! {
    #[test]
    fn encoding_equals_bincode_and_round_trips(value in all()) {
        let bytes = encode(&value).unwrap();
        prop_assert_eq!(&bytes, &format().serialize(&value).unwrap());
        prop_assert_eq!(decode::<All>(&bytes).unwrap(), value);
    }

    #[test]
    fn event_payload_omits_variant_index(value in kind()) {
        let mut payload = vec![7];
        let name = encode_event(&value, &mut payload).unwrap();
        prop_assert_eq!(&payload[1..], &format().serialize(&value).unwrap()[4..]);
        prop_assert_eq!(decode_event::<Kind>(Codec::Bincode, name, &payload[1..]).unwrap(), value);
    }

    #[test]
    fn arbitrary_bytes_never_panic_or_decode_partially(bytes in any::<Vec<u8>>()) {
        let _ = decode::<All>(&bytes);
        for name in ["Small", "Big", "Two", "Cut", "Other"] {
            let Ok(value) = decode_event::<Kind>(Codec::Bincode, name, &bytes) else { continue };
            let mut again = Vec::new();
            prop_assert_eq!(encode_event(&value, &mut again).unwrap(), name);
            prop_assert_eq!(again, bytes.clone());
        }
    }

    #[test]
    fn flipped_bit_never_yields_longer_value(value in all(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = encode(&value).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // Sets and maps may come back in another order, so only the length is compared.
        if let Ok(other) = decode::<All>(&bytes) {
            prop_assert!(encode(&other).unwrap().len() <= bytes.len());
        }
    }

    #[test]
    fn a_cut_value_is_refused(value in all(), at in any::<prop::sample::Index>()) {
        let bytes = encode(&value).unwrap();
        prop_assert!(decode::<All>(&bytes[..at.index(bytes.len())]).is_err());
    }
}

#[test]
fn trailing_bytes_are_refused_with_count() {
    let mut bytes = encode(&7u32).unwrap();
    bytes.extend_from_slice(&[1, 2, 3]);
    assert_eq!(decode::<u32>(&bytes).unwrap_err().to_string(), "at byte 4: 3 bytes too many");
}

#[test]
fn a_hostile_length_allocates_nothing() {
    let mut bytes = u64::MAX.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[0; 8]);
    for error in [
        decode::<String>(&bytes).unwrap_err(),
        decode::<Vec<u64>>(&bytes).unwrap_err(),
        decode::<Vec<()>>(&bytes).unwrap_err(),
        decode::<HashMap<u8, u8>>(&bytes).unwrap_err(),
    ] {
        assert!(error.to_string().contains("18446744073709551615"), "{error}");
    }
}

#[test]
fn elements_without_bytes_are_counted() {
    assert_eq!(decode::<Vec<()>>(&3u64.to_le_bytes()).unwrap().len(), 3);
    let mut many = (1u64 << 20).to_le_bytes().to_vec();
    for _ in 0..1 << 20 {
        many.extend_from_slice(&(1u64 << 20).to_le_bytes());
    }
    let error = decode::<Vec<Vec<()>>>(&many[..1 << 20]).unwrap_err();
    assert!(error.to_string().contains("elements without a byte"), "{error}");
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Chain(Option<Box<Chain>>);

#[test]
fn depth_is_bounded_in_both_directions() {
    let bytes = vec![1; 100_000];
    let error = decode::<Chain>(&bytes).unwrap_err().to_string();
    assert!(error.contains("deeper than 128"), "{error}");
    let chain = |links| (0..links).fold(Chain(None), |chain, _| Chain(Some(Box::new(chain))));
    assert!(encode(&chain(129)).unwrap_err().to_string().contains("deeper than 128"));
    let bytes = encode(&chain(128)).unwrap();
    assert_eq!(decode::<Chain>(&bytes).unwrap(), chain(128));
}

#[test]
fn error_names_field_and_byte_not_content() {
    let mut bytes = encode(&Pair(7, "secret".into())).unwrap();
    bytes.truncate(12);
    assert_eq!(decode::<Pair>(&bytes).unwrap_err().to_string(), "at byte 1: the bytes end: 6 wanted, 3 left");

    #[derive(Serialize, Deserialize, Debug)]
    struct Outer {
        name: String,
        inner: Inner,
    }
    #[derive(Serialize, Deserialize, Debug)]
    struct Inner {
        flag: bool,
        code: std::num::NonZeroU8,
    }
    let mut bytes = encode(&("secret", true, 0u8)).unwrap();
    let error = decode::<Outer>(&bytes).unwrap_err().to_string();
    assert!(
        error.starts_with("field `inner.code` at byte 16: found an integer that does not fit"),
        "{error}"
    );
    bytes[14] = 9;
    assert_eq!(
        decode::<Outer>(&bytes).unwrap_err().to_string(),
        "field `inner.flag` at byte 14: a bool is 0 or 1"
    );
}

#[test]
fn conversion_error_text_stays_out_of_messages() {
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(try_from = "String")]
    struct Iban(String);
    impl TryFrom<String> for Iban {
        type Error = String;
        fn try_from(text: String) -> Result<Self, String> {
            Err(format!("not an iban: {text}"))
        }
    }
    let error = decode::<Iban>(&encode("secret").unwrap()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"));
    assert_eq!(error.said(), Some("not an iban: secret"));
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Skips {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    a: Option<u8>,
    b: u8,
}
#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum SkipsInside {
    A {
        #[serde(skip_serializing_if = "Option::is_none", default)]
        a: Option<u8>,
    },
}
#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Flattens {
    a: u8,
    #[serde(flatten)]
    rest: Skips,
}
#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum FlattensInside {
    A {
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    },
}

#[test]
fn encoding_skipped_field_is_refused() {
    let expected = "field `a`: `#[serde(skip_serializing_if)]` cannot be carried: the bytes have no field names, \
                    so a field is always written";
    assert_eq!(encode(&Skips { a: None, b: 1 }).unwrap_err().to_string(), expected);
    assert_eq!(encode_event(&Skips { a: None, b: 1 }, &mut Vec::new()).unwrap_err().to_string(), expected);
    assert_eq!(encode_event(&SkipsInside::A { a: None }, &mut Vec::new()).unwrap_err().to_string(), expected);
    assert_eq!(encode(&Skips { a: Some(1), b: 1 }).unwrap(), [1, 1, 1]);
}

#[test]
fn encoding_flattened_struct_is_refused() {
    let expected = "`#[serde(flatten)]`, or a map that does not know its length, cannot be carried: the bytes have \
                    no field names";
    let flat = Flattens { a: 1, rest: Skips { a: Some(1), b: 2 } };
    assert_eq!(encode(&flat).unwrap_err().to_string(), expected);
    assert_eq!(encode_event(&flat, &mut Vec::new()).unwrap_err().to_string(), expected);
    let inside = FlattensInside::A { rest: BTreeMap::new() };
    assert_eq!(encode_event(&inside, &mut Vec::new()).unwrap_err().to_string(), expected);
}

#[test]
fn unknown_length_sequence_is_refused_without_output() {
    struct Stream;
    impl Serialize for Stream {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..3).filter(|n| *n != 1))
        }
    }
    let mut out = vec![9];
    assert!(encode_into(&(1u8, Stream), &mut out).unwrap_err().to_string().contains("collect it first"));
    assert_eq!(out, [9]);
}

#[test]
fn sequence_shorter_than_declared_is_refused() {
    struct Short;
    impl Serialize for Short {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut seq = serializer.serialize_seq(Some(2))?;
            ser::SerializeSeq::serialize_element(&mut seq, &1u8)?;
            ser::SerializeSeq::end(seq)
        }
    }
    assert_eq!(encode(&Short).unwrap_err().to_string(), "promised 2 elements and wrote 1");
}

#[test]
fn oversized_value_is_refused_both_ways() {
    let large = vec![0u8; VALUE_BYTES_MAX];
    assert!(encode(&large).unwrap_err().to_string().contains("limit is 16777216 bytes"));
    assert!(decode::<Vec<u8>>(&vec![0; VALUE_BYTES_MAX + 1]).is_err());
}

#[test]
fn unknown_event_is_refused_despite_catch_all() {
    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    enum Catching {
        Known,
        #[serde(other)]
        Other,
    }
    let error = decode_event::<Catching>(Codec::Bincode, "Later", &[]).unwrap_err().to_string();
    assert_eq!(error, "this code knows only Known, Other");
    assert_eq!(decode_event::<Catching>(Codec::Bincode, "Known", &[]).unwrap(), Catching::Known);
}

#[test]
fn maps_are_encoded_in_key_order() {
    use std::collections::{BTreeMap, HashMap};
    let ordered: BTreeMap<u32, u8> = (0..600).map(|key| (key, key as u8)).collect();
    let bytes = encode(&ordered).unwrap();
    // As an ordered map always was: 255 stands before 256.
    assert_eq!(bytes[8..12], 0_u32.to_le_bytes());
    assert_eq!(bytes[8 + 5 * 256..][..4], 256_u32.to_le_bytes());
    for _ in 0..4 {
        let hashed: HashMap<u32, u8> = ordered.clone().into_iter().collect();
        assert_eq!(encode(&hashed).unwrap(), bytes);
    }
    assert_eq!(decode::<HashMap<u32, u8>>(&bytes).unwrap(), ordered.into_iter().collect());
    let nested: HashMap<String, HashMap<(u8, bool), Vec<u8>>> = ["b", "a", "c"]
        .map(|name| (name.to_owned(), [((2, true), vec![1]), ((1, false), vec![])].into()))
        .into();
    let again: HashMap<_, _> = nested.clone().into_iter().collect();
    assert_eq!(encode(&nested).unwrap(), encode(&again).unwrap());
}

#[test]
fn map_is_sorted_and_duplicate_key_refused() {
    struct Pairs(Vec<(f32, u8)>);
    impl Serialize for Pairs {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.collect_map(self.0.iter().map(|(key, value)| (key, value)))
        }
    }
    assert_eq!(
        encode(&Pairs(vec![(1.5, 1), (0.5, 2)])).unwrap(),
        encode(&Pairs(vec![(0.5, 2), (1.5, 1)])).unwrap()
    );
    let twice = encode(&Pairs(vec![(1.5, 1), (0.5, 2), (1.5, 3)])).unwrap_err();
    assert_eq!(twice.to_string(), "a map has a key twice");
}
