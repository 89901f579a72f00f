//! A store looked at from outside: without its program, beside its writer, or on a medium that cannot be written.
//!
//! - Only the log is read, through files opened for reading: no lock is taken, nothing is made, nothing is changed.
//! - Everything shown is known to be durable: a group counts once a later group, a seal or a following segment says that it was synced.
//! - Nothing is indexed: each search reads the log up to the head, page by page. Memory holds what an answer holds.
//! - Payloads are read through the layouts in the log. No code of the program runs.

use crate::codec;
use crate::disk::{Disk, Platform};
use crate::episode::{Episodes, Violation};
use crate::error::{DecodeError, OpenError, ReadError, StorageError};
use crate::event::{Codec, Raw, RawRef, Sequenced};
use crate::key;
use crate::layout::Layout;
use crate::log::record::{Kept, Record};
use crate::log::segments::{SegmentLog, Tail};
use crate::log::{Head, Log, LogError, Page, Seek};
use crate::order::{CommitNo, Position};
use crate::projection::{Limits, Registered, key_range};
use crate::query::{self, Query};
use crate::recovery::refold;
use crate::request::{Durability, Receipt};
use crate::state::Published;
use crate::state::layer::{Direction, RowEntry};
use crate::state::overlay::Delta;
use crate::state::tables::Base;
use crate::value::Value;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Bytes of the log read at once.
const PAGE_BYTES: usize = 1 << 20;

/// A store opened for looking only: the log up to a head that is known to be durable. Of [`Store::inspect`](crate::Store::inspect).
///
/// Other processes may write the store meanwhile; [`refresh`](Self::refresh) moves the head. Each search reads the log from its start
/// or from the position that it is given: tens of millions of events take seconds.
pub struct Inspect {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    log: Arc<SegmentLog>,
    head: Head,
    tail: Tail,
}

impl std::fmt::Debug for Inspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspect")
            .field("path", &self.path)
            .field("position", &self.head.position)
            .finish_non_exhaustive()
    }
}

/// The end of the log, as it was looked at last.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct End {
    /// The last position that is shown.
    pub position: Position,
    /// Its commit.
    pub commit: CommitNo,
    /// The store's time of that commit. `None` in an empty store.
    pub committed_at: Option<SystemTime>,
    /// Commits after it that are whole and not shown, because nothing says yet that they were synced: the last group of a writer that
    /// runs, or that was killed.
    pub unproven_commits: u64,
    /// Bytes after those that are no whole group: one that is being written, or that a crash has torn. The next open cuts them off.
    pub torn_bytes: u64,
}

/// A type of events, in one of its versions.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TypeUse {
    /// Its full name, as in `account.Deposited`.
    pub name: String,
    /// The version of its payloads.
    pub schema: u16,
    /// The layout of its payloads. `None` if they are JSON.
    pub layout: Option<Layout>,
    /// Its events.
    pub events: u64,
    /// The first of them.
    pub first: Position,
    /// The last of them.
    pub last: Position,
}

/// The use of an idempotency key: the commit that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUse {
    /// The commit's receipt.
    pub receipt: Receipt,
    /// The label of the request; may be empty.
    pub label: String,
    /// The stored answer, encoded. Empty if there is none.
    pub response: Vec<u8>,
    /// Time up to which the key is kept.
    pub kept: KeptUntil,
}

/// Retention of an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeptUntil {
    /// For ever.
    Forever,
    /// Up to this time, by the store's time.
    Time(SystemTime),
    /// Up to the moment at which this many commits of the log have a key.
    Keys(u64),
}

/// Sizes of a store's files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InspectStats {
    /// Segment files of the log.
    pub log_files: u64,
    /// Their bytes, zeros written ahead included.
    pub log_bytes: u64,
    /// Files of derived state and their bytes, by their path below the store. Their contents are not read.
    pub derived: Vec<(String, u64)>,
}

/// A report on the log alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LogReport {
    /// Commits whose chain and checksums hold.
    pub commits: u64,
    /// Their events.
    pub events: u64,
    /// The first damage: the event at which it shows, and what it is.
    pub damage: Option<(Position, String)>,
}

impl Inspect {
    pub(crate) fn open(platform: &Platform, path: PathBuf) -> Result<Self, OpenError> {
        let disk = platform.disk.clone();
        let (log, tail) = SegmentLog::look(&disk, &path.join("log"))?;
        Ok(Self { head: log.head(), log: Arc::new(log), tail, disk, path })
    }

