//! A disk in memory that forgets, tears, lies and fails as real ones do, and always the same way for a seed.
//!
//! - Synced bytes survive every cut; un-synced ones survive as the image policy says.
//! - The number of mutating calls is the only time there is: a cut or a fault is planned by it.
//! - No handle works after the power cut or the kill that ended its process.
//! - The seed and the mutating calls decide everything; how often and when something is read decides nothing about them.
//!
//! Not simulated: links, permissions, moving a directory into another, the space that names take.

mod content;
mod fault;
mod file;
mod state;
mod tree;

pub use fault::{Fault, Faults, Op, Stats};

use super::random::Random;
use crate::disk::{Access, Disk, File, Kind, Lock};
use crate::sync::Mutex;
use crate::sync::atomic::AtomicBool;
use content::FileData;
use file::{SimFile, SimLock};
use state::{Call, Entry, State};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tree::{FileNode, Node, NodeId, ROOT};

/// Choice of the changes without a sync that a power cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImagePolicy {
    /// Nothing.
    DropAll,
    /// Everything.
    KeepAll,
    /// Each change or not: any subset, so later changes without earlier ones.
    Random,
    /// Each 512-byte sector of each write or not; other changes whole or not.
    Sectors,
    /// The first changes, over all files, the last of them cut at a random byte.
    Torn,
    /// Names and lengths, but no data: zeros where data would be.
    LengthOnly,
}

impl ImagePolicy {
    /// All policies.
    pub const ALL: [ImagePolicy; 6] = [
        ImagePolicy::DropAll,
        ImagePolicy::KeepAll,
        ImagePolicy::Random,
        ImagePolicy::Sectors,
        ImagePolicy::Torn,
        ImagePolicy::LengthOnly,
    ];
}

/// Report of a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Mutating calls until then.
    pub op: u64,
    /// Choice of the survivors.
    pub policy: ImagePolicy,
    /// Changes that were not synced and survived.
    pub kept: u64,
    /// Changes that were lost.
    pub dropped: u64,
    /// Changes of which a part may have survived.
    pub torn: u64,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut { op, policy, kept, dropped, torn } = self;
        write!(f, "power cut after op {op} ({policy:?}): {kept} kept, {dropped} dropped, {torn} torn")
    }
}

