//! Rows of one projection compared with what today's code makes of the log: folds that were wrong, and folds that are never the same.
//!
//! - What is expected is folded from the first commit, beside what is served and up to the same head.
//! - Both sides are hashed by ranges of keys; only rows of ranges that differ are compared one by one.
//! - Each commit is folded twice on the same rows, which must give the same changes.
//! - Where rows differ, the log is folded once more, to see from where on.
//! - Memory: a key and 100 bytes for each `RANGE` rows, and for each of the first `TRACED` rows that differ.

use crate::behind::Behind;
use crate::codec;
use crate::error::{ReadError, StorageError};
use crate::key;
use crate::log::Head;
use crate::log::record::Record;
use crate::order::Position;
use crate::projection::{self, Projection, Registered, Stall};
use crate::recovery::{self, Again, Declared, Look, Recovery, Scratch, Shadow, stop};
use crate::setup::Task;
use crate::state::Published;
use crate::state::layer::{KeyRange, RowEntry, RowKey, RowVersion};
use crate::state::overlay::Delta;
use crate::state::tables::{Base, table_range};
use crate::verify::{Scan, is_past_the_end, past_the_end};
use crate::view::{Reader, unregistered};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// Rows of what is served in one range.
const RANGE: u64 = 1024;
/// Rows of which it is looked for where they began to differ.
const TRACED: usize = 1000;

/// The rows of a projection with keys `K`, as they are served and as today's code folds them.
///
/// Two rows are equal if their bytes are, and the event that changed them last.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audit<K, R> {
    /// Up to where both sides are folded.
    pub position: Position,
    /// Rows that are served.
    pub served_len: u64,
    /// Rows that folding the log makes.
    pub folded_len: u64,
    /// Names the rows that are served: equal rows, equal hash, in any store with this log.
    pub hash: [u8; 32],
    /// Ranges of keys whose hashes were compared.
    pub ranges_len: u64,
    /// Ranges that differ, by key.
    pub ranges: Vec<Range<K>>,
    /// Rows that were compared one by one: those of the ranges that differ.
    pub compared_len: u64,
    /// Rows that differ.
    pub differing_len: u64,
    /// The first of them, by key.
    pub first: Option<Differing<K, R>>,
    /// The first event that today's code folds otherwise than the code did that folded it.
    ///
    /// For rows folded in the commit it is read off the log, which has a digest of what each commit changed: it is the first event
    /// of the first commit that differs, whether the rows that are served come from there or were folded again since. For rows
    /// folded behind the writer it is read off those that differ, the first 1,000 of them, which know only what changed them
    /// last: so it may have been an earlier event of these rows.
    ///
    /// In commits of a version that did not declare the inline projections, one without a digest counts as one that changed
    /// nothing, if there are earlier digests and rows differ.
    pub diverged_at: Option<Position>,
    /// The first event that changed rows in two ways when it was folded twice on the same rows: a fold that asks for more than its
    /// event and its rows, such as a clock, a random number, or the order of a hash map. No rebuild of it can be relied on.
    pub unstable_at: Option<Position>,
}

impl<K, R> Audit<K, R> {
    /// Returns whether the rows served are those that today's code folds, every time, and those that it folded when the events
    /// were committed.
    pub fn is_clean(&self) -> bool {
        self.ranges.is_empty() && self.diverged_at.is_none() && self.unstable_at.is_none()
    }
}

/// Keys whose rows differ somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Range<K> {
    /// Keys behind this one; none: from the first.
    pub after: Option<K>,
    /// Keys up to this one; none: to the last.
    pub through: Option<K>,
    /// Rows that are served.
    pub served_len: u64,
    /// Rows that folding the log makes.
    pub folded_len: u64,
}

/// A row that is served otherwise than it is folded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Differing<K, R> {
    /// Its key.
    pub key: K,
    /// As it is served, and the event that changed it last. `None`: it is not there.
    pub served: Option<(R, Position)>,
    /// The same, as today's code folds it.
    pub folded: Option<(R, Position)>,
}

type AuditOf<P> = Audit<<P as Projection>::Key, <P as Projection>::Row>;

