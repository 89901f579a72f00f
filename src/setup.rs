//! Configuration of a store, made before it opens. One function in a program makes it, and its tests use the same one.

mod families;

use crate::alerting::Alerting;
use crate::budget::{Budget, TxEvent};
use crate::check::outside::Evidence as Compared;
use crate::check::vocabulary::{Misnamed, Vocabulary};
use crate::check::{Check, Fault, Invariant, RESERVED};
use crate::disk::Platform;
use crate::episode::{Episodes, Mutes, Told};
use crate::event::{Event, EventSet, Family};
use crate::evidence::{Baselines, Evidence, Hashes, Sources};
use crate::guard::{self, Guards};
use crate::notification::{Delivery, Notification, Route};
use crate::options::Options;
use crate::order::CommitNo;
use crate::own::Own;
use crate::projection::{Projection, Projections, Registered};
use crate::request::Retention;
use crate::routed::Routed;
use crate::skip::Skips;
use crate::state::term::Terms;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub(crate) use families::Families;

/// Everything the store must know: families, projections, limits. Used up by one open.
///
/// Projections bring the families they fold. A family that is in the log and not in the setup refuses the open.
#[derive(Clone)]
#[must_use = "a setup does nothing until a store is opened with it"]
pub struct Setup {
    pub(crate) families: Vec<Family>,
    pub(crate) inline: Vec<Registered>,
    pub(crate) behind: Vec<Registered>,
    pub(crate) checks: Vec<Check>,
    pub(crate) invariants: Vec<Invariant>,
    #[cfg(feature = "rules")]
    pub(crate) rule_folders: Vec<std::path::PathBuf>,
    pub(crate) name: Option<String>,
    routes: Vec<Route>,
    alerts: Option<Route>,
    pub(crate) options: Options,
    pub(crate) retention: Retention,
    pub(crate) progress: Option<ProgressSink>,
    pub(crate) budget: Budget,
    pub(crate) on_tx: Option<OnTx>,
    pub(crate) platform: Platform,
    /// No threads: everything happens on the caller's, in one order.
    pub(crate) lockstep: bool,
    /// The commit at which the log may end although a later one is known.
    pub(crate) accepted_end: Option<CommitNo>,
}

/// Told of each transaction once.
pub(crate) type OnTx = Arc<dyn Fn(&TxEvent) + Send + Sync>;

pub(crate) type ProgressSink = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Progress of a long piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The task that is being done.
    pub task: Task,
    /// Commits done.
    pub done: u64,
    /// Commits in all.
    pub total: u64,
}

/// A long piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// Derived state is built from the log.
    Rebuild,
    /// A new or changed projection is folded from the log.
    Project,
    /// The store is verified.
    Verify,
}

impl Setup {
    /// Nothing but defaults.
    pub fn new() -> Self {
        Self {
            families: Vec::new(),
            inline: Vec::new(),
            behind: Vec::new(),
            checks: Vec::new(),
            invariants: Vec::new(),
            #[cfg(feature = "rules")]
            rule_folders: Vec::new(),
            name: None,
            routes: Vec::new(),
            alerts: None,
            options: Options::default(),
            retention: Retention::default(),
            progress: None,
            budget: Budget::default(),
            on_tx: None,
            platform: Platform::real(),
            lockstep: false,
            accepted_end: None,
        }
    }

    /// Families that no projection folds.
    pub fn events<E: EventSet>(mut self) -> Self {
        self.families.extend(E::families());
        self
    }

    /// A projection folded in the commit: always at the head, and able to refuse.
    pub fn inline<P: Projection>(mut self) -> Self {
        self.inline.push(Registered::of::<P>());
        self
    }

