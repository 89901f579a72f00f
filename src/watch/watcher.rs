//! Judges the log behind the writer, and puts on record what it finds.
//!
//! - Every check's book is a function of the log up to its head. Time that passes without an event is an event: `Passed`.
//! - What is found is numbered by definition, in the order in which the log gives it. The store counts what is on record, so
//!   a crash between finding and recording repeats nothing and loses nothing.
//! - Checks at one head are judged in one reading. A new one is judged from the first commit until it has caught up, by turns with
//!   the others, which do not wait for it.
//! - What it cannot do stops it alone, and shows. A check that cannot read an event says so, and goes on.

mod lineage;
mod weigh;

use super::dog::Leash;
use super::file::{CheckFile, ColdKeys, Files, Header, Saving};
use super::mirror::Mirror;
use super::routes::Outlet;
use super::source::{Known, Origin};
use super::untold::{Backlog, Untold};
use super::{CheckStats, RouteStats, Trouble};
use crate::check::book::Book;
use crate::check::glance::{Glance, Glasses};
use crate::check::keys::KeyHash;
use crate::check::outside::Evidence;
use crate::check::rows::Rowed;
use crate::check::text::time_text;
use crate::check::word::{Amount, Finding, Roles, Rule, Seen, Time, Verdict, Word};
use crate::check::{Check, Clocked, time_of};
use crate::codec;
use crate::commit::prepare::Desk;
use crate::disk::Clock;
use crate::episode::{Episode, Episodes, Told};
use crate::error::{AppendError, DecodeError, StorageError, TroubleKind};
use crate::event::{Event, EventSet, RawRef};
use crate::key;
use crate::log::record::Record;
use crate::log::{Hash, Head, LogError, Seek};
use crate::misfit::panic_text;
use crate::options::Options;
use crate::order::{CommitNo, Position, Timestamp};
use crate::own::{Found, Own};
use crate::projection::{At, Limits, Projection, key_range, row_key};
use crate::request::Append;
use crate::rule_texts::{RuleText, RuleTexts};
use crate::state::bell::Bell;
use crate::state::layer::{Direction, Layers, RowVersion};
use crate::sync::{Mutex, RwLock, deadline};
use crate::view::Reader;
use crate::writer::Door;
use std::cmp::Reverse;
use std::mem;
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Maximum number of unsaved entries, of all checks, before some of them are saved.
const UNSAVED_MAX: usize = 4_000_000;
/// Findings in one commit: others want to commit, too.
pub(crate) const TOLD_AT_ONCE: usize = 512;
/// A check without a window that had nothing to judge for so long, in microseconds, is a finding.
const UNEXERCISED: Time = 7 * 24 * 3_600 * 1_000_000;
/// In an idle store, time is recorded no more often than this.
const TICK: Duration = Duration::from_secs(1);

/// State of the watcher, shared with all that look at it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    stats: RwLock<Arc<Vec<CheckStats>>>,
    checks: RwLock<Arc<Vec<Check>>>,
    known: RwLock<Arc<Known>>,
    file_size: Mutex<(u64, u64)>,
    pub routes: RwLock<Arc<Vec<RouteStats>>>,
    pub leash: Leash,
    orders: Mutex<RunnerCommands>,
}

#[derive(Debug, Default)]
struct RunnerCommands {
    stop: bool,
    resume: bool,
}

impl Watch {
    pub fn stats(&self) -> Arc<Vec<CheckStats>> {
        self.stats.read().clone()
    }

    /// Returns the checks that run.
    pub fn checks(&self) -> Arc<Vec<Check>> {
        self.checks.read().clone()
    }

    /// Bytes of the checks' file, and of the keys and values in it.
    pub fn file_size(&self) -> (u64, u64) {
        *self.file_size.lock()
    }

    pub fn known(&self) -> Arc<Known> {
        self.known.read().clone()
    }

    pub fn stop(&self) {
        self.orders.lock().stop = true;
    }

    pub fn resume(&self) {
        self.orders.lock().resume = true;
        // From here on nobody is told of it, unless it comes again.
        let mut stats = self.stats.write();
        if stats.iter().any(|check| check.trouble.is_some()) {
            let mut anew = stats.to_vec();
            anew.iter_mut().for_each(|check| check.trouble = None);
            *stats = Arc::new(anew);
        }
    }
}

/// Parts of the store that watching takes.
pub(crate) struct Ground {
    pub reader: Arc<Reader>,
    pub door: Door,
    pub options: Options,
    pub clock: Arc<dyn Clock>,
    pub checks: Vec<Check>,
    /// Source of further checks.
    pub source: Option<Arc<Mutex<dyn Origin>>>,
    /// Name of the store, for notifications.
    pub name: String,
    /// Routes of notifications.
    pub outlets: Vec<Outlet>,
    /// Rung when the head has moved, and when there are orders.
    pub head_bell: Arc<Bell>,
    /// Rung when a check has moved.
    pub watch_bell: Arc<Bell>,
    /// `None`: state lives in memory.
    pub files: Option<Files>,
}

