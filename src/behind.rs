//! Projections behind the writer: each on a thread of its own, with its rows and how far they go in a file of its own.
//!
//! - Bounded by what is published: it folds whole groups up to the head of the board, never what a file holds beyond.
//! - Rows and the head they belong to are flushed in one transaction. A crash leaves an earlier head, never a mixture.
//! - What is folded from the first commit, because it is new, changed, damaged or asked for, goes to another file. Readers see
//!   it when it has caught up, and the old file goes after that: either is whole, or it is not served.
//! - What it cannot do stops it alone: a fold that fails or panics, damage, a full disk. Nothing here poisons the store.
//!
//! ```text
//! behind/NAME.IDENTITY.NUMBER.redb
//! NAME := the projection's, as a file name    IDENTITY := of name, version and layouts    NUMBER := rises with each rebuild
//! ```
//!
//! A file is whole when its head names the projection; until then it is being built.

use crate::disk::{Access, Disk};
use crate::error::{ReadError, StorageError, TroubleKind};
use crate::log::{Head, Log, LogError, Page, Seek};
use crate::order::Position;
use crate::projection::{Limits, Projection, Registered, Skipped, Stall};
use crate::recovery::refold;
use crate::state::bell::Bell;
use crate::state::overlay::{Delta, Overlay};
use crate::state::tables::{Base, StoredProjection, Tables};
use crate::state::{Board, Layouts, Published};
use crate::sync::{JoinHandle, Mutex, RwLock, ThreadId, deadline, join, spawn};
use crate::wakers::Wakers;
use std::any::TypeId;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

// ---- what everyone sees ----

/// A projection behind the writer.
#[derive(Debug)]
pub(crate) struct Behind {
    pub projection: Registered,
    standing: RwLock<Arc<Standing>>,
    orders: Mutex<FollowerCommands>,
    bells: Bells,
}

/// Eventcounts of a store: of its head, its projections behind the writer, and its checks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bells {
    /// The head has moved, or there are orders.
    pub head: Arc<Bell>,
    /// A projection has moved.
    pub behind: Arc<Bell>,
    /// A check has moved.
    pub watch: Arc<Bell>,
}

impl Bells {
    /// Tasks listen to the head alone: `due` runs their wakers.
    pub fn new(due: Arc<Wakers>) -> Self {
        Self { head: Arc::new(Bell::new(due)), ..Self::default() }
    }

    /// Wakes all that wait: for a recovery, or the end.
    pub fn ring(&self) {
        self.head.ring();
        self.behind.ring();
        self.watch.ring();
    }
}

/// State of a projection, replaced as a whole: by its thread, and by `resume` if that thread has halted.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Rows that are served: whole, up to their own head.
    rows: Option<Arc<Published>>,
    /// Position of the rows that are being built, and the position that they must reach to be served.
    pub building: Option<(Position, Position)>,
    pub halt: Option<Halt>,
    /// Number of builds that came to be served.
    pub built: u64,
}

/// Reason why it does not go on.
#[derive(Debug, Clone)]
pub(crate) enum Halt {
    /// Its fold failed or panicked.
    Stalled(Stall),
    /// Its file, or the log.
    Trouble(StorageError),
}

/// Orders to its thread.
#[derive(Debug, Default)]
struct FollowerCommands {
    stop: bool,
    resume: bool,
    rebuild: bool,
    damaged: bool,
}

impl Behind {
    fn new(projection: Registered, bells: Bells) -> Self {
        let (standing, orders) = (RwLock::default(), Mutex::default());
        Self { projection, standing, orders, bells }
    }

    pub fn is<P: Projection>(&self) -> bool {
        self.projection.type_id == TypeId::of::<P>()
    }

    pub fn standing(&self) -> Arc<Standing> {
        self.standing.read().clone()
    }

    fn order(&self, order: impl FnOnce(&mut FollowerCommands)) {
        order(&mut self.orders.lock());
        self.bells.head.ring();
    }

    /// Has it go on after a stall or trouble.
    pub fn resume(&self) {
        let halted = self.standing();
        if halted.halt.is_none() {
            return;
        }
        self.order(|orders| orders.resume = true);
        // A file that failed answers nothing before its thread has opened it again: until then the halt stands for its rows.
        if matches!(halted.halt, Some(Halt::Trouble(_))) {
            return;
        }
        // From here on nobody is told of it, unless it halts again. Its thread has published last when it halted.
        let mut standing = self.standing.write();
        if Arc::ptr_eq(&standing, &halted) {
            let (rows, building, built) = (halted.rows.clone(), halted.building, halted.built);
            *standing = Arc::new(Standing { rows, building, halt: None, built });
        }
    }

