//! Decides what people are told: notices, recorded before anybody delivers them.
//!
//! - It reads rows (`alerting`) and the clock, and appends notices; what was decided is never decided again.
//! - New violations of a check wait until it has judged all there is, until [`Options::alert_every_ms`] is over, and while it is
//!   muted; then they are one notice.
//! - Rows that wait for a time are read when the earliest time is over, never in between.

use super::routes::Outlet;
use super::watcher::{Ground, Watch, append, row, rows_of};
use super::{CheckStats, dog};
use crate::alerting::{AlertKey, AlertRow, Alerting, Group, Line, OpenRow};
use crate::check::word::Time;
use crate::check::{Check, Described, Escalations, Severity};
use crate::codec;
use crate::disk::Clock;
use crate::episode::{Mute, Mutes};
use crate::error::StorageError;
use crate::options::Options;
use crate::own::{Notice, NoticeAbout, NoticeKind, Over, Own};
use crate::routed::{Routed, RoutedKey};
use crate::view::Reader;
use crate::writer::Door;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Lines that are looked at have about this many events in one append.
const EVENTS: usize = 64;
/// Violations in one event.
const PER_EVENT: usize = 500;
/// Time after which something that is not ripe, or could not be recorded, is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Notifier {
    reader: Arc<Reader>,
    door: Door,
    options: Options,
    clock: Arc<dyn Clock>,
    watch: Arc<Watch>,
    /// Routes that may have no row yet.
    unknown: BTreeSet<String>,
    /// Checks of the last look: others have other times.
    checks: Arc<Vec<Check>>,
    paces: BTreeMap<(String, String), AlertTiming>,
    /// Time until the next look.
    wait: Option<Duration>,
}

/// Times at which to look at a line again.
#[derive(Debug, Default, Clone, Copy)]
struct AlertTiming {
    /// Value of `Line::changed` when it was looked at.
    changed: u64,
    /// The store's time at which something may be due. 0: nobody has looked yet; the largest: nothing waits.
    next: u64,
    /// Time at which violations were told last, by the monotonic clock.
    told: Option<Duration>,
}

/// A line while it is looked at.
struct AlertReview<'a> {
    check: &'a str,
    owner: &'a str,
    line: Line,
    /// `None`: there is nothing to say.
    about: Option<NoticeAbout>,
    /// `None`: the check does not run any more.
    escalations: Option<Escalations>,
    is_ripe: bool,
    mute: Option<u64>,
}

impl Notifier {
    pub fn new(ground: &Ground, watch: Arc<Watch>) -> Self {
        Self {
            reader: ground.reader.clone(),
            door: ground.door.clone(),
            options: ground.options.clone(),
            clock: ground.clock.clone(),
            watch,
            unknown: ground.outlets.iter().map(Outlet::name).collect(),
            checks: Arc::default(),
            paces: BTreeMap::new(),
            wait: None,
        }
    }

    /// Returns the time after which to look again, if nothing comes. `None`: nothing waits for a time.
    pub fn patience(&self) -> Option<Duration> {
        self.wait
    }

    /// Decides what is due now. `false`: nothing is, or it cannot be recorded now.
    pub fn step(&mut self) -> Result<bool, StorageError> {
        // If it fails.
        self.wait = Some(AGAIN);
        let (head, since) = (self.reader.board.load().head, self.clock.monotonic());
        // The store's time never goes back.
        let now = self.clock.now().max(head.time).micros();
        let checks = self.watch.checks();
        if !Arc::ptr_eq(&checks, &self.checks) {
            self.paces.values_mut().for_each(|pace| pace.next = 0);
            self.checks = checks;
        }
        let stats = self.watch.stats();
        let mut events = Vec::new();
        let (mut told, mut waits) = (Vec::new(), Vec::new());
        for (key, row) in rows_of::<Alerting>(&self.reader, Alerting::lines())? {
            let (AlertKey::Line(check, owner), AlertRow::Line(line)) = (key, row) else { continue };
            let look = self.look(&check, &owner, line, &stats)?;
            let mut pace = self.paces.get(&(check.clone(), owner.clone())).copied().unwrap_or_default();
            self.pending(&look, now, &mut events)?;
            if self.news(&look, pace, (now, since), &mut events) {
                told.push((check.clone(), owner.clone()));
            }
            self.due(&look, &mut pace, now, &mut events)?;
            waits.extend(self.wait_of(&look, pace, now, since));
            self.paces.insert((check, owner), pace);
            if events.len() >= EVENTS {
                break;
            }
        }
        let has_some = !events.is_empty();
        if has_some && !self.record(events)? {
            return Ok(false);
        }
        self.wait = waits.into_iter().min();
        for line in told {
            self.paces.entry(line).or_default().told = Some(since);
        }
        Ok(has_some)
    }

