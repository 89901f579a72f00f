//! Watches the checks themselves: one that is dead is a violation, found by somebody else.
//!
//! - On a thread of its own, by the monotonic clock: a check that never returns holds up neither.
//! - What it finds has a subject: the check that does not move, the file of rules that cannot be read. It is on record as any
//!   finding is; what is on record is neither recorded nor alerted again, whoever starts anew.
//! - A check that waits for another that moves is well: the one furthest behind is judged first.

use super::delivery::{DeliveryQueue, Sent};
use super::source::{KEEPER, Unread};
use super::watcher::{Ground, Watch, append, episodes, row};
use super::{CheckStats, Trouble, Violation};
use crate::alert::{self, Alert, Sink};
use crate::check::{Described, Severity, time_of};
use crate::disk::Clock;
use crate::episode::{Episode, Mute, Mutes, OnRecord, Told};
use crate::error::StorageError;
use crate::options::Options;
use crate::order::Position;
use crate::own::{Found, Own};
use crate::state::bell::Bell;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::deadline;
use crate::view::Reader;
use crate::writer::Door;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Checks that move while they have something to judge.
/// Names of the checks of the store itself.
pub(super) const BUILT_IN: [&str; 3] = [FRESHNESS, RULES, ALERTS];
const FRESHNESS: &str = "tallystone.freshness";
/// Rules that can be read.
const RULES: &str = "tallystone.rules";
/// A sink that takes alerts in time.
const ALERTS: &str = "tallystone.alerts";
/// The subject of its finding.
const SINK: &str = "alerts";
/// What they are, for verdicts.
const DEFINITION: [u8; 8] = *b"built-in";
/// Violations in one alert.
const SAMPLE: usize = 10;
/// It looks this often in the time that a check may stand still.
const LOOKS: u32 = 4;

/// How others reach it.
#[derive(Debug, Default)]
pub(crate) struct Leash {
    bell: Bell,
    is_free: AtomicBool,
}

impl Leash {
    /// There is something to look at.
    pub fn tug(&self) {
        self.bell.ring();
    }

    /// It may go.
    pub fn slip(&self) {
        self.is_free.store(true, Ordering::Relaxed);
        self.bell.ring();
    }
}

pub(crate) struct Dog {
    reader: Arc<Reader>,
    door: Door,
    options: Options,
    clock: Arc<dyn Clock>,
    sink: Sink,
    deliveries: Arc<DeliveryQueue>,
    watch: Arc<Watch>,
    /// By check: how it stood, and for how long it has.
    stood: BTreeMap<String, Stood>,
    looked: Option<Duration>,
    /// What is on record. `None`: not read yet.
    kept: Option<[Kept; 3]>,
    /// Checks that somebody was told of although it cannot be recorded.
    unrecorded: BTreeSet<String>,
    /// Alerts of such checks that the sink has now.
    sending: Option<(Vec<Sent>, Vec<String>)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Stood {
    definition: [u8; 8],
    position: Position,
    unrecorded: u64,
    time: Duration,
}

/// One of its checks, as it is on record.
struct Kept {
    check: &'static str,
    on_record: OnRecord,
    /// By subject: the activation of what is open.
    open: BTreeMap<String, u64>,
    /// What nobody was alerted of.
    news: Vec<Violation>,
    /// When that was tried last.
    tried: Option<Duration>,
    /// Alerts that the sink has now: they tell the findings before this number, so many of the news.
    sending: Option<(Vec<Sent>, u64, usize)>,
    /// The sink has taken alerts of the findings before this number, which is not on record.
    handed: Option<u64>,
}

impl Dog {
    pub fn new(ground: &Ground, watch: Arc<Watch>) -> Self {
        Self {
            reader: ground.reader.clone(),
            door: ground.door.clone(),
            options: ground.options.clone(),
            clock: ground.clock.clone(),
            sink: ground.alerts.clone(),
            deliveries: ground.deliveries.clone(),
            watch,
            stood: BTreeMap::new(),
            looked: None,
            kept: None,
            unrecorded: BTreeSet::new(),
            sending: None,
        }
    }

