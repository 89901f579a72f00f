//! The key index: which commit used which idempotency key, and until when a key is kept. In memory, because exactly-once must
//! not rest on a miss in a file whose absences nothing checks.
//!
//! - Holds durable keys only; the writer adds them after the sync.
//! - Loaded at open from numbered, sealed chunks and the tail of the log.
//! - Whether a key is kept is a function of its record and of a [`Moment`], and once it is not, it never is again. So letting go
//!   of an expired key changes no answer: it is done by the flush, by the moment of the head that is flushed.
//! - Split into shards, so that a table that grows never holds up the writer for long.

use super::term::{Term, TermMap};
use crate::log::record::Kept;
use crate::order::{CommitNo, Timestamp};
use crate::request::Retention;
use crate::sync::RwLock;

/// What the age of keys is judged by. Neither part ever goes back from one commit to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The store's time: the clock's, and never before the last commit's.
    pub time: Timestamp,
    /// Commits with a key so far.
    pub keys: u64,
}

impl Moment {
    /// Until when a key is kept that is used now.
    pub fn keep(self, retention: Retention) -> Kept {
        match retention {
            Retention::Forever => Kept::Forever,
            Retention::For(time) => {
                let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                Kept::UntilTime(Timestamp(self.time.0.saturating_add(micros)))
            }
            // This one is one of them.
            Retention::Last(keys) => Kept::UntilKeys(self.keys.saturating_add(1).saturating_add(keys)),
        }
    }
}

impl Kept {
    /// Whether the key may be used again.
    pub fn is_over(self, now: Moment) -> bool {
        match self {
            Self::Forever => false,
            Self::UntilTime(time) => now.time >= time,
            Self::UntilKeys(keys) => now.keys >= keys,
        }
    }
}

/// One use of a key, on its way to the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyUse {
    pub commit: CommitNo,
    pub kept: Kept,
    /// With which others it is let go of.
    pub lane: u8,
}

impl KeyUse {
    /// `used` is the moment of its commit.
    pub fn new(commit: CommitNo, kept: Kept, used: Moment) -> Self {
        // Keys that live about as long, within a factor of two: a long life never keeps short ones from being let go of.
        let lane = match kept {
            Kept::Forever => 0,
            Kept::UntilTime(time) => 64 + time.0.saturating_sub(used.time.0).max(1).ilog2() as u8,
            Kept::UntilKeys(keys) => 128 + keys.saturating_sub(used.keys).max(1).ilog2() as u8,
        };
        Self { commit, kept, lane }
    }
}

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

    /// The commit that used the key last, if a reader at `through` may know of it.
    pub fn get(&self, key: Term, through: CommitNo) -> Option<CommitNo> {
        self.shard(key).read().get(&key).copied().filter(|commit| *commit <= through)
    }

    /// Uses of one key come in the order of their commits.
    pub fn insert(&self, key: Term, commit: CommitNo) {
        self.shard(key).write().insert(key, commit);
    }

    /// Lets go of keys that have expired, unless they were used again.
    pub fn forget(&self, expired: &[(Term, CommitNo)]) {
        for (key, commit) in expired {
            let mut shard = self.shard(*key).write();
            if shard.get(key) == Some(commit) {
                shard.remove(key);
                if shard.len() < shard.capacity() / 4 {
                    let room = shard.len() * 2;
                    shard.shrink_to(room);
                }
            }
        }
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
