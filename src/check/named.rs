//! Checks over rows as data: projections are named, their rows read by field name.

use super::data::{Plain, parse_time};
use super::glance::Glance;
use super::lens::{Lens, Looked};
use super::rows::{Rowed, value_text};
use super::vocabulary::{self, Misnamed, Vocabulary, path, plain};
use super::word::Rule;
use super::{Check, Clocked, Described, Fault, Severity};
use crate::error::DecodeError;
use crate::event::Family;
use crate::projection::Registered;
use crate::value::Value;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// A check over rows in a file: how long rows may be wrong. See [`About::standing`](super::About::standing).
///
/// ```
/// let checks = tallystone::check::rules::parse(
///     r#"
///     [check.cancelled-still-billed]
///     kind = "rows"
///     wrong = [{ row = "products", where = { active = false } }, { row = "bills", exists = true }]
///     within = "15m"
///     severity = "page"
///     owner = "payments"
///     means = "The customer cancelled, and we still bill."
///     remedy = "1 end the billing; 2 refund what was billed since"
///     "#,
///     "billing.toml",
/// )?;
/// assert_eq!(checks[0].id(), "cancelled-still-billed");
/// # Ok::<(), tallystone::check::rules::RuleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RowsRule {
    /// Its name, unique in the store.
    pub id: String,
    /// `rows`.
    pub kind: String,
    /// Conditions on the rows of one key. The rows are wrong if all of them hold.
    pub wrong: Vec<RowIs>,
    /// Longest time that rows may be wrong.
    pub within: String,
    /// Severity of a violation.
    pub severity: Severity,
    /// Owner: the person or team that sees to it.
    pub owner: String,
    /// Meaning of a violation, in a sentence.
    pub means: String,
    /// Remediation steps for a violation, in order.
    pub remedy: String,
}

/// A condition on the row of one projection. Field names are dotted paths into the row; an empty one is the row itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RowIs {
    /// The projection.
    pub row: String,
    /// True if there must be such a row, false if there must be none.
    #[serde(default)]
    pub exists: Option<bool>,
    /// Fields that have these values.
    #[serde(rename = "where", default)]
    pub fields: BTreeMap<String, Plain>,
    /// Fields that are numbers above these.
    #[serde(default)]
    pub above: BTreeMap<String, f64>,
    /// Fields that are numbers below these.
    #[serde(default)]
    pub below: BTreeMap<String, f64>,
    /// Fields that are not equal to these fields of the same row, or of another: `bills:cents`.
    #[serde(default)]
    pub differs: BTreeMap<String, String>,
}

impl RowIs {
    fn says_something(&self) -> bool {
        let fields = [self.fields.len(), self.above.len(), self.below.len(), self.differs.len()];
        self.exists.is_some() || fields.iter().any(|len| *len > 0)
    }

    /// Returns the projections whose rows it looks at.
    fn names(&self) -> impl Iterator<Item = &str> {
        let others = self.differs.values().filter_map(|other| Some(other.split_once(':')?.0));
        [self.row.as_str()].into_iter().chain(others)
    }
}

impl TryFrom<RowsRule> for Check {
    type Error = Fault;

    /// # Errors
    ///
    /// The field that is wrong, and what would be right. A missing projection is found when a store is opened.
    fn try_from(rule: RowsRule) -> Result<Self, Fault> {
        let at = |field: &'static str, why: String| Fault::new(&rule.id, field, why);
        if rule.wrong.is_empty() {
            return Err(at("wrong", "it is empty, so every row is wrong".into()));
        }
        if let Some(nothing) = rule.wrong.iter().find(|is| !is.says_something()) {
            let why = format!(
                "of `{}` it says nothing: say `exists`, `where`, `above`, `below` or `differs`",
                nothing.row
            );
            return Err(at("wrong", why));
        }
        for RowIs { row, above, below, .. } in &rule.wrong {
            let bounds = above.iter().chain(below);
            if let Some((field, bound)) = bounds.into_iter().find(|(_, bound)| !bound.is_finite()) {
                let why = format!("of `{row}`, `{field}` is compared with {bound}: say a finite number");
                return Err(at("wrong", why));
            }
        }
        let window = parse_time(&rule.within).map_err(|why| at("within", why))?;
        let mut names: Vec<String> = Vec::new();
        for name in rule.wrong.iter().flat_map(RowIs::names) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        let shape = format!("rows {:?}", rule.wrong);
        let about = Described {
            id: rule.id.into(),
            severity: rule.severity,
            owner: rule.owner.into(),
            means: rule.means.into(),
            remedy: rule.remedy.into(),
        };
        let lens = NamedRowsMatcher { names, wrong: rule.wrong, found: OnceLock::new() };
        Self::new(about, Rule::standing(window), Clocked::Recorded, lens, shape).without_faults()
    }
}

/// A lens of rows by name. Their projections are looked up in the setup of the store that it is opened with.
struct NamedRowsMatcher {
    names: Vec<String>,
    wrong: Vec<RowIs>,
    found: OnceLock<Arc<ResolvedRows>>,
}

impl NamedRowsMatcher {
    fn found(&self) -> Option<&ResolvedRows> {
        self.found.get().map(|found| &**found)
    }
}

impl Lens for NamedRowsMatcher {
    fn registers(&self) -> Vec<Family> {
        self.found().iter().flat_map(|found| &found.tables).flat_map(|table| table.families.clone()).collect()
    }

