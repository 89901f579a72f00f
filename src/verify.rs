//! Walks everything and compares it: the log with its chain, indexes and keys with the log, rows with a refold.
//!
//! - What is expected is computed from the log alone, beside what is served.
//! - Memory: about 40 bytes for each stream, type and tag, and for each key that was used again while others were still kept, and
//!   what one overlay may hold: more rows than that go to a scratch file.

use crate::behind::Behind;
use crate::error::{ReadError, StorageError};
use crate::event::EventSet;
use crate::log::record::{EventRef, Kept, Record};
use crate::log::{Head, LogError, Page};
use crate::order::{CommitNo, Position};
use crate::own::Own;
use crate::projection::Registered;
use crate::recovery::{self, Recovery, Scratch, Shadow, stop};
use crate::setup::Task;
use crate::state::Published;
use crate::state::keys::{KeyUse, Moment};
use crate::state::layer::{Direction, KeyRange, RowEntry};
use crate::state::overlay::Postings;
use crate::state::tables::{Base, table_range};
use crate::state::term::{Term, TermMap};
use crate::view::Reader;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Counts of what `verify` looked at, and the first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Commits whose chain and checksums hold.
    pub commits: u64,
    /// Their events.
    pub events: u64,
    /// Keys that are kept, and lead to their commit.
    pub keys: u64,
    /// Streams, types and tags whose positions are those of the log.
    pub terms: u64,
    /// Projection rows that a refold makes the same.
    pub rows: u64,
    /// The first thing that is wrong, in the order log, keys, indexes, rows.
    pub first_bad: Option<Bad>,
    /// Rows were folded by other code than today's, from this position on, and their projection's version was not raised. The
    /// rows served are today's.
    pub folded_otherwise: Option<(String, Position)>,
    /// Tails that the log has lost, and goes on without because [`Setup::accept_lost_tail`](crate::Setup::accept_lost_tail) said so.
    pub lost_tails: Vec<LostTail>,
    /// Events that projections behind the writer pass over, by the name of the projection, and why: of
    /// [`Store::skip`](crate::Store::skip). Their rows are what a refold without those gives.
    pub skipped: Vec<(String, Position, String)>,
}

/// Commits that were durable once, and are not in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostTail {
    /// The event that records it.
    pub recorded_at: Position,
    /// The commit after which the log goes on.
    pub commit: CommitNo,
    /// The last event up to it.
    pub position: Position,
    /// The latest commit that was known to be durable.
    pub known_commit: CommitNo,
    /// The last event up to that.
    pub known_position: Position,
    /// The file that said so, or "this process".
    pub known_by: String,
}

impl LostTail {
    fn of(event: EventRef<'_>) -> Option<Self> {
        let (position, raw) = (event.position, event.raw().ok()?);
        match Own::decode(&raw).ok()? {
            Own::TailLost { end_commit, end_position, known_commit, known_position, known_by, .. } => {
                Some(Self {
                    recorded_at: position,
                    commit: CommitNo(end_commit),
                    position: Position(end_position),
                    known_commit: CommitNo(known_commit),
                    known_position: Position(known_position),
                    known_by,
                })
            }
            _ => None,
        }
    }
}

/// Something wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bad {
    /// The event at which it shows; `Position::START` where it cannot be said.
    pub position: Position,
    /// Description of the fault.
    pub what: String,
}

/// Number of positions of a term, and an order-free sum of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    count: u64,
    sum: u64,
    first: Position,
}

impl Tally {
    fn add(&mut self, position: Position) {
        self.first = if self.count == 0 { position } else { self.first.min(position) };
        self.count += 1;
        self.sum = self.sum.wrapping_add(position.0.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31));
    }
}

type Tallies = TermMap<Tally>;

/// The first thing that is wrong stops the look at what rests on it.
enum VerifyStop {
    Bad(Bad),
    Storage(StorageError),
}

