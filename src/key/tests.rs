//! Bytes compare as values do, come back, and are never a prefix of one another; texts are never shared.

use super::*;
use crate::layout::{self, Samples};
use crate::misfit::LayoutError;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Nobody,
    Person(String),
    Desk { floor: i16, name: Option<String> },
    Pair(char, Vec<u8>),
}
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Newtype(i64);
type Many = (String, i32, Option<Owner>, Newtype, Vec<String>, bool, (u128, i128), BTreeSet<u8>);

fn texts() -> impl Strategy<Value = String> {
    prop_oneof!["[ab\0\u{1}]{0,3}", ".{0,6}", "[/%-]{0,3}", Just("%none".to_owned())]
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        Just(Owner::Nobody),
        texts().prop_map(Owner::Person),
        (-3..3i16, proptest::option::of(texts())).prop_map(|(floor, name)| Owner::Desk { floor, name }),
        (any::<char>(), proptest::collection::vec(0..3u8, 0..3)).prop_map(|(a, b)| Owner::Pair(a, b)),
    ]
}

fn many() -> impl Strategy<Value = Many> {
    (
        texts(),
        prop_oneof![any::<i32>(), -2..2],
        proptest::option::of(owner()),
        prop_oneof![any::<i64>(), -2..2i64].prop_map(Newtype),
        proptest::collection::vec(texts(), 0..3),
        any::<bool>(),
        any::<(u128, i128)>(),
        proptest::collection::btree_set(0..4u8, 0..3),
    )
}

fn bytes<K: Serialize>(key: &K) -> Vec<u8> {
    let mut out = Vec::new();
    encode(key, &mut out).unwrap();
    out
}

