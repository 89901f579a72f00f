//! Layouts of payloads: field names and types in order, traced from serde's derive, written as text in the log.
//!
//! - A layout is complete: every variant of every enum, however deep; recursion is a [`Layout::Ref`].
//! - A layout has one text: `parse(print(x)) == x`, and no other text is accepted for it. So two versions of a type
//!   are compared by comparing texts, and adding a `#[serde(alias)]` changes nothing.
//! - A layout is enough to read any payload by field name, without the Rust type.
//! - Hostile text and hostile payloads give an error: depth, parts and values are bounded.
//!
//! ```text
//! {to:str,cents:u64,kind:<Small|Big(u8)|Cut{at:u32}>,by:?map<str,(u8,f64)>,key:[u8;32],next:?^2}
//! ```

mod erased;
mod samples;
mod text;
mod trace;

pub(crate) use erased::ErasedEvent;
pub(crate) use samples::Samples;

use crate::codec::{self, Reader, VALUE_BYTES_MAX};
use crate::key;
use crate::misfit::{DecodeError, LayoutError};
use crate::reflect::Names;
use crate::value::Value;
use erased::{ErasedType, ErasedValue, Sample, Written};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::Arc;

/// Layout of a value's bytes. Its `Display` is the text that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// `bool`
    Bool,
    /// `i8`
    I8,
    /// `i16`
    I16,
    /// `i32`
    I32,
    /// `i64`
    I64,
    /// `i128`
    I128,
    /// `u8`
    U8,
    /// `u16`
    U16,
    /// `u32`
    U32,
    /// `u64`
    U64,
    /// `u128`
    U128,
    /// `f32`
    F32,
    /// `f64`
    F64,
    /// `char`
    Char,
    /// `str`
    Str,
    /// `bytes`
    Bytes,
    /// `unit`: no bytes at all.
    Unit,
    /// `?u8`
    Option(Box<Layout>),
    /// `[u8]`: as many as its own count says.
    Seq(Box<Layout>),
    /// `map<str,u8>`
    Map(Box<Layout>, Box<Layout>),
    /// `(u8,str)`
    Tuple(Vec<Layout>),
    /// `[u8;32]`: a tuple of three or more of the same.
    Array(Box<Layout>, u32),
    /// `{a:u8,b:str}`
    Struct(Vec<(Arc<str>, Layout)>),
    /// `<None|One(u8)|Two(u8,u8)|Named{a:u8}>`: by index, in this order. The content of a variant is a layout; a newtype
    /// variant of a struct and a struct variant are the same bytes and the same layout.
    Enum(Vec<(Arc<str>, Layout)>),
    /// `^2`: the second layout around this one, counting options, sequences, maps, tuples, structs and enums.
    Ref(u32),
}

/// Maximum number of parts of a layout, which nests no deeper than a value may.
const PARTS_MAX: usize = 4096;
/// Maximum size of the text of a layout, in bytes.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Maximum number of values that a payload is read into: fields that take no byte cost memory all the same.
const VALUES_MAX: usize = 1 << 20;

impl Layout {
    /// Returns the layout of a plain value: a row, an answer, a key.
    ///
    /// Derives are traced through every field and variant. A type that refuses samples (a validated newtype, a
    /// `NonZero`) is offered others: small numbers, dates, ids, addresses.
    ///
    /// # Errors
    ///
    /// - The type uses a feature that its bytes cannot carry: `untagged`, `tag`, `flatten`, `skip_serializing_if`.
    /// - It writes other than it reads.
    /// - It refuses every sample, has no finite value, or is too large. The message names the field.
    pub fn of<T: Serialize + DeserializeOwned>() -> Result<Self, LayoutError> {
        Self::with_samples::<T>(&Samples::default())
    }

    /// Traces with more samples to offer.
    pub(crate) fn with_samples<T: Serialize + DeserializeOwned>(
        given: &Samples,
    ) -> Result<Self, LayoutError> {
        traced(ErasedType::plain::<T>(), given).map(|(layout, _)| layout)
    }

    /// Parses the text of a layout.
    ///
    /// # Errors
    ///
    /// - It is not the text of any layout, or not the one that this layout has.
    pub fn parse(text: &str) -> Result<Self, LayoutError> {
        text::parse(text)
    }

    /// Reads the value that these bytes hold, all of them, by field name.
    ///
    /// # Errors
    ///
    /// - The bytes do not fit; the message names the field and the byte.
    pub fn read(&self, payload: &[u8]) -> Result<Value, DecodeError> {
        let mut reader = Reader::new(payload)?;
        let mut read = ValueReader { reader: &mut reader, around: Vec::new(), values: 0 };
        let value = read.value(self).map_err(|e| e.at(read.reader.offset()))?;
        reader.finish()?;
        Ok(value)
    }

