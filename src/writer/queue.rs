//! The queue before the writer: bounded in length and bytes; and the store's health, which decides if a request gets in.

use super::Handed;
use super::reply::{Answer, Reply, slot};
use crate::commit::prepare::Prepared;
use crate::error::{AppendError, StorageError, TroubleKind};
use crate::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use crate::sync::{Mutex, Receiver, RwLock, Select, Sender, TryRecvError, TrySendError, bounded};
use crate::wakers::Wakers;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

/// A request and the slot for its answer.
pub(crate) type Waiting = (Box<Prepared>, Reply<Handed>);

/// A message to the writer.
pub(crate) enum Message {
    Append(Box<Prepared>, Reply<Handed>),
    Close,
}

/// Makes a bounded queue.
pub(crate) fn queue(
    len_max: usize,
    bytes_max: usize,
    health: Arc<Health>,
    due: Arc<Wakers>,
) -> (Outbox, Inbox) {
    let (send, receive) = bounded(len_max);
    let bytes = Arc::new(AtomicUsize::new(0));
    (
        Outbox { send, bytes: bytes.clone(), bytes_max, health, due: due.clone() },
        Inbox { receive, bytes, closing: Cell::new(false), due },
    )
}

/// The callers' end.
#[derive(Clone)]
pub(crate) struct Outbox {
    send: Sender<Message>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    health: Arc<Health>,
    /// Queue that runs the wakers of tasks that wait for an answer.
    pub due: Arc<Wakers>,
}

impl Outbox {
    /// Puts a request into the queue, waiting for a place for up to `patience`.
    pub fn put(&self, request: Box<Prepared>, patience: Duration) -> Result<Answer<Handed>, AppendError> {
        // As long as this is held, the writer takes every request that is put in.
        let _gate = self.health.gate.read();
        match self.health.state() {
            State::Well => {}
            State::Poisoned => {
                let cause = self.health.poisoned_by();
                return Err(AppendError::Poisoned { append: Box::new(request.append), cause });
            }
            State::Closed => return Err(AppendError::Closed(Box::new(request.append))),
        }
        let bytes = request.bytes;
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.bytes_max {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(AppendError::Overloaded(Box::new(request.append)));
        }
        let (reply, answer) = slot(Handed::unanswered, &self.due);
        let message = Message::Append(request, reply);
        let sent = match self.send.try_send(message) {
            Err(TrySendError::Full(message)) if !patience.is_zero() => self
                .send
                .send_timeout(message, patience)
                .map_err(|error| (error.is_timeout(), error.into_inner())),
            sent => sent.map_err(|error| (error.is_full(), error.into_inner())),
        };
        sent.map(|()| answer).map_err(|(full, message)| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            let Message::Append(request, reply) = message else { unreachable!("an append was sent") };
            // Nobody waits on this slot: the request goes back by hand.
            reply.send(Handed::unanswered());
            let append = Box::new(request.append);
            if full { AppendError::Overloaded(append) } else { AppendError::Closed(append) }
        })
    }

    /// Asks the writer to stop. Requests queued before are still served.
    pub fn close(&self) {
        // An error says that it has stopped.
        let _ = self.send.send(Message::Close);
    }

    /// Returns the number of requests that wait.
    pub fn len(&self) -> usize {
        self.send.len()
    }
}

/// Result of a look into the queue.
pub(crate) enum Next {
    Append(Waiting),
    Nothing,
    /// A close, or no caller is left.
    Close,
}

/// The writer's end.
pub(crate) struct Inbox {
    receive: Receiver<Message>,
    bytes: Arc<AtomicUsize>,
    /// True if a close came while a group was gathered.
    closing: Cell<bool>,
    pub due: Arc<Wakers>,
}

impl Inbox {
    /// Returns a watch to sleep on. It takes nothing: the holder of the writer's role does.
    pub fn watch(&self) -> Watch {
        Watch(self.receive.clone())
    }

