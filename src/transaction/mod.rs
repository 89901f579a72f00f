//! Decide: reads that are remembered, writes that wait.
//!
//! - A transaction reads one snapshot, and everything it reads is a condition of its commit: strict serializability, always,
//!   with the order of commits for the serial order. One that writes nothing is never refused.
//! - Its writes stay in a scratch layer of its own until the commit. Inline projections are folded on it at once, so that rows
//!   reflect its own events; they are folded again, for good, by the writer.
//! - Rows that a tracked read saw with its own events come out the same at the commit, byte for byte, or it is a conflict. That
//!   includes values that their folds took from other rows, and a position or a time in them.
//! - Values that may differ between two tries (time, ids, randomness) are drawn once.

pub(crate) mod attempt;
pub(crate) mod inside;

pub use crate::budget::{Budget, Finding, Outcome, Policy, TxEvent, TxStats};
pub use attempt::Answer;
pub use inside::{ActiveTx, TxState, outside_tx};

use crate::commit::declaration;
use crate::commit::prepare::Desk;
use crate::commit::reads::{Read, Reads, What};
use crate::commit::speculative::{SpeculativeRead, own_rows};
use crate::error::{Fault, TxError};
use crate::event::{self, Event, EventSet, KeyRef, Raw, Sequenced};
use crate::key;
use crate::order::{Position, Timestamp};
use crate::own::Own;
use crate::projection::{At, FoldFailure, Projection, Registered, Step, key_range, row_key};
use crate::query::{self, Query, QueryItem};
use crate::request::{Committed, Request};
use crate::state::layer::{Direction, KeyRange, RowEntry, RowKey, Span};
use crate::state::overlay::Delta;
use crate::state::search::Plan;
use crate::view::{self, Events, Reader, Stale, View};
use attempt::{Parts, Work};
use inside::{Inside, Running};
use std::cell::RefCell;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Result of a decision: an answer that is stored, or a refusal that is not.
pub type Decision<T = (), E = Infallible> = Result<T, TxError<E>>;

/// Refuses on the domain's own grounds. Nothing is written, and a retry decides again.
///
/// # Errors
///
/// Always: it is one.
pub fn refuse<T, E>(why: E) -> Decision<T, E> {
    Err(TxError::Refused(why))
}

/// One decision against one snapshot. Every read is a condition of its commit.
///
/// Reads and writes fail with a [`Fault`]: this transaction is over, and it says why. Pass it on with `?`: a transaction that
/// swallows it cannot be committed. Neither `Send` nor `Sync`.
pub struct Tx<'s> {
    parts: Parts<'s>,
    request: Request,
    running: Arc<Running>,
    /// Set in the closure form, which keeps others off this thread; the manual one may interleave.
    inside: Option<Inside>,
    reader: Arc<Reader>,
    view: View,
    origin: Origin,
    began: Duration,
    reads: RefCell<Reads>,
    /// Its writes: rows as folded here, and layouts that its events declare.
    scratch: Delta,
    events: Vec<Raw>,
    fault: RefCell<Option<Fault>>,
    callbacks: Vec<Callback>,
    /// Work of the manual form, which is tried once.
    manual: Option<Work>,
    _on_one_thread: PhantomData<*const ()>,
}

/// A function that runs after the commit.
pub(crate) type Callback = Box<dyn FnOnce() + Send>;

/// Values drawn once for all tries.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    now: Timestamp,
    seed: [u8; 32],
    drawn: u64,
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tx(`{}` at {})", self.request.label, self.view.position())
    }
}

// ---- reading ----