/// One check, and what it has come to.
struct RunningCheck {
    check: Check,
    book: Book,
    /// Position up to which it has judged.
    head: Head,
    /// Findings so far, and those of them that are not on record as far as this process knows.
    found: u64,
    untold: Backlog,
    /// Findings that are on record.
    told: u64,
    /// It has once seen everything since the store was opened.
    caught_up: bool,
    /// Findings of other definitions that it does not find were ended.
    has_retired: bool,
    /// Families whose events it looks at. If empty: all but the store's own.
    families: Vec<String>,
    /// Of a check over rows: what is wrong with them, and the rows.
    rowed: Option<Arc<dyn Rowed>>,
    mirror: Mirror,
    /// Evidence from outside among the rows, and the time at which the rows that the commit changes had been read.
    evidence: Option<Arc<Evidence>>,
    read_until: Option<Time>,
    /// The last event it could not read, and why.
    unread: Option<(u64, String)>,
    /// Times of the first and the last commit with events of its families, until one of them was to be judged.
    idle: Option<(Time, Time)>,
}

pub(crate) struct Watcher {
    ground: Ground,
    watch: Arc<Watch>,
    all: Vec<RunningCheck>,
    file: Option<CheckFile>,
    trouble: Option<StorageError>,
    glasses: Glasses,
    /// Time of the last tick, by the monotonic clock.
    ticked: Option<Duration>,
    /// The checks as they are declared: those that run may have another definition (see `lineage`).
    declared: Vec<Check>,
    /// The checks to run from now on, if they have changed.
    others: Option<Vec<Check>>,
    /// Findings of checks that were removed were ended.
    has_retired: bool,
    /// The writer took no events last time: they are offered again after a while.
    is_refused: bool,
    /// There may be something to tell.
    has_news: bool,
    /// Turns of those furthest ahead and furthest behind, while there are both.
    turns: Turns,
}

/// Shares the time between checks that judge what comes and those that catch up, so that a slow new check starves no other.
#[derive(Debug, Default)]
struct Turns {
    /// Side whose turn it was.
    is_front: bool,
    /// Time used by those behind and those in front.
    used: [Duration; 2],
    /// Bytes read in one turn. `None`: as many as any long read.
    page_bytes: Option<usize>,
}

/// Time that one turn should take while others wait.
const TURN: Duration = Duration::from_millis(50);
/// Smallest number of bytes read in one turn.
const TURN_BYTES_MIN: usize = 4096;

impl Turns {
    /// Chooses the side that has used less time; of equals the one whose turn it was not.
    fn begin(&mut self) -> bool {
        let [behind, front] = self.used;
        self.is_front = if behind == front { !self.is_front } else { front < behind };
        self.is_front
    }

