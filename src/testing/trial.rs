//! A transaction on the model: the lines it must be told, and its expected outcome.
//!
//! - It records its reads, and asks every event since, one by one, whether it changes one of them.
//! - Chance is the store's: the model is told each draw, and holds the store to it from then on.

use super::decision::{Plan, Refusal, Step, Which, answer, first_free, line};
use super::model::{AllRows, Model, RowName, Verdict};
use super::twin::Try;
use super::workload::{Ask, Fact, Request};
use crate::error::{Conflict, TxError};
use crate::order::Timestamp;
use crate::request::{Committed, Receipt};

/// A transaction under way.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The position at which it stands.
    pub head: u64,
    /// The commit at which it stands.
    pub commit: u64,
    /// Time of the transaction, in microseconds.
    now: u64,
    /// Time of rows that it changes itself, in microseconds.
    row_time: u64,
    rows: AllRows,
    own: Vec<Fact>,
    reads: Vec<ModelRead>,
    guesses: Vec<Guess>,
    failed: Option<Failed>,
}

/// A read that it depends on.
#[derive(Debug, Clone)]
enum ModelRead {
    Row(RowName),
    /// Both ends included.
    Seats((u32, u32), (u32, u32)),
    Prices((u32, u32), (u32, u32)),
    Events(Ask),
}

/// A result that its own events may have a part in, with their number then. It must be the same where it commits.
#[derive(Debug, Clone)]
struct Guess {
    after: usize,
    look: GuessedRead,
    told: String,
}

/// Read that gave a [`Guess`].
#[derive(Debug, Clone, Copy)]
enum GuessedRead {
    Row(RowName),
    Seats((u32, u32), (u32, u32), Which),
    Prices((u32, u32), (u32, u32)),
    /// Events, which have a position.
    Events,
}

impl GuessedRead {
    /// Returns whether this event changes rows of the projection.
    fn may_see(self, fact: &Fact) -> bool {
        let money = matches!(fact, Fact::Opened(..) | Fact::Took(..) | Fact::Got(..));
        let booking = matches!(fact, Fact::Reserved(..) | Fact::Freed(..));
        match self {
            Self::Row(RowName::Balance(_)) => money,
            Self::Row(RowName::Count(_)) => money || booking,
            Self::Row(RowName::Seat(..) | RowName::Price(..)) => booking,
            Self::Seats(..) | Self::Prices(..) => booking,
            Self::Events => true,
        }
    }

    fn told(self, rows: &AllRows) -> String {
        match self {
            Self::Row(name) => row(rows, name),
            Self::Seats(from, to, which) => line(seats(rows, from, to, which)),
            Self::Prices(from, to) => {
                let all = rows.prices.iter().filter(|(key, _)| from <= **key && **key <= to);
                line(all.map(|(key, row)| (*key, row.0)).collect::<Vec<_>>())
            }
            Self::Events => String::new(),
        }
    }
}

fn row(rows: &AllRows, name: RowName) -> String {
    match name {
        RowName::Balance(account) => line(rows.balances.get(&account).map(|row| row.0)),
        RowName::Seat(show, seat) => line(rows.seats.get(&(show, seat)).map(|row| row.0)),
        RowName::Count(kind) => line(rows.counts.get(kind).map(|row| row.0)),
        RowName::Price(show, seat) => line(rows.prices.get(&(show, seat)).map(|row| row.0)),
    }
}

fn seats(rows: &AllRows, from: (u32, u32), to: (u32, u32), which: Which) -> Vec<((u32, u32), u32)> {
    let within = rows.seats.iter().filter(|(key, _)| from <= **key && **key <= to);
    let mut found: Vec<_> = within.map(|(key, row)| (*key, row.0)).collect();
    match which {
        Which::All => {}
        Which::First(limit) => found.truncate(limit),
        Which::Last(limit) => {
            found.reverse();
            found.truncate(limit);
        }
    }
    found
}

/// Failure of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// A projection refuses an event of the transaction: its index.
    Fold(&'static str, usize),
    /// A limit.
    TooLarge(&'static str),
    /// A query begins after this position, which its snapshot does not reach.
    BeyondHead(u64),
}

/// Reason why a decision stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The decision says no.
    Refused(Refusal),
    /// An operation failed.
    Failed(Failed),
}