fn check<K: Serialize + DeserializeOwned + Ord + Debug>(a: &K, b: &K) {
    let (x, y) = (bytes(a), bytes(b));
    assert_eq!(a.cmp(b), x.cmp(&y), "{a:?} {b:?} {x:?} {y:?}");
    assert_eq!(decode::<K>(&x).unwrap(), *a);
    if a != b {
        assert!(!y.starts_with(&x), "{a:?} is a prefix of {b:?}");
        assert_ne!(text(a).unwrap(), text(b).unwrap(), "{a:?} {b:?}");
    }
    assert!(!text(a).unwrap().chars().any(char::is_control));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn byte_order_equals_value_order(a in many(), b in many()) {
        check(&a, &b);
        // Nearly equal keys are the hard ones.
        let mut near = a.clone();
        near.4.clone_from(&b.4);
        check(&a, &near);
    }

    #[test]
    fn order_of_texts_and_options(a in (texts(), texts()), b in (texts(), texts())) {
        check(&a, &b);
        check(&a.0, &b.0);
        check(&(Some(a.0.clone()), a.1.clone()), &(None, b.1.clone()));
        check(&Some(Some(a.0.clone())), &Some(Some(b.0.clone())));
        check(&vec![a.0.clone(), a.1.clone()], &vec![b.0.clone()]);
    }

    #[test]
    fn order_of_enums(a in owner(), b in owner()) {
        check(&a, &b);
        check(&(a.clone(), 1u8), &(b.clone(), 0u8));
        check(&[Some(a.clone()), None], &[Some(b.clone()), Some(a)]);
    }

    #[test]
    fn order_of_numbers(a in any::<(i8, u16, i64, char, u128)>(), b in any::<(i8, u16, i64, char, u128)>()) {
        check(&a, &b);
        check(&a.0, &b.0);
        check(&a.2, &b.2);
        check(&a.3, &b.3);
        check(&(a.4 as i128), &(b.4 as i128));
    }

    #[test]
    fn hostile_bytes_are_refused_or_canonical(bytes in any::<Vec<u8>>()) {
        if let Ok(key) = decode::<Many>(&bytes) {
            // A set may have been given twice or out of order; everything else has one form.
            let mut again = Vec::new();
            encode(&key, &mut again).unwrap();
            prop_assert!(again.len() <= bytes.len());
        }
        if let Ok(key) = decode::<(String, Option<Owner>, Vec<u8>)>(&bytes) {
            prop_assert_eq!(super::tests::bytes(&key), bytes.clone());
        }
        let _ = decode::<Vec<()>>(&bytes);
        let _ = decode::<char>(&bytes);
    }

    #[test]
    fn a_damaged_key_is_another_key(a in many(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut damaged = bytes(&a);
        let at = at.index(damaged.len());
        damaged[at] ^= 1 << bit;
        if let Ok(other) = decode::<(String, i32, Option<Owner>, Newtype, Vec<String>, bool, (u128, i128), Vec<u8>)>(&damaged) {
            prop_assert_eq!(bytes(&other), damaged);
        }
    }
}

#[test]
fn texts_are_readable() {
    assert_eq!(text(&7u32).unwrap(), "7");
    assert_eq!(text("ana").unwrap(), "ana");
    assert_eq!(text(&("a", "b")).unwrap(), "a/b");
    assert_eq!(text(&("a/b", "50 %\n")).unwrap(), "a%2Fb/50 %25%0A");
    assert_eq!(text(&()).unwrap(), "");
    assert_eq!(text(&Owner::Desk { floor: -1, name: None }).unwrap(), "Desk/-1/%none");
    assert_eq!(text(&Some("x")).unwrap(), "x");
    assert_eq!(text(&vec![1, 2]).unwrap(), "2/1/2");
    assert_eq!(text(&std::net::Ipv4Addr::LOCALHOST).unwrap(), "127.0.0.1");
}

#[test]
fn borrowed_key_encodes_like_owned_key() {
    fn bytes_of<K: Key>(key: &(impl KeyRef<K> + ?Sized)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(key, &mut out).unwrap();
        out
    }
    assert_eq!(bytes_of::<String>("mug"), bytes_of::<String>(&"mug".to_owned()));
    assert_eq!(bytes_of::<Vec<u16>>(&[1u16, 2][..]), bytes_of::<Vec<u16>>(&vec![1u16, 2]));
}

#[test]
fn floats_and_maps_are_refused() {
    let mut out = vec![1];
    let error = encode(&(1u8, 1.5f64), &mut out).unwrap_err().to_string();
    assert_eq!(error, "a float cannot be a key: it has no order of its own");
    assert_eq!(out, [1], "nothing is left of a refused key");
    let map = BTreeMap::from([(1, 2)]);
    assert_eq!(
        encode(&map, &mut out).unwrap_err().to_string(),
        "a map cannot be a key: it has no order of its own"
    );
    assert!(text(&1.5f32).is_err() && text(&map).is_err());
}

#[test]
fn hostile_key_nesting_is_bounded() {
    #[derive(Serialize, Deserialize, Debug)]
    struct Chain(Option<Box<Chain>>);
    assert!(decode::<Chain>(&[1; 100_000]).unwrap_err().to_string().contains("deeper than 128"));
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
struct Backwards(u8);
impl PartialOrd for Backwards {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Backwards {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.cmp(&self.0)
    }
}
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Discriminants {
    Late = 2,
    Early = 1,
}

fn check_key<K: Key>() -> Result<(), LayoutError> {
    layout::check_key::<K>(&Samples::default())
}

#[test]
fn check_key_refuses_map_and_custom_order() {
    check_key::<Many>().unwrap();
    check_key::<()>().unwrap();
    check_key::<(String, std::num::NonZeroU8, [u8; 16])>().unwrap();
    let refused = |e: LayoutError| e.to_string();
    assert!(refused(check_key::<(u8, BTreeMap<u8, u8>)>().unwrap_err()).contains("a map cannot be in a key"));
    for error in [
        check_key::<(u8, Reverse<u32>)>().unwrap_err(),
        check_key::<Backwards>().unwrap_err(),
        check_key::<Option<Discriminants>>().unwrap_err(),
    ] {
        assert!(refused(error).contains("its order is not the derived one"));
    }
}
