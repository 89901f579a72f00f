//! Steps of transactions, drawn from a seed: read, decide on it, write.
//!
//! - They run on a store's `Tx` here, and a second time on the model in `trial`.
//! - Each step is told a line of text. The answer of a decision is a digest of its lines: it is right only if every read was
//!   right.

use super::model::{Model, RowName};
use super::workload::{
    ACCOUNTS, Ask, Balances, CAPACITY, CURSED_SEAT, Counts, Fact, Money, NAMES, Name, Note, Prices, Request,
    SEATS, SHOWS, Seats, Workload, draw_retention, flag,
};
use crate::error::TxError;
use crate::event::{Raw, Sequenced};
use crate::order::Timestamp;
use crate::query::QueryItem;
use crate::request::{self, Retry};
use crate::transaction::{Decision, Tx, refuse};

/// Reason of a refusal.
pub type Refusal = &'static str;

/// One step of a decision.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads a row.
    Row(RowName),
    /// Reads the seats of an inclusive range, which may be the wrong way round.
    Seats((u32, u32), (u32, u32), Which),
    /// Reads the prices of an inclusive range.
    Prices((u32, u32), (u32, u32)),
    /// Reads the events of an account.
    Stream(u32),
    /// Reads events.
    Query(Ask),
    /// Reads a row without depending on it.
    PeekRow(RowName),
    /// Reads events without depending on them.
    PeekQuery(Ask),
    /// Drops the dependency on all reads so far but these events.
    Narrow(Ask),
    /// Writes an event in any case.
    Append(Fact),
    /// Moves money from one account to another, if both exist and it is enough: from, to, cents, number of the transfer.
    Transfer(u32, u32, i64, u64),
    /// Takes the first free seat of a show for somebody.
    Book(u32, u32),
    /// Takes a name that no event claims.
    Claim(u32, u64),
    /// Takes a flag.
    Once(u64),
    /// Asks for the time, an id and a random number, and writes them down under this number.
    Draw(u64),
}

/// Selection of rows of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// The given number of rows from its start.
    First(usize),
    /// The given number of rows from its end, the last first.
    Last(usize),
}

/// A decision, from its request to its answer.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its key; everything else of a request comes from the steps.
    pub request: Request,
    /// Steps in order.
    pub steps: Vec<Step>,
    /// True if it goes on after a failed step, and says yes.
    pub swallows: bool,
    /// Retries after a conflict.
    pub retry: Retry,
}

/// Kinds that `Counts` counts.
const KINDS: [&str; 5] = ["opened", "took", "got", "reserved", "freed"];

impl Step {
    /// Runs the step, and returns the line it was told.
    ///
    /// # Errors
    ///
    /// The transaction's fault, or the decision's refusal.
    pub fn run(&self, tx: &mut Tx<'_>) -> Result<String, TxError<Refusal>> {
        Ok(match self {
            Self::Row(RowName::Balance(account)) => line(tx.row::<Balances>(account)?),
            Self::Row(RowName::Seat(show, seat)) => line(tx.row::<Seats>(&(*show, *seat))?),
            Self::Row(RowName::Count(kind)) => line(tx.row::<Counts>(*kind)?),
            Self::Row(RowName::Price(show, seat)) => line(tx.row::<Prices>(&(*show, *seat))?),
            Self::PeekRow(RowName::Balance(account)) => line(tx.peek_row::<Balances>(account)?),
            Self::PeekRow(RowName::Seat(show, seat)) => line(tx.peek_row::<Seats>(&(*show, *seat))?),
            Self::PeekRow(RowName::Count(kind)) => line(tx.peek_row::<Counts>(*kind)?),
            Self::PeekRow(RowName::Price(show, seat)) => line(tx.peek_row::<Prices>(&(*show, *seat))?),
            Self::Prices(from, to) => line(tx.rows::<Prices>(*from..=*to)?),
            Self::Seats(from, to, Which::All) => line(tx.rows::<Seats>(*from..=*to)?),
            Self::Seats(from, to, Which::First(limit)) => line(tx.first_rows::<Seats>(*from..=*to, *limit)?),
            Self::Seats(from, to, Which::Last(limit)) => line(tx.last_rows::<Seats>(*from..=*to, *limit)?),
            Self::Stream(account) => {
                let of = |found: &Sequenced<Money>| {
                    (found.position.get(), found.stream_version, Fact::from(&found.event))
                };
                line(tx.stream::<Money>(account)?.iter().map(of).collect::<Vec<_>>())
            }
            Self::Query(ask) => line(tx.query::<Raw>(ask.query())?.iter().map(place).collect::<Vec<_>>()),
            Self::PeekQuery(ask) => {
                line(tx.peek_query::<Raw>(ask.query())?.iter().map(place).collect::<Vec<_>>())
            }
            Self::Narrow(ask) => line(tx.only_if_unchanged(ask.query())?),
            Self::Append(fact) => line(tx.append(fact.event())?),
            Self::Transfer(from, to, cents, number) => {
                let (has, other) = (tx.row::<Balances>(from)?, tx.row::<Balances>(to)?);
                if has.is_none_or(|has| has < *cents) || other.is_none() {
                    return refuse("not enough money");
                }
                tx.append(Fact::Took(*from, *cents, *number).event())?;
                tx.append(Fact::Got(*to, *cents, *number).event())?;
                line((has, other))
            }
            Self::Book(show, who) => {
                let taken = tx.rows::<Seats>((*show, 0)..=(*show, u32::MAX))?;
                let Some(seat) = first_free(taken.iter().map(|((_, seat), _)| *seat)) else {
                    return refuse("sold out");
                };
                tx.append(Fact::Reserved(*show, seat, *who).event())?;
                line(taken)
            }
            Self::Claim(name, by) => {
                if !tx.query::<Name>(QueryItem::tag("name", name))?.is_empty() {
                    return refuse("taken");
                }
                line(tx.append(Fact::Claimed(*name, *by).event())?)
            }
            Self::Once(number) => line(tx.once(&flag(*number))?),
            Self::Draw(number) => {
                let mut pad = Timestamp::from(tx.now()).micros().to_le_bytes().to_vec();
                pad.extend(tx.new_id().to_le_bytes());
                pad.extend(tx.random().to_le_bytes());
                tx.append(Note::Taken { number: *number, pad: pad.clone() })?;
                line(pad)
            }
        })
    }
}

