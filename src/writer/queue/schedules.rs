//! The gate of the store's health under many schedules: after a close or a failure no request is left without an answer.

use super::*;
use crate::commit::reads::Reads;
use crate::request::Append;
use crate::sync::simulated::NEVER;
use crate::sync::simulated::explore::{finds, holds};
use crate::sync::thread;
use crate::writer::tests::Asked;

const CALLERS: usize = 3;

/// Operations that put requests in, and that keep the last of them out.
#[derive(Clone, Copy)]
struct Use {
    put: fn(&Outbox, Box<Prepared>, Duration) -> Result<Answer<Handed>, AppendError>,
    let_nobody_in: fn(&Health, &dyn Fn()),
}

const RIGHT: Use = Use { put: Outbox::put, let_nobody_in: |health, drain| health.let_nobody_in(drain) };

fn request() -> Box<Prepared> {
    let (events, expected) = (Vec::new(), Vec::new());
    let append = Append::event(Asked {});
    Box::new(Prepared { append, keyed: None, events, expected, reads: Reads::default(), bytes: 1 })
}

fn cause() -> StorageError {
    StorageError::new(TroubleKind::Io, "planned")
}

/// Takes requests until the store closes, and is poisoned after the first if `fails`. Then keeps others out and hands the
/// rest back.
fn serve(used: Use, inbox: &Inbox, health: &Health, fails: bool) -> usize {
    let (mut served, watch) = (0, inbox.watch());
    loop {
        match inbox.try_next() {
            Next::Append((_, reply)) if !health.is_poisoned() => {
                reply.send(Handed::unanswered());
                served += 1;
                if fails {
                    health.poison(cause());
                }
            }
            Next::Append(waiting) => hand_back(waiting),
            Next::Nothing => assert!(watch.wait(NEVER), "nobody has closed it"),
            Next::Close => break,
        }
    }
    (used.let_nobody_in)(health, &|| std::iter::from_fn(|| inbox.try_next_append()).for_each(hand_back));
    served
}

fn hand_back((request, reply): Waiting) {
    reply.send(Handed::from(Err(AppendError::Closed(Box::new(request.append)))));
}

fn story(used: Use, fails: bool) {
    let health = Arc::new(Health::default());
    // One place only: callers wait for it, and hold the gate meanwhile.
    let (outbox, inbox) = queue(1, CALLERS, health.clone(), Wakers::new(true));
    let ask = |outbox: Outbox| {
        thread::spawn(move || match (used.put)(&outbox, request(), Duration::from_secs(1)) {
            Ok(answer) => matches!(answer.wait().open(), Err(AppendError::Unknown(_))),
            Err(error) => {
                let is_refused = matches!(
                    error,
                    AppendError::Closed(_) | AppendError::Poisoned { .. } | AppendError::Overloaded(_)
                );
                assert!(is_refused, "{error}");
                false
            }
        })
    };
    let callers: Vec<_> = (0..CALLERS).map(|_| ask(outbox.clone())).collect();
    let last = outbox.clone();
    let closer = thread::spawn(move || last.close());
    let served = serve(used, &inbox, &health, fails);
    let answers = callers.into_iter().map(|caller| caller.join().expect("it does not panic"));
    assert_eq!(answers.filter(|is_served| *is_served).count(), served, "who was served is told so");
    closer.join().expect("it does not panic");
    assert_ne!(health.state(), State::Well);
    assert_eq!((outbox.len(), inbox.bytes.load(Ordering::Relaxed)), (0, 0), "nothing is left behind");
}

#[test]
fn a_close_leaves_no_request_unanswered() {
    holds("health gate, closed", || story(RIGHT, false));
}

#[test]
fn a_failure_leaves_no_request_unanswered() {
    holds("health gate, poisoned", || story(RIGHT, true));
}

#[test]
fn request_bypassing_gate_is_found() {
    let put = |outbox: &Outbox, request: Box<Prepared>, patience| {
        if outbox.health.state() != State::Well {
            return Err(AppendError::Closed(Box::new(request.append)));
        }
        let (reply, answer) = slot(Handed::unanswered, &outbox.due);
        outbox.bytes.fetch_add(request.bytes, Ordering::Relaxed);
        match outbox.send.send_timeout(Message::Append(request, reply), patience) {
            Ok(()) => Ok(answer),
            Err(error) => {
                outbox.bytes.fetch_sub(1, Ordering::Relaxed);
                let Message::Append(request, reply) = error.into_inner() else { unreachable!("an append") };
                reply.send(Handed::unanswered());
                Err(AppendError::Overloaded(Box::new(request.append)))
            }
        }
    };
    finds("health gate: a caller looks at the state outside of the gate", move || {
        story(Use { put, ..RIGHT }, false);
    });
}

#[test]
fn close_draining_only_before_gate_is_found() {
    let let_nobody_in = |health: &Health, drain: &dyn Fn()| {
        let gate = loop {
            drain();
            if let Some(gate) = health.gate.try_write_for(Duration::from_millis(1)) {
                break gate;
            }
        };
        let _ = health.state.compare_exchange(0, 2, Ordering::AcqRel, Ordering::Acquire);
        drop(gate);
    };
    finds("health gate: nothing is taken out after it is shut", move || {
        story(Use { let_nobody_in, ..RIGHT }, false);
    });
}
