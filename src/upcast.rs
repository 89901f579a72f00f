//! Steps from payloads as they were to events as they are.
//!
//! - Versions of a variant count from 1; today's is the last step plus one. Nothing else declares it.
//! - A chain has no gap, and may begin late: a version that no store holds any more needs no step. A log that does hold it
//!   refuses the open.
//! - A step gets the result of the step before it: their types are compared before a store opens.
//! - A panic on the way makes the payload unreadable, and is caught here.

use crate::codec::{self, Codec};
use crate::layout::{Layout, Samples};
use crate::misfit::{DecodeError, LayoutError, panic_text};
use crate::reflect::{self, Names};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId, type_name};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Schema version of a payload that no step has raised.
pub(crate) const FIRST: u16 = 1;

/// Steps from old payloads to today's: the answer of [`Event::upcasts`](crate::event::Event::upcasts).
///
/// A payload is stored with the schema version of its variant, which is 1 at first and then the last step plus one. Keep the
/// old payload as a struct of its own, with its serde derives, and add a step that begins at its version. Folds, queries and
/// views then read every version as today's; the log keeps what was written.
///
/// - Steps follow one another from version to version. A step from a version that is in no store any more may be removed.
/// - A step names its variant by any name it has, an alias included: that is one variant, and its versions are counted once.
/// - A step is a function of the payload alone, and captures nothing: it must give the same tomorrow. Its result should be
///   of the variant it names, because queries and indexes go by the stored name.
/// - A step that panics makes its events unreadable: a query ends with [`ReadError::Decode`](crate::error::ReadError), an inline
///   projection that is folded from the log stalls at that position.
/// - Json payloads take the same steps from the version they were recorded with.
///
/// # Examples
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tallystone::event::Upcasts;
/// use tallystone::prelude::*;
///
/// # mod first {
/// #     use super::*;
/// #     #[derive(Serialize, Deserialize)]
/// #     pub enum Course { Defined { course: String } }
/// #     impl Event for Course {
/// #         const FAMILY: &str = "course";
/// #         type Id = String;
/// #         fn id(&self) -> String { let Course::Defined { course } = self; course.clone() }
/// #     }
/// # }
/// #[derive(Serialize, Deserialize, Debug, PartialEq)]
/// enum Course {
///     Defined { course: String, capacity: u32, room: Option<String> },
/// }
/// // The payloads that were: {course} at first, then {course, seats}.
/// #[derive(Serialize, Deserialize)]
/// struct DefinedV1 { course: String }
/// #[derive(Serialize, Deserialize)]
/// struct DefinedV2 { course: String, seats: u32 }
///
/// impl Event for Course {
///     const FAMILY: &str = "course";
///     type Id = String;
///     fn id(&self) -> String {
///         let Course::Defined { course, .. } = self;
///         course.clone()
///     }
///     fn upcasts() -> Upcasts<Self> {
///         Upcasts::none()
///             .step("Defined", 1, |old: DefinedV1| DefinedV2 { course: old.course, seats: 30 })
///             .last("Defined", 2, |old: DefinedV2| Course::Defined {
///                 course: old.course,
///                 capacity: old.seats,
///                 room: None,
///             })
///     }
/// }
///
/// # fn main() -> Result<(), Error> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("school");
/// # let store = Store::create(&path, Setup::new().events::<first::Course>())?;
/// # store.append(Append::event(first::Course::Defined { course: "knots".into() }))?;
/// # store.close();
/// // A store that the first version wrote.
/// let store = Store::open(&path, Setup::new().events::<Course>())?;
/// let old = store.view()?.stream::<Course>("knots").next().expect("it is there")?;
/// assert_eq!(old.event, Course::Defined { course: "knots".into(), capacity: 30, room: None });
/// store.append(Append::event(Course::Defined { course: "sails".into(), capacity: 8, room: None }))?;
/// # store.close();
///
/// // Example: code from before the steps would misread what is there now, and is refused.
/// let refused = Store::open(&path, Setup::new().events::<first::Course>());
/// assert!(matches!(refused, Err(OpenError::Setup(why)) if why[0].contains("version 3")));
/// # Ok(())
/// # }
/// ```
pub struct Upcasts<E> {
    steps: Vec<UpcastStep>,
    event: PhantomData<fn() -> E>,
}

