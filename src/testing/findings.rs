//! What a store puts on record by itself, and what must be on record by then.
//!
//! - What the watcher appends nobody asked for: the model takes it over as it comes, and holds it to the promises. Findings are
//!   numbered without a gap, and an alert is on record once somebody has taken it.
//! - Once checks have seen everything, what is on record is what the rules of `checks` say: nothing less, and nothing twice.

use super::checks::{BY_EVENTS, Finding, Judged, RULES, Verdict, in_their_order};
use super::model::Model;
use super::workload::{Fact, Request};
use crate::alert::Alert;
use crate::error::ReadError;
use crate::event::{EventSet, Raw, Sequenced};
use crate::order::{Position, Timestamp};
use crate::own::{Found, Own};
use crate::query::Query;
use crate::setup::Setup;
use crate::sync::Mutex;
use crate::view::View;
use crate::watch::{CheckStats, Checks, State, TOLD_AT_ONCE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The check of the store's own: that others go on.
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
    /// What it says.
    pub says: Says,
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// Which check found what, and which of its findings that is.
    Found(String, u64, Finding),
    /// Somebody has taken an alert of the findings of a check before this number.
    Alerted(String, u64),
    /// Time has passed.
    Passed,
    /// Somebody has seen to a violation of a check: by activation and subject.
    Acknowledged(String, u64, String),
}

/// Why the model cannot follow.
#[derive(Debug)]
pub enum Odd {
    /// The store cannot be read.
    Store(ReadError),
    /// It says what it must not say.
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

/// Takes alerts, and outlives every process.
#[derive(Debug, Clone, Default)]
pub struct Pager(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    is_down: bool,
    /// How often the checks have begun anew.
    life: u64,
    pages: Vec<Page>,
}

/// An alert that was taken, and is not on record as far as the model knows.
#[derive(Debug, Clone)]
struct Page {
    check: String,
    life: u64,
    count: u64,
    sample: Vec<u64>,
}

impl Pager {
    /// A setup whose alerts come here.
    pub fn hears(&self, setup: Setup) -> Setup {
        let pager = self.clone();
        setup.alerts(move |alert| pager.take(alert))
    }

    /// From now on it takes alerts, or none.
    pub fn set_down(&self, is_down: bool) {
        self.0.lock().is_down = is_down;
    }

    /// The checks begin anew: what was taken and is not on record may come again.
    pub fn next_life(&self) {
        self.0.lock().life += 1;
    }

    fn take(&self, alert: &Alert) -> Result<(), String> {
        let mut told = self.0.lock();
        if told.is_down {
            return Err("nobody is there".to_owned());
        }
        let sample = alert.sample.iter().map(|violation| violation.activation.get()).collect();
        let (check, life, count) = (alert.check.clone(), told.life, alert.count);
        told.pages.push(Page { check, life, count, sample });
        Ok(())
    }

    /// The alerts of a check that have come since the last one that is on record.
    fn since_record(&self, check: &str) -> Vec<Page> {
        let pages = &mut self.0.lock().pages;
        let (of_it, others) = std::mem::take(pages).into_iter().partition(|page| page.check == check);
        *pages = others;
        of_it
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
            Own::Alerted { check, through, .. } => Says::Alerted(check, through),
            Own::Acknowledged(seen) => Says::Acknowledged(seen.check, seen.activation, seen.subject),
            Own::Passed => Says::Passed,
            other => return Err(format!("nobody asked for {other:?}")),
        };
        let (type_name, stream) = (event.type_name().to_owned(), event.stream().to_owned());
        Ok(Self { type_name, stream, data: event.data().to_vec(), says })
    }

    /// What is told in one commit has one kind.
    fn kind(&self) -> Option<bool> {
        match &self.says {
            Says::Found(check, ..) => Some(check == FRESHNESS),
            _ => None,
        }
    }
}

/// What a check has on record: each finding with its position.
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

/// Findings of a check before this number were alerted.
fn alerted(model: &Model, id: &str) -> u64 {
    let own = model.events.iter().rev().filter_map(|event| match &event.fact {
        Fact::Own(noticed) => Some(&noticed.says),
        _ => None,
    });
    let mut through = own.filter_map(|says| match says {
        Says::Alerted(check, through) if check == id => Some(*through),
        _ => None,
    });
    through.next().unwrap_or(0)
}

