//! `state.redb`: the whole derived layout on one screen, and how its rows are sealed.
//!
//! ```text
//! postings  term u128 BE · first position u64 BE   ->  seal · first version u64 · (gap to the next position, varint)*
//! rows      projection id 4 · ordered key bytes    ->  seal · commit u64 · position u64 · row
//! keys      lane u8 · number of the chunk u64      ->  seal · (key term u128 · commit u64 · until u64)*
//! meta      "state"                                ->  seal · StateMeta
//! seal := crc32c u32 of (table · key · what follows)
//! ```
//!
//! - A row moved to another key or table fails its seal.
//! - redb does not check its own checksums on ordinary reads: nothing from it is believed unsealed, and no panic of its leaves
//!   this file. What a seal cannot show is an absence; so keys are loaded into memory from numbered chunks, and the other
//!   tables keep a count and an order-free sum of their seals, which every open and `verify` compare.
//! - A posting chunk is never changed once written. Nor is a chunk of keys: it is removed when all of its keys have expired, from
//!   the front of its lane. Keys of one lane live about as long; keys in lane 0 for ever, and say no `until`.
//! - Plain `get`, `insert`, `remove` and `range` only.

use super::keys::{KeyUse, Moment};
use super::layer::{Direction, KeyRange, Layer, RowEntry, RowVersion, Span};
use super::overlay::{Drained, Postings};
use super::term::Term;
use super::varint;
use crate::codec;
use crate::disk::File;
use crate::error::{StorageError, TroubleKind};
use crate::log::record::{Kept, LayoutDecl};
use crate::log::{Hash, Head, StoreId};
use crate::order::{CommitNo, Position, Timestamp};
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, Table,
    TableDefinition,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const POSTINGS: TableDefinition<&[u8; 24], &[u8]> = TableDefinition::new("postings");
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
const KEYS: TableDefinition<(u8, u64), &[u8]> = TableDefinition::new("keys");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Layout of this file. A file with another number is rebuilt from the log.
const FORMAT: u32 = 2;
/// Positions in one posting chunk.
const CHUNK_POSITIONS: usize = 512;
/// Keys in one key chunk: two or three pages.
const CHUNK_KEYS: usize = 340;
/// Chunks of expired keys that one flush removes from a lane at most: more than a flush of the default size adds.
const EXPIRED_CHUNKS: usize = 4096;

/// Where derived state stands. Written with every flush, in the same redb transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateMeta {
    format: u32,
    pub store: [u8; 16],
    pub commit: u64,
    pub position: u64,
    pub time: u64,
    pub hash: [u8; 32],
    /// Commits with a key, up to this one.
    pub keys_used: u64,
    pub lanes: BTreeMap<u8, Lane>,
    pub postings: Sum,
    pub rows: Sum,
    pub layouts: Vec<StoredLayout>,
    pub projections: Vec<StoredProjection>,
}

/// Which chunks of keys a lane has: a missing one is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lane {
    /// The number of its first chunk, and of the one that is written next.
    pub first: u64,
    pub next: u64,
    /// Keys in them.
    pub keys: u64,
}

/// The layout of one event type, as the log declared it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredLayout {
    pub type_name: String,
    pub schema: u16,
    pub layout: String,
}

/// A projection whose rows are in here, up to the commit of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredProjection {
    pub name: String,
    pub version: u32,
    /// First bytes of all its row keys.
    pub id: [u8; 4],
}

/// How many rows a table has, and an order-free sum of their seals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub rows: u64,
    pub seals: u64,
}

impl Sum {
    fn add(&mut self, seal: u32) {
        self.rows += 1;
        self.seals = self.seals.wrapping_add(spread(seal));
    }

    fn remove(&mut self, seal: u32) {
        self.rows = self.rows.wrapping_sub(1);
        self.seals = self.seals.wrapping_sub(spread(seal));
    }
}

