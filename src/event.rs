//! Events, their families, and how they look when they are stored.
//!
//! - The type name of an event is `FAMILY.Variant`, its stream `FAMILY/id`, a tag `kind:id`: readable text.
//! - A family name holds neither `.` nor `/`, so each text splits in one way only.
//! - [`RawRef`] borrows from the log's own bytes: decoding allocates nothing but the event.
//! - No `Debug` here shows a payload.

mod family;
mod tags;

use crate::codec;
use crate::key;
use crate::misfit::DecodeError;
use crate::order::Position;
use crate::reflect;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::ops::Deref;
use std::time::SystemTime;

pub use self::family::{EventType, Family};
pub(crate) use self::tags::tag_text;
pub use self::tags::{Tags, TagsIter, TagsRef};
pub use crate::codec::Codec;
pub use crate::key::{Key, KeyRef};
pub use crate::upcast::Upcasts;

/// A family of events: one serde enum, or one struct. Its type names are `FAMILY.Variant`.
///
/// Names and layouts come from serde's derive: `#[serde(rename)]` pins a name, `#[serde(alias)]` keeps an old one
/// readable, and the order of variants means nothing. `untagged`, `tag`, `flatten` and `skip_serializing_if` are
/// refused: the stored bytes have no field names. A field that is added, dropped, renamed or retyped needs a step in
/// [`upcasts`](Event::upcasts); without one a store that holds the older payload is not opened.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "an event is a serde enum or struct with `impl Event`",
    note = "derive `Serialize` and `Deserialize`, then `impl Event for {Self}` with `FAMILY`, `Id` and `id()`"
)]
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The first half of each type name and stream; neither `.` nor `/` in it.
    const FAMILY: &'static str;

    /// Identifier of a stream of the family; `()` if there is but one stream.
    type Id: Key;

    /// The stream this event belongs to is `FAMILY/id`.
    fn id(&self) -> Self::Id;

    /// Returns its tags, which name what else it is about: facts that other families share.
    fn tags(&self) -> Tags {
        Tags::none()
    }

    /// Events that hold values which the family's types take, where they take only some: an IBAN, a year from 1900.
    ///
    /// A type's layout is found by having it read samples: small numbers, dates, addresses and the like. One that refuses all of
    /// them refuses the open, by the name of the field; every number, text and byte string in the events given here is offered
    /// as well, to older payloads too. For rows there is [`Projection::samples`](crate::projection::Projection::samples).
    ///
    /// # Examples
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tallystone::prelude::*;
    ///
    /// #[derive(Serialize, Deserialize)]
    /// #[serde(try_from = "u16")]
    /// struct Year(u16);
    /// impl TryFrom<u16> for Year {
    ///     type Error = &'static str;
    ///     fn try_from(year: u16) -> Result<Self, &'static str> {
    ///         if year >= 1900 { Ok(Self(year)) } else { Err("a year from 1900") }
    ///     }
    /// }
    ///
    /// macro_rules! built {
    ///     ($house:ident, $samples:expr) => {
    ///         #[derive(Serialize, Deserialize)]
    ///         enum $house { Built { year: Year } }
    ///         impl Event for $house {
    ///             const FAMILY: &str = "house";
    ///             type Id = ();
    ///             fn id(&self) {}
    ///             fn samples() -> Vec<Self> { $samples }
    ///         }
    ///     };
    /// }
    /// built!(House, vec![Self::Built { year: Year(1954) }]);
    /// built!(Unsampled, Vec::new());
    ///
    /// let store = Store::in_memory(Setup::new().events::<House>())?;
    /// store.append(Append::event(House::Built { year: Year(2001) }))?;
    ///
    /// // Example: without a sample there is no year that the type takes, and the open is refused.
    /// let refused = Store::in_memory(Setup::new().events::<Unsampled>());
    /// assert!(matches!(refused, Err(OpenError::Setup(why)) if why[0].contains("field `year`")));
    /// # Ok::<(), Error>(())
    /// ```
    fn samples() -> Vec<Self> {
        Vec::new()
    }

    /// Returns the steps by which payloads of older types are read as what the type is today. No step: nothing has changed.
    fn upcasts() -> Upcasts<Self> {
        Upcasts::none()
    }
}

/// Stands for the schema version that this code writes, until the event is stored.
pub(crate) const TODAY: u16 = 0;

