//! The scrub: compares `state.redb` with its own sums, again and again, behind the store.
//!
//! - A seal shows that a row was changed, and nothing shows that one is absent: only counting finds out. So this is late, and
//!   what was decided meanwhile may rest on an absence. Keys never do.
//! - It reads one snapshot at a time, and changes nothing.

use super::Board;
use crate::error::StorageError;
use crate::sync::{Receiver, RecvTimeoutError, TryRecvError};
use std::convert::Infallible;
use std::time::Duration;

/// Snapshots with no more rows than this are compared before an open returns.
pub(crate) const AT_OPEN: u64 = 20_000;

/// Compares every so often, until the other end of `stop` is dropped, or until damage is `found`.
pub(crate) fn run(board: &Board, every: Duration, stop: &Receiver<Infallible>, found: impl Fn(StorageError)) {
    let stopped = || stop.try_recv() == Err(TryRecvError::Disconnected);
    let mut compared = board.load().base.rows_to_check() <= AT_OPEN;
    while !compared || stop.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        compared = true;
        let base = board.load().base.clone();
        if let Err(error) = base.scrub(|| !stopped()) {
            return found(error);
        }
    }
}
