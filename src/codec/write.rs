//! Values written: bincode's bytes; a value that they cannot carry is refused on the way.

use super::{DEPTH_MAX, Format, VALUE_BYTES_MAX, format, too_deep};
use crate::key;
use crate::misfit::DecodeError;
use serde::ser::{self, Impossible, Serialize, Serializer};
use std::ops::Range;

/// Listener for each enum variant that is written.
pub(super) trait Watch {
    fn variant(&mut self, of: &'static str, variant: &'static str);
}

pub(super) struct Unwatched;

impl Watch for Unwatched {
    #[inline]
    fn variant(&mut self, _: &'static str, _: &'static str) {}
}

impl Watch for &mut dyn FnMut(&'static str, &'static str) {
    fn variant(&mut self, of: &'static str, variant: &'static str) {
        self(of, variant);
    }
}

/// Serializer: every number, text and byte string goes through bincode; composites are written here, so that whatever
/// would be lost is seen.
pub(super) struct Writer<'a, W> {
    out: &'a mut Vec<u8>,
    depth: u32,
    watch: W,
}

impl<'a, W: Watch> Writer<'a, W> {
    pub fn new(out: &'a mut Vec<u8>, watch: W) -> Self {
        Self { out, depth: 0, watch }
    }

    #[inline]
    fn bincode(&mut self) -> bincode::Serializer<&mut Vec<u8>, Format> {
        bincode::Serializer::new(&mut *self.out, format())
    }

    #[inline]
    fn leaf<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        value.serialize(&mut self.bincode()).map_err(|e| DecodeError::new("cannot be written").quoting(e))
    }

    #[inline]
    fn enter(&mut self) -> Result<(), DecodeError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(too_deep()) } else { Ok(()) }
    }

    #[inline]
    fn index(&mut self, of: &'static str, index: u32, variant: &'static str) -> Result<(), DecodeError> {
        self.watch.variant(of, variant);
        self.leaf(&index)
    }

    #[inline]
    fn nested<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        self.enter()?;
        value.serialize(&mut *self)?;
        self.depth -= 1;
        Ok(())
    }

    fn parts(&mut self, promised: usize) -> Result<Parts<'_, 'a, W>, DecodeError> {
        self.enter()?;
        Ok(Parts { writer: self, promised, written: 0 })
    }

    fn counted(&mut self, len: Option<usize>, what: &str) -> Result<Parts<'_, 'a, W>, DecodeError> {
        let len = len.ok_or_else(|| DecodeError::new(what))?;
        if len > VALUE_BYTES_MAX {
            return Err(DecodeError::new(format!("{len} elements, limit is {VALUE_BYTES_MAX}")));
        }
        self.leaf(&(len as u64))?;
        self.parts(len)
    }
}

const NO_LENGTH: &str = "a sequence that does not know its length cannot be carried: collect it first";
const NO_MAP_LENGTH: &str = "`#[serde(flatten)]`, or a map that does not know its length, cannot be carried: \
                             the bytes have no field names";

macro_rules! leaves {
    ($($method:ident: $t:ty),*) => { $(
        #[inline]
        fn $method(self, value: $t) -> Result<(), DecodeError> {
            self.leaf(&value)
        }
    )* };
}

impl<'w, 'a, W: Watch> Serializer for &'w mut Writer<'a, W> {
    type Ok = ();
    type Error = DecodeError;
    type SerializeSeq = Parts<'w, 'a, W>;
    type SerializeTuple = Parts<'w, 'a, W>;
    type SerializeTupleStruct = Parts<'w, 'a, W>;
    type SerializeTupleVariant = Parts<'w, 'a, W>;
    type SerializeMap = Entries<'w, 'a, W>;
    type SerializeStruct = Parts<'w, 'a, W>;
    type SerializeStructVariant = Parts<'w, 'a, W>;

