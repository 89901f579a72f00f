//! Typed rows folded from events.
//!
//! - A fold is a function of the event and the rows, nothing else: folding the log again gives the same rows.
//! - Its writes go to a scratch layer. If it refuses, fails or panics, the layer is dropped whole.
//! - What it changed is digested into the commit record, so that a refold with other code is noticed.

use crate::codec;
use crate::error::{DecodeError, FoldError, LayoutError, StorageError};
use crate::event::{EventSet, Family, RawRef};
use crate::key::{self, Key, KeyRef};
use crate::layout::{self, Layout, Samples};
use crate::log::record::Fold;
use crate::misfit::panic_text;
use crate::order::{CommitNo, Position, Timestamp};
use crate::reentry::{self, Inside};
use crate::state::Published;
use crate::state::layer::{Direction, KeyRange, Layers, RowEntry, RowVersion};
use crate::state::overlay::{Delta, InlineSet};
use crate::state::tables::Divergence;
use crate::sync::RwLock;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::{TypeId, type_name};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

/// Result of a fold.
pub type Folded = Result<(), FoldError>;

/// One table, its key, its row, and the fold that fills it. A type, not a value: a fold has no state to hide.
///
/// Change `fold`, `Key` or `Row`, and raise `VERSION`: rows of another version are folded again from the log.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a projection",
    label = "a projection is a type with `impl Projection`",
    note = "an empty struct will do: `impl Projection for {Self}` with `NAME`, `Event`, `Key`, `Row` and `fold`"
)]
pub trait Projection: Sized + Send + Sync + 'static {
    /// Its name, unique in the store.
    const NAME: &'static str;
    /// Its version. Another version means other rows.
    const VERSION: u32 = 1;
    /// Events that it folds: of one family, or of several with [`any_of!`](crate::any_of).
    type Event: EventSet;
    /// The key of its rows: any serde value with an order.
    type Key: Key;
    /// Its rows. One value, one byte string: maps are written in the order of their keys, a row with a `HashSet` is refused when
    /// it is found out.
    type Row: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// Keys and rows that hold values which their types take, where they take only some, as
    /// [`Event::samples`](crate::event::Event::samples) says.
    fn samples() -> Vec<(Self::Key, Self::Row)> {
        Vec::new()
    }

    /// Changes rows as the event says.
    ///
    /// # Errors
    ///
    /// An inline projection that returns an error refuses the append; nothing of it is written.
    fn fold(event: &Self::Event, rows: &mut Rows<'_, Self>) -> Folded;
}

/// The rows of a projection while it folds one event.
pub struct Rows<'a, P> {
    table: &'a mut dyn Table,
    rewrites: &'a Rewrites,
    projection: PhantomData<P>,
}

impl<'a, P: Projection> Rows<'a, P> {
    /// Returns the rows of a table, while it folds an event.
    pub(crate) fn on(table: &'a mut dyn Table, rewrites: &'a Rewrites) -> Self {
        Self { table, rewrites, projection: PhantomData }
    }

    /// The row, if there is one.
    pub fn get(&self, key: &(impl KeyRef<P::Key> + ?Sized)) -> Result<Option<P::Row>, FoldError> {
        let key = row_key_within(self.table, key)?;
        self.table.get(&key)?.map(|version| decode_row::<P>(&version)).transpose()
    }

    /// Writes the row.
    pub fn put(&mut self, key: P::Key, row: P::Row) -> Folded {
        let key = row_key_within(self.table, &key)?;
        self.put_encoded(key, &row)
    }

    fn put_encoded(&mut self, key: Vec<u8>, row: &P::Row) -> Folded {
        let value = codec::encode(row).map_err(|error| FoldError::refuse(format!("row: {error}")))?;
        let limit = self.table.limits().row_bytes;
        if value.len() > limit {
            return Err(FoldError::refuse(format!("row has {} bytes, the limit is {limit}", value.len())));
        }
        self.rewrites.check::<P>(&value)?;
        self.table.put(key, Some(Arc::from(value)));
        Ok(())
    }

    /// Removes the row, if there is one.
    pub fn remove(&mut self, key: &(impl KeyRef<P::Key> + ?Sized)) -> Folded {
        let key = row_key_within(self.table, key)?;
        if self.table.get(&key)?.is_some() {
            self.table.put(key, None);
        }
        Ok(())
    }

