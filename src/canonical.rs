//! Values as bytes that are equal if and only if the values are: for fingerprints, and for keys that rules find by field name.
//!
//! - Names count, places do not: fields, variants and map entries may be declared or iterated in another order.
//! - Numbers count by value: the width of an integer does not matter, and a float without a fraction is the integer that it
//!   equals. All NaN are one value, and so are 0.0 and -0.0.
//! - The encoding of a value is no prefix of another's, so that values may follow one another.
//!
//! ```text
//! value   := NULL | FALSE | TRUE | number | TEXT natural utf8 | BYTES natural byte* | LIST value* END | MAP entry* END
//!          | VARIANT name value | SOME value       SOME only before what begins with NULL or SOME
//! entry   := value value                           rising by the bytes of the first, each once
//! name    := natural utf8
//! number  := NATURAL natural | NEGATIVE natural    the absolute value
//!          | FLOAT bits u64 LE                     with a fraction, not finite, or beyond 128 bits
//! natural := bytes u8 · little-endian, no zero at the end
//! ```

use crate::codec::DEPTH_MAX;
use crate::misfit::DecodeError;
use serde::ser::{self, Serialize, Serializer};
use smallvec::SmallVec;

const END: u8 = 0;
const NULL: u8 = 1;
const FALSE: u8 = 2;
const TRUE: u8 = 3;
const NATURAL: u8 = 4;
const NEGATIVE: u8 = 5;
const FLOAT: u8 = 6;
const TEXT: u8 = 7;
const BYTES: u8 = 8;
const LIST: u8 = 9;
const MAP: u8 = 10;
const VARIANT: u8 = 11;
const SOME: u8 = 12;

/// Appends the canonical bytes of a value. Unlike the codec it takes flattened structs and skipped fields: names are written.
///
/// # Errors
///
/// - The type refuses to be written, a map has a key twice, or the value nests too deep.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    value.serialize(&mut Writer::new(out))
}

/// Writes values part by part.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    depth: u32,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, depth: 0 }
    }

    pub fn null(&mut self) {
        self.out.push(NULL);
    }

    pub fn bool(&mut self, is: bool) {
        self.out.push(if is { TRUE } else { FALSE });
    }

    pub fn integer(&mut self, number: i128) {
        self.out.push(if number < 0 { NEGATIVE } else { NATURAL });
        self.natural(number.unsigned_abs());
    }

    pub fn unsigned(&mut self, number: u128) {
        self.out.push(NATURAL);
        self.natural(number);
    }

    pub fn float(&mut self, number: f64) {
        /// 2^128
        const BEYOND: f64 = 340_282_366_920_938_463_463_374_607_431_768_211_456.0;
        if number.fract() == 0.0 && number.abs() < BEYOND {
            // Exact: it is an integer, and it fits.
            self.out.push(if number < 0.0 { NEGATIVE } else { NATURAL });
            self.natural(number.abs() as u128);
        } else {
            let one = if number.is_nan() { f64::NAN } else { number };
            self.out.push(FLOAT);
            self.out.extend_from_slice(&one.to_bits().to_le_bytes());
        }
    }

    pub fn text(&mut self, text: &str) {
        self.out.push(TEXT);
        self.sized(text.as_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.push(BYTES);
        self.sized(bytes);
    }

    pub fn begin_list(&mut self) -> Result<(), DecodeError> {
        self.enter()?;
        self.out.push(LIST);
        Ok(())
    }

    pub fn end_list(&mut self) {
        self.out.push(END);
        self.depth -= 1;
    }

    pub fn begin_map(&mut self) -> Result<Entries, DecodeError> {
        self.enter()?;
        self.out.push(MAP);
        Ok(Entries { start: self.out.len(), all: SmallVec::new() })
    }

    /// Ends a map whose entries were written one after the other, and puts them in order.
    pub fn end_map(&mut self, mut entries: Entries) -> Result<(), DecodeError> {
        self.sort(&mut entries)?;
        self.out.push(END);
        self.depth -= 1;
        Ok(())
    }

    fn sort(&mut self, Entries { start, all }: &mut Entries) -> Result<(), DecodeError> {
        let out = &mut *self.out;
        let rise = |one: &EntrySpan, next: &EntrySpan| one.key(out) < next.key(out);
        if all.windows(2).all(|pair| rise(&pair[0], &pair[1])) {
            return Ok(());
        }
        all.sort_unstable_by(|one, other| one.key(out).cmp(other.key(out)));
        if !all.windows(2).all(|pair| rise(&pair[0], &pair[1])) {
            return Err(DecodeError::new("a map has a key twice"));
        }
        let end = out.len();
        for entry in all.iter() {
            out.extend_from_within(entry.key..entry.end);
        }
        out.copy_within(end.., *start);
        out.truncate(end);
        Ok(())
    }

    fn sized(&mut self, bytes: &[u8]) {
        self.natural(bytes.len() as u128);
        self.out.extend_from_slice(bytes);
    }

    fn natural(&mut self, number: u128) {
        let bytes = (128 - number.leading_zeros()).div_ceil(8);
        self.out.push(bytes as u8);
        self.out.extend_from_slice(&number.to_le_bytes()[..bytes as usize]);
    }

    fn enter(&mut self) -> Result<(), DecodeError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(DecodeError::new(format!("the value nests deeper than {DEPTH_MAX} levels")));
        }
        Ok(())
    }

    fn nested<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        self.enter()?;
        value.serialize(&mut *self)?;
        self.depth -= 1;
        Ok(())
    }

    fn variant(&mut self, name: &str) {
        self.out.push(VARIANT);
        self.sized(name.as_bytes());
    }
}

