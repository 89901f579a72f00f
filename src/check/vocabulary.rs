//! Names that a store knows, for checks that are declared by name: an unknown name selects nothing, and nobody would notice.

use super::data::{Escalate, Fields, Plain, Selector};
use crate::event::{self, Family};
use crate::layout::Layout;
use crate::projection::Registered;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Types of events with the layout of each schema version, and projections with that of their rows.
#[derive(Default)]
pub(crate) struct Vocabulary {
    types: BTreeMap<String, Vec<Layout>>,
    rows: BTreeMap<&'static str, Option<Arc<Layout>>>,
}

/// A name in a declaration that the store does not know, or a value that no field of that type can have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misnamed {
    /// The field of the declaration.
    pub field: &'static str,
    /// The name or value in it, as it is written there.
    pub name: String,
    /// Reason, and what would be right.
    pub why: String,
}

impl Vocabulary {
    pub fn new(families: impl Iterator<Item = Family>, rows: impl Iterator<Item = Registered>) -> Self {
        let mut types: BTreeMap<String, Vec<Layout>> = BTreeMap::new();
        let (mut traced, read) = (BTreeSet::new(), |family: &Family| family.types().unwrap_or_default());
        for event in families.filter(|family| traced.insert(family.type_id)).flat_map(|family| read(&family))
        {
            for name in event.aliases.iter().chain([&event.name]) {
                let all = types.entry(name.clone()).or_default();
                all.push(event.layout.clone());
                all.extend(event.older.iter().map(|older| older.layout.clone()));
            }
        }
        Self { types, rows: rows.map(|table| (table.name, table.row)).collect() }
    }

    /// Returns a reader for one declaration, which expects these types beside those that are known.
    pub fn reader<'v>(&'v self, expects: &'v [String]) -> Reader<'v> {
        Reader { known: self, expects }
    }
}

/// A vocabulary, with the types that only raw appends bring.
pub(crate) struct Reader<'v> {
    known: &'v Vocabulary,
    /// `FAMILY.Variant`, or `FAMILY.*`. Their payloads may hold anything.
    expects: &'v [String],
}

/// Layouts of the types that a selector names. `None`: it may be any.
type TypeLayouts<'v> = Option<Vec<&'v Layout>>;

impl<'v> Reader<'v> {
    fn is_expected(&self, name: &str) -> bool {
        let family = event::split_type_name(name).0;
        let matches = |expected: &String| match expected.strip_suffix(".*") {
            Some(all_of) => all_of == family,
            None => expected == name,
        };
        self.expects.iter().any(matches)
    }

    fn type_name(&self, field: &'static str, name: &str) -> Result<TypeLayouts<'v>, Misnamed> {
        if self.is_expected(name) {
            return Ok(None);
        }
        if let Some(layouts) = self.known.types.get(name) {
            return Ok(Some(layouts.iter().collect()));
        }
        let family = event::split_type_name(name).0;
        let of_family = |known: &&String| event::split_type_name(known).0 == family;
        let all = self.known.types.keys().filter(|name| !name.starts_with(super::RESERVED));
        let mut near: Vec<&str> = all.clone().filter(of_family).map(String::as_str).collect();
        if near.is_empty() {
            near = all.map(String::as_str).collect();
        }
        let hint = hint(name, &near);
        let why = format!(
            "there is no event type `{name}`{hint}; if only raw appends bring it, say `expects = [\"{name}\"]`"
        );
        Err(Misnamed { field, name: name.to_owned(), why })
    }

    pub fn families(&self, field: &'static str, names: &[String]) -> Result<(), Misnamed> {
        let of = |name: &str| event::split_type_name(name).0.to_owned();
        let known: BTreeSet<String> =
            self.known.types.keys().chain(self.expects).map(|name| of(name)).collect();
        match names.iter().find(|name| !known.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                let hint = hint(name, &known.iter().map(String::as_str).collect::<Vec<_>>());
                let why = format!("there is no family `{name}`{hint}");
                Err(Misnamed { field, name: name.clone(), why })
            }
        }
    }

