//! What one rule keeps of all keys: their states, what falls due when, and how often it was what.
//!
//! - A function of the events it was shown and the watermarks it was told, in their order; so a log gives one book.
//! - Keys of which nothing is to be remembered take no room. Of the others, those not touched lately may live in a file only.

use super::state::{Packed, State};
use super::word::{Counts, Finding, Outcome, Rule, Seen, Time, Verdict};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;

/// A key of events, hashed with a key of the store's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyHash(pub u64, pub u64);

impl From<u128> for KeyHash {
    fn from(hash: u128) -> Self {
        Self((hash >> 64) as u64, hash as u64)
    }
}

/// Hashes are uniform already.
#[derive(Debug, Default)]
pub(crate) struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is two u64");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// Where the states are that memory does not hold.
pub(crate) trait Cold {
    type Error;

    /// The packed state of a key. `None`: nothing is kept of it.
    fn state(&self, key: KeyHash) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// What a file is told.
pub(crate) enum Saved<'a> {
    /// The packed state of a key. `None`: nothing is kept of it any more.
    State(KeyHash, Option<&'a [u8]>),
    /// Whether a key is to be looked at after a time.
    Due(Time, KeyHash, bool),
}

/// What one rule keeps.
#[derive(Debug)]
pub(crate) struct Book {
    rule: Rule,
    /// A state without bytes says that nothing is kept, whatever the file says.
    keys: HashMap<KeyHash, Packed, BuildHasherDefault<Uniform>>,
    due: BTreeSet<(Time, KeyHash)>,
    /// What of `due` changed since it was saved: whether it is in there now.
    due_unsaved: BTreeMap<(Time, KeyHash), bool>,
    /// States that the file lacks.
    unsaved: usize,
    /// It is saved now and then; else nothing is unsaved.
    filed: bool,
    watermark: Time,
    out: Outcome,
    found: Vec<(KeyHash, Finding)>,
    /// Worked on, and kept for their allocations.
    state: State,
    bytes: Vec<u8>,
}

impl Book {
    pub fn new(rule: Rule, filed: bool) -> Self {
        Self {
            rule,
            keys: HashMap::default(),
            due: BTreeSet::new(),
            due_unsaved: BTreeMap::new(),
            unsaved: 0,
            filed,
            watermark: Time::MIN,
            out: Outcome::default(),
            found: Vec::new(),
            state: State::default(),
            bytes: Vec::new(),
        }
    }

    /// In memory, and one that tells how long activations waited for what answered them.
    pub fn timed(rule: Rule) -> Self {
        let out = Outcome { waits: Some(Vec::new()), ..Outcome::default() };
        Self { out, ..Self::new(rule, false) }
    }

    /// How long those waited that were answered since the last call. None, unless it is a timed one.
    pub fn take_waits(&mut self) -> impl Iterator<Item = Time> {
        self.out.waits.iter_mut().flat_map(|waits| waits.drain(..))
    }

    pub fn counts(&self) -> &Counts {
        &self.out.counts
    }

    pub fn watermark(&self) -> Time {
        self.watermark
    }