pub(crate) fn run<P: Projection>(
    reader: &Reader,
    recovery: &Recovery<'_>,
    mut scratch: Scratch<'_>,
) -> Result<AuditOf<P>, ReadError> {
    let served = Served::of::<P>(reader)?;
    let mut witness = ReplayChecker::new(served.projection.id);
    let fold = Refold { recovery, projection: served.projection, end: served.rows.head };
    let folded =
        fold.run(&mut scratch, &mut |record, changes, again| witness.look(record, changes, again))?;

    let mut audit = Audit {
        position: served.rows.head.position,
        served_len: 0,
        folded_len: 0,
        hash: [0; 32],
        ranges_len: 0,
        ranges: Vec::new(),
        compared_len: 0,
        differing_len: 0,
        first: None,
        diverged_at: witness.otherwise,
        unstable_at: witness.unstable,
    };
    let differing = served.note(compare::<P>(&served, &folded, &mut audit))?;
    if !differing.is_empty() {
        drop(folded);
        scratch.clear();
        let mut trace = Trace::of(&differing);
        fold.run(&mut scratch, &mut |_, changes, _| {
            trace.look(changes);
            Ok(())
        })?;
        // The log knows better than rows, once it has a digest.
        let by_rows = trace.first().filter(|at| witness.recorded.is_none_or(|from| *at < from));
        audit.diverged_at = [witness.otherwise, witness.unrecorded, by_rows].into_iter().flatten().min();
    }
    Ok(audit)
}

// ---- what is served ----

struct Served<'a> {
    reader: &'a Reader,
    projection: &'a Registered,
    /// `None`: it is folded in the commit.
    behind: Option<&'a Behind>,
    rows: Arc<Published>,
}

impl<'a> Served<'a> {
    fn of<P: Projection>(reader: &'a Reader) -> Result<Self, ReadError> {
        let projections = &reader.rules.projections;
        if let Some(projection) = projections.get::<P>() {
            return match projections.stalls.get(&projection.id) {
                None => Ok(Self { reader, projection, behind: None, rows: reader.board.load() }),
                Some(stall) => Err(stalled(projection, stall)),
            };
        }
        let behind = reader.behind.iter().find(|behind| behind.is::<P>()).ok_or_else(unregistered::<P>)?;
        let rows = behind.rows(&behind.standing())?.clone();
        Ok(Self { reader, projection: &behind.projection, behind: Some(behind), rows })
    }

    /// Damage that was met is rebuilt, as if a view had met it.
    fn note<T>(&self, read: Result<T, ReadError>) -> Result<T, ReadError> {
        if let Err(ReadError::Storage(error)) = &read {
            match self.behind {
                None => self.reader.health.note_read(error),
                Some(behind) => behind.note_read(&self.rows, error),
            }
        }
        read
    }
}

fn stalled(projection: &Registered, Stall { position, why }: &Stall) -> ReadError {
    ReadError::Stalled { projection: projection.name, position: *position, why: why.clone() }
}

// ---- what is folded ----

/// One projection, from the first commit up to a head.
struct Refold<'a> {
    recovery: &'a Recovery<'a>,
    projection: &'a Registered,
    end: Head,
}

impl Refold<'_> {
    /// The rows. They are in `scratch`, if they are many.
    fn run(&self, scratch: &mut Scratch<'_>, look: &mut Look<'_>) -> Result<Published, ReadError> {
        let log = self.recovery.log;
        let mut stalls = BTreeMap::new();
        let rows = Published::on(Arc::new(Base::Empty), Head::empty(log.store()), Arc::default());
        let mut shadow = Shadow::new(self.recovery, Task::Verify, vec![self.projection], rows, &mut stalls);
        let walked = log.check(&mut |page, head| {
            // Committed since, or not folded yet.
            if head.commit > self.end.commit || !shadow.stalls.is_empty() {
                return Err(past_the_end());
            }
            shadow.follow_and(page, head, look)?;
            shadow.spill(scratch, head).map_err(stop)
        });
        let rows = shadow.rows;
        match (walked, stalls.get(&self.projection.id)) {
            (_, Some(stall)) => Err(stalled(self.projection, stall)),
            (Err(error), None) if !is_past_the_end(&error) => Err(recovery::trouble(error).into()),
            _ => Ok(rows),
        }
    }
}

/// Compares what commits change with what is on record of it, and with what they change the next time.
struct ReplayChecker {
    id: [u8; 4],
    declared: Declared,
    /// The first commit with a digest of this projection: from here on, the log says what changed.
    recorded: Option<Position>,
    /// The first commit that changed rows otherwise, by its digest.
    otherwise: Option<Position>,
    /// The first one without a digest that changes rows now.
    unrecorded: Option<Position>,
    unstable: Option<Position>,
}

impl ReplayChecker {
    fn new(id: [u8; 4]) -> Self {
        let declared = Declared::default();
        Self { id, declared, recorded: None, otherwise: None, unrecorded: None, unstable: None }
    }

