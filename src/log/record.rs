//! One commit as bytes: the record, and the grammar of everything around it.
//!
//! - Decoding checks everything (lengths before allocations, counts, UTF-8, order, no trailing bytes) and never panics.
//! - One meaning has one spelling: bytes that decode encode to the same bytes.
//! - Anything unknown is refused, never skipped: a section may change the meaning of the others.
//!
//! All integers are little-endian. Every record and group head starts at a multiple of 8, so that a reader may
//! start at any record, and a search for surviving groups looks at aligned places only.
//!
//! ```text
//! segment  := header group* rest              one file, named by its first commit (see `segment.rs`)
//! rest     := seal? zeros | marks trailer      the zeros were written ahead; the trailer says that a segment follows
//! header   := "TALLYLOG" · format u32 (1) · crc u32 (of the rest) · store 16 · first commit u64 ·
//!             first position u64 · time u64 · chain 32 (both of the commit before) · size u64 (of the file, zeros
//!             included, when it got its name) · zeros to 128
//!
//! group    := head record+                    one write, one sync (see `group.rs`)
//! head     := magic u32 (top bit set) · crc u32 (of the rest) · store 16 · first commit u64 · first position u64 ·
//!             records u32 · bytes u32 (of the records) · synced through u64 · chain before 32
//! seal     := head with no records            all before it was durable when it was written; the next group replaces it
//!             chain after a group := BLAKE3(head without magic and crc ‖ its records as they stand)
//!
//! record   := len u32 (of body, top bit clear) · crc u32 (of store ‖ len ‖ body) · body · zeros to a multiple of 8
//! body     := commit u64 · first position u64 · time u64 · events u32 · section*
//! section  := kind u8 · len u32 · content      kinds rising, each at most once, none empty
//!   1 label    utf8
//!   2 layouts  (type name str · schema u16 · layout str)+
//!   3 key      scope str · key str · (part name str · digest 16)*
//!   4 response codec u8 · bytes
//!   5 events   event+                          as many as the body says
//!   6 folds    (projection u32 · digest u64)+  of the row changes of each inline projection that changed a row
//!   7 kept     rule u8 · limit u64             how long the key is; without it, for ever
//!     rule 1: until this time;  rule 2: until so many commits of the log have a key
//!   8 inline   count u16 · projection u32*     rising; the inline projections from this commit on, if they are others than before
//!   9 digests  algorithm u8                    how the digests of the key's parts were made; without it, of encoded bytes
//!     algorithm 2: of values under their names
//! event    := type name str · schema u16 · codec u8 · stream str · stream version u64 · tags · data len u32 · data
//! tags     := count u16 · str*
//! str      := len u32 · utf8
//!
//! marks    := (commits u32 · positions u32 · offset u32)*    from the segment's firsts; sparse, one each 4 KiB or so
//! trailer  := store 16 · first commit u64 · commit u64 · position u64 · time u64 · chain 32 · end of groups u32 ·
//!             marks u32 · crc of marks u32 · crc u32 (of the trailer before it) · "TALLYEND"
//! ```
//!
//! A commit without events has the position of the next event to come as its first position.
//! `crc` is CRC-32C.

use super::StoreId;
use crate::order::{CommitNo, Position, Timestamp};
use std::fmt;

/// Size of the frame before a body: length and checksum.
pub(crate) const FRAME: usize = 8;
/// Commit, first position, time, count of events.
const FIXED: usize = 28;
/// Lengths have the top bit clear: a group's magic has it set.
const BODY_MAX: usize = i32::MAX as usize;

const LABEL: u8 = 1;
const LAYOUTS: u8 = 2;
const KEY: u8 = 3;
const RESPONSE: u8 = 4;
const EVENTS: u8 = 5;
const FOLDS: u8 = 6;
const KEPT: u8 = 7;
const INLINE: u8 = 8;
const DIGESTS: u8 = 9;

const UNTIL_TIME: u8 = 1;
const UNTIL_KEYS: u8 = 2;

const BY_NAMES: u8 = 2;

/// One commit, as the writer makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    pub commit: CommitNo,
    /// Position of its first event; of the next event to come, if it has none.
    pub first: Position,
    pub time: Timestamp,
    /// Label of the request; may be empty.
    pub label: String,
    /// Payload layouts that the log has not seen yet.
    pub layouts: Vec<LayoutDecl>,
    pub key: Option<KeyPart>,
    pub response: Option<Payload>,
    pub events: Vec<StoredEvent>,
    pub folds: Vec<Fold>,
    /// Inline projections from here on, rising; `None` if they are those of the commit before. One without a digest changed no
    /// row.
    pub inline: Option<Vec<u32>>,
}

