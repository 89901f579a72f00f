//! Amounts of one key: sums that do not balance, and totals that differ from the sum.
//!
//! Of buckets that are not over, a key's state keeps three kinds of marks. Their time is the last moment of the bucket:
//!
//! ```text
//! open    what the bucket adds, as the tie; the first event in it that says something, or 0, as the position
//! broken  how many events of it were rounded, as the position
//! past    each value that was said in it, as the tie
//! ```

use super::state::{Mark, State};
use super::word::{Amount, Finding, Outcome, Roles, Rule, Seen, Time, Verdict};

impl Rule {
    /// Adds an amount. An activation is open while the sum is not 0.
    pub(super) fn balance(&self, state: &mut State, seen: &Seen, out: &mut Outcome) {
        state.add(seen.amount.adds);
        let role = if state.sum() == 0 { Roles::B } else { Roles::A };
        self.stand(state, &Seen { roles: role, ..*seen }, out);
    }

    /// Compares a stated total with the sum: at once, or when its bucket is over. `now` is the watermark.
    pub(super) fn add_up(&self, state: &mut State, seen: &Seen, now: Time, out: &mut Outcome) {
        let Amount { adds, rounded, says, bucket_end } = seen.amount;
        let Some(end) = bucket_end else {
            state.add(adds);
            state.count += u64::from(rounded);
            if let Some(says) = says {
                out.counts.activations += 1;
                let said = Mark { position: seen.position, time: seen.time, tie: says as u64 };
                self.compare(state, seen.position, &[said], seen.time, out);
            }
            return;
        };
        let last = end.saturating_sub(1);
        if last < now {
            // Its bucket was compared already: its amount goes into later sums, but its total cannot be compared any more.
            state.add(adds);
            state.count += u64::from(rounded);
            if says.is_some() {
                out.counts.untold += 1;
                let (activation, by, decided) = (seen.position, seen.position, seen.time);
                let (verdict, amounts) = (Verdict::Untold, None);
                out.findings.push(Finding { verdict, activation, by, decided, amounts });
            }
            return;
        }
        let at = state.open.partition_point(|bucket| bucket.time < last);
        if state.open.get(at).is_none_or(|bucket| bucket.time != last) {
            state.open.insert(at, Mark { position: 0, time: last, tie: 0 });
            out.deadlines.push(last);
        }
        let bucket = &mut state.open[at];
        bucket.tie = (bucket.tie as i64).wrapping_add(adds) as u64;
        if let Some(says) = says {
            if bucket.position == 0 {
                bucket.position = seen.position;
                out.counts.activations += 1;
            }
            state.past.push(Mark { position: seen.position, time: last, tie: says as u64 });
        }
        if rounded {
            match state.broken.iter_mut().find(|rounded| rounded.time == last) {
                Some(rounded) => rounded.position += 1,
                None => state.broken.push(Mark { position: 1, time: last, tie: 0 }),
            }
        }
    }

    /// Compares all buckets that are over before a time, in their order.
    pub(super) fn compare_before(&self, state: &mut State, end: Time, now: Time, out: &mut Outcome) {
        while let Some(bucket) = state.open.first().copied().filter(|bucket| bucket.time < end) {
            state.open.remove(0);
            state.add(bucket.tie as i64);
            let of_bucket = |mark: &Mark| mark.time == bucket.time;
            state.count +=
                state.broken.iter().filter(|mark| of_bucket(mark)).map(|mark| mark.position).sum::<u64>();
            state.broken.retain(|mark| !of_bucket(mark));
            let (said, later) = std::mem::take(&mut state.past).into_iter().partition::<Vec<_>, _>(of_bucket);
            state.past = later;
            self.compare(state, bucket.position, &said, now, out);
        }
    }

    /// Compares values with the sum. Events of a bucket are in no order: the value that comes nearest counts.
    fn compare(&self, state: &mut State, activation: u64, said: &[Mark], now: Time, out: &mut Outcome) {
        let sum = state.sum();
        let off = |mark: &Mark| (mark.tie as i64).wrapping_sub(sum).unsigned_abs();
        let Some(nearest) = said.iter().copied().min_by_key(off) else { return };
        let tolerance = self.sums.tolerance.saturating_mul(state.count.max(1));
        let value = nearest.tie as i64;
        if off(&nearest) > tolerance {
            self.violated(state, activation, nearest.position, now, out);
            out.findings.last_mut().expect("it was just found").amounts = Some((value, sum));
        } else {
            out.counts.satisfied += 1;
        }
        if self.sums.carried {
            state.set_sum(value);
            state.count = 0;
        }
    }
}
