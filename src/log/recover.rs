//! Recovery when a log is opened: surveys the disk, and makes it good before anything is served.
//!
//! - First everything is looked at, then it is decided, then the disk is changed. A refusal changes nothing.
//! - A group that only may have been synced is never served from its original place: the kernel may have it in its
//!   cache and not on the disk. It is copied to a segment of its own, which is synced, named, and made durable
//!   before the old copy is cut off. A seal, a trailer, a following segment, or the caller, can prove that it was synced.
//! - Bytes that form no group are a torn tail only if nothing was written after them; else they are damage.
//! - A log that ends before a head that is known from outside is refused, unless the caller accepts its end.
//! - A last segment that is nearly empty is copied whole: else a process that dies again and again would leave one each time.
//! - A tail that is cut off is kept beside the log, and reported.
//! - A crash at any point here leaves a state that the next open makes good in the same way: of two copies of a commit,
//!   the one in the later segment counts; a copy that takes the name of its original is `.replacing` until that is gone,
//!   and counts instead of it.

pub(super) mod look;

use super::descriptors::{Descriptors, SegmentFile};
use super::group::{self, GroupHead};
use super::record::Record;
use super::segment::{HEADER, Header, HeaderFault, Marks, TRAILER, Trailer};
use super::segments::{self, Known, LogOptions, NEXT, Place, Segment, Writer};
use super::window::Window;
use super::{Head, LogError, StoreId};
use crate::disk::{Access, Disk, File};
use crate::order::CommitNo;
use crate::sync::RwLock;
use crate::sync::atomic::AtomicBool;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A side file that is not complete yet.
const CUT_CREATING: &str = "cut.creating";

/// Knowledge of a log from outside it.
#[derive(Default)]
pub(crate) struct KnownLog<'a> {
    /// Heads that were durable for certain, each in the log of its store: it says nothing about another store's log.
    pub durable: Vec<(StoreId, Head)>,
    /// Decides whether the log may end at this head, with this last commit, although it is known to have gone on.
    pub accepts: Option<&'a Accepts<'a>>,
}

/// A predicate on an end of a log.
pub(crate) type Accepts<'a> = dyn Fn(StoreId, &Head, Option<&Record<'_>>) -> bool + 'a;

impl From<Option<(StoreId, Head)>> for KnownLog<'_> {
    fn from(durable: Option<(StoreId, Head)>) -> Self {
        Self { durable: durable.into_iter().collect(), accepts: None }
    }
}

impl KnownLog<'_> {
    fn latest(&self, store: StoreId) -> Option<Head> {
        let ours = self.durable.iter().filter(|(of, _)| *of == store);
        ours.map(|(_, head)| *head).max_by_key(|head| head.commit)
    }

    fn proves(&self, store: StoreId, end: &Head) -> bool {
        self.durable.iter().any(|(of, head)| *of == store && head == end)
    }
}

/// Findings and repairs of an open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Opened {
    /// The torn tail that was cut off.
    pub cut: Option<Cut>,
    /// The first commit of a group that was copied, because it may not have been synced.
    pub rewritten: Option<CommitNo>,
    /// Segments that got their marks and trailer only now.
    pub finished: Vec<CommitNo>,
    /// True if the log itself tells that it went on, and its end was accepted.
    pub ends_early: bool,
}

/// A torn tail: a group that was never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The commit that it would have started with.
    pub at: CommitNo,
    pub bytes: u64,
    /// File that holds the bytes now.
    pub kept_in: PathBuf,
}

/// Everything an open log is made of.
pub(super) struct Recovered {
    pub place: Place,
    pub head: Head,
    pub segments: Vec<Arc<Segment>>,
    pub writer: Writer,
    pub opened: Opened,
}

/// A segment file as it stands.
struct SegmentInfo {
    header: Header,
    file: Arc<SegmentFile>,
    len: u64,
    trailer: Option<Trailer>,
}

impl SegmentInfo {
    fn first(&self) -> CommitNo {
        self.header.before.commit.next()
    }
}

/// Names in the directory.
#[derive(Default)]
struct LogDirEntries {
    segments: Vec<CommitNo>,
    /// Copies that are to replace the segment of the same commit, which may be gone already.
    replacing: Vec<CommitNo>,
    /// Left over from a crash; nothing in them counts.
    leftovers: Vec<String>,
}

