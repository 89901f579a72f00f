//! Faults of a simulated disk, and the count of those that happened.

use crate::testing::random::Random;
use std::collections::BTreeMap;
use std::fmt;

/// Calls of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// `Disk::create_dir`
    CreateDir,
    /// `Disk::create_new`
    CreateNew,
    /// `Disk::rename`
    Rename,
    /// `Disk::remove`
    Remove,
    /// `Disk::remove_dir`
    RemoveDir,
    /// `Disk::sync_dir`
    SyncDir,
    /// `File::write_at`
    Write,
    /// `File::set_len`
    SetLen,
    /// `File::sync_data`
    Sync,
    /// `Disk::kind`
    Kind,
    /// `Disk::list`
    List,
    /// `Disk::open`
    Open,
    /// `File::read_at`
    Read,
    /// `File::len`
    Len,
    /// `Disk::lock`
    Lock,
}

impl Op {
    /// Returns whether the call changes anything: `SimDisk::op_count` counts such calls, `read_count` the others.
    pub fn mutates(self) -> bool {
        self <= Op::Sync
    }
}

/// A fault that happens at a call to which it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Any mutating call does nothing and fails. A sync keeps its data dirty.
    AnyError,
    /// A write or set_len does nothing and fails.
    WriteError,
    /// A write does a part, from its start, and fails.
    ShortWrite,
    /// A sync_data fails; the data stays dirty, and a later sync would write it.
    SyncError,
    /// A sync_data fails and the data is called clean: readable until a cut, never written by a later sync.
    SyncErrorKeepsNew,
    /// As `SyncErrorKeepsNew`, but some sectors had reached the medium.
    SyncErrorPartly,
    /// A sync_data fails and the file shows its old content at once.
    SyncErrorShowsOld,
    /// A sync_data or sync_dir says it did and does nothing: no promise covers it, checkers must notice it.
    LyingSync,
    /// A sync_dir does nothing and fails.
    SyncDirError,
    /// Creating, renaming or removing does nothing and fails.
    NameError,
    /// Creating, writing, growing or syncing finds no space and does nothing.
    NoSpace,
    /// Any reading call fails.
    ReadError,
}

impl Fault {
    /// All faults.
    pub const ALL: [Fault; 12] = [
        Fault::AnyError,
        Fault::WriteError,
        Fault::ShortWrite,
        Fault::SyncError,
        Fault::SyncErrorKeepsNew,
        Fault::SyncErrorPartly,
        Fault::SyncErrorShowsOld,
        Fault::LyingSync,
        Fault::SyncDirError,
        Fault::NameError,
        Fault::NoSpace,
        Fault::ReadError,
    ];

    /// Returns whether it can happen to this call.
    pub fn applies_to(self, op: Op) -> bool {
        match self {
            Fault::AnyError => op.mutates(),
            Fault::WriteError => matches!(op, Op::Write | Op::SetLen),
            Fault::ShortWrite => op == Op::Write,
            Fault::SyncError
            | Fault::SyncErrorKeepsNew
            | Fault::SyncErrorPartly
            | Fault::SyncErrorShowsOld => op == Op::Sync,
            Fault::LyingSync => matches!(op, Op::Sync | Op::SyncDir),
            Fault::SyncDirError => op == Op::SyncDir,
            Fault::NameError => op < Op::SyncDir,
            Fault::NoSpace => {
                matches!(op, Op::CreateDir | Op::CreateNew | Op::Write | Op::SetLen | Op::Sync)
            }
            Fault::ReadError => !op.mutates(),
        }
    }
}

/// Planned faults, and when they happen.
///
/// Numbers count the calls of a disk since it was made: mutating calls (`SimDisk::op_count`) for all faults but
/// `ReadError`, reading calls (`SimDisk::read_count`) for that one.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    once: Vec<(u64, Fault)>,
    from: Vec<(u64, Fault)>,
    rates: Vec<(Fault, f64)>,
}

impl Faults {
    /// Plans no fault.
    pub fn none() -> Self {
        Self::default()
    }

    /// Plans a fault once, at the first call numbered `number` or later to which it applies.
    pub fn at(mut self, number: u64, fault: Fault) -> Self {
        self.once.push((number, fault));
        self
    }

    /// Plans a fault at every call numbered `number` or later to which it applies.
    pub fn from(mut self, number: u64, fault: Fault) -> Self {
        self.from.push((number, fault));
        self
    }

    /// Plans a fault with this probability at each call to which it applies.
    pub fn rate(mut self, fault: Fault, probability: f64) -> Self {
        self.rates.push((fault, probability));
        self
    }

    /// Returns the fault for this call, if any. At most one: those planned by number go first.
    pub(super) fn draw(&mut self, op: Op, number: u64, random: &mut Random) -> Option<Fault> {
        let due = |&(from, fault): &(u64, Fault)| from <= number && fault.applies_to(op);
        if let Some(index) = self.once.iter().position(due) {
            return Some(self.once.remove(index).1);
        }
        if let Some(&(_, fault)) = self.from.iter().find(|planned| due(planned)) {
            return Some(fault);
        }
        let drawn = self.rates.iter().find(|(fault, rate)| fault.applies_to(op) && random.chance(*rate));
        drawn.map(|&(fault, _)| fault)
    }
}

/// Counts of the calls of a disk and of its faults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls by kind, failed ones included; calls without power are not counted.
    pub calls: BTreeMap<Op, u64>,
    /// Faults that happened.
    pub faults: BTreeMap<Fault, u64>,
    /// Writes and set_lens refused for lack of space by the quota.
    pub over_quota: u64,
    /// Reads refused because the range had been made unreadable.
    pub unreadable: u64,
    /// Power cuts, each with its restart.
    pub power_cuts: u64,
    /// Process deaths.
    pub kills: u64,
    /// Changes that a power cut dropped or tore.
    pub changes_lost: u64,
    /// Bits flipped, ranges overwritten, ranges made unreadable.
    pub rotted: u64,
    /// Calls made while the power was off; all failed.
    pub calls_without_power: u64,
    /// Calls on handles from before a power cut or a kill; all failed.
    pub calls_on_dead_handles: u64,
    /// Syncs on a handle after a sync on it had failed. A store that keeps its promise never makes one.
    pub syncs_after_failed_sync: u64,
}

impl Stats {
    /// Returns the number of times that this fault happened.
    pub fn fault(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or(0)
    }

    /// Returns the number of times that this call was made.
    pub fn call(&self, op: Op) -> u64 {
        self.calls.get(&op).copied().unwrap_or(0)
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calls
            .iter()
            .try_for_each(|(op, count)| writeln!(f, "call  {:24} {count}", format!("{op:?}")))?;
        self.faults
            .iter()
            .try_for_each(|(fault, count)| writeln!(f, "fault {:24} {count}", format!("{fault:?}")))?;
        let rest = [
            ("over quota", self.over_quota),
            ("unreadable", self.unreadable),
            ("power cuts", self.power_cuts),
            ("kills", self.kills),
            ("changes lost", self.changes_lost),
            ("rotted", self.rotted),
            ("calls without power", self.calls_without_power),
            ("calls on dead handles", self.calls_on_dead_handles),
            ("syncs after failed sync", self.syncs_after_failed_sync),
        ];
        rest.iter().try_for_each(|(name, count)| writeln!(f, "{name:30} {count}"))
    }
}
