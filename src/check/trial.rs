//! Trial of a check on a few events: no store, no disk, no clock, and the same judge.
//!
//! ```
//! # use serde::{Deserialize, Serialize};
//! # use std::time::Duration;
//! # use tallystone::prelude::*;
//! use tallystone::check::{About, Check, Outcome, Severity, Trial};
//!
//! # #[derive(Serialize, Deserialize)]
//! # enum Order {
//! #     Placed { order: u32 },
//! #     Shipped { order: u32 },
//! # }
//! # impl Event for Order {
//! #     const FAMILY: &str = "order";
//! #     type Id = u32;
//! #     fn id(&self) -> u32 { let (Self::Placed { order } | Self::Shipped { order }) = self; *order }
//! # }
//! const HOUR: Duration = Duration::from_secs(3600);
//!
//! fn shipped() -> Check {
//!     let about = About {
//!         id: "placed-is-shipped",
//!         severity: Severity::Ticket,
//!         owner: "warehouse",
//!         means: "We took the order and did not ship it.",
//!         remedy: "1 look for the parcel; 2 ship it again",
//!     };
//!     let placed = |e: &Order| matches!(e, Order::Placed { .. });
//!     about.response(placed, |e| matches!(e, Order::Shipped { .. })).within(72 * HOUR).into()
//! }
//!
//! let tried = Trial::of(shipped())
//!     .at(0 * HOUR, Order::Placed { order: 1 })
//!     .at(1 * HOUR, Order::Placed { order: 2 })
//!     .at(72 * HOUR, Order::Shipped { order: 1 })
//!     .until(80 * HOUR)
//!     .judge()?;
//! assert_eq!((tried.activations, tried.satisfied, tried.violated), (2, 1, 1));
//!
//! // Example: the order that was not shipped is found, by the time alone. It is the fixture's second event.
//! let found = &tried.findings[0];
//! assert_eq!((found.outcome, found.began, found.decided_by), (Outcome::Violated, 1, None));
//! # Ok::<(), tallystone::check::TrialError>(())
//! ```

use super::book::Book;
use super::glance::{Glance, Glasses};
use super::judge::{Nowhere, sure};
use super::word::{Finding, Verdict};
use super::{Check, Fault, signed_micros, time_of};
use crate::error::DecodeError;
use crate::event::{self, EventSet, Family, Raw};
use crate::order::{Position, Timestamp};
use crate::state::Layouts;
use crate::state::term::Terms;
use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A check and the events it is shown: see the [example](self). It finds the same as a store with the same events.
#[derive(Debug)]
#[must_use = "a trial says nothing until it is judged"]
pub struct Trial {
    check: Check,
    start: SystemTime,
    shown: Vec<(Duration, Raw)>,
    until: Option<Duration>,
    layouts: Layouts,
    declared: Vec<TypeId>,
    /// The first error of an event or a time.
    wrong: Option<TrialError>,
}

impl Trial {
    /// Creates a trial of a check: one from closures, or one that was read from a file.
    pub fn of(check: impl Into<Check>) -> Self {
        let check = check.into();
        let mut trial = Self {
            start: UNIX_EPOCH,
            shown: Vec::new(),
            until: None,
            layouts: Layouts::new(),
            declared: Vec::new(),
            wrong: None,
            check,
        };
        trial.declare(&trial.check.lens.registers());
        trial
    }

    /// Sets the start, for events that say their own time and for calendars. Without it, 1970.
    pub fn starting(mut self, start: SystemTime) -> Self {
        self.start = start;
        self
    }

    /// Shows it an event, recorded this long after the start. Events come in the order of the log, so none is recorded before
    /// the one above it.
    pub fn at<E: EventSet>(mut self, time: Duration, event: E) -> Self {
        self.declare(&E::families());
        match event.encode() {
            Ok(raw) => self.show(time, raw),
            Err(cause) => self.fail(TrialError::Event { index: self.shown.len(), cause }),
        }
        self
    }

    /// As [`at`](Self::at), with an event of this type as JSON: an object for named fields, a list for a tuple, `null` for none.
    #[cfg(feature = "json")]
    pub fn at_json(
        self,
        time: Duration,
        type_name: impl Into<String>,
        stream: impl Into<String>,
        payload: &serde_json::Value,
    ) -> Self {
        self.at(time, Raw::json(type_name, stream, event::Tags::none(), payload))
    }