    /// Changes the row, starting from the default if there is none.
    pub fn update(&mut self, key: P::Key, change: impl FnOnce(&mut P::Row)) -> Folded
    where
        P::Row: Default,
    {
        let key = row_key_within(self.table, &key)?;
        let version = self.table.get(&key)?;
        let mut row = version.map(|version| decode_row::<P>(&version)).transpose()?.unwrap_or_default();
        change(&mut row);
        self.put_encoded(key, &row)
    }

    /// Changes the row if there is one.
    pub fn modify(
        &mut self,
        key: &(impl KeyRef<P::Key> + ?Sized),
        change: impl FnOnce(&mut P::Row),
    ) -> Folded {
        let key = row_key_within(self.table, key)?;
        if let Some(version) = self.table.get(&key)? {
            let mut row = decode_row::<P>(&version)?;
            change(&mut row);
            self.put_encoded(key, &row)?;
        }
        Ok(())
    }

    /// The rows in a range of keys, in order. All of them: keep ranges short inside a fold.
    pub fn range(&self, keys: impl RangeBounds<P::Key>) -> Result<Vec<(P::Key, P::Row)>, FoldError> {
        let range =
            key_range::<P>(self.table.id(), keys).map_err(|error| FoldError::refuse(error.to_string()))?;
        let found = self.table.scan(&range)?;
        found.iter().map(|(key, version)| Ok((decode_key::<P>(key)?, decode_row::<P>(version)?))).collect()
    }

    /// The first row in a range of keys.
    pub(crate) fn first_in(
        &self,
        keys: impl RangeBounds<P::Key>,
    ) -> Result<Option<(P::Key, P::Row)>, FoldError> {
        let range =
            key_range::<P>(self.table.id(), keys).map_err(|error| FoldError::refuse(error.to_string()))?;
        let found = self.table.first(&range)?;
        found.map(|(key, version)| Ok((decode_key::<P>(&key)?, decode_row::<P>(&version)?))).transpose()
    }

    /// The position of the event being folded.
    pub fn position(&self) -> Position {
        self.table.at().position
    }

    /// Returns the time of the commit that holds the event. The same on every refold.
    pub fn recorded_at(&self) -> SystemTime {
        self.table.at().time.into()
    }
}

/// Finds rows that are written otherwise each time, such as those with a `HashSet`: nobody could tell them from damaged ones.
///
/// The first rows are read and written again, and then each that is larger than any before it, so that it costs next to nothing.
#[derive(Debug, Default)]
pub(crate) struct Rewrites {
    largest: AtomicUsize,
    checked: AtomicUsize,
}

/// Number of rows that are checked, whatever their size.
const ROWS_CHECKED: usize = 32;
/// Number of times that each of these is written. A set of two has the same order twice in half of all cases.
const TIMES_WRITTEN: usize = 16;

impl Rewrites {
    #[inline]
    fn check<P: Projection>(&self, row: &[u8]) -> Folded {
        let is_due = self.checked.load(Relaxed) < ROWS_CHECKED || self.largest.load(Relaxed) < row.len();
        if is_due { self.rewrite::<P>(row) } else { Ok(()) }
    }

    #[cold]
    fn rewrite<P: Projection>(&self, row: &[u8]) -> Folded {
        // A row that grows with each event is written once more, not often.
        let is_early = self.checked.fetch_add(1, Relaxed) < ROWS_CHECKED;
        let mut is_same = true;
        for _ in 0..if is_early { TIMES_WRITTEN } else { 1 } {
            let again = codec::decode::<P::Row>(row).and_then(|row| codec::encode(&row));
            is_same &= again.map_err(|error| FoldError::refuse(format!("row: {error}")))? == row;
        }
        if !is_same {
            let row = type_name::<P::Row>();
            return Err(FoldError::refuse(format!(
                "a row `{row}` is other bytes each time it is written, so that a rebuild would differ: use a `BTreeSet` \
                 instead of a `HashSet`, and draw neither time nor chance while it is written"
            )));
        }
        self.largest.fetch_max(row.len(), Relaxed);
        Ok(())
    }
}

fn decode_row<P: Projection>(version: &RowVersion) -> Result<P::Row, FoldError> {
    let value = version.value.as_deref().expect("a layer's answer holds a row");
    codec::decode(value).map_err(|error| FoldError::refuse(format!("row: {error}")))
}