/// Places of the entries of a map that is being written.
pub(crate) struct Entries {
    start: usize,
    all: SmallVec<[EntrySpan; 8]>,
}

/// An entry: its key, and its value up to the end.
struct EntrySpan {
    key: usize,
    value: usize,
    end: usize,
}

impl EntrySpan {
    fn key<'o>(&self, out: &'o [u8]) -> &'o [u8] {
        &out[self.key..self.value]
    }
}

impl Entries {
    /// Writes one more entry.
    pub fn entry(
        &mut self,
        writer: &mut Writer<'_>,
        key: impl FnOnce(&mut Writer<'_>) -> Result<(), DecodeError>,
        value: impl FnOnce(&mut Writer<'_>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let start = writer.out.len();
        key(writer)?;
        let middle = writer.out.len();
        value(writer)?;
        self.all.push(EntrySpan { key: start, value: middle, end: writer.out.len() });
        Ok(())
    }
}

/// A plain value in canonical bytes.
pub(crate) enum Leaf<'a> {
    /// One that fits.
    Integer(i128),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Number of elements or entries of a list or map.
    Count(usize),
}

/// Reports the plain values in the canonical bytes of one value, names among the texts.
pub(crate) fn leaves(bytes: &[u8], each: &mut dyn FnMut(Leaf<'_>)) {
    let read = Leaves { rest: bytes, each }.value();
    debug_assert!(read.is_some(), "canonical bytes are written here alone");
}

struct Leaves<'a, 'e> {
    rest: &'a [u8],
    each: &'e mut dyn FnMut(Leaf<'_>),
}

impl<'a> Leaves<'a, '_> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn natural(&mut self) -> Option<u128> {
        let len = usize::from(*self.take(1)?.first()?);
        let mut bytes = [0; 16];
        bytes.get_mut(..len)?.copy_from_slice(self.take(len)?);
        Some(u128::from_le_bytes(bytes))
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.natural()?).ok()?;
        self.take(len)
    }

    fn until_end(&mut self, values: usize) -> Option<()> {
        let mut count = 0;
        while *self.rest.first()? != END {
            (0..values).try_for_each(|_| self.value())?;
            count += 1;
        }
        self.take(1)?;
        (self.each)(Leaf::Count(count));
        Some(())
    }

    fn value(&mut self) -> Option<()> {
        match *self.take(1)?.first()? {
            NULL | FALSE | TRUE => {}
            NATURAL => {
                let fits = i128::try_from(self.natural()?);
                fits.ok().map(|integer| (self.each)(Leaf::Integer(integer))).unwrap_or_default();
            }
            NEGATIVE => {
                let integer = 0_i128.checked_sub_unsigned(self.natural()?)?;
                (self.each)(Leaf::Integer(integer));
            }
            FLOAT => {
                let bits = u64::from_le_bytes(*self.take(8)?.first_chunk()?);
                (self.each)(Leaf::Float(f64::from_bits(bits)));
            }
            TEXT => {
                let text = std::str::from_utf8(self.sized()?).ok()?;
                (self.each)(Leaf::Text(text));
            }
            BYTES => {
                let bytes = self.sized()?;
                (self.each)(Leaf::Bytes(bytes));
            }
            LIST => self.until_end(1)?,
            MAP => self.until_end(2)?,
            VARIANT => {
                self.sized()?;
                self.value()?;
            }
            SOME => self.value()?,
            _ => return None,
        }
        Some(())
    }
}

macro_rules! numbers {
    ($($method:ident: $t:ty => $write:ident as $wide:ty),*) => { $(
        #[inline]
        fn $method(self, number: $t) -> Result<(), DecodeError> {
            self.$write(<$wide>::from(number));
            Ok(())
        }
    )* };
}

