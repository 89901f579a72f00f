//! Requests of a service to a store, drawn from a seed: money, seats, names, notes.
//!
//! - Every request carries a number of its own, so that a lost, doubled or invented one is seen.
//! - Payloads, streams and tags are written down here a second time, by hand: the store's codecs are under test as well.
//! - A draw depends on the seed and the model alone.

use super::decision::Plan;
use super::findings::Noticed;
use super::model::Model;
use super::random::Random;
use crate::any_of;
use crate::error::FoldError;
use crate::event::{Event, Raw, Tags};
use crate::options::Options;
use crate::order::Position;
use crate::projection::{Folded, Projection, Rows};
use crate::query::{Query, QueryItem};
use crate::request::{Append, Expected, Retention};
use crate::setup::Setup;
use crate::transaction::Budget;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

// ---- events ----

/// Money on accounts: none is ever below zero.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Money {
    /// Money comes in from outside.
    Opened {
        /// Account that gets it.
        account: u32,
        /// Amount.
        cents: i64,
    },
    /// The first half of a transfer.
    Took {
        /// Account that pays.
        account: u32,
        /// Amount.
        cents: i64,
        /// Number of the transfer.
        transfer: u64,
    },
    /// The second half of a transfer.
    Got {
        /// Account that is paid.
        account: u32,
        /// Amount.
        cents: i64,
        /// Number of the transfer.
        transfer: u64,
    },
}

impl Event for Money {
    const FAMILY: &'static str = "money";
    type Id = u32;

    fn id(&self) -> u32 {
        match self {
            Self::Opened { account, .. } | Self::Took { account, .. } | Self::Got { account, .. } => *account,
        }
    }

    fn tags(&self) -> Tags {
        match self {
            Self::Opened { .. } => Tags::none(),
            Self::Took { transfer, .. } | Self::Got { transfer, .. } => Tags::of("transfer", transfer),
        }
    }
}

/// Seats in shows: one holder each, and fewer than there are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Booking {
    /// A seat is taken.
    Reserved {
        /// Number of the show.
        show: u32,
        /// Number of the seat.
        seat: u32,
        /// Holder of the seat.
        who: u32,
    },
    /// A seat is free again.
    Freed {
        /// Number of the show.
        show: u32,
        /// Number of the seat.
        seat: u32,
    },
}

impl Event for Booking {
    const FAMILY: &'static str = "booking";
    type Id = String;

    fn id(&self) -> String {
        let (Self::Reserved { show, .. } | Self::Freed { show, .. }) = self;
        format!("show-{show}")
    }

    fn tags(&self) -> Tags {
        match self {
            Self::Reserved { who, seat, .. } => Tags::of("who", who).and("seat", seat),
            Self::Freed { seat, .. } => Tags::of("seat", seat),
        }
    }
}

/// A name, claimed once: a condition ensures that, no projection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Name {
    /// Somebody has it now.
    Claimed {
        /// Number of the name.
        name: u32,
        /// Claimant.
        by: u64,
    },
}

impl Event for Name {
    const FAMILY: &'static str = "name";
    type Id = ();

    fn id(&self) {}

    fn tags(&self) -> Tags {
        let Self::Claimed { name, .. } = self;
        Tags::of("name", name)
    }
}

/// Bytes, as many as a test wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Note {
    /// Written down.
    Taken {
        /// Its number.
        number: u64,
        /// The bytes.
        pad: Vec<u8>,
    },
}

impl Event for Note {
    const FAMILY: &'static str = "note";
    type Id = u64;

    fn id(&self) -> u64 {
        let Self::Taken { number, .. } = self;
        number % 8
    }
}

any_of! {
    /// Every event of this file.
    pub enum Anything {
        /// Money.
        Money(Money),
        /// Seats.
        Booking(Booking),
        /// Names.
        Name(Name),
        /// Bytes.
        Note(Note),
    }
}

any_of! {
    /// Events that `Counts` counts.
    pub enum Counted {
        /// Money.
        Money(Money),
        /// Seats.
        Booking(Booking),
    }
}

// ---- projections ----

/// Seats in a show.
pub const CAPACITY: usize = 6;
/// Seat on which the fold panics.
pub const CURSED_SEAT: u32 = 13;
/// Part of the message of every intended panic.
pub const ON_PURPOSE: &str = "on purpose";

/// Balances of accounts.
#[derive(Debug)]
pub struct Balances;

