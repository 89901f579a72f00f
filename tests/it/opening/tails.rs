//! A log that has lost its tail is not served in silence while anything knows better.

use super::codes::*;
use std::path::PathBuf;
use tallystone::error::OpenError;
use tallystone::prelude::*;
use tallystone::testing::{Fault, Faults, ImagePolicy};
use tallystone::{CommitNo, Store};

fn segments(lab: &Lab) -> Vec<PathBuf> {
    let is_log = |path: &PathBuf| path.extension().is_some_and(|end| end == "log");
    lab.disk.files().into_iter().filter(is_log).collect()
}

/// Where groups begin in the last segment, and where its last byte is.
fn boundaries(lab: &Lab) -> (PathBuf, Vec<usize>, usize) {
    let path = segments(lab).pop().unwrap();
    let bytes = lab.disk.read_file(&path).unwrap();
    let is_group = |at: &usize| bytes[*at..].starts_with(&[b'T', b'G', b'1', 0xf5]);
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (path, (0..end).step_by(8).filter(is_group).collect(), end)
}

/// Lets the log end at a group boundary, with nothing but zeros behind it.
fn forget_from(lab: &Lab, boundary: usize) {
    let (path, _, end) = boundaries(lab);
    lab.disk.corrupt(&path, boundary as u64, &vec![0; end - boundary]);
}

fn pay(account: u32) -> Append {
    Append::event(Account::Paid { account, cents: 1 }).key("client", format!("key-{account}"))
}

/// Accounts with a payment each, by key; all of it flushed.
fn grown(lab: &Lab) -> Store {
    let store = lab.create(right(), LARGE);
    for account in 0..12 {
        append(&store, Account::Opened { account });
        store.append(pay(account)).unwrap();
    }
    settle(&store);
    store
}

fn lost(opened: Result<Store, OpenError>) -> (CommitNo, CommitNo, String) {
    match opened {
        Err(error @ OpenError::TailLost { commit, known_commit, .. }) => {
            let told = error.to_string();
            assert!(told.contains(&format!("accept_lost_tail(CommitNo::new({commit}))")), "{told}");
            (commit, known_commit, told)
        }
        other => panic!("it must be refused: {other:?}"),
    }
}

/// What must hold once a tail is accepted: it is on record, and its keys are free.
fn assert_accepted(lab: &Lab, store: Store, end: CommitNo) {
    settle(&store);
    let report = store.verify().unwrap();
    assert_eq!((report.first_bad, report.folded_otherwise), (None, None));
    let last = report.lost_tails.last().expect("it is on record");
    assert_eq!(last.commit, end);
    // A payment is the second commit of its account.
    let kept = u32::try_from(end.get() / 2).unwrap();
    if let Some(account) = kept.checked_sub(1) {
        assert!(store.append(pay(account)).unwrap().replayed);
    }
    append(&store, Account::Opened { account: 77 });
    assert!(!store.append(pay(77)).unwrap().replayed);
    store.close();
    let store = lab.open(right(), LARGE).unwrap();
    assert_right(&store, "opened again");
    assert_eq!(store.verify().unwrap().lost_tails.len(), 1);
}

#[test]
fn tail_lost_at_group_boundary_needs_acceptance() {
    let machine = Lab::new(1);
    grown(&machine).close();
    let starts = boundaries(&machine).1;
    // The last one is the seal.
    for (index, boundary) in starts[..starts.len() - 1].iter().enumerate() {
        let lab = machine.fork(index as u64);
        forget_from(&lab, *boundary);
        let before: Vec<_> = segments(&lab).iter().map(|path| lab.disk.read_file(path).unwrap()).collect();
        let (end, known, told) = lost(lab.open(right(), LARGE));
        assert!(end < known && told.contains("a later commit"), "{told}");
        let other = right().accept_lost_tail(CommitNo::new(end.get() + 1));
        assert_eq!(lost(lab.open(other, LARGE)).0, end, "another end is not accepted");
        let after: Vec<_> = segments(&lab).iter().map(|path| lab.disk.read_file(path).unwrap()).collect();
        assert!(before == after, "a refusal changes nothing");

        // Restored alone, the log is all that there is.
        let alone = lab.fork(index as u64);
        for (path, _) in alone.derived() {
            alone.remove(path);
        }
        assert_eq!(alone.open(right(), LARGE).unwrap().verify().unwrap().lost_tails.len(), 0);

        assert_accepted(&lab, lab.open(right().accept_lost_tail(end), LARGE).unwrap(), end);
    }
}

#[test]
fn each_state_file_alone_detects_lost_tail() {
    let machine = Lab::new(2);
    grown(&machine).close();
    let starts = boundaries(&machine).1;
    let boundary = starts[starts.len() - 4];
    let tells = |path: &PathBuf| path.extension().is_some_and(|end| end == "redb");
    let files: Vec<PathBuf> = machine.derived().into_iter().map(|(path, _)| path).filter(tells).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in &files {
        let lab = machine.fork(1);
        forget_from(&lab, boundary);
        files.iter().filter(|other| *other != file).for_each(|other| lab.remove(other));
        let (end, _, told) = lost(lab.open(right(), LARGE));
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(told.contains(name), "{told} names {name}");
        assert_accepted(&lab, lab.open(right().accept_lost_tail(end), LARGE).unwrap(), end);
    }
}