    fn look(
        &mut self,
        record: &Record<'_>,
        changes: &Delta,
        again: &mut Again<'_>,
    ) -> Result<(), StorageError> {
        let id = u32::from_be_bytes(self.id);
        let now = projection::digests(changes).into_iter().find(|fold| fold.projection == id);
        let now = now.map(|fold| fold.digest);
        self.declared.follow(record);
        let logged = self.declared.logged(record, self.id);
        if logged.is_some() {
            self.recorded.get_or_insert(record.first());
        }
        match (logged, now) {
            (Some(logged), now) if now != logged => {
                self.otherwise.get_or_insert(record.first());
            }
            (None, Some(_)) if self.recorded.is_some() => {
                self.unrecorded.get_or_insert(record.first());
            }
            _ => {}
        }
        if self.unstable.is_none() {
            let again = again()?;
            let of_one = changes.rows.iter().filter(|(key, version)| again.rows.get(*key) != Some(version));
            let of_other = again.rows.iter().filter(|(key, _)| !changes.rows.contains_key(*key));
            self.unstable = of_one.chain(of_other).map(|(_, version)| version.position).min();
        }
        Ok(())
    }
}

// ---- both ----

/// Hashes of rows by ranges of keys.
struct RangeHasher {
    hasher: blake3::Hasher,
    len: u64,
}

/// The last key of a range, if it has an end; a hash of its rows; how many they are.
type RangeDigest = (Option<RowKey>, blake3::Hash, u64);

impl RangeHasher {
    fn new() -> Self {
        Self { hasher: blake3::Hasher::new(), len: 0 }
    }

    fn add(&mut self, (key, version): &RowEntry) {
        let value = version.value.as_deref().expect("a layer's answer holds a row");
        self.hasher.update(&(key.len() as u64).to_le_bytes()).update(key);
        self.hasher.update(&(value.len() as u64).to_le_bytes()).update(value);
        self.hasher.update(&version.position.0.to_le_bytes());
        self.len += 1;
    }

    fn end(&mut self, through: Option<RowKey>) -> RangeDigest {
        let hashed = (through, self.hasher.finalize(), self.len);
        *self = Self::new();
        hashed
    }
}

/// The rows that are served, in ranges of so many; the last one is open.
fn hash_served(rows: &Published, all: KeyRange) -> Result<Vec<RangeDigest>, StorageError> {
    let (mut scan, mut hashes, mut ranges) = (Scan::new(rows, all), RangeHasher::new(), Vec::new());
    while let Some(entry) = scan.next()? {
        hashes.add(&entry);
        if hashes.len == RANGE {
            ranges.push(hashes.end(Some(entry.0)));
        }
    }
    ranges.push(hashes.end(None));
    Ok(ranges)
}

/// Other rows in the same ranges.
fn hash_like(
    rows: &Published,
    all: KeyRange,
    like: &[RangeDigest],
) -> Result<Vec<RangeDigest>, StorageError> {
    let (mut scan, mut hashes, mut ranges) = (Scan::new(rows, all), RangeHasher::new(), Vec::new());
    while let Some(entry) = scan.next()? {
        while let Some(through) = like[ranges.len()].0.as_ref().filter(|through| **through < entry.0) {
            ranges.push(hashes.end(Some(through.clone())));
        }
        hashes.add(&entry);
    }
    while ranges.len() < like.len() {
        ranges.push(hashes.end(like[ranges.len()].0.clone()));
    }
    Ok(ranges)
}

/// Rows that differ, as they are served: the first of them.
type Differ = Vec<(RowKey, Option<RowVersion>)>;

fn compare<P: Projection>(
    served: &Served<'_>,
    folded: &Published,
    audit: &mut AuditOf<P>,
) -> Result<Differ, ReadError> {
    let all = || table_range(served.projection.id);
    let of_served = hash_served(&served.rows, all())?;
    let of_folded = hash_like(folded, all(), &of_served)?;
    let mut whole = blake3::Hasher::new();
    for (_, hash, _) in &of_served {
        whole.update(hash.as_bytes());
    }
    audit.hash = *whole.finalize().as_bytes();
    audit.ranges_len = of_served.len() as u64;
    audit.served_len = of_served.iter().map(|(.., len)| len).sum();
    audit.folded_len = of_folded.iter().map(|(.., len)| len).sum();

    let (mut differing, mut after) = (Vec::new(), None);
    for ((through, hash, served_len), (_, other, folded_len)) in of_served.into_iter().zip(of_folded) {
        if hash != other {
            let mut range = all();
            after.iter().for_each(|after: &RowKey| range.lower = Bound::Excluded(after.to_vec()));
            through.iter().for_each(|through| range.upper = Bound::Included(through.to_vec()));
            compare_range::<P>(&served.rows, folded, range, audit, &mut differing)?;
            let key = |key: &Option<RowKey>| key.as_ref().map(decode_key::<P>).transpose();
            let (after, through) = (key(&after)?, key(&through)?);
            audit.ranges.push(Range { after, through, served_len, folded_len });
        }
        after = through;
    }
    Ok(differing)
}

