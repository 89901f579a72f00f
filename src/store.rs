//! The front door: opens a store, wires its threads, hands out views. Holds no logic.

mod durable;
mod engine;
mod inspecting;
mod opening;
mod place;

use crate::audit::{self, Audit};
use crate::behind::{Behind, Bells, Files as BehindFiles, Followers, Following, Halt, Standing};
use crate::check::Invariant;
use crate::check::glance::Glasses;
use crate::commit::Rules;
use crate::commit::prepare::{Desk, Prepared};
use crate::error::{AppendError, OpenError, ReadError, SkipError, StorageError, TroubleKind, TxError};
use crate::event::EventSet;
use crate::idempotency;
use crate::log::memory::MemoryLog;
use crate::log::segments::{Cut, LogOptions, Prepare};
use crate::log::{self, Log};
use crate::order::{CommitNo, Position};
use crate::own::Own;
use crate::projection::{Limits, Projection, Skipped};
use crate::query::Query;
use crate::recovery::{self, Failure, Recovered, Recovery, Scratch};
use crate::reentry::{self, Inside};
use crate::request::{Append, Committed, Durability, Receipt, Request, Retention};
use crate::setup::Setup;
use crate::skip;
use crate::state::bell::Bell;
use crate::state::term::Terms;
use crate::state::{Board, Published, flush, scrub};
use crate::subscription::Subscription;
use crate::sync::{Mutex, RwLock, bounded, deadline, spawn, unbounded};
use crate::transaction::attempt::{self, Concluded, Decided, Parts, Ready, Shared, Work};
use crate::transaction::{self, ActiveTx, Answer as StoredAnswer, Callback, Decision, Tx, TxStats, inside};
use crate::verify::{self, VerifyReport};
use crate::view::{Current, Reader, View, Views, unregistered};
use crate::wakers::Wakers;
use crate::watch::{self, Checks, DeliveryQueue, Desk as CheckDesk, Pullers, Watch};
use crate::writer::clock::Trusted;
use crate::writer::queue::{Health, State, queue};
use crate::writer::reply::Answer;
use crate::writer::{Answered, Beside, Door, Flusher, Handed, Writer};
use durable::remember;
use engine::{Engine, Life, Scrub, Turn, Watching, no_thread};
use opening::{Files, fresh_tables, new_tables, open_files, open_tables};
use place::{New, Place, new_id, trouble};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::ops::Deref;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

const STATE: &str = "state.redb";
/// Rows folded again beside the real ones, while `verify` or `audit` runs.
pub(crate) const VERIFY: &str = "verify.redb";

/// An open store. A handle: cloning it is cheap, and the last one closes the store.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tallystone::prelude::*;
///
/// #[derive(Serialize, Deserialize)]
/// enum Light {
///     On { room: u32 },
///     Off { room: u32 },
/// }
/// impl Event for Light {
///     const FAMILY: &str = "light";
///     type Id = u32;
///     fn id(&self) -> u32 {
///         let (Light::On { room } | Light::Off { room }) = self;
///         *room
///     }
/// }
///
/// # fn main() -> Result<(), Error> {
/// let store = Store::in_memory(Setup::new().events::<Light>())?;
/// store.append(Append::event(Light::On { room: 1 }).expect::<Light>(&1, Expected::NoStream))?;
///
/// // Example: a second append that expects no stream is refused, and names the event that is there.
/// let again = store.append(Append::event(Light::Off { room: 1 }).expect::<Light>(&1, Expected::NoStream));
/// assert!(matches!(again, Err(AppendError::WrongVersion { is: 1, .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    inner: Arc<Handles>,
}

struct Inner {
    place: Option<Arc<Place>>,
    setup: Setup,
    current: Current,
    lasting: Lasting,
    /// Parts that its transactions share.
    shared: Arc<Shared>,
    /// Taken out of its lock before it is used: code of the user may run in it.
    engine: RwLock<Arc<Engine>>,
    life: Life,
    /// One `verify` or `audit` at a time: its scratch file has one name.
    verifying: Mutex<()>,
}

/// Parts that a recovery leaves as they are.
struct Lasting {
    views: Arc<Views>,
    /// Rung when the store was recovered or closed, too.
    bells: Bells,
    /// Origin of the checks that are not in the setup. What it knows of a file that is bad by now is known nowhere else.
    rules: Option<Arc<Mutex<dyn watch::Origin>>>,
}

impl Lasting {
    fn new(setup: &Setup) -> Self {
        let age = Duration::from_millis(setup.options.view_age_ms_max);
        let views = Arc::new(Views::new(setup.platform.clock.clone(), age));
        Self { views, bells: Bells::new(Wakers::new(setup.lockstep)), rules: rules(setup) }
    }
}

/// Result of looking at an append on the caller's thread.
enum AppendLookup {
    /// An earlier commit answers it.
    Answered(Committed),
    New(Box<Prepared>),
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.inner.place.as_ref().map(|place| &place.path);
        f.debug_struct("Store").field("path", &path).finish_non_exhaustive()
    }
}

// ---- opening ----

impl Store {
    /// Opens the store in the directory `path`. Never creates one.
    ///
    /// The path is resolved here, once: changing the working directory or a link above it does not move an open store. The
    /// directory itself must not be a link. Open it after a `fork()` of the process, not before: a child cannot write its
    /// parent's store, and may wait for ever if a thread of the store was at work while it was forked.
    ///
    /// What a crash left is made good first: derived state that is behind, missing or damaged is folded from the log.
    ///
    /// # Errors
    ///
    /// - `NotFound`, `NotAStore`, `AlreadyOpen`, `ReadOnly`: about the path.
    /// - `Setup`: the setup contradicts itself or the log; each sentence says what to change.
    /// - `Missing`: types that are in the log and not in the setup, all of them.
    /// - `Corrupt`: acknowledged events do not read back. Nothing was changed; restore a backup.
    /// - `TailLost`: the log ends before what is known to be durable. Nothing was changed; restore it, or accept the loss.
    /// - `NewerFormat`: use a later version of this crate.
    pub fn open(path: impl AsRef<Path>, setup: Setup) -> Result<Self, OpenError> {
        check(&setup)?;
        Self::open_locked(Place::lock(&setup.platform, path.as_ref())?, setup)
    }

    /// Creates a store in the directory `path`, which must not exist or be empty, and opens it. Never overwrites.
    ///
    /// If it fails, nothing is left of it; a crash inside it leaves no store, and nothing that a later `create` minds. Names that
    /// file systems make (`lost+found`) are no obstacle.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if anything is there; otherwise as [`open`](Self::open).
    pub fn create(path: impl AsRef<Path>, setup: Setup) -> Result<Self, OpenError> {
        check(&setup)?;
        let new = New::create(&setup.platform, path.as_ref(), &log_options(&setup))?;
        Self::open_new(new, setup)
    }

    /// Opens the store in the directory `path`, or creates it there.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) and [`create`](Self::create).
    pub fn open_or_create(path: impl AsRef<Path>, setup: Setup) -> Result<Self, OpenError> {
        check(&setup)?;
        let (platform, path) = (&setup.platform, path.as_ref());
        let new = match Place::lock(platform, path) {
            Err(OpenError::NotFound { .. }) => New::create(platform, path, &log_options(&setup)),
            place => return Self::open_locked(place?, setup),
        };
        match new {
            // Another created it in between.
            Err(OpenError::AlreadyExists { .. }) => Self::open_locked(Place::lock(platform, path)?, setup),
            new => Self::open_new(new?, setup),
        }
    }

    /// A store that lives in memory and is gone with its last handle. Receipts say `Durability::Memory`.
    ///
    /// # Errors
    ///
    /// `Setup`: the setup contradicts itself.
    pub fn in_memory(setup: Setup) -> Result<Self, OpenError> {
        check(&setup)?;
        let log = Arc::new(MemoryLog::new(new_id(&setup.platform)));
        Self::start(None, setup, Files { log, state: None, rebuild: false, cut: None })
    }

    fn open_locked(place: impl Into<Arc<Place>>, setup: Setup) -> Result<Self, OpenError> {
        let place = place.into();
        let files = open_files(&place, &setup, None)?;
        Self::start(Some(place), setup, files)
    }

