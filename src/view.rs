//! A consistent read of everything at one position.
//!
//! - Bounded by the head it was taken at, never by what the files hold: nothing un-synced is visible.
//! - Events never change, so they stay readable; rows do, so a view that stands in the way of reclaiming them expires.
//! - Long reads go page by page and hold nothing in between.

use crate::behind::{Behind, Standing};
use crate::codec;
use crate::commit::Rules;
use crate::disk::Clock;
use crate::error::{DecodeError, Missing, ReadError, StorageError, TroubleKind};
use crate::event::{Codec, Event, EventSet, Family, Raw, RawRef, Sequenced};
use crate::key::{self, KeyRef};
use crate::layout::Layout;
use crate::log::record::Record;
use crate::log::{Head, Log, Page, Seek};
use crate::order::{CommitNo, Position};
use crate::projection::{Projection, Stall, key_range, row_key};
use crate::query::{self, Query, QueryItem};
use crate::request::RequestKey;
use crate::state::keys::KeyIndex;
use crate::state::layer::{Direction, KeyRange, Layers, RowEntry, RowVersion, Span};
use crate::state::search::Plan;
use crate::state::term::Terms;
use crate::state::{Board, Published};
use crate::sync::{Mutex, RwLock};
use crate::value::Value;
use crate::writer::queue::{Health, State};
use std::collections::VecDeque;
use std::collections::vec_deque;
use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeBounds;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Parts that reading needs. Replaced as a whole by `recover`.
#[derive(Debug)]
pub(crate) struct Reader {
    pub rules: Arc<Rules>,
    pub terms: Terms,
    pub log: Arc<dyn Log>,
    pub keys: Arc<KeyIndex>,
    pub board: Arc<Board>,
    pub health: Arc<Health>,
    pub behind: Vec<Arc<Behind>>,
    pub page_bytes: usize,
}

/// Snapshot that one view sees.
#[derive(Debug)]
struct ViewSnapshot {
    published: Arc<Published>,
    /// In the reader's order.
    behind: Vec<Arc<Standing>>,
}

impl Reader {
    /// Everything as it is now.
    fn look(&self) -> ViewSnapshot {
        // First: what is behind is never ahead of the position that the view is at.
        let behind = self.behind.iter().map(|behind| behind.standing()).collect();
        ViewSnapshot { published: self.board.load(), behind }
    }

    /// Damage found in `state.redb`: by a read that reported it, or by its blocks, whoever read them.
    pub fn damage(&self) -> Option<StorageError> {
        self.health.damage().or_else(|| self.board.load().base.damage())
    }
}

/// The reader of the moment: views outlive a `recover`.
pub(crate) type Current = Arc<RwLock<Arc<Reader>>>;

/// All views that still hold something.
#[derive(Debug)]
pub(crate) struct Views {
    slots: Mutex<Vec<Weak<ViewSlot>>>,
    clock: Arc<dyn Clock>,
    age_max: Duration,
}

#[derive(Debug)]
struct ViewSlot {
    seen: RwLock<Option<ViewSnapshot>>,
    taken_at: Duration,
}

impl Views {
    pub fn new(clock: Arc<dyn Clock>, age_max: Duration) -> Self {
        Self { slots: Mutex::default(), clock, age_max }
    }

    pub fn take(&self, current: &Current, reader: &Reader) -> View {
        let seen = reader.look();
        let head = seen.published.head;
        let taken_at = self.clock.monotonic();
        let slot = Arc::new(ViewSlot { seen: RwLock::new(Some(seen)), taken_at });
        let mut slots = self.slots.lock();
        // Amortised: the list never holds more than twice the views there are.
        if slots.len() == slots.capacity() {
            slots.retain(|slot| slot.strong_count() > 0);
        }
        slots.push(Arc::downgrade(&slot));
        View { current: current.clone(), slot, head, age_max: self.age_max }
    }

