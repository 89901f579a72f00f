//! Meaning of checks of a sequence: the words of DECLARE, judged one event at a time.
//!
//! - Events of one key are judged in the order of the log, never by their times; times are looked at by windows alone.
//! - A key's [`State`](super::state::State) is all that is kept of its events. It is a function of them and of the watermark.
//! - An event that is several things at once ends scopes first, then closes what earlier events opened, then opens.
//! - A window includes both its ends. A deadline `t` is violated by a watermark after `t`, not by one at `t`.
//!
//! ```text
//! word                  activation  satisfied when                  violated when
//! existence(n)          key         n A in the window               window over, or closed
//! absence(n)            key         closed                          the n-th A; with a window, n of them in any stretch of its length
//! exactly(n)            key         closed or window over with n    the n+1-th A; closed or over with fewer
//! init, end             key         its first, last event is A      it is not (end: once closed)
//! not coexistence       A or B      closed                          the second of the two
//! responded existence   A           a B on either side              window over, or closed
//! response              A           a later B                       window over, or closed
//! precedence            B           an earlier A                    at once
//! succession            A, B        both of the above               either
//! alternate response    A           a B before the next A           the next A, window over, closed
//! alternate precedence  B           an A since the B before         at once
//! chain response        A           the next event is B             it is not; window over, closed
//! chain precedence      B           the event before is A           at once
//! not response          A           window over, scope over, closed a later B
//! not precedence        B           no earlier A                    at once
//! not chain response    A           the next event is not B         it is
//! absent between        A           as not response, up to a C      a B before it
//! each closed by        A, odd B    its own B, first come first     window over, closed; a B with nothing open
//! standing              A while off B in time                       window over
//! balances              sum not 0   sum 0 in time                   window over, closed
//! equals                said value  it is what the events add up    it is not, at the end of its bucket
//! ```
//!
//! A C ends the scope of every word that waits: all that is open then is satisfied. The words and their meaning are those of
//! Pesic, Schonenberg and van der Aalst, *DECLARE* (2007), with the windows of Burattin, Maggi and Sperduti, *Conformance
//! checking based on multi-perspective declarative process models* (2016); the scopes are Dwyer's, *Patterns in property
//! specifications for finite-state verification* (1999).

use super::calendar::Length;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A word of DECLARE: the relation that it requires of events of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Word {
    Existence,
    Absence,
    Exactly,
    Init,
    End,
    NotCoexistence,
    RespondedExistence,
    Response,
    Precedence,
    Succession,
    AlternateResponse,
    AlternatePrecedence,
    ChainResponse,
    ChainPrecedence,
    NotResponse,
    NotPrecedence,
    NotChainResponse,
    AbsentBetween,
    EachClosedBy,
    Standing,
    Balances,
    Equals,
}