    /// When time alone decides next.
    pub fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(time, _)| *time)
    }

    /// What was found since the last call.
    pub fn take_found(&mut self) -> Vec<(KeyHash, Finding)> {
        mem::take(&mut self.found)
    }

    /// Notes an event that cannot be read: no verdict on it is to be had.
    pub fn untold(&mut self, position: u64, time: Time) {
        self.out.counts.untold += 1;
        let (verdict, amounts) = (Verdict::Untold, None);
        let finding = Finding { verdict, activation: position, by: position, decided: time, amounts };
        self.found.push((KeyHash(0, 0), finding));
    }

    /// Judges what falls due before `watermark`. It never goes back.
    pub fn advance<C: Cold>(&mut self, watermark: Time, cold: &C) -> Result<(), C::Error> {
        if watermark <= self.watermark {
            return Ok(());
        }
        self.watermark = watermark;
        while let Some((time, key)) = self.due.first().copied().filter(|(time, _)| *time < watermark) {
            self.load(key, cold)?;
            self.due.remove(&(time, key));
            self.note_due((time, key), false);
            // What is due earlier, of whatever key, is judged earlier: by the time at which it became certain.
            self.rule.expire(&mut self.state, time.saturating_add(1), &mut self.out);
            self.keep(key);
        }
        Ok(())
    }

    /// Judges an event of a key.
    pub fn observe<C: Cold>(&mut self, key: KeyHash, seen: &Seen, cold: &C) -> Result<(), C::Error> {
        self.load(key, cold)?;
        let waited = match &self.state.open[..] {
            [alone] => self.rule.deadline(alone.time),
            _ => None,
        };
        self.rule.observe(&mut self.state, seen, self.watermark, &mut self.out);
        for index in 0..self.out.deadlines.len() {
            let time = self.out.deadlines[index];
            if time < self.watermark {
                // Told too late to wait for anything.
                self.rule.expire(&mut self.state, self.watermark, &mut self.out);
            } else if self.due.insert((time, key)) {
                self.note_due((time, key), true);
            }
        }
        self.out.deadlines.clear();
        if let Some(time) = waited
            && self.state.open.is_empty()
            && self.state.past.is_empty()
            && self.due.remove(&(time, key))
        {
            self.note_due((time, key), false);
        }
        self.keep(key);
        Ok(())
    }

    /// Something of a key is violated, and not healed.
    pub fn is_broken<C: Cold>(&mut self, key: KeyHash, cold: &C) -> Result<bool, C::Error> {
        self.load(key, cold)?;
        Ok(!self.state.broken.is_empty())
    }

    fn load<C: Cold>(&mut self, key: KeyHash, cold: &C) -> Result<(), C::Error> {
        match self.keys.get(&key) {
            Some(packed) if packed.bytes().is_empty() => self.state.clear(),
            Some(packed) => self.state.unpack(packed.bytes()).expect("it was packed here"),
            None if !self.filed => self.state.clear(),
            None => match cold.state(key)? {
                Some(bytes) => self.state.unpack(&bytes).expect("what a file gives was checked"),
                None => self.state.clear(),
            },
        }
        Ok(())
    }

    fn keep(&mut self, key: KeyHash) {
        self.found.extend(self.out.findings.drain(..).map(|finding| (key, finding)));
        if !self.filed && self.state.is_empty() {
            self.keys.remove(&key);
            return;
        }
        match self.state.is_empty() {
            true => self.bytes.clear(),
            false => self.state.pack(&mut self.bytes),
        }
        let before = self.keys.insert(key, Packed::new(&self.bytes, self.filed));
        let was_unsaved = before.is_some_and(|mut before| *before.unsaved());
        self.unsaved += usize::from(self.filed && !was_unsaved);
    }

    fn note_due(&mut self, due: (Time, KeyHash), is_in: bool) {
        if self.filed {
            self.due_unsaved.insert(due, is_in);
        }
    }

    // ---- saved, and read back ----

    /// A book as it was saved, but for its keys, which are read from the file as they are asked for.
    pub fn saved(rule: Rule, counts: Counts, watermark: Time, due: BTreeSet<(Time, KeyHash)>) -> Self {
        let out = Outcome { counts, ..Outcome::default() };
        Self { due, watermark, out, ..Self::new(rule, true) }
    }

    /// Tells all that the file lacks. After it the file lacks nothing, and without `keep` it alone has the keys.
    pub fn save(&mut self, keep: bool, mut each: impl FnMut(Saved<'_>)) {
        for (hash, packed) in &mut self.keys {
            if mem::take(packed.unsaved()) {
                each(Saved::State(*hash, Some(packed.bytes()).filter(|bytes| !bytes.is_empty())));
            }
        }
        match keep {
            true => self.keys.retain(|_, packed| !packed.bytes().is_empty()),
            false => self.keys = HashMap::default(),
        }
        self.unsaved = 0;
        for ((time, key), is_due) in mem::take(&mut self.due_unsaved) {
            each(Saved::Due(time, key, is_due));
        }
    }

    /// States and times that the file lacks.
    pub fn unsaved_len(&self) -> usize {
        self.unsaved + self.due_unsaved.len()
    }

    /// Keys in memory.
    pub fn keys_len(&self) -> usize {
        self.keys.len()
    }
}
