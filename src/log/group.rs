//! A group of commits as bytes, written in one write and made durable by one sync. Grammar: `record.rs`.
//!
//! - A head names the store, the commits and the chain before, so no group fits at a place that is not its own.
//! - The chain links groups, not records: a record alone is proven by its checksum and its numbers.

use super::record::{self, Commit, Fixed, Malformed};
use super::{Hash, Head, LogError, StoreId};
use crate::order::{CommitNo, Position};
use std::ops::Range;

/// Size of a group's head.
pub(crate) const HEAD: usize = 88;
/// The largest group that is written.
pub(crate) const GROUP_BYTES_MAX: usize = 1 << 30;
/// The top bit of the last byte tells a head from the length of a record.
const MAGIC: [u8; 4] = [b'T', b'G', b'1', 0xf5];

/// The head of a group; without records, a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHead {
    pub store: StoreId,
    pub first: CommitNo,
    pub first_position: Position,
    pub records: u32,
    /// Size of its records.
    pub bytes: u32,
    /// The commit known to be durable when this was written: the one before.
    pub synced_through: CommitNo,
    pub chain: Hash,
}

impl GroupHead {
    fn after(store: StoreId, before: &Head) -> Self {
        Self {
            store,
            first: before.commit.next(),
            first_position: before.position.next(),
            records: 0,
            bytes: 0,
            synced_through: before.commit,
            chain: before.hash,
        }
    }

    fn encode(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&MAGIC);
        head[8..24].copy_from_slice(&self.store.0);
        head[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        head[32..40].copy_from_slice(&self.first_position.0.to_le_bytes());
        head[40..44].copy_from_slice(&self.records.to_le_bytes());
        head[44..48].copy_from_slice(&self.bytes.to_le_bytes());
        head[48..56].copy_from_slice(&self.synced_through.0.to_le_bytes());
        head[56..].copy_from_slice(&self.chain.0);
        put_crc(&mut head);
        head
    }

    /// The head at the front of `bytes`, if there is one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD>()?;
        if head[..4] != MAGIC || head[4..8] != crc32c::crc32c(&head[8..]).to_le_bytes() {
            return None;
        }
        Some(Self {
            store: StoreId(array(&head[8..])),
            first: CommitNo(u64::from_le_bytes(array(&head[24..]))),
            first_position: Position(u64::from_le_bytes(array(&head[32..]))),
            records: u32::from_le_bytes(array(&head[40..])),
            bytes: u32::from_le_bytes(array(&head[44..])),
            synced_through: CommitNo(u64::from_le_bytes(array(&head[48..]))),
            chain: Hash(array(&head[56..])),
        })
    }

    /// Returns whether this head follows `before` in the log of `store`.
    pub fn follows(&self, store: StoreId, before: &Head) -> bool {
        *self == Self { records: self.records, bytes: self.bytes, ..Self::after(store, before) }
    }

    pub fn is_seal(&self) -> bool {
        self.records == 0 && self.bytes == 0
    }

    /// Size of the whole group, its head included.
    pub fn size(&self) -> usize {
        HEAD.saturating_add(self.bytes as usize)
    }
}

/// Writes the checksum of a head into it. Bytes after the head are not looked at.
pub(super) fn put_crc(head: &mut [u8]) {
    let crc = crc32c::crc32c(&head[8..HEAD]);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The first `N` of `bytes`, which has them.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("fields lie inside a structure of fixed size")
}

/// Returns whether a head may start with these bytes. Lengths of records never look like it.
pub(crate) fn is_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Encodes the seal that says all up to `before` is durable.
pub(crate) fn seal(store: StoreId, before: &Head) -> [u8; HEAD] {
    GroupHead::after(store, before).encode()
}

/// Writes the group of `commits` into `out` (emptied first) and calls `each` with the offset of each commit's bytes;
/// the group's head counts as part of the first. Returns the head of the log after the group.
pub(crate) fn encode(
    store: StoreId,
    before: &Head,
    commits: &[Commit],
    out: &mut Vec<u8>,
    mut each: impl FnMut(&Commit, usize),
) -> Result<Head, LogError> {
    out.clear();
    out.extend_from_slice(&[0; HEAD]);
    let mut after = *before;
    for commit in commits {
        assert_eq!(commit.commit, after.commit.next(), "commit numbers are gapless");
        assert_eq!(commit.first, after.position.next(), "positions are gapless");
        assert!(commit.time >= after.time, "time never runs backwards");
        let at = if out.len() == HEAD { 0 } else { out.len() };
        commit.encode_into(store, out);
        if out.len() > GROUP_BYTES_MAX {
            return Err(too_large());
        }
        each(commit, at);
        after = Head { commit: commit.commit, position: commit.last(), time: commit.time, hash: after.hash };
    }
    let head = GroupHead {
        records: u32::try_from(commits.len()).map_err(|_| too_large())?,
        bytes: u32::try_from(out.len() - HEAD).map_err(|_| too_large())?,
        ..GroupHead::after(store, before)
    };
    out[..HEAD].copy_from_slice(&head.encode());
    after.hash = link(out);
    Ok(after)
}

