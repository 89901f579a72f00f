//! Findings that are not on record yet, in the order in which they were found, and which of them the file has.
//!
//! There may be very many: all that waited for one deadline. So each is a row of its own, written once and removed once.

use crate::check::word::Finding;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ops::Range;

/// A finding that is not on record yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Untold {
    /// Number of the finding, among those of its definition.
    pub number: u64,
    pub finding: Finding,
    /// Subject, if its events do not say so.
    pub subject: String,
    /// Rows or a sum that do not agree with the events.
    pub disagrees: String,
}

/// Pending findings of one check. Their numbers have no gap.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Untold>,
    /// Numbers that the file has.
    filed: Range<u64>,
}

impl Backlog {
    /// As the file has it.
    pub fn saved(waiting: Vec<Untold>) -> Self {
        let numbers = waiting.first().zip(waiting.last());
        let filed = numbers.map_or(0..0, |(first, last)| first.number..last.number + 1);
        Self { waiting: waiting.into(), filed }
    }

    pub fn push(&mut self, untold: Untold) {
        self.waiting.push_back(untold);
    }

    /// The first ones are on record.
    pub fn take(&mut self, count: usize) -> Vec<Untold> {
        self.waiting.drain(..count).collect()
    }

    /// Removes the findings before this number: they are on record.
    pub fn skip_to(&mut self, number: u64) {
        while self.waiting.front().is_some_and(|untold| untold.number < number) {
            self.waiting.pop_front();
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Untold> {
        self.waiting.iter()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Tells what the file lacks, and with `None` what it has too much.
    pub fn save(&mut self, mut each: impl FnMut(u64, Option<&Untold>)) {
        let first = self.waiting.front().map_or(self.filed.end, |untold| untold.number);
        for number in self.filed.start..self.filed.end.min(first) {
            each(number, None);
        }
        for untold in self.waiting.iter().filter(|untold| untold.number >= self.filed.end) {
            each(untold.number, Some(untold));
        }
        self.filed = first..first + self.waiting.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::word::Verdict;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn untold(number: u64) -> Untold {
        let (verdict, amounts) = (Verdict::Violated, None);
        let finding = Finding { verdict, activation: number, by: 0, decided: 0, amounts };
        Untold { number, finding, subject: String::new(), disagrees: String::new() }
    }

    proptest! {
        #[test]
        fn saved_backlog_holds_exactly_pending_findings(steps in prop::collection::vec((0usize..4, 0usize..4, 0u64..3), 0..20)) {
            let (mut backlog, mut next, mut file) = (Backlog::default(), 0, BTreeMap::new());
            for (pushed, told, restart) in steps {
                for _ in 0..pushed {
                    backlog.push(untold(next));
                    next += 1;
                }
                backlog.take(told.min(backlog.len()));
                let (mut put, mut removed) = (Vec::new(), Vec::new());
                backlog.save(|number, untold| match untold {
                    Some(untold) => put.push((number, untold.clone())),
                    None => removed.push(number),
                });
                for number in removed {
                    prop_assert!(file.remove(&number).is_some(), "removed twice: {}", number);
                }
                for (number, untold) in put {
                    prop_assert!(file.insert(number, untold).is_none(), "written twice: {}", number);
                }
                let waiting: Vec<_> = backlog.iter().map(|untold| untold.number).collect();
                prop_assert_eq!(&waiting, &file.keys().copied().collect::<Vec<_>>());
                if restart == 0 {
                    backlog = Backlog::saved(file.values().cloned().collect());
                    // More is on record than the file knows.
                    let told = file.keys().next().copied().unwrap_or(next) + told as u64;
                    backlog.skip_to(told);
                    let waiting = backlog.iter().map(|untold| untold.number);
                    prop_assert!(waiting.eq(file.keys().copied().filter(|number| *number >= told)));
                    next = next.max(told);
                }
            }
        }
    }
}
