//! What the benches share: the workload, the floor beside it, and how the two are driven in turn.
//!
//! - Both engines are driven by the same code, through the same kind of hand-over.
//! - A ratio is taken within one round, the engines in turn; what is reported is the median of the rounds, and its spread.

#![allow(dead_code, reason = "each bench uses its part")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

pub mod busy;
pub mod drive;
pub mod duel;
pub mod floor;
pub mod orders;
pub mod walk;
pub mod workload;

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tallystone::Store;
use tallystone::prelude::*;

/// Events in the store before anything is measured: `BENCH_EVENTS`, 100 thousand by default.
pub fn preload_events() -> u64 {
    std::env::var("BENCH_EVENTS").map_or(100_000, |events| events.parse().expect("BENCH_EVENTS is a number"))
}

/// The length of a round, where it is asked for: `BENCH_ROUND_S`.
pub fn round_length() -> Option<Duration> {
    let seconds = std::env::var("BENCH_ROUND_S").ok()?;
    Some(Duration::from_secs_f64(seconds.parse().expect("BENCH_ROUND_S is a number")))
}

/// Page cache of `state.redb`: the default in a small store; in a large one as much as its indexes take, about 100 bytes an event.
pub fn state_cache_bytes() -> usize {
    let default = tallystone::Options::default().state_cache_bytes;
    default.max(usize::try_from(preload_events()).expect("it fits memory") * 100)
}

/// Appends so many events, each in a commit of its own, many at a time.
pub fn fill(store: &Store, events: u64, streams: u64) {
    const DEPTH: usize = 4096;
    let mut waiting = VecDeque::new();
    for number in 0..events {
        if waiting.len() == DEPTH {
            settle(waiting.pop_front());
        }
        let append = Append::event(workload::event_in(number, streams));
        waiting.push_back(store.submit(workload::keyed(number, append)));
    }
    waiting.into_iter().for_each(|commit| settle(Some(commit)));
}

fn settle(commit: Option<tallystone::store::Commit>) {
    commit.map(|commit| commit.wait().expect("the append is good"));
}

/// A directory on the disk that is measured: the one cargo builds on. It goes away with its handle.
pub fn place() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory beside the build")
}

/// Bytes of all files below `dir`, as they are allocated is not asked: their lengths.
pub fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("the directory is ours");
    let size = |entry: std::fs::DirEntry| match entry.file_type().expect("its type can be read").is_dir() {
        true => bytes_in(&entry.path()),
        false => entry.metadata().map_or(0, |file| file.len()),
    };
    entries.map(|entry| size(entry.expect("the directory is ours"))).sum()
}

/// Resident memory of this process in bytes.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
