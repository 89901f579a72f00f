//! The way from a decision to its commit: tried, checked, handed over; and tried again after a conflict.

use super::inside::{self, Registry, Running, TxState};
use super::{Callback, Decision, Origin, Tx};
use crate::budget::{Budget, Meter, Outcome, Policy, TxStats};
use crate::codec;
use crate::commit::prepare::{Desk, Prepared};
use crate::commit::reads::Reads;
use crate::disk::{Clock, Platform};
use crate::error::{AppendError, TxError};
use crate::idempotency::{self, Keyed};
use crate::layout::{Layout, Samples};
use crate::options::Options;
use crate::reentry;
use crate::request::{Append, Committed, Receipt, Request, Retry};
use crate::setup::OnTx;
use crate::state::overlay::Delta;
use crate::sync::{Mutex, pause};
use crate::view::{Current, Reader, Views};
use crate::writer::queue::State;
use crate::writer::{Answered, Door, Held};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// A value that may be stored as an answer.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored as an answer",
    label = "an answer has `Serialize` and `Deserialize`, owns what it holds, and is `Send`",
    note = "return what a retry is to get; `()` if there is nothing"
)]
pub trait Answer: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Answer for T {}

/// State shared by the transactions of a store.
pub(crate) struct Shared {
    pub platform: Platform,
    pub budget: Budget,
    pub on_tx: Option<OnTx>,
    pub registry: Registry,
    /// Statistics of the transactions that ended.
    pub stats: Mutex<TxStats>,
    /// Digests of the layouts of answers, each traced once.
    pub shapes: Mutex<HashMap<TypeId, [u8; SHAPE_BYTES]>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// A stored answer begins with a digest of its type's layout.
const SHAPE_BYTES: usize = 8;

impl Shared {
    pub fn new(platform: Platform, budget: Budget, on_tx: Option<OnTx>) -> Self {
        let (registry, stats, shapes) = (Registry::default(), Mutex::default(), Mutex::default());
        Self { platform, budget, on_tx, registry, stats, shapes }
    }

    /// Returns the digest of the layout of an answer's type. The answer itself is a sample for tracing the type.
    fn shape<T: Answer>(&self, answer: &T) -> Result<[u8; SHAPE_BYTES], TxError> {
        let type_id = TypeId::of::<T>();
        if let Some(shape) = self.shapes.lock().get(&type_id) {
            return Ok(*shape);
        }
        let given = Samples::of(std::slice::from_ref(answer));
        let layout = Layout::with_samples::<T>(&given).map_err(|error| invalid("answer", error))?;
        let mut shape = [0; SHAPE_BYTES];
        blake3::Hasher::new().update(layout.to_string().as_bytes()).finalize_xof().fill(&mut shape);
        self.shapes.lock().insert(type_id, shape);
        Ok(shape)
    }

    fn encode<T: Answer>(&self, answer: &T) -> Result<Vec<u8>, TxError> {
        let mut bytes = self.shape(answer)?.to_vec();
        bytes.extend(codec::encode(answer).map_err(|error| invalid("answer", error))?);
        Ok(bytes)
    }

    /// Decodes an answer of an earlier commit, as the type that is asked for now.
    fn decode<T: Answer>(&self, stored: Committed) -> Result<Committed<T>, TxError> {
        let Committed { response, receipt, replayed } = stored;
        let changed = || TxError::AnswerChanged { commit: receipt.commit };
        let (stored, bytes) = response.split_first_chunk::<SHAPE_BYTES>().ok_or_else(changed)?;
        let answer: T = codec::decode(bytes).map_err(|_| changed())?;
        if self.shape(&answer)? != *stored {
            return Err(changed());
        }
        Ok(Committed { response: answer, receipt, replayed })
    }
}

fn invalid(what: &'static str, why: impl fmt::Display) -> TxError {
    TxError::Invalid { what, why: why.to_string() }
}

/// The parts of a store that a transaction works with.
#[derive(Clone)]
pub(crate) struct Parts<'s> {
    pub shared: &'s Arc<Shared>,
    pub current: &'s Current,
    pub views: &'s Views,
    pub options: &'s Options,
    pub door: Door,
}

