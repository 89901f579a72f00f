//! Sizes and waits: every limit with its unit, checked once at open.

const APPEND_BYTES_MAX: usize = 32 << 20;
const KEY_BYTES_MAX: usize = 4096;

/// Limits and sizes. Bytes are bytes, `_ms` are milliseconds, `_len` counts items.
///
/// ```
/// use tallystone::Options;
///
/// let mut options = Options::default();
/// options.event_bytes_max = 64 * 1024;
/// options.overlay_bytes_max = 16 << 20;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Payload of one event. Default 1 MiB, at most 16 MiB.
    pub event_bytes_max: usize,
    /// Events in one append. Default 1,024, at most 65,536.
    pub append_events_max: usize,
    /// One append with all it carries. Default 8 MiB, at most 32 MiB.
    pub append_bytes_max: usize,
    /// Name of a stream. Default 256 bytes.
    pub stream_bytes_max: usize,
    /// Name of an event type. Default 128 bytes.
    pub type_bytes_max: usize,
    /// One tag. Default 256 bytes.
    pub tag_bytes_max: usize,
    /// Tags on one event. Default 32.
    pub tags_len_max: usize,
    /// A key at least. Default 1 byte.
    pub key_bytes_min: usize,
    /// Scope of a key, and the key itself, each. Default 128 bytes.
    pub key_bytes_max: usize,
    /// Named parts of a fingerprint. Default 32.
    pub fingerprint_parts_max: usize,
    /// A stored answer. Default 1 MiB.
    pub response_bytes_max: usize,
    /// Key of a projection row. Default 1 KiB.
    pub row_key_bytes_max: usize,
    /// A projection row. Default 1 MiB.
    pub row_bytes_max: usize,
    /// Requests that wait for the writer. Default 4,096.
    pub queue_len_max: usize,
    /// Bytes that wait for the writer. Default 64 MiB.
    pub queue_bytes_max: usize,
    /// Maximum time that `append` waits for a place in the queue before it is `Overloaded`. Default 5,000 ms.
    pub queue_wait_ms_max: u64,
    /// Maximum time that a transaction that met conflicts may hold the writer for itself. Default 1,000 ms.
    pub hold_ms_max: u64,
    /// Maximum time that the clock may run ahead of the monotonic one between two commits, before it is `ClockJumped`. Default
    /// 86,400,000 ms, a day. A machine that sleeps for longer, while the store is open, needs more.
    pub clock_jump_ms_max: u64,
    /// Maximum time that the clock may be ahead of the last commit when a store is opened. Default 31,622,400,000 ms, 366 days.
    pub clock_gap_ms_max: u64,
    /// Commits that share one sync. Default 1,024.
    pub group_len_max: usize,
    /// Bytes that share one sync. Default 8 MiB.
    pub group_bytes_max: usize,
    /// A segment of the log. The first is `segment_bytes_min`, each next one twice the last, up to this. Default 64 MiB.
    pub segment_bytes_max: u64,
    /// The first segment of the log, and the first after a crash. Default 1 MiB.
    pub segment_bytes_min: u64,
    /// Memory for what is newer than `state.redb`. Two of them may be held. Default 64 MiB.
    pub overlay_bytes_max: usize,
    /// Maximum time that a quiet store keeps changes in memory only. Default 1,000 ms. (They are safe in the log.)
    pub overlay_age_ms_max: u64,
    /// Page cache of `state.redb`. Default 64 MiB.
    pub state_cache_bytes: usize,
    /// Interval at which all of `state.redb` is read and compared with its own sums, behind the open store. Default 3,600,000 ms,
    /// an hour. The store stops if something is damaged or missing.
    pub scrub_every_ms: u64,
    /// Keys of events that checks keep in memory, all checks together. Default 2,000,000, some 140 MiB if there are as many.
    /// Those beyond are in `checks.redb` alone, and read from it when they are met again.
    pub check_keys_max: usize,
    /// Maximum time without progress of a check that has something to judge. Beyond it, that is a violation of
    /// `tallystone.freshness`. Default 300,000 ms, five minutes.
    pub check_overdue_ms: u64,
    /// Minimum time between two alerts of one check. Default 60,000 ms.
    pub alert_every_ms: u64,
    /// Time that a sink of alerts has for one alert. After it the sink is a violation of `tallystone.alerts`, and `Store::close`
    /// waits no longer for it. Default 10,000 ms.
    pub alert_deadline_ms: u64,
    /// Minimum time for which rows of a view stay readable. Events have no such limit. Default 10,000 ms.
    pub view_age_ms_max: u64,
    /// Bytes read at once by long reads. Default 1 MiB.
    pub page_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            event_bytes_max: 1 << 20,
            append_events_max: 1024,
            append_bytes_max: 8 << 20,
            stream_bytes_max: 256,
            type_bytes_max: 128,
            tag_bytes_max: 256,
            tags_len_max: 32,
            key_bytes_min: 1,
            key_bytes_max: 128,
            fingerprint_parts_max: 32,
            response_bytes_max: 1 << 20,
            row_key_bytes_max: 1 << 10,
            row_bytes_max: 1 << 20,
            queue_len_max: 4096,
            queue_bytes_max: 64 << 20,
            queue_wait_ms_max: 5_000,
            hold_ms_max: 1_000,
            clock_jump_ms_max: 24 * 3_600_000,
            clock_gap_ms_max: 366 * 24 * 3_600_000,
            group_len_max: 1024,
            group_bytes_max: 8 << 20,
            segment_bytes_max: 64 << 20,
            segment_bytes_min: 1 << 20,
            overlay_bytes_max: 64 << 20,
            overlay_age_ms_max: 1_000,
            state_cache_bytes: 64 << 20,
            scrub_every_ms: 3_600_000,
            check_keys_max: 2_000_000,
            check_overdue_ms: 300_000,
            alert_every_ms: 60_000,
            alert_deadline_ms: 10_000,
            view_age_ms_max: 10_000,
            page_bytes: 1 << 20,
        }
    }
}

