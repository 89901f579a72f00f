//! The key index: the commit that used each idempotency key, and the limit up to which the key is kept. In memory, because
//! exactly-once must not rest on a miss in a file whose absences nothing checks.
//!
//! - Holds durable keys only; the writer adds them after the sync.
//! - Loaded at open from numbered, sealed chunks and the tail of the log.
//! - A key's record and a [`Moment`] alone decide if the key is kept. Once expired, it stays expired. So letting go of an expired
//!   key changes no answer: the flush does it, by the moment of the head that is flushed.
//! - Split into shards, so that a table that grows never holds up the writer for long.

use super::term::{Term, TermMap};
use crate::log::record::Kept;
use crate::order::{CommitNo, Timestamp};
use crate::request::Retention;
use crate::sync::RwLock;

/// The store's time and its count of keys, by which a key expires. Neither part ever goes back from one commit to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The store's time: the clock's, and never before the last commit's.
    pub time: Timestamp,
    /// Number of commits with a key so far.
    pub keys: u64,
}

impl Moment {
    /// Returns the limit up to which a key that is used now is kept.
    pub fn keep(self, retention: Retention) -> Kept {
        match retention {
            Retention::Forever => Kept::Forever,
            Retention::For(time) => {
                let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                Kept::UntilTime(Timestamp(self.time.0.saturating_add(micros)))
            }
            // Plus one: this use counts as well.
            Retention::Last(keys) => Kept::UntilKeys(self.keys.saturating_add(1).saturating_add(keys)),
        }
    }
}

impl Kept {
    /// Returns whether the key may be used again.
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
    /// Lane: keys of one lane are let go of together.
    pub lane: u8,
}

impl KeyUse {
    /// Makes the use of a key by a commit; `used` is the moment of that commit.
    pub fn new(commit: CommitNo, kept: Kept, used: Moment) -> Self {
        // Keys of a lane live about as long, within a factor of two: a long life never keeps short ones from being let go of.
        let lane = match kept {
            Kept::Forever => 0,
            Kept::UntilTime(time) => 64 + time.0.saturating_sub(used.time.0).max(1).ilog2() as u8,
            Kept::UntilKeys(keys) => 128 + keys.saturating_sub(used.keys).max(1).ilog2() as u8,
        };
        Self { commit, kept, lane }
    }
}

const SHARDS: usize = 256;

/// Map from the term of a key to the commit that used it last.
pub(crate) struct KeyIndex {
    shards: Vec<RwLock<TermMap<CommitNo>>>,
}

impl KeyIndex {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    /// Returns an independent copy.
    pub fn fork(&self) -> Self {
        Self { shards: self.shards.iter().map(|shard| RwLock::new(shard.read().clone())).collect() }
    }

    // The top bits choose the shard, the low ones the slot within it.
    fn shard(&self, key: Term) -> &RwLock<TermMap<CommitNo>> {
        &self.shards[(key >> 120) as usize % SHARDS]
    }

    /// Returns the commit that used the key last, if a reader at `through` may know of it.
    pub fn get(&self, key: Term, through: CommitNo) -> Option<CommitNo> {
        self.shard(key).read().get(&key).copied().filter(|commit| *commit <= through)
    }

    /// Records a use of a key. Uses of one key come in the order of their commits.
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

    /// Returns the number of keys held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// Returns the memory held, estimated: 25 bytes a slot.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().capacity() * 8 / 7 * 25).sum()
    }
}

impl std::fmt::Debug for KeyIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyIndex({} keys)", self.len())
    }
}