impl Parts<'_> {
    pub fn clock(&self) -> &dyn Clock {
        &*self.shared.platform.clock
    }

    fn desk<'a>(&'a self, reader: &'a Reader) -> Desk<'a> {
        Desk { rules: &reader.rules, options: self.options, terms: &reader.terms }
    }
}

/// The part of a transaction that outlives a try. Reports the transaction when it ends, whatever its outcome.
pub(crate) struct Work {
    shared: Arc<Shared>,
    request: Request,
    origin: Origin,
    running: Arc<Running>,
    tries: u32,
    /// True if its reads can hold only while it holds the writer.
    needs_writer: bool,
    at: &'static Location<'static>,
}

/// Number of conflicts after which the writer is held.
const HELD_AFTER: u32 = 4;

/// A decision that is ready for the writer.
pub(crate) struct Ready<T> {
    pub prepared: Box<Prepared>,
    pub answer: T,
    pub callbacks: Vec<Callback>,
}

/// Result of a decision.
pub(crate) enum Concluded<T> {
    /// There is nothing to commit.
    ReadOnly(Committed<T>, Vec<Callback>),
    Ready(Ready<T>),
}

/// Result of one try to decide.
pub(crate) enum Decided<'p, T> {
    /// An earlier commit answers it.
    Before(Committed<T>),
    /// This try decided it. The writer is still held for it, if it was held.
    Now(Concluded<T>, Option<Holding<'p>>),
}