/// Spreads 32 bits over 64, so that sums of different rows seldom meet.
fn spread(seal: u32) -> u64 {
    (u64::from(seal) + 1)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(29)
        .wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

impl StateMeta {
    fn empty(store: StoreId) -> Self {
        let head = Head::empty(store);
        Self {
            format: FORMAT,
            store: store.0,
            commit: head.commit.0,
            position: head.position.0,
            time: head.time.0,
            hash: head.hash.0,
            keys_used: 0,
            lanes: BTreeMap::new(),
            postings: Sum::default(),
            rows: Sum::default(),
            layouts: Vec::new(),
            projections: Vec::new(),
        }
    }

    pub fn head(&self) -> Head {
        Head {
            commit: CommitNo(self.commit),
            position: Position(self.position),
            time: Timestamp(self.time),
            hash: Hash(self.hash),
        }
    }

    fn moment(&self) -> Moment {
        Moment { time: Timestamp(self.time), keys: self.keys_used }
    }

    fn move_to(&mut self, head: &Head) {
        (self.commit, self.position) = (head.commit.0, head.position.0);
        (self.time, self.hash) = (head.time.0, head.hash.0);
    }
}

fn damaged(what: impl Into<String>) -> StorageError {
    StorageError::new(TroubleKind::State, what)
}

fn trouble(error: impl Into<redb::Error>) -> StorageError {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match error.into() {
        // So redb calls a file that a crash left half-made, or that was cut off: damage, not the disk's refusal.
        redb::Error::Io(error) if matches!(error.kind(), InvalidData | UnexpectedEof) => {
            StorageError::caused(TroubleKind::State, "damaged", error)
        }
        error @ redb::Error::PreviousIo => {
            StorageError::caused(TroubleKind::Io, "could not be read or written before", error)
        }
        error @ redb::Error::DatabaseClosed => StorageError::caused(TroubleKind::Closed, "closed", error),
        redb::Error::Io(error) => StorageError::io("could not be read or written", error),
        error => StorageError::caused(TroubleKind::State, "damaged", error),
    }
}

/// Runs a piece of redb, on a file of this name. Its assertions fail on damaged files: that is damage, not a bug of the caller.
fn guard<T>(name: &str, run: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(damaged("damaged: redb panicked")))
        .map_err(|error| error.of(name))
}

// ---- sealed rows ----

fn seal_of(table: &str, key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(table.as_bytes()), key), body)
}

fn seal(table: &str, key: &[u8], out: &mut [u8]) -> u32 {
    let (head, body) = out.split_at_mut(4);
    let seal = seal_of(table, key, body);
    head.copy_from_slice(&seal.to_le_bytes());
    seal
}

fn unseal<'a>(table: &str, key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], StorageError> {
    match bytes.split_at_checked(4) {
        Some((head, body)) if head == seal_of(table, key, body).to_le_bytes() => Ok(body),
        _ => Err(damaged(format!("a row of table `{table}` is damaged"))),
    }
}

/// The seal as it is written, for the sums; whether it is right is asked elsewhere.
fn written_seal(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |head| u32::from_le_bytes(*head))
}

fn posting_key(term: Term, first: Position) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&term.to_be_bytes());
    key[16..].copy_from_slice(&first.0.to_be_bytes());
    key
}

fn encode_chunk(term: Term, first_version: u64, positions: &[Position]) -> ([u8; 24], Vec<u8>) {
    let key = posting_key(term, positions[0]);
    let mut out = vec![0; 4];
    out.extend(first_version.to_le_bytes());
    for pair in positions.windows(2) {
        varint::put(&mut out, pair[1].0 - pair[0].0);
    }
    seal("postings", &key, &mut out);
    (key, out)
}

