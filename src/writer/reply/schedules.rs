//! Reply slots under many schedules: each answer arrives once, and a request is served or withdrawn.

use super::*;
use crate::sync::simulated::explore::{finds, holds};
use crate::sync::thread;
use shuttle::future::block_on;

/// The answer of a slot whose writer went away.
const GONE: usize = usize::MAX;
/// One caller waits, one polls, one loses patience, and the last is never answered.
const CALLERS: usize = 4;
const IMPATIENT: usize = 2;
const UNANSWERED: usize = 3;

/// Operations on the two ends of a slot.
#[derive(Clone, Copy)]
struct Use {
    fill: fn(Reply<usize>, usize),
    wait: fn(&Answer<usize>) -> usize,
    withdraw: fn(&Answer<usize>) -> bool,
}

const RIGHT: Use = Use { fill: Reply::send, wait: Answer::wait, withdraw: Answer::withdraw };

/// Serves all slots, in order. Returns for each request whether it was taken.
fn serve(used: Use, replies: Vec<Reply<usize>>) -> Vec<bool> {
    let serve_one = |(caller, reply): (usize, Reply<usize>)| {
        let is_taken = reply.take();
        if is_taken && caller != UNANSWERED {
            (used.fill)(reply, caller);
        }
        is_taken
    };
    replies.into_iter().enumerate().map(serve_one).collect()
}

/// Returns the caller's answer; `None` if it has withdrawn.
fn call(used: Use, caller: usize, mut answer: Answer<usize>) -> Option<usize> {
    let got = match caller {
        1 => block_on(&mut answer),
        IMPATIENT => match answer.wait_timeout(Duration::from_secs(1)) {
            Some(got) => got,
            None if (used.withdraw)(&answer) => return None,
            None => (used.wait)(&answer),
        },
        _ => (used.wait)(&answer),
    };
    assert_eq!(answer.wait_timeout(Duration::ZERO), None, "an answer is seen once");
    Some(got)
}

fn story(used: Use) {
    let due = Wakers::new(false);
    let (replies, answers): (Vec<_>, Vec<_>) = (0..CALLERS).map(|_| slot(|| GONE, &due)).unzip();
    let writer = thread::spawn(move || serve(used, replies));
    let call = |(caller, answer)| thread::spawn(move || call(used, caller, answer));
    let callers: Vec<_> = answers.into_iter().enumerate().map(call).collect();
    let got: Vec<_> = callers.into_iter().map(|thread| thread.join().expect("it does not panic")).collect();
    let taken = writer.join().expect("it does not panic");
    for caller in 0..CALLERS {
        let expected = match caller {
            UNANSWERED => Some(GONE),
            IMPATIENT if got[caller].is_none() => None,
            _ => Some(caller),
        };
        assert_eq!(got[caller], expected, "caller {caller}");
        assert_eq!(got[caller].is_some(), taken[caller], "served or withdrawn, caller {caller}");
    }
}

#[test]
fn each_answer_arrives_once() {
    holds("reply slots", || story(RIGHT));
}

#[test]
fn answer_without_wakeup_is_found() {
    let fill = |mut reply: Reply<usize>, answer| {
        reply.otherwise = None;
        reply.slot.state.lock().answer = Some(answer);
    };
    finds("reply slots: an answer is stored and wakes nobody", move || story(Use { fill, ..RIGHT }));
}

#[test]
fn unlock_between_check_and_sleep_is_found() {
    let wait = |answer: &Answer<usize>| loop {
        if let Some(answer) = answer.slot.state.lock().answer.take() {
            return answer;
        }
        let mut state = answer.slot.state.lock();
        state.sleeping = true;
        answer.slot.filled.wait(&mut state);
    };
    finds("reply slots: a caller lets go of the lock between look and sleep", move || {
        story(Use { wait, ..RIGHT });
    });
}

#[test]
fn withdrawal_of_taken_request_is_found() {
    let withdraw = |answer: &Answer<usize>| {
        answer.withdraw();
        true
    };
    finds("reply slots: a caller withdraws what the writer has taken", move || {
        story(Use { withdraw, ..RIGHT });
    });
}
