//! What the fuzz targets in `fuzz/` call: properties that must hold for any bytes. They panic where one does not.

#[cfg(all(feature = "json", feature = "rules"))]
mod rules;

use super::checks::{self, Finding, Verdict};
use super::decision::Plan;
use super::findings::{self, FRESHNESS, Pager, Rest, Says};
use super::model::{AllRows, Model};
use super::serial::Serial;
use super::twin::{Odd, Ran, Twin};
use super::workload::{self, Balances, Counts, Prices, Request, Seats, Trails, Workload};
use super::{ImagePolicy, Random, SimClock, SimEntropy};
use crate::disk::{Clock, Disk, Platform};
use crate::error::{ReadError, TxError};
use crate::event::Raw;
use crate::log::hostile::{self, SMALL};
use crate::log::record::{Commit, StoredEvent};
use crate::log::segments::SegmentLog;
use crate::log::{Log, StoreId};
use crate::options::Options;
use crate::order::Timestamp;
use crate::projection::Projection;
use crate::query::Query;
use crate::store::Store;
use crate::testing::SimDisk;
use crate::view::View;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

#[cfg(all(feature = "json", feature = "rules"))]
pub use rules::rule_parser;

/// Whatever decodes as a commit record encodes to the same bytes again.
pub fn record_decode(bytes: &[u8]) {
    hostile::record(bytes);
}

/// A small log, damaged as `bytes` say, opens and reads back as it was written, or is refused by name; what is served once is
/// served again.
///
/// `bytes` are edits: file, offset, length and content of each; the first byte says whether one segment is replaced whole.
pub fn hostile_log(bytes: &[u8]) {
    let disk = SimDisk::new(1);
    let honest = small_log(&disk);
    let Some((how, mut edits)) = bytes.split_first() else { return };
    let files = disk.files();
    if how % 4 == 0 {
        let file = &files[usize::from(how / 4) % files.len()];
        disk.write_file(file, edits);
    } else {
        while let Some((edit, rest)) = edits.split_first_chunk::<5>() {
            let file = &files[usize::from(edit[0]) % files.len()];
            let offset = u64::from(u16::from_le_bytes([edit[1], edit[2]]));
            let (content, rest) = rest.split_at(rest.len().min(usize::from(edit[3])));
            let mut whole = disk.read_file(file).expect("it was listed");
            match edit[4] % 4 {
                0 => whole.truncate(offset as usize),
                1 => whole.extend_from_slice(content),
                _ => {
                    let room = whole.len().saturating_sub(offset as usize).min(content.len());
                    let start = whole.len().min(offset as usize);
                    whole[start..start + room].copy_from_slice(&content[..room]);
                }
            }
            disk.write_file(file, &whole);
            edits = rest;
        }
    }
    let disk: Arc<dyn Disk> = Arc::new(disk);
    served_is_a_prefix(&disk, &honest);
}

const DIR: &str = "/log";

/// Makes a log of three segments or more, and returns what it serves.
fn small_log(disk: &SimDisk) -> Vec<Vec<u8>> {
    let (seam, dir): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Path::new(DIR));
    SegmentLog::create(&seam, dir, StoreId([7; 16]), &SMALL).expect("an honest disk makes a log");
    let (log, _) = SegmentLog::open(&seam, dir, SMALL, None).expect("and opens it");
    for number in 1..=24_u64 {
        let head = log.head();
        let event = StoredEvent {
            type_name: "family.Variant".into(),
            schema: 1,
            codec: 1,
            stream: "family/1".into(),
            stream_version: number,
            tags: vec!["kind:id".into()],
            data: number.to_le_bytes().repeat(4),
        };
        let commit = Commit {
            commit: head.commit.next(),
            first: head.position.next(),
            time: Timestamp(number),
            label: String::new(),
            layouts: Vec::new(),
            key: None,
            response: None,
            events: vec![event],
            folds: Vec::new(),
            inline: None,
        };
        log.append(&head, &[commit]).expect("an honest disk takes it");
    }
    hostile::everything(&log).expect("an honest log reads back")
}

/// What an open log serves, damaged or not, is how the honest one began; else it is refused.
fn served_is_a_prefix(disk: &Arc<dyn Disk>, honest: &[Vec<u8>]) {
    let dir = Path::new(DIR);
    if hostile::log(disk, dir).is_err() {
        return;
    }
    let (log, _) = SegmentLog::open(disk, dir, SMALL, None).expect("it opened before");
    let served = hostile::everything(&log).expect("it was read before");
    assert!(honest.starts_with(&served), "what is served is what was written");
}

