//! State of a simulated disk between two calls, and the order in which a call meets the power, the plan and the trace.
//!
//! - Every mutating call has a number, and every one is in the trace, refused or not; without power there is neither.
//! - A call that meets a fault does what the fault says and nothing else.
//! - Mutating calls and reading calls draw from different chance.

use super::content::Fate;
use super::fault::{Fault, Faults, Op, Stats};
use super::tree::{NodeId, Tree};
use super::{Cut, ImagePolicy};
use crate::disk::Kind;
use crate::testing::random::{Random, mix};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub(super) struct State {
    pub tree: Tree,
    /// Number of processes that ended: their handles are dead.
    pub boot: u64,
    pub off: bool,
    pub cut: Option<(u64, ImagePolicy)>,
    pub ops: u64,
    pub reads: u64,
    /// Locks of the running process.
    pub locks: BTreeSet<NodeId>,
    /// Number of the running process: a lock of another one was inherited from it.
    pub process: u32,
    pub quota: Option<u64>,
    pub faults: Faults,
    pub random: Random,
    /// Its own stream: readers on other threads come in any order.
    pub read_random: Random,
    pub stats: Stats,
    pub trace: u64,
    pub recent: VecDeque<Entry>,
    pub removed: Vec<PathBuf>,
}

const RECENT: usize = 256;

impl State {
    pub fn new(seed: u64) -> Self {
        Self {
            tree: Tree::new(),
            boot: 0,
            off: false,
            cut: None,
            ops: 0,
            reads: 0,
            locks: BTreeSet::new(),
            process: 0,
            quota: None,
            faults: Faults::none(),
            random: Random::new(seed),
            read_random: Random::new(!seed),
            stats: Stats::default(),
            trace: mix(seed),
            recent: VecDeque::new(),
            removed: Vec::new(),
        }
    }

    pub fn restart(&mut self, policy: ImagePolicy) -> Cut {
        let cut = self.settle(policy);
        self.stats.power_cuts += 1;
        self.stats.changes_lost += cut.dropped + cut.torn;
        self.faults = Faults::none();
        (self.cut, self.off) = (None, false);
        self.end_process();
        self.mix_in(&[policy as u64, cut.kept, cut.dropped, cut.torn]);
        cut
    }

    /// Ends all handles and locks.
    pub fn end_process(&mut self) {
        self.boot += 1;
        self.locks.clear();
        self.tree.close_all();
        self.mix_in(&[self.boot]);
    }

    fn mix_in(&mut self, parts: &[u64]) {
        self.trace = parts.iter().fold(self.trace, |trace, part| mix(trace ^ part));
    }

    fn settle(&mut self, policy: ImagePolicy) -> Cut {
        let mut fates = self.fates(policy);
        let names = self.tree.keep_names(|op| match fates[&op] {
            Fate::Kept | Fate::LengthOnly => true,
            Fate::Dropped | Fate::CutShort => false,
            Fate::Sectors => self.random.coin(),
        });
        self.tree.settle_names(&names);
        for file in self.tree.files_mut() {
            file.data.settle(|op| fates[&op], &mut self.random);
        }
        fates.extend(names.iter().map(|(&op, &kept)| (op, if kept { Fate::Kept } else { Fate::Dropped })));
        let count = |wanted: fn(&Fate) -> bool| fates.values().filter(|fate| wanted(fate)).count() as u64;
        let kept = count(|fate| *fate == Fate::Kept);
        let dropped = count(|fate| *fate == Fate::Dropped);
        Cut { op: self.ops, policy, kept, dropped, torn: fates.len() as u64 - kept - dropped }
    }

