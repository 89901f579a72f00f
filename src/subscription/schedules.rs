//! Subscriptions under many schedules: each event once, in order, while others commit.

use super::*;
use crate::event::Event;
use crate::options::Options;
use crate::request::Append;
use crate::setup::Setup;
use crate::store::Store;
use crate::sync::simulated::NEVER;
use crate::sync::simulated::explore::{finds, holds};
use crate::sync::thread;
use crate::wakers::Wakers;
use serde::{Deserialize, Serialize};
use shuttle::future::block_on;
use shuttle::sync::Barrier;
use std::future::poll_fn;

#[derive(Serialize, Deserialize)]
struct Said {
    by: u8,
}

impl Event for Said {
    const FAMILY: &'static str = "said";
    type Id = u8;
    fn id(&self) -> u8 {
        self.by
    }
}

const WRITERS: u8 = 2;
const EACH: u64 = 2;

type Next = Poll<Option<Item<Said>>>;

/// Calls with which a thread and a task go on with their subscription.
#[derive(Clone, Copy)]
struct Use {
    wait: fn(&mut Subscription<Said>) -> Next,
    poll: fn(&mut Subscription<Said>, &mut Context<'_>) -> Next,
}

const RIGHT: Use = Use { wait: |said| said.wait(None), poll: Subscription::poll_next };

/// Takes all events, lets the store be closed, and takes the end.
fn follow(all_seen: &Barrier, mut next: impl FnMut() -> Next) {
    let mut take = || match next() {
        Poll::Ready(next) => next.map(|said| said.expect("the log can be read").position.get()),
        Poll::Pending => panic!("it does not wait for so long"),
    };
    for position in 1..=u64::from(WRITERS) * EACH {
        assert_eq!(take(), Some(position), "each once, in order");
    }
    all_seen.wait();
    assert_eq!(take(), None, "it ends with the store");
}

/// Two writers, a thread and a task that follow them. If `early`, the thread hears a bell that is rung before each commit.
fn story(used: Use, early: bool) {
    let options = Options { overlay_age_ms_max: NEVER.as_millis() as u64, ..Options::default() };
    let store = Store::in_memory(Setup::new().events::<Said>().options(options)).expect("a fresh store");
    let (mut by_thread, mut by_task) = (
        store.subscribe::<Said>(Query::all(), Position::START),
        store.subscribe::<Said>(Query::all(), Position::START),
    );
    let early = early.then(|| Arc::new(Bell::new(Wakers::new(true))));
    if let Some(early) = &early {
        by_thread.bell = early.clone();
    }
    let write = |by| {
        let (store, early) = (store.clone(), early.clone());
        thread::spawn(move || {
            for _ in 0..EACH {
                if let Some(early) = &early {
                    early.ring();
                }
                store.append(Append::event(Said { by })).expect("a good append");
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(write).collect();
    let all_seen = Arc::new(Barrier::new(3));
    let (seen_by_thread, seen_by_task) = (all_seen.clone(), all_seen.clone());
    let followers = [
        thread::spawn(move || follow(&seen_by_thread, || (used.wait)(&mut by_thread))),
        thread::spawn(move || {
            follow(&seen_by_task, || {
                let next = block_on(poll_fn(|context| (used.poll)(&mut by_task, context)));
                Poll::Ready(next)
            });
        }),
    ];
    writers.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    all_seen.wait();
    store.close();
    if let Some(early) = &early {
        early.ring();
    }
    followers.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
}

#[test]
fn events_arrive_once_and_in_order() {
    holds("subscription", || story(RIGHT, false));
}

/// Schedule search detects the lost wake-up of a thread that listens only after it looked.
#[test]
fn thread_listening_after_looking_is_found() {
    let wait = |said: &mut Subscription<Said>| loop {
        let next = said.try_next();
        if next.is_ready() {
            return next;
        }
        said.bell.listen().wait(None);
    };
    finds("subscription: a thread listens after it has looked", move || {
        story(Use { wait, ..RIGHT }, false);
    });
}

/// Schedule search detects the lost wake-up of a task that registers its waker only after it looked.
#[test]
fn task_listening_after_looking_is_found() {
    let poll = |said: &mut Subscription<Said>, context: &mut Context<'_>| {
        let next = said.try_next();
        let bell = said.bell.clone();
        said.task.get_or_insert_with(|| bell.task()).listen(context.waker());
        next
    };
    finds("subscription: a task listens after it has looked", move || {
        story(Use { poll, ..RIGHT }, false);
    });
}

/// Schedule search detects the wake-up that is lost when the bell rings before the commit.
#[test]
fn bell_rung_before_commit_is_found() {
    finds("subscription: the bell is rung before the commit", || story(RIGHT, true));
}
