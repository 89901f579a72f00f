//! Checks: conditions over the events, declared with owner, meaning and remedy, and judged as events come.
//!
//! - A check is a word of DECLARE over events of one key, with a window; see [`About`].
//! - A word that would remember its activations for ever is no [`Check`] until something ends them.
//! - Each activation is satisfied, violated, or pending; a check that was never exercised says so, and is not green.
//! - One definition, three uses: beside a store that runs, over what its log holds already, and on a few events in a
//!   [`Trial`].
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use std::time::Duration;
//! use tallystone::check::{About, Severity};
//! use tallystone::prelude::*;
//!
//! #[derive(Serialize, Deserialize)]
//! enum Order {
//!     Placed { order: u32 },
//!     Shipped { order: u32 },
//! }
//! # impl Event for Order {
//! #     const FAMILY: &str = "order";
//! #     type Id = u32;
//! #     fn id(&self) -> u32 { let (Self::Placed { order } | Self::Shipped { order }) = self; *order }
//! # }
//! # fn main() -> Result<(), Error> {
//! let shipped = About {
//!     id: "placed-is-shipped",
//!     severity: Severity::Ticket,
//!     owner: "warehouse",
//!     means: "We took the order and did not ship it.",
//!     remedy: "1 look for the parcel; 2 ship it again, or record why not",
//! }
//! .response(|e: &Order| matches!(e, Order::Placed { .. }), |e| matches!(e, Order::Shipped { .. }))
//! .within(Duration::from_secs(3 * 24 * 3600));
//!
//! let store = Store::in_memory(Setup::new().events::<Order>().check(shipped))?;
//! store.append(Append::event(Order::Placed { order: 7 }))?;
//! # Ok(())
//! # }
//! ```

mod amounts;
pub(crate) mod book;
pub(crate) mod calendar;
pub(crate) mod columns;
mod conserved;
mod convergence;
mod data;
mod digest;
pub(crate) mod due;
mod escalation;
pub(crate) mod glance;
mod handbook;
mod invariant;
mod judge;
pub(crate) mod keys;
mod lens;
mod named;
pub(crate) mod outside;
mod remedy;
pub(crate) mod rows;
#[cfg(feature = "rules")]
pub mod rules;
pub(crate) mod state;
mod span;
mod standing;
mod step;
mod sums;
pub(crate) mod text;
mod totals;
pub mod trial;
pub(crate) mod vocabulary;
pub(crate) mod word;
#[cfg_attr(not(feature = "zones"), path = "no_zone.rs")]
pub(crate) mod zone;

use crate::event::{self, EventSet};
use crate::key::Key;
use crate::order::Timestamp;
pub use amounts::{SumsRule, Term};
pub use columns::Column;
pub use convergence::{Convergence, Quantiles, Settling};
pub(crate) use convergence::{Quieting, Timing};
pub use data::{Definition, Escalate, Fields, Plain, Selector};
pub use digest::Digest;
pub(crate) use escalation::{Escalations, Raised};
pub use handbook::handbook;
pub(crate) use handbook::{pages, pages_of_invariants};
pub use invariant::Invariant;
use lens::Typed;
pub(crate) use lens::{Lens, Looked, signed_micros};
pub use named::{RowIs, RowsRule};
pub use outside::{Compared, KeyRange, Outside, PullError, Pulled, RangeRows, Ranges};
pub(crate) use remedy::Fix;
pub use remedy::{Case, Fixed};
pub use rows::Join;
use serde::{Deserialize, Serialize};
pub use span::Span;
pub use standing::Standing;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
pub use sums::Equality;
pub use trial::{Found, Outcome, Trial, TrialError, Tried};
use word::{Rule, Sums, Time, Window, Word};

/// Urgency of a violation: who is told, and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Note,
    /// Somebody looks at it on a working day.
    Ticket,
    /// Somebody looks at it now.
    Page,
}

impl Severity {
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Note, Self::Ticket, Self::Page].into_iter().find(|severity| severity.to_string() == name)
    }
}

/// Writes the name that files use.
impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Ticket => "ticket",
            Self::Page => "page",
        })
    }
}

/// Maximum length of a check's name, in bytes.
const ID_BYTES_MAX: usize = 128;
/// Maximum length of an owner, in bytes: it is in each notice on record.
const OWNER_BYTES_MAX: usize = 256;
/// Prefix of the names of the store's own checks.
pub(crate) const RESERVED: &str = "tallystone.";

