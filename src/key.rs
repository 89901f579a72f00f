//! Keys: any ordered serde value as bytes that compare as the values do, and ids of streams as readable text.
//!
//! - For two values of a type whose order is derived, `a.cmp(&b)` is the order of their bytes.
//! - No key's bytes begin with the whole bytes of another of its type, so keys can be put one after the other.
//! - One value, one byte string: what decodes, encodes to the same bytes again.
//! - Floats and maps have no such order and are refused.
//!
//! ```text
//! bool        0 | 1
//! unsigned    big-endian                     signed    big-endian, sign bit flipped
//! char        u32
//! text, bytes each byte, 00 as 00 FF; then 00 00
//! option      0 | 1 value
//! sequence    (1 value)* 0
//! enum        index u32, then its content
//! tuple, struct, newtype: the parts, one after the other. unit: nothing
//! ```
//!
//! Text, for streams: parts are joined by `/`; in a text, `/`, `%` and control characters become `%XX`. Two ids of
//! one type never have the same text.

use crate::misfit::DecodeError;
use serde::de::value::U32Deserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::ser::{self, Impossible, Serialize, Serializer};
use std::fmt::Write;

/// Maximum depth of a value: a stack has an end.
pub(crate) const DEPTH_MAX: u32 = 128;

/// Ids of streams and keys of rows: any serde value with an order, newtypes and enums included. Rows are kept in that
/// order, which must be the derived one; floats and maps have none.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the id of a stream or the key of a row",
    label = "a key has `Serialize`, `Deserialize`, `Ord`, `Clone`, `Send` and `Sync`",
    note = "derive `Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord, Clone` on it; floats and maps have no order"
)]
pub trait Key: Serialize + DeserializeOwned + Ord + Clone + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Ord + Clone + Send + Sync + 'static> Key for T {}

/// A value that may stand for a key in a lookup: the key itself, `str` for `String`, or a slice for `Vec`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not stand for a key of type `{K}`",
    label = "the key here is `{K}`",
    note = "pass `&{K}`; for a `String`, a `&str` will do"
)]
pub trait KeyRef<K>: Serialize {}

impl<K: Key> KeyRef<K> for K {}

impl KeyRef<String> for str {}

impl<T: Key> KeyRef<Vec<T>> for [T] {}

/// Appends the ordered bytes of a key. After an error `out` is as it was.
pub(crate) fn encode<K: Serialize + ?Sized>(key: &K, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let start = out.len();
    key.serialize(&mut Ordered { out, depth: 0 }).inspect_err(|_| out.truncate(start))
}

/// Decodes the key whose bytes these are, all of them.
pub(crate) fn decode<K: DeserializeOwned>(bytes: &[u8]) -> Result<K, DecodeError> {
    let mut source = OrderedReader { rest: bytes, bytes: bytes.len(), depth: 0 };
    let key = K::deserialize(&mut source).map_err(|e| e.at(source.offset()))?;
    match source.rest.len() {
        0 => Ok(key),
        more => Err(DecodeError::new(format!("{more} bytes too many in a key")).at(source.offset())),
    }
}

/// Returns the readable text of an id.
pub(crate) fn text<K: Serialize + ?Sized>(id: &K) -> Result<String, DecodeError> {
    let mut text = String::new();
    text_into(id, &mut text)?;
    Ok(text)
}

/// Appends the readable text of an id to `out`.
pub(crate) fn text_into<K: Serialize + ?Sized>(id: &K, out: &mut String) -> Result<(), DecodeError> {
    id.serialize(&mut KeyTextWriter { out, depth: 0 })
}

fn no_order<T>(what: &str) -> Result<T, DecodeError> {
    Err(DecodeError::new(format!("{what} cannot be a key: it has no order of its own")))
}

fn no_length<T>() -> Result<T, DecodeError> {
    Err(DecodeError::new("a sequence that does not know its length cannot be a key"))
}

fn skipped<T>(field: &'static str) -> Result<T, DecodeError> {
    Err(DecodeError::new("a key has all its fields: `#[serde(skip_serializing_if)]` is refused")
        .in_field(field))
}