impl From<StorageError> for VerifyStop {
    fn from(error: StorageError) -> Self {
        match error.is_corruption() {
            true => Self::Bad(Bad { position: Position::START, what: error.to_string() }),
            false => Self::Storage(error),
        }
    }
}

impl From<Bad> for VerifyStop {
    fn from(bad: Bad) -> Self {
        Self::Bad(bad)
    }
}

pub(crate) fn run(
    reader: &Reader,
    recovery: &Recovery<'_>,
    mut scratch: Scratch<'_>,
) -> Result<VerifyReport, ReadError> {
    // Taken first: none of them is ahead of what is published then.
    let behind = served_behind(reader);
    let published = reader.board.load();
    let skipped = |one: &Arc<Behind>| {
        let name = one.projection.name;
        one.skipped().into_iter().map(move |(at, why)| (name.to_owned(), Position(at), why))
    };
    let skipped = reader.behind.iter().flat_map(skipped).collect();
    let mut report = VerifyReport { skipped, ..VerifyReport::default() };
    match compare(reader, recovery, &published, &behind, &mut scratch, &mut report) {
        Ok(()) => Ok(report),
        Err(VerifyStop::Bad(bad)) => Ok(VerifyReport { first_bad: Some(bad), ..report }),
        Err(VerifyStop::Storage(error)) => Err(error.into()),
    }
}

fn compare(
    reader: &Reader,
    recovery: &Recovery<'_>,
    published: &Published,
    behind: &[ServedProjection],
    scratch: &mut Scratch<'_>,
    report: &mut VerifyReport,
) -> Result<(), VerifyStop> {
    let (expected, refolded) = walk_log(reader, recovery, published, behind, scratch, report)?;
    let noted = |error: StorageError| {
        reader.health.note_read(&error);
        VerifyStop::from(error)
    };
    let served = served_terms(published).map_err(noted)?;
    compare_terms(&expected, &served, report)?;
    for projection in running(recovery) {
        compare_rows(projection, published, &refolded, report).map_err(noted)?.map_or(Ok(()), Err)?;
    }
    for (behind, rows) in behind {
        let noted = |error: StorageError| {
            behind.note_read(rows, &error);
            VerifyStop::from(error)
        };
        compare_rows(&behind.projection, rows, &refolded, report).map_err(noted)?.map_or(Ok(()), Err)?;
    }
    Ok(())
}

/// A projection behind the writer, and its rows up to their own head.
type ServedProjection = (Arc<Behind>, Arc<Published>);

fn served_behind(reader: &Reader) -> Vec<ServedProjection> {
    let served = |behind: &Arc<Behind>| {
        let standing = behind.standing();
        behind.rows(&standing).ok().map(|rows| (behind.clone(), rows.clone()))
    };
    reader.behind.iter().filter_map(served).collect()
}

// ---- the log ----

/// Chain, checksums, keys, stream versions; what the indexes must say; the rows folded again.
fn walk_log(
    reader: &Reader,
    recovery: &Recovery<'_>,
    published: &Published,
    behind: &[ServedProjection],
    scratch: &mut Scratch<'_>,
    report: &mut VerifyReport,
) -> Result<(Tallies, Published), VerifyStop> {
    let (mut expected, mut streams, mut stalls) =
        (Tallies::default(), TermMap::<u64>::default(), BTreeMap::new());
    let mut keys = KeyUses::default();
    let store = reader.log.store();
    let end = published.head;
    let rows = Published::on(Arc::new(Base::Empty), Head::empty(store), Arc::default());
    let mut shadow = Shadow::new(recovery, Task::Verify, running(recovery), rows, &mut stalls);
    shadow.projections.extend(behind.iter().map(|(behind, _)| &behind.projection));
    let mut bad = None;
    let walked = reader.log.check(&mut |page, head| {
        if head.commit > end.commit {
            // Committed since the call.
            return Err(past_the_end());
        }
        bad = look_at(reader, published, page, &mut expected, &mut streams, &mut keys, report)?;
        if bad.is_some() {
            return Err(past_the_end());
        }
        // Each as far as what it is compared with.
        for (behind, _) in behind.iter().filter(|(_, rows)| rows.head.commit < head.commit) {
            shadow.projections.retain(|projection| projection.id != behind.projection.id);
        }
        shadow.follow(page, head)?;
        shadow.spill(scratch, head).map_err(stop)
    });
    if let Some(bad) = bad {
        return Err(VerifyStop::Bad(bad));
    }
    match walked {
        Err(error) if !is_past_the_end(&error) => return Err(log_stop(error)),
        _ => {}
    }
    let name =
        |id: [u8; 4]| running(recovery).iter().find(|projection| projection.id == id).map(|p| p.title());
    report.folded_otherwise = shadow.mismatch.and_then(|(position, id)| Some((name(id)?, position)));
    Ok((expected, shadow.rows))
}