/// A simulated disk. Clones are the same disk; `fork` makes another.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// Returns an empty disk: a root directory.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed))))
    }

    /// Makes another disk, as this one is now, un-synced changes, armed cut and all, but with no handle open and its own chance.
    ///
    /// Lets a test run to a point once, and cut it there in many ways.
    pub fn fork(&self, seed: u64) -> Self {
        let mut state = self.0.lock().clone();
        state.end_process();
        state.random = Random::new(seed);
        state.read_random = Random::new(!seed);
        Self(Arc::new(Mutex::new(state)))
    }

    /// Replaces the planned faults. A power cut clears them, a kill does not.
    pub fn plan(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// Bounds the bytes in all files, counted by their lengths; `None` for no bound. Nothing but this call changes it.
    pub fn quota(&self, bytes: Option<u64>) {
        self.0.lock().quota = bytes;
    }

    /// Returns the bytes in all files, counted by their lengths.
    pub fn bytes_used(&self) -> u64 {
        self.0.lock().tree.bytes_used()
    }

    /// Returns the number of mutating calls since the disk was made: the next one has this number plus one.
    pub fn op_count(&self) -> u64 {
        self.0.lock().ops
    }

    /// Returns the number of reading calls since the disk was made.
    pub fn read_count(&self) -> u64 {
        self.0.lock().reads
    }

    /// Cuts the power at the mutating call with this number: it does nothing, and it and all after it fail.
    /// `restart` then settles what survived.
    pub fn cut_at(&self, op: u64, policy: ImagePolicy) {
        let mut state = self.0.lock();
        assert!(op > state.ops, "op {op} is past: {} were made", state.ops);
        state.cut = Some((op, policy));
    }

    /// Returns whether an armed cut has come.
    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    /// Starts the machine again after the armed cut came.
    ///
    /// # Panics
    /// If the power is on.
    pub fn restart(&self) -> Cut {
        let mut state = self.0.lock();
        assert!(state.off, "the power is on");
        let (_, policy) = state.cut.expect("the power goes off only by an armed cut");
        state.restart(policy)
    }

    /// Cuts the power here, and starts the machine again: settles what survived, ends all handles and locks, clears the
    /// planned faults and an armed cut. If the power is off already, this policy replaces the armed one.
    pub fn power_cut(&self, policy: ImagePolicy) -> Cut {
        self.0.lock().restart(policy)
    }

    /// Ends the process, not the machine: contents stay as they are, nothing becomes durable, all handles and locks end.
    pub fn kill(&self) {
        let mut state = self.0.lock();
        assert!(!state.off, "no process runs without power");
        state.stats.kills += 1;
        state.end_process();
    }

    /// Sets the process that calls from now on; at first it is 0. If it differs from the process that took a lock, it is a
    /// fork, which has the handles and the locks of its parent.
    pub fn run_as(&self, process: u32) {
        self.0.lock().process = process;
    }

    /// Returns the paths of the files that a handle has open, in order.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut note = |path: &Path, file: &FileNode| files.extend((file.open > 0).then(|| path.to_owned()));
        self.0.lock().tree.walk(ROOT, Path::new("/"), &mut note);
        files
    }

    /// Returns the counts of calls and faults so far.
    pub fn stats(&self) -> Stats {
        self.0.lock().stats.clone()
    }

    /// Returns a hash over every mutating call, its data and its outcome, and over every cut.
    pub fn trace_hash(&self) -> u64 {
        self.0.lock().trace
    }

    /// Returns the latest mutating calls, the oldest first, for a report.
    pub fn recent(&self) -> Vec<String> {
        self.0.lock().recent.iter().map(Entry::to_string).collect()
    }

    /// Returns the paths of the files that were removed, the oldest first.
    pub fn removed(&self) -> Vec<PathBuf> {
        self.0.lock().removed.clone()
    }

    /// Returns every regular file, in the order of paths, from `/`.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        self.0.lock().tree.walk(ROOT, Path::new("/"), &mut |path, _| files.push(path.to_owned()));
        files
    }

    /// Returns a file's bytes as a reader sees them, without a fault and without being counted.
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        let node = state.regular(path.as_ref())?;
        Ok(state.tree.file(node).data.live().bytes())
    }

    /// Returns the bytes that `DropAll` would leave of the file; `None` if not even its name.
    pub fn read_durable(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let node = state.tree.durable_find(path.as_ref())?;
        (state.tree.kind(node) == Kind::File).then(|| state.tree.file(node).data.durable().bytes())
    }

    /// Writes a durable file with these bytes, and the directories above. Replaces the content of a regular file.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let (mut state, path) = (self.0.lock(), path.as_ref());
        let node = state.regular(path).unwrap_or_else(|_| {
            state.tree.make_all(path, Node::File(FileNode::default())).expect("nothing else stands there")
        });
        state.tree.file_mut(node).data = FileData::of(bytes);
        state.tree.sync_path(path).expect("it stands there");
    }

    /// Places a symbolic link, a pipe or the like there, to be refused.
    pub fn place(&self, path: impl AsRef<Path>, kind: Kind) {
        assert!(!matches!(kind, Kind::File | Kind::Dir), "{kind:?} can be made as it is");
        let (mut state, path) = (self.0.lock(), path.as_ref());
        state.tree.make_all(path, Node::Special(kind)).expect("nothing stands there");
        state.tree.sync_path(path).expect("it stands there");
    }

    /// Flips one bit on the medium and in the page cache.
    pub fn flip_bit(&self, path: impl AsRef<Path>, byte: u64, bit: u8) {
        self.rot(path.as_ref(), byte..byte + 1, |bytes| bytes[0] ^= 1 << bit);
    }

    /// Overwrites bytes on the medium and in the page cache.
    pub fn corrupt(&self, path: impl AsRef<Path>, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.rot(path.as_ref(), offset..end, |old| old.copy_from_slice(&bytes[..old.len()]));
    }

    fn rot(&self, path: &Path, range: Range<u64>, change: impl Fn(&mut [u8])) {
        let mut state = self.0.lock();
        let node = state.regular(path).expect("only a regular file rots");
        let data = &mut state.tree.file_mut(node).data;
        assert!(
            range.end <= data.live().len(),
            "the file ends at {}, before {}",
            data.live().len(),
            range.end
        );
        data.rot(range, change);
        state.stats.rotted += 1;
    }

    /// Lets every read that touches these bytes fail, until a write covers them all.
    pub fn make_unreadable(&self, path: impl AsRef<Path>, range: Range<u64>) {
        let mut state = self.0.lock();
        let node = state.regular(path.as_ref()).expect("only a regular file has bytes");
        state.tree.file_mut(node).data.make_unreadable(range);
        state.stats.rotted += 1;
    }

    fn handle(
        &self,
        path: &Path,
        access: Access,
        open: impl FnOnce(&mut State) -> io::Result<NodeId>,
    ) -> io::Result<Box<dyn File>> {
        let mut state = self.0.lock();
        let node = open(&mut state)?;
        state.tree.file_mut(node).open += 1;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            name: path.display().to_string(),
            node,
            boot: state.boot,
            access,
            sync_failed: AtomicBool::new(false),
        }))
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        write!(f, "SimDisk {{ ops: {}, boot: {}, off: {} }}", state.ops, state.boot, state.off)
    }
}

