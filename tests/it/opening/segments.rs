//! Segments where there is little room, and of processes that die young.

use super::codes::*;
use tallystone::prelude::*;

#[test]
fn full_disk_takes_a_smaller_segment() {
    let lab = Lab::new(1);
    let store = lab.create(bare_events(), LARGE);
    // The next segment would be twice as large as this one.
    while store.stats().log_files < 3 {
        append(&store, Account::Opened { account: 1 });
    }
    lab.disk.quota(Some(lab.disk.bytes_used() + (30 << 10)));
    let (files, before) = (store.stats().log_files, store.stats().position.get());
    let error = loop {
        match store.append(Append::event(Account::Opened { account: 1 })) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Unknown(_)), "{error}");
    assert_eq!(store.stats().log_files, files + 1, "a smaller one was made");
    let acknowledged = store.stats().position.get();
    assert!(acknowledged > before + 100);
    lab.disk.quota(None);
    store.recover().unwrap();
    assert_eq!(store.verify().unwrap().events, acknowledged);
    append(&store, Account::Opened { account: 1 });
}

#[test]
fn kill_after_each_commit_leaves_few_segments() {
    let lab = Lab::new(2);
    lab.create(bare_events(), LARGE).close();
    for round in 1..=1018 {
        let store = lab.open(bare_events(), LARGE).unwrap();
        append(&store, Account::Opened { account: round });
        assert_eq!(store.stats().position.get(), u64::from(round));
        lab.kill(store);
    }
    let store = lab.open(bare_events(), LARGE).unwrap();
    let (files, report) = (store.stats().log_files, store.verify().unwrap());
    assert_eq!((report.first_bad, report.events), (None, 1018));
    // A segment is left when it is half as long as the smallest.
    assert!(files <= 40, "{files} segments");
}