    /// Counts a turn. One that took long reads less the next time.
    fn end(&mut self, took: Duration, page_bytes: usize) {
        self.used[usize::from(self.is_front)] += took;
        let bytes = self.page_bytes.unwrap_or(page_bytes);
        let next = if took > TURN { bytes / 2 } else { bytes.saturating_mul(2) };
        self.page_bytes = Some(next.clamp(TURN_BYTES_MIN, page_bytes.max(TURN_BYTES_MIN)));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunnerTurn {
    Moved,
    Idle,
    Stop,
}

impl Watcher {
    pub fn new(ground: Ground, watch: Arc<Watch>) -> Self {
        let glasses = Glasses::new(ground.reader.terms.clone(), ground.reader.board.load().layouts.clone());
        let (all, file, trouble, ticked) = (Vec::new(), None, None, None);
        let mut watcher = Self {
            ground,
            watch,
            all,
            file,
            trouble,
            glasses,
            ticked,
            declared: Vec::new(),
            others: None,
            has_retired: false,
            is_refused: false,
            has_news: false,
            turns: Turns::default(),
        };
        let begun = watcher.begin();
        // Those that cannot be opened are there all the same, and say so.
        watcher.all = watcher.ground.checks.iter().map(|check| watcher.anew(check)).collect();
        if let Err(error) = begun.and_then(|()| watcher.open()) {
            watcher.failed(error);
        }
        watcher.show_checks();
        watcher.publish();
        watcher
    }

    pub fn run(mut self) {
        loop {
            let mut turn = self.guarded_turn();
            if turn == RunnerTurn::Idle {
                let bell = self.ground.head_bell.clone();
                let listener = bell.listen();
                turn = self.guarded_turn();
                if turn == RunnerTurn::Idle && !listener.wait(self.patience().and_then(deadline)) {
                    self.save_quiet();
                }
            }
            if turn == RunnerTurn::Stop {
                return self.finish();
            }
        }
    }

    /// One piece of work on the calling thread. `false`: there is nothing to do.
    pub fn step(&mut self) -> bool {
        self.guarded_turn() == RunnerTurn::Moved
    }

    /// A panic in here is a bug of ours: it stops the checks, and shows.
    fn guarded_turn(&mut self) -> RunnerTurn {
        let turn = catch_unwind(AssertUnwindSafe(|| self.turn())).unwrap_or_else(|panic| {
            let what = format!("checking panicked: {}", panic_text(&*panic));
            self.trouble = Some(StorageError::new(TroubleKind::Io, what));
            RunnerTurn::Moved
        });
        if turn == RunnerTurn::Moved {
            self.publish();
            // After what it shows: the watchdog tells only of what is there as a whole.
            if mem::take(&mut self.has_news) {
                self.watch.leash.tug();
            }
        }
        turn
    }

    fn turn(&mut self) -> RunnerTurn {
        let orders = mem::take(&mut *self.watch.orders.lock());
        if orders.stop {
            return RunnerTurn::Stop;
        }
        if orders.resume
            && self.trouble.take().is_some()
            && let Err(error) = self.open()
        {
            self.failed(error);
            return RunnerTurn::Moved;
        }
        if self.trouble.is_some() {
            return RunnerTurn::Idle;
        }
        let worked = self.renew().and_then(|renewed| {
            let mut moved = self.judge()? || renewed;
            // Nobody is told of a part of what was found at once.
            if self.all.iter().any(|watched| !watched.untold.is_empty()) {
                self.publish();
            }
            // Who judges does not run ahead of what is on record. That may take a while: how far it is can be seen, and who closes
            // the store does not wait for it.
            while !self.watch.orders.lock().stop && self.tell()? {
                moved = true;
                self.publish();
            }
            self.save_full()?;
            Ok(moved || self.retire()? || self.tick()?)
        });
        match worked {
            Ok(true) => RunnerTurn::Moved,
            Ok(false) => RunnerTurn::Idle,
            Err(error) => {
                self.failed(error);
                RunnerTurn::Moved
            }
        }
    }

    fn failed(&mut self, error: StorageError) {
        if error.is_rebuildable()
            && let Some(files) = &self.ground.files
        {
            // Derived state that cannot be trusted: all of it is judged again.
            self.file = None;
            match CheckFile::create(files, self.ground.reader.log.store()) {
                Ok(file) => {
                    drop(file);
                    match self.open() {
                        Ok(()) => return,
                        Err(error) => self.trouble = Some(error),
                    }
                }
                Err(error) => self.trouble = Some(error),
            }
        }
        self.trouble.get_or_insert(error);
    }

    // ---- beginning and ending ----

    fn open(&mut self) -> Result<(), StorageError> {
        self.file = None;
        self.has_retired = false;
        self.ground.checks = self.as_they_run(&self.declared)?;
        let mut all = Vec::new();
        if let Some(files) = &self.ground.files {
            let mut file = CheckFile::open(files, self.ground.reader.log.store())?;
            file.forget_others(&self.ground.checks)?;
            let checks = &self.ground.checks;
            let mut saved = checks.iter().map(|check| file.load(check)).collect::<Result<Vec<_>, _>>()?;
            for (header, ..) in saved.iter().flatten() {
                if !self.ground.reader.log.has(&header.head())? {
                    // Of another history, and what it says of keys is too: none of it may be read again.
                    file = CheckFile::create(files, self.ground.reader.log.store())?;
                    saved = checks.iter().map(|_| None).collect();
                    break;
                }
            }
            for (check, saved) in checks.iter().zip(saved) {
                all.push(match saved {
                    Some((header, book, untold)) => RunningCheck {
                        head: header.head(),
                        found: header.found,
                        idle: header.idle,
                        untold,
                        ..RunningCheck::new(check, book)
                    },
                    None => self.anew(check),
                });
            }
            self.file = Some(file);
        } else {
            all.extend(self.ground.checks.iter().map(|check| self.anew(check)));
        }
        for watched in &mut all {
            watched.recall(&self.ground.reader)?;
        }
        self.all = all;
        Ok(())
    }

    fn anew(&self, check: &Check) -> RunningCheck {
        let head = Head::empty(self.ground.reader.log.store());
        RunningCheck { head, ..RunningCheck::new(check, Book::new(check.rule, self.ground.files.is_some())) }
    }

    pub fn finish(mut self) {
        if self.trouble.is_none()
            && let Err(error) = self.save(usize::MAX)
        {
            self.failed(error);
            self.publish();
        }
    }

    // ---- other checks ----

    /// Takes those that there are. After a recovery they were looked at already, and it may not be time to look again.
    fn begin(&mut self) -> Result<(), StorageError> {
        self.declared = self.ground.checks.clone();
        let Some(source) = &self.ground.source else { return Ok(()) };
        let recorded = rows_of::<RuleTexts>(&self.ground.reader, ..);
        let mut source = source.lock();
        let recalled = recorded.map(|recorded| source.recall(recorded.into_iter().collect()));
        let looked = source.look(self.ground.clock.monotonic());
        *self.watch.known.write() = Arc::new(looked.unwrap_or_else(|| source.known()));
        self.declared = source.checks();
        self.ground.checks = self.declared.clone();
        recalled
    }

    /// Puts texts of rules on record that run: they stand after a restart, too.
    fn record_rules(&self) -> Result<(), StorageError> {
        let Ground { reader, door, options, .. } = &self.ground;
        let Some(source) = &self.ground.source else { return Ok(()) };
        let Options { event_bytes_max, row_bytes_max, append_events_max, .. } = *options;
        let mut room = event_bytes_max.min(row_bytes_max);
        let mut texts = source.lock().unrecorded(room);
        texts = texts
            .into_iter()
            .take(append_events_max.min(512))
            .filter(|(_, text)| {
                let len = text.as_ref().map_or(0, |text| text.text.len());
                len <= room && {
                    room -= len;
                    true
                }
            })
            .collect();
        let event = |(file, text): (&String, &Option<RuleText>)| match text.clone() {
            Some(RuleText { text, owner, severity }) => {
                Own::RulesTaken { file: file.clone(), text, owner, severity }
            }
            None => Own::RulesRemoved { file: file.clone() },
        };
        let events: Vec<_> = texts.iter().map(event).collect();
        if !events.is_empty() && append(reader, door, options, "rules", events)?.is_some() {
            source.lock().note_recorded(texts);
        }
        Ok(())
    }

    /// Looks for changed checks, if it is time.
    fn look(&mut self) {
        let Some(source) = &self.ground.source else { return };
        let mut source = source.lock();
        let Some(known) = source.look(self.ground.clock.monotonic()) else { return };
        *self.watch.known.write() = Arc::new(known);
        self.watch.leash.tug();
        let said = |check: &Check| (check.definition(), check.about.clone(), check.escalations.text());
        let checks = source.checks();
        self.others = (!checks.iter().map(said).eq(self.declared.iter().map(said))).then_some(checks);
    }

    /// Goes on with others, if there are others. Those that are defined as before go on where they are. `false`: not now.
    fn renew(&mut self) -> Result<bool, StorageError> {
        self.look();
        self.record_rules()?;
        let Some(declared) = self.others.take() else { return Ok(false) };
        // Findings of those that go are recorded first.
        while self.tell()? {}
        if self.all.iter().any(|watched| !watched.untold.is_empty()) {
            self.others = Some(declared);
            return Ok(false);
        }
        let checks = self.as_they_run(&declared)?;
        if let Some(file) = &mut self.file {
            file.forget_others(&checks)?;
        }
        let is_known = |check: &&Check| self.all.iter().any(|watched| watched.is(check));
        let mut new: Vec<_> =
            checks.iter().filter(|check| !is_known(check)).map(|check| self.anew(check)).collect();
        for watched in &mut new {
            watched.recall(&self.ground.reader)?;
        }
        new.append(&mut self.all);
        for check in &checks {
            let index = new.iter().position(|watched| watched.is(check)).expect("it was known, or made");
            self.all.push(RunningCheck { check: check.clone(), ..new.swap_remove(index) });
        }
        (self.declared, self.ground.checks, self.has_retired) = (declared, checks, false);
        self.show_checks();
        self.watch.leash.tug();
        Ok(true)
    }

    fn show_checks(&self) {
        *self.watch.checks.write() = Arc::new(self.ground.checks.clone());
    }

    // ---- judging ----

    /// Shows a page to those who are furthest behind, or furthest ahead of them. `false`: all have seen everything.
    fn judge(&mut self) -> Result<bool, StorageError> {
        let published = self.ground.reader.board.load();
        let head = published.head;
        self.glasses.renew(&published.layouts);
        let lagging = self.all.iter().map(|watched| watched.head.commit).filter(|at| *at < head.commit);
        let (first, last) = (lagging.clone().min(), lagging.max());
        let (Some(first), Some(last)) = (first, last) else { return Ok(false) };
        if first == last {
            self.turns = Turns { is_front: !self.turns.is_front, ..Turns::default() };
            return self.judge_from(first, head, self.ground.reader.page_bytes).map(|()| true);
        }
        // By turns: what is judged as it comes does not wait until a new check has caught up.
        let (began, page_bytes) = (self.ground.clock.monotonic(), self.ground.reader.page_bytes);
        let behind = if self.turns.begin() { last } else { first };
        let judged = self.judge_from(behind, head, self.turns.page_bytes.unwrap_or(page_bytes));
        self.turns.end(self.ground.clock.monotonic().saturating_sub(began), page_bytes);
        judged.map(|()| true)
    }

    /// Shows whole groups, a page of them or a little more, to those who stand there.
    fn judge_from(&mut self, behind: CommitNo, head: Head, page_bytes: usize) -> Result<(), StorageError> {
        // No further than to the next ones, whom they join there.
        let others = self.all.iter().map(|watched| watched.head);
        let through =
            others.filter(|other| other.commit > behind).chain([head]).min_by_key(|head| head.commit);
        let through = through.unwrap_or(head);
        let from = self.all.iter().find(|watched| watched.head.commit == behind).map(|watched| watched.head);
        let from = from.expect("it was found above");
        let reader = self.ground.reader.clone();
        let mut next = from.commit.next();
        let mut is_first = true;
        loop {
            let page = reader.log.read(Seek::Commit(next), through.commit, page_bytes)?;
            // Another history is never judged on top of this one.
            if is_first && page.before() != Some(from.hash) {
                return Err(StorageError::new(TroubleKind::State, "checks.redb is of another log"));
            }
            is_first = false;
            let end = page.boundary(&through);
            for record in page.records() {
                let record = record.map_err(LogError::from)?;
                if end.as_ref().is_some_and(|end| record.commit() > end.commit) {
                    break;
                }
                self.judge_record(&record, behind)?;
            }
            match end {
                Some(end) => {
                    let shown = self.all.iter_mut().filter(|watched| watched.head.commit == behind);
                    for watched in shown {
                        watched.head = end;
                        self.has_news |= !watched.caught_up && end.commit >= head.commit;
                        watched.caught_up |= end.commit >= head.commit;
                    }
                    return Ok(());
                }
                // A group that is longer than a page.
                None => next = page.last().next(),
            }
        }
    }

    fn judge_record(&mut self, record: &Record<'_>, behind: CommitNo) -> Result<(), StorageError> {
        let time = time_of(record.time());
        let limits = self.ground.reader.rules.limits;
        let file = self.file.as_ref();
        for watched in self.all.iter_mut().filter(|watched| watched.head.commit == behind) {
            if let Some(watermark) = watched.check.clocked.watermark(time) {
                watched.advance(watermark, file)?;
            }
        }
        for event in record.events() {
            let Ok(raw) = event.raw() else { continue };
            let mut glance = Glance::new(raw, event.position, record.time(), &self.glasses);
            let family = raw.family();
            if raw.type_name() == Own::COMPLETE
                && let Ok(Own::Complete { check, until }) = Own::decode(&raw)
            {
                let told = self.all.iter_mut().filter(|watched| watched.head.commit == behind);
                for watched in told.filter(|watched| watched.check.id() == check) {
                    if let Clocked::Events { .. } = watched.check.clocked {
                        watched.advance(until, file)?;
                    }
                }
            }
            for watched in self.all.iter_mut().filter(|watched| watched.head.commit == behind) {
                if watched.regards(family) {
                    let at = At { commit: record.commit(), position: event.position, time: record.time() };
                    watched.judge(&mut glance, at, limits, file)?;
                }
            }
        }
        for watched in self.all.iter_mut().filter(|watched| watched.head.commit == behind) {
            watched.judge_rows(&self.glasses, time, file)?;
        }
        Ok(())
    }

    // ---- putting on record ----

    /// Records what was found, as much as one append takes. `false`: there is nothing.
    fn tell(&mut self) -> Result<bool, StorageError> {
        let room = self.ground.options.append_events_max.min(TOLD_AT_ONCE);
        let mut events = Vec::new();
        let mut taken: Vec<usize> = vec![0; self.all.len()];
        for (index, watched) in self.all.iter().enumerate() {
            for untold in watched.untold.iter().take(room - events.len()) {
                events.push(watched.event(untold, self.weigh(index, untold)?));
                taken[index] += 1;
            }
        }
        if events.is_empty() {
            return Ok(false);
        }
        if self.append("check", events)?.is_none() {
            return Ok(false);
        }
        self.has_news = true;
        for (watched, taken) in self.all.iter_mut().zip(taken) {
            watched.told += taken as u64;
            watched.untold.take(taken);
        }
        Ok(true)
    }

    /// Records that time has passed, where a check waits for it and nothing else comes. `false`: none does.
    fn tick(&mut self) -> Result<bool, StorageError> {
        let now = time_of(self.ground.clock.now());
        let since = self.ground.clock.monotonic();
        let is_early = self.ticked.is_some_and(|ticked| since < ticked + TICK);
        if is_early || self.next_due().is_none_or(|due| due >= now) {
            return Ok(false);
        }
        self.ticked = Some(since);
        Ok(self.append("time", vec![Own::Passed])?.is_some())
    }

    fn next_due(&self) -> Option<Time> {
        let due = |watched: &RunningCheck| watched.check.clocked.passes(watched.book.next_due()?);
        self.all.iter().filter_map(due).min()
    }

    /// The position of the first of them. `None`: not now.
    fn append(&self, label: &str, events: Vec<Own>) -> Result<Option<u64>, StorageError> {
        let Ground { reader, door, options, .. } = &self.ground;
        append(reader, door, options, label, events)
    }

    // ---- files ----

    /// Saves, if there is too much in memory.
    fn save_full(&mut self) -> Result<(), StorageError> {
        let keys_max = self.ground.options.check_keys_max;
        let is_full =
            self.sum(RunningCheck::unsaved_len) > UNSAVED_MAX || self.sum(RunningCheck::keys_len) > keys_max;
        if is_full { self.save(keys_max) } else { Ok(()) }
    }

    fn sum(&self, of: impl Fn(&RunningCheck) -> usize) -> usize {
        self.all.iter().map(of).sum()
    }

    fn save_quiet(&mut self) {
        if self.trouble.is_none()
            && self.sum(RunningCheck::unsaved_len) > 0
            && let Err(error) = self.save(usize::MAX)
        {
            self.failed(error);
            self.publish();
        }
    }

    /// Saves all of them at once. Those that weigh most are in the file alone then, until memory holds no more keys than this.
    fn save(&mut self, keys_max: usize) -> Result<(), StorageError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut keys_len: usize = self.all.iter().map(RunningCheck::keys_len).sum();
        let mut by_weight: Vec<_> = self.all.iter_mut().collect();
        by_weight.sort_by_key(|watched| Reverse(watched.keys_len()));
        let mut saving = Saving::default();
        for watched in by_weight {
            let keep = keys_len <= keys_max;
            keys_len -= if keep { 0 } else { watched.keys_len() };
            let RunningCheck { check, book, mirror, untold, .. } = watched;
            let header = Header::new(check, book, &watched.head, watched.found, watched.idle);
            saving.add(check, &header, (book, mirror, untold), keep);
        }
        file.save(saving, &self.ground.checks)
    }

    // ---- waiting and showing ----

    /// Returns the longest time to sleep if nothing comes. `None`: without limit.
    fn patience(&self) -> Option<Duration> {
        if self.trouble.is_some() {
            return None;
        }
        let now = time_of(self.ground.clock.now());
        let due = self.next_due().map(|due| {
            let micros = u64::try_from(due.saturating_sub(now)).unwrap_or(0) + 1;
            let since = self.ground.clock.monotonic();
            let tick = self.ticked.map_or(Duration::ZERO, |ticked| (ticked + TICK).saturating_sub(since));
            Duration::from_micros(micros).max(tick)
        });
        let is_unsaved = self.file.is_some() && self.sum(RunningCheck::unsaved_len) > 0;
        let age = is_unsaved.then(|| Duration::from_millis(self.ground.options.overlay_age_ms_max));
        let has_untold = self.all.iter().any(|watched| !watched.untold.is_empty());
        let again = (has_untold || self.is_refused).then_some(TICK);
        let since = self.ground.clock.monotonic();
        let look = self.ground.source.as_ref().map(|source| source.lock().due().saturating_sub(since));
        [due, age, again, look].into_iter().flatten().min()
    }

    fn publish(&self) {
        let trouble = self.trouble.as_ref();
        let stats = match self.all.is_empty() {
            false => self.all.iter().map(|watched| watched.stats(trouble)).collect(),
            // Those that could not even begin stand nowhere, and show that.
            true => self.ground.checks.iter().map(|check| self.anew(check).stats(trouble)).collect(),
        };
        *self.watch.stats.write() = Arc::new(stats);
        *self.watch.file_size.lock() = self.file.as_ref().map_or((0, 0), CheckFile::size);
        self.ground.watch_bell.ring();
    }
}

/// Appends events of the store's own. The position of the first of them; `None`: not now.
pub(super) fn append(
    reader: &Reader,
    door: &Door,
    options: &Options,
    label: &str,
    events: Vec<Own>,
) -> Result<Option<u64>, StorageError> {
    let desk = Desk { rules: &reader.rules, options, terms: &reader.terms };
    let append = Append::events(events).label(label);
    let patience = Duration::from_millis(options.queue_wait_ms_max);
    let prepared = desk.prepare(append).map_err(|error| refused(&error.to_string()))?;
    match door.append(Box::new(prepared), patience).and_then(|answered| answered) {
        Ok(committed) => Ok(Some(committed.receipt.first.get())),
        Err(AppendError::Overloaded(_) | AppendError::ClockJumped { .. }) => Ok(None),
        // The store has stopped, and so do its checks: recovery begins them anew.
        Err(error) => Err(refused(&error.to_string())),
    }
}

/// Violations of a check that are on record.
pub(super) fn episodes(
    reader: &Reader,
    check: &str,
) -> Result<Vec<((String, u64, String), Episode)>, StorageError> {
    rows_of::<Episodes>(reader, Episodes::of(check))
}

/// A row of the store's own projections.
pub(super) fn row<P: Projection>(reader: &Reader, key: &P::Key) -> Result<Option<P::Row>, StorageError> {
    let Some(registered) = reader.rules.projections.get::<P>() else { return Ok(None) };
    let key = row_key::<P::Key>(registered.id, key).map_err(|error| refused(&error.to_string()))?;
    let row = read(reader, |layers| layers.row(&key))?;
    let Some(value) = row.and_then(|version| version.value) else { return Ok(None) };
    codec::decode(&value).map(Some).map_err(|error| refused(&error.to_string()))
}

/// Rows of the store's own projections, all of a range.
pub(super) fn rows_of<P: Projection>(
    reader: &Reader,
    keys: impl RangeBounds<P::Key>,
) -> Result<Vec<(P::Key, P::Row)>, StorageError> {
    let Some(registered) = reader.rules.projections.get::<P>() else { return Ok(Vec::new()) };
    let range = key_range::<P>(registered.id, keys).map_err(|error| refused(&error.to_string()))?;
    let rows = read(reader, |layers| layers.rows(&range, Direction::Forward, usize::MAX))?;
    let decoded = rows.iter().map(|(key, version)| {
        let value = version.value.as_deref().expect("a layer's answer holds a row");
        Ok((key::decode(&key[4..])?, codec::decode(value)?))
    });
    decoded.collect::<Result<_, DecodeError>>().map_err(|error| refused(&error.to_string()))
}

/// Reads derived state. A failure is noted, as that of every other reader: a file that failed answers nothing until the store is
/// recovered, and a recovery leaves a store alone that seems well.
fn read<T>(
    reader: &Reader,
    read: impl FnOnce(Layers<'_>) -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    reader.board.load().read(&[], read).inspect_err(|error| reader.health.note_read(error))
}

pub(super) fn refused(why: &str) -> StorageError {
    StorageError::new(TroubleKind::Io, format!("findings could not be recorded: {why}"))
}

impl RunningCheck {
    fn new(check: &Check, book: Book) -> Self {
        Self {
            check: check.clone(),
            book,
            head: Head {
                commit: CommitNo(0),
                position: Position(0),
                time: Timestamp(0),
                hash: Hash([0; 32]),
            },
            found: 0,
            untold: Backlog::default(),
            told: 0,
            caught_up: false,
            has_retired: false,
            families: check.lens.families(),
            rowed: check.lens.rowed(),
            mirror: Mirror::default(),
            evidence: check.lens.evidence(),
            read_until: None,
            unread: None,
            idle: None,
        }
    }

    /// Returns whether it has the same definition as this check.
    fn is(&self, check: &Check) -> bool {
        self.check.definition() == check.definition()
    }

    /// Takes over how many of its findings are on record.
    fn recall(&mut self, reader: &Reader) -> Result<(), StorageError> {
        let on_record = (self.check.id().to_owned(), self.check.definition());
        self.told = row::<Told>(reader, &on_record)?.unwrap_or_default();
        self.untold.skip_to(self.told);
        Ok(())
    }

    fn advance(&mut self, watermark: Time, file: Option<&CheckFile>) -> Result<(), StorageError> {
        let due = self.book.next_due();
        if watermark > self.book.watermark() {
            self.book.advance(watermark, &cold(&self.check, file))?;
        }
        if due.is_some() {
            self.number(file)?;
        }
        Ok(())
    }

    /// Returns whether it looks at events of this family.
    fn regards(&self, family: &str) -> bool {
        let takes_own =
            || self.evidence.is_some() || self.rowed.as_ref().is_some_and(|rowed| rowed.folds_own());
        Check::regards(&self.families, family) || (family == Own::FAMILY && takes_own())
    }

    fn judge(
        &mut self,
        glance: &mut Glance<'_>,
        at: At,
        limits: Limits,
        file: Option<&CheckFile>,
    ) -> Result<(), StorageError> {
        if let Some(evidence) = self.evidence.clone()
            && glance.raw.family() == Own::FAMILY
        {
            return self.learn(&evidence, &glance.raw, at, file);
        }
        if let Some(rowed) = self.rowed.clone() {
            return self.fold(&*rowed, &glance.raw, at, limits, file);
        }
        if self.book.counts().activations == 0 {
            let time = time_of(at.time);
            self.idle = Some((self.idle.map_or(time, |(first, _)| first), time));
        }
        if let Some(error) = self.check.judge(&mut self.book, glance, &cold(&self.check, file))? {
            self.unread = Some((at.position.get(), error.to_string()));
        }
        self.number(file)
    }

    /// Returns the number of entries that its file lacks.
    fn unsaved_len(&self) -> usize {
        self.book.unsaved_len() + self.mirror.unsaved_len()
    }

    /// Returns the number of keys and rows in memory.
    fn keys_len(&self) -> usize {
        self.book.keys_len() + self.mirror.rows_len()
    }

    fn cannot_tell(
        &mut self,
        position: Position,
        why: String,
        recorded: Time,
        file: Option<&CheckFile>,
    ) -> Result<(), StorageError> {
        self.unread = Some((position.get(), why));
        self.book.untold(position.get(), recorded);
        self.number(file)
    }

    // ---- over rows ----

    /// Folds an event into the tables that the check joins.
    fn fold(
        &mut self,
        rowed: &dyn Rowed,
        raw: &RawRef<'_>,
        at: At,
        limits: Limits,
        file: Option<&CheckFile>,
    ) -> Result<(), StorageError> {
        for table in rowed.projections().into_iter().filter(|table| table.wants(raw.family())) {
            let cold = cold(&self.check, file);
            if let Err(why) = self.mirror.fold(table, raw, at, limits, &cold)? {
                let why = format!("folding `{}`: {why}", table.name);
                self.cannot_tell(at.position, why, time_of(at.time), file)?;
            }
        }
        Ok(())
    }

    /// Takes over what a source shows; and with a complete snapshot, what is certain by then.
    fn learn(
        &mut self,
        evidence: &Evidence,
        raw: &RawRef<'_>,
        at: At,
        file: Option<&CheckFile>,
    ) -> Result<(), StorageError> {
        let is_it = |of: &str, shape: &[u8; 4]| of == self.check.id() && *shape == evidence.shape;
        match Own::decode(raw) {
            Ok(Own::Evidence { source, shape, until, changed, .. }) if is_it(&source, &shape) => {
                self.read_until = Some(until);
                for (key, row) in changed {
                    let value = row.map(|row| Arc::from(row.0));
                    let version = RowVersion { commit: at.commit, position: at.position, value };
                    self.mirror.put(evidence.shape, &key.0, version);
                }
                Ok(())
            }
            Ok(Own::Pulled { source, shape, as_of, .. }) if is_it(&source, &shape) => {
                self.advance(as_of, file)
            }
            _ => Ok(()),
        }
    }

    /// Returns the time at which a key came to be right or wrong.
    ///
    /// For rows from outside, the time at which they had been read is known. The end of a disagreement may be seen long after its
    /// window: unless a snapshot has shown the disagreement after that, it never was a violation.
    fn turned(
        &mut self,
        hash: KeyHash,
        wrong: bool,
        time: Time,
        file: Option<&CheckFile>,
    ) -> Result<Time, StorageError> {
        let seen = self.read_until.unwrap_or(time);
        match self.evidence.is_none() || wrong || self.book.is_broken(hash, &cold(&self.check, file))? {
            true => Ok(seen),
            false => Ok(self.book.watermark().min(seen)),
        }
    }

    /// Judges the keys whose rows the commit has changed, now that it is whole.
    fn judge_rows(
        &mut self,
        glasses: &Glasses,
        time: Time,
        file: Option<&CheckFile>,
    ) -> Result<(), StorageError> {
        let Some(rowed) = self.rowed.clone() else { return Ok(()) };
        for (key, position) in self.mirror.settle() {
            let cold = cold(&self.check, file);
            let rows = self.mirror.rows_of(&key, &rowed.projections(), &cold)?;
            let rows: Vec<Option<&[u8]>> = rows.iter().map(Option::as_deref).collect();
            let asked = catch_unwind(AssertUnwindSafe(|| rowed.wrong(&key, &rows)));
            let asked = asked
                .unwrap_or_else(|panic| Err(DecodeError::new(format!("panicked: {}", panic_text(&*panic)))));
            let wrong = match asked {
                Ok(wrong) => wrong,
                Err(error) => {
                    self.cannot_tell(position, error.to_string(), time, file)?;
                    continue;
                }
            };
            let hash = glasses.hash(&key);
            if wrong {
                self.mirror.name(hash, Some(&key));
            } else if self.mirror.named(hash, &cold)?.is_none() {
                continue;
            }
            let (position, amount) = (position.get(), Amount::default());
            let roles = if wrong { Roles::A } else { Roles::B };
            let time = self.turned(hash, wrong, time, file)?;
            let seen = Seen { position, time, roles, tie_a: 0, tie_b: 0, amount };
            self.book.observe(hash, &seen, &cold)?;
            self.number(file)?;
            if !wrong {
                self.mirror.name(hash, None);
            }
        }
        self.read_until = None;
        Ok(())
    }

    /// Returns the subject of a finding about a key of rows, and the rows as they stand.
    fn tell_rows(&self, key: KeyHash, file: Option<&CheckFile>) -> Result<(String, String), StorageError> {
        let cold = cold(&self.check, file);
        let Some(rowed) = &self.rowed else { return Ok(Default::default()) };
        let Some(key) = self.mirror.named(key, &cold)? else { return Ok(Default::default()) };
        let tables = rowed.projections();
        let rows = self.mirror.rows_of(&key, &tables, &cold)?;
        // Types of the user are decoded in there: one that panics stops no check.
        let told = catch_unwind(AssertUnwindSafe(|| {
            let rows = tables.iter().zip(rows).enumerate().map(|(index, (table, row))| match row {
                Some(row) => format!("{} has {}", table.name, rowed.row_text(index, &row)),
                None => format!("{} has no row", table.name),
            });
            let rows = rows.collect::<Vec<_>>().join(", ");
            (rowed.key_text(&key).unwrap_or_else(|error| format!("? ({error})")), rows)
        }));
        Ok(told.unwrap_or_else(|panic| (format!("? (panicked: {})", panic_text(&*panic)), String::new())))
    }

    // ---- what was found ----

    fn number(&mut self, file: Option<&CheckFile>) -> Result<(), StorageError> {
        for (key, finding) in self.book.take_found() {
            if self.found >= self.told {
                let (subject, rows) = self.tell_rows(key, file)?;
                let disagrees = match finding.amounts {
                    Some((said, recorded)) if finding.verdict == Verdict::Skewed => {
                        format!(
                            "its time is {} ahead of the store's",
                            time_text(said.saturating_sub(recorded))
                        )
                    }
                    Some((sum, 0)) if self.check.rule.word == Word::Balances => {
                        format!("the events add up to {sum}, not to 0")
                    }
                    Some((said, sum)) => format!("says {said}, the events add up to {sum}"),
                    None => rows,
                };
                self.untold.push(Untold { number: self.found, finding, subject, disagrees });
            }
            self.found += 1;
        }
        Ok(())
    }

    fn event(&self, untold: &Untold, (severity, why): (String, String)) -> Own {
        let Untold { number, finding, subject, disagrees } = untold.clone();
        let Finding { verdict, activation, by, decided, .. } = finding;
        let (check, definition) = (self.check.id().to_owned(), self.check.definition());
        // Its owner is that of the check.
        let found =
            Found { check, definition, number, activation, subject, severity, why, ..Found::default() };
        let found = Found { disagrees, by, decided, ..found };
        match verdict {
            Verdict::Violated => Own::Violated(found),
            Verdict::Healed => Own::Healed(found),
            Verdict::Retracted => Own::Retracted(found),
            Verdict::Untold => Own::Untold(found),
            Verdict::Skewed => Own::Skewed(found),
        }
    }

    /// Nothing was to be judged for ten windows, while events of its families came. What stands too long is expected never to.
    fn is_unexercised(&self) -> bool {
        let Rule { word, window, .. } = self.check.rule;
        let Some((first, last)) = self.idle else { return false };
        let window_end = window.and_then(|window| window.end(first));
        let bound = window_end.map_or(UNEXERCISED, |end| end.saturating_sub(first).saturating_mul(10));
        word != Word::Standing && self.book.counts().activations == 0 && last.saturating_sub(first) > bound
    }

    fn stats(&self, trouble: Option<&StorageError>) -> CheckStats {
        let counts = *self.book.counts();
        CheckStats {
            check: self.check.id().to_owned(),
            definition: self.check.definition(),
            position: self.head.position,
            lag_len: 0,
            activations: counts.activations,
            satisfied: counts.satisfied,
            violated: counts.violated,
            pending: counts.pending(),
            keys_violated: counts.keys_violated,
            healed: counts.healed,
            retracted: counts.retracted,
            unread: counts.untold,
            skewed: counts.skewed,
            last_unread: self.unread.clone(),
            unrecorded: self.untold.len() as u64,
            caught_up: self.caught_up,
            is_unexercised: self.is_unexercised(),
            watermark: (self.book.watermark() > Time::MIN).then(|| self.book.watermark()),
            trouble: trouble.cloned().map(Trouble),
        }
    }
}

fn cold<'a>(check: &Check, file: Option<&'a CheckFile>) -> ColdKeys<'a> {
    file.map_or(ColdKeys::NONE, |file| file.of(check))
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}
