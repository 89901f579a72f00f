//! Requests of callers, and the answers they get.

mod fingerprint;

use crate::event::{Event, EventSet, Family, Raw};
use crate::key::{self, KeyRef};
use crate::order::{CommitNo, Position, Timestamp};
use crate::query::Query;
use serde::Serialize;
use std::fmt::{self, Display};
use std::time::{Duration, SystemTime};

use self::fingerprint::fingerprint;
pub(crate) use self::fingerprint::{ByBytes, Digest, INPUT, Print, events_by_bytes};

/// A plain atomic append: all of its events, or none.
///
/// With a key it is applied once, and answered the same for as long as the key is kept. Its fingerprint is its own
/// events, unless [`input`](Self::input) says what else tells two requests apart.
///
/// A fingerprint is of values under their names: the order of fields, variants and map entries does not matter, nor does the
/// width of an integer. So a retry by newer code is the same request, unless a name has changed or a value is shown otherwise.
/// An event given as JSON counts by its value too, not by its text (with the feature `json`; without it, by its text). A
/// `HashSet` is a sequence in another order each time, and its retry would be another request: use a `BTreeSet`.
///
/// What is larger than `Options::append_events_max` or `append_bytes_max` goes into several appends with keys of their own.
#[derive(Debug, Clone)]
#[must_use = "an append does nothing until it is given to a store"]
pub struct Append {
    pub(crate) label: String,
    pub(crate) events: Vec<Raw>,
    pub(crate) key: Option<RequestKey>,
    pub(crate) retention: Option<Retention>,
    pub(crate) input: Option<Print>,
    pub(crate) parts: Vec<(String, Print)>,
    pub(crate) response: Option<Vec<u8>>,
    pub(crate) expected: Vec<(String, Expected)>,
    pub(crate) conditions: Vec<AppendCondition>,
    /// True if a transaction decided it, which may be to do nothing.
    pub(crate) decided: bool,
    /// The first thing that could not be built; reported when it is appended.
    pub(crate) fault: Option<(&'static str, String)>,
}

/// A labelled piece of work for a transaction, with or without a key.
///
/// ```
/// use tallystone::request::{Request, Retry};
///
/// let input = (42, "seat 7");
/// let keyed = Request::new("book").key("customer/42", "9f1c-77", &input).part("method", &"POST");
/// let once = Request::new("nightly").retry(Retry::Never);
/// # let _ = (keyed, once);
/// ```
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is given to a store"]
pub struct Request {
    pub(crate) label: String,
    pub(crate) key: Option<RequestKey>,
    pub(crate) retention: Option<Retention>,
    input: Print,
    parts: Vec<(String, Print)>,
    pub(crate) retry: Retry,
    pub(crate) wait_max: Option<Duration>,
    /// The first thing that could not be built; reported when it is used.
    pub(crate) fault: Option<(&'static str, String)>,
}

impl Request {
    /// Work of this name: it stands in reports, budgets, and in the conflicts it causes others.
    pub fn new(label: impl Into<String>) -> Self {
        let (label, input, parts, retry) = (label.into(), Print::default(), Vec::new(), Retry::default());
        Self { label, key: None, retention: None, input, parts, retry, wait_max: None, fault: None }
    }

    /// Sets the key under which it is decided once. Same scope, key and input: the stored answer. Same key, another input:
    /// `KeyReused`. `&()` says that the input does not matter.
    pub fn key(
        mut self,
        scope: impl Display,
        key: impl Into<String>,
        input: &(impl Serialize + ?Sized),
    ) -> Self {
        self.key = Some(RequestKey { scope: scope.to_string(), key: key.into() });
        self.input = self.print(input);
        self
    }

    /// Adds a named part of the fingerprint. `KeyReused` names the part that differs.
    pub fn part(mut self, name: impl Into<String>, value: &(impl Serialize + ?Sized)) -> Self {
        let print = self.print(value);
        self.parts.push((name.into(), print));
        self
    }

    /// Sets how long its key is kept, instead of what the setup says.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Sets how often it is decided again after a conflict.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sets how long it may wait for its turn, instead of `Options::queue_wait_ms_max`. After that it is `Overloaded`, and
    /// nothing was written.
    pub fn wait_max(mut self, wait: Duration) -> Self {
        self.wait_max = Some(wait);
        self
    }

    fn print(&mut self, value: &(impl Serialize + ?Sized)) -> Print {
        Print::of(value).unwrap_or_else(|error| {
            self.fault.get_or_insert_with(|| ("fingerprint", error.to_string()));
            Print::default()
        })
    }