    /// Lets go of views older than they may be: before each flush, so that redb can use their pages again.
    pub fn expire(&self) {
        let now = self.clock.monotonic();
        let mut slots = self.slots.lock();
        slots.retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            let old = now.saturating_sub(slot.taken_at) > self.age_max;
            if old {
                drop(slot.seen.write().take());
            }
            !old
        });
    }

    /// Lets go of all of them: the file below is about to be closed.
    pub fn let_go(&self) {
        let held = std::mem::take(&mut *self.slots.lock());
        held.iter().filter_map(Weak::upgrade).for_each(|slot| drop(slot.seen.write().take()));
    }

    /// Views that hold something, for `stats`.
    pub fn len(&self) -> usize {
        self.slots.lock().iter().filter(|slot| slot.strong_count() > 0).count()
    }
}

/// A consistent read of everything at one position. Cheap to take and to clone; take a new one to see what came since.
///
/// Readers never block the writer. Rows stay readable for `Options::view_age_ms_max` at least, events for ever.
#[derive(Clone)]
pub struct View {
    current: Current,
    slot: Arc<ViewSlot>,
    head: Head,
    age_max: Duration,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View(at {})", self.head.position)
    }
}

/// A row with the position of the event that last changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowAt<R> {
    /// The row.
    pub row: R,
    /// The event that last changed it.
    pub changed_at: Position,
}

impl View {
    /// The position of the last event it sees.
    pub fn position(&self) -> Position {
        self.head.position
    }

    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// The last commit it sees.
    pub fn commit(&self) -> CommitNo {
        self.head.commit
    }

    /// The row under `key`, if there is one.
    ///
    /// # Errors
    ///
    /// `Unregistered` if the setup lacks the projection; `Stalled` or `Rebuilding` if it has no rows to show; `ViewExpired`:
    /// take a new view.
    pub fn row<P: Projection>(
        &self,
        key: &(impl KeyRef<P::Key> + ?Sized),
    ) -> Result<Option<P::Row>, ReadError> {
        Ok(self.row_at::<P>(key)?.map(|found| found.row))
    }

    /// The row under `key`, with the position of the event that last changed it.
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    pub fn row_at<P: Projection>(
        &self,
        key: &(impl KeyRef<P::Key> + ?Sized),
    ) -> Result<Option<RowAt<P::Row>>, ReadError> {
        let reader = self.reader();
        let table = TableRef::of::<P>(&reader)?;
        let key = row_key(table.id, key).map_err(|error| invalid("row key", error))?;
        let version = self.read_rows(&reader, table, |layers| layers.row(&key))?;
        version.map(|version| decode_row::<P>(&version)).transpose()
    }

    /// The row under `key`, marked as read outside a transaction: inside one it must be
    /// [rechecked](crate::transaction::Tx::recheck).
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    pub fn stale<P: Projection>(
        &self,
        key: &(impl KeyRef<P::Key> + ?Sized),
    ) -> Result<Stale<Option<P::Row>>, ReadError> {
        let row = row_key(id_of::<P>(&self.reader())?, key).map_err(|error| invalid("row key", error))?;
        let decode: Decode<Option<P::Row>> =
            |version| Ok(version.map(decode_row::<P>).transpose()?.map(|found| found.row));
        let value = self.row::<P>(key)?;
        Ok(Stale { value, position: self.position(), key: row, words: row_words::<P>, decode })
    }

    /// Rows in a range of keys, in order; `..` for all. Reversible, page by page.
    ///
    /// # Errors
    ///
    /// Each item is a result; after an error there is no further one.
    pub fn rows<P: Projection>(&self, keys: impl RangeBounds<P::Key>) -> RowScan<P> {
        self.scan(keys, Direction::Forward)
    }

    /// The same from the last key to the first.
    pub fn rows_backwards<P: Projection>(&self, keys: impl RangeBounds<P::Key>) -> RowScan<P> {
        self.scan(keys, Direction::Backward)
    }