struct UpcastStep {
    variant: &'static str,
    from: u16,
    /// None where the bytes stay as they are.
    lead: Option<Box<dyn ErasedStep>>,
}

impl<E: 'static> Upcasts<E> {
    /// Returns no step: every type of the family is at version 1.
    #[inline]
    pub fn none() -> Self {
        Self { steps: Vec::new(), event: PhantomData }
    }

    /// Adds a step from the payload of version `from` to the next one, which the next step takes.
    ///
    /// Example: a step that captures is not compiled, because the captured value might be another one tomorrow.
    ///
    /// ```compile_fail
    /// # use serde::{Deserialize, Serialize};
    /// # use tallystone::prelude::*;
    /// # use tallystone::event::Upcasts;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Opened { seats: u32 }
    /// # #[derive(Serialize, Deserialize)]
    /// # struct OpenedV1;
    /// # impl Event for Opened {
    /// #     const FAMILY: &str = "hall";
    /// #     type Id = ();
    /// #     fn id(&self) {}
    /// #     fn upcasts() -> Upcasts<Self> {
    /// let seats = std::process::id();
    /// Upcasts::none().last("Opened", 1, move |_: OpenedV1| Opened { seats })
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Error> { Store::in_memory(Setup::new().events::<Opened>()).map(drop)?; Ok(()) }
    /// ```
    pub fn step<A, B>(mut self, variant: &'static str, from: u16, lead: impl Fn(A) -> B + 'static) -> Self
    where
        A: Serialize + DeserializeOwned + 'static,
        B: 'static,
    {
        self.steps.push(UpcastStep { variant, from, lead: Some(TypedStep::boxed(lead)) });
        self
    }

    /// Adds the step from the payload of version `from` to today's event.
    pub fn last<A>(self, variant: &'static str, from: u16, lead: impl Fn(A) -> E + 'static) -> Self
    where
        A: Serialize + DeserializeOwned + 'static,
    {
        self.step(variant, from, lead)
    }

    /// Adds a step that keeps the bytes: fields were renamed and mean what they meant. A name that stays must keep its place.
    ///
    /// Json is read by name: there the field needs a `#[serde(alias)]` as well.
    pub fn same(mut self, variant: &'static str, from: u16) -> Self {
        self.steps.push(UpcastStep { variant, from, lead: None });
        self
    }
}

/// A step whose types are erased.
trait ErasedStep {
    fn takes(&self) -> Type;
    fn makes(&self) -> Type;
    /// Returns the layout of the payload that it takes.
    fn layout(&self, given: &Samples) -> Result<Layout, LayoutError>;
    fn read(&self, codec: Codec, payload: &[u8]) -> Result<Box<dyn Any>, DecodeError>;
    /// Runs the step. `None` if `payload` is not of the type that it takes.
    fn lead(&self, payload: Box<dyn Any>) -> Option<Box<dyn Any>>;
}

/// A Rust type, to be compared and named.
#[derive(Clone, Copy)]
struct Type {
    id: TypeId,
    name: &'static str,
}

impl Type {
    fn of<T: 'static>() -> Self {
        Self { id: TypeId::of::<T>(), name: type_name::<T>() }
    }
}

struct TypedStep<A, F> {
    lead: F,
    takes: PhantomData<fn(A)>,
}

impl<A, B, F> TypedStep<A, F>
where
    A: Serialize + DeserializeOwned + 'static,
    B: 'static,
    F: Fn(A) -> B + 'static,
{
    /// Boxes a step. It takes no memory: the steps are listed anew for each event of a family that has any.
    fn boxed(lead: F) -> Box<dyn ErasedStep> {
        const { assert!(size_of::<F>() == 0, "an upcast step captures nothing") };
        Box::new(Self { lead, takes: PhantomData })
    }
}

