//! Tells of violations that nobody sees to, again and louder; and from the start of those that are about much.
//!
//! - Rows say what is waiting (`waiting`). They are read when the oldest may have come to an age, never in between.
//! - As with every alert, that it was told is on record after the sink has taken it.

use super::{SAMPLE, Watched, Watcher, refused, row, rows_of};
use crate::alert::Alert;
use crate::check::Raised;
use crate::check::glance::Glance;
use crate::check::word::Time;
use crate::episode::{Episodes, Violation};
use crate::error::StorageError;
use crate::log::{LogError, Seek};
use crate::order::{Position, Timestamp};
use crate::own::Own;
use crate::waiting::{Unseen, Waiting};
use crate::watch::delivery::Sent;
use std::time::Duration;

/// Violations in one event.
const EVENT: usize = 1000;
/// Violations in one alert: as many as one append takes.
const ALERT: usize = 64 * EVENT;

/// When to look again.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// The store's time at which the oldest may come to an age. 0: nobody has looked yet; the largest: none waits.
    next: u64,
    /// When telling was tried and failed, by the monotonic clock.
    failed: Option<Duration>,
    /// What somebody was told of, as long as it is not on record.
    handed: Vec<Own>,
    /// What the sink has now, and what is to be recorded once it has taken it.
    sending: Option<(Sent, Vec<Own>)>,
}

/// Those that are to be told of together.
struct Due {
    raised: Raised,
    all: Vec<(u64, String)>,
}

impl Watched {
    /// A violation was put on record, not earlier than now.
    pub(super) fn note_age(&mut self, now: Timestamp) {
        let escalations = &self.check.escalations;
        if let Some(age) = escalations.next(0, self.check.about.severity) {
            self.ages.next = self.ages.next.min(at_age(now.micros(), age));
        }
    }

    /// How long it takes until there may be something to tell of, where nothing comes.
    pub(super) fn until_escalation(
        &self,
        now: Timestamp,
        since: Duration,
        every: Duration,
    ) -> Option<Duration> {
        if !self.check.escalations.has_ages() || self.ages.next == u64::MAX || self.ages.sending.is_some() {
            return None;
        }
        let due = Duration::from_micros(self.ages.next.saturating_sub(now.micros()));
        let again = self.ages.failed.map_or(Duration::ZERO, |failed| (failed + every).saturating_sub(since));
        Some(due.max(again))
    }

    fn is_looked_at(&self, now: Timestamp, since: Duration, every: Duration) -> bool {
        self.untold.is_empty() && self.until_escalation(now, since, every).is_some_and(|wait| wait.is_zero())
    }
}