/// Layout of the payload of a type and schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayoutDecl {
    pub type_name: String,
    pub schema: u16,
    pub layout: String,
}

/// The idempotency key of a request, with the digests of what it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyPart {
    pub scope: String,
    pub key: String,
    pub parts: Vec<(String, [u8; 16])>,
    pub digests: Digests,
    pub kept: Kept,
}

/// Algorithm that made the digests of a key's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Digests {
    /// Digests of encoded bytes, in which a variant is its place. None are made like that any more.
    ByBytes,
    /// Digests of values under their names.
    ByNames,
}

/// Limit up to which a key is kept. Absolute, so that neither a rebuild nor another policy changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Forever,
    /// Kept until the store's time reaches this.
    UntilTime(Timestamp),
    /// Kept until this many commits of the log have a key.
    UntilKeys(u64),
}

/// Encoded bytes, with the codec that wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    pub codec: u8,
    pub bytes: Vec<u8>,
}

/// An event, as the writer makes it. Its position follows from its place in the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredEvent {
    pub type_name: String,
    pub schema: u16,
    pub codec: u8,
    pub stream: String,
    pub stream_version: u64,
    pub tags: Vec<String>,
    pub data: Vec<u8>,
}

/// Digest of the row changes that an inline projection made in a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fold {
    pub projection: u32,
    pub digest: u64,
}

impl Commit {
    /// The last position up to and including this commit.
    pub fn last(&self) -> Position {
        Position(self.first.0 + self.events.len() as u64 - 1)
    }

    /// Appends the framed record to `out`, which must be at a multiple of 8.
    pub fn encode_into(&self, store: StoreId, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME]);
        self.encode_body(out);
        let body = out.len() - start - FRAME;
        assert!(body <= BODY_MAX, "limits keep a record far below 2 GiB");
        let len = (body as u32).to_le_bytes();
        let crc = crc(store, len, &out[start + FRAME..]);
        out[start..start + 4].copy_from_slice(&len);
        out[start + 4..start + FRAME].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + (FRAME + body).next_multiple_of(8), 0);
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.commit.0.to_le_bytes());
        out.extend_from_slice(&self.first.0.to_le_bytes());
        out.extend_from_slice(&self.time.0.to_le_bytes());
        put_len(out, self.events.len());
        section(out, LABEL, !self.label.is_empty(), |out| out.extend_from_slice(self.label.as_bytes()));
        section(out, LAYOUTS, !self.layouts.is_empty(), |out| {
            self.layouts.iter().for_each(|layout| layout.encode(out))
        });
        if let Some(key) = &self.key {
            section(out, KEY, true, |out| key.encode(out));
        }
        if let Some(response) = &self.response {
            section(out, RESPONSE, true, |out| {
                out.push(response.codec);
                out.extend_from_slice(&response.bytes);
            });
        }
        section(out, EVENTS, !self.events.is_empty(), |out| {
            self.events.iter().for_each(|event| event.encode(out))
        });
        section(out, FOLDS, !self.folds.is_empty(), |out| {
            for fold in &self.folds {
                out.extend_from_slice(&fold.projection.to_le_bytes());
                out.extend_from_slice(&fold.digest.to_le_bytes());
            }
        });
        if let Some((rule, limit)) = self.key.as_ref().and_then(|key| key.kept.to_rule()) {
            section(out, KEPT, true, |out| {
                out.push(rule);
                out.extend_from_slice(&limit.to_le_bytes());
            });
        }
        if let Some(inline) = &self.inline {
            section(out, INLINE, true, |out| {
                let count = u16::try_from(inline.len()).expect("a setup has fewer than 65,536 projections");
                out.extend_from_slice(&count.to_le_bytes());
                inline.iter().for_each(|projection| out.extend_from_slice(&projection.to_le_bytes()));
            });
        }
        let by_names = self.key.as_ref().is_some_and(|key| key.digests == Digests::ByNames);
        section(out, DIGESTS, by_names, |out| out.push(BY_NAMES));
    }
}

impl LayoutDecl {
    fn encode(&self, out: &mut Vec<u8>) {
        put_str(out, &self.type_name);
        out.extend_from_slice(&self.schema.to_le_bytes());
        put_str(out, &self.layout);
    }
}

