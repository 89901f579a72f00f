//! Operations on a store and on the reference model.

use super::{Oracle, seeded};
use crate::disk::{Clock, Disk, Platform};
use crate::error::{ReadError, TxError};
use crate::event::Raw;
use crate::options::Options;
use crate::projection::Projection;
use crate::query::Query;
use crate::setup::Setup;
use crate::store::Store;
use crate::testing::checks::{self, Finding, Verdict};
use crate::testing::decision::Plan;
use crate::testing::findings::{self, FRESHNESS, Pager, Rest, Says};
use crate::testing::model::{AllRows, Model};
use crate::testing::serial::Serial;
use crate::testing::twin::{Odd, Ran, Twin};
use crate::testing::workload::{self, Balances, Counts, Prices, Request, Seats, Trails, Workload};
use crate::testing::{ImagePolicy, Random, SimClock, SimDisk, SimEntropy};
use crate::view::View;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

/// Runs operations that `bytes` choose, on a store and on the model: groups of appends, decisions behind them, transactions that
/// go on beside all of it, reads, reopening, kills, power cuts between two groups, deletion of derived state, and checks that
/// judge it all behind the writer. Every answer must be the model's, and every finding that of a naive rule.
pub fn ops_vs_model(bytes: &[u8], oracle: Oracle) {
    run_ops(bytes, oracle);
}

/// Runs the operations. Returns the number of each ending of a transaction, and of each finding.
fn run_ops(bytes: &[u8], oracle: Oracle) -> BTreeMap<&'static str, u64> {
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
    let mut draws = Random::from_bytes(bytes);
    let mut run = Run::new(oracle);
    while !draws.is_used_up() {
        run.operation(&mut draws);
    }
    run.end()
}

struct Run {
    disk: SimDisk,
    clock: SimClock,
    options: Options,
    store: Option<Store>,
    model: Model,
    workload: Workload,
    endings: BTreeMap<&'static str, u64>,
    pager: Pager,
    serial: Serial,
    oracle: Oracle,
}

impl Run {
    fn new(oracle: Oracle) -> Self {
        let options = Options {
            event_bytes_max: 1500,
            append_events_max: 8,
            key_bytes_max: 32,
            response_bytes_max: 200,
            segment_bytes_min: 4096,
            segment_bytes_max: 16_384,
            overlay_bytes_max: 1 << 20,
            group_len_max: 4,
            state_cache_bytes: 1 << 16,
            page_bytes: 4096,
            check_keys_max: 1 << 20,
            check_overdue_ms: 31 * 86_400_000,
            ..Options::default()
        };
        let (disk, clock) = (empty_store(&options), SimClock::default());
        let (model, workload) = (Model::new(options.clone()), Workload::even(Random::new(0)));
        let (endings, pager, serial) = (BTreeMap::new(), Pager::default(), Serial::default());
        let store = None;
        let mut run = Self { disk, clock, options, store, model, workload, endings, pager, serial, oracle };
        run.open();
        run
    }

    /// Runs one operation: a byte is its kind, and two bytes are the seed of all that it draws.
    fn operation(&mut self, draws: &mut Random) {
        match draws.below(32) {
            0 => self.reopen(seeded(draws), |_| ()),
            1 => self.reopen(seeded(draws), SimDisk::kill),
            2 => self.reopen(seeded(draws), |disk| _ = disk.power_cut(ImagePolicy::DropAll)),
            3 => self.reopen(seeded(draws), |disk| drop(disk.remove(Path::new("/store/state.redb")))),
            4 => self.reopen(seeded(draws), lose_what_is_behind),
            5 => self.reopen(seeded(draws), |disk| drop(disk.remove(Path::new("/store/checks.redb")))),
            6 => self.verify(),
            7 => self.audit(),
            8 => {
                self.workload.random = seeded(draws);
                self.workload.mix_anew();
            }
            9..11 => self.step(),
            11..13 => self.read(seeded(draws)),
            13..15 => self.pass_time(seeded(draws), 32),
            15..20 => self.decide(seeded(draws)),
            20..24 => self.transactions(draws),
            _ => self.group(seeded(draws)),
        }
    }