/// Operations that `bytes` choose, on a store and on the model: groups of appends, decisions behind them, transactions that go
/// on beside all of it, reads, reopening, kills, power cuts between two groups, deletion of derived state, and checks that judge it
/// all behind the writer. Every answer must be the model's, and every finding that of a naive rule.
pub fn ops_vs_model(bytes: &[u8]) {
    run_ops(bytes);
}

/// The same, and how often each ending of a transaction came about, and each finding.
fn run_ops(bytes: &[u8]) -> BTreeMap<&'static str, u64> {
    // The workload's folds panic on purpose, and the store catches it. A fuzzer's hook would end the process.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let text = payload.downcast_ref::<&str>().copied();
            if text.or(payload.downcast_ref::<String>().map(String::as_str)) != Some(workload::ON_PURPOSE) {
                loud(panic);
            }
        }));
    });
    let (ops, requests) = bytes.split_at(bytes.len() / 3);
    let mut random = Random::from_bytes(ops);
    let mut run = Run::new(&mut random, requests);
    while !random.is_used_up() {
        match random.below(64) {
            0 => run.reopen(|_| ()),
            1 => run.reopen(SimDisk::kill),
            2 => run.reopen(|disk| {
                disk.power_cut(ImagePolicy::DropAll);
            }),
            3 => run.reopen(|disk| drop(disk.remove(Path::new("/store/state.redb")))),
            4 => run.verify(),
            5 => run.reopen(lose_what_is_behind),
            6 => run.step(),
            7..9 => run.read(),
            9 => run.audit(),
            10 => run.reopen(|disk| drop(disk.remove(Path::new("/store/checks.redb")))),
            11 => run.clock.advance(Duration::from_micros(workload::any_size(&mut random, 32))),
            12..24 => run.decide(),
            24..32 => run.transactions(&mut random),
            _ => run.group(),
        }
    }
    run.read();
    run.verify();
    // What waits becomes a finding.
    run.clock.advance(checks::LONGEST + Duration::from_secs(1));
    run.audit();
    assert_eq!(findings::forgotten(&run.model, Clock::now(&run.clock)), [""; 0]);
    let replayed = run.serial.replay(run.store()).unwrap_or_else(|why| panic!("{why}"));
    *run.endings.entry("tx replayed alone").or_default() += replayed.committed + replayed.read_only;
    run.endings
}

struct Run {
    disk: SimDisk,
    clock: SimClock,
    options: Options,
    store: Option<Store>,
    model: Model,
    retentions: Random,
    workload: Workload,
    endings: BTreeMap<&'static str, u64>,
    pager: Pager,
    serial: Serial,
}

impl Run {
    fn new(random: &mut Random, requests: &[u8]) -> Self {
        let options = Options {
            event_bytes_max: 1500,
            append_events_max: 8,
            key_bytes_max: 32,
            response_bytes_max: 200,
            segment_bytes_min: 4096,
            segment_bytes_max: 16_384,
            overlay_bytes_max: [4096, 16_384, 1 << 20][random.below(3) as usize],
            group_len_max: 1 + random.below(8) as usize,
            state_cache_bytes: 1 << 16,
            page_bytes: 4096,
            check_keys_max: [1, 8, 1 << 20][random.below(3) as usize],
            check_overdue_ms: 31 * 86_400_000,
            ..Options::default()
        };
        let (disk, clock) = (SimDisk::new(1), SimClock::default());
        // One operation takes more bytes than a fuzzer has for it.
        let requests = Random::from_bytes_and_seed(requests, random.below(1 << 16));
        let (model, workload) = (Model::new(options.clone()), Workload::drawn_from(requests));
        let retentions = Random::new(random.below(1 << 16));
        let (endings, pager, serial) = (BTreeMap::new(), Pager::default(), Serial::default());
        let store = None;
        let mut run =
            Self { disk, clock, options, store, model, retentions, workload, endings, pager, serial };
        run.open();
        run
    }

