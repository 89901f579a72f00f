//! A small bank, and stores on a simulated disk. Shared by the tests of the public surface.

pub mod bench;
pub mod example;
pub mod interleave;

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::testing::{SimClock, SimDisk, SimEntropy};
use tallystone::{Options, Setup};

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Bank {
    Opened { account: u32 },
    Deposited { account: u32, cents: u64 },
    Withdrawn { account: u32, cents: u64 },
}

impl Event for Bank {
    const FAMILY: &str = "bank";
    type Id = u32;

    fn id(&self) -> u32 {
        match self {
            Bank::Opened { account } | Bank::Deposited { account, .. } | Bank::Withdrawn { account, .. } => {
                *account
            }
        }
    }

    fn tags(&self) -> Tags {
        Tags::of("account", self.id()).and("branch", self.id() % 2)
    }
}

pub fn deposit(account: u32, cents: u64) -> Append {
    Append::event(Bank::Deposited { account, cents })
}

pub fn withdraw(account: u32, cents: u64) -> Append {
    Append::event(Bank::Withdrawn { account, cents })
}

/// Never below zero.
pub struct Balances;

impl Projection for Balances {
    const NAME: &str = "balances";
    type Event = Bank;
    type Key = u32;
    type Row = u64;

    fn fold(event: &Bank, rows: &mut Rows<Self>) -> Folded {
        match event {
            Bank::Opened { account } => rows.put(*account, 0),
            Bank::Deposited { account, cents } => rows.update(*account, |balance| *balance += cents),
            Bank::Withdrawn { account, cents } => {
                let left = rows.get(account)?.unwrap_or(0).checked_sub(*cents);
                rows.put(*account, left.ok_or_else(|| FoldError::refuse("not enough money"))?)
            }
        }
    }
}

pub fn setup() -> Setup {
    Setup::new().inline::<Balances>()
}

/// Small sizes, so that a few appends roll segments and flush state.
pub fn small() -> Options {
    let mut options = Options::default();
    options.segment_bytes_min = 4096;
    options.segment_bytes_max = 16 << 10;
    options.overlay_bytes_max = 8 << 10;
    options
}

pub fn platform(disk: &SimDisk) -> Platform {
    Platform {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(SimClock::default()),
        entropy: Arc::new(SimEntropy::new(7)),
    }
}

/// A setup for a store that runs in lockstep on a simulated disk.
pub fn simulated(disk: &SimDisk) -> Setup {
    setup().options(small()).platform(platform(disk)).lockstep()
}

pub fn open(disk: &SimDisk) -> Result<Store, OpenError> {
    Store::open_or_create(Path::new("/store"), simulated(disk))
}

/// A disk with a directory to create the store in.
pub fn fresh_disk(seed: u64) -> SimDisk {
    SimDisk::new(seed)
}

pub fn balance(store: &Store, account: u32) -> u64 {
    store.view().expect("the store is open").row::<Balances>(&account).expect("rows can be read").unwrap_or(0)
}

pub fn events(store: &Store) -> Vec<Sequenced<Bank>> {
    let view = store.view().expect("the store is open");
    view.query::<Bank>(Query::all()).collect::<Result<_, _>>().expect("events can be read")
}

/// Small numbers from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}
