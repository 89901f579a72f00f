//! The log on a disk: segment files, each named by its first commit.
//!
//! - One group is one write and one sync, in one segment. The files are zeroed ahead, so that neither changes a length.
//! - After any error of a write or sync nothing more is written: the content of the disk is not known.
//! - Readers are bounded by the head, never by a file's content, and take no lock that is held over a write or a sync.
//! - A segment is never recycled, and never removed except for a full copy of it under the same name.
//! - Until a segment has its name it is `next.creating`, and nothing in it counts.
//! - A trailer is written only after the segment that follows has its name for good: a last segment with a trailer
//!   tells that one is missing.

use super::descriptors::{Descriptors, SegmentFile};
use super::group::{self, GroupHead, Walk};
use super::record::Commit;
use super::recover::{self, look::Looked};
use super::segment::{HEADER, Header, Marks, Trailer};
use super::window::Window;
use super::{Head, Log, LogError, LogSize, Page, Seek, StoreId};
use crate::disk::{Access, Disk, File, Lock, LockState};
use crate::order::{CommitNo, Position, Timestamp};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{JoinHandle, Mutex, RwLock, spawn};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

pub(crate) use super::recover::{Cut, KnownLog, Opened};

/// A segment that has no name yet.
pub(super) const NEXT: &str = "next.creating";
/// Bytes kept free behind the groups: room for a seal, and zeros so that nothing in a group can look like a trailer.
const RESERVE: u64 = group::HEAD as u64 + 8;
/// Maximum size of a segment: offsets are u32, and a group of the largest size must fit.
const SEGMENT_BYTES_MAX: u64 = 1 << 31;
const SEGMENT_BYTES_MIN: u64 = 512;
/// Maximum size of one read of a reader, unless a record is larger.
const READ_BYTES_MAX: usize = 1 << 20;
/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;
/// A larger buffer is given back after its group.
const BUFFER_KEPT: usize = 4 << 20;

/// Name of the segment that starts with a commit.
pub(super) fn name(first: CommitNo) -> String {
    format!("{:020}.log", first.0)
}

/// Options for the log's use of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogOptions {
    /// Size of the first segment; each next one is twice as large.
    pub segment_bytes_min: u64,
    /// Maximum size of a segment.
    pub segment_bytes: u64,
    pub prepare: Prepare,
}

/// Thread that writes the zeros of the next segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepare {
    /// A thread, from when the segment in use is half full.
    Ahead,
    /// The writer, when it needs it: the same order of operations in every run.
    AtNeed,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes_min: 1 << 20, segment_bytes: 64 << 20, prepare: Prepare::Ahead }
    }
}

impl LogOptions {
    /// Returns the size of a new segment, near `wanted`, with room for a group of `group` bytes.
    pub(super) fn size(&self, wanted: u64, group: u64) -> u64 {
        let max = self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let min = self.segment_bytes_min.clamp(SEGMENT_BYTES_MIN, max);
        wanted.clamp(min, max).max(HEADER as u64 + group + RESERVE).next_multiple_of(8)
    }
}

/// The log in segment files. One writer, any number of readers.
pub(crate) struct SegmentLog {
    place: Place,
    options: LogOptions,
    /// Changed by the writer after each sync, held for an instant.
    shared: RwLock<LogState>,
    writer: Mutex<Writer>,
    /// Tells the preparing thread to leave off.
    stop: Arc<AtomicBool>,
    /// Locks that keep other processes out. They end with the store, not with its last reader.
    locks: Vec<Weak<dyn Lock>>,
}

impl fmt::Debug for SegmentLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log in {} at commit {}", self.place.dir.display(), self.head().commit)
    }
}

/// The bytes behind the head of a log that was only looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Commits of whole groups that nothing proves to have been synced.
    pub unproven_commits: u64,
    /// Bytes that form no whole group.
    pub torn_bytes: u64,
}

/// Location of a log, with the id of its store.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub store: StoreId,
    pub descriptors: Arc<Descriptors>,
}