impl Projection for Balances {
    const NAME: &'static str = "balances";
    type Event = Money;
    type Key = u32;
    type Row = i64;

    fn fold(event: &Money, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Money::Opened { account, cents } => rows.update(*account, |balance| *balance += cents),
            Money::Took { account, cents, .. } => match rows.get(account)? {
                Some(balance) if balance >= *cents => rows.put(*account, balance - cents),
                _ => Err(FoldError::refuse("not enough money")),
            },
            Money::Got { account, cents, .. } => match rows.get(account)? {
                Some(balance) => rows.put(*account, balance + cents),
                None => Err(FoldError::refuse("no such account")),
            },
        }
    }
}

/// Holders of seats, by show and seat.
#[derive(Debug)]
pub struct Seats;

impl Projection for Seats {
    const NAME: &'static str = "seats";
    type Event = Booking;
    type Key = (u32, u32);
    type Row = u32;

    fn fold(event: &Booking, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Booking::Reserved { seat, .. } if *seat == CURSED_SEAT => panic!("{ON_PURPOSE}"),
            Booking::Reserved { show, seat, who } => {
                if rows.get(&(*show, *seat))?.is_some() {
                    return Err(FoldError::refuse("taken"));
                }
                if rows.range((*show, 0)..=(*show, u32::MAX))?.len() >= CAPACITY {
                    return Err(FoldError::refuse("sold out"));
                }
                rows.put((*show, *seat), *who)
            }
            Booking::Freed { show, seat } => rows.remove(&(*show, *seat)),
        }
    }
}

/// Price of each seat, and the number of rows of its show before it: folds that read other rows. An event that frees a seat sets
/// the price of the show from then on, in the row of the seat `u32::MAX`.
#[derive(Debug)]
pub struct Prices;

impl Projection for Prices {
    const NAME: &'static str = "prices";
    type Event = Booking;
    type Key = (u32, u32);
    type Row = (u64, u64);

    fn fold(event: &Booking, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Booking::Reserved { show, seat, .. } => {
                let cost = rows.get(&(*show, u32::MAX))?.map_or(0, |(cost, _)| cost);
                let before = rows.range((*show, 0)..(*show, u32::MAX))?.len() as u64;
                rows.put((*show, *seat), (cost, before))
            }
            Booking::Freed { show, seat } => rows.put((*show, u32::MAX), (u64::from(*seat), 0)),
        }
    }
}

/// Number of events of each kind, with the position and time (in microseconds) of the last one.
#[derive(Debug)]
pub struct Counts;

impl Projection for Counts {
    const NAME: &'static str = "counts";
    type Event = Counted;
    type Key = String;
    type Row = (u64, u64, u64);

    fn fold(event: &Counted, rows: &mut Rows<'_, Self>) -> Folded {
        let kind = match event {
            Counted::Money(Money::Opened { .. }) => "opened",
            Counted::Money(Money::Took { .. }) => "took",
            Counted::Money(Money::Got { .. }) => "got",
            Counted::Booking(Booking::Reserved { .. }) => "reserved",
            Counted::Booking(Booking::Freed { .. }) => "freed",
        };
        let since = rows.recorded_at().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (position, micros) = (rows.position().get(), since.as_micros() as u64);
        rows.update(kind.to_owned(), |row| *row = (row.0 + 1, position, micros))
    }
}

/// Number of events of each stream, and a sum that changes if one is left out, doubled or folded out of turn. An async
/// projection. An event that frees a seat removes the row of its show.
#[derive(Debug)]
pub struct Trails;

impl Projection for Trails {
    const NAME: &'static str = "trails";
    type Event = Raw;
    type Key = String;
    type Row = (u64, u64);

    fn fold(event: &Raw, rows: &mut Rows<'_, Self>) -> Folded {
        if event.type_name() == "booking.Freed" {
            return rows.remove(event.stream());
        }
        let position = rows.position().get();
        rows.update(event.stream().to_owned(), |(count, sum)| {
            *count += 1;
            *sum = sum.wrapping_mul(31).wrapping_add(position);
        })
    }
}

/// Returns a setup with all families and projections of this file.
pub fn setup(options: Options) -> Setup {
    let setup = Setup::new().options(options).inline::<Balances>().inline::<Seats>().inline::<Counts>();
    let setup = setup.inline::<Prices>();
    let setup = setup.behind::<Trails>();
    // Simulated time stands still or leaps: no measure of a decision.
    setup.events::<Name>().events::<Note>().budget(Budget::safe().observe())
}