    /// A projection that catches up behind the writer, on a thread of its own: it costs an append nothing, and cannot refuse.
    ///
    /// Its rows are those of an earlier position, which [`View::folded_through`](crate::view::View::folded_through) tells;
    /// [`Store::wait_for`](crate::Store::wait_for) waits for a position. Where its fold fails or panics it stalls, and nothing
    /// else does. While it is folded from the first commit, because it is new or its version was raised, its rows answer
    /// `Rebuilding`.
    pub fn behind<P: Projection>(mut self) -> Self {
        self.behind.push(Registered::of::<P>());
        self
    }

    /// Adds a check: what must stay true, judged behind the writer on a thread of its own. It costs an append nothing. A
    /// [guard](crate::check::Check::guard) is judged in the commit as well, and refuses it.
    ///
    /// What it finds is recorded in the store as events; [`Store::checks`](crate::Store::checks) tells. A check that is new, or
    /// whose definition has changed, is judged over the whole log first.
    pub fn check(mut self, check: impl Into<Check>) -> Self {
        let check = check.into();
        let freshness = check.freshness();
        self.checks.push(check);
        self.checks.extend(freshness);
        self
    }

    /// Adds an invariant of inline rows, which no commit may violate. The writer checks it at each commit, and a transaction
    /// before it is handed over. [`About::invariant`](crate::check::About::invariant) makes it.
    pub fn invariant(mut self, invariant: Invariant) -> Self {
        self.invariants.push(invariant);
        self
    }

    /// A folder of rules. A file in it, or in one below it, is read as [`check::rules::parse`](crate::check::rules::parse) does,
    /// and its checks run, while the store is open: nothing else need be done.
    ///
    /// - Each folder may have a `folder.toml` that says `period`, how often its files are read (10 s, if nothing is said),
    ///   and `owner` and `severity` for rules that leave them out. What it does not say, the folder above does.
    /// - A changed file is another version: checks that are defined otherwise are judged anew, from the first commit. With a file
    ///   its checks end; what they found stays on record.
    /// - A file that cannot be read keeps no store from opening. What it said before stands, [`Checks::rules`] names file, line
    ///   and column, and it is reported once: a violation of `tallystone.rules`, healed when the file can be read. The same goes
    ///   for a file that does not end in `.toml`, and for one that defines what is defined elsewhere.
    /// - A relative path is taken from the working directory at open. Links are followed if they stay below the folder, as in a
    ///   ConfigMap of Kubernetes; one that leaves it is named like a file that cannot be read.
    /// - Put files there whole: write them under a name that begins with a dot, which is passed over, and rename them.
    ///
    /// ```
    /// use tallystone::prelude::*;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let dir = tempfile::tempdir()?;
    /// std::fs::write(dir.path().join("folder.toml"), "period = \"1h\"\nowner = \"warehouse\"\nseverity = \"ticket\"")?;
    /// std::fs::write(
    ///     dir.path().join("orders.toml"),
    ///     r#"
    ///     expects = ["order.*"]
    ///
    ///     [check.placed-is-shipped]
    ///     kind = "response"
    ///     when = "order.Placed"
    ///     then = "order.Shipped"
    ///     within = "3d"
    ///     means = "We took the order and did not ship it."
    ///     remedy = "1 look for the parcel; 2 ship it again"
    ///     "#,
    /// )?;
    /// let store = Store::in_memory(Setup::new().check_folder(dir.path()))?;
    /// assert_eq!(store.checks().rules()[0].checks, ["placed-is-shipped"]);
    ///
    /// // Example: what cannot be read is named with its place, and keeps nothing from opening.
    /// std::fs::write(dir.path().join("orders.toml"), "[check.placed-is-shipped]\nkind = \"reponse\"")?;
    /// let store = Store::in_memory(Setup::new().check_folder(dir.path()))?;
    /// let error = store.checks().rules()[0].error.clone().expect("it is wrong");
    /// assert_eq!((error.line, error.what.as_str()), (1, "missing field `when`"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Checks::rules`]: crate::watch::Checks::rules
    #[cfg(feature = "rules")]
    pub fn check_folder(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.rule_folders.push(path.into());
        self
    }