    pub fn run(mut self) {
        let watch = self.watch.clone();
        loop {
            let listener = watch.leash.bell.listen();
            if watch.leash.is_free.load(Ordering::Relaxed) {
                return self.finish();
            }
            self.step();
            listener.wait(deadline(self.patience()));
        }
    }

    fn patience(&self) -> Duration {
        let periods = self.watch.known().periods.values().map(|period| *period * 2).min();
        let limit = self.limit().min(periods.unwrap_or(Duration::MAX));
        let tried = self.kept.iter().flatten().any(|kept| kept.tried.is_some() && !kept.news.is_empty());
        let again = if tried { self.alert_every() } else { Duration::MAX };
        let late = self.deliveries.until_overdue().unwrap_or(Duration::MAX);
        (limit / LOOKS).min(again).min(late).max(Duration::from_millis(1))
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.options.check_overdue_ms)
    }

    fn alert_every(&self) -> Duration {
        Duration::from_millis(self.options.alert_every_ms)
    }

    /// Looks once. `false`: nothing is new.
    pub fn step(&mut self) -> bool {
        // What cannot be recorded now is found again at the next look.
        catch_unwind(AssertUnwindSafe(|| self.look())).is_ok_and(|looked| looked.unwrap_or(false))
    }

    fn look(&mut self) -> Result<bool, StorageError> {
        let overdue = self.overdue();
        let unread: Vec<String> = self.watch.known().unread.keys().cloned().collect();
        if self.kept.is_none() {
            let recall = |check| Kept::recall(&self.reader, check);
            self.kept = Some([recall(FRESHNESS)?, recall(RULES)?, recall(ALERTS)?]);
        }
        let mut kept = self.kept.take().expect("it was read just now");
        let looked = self.compare(&mut kept, &overdue, &unread);
        self.kept = Some(kept);
        if looked.is_err() {
            self.tell_unrecorded(&overdue);
        }
        looked
    }

    fn compare(
        &mut self,
        [fresh, rules, sink]: &mut [Kept; 3],
        overdue: &[Overdue],
        unread: &[String],
    ) -> Result<bool, StorageError> {
        let head = self.reader.board.load().head.position;
        let late: Vec<_> = overdue.iter().map(|one| (one.check.clone(), one.position.get() + 1)).collect();
        let stats = self.watch.stats();
        let moves = |check: &str, activation: u64| {
            let stats = stats.iter().find(|stats| stats.check == check);
            stats.is_none_or(|stats| stats.trouble.is_none() && stats.position.get() >= activation)
        };
        let unread: Vec<_> = unread.iter().map(|file| (file.clone(), head.get())).collect();
        let is_read = |file: &str, _: u64| unread.iter().all(|(unread, _)| unread != file);
        let hung: Vec<_> =
            self.deliveries.overdue().map(|_| (SINK.to_owned(), head.get())).into_iter().collect();
        let returned = |_: &str, _: u64| hung.is_empty();
        let moved = self.record(fresh, &late, &moves, head)?
            | self.record(rules, &unread, &is_read, head)?
            | self.record(sink, &hung, &returned, head)?;
        Ok(moved | self.alert(fresh)? | self.alert(rules)? | self.alert(sink)?)
    }

    /// Puts on record what the sink has taken, before the store closes.
    fn finish(&mut self) {
        let finished = catch_unwind(AssertUnwindSafe(|| {
            for kept in self.kept.take().iter_mut().flatten() {
                kept.take_outcome();
                // A store that takes nothing any more tells it again.
                let _ = self.record_alerted(kept);
            }
        }));
        // It has nothing left to report to.
        drop(finished);
    }

    // ---- how the checks stand ----