impl Tx<'_> {
    /// Returns the row under `key`, with this transaction's own changes; `None` if there is none. The changes are a condition as
    /// well: if the row comes out otherwise when its events are folded at the commit, it is a conflict.
    ///
    /// # Errors
    ///
    /// A fault: `Unregistered`, `TooOld`, the budget, the disk.
    #[track_caller]
    pub fn row<P: Projection>(&self, key: &(impl KeyRef<P::Key> + ?Sized)) -> Result<Option<P::Row>, Fault> {
        self.operate(Location::caller(), |at| {
            let key = self.row_key::<P>(key)?;
            self.track_row(&key, view::row_words::<P>, at)?;
            Ok((self.read_row::<P>(&key)?, 1))
        })
    }

    /// Returns all rows in a range of keys, in order. The range is a condition: rows that come, go or change in it.
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    #[track_caller]
    pub fn rows<P: Projection>(
        &self,
        keys: impl RangeBounds<P::Key>,
    ) -> Result<Vec<(P::Key, P::Row)>, Fault> {
        self.scan::<P>(keys, Direction::Forward, usize::MAX, Location::caller())
    }

    /// Returns the first `limit` rows in a range of keys. Only the part seen is a condition: up to the last of them, or the whole
    /// range if there are fewer.
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    #[track_caller]
    pub fn first_rows<P: Projection>(
        &self,
        keys: impl RangeBounds<P::Key>,
        limit: usize,
    ) -> Result<Vec<(P::Key, P::Row)>, Fault> {
        self.scan::<P>(keys, Direction::Forward, limit, Location::caller())
    }

    /// Returns the last `limit` rows in a range of keys, from the last backwards. Only the part seen is a condition.
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    #[track_caller]
    pub fn last_rows<P: Projection>(
        &self,
        keys: impl RangeBounds<P::Key>,
        limit: usize,
    ) -> Result<Vec<(P::Key, P::Row)>, Fault> {
        self.scan::<P>(keys, Direction::Backward, limit, Location::caller())
    }

    /// Returns the events of one stream, oldest first, and those this transaction appended to it.
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    #[track_caller]
    pub fn stream<E: Event>(&self, id: &(impl KeyRef<E::Id> + ?Sized)) -> Result<Vec<Sequenced<E>>, Fault> {
        self.read_events(QueryItem::stream::<E>(id).into(), true, Location::caller())
    }

    /// Returns the events that match, in the query's order and up to its limit, and those this transaction appended.
    ///
    /// New matches are the condition. If its own events are among the answer, so are their positions, stream versions and time:
    /// then any commit that comes between is a conflict, and the next try has the writer held. [`peek_query`](Self::peek_query)
    /// shows them without that.
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    #[track_caller]
    pub fn query<E: EventSet>(&self, query: impl Into<Query>) -> Result<Vec<Sequenced<E>>, Fault> {
        self.read_events(query.into(), true, Location::caller())
    }

    /// Reads a row for display only: it is not a condition of the commit.
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    #[track_caller]
    pub fn peek_row<P: Projection>(
        &self,
        key: &(impl KeyRef<P::Key> + ?Sized),
    ) -> Result<Option<P::Row>, Fault> {
        self.operate(Location::caller(), |_| Ok((self.read_row::<P>(&self.row_key::<P>(key)?)?, 1)))
    }

    /// Reads events for display only: they are not a condition of the commit.
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    #[track_caller]
    pub fn peek_query<E: EventSet>(&self, query: impl Into<Query>) -> Result<Vec<Sequenced<E>>, Fault> {
        self.read_events(query.into(), false, Location::caller())
    }

    /// Reads again, as a condition, a row that was read outside.
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    #[track_caller]
    pub fn recheck<T>(&self, stale: &Stale<T>) -> Result<T, Fault> {
        self.operate(Location::caller(), |at| {
            let key: RowKey = stale.key().into();
            self.track_row(&key, stale.words(), at)?;
            let version = self.layered(|layers| layers.row(&key))?;
            Ok((stale.decode(version.as_ref())?, 1))
        })
    }

    /// Narrows the condition, on purpose: of all that was read so far, only new events that match this can change the decision.
    ///
    /// # Errors
    ///
    /// A fault if the query is invalid (an unknown event type, say), or has a limit or a range.
    #[track_caller]
    pub fn only_if_unchanged(&self, query: impl Into<Query>) -> Result<(), Fault> {
        self.operate(Location::caller(), |at| {
            let query = query.into();
            query.check().map_err(crate::error::ReadError::from)?;
            if query.limit_events().is_some() || query.range() != (Position::START, None) {
                let why = "a condition has no limit and no range".to_owned();
                return Err(TxError::Invalid { what: "query", why });
            }
            self.reads.borrow_mut().clear();
            self.track_events(query, at)?;
            Ok(((), 0))
        })
    }

    fn row_key<P: Projection>(&self, key: &(impl KeyRef<P::Key> + ?Sized)) -> Result<RowKey, TxError> {
        let id = view::id_of::<P>(&self.reader)?;
        let invalid =
            |why: crate::error::DecodeError| TxError::Invalid { what: "row key", why: why.to_string() };
        row_key(id, key).map(RowKey::from).map_err(invalid)
    }

    fn read_row<P: Projection>(&self, key: &RowKey) -> Result<Option<P::Row>, TxError> {
        let version = self.layered(|layers| layers.row(key))?;
        let row = version.as_ref().map(view::decode_row::<P>).transpose()?;
        Ok(row.map(|found| found.row))
    }

    /// Reads the snapshot with this transaction's changes on top.
    fn layered<T>(
        &self,
        read: impl FnOnce(crate::state::layer::Layers<'_>) -> Result<T, crate::error::StorageError>,
    ) -> Result<T, TxError> {
        let published = self.view.published()?;
        Ok(view::note(&self.reader, published.read(&[&self.scratch], read))?)
    }

    fn scan<P: Projection>(
        &self,
        keys: impl RangeBounds<P::Key>,
        direction: Direction,
        limit: usize,
        at: &'static Location<'static>,
    ) -> Result<Vec<(P::Key, P::Row)>, Fault> {
        self.operate(at, |at| {
            let id = view::id_of::<P>(&self.reader)?;
            let invalid =
                |why: crate::error::DecodeError| TxError::Invalid { what: "row key", why: why.to_string() };
            let range = key_range::<P>(id, keys).map_err(invalid)?;
            let found = self.layered(|layers| layers.rows(&range, direction, limit))?;
            let seen = seen(range, direction, &found, limit);
            self.speculate(id, || What::Rows(seen.clone(), P::NAME), at);
            self.track(What::Rows(seen, P::NAME), Span::EVERYTHING, at)?;
            let decode = |(key, version): &RowEntry| {
                let row = view::decode_row::<P>(version)?.row;
                let decoded = key::decode(&key[4..]);
                let position = version.position;
                let key = decoded.map_err(|cause| crate::error::ReadError::Decode { position, cause })?;
                Ok::<_, crate::error::ReadError>((key, row))
            };
            let rows = found.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
            let read = rows.len();
            Ok((rows, read))
        })
    }

    fn read_events<E: EventSet>(
        &self,
        query: Query,
        tracked: bool,
        at: &'static Location<'static>,
    ) -> Result<Vec<Sequenced<E>>, Fault> {
        self.operate(at, |at| {
            let head = self.view.head();
            let limit = query.limit_events().unwrap_or(usize::MAX);
            let stored = Events::<E>::new(self.parts.current.clone(), head, query.clone());
            let mut found: Vec<Sequenced<E>> = stored.collect::<Result<_, _>>()?;
            // Events before the snapshot never change: if they fill the limit, no later event can change the answer.
            let filled = found.len() >= limit && !query.is_backwards();
            let past = query.range().1.is_some_and(|up_to| up_to <= head.position);
            let (mut own, any_own) = self.own_events::<E>(&query)?;
            let backwards = query.is_backwards();
            if tracked && !filled && !past {
                if any_own {
                    self.speculate_on_events(&query, at);
                }
                self.track_events(query, at)?;
            }
            match backwards {
                true => {
                    own.reverse();
                    own.append(&mut found);
                    found = own;
                }
                false => found.append(&mut own),
            }
            found.truncate(limit);
            let read = found.len();
            Ok((found, read))
        })
    }

    /// Returns the matching events that this transaction appended, and whether any matches, in the query's range or not.
    fn own_events<E: EventSet>(&self, query: &Query) -> Result<(Vec<Sequenced<E>>, bool), TxError> {
        let families: Vec<_> = E::families().iter().map(event::Family::name).collect();
        let (after, up_to) = query.range();
        let (mut found, mut any) = (Vec::new(), false);
        for (index, raw) in self.events.iter().enumerate() {
            let position = self.own_position(index);
            let wanted = families.is_empty() || families.contains(&raw.family());
            let borrowed = raw.borrowed();
            if !wanted || !query::matches(query, raw.type_name(), raw.stream(), borrowed.tags()) {
                continue;
            }
            any = true;
            if position <= after || up_to.is_some_and(|up_to| position > up_to) {
                continue;
            }
            let cause = |cause| crate::error::ReadError::Decode { position, cause };
            let event = E::decode(&borrowed).map_err(cause)?;
            let stream = self.reader.terms.stream(raw.stream());
            let before = self.view.published()?.read(&[], |layers| layers.stream_version(stream))?;
            let earlier =
                self.events[..=index].iter().filter(|earlier| earlier.stream() == raw.stream()).count();
            let stream_version = before + earlier as u64;
            let recorded_at = self.reads.borrow().speculation.time.into();
            found.push(Sequenced { event, position, stream_version, recorded_at });
        }
        Ok((found, any))
    }

    /// Returns the position of an event of its own, if no commit comes between.
    fn own_position(&self, index: usize) -> Position {
        Position(self.view.position().0 + 1 + index as u64)
    }

    // ---- tracking ----

    fn track_row(
        &self,
        key: &RowKey,
        words: fn(&[u8]) -> String,
        at: &'static Location<'static>,
    ) -> Result<(), TxError> {
        let table = *key.first_chunk().expect("a row key begins with its table");
        self.speculate(table, || What::Row(key.clone(), words), at);
        let known = |read: &Read| matches!(&read.what, What::Row(other, _) if other == key);
        // A row is often read again after an event of one's own; the last read is where it stands then.
        if self.reads.borrow().all.iter().rev().take(8).any(known) {
            return Ok(());
        }
        self.track(What::Row(key.clone(), words), Span::EVERYTHING, at)
    }

    /// Notes the rows of a read that the transaction's own events changed, if any was folded into that table.
    fn speculate(&self, table: [u8; 4], what: impl FnOnce() -> What, at: &'static Location<'static>) {
        let folds = |projection: &Registered| {
            projection.id == table && self.events.iter().any(|raw| projection.wants(raw.family()))
        };
        if self.events.is_empty() || !self.reader.rules.projections.all.iter().any(folds) {
            return;
        }
        let (what, folded) = (what(), self.events.len());
        let reads = &mut self.reads.borrow_mut().speculation.reads;
        let known = |read: &SpeculativeRead| match (&read.what, &what) {
            (What::Row(one, _), What::Row(other, _)) => one == other && read.folded == folded,
            _ => false,
        };
        if !reads.iter().rev().take(8).any(known) {
            let own = own_rows(&what, &self.scratch);
            reads.push(SpeculativeRead { what, own, folded, at });
        }
    }

    /// Notes that a query returned own events, with guessed positions and a guessed time.
    fn speculate_on_events(&self, query: &Query, at: &'static Location<'static>) {
        let what = What::Events(Plan::new(query, &self.reader.terms), Some(query.clone()));
        let read = SpeculativeRead { what, own: Vec::new(), folded: self.events.len(), at };
        self.reads.borrow_mut().speculation.reads.push(read);
    }

    fn track_events(&self, query: Query, at: &'static Location<'static>) -> Result<(), TxError> {
        let plan = Plan::new(&query, &self.reader.terms);
        let (after, up_to) = query.range();
        let within = Span { after, through: up_to.unwrap_or(Span::EVERYTHING.through) };
        self.track(What::Events(plan, Some(query)), within, at)
    }

    fn track(&self, what: What, within: Span, at: &'static Location<'static>) -> Result<(), TxError> {
        self.running.meter.lock().read(at)?;
        self.reads.borrow_mut().all.push(Read { what, at: Some(at), within });
        Ok(())
    }
}