    /// All parts of the fingerprint, the input first.
    pub(crate) fn fingerprint(&self) -> Vec<(String, Print)> {
        fingerprint(self.input, &self.parts)
    }
}

impl From<&str> for Request {
    fn from(label: &str) -> Self {
        Self::new(label)
    }
}

impl From<String> for Request {
    fn from(label: String) -> Self {
        Self::new(label)
    }
}

/// Retention of a key. While it is kept, a request under it is answered as the first time; after that it is a new request.
///
/// Only the answering ends: the commit, its events and its rows stay. What was decided when the key was used is on record in
/// its commit, so another policy is for keys used from then on. A commit and its key are one; nothing unfinished holds a key,
/// and none is let go of before its commit is durable.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use tallystone::prelude::*;
/// # #[derive(Serialize, Deserialize, Clone)]
/// # struct Paid { cents: u64 }
/// # impl Event for Paid {
/// #     const FAMILY: &str = "payment";
/// #     type Id = ();
/// #     fn id(&self) {}
/// # }
/// use std::time::Duration;
/// use tallystone::request::Retention;
///
/// # fn main() -> Result<(), Error> {
/// let three_days = Retention::For(Duration::from_secs(72 * 3600));
/// let store = Store::in_memory(Setup::new().events::<Paid>().retention(three_days))?;
/// let pay = |key: &str| Append::event(Paid { cents: 500 }).key("shop", key);
/// assert!(!store.append(pay("order-17"))?.replayed);
/// assert!(store.append(pay("order-17"))?.replayed);
///
/// // Example: this key is kept until another one is used, and is then a new request.
/// assert!(!store.append(pay("order-18").retention(Retention::Last(1)))?.replayed);
/// assert!(store.append(pay("order-18"))?.replayed);
/// store.append(pay("order-19"))?;
/// assert!(!store.append(pay("order-18"))?.replayed);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Retention {
    /// As long as the store. Costs memory for each key: `stats().keys_bytes`.
    #[default]
    Forever,
    /// As long as this, by the store's time: that of its last commit or of the clock, whichever is later. At least 1 µs.
    For(Duration),
    /// While it is one of the last so many keys used, whatever theirs are kept for. At least 1.
    Last(u64),
}

impl Retention {
    /// Returns why no key can be kept like this; `None` if one can.
    pub(crate) fn fault(self) -> Option<&'static str> {
        match self {
            Self::For(time) if time < Duration::from_micros(1) => Some("a key is kept for 1 µs at least"),
            Self::Last(0) => Some("a key is one of the last 1 at least"),
            Self::Forever | Self::For(_) | Self::Last(_) => None,
        }
    }
}

/// Retry policy: how often a decision is made again after a conflict. The default is `UpTo(16)`.
///
/// The last of several tries is made with the writer held, so that nothing can come between: a long decision among short ones
/// gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// The first conflict is the caller's to tell.
    Never,
    /// So many more tries.
    UpTo(u32),
    /// So many more tries, and the writer is never held for them: it may starve.
    Optimistic(u32),
}

impl Default for Retry {
    fn default() -> Self {
        Self::UpTo(16)
    }
}

/// The caller's name for a request, unique within its scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestKey {
    pub scope: String,
    pub key: String,
}

/// The events that would change the caller's mind, and since when: the DCB specification's append condition.
#[derive(Debug, Clone)]
pub(crate) struct AppendCondition {
    pub fail_if_events_match: Query,
    pub after: Option<Position>,
}

impl Append {
    /// An append of one event.
    pub fn event(event: impl EventSet) -> Self {
        Self::none().and(event)
    }

    /// An append of one raw event, as tools and imports write it.
    pub fn raw(event: Raw) -> Self {
        Self::none().and_raw(event)
    }

    /// An append of several events of one set. Without any it is refused.
    pub fn events<E: EventSet>(events: impl IntoIterator<Item = E>) -> Self {
        events.into_iter().fold(Self::none(), Self::and)
    }

    /// Returns the append that a transaction decided.
    pub(crate) fn decided(request: &Request, events: Vec<Raw>, response: Option<Vec<u8>>) -> Self {
        let (label, key, parts) = (request.label.clone(), request.key.clone(), request.parts.clone());
        Self {
            label,
            events,
            key,
            retention: request.retention,
            input: Some(request.input),
            parts,
            response,
            decided: true,
            ..Self::none()
        }
    }

    fn none() -> Self {
        Self {
            label: String::new(),
            events: Vec::new(),
            key: None,
            retention: None,
            input: None,
            parts: Vec::new(),
            response: None,
            expected: Vec::new(),
            conditions: Vec::new(),
            decided: false,
            fault: None,
        }
    }