    /// Opens what was created just now, or leaves nothing of it.
    fn open_new(new: New, setup: Setup) -> Result<Self, OpenError> {
        let place = new.place();
        Self::open_locked(place, setup).inspect(|_| new.keep())
    }

    /// A store in memory that begins as a copy of this one, which is in memory too, and goes its own way: for tests that start
    /// from one state many times. Rows are copied, not folded again; those behind the writer stand where they stood.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Seen { who: u32 }
    /// # impl Event for Seen { const FAMILY: &str = "seen"; type Id = u32; fn id(&self) -> u32 { self.who } }
    /// # fn main() -> Result<(), Error> {
    /// let base = Store::in_memory(Setup::new().events::<Seen>())?;
    /// base.append(Append::event(Seen { who: 1 }))?;
    /// let (one, other) = (base.fork()?, base.fork()?);
    /// one.append(Append::event(Seen { who: 2 }))?;
    /// assert_eq!((one.stats().position.get(), other.stats().position.get()), (2, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Setup`: the store is on disk. `Nested`: inside a fold, a guard or an invariant. `Storage`: a thread could not be started.
    pub fn fork(&self) -> Result<Self, OpenError> {
        let setup = self.inner.setup.clone();
        if let Some(outer) = reentry::fold() {
            return Err(OpenError::Nested { outer });
        }
        // Nothing is committed while it is copied.
        let door = self.door();
        let _role = door.role.lock();
        let reader = self.reader();
        let Some(log) = reader.log.fork() else {
            return Err(OpenError::Setup(vec!["only a store in memory can be forked".to_owned()]));
        };
        let recovered = Recovered {
            published: reader.board.load().fork(),
            keys: reader.keys.fork(),
            tables: None,
            stalls: reader.rules.projections.stalls.clone(),
            divergences: reader.rules.projections.divergences.clone(),
        };
        let (rules, terms) = (reader.rules.clone(), Terms::new(log.store()));
        let behind = reader.behind.iter().map(|behind| behind.standing()).collect();
        let skipped = skip::on_record(&recovered.published, &rules.projections, &setup.behind)?;
        let parts = EngineParts { log, rules, terms, recovered, skipped, behind, cut: None };
        Self::assemble(None, setup, |_, setup, lasting| launch(None, setup, lasting, parts))
    }

    fn start(place: Option<Arc<Place>>, setup: Setup, files: Files) -> Result<Self, OpenError> {
        Self::assemble(place, setup, |place, setup, lasting| start(place, setup, lasting, files))
    }

    fn assemble(
        place: Option<Arc<Place>>,
        setup: Setup,
        start: impl FnOnce(Option<&Place>, &Setup, &Lasting) -> Result<(Arc<Reader>, Engine), OpenError>,
    ) -> Result<Self, OpenError> {
        let lasting = Lasting::new(&setup);
        let (reader, engine) = start(place.as_deref(), &setup, &lasting)?;
        let current = Arc::new(RwLock::new(reader));
        let shared = Shared::new(setup.platform.clone(), setup.budget.clone(), setup.on_tx.clone());
        let inner = Inner {
            place,
            setup,
            current,
            lasting,
            shared: Arc::new(shared),
            engine: RwLock::new(Arc::new(engine)),
            life: Life::default(),
            verifying: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(Handles(Arc::new(inner))) })
    }
}

fn check(setup: &Setup) -> Result<(), OpenError> {
    let wrong = setup.faults();
    if wrong.is_empty() { Ok(()) } else { Err(OpenError::Setup(wrong)) }
}

fn log_options(setup: &Setup) -> LogOptions {
    let options = &setup.options;
    LogOptions {
        segment_bytes_min: options.segment_bytes_min,
        segment_bytes: options.segment_bytes_max,
        prepare: if setup.lockstep { Prepare::AtNeed } else { Prepare::Ahead },
    }
}

fn remove_if_there(place: &Place, name: &str) -> Result<(), OpenError> {
    match place.platform.disk.remove(&place.path.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(trouble(&place.path, error)),
        _ => Ok(()),
    }
}

/// Recovers, and starts the threads.
fn start(
    place: Option<&Place>,
    setup: &Setup,
    lasting: &Lasting,
    files: Files,
) -> Result<(Arc<Reader>, Engine), OpenError> {
    let Files { log, state, rebuild, cut } = files;
    let options = &setup.options;
    let terms = Terms::new(log.store());
    let guards = setup.guards(&terms);
    let mut rules = Rules {
        projections: setup.projections(&guards),
        guards,
        families: setup.families(),
        limits: Limits { row_key_bytes: options.row_key_bytes_max, row_bytes: options.row_bytes_max },
        durability: if place.is_some() { Durability::Sync } else { Durability::Memory },
        retention: setup.retention,
    };
    let recovery = Recovery {
        log: &*log,
        rules: &rules,
        terms: &terms,
        overlay_bytes_max: options.overlay_bytes_max,
        progress: setup.progress.clone(),
    };
    recovery.check_families(state.as_ref())?;
    drop(state);
    let open = |place| match rebuild {
        true => fresh_tables(place, setup, log.store()),
        false => open_tables(place, setup, log.store()),
    };
    let tables = place.map(open).transpose()?;
    // Here and not when the threads start: damage is met while the state can still be rebuilt.
    let with_skips = |recovered: Recovered| {
        let skipped = skip::on_record(&recovered.published, &rules.projections, &setup.behind)?;
        Ok((recovered, skipped))
    };
    let (recovered, skipped) = match (recovery.run(tables).and_then(with_skips), place) {
        (Ok(recovered), _) => recovered,
        (Err(Failure::Refused(error)), _) => return Err(error),
        (Err(Failure::Unusable), Some(place)) => {
            let fresh = fresh_tables(place, setup, log.store())?;
            recovery.run(Some(fresh)).and_then(with_skips).map_err(|failure| match failure {
                Failure::Refused(error) => error,
                Failure::Unusable => rebuilt_in_vain(),
            })?
        }
        (Err(Failure::Unusable), None) => return Err(rebuilt_in_vain()),
    };
    rules.projections.stalls = recovered.stalls.clone();
    rules.projections.divergences = recovered.divergences.clone();
    launch(
        place,
        setup,
        lasting,
        EngineParts { log, rules: Arc::new(rules), terms, recovered, skipped, behind: Vec::new(), cut },
    )
}

/// Parts that the threads of a store work on.
struct EngineParts {
    log: Arc<dyn Log>,
    rules: Arc<Rules>,
    terms: Terms,
    recovered: Recovered,
    /// Events that each projection behind the writer passes over.
    skipped: Vec<Skipped>,
    /// States of the projections behind the writer in the store that this one is a fork of.
    behind: Vec<Arc<Standing>>,
    cut: Option<CutTail>,
}

