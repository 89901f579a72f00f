//! Values read from a slice, within bounds.

use super::{COUNT_BYTES, DEPTH_MAX, VALUE_BYTES_MAX, format, too_deep, too_large};
use crate::misfit::DecodeError;
use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

/// Reads a slice from the front. Every number, text and byte string goes through bincode.
pub(crate) struct Reader<'de> {
    rest: &'de [u8],
    bytes: usize,
    depth: u32,
    /// Number of elements that took no byte: nothing else bounds how many of them a length may claim.
    idle: usize,
}

impl<'de> Reader<'de> {
    pub(crate) fn new(bytes: &'de [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(too_large(bytes.len()));
        }
        Ok(Self { rest: bytes, bytes: bytes.len(), depth: 0, idle: 0 })
    }

    /// Returns the number of bytes that have been read.
    pub(crate) fn offset(&self) -> usize {
        self.bytes - self.rest.len()
    }

    /// Returns an error if bytes are left.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(DecodeError::new(format!("{more} bytes too many")).at(self.offset())),
        }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'de [u8], DecodeError> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.short(len as u64));
        };
        self.rest = rest;
        Ok(head)
    }

    #[cold]
    fn short(&self, wanted: u64) -> DecodeError {
        let left = self.rest.len();
        DecodeError::new(format!("the bytes end: {wanted} wanted, {left} left")).at(self.offset())
    }

    #[inline]
    fn through_bincode<T: Deserialize<'de>>(&mut self, len: usize, what: &str) -> Result<T, DecodeError> {
        let at = self.offset();
        let mut bincode = bincode::Deserializer::from_slice(self.take(len)?, format());
        T::deserialize(&mut bincode).map_err(|_| DecodeError::new(what).at(at))
    }

    /// Reads a number: it has as many bytes here as in memory.
    #[inline]
    pub(crate) fn number<T: Deserialize<'de>>(&mut self) -> Result<T, DecodeError> {
        self.through_bincode(size_of::<T>(), "not a number")
    }

    #[inline]
    pub(crate) fn bool(&mut self) -> Result<bool, DecodeError> {
        self.through_bincode(1, "a bool is 0 or 1")
    }

    pub(crate) fn char(&mut self) -> Result<char, DecodeError> {
        let len = match self.rest.first() {
            Some(0xC0..=0xDF) => 2,
            Some(0xE0..=0xEF) => 3,
            Some(0xF0..) => 4,
            _ => 1,
        };
        self.through_bincode(len, "not a char")
    }

    #[inline]
    pub(crate) fn str(&mut self) -> Result<&'de str, DecodeError> {
        let mut bincode = bincode::Deserializer::from_slice(self.rest, format());
        match <&str>::deserialize(&mut bincode) {
            Ok(text) => self.passing(text, text.len()),
            Err(_) => Err(self.sized_wrong("the text is not utf-8")),
        }
    }

    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'de [u8], DecodeError> {
        let mut bincode = bincode::Deserializer::from_slice(self.rest, format());
        match <&[u8]>::deserialize(&mut bincode) {
            Ok(bytes) => self.passing(bytes, bytes.len()),
            Err(_) => Err(self.sized_wrong("not bytes")),
        }
    }

    /// Skips a value that was read in place: its count and its `len` bytes.
    #[inline]
    fn passing<T>(&mut self, read: T, len: usize) -> Result<T, DecodeError> {
        self.take(COUNT_BYTES + len)?;
        Ok(read)
    }

    #[cold]
    fn sized_wrong(&mut self, what: &str) -> DecodeError {
        let at = self.offset();
        match self.number::<u64>() {
            Err(short) => short,
            Ok(len) if usize::try_from(len).is_ok_and(|len| len <= self.rest.len()) => {
                DecodeError::new(what).at(at)
            }
            Ok(len) => {
                let left = self.rest.len();
                DecodeError::new(format!("the bytes end: {len} wanted, {left} left")).at(at)
            }
        }
    }

    #[inline]
    pub(crate) fn some(&mut self) -> Result<bool, DecodeError> {
        self.through_bincode(1, "an option is 0 or 1")
    }

    /// Reads the number of elements that follow. It promises nothing of their size.
    #[inline]
    pub(crate) fn count(&mut self) -> Result<usize, DecodeError> {
        let at = self.offset();
        let count: u64 = self.number()?;
        match usize::try_from(count) {
            Ok(count) if count <= VALUE_BYTES_MAX => Ok(count),
            _ => Err(DecodeError::new(format!("{count} elements, limit is {VALUE_BYTES_MAX}")).at(at)),
        }
    }

    /// Counts an element that was read, and began with `start` bytes left. An error if too many took no byte.
    #[inline]
    pub(crate) fn passed(&mut self, start: usize, idle_max: usize) -> Result<(), DecodeError> {
        if start == self.rest.len() {
            self.idle += 1;
            if self.idle > idle_max {
                return Err(DecodeError::new(format!("more than {idle_max} elements without a byte")));
            }
        }
        Ok(())
    }

    /// Returns the number of bytes left, to be handed to [`passed`](Self::passed).
    #[inline]
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(crate) fn enter(&mut self) -> Result<(), DecodeError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(too_deep()) } else { Ok(()) }
    }

    #[inline]
    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    #[inline]
    fn elements<V: Visitor<'de>>(&mut self, left: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.enter()?;
        let value = visitor.visit_seq(Elements { reader: self, left })?;
        self.leave();
        Ok(value)
    }

    #[inline]
    fn fields<V: Visitor<'de>>(
        &mut self,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.enter()?;
        let value = visitor.visit_seq(FieldsAccess { reader: self, names: names.iter() })?;
        self.leave();
        Ok(value)
    }
}