impl Word {
    /// All words, with their names in files.
    pub const ALL: [(&'static str, Word); 22] = [
        ("existence", Word::Existence),
        ("absence", Word::Absence),
        ("exactly", Word::Exactly),
        ("init", Word::Init),
        ("end", Word::End),
        ("not_coexistence", Word::NotCoexistence),
        ("responded_existence", Word::RespondedExistence),
        ("response", Word::Response),
        ("precedence", Word::Precedence),
        ("succession", Word::Succession),
        ("alternate_response", Word::AlternateResponse),
        ("alternate_precedence", Word::AlternatePrecedence),
        ("chain_response", Word::ChainResponse),
        ("chain_precedence", Word::ChainPrecedence),
        ("not_response", Word::NotResponse),
        ("not_precedence", Word::NotPrecedence),
        ("not_chain_response", Word::NotChainResponse),
        ("absent_between", Word::AbsentBetween),
        ("each_closed_by", Word::EachClosedBy),
        ("standing", Word::Standing),
        ("balances", Word::Balances),
        ("equals", Word::Equals),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, word)| *word == self).expect("every word is listed").0
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, word)| *word)
    }

    /// Returns whether it is judged once for each key.
    pub fn is_of_key(self) -> bool {
        use Word::{Absence, End, Exactly, Existence, Init, NotCoexistence};
        matches!(self, Existence | Absence | Exactly | Init | End | NotCoexistence)
    }

    /// Returns whether it counts A.
    pub fn counts(self) -> bool {
        matches!(self, Word::Existence | Word::Absence | Word::Exactly)
    }

    /// Returns whether it relates A to B.
    pub fn has_target(self) -> bool {
        !matches!(self, Word::Existence | Word::Absence | Word::Exactly | Word::Init | Word::End)
            && !self.adds()
    }

    /// Returns whether it adds up amounts of events, instead of relating their roles.
    pub fn adds(self) -> bool {
        matches!(self, Word::Balances | Word::Equals)
    }

    /// Returns whether neighbouring events matter to it, even those without a role.
    pub fn sees_neighbours(self) -> bool {
        use Word::{ChainPrecedence, ChainResponse, End, Init, NotChainResponse};
        matches!(self, ChainResponse | ChainPrecedence | NotChainResponse | Init | End) || self.counts()
    }

    /// Returns the revision of the word's meaning: a definition judged by an older one is judged anew.
    pub fn revision(self) -> u32 {
        match self {
            // Second meaning: `Absence` slides its window; buckets of `Equals` wait for late events.
            Word::Absence | Word::Equals => 2,
            _ => 1,
        }
    }

    /// Returns whether each activation may be remembered for ever without a window, a scope or a close.
    pub fn waits(self) -> bool {
        use Word::{
            AbsentBetween, EachClosedBy, NotChainResponse, NotResponse, RespondedExistence, Response,
        };
        use Word::{AlternateResponse, ChainResponse, Succession};
        matches!(
            self,
            Response
                | Succession
                | NotResponse
                | AbsentBetween
                | NotChainResponse
                | RespondedExistence
                | EachClosedBy
                | AlternateResponse
                | ChainResponse
        )
    }

    /// Returns whether an event can violate it, and not only time or the end of its key.
    pub fn is_violated_by_events(self) -> bool {
        use Word::{Balances, End, Existence, RespondedExistence, Response, Standing};
        !matches!(self, Existence | End | RespondedExistence | Response | Standing | Balances)
    }

    /// Returns whether a violation by time ends when the missing event comes. All others are facts that nothing undoes.
    pub fn heals(self) -> bool {
        use Word::{
            AlternateResponse, Balances, ChainResponse, EachClosedBy, Existence, RespondedExistence,
            Response, Standing, Succession,
        };
        matches!(
            self,
            Balances
                | Existence
                | Response
                | RespondedExistence
                | Succession
                | AlternateResponse
                | ChainResponse
                | EachClosedBy
                | Standing
        )
    }

    /// Returns whether an activation without an answer is satisfied.
    pub(super) fn forbids(self) -> bool {
        matches!(self, Word::NotResponse | Word::NotChainResponse | Word::AbsentBetween)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Microseconds since 1970; events may say times before it.
pub(crate) type Time = i64;

/// Range of the time between two events: both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Window {
    pub from: Length,
    pub to: Option<Length>,
}

impl Window {
    /// Returns a window from 0 to exactly this long.
    pub fn within(to: Time) -> Self {
        Self { from: Length::Exact(0), to: Some(Length::Exact(to)) }
    }

    /// Returns the first moment of the window of an event at this time.
    pub fn begin(self, time: Time) -> Time {
        self.from.after(time)
    }

    /// Returns the last moment, if there is one. By a calendar, an earlier event's window may end later.
    pub fn end(self, time: Time) -> Option<Time> {
        self.to.map(|to| to.after(time))
    }

    /// Returns whether it ends before it begins for every time of an event.
    pub(super) fn is_empty(self) -> bool {
        self.to.is_some_and(|to| self.from.always_exceeds(to))
    }

    /// Returns the rules of its zones as text: a zone database with other rules makes it another window.
    pub(super) fn rules(self) -> String {
        let zones = [Some(self.from), self.to].into_iter().flatten().filter_map(Length::zone);
        zones.map(|zone| format!(" zone {} {}", zone.name(), zone.rules())).collect()
    }

    /// Returns whether `later` is in the window of an event at `time`.
    pub(super) fn holds(self, time: Time, later: Time) -> bool {
        self.begin(time) <= later && self.end(time).is_none_or(|end| later <= end)
    }
}

/// A word with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    pub word: Word,
    /// `None`: times do not matter.
    pub window: Option<Window>,
    /// Number of A, for a word that counts.
    pub n: u32,
    /// Settings of the comparison, for a word that adds up.
    pub sums: Sums,
    /// True if times never go back along the log: they are those of commits.
    pub ordered: bool,
}

