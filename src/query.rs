//! Queries for events: items ORed; in an item, types ORed, tags and stream ANDed.
//!
//! - `matches` is the one meaning of a query; every index must answer as it does.
//! - A query is text when it is used: types, tags and a stream. What could not be made text matches nothing and
//!   `Query::check` says so, so a misspelt variant is never an empty answer.

use crate::event::{self, Event, Family, KeyRef, TagsRef};
use crate::misfit::LayoutError;
use crate::order::Position;
use std::fmt::{self, Display};

/// One alternative of a [`Query`].
#[derive(Debug, Clone)]
pub struct QueryItem {
    /// ORed. Empty: any type.
    types: Vec<String>,
    /// ANDed. Empty: any tags.
    tags: Vec<String>,
    stream: Option<String>,
    family: Option<Family>,
    bad: Option<BadQuery>,
}

/// Reason why a query cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadQuery {
    /// A variant that its family does not have.
    #[error("there is no event type `{name}`, known are {}", known.join(", "))]
    NoSuchType { name: String, known: Vec<String> },
    /// `only` on an item that names no family, or a list without a type.
    #[error("a query item names no event type")]
    NoTypes,
    /// The family is none, or the id has no text.
    #[error("{0}")]
    Refused(String),
}

impl QueryItem {
    fn any() -> Self {
        Self { types: Vec::new(), tags: Vec::new(), stream: None, family: None, bad: None }
    }

    fn refused(why: impl Display) -> Self {
        Self { bad: Some(BadQuery::Refused(why.to_string())), ..Self::any() }
    }

    /// All events of a family, under their old names too (`#[serde(alias)]`).
    pub fn family<E: Event>() -> Self {
        let family = Family::of::<E>();
        match family.variants() {
            Ok(variants) => {
                let types = variants.into_iter().map(|variant| family.type_name(variant)).collect();
                Self { types, family: Some(family), ..Self::any() }
            }
            Err(why) => Self::refused(why),
        }
    }

    /// The events of one stream.
    pub fn stream<E: Event>(id: &(impl KeyRef<E::Id> + ?Sized)) -> Self {
        match event::stream_of::<E, _>(id) {
            Ok(stream) => Self { stream: Some(stream), ..Self::any() },
            Err(why) => Self::refused(why),
        }
    }

    /// The events that bear a tag, of any family.
    pub fn tag(kind: &str, id: impl Display) -> Self {
        Self::any().and_tag(kind, id)
    }

    /// For tools: the events of these types, by full name (`course.Joined`).
    pub fn types<T: Into<String>>(types: impl IntoIterator<Item = T>) -> Self {
        let types: Vec<String> = types.into_iter().map(Into::into).collect();
        let bad = types.is_empty().then_some(BadQuery::NoTypes);
        Self { types, bad, ..Self::any() }
    }

    /// For tools: the events of a stream, by its text (`course/c1`).
    pub fn stream_named(stream: impl Into<String>) -> Self {
        Self { stream: Some(stream.into()), ..Self::any() }
    }

    /// Of these, only the events of this stream.
    pub(crate) fn in_stream(mut self, stream: impl Into<String>) -> Self {
        self.stream = Some(stream.into());
        self
    }

    /// For tools: the events with a tag, by its text (`student:bo`).
    pub fn tagged(tag: impl Into<String>) -> Self {
        Self::any().and_tagged(tag)
    }

    /// Of these, only the events with this tag as well.
    pub fn and_tag(self, kind: &str, id: impl Display) -> Self {
        self.and_tagged(event::tag_text(kind, id))
    }

    /// For tools: the same, by its text.
    pub fn and_tagged(mut self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        if !self.tags.contains(&tag) {
            self.tags.push(tag);
        }
        self
    }

    /// Only these variants, under their old names too. A name the family does not have is refused where the
    /// query is used.
    pub fn only<'n>(mut self, variants: impl IntoIterator<Item = &'n str>) -> Self {
        if self.bad.is_none() {
            match self.narrowed(variants) {
                Ok(types) => self.types = types,
                Err(bad) => self.bad = Some(bad),
            }
        }
        self
    }

    fn narrowed<'n>(&self, variants: impl IntoIterator<Item = &'n str>) -> Result<Vec<String>, BadQuery> {
        let family = self.family.as_ref().ok_or(BadQuery::NoTypes)?;
        let refused = |e: LayoutError| BadQuery::Refused(e.to_string());
        let mut types = Vec::new();
        for variant in variants {
            if !family.has(variant) {
                let known = family.variants().map_err(refused)?.into_iter().map(str::to_owned).collect();
                return Err(BadQuery::NoSuchType { name: variant.to_owned(), known });
            }
            let names = family.names_of(variant).map_err(refused)?;
            types.extend(names.into_iter().map(|name| family.type_name(name)));
        }
        if types.is_empty() { Err(BadQuery::NoTypes) } else { Ok(types) }
    }

    /// Full names, ORed; empty means any.
    pub(crate) fn type_names(&self) -> &[String] {
        &self.types
    }

    /// Tag texts, ANDed.
    pub(crate) fn tags(&self) -> &[String] {
        &self.tags
    }

    pub(crate) fn stream_name(&self) -> Option<&str> {
        self.stream.as_deref()
    }

    /// Returns whether nothing narrows it: it asks for every event.
    pub(crate) fn is_any(&self) -> bool {
        self.bad.is_none() && self.types.is_empty() && self.tags.is_empty() && self.stream.is_none()
    }

    pub(crate) fn matches(&self, type_name: &str, stream: &str, tags: TagsRef<'_>) -> bool {
        self.bad.is_none()
            && self.stream.as_ref().is_none_or(|wanted| wanted == stream)
            && (self.types.is_empty() || self.types.iter().any(|wanted| wanted == type_name))
            && self.tags.iter().all(|wanted| tags.contains(wanted))
    }
}