impl Place {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

struct LogState {
    head: Head,
    segments: Arc<Vec<Arc<Segment>>>,
}

/// A segment that may be read.
#[derive(Debug)]
pub(super) struct Segment {
    pub header: Header,
    pub file: Arc<SegmentFile>,
    /// Length of the file.
    pub len: AtomicU64,
    /// Trailer as found at open, for marks that are still on the disk.
    pub trailer: Option<Trailer>,
    pub known: RwLock<Known>,
}

/// The readable part of a segment.
#[derive(Debug)]
pub(super) struct Known {
    /// `None` until a reader needs them and they are loaded.
    pub marks: Option<Marks>,
    /// Offset at which the groups end.
    pub end: u64,
}

impl Segment {
    pub fn first(&self) -> CommitNo {
        self.header.before.commit.next()
    }

    fn first_position(&self) -> Position {
        self.header.before.position.next()
    }

    /// Calls `with` with the marks and the end of the groups.
    fn with_marks<T>(&self, with: impl Fn(&Marks, u64) -> T) -> Result<T, LogError> {
        let known = self.known.read();
        if let Some(marks) = &known.marks {
            return Ok(with(marks, known.end));
        }
        drop(known);
        // Not loaded: then the segment is finished, and the writer has no business with it.
        let marks = self.load_marks()?;
        let mut known = self.known.write();
        let end = known.end;
        Ok(with(known.marks.get_or_insert(marks), end))
    }

    fn load_marks(&self) -> Result<Marks, LogError> {
        if let Some(trailer) = &self.trailer {
            let mut bytes = vec![0; trailer.marks_size()];
            self.file.get()?.read_at(u64::from(trailer.groups_end), &mut bytes)?;
            if let Some(marks) = Marks::decode(&bytes, &self.header, trailer) {
                return Ok(marks);
            }
        }
        let end = self.known.read().end;
        Ok(recover::scan(&*self.file.get()?, end, &self.header, None)?.marks)
    }
}

pub(super) struct Writer {
    pub segment: Arc<Segment>,
    /// Its file.
    pub file: Arc<dyn File>,
    /// Offset of the next group. A seal may stand there.
    pub end: u64,
    /// Offset up to which the file is zeroed.
    pub size: u64,
    /// True if nothing was written since the log was sealed.
    pub sealed: bool,
    pub next: Option<Next>,
    pub buffer: Vec<u8>,
    pub poisoned: bool,
}

/// The next segment, being zeroed.
pub(super) type Next = JoinHandle<io::Result<(Box<dyn File>, u64)>>;

impl SegmentLog {
    /// Makes `dir` with an empty log in it, durable but for its own name, which is the caller's to make durable.
    pub fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        store: StoreId,
        options: &LogOptions,
    ) -> Result<(), LogError> {
        disk.create_dir(dir)?;
        let descriptors = Descriptors::new(disk.clone());
        let place = Place { disk: disk.clone(), dir: dir.to_owned(), store, descriptors };
        let header = Header { store, before: Head::empty(store), size: options.size(0, 0) };
        let file = disk.create_new(&place.path(NEXT))?;
        write_zeros(file.as_ref(), 0, header.size, &AtomicBool::new(false))?;
        start(&place, file.as_ref(), &header, &[], &name(CommitNo(1)))
    }