/// Events that a fold, a query or a check may read: one family, several ([`any_of!`](crate::any_of)), or [`Raw`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event, nor a set of events",
    label = "here is one type with `impl Event`, an enum made by `any_of!`, or `Raw`",
    note = "one family: `impl Event for {Self}`; several: `tallystone::any_of! {{ enum Name {{ First(First), Second(Second) }} }}`"
)]
pub trait EventSet: Sized + Send + Sync + 'static {
    /// The families in it; none stands for any event, unread.
    fn families() -> Vec<Family>;

    /// The event in a stored one.
    ///
    /// # Errors
    ///
    /// - The event is of no family in the set, or of a variant or version this code does not know.
    /// - The payload does not fit the type.
    fn decode(raw: &RawRef<'_>) -> Result<Self, DecodeError>;

    /// As it is to be stored.
    ///
    /// # Errors
    ///
    /// - The payload uses what stored bytes cannot carry; the message names the field and the attribute.
    fn encode(&self) -> Result<Raw, DecodeError>;
}

#[diagnostic::do_not_recommend]
impl<E: Event> EventSet for E {
    fn families() -> Vec<Family> {
        vec![Family::of::<E>()]
    }

    fn decode(raw: &RawRef<'_>) -> Result<Self, DecodeError> {
        decode_as(raw).map_err(|e| e.of(raw.type_name))
    }

    fn encode(&self) -> Result<Raw, DecodeError> {
        encode_as(self).map_err(|e| e.of(E::FAMILY))
    }
}

#[inline]
fn decode_as<E: Event>(raw: &RawRef<'_>) -> Result<E, DecodeError> {
    // A family's name has no dot, so this is the first.
    let variant = raw.type_name.strip_prefix(E::FAMILY).and_then(|rest| rest.strip_prefix('.'));
    let Some(variant) = variant else {
        return Err(DecodeError::new(format!("not an event of family {}", E::FAMILY)));
    };
    match raw.schema == TODAY {
        true => codec::decode_event(raw.codec, variant, raw.data),
        false => E::upcasts().read(variant, raw.schema, raw.codec, raw.data),
    }
}

fn encode_as<E: Event>(event: &E) -> Result<Raw, DecodeError> {
    let mut data = Vec::with_capacity(128);
    let variant = codec::encode_event(event, &mut data)?;
    let names = reflect::names::<E>().map_err(|e| DecodeError::new(e.to_string()))?;
    if !names.contains(variant) {
        // `skip_deserializing`, or a name for writing alone.
        return Err(DecodeError::new(format!("variant {variant} can be written and not read")));
    }
    Ok(Raw {
        type_name: full_name(E::FAMILY, variant),
        schema: E::upcasts().version(variant),
        codec: Codec::Bincode,
        stream: stream_of::<E, _>(&event.id())?,
        tags: event.tags(),
        data,
        written_by: Some(Family::of::<E>),
    })
}

/// `FAMILY.Variant`.
fn full_name(family: &str, variant: &str) -> String {
    let mut name = String::with_capacity(family.len() + 1 + variant.len());
    name.push_str(family);
    name.push('.');
    name.push_str(variant);
    name
}

/// The stream of this id in its family: `FAMILY/id`.
pub(crate) fn stream_of<E: Event, Q: KeyRef<E::Id> + ?Sized>(id: &Q) -> Result<String, DecodeError> {
    let mut stream = String::with_capacity(E::FAMILY.len() + 24);
    stream.push_str(E::FAMILY);
    stream.push('/');
    key::text_into(id, &mut stream)?;
    Ok(stream)
}

/// Any event, unread.
impl EventSet for Raw {
    fn families() -> Vec<Family> {
        Vec::new()
    }

    fn decode(raw: &RawRef<'_>) -> Result<Self, DecodeError> {
        Ok(raw.to_raw())
    }

    fn encode(&self) -> Result<Raw, DecodeError> {
        Ok(self.clone())
    }
}

