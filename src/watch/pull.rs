//! Pulls the sources of checks, and puts on record what they show otherwise than before.
//!
//! - Each has a thread of its own. What it calls may panic or hang: nobody waits for it, and it holds nothing of the store
//!   meanwhile. That it comes too late is found by the check `ID.fresh`, like any other deadline.
//! - What disagrees is read again before it is put on record.
//! - A snapshot that lacks a column of the last one, or most of its rows, is not believed: nothing of it is recorded but that.
//! - A snapshot counts when all of it is on record. What a crash leaves of one was read like everything else; the next pull
//!   records the rest.

use super::Ground as WatchGround;
use super::ranges::Ranges;
use super::watcher::{append, row};
use crate::check::columns::{self, Recorded};
use crate::check::outside::{Evidence, Rows, Shown, cut};
use crate::check::{Check, Column, PullError, signed_micros, time_of};
use crate::codec;
use crate::disk::Clock;
use crate::error::StorageError;
use crate::evidence::{Baseline, Baselines, Evidence as Cache, Hashes, Kept, Known, Refused, Sources};
use crate::key;
use crate::misfit::panic_text;
use crate::options::Options;
use crate::own::{Bytes, Own};
use crate::projection::{Projection, key_range};
use crate::state::Published;
use crate::state::bell::Bell;
use crate::state::layer::{Direction, KeyRange, RowEntry};
use crate::state::tables::table_range;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{JoinHandle, Mutex, ThreadId, deadline, join, spawn, this_thread};
use crate::view::Reader;
use crate::writer::Door;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Rows in one event: others want to commit, too.
const ROWS_PER_EVENT: usize = 512;
/// Rows read at once.
const ROWS_PER_PAGE: usize = 1024;
/// Bytes that an event, or a row of the cache, takes besides a row and its key.
const AROUND_BYTES: usize = 512;
/// Maximum length of a failure reason, in bytes.
const WHY_BYTES_MAX: usize = 1024;
/// Shortest interval between attempts while the store takes nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// All of a store.
#[derive(Default)]
pub(crate) struct Pullers {
    all: Vec<Arc<PullerState>>,
    threads: Mutex<Vec<(Arc<PullerState>, JoinHandle<()>)>>,
    /// The pullers, if they have no threads.
    lockstep: Mutex<Vec<Puller>>,
}

/// Parts of the store that a puller works with, until the store takes them away.
#[derive(Clone)]
struct PullContext {
    reader: Arc<Reader>,
    door: Door,
    options: Options,
    clock: Arc<dyn Clock>,
}

/// Between a puller and its store.
struct PullerState {
    check: String,
    hold: Mutex<Hold>,
    stop: AtomicBool,
    bell: Bell,
    /// Pulls that somebody asked for, and those of them that have ended.
    asked: AtomicU64,
    answered: AtomicU64,
    answers: Bell,
}

/// A pull that somebody asked for.
pub(crate) struct Order {
    shared: Arc<PullerState>,
    number: u64,
}

impl Order {
    /// Waits for the pull to end, failed or not. Returns `false` on timeout, or if the store is closed.
    pub fn wait(self, deadline: Option<Instant>) -> bool {
        let Self { shared, number } = self;
        loop {
            let listener = shared.answers.listen();
            if shared.answered.load(Ordering::Acquire) >= number {
                return true;
            }
            if shared.stop.load(Ordering::Relaxed) || !listener.wait(deadline) {
                return false;
            }
        }
    }
}

struct Hold {
    /// `None`: the store is closed.
    ground: Option<PullContext>,
    /// It runs code that is not ours, and holds nothing.
    is_outside: bool,
}

/// Pulls one source.
struct Puller {
    shared: Arc<PullerState>,
    evidence: Arc<Evidence>,
    clock: Arc<dyn Clock>,
    /// By the monotonic clock.
    due: Duration,
    /// True if the start of pulling is on record.
    has_begun: bool,
}

/// Result of reading a source.
struct SourceRead {
    /// Snapshot time reported by the source.
    said: Option<SystemTime>,
    columns: Vec<Column>,
    rows: Rows,
    /// Its ranges, if it has some, and how many rows each had that was read again.
    ranges: Option<(Ranges, Vec<(usize, u64)>)>,
}

