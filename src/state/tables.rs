//! `state.redb`: the whole derived layout on one screen.
//!
//! ```text
//! postings  term u128 BE · first position u64 BE   ->  seal · first version u64 · (gap to the next position, varint)*
//! rows      projection id 4 · ordered key bytes    ->  seal · commit u64 · position u64 · row
//! keys      lane u8 · number of the chunk u64      ->  seal · (key term u128 · commit u64 · until u64)*
//! meta      "state"                                ->  seal · StateMeta
//! seal := crc32c u32 of (table · key · what follows)
//! ```
//!
//! - redb does not check its own checksums on ordinary reads: it runs on `blocks`, which check every byte it reads from disk.
//! - A seal shows damage to a row by a bug, ours or redb's. An absence has no seal: keys are loaded into memory from numbered
//!   chunks, and the other tables keep a count and an order-free sum of their seals, which the scrub and `verify` compare.
//! - No panic of redb's leaves this file.
//! - A posting chunk is never changed once written. Nor is a chunk of keys: it is removed when all of its keys have expired, from
//!   the front of its lane. Keys of one lane live about as long; keys in lane 0 for ever, and say no `until`.
//! - Plain `get`, `insert`, `remove` and `range` only.

use super::blocks::Blocks;
use super::keys::KeyUse;
use super::layer::{Direction, KeyRange, Layer, RowEntry, RowVersion, Span};
use super::meta::{StateMeta, Sum};
use super::overlay::{Drained, InlineSet, Postings};
use super::sealed::{
    LANES_BY_TIME, damaged, decode_chunk, decode_keys, decode_row, encode_chunk, encode_keys, encode_row,
    posting_key, seal, unseal,
};
use super::term::Term;
use crate::codec;
use crate::disk::File;
use crate::error::{StorageError, TroubleKind};
use crate::log::record::Kept;
use crate::log::{Head, StoreId};
use crate::order::{CommitNo, Position};
use redb::{
    Database, DatabaseError, Durability, ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase, ReadableTable,
    StorageBackend, Table, TableDefinition, TableError,
};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub(crate) use super::meta::{Divergence, StoredProjection, StoredRow};

const POSTINGS: TableDefinition<&[u8; 24], &[u8]> = TableDefinition::new("postings");
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
const KEYS: TableDefinition<(u8, u64), &[u8]> = TableDefinition::new("keys");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Positions in one posting chunk.
const CHUNK_POSITIONS: usize = 512;
/// Keys in one key chunk: two or three pages.
const CHUNK_KEYS: usize = 340;
/// A file that is at least as long as this is compacted when it is opened, if its rows take a fifth of it or less, and no more
/// than can be moved in a second or two.
const COMPACTED_BYTES_MIN: u64 = 8 << 20;
const COMPACTED_ROWS_BYTES_MAX: u64 = 256 << 20;
/// Chunks of expired keys that one flush removes from a lane at most: more than a flush of the default size adds.
const EXPIRED_CHUNKS: usize = 4096;

