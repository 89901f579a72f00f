//! Indexed names: streams, tags, types and keys, as keyed 128-bit hashes.
//!
//! - The hash is BLAKE3 keyed with the store id: nobody outside can build two names with one hash.
//! - The kind is hashed too: a stream never meets a tag.

use crate::log::StoreId;
use crate::request::RequestKey;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A stream, tag, type or key.
pub(crate) type Term = u128;

/// A map by term. Terms are uniform already, so nothing is hashed twice.
pub(crate) type TermMap<V> = HashMap<Term, V, BuildHasherDefault<Uniform>>;

#[derive(Default)]
pub(crate) struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("terms are u128");
    }

    fn write_u128(&mut self, term: u128) {
        self.0 = term as u64;
    }
}

/// Turns names into terms.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    key: [u8; 32],
}

impl Terms {
    pub fn new(store: StoreId) -> Self {
        Self { key: blake3::derive_key("tallystone 2026 index terms", &store.0) }
    }

    /// Makes terms for data that is judged without a store.
    pub fn of_no_store() -> Self {
        Self::new(StoreId([0; 16]))
    }

    pub fn stream(&self, name: &str) -> Term {
        self.hash(b's', &[name.as_bytes()])
    }

    pub fn tag(&self, tag: &str) -> Term {
        self.hash(b'g', &[tag.as_bytes()])
    }

    pub fn type_name(&self, name: &str) -> Term {
        self.hash(b't', &[name.as_bytes()])
    }

    pub fn key(&self, key: &RequestKey) -> Term {
        // The length keeps ("ab", "c") apart from ("a", "bc").
        let scope_len = (key.scope.len() as u32).to_le_bytes();
        self.hash(b'k', &[&scope_len, key.scope.as_bytes(), key.key.as_bytes()])
    }

    /// Returns the term of the key by which a check relates events.
    pub fn checked(&self, key: &[u8]) -> Term {
        self.hash(b'c', &[key])
    }

    fn hash(&self, kind: u8, parts: &[&[u8]]) -> Term {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[kind]);
        for part in parts {
            hasher.update(part);
        }
        let mut term = [0; 16];
        hasher.finalize_xof().fill(&mut term);
        Term::from_be_bytes(term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stores_and_boundaries_never_meet() {
        let terms = Terms::new(StoreId([1; 16]));
        let other = Terms::new(StoreId([2; 16]));
        let key = |scope: &str, key: &str| terms.key(&RequestKey { scope: scope.into(), key: key.into() });
        let all = [
            terms.stream("a"),
            terms.tag("a"),
            terms.type_name("a"),
            other.stream("a"),
            key("ab", "c"),
            key("a", "bc"),
            key("", "a"),
        ];
        for (n, term) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(term), "term {n} stands for two names");
        }
        assert_eq!(terms.stream("a"), terms.stream("a"));
    }
}
