//! The slot in which one answer travels from the writer to its caller.
//!
//! - An answer is put in once. If the writer goes away without one, the slot answers with its fallback.
//! - A caller that goes away never hurts the writer: the answer is dropped with the slot.

use crate::sync::{Condvar, Mutex, deadline};
use crate::wakers::Wakers;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

struct ReplySlot<T> {
    state: Mutex<ReplyState<T>>,
    filled: Condvar,
    /// Queue that runs the task's waker: the slot is filled under the writer's role.
    due: Arc<Wakers>,
}

struct ReplyState<T> {
    answer: Option<T>,
    /// The caller's task, if it polls.
    waker: Option<Waker>,
    /// True if the caller's thread sleeps on `filled`.
    sleeping: bool,
    turn: RequestStage,
}

/// Stage of a request before its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RequestStage {
    /// The request waits in the queue.
    Waits,
    /// The writer has it.
    Taken,
    /// The caller does not want it any more.
    Withdrawn,
}

/// The writer's end.
pub(crate) struct Reply<T> {
    slot: Arc<ReplySlot<T>>,
    /// The answer if this end is dropped without one.
    otherwise: Option<fn() -> T>,
}

/// The caller's end.
pub(crate) struct Answer<T> {
    slot: Arc<ReplySlot<T>>,
}

/// Makes a slot. `otherwise` gives the answer if the writer goes away.
pub(crate) fn slot<T>(otherwise: fn() -> T, due: &Arc<Wakers>) -> (Reply<T>, Answer<T>) {
    let state = ReplyState { answer: None, waker: None, sleeping: false, turn: RequestStage::Waits };
    let slot = Arc::new(ReplySlot { state: Mutex::new(state), filled: Condvar::new(), due: due.clone() });
    (Reply { slot: slot.clone(), otherwise: Some(otherwise) }, Answer { slot })
}

impl<T> Reply<T> {
    /// Takes the request, for the writer. Returns `false` if the caller has withdrawn it.
    pub fn take(&self) -> bool {
        let mut state = self.slot.state.lock();
        if state.turn == RequestStage::Waits {
            state.turn = RequestStage::Taken;
        }
        state.turn == RequestStage::Taken
    }

    pub fn send(mut self, answer: T) {
        self.otherwise = None;
        self.slot.fill(answer);
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(otherwise) = self.otherwise.take() {
            self.slot.fill(otherwise());
        }
    }
}

impl<T> ReplySlot<T> {
    fn fill(&self, answer: T) {
        let mut state = self.state.lock();
        debug_assert!(state.answer.is_none(), "one answer only");
        state.answer = Some(answer);
        let waker = state.waker.take();
        let sleeping = state.sleeping;
        drop(state);
        if sleeping {
            self.filled.notify_one();
        }
        if let Some(waker) = waker {
            self.due.push([waker]);
        }
    }
}

impl<T> Answer<T> {
    /// Withdraws the request. Returns `false` if the writer has taken it: then there will be an answer.
    pub fn withdraw(&self) -> bool {
        let mut state = self.slot.state.lock();
        if state.turn == RequestStage::Waits {
            state.turn = RequestStage::Withdrawn;
        }
        state.turn == RequestStage::Withdrawn
    }

    pub fn wait(&self) -> T {
        let mut state = self.slot.state.lock();
        loop {
            if let Some(answer) = state.answer.take() {
                return answer;
            }
            state.sleeping = true;
            self.slot.filled.wait(&mut state);
            state.sleeping = false;
        }
    }

    pub fn wait_timeout(&self, timeout: Duration) -> Option<T> {
        let Some(deadline) = deadline(timeout) else { return Some(self.wait()) };
        let mut state = self.slot.state.lock();
        loop {
            if let Some(answer) = state.answer.take() {
                return Some(answer);
            }
            state.sleeping = true;
            let timed_out = self.slot.filled.wait_until(&mut state, deadline).timed_out();
            state.sleeping = false;
            if timed_out {
                return state.answer.take();
            }
        }
    }
}

impl<T> Future for Answer<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Cloning and dropping a waker run foreign code: under no lock.
        let waker = context.waker().clone();
        let mut state = self.slot.state.lock();
        let before = match state.answer.take() {
            Some(answer) => return Poll::Ready(answer),
            None => state.waker.replace(waker),
        };
        drop(state);
        drop(before);
        Poll::Pending
    }
}

#[cfg(all(test, shuttle))]
mod schedules;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn answer_wakes_task_that_polled_last() {
        let wakers = Wakers::new(true);
        let (reply, mut answer) = slot(|| "gone", &wakers);
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        for count in [&first, &second] {
            let waker = Waker::from(count.clone());
            assert!(Pin::new(&mut answer).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        reply.send("here");
        wakers.run_here();
        assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (0, 1));
        let waker = Waker::from(second);
        assert_eq!(Pin::new(&mut answer).poll(&mut Context::from_waker(&waker)), Poll::Ready("here"));
    }

    #[test]
    fn dropped_writer_still_answers_request() {
        let (reply, answer) = slot(|| "gone", &Wakers::new(true));
        drop(reply);
        assert_eq!(answer.wait(), "gone");
    }

    #[test]
    fn request_is_either_taken_or_withdrawn() {
        let (reply, answer) = slot(|| "gone", &Wakers::new(true));
        assert!(answer.withdraw() && !reply.take());
        let (reply, answer) = slot(|| "gone", &Wakers::new(true));
        assert!(reply.take() && !answer.withdraw());
        reply.send("here");
        assert_eq!(answer.wait(), "here");
    }

    #[test]
    fn answer_to_dropped_caller_is_harmless() {
        let (reply, answer) = slot(|| "gone", &Wakers::new(true));
        drop(answer);
        reply.send("unheard");
    }

    #[test]
    fn a_sleeping_caller_is_woken() {
        let (reply, answer) = slot(|| 0, &Wakers::new(true));
        let caller = std::thread::spawn(move || answer.wait());
        reply.send(7);
        assert_eq!(caller.join().expect("the caller does not panic"), 7);
    }

    #[test]
    fn wait_can_be_repeated_after_timeout() {
        let (reply, answer) = slot(|| 0, &Wakers::new(true));
        assert_eq!(answer.wait_timeout(Duration::ZERO), None);
        reply.send(7);
        assert_eq!(answer.wait_timeout(Duration::MAX), Some(7));
    }
}