/// An enum over several families, for folds and queries that read more than one.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tallystone::prelude::*;
///
/// #[derive(Serialize, Deserialize)]
/// struct Sold { product: u32 }
/// #[derive(Serialize, Deserialize)]
/// struct Billed { product: u32 }
/// # impl Event for Sold { const FAMILY: &str = "sale"; type Id = u32; fn id(&self) -> u32 { self.product } }
/// # impl Event for Billed { const FAMILY: &str = "bill"; type Id = u32; fn id(&self) -> u32 { self.product } }
/// tallystone::any_of! { enum Sales { Sold(Sold), Billed(Billed) } }
///
/// # fn main() -> Result<(), Error> {
/// let store = Store::in_memory(Setup::new().events::<Sales>())?;
/// store.append(Append::event(Sold { product: 7 }).and(Billed { product: 7 }))?;
/// let bills = store.view()?.query::<Sales>(Query::all()).filter(|e| matches!(e.as_deref(), Ok(Sales::Billed(_))));
/// assert_eq!(bills.count(), 1);
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! any_of {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$on:meta])* $variant:ident($event:ty)),+ $(,)? }) => {
        $(#[$meta])*
        $vis enum $name { $($(#[$on])* $variant($event)),+ }

        impl $crate::event::EventSet for $name {
            fn families() -> ::std::vec::Vec<$crate::event::Family> {
                ::std::vec![$($crate::event::Family::of::<$event>()),+]
            }

            fn decode(
                raw: &$crate::event::RawRef<'_>,
            ) -> ::std::result::Result<Self, $crate::error::DecodeError> {
                $(if raw.family() == <$event as $crate::event::Event>::FAMILY {
                    return <$event as $crate::event::EventSet>::decode(raw).map(Self::$variant);
                })+
                ::std::result::Result::Err(raw.not_in_set())
            }

            fn encode(&self) -> ::std::result::Result<$crate::event::Raw, $crate::error::DecodeError> {
                match self { $(Self::$variant(event) => $crate::event::EventSet::encode(event)),+ }
            }
        }

        $(impl ::std::convert::From<$event> for $name {
            fn from(event: $event) -> Self {
                Self::$variant(event)
            }
        })+
    };
}

// Stored events

/// An event as stored, unread.
#[derive(Clone)]
pub struct Raw {
    pub(crate) type_name: String,
    pub(crate) schema: u16,
    pub(crate) codec: Codec,
    pub(crate) stream: String,
    pub(crate) tags: Tags,
    pub(crate) data: Vec<u8>,
    /// The family of the Rust type that wrote the payload; `None` if the payload was given as bytes.
    written_by: Option<fn() -> Family>,
}

/// The same event, whoever wrote it.
impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        let Self { type_name, schema, codec, stream, tags, data, written_by: _ } = self;
        *type_name == other.type_name
            && *schema == other.schema
            && *codec == other.codec
            && *stream == other.stream
            && *tags == other.tags
            && *data == other.data
    }
}

impl Eq for Raw {}

impl Raw {
    /// For tools and imports: an event without its Rust type. Its texts are looked at when it is appended.
    ///
    /// `schema` is the version that the payload is of, 0 for the one that the store's code writes when it is appended. A
    /// version that this code cannot read is refused then.
    pub fn new(
        type_name: impl Into<String>,
        schema: u16,
        codec: Codec,
        stream: impl Into<String>,
        tags: Tags,
        data: Vec<u8>,
    ) -> Self {
        let (type_name, stream) = (type_name.into(), stream.into());
        Self { type_name, schema, codec, stream, tags, data, written_by: None }
    }

    /// The same with a payload in json: an object for named fields, a list for a tuple, `null` for none.
    ///
    /// It is recorded with the version that the store's code writes at that time, and read with that one ever after: a later
    /// [upcast step](Upcasts) applies to it like to any other. Since its layout is not in the log, an open does not look at
    /// it; one that does not fit its version is found when it is read.
    #[cfg(feature = "json")]
    pub fn json(
        type_name: impl Into<String>,
        stream: impl Into<String>,
        tags: Tags,
        payload: &serde_json::Value,
    ) -> Self {
        Self::new(type_name, TODAY, Codec::Json, stream, tags, payload.to_string().into_bytes())
    }

    /// The same from json text, which is kept as it is.
    ///
    /// # Errors
    ///
    /// - The text is not json.
    #[cfg(feature = "json")]
    pub fn json_text(
        type_name: impl Into<String>,
        stream: impl Into<String>,
        tags: Tags,
        payload: &str,
    ) -> Result<Self, DecodeError> {
        serde_json::from_str::<serde::de::IgnoredAny>(payload).map_err(|e| codec::json_misfit(&e))?;
        Ok(Self::new(type_name, TODAY, Codec::Json, stream, tags, payload.as_bytes().to_vec()))
    }

    /// The same event, borrowed.
    pub fn borrowed(&self) -> RawRef<'_> {
        RawRef {
            type_name: &self.type_name,
            schema: self.schema,
            codec: self.codec,
            stream: &self.stream,
            tags: self.tags.borrowed(),
            data: &self.data,
        }
    }

    /// The family of the Rust type that wrote the payload; `None` if the payload was given as bytes.
    pub(crate) fn written_by(&self) -> Option<Family> {
        self.written_by.map(|family| family())
    }

    /// `FAMILY.Variant`.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Returns the part of the type name before the first dot.
    pub fn family(&self) -> &str {
        self.borrowed().family()
    }

    /// The schema version it was written with; 0 before it is appended, if that is left to the store.
    pub fn schema(&self) -> u16 {
        self.schema
    }

    /// Returns the codec in which the payload is written.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// `FAMILY/id`.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Returns its tags, which name what else it is about.
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// The payload.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrowed().fmt(f)
    }
}

/// A stored event where it lies: what is read most often allocates least.
#[derive(Clone, Copy)]
pub struct RawRef<'a> {
    pub(crate) type_name: &'a str,
    pub(crate) schema: u16,
    pub(crate) codec: Codec,
    pub(crate) stream: &'a str,
    pub(crate) tags: TagsRef<'a>,
    pub(crate) data: &'a [u8],
}