fn descend(depth: &mut u32) -> Result<(), DecodeError> {
    *depth += 1;
    if *depth > DEPTH_MAX {
        return Err(DecodeError::new(format!("the key nests deeper than {DEPTH_MAX} levels")));
    }
    Ok(())
}

// Bytes

struct Ordered<'a> {
    out: &'a mut Vec<u8>,
    depth: u32,
}

impl Ordered<'_> {
    /// Writes bytes, then the end. 00 cannot be told from an end, so it is followed by FF, which sorts after every end.
    fn terminated(&mut self, bytes: &[u8]) {
        let mut parts = bytes.split(|byte| *byte == 0);
        self.out.extend_from_slice(parts.next().unwrap_or_default());
        for part in parts {
            self.out.extend_from_slice(&[0, 0xFF]);
            self.out.extend_from_slice(part);
        }
        self.out.extend_from_slice(&[0, 0]);
    }

    fn nested<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        descend(&mut self.depth)?;
        value.serialize(&mut *self)?;
        self.depth -= 1;
        Ok(())
    }
}

macro_rules! ordered_numbers {
    ($($method:ident: $t:ty, $flip:expr;)*) => { $(
        fn $method(self, value: $t) -> Result<(), DecodeError> {
            self.out.extend_from_slice(&(value ^ $flip).to_be_bytes());
            Ok(())
        }
    )* };
}

impl<'s, 'a> Serializer for &'s mut Ordered<'a> {
    type Ok = ();
    type Error = DecodeError;
    type SerializeSeq = OrderedSeq<'s, 'a>;
    type SerializeTuple = OrderedParts<'s, 'a>;
    type SerializeTupleStruct = OrderedParts<'s, 'a>;
    type SerializeTupleVariant = OrderedParts<'s, 'a>;
    type SerializeMap = Impossible<(), DecodeError>;
    type SerializeStruct = OrderedParts<'s, 'a>;
    type SerializeStructVariant = OrderedParts<'s, 'a>;

    ordered_numbers! {
        serialize_u8: u8, 0; serialize_u16: u16, 0; serialize_u32: u32, 0; serialize_u64: u64, 0;
        serialize_u128: u128, 0; serialize_i8: i8, i8::MIN; serialize_i16: i16, i16::MIN;
        serialize_i32: i32, i32::MIN; serialize_i64: i64, i64::MIN; serialize_i128: i128, i128::MIN;
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), DecodeError> {
        self.out.push(u8::from(value));
        Ok(())
    }

    fn serialize_f32(self, _: f32) -> Result<(), DecodeError> {
        no_order("a float")
    }

    fn serialize_f64(self, _: f64) -> Result<(), DecodeError> {
        no_order("a float")
    }

    fn serialize_char(self, value: char) -> Result<(), DecodeError> {
        self.serialize_u32(u32::from(value))
    }