    /// Sets the sink of notifications that no [`route`](Self::route) takes. Without it, standard error.
    ///
    /// A violation is told at once; more of the same check are told together, every
    /// [`Options::alert_every_ms`](Options::alert_every_ms). The sink may answer nothing, or a result: after an error, or if it
    /// panics, the notification is tried again, at first after 1 s and then ever more rarely, and
    /// [`RouteStats::undelivered`](crate::watch::RouteStats::undelivered) says why. A crash just after it may repeat one.
    ///
    /// It is called on a thread of its own, one notification at a time, and holds up nothing: checks go on while it runs, and it
    /// may call the store, also [`Store::recover`](crate::Store::recover) and [`Store::close`](crate::Store::close). If it takes
    /// longer than [`Options::alert_deadline_ms`], that is a violation of `tallystone.alerts`, told on standard error and by
    /// every other route that takes it, and healed when it returns; closing the store waits no longer for it, and leaves it
    /// behind.
    pub fn alerts<D: Delivery>(mut self, tell: impl Fn(&Notification) -> D + Send + Sync + 'static) -> Self {
        self.alerts = Some(Route::rest(tell));
        self
    }

    /// Adds a route of notifications: a sink, and by owner, severity or label what it takes. See [`Route`].
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Names the store in notifications. Without it, the name is that of its directory.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Limits and sizes.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Sets how long idempotency keys are kept, unless a request says otherwise. Without it, for ever.
    ///
    /// It is for keys used from now on: those in the log are kept as was decided when they were used.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Goes on with a log that ends at this commit, although a later one is known to have been durable: for a person who has
    /// looked at [`OpenError::TailLost`](crate::error::OpenError::TailLost), which names the commit.
    ///
    /// The loss is recorded in the log, and [`Store::verify`](crate::Store::verify) lists it. Derived state that knew more is
    /// built again; keys of the lost commits are free, and their positions are given to other events. A log that ends anywhere
    /// else is refused as without it, so this may stay in the setup.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use std::{fs, path::Path};
    /// # use tallystone::prelude::*;
    /// # use tallystone::error::OpenError;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Paid { cents: u64 }
    /// # impl Event for Paid {
    /// #     const FAMILY: &str = "payment";
    /// #     type Id = ();
    /// #     fn id(&self) {}
    /// # }
    /// # fn copy(from: &Path, to: &Path) {
    /// #     let _ = fs::remove_dir_all(to);
    /// #     fs::create_dir(to).unwrap();
    /// #     for entry in fs::read_dir(from).unwrap() {
    /// #         let entry = entry.unwrap();
    /// #         fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let (path, backup) = (dir.path().join("store"), dir.path().join("backup"));
    /// let setup = || Setup::new().events::<Paid>();
    /// let store = Store::create(&path, setup())?;
    /// store.append(Append::event(Paid { cents: 500 }))?;
    /// store.close();
    /// copy(&path.join("log"), &backup);
    /// let store = Store::open(&path, setup())?;
    /// store.append(Append::event(Paid { cents: 900 }))?;
    /// store.close();
    ///
    /// // Example: somebody puts the older log back, beside derived state that knows better.
    /// copy(&backup, &path.join("log"));
    /// let Err(OpenError::TailLost { commit, known_commit, .. }) = Store::open(&path, setup()) else { panic!() };
    /// assert_eq!((commit.get(), known_commit.get()), (1, 2));
    ///
    /// let store = Store::open(&path, setup().accept_lost_tail(commit))?;
    /// assert_eq!(store.verify()?.lost_tails[0].known_commit, known_commit);
    /// # Ok(())
    /// # }
    /// ```
    pub fn accept_lost_tail(mut self, end: CommitNo) -> Self {
        self.accepted_end = Some(end);
        self
    }