// ---- requests, as the model reads them ----

/// An event before it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// `Money::Opened`: account, cents.
    Opened(u32, i64),
    /// `Money::Took`: account, cents, transfer.
    Took(u32, i64, u64),
    /// `Money::Got`: account, cents, transfer.
    Got(u32, i64, u64),
    /// `Booking::Reserved`: show, seat, who.
    Reserved(u32, u32, u32),
    /// `Booking::Freed`: show, seat.
    Freed(u32, u32),
    /// `Name::Claimed`: name, by.
    Claimed(u32, u64),
    /// `Note::Taken`: number, bytes.
    Note(u64, usize),
    /// `Note::Taken`: number, and the bytes themselves: chance that a transaction was told.
    Told(u64, Vec<u8>),
    /// A flag that a transaction took.
    Once(u64),
    /// An event that the store appends by itself: nobody asks for it.
    Own(Arc<Noticed>),
}

/// Returns the name of a flag.
pub(super) fn flag(number: u64) -> String {
    format!("flag-{number}")
}

impl Fact {
    /// Returns `FAMILY.Variant`.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Opened(..) => "money.Opened",
            Self::Took(..) => "money.Took",
            Self::Got(..) => "money.Got",
            Self::Reserved(..) => "booking.Reserved",
            Self::Freed(..) => "booking.Freed",
            Self::Claimed(..) => "name.Claimed",
            Self::Note(..) | Self::Told(..) => "note.Taken",
            Self::Once(_) => "tallystone.Once",
            Self::Own(noticed) => &noticed.type_name,
        }
    }

    /// Returns `FAMILY/id`.
    pub fn stream(&self) -> String {
        match self {
            Self::Opened(account, _) | Self::Took(account, ..) | Self::Got(account, ..) => {
                format!("money/{account}")
            }
            Self::Reserved(show, ..) | Self::Freed(show, _) => format!("booking/show-{show}"),
            Self::Claimed(..) => "name/".to_owned(),
            Self::Note(number, _) | Self::Told(number, _) => format!("note/{}", number % 8),
            Self::Once(number) => format!("tallystone/{}", flag(*number)),
            Self::Own(noticed) => noticed.stream.clone(),
        }
    }

    /// Returns tags as `kind:id`.
    pub fn tags(&self) -> Vec<String> {
        match self {
            Self::Opened(..) | Self::Note(..) | Self::Told(..) | Self::Once(_) | Self::Own(_) => Vec::new(),
            Self::Took(_, _, transfer) | Self::Got(_, _, transfer) => vec![format!("transfer:{transfer}")],
            Self::Reserved(_, seat, who) => vec![format!("who:{who}"), format!("seat:{seat}")],
            Self::Freed(_, seat) => vec![format!("seat:{seat}")],
            Self::Claimed(name, _) => vec![format!("name:{name}")],
        }
    }

    /// Returns the payload: fields in order, little-endian, lengths in eight bytes.
    pub fn data(&self) -> Vec<u8> {
        match self {
            Self::Opened(account, cents) => [&account.to_le_bytes()[..], &cents.to_le_bytes()].concat(),
            Self::Took(account, cents, transfer) | Self::Got(account, cents, transfer) => {
                [&account.to_le_bytes()[..], &cents.to_le_bytes(), &transfer.to_le_bytes()].concat()
            }
            Self::Reserved(show, seat, who) => {
                [show.to_le_bytes(), seat.to_le_bytes(), who.to_le_bytes()].concat()
            }
            Self::Freed(show, seat) => [show.to_le_bytes(), seat.to_le_bytes()].concat(),
            Self::Claimed(name, by) => [&name.to_le_bytes()[..], &by.to_le_bytes()].concat(),
            Self::Note(number, bytes) => bytes_noted(*number, &pad(*number, *bytes)),
            Self::Told(number, bytes) => bytes_noted(*number, bytes),
            Self::Once(number) => {
                let name = flag(*number);
                [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat()
            }
            Self::Own(noticed) => noticed.data.clone(),
        }
    }

    /// Converts it to an event.
    ///
    /// # Panics
    ///
    /// On a flag, which only a transaction takes, and on what the store alone puts on record.
    pub(super) fn event(&self) -> Anything {
        match *self {
            Self::Opened(account, cents) => Money::Opened { account, cents }.into(),
            Self::Took(account, cents, transfer) => Money::Took { account, cents, transfer }.into(),
            Self::Got(account, cents, transfer) => Money::Got { account, cents, transfer }.into(),
            Self::Reserved(show, seat, who) => Booking::Reserved { show, seat, who }.into(),
            Self::Freed(show, seat) => Booking::Freed { show, seat }.into(),
            Self::Claimed(name, by) => Name::Claimed { name, by }.into(),
            Self::Note(number, bytes) => Note::Taken { number, pad: pad(number, bytes) }.into(),
            Self::Told(number, ref pad) => Note::Taken { number, pad: pad.clone() }.into(),
            Self::Once(_) => panic!("a flag is taken by a transaction"),
            Self::Own(_) => panic!("nobody asks for what is the store's own"),
        }
    }
}