impl Rule {
    /// Returns the rule of a state that must not last longer than this.
    pub fn standing(longest: Time) -> Self {
        let window = Some(Window::within(longest));
        Self { word: Word::Standing, window, n: 0, sums: Sums::default(), ordered: false }
    }

    /// Returns whether it counts in every stretch of the window's length, and not once for each key.
    pub fn slides(&self) -> bool {
        self.word == Word::Absence && self.window.is_some()
    }

    /// Returns whether, of earlier events with one tie, only the last matters to a later event: the others' windows end first.
    pub(super) fn last_is_enough(&self) -> bool {
        let exact = |window: Window| {
            window.from == Length::Exact(0) && window.to.is_none_or(|to| matches!(to, Length::Exact(_)))
        };
        self.ordered && self.window.is_none_or(exact)
    }
}

/// Settings of the comparison of totals with the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Sums {
    /// Largest difference that is allowed, for each contribution that was rounded and at least once.
    pub tolerance: u64,
    /// True if later events add to the stated total instead of to the sum, so that one error is found once.
    pub carried: bool,
}

/// Roles of an event for a rule: any of these at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Roles(pub u8);

impl Roles {
    pub const A: Roles = Roles(1);
    pub const B: Roles = Roles(2);
    /// Ends the scope.
    pub const C: Roles = Roles(4);
    /// Ends the key: later events begin it anew.
    pub const CLOSE: Roles = Roles(8);

    pub fn has(self, role: Roles) -> bool {
        self.0 & role.0 != 0
    }

    pub fn with(self, role: Roles, is: bool) -> Self {
        Roles(self.0 | if is { role.0 } else { 0 })
    }
}

/// An event of one key, as a rule sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub position: u64,
    pub time: Time,
    pub roles: Roles,
    /// Hash of the values that must be equal on both sides: of the event as A, and as B. 0 if there are none.
    pub tie_a: u64,
    pub tie_b: u64,
    pub amount: Amount,
}

/// Amounts of an event, in minor units, as all that is added up must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Amount {
    pub adds: i64,
    /// True if the amount that it adds was rounded.
    pub rounded: bool,
    /// Total that it states.
    pub says: Option<i64>,
    /// End of its bucket, exclusive. `None`: it is compared at once.
    pub bucket_end: Option<Time>,
}

/// Verdict on an activation that is put on record. A satisfied one is only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    Violated,
    /// The missing event came after all, too late.
    Healed,
    /// The missing event had come in time, and was recorded late: it never was a violation.
    Retracted,
    /// The event could not be read, or came too late to be compared.
    Untold,
    /// The event says a time too far ahead of the store's clock.
    Skewed,
}

/// A verdict, and its evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub verdict: Verdict,
    /// Position of the activation; of words judged once for each key, of the key's first event.
    pub activation: u64,
    /// Position of the event that decided it; 0 if time or the key's end did.
    pub by: u64,
    /// Time at which it was decided, in the rule's own time.
    pub decided: Time,
    /// For a word that adds up: the stated total, and the right one. For a skewed event: its time, and that of its commit.
    pub amounts: Option<(i64, i64)>,
}

/// Counts of a rule's verdicts so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub activations: u64,
    pub satisfied: u64,
    pub violated: u64,
    /// Keys with a violation.
    pub keys_violated: u64,
    pub healed: u64,
    pub retracted: u64,
    /// Events that could not be read.
    pub untold: u64,
    /// Events that say a time too far ahead.
    pub skewed: u64,
}

impl Counts {
    pub fn pending(&self) -> u64 {
        self.activations - self.satisfied - self.violated
    }
}

/// Results of steps: counts, findings, deadlines and waits.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub counts: Counts,
    pub findings: Vec<Finding>,
    /// Times after which the key is to be looked at again.
    pub deadlines: Vec<Time>,
    /// Time that each activation waited for its answer. `None`: not recorded.
    pub waits: Option<Vec<Time>>,
}

impl Outcome {
    /// Counts an activation at `time` as satisfied by an event at `later`.
    pub(super) fn answered(&mut self, time: Time, later: Time) {
        self.counts.satisfied += 1;
        if let Some(waits) = &mut self.waits {
            waits.push(later.saturating_sub(time));
        }
    }
}