    fn scan<P: Projection>(&self, keys: impl RangeBounds<P::Key>, direction: Direction) -> RowScan<P> {
        let rest = TableRef::of::<P>(&self.reader()).and_then(|table| {
            let range = key_range::<P>(table.id, keys).map_err(|error| invalid("row key", error))?;
            Ok((table, range))
        });
        let (rest, failed) = match rest {
            Ok(rest) => (Some(rest), None),
            Err(error) => (None, Some(error)),
        };
        RowScan {
            view: self.clone(),
            rest,
            direction,
            page: Vec::new().into_iter(),
            failed,
            projection: PhantomData,
        }
    }

    /// The events of one stream, oldest first.
    pub fn stream<E: Event>(&self, id: &(impl KeyRef<E::Id> + ?Sized)) -> Events<E> {
        self.query(QueryItem::stream::<E>(id))
    }

    /// The events that match, in the query's order and up to its limit. `query::<Raw>(Query::all())` reads everything.
    ///
    /// Events of families that `E` does not have are passed over.
    ///
    /// # Errors
    ///
    /// Each item is a result; after an error there is no further one. `BeyondHead` if it asks for events after a position that
    /// this view does not reach: a reader that kept the position would miss what comes before it.
    pub fn query<E: EventSet>(&self, query: impl Into<Query>) -> Events<E> {
        Events::new(self.current.clone(), self.head, query.into())
    }

    /// The version of a stream: the number of its events.
    ///
    /// # Errors
    ///
    /// `ViewExpired`: take a new view.
    pub fn stream_version<E: Event>(&self, id: &(impl KeyRef<E::Id> + ?Sized)) -> Result<u64, ReadError> {
        let id = key::text(id).map_err(|error| invalid("stream", error))?;
        let reader = self.reader();
        let stream = reader.terms.stream(&format!("{}/{id}", E::FAMILY));
        note(&reader, self.published()?.read(&[], |layers| layers.stream_version(stream)))
    }

    /// The stored answer of a keyed request, undecoded; `None` if no commit used the key, or if it is not kept any more: then a
    /// view from before says so too.
    ///
    /// # Errors
    ///
    /// `Storage` if its commit cannot be read.
    pub fn answer(&self, scope: &str, key: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let reader = self.reader();
        let key = RequestKey { scope: scope.to_owned(), key: key.to_owned() };
        let Some(commit) = reader.keys.get(reader.terms.key(&key), self.head.commit) else { return Ok(None) };
        let page = reader.log.read(Seek::Commit(commit), commit, 0).map_err(StorageError::from)?;
        let record = page.records().next().transpose().map_err(StorageError::from)?;
        let now = reader.board.load().moment();
        let kept = |record: &Record<'_>| record.key().is_some_and(|key| !key.kept.is_over(now));
        Ok(record
            .filter(kept)
            .map(|record| record.response().map_or_else(Vec::new, |response| response.bytes.to_vec())))
    }

    /// The payload of an event by field name, without its Rust type: through the layout that the log keeps, or as JSON.
    ///
    /// # Errors
    ///
    /// `Decode` if the payload does not fit its layout, if the log has none, or if it is JSON and the feature `json` is off.
    pub fn value(&self, event: &Sequenced<Raw>) -> Result<Value, ReadError> {
        let raw = &event.event;
        let value = match raw.codec() {
            Codec::Json => Value::of_json(raw.data()),
            Codec::Bincode => match self.layout(raw.type_name(), raw.schema()) {
                Some(layout) => layout.read(raw.data()),
                None => Err(DecodeError::new("the log has no layout of it")),
            },
        };
        value.map_err(|cause| ReadError::Decode { position: event.position, cause })
    }

    /// The layout of an event type, as the log declared it with the first event of the type.
    pub fn layout(&self, type_name: &str, schema: u16) -> Option<Layout> {
        let published = self.reader().board.load();
        Layout::parse(published.layouts.get(type_name)?.get(&schema)?).ok()
    }

    fn reader(&self) -> Arc<Reader> {
        self.current.read().clone()
    }

    /// Returns the snapshot that it reads, unless that was let go.
    pub(crate) fn published(&self) -> Result<Arc<Published>, ReadError> {
        self.seen(|seen| Ok(seen.published.clone()))
    }