impl SourceRead {
    fn refused(&self, error: PullError) -> PullFailure {
        PullFailure::Refused(error, self.columns.clone(), self.rows.len() as u64)
    }

    /// A row was read again.
    fn correct(&mut self, key: Vec<u8>, row: Option<Vec<u8>>) {
        if self.rows.get(&key) == row.as_ref() {
            return;
        }
        if let Some((ranges, _)) = &mut self.ranges {
            ranges.note(ranges.of(&key), None);
        }
        match row {
            Some(row) => drop(self.rows.insert(key, row)),
            None => drop(self.rows.remove(&key)),
        }
    }
}

/// Reason for which a pull failed.
enum PullFailure {
    /// Of the source.
    Source(PullError),
    /// A snapshot is not to be believed: why, its columns, and how many rows it has.
    Refused(PullError, Vec<Column>, u64),
    /// Of the store, which says nothing about the source.
    Store,
    /// The store is closed.
    Closed,
}

impl From<PullError> for PullFailure {
    fn from(error: PullError) -> Self {
        Self::Source(error)
    }
}

impl Pullers {
    pub fn start(ground: &WatchGround, lockstep: bool) -> io::Result<Self> {
        let mut started = Self::default();
        for check in &ground.checks {
            let Some(puller) = Puller::new(check, ground) else { continue };
            let shared = puller.shared.clone();
            started.all.push(shared.clone());
            match lockstep {
                true => started.lockstep.get_mut().push(puller),
                false => started.threads.get_mut().push((shared, spawn("pull", move || puller.run())?)),
            }
        }
        Ok(started)
    }

    /// Has a source pulled soon, whatever its period. `None`: the check has none.
    pub fn order(&self, check: &str) -> Option<Order> {
        let shared = self.all.iter().find(|shared| shared.check == check)?.clone();
        let number = shared.asked.fetch_add(1, Ordering::AcqRel) + 1;
        shared.bell.ring();
        Some(Order { shared, number })
    }

    /// Returns a function that has all of them look at the clock again.
    pub fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let all = self.all.clone();
        move || all.iter().for_each(|shared| shared.bell.ring())
    }

    /// Pulls what is due, on the calling thread, if there are no threads for it.
    pub fn step(&self) {
        for puller in self.lockstep.lock().iter_mut() {
            puller.turn();
        }
    }

    /// Takes the store away from all of them. Those that hang somewhere outside are left there.
    pub fn stop(&self) {
        self.all.iter().for_each(|shared| shared.leave());
        let threads = mem::take(&mut *self.threads.lock());
        for (shared, thread) in threads {
            // One that is outside is left there; any other does not go outside any more.
            if !shared.hold.lock().is_outside {
                join(thread);
            }
        }
    }

    /// The threads that call sources.
    pub fn threads(&self) -> Vec<ThreadId> {
        self.threads.lock().iter().map(|(_, thread)| thread.thread().id()).collect()
    }

    /// The calling thread pulls, and holds the store meanwhile: it compares rows, which runs code of the user too.
    pub fn is_busy_here(&self) -> bool {
        let threads = self.threads.lock();
        let is_here = |thread: &JoinHandle<()>| thread.thread().id() == this_thread();
        let own = threads.iter().find(|(_, thread)| is_here(thread));
        own.is_some_and(|(shared, _)| shared.hold.try_lock().is_none_or(|hold| !hold.is_outside))
    }

    /// The calling thread pulls this source.
    pub fn is_pulling(&self, check: &str) -> bool {
        let threads = self.threads.lock();
        threads.iter().any(|(shared, thread)| shared.check == check && thread.thread().id() == this_thread())
    }
}

impl Drop for Pullers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl PullerState {
    fn leave(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let ground = self.hold.lock().ground.take();
        self.bell.ring();
        self.answers.ring();
        let Some(ground) = ground else { return };
        // Of one that fails, somebody is to be told whether or not the process comes back in between.
        let well = ground.known(&self.check).is_ok_and(|known| known.failed.is_none());
        if well {
            // A store that takes nothing any more has been left in any case.
            let _ = ground.append(vec![Own::Left { source: self.check.clone() }]);
        }
    }

    /// Works with the store, which stays while it does.
    fn with<T>(&self, work: impl FnOnce(&PullContext) -> T) -> Result<T, PullFailure> {
        self.hold.lock().ground.as_ref().map(work).ok_or(PullFailure::Closed)
    }

