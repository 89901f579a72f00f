//! One step of one key: an event, a time that has passed, or the key's end.

use super::state::{BORN, JUDGED, LAST_IS_A, LATE, Mark, SEEN_A, SEEN_B, State};
use super::word::{Amount, Finding, Outcome, Roles, Rule, Seen, Time, Verdict, Word};

impl Seen {
    fn mark(&self, tie: u64) -> Mark {
        Mark { position: self.position, time: self.time, tie }
    }

    fn is(&self, role: Roles) -> bool {
        self.roles.has(role)
    }
}

impl Rule {
    /// Judges all that the event decides, and remembers what later events need. `now` is the watermark.
    pub fn observe(&self, state: &mut State, seen: &Seen, now: Time, out: &mut Outcome) {
        // An event that only closes a key is not part of its sequence: it must not begin the key, nor count as a neighbour.
        if seen.roles == Roles::CLOSE && seen.amount == Amount::default() {
            return self.close(state, seen.position, seen.time, out);
        }
        self.begin(state, seen, out);
        if seen.is(Roles::C) {
            self.end_scope(state, out);
        }
        match self.word {
            Word::Absence if self.slides() => self.count_in_windows(state, seen, now, out),
            Word::Existence | Word::Absence | Word::Exactly => self.count(state, seen, out),
            Word::Init => {}
            Word::End => {
                state.flags = state.flags & !LAST_IS_A | if seen.is(Roles::A) { LAST_IS_A } else { 0 }
            }
            Word::NotCoexistence => self.coexist(state, seen, out),
            Word::RespondedExistence => self.respond_either_way(state, seen, now, out),
            Word::Response => self.respond(state, seen, out),
            Word::Precedence | Word::NotPrecedence => self.look_back(state, seen, now, out),
            Word::Succession => {
                self.look_back(state, seen, now, out);
                self.respond(state, seen, out);
            }
            Word::AlternateResponse => self.alternate(state, seen, out),
            Word::AlternatePrecedence => {
                self.look_back(state, seen, now, out);
            }
            Word::ChainResponse | Word::NotChainResponse => self.chain(state, seen, out),
            Word::ChainPrecedence => self.chain_back(state, seen, out),
            Word::NotResponse | Word::AbsentBetween => self.stay_away(state, seen, out),
            Word::EachClosedBy => self.match_brackets(state, seen, out),
            Word::Standing => self.stand(state, seen, out),
            Word::Balances => self.balance(state, seen, out),
            Word::Equals => self.add_up(state, seen, now, out),
        }
        if seen.is(Roles::CLOSE) {
            self.close(state, seen.position, seen.time, out);
        }
    }

    /// Judges all that only time decides, now that the watermark is `now`.
    pub fn expire(&self, state: &mut State, now: Time, out: &mut Outcome) {
        if self.word.is_of_key() {
            return self.expire_key(state, now, out);
        }
        if self.word == Word::Equals {
            return self.compare_before(state, now, now, out);
        }
        for mark in std::mem::take(&mut state.open) {
            match self.deadline(mark.time).is_some_and(|deadline| deadline < now) {
                false => state.open.push(mark),
                true if self.word.forbids() => out.counts.satisfied += 1,
                true => {
                    self.violated(state, mark.position, 0, now, out);
                    state.broken.push(mark);
                }
            }
        }
        self.forget_past(state, now);
        if self.last_is_enough() {
            // `remember` sets no deadline for a mark that replaces another: set the next one here.
            out.deadlines.extend(state.past.iter().filter_map(|mark| self.deadline(mark.time)).min());
        }
    }

    /// Ends the key: judges all that is open, and keeps nothing of it.
    pub fn close(&self, state: &mut State, by: u64, now: Time, out: &mut Outcome) {
        if self.word.is_of_key() && state.has(BORN) && !state.has(JUDGED) {
            let violated = match self.word {
                Word::Existence => true,
                Word::Exactly => state.count != u64::from(self.n),
                Word::End => !state.has(LAST_IS_A),
                _ => false,
            };
            self.judge_key(state, violated, by, now, out);
        }
        if self.word == Word::Equals {
            self.compare_before(state, Time::MAX, now, out);
        }
        for mark in std::mem::take(&mut state.open) {
            // A state that is still on when its key ends is satisfied if it did not last too long.
            let stood = self.word == Word::Standing && !self.is_late(mark.time, now);
            match self.word.forbids() || stood {
                true => out.counts.satisfied += 1,
                false => self.violated(state, mark.position, by, now, out),
            }
        }
        state.clear();
    }

    /// Returns whether `later` is in the window of an event at `time`.
    fn holds(&self, time: Time, later: Time) -> bool {
        self.window.as_ref().is_none_or(|window| window.holds(time, later))
    }

