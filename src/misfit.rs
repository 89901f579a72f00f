//! Errors of values: bytes that do not fit a type, and types that a store cannot carry.
//!
//! - No message holds any part of a payload: names of types and fields, places and counts only.
//! - Every message names the place: the field, and the byte if there are bytes.

use serde::de::{Expected, Unexpected};
use std::any::Any;
use std::borrow::Cow;
use std::fmt;

/// A value and its bytes do not fit: on reading, on writing, or as a key.
///
/// Its message names type, field and byte, and never shows content of the payload.
#[derive(Clone, PartialEq, Eq)]
pub struct DecodeError(Box<DecodeErrorInner>);

#[derive(Clone, PartialEq, Eq, Default)]
struct DecodeErrorInner {
    what: String,
    /// Innermost first, as it is filled on the way out.
    path: Vec<Cow<'static, str>>,
    at: Option<usize>,
    subject: Option<String>,
    said: Option<String>,
}

impl DecodeError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(Box::new(DecodeErrorInner { what: what.into(), ..DecodeErrorInner::default() }))
    }

    /// Returns the message of the value's own type when it refused. It may quote the payload, so no other message holds it.
    pub fn said(&self) -> Option<&str> {
        self.0.said.as_deref()
    }

    /// Sets the byte, if none is set: the first place is the innermost.
    pub(crate) fn at(mut self, byte: usize) -> Self {
        self.0.at.get_or_insert(byte);
        self
    }

    pub(crate) fn in_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.0.path.push(name.into());
        self
    }

    pub(crate) fn of(mut self, type_name: impl Into<String>) -> Self {
        self.0.subject.get_or_insert_with(|| type_name.into());
        self
    }

    pub(crate) fn quoting(mut self, said: impl fmt::Display) -> Self {
        self.0.said = Some(said.to_string());
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DecodeErrorInner { what, path, at, subject, .. } = &*self.0;
        if let Some(subject) = subject {
            write!(f, "{subject}: ")?;
        }
        if !path.is_empty() {
            let path: Vec<&str> = path.iter().rev().map(AsRef::as_ref).collect();
            write!(f, "field `{}`", path.join("."))?;
            f.write_str(if at.is_some() { " " } else { ": " })?;
        }
        if let Some(at) = at {
            write!(f, "at byte {at}: ")?;
        }
        f.write_str(what)
    }
}

impl fmt::Debug for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DecodeError({self})")
    }
}

impl std::error::Error for DecodeError {}

impl serde::ser::Error for DecodeError {
    fn custom<T: fmt::Display>(said: T) -> Self {
        Self::new("the type refuses to be written").quoting(said)
    }
}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(said: T) -> Self {
        Self::new("the type refuses its value").quoting(said)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("found {}, expected {expected}", kind(&found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("found {} that does not fit, expected {expected}", kind(&found)))
    }

    fn invalid_length(len: usize, expected: &dyn Expected) -> Self {
        Self::new(format!("found length {len}, expected {expected}"))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown variant, known are {}", expected.join(", ")))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown field, known are {}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("field `{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("field `{field}` is there twice"))
    }
}

/// Returns the kind of a found value, without its content.
fn kind(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a bool",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "an integer",
        Unexpected::Float(_) => "a float",
        Unexpected::Char(_) => "a char",
        Unexpected::Str(_) => "a text",
        Unexpected::Bytes(_) => "bytes",
        Unexpected::Unit => "nothing",
        Unexpected::Option => "an option",
        Unexpected::Seq => "a sequence",
        Unexpected::Map => "a map",
        Unexpected::Enum
        | Unexpected::UnitVariant
        | Unexpected::NewtypeVariant
        | Unexpected::TupleVariant
        | Unexpected::StructVariant => "a variant",
        _ => "another kind of value",
    }
}

/// Returns the message of a panic. It may quote a payload.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// A type that a store cannot carry, or whose layout cannot be read from its serde derive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutError {
    type_name: String,
    path: Vec<String>,
    what: String,
}

impl LayoutError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { type_name: String::new(), path: Vec::new(), what: what.into() }
    }

    pub(crate) fn of(mut self, type_name: impl Into<String>) -> Self {
        if self.type_name.is_empty() {
            self.type_name = type_name.into();
        }
        self
    }

    pub(crate) fn along(mut self, path: Vec<String>) -> Self {
        self.path = path;
        self
    }
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.type_name.is_empty() {
            write!(f, "{}: ", self.type_name)?;
        }
        if !self.path.is_empty() {
            write!(f, "field `{}`: ", self.path.join("."))?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for LayoutError {}
