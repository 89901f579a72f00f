//! The store on a disk that fails, against a model that does not: seeds, an exhaustive sweep of one script, and rot.
//!
//! - `SEED=7 cargo test --test it simulation::seeds` replays one seed; `SIM_SEEDS=5000` runs more of them.
//! - An error is allowed only after a fault that was put there; damage is never an allowed answer to a power cut.
//! - What is acknowledged stays; what is refused leaves nothing; what is unknown is all there or not at all.
//! - Whatever happens to checks, each finding is on record once, and no deadline is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;
use tallystone::disk::{Access, Disk, File, Kind, Lock, Platform};
use tallystone::error::{AppendError, OpenError, ReadError, TxError};
use tallystone::event::Raw;
use tallystone::prelude::{Position, Query, Sequenced, Store, Subscription, View};
use tallystone::request::Retention;
use tallystone::testing::checks;
use tallystone::testing::decision::{Plan, Step, Which};
use tallystone::testing::findings::{self, FRESHNESS, Pager, Rest, Says};
use tallystone::testing::model::{AllRows, Model, RowName, Verdict};
use tallystone::testing::serial::{Replayed, Serial};
use tallystone::testing::twin::{Odd, Ran, Twin};
use tallystone::testing::workload::{
    self, Ask, Balances, Counts, Fact, Item, ON_PURPOSE, Prices, Request, Seats, Trails, Workload,
};
use tallystone::testing::{Fault, Faults, ImagePolicy, Random, SimClock, SimDisk, SimEntropy};
use tallystone::transaction::Decision;
use tallystone::watch::NotificationKind;
use tallystone::{Options, Timestamp};

const STORE: &str = "/bank";
/// Of the files under derived state.
const PAGE: usize = 4096;

// ---- one process ----

/// The disk as one process has it: nothing it starts goes on once it is gone.
#[derive(Debug)]
struct Process {
    disk: SimDisk,
    dead: AtomicBool,
}

impl Process {
    fn alive(&self) -> io::Result<&SimDisk> {
        match self.dead.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the process is gone")),
            false => Ok(&self.disk),
        }
    }
}