    fn fates(&mut self, policy: ImagePolicy) -> BTreeMap<u64, Fate> {
        let ops = self.tree.pending_ops();
        let random = &mut self.random;
        // Rarely half: a disk that lost nearly nothing, or nearly everything, is worth as much.
        let keep_rate = [0.05, 0.25, 0.5, 0.75, 0.95][random.below(5) as usize];
        let torn_at = random.below(ops.len() as u64 + 1);
        let fate = |random: &mut Random, index: u64| match policy {
            ImagePolicy::DropAll => Fate::Dropped,
            ImagePolicy::KeepAll => Fate::Kept,
            ImagePolicy::Random if random.chance(keep_rate) => Fate::Kept,
            ImagePolicy::Random => Fate::Dropped,
            ImagePolicy::Sectors => Fate::Sectors,
            ImagePolicy::Torn if index < torn_at => Fate::Kept,
            ImagePolicy::Torn if index == torn_at => Fate::CutShort,
            ImagePolicy::Torn => Fate::Dropped,
            ImagePolicy::LengthOnly => Fate::LengthOnly,
        };
        ops.into_iter().zip(0..).map(|(op, index)| (op, fate(random, index))).collect()
    }

    pub fn regular(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.tree.find(path)?;
        match self.tree.kind(node) {
            Kind::File => Ok(node),
            kind => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not a regular file but {kind:?}")))
            }
        }
    }

    fn powered(&mut self) -> io::Result<()> {
        if self.off {
            self.stats.calls_without_power += 1;
            return Err(without_power());
        }
        Ok(())
    }

    pub fn alive(&mut self, boot: u64) -> io::Result<()> {
        if boot != self.boot {
            self.stats.calls_on_dead_handles += 1;
            return Err(io::Error::other("the process that had this file open is gone"));
        }
        self.powered()
    }

    /// Makes a mutating call: its number, the cut, the fault, the trace.
    pub fn mutate<T>(
        &mut self,
        call: Call<'_>,
        body: impl FnOnce(&mut Self, u64, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.powered()?;
        self.ops += 1;
        let number = self.ops;
        if self.cut.is_some_and(|(at, _)| at == number) {
            self.off = true;
            let error = without_power();
            self.note(&call, number, None, Some(&error));
            return Err(error);
        }
        *self.stats.calls.entry(call.op).or_default() += 1;
        let fault = self.faults.draw(call.op, number, &mut self.random);
        let result = match fault.and_then(|fault| refused(fault, number)) {
            Some(error) => Err(error),
            None => body(self, number, fault).map_err(|cause| told(call.path, cause)),
        };
        self.note(&call, number, fault, result.as_ref().err());
        result
    }

    /// Makes a reading call.
    pub fn look<T>(
        &mut self,
        op: Op,
        path: &str,
        body: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        self.powered()?;
        self.reads += 1;
        *self.stats.calls.entry(op).or_default() += 1;
        if let Some(fault) = self.faults.draw(op, self.reads, &mut self.read_random) {
            *self.stats.faults.entry(fault).or_default() += 1;
            return Err(injected(fault, self.reads));
        }
        body(self).map_err(|cause| told(path, cause))
    }

    fn note(&mut self, call: &Call<'_>, number: u64, fault: Option<Fault>, error: Option<&io::Error>) {
        if let Some(fault) = fault {
            *self.stats.faults.entry(fault).or_default() += 1;
        }
        let error = error.map(io::Error::kind);
        let outcome = error.map_or(0, |kind| crc32c::crc32c(format!("{kind:?}").as_bytes()).into());
        let path = crc32c::crc32c(call.path.as_bytes()).into();
        let fault_number = fault.map_or(0, |fault| fault as u64 + 1);
        self.mix_in(&[
            number,
            call.op as u64,
            path,
            call.offset,
            call.len,
            call.digest,
            fault_number,
            outcome,
        ]);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        if call.op == Op::Remove && error.is_none() {
            self.removed.push(PathBuf::from(call.path));
        }
        let (path, offset, len) = (call.path.to_owned(), call.offset, call.len);
        self.recent.push_back(Entry { number, op: call.op, path, offset, len, fault, error });
    }

    pub fn write(
        &mut self,
        node: NodeId,
        number: u64,
        offset: u64,
        data: &[u8],
        fault: Option<Fault>,
    ) -> io::Result<()> {
        let fits = self.fitting(node, offset, data.len() as u64);
        if fault == Some(Fault::ShortWrite) {
            let part = if data.is_empty() { 0 } else { self.random.below(data.len() as u64).min(fits) };
            self.tree.file_mut(node).data.write(number, offset, &data[..part as usize]);
            return Err(injected(Fault::ShortWrite, number));
        }
        self.tree.file_mut(node).data.write(number, offset, &data[..fits as usize]);
        if fits < data.len() as u64 { Err(self.over_quota()) } else { Ok(()) }
    }

    // How many of `count` bytes at `offset` the quota lets in.
    fn fitting(&self, node: NodeId, offset: u64, count: u64) -> u64 {
        let Some(quota) = self.quota else { return count };
        let len = self.tree.file(node).data.live().len();
        let end = len.max(len.saturating_add(quota.saturating_sub(self.tree.bytes_used())));
        end.saturating_sub(offset).min(count)
    }

    pub fn set_len(&mut self, node: NodeId, number: u64, len: u64) -> io::Result<()> {
        if self.fitting(node, 0, len) < len {
            return Err(self.over_quota());
        }
        self.tree.file_mut(node).data.set_len(number, len);
        Ok(())
    }

    fn over_quota(&mut self) -> io::Error {
        self.stats.over_quota += 1;
        io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk")
    }

    pub fn sync(&mut self, node: NodeId, number: u64, fault: Option<Fault>) -> io::Result<()> {
        let data = &mut self.tree.file_mut(node).data;
        match fault {
            Some(Fault::LyingSync) => return Ok(()),
            Some(Fault::SyncErrorKeepsNew) => data.mark_clean(),
            Some(Fault::SyncErrorPartly) => data.mark_clean_partly(&mut self.random),
            Some(Fault::SyncErrorShowsOld) => data.settle(|_| Fate::Dropped, &mut self.random),
            _ => data.sync(),
        }
        fault.map_or(Ok(()), |fault| Err(injected(fault, number)))
    }
}