    fn look<'a>(
        &self,
        check: &'a str,
        owner: &'a str,
        line: Line,
        stats: &[CheckStats],
    ) -> Result<AlertReview<'a>, StorageError> {
        let raised = line.new.raised.as_ref().map(|(severity, _)| *severity);
        let found = self.checks.iter().find(|one| one.id() == check);
        let is_built_in = dog::BUILT_IN.contains(&check);
        let (about, escalations) = match found {
            Some(check) => {
                let severity = raised.map_or(check.about.severity, |raised| raised.max(check.about.severity));
                let labels = &check.escalations.labels;
                (Some(about(&check.about, severity, labels)), Some(check.escalations.clone()))
            }
            None => {
                let described = dog::about_all(&self.watch, check, &line.new.sample);
                let of = |one: &Described| about(one, raised.unwrap_or(one.severity), &[]);
                (described.as_ref().map(of), is_built_in.then(Escalations::default))
            }
        };
        let head = self.reader.board.load().head.position;
        // What is found in the past is told in one piece, when it has caught up.
        let is_ripe = match stats.iter().find(|stats| stats.check == check) {
            Some(stats) => stats.unrecorded == 0 && (stats.caught_up || stats.position >= head),
            None => is_built_in,
        };
        let mute: Option<Mute> = row::<Mutes>(&self.reader, &check.to_owned())?;
        Ok(AlertReview { check, owner, line, about, escalations, is_ripe, mute: mute.map(|mute| mute.until) })
    }

    /// Groups that are over, and remediations that did not help.
    fn pending(&self, look: &AlertReview<'_>, now: u64, events: &mut Vec<Own>) -> Result<(), StorageError> {
        for at in look.line.pending.iter().take(EVENTS) {
            let key = AlertKey::Group(look.check.to_owned(), look.owner.to_owned(), *at);
            let Some(AlertRow::Group(group)) = row::<Alerting>(&self.reader, &key)? else { continue };
            if group.open == 0 {
                events.push(look.notice(NoticeKind::Resolved, *at, &group, ""));
            } else if group.unhelped > 0 && look.escalations.is_some() && !look.is_muted(now) {
                let kind = NoticeKind::Escalated { ages: false };
                events.push(look.notice(kind, *at, &group, "the remediation did not help"));
            }
        }
        Ok(())
    }

    /// Violations that were not told, and events that could not be read. `true`: there are some.
    fn news(
        &self,
        look: &AlertReview<'_>,
        pace: AlertTiming,
        (now, since): (u64, Duration),
        events: &mut Vec<Own>,
    ) -> bool {
        let Some(about) = &look.about else { return false };
        let is_early = pace.told.is_some_and(|told| since < told.saturating_add(self.alert_every()));
        if !look.is_ripe || is_early || look.is_muted(now) || !look.has_news() {
            return false;
        }
        let new = &look.line.new;
        if look.line.unread > 0 {
            events.push(look.indeterminate(about));
        }
        if new.count > 0 {
            let waived = "a waiver or a remediation is over";
            let why = new.raised.as_ref().map(|(_, why)| why.as_str());
            let why = why.unwrap_or(if new.reopened > 0 { waived } else { "" });
            events.push(look.opened(about, why));
        }
        true
    }

    fn alert_every(&self) -> Duration {
        Duration::from_millis(self.options.alert_every_ms)
    }

    /// Adds what is due by time: waivers and remediations that are over, ages, reminders.
    fn due(
        &self,
        look: &AlertReview<'_>,
        pace: &mut AlertTiming,
        now: u64,
        events: &mut Vec<Own>,
    ) -> Result<(), StorageError> {
        if pace.changed == look.line.changed && now < pace.next {
            return Ok(());
        }
        let mut next = self.reopen(look, now, events)?;
        if let Some(escalations) = &look.escalations {
            for (key, row) in rows_of::<Alerting>(&self.reader, Alerting::groups(look.check, look.owner))? {
                let (AlertKey::Group(_, _, at), AlertRow::Group(group)) = (key, row) else { continue };
                if group.active == 0 {
                    continue;
                }
                match look.is_muted(now) {
                    true => next = next.min(look.mute.unwrap_or(u64::MAX)),
                    false => next = next.min(look.age(escalations, at, group, now, events)),
                }
            }
        }
        // What was decided just now changes the rows: they are read again.
        let is_done = events.is_empty();
        (pace.changed, pace.next) = (look.line.changed, if is_done { next } else { 0 });
        Ok(())
    }

    /// Opens what is still violated after its waiver or remediation. Returns the next such time.
    fn reopen(&self, look: &AlertReview<'_>, now: u64, events: &mut Vec<Own>) -> Result<u64, StorageError> {
        let mut next = u64::MAX;
        let mut over = Vec::new();
        for (key, row) in rows_of::<Alerting>(&self.reader, Alerting::open_of(look.check))? {
            let (AlertKey::Open(_, activation, subject), AlertRow::Open(OpenRow { owner, standing, .. })) =
                (key, row)
            else {
                continue;
            };
            match standing.until() {
                Some(until) if owner == look.owner && until <= now => over.push((activation, subject)),
                Some(until) if owner == look.owner => next = next.min(until),
                _ => {}
            }
        }
        let event = |of: &[(u64, String)]| Own::Reopened { check: look.check.to_owned(), of: of.to_vec() };
        events.extend(over.chunks(PER_EVENT).map(event));
        Ok(next)
    }

    /// Returns the time until there may be something to tell, if nothing comes.
    fn wait_of(
        &self,
        look: &AlertReview<'_>,
        pace: AlertTiming,
        now: u64,
        since: Duration,
    ) -> Option<Duration> {
        let until = |time: u64| Duration::from_micros(time.saturating_sub(now));
        let due = (pace.next < u64::MAX).then(|| until(pace.next));
        let news = (look.has_news() && look.about.is_some()).then(|| {
            if !look.is_ripe {
                return AGAIN;
            }
            let early = pace
                .told
                .map_or(Duration::ZERO, |told| told.saturating_add(self.alert_every()).saturating_sub(since));
            let muted = look.mute.filter(|mute| *mute > now).map_or(Duration::ZERO, until);
            early.max(muted)
        });
        [due, news].into_iter().flatten().min()
    }

    fn record(&mut self, events: Vec<Own>) -> Result<bool, StorageError> {
        let mut routes = Vec::new();
        if events.iter().any(|event| matches!(event, Own::Notified(_))) {
            routes = self.new_routes()?;
        }
        let is_new = !routes.is_empty();
        routes.extend(events.into_iter().map(|event| fitting(event, self.options.event_bytes_max)));
        routes.truncate(self.options.append_events_max);
        let recorded = append(&self.reader, &self.door, &self.options, "alert", routes)?;
        if recorded.is_some() && is_new {
            self.unknown.clear();
        }
        Ok(recorded.is_some())
    }

    /// Routes without a row begin here, in the commit of the first notice that they may take.
    fn new_routes(&mut self) -> Result<Vec<Own>, StorageError> {
        let after = self.reader.board.load().head.position.get();
        let mut new = Vec::new();
        for route in &self.unknown {
            if row::<Routed>(&self.reader, &RoutedKey::Route(route.clone()))?.is_none() {
                new.push(Own::Routed { route: route.clone(), after });
            }
        }
        if new.is_empty() {
            self.unknown.clear();
        }
        Ok(new)
    }
}

