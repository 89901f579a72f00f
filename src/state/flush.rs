//! The flusher: puts a frozen overlay into redb, behind the writer.
//!
//! - The only writer of redb.
//! - A flush goes from one group boundary to another, in one redb transaction with the head it leads to.
//! - It drops what is large: overlays and old snapshots die here, never on a reader or on the writer.

use super::Published;
use super::overlay::Overlay;
use super::tables::{Base, StoredProjection, Tables};
use crate::error::StorageError;
use crate::log::Head;
use crate::sync::{Receiver, Sender};
use std::sync::Arc;

/// Work for the flusher.
pub(crate) enum Job {
    /// Everything up to `head` that redb does not have.
    Flush { overlay: Arc<Overlay>, head: Head },
    /// What nobody needs any more.
    Discard(Arc<Published>),
}

/// A flush is done: the snapshot that has it.
pub(crate) type Flushed = Result<Arc<Base>, StorageError>;

/// What is done before each flush: old views are let go, so that redb can use their pages again.
pub(crate) type BeforeFlush = Box<dyn Fn() + Send>;

/// Runs until nobody can send a job any more.
pub(crate) fn run(
    mut tables: Tables,
    projections: Vec<StoredProjection>,
    jobs: Receiver<Job>,
    done: Sender<Flushed>,
    before_flush: BeforeFlush,
) {
    for job in jobs {
        match job {
            Job::Flush { overlay, head } => {
                before_flush();
                let flushed = flush(&mut tables, &overlay, &head, &projections);
                // A writer that is gone needs no answer.
                let _ = done.send(flushed);
            }
            Job::Discard(published) => drop(published),
        }
    }
}

/// One flush, on the calling thread.
pub(crate) fn flush(
    tables: &mut Tables,
    overlay: &Overlay,
    head: &Head,
    projections: &[StoredProjection],
) -> Flushed {
    tables.flush(overlay.drain_sorted(), head, projections)?;
    tables.base().map(Arc::new)
}
