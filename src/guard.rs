//! What refuses a commit: checks that are guards, and invariants of rows.
//!
//! - What a guard keeps of a key is the state of its rule, packed, as a row: flushed, verified, rebuilt and recovered like any
//!   other. A key of which nothing is to be remembered has no row.
//! - It is a function of the events alone. Whoever folds history records the state and goes on; only who decides refuses.
//! - A guard refuses by what an event decides. What time decides is found behind the writer, where a guard is a check like any other.
//! - What cannot be told refuses too: an event that a guard cannot read never passes it in silence.
//!
//! ```text
//! key := id · hash of the key, 16 bytes    row := a packed state
//!      | id                                       the watermark, 8 bytes: of guards that go by the times of events
//! ```

use crate::check::glance::{Glance, Glasses};
use crate::check::keys::KeyHash;
use crate::check::state::State;
use crate::check::word::{Counts, Outcome, Time, Verdict, Word};
use crate::check::{Check, Clocked, Invariant, Looked, time_of};
use crate::error::{AppendError, DecodeError, StorageError, TroubleKind};
use crate::event::{Event, EventSet, RawRef};
use crate::log::record::LayoutDecl;
use crate::misfit::panic_text;
use crate::order::Position;
use crate::own::Own;
use crate::projection::{Keeper, Registered, Stall, Step};
use crate::state::Published;
use crate::state::layer::{Layer, RowKey, RowVersion};
use crate::state::overlay::Delta;
use crate::state::tables::table_range;
use crate::state::term::Terms;
use crate::sync::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Everything that refuses commits in a store.
#[derive(Clone)]
pub(crate) struct Guards {
    all: Vec<Arc<Guard>>,
    invariants: Vec<Invariant>,
    shelf: Arc<Shelf>,
}

/// A check that refuses.
pub(crate) struct Guard {
    check: Check,
    id: [u8; 4],
    /// Those whose events it looks at; none: all.
    families: Vec<String>,
    shelf: Arc<Shelf>,
}

/// Glasses that nobody wears. The writer, transactions and recovery look at events, each on its thread.
struct Shelf {
    terms: Terms,
    glasses: Mutex<Vec<Glasses>>,
}

impl Shelf {
    /// Glasses for what these know, put back after use.
    fn take(self: &Arc<Self>, step: &Step<'_>) -> Worn {
        let layouts = &step.published.layouts;
        let kept = self.glasses.lock().pop();
        let mut glasses = kept.unwrap_or_else(|| Glasses::new(self.terms.clone(), layouts.clone()));
        glasses.renew(layouts);
        // Types that are new in this group.
        for LayoutDecl { type_name, schema, layout } in step.group.layouts.iter().chain(&step.scratch.layouts)
        {
            glasses.learn(type_name, *schema, layout);
        }
        Worn { glasses: Some(glasses), shelf: self.clone() }
    }
}

struct Worn {
    glasses: Option<Glasses>,
    shelf: Arc<Shelf>,
}

impl Worn {
    fn glance<'a>(&'a self, raw: &RawRef<'a>, step: &Step<'_>) -> Glance<'a> {
        let glasses = self.glasses.as_ref().expect("they are worn until this is dropped");
        Glance::new(*raw, step.at.position, step.at.time, glasses)
    }
}

impl Drop for Worn {
    fn drop(&mut self) {
        self.shelf.glasses.lock().extend(self.glasses.take());
    }
}

/// What names the rows of a check that is a guard.
pub(crate) fn id_of(check: &Check) -> [u8; 4] {
    let mut id = [0; 4];
    blake3::Hasher::new().update(b"guard\0").update(&check.definition()).finalize_xof().fill(&mut id);
    id
}

/// What an event is to a guard.
enum Told {
    Passes,
    /// It violates what these earlier events activated.
    Violates(Vec<u64>),
    CannotTell(String),
}

impl Guards {
    pub fn new(checks: &[Check], invariants: &[Invariant], terms: &Terms) -> Self {
        let shelf = Arc::new(Shelf { terms: terms.clone(), glasses: Mutex::default() });
        let guard = |check: &Check| {
            let (id, families) = (id_of(check), check.lens.families());
            Arc::new(Guard { check: check.clone(), id, families, shelf: shelf.clone() })
        };
        let all = checks.iter().filter(|check| check.guard).map(guard).collect();
        Self { all, invariants: invariants.to_vec(), shelf }
    }

    /// Their rows, for whoever keeps, folds and compares rows.
    pub fn registered(&self) -> impl Iterator<Item = Registered> {
        self.all.iter().map(|guard| Registered::kept(guard.id, guard.check.version, guard.clone()))
    }

