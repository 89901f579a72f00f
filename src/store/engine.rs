//! The threads behind a store: started together, ended in order, never waited for by one of themselves.

use super::CutTail;
use crate::behind::{Bells, Followers};
use crate::error::StorageError;
use crate::state::bell::Bell;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, JoinHandle, Mutex, Sender, ThreadId, join, spawn, this_thread};
use crate::watch::{self, DeliveryQueue, Dog, Pullers, Watch, Watcher};
use crate::writer::Door;
use std::convert::Infallible;
use std::io;
use std::mem;
use std::sync::Arc;

/// The threads of a store, from an open or a recovery to the next or the end. Shared: nobody holds a lock while it ends.
pub(super) struct Engine {
    pub door: Door,
    pub bells: Bells,
    /// The writer's, the flusher's.
    pub threads: Mutex<Vec<JoinHandle<()>>>,
    pub scrub: Mutex<Option<Scrub>>,
    pub behind: Followers,
    pub checks: Watching,
    pub pullers: Pullers,
    pub is_stopped: AtomicBool,
    /// All threads that ending it waits for.
    pub own: Vec<ThreadId>,
    pub steps: Steps,
    /// Kept for the clock, which calls it when it was moved by hand.
    #[allow(dead_code, reason = "the clock holds it weakly")]
    pub on_move: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Torn tail that opening cut off.
    pub cut: Option<CutTail>,
}

/// The scrub's thread. It ends when `stop` is dropped.
pub(super) struct Scrub {
    pub thread: JoinHandle<()>,
    pub stop: Sender<Infallible>,
}

impl Engine {
    /// Of a store whose threads are not started.
    pub fn new(door: Door, bells: Bells, cut: Option<CutTail>) -> Self {
        let (threads, scrub, behind, checks, pullers) = Default::default();
        let (is_stopped, own, steps, on_move) = Default::default();
        Self { door, bells, threads, scrub, behind, checks, pullers, is_stopped, own, steps, on_move, cut }
    }

    /// Starts some of the threads. If one cannot be started, all those that run are ended.
    pub fn start(
        &mut self,
        start: impl FnOnce(&mut Self) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        start(self).inspect_err(|_| self.stop())
    }

    /// Lets go of the threads without a word to them: in a fork of the process, they and the files are its parent's.
    ///
    /// It is never dropped, since much of what it holds would write to the files, or wait for threads, as it is dropped.
    pub fn disown(self: Arc<Self>) {
        self.is_stopped.store(true, Ordering::Release);
        mem::forget(self);
    }

    /// Ends all of it, once: what was handed over is committed, state is flushed.
    ///
    /// Called on a thread that it waits for it would leave that one running: hand it to another thread there.
    pub fn stop(&self) {
        if self.is_stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        // They ask the writer.
        self.pullers.stop();
        self.checks.stop(&self.bells.head);
        match self.door.lockstep {
            true => self.door.role.lock().finish(),
            false => self.door.outbox.close(),
        }
        let mut threads = mem::take(&mut *self.threads.lock());
        if let Some(Scrub { thread, stop }) = self.scrub.lock().take() {
            drop(stop);
            threads.push(thread);
        }
        // A thread that panicked has poisoned the store already.
        threads.into_iter().for_each(join);
        self.behind.stop();
    }

    /// The threads that are there now, for `own`.
    pub fn running(&self) -> Vec<ThreadId> {
        let mut all: Vec<_> = self.threads.lock().iter().map(|thread| thread.thread().id()).collect();
        all.extend(self.checks.threads.lock().iter().map(|thread| thread.thread().id()));
        all.extend(self.behind.threads());
        all
    }

    /// Returns whether ending it would wait for the calling thread, which is in the middle of work of its own.
    pub fn waits_for_this_thread(&self) -> bool {
        self.own.contains(&this_thread()) || self.steps.is_here() || self.pullers.is_busy_here()
    }

    /// Returns whether the calling thread is one of its own, or runs their work.
    pub fn owns_this_thread(&self) -> bool {
        let this = this_thread();
        let is_sink = || self.checks.deliveries.iter().any(|queue| queue.is_here());
        self.waits_for_this_thread() || self.pullers.threads().contains(&this) || is_sink()
    }
}

/// The error where the system starts no more threads.
pub(super) fn no_thread(error: io::Error) -> StorageError {
    StorageError::io("a thread could not be started", error)
}