impl Options {
    /// Lists what is wrong, one sentence for each option.
    pub(crate) fn check(&self) -> Vec<String> {
        let mut wrong = self.out_of_range();
        let is_wrong = |name: &str| wrong.iter().any(|sentence| sentence.contains(&format!(".{name} ")));
        let mut contradicts = Vec::new();
        // An option that is wrong itself sets no bound for another.
        let mut at_least = |name: &str, is: usize, bound: &str, low: usize, high: usize| {
            if is < low && !is_wrong(name) && !is_wrong(bound) {
                contradicts.push(format!("options.{name} is {is}, allowed are {low} ({bound}) to {high}"));
            }
        };
        let Self { event_bytes_max, append_bytes_max, .. } = *self;
        at_least("append_bytes_max", append_bytes_max, "event_bytes_max", event_bytes_max, APPEND_BYTES_MAX);
        at_least("queue_bytes_max", self.queue_bytes_max, "append_bytes_max", append_bytes_max, 1 << 40);
        at_least("key_bytes_max", self.key_bytes_max, "key_bytes_min", self.key_bytes_min, KEY_BYTES_MAX);
        let (gap, jump) = (self.clock_gap_ms_max as usize, self.clock_jump_ms_max as usize);
        at_least("clock_gap_ms_max", gap, "clock_jump_ms_max", jump, usize::MAX);
        let (most, least) = (self.segment_bytes_max as usize, self.segment_bytes_min as usize);
        at_least("segment_bytes_max", most, "segment_bytes_min", least, 1 << 40);
        wrong.append(&mut contradicts);
        wrong
    }