impl KeyPart {
    fn encode(&self, out: &mut Vec<u8>) {
        put_str(out, &self.scope);
        put_str(out, &self.key);
        for (name, digest) in &self.parts {
            put_str(out, name);
            out.extend_from_slice(digest);
        }
    }
}

impl Kept {
    /// Returns the rule and limit that are written; `None` for `Forever`, which is not written.
    fn to_rule(self) -> Option<(u8, u64)> {
        match self {
            Self::Forever => None,
            Self::UntilTime(time) => Some((UNTIL_TIME, time.0)),
            Self::UntilKeys(keys) => Some((UNTIL_KEYS, keys)),
        }
    }

    fn from_rule(rule: u8, limit: u64) -> Option<Self> {
        match rule {
            UNTIL_TIME => Some(Self::UntilTime(Timestamp(limit))),
            UNTIL_KEYS => Some(Self::UntilKeys(limit)),
            _ => None,
        }
    }
}

impl StoredEvent {
    fn encode(&self, out: &mut Vec<u8>) {
        put_str(out, &self.type_name);
        out.extend_from_slice(&self.schema.to_le_bytes());
        out.push(self.codec);
        put_str(out, &self.stream);
        out.extend_from_slice(&self.stream_version.to_le_bytes());
        let tags = u16::try_from(self.tags.len()).expect("limits keep the tags of an event below 65,536");
        out.extend_from_slice(&tags.to_le_bytes());
        self.tags.iter().for_each(|tag| put_str(out, tag));
        put_len(out, self.data.len());
        out.extend_from_slice(&self.data);
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("limits keep every part of a record far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn section(out: &mut Vec<u8>, kind: u8, present: bool, content: impl FnOnce(&mut Vec<u8>)) {
    if !present {
        return;
    }
    out.push(kind);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let len = u32::try_from(out.len() - at - 4).expect("limits keep a section far below 4 GiB");
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

pub(super) fn crc(store: StoreId, len: [u8; 4], body: &[u8]) -> u32 {
    let mut prefix = [0; 20];
    prefix[..16].copy_from_slice(&store.0);
    prefix[16..].copy_from_slice(&len);
    crc32c::crc32c_append(crc32c::crc32c(&prefix), body)
}

/// Takes one framed record off `bytes`. Returns its body, with its checksum verified, and the bytes after it.
pub(crate) fn check(store: StoreId, bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let Some((&[l0, l1, l2, l3, c0, c1, c2, c3], rest)) = bytes.split_first_chunk::<FRAME>() else {
        return Err(Malformed { at: 0, what: "shorter than a frame" });
    };
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let impossible = Malformed { at: 0, what: "impossible length" };
    if !(FIXED..=BODY_MAX).contains(&len) || len > rest.len() {
        return Err(impossible);
    }
    let padded = (FRAME + len).next_multiple_of(8) - FRAME;
    if padded > rest.len() {
        return Err(impossible);
    }
    let (body, pad) = rest[..padded].split_at(len);
    if crc(store, [l0, l1, l2, l3], body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(Malformed { at: 4, what: "checksum differs" });
    }
    if pad.iter().any(|&byte| byte != 0) {
        return Err(Malformed { at: FRAME + len, what: "padding is not zero" });
    }
    Ok((body, &rest[padded..]))
}

/// The fixed fields at the front of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub commit: CommitNo,
    pub first: Position,
    pub time: Timestamp,
    pub events: u32,
}

impl Fixed {
    /// Reads the fixed fields, without looking at the sections.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        Self::read(&mut FieldReader { bytes: body, at: 0 })
    }

    /// The last position up to and including this commit.
    pub fn last(&self) -> Position {
        Position(self.first.0 + u64::from(self.events) - 1)
    }

    fn read(reader: &mut FieldReader<'_>) -> Result<Self, Malformed> {
        let fixed = Self {
            commit: CommitNo(reader.u64()?),
            first: Position(reader.u64()?),
            time: Timestamp(reader.u64()?),
            events: reader.u32()?,
        };
        if fixed.commit == CommitNo::START || fixed.first == Position::START {
            return Err(Malformed { at: 0, what: "number before the first" });
        }
        if fixed.commit.0 == u64::MAX || fixed.first.0.checked_add(u64::from(fixed.events)).is_none() {
            return Err(Malformed { at: 0, what: "number past the last" });
        }
        Ok(fixed)
    }
}

/// One commit, decoded in place and known to be well formed.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(super) fixed: Fixed,
    label: &'a str,
    layouts: &'a [u8],
    key: Option<&'a [u8]>,
    response: Option<PayloadRef<'a>>,
    events: &'a [u8],
    folds: &'a [u8],
    kept: Kept,
    inline: Option<&'a [u8]>,
    digests: Digests,
}

