//! Values to bytes and back: bincode 1.3.3, fixed integers, little-endian. The only module that names bincode.
//!
//! - The bytes are those of `bincode` with these options; of an event, the bytes after the variant index.
//! - Map entries are in the order of their keys, so that a `HashMap` is always the same bytes.
//! - A value that such bytes cannot carry is refused when it is written, never lost: skipped fields, flattened structs,
//!   sequences that do not know their length.
//! - Reading is from slices only. A length is compared with what is left before anything is allocated, trailing
//!   bytes are refused, depth is bounded: hostile bytes give an error.
//! - Written values are readable: both directions have the same limits.

mod json;
mod read;
mod write;

use crate::misfit::DecodeError;
use crate::reflect;
use bincode::Options as _;
use bincode::config::{FixintEncoding, WithOtherIntEncoding};
use json::{event_from_json, from_json};
use read::Named;
use serde::de::DeserializeOwned;
use serde::ser::Serialize;
use write::{Payload, Unwatched, Writer};

#[cfg(feature = "json")]
pub(crate) use self::json::json_misfit;
pub(crate) use self::read::Reader;
pub(crate) use crate::key::DEPTH_MAX;

/// Maximum size of a value, written or read, in bytes.
pub(crate) const VALUE_BYTES_MAX: usize = 16 << 20;

/// Length of the count before a text or sequence, in bytes.
const COUNT_BYTES: usize = 8;

type Format = WithOtherIntEncoding<bincode::DefaultOptions, FixintEncoding>;

fn format() -> Format {
    bincode::DefaultOptions::new().with_fixint_encoding()
}

/// Format of a payload. Its id is stored with every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// bincode 1.3.3, fixed integers, little-endian; of an event, the bytes after the variant index.
    Bincode = 1,
    /// Json: the value of the event's fields.
    Json = 2,
}

impl Codec {
    /// Returns the stored id.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// Returns the codec of a stored id, if there is one.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::Bincode),
            2 => Some(Self::Json),
            _ => None,
        }
    }
}

// Whole values

/// Encodes a plain value: a row, a response, the input of a fingerprint.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::with_capacity(64);
    encode_into(value, &mut out)?;
    Ok(out)
}

/// Appends the bytes of a plain value to `out`. After an error `out` is as it was.
pub(crate) fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    written(out, |out| value.serialize(&mut Writer::new(out, Unwatched)))
}

/// Decodes a plain value from all of these bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    read_whole(bytes, |reader| T::deserialize(reader))
}

/// Appends the payload of an event to `out` and returns its variant: for a struct, its own name.
pub(crate) fn encode_event<T: Serialize>(event: &T, out: &mut Vec<u8>) -> Result<&'static str, DecodeError> {
    written(out, |out| event.serialize(Payload(&mut Writer::new(out, Unwatched))))
}

/// Decodes an event from the name of its variant and its payload.
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

/// Decodes the payload of an event without the event around it.
pub(crate) fn decode_payload<T: DeserializeOwned>(codec: Codec, payload: &[u8]) -> Result<T, DecodeError> {
    match codec {
        Codec::Bincode => decode(payload),
        Codec::Json => from_json(payload),
    }
}

/// Returns an error unless the type has this name itself: a catch-all variant (`serde(other)`) must not swallow unknown names.
#[inline]
fn known<T: DeserializeOwned>(variant: &str) -> Result<(), DecodeError> {
    let names = reflect::names::<T>().map_err(|e| DecodeError::new(e.to_string()))?;
    if names.contains(variant) {
        Ok(())
    } else {
        Err(DecodeError::new(format!("this code knows only {names}")))
    }
}

/// Writes like [`encode`] and reports every enum variant on the way, so that a trace learns today's names.
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

#[cfg(test)]
mod tests;
