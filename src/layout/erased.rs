//! A Rust type behind pointers: code that looks at types is compiled once, not again for each of them.

use super::trace::{Ask, Stop};
use crate::codec::{self, Codec};
use crate::misfit::{DecodeError, LayoutError};
use crate::reflect::{self, Names};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::type_name;

/// A type whose values a trace makes.
#[derive(Clone, Copy)]
pub(super) struct ErasedType<'v> {
    pub name: &'static str,
    pub read: fn(Ask<'_>) -> Result<Sample<'v>, Stop>,
}

/// A value of a type that is traced.
pub(super) type Sample<'v> = Box<dyn ErasedValue + 'v>;

impl<'v> ErasedType<'v> {
    /// Erases the type of a plain value: a row, an answer, a key.
    pub fn plain<T: Serialize + DeserializeOwned + 'v>() -> Self {
        Self { name: type_name::<T>(), read: |ask| Ok(Box::new(ErasedPlain(T::deserialize(ask)?))) }
    }

    fn event<E: Serialize + DeserializeOwned + 'v>() -> Self {
        Self { name: type_name::<E>(), read: |ask| Ok(Box::new(Whole(E::deserialize(ask)?))) }
    }
}

/// An enum that stands for a family of events, or the struct that does.
#[derive(Clone, Copy)]
pub(crate) struct ErasedEvent {
    pub(super) erased: ErasedType<'static>,
    pub names: fn() -> Result<Names, LayoutError>,
    pub same_variant: fn(&str) -> Result<Vec<&'static str>, LayoutError>,
}

impl ErasedEvent {
    pub fn of<E: Serialize + DeserializeOwned + 'static>() -> Self {
        Self {
            erased: ErasedType::event::<E>(),
            names: reflect::names::<E>,
            same_variant: reflect::same_variant::<E>,
        }
    }
}

/// Bytes of a value. Those of an event do not hold its variant.
pub(super) struct Written {
    pub variant: &'static str,
    pub bytes: Vec<u8>,
}

pub(super) trait ErasedValue {
    fn write(&self) -> Result<Written, DecodeError>;
    /// Reads a value from these bytes, and writes it again.
    fn rewrite(&self, written: &Written) -> Result<Written, DecodeError>;
    /// Reports each enum in it, and the name by which the variant is written.
    fn variants(&self, see: &mut dyn FnMut(&'static str, &'static str));
}

struct ErasedPlain<T>(T);

impl<T: Serialize + DeserializeOwned> ErasedValue for ErasedPlain<T> {
    fn write(&self) -> Result<Written, DecodeError> {
        Ok(Written { variant: "", bytes: codec::encode(&self.0)? })
    }

    fn rewrite(&self, written: &Written) -> Result<Written, DecodeError> {
        ErasedPlain(codec::decode::<T>(&written.bytes)?).write()
    }

    fn variants(&self, see: &mut dyn FnMut(&'static str, &'static str)) {
        // A value that cannot be written is found out when its bytes are compared.
        let _ = codec::encode_watched(&self.0, see);
    }
}

struct Whole<E>(E);

impl<E: Serialize + DeserializeOwned> ErasedValue for Whole<E> {
    fn write(&self) -> Result<Written, DecodeError> {
        let mut bytes = Vec::new();
        let variant = codec::encode_event(&self.0, &mut bytes)?;
        Ok(Written { variant, bytes })
    }

    fn rewrite(&self, written: &Written) -> Result<Written, DecodeError> {
        Whole(codec::decode_event::<E>(Codec::Bincode, written.variant, &written.bytes)?).write()
    }

    fn variants(&self, see: &mut dyn FnMut(&'static str, &'static str)) {
        let _ = codec::encode_watched(&self.0, see);
    }
}