    /// Returns whether payloads of `old` read as this: the same parts in the same places, under other names at most.
    pub(crate) fn renames(&self, old: &Layout) -> bool {
        let alike = match (self, old) {
            (Layout::Struct(new), Layout::Struct(old)) | (Layout::Enum(new), Layout::Enum(old)) => {
                names_stay(new, old)
            }
            (Layout::Array(_, new), Layout::Array(_, old)) => new == old,
            (Layout::Option(_), Layout::Option(_))
            | (Layout::Seq(_), Layout::Seq(_))
            | (Layout::Map(..), Layout::Map(..))
            | (Layout::Tuple(_), Layout::Tuple(_)) => true,
            (new, old) => new == old,
        };
        let (new, old) = (self.parts(), old.parts());
        alike && new.len() == old.len() && new.into_iter().zip(old).all(|(new, old)| new.renames(old))
    }

    fn parts(&self) -> Vec<&Layout> {
        match self {
            Layout::Option(inner) | Layout::Seq(inner) | Layout::Array(inner, _) => vec![inner],
            Layout::Map(key, value) => vec![key, value],
            Layout::Tuple(parts) => parts.iter().collect(),
            Layout::Struct(parts) | Layout::Enum(parts) => parts.iter().map(|(_, part)| part).collect(),
            _ => Vec::new(),
        }
    }

    fn any(&self, wanted: &impl Fn(&Layout) -> bool) -> bool {
        wanted(self) || self.parts().into_iter().any(|part| part.any(wanted))
    }

    /// Returns a tuple, or the array that it is.
    fn tuple(parts: Vec<Layout>) -> Self {
        match parts.split_first() {
            Some((first, rest)) if rest.len() >= 2 && rest.iter().all(|part| part == first) => {
                Layout::Array(Box::new(first.clone()), u32::try_from(parts.len()).unwrap_or(u32::MAX))
            }
            _ => Layout::Tuple(parts),
        }
    }
}

/// Returns false if a name that both have has moved: it is not the same part then.
fn names_stay(new: &[(Arc<str>, Layout)], old: &[(Arc<str>, Layout)]) -> bool {
    let has = |all: &[(Arc<str>, Layout)], name: &str| all.iter().any(|(other, _)| **other == *name);
    new.iter().zip(old).all(|((now, _), (was, _))| now == was || !has(old, now) && !has(new, was))
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::print(self, f)
    }
}

// Reading by name

struct ValueReader<'r, 'l, 'de> {
    reader: &'r mut Reader<'de>,
    /// Composite layouts around the one that is read: a `Ref` refers to one of them.
    around: Vec<&'l Layout>,
    values: usize,
}