/// Returns the part of the range that was really looked at.
fn seen(mut range: KeyRange, direction: Direction, found: &[RowEntry], limit: usize) -> KeyRange {
    if let Some((last, _)) = found.last().filter(|_| found.len() >= limit) {
        match direction {
            Direction::Forward => range.upper = Bound::Included(last.to_vec()),
            Direction::Backward => range.lower = Bound::Included(last.to_vec()),
        }
    }
    range
}

// ---- writing ----

impl Tx<'_> {
    /// Appends an event when the transaction commits. Inline rows reflect it at once.
    ///
    /// # Errors
    ///
    /// A fault: `Unregistered`, `TooLarge`, `Invalid`; `Fold`, if an inline projection refuses it.
    #[track_caller]
    pub fn append(&mut self, event: impl EventSet) -> Result<(), Fault> {
        let raw = event.encode().map_err(|why| TxError::Invalid { what: "event", why: why.to_string() });
        self.write(raw, Location::caller())
    }

    /// Appends a raw event, as tools write it.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    #[track_caller]
    pub fn append_raw(&mut self, event: Raw) -> Result<(), Fault> {
        self.write(Ok(event), Location::caller())
    }

    fn write(&mut self, raw: Result<Raw, TxError>, at: &'static Location<'static>) -> Result<(), Fault> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let written = self.operate(at, |at| {
            let mut raw = raw?;
            self.reader.rules.families.settle(&mut raw);
            let desk =
                Desk { rules: &self.reader.rules, options: self.parts.options, terms: &self.reader.terms };
            let bytes = desk.check_event(&raw)?;
            self.running.meter.lock().write(1, bytes, Some(at))?;
            self.fold(&raw, &mut scratch)?;
            Ok((raw, 0))
        });
        self.scratch = scratch;
        self.events.push(written?);
        Ok(())
    }

    /// Folds an event of one's own on top of the snapshot.
    fn fold(&self, raw: &Raw, scratch: &mut Delta) -> Result<(), TxError> {
        let (index, published) = (self.events.len(), self.view.published()?);
        let at = At {
            commit: published.head.commit.next(),
            position: self.own_position(index),
            time: self.reads.borrow().speculation.time,
        };
        let rules = &*self.reader.rules;
        if !rules.guards.is_empty() {
            let (known, codec) = ([&scratch.layouts[..], &[]], Some(raw.codec()));
            let new = declaration(rules, &published, known, raw.type_name(), raw.schema(), codec);
            scratch.layouts.extend(new);
        }
        let limits = rules.limits;
        let mut step = Step { at, limits, published: &published, group: &Delta::default(), scratch };
        rules.projections.fold(&raw.borrowed(), &mut step).map_err(|failure| match failure {
            FoldFailure::Refused { projection, why } => TxError::Fold { projection, index, why },
            FoldFailure::Storage(error) => TxError::Storage(error),
        })?;
        Ok(rules.guards.fold(&rules.projections.stalls, &raw.borrowed(), index, &mut step)?)
    }

    /// Checks the invariants on the rows as this transaction would leave them.
    fn check_rows(&self) -> Result<(), TxError> {
        let (rules, published) = (&*self.reader.rules, self.view.published()?);
        let (stalls, first, group) = (&rules.projections.stalls, self.own_position(0), Delta::default());
        Ok(rules.guards.check_rows(stalls, first, &published, &group, &self.scratch)?)
    }

    /// Has `callback` run after the commit, on this thread, in this process only: not if the process dies before. A panic in it
    /// is counted in the [`TxEvent`] and changes nothing.
    pub fn after_commit(&mut self, callback: impl FnOnce() + Send + 'static) {
        self.callbacks.push(Box::new(callback));
    }

    /// Takes a flag. The first transaction that asks for it, and commits, gets `true`; all others `false`, for ever.
    ///
    /// It is an event in the stream `tallystone/FLAG`.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    #[track_caller]
    pub fn once(&mut self, flag: &str) -> Result<bool, Fault> {
        let at = Location::caller();
        let query = Query::from(QueryItem::stream::<Own>(flag));
        let takes = |raw: &Raw| query::matches(&query, raw.type_name(), raw.stream(), raw.borrowed().tags());
        // Its own event is no read: the position of that event does not matter here.
        if self.events.iter().any(takes) {
            return self.operate(at, |_| Ok((false, 1)));
        }
        let taken: Vec<Sequenced<Own>> = self.read_events(query, true, at)?;
        // Checks and sources have streams of their own in the family, which a flag may be called like.
        if taken.iter().any(|own| matches!(own.event, Own::Once { .. })) {
            return Ok(false);
        }
        let raw = Own::Once { flag: flag.to_owned() }.encode();
        self.write(raw.map_err(|why| TxError::Invalid { what: "flag", why: why.to_string() }), at)?;
        Ok(true)
    }
}