fn not_self_describing<T>() -> Result<T, DecodeError> {
    Err(DecodeError::new(
        "the type asks the bytes what they are (`untagged`, `tag`, a json value): these bytes cannot tell",
    ))
}

macro_rules! numbers {
    ($($method:ident $visit:ident),*) => { $(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(self.number()?)
        }
    )* };
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = DecodeError;

    numbers! {
        deserialize_i8 visit_i8, deserialize_i16 visit_i16, deserialize_i32 visit_i32, deserialize_i64 visit_i64,
        deserialize_i128 visit_i128, deserialize_u8 visit_u8, deserialize_u16 visit_u16,
        deserialize_u32 visit_u32, deserialize_u64 visit_u64, deserialize_u128 visit_u128,
        deserialize_f32 visit_f32, deserialize_f64 visit_f64
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
        not_self_describing()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
        not_self_describing()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
        not_self_describing()
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_bool(self.bool()?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_char(self.char()?)
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_str(self.str()?)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_bytes(self.bytes()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_bytes(visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if !self.some()? {
            return visitor.visit_none();
        }
        self.enter()?;
        let value = visitor.visit_some(&mut *self)?;
        self.leave();
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

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let count = self.count()?;
        self.elements(count, visitor)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.elements(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.elements(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let count = self.count()?;
        self.enter()?;
        let value = visitor.visit_map(Elements { reader: self, left: count })?;
        self.leave();
        Ok(value)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.fields(fields, visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_enum(self)
    }
}

/// Elements of a sequence or tuple, entries of a map.
struct Elements<'r, 'de> {
    reader: &'r mut Reader<'de>,
    left: usize,
}

impl<'de> Elements<'_, 'de> {
    #[inline]
    fn next<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let start = self.reader.left();
        let value = seed.deserialize(&mut *self.reader)?;
        self.reader.passed(start, VALUE_BYTES_MAX)?;
        Ok(Some(value))
    }

    /// Returns at most as many elements as the bytes could hold if each took one: a length may lie.
    fn hint(&self) -> Option<usize> {
        Some(self.left.min(self.reader.left()))
    }
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        self.next(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        self.next(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        seed.deserialize(&mut *self.reader)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

/// The fields of a struct, in the order of its declaration.
struct FieldsAccess<'r, 'de> {
    reader: &'r mut Reader<'de>,
    names: std::slice::Iter<'static, &'static str>,
}

impl<'de> de::SeqAccess<'de> for FieldsAccess<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        let Some(name) = self.names.next() else { return Ok(None) };
        match seed.deserialize(&mut *self.reader) {
            Ok(value) => Ok(Some(value)),
            Err(e) => Err(e.at(self.reader.offset()).in_field(*name)),
        }
    }
}

impl<'de> de::EnumAccess<'de> for &mut Reader<'de> {
    type Error = DecodeError;
    type Variant = Self;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), DecodeError> {
        let at = self.offset();
        let index: U32Deserializer<DecodeError> = self.number::<u32>()?.into_deserializer();
        Ok((seed.deserialize(index).map_err(|e| e.at(at))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for &mut Reader<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, DecodeError> {
        self.enter()?;
        let value = seed.deserialize(&mut *self)?;
        self.leave();
        Ok(value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.elements(len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.fields(fields, visitor)
    }
}

/// The name of an event's variant beside its payload: an enum picks by the name, which has been found to be one of its own.
pub(super) struct Named<'n, C> {
    pub variant: &'n str,
    pub content: C,
}

macro_rules! only_events {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("not an event"))
        }
    )* };
}

impl<'de, C> Deserializer<'de> for Named<'_, C>
where
    C: Deserializer<'de> + de::VariantAccess<'de, Error = <C as Deserializer<'de>>::Error>,
{
    type Error = <C as Deserializer<'de>>::Error;

    only_events! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_option deserialize_unit deserialize_seq deserialize_map
        deserialize_identifier deserialize_ignored_any
    }

    fn is_human_readable(&self) -> bool {
        self.content.is_human_readable()
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not an event"))
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.content.deserialize_unit_struct(name, visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.content.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.content.deserialize_tuple_struct(name, len, visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.content.deserialize_struct(name, fields, visitor)
    }
}

impl<'de, C: de::VariantAccess<'de>> de::EnumAccess<'de> for Named<'_, C> {
    type Error = C::Error;
    type Variant = C;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, C), C::Error> {
        let name: StrDeserializer<'_, C::Error> = self.variant.into_deserializer();
        Ok((seed.deserialize(name)?, self.content))
    }
}