/// Takes over what the store has put on record since the model looked last: what its last step may have. Returns that.
///
/// # Errors
///
/// What is odd.
pub fn take_over(model: &mut Model, view: &View, pager: &Pager) -> Result<Vec<Says>, Odd> {
    let room = model.limits.append_events_max.min(TOLD_AT_ONCE);
    let mut commits: Vec<(u64, Vec<Noticed>)> = Vec::new();
    let since = Query::all().after(Position::new(model.position()));
    for event in view.query::<Raw>(since) {
        let event = event?;
        let micros = Timestamp::from(event.recorded_at).micros();
        let noticed = Noticed::of(&event).or_else(differs)?;
        match commits.last_mut() {
            // What a step of the watcher finds is one commit if it fits, and its dog's findings are another.
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
        of_commit.iter().try_for_each(|says| hold_alert(model, says, pager))?;
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

/// Findings are numbered from 0, each once.
fn hold_number(model: &Model, says: &Says) -> Result<(), Odd> {
    let Says::Found(id, number, finding) = says else { return Ok(()) };
    let is_gapless = (0..).zip(on_record(model, id)).all(|(must, (_, number, _))| must == number);
    match is_gapless {
        true => Ok(()),
        false => differs(format!("finding {number} of {id} leaves a gap, or is there twice: {finding:?}")),
    }
}

/// An alert is on record if somebody took it, and tells all that is new and not over. One life of the checks tells it once.
fn hold_alert(model: &Model, says: &Says, pager: &Pager) -> Result<(), Odd> {
    let Says::Alerted(id, through) = says else { return Ok(()) };
    let pages = pager.since_record(id);
    if id == FRESHNESS {
        return Ok(());
    }
    let new = alerted(model, id)..*through;
    let violated: Vec<_> = on_record(model, id)
        .filter(|(_, number, finding)| new.contains(number) && finding.verdict == Verdict::Violated)
        .map(|(.., finding)| finding.activation)
        .collect();
    let Some(last) = pages.last() else { return differs(format!("nobody was alerted of {id}")) };
    // What ended before the alert is not in it; when it was sent is not on record.
    let is_open = |activation: &&u64| !is_over(model, id, **activation);
    let open = violated.iter().filter(is_open).count() as u64;
    let is_told = (open..=violated.len() as u64).contains(&last.count)
        && last.sample.iter().all(|activation| violated.contains(activation));
    let times = pages.iter().filter(|page| page.life == last.life).count();
    match is_told && times == 1 {
        true => Ok(()),
        false => differs(format!("{id} before {through}: told {pages:?}, must be {violated:?}")),
    }
}

// ---- once they have seen everything ----

/// Steps in a row after which nothing was left to judge, and in which nothing came.
#[derive(Debug, Default)]
pub struct Rest(u32);

impl Rest {
    /// Whether the checks have come to rest, now that one more step is taken over. `before` it, the model stood there.
    pub fn has_come(&mut self, before: u64, model: &Model, checks: &Checks<'_>) -> bool {
        let has_seen_all = checks.stats().iter().all(CheckStats::is_settled);
        self.0 = if has_seen_all && before == model.position() { self.0 + 1 } else { 0 };
        // What is found is told in the next step, and what is told may raise an alert.
        self.0 == 3
    }
}

/// Whether all that the checks say is what their rules say.
///
/// # Errors
///
/// What is odd.
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

/// Whether each violation is told as it is on record.
fn compare_violations(model: &Model, checks: &Checks<'_>) -> Result<(), Odd> {
    // How each stands: where it is on record, how it began, how it ended, who has seen it.
    type Episode<'m> = (u64, &'m Finding, Option<&'m Finding>, bool);
    let mut must: BTreeMap<(&str, u64, &str), Episode<'_>> = BTreeMap::new();
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
            Says::Alerted(..) | Says::Passed => {}
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
                // By the time of events, what came too late may say that it came before that was known.
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

/// Deadlines that were over by then, and are still pending: the end of a quiet time leaves none where commits tell the time.
pub fn forgotten(model: &Model, now: Timestamp) -> Vec<&'static str> {
    let now = i64::try_from(now.micros()).unwrap_or(i64::MAX);
    let by_commits = RULES.iter().filter(|(id, _)| *id != BY_EVENTS);
    let is_forgotten =
        |rule: fn(&Model) -> Judged| rule(model).pending.iter().any(|deadline| *deadline < now);
    by_commits.filter(|(_, rule)| is_forgotten(*rule)).map(|(id, _)| *id).collect()
}

/// Whether all that a check found of an activation is over. One activation of a check over rows may have several subjects.
fn is_over(model: &Model, id: &str, activation: u64) -> bool {
    let mut open = BTreeSet::new();
    for (.., finding) in on_record(model, id).filter(|(.., finding)| finding.activation == activation) {
        match finding.verdict {
            Verdict::Violated => drop(open.insert(&finding.subject)),
            Verdict::Healed | Verdict::Retracted => drop(open.remove(&finding.subject)),
            Verdict::Skewed => {}
        }
    }
    open.is_empty()
}

/// Checks with violations that are not over, and of which nobody was alerted.
pub fn untold(model: &Model) -> Vec<&'static str> {
    let is_untold = |id: &str| {
        let through = alerted(model, id);
        let mut all = on_record(model, id);
        all.any(|(_, number, finding)| {
            let is_violated = number >= through && finding.verdict == Verdict::Violated;
            is_violated && !is_over(model, id, finding.activation)
        })
    };
    RULES.iter().map(|(id, _)| *id).filter(|id| is_untold(id)).collect()
}

/// Checks that were dead, and that nobody has seen alive since.
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