impl<A, B, F> ErasedStep for TypedStep<A, F>
where
    A: Serialize + DeserializeOwned + 'static,
    B: 'static,
    F: Fn(A) -> B + 'static,
{
    fn takes(&self) -> Type {
        Type::of::<A>()
    }

    fn makes(&self) -> Type {
        Type::of::<B>()
    }

    fn layout(&self, given: &Samples) -> Result<Layout, LayoutError> {
        Layout::with_samples::<A>(given)
    }

    fn read(&self, codec: Codec, payload: &[u8]) -> Result<Box<dyn Any>, DecodeError> {
        Ok(Box::new(codec::decode_payload::<A>(codec, payload)?))
    }

    fn lead(&self, payload: Box<dyn Any>) -> Option<Box<dyn Any>> {
        Some(Box::new((self.lead)(*payload.downcast::<A>().ok()?)))
    }
}

// Reading

impl<E: Serialize + DeserializeOwned + 'static> Upcasts<E> {
    /// Returns the version that is written today.
    #[inline]
    pub(crate) fn version(self, variant: &str) -> u16 {
        if self.steps.is_empty() { FIRST } else { self.into_erased().version(variant) }
    }

    /// Reads today's event from a payload of this version.
    #[inline]
    pub(crate) fn read(
        self,
        variant: &str,
        version: u16,
        codec: Codec,
        payload: &[u8],
    ) -> Result<E, DecodeError> {
        if self.steps.is_empty() && version == FIRST {
            return codec::decode_event(codec, variant, payload);
        }
        let erased = self.into_erased();
        if version == erased.version(variant) {
            return codec::decode_event(codec, variant, payload);
        }
        let event = erased.read(variant, version, codec, payload)?;
        event.downcast().map(|event| *event).map_err(|_| apart())
    }

    pub(crate) fn into_erased(self) -> ErasedUpcasts {
        ErasedUpcasts {
            steps: self.steps,
            event: Type::of::<E>(),
            names: reflect::names::<E>,
            same_as: |variant| Box::new(reflect::same_as::<E>(variant)),
            decode: |codec, variant, payload| {
                Ok(Box::new(codec::decode_event::<E>(codec, variant, payload)?))
            },
        }
    }
}

/// Steps of a family, with its type behind pointers: the code below is compiled once.
pub(crate) struct ErasedUpcasts {
    steps: Vec<UpcastStep>,
    event: Type,
    names: fn() -> Result<Names, LayoutError>,
    /// Compares names with this one: two names may be of one variant.
    same_as: for<'n> fn(&'n str) -> Box<dyn Fn(&str) -> bool + 'n>,
    decode: fn(Codec, &str, &[u8]) -> Result<Box<dyn Any>, DecodeError>,
}

impl ErasedUpcasts {
    /// Returns the version that is written today.
    pub fn version(&self, variant: &str) -> u16 {
        self.of(variant).map(|step| step.from.saturating_add(1)).max().unwrap_or(FIRST)
    }

    fn of(&self, variant: &str) -> impl Iterator<Item = &UpcastStep> {
        let same = (self.same_as)(variant);
        self.steps.iter().filter(move |step| same(step.variant))
    }

    /// Returns the steps of a variant in the order they are taken.
    fn chain(&self, variant: &str) -> Vec<&UpcastStep> {
        let mut chain: Vec<_> = self.of(variant).collect();
        chain.sort_by_key(|step| step.from);
        chain
    }

    #[cold]
    fn read(
        &self,
        variant: &str,
        version: u16,
        codec: Codec,
        payload: &[u8],
    ) -> Result<Box<dyn Any>, DecodeError> {
        let today = self.version(variant);
        let mut chain = self.chain(variant);
        chain.retain(|step| step.from >= version);
        if chain.first().is_none_or(|step| step.from != version) {
            return Err(DecodeError::new(format!("written with schema {version}, this code knows {today}")));
        }
        let lead = || self.lead(&chain, variant, codec, payload);
        catch_unwind(AssertUnwindSafe(lead)).unwrap_or_else(|panic| {
            let what = format!("a panic on the way from version {version} to {today}");
            Err(DecodeError::new(what).quoting(panic_text(&*panic)))
        })
    }

