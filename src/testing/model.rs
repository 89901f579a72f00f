//! The store as vectors and maps: the expected answers.
//!
//! - Shares no code with the store, only public types: it has folds, queries and fingerprints of its own.
//! - Looks at a request twice, as the store does: on the caller's thread, then in its turn.
//! - If an outcome is unknown, the test holds two models, one without it and one with it, until the store is asked.

use super::workload::Ask;
use super::workload::{CAPACITY, CURSED_SEAT, Fact, Request};
use crate::error::{AppendError, Conflict};
use crate::options::Options;
use crate::order::Timestamp;
use crate::request::{Committed, Expected, Receipt, Retention};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Content of the event.
    pub fact: Fact,
    /// Its commit.
    pub commit: u64,
    /// Its place in its stream.
    pub stream_version: u64,
    /// Time of its commit, in microseconds.
    pub micros: u64,
    /// The rows it changed.
    pub changed: Vec<RowName>,
}

/// Names a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowName {
    /// Of `Balances`, by account.
    Balance(u32),
    /// Of `Seats`, by show and seat.
    Seat(u32, u32),
    /// Of `Counts`, by kind.
    Count(&'static str),
    /// Of `Prices`, by show and seat.
    Price(u32, u32),
}

/// A commit.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Request that was committed.
    pub request: Arc<Request>,
    /// Answer of the transaction, if it was one.
    pub answer: Option<u64>,
    /// Position of its first event.
    pub first: u64,
    /// Position of its last event.
    pub last: u64,
    /// Time of the commit, in microseconds.
    pub micros: u64,
    /// Time from which its key may be used again.
    pub expires_micros: Option<u64>,
    /// Number of used keys at which its key may be used again.
    pub expires_keys: Option<u64>,
}

/// Rows of all projections, each with the position that last changed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllRows {
    /// `Balances`.
    pub balances: BTreeMap<u32, (i64, u64)>,
    /// `Seats`.
    pub seats: BTreeMap<(u32, u32), (u32, u64)>,
    /// `Counts`.
    pub counts: BTreeMap<String, ((u64, u64, u64), u64)>,
    /// `Prices`.
    pub prices: BTreeMap<(u32, u32), ((u64, u64), u64)>,
}