    /// Returns all layouts of these families, for a selector that names no type.
    fn of_families(&self, families: &[String]) -> TypeLayouts<'v> {
        let is_of = |name: &str| families.iter().any(|family| event::split_type_name(name).0 == family);
        if self.expects.iter().any(|name| is_of(name)) {
            return None;
        }
        let of = self.known.types.iter().filter(|(name, _)| is_of(name));
        Some(of.flat_map(|(_, layouts)| layouts).collect())
    }

    /// Compares a selector with the known types, and returns the layouts of its events.
    pub fn selector(
        &self,
        field: &'static str,
        selector: &Selector,
        families: &[String],
    ) -> Result<TypeLayouts<'v>, Misnamed> {
        match selector {
            Selector::Type(name) => self.type_name(field, name),
            Selector::Any(all) => {
                let mut layouts = Some(Vec::new());
                for selector in all {
                    let more = self.selector(field, selector, families)?;
                    layouts = layouts.zip(more).map(|(all, more)| [all, more].concat());
                }
                Ok(layouts)
            }
            Selector::Fields(Fields { type_name, fields }) => {
                let layouts = match type_name {
                    Some(name) => self.type_name(field, name)?,
                    None => self.of_families(families),
                };
                for (path, wanted) in fields {
                    plain(field, &layouts, path, wanted)?;
                }
                Ok(layouts)
            }
        }
    }

    pub fn row(&self, field: &'static str, name: &str) -> Result<TypeLayouts<'v>, Misnamed> {
        match self.known.rows.get(name) {
            Some(layout) => Ok(layout.as_deref().map(|layout| vec![layout])),
            None => {
                let hint = hint(name, &self.known.rows.keys().copied().collect::<Vec<_>>());
                let why = format!(
                    "there is no projection `{name}`{hint}: add `.inline::<..>()` or `.behind::<..>()` for it to the setup"
                );
                Err(Misnamed { field, name: name.to_owned(), why })
            }
        }
    }

    pub fn escalations(&self, escalate: &[Escalate], layouts: &TypeLayouts<'v>) -> Result<(), Misnamed> {
        let amounts = escalate.iter().filter_map(|one| one.amount.as_deref());
        amounts.into_iter().try_for_each(|path| number("escalate", layouts, path))
    }
}

/// Compares a path with layouts of events or rows. At least one of them must have it.
pub(crate) fn path<'v>(
    field: &'static str,
    layouts: &TypeLayouts<'v>,
    path: &str,
) -> Result<TypeLayouts<'v>, Misnamed> {
    let Some(layouts) = layouts else { return Ok(None) };
    let steps: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('.').collect() };
    let ends = |steps: &[&str]| PathWalk::of(layouts, steps);
    let found = ends(&steps);
    if !found.is_empty() {
        return Ok(Some(found));
    }
    let known = (0..steps.len()).rev().find(|end| !ends(&steps[..*end]).is_empty()).unwrap_or(0);
    let names: BTreeSet<&str> = ends(&steps[..known]).into_iter().flat_map(names_in).collect();
    let step = steps.get(known).copied().unwrap_or(path);
    let hint = hint(step, &names.into_iter().collect::<Vec<_>>());
    let why = format!("there is no field `{path}`: nothing is called `{step}` there{hint}");
    Err(Misnamed { field, name: path.to_owned(), why })
}

/// Compares a path that must lead to a number.
pub(crate) fn number(field: &'static str, layouts: &TypeLayouts<'_>, at: &str) -> Result<(), Misnamed> {
    match path(field, layouts, at)? {
        Some(ends) if !ends.iter().any(|end| is_number(end)) => {
            let why = format!("`{at}` is {}, and no number", ends[0]);
            Err(Misnamed { field, name: at.to_owned(), why })
        }
        _ => Ok(()),
    }
}

