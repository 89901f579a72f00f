//! Families of events: the names in one, and the layouts of its payloads.

use super::{Event, EventSet, RawRef, check_family, full_name};
use crate::canonical;
use crate::layout::{self, ErasedEvent, Layout, Samples};
use crate::misfit::{DecodeError, LayoutError};
use crate::reflect;
use crate::upcast::{ErasedUpcasts, Older};
use std::any::{TypeId, type_name};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

type Types = Result<Vec<EventType>, Vec<LayoutError>>;

thread_local! {
    /// Types by family: an open asks several times, and tracing takes most of it.
    static TRACED: RefCell<HashMap<TypeId, Types>> = RefCell::default();
}

/// A family of events as the code knows it: its names, and on demand the layouts of its payloads.
#[derive(Clone, Copy)]
pub struct Family {
    name: &'static str,
    /// Tells two families with one name apart.
    pub(crate) type_id: TypeId,
    rust_name: &'static str,
    erased: ErasedEvent,
    upcasts: fn() -> ErasedUpcasts,
    samples: fn() -> Samples,
    canonical: fn(&RawRef<'_>, &mut Vec<u8>) -> Result<(), DecodeError>,
}

/// A type of event as the code writes it today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType {
    /// In full: `FAMILY.Variant`.
    pub name: String,
    /// Older full names that are read as this type.
    pub aliases: Vec<String>,
    /// The schema version that is written.
    pub schema: u16,
    /// Layout of a payload.
    pub layout: Layout,
    /// Older versions with steps that lead here.
    pub(crate) older: Vec<Older>,
}

impl Family {
    /// The family of an event type. Cheap: nothing is traced.
    pub fn of<E: Event>() -> Self {
        Self {
            name: E::FAMILY,
            type_id: TypeId::of::<E>(),
            rust_name: type_name::<E>(),
            erased: ErasedEvent::of::<E>(),
            upcasts: || E::upcasts().into_erased(),
            samples: || Samples::of(&E::samples()),
            canonical: |raw, out| canonical::encode(&E::decode(raw)?, out),
        }
    }

    /// [`Event::FAMILY`].
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The variants, each with its aliases, without the family's name.
    ///
    /// # Errors
    ///
    /// - The type is no event family: `untagged`, `tag`, `flatten`, or neither enum nor struct.
    pub fn variants(&self) -> Result<Vec<&'static str>, LayoutError> {
        (self.erased.names)().map(reflect::Names::to_vec)
    }

    /// Returns whether the code can read this variant, by its name of today or an older one.
    pub fn has(&self, variant: &str) -> bool {
        (self.erased.names)().is_ok_and(|names| names.contains(variant))
    }

    /// All names of a variant, itself included: what it is called today, and its aliases.
    pub(crate) fn names_of(&self, variant: &str) -> Result<Vec<&'static str>, LayoutError> {
        (self.erased.same_variant)(variant)
    }

    /// The name of its Rust type, for messages.
    pub(crate) fn rust_name(&self) -> &'static str {
        self.rust_name
    }

    /// `FAMILY.Variant`.
    pub(crate) fn type_name(&self, variant: &str) -> String {
        full_name(self.name, variant)
    }

    /// Appends the canonical bytes of the event that a stored one is.
    pub(crate) fn canonical(&self, raw: &RawRef<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        (self.canonical)(raw, out)
    }

    /// Every type with its layout. It is traced once on each thread: a Rust type stays what it is.
    ///
    /// # Errors
    ///
    /// - Everything in the family that a store cannot carry, all at once.
    pub fn types(&self) -> Result<Vec<EventType>, Vec<LayoutError>> {
        if let Some(types) = TRACED.with_borrow(|traced| traced.get(&self.type_id).cloned()) {
            return types;
        }
        // No borrow is held here: this runs the type's own code, which may ask for types too.
        let types = self.trace();
        TRACED.with_borrow_mut(|traced| traced.insert(self.type_id, types.clone()));
        types
    }

    /// The layout of the payload of one variant, which may be an older name of it.
    ///
    /// # Errors
    ///
    /// - The family has no such variant, or its type cannot be traced.
    pub fn layout_of(&self, variant: &str) -> Result<Layout, LayoutError> {
        layout::of_variant(self.erased, variant, &(self.samples)())
    }

    fn trace(&self) -> Types {
        check_family(self.name).map_err(|e| vec![LayoutError::new(e.to_string())])?;
        let (upcasts, given) = ((self.upcasts)(), (self.samples)());
        let mut wrong = upcasts.faults();
        let mut types = Vec::new();
        let variants = layout::variants(self.erased, &given).unwrap_or_else(|errors| {
            wrong.extend(errors);
            Vec::new()
        });
        for layout::Variant { name, aliases, layout } in variants {
            match upcasts.older(&name, &layout, &given) {
                Ok(older) => types.push(EventType {
                    name: self.type_name(&name),
                    aliases: aliases.iter().map(|alias| self.type_name(alias)).collect(),
                    schema: upcasts.version(&name),
                    layout,
                    older,
                }),
                Err(e) => wrong.push(e),
            }
        }
        if wrong.is_empty() { Ok(types) } else { Err(wrong) }
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Family").field(&self.name).finish()
    }
}
