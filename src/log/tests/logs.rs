//! Behaviour of every log, in both forms.

use super::super::memory::MemoryLog;
use super::super::record::Record;
use super::super::segments::{LogOptions, Prepare, SegmentLog};
use super::super::{Head, Log, LogError, Page, Seek};
use super::disk::MapDisk;
use super::only_numbered;
use super::{SMALL, STORE, dir, empty, fill, group, open, segment, served};
use crate::order::{CommitNo, Position};
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs a story over both forms.
fn both(story: impl Fn(&dyn Log)) {
    story(&MemoryLog::new(STORE));
    let disk = MapDisk::default();
    empty(&disk, &SMALL);
    story(&open(&disk).unwrap());
}

fn numbers(page: &Page) -> Vec<u64> {
    page.records().map(|record| record.unwrap().commit().0).collect()
}

/// Returns the sizes with which the segments of a log were made.
fn sizes(log: &SegmentLog) -> Vec<u64> {
    log.snapshot().1.iter().map(|segment| segment.header.size).collect()
}

#[test]
fn empty_log_reads_nothing() {
    both(|log| {
        assert_eq!((log.head(), log.store()), (Head::empty(STORE), STORE));
        assert!(log.read(Seek::Commit(CommitNo(1)), CommitNo(9), 99).unwrap().is_empty());
        assert!(log.read(Seek::Event(Position(1)), CommitNo(9), 99).unwrap().is_empty());
        log.check(&mut |_, _| panic!("there is no group")).unwrap();
        log.seal().unwrap();
    });
}

#[test]
fn appends_read_back_across_segments() {
    both(|log| {
        let sizes: Vec<usize> = (0..60).map(|index| 1 + index * 7 % 5).collect();
        let commits = fill(log, &sizes, 3);
        assert_eq!(served(log).unwrap(), commits);
    });
}

#[test]
fn both_forms_have_the_same_chain() {
    let heads = std::cell::RefCell::new(Vec::new());
    both(|log| {
        fill(log, &[1, 2, 3, 1, 1, 9, 4], 5);
        heads.borrow_mut().push(log.head());
    });
    assert_eq!(heads.borrow()[0], heads.borrow()[1]);
}

#[test]
fn append_expecting_other_head_is_refused() {
    both(|log| {
        fill(log, &[2], 1);
        let refused = log.append(&Head::empty(STORE), &group(&Head::empty(STORE), 1, 9));
        assert!(matches!(refused, Err(LogError::NotAtHead { is: CommitNo(2), expected: CommitNo(0) })));
        fill(log, &[1], 7);
        assert_eq!(log.head().commit, CommitNo(3));
    });
}

#[test]
fn an_append_of_nothing_changes_nothing() {
    both(|log| {
        fill(log, &[2], 1);
        assert_eq!(log.append(&log.head(), &[]).unwrap(), log.head());
        assert_eq!(served(log).unwrap().len(), 2);
    });
}

#[test]
fn read_is_bounded_by_end_and_head() {
    both(|log| {
        fill(log, &[2, 3, 1], 1);
        let read = |from: u64, through, bytes| {
            let page = log.read(Seek::Commit(CommitNo(from)), CommitNo(through), bytes).unwrap();
            let read = numbers(&page);
            assert!(
                read.iter().copied().eq(from.max(1)..from.max(1) + read.len() as u64),
                "in order, no gap"
            );
            (read.len(), read.last().copied())
        };
        // A page may end early, with its segment, but never late.
        assert!(matches!(read(2, 4, 1 << 20), (1..=3, Some(2..=4))));
        assert!(matches!(read(4, 4, 1 << 20), (1, Some(4))));
        assert!(matches!(read(5, 99, 1 << 20), (1..=2, Some(5..=6))));
        assert_eq!(read(0, 1, 1), (1, Some(1)));
        assert_eq!(read(1, 6, 0), (1, Some(1)));
        assert_eq!(read(7, 99, 1), (0, None));
        assert_eq!(read(4, 3, 1), (0, None));
        let late = log.read(Seek::Event(log.head().position), CommitNo(1), 1 << 20).unwrap();
        assert!(late.is_empty(), "the event is after the end of the read");
    });
}

#[test]
fn event_position_finds_its_commit() {
    both(|log| {
        let commits = fill(log, &[3, 3, 1, 5, 40], 2);
        for commit in commits.iter().filter(|commit| !commit.events.is_empty()) {
            for position in commit.first.0..=commit.last().0 {
                let page = log.read(Seek::Event(Position(position)), log.head().commit, 1).unwrap();
                assert_eq!(numbers(&page), [commit.commit.0]);
            }
        }
    });
}

#[test]
fn check_visits_every_group_and_head() {
    both(|log| {
        let mut heads = Vec::new();
        let sizes = [1, 4, 2, 9, 1];
        for &size in &sizes {
            fill(log, &[size], 4);
            heads.push(log.head());
        }
        let mut seen = Vec::new();
        let step = &mut |page: &Page, head: &Head| {
            seen.push((page.records().count(), *head));
            Ok(())
        };
        log.check(step).unwrap();
        assert_eq!(seen, sizes.into_iter().zip(heads).collect::<Vec<_>>());
        let stopped = log.check(&mut |_, _| Err(LogError::NotALog("enough".into())));
        assert!(matches!(stopped, Err(LogError::NotALog(_))));
    });
}

#[test]
fn oversized_group_enlarges_its_segment() {
    let disk = MapDisk::default();
    empty(&disk, &SMALL);
    let log = open(&disk).unwrap();
    let commits = fill(&log, &[1, 200, 1, 1, 300], 1);
    assert_eq!(served(&log).unwrap(), commits);
    drop(log);
    assert_eq!(served(&open(&disk).unwrap()).unwrap(), commits);
}

