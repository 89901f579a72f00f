//! Heads that were durable, as this process and the files beside the log tell.
//!
//! A log that ends before one of them, or has another history there, has lost commits that were acknowledged. Nothing in the log
//! itself shows that if it ends with a whole group. So an open compares, and refuses; to go on with what there is has to be said,
//! and is put on record in the log before anything else is changed.

use super::STATE;
use super::place::{LOG, Place, trouble};
use crate::behind;
use crate::disk::Access;
use crate::error::{OpenError, StorageError, TroubleKind};
use crate::event::EventSet;
use crate::log::record::{Commit, LayoutDecl, Record, StoredEvent};
use crate::log::{Hash, Head, Log, LogError, Seek, StoreId};
use crate::order::{CommitNo, Position, Timestamp};
use crate::own::Own;
use crate::setup::Setup;
use crate::state::peek::peek;
use crate::state::tables::ReadOnlyTables;
use crate::watch;
use crate::writer::clock::Trusted;
use std::io;
use std::path::PathBuf;

/// The head that a recovery of an earlier process knew, and did not find in the log.
const HEAD: &str = "known.head";
const HEAD_CREATING: &str = "known.creating";
const MAGIC: &[u8; 8] = b"TALLYHED";
const HEAD_BYTES: usize = 84;

/// A head that was durable for certain.
struct KnownHead {
    store: StoreId,
    head: Head,
    told_by: String,
    /// `None` if this process tells it, and no file.
    file: Option<PathBuf>,
}

/// All that are known of the logs that stood here.
pub(super) struct KnownHeads(Vec<KnownHead>);

impl KnownHeads {
    /// Looks at the files of derived state, and changes none. `state` is `state.redb`, `durable` what this process knows.
    pub fn gather(
        place: &Place,
        state: Option<&ReadOnlyTables>,
        durable: Option<(StoreId, Head)>,
    ) -> Result<Self, OpenError> {
        let mut known = Self(Vec::new());
        if let Some((store, head)) = durable {
            let told_by = "this process".to_owned();
            known.0.push(KnownHead { store, head, told_by, file: None });
        }
        known.add(STATE.to_owned(), place.path.join(STATE), state);
        let (checks, behind) = (place.path.join(watch::FILE), place.path.join(behind::DIR));
        let behind_files = match place.platform.disk.list(&behind) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(trouble(&place.path, error)),
        };
        let behind_files = behind_files
            .into_iter()
            .map(|name| (format!("{}/{name}", behind::DIR), behind.join(&name), name));
        let checks = (watch::FILE.to_owned(), checks, watch::FILE.to_owned());
        for (told_by, path, name) in [checks].into_iter().chain(behind_files) {
            // What cannot be read tells nothing: whoever needs it finds that out, and builds it again.
            let Ok(file) = place.platform.disk.open(&path, Access::Read) else { continue };
            let tables = peek(&name, file).unwrap_or_default();
            known.add(told_by, path, tables.as_ref());
        }
        if let Some((store, head)) = read_head(place) {
            let told_by = format!("an earlier recover() (in `{HEAD}`)");
            known.0.push(KnownHead { store, head, told_by, file: Some(place.path.join(HEAD)) });
        }
        known.0.retain(|known| known.head.commit.0 > 0);
        Ok(known)
    }

    fn add(&mut self, told_by: String, path: PathBuf, tables: Option<&ReadOnlyTables>) {
        if let Some(meta) = tables.map(ReadOnlyTables::meta) {
            let (store, head) = (StoreId(meta.store), meta.head());
            self.0.push(KnownHead { store, head, told_by: format!("`{told_by}`"), file: Some(path) });
        }
    }

    /// As the log takes them.
    pub fn heads(&self) -> Vec<(StoreId, Head)> {
        self.0.iter().map(|known| (known.store, known.head)).collect()
    }

    /// The last commit of a log says that it goes on without all that is known beyond it.
    pub fn is_accepted_by(&self, store: StoreId, end: &Head, last: Option<&Record<'_>>) -> bool {
        let Some(known_commit) = last.and_then(accepted) else { return false };
        let beyond = self.0.iter().filter(|known| known.store == store && known.head.commit >= end.commit);
        beyond.map(|known| known.head.commit.0).max().is_some_and(|latest| latest <= known_commit)
    }

    /// Refuses a log that lacks a head that is known, unless the setup accepts that it ends where it does: then that is put on
    /// record, and the files that know more are removed. `ends_early` says that the log itself tells of more.
    pub fn settle(
        &self,
        place: &Place,
        setup: &Setup,
        log: &dyn Log,
        ends_early: bool,
    ) -> Result<(), OpenError> {
        let (mut lost, end) = (Vec::new(), log.head());
        for known in self.0.iter().filter(|known| known.store == log.store()) {
            if !log.has(&known.head)? {
                lost.push(known);
            }
        }
        let latest = lost.iter().max_by_key(|known| known.head.commit);
        if lost.is_empty() && !ends_early {
            // It was found again.
            let _ = place.platform.disk.remove(&place.path.join(HEAD));
            return Ok(());
        }
        let page = log.read(Seek::Commit(end.commit), end.commit, 0)?;
        let last = page.records().next_back().transpose().map_err(LogError::from)?;
        let on_record = last.and_then(|last| accepted(&last));
        let is_on_record =
            latest.is_some_and(|latest| on_record.is_some_and(|commit| latest.head.commit.0 <= commit));
        if !is_on_record {
            if setup.accepted_end != Some(end.commit) {
                return Err(latest.map_or_else(|| unexplained(place), |latest| latest.lost(place, &end)));
            }
            put_on_record(setup, log, latest.copied())?;
        }
        remove(place, &lost)
    }

    /// An error of the log, with who knows better.
    pub fn explain(&self, place: &Place, error: LogError) -> OpenError {
        match error {
            LogError::EndsEarly { end, known } => {
                let told = self.0.iter().find(|told| told.head == known);
                told.map_or_else(|| unexplained(place), |told| told.lost(place, &end))
            }
            error => error.into(),
        }
    }
}