    fn serialize_str(self, value: &str) -> Result<(), DecodeError> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), DecodeError> {
        self.terminated(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), DecodeError> {
        self.serialize_u8(0)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), DecodeError> {
        self.out.push(1);
        self.nested(value)
    }

    fn serialize_unit(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), DecodeError> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Result<(), DecodeError> {
        self.serialize_u32(index)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), DecodeError> {
        self.nested(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), DecodeError> {
        (&mut *self).serialize_u32(index)?;
        self.nested(value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<OrderedSeq<'s, 'a>, DecodeError> {
        descend(&mut self.depth)?;
        Ok(OrderedSeq(self))
    }

    fn serialize_tuple(self, _: usize) -> Result<OrderedParts<'s, 'a>, DecodeError> {
        descend(&mut self.depth)?;
        Ok(OrderedParts(self))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        len: usize,
    ) -> Result<OrderedParts<'s, 'a>, DecodeError> {
        self.serialize_tuple(len)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        len: usize,
    ) -> Result<OrderedParts<'s, 'a>, DecodeError> {
        (&mut *self).serialize_u32(index)?;
        self.serialize_tuple(len)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, DecodeError> {
        no_order("a map")
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<OrderedParts<'s, 'a>, DecodeError> {
        self.serialize_tuple(len)
    }

    fn serialize_struct_variant(
        self,
        of: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<OrderedParts<'s, 'a>, DecodeError> {
        self.serialize_tuple_variant(of, index, variant, len)
    }
}

struct OrderedSeq<'s, 'a>(&'s mut Ordered<'a>);

impl ser::SerializeSeq for OrderedSeq<'_, '_> {
    type Ok = ();
    type Error = DecodeError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        self.0.out.push(1);
        value.serialize(&mut *self.0)
    }

    fn end(self) -> Result<(), DecodeError> {
        self.0.depth -= 1;
        self.0.out.push(0);
        Ok(())
    }
}

struct OrderedParts<'s, 'a>(&'s mut Ordered<'a>);

impl OrderedParts<'_, '_> {
    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        value.serialize(&mut *self.0)
    }

    fn done(self) -> Result<(), DecodeError> {
        self.0.depth -= 1;
        Ok(())
    }
}

macro_rules! tuple_parts {
    ($of:ident: $($trait:ident $method:ident),*) => { $(
        impl ser::$trait for $of<'_, '_> {
            type Ok = ();
            type Error = DecodeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
                self.part(value)
            }

            fn end(self) -> Result<(), DecodeError> {
                self.done()
            }
        }
    )* };
}

macro_rules! struct_parts {
    ($of:ident: $($trait:ident),*) => { $(
        impl ser::$trait for $of<'_, '_> {
            type Ok = ();
            type Error = DecodeError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), DecodeError> {
                self.part(value).map_err(|e| e.in_field(name))
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), DecodeError> {
                skipped(name)
            }

            fn end(self) -> Result<(), DecodeError> {
                self.done()
            }
        }
    )* };
}

tuple_parts! { OrderedParts: SerializeTuple serialize_element, SerializeTupleStruct serialize_field,
SerializeTupleVariant serialize_field }
struct_parts! { OrderedParts: SerializeStruct, SerializeStructVariant }

// Bytes back

struct OrderedReader<'de> {
    rest: &'de [u8],
    bytes: usize,
    depth: u32,
}

impl<'de> OrderedReader<'de> {
    fn offset(&self) -> usize {
        self.bytes - self.rest.len()
    }

    fn wrong(&self, what: &str) -> DecodeError {
        DecodeError::new(what).at(self.offset())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) =
            self.rest.split_first_chunk::<N>().ok_or_else(|| self.wrong("the key ends early"))?;
        self.rest = rest;
        Ok(*array)
    }

    /// Reads one byte that is 0 or 1.
    fn flag(&mut self) -> Result<bool, DecodeError> {
        let at = self.offset();
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DecodeError::new("0 or 1 is wanted here").at(at)),
        }
    }

    fn terminated(&mut self) -> Result<Vec<u8>, DecodeError> {
        let mut bytes = Vec::new();
        loop {
            let zero = self.rest.iter().position(|byte| *byte == 0);
            let zero = zero.ok_or_else(|| self.wrong("the text does not end"))?;
            bytes.extend_from_slice(&self.rest[..zero]);
            self.rest = &self.rest[zero + 1..];
            match self.array::<1>()? {
                [0] => return Ok(bytes),
                [0xFF] => bytes.push(0),
                _ => return Err(self.wrong("a text holds a zero that is neither its own nor its end")),
            }
        }
    }

    fn parts<V: Visitor<'de>>(&mut self, parts: Framing, visitor: V) -> Result<V::Value, DecodeError> {
        descend(&mut self.depth)?;
        let mut access = PartsAccess { source: self, parts };
        let value = visitor.visit_seq(&mut access)?;
        // A visitor may stop before the end that a sequence has.
        if access.more()? {
            return Err(access.source.wrong("more elements than the type takes"));
        }
        self.depth -= 1;
        Ok(value)
    }
}

macro_rules! source_numbers {
    ($($method:ident $visit:ident $t:ty, $flip:expr;)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(<$t>::from_be_bytes(self.array()?) ^ $flip)
        }
    )* };
}

macro_rules! source_refuses {
    ($($method:ident $what:literal;)*) => { $(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
            no_order($what)
        }
    )* };
}