    /// Opens the log in `dir`, repairs the traces of a crash, and returns what it did.
    ///
    /// If the log ends with exactly a head that is known to be durable, the last group is served as it is, so that readers of an
    /// earlier open in this process find all of theirs in its place.
    ///
    /// If this fails, nothing is changed on the disk, except by an error of the disk itself.
    ///
    /// # Errors
    ///
    /// `EndsEarly`, `Corrupt` for damage up to a head that is known, unless `known` accepts the end; any other fault of the log.
    pub fn open<'a>(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        known: impl Into<KnownLog<'a>>,
    ) -> Result<(Self, Opened), LogError> {
        let recovered = recover::recover(disk, dir, &options, &known.into())?;
        let shared = LogState { head: recovered.head, segments: Arc::new(recovered.segments) };
        let log = Self {
            place: recovered.place,
            options,
            shared: RwLock::new(shared),
            writer: Mutex::new(recovered.writer),
            stop: Arc::new(AtomicBool::new(false)),
            locks: Vec::new(),
        };
        Ok((log, recovered.opened))
    }

    /// Looks at the log in `dir` as it stands. The returned log never writes to it, and another process may.
    pub fn look(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(Self, Tail), LogError> {
        let Looked { place, head, segments, tail } = recover::look::look(disk, dir)?;
        let segment = segments.last().expect("a log has a segment").clone();
        let (file, end, buffer) = (segment.file.get()?, segment.known.read().end, Vec::new());
        // Poisoned: it refuses to append and to seal.
        let writer =
            Writer { segment, file, end, size: end, sealed: true, next: None, buffer, poisoned: true };
        let log = Self {
            place,
            options: LogOptions::default(),
            shared: RwLock::new(LogState { head, segments: Arc::new(segments) }),
            writer: Mutex::new(writer),
            stop: Arc::new(AtomicBool::new(false)),
            locks: Vec::new(),
        };
        Ok((log, tail))
    }

    /// Returns the same log, which writes only while these locks are held.
    pub fn held_by(mut self, locks: Vec<Weak<dyn Lock>>) -> Self {
        self.locks = locks;
        self
    }

    /// Checks that other processes are kept out of the log.
    fn check_locks(&self) -> Result<(), LogError> {
        for lock in &self.locks {
            match lock.upgrade().map(|lock| lock.state()).transpose()? {
                Some(LockState::Held) => {}
                Some(LockState::Forked) => return Err(super::forked()),
                Some(LockState::Gone) | None => {
                    let what = "was removed or replaced while the store was open, and another process may have taken it";
                    return Err(LogError::NotHeld(format!(
                        "the lock of {} {what}",
                        self.place.dir.display()
                    )));
                }
            }
        }
        Ok(())
    }

    fn write(&self, writer: &mut Writer, head: &Head, commits: &[Commit]) -> Result<Head, LogError> {
        let mut buffer = std::mem::take(&mut writer.buffer);
        let mut starts = Vec::with_capacity(commits.len());
        let note = |commit: &Commit, at: usize| starts.push((commit.commit, commit.first, at as u64));
        let after = group::encode(self.place.store, head, commits, &mut buffer, note)?;
        self.check_locks()?;
        // From here on the disk is touched: until all of it is done, its content is not known.
        writer.poisoned = true;
        self.make_room(writer, head, buffer.len() as u64)?;
        writer.file.write_at(writer.end, &buffer)?;
        writer.file.sync_data()?;
        // A write into a file that was removed under us is on no disk. Checked before the reply, for each group.
        if !self.place.disk.stands(&self.place.path(&name(writer.segment.first())))? {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the segment was removed under the open log",
            )
            .into());
        }
        self.publish(writer, after, &starts, buffer.len() as u64);
        writer.poisoned = false;
        writer.sealed = false;
        self.prepare_ahead(writer);
        if buffer.capacity() <= BUFFER_KEPT {
            writer.buffer = buffer;
        }
        Ok(after)
    }

    fn publish(&self, writer: &mut Writer, after: Head, starts: &[(CommitNo, Position, u64)], len: u64) {
        let mut known = writer.segment.known.write();
        let marks = known.marks.as_mut().expect("the segment being written has its marks");
        for &(commit, first, at) in starts {
            marks.note(commit, first, (writer.end + at) as u32);
        }
        known.end = writer.end + len;
        drop(known);
        writer.end += len;
        // Last: a reader that sees the head must find the group it speaks of.
        self.shared.write().head = after;
    }

    fn make_room(&self, writer: &mut Writer, head: &Head, need: u64) -> Result<(), LogError> {
        if writer.end + need + RESERVE <= writer.size {
            return Ok(());
        }
        if writer.end == HEADER as u64 {
            return self.grow(writer, need);
        }
        self.roll(writer, head, need)
    }

    /// Makes an empty segment large enough: a next one would have the same name.
    fn grow(&self, writer: &mut Writer, need: u64) -> Result<(), LogError> {
        let size = self.options.size(writer.size, need);
        write_zeros(&*writer.file, writer.size, size, &AtomicBool::new(false))?;
        writer.file.sync_data()?;
        writer.segment.len.store(size, Ordering::Relaxed);
        writer.size = size;
        Ok(())
    }

    /// Starts the next segment, then finishes the one before it.
    fn roll(&self, writer: &mut Writer, head: &Head, need: u64) -> Result<(), LogError> {
        let (file, size) = self.take_next(writer, need)?;
        let header = Header { store: self.place.store, before: *head, size };
        let name = name(head.commit.next());
        start(&self.place, file.as_ref(), &header, &[], &name)?;
        let known = RwLock::new(Known { marks: Some(Marks::new(*head)), end: HEADER as u64 });
        let file = self.place.descriptors.held(self.place.path(&name), file);
        let full_file = std::mem::replace(&mut writer.file, file.get()?);
        let segment = Segment { header, file, len: AtomicU64::new(size), trailer: None, known };
        let full = std::mem::replace(&mut writer.segment, Arc::new(segment));
        (writer.end, writer.size) = (HEADER as u64, size);
        self.show(writer.segment.clone());
        let (end, tail) =
            full.with_marks(|marks, end| (end, marks.encode(self.place.store, head, end as u32)))?;
        finish(&*full_file, end, &tail)?;
        full.len.store(end + tail.len() as u64, Ordering::Relaxed);
        full.file.let_go();
        Ok(())
    }

    /// Lets readers find a new segment.
    fn show(&self, segment: Arc<Segment>) {
        let mut shared = self.shared.write();
        let mut segments = shared.segments.to_vec();
        segments.push(segment);
        shared.segments = Arc::new(segments);
    }

    /// Returns a zeroed file with room for a group of this size, under the name of the next segment.
    fn take_next(&self, writer: &mut Writer, need: u64) -> Result<(Box<dyn File>, u64), LogError> {
        if let Some(Ok(Ok((file, ready)))) = writer.next.take().map(JoinHandle::join) {
            let size = ready.max(self.options.size(ready, need));
            write_zeros(file.as_ref(), ready, size, &AtomicBool::new(false))?;
            return Ok((file, size));
        }
        // Not prepared, or not successfully: the disk may have been full then. Try now that it is needed.
        let mut size = self.options.size(writer.size.saturating_mul(2), need);
        loop {
            match self.zeroed_next(size) {
                // If there is no room for a large one, there may be for a smaller one.
                Err(error) if is_full(&error) && size > self.options.size(0, need) => {
                    size = self.options.size(size / 2, need);
                }
                zeroed => return Ok((zeroed?, size)),
            }
        }
    }

    fn zeroed_next(&self, size: u64) -> io::Result<Box<dyn File>> {
        let path = self.place.path(NEXT);
        match self.place.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.place.disk.create_new(&path)?;
        write_zeros(file.as_ref(), 0, size, &AtomicBool::new(false))?;
        Ok(file)
    }

    /// Has the next segment prepared, once this one is half full. If that fails, the next one is made when it is needed.
    fn prepare_ahead(&self, writer: &mut Writer) {
        let early = writer.end < writer.size / 2;
        if early || writer.next.is_some() || self.options.prepare == Prepare::AtNeed {
            return;
        }
        // The name is made here and not by the thread: a thread left over from an earlier open must make none.
        let Ok(file) = self.place.disk.create_new(&self.place.path(NEXT)) else { return };
        let size = self.options.size(writer.size.saturating_mul(2), 0);
        let stop = self.stop.clone();
        let prepare = move || {
            write_zeros(file.as_ref(), 0, size, &stop).inspect_err(|_| {
                // The bytes already written may be the room that a smaller one needs.
                let _ = file.set_len(0);
            })?;
            file.sync_data()?;
            Ok((file, size))
        };
        writer.next = spawn("log", prepare).ok();
    }

    /// Returns a head and the segments that hold all of it.
    pub(super) fn snapshot(&self) -> (Head, Arc<Vec<Arc<Segment>>>) {
        let shared = self.shared.read();
        (shared.head, shared.segments.clone())
    }

    fn read_segment(
        &self,
        segment: &Segment,
        seek: Seek,
        through: CommitNo,
        bytes: usize,
    ) -> Result<Page, LogError> {
        let wanted = bytes.min(READ_BYTES_MAX) as u64;
        let range = segment.with_marks(|marks, end| {
            let index = match seek {
                Seek::Commit(commit) => marks.at_commit(commit),
                Seek::Event(position) => marks.at_position(position),
            }?;
            let mark = marks.get(index);
            let stop = marks.stop_after(index, through, u64::from(mark.offset) + wanted);
            let stop = stop.map_or(end, |mark| u64::from(mark.offset));
            Some((marks.commit(&mark), marks.first_position(&mark), u64::from(mark.offset), stop))
        })?;
        let Some((commit, first, start, stop)) = range else {
            let Head { commit, position, .. } = segment.header.before;
            return Err(LogError::damaged(commit.next(), position.next(), "no record where one must be"));
        };
        let mut page = vec![0; (stop - start) as usize];
        read_exactly(&*segment.file.get()?, start, &mut page, commit, first)?;
        let before = Head {
            commit: CommitNo(commit.0 - 1),
            position: Position(first.0 - 1),
            time: Timestamp(0),
            hash: segment.header.before.hash,
        };
        Page::from_walk(Walk::new(self.place.store, &page, before), seek, through, bytes)
            .map(|(records, bounds)| Page { bytes: page, records, bounds })
    }
}