    fn seen<T>(&self, look: impl FnOnce(&ViewSnapshot) -> Result<T, ReadError>) -> Result<T, ReadError> {
        look(self.slot.seen.read().as_ref().ok_or_else(|| self.expired())?)
    }

    /// The position up to which the rows of `P` are folded: the view's own for an inline projection, that or an earlier one
    /// for one behind the writer.
    ///
    /// # Errors
    ///
    /// As [`row`](Self::row).
    pub fn folded_through<P: Projection>(&self) -> Result<Position, ReadError> {
        let reader = self.reader();
        let table = TableRef::of::<P>(&reader)?;
        Ok(self.rows_of(&reader, table)?.head.position)
    }

    /// The rows below a table, as this view sees them.
    fn rows_of(&self, reader: &Reader, table: TableRef) -> Result<Arc<Published>, ReadError> {
        match table.behind {
            None => self.published(),
            Some(index) => self.seen(|seen| reader.behind[index].rows(&seen.behind[index]).cloned()),
        }
    }

    fn read_rows<T>(
        &self,
        reader: &Reader,
        table: TableRef,
        read: impl FnOnce(Layers<'_>) -> Result<T, StorageError>,
    ) -> Result<T, ReadError> {
        let rows = self.rows_of(reader, table)?;
        let read = rows.read(&[], read);
        match table.behind {
            None => note(reader, read),
            // What stands in its file is its own trouble.
            Some(index) => read.map_err(|error| match error.is_closed() {
                // Another file has taken the place of the one this view looks at.
                true => self.expired(),
                false => {
                    reader.behind[index].note_read(&rows, &error);
                    ReadError::Storage(error)
                }
            }),
        }
    }

    fn expired(&self) -> ReadError {
        // Closing lets go of all views: a new one is no remedy then.
        if self.reader().health.state() == State::Closed {
            return ReadError::Closed;
        }
        ReadError::ViewExpired { limit_ms: self.age_max.as_millis() as u64 }
    }
}

/// Place of the rows of a projection.
#[derive(Clone, Copy)]
struct TableRef {
    id: [u8; 4],
    /// Index among the projections behind the writer; `None` if it is inline.
    behind: Option<usize>,
}

impl TableRef {
    fn of<P: Projection>(reader: &Reader) -> Result<Self, ReadError> {
        let projections = &reader.rules.projections;
        if let Some(registered) = projections.get::<P>() {
            return match projections.stalls.get(&registered.id) {
                None => Ok(Self { id: registered.id, behind: None }),
                Some(Stall { position, why }) => {
                    Err(ReadError::Stalled { projection: P::NAME, position: *position, why: why.clone() })
                }
            };
        }
        match reader.behind.iter().position(|behind| behind.is::<P>()) {
            Some(index) => Ok(Self { id: reader.behind[index].projection.id, behind: Some(index) }),
            None => Err(unregistered::<P>()),
        }
    }
}

/// The id of the rows of `P`, if a decision may rest on them.
pub(crate) fn id_of<P: Projection>(reader: &Reader) -> Result<[u8; 4], ReadError> {
    let table = TableRef::of::<P>(reader)?;
    match table.behind {
        None => Ok(table.id),
        Some(_) => {
            let why = format!("`{}` is behind the writer: no decision may rest on it", P::NAME);
            Err(ReadError::Invalid { what: "projection", why })
        }
    }
}

/// The setup lacks `P`.
pub(crate) fn unregistered<P: Projection>() -> ReadError {
    let add = "add `.inline::<..>()` or `.behind::<..>()` to the setup";
    ReadError::Unregistered(Missing::new(format!("projection `{}`", P::NAME), add))
}

fn invalid(what: &'static str, why: impl fmt::Display) -> ReadError {
    ReadError::Invalid { what, why: why.to_string() }
}

/// Remembers damage of derived state on the way out.
pub(crate) fn note<T>(reader: &Reader, read: Result<T, StorageError>) -> Result<T, ReadError> {
    read.map_err(|error| {
        reader.health.note_read(&error);
        ReadError::Storage(error)
    })
}

fn misled(reader: &Reader) -> ReadError {
    let error =
        StorageError::new(TroubleKind::State, "an index in state.redb leads to an event it does not mean");
    reader.health.note_read(&error);
    ReadError::Storage(error)
}

pub(crate) fn decode_row<P: Projection>(version: &RowVersion) -> Result<RowAt<P::Row>, ReadError> {
    let value = version.value.as_deref().expect("a layer's answer holds a row");
    let row =
        codec::decode(value).map_err(|cause| ReadError::Decode { position: version.position, cause })?;
    Ok(RowAt { row, changed_at: version.position })
}

/// Returns the words for a row.
pub(crate) fn row_words<P: Projection>(key: &[u8]) -> String {
    match key::decode::<P::Key>(&key[4..]).and_then(|key| key::text(&key)) {
        Ok(text) => format!("row {text} of `{}`", P::NAME),
        Err(_) => format!("a row of `{}`", P::NAME),
    }
}

/// A value that was read outside a transaction, and is perhaps no longer true. [`show`](Self::show) is for display;
/// [`Tx::recheck`](crate::transaction::Tx::recheck) reads it again, as a condition.
///
/// It is no `T`, so that it cannot slip into a decision:
///
/// ```compile_fail,E0308
/// # use tallystone::view::Stale;
/// fn decide(balance: u64) {}
/// fn handler(stale: Stale<u64>) {
///     decide(stale);
/// }
/// ```
pub struct Stale<T> {
    value: T,
    position: Position,
    key: Vec<u8>,
    words: fn(&[u8]) -> String,
    decode: Decode<T>,
}

type Decode<T> = fn(Option<&RowVersion>) -> Result<T, ReadError>;

impl<T> Stale<T> {
    /// As it was. For display.
    pub fn show(&self) -> &T {
        &self.value
    }

