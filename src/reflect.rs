//! The names of an event family, read from serde's own derive: no macro, no second list to keep true.
//!
//! - A derived `Deserialize` says what it wants before it reads: an enum hands over its variants, a struct its name.
//!   A probe takes that and stops; it costs as much as a call.
//! - The names include every `#[serde(alias)]`, so what an older version wrote is known by its old name.
//! - A type that does not say (untagged, internally tagged, flattened) is no event family, and is refused by that name.

use crate::misfit::LayoutError;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use std::convert::Infallible;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;

/// Names of a family in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// The variants in order, each with its aliases.
    Enum(&'static [&'static str]),
    /// One type of event.
    Struct(&'static str),
}

impl Names {
    #[inline]
    pub fn contains(self, variant: &str) -> bool {
        match self {
            Names::Enum(variants) => variants.contains(&variant),
            Names::Struct(name) => name == variant,
        }
    }

    pub fn to_vec(self) -> Vec<&'static str> {
        match self {
            Names::Enum(variants) => variants.to_vec(),
            Names::Struct(name) => vec![name],
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_vec().join(", "))
    }
}

/// Returns the names of the events in `T`, aliases included.
///
/// # Errors
///
/// - `T` is not an enum or a struct to serde: the message says what it is instead.
#[inline]
pub(crate) fn names<T: DeserializeOwned>() -> Result<Names, LayoutError> {
    match T::deserialize(Probe) {
        Err(Learned::Names(Names::Enum([]))) => {
            Err(refused::<T>("an enum without a variant is no event family"))
        }
        Err(Learned::Names(names)) => Ok(names),
        Err(Learned::Other(what)) => Err(refused::<T>(what)),
        Ok(_) | Err(Learned::Custom | Learned::Identity(_)) => Err(refused::<T>(NOT_AN_EVENT)),
    }
}

/// Returns all names of one variant: its own and its aliases.
pub(crate) fn same_variant<T: DeserializeOwned>(variant: &str) -> Result<Vec<&'static str>, LayoutError> {
    let same = same_as::<T>(variant);
    Ok(names::<T>()?.to_vec().into_iter().filter(|name| same(name)).collect())
}

/// Returns a predicate that is true for all names of the same variant. Serde tells names apart by an enum of its own, without
/// saying which is which; two names that lead to the same value of it are names of the same variant.
pub(crate) fn same_as<T: DeserializeOwned>(variant: &str) -> impl Fn(&str) -> bool {
    // An identity that distinguishes nothing is useless: a `Deserialize` written by hand may use plain text.
    let tells = |wanted: &u64| {
        let other = |name: &str| identity::<T>(name) != Some(*wanted);
        other(NO_NAME) || names::<T>().is_ok_and(|names| names.to_vec().into_iter().any(other))
    };
    let wanted = identity::<T>(variant).filter(tells);
    move |name| name == variant || (wanted.is_some() && identity::<T>(name) == wanted)
}

/// A name that no variant has.
const NO_NAME: &str = "\0";

/// Returns the identity of a value's variant. Serde's field and variant identifiers are enums; for other types it says nothing.
pub(crate) fn identity_of<T>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    std::mem::discriminant(value).hash(&mut hasher);
    hasher.finish()
}

fn identity<T: DeserializeOwned>(variant: &str) -> Option<u64> {
    match T::deserialize(Identify(variant)) {
        Err(Learned::Identity(identity)) => Some(identity),
        _ => None,
    }
}

#[cold]
fn refused<T>(what: &str) -> LayoutError {
    LayoutError::new(what).of(std::any::type_name::<T>())
}

const NOT_AN_EVENT: &str = "an event is an enum or a struct";
pub(crate) const FLATTENED: &str = "`#[serde(flatten)]` cannot be carried: the bytes have no field names";

/// Returns the reason why a type that asks the bytes what they are cannot be carried. `visitor` is the name of serde's visitor
/// type, which tells the attribute; if serde names it otherwise one day, the last sentence still holds.
pub(crate) fn asks_what_it_is(visitor: &str) -> &'static str {
    if visitor.contains("TaggedContentVisitor") {
        "`#[serde(tag)]` cannot be carried: the bytes have no field names to find the tag by"
    } else if visitor.contains("ContentVisitor") {
        "`#[serde(untagged)]` cannot be carried: the bytes do not say which variant they are"
    } else {
        "the type asks the bytes what they are (`untagged`, `tag`, a json value), which they cannot tell"
    }
}

/// Answer of the probe, carried as the error that stopped serde.
#[derive(Debug)]
enum Learned {
    Names(Names),
    Identity(u64),
    Other(&'static str),
    Custom,
}

impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("probe")
    }
}

impl std::error::Error for Learned {}

impl de::Error for Learned {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Learned::Custom
    }
}

struct Probe;

macro_rules! no_event {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Learned> {
            Err(Learned::Other(NOT_AN_EVENT))
        }
    )* };
}

impl<'de> Deserializer<'de> for Probe {
    type Error = Learned;

    no_event! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_option deserialize_unit deserialize_seq deserialize_identifier deserialize_ignored_any
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Learned> {
        Err(Learned::Other(asks_what_it_is(std::any::type_name::<V>())))
    }

    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Learned> {
        Err(Learned::Other(FLATTENED))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Learned> {
        Err(Learned::Other(NOT_AN_EVENT))
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Learned> {
        Err(Learned::Names(Names::Enum(variants)))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, _: V) -> Result<V::Value, Learned> {
        Err(Learned::Names(Names::Struct(name)))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: V,
    ) -> Result<V::Value, Learned> {
        Err(Learned::Names(Names::Struct(name)))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: usize,
        _: V,
    ) -> Result<V::Value, Learned> {
        Err(Learned::Names(Names::Struct(name)))
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Learned> {
        Err(Learned::Names(Names::Struct(name)))
    }
}

/// Asks an enum for one of its variants by name, and stops.
struct Identify<'n>(&'n str);

impl<'de> Deserializer<'de> for Identify<'_> {
    type Error = Learned;

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Learned> {
        Err(Learned::Custom)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Learned> {
        visitor.visit_enum(self)
    }
}

impl<'de> de::EnumAccess<'de> for Identify<'_> {
    type Error = Learned;
    type Variant = Impossible<Learned>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Impossible<Learned>), Learned> {
        let name: StrDeserializer<'_, Learned> = self.0.into_deserializer();
        let variant = seed.deserialize(name)?;
        Err(Learned::Identity(identity_of(&variant)))
    }
}

/// The content that is never asked for, because the question before it ended the pass.
pub(crate) struct Impossible<E>(Infallible, PhantomData<E>);

impl<'de, E: de::Error> de::VariantAccess<'de> for Impossible<E> {
    type Error = E;

    fn unit_variant(self) -> Result<(), E> {
        match self.0 {}
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _: S) -> Result<S::Value, E> {
        match self.0 {}
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, E> {
        match self.0 {}
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, E> {
        match self.0 {}
    }
}
