//! The store's own events, and those that must be on record.
//!
//! - Nobody asked for the runner's events: the model takes them over as they come, and holds them to the promises. Findings are
//!   numbered without a gap. A notice tells findings that were not told yet. It counts as delivered once somebody has taken it.
//! - Once checks have seen everything, the record equals what the rules of `checks` say: nothing less, and nothing twice.

use super::checks::{BY_EVENTS, Finding, Judged, RULES, Verdict, in_their_order};
use super::model::Model;
use super::workload::{Fact, Request};
use crate::check::RESERVED;
use crate::error::ReadError;
use crate::event::{EventSet, Raw, Sequenced};
use crate::notification::{Notification, NotificationKind};
use crate::order::{Position, Timestamp};
use crate::own::{Found, Notice, NoticeKind, Own};
use crate::query::Query;
use crate::setup::Setup;
use crate::sync::Mutex;
use crate::view::View;
use crate::watch::{CheckStats, Checks, State, TOLD_AT_ONCE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Built-in check: other checks make progress.
pub const FRESHNESS: &str = "tallystone.freshness";

/// An event of the store's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noticed {
    /// Its type.
    pub type_name: String,
    /// Its stream.
    pub stream: String,
    /// Its payload.
    pub data: Vec<u8>,
    /// Content of the event.
    pub says: Says,
}

/// Content of one of the store's own events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// A finding: check, number among the findings of the check, content.
    Found(String, u64, Finding),
    /// A notice about a check.
    Notified(Told),
    /// A route begins.
    Routed(String),
    /// A route has taken the notice at this position.
    Delivered(String, u64),
    /// Time has passed.
    Passed,
    /// An acknowledged violation: check, activation, subject.
    Acknowledged(String, u64, String),
}

/// A notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its check.
    pub check: String,
    /// Reason of the notice.
    pub kind: NotificationKind,
    /// Position of the notice that opened it.
    group: u64,
    count: u64,
    sample: Vec<u64>,
}

/// Reason why the model cannot follow.
#[derive(Debug)]
pub enum Odd {
    /// The store cannot be read.
    Store(ReadError),
    /// The store says something it must not say.
    Differs(String),
}

impl From<ReadError> for Odd {
    fn from(error: ReadError) -> Self {
        Self::Store(error)
    }
}

fn differs<T>(what: impl Into<String>) -> Result<T, Odd> {
    Err(Odd::Differs(what.into()))
}

// ---- who is told ----

/// Alert sink that outlives every process.
#[derive(Debug, Clone, Default)]
pub struct Pager(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    is_down: bool,
    /// Number of times the checks have begun anew.
    life: u64,
    pages: Vec<PagedAlert>,
}

/// An alert that was taken, and is not on record yet as far as the model knows.
#[derive(Debug, Clone)]
struct PagedAlert {
    check: String,
    kind: NotificationKind,
    life: u64,
    count: u64,
    sample: Vec<u64>,
}

impl Pager {
    /// Returns a setup whose alerts come here.
    pub fn hears(&self, setup: Setup) -> Setup {
        let pager = self.clone();
        setup.alerts(move |told| pager.take(told))
    }

    /// Makes it refuse alerts, or take them again.
    pub fn set_down(&self, is_down: bool) {
        self.0.lock().is_down = is_down;
    }

    /// Begins a new life of the checks: an alert that was taken and is not on record may come again.
    pub fn next_life(&self) {
        self.0.lock().life += 1;
    }

    fn take(&self, alert: &Notification) -> Result<(), String> {
        let mut told = self.0.lock();
        if told.is_down {
            return Err("nobody is there".to_owned());
        }
        let sample = alert.sample.iter().map(|violation| violation.activation.get()).collect();
        let (check, kind, life, count) = (alert.check.clone(), alert.kind, told.life, alert.count);
        told.pages.push(PagedAlert { check, kind, life, count, sample });
        Ok(())
    }

    /// Takes the pages since the last one that was put on record.
    fn since_record(&self) -> Vec<PagedAlert> {
        std::mem::take(&mut self.0.lock().pages)
    }
}

// ---- what is on record ----

