//! Fingerprints: what tells two requests with one key apart.
//!
//! - A part is the digest of a value under its names (see [`canonical`]), made where the value is at hand. Events count by
//!   their values, decoded; what cannot be decoded counts by its bytes.
//! - Records from before names counted hold digests of encoded bytes. Those are still recognised: each part can tell both.

use crate::canonical;
use crate::codec;
use crate::event::{Codec, Family, Raw};
use crate::misfit::DecodeError;
use crate::value::Value;
use serde::Serialize;

/// 128 bits of BLAKE3 over one part of a fingerprint.
pub(crate) type Digest = [u8; 16];

/// The part of a fingerprint that stands for the events, or for what `input` named instead.
pub(crate) const INPUT: &str = "input";

/// A part of a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Print {
    /// Of the value under its names.
    pub by_names: Digest,
    pub by_bytes: ByBytes,
}

/// The digest of a part as it was made before names counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ByBytes {
    /// Such a value had none.
    #[default]
    Never,
    Is(Digest),
    /// [`events_by_bytes`], made when a record asks for it.
    OfEvents,
}

impl Print {
    pub fn of(value: &(impl Serialize + ?Sized)) -> Result<Self, DecodeError> {
        let mut bytes = Vec::with_capacity(128);
        canonical::encode(value, &mut bytes)?;
        let by_names = cut(blake3::Hasher::new().update(&bytes));
        let encoded = codec::encode(value);
        let by_bytes =
            encoded.map_or(ByBytes::Never, |bytes| ByBytes::Is(cut(blake3::Hasher::new().update(&bytes))));
        Ok(Self { by_names, by_bytes })
    }

    pub fn of_events(events: &[Raw], family_of: impl Fn(&str) -> Option<Family>) -> Self {
        let mut bytes = Vec::with_capacity(256);
        for event in events {
            put_event(event, family_of(event.family()), &mut bytes);
        }
        Self { by_names: cut(blake3::Hasher::new().update(&bytes)), by_bytes: ByBytes::OfEvents }
    }
}

/// All parts of a fingerprint, the input first.
pub(crate) fn fingerprint(input: Print, parts: &[(String, Print)]) -> Vec<(String, Print)> {
    let mut all = Vec::with_capacity(1 + parts.len());
    all.push((INPUT.to_owned(), input));
    all.extend(parts.iter().cloned());
    all
}

/// Encoding of a payload in a fingerprint. One follows the other, and each says where it ends.
const BY_NAMES: u8 = 1;
const BY_BYTES: u8 = 2;

fn put_event(event: &Raw, family: Option<Family>, out: &mut Vec<u8>) {
    let mut writer = canonical::Writer::new(out);
    writer.text(event.type_name());
    writer.text(event.stream());
    event.tags().iter().for_each(|tag| writer.text(tag));
    writer.null();
    let start = out.len();
    out.push(BY_NAMES);
    let written = match (event.codec(), family) {
        // Not through its type: that passes over fields it does not know.
        (Codec::Json, _) => {
            Value::of_json(event.data()).and_then(|value| value.as_json(&mut canonical::Writer::new(out)))
        }
        (Codec::Bincode, Some(family)) => family.canonical(&event.borrowed(), out),
        (Codec::Bincode, None) => Err(DecodeError::new("nobody knows its type")),
    };
    if written.is_err() {
        out.truncate(start);
        out.push(BY_BYTES);
        let mut writer = canonical::Writer::new(out);
        writer.unsigned(event.codec().id().into());
        writer.bytes(event.data());
    }
}

/// The digest of events as it was made before names counted.
pub(crate) fn events_by_bytes(events: &[Raw]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for event in events {
        let tags = event.tags();
        for part in [event.type_name().as_bytes(), event.stream().as_bytes(), event.data()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hasher.update(&(tags.len() as u64).to_le_bytes());
        for tag in tags.iter() {
            hasher.update(&(tag.len() as u64).to_le_bytes()).update(tag.as_bytes());
        }
    }
    cut(&hasher)
}

fn cut(hasher: &blake3::Hasher) -> Digest {
    let mut digest = Digest::default();
    hasher.finalize_xof().fill(&mut digest);
    digest
}
