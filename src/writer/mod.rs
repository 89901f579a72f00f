//! The writer: decides, one at a time, and the only loop.
//!
//! - Its role is held by one thread at a time: its own, or that of a blocked caller that found nobody before it and so spares
//!   two wake-ups (a seventh of a lone client's commits on the disk this was measured on).
//! - The order of a group: decide, write and sync, apply, publish, reply. A reply is a promise of durability.
//! - Group commit without timers: all requests that wait when the writer looks share the next sync.
//! - A failed write or sync, or a panic, poisons: the group in flight is `Unknown`, everything later is handed back.
//! - It never waits for the flusher without also taking the flusher's result.

pub(crate) mod clock;
pub(crate) mod queue;
pub(crate) mod reply;
#[cfg(all(test, shuttle))]
mod schedules;

use crate::commit::prepare::Prepared;
use crate::commit::{Decision, Group, Rules};
use crate::disk::Clock;
use crate::error::{AppendError, StorageError, TroubleKind};
use crate::log::record::Commit;
use crate::log::{Head, Log, LogError};
use crate::options::Options;
use crate::reentry;
use crate::request::Committed;
use crate::state::flush::{self, Flushed, Job};
use crate::state::keys::KeyIndex;
use crate::state::overlay::{Delta, Overlay};
use crate::state::tables::{StoredProjection, Tables};
use crate::state::{self, Board, Published};
use crate::sync::{Condvar, Mutex, MutexGuard, Receiver, Sender, TryRecvError};
use clock::{Jump, Trusted};
use queue::{Health, Inbox, Next, Outbox, State};
use reply::{Answer, Reply, slot};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Answer to a caller.
pub(crate) type Answered = Result<Committed, AppendError>;

/// An answer on its way to the caller, with the rest of the request: it was allocated on the caller's thread, and is freed
/// there. Freeing it here took a fifth of the writer's time.
pub(crate) struct Handed {
    answer: Answered,
    spent: Option<(Box<Prepared>, Option<Commit>)>,
}

impl Handed {
    fn unknown(cause: StorageError) -> Self {
        Self { answer: Err(AppendError::Unknown(cause)), spent: None }
    }

    /// Makes the answer to a request that the writer took and dropped: it panicked.
    pub fn unanswered() -> Self {
        Self::unknown(StorageError::new(TroubleKind::Io, "the writer panicked"))
    }

    pub fn open(self) -> Answered {
        drop(self.spent);
        self.answer
    }
}

impl From<Answered> for Handed {
    fn from(answer: Answered) -> Self {
        Self { answer, spent: None }
    }
}

/// The writer, with all the parts it works with.
pub(crate) struct Writer {
    pub rules: Arc<Rules>,
    pub options: Options,
    pub clock: Arc<dyn Clock>,
    /// Clock that gives commits their time.
    pub time: Trusted,
    pub log: Arc<dyn Log>,
    pub keys: Arc<KeyIndex>,
    pub board: Arc<Board>,
    pub inbox: Inbox,
    pub health: Arc<Health>,
    /// `None` if state lives in memory only.
    pub flusher: Option<Flusher>,
    /// Number of groups served, to recognise a quiet store.
    pub groups: u64,
    /// Lease of the holder that alone is served now.
    pub lease: Option<Lease>,
}

/// A lease of the writer: only its holder's request is served, until it comes or the time is over.
#[derive(Debug)]
pub(crate) struct Lease {
    holder: Arc<str>,
    until: Duration,
}

/// A handle of the writer: its queue, and its role, which a caller takes if it is free.
#[derive(Clone)]
pub(crate) struct Door {
    pub outbox: Outbox,
    pub role: Arc<Mutex<Writer>>,
    /// True if the writer has no thread: a caller that waits serves the queue.
    pub lockstep: bool,
    /// Notified when a lease ends.
    pub released: Arc<Condvar>,
}

impl Door {
    /// Puts a request into the queue. Waits up to `patience` if it is full.
    pub fn submit(&self, request: Box<Prepared>, patience: Duration) -> Result<Answer<Handed>, AppendError> {
        refuse_inside()?;
        self.outbox.put(request, patience)
    }

