//! The eventcount under many schedules: no wake-up is lost, of threads or of tasks.

use super::*;
use crate::sync::atomic::AtomicU64;
use crate::sync::simulated::explore::{finds, holds};
use crate::sync::thread;
use shuttle::future::block_on;
use std::future::poll_fn;
use std::task::Poll;

/// Operations on the bell: two threads publish, and a thread and a task wait for both.
#[derive(Clone, Copy)]
struct Use {
    publish: fn(&Bell, &AtomicU64),
    wait: fn(&Bell, &dyn Fn() -> bool),
    poll: fn(&Task, &Waker, &dyn Fn() -> bool) -> bool,
}

const RIGHT: Use = Use {
    publish: |bell, published| {
        published.fetch_add(1, Ordering::Relaxed);
        bell.ring();
    },
    wait: |bell, is_there| {
        loop {
            let listener = bell.listen();
            if is_there() {
                return;
            }
            listener.wait(None);
        }
    },
    poll: |task, waker, is_there| {
        task.listen(waker);
        is_there()
    },
};

fn story(used: Use) {
    const ALL: u64 = 2;
    let bell = Arc::new(Bell::new(Wakers::new(false)));
    let published = Arc::new(AtomicU64::new(0));
    let both = || (bell.clone(), published.clone());
    let mut threads: Vec<_> = (0..ALL)
        .map(|_| {
            let (bell, published) = both();
            thread::spawn(move || (used.publish)(&bell, &published))
        })
        .collect();
    let (heard, seen) = both();
    threads.push(thread::spawn(move || {
        (used.wait)(&heard, &|| seen.load(Ordering::Relaxed) == ALL);
    }));
    let (heard, seen) = both();
    threads.push(thread::spawn(move || {
        let task = heard.task();
        block_on(poll_fn(|context| {
            match (used.poll)(&task, context.waker(), &|| seen.load(Ordering::Relaxed) == ALL) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        }));
    }));
    threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    assert_eq!(bell.listening.load(Ordering::Relaxed), 0, "nobody is counted who does not listen");
}

#[test]
fn no_wake_up_is_lost() {
    holds("eventcount", || story(RIGHT));
}

#[test]
fn listening_after_looking_is_found() {
    let wait = |bell: &Bell, is_there: &dyn Fn() -> bool| {
        while !is_there() {
            bell.listen().wait(None);
        }
    };
    finds("eventcount: a thread listens after it has looked", move || story(Use { wait, ..RIGHT }));
}

/// Schedule search detects the lost wake-up of a task that registers its waker only after it looked.
#[test]
fn task_listening_after_looking_is_found() {
    let poll = |task: &Task, waker: &Waker, is_there: &dyn Fn() -> bool| {
        let is_there = is_there();
        task.listen(waker);
        is_there
    };
    finds("eventcount: a task listens after it has looked", move || story(Use { poll, ..RIGHT }));
}

#[test]
fn ringing_before_publishing_is_found() {
    let publish = |bell: &Bell, published: &AtomicU64| {
        bell.ring();
        published.fetch_add(1, Ordering::Relaxed);
    };
    finds("eventcount: it is rung before what is new can be seen", move || story(Use { publish, ..RIGHT }));
}