// ---- the same in every try ----

impl Tx<'_> {
    /// Returns the time of the transaction's first try. The commit's own time may be later.
    pub fn now(&self) -> SystemTime {
        self.origin.now.into()
    }

    /// Draws a new id: random, and the same in every try.
    pub fn new_id(&mut self) -> u128 {
        u128::from_le_bytes(self.draw())
    }

    /// Draws a random number, the same in every try.
    pub fn random(&mut self) -> u64 {
        u64::from_le_bytes(self.draw())
    }

    fn draw<const N: usize>(&mut self) -> [u8; N] {
        let mut drawn = [0; N];
        let mut hasher = blake3::Hasher::new_keyed(&self.origin.seed);
        hasher.update(&self.origin.drawn.to_le_bytes()).finalize_xof().fill(&mut drawn);
        self.origin.drawn += 1;
        drawn
    }

    /// Returns the position of the snapshot. It is no condition: other commits may come between.
    pub fn position(&self) -> Position {
        self.view.position()
    }

    /// Returns the snapshot itself, to read without tracking: for display.
    pub fn peek(&self) -> &View {
        &self.view
    }
}

// ---- the manual form ----

/// Begins a transaction that its caller commits.
pub(crate) fn begin<'s>(
    parts: Parts<'s>,
    request: Request,
    at: &'static Location<'static>,
) -> Result<Tx<'s>, TxError> {
    let work = Work::begin(&parts, request, at)?;
    let mut tx = work.attempt(&parts)?;
    tx.manual = Some(work);
    Ok(tx)
}