    /// Compares all there is.
    fn end(mut self) -> BTreeMap<&'static str, u64> {
        self.read(Random::new(0));
        self.verify();
        // What waits becomes a finding.
        self.clock.advance(checks::LONGEST + Duration::from_secs(1));
        self.audit();
        assert_eq!(findings::forgotten(&self.model, Clock::now(&self.clock)), [""; 0]);
        let replayed = self.serial.replay(self.store()).unwrap_or_else(|why| panic!("{why}"));
        // Nobody looks at it any more, so it need not end in order.
        self.disk.kill();
        *self.endings.entry("tx replayed alone").or_default() += replayed.committed + replayed.read_only;
        self.endings
    }

    fn open(&mut self) {
        let (disk, clock) = (Arc::new(self.disk.clone()), Arc::new(self.clock.clone()));
        let platform = Platform { disk, clock, entropy: Arc::new(SimEntropy::new(1)) };
        let setup = setup(&self.options, platform).retention(self.model.retention);
        self.pager.next_life();
        self.store = Some(Store::open("/store", self.pager.hears(setup)).expect("an honest disk opens"));
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open between operations")
    }

    /// Ends the store in the way that `end` says, and opens it again with other options and another policy.
    fn reopen(&mut self, mut chance: Random, end: impl FnOnce(&SimDisk)) {
        let (closed, disk) = (self.store.take(), self.disk.clone());
        end(&disk);
        drop(closed);
        self.options.overlay_bytes_max = [4096, 16_384, 1 << 20][chance.below(3) as usize];
        self.options.group_len_max = 1 + chance.below(8) as usize;
        self.options.check_keys_max = [1, 8, 1 << 20][chance.below(3) as usize];
        self.model.retention = workload::draw_retention(&mut chance);
        self.open();
        self.read(chance);
    }

    fn pass_time(&self, mut chance: Random, bits: u64) {
        self.clock.advance(Duration::from_micros(workload::any_size(&mut chance, bits)));
    }

    /// Runs one step of the store, and takes over the events that it put on record by itself.
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

    fn group(&mut self, chance: Random) {
        self.workload.random = chance;
        let asked = self.workload.group(&self.model);
        self.serve(asked, None);
    }

    /// Runs a decision, with a group of requests between it and its commit.
    fn decide(&mut self, chance: Random) {
        self.workload.random = chance;
        let asked = self.workload.group(&self.model);
        let plan = self.workload.plan(&self.model);
        self.serve(asked, Some(plan));
    }

    /// Serves the requests, and then the decision, which was made before them.
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
        if self.oracle == Oracle::Canary {
            // A model that forgets that a key may be kept for a number of keys only.
            self.model.commits.iter_mut().for_each(|commit| commit.expires_keys = None);
        }
        self.take_over();
    }

    fn note(&mut self, ending: &'static str) {
        *self.endings.entry(ending).or_default() += 1;
    }

    /// Transactions beside one another, and beside all that is asked otherwise.
    fn transactions(&mut self, draws: &mut Random) {
        let store = self.store().clone();
        let mut open: Vec<Twin<'_>> = Vec::new();
        while !draws.is_used_up() {
            let (what, one) = (draws.below(64), open.len().max(1));
            // Which of them, in the same byte.
            let (what, one) = (what % 16, what as usize / 16 % one);
            match what {
                0 => break,
                1..4 => {
                    self.workload.random = seeded(draws);
                    let plan = self.workload.plan(&self.model);
                    let begun = Twin::begin(&store, &self.model, plan, Clock::now(&self.clock));
                    open.push(begun.expect("the store is well"));
                }
                4 => self.group(seeded(draws)),
                5 => self.decide(seeded(draws)),
                6 => self.pass_time(seeded(draws), 24),
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

    fn read(&mut self, chance: Random) {
        self.workload.random = chance;
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

fn setup(options: &Options, platform: Platform) -> Setup {
    checks::checked(workload::setup(options.clone()).platform(platform).lockstep())
}

/// Returns a disk with a store that was created and closed. All runs begin with the same one: creating takes longer than opening.
fn empty_store(options: &Options) -> SimDisk {
    static EMPTY: OnceLock<SimDisk> = OnceLock::new();
    let empty = EMPTY.get_or_init(|| {
        let (disk, clock) = (SimDisk::new(1), SimClock::default());
        let entropy = Arc::new(SimEntropy::new(1));
        let platform = Platform { disk: Arc::new(disk.clone()), clock: Arc::new(clock), entropy };
        let store = Store::create("/store", setup(options, platform)).expect("an honest disk takes it");
        store.close();
        disk
    });
    empty.fork(1)
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

    /// The target's property holds for random inputs too, and they come to every ending.
    #[test]
    fn chance_reaches_every_ending() {
        let (mut random, mut endings) = (Random::new(11), BTreeMap::new());
        for round in 0..200 {
            let mut bytes = vec![0; 4 + round % 180];
            random.fill(&mut bytes);
            run_ops(&bytes, Oracle::Right)
                .into_iter()
                .for_each(|(ending, times)| *endings.entry(ending).or_default() += times);
        }
        println!("{endings:?}");
        for ending in [
            "check alerted",
            "check healed",
            "check notified",
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
