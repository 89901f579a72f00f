//! Checks of amounts as data: fields that add up, and fields that say what they have come to.

use super::calendar::Bucket;
use super::data::{KEYS, Selector, key_at, key_text_at, parse_time, time_at};
use super::glance::Glance;
use super::lens::{Lens, Looked};
use super::vocabulary::{Misnamed, Vocabulary, number, path};
use super::word::{Amount, Roles, Rule, Seen, Sums, Time, Window, Word};
use super::zone::Zone;
use super::{Check, Clocked, Described, Fault, Severity, time_of};
use crate::error::DecodeError;
use crate::event::Family;
use crate::value::Value;
use serde::{Deserialize, Serialize};

/// A check of amounts as a file says it. See [`About::equals`](super::About::equals) and [`About::balances`](super::About::balances).
///
/// ```
/// let checks = tallystone::check::rules::parse(
///     r#"
///     [check.total-paid]
///     kind = "equals"
///     adds = [{ when = "fine.Paid", field = "cents" }, { when = "fine.Returned", field = "cents", times = -1 }]
///     says = { when = "fine.Paid", field = "total" }
///     key = "fine"
///     bucket = "1d"
///     severity = "ticket"
///     owner = "collections"
///     means = "The total on a payment is not the sum of the payments."
///     remedy = "1 add the payments up; 2 correct the total"
///     "#,
///     "fines.toml",
/// )?;
/// assert_eq!(checks[0].id(), "total-paid");
/// # Ok::<(), tallystone::check::rules::RuleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SumsRule {
    /// Its name, unique in the store.
    pub id: String,
    /// `equals`, or `balances`.
    pub kind: String,
    /// Terms that are added up: of each event, the first that applies.
    pub adds: Vec<Term>,
    /// Term that states the sum. Of `equals` only.
    #[serde(default)]
    pub says: Option<Term>,
    /// Smallest units in one unit of the field: 100 if a field has euros and cents are added up. Floats are rounded to it.
    #[serde(default)]
    pub scale: Option<u32>,
    /// Largest difference that is allowed, in the smallest unit.
    #[serde(default)]
    pub tolerance: u64,
    /// Events that add a rounded amount: the tolerance is for each of these.
    #[serde(default)]
    pub rounded: Option<Selector>,
    /// Length of a bucket: values are compared at the end of each.
    #[serde(default)]
    pub bucket: Option<String>,
    /// The zone whose days, weeks and months a bucket has.
    #[serde(default)]
    pub zone: Option<String>,
    /// Later events add to the value that was stated, instead of to the sum.
    #[serde(default)]
    pub carried: bool,
    /// Longest time out of balance that is allowed. Of `balances` only.
    #[serde(default)]
    pub within: Option<String>,
    /// Events that end the key.
    #[serde(default)]
    pub closed_by: Option<Selector>,
    /// The field that relates the events. Without it, their stream.
    #[serde(default)]
    pub key: Option<String>,
    /// The field with the time that the event says, in milliseconds since 1970. Without it, that of its commit counts.
    #[serde(default)]
    pub time: Option<String>,
    /// Allowed lateness: how far the time of an event may be before that of one recorded earlier.
    #[serde(default)]
    pub lateness: Option<String>,
    /// Types that only raw appends bring, as in [`Definition::expects`](super::Definition::expects).
    #[serde(default)]
    pub expects: Vec<String>,
    /// Maximum lead of an event's time over the store's clock. Default 5 minutes.
    #[serde(default)]
    pub skew: Option<String>,
    /// The events are history that is read in: the time of commits does not count.
    #[serde(default)]
    pub imported: bool,
    /// Severity of a violation.
    pub severity: Severity,
    /// Owner: the person or team that sees to it.
    pub owner: String,
    /// Meaning of a violation, in a sentence.
    pub means: String,
    /// Remediation steps for a violation, in order.
    pub remedy: String,
}

/// A field of some events. An event without it says nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Term {
    /// Events that have the field.
    pub when: Selector,
    /// The dotted path of the field.
    pub field: String,
    /// Factor of the value: -1 subtracts it.
    #[serde(default)]
    pub times: Option<i32>,
}

