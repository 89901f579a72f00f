//! Rows of two programs are never served as those of one.

use super::codes::*;
use tallystone::error::OpenError;
use tallystone::testing::ImagePolicy;
use tallystone::{Setup, Store};

/// A store whose `state.redb` has half of the log.
fn half_flushed(lab: &Lab) {
    let store = lab.create(right(), TINY);
    work(&store, 0, 20);
    store.close();
    let store = lab.open(right(), LARGE).unwrap();
    work(&store, 20, 40);
    settle(&store);
    lab.kill(store);
}

#[test]
fn refused_open_changes_no_derived_file() {
    for without_state in [false, true] {
        for (wrong, names) in
            [(older(), "account.Bonus` (12 events, the first at 3)"), (without_notes(), "note.Written` (9")]
        {
            let lab = Lab::new(1);
            half_flushed(&lab);
            if without_state {
                lab.remove(STATE);
            }
            let before = lab.derived();
            match lab.open(wrong, TINY) {
                Err(OpenError::Missing(missing)) => {
                    let named = missing.iter().any(|missing| missing.what.contains(names));
                    assert!(named, "{missing:?} name {names}");
                }
                other => panic!("{other:?}"),
            }
            assert!(lab.derived() == before, "without state: {without_state}");
            assert_right(&lab.open(right(), TINY).unwrap(), "after a refusal");
        }
    }
}

/// Opens with `first`, dies at each operation of that in turn, and opens with `then` and at last with the right program.
fn die_at_each_operation(lab: &Lab, first: fn() -> Setup, then: fn() -> Setup) -> u64 {
    let mut cuts = 0;
    for ahead in (1..).step_by(3) {
        let lab = lab.fork(ahead);
        lab.disk.cut_at(lab.disk.op_count() + ahead, ImagePolicy::KeepAll);
        let opened = lab.open(first(), TINY);
        // What has been opened may have been written to by rights: no such thing happened here.
        let done = opened.is_ok() && !lab.disk.is_off();
        drop(opened);
        match lab.disk.is_off() {
            true => drop(lab.disk.restart()),
            false => drop(lab.disk.power_cut(ImagePolicy::KeepAll)),
        }
        if done {
            return cuts;
        }
        cuts += 1;
        drop(lab.open(then(), LARGE).unwrap());
        assert_right(&lab.open(right(), TINY).unwrap(), &format!("cut after {ahead} operations"));
    }
    cuts
}

#[test]
fn interrupted_recovery_with_changed_fold_mixes_no_rows() {
    let lab = Lab::new(2);
    half_flushed(&lab);
    for (code, first) in [program::<DOUBLE>, program::<DEAF>, program::<PANICS>].into_iter().enumerate() {
        let cuts = die_at_each_operation(&lab, first, right);
        assert!(cuts > 20, "code {code}: {cuts} cuts");
    }
}

#[test]
fn interrupted_rebuild_with_changed_fold_mixes_no_rows() {
    let lab = Lab::new(3);
    half_flushed(&lab);
    lab.remove(STATE);
    for (code, first) in [program::<DOUBLE>, program::<DEAF>, program::<PANICS>].into_iter().enumerate() {
        let cuts = die_at_each_operation(&lab, first, right);
        assert!(cuts > 20, "code {code}: {cuts} cuts");
    }
}

#[test]
fn fold_changing_previously_unchanged_rows_is_noticed() {
    let lab = Lab::new(4);
    let store = lab.create(program::<DEAF>(), TINY);
    work(&store, 0, 20);
    store.close();
    let store = lab.open(program::<DEAF>(), LARGE).unwrap();
    // No digest is expected of these, and none is there.
    for account in [0, 5, 10] {
        append(&store, Account::Bonus { account });
    }
    lab.kill(store);
    let store = lab.open(right(), LARGE).unwrap();
    let view = store.view().unwrap();
    for account in [0, 5, 10] {
        assert_eq!(view.row::<Total<RIGHT>>(&account).unwrap(), Some(207), "account {account}");
    }
    assert_eq!(store.verify().unwrap().first_bad, None);
    assert!(store.verify().unwrap().folded_otherwise.is_some(), "it is told that other code folded them");
}

/// Commits made before it was added, or while it was left out, are folded when it is registered.
#[test]
fn added_projection_folds_commits_made_without_it() {
    let lab = Lab::new(5);
    let store =
        Store::create(STORE, lab.on(Setup::new().events::<Account>().events::<Note>(), TINY)).unwrap();
    work(&store, 0, 10);
    store.close();
    // Commits that no projection was folded with say nothing of it.
    let store = lab.open(right(), LARGE).unwrap();
    assert_right(&store, "with projections");
    work(&store, 10, 10);
    lab.kill(store);
    let store = lab.open(Setup::new().events::<Account>().events::<Note>(), LARGE).unwrap();
    append(&store, Account::Opened { account: 90 });
    append(&store, Account::Bonus { account: 90 });
    lab.kill(store);
    assert_right(&lab.open(right(), LARGE).unwrap(), "after a run without them");
}