/// A mutating call, for the trace.
pub(super) struct Call<'a> {
    pub op: Op,
    pub path: &'a str,
    pub offset: u64,
    pub len: u64,
    pub digest: u64,
}

impl<'a> Call<'a> {
    pub fn of(op: Op, path: &'a str) -> Self {
        Self { op, path, offset: 0, len: 0, digest: 0 }
    }
}

/// One line of the trace.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    number: u64,
    op: Op,
    path: String,
    offset: u64,
    len: u64,
    fault: Option<Fault>,
    error: Option<io::ErrorKind>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6} {:?} {}", self.number, self.op, self.path)?;
        match self.op {
            Op::Write => write!(f, " {}+{}", self.offset, self.len)?,
            Op::SetLen => write!(f, " {}", self.len)?,
            _ => {}
        }
        self.fault.map_or(Ok(()), |fault| write!(f, " [{fault:?}]"))?;
        self.error.map_or(Ok(()), |error| write!(f, " -> {error}"))
    }
}

fn without_power() -> io::Error {
    io::Error::other("power is off")
}

// Faults that do nothing but refuse. The others are for the call itself to carry out.
fn refused(fault: Fault, number: u64) -> Option<io::Error> {
    match fault {
        Fault::AnyError | Fault::WriteError | Fault::SyncError | Fault::SyncDirError | Fault::NameError => {
            Some(injected(fault, number))
        }
        Fault::NoSpace => {
            Some(io::Error::new(io::ErrorKind::StorageFull, format!("injected: no space at op {number}")))
        }
        _ => None,
    }
}

fn injected(fault: Fault, number: u64) -> io::Error {
    io::Error::other(format!("injected: {fault:?} at {number}"))
}

fn told(path: &str, cause: io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("{path}: {cause}"))
}
