//! Subscriptions: every event that matches, from a position on, and then live.
//!
//! - Never a gap, never a repeat: it reads as a view does, from where it stands to the head, again and again.
//! - It holds no view and no snapshot between two pages, so a slow one stands in nobody's way.
//! - It listens before it looks, so that nothing is committed unheard in between.

use crate::error::ReadError;
use crate::event::{EventSet, Sequenced};
use crate::order::Position;
use crate::query::Query;
use crate::reentry;
use crate::state::bell::{Bell, Task};
use crate::sync::deadline;
use crate::view::{Current, Events};
use crate::writer::queue::State;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Item of a subscription.
type Item<E> = Result<Sequenced<E>, ReadError>;

/// All events that match, from a position on: those that are there, then those that come. Made by
/// [`Store::subscribe`](crate::Store::subscribe).
///
/// As an iterator it blocks until there is an event. [`try_next`](Self::try_next) and [`next_timeout`](Self::next_timeout) do
/// not, and [`poll_next`](Self::poll_next) is for tasks; with the feature `stream` it is a `futures_core::Stream`.
///
/// - It gives each event once, in order, and only what is durable. To go on in another process, keep the position of the last
///   one and subscribe behind it.
/// - It does not keep the store open: the last [`Store`](crate::Store) closes it, and the subscription ends. What it has read by
///   then, a page at most, it still gives.
/// - While the store is poisoned it waits, and goes on after [`Store::recover`](crate::Store::recover).
/// - Inside a fold, a guard or an invariant its next item is the error `Nested`.
/// - After an error there is no further item. Subscribe again behind the last event once the cause is mended.
pub struct Subscription<E> {
    /// `None` once it has ended: then it holds nothing of the store.
    events: Option<Events<E>>,
    bell: Arc<Bell>,
    /// Slot in which it leaves its waker, once it was polled.
    task: Option<Task>,
}

/// It is never pinned: no part of it points into itself.
impl<E> Unpin for Subscription<E> {}

impl<E> fmt::Debug for Subscription<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.events.is_some() { "Subscription" } else { "Subscription(ended)" })
    }
}

impl<E: EventSet> Subscription<E> {
    pub(crate) fn new(current: Current, bell: Arc<Bell>, query: Query, after: Position) -> Self {
        let (also_after, up_to) = query.range();
        let endless = !query.is_backwards() && query.limit_events().is_none() && up_to.is_none();
        let head = current.read().board.load().head;
        let mut events = Events::new(current, head, query.after(after.max(also_after)));
        if !endless {
            let why = "it goes forward and has no end: leave out backwards(), limit() and up_to()".to_owned();
            events.refuse(ReadError::Invalid { what: "subscription", why });
        }
        Self { events: Some(events), bell, task: None }
    }

