//! How load is put on an engine: blocking clients, or one submitter with a number in flight.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};
use tallystone::Store;
use tallystone::store::Commit;

use super::workload;

/// What is measured. Work is told by number; `numbers` are the events of one commit.
pub trait Engine: Sync {
    type Ticket;

    fn submit(&self, numbers: Range<u64>) -> Self::Ticket;
    fn wait(&self, ticket: Self::Ticket);

    /// One commit, waited for.
    fn append(&self, numbers: Range<u64>) {
        self.wait(self.submit(numbers));
    }

    /// Ends what still goes on behind the answers, so that the next engine has the machine to itself.
    fn settle(&self) {}
}

impl Engine for Store {
    type Ticket = Commit;

    fn submit(&self, numbers: Range<u64>) -> Commit {
        Store::submit(self, workload::append(numbers))
    }

    fn wait(&self, ticket: Commit) {
        let committed = ticket.wait().expect("the append is good");
        assert!(!committed.replayed, "work is never given twice");
    }

    fn append(&self, numbers: Range<u64>) {
        let committed = Store::append(self, workload::append(numbers)).expect("the append is good");
        assert!(!committed.replayed, "work is never given twice");
    }

    fn settle(&self) {
        while self.stats().frozen_bytes > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Numbers nobody has been given yet.
#[derive(Default)]
pub struct Numbers(AtomicU64);

impl Numbers {
    /// `len` numbers, for one commit.
    pub fn take(&self, len: u64) -> Range<u64> {
        let first = self.0.fetch_add(len, Ordering::Relaxed);
        first..first + len
    }
}

/// The shape of a load.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// So many threads, each waits for its answer.
    Clients(usize),
    /// One thread, so many unanswered.
    InFlight(usize),
    /// One thread, so many events in each commit, each waited for.
    Batch(u64),
}

/// What one round took.
#[derive(Debug)]
pub struct Run {
    pub events: u64,
    pub elapsed: Duration,
    /// From the call to the answer, sorted.
    pub waits: Vec<Duration>,
}

impl Run {
    /// Of commits with so many events each.
    fn new(events: u64, began: Instant, mut waits: Vec<Duration>) -> Self {
        let elapsed = began.elapsed();
        waits.sort_unstable();
        Self { events: events * waits.len() as u64, elapsed, waits }
    }

    pub fn per_second(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    /// The wait that this share of all waits stays below.
    pub fn wait_at(&self, share: f64) -> Duration {
        let last = self.waits.len() - 1;
        self.waits[((self.waits.len() as f64 * share) as usize).min(last)]
    }
}

/// When a round ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    Commits(u64),
    Passed(Duration),
}

/// Counts a round down.
struct Clock {
    until: Until,
    began: Instant,
    commits: AtomicU64,
}

impl Clock {
    fn start(until: Until) -> Self {
        Self { until, began: Instant::now(), commits: AtomicU64::new(0) }
    }

    /// One more commit, unless the round is over.
    fn tick(&self) -> bool {
        let commits = self.commits.fetch_add(1, Ordering::Relaxed);
        match self.until {
            Until::Commits(limit) => commits < limit,
            Until::Passed(limit) => self.began.elapsed() < limit,
        }
    }
}

impl Load {
    /// Puts load on the engine until the round ends.
    pub fn drive<E: Engine>(self, engine: &E, numbers: &Numbers, until: Until) -> Run {
        let run = match self {
            Load::Clients(1) => batches(engine, numbers, 1, until),
            Load::Clients(clients) => blocking(engine, numbers, clients, until),
            Load::InFlight(depth) => in_flight(engine, numbers, depth, until),
            Load::Batch(len) => batches(engine, numbers, len, until),
        };
        engine.settle();
        run
    }

    /// Events in one commit.
    pub fn events(self) -> u64 {
        if let Load::Batch(len) = self { len } else { 1 }
    }
}

fn batches<E: Engine>(engine: &E, numbers: &Numbers, len: u64, until: Until) -> Run {
    let mut waits = Vec::new();
    let clock = Clock::start(until);
    while clock.tick() {
        waits.push(timed(|| engine.append(numbers.take(len))));
    }
    Run::new(len, clock.began, waits)
}

fn blocking<E: Engine>(engine: &E, numbers: &Numbers, clients: usize, until: Until) -> Run {
    let (clock, ready) = (OnceLock::new(), Barrier::new(clients + 1));
    let client = || {
        let mut waits = Vec::new();
        ready.wait();
        let clock: &Clock = clock.get_or_init(|| Clock::start(until));
        while clock.tick() {
            waits.push(timed(|| engine.append(numbers.take(1))));
        }
        waits
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        ready.wait();
        let waits =
            threads.into_iter().flat_map(|thread| thread.join().expect("clients do not panic")).collect();
        Run::new(1, clock.get().expect("a client has started it").began, waits)
    })
}

fn in_flight<E: Engine>(engine: &E, numbers: &Numbers, depth: usize, until: Until) -> Run {
    let mut waiting = VecDeque::with_capacity(depth);
    let mut waits = Vec::new();
    let mut answer = |(ticket, since): (E::Ticket, Instant)| {
        engine.wait(ticket);
        waits.push(since.elapsed());
    };
    let clock = Clock::start(until);
    while clock.tick() {
        if waiting.len() == depth {
            waiting.pop_front().into_iter().for_each(&mut answer);
        }
        let since = Instant::now();
        waiting.push_back((engine.submit(numbers.take(1)), since));
    }
    waiting.into_iter().for_each(answer);
    Run::new(1, clock.began, waits)
}

fn timed(run: impl FnOnce()) -> Duration {
    let began = Instant::now();
    run();
    began.elapsed()
}