fn decode_chunk(key: &[u8; 24], bytes: &[u8]) -> Result<Postings, StorageError> {
    let malformed = || damaged("a posting chunk does not decode");
    let body = unseal("postings", key, bytes)?;
    let (version, mut gaps) = body.split_first_chunk().ok_or_else(malformed)?;
    let first = Position(u64::from_be_bytes(*key.last_chunk().expect("a posting key has 24 bytes")));
    let mut positions = vec![first];
    let mut last = first.0;
    while !gaps.is_empty() {
        last = last.checked_add(varint::take(&mut gaps).ok_or_else(malformed)?).ok_or_else(malformed)?;
        positions.push(Position(last));
    }
    Ok(Postings { first_version: u64::from_le_bytes(*version), positions })
}

fn encode_row(key: &[u8], version: &RowVersion, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + value.len());
    out.extend([0; 4]);
    out.extend(version.commit.0.to_le_bytes());
    out.extend(version.position.0.to_le_bytes());
    out.extend(value);
    seal("rows", key, &mut out);
    out
}

fn decode_row(key: &[u8], bytes: &[u8]) -> Result<RowVersion, StorageError> {
    let malformed = || damaged("a row does not decode");
    let body = unseal("rows", key, bytes)?;
    let (commit, rest) = body.split_first_chunk().ok_or_else(malformed)?;
    let (position, value) = rest.split_first_chunk().ok_or_else(malformed)?;
    Ok(RowVersion {
        commit: CommitNo(u64::from_le_bytes(*commit)),
        position: Position(u64::from_le_bytes(*position)),
        value: Some(Arc::from(value)),
    })
}

/// Lanes from here on are of keys kept by time, and by count; see `KeyUse`.
const LANES_BY_TIME: u8 = 64;
const LANES_BY_COUNT: u8 = 128;

fn chunk_key(lane: u8, number: u64) -> [u8; 9] {
    let mut key = [lane; 9];
    key[1..].copy_from_slice(&number.to_le_bytes());
    key
}

fn encode_keys(lane: u8, number: u64, keys: &[(Term, KeyUse)]) -> Vec<u8> {
    let mut out = vec![0; 4];
    for (term, used) in keys {
        out.extend(term.to_le_bytes());
        out.extend(used.commit.0.to_le_bytes());
        match used.kept {
            Kept::Forever => {}
            Kept::UntilTime(Timestamp(until)) | Kept::UntilKeys(until) => out.extend(until.to_le_bytes()),
        }
    }
    seal("keys", &chunk_key(lane, number), &mut out);
    out
}

fn decode_keys(lane: u8, number: u64, bytes: &[u8]) -> Result<Vec<(Term, CommitNo, Kept)>, StorageError> {
    let body = unseal("keys", &chunk_key(lane, number), bytes)?;
    let entries = body.chunks_exact(if lane == 0 { 24 } else { 32 });
    if !entries.remainder().is_empty() {
        return Err(damaged("a key chunk does not decode"));
    }
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    let decode = |entry: &[u8]| {
        let term = Term::from_le_bytes(entry[..16].try_into().expect("16 bytes"));
        let kept = match lane {
            ..LANES_BY_TIME => Kept::Forever,
            LANES_BY_TIME..LANES_BY_COUNT => Kept::UntilTime(Timestamp(word(&entry[24..]))),
            LANES_BY_COUNT.. => Kept::UntilKeys(word(&entry[24..])),
        };
        (term, CommitNo(word(&entry[16..24])), kept)
    };
    Ok(entries.map(decode).collect())
}

// ---- the file ----

