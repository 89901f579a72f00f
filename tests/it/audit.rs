//! Auditing consumer code: rows that were folded by wrong code are told from those that today's code folds, and where it began.

use crate::support::{fresh_disk, platform, small};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tallystone::audit::Audit;
use tallystone::disk::Disk;
use tallystone::prelude::*;
use tallystone::testing::SimDisk;

const STORE: &str = "/store";
const LONG: Duration = Duration::from_secs(60);

/// What is done to a cell. The wrong code overlooks those that are `missed`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    cell: u16,
    what: What,
    missed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum What {
    Put(u64),
    Add(u64),
    Remove,
}

impl Event for Step {
    const FAMILY: &'static str = "step";
    type Id = u16;

    fn id(&self) -> u16 {
        self.cell
    }
}

impl Step {
    fn put(cell: u16, value: u64) -> Self {
        Self { cell, what: What::Put(value), missed: false }
    }

    fn add(cell: u16, value: u64) -> Self {
        Self { cell, what: What::Add(value), missed: false }
    }

    fn remove(cell: u16) -> Self {
        Self { cell, what: What::Remove, missed: false }
    }

    fn missed(self) -> Self {
        Self { missed: true, ..self }
    }
}

fn fold<P: Projection<Event = Step, Key = u16, Row = u64>>(step: &Step, rows: &mut Rows<'_, P>) -> Folded {
    match step.what {
        What::Put(value) => rows.put(step.cell, value),
        What::Add(value) => rows.update(step.cell, |cell| *cell += value),
        What::Remove => rows.remove(&step.cell),
    }
}