/// Expected outcome of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Nothing is to be committed.
    ReadOnly(u64),
    /// The decision said no.
    Refused(Refusal),
    /// An operation failed.
    Failed(Failed),
    /// An operation failed, and the decision said yes all the same.
    Swallowed,
    /// Each of these events changed what was read.
    Conflict(Vec<u64>),
    /// Its snapshot is too old to judge, or its time cannot be the time of a commit any more.
    TooOld,
    /// The verdict on the request of the decision.
    Said(Verdict),
}

impl Ending {
    /// Returns the outcome in a word, to be counted.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ReadOnly(_) => "tx read only",
            Self::Refused(_) => "tx refused",
            Self::Failed(_) => "tx failed",
            Self::Swallowed => "tx poisoned",
            Self::Conflict(_) => "tx conflict",
            Self::TooOld => "tx too old",
            Self::Said(Verdict::Committed { replayed: true, .. }) => "tx replayed",
            Self::Said(Verdict::Committed { .. }) => "tx committed",
            Self::Said(Verdict::KeyReused(..)) => "tx key reused",
            Self::Said(_) => "tx refused by the writer",
        }
    }
}

impl ModelRead {
    fn is_changed_by(&self, model: &Model, position: u64) -> bool {
        let event = model.event(position);
        match self {
            Self::Row(name) => event.changed.contains(name),
            Self::Seats(from, to) => event.changed.iter().any(|name| match name {
                RowName::Seat(show, seat) => (*from..=*to).contains(&(*show, *seat)),
                _ => false,
            }),
            Self::Prices(from, to) => event.changed.iter().any(|name| match name {
                RowName::Price(show, seat) => (*from..=*to).contains(&(*show, *seat)),
                _ => false,
            }),
            Self::Events(ask) => {
                position > ask.after
                    && ask.up_to.is_none_or(|up_to| position <= up_to)
                    && ask.matches(&event.fact)
            }
        }
    }
}

impl Trial {
    /// Begins a transaction at this time.
    pub fn begin(model: &Model, time: u64) -> Self {
        Self {
            head: model.position(),
            commit: model.commit(),
            now: time,
            row_time: time.max(model.time(Timestamp::from_micros(0))),
            rows: model.rows.clone(),
            own: Vec::new(),
            reads: Vec::new(),
            guesses: Vec::new(),
            failed: None,
        }
    }

    /// Returns whether a store that has flushed up to this commit may have forgotten changes of its reads: changes of rows are
    /// kept for a while only.
    pub fn may_be_too_old(&self, flushed: u64) -> bool {
        flushed > self.commit && self.reads.iter().any(|read| !matches!(read, ModelRead::Events(_)))
    }

    /// Repeats a try of the closure form.
    ///
    /// # Errors
    ///
    /// A line that it was told and must not have been.
    pub fn run(
        model: &Model,
        plan: &Plan,
        time: u64,
        tried: &Try,
    ) -> Result<(Self, Result<u64, Stop>), String> {
        let mut trial = Self::begin(model, time);
        if trial.head != tried.head {
            return Err(format!("{plan:?} was tried at {}, not {}", tried.head, trial.head));
        }
        let (mut told, mut stopped) = (Vec::new(), None);
        for step in &plan.steps {
            match trial.step(model, step, tried.told.get(told.len()).map(String::as_str)) {
                Ok(line) => told.push(line),
                Err(Stop::Failed(_)) if plan.swallows => {}
                Err(stop) => {
                    stopped = Some(stop);
                    break;
                }
            }
        }
        if told != tried.told {
            return Err(format!("{plan:?}\n  must be told {told:?}\n  is told {:?}", tried.told));
        }
        Ok((trial, stopped.map_or_else(|| Ok(answer(&told)), Err)))
    }

    /// Runs one step, and returns the line it must be told. `told` is the line it was told, for the steps that ask for chance.
    ///
    /// # Errors
    ///
    /// The reason why it ends here.
    pub fn step(&mut self, model: &Model, step: &Step, told: Option<&str>) -> Result<String, Stop> {
        if let Some(failed) = &self.failed {
            return Err(Stop::Failed(failed.clone()));
        }
        let stepped = self.go(model, step, told);
        if let Err(Stop::Failed(failed)) = &stepped {
            self.failed = Some(failed.clone());
        }
        stepped
    }