impl SimDisk {
    fn mutate<T>(
        &self,
        op: Op,
        path: &Path,
        body: impl FnOnce(&mut State, u64, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0.lock().mutate(Call::of(op, &path.display().to_string()), body)
    }

    fn look<T>(&self, op: Op, path: &Path, body: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.0.lock().look(op, &path.display().to_string(), body)
    }
}

impl Disk for SimDisk {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.look(Op::Kind, path, |state| Ok(state.tree.kind(state.tree.find(path)?)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.0.lock();
        let node = state.look(Op::Lock, &path.display().to_string(), |state| state.tree.find(path))?;
        let (disk, path, boot, process) = (self.clone(), path.to_owned(), state.boot, state.process);
        let is_free = state.locks.insert(node);
        drop(state);
        Ok(is_free.then(|| Box::new(SimLock { disk, path, node, boot, process }) as Box<dyn Lock>))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.mutate(Op::CreateDir, path, |state, op, _| {
            state.tree.make(op, path, Node::Dir(tree::Dir::default()))?;
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.look(Op::List, dir, |state| state.tree.names(state.tree.find(dir)?))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let name = path.display().to_string();
        self.handle(path, Access::Write, |state| {
            state.mutate(Call::of(Op::CreateNew, &name), |state, op, _| {
                state.tree.make(op, path, Node::File(FileNode::default()))
            })
        })
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let name = path.display().to_string();
        self.handle(path, access, |state| state.look(Op::Open, &name, |state| state.regular(path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let both = PathBuf::from(format!("{} -> {}", from.display(), to.display()));
        self.mutate(Op::Rename, &both, |state, op, _| state.tree.rename(op, from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.mutate(Op::Remove, path, |state, op, _| state.tree.remove(op, path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.mutate(Op::RemoveDir, path, |state, op, _| state.tree.remove_dir(op, path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.mutate(Op::SyncDir, dir, |state, _, fault| {
            let node = state.tree.find(dir)?;
            state.tree.sync_dir(node, fault != Some(Fault::LyingSync))
        })
    }
}

#[cfg(test)]
mod tests;