    fn families(&self) -> Vec<String> {
        if self.found().is_none_or(|found| found.tables.iter().any(|table| table.families.is_empty())) {
            return Vec::new();
        }
        let mut families: Vec<_> = self.registers().iter().map(|family| family.name().to_owned()).collect();
        families.sort();
        families.dedup();
        families
    }

    fn look(&self, _: &mut Glance<'_>) -> Result<Looked, DecodeError> {
        match self.found() {
            Some(_) => Ok(Looked { time: None, seen: None }),
            None => Err(DecodeError::new(format!("nobody said whose the rows {:?} are", self.names))),
        }
    }

    fn rests_on(&self) -> String {
        let tables =
            self.found().into_iter().flat_map(|found| &found.tables).map(|table| format!("{:?};", table.id));
        tables.collect()
    }

    fn rowed(&self) -> Option<Arc<dyn Rowed>> {
        self.found.get().map(|found| found.clone() as Arc<dyn Rowed>)
    }

    fn compare(&self, known: &Vocabulary) -> Result<(), Misnamed> {
        let known = known.reader(&[]);
        for is in &self.wrong {
            let row = known.row("wrong", &is.row)?;
            is.fields.iter().try_for_each(|(at, wanted)| plain("wrong", &row, at, wanted))?;
            is.above
                .keys()
                .chain(is.below.keys())
                .try_for_each(|at| vocabulary::number("wrong", &row, at))?;
            for (at, other) in &is.differs {
                path("wrong", &row, at)?;
                let (row, at) = match other.split_once(':') {
                    Some((name, at)) => (known.row("wrong", name)?, at),
                    None => (row.clone(), other.as_str()),
                };
                path("wrong", &row, at).map_err(|wrong| Misnamed { name: other.clone(), ..wrong })?;
            }
        }
        Ok(())
    }

    fn find(&self, named: &dyn Fn(&str) -> Option<Registered>) -> Result<(), String> {
        let tables = self.names.iter().map(|name| {
            let table = named(name).ok_or_else(|| {
                format!("there is no projection `{name}`: add `.inline::<..>()` or `.behind::<..>()` for it to the setup")
            })?;
            match table.row {
                Some(_) => Ok(table),
                None => Err(format!("rows of `{name}` cannot be read by field name")),
            }
        });
        let tables = tables.collect::<Result<Vec<_>, _>>()?;
        // A second call changes nothing: the same setup finds the same projections.
        let _ = self.found.set(Arc::new(ResolvedRows {
            tables,
            names: self.names.clone(),
            wrong: self.wrong.clone(),
        }));
        Ok(())
    }

    fn key_text(&self, glance: &mut Glance<'_>) -> Result<String, DecodeError> {
        Ok(glance.raw.stream().to_owned())
    }
}

/// The projections that were found, and the conditions on their rows.
struct ResolvedRows {
    tables: Vec<Registered>,
    names: Vec<String>,
    wrong: Vec<RowIs>,
}

impl ResolvedRows {
    fn read(&self, index: usize, row: &[u8]) -> Result<Value, DecodeError> {
        let layout = self.tables[index].row.as_ref();
        layout.ok_or_else(|| DecodeError::new("its row has no layout"))?.read(row)
    }

    fn index(&self, name: &str) -> usize {
        self.names.iter().position(|known| known == name).expect("every name was listed")
    }

    fn is(&self, is: &RowIs, rows: &[Option<Value>]) -> bool {
        let row = rows[self.index(&is.row)].as_ref();
        let at = |path: &str| row.and_then(|row| row.path(path));
        let order = |path: &str, than: f64| at(path).and_then(|value| value.compare_to(than));
        let other = |path: &str| match path.split_once(':') {
            Some((name, path)) => rows[self.index(name)].as_ref().and_then(|row| row.path(path)),
            None => at(path),
        };
        is.exists.is_none_or(|exists| exists == row.is_some())
            && is.fields.iter().all(|(path, wanted)| at(path).is_some_and(|value| wanted.is(value)))
            && is.above.iter().all(|(path, than)| order(path, *than).is_some_and(Ordering::is_gt))
            && is.below.iter().all(|(path, than)| order(path, *than).is_some_and(Ordering::is_lt))
            && is.differs.iter().all(|(path, than)| {
                at(path).zip(other(than)).is_some_and(|(value, other)| !value.is_same(other))
            })
    }
}

impl Rowed for ResolvedRows {
    fn projections(&self) -> Vec<&Registered> {
        self.tables.iter().collect()
    }

    fn type_name(&self, _: usize) -> &'static str {
        ".."
    }

    fn wrong(&self, _: &[u8], rows: &[Option<&[u8]>]) -> Result<bool, DecodeError> {
        let read =
            rows.iter().enumerate().map(|(index, row)| row.map(|row| self.read(index, row)).transpose());
        let rows = read.collect::<Result<Vec<_>, _>>()?;
        Ok(self.wrong.iter().all(|is| self.is(is, &rows)))
    }

    fn key_text(&self, key: &[u8]) -> Result<String, DecodeError> {
        (self.tables[0].key_text)(key)
    }

    fn row_text(&self, index: usize, row: &[u8]) -> String {
        self.read(index, row)
            .map_or_else(|error| format!("a row that cannot be read: {error}"), |value| value_text(&value))
    }
}