    /// Returns the last moment at which an activation of this time may still be answered.
    pub(super) fn deadline(&self, time: Time) -> Option<Time> {
        self.window.as_ref()?.end(time)
    }

    pub(super) fn violated(
        &self,
        state: &mut State,
        activation: u64,
        by: u64,
        decided: Time,
        out: &mut Outcome,
    ) {
        out.counts.violated += 1;
        if state.violations == 0 {
            out.counts.keys_violated += 1;
        }
        state.violations += 1;
        let amounts = (self.word == Word::Balances).then_some((state.sum(), 0));
        out.findings.push(Finding { verdict: Verdict::Violated, activation, by, decided, amounts });
    }

    /// Records that a violation is answered after all: the answer came late, or came in time and was recorded late.
    fn answered_late(&self, state: &mut State, broken: Mark, seen: &Seen, in_time: bool, out: &mut Outcome) {
        let verdict = if in_time { Verdict::Retracted } else { Verdict::Healed };
        if in_time {
            out.counts.retracted += 1;
            out.counts.violated -= 1;
            out.counts.satisfied += 1;
            state.violations = state.violations.saturating_sub(1);
            if state.violations == 0 {
                out.counts.keys_violated -= 1;
            }
        } else {
            out.counts.healed += 1;
        }
        let (activation, by) = (broken.position, seen.position);
        out.findings.push(Finding { verdict, activation, by, decided: seen.time, amounts: None });
    }

    fn open(&self, state: &mut State, mark: Mark, out: &mut Outcome) {
        out.counts.activations += 1;
        out.deadlines.extend(self.deadline(mark.time));
        state.open.push(mark);
    }

    // ---- once for each key ----

    fn begin(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        let begins = match self.word {
            Word::NotCoexistence => seen.is(Roles::A) || seen.is(Roles::B),
            word => word.is_of_key(),
        };
        if !begins || state.has(BORN) {
            return;
        }
        state.flags |= BORN;
        state.first = seen.mark(0);
        out.counts.activations += 1;
        if self.word == Word::Init {
            self.judge_key(state, !seen.is(Roles::A), seen.position, seen.time, out);
        }
        if self.word.counts() && !self.slides() {
            out.deadlines.extend(self.deadline(seen.time));
        }
    }

    fn judge_key(&self, state: &mut State, violated: bool, by: u64, now: Time, out: &mut Outcome) {
        state.flags |= JUDGED;
        match violated {
            true => self.violated(state, state.first.position, by, now, out),
            false => out.counts.satisfied += 1,
        }
    }

    fn count(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        if !seen.is(Roles::A) {
            return;
        }
        let in_window = self.holds(state.first.time, seen.time);
        let n = u64::from(self.n);
        if state.has(JUDGED) {
            if self.word == Word::Existence && state.has(LATE) {
                state.count += 1;
                if state.count >= n {
                    state.flags &= !LATE;
                    self.answered_late(state, state.first, seen, in_window, out);
                }
            }
            return;
        }
        if !in_window {
            return;
        }
        state.count += 1;
        match self.word {
            Word::Existence if state.count == n => {
                state.flags |= JUDGED;
                out.answered(state.first.time, seen.time);
            }
            Word::Absence if state.count == n => self.judge_key(state, true, seen.position, seen.time, out),
            Word::Exactly if state.count > n => self.judge_key(state, true, seen.position, seen.time, out),
            _ => {}
        }
    }

    /// Finds `n` A in one stretch of the window's length. Each counts in one finding only.
    fn count_in_windows(&self, state: &mut State, seen: &Seen, now: Time, out: &mut Outcome) {
        if !seen.is(Roles::A) {
            return;
        }
        state.past.retain(|mark| self.deadline(mark.time).is_none_or(|deadline| deadline >= now));
        // Keep the marks sorted by time: an event that is recorded late may complete a stretch that ends after it.
        let at = state.past.partition_point(|mark| mark.time <= seen.time);
        state.past.insert(at, seen.mark(0));
        let n = self.n as usize;
        let starts = (at + 1).saturating_sub(n)..=at;
        let crowded = |start: &usize| {
            let last = state.past.get(start + n - 1);
            last.is_some_and(|last| self.holds(state.past[*start].time, last.time))
        };
        let Some(start) = starts.into_iter().find(crowded) else { return };
        let activation = state.past[start].position;
        state.past.drain(start..start + n);
        if state.has(JUDGED) {
            out.counts.activations += 1;
        }
        state.flags |= JUDGED;
        self.violated(state, activation, seen.position, seen.time, out);
    }

