//! Memory of guards, as rows: flushed, verified, rebuilt and recovered like any other.
//!
//! - Each key has one row, of all guards that look at events by it: an event reads one row and writes one, however many guards
//!   there are. A key has no row if nothing is to be remembered of it.
//! - The memory is a function of the events alone. A fold of history records the state and goes on; only the decision about an
//!   append refuses.
//! - If the guards change, they get another table: it is folded from the log, as other rows are.
//!
//! ```text
//! key := id · hash of the key, 16 bytes    row := (guard v · bytes v · packed state)*    guards by number, rising
//!      | id · guard u32 BE                        the watermark, 8 bytes: of guards that go by the times of events
//! v   := varint, little end first
//! ```

use super::{GuardRefusal, caught, damaged};
use crate::check::glance::{Glance, Glasses};
use crate::check::keys::KeyHash;
use crate::check::state::State;
use crate::check::word::{Counts, Outcome, Seen, Time, Verdict, Word};
use crate::check::{Check, Clocked, Looked, time_of};
use crate::error::StorageError;
use crate::event::{Event, EventSet, RawRef};
use crate::log::record::LayoutDecl;
use crate::own::Own;
use crate::projection::{Keeper, Step};
use crate::state::layer::RowVersion;
use crate::state::term::Terms;
use crate::state::varint::{put, take};
use crate::sync::Mutex;
use std::sync::Arc;

/// Events of one key that a guard remembers at most: each append with that key reads and writes them all.
const MARKS_MAX: usize = 1024;

/// Memory of all guards of a store.
pub(super) struct Memory {
    pub id: [u8; 4],
    /// In the order of the setup. Rows name a guard by its place.
    pub guards: Vec<Guard>,
    shelf: ToolPool,
}

/// A check that refuses.
pub(super) struct Guard {
    pub check: Check,
    /// Families whose events it looks at. If empty: all but the store's own.
    families: Vec<String>,
}

/// Observation of an event by a guard, with the guard's watermark at that event.
struct GuardObservation {
    key: KeyHash,
    guard: usize,
    seen: Seen,
    now: Time,
}

impl Memory {
    pub fn new(checks: &[Check], terms: &Terms) -> Self {
        let guard = |check: &Check| Guard { check: check.clone(), families: check.lens.families() };
        let shelf = ToolPool { terms: terms.clone(), tools: Mutex::default() };
        let guards = checks.iter().filter(|check| check.guard).map(guard).collect();
        Self { id: super::id_of(checks), guards, shelf }
    }

    /// Folds an event into what is remembered of its keys. `told` gets what it is to each guard that it does not pass.
    pub fn look(
        &self,
        glance: &mut Glance<'_>,
        Hands { sights, work }: &mut Hands,
        step: &mut Step<'_>,
        mut told: impl FnMut(usize, GuardRefusal),
    ) -> Result<(), StorageError> {
        let family = glance.raw.family();
        if family == Own::FAMILY {
            return self.complete(&glance.raw, step);
        }
        sights.clear();
        for (guard, of) in self.guards.iter().enumerate().filter(|(_, of)| of.wants(family)) {
            match caught(|| of.check.lens.look(glance)) {
                Ok(Looked { time, seen }) => {
                    let now = self.watermark(guard, time, step)?;
                    sights.extend(seen.map(|(key, seen)| GuardObservation { key, guard, seen, now }));
                }
                Err(error) => told(guard, GuardRefusal::CannotTell(error.to_string())),
            }
        }
        sights.sort_by_key(|sight| sight.key);
        for of_key in sights.chunk_by(|one, next| one.key == next.key) {
            self.fold(of_key, work, step, &mut told)?;
        }
        Ok(())
    }