    fn go(&mut self, model: &Model, step: &Step, told: Option<&str>) -> Result<String, Stop> {
        Ok(match step {
            Step::Row(name) => {
                self.reads.push(ModelRead::Row(*name));
                self.look(GuessedRead::Row(*name))
            }
            Step::PeekRow(name) => row(&self.rows, *name),
            Step::Seats(from, to, which) => line(self.seats(*from, *to, *which)),
            Step::Prices(from, to) => {
                self.reads.push(ModelRead::Prices(*from, *to));
                self.look(GuessedRead::Prices(*from, *to))
            }
            Step::Stream(account) => {
                let ask = Ask::stream(format!("money/{account}"));
                let found = self.events(model, &ask).into_iter();
                let found = found.map(|(position, version, fact)| (position, version, fact.clone()));
                let found = line(found.collect::<Vec<_>>());
                self.rest_on(model, &ask);
                found
            }
            Step::Query(ask) | Step::PeekQuery(ask) if ask.after > self.head => {
                return Err(Stop::Failed(Failed::BeyondHead(ask.after)));
            }
            Step::Query(ask) => {
                self.rest_on(model, ask);
                self.places(model, ask)
            }
            Step::PeekQuery(ask) => self.places(model, ask),
            Step::Narrow(ask) => {
                self.reads = vec![ModelRead::Events(ask.clone())];
                self.guesses.clear();
                line(())
            }
            Step::Append(fact) => line(self.append(model, fact.clone())?),
            Step::Transfer(from, to, cents, number) => {
                for account in [from, to].map(|account| RowName::Balance(*account)) {
                    self.reads.push(ModelRead::Row(account));
                    self.look(GuessedRead::Row(account));
                }
                let balance = |account| self.rows.balances.get(account).map(|row| row.0);
                let (has, other) = (balance(from), balance(to));
                if has.is_none_or(|has| has < *cents) || other.is_none() {
                    return Err(Stop::Refused("not enough money"));
                }
                self.append(model, Fact::Took(*from, *cents, *number))?;
                self.append(model, Fact::Got(*to, *cents, *number))?;
                line((has, other))
            }
            Step::Book(show, who) => {
                let taken = self.seats((*show, 0), (*show, u32::MAX), Which::All);
                let seat = first_free(taken.iter().map(|((_, seat), _)| *seat));
                let seat = seat.ok_or(Stop::Refused("sold out"))?;
                self.append(model, Fact::Reserved(*show, seat, *who))?;
                line(taken)
            }
            Step::Claim(name, by) => {
                let ask = Ask::tagged(format!("name:{name}"));
                let taken = !self.events(model, &ask).is_empty();
                self.rest_on(model, &ask);
                if taken {
                    return Err(Stop::Refused("taken"));
                }
                line(self.append(model, Fact::Claimed(*name, *by))?)
            }
            Step::Once(number) => {
                let fact = Fact::Once(*number);
                let ask = Ask::stream(fact.stream());
                let first = self.events(model, &ask).is_empty();
                self.reads.push(ModelRead::Events(ask));
                if first {
                    self.append(model, fact)?;
                }
                line(first)
            }
            Step::Draw(number) => {
                let mut pad = self.now.to_le_bytes().to_vec();
                pad.extend(told.and_then(chance).unwrap_or_default());
                self.append(model, Fact::Told(*number, pad.clone()))?;
                line(pad)
            }
        })
    }

    /// Reads, and records the result as a guess if its own events may have a part in it.
    fn look(&mut self, look: GuessedRead) -> String {
        let told = look.told(&self.rows);
        if self.own.iter().any(|fact| look.may_see(fact)) {
            self.guesses.push(Guess { after: self.own.len(), look, told: told.clone() });
        }
        told
    }

    /// Reads seats, and depends on the range that was read: up to the last row, if there may be more.
    fn seats(&mut self, from: (u32, u32), to: (u32, u32), which: Which) -> Vec<((u32, u32), u32)> {
        let found = seats(&self.rows, from, to, which);
        let (mut lowest, mut highest) = (from, to);
        match which {
            Which::First(limit) if found.len() == limit => highest = found[limit - 1].0,
            Which::Last(limit) if found.len() == limit => lowest = found[limit - 1].0,
            _ => {}
        }
        self.look(GuessedRead::Seats(from, to, which));
        self.reads.push(ModelRead::Seats(lowest, highest));
        found
    }

