//! The flusher: puts a frozen overlay into redb, behind the writer.
//!
//! - The only writer of redb.
//! - A flush goes from one group boundary to another, in one redb transaction with the head it leads to.
//! - It drops large values: overlays and old snapshots die here, never on a reader or on the writer.

use super::Published;
use super::keys::KeyIndex;
use super::overlay::Overlay;
use super::tables::{Base, StoredProjection, Tables};
use crate::error::StorageError;
use crate::log::Head;
use crate::sync::{Receiver, Sender};
use std::sync::Arc;

/// Work for the flusher.
pub(crate) enum Job {
    /// Flush everything up to `head` that redb does not have. Up to there, `keys_used` commits have a key.
    Flush { overlay: Arc<Overlay>, head: Head, keys_used: u64 },
    /// Drop a published state that nobody needs any more.
    Discard(Arc<Published>),
}

/// Result of a flush: the snapshot that has it.
pub(crate) type Flushed = Result<Arc<Base>, StorageError>;

/// Hook that runs before each flush: it lets go of old views, so that redb can use their pages again.
pub(crate) type BeforeFlush = Box<dyn Fn() + Send>;

/// Runs until nobody can send a job any more.
pub(crate) fn run(
    mut tables: Tables,
    keys: Arc<KeyIndex>,
    projections: Vec<StoredProjection>,
    jobs: Receiver<Job>,
    done: Sender<Flushed>,
    before_flush: BeforeFlush,
) {
    for job in jobs {
        match job {
            Job::Flush { overlay, head, keys_used } => {
                before_flush();
                let flushed = flush(&mut tables, &keys, &overlay, &head, keys_used, &projections);
                // A writer that is gone needs no answer.
                let _ = done.send(flushed);
            }
            Job::Discard(published) => drop(published),
        }
    }
}

/// Runs one flush, on the calling thread. Also lets go of keys that had expired at `head`: no later commit can find them kept.
pub(crate) fn flush(
    tables: &mut Tables,
    keys: &KeyIndex,
    overlay: &Overlay,
    head: &Head,
    keys_used: u64,
    projections: &[StoredProjection],
) -> Flushed {
    let expired = tables.flush(overlay.drain_sorted(), head, keys_used, projections)?;
    keys.forget(&expired);
    tables.base().map(Arc::new)
}