/// Plan for the last segment.
struct TailRepair {
    last: Scanned,
    /// Start and length of a torn tail.
    torn: Option<(u64, u64)>,
    /// True if all its groups are known to have been synced.
    proven: bool,
    /// True if the segment is finished or was cut off, and its end was accepted: nothing may be written to it.
    ends_early: bool,
}

pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &LogOptions,
    known: &KnownLog<'_>,
) -> Result<Recovered, LogError> {
    let names = names(disk.as_ref(), dir)?;
    let descriptors = Descriptors::new(disk.clone());
    let mut found = survey(&descriptors, disk.as_ref(), dir, &names)?;
    let store = found[0].header.store;
    let mut unfinished = Vec::new();
    for pair in found.windows(2) {
        unfinished.push(finished_or_scanned(&pair[0], &pair[1])?);
    }
    let last = found.pop().expect("a log has a segment");
    let plan = plan(&last, known)?;

    let place = Place { disk: disk.clone(), dir: dir.to_owned(), store, descriptors };
    tidy(&place, &names)?;
    let mut opened = Opened { ends_early: plan.ends_early, ..Opened::default() };
    let mut segments = Vec::new();
    for (found, scanned) in found.into_iter().zip(unfinished) {
        segments.push(Arc::new(finish_if_scanned(&place, found, scanned, &mut opened)?));
    }
    let (head, writer) = take_over(&place, options, last, plan, &mut segments, &mut opened)?;
    Ok(Recovered { place, head, segments, writer, opened })
}

fn names(disk: &dyn Disk, dir: &Path) -> Result<LogDirEntries, LogError> {
    let mut names = LogDirEntries::default();
    for name in disk.list(dir)? {
        if let Some(first) = numbered(&name, ".log") {
            names.segments.push(first);
        } else if let Some(first) = numbered(&name, ".replacing") {
            names.replacing.push(first);
        } else if name == NEXT || name == CUT_CREATING {
            names.leftovers.push(name);
        }
    }
    Ok(names)
}

/// The number in a name of twenty digits with this ending.
fn numbered(name: &str, ending: &str) -> Option<CommitNo> {
    let digits = name.strip_suffix(ending)?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&number| plain && number > 0).map(CommitNo)
}

fn replacing(first: CommitNo) -> String {
    format!("{:020}.replacing", first.0)
}

/// Reads the header of every segment, in order of commits.
fn survey(
    descriptors: &Arc<Descriptors>,
    disk: &dyn Disk,
    dir: &Path,
    names: &LogDirEntries,
) -> Result<Vec<SegmentInfo>, LogError> {
    let mut paths: BTreeMap<_, _> =
        names.segments.iter().map(|&first| (first, segments::name(first))).collect();
    // A copy was whole and durable before it got this name, and may have been written to since.
    paths.extend(names.replacing.iter().map(|&first| (first, replacing(first))));
    let Some(first) = paths.keys().next() else {
        return Err(LogError::NotALog(format!("no log segment in {}", dir.display())));
    };
    if *first != CommitNo(1) {
        let what = format!("the first segment is missing: the log starts at commit {first}");
        return Err(LogError::damaged(CommitNo(1), crate::order::Position(1), &what));
    }
    let mut found: Vec<SegmentInfo> = Vec::with_capacity(paths.len());
    for (first, name) in paths {
        let path = dir.join(segments::name(first));
        let file = match names.replacing.contains(&first) {
            // Held open: it gets its name later, and cannot be opened by that before.
            true => descriptors.held(path, disk.open(&dir.join(&name), Access::Read)?),
            false => descriptors.on_demand(path),
        };
        let segment = look(file, &name, first)?;
        let store = found.first().map_or(segment.header.store, |first| first.header.store);
        if segment.header.store != store {
            return Err(at_start(first, &format!("segment {name} is of another store")));
        }
        found.push(segment);
    }
    if found[0].header.before != Head::empty(store_of(&found)) {
        return Err(at_start(CommitNo(1), "the first segment does not start an empty log"));
    }
    Ok(found)
}

fn store_of(found: &[SegmentInfo]) -> super::StoreId {
    found[0].header.store
}

