//! What an open obligation takes in memory: `BENCH_EVENTS` orders, a million by default, each of which has to be paid some day.
//!
//! Bytes that are allocated are counted, by the allocator; what the store takes without the check is taken off. A table that has just
//! grown is emptier than one that will grow soon, so it is measured at several numbers.

#![allow(clippy::disallowed_methods, reason = "a bench measures real time and reads files")]

mod common;

use common::orders::{self, Order};
use peak_alloc::PeakAlloc;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tallystone::check::Check;
use tallystone::prelude::*;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

fn main() {
    let most = if std::env::var("BENCH_EVENTS").is_ok() { common::preload_events() } else { 1_000_000 };
    println!("{:>12} {:>20} {:>20}", "obligations", "in memory, bytes", "after a restart");
    // Between one doubling and the next.
    for eighths in [8, 7, 6, 5] {
        let obligations = most * eighths / 8;
        let dir = common::place();
        let path = dir.path().join("store");
        filled(&path, obligations);
        let bare = allocated(&path, None, false);
        let judged = allocated(&path, Some(orders::paid_some_day()), true);
        let again = allocated(&path, Some(orders::paid_some_day()), false);
        let each = |bytes: u64| (bytes as f64 - bare as f64) / obligations as f64;
        println!("{obligations:>12} {:>20.1} {:>20.1}", each(judged), each(again));
    }
}

fn filled(path: &Path, orders: u64) {
    let store = Store::create(path, Setup::new().events::<Order>()).expect("a fresh store");
    for first in (0..orders).step_by(1000) {
        let events = (first..orders.min(first + 1000)).map(orders::opened);
        store.append(Append::events(events)).expect("the append is good");
    }
    store.close();
}

/// Bytes that are allocated when all is judged, and when it is saved, if it has to be.
fn allocated(path: &Path, check: Option<Check>, is_saved: bool) -> u64 {
    let mut options = tallystone::Options::default();
    options.state_cache_bytes = 1 << 20;
    options.check_keys_max = 1 << 30;
    options.overlay_age_ms_max = 1;
    let setup = Setup::new().events::<Order>().options(options);
    let store = Store::open(path, check.into_iter().fold(setup, Setup::check)).expect("it was closed");
    assert!(store.checks().wait_for(store.stats().position, Duration::from_secs(600)), "checks go on");
    let judged = SystemTime::now();
    if is_saved {
        // What waits to be saved is saved soon. While it is, it is there twice.
        let file = path.join("checks.redb");
        let written = || std::fs::metadata(&file).and_then(|file| file.modified()).expect("a file");
        while written() < judged || written().elapsed().is_ok_and(|since| since < Duration::from_secs(3)) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let bytes = HEAP.current_usage() as u64;
    store.close();
    bytes
}