impl Noticed {
    fn of(event: &Sequenced<Raw>) -> Result<Self, String> {
        let raw = event.event.borrowed();
        let own = Own::decode(&raw).map_err(|error| format!("{event:?}: {error}"))?;
        let found = |found: Found, verdict| {
            let is_violated = verdict == Verdict::Violated;
            let disagrees = if is_violated { found.disagrees } else { String::new() };
            let Found { check, number, activation, subject, by, decided, .. } = found;
            Says::Found(check, number, Finding { decided, activation, by, verdict, subject, disagrees })
        };
        let says = match own {
            Own::Violated(violated) => found(violated, Verdict::Violated),
            Own::Healed(healed) => found(healed, Verdict::Healed),
            Own::Retracted(retracted) => found(retracted, Verdict::Retracted),
            Own::Skewed(skewed) => found(skewed, Verdict::Skewed),
            Own::Notified(notice) => Says::Notified(told(notice)),
            Own::Routed { route, .. } => Says::Routed(route),
            Own::Delivered { route, through, .. } => Says::Delivered(route, through),
            Own::Acknowledged(seen) => Says::Acknowledged(seen.check, seen.activation, seen.subject),
            Own::Passed => Says::Passed,
            other => return Err(format!("nobody asked for {other:?}")),
        };
        let (type_name, stream) = (event.type_name().to_owned(), event.stream().to_owned());
        Ok(Self { type_name, stream, data: event.data().to_vec(), says })
    }

    /// Returns the kind of the event, if it shares a commit: all events of such a commit have one kind.
    fn kind(&self) -> Option<u8> {
        match &self.says {
            Says::Found(check, ..) if check == FRESHNESS => Some(1),
            Says::Found(check, ..) if check.starts_with(RESERVED) => Some(2),
            Says::Found(..) => Some(0),
            Says::Notified(_) | Says::Routed(_) => Some(3),
            _ => None,
        }
    }
}

fn told(notice: Notice) -> Told {
    let kind = match notice.kind {
        NoticeKind::Opened => NotificationKind::Opened,
        NoticeKind::Escalated { .. } => NotificationKind::Escalated,
        NoticeKind::Reminded => NotificationKind::Reminded,
        NoticeKind::Resolved => NotificationKind::Resolved,
        NoticeKind::Indeterminate => NotificationKind::Indeterminate,
    };
    let sample = notice.sample.iter().map(|(activation, _)| *activation).collect();
    Told { check: notice.check, kind, group: notice.group, count: notice.count, sample }
}

/// Returns the findings of a check on record: position, number, finding.
fn on_record<'m>(model: &'m Model, id: &'m str) -> impl Iterator<Item = (u64, u64, &'m Finding)> {
    let noticed = (1..).zip(&model.events).filter_map(|(position, event)| match &event.fact {
        Fact::Own(noticed) => Some((position, noticed)),
        _ => None,
    });
    noticed.filter_map(move |(position, noticed)| match &noticed.says {
        Says::Found(check, number, finding) if check == id => Some((position, *number, finding)),
        _ => None,
    })
}

/// Returns the notices of a check, each with its position.
fn notices<'m>(model: &'m Model, id: &'m str) -> impl Iterator<Item = (u64, &'m Told)> {
    (1..).zip(&model.events).filter_map(move |(position, event)| match &event.fact {
        Fact::Own(noticed) => match &noticed.says {
            Says::Notified(told) if told.check == id => Some((position, told)),
            _ => None,
        },
        _ => None,
    })
}

/// Returns the position of a check's last `Opened` before this one; 0 if there is none.
fn opened_before(model: &Model, id: &str, position: u64) -> u64 {
    let opened =
        notices(model, id).filter(|(at, told)| *at < position && told.kind == NotificationKind::Opened);
    opened.map(|(at, _)| at).last().unwrap_or(0)
}

/// Returns the activations of violations on record in `after..before`, and the number of those that are not over.
fn violated_between(model: &Model, id: &str, after: u64, before: u64) -> (Vec<u64>, u64) {
    let of_it = on_record(model, id).filter(|(position, _, finding)| {
        (after..before).contains(position) && finding.verdict == Verdict::Violated
    });
    let all: Vec<_> = of_it.map(|(.., finding)| (finding.activation, &finding.subject)).collect();
    let open = all.iter().filter(|(activation, subject)| !is_over(model, id, *activation, subject)).count();
    (all.iter().map(|(activation, _)| *activation).collect(), open as u64)
}