    /// Returns whether the queue is empty, and no close was kept.
    pub fn is_empty(&self) -> bool {
        !self.closing.get() && self.receive.is_empty()
    }

    pub fn try_next(&self) -> Next {
        if self.closing.take() {
            return Next::Close;
        }
        match self.receive.try_recv() {
            Ok(Message::Append(request, reply)) => {
                self.bytes.fetch_sub(request.bytes, Ordering::Relaxed);
                Next::Append((request, reply))
            }
            Ok(Message::Close) | Err(TryRecvError::Disconnected) => Next::Close,
            Err(TryRecvError::Empty) => Next::Nothing,
        }
    }

    /// Takes the kept close. Returns whether there was one.
    pub fn take_close(&self) -> bool {
        self.closing.take()
    }

    /// Returns the next append, if one waits. A close that comes instead is kept for `try_next`.
    pub fn try_next_append(&self) -> Option<Waiting> {
        match self.try_next() {
            Next::Append(waiting) => Some(waiting),
            Next::Nothing => None,
            Next::Close => {
                self.closing.set(true);
                None
            }
        }
    }
}

/// A view of the queue that shows if there is something to take.
pub(crate) struct Watch(Receiver<Message>);

impl Watch {
    /// Sleeps until there is something to take. Returns `false` if nothing came within `patience`.
    pub fn wait(&self, patience: Duration) -> bool {
        let mut select = Select::new();
        select.recv(&self.0);
        select.ready_timeout(patience).is_ok()
    }
}

/// State of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Well,
    Poisoned,
    Closed,
}

/// Health of the store, shared by the writer, its callers and the readers.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: AtomicU8,
    /// Gate that callers hold from their look at the state until their request is in the queue.
    gate: RwLock<()>,
    trouble: Mutex<Option<StorageError>>,
    damage: Mutex<Option<StorageError>>,
}

impl Health {
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Well,
            1 => State::Poisoned,
            _ => State::Closed,
        }
    }

    pub fn is_poisoned(&self) -> bool {
        self.state() == State::Poisoned
    }

    /// Stops all commits until `recover`.
    pub fn poison(&self, trouble: StorageError) {
        self.trouble.lock().get_or_insert(trouble);
        // A closed store stays closed.
        let _ = self.state.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Blocks new requests and waits for those already past the check: they are in the queue then, and `drain` takes them out.
    pub fn let_nobody_in(&self, drain: impl Fn()) {
        let gate = loop {
            // Callers that wait for a place in a full queue hold the gate.
            drain();
            if let Some(gate) = self.gate.try_write_for(Duration::from_millis(1)) {
                break gate;
            }
        };
        // Poisoned stays poisoned: it lets nobody in either.
        let _ = self.state.compare_exchange(0, 2, Ordering::AcqRel, Ordering::Acquire);
        drop(gate);
        drain();
    }

    pub fn close(&self) {
        self.state.store(2, Ordering::Release);
    }

    /// Records a failed read of derived state: damage is rebuilt by the next `recover` or open; and a file that failed
    /// poisons the store, so that nothing can be decided by it.
    pub fn note_read(&self, error: &StorageError) {
        if error.is_rebuildable() {
            self.damage.lock().get_or_insert_with(|| error.clone());
        }
        if error.ends_handle() {
            self.poison(error.clone());
        }
    }

    pub fn damage(&self) -> Option<StorageError> {
        self.damage.lock().clone()
    }

    /// Returns the cause, for a store that is poisoned.
    pub fn poisoned_by(&self) -> StorageError {
        self.trouble().unwrap_or_else(|| StorageError::new(TroubleKind::Io, "the cause is not known"))
    }

    /// Returns the cause of the poisoning, if there was one.
    pub fn trouble(&self) -> Option<StorageError> {
        self.trouble.lock().clone()
    }
}

#[cfg(all(test, shuttle))]
mod schedules;
