//! Tests of the simulated disk: a fault that is not what its name says proves nothing.

use super::*;
use crate::disk::LockState;
use std::collections::BTreeSet;

fn path(name: &str) -> PathBuf {
    Path::new("/").join(name)
}

/// Returns a disk on which `/a` holds `before`, synced, name and all, and a handle on it.
fn with_file(seed: u64, before: &[u8]) -> (SimDisk, Box<dyn File>) {
    let disk = SimDisk::new(seed);
    let file = disk.create_new(&path("a")).unwrap();
    file.write_at(0, before).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(&path("")).unwrap();
    (disk, file)
}

fn next(disk: &SimDisk, fault: Fault) {
    disk.plan(Faults::none().at(disk.op_count() + 1, fault));
}

fn read(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    disk.read_file(path(name)).ok()
}

fn bytes(disk: &SimDisk) -> Vec<u8> {
    read(disk, "a").expect("/a is there")
}

/// Returns every outcome of a change and a cut, over many seeds.
fn outcomes<T: Ord>(
    policy: ImagePolicy,
    run: impl Fn(&SimDisk),
    seen: impl Fn(&SimDisk) -> T,
) -> BTreeSet<T> {
    let once = |seed| {
        let disk = SimDisk::new(seed);
        run(&disk);
        disk.power_cut(policy);
        seen(&disk)
    };
    (0..300).map(once).collect()
}

// ---- data across a cut

#[test]
fn synced_bytes_survive_every_policy() {
    for policy in ImagePolicy::ALL {
        let (disk, _file) = with_file(1, b"kept");
        let cut = disk.power_cut(policy);
        assert_eq!(
            (bytes(&disk), cut.kept, cut.dropped, cut.torn),
            (b"kept".to_vec(), 0, 0, 0),
            "{policy:?}"
        );
    }
}

#[test]
fn drop_all_loses_and_keep_all_keeps_writes() {
    for (policy, after) in [(ImagePolicy::DropAll, b"old".to_vec()), (ImagePolicy::KeepAll, b"new!".to_vec())]
    {
        let (disk, file) = with_file(1, b"old");
        file.write_at(0, b"new!").unwrap();
        assert_eq!(disk.read_durable("/a").unwrap(), b"old");
        disk.power_cut(policy);
        assert_eq!(bytes(&disk), after, "{policy:?}");
    }
}

#[test]
fn random_policy_can_keep_only_later_write() {
    let run = |disk: &SimDisk| {
        disk.write_file("/a", b"..");
        let file = disk.open(&path("a"), Access::Write).unwrap();
        file.write_at(0, b"1").unwrap();
        file.write_at(1, b"2").unwrap();
    };
    let all: BTreeSet<_> = [b"..", b"1.", b".2", b"12"].map(|image| image.to_vec()).into();
    assert_eq!(outcomes(ImagePolicy::Random, run, bytes), all);
}

#[test]
fn dropped_truncation_restores_truncated_bytes() {
    let run = |disk: &SimDisk| {
        disk.write_file("/a", b"long");
        let file = disk.open(&path("a"), Access::Write).unwrap();
        file.set_len(0).unwrap();
        file.write_at(0, b"x").unwrap();
    };
    let all: BTreeSet<_> = [&b"long"[..], b"", b"xong", b"x"].map(<[u8]>::to_vec).into();
    assert_eq!(outcomes(ImagePolicy::Random, run, bytes), all);
}

#[test]
fn whole_sectors_of_one_write_survive_independently() {
    let run = |disk: &SimDisk| {
        disk.write_file("/a", &[b'.'; 1536]);
        disk.open(&path("a"), Access::Write).unwrap().write_at(100, &[b'n'; 1200]).unwrap();
    };
    let images = outcomes(ImagePolicy::Sectors, run, |disk| {
        let bytes = bytes(disk);
        for (start, end) in [(0, 100), (100, 512), (512, 1024), (1024, 1300), (1300, 1536)] {
            assert!(bytes[start..end].iter().all(|byte| *byte == bytes[start]), "sector torn within");
        }
        [bytes[100], bytes[512], bytes[1024]].map(|byte| byte == b'n')
    });
    assert_eq!(images.len(), 8, "each of three sectors kept or not");
}

#[test]
fn lost_last_sector_can_keep_length() {
    let run = |disk: &SimDisk| {
        disk.write_file("/a", b"");
        disk.open(&path("a"), Access::Write).unwrap().write_at(0, &[7; 700]).unwrap();
    };
    let images = outcomes(ImagePolicy::Sectors, run, |disk| (bytes(disk).len(), bytes(disk).last().copied()));
    let all = [(0, None), (512, Some(7)), (700, Some(7)), (700, Some(0))];
    assert_eq!(images, all.into());
}