/// Description that every check must have. A struct literal: a field left out does not compile, and an empty one does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its name, unique in the store.
    pub id: &'static str,
    /// Severity of a violation.
    pub severity: Severity,
    /// Owner: the person or team that sees to it; 256 bytes at most.
    pub owner: &'static str,
    /// Meaning of a violation, in a sentence.
    pub means: &'static str,
    /// Remediation steps for a violation, in order.
    pub remedy: &'static str,
}

/// An [`About`], as a check holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub id: Cow<'static, str>,
    pub severity: Severity,
    pub owner: Cow<'static, str>,
    pub means: Cow<'static, str>,
    pub remedy: Cow<'static, str>,
}

impl From<About> for Described {
    fn from(about: About) -> Self {
        let About { id, severity, owner, means, remedy } = about;
        let (id, owner, means, remedy) = (id.into(), owner.into(), means.into(), remedy.into());
        Self { id, severity, owner, means, remedy }
    }
}

impl Described {
    /// Returns all of its faults.
    fn faults(&self) -> Vec<Fault> {
        let at = |field: &'static str, why: String| Fault::new(&self.id, field, why);
        let said = [("owner", &self.owner), ("means", &self.means), ("remedy", &self.remedy)];
        let empty = said.iter().filter(|(_, text)| text.trim().is_empty());
        let mut faults: Vec<_> = empty.map(|(what, _)| at(what, "it is empty".into())).collect();
        if self.owner.len() > OWNER_BYTES_MAX {
            let why = format!("it has {} bytes, allowed are {OWNER_BYTES_MAX}", self.owner.len());
            faults.push(at("owner", why));
        }
        // The name is part of a stream's name and of row keys.
        if let Err(error) = event::check_text("a check's name", &self.id, ID_BYTES_MAX) {
            faults.push(at("id", error.to_string()));
        }
        if self.id.starts_with(RESERVED) {
            faults.push(at("id", format!("names that begin with `{RESERVED}` are the store's own")));
        }
        faults
    }
}

/// A fault in the definition of a check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("check `{check}`: `{field}`: {why}")]
#[non_exhaustive]
pub struct Fault {
    /// Its name.
    pub check: String,
    /// Field of its definition that is wrong or missing.
    pub field: &'static str,
    /// Reason, and what would be right.
    pub why: String,
}

impl Fault {
    fn new(check: &str, field: &'static str, why: impl Into<String>) -> Self {
        Self { check: check.to_owned(), field, why: why.into() }
    }
}

/// Time that a check goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clocked {
    /// Time of the commits.
    Recorded,
    /// Time of the complete snapshots of a source outside: nothing after the last one is certain.
    Pulled,
    /// Time that the events say. It may be up to `lateness` before that of an event recorded earlier. One further ahead of its
    /// commit than `skew` is not believed. Unless they are `imported` history, the time of commits moves the watermark too.
    Events { lateness: Time, skew: Time, imported: bool },
}

impl Clocked {
    /// Default of `skew`, in microseconds: an event further ahead of its commit is a finding.
    pub const SKEW: Time = 5 * 60 * 1_000_000;

    /// Builds it from the fields of a file. An error: the field that is wrong, and why.
    fn said(
        has_time: bool,
        lateness: Option<Time>,
        skew: Option<Time>,
        imported: bool,
    ) -> Result<Self, (&'static str, &'static str)> {
        let given = [("lateness", lateness.is_some()), ("skew", skew.is_some()), ("imported", imported)];
        match given.iter().find(|(_, is_given)| *is_given && !has_time) {
            Some((field, _)) => Err((field, "it is of events that say their own time: say `time`")),
            None if has_time => {
                let (lateness, skew) = (lateness.unwrap_or(0), skew.unwrap_or(Self::SKEW));
                Ok(Self::Events { lateness, skew, imported })
            }
            None => Ok(Self::Recorded),
        }
    }

    /// Returns the watermark that the time of a commit proves. `None` if it proves none.
    pub fn watermark(self, recorded: Time) -> Option<Time> {
        match self {
            Self::Recorded => Some(recorded),
            Self::Pulled | Self::Events { imported: true, .. } => None,
            Self::Events { lateness, skew, .. } => {
                Some(recorded.saturating_sub(lateness).saturating_sub(skew))
            }
        }
    }

