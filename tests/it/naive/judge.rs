//! Every activation of a check in a case, and its verdict, straight from the table of templates.

use super::{Def, Event, Mode, Template, Verdict};

/// The activations of `def` in one case, by the place of their event; `None` is the case as a whole.
pub fn case(events: &[&Event], def: &Def, mode: Mode, horizon: i64) -> Vec<(Option<usize>, Verdict)> {
    let case = Case { events, def, mode, horizon };
    if def.template == Template::Absence && def.window.is_some() {
        return case.crowds().into_iter().map(|verdict| (None, verdict)).collect();
    }
    if def.template.of_the_case() {
        return case.as_a_whole().map(|verdict| (None, verdict)).into_iter().collect();
    }
    let mut verdicts = match def.template {
        Template::EachClosedBy => case.each_closed_by(),
        Template::Standing => case.standing(),
        Template::Succession => {
            let mut both = case.of_each_a(Template::Response);
            both.extend(case.of_each_b(Template::Precedence));
            both
        }
        Template::Precedence
        | Template::AlternatePrecedence
        | Template::ChainPrecedence
        | Template::NotPrecedence => case.of_each_b(def.template),
        _ => case.of_each_a(def.template),
    };
    verdicts.sort_by_key(|(at, _)| *at);
    verdicts.into_iter().map(|(at, verdict)| (Some(at), verdict)).collect()
}

struct Case<'a> {
    events: &'a [&'a Event],
    def: &'a Def,
    mode: Mode,
    horizon: i64,
}

/// The roles and the pair.
impl Case<'_> {
    fn is_a(&self, at: usize) -> bool {
        self.def.a.as_ref().is_some_and(|a| a.takes(self.events[at]))
    }

    fn is_b(&self, at: usize) -> bool {
        self.def.b.as_ref().is_some_and(|b| b.takes(self.events[at]))
    }

    fn is_c(&self, at: usize) -> bool {
        self.def.c.as_ref().is_some_and(|c| c.takes(self.events[at]))
    }

    /// The timestamp of one event is in the window of another.
    fn in_window(&self, of: usize, at: usize) -> bool {
        self.holds(self.events[of].ts, self.events[at].ts)
    }

    fn holds(&self, since: i64, ts: i64) -> bool {
        let later = |by| self.def.later(since, by);
        self.def
            .window
            .is_none_or(|window| later(window.lo) <= ts && window.hi.is_none_or(|hi| ts <= later(hi)))
    }

    /// The same, whichever is earlier.
    fn near(&self, one: usize, other: usize) -> bool {
        let (one, other) = (self.events[one].ts, self.events[other].ts);
        self.holds(one.min(other), one.max(other))
    }

    fn correlated(&self, a: usize, b: usize) -> bool {
        self.def.corr.iter().all(|name| self.events[a].attrs.get(name) == self.events[b].attrs.get(name))
    }

    /// The two are an A and a B of one another. Who comes first is for the template to say.
    fn fit(&self, a: usize, b: usize) -> bool {
        self.is_a(a) && self.is_b(b) && self.correlated(a, b) && self.in_window(a, b)
    }
}

/// What an absence means, now and later.
impl Case<'_> {
    /// Nothing that is still to come can be in the window of what happened at `since`.
    fn is_over(&self, since: i64) -> bool {
        let last = self.def.window.and_then(|window| window.hi).map(|hi| self.def.later(since, hi));
        let ended = last.is_some_and(|last| self.horizon > last);
        self.mode == Mode::Closed || ended
    }

    /// What must come has not come.
    fn missing(&self, since: i64) -> Verdict {
        if self.is_over(since) { Verdict::Violated } else { Verdict::Pending }
    }

    /// What must not come has not come.
    fn spared(&self, since: i64) -> Verdict {
        if self.is_over(since) { Verdict::Satisfied } else { Verdict::Pending }
    }
}

