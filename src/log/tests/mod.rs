//! The log under test: both forms, every crash, damage anywhere.

mod disk;
mod records;
mod logs;
mod crashes;
mod damage;
mod golden;

use super::record::{Commit, Digests, Fold, Kept, KeyPart, LayoutDecl, Payload, StoredEvent};
use super::segments::{LogOptions, Prepare, SegmentLog};
use super::{Head, Log, LogError, StoreId};
use crate::order::{CommitNo, Timestamp};
use disk::MapDisk;
use std::path::{Path, PathBuf};

const STORE: StoreId = StoreId([0xab; 16]);
const SMALL: LogOptions =
    LogOptions { segment_bytes_min: 1024, segment_bytes: 4096, prepare: Prepare::AtNeed };

fn dir() -> &'static Path {
    Path::new("/store/log")
}

fn path(name: &str) -> PathBuf {
    dir().join(name)
}

/// Makes a head known from outside the log, of which only the commit number is right.
fn only_numbered(commit: u64) -> Option<(StoreId, Head)> {
    Some((STORE, Head { commit: CommitNo(commit), ..Head::empty(STORE) }))
}

fn segment(first: u64) -> PathBuf {
    path(&format!("{first:020}.log"))
}

/// Makes the commit after `before`, different for each `salt`, with so many events.
fn commit(before: &Head, events: usize, salt: u64) -> Commit {
    let number = before.commit.0 + 1;
    let event = |index: usize| StoredEvent {
        type_name: "Account.Opened".into(),
        schema: 1,
        codec: 1,
        stream: format!("Account/{}", number % 7),
        stream_version: number * 10 + index as u64,
        tags: vec![format!("owner:{salt}"); index % 3],
        data: vec![salt as u8; (salt % 90) as usize + index],
    };
    Commit {
        commit: before.commit.next(),
        first: before.position.next(),
        time: Timestamp(before.time.0 + salt % 5),
        label: format!("open {salt}"),
        layouts: Vec::from_iter(salt.is_multiple_of(4).then(|| LayoutDecl {
            type_name: "Account.Opened".into(),
            schema: 1,
            layout: "{owner:str}".into(),
        })),
        key: salt.is_multiple_of(2).then(|| KeyPart {
            scope: "tests".into(),
            key: format!("key {salt}"),
            parts: vec![("owner".into(), [salt as u8; 16])],
            digests: [Digests::ByBytes, Digests::ByNames][salt as usize / 2 % 2],
            kept: [Kept::Forever, Kept::UntilTime(Timestamp(salt)), Kept::UntilKeys(salt)][salt as usize % 3],
        }),
        response: salt.is_multiple_of(3).then(|| Payload { codec: 2, bytes: salt.to_string().into() }),
        events: (0..events).map(event).collect(),
        folds: vec![Fold { projection: 3, digest: salt }],
        inline: salt.is_multiple_of(5).then(|| (0..salt as u32 % 4).collect()),
    }
}

/// Makes a group of commits after `before`; the second of each three has no event.
fn group(before: &Head, commits: usize, salt: u64) -> Vec<Commit> {
    let (mut before, mut group) = (*before, Vec::new());
    for index in 0..commits {
        let events = [1, 0, 2][(before.commit.0 as usize + index) % 3];
        let commit = commit(&before, events, salt + index as u64);
        before =
            Head { commit: commit.commit, position: commit.last(), time: commit.time, hash: before.hash };
        group.push(commit);
    }
    group
}

fn empty(disk: &MapDisk, options: &LogOptions) {
    disk.put_dir(Path::new("/store"));
    SegmentLog::create(&disk.shared(), dir(), STORE, options).unwrap();
}

fn open(disk: &MapDisk) -> Result<SegmentLog, LogError> {
    SegmentLog::open(&disk.shared(), dir(), SMALL, None).map(|(log, _)| log)
}

/// Appends groups of these sizes and returns all commits.
fn fill(log: &dyn Log, groups: &[usize], salt: u64) -> Vec<Commit> {
    let mut all = Vec::new();
    for (index, &commits) in groups.iter().enumerate() {
        let head = log.head();
        let group = group(&head, commits, salt + 10 * index as u64);
        let after = log.append(&head, &group).unwrap();
        assert_eq!(after, log.head());
        all.extend(group);
    }
    all
}

/// Returns all commits that a log serves, read in every way.
fn served(log: &dyn Log) -> Result<Vec<Commit>, LogError> {
    let bodies = super::hostile::everything(log)?;
    Ok(bodies.iter().map(|body| super::record::Record::decode(body).unwrap().to_commit()).collect())
}
