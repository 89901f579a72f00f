//! Watches the checks themselves: one that is dead is a violation, found by somebody else.
//!
//! - On a thread of its own, by the monotonic clock: a check that never returns holds up neither.
//! - What it finds has a subject: the check that does not move, the file of rules that cannot be read. It is on record as any
//!   finding is; what is on record is neither recorded nor alerted again, whoever starts anew.
//! - A check that waits for another that moves is well: the one furthest behind is judged first.

use super::delivery::Sent;
use super::notifier::Notifier;
use super::routes::Routes;
use super::source::{KEEPER, Unread};
use super::watcher::{Ground, Watch, append, episodes, row};
use super::{CheckStats, Trouble};
use crate::check::{Described, Severity, time_of};
use crate::disk::Clock;
use crate::episode::Told;
use crate::error::StorageError;
use crate::notification::{Ended, Notification, NotificationKind, SINKS};
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
pub(super) const BUILT_IN: [&str; 4] = [FRESHNESS, RULES, SINKS, UNEXERCISED];
const FRESHNESS: &str = "tallystone.freshness";
/// Rules that can be read.
const RULES: &str = "tallystone.rules";
/// Checks that have something to judge.
const UNEXERCISED: &str = "tallystone.unexercised";
/// Definition of all of them.
const DEFINITION: [u8; 8] = *b"built-in";
/// Subjects that one notification describes.
const SAMPLE: usize = 10;
/// It looks this often in the time that a check may stand still.
const LOOKS: u32 = 4;

/// Handle by which others wake or end the watchdog.
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
    watch: Arc<Watch>,
    notifier: Notifier,
    routes: Routes,
    /// By check: how it stood, and for how long it has.
    stood: BTreeMap<String, LastProgress>,
    looked: Option<Duration>,
    /// Findings on record. `None`: not read yet.
    kept: Option<[BuiltInFindings; 4]>,
    /// Checks that somebody was told of although it cannot be recorded.
    unrecorded: BTreeSet<String>,
    /// Alerts of such checks that the sink has now.
    sending: Option<(Vec<Sent>, Vec<String>)>,
}

#[derive(Debug, PartialEq, Eq)]
struct LastProgress {
    definition: [u8; 8],
    position: Position,
    unrecorded: u64,
    time: Duration,
}

/// One of its checks, as it is on record.
struct BuiltInFindings {
    check: &'static str,
    /// Findings on record.
    told: u64,
    /// By subject: the activation of what is open.
    open: BTreeMap<String, u64>,
}

impl Dog {
    pub fn new(ground: &Ground, watch: Arc<Watch>) -> Self {
        Self {
            reader: ground.reader.clone(),
            door: ground.door.clone(),
            options: ground.options.clone(),
            clock: ground.clock.clone(),
            notifier: Notifier::new(ground, watch.clone()),
            routes: Routes::new(ground, watch.clone()),
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
            if !self.step() {
                listener.wait(deadline(self.patience()));
            }
        }
    }

