//! Small transactions in every order of their steps, and the serial runs that say which outcomes are right.
//!
//! - A *program* is a transaction in steps. It begins with its first step, and its last turn commits it. A *schedule* says whose
//!   turn it is; turns never overlap, on however many threads they are taken.
//! - Cells of numbers are all the data there is. A table is a hundred of them. Each program reads in one of three [`Form`]s.
//! - The oracle is the store itself, with one transaction at a time: an outcome is right if the transactions, alone and in the
//!   order of their commits, see the same and leave the same.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex};
use tallystone::prelude::*;
use tallystone::request::Retry;

// ---- data ----

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Cell {
    Set { cell: u32, value: i64 },
    Removed { cell: u32 },
}

impl Event for Cell {
    const FAMILY: &str = "cell";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Set { cell, .. } | Self::Removed { cell }) = self;
        *cell
    }

    fn tags(&self) -> Tags {
        Tags::of("table", table_of(self.id()))
    }
}

const TABLE: u32 = 100;

fn table_of(cell: u32) -> u32 {
    cell / TABLE
}

pub struct Cells;

impl Projection for Cells {
    const NAME: &str = "cells";
    type Event = Cell;
    type Key = u32;
    type Row = i64;

    fn fold(event: &Cell, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Cell::Set { cell, value } => rows.put(*cell, *value),
            Cell::Removed { cell } => rows.remove(cell),
        }
    }
}

pub type State = Vec<(u32, i64)>;

/// A store in memory with these cells. Cheap: it has no threads.
pub fn fresh(base: &[(u32, i64)]) -> Store {
    let store = Store::in_memory(Setup::new().inline::<Cells>().lockstep()).expect("a store in memory opens");
    fill(&store, base);
    store
}

pub fn fill(store: &Store, base: &[(u32, i64)]) {
    let set = |(cell, value): &(u32, i64)| Cell::Set { cell: *cell, value: *value };
    store.append(Append::events(base.iter().map(set))).expect("nothing refuses it");
}

pub fn state(store: &Store) -> State {
    let view = store.view().expect("the store is open");
    let rows = view.rows::<Cells>(..).collect::<Result<State, _>>().expect("rows can be read");
    let events =
        view.query::<Cell>(QueryItem::family::<Cell>()).map(|event| event.expect("events can be read").event);
    assert_eq!(rows, folded(events), "rows are those of the events");
    rows
}

fn folded(events: impl IntoIterator<Item = Cell>) -> State {
    let mut cells = BTreeMap::new();
    for event in events {
        match event {
            Cell::Set { cell, value } => drop(cells.insert(cell, value)),
            Cell::Removed { cell } => drop(cells.remove(&cell)),
        }
    }
    cells.into_iter().collect()
}

// ---- programs ----

/// How a program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Streams, and queries by tag or type.
    Events,
    /// Rows, and ranges of rows.
    Rows,
    /// Events that are no condition of the commit: what a store without validation would do.
    Untracked,
}

/// One transaction while it runs, and what it has seen so far.
pub struct Session<'t, 's> {
    tx: &'t mut Tx<'s>,
    form: Form,
    seen: &'t mut Vec<String>,
}

impl Session<'_, '_> {
    /// The value of a cell.
    pub fn get(&mut self, cell: u32) -> i64 {
        let value = match self.form {
            Form::Rows => self.tx.row::<Cells>(&cell).expect("rows can be read"),
            _ => self.events(QueryItem::stream::<Cell>(&cell)).first().map(|(_, value)| *value),
        };
        self.seen.push(value.map_or_else(|| "none".into(), |value| value.to_string()));
        value.unwrap_or_default()
    }

    /// All cells whose value is wanted. Whatever changes any cell changes what it read.
    pub fn all(&mut self, wanted: fn(i64) -> bool) -> State {
        let all = match self.form {
            Form::Rows => self.tx.rows::<Cells>(..).expect("rows can be read"),
            _ => self.events(QueryItem::family::<Cell>()),
        };
        self.select(all, wanted)
    }

    /// Those of one table.
    pub fn table(&mut self, table: u32, wanted: fn(i64) -> bool) -> State {
        let all = match self.form {
            Form::Rows => {
                self.tx.rows::<Cells>(table * TABLE..(table + 1) * TABLE).expect("rows can be read")
            }
            _ => self.events(QueryItem::tag("table", table)),
        };
        self.select(all, wanted)
    }

    fn events(&self, item: QueryItem) -> State {
        let found = match self.form {
            Form::Untracked => self.tx.peek_query::<Cell>(item),
            _ => self.tx.query::<Cell>(item),
        };
        folded(found.expect("events can be read").into_iter().map(|event| event.event))
    }

    fn select(&mut self, all: State, wanted: fn(i64) -> bool) -> State {
        let found: State = all.into_iter().filter(|(_, value)| wanted(*value)).collect();
        let values: Vec<_> = found.iter().map(|(_, value)| value.to_string()).collect();
        self.seen.push(values.join(","));
        found
    }