    /// Returns the time of commits after which a deadline is over. `None`: no commit proves it.
    pub fn passes(self, due: Time) -> Option<Time> {
        match self {
            Self::Recorded => Some(due),
            Self::Pulled | Self::Events { imported: true, .. } => None,
            Self::Events { lateness, skew, .. } => Some(due.saturating_add(lateness).saturating_add(skew)),
        }
    }
}

/// A check, ready to run.
#[derive(Clone)]
#[must_use = "a check does nothing until it is in a setup"]
pub struct Check {
    pub(crate) about: Described,
    pub(crate) version: u32,
    pub(crate) rule: Rule,
    pub(crate) clocked: Clocked,
    pub(crate) lens: Arc<dyn Lens>,
    /// True if it refuses an event that would violate it.
    pub(crate) guard: bool,
    pub(crate) escalations: Escalations,
    pub(crate) fix: Option<Fix>,
    /// The check that comes with it.
    companion: Option<Arc<Check>>,
    /// True if its declaration allows it to keep activations for ever, and to have no way to be violated.
    unbounded: bool,
    /// Other parts of its declaration as text, such as scope and key.
    shape: String,
    /// The field that its declaration got wrong, and why.
    wrong: Option<(&'static str, String)>,
    /// Hash of the declaration, computed on first use.
    definition: OnceLock<[u8; 8]>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.about.id, self.version, self.rule.word)
    }
}

impl Check {
    /// Creates one from a declaration. It does not refuse, escalate or remediate anything until that is set.
    fn new(about: Described, rule: Rule, clocked: Clocked, lens: impl Lens + 'static, shape: String) -> Self {
        Self {
            about,
            version: 1,
            rule: Rule { ordered: clocked == Clocked::Recorded, ..rule },
            clocked,
            lens: Arc::new(lens),
            guard: false,
            escalations: Escalations::default(),
            fix: None,
            companion: None,
            unbounded: false,
            shape,
            wrong: None,
            definition: OnceLock::new(),
        }
    }

    /// Returns itself, or its first fault.
    fn without_faults(self) -> Result<Self, Fault> {
        match self.faults().into_iter().next() {
            Some(fault) => Err(fault),
            None => Ok(self),
        }
    }