/// Starts the threads.
fn launch(
    place: Option<&Place>,
    setup: &Setup,
    lasting: &Lasting,
    parts: EngineParts,
) -> Result<(Arc<Reader>, Engine), OpenError> {
    let EngineParts { log, rules, terms, recovered, skipped, behind: forked, cut } = parts;
    let Recovered { published, keys, tables, .. } = recovered;
    let options = &setup.options;
    let Lasting { views, bells, .. } = lasting;
    let (keys, board) = (Arc::new(keys), Arc::new(Board::new(published, bells.head.clone())));
    let health = Arc::new(Health::default());
    let (outbox, inbox) =
        queue(options.queue_len_max, options.queue_bytes_max, health.clone(), bells.head.wakers().clone());
    let mut run_flusher = None;
    let projections = recovery::kept(&rules.projections);
    let expire = {
        let views = views.clone();
        move || views.expire()
    };
    let before_flush: flush::BeforeFlush = Box::new(expire.clone());
    let flusher = match tables {
        None => None,
        Some(tables) if setup.lockstep => {
            Some(Flusher::Inline { tables: Box::new(tables), projections, before_flush })
        }
        Some(tables) => {
            let ((jobs, todo), (done, results)) = (unbounded(), bounded(1));
            let keys = keys.clone();
            let run = move || flush::run(tables, keys, projections, todo, done, before_flush);
            run_flusher = Some(run);
            Some(Flusher::Beside(Beside::new(jobs, results)))
        }
    };
    let writer = Writer {
        rules: rules.clone(),
        options: options.clone(),
        clock: setup.platform.clock.clone(),
        time: Trusted::new(setup.platform.clock.clone(), &board.load().head, options),
        log: log.clone(),
        keys: keys.clone(),
        board: board.clone(),
        inbox,
        health: health.clone(),
        flusher,
        groups: 0,
        lease: None,
    };
    let door = Door {
        outbox,
        role: Arc::new(Mutex::new(writer)),
        lockstep: setup.lockstep,
        released: Arc::default(),
    };
    let mut engine = Engine::new(door.clone(), bells.clone(), cut);
    let following = Following {
        log: log.clone(),
        board: board.clone(),
        bells: bells.clone(),
        limits: rules.limits,
        page_bytes: options.page_bytes,
        overlay_bytes_max: options.overlay_bytes_max,
        overlay_age_max: Duration::from_millis(options.overlay_age_ms_max),
        files: place.map(|place| BehindFiles {
            disk: place.platform.disk.clone(),
            store: place.path.clone(),
            cache_bytes: options.state_cache_bytes,
        }),
        before_flush: Arc::new(expire),
    };
    engine.start(|engine| {
        if !setup.lockstep {
            let door = door.clone();
            let threads = engine.threads.get_mut();
            // Joined first: the flusher ends when the writer has.
            threads.push(spawn("writer", move || Writer::run(&door)).map_err(no_thread)?);
            threads.extend(run_flusher.map(|run| spawn("flusher", run)).transpose().map_err(no_thread)?);
            let every = Duration::from_millis(options.scrub_every_ms);
            let scrub = place.map(|_| scrub(&board, &health, every)).transpose().map_err(no_thread)?;
            *engine.scrub.get_mut() = scrub;
        }
        engine.behind = Followers::start(&following, &setup.behind, &forked, skipped, setup.lockstep)?;
        Ok(())
    })?;
    let behind = engine.behind.all().to_vec();
    let reader = Reader { rules, terms, log, keys, board, health, behind, page_bytes: options.page_bytes };
    let reader = Arc::new(reader);
    let checks = watch::Ground {
        reader: reader.clone(),
        door: door.clone(),
        options: options.clone(),
        clock: setup.platform.clock.clone(),
        checks: setup.checks.clone(),
        source: lasting.rules.clone(),
        name: name_of(setup, place),
        outlets: outlets(setup),
        head_bell: bells.head.clone(),
        watch_bell: bells.watch.clone(),
        files: place.map(|place| watch::Files {
            disk: place.platform.disk.clone(),
            store: place.path.clone(),
            cache_bytes: options.state_cache_bytes,
        }),
    };
    engine.start(|engine| {
        engine.pullers = Pullers::start(&checks, setup.lockstep).map_err(no_thread)?;
        engine.checks = Watching::start(checks, setup.lockstep).map_err(no_thread)?;
        Ok(())
    })?;
    let on_move = on_move(bells.head.clone(), engine.checks.watch.clone(), &engine.pullers);
    setup.platform.clock.wake_on_move(Arc::downgrade(&on_move));
    engine.on_move = Some(on_move);
    engine.own = engine.running();
    Ok((reader, engine))
}

/// Routes of notifications, each with a thread that starts with its first notification.
fn outlets(setup: &Setup) -> Vec<watch::Outlet> {
    let deadline = Duration::from_millis(setup.options.alert_deadline_ms);
    let queue = || DeliveryQueue::new(setup.platform.clock.clone(), deadline, setup.lockstep);
    setup.routes().into_iter().map(|route| watch::Outlet { route, queue: queue() }).collect()
}

/// The store's name in notifications.
fn name_of(setup: &Setup, place: Option<&Place>) -> String {
    let directory = place.and_then(|place| Some(place.path.file_name()?.to_string_lossy().into_owned()));
    setup.name.clone().or(directory).unwrap_or_else(|| "memory".to_owned())
}

/// Wakes all threads that wait for a time.
fn on_move(head: Arc<Bell>, watch: Arc<Watch>, pullers: &Pullers) -> Arc<dyn Fn() + Send + Sync> {
    let pull = pullers.waker();
    Arc::new(move || {
        head.ring();
        watch.leash.tug();
        pull();
    })
}

/// Returns the origin of the checks that are not in the setup; `None` without a folder of rules.
fn rules(setup: &Setup) -> Option<Arc<Mutex<dyn watch::Origin>>> {
    #[cfg(feature = "rules")]
    if !setup.rule_folders.is_empty() {
        let crate::disk::Platform { disk, clock, .. } = setup.platform.clone();
        let projections = setup.inline.iter().chain(&setup.behind).cloned().collect();
        let (folders, names) = (&setup.rule_folders, setup.vocabulary());
        let folders = watch::Folders::new(disk, clock, folders, &setup.checks, projections, names);
        return Some(Arc::new(Mutex::new(folders)));
    }
    let _ = setup;
    None
}

/// Starts the scrub. Damage of derived state that it finds stops the store before more is decided by that state.
fn scrub(board: &Arc<Board>, health: &Arc<Health>, every: Duration) -> io::Result<Scrub> {
    let (board, health) = (board.clone(), health.clone());
    let (stop, stopped) = bounded(0);
    let found = move |error: StorageError| {
        health.note_read(&error);
        if error.is_rebuildable() {
            health.poison(error);
        }
    };
    let thread = spawn("scrub", move || scrub::run(&board, every, &stopped, found))?;
    Ok(Scrub { thread, stop })
}

fn rebuilt_in_vain() -> OpenError {
    StorageError::new(TroubleKind::Io, "derived state is damaged again right after a rebuild").into()
}

// ---- using ----

