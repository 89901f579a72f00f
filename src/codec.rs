//! Values to bytes and back: bincode 1.3.3, fixed integers, little-endian. The only file that names bincode.
//!
//! - The bytes are those of `bincode` with these options; of an event, what follows the variant index.
//! - What such bytes cannot carry is refused when it is written, never lost: skipped fields, flattened structs,
//!   sequences that do not know their length.
//! - Reading is from slices only. A length is compared with what is left before anything is allocated, trailing
//!   bytes are refused, depth is bounded: hostile bytes give an error.
//! - What was written is readable: both directions have the same limits.

use crate::misfit::DecodeError;
use crate::reflect;
use bincode::Options as _;
use bincode::config::{FixintEncoding, WithOtherIntEncoding};
use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor,
};
use serde::ser::{self, Impossible, Serialize, Serializer};

/// No value is larger, written or read.
pub(crate) const VALUE_BYTES_MAX: usize = 16 << 20;
/// No value nests deeper: a stack has an end.
pub(crate) const DEPTH_MAX: u32 = 128;

/// How long the count before a text or sequence is.
const COUNT_BYTES: usize = 8;

type Format = WithOtherIntEncoding<bincode::DefaultOptions, FixintEncoding>;

fn format() -> Format {
    bincode::DefaultOptions::new().with_fixint_encoding()
}

/// How a payload is written. Its id is stored with every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// bincode 1.3.3, fixed integers, little-endian; of an event, what follows the variant index.
    Bincode = 1,
    /// Json: what the value of the event's fields is.
    Json = 2,
}

impl Codec {
    /// The stored id.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The codec of a stored id, if there is one.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::Bincode),
            2 => Some(Self::Json),
            _ => None,
        }
    }
}

// Whole values

/// The bytes of a plain value: a row, a response, the input of a fingerprint.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::with_capacity(64);
    encode_into(value, &mut out)?;
    Ok(out)
}

/// The same, behind what `out` already holds. After an error `out` is as it was.
pub(crate) fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    written(out, |out| value.serialize(&mut Writer::new(out, Unwatched)))
}

/// A plain value from all of these bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    read_whole(bytes, |reader| T::deserialize(reader))
}

/// Appends the payload of an event to `out` and tells its variant: for a struct, its own name.
pub(crate) fn encode_event<T: Serialize>(event: &T, out: &mut Vec<u8>) -> Result<&'static str, DecodeError> {
    written(out, |out| event.serialize(Payload(&mut Writer::new(out, Unwatched))))
}

/// An event from the name of its variant and its payload.
#[inline]
pub(crate) fn decode_event<T: DeserializeOwned>(
    codec: Codec,
    variant: &str,
    payload: &[u8],
) -> Result<T, DecodeError> {
    known::<T>(variant)?;
    match codec {
        Codec::Bincode => read_whole(payload, |reader| T::deserialize(Named { variant, content: reader })),
        Codec::Json => event_from_json(variant, payload),
    }
}

/// The payload of an event without the event around it.
pub(crate) fn decode_payload<T: DeserializeOwned>(codec: Codec, payload: &[u8]) -> Result<T, DecodeError> {
    match codec {
        Codec::Bincode => decode(payload),
        Codec::Json => from_json(payload),
    }
}

/// The type must have this name itself: a catch-all variant (`serde(other)`) must not swallow what it does not know.
#[inline]
fn known<T: DeserializeOwned>(variant: &str) -> Result<(), DecodeError> {
    let names = reflect::names::<T>().map_err(|e| DecodeError::new(e.to_string()))?;
    if names.contains(variant) {
        Ok(())
    } else {
        Err(DecodeError::new(format!("this code knows only {names}")))
    }
}

/// Writes like [`encode`] and reports every enum variant on the way: how a trace learns today's names.
pub(crate) fn encode_watched<T: Serialize + ?Sized>(
    value: &T,
    seen: &mut dyn FnMut(&'static str, &'static str),
) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    written(&mut out, |out| value.serialize(&mut Writer::new(out, seen)))?;
    Ok(out)
}

fn written<T>(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let start = out.len();
    let done = write(out).and_then(|value| match out.len() - start {
        0..=VALUE_BYTES_MAX => Ok(value),
        bytes => Err(too_large(bytes)),
    });
    if done.is_err() {
        out.truncate(start);
    }
    done
}

fn read_whole<'de, T>(
    bytes: &'de [u8],
    read: impl FnOnce(&mut Reader<'de>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut reader = Reader::new(bytes)?;
    let value = read(&mut reader).map_err(|e| e.at(reader.offset()))?;
    reader.finish()?;
    Ok(value)
}

fn too_large(bytes: usize) -> DecodeError {
    DecodeError::new(format!("the value is {bytes} bytes, limit is {VALUE_BYTES_MAX} bytes"))
}

fn too_deep() -> DecodeError {
    DecodeError::new(format!("the value nests deeper than {DEPTH_MAX} levels"))
}

// Writing

/// Told of each enum variant that is written.
pub(crate) trait Watch {
    fn variant(&mut self, of: &'static str, variant: &'static str);
}

struct Unwatched;

impl Watch for Unwatched {
    #[inline]
    fn variant(&mut self, _: &'static str, _: &'static str) {}
}

impl Watch for &mut dyn FnMut(&'static str, &'static str) {
    fn variant(&mut self, of: &'static str, variant: &'static str) {
        self(of, variant);
    }
}

/// Every number, text and byte string goes through bincode; what holds them is written here, so that whatever
/// would be lost is seen.
struct Writer<'a, W> {
    bincode: bincode::Serializer<&'a mut Vec<u8>, Format>,
    depth: u32,
    watch: W,
}