    /// The position it has stalled at, if it has.
    pub fn stalled_at(&self) -> Option<Position> {
        match &self.standing().halt {
            Some(Halt::Stalled(stall)) => Some(stall.position),
            _ => None,
        }
    }

    /// Passes over an event, which is on record, and goes on.
    pub fn skip(&self, position: Position, reason: &str) {
        if let Some(skipped) = &self.projection.skipped {
            skipped.write().insert(position.0, reason.to_owned());
        }
        self.resume();
    }

    /// Events that it passes over, and why.
    pub fn skipped(&self) -> Skipped {
        self.projection.skipped.as_ref().map_or_else(Skipped::new, |skipped| skipped.read().clone())
    }

    /// Has it folded from the first commit, beside what is served.
    pub fn rebuild(&self) {
        self.order(|orders| orders.rebuild = true);
    }

    /// Says what a reader met in these rows: damage is rebuilt, unless others are served by now.
    pub fn note_read(&self, rows: &Published, error: &StorageError) {
        let served =
            self.standing().rows.as_ref().is_some_and(|served| Arc::ptr_eq(&served.base, &rows.base));
        if error.is_rebuildable() && served {
            self.order(|orders| orders.damaged = true);
        }
    }

    /// The rows as they stood there, unless they are not to be read.
    pub fn rows<'a>(&self, standing: &'a Standing) -> Result<&'a Arc<Published>, ReadError> {
        let projection = self.projection.name;
        match (&standing.halt, &standing.rows) {
            (Some(Halt::Stalled(stall)), _) => {
                Err(ReadError::Stalled { projection, position: stall.position, why: stall.why.clone() })
            }
            (Some(Halt::Trouble(error)), _) => Err(error.clone().into()),
            (None, Some(rows)) => Ok(rows),
            (None, None) => {
                let (at, of) = standing.building.unwrap_or_default();
                Err(ReadError::Rebuilding { projection, at, of })
            }
        }
    }
}

impl Standing {
    /// Returns the position up to which rows are served.
    pub fn position(&self) -> Position {
        self.rows.as_ref().map_or(Position::START, |rows| rows.head.position)
    }

    /// Rows in the file that is served.
    pub fn flushed_rows(&self) -> u64 {
        self.rows.as_ref().map_or(0, |rows| rows.base.row_count())
    }

    /// Bytes of that file, and of the keys and values in it.
    pub fn file_size(&self) -> (u64, u64) {
        self.rows.as_ref().map_or((0, 0), |rows| rows.base.size())
    }

    /// Memory of what is newer than its file, estimated.
    pub fn overlay_bytes(&self) -> u64 {
        self.rows.as_ref().map_or(0, |rows| rows.active.bytes() as u64)
    }
}

// ---- all of them ----

/// Parts and limits for following the log, the same for all projections of a store.
#[derive(Clone)]
pub(crate) struct Following {
    pub log: Arc<dyn Log>,
    pub board: Arc<Board>,
    pub bells: Bells,
    pub limits: Limits,
    pub page_bytes: usize,
    pub overlay_bytes_max: usize,
    /// Maximum time that a quiet projection keeps rows in memory only.
    pub overlay_age_max: Duration,
    /// `None` if state lives in memory.
    pub files: Option<Files>,
    pub before_flush: Arc<dyn Fn() + Send + Sync>,
}

/// The projections behind a store, and what drives them.
#[derive(Default)]
pub(crate) struct Followers {
    all: Vec<Arc<Behind>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The followers, if the store runs in lockstep.
    lockstep: Mutex<Vec<Follower>>,
}