impl<'a> RawRef<'a> {
    /// `FAMILY.Variant`.
    pub fn type_name(&self) -> &'a str {
        self.type_name
    }

    /// Returns the part of the type name before the first dot.
    pub fn family(&self) -> &'a str {
        split_type_name(self.type_name).0
    }

    /// Returns the part of the type name after the first dot.
    pub fn variant(&self) -> &'a str {
        split_type_name(self.type_name).1
    }

    /// The schema version it was written with.
    pub fn schema(&self) -> u16 {
        self.schema
    }

    /// Returns the codec in which the payload is written.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// `FAMILY/id`.
    pub fn stream(&self) -> &'a str {
        self.stream
    }

    /// Returns its tags, which name what else it is about.
    pub fn tags(&self) -> TagsRef<'a> {
        self.tags
    }

    /// The payload.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// For an [`EventSet`] written by hand: this event is of no family in the set.
    pub fn not_in_set(&self) -> DecodeError {
        DecodeError::new("no family of this set has it").of(self.type_name)
    }

    /// A copy that owns its parts.
    pub fn to_raw(&self) -> Raw {
        Raw {
            type_name: self.type_name.to_owned(),
            schema: self.schema,
            codec: self.codec,
            stream: self.stream.to_owned(),
            tags: self.tags.to_tags(),
            data: self.data.to_vec(),
            written_by: None,
        }
    }
}

impl fmt::Debug for RawRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raw")
            .field("type_name", &self.type_name)
            .field("schema", &self.schema)
            .field("codec", &self.codec)
            .field("stream", &self.stream)
            .field("tags", &self.tags)
            .field("data_bytes", &self.data.len())
            .finish()
    }
}

/// Family and variant. A name without a dot is all family: no code has such a type.
#[inline]
pub(crate) fn split_type_name(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

/// An event with its place in the order of the store.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sequenced<E> {
    /// The event itself; the fields beside it are reached through it as well.
    pub event: E,
    /// Its place among all events.
    pub position: Position,
    /// Its place in its stream, from 1.
    pub stream_version: u64,
    /// Time at which its commit was decided.
    pub recorded_at: SystemTime,
}

impl<E> Deref for Sequenced<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.event
    }
}

// Texts that are stored

/// Reason why a name or key cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadText {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} holds a control character")]
    Control { what: &'static str },
    #[error("{what} is {bytes} bytes, limit is {limit_bytes} bytes")]
    TooLong { what: &'static str, bytes: usize, limit_bytes: usize },
    #[error("{what} has not the form `{form}`")]
    Form { what: &'static str, form: &'static str },
}

/// Any stored text: labels, scopes, keys. Not empty, no control character, not too long.
pub(crate) fn check_text(what: &'static str, text: &str, limit_bytes: usize) -> Result<(), BadText> {
    if text.is_empty() {
        return Err(BadText::Empty { what });
    }
    if text.len() > limit_bytes {
        return Err(BadText::TooLong { what, bytes: text.len(), limit_bytes });
    }
    if text.chars().any(char::is_control) { Err(BadText::Control { what }) } else { Ok(()) }
}

/// `FAMILY.Variant`, with something on both sides.
pub(crate) fn check_type_name(name: &str, limit_bytes: usize) -> Result<(), BadText> {
    check_text("type name", name, limit_bytes)?;
    let (family, variant) = split_type_name(name);
    check_form(
        !family.is_empty() && !variant.is_empty() && !family.contains('/'),
        "type name",
        "FAMILY.Variant",
    )
}

/// `FAMILY/id`, with a family; the id of a family that has but one stream is empty.
pub(crate) fn check_stream(stream: &str, limit_bytes: usize) -> Result<(), BadText> {
    check_text("stream", stream, limit_bytes)?;
    let family = stream.split_once('/').map_or("", |(family, _)| family);
    check_form(!family.is_empty() && !family.contains('.'), "stream", "FAMILY/id")
}

/// `kind:id`, with something on both sides.
pub(crate) fn check_tag(tag: &str, limit_bytes: usize) -> Result<(), BadText> {
    check_text("tag", tag, limit_bytes)?;
    let parts = tag.split_once(':');
    check_form(parts.is_some_and(|(kind, id)| !kind.is_empty() && !id.is_empty()), "tag", "kind:id")
}

fn check_family(name: &str) -> Result<(), BadText> {
    check_text("family name", name, 128)?;
    check_form(!name.contains(['.', '/']), "family name", "a word without `.` or `/`")
}

fn check_form(fits: bool, what: &'static str, form: &'static str) -> Result<(), BadText> {
    if fits { Ok(()) } else { Err(BadText::Form { what, form }) }
}
