//! Checks as data: fields are named, payloads read through the layouts that the log keeps, or as JSON.
//!
//! ```text
//! selector := "FAMILY.Variant" | [selector, ..]  any of them | { type = "FAMILY.Variant", where = { field = value } }
//! time     := see `calendar`
//! ```

use super::calendar::{Length, Said};
use super::escalation::Escalations;
use super::glance::Glance;
use super::keys::KeyHash;
use super::lens::{Lens, Looked};
use super::rows::value_text;
use super::vocabulary::{Misnamed, Vocabulary, path};
use super::word::{Amount, Roles, Rule, Seen, Sums, Time, Window, Word};
use super::zone::Zone;
use super::{Check, Clocked, Described, Fault, Severity, time_of};
use crate::canonical::Writer;
use crate::error::DecodeError;
use crate::event::{self, Family};
use crate::value::Value;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// A check as a file says it. See the [module](crate::check) for its words.
///
/// Field names are dotted paths into the payload: `by.lines.0.cents`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Definition {
    /// Its name, unique in the store.
    pub id: String,
    /// The word: `response`, `absence`, ..
    pub kind: String,
    /// A: events that activate it, are counted, or switch it on.
    pub when: Selector,
    /// B: events that it relates A to, or that switch it off.
    #[serde(default)]
    pub then: Option<Selector>,
    /// C: events that end the scope.
    #[serde(default)]
    pub until: Option<Selector>,
    /// Events that end the key.
    #[serde(default)]
    pub closed_by: Option<Selector>,
    /// Number of A, for a word that counts.
    #[serde(default)]
    pub n: Option<u32>,
    /// The longest time between A and B: `15m`, `90d`, `1h30m`.
    #[serde(default)]
    pub within: Option<String>,
    /// The shortest time between A and B.
    #[serde(default)]
    pub not_before: Option<String>,
    /// The time zone by whose calendar `d`, `w`, `mo` and `y` in both are counted, as [`Span`](super::Span) does it. Without one,
    /// a day has 24 hours, and there are no months. `ms`, `s`, `m` and `h` are exact in any case.
    #[serde(default)]
    pub zone: Option<String>,
    /// The field that relates the events. Without it, their stream. Any value may be one, typed or JSON: a variant counts with its
    /// content, 1 and 1.0 are one number.
    #[serde(default)]
    pub key: Option<String>,
    /// Fields that must be equal on A and B.
    #[serde(default)]
    pub tied: Vec<String>,
    /// The families whose events are of the sequence. Without it, those of the types named.
    #[serde(default)]
    pub families: Vec<String>,
    /// The field with the time that the event says, in milliseconds since 1970. Without it, that of its commit counts.
    #[serde(default)]
    pub time: Option<String>,
    /// Allowed lateness: how far the time of an event may be before that of one recorded earlier.
    #[serde(default)]
    pub lateness: Option<String>,
    /// Types that only raw appends bring, `FAMILY.Variant` or `FAMILY.*`. All others must be of a registered family, and their fields
    /// those of its types.
    #[serde(default)]
    pub expects: Vec<String>,
    /// Maximum lead of an event's time over the store's clock. Default 5 minutes.
    #[serde(default)]
    pub skew: Option<String>,
    /// The events are history that is read in: the time of commits does not count.
    #[serde(default)]
    pub imported: bool,
    /// True if it refuses events that would violate it: [`Check::guard`].
    #[serde(default)]
    pub guard: bool,
    /// Higher severities, by age or by amount.
    #[serde(default)]
    pub escalate: Vec<Escalate>,
    /// Time between reminders of an incident that is open: [`Check::reminds`]. `0s`: none.
    #[serde(default)]
    pub remind_every: Option<String>,
    /// Time that a remediation has to help: [`Check::remedied_within`].
    #[serde(default)]
    pub remedied_within: Option<String>,
    /// Labels for notifications and their routes: [`Check::label`].
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// True if it may remember an activation for ever.
    #[serde(default)]
    pub unbounded: bool,
    /// Severity of a violation.
    pub severity: Severity,
    /// Owner: the person or team that sees to it.
    pub owner: String,
    /// Meaning of a violation, in a sentence.
    pub means: String,
    /// Remediation steps for a violation, in order.
    pub remedy: String,
}

