//! Judging of one event by a check, for the watcher behind the writer and for a trial without a store.

use super::book::{Book, Cold};
use super::glance::Glance;
use super::keys::KeyHash;
use super::{Check, Clocked, Looked, time_of};
use crate::error::DecodeError;
use crate::event::Event;
use crate::misfit::panic_text;
use crate::own::Own;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};

impl Check {
    /// Returns whether it looks at events of this family. `families` are those of its lens; none: all but the store's own.
    pub(crate) fn regards(families: &[String], family: &str) -> bool {
        match families.is_empty() {
            true => family != Own::FAMILY,
            false => families.iter().any(|wanted| wanted == family),
        }
    }

    /// Returns what it sees in an event. A panic in its code is an error like any other: it cannot tell.
    pub(crate) fn look(&self, glance: &mut Glance<'_>) -> Result<Looked, DecodeError> {
        catch_unwind(AssertUnwindSafe(|| self.lens.look(glance)))
            .unwrap_or_else(|panic| Err(DecodeError::new(format!("panicked: {}", panic_text(&*panic)))))
    }

    /// Judges an event. `Some`: why it could not be read.
    pub(crate) fn judge<C: Cold>(
        &self,
        book: &mut Book,
        glance: &mut Glance<'_>,
        cold: &C,
    ) -> Result<Option<DecodeError>, C::Error> {
        let recorded = time_of(glance.recorded);
        let Looked { time, seen } = match self.look(glance) {
            Ok(looked) => looked,
            Err(error) => {
                book.untold(glance.position.get(), recorded);
                return Ok(Some(error));
            }
        };
        if let (Clocked::Events { lateness, skew, .. }, Some(time)) = (self.clocked, time) {
            match time > recorded.saturating_add(skew) {
                // Hazard: one wrong clock would move the watermark of all keys.
                true if seen.is_some() => book.skewed(glance.position.get(), time, recorded),
                true => {}
                false => book.advance(time.saturating_sub(lateness), cold)?,
            }
        }
        if let Some((key, seen)) = seen {
            book.observe(key, &seen, cold)?;
        }
        Ok(None)
    }
}

/// No file: for a book that is all in memory.
pub(super) struct Nowhere;

impl Cold for Nowhere {
    type Error = Infallible;

    fn state(&self, _: KeyHash) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(None)
    }
}

/// Unwraps a result that cannot be an error.
pub(super) fn sure<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
    }
}