/// redb on a file of ours. The store's own lock keeps others out, so redb's is not asked for.
#[derive(Debug)]
struct Backend(Box<dyn File>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

/// A database that is closed without a panic: closing it is a commit, and asserts as much as any other.
#[derive(Debug)]
struct Guarded(Option<Database>);

impl std::ops::Deref for Guarded {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("only dropping takes it")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let db = self.0.take();
        // What is damaged is noticed by the next open.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}

/// Derived state on disk. Owned by the flusher, its only writer.
#[derive(Debug)]
pub(crate) struct Tables {
    /// Of the file, as errors call it.
    name: Arc<str>,
    db: Guarded,
    meta: StateMeta,
}

impl Tables {
    /// Opens what is there, or starts empty in an empty file. `None`: there is something, and it is not usable.
    pub fn open(name: &str, file: Box<dyn File>, cache_bytes: usize) -> Result<Option<Self>, StorageError> {
        let opened = guard(name, || {
            let name = Arc::from(name);
            let empty = file.len().map_err(|error| StorageError::io("could not be read", error))? == 0;
            let db = Database::builder()
                .set_cache_size(cache_bytes)
                .create_with_backend(Backend(file))
                .map_err(trouble)?;
            let db = Guarded(Some(db));
            if empty {
                return Ok(Some(Self { name, db, meta: StateMeta::empty(StoreId([0; 16])) }));
            }
            let read = db.begin_read().map_err(trouble)?;
            let table = read.open_table(META).map_err(trouble)?;
            let Some(bytes) = table.get("state").map_err(trouble)? else { return Ok(None) };
            let body = unseal("meta", b"state", bytes.value())?;
            let meta: StateMeta = codec::decode(body).map_err(|_| damaged("the head does not decode"))?;
            drop((bytes, table, read));
            Ok((meta.format == FORMAT).then_some(Self { name, db, meta }))
        });
        match opened {
            Err(error) if error.is_rebuildable() => Ok(None),
            opened => opened,
        }
    }

    pub fn meta(&self) -> &StateMeta {
        &self.meta
    }

    /// Says whose state it is to be. `false`: it is another store's.
    pub fn claim(&mut self, store: StoreId) -> bool {
        if self.meta.commit == 0 {
            self.meta = StateMeta::empty(store);
        }
        self.meta.store == store.0
    }

    /// A snapshot for readers, with its tables open.
    pub fn base(&self) -> Result<Base, StorageError> {
        if self.meta.commit == 0 {
            return Ok(Base::Empty);
        }
        guard(&self.name, || {
            let read = self.db.begin_read().map_err(trouble)?;
            Ok(Base::Snapshot(Box::new(Snapshot {
                name: self.name.clone(),
                head: self.meta.head(),
                postings: read.open_table(POSTINGS).map_err(trouble)?,
                rows: read.open_table(ROWS).map_err(trouble)?,
                keys: read.open_table(KEYS).map_err(trouble)?,
                meta: self.meta.clone(),
            })))
        })
    }

    /// Writes a drained overlay and the head it leads to, in one transaction. `projections` says whose rows are kept.
    ///
    /// Returns keys that had expired at that head, and are not in here any more.
    pub fn flush(
        &mut self,
        drained: Drained,
        head: &Head,
        keys_used: u64,
        projections: &[StoredProjection],
    ) -> Result<Vec<(Term, CommitNo)>, StorageError> {
        assert!(head.commit.0 >= self.meta.commit, "derived state never goes back");
        let mut meta = self.meta.clone();
        meta.move_to(head);
        meta.keys_used = keys_used;
        let mut expired = Vec::new();
        meta.projections = projections.to_vec();
        meta.layouts.extend(drained.layouts.iter().map(StoredLayout::from));
        guard(&self.name, || {
            let mut write = self.db.begin_write().map_err(trouble)?;
            write.set_durability(Durability::Immediate).map_err(trouble)?;
            write.set_quick_repair(true);
            {
                let mut table = write.open_table(POSTINGS).map_err(trouble)?;
                flush_postings(&mut table, &drained.postings, &mut meta.postings)?;
                let mut table = write.open_table(ROWS).map_err(trouble)?;
                flush_rows(&mut table, &drained.rows, &mut meta.rows)?;
                let mut table = write.open_table(KEYS).map_err(trouble)?;
                flush_keys(&mut table, &drained.keys, &mut meta)?;
                expired = remove_expired(&mut table, &mut meta)?;
                let mut table = write.open_table(META).map_err(trouble)?;
                flush_meta(&mut table, &meta)?;
            }
            write.commit().map_err(trouble)
        })?;
        self.meta = meta;
        Ok(expired)
    }

    /// Removes every row of a projection, in transactions of bounded size. `projections` are those that stay.
    pub fn forget_rows(&mut self, id: [u8; 4], projections: &[StoredProjection]) -> Result<(), StorageError> {
        loop {
            let mut meta = self.meta.clone();
            meta.projections = projections.to_vec();
            let done = guard(&self.name, || {
                let mut write = self.db.begin_write().map_err(trouble)?;
                write.set_quick_repair(true);
                let done = {
                    let mut rows = write.open_table(ROWS).map_err(trouble)?;
                    let some = some_keys(&rows, id, 100_000)?;
                    for key in &some {
                        if let Some(old) = rows.remove(key.as_slice()).map_err(trouble)? {
                            meta.rows.remove(written_seal(old.value()));
                        }
                    }
                    let mut table = write.open_table(META).map_err(trouble)?;
                    flush_meta(&mut table, &meta)?;
                    some.is_empty()
                };
                write.commit().map_err(trouble)?;
                Ok(done)
            })?;
            self.meta = meta;
            if done {
                return Ok(());
            }
        }
    }
}

impl From<StoredLayout> for LayoutDecl {
    fn from(stored: StoredLayout) -> Self {
        Self { type_name: stored.type_name, schema: stored.schema, layout: stored.layout }
    }
}

impl From<&LayoutDecl> for StoredLayout {
    fn from(decl: &LayoutDecl) -> Self {
        Self { type_name: decl.type_name.to_string(), schema: decl.schema, layout: decl.layout.to_string() }
    }
}

fn some_keys(rows: &Table<&[u8], &[u8]>, id: [u8; 4], limit: usize) -> Result<Vec<Vec<u8>>, StorageError> {
    let range = table_range(id);
    let found = rows.range::<&[u8]>(range.as_bounds()).map_err(trouble)?;
    found.take(limit).map(|entry| Ok(entry.map_err(trouble)?.0.value().to_vec())).collect()
}

/// All row keys of one projection.
pub(crate) fn table_range(id: [u8; 4]) -> KeyRange {
    let next = u32::from_be_bytes(id).checked_add(1).map(|next| next.to_be_bytes().to_vec());
    KeyRange { lower: Bound::Included(id.to_vec()), upper: next.map_or(Bound::Unbounded, Bound::Excluded) }
}

fn flush_postings(
    table: &mut Table<&[u8; 24], &[u8]>,
    postings: &[(Term, Postings)],
    sum: &mut Sum,
) -> Result<(), StorageError> {
    for (term, postings) in postings {
        let mut version = postings.first_version;
        for positions in postings.positions.chunks(CHUNK_POSITIONS) {
            let (key, value) = encode_chunk(*term, version, positions);
            if let Some(old) = table.insert(&key, value.as_slice()).map_err(trouble)? {
                sum.remove(written_seal(old.value()));
            }
            sum.add(written_seal(&value));
            version += if version == 0 { 0 } else { positions.len() as u64 };
        }
    }
    Ok(())
}

fn flush_rows(table: &mut Table<&[u8], &[u8]>, rows: &[RowEntry], sum: &mut Sum) -> Result<(), StorageError> {
    for (key, version) in rows {
        let old = match &version.value {
            Some(value) => {
                let value = encode_row(key, version, value);
                sum.add(written_seal(&value));
                table.insert(&**key, value.as_slice()).map_err(trouble)?
            }
            None => table.remove(&**key).map_err(trouble)?,
        };
        if let Some(old) = old {
            sum.remove(written_seal(old.value()));
        }
    }
    Ok(())
}

/// `keys` are sorted by lane, then by commit.
fn flush_keys(
    table: &mut Table<(u8, u64), &[u8]>,
    keys: &[(Term, KeyUse)],
    meta: &mut StateMeta,
) -> Result<(), StorageError> {
    for keys in keys.chunk_by(|(_, a), (_, b)| a.lane == b.lane) {
        let number = keys[0].1.lane;
        let lane = meta.lanes.entry(number).or_default();
        for keys in keys.chunks(CHUNK_KEYS) {
            let chunk = encode_keys(number, lane.next, keys);
            table.insert((number, lane.next), chunk.as_slice()).map_err(trouble)?;
            lane.next += 1;
            lane.keys += keys.len() as u64;
        }
    }
    Ok(())
}

/// Removes chunks from the front of their lanes for as long as all of their keys have expired.
fn remove_expired(
    table: &mut Table<(u8, u64), &[u8]>,
    meta: &mut StateMeta,
) -> Result<Vec<(Term, CommitNo)>, StorageError> {
    let (now, mut expired) = (meta.moment(), Vec::new());
    for (number, lane) in meta.lanes.range_mut(LANES_BY_TIME..) {
        for _ in 0..EXPIRED_CHUNKS.min((lane.next - lane.first) as usize) {
            let keys = chunk_of(table, *number, lane.first)?;
            if !keys.iter().all(|(_, _, kept)| kept.is_over(now)) {
                break;
            }
            table.remove((*number, lane.first)).map_err(trouble)?;
            lane.first += 1;
            lane.keys = lane.keys.checked_sub(keys.len() as u64).ok_or_else(keys_missing)?;
            expired.extend(keys.into_iter().map(|(term, commit, _)| (term, commit)));
        }
    }
    Ok(expired)
}

fn chunk_of(
    table: &impl ReadableTable<(u8, u64), &'static [u8]>,
    lane: u8,
    number: u64,
) -> Result<Vec<(Term, CommitNo, Kept)>, StorageError> {
    let chunk = table.get((lane, number)).map_err(trouble)?.ok_or_else(keys_missing)?;
    decode_keys(lane, number, chunk.value())
}

fn keys_missing() -> StorageError {
    damaged("keys are missing")
}

fn flush_meta(table: &mut Table<&str, &[u8]>, meta: &StateMeta) -> Result<(), StorageError> {
    let mut out = vec![0; 4];
    out.extend(codec::encode(meta).map_err(|error| damaged(format!("the head: {error}")))?);
    seal("meta", b"state", &mut out);
    table.insert("state", out.as_slice()).map_err(trouble)?;
    Ok(())
}

// ---- reading ----

/// The layer at the bottom: derived state as the last flush left it.
#[derive(Debug)]
pub(crate) enum Base {
    /// Nothing was flushed yet, or nothing ever is.
    Empty,
    Snapshot(Box<Snapshot>),
}

/// One redb snapshot with its tables open.
pub(crate) struct Snapshot {
    name: Arc<str>,
    head: Head,
    postings: ReadOnlyTable<&'static [u8; 24], &'static [u8]>,
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    keys: ReadOnlyTable<(u8, u64), &'static [u8]>,
    meta: StateMeta,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("head", &self.head).finish_non_exhaustive()
    }
}

impl Base {
    pub fn commit(&self) -> CommitNo {
        match self {
            Self::Empty => CommitNo::START,
            Self::Snapshot(snapshot) => snapshot.head.commit,
        }
    }

    /// Commits with a key, up to its own.
    pub fn keys(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Snapshot(snapshot) => snapshot.meta.keys_used,
        }
    }

    /// Every key that is kept at this commit, each once: an earlier use was over before it was used again. Fails where a chunk is
    /// missing or damaged.
    pub fn each_key(&self, mut each: impl FnMut(Term, CommitNo)) -> Result<(), StorageError> {
        let Self::Snapshot(snapshot) = self else { return Ok(()) };
        guard(&snapshot.name, || {
            let now = snapshot.meta.moment();
            for (number, lane) in &snapshot.meta.lanes {
                let mut keys_len = 0;
                for chunk in lane.first..lane.next {
                    let keys = chunk_of(&snapshot.keys, *number, chunk)?;
                    keys_len += keys.len() as u64;
                    let kept = keys.into_iter().filter(|(_, _, kept)| !kept.is_over(now));
                    kept.for_each(|(term, commit, _)| each(term, commit));
                }
                if keys_len != lane.keys {
                    return Err(keys_missing());
                }
            }
            Ok(())
        })
    }

    /// Reads every row of every table, and compares counts and sums with what the last flush wrote.
    ///
    /// `each_posting` and `each_row` see all of them, in order.
    pub fn check(
        &self,
        mut each_posting: impl FnMut(Term, Postings) -> Result<(), StorageError>,
        mut each_row: impl FnMut(&[u8], RowVersion) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let Self::Snapshot(snapshot) = self else { return Ok(()) };
        guard(&snapshot.name, || {
            let mut postings = Sum::default();
            for entry in snapshot.postings.range::<&[u8; 24]>(..).map_err(trouble)? {
                let (key, value) = entry.map_err(trouble)?;
                postings.add(written_seal(value.value()));
                let term = Term::from_be_bytes(*key.value().first_chunk().expect("16 of 24 bytes"));
                each_posting(term, decode_chunk(key.value(), value.value())?)?;
            }
            let mut rows = Sum::default();
            for entry in snapshot.rows.range::<&[u8]>(..).map_err(trouble)? {
                let (key, value) = entry.map_err(trouble)?;
                rows.add(written_seal(value.value()));
                each_row(key.value(), decode_row(key.value(), value.value())?)?;
            }
            match (postings == snapshot.meta.postings, rows == snapshot.meta.rows) {
                (true, true) => Ok(()),
                (false, _) => Err(damaged("postings are missing, or doubled")),
                (_, false) => Err(damaged("projection rows are missing, or doubled")),
            }
        })
    }

    /// Rows that `check` would read.
    pub fn rows_to_check(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Snapshot(snapshot) => snapshot.meta.postings.rows + snapshot.meta.rows.rows,
        }
    }

    /// Compares the tables with their sums: what a seal cannot show is a row that is not found any more.
    ///
    /// `go_on` is asked for every row; once it says no, the comparison ends without a finding.
    pub fn scrub(&self, go_on: impl Fn() -> bool) -> Result<(), StorageError> {
        let stopped = || StorageError::new(TroubleKind::Closed, "not compared to the end");
        let ask = || if go_on() { Ok(()) } else { Err(stopped()) };
        match self.check(|_, _| ask(), |_, _| ask()) {
            Err(error) if !error.is_rebuildable() && !go_on() => Ok(()),
            compared => compared,
        }
    }

    /// Rows in the tables, for `stats`.
    pub fn row_count(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Snapshot(snapshot) => snapshot.meta.rows.rows,
        }
    }
}