    fn expire_key(&self, state: &mut State, now: Time, out: &mut Outcome) {
        let over = self.deadline(state.first.time).is_some_and(|deadline| deadline < now);
        if !self.word.counts() || self.slides() || !over || !state.has(BORN) || state.has(JUDGED) {
            return;
        }
        let violated = match self.word {
            Word::Existence => true,
            Word::Exactly => state.count != u64::from(self.n),
            _ => false,
        };
        state.flags |= LATE;
        self.judge_key(state, violated, 0, now, out);
    }

    fn coexist(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        let sees = if seen.is(Roles::A) { SEEN_A } else { 0 } | if seen.is(Roles::B) { SEEN_B } else { 0 };
        state.flags |= sees;
        if state.has(SEEN_A) && state.has(SEEN_B) && !state.has(JUDGED) {
            self.judge_key(state, true, seen.position, seen.time, out);
        }
    }

    // ---- an A waits for a B ----

    fn end_scope(&self, state: &mut State, out: &mut Outcome) {
        out.counts.satisfied += state.open.len() as u64;
        state.open.clear();
        state.broken.clear();
    }

    fn respond(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        if seen.is(Roles::B) {
            self.answer(state, seen, |time| self.holds(time, seen.time), out);
        }
        if seen.is(Roles::A) {
            self.open(state, seen.mark(seen.tie_a), out);
        }
    }

    /// Answers every open A that this B matches.
    fn answer(&self, state: &mut State, seen: &Seen, holds: impl Fn(Time) -> bool, out: &mut Outcome) {
        state.open.retain(|mark| {
            let answers = mark.tie == seen.tie_b && holds(mark.time);
            if answers {
                out.answered(mark.time, seen.time);
            }
            !answers
        });
        if state.broken.is_empty() {
            return;
        }
        for mark in std::mem::take(&mut state.broken) {
            let holds = holds(mark.time);
            match mark.tie == seen.tie_b && (holds || self.is_late(mark.time, seen.time)) {
                true => self.answered_late(state, mark, seen, holds, out),
                false => state.broken.push(mark),
            }
        }
    }

    /// Returns whether `later` is after the window of an event at `time`.
    fn is_late(&self, time: Time, later: Time) -> bool {
        self.deadline(time).is_some_and(|deadline| later > deadline)
    }

    fn respond_either_way(&self, state: &mut State, seen: &Seen, now: Time, out: &mut Outcome) {
        let holds = |time: Time| self.holds(time.min(seen.time), time.max(seen.time));
        if seen.is(Roles::B) {
            self.answer(state, seen, holds, out);
            self.remember(state, seen.mark(seen.tie_b), now, out);
        }
        if seen.is(Roles::A) {
            let tied = state.past.iter().filter(|mark| mark.tie == seen.tie_a && holds(mark.time));
            match tied.min_by_key(|mark| mark.time.abs_diff(seen.time)) {
                Some(nearest) => {
                    out.counts.activations += 1;
                    out.answered(nearest.time, seen.time);
                }
                None => self.open(state, seen.mark(seen.tie_a), out),
            }
        }
    }

    fn alternate(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        if seen.is(Roles::B) {
            self.answer(state, seen, |time| self.holds(time, seen.time), out);
        }
        if seen.is(Roles::A) {
            state.broken.clear();
            for mark in std::mem::take(&mut state.open) {
                self.violated(state, mark.position, seen.position, seen.time, out);
            }
            self.open(state, seen.mark(seen.tie_a), out);
        }
    }

    fn chain(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        let is_target =
            |mark: &Mark| seen.is(Roles::B) && mark.tie == seen.tie_b && self.holds(mark.time, seen.time);
        let wanted = self.word == Word::ChainResponse;
        for mark in std::mem::take(&mut state.open) {
            match is_target(&mark) == wanted {
                true => out.answered(mark.time, seen.time),
                false => self.violated(state, mark.position, seen.position, seen.time, out),
            }
        }
        for mark in std::mem::take(&mut state.broken) {
            if seen.is(Roles::B) && mark.tie == seen.tie_b {
                self.answered_late(state, mark, seen, is_target(&mark), out);
            }
        }
        if seen.is(Roles::A) {
            self.open(state, seen.mark(seen.tie_a), out);
        }
    }

    fn stay_away(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        if seen.is(Roles::B) {
            for mark in std::mem::take(&mut state.open) {
                match mark.tie == seen.tie_b && self.holds(mark.time, seen.time) {
                    true => self.violated(state, mark.position, seen.position, seen.time, out),
                    false => state.open.push(mark),
                }
            }
        }
        if seen.is(Roles::A) {
            self.open(state, seen.mark(seen.tie_a), out);
        }
    }

