//! The registered families of a store, and the payloads they read.

use crate::error::{LayoutError, Missing};
use crate::event::{self, Codec, Event, EventType, Family, Raw};
use crate::layout::Layout;
use crate::own::Own;
use crate::state::Layouts;
use crate::sync::Mutex;
use crate::upcast;
use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The registered families, and the types of event they read.
#[derive(Debug, Default)]
pub(crate) struct Families {
    by_name: HashMap<&'static str, Family>,
    /// By full name; an older name leads to the same type.
    types: HashMap<String, Arc<Readable>>,
    /// Other Rust types that came under the name of a registered family, each compared once.
    others: Mutex<HashMap<TypeId, Result<(), Missing>>>,
}

/// A type of event with every version that is read.
#[derive(Debug)]
struct Readable {
    /// As it is written.
    name: String,
    /// Layout of the payload in each version; the last version is the one that is written.
    versions: BTreeMap<u16, Version>,
}

#[derive(Debug)]
struct Version {
    layout: String,
    /// Its names may have been others.
    renamed: bool,
}

impl Version {
    /// Returns whether the same bytes mean the same to both.
    fn reads_as(&self, other: &Self) -> bool {
        let renames = || {
            let layouts = Layout::parse(&self.layout).ok().zip(Layout::parse(&other.layout).ok());
            layouts.is_some_and(|(is, other)| is.renames(&other))
        };
        self.layout == other.layout || ((self.renamed || other.renamed) && renames())
    }
}

/// Types with all versions that are read, under each of their names.
fn readable(types: Vec<EventType>) -> impl Iterator<Item = (String, Arc<Readable>)> {
    types.into_iter().flat_map(|event_type| {
        let mut names = event_type.aliases.clone();
        names.push(event_type.name.clone());
        let readable = Arc::new(Readable::new(event_type));
        names.into_iter().map(move |name| (name, Arc::clone(&readable)))
    })
}

impl Readable {
    fn new(event_type: EventType) -> Self {
        let older = event_type.older.into_iter();
        let mut versions: BTreeMap<u16, Version> = older
            .map(|older| {
                (older.version, Version { layout: older.layout.to_string(), renamed: older.renamed })
            })
            .collect();
        let today = Version { layout: event_type.layout.to_string(), renamed: false };
        versions.insert(event_type.schema, today);
        Self { name: event_type.name, versions }
    }

    /// The first version that another type under the same name reads differently.
    fn difference(&self, other: &Self) -> Option<String> {
        let both = self
            .versions
            .iter()
            .filter_map(|(version, is)| Some((version, is, other.versions.get(version)?)));
        let mut differing = both.filter(|(_, is, other)| !is.reads_as(other));
        let (version, is, other) = differing.next()?;
        Some(format!("(version {version}) is {} in the setup and {} in the other", is.layout, other.layout))
    }

    fn today(&self) -> u16 {
        *self.versions.last_key_value().expect("a type is read in what it is written").0
    }

    /// Returns why no payload of this version is read, and what to do about it. `None` if it is read.
    fn unread(&self, type_name: &str, version: u16, was: &str) -> Option<Missing> {
        if self.versions.contains_key(&version) {
            return None;
        }
        let what = format!("event type `{type_name}` (version {version})");
        let (first, today) = (*self.versions.first_key_value()?.0, self.today());
        if version > today {
            let add = format!("this code knows version {today} and no later one: use the code that wrote it");
            return Some(Missing::new(what, add));
        }
        let steps = match first.saturating_sub(1) {
            last if last > version => format!("add the upcast steps from {version} to {last}: "),
            _ => format!("add the upcast step from {version}: "),
        };
        let variant = event::split_type_name(&self.name).1;
        let line = format!("`.step(\"{variant}\", {version}, |old: {variant}V{version}| ..)`");
        Some(Missing::new(what, format!("{steps}{line}{was}")))
    }

    /// Returns why payloads in the log would be misread. `None` if they would not.
    fn misread(&self, type_name: &str, schema: u16, logged: &str) -> Option<String> {
        let variant = event::split_type_name(&self.name).1;
        let was = format!(", where {variant}V{schema} is {logged}");
        let Some(Version { layout, renamed }) = self.versions.get(&schema) else {
            return self.unread(type_name, schema, &was).map(|unread| unread.to_string());
        };
        let renames = || {
            let layouts = Layout::parse(layout).ok().zip(Layout::parse(logged).ok());
            layouts.is_some_and(|(now, was)| now.renames(&was))
        };
        if layout == logged || (*renamed && renames()) {
            return None;
        }
        let what = format!("event type `{type_name}` (version {schema}) is {logged} in the log and {layout}");
        if schema != self.today() {
            return Some(format!(
                "{what} to the upcast step from {schema}, which would misread it: let the step take what was written"
            ));
        }
        let same = match renames() {
            true => format!(", or `.same(\"{variant}\", {schema})` if nothing but names has changed"),
            false => String::new(),
        };
        Some(format!(
            "{what} in the code; a field added, dropped, renamed or retyped would be misread: raise the version, \
             add an upcast step from {schema}: `.last(\"{variant}\", {schema}, |old: {variant}V{schema}| ..)`{was}{same}"
        ))
    }
}

impl Families {
    /// Of families that were checked.
    pub(super) fn new(all: impl Iterator<Item = Family>) -> Self {
        let by_name: HashMap<_, _> = all.map(|family| (family.name(), family)).collect();
        let types =
            by_name.values().flat_map(|family| readable(family.types().unwrap_or_default())).collect();
        Self { by_name, types, others: Mutex::default() }
    }