impl Snapshot {
    fn row(&self, key: &[u8]) -> Result<Option<RowVersion>, StorageError> {
        match self.rows.get(key).map_err(trouble)? {
            Some(value) => decode_row(key, value.value()).map(Some),
            None => Ok(None),
        }
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<RowEntry>, StorageError> {
        let mut rows = self.rows.range::<&[u8]>(range.as_bounds()).map_err(trouble)?;
        let mut found = Vec::new();
        while found.len() < limit {
            let entry = match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.next_back(),
            };
            let Some(entry) = entry else { break };
            let (key, value) = entry.map_err(trouble)?;
            found.push((Arc::from(key.value()), decode_row(key.value(), value.value())?));
        }
        Ok(found)
    }

    /// The chunks of a term that may touch the span, nearest first.
    fn chunks(
        &self,
        term: Term,
        span: Span,
        direction: Direction,
        mut each: impl FnMut(Postings) -> bool,
    ) -> Result<(), StorageError> {
        if span.is_empty() {
            return Ok(());
        }
        // The chunk that begins at or before the span's start may reach into it.
        let low = posting_key(term, Position(0));
        let start = posting_key(term, span.after.next());
        let end = posting_key(term, span.through);
        let mut before = self.postings.range::<&[u8; 24]>(&low..&start).map_err(trouble)?;
        let mut within = self.postings.range::<&[u8; 24]>(&start..=&end).map_err(trouble)?;
        let mut visit =
            |entry: Option<Result<(redb::AccessGuard<&[u8; 24]>, redb::AccessGuard<&[u8]>), _>>| {
                let Some(entry) = entry else { return Ok(false) };
                let (key, value) = entry.map_err(trouble)?;
                Ok::<_, StorageError>(each(decode_chunk(key.value(), value.value())?))
            };
        match direction {
            Direction::Forward => {
                let reaching = before.next_back();
                if reaching.is_some() && !visit(reaching)? {
                    return Ok(());
                }
                while visit(within.next())? {}
            }
            Direction::Backward => {
                while let Some(chunk) = within.next_back() {
                    if !visit(Some(chunk))? {
                        return Ok(());
                    }
                }
                visit(before.next_back())?;
            }
        }
        Ok(())
    }
}