    /// Looks at the end of the log again. Events that are being read go on to the head at which they were asked for.
    ///
    /// # Errors
    ///
    /// As [`Store::inspect`](crate::Store::inspect); what was seen before stays readable.
    pub fn refresh(&mut self) -> Result<End, OpenError> {
        let (log, tail) = SegmentLog::look(&self.disk, &self.path.join("log"))?;
        (self.head, self.tail) = (log.head(), tail);
        self.log = Arc::new(log);
        Ok(self.end())
    }

    /// The end of what is shown, and what lies behind it.
    pub fn end(&self) -> End {
        let Head { commit, position, time, .. } = self.head;
        End {
            position,
            commit,
            committed_at: (commit > CommitNo::START).then(|| time.into()),
            unproven_commits: self.tail.unproven_commits,
            torn_bytes: self.tail.torn_bytes,
        }
    }

    /// Events that match, in order of positions, read as they are asked for. Types are full names (`account.Deposited`).
    ///
    /// A backward query is `Invalid`: begin at a later position instead.
    pub fn events(&self, query: impl Into<Query>) -> InspectedEvents {
        let query = query.into();
        let (after, up_to) = query.range();
        let failed = match (query.check(), query.is_backwards()) {
            (Err(bad), _) => Some(bad.into()),
            (Ok(()), true) => {
                Some(ReadError::Invalid { what: "query", why: "the log is read forwards only".to_owned() })
            }
            (Ok(()), false) => None,
        };
        InspectedEvents {
            log: self.log.clone(),
            head: self.head,
            next: after.next(),
            through: up_to.map_or(self.head.position, |up_to| up_to.min(self.head.position)),
            room: query.limit_events().unwrap_or(usize::MAX),
            query,
            page: VecDeque::new(),
            failed,
        }
    }

    /// The layouts in the log, to read payloads by field name. It reads the log once; keep it.
    ///
    /// # Errors
    ///
    /// `Storage`: damage, or the disk.
    pub fn layouts(&self) -> Result<Layouts, ReadError> {
        let mut layouts = Layouts::default();
        self.each_record(|record| {
            for declared in record.layouts() {
                layouts.declare(declared.type_name, declared.schema, declared.layout);
            }
            Ok(())
        })?;
        Ok(layouts)
    }

    /// Types of events by name and version, with layouts and counts.
    ///
    /// # Errors
    ///
    /// As [`layouts`](Self::layouts).
    pub fn types(&self) -> Result<Vec<TypeUse>, ReadError> {
        let (mut layouts, mut types) = (Layouts::default(), BTreeMap::<(String, u16), TypeUse>::new());
        self.each_record(|record| {
            for declared in record.layouts() {
                layouts.declare(declared.type_name, declared.schema, declared.layout);
            }
            for event in record.events() {
                let (name, schema, at) = (event.type_name, event.schema, event.position);
                let found = types.entry((name.to_owned(), schema)).or_insert_with(|| TypeUse {
                    name: name.to_owned(),
                    schema,
                    layout: None,
                    events: 0,
                    first: at,
                    last: at,
                });
                found.events += 1;
                found.last = at;
            }
            Ok(())
        })?;
        let types = types.into_iter().map(|((name, schema), found)| {
            let layout = layouts.of(&name, schema).cloned();
            TypeUse { layout, ..found }
        });
        Ok(types.collect())
    }

    /// Streams by name, each with its version: the number of its events.
    ///
    /// # Errors
    ///
    /// As [`layouts`](Self::layouts).
    pub fn streams(&self) -> Result<BTreeMap<String, u64>, ReadError> {
        let mut streams = BTreeMap::new();
        self.each_event(|event| {
            streams.insert(event.stream.to_owned(), event.stream_version);
        })?;
        Ok(streams)
    }

    /// Tags by name, each with the number of its events.
    ///
    /// # Errors
    ///
    /// As [`layouts`](Self::layouts).
    pub fn tags(&self) -> Result<BTreeMap<String, u64>, ReadError> {
        let mut tags = BTreeMap::new();
        self.each_event(|event| {
            for tag in event.tags.iter() {
                *tags.entry(tag.to_owned()).or_default() += 1;
            }
        })?;
        Ok(tags)
    }