    /// One key: of each guard that sees it, what is remembered is made anew; of the others it stays.
    fn fold(
        &self,
        sights: &[GuardObservation],
        KeyScratch { state, packed, after }: &mut KeyScratch,
        step: &mut Step<'_>,
        mut told: impl FnMut(usize, GuardRefusal),
    ) -> Result<(), StorageError> {
        let key = self.row_key(sights[0].key);
        let before = read(step, &key)?;
        let row = before.as_deref().unwrap_or_default();
        let mut parts = RowParts::of(row).ok_or_else(damaged)?.peekable();
        after.clear();
        for GuardObservation { guard, seen, now, .. } in sights {
            while let Some((other, bytes)) = parts.next_if(|(other, _)| other < guard) {
                put_part(after, other, bytes);
            }
            state.clear();
            let mut bytes_before = 0;
            if let Some((_, bytes)) = parts.next_if(|(other, _)| other == guard) {
                bytes_before = bytes.len();
                state.unpack(bytes).ok_or_else(damaged)?;
            }
            let marks_before = state.marks_len();
            let violates = self.guards[*guard].judge(state, seen, *now);
            packed.clear();
            if !state.is_empty() {
                state.pack(packed);
                put_part(after, *guard, packed);
            }
            let (size, limit, marks) = (packed.len(), step.limits.row_bytes, state.marks_len());
            // An event that leaves less to remember is never refused for what came before it.
            if !violates.is_empty() {
                told(*guard, GuardRefusal::Violates(violates));
            } else if marks > MARKS_MAX && marks > marks_before {
                let why = format!(
                    "it would keep {marks} events of one key, the limit is {MARKS_MAX}: a shorter window, or an exact one that begins at \
                     once and goes by the time of commits, keeps fewer"
                );
                told(*guard, GuardRefusal::CannotTell(why));
            } else if size > limit && size > bytes_before {
                let why = format!("what it keeps of the key has {size} bytes, the limit is {limit}");
                told(*guard, GuardRefusal::CannotTell(why));
            }
        }
        parts.for_each(|(other, bytes)| put_part(after, other, bytes));
        if after != row {
            write(step, &key, (!after.is_empty()).then(|| Arc::from(&**after)));
        }
        Ok(())
    }

    fn row_key(&self, key: KeyHash) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.id);
        bytes[4..12].copy_from_slice(&key.0.to_be_bytes());
        bytes[12..].copy_from_slice(&key.1.to_be_bytes());
        bytes
    }

    /// Takes tools for looking at events, which know the layouts of this step.
    pub fn tools(&self, step: &Step<'_>) -> Taken<'_> {
        self.shelf.take(step)
    }

    // ---- time ----

    /// Up to when time is over for a guard, once an event has said its own. As the watcher has it: a guard refuses what its check
    /// finds.
    fn watermark(&self, guard: usize, said: Option<Time>, step: &mut Step<'_>) -> Result<Time, StorageError> {
        let recorded = time_of(step.at.time);
        match self.guards[guard].check.clocked {
            // One that goes by snapshots does not open as a guard.
            Clocked::Recorded | Clocked::Pulled => Ok(recorded),
            clocked @ Clocked::Events { lateness, skew, .. } => {
                let said = said.filter(|said| *said <= recorded.saturating_add(skew));
                let said = self.move_to(guard, said.map(|said| said.saturating_sub(lateness)), step)?;
                Ok(clocked.watermark(recorded).map_or(said, |watermark| watermark.max(said)))
            }
        }
    }

    /// Somebody may have said of a check that no earlier event comes any more.
    fn complete(&self, raw: &RawRef<'_>, step: &mut Step<'_>) -> Result<(), StorageError> {
        if raw.type_name() == Own::COMPLETE
            && let Ok(Own::Complete { check, until }) = Own::decode(raw)
        {
            let goes_by_events = |of: &Guard| of.check.clocked != Clocked::Recorded && of.check.id() == check;
            if let Some(guard) = self.guards.iter().position(goes_by_events) {
                self.move_to(guard, Some(until), step)?;
            }
        }
        Ok(())
    }

    fn move_to(&self, guard: usize, time: Option<Time>, step: &mut Step<'_>) -> Result<Time, StorageError> {
        let mut key = [0; 8];
        key[..4].copy_from_slice(&self.id);
        key[4..].copy_from_slice(&(guard as u32).to_be_bytes());
        let before = match read(step, &key)? {
            None => Time::MIN,
            Some(bytes) => Time::from_le_bytes(<[u8; 8]>::try_from(&*bytes).map_err(|_| damaged())?),
        };
        let now = time.map_or(before, |time| time.max(before));
        if now > before {
            write(step, &key, Some(Arc::from(&now.to_le_bytes()[..])));
        }
        Ok(now)
    }
}

impl Guard {
    pub fn wants(&self, family: &str) -> bool {
        match family == Own::FAMILY {
            true => self.check.clocked != Clocked::Recorded,
            false => self.families.is_empty() || self.families.iter().any(|wanted| wanted == family),
        }
    }