/// Compares a path, and the value that its field must be able to have.
pub(crate) fn plain(
    field: &'static str,
    layouts: &TypeLayouts<'_>,
    at: &str,
    wanted: &Plain,
) -> Result<(), Misnamed> {
    let Some(ends) = path(field, layouts, at)? else { return Ok(()) };
    if ends.iter().any(|end| may_be(end, wanted)) {
        return Ok(());
    }
    let hint = match (wanted, ends[0]) {
        (Plain::Text(name), Layout::Enum(_)) => hint(name, &names_in(ends[0])),
        _ => String::new(),
    };
    let why = format!("`{at}` is {}, and never {}{hint}", ends[0], shown(wanted));
    Err(Misnamed { field, name: at.to_owned(), why })
}

fn shown(wanted: &Plain) -> String {
    match wanted {
        Plain::Bool(is) => is.to_string(),
        Plain::Int(number) => number.to_string(),
        Plain::Float(number) => format!("{number:?}"),
        Plain::Text(text) => format!("{text:?}"),
    }
}

fn is_number(layout: &Layout) -> bool {
    use Layout::{F32, F64, I8, I16, I32, I64, I128, U8, U16, U32, U64, U128};
    matches!(layout, F32 | F64 | I8 | I16 | I32 | I64 | I128 | U8 | U16 | U32 | U64 | U128)
}

fn may_be(layout: &Layout, wanted: &Plain) -> bool {
    match (wanted, layout) {
        (Plain::Bool(_), Layout::Bool) => true,
        (Plain::Int(_) | Plain::Float(_), number) => is_number(number),
        (Plain::Text(_), Layout::Str) => true,
        (Plain::Text(text), Layout::Char) => text.chars().count() == 1,
        (Plain::Text(text), Layout::Enum(variants)) => variants.iter().any(|(name, _)| **name == **text),
        _ => false,
    }
}

/// A walk along a path, as `Value::path` does it, but through layouts.
struct PathWalk<'l> {
    found: Vec<&'l Layout>,
    /// Layouts by address, with the number of steps left there: an enum that holds itself would lead back without end.
    seen: BTreeSet<(*const Layout, usize)>,
}

impl<'l> PathWalk<'l> {
    fn of(layouts: &[&'l Layout], steps: &[&str]) -> Vec<&'l Layout> {
        let mut walk = Self { found: Vec::new(), seen: BTreeSet::new() };
        layouts.iter().for_each(|layout| walk.step(layout, &mut Vec::new(), steps));
        walk.found
    }

    fn step(&mut self, layout: &'l Layout, around: &mut Vec<&'l Layout>, steps: &[&str]) {
        if !self.seen.insert((layout, steps.len())) {
            return;
        }
        let index = |step: &str| step.parse::<usize>().ok();
        match (layout, steps) {
            (Layout::Ref(up), _) => {
                let at = usize::try_from(*up).ok().and_then(|up| around.len().checked_sub(up));
                if let Some(at) = at.filter(|at| *at < around.len()) {
                    let above = around.split_off(at);
                    self.step(above[0], around, steps);
                    around.extend(above);
                }
            }
            (Layout::Option(inner), _) => self.inside(layout, inner, around, steps),
            (_, []) => self.found.push(layout),
            (Layout::Struct(fields), [step, rest @ ..]) => {
                let fields = fields.iter().filter(|(name, _)| **name == **step);
                fields.for_each(|(_, field)| self.inside(layout, field, around, rest));
            }
            (Layout::Enum(variants), [step, rest @ ..]) => {
                for (name, content) in variants {
                    // The step may name the variant, or a field of any variant.
                    let steps = if **name == **step { rest } else { steps };
                    self.inside(layout, content, around, steps);
                }
            }
            (Layout::Map(_, value), [_, rest @ ..]) => self.inside(layout, value, around, rest),
            (Layout::Seq(inner) | Layout::Array(inner, _), [step, rest @ ..]) if index(step).is_some() => {
                self.inside(layout, inner, around, rest);
            }
            (Layout::Tuple(parts), [step, rest @ ..]) => {
                let part = index(step).and_then(|index| parts.get(index));
                part.into_iter().for_each(|part| self.inside(layout, part, around, rest));
            }
            _ => {}
        }
    }

    fn inside(&mut self, of: &'l Layout, part: &'l Layout, around: &mut Vec<&'l Layout>, steps: &[&str]) {
        around.push(of);
        self.step(part, around, steps);
        around.pop();
    }
}

/// Returns the names that may be the next step.
fn names_in(layout: &Layout) -> Vec<&str> {
    match layout {
        Layout::Struct(fields) => fields.iter().map(|(name, _)| &**name).collect(),
        Layout::Enum(variants) => {
            variants.iter().flat_map(|(name, content)| [vec![&**name], names_in(content)].concat()).collect()
        }
        _ => Vec::new(),
    }
}

const NAMES_SHOWN: usize = 8;

/// Returns a hint: the nearest name if one is near, else some of those known.
fn hint(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|known| (distance(name, known), known)).min();
    match near {
        Some((steps, near)) if steps <= 1 + name.chars().count() / 4 => format!("; did you mean `{near}`?"),
        _ if known.is_empty() => String::new(),
        _ => {
            let more = if known.len() > NAMES_SHOWN { ", .." } else { "" };
            let shown = &known[..known.len().min(NAMES_SHOWN)];
            format!("; there are {}{more}", shown.join(", "))
        }
    }
}

/// Returns the Levenshtein distance of two names, in characters.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, character) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (at, against) in other.iter().enumerate() {
            let substituted = diagonal + usize::from(character != *against);
            diagonal = row[at + 1];
            row[at + 1] = substituted.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Layout {
        Layout::parse(text).expect("a layout")
    }