    /// Sets the version. Raise it when the code of the closures changes: earlier findings are then those of another check.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self.definition = OnceLock::new();
        self
    }

    /// Refuses a commit with an event that would violate the check, instead of reporting it afterwards: the append fails with
    /// [`Violated`](crate::error::AppendError::Violated), and nothing of it is written.
    ///
    /// Only violations that an event decides can be refused. Those that time decides are found afterwards, as without a guard: an
    /// event that comes too late is taken, and may heal one.
    ///
    /// - An event decides `precedence`, `not_precedence`, `alternate_precedence`, `chain_precedence`, `succession` (its B),
    ///   `alternate_response` (its next A), `chain_response`, `not_response`, `not_chain_response`, `absent_between`,
    ///   `each_closed_by` (a B with nothing to close), `absence`, `exactly` (one too many), `init` and `not_coexistence`.
    /// - With `closed_by`, the event that closes a key decides all that still waits there: a `response`, a `responded_existence`, an
    ///   `existence`, an `end`.
    /// - Without it, no event violates these, and such a guard does not open. Nor does that of a `standing` by the time of commits.
    ///
    /// An event that the guard cannot read, or on which its code panics, is refused: [`CannotTell`](crate::error::AppendError::CannotTell).
    /// Violations from before it was a guard stay findings; only what comes is refused. Promoting a check makes no new definition of it:
    /// nothing is found twice.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tallystone::check::{About, Severity};
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # enum Order { Paid { order: u32 }, Shipped { order: u32 } }
    /// # impl Event for Order {
    /// #     const FAMILY: &str = "order";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 { let (Self::Paid { order } | Self::Shipped { order }) = self; *order }
    /// # }
    /// # fn main() -> Result<(), Error> {
    /// let paid_first = About {
    ///     id: "paid-first",
    ///     severity: Severity::Page,
    ///     owner: "warehouse",
    ///     means: "We shipped what nobody has paid for.",
    ///     remedy: "1 ask for the money; 2 record it",
    /// }
    /// .precedence(|e: &Order| matches!(e, Order::Paid { .. }), |e| matches!(e, Order::Shipped { .. }))
    /// .guard();
    ///
    /// let store = Store::in_memory(Setup::new().check(paid_first))?;
    /// let refused = store.append(Append::event(Order::Shipped { order: 7 }));
    /// assert!(matches!(refused, Err(AppendError::Violated { check, key, .. }) if check == "paid-first" && key == "order/7"));
    /// store.append(Append::events([Order::Paid { order: 7 }, Order::Shipped { order: 7 }]))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn guard(mut self) -> Self {
        self.guard = true;
        self
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.about.id
    }

    /// Returns whether an event may violate it, so that there is something to refuse.
    fn can_refuse(&self) -> bool {
        match self.rule.word {
            // By the time of commits, time has always decided before the event comes.
            Word::Standing => matches!(self.clocked, Clocked::Events { .. }),
            word => word.is_violated_by_events() || self.lens.closes(),
        }
    }

    /// Returns the hash of its declaration: another word, window, number, scope, family or version is another definition. Code
    /// has no hash, so closures count by the version alone.
    pub(crate) fn definition(&self) -> [u8; 8] {
        *self.definition.get_or_init(|| self.hash())
    }

    /// Returns the same check under another definition: one that was replaced and comes back.
    pub(crate) fn running_as(&self, definition: [u8; 8]) -> Self {
        Self { definition: OnceLock::from(definition), ..self.clone() }
    }

    fn hash(&self) -> [u8; 8] {
        let Rule { word, window, n, sums, .. } = self.rule;
        // Escape commas: a family's name may hold one, but no control character.
        let families: Vec<_> =
            self.lens.families().iter().map(|family| family.replace(',', "\u{1}")).collect();
        let mut text = format!(
            "{}\0{}\0{word}\0{window:?}\0{n}\0{sums:?}\0{:?}\0{}\0{}",
            self.about.id,
            self.version,
            self.clocked,
            families.join(","),
            self.shape
        ) + &self.lens.rests_on();
        if word.revision() > 1 {
            text.push_str(&format!("\0revision {}", word.revision()));
        }
        let mut hash = [0; 8];
        blake3::Hasher::new().update(text.as_bytes()).finalize_xof().fill(&mut hash);
        hash
    }

    /// Returns all of its faults.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let at = |field: &'static str, why: String| Fault::new(&self.about.id, field, why);
        let mut faults = self.about.faults();
        faults.extend(self.wrong.iter().map(|(field, why)| at(field, why.clone())));
        if self.rule.word.counts() && self.rule.n == 0 {
            faults.push(at("n", "it counts to 0: write 1 or more".into()));
        }
        faults.extend(self.escalations.faults(&self.about.id, self.about.severity));
        if self.rule.window.is_some_and(Window::is_empty) {
            faults.push(at("within", "the window ends before it begins".into()));
        }
        if self.guard && !self.can_refuse() {
            let why = format!(
                "no event violates `{}`, only time does, so nothing could ever be refused: say `closed_by`, or leave `guard` out",
                self.rule.word
            );
            faults.push(at("guard", why));
        }
        faults.extend(self.vacuous().map(|(field, why)| at(field, why)));
        faults.extend(self.lens.evidence().iter().flat_map(|evidence| evidence.faults(&self.about.id)));
        faults
    }

    /// Returns why nothing could ever violate it, and what would be right: the field, and a sentence. `None` if something can.
    fn vacuous(&self) -> Option<(&'static str, String)> {
        use Word::{Absence, Balances, End, Exactly, Existence, RespondedExistence, Response, Standing};
        let Rule { word, window, .. } = self.rule;
        let ends = window.is_some_and(|window| window.to.is_some());
        if word == Absence
            && let Some(Window { from, to }) = window
            && (from != calendar::Length::Exact(0) || to.is_none())
        {
            let why = "an absence holds in every stretch of its window's length, so the window has no beginning, and an end: say \
                       `within` alone";
            return Some(("within", why.into()));
        }
        let can_be = self.unbounded
            || self.lens.closes()
            || match word {
                End => false,
                Existence | Exactly | RespondedExistence | Response | Standing | Balances => ends,
                _ => true,
            };
        (!can_be).then(|| match word {
            End => {
                ("closed_by", "without it no event is the last of a key, and nothing is ever violated".into())
            }
            Exactly => (
                "within",
                "without it or `closed_by` fewer are never violated: say one, or `absence` of one more, which forbids more alone".into(),
            ),
            _ => ("within", format!("without it or `closed_by` nothing ever violates `{word}`")),
        })
    }
}