fn look(segment: Arc<SegmentFile>, name: &str, first: CommitNo) -> Result<SegmentInfo, LogError> {
    let file = segment.get()?;
    let len = file.len()?;
    let header = match read(&*file, len, 0, HEADER)?.map(|bytes| Header::decode(&bytes)) {
        Some(Ok(header)) if header.before.commit.next() == first => header,
        Some(Err(HeaderFault::Foreign)) => {
            return Err(LogError::NotALog(format!("{name} is not a log segment")));
        }
        Some(Err(HeaderFault::Newer(is))) => {
            return Err(LogError::NewerFormat { is, known: super::segment::FORMAT });
        }
        Some(Ok(_)) => {
            return Err(at_start(first, &format!("{name} holds another segment than its name says")));
        }
        Some(Err(HeaderFault::Damaged)) => {
            return Err(at_start(first, &format!("header of {name} is damaged")));
        }
        None => return Err(at_start(first, &format!("{name} is too short for its header"))),
    };
    let trailer = match len.checked_sub(TRAILER as u64) {
        Some(at) => read(&*file, len, at, TRAILER)?,
        None => None,
    };
    let trailer = trailer.and_then(|bytes| Trailer::decode(&bytes, &header, len));
    Ok(SegmentInfo { header, file: segment, len, trailer })
}

/// A few bytes at `offset`, if the file has them.
fn read(file: &dyn File, len: u64, offset: u64, size: usize) -> io::Result<Option<Vec<u8>>> {
    if offset + size as u64 > len {
        return Ok(None);
    }
    let mut bytes = vec![0; size];
    file.read_at(offset, &mut bytes)?;
    Ok(Some(bytes))
}

/// Damage at the start of a segment, where the position is not known without its header.
fn at_start(first: CommitNo, what: &str) -> LogError {
    LogError::damaged(first, crate::order::Position::START, what)
}

/// Checks a segment that another follows: `None` if its trailer agrees with that, else the result of walking its groups.
fn finished_or_scanned(this: &SegmentInfo, next: &SegmentInfo) -> Result<Option<Scanned>, LogError> {
    let trailer = this.trailer.filter(|trailer| trailer.end == next.header.before);
    if trailer.is_some() {
        return Ok(None);
    }
    let scanned = scan(&*this.file.get()?, this.len, &this.header, Some(next.first()))?;
    if scanned.head == next.header.before {
        return Ok(Some(scanned));
    }
    let (commit, position) = (scanned.head.commit.next(), scanned.head.position.next());
    let next = next.first();
    let what = if scanned.head.commit.next() == next {
        format!("the segment that starts at commit {next} does not continue the one before")
    } else if this.trailer.is_some_and(|trailer| trailer.end == scanned.head) {
        format!("the segment that starts at commit {commit} is missing")
    } else {
        format!("no valid group here, and a later segment starts at commit {next}")
    };
    Err(LogError::damaged(commit, position, &what))
}

/// The groups of a segment, verified.
pub(super) struct Scanned {
    /// Head after the last good group.
    pub head: Head,
    pub end: u64,
    pub marks: Marks,
    /// The last good group: its offset, and the head before it.
    last: Option<(u64, Head)>,
    /// True if a seal stands behind the last good group.
    sealed: bool,
}

/// Walks the groups from the start of a segment, chain included, up to the first that is not good, a seal, or the
/// one that starts with `until`.
pub(super) fn scan(
    file: &dyn File,
    len: u64,
    header: &Header,
    until: Option<CommitNo>,
) -> Result<Scanned, LogError> {
    let (store, before) = (header.store, header.before);
    let mut window = Window::new(file, len);
    let mut scanned =
        Scanned { head: before, end: HEADER as u64, marks: Marks::new(before), last: None, sealed: false };
    while until != Some(scanned.head.commit.next()) {
        let Some(head) = window.get(scanned.end, group::HEAD)?.and_then(GroupHead::decode) else { break };
        if head.is_seal() {
            scanned.sealed = head.follows(store, &scanned.head);
            break;
        }
        let Some(bytes) = window.get(scanned.end, head.size())? else { break };
        let mut found = Vec::with_capacity(head.records.min(1 << 16) as usize);
        let Ok(after) = group::verify(store, &scanned.head, bytes, |record| found.push(record)) else {
            break;
        };
        if until.is_some_and(|until| after.commit >= until) {
            break;
        }
        found.iter().for_each(|record| scanned.marks.note_found(record, scanned.end));
        scanned.last = Some((scanned.end, scanned.head));
        scanned.end += head.size() as u64;
        scanned.head = after;
    }
    Ok(scanned)
}

