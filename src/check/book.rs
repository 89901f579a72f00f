//! State that one rule keeps of all keys: the state of each, a timer queue, and the counts of verdicts.
//!
//! - It is a function of the events and watermarks that it was given, in their order; so a log gives one book.
//! - Keys of which nothing is to be remembered take no room. Of the others, those not touched lately may be in a file only.

use super::due::Due;
use super::keys::{KeyHash, Keys};
use super::state::{Filed, Packed, State};
use super::word::{Counts, Finding, Outcome, Rule, Seen, Time, Verdict};
use std::mem;

/// Source of the states that are not in memory.
pub(crate) trait Cold {
    type Error;

    /// Reads the packed state of a key. `None`: nothing is kept of it.
    fn state(&self, key: KeyHash) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// A change to write to the file.
pub(crate) enum Saved<'a> {
    /// The packed state of a key. `None`: nothing is kept of it any more.
    State(KeyHash, Option<&'a [u8]>),
    /// A timer of a key, set (`true`) or removed.
    Due(Time, KeyHash, bool),
}

/// State that one rule keeps of all keys.
#[derive(Debug)]
pub(crate) struct Book {
    rule: Rule,
    /// Packed states. One without bytes says that nothing is kept of the key, whatever the file says.
    keys: Keys,
    /// True if the file may have keys that `keys` lacks.
    has_cold: bool,
    due: Due,
    /// Difference between `due` and the file.
    due_unsaved: Due,
    /// Number of states that the file lacks.
    unsaved: usize,
    /// True if it is saved now and then. If not, changes of `due` are not noted.
    filed: bool,
    watermark: Time,
    out: Outcome,
    found: Vec<(KeyHash, Finding)>,
    /// Scratch space, kept for its allocations.
    state: State,
    bytes: Vec<u8>,
}

impl Book {
    pub fn new(rule: Rule, filed: bool) -> Self {
        Self {
            rule,
            keys: Keys::default(),
            has_cold: false,
            due: Due::default(),
            due_unsaved: Due::default(),
            unsaved: 0,
            filed,
            watermark: Time::MIN,
            out: Outcome::default(),
            found: Vec::new(),
            state: State::default(),
            bytes: Vec::new(),
        }
    }

    /// Returns one in memory that records how long activations waited for their answers.
    pub fn timed(rule: Rule) -> Self {
        let out = Outcome { waits: Some(Vec::new()), ..Outcome::default() };
        Self { out, ..Self::new(rule, false) }
    }

    /// Takes the waits of all activations answered since the last call. None unless made by [`timed`](Self::timed).
    pub fn take_waits(&mut self) -> impl Iterator<Item = Time> {
        self.out.waits.iter_mut().flat_map(|waits| waits.drain(..))
    }

    pub fn counts(&self) -> &Counts {
        &self.out.counts
    }

    pub fn watermark(&self) -> Time {
        self.watermark
    }