    /// Sets the callback for the progress of long work ([`Task`]). It runs on the thread that does the work.
    pub fn progress(mut self, tell: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(tell));
        self
    }

    /// Sets the budget of transactions. Without it [`Budget::default`] watches, and refuses only a transaction of another store
    /// inside.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Sets the callback for transactions. It is called once for each when that ends, on the thread that ran it.
    pub fn on_tx(mut self, tell: impl Fn(&TxEvent) + Send + Sync + 'static) -> Self {
        self.on_tx = Some(Arc::new(tell));
        self
    }

    /// Files, clock and entropy of this store instead of the operating system's.
    #[cfg(feature = "testing")]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// No threads: what is submitted is served when [`Store::step`](crate::Store::step) says so, on the caller's thread, and
    /// state is flushed between two groups. The same calls are the same operations on the disk, in the same order.
    #[cfg(feature = "testing")]
    pub fn lockstep(mut self) -> Self {
        self.lockstep = true;
        self
    }

    /// Everything that contradicts itself, one sentence each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut wrong = self.options.check();
        wrong.extend(self.budget.check());
        wrong.extend(self.retention.fault().map(|fault| format!("retention: {fault}")));
        let mut seen: BTreeMap<&str, Family> = BTreeMap::new();
        for family in self.all_families() {
            match seen.insert(family.name(), family) {
                Some(other) if other.type_id != family.type_id && family.name() == Own::FAMILY => {
                    wrong.push(format!(
                        "the family `{}` is the store's own: call yours otherwise",
                        Own::FAMILY
                    ));
                }
                Some(other) if other.type_id != family.type_id => {
                    wrong.push(format!("two families are called `{}`", family.name()));
                }
                Some(_) => {}
                None => {
                    let faults = family.types().err().unwrap_or_default();
                    wrong.extend(faults.iter().map(|fault| format!("family `{}`: {fault}", family.name())));
                }
            }
        }
        let projections: Vec<_> = self.all_projections().collect();
        for (index, projection) in projections.iter().enumerate() {
            wrong.extend(projection.faults.iter().cloned());
            if projection.name.starts_with(RESERVED) {
                let name = projection.name;
                wrong.push(format!(
                    "projection `{name}`: names that begin with `{RESERVED}` are the store's own"
                ));
            }
            for other in &projections[..index] {
                if other.name == projection.name || other.id == projection.id {
                    wrong.push(format!("two projections are called `{}`", projection.name));
                }
            }
        }
        let names = if self.checks.is_empty() { Vocabulary::default() } else { self.vocabulary() };
        wrong.extend(Route::faults(&self.routes));
        for (index, check) in self.checks.iter().enumerate() {
            wrong.extend(check.faults().iter().map(Fault::to_string));
            let named = |name: &str| {
                let mut all = projections.iter().filter(|projection| projection.name == name);
                all.next().map(|found| Registered::clone(found))
            };
            if let Err(Misnamed { field, why, .. }) = check.lens.compare(&names) {
                wrong.push(format!("check `{}`: `{field}`: {why}", check.id()));
            } else if let Err(why) = check.lens.find(&named) {
                wrong.push(format!("check `{}`: {why}", check.id()));
            }
            if self.checks[..index].iter().any(|other| other.id() == check.id()) {
                wrong.push(format!("two checks are called `{}`", check.id()));
            }
        }
        let is_taken = |id| projections.iter().any(|projection| projection.id == id);
        if self.checks.iter().any(|check| check.guard) && is_taken(guard::id_of(&self.checks)) {
            wrong.push(
                "what guards remember has the name of other rows: call one of them otherwise".to_owned(),
            );
        }
        let is_inline = |name: &str| self.inline.iter().any(|projection| projection.name == name);
        for (index, invariant) in self.invariants.iter().enumerate() {
            wrong.extend(invariant.faults(is_inline).iter().map(Fault::to_string));
            let others = self.checks.iter().map(Check::id);
            let mut others = others.chain(self.invariants[..index].iter().map(Invariant::id));
            if others.any(|other| other == invariant.id()) {
                wrong.push(format!("two checks are called `{}`", invariant.id()));
            }
        }
        for (check, evidence) in self.compared() {
            let ours = &evidence.ours;
            if !projections.iter().any(|projection| projection.type_id == ours.type_id) {
                let name = ours.name;
                wrong.push(format!(
                    "check `{check}` reads rows of `{name}`, which the setup lacks: add `.inline::<..>()` or `.behind::<..>()`"
                ));
            }
        }
        wrong
    }

    /// Checks that compare rows with those of a source.
    fn compared(&self) -> impl Iterator<Item = (&str, Arc<Compared>)> {
        self.checks.iter().filter_map(|check| Some((check.id(), check.lens.evidence()?)))
    }

    fn all_projections(&self) -> impl Iterator<Item = &Registered> {
        self.inline.iter().chain(&self.behind)
    }

    /// Returns the projections folded in the commit: those of the setup, and those that checks and skips need.
    fn all_inline(&self) -> Vec<Registered> {
        let mut inline = self.inline.clone();
        if self.has_checks() {
            inline.extend([
                Registered::of::<Episodes>(),
                Registered::of::<Told>(),
                Registered::of::<Mutes>(),
                Registered::of::<Alerting>(),
                Registered::of::<Routed>(),
            ]);
        }
        if !self.behind.is_empty() {
            inline.push(Registered::of::<Skips>());
        }
        if self.compared().next().is_some() {
            inline.extend([
                Registered::of::<Evidence>(),
                Registered::of::<Hashes>(),
                Registered::of::<Sources>(),
                Registered::of::<Baselines>(),
            ]);
        }
        #[cfg(feature = "rules")]
        if !self.rule_folders.is_empty() {
            inline.push(Registered::of::<crate::rule_texts::RuleTexts>());
        }
        inline
    }

    /// Returns whether it has checks, or a place where some may be put.
    pub(crate) fn has_checks(&self) -> bool {
        #[cfg(feature = "rules")]
        if !self.rule_folders.is_empty() {
            return true;
        }
        !self.checks.is_empty()
    }

    /// Routes of notifications, those of the store's own last.
    pub(crate) fn routes(&self) -> Vec<Route> {
        let rest = self.alerts.clone().unwrap_or_else(|| Route::rest(|told| eprintln!("{told}")));
        self.routes.iter().cloned().chain([rest, Route::of_sinks()]).collect()
    }

    fn all_families(&self) -> impl Iterator<Item = Family> {
        let folded = self.all_projections().flat_map(|projection| projection.families.iter());
        let checked = self.checks.iter().flat_map(|check| check.lens.registers());
        self.families.iter().chain(folded).copied().chain(checked).chain([Family::of::<Own>()])
    }

    /// Names that the store knows, for checks that are declared by name.
    pub(crate) fn vocabulary(&self) -> Vocabulary {
        Vocabulary::new(self.all_families(), self.inline.iter().chain(&self.behind).cloned())
    }

    pub(crate) fn families(&self) -> Families {
        Families::new(self.all_families())
    }

    /// Returns the guards and invariants, which refuse commits. Keys are hashed with the terms of the store.
    pub(crate) fn guards(&self, terms: &Terms) -> Guards {
        Guards::new(&self.checks, &self.invariants, terms)
    }

    /// Returns the projections folded in the commit, and the rows of guards.
    pub(crate) fn projections(&self, guards: &Guards) -> Projections {
        Projections::new(self.all_inline().into_iter().chain(guards.registered()).collect())
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families: Vec<_> = self.all_families().map(|family| family.name()).collect();
        f.debug_struct("Setup")
            .field("families", &families)
            .field("inline", &self.inline)
            .field("behind", &self.behind)
            .finish_non_exhaustive()
    }
}