    /// All violations on record, by check and activation. Those whose state is `Open` are violated now.
    ///
    /// # Errors
    ///
    /// As [`layouts`](Self::layouts). `Stalled`: a later version of this crate wrote events of its own that this one cannot read.
    pub fn violations(&self) -> Result<Vec<Violation>, ReadError> {
        let episodes = Registered::of::<Episodes>();
        let limits = Limits { row_key_bytes: usize::MAX, row_bytes: usize::MAX };
        let mut rows = Published::on(Arc::new(Base::Empty), Head::empty(self.log.store()), Arc::default());
        self.each_page(|page| {
            let (mut delta, mut end) = (Delta::default(), rows.head);
            for record in page.records() {
                let record = record.map_err(LogError::from).map_err(StorageError::from)?;
                let failed = refold(&record, &[&episodes], &limits, &rows, &Delta::default(), &mut delta)?;
                if let Some((_, stall)) = failed.into_iter().next() {
                    let (projection, position, why) = (episodes.name, stall.position, stall.why);
                    return Err(ReadError::Stalled { projection, position, why });
                }
                (end.commit, end.position, end.time) = (record.commit(), record.last(), record.time());
            }
            rows.active.apply(delta);
            rows.head = end;
            Ok(())
        })?;
        let undecodable = |cause: DecodeError| ReadError::Decode { position: Position::START, cause };
        let range = key_range::<Episodes>(episodes.id, ..).map_err(undecodable)?;
        let found = rows.read(&[], |layers| layers.rows(&range, Direction::Forward, usize::MAX))?;
        let violation = |(row_key, version): RowEntry| {
            let value = version.value.as_deref().unwrap_or_default();
            let (activation, row) = (key::decode(&row_key[4..])?, codec::decode(value)?);
            Ok(Violation::new(activation, row))
        };
        found.into_iter().map(|entry| violation(entry).map_err(undecodable)).collect()
    }

    /// The commit that an idempotency key names. `None`: the key was not used, as far as is shown. A key that is not kept any more
    /// is found all the same; if it was used again, its last use.
    ///
    /// # Errors
    ///
    /// As [`layouts`](Self::layouts).
    pub fn key(&self, scope: &str, key: &str) -> Result<Option<KeyUse>, ReadError> {
        let mut found = None;
        self.each_record(|record| {
            let Some(part) = record.key().filter(|part| part.scope == scope && part.key == key) else {
                return Ok(());
            };
            let kept = match part.kept {
                Kept::Forever => KeptUntil::Forever,
                Kept::UntilTime(time) => KeptUntil::Time(time.into()),
                Kept::UntilKeys(keys) => KeptUntil::Keys(keys),
            };
            found = Some(KeyUse {
                receipt: Receipt::new(
                    record.commit(),
                    record.first(),
                    record.last(),
                    record.time(),
                    Durability::Sync,
                ),
                label: record.label().to_owned(),
                response: record.response().map_or_else(Vec::new, |response| response.bytes.to_vec()),
                kept,
            });
            Ok(())
        })?;
        Ok(found)
    }

    /// Walks the whole log up to the head: chain, checksums, numbers.
    ///
    /// # Errors
    ///
    /// `Storage`: the disk. Damage is in the report.
    pub fn verify(&self) -> Result<LogReport, ReadError> {
        let mut report = LogReport::default();
        let walked = self.log.check(&mut |page, after| {
            for record in page.records() {
                report.commits += 1;
                report.events += record?.events().count() as u64;
            }
            debug_assert!(after.commit <= self.head.commit, "the log was opened at the head");
            Ok(())
        });
        match walked {
            Ok(()) => {}
            Err(LogError::Io(error)) => {
                return Err(StorageError::io("the log could not be read", error).into());
            }
            Err(LogError::Corrupt { position, what, .. }) => report.damage = Some((position, what)),
            Err(other) => report.damage = Some((Position::START, other.to_string())),
        }
        Ok(report)
    }

    /// Sizes of the store's files.
    ///
    /// # Errors
    ///
    /// `Storage`: a directory cannot be listed.
    pub fn stats(&self) -> Result<InspectStats, ReadError> {
        let size = self.log.size();
        let mut stats = InspectStats { log_files: size.files, log_bytes: size.bytes, derived: Vec::new() };
        let unlisted =
            |error| StorageError::io(format!("{} could not be listed", self.path.display()), error);
        self.sizes(&self.path, "", &mut stats.derived).map_err(unlisted)?;
        let behind = self.path.join("behind");
        match self.sizes(&behind, "behind/", &mut stats.derived) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unlisted(error).into()),
            _ => Ok(stats),
        }
    }

    /// Sizes of the files of derived state in a directory. One that goes meanwhile is left out.
    fn sizes(&self, dir: &Path, prefix: &str, into: &mut Vec<(String, u64)>) -> io::Result<()> {
        for name in self.disk.list(dir)?.into_iter().filter(|name| name.ends_with(".redb")) {
            if let Ok(bytes) =
                self.disk.open(&dir.join(&name), crate::disk::Access::Read).and_then(|file| file.len())
            {
                into.push((format!("{prefix}{name}"), bytes));
            }
        }
        Ok(())
    }

    // ---- reading ----

    fn each_page(&self, mut each: impl FnMut(&Page) -> Result<(), ReadError>) -> Result<(), ReadError> {
        let mut next = CommitNo::START.next();
        while next <= self.head.commit {
            let page = self
                .log
                .read(Seek::Commit(next), self.head.commit, PAGE_BYTES)
                .map_err(StorageError::from)?;
            each(&page)?;
            next = page.last().next();
        }
        Ok(())
    }

    fn each_record(
        &self,
        mut each: impl FnMut(&Record<'_>) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        self.each_page(|page| {
            page.records()
                .try_for_each(|record| each(&record.map_err(LogError::from).map_err(StorageError::from)?))
        })
    }

    fn each_event(&self, mut each: impl FnMut(crate::log::record::EventRef<'_>)) -> Result<(), ReadError> {
        self.each_record(|record| {
            record.events().for_each(&mut each);
            Ok(())
        })
    }
}