impl Disk for Process {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.alive()?.kind(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.alive()?.lock(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.alive()?.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.alive()?.list(dir)
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.alive()?.create_new(path)
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.alive()?.open(path, access)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive()?.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.alive()?.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.alive()?.remove_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.alive()?.sync_dir(dir)
    }
}

/// Why a step did not go as the model says.
enum Trouble {
    /// A fault was put there, and this is what came of it.
    Faulted(String),
    /// A bug.
    Wrong(String),
}

type Outcome<T = ()> = Result<T, Trouble>;

fn wrong<T>(what: impl Into<String>) -> Outcome<T> {
    Err(Trouble::Wrong(what.into()))
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { wrong(what()) }
}

/// Counts what happened, over all seeds.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, u64>);

impl Tally {
    fn note(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    fn add(&mut self, what: impl Into<String>, count: u64) {
        *self.0.entry(what.into()).or_default() += count;
    }

    fn merge(&mut self, other: Tally) {
        other.0.into_iter().for_each(|(what, count)| self.add(what, count));
    }

    fn line(&self) -> String {
        self.0.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(" | ")
    }

    fn count(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

// ---- one run ----

/// What may go wrong in a run: another subset for every seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Cut,
    Kill,
    Fault(Fault),
    Quota,
}

const CLASSES: [Class; 13] = [
    Class::Cut,
    Class::Cut,
    Class::Kill,
    Class::Quota,
    Class::Fault(Fault::AnyError),
    Class::Fault(Fault::WriteError),
    Class::Fault(Fault::ShortWrite),
    Class::Fault(Fault::SyncError),
    Class::Fault(Fault::SyncErrorKeepsNew),
    Class::Fault(Fault::SyncErrorPartly),
    Class::Fault(Fault::SyncErrorShowsOld),
    Class::Fault(Fault::NoSpace),
    Class::Fault(Fault::ReadError),
];

/// Somebody who follows the store, and keeps where it is.
struct Follower {
    ask: Ask,
    /// `None`: to be subscribed again, behind the last event.
    subscription: Option<Subscription<Raw>>,
    seen: u64,
}

/// A view from before, and what it must still say.
struct Held {
    view: View,
    /// How far the rows behind the writer were, if there were any to read.
    behind: Option<u64>,
    position: u64,
    rows: AllRows,
    /// How often the store had been opened, or recovered.
    life: u64,
}

/// A group of which nobody knows.
struct Unknown {
    /// The model with it.
    with: Model,
    requests: Vec<Request>,
    /// A decision among them.
    plan: Option<Plan>,
}

impl Unknown {
    fn beside(model: &Model) -> Self {
        Self { with: model.clone(), requests: Vec::new(), plan: None }
    }
}

struct Sim {
    random: Random,
    disk: SimDisk,
    clock: SimClock,
    entropy: SimEntropy,
    options: Options,
    process: Arc<Process>,
    store: Option<Store>,
    created: bool,
    model: Model,
    unknown: Option<Unknown>,
    workload: Workload,
    /// What the setup says now: another policy at every open.
    retention: Retention,
    /// The clock is ahead, and no commit may have its time.
    jumped: bool,
    /// Where the clock was before it was set back.
    furthest: u64,
    views: Vec<Held>,
    followers: Vec<Follower>,
    life: u64,
    classes: Vec<Class>,
    fault_rate: f64,
    /// A cut during the recovery from the first: how far ahead, and how.
    second: Option<(u64, ImagePolicy)>,
    /// Faults counted when the store was last known to be well.
    mark: u64,
    /// A copy of `state.redb` from before.
    old_state: Option<Vec<u8>>,
    /// The same of a projection behind the writer.
    old_behind: Option<(PathBuf, Vec<u8>)>,
    /// It has checks.
    checked: bool,
    pager: Pager,
    /// A copy of `checks.redb` from before.
    old_checks: Option<Vec<u8>>,
    /// The decisions, to be made again alone.
    serial: Serial,
    tally: Tally,
    trail: Vec<String>,
}

fn draw_options(random: &mut Random) -> Options {
    let mut options = Options::default();
    options.event_bytes_max = [256, 1500, 3000][random.below(3) as usize];
    options.append_events_max = 8;
    options.key_bytes_max = 32;
    options.response_bytes_max = 200;
    options.segment_bytes_min = 4096;
    options.segment_bytes_max = [4096, 8192, 65_536][random.below(3) as usize];
    options.overlay_bytes_max = [4096, 4096, 16_384, 1 << 20][random.below(4) as usize];
    options.group_len_max = 1 + random.below(8) as usize;
    options.state_cache_bytes = [1 << 16, 1 << 20][random.below(2) as usize];
    options.page_bytes = 4096;
    options.view_age_ms_max = 3_600_000;
    options.check_keys_max = [1, 4, 16, 1 << 20][random.below(4) as usize];
    options.alert_every_ms = [0, 1000, 10_000][random.below(3) as usize];
    // Those that stand still are found because they say so, not because it takes long.
    options.check_overdue_ms = 31 * 86_400_000;
    options
}

/// One by the log, one by the index.
fn followers() -> Vec<Follower> {
    let types = ["booking.Reserved", "booking.Freed", "name.Claimed"].map(str::to_owned).to_vec();
    let some = Ask { items: vec![Item { types, ..Item::default() }], ..Ask::default() };
    let all = Ask { all: true, ..Ask::default() };
    [all, some].map(|ask| Follower { ask, subscription: None, seen: 0 }).into()
}

fn is_behind(path: &Path) -> bool {
    path.parent().is_some_and(|dir| dir.ends_with("behind"))
}

impl Sim {
    fn new(seed: u64, faulty: bool) -> Self {
        let mut random = Random::new(seed);
        let options = draw_options(&mut random);
        let disk = SimDisk::new(seed);
        let classes = CLASSES.into_iter().filter(|_| faulty && random.chance(0.4)).collect();
        Self {
            process: Arc::new(Process { disk: disk.clone(), dead: AtomicBool::new(false) }),
            clock: SimClock::default(),
            entropy: SimEntropy::new(seed),
            model: Model::new(options.clone()),
            workload: Workload::new(seed),
            retention: Retention::Forever,
            jumped: false,
            furthest: 0,
            fault_rate: [0.05, 0.15, 0.4][random.below(3) as usize],
            second: None,
            store: None,
            created: false,
            unknown: None,
            views: Vec::new(),
            life: 0,
            mark: 0,
            old_state: None,
            old_behind: None,
            checked: !seed.is_multiple_of(2),
            pager: Pager::default(),
            old_checks: None,
            followers: followers(),
            serial: Serial::default(),
            tally: Tally::default(),
            trail: Vec::new(),
            random,
            disk,
            options,
            classes,
        }
    }

    fn say(&mut self, what: impl Into<String>) {
        self.trail.push(format!("op {:5}: {}", self.disk.op_count(), what.into()));
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("the store is open")
    }

    fn faults(&self) -> u64 {
        let stats = self.disk.stats();
        stats.faults.values().sum::<u64>() + stats.over_quota + u64::from(self.disk.is_off())
    }

    /// An error of the disk: allowed if a fault was put there.
    fn trouble<T>(&self, what: &str, error: impl Display + Debug) -> Outcome<T> {
        let told = format!("{what}: {error} ({error:?})");
        match self.faults() > self.mark {
            true => Err(Trouble::Faulted(told)),
            false => wrong(format!("no fault, but {told}")),
        }
    }

    // ---- faults ----

    fn arm(&mut self) {
        if self.classes.is_empty() || !self.random.chance(self.fault_rate) {
            return;
        }
        let class = self.classes[self.random.below(self.classes.len() as u64) as usize];
        let spread = [2, 8, 40, 150][self.random.below(4) as usize];
        let ahead = 1 + self.random.below(spread);
        match class {
            Class::Cut => {
                let policy = ImagePolicy::ALL[self.random.below(6) as usize];
                self.disk.cut_at(self.disk.op_count() + ahead, policy);
            }
            Class::Kill => self.kill(),
            Class::Fault(Fault::ReadError) => {
                self.disk.plan(Faults::none().at(self.disk.read_count() + ahead, Fault::ReadError));
            }
            Class::Fault(fault) => self.disk.plan(Faults::none().at(self.disk.op_count() + ahead, fault)),
            Class::Quota => self.disk.quota(Some(self.disk.bytes_used() + self.random.below(30_000))),
        }
        self.say(format!("armed {class:?}, {ahead} ahead"));
    }

    fn disarm(&mut self) {
        self.disk.plan(Faults::none());
        self.disk.quota(None);
    }

    fn kill(&mut self) {
        self.process.dead.store(true, Ordering::Relaxed);
        if !self.disk.is_off() {
            self.disk.kill();
        }
        self.store = None;
        self.views.clear();
        self.hang_up();
        self.say("killed");
        self.tally.note("kill");
    }

    fn cut(&mut self, policy: ImagePolicy) {
        self.process.dead.store(true, Ordering::Relaxed);
        let cut = self.disk.power_cut(policy);
        self.store = None;
        self.views.clear();
        self.hang_up();
        self.say(cut.to_string());
        self.tally.note(format!("cut {policy:?}"));
        // The quota is a property of the disk: an empty one after the cut would keep the store from opening for ever.
        self.disk.quota(None);
    }

    /// After an armed cut.
    fn restart(&mut self) {
        self.process.dead.store(true, Ordering::Relaxed);
        let cut = self.disk.restart();
        self.store = None;
        self.views.clear();
        self.hang_up();
        self.say(cut.to_string());
        self.tally.note(format!("cut {:?}", cut.policy));
        self.disk.quota(None);
        if let Some((ahead, policy)) = self.second.take() {
            self.disk.cut_at(self.disk.op_count() + ahead, policy);
        }
    }

    // ---- opening ----

    fn setup(&mut self) -> tallystone::Setup {
        self.process = Arc::new(Process { disk: self.disk.clone(), dead: AtomicBool::new(false) });
        let (clock, entropy) = (Arc::new(self.clock.clone()), Arc::new(self.entropy.clone()));
        let platform = Platform { disk: self.process.clone(), clock, entropy };
        self.retention = workload::draw_retention(&mut self.random);
        let setup = workload::setup(self.options.clone()).retention(self.retention);
        let setup = setup.platform(platform).lockstep();
        match self.checked {
            true => self.pager.hears(checks::checked(setup)),
            false => setup,
        }
    }

    fn open(&mut self) -> Outcome {
        let setup = self.setup();
        self.pager.next_life();
        let opened = match self.created {
            true => Store::open(STORE, setup),
            false => Store::open_or_create(STORE, setup),
        };
        match opened {
            Ok(store) => {
                // However long a run of faults kept it from committing.
                store.accept_clock();
                self.store = Some(store);
                self.created = true;
                self.say("opened");
                Ok(())
            }
            Err(OpenError::Storage(error)) if !error.is_corruption() => {
                self.say(format!("not opened: {error}"));
                self.trouble("open", error)
            }
            Err(error) => wrong(format!("open: {error} ({error:?})")),
        }
    }

    /// Opens again, however often it takes, and compares everything.
    fn restore(&mut self) -> Outcome {
        for attempt in 0.. {
            if attempt >= 3 {
                self.disarm();
            }
            if attempt >= 10 {
                return wrong("the store does not open although nothing goes wrong any more");
            }
            if attempt > 0 {
                self.tally.note("fault in recovery");
            }
            let again = self.again().and_then(|()| self.settle());
            match again {
                Ok(()) => return Ok(()),
                Err(Trouble::Faulted(what)) => self.say(format!("again: {what}")),
                Err(wrong) => return Err(wrong),
            }
        }
        unreachable!("attempts end")
    }

    /// One attempt to open again: in this process, in the next one, or after a power cut.
    fn again(&mut self) -> Outcome {
        if self.disk.is_off() {
            self.restart();
        } else {
            match (self.random.below(5), &self.store) {
                (0, _) => {
                    self.kill();
                    let policy = ImagePolicy::ALL[self.random.below(6) as usize];
                    self.cut(policy);
                }
                (1, _) => self.kill(),
                (2, Some(_)) => {
                    self.store = None;
                    self.views.clear();
                    self.hang_up();
                    self.say("dropped");
                }
                (_, Some(store)) => {
                    let stats = store.stats();
                    let well = stats.poisoned.is_none() && stats.damaged.is_none();
                    self.pager.next_life();
                    let recovered = store.recover();
                    self.tally.note("recover()");
                    return match recovered {
                        Ok(()) => {
                            self.store().accept_clock();
                            self.life += u64::from(!well);
                            self.say("recovered");
                            Ok(())
                        }
                        Err(OpenError::Storage(error)) if !error.is_corruption() => {
                            self.say(format!("not recovered: {error}"));
                            self.trouble("recover", error)
                        }
                        Err(error) => wrong(format!("recover: {error} ({error:?})")),
                    };
                }
                _ => {}
            }
        }
        if self.disk.is_off() {
            return Err(Trouble::Faulted("power is off".to_owned()));
        }
        self.store = None;
        self.open()
    }

    /// Finds out what became of the unknown group, and compares.
    fn settle(&mut self) -> Outcome {
        if self.unknown.is_none() {
            // What the checks put on record last may be there or not.
            self.take_over()?;
        }
        let head = self.view()?.commit().get();
        if let Some(unknown) = self.unknown.take() {
            if unknown.plan.is_some() {
                self.tally.note(match head == unknown.with.commit() {
                    true => "unknown tx was there",
                    false => "unknown tx was lost",
                });
            }
            if head == unknown.with.commit() {
                self.tally.note("unknown was there");
                self.say(format!("unknown was there, up to {head}"));
                self.model = unknown.with;
            } else {
                ensure(head == self.model.commit(), || {
                    format!("head {head}, neither {} nor {}", self.model.commit(), unknown.with.commit())
                })?;
                self.tally.note("unknown was lost");
                self.say(format!("unknown was lost, back to {head}"));
            }
            self.workload.ask_again(unknown.requests);
            self.workload.decide_again(unknown.plan);
            if self.random.chance(0.3) {
                // What was answered once must hold, though nothing else was written since.
                self.check()?;
                self.kill();
                self.cut(ImagePolicy::DropAll);
                self.open()?;
            }
        }
        self.check()?;
        // What a recovery asks of those behind the writer they do in their next step.
        self.step_store()?;
        if self.checked && self.random.coin() {
            self.audit()?;
        }
        self.behind_is_well()?;
        let stats = self.store().stats();
        if stats.poisoned.is_some() || stats.damaged.is_some() {
            // By a fault that hit the very step after a recovery, or by a bug.
            return self.trouble("settled", format!("{stats:?}"));
        }
        self.mark = self.faults();
        Ok(())
    }

    // ---- steps ----

    fn step(&mut self) -> Outcome {
        let all = if self.checked { 56 } else { 44 };
        match self.random.below(all) {
            0 => self.reopen(),
            1 => self.without_state(),
            2 => self.verify(),
            3 | 4 => {
                let held = self.take_view()?;
                self.say(format!("view at {}", held.position));
                self.views.push(held);
                Ok(())
            }
            5 => self.look_back(),
            6..9 => self.reads(),
            9 => match self.random.below(4) {
                0 => self.jump_clock(),
                _ => {
                    self.move_clock();
                    Ok(())
                }
            },
            10 => self.check(),
            11 => self.catch_up(),
            12 => self.rebuild_behind(),
            13..16 => {
                self.step_store()?;
                self.behind_is_well()
            }
            16..19 => self.follow(),
            19..25 => self.decide(),
            25..31 => self.interleave(),
            31..44 => self.group(),
            44..49 => {
                let time = Duration::from_millis(self.random.below(6000));
                self.pass(time)
            }
            49..52 => self.audit(),
            52 => self.without_checks(),
            53 => self.acknowledge(),
            _ => {
                let is_down = self.random.coin();
                self.say(if is_down { "nobody hears alerts" } else { "alerts are heard" });
                self.pager.set_down(is_down);
                Ok(())
            }
        }
    }

    fn move_clock(&mut self) {
        let now = self.clock_now();
        self.furthest = self.furthest.max(now);
        match self.random.below(5) {
            0 => self.clock.jump(Timestamp::from_micros(now / 2)),
            1 => self.clock.jump(Timestamp::from_micros(now + 1_000_000_000)),
            _ => self.clock.advance(Duration::from_micros(self.random.below(5_000_000))),
        }
    }

    /// The clock jumps by months. It is set right again, or somebody says that it is right.
    fn jump_clock(&mut self) -> Outcome {
        let was = self.clock_now();
        let newest = self.model.commits.last().map_or(0, |last| last.micros);
        // Where it was before it was set back, it is believed.
        self.clock.jump(Timestamp::from_micros(self.furthest.max(was).max(newest) + 100 * 86_400_000_000));
        self.say("the clock jumped");
        self.jumped = true;
        let served = self.group();
        self.jumped = false;
        match self.random.coin() {
            true => self.clock.jump(Timestamp::from_micros(was)),
            false => drop(self.store().accept_clock()),
        }
        served
    }

    fn clock_now(&self) -> u64 {
        use tallystone::disk::Clock;
        self.clock.now().micros()
    }

    fn group(&mut self) -> Outcome {
        let group = self.workload.group(&self.model);
        self.serve(group, None)
    }

    /// A decision, and requests that come between it and its commit.
    fn decide(&mut self) -> Outcome {
        let group = if self.random.coin() { self.workload.group(&self.model) } else { Vec::new() };
        let plan = self.workload.plan(&self.model);
        self.serve(group, Some(plan))
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.clock_now())
    }

    /// Hands requests over, has a decision made, serves the requests and then what was decided, and compares the answers.
    fn serve(&mut self, group: Vec<Request>, plan: Option<Plan>) -> Outcome {
        let (seen, now) = (self.model.position(), self.now());
        self.model.retention = self.retention;
        let before = plan.is_some().then(|| self.model.clone());
        let mut asked = Vec::new();
        for request in group {
            let at_once = self.model.at_once(&request, now);
            asked.push((self.store().submit(request.append()), at_once, request));
        }
        let ran = plan.map(|plan| {
            let off = self.disk.is_off();
            let ran = Ran::on(self.store(), plan, now);
            if self.disk.is_off() && !off {
                self.tally.note("cut in a commit of a transaction");
            }
            ran
        });
        self.store().step();
        let mut unknown: Option<Unknown> = None;
        let mut ended = false;
        let mut faulted = None;
        self.say(format!("group of {}", asked.len()));
        let past: BTreeSet<_> = self.model.keys.keys().cloned().collect();
        for (commit, at_once, request) in asked {
            let answer = commit.wait();
            match &answer {
                Err(AppendError::Unknown(_)) => {
                    let held = unknown.get_or_insert_with(|| Unknown::beside(&self.model));
                    held.with.decide(&request, seen, now);
                    held.requests.push(request);
                    ended = true;
                    continue;
                }
                Err(AppendError::Poisoned { .. }) => {
                    ensure(self.faults() > self.mark, || "poisoned without a fault".to_owned())?;
                    ended = true;
                    continue;
                }
                Err(AppendError::Storage(error)) => {
                    faulted = Some(self.trouble::<()>("append", error));
                    continue;
                }
                _ => {}
            }
            let verdict = match at_once {
                Some(verdict) => verdict,
                None if self.jumped => {
                    ensure(matches!(answer, Err(AppendError::ClockJumped { .. })), || {
                        format!("{request:?} by a clock that jumped: {answer:?}")
                    })?;
                    self.tally.note("clock jumped");
                    continue;
                }
                None => {
                    ensure(!ended, || format!("after an error of the disk: {answer:?}"))?;
                    self.model.decide(&request, seen, now)
                }
            };
            let used = request.key.as_ref().is_some_and(|key| past.contains(key));
            self.tally.note(match &verdict {
                Verdict::Committed { replayed: true, .. } => "replayed",
                Verdict::Committed { .. } if used => "used again",
                Verdict::Committed { .. } => "committed",
                _ => "refused",
            });
            ensure(self.model.agrees(&verdict, &request, &answer), || {
                format!("{request:?}\n  must be {verdict:?}\n  is {answer:?}")
            })?;
        }
        if let Some((ran, before)) = ran.zip(before) {
            match &ran.answer {
                Err(TxError::Unknown(_)) => {
                    let held = unknown.get_or_insert_with(|| Unknown::beside(&self.model));
                    ran.compare(&before, &mut held.with, false).or_else(wrong)?;
                    held.plan = Some(ran.plan);
                }
                Err(error) if is_of_the_disk(error) => faulted = Some(self.trouble("decision", error)),
                _ => {
                    ensure(!ended || ran.leaves_nothing(), || {
                        format!("after an error of the disk: {:?}", ran.answer)
                    })?;
                    // Of what is unknown it knows nothing.
                    let ending = ran.compare(&before, &mut self.model, true).or_else(wrong)?;
                    self.tally.note(ending.name());
                    self.tally.add("tx tried again", u64::from(ran.tries.len() > 1));
                    self.serial.note_ran(&ran);
                }
            }
        }
        let followed = self.after_step();
        self.leave_unknown(unknown)?;
        faulted.unwrap_or(Ok(())).and(followed)
    }

    fn leave_unknown(&mut self, unknown: Option<Unknown>) -> Outcome {
        if let Some(unknown) = unknown {
            ensure(self.faults() > self.mark, || "unknown without a fault".to_owned())?;
            ensure(unknown.with.commit() > self.model.commit(), || {
                "an unknown group has no commit".to_owned()
            })?;
            self.say(format!("unknown: {} to {}", self.model.commit() + 1, unknown.with.commit()));
            self.tally.note("unknown");
            self.unknown = Some(unknown);
            self.nothing_unsynced_shows()?;
        }
        Ok(())
    }

    // ---- transactions beside one another ----

    fn is_well(&self) -> bool {
        let well = self.store.as_ref().is_some_and(|store| {
            let stats = store.stats();
            stats.poisoned.is_none() && stats.damaged.is_none()
        });
        well && !self.disk.is_off() && self.unknown.is_none()
    }

    /// Transactions beside one another, and beside all that is asked otherwise. Some of them outlive the process.
    fn interleave(&mut self) -> Outcome {
        let (store, mut open) = (self.store().clone(), Vec::new());
        self.say("transactions");
        match self.go_beside(&store, &mut open) {
            went if open.is_empty() => went,
            Err(Trouble::Wrong(what)) => wrong(what),
            Ok(()) => self.outlive(open),
            Err(Trouble::Faulted(what)) => {
                self.say(format!("faulted: {what}"));
                self.outlive(open)
            }
        }
    }

    /// A transaction around a group, which it does not survive if the group takes the store down.
    fn around(&mut self, group: Vec<Request>, plan: Plan) -> Outcome {
        let store = self.store().clone();
        let mut twin = self.begin(&store, plan)?;
        while self.step_of(&mut twin)? {}
        match self.serve(group, None) {
            Err(Trouble::Wrong(what)) => wrong(what),
            _ if !self.is_well() => self.outlive(vec![twin]),
            Ok(()) => self.commit(twin),
            faulted => faulted,
        }
    }

    fn go_beside<'s>(&mut self, store: &'s Store, open: &mut Vec<Twin<'s>>) -> Outcome {
        // Long ones see flushes go by.
        let what = [16, 8][self.random.below(2) as usize];
        for _ in 0..4 + self.random.below(24) {
            if !self.is_well() {
                return Ok(());
            }
            let one = self.random.below(open.len().max(1) as u64) as usize;
            match self.random.below(what) {
                0..3 if open.len() < 4 => {
                    let plan = self.workload.plan(&self.model);
                    open.push(self.begin(store, plan)?);
                }
                3 | 4 => self.group()?,
                5 => self.decide()?,
                6 => self.move_clock(),
                _ if open.is_empty() => {}
                7 => drop(open.swap_remove(one)),
                8..10 => self.commit(open.swap_remove(one))?,
                _ => drop(self.step_of(&mut open[one])?),
            }
        }
        while self.is_well() && !open.is_empty() && self.random.chance(0.9) {
            self.commit(open.swap_remove(0))?;
        }
        Ok(())
    }

