//! Wakers of tasks, run on threads of their own.
//!
//! A waker is foreign code: it may block, panic, call the store or close it. So the thread that makes a change only queues it,
//! under any lock, and a thread that nobody waits for runs it. A waker that does not return in time delays no other: another
//! thread goes on with the queue, and the late one ends when its waker does.

use crate::sync::{Condvar, Mutex, MutexGuard, spawn};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

/// Time after which another thread goes on with the queue.
const RELIEF: Duration = Duration::from_millis(10);
/// Time after which a thread with nothing to do ends.
const IDLE: Duration = Duration::from_secs(1);
/// Maximum number of threads: one that runs wakers, and one that relieves it. Late ones do not count.
const THREADS_MAX: usize = 2;

/// The wakers of a store that are due. In lockstep there are no threads: they run in `run_here`.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    lockstep: bool,
    state: Mutex<WakersState>,
    pushed: Condvar,
}

#[derive(Debug, Default)]
struct WakersState {
    queue: VecDeque<Waker>,
    threads: usize,
    /// The turn of the thread that runs a waker now.
    running: Option<u64>,
    last_turn: u64,
}

impl Wakers {
    pub fn new(lockstep: bool) -> Arc<Self> {
        Arc::new(Self { lockstep, ..Self::default() })
    }

    /// Has wakers run soon. Runs nothing itself, so it may be called under any lock.
    pub fn push(self: &Arc<Self>, wakers: impl IntoIterator<Item = Waker>) {
        let mut state = self.state.lock();
        state.queue.extend(wakers);
        if self.lockstep || state.queue.is_empty() {
            return;
        }
        if state.threads == 0 || state.running.is_some() {
            self.add_thread(&mut state);
        }
        self.pushed.notify_one();
    }

    /// Starts a thread, if there is room for one. Without it, the next push or the thread that is there goes on.
    fn add_thread(self: &Arc<Self>, state: &mut WakersState) {
        let wakers = self.clone();
        if state.threads < THREADS_MAX && spawn("wakers", move || wakers.run()).is_ok() {
            state.threads += 1;
        }
    }

    /// Runs the wakers that are due on this thread, in lockstep. Call it with no lock held.
    pub fn run_here(&self) {
        while self.lockstep
            && let Some(waker) = self.pop()
        {
            wake(waker);
        }
    }

    fn pop(&self) -> Option<Waker> {
        self.state.lock().queue.pop_front()
    }

    fn run(self: &Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            if let Some(turn) = state.running {
                let wait = if state.queue.is_empty() { IDLE } else { RELIEF };
                let is_late =
                    self.pushed.wait_for(&mut state, wait).timed_out() && state.running == Some(turn);
                if is_late && state.queue.is_empty() {
                    break;
                }
                if is_late && wait == RELIEF {
                    // It ends when its waker returns, and counts no more.
                    (state.running, state.threads) = (None, state.threads - 1);
                }
            } else if let Some(waker) = state.queue.pop_front() {
                if !self.run_one(&mut state, waker) {
                    return;
                }
            } else if self.pushed.wait_for(&mut state, IDLE).timed_out()
                && state.queue.is_empty()
                && state.running.is_none()
            {
                break;
            }
        }
        state.threads -= 1;
    }

    /// Runs one waker. Returns `false` if it took so long that another thread goes on.
    fn run_one(self: &Arc<Self>, state: &mut MutexGuard<'_, WakersState>, waker: Waker) -> bool {
        state.last_turn += 1;
        let turn = state.last_turn;
        state.running = Some(turn);
        if !state.queue.is_empty() {
            // Somebody has to go on if this one does not return.
            self.add_thread(state);
        }
        MutexGuard::unlocked(state, || wake(waker));
        let is_mine = state.running == Some(turn);
        if is_mine {
            state.running = None;
        }
        is_mine
    }
}

/// Runs a waker. A panic in it harms nobody, and there is nobody to report it to.
fn wake(waker: Waker) {
    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::Wake;

    /// Reports that it was woken, and returns once the test allows it.
    struct Blocks(Sender<()>, Mutex<Receiver<()>>);

    impl Wake for Blocks {
        fn wake(self: Arc<Self>) {
            self.0.send(()).expect("the test listens");
            let _ = self.1.lock().recv();
        }
    }

    struct Says(Sender<usize>, usize);

    impl Wake for Says {
        fn wake(self: Arc<Self>) {
            self.0.send(self.1).expect("the test listens");
        }
    }

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of somebody else");
        }
    }

    #[test]
    fn blocking_or_panicking_waker_delays_no_other() {
        let wakers = Wakers::new(false);
        let (said, heard) = channel();
        let (began, begun) = channel();
        let mut held = Vec::new();
        for round in 0..4 {
            let (go, gone) = channel();
            held.push(go);
            let blocks = Arc::new(Blocks(began.clone(), Mutex::new(gone)));
            wakers.push([Waker::from(blocks), Waker::from(Arc::new(Panics))]);
            wakers.push([Waker::from(Arc::new(Says(said.clone(), round)))]);
            begun.recv().expect("it runs");
            assert_eq!(heard.recv(), Ok(round));
        }
        drop(held);
    }

    #[test]
    fn lockstep_wakers_run_in_order_on_demand() {
        let wakers = Wakers::new(true);
        let (said, heard) = channel();
        wakers.push((0..3).map(|number| Waker::from(Arc::new(Says(said.clone(), number)))));
        assert!(heard.try_recv().is_err());
        wakers.run_here();
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