impl Store {
    /// Appends, and waits until it is durable.
    ///
    /// # Errors
    ///
    /// Each says whether anything was written and what to do; see [`AppendError`]. Nothing is written twice under one key,
    /// whatever the error.
    ///
    /// # Examples
    ///
    /// A second append with the same key returns the first receipt; with another input it is refused:
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize, Clone)]
    /// # struct Paid { cents: u64 }
    /// # impl Event for Paid {
    /// #     const FAMILY: &str = "payment";
    /// #     type Id = ();
    /// #     fn id(&self) {}
    /// # }
    /// # fn main() -> Result<(), Error> {
    /// let store = Store::in_memory(Setup::new().events::<Paid>())?;
    /// let pay = Append::event(Paid { cents: 500 }).key("customer/7", "order-17").response("thank you");
    /// let first = store.append(pay.clone())?;
    /// let again = store.append(pay)?;
    /// assert!(again.replayed && again.receipt == first.receipt && again.response == b"thank you");
    ///
    /// let other = store.append(Append::event(Paid { cents: 900 }).key("customer/7", "order-17"));
    /// assert!(matches!(other, Err(AppendError::KeyReused { part, .. }) if part == "input"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn append(&self, append: Append) -> Result<Committed, AppendError> {
        let patience = Duration::from_millis(self.inner.setup.options.queue_wait_ms_max);
        match self.look(append)? {
            AppendLookup::Answered(answer) => Ok(answer),
            AppendLookup::New(request) => self.inner.engine().door.append(request, patience)?,
        }
    }

    /// Hands an append over, and returns at once. Dropping the `Commit` does not cancel it.
    ///
    /// A full queue is `Overloaded` at once.
    pub fn submit(&self, append: Append) -> Commit {
        let handed = self.look(append).and_then(|looked| match looked {
            AppendLookup::Answered(answer) => Ok(PendingState::Ready(Ok(answer))),
            AppendLookup::New(request) => {
                self.inner.engine().door.submit(request, Duration::ZERO).map(PendingState::Waiting)
            }
        });
        Commit(handed.unwrap_or_else(|error| PendingState::Ready(Err(error))))
    }

    /// Everything that can be done before the writer is asked.
    fn look(&self, append: Append) -> Result<AppendLookup, AppendError> {
        if let Some(outer) = reentry::fold() {
            return Err(AppendError::Nested { outer });
        }
        if let Some(outer) = inside::outer(&self.inner.shared.registry) {
            return Err(AppendError::Nested { outer });
        }
        let reader = self.reader();
        match reader.health.state() {
            State::Closed => return Err(AppendError::Closed(Box::new(append))),
            State::Poisoned => {
                let cause = reader.health.poisoned_by();
                return Err(AppendError::Poisoned { append: Box::new(append), cause });
            }
            State::Well => {}
        }
        let options = &self.inner.setup.options;
        let desk = Desk { rules: &reader.rules, options, terms: &reader.terms };
        let mut request = desk.checked(append)?;
        if let Some(keyed) = &request.keyed {
            let (Reader { log, keys, rules, .. }, clock) = (&*reader, &self.inner.setup.platform.clock);
            let published = reader.board.load();
            let now = || clock.now();
            let (events, durability) = (&request.append.events[..], rules.durability);
            let answer = idempotency::answered(&**log, keys, &published, keyed, events, durability, now)?;
            if let Some(answer) = answer {
                return Ok(AppendLookup::Answered(answer));
            }
        }
        request.reads.check(&reader.board.load(), &*reader.log)?;
        Ok(AppendLookup::New(Box::new(desk.index(request))))
    }

    /// Runs `decide` against a snapshot, and commits what it wrote if everything it read still holds; else again.
    ///
    /// The level is strict serializability. `decide` may run several times: it takes its inputs by reference, and does nothing
    /// but read and write through the transaction. After a few conflicts it runs with the writer held (for
    /// `Options::hold_ms_max`), so that it does not starve. A decision that writes nothing and has no key is not committed: its
    /// receipt is the snapshot's.
    ///
    /// # Errors
    ///
    /// Each says what the caller does differently; see [`TxError`]. Nothing is written, except perhaps after `Unknown`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # enum Account { Paid { from: u32, cents: u64 }, Got { to: u32, cents: u64 } }
    /// # impl Event for Account {
    /// #     const FAMILY: &str = "account";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 { match self { Self::Paid { from, .. } => *from, Self::Got { to, .. } => *to } }
    /// # }
    /// # struct Balances;
    /// # impl Projection for Balances {
    /// #     const NAME: &str = "balances";
    /// #     type Event = Account;
    /// #     type Key = u32;
    /// #     type Row = u64;
    /// #     fn fold(event: &Account, rows: &mut Rows<'_, Self>) -> Folded {
    /// #         match event {
    /// #             Account::Paid { from, cents } => rows.update(*from, |row| *row -= cents),
    /// #             Account::Got { to, cents } => rows.update(*to, |row| *row += cents),
    /// #         }
    /// #     }
    /// # }
    /// #[derive(Debug, PartialEq)]
    /// struct TooLittle { has: u64 }
    ///
    /// fn pay(tx: &mut Tx, from: u32, to: u32, cents: u64) -> Decision<u64, TooLittle> {
    ///     let has = tx.row::<Balances>(&from)?.unwrap_or(0);
    ///     if has < cents {
    ///         return refuse(TooLittle { has });
    ///     }
    ///     tx.append(Account::Paid { from, cents })?;
    ///     tx.append(Account::Got { to, cents })?;
    ///     Ok(tx.row::<Balances>(&from)?.unwrap_or(0))
    /// }
    ///
    /// # fn main() -> Result<(), Error> {
    /// let store = Store::in_memory(Setup::new().inline::<Balances>())?;
    /// store.append(Append::event(Account::Got { to: 1, cents: 500 }))?;
    /// let request = Request::new("pay").key("customer/1", "order-17", &(1, 2, 300));
    /// let paid = store.transact(request.clone(), |tx| pay(tx, 1, 2, 300)).map_err(TxError::into_error)?;
    /// let again = store.transact(request, |tx| pay(tx, 1, 2, 300)).map_err(TxError::into_error)?;
    /// assert_eq!((paid.response, again.response, again.replayed), (200, 200, true));
    ///
    /// // Example: the domain says no, and nothing is written.
    /// let refused = store.transact("pay", |tx| pay(tx, 1, 2, 300));
    /// assert!(matches!(refused, Err(TxError::Refused(TooLittle { has: 200 }))));
    ///
    /// // Example: a decision that refuses nothing, in place.
    /// store.transact("gift", |tx| {
    ///     tx.append(Account::Got { to: 2, cents: 5 })?;
    ///     Ok(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn transact<T: StoredAnswer, E>(
        &self,
        request: impl Into<Request>,
        decide: impl FnMut(&mut Tx<'_>) -> Decision<T, E>,
    ) -> Result<Committed<T>, TxError<E>> {
        attempt::transact(&self.parts(), request.into(), Location::caller(), decide)
    }

    /// The same as a future: `decide` runs where it is polled, and the sync is waited for without a thread. Dropped, what was
    /// handed over still commits, and nothing is decided any more.
    #[track_caller]
    pub fn submit_transact<T: StoredAnswer, E, F>(
        &self,
        request: impl Into<Request>,
        decide: F,
    ) -> Deciding<T, E, F>
    where
        F: FnMut(&mut Tx<'_>) -> Decision<T, E>,
    {
        let begun = Work::begin(&self.parts(), request.into(), Location::caller());
        Deciding { store: self.clone(), begun: Some(begun), decide, waits: None, refusal: PhantomData }
    }

    /// Begins a transaction that its caller commits: for tests and tools. Several may interleave on one thread.
    ///
    /// # Errors
    ///
    /// `Closed`, `Poisoned`, `Invalid`.
    #[track_caller]
    pub fn begin(&self, request: impl Into<Request>) -> Result<Tx<'_>, TxError> {
        transaction::begin(self.parts(), request.into(), Location::caller())
    }

    /// The transactions that run now.
    pub fn active_transactions(&self) -> Vec<ActiveTx> {
        self.inner.shared.registry.list(self.inner.setup.platform.clock.monotonic())
    }

    fn parts(&self) -> Parts<'_> {
        let Inner { shared, current, lasting: Lasting { views, .. }, setup, .. } = &**self.inner;
        Parts { shared, current, views, options: &setup.options, door: self.door() }
    }

    pub(crate) fn door(&self) -> Door {
        self.inner.engine.read().door.clone()
    }

    /// Runs work of background threads on this one, in lockstep.
    fn run_step(&self, work: impl FnOnce(&Engine) -> bool) -> bool {
        let engine = self.inner.engine();
        let moved = engine.steps.run(|| work(&engine));
        engine.door.wake();
        moved
    }

    /// Serves what was submitted, as one group where it fits, and then a page for each projection behind the writer, on this
    /// thread. For stores set up with [`Setup::lockstep`].
    #[cfg(feature = "testing")]
    ///
    /// # Panics
    ///
    /// Inside a fold, a guard or an invariant.
    pub fn step(&self) {
        not_inside_a_fold("step()");
        self.run_step(|engine| {
            engine.door.role.lock().step();
            engine.behind.step();
            engine.pullers.step();
            engine.checks.step()
        });
    }

    /// A consistent read of everything at the position that is durable now.
    ///
    /// # Errors
    ///
    /// `Closed`. `Nested`: inside a fold, a guard or an invariant.
    pub fn view(&self) -> Result<View, ReadError> {
        if let Some(outer) = reentry::fold() {
            return Err(ReadError::Nested { outer });
        }
        let reader = self.reader();
        match reader.health.state() {
            State::Closed => Err(ReadError::Closed),
            // What was durable stays readable.
            State::Well | State::Poisoned => Ok(self.inner.lasting.views.take(&self.inner.current, &reader)),
        }
    }

    pub(crate) fn reader(&self) -> Arc<Reader> {
        self.inner.reader()
    }

    /// All events that match and stand behind `after`, in order: those that are there, then those that come.
    ///
    /// A query that goes backwards, or has a limit or an end, is refused by the subscription's first item.
    ///
    /// # Examples
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use std::task::Poll;
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize, Clone)]
    /// # struct Paid { cents: u64 }
    /// # impl Event for Paid {
    /// #     const FAMILY: &str = "payment";
    /// #     type Id = ();
    /// #     fn id(&self) {}
    /// # }
    /// # fn main() -> Result<(), Error> {
    /// let store = Store::in_memory(Setup::new().events::<Paid>())?;
    /// store.append(Append::event(Paid { cents: 500 }))?;
    /// let mut payments = store.subscribe::<Paid>(Query::all(), Position::START);
    /// let first = payments.next().expect("the store is open")?;
    /// assert_eq!((first.position.get(), first.event.cents), (1, 500));
    ///
    /// // There is no more for now: `next` would wait.
    /// assert!(payments.try_next().is_pending());
    /// store.append(Append::event(Paid { cents: 900 }))?;
    /// assert!(matches!(payments.try_next(), Poll::Ready(Some(Ok(paid))) if paid.event.cents == 900));
    ///
    /// // Example: a position of another store, or of a later copy, is refused: what comes up to there would be missed.
    /// let mut refused = store.subscribe::<Paid>(Query::all(), Position::new(7));
    /// assert!(matches!(refused.next(), Some(Err(ReadError::BeyondHead { head, .. })) if head.get() == 2));
    ///
    /// // Example: what has an end cannot be followed.
    /// let mut refused = store.subscribe::<Paid>(Query::all().limit(1), Position::START);
    /// assert!(matches!(refused.next(), Some(Err(ReadError::Invalid { what: "subscription", .. }))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe<E: EventSet>(&self, query: impl Into<Query>, after: Position) -> Subscription<E> {
        Subscription::new(
            self.inner.current.clone(),
            self.inner.lasting.bells.head.clone(),
            query.into(),
            after,
        )
    }

    /// A view in which `P` has folded everything up to `position`, once there is one: the position of a receipt reads what was
    /// written there. An inline projection has it as soon as it is committed.
    ///
    /// # Errors
    ///
    /// - `Stalled`: at once, it will not get there by itself.
    /// - `Behind` or `Rebuilding`: `timeout` is over, and says where it stands. It goes on; wait again.
    /// - `Unregistered`, `Closed`, `Storage`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tallystone::prelude::*;
    /// # use std::time::Duration;
    /// # #[derive(Serialize, Deserialize, Clone)]
    /// # struct Paid { cents: u64 }
    /// # impl Event for Paid {
    /// #     const FAMILY: &str = "payment";
    /// #     type Id = ();
    /// #     fn id(&self) {}
    /// # }
    /// struct Sum;
    /// impl Projection for Sum {
    ///     const NAME: &str = "sum";
    ///     type Event = Paid;
    ///     type Key = ();
    ///     type Row = u64;
    ///     fn fold(paid: &Paid, rows: &mut Rows<Self>) -> Folded {
    ///         rows.update((), |sum| *sum += paid.cents)
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Error> {
    /// let store = Store::in_memory(Setup::new().behind::<Sum>())?;
    /// let paid = store.append(Append::event(Paid { cents: 500 }))?;
    /// let view = store.wait_for::<Sum>(paid.receipt.last, Duration::from_secs(10))?;
    /// assert_eq!(view.row::<Sum>(&())?, Some(500));
    ///
    /// // Example: nobody writes the next event, so the wait is in vain.
    /// let next = Position::new(paid.receipt.last.get() + 1);
    /// let vain = store.wait_for::<Sum>(next, Duration::ZERO);
    /// assert!(matches!(vain, Err(ReadError::Behind { at, .. }) if at == paid.receipt.last));
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_for<P: Projection>(&self, position: Position, timeout: Duration) -> Result<View, ReadError> {
        let bells = &self.inner.lasting.bells;
        let is_behind = self.reader().behind.iter().any(|behind| behind.is::<P>());
        self.wait(if is_behind { &bells.behind } else { &bells.head }, timeout, || {
            let view = self.view()?;
            match view.folded_through::<P>()? {
                at if at >= position => Ok(view),
                at => Err(ReadError::Behind { projection: P::NAME, at, wanted: position }),
            }
        })
    }

    /// Asks until the answer is another than "not yet", or the time is over.
    fn wait<T>(
        &self,
        bell: &Bell,
        timeout: Duration,
        mut ask: impl FnMut() -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let deadline = deadline(timeout);
        loop {
            let listener = bell.listen();
            match ask() {
                Err(not_yet @ (ReadError::Behind { .. } | ReadError::Rebuilding { .. })) => {
                    let moved = match self.inner.setup.lockstep {
                        // Nobody moves but by this.
                        true => self.run_step(|engine| engine.behind.step()),
                        false => listener.wait(deadline),
                    };
                    if !moved {
                        return Err(not_yet);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Folds a projection behind the writer again from the first commit, in another file, and waits until that is served.
    ///
    /// Until then the rows there are go on being served and followed; [`Stats::behind`] tells how far it has come. A process
    /// that ends meanwhile leaves the old rows. Its rows in views from before the switch may answer `ViewExpired`.
    ///
    /// # Errors
    ///
    /// - `Stalled`: its fold fails on an event.
    /// - `Unregistered`: only what [`Setup::behind`] registered is rebuilt by this; `Closed`, `Storage`.
    pub fn rebuild<P: Projection>(&self) -> Result<(), ReadError> {
        let find = || {
            if let Some(outer) = reentry::fold() {
                return Err(ReadError::Nested { outer });
            }
            let reader = self.reader();
            match reader.health.state() {
                State::Closed => Err(ReadError::Closed),
                _ => reader
                    .behind
                    .iter()
                    .find(|behind| behind.is::<P>())
                    .cloned()
                    .ok_or_else(unregistered::<P>),
            }
        };
        let mut asked = None;
        self.wait(&self.inner.lasting.bells.behind, Duration::MAX, || {
            let behind = find()?;
            let standing = behind.standing();
            let (at, of) = standing.building.unwrap_or_default();
            match &asked {
                _ if standing.halt.is_some() => return behind.rows(&standing).map(drop),
                Some((one, built)) if Arc::ptr_eq(one, &behind) => {
                    if standing.built > *built {
                        return Ok(());
                    }
                }
                // Now, or again: a recovery has forgotten it.
                _ => {
                    behind.rebuild();
                    asked = Some((behind, standing.built));
                }
            }
            Err(ReadError::Rebuilding { projection: P::NAME, at, of })
        })
    }

    /// Has a projection behind the writer pass over the event that it has stalled at, and go on behind it: for an event that no
    /// code will ever fold. That and why is an event in the log, so a restart, a rebuild, `verify` and `audit` pass over it too;
    /// [`Stats::behind`] and [`VerifyReport::skipped`] show it. Another `VERSION` is other code, and folds the event again.
    ///
    /// # Errors
    ///
    /// - `NotStalled`: it has not stalled, or elsewhere; nothing is passed over in advance.
    /// - `Unregistered`: only what [`Setup::behind`] registered can pass over events. An inline projection refuses them instead.
    /// - `Invalid` without a reason. `Append`: it could not be put on record.
    ///
    /// # Examples
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use std::time::Duration;
    /// # use tallystone::error::SkipError;
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize, Clone)]
    /// # struct Paid { cents: u64 }
    /// # impl Event for Paid {
    /// #     const FAMILY: &str = "payment";
    /// #     type Id = ();
    /// #     fn id(&self) {}
    /// # }
    /// struct Sum;
    /// impl Projection for Sum {
    ///     const NAME: &str = "sum";
    ///     type Event = Paid;
    ///     type Key = ();
    ///     type Row = u64;
    ///     fn fold(paid: &Paid, rows: &mut Rows<Self>) -> Folded {
    ///         if paid.cents > 1_000_000 {
    ///             return Err(FoldError::refuse("more than there is"));
    ///         }
    ///         rows.update((), |sum| *sum += paid.cents)
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = Store::in_memory(Setup::new().behind::<Sum>())?;
    /// let typo = store.append(Append::event(Paid { cents: 5_000_000 }))?.receipt.last;
    /// let paid = store.append(Append::event(Paid { cents: 500 }))?.receipt.last;
    /// let wait = || store.wait_for::<Sum>(paid, Duration::from_secs(10));
    /// assert!(matches!(wait(), Err(ReadError::Stalled { position, .. }) if position == typo));
    /// store.skip::<Sum>(typo, "a typo, see ticket 7")?;
    /// assert_eq!(wait()?.row::<Sum>(&())?, Some(500));
    ///
    /// // Example: nothing is passed over in advance.
    /// let refused = store.skip::<Sum>(paid, "not wanted");
    /// assert!(matches!(refused, Err(SkipError::NotStalled { at: None, .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn skip<P: Projection>(&self, position: Position, reason: &str) -> Result<Receipt, SkipError> {
        if reason.trim().is_empty() {
            return Err(SkipError::Invalid { what: "skip", why: "it has no reason" });
        }
        let find = || self.reader().behind.iter().find(|behind| behind.is::<P>()).cloned();
        let Some(behind) = find() else {
            let ReadError::Unregistered(missing) = unregistered::<P>() else { unreachable!("it says so") };
            return Err(SkipError::Unregistered(missing));
        };
        let at = behind.stalled_at();
        if at != Some(position) {
            return Err(SkipError::NotStalled { projection: P::NAME, at, asked: position });
        }
        let (projection, reason) = (P::NAME.to_owned(), reason.to_owned());
        let skipped =
            Own::Skipped { projection, version: P::VERSION, position: position.0, reason: reason.clone() };
        let receipt = self.append(Append::event(skipped).label("skip"))?.receipt;
        // After a recovery in between it is another one, and has read what is on record.
        find().unwrap_or(behind).skip(position, &reason);
        Ok(receipt)
    }

    /// Walks everything: the log's chain and checksums, indexes and keys against the log, rows against a refold.
    ///
    /// It reads the whole store at the position of the call, beside a writer that goes on, and folds every projection again:
    /// in memory, and in a file beside the store when rows take more than `overlay_bytes_max`. Progress goes to [`Setup::progress`].
    ///
    /// # Errors
    ///
    /// Only what keeps it from looking, such as an I/O error. Damage is in the report.
    pub fn verify(&self) -> Result<VerifyReport, ReadError> {
        self.beside(verify::run)
    }

    /// Compares the rows of one projection with those that today's code folds from the log: consumer code that was wrong.
    ///
    /// A fold that is corrected without another `VERSION` leaves the rows that the old code made. The log is folded again from
    /// the first commit, beside what is served and up to the same position; rows are compared by hashes of ranges of keys, and
    /// one by one where those differ. The report names the first row that differs, the first event that was folded otherwise, and
    /// the first one whose fold is not the same twice.
    ///
    /// Nothing is mended: raise `VERSION`, or call [`rebuild`](Self::rebuild) for one behind the writer. [`verify`](Self::verify)
    /// looks at everything, and stops at the first thing that is wrong.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Deposited { account: u32, cents: i64 }
    /// # impl Event for Deposited {
    /// #     const FAMILY: &str = "account";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 { self.account }
    /// # }
    /// # struct Balances;
    /// # impl Projection for Balances {
    /// #     const NAME: &str = "balances";
    /// #     type Event = Deposited; type Key = u32; type Row = i64;
    /// #     fn fold(event: &Deposited, rows: &mut Rows<Self>) -> Folded {
    /// #         rows.update(event.account, |balance| *balance += event.cents)
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Error> {
    /// let store = Store::in_memory(Setup::new().inline::<Balances>())?;
    /// store.append(Append::event(Deposited { account: 7, cents: 500 }))?;
    /// let audit = store.audit::<Balances>()?;
    /// assert!(audit.is_clean());
    /// assert_eq!((audit.served_len, audit.folded_len), (1, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// - `Stalled`: today's code fails on an event, which is named; or the rows that are served do.
    /// - `Unregistered`; `Rebuilding` for one behind the writer that has no rows yet: wait for it.
    /// - `Decode`, `Storage`: the first row that differs does not decode, or what keeps it from looking.
    pub fn audit<P: Projection>(&self) -> Result<Audit<P::Key, P::Row>, ReadError> {
        self.beside(|reader, recovery, scratch| audit::run::<P>(reader, recovery, scratch))
    }

    /// Has `look` fold the log beside what is served, with a scratch file.
    fn beside<T>(
        &self,
        look: impl FnOnce(&Reader, &Recovery<'_>, Scratch<'_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        if let Some(outer) = reentry::any() {
            return Err(ReadError::Nested { outer });
        }
        let _one = self.inner.verifying.lock();
        let _inside = reentry::enter(Inside::Verify);
        // A close meanwhile leaves the directory locked until this has ended.
        let locks = self.inner.place.as_ref().map(|place| place.share());
        if locks.as_ref().is_some_and(|locks| locks.is_empty()) {
            return Err(ReadError::Closed);
        }
        let reader = self.reader();
        let setup = &self.inner.setup;
        let recovery = Recovery {
            log: &*reader.log,
            rules: &reader.rules,
            terms: &reader.terms,
            overlay_bytes_max: setup.options.overlay_bytes_max,
            progress: setup.progress.clone(),
        };
        let make = || {
            let Some(place) = &self.inner.place else { return Ok(None) };
            new_tables(place, VERIFY, setup.options.state_cache_bytes).map(Some).map_err(
                |error| match error {
                    OpenError::Storage(error) => error,
                    error => StorageError::caused(TroubleKind::Io, "no room beside the store", error),
                },
            )
        };
        let report = look(&reader, &recovery, Scratch::new(&make));
        if let Some(place) = &self.inner.place {
            // Only scratch: the next one removes what is left of it.
            let _ = remove_if_there(place, VERIFY);
        }
        report
    }

    /// Opens the files again, in this process, after `Unknown` or `Poisoned`, or when derived state was found damaged.
    ///
    /// What is durable is served again, and what is not is gone: ask again with the same key. A store that is well is left alone,
    /// but for projections behind the writer that stalled or could not use their files: they try again. Of views taken before,
    /// events stay readable and rows do not (`ViewExpired`).
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open). The store stays as it was; call it again when the cause is mended. `Nested`: on a thread that the
    /// recovery would wait for: inside a fold, a guard, the closure of a check, a comparison with a source. An alert sink may
    /// call it, unless another recovery or a close waits for that sink.
    pub fn recover(&self) -> Result<(), OpenError> {
        let engine = self.inner.engine();
        let own = || engine.waits_for_this_thread().then(|| "a thread of the store's own".to_owned());
        if let Some(outer) = reentry::any().or_else(own) {
            return Err(OpenError::Nested { outer });
        }
        let _changing = match self.inner.life.change(!engine.owns_this_thread()) {
            Turn::Mine(changing) => changing,
            Turn::Taken => return Err(OpenError::Nested { outer: "a recovery or a close".to_owned() }),
            Turn::Closed => {
                let closed = |place: &Place| Err(OpenError::NotFound { path: place.path.clone() });
                return self.inner.place.as_deref().map_or(Ok(()), closed);
            }
        };
        let _inside = reentry::enter(Inside::Recovery);
        let engine = self.inner.engine();
        let reader = self.reader();
        let damaged = reader.damage().is_some();
        reader.behind.iter().for_each(|behind| behind.resume());
        engine.checks.watch.resume();
        self.inner.lasting.bells.ring();
        let Some(place) = &self.inner.place else { return Ok(()) };
        let has_stalls = !reader.rules.projections.stalls.is_empty();
        match reader.health.state() {
            State::Closed => return Err(OpenError::NotFound { path: place.path.clone() }),
            State::Well if !damaged && !has_stalls => return Ok(()),
            State::Well | State::Poisoned => {}
        }
        if place.is_forked() {
            return Err(log::forked().into());
        }
        // No new request gets in while the files are opened again.
        reader.health.poison(StorageError::new(TroubleKind::Io, "the store is being recovered"));
        engine.stop();
        reader.log.end();
        self.inner.lasting.views.let_go();
        place.relock()?;
        let durable = (reader.log.store(), reader.board.load().head);
        let files = open_files(place, &self.inner.setup, Some(durable)).inspect_err(|error| {
            if matches!(error, OpenError::TailLost { .. } | OpenError::Corrupt { .. }) {
                // The next process does not know what this one does.
                remember(place, durable);
            }
        })?;
        let files = Files { rebuild: damaged, ..files };
        let inner = &self.inner;
        let (reader, engine) = start(Some(place), &inner.setup, &inner.lasting, files)?;
        let ended = mem::replace(&mut *inner.engine.write(), Arc::new(engine));
        *inner.current.write() = reader;
        inner.lasting.bells.ring();
        drop(ended);
        Ok(())
    }

    /// Takes what the clock says now for the time, after `ClockJumped`: for a person who has looked at it. Returns that time.
    ///
    /// There is no way back: the next commit records it, keys kept for a time that is over by then are not kept any more, and no
    /// later commit has an earlier time. If the clock is wrong, set it right instead; nothing more is needed.
    ///
    /// # Panics
    ///
    /// Inside a fold, a guard or an invariant.
    pub fn accept_clock(&self) -> SystemTime {
        not_inside_a_fold("accept_clock()");
        self.door().role.lock().time.accept().into()
    }

    /// Returns the checks: the position of each, its findings, and what was done about them.
    pub fn checks(&self) -> Checks<'_> {
        Checks { desk: self }
    }

    /// Closes the store for every handle: what was handed over is committed, state is flushed, threads end.
    ///
    /// Dropping the last handle does the same. It returns when that is done, and others may open the store then, also where
    /// handles are left; an alert sink that runs is waited for until
    /// [`Options::alert_deadline_ms`](crate::Options::alert_deadline_ms). Where it would wait for itself (inside a fold, a guard,
    /// the closure of a check, an alert sink, the source of a check) it returns at once, and another thread closes the store when
    /// that has returned.
    pub fn close(self) {
        self.inner.close();
    }

    /// Figures about the store, as of now.
    pub fn stats(&self) -> Stats {
        let reader = self.reader();
        let published = reader.board.load();
        let log = reader.log.size();
        let engine = self.inner.engine();
        Stats {
            position: published.head.position,
            commit: published.head.commit,
            log_files: log.files,
            log_bytes: log.bytes,
            flushed_commit: published.base.commit(),
            flushed_rows: published.base.row_count(),
            state_file: published.base.size().into(),
            checks_file: engine.checks.watch.file_size().into(),
            retention: reader.rules.retention,
            keys_len: reader.keys.len() as u64,
            keys_bytes: reader.keys.bytes() as u64,
            overlay_bytes: published.active.bytes() as u64,
            frozen_bytes: published.frozen.as_ref().map_or(0, |frozen| frozen.bytes()) as u64,
            queue_len: engine.door.outbox.len() as u64,
            views_len: self.inner.lasting.views.len() as u64,
            transactions: *self.inner.shared.stats.lock(),
            event_types_len: published.layouts.len() as u64,
            behind: reader
                .behind
                .iter()
                .map(|one| BehindStats::new(one, &one.standing(), &published))
                .collect(),
            poisoned: reader.health.trouble().filter(|_| reader.health.is_poisoned()),
            damaged: reader.damage(),
            cut: engine.cut.clone(),
        }
    }
}

impl CheckDesk for Store {
    fn view(&self) -> Result<View, ReadError> {
        Store::view(self)
    }

    fn append(&self, append: Append) -> Result<Receipt, AppendError> {
        Ok(Store::append(self, append)?.receipt)
    }

    fn head(&self) -> Position {
        self.reader().board.load().head.position
    }

    fn now(&self) -> crate::order::Timestamp {
        self.inner.setup.platform.clock.now().max(self.reader().board.load().head.time)
    }

    fn watch(&self) -> Arc<Watch> {
        self.inner.engine().checks.watch.clone()
    }

    fn glasses(&self) -> Glasses {
        let reader = self.reader();
        Glasses::new(reader.terms.clone(), reader.board.load().layouts.clone())
    }

    fn invariants(&self) -> &[Invariant] {
        &self.inner.setup.invariants
    }

    fn settle(&self, position: Position, timeout: Duration) -> bool {
        self.settled(position, deadline(timeout))
    }

    fn pull(&self, check: &str, timeout: Duration) -> Option<bool> {
        let (deadline, engine) = (deadline(timeout), self.inner.engine());
        if reentry::fold().is_some() || engine.pullers.is_pulling(check) {
            return Some(false);
        }
        let order = engine.pullers.order(check)?;
        if self.inner.setup.lockstep {
            self.run_step(|engine| {
                engine.pullers.step();
                true
            });
        }
        Some(order.wait(deadline) && self.settled(CheckDesk::head(self), deadline))
    }
}

impl Store {
    /// Waits for every check to settle there. Returns `false` if the time is over, they do not go on, the store is closed, or
    /// this thread is one that they wait for.
    fn settled(&self, position: Position, deadline: Option<Instant>) -> bool {
        loop {
            let listener = self.inner.lasting.bells.watch.listen();
            let engine = self.inner.engine();
            let stats = engine.checks.watch.stats();
            if stats.iter().all(|check| check.position >= position && check.unrecorded == 0) {
                return true;
            }
            let is_closed = self.reader().health.state() == State::Closed;
            if is_closed || reentry::fold().is_some() || engine.waits_for_this_thread() {
                return false;
            }
            let moved = match self.inner.setup.lockstep {
                // Nobody moves but by this.
                true => self.run_step(|engine| engine.checks.step()),
                false => stats.iter().all(|check| check.trouble.is_none()) && listener.wait(deadline),
            };
            if !moved {
                return false;
            }
        }
    }
}

/// Refuses for a call that returns no error.
fn not_inside_a_fold(call: &str) {
    if let Some(outer) = reentry::fold() {
        panic!("{call} inside {outer}, which it would wait for");
    }
}

impl Inner {
    /// Closes, unless it is closed, and waits until that is done.
    fn shut(&self) {
        if self.place.as_ref().is_some_and(|place| place.is_forked()) {
            self.engine().disown();
            let reader = self.reader();
            reader.health.close();
            return mem::forget(reader);
        }
        let Turn::Mine(changing) = self.life.change(true) else { return };
        let engine = self.engine();
        engine.stop();
        let reader = self.reader();
        reader.health.close();
        reader.log.end();
        self.lasting.bells.ring();
        self.lasting.views.let_go();
        if let Some(place) = &self.place {
            if reader.damage().is_some() {
                // What was found damaged is not found again: the next open rebuilds.
                let _ = remove_if_there(place, STATE);
            }
            // From here on others may open it, even if handles are left here.
            place.unlock();
        }
        changing.close();
        engine.door.wake();
    }

    /// Returns whether the closing would wait for the calling thread, or for the commit that it is part of.
    fn is_inside(&self) -> bool {
        reentry::any().is_some() || self.engine().owns_this_thread()
    }

    fn engine(&self) -> Arc<Engine> {
        self.engine.read().clone()
    }

    fn reader(&self) -> Arc<Reader> {
        self.current.read().clone()
    }
}

/// Shared by the handles of a store. The last one closes it.
struct Handles(Arc<Inner>);

impl Handles {
    /// Closes the store. On a thread that the closing waits for, or inside a fold, another thread closes it, and this one goes
    /// on.
    fn close(&self) {
        if !self.0.is_inside() {
            return self.0.shut();
        }
        let inner = self.0.clone();
        // If no thread can be started, the store stays open until the process ends.
        let _ = spawn("close", move || inner.shut());
    }
}

impl Deref for Handles {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.close();
    }
}

/// An append under way: a future, and `wait()`. Dropping it does not cancel the append.
#[must_use = "an append that nobody waits for may fail unseen"]
pub struct Commit(PendingState);

enum PendingState {
    Ready(Answered),
    Waiting(Answer<Handed>),
}

impl std::fmt::Debug for Commit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Commit")
    }
}