    fn begin<'s>(&self, store: &'s Store, plan: Plan) -> Outcome<Twin<'s>> {
        let begun = Twin::begin(store, &self.model, plan, self.now());
        begun.or_else(|error| self.trouble("begin", error))
    }

    /// `false`: there is nothing more to do in it.
    fn step_of(&mut self, twin: &mut Twin<'_>) -> Outcome<bool> {
        match twin.step(&self.model) {
            Ok(more) => Ok(more),
            Err(Odd::Store(error)) => self.trouble("a step of a transaction", error),
            Err(Odd::Differs(what)) => wrong(what),
        }
    }

    /// Does what is left to do in it, and commits it.
    fn commit(&mut self, mut twin: Twin<'_>) -> Outcome {
        while self.step_of(&mut twin)? {}
        self.model.retention = self.retention;
        let off = self.disk.is_off();
        let ended = twin.commit();
        let (now, flushed) = (self.now(), self.store().stats().flushed_commit.get());
        if self.disk.is_off() && !off {
            self.tally.note("cut in a commit of a transaction");
        }
        match &ended.answer {
            Err(TxError::Unknown(_)) => {
                let mut unknown = Unknown::beside(&self.model);
                ended.compare(&mut unknown.with, now, flushed, false).or_else(wrong)?;
                unknown.plan = Some(ended.plan);
                self.leave_unknown(Some(unknown))
            }
            Err(error) if is_of_the_disk(error) => self.trouble("commit", error),
            _ => {
                let ending = ended.compare(&mut self.model, now, flushed, true).or_else(wrong)?;
                self.serial.note(&ended.plan, &ended.told, &ended.answer);
                self.tally.note(ending.name());
                Ok(())
            }
        }
    }

    /// The store goes down, and comes back; whoever was begun before commits nothing any more.
    fn outlive(&mut self, open: Vec<Twin<'_>>) -> Outcome {
        let poisoned = self.store().stats().poisoned.is_some();
        match self.random.below(3) {
            _ if self.disk.is_off() => self.restore()?,
            0 if poisoned && self.store().recover().is_ok() => {
                self.pager.next_life();
                self.store().accept_clock();
                self.life += 1;
                self.say("recovered under transactions");
                self.settle()?;
            }
            1 => {
                self.kill();
                self.restore()?;
            }
            _ => {
                let policy = ImagePolicy::ALL[self.random.below(6) as usize];
                self.cut(policy);
                self.restore()?;
            }
        }
        for twin in open {
            let ended = twin.commit();
            ensure(!ended.is_committed(), || format!("begun in another life: {ended:?}"))?;
            self.tally.note("tx outlived its store");
        }
        self.check()
    }

    fn nothing_unsynced_shows(&mut self) -> Outcome {
        let view = self.view()?;
        let (head, commit) = (view.position().get(), view.commit().get());
        let is = (self.model.position(), self.model.commit());
        ensure((head, commit) == is, || format!("a view shows {head} of {is:?}"))?;
        if self.disk.is_off() {
            return Ok(());
        }
        for event in view.query::<Raw>(Query::all()) {
            match event {
                Ok(event) => ensure(event.position.get() <= head, || "un-synced event".to_owned())?,
                Err(error) => return self.read_trouble("events after an error", error),
            }
        }
        self.follow()?;
        self.compare_behind(&view)?;
        self.compare_rows(&view, &self.model.rows.clone())
    }

    // ---- what follows the writer ----

    fn behind_is_well(&self) -> Outcome {
        let stats = self.store().stats();
        ensure(stats.behind[0].stalled.is_none(), || format!("it stalls: {:?}", stats.behind))?;
        match &stats.behind[0].trouble {
            Some(error) => self.trouble("behind the writer", error),
            None => Ok(()),
        }
    }

    /// Its rows are those of the position it says it is at.
    fn compare_behind(&mut self, view: &View) -> Outcome<Option<u64>> {
        let at = match view.folded_through::<Trails>() {
            Ok(at) => at.get(),
            Err(ReadError::Rebuilding { .. }) => {
                self.tally.note("behind: rebuilding");
                return Ok(None);
            }
            Err(error) => return self.read_trouble("behind", error),
        };
        ensure(at <= view.position().get(), || format!("rows behind are at {at}, the view {view:?}"))?;
        if at < view.position().get() {
            self.tally.note("behind: lags");
        }
        let rows = view.rows::<Trails>(..).with_positions();
        let is: Result<BTreeMap<_, _>, _> =
            rows.map(|row| row.map(|(key, row)| (key, (row.row, row.changed_at.get())))).collect();
        let is = match is {
            Err(ReadError::ViewExpired { .. }) => {
                self.tally.note("behind: expired");
                return Ok(None);
            }
            is => is.or_else(|error| self.read_trouble("rows behind", error))?,
        };
        let must = self.model.trails(at);
        ensure(is == must, || format!("rows behind at {at}\n  must be {must:?}\n  are {is:?}"))?;
        Ok(Some(at))
    }

    fn catch_up(&mut self) -> Outcome {
        self.say("caught up");
        for _ in 0..10_000 {
            self.behind_is_well()?;
            let view = self.view()?;
            let behind = self.store().stats().behind[0].clone();
            if behind.lag_len == 0 && behind.rebuilding.is_none() {
                self.tally.note("behind: caught up");
                let at = self.compare_behind(&view)?;
                return ensure(at == Some(view.position().get()), || format!("{at:?} is not {view:?}"));
            }
            self.step_store()?;
        }
        wrong("it never catches up")
    }

    fn rebuild_behind(&mut self) -> Outcome {
        self.say("rebuilt behind");
        match self.store().rebuild::<Trails>() {
            Ok(()) => self.tally.note("behind: rebuilt"),
            Err(error) => return self.read_trouble("rebuild", error),
        }
        self.catch_up()
    }

    // ---- checks ----

    fn step_store(&mut self) -> Outcome {
        self.store().step();
        self.after_step()
    }

    /// What the store has put on record by itself in its last step is what it may be, and checks that stop have a reason.
    fn after_step(&mut self) -> Outcome {
        self.take_over()?;
        let stats = self.store().checks().stats();
        let Some(trouble) = stats.into_iter().find_map(|check| check.trouble) else { return Ok(()) };
        self.tally.note("checks: stopped");
        if self.is_well() && self.random.coin() {
            self.stand_still()?;
        }
        self.trouble("checks", trouble)
    }

    fn take_over(&mut self) -> Outcome<Vec<Says>> {
        let view = self.view()?;
        let took = findings::take_over(&mut self.model, &view, &self.pager);
        let took = took.or_else(|odd| self.odd(odd))?;
        for says in &took {
            self.tally.note(match says {
                Says::Found(check, _, finding)
                    if check == FRESHNESS && finding.verdict != checks::Verdict::Violated =>
                {
                    "checks: found that they go on"
                }
                Says::Found(check, ..) if check == FRESHNESS => {
                    ensure(self.faults() > self.mark, || {
                        format!("no fault, and checks stood still: {says:?}")
                    })?;
                    "checks: found that they stood still"
                }
                Says::Found(_, _, finding) => match finding.verdict {
                    checks::Verdict::Violated if finding.by == 0 => "checks: violated by time",
                    checks::Verdict::Violated => "checks: violated by an event",
                    checks::Verdict::Healed => "checks: healed",
                    checks::Verdict::Retracted => "checks: retracted",
                    checks::Verdict::Skewed => "checks: a time too far ahead",
                },
                Says::Notified(told) => match told.kind {
                    NotificationKind::Resolved => "checks: resolved",
                    _ => "checks: notified",
                },
                Says::Routed(_) => "checks: a route began",
                Says::Delivered(..) => "checks: alerted",
                Says::Passed => "checks: time passed",
                Says::Acknowledged(..) => "checks: acknowledged",
            });
        }
        Ok(took)
    }

    fn odd<T>(&self, odd: findings::Odd) -> Outcome<T> {
        match odd {
            findings::Odd::Store(error) => self.read_trouble("what is on record", error),
            findings::Odd::Differs(what) => wrong(what),
        }
    }

    /// Checks that have stopped judge and record nothing until somebody recovers them, whatever else goes on.
    fn stand_still(&mut self) -> Outcome {
        let stood = |store: &Store| -> Vec<_> {
            store.checks().stats().iter().map(|check| (check.position, check.activations)).collect()
        };
        let before = stood(self.store());
        for _ in 0..3 {
            self.clock.advance(Duration::from_secs(5));
            self.store().step();
            let took = self.take_over()?;
            // What was found before may be told now.
            let dog = |says: &Says| match says {
                Says::Found(id, ..) => id.starts_with("tallystone."),
                says => matches!(says, Says::Notified(_) | Says::Routed(_) | Says::Delivered(..)),
            };
            ensure(took.iter().all(dog), || format!("checks that have stopped say {took:?}"))?;
        }
        ensure(before == stood(self.store()), || "checks that have stopped go on".to_owned())?;
        if self.is_well() {
            let dead = findings::stuck(&self.model).len();
            ensure(dead == before.len(), || {
                format!("{dead} of {} checks are said to be dead", before.len())
            })?;
        }
        Ok(())
    }

    /// Lets time pass, and the checks see it.
    fn pass(&mut self, time: Duration) -> Outcome {
        self.clock.advance(time);
        self.say(format!("{time:?} passed"));
        (0..2).try_for_each(|_| self.step_store())
    }

    /// Lets the checks see everything, and compares all that they say.
    fn audit(&mut self) -> Outcome {
        self.come_to_rest()?;
        let compared = findings::compare(&self.model, &self.store().checks());
        compared.or_else(|odd| self.odd(odd))?;
        let stuck = findings::stuck(&self.model);
        ensure(stuck.is_empty(), || format!("{stuck:?} go on, and are said to be dead"))?;
        self.say("audited");
        self.tally.note("checks: audited");
        Ok(())
    }

    fn come_to_rest(&mut self) -> Outcome {
        let mut rest = Rest::default();
        for _ in 0..5000 {
            let before = self.model.position();
            self.step_store()?;
            if !self.is_well() {
                return self.trouble("auditing", format!("{:?}", self.store().stats()));
            }
            if rest.has_come(before, &self.model, &self.store().checks()) {
                return Ok(());
            }
        }
        wrong("the checks never come to rest")
    }

    /// What checks keep is lost, or an old copy of it is put back.
    fn without_checks(&mut self) -> Outcome {
        self.views.clear();
        self.hang_up();
        if let Some(store) = self.store.take() {
            store.close();
        }
        let path = checks_file();
        match self.old_checks.take().filter(|_| !self.disk.is_off()) {
            Some(bytes) => {
                self.say("an old checks.redb");
                self.tally.note("old checks.redb");
                self.disk.write_file(path, &bytes);
            }
            None => {
                self.say("no checks.redb");
                self.tally.note("no checks.redb");
                let _ = self.disk.remove(&path);
            }
        }
        self.restore()
    }

    /// Somebody has seen to a violation.
    fn acknowledge(&mut self) -> Outcome {
        let open = self.store().checks().open().or_else(|error| self.read_trouble("violations", error))?;
        if open.is_empty() {
            return Ok(());
        }
        let violation = &open[self.random.below(open.len() as u64) as usize];
        self.say(format!("acknowledged {} at {}", violation.check, violation.activation));
        match self.store().checks().acknowledge(violation, "somebody") {
            Ok(_) => drop(self.take_over()?),
            Err(
                error @ (AppendError::Unknown(_) | AppendError::Poisoned { .. } | AppendError::Storage(_)),
            ) => {
                return self.trouble("acknowledge", error);
            }
            Err(error) => return wrong(format!("acknowledge: {error}")),
        }
        Ok(())
    }

    /// Time passes until nothing waits any more: every deadline has become a finding, and somebody was told of each. From then
    /// on nothing is new, whatever checks are made to forget.
    fn wait_for_all(&mut self) -> Outcome {
        self.pager.set_down(false);
        let newest = self.model.commits.last().map_or(0, |last| last.micros);
        self.clock.jump(Timestamp::from_micros(self.clock_now().max(newest)));
        self.store().accept_clock();
        self.clock.advance(checks::LONGEST + Duration::from_secs(60));
        self.audit()?;
        let forgotten = findings::forgotten(&self.model, self.now());
        ensure(forgotten.is_empty(), || format!("deadlines of {forgotten:?} are over, and nobody says so"))?;
        self.clock.advance(Duration::from_secs(60));
        self.audit()?;
        let untold = findings::untold(&self.model);
        ensure(untold.is_empty(), || format!("nobody was told of {untold:?}"))?;
        let (position, all) = (self.model.position(), self.old_checks.take());
        self.reopen_quietly()?;
        self.audit()?;
        self.without_checks()?;
        self.audit()?;
        self.old_checks = all;
        let is = self.model.position();
        ensure(is == position, || format!("{} events are new, and nothing happened", is - position))
    }

    /// Subscribers see what is new to them: each event once, in order, and none that is not durable.
    fn follow(&mut self) -> Outcome {
        let mut followers = std::mem::take(&mut self.followers);
        let followed = followers.iter_mut().try_for_each(|follower| self.follow_as(follower));
        self.followers = followers;
        followed
    }

    fn follow_as(&mut self, follower: &mut Follower) -> Outcome {
        let store = self.store.clone().expect("the store is open");
        let ask = Ask { after: follower.seen, ..follower.ask.clone() };
        let mut must = self.model.answer(&ask, self.model.position()).into_iter();
        let subscribe = || store.subscribe(follower.ask.query(), Position::new(follower.seen));
        let mut subscription = follower.subscription.take().unwrap_or_else(subscribe);
        for _ in 0..self.random.below(60) {
            match subscription.try_next() {
                Poll::Ready(Some(Ok(event))) => {
                    let (position, next) = (event.position.get(), must.next());
                    ensure(next == Some(position), || format!("followed to {position}, not {next:?}"))?;
                    ensure(self.same_event(&event), || format!("followed to another: {event:?}"))?;
                    follower.seen = position;
                    self.tally.note("followed");
                }
                Poll::Ready(Some(Err(error))) => return self.read_trouble("subscription", error),
                Poll::Ready(None) => return wrong("a subscription ended, and the store is open"),
                Poll::Pending => {
                    let (well, next) = (store.stats().poisoned.is_none(), must.next());
                    ensure(!well || next.is_none(), || format!("nobody follows to {next:?}"))?;
                    break;
                }
            }
        }
        follower.subscription = Some(subscription);
        Ok(())
    }

    /// Nobody outlives the process, but what was kept of it.
    fn hang_up(&mut self) {
        self.followers.iter_mut().for_each(|follower| follower.subscription = None);
    }

    fn reopen(&mut self) -> Outcome {
        self.views.clear();
        self.hang_up();
        if let Some(store) = self.store.take() {
            store.close();
        }
        self.say("closed");
        if self.random.chance(0.3) {
            self.old_state = self.disk.read_file(Path::new(STORE).join("state.redb")).ok();
        }
        if self.random.chance(0.3) && !self.disk.is_off() {
            let file = self.disk.files().into_iter().find(|path| is_behind(path));
            self.old_behind = file.and_then(|path| Some((path.clone(), self.disk.read_file(&path).ok()?)));
        }
        if self.checked && self.random.chance(0.3) {
            self.old_checks = self.disk.read_file(checks_file()).ok();
        }
        if !self.disk.is_off() && self.random.chance(0.3) {
            let policy = ImagePolicy::ALL[self.random.below(6) as usize];
            self.cut(policy);
        }
        self.restore()
    }

    fn reopen_quietly(&mut self) -> Outcome {
        self.views.clear();
        self.hang_up();
        if let Some(store) = self.store.take() {
            store.close();
        }
        self.restore()
    }

    /// Derived state is lost, or an old copy of it is put back.
    fn without_state(&mut self) -> Outcome {
        self.views.clear();
        self.hang_up();
        if let Some(store) = self.store.take() {
            store.close();
        }
        let path = Path::new(STORE).join("state.redb");
        match self.old_state.take().filter(|_| self.random.coin() && !self.disk.is_off()) {
            Some(bytes) => {
                self.say("an old state.redb");
                self.tally.note("old state.redb");
                self.disk.write_file(path, &bytes);
            }
            None => {
                self.say("no state.redb");
                self.tally.note("no state.redb");
                // A fault may hit it: then it stays.
                let _ = self.disk.remove(&path);
            }
        }
        if self.random.coin() && !self.disk.is_off() {
            self.without_behind();
        }
        self.restore()
    }

    /// The files of what is behind are lost, or an old one is put back.
    fn without_behind(&mut self) {
        match self.old_behind.take() {
            Some((path, bytes)) => {
                self.say("an old file behind");
                self.tally.note("old file behind");
                self.disk.write_file(path, &bytes);
            }
            None => {
                self.say("no file behind");
                self.tally.note("no file behind");
                let files = self.disk.files();
                files.iter().filter(|path| is_behind(path)).for_each(|path| drop(self.disk.remove(path)));
            }
        }
    }

    fn verify(&mut self) -> Outcome {
        let report = match self.store().verify() {
            Ok(report) => report,
            Err(error) => return self.read_trouble("verify", error),
        };
        self.say("verified");
        if report.first_bad.is_some() && self.faults() > self.mark {
            return Err(Trouble::Faulted(format!("verify under faults: {report:?}")));
        }
        ensure(report.first_bad.is_none() && report.folded_otherwise.is_none(), || {
            format!("verify: {report:?}")
        })?;
        let (commits, events) = (self.model.commit(), self.model.position());
        ensure((report.commits, report.events) == (commits, events), || format!("verify: {report:?}"))?;
        ensure(report.keys == self.model.keys_kept(), || {
            format!("verify: {report:?}, {} keys are kept", self.model.keys_kept())
        })
    }

    // ---- reads ----

    fn view(&self) -> Outcome<View> {
        match self.store().view() {
            Ok(view) => Ok(view),
            Err(error) => wrong(format!("view: {error}")),
        }
    }

    fn read_trouble<T>(&self, what: &str, error: ReadError) -> Outcome<T> {
        match error {
            ReadError::Storage(error) => self.trouble(what, error),
            error => wrong(format!("{what}: {error}")),
        }
    }

    fn take_view(&mut self) -> Outcome<Held> {
        let view = self.view()?;
        let (position, commit) = (view.position().get(), view.commit().get());
        let is = (self.model.position(), self.model.commit());
        ensure((position, commit) == is, || format!("head ({position}, {commit}), the model {is:?}"))?;
        let behind = self.compare_behind(&view)?;
        Ok(Held { view, behind, position, rows: self.model.rows.clone(), life: self.life })
    }

    fn look_back(&mut self) -> Outcome {
        let views = std::mem::take(&mut self.views);
        for held in &views {
            self.compare_events(&held.view, held.position)?;
            if held.life == self.life {
                self.compare_rows(&held.view, &held.rows)?;
                let behind = self.compare_behind(&held.view)?;
                // A file that was rebuilt meanwhile is gone, and its views with it.
                ensure(behind == held.behind || behind.is_none(), || {
                    format!("{:?} in a view became {behind:?}", held.behind)
                })?;
            } else {
                let row = held.view.row::<Balances>(&0);
                ensure(matches!(row, Err(ReadError::ViewExpired { .. })), || {
                    format!("a row of before: {row:?}")
                })?;
                self.tally.note("expired view");
            }
        }
        self.tally.add("old view", views.len() as u64);
        if self.random.coin() {
            self.views = views;
        }
        Ok(())
    }

    /// Everything, against the model.
    fn check(&mut self) -> Outcome {
        let Held { view, position, rows, .. } = self.take_view()?;
        self.compare_events(&view, position)?;
        self.compare_rows(&view, &rows)?;
        self.compare_keys(&view)?;
        self.compare_files()?;
        for _ in 0..4 {
            self.compare_query(&view, position)?;
        }
        let (opened, held) = self.model.money();
        ensure(opened == held, || format!("{opened} cents came in, {held} are there"))
    }

    fn reads(&mut self) -> Outcome {
        let Held { view, position, .. } = self.take_view()?;
        for _ in 0..3 {
            self.compare_query(&view, position)?;
        }
        self.compare_ranges(&view)
    }

    fn same_event(&self, event: &Sequenced<Raw>) -> bool {
        let noted = self.model.event(event.position.get());
        event.type_name() == noted.fact.type_name()
            && event.stream() == noted.fact.stream()
            && event.tags().iter().collect::<Vec<_>>() == noted.fact.tags()
            && event.data() == noted.fact.data()
            && event.stream_version == noted.stream_version
            && Timestamp::from(event.recorded_at).micros() == noted.micros
    }

    fn compare_events(&self, view: &View, position: u64) -> Outcome {
        let mut next = 0;
        for event in view.query::<Raw>(Query::all()) {
            let event = event.or_else(|error| self.read_trouble("events", error))?;
            next += 1;
            ensure(event.position.get() == next && next <= position, || {
                format!("{} after {next}", event.position)
            })?;
            ensure(self.same_event(&event), || {
                format!("event {next} is {event:?}, {:?}", self.model.event(next))
            })?;
        }
        ensure(next == position, || format!("{next} events of {position}"))
    }

    fn compare_query(&mut self, view: &View, head: u64) -> Outcome {
        let mut ask = self.workload.ask(&self.model);
        if ask.after > head {
            let refused = view.query::<Raw>(ask.query()).next();
            ensure(matches!(refused, Some(Err(ReadError::BeyondHead { .. }))), || {
                format!("{ask:?} at {head} is not refused: {refused:?}")
            })?;
            ask.after = head;
        }
        let must = self.model.answer(&ask, head);
        let mut is = Vec::new();
        for event in view.query::<Raw>(ask.query()) {
            let event = event.or_else(|error| self.read_trouble("query", error))?;
            ensure(self.same_event(&event), || format!("event {} is {event:?}", event.position))?;
            is.push(event.position.get());
        }
        ensure(is == must, || format!("{ask:?} at {head}\n  must be {must:?}\n  is {is:?}"))
    }

    fn compare_rows(&self, view: &View, rows: &AllRows) -> Outcome {
        let read = |error| self.read_trouble::<()>("rows", error).expect_err("an error");
        let balances = view.rows::<Balances>(..).with_positions();
        let balances = balances.map(|row| row.map(|(key, row)| (key, (row.row, row.changed_at.get()))));
        let balances: BTreeMap<_, _> = balances.collect::<Result<_, _>>().map_err(read)?;
        let seats = view.rows::<Seats>(..).with_positions();
        let seats = seats.map(|row| row.map(|(key, row)| (key, (row.row, row.changed_at.get()))));
        let seats: BTreeMap<_, _> = seats.collect::<Result<_, _>>().map_err(read)?;
        let counts = view.rows::<Counts>(..).with_positions();
        let counts = counts.map(|row| row.map(|(key, row)| (key, (row.row, row.changed_at.get()))));
        let counts: BTreeMap<_, _> = counts.collect::<Result<_, _>>().map_err(read)?;
        let prices = view.rows::<Prices>(..).with_positions();
        let prices = prices.map(|row| row.map(|(key, row)| (key, (row.row, row.changed_at.get()))));
        let prices: BTreeMap<_, _> = prices.collect::<Result<_, _>>().map_err(read)?;
        let is = AllRows { balances, seats, counts, prices };
        ensure(is == *rows, || format!("rows\n  must be {rows:?}\n  are {is:?}"))
    }

    fn compare_ranges(&mut self, view: &View) -> Outcome {
        let mut key = || (self.random.below(4) as u32, self.random.below(15) as u32);
        let (low, high) = (key(), key());
        let rows = self.model.rows.seats.clone();
        let must = |keep: &dyn Fn(&(u32, u32)) -> bool| -> Vec<_> {
            rows.iter().filter(|(key, _)| keep(key)).map(|(key, row)| (*key, row.0)).collect()
        };
        let read = |error| self.read_trouble::<()>("range", error).expect_err("an error");
        let is: Vec<_> = view.rows::<Seats>(low..high).collect::<Result<_, _>>().map_err(read)?;
        ensure(is == must(&|key| low <= *key && *key < high), || format!("{low:?}..{high:?}: {is:?}"))?;
        let mut is: Vec<_> =
            view.rows_backwards::<Seats>(low..=high).collect::<Result<_, _>>().map_err(read)?;
        is.reverse();
        ensure(is == must(&|key| low <= *key && *key <= high), || {
            format!("back {low:?}..={high:?}: {is:?}")
        })?;
        let one = view.row::<Seats>(&low).map_err(read)?;
        ensure(one == rows.get(&low).map(|row| row.0), || format!("row {low:?}: {one:?}"))?;
        for (stream, version) in self.model.streams() {
            let Some(account) = stream.strip_prefix("money/") else { continue };
            let account: u32 = account.parse().expect("streams of accounts end in a number");
            let is = view.stream_version::<workload::Money>(&account).map_err(read)?;
            ensure(is == version, || format!("{stream} is at {is}, not {version}"))?;
        }
        Ok(())
    }

    /// Every key that is kept answers, no other does, and a few are asked again.
    fn compare_keys(&mut self, view: &View) -> Outcome {
        for ((scope, key), commit) in &self.model.keys {
            let must = self.model.commits[*commit as usize - 1].request.response.clone().unwrap_or_default();
            // A view knows the time of the head only.
            let must = self.model.keeps(*commit, Timestamp::from_micros(0)).then_some(must);
            match view.answer(scope, key) {
                Ok(answer) if answer == must => {}
                Ok(answer) => {
                    return wrong(format!("key {scope}/{key} of commit {commit} answers {answer:?}"));
                }
                Err(error) => return self.read_trouble("answer", error),
            }
        }
        let ghost = view.answer("nobody", "ever").or_else(|error| self.read_trouble("answer", error))?;
        ensure(ghost.is_none(), || "a key nobody used has an answer".to_owned())?;
        if self.store().stats().poisoned.is_some() {
            return Ok(());
        }
        let (kept, used) = (self.model.keys_kept(), self.model.keys.len() as u64);
        ensure((kept..=used).contains(&self.store().stats().keys_len), || {
            format!("{used} keys, {kept} of them kept, {:?}", self.store().stats())
        })?;
        let now = Timestamp::from_micros(self.clock_now());
        for _ in 0..3.min(used) {
            let commit = *self.model.keys.values().nth(self.random.below(used) as usize).expect("in range");
            if !self.model.keeps(commit, now) {
                self.tally.note("expired");
                continue;
            }
            let request = self.model.commits[commit as usize - 1].request.clone();
            if let Some(must) = self.model.commits[commit as usize - 1].answer {
                let again = self.store().transact(request.work(), |_| -> Decision<u64> {
                    panic!("commit {commit} is decided again")
                });
                match again {
                    Ok(again) => {
                        let same = self.model.is_receipt(commit, &again.receipt) && again.response == must;
                        ensure(same && again.replayed, || {
                            format!("the retry of commit {commit} is {again:?}")
                        })?;
                    }
                    Err(TxError::Storage(error)) => return self.trouble("retry", error),
                    Err(TxError::Poisoned(_)) => return Ok(()),
                    Err(error) => return wrong(format!("the retry of commit {commit}: {error}")),
                }
                continue;
            }
            match self.store().append(request.append()) {
                Ok(again) => ensure(again.replayed && self.model.same(commit, &again), || {
                    format!("the retry of commit {commit} is {again:?}")
                })?,
                Err(AppendError::Storage(error)) => return self.trouble("retry", error),
                Err(AppendError::Poisoned { .. }) => return Ok(()),
                Err(error) => return wrong(format!("the retry of commit {commit}: {error}")),
            }
        }
        Ok(())
    }

    /// No two transactions drew the same id.
    fn compare_chance(&self) -> Outcome {
        let drawn = self.model.events.iter().filter_map(|event| match &event.fact {
            Fact::Told(_, bytes) => Some(&bytes[8..]),
            _ => None,
        });
        let mut seen = BTreeSet::new();
        ensure(drawn.into_iter().all(|bytes| seen.insert(bytes)), || "an id was drawn twice".to_owned())
    }

    /// Nothing lies about that is not the store's.
    fn compare_files(&self) -> Outcome {
        for path in self.disk.files() {
            let name = path.strip_prefix(STORE).unwrap_or(&path).display().to_string();
            let known = ["lock", "state.redb", "verify.redb", "checks.redb"].contains(&name.as_str())
                || name.starts_with("log/cut-")
                || name.starts_with("behind/trails.")
                || (name.starts_with("log/") && name.ends_with(".log"))
                || self.faults() > self.mark;
            ensure(known, || format!("{name} lies about"))?;
        }
        Ok(())
    }

    // ---- the whole ----

    fn run(&mut self, steps: u64) -> Outcome {
        self.arm();
        self.restore()?;
        for _ in 0..steps {
            self.arm();
            let stepped = match self.store {
                Some(_) => self.step(),
                None => Ok(()),
            };
            self.go_on(stepped)?;
        }
        self.end()
    }

    /// After a step: opens again if that is needed.
    fn go_on(&mut self, stepped: Outcome) -> Outcome {
        match stepped {
            Ok(()) => {}
            Err(Trouble::Faulted(what)) => {
                self.say(format!("faulted: {what}"));
                self.restore()?;
            }
            Err(wrong) => return Err(wrong),
        }
        match self.is_well() {
            true => Ok(()),
            false => self.restore(),
        }
    }

    /// The faults stop: now everything must go through.
    fn end(&mut self) -> Outcome {
        self.disarm();
        self.kill();
        self.cut(ImagePolicy::DropAll);
        self.mark = self.faults();
        self.restore()?;
        self.group()?;
        self.verify()?;
        if self.checked {
            self.wait_for_all()?;
        }
        self.reopen()?;
        self.catch_up()?;
        self.verify()?;
        while self.followers[0].seen < self.model.position() {
            self.follow()?;
        }
        let files = self.disk.files().iter().filter(|path| is_behind(path)).count();
        ensure(files == 1, || format!("{files} files behind"))?;
        self.compare_chance()?;
        let Replayed { committed, read_only, copied, left_out } =
            self.serial.replay(self.store()).or_else(wrong)?;
        self.tally.add("decided again alone", committed);
        self.tally.add("read again alone", read_only);
        self.tally.add("copied beside them", copied);
        self.tally.add("not decided again", left_out);
        let stats = self.disk.stats();
        ensure(stats.syncs_after_failed_sync == 0, || "a sync after a failed sync".to_owned())?;
        for (fault, count) in &stats.faults {
            self.tally.add(format!("{fault:?}"), *count);
        }
        self.tally.add("over quota", stats.over_quota);
        self.tally.add("commits", self.model.commit());
        self.tally.add("mutating calls", self.disk.op_count());
        Ok(())
    }
}