#[test]
fn recover_refuses_log_missing_acknowledged_commits() {
    let machine = Lab::new(3);
    grown(&machine).close();
    let starts = boundaries(&machine).1;
    for (index, boundary) in starts[..starts.len() - 1].iter().enumerate() {
        let lab = machine.fork(index as u64);
        let store = lab.open(right(), LARGE).unwrap();
        let served = store.stats().commit;
        forget_from(&lab, *boundary);
        lab.disk.plan(Faults::none().at(lab.disk.op_count(), Fault::WriteError));
        store.append(Append::event(Account::Opened { account: 50 })).unwrap_err();
        let refused = store.recover();
        let Err(OpenError::TailLost { commit: end, known_commit, known_by, .. }) = refused else {
            panic!("boundary {index}: {refused:?}");
        };
        assert_eq!((known_commit, known_by.as_str()), (served, "this process"));
        assert!(matches!(store.append(pay(99)), Err(AppendError::Poisoned { .. })));
        lab.kill(store);
        // A new process knows what that one did, though no derived state does.
        for (path, _) in
            lab.derived().into_iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "redb"))
        {
            lab.remove(path);
        }
        let (_, known, told) = lost(lab.open(right(), LARGE));
        assert!(known == served && told.contains("known.head"), "{told}");
        assert_accepted(&lab, lab.open(right().accept_lost_tail(end), LARGE).unwrap(), end);
    }
}

#[test]
fn diverged_log_history_is_refused_until_accepted() {
    let lab = Lab::new(4);
    let store = grown(&lab);
    store.close();
    let starts = boundaries(&lab).1;
    // The same log with another end, as it grew elsewhere.
    let elsewhere = lab.fork(1);
    forget_from(&elsewhere, starts[starts.len() - 6]);
    for (path, _) in elsewhere.derived() {
        elsewhere.remove(path);
    }
    let store = elsewhere.open(right(), LARGE).unwrap();
    (60..80).for_each(|account| append(&store, Account::Opened { account }));
    store.close();
    for path in segments(&lab) {
        lab.remove(path);
    }
    for path in segments(&elsewhere) {
        lab.disk.write_file(&path, &elsewhere.disk.read_file(&path).unwrap());
    }
    let (end, known, told) = lost(lab.open(right(), LARGE));
    assert!(end > known && told.contains("another commit"), "{told}");
    let store = lab.open(right().accept_lost_tail(end), LARGE).unwrap();
    assert_right(&store, "another history");
    assert_eq!(store.verify().unwrap().lost_tails.len(), 1);
}

#[test]
fn missing_tail_segments_are_refused_until_accepted() {
    let machine = Lab::new(5);
    let store = machine.create(right(), LARGE);
    work(&store, 0, 150);
    settle(&store);
    store.close();
    let all = segments(&machine);
    assert!(all.len() >= 3, "{all:?}");
    for kept in 1..all.len() {
        let lab = machine.fork(kept as u64);
        all[kept..].iter().for_each(|path| lab.remove(path));
        let next: u64 = all[kept].file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let end = CommitNo::new(next - 1);
        match lab.open(right(), LARGE) {
            Err(OpenError::Corrupt { commit, what, .. }) => {
                assert_eq!(commit.get(), next);
                assert!(what.contains(&format!("accept_lost_tail(CommitNo::new({end}))")), "{what}");
            }
            other => panic!("{other:?}"),
        }
        let store = lab.open(right().accept_lost_tail(end), LARGE).unwrap();
        assert_right(&store, "accepted");
        assert_eq!(store.verify().unwrap().lost_tails[0].commit, end);
    }
}

#[test]
fn tail_acceptance_is_atomic_under_power_cut() {
    let machine = Lab::new(6);
    grown(&machine).close();
    let starts = boundaries(&machine).1;
    forget_from(&machine, starts[starts.len() - 5]);
    let (end, known, _) = lost(machine.open(right(), LARGE));
    for ahead in 1.. {
        let lab = machine.fork(ahead);
        let policy = ImagePolicy::ALL[ahead as usize % ImagePolicy::ALL.len()];
        lab.disk.cut_at(lab.disk.op_count() + ahead, policy);
        let opened = lab.open(right().accept_lost_tail(end), LARGE);
        let done = opened.is_ok() && !lab.disk.is_off();
        drop(opened);
        if !lab.disk.is_off() {
            assert!(done && ahead > 10);
            return;
        }
        lab.disk.restart();
        let store = match lab.open(right(), LARGE) {
            Ok(store) => store,
            refused => {
                assert_eq!((lost(refused).0, known), (end, known));
                lab.open(right().accept_lost_tail(end), LARGE).unwrap()
            }
        };
        assert_right(&store, "accepted");
        let report = store.verify().unwrap();
        assert_eq!(
            report.lost_tails.iter().map(|tail| tail.commit).collect::<Vec<_>>(),
            [end],
            "after {ahead}"
        );
    }
}