    /// Has a request served: on this thread, if nobody is before it. Returns its answer.
    pub fn append(&self, request: Box<Prepared>, patience: Duration) -> Result<Answered, AppendError> {
        refuse_inside()?;
        match self.serve_here(request) {
            Ok(answered) => Ok(answered),
            Err(request) => {
                let answer = self.submit(request, patience)?;
                self.step();
                Ok(answer.wait().open())
            }
        }
    }

    /// Does the same as `append`, and withdraws the request if its turn does not come within `patience`: then `None`.
    pub fn append_within(
        &self,
        request: Box<Prepared>,
        patience: Duration,
    ) -> Result<Option<Answered>, AppendError> {
        refuse_inside()?;
        match self.serve_here(request) {
            Ok(answered) => Ok(Some(answered)),
            Err(request) => {
                let answer = self.submit(request, patience)?;
                self.step();
                match answer.wait_timeout(patience) {
                    Some(handed) => Ok(Some(handed.open())),
                    None if answer.withdraw() => Ok(None),
                    None => Ok(Some(answer.wait().open())),
                }
            }
        }
    }

    /// Serves a request on this thread, if the writer is idle and nobody is before it.
    fn serve_here(&self, request: Box<Prepared>) -> Result<Answered, Box<Prepared>> {
        match self.role.try_lock() {
            Some(mut writer) if writer.inbox.is_empty() && writer.lease.is_none() => {
                let (answered, met_close) = (writer.serve_alone(request), writer.inbox.take_close());
                drop(writer);
                self.put_back(met_close);
                Ok(answered)
            }
            _ => Err(request),
        }
    }

    /// Ends a caller's turn in the writer's role. A close that its group met goes back into the queue: the writer's thread may be
    /// about to sleep on that, and would see the close only when it looks around on its own.
    fn put_back(&self, met_close: bool) {
        if met_close {
            self.outbox.close();
        }
        self.wake();
    }

    /// Runs the wakers that are due, in lockstep: the role is free by now.
    pub fn wake(&self) {
        self.outbox.due.run_here();
    }

    /// Serves the queue, in lockstep: nobody else does.
    fn step(&self) {
        if self.lockstep {
            self.role.lock().step();
            self.wake();
        }
    }

    // ---- holding the writer ----

    /// Leases the writer for up to `time`: requests of others wait, and nothing changes meanwhile. `None` if another holds it for
    /// longer than `patience`.
    pub fn hold(&self, holder: &str, time: Duration, patience: Duration) -> Option<Held<'_>> {
        let mut writer = self.free(patience)?;
        let holder: Arc<str> = holder.into();
        let until = writer.clock.monotonic() + time;
        writer.lease = Some(Lease { holder: holder.clone(), until });
        Some(Held { door: self, holder })
    }

    /// Returns the holder of the writer, for the error of a caller that waited in vain.
    pub fn holder(&self) -> Option<String> {
        let writer = self.role.try_lock_for(Duration::from_millis(10))?;
        writer.lease.as_ref().map(|lease| lease.holder.to_string())
    }

    /// Returns the writer, once nobody holds it; `None` if that is not within `patience`.
    fn free(&self, patience: Duration) -> Option<MutexGuard<'_, Writer>> {
        let mut writer = self.role.try_lock_for(patience)?;
        let mut patience = patience;
        while let Some(lease) = &writer.lease {
            if patience.is_zero() {
                return None;
            }
            let (now, holder) = (writer.clock.monotonic(), lease.holder.clone());
            let left = lease.until.saturating_sub(now);
            let wait = left.min(patience);
            let slept = self.released.wait_for(&mut writer, wait).timed_out();
            let spent = if slept { wait } else { writer.clock.monotonic().saturating_sub(now) };
            patience = patience.saturating_sub(spent);
            if slept && wait == left && writer.is_held_by(&holder) {
                writer.lease = None;
            }
        }
        Some(writer)
    }
}

/// A held lease of the writer. It ends when this is dropped or its time is over.
pub(crate) struct Held<'a> {
    door: &'a Door,
    holder: Arc<str>,
}