/// Before the commit, or instead of it.
fn is_of_the_disk<E>(error: &TxError<E>) -> bool {
    match error {
        TxError::Storage(_) | TxError::Poisoned(_) => true,
        TxError::Swallowed(fault) => is_of_the_disk(fault.cause()),
        _ => false,
    }
}

/// Runs a seed: what happened, and the trace.
fn run_seed(seed: u64) -> Result<(Tally, u64), String> {
    let mut sim = Sim::new(seed, !seed.is_multiple_of(10));
    let steps = 20 + sim.random.below(60);
    finish(&mut sim, &format!("SEED={seed}"), |sim| sim.run(steps))
}

/// Runs it, catches what escapes, and tells the story if it goes wrong.
fn finish(sim: &mut Sim, name: &str, run: impl FnOnce(&mut Sim) -> Outcome) -> Result<(Tally, u64), String> {
    let ran = catch_unwind(AssertUnwindSafe(|| run(sim)));
    let what = match ran {
        Ok(Ok(())) => return Ok((std::mem::take(&mut sim.tally), sim.disk.trace_hash())),
        Ok(Err(Trouble::Faulted(what) | Trouble::Wrong(what))) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("panicked: {}", text.unwrap_or_default())
        }
    };
    let trail = sim.trail.iter().rev().take(25).rev().cloned().collect::<Vec<_>>().join("\n  ");
    let recent: Vec<_> = sim.disk.recent();
    let recent = recent[recent.len().saturating_sub(40)..].join("\n  ");
    Err(format!("{name}: {what}\ntrail:\n  {trail}\ndisk:\n  {recent}"))
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Folds panic on purpose, and redb on damage: neither is news.
fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.to_string();
            if !text.contains(ON_PURPOSE) && (std::env::var("LOUD").is_ok() || !text.contains("redb-")) {
                usual(info);
            }
        }));
    });
}