impl KnownHead {
    fn lost(&self, place: &Place, end: &Head) -> OpenError {
        OpenError::TailLost {
            path: place.path.join(LOG),
            commit: end.commit,
            position: end.position,
            known_commit: self.head.commit,
            known_position: self.head.position,
            known_by: self.told_by.clone(),
        }
    }
}

fn unexplained(place: &Place) -> OpenError {
    let what = format!("the log in {} ends too early", place.path.display());
    StorageError::new(TroubleKind::Log, what).into()
}

/// Up to which commit a lost tail is accepted by a commit.
fn accepted(record: &Record<'_>) -> Option<u64> {
    let event = record.events().find(|event| event.type_name == Own::TAIL_LOST)?;
    match Own::decode(&event.raw().ok()?) {
        Ok(Own::TailLost { known_commit, .. }) => Some(known_commit),
        _ => None,
    }
}

/// Appends that the log goes on without what is known beyond its end.
fn put_on_record(setup: &Setup, log: &dyn Log, known: Option<&KnownHead>) -> Result<(), OpenError> {
    let (end, families) = (log.head(), setup.families());
    // The log alone tells that a segment follows, and not what is in it.
    let (known_head, known_by) = match known {
        Some(known) => (known.head, known.told_by.clone()),
        None => {
            let (commit, position) = (end.commit.next(), end.position);
            (Head { commit, position, hash: Hash([0; 32]), ..end }, "the end of the log".to_owned())
        }
    };
    let event = Own::TailLost {
        end_commit: end.commit.0,
        end_position: end.position.0,
        end_hash: end.hash.0,
        known_commit: known_head.commit.0,
        known_position: known_head.position.0,
        known_hash: known_head.hash.0,
        known_by,
    };
    let invalid = |error: crate::error::DecodeError| OpenError::Setup(vec![error.to_string()]);
    let mut raw = event.encode().map_err(invalid)?;
    families.settle(&mut raw);
    let (type_name, schema) = (raw.type_name().to_owned(), raw.schema());
    let layout = families.layout(&type_name, schema, Some(raw.codec())).map(str::to_owned);
    let layouts = layout.map(|layout| LayoutDecl { type_name, schema, layout }).into_iter().collect();
    let mut time = Trusted::new(setup.platform.clock.clone(), &end, &setup.options);
    let commit = Commit {
        commit: end.commit.next(),
        first: end.position.next(),
        // A clock that is not believed must not keep the store from being opened.
        time: time.read().unwrap_or(end.time).max(end.time),
        label: "accept_lost_tail".to_owned(),
        layouts,
        key: None,
        response: None,
        // Its stream is named by the commit before it: no other event is in it.
        events: vec![StoredEvent::new(raw, 1)],
        folds: Vec::new(),
        // Nothing is folded here, and no digest is missing.
        inline: Some(Vec::new()),
    };
    log.append(&end, &[commit])?;
    Ok(())
}

