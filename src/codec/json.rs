//! Payloads in json.

#[cfg(feature = "json")]
use super::Named;
use crate::misfit::DecodeError;
#[cfg(feature = "json")]
use serde::de::{self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, Visitor};

#[cfg(feature = "json")]
pub(super) fn event_from_json<T: DeserializeOwned>(variant: &str, payload: &[u8]) -> Result<T, DecodeError> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let event = T::deserialize(Named { variant, content: Json(&mut json) }).map_err(|e| json_misfit(&e))?;
    json.end().map_err(|e| json_misfit(&e))?;
    Ok(event)
}

#[cfg(feature = "json")]
pub(super) fn from_json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(payload).map_err(|e| json_misfit(&e))
}

/// Returns an error: without the feature such events stay raw.
#[cfg(not(feature = "json"))]
pub(super) fn event_from_json<T>(_: &str, payload: &[u8]) -> Result<T, DecodeError> {
    from_json(payload)
}

#[cfg(not(feature = "json"))]
pub(super) fn from_json<T>(_: &[u8]) -> Result<T, DecodeError> {
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