fn trouble(error: impl Into<redb::Error>) -> StorageError {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match error.into() {
        // The name redb has for a file that a crash left half-made, or that was cut off: damage, not the disk's refusal.
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

/// Runs a piece of redb on a file. Its assertions fail on damaged files: that is damage, not a bug of the caller.
fn guard<T>(file: &NamedFile, run: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    let result = catch_unwind(AssertUnwindSafe(run));
    let result = result.unwrap_or_else(|_| Err(damaged("damaged: redb panicked")));
    let failed = |error: StorageError| match file.blocks.damage() {
        // After a failed read redb fails every other one, and no longer says why.
        Some(what) if error.ends_handle() => damaged(format!("damaged: {what}")),
        _ => error,
    };
    result.map_err(|error| failed(error).of(&file.name))
}

// ---- the file ----

/// A file and its name in errors.
#[derive(Debug, Clone)]
struct NamedFile {
    name: Arc<str>,
    blocks: Arc<Blocks>,
}

impl NamedFile {
    fn open(name: &str, file: Box<dyn File>) -> Result<Self, StorageError> {
        let blocks = Blocks::open(name, file).map_err(trouble).map_err(|error| error.of(name))?;
        Ok(Self { name: Arc::from(name), blocks: Arc::new(blocks) })
    }
}

/// redb on blocks of ours. The store's own lock keeps others out, so redb's is not asked for.
#[derive(Debug)]
struct Backend(Arc<Blocks>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
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
        // Damage is noticed by the next open.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}

/// Returns `None` in place of a damaged file.
fn usable<T>(opened: Result<Option<T>, StorageError>) -> Result<Option<T>, StorageError> {
    match opened {
        Err(error) if error.is_rebuildable() => Ok(None),
        opened => opened,
    }
}

/// Returns the head of the file, `None` if it is of another format.
fn read_meta(db: &impl ReadableDatabase) -> Result<Option<StateMeta>, StorageError> {
    let read = db.begin_read().map_err(trouble)?;
    let table = match read.open_table(META) {
        Ok(table) => table,
        // The first flush makes all tables: it was closed before.
        Err(TableError::TableDoesNotExist(_)) => return Ok(Some(StateMeta::empty(StoreId([0; 16])))),
        Err(error) => return Err(trouble(error)),
    };
    let Some(bytes) = table.get("state").map_err(trouble)? else { return Ok(None) };
    let body = unseal("meta", b"state", bytes.value())?;
    let meta: StateMeta = codec::decode(body).map_err(|_| damaged("the head does not decode"))?;
    Ok(meta.is_of_this_format().then_some(meta))
}

/// Derived state on disk that is read and never written.
pub(crate) struct ReadOnlyTables {
    file: NamedFile,
    db: ReadOnly,
    meta: StateMeta,
}

enum ReadOnly {
    Whole(ReadOnlyDatabase),
    /// One that a crash left for redb to repair, which writes: to a file that keeps it in memory.
    Repaired(Guarded),
}

impl ReadOnlyTables {
    /// Opens the file. `None` if it holds something that is not usable.
    ///
    /// What redb writes to repair it goes to `file`, which keeps it from the disk.
    pub fn open(name: &str, file: Box<dyn File>, cache_bytes: usize) -> Result<Option<Self>, StorageError> {
        usable(NamedFile::open(name, file).and_then(|file| Self::open_named(file, cache_bytes)))
    }

    fn open_named(file: NamedFile, cache_bytes: usize) -> Result<Option<Self>, StorageError> {
        let opened = guard(&file, || {
            let backend = Backend(file.blocks.clone());
            // Unlike a `Database` it writes nothing when it is closed, which takes longer than opening it.
            match Database::builder().set_cache_size(cache_bytes).open_read_only_with_backend(backend) {
                Ok(db) => Ok(read_meta(&db)?.map(|meta| (ReadOnly::Whole(db), meta))),
                Err(DatabaseError::RepairAborted) => {
                    let opened = Tables::open_named(file.clone(), cache_bytes)?;
                    Ok(opened.map(|Tables { db, meta, .. }| (ReadOnly::Repaired(db), meta)))
                }
                Err(error) => Err(trouble(error)),
            }
        })?;
        Ok(opened.map(|(db, meta)| Self { file, db, meta }))
    }

    pub fn meta(&self) -> &StateMeta {
        &self.meta
    }

    /// Returns a snapshot for readers, with its tables open.
    pub fn base(&self) -> Result<Base, StorageError> {
        match &self.db {
            ReadOnly::Whole(db) => Base::of(&self.file, db, &self.meta),
            ReadOnly::Repaired(db) => Base::of(&self.file, &**db, &self.meta),
        }
    }
}

/// Derived state on disk. Owned by the flusher, its only writer.
#[derive(Debug)]
pub(crate) struct Tables {
    file: NamedFile,
    db: Guarded,
    meta: StateMeta,
}

impl Tables {
    /// Opens the file, or starts empty in an empty one. `None` if it holds something that is not usable.
    ///
    /// The name is the file's role: a file that was written under another one is not usable.
    pub fn open(name: &str, file: Box<dyn File>, cache_bytes: usize) -> Result<Option<Self>, StorageError> {
        let opened = NamedFile::open(name, file).and_then(|file| Self::open_named(file, cache_bytes));
        let compacted = opened.and_then(|opened| {
            let Some(mut tables) = opened else { return Ok(None) };
            guard(&tables.file.clone(), || tables.compact())?;
            Ok(Some(tables))
        });
        usable(compacted)
    }

    fn open_named(file: NamedFile, cache_bytes: usize) -> Result<Option<Self>, StorageError> {
        guard(&file.clone(), || {
            let db = Database::builder()
                .set_cache_size(cache_bytes)
                .create_with_backend(Backend(file.blocks.clone()))
                .map_err(trouble)?;
            let db = Guarded(Some(db));
            Ok(read_meta(&*db)?.map(|meta| Self { file, db, meta }))
        })
    }

    /// Gives back space if most of the file is free. Nobody may read yet.
    fn compact(&mut self) -> Result<(), StorageError> {
        let (bytes, rows) = (self.file.blocks.extent(), self.meta.rows_bytes());
        if bytes >= COMPACTED_BYTES_MIN && rows <= bytes / 5 && rows <= COMPACTED_ROWS_BYTES_MAX {
            let db = self.db.0.as_mut().expect("only dropping takes it");
            db.compact().map_err(trouble)?;
        }
        Ok(())
    }

    pub fn meta(&self) -> &StateMeta {
        &self.meta
    }

    /// Binds the state to a store. Returns `false` if it is another store's.
    pub fn claim(&mut self, store: StoreId) -> bool {
        if self.meta.commit == 0 {
            self.meta = StateMeta::empty(store);
        }
        self.meta.store == store.0
    }

    /// Returns a snapshot for readers, with its tables open.
    pub fn base(&self) -> Result<Base, StorageError> {
        Base::of(&self.file, &*self.db, &self.meta)
    }

    /// Writes a drained overlay and the head it leads to, in one transaction. Rows of `projections` are kept.
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
        meta.declare(&drained.layouts);
        if let Some(inline) = drained.inline {
            meta.inline = Some(inline.to_vec());
        }
        guard(&self.file, || {
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
            let done = guard(&self.file, || {
                let mut write = self.db.begin_write().map_err(trouble)?;
                write.set_quick_repair(true);
                let done = {
                    let mut rows = write.open_table(ROWS).map_err(trouble)?;
                    let some = some_keys(&rows, id, 100_000)?;
                    for key in &some {
                        if let Some(old) = rows.remove(key.as_slice()).map_err(trouble)? {
                            meta.rows.remove(key, old.value());
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
                sum.remove(&key, old.value());
            }
            sum.add(&key, &value);
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
                sum.add(key, &value);
                table.insert(&**key, value.as_slice()).map_err(trouble)?
            }
            None => table.remove(&**key).map_err(trouble)?,
        };
        if let Some(old) = old {
            sum.remove(key, old.value());
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
            lane.bytes += chunk.len() as u64;
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
            if let Some(chunk) = table.remove((*number, lane.first)).map_err(trouble)? {
                lane.bytes = lane.bytes.saturating_sub(chunk.value().len() as u64);
            }
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
    /// No state: nothing was flushed yet, or nothing ever is.
    Empty,
    Snapshot(Box<Snapshot>),
}

/// One redb snapshot with its tables open.
pub(crate) struct Snapshot {
    file: NamedFile,
    head: Head,
    postings: ReadOnlyTable<&'static [u8; 24], &'static [u8]>,
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    keys: ReadOnlyTable<(u8, u64), &'static [u8]>,
    meta: StateMeta,
    inline: Option<InlineSet>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("head", &self.head).finish_non_exhaustive()
    }
}

impl Base {
    fn of(file: &NamedFile, db: &impl ReadableDatabase, meta: &StateMeta) -> Result<Self, StorageError> {
        if meta.commit == 0 {
            return Ok(Self::Empty);
        }
        guard(file, || {
            let read = db.begin_read().map_err(trouble)?;
            Ok(Self::Snapshot(Box::new(Snapshot {
                file: file.clone(),
                head: meta.head(),
                postings: read.open_table(POSTINGS).map_err(trouble)?,
                rows: read.open_table(ROWS).map_err(trouble)?,
                keys: read.open_table(KEYS).map_err(trouble)?,
                meta: meta.clone(),
                inline: meta.inline.as_deref().map(InlineSet::from),
            })))
        })
    }

    pub fn commit(&self) -> CommitNo {
        match self {
            Self::Empty => CommitNo::START,
            Self::Snapshot(snapshot) => snapshot.head.commit,
        }
    }

    /// Returns the number of commits with a key, up to its own.
    pub fn keys(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Snapshot(snapshot) => snapshot.meta.keys_used,
        }
    }

    /// Returns the inline projections that the log declared last, up to its own commit.
    pub fn inline(&self) -> Option<InlineSet> {
        match self {
            Self::Empty => None,
            Self::Snapshot(snapshot) => snapshot.inline.clone(),
        }
    }

    /// Calls `each` with every key that is kept at this commit, once: an earlier use was over before the key was used again.
    /// Fails if a chunk is missing or damaged.
    pub fn each_key(&self, mut each: impl FnMut(Term, CommitNo)) -> Result<(), StorageError> {
        let Self::Snapshot(snapshot) = self else { return Ok(()) };
        guard(&snapshot.file, || {
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

    /// Reads all postings and rows, and compares counts and sums with those of the last flush.
    ///
    /// `each_posting` and `each_row` see all of them, in order.
    pub fn check(
        &self,
        mut each_posting: impl FnMut(Term, Postings) -> Result<(), StorageError>,
        mut each_row: impl FnMut(&[u8], RowVersion) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let Self::Snapshot(snapshot) = self else { return Ok(()) };
        guard(&snapshot.file, || {
            let mut postings = Sum::default();
            for entry in snapshot.postings.range::<&[u8; 24]>(..).map_err(trouble)? {
                let (key, value) = entry.map_err(trouble)?;
                postings.add(key.value(), value.value());
                let term = Term::from_be_bytes(*key.value().first_chunk().expect("16 of 24 bytes"));
                each_posting(term, decode_chunk(key.value(), value.value())?)?;
            }
            let mut rows = Sum::default();
            for entry in snapshot.rows.range::<&[u8]>(..).map_err(trouble)? {
                let (key, value) = entry.map_err(trouble)?;
                rows.add(key.value(), value.value());
                each_row(key.value(), decode_row(key.value(), value.value())?)?;
            }
            match (postings == snapshot.meta.postings, rows == snapshot.meta.rows) {
                (true, true) => Ok(()),
                (false, _) => Err(damaged("postings are missing, or doubled")),
                (_, false) => Err(damaged("projection rows are missing, or doubled")),
            }
        })
    }

    /// Compares the tables with their sums: a seal cannot show that a row is lost.
    ///
    /// `go_on` is called for every row; once it returns `false`, the comparison ends without a finding.
    pub fn scrub(&self, go_on: impl Fn() -> bool) -> Result<(), StorageError> {
        let stopped = || StorageError::new(TroubleKind::Closed, "not compared to the end");
        let ask = || if go_on() { Ok(()) } else { Err(stopped()) };
        match self.check(|_, _| ask(), |_, _| ask()) {
            Err(error) if !error.is_rebuildable() && !go_on() => Ok(()),
            compared => compared,
        }
    }

    /// Returns the damage that any read of the file met.
    pub fn damage(&self) -> Option<StorageError> {
        let Self::Snapshot(snapshot) = self else { return None };
        Some(damaged(format!("damaged: {}", snapshot.file.blocks.damage()?)).of(&snapshot.file.name))
    }

    /// Returns the bytes of the file on disk, and of the keys and values in it.
    pub fn size(&self) -> (u64, u64) {
        match self {
            Self::Empty => (0, 0),
            Self::Snapshot(snapshot) => (snapshot.file.blocks.extent(), snapshot.meta.rows_bytes()),
        }
    }

    /// Returns the number of projection rows, for `stats`.
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
        guard(&snapshot.file, || snapshot.row(key))
    }

    fn rows(
        &self,
        range: &KeyRange,
        direction: Direction,
        _: CommitNo,
        limit: usize,
    ) -> Result<Vec<RowEntry>, StorageError> {
        let Self::Snapshot(snapshot) = self else { return Ok(Vec::new()) };
        guard(&snapshot.file, || snapshot.scan(range, direction, limit))
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
        guard(&snapshot.file, || {
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
        guard(&snapshot.file, || {
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
mod tests;