#[test]
fn seeds_match_model_under_disk_faults() {
    quiet();
    let (from, count) = match env("SEED") {
        Some(seed) => (seed, 1),
        None => (env("SIM_FROM").unwrap_or(0), env("SIM_SEEDS").unwrap_or(200)),
    };
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    for seed in from..from + count {
        match run_seed(seed) {
            Ok((one, trace)) => {
                if seed % 50 == 7 {
                    let again = run_seed(seed).map(|(_, trace)| trace);
                    assert_eq!(again, Ok(trace), "SEED={seed} runs otherwise the second time");
                }
                tally.merge(one);
            }
            Err(report) => {
                println!("{report}\n");
                failed.push(seed);
                if failed.len() as u64 >= env("SIM_FAILURES").unwrap_or(5) {
                    break;
                }
            }
        }
    }
    println!("{count} seeds: {}", tally.line());
    assert!(
        failed.is_empty(),
        "failed: {}",
        failed.iter().map(|seed| format!("SEED={seed}")).collect::<Vec<_>>().join(" ")
    );
    if count >= 200 {
        for what in [
            "unknown was there",
            "unknown was lost",
            "replayed",
            "fault in recovery",
            "old view",
            "expired",
            "used again",
            "clock jumped",
            "cut in a commit of a transaction",
            "tx committed",
            "tx conflict",
            "tx outlived its store",
            "tx poisoned",
            "tx read only",
            "tx replayed",
            "tx too old",
            "tx tried again",
            "unknown tx was lost",
            "unknown tx was there",
            "checks: acknowledged",
            "checks: alerted",
            "checks: notified",
            "checks: resolved",
            "checks: found that they stood still",
            "checks: healed",
            "checks: retracted",
            "checks: stopped",
            "checks: time passed",
            "checks: violated by an event",
            "checks: violated by time",
            "no checks.redb",
            "old checks.redb",
        ] {
            assert!(tally.count(what) > 0, "{what} never happened");
        }
    }
}

