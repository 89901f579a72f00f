//! Checks over the workload, and the expected findings of each, told from the whole log by a naive rule for each check.
//!
//! - A rule looks at each activation by itself, over the whole log, and shares no code with `check`.
//! - If commits tell the time, a deadline is over with the first commit that is later.

use super::model::Model;
use super::workload::{ACCOUNTS, Balances, Booking, Counted, Fact, Money, Note, SHOWS};
use crate::check::{About, Severity};
use crate::projection::{Folded, Projection, Rows};
use crate::setup::Setup;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, UNIX_EPOCH};

/// One second, in microseconds.
const SECOND: i64 = 1_000_000;
/// Longest time limit of these checks.
pub const LONGEST: Duration = Duration::from_secs(20);
/// Holder whose reservation excuses everyone who sits in the show.
const HOST: u32 = 3;
/// Start of the time that notes state: before any commit, unless the clock is set back.
const NOTES_BEGIN: i64 = 1_779_999_000 * SECOND;

/// Expected results of each check, by name.
pub const RULES: [(&str, fn(&Model) -> Judged); 9] = [
    ("freed", freed),
    ("not-topped-up", not_topped_up),
    ("sat-too-long", sat_too_long),
    ("covered", covered),
    ("bracketed", bracketed),
    ("opened-first", opened_first),
    ("not-crowded", not_crowded),
    (BY_EVENTS, answered),
    ("answered-live", answered_live),
];

/// Name of the check that goes by the time of events alone.
pub const BY_EVENTS: &str = "answered";

// ---- as they are declared ----

/// The seats that are taken in each show.
#[derive(Debug)]
pub struct Taken;

impl Projection for Taken {
    const NAME: &'static str = "taken";
    type Event = Booking;
    type Key = u32;
    type Row = Vec<u32>;

    fn fold(event: &Booking, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Booking::Reserved { show, seat, .. } => rows.update(*show, |seats| seats.push(*seat)),
            Booking::Freed { show, seat } => match rows.get(show)? {
                Some(mut seats) if seats.contains(seat) => {
                    seats.retain(|taken| taken != seat);
                    rows.put(*show, seats)
                }
                _ => Ok(()),
            },
        }
    }
}

/// Returns a setup with the checks of this file.
pub fn checked(setup: Setup) -> Setup {
    let about = |id| About {
        id,
        severity: Severity::Ticket,
        owner: "the simulation",
        means: "Something is not as it must be.",
        remedy: "1 look for it",
    };
    let seconds = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
    let reserved = |event: &Booking| matches!(event, Booking::Reserved { .. });
    let freed = |event: &Booking| matches!(event, Booking::Freed { .. });
    let place = |event: &Booking| match event {
        Booking::Reserved { show, seat, .. } | Booking::Freed { show, seat } => (*show, *seat),
    };
    let number = |event: &Note| {
        let Note::Taken { number, .. } = event;
        *number
    };
    let whose = |event: &Counted| match event {
        Counted::Money(
            Money::Opened { account, .. } | Money::Took { account, .. } | Money::Got { account, .. },
        ) => *account,
        Counted::Booking(Booking::Reserved { who, .. }) => *who,
        Counted::Booking(Booking::Freed { show, .. }) => *show,
    };
    let said = |event: &Note| {
        let Note::Taken { number, pad } = event;
        Some(UNIX_EPOCH + Duration::from_micros(said(*number, pad.len()).unsigned_abs()))
    };
    let in_show = about("freed").response(reserved, freed).tied(move |event| place(event).1);
    let spent = |event: &Money| matches!(event, Money::Took { cents, .. } if *cents >= BIG);
    let topped_up = |event: &Money| matches!(event, Money::Opened { .. });
    let opened = |event: &Counted| matches!(event, Counted::Money(Money::Opened { .. }));
    let sits = |event: &Counted| matches!(event, Counted::Booking(Booking::Reserved { .. }));
    let brackets = about("bracketed")
        .each_closed_by(move |event| number(event) % 3 == 0, move |event| number(event) % 3 == 1)
        .closed_by(move |event| number(event) % 3 == 2);
    let by_events = |id| {
        about(id)
            .response(move |event| number(event) % 4 == 0, move |event| number(event) % 4 == 1)
            .by(move |event| number(event) / 4 % 2)
            .at(said, seconds(LATENESS / SECOND))
    };
    let answered = by_events(BY_EVENTS).imported().within(seconds(ANSWER / SECOND));
    let live = by_events("answered-live").skew(seconds(SKEW / SECOND)).within(seconds(ANSWER / SECOND));
    setup
        .check(
            in_show
                .until(|event: &Booking| matches!(event, Booking::Reserved { who: HOST, .. }))
                .within(seconds(FREED / SECOND)),
        )
        .check(about("not-topped-up").not_response(spent, topped_up).within(seconds(ALONE / SECOND)))
        .check(about("sat-too-long").switched_off(reserved, freed, seconds(SITTING / SECOND)).by(place))
        .check(
            about("covered")
                .standing::<(Balances, Taken)>(|_, (balance, taken)| is_uncovered(balance.copied(), taken))
                .for_longer_than(seconds(UNCOVERED / SECOND)),
        )
        .check(brackets)
        .check(about("opened-first").precedence(opened, sits).by(whose).within(LONGEST))
        .check(
            about("not-crowded").absence(CROWD, reserved).closed_by(freed).within(seconds(CROWDED / SECOND)),
        )
        .check(answered)
        .check(live)
}