/// Expected answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Acknowledged.
    Committed {
        /// Number of the commit.
        commit: u64,
        /// True if an earlier request did it.
        replayed: bool,
    },
    /// Broken by the event at this position.
    Conflict(u64),
    /// A condition begins after this position, and the last event is at the other.
    BeyondHead(u64, u64),
    /// The stream is at this version.
    WrongVersion {
        /// Name of the stream.
        stream: String,
        /// Its version.
        is: u64,
        /// Its last event.
        last: Option<u64>,
    },
    /// The commit that used the key, and the part that differs.
    KeyReused(u64, String),
    /// The projection, and the index of the event in the append.
    Fold(&'static str, usize),
    /// A limit.
    TooLarge(&'static str),
    /// Not a request at all.
    Invalid(&'static str),
}

/// Everything that a store holds.
#[derive(Debug, Clone)]
pub struct Model {
    /// Options of the store.
    pub limits: Options,
    /// Default retention of keys, from the setup.
    pub retention: Retention,
    /// Commits by number, from 1.
    pub commits: Vec<Kept>,
    /// Events by position, from 1.
    pub events: Vec<Noted>,
    /// Scope and key, to the number of the commit that used it last.
    pub keys: BTreeMap<(String, String), u64>,
    /// Number of commits with a key.
    pub keys_used: u64,
    /// Rows at the head.
    pub rows: AllRows,
    streams: BTreeMap<String, Vec<u64>>,
}

impl Model {
    /// Returns an empty store.
    pub fn new(limits: Options) -> Self {
        Self {
            limits,
            retention: Retention::Forever,
            commits: Vec::new(),
            events: Vec::new(),
            keys: BTreeMap::new(),
            keys_used: 0,
            rows: AllRows::default(),
            streams: BTreeMap::new(),
        }
    }

    /// Returns the last position.
    pub fn position(&self) -> u64 {
        self.events.len() as u64
    }

    /// Returns the last commit.
    pub fn commit(&self) -> u64 {
        self.commits.len() as u64
    }

    /// Returns all streams: names and versions.
    pub fn streams(&self) -> impl Iterator<Item = (&str, u64)> {
        self.streams.iter().map(|(name, positions)| (name.as_str(), positions.len() as u64))
    }

    /// Returns the number of events of a stream.
    pub fn stream_version(&self, stream: &str) -> u64 {
        self.streams.get(stream).map_or(0, |positions| positions.len() as u64)
    }

    /// Returns the positions that answer a query, in its order, for a reader at `head`.
    pub fn answer(&self, ask: &Ask, head: u64) -> Vec<u64> {
        let through = ask.up_to.unwrap_or(head).min(head);
        let in_range = ask.after + 1..=through;
        let mut found: Vec<u64> =
            in_range.filter(|position| ask.matches(&self.event(*position).fact)).collect();
        if ask.backwards {
            found.reverse();
        }
        found.truncate(ask.limit.unwrap_or(usize::MAX));
        found
    }

    /// Returns the rows of `Trails` folded up to a position, each with the position that last changed it.
    pub fn trails(&self, through: u64) -> BTreeMap<String, ((u64, u64), u64)> {
        let mut trails = BTreeMap::new();
        for position in 1..=through {
            let fact = &self.event(position).fact;
            let stream = fact.stream();
            if let Fact::Freed(..) = fact {
                trails.remove(&stream);
            } else {
                let ((count, sum), changed_at): &mut ((u64, u64), u64) = trails.entry(stream).or_default();
                *count += 1;
                *sum = sum.wrapping_mul(31).wrapping_add(position);
                *changed_at = position;
            }
        }
        trails
    }

    /// Returns the event at a position.
    pub fn event(&self, position: u64) -> &Noted {
        &self.events[position as usize - 1]
    }

    /// Returns the answer that needs no writer, if there is one.
    pub fn at_once(&self, request: &Request, now: Timestamp) -> Option<Verdict> {
        let refused = self.over_limits(request).or_else(|| self.recall(request, self.time(now)));
        refused.or_else(|| self.beyond_head(request)).or_else(|| self.conflict(request, 0))
    }

    /// Returns the store's time, in microseconds.
    pub(super) fn time(&self, now: Timestamp) -> u64 {
        now.micros().max(self.commits.last().map_or(0, |last| last.micros))
    }

    /// Returns whether the key of a commit is still kept for a decision made now.
    pub fn keeps(&self, commit: u64, now: Timestamp) -> bool {
        let kept = &self.commits[commit as usize - 1];
        kept.expires_micros.is_none_or(|expires| self.time(now) < expires)
            && kept.expires_keys.is_none_or(|expires| self.keys_used < expires)
    }

    /// Returns the number of keys kept at the head.
    pub fn keys_kept(&self) -> u64 {
        self.keys.values().filter(|commit| self.keeps(**commit, Timestamp::from_micros(0))).count() as u64
    }

    /// Returns the writer's answer, after the caller looked at everything up to `seen`. Applies the request if it is committed.
    pub fn decide(&mut self, request: &Request, seen: u64, now: Timestamp) -> Verdict {
        let micros = self.time(now);
        let refused = self.recall(request, micros).or_else(|| self.wrong_version(request));
        match refused.or_else(|| self.conflict(request, seen)) {
            Some(verdict) => verdict,
            None => self.apply(request, None, micros),
        }
    }

    /// Applies a request that nothing stands against, unless a fold refuses it.
    pub(super) fn apply(&mut self, request: &Request, answer: Option<u64>, micros: u64) -> Verdict {
        let first = self.position() + 1;
        let (mut rows, mut changes) = (self.rows.clone(), Vec::new());
        for (index, fact) in request.facts.iter().enumerate() {
            match rows.fold(fact, first + index as u64, micros) {
                Ok(changed) => changes.push(changed),
                Err(projection) => return Verdict::Fold(projection, index),
            }
        }
        self.rows = rows;
        let commit = self.commit() + 1;
        for (fact, changed) in request.facts.iter().zip(changes) {
            let positions = self.streams.entry(fact.stream()).or_default();
            positions.push(self.events.len() as u64 + 1);
            let stream_version = positions.len() as u64;
            self.events.push(Noted { fact: fact.clone(), commit, stream_version, micros, changed });
        }
        let (mut expires_micros, mut expires_keys) = (None, None);
        if let Some(key) = &request.key {
            self.keys.insert(key.clone(), commit);
            self.keys_used += 1;
            match request.retention.unwrap_or(self.retention) {
                Retention::Forever => {}
                Retention::For(time) => expires_micros = Some(micros + time.as_micros() as u64),
                Retention::Last(keys) => expires_keys = Some(self.keys_used + keys),
            }
        }
        let (request, last) = (Arc::new(request.clone()), self.position());
        self.commits.push(Kept { request, answer, first, last, micros, expires_micros, expires_keys });
        Verdict::Committed { commit, replayed: false }
    }

    pub(super) fn over_limits(&self, request: &Request) -> Option<Verdict> {
        let limits = &self.limits;
        if request.facts.len() > limits.append_events_max {
            return Some(Verdict::TooLarge("append (events)"));
        }
        if request.facts.is_empty() && !request.decided {
            return Some(Verdict::Invalid("append"));
        }
        if request.facts.iter().any(|fact| fact.data().len() > limits.event_bytes_max) {
            return Some(Verdict::TooLarge("event (bytes)"));
        }
        match &request.key {
            Some((_, key)) if key.is_empty() => return Some(Verdict::Invalid("key")),
            Some((_, key)) if key.len() > limits.key_bytes_max => return Some(Verdict::TooLarge("key")),
            Some(_) if two_alike(&request.parts) => return Some(Verdict::Invalid("fingerprint")),
            _ => {}
        }
        let response = request.response.as_ref().map_or(0, Vec::len);
        (response > limits.response_bytes_max).then_some(Verdict::TooLarge("response (bytes)"))
    }

    pub(super) fn recall(&self, request: &Request, micros: u64) -> Option<Verdict> {
        let commit = *self.keys.get(request.key.as_ref()?)?;
        if !self.keeps(commit, Timestamp::from_micros(micros)) {
            return None;
        }
        let stored = &self.commits[commit as usize - 1].request;
        Some(match differing_part(stored, request) {
            Some(part) => Verdict::KeyReused(commit, part),
            None => Verdict::Committed { commit, replayed: true },
        })
    }

    fn wrong_version(&self, request: &Request) -> Option<Verdict> {
        request.expected.iter().find_map(|(stream, expected)| {
            let is = self.stream_version(stream);
            let holds = match expected {
                Expected::Any => true,
                Expected::NoStream => is == 0,
                Expected::Exact(version) => is == *version,
            };
            let last = self.streams.get(stream).and_then(|positions| positions.last().copied());
            (!holds).then(|| Verdict::WrongVersion { stream: stream.clone(), is, last })
        })
    }

    fn beyond_head(&self, request: &Request) -> Option<Verdict> {
        let after = request.conditions.iter().filter_map(|(_, after)| *after).max()?;
        (after > self.position()).then(|| Verdict::BeyondHead(after, self.position()))
    }

    /// Returns the first event after `seen` that breaks a condition.
    fn conflict(&self, request: &Request, seen: u64) -> Option<Verdict> {
        request.conditions.iter().find_map(|(ask, after)| {
            let from = seen.max(after.unwrap_or(0)) + 1;
            let found = (from..=self.position()).find(|position| ask.matches(&self.event(*position).fact));
            found.map(Verdict::Conflict)
        })
    }

    /// Returns whether the store's answer is the expected one.
    pub fn agrees(
        &self,
        verdict: &Verdict,
        request: &Request,
        answer: &Result<Committed, AppendError>,
    ) -> bool {
        match (verdict, answer) {
            (Verdict::Committed { commit, replayed }, Ok(committed)) => {
                committed.replayed == *replayed && self.same(*commit, committed)
            }
            (Verdict::Conflict(at), Err(AppendError::Conflict(conflict))) => {
                let Conflict { position, type_name, stream, .. } = &**conflict;
                let fact = &self.event(*at).fact;
                position.get() == *at && type_name == fact.type_name() && *stream == fact.stream()
            }
            (
                Verdict::WrongVersion { stream, is, last },
                Err(AppendError::WrongVersion { stream: named, is: found, last: at, expected }),
            ) => {
                let asked =
                    request.expected.iter().any(|(stream, version)| (stream, version) == (named, expected));
                (stream, is, *last) == (named, found, at.map(|at| at.get())) && asked
            }
            (Verdict::BeyondHead(after, last), Err(AppendError::BeyondHead { position, head })) => {
                (*after, *last) == (position.get(), head.get())
            }
            (Verdict::KeyReused(by, differs), Err(AppendError::KeyReused { part, commit })) => {
                commit.get() == *by && part == differs
            }
            (Verdict::Fold(name, at), Err(AppendError::Fold { projection, index, .. })) => {
                (name, at) == (projection, index)
            }
            (Verdict::TooLarge(limit), Err(AppendError::TooLarge { what, .. })) => limit == what,
            (Verdict::Invalid(wrong), Err(AppendError::Invalid { what, .. })) => wrong == what,
            _ => false,
        }
    }

    /// Returns whether receipt and response are those of a commit.
    pub fn same(&self, commit: u64, committed: &Committed) -> bool {
        self.is_receipt(commit, &committed.receipt)
            && committed.response
                == self.commits[commit as usize - 1].request.response.clone().unwrap_or_default()
    }

    /// Returns whether this is the receipt of a commit.
    pub fn is_receipt(&self, commit: u64, receipt: &Receipt) -> bool {
        let Some(kept) = self.commits.get(commit as usize - 1) else { return false };
        let Receipt { commit: number, first, last, committed_at, .. } = receipt;
        (number.get(), first.get(), last.get()) == (commit, kept.first, kept.last)
            && Timestamp::from(*committed_at).micros() == kept.micros
    }

    /// Returns the answer of the transaction that made a commit.
    pub fn answer_of(&self, commit: u64) -> Option<u64> {
        self.commits.get(commit as usize - 1)?.answer
    }

    /// Returns the money that came in and the money that there is: the two are always equal.
    pub fn money(&self) -> (i64, i64) {
        let opened = |event: &Noted| if let Fact::Opened(_, cents) = event.fact { cents } else { 0 };
        (self.events.iter().map(opened).sum(), self.rows.balances.values().map(|(balance, _)| balance).sum())
    }
}

fn two_alike(parts: &[(String, u64)]) -> bool {
    parts.iter().enumerate().any(|(index, (name, _))| parts[..index].iter().any(|(other, _)| other == name))
}

/// Returns the name of the first part of the fingerprint that differs.
fn differing_part(stored: &Request, asked: &Request) -> Option<String> {
    let same_input = match (stored.input, asked.input) {
        (None, None) => stored.facts == asked.facts,
        (stored, asked) => stored == asked,
    };
    if !same_input {
        return Some("input".to_owned());
    }
    let value = |request: &Request, name: &str| {
        request.parts.iter().find(|(part, _)| part == name).map(|(_, value)| *value)
    };
    let mut names = stored.parts.iter().chain(&asked.parts).map(|(name, _)| name);
    names.find(|name| value(stored, name) != value(asked, name)).cloned()
}

impl AllRows {
    /// Folds an event. Returns the rows it changed, or the name of the projection that refuses it.
    pub(super) fn fold(
        &mut self,
        fact: &Fact,
        position: u64,
        micros: u64,
    ) -> Result<Vec<RowName>, &'static str> {
        let (kind, mut changed) = match *fact {
            Fact::Opened(account, cents) => {
                let row = self.balances.entry(account).or_default();
                *row = (row.0 + cents, position);
                ("opened", vec![RowName::Balance(account)])
            }
            Fact::Took(account, cents, _) => {
                let row = self.balances.get_mut(&account).filter(|row| row.0 >= cents).ok_or("balances")?;
                *row = (row.0 - cents, position);
                ("took", vec![RowName::Balance(account)])
            }
            Fact::Got(account, cents, _) => {
                let row = self.balances.get_mut(&account).ok_or("balances")?;
                *row = (row.0 + cents, position);
                ("got", vec![RowName::Balance(account)])
            }
            Fact::Reserved(show, seat, who) => {
                let taken = self.seats.keys().filter(|key| key.0 == show).count();
                if seat == CURSED_SEAT || self.seats.contains_key(&(show, seat)) || taken >= CAPACITY {
                    return Err("seats");
                }
                self.seats.insert((show, seat), (who, position));
                let cost = self.prices.get(&(show, u32::MAX)).map_or(0, |row| row.0.0);
                let before = self.prices.range((show, 0)..(show, u32::MAX)).count() as u64;
                self.prices.insert((show, seat), ((cost, before), position));
                ("reserved", vec![RowName::Seat(show, seat), RowName::Price(show, seat)])
            }
            // If nobody sits there, no seat changes.
            Fact::Freed(show, seat) => {
                self.prices.insert((show, u32::MAX), ((u64::from(seat), 0), position));
                let left = self.seats.remove(&(show, seat)).map(|_| RowName::Seat(show, seat));
                ("freed", left.into_iter().chain([RowName::Price(show, u32::MAX)]).collect())
            }
            Fact::Claimed(..) | Fact::Note(..) | Fact::Told(..) | Fact::Once(_) | Fact::Own(_) => {
                return Ok(Vec::new());
            }
        };
        let (row, changed_at) = self.counts.entry(kind.to_owned()).or_default();
        (*row, *changed_at) = ((row.0 + 1, position, micros), position);
        changed.push(RowName::Count(kind));
        Ok(changed)
    }
}