/// Layouts of payloads by type and version, as a log declares them. Of [`Inspect::layouts`].
#[derive(Debug, Clone, Default)]
pub struct Layouts(BTreeMap<String, BTreeMap<u16, Layout>>);

impl Layouts {
    fn declare(&mut self, type_name: &str, schema: u16, text: &str) {
        // One that does not parse is one of a later version: its events tell that they cannot be read.
        if let Ok(layout) = Layout::parse(text) {
            self.0.entry(type_name.to_owned()).or_default().insert(schema, layout);
        }
    }

    /// The layout of a type in a version. `None` if the log has none, as for JSON.
    pub fn of(&self, type_name: &str, schema: u16) -> Option<&Layout> {
        self.0.get(type_name)?.get(&schema)
    }

    /// The payload of an event by field name, as it was written: no step of an upcast is applied.
    ///
    /// # Errors
    ///
    /// `Decode`: the payload does not fit its layout, the log has none, or it is JSON and the feature `json` is off.
    pub fn value(&self, event: &Sequenced<Raw>) -> Result<Value, ReadError> {
        let raw = &event.event;
        let value = match raw.codec() {
            Codec::Json => Value::of_json(raw.data()),
            Codec::Bincode => match self.of(raw.type_name(), raw.schema()) {
                Some(layout) => layout.read(raw.data()),
                None => Err(DecodeError::new("the log has no layout of it")),
            },
        };
        value.map_err(|cause| ReadError::Decode { position: event.position, cause })
    }
}

/// Events of a store that is looked at, read as they are asked for. Of [`Inspect::events`].
pub struct InspectedEvents {
    log: Arc<SegmentLog>,
    head: Head,
    query: Query,
    next: Position,
    through: Position,
    /// Events that may still be given.
    room: usize,
    page: VecDeque<Sequenced<Raw>>,
    failed: Option<ReadError>,
}

impl InspectedEvents {
    fn next_event(&mut self) -> Result<Option<Sequenced<Raw>>, ReadError> {
        if let Some(failed) = self.failed.take() {
            self.room = 0;
            return Err(failed);
        }
        while self.room > 0 {
            if let Some(event) = self.page.pop_front() {
                self.room -= 1;
                return Ok(Some(event));
            }
            if self.next > self.through {
                break;
            }
            self.read_page()?;
        }
        Ok(None)
    }

    fn read_page(&mut self) -> Result<(), ReadError> {
        let page = self
            .log
            .read(Seek::Event(self.next), self.head.commit, PAGE_BYTES)
            .map_err(StorageError::from)?;
        let mut last = None;
        for record in page.records() {
            let record = record.map_err(LogError::from).map_err(StorageError::from)?;
            for event in record.events() {
                let (position, stream_version) = (event.position, event.stream_version);
                last = Some(position);
                let raw = event.raw().map_err(|cause| ReadError::Decode { position, cause })?;
                if position >= self.next && position <= self.through && self.matches(&raw) {
                    let (event, recorded_at) = (raw.to_raw(), record.time().into());
                    self.page.push_back(Sequenced { event, position, stream_version, recorded_at });
                }
            }
        }
        self.next = last.map_or(self.through.next(), Position::next);
        Ok(())
    }

    fn matches(&self, raw: &RawRef<'_>) -> bool {
        query::matches(&self.query, raw.type_name(), raw.stream(), raw.tags())
    }
}

impl Iterator for InspectedEvents {
    type Item = Result<Sequenced<Raw>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_event();
        if next.is_err() {
            (self.room, self.page) = (0, VecDeque::new());
        }
        next.transpose()
    }
}
