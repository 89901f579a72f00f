//! The writer's role and its lease under many schedules: one thread at a time writes, and the lease holder is alone.

use super::tests::Asked;
use super::*;
use crate::commit::prepare::Desk;
use crate::log::{LogSize, Page, Seek, StoreId};
use crate::order::CommitNo;
use crate::request::Append;
use crate::setup::Setup;
use crate::store::Store;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::simulated::NEVER;
use crate::sync::simulated::explore::{finds, holds};
use crate::sync::thread::{self, JoinHandle};

/// Patience, or the time of a lease, that does not end while the clock of the machine runs on.
const LONG: Duration = NEVER.saturating_mul(2);
const SHORT: Duration = Duration::from_secs(1);

/// A log that notes whether two threads wrote at once, and that may fail.
#[derive(Debug)]
struct Noted {
    log: Arc<dyn Log>,
    is_busy: AtomicBool,
    is_shared: AtomicBool,
    groups: AtomicUsize,
    /// Number of the group whose write fails.
    fails_at: Option<usize>,
}

impl Log for Noted {
    fn append(&self, expected: &Head, commits: &[Commit]) -> Result<Head, LogError> {
        if self.is_busy.swap(true, Ordering::SeqCst) {
            self.is_shared.store(true, Ordering::SeqCst);
        }
        let group = self.groups.fetch_add(1, Ordering::SeqCst);
        let written = match self.fails_at == Some(group) {
            true => Err(LogError::Io(std::io::Error::other("planned"))),
            false => self.log.append(expected, commits),
        };
        self.is_busy.store(false, Ordering::SeqCst);
        written
    }

    fn store(&self) -> StoreId {
        self.log.store()
    }

    fn head(&self) -> Head {
        self.log.head()
    }

    fn read(&self, from: Seek, through: CommitNo, bytes: usize) -> Result<Page, LogError> {
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

/// A store in memory with its writer's thread, over a log that is noted.
struct Stage {
    store: Store,
    door: Door,
    log: Arc<Noted>,
}

impl Stage {
    fn new(fails_at: Option<usize>) -> Self {
        // The writer sleeps until it is asked: one that looked around now and then would hide a lost wake-up.
        let options = Options { overlay_age_ms_max: NEVER.as_millis() as u64, ..Options::default() };
        let setup = Setup::new().events::<Asked>().options(options);
        let store = Store::in_memory(setup).expect("a fresh store");
        let (door, log) = (store.door(), store.reader().log.clone());
        let (is_busy, is_shared, groups) = Default::default();
        let log = Arc::new(Noted { log, is_busy, is_shared, groups, fails_at });
        door.role.lock().log = log.clone();
        Self { store, door, log }
    }

    fn request(&self) -> Box<Prepared> {
        let reader = self.store.reader();
        let desk = Desk { rules: &reader.rules, options: &Options::default(), terms: &reader.terms };
        Box::new(desk.prepare(Append::event(Asked {})).expect("a good append"))
    }

    /// Starts a thread with a request of its own.
    fn start<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Door, Box<Prepared>) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (door, request) = (self.door.clone(), self.request());
        thread::spawn(move || run(&door, request))
    }

    /// Closes the store, and compares the answers that callers got with its content.
    fn end(self, told: impl IntoIterator<Item = Told>) {
        let reader = self.store.reader();
        self.store.close();
        assert!(!self.log.is_shared.load(Ordering::SeqCst), "two threads wrote at once");
        let mut places: Vec<_> = told.into_iter().filter_map(Told::place).collect();
        places.sort_unstable();
        let head = reader.board.load().head;
        assert_eq!(places, (1..=head.position.get()).collect::<Vec<_>>(), "each commit answers one request");
        assert_eq!(self.log.head(), head, "what is in the log is published");
    }
}

/// Answer that a caller got: the position of its event, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Committed(u64),
    Withdrawn,
    Closed,
    Failed,
}

impl Told {
    fn of(answered: Result<Option<Answered>, AppendError>) -> Self {
        match answered.map(Option::transpose) {
            Ok(Ok(Some(committed))) => Self::Committed(committed.receipt.first.get()),
            Ok(Ok(None)) => Self::Withdrawn,
            Ok(Err(AppendError::Closed(_))) | Err(AppendError::Closed(_)) => Self::Closed,
            Ok(Err(AppendError::Unknown(_) | AppendError::Poisoned { .. }))
            | Err(AppendError::Poisoned { .. }) => Self::Failed,
            other => panic!("{other:?}"),
        }
    }

    fn place(self) -> Option<u64> {
        match self {
            Self::Committed(position) => Some(position),
            _ => None,
        }
    }
}

fn ended<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("it does not panic")
}

// ---- the role ----

