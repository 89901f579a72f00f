//! Remediation in code: the append that puts a violation right, beside the remedy in words.

use super::Check;
use crate::event::{EventSet, Raw, Sequenced};
use crate::misfit::DecodeError;
use crate::order::Position;
use crate::request::Append;
use std::error::Error;
use std::sync::Arc;

/// A violation, for the code that puts it right.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Case {
    /// The check that found it.
    pub check: String,
    /// The key of its events, as people read it.
    pub key: String,
    /// Key of the rows that it is about, if no event says so.
    pub subject: Option<String>,
    /// The event that began it.
    pub activation: Position,
    /// The event that decided it. `None`: time did, or the key's end.
    pub by: Option<Position>,
    /// The event that began it, and the one that decided it.
    pub events: Vec<Sequenced<Raw>>,
}

impl Case {
    /// Reads the event that began it.
    ///
    /// # Errors
    ///
    /// It is of no family of the set, or its payload does not fit.
    pub fn began<E: EventSet>(&self) -> Result<E, DecodeError> {
        self.read(self.activation)
    }

    /// Reads the event that decided it. `None`: time did, or the key's end.
    ///
    /// # Errors
    ///
    /// As [`began`](Self::began).
    pub fn decided<E: EventSet>(&self) -> Result<Option<E>, DecodeError> {
        self.by.map(|by| self.read(by)).transpose()
    }

    fn read<E: EventSet>(&self, position: Position) -> Result<E, DecodeError> {
        let event = self.events.iter().find(|event| event.position == position);
        let event = event.ok_or_else(|| DecodeError::new(format!("there is no event at {position}")))?;
        E::decode(&event.event.borrowed())
    }
}

/// The append that puts a case right, or the reason why there is none.
pub type Fixed = Result<Append, Box<dyn Error + Send + Sync>>;

/// Builds it.
pub(crate) type Fix = Arc<dyn Fn(&Case) -> Fixed + Send + Sync>;

impl Check {
    /// Sets the machine steps: the append that puts a violation right. It is built and shown before anything is written; see
    /// [`Checks::remediation`](crate::watch::Checks::remediation). It must not have a key: its key is the violation.
    ///
    /// The remedy in words stays: it is what a person does who does not trust the machine.
    pub fn remedied(mut self, fix: impl Fn(&Case) -> Fixed + Send + Sync + 'static) -> Self {
        self.fix = Some(Arc::new(fix));
        self
    }
}