/// Returns the result of a read as text.
pub(super) fn line(told: impl std::fmt::Debug) -> String {
    format!("{told:?}")
}

fn place(found: &Sequenced<Raw>) -> (u64, u64, &str, usize) {
    (found.position.get(), found.stream_version, found.type_name(), found.data().len())
}

/// Returns a free seat, if one may be taken.
pub(super) fn first_free(taken: impl Iterator<Item = u32>) -> Option<u32> {
    let taken: Vec<u32> = taken.collect();
    (0..CURSED_SEAT).find(|seat| !taken.contains(seat)).filter(|_| taken.len() < CAPACITY)
}

/// Returns the answer of a decision that was told these lines.
pub fn answer(told: &[String]) -> u64 {
    let bytes = told.iter().flat_map(|line| line.bytes().chain([b'\n']));
    bytes.fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

impl Plan {
    /// Returns a decision of these steps, without anything else.
    pub fn of(steps: Vec<Step>) -> Self {
        let request = Request { decided: true, ..Request::default() };
        Self { request, steps, swallows: false, retry: Retry::default() }
    }

    /// Adds a key, and the input that stands for the decision in the fingerprint.
    pub fn keyed(mut self, scope: &str, key: &str, input: u64) -> Self {
        self.request = self.request.keyed(scope, key);
        self.request.input = Some(input);
        self
    }

    /// Runs all steps, and appends the line each of them was told to `told`.
    ///
    /// # Errors
    ///
    /// As [`Step::run`].
    pub fn run(&self, tx: &mut Tx<'_>, told: &mut Vec<String>) -> Decision<u64, Refusal> {
        for step in &self.steps {
            match step.run(tx) {
                Ok(line) => told.push(line),
                Err(TxError::Refused(why)) => return refuse(why),
                Err(_) if self.swallows => {}
                Err(error) => return Err(error),
            }
        }
        Ok(answer(told))
    }

    /// Converts it to the store's request.
    pub fn work(&self) -> request::Request {
        self.request.work().retry(self.retry)
    }
}

impl Request {
    /// Converts it to the store's request of a transaction.
    pub fn work(&self) -> request::Request {
        let mut work = request::Request::new("drawn");
        if let Some((scope, key)) = &self.key {
            work = work.key(scope, key, &self.input.expect("a decision with a key has an input"));
        }
        match self.retention {
            Some(retention) => work.retention(retention),
            None => work,
        }
    }
}

// ---- drawing ----

impl Workload {
    /// Queues these to be decided again before others.
    pub fn decide_again(&mut self, plans: impl IntoIterator<Item = Plan>) {
        self.decide_again.extend(plans.into_iter().filter(|plan| plan.request.key.is_some()));
    }

    /// Takes one of the decisions that are to be decided again.
    pub fn waiting_to_decide(&mut self) -> Option<Plan> {
        self.decide_again.pop()
    }

    /// Draws a decision.
    pub fn plan(&mut self, model: &Model) -> Plan {
        self.number += 1;
        if let Some(plan) = self.waiting_to_decide() {
            return plan;
        }
        if !self.decided.is_empty() && !self.random.chance(0.85) {
            let index = self.below(self.decided.len() as u64) as usize;
            let mut plan = self.decided[index].clone();
            if self.below(6) == 5 {
                plan.request.input = Some(self.number);
            }
            return plan;
        }
        let steps = self.steps(model);
        let mut request = Request { key: self.key(), decided: true, ..Request::default() };
        if request.key.is_some() {
            request.input = Some(self.number);
            request.retention = self.random.chance(0.2).then(|| draw_retention(&mut self.random));
        }
        let retry = match self.below(5) {
            0 => Retry::Never,
            // The second try holds the writer lease.
            1 => Retry::UpTo(1),
            2 => Retry::Optimistic(3),
            _ => Retry::default(),
        };
        let plan = Plan { request, steps, swallows: self.random.chance(0.3), retry };
        if plan.request.key.is_some() {
            self.decided.push(plan.clone());
        }
        plan
    }

    fn steps(&mut self, model: &Model) -> Vec<Step> {
        let number = self.number;
        let note = Step::Append(Fact::Note(number, 8));
        let (account, other) = (self.below(ACCOUNTS) as u32, self.below(ACCOUNTS) as u32);
        let (show, who) = (self.below(SHOWS) as u32, self.below(4) as u32);
        let transfer = Step::Transfer(account, other, self.below(200) as i64, number);
        match self.below(15) {
            0 => vec![transfer],
            1 => vec![Step::Stream(account), transfer, Step::Row(RowName::Balance(account))],
            2 => vec![Step::Book(show, who)],
            3 => {
                let seat = self.below(SEATS) as u32;
                let free = [Step::Query(Ask::tagged(format!("seat:{seat}"))), self.seat()];
                free.into_iter().chain([Step::Append(Fact::Reserved(show, seat, who))]).collect()
            }
            4 => vec![Step::Claim(self.below(NAMES) as u32, number)],
            5 => (0..1 + self.below(4)).map(|_| self.read(model)).collect(),
            6 => {
                let mut steps = vec![Step::Once(self.below(6)), note];
                steps.rotate_left(self.below(2) as usize);
                steps
            }
            7 => vec![self.read(model), Step::Draw(number), self.read(model)],
            8 => {
                let limit = model.limits.event_bytes_max;
                let bad = match self.below(4) {
                    0 => Fact::Note(number, limit),
                    1 => Fact::Took(account, i64::MAX, number),
                    2 => Fact::Reserved(show, CURSED_SEAT, who),
                    _ => Fact::Got(77, 1, number),
                };
                vec![self.read(model), Step::Append(bad), self.read(model), note]
            }
            9 => vec![self.range(), note],
            10 => self.facts(model).into_iter().map(Step::Append).collect(),
            11 => {
                let (read, ask) = (self.read(model), self.ask_items(model));
                vec![read, Step::Narrow(ask), note, self.read(model)]
            }
            12 | 13 => {
                let seat = self.below(u64::from(CURSED_SEAT)) as u32;
                let (first, last) = ((show, 0), (show, u32::MAX));
                // These results depend on what the fold of the decision's own event has found.
                let found = match self.below(4) {
                    0 => Step::Prices(first, last),
                    1 => Step::Row(RowName::Count("reserved")),
                    _ => Step::Row(RowName::Price(show, seat)),
                };
                vec![Step::Append(Fact::Reserved(show, seat, who)), found, note]
            }
            _ => (0..2 + self.below(5))
                .flat_map(|_| match self.random.chance(0.7) {
                    true => vec![self.read(model)],
                    false => self.facts(model).into_iter().map(Step::Append).collect(),
                })
                .collect(),
        }
    }

    fn read(&mut self, model: &Model) -> Step {
        match self.below(12) {
            10 => Step::Row(RowName::Price(self.below(SHOWS) as u32, self.below(SEATS) as u32)),
            11 => {
                let show = self.below(SHOWS) as u32;
                Step::Prices((show, self.below(SEATS) as u32), (show, u32::MAX))
            }
            0 => Step::Row(RowName::Balance(self.below(ACCOUNTS) as u32)),
            1 | 2 => self.seat(),
            3 => Step::Row(RowName::Count(KINDS[self.below(5) as usize])),
            4 | 5 => self.range(),
            6 => Step::Stream(self.below(ACCOUNTS) as u32),
            7 => Step::PeekRow(RowName::Balance(self.below(ACCOUNTS) as u32)),
            8 => Step::PeekQuery(self.ask(model)),
            _ => {
                let mut ask = self.ask(model);
                // A query with limit 0 asks nothing.
                ask.limit = ask.limit.map(|limit| limit.max(1));
                Step::Query(ask)
            }
        }
    }

    fn seat(&mut self) -> Step {
        Step::Row(RowName::Seat(self.below(SHOWS) as u32, self.below(SEATS) as u32))
    }

    fn range(&mut self) -> Step {
        let mut seat = || (self.random.below(SHOWS) as u32, self.random.below(SEATS) as u32);
        let (from, to) = (seat(), seat());
        let which = match self.below(3) {
            0 => Which::All,
            1 => Which::First(1 + self.below(3) as usize),
            _ => Which::Last(1 + self.below(3) as usize),
        };
        // Reversed now and then.
        let (from, to) = if self.below(8) == 0 { (from, to) } else { (from.min(to), from.max(to)) };
        Step::Seats(from, to, which)
    }
}