    /// Folds what was seen into the key's state. Says which events had activated what it violates; that changes nothing of what is
    /// remembered.
    fn judge(&self, state: &mut State, seen: &Seen, now: Time) -> Vec<u64> {
        let rule = &self.check.rule;
        // Nobody counts here; what is retracted is taken off.
        let counts =
            Counts { violated: u64::from(u32::MAX), keys_violated: u64::from(u32::MAX), ..Counts::default() };
        let mut out = Outcome { counts, ..Outcome::default() };
        rule.expire(state, now, &mut out);
        // What time has decided is none of this event's doing.
        out.findings.clear();
        rule.observe(state, seen, now, &mut out);
        // What no later refusal can rest on: how many violations there were, and what was answered too late.
        state.violations = 0;
        // A late B still belongs to its A; what stood too long is not switched on again; of sums these are no activations.
        if !matches!(rule.word, Word::EachClosedBy | Word::Standing | Word::Equals) {
            state.broken.clear();
        }
        rule.keep_newest(state);
        let violated = out.findings.iter().filter(|finding| finding.verdict == Verdict::Violated);
        violated.map(|finding| finding.activation).collect()
    }
}

impl Keeper for Memory {
    fn name(&self) -> String {
        "guards".to_owned()
    }

    fn wants(&self, family: &str) -> bool {
        self.guards.iter().any(|guard| guard.wants(family))
    }

    fn fold(&self, raw: &RawRef<'_>, step: &mut Step<'_>) -> Result<(), StorageError> {
        let mut taken = self.tools(step);
        let (mut glance, hands) = taken.glance(raw, step);
        self.look(&mut glance, hands, step, |_, _| {})
    }
}

// ---- rows ----

fn put_part(out: &mut Vec<u8>, guard: usize, packed: &[u8]) {
    put(out, guard as u64);
    put(out, packed.len() as u64);
    out.extend(packed);
}

/// The parts of a row.
struct RowParts<'a>(&'a [u8]);

impl<'a> RowParts<'a> {
    /// `None`: it is no row.
    fn of(row: &'a [u8]) -> Option<Self> {
        let mut rest = row;
        while !rest.is_empty() {
            take_part(&mut rest)?;
        }
        Some(Self(row))
    }
}

impl<'a> Iterator for RowParts<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        take_part(&mut self.0)
    }
}

fn take_part<'a>(row: &mut &'a [u8]) -> Option<(usize, &'a [u8])> {
    let (guard, len) = (take(row)?, take(row)?);
    let (packed, rest) = row.split_at_checked(usize::try_from(len).ok()?)?;
    *row = rest;
    Some((usize::try_from(guard).ok()?, packed))
}

fn read(step: &Step<'_>, key: &[u8]) -> Result<Option<Arc<[u8]>>, StorageError> {
    let row = step.published.read(&[&*step.scratch, step.group], |layers| layers.row(key))?;
    Ok(row.and_then(|version| version.value))
}

fn write(step: &mut Step<'_>, key: &[u8], value: Option<Arc<[u8]>>) {
    let version = RowVersion { commit: step.at.commit, position: step.at.position, value };
    step.scratch.put_row(key.into(), version);
}

// ---- tools ----

/// Tools for looking at events. The writer, transactions and recovery use them, each on its thread.
struct GuardTools {
    glasses: Glasses,
    hands: Hands,
}

/// Room to work in, kept from event to event.
#[derive(Default)]
pub(super) struct Hands {
    sights: Vec<GuardObservation>,
    work: KeyScratch,
}

#[derive(Default)]
struct KeyScratch {
    state: State,
    packed: Vec<u8>,
    after: Vec<u8>,
}

/// Tools that nobody uses.
struct ToolPool {
    terms: Terms,
    tools: Mutex<Vec<GuardTools>>,
}

impl ToolPool {
    /// Tools that know what the step knows, put back after use.
    fn take(&self, step: &Step<'_>) -> Taken<'_> {
        let layouts = &step.published.layouts;
        let kept = self.tools.lock().pop();
        let mut tools = kept.unwrap_or_else(|| GuardTools {
            glasses: Glasses::new(self.terms.clone(), layouts.clone()),
            hands: Hands::default(),
        });
        tools.glasses.renew(layouts);
        // Types that are new in this group.
        for LayoutDecl { type_name, schema, layout } in step.group.layouts.iter().chain(&step.scratch.layouts)
        {
            tools.glasses.learn(type_name, *schema, layout);
        }
        Taken { tools: Some(tools), shelf: self }
    }
}

pub(super) struct Taken<'a> {
    tools: Option<GuardTools>,
    shelf: &'a ToolPool,
}