const FREED: i64 = 8 * SECOND;
const ALONE: i64 = 5 * SECOND;
const BIG: i64 = 100;
const SITTING: i64 = 6 * SECOND;
const UNCOVERED: i64 = 4 * SECOND;
const CROWD: u32 = 3;
const CROWDED: i64 = 10 * SECOND;
const LATENESS: i64 = 3 * SECOND;
const ANSWER: i64 = 5 * SECOND;
/// Skew of the live check: large enough that both commits and notes move its time. The other has the default, `USUAL_SKEW`.
const SKEW: i64 = 990 * SECOND;
const USUAL_SKEW: i64 = 300 * SECOND;

/// Returns whether a show with two or more seats taken lacks money on the account of its number.
fn is_uncovered(balance: Option<i64>, taken: Option<&Vec<u32>>) -> bool {
    taken.is_some_and(|seats| seats.len() >= 2) && balance.is_none_or(|cents| cents < 400)
}

/// Returns the time that a note states: the longer the note, the longer it was under way.
fn said(number: u64, bytes: usize) -> i64 {
    NOTES_BEGIN + number as i64 * 7 * SECOND / 10 - (bytes % 8) as i64 * SECOND
}

// ---- what they must find ----

/// Outcome of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The check is violated.
    Violated,
    /// The missing answer came too late.
    Healed,
    /// The missing answer had been there in time.
    Retracted,
    /// The time of the event is too far ahead.
    Skewed,
}

/// A finding that must be on record for an activation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Time of the decision, in the check's own time.
    pub decided: i64,
    /// Position of the activation.
    pub activation: u64,
    /// Position of the event that decided it; 0 if time decided it.
    pub by: u64,
    /// Outcome.
    pub verdict: Verdict,
    /// Subject, if no event names it.
    pub subject: String,
    /// State of the rows at the violation.
    pub disagrees: String,
}

/// Commit, place in it, and rank among the findings of that place.
type FindingOrder = (u64, u64, u8);

/// Expected results of a check.
#[derive(Debug, Default)]
pub struct Judged {
    found: Vec<(FindingOrder, Finding)>,
    /// Findings in order; those of one moment are in the order of their activations.
    pub findings: Vec<Finding>,
    /// Number of activations to be judged.
    pub activations: u64,
    /// Number of activations that are satisfied.
    pub satisfied: u64,
    /// Number of activations that are violated, without retracted ones.
    pub violated: u64,
    /// Number of violations that were answered too late.
    pub healed: u64,
    /// Number of violations that were retracted.
    pub retracted: u64,
    /// Deadlines of undecided activations; `i64::MAX` if only an event decides.
    pub pending: Vec<i64>,
}

/// An event with its position, commit and time.
#[derive(Clone, Copy)]
struct TimedFact<'m> {
    fact: &'m Fact,
    position: u64,
    commit: u64,
    time: i64,
}

fn lines(model: &Model, is: impl Fn(&Fact) -> bool) -> Vec<TimedFact<'_>> {
    let all = (1..).zip(&model.events).filter(|(_, event)| is(&event.fact));
    all.map(|(position, event)| TimedFact {
        fact: &event.fact,
        position,
        commit: event.commit,
        time: event.micros as i64,
    })
    .collect()
}

/// Returns the first commit that is later than a deadline.
fn over(model: &Model, deadline: i64) -> Option<u64> {
    let before = model.commits.partition_point(|commit| commit.micros as i64 <= deadline) as u64;
    (before < model.commit()).then_some(before + 1)
}

