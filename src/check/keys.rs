//! The states of a check's keys, as memory has them.

use super::state::Packed;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A key of events, hashed with a key of the store's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyHash(pub u64, pub u64);

impl From<u128> for KeyHash {
    fn from(hash: u128) -> Self {
        Self((hash >> 64) as u64, hash as u64)
    }
}

/// Hasher that takes a key's last word as it is: keys are uniform hashes already.
#[derive(Debug, Default)]
pub(crate) struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is two u64");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

type Shard = HashMap<KeyHash, Packed, BuildHasherDefault<Uniform>>;

const SHARDS: usize = 8;
/// Start of the share of each shard but the first: `2^(n/8) - 1` of the whole.
const SHARES: [u16; SHARDS - 1] = [5932, 12400, 19454, 27146, 35534, 44682, 54658];

/// A map in shards of unequal shares, so that they do not grow at once: a table that has just doubled is half empty.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    shards: [Shard; SHARDS],
}

fn shard(key: KeyHash) -> usize {
    let share = (key.0 >> 48) as u16;
    SHARES.iter().filter(|begin| share >= **begin).count()
}

impl Keys {
    pub fn get(&self, key: KeyHash) -> Option<&Packed> {
        self.shards[shard(key)].get(&key)
    }

    pub fn insert(&mut self, key: KeyHash, packed: Packed) {
        self.shards[shard(key)].insert(key, packed);
    }

    pub fn remove(&mut self, key: KeyHash) {
        self.shards[shard(key)].remove(&key);
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&KeyHash, &mut Packed)> {
        self.shards.iter_mut().flatten()
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Packed) -> bool) {
        self.shards.iter_mut().for_each(|shard| shard.retain(|_, packed| keep(packed)));
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::state::Filed;

    #[test]
    fn shard_sizes_match_shares_and_keys_are_found() {
        let mut keys = Keys::default();
        let spread = |number: u64| KeyHash(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), number);
        for number in 0..100_000 {
            keys.insert(spread(number), Packed::new(&[1], Filed::Not));
        }
        assert_eq!(keys.len(), 100_000);
        assert!((0..100_000).all(|number| keys.get(spread(number)).is_some()));
        for (index, shard) in keys.shards.iter().enumerate() {
            let share = 2f64.powf((index + 1) as f64 / 8.0) - 2f64.powf(index as f64 / 8.0);
            assert!((shard.len() as f64 / 100_000.0 - share).abs() < 0.002, "{index}: {}", shard.len());
        }
    }
}