    fn lead(
        &self,
        chain: &[&UpcastStep],
        variant: &str,
        codec: Codec,
        payload: &[u8],
    ) -> Result<Box<dyn Any>, DecodeError> {
        let mut leads = chain.iter().filter_map(|step| step.lead.as_deref()).peekable();
        let Some(first) = leads.peek() else { return (self.decode)(codec, variant, payload) };
        let mut value = first.read(codec, payload)?;
        for lead in leads {
            value = lead.lead(value).ok_or_else(apart)?;
            if (*value).type_id() == self.event.id {
                return Ok(value);
            }
        }
        Err(apart())
    }
}

fn apart() -> DecodeError {
    DecodeError::new("its upcast steps do not follow one another")
}

// Checks before a store opens

/// An older version that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Older {
    pub version: u16,
    pub layout: Layout,
    /// True if its names may have been others.
    pub renamed: bool,
}

impl ErasedUpcasts {
    /// Returns the older versions of a variant that are read, oldest first. `today` is the layout of its payload now.
    pub fn older(&self, variant: &str, today: &Layout, given: &Samples) -> Result<Vec<Older>, LayoutError> {
        let mut older: Vec<Older> = Vec::new();
        for step in self.chain(variant).into_iter().rev() {
            let layout = match &step.lead {
                Some(lead) => lead.layout(given)?,
                None => older.last().map_or(today, |next| &next.layout).clone(),
            };
            older.push(Older { version: step.from, layout, renamed: step.lead.is_none() });
        }
        older.reverse();
        Ok(older)
    }

    /// Returns everything that is wrong with the steps.
    pub fn faults(&self) -> Vec<LayoutError> {
        let Ok(names) = (self.names)() else { return Vec::new() };
        let mut wrong = Vec::new();
        let mut seen: Vec<&UpcastStep> = Vec::new();
        for step in &self.steps {
            let UpcastStep { variant, from, .. } = step;
            if !names.contains(variant) {
                wrong.push(format!("an upcast step from {from} is for `{variant}`, the family has {names}"));
            }
            if *from == 0 || *from == u16::MAX {
                wrong.push(format!("an upcast step of `{variant}` is from {from}, versions are 1 to 65534"));
            }
            let same = (self.same_as)(variant);
            if !seen.iter().any(|other| same(other.variant)) {
                chain_faults(self.event, &self.chain(variant), &mut wrong);
            }
            seen.push(step);
        }
        wrong.into_iter().map(LayoutError::new).collect()
    }
}

/// Reports two steps for one version, a gap, and steps whose types do not meet.
fn chain_faults(today: Type, chain: &[&UpcastStep], wrong: &mut Vec<String>) {
    for pair in chain.windows(2) {
        let (variant, from, next) = (pair[0].variant, pair[0].from, pair[1].from);
        if from == next {
            wrong.push(format!("`{variant}` has two upcast steps from {from}"));
        } else if next - from > 1 {
            let missing = from + 1;
            wrong.push(format!("`{variant}` has an upcast step from {next} and none from {missing}: add it"));
        }
    }
    let mut leads = chain.iter().filter_map(|step| Some((*step, step.lead.as_deref()?))).peekable();
    while let Some((UpcastStep { variant, from, .. }, lead)) = leads.next() {
        let makes = lead.makes();
        let met = match leads.peek() {
            _ if makes.id == today.id => continue,
            Some((_, next)) if makes.id == next.takes().id => continue,
            Some((next, takes)) => format!("the step from {} takes {}", next.from, takes.takes().name),
            None => format!("no step leads on from there: end with `.last(\"{variant}\", ..)`"),
        };
        wrong.push(format!("the upcast step of `{variant}` from {from} makes {}, and {met}", makes.name));
    }
}