fn running<'a>(recovery: &Recovery<'a>) -> Vec<&'a Registered> {
    let projections = &recovery.rules.projections;
    projections.all.iter().filter(|projection| !projections.stalls.contains_key(&projection.id)).collect()
}

fn look_at(
    reader: &Reader,
    published: &Published,
    page: &Page,
    expected: &mut Tallies,
    streams: &mut TermMap<u64>,
    keys: &mut KeyUses,
    report: &mut VerifyReport,
) -> Result<Option<Bad>, LogError> {
    for record in page.records() {
        let record = record?;
        report.commits += 1;
        for event in record.events() {
            report.events += 1;
            if event.type_name == Own::TAIL_LOST {
                report.lost_tails.extend(LostTail::of(event));
            }
            let version = streams.entry(reader.terms.stream(event.stream)).or_default();
            *version += 1;
            if *version != event.stream_version {
                let what = format!("the stream's version is {}, expected {version}", event.stream_version);
                return Ok(Some(Bad { position: event.position, what }));
            }
        }
        let delta = recovery::index(&record, &reader.terms, keys.used);
        for (term, postings) in &delta.postings {
            let tally = expected.entry(*term).or_default();
            postings.positions.iter().for_each(|position| tally.add(*position));
        }
        for (term, used) in &delta.keys {
            if let Some(what) = keys.look_at(reader, &record, *term, used) {
                return Ok(Some(Bad { position: record.first(), what }));
            }
            report.keys += u64::from(!used.kept.is_over(published.moment()));
        }
    }
    Ok(None)
}

/// The uses of keys, on the way through the log.
#[derive(Default)]
struct KeyUses {
    /// Commits with a key so far.
    used: u64,
    /// Keys to which the index does not lead, or not to that use: none may be used again while it is kept.
    earlier: TermMap<Kept>,
    /// So many of them are looked through for those that have expired.
    earlier_len: usize,
}

impl KeyUses {
    fn look_at(&mut self, reader: &Reader, record: &Record<'_>, key: Term, used: &KeyUse) -> Option<String> {
        let now = Moment { time: record.time(), keys: self.used };
        self.used += 1;
        let KeyUse { commit, kept, .. } = *used;
        if self.earlier.remove(&key).is_some_and(|earlier| !earlier.is_over(now)) {
            return Some(format!("commit {commit} used a key that was kept"));
        }
        let is = reader.keys.get(key, CommitNo(u64::MAX));
        match is {
            Some(is) if is == commit => return None,
            Some(is) if is > commit => {}
            // By the newest head: a flush beside this may have let go of it since.
            None if kept.is_over(reader.board.load().moment()) => {}
            _ => return Some(format!("the key of commit {commit} does not lead to it")),
        }
        if self.earlier.len() >= self.earlier_len {
            self.earlier.retain(|_, earlier| !earlier.is_over(now));
            self.earlier_len = 1024.max(2 * self.earlier.len());
        }
        self.earlier.insert(key, kept);
        None
    }
}

const PAST_THE_END: &str = "past the end";

/// Stops a walk of the log where it need not go on.
pub(crate) fn past_the_end() -> LogError {
    LogError::NotALog(PAST_THE_END.to_owned())
}

