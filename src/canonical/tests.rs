use super::*;
use proptest::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode(value, &mut out).expect("it can be written");
    out
}

/// One enum, declared twice.
mod declared {
    use super::*;

    #[derive(Serialize)]
    pub enum Kind {
        Cash,
        Card { number: u64, holder: Option<String> },
        Both(u8, u8),
        One(u8),
    }

    pub mod again {
        use super::*;

        #[derive(Serialize)]
        pub enum Kind {
            One(u64),
            Both(u16, i64),
            Card { holder: String, number: u32 },
            Cash,
        }
    }
}

#[test]
fn names_count_and_places_do_not() {
    use declared::{Kind, again};
    assert_eq!(bytes(&Kind::Cash), bytes(&again::Kind::Cash));
    assert_eq!(bytes(&Kind::One(7)), bytes(&again::Kind::One(7)));
    assert_eq!(bytes(&Kind::Both(7, 8)), bytes(&again::Kind::Both(7, 8)));
    let card = Kind::Card { number: 9, holder: Some("ann".into()) };
    assert_eq!(bytes(&card), bytes(&again::Kind::Card { holder: "ann".into(), number: 9 }));
    assert_ne!(bytes(&card), bytes(&Kind::Card { number: 9, holder: None }));
    assert_ne!(bytes(&Kind::One(7)), bytes(&Kind::Both(7, 7)));
}

#[test]
fn values_of_another_shape_never_meet() {
    assert_ne!(bytes(&(1_u32, 2_u32)), bytes(&((1_u64 << 33) + 1)));
    assert_ne!(bytes(&("a", "bc")), bytes(&("ab", "c")));
    assert_ne!(bytes(&(vec![1], vec![2])), bytes(&(vec![1, 2], Vec::<i32>::new())));
    assert_ne!(bytes(&"1"), bytes(&1));
    assert_ne!(bytes(&Some(None::<u8>)), bytes(&None::<Option<u8>>));
    assert_ne!(bytes(&Some(Some(()))), bytes(&Some(None::<()>)));
    assert_ne!(bytes(&true), bytes(&1));
    assert_ne!(bytes(&BTreeMap::from([("a", ())])), bytes(&"a"));
}

#[test]
fn numbers_are_the_same_by_value() {
    assert_eq!(bytes(&7_u8), bytes(&7_i64));
    assert_eq!(bytes(&7_u8), bytes(&7.0_f64));
    assert_eq!(bytes(&0.0_f64), bytes(&-0.0_f64));
    assert_eq!(bytes(&f64::NAN), bytes(&-f64::NAN));
    assert_eq!(bytes(&2_f64.powi(127)), bytes(&(1_u128 << 127)));
    assert_ne!(bytes(&u64::MAX), bytes(&(u64::MAX as f64)));
    assert_ne!(bytes(&0.1_f64), bytes(&0.1_f32));
    assert_ne!(bytes(&f64::INFINITY), bytes(&f64::MAX));
    assert_ne!(bytes(&-1_i8), bytes(&u64::MAX));
}

#[test]
fn map_with_duplicate_key_is_refused() {
    struct Twice;
    impl Serialize for Twice {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.collect_map([(1, 2), (0, 0), (1, 3)])
        }
    }
    assert!(encode(&Twice, &mut Vec::new()).is_err());
}

proptest! {
    #[test]
    fn map_order_does_not_change_bytes(map in any::<BTreeMap<(u8, String), Vec<Option<i32>>>>()) {
        let hashed: HashMap<_, _> = map.clone().into_iter().collect();
        prop_assert_eq!(bytes(&map), bytes(&hashed));
    }

    #[test]
    fn bytes_are_equal_exactly_when_values_are(
        one in any::<(Vec<(i64, Option<Option<bool>>)>, String, BTreeMap<String, u8>)>(),
        other in any::<(Vec<(i64, Option<Option<bool>>)>, String, BTreeMap<String, u8>)>(),
    ) {
        prop_assert_eq!(bytes(&one) == bytes(&other), one == other);
    }

    #[test]
    fn equal_float_and_integer_share_bytes(number in any::<i64>(), float in any::<f64>()) {
        let exact = i128::from(number) == number as f64 as i128;
        prop_assert_eq!(bytes(&number) == bytes(&(number as f64)), exact);
        prop_assert_eq!(bytes(&float) == bytes(&float.trunc()), float == float.trunc() || float.is_nan());
    }

    #[test]
    fn no_encoding_begins_with_another(
        one in any::<(Option<Vec<u8>>, String)>(),
        other in any::<(Option<Vec<u8>>, String)>(),
    ) {
        let (one, other) = (bytes(&one), bytes(&other));
        prop_assert!(one == other || (!one.starts_with(&other) && !other.starts_with(&one)));
    }
}