    /// The family of this name.
    pub fn get(&self, name: &str) -> Option<Family> {
        self.by_name.get(name).copied()
    }

    /// Compares the Rust type of a family with the registered one, by what their payloads hold. A family that nobody registered
    /// has no payloads that another type could misread.
    pub fn compare_type(&self, family: &Family) -> Result<(), Missing> {
        match self.by_name.get(family.name()) {
            Some(registered) if registered.type_id != family.type_id => {
                self.compare_other(family, registered)
            }
            _ => Ok(()),
        }
    }

    #[cold]
    fn compare_other(&self, family: &Family, registered: &Family) -> Result<(), Missing> {
        let known = self.others.lock().get(&family.type_id).cloned();
        known.unwrap_or_else(|| {
            let compared = self.difference(family).map_or(Ok(()), |differs| {
                let (name, is, other) = (family.name(), registered.rust_name(), family.rust_name());
                let what = format!("family `{name}` as `{other}`: it has `{is}`, and {differs}");
                let add = format!("use `{is}`, or give `{other}` a family of its own");
                Err(Missing::new(what, add))
            });
            self.others.lock().insert(family.type_id, compared.clone());
            compared
        })
    }

    /// The first payload that a family's type and the registered one would read differently.
    fn difference(&self, family: &Family) -> Option<String> {
        let types = match family.types() {
            Ok(types) => readable(types),
            Err(faults) => return faults.first().map(LayoutError::to_string),
        };
        let mut types: Vec<_> = types.collect();
        types.sort_by(|(name, _), (other, _)| name.cmp(other));
        types.iter().find_map(|(name, other)| {
            let difference = self.types.get(name)?.difference(other)?;
            Some(format!("`{name}` {difference}"))
        })
    }

    /// The layout to declare with an event; none for payloads that describe themselves.
    pub fn layout(&self, type_name: &str, schema: u16, codec: Option<Codec>) -> Option<&str> {
        match codec {
            Some(Codec::Bincode) => Some(&self.types.get(type_name)?.versions.get(&schema)?.layout),
            _ => None,
        }
    }

    /// Returns why no caller may append this event: it is in a name that is the store's own. `None` if callers may.
    pub fn forged(&self, event: &Raw) -> Option<String> {
        let of_stream = event.stream().split_once('/').map(|(family, _)| family);
        if event.family() != Own::FAMILY && of_stream != Some(Own::FAMILY) {
            return None;
        }
        let by_the_store = |family: Family| family.type_id == TypeId::of::<Own>();
        (!event.written_by().is_some_and(by_the_store)).then(|| {
            let (family, name, stream) = (Own::FAMILY, event.type_name(), event.stream());
            format!(
                "the family `{family}` is the store's own, and only the store writes `{name}` to `{stream}`: leave its \
                 events out where a log is copied"
            )
        })
    }

    /// Returns what the setup lacks for this event to be appended. `None` if it lacks nothing.
    pub fn missing(&self, event: &Raw) -> Option<Missing> {
        let (type_name, registered) = (event.type_name(), self.by_name.get(event.family()));
        if let Some((registered, family)) = registered.zip(event.written_by())
            && registered.type_id != family.type_id
            && let Err(other) = self.compare_other(&family, registered)
        {
            return Some(other);
        }
        let written = self.types.get(type_name).filter(|known| known.name == type_name);
        match (written, registered) {
            (Some(_), _) if event.schema() == event::TODAY => None,
            (Some(known), _) => known.unread(type_name, event.schema(), ""),
            (None, Some(family)) => {
                let known = family.variants().unwrap_or_default().join(", ");
                Some(Missing::new(format!("event type `{type_name}`"), format!("its family has {known}")))
            }
            // Raw events of a family nobody registered describe themselves.
            (None, None) if event.codec() == Codec::Json => None,
            (None, None) => {
                let add = "add `.events::<..>()` for its family to the setup";
                Some(Missing::new(format!("event type `{type_name}`"), add))
            }
        }
    }

    /// Gives an event the version it is recorded with, if that was left to the store.
    pub fn settle(&self, event: &mut Raw) {
        if event.schema == event::TODAY {
            event.schema = self.types.get(&event.type_name).map_or(upcast::FIRST, |known| known.today());
        }
    }

    /// Compares the types in the log with the code: what the code lacks, and what it reads otherwise than it was written.
    pub fn compare(&self, logged: &Layouts, count: impl Fn(&str) -> String) -> (Vec<Missing>, Vec<String>) {
        let (mut missing, mut wrong) = (Vec::new(), Vec::new());
        let mut logged: Vec<_> = logged.iter().collect();
        logged.sort();
        for (type_name, schemas) in logged {
            let (family, variant) = event::split_type_name(type_name);
            match (self.types.get(type_name), self.by_name.contains_key(family)) {
                (Some(known), _) => {
                    wrong.extend(schemas.iter().filter_map(|(schema, was)| known.misread(type_name, *schema, was)));
                }
                (None, true) => missing.push(Missing::new(
                    format!("event type `{type_name}` ({})", count(type_name)),
                    format!("add the variant to family `{family}`, or `#[serde(alias = \"{variant}\")]` to the one it became"),
                )),
                (None, false) => missing.push(Missing::new(
                    format!("event type `{type_name}` ({})", count(type_name)),
                    format!("add `.events::<..>()` for family `{family}` to the setup"),
                )),
            }
        }
        (missing, wrong)
    }
}