// ---- one script, cut everywhere ----

/// One thing a script does.
#[derive(Debug, Clone)]
enum Act {
    Group(Vec<Request>),
    /// A decision, and what comes between it and its commit.
    Decide(Vec<Request>, Plan),
    /// A transaction by hand, around a group.
    Around(Vec<Request>, Plan),
    Reopen,
    WithoutState,
    Verify,
    /// Seconds pass.
    Pass(u64),
    Audit,
    WithoutChecks,
    Acknowledge,
}

/// Create, roll, flush, close, rebuild, retry, decide.
fn script() -> Vec<Act> {
    let keyed = |facts: Vec<Fact>, key: &str| Request::of(facts).keyed("script", key);
    let note = |number: u64, bytes: usize| Request::of([Fact::Note(number, bytes)]);
    // Kept until three others were used.
    let shortly = |number: u64| keyed(vec![Fact::Note(number, 9)], "shortly").kept(Retention::Last(3));
    let transfer = |number: u64| {
        keyed(vec![Fact::Took(1, 5, number), Fact::Got(2, 5, number)], &format!("transfer-{number}"))
    };
    let moves = |number: u64| {
        let steps = vec![Step::Transfer(1, 2, 5, number), Step::Draw(number)];
        Plan::of(steps).keyed("script", &format!("moves-{number}"), number)
    };
    let rests_on_row = Plan::of(vec![Step::Row(RowName::Balance(1)), Step::Append(Fact::Note(60, 8))]);
    let rests_on_range = Plan::of(vec![
        Step::Seats((1, 3), (1, 9), Which::All),
        Step::Stream(3),
        Step::Append(Fact::Reserved(2, 4, 4)),
    ]);
    let claims = |by: u64| Plan::of(vec![Step::Claim(2, by), Step::Once(1)]);
    let mut once = Request::of([Fact::Claimed(1, 1)]);
    once.conditions.push((workload::Ask::tagged("name:1"), None));
    let mut acts = vec![
        Act::Group(vec![
            keyed(vec![Fact::Opened(1, 500)], "open-1"),
            keyed(vec![Fact::Opened(2, 0)], "open-2"),
        ]),
        Act::Group(vec![transfer(1), transfer(2), transfer(1)]),
        Act::Group(vec![
            once.clone(),
            once.clone(),
            Request::of([Fact::Reserved(1, 1, 1), Fact::Reserved(1, 1, 2)]),
        ]),
        Act::Decide(vec![], moves(101)),
        Act::Decide(vec![transfer(30), note(30, 20)], moves(102)),
        Act::Group(vec![note(1, 1400), note(2, 1400), Request::of([Fact::Reserved(1, 1, 1)])]),
        Act::Group(vec![
            note(3, 1400),
            Request::of([Fact::Reserved(1, workload::CURSED_SEAT, 1)]),
            transfer(3),
        ]),
        Act::Reopen,
        Act::Group(vec![transfer(3), shortly(1), transfer(4), note(4, 20)]),
        Act::Around(vec![transfer(31), note(31, 20)], rests_on_row),
        Act::Group((0..6).map(|number| note(number, 900)).collect()),
        Act::Around(vec![transfer(32), note(32, 20)], rests_on_range.keyed("script", "range", 1)),
        Act::Decide(vec![], claims(1)),
        Act::Group(vec![Request::of([Fact::Freed(1, 1), Fact::Reserved(1, 2, 3)]), transfer(5)]),
        Act::WithoutState,
        Act::Group(vec![shortly(1), transfer(1), transfer(6), once]),
        Act::Decide(vec![], moves(101)),
        Act::Decide(vec![note(33, 20)], claims(2)),
    ];
    for number in 7..15 {
        acts.push(Act::Group(vec![transfer(number), note(number, 300), shortly(number)]));
    }
    acts.extend([Act::Verify, Act::Reopen, Act::Group(vec![transfer(14), transfer(15)])]);
    acts
}