    /// Ends the trial this long after the start: no more events come, and time alone decides the rest. A check that goes by the
    /// time in events takes all before it for complete. Without it, the trial ends with its last event.
    pub fn until(mut self, time: Duration) -> Self {
        self.until = Some(time);
        self
    }

    /// Judges the events and returns the findings.
    ///
    /// # Errors
    ///
    /// The first fault of the check, an event or a time: a store could not open with it, take it, or have it in this order.
    pub fn judge(mut self) -> Result<Tried, TrialError> {
        if let Some(fault) = self.check.faults().into_iter().next() {
            return Err(fault.into());
        }
        if self.check.lens.rowed().is_some() {
            return Err(TrialError::Rows { check: self.check.id().to_owned() });
        }
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let end = self.shown.last().map_or(Duration::ZERO, |(time, _)| *time);
        let until = self.until.unwrap_or(end);
        if until < end {
            return Err(TrialError::Until { until, end });
        }
        let horizon = self.start.checked_add(until).ok_or(TrialError::Time { at: until })?;
        Ok(self.run(horizon))
    }

    fn run(self, horizon: SystemTime) -> Tried {
        let Self { check, start, shown, layouts, .. } = self;
        let glasses = Glasses::new(Terms::of_no_store(), Arc::new(layouts));
        let (mut book, families) = (Book::new(check.rule, false), check.lens.families());
        let mut findings = Vec::new();
        for (index, (time, raw)) in shown.iter().enumerate() {
            let recorded = Timestamp::from(start + *time);
            if let Some(watermark) = check.clocked.watermark(time_of(recorded)) {
                sure(book.advance(watermark, &Nowhere));
            }
            if !Check::regards(&families, raw.family()) {
                continue;
            }
            let position = Position::new(index as u64 + 1);
            let mut glance = Glance::new(raw.borrowed(), position, recorded, &glasses);
            let unread = sure(check.judge(&mut book, &mut glance, &Nowhere));
            let found = book.take_found();
            findings.extend(found.iter().map(|(_, finding)| Found::new(finding, unread.as_ref())));
        }
        sure(book.advance(signed_micros(horizon), &Nowhere));
        findings.extend(book.take_found().iter().map(|(_, finding)| Found::new(finding, None)));
        let counts = *book.counts();
        Tried {
            activations: counts.activations,
            satisfied: counts.satisfied,
            violated: counts.violated,
            pending: counts.pending(),
            unread: counts.untold,
            healed: counts.healed,
            retracted: counts.retracted,
            findings,
        }
    }

    /// Adds the layouts of these families, as the log would keep them. Fields are found by name through them.
    fn declare(&mut self, families: &[Family]) {
        let new: Vec<_> =
            families.iter().filter(|family| !self.declared.contains(&family.type_id)).copied().collect();
        self.declared.extend(new.iter().map(|family| family.type_id));
        for event_type in new.iter().flat_map(|family| family.types().unwrap_or_default()) {
            let older = event_type.older.iter().map(|older| (older.version, older.layout.to_string()));
            let today = (event_type.schema, event_type.layout.to_string());
            let versions = self.layouts.entry(event_type.name.clone()).or_default();
            let mut others = older.chain([today]).filter_map(|(version, layout)| {
                let known = versions.entry(version).or_insert_with(|| layout.clone());
                (*known != layout).then(|| format!("is {known} to one type and {layout} to another"))
            });
            if let Some(differs) = others.next() {
                let cause = DecodeError::new(differs).of(event_type.name);
                self.fail(TrialError::Event { index: self.shown.len(), cause });
            }
        }
    }