impl Commit {
    /// Waits until it is durable, or refused.
    ///
    /// # Errors
    ///
    /// As [`Store::append`].
    pub fn wait(self) -> Result<Committed, AppendError> {
        match self.0 {
            PendingState::Ready(answer) => answer,
            PendingState::Waiting(answer) => {
                refuse_inside_a_fold()?;
                answer.wait().open()
            }
        }
    }

    /// Waits no longer than `timeout`. `None` if it is not decided yet; wait again. Answers again what was answered before.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<Committed, AppendError>> {
        let answered = match &mut self.0 {
            PendingState::Ready(answer) => return Some(answer.clone()),
            PendingState::Waiting(answer) => match refuse_inside_a_fold() {
                Ok(()) => answer.wait_timeout(timeout)?.open(),
                Err(error) => return Some(Err(error)),
            },
        };
        self.0 = PendingState::Ready(answered.clone());
        Some(answered)
    }
}

impl Future for Commit {
    type Output = Result<Committed, AppendError>;

    /// Answers again what was answered before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = match &mut self.0 {
            PendingState::Ready(answer) => return Poll::Ready(answer.clone()),
            PendingState::Waiting(answer) => ready!(Pin::new(answer).poll(context)).open(),
        };
        self.0 = PendingState::Ready(answered.clone());
        Poll::Ready(answered)
    }
}