fn decode_key<P: Projection>(key: &[u8]) -> Result<P::Key, FoldError> {
    key::decode(&key[4..]).map_err(|error| FoldError::refuse(format!("row key: {error}")))
}

/// The full key of a row: the projection's id, then the ordered bytes of the key.
pub(crate) fn row_key<K>(id: [u8; 4], key: &(impl KeyRef<K> + ?Sized)) -> Result<Vec<u8>, DecodeError> {
    let mut out = id.to_vec();
    key::encode(key, &mut out)?;
    Ok(out)
}

/// The full keys of a range of rows.
pub(crate) fn key_range<P: Projection>(
    id: [u8; 4],
    keys: impl RangeBounds<P::Key>,
) -> Result<KeyRange, DecodeError> {
    let all = crate::state::tables::table_range(id);
    let bound = |bound: Bound<&P::Key>, open: Bound<Vec<u8>>| {
        Ok(match bound {
            Bound::Included(key) => Bound::Included(row_key(id, key)?),
            Bound::Excluded(key) => Bound::Excluded(row_key(id, key)?),
            Bound::Unbounded => open,
        })
    };
    Ok(KeyRange { lower: bound(keys.start_bound(), all.lower)?, upper: bound(keys.end_bound(), all.upper)? })
}

// ---- folding, as the commit and the rebuild drive it ----

/// Commit, position and time of the event that is folded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    pub commit: CommitNo,
    pub position: Position,
    pub time: Timestamp,
}

/// Limits on the size of rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub row_key_bytes: usize,
    pub row_bytes: usize,
}

/// One projection's table during a fold: what is written is read back.
pub(crate) trait Table {
    fn id(&self) -> [u8; 4];
    fn at(&self) -> At;
    fn limits(&self) -> Limits;
    fn get(&self, key: &[u8]) -> Result<Option<RowVersion>, FoldError>;
    fn scan(&self, range: &KeyRange) -> Result<Vec<RowEntry>, FoldError>;
    /// The first row of the range.
    fn first(&self, range: &KeyRange) -> Result<Option<RowEntry>, FoldError> {
        Ok(self.scan(range)?.into_iter().next())
    }
    fn put(&mut self, key: Vec<u8>, value: Option<Arc<[u8]>>);
}

fn row_key_within<K>(table: &dyn Table, key: &(impl KeyRef<K> + ?Sized)) -> Result<Vec<u8>, FoldError> {
    let key = row_key(table.id(), key).map_err(|error| FoldError::refuse(format!("row key: {error}")))?;
    let (size, limit) = (key.len() - 4, table.limits().row_key_bytes);
    if size > limit {
        return Err(FoldError::refuse(format!("row key has {size} bytes, the limit is {limit}")));
    }
    Ok(key)
}

/// A table over the layers: it writes to `scratch`.
struct LayeredTable<'a> {
    id: [u8; 4],
    at: At,
    limits: Limits,
    published: &'a Published,
    group: &'a Delta,
    scratch: &'a mut Delta,
    /// Trouble of the store while the fold read. Not the fold's fault, whatever it makes of it.
    trouble: RefCell<Option<StorageError>>,
}

impl LayeredTable<'_> {
    fn read<T>(&self, read: impl FnOnce(Layers<'_>) -> Result<T, StorageError>) -> Result<T, FoldError> {
        self.published.read(&[&*self.scratch, self.group], read).map_err(|error| {
            let why = FoldError::refuse(error.to_string());
            self.trouble.borrow_mut().get_or_insert(error);
            why
        })
    }
}

impl Table for LayeredTable<'_> {
    fn id(&self) -> [u8; 4] {
        self.id
    }

    fn at(&self) -> At {
        self.at
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn get(&self, key: &[u8]) -> Result<Option<RowVersion>, FoldError> {
        self.read(|layers| layers.row(key))
    }

    fn scan(&self, range: &KeyRange) -> Result<Vec<RowEntry>, FoldError> {
        self.read(|layers| layers.rows(range, Direction::Forward, usize::MAX))
    }

    fn first(&self, range: &KeyRange) -> Result<Option<RowEntry>, FoldError> {
        Ok(self.read(|layers| layers.rows(range, Direction::Forward, 1))?.pop())
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Arc<[u8]>>) {
        let version = RowVersion { commit: self.at.commit, position: self.at.position, value };
        self.scratch.put_row(key.into(), version);
    }
}