impl Held<'_> {
    /// Serves the request before all others. If its time is over, others may have come between.
    pub fn append(self, request: Box<Prepared>, patience: Duration) -> Result<Option<Answered>, AppendError> {
        let mut writer = self.door.role.lock();
        match writer.lease.is_none() || writer.is_held_by(&self.holder) {
            true => {
                let (answered, met_close) = (writer.serve_alone(request), writer.inbox.take_close());
                drop(writer);
                let door = self.door;
                // First: in a full queue there is no place for the close while the writer's thread waits for the lease.
                drop(self);
                door.put_back(met_close);
                Ok(Some(answered))
            }
            false => {
                drop(writer);
                self.door.append_within(request, patience)
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut writer = self.door.role.lock();
        if writer.is_held_by(&self.holder) {
            writer.lease = None;
        }
        drop(writer);
        self.door.released.notify_all();
    }
}

/// The flusher, which writes state into redb.
pub(crate) enum Flusher {
    /// A thread writes it, behind the writer.
    Beside(Beside),
    /// The writer writes it itself, between two groups: the same order of operations in every run.
    Inline { tables: Box<Tables>, projections: Vec<StoredProjection>, before_flush: flush::BeforeFlush },
}

/// The writer's end of the flusher's thread.
pub(crate) struct Beside {
    jobs: Sender<Job>,
    done: Receiver<Flushed>,
    running: Option<RunningFlush>,
    /// Measured drain rate, bytes a second.
    rate: f64,
}

/// A flush under way.
struct RunningFlush {
    began: Duration,
    bytes: usize,
    /// Expected duration, from the rate of the flush before it.
    expected: Duration,
}

impl RunningFlush {
    /// Returns the pause after a group, so that the rest of the flush is spread over the groups that still fit; `None` if none
    /// fits.
    fn pace(&self, now: Duration, used: usize, limit: usize, group_bytes: usize) -> Option<Duration> {
        let room = limit.checked_sub(used).filter(|room| *room > 0)?;
        if room >= used {
            return Some(Duration::ZERO);
        }
        let rest = self.expected.saturating_sub(now.saturating_sub(self.began));
        let share = (group_bytes as f64 / room as f64).min(1.0);
        Some(rest.mul_f64(share).min(Duration::from_millis(100)))
    }
}

impl Beside {
    pub fn new(jobs: Sender<Job>, done: Receiver<Flushed>) -> Self {
        // A guess for the first flush; each later one is paced by the flush before it.
        Self { jobs, done, running: None, rate: 32e6 }
    }

    /// Waits for the running flush.
    fn wait(&self) -> Flushed {
        self.done.recv().unwrap_or_else(|_| Err(gone()))
    }
}

impl Writer {
    /// Runs until the store closes.
    pub fn run(door: &Door) {
        let (watch, quiet) = {
            let writer = door.role.lock();
            (writer.inbox.watch(), Duration::from_millis(writer.options.overlay_age_ms_max))
        };
        let (mut groups, mut more) = (0, false);
        loop {
            // The role is free while this sleeps. A close that a group of this thread met is in the inbox, not in the queue.
            let woken = more || watch.wait(quiet);
            let Some(mut writer) = door.free(Duration::MAX) else { continue };
            let idle = !woken && groups == writer.groups;
            if !writer.guarded(|writer| writer.turn(idle)) {
                return writer.finish();
            }
            (groups, more) = (writer.groups, !writer.inbox.is_empty());
        }
    }

    fn is_held_by(&self, holder: &Arc<str>) -> bool {
        self.lease.as_ref().is_some_and(|lease| Arc::ptr_eq(&lease.holder, holder))
    }

    /// Runs one turn of the loop. Returns `false` if the store closes.
    fn turn(&mut self, idle: bool) -> bool {
        match self.inbox.try_next() {
            Next::Append(waiting) => self.serve(waiting),
            Next::Close => return false,
            // A flush that ends while there are groups is taken by the next of them.
            Next::Nothing => match self.flush_done() {
                Some(flushed) => self.adopt(flushed),
                None if idle => self.freeze(),
                None => {}
            },
        }
        true
    }

    /// Runs `work` and catches its panic. That is a bug of ours, or a disk that lies: it poisons the store and never ends the
    /// thread, for a thread that is gone answers nobody.
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> bool) -> bool {
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|_| {
            self.health.poison(StorageError::new(TroubleKind::Io, "the writer panicked"));
            true
        })
    }

    /// Serves one request, and all that wait behind it, on the thread that brought it.
    fn serve_alone(&mut self, request: Box<Prepared>) -> Answered {
        let (reply, answer) = slot(Handed::unanswered, &self.inbox.due);
        match self.health.state() {
            State::Closed => hand_back_closed((request, reply)),
            _ => drop(self.guarded(|writer| {
                writer.serve((request, reply));
                true
            })),
        }
        answer.wait().open()
    }

    /// Serves all queued requests, on the calling thread.
    pub fn step(&mut self) {
        while let Some(waiting) = self.inbox.try_next_append() {
            self.serve(waiting);
        }
    }

    /// Returns the result of the running flush, if it is there.
    fn flush_done(&self) -> Option<Flushed> {
        match &self.flusher {
            Some(Flusher::Beside(beside)) if beside.running.is_some() => match beside.done.try_recv() {
                Ok(flushed) => Some(flushed),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(Err(gone())),
            },
            _ => None,
        }
    }

    /// Serves one group: the first request and all that wait behind it, up to the limits of a group.
    fn serve(&mut self, first: queue::Waiting) {
        let mut group = vec![first];
        let mut bytes = group[0].0.bytes;
        while group.len() < self.options.group_len_max && bytes < self.options.group_bytes_max {
            match self.inbox.try_next_append() {
                Some(next) => {
                    bytes += next.0.bytes;
                    group.push(next);
                }
                None => break,
            }
        }
        self.groups += 1;
        // A caller that has withdrawn already knows it.
        group.retain(|(_, reply)| reply.take());
        if self.health.is_poisoned() {
            let cause = self.health.poisoned_by();
            return group.into_iter().for_each(|waiting| hand_back(waiting, cause.clone()));
        }
        // If this panics, the group's replies answer `Unknown` as they drop.
        match self.commit(group) {
            Ok(()) => self.make_room(bytes),
            Err(error) => self.health.poison(error),
        }
    }

    /// Commits a group: decide, write and sync, apply, publish, reply.
    fn commit(&mut self, waiting: Vec<queue::Waiting>) -> Result<(), StorageError> {
        let now = match self.time.read() {
            Ok(now) => now,
            Err(jump) => {
                waiting.into_iter().for_each(|waiting| refuse(waiting, jump));
                return Ok(());
            }
        };
        let published = self.board.load();
        let mut group = Group::new(&self.rules, &*self.log, &self.keys, published.clone());
        let mut answers: Vec<(Reply<Handed>, Answered, Box<Prepared>, bool)> =
            Vec::with_capacity(waiting.len());
        for (mut request, reply) in waiting {
            let before = group.commits().len();
            let answer = match group.decide(&mut request, now) {
                Ok(Decision::Replay(answer)) => Ok(answer),
                Ok(Decision::Commit(draft)) => Ok(group.take(*draft)),
                Err(refusal) => Err(refusal),
            };
            if let Err(AppendError::Storage(error)) = &answer {
                self.health.note_read(error);
            }
            // An answer that may rest on an un-synced neighbour waits for the group's sync, a refusal too.
            match group.commits().is_empty() {
                true => reply.send(Handed { answer, spent: Some((request, None)) }),
                false => answers.push((reply, answer, request, group.commits().len() > before)),
            }
        }
        if group.commits().is_empty() {
            return Ok(());
        }
        let head = match self.log.append(&published.head, group.commits()) {
            Ok(head) => head,
            // It is known that nothing was written.
            Err(error @ LogError::NotHeld(_)) => {
                let cause = StorageError::from(error);
                answers
                    .into_iter()
                    .for_each(|(reply, _, request, _)| hand_back((request, reply), cause.clone()));
                return Err(cause);
            }
            Err(error) => {
                let cause = StorageError::from(error);
                answers.into_iter().for_each(|(reply, ..)| reply.send(Handed::unknown(cause.clone())));
                return Err(cause);
            }
        };
        let (delta, commits) = group.into_parts();
        self.publish(published, delta, head);
        let mut commits = commits.into_iter();
        for (reply, answer, request, committed) in answers {
            let commit = if committed { commits.next() } else { None };
            reply.send(Handed { answer, spent: Some((request, commit)) });
        }
        Ok(())
    }

    fn publish(&self, before: Arc<Published>, delta: Delta, head: Head) {
        for (term, used) in &delta.keys {
            self.keys.insert(*term, used.commit);
        }
        let keys = before.keys + delta.keys_used;
        let mut layouts = before.layouts.clone();
        if !delta.layouts.is_empty() {
            state::declare(Arc::make_mut(&mut layouts), delta.layouts.iter().cloned());
        }
        before.active.apply(delta);
        self.board.publish(Published {
            head,
            keys,
            base: before.base.clone(),
            frozen: before.frozen.clone(),
            active: before.active.clone(),
            recent: before.recent.clone(),
            layouts,
        });
    }

    // ---- room in memory ----

    /// Starts a flush when the active overlay is full, and slows down before two are.
    fn make_room(&mut self, group_bytes: usize) {
        if let Some(flushed) = self.flush_done() {
            self.adopt(flushed);
        }
        let limit = self.options.overlay_bytes_max;
        let used = self.board.load().active.bytes();
        if let Some(Flusher::Beside(beside)) = &self.flusher
            && let Some(running) = &beside.running
        {
            let pace = running.pace(self.clock.monotonic(), used, limit, group_bytes);
            let flushed = match pace {
                // Both overlays are full: only the flusher can make room.
                None => Some(beside.wait()),
                Some(Duration::ZERO) => None,
                Some(pace) => beside.done.recv_timeout(pace).ok(),
            };
            if let Some(flushed) = flushed {
                self.adopt(flushed);
            }
        }
        if used >= limit {
            self.freeze();
        }
    }

    /// Freezes the active overlay, at a group boundary, and has it flushed.
    fn freeze(&mut self) {
        let published = self.board.load();
        if published.frozen.is_some() || published.active.is_empty() || self.health.is_poisoned() {
            return;
        }
        let Some(flusher) = &mut self.flusher else { return };
        let (overlay, head) = (published.active.clone(), published.head);
        let keys_used = published.keys;
        self.board.publish(Published {
            head,
            keys: keys_used,
            base: published.base.clone(),
            frozen: Some(overlay.clone()),
            active: Arc::new(Overlay::after(head.commit)),
            recent: published.recent.clone(),
            layouts: published.layouts.clone(),
        });
        match flusher {
            Flusher::Beside(beside) => {
                let (began, bytes) = (self.clock.monotonic(), overlay.bytes());
                let expected = Duration::from_secs_f64(bytes as f64 / beside.rate);
                beside.running = Some(RunningFlush { began, bytes, expected });
                // If the flusher is gone, `done` shows it.
                let _ = beside.jobs.send(Job::Flush { overlay, head, keys_used });
            }
            Flusher::Inline { tables, projections, before_flush } => {
                before_flush();
                let flushed = flush::flush(tables, &self.keys, &overlay, &head, keys_used, projections);
                self.adopt(flushed);
            }
        }
    }

    /// Takes the flushed snapshot in place of the frozen overlay.
    fn adopt(&mut self, flushed: Flushed) {
        let running = match &mut self.flusher {
            Some(Flusher::Beside(beside)) => beside.running.take(),
            _ => None,
        };
        let base = match flushed {
            Ok(base) => base,
            // Derived state cannot follow any more: stop before the overlays fill memory.
            Err(error) => {
                self.health.note_read(&error);
                return self.health.poison(error);
            }
        };
        let published = self.board.load();
        let old = self.board.publish(Published {
            head: published.head,
            keys: published.keys,
            base,
            frozen: None,
            active: published.active.clone(),
            recent: published.frozen.clone(),
            layouts: published.layouts.clone(),
        });
        drop(published);
        if let (Some(Flusher::Beside(beside)), Some(RunningFlush { began, bytes, .. })) =
            (&mut self.flusher, running)
        {
            let took = self.clock.monotonic().saturating_sub(began).as_secs_f64().max(1e-3);
            beside.rate = (bytes as f64 / took).clamp(1e6, 1e12);
            let _ = beside.jobs.send(Job::Discard(old));
        }
    }

    fn finish_flush(&mut self) {
        if let Some(Flusher::Beside(beside)) = &self.flusher
            && beside.running.is_some()
        {
            let flushed = beside.wait();
            self.adopt(flushed);
        }
    }

    // ---- the end ----

    /// Serves the requests queued before the close, flushes, and seals the log.
    pub fn finish(&mut self) {
        self.guarded(|writer| {
            writer.step();
            // The running flush first, then the commits since.
            writer.finish_flush();
            writer.freeze();
            writer.finish_flush();
            if !writer.health.is_poisoned() {
                // Only spares the next open some work.
                let _ = writer.log.seal();
            }
            true
        });
        let poisoned = self.health.is_poisoned().then(|| self.health.poisoned_by());
        let back = |waiting| match &poisoned {
            Some(cause) => hand_back(waiting, cause.clone()),
            None => hand_back_closed(waiting),
        };
        let inbox = &self.inbox;
        let drain = || std::iter::from_fn(|| inbox.try_next_append()).for_each(back);
        // A poisoned store lets nobody in either, and may be recovered.
        self.health.let_nobody_in(drain);
        // Its thread ends with its last job.
        self.flusher = None;
    }
}