    fn show(&mut self, time: Duration, mut raw: Raw) {
        let index = self.shown.len();
        let named = event::check_type_name(raw.type_name(), usize::MAX)
            .and_then(|()| event::check_stream(raw.stream(), usize::MAX));
        if let Err(bad) = named {
            self.fail(TrialError::Event { index, cause: DecodeError::new(bad.to_string()) });
        }
        let before = self.shown.last().map_or(Duration::ZERO, |(time, _)| *time);
        if time < before {
            self.fail(TrialError::Order { index, at: time, before });
        }
        // A store would set this schema version.
        if raw.schema == event::TODAY {
            let today = self.layouts.get(raw.type_name()).and_then(|all| all.last_key_value());
            raw.schema = today.map_or(event::TODAY, |(version, _)| *version);
        }
        self.shown.push((time, raw));
    }

    fn fail(&mut self, wrong: TrialError) {
        self.wrong.get_or_insert(wrong);
    }
}

/// Reason why a trial could not be judged. Indices are those of the events in the order in which they were given, from 0.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// No store would open with this check.
    #[error(transparent)]
    Check(#[from] Fault),
    /// It looks at rows, which a trial does not fold.
    #[error("check `{check}` looks at rows: try it in a store in memory")]
    Rows {
        /// Its name.
        check: String,
    },
    /// No store would take this event.
    #[error("event {index}: {cause}")]
    Event {
        /// Index of the event.
        index: usize,
        /// Reason.
        cause: DecodeError,
    },
    /// An event is recorded before the one above it.
    #[error(
        "event {index} is recorded {at:?} after the start, and the one before it {before:?}: a log never runs back"
    )]
    Order {
        /// Index of the event.
        index: usize,
        /// Time of the event, after the start.
        at: Duration,
        /// Time of the event before it, after the start.
        before: Duration,
    },
    /// A time that no clock can show.
    #[error("{at:?} after the start is no time")]
    Time {
        /// Time after the start.
        at: Duration,
    },
    /// The trial ends before its last event.
    #[error("the trial ends {until:?} after the start, and its last event comes at {end:?}")]
    Until {
        /// End of the trial, after the start.
        until: Duration,
        /// Time of its last event, after the start.
        end: Duration,
    },
}

/// Result of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tried {
    /// Number of activations. With 0 the events do not exercise the check, and the rest says nothing.
    pub activations: u64,
    /// Number of activations that are satisfied.
    pub satisfied: u64,
    /// Number of activations that are violated: healed ones count, retracted ones do not.
    pub violated: u64,
    /// Number of activations that may still become either.
    pub pending: u64,
    /// Number of events that it could not read, and therefore cannot judge.
    pub unread: u64,
    /// Number of violations whose missing event came too late.
    pub healed: u64,
    /// Number of violations that turned out to be none: the missing event had come in time.
    pub retracted: u64,
    /// Findings that a store would have on record, in its order.
    pub findings: Vec<Found>,
}

/// A finding of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// Its outcome.
    pub outcome: Outcome,
    /// The event that began it, from 0; of words that are judged once for each key, the key's first.
    pub began: usize,
    /// The event that decided it, from 0. `None`: time did, or the key's end.
    pub decided_by: Option<usize>,
    /// Time at which it was decided, in the check's own time.
    pub decided_at: SystemTime,
    /// Reason why it cannot tell.
    pub why: Option<String>,
}

impl Found {
    fn new(finding: &Finding, unread: Option<&DecodeError>) -> Self {
        let outcome = match finding.verdict {
            Verdict::Violated => Outcome::Violated,
            Verdict::Healed => Outcome::Healed,
            Verdict::Retracted => Outcome::Retracted,
            Verdict::Untold | Verdict::Skewed => Outcome::CannotTell,
        };
        let index = |position: u64| usize::try_from(position - 1).expect("a fixture is in memory");
        Self {
            outcome,
            began: index(finding.activation),
            decided_by: (finding.by > 0).then(|| index(finding.by)),
            decided_at: Timestamp::from_micros(u64::try_from(finding.decided).unwrap_or(0)).into(),
            why: unread.filter(|_| outcome == Outcome::CannotTell).map(DecodeError::to_string),
        }
    }
}

/// Outcome of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The condition does not hold.
    Violated,
    /// The missing event came after all, too late.
    Healed,
    /// The missing event had come in time, and was recorded late.
    Retracted,
    /// The event could not be read.
    CannotTell,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Violated => "violated",
            Self::Healed => "healed",
            Self::Retracted => "retracted",
            Self::CannotTell => "cannot tell",
        })
    }
}
