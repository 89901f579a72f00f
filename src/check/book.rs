//! What one rule keeps of all keys: their states, what falls due when, and how often it was what.
//!
//! - A function of the events it was shown and the watermarks it was told, in their order; so a log gives one book.
//! - Keys of which nothing is to be remembered take no room. Of the others, those not touched lately may live in a file only.

use super::due::Due;
pub(crate) use super::keys::KeyHash;
use super::keys::Keys;
use super::state::{Filed, Packed, State};
use super::word::{Counts, Finding, Outcome, Rule, Seen, Time, Verdict};
use std::mem;

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
    keys: Keys,
    /// The file may have keys that these are without.
    has_cold: bool,
    due: Due,
    /// What of `due` is otherwise in the file: in there but not here, or here but not in there.
    due_unsaved: Due,
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
        self.due.first().map(|(time, _)| time)
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
        while let Some((time, key)) = self.due.first().filter(|(time, _)| *time < watermark) {
            let filed = self.load(key, cold)?;
            self.due.remove(&(time, key));
            self.note_due((time, key));
            // What is due earlier, of whatever key, is judged earlier: by the time at which it became certain.
            self.rule.expire(&mut self.state, time.saturating_add(1), &mut self.out);
            self.keep(key, filed);
        }
        Ok(())
    }

    /// Judges an event of a key.
    pub fn observe<C: Cold>(&mut self, key: KeyHash, seen: &Seen, cold: &C) -> Result<(), C::Error> {
        let filed = self.load(key, cold)?;
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
                self.note_due((time, key));
            }
        }
        self.out.deadlines.clear();
        if let Some(time) = waited
            && self.state.open.is_empty()
            && self.state.past.is_empty()
            && self.due.remove(&(time, key))
        {
            self.note_due((time, key));
        }
        self.keep(key, filed);
        Ok(())
    }

    /// Something of a key is violated, and not healed.
    pub fn is_broken<C: Cold>(&mut self, key: KeyHash, cold: &C) -> Result<bool, C::Error> {
        self.load(key, cold)?;
        Ok(!self.state.broken.is_empty())
    }

    /// Takes up a key's state, and says what of it the file has.
    fn load<C: Cold>(&mut self, key: KeyHash, cold: &C) -> Result<Filed, C::Error> {
        self.state.clear();
        if let Some(packed) = self.keys.get(key) {
            if !packed.bytes().is_empty() {
                self.state.unpack(packed.bytes()).expect("it was packed here");
            }
            return Ok(packed.filed());
        }
        let Some(bytes) = (if self.has_cold { cold.state(key)? } else { None }) else {
            return Ok(Filed::Not);
        };
        self.state.unpack(&bytes).expect("what a file gives was checked");
        Ok(Filed::Same)
    }

    fn keep(&mut self, key: KeyHash, filed: Filed) {
        self.found.extend(self.out.findings.drain(..).map(|finding| (key, finding)));
        let was_unsaved = filed != Filed::Same && self.keys.get(key).is_some();
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

    /// Came or went. Twice is as it was.
    fn note_due(&mut self, due: (Time, KeyHash)) {
        if self.filed && !self.due_unsaved.remove(&due) {
            self.due_unsaved.insert(due);
        }
    }

    // ---- saved, and read back ----

    /// A book as it was saved, but for its keys, which are read from the file as they are asked for.
    pub fn saved(rule: Rule, counts: Counts, watermark: Time, due: Due) -> Self {
        let out = Outcome { counts, ..Outcome::default() };
        Self { due, watermark, out, has_cold: true, ..Self::new(rule, true) }
    }

    /// Tells all that the file lacks, in order. After it the file lacks nothing, and without `keep` it alone has the keys.
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

    /// States and times that the file lacks.
    pub fn unsaved_len(&self) -> usize {
        self.unsaved + self.due_unsaved.len()
    }

    /// Keys in memory.
    pub fn keys_len(&self) -> usize {
        self.keys.len()
    }
}