/// A projection, its types erased to functions.
#[derive(Clone)]
pub(crate) struct Registered {
    pub name: &'static str,
    pub version: u32,
    pub families: Vec<Family>,
    /// Names its rows in `state.redb` and its digests in the log: name, version and layouts all change it.
    pub id: [u8; 4],
    pub type_id: TypeId,
    /// Faults of its key or row type.
    pub faults: Vec<String>,
    pub code: Code,
    /// Layout of its rows, to read them by field name. `None` for rows that a rule keeps.
    pub row: Option<Arc<Layout>>,
    /// Events that it passes over; `None` for an inline projection, which passes over none.
    pub skipped: Option<Arc<RwLock<Skipped>>>,
    pub key_text: fn(&[u8]) -> Result<String, DecodeError>,
}

/// Reasons for events that are passed over, by position.
pub(crate) type Skipped = BTreeMap<u64, String>;

/// Code that makes its rows.
#[derive(Clone)]
pub(crate) enum Code {
    Folds(FoldFn),
    Kept(Arc<dyn Keeper>),
}

/// Keeps rows that no type says, for a rule of its own. In a commit it folds them itself; whoever folds history calls it as any
/// other fold. It never refuses there.
pub(crate) trait Keeper: Send + Sync {
    fn name(&self) -> String;

    /// Returns whether it folds events of this family.
    fn wants(&self, family: &str) -> bool;

    fn fold(&self, raw: &RawRef<'_>, step: &mut Step<'_>) -> Result<(), StorageError>;
}

/// A fold of one event, its types erased.
pub(crate) type FoldFn = Arc<dyn Fn(&RawRef<'_>, &mut dyn Table) -> Folded + Send + Sync>;

thread_local! {
    /// Traced projections by type: tracing takes most of an open.
    static TRACED: RefCell<HashMap<TypeId, TracedProjection>> = RefCell::default();
}

/// Findings about a projection's key and row.
#[derive(Clone)]
struct TracedProjection {
    id: [u8; 4],
    row: Option<Arc<Layout>>,
    faults: Vec<String>,
}

impl TracedProjection {
    /// Traces it once on each thread: a Rust type stays what it is.
    fn of<P: Projection>() -> Self {
        if let Some(traced) = TRACED.with_borrow(|all| all.get(&TypeId::of::<P>()).cloned()) {
            return traced;
        }
        // No borrow is held here: this runs the code of the key and the row.
        let traced = Self::trace::<P>();
        TRACED.with_borrow_mut(|all| all.insert(TypeId::of::<P>(), traced.clone()));
        traced
    }

    fn trace<P: Projection>() -> Self {
        let mut faults = Vec::new();
        let mut layout = |what, layout: Result<Layout, LayoutError>| match layout {
            Ok(layout) => layout.to_string(),
            Err(error) => {
                faults.push(format!("projection `{}`: {what}: {error}", P::NAME));
                String::new()
            }
        };
        let given = Samples::of(&P::samples());
        let of_row = Layout::with_samples::<P::Row>(&given);
        let key = layout("key", Layout::with_samples::<P::Key>(&given));
        let row = layout("row", of_row.clone());
        if let Err(error) = layout::check_key::<P::Key>(&given) {
            faults.push(format!("projection `{}`: key: {error}", P::NAME));
        }
        let mut hasher = blake3::Hasher::new();
        for part in [P::NAME, &P::VERSION.to_string(), &key, &row] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let mut id = [0; 4];
        hasher.finalize_xof().fill(&mut id);
        Self { id, row: of_row.ok().map(Arc::new), faults }
    }
}

impl Registered {
    pub fn of<P: Projection>() -> Self {
        let TracedProjection { id, row, faults } = TracedProjection::of::<P>();
        let rewrites = Rewrites::default();
        Self {
            name: P::NAME,
            version: P::VERSION,
            families: P::Event::families(),
            id,
            type_id: TypeId::of::<P>(),
            faults,
            code: Code::Folds(Arc::new(move |raw, table| {
                let event = P::Event::decode(raw).map_err(|error| FoldError::refuse(error.to_string()))?;
                P::fold(&event, &mut Rows::on(table, &rewrites))
            })),
            row,
            skipped: None,
            key_text: |key| key::text(&key::decode::<P::Key>(key)?),
        }
    }

    /// Rows that rules keep.
    pub fn kept(id: [u8; 4], keeper: Arc<dyn Keeper>) -> Self {
        let (families, faults, type_id) = (Vec::new(), Vec::new(), TypeId::of::<dyn Keeper>());
        let (code, row, key_text) = (Code::Kept(keeper), None, hex as fn(&[u8]) -> _);
        let (name, version, skipped) = ("kept", 1, None);
        Self { name, version, families, id, type_id, faults, code, row, skipped, key_text }
    }

    /// Its name for people.
    pub fn title(&self) -> String {
        match &self.code {
            Code::Folds(_) => self.name.to_owned(),
            Code::Kept(keeper) => keeper.name(),
        }
    }

    /// Returns whether it folds events of this family.
    pub fn wants(&self, family: &str) -> bool {
        match &self.code {
            Code::Folds(_) => {
                self.families.is_empty() || self.families.iter().any(|wanted| wanted.name() == family)
            }
            Code::Kept(keeper) => keeper.wants(family),
        }
    }
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.title(), self.version)
    }
}

