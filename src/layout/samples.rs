//! Plain values that a type is known to take, gathered from values of it.

use crate::canonical::{self, Leaf};
use serde::Serialize;

/// Values that a trace offers to a type that refuses the usual samples.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    pub integers: Vec<i128>,
    pub floats: Vec<f64>,
    pub texts: Vec<String>,
    pub bytes: Vec<Vec<u8>>,
    /// Lengths of sequences and maps.
    pub counts: Vec<usize>,
}

impl Samples {
    /// Gathers every plain value in these values. A value that cannot be written has none.
    pub fn of<T: Serialize>(values: &[T]) -> Self {
        let mut samples = Self::default();
        for value in values {
            let mut bytes = Vec::new();
            if canonical::encode(value, &mut bytes).is_ok() {
                canonical::leaves(&bytes, &mut |leaf| samples.add(leaf));
            }
        }
        samples
    }

    fn add(&mut self, leaf: Leaf<'_>) {
        match leaf {
            Leaf::Integer(integer) => add(&mut self.integers, integer),
            Leaf::Float(float) => add(&mut self.floats, float),
            Leaf::Text(text) => add(&mut self.texts, text.to_owned()),
            Leaf::Bytes(bytes) => add(&mut self.bytes, bytes.to_vec()),
            Leaf::Count(count) => add(&mut self.counts, count),
        }
    }

    /// Returns the floats and the integers: a float without a fraction is among the integers.
    pub fn floats(&self) -> impl Iterator<Item = f64> {
        self.floats.iter().copied().chain(self.integers.iter().map(|integer| *integer as f64))
    }

    pub fn chars(&self) -> impl Iterator<Item = char> {
        let only = |text: &String| {
            let mut chars = text.chars();
            chars.next().filter(|_| chars.next().is_none())
        };
        self.texts.iter().filter_map(only)
    }
}

fn add<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
    }
}
