//! Programs that open one store: the right one, and others that fold, read or know something else under the same names.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tallystone::check::{About, Severity};
use tallystone::disk::Platform;
use tallystone::error::OpenError;
use tallystone::prelude::*;
use tallystone::testing::{SimClock, SimDisk, SimEntropy};
use tallystone::{Options, Setup, Store};

pub const STORE: &str = "/bank";
pub const STATE: &str = "/bank/state.redb";

/// Accounts as the right program knows them.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Account {
    Opened { account: u32 },
    Paid { account: u32, cents: u64 },
    Bonus { account: u32 },
}

impl Event for Account {
    const FAMILY: &str = "account";
    type Id = u32;
    fn id(&self) -> u32 {
        let (Self::Opened { account } | Self::Paid { account, .. } | Self::Bonus { account }) = self;
        *account
    }
}

/// What only the right program knows, and one projection beside `Total` folds.
#[derive(Serialize, Deserialize, Clone)]
pub enum Note {
    Written { note: u32 },
}

impl Event for Note {
    const FAMILY: &str = "note";
    type Id = ();
    fn id(&self) {}
}

/// Accounts before there was a bonus.
pub mod older {
    use super::*;

    #[derive(Serialize, Deserialize, Clone)]
    pub enum Account {
        Opened { account: u32 },
        Paid { account: u32, cents: u64 },
    }

    impl Event for Account {
        const FAMILY: &str = "account";
        type Id = u32;
        fn id(&self) -> u32 {
            let (Self::Opened { account } | Self::Paid { account, .. }) = self;
            *account
        }
    }

    pub struct Total;
    impl Projection for Total {
        const NAME: &str = "total";
        type Event = Account;
        type Key = u32;
        type Row = u64;
        fn fold(event: &Account, rows: &mut Rows<Self>) -> Folded {
            match event {
                Account::Opened { account } => rows.put(*account, 0),
                Account::Paid { account, cents } => rows.update(*account, |row| *row += cents),
            }
        }
    }
}

/// What a program makes of the events.
pub const RIGHT: u8 = 0;
/// It adds each payment twice.
pub const DOUBLE: u8 = 1;
/// It overlooks each bonus.
pub const DEAF: u8 = 2;
/// It panics on a bonus.
pub const PANICS: u8 = 3;

/// What was paid to an account.
pub struct Total<const CODE: u8>;
impl<const CODE: u8> Projection for Total<CODE> {
    const NAME: &str = "total";
    type Event = Account;
    type Key = u32;
    type Row = u64;
    fn fold(event: &Account, rows: &mut Rows<Self>) -> Folded {
        match event {
            Account::Opened { account } => rows.put(*account, 0),
            Account::Paid { account, cents } => {
                rows.update(*account, |row| *row += if CODE == DOUBLE { 2 * cents } else { *cents })
            }
            Account::Bonus { .. } if CODE == DEAF => Ok(()),
            Account::Bonus { .. } if CODE == PANICS => panic!("a bonus"),
            Account::Bonus { account } => rows.update(*account, |row| *row += 100),
        }
    }
}

/// The same rows under another version.
pub struct Raised;
impl Projection for Raised {
    const NAME: &str = "total";
    const VERSION: u32 = 2;
    type Event = Account;
    type Key = u32;
    type Row = u64;
    fn fold(event: &Account, rows: &mut Rows<Self>) -> Folded {
        rows.update(event.id(), |row| *row += 1)
    }
}

/// Payments of an account, behind the writer.
pub struct Payments;
impl Projection for Payments {
    const NAME: &str = "payments";
    type Event = Account;
    type Key = u32;
    type Row = u64;
    fn fold(event: &Account, rows: &mut Rows<Self>) -> Folded {
        match event {
            Account::Paid { account, .. } => rows.update(*account, |row| *row += 1),
            _ => Ok(()),
        }
    }
}

/// All notes.
pub struct Notes;
impl Projection for Notes {
    const NAME: &str = "notes";
    type Event = Note;
    type Key = ();
    type Row = u64;
    fn fold(_: &Note, rows: &mut Rows<Self>) -> Folded {
        rows.update((), |row| *row += 1)
    }
}

fn about(id: &'static str) -> About {
    About { id, severity: Severity::Ticket, owner: "bank", means: "An account is wrong.", remedy: "1 look" }
}

/// Everything but `Total`. A guard and a check see a bonus as `CODE` says.
fn beside<const CODE: u8>() -> Setup {
    let opened = |event: &Account| matches!(event, Account::Opened { .. });
    let paid = |event: &Account| match event {
        Account::Bonus { .. } => CODE == DEAF,
        event => matches!(event, Account::Paid { .. }),
    };
    let bonus = |event: &Account| matches!(event, Account::Bonus { .. });
    Setup::new()
        .events::<Note>()
        .behind::<Payments>()
        .check(about("opened-first").precedence(opened, paid).guard())
        .check(about("no-bonus-unopened").precedence(opened, bonus))
        .alerts(|_| ())
}

/// A program with this fold, guard and all else.
pub fn program<const CODE: u8>() -> Setup {
    let huge =
        about("small").invariant::<(Total<CODE>,)>(|_, (total,)| total.is_some_and(|total| *total > 1 << 40));
    beside::<CODE>().inline::<Total<CODE>>().inline::<Notes>().invariant(huge)
}