impl SumsRule {
    fn selectors(&self) -> impl Iterator<Item = (&'static str, &Selector)> {
        let adds = self.adds.iter().map(|term| ("adds", &term.when));
        let says = self.says.iter().map(|term| ("says", &term.when));
        let closed = self.closed_by.iter().map(|selector| ("closed_by", selector));
        adds.chain(says).chain(self.rounded.iter().map(|selector| ("rounded", selector))).chain(closed)
    }
}

impl TryFrom<SumsRule> for Check {
    type Error = Fault;

    /// # Errors
    ///
    /// The field that is wrong, and what would be right.
    fn try_from(rule: SumsRule) -> Result<Self, Fault> {
        let at = |field: &'static str, why: &str| Fault::new(&rule.id, field, why);
        let time = |field: &'static str, text: &Option<String>| match text {
            Some(text) => parse_time(text).map(Some).map_err(|why| at(field, &why)),
            None => Ok(None),
        };
        if rule.adds.is_empty() {
            return Err(at("adds", "it is empty: nothing is added up"));
        }
        for (field, selector) in rule.selectors() {
            if let Some(fault) = selector.fault() {
                return Err(at(field, &fault));
            }
        }
        let within = time("within", &rule.within)?;
        let zone = rule.zone.as_deref().map(Zone::named).transpose().map_err(|why| at("zone", &why))?;
        let bucket = rule.bucket.as_deref().map(|text| Bucket::read(text, zone)).transpose();
        let bucket = bucket.map_err(|why| at("bucket", &why))?;
        if zone.is_some() && bucket.is_none() {
            return Err(at("zone", "it is of a `bucket`, and there is none"));
        }
        let word = match rule.kind.as_str() {
            "equals" if rule.says.is_none() => return Err(at("says", "`equals` needs it")),
            "equals" if within.is_some() => return Err(at("within", "`equals` has none: say `bucket`")),
            "equals" => Word::Equals,
            "balances" if rule.says.is_some() => return Err(at("says", "`balances` has none")),
            "balances" if bucket.is_some() => return Err(at("bucket", "`balances` has none: say `within`")),
            "balances" if rule.tolerance > 0 || rule.carried || rule.rounded.is_some() => {
                return Err(at("kind", "`balances` has no `tolerance`, `rounded` or `carried`"));
            }
            "balances" if within.is_none() && rule.closed_by.is_none() => {
                return Err(at("within", "without it or `closed_by` nothing is ever found"));
            }
            "balances" => Word::Balances,
            _ => return Err(at("kind", "it is `equals` or `balances`")),
        };
        let lateness = time("lateness", &rule.lateness)?;
        let clocked = Clocked::said(rule.time.is_some(), lateness, time("skew", &rule.skew)?, rule.imported);
        let clocked = clocked.map_err(|(field, why)| at(field, why))?;
        let mut families = Vec::new();
        for (field, selector) in rule.selectors() {
            let named = selector.families().ok_or_else(|| at(field, "a selector names no type"))?;
            families.extend(named.into_iter().map(str::to_owned));
        }
        families.sort();
        families.dedup();
        let SumsRule { tolerance, carried, .. } = rule;
        let shape = format!(
            "adds {:?} says {:?} scale {:?} rounded {:?} bucket {bucket:?} {:?} closed_by {:?} key {:?} time {:?}",
            rule.adds,
            rule.says,
            rule.scale,
            rule.rounded,
            zone.map(|zone| zone.rules()),
            rule.closed_by,
            rule.key,
            rule.time
        ) + rule.key.as_ref().map_or("", |_| KEYS);
        let about = Described {
            id: rule.id.clone().into(),
            severity: rule.severity,
            owner: rule.owner.clone().into(),
            means: rule.means.clone().into(),
            remedy: rule.remedy.clone().into(),
        };
        let judged = Rule {
            word,
            window: within.map(Window::within),
            n: 0,
            sums: Sums { tolerance, carried },
            ordered: false,
        };
        Self::new(about, judged, clocked, SumMatcher { rule, families, bucket }, shape).without_faults()
    }
}