#[test]
fn oversized_first_group_fits() {
    let disk = MapDisk::default();
    empty(&disk, &SMALL);
    let commits = fill(&open(&disk).unwrap(), &[200], 1);
    assert_eq!(served(&open(&disk).unwrap()).unwrap(), commits);
}

#[test]
fn segments_double_up_to_their_limit() {
    let disk = MapDisk::default();
    empty(&disk, &SMALL);
    let log = open(&disk).unwrap();
    fill(&log, &[1; 120], 1);
    let sizes = sizes(&log);
    assert_eq!(sizes[..4], [1024, 2048, 4096, 4096]);
}

#[test]
fn next_segment_can_be_prepared_ahead() {
    let disk = MapDisk::default();
    let ahead = LogOptions { prepare: Prepare::Ahead, ..SMALL };
    empty(&disk, &ahead);
    let (log, _) = SegmentLog::open(&disk.shared(), dir(), ahead, None).unwrap();
    let commits = fill(&log, &[1; 150], 1);
    assert_eq!(served(&log).unwrap(), commits);
    drop(log);
    assert_eq!(served(&open(&disk).unwrap()).unwrap(), commits);
}

#[test]
fn readers_see_whole_groups_during_appends() {
    let disk = MapDisk::default();
    let ahead = LogOptions { prepare: Prepare::Ahead, ..SMALL };
    empty(&disk, &ahead);
    let (log, _) = SegmentLog::open(&disk.shared(), dir(), ahead, None).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let head = log.head();
                    let page = log.read(Seek::Commit(head.commit), head.commit, 1).unwrap();
                    assert_eq!(page.is_empty(), head.commit == CommitNo(0));
                    let served = served(&log).unwrap();
                    assert!(served.len() as u64 >= head.commit.0);
                }
            });
        }
        fill(&log, &[3; 100], 1);
        done.store(true, Ordering::Release);
    });
}

#[test]
fn sealed_log_opens_unchanged_and_continues() {
    let disk = MapDisk::default();
    empty(&disk, &SMALL);
    let mut commits = Vec::new();
    for salt in 0..12 {
        let (log, opened) = SegmentLog::open(&disk.shared(), dir(), SMALL, None).unwrap();
        assert_eq!(opened, Default::default());
        commits.extend(fill(&log, &[1], salt));
        log.seal().unwrap();
        commits.extend(fill(&log, &[2, 1], 5 * salt));
        log.seal().unwrap();
        log.seal().unwrap();
        assert_eq!(served(&log).unwrap(), commits);
    }
}

#[test]
fn unsealed_last_group_is_rewritten_once() {
    let disk = MapDisk::default();
    empty(&disk, &SMALL);
    let commits = fill(&open(&disk).unwrap(), &[1, 2, 2], 1);
    let (log, opened) = SegmentLog::open(&disk.shared(), dir(), SMALL, None).unwrap();
    assert_eq!((opened.rewritten, opened.cut), (Some(CommitNo(4)), None));
    assert_eq!(served(&log).unwrap(), commits);
    drop(log);
    let (log, opened) = SegmentLog::open(&disk.shared(), dir(), SMALL, None).unwrap();
    assert_eq!(opened, Default::default());
    assert_eq!(served(&log).unwrap(), commits);
    let more = fill(&log, &[1], 9);
    let known = Some((STORE, log.head()));
    drop(log);
    let (log, opened) = SegmentLog::open(&disk.copy().shared(), dir(), SMALL, only_numbered(6)).unwrap();
    assert!(opened.rewritten.is_some(), "a number alone proves nothing");
    drop(log);
    let (log, opened) = SegmentLog::open(&disk.shared(), dir(), SMALL, known).unwrap();
    assert_eq!(opened, Default::default(), "the caller knew it to be durable");
    assert_eq!(served(&log).unwrap(), [commits, more].concat());
}

#[test]
fn pages_reach_over_marks_and_segments() {
    let disk = MapDisk::default();
    let options = LogOptions { segment_bytes_min: 1 << 16, segment_bytes: 1 << 17, prepare: Prepare::AtNeed };
    empty(&disk, &options);
    let (log, _) = SegmentLog::open(&disk.shared(), dir(), options, None).unwrap();
    let commits = fill(&log, &[7; 200], 1);
    log.seal().unwrap();
    drop(log);
    let (log, _) = SegmentLog::open(&disk.shared(), dir(), options, None).unwrap();
    for bytes in [1, 500, 5000, 50_000, 1 << 30] {
        let (mut next, mut all) = (CommitNo(1), Vec::new());
        loop {
            let page = log.read(Seek::Commit(next), CommitNo(u64::MAX), bytes).unwrap();
            all.extend(page.records().map(|record| record.unwrap().to_commit()));
            match page.records().next_back() {
                Some(last) => next = last.unwrap().commit().next(),
                None => break,
            }
        }
        assert_eq!(all, commits);
    }
    assert!(sizes(&log).len() > 2 && disk.files().contains_key(&segment(1)));
}

#[test]
fn record_debug_output_hides_content() {
    let log = MemoryLog::new(STORE);
    fill(&log, &[1], 0);
    let page = log.read(Seek::Commit(CommitNo(1)), CommitNo(1), 1).unwrap();
    let record: Record<'_> = page.records().next().unwrap().unwrap();
    assert_eq!(format!("{record:?}"), "commit 1, 1 events from position 1");
}