    /// Adds an event, in the same commit.
    pub fn and(mut self, event: impl EventSet) -> Self {
        match event.encode() {
            Ok(raw) => self.events.push(raw),
            Err(error) => self.fail("event", error),
        }
        self
    }

    /// Adds a raw event, in the same commit.
    pub fn and_raw(mut self, event: Raw) -> Self {
        self.events.push(event);
        self
    }

    /// Names this work in reports and in the conflicts it causes others.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets the key under which this append is applied once. Another scope with the same key is another request.
    pub fn key(mut self, scope: impl Display, key: impl Into<String>) -> Self {
        self.key = Some(RequestKey { scope: scope.to_string(), key: key.into() });
        self
    }

    /// Sets how long its key is kept, instead of what the setup says.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Sets the input: it tells this request from another with the same key, instead of its events.
    ///
    /// Give it if events carry something that differs on every try (a time, a new id). `&()` says that nothing matters.
    pub fn input(mut self, input: &(impl Serialize + ?Sized)) -> Self {
        match Print::of(input) {
            Ok(print) => self.input = Some(print),
            Err(error) => self.fail("input", error),
        }
        self
    }

    /// Adds a named part of the fingerprint. `KeyReused` names the part that differs.
    pub fn part(mut self, name: impl Into<String>, value: &(impl Serialize + ?Sized)) -> Self {
        match Print::of(value) {
            Ok(print) => self.parts.push((name.into(), print)),
            Err(error) => self.fail("part", error),
        }
        self
    }

    /// Sets the answer to store in the commit. A repeated key gets these bytes back.
    pub fn response(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.response = Some(bytes.into());
        self
    }

    /// Refuses with `WrongVersion` unless the stream of `id` is at this version.
    pub fn expect<E: Event>(mut self, id: &(impl KeyRef<E::Id> + ?Sized), version: Expected) -> Self {
        match key::text(id) {
            Ok(id) => self.expected.push((format!("{}/{id}", E::FAMILY), version)),
            Err(error) => self.fail("stream", error),
        }
        self
    }

    /// The same for a stream by its full name.
    pub fn expect_stream(mut self, stream: impl Into<String>, version: Expected) -> Self {
        self.expected.push((stream.into(), version));
        self
    }

    /// Refuses with `Conflict` if an event after `after` matches; with `None`, if any event matches. With `BeyondHead` if there
    /// is no event at `after` yet: the condition would not see what comes up to there.
    pub fn fail_if_events_match(mut self, query: impl Into<Query>, after: Option<Position>) -> Self {
        self.conditions.push(AppendCondition { fail_if_events_match: query.into(), after });
        self
    }

    fn fail(&mut self, what: &'static str, why: impl Display) {
        self.fault.get_or_insert_with(|| (what, why.to_string()));
    }

    /// All parts of the fingerprint, the input first. `family_of` knows the registered families.
    pub(crate) fn fingerprint(&self, family_of: impl Fn(&str) -> Option<Family>) -> Vec<(String, Print)> {
        let input = self.input.unwrap_or_else(|| Print::of_events(&self.events, family_of));
        fingerprint(input, &self.parts)
    }
}

/// The version a stream must be at. A version is the number of events in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Any version.
    Any,
    /// The stream has no event.
    NoStream,
    /// The stream has exactly this many events.
    Exact(u64),
}

impl Expected {
    pub(crate) fn holds(self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => version == 0,
            Self::Exact(expected) => version == expected,
        }
    }
}

impl Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any version"),
            Self::NoStream => f.write_str("no stream"),
            Self::Exact(version) => write!(f, "version {version}"),
        }
    }
}

/// Durability that an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Synced to disk before the reply.
    Sync,
    /// In memory only: `Store::in_memory`.
    Memory,
}

/// Place of a commit in the order of the store. The same on every retry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The commit.
    pub commit: CommitNo,
    /// Its first event.
    pub first: Position,
    /// Its last event.
    pub last: Position,
    /// The store's time of the commit; never behind the commit before.
    pub committed_at: SystemTime,
    /// Durability that the acknowledgement promises.
    pub durability: Durability,
}

impl Receipt {
    pub(crate) fn new(
        commit: CommitNo,
        first: Position,
        last: Position,
        time: Timestamp,
        durability: Durability,
    ) -> Self {
        Self { commit, first, last, committed_at: time.into(), durability }
    }
}

/// An acknowledged commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed<T = Vec<u8>> {
    /// The stored answer; empty if none was given.
    pub response: T,
    /// Place of the commit in the order of the store.
    pub receipt: Receipt,
    /// True if an earlier call with the same key did the work.
    pub replayed: bool,
}