/// A layout, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayoutRef<'a> {
    pub type_name: &'a str,
    pub schema: u16,
    pub layout: &'a str,
}

/// A key, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyPartRef<'a> {
    pub scope: &'a str,
    pub key: &'a str,
    parts: &'a [u8],
    pub digests: Digests,
    pub kept: Kept,
}

/// A payload, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PayloadRef<'a> {
    pub codec: u8,
    pub bytes: &'a [u8],
}

/// An event, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventRef<'a> {
    pub position: Position,
    pub type_name: &'a str,
    pub schema: u16,
    pub codec: u8,
    pub stream: &'a str,
    pub stream_version: u64,
    pub tags: TagBytes<'a>,
    pub data: &'a [u8],
}

/// The tags of an event, in place: `count u16 · (len u32 · utf8)*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TagBytes<'a>(&'a [u8]);

impl<'a> TagBytes<'a> {
    /// The bytes, count first.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut reader = FieldReader { bytes: self.0, at: 2 };
        std::iter::from_fn(move || (!reader.is_done()).then(|| reader.str().expect(DECODED)))
    }
}

impl<'a> KeyPartRef<'a> {
    /// Name and digest of each part the key covers.
    pub fn parts(&self) -> impl Iterator<Item = (&'a str, [u8; 16])> {
        let mut reader = FieldReader { bytes: self.parts, at: 0 };
        std::iter::from_fn(move || (!reader.is_done()).then(|| reader.part().expect(DECODED)))
    }
}

/// Reason why the iterators below cannot fail.
const DECODED: &str = "decode has validated it";

