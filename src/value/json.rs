//! Values as json, and back.

use super::Value;
use crate::codec::{self, DEPTH_MAX};
use crate::misfit::DecodeError;
use serde::de::IgnoredAny;
use serde_json::{Map, Number, Value as Json};
use std::sync::Arc;

impl Value {
    /// Converts to json: structs are objects, a variant is its name or an object with its name, byte strings are hex.
    /// Maps with keys other than texts and integers are lists of pairs. A number that json's numbers cannot say (beyond
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
            Value::Record(fields) => {
                Json::Object(fields.iter().map(|(name, value)| (name.to_string(), value.to_json())).collect())
            }
            Value::Variant(name, content) if content.is_null() => Json::String(name.to_string()),
            Value::Variant(name, content) => {
                Json::Object(Map::from_iter([(name.to_string(), content.to_json())]))
            }
        }
    }

    /// Reads a json payload: objects are structs, as far as json tells. Integers are exact up to 128 bits.
    ///
    /// # Errors
    ///
    /// - The bytes are not json, or nest deeper than a value may.
    /// - A number does not fit a value: an integer beyond 128 bits, a float beyond `f64`.
    /// - An object has a name twice: readers differ in which of the two they take.
    pub fn from_json(payload: &[u8]) -> Result<Self, DecodeError> {
        // Well formed, or the error names the place. Serde's own reading rounds numbers of more than 64 bits.
        serde_json::from_slice::<IgnoredAny>(payload).map_err(|e| codec::json_misfit(&e))?;
        let text =
            std::str::from_utf8(payload).map_err(|e| DecodeError::new("not utf-8").at(e.valid_up_to()))?;
        let mut scan = JsonScanner { text, at: 0, depth: 0 };
        scan.value().map_err(|e| e.at(scan.at))
    }
}

/// Reads values from a text that is known to be json.
struct JsonScanner<'t> {
    text: &'t str,
    at: usize,
    depth: u32,
}

impl<'t> JsonScanner<'t> {
    /// Skips white space, and returns the next byte; 0 at the end.
    fn peek(&mut self) -> u8 {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    /// Takes a token that ends before the first byte that is not of it.
    fn token(&mut self, is_part: impl Fn(u8) -> bool) -> &'t str {
        let rest = &self.text[self.at..];
        let token = &rest[..rest.bytes().take_while(|byte| is_part(*byte)).count()];
        self.at += token.len();
        token
    }

    fn value(&mut self) -> Result<Value, DecodeError> {
        match self.peek() {
            b'{' => self.within(Self::object),
            b'[' => self.within(Self::list),
            b'"' => self.string().map(Value::Text),
            b't' | b'f' | b'n' => Ok(match self.token(|byte| byte.is_ascii_lowercase()) {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            }),
            _ => self.number(),
        }
    }

    fn within(&mut self, read: fn(&mut Self) -> Result<Value, DecodeError>) -> Result<Value, DecodeError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(DecodeError::new(format!("the json nests deeper than {DEPTH_MAX} levels")));
        }
        self.at += 1;
        let value = read(self)?;
        self.at += 1;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, DecodeError> {
        let mut fields: Vec<(Arc<str>, Value)> = Vec::new();
        while self.another(b'}') {
            let name = self.string()?;
            self.peek();
            self.at += 1;
            fields.push((Arc::from(name), self.value()?));
        }
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        match names.windows(2).any(|pair| pair[0] == pair[1]) {
            true => Err(DecodeError::new("an object has a name twice")),
            false => Ok(Value::Record(fields)),
        }
    }

    fn list(&mut self) -> Result<Value, DecodeError> {
        let mut list = Vec::new();
        while self.another(b']') {
            list.push(self.value()?);
        }
        Ok(Value::List(list))
    }

    /// Skips a comma, and returns whether another element comes before the end.
    fn another(&mut self, end: u8) -> bool {
        if self.peek() == b',' {
            self.at += 1;
            self.peek();
        }
        self.peek() != end
    }

    fn string(&mut self) -> Result<String, DecodeError> {
        let rest = &self.text.as_bytes()[self.at..];
        let mut end = 1;
        while rest.get(end).is_some_and(|byte| *byte != b'"') {
            end += if rest[end] == b'\\' { 2 } else { 1 };
        }
        let quoted = rest.get(..=end).ok_or_else(|| DecodeError::new("a text does not end"))?;
        self.at += quoted.len();
        serde_json::from_slice(quoted).map_err(|e| codec::json_misfit(&e))
    }

    fn number(&mut self) -> Result<Value, DecodeError> {
        let token =
            self.token(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
        if token.contains(['.', 'e', 'E']) {
            let float: Option<f64> = token.parse().ok().filter(|float: &f64| float.is_finite());
            return float
                .map(Value::Float)
                .ok_or_else(|| DecodeError::new("a number beyond 64 bits of float"));
        }
        let integer = token.parse::<i128>().map(Value::Int);
        integer
            .or_else(|_| token.parse::<u128>().map(Value::UInt))
            .map_err(|_| DecodeError::new("an integer beyond 128 bits"))
    }
}

fn integer(value: i128) -> Json {
    let number = i64::try_from(value).map(Number::from).or_else(|_| u64::try_from(value).map(Number::from));
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
                .or_else(|| number.as_u128().map(Value::from))
                .or_else(|| number.as_f64().map(Value::Float))
                .unwrap_or_else(|| Value::Text(number.to_string())),
            Json::String(text) => Value::Text(text),
            Json::Array(list) => Value::List(list.into_iter().map(Value::from).collect()),
            Json::Object(fields) => Value::Record(
                fields.into_iter().map(|(name, value)| (Arc::from(name), Value::from(value))).collect(),
            ),
        }
    }
}