    /// Returns the answer to a query, its own events included: position, stream version, event.
    fn events<'a>(&'a self, model: &'a Model, ask: &Ask) -> Vec<(u64, u64, &'a Fact)> {
        let stored = (1..=self.head).map(|position| {
            let event = model.event(position);
            (position, event.stream_version, &event.fact)
        });
        let own = self.own.iter().enumerate().map(|(index, fact)| {
            let stream = fact.stream();
            let before = (1..=self.head).filter(|position| model.event(*position).fact.stream() == stream);
            let earlier = self.own[..=index].iter().filter(|earlier| earlier.stream() == stream);
            (self.head + 1 + index as u64, (before.count() + earlier.count()) as u64, fact)
        });
        let within = |position| position > ask.after && ask.up_to.is_none_or(|up_to| position <= up_to);
        let mut found: Vec<_> =
            stored.chain(own).filter(|(position, _, fact)| within(*position) && ask.matches(fact)).collect();
        if ask.backwards {
            found.reverse();
        }
        found.truncate(ask.limit.unwrap_or(usize::MAX));
        found
    }

    fn places(&self, model: &Model, ask: &Ask) -> String {
        let place = |(position, version, fact): (u64, u64, &Fact)| {
            (position, version, fact.type_name().to_owned(), fact.data().len())
        };
        line(self.events(model, ask).into_iter().map(place).collect::<Vec<_>>())
    }

    /// Depends on a query if an event can still change it: nothing can come before what was there already, so events fill a limit
    /// for ever if the oldest come first.
    fn rest_on(&mut self, model: &Model, ask: &Ask) {
        let there = model.answer(ask, self.head).len();
        if ask.backwards || ask.limit.is_none_or(|limit| there < limit) {
            self.reads.push(ModelRead::Events(ask.clone()));
            // The positions of its own events are part of the answer, and so is whether they are in the range.
            let past = ask.up_to.is_some_and(|up_to| up_to <= self.head);
            if !past && self.own.iter().any(|fact| ask.matches(fact)) {
                self.look(GuessedRead::Events);
            }
        }
    }

    fn append(&mut self, model: &Model, fact: Fact) -> Result<(), Stop> {
        if fact.data().len() > model.limits.event_bytes_max {
            return Err(Stop::Failed(Failed::TooLarge("event (bytes)")));
        }
        let index = self.own.len();
        let folded = self.rows.fold(&fact, self.head + 1 + index as u64, self.row_time);
        folded.map_err(|projection| Stop::Failed(Failed::Fold(projection, index)))?;
        self.own.push(fact);
        Ok(())
    }

    /// Returns whether it would be told the same of its own events if it ran on `model` as it is, at this time. An error: the
    /// projection that refuses one of them, and the index of the event.
    fn tells_the_same(&self, model: &Model, micros: u64) -> Result<bool, (&'static str, usize)> {
        let moved = (model.position(), micros) != (self.head, self.row_time);
        if moved && self.guesses.iter().any(|guess| matches!(guess.look, GuessedRead::Events)) {
            return Ok(false);
        }
        let mut rows = model.rows.clone();
        for (index, fact) in self.own.iter().enumerate() {
            let folded = rows.fold(fact, model.position() + 1 + index as u64, micros);
            folded.map_err(|projection| (projection, index))?;
            let mut here = self.guesses.iter().filter(|guess| guess.after == index + 1);
            if here.any(|guess| guess.look.told(&rows) != guess.told) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the events up to `through` that changed what it depends on.
    fn changed(&self, model: &Model, through: u64) -> Vec<u64> {
        let since = self.head + 1..=through;
        since.filter(|position| self.reads.iter().any(|read| read.is_changed_by(model, *position))).collect()
    }
}

/// Returns the id and the random number among the bytes it was told.
fn chance(told: &str) -> Option<Vec<u8>> {
    let bytes = told.trim_matches(['[', ']']).split(", ").map(|byte| byte.parse().ok());
    bytes.collect::<Option<Vec<u8>>>()?.get(8..32).map(<[u8]>::to_vec)
}

impl Failed {
    fn is<E>(&self, error: &TxError<E>) -> bool {
        match (self, error) {
            (Self::Fold(name, at), TxError::Fold { projection, index, .. }) => {
                (name, at) == (projection, index)
            }
            (Self::TooLarge(limit), TxError::TooLarge { what, .. }) => limit == what,
            (Self::BeyondHead(after), TxError::BeyondHead { position, .. }) => position.get() == *after,
            _ => false,
        }
    }
}

impl Stop {
    /// Returns whether the store stops for the same reason.
    pub fn is(&self, error: &TxError<Refusal>) -> bool {
        match (self, error) {
            (Self::Refused(must), TxError::Refused(why)) => must == why,
            (Self::Failed(failed), error) => failed.is(error),
            _ => false,
        }
    }
}

// ---- what comes of it ----

/// Mark of a stored answer that is a `u64`, as the store writes it. It never changes: old answers could not be read.
const MARK: [u8; 8] = [42, 43, 126, 6, 219, 84, 125, 10];

/// The store's answer.
pub type Answered = Result<Committed<u64>, TxError<Refusal>>;

impl Model {
    /// Returns the expected outcome of a decision, if the caller's thread sees everything up to `seen`. Applies it if it is
    /// committed.
    pub fn conclude(
        &mut self,
        trial: &Trial,
        plan: &Plan,
        decided: &Result<u64, Stop>,
        seen: u64,
        now: Timestamp,
    ) -> Ending {
        let answer = match (decided, &trial.failed) {
            (Ok(_), Some(_)) => return Ending::Swallowed,
            (Err(Stop::Failed(failed)), _) | (_, Some(failed)) => return Ending::Failed(failed.clone()),
            (Err(Stop::Refused(why)), None) => return Ending::Refused(why),
            (Ok(answer), None) => *answer,
        };
        if trial.own.is_empty() && plan.request.key.is_none() {
            return Ending::ReadOnly(answer);
        }
        let response = plan.request.key.is_some().then(|| [MARK, answer.to_le_bytes()].concat());
        let request = Request { facts: trial.own.clone(), response, ..plan.request.clone() };
        if let Some(verdict) = self.over_limits(&request) {
            return Ending::Said(verdict);
        }
        // The caller's thread looks for itself before it asks the writer, who knows the keys.
        let changed = trial.changed(self, seen);
        if !changed.is_empty() {
            return Ending::Conflict(changed);
        }
        // A row that holds the time of its event was read with the time at which the decision began.
        let times = self.time(Timestamp::from_micros(0))..=self.time(now);
        let guessed = !trial.guesses.is_empty() && times.contains(&trial.row_time);
        let micros = if guessed { trial.row_time } else { *times.end() };
        if let Some(verdict) = self.recall(&request, micros) {
            return Ending::Said(verdict);
        }
        let changed = trial.changed(self, self.position());
        if !changed.is_empty() {
            return Ending::Conflict(changed);
        }
        let between: Vec<u64> = (trial.head + 1..=self.position()).collect();
        match trial.tells_the_same(self, micros) {
            Ok(true) => Ending::Said(self.apply(&request, Some(answer), micros)),
            Ok(false) if between.is_empty() => Ending::TooOld,
            Ok(false) => Ending::Conflict(between),
            Err((projection, index)) => Ending::Said(Verdict::Fold(projection, index)),
        }
    }

    /// Returns whether the store's answer is the expected one.
    pub fn ends(&self, ending: &Ending, trial: Option<&Trial>, answer: &Answered) -> bool {
        match (ending, answer) {
            (Ending::ReadOnly(must), Ok(committed)) => {
                let Receipt { commit, first, last, .. } = &committed.receipt;
                let stood = trial.map(|trial| (trial.commit, trial.head + 1, trial.head));
                !committed.replayed
                    && committed.response == *must
                    && stood == Some((commit.get(), first.get(), last.get()))
            }
            (Ending::Refused(must), Err(TxError::Refused(why))) => must == why,
            (Ending::Failed(failed), Err(error)) => failed.is(error),
            (Ending::Swallowed, Err(TxError::Swallowed(_))) | (Ending::TooOld, Err(TxError::TooOld)) => true,
            (Ending::Conflict(changed), Err(TxError::Conflict(conflict))) => {
                let Conflict { position, type_name, stream, snapshot, .. } = &**conflict;
                changed.contains(&position.get())
                    && self.event(position.get()).fact.type_name() == type_name
                    && self.event(position.get()).fact.stream() == *stream
                    && trial.is_some_and(|trial| trial.head == snapshot.get())
            }
            (Ending::Said(Verdict::Committed { commit, replayed }), Ok(committed)) => {
                committed.replayed == *replayed
                    && self.answer_of(*commit) == Some(committed.response)
                    && self.is_receipt(*commit, &committed.receipt)
            }
            (Ending::Said(Verdict::KeyReused(by, differs)), Err(TxError::KeyReused { part, commit })) => {
                (*by, differs) == (commit.get(), part)
            }
            (Ending::Said(Verdict::Fold(name, at)), Err(TxError::Fold { projection, index, .. })) => {
                (name, at) == (projection, index)
            }
            (Ending::Said(Verdict::TooLarge(limit)), Err(TxError::TooLarge { what, .. })) => limit == what,
            _ => false,
        }
    }
}