impl<'a> Record<'a> {
    /// Validates a whole body.
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = FieldReader { bytes: body, at: 0 };
        let fixed = Fixed::read(&mut reader)?;
        let (layouts, events, folds): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        let (key, response, kept, inline, digests) = (None, None, Kept::Forever, None, Digests::ByBytes);
        let mut record =
            Self { fixed, label: "", layouts, key, response, events, folds, kept, inline, digests };
        let mut kind_before = 0;
        while !reader.is_done() {
            let at = reader.at;
            let kind = reader.u8()?;
            if kind <= kind_before {
                return Err(Malformed { at, what: "section out of order" });
            }
            kind_before = kind;
            let content = reader.bytes()?;
            if content.is_empty() {
                return Err(Malformed { at, what: "empty section" });
            }
            let within = |fault: Malformed| Malformed { at: at + 5 + fault.at, what: fault.what };
            record.section(kind, content).map_err(within)?;
        }
        if (fixed.events == 0) != record.events.is_empty() {
            return Err(Malformed { at: 24, what: "count of events differs" });
        }
        Ok(record)
    }

    fn section(&mut self, kind: u8, content: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = FieldReader { bytes: content, at: 0 };
        match kind {
            LABEL => self.label = text(content, 0)?,
            LAYOUTS => {
                self.layouts = content;
                reader.all(|reader| reader.layout())?;
            }
            KEY => {
                self.key = Some(content);
                reader.key()?;
                reader.all(|reader| reader.part())?;
            }
            RESPONSE => self.response = Some(PayloadRef { codec: reader.u8()?, bytes: reader.rest() }),
            EVENTS => {
                self.events = content;
                for _ in 0..self.fixed.events {
                    reader.event(Position::START)?;
                }
                if !reader.is_done() {
                    return Err(Malformed { at: reader.at, what: "count of events differs" });
                }
            }
            FOLDS => {
                self.folds = content;
                reader.all(|reader| reader.fold())?;
            }
            KEPT => {
                if self.key.is_none() {
                    return Err(Malformed { at: 0, what: "no key to be kept" });
                }
                self.kept = reader.kept()?;
                if !reader.is_done() {
                    return Err(Malformed { at: reader.at, what: "more than a rule" });
                }
            }
            INLINE => {
                self.inline = Some(content);
                reader.inline()?;
            }
            DIGESTS => match content {
                _ if self.key.is_none() => return Err(Malformed { at: 0, what: "no key to have digests" }),
                [BY_NAMES] => self.digests = Digests::ByNames,
                _ => return Err(Malformed { at: 0, what: "unknown digests, of a later version" }),
            },
            _ => return Err(Malformed { at: 0, what: "unknown section, of a later version" }),
        }
        Ok(())
    }

    pub fn commit(&self) -> CommitNo {
        self.fixed.commit
    }

    /// Returns the position of its first event; of the next event to come, if it has none.
    pub fn first(&self) -> Position {
        self.fixed.first
    }

    /// The last position up to and including this commit.
    pub fn last(&self) -> Position {
        self.fixed.last()
    }

    pub fn time(&self) -> Timestamp {
        self.fixed.time
    }

    pub fn label(&self) -> &'a str {
        self.label
    }

    pub fn layouts(&self) -> impl Iterator<Item = LayoutRef<'a>> {
        let mut reader = FieldReader { bytes: self.layouts, at: 0 };
        std::iter::from_fn(move || (!reader.is_done()).then(|| reader.layout().expect(DECODED)))
    }

    pub fn key(&self) -> Option<KeyPartRef<'a>> {
        let key = self.key.map(|content| FieldReader { bytes: content, at: 0 }.key().expect(DECODED));
        key.map(|key| KeyPartRef { kept: self.kept, digests: self.digests, ..key })
    }

    pub fn response(&self) -> Option<PayloadRef<'a>> {
        self.response
    }

    pub fn events(&self) -> impl Iterator<Item = EventRef<'a>> {
        let mut reader = FieldReader { bytes: self.events, at: 0 };
        let mut position = self.fixed.first;
        std::iter::from_fn(move || {
            if reader.is_done() {
                return None;
            }
            let event = reader.event(position).expect(DECODED);
            position = position.next();
            Some(event)
        })
    }

    pub fn folds(&self) -> impl Iterator<Item = Fold> + use<'a> {
        let mut reader = FieldReader { bytes: self.folds, at: 0 };
        std::iter::from_fn(move || (!reader.is_done()).then(|| reader.fold().expect(DECODED)))
    }

    /// Ids of the inline projections from this commit on, if the commit declares them.
    pub fn inline(&self) -> Option<Vec<u32>> {
        self.inline.map(|content| FieldReader { bytes: content, at: 0 }.inline().expect(DECODED))
    }

    /// An owned copy.
    #[cfg(any(test, feature = "testing"))]
    pub fn to_commit(self) -> Commit {
        Commit {
            commit: self.fixed.commit,
            first: self.fixed.first,
            time: self.fixed.time,
            label: self.label.to_owned(),
            layouts: self.layouts().map(LayoutRef::to_decl).collect(),
            key: self.key().map(KeyPartRef::to_part),
            response: self.response.map(PayloadRef::to_payload),
            events: self.events().map(EventRef::to_event).collect(),
            folds: self.folds().collect(),
            inline: self.inline(),
        }
    }
}

/// The part of a commit that answers a request whose key it used.
pub(crate) struct StoredAnswer {
    pub commit: CommitNo,
    pub first: Position,
    pub last: Position,
    pub time: Timestamp,
    pub key: Option<KeyPart>,
    pub response: Vec<u8>,
}

impl From<&Commit> for StoredAnswer {
    fn from(commit: &Commit) -> Self {
        Self {
            commit: commit.commit,
            first: commit.first,
            last: commit.last(),
            time: commit.time,
            key: commit.key.clone(),
            response: commit.response.as_ref().map_or_else(Vec::new, |response| response.bytes.clone()),
        }
    }
}

impl From<&Record<'_>> for StoredAnswer {
    fn from(record: &Record<'_>) -> Self {
        Self {
            commit: record.commit(),
            first: record.first(),
            last: record.last(),
            time: record.time(),
            key: record.key().map(KeyPartRef::to_part),
            response: record.response().map_or_else(Vec::new, |response| response.bytes.to_vec()),
        }
    }
}

impl fmt::Debug for Record<'_> {
    /// Numbers and sizes, no content: it may be somebody's data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fixed { commit, first, events, .. } = self.fixed;
        write!(f, "commit {commit}, {events} events from position {first}")
    }
}

#[cfg(any(test, feature = "testing"))]
impl LayoutRef<'_> {
    fn to_decl(self) -> LayoutDecl {
        let Self { type_name, schema, layout } = self;
        LayoutDecl { type_name: type_name.to_owned(), schema, layout: layout.to_owned() }
    }
}