    leaves! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_i128: i128, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_u128: u128, serialize_f32: f32, serialize_f64: f64, serialize_char: char, serialize_str: &str
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), DecodeError> {
        (&mut self.bincode())
            .serialize_bytes(value)
            .map_err(|e| DecodeError::new("cannot be written").quoting(e))
    }

    fn serialize_none(self) -> Result<(), DecodeError> {
        self.leaf(&0u8)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), DecodeError> {
        self.leaf(&1u8)?;
        self.nested(value)
    }

    fn serialize_unit(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), DecodeError> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        of: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<(), DecodeError> {
        self.index(of, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), DecodeError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        of: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), DecodeError> {
        self.index(of, index, variant)?;
        self.nested(value).map_err(|e| e.in_field(variant))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Parts<'w, 'a, W>, DecodeError> {
        self.counted(len, NO_LENGTH)
    }

    fn serialize_tuple(self, len: usize) -> Result<Parts<'w, 'a, W>, DecodeError> {
        self.parts(len)
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Parts<'w, 'a, W>, DecodeError> {
        self.parts(len)
    }

    fn serialize_tuple_variant(
        self,
        of: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Parts<'w, 'a, W>, DecodeError> {
        self.index(of, index, variant)?;
        self.parts(len)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Entries<'w, 'a, W>, DecodeError> {
        let parts = self.counted(len, NO_MAP_LENGTH)?;
        Ok(Entries {
            start: parts.writer.out.len(),
            parts,
            order: Vec::new(),
            all: Vec::new(),
            unordered: false,
        })
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Parts<'w, 'a, W>, DecodeError> {
        self.parts(len)
    }

    fn serialize_struct_variant(
        self,
        of: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Parts<'w, 'a, W>, DecodeError> {
        self.index(of, index, variant)?;
        self.parts(len)
    }
}

/// Parts of a sequence, tuple, map or struct, one after the other, as many as were promised.
pub(super) struct Parts<'w, 'a, W> {
    writer: &'w mut Writer<'a, W>,
    promised: usize,
    written: usize,
}

impl<W: Watch> Parts<'_, '_, W> {
    #[inline]
    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        self.written += 1;
        value.serialize(&mut *self.writer)
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), DecodeError> {
        self.part(value).map_err(|e| e.in_field(name))
    }

    #[inline]
    fn done(self) -> Result<(), DecodeError> {
        self.writer.depth -= 1;
        if self.written == self.promised {
            return Ok(());
        }
        Err(DecodeError::new(format!("promised {} elements and wrote {}", self.promised, self.written)))
    }
}

fn skipped(field: &'static str) -> DecodeError {
    DecodeError::new(
        "`#[serde(skip_serializing_if)]` cannot be carried: the bytes have no field names, so a field is always written",
    )
    .in_field(field)
}

macro_rules! elements {
    ($($of:ident $method:ident),*) => { $(
        impl<W: Watch> ser::$of for Parts<'_, '_, W> {
            type Ok = ();
            type Error = DecodeError;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
                self.part(value)
            }

            #[inline]
            fn end(self) -> Result<(), DecodeError> {
                self.done()
            }
        }
    )* };
}
elements! {
    SerializeSeq serialize_element, SerializeTuple serialize_element, SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
}

macro_rules! fields {
    ($($of:ident),*) => { $(
        impl<W: Watch> ser::$of for Parts<'_, '_, W> {
            type Ok = ();
            type Error = DecodeError;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), DecodeError> {
                self.field(name, value)
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), DecodeError> {
                Err(skipped(name))
            }

            #[inline]
            fn end(self) -> Result<(), DecodeError> {
                self.done()
            }
        }
    )* };
}
fields! { SerializeStruct, SerializeStructVariant }

/// Entries of a map, put in order when all of them are written.
pub(super) struct Entries<'w, 'a, W> {
    parts: Parts<'w, 'a, W>,
    start: usize,
    /// Ordered bytes of the keys, one after the other: ordered maps are in that order as they are.
    order: Vec<u8>,
    all: Vec<EncodedEntry>,
    /// True if a key has no ordered bytes, so that the encoded bytes of the keys are the order.
    unordered: bool,
}

struct EncodedEntry {
    order: Range<usize>,
    key: Range<usize>,
    end: usize,
}

impl<W: Watch> Entries<'_, '_, W> {
    fn sort(&mut self) -> Result<(), DecodeError> {
        let (out, order, unordered) = (&mut *self.parts.writer.out, &self.order, self.unordered);
        let compare = |one: &EncodedEntry, other: &EncodedEntry| match unordered {
            true => out[one.key.clone()].cmp(&out[other.key.clone()]),
            false => order[one.order.clone()].cmp(&order[other.order.clone()]),
        };
        let rises = |all: &[EncodedEntry]| all.windows(2).all(|pair| compare(&pair[0], &pair[1]).is_lt());
        if rises(&self.all) {
            return Ok(());
        }
        self.all.sort_unstable_by(compare);
        if !rises(&self.all) {
            return Err(DecodeError::new("a map has a key twice"));
        }
        let end = out.len();
        for entry in &self.all {
            out.extend_from_within(entry.key.start..entry.end);
        }
        out.copy_within(end.., self.start);
        out.truncate(end);
        Ok(())
    }
}

impl<W: Watch> ser::SerializeMap for Entries<'_, '_, W> {
    type Ok = ();
    type Error = DecodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), DecodeError> {
        let (order, start) = (self.order.len(), self.parts.writer.out.len());
        self.unordered |= key::encode(key, &mut self.order).is_err();
        self.parts.part(key)?;
        let end = self.parts.writer.out.len();
        self.all.push(EncodedEntry { order: order..self.order.len(), key: start..end, end });
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        value.serialize(&mut *self.parts.writer)?;
        let end = self.parts.writer.out.len();
        let entry = self.all.last_mut().ok_or_else(|| DecodeError::new("a map has a value without a key"))?;
        entry.end = end;
        Ok(())
    }

    fn end(mut self) -> Result<(), DecodeError> {
        self.sort()?;
        self.parts.done()
    }
}

/// Writes an event without its variant index, and returns the variant's name in its place.
pub(super) struct Payload<'w, 'a, W>(pub &'w mut Writer<'a, W>);

fn not_an_event<T>() -> Result<T, DecodeError> {
    Err(DecodeError::new("an event is an enum or a struct, without `untagged`, `tag` or `flatten`"))
}

macro_rules! no_event {
    ($($method:ident($($t:ty),*);)*) => { $(
        fn $method(self, $(_: $t),*) -> Result<&'static str, DecodeError> {
            not_an_event()
        }
    )* };
}