/// Takes over the events that the store has put on record since the model looked last, as its last step may, and returns them.
///
/// # Errors
///
/// The difference, or the store's error.
pub fn take_over(model: &mut Model, view: &View, pager: &Pager) -> Result<Vec<Says>, Odd> {
    let room = model.limits.append_events_max.min(TOLD_AT_ONCE);
    let mut commits: Vec<(u64, Vec<Noticed>)> = Vec::new();
    let since = Query::all().after(Position::new(model.position()));
    for event in view.query::<Raw>(since) {
        let event = event?;
        let micros = Timestamp::from(event.recorded_at).micros();
        let noticed = Noticed::of(&event).or_else(differs)?;
        match commits.last_mut() {
            // The findings of a step of the runner are one commit if they fit; those of the watchdog are another.
            Some((_, last))
                if noticed.kind().is_some() && last[0].kind() == noticed.kind() && last.len() < room =>
            {
                last.push(noticed)
            }
            _ => commits.push((micros, vec![noticed])),
        }
    }
    let mut says = Vec::new();
    for (micros, noticed) in commits {
        let of_commit: Vec<_> = noticed.iter().map(|noticed| noticed.says.clone()).collect();
        of_commit.iter().try_for_each(|says| hold_notice(model, says))?;
        of_commit.iter().try_for_each(|says| hold_delivery(model, says, pager))?;
        let facts: Vec<_> = noticed.into_iter().map(|noticed| Fact::Own(Arc::new(noticed))).collect();
        model.apply(&Request::of(facts), None, micros);
        of_commit.iter().try_for_each(|says| hold_number(model, says))?;
        says.extend(of_commit);
    }
    let (is, must) = ((view.position().get(), view.commit().get()), (model.position(), model.commit()));
    if is != must {
        return differs(format!("the head is {is:?}, and the model's {must:?}"));
    }
    Ok(says)
}

/// Compares the numbers of findings: from 0, each once.
fn hold_number(model: &Model, says: &Says) -> Result<(), Odd> {
    let Says::Found(id, number, finding) = says else { return Ok(()) };
    let is_gapless = (0..).zip(on_record(model, id)).all(|(must, (_, number, _))| must == number);
    match is_gapless {
        true => Ok(()),
        false => differs(format!("finding {number} of {id} leaves a gap, or is there twice: {finding:?}")),
    }
}

/// Compares a notice with the findings: `Opened` tells all that are not over and were not told. `Resolved` is of a group that is
/// over, and was not resolved before.
fn hold_notice(model: &Model, says: &Says) -> Result<(), Odd> {
    let Says::Notified(told) = says else { return Ok(()) };
    let (id, next) = (told.check.as_str(), model.position() + 1);
    let is_right = match told.kind {
        NotificationKind::Opened => {
            let (all, open) = violated_between(model, id, opened_before(model, id, next), next);
            told.count == open && open > 0 && told.sample.iter().all(|activation| all.contains(activation))
        }
        NotificationKind::Resolved => {
            let is_resolved = notices(model, id)
                .any(|(_, other)| other.group == told.group && other.kind == NotificationKind::Resolved);
            let since = opened_before(model, id, told.group);
            let (all, open) = violated_between(model, id, since, told.group);
            !is_resolved && open == 0 && all.len() as u64 >= told.count
        }
        NotificationKind::Indeterminate => {
            on_record(model, id).any(|(.., finding)| finding.verdict == Verdict::Skewed)
        }
        NotificationKind::Reminded | NotificationKind::Escalated => {
            violated_between(model, id, opened_before(model, id, told.group), told.group).1 > 0
        }
    };
    match is_right {
        true => Ok(()),
        false => differs(format!("at {next} it tells {told:?}")),
    }
}