impl From<&Money> for Fact {
    fn from(money: &Money) -> Self {
        match *money {
            Money::Opened { account, cents } => Self::Opened(account, cents),
            Money::Took { account, cents, transfer } => Self::Took(account, cents, transfer),
            Money::Got { account, cents, transfer } => Self::Got(account, cents, transfer),
        }
    }
}

fn bytes_noted(number: u64, pad: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes()[..], &(pad.len() as u64).to_le_bytes(), pad].concat()
}

/// A payload before the bytes of a note: its number and their length.
const NOTE_HEAD: usize = 16;

fn pad(number: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (number as usize).wrapping_mul(31).wrapping_add(index) as u8).collect()
}

/// One alternative of an [`Ask`]: types or a stream, and tags.
#[derive(Debug, Clone, Default)]
pub struct Item {
    /// ORed; none means any.
    pub types: Vec<String>,
    /// ANDed.
    pub tags: Vec<String>,
    /// The one stream; not together with types.
    pub stream: Option<String>,
}

impl Item {
    /// Returns whether it asks for this event.
    pub fn matches(&self, fact: &Fact) -> bool {
        let tags = fact.tags();
        self.stream.as_ref().is_none_or(|stream| *stream == fact.stream())
            && (self.types.is_empty() || self.types.iter().any(|name| name == fact.type_name()))
            && self.tags.iter().all(|tag| tags.contains(tag))
    }

    fn query_item(&self) -> QueryItem {
        let mut tags = self.tags.iter();
        let item = match (&self.stream, self.types.is_empty()) {
            (Some(stream), _) => QueryItem::stream_named(stream),
            (None, false) => QueryItem::types(self.types.iter().cloned()),
            (None, true) => QueryItem::tagged(tags.next().expect("an item asks for something")),
        };
        tags.fold(item, |item, tag| item.and_tagged(tag))
    }
}

/// A query.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// True to ask for every event, whatever the items say.
    pub all: bool,
    /// ORed.
    pub items: Vec<Item>,
    /// True for newest first.
    pub backwards: bool,
    /// Maximum number of events.
    pub limit: Option<usize>,
    /// Only events after this position.
    pub after: u64,
    /// Only events up to this position, if there is one.
    pub up_to: Option<u64>,
}

impl Ask {
    /// Events of a tag.
    pub fn tagged(tag: impl Into<String>) -> Self {
        Self { items: vec![Item { tags: vec![tag.into()], ..Item::default() }], ..Self::default() }
    }

    /// Events of a stream.
    pub fn stream(stream: String) -> Self {
        Self { items: vec![Item { stream: Some(stream), ..Item::default() }], ..Self::default() }
    }

    /// Returns whether it asks for this event, whatever its position.
    pub fn matches(&self, fact: &Fact) -> bool {
        self.all || self.items.iter().any(|item| item.matches(fact))
    }

    /// Converts it to the store's query.
    pub fn query(&self) -> Query {
        let items = self.items.iter().map(Item::query_item);
        let query = if self.all { items.fold(Query::all(), Query::or) } else { items.collect() };
        let query = query.after(Position::new(self.after));
        let query = if self.backwards { query.backwards() } else { query };
        let query = self.limit.into_iter().fold(query, Query::limit);
        self.up_to.into_iter().fold(query, |query, up_to| query.up_to(Position::new(up_to)))
    }
}