/// Decides and commits, again after a conflict.
pub(crate) fn transact<T: Answer, E>(
    parts: &Parts<'_>,
    request: Request,
    at: &'static Location<'static>,
    mut decide: impl FnMut(&mut Tx<'_>) -> Decision<T, E>,
) -> Result<Committed<T>, TxError<E>> {
    let mut work = Work::begin(parts, request, at).map_err(widen)?;
    loop {
        let tried = work.once(parts, &mut decide);
        work.told(&tried);
        match tried {
            Err(error) if work.again(&error) => work.pause(parts),
            ended => return work.end(ended),
        }
    }
}

impl Work {
    pub fn begin(
        parts: &Parts<'_>,
        request: Request,
        at: &'static Location<'static>,
    ) -> Result<Self, TxError> {
        if let Some(outer) = reentry::fold() {
            return Err(TxError::Nested { outer });
        }
        if let Some((what, why)) = request.fault {
            return Err(TxError::Invalid { what, why });
        }
        let shared = parts.shared.clone();
        let mut seed = [0; 32];
        shared.platform.entropy.fill(&mut seed);
        let now = parts.clock().now().max(parts.current.read().board.load().head.time);
        let meter = Meter::new(&shared.budget, &request.label, now.into());
        let running = shared.registry.begin(meter, parts.clock().monotonic());
        let origin = Origin { now, seed, drawn: 0 };
        Ok(Self { shared, request, origin, running, tries: 0, needs_writer: false, at })
    }

    /// Makes one try: decides, commits.
    fn once<T: Answer, E>(
        &self,
        parts: &Parts<'_>,
        decide: &mut impl FnMut(&mut Tx<'_>) -> Decision<T, E>,
    ) -> Result<Committed<T>, TxError<E>> {
        match self.decide(parts, decide)? {
            Decided::Before(answer) => Ok(answer),
            Decided::Now(concluded, held) => self.commit(parts, concluded, held).map_err(widen),
        }
    }

    /// Looks for the answer of an earlier commit, and decides if there is none.
    pub fn decide<'p, T: Answer, E>(
        &self,
        parts: &'p Parts<'_>,
        decide: &mut impl FnMut(&mut Tx<'_>) -> Decision<T, E>,
    ) -> Result<Decided<'p, T>, TxError<E>> {
        if let Some(answer) = self.recall(parts).map_err(widen)? {
            return Ok(Decided::Before(answer));
        }
        let inside = inside::enter(&self.running, self.at).map_err(widen)?;
        let held = self.holds_the_writer().then(|| self.hold(parts)).transpose().map_err(widen)?;
        *self.running.state.lock() = if held.is_some() { TxState::Holding } else { TxState::Deciding };
        let mut tx = self.attempt(parts).map_err(widen)?;
        tx.inside = Some(inside);
        let decided = decide(&mut tx);
        Ok(Decided::Now(tx.conclude(decided)?, held))
    }

    /// Has the writer commit the decision, and runs the callbacks after it.
    pub fn commit<T: Answer>(
        &self,
        parts: &Parts<'_>,
        concluded: Concluded<T>,
        held: Option<Holding<'_>>,
    ) -> Result<Committed<T>, TxError> {
        let Ready { prepared, answer, callbacks } = match concluded {
            Concluded::Ready(ready) => ready,
            Concluded::ReadOnly(answer, callbacks) => {
                // Before the callbacks: others need not wait for them.
                drop(held);
                self.call_back(callbacks);
                return Ok(answer);
            }
        };
        let (began, patience) = (parts.clock().monotonic(), self.patience(parts));
        *self.running.state.lock() = TxState::Waiting;
        let served = match held {
            None => parts.door.append_within(prepared, patience),
            Some(held) => held.append(prepared, patience),
        };
        self.running.meter.lock().event.waited += parts.clock().monotonic().saturating_sub(began);
        let served = served.map_err(|error| self.not_taken(parts, error, patience))?;
        let answered = served.ok_or_else(|| self.overloaded(parts, patience))?;
        self.received(answered, answer, callbacks)
    }

    /// Returns the writer's answer in the caller's type, and runs the callbacks unless it is a replay.
    pub fn received<T: Answer>(
        &self,
        answered: Answered,
        answer: T,
        callbacks: Vec<Callback>,
    ) -> Result<Committed<T>, TxError> {
        let committed = answered?;
        if committed.replayed {
            // Another caller used the key meanwhile: its answer counts, and it ran its own callbacks.
            return self.shared.decode(committed);
        }
        self.call_back(callbacks);
        Ok(Committed { response: answer, receipt: committed.receipt, replayed: false })
    }

    /// Leases the writer for this transaction.
    fn hold<'p>(&self, parts: &'p Parts<'_>) -> Result<Holding<'p>, TxError> {
        let (began, patience) = (parts.clock().monotonic(), self.patience(parts));
        let time = Duration::from_millis(parts.options.hold_ms_max);
        let held = parts.door.hold(&self.request.label, time, patience);
        let now = parts.clock().monotonic();
        self.running.meter.lock().event.waited += now.saturating_sub(began);
        let held = held.ok_or_else(|| self.overloaded(parts, patience))?;
        self.running.meter.lock().event.holds += 1;
        let (running, clock) = (self.running.clone(), parts.shared.platform.clock.clone());
        Ok(Holding { held: Some(held), since: now, running, clock })
    }

    /// Makes a transaction on the state that is published now.
    pub fn attempt<'s>(&self, parts: &Parts<'s>) -> Result<Tx<'s>, TxError> {
        let reader = parts.current.read().clone();
        match reader.health.state() {
            State::Closed => return Err(TxError::Closed),
            State::Poisoned => return Err(TxError::Poisoned(reader.health.poisoned_by())),
            State::Well => {}
        }
        let view = parts.views.take(parts.current, &reader);
        self.running.meter.lock().begin();
        let mut reads = Reads::at(&view.head());
        // Fresh in each try: after a later commit, no commit may have an older time.
        let now = if self.tries == 0 { self.origin.now } else { parts.clock().now() };
        reads.speculation.time = now.max(view.head().time);
        Ok(Tx {
            parts: parts.clone(),
            request: self.request.clone(),
            running: self.running.clone(),
            inside: None,
            reads: RefCell::new(reads),
            view,
            reader,
            origin: self.origin.clone(),
            began: parts.clock().monotonic(),
            scratch: Delta::default(),
            events: Vec::new(),
            fault: RefCell::default(),
            callbacks: Vec::new(),
            manual: None,
            _on_one_thread: PhantomData,
        })
    }

    /// Returns the answer of an earlier commit with the same key.
    pub fn recall<T: Answer>(&self, parts: &Parts<'_>) -> Result<Option<Committed<T>>, TxError> {
        let Some(key) = &self.request.key else { return Ok(None) };
        let reader = parts.current.read().clone();
        let keyed = Keyed {
            term: reader.terms.key(key),
            key: key.clone(),
            parts: self.request.fingerprint(),
            retention: self.request.retention.unwrap_or(reader.rules.retention),
        };
        let (log, keys, published) = (&*reader.log, &reader.keys, reader.board.load());
        let now = || parts.clock().now();
        // A transaction is fingerprinted by its input, never by its events.
        let answer = idempotency::answered(log, keys, &published, &keyed, &[], reader.rules.durability, now)?;
        answer.map(|answer| self.shared.decode(answer)).transpose()
    }

    fn call_back(&self, callbacks: Vec<Callback>) {
        for callback in callbacks {
            if catch_unwind(AssertUnwindSafe(callback)).is_err() {
                self.running.meter.lock().event.callbacks_panicked += 1;
            }
        }
    }

    fn patience(&self, parts: &Parts<'_>) -> Duration {
        self.request.wait_max.unwrap_or(Duration::from_millis(parts.options.queue_wait_ms_max))
    }

    fn overloaded(&self, parts: &Parts<'_>, waited: Duration) -> TxError {
        TxError::Overloaded { waited, holder: parts.door.holder() }
    }

    pub fn not_taken(&self, parts: &Parts<'_>, error: AppendError, waited: Duration) -> TxError {
        match error.into() {
            TxError::Overloaded { .. } => self.overloaded(parts, waited),
            error => error,
        }
    }

    // ---- again ----

    /// Notes a conflict.
    pub fn told<T, E>(&self, tried: &Result<Committed<T>, TxError<E>>) {
        if let Err(TxError::Conflict(conflict)) = tried {
            self.running.meter.lock().event.conflicts.push((**conflict).clone());
        }
    }

    /// Returns whether to try once more, and counts that try.
    pub fn again<E>(&mut self, error: &TxError<E>) -> bool {
        let more = match self.request.retry {
            Retry::Never => false,
            Retry::UpTo(times) | Retry::Optimistic(times) => self.tries < times,
        };
        let again = more && matches!(error, TxError::Conflict(_) | TxError::TooOld);
        self.needs_writer |= matches!(error, TxError::Conflict(conflict) if conflict.needs_writer);
        self.tries += u32::from(again);
        again
    }

    pub fn holds_the_writer(&self) -> bool {
        let after = if self.needs_writer { 1 } else { HELD_AFTER };
        matches!(self.request.retry, Retry::UpTo(times) if self.tries > 0 && self.tries >= times.min(after))
    }

    /// Waits for a random time, longer after each conflict.
    fn pause(&self, parts: &Parts<'_>) {
        if parts.door.lockstep {
            return;
        }
        let mut random = [0; 2];
        self.shared.platform.entropy.fill(&mut random);
        let longest = 50 << self.tries.min(7);
        let wait =
            Duration::from_micros(u64::from(u16::from_le_bytes(random)) * longest / u64::from(u16::MAX));
        self.running.meter.lock().event.waited += wait;
        pause(wait);
    }

    /// Notes the outcome.
    pub fn end<T, E>(&self, ended: Result<Committed<T>, TxError<E>>) -> Result<Committed<T>, TxError<E>> {
        let mut meter = self.running.meter.lock();
        meter.event.outcome = match &ended {
            Ok(committed) if committed.replayed => Outcome::Replayed,
            Ok(_) if meter.event.outcome == Outcome::ReadOnly => Outcome::ReadOnly,
            Ok(_) => Outcome::Committed,
            Err(TxError::Refused(_)) => Outcome::Refused,
            Err(TxError::Conflict(_) | TxError::TooOld) => Outcome::Conflict,
            Err(_) => Outcome::Failed,
        };
        drop(meter);
        ended
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // A copy: the listener may list the transactions of the store.
        let event = self.running.meter.lock().event.clone();
        self.shared.stats.lock().count(&event);
        match &self.shared.on_tx {
            // A listener that panics harms nobody.
            Some(on_tx) => drop(catch_unwind(AssertUnwindSafe(|| on_tx(&event)))),
            None => {
                for finding in event.findings.iter().filter(|finding| finding.policy == Policy::Warn) {
                    let place =
                        finding.at.map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
                    let (label, rule) = (&event.label, finding.rule);
                    eprintln!(
                        "transaction `{label}`: {rule}: {}, the limit is {}{place}",
                        finding.used, finding.limit
                    );
                }
            }
        }
    }
}