/// The templates.
impl Case<'_> {
    fn as_a_whole(&self) -> Option<Verdict> {
        let all = 0..self.events.len();
        let first = self.events[0].ts;
        let count = all.clone().filter(|at| self.is_a(*at) && self.in_window(0, *at)).count();
        let n = self.def.n.unwrap_or_default();
        Some(match self.def.template {
            Template::Existence if count >= n => Verdict::Satisfied,
            Template::Existence => self.missing(first),
            Template::Absence if count >= n => Verdict::Violated,
            Template::Absence => self.spared(first),
            Template::Exactly if count > n => Verdict::Violated,
            Template::Exactly if count == n => self.spared(first),
            Template::Exactly => self.missing(first),
            Template::Init => held(self.is_a(0)),
            Template::End if self.mode == Mode::Open => Verdict::Pending,
            Template::End => held(self.is_a(all.end - 1)),
            Template::NotCoexistence => {
                let (a, b) = (all.clone().any(|at| self.is_a(at)), all.clone().any(|at| self.is_b(at)));
                match (a, b) {
                    (false, false) => return None,
                    (true, true) => Verdict::Violated,
                    _ => self.spared(first),
                }
            }
            other => unreachable!("{other:?} is not of the case"),
        })
    }

    /// Stretches of the window's length with too many A, each of which counts once: as soon as the last of them is told.
    fn crowds(&self) -> Vec<Verdict> {
        let n = self.def.n.expect("well formed");
        let (mut told, mut verdicts) = (Vec::new(), Vec::new());
        for at in (0..self.events.len()).filter(|at| self.is_a(*at)) {
            told.push(at);
            told.sort_by_key(|at| (self.events[*at].ts, *at));
            let crowd = told.windows(n).position(|crowd| self.in_window(crowd[0], crowd[n - 1]));
            if let Some(begin) = crowd {
                told.drain(begin..begin + n);
                verdicts.push(Verdict::Violated);
            }
        }
        match (verdicts.is_empty(), self.mode) {
            (true, Mode::Closed) => vec![Verdict::Satisfied],
            (true, Mode::Open) => vec![Verdict::Pending],
            (false, _) => verdicts,
        }
    }

    /// Templates that ask of each A what comes after it, or anywhere.
    fn of_each_a(&self, template: Template) -> Vec<(usize, Verdict)> {
        let end = self.events.len();
        let judge = |a: usize| {
            let since = self.events[a].ts;
            let followed = |until: usize| (a + 1..until).any(|b| self.fit(a, b));
            let next_a = (a + 1..end).find(|at| self.is_a(*at));
            let next_c = (a + 1..end).find(|at| self.is_c(*at));
            let is_last = a + 1 == end;
            match template {
                Template::RespondedExistence => {
                    let found = (0..end).any(|b| self.is_b(b) && self.correlated(a, b) && self.near(a, b));
                    if found { Verdict::Satisfied } else { self.missing(since) }
                }
                Template::Response if followed(end) => Verdict::Satisfied,
                Template::Response => self.missing(since),
                // The next A may be the B.
                Template::AlternateResponse if followed(next_a.map_or(end, |a| a + 1)) => Verdict::Satisfied,
                Template::AlternateResponse if next_a.is_some() => Verdict::Violated,
                Template::AlternateResponse => self.missing(since),
                Template::ChainResponse if is_last => self.missing(since),
                Template::ChainResponse => held(self.fit(a, a + 1)),
                Template::NotChainResponse if is_last => self.spared(since),
                Template::NotChainResponse => held(!self.fit(a, a + 1)),
                Template::NotResponse if followed(end) => Verdict::Violated,
                Template::NotResponse => self.spared(since),
                // The C that ends the scope is no longer in it, not even as a B.
                Template::AbsentBetween if followed(next_c.unwrap_or(end)) => Verdict::Violated,
                Template::AbsentBetween if next_c.is_some() => Verdict::Satisfied,
                Template::AbsentBetween => self.spared(since),
                other => unreachable!("{other:?} does not ask of each A"),
            }
        };
        (0..end).filter(|at| self.is_a(*at)).map(|at| (at, judge(at))).collect()
    }

    /// Templates that ask of each B what came before it. The answer is there at once.
    fn of_each_b(&self, template: Template) -> Vec<(usize, Verdict)> {
        let judge = |b: usize| {
            let preceded = |from: usize| (from..b).any(|a| self.fit(a, b));
            let previous_b = (0..b).rev().find(|at| self.is_b(*at));
            held(match template {
                Template::Precedence => preceded(0),
                // The previous B may be the A.
                Template::AlternatePrecedence => preceded(previous_b.unwrap_or(0)),
                Template::ChainPrecedence => preceded(b.saturating_sub(1)),
                Template::NotPrecedence => !preceded(0),
                other => unreachable!("{other:?} does not ask of each B"),
            })
        };
        (0..self.events.len()).filter(|at| self.is_b(*at)).map(|at| (at, judge(at))).collect()
    }

    /// Each B closes the oldest A that is open, or is one too many.
    fn each_closed_by(&self) -> Vec<(usize, Verdict)> {
        let (mut open, mut verdicts) = (Vec::new(), Vec::new());
        for at in 0..self.events.len() {
            if self.is_b(at) {
                match open.iter().position(|a| self.correlated(*a, at)) {
                    Some(oldest) => {
                        let a = open.remove(oldest);
                        verdicts.push((a, held(self.in_window(a, at))));
                    }
                    None => verdicts.push((at, Verdict::Violated)),
                }
            }
            if self.is_a(at) {
                open.push(at);
            }
        }
        verdicts.extend(open.into_iter().map(|a| (a, self.missing(self.events[a].ts))));
        verdicts
    }

    /// Each stretch from an A to the next B, which may not last longer than it is given.
    fn standing(&self) -> Vec<(usize, Verdict)> {
        let lasting = self.def.lasting.expect("well formed");
        let limit = |begin: usize| self.def.later(self.events[begin].ts, lasting);
        let (mut began, mut verdicts) = (None, Vec::new());
        for at in 0..self.events.len() {
            if self.is_b(at)
                && let Some(begin) = began.take()
            {
                verdicts.push((begin, held(self.events[at].ts <= limit(begin))));
            }
            if self.is_a(at) && began.is_none() {
                began = Some(at);
            }
        }
        if let Some(begin) = began {
            let verdict = match self.mode {
                _ if self.horizon > limit(begin) => Verdict::Violated,
                Mode::Open => Verdict::Pending,
                Mode::Closed => Verdict::Satisfied,
            };
            verdicts.push((begin, verdict));
        }
        verdicts
    }
}

fn held(holds: bool) -> Verdict {
    if holds { Verdict::Satisfied } else { Verdict::Violated }
}