/// Nothing is folded, checked or guarded.
pub fn bare_events() -> Setup {
    Setup::new().events::<Account>().events::<Note>()
}

pub fn raised() -> Setup {
    beside::<RIGHT>().inline::<Raised>().inline::<Notes>()
}

pub fn right() -> Setup {
    program::<RIGHT>()
}

/// A program from before there was a bonus: the log has a type that it lacks.
pub fn older() -> Setup {
    Setup::new().inline::<older::Total>().inline::<Notes>()
}

/// A program that lacks a family, and has no projection of notes.
pub fn without_notes() -> Setup {
    Setup::new().inline::<Total<RIGHT>>()
}

/// A simulated machine.
pub struct Lab {
    pub disk: SimDisk,
    clock: SimClock,
    entropy: SimEntropy,
}

/// An overlay that is flushed all the time, and one that never is.
pub const TINY: usize = 4096;
pub const LARGE: usize = 1 << 20;

impl Lab {
    pub fn new(seed: u64) -> Self {
        Self { disk: SimDisk::new(seed), clock: SimClock::default(), entropy: SimEntropy::new(seed) }
    }

    /// The same machine with a copy of its disk.
    pub fn fork(&self, seed: u64) -> Self {
        Self { disk: self.disk.fork(seed), clock: self.clock.clone(), entropy: self.entropy.clone() }
    }

    pub fn on(&self, setup: Setup, overlay_bytes: usize) -> Setup {
        let mut options = Options::default();
        options.overlay_bytes_max = overlay_bytes;
        self.with(setup, options)
    }

    pub fn with(&self, setup: Setup, mut options: Options) -> Setup {
        (options.segment_bytes_min, options.segment_bytes_max) = (16 << 10, 64 << 10);
        options.page_bytes = 4096;
        options.state_cache_bytes = 1 << 18;
        let (clock, entropy) = (Arc::new(self.clock.clone()), Arc::new(self.entropy.clone()));
        let platform = Platform { disk: Arc::new(self.disk.clone()), clock, entropy };
        setup.options(options).platform(platform).lockstep()
    }

    pub fn create(&self, setup: Setup, overlay_bytes: usize) -> Store {
        Store::create(STORE, self.on(setup, overlay_bytes)).unwrap()
    }

    pub fn open(&self, setup: Setup, overlay_bytes: usize) -> Result<Store, OpenError> {
        Store::open(STORE, self.on(setup, overlay_bytes))
    }

    pub fn kill(&self, store: Store) {
        self.disk.kill();
        drop(store);
    }

    /// Files that are not of the log, and what is in them.
    pub fn derived(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let derived = |path: &PathBuf| !path.starts_with("/bank/log");
        let read = |path: PathBuf| (path.clone(), self.disk.read_file(&path).unwrap());
        self.disk.files().into_iter().filter(derived).map(read).collect()
    }

    pub fn remove(&self, path: impl AsRef<Path>) {
        tallystone::disk::Disk::remove(&self.disk, path.as_ref()).unwrap();
    }
}

pub fn append(store: &Store, event: impl Event + 'static) {
    store.append(Append::event(event)).unwrap();
}

/// Opens accounts from `from` on and pays into them, with a bonus now and then and a note between.
pub fn work(store: &Store, from: u32, accounts: u32) {
    for account in from..from + accounts {
        append(store, Account::Opened { account });
        append(store, Account::Paid { account, cents: 7 });
        if account % 5 == 0 {
            append(store, Account::Bonus { account });
        }
        if account % 7 == 0 {
            append(store, Note::Written { note: account });
        }
    }
}

pub fn settle(store: &Store) {
    for _ in 0..10_000 {
        let before = (store.stats().position, store.checks().stats().iter().map(|c| c.position).min());
        store.step();
        let after = (store.stats().position, store.checks().stats().iter().map(|c| c.position).min());
        if before == after && store.stats().behind.iter().all(|behind| behind.lag_len == 0) {
            return;
        }
    }
    panic!("it never comes to rest: {:?}", store.stats());
}

/// Everything is what the right program folds from the log.
pub fn assert_right(store: &Store, context: &str) {
    settle(store);
    let report = store.verify().unwrap();
    assert_eq!((&report.first_bad, &report.folded_otherwise), (&None, &None), "{context}");
    let view = store.view().unwrap();
    let mut expected = std::collections::BTreeMap::<u32, u64>::new();
    for event in view.query::<Account>(QueryItem::family::<Account>()) {
        let event = event.unwrap().event;
        *expected.entry(event.id()).or_default() += match event {
            Account::Opened { .. } => 0,
            Account::Paid { cents, .. } => cents,
            Account::Bonus { .. } => 100,
        };
    }
    let rows: std::collections::BTreeMap<_, _> = view
        .rows::<Total<RIGHT>>(..)
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(rows, expected, "{context}");
    // The guard remembers every account, and no other.
    let unopened = store.append(Append::event(Account::Paid { account: 1 << 30, cents: 1 }));
    assert!(matches!(unopened, Err(AppendError::Violated { .. })), "{context}: {unopened:?}");
    if let Some(account) = rows.keys().next() {
        append(store, Account::Paid { account: *account, cents: 1 });
    }
}