impl<'a, W: Watch> Writer<'a, W> {
    fn new(out: &'a mut Vec<u8>, watch: W) -> Self {
        Self { bincode: bincode::Serializer::new(out, format()), depth: 0, watch }
    }

    #[inline]
    fn leaf<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        value.serialize(&mut self.bincode).map_err(|e| DecodeError::new("cannot be written").quoting(e))
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
    type SerializeMap = Parts<'w, 'a, W>;
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
        (&mut self.bincode)
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

    fn serialize_map(self, len: Option<usize>) -> Result<Parts<'w, 'a, W>, DecodeError> {
        self.counted(len, NO_MAP_LENGTH)
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

/// What is inside a sequence, tuple, map or struct: one after the other, as many as were promised.
struct Parts<'w, 'a, W> {
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

impl<W: Watch> ser::SerializeMap for Parts<'_, '_, W> {
    type Ok = ();
    type Error = DecodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), DecodeError> {
        self.part(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), DecodeError> {
        self.done()
    }
}

/// Writes an event without its variant index, and hands up the variant's name in its place.
struct Payload<'w, 'a, W>(&'w mut Writer<'a, W>);

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

/// The parts of an event, with the name to hand up when they are all written.
struct NamedParts<'w, 'a, W> {
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

// Reading

/// Reads a slice from the front. Every number, text and byte string goes through bincode.
pub(crate) struct Reader<'de> {
    rest: &'de [u8],
    bytes: usize,
    depth: u32,
    /// Elements that took no byte: nothing else bounds how many of them a length may claim.
    idle: usize,
}

impl<'de> Reader<'de> {
    pub(crate) fn new(bytes: &'de [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(too_large(bytes.len()));
        }
        Ok(Self { rest: bytes, bytes: bytes.len(), depth: 0, idle: 0 })
    }

    /// How many bytes have been read.
    pub(crate) fn offset(&self) -> usize {
        self.bytes - self.rest.len()
    }

    /// Nothing may be left.
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

    /// A number: its bytes in memory are as many as its bytes here.
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

    /// Goes behind what was read in place: its count and its `len` bytes.
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

    /// How many elements follow. It promises nothing of their size.
    #[inline]
    pub(crate) fn count(&mut self) -> Result<usize, DecodeError> {
        let at = self.offset();
        let count: u64 = self.number()?;
        match usize::try_from(count) {
            Ok(count) if count <= VALUE_BYTES_MAX => Ok(count),
            _ => Err(DecodeError::new(format!("{count} elements, limit is {VALUE_BYTES_MAX}")).at(at)),
        }
    }

    /// Says that an element was read which began at `start`.
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

    /// What is left, to be handed to [`passed`](Self::passed).
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
        let value = visitor.visit_seq(Fields { reader: self, names: names.iter() })?;
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

    /// Never more than the bytes could hold if each element took one: a length may lie.
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
struct Fields<'r, 'de> {
    reader: &'r mut Reader<'de>,
    names: std::slice::Iter<'static, &'static str>,
}

impl<'de> de::SeqAccess<'de> for Fields<'_, 'de> {
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

/// The name of an event's variant beside its payload: an enum picks by the name, which has been found to be its own.
struct Named<'n, C> {
    variant: &'n str,
    content: C,
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

// Json

#[cfg(feature = "json")]
fn event_from_json<T: DeserializeOwned>(variant: &str, payload: &[u8]) -> Result<T, DecodeError> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let event = T::deserialize(Named { variant, content: Json(&mut json) }).map_err(|e| json_misfit(&e))?;
    json.end().map_err(|e| json_misfit(&e))?;
    Ok(event)
}

#[cfg(feature = "json")]
fn from_json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(payload).map_err(|e| json_misfit(&e))
}

/// Without the feature such events stay raw.
#[cfg(not(feature = "json"))]
fn event_from_json<T>(_: &str, payload: &[u8]) -> Result<T, DecodeError> {
    from_json(payload)
}

#[cfg(not(feature = "json"))]
fn from_json<T>(_: &[u8]) -> Result<T, DecodeError> {
    Err(DecodeError::new("the payload is json, which needs the feature `json`"))
}

#[cfg(feature = "json")]
pub(crate) fn json_misfit(e: &serde_json::Error) -> DecodeError {
    use serde_json::error::Category;
    let what = match e.classify() {
        Category::Data => "does not fit the type",
        Category::Eof => "ends early",
        Category::Syntax | Category::Io => "is not json",
    };
    DecodeError::new(format!("the json {what} (line {}, column {})", e.line(), e.column())).quoting(e)
}

/// A json value as the content of a variant: `null`, a value, a list, an object.
#[cfg(feature = "json")]
struct Json<'a, 'de>(&'a mut serde_json::Deserializer<serde_json::de::SliceRead<'de>>);

#[cfg(feature = "json")]
impl<'de> Deserializer<'de> for Json<'_, 'de> {
    type Error = serde_json::Error;

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit seq tuple
        map enum identifier ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, serde_json::Error> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, serde_json::Error> {
        self.0.deserialize_unit_struct(name, visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, serde_json::Error> {
        self.0.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, serde_json::Error> {
        self.0.deserialize_tuple_struct(name, len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, serde_json::Error> {
        self.0.deserialize_struct(name, fields, visitor)
    }
}

#[cfg(feature = "json")]
impl<'de> de::VariantAccess<'de> for Json<'_, 'de> {
    type Error = serde_json::Error;

    fn unit_variant(self) -> Result<(), serde_json::Error> {
        <()>::deserialize(self.0)
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, serde_json::Error> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, serde_json::Error> {
        self.0.deserialize_tuple(len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, serde_json::Error> {
        self.0.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests;
