//! Values without their Rust type: what a layout or json reads, by field name.
//!
//! - Numbers keep their value: every integer that serde has fits, floats are `f64`.
//! - A field that is not there is `None`; it is never a panic.

use crate::misfit::DecodeError;
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
    /// A variant and what it holds.
    Variant(Arc<str>, Box<Value>),
}

impl Value {
    /// A field of a struct, an entry of a map with text keys, what the variant of this name holds. A variant that
    /// holds a struct gives its fields as well, so a check need not care how an enum is written.
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

    /// An element of a list.
    pub fn item(&self, index: usize) -> Option<&Value> {
        match self {
            Value::List(list) => list.get(index),
            _ => None,
        }
    }

    /// What stands at the end of a dotted path: `by.lines.0.cents`. An empty path is the value itself.
    pub fn path(&self, path: &str) -> Option<&Value> {
        if path.is_empty() {
            return Some(self);
        }
        path.split('.').try_fold(self, |value, step| match value {
            Value::List(_) => step.parse().ok().and_then(|index| value.item(index)),
            other => other.get(step),
        })
    }

    /// Whether it is nothing.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The bool that it is.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer that it is, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_i128().and_then(|value| value.try_into().ok())
    }

    /// The integer that it is, if it fits.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i128().and_then(|value| value.try_into().ok())
    }

    /// The integer that it is, if it fits.
    pub fn as_i128(&self) -> Option<i128> {
        match self {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The float that it is. An integer is none: it might not fit.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The text that it is.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(value) => Some(value),
            _ => None,
        }
    }

    /// The byte string that it is.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// The list that it is.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(value) => Some(value),
            _ => None,
        }
    }

    /// The name of the variant that it is.
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

impl Value {
    /// A payload in json, where the feature `json` is on.
    pub(crate) fn of_json(payload: &[u8]) -> Result<Self, DecodeError> {
        #[cfg(feature = "json")]
        return Self::from_json(payload);
        #[cfg(not(feature = "json"))]
        Err(DecodeError::new(format!("{} bytes of json; the feature `json` is off", payload.len())))
    }
}

#[cfg(feature = "json")]
mod json {
    use super::Value;
    use crate::codec;
    use crate::misfit::DecodeError;
    use serde_json::{Map, Number, Value as Json};
    use std::sync::Arc;

    impl Value {
        /// As json: structs are objects, a variant is its name or an object with its name, byte strings are hex.
        /// Maps with keys other than texts and integers are lists of pairs. What json's numbers cannot say (beyond
        /// 64 bits, not a number) is text.
        pub fn to_json(&self) -> Json {
            match self {
                Value::Null => Json::Null,
                Value::Bool(value) => Json::Bool(*value),
                Value::Int(value) => integer(*value),
                Value::UInt(value) => Json::String(value.to_string()),
                Value::Float(value) => {
                    Number::from_f64(*value).map_or_else(|| Json::String(value.to_string()), Json::Number)
                }
                Value::Text(value) => Json::String(value.clone()),
                Value::Bytes(bytes) => Json::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
                Value::List(list) => Json::Array(list.iter().map(Value::to_json).collect()),
                Value::Map(entries) => map(entries),
                Value::Record(fields) => Json::Object(
                    fields.iter().map(|(name, value)| (name.to_string(), value.to_json())).collect(),
                ),
                Value::Variant(name, content) if content.is_null() => Json::String(name.to_string()),
                Value::Variant(name, content) => {
                    Json::Object(Map::from_iter([(name.to_string(), content.to_json())]))
                }
            }
        }

        /// What a json payload holds: objects are structs, as far as json tells.
        ///
        /// # Errors
        ///
        /// - The bytes are not json.
        pub fn from_json(payload: &[u8]) -> Result<Self, DecodeError> {
            serde_json::from_slice::<Json>(payload).map(Value::from).map_err(|e| codec::json_misfit(&e))
        }
    }

    fn integer(value: i128) -> Json {
        let number =
            i64::try_from(value).map(Number::from).or_else(|_| u64::try_from(value).map(Number::from));
        number.map_or_else(|_| Json::String(value.to_string()), Json::Number)
    }

    fn map(entries: &[(Value, Value)]) -> Json {
        let name = |key: &Value| match key {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        };
        let object = entries.iter().map(|(key, value)| Some((name(key)?, value.to_json()))).collect();
        let pairs =
            || entries.iter().map(|(key, value)| Json::Array(vec![key.to_json(), value.to_json()])).collect();
        Option::<Map<_, _>>::map_or_else(object, || Json::Array(pairs()), Json::Object)
    }

    impl From<Json> for Value {
        fn from(json: Json) -> Self {
            match json {
                Json::Null => Value::Null,
                Json::Bool(value) => Value::Bool(value),
                Json::Number(number) => number
                    .as_i128()
                    .map(Value::Int)
                    .or_else(|| number.as_f64().map(Value::Float))
                    .unwrap_or(Value::Null),
                Json::String(text) => Value::Text(text),
                Json::Array(list) => Value::List(list.into_iter().map(Value::from).collect()),
                Json::Object(fields) => Value::Record(
                    fields.into_iter().map(|(name, value)| (Arc::from(name), Value::from(value))).collect(),
                ),
            }
        }
    }
}
