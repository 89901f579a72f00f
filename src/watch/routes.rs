//! Delivers notices: each route reads them from the log, calls its sink, and records how far it is.
//!
//! - One notification of a route is under way at a time, so that each incident is told in order.
//! - What is over before it was delivered is told neither as opened nor as resolved.
//! - After a refusal a route waits, at first 1 s and then ever longer, up to `alert_every_ms`.

use super::delivery::{DeliveryQueue, Sent};
use super::watcher::{Ground, Watch, append, row};
use super::{RouteStats, dog};
use crate::alerting::{AlertKey, Alerting};
use crate::check::glance::{Glance, Glasses};
use crate::check::{Check, Severity};
use crate::disk::Clock;
use crate::episode::{Episodes, Violation};
use crate::error::{DecodeError, ReadError, StorageError, TroubleKind};
use crate::misfit::panic_text;
use crate::notification::{Ended, Notification, NotificationKind, Route};
use crate::options::Options;
use crate::order::{Position, Timestamp};
use crate::own::{Notice, NoticeAbout, NoticeKind, Own};
use crate::query::{Query, QueryItem};
use crate::routed::{Routed, RoutedKey};
use crate::sync::RwLock;
use crate::view::{Current, Events, Reader};
use crate::writer::Door;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Wait after the first refusal.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Text shown for a notification whose sink has not returned in time.
const OVERDUE: &str = "the sink has not returned in time, and still runs";

/// A route, and the thread that calls its sink.
#[derive(Clone)]
pub(crate) struct Outlet {
    pub route: Route,
    pub queue: Arc<DeliveryQueue>,
}

impl Outlet {
    pub fn name(&self) -> String {
        self.route.name.to_string()
    }
}

/// All routes of a store.
pub(super) struct Routes {
    context: Arc<DeliveryContext>,
    all: Vec<RouteDelivery>,
}

/// Parts of the store that delivering needs.
struct DeliveryContext {
    reader: Arc<Reader>,
    current: Current,
    door: Door,
    options: Options,
    clock: Arc<dyn Clock>,
    watch: Arc<Watch>,
    store: String,
    described: Vec<Route>,
}

/// Progress of a route.
struct RouteDelivery {
    outlet: Outlet,
    /// The last notice that it has taken, or passed over. `None`: not read yet.
    through: Option<u64>,
    /// Notices up to here may have been taken before, by a process that crashed before it recorded that.
    before: u64,
    sending: Option<(Sent, DeliveredNotice)>,
    /// Taken, and not on record.
    taken: Option<DeliveredNotice>,
    /// Time of the last refusal, by the monotonic clock, and the number of refusals in a row.
    refused: Option<(Duration, u32)>,
    undelivered: Option<String>,
}

/// A notice that is delivered.
#[derive(Debug, Clone, Copy)]
struct DeliveredNotice {
    at: u64,
    group: u64,
    is_over: bool,
}

impl Routes {
    pub fn new(ground: &Ground, watch: Arc<Watch>) -> Self {
        let described = ground.outlets.iter().map(|outlet| &outlet.route);
        let described = described.filter(|route| route.is_described()).cloned().collect();
        let context = DeliveryContext {
            reader: ground.reader.clone(),
            current: Arc::new(RwLock::new(ground.reader.clone())),
            door: ground.door.clone(),
            options: ground.options.clone(),
            clock: ground.clock.clone(),
            watch,
            store: ground.name.clone(),
            described,
        };
        let before = ground.reader.board.load().head.position.get();
        let all = ground.outlets.iter().map(|outlet| RouteDelivery::new(outlet, before)).collect();
        let routes = Self { context: Arc::new(context), all };
        routes.publish(None);
        routes
    }

    /// Goes on with each route. `undecided`: the reason why no notice is recorded. `false`: nothing moved.
    pub fn step(&mut self, undecided: Option<&StorageError>) -> bool {
        let mut moved = false;
        for progress in &mut self.all {
            // One that cannot go on holds up no other.
            match progress.step(&self.context) {
                Ok(has_moved) => moved |= has_moved,
                Err(error) => progress.refuse(&self.context, error.to_string()),
            }
        }
        self.publish(undecided);
        moved
    }

