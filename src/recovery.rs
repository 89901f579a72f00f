//! From the log, and whatever derived state there is, to what the store serves.
//!
//! - It folds, it never decides again: no key, version or condition is looked at.
//! - A rebuild is a recovery from commit 0. It flushes as it goes, so one that is killed goes on where it stood.
//! - Everything that can refuse has been asked before: nothing is flushed by code that does not open the store.
//! - A flush names the projections whose rows are those of its head and of the code in the log. What is not named is folded from
//!   the first commit by the next open, so that rows of two codes are never served as one.
//! - A projection whose rows the code would make otherwise is stale, and folded again from the first commit. One that fails
//!   there is stalled at a named position; it never keeps the store from opening.

mod declared;
mod divergence;

pub(crate) use declared::Declared;
pub(crate) use divergence::Divergences;

use crate::commit::Rules;
use crate::commit::prepare::EventTerms;
use crate::error::{OpenError, StorageError};
use crate::log::record::{LayoutDecl, Record};
use crate::log::{Head, Log, LogError, Page, StoreId};
use crate::order::Position;
use crate::projection::{self, At, FoldFailure, Projections, Registered, Stall, Step};
use crate::setup::{Progress, ProgressSink, Task};
use crate::state::flush;
use crate::state::keys::{KeyIndex, KeyUse, Moment};
use crate::state::overlay::Delta;
use crate::state::tables::{Base, StoredProjection, Tables};
use crate::state::term::Terms;
use crate::state::{self, Layouts, Published};
use divergence::mismatch;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Inputs of recovery.
pub(crate) struct Recovery<'a> {
    pub log: &'a dyn Log,
    pub rules: &'a Rules,
    pub terms: &'a Terms,
    pub overlay_bytes_max: usize,
    pub progress: Option<ProgressSink>,
}

/// State that the store serves.
pub(crate) struct Recovered {
    pub published: Published,
    pub keys: KeyIndex,
    pub tables: Option<Tables>,
    /// Projections that cannot be folded, by id.
    pub stalls: BTreeMap<[u8; 4], Stall>,
    /// Projections whose rows are not those that the log speaks of.
    pub divergences: Divergences,
}

/// Reason for which there is nothing to serve.
pub(crate) enum Failure {
    /// Derived state is damaged, or of another history: throw it away and recover again.
    Unusable,
    Refused(OpenError),
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        if error.is_rebuildable() { Self::Unusable } else { Self::Refused(OpenError::Storage(error)) }
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        match error {
            LogError::NotAtHead { .. } => Self::Unusable,
            error => Self::Refused(error.into()),
        }
    }
}

/// Commits between two reports of progress.
const REPORT_EVERY: u64 = 10_000;