fn refuse_inside_a_fold() -> Result<(), AppendError> {
    reentry::fold().map_or(Ok(()), |outer| Err(AppendError::Nested { outer }))
}

/// A decision under way. Dropped, what was handed over still commits.
#[must_use = "nothing is decided before it is polled"]
pub struct Deciding<T, E, F> {
    store: Store,
    /// `None` once it has ended.
    begun: Option<Result<Work, TxError>>,
    decide: F,
    waits: Option<PendingAnswer<T>>,
    refusal: PhantomData<fn() -> E>,
}

/// Handed over, and not answered yet.
struct PendingAnswer<T> {
    answer: Answer<Handed>,
    response: T,
    callbacks: Vec<Callback>,
}

impl<T, E, F> std::fmt::Debug for Deciding<T, E, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deciding")
    }
}

// Nothing in it is pinned.
impl<T, E, F> Unpin for Deciding<T, E, F> {}

impl<T, E, F> Future for Deciding<T, E, F>
where
    T: StoredAnswer,
    F: FnMut(&mut Tx<'_>) -> Decision<T, E>,
{
    type Output = Result<Committed<T>, TxError<E>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut work = match this.begun.take().expect("a future is not polled after its answer") {
            Ok(work) => work,
            Err(error) => return Poll::Ready(Err(attempt::widen(error))),
        };
        loop {
            let tried = match &mut this.waits {
                None => match this.store.decide(&work, &mut this.decide) {
                    Ok(SubmitOutcome::Ended(committed)) => Ok(committed),
                    Ok(SubmitOutcome::Over(waits)) => {
                        this.waits = Some(waits);
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Some(waits) => match Pin::new(&mut waits.answer).poll(context) {
                    Poll::Pending => {
                        this.begun = Some(Ok(work));
                        return Poll::Pending;
                    }
                    Poll::Ready(handed) => {
                        let PendingAnswer { response, callbacks, .. } =
                            this.waits.take().expect("matched above");
                        work.received(handed.open(), response, callbacks).map_err(attempt::widen)
                    }
                },
            };
            work.told(&tried);
            match tried {
                Err(error) if work.again(&error) => {}
                ended => return Poll::Ready(work.end(ended)),
            }
        }
    }
}

/// Result of one try of a future.
enum SubmitOutcome<T> {
    Ended(Committed<T>),
    Over(PendingAnswer<T>),
}

impl Store {
    /// Decides on this thread, and hands over what is to be committed.
    fn decide<T: StoredAnswer, E>(
        &self,
        work: &Work,
        decide: &mut impl FnMut(&mut Tx<'_>) -> Decision<T, E>,
    ) -> Result<SubmitOutcome<T>, TxError<E>> {
        let parts = self.parts();
        match work.decide(&parts, decide)? {
            Decided::Before(answer) => Ok(SubmitOutcome::Ended(answer)),
            Decided::Now(Concluded::Ready(Ready { prepared, answer, callbacks }), None) => {
                let handed = parts.door.submit(prepared, Duration::ZERO);
                let waiting = handed.map_err(|error| work.not_taken(&parts, error, Duration::ZERO));
                let waits =
                    PendingAnswer { answer: waiting.map_err(attempt::widen)?, response: answer, callbacks };
                Ok(SubmitOutcome::Over(waits))
            }
            // With the writer held, the commit is made here and now.
            Decided::Now(concluded, held) => {
                work.commit(&parts, concluded, held).map(SubmitOutcome::Ended).map_err(attempt::widen)
            }
        }
    }
}

/// Figures about a store. `_len` counts, `_bytes` are bytes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stats {
    /// The last event.
    pub position: Position,
    /// The last commit.
    pub commit: CommitNo,
    /// Segment files of the log.
    pub log_files: u64,
    /// The log on disk, preallocated room included.
    pub log_bytes: u64,
    /// The commit up to which `state.redb` has everything.
    pub flushed_commit: CommitNo,
    /// Projection rows in `state.redb`.
    pub flushed_rows: u64,
    /// Size of `state.redb`.
    pub state_file: FileStats,
    /// Size of `checks.redb`, as of the last flush.
    pub checks_file: FileStats,
    /// Retention of idempotency keys, if the request says nothing else.
    pub retention: Retention,
    /// Idempotency keys in memory: those that are kept, and expired ones until a flush lets go of them.
    pub keys_len: u64,
    /// Memory of the key index, estimated.
    pub keys_bytes: u64,
    /// Memory of what is newer than `state.redb`, estimated.
    pub overlay_bytes: u64,
    /// Memory of what is being flushed, estimated.
    pub frozen_bytes: u64,
    /// Requests that wait for the writer.
    pub queue_len: u64,
    /// Views that are held.
    pub views_len: u64,
    /// Conflicts, retries and holds of its transactions, since it was opened.
    pub transactions: TxStats,
    /// Event types in the log.
    pub event_types_len: u64,
    /// The projections behind the writer, in the setup's order.
    pub behind: Vec<BehindStats>,
    /// The error that keeps the store from committing anything, until `recover`.
    pub poisoned: Option<StorageError>,
    /// Damage found in derived state; `recover` rebuilds it.
    pub damaged: Option<StorageError>,
    /// The part that opening cut off: the torn end of a group that was never acknowledged.
    pub cut: Option<CutTail>,
}

/// Size of a derived file. One that is mostly free is compacted by the next open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileStats {
    /// Bytes on disk; 0 before the first flush, and in memory.
    pub bytes: u64,
    /// Bytes of these that no key or value takes: free pages, unused room in pages, checksums.
    pub free_bytes: u64,
}

impl From<(u64, u64)> for FileStats {
    fn from((bytes, used): (u64, u64)) -> Self {
        Self { bytes, free_bytes: bytes.saturating_sub(used) }
    }
}

/// Figures about a projection behind the writer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BehindStats {
    /// Its name.
    pub projection: &'static str,
    /// The last event that is in its rows.
    pub position: Position,
    /// Events that are not yet.
    pub lag_len: u64,
    /// Its rows in its file.
    pub flushed_rows: u64,
    /// Size of its file.
    pub file: FileStats,
    /// Memory of what is newer than its file, estimated.
    pub overlay_bytes: u64,
    /// Position of the rows that are being built from the first commit, and the position that they must reach to be served.
    pub rebuilding: Option<(Position, Position)>,
    /// The event its fold failed on, and why. `recover` has it try again, [`Store::skip`] passes over it.
    pub stalled: Option<(Position, String)>,
    /// The error that keeps it from using its file or the log. `recover` has it try again.
    pub trouble: Option<StorageError>,
    /// Events that it passes over, and why: of [`Store::skip`].
    pub skipped: Vec<(Position, String)>,
}