type EventPredicate<E> = Arc<dyn Fn(&E) -> bool + Send + Sync>;

impl About {
    fn word<E: EventSet>(
        self,
        word: Word,
        a: EventPredicate<E>,
        b: Option<EventPredicate<E>>,
    ) -> Sequence<E> {
        Sequence {
            about: self.into(),
            rule: Rule { word, window: None, n: 0, sums: Sums::default(), ordered: false },
            clocked: Clocked::Recorded,
            skew: None,
            imported: false,
            unbounded: false,
            guard: false,
            shape: String::new(),
            wrong: None,
            escalations: Escalations::default(),
            lens: Typed { a, b, c: None, close: None, key: None, tie: None, time: None, amounts: None, word },
        }
    }
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident, $word:ident, $made:ident;)+) => {
        impl About {
            $($(#[$doc])*
            pub fn $name<E: EventSet>(
                self,
                a: impl Fn(&E) -> bool + Send + Sync + 'static,
                b: impl Fn(&E) -> bool + Send + Sync + 'static,
            ) -> $made<E> {
                words!(@$made self.word(Word::$word, Arc::new(a), Some(Arc::new(b))))
            })+
        }
    };
    (@Sequence $sequence:expr) => { $sequence };
    (@Open $sequence:expr) => { Open($sequence) };
}

words! {
    /// After each A a later B.
    response, Response, Open;
    /// Before each B an earlier A. The A come first in the arguments, as in time.
    precedence, Precedence, Sequence;
    /// After each A a later B, and before each B an earlier A.
    succession, Succession, Open;
    /// After each A a B, before the next A.
    alternate_response, AlternateResponse, Open;
    /// Before each B an A that comes after the B before it.
    alternate_precedence, AlternatePrecedence, Sequence;
    /// The next event of the key after each A is a B.
    chain_response, ChainResponse, Open;
    /// The event of the key just before each B is an A.
    chain_precedence, ChainPrecedence, Sequence;
    /// For each A a B, earlier or later.
    responded_existence, RespondedExistence, Open;
    /// Not both an A and a B.
    not_coexistence, NotCoexistence, Sequence;
    /// After an A no B.
    not_response, NotResponse, Open;
    /// Before a B no A: the same cases as `not_response`, counted on the B.
    not_precedence, NotPrecedence, Sequence;
    /// The next event of the key after an A is not a B.
    not_chain_response, NotChainResponse, Open;
    /// After an A no B, until the scope ends: say `until`.
    absent_between, AbsentBetween, Open;
    /// Each A is closed by a B of its own, first come first served; a B with nothing to close is a violation.
    each_closed_by, EachClosedBy, Open;
}

impl About {
    /// At least `n` events are A. Set a window from the first event of the key, or the events that close the key.
    pub fn existence<E: EventSet>(
        self,
        n: u32,
        a: impl Fn(&E) -> bool + Send + Sync + 'static,
    ) -> Sequence<E> {
        self.counted(Word::Existence, n, a)
    }

    /// Fewer than `n` events are A: in all, or with `within` in every stretch of that length.
    pub fn absence<E: EventSet>(self, n: u32, a: impl Fn(&E) -> bool + Send + Sync + 'static) -> Sequence<E> {
        self.counted(Word::Absence, n, a)
    }

    /// Exactly `n` events are A. Set a window from the first event of the key, or the events that close the key.
    pub fn exactly<E: EventSet>(self, n: u32, a: impl Fn(&E) -> bool + Send + Sync + 'static) -> Sequence<E> {
        self.counted(Word::Exactly, n, a)
    }

    fn counted<E: EventSet>(
        self,
        word: Word,
        n: u32,
        a: impl Fn(&E) -> bool + Send + Sync + 'static,
    ) -> Sequence<E> {
        let mut sequence = self.word(word, Arc::new(a), None);
        sequence.rule.n = n;
        sequence
    }

    /// The first event of a key is an A.
    pub fn init<E: EventSet>(self, a: impl Fn(&E) -> bool + Send + Sync + 'static) -> Sequence<E> {
        self.word(Word::Init, Arc::new(a), None)
    }

    /// The last event of a key is an A. Set the events that close the key.
    pub fn end<E: EventSet>(self, a: impl Fn(&E) -> bool + Send + Sync + 'static) -> Sequence<E> {
        self.word(Word::End, Arc::new(a), None)
    }

