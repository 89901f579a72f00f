//! The serial run, for a store whose serial order is its commit order: each transaction alone, on a plain model.
//!
//! Shares nothing with the search for cycles but the words of the history, so that each can show a fault of the other.

use super::history::{History, Op, Status, name};
use super::model::{Lists, Model};

/// A transaction that committed: its calls and their answers, in its own order.
#[derive(Clone, Debug)]
pub struct Committed<O, R> {
    /// How it is called in the verdict.
    pub name: String,
    pub invoked: u64,
    /// `None` if the reply never arrived.
    pub completed: Option<u64>,
    /// `None` is an answer that never arrived.
    pub calls: Vec<(O, Option<R>)>,
}

/// Runs the transactions one by one, and answers the state they leave. A transaction that only reads stands behind the last commit
/// that it saw.
///
/// # Errors
///
/// An answer differs from that of the serial run, or one transaction had returned before another began that stands ahead of it.
pub fn replay<M: Model>(in_commit_order: &[Committed<M::Op, M::Ret>]) -> Result<M::State, String> {
    let mut state = M::State::default();
    let mut latest_start: Option<&Committed<M::Op, M::Ret>> = None;
    for txn in in_commit_order {
        if let (Some(ahead), Some(completed)) = (latest_start, txn.completed)
            && completed < ahead.invoked
        {
            let (late, began) = (&txn.name, ahead.invoked);
            return Err(format!(
                "{late} returned at {completed}, and {}, who began at {began}, stands ahead",
                ahead.name
            ));
        }
        if latest_start.is_none_or(|latest| latest.invoked < txn.invoked) {
            latest_start = Some(txn);
        }
        for (op, ret) in &txn.calls {
            M::step(&mut state, op, ret.as_ref()).map_err(|right| {
                format!("{}: {op:?} was answered {ret:?}, and in a serial run {right}", txn.name)
            })?;
        }
    }
    Ok(state)
}

/// Replays a history of lists. `commit_order` names transactions by their index; it holds every committed one once, and of those
/// with an unknown outcome the ones that took effect.
///
/// # Errors
///
/// As [`replay`], or the order names other transactions than those that committed.
pub fn serial_replay(history: &History, commit_order: &[usize]) -> Result<<Lists as Model>::State, String> {
    let mut ordered = vec![false; history.txns.len()];
    for index in commit_order {
        if std::mem::replace(&mut ordered[*index], true) {
            return Err(format!("{} stands twice in the commit order", name(*index)));
        }
    }
    for (index, txn) in history.txns.iter().enumerate() {
        match (txn.status, ordered[index]) {
            (Status::Ok, false) => {
                return Err(format!("{} committed, and is not in the commit order", name(index)));
            }
            (Status::Fail, true) => {
                return Err(format!("{} was aborted, and is in the commit order", name(index)));
            }
            _ => {}
        }
    }
    let committed = |index: &usize| {
        let txn = &history.txns[*index];
        let calls: Vec<(Op, Option<()>)> = txn.ops.iter().map(|op| (op.clone(), Some(()))).collect();
        Committed { name: name(*index), invoked: txn.invoked, completed: txn.acknowledged(), calls }
    };
    replay::<Lists>(&commit_order.iter().map(committed).collect::<Vec<_>>())
}