impl Followers {
    /// Finds out the position of each, and has it follow: on its own thread, or by `step`.
    ///
    /// `forked` has their states in the store that this one is a fork of, `skipped` the events that each passes over.
    pub fn start(
        following: &Following,
        projections: &[Registered],
        forked: &[Arc<Standing>],
        skipped: Vec<Skipped>,
        lockstep: bool,
    ) -> Result<Self, StorageError> {
        let no_thread = |error| StorageError::io("a thread could not be started", error);
        if let Some(files) = &following.files {
            files.forget_others(projections);
        }
        let mut started = Self::default();
        for (index, (projection, skipped)) in projections.iter().zip(skipped).enumerate() {
            let skipped = Some(Arc::new(RwLock::new(skipped)));
            let projection = Registered { skipped, ..projection.clone() };
            let name = file_name(projection.name);
            let behind = Arc::new(Behind::new(projection, following.bells.clone()));
            started.all.push(behind.clone());
            let follower = Follower::new(following.clone(), behind, forked.get(index).map(|other| &**other));
            match lockstep {
                true => started.lockstep.get_mut().push(follower),
                false => {
                    let thread = spawn(&name, move || follower.run()).map_err(no_thread)?;
                    started.threads.get_mut().push(thread);
                }
            }
        }
        Ok(started)
    }

    pub fn all(&self) -> &[Arc<Behind>] {
        &self.all
    }

    /// Folds one page each, on the calling thread. Returns `false` if there was nothing to do, or if they have threads.
    pub fn step(&self) -> bool {
        let turn = |moved, follower: &mut Follower| (follower.guarded_turn() == FollowerTurn::Moved) || moved;
        self.lockstep.lock().iter_mut().fold(false, turn)
    }

    /// The threads that run their folds.
    pub fn threads(&self) -> Vec<ThreadId> {
        self.threads.lock().iter().map(|thread| thread.thread().id()).collect()
    }

    /// Has all of them flush and end.
    pub fn stop(&self) {
        self.all.iter().for_each(|behind| behind.order(|orders| orders.stop = true));
        let threads = mem::take(&mut *self.threads.lock());
        threads.into_iter().for_each(join);
        let all = mem::take(&mut *self.lockstep.lock());
        all.into_iter().for_each(Follower::finish);
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.stop();
    }
}

// ---- one of them ----

/// Follows the log for one projection.
struct Follower {
    following: Following,
    behind: Arc<Behind>,
    /// Rows that readers see.
    served: Option<RowGeneration>,
    /// Rows that take their place once they have reached this head.
    building: Option<(RowGeneration, Head)>,
    halt: Option<Halt>,
    built: u64,
}

/// Rows, up to their head, and the file below them.
struct RowGeneration {
    rows: Arc<Published>,
    /// `None` if the rows are in memory only.
    file: Option<(Tables, ProjectionFileName)>,
    /// Bytes of the log folded since the last flush: also what changes no row is not to be read again for ever.
    unflushed: usize,
}

/// Result of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FollowerTurn {
    Moved,
    Idle,
    Stop,
}

/// Reason why a turn was not finished.
enum FollowFailure {
    /// Its rows cannot be trusted or read: damage, or another history. They are folded again.
    Unusable,
    Halt(Halt),
}

impl From<StorageError> for FollowFailure {
    fn from(error: StorageError) -> Self {
        if error.is_rebuildable() { Self::Unusable } else { Self::Halt(Halt::Trouble(error)) }
    }
}

impl From<LogError> for FollowFailure {
    fn from(error: LogError) -> Self {
        match error {
            LogError::NotAtHead { .. } => Self::Unusable,
            error => StorageError::from(error).into(),
        }
    }
}

impl Follower {
    /// Stands where its file says, or where that of another store in memory does.
    fn new(following: Following, behind: Arc<Behind>, forked: Option<&Standing>) -> Self {
        let served =
            forked.and_then(|other| other.rows.as_ref()).map(|rows| RowGeneration::in_memory(rows.fork()));
        let halt = forked.and_then(|other| other.halt.clone());
        let mut follower = Self { following, behind, served, building: None, halt, built: 0 };
        if follower.served.is_none()
            && follower.halt.is_none()
            && let Err(failed) = follower.open()
        {
            follower.failed(failed);
        }
        follower.publish();
        follower
    }

    fn run(mut self) {
        loop {
            let mut turn = self.guarded_turn();
            if turn == FollowerTurn::Idle {
                let bell = self.following.bells.head.clone();
                let listener = bell.listen();
                turn = self.guarded_turn();
                if turn == FollowerTurn::Idle {
                    let age = self.following.overlay_age_max;
                    let patience = self.has_unflushed().then(|| deadline(age)).flatten();
                    if !listener.wait(patience) {
                        self.flush_all();
                    }
                }
            }
            if turn == FollowerTurn::Stop {
                return self.finish();
            }
        }
    }