/// Looks at the end of the log and decides whether it is whole, torn, damaged or accepted.
fn plan(last: &SegmentInfo, known: &KnownLog<'_>) -> Result<TailRepair, LogError> {
    let scanned = scan(&*last.file.get()?, last.len, &last.header, None)?;
    let (store, end) = (last.header.store, scanned.head);
    let (commit, position) = (end.commit.next(), end.position.next());
    if last.trailer.is_some_and(|trailer| trailer.end != end) {
        return Err(LogError::damaged(commit, position, "no valid group here, in a finished segment"));
    }
    let rest = scanned.end + if scanned.sealed { group::HEAD as u64 } else { 0 };
    let torn = match last.trailer {
        Some(_) => None,
        None => last_used(last, rest)?.map(|end| (rest, end - rest)),
    };
    if torn.is_some()
        && let Some(later) = spoken_of(last, rest, &end)?
    {
        let what = format!("no valid group here, and one written after it starts at commit {}", later.first);
        return Err(LogError::damaged(commit, position, &what));
    }
    let ends_early = last.trailer.is_some() || last.len < last.header.size;
    let latest = known.latest(store).filter(|known| known.commit > end.commit);
    if (ends_early || latest.is_some()) && !is_accepted(last, &scanned, known)? {
        let damaged = |what: &str| {
            let way = format!("`.accept_lost_tail(CommitNo::new({}))` goes on without it", end.commit);
            LogError::damaged(commit, position, &format!("{what}; {way}"))
        };
        return Err(match latest {
            _ if last.trailer.is_some() => {
                damaged(&format!("the segment that starts at commit {commit} is missing"))
            }
            _ if ends_early => damaged("the last segment file was cut off"),
            Some(_) if torn.is_some() => damaged("no valid group here, and its commit was durable"),
            Some(known) => LogError::EndsEarly { end, known },
            None => unreachable!("one of them is so"),
        });
    }
    let proven = scanned.sealed || scanned.last.is_none() || known.proves(store, &end);
    Ok(TailRepair { proven: proven || last.trailer.is_some(), last: scanned, torn, ends_early })
}

/// Returns whether the log may end after the scanned groups.
fn is_accepted(last: &SegmentInfo, scanned: &Scanned, known: &KnownLog<'_>) -> Result<bool, LogError> {
    let Some(accepts) = known.accepts else { return Ok(false) };
    let store = last.header.store;
    let Some((from, before)) = scanned.last else { return Ok(accepts(store, &scanned.head, None)) };
    let mut bytes = vec![0; (scanned.end - from) as usize];
    last.file.get()?.read_at(from, &mut bytes)?;
    let mut body = 0..0;
    let verified = group::verify(store, &before, &bytes, |found| body = found.body);
    let record = verified.ok().and_then(|_| Record::decode(&bytes[body]).ok());
    Ok(accepts(store, &scanned.head, record.as_ref()))
}

/// Returns the end of the last byte from `from` on that is not zero.
fn last_used(found: &SegmentInfo, from: u64) -> io::Result<Option<u64>> {
    let file = found.file.get()?;
    let mut window = Window::new(&*file, found.len);
    let (mut at, mut used) = (from, None);
    while at < window.len() {
        let piece = window.piece(at)?;
        if let Some(last) = piece.iter().rposition(|&byte| byte != 0) {
            used = Some(at + last as u64 + 1);
        }
        at += piece.len() as u64;
    }
    Ok(used)
}

/// Returns a group head at or behind `from` that could only be written when the group at `from` was durable.
fn spoken_of(found: &SegmentInfo, from: u64, before: &Head) -> io::Result<Option<GroupHead>> {
    let (store, commit) = (found.header.store, before.commit.next());
    let file = found.file.get()?;
    let mut window = Window::new(&*file, found.len);
    // The head of the torn group itself may be whole: then the bytes it claims are content, whatever they look like.
    let own = window.get(from, group::HEAD)?.and_then(GroupHead::decode);
    let own = own.filter(|head| head.follows(store, before));
    let mut at = own.map_or(from, |head| from.saturating_add(head.size() as u64));
    while let Some(bytes) = window.get(at, group::HEAD)? {
        if group::is_magic(bytes) {
            let head = GroupHead::decode(bytes);
            let later = head
                .filter(|head| head.store == store && head.first >= commit && head.synced_through >= commit);
            if later.is_some() {
                return Ok(later);
            }
        }
        at += 8;
    }
    Ok(None)
}

