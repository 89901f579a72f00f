//! `checks.redb`: what checks keep between two runs. Disposable: without it all of them judge the log again.
//!
//! ```text
//! rows of a check begin with its id 4; commit and position of a row are those of the flush
//! id 4 · 'h'                      ->  Header
//! id 4 · 'k' · key hash 16        ->  packed state
//! id 4 · 'd' · time i64 ordered · key hash 16  ->  nothing: that key is to be looked at then
//! id 4 · 'r' · table 4 · key      ->  row of a table that it joins; commit and position are the row's
//! id 4 · 'n' · key hash 16        ->  key of rows that are wrong
//! id 4 · 'u' · number u64 BE      ->  finding that is not on record
//! ```

use super::mirror::{Mirror, SavedRow};
use super::untold::{Backlog, Untold};
use crate::check::Check;
use crate::check::book::{Book, Cold, Saved};
use crate::check::due::Due;
use crate::check::keys::KeyHash;
use crate::check::state::State;
use crate::check::word::{Counts, Time};
use crate::codec;
use crate::disk::{Access, Disk};
use crate::error::{StorageError, TroubleKind};
use crate::log::{Hash, Head, StoreId};
use crate::order::{CommitNo, Position, Timestamp};
use crate::state::layer::{Direction, KeyRange, Layer, RowEntry, RowKey, RowVersion};
use crate::state::overlay::Drained;
use crate::state::tables::{Base, StoredProjection, Tables};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

/// Its name, in the store's directory.
pub(crate) const FILE: &str = "checks.redb";

/// Location of the file.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub disk: Arc<dyn Disk>,
    /// The store's own directory.
    pub store: PathBuf,
    pub cache_bytes: usize,
}

/// A check's book but for its keys and what is due.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Header {
    definition: [u8; 8],
    pub counts: Counts,
    pub watermark: Time,
    commit: u64,
    position: u64,
    time: u64,
    hash: [u8; 32],
    /// Findings so far.
    pub found: u64,
    /// Times of the first and the last commit with events of its families, until one of them was to be judged.
    pub idle: Option<(Time, Time)>,
}