    /// A panic in here is a bug of ours: it halts this projection and never ends the thread unseen.
    fn guarded_turn(&mut self) -> FollowerTurn {
        catch_unwind(AssertUnwindSafe(|| self.turn())).unwrap_or_else(|_| {
            let what = format!("projection `{}` panicked outside its fold", self.behind.projection.name);
            self.halt = Some(Halt::Trouble(StorageError::new(TroubleKind::Io, what)));
            self.publish();
            FollowerTurn::Moved
        })
    }

    /// Carries out what was ordered, then folds a page.
    fn turn(&mut self) -> FollowerTurn {
        let orders = mem::take(&mut *self.behind.orders.lock());
        if orders.stop {
            return FollowerTurn::Stop;
        }
        let ordered = orders.damaged || orders.rebuild || orders.resume;
        let obeyed = self.obey(&orders);
        if ordered {
            // Seen at once: a page may take its time.
            self.publish();
        }
        let turned = obeyed.and_then(|()| self.go_on());
        let moved = turned.unwrap_or_else(|failed| {
            self.failed(failed);
            true
        });
        match moved || ordered {
            true => {
                self.publish();
                FollowerTurn::Moved
            }
            false => FollowerTurn::Idle,
        }
    }

    fn obey(&mut self, orders: &FollowerCommands) -> Result<(), FollowFailure> {
        if orders.resume
            && let Some(halt) = self.halt.take()
        {
            // A file that failed answers nothing any more until it is opened again.
            if matches!(halt, Halt::Trouble(_)) {
                self.open()?;
            }
        }
        if orders.damaged && self.halt.is_none() {
            self.served = None;
        }
        let rebuild = orders.rebuild || self.served.is_none();
        if rebuild && self.building.is_none() && self.halt.is_none() {
            self.build()?;
        }
        Ok(())
    }

    fn failed(&mut self, failed: FollowFailure) {
        match failed {
            FollowFailure::Halt(halt) => self.halt = Some(halt),
            // What could not be used is gone already.
            FollowFailure::Unusable => {
                if self.building.is_none()
                    && let Err(FollowFailure::Halt(halt)) = self.build()
                {
                    self.halt = Some(halt);
                }
            }
        }
    }

    /// Shows readers where it stands.
    fn publish(&self) {
        let standing = Standing {
            rows: self.served.as_ref().map(|side| side.rows.clone()),
            building: self.building.as_ref().map(|(side, until)| (side.rows.head.position, until.position)),
            halt: self.halt.clone(),
            built: self.built,
        };
        let before = mem::replace(&mut *self.behind.standing.write(), Arc::new(standing));
        self.following.bells.behind.ring();
        drop(before);
    }

    // ---- following ----

    /// Folds one page further. Returns `false` if all that is published is folded, or if it has halted.
    fn go_on(&mut self) -> Result<bool, FollowFailure> {
        if self.halt.is_some() {
            return Ok(false);
        }
        let head = self.following.board.load().head;
        let Some((mut side, until)) = self.building.take() else { return self.follow(&head) };
        let advanced = self.advance(&mut side, &head, false);
        // One that cannot be trusted is dropped, any other goes on later.
        if !matches!(advanced, Err(FollowFailure::Unusable)) {
            self.building = Some((side, until));
        }
        advanced?;
        self.switch_or_follow(&head)
    }

    /// Switches to what was built, if it has come far enough; else what is served goes on beside it.
    fn switch_or_follow(&mut self, head: &Head) -> Result<bool, FollowFailure> {
        let Some((side, until)) = self.building.as_ref() else { return Ok(true) };
        let (at, served) = (side.rows.head.commit, self.served.as_ref().map(|side| side.rows.head.commit));
        match (at >= until.commit, served) {
            // Nobody sees rows go back.
            (true, Some(served)) if at < served => {}
            (true, _) => self.switch()?,
            (false, Some(_)) => drop(self.follow(head)?),
            (false, None) => {}
        }
        Ok(true)
    }

    /// Marks the rows that were built as whole, in the transaction that makes them so, and serves them from then on.
    fn switch(&mut self) -> Result<(), FollowFailure> {
        let Some((mut side, until)) = self.building.take() else { return Ok(()) };
        if let Err(failed) = self.flush(&mut side, true) {
            if matches!(failed, FollowFailure::Halt(_)) {
                self.building = Some((side, until));
            }
            return Err(failed);
        }
        if let (Some(files), Some((_, named))) = (&self.following.files, &side.file) {
            files.forget_all_but(named);
        }
        self.served = Some(side);
        self.built += 1;
        Ok(())
    }