/// Removes leftovers of a crash, and gives a finished copy its name.
fn tidy(place: &Place, names: &LogDirEntries) -> Result<(), LogError> {
    for name in &names.leftovers {
        place.disk.remove(&place.path(name))?;
    }
    for &first in &names.replacing {
        if names.segments.contains(&first) {
            place.disk.remove(&place.path(&segments::name(first)))?;
        }
        place.disk.rename(&place.path(&replacing(first)), &place.path(&segments::name(first)))?;
    }
    // Also without any change: names that a killed process made may not be durable yet.
    Ok(place.disk.sync_dir(&place.dir)?)
}

fn finish_if_scanned(
    place: &Place,
    found: SegmentInfo,
    scanned: Option<Scanned>,
    opened: &mut Opened,
) -> Result<Segment, LogError> {
    let SegmentInfo { header, file, trailer, len } = found;
    let (marks, end, len) = match scanned {
        None => (None, trailer.map_or(0, |trailer| u64::from(trailer.groups_end)), len),
        Some(scanned) => {
            opened.finished.push(header.before.commit.next());
            let len = finish(place, &header, &scanned.marks, &scanned.head, scanned.end)?;
            (Some(scanned.marks), scanned.end, len)
        }
    };
    Ok(Segment { header, file, len: len.into(), trailer, known: RwLock::new(Known { marks, end }) })
}

/// Ends a segment, and returns its length.
fn finish(place: &Place, header: &Header, marks: &Marks, end: &Head, at: u64) -> Result<u64, LogError> {
    let file = segments::open_for_writing(place, header.before.commit.next())?;
    let tail = marks.encode(place.store, end, at as u32);
    segments::finish(file.as_ref(), at, &tail)?;
    Ok(at + tail.len() as u64)
}

/// Makes the last segment one that may be appended to: as it is, or by starting a new one.
fn take_over(
    place: &Place,
    options: &LogOptions,
    last: SegmentInfo,
    plan: TailRepair,
    segments: &mut Vec<Arc<Segment>>,
    opened: &mut Opened,
) -> Result<(Head, Writer), LogError> {
    let head = plan.last.head;
    if let Some((from, len)) = plan.torn {
        opened.cut = Some(keep_cut(place, &last, head.commit.next(), from, len)?);
    }
    let writer = match plan.proven && plan.torn.is_none() && !plan.ends_early {
        true => as_it_is(place, last, plan.last)?,
        false => as_a_copy(place, options, last, plan, segments, opened)?,
    };
    segments.push(writer.segment.clone());
    Ok((head, writer))
}

fn as_it_is(place: &Place, last: SegmentInfo, scanned: Scanned) -> Result<Writer, LogError> {
    let file = segments::open_for_writing(place, last.first())?;
    let Scanned { marks, end, sealed, .. } = scanned;
    writer(place, last.header, file, (marks, end), last.len, sealed)
}

/// Goes on in a copy of the groups that may not have been synced, or of nothing if all are proven: in a new segment, or, if the
/// last one is nearly empty, in one that replaces it. So opens that follow one another make no segment each.
fn as_a_copy(
    place: &Place,
    options: &LogOptions,
    last: SegmentInfo,
    plan: TailRepair,
    segments: &mut Vec<Arc<Segment>>,
    opened: &mut Opened,
) -> Result<Writer, LogError> {
    let Scanned { head, end, marks: mut before_it, last: group, .. } = plan.last;
    let unproven = group.filter(|_| !plan.proven);
    opened.rewritten = unproven.map(|(_, before)| before.commit.next());
    let is_nearly_empty = end <= options.size(0, 0) / 2 && last.trailer.is_none();
    let (from, before) = match is_nearly_empty {
        true => (HEADER as u64, last.header.before),
        false => unproven.unwrap_or((end, head)),
    };
    let mut groups = vec![0; (end - from) as usize];
    last.file.get()?.read_at(from, &mut groups)?;
    // As small as allowed: an open neither writes many zeros nor fails for want of room, if that can be helped.
    let header = Header { store: place.store, before, size: options.size(0, groups.len() as u64) };
    let marks = copied_marks(&header, &groups, &head)?;
    replace(place, &last, &header, &head, &groups)?;
    if before.commit.next() != last.first() {
        before_it.truncate(from);
        let len = finish(place, &last.header, &before_it, &before, from)?;
        opened.finished.push(last.first());
        let known = RwLock::new(Known { marks: Some(before_it), end: from });
        let (header, file) = (last.header, last.file);
        segments.push(Arc::new(Segment { header, file, len: len.into(), trailer: None, known }));
    }
    let file = segments::open_for_writing(place, before.commit.next())?;
    let end = (HEADER + groups.len()) as u64;
    writer(place, header, file, (marks, end), header.size, true)
}

