//! Delivery of alerts: a sink runs on a thread of its own, so that one that is slow or hangs delays neither checks nor `close`.
//!
//! - The queue is bounded. An alert that does not fit is refused, stays with its check, and is offered again.
//! - A call has a deadline. After it the sink counts as overdue: the watchdog reports that, and `close` waits no longer for it.
//! - A call runs under no lock and holds nothing of the store: it may call the store, close it, panic, or never return.
//!
//! It knows nothing of alerts: a job is a call that answers whether it was taken.

use crate::disk::Clock;
use crate::misfit::panic_text;
use crate::sync::{Condvar, JoinHandle, Mutex, MutexGuard, ThreadId, deadline, spawn, this_thread};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Maximum number of jobs that wait.
const QUEUE_LEN_MAX: usize = 64;

/// Answer of the sink: nothing, or why it has not taken the alert.
pub(super) type Taken = Result<(), String>;

struct DeliveryJob {
    call: Box<dyn FnOnce() -> Taken + Send>,
    sent: Sent,
    done: Box<dyn FnOnce() + Send>,
}

/// Jobs of one sink, and the thread that runs them. In lockstep a job runs where it is offered.
pub(crate) struct DeliveryQueue {
    clock: Arc<dyn Clock>,
    limit: Duration,
    lockstep: bool,
    state: Mutex<DeliveryState>,
    changed: Condvar,
}

#[derive(Default)]
struct DeliveryState {
    waiting: VecDeque<DeliveryJob>,
    running: Option<RunningCall>,
    thread: Option<JoinHandle<()>>,
    thread_id: Option<ThreadId>,
    is_closed: bool,
}

/// The call that runs now.
struct RunningCall {
    /// By the monotonic clock of the store: what the watchdog goes by.
    began: Duration,
    /// In real time: how long `close` waits for it. `None`: for ever.
    until: Option<Instant>,
}

/// A job that was handed over. Its outcome is taken once.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Option<Taken>>>);

impl Sent {
    /// It was called, or could not be.
    pub fn has_outcome(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Takes the outcome. `None`: there is none yet.
    pub fn outcome(&self) -> Option<Taken> {
        self.0.lock().take()
    }
}

impl DeliveryQueue {
    pub fn new(clock: Arc<dyn Clock>, limit: Duration, lockstep: bool) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { clock, limit, lockstep, state, changed })
    }

    /// Hands a job over. `done` is called after it, on the thread of the sink: it says that there is an outcome.
    ///
    /// # Errors
    ///
    /// Why it is not taken now: offer it again.
    pub(super) fn offer(
        self: &Arc<Self>,
        job: impl FnOnce() -> Taken + Send + 'static,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<Sent, String> {
        let sent = Sent::default();
        if self.lockstep {
            *sent.0.lock() = Some(caught(job));
            return Ok(sent);
        }
        let mut state = self.state.lock();
        if state.is_closed {
            return Err("the store is closing".to_owned());
        }
        if state.waiting.len() >= QUEUE_LEN_MAX {
            return Err(format!("{QUEUE_LEN_MAX} alerts wait for the sink already"));
        }
        if state.thread.is_none() {
            let queue = self.clone();
            let thread = spawn("alerts", move || queue.run())
                .map_err(|error| format!("its thread could not be started: {error}"))?;
            state.thread_id = Some(thread.thread().id());
            state.thread = Some(thread);
        }
        state.waiting.push_back(DeliveryJob {
            call: Box::new(job),
            sent: sent.clone(),
            done: Box::new(done),
        });
        drop(state);
        self.changed.notify_all();
        Ok(sent)
    }

    fn run(&self) {
        let mut state = self.state.lock();
        while let Some(DeliveryJob { call, sent, done }) = self.next(&mut state) {
            state.running = Some(RunningCall { began: self.clock.monotonic(), until: deadline(self.limit) });
            MutexGuard::unlocked(&mut state, || *sent.0.lock() = Some(caught(call)));
            state.running = None;
            self.changed.notify_all();
            // After it has ended: a watchdog that is woken sees that.
            MutexGuard::unlocked(&mut state, done);
        }
    }

    /// Waits for a job. `None` once the queue is closed.
    fn next(&self, state: &mut MutexGuard<'_, DeliveryState>) -> Option<DeliveryJob> {
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(next) = state.waiting.pop_front() {
                return Some(next);
            }
            self.changed.wait(state);
        }
    }

    /// Returns how long the call that runs is past its deadline. `None`: none is.
    pub fn overdue(&self) -> Option<Duration> {
        let began = self.state.lock().running.as_ref()?.began;
        self.clock.monotonic().saturating_sub(began).checked_sub(self.limit).filter(|late| !late.is_zero())
    }

    /// Returns how long the next call that may be overdue has before it is. `None`: none runs or waits, or it is overdue.
    pub fn until_overdue(&self) -> Option<Duration> {
        let state = self.state.lock();
        let left = match &state.running {
            Some(running) => running.began.saturating_add(self.limit).checked_sub(self.clock.monotonic())?,
            None if state.waiting.is_empty() => return None,
            None => self.limit,
        };
        // Just after its deadline, not at it.
        Some(left + Duration::from_millis(1))
    }

    /// The calling thread is that of the sink.
    pub fn is_here(&self) -> bool {
        self.state.lock().thread_id == Some(this_thread())
    }

    /// Takes no more jobs.
    pub fn refuse(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Takes no more jobs, drops those that wait, and waits for the call that runs, until its deadline. Called by that call
    /// itself it does not wait.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        self.changed.notify_all();
        let thread = state.thread.take();
        let is_own = state.thread_id == Some(this_thread());
        if let Some(thread) = thread
            && !is_own
        {
            while let Some(until) = state.running.as_ref().map(|running| running.until) {
                match until {
                    None => self.changed.wait(&mut state),
                    Some(until) if self.changed.wait_until(&mut state, until).timed_out() => break,
                    Some(_) => {}
                }
            }
            let is_idle = state.running.is_none();
            drop(state);
            if is_idle {
                // It catches panics, and ends by itself.
                let _ = thread.join();
            }
        }
        // A job may own the last handle of something: it is dropped under no lock.
        drop(waiting);
    }
}