impl Log for SegmentLog {
    fn store(&self) -> StoreId {
        self.place.store
    }

    fn head(&self) -> Head {
        self.shared.read().head
    }

    fn append(&self, expected: &Head, commits: &[Commit]) -> Result<Head, LogError> {
        let mut writer = self.writer.lock();
        if writer.poisoned {
            return Err(poisoned());
        }
        let head = self.head();
        if head != *expected {
            return Err(LogError::NotAtHead { is: head.commit, expected: expected.commit });
        }
        if commits.is_empty() {
            return Ok(head);
        }
        self.write(&mut writer, &head, commits)
    }

    fn read(&self, from: Seek, through: CommitNo, bytes: usize) -> Result<Page, LogError> {
        let (head, segments) = self.snapshot();
        let through = through.min(head.commit);
        let (from, index) = match from {
            Seek::Commit(commit) => {
                let commit = commit.max(CommitNo(1));
                if commit > through {
                    return Ok(Page::default());
                }
                (Seek::Commit(commit), segments.partition_point(|segment| segment.first() <= commit))
            }
            Seek::Event(position) => {
                let position = position.max(Position(1));
                if position > head.position {
                    return Ok(Page::default());
                }
                (
                    Seek::Event(position),
                    segments.partition_point(|segment| segment.first_position() <= position),
                )
            }
        };
        let segment = &segments[index.checked_sub(1).expect("the first segment starts at the first commit")];
        let mut page = self.read_segment(segment, from, through, bytes)?;
        // A group never spans segments, and the next segment's header says where this one ended.
        if let Some(end) = segments.get(index).map(|next| next.header.before)
            && end.commit == page.bounds.last
        {
            page.bounds.boundary = Some(end);
        }
        Ok(page)
    }