fn too_large() -> LogError {
    LogError::Io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "group of commits is over 1 GiB"))
}

/// The chain after a group: its head names the chain before.
pub(super) fn link(group: &[u8]) -> Hash {
    Hash(*blake3::hash(&group[8..]).as_bytes())
}

/// A record found by walking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub fixed: Fixed,
    /// Offset of its bytes: of the group's head, if it is the first of a group.
    pub at: usize,
    pub body: Range<usize>,
}

/// Walks group heads and records one after the other, verifying checksums and that no number is missing.
#[derive(Debug, Clone)]
pub(crate) struct Walk<'a> {
    store: StoreId,
    bytes: &'a [u8],
    at: usize,
    /// Numbers and time of the record before. Its chain is not looked at.
    before: Head,
    /// Head of the log before the last group whose head was met, with the chain that the group's head names.
    boundary: Option<Head>,
}

impl<'a> Walk<'a> {
    /// Walks from the start of `bytes`, which is the start of a group or of a record; both follow `before`.
    pub fn new(store: StoreId, bytes: &'a [u8], before: Head) -> Self {
        Self { store, bytes, at: 0, before, boundary: None }
    }

    /// The last record that was found.
    pub fn before(&self) -> &Head {
        &self.before
    }

    /// Returns the head of the log before the last group whose head was met.
    pub fn boundary(&self) -> Option<Head> {
        self.boundary
    }

    /// Returns the next record; `None` at the end of the bytes.
    pub fn step(&mut self) -> Result<Option<Found>, Malformed> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let at = self.at;
        if is_magic(&self.bytes[at..]) {
            self.head()?;
        }
        self.record(at).map(Some).map_err(|fault| Malformed { at: self.at + fault.at, what: fault.what })
    }

    fn head(&mut self) -> Result<(), Malformed> {
        let damaged = Malformed { at: self.at, what: "group head damaged or out of place" };
        let head = GroupHead::decode(&self.bytes[self.at..]).ok_or(damaged)?;
        let here = GroupHead::after(self.store, &self.before);
        let (is, expected) =
            ((head.store, head.first, head.first_position), (here.store, here.first, here.first_position));
        if is != expected || head.is_seal() {
            return Err(damaged);
        }
        self.at += HEAD;
        self.boundary = Some(Head { hash: head.chain, ..self.before });
        Ok(())
    }

    fn record(&mut self, at: usize) -> Result<Found, Malformed> {
        let bytes = &self.bytes[self.at..];
        let (body, rest) = record::check(self.store, bytes)?;
        let fixed = Fixed::decode(body)?;
        if fixed.commit != self.before.commit.next() || fixed.first != self.before.position.next() {
            return Err(Malformed { at: record::FRAME, what: "another commit than expected" });
        }
        if fixed.time < self.before.time {
            return Err(Malformed { at: record::FRAME, what: "time runs backwards" });
        }
        let start = self.at + record::FRAME;
        let body = start..start + body.len();
        self.at += bytes.len() - rest.len();
        let hash = self.before.hash;
        self.before = Head { commit: fixed.commit, position: fixed.last(), time: fixed.time, hash };
        Ok(Found { fixed, at, body })
    }
}

/// Verifies a whole group, chain included, and returns the head after it.
pub(crate) fn verify(
    store: StoreId,
    before: &Head,
    group: &[u8],
    mut each: impl FnMut(Found),
) -> Result<Head, Malformed> {
    let damaged = Malformed { at: 0, what: "group head damaged or out of place" };
    let head = GroupHead::decode(group).ok_or(damaged)?;
    if !head.follows(store, before) || head.is_seal() || head.size() != group.len() {
        return Err(damaged);
    }
    let mut walk = Walk { at: HEAD, ..Walk::new(store, group, *before) };
    let mut records = 0;
    while walk.at < group.len() {
        let at = if records == 0 { 0 } else { walk.at };
        let shifted = |fault: Malformed| Malformed { at: fault.at + at, what: fault.what };
        each(walk.record(at).map_err(shifted)?);
        records += 1;
    }
    if records != head.records {
        return Err(Malformed { at: 40, what: "count of records differs" });
    }
    Ok(Head { hash: link(group), ..*walk.before() })
}