#[test]
fn torn_policy_keeps_call_prefix_across_files() {
    let run = |disk: &SimDisk| {
        for name in ["a", "b"] {
            disk.write_file(path(name), b"");
        }
        let files = ["a", "b"].map(|name| disk.open(&path(name), Access::Write).unwrap());
        for (at, file) in [0, 1, 0, 1].into_iter().enumerate() {
            files[file].write_at((at as u64 / 2) * 10, &[at as u8 + 1; 10]).unwrap();
        }
    };
    let lens = |disk: &SimDisk| (bytes(disk).len() as u64, read(disk, "b").unwrap().len() as u64);
    let images = outcomes(ImagePolicy::Torn, run, lens);
    for (a, b) in &images {
        let whole = (*a % 10 == 0) || (*b % 10 == 0);
        let ordered = *b <= 10 * a.div_ceil(10) && *a <= 10 + 10 * (b / 10);
        assert!(whole && ordered, "a has {a} bytes, b has {b}");
    }
    assert!(images.iter().any(|(a, b)| (a % 10) + (b % 10) != 0), "a write cut at a byte");
    assert!(images.contains(&(20, 20)) && images.contains(&(0, 0)));
}

#[test]
fn length_only_policy_zeroes_unsynced_data() {
    let (disk, file) = with_file(1, b"old");
    file.write_at(1, b"newer").unwrap();
    disk.create_new(&path("b")).unwrap().write_at(0, b"data").unwrap();
    disk.power_cut(ImagePolicy::LengthOnly);
    assert_eq!(bytes(&disk), b"old\0\0\0");
    assert_eq!(read(&disk, "b").unwrap(), [0; 4]);
}

#[test]
fn what_survived_a_cut_is_durable() {
    let (disk, file) = with_file(1, b"old");
    file.write_at(0, b"new").unwrap();
    disk.power_cut(ImagePolicy::KeepAll);
    disk.power_cut(ImagePolicy::DropAll);
    assert_eq!(bytes(&disk), b"new");
}

// ---- names across a cut

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list(&path("")).unwrap()
}

#[test]
fn synced_file_can_lose_unsynced_name() {
    let run = |disk: &SimDisk| {
        let file = disk.create_new(&path("a")).unwrap();
        file.write_at(0, b"x").unwrap();
        file.sync_data().unwrap();
    };
    let seen = |disk: &SimDisk| read(disk, "a");
    assert_eq!(outcomes(ImagePolicy::Random, run, seen), [None, Some(b"x".to_vec())].into());
    assert_eq!(outcomes(ImagePolicy::DropAll, run, seen), [None].into());
    assert_eq!(outcomes(ImagePolicy::KeepAll, run, seen), [Some(b"x".to_vec())].into());
}

#[test]
fn durable_name_can_point_to_empty_file() {
    let disk = SimDisk::new(1);
    disk.create_new(&path("a")).unwrap().write_at(0, b"x").unwrap();
    disk.sync_dir(&path("")).unwrap();
    disk.power_cut(ImagePolicy::DropAll);
    assert_eq!(bytes(&disk), b"");
}

#[test]
fn unsynced_rename_leaves_exactly_one_name() {
    let run = |disk: &SimDisk| {
        disk.write_file("/a", b"x");
        disk.rename(&path("a"), &path("b")).unwrap();
        disk.rename(&path("b"), &path("c")).unwrap();
    };
    for policy in [ImagePolicy::Random, ImagePolicy::Sectors, ImagePolicy::Torn] {
        let one_name = ["a", "b", "c"].map(|name| vec![name.to_owned()]);
        assert_eq!(outcomes(policy, run, names), one_name.into(), "{policy:?}");
    }
}

#[test]
fn renamed_new_file_has_at_most_one_name() {
    let run = |disk: &SimDisk| {
        disk.create_new(&path("a")).unwrap();
        disk.rename(&path("a"), &path("b")).unwrap();
    };
    let all = [vec![], vec!["a".to_owned()], vec!["b".to_owned()]];
    assert_eq!(outcomes(ImagePolicy::Random, run, names), all.into());
}

#[test]
fn names_of_different_files_survive_independently() {
    let run = |disk: &SimDisk| {
        disk.create_new(&path("a")).unwrap();
        disk.create_new(&path("b")).unwrap();
    };
    assert_eq!(outcomes(ImagePolicy::Random, run, |disk| names(disk).concat()).len(), 4);
}

#[test]
fn unsynced_removal_can_restore_file_content() {
    let run = |disk: &SimDisk| {
        disk.write_file("/a", b"x");
        disk.remove(&path("a")).unwrap();
        assert_eq!(disk.kind(&path("a")).unwrap_err().kind(), io::ErrorKind::NotFound);
    };
    assert_eq!(
        outcomes(ImagePolicy::Random, run, |disk| read(disk, "a")),
        [None, Some(b"x".to_vec())].into()
    );
}