    fn walk(
        &self,
        after: &Head,
        step: &mut dyn FnMut(&Page, &Head) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let (end, segments) = self.snapshot();
        let elsewhere = LogError::NotAtHead { is: end.commit, expected: after.commit };
        if after.commit >= end.commit {
            return if *after == end { Ok(()) } else { Err(elsewhere) };
        }
        let index = segments.partition_point(|segment| segment.header.before.commit <= after.commit);
        let segments =
            &segments[index.checked_sub(1).expect("the first segment starts at the first commit")..];
        let mut head = segments[0].header.before;
        // The first segment is walked from its start: its chain proves that `after` is part of this log.
        let mut met = head == *after;
        let mut from_after = |page: &Page, now: &Head| {
            if met {
                return step(page, now);
            }
            met = now == after;
            let passed = !met && now.commit >= after.commit;
            if passed { Err(LogError::NotAtHead { is: now.commit, expected: after.commit }) } else { Ok(()) }
        };
        for segment in segments {
            head = self.check_segment(segment, head, &end, &mut from_after)?;
        }
        if head != end {
            return Err(LogError::damaged(
                head.commit.next(),
                head.position.next(),
                "the chain ends elsewhere",
            ));
        }
        Ok(())
    }

    fn size(&self) -> LogSize {
        let (_, segments) = self.snapshot();
        let bytes = segments.iter().map(|segment| segment.len.load(Ordering::Relaxed)).sum();
        LogSize { files: segments.len() as u64, bytes }
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.writer.lock().next.take() {
            // Its result no longer matters: the next open removes the file.
            let _ = thread.join();
        }
    }