impl fmt::Display for QueryItem {
    /// For conflicts and reports: `course.Joined or course.Left, tag student:bo`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.stream.as_ref().map(|stream| format!("stream {stream}")));
        if !self.types.is_empty() {
            parts.push(self.types.join(" or "));
        }
        parts.extend(self.tags.iter().map(|tag| format!("tag {tag}")));
        f.write_str(if parts.is_empty() { "any event" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// A selection of events to read, and their order. Made from one item, several, or [`Query::all`].
#[derive(Debug, Clone)]
pub struct Query {
    all: bool,
    items: Vec<QueryItem>,
    backwards: bool,
    limit: Option<usize>,
    after: Position,
    up_to: Option<Position>,
}

impl Query {
    fn new(all: bool, items: Vec<QueryItem>) -> Self {
        Self { all, items, backwards: false, limit: None, after: Position::START, up_to: None }
    }

    /// Every event of the store.
    pub fn all() -> Self {
        Self::new(true, Vec::new())
    }

    /// Adds an item: the query matches what it matched, and what the item matches.
    pub fn or(mut self, item: QueryItem) -> Self {
        self.items.push(item);
        self
    }

    /// Reverses the order: from the newest to the oldest.
    pub fn backwards(mut self) -> Self {
        self.backwards = true;
        self
    }

    /// At most so many events.
    pub fn limit(mut self, events: usize) -> Self {
        self.limit = Some(events);
        self
    }

    /// Only events behind this position. One that is beyond the last event is refused where the query is asked.
    pub fn after(mut self, position: Position) -> Self {
        self.after = position;
        self
    }

    /// Only events up to this position, itself included. It may be beyond the last event.
    pub fn up_to(mut self, position: Position) -> Self {
        self.up_to = Some(position);
        self
    }

    /// Checks whether it can be asked at all; to be called before it is.
    pub(crate) fn check(&self) -> Result<(), BadQuery> {
        self.items.iter().find_map(|item| item.bad.clone()).map_or(Ok(()), Err)
    }

    /// Returns whether it asks for every event in its range.
    pub(crate) fn is_all(&self) -> bool {
        self.all || self.items.iter().any(QueryItem::is_any)
    }

    pub(crate) fn items(&self) -> &[QueryItem] {
        &self.items
    }

    pub(crate) fn is_backwards(&self) -> bool {
        self.backwards
    }

    pub(crate) fn limit_events(&self) -> Option<usize> {
        self.limit
    }

    /// Behind the first, up to the second: positions, not counted from either end.
    pub(crate) fn range(&self) -> (Position, Option<Position>) {
        (self.after, self.up_to)
    }
}

impl From<QueryItem> for Query {
    fn from(item: QueryItem) -> Self {
        Self::new(false, vec![item])
    }
}

impl<const N: usize> From<[QueryItem; N]> for Query {
    /// Without an item it matches nothing.
    fn from(items: [QueryItem; N]) -> Self {
        Self::new(false, items.into())
    }
}

impl FromIterator<QueryItem> for Query {
    /// Without an item it matches nothing.
    fn from_iter<I: IntoIterator<Item = QueryItem>>(items: I) -> Self {
        Self::new(false, items.into_iter().collect())
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all {
            return f.write_str("all events");
        }
        if self.items.is_empty() {
            return f.write_str("no event");
        }
        let items: Vec<String> = self.items.iter().map(QueryItem::to_string).collect();
        f.write_str(&items.join("; "))
    }
}

/// Returns whether a query asks for an event of this type, stream and tags. Positions and limits are the reader's part.
pub(crate) fn matches(query: &Query, type_name: &str, stream: &str, tags: TagsRef<'_>) -> bool {
    query.all || query.items.iter().any(|item| item.matches(type_name, stream, tags))
}

#[cfg(test)]
mod tests;