    /// Returns the next time at which time alone decides.
    pub fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(time, _)| time)
    }

    /// Takes the findings since the last call.
    pub fn take_found(&mut self) -> Vec<(KeyHash, Finding)> {
        mem::take(&mut self.found)
    }

    /// Notes an event that cannot be read, so there is no verdict on it.
    pub fn untold(&mut self, position: u64, time: Time) {
        self.out.counts.untold += 1;
        let (verdict, amounts) = (Verdict::Untold, None);
        let finding = Finding { verdict, activation: position, by: position, decided: time, amounts };
        self.found.push((KeyHash(0, 0), finding));
    }

    /// Notes an event whose time is too far ahead of that of its commit.
    pub fn skewed(&mut self, position: u64, said: Time, recorded: Time) {
        self.out.counts.skewed += 1;
        let (verdict, amounts) = (Verdict::Skewed, Some((said, recorded)));
        let finding = Finding { verdict, activation: position, by: position, decided: recorded, amounts };
        self.found.push((KeyHash(0, 0), finding));
    }

    /// Judges all that falls due before `watermark`. The watermark never goes back.
    pub fn advance<C: Cold>(&mut self, watermark: Time, cold: &C) -> Result<(), C::Error> {
        if watermark <= self.watermark {
            return Ok(());
        }
        self.watermark = watermark;
        while let Some((time, key)) = self.due.first().filter(|(time, _)| *time < watermark) {
            let known = self.load(key, cold)?;
            self.due.remove(&(time, key));
            self.note_due((time, key));
            // Expire at the time of each timer, not at `watermark`: findings are in the order in which they became certain.
            self.rule.expire(&mut self.state, time.saturating_add(1), &mut self.out);
            for index in 0..self.out.deadlines.len() {
                self.wait_for((self.out.deadlines[index], key));
            }
            self.out.deadlines.clear();
            self.keep(key, known);
        }
        Ok(())
    }

    fn wait_for(&mut self, due: (Time, KeyHash)) {
        if self.due.insert(due) {
            self.note_due(due);
        }
    }

    /// Judges an event of a key.
    pub fn observe<C: Cold>(&mut self, key: KeyHash, seen: &Seen, cold: &C) -> Result<(), C::Error> {
        let known = self.load(key, cold)?;
        let waited = match &self.state.open[..] {
            [alone] => self.rule.deadline(alone.time),
            _ => None,
        };
        self.rule.observe(&mut self.state, seen, self.watermark, &mut self.out);
        let mut index = 0;
        while let Some(time) = self.out.deadlines.get(index).copied() {
            if time < self.watermark {
                // Recorded too late to wait for anything.
                self.rule.expire(&mut self.state, self.watermark, &mut self.out);
            } else {
                self.wait_for((time, key));
            }
            index += 1;
        }
        self.out.deadlines.clear();
        if let Some(time) = waited
            && self.state.open.is_empty()
            && self.state.past.is_empty()
            && self.due.remove(&(time, key))
        {
            self.note_due((time, key));
        }
        self.keep(key, known);
        Ok(())
    }

    /// Returns whether a key has a violation that is not healed.
    pub fn is_broken<C: Cold>(&mut self, key: KeyHash, cold: &C) -> Result<bool, C::Error> {
        self.load(key, cold)?;
        Ok(!self.state.broken.is_empty())
    }

    /// Loads a key's state, and returns how the file has it. `None`: the key is new.
    fn load<C: Cold>(&mut self, key: KeyHash, cold: &C) -> Result<Option<Filed>, C::Error> {
        self.state.clear();
        if let Some(packed) = self.keys.get(key) {
            if !packed.bytes().is_empty() {
                self.state.unpack(packed.bytes()).expect("it was packed here");
            }
            return Ok(Some(packed.filed()));
        }
        let Some(bytes) = (if self.has_cold { cold.state(key)? } else { None }) else {
            return Ok(None);
        };
        self.state.unpack(&bytes).expect("what a file gives was checked");
        Ok(Some(Filed::Same))
    }

    fn keep(&mut self, key: KeyHash, known: Option<Filed>) {
        self.found.extend(self.out.findings.drain(..).map(|finding| (key, finding)));
        let was_unsaved = known.is_some_and(|filed| filed != Filed::Same);
        let filed = known.unwrap_or(Filed::Not);
        let is_kept = !self.state.is_empty() || filed != Filed::Not;
        if is_kept {
            self.bytes.clear();
            if !self.state.is_empty() {
                self.state.pack(&mut self.bytes);
            }
            self.keys.insert(key, Packed::new(&self.bytes, filed.changed()));
        } else {
            self.keys.remove(key);
        }
        self.unsaved = self.unsaved + usize::from(is_kept) - usize::from(was_unsaved);
    }

    /// Notes that a timer was added or removed. Twice leaves it as it was in the file.
    fn note_due(&mut self, due: (Time, KeyHash)) {
        if self.filed && !self.due_unsaved.remove(&due) {
            self.due_unsaved.insert(due);
        }
    }

    // ---- saved, and read back ----

    /// Returns a book as it was saved, without its keys: they are read from the file on demand.
    pub fn saved(rule: Rule, counts: Counts, watermark: Time, due: Due) -> Self {
        let out = Outcome { counts, ..Outcome::default() };
        Self { due, watermark, out, has_cold: true, ..Self::new(rule, true) }
    }

    /// Passes all that the file lacks to `each`, in order. After it the file lacks nothing; without `keep`, memory has no keys.
    pub fn save(&mut self, keep: bool, mut each: impl FnMut(Saved<'_>)) {
        for (time, key) in mem::take(&mut self.due_unsaved).iter() {
            each(Saved::Due(time, key, self.due.contains(&(time, key))));
        }
        let unsaved = self.keys.iter_mut().filter(|(_, packed)| packed.filed() != Filed::Same);
        let mut unsaved: Vec<_> = unsaved.collect();
        unsaved.sort_unstable_by_key(|(hash, _)| **hash);
        for (hash, packed) in unsaved {
            packed.set_filed(Filed::Same);
            each(Saved::State(*hash, Some(packed.bytes()).filter(|bytes| !bytes.is_empty())));
        }
        match keep {
            true => self.keys.retain(|packed| !packed.bytes().is_empty()),
            false => (self.keys, self.has_cold) = (Keys::default(), true),
        }
        self.unsaved = 0;
    }

    /// Returns the number of states and timers that the file lacks.
    pub fn unsaved_len(&self) -> usize {
        self.unsaved + self.due_unsaved.len()
    }

    /// Returns the number of keys in memory.
    pub fn keys_len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::word::{Amount, Roles, Window, Word};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;

    /// A file, as a book sees it.
    #[derive(Default)]
    struct Filing {
        states: BTreeMap<KeyHash, Vec<u8>>,
        due: BTreeSet<(Time, KeyHash)>,
    }

    impl Cold for Filing {
        type Error = Infallible;

        fn state(&self, key: KeyHash) -> Result<Option<Vec<u8>>, Infallible> {
            Ok(self.states.get(&key).cloned())
        }
    }

    impl Filing {
        /// Asserts that nothing is removed that is not in there, and that no time is written twice.
        fn save(&mut self, book: &mut Book, keep: bool) {
            let (unsaved, mut told) = (book.unsaved_len(), 0);
            book.save(keep, |saved| {
                told += 1;
                match saved {
                    Saved::State(key, Some(state)) => drop(self.states.insert(key, state.to_vec())),
                    Saved::State(key, None) => assert!(self.states.remove(&key).is_some()),
                    Saved::Due(time, key, true) => assert!(self.due.insert((time, key))),
                    Saved::Due(time, key, false) => assert!(self.due.remove(&(time, key))),
                }
            });
            assert_eq!((told, book.unsaved_len()), (unsaved, 0));
            assert!(book.due.iter().eq(self.due.iter().copied()));
        }
    }

    #[derive(Debug, Clone)]
    enum Act {
        Seen(u64, u8, u64),
        Passed(Time),
        Save(bool),
        Reopen,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let seen = (0u64..6, 0u8..16, 0u64..3).prop_map(|(key, roles, tie)| Act::Seen(key, roles, tie));
        let act = prop_oneof![
            8 => seen,
            2 => (0i64..8).prop_map(Act::Passed),
            1 => any::<bool>().prop_map(Act::Save),
            1 => Just(Act::Reopen),
        ];
        prop::collection::vec(act, 0..80)
    }

    fn of(word: Word) -> Rule {
        Rule { word, window: Some(Window::within(5)), n: 2, sums: Default::default(), ordered: true }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn reloaded_book_judges_like_one_in_memory(
            word in prop::sample::select(Word::ALL.map(|(_, word)| word).to_vec()), acts in acts(),
        ) {
            let (mut filing, rule) = (Filing::default(), of(word));
            let (mut filed, mut plain) = (Book::new(rule, true), Book::new(rule, false));
            let mut now = 0;
            for (position, act) in (1..).zip(acts) {
                match act {
                    Act::Seen(key, roles, tie) => {
                        let amount = Amount { adds: tie as i64 - 1, says: (tie == 2).then_some(0), ..Amount::default() };
                        let seen = Seen { position, time: now, roles: Roles(roles), tie_a: tie, tie_b: tie, amount };
                        let key = KeyHash(key << 61, key);
                        let Ok(()) = filed.observe(key, &seen, &filing);
                        let Ok(()) = plain.observe(key, &seen, &Filing::default());
                    }
                    Act::Passed(time) => {
                        now += time;
                        let Ok(()) = filed.advance(now, &filing);
                        let Ok(()) = plain.advance(now, &Filing::default());
                    }
                    Act::Save(keep) => filing.save(&mut filed, keep),
                    Act::Reopen => {
                        filing.save(&mut filed, true);
                        let due = filing.due.iter().copied().collect();
                        filed = Book::saved(rule, *filed.counts(), filed.watermark(), due);
                    }
                }
                prop_assert_eq!(filed.take_found(), plain.take_found());
                prop_assert_eq!(filed.counts(), plain.counts());
                prop_assert_eq!(filed.next_due(), plain.next_due());
            }
            filing.save(&mut filed, true);
            let kept = plain.keys.iter_mut().map(|(key, packed)| (*key, packed.bytes().to_vec()));
            prop_assert_eq!(&filing.states, &kept.collect::<BTreeMap<_, _>>());
        }
    }

    #[test]
    fn activations_fall_due_in_time_order_across_keys() {
        let (mut book, file) = (Book::new(of(Word::Response), false), Filing::default());
        for (position, key, time) in [(1, 7, 0), (2, 8, 2), (3, 7, 5)] {
            let amount = Amount::default();
            let seen = Seen { position, time, roles: Roles::A, tie_a: 0, tie_b: 0, amount };
            let Ok(()) = book.observe(KeyHash(key, key), &seen, &file);
        }
        let Ok(()) = book.advance(100, &file);
        let found = book.take_found().into_iter().map(|(_, finding)| finding.activation);
        assert_eq!(found.collect::<Vec<_>>(), [1, 2, 3]);
    }
}