    /// Runs code that is not ours. The store may go away meanwhile.
    fn outside<T>(&self, run: impl FnOnce() -> Result<T, PullError>) -> Result<T, PullFailure> {
        {
            let mut hold = self.hold.lock();
            if hold.ground.is_none() {
                return Err(PullFailure::Closed);
            }
            hold.is_outside = true;
        }
        let done = guarded(|| Ok(run()?));
        self.hold.lock().is_outside = false;
        done
    }
}

impl Puller {
    fn new(check: &Check, ground: &WatchGround) -> Option<Self> {
        let evidence = check.lens.evidence()?;
        let WatchGround { reader, door, options, clock, .. } = ground;
        let (reader, door, options, clock) = (reader.clone(), door.clone(), options.clone(), clock.clone());
        let ground = Some(PullContext { reader, door, options, clock: clock.clone() });
        let shared = PullerState {
            check: check.id().to_owned(),
            hold: Mutex::new(Hold { ground, is_outside: false }),
            stop: AtomicBool::new(false),
            bell: Bell::default(),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            answers: Bell::default(),
        };
        let (shared, due) = (Arc::new(shared), clock.monotonic());
        Some(Self { shared, evidence, clock, due, has_begun: false })
    }

    fn run(mut self) {
        let shared = self.shared.clone();
        loop {
            // Listen before the look: a clock that moves in between is heard.
            let listener = shared.bell.listen();
            let Some(patience) = self.turn() else { return };
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            if !self.is_asked() {
                listener.wait(deadline(patience));
            }
        }
    }

    fn is_asked(&self) -> bool {
        self.shared.asked.load(Ordering::Acquire) > self.shared.answered.load(Ordering::Acquire)
    }

    /// Pulls if it is time, or somebody asked for it. How long there is nothing to do then; `None`: the store is closed.
    fn turn(&mut self) -> Option<Duration> {
        let now = self.clock.monotonic();
        if now >= self.due || self.is_asked() {
            // Who asks while it is pulled wants another one.
            let asked = self.shared.asked.load(Ordering::Acquire);
            let wait = if self.has_begun { self.evidence.every } else { AGAIN };
            self.due = now.saturating_add(wait);
            // Types of the source's are encoded and compared in there.
            let pulled = guarded(|| self.begin().and_then(|()| self.pull()));
            let noted = match pulled {
                Err(PullFailure::Source(error)) => {
                    self.shared.with(|ground| ground.failed(&self.shared.check, &error))
                }
                Err(PullFailure::Refused(error, columns, rows)) => {
                    self.shared.with(|ground| ground.refused(&self.shared.check, &error, &columns, rows))
                }
                pulled => pulled,
            };
            if let Err(PullFailure::Closed) = noted {
                return None;
            }
            self.shared.answered.store(asked, Ordering::Release);
            self.shared.answers.ring();
        }
        Some(self.due.saturating_sub(self.clock.monotonic()))
    }

    /// Puts on record that the source is pulled from here on.
    fn begin(&mut self) -> Result<(), PullFailure> {
        if !self.has_begun {
            let (source, shape) = (self.shared.check.clone(), self.evidence.shape);
            self.shared.with(|ground| ground.append(vec![Own::Sourced { source, shape }]))??;
            self.has_begun = true;
            self.due = self.clock.monotonic().saturating_add(self.evidence.every);
        }
        Ok(())
    }

    fn pull(&self) -> Result<(), PullFailure> {
        let Self { shared, evidence, .. } = self;
        let begun = shared.with(PullContext::now)?;
        let mut read = self.read()?;
        let baseline = shared.with(|ground| ground.baseline(&shared.check))??;
        check_columns(&baseline, &read)?;
        let disagrees = self.confirm(&mut read)?;
        check_len(evidence, &baseline, &read, disagrees)?;
        shared.with(|ground| {
            let as_of = as_of(read.said, begun);
            let until = as_of + (ground.now() - begun);
            ground.record(shared, evidence, (as_of, until), &baseline, read)
        })?
    }

