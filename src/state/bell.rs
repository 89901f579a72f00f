//! The bell, an eventcount: wakes threads and tasks that wait for a change.
//!
//! - No ring is lost: a waiter listens first and looks afterwards; a ringer publishes first and rings afterwards.
//! - It says that something happened, never what: each waiter looks again when it is woken.
//! - If nobody listens, a ring is a fence and one load.

use crate::sync::atomic::{AtomicUsize, Ordering, fence};
use crate::sync::{Condvar, Mutex};
use crate::wakers::Wakers;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

/// An eventcount for any number of threads and tasks that listen to it.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    listening: AtomicUsize,
    state: Mutex<EventcountState>,
    rung: Condvar,
    /// Queue that runs the wakers of tasks: `ring` may be called under a lock.
    due: Arc<Wakers>,
}

#[derive(Debug, Default)]
struct EventcountState {
    rings: u64,
    last_task: u64,
    /// Wakers of the tasks to be woken by the next ring, by task.
    wakers: BTreeMap<u64, Waker>,
}

impl Bell {
    pub fn new(due: Arc<Wakers>) -> Self {
        Self { due, ..Self::default() }
    }

    /// Returns the queue that runs the wakers of its tasks.
    pub fn wakers(&self) -> &Arc<Wakers> {
        &self.due
    }

    /// Wakes all listeners. To be called once the change they wait for can be seen.
    pub fn ring(&self) {
        // This fence or the listener's comes first: so either the listener is counted here, or it sees the published change.
        fence(Ordering::SeqCst);
        if self.listening.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.state.lock();
        state.rings += 1;
        let wakers = mem::take(&mut state.wakers);
        self.listening.fetch_sub(wakers.len(), Ordering::Relaxed);
        drop(state);
        self.rung.notify_all();
        if !wakers.is_empty() {
            self.due.push(wakers.into_values());
        }
    }

    /// Returns a listener that hears every ring from here on. Look again after this, and only then wait.
    pub fn listen(&self) -> Listener<'_> {
        self.listening.fetch_add(1, Ordering::Relaxed);
        let heard = self.state.lock().rings;
        fence(Ordering::SeqCst);
        Listener { bell: self, heard }
    }

    /// Makes a place for the waker of one task.
    pub fn task(self: &Arc<Self>) -> Task {
        let mut state = self.state.lock();
        state.last_task += 1;
        Task { bell: self.clone(), number: state.last_task }
    }
}

/// A thread that hears the bell.
#[derive(Debug)]
pub(crate) struct Listener<'a> {
    bell: &'a Bell,
    heard: u64,
}

impl Listener<'_> {
    /// Sleeps until the bell has rung since `listen`. Returns `false` if it had not when the deadline passed.
    pub fn wait(self, deadline: Option<Instant>) -> bool {
        let mut state = self.bell.state.lock();
        while state.rings == self.heard {
            match deadline {
                None => self.bell.rung.wait(&mut state),
                Some(deadline) => {
                    if self.bell.rung.wait_until(&mut state, deadline).timed_out() {
                        return state.rings != self.heard;
                    }
                }
            }
        }
        true
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.bell.listening.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A task that hears the bell.
#[derive(Debug)]
pub(crate) struct Task {
    bell: Arc<Bell>,
    number: u64,
}

impl Task {
    /// Has the task woken by the next ring, once. Look again after this, and only then return.
    pub fn listen(&self, waker: &Waker) {
        // Cloning and dropping a waker run foreign code: under no lock.
        let waker = waker.clone();
        let mut state = self.bell.state.lock();
        let before = state.wakers.insert(self.number, waker);
        if before.is_none() {
            self.bell.listening.fetch_add(1, Ordering::Relaxed);
        }
        drop(state);
        fence(Ordering::SeqCst);
        drop(before);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.bell.state.lock();
        let waker = state.wakers.remove(&self.number);
        if waker.is_some() {
            self.bell.listening.fetch_sub(1, Ordering::Relaxed);
        }
        drop(state);
        // Dropping a waker runs foreign code: under no lock.
        drop(waker);
    }
}

#[cfg(all(test, shuttle))]
mod schedules;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::task::Wake;
    use std::thread;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// 1. The waiter looks, and there is nothing. 2. The ringer publishes and rings. 3. The waiter goes to sleep: for ever,
    ///    unless it was counted before it looked.
    #[test]
    fn risk_05_no_wake_up_lost_before_sleep() {
        let (there, back) = (Bell::default(), Bell::default());
        let (asked, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        let until = |bell: &Bell, reached: &dyn Fn() -> bool| loop {
            let listener = bell.listen();
            if reached() {
                return;
            }
            listener.wait(None);
        };
        const ROUNDS: u64 = 20_000;
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    until(&there, &|| asked.load(Ordering::Relaxed) >= round);
                    answered.store(round, Ordering::Relaxed);
                    back.ring();
                }
            });
            for round in 1..=ROUNDS {
                asked.store(round, Ordering::Relaxed);
                there.ring();
                until(&back, &|| answered.load(Ordering::Relaxed) >= round);
            }
        });
    }

    #[test]
    fn ring_after_listen_returns_without_sleeping() {
        let bell = Bell::default();
        let listener = bell.listen();
        bell.ring();
        assert!(listener.wait(None));
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let bell = Bell::default();
        assert!(!bell.listen().wait(crate::sync::deadline(std::time::Duration::from_millis(1))));
    }

    #[test]
    fn ring_wakes_each_live_task_once() {
        let wakers = Wakers::new(true);
        let bell = Arc::new(Bell::new(wakers.clone()));
        let counts: [Arc<Count>; 3] = Default::default();
        let tasks: Vec<_> = counts.iter().map(|_| bell.task()).collect();
        for (task, count) in tasks.iter().zip(&counts) {
            task.listen(&Waker::from(count.clone()));
        }
        // Polled again before the ring: still one wake-up.
        tasks[0].listen(&Waker::from(counts[0].clone()));
        let mut tasks = tasks.into_iter();
        let kept = [tasks.next(), tasks.next()];
        drop(tasks);
        bell.ring();
        bell.ring();
        wakers.run_here();
        assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::SeqCst)), [1, 1, 0]);
        assert_eq!(bell.listening.load(Ordering::SeqCst), 0, "nobody is counted who does not listen");
        drop(kept);
    }
}