/// Four callers ask in four ways, one of them through another door, while the store is closed.
fn four_ask(other_door: fn(&Door) -> Door, fails_at: Option<usize>) {
    let stage = Stage::new(fails_at);
    let other = other_door(&stage.door);
    let callers = [
        stage.start(|door, request| Told::of(door.append(request, LONG).map(Some))),
        stage.start(move |_, request| Told::of(other.append(request, LONG).map(Some))),
        stage.start(|door, request| Told::of(door.append_within(request, SHORT))),
        stage.start(|door, request| {
            Told::of(door.submit(request, LONG).map(|answer| Some(answer.wait().open())))
        }),
    ];
    let store = stage.store.clone();
    let closer = thread::spawn(move || store.close());
    let told = callers.map(ended);
    ended(closer);
    let may_fail = fails_at.is_some();
    assert!(may_fail || !told.contains(&Told::Failed), "{told:?}");
    stage.end(told);
}

#[test]
fn single_writer_answers_each_request_once() {
    holds("writer's role", || four_ask(Door::clone, None));
}

#[test]
fn a_failed_write_answers_every_request() {
    holds("writer's role, poisoned", || four_ask(Door::clone, Some(1)));
}

#[test]
fn a_second_role_is_found() {
    /// Makes a writer of the same log, keys and board, behind a lock of its own.
    fn second_role(door: &Door) -> Door {
        let writer = door.role.lock();
        let (len_max, bytes_max) = (writer.options.queue_len_max, writer.options.queue_bytes_max);
        let (outbox, inbox) =
            queue::queue(len_max, bytes_max, writer.health.clone(), door.outbox.due.clone());
        let second = Writer {
            rules: writer.rules.clone(),
            options: writer.options.clone(),
            clock: writer.clock.clone(),
            time: Trusted::new(writer.clock.clone(), &writer.board.load().head, &writer.options),
            log: writer.log.clone(),
            keys: writer.keys.clone(),
            board: writer.board.clone(),
            inbox,
            health: writer.health.clone(),
            flusher: None,
            groups: 0,
            lease: None,
        };
        Door { outbox, role: Arc::new(Mutex::new(second)), lockstep: false, released: Arc::default() }
    }
    finds("writer's role: two threads have one each", || four_ask(second_role, None));
}

// ---- the lease ----

/// Operations of a lease holder on the writer.
#[derive(Clone, Copy)]
struct Use {
    append: fn(Held<'_>, Box<Prepared>) -> Told,
    give_back: fn(Held<'_>),
}

const RIGHT: Use =
    Use { append: |held, request| Told::of(held.append(request, LONG)), give_back: |held| drop(held) };

/// One holds the writer for a short time, one as long as it needs, one gives it back unused; and one asks without a lease.
fn three_hold(used: Use) {
    let stage = Stage::new(None);
    let board = stage.store.reader().board.clone();
    let callers = [
        stage.start(move |door, request| {
            (used.append)(door.hold("short", SHORT, LONG).expect("it is given back"), request)
        }),
        stage.start(move |door, request| {
            let held = door.hold("long", LONG, LONG).expect("it is given back");
            let before = board.load().head.position.get();
            let told = Told::of(held.append(request, LONG));
            assert_eq!(told, Told::Committed(before + 1), "nobody came between");
            told
        }),
        stage.start(move |door, _| {
            (used.give_back)(door.hold("unused", LONG, LONG).expect("it is given back"));
            Told::Withdrawn
        }),
        stage.start(|door, request| Told::of(door.append(request, LONG).map(Some))),
    ];
    let told = callers.map(ended);
    assert_eq!(told.iter().filter(|told| told.place().is_some()).count(), 3, "{told:?}");
    stage.end(told);
}

#[test]
fn lease_excludes_others_and_is_released() {
    holds("lease", || three_hold(RIGHT));
}

#[test]
fn holder_writing_after_lease_expiry_is_found() {
    let append = |held: Held<'_>, request| {
        let answered = held.door.role.lock().serve_alone(request);
        Told::of(Ok(Some(answered)))
    };
    finds("lease: a holder whose time is over writes all the same", move || {
        three_hold(Use { append, ..RIGHT });
    });
}

#[test]
fn unreleased_lease_is_found() {
    let give_back = |held: Held<'_>| std::mem::forget(held);
    finds("lease: it is never given back", move || three_hold(Use { give_back, ..RIGHT }));
}

#[test]
fn lease_release_without_wakeup_is_found() {
    let give_back = |held: Held<'_>| {
        held.door.role.lock().lease = None;
        std::mem::forget(held);
    };
    finds("lease: it is given back and nobody is woken", move || three_hold(Use { give_back, ..RIGHT }));
}