    /// Returns the position at which it was read.
    pub fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn words(&self) -> fn(&[u8]) -> String {
        self.words
    }

    pub(crate) fn decode(&self, version: Option<&RowVersion>) -> Result<T, ReadError> {
        (self.decode)(version)
    }
}

impl<T> fmt::Debug for Stale<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stale(at {})", self.position)
    }
}

/// Rows, page by page.
pub struct RowScan<P> {
    view: View,
    /// Rows that were not asked for yet.
    rest: Option<(TableRef, KeyRange)>,
    direction: Direction,
    page: std::vec::IntoIter<RowEntry>,
    failed: Option<ReadError>,
    projection: PhantomData<fn() -> P>,
}

/// Rows read at once.
const ROWS_PER_PAGE: usize = 256;

impl<P: Projection> RowScan<P> {
    /// Each row with the position of the event that last changed it.
    pub fn with_positions(mut self) -> impl Iterator<Item = Result<(P::Key, RowAt<P::Row>), ReadError>> {
        std::iter::from_fn(move || self.next_row())
    }

    fn next_row(&mut self) -> Option<Result<(P::Key, RowAt<P::Row>), ReadError>> {
        let next = self.next_entry().transpose()?.and_then(|(key, version)| {
            let row = decode_row::<P>(&version)?;
            let key = key::decode(&key[4..])
                .map_err(|cause| ReadError::Decode { position: version.position, cause })?;
            Ok((key, row))
        });
        if next.is_err() {
            (self.rest, self.page) = (None, Vec::new().into_iter());
        }
        Some(next)
    }

    fn next_entry(&mut self) -> Result<Option<RowEntry>, ReadError> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        if let Some(entry) = self.page.next() {
            return Ok(Some(entry));
        }
        let Some((table, mut range)) = self.rest.take() else { return Ok(None) };
        let read = |layers: Layers<'_>| layers.rows(&range, self.direction, ROWS_PER_PAGE);
        let page = self.view.read_rows(&self.view.reader(), table, read)?;
        if page.len() == ROWS_PER_PAGE {
            range.continue_past(&page[ROWS_PER_PAGE - 1].0, self.direction);
            self.rest = Some((table, range));
        }
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}

