//! State of one key: decoded while it is worked on, packed in memory and on disk alike.
//!
//! ```text
//! state := has u8 · (flags u8)? · (violations v)? · (count v)? · (first mark)? · (open marks)? · (broken marks)? · (past marks)?
//! marks := count v · mark*        mark := position v · time zigzag v · tie u64, if `TIES`
//! v     := varint, little end first
//! ```

use super::word::Time;
use crate::state::varint::{put, take};

/// An event that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub position: u64,
    pub time: Time,
    pub tie: u64,
}

/// State of one key: all that is kept of its events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub flags: u8,
    /// Violations of this key that were not retracted.
    pub violations: u64,
    pub count: u64,
    /// The key's first event, if the rule needs it.
    pub first: Mark,
    /// Activations that wait.
    pub open: Vec<Mark>,
    /// Activations that waited too long, and may heal.
    pub broken: Vec<Mark>,
    /// Earlier events that later ones look back at.
    pub past: Vec<Mark>,
}

/// The key's first event was seen.
pub(crate) const BORN: u8 = 1;
/// The key is judged.
pub(crate) const JUDGED: u8 = 2;
/// The key was judged by time alone, and may heal.
pub(crate) const LATE: u8 = 4;
/// The key's last event is A.
pub(crate) const LAST_IS_A: u8 = 8;
/// An A was seen; a B was seen.
pub(crate) const SEEN_A: u8 = 16;
pub(crate) const SEEN_B: u8 = 32;

const FLAGS: u8 = 1;
const VIOLATIONS: u8 = 2;
const COUNT: u8 = 4;
const FIRST: u8 = 8;
const OPEN: u8 = 16;
const BROKEN: u8 = 32;
const PAST: u8 = 64;
const TIES: u8 = 128;

impl State {
    pub fn clear(&mut self) {
        (self.flags, self.violations, self.count, self.first) = (0, 0, 0, Mark::default());
        self.open.clear();
        self.broken.clear();
        self.past.clear();
    }

    pub fn is_empty(&self) -> bool {
        let nothing = self.open.is_empty() && self.broken.is_empty() && self.past.is_empty();
        nothing && self.flags == 0 && self.violations == 0 && self.count == 0 && self.sum() == 0
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the sum of the amounts. It is kept in the tie of the first mark.
    pub fn sum(&self) -> i64 {
        self.first.tie as i64
    }

    pub fn set_sum(&mut self, sum: i64) {
        self.first.tie = sum as u64;
    }

    /// Adds an amount. Sums wrap, so that a difference is right for all amounts.
    pub fn add(&mut self, amount: i64) {
        self.set_sum(self.sum().wrapping_add(amount));
    }

    /// Returns the number of events that it remembers, without the key's first.
    pub fn marks_len(&self) -> usize {
        self.open.len() + self.broken.len() + self.past.len()
    }

    fn marks(&self) -> impl Iterator<Item = &Mark> {
        [&self.first].into_iter().chain(&self.open).chain(&self.broken).chain(&self.past)
    }

    /// Writes its packed form to `out`, which is cleared first.
    pub fn pack(&self, out: &mut Vec<u8>) {
        out.clear();
        let ties = self.marks().any(|mark| mark.tie != 0);
        let has = |is: bool, part: u8| if is { part } else { 0 };
        let parts = has(self.flags != 0, FLAGS)
            | has(self.violations != 0, VIOLATIONS)
            | has(self.count != 0, COUNT)
            | has(self.first != Mark::default(), FIRST)
            | has(!self.open.is_empty(), OPEN)
            | has(!self.broken.is_empty(), BROKEN)
            | has(!self.past.is_empty(), PAST)
            | has(ties, TIES);
        out.push(parts);
        if parts & FLAGS != 0 {
            out.push(self.flags);
        }
        for (part, number) in [(VIOLATIONS, self.violations), (COUNT, self.count)] {
            if parts & part != 0 {
                put(out, number);
            }
        }
        if parts & FIRST != 0 {
            put_mark(out, &self.first, ties);
        }
        for (part, marks) in [(OPEN, &self.open), (BROKEN, &self.broken), (PAST, &self.past)] {
            if parts & part != 0 {
                put(out, marks.len() as u64);
                marks.iter().for_each(|mark| put_mark(out, mark, ties));
            }
        }
    }

    /// Reads a packed form; the old state is cleared first. `None`: the bytes are no packed state.
    pub fn unpack(&mut self, mut bytes: &[u8]) -> Option<()> {
        self.clear();
        let from = &mut bytes;
        let parts = take_byte(from)?;
        let ties = parts & TIES != 0;
        if parts & FLAGS != 0 {
            self.flags = take_byte(from)?;
        }
        if parts & VIOLATIONS != 0 {
            self.violations = take(from)?;
        }
        if parts & COUNT != 0 {
            self.count = take(from)?;
        }
        if parts & FIRST != 0 {
            self.first = take_mark(from, ties)?;
        }
        for (part, marks) in [(OPEN, &mut self.open), (BROKEN, &mut self.broken), (PAST, &mut self.past)] {
            if parts & part != 0 {
                for _ in 0..take(from)? {
                    marks.push(take_mark(from, ties)?);
                }
            }
        }
        from.is_empty().then_some(())
    }
}

fn take_byte(from: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = from.split_first()?;
    *from = rest;
    Some(*byte)
}

fn put_mark(out: &mut Vec<u8>, mark: &Mark, ties: bool) {
    put(out, mark.position);
    put(out, ((mark.time << 1) ^ (mark.time >> 63)) as u64);
    if ties {
        out.extend(mark.tie.to_le_bytes());
    }
}

fn take_mark(from: &mut &[u8], ties: bool) -> Option<Mark> {
    let position = take(from)?;
    let time = take(from)?;
    let time = (time >> 1) as i64 ^ -((time & 1) as i64);
    let mut mark = Mark { position, time, tie: 0 };
    if ties {
        let (tie, rest) = from.split_first_chunk()?;
        (mark.tie, *from) = (u64::from_le_bytes(*tie), rest);
    }
    Some(mark)
}

/// Version of a key's state that the file has: none, an older one, or the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filed {
    Not,
    Older,
    Same,
}