    fn match_brackets(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        if seen.is(Roles::B) {
            let tied = |mark: &Mark| mark.tie == seen.tie_b;
            let (open, broken) = (state.open.iter().position(tied), state.broken.iter().position(tied));
            let holds = |mark: &Mark| self.holds(mark.time, seen.time);
            match (open, broken) {
                (open, Some(broken))
                    if open.is_none_or(|open| state.broken[broken].position < state.open[open].position) =>
                {
                    let mark = state.broken.remove(broken);
                    self.answered_late(state, mark, seen, holds(&mark), out);
                }
                (Some(open), _) => {
                    let mark = state.open.remove(open);
                    match holds(&mark) {
                        true => out.answered(mark.time, seen.time),
                        false => self.violated(state, mark.position, seen.position, seen.time, out),
                    }
                }
                (None, _) => {
                    out.counts.activations += 1;
                    self.violated(state, seen.position, seen.position, seen.time, out);
                }
            }
        }
        if seen.is(Roles::A) {
            self.open(state, seen.mark(seen.tie_a), out);
        }
    }

    pub(super) fn stand(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        if seen.is(Roles::B) {
            for mark in std::mem::take(&mut state.open) {
                match self.is_late(mark.time, seen.time) {
                    false => out.answered(mark.time, seen.time),
                    true => {
                        self.violated(state, mark.position, seen.position, seen.time, out);
                        self.answered_late(state, mark, seen, false, out);
                    }
                }
            }
            for mark in std::mem::take(&mut state.broken) {
                let in_time = !self.is_late(mark.time, seen.time);
                self.answered_late(state, mark, seen, in_time, out);
            }
        }
        if seen.is(Roles::A) && state.open.is_empty() && state.broken.is_empty() {
            self.open(state, seen.mark(0), out);
        }
    }

    // ---- a B looks back ----

    fn look_back(&self, state: &mut State, seen: &Seen, now: Time, out: &mut Outcome) {
        if seen.is(Roles::B) {
            let found =
                state.past.iter().any(|mark| mark.tie == seen.tie_b && self.holds(mark.time, seen.time));
            out.counts.activations += 1;
            match found != (self.word == Word::NotPrecedence) {
                true => out.counts.satisfied += 1,
                false => self.violated(state, seen.position, seen.position, seen.time, out),
            }
            if self.word == Word::AlternatePrecedence {
                state.past.clear();
            }
        }
        if seen.is(Roles::A) {
            self.remember(state, seen.mark(seen.tie_a), now, out);
        }
    }

    fn chain_back(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        if seen.is(Roles::B) {
            let found =
                state.past.iter().any(|mark| mark.tie == seen.tie_b && self.holds(mark.time, seen.time));
            out.counts.activations += 1;
            match found {
                true => out.counts.satisfied += 1,
                false => self.violated(state, seen.position, seen.position, seen.time, out),
            }
        }
        state.past.clear();
        if seen.is(Roles::A) {
            state.past.push(seen.mark(seen.tie_a));
        }
    }

    /// Drops open activations that the newest one makes redundant: an event that violates it violates them too, or time has ended
    /// them. Only for a guard, which counts nothing.
    pub fn keep_newest(&self, state: &mut State) {
        use Word::{AbsentBetween, NotResponse, RespondedExistence, Response, Succession};
        let is_of_each =
            matches!(self.word, Response | RespondedExistence | Succession | NotResponse | AbsentBetween);
        if is_of_each
            && (self.window.is_none() || self.last_is_enough())
            && let Some(newest) = state.open.pop()
        {
            state.open.retain(|mark| mark.tie != newest.tie);
            state.open.push(newest);
        }
    }

    /// Remembers an event that later ones look back at, and drops those that make no difference any more.
    fn remember(&self, state: &mut State, mark: Mark, now: Time, out: &mut Outcome) {
        self.forget_past(state, now);
        match &self.window {
            Some(window) if window.to.is_some() => {
                let before = state.past.len();
                if self.last_is_enough() {
                    state.past.retain(|known| known.tie != mark.tie);
                }
                // If a mark is replaced, a deadline is in the queue already: `expire` sets the next one.
                if state.past.len() == before {
                    out.deadlines.extend(self.deadline(mark.time));
                }
                state.past.push(mark);
            }
            // Without an end of the window, the mark whose window begins first suffices. Both ways, any may be needed.
            Some(_) if self.word == Word::RespondedExistence => state.past.push(mark),
            window => match (state.past.iter_mut().find(|known| known.tie == mark.tie), window) {
                (Some(known), Some(window)) => {
                    if window.begin(mark.time) < window.begin(known.time) {
                        known.time = mark.time;
                    }
                }
                (Some(_), None) => {}
                (None, _) => state.past.push(mark),
            },
        }
    }

    fn forget_past(&self, state: &mut State, now: Time) {
        if self.window.as_ref().is_some_and(|window| window.to.is_some())
            && self.word != Word::ChainPrecedence
        {
            state.past.retain(|mark| self.deadline(mark.time).is_some_and(|deadline| deadline >= now));
        }
    }
}
