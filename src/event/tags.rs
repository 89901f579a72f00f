//! Tags of events, owned and where they lie.

use std::fmt::{self, Display, Write};

/// Tags of an event: what it is about beside its stream. Texts `kind:id`, each once, in the order they were given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags(Vec<String>);

impl Tags {
    /// No tag.
    pub fn none() -> Self {
        Self::default()
    }

    /// One tag. The kind is a plain word: a colon in it would be read as its end.
    pub fn of(kind: &str, id: impl Display) -> Self {
        Self::none().and(kind, id)
    }

    /// Adds one more tag.
    pub fn and(self, kind: &str, id: impl Display) -> Self {
        self.and_text(tag_text(kind, id))
    }

    /// For tools: adds one more tag by its text.
    pub fn and_text(mut self, tag: impl Into<String>) -> Self {
        let tag = tag.into();
        if !self.0.contains(&tag) {
            self.0.push(tag);
        }
        self
    }

    /// Their texts.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns the number of tags.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there is no tag.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_texts(self) -> Vec<String> {
        self.0
    }

    /// The same tags, borrowed.
    pub fn borrowed(&self) -> TagsRef<'_> {
        TagsRef(TagStorage::Texts(&self.0))
    }
}

pub(crate) fn tag_text(kind: &str, id: impl Display) -> String {
    let mut text = String::with_capacity(kind.len() + 16);
    text.push_str(kind);
    text.push(':');
    write!(text, "{id}").expect("writing to a string does not fail");
    text
}

/// Tags where they lie.
#[derive(Clone, Copy)]
pub struct TagsRef<'a>(TagStorage<'a>);

#[derive(Clone, Copy)]
enum TagStorage<'a> {
    Texts(&'a [String]),
    /// `tags := count u16 · (len u32 · utf-8)*`, little-endian, as the log keeps them; without the count.
    Bytes(u16, &'a [u8]),
}

impl<'a> TagsRef<'a> {
    /// Over the log's own bytes, which the log has looked at; where they are damaged all the same, they end.
    pub(crate) fn from_bytes(bytes: &'a [u8]) -> Self {
        let (count, texts) =
            bytes.split_first_chunk::<2>().map_or((0, bytes), |(n, rest)| (u16::from_le_bytes(*n), rest));
        Self(TagStorage::Bytes(count, texts))
    }

    pub(crate) fn from_texts(texts: &'a [String]) -> Self {
        Self(TagStorage::Texts(texts))
    }

    /// Returns the number of tags.
    pub fn len(&self) -> usize {
        match self.0 {
            TagStorage::Texts(texts) => texts.len(),
            TagStorage::Bytes(count, _) => usize::from(count),
        }
    }

    /// Returns whether there is no tag.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their texts.
    pub fn iter(&self) -> TagsIter<'a> {
        TagsIter(self.0)
    }

    /// Returns whether this text is among them.
    pub fn contains(&self, tag: &str) -> bool {
        self.iter().any(|other| other == tag)
    }

    /// A copy that owns its texts.
    pub fn to_tags(&self) -> Tags {
        Tags(self.iter().map(str::to_owned).collect())
    }
}

impl fmt::Debug for TagsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for TagsRef<'a> {
    type Item = &'a str;
    type IntoIter = TagsIter<'a>;

    fn into_iter(self) -> TagsIter<'a> {
        self.iter()
    }
}

/// The texts of [`TagsRef`].
#[derive(Clone)]
pub struct TagsIter<'a>(TagStorage<'a>);

impl<'a> Iterator for TagsIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        match &mut self.0 {
            TagStorage::Texts(texts) => {
                let (first, rest) = texts.split_first()?;
                *texts = rest;
                Some(first)
            }
            TagStorage::Bytes(count, bytes) => {
                *count = count.checked_sub(1)?;
                let (len, rest) = bytes.split_first_chunk::<4>()?;
                let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
                *bytes = rest;
                std::str::from_utf8(text).ok()
            }
        }
    }
}
