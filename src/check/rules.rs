//! Checks as files: TOML, a table for each.
//!
//! ```
//! let checks = tallystone::check::rules::parse(
//!     r#"
//!     [check.fine-is-paid]
//!     kind = "response"
//!     when = "fine.Created"
//!     then = { type = "fine.Paid", where = { "sum.currency" = "EUR" } }
//!     until = ["fine.Appealed", "fine.Dismissed"]
//!     within = "60d"
//!     severity = "ticket"
//!     owner = "collections"
//!     means = "A fine was not paid in time."
//!     remedy = "1 look for the payment; 2 add the penalty"
//!     "#,
//!     "fines.toml",
//! )?;
//! assert_eq!(checks[0].id(), "fine-is-paid");
//!
//! // Example: what is wrong is named with its place.
//! let wrong = tallystone::check::rules::parse("[check.paid]\nkind = \"reponse\"", "fines.toml");
//! assert_eq!(wrong.unwrap_err().to_string(), "fines.toml:1:8: missing field `when`");
//! # Ok::<(), tallystone::check::rules::RuleError>(())
//! ```
//!
//! Types that only raw appends bring are declared, for a rule or for all of a file, before the first table: `expects = ["fine.*"]`.
//!
//! The fields are those of a [`Definition`]; of the kinds `equals` and `balances` those of [`SumsRule`], of `rows` those of
//! [`RowsRule`]. Its `id` is the name of the table.

use super::data::parse_time;
use super::vocabulary::Misnamed;
use super::{Check, Definition, Fault, RowsRule, Severity, SumsRule};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// Maximum size of a file with rules, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// An error in a file of rules, with its place. Lines and columns begin with 1; a column is a character.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {what}")]
#[non_exhaustive]
pub struct RuleError {
    /// The file.
    pub file: String,
    /// Line of the error.
    pub line: usize,
    /// Column of the error, in characters.
    pub column: usize,
    /// Reason, and what would be right.
    pub what: String,
}

/// Reads the checks of a file, in its order. `file` is its name in errors.
///
/// # Errors
///
/// The first error, with its place.
pub fn parse(text: &str, file: &str) -> Result<Vec<Check>, RuleError> {
    parse_in(&Defaults::default(), text, file)
}

/// Defaults for the rules of a folder, from its `folder.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Defaults {
    pub owner: Option<String>,
    pub severity: Option<Severity>,
}

/// As [`parse`], with defaults for fields that a rule leaves out.
pub(crate) fn parse_in(defaults: &Defaults, text: &str, file: &str) -> Result<Vec<Check>, RuleError> {
    let source = SourceText { text, file };
    source.check_size(text.len())?;
    let (mut tables, mut expects) = (Vec::new(), None);
    for (name, value) in DeTable::parse(text).map_err(|error| source.misread(&error, 0..0))?.into_inner() {
        if name.get_ref() == "expects" {
            expects = Some(value);
            continue;
        }
        if name.get_ref() != "check" {
            let what = format!("there is no `{}`: a rule is a table `[check.NAME]`", name.get_ref());
            return Err(source.error(name.span().start, what));
        }
        let at = value.span().start;
        let DeValue::Table(checks) = value.into_inner() else {
            return Err(source.error(at, "a rule is a table `[check.NAME]`"));
        };
        tables.extend(checks);
    }
    // Keep the order of the file: the parsed table may be sorted by name.
    tables.sort_by_key(|(name, _)| name.span().start);
    tables.into_iter().map(|(name, value)| source.check(defaults, expects.as_ref(), &name, value)).collect()
}

/// Contents of a `folder.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FolderRules {
    pub period: Option<Duration>,
    pub defaults: Defaults,
}

/// Shortest period in which a folder is read again.
const PERIOD_MIN: Duration = Duration::from_secs(1);

/// Reads a `folder.toml`.
pub(crate) fn parse_folder(text: &str, file: &str) -> Result<FolderRules, RuleError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct FolderToml {
        period: Option<Spanned<String>>,
        owner: Option<Spanned<String>>,
        severity: Option<Severity>,
    }
    let source = SourceText { text, file };
    source.check_size(text.len())?;
    let FolderToml { period, owner, severity } =
        toml::from_str(text).map_err(|error| source.misread(&error, 0..0))?;
    let period = period.map(|period| {
        let wrong = |why: String| source.error(period.span().start, format!("`period`: {why}"));
        let micros = parse_time(period.get_ref()).map_err(wrong)?;
        let period = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
        match period < PERIOD_MIN {
            true => Err(wrong(format!("it is at least {PERIOD_MIN:?}"))),
            false => Ok(period),
        }
    });
    if let Some(owner) = owner.as_ref().filter(|owner| owner.get_ref().trim().is_empty()) {
        return Err(source.error(owner.span().start, "`owner`: it is empty"));
    }
    let defaults = Defaults { owner: owner.map(Spanned::into_inner), severity };
    Ok(FolderRules { period: period.transpose()?, defaults })
}