fn scripted(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, false);
    sim.options = Options::default();
    sim.options.event_bytes_max = 1500;
    sim.options.segment_bytes_min = 4096;
    sim.options.segment_bytes_max = 8192;
    sim.options.overlay_bytes_max = 4096;
    sim.options.state_cache_bytes = 1 << 16;
    sim.model = Model::new(sim.options.clone());
    sim.checked = false;
    sim
}

/// With checks, which keep little in memory.
fn checked(seed: u64) -> Sim {
    let mut sim = scripted(seed);
    sim.checked = true;
    sim.options.check_keys_max = [2, 6, 1 << 20][seed as usize % 3];
    sim.options.alert_every_ms = 1000;
    sim.options.check_overdue_ms = 31 * 86_400_000;
    sim
}

/// Deadlines that pass while it is open, while it is closed, and while nothing else happens; what heals, and what is retracted.
fn script_of_checks() -> Vec<Act> {
    let group = |facts: Vec<Fact>| {
        let key = format!("{facts:?}");
        Act::Group(vec![Request::of(facts).keyed("checks", &key[..key.len().min(30)])])
    };
    let note = |number: u64, bytes: usize| Fact::Note(number, bytes);
    vec![
        group(vec![Fact::Opened(1, 500), Fact::Opened(2, 100)]),
        group(vec![Fact::Reserved(1, 1, 1), Fact::Reserved(1, 2, 2)]),
        group(vec![note(0, 0), note(3, 0), note(4, 0)]),
        Act::Pass(3),
        group(vec![Fact::Took(1, 150, 1), Fact::Got(2, 150, 1)]),
        Act::Audit,
        Act::Pass(2),
        group(vec![Fact::Opened(1, 20)]),
        Act::Reopen,
        Act::Pass(4),
        Act::Audit,
        group(vec![Fact::Freed(1, 1), note(16, 0)]),
        Act::Pass(3),
        group(vec![note(20, 0), note(8, 0)]),
        Act::WithoutChecks,
        group(vec![note(5, 0), Fact::Reserved(2, 1, 1), Fact::Reserved(2, 2, 2), Fact::Reserved(2, 3, 3)]),
        Act::Acknowledge,
        Act::Pass(7),
        group(vec![Fact::Freed(2, 1), Fact::Freed(1, 2), note(44, 0)]),
        Act::WithoutState,
        Act::Pass(1),
        group(vec![note(45, 0), note(21, 0), Fact::Reserved(1, 5, 0)]),
        Act::Reopen,
        Act::Pass(30),
        Act::Audit,
        group(vec![Fact::Freed(1, 5), Fact::Opened(2, 500)]),
    ]
}

fn play(sim: &mut Sim, acts: &[Act]) -> Outcome {
    sim.restore()?;
    for act in acts {
        while let Some(plan) = sim.workload.waiting_to_decide() {
            let decided = sim.serve(Vec::new(), Some(plan));
            sim.go_on(decided)?;
        }
        let mut waiting = sim.workload.waiting();
        let mut all = |requests: &[Request]| {
            waiting.extend_from_slice(requests);
            std::mem::take(&mut waiting)
        };
        let played = match act {
            Act::Group(requests) => sim.serve(all(requests), None),
            Act::Decide(requests, plan) => sim.serve(all(requests), Some(plan.clone())),
            Act::Around(requests, plan) => sim.around(all(requests), plan.clone()),
            Act::Reopen => sim.reopen_quietly(),
            Act::WithoutState => sim.without_state(),
            Act::Verify => sim.verify(),
            Act::Pass(seconds) => sim.pass(Duration::from_secs(*seconds)),
            Act::Audit => sim.audit(),
            Act::WithoutChecks => sim.without_checks(),
            Act::Acknowledge => sim.acknowledge(),
        };
        sim.go_on(played)?;
    }
    Ok(())
}

/// How many mutating calls a script makes when nothing goes wrong.
fn calls_of(mut sim: Sim, acts: &[Act]) -> u64 {
    let played = finish(&mut sim, "script", |sim| play(sim, acts));
    played.unwrap_or_else(|report| panic!("{report}"));
    sim.disk.op_count()
}

fn assert_none(failed: &[String]) {
    failed.iter().take(3).for_each(|report| println!("{report}\n"));
    let names: Vec<_> =
        failed.iter().filter_map(|report| report.split_once(": ")).map(|(name, _)| name).collect();
    assert!(failed.is_empty(), "{} failed: {names:?}", failed.len());
}

#[test]
fn script_survives_power_cuts_at_every_call_and_recovery() {
    quiet();
    let acts = script();
    let calls = calls_of(scripted(1), &acts);
    let (mut runs, mut seconds, mut failed, mut tally) = (0, 0, Vec::new(), Tally::default());
    // With one of the policies, and with all of them on demand.
    let all = env("SWEEP").is_some();
    for call in every(2, calls) {
        for (index, policy) in ImagePolicy::ALL.into_iter().enumerate() {
            if !all && call % 3 != index as u64 % 3 {
                continue;
            }
            let mut sim = scripted(call * 6 + index as u64);
            sim.disk.cut_at(call, policy);
            // Another cut while it recovers from the first, at every distance in turn.
            if (call / 3).is_multiple_of(2) {
                sim.second = Some((1 + (call / 6) % 24, ImagePolicy::ALL[(call as usize + index) % 6]));
                seconds += 1;
            }
            let name = format!("cut at {call} {policy:?}, then {:?}", sim.second);
            runs += 1;
            match finish(&mut sim, &name, |sim| play(sim, &acts).and_then(|()| sim.end())) {
                Ok((one, _)) => tally.merge(one),
                Err(report) => failed.push(report),
            }
        }
    }
    println!(
        "sweep: {calls} calls, {runs} runs with a cut, {seconds} of them with a second: {}",
        tally.line()
    );
    assert_none(&failed);
    for what in [
        "cut in a commit of a transaction",
        "tx outlived its store",
        "unknown tx was lost",
        "unknown tx was there",
    ] {
        assert!(tally.count(what) > 0, "{what} never happened");
    }
}

#[test]
fn script_survives_disk_error_at_every_call() {
    quiet();
    let acts = script();
    let calls = calls_of(scripted(1), &acts);
    let (mut runs, mut failed) = (0, Vec::new());
    for call in every(2, calls) {
        for fault in [Fault::AnyError, Fault::SyncErrorKeepsNew, Fault::NoSpace] {
            if fault != Fault::AnyError && call % 4 > 1 {
                continue;
            }
            let mut sim = scripted(call);
            sim.disk.plan(Faults::none().at(call, fault));
            runs += 1;
            let name = format!("{fault:?} at {call}");
            failed.extend(finish(&mut sim, &name, |sim| play(sim, &acts).and_then(|()| sim.end())).err());
        }
    }
    println!("errors: {calls} calls, {runs} runs");
    assert_none(&failed);
}

/// Of all calls these, unless all are asked for.
fn every(step: u64, calls: u64) -> impl Iterator<Item = u64> {
    let (step, from) =
        if env("SWEEP").is_some() { (1, 0) } else { (step, env("SIM_FROM").unwrap_or(0) % step) };
    (from + 1..=calls).step_by(step as usize)
}

#[test]
fn checks_survive_power_cut_and_another_in_recovery() {
    quiet();
    let acts = script_of_checks();
    let calls = calls_of(checked(1), &acts);
    let (mut runs, mut failed, mut tally) = (0, Vec::new(), Tally::default());
    // No multiple of 2 or 3: each policy is met, and each with and without a second cut.
    for call in every(17, calls) {
        let policy = ImagePolicy::ALL[(call % 6) as usize];
        let mut sim = checked(call);
        sim.disk.cut_at(call, policy);
        sim.second = (call % 3 == 0).then(|| (1 + call % 40, ImagePolicy::ALL[(call as usize + 2) % 6]));
        runs += 1;
        let name = format!("cut at {call} {policy:?}, then {:?}", sim.second);
        match finish(&mut sim, &name, |sim| play(sim, &acts).and_then(|()| sim.end())) {
            Ok((one, _)) => tally.merge(one),
            Err(report) => failed.push(report),
        }
    }
    println!("cuts under checks: {calls} calls, {runs} runs: {}", tally.line());
    assert_none(&failed);
}