    /// Records what sinks have taken, before the store closes.
    pub fn finish(&mut self) {
        for progress in &mut self.all {
            progress.take_outcome(&self.context);
            // A store that takes nothing any more tells it again.
            let _ = progress.record(&self.context);
        }
    }

    /// Returns the names of the routes whose sinks are late.
    pub fn overdue(&self) -> Vec<String> {
        let late = self.all.iter().filter(|progress| progress.outlet.queue.overdue().is_some());
        late.map(|progress| progress.outlet.name()).collect()
    }

    /// Returns the time after which to look again, if nothing comes.
    pub fn patience(&self) -> Option<Duration> {
        let now = self.context.clock.monotonic();
        let waits = self.all.iter().map(|progress| {
            let again = progress.refused.map(|_| progress.again_at(&self.context).saturating_sub(now));
            let record = progress.taken.map(|_| BACK_OFF);
            [again, record, progress.outlet.queue.until_overdue()].into_iter().flatten().min()
        });
        waits.flatten().min()
    }

    /// Hands a notification that cannot be recorded to the routes that take it. `None`: not all of their queues have room.
    pub fn tell_unrecorded(&self, notification: &Notification) -> Option<Vec<Sent>> {
        let (severity, owner) = (notification.severity.to_string(), notification.owner.clone());
        let about = NoticeAbout { severity, owner, labels: Vec::new() };
        let by_others = self.context.is_described(&notification.check, &about);
        let takes =
            |progress: &&RouteDelivery| progress.outlet.route.takes(&notification.check, &about, by_others);
        let offer = |progress: &RouteDelivery| {
            let (notification, sink) = (notification.clone(), progress.outlet.route.sink.clone());
            let watch = self.context.watch.clone();
            progress.outlet.queue.offer(move || sink(&notification), move || watch.leash.tug()).ok()
        };
        self.all.iter().filter(takes).map(offer).collect()
    }

    pub fn store(&self) -> &str {
        &self.context.store
    }

    fn publish(&self, undecided: Option<&StorageError>) {
        let stats = self.all.iter().map(|progress| RouteStats {
            route: progress.outlet.name(),
            delivered: Position::new(progress.through.unwrap_or(0)),
            undelivered: progress.undelivered.clone().or(undecided.map(ToString::to_string)),
        });
        *self.context.watch.routes.write() = Arc::new(stats.collect());
    }
}

impl RouteDelivery {
    fn new(outlet: &Outlet, before: u64) -> Self {
        let (through, sending, taken, refused, undelivered) = Default::default();
        Self { outlet: outlet.clone(), through, before, sending, taken, refused, undelivered }
    }

    fn step(&mut self, context: &Arc<DeliveryContext>) -> Result<bool, StorageError> {
        self.take_outcome(context);
        if self.taken.is_some() {
            return self.record(context);
        }
        if self.sending.is_some() || context.clock.monotonic() < self.again_at(context) {
            return Ok(false);
        }
        let Some((notice, at, group, decided)) = self.next(context)? else {
            // What was refused is over: a retry that is due with nothing to send would have the watchdog look without a pause.
            self.refused = None;
            return Ok(false);
        };
        let is_over = notice.kind == NoticeKind::Resolved;
        let (sink, job) = (self.outlet.route.sink.clone(), context.clone());
        let call = move || {
            let told = job.notification(&notice, at, decided).map_err(|error| error.to_string())?;
            sink(&told)
        };
        let watch = context.watch.clone();
        match self.outlet.queue.offer(call, move || watch.leash.tug()) {
            Ok(sent) => {
                self.sending = Some((sent, DeliveredNotice { at: at.get(), group, is_over }));
                self.take_outcome(context);
            }
            Err(why) => self.refuse(context, why),
        }
        // The watchdog looks when it may be overdue.
        context.watch.leash.tug();
        Ok(true)
    }

