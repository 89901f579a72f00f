//! Reports on how long things take, read from the log when they are asked for.

use super::Checks;
use crate::check::glance::Glance;
use crate::check::{Check, Clocked, Convergence, Quieting, Settling, Timing, time_of};
use crate::error::ReadError;
use crate::event::{Event, Raw};
use crate::order::Position;
use crate::own::Own;
use crate::query::Query;
use crate::view::View;
use std::ops::{Bound, RangeBounds};
use std::time::Duration;

impl Checks<'_> {
    /// Measures how long activations of a check waited for their answer, in and after its window, and suggests a window.
    /// Reads the events in a range of positions, `..` for all.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use std::time::Duration;
    /// # use tallystone::check::{About, Severity};
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # enum Order { Placed { order: u32 }, Shipped { order: u32 } }
    /// # impl Event for Order {
    /// #     const FAMILY: &str = "order";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 { let (Self::Placed { order } | Self::Shipped { order }) = self; *order }
    /// # }
    /// # fn main() -> Result<(), Error> {
    /// # let about = About { id: "shipped", severity: Severity::Note, owner: "o", means: "m", remedy: "r" };
    /// # let shipped = about
    /// #     .response(|e: &Order| matches!(e, Order::Placed { .. }), |e| matches!(e, Order::Shipped { .. }))
    /// #     .within(Duration::from_secs(900));
    /// let store = Store::in_memory(Setup::new().check(shipped))?;
    /// store.append(Append::event(Order::Placed { order: 1 }).and(Order::Shipped { order: 1 }))?;
    /// let report = store.checks().convergence("shipped", ..)?;
    /// println!("{report}");
    /// assert_eq!((report.answered, report.warning()), (1, None));
    ///
    /// // Example: what no check is called has no report.
    /// assert!(matches!(store.checks().convergence("shiped", ..), Err(ReadError::Invalid { .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It is exact and stores nothing: it reads the log page by page, and matches events as the check does. It takes eight bytes
    /// for each answer, and as much as the check would keep of activations that nothing has answered; a shorter range takes less.
    /// Activations that began before the range, or are answered after it, are not reported.
    ///
    /// # Errors
    ///
    /// `Invalid` if no check of the setup has this name, or if it waits for nothing (it forbids, or looks back). Else as for
    /// reading events.
    pub fn convergence(
        &self,
        check: &str,
        range: impl RangeBounds<Position>,
    ) -> Result<Convergence, ReadError> {
        let why = |why| ReadError::Invalid { what: "convergence", why };
        let check = self.of_events(check)?;
        let mut timing = Timing::of(&check).map_err(why)?;
        self.each(&range, |glance| timing.show(glance))?;
        Ok(timing.done())
    }

    /// Measures how long groups of related events take until they rest: from the first event of a key to the last after which
    /// none came for longer than `quiet`, by the check's own time. Events that are nothing to the check are no part of a group.
    ///
    /// It takes 40 bytes for each key and eight for each group.
    ///
    /// # Errors
    ///
    /// `Invalid` if no check of the setup has this name. Else as for reading events.
    pub fn settling(
        &self,
        check: &str,
        quiet: Duration,
        range: impl RangeBounds<Position>,
    ) -> Result<Settling, ReadError> {
        let check = self.of_events(check)?;
        let mut quieting = Quieting::of(&check, quiet);
        let view = self.each(&range, |glance| quieting.show(glance))?;
        // Where the range ends before the log does, time has gone on; where events say their own, none has but by them.
        let now = match check.clocked {
            Clocked::Recorded if range.end_bound() == Bound::Unbounded => time_of(view.head().time),
            _ => i64::MIN,
        };
        Ok(quieting.done(now))
    }

    pub(super) fn named(&self, id: &str) -> Result<Check, ReadError> {
        let checks = self.desk.watch().checks();
        checks.iter().find(|check| check.id() == id).cloned().ok_or_else(|| ReadError::Invalid {
            what: "check",
            why: format!("no check of the setup is called `{id}`"),
        })
    }

    /// A check that looks at events. What one over rows looks at is not in the log as it is.
    fn of_events(&self, id: &str) -> Result<Check, ReadError> {
        let check = self.named(id)?;
        match check.lens.rowed() {
            None => Ok(check),
            Some(_) => Err(ReadError::Invalid { what: "check", why: format!("`{id}` looks at rows") }),
        }
    }

    fn each(
        &self,
        range: &impl RangeBounds<Position>,
        mut show: impl FnMut(&mut Glance<'_>),
    ) -> Result<View, ReadError> {
        let (view, glasses) = (self.desk.view()?, self.desk.glasses());
        let after = match range.start_bound() {
            Bound::Included(first) => Position::new(first.get().saturating_sub(1)),
            Bound::Excluded(before) => *before,
            Bound::Unbounded => Position::START,
        };
        let through = match range.end_bound() {
            Bound::Included(last) => *last,
            Bound::Excluded(end) => Position::new(end.get().saturating_sub(1)),
            Bound::Unbounded => view.position(),
        };
        for event in view.query::<Raw>(Query::all().after(after).up_to(through)) {
            let event = event?;
            if event.family() != Own::FAMILY {
                let recorded = event.recorded_at.into();
                show(&mut Glance::new(event.event.borrowed(), event.position, recorded, &glasses));
            }
        }
        Ok(view)
    }
}