#[test]
fn checks_survive_disk_errors_and_report_stopping() {
    quiet();
    let acts = script_of_checks();
    let calls = calls_of(checked(1), &acts);
    let (mut runs, mut failed, mut tally) = (0, Vec::new(), Tally::default());
    // 1289 among them: a read error that only the checks met left the store seeming well.
    for call in every(7, calls) {
        let fault = [Fault::AnyError, Fault::SyncErrorKeepsNew, Fault::ReadError][(call % 3) as usize];
        let mut sim = checked(call);
        sim.disk.plan(Faults::none().at(call, fault));
        runs += 1;
        let name = format!("{fault:?} at {call}");
        match finish(&mut sim, &name, |sim| play(sim, &acts).and_then(|()| sim.end())) {
            Ok((one, _)) => tally.merge(one),
            Err(report) => failed.push(report),
        }
    }
    println!("errors under checks: {calls} calls, {runs} runs: {}", tally.line());
    assert_none(&failed);
    assert!(tally.count("checks: stopped") > 0, "no check ever stopped");
}

// ---- the checkers themselves ----

#[test]
fn lying_disk_sync_is_detected() {
    quiet();
    let noticed = (0..40).filter(|&seed| {
        let mut sim = Sim::new(seed, false);
        let run = |sim: &mut Sim| {
            sim.restore()?;
            sim.disk.plan(Faults::none().rate(Fault::LyingSync, 0.3));
            (0..20).try_for_each(|_| sim.group())?;
            sim.cut(ImagePolicy::DropAll);
            sim.open()?;
            sim.settle()
        };
        finish(&mut sim, "lie", run).is_err()
    });
    let noticed = noticed.count();
    println!("lying syncs: noticed in {noticed} of 40 runs");
    assert!(noticed > 0, "nobody noticed");
}

// ---- rot ----

/// A closed store, and what it holds.
fn closed_store(seed: u64) -> Sim {
    let mut sim = scripted(seed);
    let run = |sim: &mut Sim| {
        sim.restore()?;
        (0..25).try_for_each(|_| sim.group())?;
        sim.catch_up()?;
        sim.store.take().expect("it is open").close();
        Ok(())
    };
    finish(&mut sim, "closed store", run).unwrap_or_else(|report| panic!("{report}"));
    sim
}

/// What became of one rotten store.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Rotten {
    Right,
    NotOpened,
    Noticed,
    /// Something was missing or wrong without an error, and `verify` says so.
    Late,
    Never,
}

fn look_at_rotten(sim: &mut Sim) -> Outcome<Rotten> {
    let setup = sim.setup();
    match Store::open(STORE, setup) {
        Ok(store) => sim.store = Some(store),
        Err(OpenError::Corrupt { .. } | OpenError::TailLost { .. } | OpenError::NewerFormat { .. }) => {
            return Ok(Rotten::NotOpened);
        }
        Err(OpenError::Storage(error)) if error.is_corruption() => return Ok(Rotten::NotOpened),
        Err(error) => return wrong(format!("open: {error} ({error:?})")),
    }
    let mut rotten = Rotten::Right;
    // Everything is asked; an error that speaks of damage is an answer.
    let asked = sim.check().and_then(|()| sim.reads());
    match asked {
        Ok(()) => {}
        Err(Trouble::Wrong(what)) if what.contains("damaged") => rotten = Rotten::Noticed,
        Err(Trouble::Wrong(what) | Trouble::Faulted(what)) => {
            sim.say(what);
            rotten = Rotten::Never;
        }
    }
    let report = sim.store().verify();
    let bad = match &report {
        Ok(report) => report.first_bad.is_some(),
        Err(ReadError::Storage(error)) => error.is_corruption(),
        Err(error) => return wrong(format!("verify: {error}")),
    };
    match (rotten, bad) {
        (Rotten::Right, true) => rotten = Rotten::Noticed,
        (Rotten::Never, true) => rotten = Rotten::Late,
        (Rotten::Noticed, false) => return wrong("verify does not see what a read saw"),
        _ => {}
    }
    Ok(rotten)
}

/// A store with checks that was closed in the midst of its script, and what they kept some time before.
fn closed_checks(seed: u64, acts: &[Act]) -> (Sim, Vec<u8>) {
    let (mut sim, mut old) = (checked(seed), Vec::new());
    let run = |sim: &mut Sim| {
        play(sim, &acts[..acts.len() / 2])?;
        sim.store.take().expect("it is open").close();
        old = sim.disk.read_file(checks_file()).expect("it was saved");
        play(sim, &acts[acts.len() / 2..])?;
        sim.store.take().expect("it is open").close();
        Ok(())
    };
    finish(&mut sim, "closed checks", run).unwrap_or_else(|report| panic!("{report}"));
    (sim, old)
}

fn checks_file() -> PathBuf {
    Path::new(STORE).join("checks.redb")
}

/// Of what checks keep nothing is believed that is not whole: it is judged again, and found once.
#[test]
fn corrupted_check_state_is_judged_again() {
    quiet();
    let (acts, mut random, mut failed) = (script_of_checks(), Random::new(43), Vec::new());
    let trials = env("ROT").unwrap_or(60);
    let mut closed = closed_checks(0, &acts);
    for trial in 0..trials {
        if trial % 20 == 0 {
            // With more or less that waits.
            closed = closed_checks(trial, &acts[..acts.len() - 4 * (trial as usize / 20 % 3)]);
        }
        let ((sound, old), mut sim) = (&closed, checked(trial));
        (sim.disk, sim.clock) = (sound.disk.fork(trial), sound.clock.fork());
        (sim.model, sim.created) = (sound.model.clone(), true);
        let bytes = sim.disk.read_file(checks_file()).expect("it was saved");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1);
        let at = random.below(used);
        match random.below(3) {
            0 => {
                let mut garbage = vec![0; (1 + random.below(512)).min(used - at) as usize];
                random.fill(&mut garbage);
                sim.disk.corrupt(checks_file(), at, &garbage);
            }
            // A write that never got there: whole pages as they were before.
            1 => {
                let pages = bytes.chunks(PAGE).zip(old.chunks(PAGE)).zip((0..).step_by(PAGE)).skip(1);
                let others: Vec<_> = pages.filter(|((is, was), _)| is != was).collect();
                let ((_, was), at) = others[random.below(others.len() as u64) as usize];
                sim.disk.corrupt(checks_file(), at, was);
            }
            _ => sim.disk.flip_bit(checks_file(), at, random.below(8) as u8),
        }
        let name = format!("rot trial {trial} of checks.redb");
        failed.extend(finish(&mut sim, &name, |sim| sim.restore().and_then(|()| sim.wait_for_all())).err());
    }
    println!("rot of what checks keep: {trials} trials");
    assert_none(&failed);
}

/// Once derived state is gone, everything must be right again.
fn rebuild(sim: &mut Sim) -> Outcome {
    sim.store = None;
    sim.disk.remove(&Path::new(STORE).join("state.redb")).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => wrong(error.to_string()),
    })?;
    sim.open()?;
    sim.check()?;
    sim.catch_up()
}

fn rot(only: fn(&str) -> bool, trials: u64) -> BTreeMap<Rotten, u64> {
    quiet();
    let (mut outcomes, mut failed) = (BTreeMap::new(), Vec::new());
    let mut random = Random::new(42);
    let mut sound = closed_store(0);
    for trial in 0..trials {
        if trial % 250 == 0 {
            sound = closed_store(trial);
        }
        let mut sim = scripted(trial);
        sim.disk = sound.disk.fork(trial);
        sim.model = sound.model.clone();
        sim.created = true;
        let files: Vec<_> =
            sim.disk.files().into_iter().filter(|path| only(&path.display().to_string())).collect();
        let file = &files[random.below(files.len() as u64) as usize];
        let bytes = sim.disk.read_file(file).expect("it is there");
        // Not into the zeros behind everything: they hold nothing.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1);
        let at = random.below(used);
        // The last group, its seal and derived state lost at once leave nothing that could tell: not tried.
        let alone = trial % 3 == 0 && !file.ends_with("state.redb");
        match random.below(4) {
            0 if !alone => {
                let len = (1 + random.below(512)).min(used - at);
                let mut garbage = vec![0; len as usize];
                if random.coin() {
                    random.fill(&mut garbage);
                }
                sim.disk.corrupt(file, at, &garbage);
            }
            _ => sim.disk.flip_bit(file, at, random.below(8) as u8),
        }
        let name = format!("rot trial {trial} at {at} of {}", file.display());
        let mut found = Rotten::Right;
        let is_state = file.extension().is_some_and(|extension| extension == "redb");
        // Without derived state all of the log is read at open.
        if alone {
            sim.disk.remove(&Path::new(STORE).join("state.redb")).expect("it was there");
        }
        let looked = finish(&mut sim, &name, |sim| {
            found = look_at_rotten(sim)?;
            if found == Rotten::Late && std::env::var("LOUD").is_ok() {
                println!("late: {name}: {:?}", sim.trail.last());
            }
            if found == Rotten::Never || (found == Rotten::Late && !is_state) {
                return wrong("wrong, and nobody says so");
            }
            if is_state {
                ensure(found != Rotten::NotOpened, || {
                    "derived state keeps the store from opening".to_owned()
                })?;
                rebuild(sim)?;
            }
            Ok(())
        });
        failed.extend(looked.err());
        *outcomes.entry(found).or_default() += 1;
    }
    println!("rot, {trials} trials: {outcomes:?}");
    assert_none(&failed);
    outcomes
}

#[test]
fn corrupted_log_is_not_read_as_data() {
    let trials = env("ROT").unwrap_or(1200);
    let outcomes = rot(|path| path.contains("/log/"), trials);
    assert!(!outcomes.contains_key(&Rotten::Late), "no damage of the log waits for verify");
}

#[test]
fn corrupted_derived_state_is_error_or_rebuild() {
    let outcomes = rot(|path| path.ends_with("state.redb"), env("ROT").unwrap_or(1200));
    assert!(!outcomes.contains_key(&Rotten::Late), "a damaged block is met before it is believed");
}

#[test]
fn corrupted_behind_file_is_error_or_rebuild() {
    let outcomes = rot(|path| is_behind(Path::new(path)), env("ROT").unwrap_or(600));
    assert!(!outcomes.contains_key(&Rotten::Late), "a damaged block is met before it is believed");
}