    /// What was read last, in words.
    pub fn last(&self) -> &str {
        self.seen.last().map_or("", String::as_str)
    }

    pub fn set(&mut self, cell: u32, value: i64) {
        self.tx.append(Cell::Set { cell, value }).expect("nothing refuses it");
    }

    pub fn remove(&mut self, cell: u32) {
        self.tx.append(Cell::Removed { cell }).expect("nothing refuses it");
    }
}

pub type Step = fn(&mut Session<'_, '_>);

#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub steps: &'static [Step],
    /// Its last turn gives up instead.
    pub gives_up: bool,
}

pub const fn program(steps: &'static [Step]) -> Program {
    Program { steps, gives_up: false }
}

pub const fn given_up(steps: &'static [Step]) -> Program {
    Program { steps, gives_up: true }
}

/// Cells, and the programs that run on them.
#[derive(Debug, Clone)]
pub struct Spec {
    pub base: &'static [(u32, i64)],
    pub programs: Vec<Program>,
}

/// Whose turn it is, from 0.
pub type Schedule = Vec<usize>;

impl Spec {
    /// Every order of the steps, a commit being one more step.
    pub fn schedules(&self) -> Vec<Schedule> {
        fn extend(left: &mut [usize], sofar: &mut Schedule, all: &mut Vec<Schedule>) {
            if left.iter().all(|left| *left == 0) {
                return all.push(sofar.clone());
            }
            for who in 0..left.len() {
                if left[who] > 0 {
                    left[who] -= 1;
                    sofar.push(who);
                    extend(left, sofar, all);
                    sofar.pop();
                    left[who] += 1;
                }
            }
        }
        let mut left: Vec<usize> = self.programs.iter().map(|program| program.steps.len() + 1).collect();
        let mut all = Vec::new();
        extend(&mut left, &mut Vec::new(), &mut all);
        all
    }

    /// One after the other.
    fn serial(&self, order: &[usize]) -> Schedule {
        let turns = |who: &usize| vec![*who; self.programs[*who].steps.len() + 1];
        order.iter().flat_map(turns).collect()
    }
}

// ---- runs ----

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As this commit.
    Committed(u64),
    /// It wrote nothing, and read the state of this commit.
    ReadOnly(u64),
    /// What it had read was changed: the read, in words.
    Conflict(String),
    /// Too much was flushed since it began.
    TooOld,
    GaveUp,
    /// It had no turn.
    NotRun,
}

/// What became of one program.
#[derive(Debug, Clone)]
pub struct Ran {
    pub seen: Vec<String>,
    pub end: End,
    /// Its first and last turn.
    began: usize,
    ended: usize,
}

impl Ran {
    fn new() -> Self {
        Self { seen: Vec::new(), end: End::NotRun, began: usize::MAX, ended: usize::MAX }
    }

    fn at(&mut self, turn: usize) {
        self.began = self.began.min(turn);
        self.ended = turn;
    }

    pub fn committed(&self) -> bool {
        matches!(self.end, End::Committed(_) | End::ReadOnly(_))
    }

    pub fn lost(&self) -> bool {
        matches!(self.end, End::Conflict(_) | End::TooOld)
    }
}

#[derive(Debug, Clone)]
pub struct Outcome {
    pub all: Vec<Ran>,
    pub last: State,
}

fn end(committed: Result<Committed<()>, TxError<&'static str>>) -> End {
    match committed {
        // Of what was not committed, the receipt is the snapshot's, and holds no event.
        Ok(done) if done.receipt.last < done.receipt.first => End::ReadOnly(done.receipt.commit.get()),
        Ok(done) => End::Committed(done.receipt.commit.get()),
        Err(TxError::Conflict(conflict)) => End::Conflict(conflict.read),
        Err(TxError::TooOld) => End::TooOld,
        Err(TxError::Refused(_)) => End::GaveUp,
        Err(error) => panic!("{error} ({error:?})"),
    }
}

/// By hand, all of them on this thread. `before` is called ahead of each turn.
pub fn run(
    store: &Store,
    spec: &Spec,
    form: Form,
    schedule: &[usize],
    mut before: impl FnMut(usize),
) -> Outcome {
    let mut all: Vec<Ran> = spec.programs.iter().map(|_| Ran::new()).collect();
    let mut running: Vec<(Option<Tx<'_>>, usize)> = spec.programs.iter().map(|_| (None, 0)).collect();
    for (turn, who) in schedule.iter().enumerate() {
        before(turn);
        let (ran, program, (tx, done)) = (&mut all[*who], &spec.programs[*who], &mut running[*who]);
        ran.at(turn);
        let running = tx.get_or_insert_with(|| store.begin(format!("t{}", who + 1)).expect("it begins"));
        match program.steps.get(*done) {
            Some(step) => step(&mut Session { tx: running, form, seen: &mut ran.seen }),
            None => {
                let tx = tx.take().expect("it runs");
                ran.end = match program.gives_up {
                    true => End::GaveUp,
                    false => end(tx.commit(()).map_err(|error| error.map_refusal(|never| match never {}))),
                };
            }
        }
        *done += 1;
    }
    drop(running);
    Outcome { all, last: state(store) }
}

/// Whose turn it is, for threads.
struct Baton<'a> {
    schedule: &'a [usize],
    turn: Mutex<usize>,
    passed: Condvar,
}