impl<'l> ValueReader<'_, 'l, '_> {
    fn value(&mut self, layout: &'l Layout) -> Result<Value, DecodeError> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(DecodeError::new(format!("more than {VALUES_MAX} values")));
        }
        let r = &mut *self.reader;
        Ok(match layout {
            Layout::Bool => Value::Bool(r.bool()?),
            Layout::I8 => Value::Int(r.number::<i8>()?.into()),
            Layout::I16 => Value::Int(r.number::<i16>()?.into()),
            Layout::I32 => Value::Int(r.number::<i32>()?.into()),
            Layout::I64 => Value::Int(r.number::<i64>()?.into()),
            Layout::I128 => Value::Int(r.number::<i128>()?),
            Layout::U8 => Value::Int(r.number::<u8>()?.into()),
            Layout::U16 => Value::Int(r.number::<u16>()?.into()),
            Layout::U32 => Value::Int(r.number::<u32>()?.into()),
            Layout::U64 => Value::Int(r.number::<u64>()?.into()),
            Layout::U128 => Value::from(r.number::<u128>()?),
            Layout::F32 => Value::Float(r.number::<f32>()?.into()),
            Layout::F64 => Value::Float(r.number::<f64>()?),
            Layout::Char => Value::Text(r.char()?.to_string()),
            Layout::Str => Value::Text(r.str()?.to_owned()),
            Layout::Bytes => Value::Bytes(r.bytes()?.to_vec()),
            Layout::Unit => Value::Null,
            Layout::Ref(up) => return self.referred(*up),
            composite => return self.composite(composite),
        })
    }

    /// Reads the layout that a `Ref` refers to. Meanwhile `around` ends before it, as when that layout was first read.
    fn referred(&mut self, up: u32) -> Result<Value, DecodeError> {
        let at = usize::try_from(up).ok().and_then(|up| self.around.len().checked_sub(up));
        let at = at.filter(|at| *at < self.around.len());
        let at = at.ok_or_else(|| DecodeError::new("the layout refers to nothing"))?;
        let inner = self.around.split_off(at);
        let value = self.composite(inner[0]);
        self.around.extend(inner);
        value
    }

    fn composite(&mut self, layout: &'l Layout) -> Result<Value, DecodeError> {
        self.reader.enter()?;
        self.around.push(layout);
        let value = self.inside(layout)?;
        self.around.pop();
        self.reader.leave();
        Ok(value)
    }

    fn inside(&mut self, layout: &'l Layout) -> Result<Value, DecodeError> {
        match layout {
            Layout::Option(inner) => {
                if self.reader.some()? {
                    self.value(inner)
                } else {
                    Ok(Value::Null)
                }
            }
            Layout::Seq(inner) => {
                let count = self.reader.count()?;
                self.list(std::iter::repeat_n(&**inner, count))
            }
            Layout::Array(inner, count) => {
                self.list(std::iter::repeat_n(&**inner, usize::try_from(*count).unwrap_or(VALUE_BYTES_MAX)))
            }
            Layout::Tuple(parts) => self.list(parts.iter()),
            Layout::Map(key, value) => self.map(key, value),
            Layout::Struct(fields) => self.record(fields),
            Layout::Enum(variants) => self.variant(variants),
            _ => unreachable!("the other layouts are no composites"),
        }
    }

    fn list(&mut self, parts: impl Iterator<Item = &'l Layout>) -> Result<Value, DecodeError> {
        let mut list = Vec::new();
        for (index, part) in parts.enumerate() {
            list.push(self.value(part).map_err(|e| e.at(self.reader.offset()).in_field(index.to_string()))?);
        }
        Ok(Value::List(list))
    }

    fn map(&mut self, key: &'l Layout, value: &'l Layout) -> Result<Value, DecodeError> {
        let mut entries = Vec::new();
        for _ in 0..self.reader.count()? {
            entries.push((self.value(key)?, self.value(value)?));
        }
        Ok(Value::Map(entries))
    }

    fn record(&mut self, fields: &'l [(Arc<str>, Layout)]) -> Result<Value, DecodeError> {
        let mut record = Vec::with_capacity(fields.len());
        for (name, layout) in fields {
            let value =
                self.value(layout).map_err(|e| e.at(self.reader.offset()).in_field(name.to_string()))?;
            record.push((Arc::clone(name), value));
        }
        Ok(Value::Record(record))
    }

    fn variant(&mut self, variants: &'l [(Arc<str>, Layout)]) -> Result<Value, DecodeError> {
        let at = self.reader.offset();
        let index: u32 = self.reader.number()?;
        let variant = usize::try_from(index).ok().and_then(|index| variants.get(index));
        let Some((name, layout)) = variant else {
            return Err(DecodeError::new(format!("variant {index} of {}", variants.len())).at(at));
        };
        let value = self.value(layout).map_err(|e| e.at(self.reader.offset()).in_field(name.to_string()))?;
        Ok(Value::Variant(Arc::clone(name), Box::new(value)))
    }
}

// Whole types

/// A variant of an enum that stands for a family of events, or the struct that does.
pub(crate) struct Variant {
    pub name: String,
    /// Older names that are read as this one.
    pub aliases: Vec<String>,
    /// Layout of its payload, without the variant index.
    pub layout: Layout,
}

/// Returns the variants with their layouts, or everything that is wrong with the type.
pub(crate) fn variants(event: ErasedEvent, given: &Samples) -> Result<Vec<Variant>, Vec<LayoutError>> {
    let layouts = event_layouts(event, given).map_err(|e| vec![e])?;
    let names = (event.names)().map_err(|e| vec![e])?;
    let mut types = Vec::new();
    let mut wrong = Vec::new();
    for (name, layout) in layouts {
        match (event.same_variant)(&name) {
            Ok(same) => {
                let aliases = same.into_iter().filter(|other| **other != *name).map(str::to_owned).collect();
                types.push(Variant { name: name.to_string(), aliases, layout });
            }
            Err(e) => wrong.push(e),
        }
        if name.chars().any(char::is_control) || name.is_empty() {
            wrong.push(
                LayoutError::new("a variant's name is empty or holds a control character")
                    .of(names.to_string()),
            );
        }
    }
    if wrong.is_empty() { Ok(types) } else { Err(wrong) }
}

/// Returns the layout of the payload of one variant, by any of its names.
pub(crate) fn of_variant(event: ErasedEvent, variant: &str, given: &Samples) -> Result<Layout, LayoutError> {
    let same = (event.same_variant)(variant)?;
    let found = event_layouts(event, given)?.into_iter().find(|(name, _)| same.contains(&&**name));
    found
        .map(|(_, layout)| layout)
        .ok_or_else(|| LayoutError::new(format!("there is no variant {variant}")).of(event.erased.name))
}