    fn open(&mut self) {
        let (disk, clock) = (Arc::new(self.disk.clone()), Arc::new(self.clock.clone()));
        let platform = Platform { disk, clock, entropy: Arc::new(SimEntropy::new(1)) };
        let setup = workload::setup(self.options.clone()).platform(platform).lockstep();
        // Another policy for every life.
        self.model.retention = workload::draw_retention(&mut self.retentions);
        let setup = self.pager.hears(checks::checked(setup.retention(self.model.retention)));
        self.pager.next_life();
        self.store = Some(Store::open_or_create("/store", setup).expect("an honest disk opens"));
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open between operations")
    }

    /// Ends the store in the way that `end` says, and opens it again.
    fn reopen(&mut self, end: impl FnOnce(&SimDisk)) {
        let (closed, disk) = (self.store.take(), self.disk.clone());
        end(&disk);
        drop(closed);
        self.open();
        self.read();
    }

    /// One step of the store, and what it puts on record by itself.
    fn step(&mut self) {
        self.store().step();
        self.take_over();
    }

    fn take_over(&mut self) {
        let view = self.store().view().expect("the store is open");
        let says = findings::take_over(&mut self.model, &view, &self.pager);
        for says in says.unwrap_or_else(|odd| panic!("{odd:?}")) {
            self.note(match says {
                Says::Found(id, ..) if id == FRESHNESS => panic!("an honest disk stops no check"),
                Says::Found(.., Finding { verdict: Verdict::Violated, .. }) => "check violated",
                Says::Found(.., Finding { verdict: Verdict::Healed, .. }) => "check healed",
                Says::Found(.., Finding { verdict: Verdict::Retracted, .. }) => "check retracted",
                Says::Found(.., Finding { verdict: Verdict::Skewed, .. }) => "check skewed",
                Says::Notified(_) => "check notified",
                Says::Routed(_) | Says::Delivered(..) => "check alerted",
                Says::Passed => "time passed",
                Says::Acknowledged(..) => panic!("nobody acknowledges anything"),
            });
        }
    }

    /// Lets the checks see everything, and compares all that they say.
    fn audit(&mut self) {
        let mut rest = Rest::default();
        for _ in 0..10_000 {
            let before = self.model.position();
            self.step();
            if rest.has_come(before, &self.model, &self.store().checks()) {
                let compared = findings::compare(&self.model, &self.store().checks());
                return compared.unwrap_or_else(|odd| panic!("{odd:?}"));
            }
        }
        panic!("the checks never come to rest");
    }

    fn group(&mut self) {
        let asked = self.workload.group(&self.model);
        self.serve(asked, None);
    }

    /// A decision, and what comes between it and its commit.
    fn decide(&mut self) {
        let asked = self.workload.group(&self.model);
        let plan = self.workload.plan(&self.model);
        self.serve(asked, Some(plan));
    }

    /// Serves what is asked, and then the decision, which was made before it.
    fn serve(&mut self, asked: Vec<Request>, plan: Option<Plan>) {
        let (before, now) = (self.model.clone(), Clock::now(&self.clock));
        let commits: Vec<_> = asked.iter().map(|request| self.store().submit(request.append())).collect();
        let at_once: Vec<_> = asked.iter().map(|request| self.model.at_once(request, now)).collect();
        let ran = plan.map(|plan| Ran::on(self.store(), plan, now));
        self.store().step();
        for ((request, commit), at_once) in asked.iter().zip(commits).zip(at_once) {
            let answer = commit.wait();
            let verdict = at_once.unwrap_or_else(|| self.model.decide(request, before.position(), now));
            let agrees = self.model.agrees(&verdict, request, &answer);
            assert!(agrees, "{request:?}\n must be {verdict:?}\n is {answer:?}");
        }
        if let Some(ran) = ran {
            let ending = ran.compare(&before, &mut self.model, true);
            self.note(ending.unwrap_or_else(|why| panic!("{why}")).name());
            self.serial.note_ran(&ran);
        }
        self.take_over();
    }

    fn note(&mut self, ending: &'static str) {
        *self.endings.entry(ending).or_default() += 1;
    }