impl<'w, 'a> Serializer for &'w mut Writer<'a> {
    type Ok = ();
    type Error = DecodeError;
    type SerializeSeq = List<'w, 'a>;
    type SerializeTuple = List<'w, 'a>;
    type SerializeTupleStruct = List<'w, 'a>;
    type SerializeTupleVariant = List<'w, 'a>;
    type SerializeMap = Map<'w, 'a>;
    type SerializeStruct = Map<'w, 'a>;
    type SerializeStructVariant = Map<'w, 'a>;

    numbers! {
        serialize_i8: i8 => integer as i128, serialize_i16: i16 => integer as i128, serialize_i32: i32 => integer as i128,
        serialize_i64: i64 => integer as i128, serialize_i128: i128 => integer as i128,
        serialize_u8: u8 => unsigned as u128, serialize_u16: u16 => unsigned as u128,
        serialize_u32: u32 => unsigned as u128, serialize_u64: u64 => unsigned as u128,
        serialize_u128: u128 => unsigned as u128, serialize_f32: f32 => float as f64, serialize_f64: f64 => float as f64,
        serialize_bool: bool => bool as bool
    }

    /// As the codec has it, so that a type is written in one form.
    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_char(self, value: char) -> Result<(), DecodeError> {
        self.text(value.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), DecodeError> {
        self.text(value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), DecodeError> {
        self.bytes(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), DecodeError> {
        self.null();
        Ok(())
    }

    /// Writes a plain value, so that a field may become optional; marked if it would be taken for none.
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), DecodeError> {
        let start = self.out.len();
        self.nested(value)?;
        if matches!(self.out.get(start), Some(&(NULL | SOME))) {
            self.out.insert(start, SOME);
        }
        Ok(())
    }

    fn serialize_unit(self) -> Result<(), DecodeError> {
        self.null();
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), DecodeError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<(), DecodeError> {
        self.variant(name);
        self.serialize_unit()
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
        name: &'static str,
        value: &T,
    ) -> Result<(), DecodeError> {
        self.variant(name);
        self.nested(value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'w, 'a>, DecodeError> {
        self.begin_list()?;
        Ok(List(self))
    }

    fn serialize_tuple(self, _: usize) -> Result<List<'w, 'a>, DecodeError> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List<'w, 'a>, DecodeError> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<List<'w, 'a>, DecodeError> {
        self.variant(name);
        self.serialize_seq(None)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Map<'w, 'a>, DecodeError> {
        let entries = self.begin_map()?;
        Ok(Map { writer: self, entries, key: 0, value: 0 })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Map<'w, 'a>, DecodeError> {
        self.serialize_map(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Map<'w, 'a>, DecodeError> {
        self.variant(name);
        self.serialize_map(None)
    }
}

/// The elements of a sequence or tuple.
pub(crate) struct List<'w, 'a>(&'w mut Writer<'a>);

macro_rules! elements {
    ($($of:ident $method:ident),*) => { $(
        impl ser::$of for List<'_, '_> {
            type Ok = ();
            type Error = DecodeError;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
                value.serialize(&mut *self.0)
            }

            fn end(self) -> Result<(), DecodeError> {
                self.0.end_list();
                Ok(())
            }
        }
    )* };
}
elements! {
    SerializeSeq serialize_element, SerializeTuple serialize_element, SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
}

/// The entries of a map, the fields of a struct.
pub(crate) struct Map<'w, 'a> {
    writer: &'w mut Writer<'a>,
    entries: Entries,
    /// Start of the key whose value is still to come, and start of that value.
    key: usize,
    value: usize,
}

impl Map<'_, '_> {
    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), DecodeError> {
        let name_of = |writer: &mut Writer<'_>| {
            writer.text(name);
            Ok(())
        };
        self.entries
            .entry(self.writer, name_of, |writer| value.serialize(&mut *writer))
            .map_err(|e| e.in_field(name))
    }
}

macro_rules! fields {
    ($($of:ident),*) => { $(
        impl ser::$of for Map<'_, '_> {
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

            fn end(self) -> Result<(), DecodeError> {
                self.writer.end_map(self.entries)
            }
        }
    )* };
}
fields! { SerializeStruct, SerializeStructVariant }

impl ser::SerializeMap for Map<'_, '_> {
    type Ok = ();
    type Error = DecodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), DecodeError> {
        self.key = self.writer.out.len();
        key.serialize(&mut *self.writer)?;
        self.value = self.writer.out.len();
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        value.serialize(&mut *self.writer)?;
        let end = self.writer.out.len();
        self.entries.all.push(EntrySpan { key: self.key, value: self.value, end });
        Ok(())
    }

    fn end(self) -> Result<(), DecodeError> {
        self.writer.end_map(self.entries)
    }
}

#[cfg(test)]
mod tests;