impl<'de> Deserializer<'de> for &mut OrderedReader<'de> {
    type Error = DecodeError;

    source_numbers! {
        deserialize_u8 visit_u8 u8, 0; deserialize_u16 visit_u16 u16, 0; deserialize_u32 visit_u32 u32, 0;
        deserialize_u64 visit_u64 u64, 0; deserialize_u128 visit_u128 u128, 0; deserialize_i8 visit_i8 i8, i8::MIN;
        deserialize_i16 visit_i16 i16, i16::MIN; deserialize_i32 visit_i32 i32, i32::MIN;
        deserialize_i64 visit_i64 i64, i64::MIN; deserialize_i128 visit_i128 i128, i128::MIN;
    }

    source_refuses! {
        deserialize_f32 "a float"; deserialize_f64 "a float"; deserialize_map "a map"; deserialize_any "such a type";
        deserialize_ignored_any "such a type"; deserialize_identifier "such a type";
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_bool(self.flag()?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let at = self.offset();
        let number = u32::from_be_bytes(self.array()?);
        visitor.visit_char(char::from_u32(number).ok_or_else(|| DecodeError::new("not a char").at(at))?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let at = self.offset();
        let bytes = self.terminated()?;
        visitor.visit_string(String::from_utf8(bytes).map_err(|_| DecodeError::new("not utf-8").at(at))?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_byte_buf(self.terminated()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if !self.flag()? {
            return visitor.visit_none();
        }
        descend(&mut self.depth)?;
        let value = visitor.visit_some(&mut *self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        descend(&mut self.depth)?;
        let value = visitor.visit_newtype_struct(&mut *self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.parts(Framing::Marked { ended: false }, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.parts(Framing::Counted(len), visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.parts(Framing::Counted(len), visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.parts(Framing::Counted(fields.len()), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_enum(self)
    }
}

/// Sign that another part follows: a mark in the bytes, or a count.
enum Framing {
    Marked { ended: bool },
    Counted(usize),
}

struct PartsAccess<'s, 'de> {
    source: &'s mut OrderedReader<'de>,
    parts: Framing,
}

impl PartsAccess<'_, '_> {
    /// Returns whether a marked sequence has another element; `false` for a counted one, whose bytes do not tell.
    fn more(&mut self) -> Result<bool, DecodeError> {
        match &mut self.parts {
            Framing::Counted(_) | Framing::Marked { ended: true } => Ok(false),
            Framing::Marked { ended } => {
                let more = self.source.flag()?;
                *ended = !more;
                Ok(more)
            }
        }
    }
}

impl<'de> de::SeqAccess<'de> for &mut PartsAccess<'_, 'de> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        let more = match &mut self.parts {
            Framing::Counted(left) => {
                let more = *left > 0;
                *left = left.saturating_sub(1);
                more
            }
            Framing::Marked { .. } => self.more()?,
        };
        if more { seed.deserialize(&mut *self.source).map(Some) } else { Ok(None) }
    }
}

impl<'de> de::EnumAccess<'de> for &mut OrderedReader<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), DecodeError> {
        let at = self.offset();
        let index: U32Deserializer<DecodeError> = u32::from_be_bytes(self.array()?).into_deserializer();
        Ok((seed.deserialize(index).map_err(|e| e.at(at))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for &mut OrderedReader<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, DecodeError> {
        descend(&mut self.depth)?;
        let value = seed.deserialize(&mut *self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.parts(Framing::Counted(len), visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.parts(Framing::Counted(fields.len()), visitor)
    }
}

// Text

// text := int | true | false | escaped | part ('/' part)*
// option := '%none' | text, with '%some' before it where it would begin with either
// sequence := count ('/' part)*        enum := name ['/' content]        bytes := hex
struct KeyTextWriter<'a> {
    out: &'a mut String,
    depth: u32,
}

impl KeyTextWriter<'_> {
    fn put(&mut self, value: impl std::fmt::Display) -> Result<(), DecodeError> {
        write!(self.out, "{value}").map_err(|_| DecodeError::new("the id cannot be written"))
    }

    fn escaped(&mut self, text: &str) -> Result<(), DecodeError> {
        for character in text.chars() {
            if !matches!(character, '/' | '%') && !character.is_control() {
                self.out.push(character);
                continue;
            }
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                self.put(format_args!("%{byte:02X}"))?;
            }
        }
        Ok(())
    }

    fn nested<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        descend(&mut self.depth)?;
        value.serialize(&mut *self)?;
        self.depth -= 1;
        Ok(())
    }

    fn named(&mut self, variant: &str) -> Result<(), DecodeError> {
        self.escaped(variant)?;
        self.out.push('/');
        Ok(())
    }
}

macro_rules! printed {
    ($($method:ident: $t:ty),*) => { $(
        fn $method(self, value: $t) -> Result<(), DecodeError> {
            self.put(value)
        }
    )* };
}

impl<'s, 'a> Serializer for &'s mut KeyTextWriter<'a> {
    type Ok = ();
    type Error = DecodeError;
    type SerializeSeq = TextParts<'s, 'a>;
    type SerializeTuple = TextParts<'s, 'a>;
    type SerializeTupleStruct = TextParts<'s, 'a>;
    type SerializeTupleVariant = TextParts<'s, 'a>;
    type SerializeMap = Impossible<(), DecodeError>;
    type SerializeStruct = TextParts<'s, 'a>;
    type SerializeStructVariant = TextParts<'s, 'a>;

    printed! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_i128: i128, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_u128: u128
    }

    fn serialize_f32(self, _: f32) -> Result<(), DecodeError> {
        no_order("a float")
    }

    fn serialize_f64(self, _: f64) -> Result<(), DecodeError> {
        no_order("a float")
    }

    fn serialize_char(self, value: char) -> Result<(), DecodeError> {
        self.escaped(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), DecodeError> {
        self.escaped(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), DecodeError> {
        value.iter().try_for_each(|byte| self.put(format_args!("{byte:02x}")))
    }

    fn serialize_none(self) -> Result<(), DecodeError> {
        self.put("%none")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), DecodeError> {
        let start = self.out.len();
        self.nested(value)?;
        if self.out[start..].starts_with("%none") || self.out[start..].starts_with("%some") {
            self.out.insert_str(start, "%some");
        }
        Ok(())
    }

    fn serialize_unit(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), DecodeError> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), DecodeError> {
        self.escaped(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), DecodeError> {
        self.nested(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), DecodeError> {
        self.named(variant)?;
        self.nested(value)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<TextParts<'s, 'a>, DecodeError> {
        let Some(len) = len else { return no_length() };
        self.put(len)?;
        descend(&mut self.depth)?;
        Ok(TextParts { text: self, first: false })
    }

    fn serialize_tuple(self, _: usize) -> Result<TextParts<'s, 'a>, DecodeError> {
        descend(&mut self.depth)?;
        Ok(TextParts { text: self, first: true })
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<TextParts<'s, 'a>, DecodeError> {
        self.serialize_tuple(len)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<TextParts<'s, 'a>, DecodeError> {
        self.named(variant)?;
        self.serialize_tuple(len)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, DecodeError> {
        no_order("a map")
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<TextParts<'s, 'a>, DecodeError> {
        self.serialize_tuple(len)
    }

    fn serialize_struct_variant(
        self,
        of: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<TextParts<'s, 'a>, DecodeError> {
        self.serialize_tuple_variant(of, index, variant, len)
    }
}

struct TextParts<'s, 'a> {
    text: &'s mut KeyTextWriter<'a>,
    first: bool,
}

impl TextParts<'_, '_> {
    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        if !std::mem::take(&mut self.first) {
            self.text.out.push('/');
        }
        value.serialize(&mut *self.text)
    }

    fn done(self) -> Result<(), DecodeError> {
        self.text.depth -= 1;
        Ok(())
    }
}

tuple_parts! { TextParts: SerializeSeq serialize_element, SerializeTuple serialize_element,
SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field }
struct_parts! { TextParts: SerializeStruct, SerializeStructVariant }

#[cfg(test)]
mod tests;