    /// Those that have stood still for too long, or stopped.
    fn overdue(&mut self) -> Vec<Overdue> {
        let (now, head) = (self.clock.monotonic(), self.reader.board.load().head.position);
        let (stats, known) = (self.watch.stats(), self.watch.known());
        let since = now.saturating_sub(self.looked.replace(now).unwrap_or(now));
        let mut before = std::mem::take(&mut self.stood);
        for check in stats.iter() {
            let is_done = check.position >= head && check.unrecorded == 0 && check.trouble.is_none();
            let (definition, position, unrecorded) = (check.definition, check.position, check.unrecorded);
            let mut stood = Stood { definition, position, unrecorded, time: Duration::ZERO };
            if let Some(Stood { time, .. }) = before.remove(&check.check).filter(|before| {
                (before.definition, before.position, before.unrecorded) == (definition, position, unrecorded)
            }) && !is_done
            {
                // Where the whole process stood still, one look proves nothing.
                stood.time = time + since.min(self.limit_of(&known.periods, &check.check) / 2);
            }
            self.stood.insert(check.check.clone(), stood);
        }
        let waits_for = |check: &CheckStats| {
            let others = self.stood.values().filter(|other| other.position <= check.position);
            others.map(|other| other.time).min().unwrap_or_default()
        };
        let overdue = stats.iter().filter_map(|check| {
            let is_late = waits_for(check) >= self.limit_of(&known.periods, &check.check);
            let Stood { position, .. } = self.stood[&check.check];
            (is_late || check.trouble.is_some()).then(|| Overdue {
                check: check.check.clone(),
                position,
                is_late,
            })
        });
        overdue.collect()
    }

    fn limit_of(&self, periods: &BTreeMap<String, Duration>, check: &str) -> Duration {
        periods.get(check).map_or_else(|| self.limit(), |period| *period * 2)
    }

    // ---- putting on record ----

    /// Opens and heals, until what is on record is what is so. `false`: it is.
    fn record(
        &self,
        kept: &mut Kept,
        wrong: &[(String, u64)],
        is_healed: &dyn Fn(&str, u64) -> bool,
        head: Position,
    ) -> Result<bool, StorageError> {
        let decided = time_of(self.clock.now());
        let new = wrong.iter().filter(|(subject, _)| !kept.open.contains_key(subject));
        let new = new.map(|(subject, activation)| (subject.clone(), *activation, true));
        let is_wrong = |subject: &str| wrong.iter().any(|(wrong, _)| wrong == subject);
        let over = kept.open.iter().filter(|(subject, at)| !is_wrong(subject) && is_healed(subject, **at));
        let over = over.map(|(subject, activation)| (subject.clone(), *activation, false));
        let changes: Vec<_> = new.chain(over).take(self.options.append_events_max.min(512)).collect();
        if changes.is_empty() {
            return Ok(false);
        }
        let numbers = kept.on_record.told..;
        let events = changes.iter().zip(numbers).map(|((subject, activation, is_new), number)| {
            let by = if *is_new { 0 } else { head.get() };
            let (check, subject, activation) = (kept.check.to_owned(), subject.clone(), *activation);
            let (definition, disagrees) = (DEFINITION, String::new());
            let found = Found { check, definition, number, activation, subject, disagrees, by, decided };
            if *is_new { Own::Violated(found) } else { Own::Healed(found) }
        });
        let events: Vec<_> = events.collect();
        let Some(at) = append(&self.reader, &self.door, &self.options, "check", events)? else {
            return Ok(false);
        };
        for ((subject, activation, is_new), at) in changes.into_iter().zip(at..) {
            let number = kept.on_record.told;
            kept.on_record.told += 1;
            if is_new {
                let key = (kept.check.to_owned(), activation, subject.clone());
                let episode = Episode::new(DEFINITION, number, 0, decided, String::new(), at);
                kept.news.push(Violation::new(key, episode));
                kept.open.insert(subject, activation);
            } else {
                kept.open.remove(&subject);
            }
        }
        Ok(true)
    }

    // ---- telling ----

