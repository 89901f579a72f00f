//! Channels, locks, atomics and threads: the one file that names where they come from.
//!
//! With `--cfg shuttle` the unit tests get them from [`simulated`], and one thread runs at a time, in an order that a test draws.

#[cfg(all(test, shuttle))]
pub(crate) mod simulated;

#[cfg(all(test, shuttle))]
pub(crate) use simulated::{
    Condvar, Mutex, MutexGuard, Receiver, RwLock, Select, Sender, bounded, park_timeout, unbounded,
};
#[cfg(not(all(test, shuttle)))]
pub(crate) use {
    crossbeam_channel::{Receiver, Select, Sender, bounded, unbounded},
    parking_lot::{Condvar, Mutex, MutexGuard, RwLock},
    std::sync::atomic,
    std::thread::{self, JoinHandle, ThreadId, park_timeout},
    std::thread_local,
};
#[cfg(all(test, shuttle))]
pub(crate) use {
    shuttle::sync::atomic,
    shuttle::thread::{self, JoinHandle, ThreadId},
    shuttle::thread_local,
};

pub(crate) use crossbeam_channel::{RecvTimeoutError, TryRecvError, TrySendError};

use std::io;
use std::time::{Duration, Instant};

/// Starts a thread of the store, named for debuggers.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    #[cfg(any(test, feature = "testing"))]
    refusal::next()?;
    thread::Builder::new().name(format!("tallystone-{name}")).spawn(run)
}

/// Threads that cannot be started, for tests.
#[cfg(any(test, feature = "testing"))]
pub(crate) mod refusal {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static AFTER: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Lets this thread start so many more threads, and fail at the next one. Returns whether an earlier plan was still open.
    #[cfg(feature = "testing")]
    pub fn plan(after: Option<u32>) -> bool {
        AFTER.replace(after).is_some()
    }

    pub(super) fn next() -> io::Result<()> {
        match AFTER.get() {
            Some(0) => {
                AFTER.set(None);
                Err(io::Error::new(io::ErrorKind::WouldBlock, "no more threads, on purpose"))
            }
            after => {
                AFTER.set(after.map(|after| after - 1));
                Ok(())
            }
        }
    }
}

/// Waits for a thread of the store, unless it is this one. Each of them keeps its own panics.
pub(crate) fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != this_thread() {
        let _ = thread.join();
    }
}

/// Returns the id of the calling thread.
pub(crate) fn this_thread() -> ThreadId {
    thread::current().id()
}

/// Sleeps for a short while, or less.
pub(crate) fn pause(time: Duration) {
    park_timeout(time);
}

/// Returns the end of a caller's patience; `None` if the patience is too long to have one.
pub(crate) fn deadline(patience: Duration) -> Option<Instant> {
    #[allow(clippy::disallowed_methods, reason = "a caller's patience is real time, not the store's")]
    Instant::now().checked_add(patience)
}
