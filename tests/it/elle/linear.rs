//! Linearizability of single calls, after Wing, Gong and Lowe: try every order that real time allows, one call deeper at a time, and
//! never the same calls with the same state twice.

use super::model::Model;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::ops::RangeInclusive;

/// One call on a sequential object.
#[derive(Clone, Debug)]
pub struct Call<O, R> {
    pub invoked: u64,
    pub op: O,
    /// When it was answered, and what. `None` if no answer arrived: it may take effect at any later time, or never. Leave out calls
    /// that certainly did nothing.
    pub answer: Option<(u64, R)>,
}

impl<O, R> Call<O, R> {
    pub fn answered(during: RangeInclusive<u64>, op: O, ret: R) -> Call<O, R> {
        assert!(during.start() <= during.end(), "a call is answered after it is made");
        Call { invoked: *during.start(), op, answer: Some((*during.end(), ret)) }
    }

    pub fn unanswered(invoked: u64, op: O) -> Call<O, R> {
        Call { invoked, op, answer: None }
    }
}

impl<O: Debug, R: Debug> Call<O, R> {
    fn words(&self) -> String {
        match &self.answer {
            Some((completed, ret)) => format!("{}..{completed} {:?} = {ret:?}", self.invoked, self.op),
            None => format!("{}.. {:?} = ?", self.invoked, self.op),
        }
    }
}

/// Whether each call can be given an instant between its start and its end at which it took effect. Parts are checked apart. Many
/// unanswered calls in one part make it slow.
///
/// # Errors
///
/// No order explains the answers: the longest that explains some, and what could not come next.
pub fn linearizable<M: Model>(calls: &[Call<M::Op, M::Ret>]) -> Result<(), String> {
    let mut parts: BTreeMap<M::Part, Vec<&Call<M::Op, M::Ret>>> = BTreeMap::new();
    for call in calls {
        parts.entry(M::part(&call.op)).or_default().push(call);
    }
    for (part, calls) in parts {
        search::<M>(&calls).map_err(|longest| verdict::<M>(&part, &calls, &longest))?;
    }
    Ok(())
}

/// # Errors
///
/// The longest order found.
fn search<M: Model>(calls: &[&Call<M::Op, M::Ret>]) -> Result<(), Vec<usize>> {
    let mut moments = Moments::of(calls);
    let mut unexplained = calls.iter().filter(|call| call.answer.is_some()).count();
    let mut state = M::State::default();
    let mut done = vec![0u64; calls.len().div_ceil(64)];
    let mut tried = HashSet::new();
    let mut order: Vec<(usize, M::State)> = Vec::new();
    let mut longest = Vec::new();
    let mut at = moments.first();
    while unexplained > 0 {
        let moment = moments.all[at];
        if !moment.is_return {
            let call = calls[moment.call];
            let mut after = state.clone();
            if M::step(&mut after, &call.op, call.answer.as_ref().map(|(_, ret)| ret)).is_ok() {
                flip(&mut done, moment.call);
                if tried.insert((done.clone(), after.clone())) {
                    order.push((at, std::mem::replace(&mut state, after)));
                    moments.take(at);
                    unexplained -= usize::from(call.answer.is_some());
                    if order.len() > longest.len() {
                        longest = order.iter().map(|(at, _)| moments.all[*at].call).collect();
                    }
                    at = moments.first();
                    continue;
                }
                flip(&mut done, moment.call);
            }
            at = moments.next[at];
            continue;
        }
        // A call returned that is not yet in the order: what was tried last was wrong.
        let Some((last, before)) = order.pop() else { return Err(longest) };
        state = before;
        let call = moments.all[last].call;
        flip(&mut done, call);
        moments.put_back(last);
        unexplained += usize::from(calls[call].answer.is_some());
        at = moments.next[last];
    }
    Ok(())
}

fn flip(bits: &mut [u64], index: usize) {
    bits[index / 64] ^= 1 << (index % 64);
}

#[derive(Clone, Copy)]
struct Moment {
    call: usize,
    is_return: bool,
}

/// Starts and returns in the order of time, as a list from which a call can be taken and put back. Who never returned has only a
/// start. The moment past the end is the head of the ring.
struct Moments {
    all: Vec<Moment>,
    next: Vec<usize>,
    previous: Vec<usize>,
    return_of: Vec<Option<usize>>,
}

impl Moments {
    fn of<O, R>(calls: &[&Call<O, R>]) -> Moments {
        let starts = calls.iter().enumerate().map(|(call, it)| (it.invoked, false, call));
        let returns =
            calls.iter().enumerate().filter_map(|(call, it)| Some((it.answer.as_ref()?.0, true, call)));
        // Starts first at one instant: intervals are closed.
        let mut sorted: Vec<(u64, bool, usize)> = starts.chain(returns).collect();
        sorted.sort_unstable();
        let all: Vec<Moment> =
            sorted.into_iter().map(|(_, is_return, call)| Moment { call, is_return }).collect();
        let mut return_of = vec![None; calls.len()];
        for (at, moment) in all.iter().enumerate().filter(|(_, moment)| moment.is_return) {
            return_of[moment.call] = Some(at);
        }
        let ring = all.len() + 1;
        Moments {
            next: (0..ring).map(|at| (at + 1) % ring).collect(),
            previous: (0..ring).map(|at| (at + ring - 1) % ring).collect(),
            all,
            return_of,
        }
    }

    fn first(&self) -> usize {
        self.next[self.all.len()]
    }

    fn take(&mut self, start: usize) {
        self.unlink(start);
        if let Some(end) = self.return_of[self.all[start].call] {
            self.unlink(end);
        }
    }

    /// Undoes the latest [`take`](Self::take).
    fn put_back(&mut self, start: usize) {
        if let Some(end) = self.return_of[self.all[start].call] {
            self.relink(end);
        }
        self.relink(start);
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn relink(&mut self, at: usize) {
        self.next[self.previous[at]] = at;
        self.previous[self.next[at]] = at;
    }
}

/// Runs the longest order again to say what each call that might come next was answered, and should have been.
fn verdict<M: Model>(part: &M::Part, calls: &[&Call<M::Op, M::Ret>], longest: &[usize]) -> String {
    let mut state = M::State::default();
    let mut lines = vec![format!("no order explains the calls of {part:?}. As far as it goes:")];
    for index in longest {
        let call = calls[*index];
        let answer = call.answer.as_ref().map(|(_, ret)| ret);
        M::step(&mut state, &call.op, answer).expect("the search took this step");
        lines.push(format!("  {}", call.words()));
    }
    let left: Vec<usize> = (0..calls.len()).filter(|index| !longest.contains(index)).collect();
    let first_return = left.iter().filter_map(|index| Some(calls[*index].answer.as_ref()?.0)).min();
    lines.push("and then none of these fits:".into());
    for call in left.into_iter().map(|index| calls[index]).filter(|call| Some(call.invoked) <= first_return) {
        let answer = call.answer.as_ref().map(|(_, ret)| ret);
        let right = match M::step(&mut state.clone(), &call.op, answer) {
            Ok(()) => "it fits here, and leads nowhere".to_string(),
            Err(right) => format!("the object would answer {right}"),
        };
        lines.push(format!("  {} ({right})", call.words()));
    }
    lines.join("\n")
}