    /// Alerts of what is on record and was not told, in one piece for each owner. `false`: there is nothing, or it is too soon.
    fn alert(&self, kept: &mut Kept) -> Result<bool, StorageError> {
        let (now, since) = (self.clock.now(), self.clock.monotonic());
        kept.take_outcome();
        let is_early = kept.tried.is_some_and(|tried| since < tried + self.alert_every());
        let mute: Option<Mute> = row::<Mutes>(&self.reader, &kept.check.to_owned())?;
        let is_muted = mute.is_some_and(|mute| now.micros() < mute.until);
        if kept.sending.is_none() && kept.handed.is_none() && !kept.news.is_empty() && !is_early && !is_muted
        {
            kept.tried = Some(since);
            let of = |news: &Violation| (about(&self.watch, news), Some(news.clone()));
            let alerts = alerts(kept.check, kept.news.iter().map(of));
            kept.sending =
                self.tell(kept.check, alerts).map(|sent| (sent, kept.on_record.told, kept.news.len()));
            kept.take_outcome();
        }
        self.record_alerted(kept)
    }

    /// Puts on record that findings were told. `false`: there is nothing to record, or not now.
    fn record_alerted(&self, kept: &mut Kept) -> Result<bool, StorageError> {
        let Some(through) = kept.handed else { return Ok(false) };
        let alerted = Own::Alerted { check: kept.check.to_owned(), definition: DEFINITION, through };
        if append(&self.reader, &self.door, &self.options, "alert", vec![alerted])?.is_some() {
            (kept.on_record.alerted, kept.handed) = (through, None);
        }
        Ok(true)
    }

    /// A store that takes no events has checks that stand still, and nobody would hear of it.
    fn tell_unrecorded(&mut self, overdue: &[Overdue]) {
        if let Some((sent, checks)) = self.sending.take() {
            match outcome(&sent) {
                None => self.sending = Some((sent, checks)),
                Some(Ok(())) => self.unrecorded.extend(checks),
                Some(Err(_)) => {}
            }
        }
        let late = overdue.iter().filter(|one| one.is_late && !self.unrecorded.contains(&one.check));
        let late: Vec<_> = late.map(|one| one.check.clone()).collect();
        if self.sending.is_none() && !late.is_empty() {
            let about = |check: &String| (of_check(&self.watch, check), None);
            let alerts = alerts(FRESHNESS, late.iter().map(about));
            self.sending = self.tell(FRESHNESS, alerts).map(|sent| (sent, late));
        }
    }

    /// Hands alerts to the sink; that the sink itself hangs goes to standard error. `None`: not all of them were taken.
    fn tell(&self, check: &str, alerts: Vec<Alert>) -> Option<Vec<Sent>> {
        if check == ALERTS {
            let error = alert::standard_error();
            return alerts.iter().all(|alert| error(alert).is_ok()).then(Vec::new);
        }
        let offer = |alert: Alert| {
            let (sink, watch) = (self.sink.clone(), self.watch.clone());
            self.deliveries.offer(move || sink(&alert), move || watch.leash.tug()).ok()
        };
        alerts.into_iter().map(offer).collect()
    }
}

/// Alerts of findings, one for each owner.
fn alerts(check: &str, news: impl Iterator<Item = (Option<Described>, Option<Violation>)>) -> Vec<Alert> {
    let mut alerts: BTreeMap<String, Alert> = BTreeMap::new();
    for (about, violation) in news {
        let Some(about) = about else { continue };
        let alert = alerts.entry(about.owner.to_string()).or_insert_with(|| Alert {
            check: check.to_owned(),
            severity: about.severity,
            owner: about.owner.to_string(),
            means: String::new(),
            remedy: about.remedy.to_string(),
            count: 0,
            unread: 0,
            sample: Vec::new(),
            escalated: None,
        });
        alert.count += 1;
        alert.severity = alert.severity.max(about.severity);
        if alert.count <= SAMPLE as u64 {
            let space = if alert.means.is_empty() { "" } else { " " };
            alert.means += &format!("{space}{}", about.means);
            alert.sample.extend(violation);
        }
    }
    alerts.into_values().collect()
}

