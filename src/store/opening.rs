//! The files of a store, opened in an order that lets every refusal come first.
//!
//! Derived state is looked at without changing it, the log is held against what it knows and made good, and the types in it are
//! compared with the code. Only then is `state.redb` opened for writing.

use super::durable::KnownHeads;
use super::place::{LOG, Place, trouble};
use super::{CutTail, STATE, log_options, remove_if_there};
use crate::disk::Access;
use crate::error::{OpenError, StorageError, TroubleKind};
use crate::log::record::Record;
use crate::log::segments::{KnownLog, SegmentLog};
use crate::log::{Head, Log, StoreId};
use crate::setup::Setup;
use crate::state::peek::peek;
use crate::state::tables::{ReadOnlyTables, Tables};
use std::io;
use std::sync::Arc;

/// The log of a store, and what is known of its derived state before that is opened.
pub(super) struct Files {
    pub log: Arc<dyn Log>,
    /// `state.redb` as it stands, not to be written; `None` if there is none that is usable.
    pub state: Option<ReadOnlyTables>,
    /// Derived state was found damaged: it is built anew.
    pub rebuild: bool,
    pub cut: Option<CutTail>,
}

/// Opens the log, and makes good what a crash left of it. `durable` is what this process knows to be durable, if it had the store
/// open before.
pub(super) fn open_files(
    place: &Place,
    setup: &Setup,
    durable: Option<(StoreId, Head)>,
) -> Result<Files, OpenError> {
    place.sync_names()?;
    let state = peek_state(place)?;
    let known = KnownHeads::gather(place, state.as_ref(), durable)?;
    let accepts = |store: StoreId, end: &Head, last: Option<&Record<'_>>| {
        setup.accepted_end == Some(end.commit) || known.is_accepted_by(store, end, last)
    };
    let (disk, dir) = (&place.platform.disk, place.path.join(LOG));
    let known_log = KnownLog { durable: known.heads(), accepts: Some(&accepts) };
    let opened = SegmentLog::open(disk, &dir, log_options(setup), known_log);
    let (log, opened) = opened.map_err(|error| known.explain(place, error))?;
    let log = log.held_by(place.locks());
    known.settle(place, setup, &log, opened.ends_early)?;
    // What was removed tells nothing any more.
    let is_of_this_log = |state: &ReadOnlyTables| log.has(&state.meta().head()).unwrap_or(false);
    let state = state.filter(is_of_this_log);
    Ok(Files { log: Arc::new(log), state, rebuild: false, cut: opened.cut.map(CutTail::from) })
}

fn peek_state(place: &Place) -> Result<Option<ReadOnlyTables>, OpenError> {
    match place.platform.disk.open(&place.path.join(STATE), Access::Read) {
        Ok(file) => Ok(peek(STATE, file)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(trouble(&place.path, error)),
    }
}

/// Derived state of this store, as it stands or empty.
pub(super) fn open_tables(place: &Place, setup: &Setup, store: StoreId) -> Result<Tables, OpenError> {
    let file = match place.platform.disk.open(&place.path.join(STATE), Access::Write) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return fresh_tables(place, setup, store),
        Err(error) => return Err(trouble(&place.path, error)),
    };
    if let Some(mut tables) = Tables::open(STATE, file, setup.options.state_cache_bytes)?
        && tables.claim(store)
    {
        return Ok(tables);
    }
    fresh_tables(place, setup, store)
}

/// An empty `state.redb` in place of whatever is there.
pub(super) fn fresh_tables(place: &Place, setup: &Setup, store: StoreId) -> Result<Tables, OpenError> {
    let mut tables = new_tables(place, STATE, setup.options.state_cache_bytes)?;
    // Without its name all of it would be folded again after a power cut.
    place.platform.disk.sync_dir(&place.path).map_err(|error| trouble(&place.path, error))?;
    tables.claim(store);
    Ok(tables)
}

pub(super) fn new_tables(place: &Place, name: &str, cache_bytes: usize) -> Result<Tables, OpenError> {
    let (path, trouble) = (place.path.join(name), |error| trouble(&place.path, error));
    remove_if_there(place, name)?;
    let file = place.platform.disk.create_new(&path).map_err(trouble)?;
    match Tables::open(name, file, cache_bytes)? {
        Some(tables) => Ok(tables),
        None => Err(StorageError::new(TroubleKind::State, format!("a fresh {name} is damaged")).into()),
    }
}