    /// Requires that a state which an A switches on is switched off by a B before it lasts longer than this.
    pub fn switched_off<E: EventSet>(
        self,
        on: impl Fn(&E) -> bool + Send + Sync + 'static,
        off: impl Fn(&E) -> bool + Send + Sync + 'static,
        for_longer_than: impl Into<Span>,
    ) -> Sequence<E> {
        self.word(Word::Standing, Arc::new(on), Some(Arc::new(off))).within(for_longer_than)
    }
}

/// A word over events of one key, with its window, scope and key.
#[must_use = "a check does nothing until it is in a setup"]
pub struct Sequence<E> {
    about: Described,
    rule: Rule,
    clocked: Clocked,
    skew: Option<Time>,
    imported: bool,
    unbounded: bool,
    guard: bool,
    shape: String,
    /// As in a [`Check`].
    wrong: Option<(&'static str, String)>,
    escalations: Escalations,
    lens: Typed<E>,
}

/// A word that would remember its activations for ever: it becomes a check when something ends them.
#[must_use = "say `within`, `until` or `closed_by`, or that it is `unbounded`"]
pub struct Open<E>(Sequence<E>);

impl<E: EventSet> Open<E> {
    /// As [`Sequence::by`].
    pub fn by<K: Key>(self, key: impl Fn(&E) -> K + Send + Sync + 'static) -> Self {
        Self(self.0.by(key))
    }

    /// As [`Sequence::tied`].
    pub fn tied<K: Key>(self, tie: impl Fn(&E) -> K + Send + Sync + 'static) -> Self {
        Self(self.0.tied(tie))
    }

    /// As [`Sequence::at`].
    pub fn at(
        self,
        time: impl Fn(&E) -> Option<SystemTime> + Send + Sync + 'static,
        lateness: Duration,
    ) -> Self {
        Self(self.0.at(time, lateness))
    }

    /// As [`Sequence::skew`].
    pub fn skew(self, skew: Duration) -> Self {
        Self(self.0.skew(skew))
    }

    /// As [`Sequence::imported`].
    pub fn imported(self) -> Self {
        Self(self.0.imported())
    }

    /// Ends the scope with such an event, the C: activations before it no longer count. It is no bound, as it may never come.
    pub fn unless(self, scope: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        Self(self.0.until(scope))
    }

    /// As `unless`, and enough of a bound: it declares that such an event comes.
    pub fn until(self, scope: impl Fn(&E) -> bool + Send + Sync + 'static) -> Sequence<E> {
        self.0.until(scope)
    }

    /// As [`Sequence::within`].
    pub fn within(self, window: impl Into<Span>) -> Sequence<E> {
        self.0.within(window)
    }

    /// As [`Sequence::within_days`].
    pub fn within_days(self, days: u32, zone: impl Into<Cow<'static, str>>) -> Sequence<E> {
        self.0.within_days(days, zone)
    }

    /// As [`Sequence::between`].
    pub fn between(self, from: impl Into<Span>, to: impl Into<Span>) -> Sequence<E> {
        self.0.between(from, to)
    }

    /// As [`Sequence::closed_by`].
    pub fn closed_by(self, close: impl Fn(&E) -> bool + Send + Sync + 'static) -> Sequence<E> {
        self.0.closed_by(close)
    }

    /// Allows it to remember activations for ever. An activation that only waits is then never violated.
    pub fn unbounded(mut self) -> Sequence<E> {
        self.0.unbounded = true;
        self.0
    }
}

impl<E: EventSet> Sequence<E> {
    /// Sets the key that relates the events. Without it, their stream.
    pub fn by<K: Key>(mut self, key: impl Fn(&E) -> K + Send + Sync + 'static) -> Self {
        self.lens.key = Some(lens::keyed(key));
        self.shape.push_str("by;");
        self
    }

    /// Sets a value that must be equal on A and B, besides the key: an order's line, say.
    pub fn tied<K: Key>(mut self, tie: impl Fn(&E) -> K + Send + Sync + 'static) -> Self {
        self.lens.tie = Some(lens::keyed(tie));
        self.shape.push_str("tied;");
        self
    }

