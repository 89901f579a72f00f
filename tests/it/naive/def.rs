//! What a check of a sequence says, as the oracle files write it.

use super::Event;
use super::rome::Calendar;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Def {
    pub id: String,
    pub template: Template,
    /// The first role: what activates, or what must have come before. For `standing`, what turns it on.
    #[serde(rename = "A")]
    pub a: Option<Selector>,
    /// The second role. For `standing`, what turns it off.
    #[serde(rename = "B")]
    pub b: Option<Selector>,
    /// What ends the scope of `absent_between`.
    #[serde(rename = "C")]
    pub c: Option<Selector>,
    /// The count of `existence`, `absence` and `exactly`.
    pub n: Option<usize>,
    pub window: Option<Window>,
    /// Attributes that an A and its B must have in common.
    #[serde(default)]
    pub corr: Vec<String>,
    /// How many milliseconds `standing` may last.
    #[serde(rename = "for")]
    pub lasting: Option<i64>,
    #[expect(dead_code, reason = "the files have it, for people")]
    pub note: Option<String>,
    /// By what the window and `for` are counted, if not in milliseconds. The oracles know no calendar.
    #[serde(skip)]
    pub calendar: Option<Calendar>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    Existence,
    Absence,
    Exactly,
    Init,
    End,
    RespondedExistence,
    NotCoexistence,
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
}

impl Template {
    #[rustfmt::skip]
    pub const ALL: [Template; 20] = {
        use Template::*;
        [
            Existence, Absence, Exactly, Init, End, RespondedExistence, NotCoexistence, Response, Precedence, Succession,
            AlternateResponse, AlternatePrecedence, ChainResponse, ChainPrecedence, NotResponse, NotPrecedence,
            NotChainResponse, AbsentBetween, EachClosedBy, Standing,
        ]
    };

    pub fn counts(self) -> bool {
        matches!(self, Self::Existence | Self::Absence | Self::Exactly)
    }

    /// Relates an A to a B, so that a window and attributes in common mean something.
    pub fn pairs(self) -> bool {
        let of_one = self.counts() || matches!(self, Self::Init | Self::End);
        !of_one && !matches!(self, Self::NotCoexistence | Self::Standing)
    }

    /// Judged once for a case, not once for an activation.
    pub fn of_the_case(self) -> bool {
        self.counts() || matches!(self, Self::Init | Self::End | Self::NotCoexistence)
    }
}

impl Def {
    /// # Panics
    ///
    /// Where a part that the template needs is missing, or one is there that it would ignore: such a definition says something
    /// else than its author thinks.
    pub fn assert_well_formed(&self) {
        let (id, template) = (&self.id, self.template);
        let one_role = template.counts() || matches!(template, Template::Init | Template::End);
        for (part, given, wanted) in [
            ("A", self.a.is_some(), true),
            ("B", self.b.is_some(), !one_role),
            ("C", self.c.is_some(), template == Template::AbsentBetween),
            ("n", self.n.is_some(), template.counts()),
            ("for", self.lasting.is_some(), template == Template::Standing),
        ] {
            assert_eq!(given, wanted, "{id}: {template:?} and `{part}`: given, wanted");
        }
        assert!(
            self.window.is_none() || template.counts() || template.pairs(),
            "{id}: {template:?} has no window"
        );
        assert!(self.corr.is_empty() || template.pairs(), "{id}: {template:?} relates no pair");
        assert!(self.n != Some(0), "{id}: a count of none");
        if let Some(Window { lo, hi }) = self.window {
            assert!(0 <= lo && hi.is_none_or(|hi| lo <= hi), "{id}: a window from {lo} to {hi:?}");
        }
    }
}

impl Def {
    /// So many milliseconds, or units of its calendar, after a time.
    pub fn later(&self, since: i64, by: i64) -> i64 {
        self.calendar.map_or(since + by, |calendar| calendar.later(since, by))
    }
}

/// Milliseconds, both ends inclusive. Without `hi` it never ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "(i64, Option<i64>)")]
pub struct Window {
    pub lo: i64,
    pub hi: Option<i64>,
}

impl From<(i64, Option<i64>)> for Window {
    fn from((lo, hi): (i64, Option<i64>)) -> Self {
        Self { lo, hi }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Selector {
    Type(String),
    Any(Vec<Selector>),
    Where(Where),
}

/// Either may be missing; an event must have all of `attr`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Where {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub attr: Map<String, Value>,
}

impl Selector {
    pub fn takes(&self, event: &Event) -> bool {
        match self {
            Self::Type(kind) => *kind == event.kind,
            Self::Any(selectors) => selectors.iter().any(|selector| selector.takes(event)),
            Self::Where(Where { kind, attr }) => {
                kind.as_ref().is_none_or(|kind| *kind == event.kind)
                    && attr.iter().all(|(name, value)| event.attrs.get(name) == Some(value))
            }
        }
    }
}