/// One append.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Its events.
    pub facts: Vec<Fact>,
    /// Scope and key.
    pub key: Option<(String, String)>,
    /// Retention of the key, if it differs from the setup's.
    pub retention: Option<Retention>,
    /// Input that stands for the events in the fingerprint.
    pub input: Option<u64>,
    /// More of the fingerprint.
    pub parts: Vec<(String, u64)>,
    /// The stored answer.
    pub response: Option<Vec<u8>>,
    /// Versions of streams.
    pub expected: Vec<(String, Expected)>,
    /// Events that must not exist, each with the position after which that holds.
    pub conditions: Vec<(Ask, Option<u64>)>,
    /// True if a transaction asks, which may come to nothing.
    pub decided: bool,
}

impl Request {
    /// Returns an append of these events, without anything else.
    pub fn of(facts: impl Into<Vec<Fact>>) -> Self {
        Self { facts: facts.into(), ..Self::default() }
    }

    /// Adds a key.
    pub fn keyed(mut self, scope: &str, key: impl Into<String>) -> Self {
        self.key = Some((scope.to_owned(), key.into()));
        self
    }

    /// Sets the retention of the key.
    pub fn kept(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Converts it to the store's append.
    pub fn append(&self) -> Append {
        let none = Append::events(Vec::<Money>::new());
        let mut append = self.facts.iter().fold(none, |append, fact| append.and(fact.event()));
        if let Some((scope, key)) = &self.key {
            append = append.key(scope, key);
        }
        if let Some(retention) = self.retention {
            append = append.retention(retention);
        }
        if let Some(input) = &self.input {
            append = append.input(input);
        }
        for (name, value) in &self.parts {
            append = append.part(name, value);
        }
        if let Some(response) = &self.response {
            append = append.response(response.clone());
        }
        for (stream, version) in &self.expected {
            append = append.expect_stream(stream, *version);
        }
        for (ask, after) in &self.conditions {
            append = append.fail_if_events_match(ask.query(), after.map(Position::new));
        }
        append
    }
}

// ---- drawing ----

pub(super) const ACCOUNTS: u64 = 5;
pub(super) const SHOWS: u64 = 3;
pub(super) const SEATS: u64 = 14;
pub(super) const NAMES: u64 = 40;

/// Draws a retention: for ever, for a time, or for a number of keys.
pub fn draw_retention(random: &mut Random) -> Retention {
    match random.below(5) {
        0 | 1 => Retention::Forever,
        2 => Retention::For(Duration::from_micros(1 + any_size(random, 32))),
        _ => Retention::Last(1 + any_size(random, 7)),
    }
}

/// Draws a number below `1 << bits`; small ones are as likely as large ones.
pub(super) fn any_size(random: &mut Random, bits: u64) -> u64 {
    let bits = random.below(bits);
    random.below(1 << bits)
}

/// Requests and queries without end.
#[derive(Debug)]
pub struct Workload {
    pub(super) random: Random,
    pub(super) number: u64,
    /// Weights of the kinds of requests: another mixture for every seed.
    weights: [u64; 6],
    keyed: f64,
    /// Requests with keys, whatever their outcome.
    past: Vec<Request>,
    /// Requests to be asked again first: their outcome is unknown.
    again: Vec<Request>,
    /// Decisions with keys, whatever their outcome.
    pub(super) decided: Vec<Plan>,
    pub(super) decide_again: Vec<Plan>,
}

impl Workload {
    /// Returns the workload of this seed.
    pub fn new(seed: u64) -> Self {
        Self::drawn_from(Random::new(seed ^ 0x5bd1_e995))
    }

    /// Returns the workload that these numbers decide.
    pub fn drawn_from(random: Random) -> Self {
        let mut workload = Self::even(random);
        workload.mix_anew();
        workload
    }

    /// Returns a workload with as many requests of one kind as of another.
    pub fn even(random: Random) -> Self {
        let (past, again, decided, decide_again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { random, number: 0, weights: [1; 6], keyed: 0.6, past, again, decided, decide_again }
    }

    /// Draws another mixture of kinds.
    pub fn mix_anew(&mut self) {
        self.weights = std::array::from_fn(|_| [0, 1, 2, 6][self.random.below(4) as usize]);
        self.keyed = [0.2, 0.6, 0.9][self.random.below(3) as usize];
    }

    /// Queues these to be asked again in the next group.
    pub fn ask_again(&mut self, requests: impl IntoIterator<Item = Request>) {
        self.again.extend(requests.into_iter().filter(|request| request.key.is_some()));
    }

    /// Takes the requests that are to be asked again.
    pub fn waiting(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.again)
    }