/// Verifies groups once more before they are copied: the originals will be gone.
fn copied_marks(header: &Header, groups: &[u8], head: &Head) -> Result<Marks, LogError> {
    let (mut marks, mut after, mut at) = (Marks::new(header.before), header.before, 0);
    while at < groups.len() {
        let size = groups[at..].get(..group::HEAD).and_then(GroupHead::decode).map(|head| head.size());
        let group = size.and_then(|size| groups.get(at..at + size));
        let base = (HEADER + at) as u64;
        let verified = group.and_then(|group| {
            group::verify(header.store, &after, group, |found| marks.note_found(&found, base)).ok()
        });
        let Some((verified, group)) = verified.zip(group) else { break };
        (after, at) = (verified, at + group.len());
    }
    if !groups.is_empty() && (after != *head || at != groups.len()) {
        let (commit, position) = (after.commit.next(), after.position.next());
        return Err(LogError::damaged(commit, position, "the last groups read differently each time"));
    }
    Ok(marks)
}

/// Makes a writer of a segment, with its marks and the offset at which its groups end.
fn writer(
    place: &Place,
    header: Header,
    file: Box<dyn File>,
    (marks, end): (Marks, u64),
    size: u64,
    sealed: bool,
) -> Result<Writer, LogError> {
    let known = RwLock::new(Known { marks: Some(marks), end });
    let path = place.path(&segments::name(header.before.commit.next()));
    let held = place.descriptors.held(path, file);
    let file = held.get()?;
    let segment = Arc::new(Segment { header, file: held, len: size.into(), trailer: None, known });
    Ok(Writer { segment, file, end, size, sealed, next: None, buffer: Vec::new(), poisoned: false })
}

/// Starts a segment with a copy of `group`, which ends at `head`. It may replace the segment `last`.
fn replace(
    place: &Place,
    last: &SegmentInfo,
    header: &Header,
    head: &Head,
    group: &[u8],
) -> Result<(), LogError> {
    let file = place.disk.create_new(&place.path(NEXT))?;
    segments::write_zeros(file.as_ref(), 0, header.size, &AtomicBool::new(false))?;
    let mut bytes = group.to_vec();
    // The seal is true as soon as anyone can see it: the file is synced before it has a name.
    bytes.extend_from_slice(&group::seal(place.store, head));
    let first = header.before.commit.next();
    if first == last.first() {
        segments::start(place, file.as_ref(), header, &bytes, &replacing(first))?;
        place.disk.remove(&place.path(&segments::name(first)))?;
        place.disk.rename(&place.path(&replacing(first)), &place.path(&segments::name(first)))?;
        return Ok(place.disk.sync_dir(&place.dir)?);
    }
    segments::start(place, file.as_ref(), header, &bytes, &segments::name(first))
}

/// Copies a torn tail to a side file, once.
fn keep_cut(place: &Place, last: &SegmentInfo, at: CommitNo, from: u64, len: u64) -> Result<Cut, LogError> {
    let mut bytes = vec![0; len as usize];
    last.file.get()?.read_at(from, &mut bytes)?;
    let names = place.disk.list(&place.dir)?;
    let mut name = format!("cut-{:020}", at.0);
    let mut number = 1;
    // An earlier open may have been cut short after this, or the same commit may have been torn twice.
    while names.contains(&name) {
        if holds(place, &name, &bytes)? {
            return Ok(Cut { at, bytes: len, kept_in: place.path(&name) });
        }
        number += 1;
        name = format!("cut-{:020}.{number}", at.0);
    }
    let file = place.disk.create_new(&place.path(CUT_CREATING))?;
    file.write_at(0, &bytes)?;
    file.sync_data()?;
    place.disk.rename(&place.path(CUT_CREATING), &place.path(&name))?;
    place.disk.sync_dir(&place.dir)?;
    Ok(Cut { at, bytes: len, kept_in: place.path(&name) })
}

fn holds(place: &Place, name: &str, bytes: &[u8]) -> Result<bool, LogError> {
    let file = place.disk.open(&place.path(name), Access::Read)?;
    if file.len()? != bytes.len() as u64 {
        return Ok(false);
    }
    let mut kept = vec![0; bytes.len()];
    file.read_at(0, &mut kept)?;
    Ok(kept == bytes)
}