    /// Transactions beside one another, and beside all that is asked otherwise.
    fn transactions(&mut self, random: &mut Random) {
        let store = self.store().clone();
        let mut open: Vec<Twin<'_>> = Vec::new();
        while !random.is_used_up() {
            let (what, which) = (random.below(16), random.below(4) as usize);
            let one = which % open.len().max(1);
            match what {
                0 => break,
                1..4 => {
                    let plan = self.workload.plan(&self.model);
                    let begun = Twin::begin(&store, &self.model, plan, Clock::now(&self.clock));
                    open.push(begun.expect("the store is well"));
                }
                4 => self.group(),
                5 => self.decide(),
                6 => self.clock.advance(Duration::from_micros(workload::any_size(random, 24))),
                _ if open.is_empty() => {}
                7 => drop(open.swap_remove(one)),
                8..10 => {
                    let (ended, now) = (open.swap_remove(one).commit(), Clock::now(&self.clock));
                    self.serial.note(&ended.plan, &ended.told, &ended.answer);
                    let flushed = store.stats().flushed_commit.get();
                    let ending = ended.compare(&mut self.model, now, flushed, true);
                    self.note(ending.unwrap_or_else(|why| panic!("{why}")).name());
                }
                _ => match open[one].step(&self.model) {
                    Ok(_) => {}
                    // It is older than a view may be.
                    Err(Odd::Store(TxError::TooOld)) if open[one].may_have_expired(&store) => {
                        drop(open.swap_remove(one));
                    }
                    Err(odd) => panic!("{odd:?}"),
                },
            }
        }
    }

    fn read(&mut self) {
        let view = self.store().view().expect("the store is open");
        let head = self.model.position();
        assert_eq!(view.position().get(), head, "the head is the model's");
        let mut ask = self.workload.ask(&self.model);
        if ask.after > head {
            let refused = view.query::<Raw>(ask.query()).next();
            assert!(matches!(refused, Some(Err(ReadError::BeyondHead { .. }))), "{ask:?}: {refused:?}");
            ask.after = head;
        }
        for (query, must) in
            [(Query::all(), (1..=head).collect()), (ask.query(), self.model.answer(&ask, head))]
        {
            let found = view.query::<Raw>(query).map(|event| event.expect("events can be read"));
            let is: Vec<u64> = found
                .inspect(|event| {
                    let noted = self.model.event(event.position.get());
                    assert_eq!(
                        (event.stream_version, event.data()),
                        (noted.stream_version, &*noted.fact.data())
                    );
                })
                .map(|event| event.position.get())
                .collect();
            assert_eq!(is, must, "{ask:?}");
        }
        let rows = AllRows {
            balances: rows::<Balances>(&view),
            seats: rows::<Seats>(&view),
            counts: rows::<Counts>(&view),
            prices: rows::<Prices>(&view),
        };
        assert!(rows == self.model.rows, "rows are {rows:?}, must be {:?}", self.model.rows);
        // Behind it may be, wrong never.
        if let Ok(at) = view.folded_through::<Trails>() {
            let (is, must) = (self::rows::<Trails>(&view), self.model.trails(at.get()));
            assert_eq!(is, must, "rows at {at}");
        }
    }

    fn verify(&self) {
        let report = self.store().verify().expect("an honest disk can be read");
        assert_eq!(report.first_bad, None);
        assert_eq!((report.events, report.keys), (self.model.position(), self.model.keys_kept()));
    }
}

fn lose_what_is_behind(disk: &SimDisk) {
    let is_behind = |path: &PathBuf| path.parent().is_some_and(|dir| dir.ends_with("behind"));
    disk.files().iter().filter(|path| is_behind(path)).for_each(|path| drop(disk.remove(path)));
}

fn rows<P: Projection>(view: &View) -> BTreeMap<P::Key, (P::Row, u64)> {
    let rows = view.rows::<P>(..).with_positions().map(|row| row.expect("rows can be read"));
    rows.map(|(key, row)| (key, (row.row, row.changed_at.get()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The targets' properties hold for a few hundred inputs without a fuzzer too.
    #[test]
    fn properties_hold_for_inputs_of_chance() {
        let (mut random, mut endings) = (Random::new(11), BTreeMap::new());
        for round in 0..200 {
            let mut bytes = vec![0; 30 + 10 * (round % 100)];
            random.fill(&mut bytes);
            run_ops(&bytes)
                .into_iter()
                .for_each(|(ending, times)| *endings.entry(ending).or_default() += times);
            hostile_log(&bytes);
            record_decode(&bytes);
        }
        println!("{endings:?}");
        for ending in [
            "check alerted",
            "check healed",
            "check retracted",
            "check violated",
            "time passed",
            "tx committed",
            "tx conflict",
            "tx poisoned",
            "tx read only",
            "tx refused",
            "tx replayed",
            "tx replayed alone",
            "tx too old",
        ] {
            assert!(endings.get(ending) > Some(&0), "{ending} never came about");
        }
    }
}