impl Watcher {
    /// Tells of those of one check that have come to an age. `false`: there are none.
    pub(super) fn escalate(&mut self) -> Result<bool, StorageError> {
        let clock = self.ground.clock.clone();
        // The store's time never goes back.
        let now = clock.now().max(self.ground.reader.board.load().head.time);
        let every = Duration::from_millis(self.ground.options.alert_every_ms);
        for index in 0..self.all.len() {
            self.take_escalated(index);
            let ages = &self.all[index].ages;
            if ages.handed.is_empty() && ages.sending.is_none() {
                if !self.all[index].is_looked_at(now, clock.monotonic(), every)
                    || self.all[index].is_muted(&self.ground.reader, now)?
                {
                    continue;
                }
                let Some(due) = self.due(index, now)? else { continue };
                let alert = self.alert_of(index, &due)?;
                let Some(sent) = self.deliver(index, alert) else {
                    self.all[index].ages.failed = Some(clock.monotonic());
                    continue;
                };
                self.all[index].ages.sending = Some((sent, self.events(index, due)));
                self.take_escalated(index);
            }
            if self.record_escalation(index)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes the sink's answer, if there is one.
    fn take_escalated(&mut self, index: usize) {
        let ages = &mut self.all[index].ages;
        let Some(taken) = ages.sending.as_ref().and_then(|(sent, _)| sent.outcome()) else { return };
        let Some((_, events)) = ages.sending.take() else { return };
        match taken {
            Ok(()) => {
                ages.handed = events;
                self.all[index].undelivered = None;
            }
            Err(why) => {
                ages.failed = Some(self.ground.clock.monotonic());
                self.all[index].undelivered = Some(why);
                self.publish();
            }
        }
    }

    /// Puts on record what was told. `false`: there is nothing, or not now.
    fn record_escalation(&mut self, index: usize) -> Result<bool, StorageError> {
        let told = self.all[index].ages.handed.clone();
        // Where it cannot be recorded now, somebody has been told all the same.
        if told.is_empty() || self.append("escalation", told)?.is_none() {
            return Ok(false);
        }
        self.all[index].ages = Ages::default();
        Ok(true)
    }

    /// Puts on record all that the sink has taken.
    pub(super) fn record_escalated(&mut self) -> Result<(), StorageError> {
        for index in 0..self.all.len() {
            self.take_escalated(index);
            self.record_escalation(index)?;
        }
        Ok(())
    }

    /// That it was told.
    fn events(&self, index: usize, due: Due) -> Vec<Own> {
        let (check, severity) = (self.all[index].check.id(), due.raised.severity.to_string());
        let event = |of: &[(u64, String)]| Own::Escalated {
            check: check.to_owned(),
            severity: severity.clone(),
            of: of.to_vec(),
        };
        due.all.chunks(EVENT).map(event).collect()
    }

    /// Those that have come to the highest severity. Without any, it knows when to look next.
    fn due(&mut self, index: usize, now: Timestamp) -> Result<Option<Due>, StorageError> {
        let watched = &self.all[index];
        let (check, definition) = (&watched.check, watched.check.definition());
        let mut due: Option<Due> = None;
        let mut next = u64::MAX;
        for (key, unseen) in rows_of::<Waiting>(&self.ground.reader, Waiting::of(check.id()))? {
            let Unseen { definition: of, since, waived_until, escalated } = unseen;
            if of != definition {
                continue;
            }
            if waived_until > now.micros() {
                next = next.min(waived_until);
                continue;
            }
            let told = escalated.unwrap_or(check.about.severity);
            let age = Time::try_from(now.micros().saturating_sub(since)).unwrap_or(Time::MAX);
            let Some(raised) = check.escalations.due(age, told) else {
                let at = check.escalations.next(age, told).map(|age| at_age(since, age));
                next = next.min(at.unwrap_or(u64::MAX));
                continue;
            };
            let (_, activation, subject) = key;
            match &mut due {
                Some(due) if due.raised.severity == raised.severity && due.all.len() >= ALERT => {}
                Some(due) if due.raised.severity == raised.severity => due.all.push((activation, subject)),
                Some(due) if due.raised.severity > raised.severity => {}
                _ => due = Some(Due { raised, all: vec![(activation, subject)] }),
            }
        }
        if due.is_none() {
            self.all[index].ages.next = next;
        }
        Ok(due)
    }

    fn alert_of(&self, index: usize, due: &Due) -> Result<Alert, StorageError> {
        let watched = &self.all[index];
        let mut sample = Vec::new();
        for (activation, subject) in due.all.iter().take(SAMPLE) {
            let key = (watched.check.id().to_owned(), *activation, subject.clone());
            let episode = row::<Episodes>(&self.ground.reader, &key)?;
            sample.extend(episode.map(|episode| Violation::new(key, episode)));
        }
        let count = due.all.len() as u64;
        Ok(Alert { count, unread: 0, sample, ..watched.alert() }.raised(Some(due.raised.clone())))
    }

    /// Looks at what the news of a check are about, as far as it can matter.
    pub(super) fn weigh(&mut self, index: usize) -> Result<(), StorageError> {
        let highest = self.all[index].check.escalations.highest_amount();
        while let Some(activation) = self.all[index].news.unweighed.pop() {
            let news = &self.all[index].news;
            if news.raised.as_ref().map(|raised| raised.severity) >= highest {
                self.all[index].news.unweighed.clear();
                break;
            }
            let raised = self.weigh_one(index, Position::new(activation))?;
            let news = &mut self.all[index].news;
            let severity = |raised: &Option<Raised>| raised.as_ref().map(|raised| raised.severity);
            if severity(&raised) > severity(&news.raised) {
                news.raised = raised;
            }
        }
        Ok(())
    }

    fn weigh_one(&self, index: usize, position: Position) -> Result<Option<Raised>, StorageError> {
        let reader = &self.ground.reader;
        let head = reader.board.load().head.commit;
        let page = reader.log.read(Seek::Event(position), head, 0)?;
        for record in page.records() {
            let record = record.map_err(LogError::from)?;
            let mut events = record.events();
            let Some(event) = events.find(|event| event.position == position) else { continue };
            let raw = event.raw().map_err(|error| refused(&error.to_string()))?;
            let mut glance = Glance::new(raw, position, record.time(), &self.glasses);
            return Ok(self.all[index].check.escalations.weigh(&mut glance));
        }
        Ok(None)
    }
}

impl Alert {
    /// The same with a higher severity, if there is one.
    pub(super) fn raised(mut self, raised: Option<Raised>) -> Self {
        if let Some(Raised { severity, why }) = raised {
            (self.severity, self.escalated) = (severity, Some(why));
        }
        self
    }
}

fn at_age(since: u64, age: Time) -> u64 {
    since.saturating_add(age.max(0).unsigned_abs())
}