impl Recovery<'_> {
    /// Brings derived state to the head of the log.
    pub fn run(&self, tables: Option<Tables>) -> Result<Recovered, Failure> {
        let mut tables = tables;
        let mut stale = self.unknown(tables.as_ref());
        let mut divergences = Divergences::new();
        if let Some(tables) = &mut tables {
            let (ours, others) = self.divergences(tables)?;
            divergences = ours;
            stale.extend(others);
            self.forget_old(tables, &stale, &divergences)?;
        }
        loop {
            let mut tail = TailReplay::new(self, tables.take(), stale.clone(), divergences.clone())?;
            tail.follow_log()?;
            if tail.found_stale.is_empty() {
                return self.finish(tail);
            }
            // What was folded of them so far is the old code's and the new code's: neither's.
            divergences.retain(|id, _| !tail.found_stale.contains(id));
            stale.append(&mut tail.found_stale);
            tables = tail.tables;
            if let Some(tables) = &mut tables {
                let kept = self.stored_but(&stale, &divergences);
                stale.iter().try_for_each(|id| tables.forget_rows(*id, &kept))?;
            }
        }
    }

    /// Registered projections whose rows are not in the state.
    fn unknown(&self, tables: Option<&Tables>) -> BTreeSet<[u8; 4]> {
        let Some(meta) = tables.map(Tables::meta).filter(|meta| meta.commit > 0) else {
            return BTreeSet::new();
        };
        let stored = |id: &[u8; 4]| meta.projections.iter().any(|stored| stored.id == *id);
        self.rules.projections.all.iter().map(|projection| projection.id).filter(|id| !stored(id)).collect()
    }

    /// Removes rows of projections that are gone, of another version, or half-built.
    fn forget_old(
        &self,
        tables: &mut Tables,
        stale: &BTreeSet<[u8; 4]>,
        divergences: &Divergences,
    ) -> Result<(), StorageError> {
        let kept = self.stored_but(stale, divergences);
        let mut old: BTreeSet<[u8; 4]> = tables.meta().projections.iter().map(|stored| stored.id).collect();
        old.retain(|id| !kept.iter().any(|kept| kept.id == *id));
        old.extend(stale);
        old.iter().try_for_each(|id| tables.forget_rows(*id, &kept))
    }

    /// The registered projections whose rows are those of the head.
    fn stored_but(&self, left_out: &BTreeSet<[u8; 4]>, divergences: &Divergences) -> Vec<StoredProjection> {
        let kept = self.rules.projections.all.iter().filter(|projection| !left_out.contains(&projection.id));
        kept.map(|projection| stored(projection, divergences)).collect()
    }

    /// Folds stale projections from the first commit, and puts all of it together.
    fn finish(&self, tail: TailReplay<'_>) -> Result<Recovered, Failure> {
        let TailReplay { mut published, keys, mut tables, stale, mut stalls, mut divergences, .. } = tail;
        if !stale.is_empty() {
            let tables = tables.as_mut().expect("only stored rows can be stale");
            let kept = self.stored_but(&left_out(&stale, &stalls), &divergences);
            // The rows below belong to one head: bring the rest there first.
            let at = published.keys;
            let base = flush::flush(tables, &keys, &published.active, &published.head, at, &kept)?;
            published = Published::on(base, published.head, published.layouts);
            let folded: Vec<_> = self
                .rules
                .projections
                .all
                .iter()
                .filter(|projection| stale.contains(&projection.id))
                .collect();
            let rows = Published::on(published.base.clone(), published.head, Arc::default());
            let mut shadow = Shadow::new(self, Task::Project, folded, rows, &mut stalls);
            let end = published.head;
            self.log
                .walk(&Head::empty(self.log.store()), &mut |page, head| {
                    shadow.follow(page, head)?;
                    if shadow.rows.active.bytes() >= self.overlay_bytes_max {
                        let base = flush::flush(tables, &keys, &shadow.rows.active, &end, at, &kept)
                            .map_err(stop)?;
                        shadow.rows = Published::on(base, shadow.rows.head, shadow.rows.layouts.clone());
                    }
                    Ok(())
                })
                .map_err(unstop)?;
            divergences.append(&mut shadow.divergences);
            let all = self.stored_but(&left_out(&BTreeSet::new(), shadow.stalls), &divergences);
            let base = flush::flush(tables, &keys, &shadow.rows.active, &end, at, &all)?;
            published = Published::on(base, end, published.layouts);
        }
        Ok(Recovered { published, keys, tables, stalls, divergences })
    }

    fn report(&self, task: Task, before: u64, now: u64) {
        let Some(tell) = &self.progress else { return };
        let total = self.log.head().commit.0;
        if before / REPORT_EVERY != now / REPORT_EVERY || now == total {
            tell(&Progress { task, done: now, total });
        }
    }
}

/// Derived state's trouble, on its way through a walk of the log.
pub(crate) fn stop(error: StorageError) -> LogError {
    LogError::Io(std::io::Error::other(error))
}

/// Returns the failure that stopped a walk.
pub(crate) fn unstop(error: LogError) -> Failure {
    match error {
        LogError::Io(error) => match error.downcast::<StorageError>() {
            Ok(error) => error.into(),
            Err(error) => LogError::Io(error).into(),
        },
        error => error.into(),
    }
}

/// The trouble that stopped a walk of the log, as it was before [`stop`].
pub(crate) fn trouble(error: LogError) -> StorageError {
    match error {
        LogError::Io(error) => {
            error.downcast::<StorageError>().unwrap_or_else(|error| LogError::Io(error).into())
        }
        error => error.into(),
    }
}

/// Projections whose rows are not those of the head. They are not named in the state, so that the next open folds them again:
/// stalled ones stall again at the same place, or go through with mended code.
fn left_out(stale: &BTreeSet<[u8; 4]>, stalls: &BTreeMap<[u8; 4], Stall>) -> BTreeSet<[u8; 4]> {
    stale.iter().chain(stalls.keys()).copied().collect()
}

