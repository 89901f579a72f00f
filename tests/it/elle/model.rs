//! Sequential objects: what each call on them may answer when calls come one at a time.

use super::history::{Op, shown};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;

/// A sequential object.
pub trait Model {
    type State: Clone + Default + Eq + Hash;
    type Op: Clone + Debug;
    type Ret: Clone + Debug;
    /// What operations must share to influence each other; `()` if all do.
    type Part: Ord + Debug;

    fn part(op: &Self::Op) -> Self::Part;

    /// Applies the operation. `ret` is what was answered, `None` if the answer never arrived.
    ///
    /// # Errors
    ///
    /// The object could not have answered so: what it would have answered, in words. The state is then of no use.
    fn step(state: &mut Self::State, op: &Self::Op, ret: Option<&Self::Ret>) -> Result<(), String>;
}

/// Keys to lists, as in the histories. A read carries its own answer.
pub struct Lists;

impl Model for Lists {
    type State = BTreeMap<String, Vec<u64>>;
    type Op = Op;
    type Ret = ();
    type Part = String;

    fn part(op: &Op) -> String {
        op.key().to_string()
    }

    fn step(state: &mut Self::State, op: &Op, _: Option<&()>) -> Result<(), String> {
        match op {
            Op::Append { key, value } => state.entry(key.clone()).or_default().push(*value),
            Op::Read { list: None, .. } => {}
            Op::Read { key, list: Some(list) } => {
                let there = state.get(key).map_or(&[][..], Vec::as_slice);
                if there != list {
                    return Err(shown(there));
                }
            }
        }
        Ok(())
    }
}

/// Requests under idempotency keys.
pub struct Idempotency;

#[derive(Clone, Debug)]
pub struct Request {
    pub key: String,
    /// Stands for the content.
    pub fingerprint: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done now; here is the receipt, such as the position of the first event.
    Created(u64),
    /// Done before with the same content; here is the receipt of then.
    Replayed(u64),
    /// The key was used before with other content.
    Reused,
}

impl Model for Idempotency {
    /// By key: the first fingerprint, and the receipt, unless its answer never arrived.
    type State = BTreeMap<String, (u64, Option<u64>)>;
    type Op = Request;
    type Ret = Answer;
    type Part = String;

    fn part(request: &Request) -> String {
        request.key.clone()
    }

    fn step(state: &mut Self::State, request: &Request, answer: Option<&Answer>) -> Result<(), String> {
        match (state.get_mut(&request.key), answer) {
            (None, None) => drop(state.insert(request.key.clone(), (request.fingerprint, None))),
            (None, Some(Answer::Created(receipt))) => {
                state.insert(request.key.clone(), (request.fingerprint, Some(*receipt)));
            }
            (None, Some(_)) => return Err("a new receipt: the key is unused".into()),
            (Some(_), None) => {}
            (Some((first, receipt)), Some(Answer::Replayed(again))) if *first == request.fingerprint => {
                if *receipt.get_or_insert(*again) != *again {
                    return Err(format!("{:?}", receipt.map(Answer::Replayed)));
                }
            }
            (Some((first, _)), Some(Answer::Reused)) if *first != request.fingerprint => {}
            (Some((first, receipt)), Some(_)) if *first == request.fingerprint => {
                return Err(format!("a replay of {receipt:?}"));
            }
            (Some((first, _)), Some(_)) => {
                return Err(format!("reused: the key belongs to fingerprint {first}"));
            }
        }
        Ok(())
    }
}

/// Flags that are raised once and never lowered.
pub struct Once;

#[derive(Clone, Debug)]
pub enum OnceOp {
    /// Answers whether it was this call that raised it.
    Raise(String),
    /// Answers whether it is raised.
    Look(String),
}

impl Model for Once {
    type State = BTreeSet<String>;
    type Op = OnceOp;
    type Ret = bool;
    type Part = String;

    fn part(op: &OnceOp) -> String {
        let (OnceOp::Raise(flag) | OnceOp::Look(flag)) = op;
        flag.clone()
    }

    fn step(raised: &mut BTreeSet<String>, op: &OnceOp, ret: Option<&bool>) -> Result<(), String> {
        let right = match op {
            OnceOp::Raise(flag) => raised.insert(flag.clone()),
            OnceOp::Look(flag) => raised.contains(flag),
        };
        match ret {
            Some(ret) if *ret != right => Err(right.to_string()),
            _ => Ok(()),
        }
    }
}