    fn follow(&mut self, head: &Head) -> Result<bool, FollowFailure> {
        let Some(mut side) = self.served.take() else { return Ok(false) };
        let advanced = self.advance(&mut side, head, true);
        if !matches!(advanced, Err(FollowFailure::Unusable)) {
            self.served = Some(side);
        }
        advanced
    }

    /// Folds what comes next, as much as one read of the log gives and at least one group.
    fn advance(&self, side: &mut RowGeneration, head: &Head, whole: bool) -> Result<bool, FollowFailure> {
        if side.rows.head.commit >= head.commit {
            return Ok(false);
        }
        let (delta, end, bytes) = self.fold(&side.rows, head)?;
        side.rows.active.apply(delta);
        side.unflushed += bytes;
        side.show(end, side.rows.base.clone(), side.rows.active.clone());
        let limit = self.following.overlay_bytes_max;
        if side.rows.active.bytes() >= limit || side.unflushed >= limit {
            self.flush(side, whole)?;
        }
        Ok(true)
    }

    /// Folds whole groups after `rows`. Returns the changes, the head they lead to, and their size in the log.
    fn fold(&self, rows: &Published, through: &Head) -> Result<(Delta, Head, usize), FollowFailure> {
        let (mut delta, mut bytes, mut next) = (Delta::default(), 0, rows.head.commit.next());
        loop {
            let page =
                self.following.log.read(Seek::Commit(next), through.commit, self.following.page_bytes)?;
            // The chain says what came before: another history is never folded on top of these rows.
            if bytes == 0 && page.before() != Some(rows.head.hash) {
                return Err(FollowFailure::Unusable);
            }
            let end = page.boundary(through);
            self.fold_page(&page, end.as_ref(), rows, &mut delta)?;
            bytes += page.size();
            match end {
                Some(end) => return Ok((delta, end, bytes)),
                // A group that is longer than a page.
                None => next = page.last().next(),
            }
        }
    }

    fn fold_page(
        &self,
        page: &Page,
        end: Option<&Head>,
        rows: &Published,
        delta: &mut Delta,
    ) -> Result<(), FollowFailure> {
        for record in page.records() {
            let record = record.map_err(LogError::from)?;
            if end.is_some_and(|end| record.commit() > end.commit) {
                break;
            }
            // Straight into what the page changes: if the fold fails, all of that is dropped.
            let (projection, limits) = (&self.behind.projection, &self.following.limits);
            let failed = refold(&record, &[projection], limits, rows, &Delta::default(), delta)?;
            if let Some((_, stall)) = failed.into_iter().next() {
                return Err(FollowFailure::Halt(Halt::Stalled(stall)));
            }
        }
        Ok(())
    }

    // ---- files ----

    fn has_unflushed(&self) -> bool {
        let building = self.building.as_ref().map(|(side, _)| side);
        self.may_flush()
            && self.served.iter().chain(building).any(|side| side.unflushed > 0 && side.file.is_some())
    }

    /// A file that failed is not written again before it is opened again.
    fn may_flush(&self) -> bool {
        !matches!(self.halt, Some(Halt::Trouble(_)))
    }

    fn flush(&self, side: &mut RowGeneration, whole: bool) -> Result<(), FollowFailure> {
        let Some((tables, _)) = &mut side.file else { return Ok(()) };
        // An empty log has nothing to name.
        if side.rows.head.commit.0 == 0 {
            return Ok(());
        }
        let stored = whole.then(|| StoredProjection::from(&self.behind.projection));
        (self.following.before_flush)();
        // Keys are the writer's: none is in here.
        tables.flush(side.rows.active.drain_sorted(), &side.rows.head, 0, stored.as_slice())?;
        let base = Arc::new(tables.base()?);
        side.unflushed = 0;
        side.show(side.rows.head, base, Arc::default());
        Ok(())
    }

    /// Makes durable what is folded, so that the next open need not fold it again.
    fn flush_all(&mut self) {
        if !self.may_flush() {
            return;
        }
        if let Err(failed) = self.flush_served().and_then(|()| self.flush_building()) {
            self.failed(failed);
        }
        self.publish();
    }