impl Taken<'_> {
    pub fn glance<'a>(&'a mut self, raw: &RawRef<'a>, step: &Step<'_>) -> (Glance<'a>, &'a mut Hands) {
        let GuardTools { glasses, hands } =
            self.tools.as_mut().expect("they are in use until this is dropped");
        (Glance::new(*raw, step.at.position, step.at.time, glasses), hands)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.shelf.tools.lock().extend(self.tools.take());
    }
}

#[cfg(all(test, feature = "rules"))]
mod tests {
    use super::*;
    use crate::check::word::{Amount, Roles};
    use proptest::prelude::*;

    /// A guard of this declaration.
    fn guard(declared: &str) -> Guard {
        let text = format!(
            "[check.it]\nwhen = \"f.A\"\n{declared}\nguard = true\nseverity = \"note\"\nowner = \"o\"\nmeans = \"m\"\nremedy = \"r\""
        );
        let check = crate::check::rules::parse(&text, "it.toml").expect("it is right").remove(0);
        Guard { families: check.lens.families(), check }
    }

    /// The largest state of one key that a guard comes to in so many events, a second apart.
    fn largest(guard: &Guard, events: u64, roles: impl Fn(u64) -> Roles) -> usize {
        let (mut state, mut packed, mut largest) = (State::default(), Vec::new(), 0);
        for position in 1..=events {
            let time = 1_780_000_000_000_000 + position as Time * 1_000_000;
            let (tie, amount) = (position % 3, Amount::default());
            let seen = Seen { position, time, roles: roles(position), tie_a: tie, tie_b: tie, amount };
            guard.judge(&mut state, &seen, time);
            state.pack(&mut packed);
            largest = largest.max(packed.len());
        }
        largest
    }

    /// One busy key: each append reads and writes the state, so that its size times their number is the cost.
    #[test]
    fn busy_key_keeps_last_activation_per_tie() {
        let (a, both) = (|_: u64| Roles::A, |_: u64| Roles::A.with(Roles::B, true));
        for (declared, roles) in [
            ("kind = \"precedence\"\nthen = \"f.B\"\nwithin = \"30d\"", &both as &dyn Fn(u64) -> Roles),
            ("kind = \"precedence\"\nthen = \"f.B\"\nwithin = \"30d\"", &a),
            ("kind = \"alternate_precedence\"\nthen = \"f.B\"\nwithin = \"30d\"", &a),
            ("kind = \"not_precedence\"\nthen = \"f.B\"\nwithin = \"30d\"", &a),
            ("kind = \"not_response\"\nthen = \"f.B\"\nwithin = \"30d\"", &a),
            ("kind = \"not_response\"\nthen = \"f.B\"\nunbounded = true", &a),
            ("kind = \"absent_between\"\nthen = \"f.B\"\nuntil = \"f.C\"", &a),
            ("kind = \"response\"\nthen = \"f.B\"\nwithin = \"30d\"\nclosed_by = \"f.C\"", &a),
            ("kind = \"succession\"\nthen = \"f.B\"\nwithin = \"30d\"", &a),
            ("kind = \"absence\"\nn = 3\nwithin = \"10s\"", &a),
        ] {
            let largest = largest(&guard(declared), 5_000, roles);
            assert!(largest <= 160, "{declared}: {largest} bytes");
        }
    }

    #[test]
    fn window_needing_all_events_keeps_them() {
        let days = "kind = \"precedence\"\nthen = \"f.B\"\nnot_before = \"1s\"\nwithin = \"30d\"";
        let largest = largest(&guard(days), 1_000, |_| Roles::A);
        assert!(largest > 1_000 * 8, "{largest} bytes");
    }

    proptest! {
        #[test]
        fn guard_row_round_trips(
            parts in prop::collection::vec((0..300_usize, prop::collection::vec(any::<u8>(), 0..200)), 0..6),
        ) {
            let mut row = Vec::new();
            parts.iter().for_each(|(guard, packed)| put_part(&mut row, *guard, packed));
            let read = RowParts::of(&row).map(|parts| parts.map(|(guard, packed)| (guard, packed.to_vec())).collect());
            prop_assert_eq!(read, Some(parts));
        }

        #[test]
        fn hostile_guard_row_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(parts) = RowParts::of(&bytes) {
                prop_assert!(parts.count() <= bytes.len());
            }
        }
    }
}