/// Widens an error that has no domain, and so no refusal.
pub(crate) fn widen<E>(error: TxError) -> TxError<E> {
    error.map_refusal(|never| match never {})
}

/// A held lease of the writer, with its time counted.
pub(crate) struct Holding<'p> {
    held: Option<Held<'p>>,
    since: Duration,
    running: Arc<Running>,
    clock: Arc<dyn Clock>,
}

impl Holding<'_> {
    fn append(
        mut self,
        prepared: Box<Prepared>,
        patience: Duration,
    ) -> Result<Option<Answered>, AppendError> {
        self.held.take().expect("it is held until here").append(prepared, patience)
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        drop(self.held.take());
        self.running.meter.lock().event.held += self.clock.monotonic().saturating_sub(self.since);
    }
}

impl Tx<'_> {
    /// Concludes the decision: as nothing to commit, or as a request whose reads hold as far as this thread can see.
    pub(crate) fn conclude<T: Answer, E>(self, decided: Decision<T, E>) -> Result<Concluded<T>, TxError<E>> {
        let own = self.parts.clock().monotonic().saturating_sub(self.began);
        self.running.meter.lock().spent(own).map_err(widen)?;
        let fault = self.fault.borrow().clone();
        let answer = match (decided, fault) {
            (Ok(answer), None) => answer,
            (Err(error), None) => return Err(error),
            // The answer may rest on the failed operation.
            (Ok(_), Some(fault)) if !fault.cause().is_retryable() => return Err(TxError::Swallowed(fault)),
            (_, Some(fault)) => return Err(fault.into()),
        };
        self.ready(answer).map_err(widen)
    }

    fn ready<T: Answer>(self, answer: T) -> Result<Concluded<T>, TxError> {
        let head = self.view.head();
        if self.events.is_empty() && self.request.key.is_none() {
            self.running.meter.lock().event.outcome = Outcome::ReadOnly;
            let (commit, position, time) = (head.commit, head.position, head.time);
            let receipt = Receipt::new(commit, position.next(), position, time, self.reader.rules.durability);
            let answer = Committed { response: answer, receipt, replayed: false };
            return Ok(Concluded::ReadOnly(answer, self.callbacks));
        }
        self.check_rows()?;
        let response = self.request.key.as_ref().map(|_| self.parts.shared.encode(&answer)).transpose()?;
        let answer_bytes = response.as_ref().map_or(0, Vec::len);
        self.running.meter.lock().write(0, answer_bytes, None)?;
        let append = Append::decided(&self.request, self.events, response);
        let mut prepared = self.parts.desk(&self.reader).prepare(append)?;
        prepared.reads = self.reads.into_inner();
        prepared.reads.check(&self.reader.board.load(), &*self.reader.log)?;
        Ok(Concluded::Ready(Ready { prepared: Box::new(prepared), answer, callbacks: self.callbacks }))
    }
}