    fn flush_served(&mut self) -> Result<(), FollowFailure> {
        let Some(mut side) = self.served.take() else { return Ok(()) };
        let flushed = if side.unflushed > 0 { self.flush(&mut side, true) } else { Ok(()) };
        if !matches!(flushed, Err(FollowFailure::Unusable)) {
            self.served = Some(side);
        }
        flushed
    }

    fn flush_building(&mut self) -> Result<(), FollowFailure> {
        let Some((mut side, until)) = self.building.take() else { return Ok(()) };
        let flushed = if side.unflushed > 0 { self.flush(&mut side, false) } else { Ok(()) };
        if !matches!(flushed, Err(FollowFailure::Unusable)) {
            self.building = Some((side, until));
        }
        flushed
    }

    /// Finds the rows of earlier runs, or begins to build them.
    fn open(&mut self) -> Result<(), FollowFailure> {
        // Closed first: a file has one owner.
        (self.served, self.building) = (None, None);
        let Some(files) = self.following.files.clone() else { return self.build() };
        for named in files.of(&self.behind.projection)? {
            let Some(side) = self.open_file(&files, named)? else { continue };
            let is_whole =
                side.file.as_ref().is_some_and(|(tables, _)| !tables.meta().projections.is_empty());
            match is_whole {
                true => {
                    self.building = None;
                    if let Some((_, named)) = &side.file {
                        files.forget_all_but(named);
                    }
                    self.served = Some(side);
                    return Ok(());
                }
                // It goes on where it stood, unless an earlier one is whole.
                false if self.building.is_none() => {
                    self.building = Some((side, self.following.board.load().head))
                }
                false => {}
            }
        }
        if self.building.is_some() { Ok(()) } else { self.build() }
    }

    /// A file whose rows are those of this log up to a head of it. Any other is removed.
    fn open_file(
        &self,
        files: &Files,
        named: ProjectionFileName,
    ) -> Result<Option<RowGeneration>, FollowFailure> {
        let opened = files.open(&named)?;
        let side = opened.and_then(|mut tables| {
            let identity = self.behind.projection.id;
            let ours = tables.claim(self.following.log.store())
                && tables.meta().projections.iter().all(|stored| stored.id == identity);
            ours.then_some(())?;
            let rows = Published::on(Arc::new(tables.base().ok()?), tables.meta().head(), Arc::default());
            Some(RowGeneration { rows: Arc::new(rows), file: Some((tables, named.clone())), unflushed: 0 })
        });
        if let Some(side) = side
            && self.following.log.has(&side.rows.head)?
        {
            return Ok(Some(side));
        }
        Ok(files.remove(&named))
    }

    /// Begins to fold from the first commit, in a file beside what there is.
    fn build(&mut self) -> Result<(), FollowFailure> {
        let (log, until) = (&self.following.log, self.following.board.load().head);
        let rows = Published::on(Arc::new(Base::Empty), Head::empty(log.store()), Arc::default());
        let mut side = RowGeneration::in_memory(rows);
        if let Some(files) = &self.following.files {
            let named = files.next(&self.behind.projection)?;
            let mut tables = files.create(&named)?;
            tables.claim(log.store());
            side.file = Some((tables, named));
        }
        self.building = Some((side, until));
        // In an empty store it is whole at once.
        if until.commit.0 == 0 { self.switch() } else { Ok(()) }
    }

    /// At the end: flushes, and leaves nothing that was found damaged.
    fn finish(mut self) {
        let damaged = mem::take(&mut *self.behind.orders.lock()).damaged;
        self.flush_all();
        if let (true, Some(files), Some(RowGeneration { file: Some((tables, named)), .. })) =
            (damaged, &self.following.files, self.served.take())
        {
            drop(tables);
            files.remove::<()>(&named);
        }
    }
}

impl RowGeneration {
    fn in_memory(rows: Published) -> Self {
        Self { rows: Arc::new(rows), file: None, unflushed: 0 }
    }

    fn show(&mut self, head: Head, base: Arc<Base>, active: Arc<Overlay>) {
        let layouts: Arc<Layouts> = self.rows.layouts.clone();
        self.rows = Arc::new(Published { head, base, frozen: None, active, recent: None, keys: 0, layouts });
    }
}

/// The folder of their files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub disk: Arc<dyn Disk>,
    /// The store's own directory.
    pub store: PathBuf,
    pub cache_bytes: usize,
}