/// The checks and their watchdog: on threads, or by `step`.
#[derive(Default)]
pub(super) struct Watching {
    pub watch: Arc<Watch>,
    pub deliveries: Vec<Arc<DeliveryQueue>>,
    pub threads: Mutex<Vec<JoinHandle<()>>>,
    lockstep: Mutex<Option<(Watcher, Dog)>>,
}

impl Watching {
    pub fn start(ground: watch::Ground, lockstep: bool) -> io::Result<Self> {
        if ground.checks.is_empty() && ground.source.is_none() {
            return Ok(Self::default());
        }
        let (watch, head) = (Arc::new(Watch::default()), ground.head_bell.clone());
        let deliveries = ground.outlets.iter().map(|outlet| outlet.queue.clone()).collect();
        let dog = Dog::new(&ground, watch.clone());
        let watcher = Watcher::new(ground, watch.clone());
        if lockstep {
            let lockstep = Mutex::new(Some((watcher, dog)));
            return Ok(Self { watch, deliveries, threads: Mutex::default(), lockstep });
        }
        let started = Self { watch, deliveries, threads: Mutex::default(), lockstep: Mutex::default() };
        let threads = [
            ("dog", Box::new(|| dog.run()) as Box<dyn FnOnce() + Send>),
            ("checks", Box::new(|| watcher.run())),
        ];
        for (name, run) in threads {
            match spawn(name, run) {
                Ok(thread) => started.threads.lock().push(thread),
                Err(error) => {
                    started.stop(&head);
                    return Err(error);
                }
            }
        }
        Ok(started)
    }

    /// Does one piece of work on this thread. Returns `false` if there was none, or if there is a thread for it.
    pub fn step(&self) -> bool {
        self.lockstep.lock().as_mut().is_some_and(|(watcher, dog)| watcher.step() | dog.step())
    }

    fn stop(&self, head: &Bell) {
        // Before the checks end: what sinks take meanwhile is put on record. All of them first: each waits for its own deadline,
        // and they are over together.
        self.deliveries.iter().for_each(|queue| queue.refuse());
        self.deliveries.iter().for_each(|queue| queue.close());
        self.watch.stop();
        self.watch.leash.slip();
        head.ring();
        let threads = mem::take(&mut *self.threads.lock());
        // They catch their panics.
        threads.into_iter().for_each(join);
        let stepped = self.lockstep.lock().take();
        stepped.into_iter().for_each(|(watcher, _)| watcher.finish());
    }
}

/// Work of background threads in lockstep, on the threads of callers. Code of the user in it may call the store again: no piece
/// of work begins inside another.
#[derive(Default)]
pub(super) struct Steps {
    turn: Mutex<()>,
    here: Mutex<Option<ThreadId>>,
}

impl Steps {
    fn is_here(&self) -> bool {
        *self.here.lock() == Some(this_thread())
    }

    /// Runs `work`. Returns `false` if there was nothing to do, or if the thread is in the middle of such work.
    pub fn run(&self, work: impl FnOnce() -> bool) -> bool {
        if self.is_here() {
            return false;
        }
        let _turn = self.turn.lock();
        *self.here.lock() = Some(this_thread());
        let _here = LockstepGuard(self);
        work()
    }
}

struct LockstepGuard<'a>(&'a Steps);

impl Drop for LockstepGuard<'_> {
    fn drop(&mut self) {
        *self.0.here.lock() = None;
    }
}

/// Changes of a store as a whole: a recovery, or its end. One at a time.
#[derive(Default)]
pub(super) struct Life {
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Open,
    /// It is being recovered or closed.
    Changing,
    Closed,
}

/// Answer to a thread that wants to change it.
pub(super) enum Turn<'a> {
    Mine(Changing<'a>),
    /// Another thread changes it, and was not waited for.
    Taken,
    Closed,
}

/// The store is the caller's to change. Dropped, it is open again.
pub(super) struct Changing<'a> {
    life: &'a Life,
    end: Stage,
}

impl Life {
    /// Waits for its turn if `wait`.
    pub fn change(&self, wait: bool) -> Turn<'_> {
        let mut stage = self.stage.lock();
        loop {
            match *stage {
                Stage::Closed => return Turn::Closed,
                Stage::Open => {
                    *stage = Stage::Changing;
                    return Turn::Mine(Changing { life: self, end: Stage::Open });
                }
                Stage::Changing if wait => self.changed.wait(&mut stage),
                Stage::Changing => return Turn::Taken,
            }
        }
    }
}

impl Changing<'_> {
    /// It is closed, for ever.
    pub fn close(mut self) {
        self.end = Stage::Closed;
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        *self.life.stage.lock() = self.end;
        self.life.changed.notify_all();
    }
}