    /// Reads the source: all of it, or the ranges that have changed, and the others from what is on record.
    fn read(&self) -> Result<SourceRead, PullFailure> {
        let Self { shared, evidence, .. } = self;
        let Some(Shown { said, columns, of }) = shared.outside(|| evidence.source.ranges())? else {
            let Shown { said, columns, of } = shared.outside(|| evidence.source.pull())?;
            return Ok(SourceRead { said, columns, rows: of, ranges: None });
        };
        let mut ranges = Ranges::new(of)?;
        let (mut rows, kept) = shared.with(|ground| ground.unchanged(&shared.check, &ranges))??;
        for (index, _) in &kept {
            let (from, to) = ranges.bounds(*index);
            let (hash, more) = shared.outside(|| evidence.source.pull_range(from, to))?;
            rows.extend(more);
            ranges.note(*index, Some(hash));
        }
        Ok(SourceRead { said, columns, rows, ranges: Some((ranges, kept)) })
    }

    /// Reads again what disagrees. Returns whether anything did.
    fn confirm(&self, read: &mut SourceRead) -> Result<bool, PullFailure> {
        let Self { shared, evidence, .. } = self;
        self.enough(&read.rows)?;
        let suspects = shared.with(|ground| ground.suspects(evidence, &read.rows))??;
        if !suspects.is_empty() {
            let Shown { said, columns, of } = shared.outside(|| evidence.source.again(&suspects))?;
            if !columns.is_empty() && columns != read.columns {
                return Err(PullError::Unfinished("its columns changed while it was read".into()).into());
            }
            // Rows of an older export than the first are as old as that.
            read.said = read.said.into_iter().chain(said).min();
            of.into_iter().for_each(|(key, row)| read.correct(key, row));
        }
        self.enough(&read.rows)?;
        Ok(!suspects.is_empty())
    }

    fn enough(&self, rows: &Rows) -> Result<(), PullError> {
        let (rows, at_least) = (rows.len() as u64, self.evidence.at_least);
        if rows < at_least { Err(PullError::TooFew { rows, at_least }) } else { Ok(()) }
    }
}

/// Refuses a snapshot that lacks a column of those on record.
fn check_columns(baseline: &Baseline, read: &SourceRead) -> Result<(), PullFailure> {
    let before = columns::of_record(baseline.columns.clone());
    columns::compare(&before, &read.columns).map_err(|error| read.refused(error))
}

/// Refuses a snapshot that lacks most of the rows of the last one, as a whole or in a range that was read again.
fn check_len(
    evidence: &Evidence,
    baseline: &Baseline,
    read: &SourceRead,
    disagrees: bool,
) -> Result<(), PullFailure> {
    let shrunk = evidence.check_len(baseline.rows, read.rows.len() as u64, disagrees);
    shrunk.map_err(|error| read.refused(error))?;
    let Some((ranges, kept)) = read.ranges.as_ref().filter(|_| !baseline.accepts_ranges) else {
        return Ok(());
    };
    let mut lens = vec![0; ranges.len()];
    read.rows.keys().for_each(|key| lens[ranges.of(key)] += 1);
    let mut shrunk = kept.iter().filter(|(index, from)| evidence.is_shrunk(*from, lens[*index]));
    let Some((index, from)) = shrunk.next() else { return Ok(()) };
    let first = ranges.bounds(*index).0.map(|key| evidence.source.key_text(key));
    let what = first.map_or("its first range".to_owned(), |first| format!("its range from {first}"));
    Err(read.refused(PullError::Shrunk { what, from: *from, to: lens[*index] }))
}

fn guarded<T>(work: impl FnOnce() -> Result<T, PullFailure>) -> Result<T, PullFailure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(PullError::Panicked(panic_text(&*panic).to_owned()).into()))
}

/// Returns the time of a snapshot. A time reported by the source is not believed if it is later than the beginning of the pull.
fn as_of(said: Option<SystemTime>, begun: i64) -> i64 {
    said.map_or(begun, |time| signed_micros(time).min(begun))
}

impl PullContext {
    /// Returns the store's time: never before its last commit.
    fn now(&self) -> i64 {
        time_of(self.clock.now().max(self.reader.board.load().head.time))
    }

    fn known(&self, check: &str) -> Result<Known, StorageError> {
        Ok(row::<Sources>(&self.reader, &check.to_owned())?.unwrap_or_default())
    }

