//! The key index: which commit used which idempotency key. In memory, because exactly-once must not rest on a miss in a
//! file whose absences nothing checks.
//!
//! - Holds durable keys only; the writer adds them after the sync.
//! - Loaded at open from numbered, sealed chunks and the tail of the log.
//! - Split into shards, so that a table that grows never holds up the writer for long.

use super::term::{Term, TermMap};
use crate::order::CommitNo;
use crate::sync::RwLock;

const SHARDS: usize = 256;

/// Term of the key to its commit.
pub(crate) struct KeyIndex {
    shards: Vec<RwLock<TermMap<CommitNo>>>,
}

impl KeyIndex {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    /// A copy that goes its own way.
    pub fn fork(&self) -> Self {
        Self { shards: self.shards.iter().map(|shard| RwLock::new(shard.read().clone())).collect() }
    }

    // The top bits choose the shard, the low ones the slot within it.
    fn shard(&self, key: Term) -> &RwLock<TermMap<CommitNo>> {
        &self.shards[(key >> 120) as usize % SHARDS]
    }

    /// The commit that used the key, if a reader at `through` may know of it.
    pub fn get(&self, key: Term, through: CommitNo) -> Option<CommitNo> {
        self.shard(key).read().get(&key).copied().filter(|commit| *commit <= through)
    }

    pub fn insert(&self, key: Term, commit: CommitNo) {
        self.shard(key).write().insert(key, commit);
    }

    /// Keys held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// Memory held, estimated: 25 bytes a slot.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().capacity() * 8 / 7 * 25).sum()
    }
}

impl std::fmt::Debug for KeyIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyIndex({} keys)", self.len())
    }
}
