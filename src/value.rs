//! Values without their Rust type: what a layout or json reads, by field name.
//!
//! - Numbers keep their value: every integer that serde has fits, floats are `f64`.
//! - A field that is not there is `None`; it is never a panic.
//! - Values are told apart as JSON has them, so that a payload means the same whatever it was written in: a variant is its name,
//!   or its content under its name; bytes are a list of numbers; 1 and 1.0 are one number.

#[cfg(feature = "json")]
mod json;

use crate::canonical::Writer;
use crate::misfit::DecodeError;
use std::cmp::Ordering;
use std::sync::Arc;

/// Any value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Nothing: `()`, `None`, a variant without content.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// An integer beyond `i128`.
    UInt(u128),
    /// A float; an `f32` as the `f64` of the same value.
    Float(f64),
    /// A text, or one char.
    Text(String),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A sequence, tuple or array.
    List(Vec<Value>),
    /// A map, in the order it was written.
    Map(Vec<(Value, Value)>),
    /// A struct, in the order of its declaration.
    Record(Vec<(Arc<str>, Value)>),
    /// A variant and its content.
    Variant(Arc<str>, Box<Value>),
}

impl Value {
    /// Returns a field of a struct, an entry of a map with text keys, or the content of a variant of this name. A variant
    /// that holds a struct gives its fields as well, so a check need not care how an enum is written.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Record(fields) => {
                fields.iter().find(|(field, _)| **field == *name).map(|(_, value)| value)
            }
            Value::Map(entries) => {
                entries.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
            }
            Value::Variant(variant, content) if **variant == *name => Some(content),
            Value::Variant(_, content) => content.get(name),
            _ => None,
        }
    }

    /// Returns an element of a list.
    pub fn item(&self, index: usize) -> Option<&Value> {
        match self {
            Value::List(list) => list.get(index),
            _ => None,
        }
    }

    /// Returns the value at the end of a dotted path: `by.lines.0.cents`. An empty path is the value itself.
    pub fn path(&self, path: &str) -> Option<&Value> {
        if path.is_empty() {
            return Some(self);
        }
        path.split('.').try_fold(self, |value, step| match value {
            Value::List(_) => step.parse().ok().and_then(|index| value.item(index)),
            other => other.get(step),
        })
    }

    /// Returns whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Returns the bool that it is.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the integer that it is, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_i128().and_then(|value| value.try_into().ok())
    }

    /// Returns the integer that it is, if it fits.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i128().and_then(|value| value.try_into().ok())
    }

    /// Returns the integer that it is, if it fits.
    pub fn as_i128(&self) -> Option<i128> {
        match self {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the float that it is. `None` for an integer: it might not fit.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the text that it is.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the byte string that it is.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the list that it is.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the name of the variant that it is.
    pub fn variant(&self) -> Option<&str> {
        match self {
            Value::Variant(name, _) => Some(name),
            _ => None,
        }
    }
}

impl From<u128> for Value {
    fn from(value: u128) -> Self {
        i128::try_from(value).map_or(Value::UInt(value), Value::Int)
    }
}

// Equality

impl Value {
    /// Writes bytes that are equal for equal values, whatever they were read from: for keys, ties and comparisons. In a typed
    /// payload a variant without content cannot be told from one whose content is null, so both are the name.
    pub(crate) fn as_key(&self, to: &mut Writer<'_>) -> Result<(), DecodeError> {
        match self {
            Value::Record(fields) if fields.len() == 1 && fields[0].1.is_null() => to.text(&fields[0].0),
            Value::Map(entries) if entries.len() == 1 && entries[0].1.is_null() => {
                return entries[0].0.as_map_key(to);
            }
            _ => return self.canonical(to, Self::as_key),
        }
        Ok(())
    }

    /// Writes bytes that are equal for equal json.
    pub(crate) fn as_json(&self, to: &mut Writer<'_>) -> Result<(), DecodeError> {
        self.canonical(to, Self::as_json)
    }

    /// `part` writes what is inside.
    fn canonical(
        &self,
        to: &mut Writer<'_>,
        part: fn(&Value, &mut Writer<'_>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        match self {
            Value::Null => to.null(),
            Value::Bool(is) => to.bool(*is),
            Value::Int(number) => to.integer(*number),
            Value::UInt(number) => to.unsigned(*number),
            Value::Float(number) => to.float(*number),
            Value::Text(text) => to.text(text),
            Value::Bytes(bytes) => {
                to.begin_list()?;
                bytes.iter().for_each(|byte| to.unsigned((*byte).into()));
                to.end_list();
            }
            Value::List(list) => {
                to.begin_list()?;
                list.iter().try_for_each(|item| part(item, to))?;
                to.end_list();
            }
            Value::Variant(name, content) if content.is_null() => to.text(name),
            Value::Variant(name, content) => {
                let mut entries = to.begin_map()?;
                entries.entry(to, named(name), |to| part(content, to))?;
                to.end_map(entries)?;
            }
            Value::Record(fields) => {
                let mut entries = to.begin_map()?;
                for (name, value) in fields {
                    entries.entry(to, named(name), |to| part(value, to))?;
                }
                to.end_map(entries)?;
            }
            Value::Map(pairs) => {
                let mut entries = to.begin_map()?;
                for (key, value) in pairs {
                    entries.entry(to, |to| key.as_map_key(to), |to| part(value, to))?;
                }
                to.end_map(entries)?;
            }
        }
        Ok(())
    }

    /// Writes a key of a map: it is a text in JSON.
    fn as_map_key(&self, to: &mut Writer<'_>) -> Result<(), DecodeError> {
        match self {
            Value::Int(number) => to.text(&number.to_string()),
            Value::UInt(number) => to.text(&number.to_string()),
            Value::Bool(is) => to.text(if *is { "true" } else { "false" }),
            other => other.as_key(to)?,
        }
        Ok(())
    }

    /// Returns whether both are the same value, whatever they were read from.
    pub(crate) fn is_same(&self, other: &Value) -> bool {
        let bytes = |value: &Value| {
            let mut out = Vec::new();
            value.as_key(&mut Writer::new(&mut out)).map(|()| out)
        };
        self == other || bytes(self).is_ok_and(|one| bytes(other).is_ok_and(|other| one == other))
    }

    /// Compares two numbers by value, nothing rounded; `None` if it is no number, or one of them is NaN.
    pub(crate) fn compare_to(&self, than: f64) -> Option<Ordering> {
        match self {
            Value::Float(is) => is.partial_cmp(&than),
            Value::Int(is) if *is < 0 => Some(compare(is.unsigned_abs(), -than)?.reverse()),
            Value::Int(is) => compare(is.unsigned_abs(), than),
            Value::UInt(is) => compare(*is, than),
            _ => None,
        }
    }

    /// Returns the integer that it is; a float without a fraction is one.
    pub(crate) fn whole(&self) -> Option<i128> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Float(number) => {
                let whole = *number as i128;
                (Value::Int(whole).compare_to(*number) == Some(Ordering::Equal)).then_some(whole)
            }
            _ => None,
        }
    }

    /// Returns the name of the variant that it is, or may be: JSON has one as an object of its name alone.
    pub(crate) fn tag(&self) -> Option<&str> {
        match self {
            Value::Text(name) => Some(name),
            Value::Variant(name, _) => Some(name),
            Value::Record(fields) if fields.len() == 1 => Some(&fields[0].0),
            Value::Map(entries) if entries.len() == 1 => entries[0].0.as_str(),
            _ => None,
        }
    }
}

fn named(name: &str) -> impl FnOnce(&mut Writer<'_>) -> Result<(), DecodeError> {
    move |to| {
        to.text(name);
        Ok(())
    }
}

fn compare(is: u128, than: f64) -> Option<Ordering> {
    let floor = than.floor();
    if than.is_nan() || floor < 0.0 {
        return (!than.is_nan()).then_some(Ordering::Greater);
    }
    // A cast goes to the nearest that fits, and 2^128 does not fit.
    if floor >= 2_f64.powi(128) {
        return Some(Ordering::Less);
    }
    let fraction = if than > floor { Ordering::Less } else { Ordering::Equal };
    Some(is.cmp(&(floor as u128)).then(fraction))
}

impl Value {
    /// Reads a payload in json. An error if the feature `json` is off.
    pub(crate) fn of_json(payload: &[u8]) -> Result<Self, DecodeError> {
        #[cfg(feature = "json")]
        return Self::from_json(payload);
        #[cfg(not(feature = "json"))]
        Err(DecodeError::new(format!("{} bytes of json; the feature `json` is off", payload.len())))
    }
}

#[cfg(all(test, feature = "json"))]
mod tests;