/// The projections that a flush names in the state.
pub(crate) fn kept(projections: &Projections) -> Vec<StoredProjection> {
    let kept = projections.all.iter().filter(|projection| !projections.stalls.contains_key(&projection.id));
    kept.map(|projection| stored(projection, &projections.divergences)).collect()
}

fn stored(projection: &Registered, divergences: &Divergences) -> StoredProjection {
    let divergence = divergences.get(&projection.id).cloned();
    StoredProjection { divergence, ..StoredProjection::from(projection) }
}

impl From<&Registered> for StoredProjection {
    fn from(projection: &Registered) -> Self {
        let (name, version, id) = (projection.title(), projection.version, projection.id);
        Self { name, version, id, divergence: None }
    }
}

/// The commits that derived state does not have yet.
struct TailReplay<'a> {
    recovery: &'a Recovery<'a>,
    published: Published,
    keys: KeyIndex,
    tables: Option<Tables>,
    /// Not folded here: their turn comes when the rest is at the head.
    stale: BTreeSet<[u8; 4]>,
    found_stale: BTreeSet<[u8; 4]>,
    divergences: Divergences,
    stalls: BTreeMap<[u8; 4], Stall>,
    /// Derived state is built from nothing: there is no older row that a fold could contradict.
    from_nothing: bool,
    declared: Declared,
}

impl<'a> TailReplay<'a> {
    fn new(
        recovery: &'a Recovery<'a>,
        tables: Option<Tables>,
        stale: BTreeSet<[u8; 4]>,
        divergences: Divergences,
    ) -> Result<Self, Failure> {
        let keys = KeyIndex::new();
        let mut layouts = Layouts::new();
        let (base, head) = match &tables {
            None => (Base::Empty, Head::empty(recovery.log.store())),
            Some(tables) => {
                let declared = tables.meta().layouts.iter().cloned().map(LayoutDecl::from);
                state::declare(&mut layouts, declared);
                (tables.base()?, tables.meta().head())
            }
        };
        base.each_key(|term, commit| keys.insert(term, commit))?;
        let from_nothing = head.commit.0 == 0;
        let declared = Declared(base.inline());
        let published = Published::on(Arc::new(base), head, Arc::new(layouts));
        let (found_stale, stalls) = (BTreeSet::new(), BTreeMap::new());
        Ok(Self {
            recovery,
            published,
            keys,
            tables,
            stale,
            found_stale,
            divergences,
            stalls,
            from_nothing,
            declared,
        })
    }

    fn follow_log(&mut self) -> Result<(), Failure> {
        let log = self.recovery.log;
        let from = self.published.head;
        let expected = log.head();
        log.walk(&from, &mut |page, head| self.follow(page, head)).map_err(unstop)?;
        assert_eq!(self.published.head, expected, "the walk ends at the head");
        Ok(())
    }

    /// One group, as the writer would have published it.
    fn follow(&mut self, page: &Page, head: &Head) -> Result<(), LogError> {
        let mut group = Delta::default();
        for record in page.records() {
            let record = record?;
            self.declare(&record);
            let scratch = self.redo(&record, &group).map_err(stop)?;
            group.absorb(scratch);
        }
        for (term, used) in &group.keys {
            self.keys.insert(*term, used.commit);
        }
        self.published.keys += group.keys_used;
        self.published.active.apply(group);
        let before = self.published.head.commit.0;
        self.published.head = *head;
        if self.from_nothing {
            self.recovery.report(Task::Rebuild, before, head.commit.0);
        }
        if self.published.active.bytes() >= self.recovery.overlay_bytes_max {
            self.flush().map_err(stop)?;
        }
        Ok(())
    }

    fn declare(&mut self, record: &Record<'_>) {
        if record.layouts().next().is_none() {
            return;
        }
        let declared = record.layouts().map(LayoutDecl::from);
        state::declare(Arc::make_mut(&mut self.published.layouts), declared);
    }