impl<P: Projection> Iterator for RowScan<P> {
    type Item = Result<(P::Key, P::Row), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_row()?.map(|(key, found)| (key, found.row)))
    }
}

/// Events, page by page. Holds nothing of the store between pages.
pub struct Events<E> {
    current: Current,
    head: Head,
    plan: Option<Plan>,
    query: Query,
    direction: Direction,
    /// Events that were not asked for yet.
    rest: Span,
    /// Maximum number of events still to give.
    room: usize,
    /// Number of events to look for at once; grows while the caller keeps asking.
    batch: usize,
    page: vec_deque::IntoIter<Sequenced<E>>,
    /// Names of the families of `E`; none stands for all.
    families: Vec<&'static str>,
    failed: Option<ReadError>,
}

impl<E: EventSet> Events<E> {
    pub(crate) fn new(current: Current, head: Head, query: Query) -> Self {
        let reader = current.read().clone();
        let families = E::families();
        let others = || families.iter().try_for_each(|family| reader.rules.families.compare_type(family));
        let failed = query.check().err().map(ReadError::from);
        let failed = failed.or_else(|| others().err().map(ReadError::Unregistered));
        let plan = failed.is_none().then(|| Plan::new(&query, &reader.terms));
        let direction = if query.is_backwards() { Direction::Backward } else { Direction::Forward };
        let (after, up_to) = query.range();
        let beyond = after > head.position;
        let failed =
            failed.or(beyond.then_some(ReadError::BeyondHead { position: after, head: head.position }));
        let through = up_to.map_or(head.position, |up_to| up_to.min(head.position));
        Self {
            current,
            head,
            plan,
            direction,
            rest: Span { after, through },
            room: query.limit_events().unwrap_or(usize::MAX),
            query,
            batch: 16,
            page: VecDeque::new().into_iter(),
            failed,
            families: families.iter().map(Family::name).collect(),
        }
    }