fn event_layouts(event: ErasedEvent, given: &Samples) -> Result<Vec<(Arc<str>, Layout)>, LayoutError> {
    let names = (event.names)()?;
    let (of, traced) = (event.erased.name, trace::trace(event.erased, given)?);
    let layouts = match (names, traced.layout()?) {
        (Names::Enum(_), Layout::Enum(variants)) => {
            // The payload of a family does not contain the enum around it.
            variants
                .into_iter()
                .map(|(name, layout)| Ok((name, without_enum(layout)?)))
                .collect::<Result<_, _>>()?
        }
        (Names::Struct(name), layout) => vec![(Arc::from(name), layout)],
        _ => return Err(LayoutError::new("an event is an enum or a struct").of(of)),
    };
    for event in &traced.samples {
        let Some(written) = written(&**event, of)? else { continue };
        let variant = written.variant;
        let Some((_, layout)) = layouts.iter().find(|(name, _)| **name == *variant) else {
            let what = format!(
                "variant {variant} can be written and not read (`skip_deserializing`, or two names?)"
            );
            return Err(LayoutError::new(what).of(of));
        };
        if !is_read_back(&**event, &written, layout) {
            return Err(differs().of(format!("{of}, variant {variant}")));
        }
    }
    Ok(layouts)
}

/// Refuses a payload that holds its own family again: it would refer to an enum that is not there.
fn without_enum(layout: Layout) -> Result<Layout, LayoutError> {
    fn outside(layout: &Layout, depth: u32) -> bool {
        match layout {
            Layout::Ref(up) => *up > depth,
            composite => composite.parts().into_iter().any(|part| outside(part, depth + 1)),
        }
    }
    if outside(&layout, 0) {
        return Err(LayoutError::new("an event that holds its own family cannot be carried"));
    }
    Ok(layout)
}

fn traced<'v>(of: ErasedType<'v>, given: &Samples) -> Result<(Layout, Vec<Sample<'v>>), LayoutError> {
    let traced = trace::trace(of, given)?;
    let layout = traced.layout()?;
    for value in &traced.samples {
        let Some(written) = written(&**value, of.name)? else { continue };
        if !is_read_back(&**value, &written, &layout) {
            return Err(differs().of(of.name));
        }
    }
    Ok((layout, traced.samples))
}

/// Returns the bytes of a sample. `None` if the type refuses to write a value that it read (a retired variant). An error if the
/// bytes cannot carry the value.
fn written(value: &dyn ErasedValue, of: &str) -> Result<Option<Written>, LayoutError> {
    match value.write() {
        Ok(written) => Ok(Some(written)),
        Err(e) if e.said().is_some() => Ok(None),
        Err(e) => Err(LayoutError::new(e.to_string()).of(of)),
    }
}

/// Returns whether these bytes fit the layout, and the type reads from them a value that it writes the same.
fn is_read_back(value: &dyn ErasedValue, written: &Written, layout: &Layout) -> bool {
    let is_same =
        |again: Written| again.variant == written.variant && again.bytes.len() == written.bytes.len();
    layout.read(&written.bytes).is_ok() && value.rewrite(written).is_ok_and(is_same)
}

fn differs() -> LayoutError {
    LayoutError::new(
        "it writes other than it reads: a field or variant is skipped on one side only, or its `with` differs",
    )
}

/// Refuses types that cannot be a key: floats, maps, and types whose order is not that of their bytes.
pub(crate) fn check_key<K: key::Key>(given: &Samples) -> Result<(), LayoutError> {
    let of = std::any::type_name::<K>();
    let refuse = |what: &str| Err(LayoutError::new(what).of(of));
    let erased = ErasedType::plain::<K>();
    let (layout, mut samples) = traced(erased, given)?;
    if layout.any(&|part| matches!(part, Layout::F32 | Layout::F64)) {
        return refuse("a float cannot be in a key: it has no order of its own");
    }
    if layout.any(&|part| matches!(part, Layout::Map(..))) {
        return refuse("a map cannot be in a key: it has no order of its own");
    }
    samples.extend(trace::trace(erased, given)?.varied());
    let encode = |key: &K| {
        let mut bytes = Vec::new();
        key::encode(key, &mut bytes).map(|()| bytes)
    };
    let mut keys = Vec::new();
    for sample in &samples {
        let key = sample.write().and_then(|written| codec::decode::<K>(&written.bytes));
        let bytes = key.and_then(|key| encode(&key).map(|bytes| (key, bytes)));
        keys.push(bytes.map_err(|e| LayoutError::new(e.to_string()).of(of))?);
    }
    let ordered = |(a, x): &(K, Vec<u8>), (b, y): &(K, Vec<u8>)| a.cmp(b) == x.cmp(y);
    if keys.iter().all(|a| keys.iter().all(|b| ordered(a, b))) {
        return Ok(());
    }
    refuse("its order is not the derived one, and rows are kept in that")
}

#[cfg(test)]
mod tests;