    /// Everything the commit changed: index, key, rows.
    fn redo(&mut self, record: &Record<'_>, group: &Delta) -> Result<Delta, StorageError> {
        let keys_used = self.published.keys + group.keys_used;
        let mut scratch = index(record, self.recovery.terms, keys_used);
        scratch.layouts = record.layouts().map(LayoutDecl::from).collect();
        scratch.inline = record.inline().map(Into::into);
        self.declared.follow(record);
        let is_folded = |projection: &&Registered| {
            let id = &projection.id;
            !self.stale.contains(id) && !self.found_stale.contains(id) && !self.stalls.contains_key(id)
        };
        let projections: Vec<_> = self.recovery.rules.projections.all.iter().filter(is_folded).collect();
        let failed =
            refold(record, &projections, &self.recovery.rules.limits, &self.published, group, &mut scratch)?;
        let differs = mismatch(record, &projections, &scratch, &self.declared);
        if self.from_nothing {
            self.stalls.extend(failed);
            let layers = (&self.published, group, &scratch);
            self.recovery.note_divergences(&differs, record, layers, &mut self.divergences)?;
        } else {
            self.found_stale.extend(failed.into_iter().map(|(id, _)| id).chain(differs));
        }
        Ok(scratch)
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let Some(tables) = &mut self.tables else { return Ok(()) };
        // Killed after this, the next open may have other code: it must not go on from these rows.
        let mut mixed: BTreeSet<_> = self.stale.union(&self.found_stale).copied().collect();
        if self.from_nothing {
            mixed.extend(self.divergences.keys());
        }
        let kept = self.recovery.stored_but(&left_out(&mixed, &self.stalls), &self.divergences);
        let Published { head, keys: at, .. } = self.published;
        let base = flush::flush(tables, &self.keys, &self.published.active, &head, at, &kept)?;
        self.published = Published::on(base, self.published.head, self.published.layouts.clone());
        Ok(())
    }
}

/// Returns the index entries of a commit: of its events and its key. `keys_used` commits before it have a key.
pub(crate) fn index(record: &Record<'_>, terms: &Terms, keys_used: u64) -> Delta {
    let mut delta = Delta::default();
    for event in record.events() {
        let event_terms = EventTerms::new(terms, event.stream, event.type_name, event.tags.iter());
        delta.post(event_terms.stream, event.stream_version, event.position);
        event_terms.others.iter().for_each(|term| delta.post(*term, 0, event.position));
    }
    if let Some(key) = record.key() {
        let used = Moment { time: record.time(), keys: keys_used };
        let used = KeyUse::new(record.commit(), key.kept, used);
        let key = crate::request::RequestKey { scope: key.scope.to_owned(), key: key.key.to_owned() };
        delta.use_key(terms.key(&key), used);
    }
    delta
}

/// Folds a commit's events into `scratch`. Projections that fail are returned, and what they changed is dropped.
pub(crate) fn refold(
    record: &Record<'_>,
    projections: &[&Registered],
    limits: &projection::Limits,
    published: &Published,
    group: &Delta,
    scratch: &mut Delta,
) -> Result<Vec<([u8; 4], Stall)>, StorageError> {
    let mut failed: Vec<([u8; 4], Stall)> = Vec::new();
    for event in record.events() {
        let position = event.position;
        let raw = match event.raw() {
            Ok(raw) => raw,
            Err(error) => {
                let stall = Stall { position, why: error.to_string() };
                let stuck = projections.iter().filter(|projection| !projection.skips(position));
                failed.extend(stuck.map(|projection| (projection.id, stall.clone())));
                continue;
            }
        };
        let at = At { commit: record.commit(), position: event.position, time: record.time() };
        for projection in projections.iter().filter(|projection| projection.wants(raw.family())) {
            if failed.iter().any(|(id, _)| *id == projection.id) {
                continue;
            }
            let mut step = Step { at, limits: *limits, published, group, scratch };
            match projection.fold(&raw, &mut step) {
                Ok(()) => {}
                Err(FoldFailure::Storage(error)) => return Err(error),
                Err(FoldFailure::Refused { why, .. }) => {
                    scratch.rows.retain(|key, _| !key.starts_with(&projection.id));
                    failed.push((projection.id, Stall { position: event.position, why }));
                }
            }
        }
    }
    Ok(failed)
}

/// Rows folded from the first commit, beside what is served.
pub(crate) struct Shadow<'a> {
    pub recovery: &'a Recovery<'a>,
    pub task: Task,
    pub projections: Vec<&'a Registered>,
    pub rows: Published,
    pub stalls: &'a mut BTreeMap<[u8; 4], Stall>,
    /// The first commit whose digest says that other code folded it.
    pub mismatch: Option<(Position, [u8; 4])>,
    declared: Declared,
    divergences: Divergences,
}