impl Filed {
    /// Returns the value after a change of the state.
    pub fn changed(self) -> Self {
        if self == Filed::Not { Filed::Not } else { Filed::Older }
    }
}

/// A packed state, and the version that its file has. Short ones take no allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packed {
    Short { filed: Filed, len: u8, bytes: [u8; 21] },
    Long { filed: Filed, bytes: Box<[u8]> },
}

impl Packed {
    pub fn new(bytes: &[u8], filed: Filed) -> Self {
        let mut short = [0; 21];
        match short.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                Packed::Short { filed, len: bytes.len() as u8, bytes: short }
            }
            None => Packed::Long { filed, bytes: bytes.into() },
        }
    }

    /// Returns the packed state. Empty: nothing is kept of the key.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Packed::Short { len, bytes, .. } => &bytes[..usize::from(*len)],
            Packed::Long { bytes, .. } => bytes,
        }
    }

    pub fn filed(&self) -> Filed {
        let (Packed::Short { filed, .. } | Packed::Long { filed, .. }) = self;
        *filed
    }

    pub fn set_filed(&mut self, to: Filed) {
        let (Packed::Short { filed, .. } | Packed::Long { filed, .. }) = self;
        *filed = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks() -> impl Strategy<Value = Vec<Mark>> {
        prop::collection::vec(
            (any::<u64>(), any::<i64>(), prop_oneof![Just(0), any::<u64>()])
                .prop_map(|(position, time, tie)| Mark { position, time, tie }),
            0..4,
        )
    }

    proptest! {
        #[test]
        fn packed_state_round_trips(
            flags: u8, violations: u64, count: u64, first in marks(), open in marks(), broken in marks(), past in marks(),
        ) {
            let first = first.first().copied().unwrap_or_default();
            let state = State { flags, violations, count, first, open, broken, past };
            let mut bytes = vec![9; 3];
            state.pack(&mut bytes);
            let mut read = State { count: 7, ..State::default() };
            prop_assert_eq!(read.unpack(Packed::new(&bytes, Filed::Not).bytes()), Some(()));
            prop_assert_eq!(read, state);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut read = State::default();
            if read.unpack(&bytes).is_some() {
                let mut again = Vec::new();
                read.pack(&mut again);
                let mut twice = State::default();
                prop_assert_eq!(twice.unpack(&again), Some(()));
                prop_assert_eq!(twice, read);
            }
        }
    }

    #[test]
    fn one_open_activation_takes_no_allocation() {
        let open = vec![Mark { position: 5_000_000_000, time: 1_800_000_000_000_000, tie: 0 }];
        let mut bytes = Vec::new();
        State { flags: BORN, violations: 3, open, ..State::default() }.pack(&mut bytes);
        assert!(matches!(Packed::new(&bytes, Filed::Not), Packed::Short { .. }), "{} bytes", bytes.len());
        assert_eq!(size_of::<Packed>(), 24);
    }
}