    /// Lists the options that are outside their own range, one sentence each.
    fn out_of_range(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut within = |name: &str, is: u64, low: u64, high: u64| {
            if !(low..=high).contains(&is) {
                wrong.push(format!("options.{name} is {is}, allowed are {low} to {high}"));
            }
        };
        within("event_bytes_max", self.event_bytes_max as u64, 1, 16 << 20);
        within("append_events_max", self.append_events_max as u64, 1, 1 << 16);
        within("append_bytes_max", self.append_bytes_max as u64, 1, APPEND_BYTES_MAX as u64);
        within("stream_bytes_max", self.stream_bytes_max as u64, 1, 4096);
        within("type_bytes_max", self.type_bytes_max as u64, 1, 4096);
        within("tag_bytes_max", self.tag_bytes_max as u64, 1, 4096);
        within("tags_len_max", self.tags_len_max as u64, 0, 1024);
        within("key_bytes_min", self.key_bytes_min as u64, 1, KEY_BYTES_MAX as u64);
        within("key_bytes_max", self.key_bytes_max as u64, 1, KEY_BYTES_MAX as u64);
        within("fingerprint_parts_max", self.fingerprint_parts_max as u64, 1, 1024);
        within("response_bytes_max", self.response_bytes_max as u64, 0, 16 << 20);
        within("row_key_bytes_max", self.row_key_bytes_max as u64, 1, 64 << 10);
        within("row_bytes_max", self.row_bytes_max as u64, 1, 16 << 20);
        within("queue_len_max", self.queue_len_max as u64, 1, 1 << 20);
        within("queue_bytes_max", self.queue_bytes_max as u64, 1, 1 << 40);
        within("queue_wait_ms_max", self.queue_wait_ms_max, 0, 3_600_000);
        within("hold_ms_max", self.hold_ms_max, 1, 60_000);
        within("clock_jump_ms_max", self.clock_jump_ms_max, 1, u64::MAX);
        within("clock_gap_ms_max", self.clock_gap_ms_max, 1, u64::MAX);
        within("group_len_max", self.group_len_max as u64, 1, 1 << 20);
        within("group_bytes_max", self.group_bytes_max as u64, 1, 64 << 20);
        within("segment_bytes_min", self.segment_bytes_min, 4096, 1 << 40);
        within("segment_bytes_max", self.segment_bytes_max, 4096, 1 << 40);
        within("overlay_bytes_max", self.overlay_bytes_max as u64, 4096, 1 << 40);
        within("overlay_age_ms_max", self.overlay_age_ms_max, 1, 3_600_000);
        within("state_cache_bytes", self.state_cache_bytes as u64, 1 << 16, 1 << 40);
        within("scrub_every_ms", self.scrub_every_ms, 1, 31 * 24 * 3_600_000);
        within("check_keys_max", self.check_keys_max as u64, 1, 1 << 40);
        within("check_overdue_ms", self.check_overdue_ms, 1, 31 * 24 * 3_600_000);
        within("alert_every_ms", self.alert_every_ms, 0, 31 * 24 * 3_600_000);
        within("alert_deadline_ms", self.alert_deadline_ms, 1, 3_600_000);
        within("view_age_ms_max", self.view_age_ms_max, 1, 3_600_000);
        within("page_bytes", self.page_bytes as u64, 4096, 256 << 20);
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Set = fn(&mut Options, u64);

    /// Every option, as a function that sets it.
    fn all() -> Vec<(&'static str, Set)> {
        macro_rules! options {
            ($($name:ident)*) => { vec![$((stringify!($name), |options, value| options.$name = value as _)),*] };
        }
        options! {
            event_bytes_max append_events_max append_bytes_max stream_bytes_max type_bytes_max tag_bytes_max tags_len_max
            key_bytes_min key_bytes_max fingerprint_parts_max response_bytes_max row_key_bytes_max row_bytes_max
            queue_len_max queue_bytes_max queue_wait_ms_max hold_ms_max clock_jump_ms_max clock_gap_ms_max group_len_max
            group_bytes_max segment_bytes_max segment_bytes_min overlay_bytes_max overlay_age_ms_max state_cache_bytes
            scrub_every_ms check_keys_max check_overdue_ms alert_every_ms alert_deadline_ms view_age_ms_max page_bytes
        }
    }

    #[test]
    fn out_of_range_option_is_named() {
        let fields = format!("{:?}", Options::default()).matches(": ").count();
        assert_eq!(all().len(), fields, "an option is missing above");
        let mut refused = 0;
        for (name, set) in all() {
            for value in [0, 1 << 50] {
                let mut options = Options::default();
                set(&mut options, value);
                let wrong = options.check();
                // Another one is named only if this one is its bound.
                let own = format!("options.{name} is {value}, allowed are ");
                let other = wrong.iter().find(|wrong| {
                    !wrong.starts_with(&own) && !wrong.contains(&format!(" {value} ({name}) to "))
                });
                assert_eq!(other, None, "{name} = {value}");
                assert!(wrong.len() <= 1, "{wrong:?}");
                refused += wrong.len();
            }
        }
        assert!(refused > all().len(), "only {refused} values were refused");
    }

    #[test]
    fn every_allowed_range_has_values() {
        for (name, set) in all() {
            let mut options = Options::default();
            set(&mut options, 1 << 50);
            let Some(sentence) = options.check().pop() else { continue };
            let high = sentence
                .rsplit(' ')
                .next()
                .and_then(|high| high.parse().ok())
                .expect("it ends with the limit");
            let mut options = Options::default();
            set(&mut options, high);
            let wrong = options.check();
            assert!(wrong.iter().all(|wrong| !wrong.contains(&format!(".{name} "))), "{wrong:?}");
        }
    }

    #[test]
    fn error_names_option_that_sets_bound() {
        let options = Options { event_bytes_max: 16 << 20, ..Options::default() };
        let says = "options.append_bytes_max is 8388608, allowed are 16777216 (event_bytes_max) to 33554432";
        assert_eq!(options.check(), [says]);
    }
}
