//! Ranges of the keys of a source: which of them have changed since their hashes were put on record.

use crate::check::PullError;
use crate::own::Bytes;

/// The hashes of ranges, by where each begins. `None`: rows of it were read at another time, so its hash is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(Vec<u8>, Option<u64>)>);

impl Ranges {
    pub fn new(hashed: Vec<(Vec<u8>, u64)>) -> Result<Self, PullError> {
        if hashed.is_empty() {
            let place = "its ranges".to_owned();
            return Err(PullError::Row { place, why: "there are none: one holds all keys".into() });
        }
        Ok(Self(hashed.into_iter().map(|(from, hash)| (from, Some(hash))).collect()))
    }

    /// As they are on record.
    pub fn recorded(ranges: Vec<(Bytes, Option<u64>)>) -> Self {
        Self(ranges.into_iter().map(|(from, hash)| (from.0, hash)).collect())
    }

    pub fn to_record(&self) -> Vec<(Bytes, Option<u64>)> {
        self.0.iter().map(|(from, hash)| (Bytes(from.clone()), *hash)).collect()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the start of a range and of the next one: `None` for the first, and for the last.
    pub fn bounds(&self, index: usize) -> (Option<&[u8]>, Option<&[u8]>) {
        let from = |index: usize| self.0.get(index).map(|(from, _)| from.as_slice());
        (from(index).filter(|_| index > 0), from(index + 1))
    }

    /// The range that a key lies in.
    pub fn of(&self, key: &[u8]) -> usize {
        self.0.partition_point(|(from, _)| from.as_slice() <= key).saturating_sub(1)
    }

    /// Takes note of what the rows of a range hash to; or that nobody knows.
    pub fn note(&mut self, index: usize, hash: Option<u64>) {
        self.0[index].1 = hash;
    }

    /// Returns for each range whether it has, between the same bounds, the hash that it had before.
    pub fn unchanged(&self, before: &Ranges) -> Vec<bool> {
        let is_known = |index: usize| {
            let was = before.of(self.bounds(index).0.unwrap_or_default());
            self.0[index].1.is_some()
                && before.0.get(was).is_some_and(|(_, hash)| *hash == self.0[index].1)
                && before.bounds(was) == self.bounds(index)
        };
        (0..self.len()).map(is_known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(hashed: &[(&[u8], u64)]) -> Ranges {
        Ranges::new(hashed.iter().map(|(from, hash)| (from.to_vec(), *hash)).collect()).expect("there is one")
    }

    #[test]
    fn every_key_lies_in_one_range() {
        let all = ranges(&[(b"d", 1), (b"m", 2)]);
        let of: Vec<_> = [&b""[..], b"a", b"d", b"lz", b"m", b"z"].map(|key| all.of(key)).into();
        assert_eq!(of, [0, 0, 0, 0, 1, 1]);
        assert_eq!((all.bounds(0), all.bounds(1)), ((None, Some(&b"m"[..])), (Some(&b"m"[..]), None)));
        assert!(Ranges::new(Vec::new()).is_err());
    }

    #[test]
    fn unchanged_range_has_same_bounds_and_hash() {
        let before = ranges(&[(b"d", 1), (b"m", 2), (b"t", 3)]);
        let unchanged = |now: &[(&[u8], u64)]| ranges(now).unchanged(&before);
        assert_eq!(unchanged(&[(b"d", 1), (b"m", 2), (b"t", 3)]), [true, true, true]);
        // The first holds what is below it: where it begins says nothing.
        assert_eq!(unchanged(&[(b"a", 1), (b"m", 9), (b"t", 3)]), [true, false, true]);
        // Another range with a hash that was known is another one.
        assert_eq!(unchanged(&[(b"d", 1), (b"n", 2), (b"t", 3)]), [false, false, true]);
        assert_eq!(unchanged(&[(b"d", 1), (b"m", 2)]), [true, false]);
        let mut unsure = ranges(&[(b"d", 1)]);
        unsure.note(0, None);
        assert_eq!(unsure.unchanged(&unsure.clone()), [false]);
    }
}