/// Removes files that know of lost commits, for good: one that came back after a power cut would refuse the next open.
fn remove(place: &Place, lost: &[&KnownHead]) -> Result<(), OpenError> {
    let disk = &place.platform.disk;
    for path in lost.iter().filter_map(|known| known.file.as_ref()) {
        match disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(trouble(&place.path, error)),
            _ => {}
        }
        if let Some(dir) = path.parent() {
            disk.sync_dir(dir).map_err(|error| trouble(&place.path, error))?;
        }
    }
    Ok(())
}

// ---- what a recovery knew ----

/// Keeps what this process knows to be durable for the next one: a log that cannot be recovered must not open elsewhere in
/// silence. That it fails is no reason to fail otherwise than with the trouble that there is.
pub(super) fn remember(place: &Place, (store, head): (StoreId, Head)) {
    let (disk, path) = (&place.platform.disk, |name: &str| place.path.join(name));
    let write = || -> io::Result<()> {
        for name in [HEAD_CREATING, HEAD] {
            match disk.remove(&path(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let file = disk.create_new(&path(HEAD_CREATING))?;
        file.write_at(0, &encode_head(store, &head))?;
        file.sync_data()?;
        disk.rename(&path(HEAD_CREATING), &path(HEAD))?;
        disk.sync_dir(&place.path)
    };
    let _ = write();
}

fn read_head(place: &Place) -> Option<(StoreId, Head)> {
    let file = place.platform.disk.open(&place.path.join(HEAD), Access::Read).ok()?;
    let mut bytes = [0; HEAD_BYTES];
    file.read_at(0, &mut bytes).ok()?;
    decode_head(&bytes)
}

/// `"TALLYHED" · store 16 · commit u64 · position u64 · time u64 · chain 32 · crc u32 (of all before it)`
fn encode_head(StoreId(store): StoreId, head: &Head) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..24].copy_from_slice(&store);
    bytes[24..32].copy_from_slice(&head.commit.0.to_le_bytes());
    bytes[32..40].copy_from_slice(&head.position.0.to_le_bytes());
    bytes[40..48].copy_from_slice(&head.time.0.to_le_bytes());
    bytes[48..80].copy_from_slice(&head.hash.0);
    let crc = crc32c::crc32c(&bytes[..80]);
    bytes[80..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode_head(bytes: &[u8; HEAD_BYTES]) -> Option<(StoreId, Head)> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let is_ours = bytes[..8] == *MAGIC && bytes[80..] == crc32c::crc32c(&bytes[..80]).to_le_bytes();
    let head = Head {
        commit: CommitNo(word(24)),
        position: Position(word(32)),
        time: Timestamp(word(40)),
        hash: Hash(bytes[48..80].try_into().expect("32 bytes")),
    };
    is_ours.then(|| (StoreId(bytes[8..24].try_into().expect("16 bytes")), head))
}