    /// The next notice that it takes, its position, its group, and when it was decided.
    fn next(
        &mut self,
        context: &DeliveryContext,
    ) -> Result<Option<(Notice, Position, u64, Timestamp)>, StorageError> {
        let route = RoutedKey::Route(self.outlet.name());
        let through = match self.through {
            Some(through) => through,
            // It begins with the commit of the next notice.
            None => match row::<Routed>(&context.reader, &route)? {
                Some(through) => through,
                None => return Ok(None),
            },
        };
        self.through = Some(through);
        let head = context.reader.board.load().head;
        let notices = Query::from(QueryItem::types([Own::NOTIFIED])).after(Position::new(through));
        let mut notices = Events::<Own>::new(context.current.clone(), head, notices);
        while let Some(event) = notices.next_event().map_err(unreadable)? {
            if let Own::Notified(notice) = event.event {
                let at = event.position.get();
                let group = match notice.kind {
                    NoticeKind::Opened => at,
                    NoticeKind::Indeterminate => 0,
                    _ => notice.group,
                };
                if self.takes(context, &notice, at, group)? {
                    return Ok(Some((notice, event.position, group, event.recorded_at.into())));
                }
                self.through = Some(at);
            }
        }
        Ok(None)
    }

    fn takes(
        &self,
        context: &DeliveryContext,
        notice: &Notice,
        at: u64,
        group: u64,
    ) -> Result<bool, StorageError> {
        let by_others = context.is_described(&notice.check, &notice.about);
        if !self.outlet.route.takes(&notice.check, &notice.about, by_others) {
            return Ok(false);
        }
        match notice.kind {
            NoticeKind::Indeterminate => Ok(true),
            NoticeKind::Resolved => {
                let told = RoutedKey::Told(self.outlet.name(), group);
                Ok(row::<Routed>(&context.reader, &told)?.is_some())
            }
            _ if at <= self.before => Ok(true),
            _ => {
                // The row goes with the notice that it is resolved.
                let key = AlertKey::Group(notice.check.clone(), notice.line.clone(), group);
                Ok(row::<Alerting>(&context.reader, &key)?.is_some())
            }
        }
    }

    /// Takes the sink's answer, if there is one.
    fn take_outcome(&mut self, context: &DeliveryContext) {
        let Some((sent, taken)) = self.sending.take() else { return };
        match sent.outcome() {
            Some(Ok(())) => (self.taken, self.refused, self.undelivered) = (Some(taken), None, None),
            Some(Err(why)) => self.refuse(context, why),
            None => {
                if self.outlet.queue.overdue().is_some() {
                    self.undelivered = Some(OVERDUE.to_owned());
                }
                self.sending = Some((sent, taken));
            }
        }
    }

    fn refuse(&mut self, context: &DeliveryContext, why: String) {
        let times = self.refused.map_or(0, |(_, times)| times);
        self.refused = Some((context.clock.monotonic(), times + 1));
        self.undelivered = Some(why);
    }

    /// The time, by the monotonic clock, before which it is not tried again.
    fn again_at(&self, context: &DeliveryContext) -> Duration {
        let Some((refused, times)) = self.refused else { return Duration::ZERO };
        let longest = Duration::from_millis(context.options.alert_every_ms);
        refused + BACK_OFF.saturating_mul(1 << (times - 1).min(16)).min(longest)
    }

    /// Records that it has taken a notice. `false`: there is nothing to record, or not now.
    fn record(&mut self, context: &DeliveryContext) -> Result<bool, StorageError> {
        let Some(DeliveredNotice { at, group, is_over }) = self.taken else { return Ok(false) };
        let delivered = Own::Delivered { route: self.outlet.name(), through: at, group, is_over };
        let DeliveryContext { reader, door, options, .. } = context;
        if append(reader, door, options, "alert", vec![delivered])?.is_none() {
            return Ok(false);
        }
        (self.taken, self.through) = (None, Some(at));
        (self.refused, self.undelivered) = (None, None);
        Ok(true)
    }
}

impl DeliveryContext {
    fn is_described(&self, check: &str, about: &NoticeAbout) -> bool {
        self.described.iter().any(|route| route.takes(check, about, false))
    }