/// A lens of amounts by field name.
struct SumMatcher {
    rule: SumsRule,
    families: Vec<String>,
    bucket: Option<Bucket>,
}

impl SumMatcher {
    /// Reads the amount of an event under this term. `None`: it has none.
    fn read(&self, term: &Term, glance: &mut Glance<'_>) -> Result<Option<i64>, DecodeError> {
        if !term.when.is(glance)? {
            return Ok(None);
        }
        let Some(value) = glance.value()?.path(&term.field).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let scale = i128::from(self.rule.scale.unwrap_or(1));
        let whole = match value {
            Value::Int(number) => number.checked_mul(scale),
            Value::Float(number) if number.is_finite() => Some((number * scale as f64).round() as i128),
            _ => None,
        };
        let times = i128::from(term.times.unwrap_or(1));
        let amount = whole.and_then(|whole| i64::try_from(whole.checked_mul(times)?).ok());
        let amount = amount.ok_or_else(|| DecodeError::new(format!("`{}` is no amount", term.field)))?;
        Ok(Some(amount))
    }

    fn amount(&self, glance: &mut Glance<'_>, time: Time) -> Result<Option<Amount>, DecodeError> {
        let mut adds = None;
        for term in &self.rule.adds {
            if adds.is_none() {
                adds = self.read(term, glance)?;
            }
        }
        let says = match &self.rule.says {
            Some(term) => self.read(term, glance)?,
            None => None,
        };
        if adds.is_none() && says.is_none() {
            return Ok(None);
        }
        let rounded = match &self.rule.rounded {
            Some(selector) => adds.is_some() && selector.is(glance)?,
            None => false,
        };
        let bucket_end = self.bucket.map(|bucket| bucket.around(time).1);
        Ok(Some(Amount { adds: adds.unwrap_or(0), rounded, says, bucket_end }))
    }
}

impl Lens for SumMatcher {
    fn registers(&self) -> Vec<Family> {
        Vec::new()
    }

    fn families(&self) -> Vec<String> {
        self.families.clone()
    }

    fn closes(&self) -> bool {
        self.rule.closed_by.is_some()
    }

    fn look(&self, glance: &mut Glance<'_>) -> Result<Looked, DecodeError> {
        let time = time_at(glance, self.rule.time.as_deref())?;
        let said = time.unwrap_or_else(|| time_of(glance.recorded));
        let closes = match &self.rule.closed_by {
            Some(selector) => selector.is(glance)?,
            None => false,
        };
        let amount = self.amount(glance, said)?;
        if amount.is_none() && !closes {
            return Ok(Looked { time, seen: None });
        }
        let key = key_at(glance, self.rule.key.as_deref())?;
        let (position, amount) = (glance.position.get(), amount.unwrap_or_default());
        let roles = Roles::default().with(Roles::CLOSE, closes);
        let seen = Seen { position, time: said, roles, tie_a: 0, tie_b: 0, amount };
        Ok(Looked { time, seen: Some((key, seen)) })
    }

    fn compare(&self, known: &Vocabulary) -> Result<(), Misnamed> {
        let known = known.reader(&self.rule.expects);
        let mut all = Some(Vec::new());
        for (field, selector) in self.rule.selectors() {
            let more = known.selector(field, selector, &self.families)?;
            all = all.zip(more).map(|(all, more)| [all, more].concat());
        }
        let says = self.rule.says.iter().map(|term| ("says", term));
        for (field, term) in self.rule.adds.iter().map(|term| ("adds", term)).chain(says) {
            number(field, &known.selector(field, &term.when, &self.families)?, &term.field)?;
        }
        let fields = [("key", &self.rule.key), ("time", &self.rule.time)];
        fields
            .into_iter()
            .try_for_each(|(field, at)| at.iter().try_for_each(|at| path(field, &all, at).map(drop)))
    }

    fn key_text(&self, glance: &mut Glance<'_>) -> Result<String, DecodeError> {
        key_text_at(glance, self.rule.key.as_deref())
    }
}