impl Header {
    pub fn new(check: &Check, book: &Book, head: &Head, found: u64, idle: Option<(Time, Time)>) -> Self {
        Self {
            definition: check.definition(),
            counts: *book.counts(),
            watermark: book.watermark(),
            commit: head.commit.0,
            position: head.position.0,
            time: head.time.0,
            hash: head.hash.0,
            found,
            idle,
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
}

/// The open file.
pub(super) struct CheckFile {
    tables: Tables,
    base: Arc<Base>,
}

impl CheckFile {
    /// Opens it, or begins it anew where there is none of this store that can be read.
    pub fn open(files: &Files, store: StoreId) -> Result<Self, StorageError> {
        let path = files.store.join(FILE);
        match files.disk.open(&path, Access::Write) {
            Ok(file) => {
                if let Some(mut tables) = Tables::open(FILE, file, files.cache_bytes)?
                    && tables.claim(store)
                    && let Ok(base) = tables.base()
                {
                    return Ok(Self { tables, base: Arc::new(base) });
                }
                Self::create(files, store)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(files, store),
            Err(error) => Err(trouble(error)),
        }
    }

    /// An empty one in place of whatever is there.
    pub fn create(files: &Files, store: StoreId) -> Result<Self, StorageError> {
        let path = files.store.join(FILE);
        match files.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(trouble(error)),
            _ => {}
        }
        let file = files.disk.create_new(&path).map_err(trouble)?;
        files.disk.sync_dir(&files.store).map_err(trouble)?;
        let damaged = || StorageError::new(TroubleKind::Io, "a fresh checks.redb is damaged");
        let mut tables = Tables::open(FILE, file, files.cache_bytes)?.ok_or_else(damaged)?;
        tables.claim(store);
        let base = Arc::new(tables.base()?);
        Ok(Self { tables, base })
    }

    /// Removes the rows of checks that are not in the setup, or are defined otherwise.
    pub fn forget_others(&mut self, checks: &[Check]) -> Result<(), StorageError> {
        let ours: Vec<_> = checks.iter().map(stored).collect();
        for other in self.tables.meta().projections.clone() {
            if !ours.iter().any(|check| check.id == other.id) {
                self.tables.forget_rows(other.id, &ours)?;
            }
        }
        self.base = Arc::new(self.tables.base()?);
        Ok(())
    }

    /// Loads the saved state of a check. `None` if there is none, or if it is of another definition.
    pub fn load(&self, check: &Check) -> Result<Option<(Header, Book, Backlog)>, StorageError> {
        let id = id_of(check);
        let Some(header) = self.get(&row_key(id, b'h', &[]))? else { return Ok(None) };
        let header: Header = codec::decode(&header).map_err(|error| damaged(&error.to_string()))?;
        if header.definition != check.definition() {
            return Ok(None);
        }
        let mut due = Due::default();
        self.each(id, b'd', |key, _| {
            due.insert(due_of(key).ok_or_else(|| damaged("a time that is due"))?);
            Ok(())
        })?;
        let mut untold: Vec<Untold> = Vec::new();
        self.each(id, b'u', |_, value| {
            untold.push(codec::decode(value).map_err(|error| damaged(&error.to_string()))?);
            Ok(())
        })?;
        let book = Book::saved(check.rule, header.counts, header.watermark, due);
        Ok(Some((header, book, Backlog::saved(untold))))
    }

    /// Every row of a kind.
    fn each(
        &self,
        id: [u8; 4],
        kind: u8,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut range = KeyRange {
            lower: Bound::Included(row_key(id, kind, &[])),
            upper: Bound::Excluded(row_key(id, kind + 1, &[])),
        };
        loop {
            let rows = self.base.rows(&range, Direction::Forward, CommitNo(u64::MAX), 10_000)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            range.continue_past(last, Direction::Forward);
            for (key, version) in &rows {
                each(key, version.value.as_deref().unwrap_or_default())?;
            }
        }
    }

    /// Makes all of it durable at once: checks that stood together come back together.
    pub fn save(&mut self, saving: Saving, checks: &[Check]) -> Result<(), StorageError> {
        // An empty log has nothing to name.
        let Some(head) = saving.latest.filter(|head| head.commit.0 > 0) else { return Ok(()) };
        let mut rows = saving.rows;
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        let drained = Drained { rows, ..Drained::default() };
        let stored: Vec<_> = checks.iter().map(stored).collect();
        // Who was further may be gone: a check that was removed, or is judged anew.
        let before = self.tables.meta().head();
        let head = if before.commit > head.commit { before } else { head };
        self.tables.flush(drained, &head, 0, &stored)?;
        self.base = Arc::new(self.tables.base()?);
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, StorageError> {
        Ok(self.base.row(key, CommitNo(u64::MAX))?.and_then(|version| version.value))
    }

    /// Bytes of the file, and of the keys and values in it.
    pub fn size(&self) -> (u64, u64) {
        self.base.size()
    }

    /// The states of one check.
    pub fn of(&self, check: &Check) -> ColdKeys<'_> {
        ColdKeys { file: Some(self), id: id_of(check) }
    }
}

/// States of a check in the file; none, where it lives in memory.
pub(super) struct ColdKeys<'a> {
    file: Option<&'a CheckFile>,
    id: [u8; 4],
}

impl ColdKeys<'_> {
    pub const NONE: ColdKeys<'static> = ColdKeys { file: None, id: [0; 4] };
}

impl ColdKeys<'_> {
    /// A row of a table that the check joins, by its full key.
    pub fn row(&self, key: &[u8]) -> Result<Option<RowVersion>, StorageError> {
        let Some(file) = self.file else { return Ok(None) };
        let row = file.base.row(&row_key(self.id, b'r', key), CommitNo(u64::MAX))?;
        Ok(row.filter(|version| version.value.is_some()))
    }

    /// Rows of a table that the check joins.
    pub fn rows(&self, range: &KeyRange) -> Result<Vec<RowEntry>, StorageError> {
        let Some(file) = self.file else { return Ok(Vec::new()) };
        let inside = |bound: &Bound<Vec<u8>>, open: Bound<Vec<u8>>| match bound {
            Bound::Included(key) => Bound::Included(row_key(self.id, b'r', key)),
            Bound::Excluded(key) => Bound::Excluded(row_key(self.id, b'r', key)),
            Bound::Unbounded => open,
        };
        let lower = inside(&range.lower, Bound::Included(row_key(self.id, b'r', &[])));
        let upper = inside(&range.upper, Bound::Excluded(row_key(self.id, b'r' + 1, &[])));
        let rows =
            file.base.rows(&KeyRange { lower, upper }, Direction::Forward, CommitNo(u64::MAX), usize::MAX)?;
        Ok(rows.into_iter().map(|(key, version)| (RowKey::from(&key[5..]), version)).collect())
    }

    /// The key of rows that are wrong.
    pub fn name(&self, hash: KeyHash) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(file) = self.file else { return Ok(None) };
        Ok(file.get(&row_key(self.id, b'n', &key_bytes(hash)))?.map(|key| key.to_vec()))
    }
}

