//! One event as checks look at it: decoded once, however many they are.

use super::keys::KeyHash;
use crate::error::DecodeError;
use crate::event::{Codec, EventSet, RawRef};
use crate::layout::Layout;
use crate::order::{Position, Timestamp};
use crate::state::Layouts;
use crate::state::term::Terms;
use crate::value::Value;
use smallvec::SmallVec;
use std::any::{Any, TypeId};
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

/// Decoder of events: hash keys, and layouts by type and version.
pub(crate) struct Glasses {
    terms: Terms,
    layouts: Arc<Layouts>,
    /// Parsed layouts, by type and version. `None`: there is none.
    parsed: RefCell<HashMap<String, Vec<(u16, Option<Arc<Layout>>)>>>,
}

impl Glasses {
    pub fn new(terms: Terms, layouts: Arc<Layouts>) -> Self {
        Self { terms, layouts, parsed: RefCell::default() }
    }

    /// Takes layouts that were declared meanwhile.
    pub fn renew(&mut self, layouts: &Arc<Layouts>) {
        if !Arc::ptr_eq(&self.layouts, layouts) {
            self.layouts = layouts.clone();
            self.parsed.get_mut().clear();
        }
    }

    /// Returns the hash of a key.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash::from(self.terms.checked(key))
    }

    /// Takes a layout that was declared with events that are not committed yet.
    pub fn learn(&mut self, type_name: &str, schema: u16, layout: &str) {
        let known = |all: &Vec<(u16, Option<Arc<Layout>>)>| {
            all.iter().any(|(known, layout)| *known == schema && layout.is_some())
        };
        let parsed = self.parsed.get_mut();
        if parsed.get(type_name).is_some_and(known) {
            return;
        }
        let all = parsed.entry(type_name.to_owned()).or_default();
        all.retain(|(known, _)| *known != schema);
        all.push((schema, Layout::parse(layout).ok().map(Arc::new)));
    }

    fn value(&self, raw: &RawRef<'_>) -> Result<Value, DecodeError> {
        if raw.codec() == Codec::Json {
            return Value::of_json(raw.data());
        }
        let layout = self.layout(raw.type_name(), raw.schema());
        layout.ok_or_else(|| DecodeError::new("the log has no layout of it"))?.read(raw.data())
    }

    fn layout(&self, type_name: &str, schema: u16) -> Option<Arc<Layout>> {
        let mut parsed = self.parsed.borrow_mut();
        if let Some((_, layout)) =
            parsed.get(type_name).and_then(|all| all.iter().find(|(known, _)| *known == schema))
        {
            return layout.clone();
        }
        let text = self.layouts.get(type_name).and_then(|all| all.get(&schema));
        let layout = text.and_then(|text| Layout::parse(text).ok()).map(Arc::new);
        parsed.entry(type_name.to_owned()).or_default().push((schema, layout.clone()));
        layout
    }
}

/// An event, with its decoded forms and hashes so far.
pub(crate) struct Glance<'a> {
    pub raw: RawRef<'a>,
    pub position: Position,
    pub recorded: Timestamp,
    glasses: &'a Glasses,
    typed: SmallVec<[(TypeId, Box<dyn Any>); 1]>,
    value: OnceCell<Result<Value, DecodeError>>,
    hashes: Hashes<'a>,
}

/// Hashes of keys. Checks over one event mostly share its key.
pub(crate) struct Hashes<'a> {
    terms: &'a Terms,
    known: SmallVec<[(SmallVec<[u8; 32]>, KeyHash); 1]>,
}

impl<'a> Glance<'a> {
    pub fn new(raw: RawRef<'a>, position: Position, recorded: Timestamp, glasses: &'a Glasses) -> Self {
        let hashes = Hashes { terms: &glasses.terms, known: SmallVec::new() };
        Self { raw, position, recorded, glasses, typed: SmallVec::new(), value: OnceCell::new(), hashes }
    }

    /// Returns its payload, by field name. Decoded once.
    pub fn value(&self) -> Result<&Value, DecodeError> {
        self.value.get_or_init(|| self.glasses.value(&self.raw)).as_ref().map_err(Clone::clone)
    }

    pub fn hash(&mut self, key: &[u8]) -> KeyHash {
        self.hashes.of(key)
    }

    /// Returns the event as one of a set. Decoded once.
    pub fn typed<E: EventSet>(&mut self) -> Result<(&E, &mut Hashes<'a>), DecodeError> {
        let id = TypeId::of::<E>();
        let index = match self.typed.iter().position(|(known, _)| *known == id) {
            Some(index) => index,
            None => {
                self.typed.push((id, Box::new(E::decode(&self.raw)?)));
                self.typed.len() - 1
            }
        };
        let event = self.typed[index].1.downcast_ref().expect("it is kept under its type");
        Ok((event, &mut self.hashes))
    }
}

impl Hashes<'_> {
    pub fn of(&mut self, key: &[u8]) -> KeyHash {
        if let Some((_, hash)) = self.known.iter().find(|(known, _)| **known == *key) {
            return *hash;
        }
        let hash = KeyHash::from(self.terms.checked(key));
        self.known.push((key.into(), hash));
        hash
    }
}
