//! The same locks and channels under a scheduler that runs one thread at a time, in a drawn order: [`shuttle`].
//!
//! - Every operation on a lock, an atomic or a channel is a point where another thread may go on.
//! - Time does not exist. A wait with a limit may be over at each of its turns, by a toss of a coin that belongs to the schedule:
//!   so it may end at any moment, and surely ends. A limit of [`NEVER`] or more does not end: tests choose by it.
//! - A thread that waits without a limit is asleep. If all are, the schedule fails as a deadlock: a lost wake-up is one.
//! - Atomics are sequentially consistent, whatever they ask for: too weak an ordering is not found here.

pub(crate) mod explore;

use crossbeam_channel::{
    ReadyTimeoutError, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync as inner;
use shuttle::thread::{self, Thread};
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Limit of a wait that does not end by itself.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

/// The limit of one wait.
#[derive(Clone, Copy)]
struct Limit(Duration);

impl Limit {
    const NONE: Self = Self(Duration::MAX);

    fn is_endless(self) -> bool {
        self.0 >= NEVER
    }

    /// Lets others run. Returns `true` if the time is over.
    fn passes(self) -> bool {
        let is_over = !self.is_endless() && (self.0.is_zero() || thread_rng().gen_bool(0.25));
        if !is_over {
            thread::yield_now();
        }
        is_over
    }
}

/// A point where another thread may go on.
fn turn() {
    thread::sleep(Duration::ZERO);
}

/// Lets others run for a while.
pub(crate) fn park_timeout(_: Duration) {
    thread::yield_now();
}

// ---- locks ----

/// A lock that a panic does not poison.
#[derive(Default)]
pub(crate) struct Mutex<T: ?Sized>(inner::Mutex<T>);

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(inner::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { mutex: self, held: Some(held) }
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = match self.0.try_lock() {
            Ok(held) => held,
            Err(inner::TryLockError::Poisoned(error)) => error.into_inner(),
            Err(inner::TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { mutex: self, held: Some(held) })
    }

    pub fn try_lock_for(&self, limit: Duration) -> Option<MutexGuard<'_, T>> {
        let limit = Limit(limit);
        if limit.is_endless() {
            return Some(self.lock());
        }
        loop {
            match self.try_lock() {
                None if limit.passes() => return None,
                None => {}
                guard => return guard,
            }
        }
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

pub(crate) struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    /// `None` only while it is unlocked.
    held: Option<inner::MutexGuard<'a, T>>,
}

impl<T: ?Sized> MutexGuard<'_, T> {
    pub fn unlocked<U>(guard: &mut Self, run: impl FnOnce() -> U) -> U {
        guard.held = None;
        let result = run();
        guard.held = guard.mutex.lock().held.take();
        result
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("it is locked")
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("it is locked")
    }
}

/// A lock for many readers or one writer.
#[derive(Default)]
pub(crate) struct RwLock<T: ?Sized>(inner::RwLock<T>);

impl<T> RwLock<T> {
    pub const fn new(value: T) -> Self {
        Self(inner::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    pub fn read(&self) -> inner::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> inner::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn try_write_for(&self, limit: Duration) -> Option<inner::RwLockWriteGuard<'_, T>> {
        loop {
            match self.0.try_write() {
                Ok(guard) => return Some(guard),
                Err(inner::TryLockError::Poisoned(error)) => return Some(error.into_inner()),
                Err(inner::TryLockError::WouldBlock) if Limit(limit).passes() => return None,
                Err(inner::TryLockError::WouldBlock) => {}
            }
        }
    }
}

impl<T: ?Sized> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}

// ---- waiting for others ----

/// A condition variable that wakes in the order of arrival, and nobody without a cause.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    /// No thread is stopped while it has this lock.
    sleepers: std::sync::Mutex<VecDeque<Arc<Sleeper>>>,
}

#[derive(Debug)]
struct Sleeper {
    thread: Thread,
    is_woken: std::sync::atomic::AtomicBool,
}

impl Sleeper {
    fn is_woken(&self) -> bool {
        self.is_woken.load(std::sync::atomic::Ordering::SeqCst)
    }
}

pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        self.sleep(guard, Limit::NONE);
    }

    pub fn wait_for<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, limit: Duration) -> WaitTimeoutResult {
        WaitTimeoutResult(self.sleep(guard, Limit(limit)))
    }

    pub fn wait_until<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, end: Instant) -> WaitTimeoutResult {
        #[allow(clippy::disallowed_methods, reason = "only to tell a limit that ends from one that does not")]
        self.wait_for(guard, end.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)))
    }

    /// Waits for a wake-up. Returns `true` if nobody woke it in time.
    fn sleep<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, limit: Limit) -> bool {
        let sleeper = Arc::new(Sleeper { thread: thread::current(), is_woken: false.into() });
        // Before the lock is released: the next thread that gets it must find this one here.
        self.with(|sleepers| sleepers.push_back(sleeper.clone()));
        let in_time = MutexGuard::unlocked(guard, || {
            while !sleeper.is_woken() {
                match limit.is_endless() {
                    true => thread::park(),
                    false if limit.passes() => break,
                    false => {}
                }
            }
            self.with(|sleepers| sleepers.retain(|other| !Arc::ptr_eq(other, &sleeper)));
            sleeper.is_woken()
        });
        !in_time
    }

    pub fn notify_one(&self) {
        self.wake(1);
    }

    pub fn notify_all(&self) {
        self.wake(usize::MAX);
    }

    fn wake(&self, at_most: usize) {
        turn();
        let woken: Vec<_> = self.with(|sleepers| {
            let woken = sleepers.len().min(at_most);
            sleepers.drain(..woken).collect()
        });
        woken.iter().for_each(|sleeper| sleeper.is_woken.store(true, std::sync::atomic::Ordering::SeqCst));
        woken.iter().for_each(|sleeper| sleeper.thread.unpark());
    }

    fn with<T>(&self, work: impl FnOnce(&mut VecDeque<Arc<Sleeper>>) -> T) -> T {
        work(&mut self.sleepers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// ---- channels ----

struct Channel<T> {
    state: Mutex<Queue<T>>,
    moved: Condvar,
    len_max: usize,
}

struct Queue<T> {
    items: VecDeque<T>,
    senders: usize,
    receivers: usize,
}

pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    bounded(usize::MAX)
}

/// A channel of length 0 has one place: nobody sends on it here.
pub(crate) fn bounded<T>(len_max: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Queue { items: VecDeque::new(), senders: 1, receivers: 1 };
    let channel =
        Arc::new(Channel { state: Mutex::new(queue), moved: Condvar::new(), len_max: len_max.max(1) });
    (Sender(channel.clone()), Receiver(channel))
}

pub(crate) struct Sender<T>(Arc<Channel<T>>);

impl<T> Sender<T> {
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.send_timeout(item, NEVER).map_err(|error| SendError(error.into_inner()))
    }

    pub fn send_timeout(&self, item: T, limit: Duration) -> Result<(), SendTimeoutError<T>> {
        let mut state = self.0.state.lock();
        while state.receivers > 0 && state.items.len() >= self.0.len_max {
            if self.0.moved.wait_for(&mut state, limit).timed_out() {
                break;
            }
        }
        drop(state);
        self.try_send(item).or_else(|error| match error {
            // Another was faster.
            TrySendError::Full(item) if Limit(limit).passes() => Err(SendTimeoutError::Timeout(item)),
            TrySendError::Full(item) => self.send_timeout(item, limit),
            TrySendError::Disconnected(item) => Err(SendTimeoutError::Disconnected(item)),
        })
    }

    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let mut state = self.0.state.lock();
        if state.receivers == 0 {
            return Err(TrySendError::Disconnected(item));
        }
        if state.items.len() >= self.0.len_max {
            return Err(TrySendError::Full(item));
        }
        state.items.push_back(item);
        drop(state);
        self.0.moved.notify_all();
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.0.state.lock().items.len()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state.lock().senders -= 1;
        self.0.moved.notify_all();
    }
}

pub(crate) struct Receiver<T>(Arc<Channel<T>>);

impl<T> Receiver<T> {
    pub fn recv(&self) -> Result<T, RecvError> {
        self.recv_timeout(NEVER).map_err(|_| RecvError)
    }

    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        loop {
            match self.try_recv() {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if self.wait(limit) => {}
                Err(TryRecvError::Empty) => return Err(RecvTimeoutError::Timeout),
            }
        }
    }

    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = self.0.state.lock();
        let Some(item) = state.items.pop_front() else {
            return Err(if state.senders == 0 { TryRecvError::Disconnected } else { TryRecvError::Empty });
        };
        drop(state);
        self.0.moved.notify_all();
        Ok(item)
    }

    pub fn is_empty(&self) -> bool {
        self.0.state.lock().items.is_empty()
    }

    /// Sleeps until there is something to receive, or nobody is left to send it. Returns `false` if that is not in time.
    fn wait(&self, limit: Duration) -> bool {
        let mut state = self.0.state.lock();
        while state.items.is_empty() && state.senders > 0 {
            if self.0.moved.wait_for(&mut state, limit).timed_out() {
                return false;
            }
        }
        true
    }
}

impl<T> Iterator for Receiver<T> {
    type Item = T;

    /// Ends when nobody is left to send.
    fn next(&mut self) -> Option<T> {
        self.recv().ok()
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().receivers += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.receivers -= 1;
        // Messages that nobody can receive any more are dropped with the last receiver.
        let left = if state.receivers == 0 { std::mem::take(&mut state.items) } else { VecDeque::new() };
        drop(state);
        self.0.moved.notify_all();
        drop(left);
    }
}

/// Waits for one receiver, without taking anything.
pub(crate) struct Select<'a>(Option<Box<dyn Fn(Duration) -> bool + 'a>>);

impl<'a> Select<'a> {
    pub fn new() -> Self {
        Self(None)
    }

    pub fn recv<T>(&mut self, receiver: &'a Receiver<T>) -> usize {
        assert!(self.0.is_none(), "one receiver only");
        self.0 = Some(Box::new(|limit| receiver.wait(limit)));
        0
    }

    pub fn ready_timeout(&mut self, limit: Duration) -> Result<usize, ReadyTimeoutError> {
        let wait = self.0.as_ref().expect("there is a receiver");
        if wait(limit) { Ok(0) } else { Err(ReadyTimeoutError) }
    }
}