impl Cold for ColdKeys<'_> {
    type Error = StorageError;

    fn state(&self, key: KeyHash) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(file) = self.file else { return Ok(None) };
        let Some(bytes) = file.get(&row_key(self.id, b'k', &key_bytes(key)))? else { return Ok(None) };
        match State::default().unpack(&bytes) {
            Some(()) => Ok(Some(bytes.to_vec())),
            None => Err(damaged("a key's state")),
        }
    }
}

/// Changes of a save, of all checks, in order.
#[derive(Default)]
pub(super) struct Saving {
    rows: Vec<RowEntry>,
    /// The latest head that any of them has reached.
    latest: Option<Head>,
}

impl Saving {
    /// Takes over what the file lacks of a check. Without `keep` the file alone has its keys and rows afterwards.
    pub fn add(
        &mut self,
        check: &Check,
        header: &Header,
        (book, mirror, untold): (&mut Book, &mut Mirror, &mut Backlog),
        keep: bool,
    ) {
        self.latest = self.latest.into_iter().chain([header.head()]).max_by_key(|head| head.commit);
        let id = id_of(check);
        let (commit, position) = (CommitNo(header.commit), Position(header.position));
        let now = |value: Option<&[u8]>| RowVersion { commit, position, value: value.map(Arc::from) };
        let mut put =
            |kind: u8, rest: &[u8], version| self.rows.push((row_key(id, kind, rest).into(), version));
        let bytes = codec::encode(header).expect("a header is plain");
        put(b'h', &[], now(Some(&bytes)));
        mirror.save(keep, |saved| match saved {
            SavedRow::Row(key, version) => put(b'r', key, version.clone()),
            SavedRow::Name(hash, key) => put(b'n', &key_bytes(hash), now(key)),
        });
        untold.save(|number, untold| {
            let bytes = untold.map(|untold| codec::encode(untold).expect("a finding is plain"));
            put(b'u', &number.to_be_bytes(), now(bytes.as_deref()));
        });
        book.save(keep, |saved| match saved {
            Saved::State(key, state) => put(b'k', &key_bytes(key), now(state)),
            Saved::Due(time, key, is_due) => {
                let mut rest = ((time as u64) ^ (1 << 63)).to_be_bytes().to_vec();
                rest.extend(key_bytes(key));
                put(b'd', &rest, now(is_due.then_some(&[])));
            }
        });
    }
}

fn stored(check: &Check) -> StoredProjection {
    let (name, version, id) = (check.id().to_owned(), check.version, id_of(check));
    StoredProjection { name, version, id, divergence: None }
}

fn id_of(check: &Check) -> [u8; 4] {
    *check.definition().first_chunk().expect("a definition has 8 bytes")
}

fn row_key(id: [u8; 4], kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + rest.len());
    key.extend(id);
    key.push(kind);
    key.extend(rest);
    key
}

fn key_bytes(KeyHash(high, low): KeyHash) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    bytes
}

fn due_of(key: &[u8]) -> Option<(Time, KeyHash)> {
    let rest = key.get(5..)?;
    let word = |at: usize| Some(u64::from_be_bytes(*rest.get(at..)?.first_chunk()?));
    let time = (word(0)? ^ (1 << 63)) as Time;
    (rest.len() == 24).then_some((time, KeyHash(word(8)?, word(16)?)))
}

fn damaged(what: &str) -> StorageError {
    StorageError::new(TroubleKind::State, format!("checks.redb is damaged: {what}"))
}

fn trouble(error: io::Error) -> StorageError {
    StorageError::io("checks.redb could not be read or written", error)
}