/// Compares a delivery with the pages: one life of the store delivers a notice once, and notices are delivered in order.
fn hold_delivery(model: &Model, says: &Says, pager: &Pager) -> Result<(), Odd> {
    let Says::Delivered(route, through) = says else { return Ok(()) };
    let pages = pager.since_record();
    let Some(Says::Notified(told)) = says_at(model, *through) else {
        return differs(format!("{route} was told of {through}, which is no notice"));
    };
    let is_it = |page: &&PagedAlert| {
        (&page.check, page.kind, page.count, &page.sample)
            == (&told.check, told.kind, told.count, &told.sample)
    };
    let last = pages.last().map(|page| page.life);
    let (now, before): (Vec<_>, Vec<_>) = pages.iter().partition(|page| Some(page.life) == last);
    let is_told_once = matches!(&now[..], [page] if is_it(page));
    // A page taken before a crash may be on record with the events that the crash left.
    let is_noticed = |page: &&PagedAlert| {
        let mut all = notices(model, &page.check).map(|(_, told)| told);
        all.any(|told| (page.kind, page.count, &page.sample) == (told.kind, told.count, &told.sample))
    };
    let is_later = delivered(model).is_none_or(|before| before < *through);
    match is_told_once && before.iter().all(is_noticed) && is_later {
        true => Ok(()),
        false => differs(format!("{route} at {through}: told {pages:?}, must be {told:?}")),
    }
}

fn says_at(model: &Model, position: u64) -> Option<&Says> {
    let event = model.events.get(usize::try_from(position.checked_sub(1)?).ok()?)?;
    match &event.fact {
        Fact::Own(noticed) => Some(&noticed.says),
        _ => None,
    }
}

/// Returns the position of the last notice that was delivered.
fn delivered(model: &Model) -> Option<u64> {
    model.events.iter().rev().find_map(|event| match &event.fact {
        Fact::Own(noticed) => match &noticed.says {
            Says::Delivered(_, through) => Some(*through),
            _ => None,
        },
        _ => None,
    })
}

// ---- once they have seen everything ----

/// Number of steps in a row that left nothing to judge, and in which nothing came.
#[derive(Debug, Default)]
pub struct Rest(u32);

impl Rest {
    /// Counts one more step that was taken over, and returns whether the checks have come to rest. `before`: position until then.
    pub fn has_come(&mut self, before: u64, model: &Model, checks: &Checks<'_>) -> bool {
        let has_seen_all = checks.stats().iter().all(CheckStats::is_settled);
        self.0 = if has_seen_all && before == model.position() { self.0 + 1 } else { 0 };
        // Findings are told in the step after, and the notice may raise an alert.
        self.0 == 3
    }
}

/// Compares the record of all checks with the rules.
///
/// # Errors
///
/// The difference, or the store's error.
pub fn compare(model: &Model, checks: &Checks<'_>) -> Result<(), Odd> {
    let stats = checks.stats();
    for (id, rule) in RULES {
        let judged = rule(model);
        let mut is: Vec<_> = on_record(model, id).map(|(.., finding)| finding.clone()).collect();
        in_their_order(&mut is);
        let Judged { findings, activations, satisfied, violated, healed, retracted, pending, .. } = judged;
        if is != findings {
            let same = is.iter().zip(&findings).take_while(|(is, must)| is == must).count();
            return differs(format!(
                "{id}: after {same} findings\n  must be {:?}\n  are {:?}",
                &findings[same..],
                &is[same..]
            ));
        }
        let Some(stats) = stats.iter().find(|stats| stats.check == id) else {
            return differs(format!("{id} does not run"));
        };
        let must = [activations, satisfied, violated, pending.len() as u64, healed, retracted];
        let is = [
            stats.activations,
            stats.satisfied,
            stats.violated,
            stats.pending,
            stats.healed,
            stats.retracted,
        ];
        if is != must {
            return differs(format!(
                "{id}: activated, satisfied, violated, pending, healed, retracted\n  must be {must:?}\n  are {is:?}"
            ));
        }
    }
    compare_violations(model, checks)
}