impl KeyPartRef<'_> {
    fn to_part(self) -> KeyPart {
        let parts = self.parts().map(|(name, digest)| (name.to_owned(), digest)).collect();
        let Self { scope, key, digests, kept, .. } = self;
        KeyPart { scope: scope.to_owned(), key: key.to_owned(), parts, digests, kept }
    }
}

#[cfg(any(test, feature = "testing"))]
impl PayloadRef<'_> {
    /// An owned copy.
    pub fn to_payload(self) -> Payload {
        Payload { codec: self.codec, bytes: self.bytes.to_vec() }
    }
}

#[cfg(any(test, feature = "testing"))]
impl EventRef<'_> {
    /// An owned copy.
    pub fn to_event(self) -> StoredEvent {
        StoredEvent {
            type_name: self.type_name.to_owned(),
            schema: self.schema,
            codec: self.codec,
            stream: self.stream.to_owned(),
            stream_version: self.stream_version,
            tags: self.tags.iter().map(str::to_owned).collect(),
            data: self.data.to_vec(),
        }
    }
}

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed record at byte {at}: {what}")]
pub(crate) struct Malformed {
    /// Offset in bytes, counted from the start of decoding.
    pub at: usize,
    pub what: &'static str,
}

/// Takes fields off the front of a slice. Allocates nothing.
struct FieldReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> FieldReader<'a> {
    fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let short = Malformed { at: self.at, what: "ends too early" };
        let array = *self.bytes[self.at..].first_chunk::<N>().ok_or(short)?;
        self.at += N;
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// `len u32 · bytes`
    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let at = self.at;
        let len = self.u32()? as usize;
        let rest = &self.bytes[self.at..];
        let bytes = rest.get(..len).ok_or(Malformed { at, what: "length past the end" })?;
        self.at += len;
        Ok(bytes)
    }

    fn str(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.bytes()?;
        text(bytes, self.at - bytes.len())
    }

    fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    /// Takes items until the end.
    fn all<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, Malformed>) -> Result<(), Malformed> {
        while !self.is_done() {
            item(self)?;
        }
        Ok(())
    }

    fn layout(&mut self) -> Result<LayoutRef<'a>, Malformed> {
        Ok(LayoutRef { type_name: self.str()?, schema: self.u16()?, layout: self.str()? })
    }

    fn key(&mut self) -> Result<KeyPartRef<'a>, Malformed> {
        let (scope, key) = (self.str()?, self.str()?);
        let parts = &self.bytes[self.at..];
        Ok(KeyPartRef { scope, key, parts, digests: Digests::ByBytes, kept: Kept::Forever })
    }

    fn part(&mut self) -> Result<(&'a str, [u8; 16]), Malformed> {
        Ok((self.str()?, self.array()?))
    }

    fn fold(&mut self) -> Result<Fold, Malformed> {
        Ok(Fold { projection: self.u32()?, digest: self.u64()? })
    }

    fn inline(&mut self) -> Result<Vec<u32>, Malformed> {
        let count = self.u16()?;
        let ids = (0..count).map(|_| self.u32()).collect::<Result<Vec<_>, _>>()?;
        if !self.is_done() || !ids.is_sorted_by(|one, next| one < next) {
            return Err(Malformed { at: 0, what: "no rising list of projections" });
        }
        Ok(ids)
    }

    fn kept(&mut self) -> Result<Kept, Malformed> {
        let at = self.at;
        Kept::from_rule(self.u8()?, self.u64()?)
            .ok_or(Malformed { at, what: "unknown rule for a key, of a later version" })
    }

    fn event(&mut self, position: Position) -> Result<EventRef<'a>, Malformed> {
        Ok(EventRef {
            position,
            type_name: self.str()?,
            schema: self.u16()?,
            codec: self.u8()?,
            stream: self.str()?,
            stream_version: self.u64()?,
            tags: self.tags()?,
            data: self.bytes()?,
        })
    }

    fn tags(&mut self) -> Result<TagBytes<'a>, Malformed> {
        let from = self.at;
        for _ in 0..self.u16()? {
            self.str()?;
        }
        Ok(TagBytes(&self.bytes[from..self.at]))
    }
}

fn text(bytes: &[u8], at: usize) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|fault| Malformed { at: at + fault.valid_up_to(), what: "not UTF-8" })
}