    fn append(&self, events: Vec<Own>) -> Result<(), PullFailure> {
        match append(&self.reader, &self.door, &self.options, "evidence", events) {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => Err(PullFailure::Store),
        }
    }

    /// Puts on record that the source cannot be read: once, however often it is tried.
    fn failed(&self, check: &str, error: &PullError) {
        let Ok(known) = self.known(check) else { return };
        if known.failed.is_some_and(|failed| failed.kind == error.kind()) {
            return;
        }
        let (source, kind) = (check.to_owned(), error.kind().to_owned());
        let why = cut(&error.to_string(), WHY_BYTES_MAX).to_owned();
        // If it is not taken, the next failure is.
        let _ = self.append(vec![Own::Unreachable { source, kind, why }]);
    }

    fn baseline(&self, check: &str) -> Result<Baseline, PullFailure> {
        let baseline = row::<Baselines>(&self.reader, &check.to_owned());
        Ok(baseline.map_err(|_| PullFailure::Store)?.unwrap_or_default())
    }

    /// Puts on record that a snapshot is not believed: once, unless its columns are others than those refused before.
    fn refused(&self, check: &str, error: &PullError, columns: &[Column], rows: u64) {
        let (Ok(known), Ok(baseline)) = (self.known(check), self.baseline(check)) else { return };
        let columns = match self.to_record(columns) {
            Ok(columns) => columns,
            Err(error) => return self.failed(check, &error),
        };
        let is_same = |refused: &Refused| refused.kind == error.kind() && refused.columns == columns;
        let is_recorded = known.failed.is_some_and(|failed| failed.kind == error.kind());
        if is_recorded && baseline.refused.as_ref().is_some_and(is_same) {
            return;
        }
        let (source, kind) = (check.to_owned(), error.kind().to_owned());
        let why = cut(&error.to_string(), WHY_BYTES_MAX).to_owned();
        // If it is not taken, the next refusal is.
        let _ = self.append(vec![Own::Refused { source, kind, why, columns, rows }]);
    }

    /// Columns as an event holds them, and a row of the store's own twice.
    fn to_record(&self, columns: &[Column]) -> Result<Recorded, PullError> {
        let len = |column: &Column| 32 + column.name.len() + column.kind.as_ref().map_or(0, String::len);
        let size: usize = columns.iter().map(len).sum();
        let Options { event_bytes_max, row_bytes_max, .. } = self.options;
        let limit = event_bytes_max.min(row_bytes_max / 2).saturating_sub(AROUND_BYTES + WHY_BYTES_MAX);
        if size <= limit {
            return Ok(columns::to_record(columns));
        }
        let why = format!("their names take {size} bytes, the limit is {limit}");
        Err(PullError::Row { place: "its columns".into(), why })
    }

    // ---- comparing ----

    /// Keys whose rows disagree now, as far as our own can be read.
    fn suspects(&self, evidence: &Evidence, theirs: &Rows) -> Result<Vec<Vec<u8>>, PullFailure> {
        let Some(published) = self.ours(evidence) else { return Ok(Vec::new()) };
        let mut suspects = Vec::new();
        let mut check = |key: &[u8], ours: Option<&[u8]>, theirs: Option<&[u8]>| {
            let wrong = evidence.rowed.wrong(key, &[ours, theirs]).map_err(|error| PullError::Row {
                place: evidence.source.key_text(key),
                why: error.to_string(),
            });
            if wrong? {
                suspects.push(key.to_vec());
            }
            Ok::<_, PullError>(())
        };
        let mut theirs = theirs.iter().peekable();
        let mut range = table_range(evidence.ours.id);
        loop {
            let page = self.page(&published, &mut range)?;
            for (key, version) in &page {
                let key = &key[4..];
                while let Some((alone, row)) = theirs.next_if(|(other, _)| other.as_slice() < key) {
                    check(alone, None, Some(row))?;
                }
                let row = theirs.next_if(|(other, _)| other.as_slice() == key).map(|(_, row)| row.as_slice());
                check(key, version.value.as_deref(), row)?;
            }
            if page.len() < ROWS_PER_PAGE {
                break;
            }
        }
        for (alone, row) in theirs {
            check(alone, None, Some(row))?;
        }
        Ok(suspects)
    }

