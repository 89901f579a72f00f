//! Conversions between events of the API and events of records.

use super::record::{EventRef, LayoutDecl, LayoutRef, StoredEvent};
use crate::event::{Codec, Raw, RawRef, TagsRef};
use crate::misfit::DecodeError;

impl StoredEvent {
    /// Makes the stored form of an event, at this version of its stream.
    pub fn new(raw: Raw, stream_version: u64) -> Self {
        Self {
            type_name: raw.type_name,
            schema: raw.schema,
            codec: raw.codec.id(),
            stream: raw.stream,
            stream_version,
            tags: raw.tags.into_texts(),
            data: raw.data,
        }
    }

    pub fn borrowed(&self) -> Result<RawRef<'_>, DecodeError> {
        Ok(RawRef {
            type_name: &self.type_name,
            schema: self.schema,
            codec: codec(self.codec)?,
            stream: &self.stream,
            tags: TagsRef::from_texts(&self.tags),
            data: &self.data,
        })
    }
}

impl<'a> EventRef<'a> {
    pub fn raw(self) -> Result<RawRef<'a>, DecodeError> {
        Ok(RawRef {
            type_name: self.type_name,
            schema: self.schema,
            codec: codec(self.codec)?,
            stream: self.stream,
            tags: TagsRef::from_bytes(self.tags.bytes()),
            data: self.data,
        })
    }
}

fn codec(id: u8) -> Result<Codec, DecodeError> {
    Codec::from_id(id)
        .ok_or_else(|| DecodeError::new(format!("written with codec {id}, which this version does not know")))
}

impl From<LayoutRef<'_>> for LayoutDecl {
    fn from(decl: LayoutRef<'_>) -> Self {
        Self { type_name: decl.type_name.to_owned(), schema: decl.schema, layout: decl.layout.to_owned() }
    }
}
