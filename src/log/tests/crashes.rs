//! Crashes and failing disks, at every operation: acknowledged commits are there, whole, and served commits stay.

use super::super::record::Commit;
use super::super::segments::{Opened, SegmentLog};
use super::super::{Log, LogError};
use super::STORE;
use super::disk::{Fault, MapDisk, Random, Survives};
use super::{SMALL, commit, dir, empty, group, open, served};
use std::path::Path;

/// Knowledge of a caller: every acknowledged commit, and a group whose outcome is unknown.
#[derive(Debug, Clone, Default)]
struct Known {
    acknowledged: Vec<Commit>,
    in_doubt: Vec<Commit>,
}

impl Known {
    /// Opens, appends some groups, may seal, until the disk fails.
    fn work(&mut self, disk: &MapDisk, salt: u64) -> Result<(), LogError> {
        let log = open(disk)?;
        self.settle(&log);
        for round in 0..7 {
            let head = log.head();
            let seed = salt + 13 * round;
            let group = group(&head, 1 + (seed % 4) as usize, seed);
            self.in_doubt = group.clone();
            let appended = log.append(&head, &group);
            assert!(
                appended.is_ok() || log.append(&log.head(), &group).is_err(),
                "after an error nothing is taken"
            );
            appended?;
            self.acknowledged.append(&mut self.in_doubt);
            if round == salt % 9 {
                log.seal()?;
            }
        }
        if salt.is_multiple_of(2) { log.seal() } else { Ok(()) }
    }

    /// Checks that the log holds all acknowledged commits, and the group in doubt whole or not at all.
    fn settle(&mut self, log: &dyn Log) {
        let served = served(log).unwrap();
        let both = [&self.acknowledged[..], &self.in_doubt].concat();
        assert!(served == self.acknowledged || served == both, "{} served, {self:?}", served.len());
        self.acknowledged = served;
        self.in_doubt.clear();
    }
}

fn survivors(kind: u64, seed: u64) -> Survives {
    match kind {
        0 => Survives::Everything,
        1 => Survives::OnlySynced,
        _ => Survives::Some(seed),
    }
}

/// Returns the number of operations that `story` takes on a disk.
fn operations(disk: &MapDisk, story: impl FnOnce(&MapDisk)) -> u64 {
    let disk = disk.copy();
    let before = disk.ops();
    story(&disk);
    disk.ops() - before
}

/// Makes a log some way into its life, with several segments.
fn grown(salt: u64) -> (MapDisk, Known) {
    let (disk, mut known) = (MapDisk::default(), Known::default());
    empty(&disk, &SMALL);
    known.work(&disk, salt).unwrap();
    disk.crash(Survives::Everything);
    (disk, known)
}

/// Opens after a crash. Served commits must survive the next power cut, also if nothing was written since.
fn recovered(disk: &MapDisk, known: &mut Known) {
    let log = open(disk).unwrap();
    known.settle(&log);
    drop(log);
    let (log, opened) = SegmentLog::open(&disk.shared(), dir(), SMALL, None).unwrap();
    assert_eq!(opened, Opened::default(), "an open leaves nothing to make good");
    drop(log);
    disk.crash(Survives::OnlySynced);
    let log = open(disk).unwrap();
    assert_eq!(served(&log).unwrap(), known.acknowledged, "what was served was durable");
}

#[test]
fn crash_at_any_operation_keeps_acknowledged_commits() {
    for salt in 0..6 {
        let (disk, known) = grown(salt);
        let total = operations(&disk, |disk| known.clone().work(disk, salt + 1).unwrap());
        for op in 1..=total {
            for kind in 0..5 {
                let (disk, mut known) = (disk.copy(), known.clone());
                disk.fail_after(op, Fault::PowerOff);
                assert!(known.work(&disk, salt + 1).is_err());
                disk.crash(survivors(kind, salt * 10_000 + op * 10 + kind));
                recovered(&disk, &mut known);
                known.work(&disk, salt + 2).unwrap();
                disk.crash(Survives::OnlySynced);
                recovered(&disk, &mut known);
            }
        }
    }
}

#[test]
fn crash_during_recovery_keeps_acknowledged_commits() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let (disk, mut known) = grown(random.below(50));
        let salt = random.below(1000);
        let total = operations(&disk, |disk| known.clone().work(disk, salt).unwrap());
        disk.fail_after(1 + random.below(total), Fault::PowerOff);
        assert!(known.work(&disk, salt).is_err());
        disk.crash(survivors(random.below(4), random.next()));
        let total = operations(&disk, |disk| drop(open(disk).unwrap()));
        for op in 1..=total {
            for kind in 0..4 {
                let (disk, mut known) = (disk.copy(), known.clone());
                disk.fail_after(op, Fault::PowerOff);
                open(&disk).unwrap_err();
                disk.crash(survivors(kind, random.next()));
                recovered(&disk, &mut known);
            }
        }
    }
}