impl Judged {
    fn find(
        &mut self,
        moment: FindingOrder,
        verdict: Verdict,
        activation: u64,
        by: u64,
        decided: i64,
    ) -> &mut Finding {
        match verdict {
            Verdict::Violated => self.violated += 1,
            Verdict::Healed => self.healed += 1,
            Verdict::Skewed => {}
            Verdict::Retracted => {
                (self.retracted, self.violated, self.satisfied) =
                    (self.retracted + 1, self.violated - 1, self.satisfied + 1);
            }
        }
        let (subject, disagrees) = (String::new(), String::new());
        self.found.push((moment, Finding { decided, activation, by, verdict, subject, disagrees }));
        &mut self.found.last_mut().expect("it was just put there").1
    }

    /// Records a violation by an event, decided at once.
    fn violated_by(&mut self, activation: u64, by: TimedFact<'_>) {
        let moment = (by.commit, by.position, 2);
        self.find(moment, Verdict::Violated, activation, by.position, by.time);
    }

    /// Records an activation that waits for its end: an answer, or the end of its scope.
    fn waits(&mut self, model: &Model, activation: u64, deadline: i64, end: Option<(TimedFact<'_>, bool)>) {
        self.activations += 1;
        match (over(model, deadline), end) {
            (None, None) => self.pending.push(deadline),
            (None, Some(_)) => self.satisfied += 1,
            (Some(over), Some((end, _))) if end.commit < over => self.satisfied += 1,
            (Some(over), end) => {
                self.find((over, 0, 0), Verdict::Violated, activation, 0, deadline + 1);
                if let Some((end, true)) = end {
                    let moment = (end.commit, end.position, 2);
                    self.find(moment, Verdict::Healed, activation, end.position, end.time);
                }
            }
        }
    }

    fn in_order(mut self) -> Self {
        self.found.sort();
        self.findings = self.found.drain(..).map(|(_, finding)| finding).collect();
        in_their_order(&mut self.findings);
        self
    }
}

/// Sorts the findings of each moment: a check decides them in the order of hashes.
pub fn in_their_order(findings: &mut [Finding]) {
    let moment = |finding: &Finding| (finding.by, if finding.by == 0 { finding.decided } else { 0 });
    findings.chunk_by_mut(|a, b| moment(a) == moment(b)).for_each(<[Finding]>::sort);
}

fn is_booking(fact: &Fact) -> bool {
    matches!(fact, Fact::Reserved(..) | Fact::Freed(..))
}

fn show_of(fact: &Fact) -> u32 {
    let (Fact::Reserved(show, ..) | Fact::Freed(show, _)) = fact else { unreachable!("it is a booking") };
    *show
}

/// A seat that is taken is free again in time, unless the host comes.
fn freed(model: &Model) -> Judged {
    let (lines, mut judged) = (lines(model, is_booking), Judged::default());
    for (index, taken) in lines.iter().enumerate() {
        let Fact::Reserved(show, seat, _) = *taken.fact else { continue };
        let mut later = lines[index + 1..].iter().filter(|line| show_of(line.fact) == show);
        let end = later.find_map(|line| match *line.fact {
            Fact::Reserved(_, _, HOST) => Some((*line, false)),
            Fact::Freed(_, freed) if freed == seat => Some((*line, true)),
            _ => None,
        });
        judged.waits(model, taken.position, taken.time + FREED, end);
    }
    judged.in_order()
}

/// Nobody sits for too long, host or not.
fn sat_too_long(model: &Model) -> Judged {
    let (lines, mut judged) = (lines(model, is_booking), Judged::default());
    for (index, taken) in lines.iter().enumerate() {
        let Fact::Reserved(show, seat, _) = *taken.fact else { continue };
        let end = lines[index + 1..].iter().find(|line| *line.fact == Fact::Freed(show, seat));
        judged.waits(model, taken.position, taken.time + SITTING, end.map(|line| (*line, true)));
    }
    judged.in_order()
}

/// After much is spent, no money comes in for a while.
fn not_topped_up(model: &Model) -> Judged {
    let is = |fact: &Fact| matches!(fact, Fact::Took(..) | Fact::Opened(..));
    let (lines, mut judged) = (lines(model, is), Judged::default());
    for (index, spent) in lines.iter().enumerate() {
        let Fact::Took(account, BIG.., _) = *spent.fact else { continue };
        judged.activations += 1;
        let mut later = lines[index + 1..].iter();
        let came = later.find(|line| matches!(*line.fact, Fact::Opened(other, _) if other == account));
        let deadline = spent.time + ALONE;
        match came.filter(|came| came.time <= deadline) {
            Some(came) => judged.violated_by(spent.position, *came),
            None if over(model, deadline).is_some() => judged.satisfied += 1,
            None => judged.pending.push(deadline),
        }
    }
    judged.in_order()
}

/// A show with company has money on the account of its number: judged key by key and commit by commit.
fn covered(model: &Model) -> Judged {
    let mut judged = Judged::default();
    for key in 0..ACCOUNTS as u32 {
        let (mut balance, mut taken): (Option<i64>, Option<Vec<u32>>) = (None, None);
        // Activation and time since which the key is uncovered, and true once that is a violation.
        let mut wrong: Option<(u64, i64, bool)> = None;
        for (commit, kept) in (1..).zip(&model.commits) {
            let time = kept.micros as i64;
            if let Some((activation, since, is_late @ false)) = &mut wrong
                && time > *since + UNCOVERED
            {
                let decided = *since + UNCOVERED + 1;
                let found = judged.find((commit, 0, 0), Verdict::Violated, *activation, 0, decided);
                let cents = balance.map_or("no row".to_owned(), |cents| cents.to_string());
                found.subject = key.to_string();
                found.disagrees =
                    format!("balances has {cents}, taken has {:?}", taken.clone().unwrap_or_default());
                *is_late = true;
            }
            let mut changed = None;
            for position in kept.first..=kept.last {
                let is_changed = match model.event(position).fact {
                    Fact::Opened(account, cents) | Fact::Got(account, cents, _) if account == key => {
                        balance = Some(balance.unwrap_or(0) + cents);
                        true
                    }
                    Fact::Took(account, cents, _) if account == key => {
                        balance = Some(balance.unwrap_or(0) - cents);
                        true
                    }
                    Fact::Reserved(show, seat, _) if show == key => {
                        taken.get_or_insert_default().push(seat);
                        true
                    }
                    Fact::Freed(show, seat) if show == key => {
                        let before = taken.as_ref().map_or(0, Vec::len);
                        taken.iter_mut().for_each(|seats| seats.retain(|taken| *taken != seat));
                        taken.as_ref().map_or(0, Vec::len) < before
                    }
                    _ => false,
                };
                changed = is_changed.then_some(position).or(changed);
            }
            let Some(position) = changed else { continue };
            wrong = match (is_uncovered(balance, taken.as_ref()), wrong) {
                (true, None) => {
                    judged.activations += 1;
                    Some((position, time, false))
                }
                (false, Some((activation, _, true))) => {
                    let moment = (commit, 1 + u64::from(key), 2);
                    let found = judged.find(moment, Verdict::Healed, activation, position, time);
                    found.subject = key.to_string();
                    None
                }
                (false, Some(_)) => {
                    judged.satisfied += 1;
                    None
                }
                (_, wrong) => wrong,
            };
        }
        let pending = wrong.filter(|(_, _, is_late)| !is_late);
        judged.pending.extend(pending.map(|(_, since, _)| since + UNCOVERED));
    }
    judged.in_order()
}

/// Returns the number of a note and its length.
fn note_of(fact: &Fact) -> Option<(u64, usize)> {
    match fact {
        Fact::Note(number, bytes) => Some((*number, *bytes)),
        Fact::Told(number, bytes) => Some((*number, bytes.len())),
        _ => None,
    }
}

/// Notes open and close brackets, and close them all.
fn bracketed(model: &Model) -> Judged {
    let mut judged = Judged::default();
    let mut open: BTreeMap<u64, VecDeque<u64>> = BTreeMap::new();
    for line in lines(model, |fact| note_of(fact).is_some()) {
        let number = note_of(line.fact).expect("it is a note").0;
        let open = open.entry(number % 8).or_default();
        match number % 3 {
            0 => {
                judged.activations += 1;
                open.push_back(line.position);
            }
            1 if open.pop_front().is_some() => judged.satisfied += 1,
            1 => {
                judged.activations += 1;
                judged.violated_by(line.position, line);
            }
            _ => open.drain(..).for_each(|activation| judged.violated_by(activation, line)),
        }
    }
    judged.pending = vec![i64::MAX; open.values().map(VecDeque::len).sum()];
    judged.in_order()
}

/// Everyone who sits has opened an account of that number, at most [`LONGEST`] earlier.
fn opened_first(model: &Model) -> Judged {
    let is = |fact: &Fact| matches!(fact, Fact::Opened(..) | Fact::Reserved(..));
    let (lines, mut judged) = (lines(model, is), Judged::default());
    for (index, sits) in lines.iter().enumerate() {
        let Fact::Reserved(_, _, who) = *sits.fact else { continue };
        judged.activations += 1;
        let since = sits.time - LONGEST.as_micros() as i64;
        let is_it = |line: &TimedFact<'_>| matches!(*line.fact, Fact::Opened(account, _) if account == who);
        match lines[..index].iter().any(|line| line.time >= since && is_it(line)) {
            true => judged.satisfied += 1,
            false => judged.violated_by(sits.position, *sits),
        }
    }
    judged.in_order()
}

/// Fewer than `CROWD` seats are taken in any stretch of `CROWDED` before one is freed. Each counts once.
fn not_crowded(model: &Model) -> Judged {
    let (lines, mut judged) = (lines(model, is_booking), Judged::default());
    for show in 0..SHOWS as u32 {
        let of_show: Vec<_> = lines.iter().filter(|line| show_of(line.fact) == show).collect();
        let is_over = |line: &&TimedFact<'_>| matches!(line.fact, Fact::Freed(..));
        let mut epochs = of_show.split(is_over).peekable();
        while let Some(epoch) = epochs.next() {
            if epoch.is_empty() {
                continue;
            }
            let (mut first, mut found) = (0, 0);
            for (index, last) in epoch.iter().enumerate() {
                let Some(begin) = (index + 1).checked_sub(CROWD as usize).filter(|begin| *begin >= first)
                else {
                    continue;
                };
                if last.time - epoch[begin].time <= CROWDED {
                    judged.violated_by(epoch[begin].position, **last);
                    (first, found) = (index + 1, found + 1);
                }
            }
            judged.activations += found.max(1);
            match found {
                0 if epochs.peek().is_some() => judged.satisfied += 1,
                0 => judged.pending.push(i64::MAX),
                _ => {}
            }
        }
    }
    judged.in_order()
}

/// Notes answer notes, by the time that they say themselves.
fn answered(model: &Model) -> Judged {
    answers(model, USUAL_SKEW, false)
}

/// The same as [`answered`], but the time of commits moves the watermark too.
fn answered_live(model: &Model) -> Judged {
    let mut judged = answers(model, SKEW, true);
    judged.pending.iter_mut().for_each(|deadline| *deadline += LATENESS + SKEW);
    judged
}

fn answers(model: &Model, skew: i64, is_live: bool) -> Judged {
    let mut judged = Judged::default();
    // Moments at which the watermark moved, each with its new value.
    let (mut moves, mut complete): (Vec<(FindingOrder, i64)>, i64) = (Vec::new(), i64::MIN);
    let mut notes = Vec::new();
    for (commit, kept) in (1..).zip(&model.commits) {
        let time = kept.micros as i64;
        if is_live {
            complete = complete.max(time - skew - LATENESS);
            moves.push(((commit, 0, 0), complete));
        }
        for position in kept.first..=kept.last {
            let fact = &model.event(position).fact;
            let Some((number, bytes)) = note_of(fact) else { continue };
            let said = said(number, bytes);
            if said <= time + skew {
                complete = complete.max(said - LATENESS);
                moves.push(((commit, position, 0), complete));
            } else if number % 4 < 2 {
                judged.find((commit, position, 0), Verdict::Skewed, position, position, time);
            }
            notes.push((TimedFact { fact, position, commit, time }, number, said, complete));
        }
    }
    for (index, (asks, number, asked, complete)) in notes.iter().enumerate() {
        if number % 4 != 0 {
            continue;
        }
        judged.activations += 1;
        let (activation, deadline) = (asks.position, asked + ANSWER);
        let over = match moves.get(moves.partition_point(|(_, complete)| *complete <= deadline)) {
            None => None,
            // The note came after its own deadline: nothing is left to wait for.
            Some((moment, _)) if *moment <= (asks.commit, asks.position, 0) => {
                Some(((asks.commit, asks.position, 1), *complete))
            }
            Some((moment, _)) => Some((*moment, deadline + 1)),
        };
        let is_over =
            |line: &TimedFact<'_>| over.is_some_and(|(moment, _)| moment <= (line.commit, line.position, 1));
        let end = notes[index + 1..].iter().find_map(|(line, other, said, _)| {
            let is_it = other % 4 == 1 && other / 4 % 2 == number / 4 % 2;
            let in_time = (*asked..=deadline).contains(said);
            (is_it && (in_time || is_over(line) && *said > deadline)).then_some((*line, *said, in_time))
        });
        match (over, end) {
            (_, Some((line, ..))) if !is_over(&line) => judged.satisfied += 1,
            (None, _) => judged.pending.push(deadline),
            (Some((moment, decided)), end) => {
                judged.find(moment, Verdict::Violated, activation, 0, decided);
                if let Some((line, said, in_time)) = end {
                    let verdict = if in_time { Verdict::Retracted } else { Verdict::Healed };
                    judged.find((line.commit, line.position, 2), verdict, activation, line.position, said);
                }
            }
        }
    }
    judged.in_order()
}