/// Compares the listed violations with the record.
fn compare_violations(model: &Model, checks: &Checks<'_>) -> Result<(), Odd> {
    // For each violation: position on record, begin, end, and true once it is acknowledged.
    type ModelViolation<'m> = (u64, &'m Finding, Option<&'m Finding>, bool);
    let mut must: BTreeMap<(&str, u64, &str), ModelViolation<'_>> = BTreeMap::new();
    for (position, event) in (1..).zip(&model.events) {
        let Fact::Own(noticed) = &event.fact else { continue };
        match &noticed.says {
            Says::Found(check, _, finding) => {
                let key = (&**check, finding.activation, &*finding.subject);
                match finding.verdict {
                    Verdict::Violated => drop(must.insert(key, (position, finding, None, false))),
                    Verdict::Skewed => {}
                    _ => must.get_mut(&key).into_iter().for_each(|episode| episode.2 = Some(finding)),
                }
            }
            Says::Acknowledged(check, activation, subject) => {
                let episode = must.get_mut(&(&**check, *activation, &**subject));
                episode.into_iter().for_each(|episode| episode.3 = true);
            }
            Says::Notified(_) | Says::Routed(_) | Says::Delivered(..) | Says::Passed => {}
        }
    }
    let mut told = 0;
    for violation in checks.all()? {
        let subject = violation.subject.as_deref().unwrap_or_default();
        let key = (&*violation.check, violation.activation.get(), subject);
        let Some((recorded, finding, end, is_seen)) = must.get(&key) else {
            return differs(format!("nobody found {violation:?}"));
        };
        let state = match end {
            None => State::Open,
            Some(end) if end.verdict == Verdict::Retracted => State::Retracted { by: Position::new(end.by) },
            Some(end) => State::Healed {
                by: Position::new(end.by),
                // By the time of events, a late answer may state a time before the violation was decided.
                after: Duration::from_micros(u64::try_from(end.decided - finding.decided).unwrap_or(0)),
            },
        };
        let by = violation.by.map_or(0, Position::get);
        let decided = Timestamp::from(violation.decided_at).micros();
        let is = (violation.recorded.get(), by, decided as i64, &*violation.disagrees, &violation.state);
        let must = (*recorded, finding.by, finding.decided, &*finding.disagrees, &state);
        if is != must || violation.acknowledged.is_some() != *is_seen {
            return differs(format!("{violation:?}\n  must be {must:?}, seen: {is_seen}"));
        }
        told += 1;
    }
    match told == must.len() {
        true => Ok(()),
        false => differs(format!("{told} violations are told, {} are on record", must.len())),
    }
}

/// Returns the checks with deadlines before `now` that are still pending: the end of a quiet time leaves none, if commits tell
/// the time.
pub fn forgotten(model: &Model, now: Timestamp) -> Vec<&'static str> {
    let now = i64::try_from(now.micros()).unwrap_or(i64::MAX);
    let by_commits = RULES.iter().filter(|(id, _)| *id != BY_EVENTS);
    let is_forgotten =
        |rule: fn(&Model) -> Judged| rule(model).pending.iter().any(|deadline| *deadline < now);
    by_commits.filter(|(_, rule)| is_forgotten(*rule)).map(|(id, _)| *id).collect()
}

/// Returns whether a check's last finding about an activation and a subject is that it is over.
fn is_over(model: &Model, id: &str, activation: u64, subject: &str) -> bool {
    let of_it = on_record(model, id)
        .filter(|(.., finding)| (finding.activation, &*finding.subject) == (activation, subject));
    of_it
        .filter(|(.., finding)| finding.verdict != Verdict::Skewed)
        .last()
        .is_none_or(|(.., finding)| finding.verdict != Verdict::Violated)
}

/// Returns the checks that have open violations of which nobody was told.
pub fn untold(model: &Model) -> Vec<&'static str> {
    let through = delivered(model).unwrap_or(0);
    let is_untold = |id: &str| {
        let last = opened_before(model, id, u64::MAX);
        let is_undelivered = last > through && violated_between(model, id, 0, last).1 > 0;
        violated_between(model, id, last, u64::MAX).1 > 0 || is_undelivered
    };
    RULES.iter().map(|(id, _)| *id).filter(|id| is_untold(id)).collect()
}

/// Returns the checks that were dead, and that nobody has seen alive since.
pub fn stuck(model: &Model) -> BTreeSet<&str> {
    let mut stuck = BTreeSet::new();
    for (.., finding) in on_record(model, FRESHNESS) {
        match finding.verdict {
            Verdict::Violated => stuck.insert(&*finding.subject),
            _ => stuck.remove(&*finding.subject),
        };
    }
    stuck
}