impl<'w, 'a, W: Watch> Serializer for Payload<'w, 'a, W> {
    type Ok = &'static str;
    type Error = DecodeError;
    type SerializeSeq = Impossible<&'static str, DecodeError>;
    type SerializeTuple = Impossible<&'static str, DecodeError>;
    type SerializeTupleStruct = NamedParts<'w, 'a, W>;
    type SerializeTupleVariant = NamedParts<'w, 'a, W>;
    type SerializeMap = Impossible<&'static str, DecodeError>;
    type SerializeStruct = NamedParts<'w, 'a, W>;
    type SerializeStructVariant = NamedParts<'w, 'a, W>;

    no_event! {
        serialize_bool(bool); serialize_i8(i8); serialize_i16(i16); serialize_i32(i32); serialize_i64(i64);
        serialize_i128(i128); serialize_u8(u8); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64);
        serialize_u128(u128); serialize_f32(f32); serialize_f64(f64); serialize_char(char); serialize_str(&str);
        serialize_bytes(&[u8]); serialize_none(); serialize_unit();
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<&'static str, DecodeError> {
        not_an_event()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, DecodeError> {
        not_an_event()
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, DecodeError> {
        not_an_event()
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, DecodeError> {
        len.map_or_else(|| Err(DecodeError::new(NO_MAP_LENGTH)), |_| not_an_event())
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<&'static str, DecodeError> {
        Ok(name)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<&'static str, DecodeError> {
        value.serialize(self.0)?;
        Ok(name)
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<NamedParts<'w, 'a, W>, DecodeError> {
        Ok(NamedParts { name, parts: self.0.parts(len)? })
    }

    fn serialize_struct(self, name: &'static str, len: usize) -> Result<NamedParts<'w, 'a, W>, DecodeError> {
        Ok(NamedParts { name, parts: self.0.parts(len)? })
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<&'static str, DecodeError> {
        Ok(variant)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<&'static str, DecodeError> {
        self.0.nested(value)?;
        Ok(variant)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<NamedParts<'w, 'a, W>, DecodeError> {
        Ok(NamedParts { name: variant, parts: self.0.parts(len)? })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<NamedParts<'w, 'a, W>, DecodeError> {
        Ok(NamedParts { name: variant, parts: self.0.parts(len)? })
    }
}

/// The parts of an event, with the name to return when they are all written.
pub(super) struct NamedParts<'w, 'a, W> {
    name: &'static str,
    parts: Parts<'w, 'a, W>,
}

impl<W: Watch> NamedParts<'_, '_, W> {
    #[inline]
    fn done(self) -> Result<&'static str, DecodeError> {
        self.parts.done()?;
        Ok(self.name)
    }
}

macro_rules! event_elements {
    ($($of:ident),*) => { $(
        impl<W: Watch> ser::$of for NamedParts<'_, '_, W> {
            type Ok = &'static str;
            type Error = DecodeError;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
                self.parts.part(value)
            }

            fn end(self) -> Result<&'static str, DecodeError> {
                self.done()
            }
        }
    )* };
}
event_elements! { SerializeTupleStruct, SerializeTupleVariant }

macro_rules! event_fields {
    ($($of:ident),*) => { $(
        impl<W: Watch> ser::$of for NamedParts<'_, '_, W> {
            type Ok = &'static str;
            type Error = DecodeError;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), DecodeError> {
                self.parts.field(name, value)
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), DecodeError> {
                Err(skipped(name))
            }

            fn end(self) -> Result<&'static str, DecodeError> {
                self.done()
            }
        }
    )* };
}
event_fields! { SerializeStruct, SerializeStructVariant }