    fn why(layout: &str, at: &str, wanted: Plain) -> Option<String> {
        let layout = of(layout);
        plain("where", &Some(vec![&layout]), at, &wanted).err().map(|wrong| wrong.why)
    }

    const LAYOUT: &str = "{to:str,cents:u64,kind:<Small|Big(u8)|Cut{at:u32}>,by:?map<str,(u8,f64)>,key:[u8;32],lines:[{ok:bool}],next:?^2}";

    #[test]
    fn path_to_matching_value_is_accepted() {
        for (at, wanted) in [
            ("to", Plain::Text("Ann".into())),
            ("cents", Plain::Int(-1)),
            ("cents", Plain::Float(0.5)),
            ("kind", Plain::Text("Small".into())),
            ("kind.at", Plain::Int(1)),
            ("kind.Cut.at", Plain::Int(1)),
            ("by.anything.1", Plain::Float(1.0)),
            ("key.31", Plain::Int(0)),
            ("lines.7.ok", Plain::Bool(true)),
            ("next.next.cents", Plain::Int(1)),
        ] {
            assert_eq!(why(LAYOUT, at, wanted), None, "{at}");
        }
    }

    #[test]
    fn wrong_path_or_value_gets_hint() {
        for (at, wanted, says) in [
            (
                "cent",
                Plain::Int(1),
                "there is no field `cent`: nothing is called `cent` there; did you mean `cents`?",
            ),
            (
                "next.nest.to",
                Plain::Int(1),
                "there is no field `next.nest.to`: nothing is called `nest` there; did you mean `next`?",
            ),
            (
                "kind.off",
                Plain::Int(1),
                "there is no field `kind.off`: nothing is called `off` there; there are Big, Cut, Small, at",
            ),
            (
                "lines.first.ok",
                Plain::Bool(true),
                "there is no field `lines.first.ok`: nothing is called `first` there",
            ),
            ("cents", Plain::Text("5".into()), "`cents` is u64, and never \"5\""),
            ("cents", Plain::Bool(true), "`cents` is u64, and never true"),
            (
                "kind",
                Plain::Text("Smal".into()),
                "`kind` is <Small|Big(u8)|Cut{at:u32}>, and never \"Smal\"; did you mean `Small`?",
            ),
            ("key", Plain::Int(1), "`key` is [u8;32], and never 1"),
        ] {
            assert_eq!(why(LAYOUT, at, wanted).as_deref(), Some(says));
        }
    }

    #[test]
    fn path_search_ends_at_recursive_enum() {
        let layout = "<Not(^1)|And(^1)|Or(^1)|Is{a:u8}>";
        assert_eq!(why(layout, "a", Plain::Int(1)), None);
        assert!(why(layout, "b", Plain::Int(1)).is_some());
    }
}