impl Layer for Base {
    fn row(&self, key: &[u8], _: CommitNo) -> Result<Option<RowVersion>, StorageError> {
        let Self::Snapshot(snapshot) = self else { return Ok(None) };
        guard(&snapshot.name, || snapshot.row(key))
    }

    fn rows(
        &self,
        range: &KeyRange,
        direction: Direction,
        _: CommitNo,
        limit: usize,
    ) -> Result<Vec<RowEntry>, StorageError> {
        let Self::Snapshot(snapshot) = self else { return Ok(Vec::new()) };
        guard(&snapshot.name, || snapshot.scan(range, direction, limit))
    }

    fn positions(
        &self,
        term: Term,
        span: Span,
        direction: Direction,
        limit: usize,
        out: &mut Vec<Position>,
    ) -> Result<(), StorageError> {
        let Self::Snapshot(snapshot) = self else { return Ok(()) };
        let mut room = limit;
        guard(&snapshot.name, || {
            snapshot.chunks(term, span, direction, |postings| {
                let before = out.len();
                postings.select(span, direction, room, out);
                room -= out.len() - before;
                room > 0
            })
        })
    }

    fn stream_version(&self, stream: Term, through: Position) -> Result<Option<u64>, StorageError> {
        let Self::Snapshot(snapshot) = self else { return Ok(None) };
        guard(&snapshot.name, || {
            // The last chunk that begins at or before `through` has it: chunks of a stream leave no position out.
            let (low, high) = (posting_key(stream, Position(0)), posting_key(stream, through));
            let last = snapshot.postings.range::<&[u8; 24]>(&low..=&high).map_err(trouble)?.next_back();
            let Some(entry) = last else { return Ok(None) };
            let (key, value) = entry.map_err(trouble)?;
            Ok(decode_chunk(key.value(), value.value())?.version(through))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back_whatever_the_gaps_between_them() {
        let mut last = 0;
        let positions: Vec<Position> = (0..62)
            .flat_map(|bits| [1 << bits, (1 << bits) + 1])
            .map(|gap: u64| {
                last += gap;
                Position(last)
            })
            .take_while(|position| position.0 < u64::MAX / 2)
            .collect();
        let (key, bytes) = encode_chunk(7, 3, &positions);
        let decoded = decode_chunk(&key, &bytes).unwrap();
        assert_eq!((decoded.first_version, decoded.positions), (3, positions));
    }
}
