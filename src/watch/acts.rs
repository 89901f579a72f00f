//! Decisions of people about checks and violations, each recorded as an event.

use super::Checks;
use super::dog::BUILT_IN;
use crate::check::{Check, Clocked, Digest, signed_micros};
use crate::episode::{Episodes, State, Violation};
use crate::error::{AppendError, ReadError};
use crate::order::Timestamp;
use crate::own::Own;
use crate::request::{Append, Receipt};
use std::time::SystemTime;

impl Checks<'_> {
    /// Suspends the alerts of a check until a time, for a reason. The check goes on judging and recording; when the time is over,
    /// one alert reports all findings since.
    ///
    /// # Errors
    ///
    /// `Invalid` if no check has this name, if `by` or the reason is empty, or if `until` does not lie ahead: correct the call. As
    /// [`Store::append`](crate::Store::append).
    pub fn mute(
        &self,
        check: &str,
        by: &str,
        reason: &str,
        until: SystemTime,
    ) -> Result<Receipt, AppendError> {
        if !BUILT_IN.contains(&check) {
            let _ = self.running(check)?;
        }
        said(by, "the mute does not say who")?;
        said(reason, "the mute has no reason")?;
        let until = self.ahead(until)?;
        let (check, by, reason) = (check.to_owned(), by.to_owned(), reason.to_owned());
        self.append(Own::Muted { check, by, reason, until })
    }

    /// Records that somebody is working on a violation.
    ///
    /// # Errors
    ///
    /// `Invalid` if the store has no such violation, if it is not open any more, or if `by` is empty: ask for the open ones again. As
    /// [`Store::append`](crate::Store::append).
    pub fn acknowledge(&self, violation: &Violation, by: &str) -> Result<Receipt, AppendError> {
        said(by, "the acknowledgement does not say who")?;
        self.still_open(violation, |state| matches!(state, State::Open))?;
        self.append(Own::Acknowledged(violation.seen(by)))
    }

    /// Records that a violation may stand until a time, for a reason. A waiver that exists is replaced.
    ///
    /// # Errors
    ///
    /// `Invalid` if the store has no such violation, if it is not open any more, if `by` or the reason is empty, or if `until` does
    /// not lie ahead: correct the call. As [`Store::append`](crate::Store::append).
    pub fn waive(
        &self,
        violation: &Violation,
        by: &str,
        reason: &str,
        until: SystemTime,
    ) -> Result<Receipt, AppendError> {
        said(by, "the waiver does not say who")?;
        said(reason, "the waiver has no reason")?;
        let until = self.ahead(until)?;
        let open =
            |state: &State| matches!(state, State::Open | State::Waived { .. } | State::Remediated { .. });
        self.still_open(violation, open)?;
        let (seen, reason) = (violation.seen(by), reason.to_owned());
        self.append(Own::Waived { seen, reason, until })
    }

    /// Records the digest of the events that a consumer has applied, for
    /// [`About::applied_by`](crate::check::About::applied_by) to compare.
    ///
    /// # Errors
    ///
    /// As [`Store::append`](crate::Store::append).
    pub fn applied(&self, consumer: &str, digest: Digest) -> Result<Receipt, AppendError> {
        self.desk.append(Append::event(digest.reported(consumer)))
    }

    /// Records that no event of a check that goes by event time is older than this any more, so that the check may judge what waited
    /// for one. For imports, and for sources that have ended.
    ///
    /// # Errors
    ///
    /// `Invalid` if no check has this name, if it does not go by event time, or if its watermark is later already: correct the call.
    /// As [`Store::append`](crate::Store::append).
    pub fn complete(&self, check: &str, until: SystemTime) -> Result<Receipt, AppendError> {
        let running = self.running(check)?;
        if !matches!(running.clocked, Clocked::Events { .. }) {
            return Err(invalid("check", format!("`{check}` does not go by event time: say `at` of it")));
        }
        let until = signed_micros(until);
        let stats = self.desk.watch().stats();
        let watermark = stats.iter().find(|stats| stats.check == check).and_then(|stats| stats.watermark);
        if let Some(watermark) = watermark.filter(|watermark| *watermark > until) {
            let why = format!("the watermark of `{check}` is at {watermark} already, later than {until}");
            return Err(invalid("until", why));
        }
        self.desk.append(Append::event(Own::Complete { check: check.to_owned(), until }))
    }

    /// Appends an event that may change when somebody is to be told.
    fn append(&self, event: Own) -> Result<Receipt, AppendError> {
        let receipt = self.desk.append(Append::event(event))?;
        self.desk.watch().leash.tug();
        Ok(receipt)
    }

    fn running(&self, id: &str) -> Result<Check, AppendError> {
        let checks = self.desk.watch().checks();
        let found = checks.iter().find(|check| check.id() == id).cloned();
        found.ok_or_else(|| {
            let known: Vec<_> = checks.iter().map(Check::id).collect();
            invalid("check", format!("no check is called `{id}`; there are {}", known.join(", ")))
        })
    }

    fn ahead(&self, until: SystemTime) -> Result<u64, AppendError> {
        let until = Timestamp::from(until).micros();
        match until > self.desk.now().micros() {
            true => Ok(until),
            false => Err(invalid("until", "the time does not lie ahead".to_owned())),
        }
    }

    /// Compares the caller's violation with the row: an older copy may be of one that has ended.
    fn still_open(&self, violation: &Violation, is: impl Fn(&State) -> bool) -> Result<(), AppendError> {
        let seen = violation.seen("");
        let row = (seen.check, seen.activation, seen.subject);
        let view = self.desk.view().map_err(unread)?;
        let name = format!("`{}` at {}", violation.check, violation.activation);
        let episode = view.row::<Episodes>(&row).map_err(unread)?;
        let episode = episode.ok_or_else(|| invalid("violation", format!("the store has none of {name}")))?;
        let state = Violation::new(row, episode).state;
        match is(&state) {
            true => Ok(()),
            false => Err(invalid("violation", format!("that of {name} is not open any more: {state:?}"))),
        }
    }
}

pub(super) fn said(text: &str, why: &str) -> Result<(), AppendError> {
    let what = if why.ends_with("who") { "by" } else { "reason" };
    if text.trim().is_empty() { Err(invalid(what, why.to_owned())) } else { Ok(()) }
}

pub(super) fn invalid(what: &'static str, why: String) -> AppendError {
    AppendError::Invalid { what, why }
}

pub(super) fn unread(error: ReadError) -> AppendError {
    match error {
        ReadError::Storage(error) => AppendError::Storage(error),
        ReadError::Closed => AppendError::Closed(Box::new(Append::events::<Own>([]))),
        error => invalid("violation", error.to_string()),
    }
}