/// Returns the outcome of all of them together. `None`: some have none yet.
fn outcome(sent: &[Sent]) -> Option<Result<(), ()>> {
    if !sent.iter().all(Sent::has_outcome) {
        return None;
    }
    let is_taken = sent.iter().all(|sent| matches!(sent.outcome(), Some(Ok(()))));
    Some(if is_taken { Ok(()) } else { Err(()) })
}

/// A check that is not where it should be.
struct Overdue {
    check: String,
    position: Position,
    /// It has stood still for too long; else it has stopped, which may be because the store is being closed.
    is_late: bool,
}

impl Kept {
    fn recall(reader: &Reader, check: &'static str) -> Result<Self, StorageError> {
        let on_record = row::<Told>(reader, &(check.to_owned(), DEFINITION))?.unwrap_or_default();
        let mut kept = Self {
            check,
            on_record,
            open: BTreeMap::new(),
            news: Vec::new(),
            tried: None,
            sending: None,
            handed: None,
        };
        for (key, episode) in episodes(reader, check)? {
            if episode.end.is_none() {
                kept.open.insert(key.2.clone(), key.1);
            }
            if episode.number >= on_record.alerted {
                kept.news.push(Violation::new(key, episode));
            }
        }
        Ok(kept)
    }
}

impl Kept {
    /// Takes the sink's answer, if there is one. What was told is no news any more.
    fn take_outcome(&mut self) {
        let Some((sent, through, len)) = self.sending.take() else { return };
        match outcome(&sent) {
            None => self.sending = Some((sent, through, len)),
            Some(Ok(())) => {
                self.news.drain(..len);
                self.handed = Some(through);
            }
            Some(Err(())) => {}
        }
    }
}

/// What a violation of the store's own checks is.
pub(super) fn about(watch: &Watch, violation: &Violation) -> Option<Described> {
    let subject = violation.subject.as_ref()?;
    match violation.check.as_str() {
        FRESHNESS => of_check(watch, subject),
        RULES => {
            let known = watch.known();
            let unread = known.unread.get(subject).cloned();
            let Unread { owner, severity, why } = unread.unwrap_or_else(|| Unread {
                owner: KEEPER.to_owned(),
                severity: Severity::Ticket,
                why: format!("{subject} could not be read; it can be now, or is not there any more"),
            });
            Some(Described {
                id: RULES.into(),
                severity,
                owner: owner.into(),
                means: format!("{why}.").into(),
                remedy: "1 mend the file at the line and column named; it is read again by itself; 2 what was not checked \
                         meanwhile is judged then, from the first commit"
                    .into(),
            })
        }
        ALERTS => Some(of_sink()),
        _ => None,
    }
}

fn of_sink() -> Described {
    Described {
        id: ALERTS.into(),
        severity: Severity::Page,
        owner: "whoever runs the store".into(),
        means: "The alert sink has not returned in time. Alerts wait behind it; checks go on and record what they find.".into(),
        remedy: "1 look at what the thread `tallystone-alerts` does; 2 give the sink a deadline of its own, shorter than \
                 `alert_deadline_ms`; 3 if it never returns, start the process again; what was not told is told then"
            .into(),
    }
}

fn of_check(watch: &Watch, check: &str) -> Option<Described> {
    let (checks, stats) = (watch.checks(), watch.stats());
    let owner = checks.iter().find(|one| one.id() == check).map(|one| one.about.owner.clone());
    let stats = stats.iter().find(|stats| stats.check == check);
    let why = match stats.and_then(|stats| stats.trouble.as_ref()) {
        Some(Trouble(error)) => format!("has stopped: {error}"),
        None => "does not move, and there is something to judge".to_owned(),
    };
    Some(Described {
        id: FRESHNESS.into(),
        severity: Severity::Page,
        owner: owner.unwrap_or_else(|| "whoever runs the store".into()),
        means: format!("The check `{check}` {why}. What it is there to find goes unseen.").into(),
        remedy: "1 where it has stopped, mend the cause and call `Store::recover`; 2 where it does not move, a closure of a check \
                 does not return: look at what the thread `tallystone-checks` does, and start the process \
                 again; nothing that was to be judged is lost"
            .into(),
    })
}
