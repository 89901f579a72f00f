//! What a store is told before it opens. One function in a program makes it, and its tests use the same one.

use crate::budget::{Budget, TxEvent};
use crate::disk::Platform;
use crate::error::Missing;
use crate::event::{self, Codec, EventSet, Family, Raw};
use crate::log::record::StoredEvent;
use crate::options::Options;
use crate::own::Own;
use crate::projection::{Projection, Projections, Registered};
use crate::state::Layouts;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// Everything the store must know: families, projections, limits. Used up by one open.
///
/// Projections bring the families they fold. A family that is in the log and not in the setup refuses the open.
#[must_use = "a setup does nothing until a store is opened with it"]
pub struct Setup {
    pub(crate) families: Vec<Family>,
    pub(crate) inline: Vec<Registered>,
    pub(crate) options: Options,
    pub(crate) progress: Option<ProgressSink>,
    pub(crate) budget: Budget,
    pub(crate) on_tx: Option<OnTx>,
    pub(crate) platform: Platform,
    /// No threads: everything happens on the caller's, in one order.
    pub(crate) lockstep: bool,
}

/// Told of each transaction once.
pub(crate) type OnTx = Arc<dyn Fn(&TxEvent) + Send + Sync>;

pub(crate) type ProgressSink = Arc<dyn Fn(&Progress) + Send + Sync>;

/// How far a long piece of work has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub task: Task,
    /// Commits done.
    pub done: u64,
    /// Commits in all.
    pub total: u64,
}

/// A long piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// Derived state is built from the log.
    Rebuild,
    /// A new or changed projection is folded from the log.
    Project,
    /// The store is verified.
    Verify,
}

impl Setup {
    /// Nothing but defaults.
    pub fn new() -> Self {
        Self {
            families: Vec::new(),
            inline: Vec::new(),
            options: Options::default(),
            progress: None,
            budget: Budget::default(),
            on_tx: None,
            platform: Platform::real(),
            lockstep: false,
        }
    }

    /// Families that no projection folds.
    pub fn events<E: EventSet>(mut self) -> Self {
        self.families.extend(E::families());
        self
    }

    /// A projection folded in the commit: always at the head, and able to refuse.
    pub fn inline<P: Projection>(mut self) -> Self {
        self.inline.push(Registered::of::<P>());
        self
    }

    /// Limits and sizes.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Told how far a rebuild has come, from the thread that opens the store.
    pub fn progress(mut self, tell: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(tell));
        self
    }

    /// What transactions may cost. Without it [`Budget::default`] watches, and refuses only a transaction of another store inside.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Told once of each transaction, when it ends: on the thread that ran it.
    pub fn on_tx(mut self, tell: impl Fn(&TxEvent) + Send + Sync + 'static) -> Self {
        self.on_tx = Some(Arc::new(tell));
        self
    }

    /// Files, clock and entropy of this store instead of the operating system's.
    #[cfg(feature = "testing")]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// No threads: what is submitted is served when [`Store::step`](crate::Store::step) says so, on the caller's thread, and
    /// state is flushed between two groups. The same calls are the same operations on the disk, in the same order.
    #[cfg(feature = "testing")]
    pub fn lockstep(mut self) -> Self {
        self.lockstep = true;
        self
    }

    /// Everything that contradicts itself, one sentence each.
    pub(crate) fn check(&self) -> Vec<String> {
        let mut wrong = self.options.check();
        wrong.extend(self.budget.check());
        let mut seen: BTreeMap<&str, Family> = BTreeMap::new();
        for family in self.all_families() {
            match seen.insert(family.name(), family) {
                Some(other) if other.type_id != family.type_id => {
                    wrong.push(format!("two families are called `{}`", family.name()));
                }
                Some(_) => {}
                None => {
                    let faults = family.types().err().unwrap_or_default();
                    wrong.extend(faults.iter().map(|fault| format!("family `{}`: {fault}", family.name())));
                }
            }
        }
        for (index, projection) in self.inline.iter().enumerate() {
            wrong.extend(projection.faults.iter().cloned());
            for other in &self.inline[..index] {
                if other.name == projection.name || other.id == projection.id {
                    wrong.push(format!("two projections are called `{}`", projection.name));
                }
            }
        }
        wrong
    }

    fn all_families(&self) -> impl Iterator<Item = Family> {
        let folded = self.inline.iter().flat_map(|projection| projection.families.iter());
        self.families.iter().chain(folded).copied().chain([Family::of::<Own>()])
    }

    pub(crate) fn families(&self) -> Families {
        Families::new(self.all_families())
    }

    pub(crate) fn projections(&self) -> Projections {
        Projections::new(self.inline.clone())
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families: Vec<_> = self.all_families().map(|family| family.name()).collect();
        f.debug_struct("Setup")
            .field("families", &families)
            .field("inline", &self.inline)
            .finish_non_exhaustive()
    }
}