    fn seal(&self) -> Result<(), LogError> {
        let mut writer = self.writer.lock();
        if writer.poisoned {
            return Err(poisoned());
        }
        // A segment without groups is as good as a seal: its header was made when all before was durable.
        if writer.sealed || writer.end == HEADER as u64 {
            return Ok(());
        }
        self.check_locks()?;
        writer.poisoned = true;
        writer.file.write_at(writer.end, &group::seal(self.place.store, &self.head()))?;
        writer.file.sync_data()?;
        writer.poisoned = false;
        writer.sealed = true;
        Ok(())
    }
}

impl SegmentLog {
    fn check_segment(
        &self,
        segment: &Segment,
        mut head: Head,
        end: &Head,
        step: &mut dyn FnMut(&Page, &Head) -> Result<(), LogError>,
    ) -> Result<Head, LogError> {
        let (limit, store) = (segment.known.read().end, self.place.store);
        let file = segment.file.get()?;
        let mut window = Window::new(&*file, limit);
        let header = window.get(0, HEADER)?.map(Header::decode);
        if header != Some(Ok(segment.header)) || segment.header.before != head {
            return Err(LogError::damaged(
                head.commit.next(),
                head.position.next(),
                "segment header damaged",
            ));
        }
        let mut at = HEADER as u64;
        while at < limit && head.commit < end.commit {
            let damaged = |what: &str| LogError::damaged(head.commit.next(), head.position.next(), what);
            let found = window.get(at, group::HEAD)?.and_then(GroupHead::decode);
            let size = found.ok_or_else(|| damaged("group head damaged"))?.size();
            let bytes = window.get(at, size)?.ok_or_else(|| damaged("group longer than its segment"))?;
            let mut records = Vec::new();
            let after = group::verify(store, &head, bytes, |found| records.push(found.body))
                .map_err(|fault| damaged(&fault.to_string()))?;
            let page = Page { bytes: bytes.to_vec(), records, ..Page::default() };
            step(&page, &after)?;
            at += size as u64;
            head = after;
        }
        Ok(head)
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.end();
    }
}

/// Fills `out`. A file that ends before its durable bytes is damaged, not unreadable.
fn read_exactly(
    file: &dyn File,
    offset: u64,
    out: &mut [u8],
    commit: CommitNo,
    position: Position,
) -> Result<(), LogError> {
    file.read_at(offset, out).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => LogError::damaged(commit, position, "the segment file was cut off"),
        _ => error.into(),
    })
}

/// Returns whether the disk has no room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn poisoned() -> LogError {
    LogError::Io(io::Error::other("the log has stopped after an earlier error of the disk"))
}

/// Writes zeros from one offset up to another.
pub(super) fn write_zeros(file: &dyn File, from: u64, to: u64, stop: &AtomicBool) -> io::Result<()> {
    let zeros = vec![0; ZEROS.min(to.saturating_sub(from) as usize)];
    let mut at = from;
    while at < to {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = zeros.len().min((to - at) as usize);
        file.write_at(at, &zeros[..len])?;
        at += len as u64;
    }
    Ok(())
}

/// Gives the zeroed `next.creating` a header and `groups`, and then `name`, all durable.
pub(super) fn start(
    place: &Place,
    file: &dyn File,
    header: &Header,
    groups: &[u8],
    name: &str,
) -> Result<(), LogError> {
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(groups);
    file.write_at(0, &bytes)?;
    // Before the rename: a named segment is whole.
    file.sync_data()?;
    place.disk.rename(&place.path(NEXT), &place.path(name))?;
    place.disk.sync_dir(&place.dir)?;
    Ok(())
}

/// Ends a segment file at `end` with marks and trailer.
pub(super) fn finish(file: &dyn File, end: u64, tail: &[u8]) -> Result<(), LogError> {
    file.write_at(end, tail)?;
    file.set_len(end + tail.len() as u64)?;
    file.sync_data()?;
    Ok(())
}

/// Opens a segment of `place` for writing.
pub(super) fn open_for_writing(place: &Place, first: CommitNo) -> Result<Box<dyn File>, LogError> {
    Ok(place.disk.open(&place.path(&name(first)), Access::Write)?)
}