/// Projections of one name, version and layout, whose code differs: what a correction without a new version leaves.
macro_rules! cells {
    ($($(#[$doc:meta])* $name:ident: |$step:ident, $rows:ident| $fold:expr;)+) => {
        $($(#[$doc])*
        struct $name;
        impl Projection for $name {
            const NAME: &'static str = "cells";
            type Event = Step;
            type Key = u16;
            type Row = u64;
            fn fold($step: &Step, $rows: &mut Rows<'_, Self>) -> Folded {
                $fold
            }
        })+
    };
}

static CALLS: AtomicU64 = AtomicU64::new(0);

cells! {
    Right: |step, rows| fold(step, rows);
    Wrong: |step, rows| if step.missed { Ok(()) } else { fold(step, rows) };
    RemovesMissed: |step, rows| if step.missed { rows.remove(&step.cell) } else { fold(step, rows) };
    /// From the fifth event on it is another row each time.
    Unstable: |step, rows| match rows.position().get() {
        5.. => rows.put(step.cell, CALLS.fetch_add(1, Ordering::Relaxed)),
        _ => fold(step, rows),
    };
    Refuses: |step, rows| match rows.position().get() {
        5 => Err(FoldError::refuse("not the fifth")),
        _ => fold(step, rows),
    };
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Where {
    Inline,
    Behind,
}

const BOTH: [Where; 2] = [Where::Inline, Where::Behind];

fn setup<P: Projection>(at: Where) -> Setup {
    match at {
        Where::Inline => Setup::new().inline::<P>(),
        Where::Behind => Setup::new().behind::<P>(),
    }
}

fn open<P: Projection>(at: Where, disk: &SimDisk) -> Store {
    let setup = setup::<P>(at).options(small()).platform(platform(disk)).lockstep();
    Store::open_or_create(Path::new(STORE), setup).expect("it opens")
}

fn append(store: &Store, step: &Step) {
    store.append(Append::event(step.clone())).expect("it is taken");
}

fn caught_up<P: Projection>(store: &Store, at: Where) {
    if at == Where::Behind {
        store.wait_for::<P>(store.stats().position, LONG).expect("it catches up");
    }
}

/// Folded by one code, closed, and opened with the other.
fn folded_by<Old: Projection, New: Projection>(at: Where, steps: &[Step]) -> Store {
    let disk = fresh_disk(1);
    let store = open::<Old>(at, &disk);
    steps.iter().for_each(|step| append(&store, step));
    caught_up::<Old>(&store, at);
    store.close();
    let store = open::<New>(at, &disk);
    caught_up::<New>(&store, at);
    store
}

fn audited<P: Projection<Key = u16, Row = u64>>(store: &Store) -> Audit<u16, u64> {
    store.audit::<P>().expect("it can be audited")
}

fn get(position: Option<Position>) -> Option<u64> {
    position.map(Position::get)
}

/// A row and the event that changed it last.
type Cell = Option<(u64, u64)>;

/// The first row that differs: its key, as it is served, as it is folded.
fn first(audit: &Audit<u16, u64>) -> Option<(u16, Cell, Cell)> {
    let cell = |row: &Option<(u64, Position)>| row.map(|(value, at)| (value, at.get()));
    audit.first.as_ref().map(|first| (first.key, cell(&first.served), cell(&first.folded)))
}

fn every_seventh_missed(step: impl Fn(u16) -> Step, len: u16) -> Vec<Step> {
    let missed = |number| if number % 7 == 0 { step(number).missed() } else { step(number) };
    (1..=len).map(missed).collect()
}

#[test]
fn row_000_31_skipped_events_are_found_by_key_and_position() {
    for at in BOTH {
        // A row for each event,
        let steps = every_seventh_missed(|number| Step::put(1000 - number, 5), 50);
        let store = folded_by::<Wrong, Right>(at, &steps);
        let audit = audited::<Right>(&store);
        assert_eq!(first(&audit), Some((951, None, Some((5, 49)))), "{at:?}");
        assert_eq!((audit.served_len, audit.folded_len, audit.differing_len), (43, 50, 7), "{at:?}");
        assert_eq!(get(audit.diverged_at), Some(7), "{at:?}");
        assert_eq!((audit.position.get(), audit.unstable_at, audit.is_clean()), (50, None, false));
        // and sums.
        let steps = every_seventh_missed(|number| Step::add(number % 5, 1), 20);
        let store = folded_by::<Wrong, Right>(at, &steps);
        let audit = audited::<Right>(&store);
        assert_eq!(first(&audit), Some((2, Some((3, 17)), Some((4, 17)))), "{at:?}");
        assert_eq!(audit.differing_len, 2, "{at:?}");
        // The log says what each commit changed, rows only what changed them last.
        let exact = if at == Where::Inline { 7 } else { 17 };
        assert_eq!(get(audit.diverged_at), Some(exact), "{at:?}");
        // Served as it was: an audit mends nothing.
        assert_eq!(store.view().expect("it is open").row::<Right>(&2).expect("it is read"), Some(3));
    }
}

#[test]
fn missed_removal_is_found_at_its_position() {
    for at in BOTH {
        let steps = [
            Step::put(1, 1),
            Step::put(2, 2),
            Step::put(3, 3),
            Step::remove(2).missed(),
            Step::put(4, 4),
            // Put again, the row is there in any case.
            Step::remove(3).missed(),
            Step::put(3, 3),
        ];
        let audit = audited::<Right>(&folded_by::<Wrong, Right>(at, &steps));
        assert_eq!(first(&audit), Some((2, Some((2, 2)), None)), "{at:?}");
        assert_eq!((get(audit.diverged_at), audit.differing_len), (Some(4), 1), "{at:?}");
    }
}

#[test]
fn divergence_before_first_digest_is_read_from_rows() {
    let steps = [Step::put(1, 1).missed(), Step::put(2, 2), Step::put(3, 3).missed()];
    for at in BOTH {
        let audit = audited::<Right>(&folded_by::<Wrong, Right>(at, &steps));
        assert_eq!(
            (first(&audit), get(audit.diverged_at)),
            (Some((1, None, Some((1, 1)))), Some(1)),
            "{at:?}"
        );
    }
}

#[test]
fn row_removed_by_old_code_diverges_at_removal() {
    let steps = [Step::put(1, 1), Step::put(2, 2), Step::put(2, 0).missed(), Step::put(3, 3)];
    let audit = audited::<Right>(&folded_by::<RemovesMissed, Right>(Where::Inline, &steps));
    assert_eq!((first(&audit), get(audit.diverged_at)), (Some((2, None, Some((0, 3)))), Some(3)));
}

#[test]
fn repaired_rows_agree_but_log_shows_divergence() {
    let steps = every_seventh_missed(|number| Step::add(number % 5, 1), 20);
    let disk = fresh_disk(1);
    let store = open::<Wrong>(Where::Inline, &disk);
    steps.iter().for_each(|step| append(&store, step));
    store.close();
    disk.remove(Path::new("/store/state.redb")).expect("it is there");
    let audit = audited::<Right>(&open::<Right>(Where::Inline, &disk));
    assert_eq!((audit.differing_len, audit.ranges.len(), audit.compared_len), (0, 0, 0));
    // The first commit that changes rows now and had no digest.
    assert_eq!((get(audit.diverged_at), audit.is_clean()), (Some(7), false));

    let store = folded_by::<Wrong, Right>(Where::Behind, &steps);
    assert!(!audited::<Right>(&store).is_clean());
    store.rebuild::<Right>().expect("it is folded again");
    assert!(audited::<Right>(&store).is_clean());
}

#[test]
fn large_table_compares_only_differing_ranges() {
    let step = |cell: u16| {
        let step = Step::put(cell, 1);
        if cell == 2500 { step.missed() } else { step }
    };
    let disk = fresh_disk(1);
    let store = open::<Wrong>(Where::Inline, &disk);
    for cells in (0..5000).collect::<Vec<u16>>().chunks(500) {
        let steps: Vec<Step> = cells.iter().map(|cell| step(*cell)).collect();
        store.append(Append::events(steps)).expect("it is taken");
    }
    let right = audited::<Wrong>(&store);
    assert!(right.is_clean());
    assert_eq!(
        (right.ranges_len, right.compared_len, right.served_len, right.folded_len),
        (5, 0, 4999, 4999)
    );
    store.close();
    let store = open::<Right>(Where::Inline, &disk);
    let audit = audited::<Right>(&store);
    let [range] = &audit.ranges[..] else { panic!("{:?}", audit.ranges) };
    // The third thousand and 24 of what is served; of what is folded, one more.
    assert_eq!((range.after, range.through), (Some(2047), Some(3072)));
    assert_eq!((range.served_len, range.folded_len, audit.compared_len), (1024, 1025, 1025));
    assert_eq!(first(&audit), Some((2500, None, Some((1, 2501)))));
    // By the commit: its first event.
    assert_eq!(get(audit.diverged_at), Some(2501));
    assert_eq!(audit.hash, right.hash, "the rows that are served are the same");
}

#[test]
fn hash_is_equal_only_for_equal_rows() {
    let hash = |steps: &[Step]| {
        let store = Store::in_memory(setup::<Right>(Where::Inline).lockstep()).expect("it opens");
        steps.iter().for_each(|step| append(&store, step));
        audited::<Right>(&store).hash
    };
    let one = hash(&[Step::put(1, 1), Step::put(2, 2)]);
    assert_eq!(hash(&[Step::add(1, 1), Step::add(2, 2)]), one);
    for other in [
        &[Step::put(1, 1)][..],
        &[Step::put(1, 1), Step::put(2, 3)],
        &[Step::put(1, 1), Step::put(3, 2)],
        &[Step::put(2, 2), Step::put(1, 1)],
    ] {
        assert_ne!(hash(other), one, "{other:?}");
    }
}

#[test]
fn nondeterministic_fold_is_found_at_first_event() {
    for at in BOTH {
        let store = Store::in_memory(setup::<Unstable>(at).lockstep()).expect("it opens");
        (0..4).for_each(|cell| append(&store, &Step::put(cell, 1)));
        caught_up::<Unstable>(&store, at);
        assert!(audited::<Unstable>(&store).is_clean(), "{at:?}");
        (4..9).for_each(|cell| append(&store, &Step::put(cell, 1)));
        caught_up::<Unstable>(&store, at);
        let audit = audited::<Unstable>(&store);
        assert_eq!((get(audit.unstable_at), get(audit.diverged_at)), (Some(5), Some(5)), "{at:?}");
        assert_eq!((audit.differing_len, audit.is_clean()), (5, false), "{at:?}");
    }
}

#[test]
fn refused_event_stalls_only_audit() {
    for at in BOTH {
        let steps: Vec<_> = (0..9).map(|cell| Step::put(cell, 1)).collect();
        let store = folded_by::<Right, Refuses>(at, &steps);
        match store.audit::<Refuses>() {
            Err(ReadError::Stalled { projection: "cells", position, why }) => {
                assert_eq!((position.get(), &*why), (5, "not the fifth"), "{at:?}");
            }
            other => panic!("{at:?}: {other:?}"),
        }
        assert_eq!(store.view().expect("it is open").rows::<Refuses>(..).count(), 9, "{at:?}");
        assert!(store.verify().is_ok());
    }
}

#[test]
fn unregistered_projection_is_not_audited() {
    let store = Store::in_memory(Setup::new().events::<Step>()).expect("it opens");
    assert!(matches!(store.audit::<Right>(), Err(ReadError::Unregistered(_))));
}

// ---- random steps, and both folds by hand ----

fn step() -> impl Strategy<Value = Step> {
    let what =
        prop_oneof![(0..3_u64).prop_map(What::Put), (0..3_u64).prop_map(What::Add), Just(What::Remove)];
    (0..5_u16, what, prop::bool::weighted(0.2)).prop_map(|(cell, what, missed)| Step { cell, what, missed })
}

/// Rows, and what each event changed, by a fold that shares no code with the store.
#[derive(Default)]
struct Model {
    rows: BTreeMap<u16, (u64, u64)>,
    changed: Vec<Option<(u16, Option<u64>)>>,
}

impl Model {
    fn fold(&mut self, step: &Step, skip: bool) {
        let at = self.changed.len() as u64 + 1;
        let before = self.rows.get(&step.cell).map(|(value, _)| *value);
        let after = match step.what {
            _ if skip => None,
            What::Put(value) => Some(Some(value)),
            What::Add(value) => Some(Some(before.unwrap_or(0) + value)),
            What::Remove if before.is_none() => None,
            What::Remove => Some(None),
        };
        match after {
            Some(Some(value)) => drop(self.rows.insert(step.cell, (value, at))),
            Some(None) => drop(self.rows.remove(&step.cell)),
            None => {}
        }
        self.changed.push(after.map(|value| (step.cell, value)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn correct_code_passes_audit_at_every_commit(steps in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..8)) {
        for at in BOTH {
            let store = Store::in_memory(setup::<Right>(at).lockstep()).expect("it opens");
            let mut len = 0;
            for commit in &steps {
                store.append(Append::events(commit.clone())).expect("it is taken");
                caught_up::<Right>(&store, at);
                len += commit.len() as u64;
                let audit = audited::<Right>(&store);
                prop_assert!(audit.is_clean(), "{:?}", audit);
                prop_assert_eq!((audit.position.get(), audit.served_len), (len, audit.folded_len));
                let rows = store.view().expect("it is open").rows::<Right>(..).count();
                prop_assert_eq!(audit.served_len, rows as u64);
            }
        }
    }

    #[test]
    fn audit_of_wrong_code_matches_reference_folds(more in prop::collection::vec(step(), 0..24)) {
        // From the first commit on, the log has digests.
        let steps: Vec<_> = [Step::put(9, 9)].into_iter().chain(more).collect();
        let (mut old, mut new) = (Model::default(), Model::default());
        for step in &steps {
            old.fold(step, step.missed);
            new.fold(step, false);
        }
        let keys: Vec<u16> = (0..10).filter(|key| old.rows.get(key) != new.rows.get(key)).collect();
        let row = |model: &Model, key: u16| model.rows.get(&key).copied();
        let expected = keys.first().map(|key| (*key, row(&old, *key), row(&new, *key)));
        let changes = || (1..).zip(old.changed.iter().zip(&new.changed));
        let differs = |(_, (old, new)): &(u64, (&Option<_>, &Option<_>))| old != new;
        let diverged = changes().find(differs).map(|(at, _)| at);
        for at in BOTH {
            let audit = audited::<Right>(&folded_by::<Wrong, Right>(at, &steps));
            prop_assert_eq!(first(&audit), expected, "{:?}", at);
            prop_assert_eq!(audit.differing_len, keys.len() as u64);
            match at {
                Where::Inline => prop_assert_eq!(get(audit.diverged_at), diverged),
                // At the latest there.
                Where::Behind => {
                    prop_assert_eq!(audit.diverged_at.is_some(), !keys.is_empty());
                    prop_assert!(audit.diverged_at.is_none() || get(audit.diverged_at) >= diverged);
                }
            }
        }
    }
}
