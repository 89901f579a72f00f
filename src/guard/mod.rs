//! Refusal of commits: by checks that are guards, and by invariants of rows.
//!
//! - A guard refuses only violations that an event decides. Those that time decides are found behind the writer, where a guard is
//!   a check like any other.
//! - A guard also refuses if it cannot decide: an event that a guard cannot read never passes it in silence.

mod invariants;
mod memory;

use crate::check::{Check, Invariant};
use crate::error::{AppendError, DecodeError, StorageError, TroubleKind};
use crate::event::RawRef;
use crate::misfit::panic_text;
use crate::order::Position;
use crate::projection::{Registered, Stall, Step};
use crate::reentry::{self, Inside};
use crate::state::Published;
use crate::state::overlay::Delta;
use crate::state::term::Terms;
use invariants::ChangedRows;
use memory::Memory;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Everything that refuses commits in a store.
#[derive(Clone)]
pub(crate) struct Guards {
    memory: Arc<Memory>,
    invariants: Vec<Invariant>,
}

/// Returns the identifier of the table shared by all guards.
pub(crate) fn id_of(checks: &[Check]) -> [u8; 4] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"guards\0");
    for guard in checks.iter().filter(|check| check.guard) {
        let definition = guard.definition();
        hasher.update(&(definition.len() as u64).to_le_bytes()).update(&definition);
    }
    let mut id = [0; 4];
    hasher.finalize_xof().fill(&mut id);
    id
}

/// Reason for which a guard does not pass an event.
enum GuardRefusal {
    /// It violates what these earlier events activated.
    Violates(Vec<u64>),
    CannotTell(String),
}

impl Guards {
    pub fn new(checks: &[Check], invariants: &[Invariant], terms: &Terms) -> Self {
        Self { memory: Arc::new(Memory::new(checks, terms)), invariants: invariants.to_vec() }
    }

    /// Returns the memory of guards, as a table to keep, fold and compare. `None` if there are no guards.
    pub fn registered(&self) -> Option<Registered> {
        (!self.is_empty()).then(|| Registered::kept(self.memory.id, self.memory.clone()))
    }

    /// None looks at events.
    pub fn is_empty(&self) -> bool {
        self.memory.guards.is_empty()
    }

    /// Folds one event into what guards remember, and refuses it: `index` is its place in the append.
    pub fn fold(
        &self,
        stalls: &BTreeMap<[u8; 4], Stall>,
        raw: &RawRef<'_>,
        index: usize,
        step: &mut Step<'_>,
    ) -> Result<(), AppendError> {
        let memory = &self.memory;
        let Some(wants) = memory.guards.iter().find(|guard| guard.wants(raw.family())) else { return Ok(()) };
        if let Some(stall) = stalls.get(&memory.id) {
            let check = wants.check.id().to_owned();
            return Err(AppendError::CannotTell { check, index, why: stalled(stall) });
        }
        let mut taken = memory.tools(step);
        let (mut glance, hands) = taken.glance(raw, step);
        // The first of them in the order of the setup refuses.
        let mut first: Option<(usize, GuardRefusal)> = None;
        memory.look(&mut glance, hands, step, |guard, told| {
            if first.as_ref().is_none_or(|(earlier, _)| guard < *earlier) {
                first = Some((guard, told));
            }
        })?;
        let Some((guard, told)) = first else { return Ok(()) };
        let guard = &memory.guards[guard].check;
        let check = guard.id().to_owned();
        Err(match told {
            GuardRefusal::CannotTell(why) => AppendError::CannotTell { check, index, why },
            GuardRefusal::Violates(activations) => {
                let key = caught(|| guard.lens.key_text(&mut glance)).unwrap_or_default();
                let append = Position(step.at.position.0 - index as u64);
                let events = earlier(activations.into_iter().map(Position), append);
                AppendError::Violated { check, key, events, index }
            }
        })
    }

    /// Asks the invariants of all rows that `scratch` changes, as it would leave them. `first` is the position of its first event.
    pub fn check_rows(
        &self,
        stalls: &BTreeMap<[u8; 4], Stall>,
        first: Position,
        published: &Published,
        group: &Delta,
        scratch: &Delta,
    ) -> Result<(), AppendError> {
        let rows = ChangedRows { stalls, first, published, group, scratch };
        self.invariants.iter().try_for_each(|invariant| rows.check(invariant))
    }
}

/// Returns the positions before the append itself, each once, in order.
fn earlier(positions: impl Iterator<Item = Position>, first: Position) -> Vec<Position> {
    positions.filter(|position| *position < first).collect::<BTreeSet<_>>().into_iter().collect()
}

fn stalled(stall: &Stall) -> String {
    format!("it is stalled at position {}: {}", stall.position, stall.why)
}

/// Calls foreign code. A panic in it becomes an error.
fn caught<T>(ask: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    let _inside = reentry::enter(Inside::Guard);
    catch_unwind(AssertUnwindSafe(ask))
        .unwrap_or_else(|panic| Err(DecodeError::new(format!("panicked: {}", panic_text(&*panic)))))
}

fn damaged() -> StorageError {
    StorageError::new(TroubleKind::State, "what guards remember of a key cannot be read".to_owned())
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guards = self.memory.guards.iter().map(|guard| &guard.check);
        f.debug_list().entries(guards).entries(&self.invariants).finish()
    }
}
