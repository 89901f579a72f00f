//! Random numbers: from a seed (splitmix64), the same on every machine and in every version; or from bytes that a fuzzer steers.

/// A stream of numbers that its seed decides, or its bytes.
#[derive(Debug, Clone)]
pub struct Random(RandomSource);

#[derive(Debug, Clone)]
enum RandomSource {
    Seed(u64),
    /// Bytes that are not drawn yet, last first.
    Bytes(Vec<u8>),
}

impl Random {
    /// Returns the numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(RandomSource::Seed(seed))
    }

    /// Returns numbers that these bytes decide, one byte each; zeros when they are used up.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(RandomSource::Bytes(bytes.iter().rev().copied().collect()))
    }

    /// Returns whether every byte was drawn. A seed never ends.
    pub fn is_used_up(&self) -> bool {
        matches!(&self.0, RandomSource::Bytes(rest) if rest.is_empty())
    }

    /// Returns the next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        match &mut self.0 {
            RandomSource::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                mix(*state)
            }
            // In the low bits and in the high ones: coins and chances look at the high ones.
            RandomSource::Bytes(rest) => u64::from(rest.pop().unwrap_or(0)) * 0x0100_0000_0000_0001,
        }
    }

    /// Returns a number below `end`. The bias of the remainder is of no account for the small numbers drawn here.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is no number below 0");
        self.next() % end
    }

    /// Returns true with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        (self.next() >> 11) as f64 / ((1u64 << 53) as f64) < probability
    }

    /// Returns true with a probability of one half.
    pub fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// Fills with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        for piece in out.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
    }
}

/// Spreads each bit of `value` over all of the result.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