    /// Makes a message of a notice, with its violations as they stand now. Runs on the route's own thread: keys are read by code of checks.
    fn notification(
        &self,
        notice: &Notice,
        at: Position,
        decided: Timestamp,
    ) -> Result<Notification, StorageError> {
        let Notice { check, kind, about, count, reopened, over, .. } = notice.clone();
        let mut sample = Vec::new();
        for (activation, subject) in &notice.sample {
            let key = (check.clone(), *activation, subject.clone());
            let episode = row::<Episodes>(&self.reader, &key)?;
            sample.extend(episode.map(|episode| Violation::new(key, episode)));
        }
        let checks = self.watch.checks();
        let described = checks.iter().find(|one| one.id() == check).map(|check| check.about.clone());
        let described = described.or_else(|| dog::about_all(&self.watch, &check, &notice.sample));
        let since = if notice.since > 0 { Timestamp::from_micros(notice.since) } else { decided };
        Ok(Notification {
            kind: match kind {
                NoticeKind::Opened => NotificationKind::Opened,
                NoticeKind::Escalated { .. } => NotificationKind::Escalated,
                NoticeKind::Reminded => NotificationKind::Reminded,
                NoticeKind::Resolved => NotificationKind::Resolved,
                NoticeKind::Indeterminate => NotificationKind::Indeterminate,
            },
            dedup_key: self.dedup_key(notice, at),
            store: self.store.clone(),
            keys: self.keys(&check, &sample),
            severity: Severity::named(&about.severity).unwrap_or(Severity::Page),
            owner: about.owner,
            means: described.as_ref().map_or(String::new(), |check| check.means.to_string()),
            remedy: described.map_or(String::new(), |check| check.remedy.to_string()),
            labels: about.labels,
            why: Some(notice.why.clone()).filter(|why| !why.is_empty()),
            count,
            reopened,
            ended: Ended::from(over),
            check,
            sample,
            since: since.into(),
            at: decided.into(),
        })
    }

    fn dedup_key(&self, notice: &Notice, at: Position) -> String {
        let store = self.reader.log.store();
        match notice.kind {
            NoticeKind::Indeterminate => format!("{store}/{}/unread/{at}", notice.check),
            _ => format!("{store}/{}/{}/{}", notice.check, notice.activation, notice.first),
        }
    }

    fn keys(&self, check: &str, sample: &[Violation]) -> Vec<String> {
        let checks = self.watch.checks();
        let check = checks.iter().find(|one| one.id() == check);
        let mut keys: Vec<String> = Vec::new();
        for violation in sample {
            let key = match &violation.subject {
                Some(subject) => Some(subject.clone()),
                None => check.and_then(|check| self.key(check, violation.activation)),
            };
            keys.extend(key.filter(|key| !keys.contains(key)));
        }
        keys
    }

    /// The key of an event by a check. `None`: it cannot be read.
    fn key(&self, check: &Check, position: Position) -> Option<String> {
        let published = self.reader.board.load();
        let one = Query::all().after(Position::new(position.get().saturating_sub(1))).limit(1);
        let mut events = Events::<crate::event::Raw>::new(self.current.clone(), published.head, one);
        let event = events.next_event().ok()??;
        let glasses = Glasses::new(self.reader.terms.clone(), published.layouts.clone());
        key_text(check, &event, &glasses).ok()
    }
}

/// The key of an event by a check, as people read it.
///
/// # Errors
///
/// The check's code panics, or cannot read it.
pub(super) fn key_text(
    check: &Check,
    event: &crate::event::Sequenced<crate::event::Raw>,
    glasses: &Glasses,
) -> Result<String, DecodeError> {
    let recorded = event.recorded_at.into();
    let mut glance = Glance::new(event.event.borrowed(), event.position, recorded, glasses);
    let text = catch_unwind(AssertUnwindSafe(|| check.lens.key_text(&mut glance)));
    text.unwrap_or_else(|panic| Err(DecodeError::new(format!("panicked: {}", panic_text(&*panic)))))
}

fn unreadable(error: ReadError) -> StorageError {
    match error {
        ReadError::Storage(error) => error,
        error => StorageError::new(TroubleKind::Io, format!("notices could not be read: {error}")),
    }
}