    /// The rows of ours. `None`: they cannot be read now.
    fn ours(&self, evidence: &Evidence) -> Option<Arc<Published>> {
        let Reader { rules, board, behind, .. } = &*self.reader;
        let type_id = evidence.ours.type_id;
        if rules.projections.all.iter().any(|projection| projection.type_id == type_id) {
            let is_stalled = rules.projections.stalls.contains_key(&evidence.ours.id);
            return (!is_stalled).then(|| board.load());
        }
        let behind = behind.iter().find(|behind| behind.projection.type_id == type_id)?;
        behind.rows(&behind.standing()).ok().cloned()
    }

    fn page(&self, rows: &Published, range: &mut KeyRange) -> Result<Vec<RowEntry>, PullFailure> {
        let page = rows.read(&[], |layers| layers.rows(range, Direction::Forward, ROWS_PER_PAGE));
        let page = page.map_err(|error| {
            self.reader.health.note_read(&error);
            PullFailure::Store
        })?;
        if let Some((last, _)) = page.last() {
            range.continue_past(last, Direction::Forward);
        }
        Ok(page)
    }

    // ---- recording ----

    /// Records what changed since the snapshot before, and then that this one is complete.
    fn record(
        &self,
        shared: &PullerState,
        evidence: &Evidence,
        (as_of, until): (i64, i64),
        baseline: &Baseline,
        read: SourceRead,
    ) -> Result<(), PullFailure> {
        let source = &shared.check;
        let known = self.known(source).map_err(|_| PullFailure::Store)?;
        let before = known.snapshot.as_ref().map(|snapshot| snapshot.as_of);
        if before.is_some_and(|before| as_of < before) {
            return Err(PullError::Older.into());
        }
        let len = read.rows.len() as u64;
        let columns = self.to_record(&read.columns)?;
        let columns = Some(columns).filter(|columns| !columns.is_empty() && *columns != baseline.columns);
        let hashed = read.ranges.map(|(ranges, _)| ranges.to_record());
        self.ranges_fit(hashed.as_deref().unwrap_or_default())?;
        let changes = self.changes(source, evidence, read.rows)?;
        let is_hashed = changes.is_empty() && self.hashes(source)? == hashed;
        if is_hashed && before == Some(as_of) && known.failed.is_none() && columns.is_none() {
            return Ok(());
        }
        let shape = evidence.shape;
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let mut room = self.options.event_bytes_max.saturating_sub(AROUND_BYTES);
            let mut changed = Vec::new();
            while changed.len() < ROWS_PER_EVENT
                && let Some(change) = changes.next_if(|change| changed.is_empty() || size(change) <= room)
            {
                room = room.saturating_sub(size(&change));
                changed.push(change);
            }
            let event = Own::Evidence { source: source.clone(), shape, as_of, until, changed };
            if shared.stop.load(Ordering::Relaxed) {
                return Err(PullFailure::Closed);
            }
            self.append(vec![event])?;
        }
        let hashed =
            hashed.filter(|_| !is_hashed).map(|ranges| Own::Hashed { source: source.clone(), ranges });
        let columns = columns.map(|columns| Own::Columns { source: source.clone(), columns });
        let pulled = Own::Pulled { source: source.clone(), shape, as_of, rows: len };
        // All or none: hashes of rows that are not all on record would hide those that are missing.
        self.append(hashed.into_iter().chain(columns).chain([pulled]).collect())
    }

    fn ranges_fit(&self, ranges: &[(Bytes, Option<u64>)]) -> Result<(), PullError> {
        let size: usize = ranges.iter().map(|(from, _)| 24 + from.0.len()).sum();
        let Options { event_bytes_max, row_bytes_max, .. } = self.options;
        let limit = event_bytes_max.min(row_bytes_max).saturating_sub(AROUND_BYTES);
        if size <= limit {
            return Ok(());
        }
        let why = format!("they take {size} bytes, the limit is {limit}: make fewer");
        Err(PullError::Row { place: "its ranges".into(), why })
    }

    /// The hashes that are on record, if any are.
    fn hashes(&self, source: &str) -> Result<Option<Vec<(Bytes, Option<u64>)>>, PullFailure> {
        row::<Hashes>(&self.reader, &source.to_owned()).map_err(|_| PullFailure::Store)
    }

    /// Rows of the ranges that need not be read; and the ranges that are to be, with how many rows each has on record.
    #[allow(clippy::type_complexity, reason = "it is what it says")]
    fn unchanged(&self, source: &str, ranges: &Ranges) -> Result<(Rows, Vec<(usize, u64)>), PullFailure> {
        let known = self.known(source).map_err(|_| PullFailure::Store)?;
        // Rows of another shape are to be read again.
        let before = if known.snapshot.is_some() { self.hashes(source)? } else { None };
        let Some(before) = before else {
            return Ok((Rows::new(), (0..ranges.len()).map(|index| (index, 0)).collect()));
        };
        let unchanged = ranges.unchanged(&Ranges::recorded(before));
        let (mut rows, mut lens) = (Rows::new(), vec![0; ranges.len()]);
        self.each_kept(source, |key, kept| {
            let index = ranges.of(&key.0);
            lens[index] += 1;
            if unchanged[index] {
                rows.insert(key.0, kept.row.0);
            }
        })?;
        let changed = lens.into_iter().enumerate().filter(|(index, _)| !unchanged[*index]);
        Ok((rows, changed.collect()))
    }

    /// Shows every row that is on record.
    fn each_kept(&self, source: &str, mut show: impl FnMut(Bytes, Kept)) -> Result<(), PullFailure> {
        let registered = self.reader.rules.projections.get::<Cache>().ok_or(PullFailure::Store)?;
        let mut range = of_source(registered.id, source).ok_or(PullFailure::Store)?;
        loop {
            let page = self.page(&self.reader.board.load(), &mut range)?;
            for (key, version) in &page {
                let (key, kept) = decode(key, version.value.as_deref()).ok_or(PullFailure::Store)?;
                show(key, kept);
            }
            if page.len() < ROWS_PER_PAGE {
                return Ok(());
            }
        }
    }

    /// Returns the differences between the rows and those on record.
    fn changes(
        &self,
        source: &str,
        evidence: &Evidence,
        mut rows: Rows,
    ) -> Result<Vec<(Bytes, Option<Bytes>)>, PullFailure> {
        let mut changes = Vec::new();
        self.each_kept(source, |key, kept| {
            let row = rows.remove(&key.0);
            let is_same =
                |row: &Vec<u8>| kept.shape == evidence.shape && evidence.source.is_same(row, &kept.row.0);
            if !row.as_ref().is_some_and(is_same) {
                changes.push((key, row.map(Bytes)));
            }
        })?;
        changes.extend(rows.into_iter().map(|(key, row)| (Bytes(key), Some(Bytes(row)))));
        changes.iter().try_for_each(|change| self.fits(source, evidence, change))?;
        Ok(changes)
    }

    /// A row that no event or no cache can hold keeps the snapshot from being recorded, whole.
    fn fits(
        &self,
        source: &str,
        evidence: &Evidence,
        change: &(Bytes, Option<Bytes>),
    ) -> Result<(), PullError> {
        let too_large = |what, size, limit| {
            let key = evidence.source.key_text(&change.0.0);
            Err(PullError::TooLarge { what, key, size, limit })
        };
        let mut key = Vec::new();
        let _ = key::encode(&(source, &change.0), &mut key);
        if key.len() > self.options.row_key_bytes_max {
            return too_large("the key", key.len(), self.options.row_key_bytes_max);
        }
        let Options { event_bytes_max, row_bytes_max, .. } = self.options;
        let limit = event_bytes_max.min(row_bytes_max).saturating_sub(AROUND_BYTES);
        if size(change) > limit {
            return too_large("the row", size(change), limit);
        }
        Ok(())
    }
}

/// Returns the bytes that a change takes in an event.
fn size((key, row): &(Bytes, Option<Bytes>)) -> usize {
    24 + key.0.len() + row.as_ref().map_or(0, |row| row.0.len())
}

/// The rows of one source.
fn of_source(id: [u8; 4], source: &str) -> Option<KeyRange> {
    let first = (source.to_owned(), Bytes(Vec::new()));
    let next = (format!("{source}\0"), Bytes(Vec::new()));
    key_range::<Cache>(id, first..next).ok()
}

fn decode(key: &[u8], value: Option<&[u8]>) -> Option<(Bytes, Kept)> {
    let (_, key) = key::decode::<<Cache as Projection>::Key>(&key[4..]).ok()?;
    Some((key, codec::decode(value?).ok()?))
}