fn caught(job: impl FnOnce() -> Taken) -> Taken {
    catch_unwind(AssertUnwindSafe(job))
        .unwrap_or_else(|panic| Err(format!("panicked: {}", panic_text(&*panic))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SimClock;
    use std::sync::mpsc;

    const LIMIT: Duration = Duration::from_millis(20);

    fn queue(clock: &SimClock) -> Arc<DeliveryQueue> {
        DeliveryQueue::new(Arc::new(clock.clone()), LIMIT, false)
    }

    #[test]
    fn outcomes_keep_order_and_panics_become_refusals() {
        let queue = queue(&SimClock::default());
        let (told, done) = mpsc::channel();
        let offer = |job: fn() -> Taken| {
            let told = told.clone();
            queue.offer(job, move || told.send(()).expect("the test listens")).expect("there is room")
        };
        let sent = [offer(|| Ok(())), offer(|| Err("no".to_owned())), offer(|| panic!("ouch"))];
        (0..3).for_each(|_| done.recv().expect("each is told"));
        let outcomes = sent.map(|sent| sent.outcome().expect("it is there"));
        assert_eq!(outcomes, [Ok(()), Err("no".to_owned()), Err("panicked: ouch".to_owned())]);
        queue.close();
        assert!(queue.offer(|| Ok(()), || ()).is_err(), "a closed queue takes nothing");
    }

    /// Bound of the queue behind a hanging sink: once it is full, further jobs are refused.
    #[test]
    fn overdue_hanging_sink_is_abandoned_by_close() {
        let clock = SimClock::default();
        let queue = queue(&clock);
        let (began, begun) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let hang = move || {
            began.send(()).expect("the test listens");
            gone.recv().map_err(|error| error.to_string())
        };
        let sent = queue.offer(hang, || ()).expect("there is room");
        begun.recv().expect("it runs");
        assert!(queue.overdue().is_none() && queue.until_overdue().is_some());
        clock.advance(LIMIT + Duration::from_millis(1));
        assert_eq!((queue.overdue(), queue.until_overdue()), (Some(Duration::from_millis(1)), None));
        (0..QUEUE_LEN_MAX).for_each(|_| drop(queue.offer(|| Ok(()), || ()).expect("there is room")));
        assert!(queue.offer(|| Ok(()), || ()).is_err(), "the queue is bounded");
        queue.close();
        assert!(sent.outcome().is_none());
        drop(go);
    }

    #[test]
    fn job_closes_own_queue_without_deadlock() {
        let clock = Arc::new(SimClock::default());
        let queue = DeliveryQueue::new(clock, Duration::MAX, false);
        let (told, done) = mpsc::channel();
        let closer = queue.clone();
        let close = move || {
            closer.close();
            Ok(())
        };
        let sent =
            queue.offer(close, move || told.send(()).expect("the test listens")).expect("there is room");
        done.recv().expect("it returns");
        assert_eq!(sent.outcome(), Some(Ok(())));
    }
}
