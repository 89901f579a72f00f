//! Transactions that a thread is inside of, and calls that are forbidden there.

use crate::budget::Meter;
use crate::error::{Rule, TxError};
use crate::sync::{Mutex, thread_local};
use std::cell::RefCell;
use std::panic::Location;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

/// A transaction, from its begin to its end.
#[derive(Debug)]
pub(crate) struct Running {
    /// Identity of its store: the address of its registry.
    store: usize,
    began: Duration,
    pub meter: Mutex<Meter>,
    pub state: Mutex<TxState>,
}

thread_local! {
    static INSIDE: RefCell<Vec<Arc<Running>>> = const { RefCell::new(Vec::new()) };
}

/// Mark of a thread that is inside a transaction, as long as this lives.
pub(crate) struct Inside(Arc<Running>);

/// Enters a transaction, unless the thread is inside one already.
pub(crate) fn enter(running: &Arc<Running>, at: &'static Location<'static>) -> Result<Inside, TxError> {
    INSIDE.with(|inside| {
        let mut inside = inside.borrow_mut();
        let label = |outer: &Running| outer.meter.lock().event.label.clone();
        if let Some(outer) = inside.iter().find(|outer| outer.store == running.store) {
            return Err(TxError::Nested { outer: label(outer) });
        }
        if let Some(outer) = inside.last() {
            let what = "another store";
            let told = running.meter.lock().forbidden(Rule::OtherStore, what, at);
            let _ = outer.meter.lock().forbidden(Rule::OtherStore, what, at);
            if told.is_err() {
                return Err(TxError::Nested { outer: label(outer) });
            }
        }
        inside.push(running.clone());
        Ok(Inside(running.clone()))
    })
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.borrow_mut().retain(|running| !Arc::ptr_eq(running, &self.0)));
    }
}

/// Returns the label of the transaction of this store that the thread is inside of.
pub(crate) fn outer(registry: &Registry) -> Option<String> {
    INSIDE.with(|inside| {
        let inside = inside.borrow();
        let outer = inside.iter().find(|running| running.store == registry.address())?;
        Some(outer.meter.lock().event.label.clone())
    })
}

/// Marks work that must never run inside a transaction: calls to the network, mail, jobs, other databases.
///
/// Outside one it only runs the work. Inside, the budget's rule `OutsideCall` decides: the call is listed in the
/// [`TxEvent`](super::TxEvent), or is warned about.
///
/// # Panics
///
/// Inside a transaction whose budget denies it: before the work is done.
///
/// ```
/// use tallystone::transaction::outside_tx;
///
/// let page = outside_tx("http", || "200 OK");
/// assert_eq!(page, "200 OK");
/// ```
#[track_caller]
pub fn outside_tx<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let at = Location::caller();
    let denied = INSIDE.with(|inside| {
        let inside = inside.borrow();
        let running = inside.last()?;
        let mut meter = running.meter.lock();
        meter.forbidden(Rule::OutsideCall, what, at).err().map(|_| meter.event.label.clone())
    });
    if let Some(label) = denied {
        panic!("`{what}` inside the transaction `{label}`: do it before, or after the commit");
    }
    work()
}

// ---- seen from outside ----

/// Activity of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TxState {
    /// Deciding.
    Deciding,
    /// Waiting for its turn, or for its sync.
    Waiting,
    /// Deciding, and holding the writer.
    Holding,
}

/// A transaction that runs now.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ActiveTx {
    /// Its label.
    pub label: String,
    /// Time of its begin.
    pub began_at: SystemTime,
    /// Time since its begin.
    pub age: Duration,
    /// Reads and writes so far.
    pub operations: u64,
    /// Its activity.
    pub state: TxState,
}

/// The transactions of one store that run now.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Vec<Weak<Running>>>);

impl Registry {
    /// Registers a transaction that begins now.
    pub fn begin(&self, meter: Meter, monotonic: Duration) -> Arc<Running> {
        let (meter, state) = (Mutex::new(meter), Mutex::new(TxState::Deciding));
        let running = Arc::new(Running { store: self.address(), began: monotonic, meter, state });
        let mut all = self.0.lock();
        // Amortised: never more than twice as many as there are.
        if all.len() == all.capacity() {
            all.retain(|running| running.strong_count() > 0);
        }
        all.push(Arc::downgrade(&running));
        running
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub fn list(&self, monotonic: Duration) -> Vec<ActiveTx> {
        let all: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        let seen = |running: Arc<Running>| {
            let state = *running.state.lock();
            let event = &running.meter.lock().event;
            let (label, began_at, operations) = (event.label.clone(), event.began_at, event.operations);
            ActiveTx { label, began_at, age: monotonic.saturating_sub(running.began), operations, state }
        };
        all.into_iter().map(seen).collect()
    }
}