/// A file beside the store, for folded rows that are too many for memory. It is made when it is first needed.
pub(crate) struct Scratch<'a> {
    /// Makes an empty one in place of the one before; `None`: memory has to do.
    make: &'a dyn Fn() -> Result<Option<Tables>, StorageError>,
    made: Option<Tables>,
}

impl<'a> Scratch<'a> {
    pub fn new(make: &'a dyn Fn() -> Result<Option<Tables>, StorageError>) -> Self {
        Self { make, made: None }
    }

    fn tables(&mut self, store: StoreId) -> Result<Option<&mut Tables>, StorageError> {
        if self.made.is_none() {
            self.made = (self.make)()?;
            self.made.iter_mut().for_each(|tables| _ = tables.claim(store));
        }
        Ok(self.made.as_mut())
    }

    /// Forgets the rows that are in it.
    pub fn clear(&mut self) {
        self.made = None;
    }
}

/// Is shown a commit and what it changes, and may have it folded again on the same rows.
pub(crate) type Look<'a> = dyn FnMut(&Record<'_>, &Delta, &mut Again<'_>) -> Result<(), StorageError> + 'a;

/// Folds a commit once more, and returns its changes.
pub(crate) type Again<'a> = dyn FnMut() -> Result<Delta, StorageError> + 'a;

impl<'a> Shadow<'a> {
    /// Projections that are folded on `rows`, from the first commit.
    pub fn new(
        recovery: &'a Recovery<'a>,
        task: Task,
        projections: Vec<&'a Registered>,
        rows: Published,
        stalls: &'a mut BTreeMap<[u8; 4], Stall>,
    ) -> Self {
        let (declared, divergences) = (Declared::default(), Divergences::new());
        Self { recovery, task, projections, rows, stalls, mismatch: None, declared, divergences }
    }

    pub fn follow(&mut self, page: &Page, head: &Head) -> Result<(), LogError> {
        self.follow_and(page, head, &mut |_, _, _| Ok(()))
    }

    /// The same, and has somebody look at each commit.
    pub fn follow_and(&mut self, page: &Page, head: &Head, look: &mut Look<'_>) -> Result<(), LogError> {
        let mut group = Delta::default();
        let before = self.rows.head.commit.0.min(head.commit.0 - 1);
        for record in page.records() {
            let record = record?;
            let stalls = &self.stalls;
            let running: Vec<_> =
                self.projections.iter().filter(|p| !stalls.contains_key(&p.id)).copied().collect();
            let limits = &self.recovery.rules.limits;
            let fold = |scratch: &mut Delta| refold(&record, &running, limits, &self.rows, &group, scratch);
            // What rules keep is read through the layouts that came with it.
            let fresh = || {
                let layouts = record.layouts().map(LayoutDecl::from).collect();
                Delta { layouts, ..Delta::default() }
            };
            let mut scratch = fresh();
            let failed = fold(&mut scratch).map_err(stop)?;
            let mut again = || {
                let mut scratch = fresh();
                fold(&mut scratch).map(|_| scratch)
            };
            look(&record, &scratch, &mut again).map_err(stop)?;
            self.declared.follow(&record);
            let differs = mismatch(&record, &running, &scratch, &self.declared);
            if let Some(id) = differs.first() {
                self.mismatch.get_or_insert((record.first(), *id));
                let layers = (&self.rows, &group, &scratch);
                let noted = self.recovery.note_divergences(&differs, &record, layers, &mut self.divergences);
                noted.map_err(stop)?;
            }
            self.stalls.extend(failed);
            group.absorb(scratch);
        }
        if !group.layouts.is_empty() {
            let declared = group.layouts.iter().cloned();
            state::declare(Arc::make_mut(&mut self.rows.layouts), declared);
        }
        self.rows.active.apply(group);
        // Rows are read at the newest: the shadow's own head says how far it came.
        self.rows.head = *head;
        self.recovery.report(self.task, before, head.commit.0);
        Ok(())
    }

    /// Moves its rows from memory to a file of its own, once they are too many.
    pub fn spill(&mut self, scratch: &mut Scratch<'_>, head: &Head) -> Result<(), StorageError> {
        let full = self.rows.active.bytes() >= self.recovery.overlay_bytes_max;
        if full && let Some(tables) = scratch.tables(self.recovery.log.store())? {
            tables.flush(self.rows.active.drain_sorted(), head, 0, &[])?;
            self.rows = Published::on(Arc::new(tables.base()?), *head, self.rows.layouts.clone());
        }
        Ok(())
    }
}