fn compare_range<P: Projection>(
    served: &Published,
    folded: &Published,
    range: KeyRange,
    audit: &mut AuditOf<P>,
    differing: &mut Differ,
) -> Result<(), ReadError> {
    let (mut is, mut should_be) = (Scan::new(served, range.clone()), Scan::new(folded, range));
    let (mut one, mut other) = (is.next()?, should_be.next()?);
    loop {
        let order = match (&one, &other) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((one, _)), Some((other, _))) => one.cmp(other),
        };
        let is_row = if order.is_le() { one.take() } else { None };
        let should_be_row = if order.is_ge() { other.take() } else { None };
        audit.compared_len += 1;
        if is_row != should_be_row {
            audit.differing_len += 1;
            let key = is_row.as_ref().or(should_be_row.as_ref()).map(|(key, _)| key.clone());
            let key = key.expect("one of them is there");
            if audit.first.is_none() {
                audit.first = Some(Differing {
                    key: decode_key::<P>(&key)?,
                    served: is_row.as_ref().map(decode_row::<P>).transpose()?,
                    folded: should_be_row.as_ref().map(decode_row::<P>).transpose()?,
                });
            }
            if differing.len() < TRACED {
                differing.push((key, is_row.map(|(_, version)| version)));
            }
        }
        if order.is_le() {
            one = is.next()?;
        }
        if order.is_ge() {
            other = should_be.next()?;
        }
    }
}

fn decode_key<P: Projection>(key: &RowKey) -> Result<P::Key, ReadError> {
    key::decode(&key[4..]).map_err(|error| ReadError::Invalid { what: "row key", why: error.to_string() })
}

fn decode_row<P: Projection>((_, version): &RowEntry) -> Result<(P::Row, Position), ReadError> {
    let value = version.value.as_deref().expect("a layer's answer holds a row");
    let position = version.position;
    let row = codec::decode(value).map_err(|cause| ReadError::Decode { position, cause })?;
    Ok((row, position))
}

// ---- from where on ----

/// Follows rows that differ through the log, to the first change that what is served has not seen, or saw alone.
struct Trace {
    rows: HashMap<RowKey, TracedRow>,
}

struct TracedRow {
    served: Option<RowVersion>,
    /// They were equal at some time, and are until the next change.
    equal: bool,
    /// Position at which they began to differ, as far as the log was read.
    at: Option<Position>,
}

impl Trace {
    fn of(differing: &Differ) -> Self {
        let trace = |served: &Option<RowVersion>| TracedRow {
            served: served.clone(),
            // No row is what both begin with.
            equal: served.is_none(),
            at: None,
        };
        Self { rows: differing.iter().map(|(key, served)| (key.clone(), trace(served))).collect() }
    }

    fn look(&mut self, changes: &Delta) {
        for (key, version) in &changes.rows {
            if let Some(row) = self.rows.get_mut(key) {
                row.look(version);
            }
        }
    }

    fn first(&self) -> Option<Position> {
        self.rows.values().filter_map(TracedRow::first).min()
    }
}

impl TracedRow {
    /// The row is changed to this.
    fn look(&mut self, version: &RowVersion) {
        match &self.served {
            // It may have been removed at the same event, and not be there for that reason.
            None if version.value.is_none() => (self.equal, self.at) = (true, None),
            Some(served) if served == version => (self.equal, self.at) = (true, None),
            // What it was before the change that is served last is not known.
            Some(served) if version.position < served.position => {}
            _ if self.equal => {
                self.equal = false;
                self.at = Some(version.position);
            }
            _ => {}
        }
    }

    fn first(&self) -> Option<Position> {
        match (&self.served, self.at) {
            // What is served last was never so: that change, at the latest, was another.
            (Some(served), None) => Some(served.position),
            (_, at) => at,
        }
    }
}