/// A key of which nobody knows more.
pub(crate) fn hex(key: &[u8]) -> Result<String, DecodeError> {
    Ok(key.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reason why a commit could not be folded.
#[derive(Debug)]
pub(crate) enum FoldFailure {
    /// The projection's doing.
    Refused { projection: &'static str, why: String },
    /// The store's.
    Storage(StorageError),
}

/// All inline projections of a store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Projections {
    pub all: Vec<Registered>,
    by_family: HashMap<String, Vec<usize>>,
    ids: InlineSet,
    /// Stalls of projections that a rebuild could not fold, by id.
    pub stalls: BTreeMap<[u8; 4], Stall>,
    /// Divergences of projections whose rows are not what the log says of them, by id.
    pub divergences: BTreeMap<[u8; 4], Divergence>,
}

/// Position at which a projection stopped, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stall {
    pub position: Position,
    pub why: String,
}

impl Projections {
    pub fn new(all: Vec<Registered>) -> Self {
        let mut by_family: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, projection) in all.iter().enumerate() {
            for family in &projection.families {
                by_family.entry(family.name().to_owned()).or_default().push(index);
            }
        }
        let ids: BTreeSet<u32> = all.iter().map(|projection| u32::from_be_bytes(projection.id)).collect();
        let (stalls, divergences) = (BTreeMap::new(), BTreeMap::new());
        Self { all, by_family, ids: ids.into_iter().collect(), stalls, divergences }
    }

    /// The registered form of `P`.
    pub fn get<P: Projection>(&self) -> Option<&Registered> {
        self.all.iter().find(|projection| projection.type_id == TypeId::of::<P>())
    }

    /// The ids of all of them, rising, as the log declares them.
    pub fn ids(&self) -> &InlineSet {
        &self.ids
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Folds one event into `scratch`, in the order of registration. Rows that rules keep are theirs to fold.
    pub fn fold(&self, raw: &RawRef<'_>, step: &mut Step<'_>) -> Result<(), FoldFailure> {
        let listed = self.by_family.get(raw.family()).map_or(&[][..], Vec::as_slice);
        for (index, projection) in self.all.iter().enumerate() {
            let is_kept = matches!(projection.code, Code::Kept(_));
            if is_kept || (!listed.contains(&index) && !projection.families.is_empty()) {
                continue;
            }
            if let Some(stall) = self.stalls.get(&projection.id) {
                let why = format!("it is stalled at position {}: {}", stall.position, stall.why);
                return Err(FoldFailure::Refused { projection: projection.name, why });
            }
            projection.fold(raw, step)?;
        }
        Ok(())
    }
}

/// State that the folds of one event work on.
pub(crate) struct Step<'a> {
    pub at: At,
    pub limits: Limits,
    pub published: &'a Published,
    pub group: &'a Delta,
    pub scratch: &'a mut Delta,
}

/// A table that notes which rows a fold looks at.
struct ReadTrackingTable<'a> {
    table: LayeredTable<'a>,
    looked_at: RefCell<&'a mut Vec<KeyRange>>,
}