    pub(crate) fn next_event(&mut self) -> Result<Option<Sequenced<E>>, ReadError> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        loop {
            if self.room == 0 {
                return Ok(None);
            }
            if let Some(event) = self.page.next() {
                self.room -= 1;
                return Ok(Some(event));
            }
            if self.rest.is_empty() || self.plan.is_none() {
                return Ok(None);
            }
            let rest = self.rest;
            // What could not be read is still to be read.
            self.page = self.next_page().inspect_err(|_| self.rest = rest)?.into_iter();
        }
    }

    /// The reader of the moment.
    pub(crate) fn reader(&self) -> Arc<Reader> {
        self.current.read().clone()
    }

    /// Sees what was committed up to `head`, too.
    pub(crate) fn reach(&mut self, head: Head) {
        self.head = head;
        self.rest.through = head.position;
    }

    /// Fails with `why` instead of giving anything.
    pub(crate) fn refuse(&mut self, why: ReadError) {
        self.failed.get_or_insert(why);
    }

    /// The next event, if it was read already.
    pub(crate) fn buffered(&mut self) -> Option<Sequenced<E>> {
        self.page.next()
    }

    fn next_page(&mut self) -> Result<VecDeque<Sequenced<E>>, ReadError> {
        let reader = self.current.read().clone();
        let plan = self.plan.as_ref().expect("checked by the caller");
        if plan.is_everything() && self.direction == Direction::Forward && self.room > 64 {
            return self.next_log_page(&reader);
        }
        let batch = self.batch.min(self.room);
        self.batch = (self.batch * 4).min(1024);
        let published = reader.board.load();
        let mut positions = note(
            &reader,
            published.read(&[], |layers| plan.positions(layers, self.rest, self.direction, batch)),
        )?;
        match (positions.last(), positions.len() == batch, self.direction) {
            (Some(last), true, Direction::Forward) => self.rest.after = *last,
            (Some(last), true, Direction::Backward) => self.rest.through = Position(last.0 - 1),
            _ => self.rest.after = self.rest.through,
        }
        positions.sort_unstable();
        let mut events = self.fetch(&reader, &positions)?;
        if self.direction == Direction::Backward {
            events.make_contiguous().reverse();
        }
        Ok(events)
    }

    /// The event, unless its family is none of `E`'s.
    fn decode(&self, position: Position, at: PageEvent<'_>) -> Result<Option<Sequenced<E>>, ReadError> {
        if !self.families.is_empty() && !self.families.contains(&at.raw.family()) {
            return Ok(None);
        }
        let event = E::decode(&at.raw).map_err(|cause| ReadError::Decode { position, cause })?;
        let recorded_at = at.recorded_at.into();
        Ok(Some(Sequenced { event, position, stream_version: at.stream_version, recorded_at }))
    }

    /// Everything that comes next in the log.
    fn next_log_page(&mut self, reader: &Reader) -> Result<VecDeque<Sequenced<E>>, ReadError> {
        let seek = Seek::Event(self.rest.after.next());
        let page = reader.log.read(seek, self.head.commit, reader.page_bytes).map_err(StorageError::from)?;
        let rest = self.rest;
        let mut events = VecDeque::new();
        let last = each_event(&page, |event, at| {
            if event > rest.after && event <= rest.through {
                events.extend(self.decode(event, at)?);
            }
            Ok(())
        })?;
        // A page begins with the record of the event it was asked for; without one there is nothing more.
        self.rest.after = last.unwrap_or(self.rest.through);
        Ok(events)
    }

    /// The events at these positions, which rise.
    fn fetch(&self, reader: &Reader, positions: &[Position]) -> Result<VecDeque<Sequenced<E>>, ReadError> {
        let mut events = VecDeque::with_capacity(positions.len());
        let mut left = positions;
        while let (Some(first), Some(last)) = (left.first(), left.last()) {
            // Neighbours are read together, strays one by one.
            let dense = last.0 - first.0 < 4 * left.len() as u64;
            let bytes = if dense { reader.page_bytes.min(256 * left.len()) } else { 0 };
            let page =
                reader.log.read(Seek::Event(*first), self.head.commit, bytes).map_err(StorageError::from)?;
            let before = left.len();
            each_event(&page, |position, at| {
                if left.first() == Some(&position) {
                    left = &left[1..];
                    // An index that leads to an event the query does not mean is damaged.
                    if !query::matches(&self.query, at.raw.type_name(), at.raw.stream(), at.raw.tags()) {
                        return Err(misled(reader));
                    }
                    events.extend(self.decode(position, at)?);
                }
                Ok(())
            })?;
            if left.len() == before {
                return Err(StorageError::from(crate::log::missing(*first)).into());
            }
        }
        Ok(events)
    }
}

/// An event of the page, with what the record says of it.
struct PageEvent<'a> {
    raw: RawRef<'a>,
    stream_version: u64,
    recorded_at: crate::order::Timestamp,
}

/// Calls `each` with every event of the page; the last event's position.
fn each_event(
    page: &Page,
    mut each: impl FnMut(Position, PageEvent<'_>) -> Result<(), ReadError>,
) -> Result<Option<Position>, ReadError> {
    let mut last = None;
    for record in page.records() {
        let record = record.map_err(StorageError::from)?;
        for event in record.events() {
            last = Some(event.position);
            let (stream_version, recorded_at) = (event.stream_version, record.time());
            let position = event.position;
            let raw = event.raw().map_err(|cause| ReadError::Decode { position, cause })?;
            each(position, PageEvent { raw, stream_version, recorded_at })?;
        }
    }
    Ok(last)
}

impl<E: EventSet> Iterator for Events<E> {
    type Item = Result<Sequenced<E>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_event();
        if next.is_err() {
            self.rest.after = self.rest.through;
            self.page = VecDeque::new().into_iter();
        }
        next.transpose()
    }
}