impl Tx<'_> {
    /// Commits, and waits until it is durable. For the manual form, [`Store::begin`](crate::Store::begin): a closure has no
    /// transaction to give away. Dropping one commits nothing.
    ///
    /// # Errors
    ///
    /// As [`Store::transact`](crate::Store::transact), once: nothing is tried again.
    pub fn commit<T: Answer>(mut self, response: T) -> Result<Committed<T>, TxError> {
        let work = self.manual.take().expect("only the manual form is owned by its caller");
        let parts = self.parts.clone();
        let concluded = self.conclude(Ok(response));
        let committed = concluded.and_then(|concluded| work.commit(&parts, concluded, None));
        work.told(&committed);
        work.end(committed)
    }
}

// ---- one operation ----

impl Tx<'_> {
    /// Runs one operation within the budget. `work` returns its result and the number of rows or events that it took.
    fn operate<T>(
        &self,
        at: &'static Location<'static>,
        work: impl FnOnce(&'static Location<'static>) -> Result<(T, usize), TxError>,
    ) -> Result<T, Fault> {
        if let Some(fault) = &*self.fault.borrow() {
            return Err(fault.clone());
        }
        let began = self.parts.clock().monotonic();
        let own = began.saturating_sub(self.began);
        let charged = self.running.meter.lock().operation(own, at);
        let done = charged.and_then(|()| work(at)).and_then(|(found, rows)| {
            let took = self.parts.clock().monotonic().saturating_sub(began);
            self.running.meter.lock().done(took, rows, at)?;
            Ok(found)
        });
        done.map_err(|cause| {
            let fault = Fault::new(cause);
            self.fault.borrow_mut().get_or_insert(fault).clone()
        })
    }
}