    /// None looks at events.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Folds one event into what guards keep, and refuses it: `index` is its place in the append. Each looks at the same glance.
    pub fn fold(
        &self,
        stalls: &BTreeMap<[u8; 4], Stall>,
        raw: &RawRef<'_>,
        index: usize,
        step: &mut Step<'_>,
    ) -> Result<(), AppendError> {
        let mut wanted = self.all.iter().filter(|guard| guard.wants(raw.family())).peekable();
        if wanted.peek().is_none() {
            return Ok(());
        }
        let worn = self.shelf.take(step);
        let mut glance = worn.glance(raw, step);
        let first = Position(step.at.position.0 - index as u64);
        for guard in wanted {
            let check = || guard.check.id().to_owned();
            if let Some(stall) = stalls.get(&guard.id) {
                return Err(AppendError::CannotTell { check: check(), index, why: stalled(stall) });
            }
            match guard.look(&mut glance, step)? {
                Told::Passes => {}
                Told::Violates(activations) => {
                    let key = guard.key_text(&mut glance);
                    let events = earlier(activations.into_iter().map(Position), first);
                    return Err(AppendError::Violated { check: check(), key, events, index });
                }
                Told::CannotTell(why) => return Err(AppendError::CannotTell { check: check(), index, why }),
            }
        }
        Ok(())
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

/// Those before the append itself, each once.
fn earlier(positions: impl Iterator<Item = Position>, first: Position) -> Vec<Position> {
    positions.filter(|position| *position < first).collect::<BTreeSet<_>>().into_iter().collect()
}

fn stalled(stall: &Stall) -> String {
    format!("it is stalled at position {}: {}", stall.position, stall.why)
}

// ---- checks ----

impl Guard {
    /// Folds an event into what is kept of its key. Whether it violates anything does not change what is kept.
    fn look(&self, glance: &mut Glance<'_>, step: &mut Step<'_>) -> Result<Told, StorageError> {
        if glance.raw.family() == Own::FAMILY {
            self.complete(&glance.raw, step)?;
            return Ok(Told::Passes);
        }
        let looked = caught(|| self.check.lens.look(glance));
        let Looked { time, seen } = match looked {
            Ok(looked) => looked,
            Err(error) => return Ok(Told::CannotTell(error.to_string())),
        };
        let now = self.watermark(time, step)?;
        let Some((key, seen)) = seen else { return Ok(Told::Passes) };
        let key = self.row_key(key);
        let (rule, before) = (&self.check.rule, read(step, &key)?);
        let mut state = State::default();
        if let Some(packed) = &before {
            state.unpack(packed).ok_or_else(|| damaged(self.check.id()))?;
        }
        // Nobody counts here; what is retracted is taken off.
        let counts =
            Counts { violated: u64::from(u32::MAX), keys_violated: u64::from(u32::MAX), ..Counts::default() };
        let mut out = Outcome { counts, ..Outcome::default() };
        rule.expire(&mut state, now, &mut out);
        // What time has decided is none of this event's doing.
        out.findings.clear();
        rule.observe(&mut state, &seen, now, &mut out);
        self.forget(&mut state);
        let mut packed = Vec::new();
        if !state.is_empty() {
            state.pack(&mut packed);
        }
        let size = packed.len();
        self.keep(key, before, packed, step);
        let violated = out.findings.iter().filter(|finding| finding.verdict == Verdict::Violated);
        let activations: Vec<u64> = violated.map(|finding| finding.activation).collect();
        let limit = step.limits.row_bytes;
        Ok(match activations.is_empty() {
            false => Told::Violates(activations),
            true if size > limit => {
                Told::CannotTell(format!("what it keeps of the key has {size} bytes, the limit is {limit}"))
            }
            true => Told::Passes,
        })
    }

    /// What no later refusal can rest on: how many violations there were, and what was answered too late.
    fn forget(&self, state: &mut State) {
        state.violations = 0;
        // A late B still belongs to its A; what stood too long is not switched on again.
        if !matches!(self.check.rule.word, Word::EachClosedBy | Word::Standing) {
            state.broken.clear();
        }
    }

    fn row_key(&self, key: KeyHash) -> RowKey {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.id);
        bytes[4..12].copy_from_slice(&key.0.to_be_bytes());
        bytes[12..].copy_from_slice(&key.1.to_be_bytes());
        Arc::from(&bytes[..])
    }

    fn keep(&self, key: RowKey, before: Option<Arc<[u8]>>, packed: Vec<u8>, step: &mut Step<'_>) {
        let packed = (!packed.is_empty()).then(|| Arc::from(packed));
        if packed != before {
            write(step, key, packed);
        }
    }

    // ---- time ----

    /// Up to when time is over for it, once an event has said its own. As the watcher has it: a guard refuses what its check finds.
    fn watermark(&self, said: Option<Time>, step: &mut Step<'_>) -> Result<Time, StorageError> {
        let recorded = time_of(step.at.time);
        match self.check.clocked {
            // One that goes by snapshots does not open as a guard.
            Clocked::Recorded | Clocked::Pulled => Ok(recorded),
            Clocked::Events { lateness } => {
                self.move_to(said.map(|said| said.min(recorded).saturating_sub(lateness)), step)
            }
        }
    }

    /// Somebody has said that no earlier event comes any more.
    fn complete(&self, raw: &RawRef<'_>, step: &mut Step<'_>) -> Result<(), StorageError> {
        match Own::decode(raw) {
            Ok(Own::Complete { check, until }) if check == self.check.id() => {
                self.move_to(Some(until), step).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn move_to(&self, time: Option<Time>, step: &mut Step<'_>) -> Result<Time, StorageError> {
        let key = RowKey::from(&self.id[..]);
        let before = match read(step, &key)? {
            None => Time::MIN,
            Some(bytes) => {
                let bytes = <[u8; 8]>::try_from(&*bytes).map_err(|_| damaged(self.check.id()))?;
                Time::from_le_bytes(bytes)
            }
        };
        let now = time.map_or(before, |time| time.max(before));
        if now > before {
            write(step, key, Some(Arc::from(&now.to_le_bytes()[..])));
        }
        Ok(now)
    }

    fn key_text(&self, glance: &mut Glance<'_>) -> String {
        caught(|| self.check.lens.key_text(glance)).unwrap_or_default()
    }
}

impl Keeper for Guard {
    fn name(&self) -> String {
        format!("guard:{}", self.check.id())
    }

    fn wants(&self, family: &str) -> bool {
        match family == Own::FAMILY {
            true => self.check.clocked != Clocked::Recorded,
            false => self.families.is_empty() || self.families.iter().any(|wanted| wanted == family),
        }
    }

    fn fold(&self, raw: &RawRef<'_>, step: &mut Step<'_>) -> Result<(), StorageError> {
        let worn = self.shelf.take(step);
        self.look(&mut worn.glance(raw, step), step).map(drop)
    }
}

/// What foreign code says. A panic in it is an answer.
fn caught<T>(ask: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(ask))
        .unwrap_or_else(|panic| Err(DecodeError::new(format!("panicked: {}", panic_text(&*panic)))))
}

fn read(step: &Step<'_>, key: &[u8]) -> Result<Option<Arc<[u8]>>, StorageError> {
    let row = step.published.read(&[&*step.scratch, step.group], |layers| layers.row(key))?;
    Ok(row.and_then(|version| version.value))
}

fn write(step: &mut Step<'_>, key: RowKey, value: Option<Arc<[u8]>>) {
    let version = RowVersion { commit: step.at.commit, position: step.at.position, value };
    step.scratch.put_row(key, version);
}

fn damaged(check: &str) -> StorageError {
    StorageError::new(TroubleKind::State, format!("what guard `{check}` keeps of a key cannot be read"))
}

// ---- invariants ----

/// The rows that a commit changes, as it would leave them.
struct ChangedRows<'a> {
    stalls: &'a BTreeMap<[u8; 4], Stall>,
    first: Position,
    published: &'a Published,
    group: &'a Delta,
    scratch: &'a Delta,
}

impl ChangedRows<'_> {
    fn check(&self, invariant: &Invariant) -> Result<(), AppendError> {
        let ids: Vec<[u8; 4]> = invariant.rows.projections().iter().map(|projection| projection.id).collect();
        let changed =
            ids.iter().flat_map(|id| self.scratch.rows.range::<[u8], _>(table_range(*id).as_bounds()));
        let keys: BTreeSet<&[u8]> = changed.map(|(key, _)| &key[4..]).collect();
        if keys.is_empty() {
            return Ok(());
        }
        if let Some(stall) = ids.iter().find_map(|id| self.stalls.get(id)) {
            let check = invariant.id().to_owned();
            return Err(AppendError::CannotTell { check, index: 0, why: stalled(stall) });
        }
        keys.into_iter().try_for_each(|key| self.check_key(invariant, &ids, key))
    }

    fn check_key(&self, invariant: &Invariant, ids: &[[u8; 4]], key: &[u8]) -> Result<(), AppendError> {
        let full: Vec<Vec<u8>> = ids.iter().map(|id| [id, key].concat()).collect();
        let versions = self.read(&full, &[self.scratch, self.group])?;
        let rows: Vec<Option<&[u8]>> = versions
            .iter()
            .map(|version| version.as_ref().and_then(|version| version.value.as_deref()))
            .collect();
        let why = match caught(|| invariant.rows.wrong(key, &rows)) {
            Ok(false) => return Ok(()),
            Ok(true) => None,
            Err(error) => Some(error.to_string()),
        };
        // The last event of the append that had a part in it.
        let touched = full.iter().filter_map(|key| self.scratch.rows.get(&**key));
        let last = touched.map(|version| version.position).max().unwrap_or(self.first);
        let index = (last.0 - self.first.0) as usize;
        let check = invariant.id().to_owned();
        Err(match why {
            Some(why) => AppendError::CannotTell { check, index, why },
            None => {
                let key = caught(|| invariant.rows.key_text(key)).unwrap_or_default();
                // Who last changed the rows, as they stand without the append.
                let before = self.read(&full, &[self.group])?.into_iter().flatten();
                let events = earlier(before.map(|version| version.position), self.first);
                AppendError::Violated { check, key, events, index }
            }
        })
    }

    fn read(&self, keys: &[Vec<u8>], above: &[&dyn Layer]) -> Result<Vec<Option<RowVersion>>, StorageError> {
        self.published.read(above, |layers| keys.iter().map(|key| layers.row(key)).collect())
    }
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|guard| &guard.check)).entries(&self.invariants).finish()
    }
}