/// Refuses a call from inside a fold or guard: the commit that runs it on this thread would wait for itself.
fn refuse_inside() -> Result<(), AppendError> {
    reentry::fold().map_or(Ok(()), |outer| Err(AppendError::Nested { outer }))
}

fn gone() -> StorageError {
    StorageError::new(TroubleKind::Io, "the flusher is gone")
}

fn refuse((request, reply): queue::Waiting, Jump { ahead, limit }: Jump) {
    let answer = Err(AppendError::ClockJumped { ahead, limit });
    reply.send(Handed { answer, spent: Some((request, None)) });
}

fn hand_back((request, reply): queue::Waiting, cause: StorageError) {
    let append = Box::new(request.append);
    reply.send(Handed::from(Err(AppendError::Poisoned { append, cause })));
}

fn hand_back_closed((request, reply): queue::Waiting) {
    reply.send(Handed::from(Err(AppendError::Closed(Box::new(request.append)))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::prepare::Desk;
    use crate::event::Event;
    use crate::request::Append;
    use crate::setup::Setup;
    use crate::store::Store;
    use serde::{Deserialize, Serialize};

    /// An event without content, for tests of requests.
    #[derive(Serialize, Deserialize)]
    pub(in crate::writer) struct Asked {}

    impl Event for Asked {
        const FAMILY: &'static str = "asked";
        type Id = ();
        fn id(&self) {}
    }

    /// 1. The writer's thread has served its requests, and is about to sleep on the queue. 2. A caller serves a request, and
    ///    meets a close behind it. 3. The thread sleeps, for `overlay_age_ms_max`: nothing is in the queue.
    #[test]
    fn close_met_by_caller_returns_to_writer() {
        let store = Store::in_memory(Setup::new().events::<Asked>().lockstep()).expect("a fresh store");
        let (door, reader) = (store.door(), store.reader());
        let desk = Desk { rules: &reader.rules, options: &Options::default(), terms: &reader.terms };
        let request = desk.prepare(Append::event(Asked {})).expect("a good append");
        let held = door.hold("test", Duration::from_secs(1), Duration::ZERO).expect("nobody else holds it");
        door.outbox.close();
        held.append(Box::new(request), Duration::ZERO)
            .expect("it is served")
            .expect("at once")
            .expect("well");
        assert_eq!(door.outbox.len(), 1, "the thread is told");
    }
}