impl Table for ReadTrackingTable<'_> {
    fn id(&self) -> [u8; 4] {
        self.table.id()
    }

    fn at(&self) -> At {
        self.table.at()
    }

    fn limits(&self) -> Limits {
        self.table.limits()
    }

    fn get(&self, key: &[u8]) -> Result<Option<RowVersion>, FoldError> {
        self.looked_at.borrow_mut().push(KeyRange::of(key));
        self.table.get(key)
    }

    fn scan(&self, range: &KeyRange) -> Result<Vec<RowEntry>, FoldError> {
        self.looked_at.borrow_mut().push(range.clone());
        self.table.scan(range)
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Arc<[u8]>>) {
        self.table.put(key, value);
    }
}

impl Registered {
    /// Returns whether it passes over the event there.
    pub fn skips(&self, position: Position) -> bool {
        self.skipped.as_ref().is_some_and(|skipped| skipped.read().contains_key(&position.0))
    }

    fn table<'a>(&self, step: &'a mut Step<'_>) -> LayeredTable<'a> {
        LayeredTable {
            id: self.id,
            at: step.at,
            limits: step.limits,
            published: step.published,
            group: step.group,
            scratch: step.scratch,
            trouble: RefCell::new(None),
        }
    }

    /// Folds one event that it has folded before, and adds to `looked_at` the rows that the fold reads.
    pub fn fold_noting(
        &self,
        raw: &RawRef<'_>,
        step: &mut Step<'_>,
        looked_at: &mut Vec<KeyRange>,
    ) -> Result<(), StorageError> {
        let mut noting = ReadTrackingTable { table: self.table(step), looked_at: RefCell::new(looked_at) };
        // A refusal was heard when it was folded for the commit.
        let _ = self.fold_on(raw, &mut noting);
        noting.table.trouble.into_inner().map_or(Ok(()), Err)
    }

    /// Folds one event. A panic is the fold's refusal, and stays in here.
    pub fn fold(&self, raw: &RawRef<'_>, step: &mut Step<'_>) -> Result<(), FoldFailure> {
        if self.skips(step.at.position) {
            return Ok(());
        }
        if let Code::Kept(keeper) = &self.code {
            return keeper.fold(raw, step).map_err(FoldFailure::Storage);
        }
        let mut table = self.table(step);
        let folded = self.fold_on(raw, &mut table);
        if let Some(trouble) = table.trouble.into_inner() {
            return Err(FoldFailure::Storage(trouble));
        }
        folded.map_err(|why| FoldFailure::Refused { projection: self.name, why })
    }

    /// Folds one event on a table of the caller's. An error says why it refuses, or with what it panicked.
    pub fn fold_on(&self, raw: &RawRef<'_>, table: &mut dyn Table) -> Result<(), String> {
        let Code::Folds(fold) = &self.code else { return Err("its rows are kept by a rule".into()) };
        let _inside = reentry::enter(Inside::Fold(self.name));
        match catch_unwind(AssertUnwindSafe(|| fold(raw, table))) {
            Ok(folded) => folded.map_err(|error| error.why),
            Err(panic) => Err(format!("panicked: {}", panic_text(&*panic))),
        }
    }
}

/// Digests of what one commit changed, for each projection whose rows it changed.
pub(crate) fn digests(scratch: &Delta) -> Vec<Fold> {
    let mut folds: Vec<Fold> = Vec::new();
    let mut hasher = blake3::Hasher::new();
    let mut rows = scratch.rows.iter().peekable();
    while let Some((key, version)) = rows.next() {
        let value = version.value.as_deref();
        hasher.update(&(key.len() as u64).to_le_bytes()).update(key);
        hasher.update(&value.map_or(u64::MAX, |value| value.len() as u64).to_le_bytes());
        hasher.update(value.unwrap_or_default());
        let id: [u8; 4] = *key.first_chunk().expect("a row key begins with its projection");
        if rows.peek().is_none_or(|(next, _)| !next.starts_with(&id)) {
            let mut digest = [0; 8];
            hasher.finalize_xof().fill(&mut digest);
            hasher.reset();
            folds.push(Fold { projection: u32::from_be_bytes(id), digest: u64::from_be_bytes(digest) });
        }
    }
    folds
}