/// Returns an error of the rule with this name, in a text that was parsed.
pub(crate) fn error_at(text: &str, file: &str, id: &str, what: String) -> RuleError {
    let source = SourceText { text, file };
    let tables = DeTable::parse(text).map(Spanned::into_inner).unwrap_or_default();
    let checks = tables.get("check").and_then(|checks| checks.get_ref().as_table());
    let name = checks.and_then(|checks| checks.keys().find(|name| name.get_ref() == id));
    source.error(name.map_or(0, |name| name.span().start), what)
}

/// Returns an error of a name in the rule with this id, at the place of the name.
pub(crate) fn misnamed(text: &str, file: &str, id: &str, wrong: &Misnamed) -> RuleError {
    let tables = DeTable::parse(text).map(Spanned::into_inner).unwrap_or_default();
    let rule = tables.get("check").and_then(|checks| checks.get_ref().as_table()?.get(id));
    let field = rule.and_then(|rule| rule.get_ref().as_table()?.get(wrong.field));
    let at = field.map(|field| place_of(field, &wrong.name).unwrap_or(field.span().start));
    match at {
        Some(at) => SourceText { text, file }.error(at, format!("`{}`: {}", wrong.field, wrong.why)),
        None => error_at(text, file, id, format!("`{}`: {}", wrong.field, wrong.why)),
    }
}

/// Returns the place of a text, or of a field of this name, in a value.
fn place_of(value: &Spanned<DeValue<'_>>, name: &str) -> Option<usize> {
    match value.get_ref() {
        DeValue::String(text) => (text == name).then_some(value.span().start),
        DeValue::Array(all) => all.iter().find_map(|value| place_of(value, name)),
        DeValue::Table(fields) => fields.iter().find_map(|(field, value)| match field.get_ref() == name {
            true => Some(field.span().start),
            false => place_of(value, name),
        }),
        _ => None,
    }
}

/// Returns the text of a file. An error: it is not UTF-8.
pub(crate) fn text(mut bytes: Vec<u8>, file: &str) -> Result<String, RuleError> {
    // A byte order mark is no part of the text.
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|error| {
        let (end, bytes) = (error.utf8_error().valid_up_to(), error.into_bytes());
        let text = String::from_utf8_lossy(&bytes[..end]);
        SourceText { text: &text, file }.error(end, "it is no text: this is not UTF-8")
    })
}

/// A text, and its name in errors.
struct SourceText<'t> {
    text: &'t str,
    file: &'t str,
}

impl<'t> SourceText<'t> {
    fn check(
        &self,
        defaults: &Defaults,
        expects: Option<&Spanned<DeValue<'t>>>,
        name: &Spanned<std::borrow::Cow<'t, str>>,
        value: Spanned<DeValue<'t>>,
    ) -> Result<Check, RuleError> {
        let (head, span) = (name.span(), value.span());
        let DeValue::Table(mut table) = value.into_inner() else {
            return Err(self.error(span.start, "a rule is a table `[check.NAME]`"));
        };
        let places: BTreeMap<String, usize> =
            table.iter().map(|(field, value)| (field.get_ref().to_string(), value.span().start)).collect();
        if let Some(at) = places.get("id") {
            return Err(self.error(*at, format!("`id` is the name of the table: `{}`", name.get_ref())));
        }
        let kind = table.get("kind").and_then(|kind| kind.get_ref().as_str()).map(str::to_owned);
        let mut put = |field: &'static str, text: String| {
            let field = Spanned::new(head.clone(), field.into());
            table.entry(field).or_insert(Spanned::new(head.clone(), DeValue::String(text.into())));
        };
        put("id", name.get_ref().to_string());
        defaults.owner.iter().for_each(|owner| put("owner", owner.clone()));
        defaults.severity.iter().for_each(|severity| put("severity", severity.to_string()));
        if kind.as_deref() != Some("rows")
            && let Some(expects) = expects
        {
            let field = Spanned::new(head.clone(), "expects".into());
            table.entry(field).or_insert(expects.clone());
        }
        let value = ValueDeserializer::from(Spanned::new(head.clone(), DeValue::Table(table)));
        let check = match kind.as_deref() {
            Some("rows") => RowsRule::deserialize(value).map(Check::try_from),
            Some("equals" | "balances") => SumsRule::deserialize(value).map(Check::try_from),
            _ => Definition::deserialize(value).map(Check::try_from),
        };
        check.map_err(|error| self.misread(&error, head.clone()))?.map_err(|Fault { field, why, .. }| {
            let at = places.get(field).copied().unwrap_or(head.start);
            self.error(at, format!("`{field}`: {why}"))
        })
    }

    fn misread(&self, error: &toml::de::Error, or: Range<usize>) -> RuleError {
        self.error(error.span().unwrap_or(or).start, error.message().trim().replace('\n', ", "))
    }

    fn check_size(&self, bytes: usize) -> Result<(), RuleError> {
        match bytes > FILE_BYTES_MAX {
            true => Err(self.error(0, format!("the file is {bytes} bytes, limit is {FILE_BYTES_MAX} bytes"))),
            false => Ok(()),
        }
    }

    fn error(&self, at: usize, what: impl Into<String>) -> RuleError {
        let at = (0..=at.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0);
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        RuleError {
            file: self.file.to_owned(),
            line: 1 + before.matches('\n').count(),
            column: 1 + before[line_start..].chars().count(),
            what: what.into(),
        }
    }
}
