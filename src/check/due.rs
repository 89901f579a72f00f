//! Timer queue: deadlines of keys, an ordered set in two levels.
//!
//! There is one entry for each obligation that waits, so they are packed: entries lie in runs, side by side. Entries mostly come
//! in the order of time, and these fill their runs; a tree of single entries would take twice the room.

use super::keys::KeyHash;
use super::word::Time;
use std::collections::{BTreeMap, VecDeque};

type Timer = (Time, KeyHash);

/// Maximum number of entries in a run.
const RUN: usize = 256;
/// Number of entries that a run grows by.
const ROOM: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Runs, each by an entry that is not after its first one, and after all entries of the run before. No run is empty.
    runs: BTreeMap<Timer, VecDeque<Timer>>,
    len: usize,
}

impl Due {
    /// Inserts an entry. Returns whether it is new.
    pub fn insert(&mut self, entry: Timer) -> bool {
        let key = match self.runs.range(..=entry).next_back() {
            Some((key, _)) => *key,
            None => {
                let run = self.runs.pop_first().map(|(_, run)| run).unwrap_or_default();
                self.runs.insert(entry, run);
                entry
            }
        };
        let run = self.runs.get_mut(&key).expect("it was found, or made");
        let Err(at) = run.binary_search(&entry) else { return false };
        self.len += 1;
        if run.len() < RUN {
            insert(run, at, entry);
            return true;
        }
        // An entry at the end leaves a full run: entries in the order of time fill all of them.
        let half = if at == RUN { RUN } else { RUN / 2 };
        let mut later = run.split_off(half);
        match at > half || later.is_empty() {
            true => insert(&mut later, at - half, entry),
            false => insert(run, at, entry),
        }
        shrink(run);
        self.runs.insert(later[0], later);
        true
    }

    /// Removes an entry. Returns whether it was there.
    pub fn remove(&mut self, entry: &Timer) -> bool {
        let Some((key, run)) = self.runs.range_mut(..=*entry).next_back() else { return false };
        let Ok(at) = run.binary_search(entry) else { return false };
        run.remove(at);
        self.len -= 1;
        shrink(run);
        let (key, len) = (*key, run.len());
        if len == 0 {
            self.runs.remove(&key);
        } else if len <= RUN / 8 {
            self.join_next(key);
        }
        true
    }

    /// Joins a run of few entries with the next one, if both together are small.
    fn join_next(&mut self, key: Timer) {
        let mut both = self.runs.range_mut(key..);
        let (Some((_, run)), Some((next_key, next))) = (both.next(), both.next()) else { return };
        if run.len() + next.len() <= RUN / 2 {
            run.append(next);
            let next_key = *next_key;
            self.runs.remove(&next_key);
        }
    }

    pub fn contains(&self, entry: &Timer) -> bool {
        let run = self.runs.range(..=*entry).next_back();
        run.is_some_and(|(_, run)| run.binary_search(entry).is_ok())
    }

    pub fn first(&self) -> Option<Timer> {
        self.runs.first_key_value().map(|(_, run)| run[0])
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn iter(&self) -> impl Iterator<Item = Timer> {
        self.runs.values().flatten().copied()
    }
}

/// Inserts into a run. It grows by a few entries at a time, because there are many runs.
fn insert(run: &mut VecDeque<Timer>, at: usize, entry: Timer) {
    if run.len() == run.capacity() {
        run.reserve_exact(ROOM);
    }
    run.insert(at, entry);
}

/// Gives back the room of removed entries.
fn shrink(run: &mut VecDeque<Timer>) {
    if run.capacity() - run.len() >= 2 * ROOM {
        run.shrink_to(run.len() + ROOM);
    }
}

impl FromIterator<Timer> for Due {
    fn from_iter<I: IntoIterator<Item = Timer>>(entries: I) -> Self {
        let mut due = Self::default();
        for entry in entries {
            due.insert(entry);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn agree(due: &Due, set: &BTreeSet<Timer>) {
        assert!(due.iter().eq(set.iter().copied()));
        assert_eq!((due.len(), due.first()), (set.len(), set.first().copied()));
        let mut before: Option<Timer> = None;
        for (key, run) in &due.runs {
            assert!(!run.is_empty() && run.len() <= RUN);
            assert!(*key <= run[0] && before.is_none_or(|before| before < *key));
            before = run.back().copied();
        }
    }

    proptest! {
        #[test]
        fn due_behaves_like_ordered_set(
            rising in 0u64..2000,
            steps in prop::collection::vec((any::<bool>(), 0i64..600, 0u64..3), 0..1500),
        ) {
            let (mut due, mut set) = (Due::default(), BTreeSet::new());
            for number in 0..rising {
                let entry = (number as Time, KeyHash(0, 1));
                assert!(due.insert(entry) && set.insert(entry));
            }
            agree(&due, &set);
            for (insert, time, key) in steps {
                let entry = (time, KeyHash(key, 0));
                prop_assert_eq!(due.contains(&entry), set.contains(&entry));
                match insert {
                    true => prop_assert_eq!(due.insert(entry), set.insert(entry)),
                    false => prop_assert_eq!(due.remove(&entry), set.remove(&entry)),
                }
            }
            agree(&due, &set);
            while let Some(first) = due.first() {
                assert!(due.remove(&first) && set.remove(&first));
                if due.len() % 97 == 0 {
                    agree(&due, &set);
                }
            }
            prop_assert!(set.is_empty() && due.runs.is_empty());
        }
    }

    #[test]
    fn in_order_inserts_fill_every_run() {
        let due: Due = (0..100_000).map(|time| (time, KeyHash(7, 7))).collect();
        assert_eq!(due.runs.len(), 100_000_usize.div_ceil(RUN));
    }
}