/// The folder's name, in the store's directory.
pub(crate) const DIR: &str = "behind";

/// A file's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ProjectionFileName {
    projection: String,
    identity: String,
    number: u64,
}

impl ProjectionFileName {
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".redb")?.split('.');
        let (projection, identity) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let number = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Self { projection, identity, number })
    }

    fn file(&self) -> String {
        format!("{}.{}.{}.redb", self.projection, self.identity, self.number)
    }
}

/// Another one for each name, and good on every file system: what is no small letter or digit is written as its number.
fn file_name(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let mut out = String::new();
    for byte in name.bytes() {
        match plain(byte) {
            true => out.push(byte.into()),
            false => out.push_str(&format!("%{byte:02x}")),
        }
    }
    if out.len() > 100 {
        out.truncate(60);
        out.push_str(&format!("~{}", &blake3::hash(name.as_bytes()).to_hex()[..16]));
    }
    out
}

fn identity(projection: &Registered) -> String {
    format!("{:08x}", u32::from_be_bytes(projection.id))
}

impl Files {
    fn dir(&self) -> PathBuf {
        self.store.join(DIR)
    }

    fn path(&self, named: &ProjectionFileName) -> PathBuf {
        self.dir().join(named.file())
    }

    fn all(&self) -> io::Result<Vec<String>> {
        match self.disk.list(&self.dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// Files of the projection as it is today, the latest first.
    fn of(&self, projection: &Registered) -> Result<Vec<ProjectionFileName>, StorageError> {
        let (name, identity) = (file_name(projection.name), identity(projection));
        let ours = |named: &ProjectionFileName| named.projection == name && named.identity == identity;
        let mut found: Vec<_> = self
            .all()
            .map_err(trouble)?
            .iter()
            .filter_map(|name| ProjectionFileName::parse(name))
            .filter(ours)
            .collect();
        found.sort_by_key(|named| std::cmp::Reverse(named.number));
        Ok(found)
    }

    /// A name that no file of the projection has.
    fn next(&self, projection: &Registered) -> Result<ProjectionFileName, StorageError> {
        let number = self.of(projection)?.first().map_or(1, |latest| latest.number + 1);
        Ok(ProjectionFileName {
            projection: file_name(projection.name),
            identity: identity(projection),
            number,
        })
    }

    fn open(&self, named: &ProjectionFileName) -> Result<Option<Tables>, StorageError> {
        let file = self.disk.open(&self.path(named), Access::Write).map_err(trouble)?;
        Tables::open(&named.file(), file, self.cache_bytes)
    }

    fn create(&self, named: &ProjectionFileName) -> Result<Tables, StorageError> {
        match self.disk.create_dir(&self.dir()) {
            Ok(()) => self.disk.sync_dir(&self.store).map_err(trouble)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(trouble(error)),
        }
        let file = self.disk.create_new(&self.path(named)).map_err(trouble)?;
        // Without its name all of it would be folded again after a power cut.
        self.disk.sync_dir(&self.dir()).map_err(trouble)?;
        let made = Tables::open(&named.file(), file, self.cache_bytes)?;
        made.ok_or_else(|| StorageError::new(TroubleKind::Io, format!("a fresh {} is damaged", named.file())))
    }

    /// Removes a file. If that fails the next open tries again.
    fn remove<T>(&self, named: &ProjectionFileName) -> Option<T> {
        let _ = self.disk.remove(&self.path(named));
        None
    }

    /// Removes all other files of the projection: older ones, and those of other versions.
    fn forget_all_but(&self, kept: &ProjectionFileName) {
        let others = |named: &ProjectionFileName| named.projection == kept.projection && named != kept;
        let found = self.all().unwrap_or_default();
        found.iter().filter_map(|name| ProjectionFileName::parse(name)).filter(others).for_each(|named| {
            self.remove::<()>(&named);
        });
    }

    /// Removes what belongs to no projection of the setup.
    fn forget_others(&self, projections: &[Registered]) {
        let known: Vec<_> = projections.iter().map(|projection| file_name(projection.name)).collect();
        for name in self.all().unwrap_or_default() {
            if ProjectionFileName::parse(&name).is_none_or(|named| !known.contains(&named.projection)) {
                let _ = self.disk.remove(&self.dir().join(name));
            }
        }
    }
}

fn trouble(error: io::Error) -> StorageError {
    StorageError::io("the files of a projection could not be read or written", error)
}