    /// Goes by the time that events say, instead of that of their commits. It may be up to `lateness` before that of an event
    /// recorded earlier; one that is later still may retract a violation, which is recorded. An event without a time has that of
    /// its commit.
    ///
    /// The check's watermark is the latest time that an event has said, less `lateness`. In a quiet store it is that of the last
    /// commit, less `lateness` and [`skew`](Self::skew), and the store records that time passes where something is due.
    pub fn at(
        mut self,
        time: impl Fn(&E) -> Option<SystemTime> + Send + Sync + 'static,
        lateness: Duration,
    ) -> Self {
        self.lens.time = Some(Arc::new(time));
        let lateness = micros(lateness);
        self.clocked = Clocked::Events { lateness, skew: Clocked::SKEW, imported: false };
        self
    }

    /// Sets how far the clocks of event producers may be ahead of the store's. Default 5 minutes. An event that is further ahead
    /// does not move the check's watermark, and is a finding. Only with [`at`](Self::at).
    pub fn skew(mut self, skew: Duration) -> Self {
        self.skew = Some(micros(skew));
        self
    }

    /// Declares that the events are imported history: only they, and [`complete`](crate::watch::Checks::complete), move the
    /// check's watermark, and the time of commits does not. Only with [`at`](Self::at).
    pub fn imported(mut self) -> Self {
        self.imported = true;
        self
    }

    /// Counts events up to this far apart, inclusive. The length is added to the earlier one's time.
    pub fn within(self, window: impl Into<Span>) -> Self {
        self.between(Duration::ZERO, window)
    }

    /// Counts events up to so many days of a zone's calendar apart. A day may have 23 or 25 hours; see [`Span`].
    pub fn within_days(self, days: u32, zone: impl Into<Cow<'static, str>>) -> Self {
        self.within(Span::in_zone(zone).days(days))
    }

    /// Counts events whose distance is in this range, both ends included.
    pub fn between(self, from: impl Into<Span>, to: impl Into<Span>) -> Self {
        self.windowed(&from.into(), Some(&to.into()))
    }

    /// Counts events at least this far apart.
    pub fn after(self, from: impl Into<Span>) -> Self {
        self.windowed(&from.into(), None)
    }

    fn windowed(mut self, from: &Span, to: Option<&Span>) -> Self {
        let length = |field, span: &Span| span.length().map_err(|(at, why)| (at.unwrap_or(field), why));
        let window = length("not_before", from).and_then(|from| {
            let to = to.map(|to| length("within", to)).transpose()?;
            Ok(Window { from, to })
        });
        match window {
            Ok(window) => self.rule.window = Some(window),
            Err(wrong) => self.wrong = Some(wrong),
        }
        self
    }

    /// Ends the scope with such an event, the C: activations before it no longer count.
    pub fn until(mut self, scope: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.lens.c = Some(Arc::new(scope));
        self.shape.push_str("until;");
        self
    }

    /// Ends the key with such an event: all that waits is judged, and nothing is remembered. Later events begin it anew.
    pub fn closed_by(mut self, close: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.lens.close = Some(Arc::new(close));
        self.shape.push_str("closed;");
        self
    }

    /// As [`Check::guard`].
    pub fn guard(mut self) -> Self {
        self.guard = true;
        self
    }

    /// As [`Check::version`].
    pub fn version(self, version: u32) -> Check {
        Check::from(self).version(version)
    }
}

impl<E: EventSet> From<Sequence<E>> for Check {
    fn from(sequence: Sequence<E>) -> Self {
        let Sequence { about, rule, mut clocked, guard, mut shape, mut wrong, escalations, lens, .. } =
            sequence;
        shape.extend(rule.window.map(Window::rules));
        match &mut clocked {
            Clocked::Events { skew, imported, .. } => {
                (*skew, *imported) = (sequence.skew.unwrap_or(*skew), sequence.imported);
            }
            _ if sequence.skew.is_some() || sequence.imported => {
                wrong = wrong.or(Some((
                    "time",
                    "`skew` and `imported` are of events that say their own time: say `at`".into(),
                )));
            }
            _ => {}
        }
        let unbounded = sequence.unbounded;
        Self { guard, escalations, wrong, unbounded, ..Self::new(about, rule, clocked, lens, shape) }
    }
}

fn micros(duration: Duration) -> Time {
    Time::try_from(duration.as_micros()).unwrap_or(Time::MAX)
}

/// Converts to the time of checks. Saturates.
pub(crate) fn time_of(timestamp: Timestamp) -> Time {
    Time::try_from(timestamp.micros()).unwrap_or(Time::MAX)
}