#[test]
fn repeated_crashes_keep_acknowledged_commits() {
    for seed in 0..150 {
        let mut random = Random(seed);
        let (disk, mut known) = grown(seed);
        for _ in 0..25 {
            disk.fail_after(1 + random.below(45), Fault::PowerOff);
            let _ = known.work(&disk, random.below(1000));
            disk.crash(survivors(random.below(4), random.next()));
        }
        recovered(&disk, &mut known);
    }
}

#[test]
fn reopened_log_recovers_after_failed_write_or_sync() {
    for salt in 0..4 {
        let (disk, known) = grown(salt);
        let total = operations(&disk, |disk| known.clone().work(disk, salt + 1).unwrap());
        for op in 1..=total {
            for fault in [Fault::SyncKeeps, Fault::SyncDrops, Fault::HalfWrite] {
                for power_cut in [false, true] {
                    let (disk, mut known) = (disk.copy(), known.clone());
                    disk.fail_after(op, fault);
                    if known.work(&disk, salt + 1).is_ok() {
                        continue;
                    }
                    // The process opens again without ending, or the machine goes down first.
                    disk.crash(if power_cut { Survives::OnlySynced } else { Survives::Everything });
                    recovered(&disk, &mut known);
                    known.work(&disk, salt + 2).unwrap();
                    disk.crash(Survives::OnlySynced);
                    recovered(&disk, &mut known);
                }
            }
        }
    }
}

#[test]
fn a_seal_survives_a_power_cut() {
    let (disk, _) = grown(1);
    let log = open(&disk).unwrap();
    super::fill(&log, &[1, 2], 5);
    log.seal().unwrap();
    disk.crash(Survives::OnlySynced);
    let (_, opened) = SegmentLog::open(&disk.shared(), dir(), SMALL, None).unwrap();
    assert_eq!(opened, Opened::default());
}

#[test]
fn reads_continue_after_failed_append() {
    let (disk, _) = grown(2);
    let log = open(&disk).unwrap();
    let (head, before) = (log.head(), served(&log).unwrap());
    disk.fail_after(2, Fault::SyncKeeps);
    assert!(matches!(log.append(&head, &[commit(&head, 1, 1)]), Err(LogError::Io(_))));
    assert!(matches!(log.append(&head, &[commit(&head, 1, 1)]), Err(LogError::Io(_))));
    assert!(matches!(log.seal(), Err(LogError::Io(_))));
    assert_eq!((log.head(), served(&log).unwrap()), (head, before));
}

#[test]
fn old_readers_continue_after_failure_and_reopen() {
    for fault in [Fault::SyncKeeps, Fault::SyncDrops, Fault::HalfWrite] {
        for groups in 0..4 {
            let (disk, _) = grown(2);
            let log = open(&disk).unwrap();
            super::fill(&log, &vec![1; groups], 9);
            let (head, before) = (log.head(), served(&log).unwrap());
            disk.fail_after(if fault == Fault::HalfWrite { 1 } else { 2 }, fault);
            let group = group(&head, 2, 1);
            log.append(&head, &group).unwrap_err();
            let (again, _) = SegmentLog::open(&disk.shared(), dir(), SMALL, Some((STORE, head))).unwrap();
            let kept = again.head() != head;
            assert_eq!(kept, fault == Fault::SyncKeeps);
            assert_eq!(
                served(&again).unwrap(),
                if kept { [before.clone(), group].concat() } else { before.clone() }
            );
            super::fill(&again, &[1, 1, 1], 3);
            assert_eq!((log.head(), served(&log).unwrap()), (head, before));
            log.check(&mut |_, _| Ok(())).unwrap();
        }
    }
}

#[test]
fn group_with_failed_sync_stays_invisible() {
    let (disk, _) = grown(2);
    let log = open(&disk).unwrap();
    let head = log.head();
    disk.fail_after(2, Fault::SyncKeeps);
    log.append(&head, &[commit(&head, 1, 1)]).unwrap_err();
    let beyond = log.read(super::super::Seek::Commit(head.commit.next()), head.commit.next(), 1).unwrap();
    assert!(beyond.is_empty());
    log.check(&mut |_, _| Ok(())).unwrap();
}

#[test]
fn crash_during_creation_is_all_or_nothing() {
    let total = {
        let disk = MapDisk::default();
        operations(&disk, |disk| empty(disk, &SMALL))
    };
    for op in 1..=total {
        for kind in 0..20 {
            let disk = MapDisk::default();
            disk.put_dir(Path::new("/store"));
            disk.fail_after(op, Fault::PowerOff);
            SegmentLog::create(&disk.shared(), dir(), super::STORE, &SMALL).unwrap_err();
            disk.crash(survivors(kind, op * 100 + kind));
            match open(&disk) {
                Ok(log) => assert_eq!(log.head(), super::Head::empty(super::STORE)),
                Err(LogError::NotALog(_) | LogError::Io(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
}
