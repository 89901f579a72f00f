//! The scrub: compares `state.redb` with its own sums, again and again, behind the store.
//!
//! - Blocks show damage to bytes on disk, at each read. The sums show damage by a bug, ours or redb's; and the scrub reads
//!   rows that nobody else does, so that damage is found while the log can still rebuild it.
//! - It reads one snapshot at a time, and changes nothing.

use super::Board;
use crate::error::StorageError;
use crate::sync::{Receiver, RecvTimeoutError, TryRecvError};
use std::convert::Infallible;
use std::time::Duration;

/// Compares at an interval of `every`, until the other end of `stop` is dropped, or until damage is `found`.
pub(crate) fn run(board: &Board, every: Duration, stop: &Receiver<Infallible>, found: impl Fn(StorageError)) {
    let stopped = || stop.try_recv() == Err(TryRecvError::Disconnected);
    while stop.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let base = board.load().base.clone();
        if let Err(error) = base.scrub(|| !stopped()) {
            return found(error);
        }
    }
}