/// The registered families, and the layouts of their types.
#[derive(Debug, Default)]
pub(crate) struct Families {
    by_name: HashMap<&'static str, Family>,
    /// Layout text by full type name, for the types that are written today.
    layouts: HashMap<String, String>,
}

impl Families {
    /// Of families that were checked.
    fn new(all: impl Iterator<Item = Family>) -> Self {
        let by_name: HashMap<_, _> = all.map(|family| (family.name(), family)).collect();
        let types = by_name.values().flat_map(|family| family.types().unwrap_or_default());
        let layouts = types.map(|event_type| (event_type.name, event_type.layout.to_string())).collect();
        Self { by_name, layouts }
    }

    /// The layout to declare with an event; none for payloads that describe themselves.
    pub fn layout(&self, event: &StoredEvent) -> Option<&str> {
        match Codec::from_id(event.codec) {
            Some(Codec::Bincode) => self.layouts.get(&event.type_name).map(String::as_str),
            _ => None,
        }
    }

    /// What the setup lacks for this event to be appended.
    pub fn missing(&self, event: &Raw) -> Option<Missing> {
        let type_name = event.type_name();
        match self.by_name.get(event.family()) {
            Some(_) if self.layouts.contains_key(type_name) => None,
            Some(family) => {
                let known = family.variants().unwrap_or_default().join(", ");
                Some(Missing::new(format!("event type `{type_name}`"), format!("its family has {known}")))
            }
            // Raw events of a family nobody registered describe themselves.
            None if event.codec() == Codec::Json => None,
            None => {
                let add = "add `.events::<..>()` for its family to the setup";
                Some(Missing::new(format!("event type `{type_name}`"), add))
            }
        }
    }

    /// Compares the types in the log with the code: what the code lacks, and what it reads otherwise than it was written.
    pub fn compare(&self, logged: &Layouts, count: impl Fn(&str) -> String) -> (Vec<Missing>, Vec<String>) {
        let (mut missing, mut wrong) = (Vec::new(), Vec::new());
        let mut logged: Vec<_> = logged.iter().collect();
        logged.sort();
        for (type_name, schemas) in logged {
            let (family, variant) = event::split_type_name(type_name);
            let layout = self.by_name.get(family).map(|family| family.layout_of(variant));
            match layout {
                None => missing.push(Missing::new(
                    format!("event type `{type_name}` ({})", count(type_name)),
                    format!("add `.events::<..>()` for family `{family}` to the setup"),
                )),
                Some(Err(_)) => missing.push(Missing::new(
                    format!("event type `{type_name}` ({})", count(type_name)),
                    format!("add the variant to family `{family}`, or `#[serde(alias = \"{variant}\")]` to the one it became"),
                )),
                Some(Ok(layout)) => wrong.extend(differences(type_name, schemas, &layout.to_string())),
            }
        }
        (missing, wrong)
    }
}

fn differences(type_name: &str, schemas: &BTreeMap<u16, String>, code: &str) -> Option<String> {
    let (schema, logged) = schemas.last_key_value()?;
    (logged != code).then(|| {
        format!(
            "event type `{type_name}` (version {schema}) is {logged} in the log and {code} in the code; \
             a field added, dropped, renamed or retyped would be misread: give the new payload a new variant name"
        )
    })
}