    /// The next event, if there is one now. `Pending`: not yet; `Ready(None)`: it has ended.
    pub fn try_next(&mut self) -> Poll<Option<Item<E>>> {
        let Some(events) = &mut self.events else { return Poll::Ready(None) };
        if let Some(outer) = reentry::fold() {
            self.events = None;
            return Poll::Ready(Some(Err(ReadError::Nested { outer })));
        }
        if let Some(event) = events.buffered() {
            return Poll::Ready(Some(Ok(event)));
        }
        let reader = events.reader();
        if reader.health.state() == State::Closed {
            self.events = None;
            return Poll::Ready(None);
        }
        events.reach(reader.board.load().head);
        match events.next_event() {
            Ok(Some(event)) => Poll::Ready(Some(Ok(event))),
            Ok(None) => Poll::Pending,
            // The files are about to be opened again, or have to be: what they did not say now they say then.
            Err(ReadError::Storage(_)) if reader.health.state() != State::Well => Poll::Pending,
            Err(error) => {
                self.events = None;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    /// The next event, waiting for it as long as `timeout`. `Pending`: none came.
    pub fn next_timeout(&mut self, timeout: Duration) -> Poll<Option<Item<E>>> {
        self.wait(deadline(timeout))
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Poll<Option<Item<E>>> {
        let mut next = self.try_next();
        let bell = self.bell.clone();
        while next.is_pending() {
            let listener = bell.listen();
            next = self.try_next();
            if next.is_pending() && !listener.wait(deadline) {
                break;
            }
        }
        next
    }

    /// The next event, for a task: `Pending` has it woken when there may be one.
    ///
    /// It reads a page of the log where it is polled, which takes as long as the disk does.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Item<E>>> {
        let next = self.try_next();
        if next.is_ready() {
            return next;
        }
        let bell = &self.bell;
        self.task.get_or_insert_with(|| bell.task()).listen(context.waker());
        self.try_next()
    }
}

impl<E: EventSet> Iterator for Subscription<E> {
    type Item = Item<E>;

    /// Blocks until there is an event; `None` once the store is closed.
    fn next(&mut self) -> Option<Item<E>> {
        loop {
            if let Poll::Ready(next) = self.wait(None) {
                return next;
            }
        }
    }
}

#[cfg(feature = "stream")]
impl<E: EventSet> futures_core::Stream for Subscription<E> {
    type Item = Item<E>;

    fn poll_next(self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item<E>>> {
        self.get_mut().poll_next(context)
    }
}

#[cfg(feature = "stream")]
impl<E: EventSet> futures_core::stream::FusedStream for Subscription<E> {
    fn is_terminated(&self) -> bool {
        self.events.is_none()
    }
}

#[cfg(all(test, shuttle))]
mod schedules;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::log::record::Commit;
    use crate::log::{Head, Log, LogError, LogSize, Page, Seek, StoreId};
    use crate::order::CommitNo;
    use crate::request::Append;
    use crate::setup::Setup;
    use crate::store::Store;
    use crate::sync::RwLock;
    use crate::view::Reader;
    use serde::{Deserialize, Serialize};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::task::{Wake, Waker};

    macro_rules! family {
        ($name:ident, $family:literal) => {
            #[derive(Serialize, Deserialize)]
            struct $name {}

            impl Event for $name {
                const FAMILY: &'static str = $family;
                type Id = ();
                fn id(&self) {}
            }
        };
    }
    family!(Wanted, "wanted");
    family!(Other, "other");

    /// A log in whose reads others commit: an event that nobody waits for in the first `before`, then one that is waited for.
    #[derive(Debug)]
    struct Busy {
        log: Arc<dyn Log>,
        store: Store,
        before: u64,
        reads: AtomicU64,
    }

    impl Log for Busy {
        fn store(&self) -> StoreId {
            self.log.store()
        }

        fn head(&self) -> Head {
            self.log.head()
        }

        fn append(&self, expected: &Head, commits: &[Commit]) -> Result<Head, LogError> {
            self.log.append(expected, commits)
        }

        fn read(&self, from: Seek, through: CommitNo, bytes: usize) -> Result<Page, LogError> {
            let commit = match self.reads.fetch_add(1, Ordering::Relaxed) {
                read if read < self.before => Some(Append::event(Other {})),
                read if read == self.before => Some(Append::event(Wanted {})),
                _ => None,
            };
            commit.into_iter().for_each(|append| drop(self.store.append(append).expect("a good append")));
            self.log.read(from, through, bytes)
        }

        fn walk(
            &self,
            after: &Head,
            step: &mut dyn FnMut(&Page, &Head) -> Result<(), LogError>,
        ) -> Result<(), LogError> {
            self.log.walk(after, step)
        }

        fn size(&self) -> LogSize {
            self.log.size()
        }

        fn seal(&self) -> Result<(), LogError> {
            self.log.seal()
        }
    }

    /// A subscriber of `Wanted` who finds nothing when it looks, while the event is committed.
    fn subscriber(before: u64) -> Subscription<Wanted> {
        let setup = Setup::new().events::<Wanted>().events::<Other>();
        let store = Store::in_memory(setup).expect("a fresh store");
        let bell = store.subscribe::<Wanted>(Query::all(), Position::START).bell;
        store.append(Append::event(Other {})).expect("a good append");
        let reader = store.reader();
        let (log, reads) = (reader.log.clone(), AtomicU64::new(0));
        let log: Arc<dyn Log> = Arc::new(Busy { log, store, before, reads });
        let reader = Reader {
            rules: reader.rules.clone(),
            terms: reader.terms.clone(),
            log,
            keys: reader.keys.clone(),
            board: reader.board.clone(),
            health: reader.health.clone(),
            behind: reader.behind.clone(),
            page_bytes: reader.page_bytes,
        };
        Subscription::new(Arc::new(RwLock::new(Arc::new(reader))), bell, Query::all(), Position::START)
    }

    #[test]
    fn commit_during_read_wakes_thread() {
        for before in 0..2 {
            let next = subscriber(before).next_timeout(Duration::from_secs(5));
            let Poll::Ready(Some(Ok(found))) = next else { panic!("in look {before} it went by unheard") };
            assert_eq!(found.position.get(), before + 2);
        }
    }

    #[test]
    fn commit_during_read_wakes_task() {
        struct Tell(mpsc::Sender<()>);
        impl Wake for Tell {
            fn wake(self: Arc<Self>) {
                let _ = self.0.send(());
            }
        }
        for before in 0..2 {
            let (mut subscription, (tell, woken)) = (subscriber(before), mpsc::channel());
            let waker = Waker::from(Arc::new(Tell(tell)));
            let mut next = subscription.poll_next(&mut Context::from_waker(&waker));
            if next.is_pending() {
                // Wakers run on a thread of their own.
                woken.recv_timeout(Duration::from_secs(5)).expect("a commit in this look is heard");
                next = subscription.poll_next(&mut Context::from_waker(&waker));
            }
            let Poll::Ready(Some(Ok(found))) = next else { panic!("it is there: {}", next.is_pending()) };
            assert_eq!(found.position.get(), before + 2);
        }
    }
}