/// A higher severity: `after` a time, or `above` a number in the field `amount` of the event that began it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escalate {
    /// Age: it applies to an incident that is open for longer than this.
    #[serde(default)]
    pub after: Option<String>,
    /// Limit: it applies if the amount is more than this.
    #[serde(default)]
    pub above: Option<i64>,
    /// The field with the amount, an integer.
    #[serde(default)]
    pub amount: Option<String>,
    /// The higher severity.
    pub severity: Severity,
}

/// A selection of events.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Selector {
    /// Events of this type.
    Type(String),
    /// Events that any of these selects.
    Any(Vec<Selector>),
    /// Events of this type, if it is named, with these values in these fields.
    Fields(Fields),
}

/// A type and the values of fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// The type; none: any.
    #[serde(rename = "type", default)]
    pub type_name: Option<String>,
    /// Values of fields, by dotted path.
    #[serde(rename = "where", default)]
    pub fields: BTreeMap<String, Plain>,
}

/// A plain value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Plain {
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A text; the name of a variant is one too.
    Text(String),
}

// By hand: serde's derive for untagged enums loses the value and its place in errors.

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct SelectorVisitor;

        impl<'de> Visitor<'de> for SelectorVisitor {
            type Value = Selector;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a type like \"order.Placed\", a list of selectors, or { type = .., where = { .. } }",
                )
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Selector, E> {
                Ok(Selector::Type(name.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, all: A) -> Result<Selector, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(all)).map(Selector::Any)
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Selector, A::Error> {
                Fields::deserialize(MapAccessDeserializer::new(fields)).map(Selector::Fields)
            }
        }

        from.deserialize_any(SelectorVisitor)
    }
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct PlainVisitor;

        impl Visitor<'_> for PlainVisitor {
            type Value = Plain;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, a number or a text")
            }

            fn visit_bool<E: de::Error>(self, is: bool) -> Result<Plain, E> {
                Ok(Plain::Bool(is))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Plain, E> {
                Ok(Plain::Int(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Plain, E> {
                match i64::try_from(number) {
                    Ok(number) => Ok(Plain::Int(number)),
                    Err(_) => {
                        Err(E::invalid_value(de::Unexpected::Unsigned(number), &"a number up to 2^63 - 1"))
                    }
                }
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Plain, E> {
                match number.is_finite() {
                    true => Ok(Plain::Float(number)),
                    // Nothing equals NaN, and nothing can write an infinity down.
                    false => Err(E::invalid_value(de::Unexpected::Float(number), &"a finite number")),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Plain, E> {
                Ok(Plain::Text(text.to_owned()))
            }
        }

        from.deserialize_any(PlainVisitor)
    }
}

impl Plain {
    pub(super) fn is(&self, value: &Value) -> bool {
        let equals = |one: &Value, other: f64| one.compare_to(other) == Some(Ordering::Equal);
        match (self, value) {
            (Plain::Bool(wanted), Value::Bool(is)) => wanted == is,
            (Plain::Int(wanted), Value::Float(is)) => equals(&Value::Int((*wanted).into()), *is),
            (Plain::Int(wanted), is) => is.as_i128() == Some((*wanted).into()),
            (Plain::Float(wanted), is) => equals(is, *wanted),
            (Plain::Text(wanted), is) => is.tag() == Some(wanted.as_str()),
            _ => false,
        }
    }
}

impl Selector {
    pub(super) fn is(&self, glance: &mut Glance<'_>) -> Result<bool, DecodeError> {
        match self {
            Selector::Type(name) => Ok(glance.raw.type_name() == name),
            Selector::Any(all) => {
                for selector in all {
                    if selector.is(glance)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Selector::Fields(Fields { type_name, fields }) => {
                if type_name.as_ref().is_some_and(|name| glance.raw.type_name() != name) {
                    return Ok(false);
                }
                let value = glance.value()?;
                Ok(fields.iter().all(|(path, wanted)| value.path(path).is_some_and(|is| wanted.is(is))))
            }
        }
    }

    /// Returns the families of the types it names. `None` if a part of it names no type.
    pub(super) fn families(&self) -> Option<Vec<&str>> {
        let family = |name: &'_ str| event::split_type_name(name).0.len();
        match self {
            Selector::Type(name) => Some(vec![&name[..family(name)]]),
            Selector::Any(all) => {
                let all: Option<Vec<_>> = all.iter().map(Selector::families).collect();
                all.map(|all| all.concat())
            }
            Selector::Fields(Fields { type_name, .. }) => {
                type_name.as_ref().map(|name| vec![&name[..family(name)]])
            }
        }
    }

    pub(super) fn fault(&self) -> Option<String> {
        match self {
            Selector::Type(name) | Selector::Fields(Fields { type_name: Some(name), .. }) => {
                event::check_type_name(name, usize::MAX).err().map(|error| error.to_string())
            }
            Selector::Any(all) if all.is_empty() => {
                Some("a selector that is an empty list selects nothing".into())
            }
            Selector::Any(all) => all.iter().find_map(Selector::fault),
            Selector::Fields(Fields { fields, .. }) if fields.is_empty() => {
                Some("a selector with neither a type nor fields selects everything".into())
            }
            Selector::Fields(_) => None,
        }
    }
}

impl TryFrom<Definition> for Check {
    type Error = Fault;

    /// # Errors
    ///
    /// One sentence: what is wrong, and what would be right.
    fn try_from(definition: Definition) -> Result<Self, Fault> {
        let at = |field: &'static str, why: String| Fault::new(&definition.id, field, why);
        let word = Word::named(&definition.kind).ok_or_else(|| {
            let known: Vec<_> = Word::ALL.iter().map(|(name, _)| *name).collect();
            at("kind", format!("there is no `{}`; there are {}", definition.kind, known.join(", ")))
        })?;
        let selectors = [
            ("when", Some(&definition.when)),
            ("then", definition.then.as_ref()),
            ("until", definition.until.as_ref()),
            ("closed_by", definition.closed_by.as_ref()),
        ];
        for (field, selector) in selectors {
            if let Some(fault) = selector.and_then(Selector::fault) {
                return Err(at(field, fault));
            }
        }
        match (word.has_target(), definition.then.is_some()) {
            (true, false) => return Err(at("then", format!("`{word}` needs it"))),
            (false, true) => return Err(at("then", format!("`{word}` has none"))),
            _ => {}
        }
        let n = match (word.counts(), definition.n) {
            (true, None) => return Err(at("n", format!("`{word}` needs it"))),
            (false, Some(_)) => return Err(at("n", format!("`{word}` does not count"))),
            (_, n) => n.unwrap_or(0),
        };
        let window = definition.window().map_err(|(field, why)| at(field, why))?;
        if definition.zone.is_some() && window.is_none() {
            return Err(at("zone", "it is of `within` and `not_before`, and there are none".into()));
        }
        let ends = window.is_some_and(|window| window.to.is_some());
        if word == Word::Standing && !ends {
            return Err(at("within", "it says how long it may stand".into()));
        }
        let ends = ends || definition.until.is_some() || definition.closed_by.is_some();
        if word.waits() && !ends && !definition.unbounded {
            let why = "without `within`, `until` or `closed_by` it remembers activations for ever; if that is meant, say `unbounded = true`";
            return Err(at("kind", why.into()));
        }
        let lateness = match &definition.lateness {
            None => None,
            Some(text) => Some(parse_time(text).map_err(|why| at("lateness", why))?),
        };
        let skew = definition.skew.as_deref().map(parse_time).transpose().map_err(|why| at("skew", why))?;
        let clocked = Clocked::said(definition.time.is_some(), lateness, skew, definition.imported);
        let clocked = clocked.map_err(|(field, why)| at(field, why.into()))?;
        let families = definition.named_families().ok_or_else(|| {
            at("families", "a selector names no type: say whose events are of the sequence".into())
        })?;
        let described = Described {
            id: definition.id.clone().into(),
            severity: definition.severity,
            owner: definition.owner.clone().into(),
            means: definition.means.clone().into(),
            remedy: definition.remedy.clone().into(),
        };
        let (mut shape, guard, unbounded) = (definition.shape(), definition.guard, definition.unbounded);
        shape.extend(window.map(Window::rules));
        let mut escalations = definition.escalations().map_err(|why| at("escalate", why))?;
        let time = |field: &'static str, text: &Option<String>| {
            text.as_deref().map(parse_time).transpose().map_err(|why| at(field, why))
        };
        escalations.remind_every = time("remind_every", &definition.remind_every)?;
        escalations.remedied_within = time("remedied_within", &definition.remedied_within)?;
        escalations.labels = definition.labels.clone().into_iter().collect();
        let lens = FieldMatcher { definition, word, families };
        let rule = Rule { word, window, n, sums: Sums::default(), ordered: false };
        let check = Self::new(described, rule, clocked, lens, shape);
        Self { guard, escalations, unbounded, ..check }.without_faults()
    }
}

impl Definition {
    /// Returns a text of all that decides a verdict, except word, window, number and families. Owner and meaning are not in it.
    fn shape(&self) -> String {
        let mut shape = format!("when {:?}", self.when);
        for (role, selector) in [("then", &self.then), ("until", &self.until), ("closed_by", &self.closed_by)]
        {
            shape.extend(selector.iter().map(|selector| format!(" {role} {selector:?}")));
        }
        for (what, path) in [("key", &self.key), ("time", &self.time)] {
            shape.extend(path.iter().map(|path| format!(" {what} {path:?}")));
        }
        shape.extend(self.tied.iter().map(|path| format!(" tied {path:?}")));
        if self.key.is_some() || !self.tied.is_empty() {
            shape.push_str(KEYS);
        }
        shape
    }

    fn escalations(&self) -> Result<Escalations, String> {
        let mut escalations = Escalations::default();
        for Escalate { after, above, amount, severity } in &self.escalate {
            match (after, above, amount) {
                (Some(after), None, None) => escalations.by_age(parse_time(after)?, *severity),
                (None, Some(limit), Some(path)) => {
                    let (path, path_said) = (path.clone(), path);
                    let of = move |glance: &mut Glance<'_>| amount_of(glance.value()?, &path);
                    escalations.by_amount(of, path_said, *limit, *severity);
                }
                _ => return Err("say `after`, or `above` and `amount`".into()),
            }
        }
        Ok(escalations)
    }

    /// Returns the window. An error: the field that is wrong, and why.
    fn window(&self) -> Result<Option<Window>, (&'static str, String)> {
        let zone = self.zone.as_deref().map(Zone::named).transpose().map_err(|why| ("zone", why))?;
        let length = |field: &'static str, text: &Option<String>| match text {
            Some(text) => Length::read(text, zone).map(Some).map_err(|why| (field, why)),
            None => Ok(None),
        };
        Ok(match (length("not_before", &self.not_before)?, length("within", &self.within)?) {
            (None, None) => None,
            (from, to) => Some(Window { from: from.unwrap_or(Length::Exact(0)), to }),
        })
    }

    fn named_families(&self) -> Option<Vec<String>> {
        if !self.families.is_empty() {
            return Some(self.families.clone());
        }
        let selectors = [Some(&self.when), self.then.as_ref(), self.until.as_ref(), self.closed_by.as_ref()];
        let mut families = Vec::new();
        for selector in selectors.into_iter().flatten() {
            families.extend(selector.families()?.into_iter().map(str::to_owned));
        }
        families.sort();
        families.dedup();
        Some(families)
    }
}

/// Parses an exact time, to microseconds.
pub(super) fn parse_time(text: &str) -> Result<Time, String> {
    Said::read(text).and_then(Said::without_zone)
}

/// A lens of fields by name.
struct FieldMatcher {
    definition: Definition,
    word: Word,
    families: Vec<String>,
}

impl FieldMatcher {
    fn roles(&self, glance: &mut Glance<'_>) -> Result<Roles, DecodeError> {
        let Definition { when, then, until, closed_by, .. } = &self.definition;
        let mut is = |selector: &Option<Selector>| match selector {
            Some(selector) => selector.is(glance),
            None => Ok(false),
        };
        let (b, c, close) = (is(then)?, is(until)?, is(closed_by)?);
        Ok(Roles::default()
            .with(Roles::A, when.is(glance)?)
            .with(Roles::B, b)
            .with(Roles::C, c)
            .with(Roles::CLOSE, close))
    }
}

impl Lens for FieldMatcher {
    fn registers(&self) -> Vec<Family> {
        Vec::new()
    }

    fn families(&self) -> Vec<String> {
        self.families.clone()
    }

    fn closes(&self) -> bool {
        self.definition.closed_by.is_some()
    }

    fn look(&self, glance: &mut Glance<'_>) -> Result<Looked, DecodeError> {
        let time = time_at(glance, self.definition.time.as_deref())?;
        let roles = self.roles(glance)?;
        if roles == Roles::default() && !self.word.sees_neighbours() {
            return Ok(Looked { time, seen: None });
        }
        let key = key_at(glance, self.definition.key.as_deref())?;
        let tie = if self.definition.tied.is_empty() { 0 } else { self.tie(glance)? };
        let (position, recorded) = (glance.position.get(), glance.recorded);
        let said = time.unwrap_or_else(|| time_of(recorded));
        let amount = Amount::default();
        let seen = Seen { position, time: said, roles, tie_a: tie, tie_b: tie, amount };
        Ok(Looked { time, seen: Some((key, seen)) })
    }

    fn compare(&self, known: &Vocabulary) -> Result<(), Misnamed> {
        let Definition { when, then, until, closed_by, key, time, tied, .. } = &self.definition;
        let known = known.reader(&self.definition.expects);
        known.families("families", &self.definition.families)?;
        let activates = known.selector("when", when, &self.families)?;
        let mut all = activates.clone();
        for (field, selector) in [("then", then), ("until", until), ("closed_by", closed_by)] {
            let Some(selector) = selector else { continue };
            let more = known.selector(field, selector, &self.families)?;
            all = all.zip(more).map(|(all, more)| [all, more].concat());
        }
        for (field, at) in [("key", key), ("time", time)] {
            at.iter().try_for_each(|at| path(field, &all, at).map(drop))?;
        }
        tied.iter().try_for_each(|at| path("tied", &all, at).map(drop))?;
        known.escalations(&self.definition.escalate, &activates)
    }

    fn key_text(&self, glance: &mut Glance<'_>) -> Result<String, DecodeError> {
        key_text_at(glance, self.definition.key.as_deref())
    }
}

/// Version of the encoding of keys by field name, in the definition of a check that has one. States under other keys are of no use.
pub(super) const KEYS: &str = " keys as values";

/// Reads the time that an event says, in milliseconds, and converts it to the time of checks.
pub(super) fn time_at(glance: &Glance<'_>, path: Option<&str>) -> Result<Option<Time>, DecodeError> {
    let Some(path) = path else { return Ok(None) };
    let millis =
        glance.value()?.path(path).and_then(Value::whole).and_then(|millis| i64::try_from(millis).ok());
    Ok(millis.map(|millis| millis.saturating_mul(1000)))
}

/// Returns the key of an event: a field, or its stream.
pub(super) fn key_at(glance: &mut Glance<'_>, path: Option<&str>) -> Result<KeyHash, DecodeError> {
    let Some(path) = path else {
        let stream = glance.raw.stream();
        return Ok(glance.hash(stream.as_bytes()));
    };
    let bytes = field_bytes(glance.value()?, path)?;
    let bytes = bytes.ok_or_else(|| DecodeError::new(format!("its key `{path}` is not there")))?;
    Ok(glance.hash(&bytes))
}

/// Returns the key of an event as people read it.
pub(super) fn key_text_at(glance: &Glance<'_>, path: Option<&str>) -> Result<String, DecodeError> {
    match path {
        None => Ok(glance.raw.stream().to_owned()),
        Some(path) => Ok(glance.value()?.path(path).map(text_of).unwrap_or_default()),
    }
}

impl FieldMatcher {
    fn tie(&self, glance: &mut Glance<'_>) -> Result<u64, DecodeError> {
        let mut bytes = Vec::new();
        for path in &self.definition.tied {
            match field_bytes(glance.value()?, path)? {
                Some(field) => {
                    bytes.extend((field.len() as u32 + 1).to_le_bytes());
                    bytes.extend(field);
                }
                None => bytes.extend(0_u32.to_le_bytes()),
            }
        }
        Ok(glance.hash(&bytes).1)
    }
}

/// Reads an amount. `None` if the field is not there: then it is not above any limit.
fn amount_of(value: &Value, path: &str) -> Result<Option<i64>, DecodeError> {
    let Some(value) = value.path(path).filter(|value| !value.is_null()) else { return Ok(None) };
    match (value, value.whole()) {
        (_, Some(amount)) => {
            Ok(Some(i64::try_from(amount).unwrap_or(if amount > 0 { i64::MAX } else { i64::MIN })))
        }
        (Value::UInt(_), None) => Ok(Some(i64::MAX)),
        _ => Err(DecodeError::new(format!("`{path}` is no integer"))),
    }
}

/// Returns a field as bytes that are equal for equal values, typed or JSON.
fn field_bytes(value: &Value, path: &str) -> Result<Option<Vec<u8>>, DecodeError> {
    let Some(value) = value.path(path).filter(|value| !value.is_null()) else { return Ok(None) };
    let mut bytes = Vec::with_capacity(32);
    value.as_key(&mut Writer::new(&mut bytes)).map_err(|e| e.in_field(path.to_owned()))?;
    Ok(Some(bytes))
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        other => value_text(other),
    }
}