    /// Draws requests that are submitted together.
    pub fn group(&mut self, model: &Model) -> Vec<Request> {
        let mut group = std::mem::take(&mut self.again);
        let count = group.len() as u64 + 1 + self.random.below(6);
        while (group.len() as u64) < count {
            let request = self.request(model);
            if request.key.is_some() {
                self.past.push(request.clone());
            }
            // Twins, and rivals for the same version of the same stream.
            if self.random.chance(0.06) {
                group.push(request.clone());
            }
            if self.random.chance(0.05) {
                let mut rival = request.clone();
                rival.key = self.key();
                group.push(rival);
            }
            group.push(request);
        }
        group
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    pub(super) fn key(&mut self) -> Option<(String, String)> {
        let number = self.number;
        self.random.chance(self.keyed).then(|| {
            let scope = ["", "shop", "desk"][self.random.below(3) as usize].to_owned();
            (scope, format!("k{number}"))
        })
    }

    fn request(&mut self, model: &Model) -> Request {
        self.number += 1;
        if !self.past.is_empty() && self.random.chance(0.12) {
            return self.retry(model);
        }
        let facts = self.facts(model);
        let mut request = Request { facts, key: self.key(), ..Request::default() };
        if self.random.chance(0.3) {
            let bytes = match self.below(12) {
                0 => model.limits.response_bytes_max,
                1 => model.limits.response_bytes_max + 1,
                bytes => bytes as usize * 7,
            };
            request.response = Some(vec![self.number as u8; bytes]);
        }
        if self.random.chance(0.3) {
            request.retention = Some(draw_retention(&mut self.random));
        }
        if self.random.chance(0.15) {
            request.input = Some(self.number / 3);
        }
        if self.random.chance(0.15) {
            request.parts =
                vec![("amount".to_owned(), self.number % 3), ("place".to_owned(), self.number % 2)];
        }
        if self.random.chance(0.25) {
            self.expect(&mut request, model);
        }
        if self.random.chance(0.15) {
            let (ask, after) = (self.ask_items(model), self.after(model));
            request.conditions.push((ask, after));
        }
        if self.random.chance(0.02) {
            self.overdo(&mut request, model);
        }
        request
    }

    /// Draws a past request: the same, or another under its key.
    fn retry(&mut self, model: &Model) -> Request {
        let recent = self.past.len().min(30) as u64;
        let index = match self.random.coin() {
            true => self.past.len() - 1 - self.below(recent) as usize,
            false => self.below(self.past.len() as u64) as usize,
        };
        let mut request = self.past[index].clone();
        match self.below(8) {
            0 => request.facts = self.facts(model),
            1 => request.parts.push(("more".to_owned(), 1)),
            2 => request.input = Some(self.number),
            // None of these is part of the fingerprint.
            3 => request.response = Some(vec![1]),
            4 => request.expected.push(("money/1".to_owned(), Expected::NoStream)),
            _ => {}
        }
        request
    }

    pub(super) fn facts(&mut self, model: &Model) -> Vec<Fact> {
        let mut kind = self.below(self.weights.iter().sum::<u64>().max(1));
        let drawn = self.weights.iter().position(|weight| {
            let here = kind < *weight;
            kind = kind.wrapping_sub(if here { 0 } else { *weight });
            here
        });
        let number = self.number;
        match drawn.unwrap_or(0) {
            0 => {
                let (from, to) = (self.below(ACCOUNTS) as u32, self.below(ACCOUNTS) as u32);
                if model.rows.balances.len() < 2 || self.random.chance(0.15) {
                    return vec![Fact::Opened(from, 100 + self.below(900) as i64)];
                }
                let cents = self.below(300) as i64;
                vec![Fact::Took(from, cents, number), Fact::Got(to, cents, number)]
            }
            1 => {
                let (show, seat) = (self.below(SHOWS) as u32, self.below(SEATS) as u32);
                match self.random.chance(0.3) {
                    true => vec![Fact::Freed(show, seat)],
                    false => vec![Fact::Reserved(show, seat, self.below(4) as u32)],
                }
            }
            2 => vec![Fact::Claimed(self.below(NAMES) as u32, number)],
            3 => {
                let limit = model.limits.event_bytes_max - NOTE_HEAD;
                let bytes = match self.below(24) {
                    0 => limit - 1,
                    1 => limit,
                    2 => limit + 1,
                    3..6 => self.below(limit as u64) as usize,
                    _ => self.below(64) as usize,
                };
                vec![Fact::Note(number, bytes)]
            }
            4 => (0..1 + self.below(5)).map(|index| Fact::Note(number + index, 8)).collect(),
            _ => {
                let mut mixed = vec![Fact::Opened(self.below(ACCOUNTS) as u32, 5)];
                mixed.push(Fact::Freed(self.below(SHOWS) as u32, self.below(SEATS) as u32));
                mixed.push(Fact::Reserved(self.below(SHOWS) as u32, self.below(SEATS) as u32, 9));
                mixed.push(Fact::Note(number, self.below(40) as usize));
                mixed
            }
        }
    }

    fn expect(&mut self, request: &mut Request, model: &Model) {
        let stream = match self.random.chance(0.8) {
            true => request.facts.first().map_or_else(|| "money/1".to_owned(), Fact::stream),
            false => "money/77".to_owned(),
        };
        let is = model.stream_version(&stream);
        let version = match self.below(8) {
            0 => Expected::Any,
            1 => Expected::NoStream,
            2 => Expected::Exact(is + 1),
            3 => Expected::Exact(is.saturating_sub(1)),
            _ => Expected::Exact(is),
        };
        request.expected.push((stream, version));
    }

    /// Draws a position: none, an old one, the head, one in the future.
    fn after(&mut self, model: &Model) -> Option<u64> {
        let head = model.position();
        match self.below(6) {
            0 => None,
            1 => Some(self.below(head + 1)),
            2 => Some(head + self.below(20)),
            _ => Some(head),
        }
    }

    fn overdo(&mut self, request: &mut Request, model: &Model) {
        let limits = &model.limits;
        match self.below(4) {
            0 => request.facts = vec![Fact::Note(self.number, 1); limits.append_events_max + 1],
            1 => request.facts = vec![Fact::Note(self.number, 1); limits.append_events_max],
            2 => request.facts.clear(),
            _ => {
                let bytes = limits.key_bytes_max * self.below(2) as usize + self.below(2) as usize;
                request.key = Some((String::new(), format!("{:0<bytes$}", "")));
            }
        }
    }

    pub(super) fn ask_items(&mut self, model: &Model) -> Ask {
        let items = (0..1 + self.below(3)).map(|_| self.item(model)).collect();
        Ask { items, ..Ask::default() }
    }

    fn item(&mut self, model: &Model) -> Item {
        const TYPES: [&str; 8] = [
            "money.Opened",
            "money.Took",
            "money.Got",
            "booking.Reserved",
            "booking.Freed",
            "name.Claimed",
            "note.Taken",
            "note.Never",
        ];
        let mut item = Item::default();
        if self.random.chance(0.4) {
            let (show, account) = (self.below(SHOWS), self.below(ACCOUNTS));
            let streams =
                [format!("booking/show-{show}"), format!("money/{account}"), format!("note/{account}")];
            item.stream = Some(streams[self.below(3) as usize].clone());
        } else {
            item.types = (0..self.below(3)).map(|_| TYPES[self.below(8) as usize].to_owned()).collect();
        }
        let bare = item.types.is_empty() && item.stream.is_none();
        if bare || self.random.chance(0.3) {
            item.tags.push(self.tag(model));
        }
        if self.random.chance(0.1) {
            item.tags.push(self.tag(model));
        }
        item.tags.dedup();
        item
    }

    fn tag(&mut self, model: &Model) -> String {
        match self.below(4) {
            0 => format!("seat:{}", self.below(SEATS)),
            1 => format!("who:{}", self.below(4)),
            2 => format!("name:{}", self.below(NAMES)),
            _ => {
                let last = model.events.len() as u64;
                let tagged = (last > 0).then(|| model.events[self.below(last) as usize].fact.tags());
                tagged.and_then(|tags| tags.first().cloned()).unwrap_or_else(|| "no:thing".to_owned())
            }
        }
    }

    /// Draws a query with everything that a query can have.
    pub fn ask(&mut self, model: &Model) -> Ask {
        let mut ask = self.ask_items(model);
        ask.all = self.random.chance(0.25);
        ask.backwards = self.random.coin();
        let head = model.position();
        if self.random.coin() {
            ask.limit = Some(self.below(12) as usize);
        }
        if self.random.chance(0.4) {
            ask.after = self.below(head + 3);
        }
        if self.random.chance(0.4) {
            ask.up_to = Some(self.below(head + 3));
        }
        ask
    }
}