    fn patience(&self) -> Duration {
        let periods = self.watch.known().periods.values().map(|period| *period * 2).min();
        let limit = self.limit().min(periods.unwrap_or(Duration::MAX));
        let others = [self.notifier.patience(), self.routes.patience()].into_iter().flatten().min();
        (limit / LOOKS).min(others.unwrap_or(Duration::MAX)).max(Duration::from_millis(1))
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.options.check_overdue_ms)
    }

    /// Looks once, tells what is new, and delivers it. `false`: nothing is new.
    pub fn step(&mut self) -> bool {
        // What cannot be recorded now is found again at the next look.
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let looked = self.look().unwrap_or(false);
            let told = self.notifier.step();
            let moved = self.routes.step(told.as_ref().err());
            looked | told.unwrap_or(false) | moved
        }));
        caught.unwrap_or(false)
    }

    fn look(&mut self) -> Result<bool, StorageError> {
        let overdue = self.overdue();
        let unread: Vec<String> = self.watch.known().unread.keys().cloned().collect();
        if self.kept.is_none() {
            let recall = |check| BuiltInFindings::recall(&self.reader, check);
            self.kept = Some([recall(FRESHNESS)?, recall(RULES)?, recall(SINKS)?, recall(UNEXERCISED)?]);
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
        [fresh, rules, sink, exercised]: &mut [BuiltInFindings; 4],
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
        let hung: Vec<_> = self.routes.overdue().into_iter().map(|route| (route, head.get())).collect();
        let returned = |route: &str, _: u64| hung.iter().all(|(hung, _)| hung != route);
        // One that judges history again knows only when it is through.
        let idle = stats.iter().filter(|stats| stats.caught_up && stats.is_unexercised);
        let idle: Vec<_> = idle.map(|stats| (stats.check.clone(), head.get())).collect();
        let has_judged = |check: &str, _: u64| {
            let stats = stats.iter().find(|stats| stats.check == check);
            stats.is_none_or(|stats| stats.caught_up && !stats.is_unexercised)
        };
        Ok(self.record(fresh, &late, &moves, head)?
            | self.record(rules, &unread, &is_read, head)?
            | self.record(sink, &hung, &returned, head)?
            | self.record(exercised, &idle, &has_judged, head)?)
    }

    /// Records what sinks have taken, before the store closes.
    fn finish(&mut self) {
        // It has nothing left to report a panic to.
        let _ = catch_unwind(AssertUnwindSafe(|| self.routes.finish()));
    }

    // ---- how the checks stand ----

    /// Returns the checks that have stood still for too long, or stopped.
    fn overdue(&mut self) -> Vec<Overdue> {
        let (now, head) = (self.clock.monotonic(), self.reader.board.load().head.position);
        let (stats, known) = (self.watch.stats(), self.watch.known());
        let since = now.saturating_sub(self.looked.replace(now).unwrap_or(now));
        let mut before = std::mem::take(&mut self.stood);
        for check in stats.iter() {
            let is_done = check.position >= head && check.unrecorded == 0 && check.trouble.is_none();
            let (definition, position, unrecorded) = (check.definition, check.position, check.unrecorded);
            let mut stood = LastProgress { definition, position, unrecorded, time: Duration::ZERO };
            if let Some(LastProgress { time, .. }) = before.remove(&check.check).filter(|before| {
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
            let LastProgress { position, .. } = self.stood[&check.check];
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
        kept: &mut BuiltInFindings,
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
        let numbers = kept.told..;
        let events = changes.iter().zip(numbers).map(|((subject, activation, is_new), number)| {
            let by = if *is_new { 0 } else { head.get() };
            let about = about(&self.watch, kept.check, subject).filter(|_| *is_new);
            let (owner, severity) =
                about.map(|about| (about.owner.to_string(), about.severity.to_string())).unwrap_or_default();
            let (check, subject, activation) = (kept.check.to_owned(), subject.clone(), *activation);
            let (definition, rest) = (DEFINITION, Found::default());
            let found = Found {
                check,
                definition,
                number,
                activation,
                subject,
                by,
                decided,
                owner,
                severity,
                ..rest
            };
            if *is_new { Own::Violated(found) } else { Own::Healed(found) }
        });
        let events: Vec<_> = events.collect();
        if append(&self.reader, &self.door, &self.options, "check", events)?.is_none() {
            return Ok(false);
        }
        kept.told += changes.len() as u64;
        for (subject, activation, is_new) in changes {
            match is_new {
                true => kept.open.insert(subject, activation),
                false => kept.open.remove(&subject),
            };
        }
        Ok(true)
    }

    // ---- telling what cannot be recorded ----

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
            self.sending = self.tell(&late).map(|sent| (sent, late));
        }
    }

    /// Hands out one notification for each owner. `None`: not all of them were taken.
    fn tell(&self, late: &[String]) -> Option<Vec<Sent>> {
        let mut by_owner: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
        for check in late {
            let owner = of_check(&self.watch, check).owner.to_string();
            by_owner.entry(owner).or_default().push((0, check.clone()));
        }
        let now = self.clock.now().into();
        let told = by_owner.values().filter_map(|subjects| {
            let Described { severity, owner, means, remedy, .. } =
                about_all(&self.watch, FRESHNESS, subjects)?;
            let keys: Vec<_> = subjects.iter().map(|(_, check)| check.clone()).collect();
            self.routes.tell_unrecorded(&Notification {
                kind: NotificationKind::Opened,
                dedup_key: format!("{}/{FRESHNESS}/{}", self.reader.log.store(), keys.join(",")),
                store: self.routes.store().to_owned(),
                check: FRESHNESS.to_owned(),
                severity,
                owner: owner.into_owned(),
                means: means.into_owned(),
                remedy: remedy.into_owned(),
                labels: Vec::new(),
                why: None,
                count: keys.len() as u64,
                reopened: 0,
                ended: Ended::default(),
                keys,
                sample: Vec::new(),
                since: now,
                at: now,
            })
        });
        let told: Vec<_> = told.collect();
        (told.len() == by_owner.len()).then(|| told.into_iter().flatten().collect())
    }
}

/// Describes the findings of a built-in check about these subjects, in one. `None`: there is nothing to say.
pub(super) fn about_all(watch: &Watch, check: &str, subjects: &[(u64, String)]) -> Option<Described> {
    let mut all = subjects.iter().filter_map(|(_, subject)| about(watch, check, subject));
    let first = all.next()?;
    Some(all.take(SAMPLE - 1).fold(first, |all, one| Described {
        severity: all.severity.max(one.severity),
        means: format!("{} {}", all.means, one.means).into(),
        ..all
    }))
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

impl BuiltInFindings {
    fn recall(reader: &Reader, check: &'static str) -> Result<Self, StorageError> {
        let told = row::<Told>(reader, &(check.to_owned(), DEFINITION))?.unwrap_or_default();
        let open = episodes(reader, check)?.into_iter().filter(|(_, episode)| episode.end.is_none());
        Ok(Self {
            check,
            told,
            open: open.map(|((_, activation, subject), _)| (subject, activation)).collect(),
        })
    }
}

/// Describes a violation of a built-in check.
pub(super) fn about(watch: &Watch, check: &str, subject: &str) -> Option<Described> {
    match check {
        FRESHNESS => Some(of_check(watch, subject)),
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
        SINKS => Some(of_sink(subject)),
        UNEXERCISED => Some(of_unexercised(watch, subject)),
        _ => None,
    }
}

fn of_unexercised(watch: &Watch, check: &str) -> Described {
    let checks = watch.checks();
    let owner = checks.iter().find(|one| one.id() == check).map(|one| one.about.owner.clone());
    Described {
        id: UNEXERCISED.into(),
        severity: Severity::Note,
        owner: owner.unwrap_or_else(|| "whoever runs the store".into()),
        means: format!(
            "The check `{check}` has had nothing to judge for ten of its windows, while events of its families came: it may wait for \
             what never comes."
        )
        .into(),
        remedy: "1 compare what the check looks for with the events that come; 2 if it is right, waive this until there is something \
                 to judge"
            .into(),
    }
}

fn of_sink(route: &str) -> Described {
    Described {
        id: SINKS.into(),
        severity: Severity::Page,
        owner: "whoever runs the store".into(),
        means: format!(
            "The sink of the route `{route}` has not returned in time. Its notifications wait behind it; checks and other routes go on."
        )
        .into(),
        remedy: "1 look at what the thread `tallystone-alerts` does; 2 give the sink a deadline of its own, shorter than \
                 `alert_deadline_ms`; 3 if it never returns, start the process again; what was not told is told then"
            .into(),
    }
}

fn of_check(watch: &Watch, check: &str) -> Described {
    let (checks, stats) = (watch.checks(), watch.stats());
    let owner = checks.iter().find(|one| one.id() == check).map(|one| one.about.owner.clone());
    let stats = stats.iter().find(|stats| stats.check == check);
    let why = match stats.and_then(|stats| stats.trouble.as_ref()) {
        Some(Trouble(error)) => format!("has stopped: {error}"),
        None => "does not move, and there is something to judge".to_owned(),
    };
    Described {
        id: FRESHNESS.into(),
        severity: Severity::Page,
        owner: owner.unwrap_or_else(|| "whoever runs the store".into()),
        means: format!("The check `{check}` {why}. What it is there to find goes unseen.").into(),
        remedy: "1 where it has stopped, mend the cause and call `Store::recover`; 2 where it does not move, a closure of a check \
                 does not return: look at what the thread `tallystone-checks` does, and start the process \
                 again; nothing that was to be judged is lost"
            .into(),
    }
}
