//! Derived state: everything that can be computed from the log, as one consistent stack of layers.
//!
//! - [`Published`] is immutable and swapped as a whole, by the writer alone, at group boundaries: head, redb snapshot and
//!   overlays always belong together.
//! - Nothing un-synced is in it.
//! - Losing all of it costs a rebuild, nothing else.

pub(crate) mod bell;
mod blocks;
pub(crate) mod flush;
pub(crate) mod keys;
pub(crate) mod layer;
mod meta;
pub(crate) mod overlay;
pub(crate) mod peek;
pub(crate) mod scrub;
mod sealed;
pub(crate) mod search;
pub(crate) mod tables;
pub(crate) mod term;
pub(crate) mod varint;

use crate::log::Head;
use crate::log::record::LayoutDecl;
use crate::order::CommitNo;
use crate::sync::RwLock;
use bell::Bell;
use keys::Moment;
use layer::{History, Layer, Layers};
use overlay::{InlineSet, Overlay};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tables::Base;

/// The state that readers see: one position of the store, in three layers.
#[derive(Debug)]
pub(crate) struct Published {
    pub head: Head,
    /// Number of commits with a key, up to the head.
    pub keys: u64,
    pub base: Arc<Base>,
    /// The overlay being flushed. Kept until the flush is in `base`.
    pub frozen: Option<Arc<Overlay>>,
    pub active: Arc<Overlay>,
    /// The overlay flushed last, kept for its history: its content is in `base` too.
    pub recent: Option<Arc<Overlay>>,
    pub layouts: Arc<Layouts>,
}

/// Layouts of event types, as the log declared them: by type name, then by schema version.
pub(crate) type Layouts = HashMap<String, BTreeMap<u16, String>>;

/// Adds layouts that commits declared.
pub(crate) fn declare(layouts: &mut Layouts, declared: impl IntoIterator<Item = LayoutDecl>) {
    for decl in declared {
        layouts.entry(decl.type_name).or_default().insert(decl.schema, decl.layout);
    }
}

/// Maximum number of layers: a request's changes, its group's, two overlays, redb.
const LAYERS_MAX: usize = 5;

impl Published {
    /// Makes a state with nothing above `base`, which is at the head.
    pub fn on(base: Arc<Base>, head: Head, layouts: Arc<Layouts>) -> Self {
        let active = Arc::new(Overlay::after(head.commit));
        let keys = base.keys();
        Self { head, keys, base, frozen: None, active, recent: None, layouts }
    }

    /// Returns the inline projections that the log declared last; `None` if it never did.
    pub fn inline(&self) -> Option<InlineSet> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.inline());
        self.active.inline().or_else(frozen).or_else(|| self.base.inline())
    }

    /// Returns the moment of the head.
    pub fn moment(&self) -> Moment {
        Moment { time: self.head.time, keys: self.keys }
    }

    /// Returns an independent copy, of state that is in memory only.
    pub fn fork(&self) -> Self {
        let (active, layouts) = (Arc::new(self.active.fork(self.head.commit)), self.layouts.clone());
        let (head, keys, base) = (self.head, self.keys, self.base.clone());
        Self { head, keys, base, frozen: None, active, recent: None, layouts }
    }

    /// Returns the changes of rows since some commit, oldest first; `None` if they are not kept so far back.
    ///
    /// Absences are checked by it: a row that was removed and flushed is nowhere else (a read set validated against redb alone
    /// would pass or fail by the time of the flush).
    pub fn history(&self, since: CommitNo) -> Option<impl Iterator<Item = &dyn History>> {
        let kept = [self.recent.as_ref(), self.frozen.as_ref(), Some(&self.active)].into_iter().flatten();
        let from = kept.clone().next().map_or(self.head.commit, |oldest| oldest.after);
        (from <= since).then(|| kept.map(|overlay| &**overlay as &dyn History))
    }

    /// Reads through its layers, with those of `above` (newest first) on top.
    pub fn read<T>(&self, above: &[&dyn Layer], read: impl FnOnce(Layers<'_>) -> T) -> T {
        // On the stack: this runs for every row and stream a commit looks at.
        let mut layers: [&dyn Layer; LAYERS_MAX] = [&*self.base; LAYERS_MAX];
        let mut len = above.len();
        layers[..len].copy_from_slice(above);
        for layer in [Some(&self.active), self.frozen.as_ref()].into_iter().flatten() {
            layers[len] = &**layer;
            len += 1;
        }
        layers[len] = &*self.base;
        let layers = &layers[..=len];
        read(Layers { layers, commit: self.head.commit, position: self.head.position })
    }
}

/// Holder of the current published state: the writer replaces it, all others load it.
#[derive(Debug)]
pub(crate) struct Board {
    place: RwLock<Arc<Published>>,
    /// Rung when the head has moved.
    bell: Arc<Bell>,
}

impl Board {
    pub fn new(published: Published, bell: Arc<Bell>) -> Self {
        Self { place: RwLock::new(Arc::new(published)), bell }
    }

    pub fn load(&self) -> Arc<Published> {
        self.place.read().clone()
    }

    /// Publishes a state, and returns the one before it. The writer alone calls it, at a group boundary, and replies after it.
    pub fn publish(&self, published: Published) -> Arc<Published> {
        let published = Arc::new(published);
        assert!(published.base.commit() <= published.head.commit, "derived state is never ahead of the head");
        let head = published.head.commit;
        let mut place = self.place.write();
        assert!(place.head.commit <= head, "the head never goes back");
        let before = std::mem::replace(&mut *place, published);
        drop(place);
        if before.head.commit < head {
            self.bell.ring();
        }
        before
    }
}