pub(crate) fn is_past_the_end(error: &LogError) -> bool {
    matches!(error, LogError::NotALog(what) if what == PAST_THE_END)
}

fn log_stop(error: LogError) -> VerifyStop {
    match error {
        LogError::Corrupt { position, what, .. } => VerifyStop::Bad(Bad { position, what }),
        LogError::Io(error) => match error.downcast::<StorageError>() {
            Ok(error) => error.into(),
            Err(error) => VerifyStop::Storage(LogError::Io(error).into()),
        },
        error => VerifyStop::Storage(error.into()),
    }
}

// ---- indexes ----

fn served_terms(published: &Published) -> Result<Tallies, StorageError> {
    let mut served = Tallies::default();
    let mut add = |term: Term, postings: &Postings| {
        let tally = served.entry(term).or_default();
        let visible = postings.positions.iter().filter(|position| **position <= published.head.position);
        visible.for_each(|position| tally.add(*position));
    };
    published.base.check(
        |term, postings| {
            add(term, &postings);
            Ok(())
        },
        |_, _| Ok(()),
    )?;
    for overlay in published.frozen.iter().chain([&published.active]) {
        overlay.each_postings(&mut add);
    }
    // Entries newer than the head count nothing.
    served.retain(|_, tally| tally.count > 0);
    Ok(served)
}

fn compare_terms(expected: &Tallies, served: &Tallies, report: &mut VerifyReport) -> Result<(), VerifyStop> {
    let differs = |(term, tally): &(&Term, &Tally)| served.get(term) != Some(tally);
    if let Some((_, tally)) = expected.iter().filter(differs).min_by_key(|(_, tally)| tally.first) {
        let what = "an index does not list all events of a stream, type or tag".to_owned();
        return Err(VerifyStop::Bad(Bad { position: tally.first, what }));
    }
    if let Some((_, tally)) = served.iter().find(|(term, _)| !expected.contains_key(term)) {
        let what = "an index lists a stream, type or tag that is not in the log".to_owned();
        return Err(VerifyStop::Bad(Bad { position: tally.first, what }));
    }
    report.terms = expected.len() as u64;
    Ok(())
}

// ---- rows ----

fn compare_rows(
    projection: &Registered,
    served: &Published,
    refolded: &Published,
    report: &mut VerifyReport,
) -> Result<Option<Bad>, StorageError> {
    let mut served = Scan::new(served, table_range(projection.id));
    let mut folded = Scan::new(refolded, table_range(projection.id));
    loop {
        let (is, should_be) = (served.next()?, folded.next()?);
        if is == should_be && is.is_none() {
            return Ok(None);
        }
        if is != should_be {
            let of = |entry: &Option<RowEntry>| entry.as_ref().map(|(_, version)| version.position);
            let position = of(&is).into_iter().chain(of(&should_be)).min().unwrap_or_default();
            let what =
                format!("a row of projection `{}` is not what folding the log gives", projection.title());
            return Ok(Some(Bad { position, what }));
        }
        report.rows += 1;
    }
}

/// All rows of a range, page by page.
pub(crate) struct Scan<'a> {
    published: &'a Published,
    range: Option<KeyRange>,
    page: std::vec::IntoIter<RowEntry>,
}

impl<'a> Scan<'a> {
    pub fn new(published: &'a Published, range: KeyRange) -> Self {
        Self { published, range: Some(range), page: Vec::new().into_iter() }
    }

    pub fn next(&mut self) -> Result<Option<RowEntry>, StorageError> {
        const ROWS: usize = 1024;
        if let Some(entry) = self.page.next() {
            return Ok(Some(entry));
        }
        let Some(mut range) = self.range.take() else { return Ok(None) };
        let page = self.published.read(&[], |layers| layers.rows(&range, Direction::Forward, ROWS))?;
        if page.len() == ROWS {
            range.continue_past(&page[ROWS - 1].0, Direction::Forward);
            self.range = Some(range);
        }
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}
