//! Lenses: they extract from an event what a check looks at, its key, roles and time.

use super::EventPredicate;
use super::calendar::Bucket;
use super::glance::Glance;
use super::keys::KeyHash;
use super::outside::Evidence;
use super::rows::Rowed;
use super::time_of;
use super::vocabulary::{Misnamed, Vocabulary};
use super::word::{Amount, Roles, Seen, Time, Word};
use crate::error::DecodeError;
use crate::event::{EventSet, Family};
use crate::key::{self, Key};
use crate::order::Timestamp;
use crate::projection::Registered;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Looks at events for one check.
pub(crate) trait Lens: Send + Sync {
    /// Returns the families that the setup must have for it.
    fn registers(&self) -> Vec<Family>;

    /// Returns the families of the events that it looks at; none: all.
    fn families(&self) -> Vec<String>;

    /// Returns whether an event may end its key.
    fn closes(&self) -> bool {
        false
    }

    /// Returns what it sees in an event. An error: it cannot tell.
    fn look(&self, glance: &mut Glance<'_>) -> Result<Looked, DecodeError>;

    /// Returns the predicate over rows, if it looks at rows instead of events.
    fn rowed(&self) -> Option<Arc<dyn Rowed>> {
        None
    }

    /// Returns the evidence from outside that the rows are compared with, if there is any.
    fn evidence(&self) -> Option<Arc<Evidence>> {
        None
    }

    /// Returns text that its definition also depends on: the projections that it names, as they were found.
    fn rests_on(&self) -> String {
        String::new()
    }

    /// Finds the projections that it only names. An error says which is not there.
    fn find(&self, _: &dyn Fn(&str) -> Option<Registered>) -> Result<(), String> {
        Ok(())
    }

    /// Compares the names of a declaration by name with those that the store knows.
    fn compare(&self, _: &Vocabulary) -> Result<(), Misnamed> {
        Ok(())
    }

    /// Returns the key of an event, as people read it.
    fn key_text(&self, glance: &mut Glance<'_>) -> Result<String, DecodeError>;
}

/// Result of a look at an event.
pub(crate) struct Looked {
    /// Time that the event says, if it says one.
    pub time: Option<Time>,
    /// Key and contents. `None`: the event matters to this check by its time only.
    pub seen: Option<(KeyHash, Seen)>,
}

/// Bytes of a key, and its text.
pub(super) struct Keyed<E> {
    bytes: Box<dyn Fn(&E, &mut Vec<u8>) -> Result<(), DecodeError> + Send + Sync>,
    text: Box<dyn Fn(&E) -> Result<String, DecodeError> + Send + Sync>,
}

pub(super) fn keyed<E, K: Key>(key: impl Fn(&E) -> K + Send + Sync + 'static) -> Arc<Keyed<E>> {
    let key = Arc::new(key);
    let named = key.clone();
    Arc::new(Keyed {
        bytes: Box::new(move |event, out| key::encode(&key(event), out)),
        text: Box::new(move |event| key::text(&named(event))),
    })
}

/// A lens of closures over a type.
pub(super) struct Typed<E> {
    pub a: EventPredicate<E>,
    pub b: Option<EventPredicate<E>>,
    pub c: Option<EventPredicate<E>>,
    pub close: Option<EventPredicate<E>>,
    pub key: Option<Arc<Keyed<E>>>,
    pub tie: Option<Arc<Keyed<E>>>,
    pub time: Option<Arc<dyn Fn(&E) -> Option<SystemTime> + Send + Sync>>,
    pub amounts: Option<Amounts<E>>,
    pub word: Word,
}

type AmountFn<E> = Arc<dyn Fn(&E) -> Option<i64> + Send + Sync>;

/// Closures that read the amounts of an event.
pub(super) struct Amounts<E> {
    pub adds: AmountFn<E>,
    pub says: Option<AmountFn<E>>,
    pub rounded: Option<EventPredicate<E>>,
    pub bucket: Option<Bucket>,
}

impl<E> Amounts<E> {
    /// Reads the amounts. `None` if the event says none.
    fn of(&self, event: &E, time: Time) -> Option<Amount> {
        let (adds, says) = ((self.adds)(event), self.says.as_ref().and_then(|says| says(event)));
        if adds.is_none() && says.is_none() {
            return None;
        }
        let rounded = adds.is_some() && self.rounded.as_ref().is_some_and(|rounded| rounded(event));
        let bucket_end = self.bucket.map(|bucket| bucket.around(time).1);
        Some(Amount { adds: adds.unwrap_or(0), rounded, says, bucket_end })
    }
}

impl<E> Typed<E> {
    fn roles(&self, event: &E) -> Roles {
        let is = |role: &Option<EventPredicate<E>>| role.as_ref().is_some_and(|is| is(event));
        Roles::default()
            .with(Roles::A, (self.a)(event))
            .with(Roles::B, is(&self.b))
            .with(Roles::C, is(&self.c))
            .with(Roles::CLOSE, is(&self.close))
    }
}

impl<E: EventSet> Lens for Typed<E> {
    fn registers(&self) -> Vec<Family> {
        E::families()
    }

    fn families(&self) -> Vec<String> {
        E::families().iter().map(|family| family.name().to_owned()).collect()
    }

    fn closes(&self) -> bool {
        self.close.is_some()
    }

    fn look(&self, glance: &mut Glance<'_>) -> Result<Looked, DecodeError> {
        let (stream, position, recorded) = (glance.raw.stream(), glance.position, glance.recorded);
        let (event, hashes) = glance.typed::<E>()?;
        let time = self.time.as_ref().and_then(|time| time(event)).map(signed_micros);
        let time_seen = time.unwrap_or_else(|| time_of(recorded));
        let roles = self.roles(event);
        let amount = self.amounts.as_ref().and_then(|amounts| amounts.of(event, time_seen));
        if roles == Roles::default() && amount.is_none() && !self.word.sees_neighbours() {
            return Ok(Looked { time, seen: None });
        }
        let mut bytes = Vec::new();
        let key = match &self.key {
            None => hashes.of(stream.as_bytes()),
            Some(key) => {
                (key.bytes)(event, &mut bytes)?;
                hashes.of(&bytes)
            }
        };
        let tie = match &self.tie {
            None => 0,
            Some(tie) => {
                bytes.clear();
                (tie.bytes)(event, &mut bytes)?;
                hashes.of(&bytes).1
            }
        };
        let amount = amount.unwrap_or_default();
        let seen = Seen { position: position.get(), time: time_seen, roles, tie_a: tie, tie_b: tie, amount };
        Ok(Looked { time, seen: Some((key, seen)) })
    }

    fn key_text(&self, glance: &mut Glance<'_>) -> Result<String, DecodeError> {
        let stream = glance.raw.stream().to_owned();
        match &self.key {
            None => Ok(stream),
            Some(key) => (key.text)(glance.typed::<E>()?.0),
        }
    }
}

pub(crate) fn signed_micros(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(_) => time_of(Timestamp::from(time)),
        Err(before) => -Time::try_from(before.duration().as_micros()).unwrap_or(Time::MAX),
    }
}
