//! A row of named cells, as a serde struct.

use crate::error::DecodeError;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Value in one column of a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    /// Text that may as well be a number, or nothing.
    #[cfg(feature = "csv")]
    Plain(&'a str),
    #[cfg(feature = "sqlite")]
    Null,
    #[cfg(feature = "sqlite")]
    Int(i64),
    #[cfg(feature = "sqlite")]
    Real(f64),
    #[cfg(feature = "sqlite")]
    Text(&'a str),
    #[cfg(feature = "sqlite")]
    Blob(&'a [u8]),
}

impl<'a> Cell<'a> {
    fn is_nothing(self) -> bool {
        match self {
            #[cfg(feature = "csv")]
            Self::Plain(text) => text.is_empty(),
            #[cfg(feature = "sqlite")]
            Self::Null => true,
            #[cfg(feature = "sqlite")]
            _ => false,
        }
    }

    fn text(self) -> Option<&'a str> {
        match self {
            #[cfg(feature = "csv")]
            Self::Plain(text) => Some(text),
            #[cfg(feature = "sqlite")]
            Self::Text(text) => Some(text),
            #[cfg(feature = "sqlite")]
            _ => None,
        }
    }
}

/// Methods that parse plain text as the type that a field asks for.
macro_rules! plain {
    ($($method:ident $visit:ident $t:ty, $what:literal;)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            match self {
                #[cfg(feature = "csv")]
                Self::Plain(text) => match text.parse::<$t>() {
                    Ok(value) => visitor.$visit(value),
                    Err(_) => Err(DecodeError::new(concat!("found text, expected ", $what))),
                },
                #[cfg(feature = "sqlite")]
                other => other.deserialize_any(visitor),
            }
        }
    )* };
}

impl<'de> Deserializer<'de> for Cell<'de> {
    type Error = DecodeError;

    plain! {
        deserialize_i8 visit_i8 i8, "a whole number from -128 to 127";
        deserialize_i16 visit_i16 i16, "a whole number of 16 bits";
        deserialize_i32 visit_i32 i32, "a whole number of 32 bits";
        deserialize_i64 visit_i64 i64, "a whole number of 64 bits";
        deserialize_i128 visit_i128 i128, "a whole number";
        deserialize_u8 visit_u8 u8, "a whole number from 0 to 255";
        deserialize_u16 visit_u16 u16, "a whole number of 16 bits, not below 0";
        deserialize_u32 visit_u32 u32, "a whole number of 32 bits, not below 0";
        deserialize_u64 visit_u64 u64, "a whole number of 64 bits, not below 0";
        deserialize_u128 visit_u128 u128, "a whole number, not below 0";
        deserialize_f32 visit_f32 f32, "a number";
        deserialize_f64 visit_f64 f64, "a number";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self {
            #[cfg(feature = "csv")]
            Self::Plain(text) => visitor.visit_borrowed_str(text),
            #[cfg(feature = "sqlite")]
            Self::Null => visitor.visit_unit(),
            #[cfg(feature = "sqlite")]
            Self::Int(value) => visitor.visit_i64(value),
            #[cfg(feature = "sqlite")]
            Self::Real(value) => visitor.visit_f64(value),
            #[cfg(feature = "sqlite")]
            Self::Text(text) => visitor.visit_borrowed_str(text),
            #[cfg(feature = "sqlite")]
            Self::Blob(bytes) => visitor.visit_borrowed_bytes(bytes),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self {
            #[cfg(feature = "csv")]
            Self::Plain("true" | "1") => visitor.visit_bool(true),
            #[cfg(feature = "csv")]
            Self::Plain("false" | "0") => visitor.visit_bool(false),
            // It has no truth of its own.
            #[cfg(feature = "sqlite")]
            Self::Int(value @ (0 | 1)) => visitor.visit_bool(value == 1),
            _ => Err(DecodeError::new("expected true or false, or 1 or 0")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.is_nothing() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let name = self.text().ok_or_else(|| DecodeError::new("expected the name of a variant"))?;
        let name: StrDeserializer<'_, DecodeError> = name.into_deserializer();
        visitor.visit_enum(name)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
    }
}

/// The cells of a row, by column.
pub(super) struct Row<'a> {
    cells: &'a [(&'a str, Cell<'a>)],
    next: usize,
}

impl<'a> Row<'a> {
    pub fn new(cells: &'a [(&'a str, Cell<'a>)]) -> Self {
        Self { cells, next: 0 }
    }
}

impl<'de> Deserializer<'de> for Row<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_map(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Row<'de> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        let Some((name, _)) = self.cells.get(self.next) else { return Ok(None) };
        let name: StrDeserializer<'_, DecodeError> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        let (name, cell) = self.cells[self.next];
        self.next += 1;
        seed.deserialize(cell).map_err(|error| error.in_field(name.to_owned()))
    }
}