impl BehindStats {
    fn new(behind: &Behind, standing: &Standing, published: &Published) -> Self {
        let (stalled, trouble) = match &standing.halt {
            Some(Halt::Stalled(stall)) => (Some((stall.position, stall.why.clone())), None),
            Some(Halt::Trouble(error)) => (None, Some(error.clone())),
            None => (None, None),
        };
        let position = standing.position();
        Self {
            projection: behind.projection.name,
            position,
            // It may have moved since the head was looked at.
            lag_len: published.head.position.get().saturating_sub(position.get()),
            flushed_rows: standing.flushed_rows(),
            file: standing.file_size().into(),
            overlay_bytes: standing.overlay_bytes(),
            rebuilding: standing.building,
            stalled,
            trouble,
            skipped: behind.skipped().into_iter().map(|(at, why)| (Position(at), why)).collect(),
        }
    }
}

/// A torn tail of the log, cut off at open and kept beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutTail {
    /// The commit it would have begun with.
    pub commit: CommitNo,
    /// Its size.
    pub bytes: u64,
    /// Path of the file that keeps it.
    pub kept_in: PathBuf,
}

impl From<Cut> for CutTail {
    fn from(cut: Cut) -> Self {
        Self { commit: cut.at, bytes: cut.bytes, kept_in: cut.kept_in }
    }
}
