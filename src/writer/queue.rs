//! The queue before the writer: bounded in length and bytes; and the store's health, which decides who gets in.

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

/// A request and where its answer goes.
pub(crate) type Waiting = (Box<Prepared>, Reply<Handed>);

/// What reaches the writer.
pub(crate) enum Message {
    Append(Box<Prepared>, Reply<Handed>),
    Close,
}

/// A bounded queue.
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
    /// Run the wakers of tasks that wait for an answer.
    pub due: Arc<Wakers>,
}

impl Outbox {
    /// Puts a request into the queue, waiting for a place as long as `patience`.
    pub fn put(&self, request: Box<Prepared>, patience: Duration) -> Result<Answer<Handed>, AppendError> {
        // As long as this is held, the writer takes what is put in.
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

    /// Asks the writer to stop. What is queued before is still served.
    pub fn close(&self) {
        // An error says that it has stopped.
        let _ = self.send.send(Message::Close);
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.send.len()
    }
}

/// What the writer finds when it looks.
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
    /// A close came while a group was gathered.
    closing: Cell<bool>,
    pub due: Arc<Wakers>,
}

impl Inbox {
    /// To sleep on, without taking anything: whoever holds the writer's role takes.
    pub fn watch(&self) -> Watch {
        Watch(self.receive.clone())
    }

    /// Nobody waits.
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

    /// Takes the close that was kept, if there is one.
    pub fn take_close(&self) -> bool {
        self.closing.take()
    }

    /// The next append, if one waits. A close that comes instead is kept for `try_next`.
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

/// Sees that there is something to take.
pub(crate) struct Watch(Receiver<Message>);

impl Watch {
    /// Sleeps until there is something to take. `false`: nothing came within `patience`.
    pub fn wait(&self, patience: Duration) -> bool {
        let mut select = Select::new();
        select.recv(&self.0);
        select.ready_timeout(patience).is_ok()
    }
}

/// How the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Well,
    Poisoned,
    Closed,
}

/// Shared by the writer, who changes it, and everyone else.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: AtomicU8,
    /// Held by callers from their look at the state until their request is in the queue.
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

    /// No commit any more until `recover`.
    pub fn poison(&self, trouble: StorageError) {
        self.trouble.lock().get_or_insert(trouble);
        // A closed store stays closed.
        let _ = self.state.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Closes the door behind the last request: whoever saw the store well before has put it in, and `drain` takes it out.
    pub fn let_nobody_in(&self, drain: impl Fn()) {
        let gate = loop {
            // Callers who wait for a place in a full queue hold the gate.
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

    /// Remembers what a failed read of derived state means: damage is rebuilt by the next `recover` or open; and a file that
    /// failed answers nothing any more, so that nothing can be decided by it.
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

    /// Returns the cause, of a store that is poisoned.
    pub fn poisoned_by(&self) -> StorageError {
        self.trouble().unwrap_or_else(|| StorageError::new(TroubleKind::Io, "the cause is not known"))
    }

    /// Why it is poisoned.
    pub fn trouble(&self) -> Option<StorageError> {
        self.trouble.lock().clone()
    }
}

#[cfg(all(test, shuttle))]
mod schedules;