impl AlertReview<'_> {
    fn is_muted(&self, now: u64) -> bool {
        self.mute.is_some_and(|until| now < until)
    }

    fn has_news(&self) -> bool {
        self.line.new.count > 0 || self.line.unread > 0
    }

    fn blank(&self, kind: NoticeKind, about: &NoticeAbout) -> Notice {
        Notice {
            check: self.check.to_owned(),
            line: self.owner.to_owned(),
            kind,
            group: 0,
            first: 0,
            activation: 0,
            since: 0,
            about: about.clone(),
            why: String::new(),
            count: 0,
            reopened: 0,
            over: Over::default(),
            sample: Vec::new(),
        }
    }

    fn opened(&self, about: &NoticeAbout, why: &str) -> Own {
        let new = self.line.new.clone();
        Own::Notified(Notice {
            first: new.first,
            activation: new.activation,
            since: new.since,
            why: why.to_owned(),
            count: new.count,
            reopened: new.reopened,
            sample: new.sample,
            ..self.blank(NoticeKind::Opened, about)
        })
    }

    fn indeterminate(&self, about: &NoticeAbout) -> Own {
        let why = "it cannot tell about events that it cannot read".to_owned();
        let count = self.line.unread;
        Own::Notified(Notice { count, why, ..self.blank(NoticeKind::Indeterminate, about) })
    }

    /// About a group as it stands.
    fn notice(&self, kind: NoticeKind, at: u64, group: &Group, why: &str) -> Own {
        let Over { healed, retracted, waived, retired } = group.over;
        let count = match kind {
            NoticeKind::Resolved => healed + retracted + waived + retired,
            NoticeKind::Escalated { ages: false } => group.unhelped,
            _ => group.active,
        };
        Own::Notified(Notice {
            group: at,
            first: group.first,
            activation: group.activation,
            since: group.since,
            why: why.to_owned(),
            count,
            over: group.over,
            sample: group.sample.clone(),
            ..self.blank(kind, &group.about)
        })
    }

    /// Tells a group that has come to an age, or that nobody was reminded of. Returns the next such time.
    fn age(
        &self,
        escalations: &Escalations,
        at: u64,
        mut group: Group,
        now: u64,
        events: &mut Vec<Own>,
    ) -> u64 {
        let told = Severity::named(&group.about.severity).unwrap_or(Severity::Page);
        let age = Time::try_from(now.saturating_sub(group.since)).unwrap_or(Time::MAX);
        if let Some(raised) = escalations.due(age, told) {
            group.about.severity = raised.severity.to_string();
            events.push(self.notice(NoticeKind::Escalated { ages: true }, at, &group, &raised.why));
            return u64::MAX;
        }
        let older = escalations.next(age, told).map(|age| later(group.since, age));
        let reminder = escalations.remind_every(told).map(|every| later(group.told_at, every));
        match reminder {
            Some(reminder) if reminder <= now => {
                events.push(self.notice(NoticeKind::Reminded, at, &group, ""));
                u64::MAX
            }
            _ => older.unwrap_or(u64::MAX).min(reminder.unwrap_or(u64::MAX)),
        }
    }
}

fn about(described: &Described, severity: Severity, labels: &[(String, String)]) -> NoticeAbout {
    NoticeAbout {
        severity: severity.to_string(),
        owner: described.owner.to_string(),
        labels: labels.to_vec(),
    }
}

/// Makes a notice fit into an event: a smaller sample rather than nothing.
fn fitting(event: Own, bytes_max: usize) -> Own {
    let Own::Notified(mut notice) = event else { return event };
    loop {
        let own = Own::Notified(notice);
        let is_fitting = codec::encode(&own).is_ok_and(|bytes| bytes.len() <= bytes_max);
        let Own::Notified(back) = own else { return own };
        notice = back;
        if is_fitting || notice.sample.pop().is_none() {
            return Own::Notified(notice);
        }
    }
}

fn later(time: u64, by: Time) -> u64 {
    time.saturating_add(by.max(0).unsigned_abs())
}