const BROKEN: usize = usize::MAX;

impl Baton<'_> {
    /// Waits for one's turn.
    fn take(&self, who: usize) -> usize {
        let mut turn = self.turn.lock().expect("nobody panics in here");
        while *turn != BROKEN && self.schedule.get(*turn).is_some_and(|next| *next != who) {
            turn = self.passed.wait(turn).expect("nobody panics in here");
        }
        let turn = *turn;
        assert!(turn < self.schedule.len(), "another thread panicked, or the schedule is over");
        turn
    }

    fn pass(&self) {
        *self.turn.lock().expect("nobody panics in here") += 1;
        self.passed.notify_all();
    }
}

/// Whoever panics lets the others go.
struct Breaks<'a, 'b>(&'a Baton<'b>);

impl Drop for Breaks<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.0.turn.lock().expect("nobody panics in here") = BROKEN;
            self.0.passed.notify_all();
        }
    }
}

/// Through `transact`, each on its own thread. Who meets a conflict, and may, decides again at once.
pub fn run_on_threads(store: &Store, spec: &Spec, form: Form, schedule: &[usize], retry: Retry) -> Outcome {
    let baton = Baton { schedule, turn: Mutex::new(0), passed: Condvar::new() };
    let one = |who: usize, program: &Program| {
        let _breaks = Breaks(&baton);
        let (mut ran, mut again) = (Ran::new(), false);
        let request = Request::new(format!("t{}", who + 1)).retry(retry);
        // It has its snapshot before its first step.
        ran.at(baton.take(who));
        let committed = store.transact(request, |tx| {
            ran.seen.clear();
            for step in program.steps {
                step(&mut Session { tx: &mut *tx, form, seen: &mut ran.seen });
                if !again {
                    baton.pass();
                    ran.at(baton.take(who));
                }
            }
            again = true;
            if program.gives_up { refuse("given up") } else { Ok(()) }
        });
        ran.end = end(committed);
        baton.pass();
        ran
    };
    let all = std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (spec.programs.iter().enumerate())
            .map(|(who, program)| scope.spawn(move || one(who, program)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    Outcome { all, last: state(store) }
}

// ---- the oracle ----

/// Serial runs, each made once.
pub struct Oracle<'a> {
    spec: &'a Spec,
    serial: HashMap<Vec<usize>, Outcome>,
}

impl<'a> Oracle<'a> {
    pub fn new(spec: &'a Spec) -> Self {
        Self { spec, serial: HashMap::new() }
    }

    /// Whether the transactions that committed, one by one in this order, would have seen and left the same.
    fn agrees(&mut self, order: &[usize], outcome: &Outcome) -> bool {
        let spec = self.spec;
        let serial = self
            .serial
            .entry(order.to_vec())
            .or_insert_with(|| run(&fresh(spec.base), spec, Form::Rows, &spec.serial(order), |_| {}));
        serial.last == outcome.last && order.iter().all(|who| serial.all[*who].seen == outcome.all[*who].seen)
    }

    /// Strictly serializable, with the order of commits for the serial one.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn check(&mut self, outcome: &Outcome) -> Result<(), String> {
        let mut order: Vec<usize> = committed(outcome);
        order.sort_by_key(|who| match outcome.all[*who].end {
            End::Committed(commit) => (commit, false, 0),
            End::ReadOnly(commit) => (commit, true, outcome.all[*who].began),
            _ => unreachable!("only what was committed is ordered"),
        });
        if !keeps_time(&order, outcome) {
            return Err(format!("the order {order:?} is not that of time: {outcome:#?}"));
        }
        match self.agrees(&order, outcome) {
            true => Ok(()),
            false => Err(format!(
                "in a serial run in the order {order:?} it is {:#?}, and it was {outcome:#?}",
                self.serial[&order]
            )),
        }
    }

    /// Strictly serializable in any order at all.
    pub fn explains(&mut self, outcome: &Outcome) -> bool {
        permutations(committed(outcome))
            .iter()
            .any(|order| keeps_time(order, outcome) && self.agrees(order, outcome))
    }
}

fn committed(outcome: &Outcome) -> Vec<usize> {
    (0..outcome.all.len()).filter(|who| outcome.all[*who].committed()).collect()
}

/// Who ended before another began stands before it.
fn keeps_time(order: &[usize], outcome: &Outcome) -> bool {
    let before = |a: &usize, b: &usize| outcome.all[*a].ended < outcome.all[*b].began;
    (0..order.len()).all(|at| !order[at + 1..].iter().any(|later| before(later, &order[at])))
}

fn permutations(of: Vec<usize>) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for at in 0..of.len() {
        let mut rest = of.clone();
        let first = rest.remove(at);
        all.extend(permutations(rest).into_iter().map(|rest| [vec![first], rest].concat()));
    }
    all
}