// A name is used again before its removal was synced: the second file must not survive without the removal.
#[test]
fn name_changes_survive_in_order() {
    let run = |disk: &SimDisk| {
        disk.write_file("/a", b"1");
        disk.rename(&path("a"), &path("b")).unwrap();
        let file = disk.create_new(&path("a")).unwrap();
        file.write_at(0, b"2").unwrap();
        file.sync_data().unwrap();
    };
    let seen = |disk: &SimDisk| (read(disk, "a"), read(disk, "b"));
    let (one, two) = (Some(b"1".to_vec()), Some(b"2".to_vec()));
    let all = [(one.clone(), None), (None, one.clone()), (two, one)];
    assert_eq!(outcomes(ImagePolicy::Random, run, seen), all.into());
}

#[test]
fn directory_without_durable_name_loses_files() {
    let disk = SimDisk::new(1);
    disk.create_dir(&path("d")).unwrap();
    disk.create_new(&path("d/a")).unwrap().sync_data().unwrap();
    disk.sync_dir(&path("d")).unwrap();
    disk.power_cut(ImagePolicy::DropAll);
    assert_eq!(disk.kind(&path("d")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(disk.files().is_empty());
}

#[test]
fn move_across_directories_needs_both_synced() {
    let halves = |synced: &[&str]| {
        let disk = SimDisk::new(1);
        disk.write_file("/from/a", b"x");
        disk.write_file("/to/z", b"");
        disk.rename(&path("from/a"), &path("to/a")).unwrap();
        synced.iter().for_each(|dir| disk.sync_dir(&path(dir)).unwrap());
        disk.power_cut(ImagePolicy::DropAll);
        (read(&disk, "from/a").is_some(), read(&disk, "to/a").is_some())
    };
    assert_eq!(halves(&[]), (true, false));
    assert_eq!(halves(&["from", "to"]), (false, true));
    assert_eq!(halves(&["to"]), (true, true), "found twice");
    assert_eq!(halves(&["from"]), (false, false), "lost");
}

// ---- processes, locks, handles

#[test]
fn kill_keeps_page_cache_and_syncs_nothing() {
    let (disk, file) = with_file(1, b"old");
    file.write_at(0, b"new").unwrap();
    disk.create_new(&path("b")).unwrap();
    disk.kill();
    assert_eq!((bytes(&disk), names(&disk)), (b"new".to_vec(), vec!["a".to_owned(), "b".to_owned()]));
    disk.power_cut(ImagePolicy::DropAll);
    assert_eq!((bytes(&disk), names(&disk)), (b"old".to_vec(), vec!["a".to_owned()]));
}

#[test]
fn sync_after_kill_makes_earlier_writes_durable() {
    let (disk, file) = with_file(1, b"old");
    file.write_at(0, b"new").unwrap();
    disk.kill();
    disk.open(&path("a"), Access::Write).unwrap().sync_data().unwrap();
    disk.power_cut(ImagePolicy::DropAll);
    assert_eq!(bytes(&disk), b"new");
}

#[test]
fn lock_ends_with_handle_or_process() {
    let (disk, _file) = with_file(1, b"");
    let lock = || disk.lock(&path("a")).unwrap();
    let first = lock().expect("nobody has it");
    assert!(lock().is_none());
    drop(first);
    let second = lock().expect("its holder let go");
    disk.kill();
    let third = lock().expect("its holder is gone");
    drop(second);
    assert!(lock().is_none(), "a dead handle's end frees nothing");
    disk.power_cut(ImagePolicy::KeepAll);
    assert!(lock().is_some() && third.state().is_err());
}

#[test]
fn lock_reports_removed_path_and_fork() {
    let (disk, _file) = with_file(1, b"");
    let lock = disk.lock(&path("a")).unwrap().unwrap();
    assert_eq!(lock.state().unwrap(), LockState::Held);
    disk.run_as(1);
    assert_eq!(lock.state().unwrap(), LockState::Forked);
    disk.run_as(0);
    disk.remove(&path("a")).unwrap();
    assert_eq!(lock.state().unwrap(), LockState::Gone);
    disk.create_new(&path("a")).unwrap();
    assert_eq!(lock.state().unwrap(), LockState::Gone);
    assert!(disk.lock(&path("a")).unwrap().is_some());
}

#[test]
fn calls_on_dead_handles_fail() {
    type End = fn(&SimDisk);
    for end in [(|disk| assert_eq!(disk.power_cut(ImagePolicy::KeepAll).dropped, 0)) as End, SimDisk::kill] {
        let (disk, file) = with_file(1, b"x");
        end(&disk);
        let calls = (disk.op_count(), disk.read_count());
        assert!(file.len().is_err() && file.read_at(0, &mut [0]).is_err() && file.write_at(0, b"y").is_err());
        assert!(file.set_len(0).is_err() && file.sync_data().is_err());
        assert_eq!(disk.stats().calls_on_dead_handles, 5);
        assert_eq!((disk.op_count(), disk.read_count()), calls, "they never reach the disk");
        assert_eq!(bytes(&disk), b"x");
    }
}

#[test]
fn handles_outlive_renames_and_removals() {
    let (disk, file) = with_file(1, b"x");
    disk.rename(&path("a"), &path("b")).unwrap();
    file.write_at(1, b"y").unwrap();
    assert_eq!(read(&disk, "b").unwrap(), b"xy");
    disk.remove(&path("b")).unwrap();
    disk.sync_dir(&path("")).unwrap();
    file.write_at(2, b"z").unwrap();
    assert_eq!((file.len().unwrap(), disk.bytes_used()), (3, 3));
    drop(file);
    assert_eq!(disk.bytes_used(), 0);
}

#[test]
fn only_regular_files_are_opened() {
    let disk = SimDisk::new(1);
    disk.create_dir(&path("d")).unwrap();
    disk.place("/link", Kind::Symlink);
    for name in ["d", "link"] {
        assert_eq!(disk.open(&path(name), Access::Read).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(disk.create_new(&path(name)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
    assert_eq!(disk.kind(&path("link")).unwrap(), Kind::Symlink);
}

// ---- planned cuts

#[test]
fn calls_fail_from_planned_power_cut_on() {
    let (disk, file) = with_file(1, b"old");
    let at = disk.op_count() + 2;
    disk.cut_at(at, ImagePolicy::KeepAll);
    file.write_at(0, b"new").unwrap();
    assert!(!disk.is_off());
    assert!(file.sync_data().is_err() && disk.is_off());
    assert!(
        file.read_at(0, &mut [0]).is_err() && disk.list(&path("")).is_err() && disk.lock(&path("a")).is_err()
    );
    assert!(disk.create_new(&path("b")).is_err() && disk.open(&path("a"), Access::Read).is_err());
    assert_eq!(disk.op_count(), at);
    let cut = disk.restart();
    assert_eq!((cut.op, cut.kept, cut.policy), (at, 1, ImagePolicy::KeepAll));
    assert_eq!((bytes(&disk), names(&disk)), (b"new".to_vec(), vec!["a".to_owned()]));
    disk.create_new(&path("b")).unwrap();
}

#[test]
fn forks_allow_different_power_cuts() {
    let (disk, file) = with_file(1, b"old");
    disk.cut_at(disk.op_count() + 2, ImagePolicy::DropAll);
    file.write_at(0, b"new").unwrap();
    assert!(file.sync_data().is_err());
    let cut = |policy| {
        let fork = disk.fork(9);
        fork.power_cut(policy);
        bytes(&fork)
    };
    assert_eq!((cut(ImagePolicy::KeepAll), cut(ImagePolicy::DropAll)), (b"new".to_vec(), b"old".to_vec()));
    assert!(disk.is_off(), "the forks are other disks");
}

#[test]
fn fork_seed_decides_its_power_cut() {
    let (disk, file) = with_file(1, &[0; 64]);
    (0..64).for_each(|at| file.write_at(at, b"1").unwrap());
    let cut = |seed| {
        let fork = disk.fork(seed);
        fork.power_cut(ImagePolicy::Random);
        bytes(&fork)
    };
    assert_eq!(cut(1), cut(1));
    assert!((0..60).map(cut).collect::<BTreeSet<_>>().len() > 50);
    assert_eq!(bytes(&disk), [b'1'; 64]);
}

// ---- faults

#[test]
fn refusing_fault_fails_one_call_without_effect() {
    type Run = fn(&SimDisk, &dyn File) -> io::Result<()>;
    let write: Run = |_, file| file.write_at(0, b"new");
    let set_len: Run = |_, file| file.set_len(9);
    let sync: Run = |_, file| file.sync_data();
    let sync_dir: Run = |disk, _| disk.sync_dir(&path(""));
    let create: Run = |disk, _| disk.create_new(&path("b")).map(drop);
    let create_dir: Run = |disk, _| disk.create_dir(&path("b"));
    let rename: Run = |disk, _| disk.rename(&path("a"), &path("b"));
    let remove: Run = |disk, _| disk.remove(&path("a"));
    let cases = [
        (Fault::WriteError, vec![write, set_len]),
        (Fault::SyncError, vec![sync]),
        (Fault::SyncDirError, vec![sync_dir]),
        (Fault::NameError, vec![create, create_dir, rename, remove]),
        (Fault::NoSpace, vec![write, set_len, sync, create, create_dir]),
        (Fault::AnyError, vec![write, set_len, sync, sync_dir, create, create_dir, rename, remove]),
    ];
    for (fault, calls) in cases {
        for (index, call) in calls.into_iter().enumerate() {
            let (disk, file) = with_file(1, b"old");
            next(&disk, fault);
            let error = call(&disk, &*file).unwrap_err();
            assert_eq!(error.kind() == io::ErrorKind::StorageFull, fault == Fault::NoSpace, "{error}");
            assert_eq!(
                (bytes(&disk), names(&disk)),
                (b"old".to_vec(), vec!["a".to_owned()]),
                "{fault:?} {index}"
            );
            assert_eq!(disk.stats().fault(fault), 1);
            call(&disk, &*file).unwrap();
            assert_eq!(disk.stats().fault(fault), 1, "once");
        }
    }
}

#[test]
fn fault_waits_for_applicable_call() {
    let (disk, file) = with_file(1, b"old");
    next(&disk, Fault::SyncError);
    file.write_at(0, b"new").unwrap();
    assert!(file.sync_data().is_err());
}

#[test]
fn fault_can_be_permanent_or_random() {
    let (disk, file) = with_file(1, b"old");
    disk.plan(Faults::none().from(disk.op_count() + 2, Fault::WriteError));
    file.write_at(0, b"1").unwrap();
    assert!((0..5).all(|_| file.write_at(0, b"2").is_err()));
    disk.plan(Faults::none().rate(Fault::WriteError, 0.5));
    let failed = (0..1000).filter(|_| file.write_at(0, b"3").is_err()).count();
    assert!((400..600).contains(&failed), "{failed} of 1000");
    disk.power_cut(ImagePolicy::DropAll);
    let file = disk.open(&path("a"), Access::Write).unwrap();
    assert!((0..100).all(|_| file.write_at(0, b"4").is_ok()), "a power cut clears the plan");
}

#[test]
fn a_short_write_leaves_a_prefix() {
    let lens: BTreeSet<_> = (0..200)
        .map(|seed| {
            let (disk, file) = with_file(seed, b"");
            next(&disk, Fault::ShortWrite);
            assert!(file.write_at(0, b"abcd").is_err());
            assert!(b"abcd".starts_with(&bytes(&disk)));
            file.sync_data().unwrap();
            disk.power_cut(ImagePolicy::DropAll);
            bytes(&disk).len()
        })
        .collect();
    assert_eq!(lens, (0..4).collect());
}

#[test]
fn failed_sync_keeping_dirty_data_is_retryable() {
    let (disk, file) = with_file(1, b"old");
    file.write_at(0, b"new").unwrap();
    next(&disk, Fault::SyncError);
    assert!(file.sync_data().is_err());
    assert_eq!((bytes(&disk), disk.read_durable("/a").unwrap()), (b"new".to_vec(), b"old".to_vec()));
    disk.open(&path("a"), Access::Write).unwrap().sync_data().unwrap();
    assert_eq!(disk.read_durable("/a").unwrap(), b"new");
}

// 1. write, sync fails: the kernel calls the pages clean. 2. They read as new, in this process and the next.
// 3. A later sync says yes and writes nothing. 4. The power goes: they were never there.
#[test]
fn fsyncgate_readable_new_content_is_never_durable() {
    for again in [SimDisk::kill, |_: &SimDisk| {}] {
        let (disk, file) = with_file(1, b"old");
        file.write_at(0, b"new, longer").unwrap();
        next(&disk, Fault::SyncErrorKeepsNew);
        assert!(file.sync_data().is_err());
        again(&disk);
        let file = disk.open(&path("a"), Access::Write).unwrap();
        assert_eq!(bytes(&disk), b"new, longer");
        file.sync_data().unwrap();
        assert_eq!(bytes(&disk), b"new, longer");
        disk.power_cut(ImagePolicy::KeepAll);
        assert_eq!(bytes(&disk), b"old");
    }
}

#[test]
fn fsyncgate_only_rewritten_bytes_become_durable() {
    let (disk, file) = with_file(1, b"old");
    file.write_at(0, b"new").unwrap();
    next(&disk, Fault::SyncErrorKeepsNew);
    assert!(file.sync_data().is_err());
    let file = disk.open(&path("a"), Access::Write).unwrap();
    file.write_at(1, b"E").unwrap();
    file.sync_data().unwrap();
    assert_eq!(bytes(&disk), b"nEw");
    disk.power_cut(ImagePolicy::DropAll);
    assert_eq!(bytes(&disk), b"oEd");
}

#[test]
fn fsyncgate_old_content_is_read_immediately() {
    let (disk, file) = with_file(1, b"old");
    file.write_at(0, b"new, longer").unwrap();
    next(&disk, Fault::SyncErrorShowsOld);
    assert!(file.sync_data().is_err());
    assert_eq!((bytes(&disk), file.len().unwrap()), (b"old".to_vec(), 3));
    disk.power_cut(ImagePolicy::KeepAll);
    assert_eq!(bytes(&disk), b"old");
}

/// Reads show all new sectors until the power cut; the medium has only some of them.
#[test]
fn fsyncgate_partial_sync_persists_only_some_sectors() {
    let images: BTreeSet<_> = (0..100)
        .map(|seed| {
            let (disk, file) = with_file(seed, &[b'o'; 1024]);
            file.write_at(0, &[b'n'; 1024]).unwrap();
            next(&disk, Fault::SyncErrorPartly);
            assert!(file.sync_data().is_err());
            assert_eq!(bytes(&disk), [b'n'; 1024]);
            disk.power_cut(ImagePolicy::KeepAll);
            [bytes(&disk)[0], bytes(&disk)[512]]
        })
        .collect();
    assert_eq!(images, [*b"oo", *b"on", *b"no", *b"nn"].into());
}

#[test]
fn failed_sync_affects_only_its_file() {
    for fault in [Fault::SyncErrorKeepsNew, Fault::SyncErrorPartly, Fault::SyncErrorShowsOld] {
        let (disk, file) = with_file(1, b"old");
        disk.write_file("/b", b"");
        let other = disk.open(&path("b"), Access::Write).unwrap();
        other.write_at(0, b"x").unwrap();
        next(&disk, fault);
        assert!(file.sync_data().is_err());
        other.sync_data().unwrap();
        disk.power_cut(ImagePolicy::DropAll);
        assert_eq!(read(&disk, "b").unwrap(), b"x");
    }
}

#[test]
fn sync_after_failed_sync_is_counted() {
    let (disk, file) = with_file(1, b"old");
    next(&disk, Fault::SyncError);
    assert!(file.sync_data().is_err());
    assert_eq!(disk.stats().syncs_after_failed_sync, 0);
    disk.open(&path("a"), Access::Write).unwrap().sync_data().unwrap();
    assert_eq!(disk.stats().syncs_after_failed_sync, 0, "another handle");
    file.sync_data().unwrap();
    assert_eq!(disk.stats().syncs_after_failed_sync, 1);
}

#[test]
fn a_lying_sync_makes_nothing_durable() {
    let (disk, file) = with_file(1, b"old");
    disk.plan(Faults::none().rate(Fault::LyingSync, 1.0));
    file.write_at(0, b"new").unwrap();
    file.sync_data().unwrap();
    disk.create_new(&path("b")).unwrap();
    disk.sync_dir(&path("")).unwrap();
    disk.power_cut(ImagePolicy::DropAll);
    assert_eq!((bytes(&disk), names(&disk)), (b"old".to_vec(), vec!["a".to_owned()]));
}

#[test]
fn read_fault_is_planned_by_read_count() {
    let (disk, file) = with_file(1, b"x");
    disk.plan(Faults::none().at(disk.read_count() + 2, Fault::ReadError));
    let mut out = [0];
    file.read_at(0, &mut out).unwrap();
    assert!(file.read_at(0, &mut out).is_err());
    file.read_at(0, &mut out).unwrap();
    assert_eq!(disk.stats().fault(Fault::ReadError), 1);
}

#[test]
fn unreadable_bytes_stay_unreadable_until_overwritten() {
    let (disk, file) = with_file(1, b"abcdef");
    disk.make_unreadable("/a", 2..4);
    file.read_at(0, &mut [0; 2]).unwrap();
    file.read_at(4, &mut [0; 2]).unwrap();
    assert!(file.read_at(1, &mut [0; 2]).is_err());
    file.write_at(2, b"C").unwrap();
    assert!(file.read_at(3, &mut [0; 1]).is_err());
    disk.power_cut(ImagePolicy::DropAll);
    let file = disk.open(&path("a"), Access::Write).unwrap();
    assert!(file.read_at(3, &mut [0; 1]).is_err(), "the medium is damaged, not the cache");
    file.write_at(2, b"CD").unwrap();
    file.read_at(0, &mut [0; 6]).unwrap();
    assert_eq!(disk.stats().unreadable, 3);
}

#[test]
fn the_quota_lets_in_what_fits() {
    let (disk, file) = with_file(1, b"1234");
    disk.quota(Some(10));
    disk.write_file("/b", b"12");
    assert_eq!(file.set_len(9).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.write_at(2, b"abcdefgh").unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(bytes(&disk), b"12abcdef", "as much as fits");
    file.write_at(0, b"00").unwrap();
    assert_eq!(file.write_at(100, b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!((file.len().unwrap(), disk.bytes_used(), disk.stats().over_quota), (8, 10, 3));
    disk.quota(Some(11));
    file.set_len(9).unwrap();
    disk.quota(Some(1));
    file.set_len(5).unwrap();
    assert!(file.write_at(5, b"x").is_err(), "a full disk still lets files shrink");
    disk.quota(Some(8));
    next(&disk, Fault::ShortWrite);
    file.write_at(5, &[0; 1000]).unwrap_err();
    assert!(disk.bytes_used() <= 8, "a short write is not let in either");
}

#[test]
fn bit_rot_changes_medium_and_cache() {
    let (disk, file) = with_file(1, b"abc");
    file.write_at(3, b"d").unwrap();
    disk.flip_bit("/a", 1, 0);
    disk.corrupt("/a", 2, b"XY");
    assert_eq!(bytes(&disk), b"acXY");
    disk.power_cut(ImagePolicy::DropAll);
    assert_eq!((bytes(&disk), disk.stats().rotted), (b"acX".to_vec(), 2));
}

#[test]
fn files_put_there_are_durable() {
    let disk = SimDisk::new(1);
    disk.write_file("/d/e/a", b"1");
    disk.write_file("/d/e/a", b"2");
    disk.power_cut(ImagePolicy::DropAll);
    assert_eq!(disk.files(), [path("d/e/a")]);
    assert_eq!(disk.read_durable("/d/e/a").unwrap(), b"2");
}

#[test]
fn write_file_is_durable_despite_unsynced_name_changes() {
    let run = |disk: &SimDisk| {
        disk.create_new(&path("a")).unwrap();
        disk.remove(&path("a")).unwrap();
        disk.write_file("/a", b"x");
        disk.create_new(&path("b")).unwrap().write_at(0, b"yy").unwrap();
        disk.write_file("/b", b"x");
    };
    let x = Some(b"x".to_vec());
    assert_eq!(
        outcomes(ImagePolicy::Random, run, |disk| (read(disk, "a"), read(disk, "b"))),
        [(x.clone(), x)].into()
    );
}

// ---- the whole

/// Makes some hundred random calls, faults, cuts and kills. Their results are part of the trace.
fn busy(seed: u64, reads: bool) -> SimDisk {
    let disk = SimDisk::new(seed);
    let mut random = Random::new(seed);
    let names: Vec<PathBuf> = ["a", "b", "d", "d/a", "d/b"].map(path).into();
    let mut files: Vec<Box<dyn File>> = Vec::new();
    for _ in 0..300 {
        let pick = |random: &mut Random| names[random.below(names.len() as u64) as usize].clone();
        let (one, other) = (pick(&mut random), pick(&mut random));
        let at = random.below(6000);
        if reads {
            disk.list(&one).ok();
            disk.kind(&one).ok();
            disk.open(&one, Access::Read).and_then(|file| file.len()).ok();
            files.first().map(|file| file.read_at(at, &mut [0; 9]));
        }
        let file = (!files.is_empty()).then(|| random.below(files.len() as u64) as usize);
        match (random.below(16), file) {
            (0, _) => drop(disk.create_dir(&one)),
            (1..4, _) => files.extend(disk.create_new(&one).ok()),
            (4, _) => drop(disk.rename(&one, &other)),
            (5, _) => drop(disk.remove(&one).or_else(|_| disk.remove_dir(&one))),
            (6, _) => drop(disk.sync_dir(one.parent().unwrap())),
            (7, _) if at < 1000 => _ = disk.power_cut(ImagePolicy::ALL[random.below(6) as usize]),
            (7, _) if at < 2000 => disk.kill(),
            (7, _) => {
                let fault = Fault::ALL[random.below(Fault::ALL.len() as u64) as usize];
                disk.plan(Faults::none().rate(fault, 0.1));
            }
            (8, Some(file)) => drop(files.swap_remove(file)),
            (9, Some(file)) => drop(files[file].set_len(at)),
            (10, Some(file)) => drop(files[file].sync_data()),
            (_, Some(file)) => drop(files[file].write_at(at, &vec![at as u8; random.below(9000) as usize])),
            _ => {}
        }
    }
    disk
}

fn image(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    disk.files().into_iter().map(|path| (path.clone(), disk.read_file(&path).unwrap())).collect()
}

#[test]
fn same_seed_gives_same_trace() {
    let mut traces = BTreeSet::new();
    for seed in 0..100 {
        let (one, other) = (busy(seed, false), busy(seed, false));
        assert_eq!(one.trace_hash(), other.trace_hash(), "seed {seed}");
        assert_eq!((image(&one), one.stats(), one.recent()), (image(&other), other.stats(), other.recent()));
        traces.insert(one.trace_hash());
    }
    assert_eq!(traces.len(), 100);
}

#[test]
fn reads_change_no_later_outcome() {
    for seed in 0..100 {
        let (quiet, asked) = (busy(seed, false), busy(seed, true));
        assert_eq!(quiet.trace_hash(), asked.trace_hash(), "seed {seed}");
        assert_eq!(image(&quiet), image(&asked), "seed {seed}");
    }
}

#[test]
fn every_call_and_fault_is_counted() {
    let (mut calls, mut faults) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..200 {
        let stats = busy(seed, true).stats();
        calls.extend(stats.calls.into_keys());
        faults.extend(stats.faults.into_keys());
    }
    assert_eq!(faults, Fault::ALL.into());
    assert_eq!(calls.len(), 14, "{calls:?}");
}

#[test]
fn the_report_says_what_happened() {
    let (disk, file) = with_file(1, b"old");
    next(&disk, Fault::WriteError);
    file.write_at(3, b"new").unwrap_err();
    assert_eq!(disk.recent().last().unwrap().trim(), "5 Write /a 3+3 [WriteError] -> other error");
    let shown = disk.stats().to_string();
    assert!(shown.contains("fault WriteError               1"), "{shown}");
}

/// A log as small as can be: equal records, one sync for some of them, cut and opened again and again.
#[test]
fn synced_log_records_survive_every_power_cut() {
    const RECORD: usize = 700;
    for seed in 0..600 {
        let disk = SimDisk::new(seed);
        let mut random = Random::new(!seed);
        disk.write_file("/log", b"");
        let mut synced = 0u64;
        for _ in 0..6 {
            let cut_at = disk.op_count() + 1 + random.below(20);
            disk.cut_at(cut_at, ImagePolicy::ALL[random.below(6) as usize]);
            append_until_cut(&disk, &mut synced, &mut random, RECORD);
            disk.restart();
            let bytes = disk.read_file("/log").unwrap();
            let whole = |no: &u64| {
                let start = *no as usize * RECORD;
                bytes
                    .get(start..start + RECORD)
                    .is_some_and(|record| record.iter().all(|byte| *byte == *no as u8 + 1))
            };
            assert!((0..synced).all(|no| whole(&no)), "seed {seed}: lost one of {synced}");
            assert_eq!(disk.stats().syncs_after_failed_sync, 0);
        }
    }
}

fn append_until_cut(disk: &SimDisk, synced: &mut u64, random: &mut Random, record: usize) {
    let file = disk.open(&path("log"), Access::Write).unwrap();
    let mut written = *synced;
    let mut step = || -> io::Result<()> {
        file.set_len(written * record as u64)?;
        loop {
            for _ in 0..=random.below(3) {
                file.write_at(written * record as u64, &vec![written as u8 + 1; record])?;
                written += 1;
            }
            file.sync_data()?;
            *synced = written;
        }
    };
    step().unwrap_err();
}

/// The same calls on the operating system's disk: whatever is true there without faults is true here.
#[cfg(unix)]
#[test]
fn behaves_like_real_disk_without_faults() {
    use crate::disk::RealDisk;
    for seed in 0..60 {
        let room = tempfile::tempdir().unwrap();
        let sim = SimDisk::new(seed);
        let real = differential(&RealDisk, room.path(), seed);
        let simulated = differential(&sim, Path::new("/"), seed);
        for (step, (one, other)) in real.iter().zip(&simulated).enumerate() {
            assert_eq!(one, other, "seed {seed} step {step}, real left, simulated right");
        }
    }
}

#[cfg(unix)]
fn differential(disk: &dyn Disk, root: &Path, seed: u64) -> Vec<String> {
    let mut random = Random::new(seed);
    let names = ["a", "b", "d", "d/a", "e", "e/a", "a/x"];
    let mut files: Vec<Box<dyn File>> = Vec::new();
    let mut locks: Vec<Box<dyn Lock>> = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..200 {
        let pick = |random: &mut Random| root.join(names[random.below(names.len() as u64) as usize]);
        let (one, other) = (pick(&mut random), pick(&mut random));
        let at = random.below(9000);
        let mut out = vec![0; random.below(3) as usize * 1500];
        let file = (!files.is_empty()).then(|| random.below(files.len() as u64) as usize);
        let call = random.below(16);
        let answer = match (call, file) {
            (0, _) => told_kind(disk.create_dir(&one)),
            (1, _) => told_kind(disk.kind(&one)),
            (2, _) => told_kind(disk.list(&one)),
            (3 | 4, _) => told_kind(disk.create_new(&one).map(|file| files.push(file))),
            (5, _) => told_kind(disk.open(&one, Access::Write).map(|file| files.push(file))),
            // Moving a directory elsewhere is not simulated.
            (6, _) if one.parent() == other.parent() => told_kind(disk.rename(&one, &other)),
            (7, _) => told_kind(disk.remove(&one)),
            (8, _) => told_kind(disk.remove_dir(&one)),
            (9, _) => told_kind(disk.sync_dir(&one)),
            (10, Some(file)) => told_kind(files[file].set_len(at)),
            (11, _) if at < 1000 => {
                locks.clear();
                String::new()
            }
            (11, _) => {
                let taken = disk.lock(&one);
                let answer =
                    told_kind(taken.as_ref().map(Option::is_some).map_err(|error| error.kind().into()));
                locks.extend(taken.ok().flatten());
                answer
            }
            (12, Some(file)) => told_kind(files[file].read_at(at, &mut out).map(|()| crc32c::crc32c(&out))),
            (13, Some(file)) => told_kind(files[file].len()),
            (14, Some(file)) if at < 2000 => {
                drop(files.swap_remove(file));
                String::new()
            }
            (_, Some(file)) => told_kind(files[file].write_at(at, &vec![at as u8; out.len()])),
            _ => String::new(),
        };
        answers.push(format!("{call}: {answer}"));
    }
    answers
}

#[cfg(unix)]
fn told_kind<T: fmt::Debug>(answer: io::Result<T>) -> String {
    format!("{:?}", answer.map_err(|error| error.kind()))
}
