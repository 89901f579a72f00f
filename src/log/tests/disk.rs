//! A small disk in memory that forgets: only for the tests of the log.
//!
//! - Data and names are durable once synced; the test chooses at each crash which of the rest survive.

use crate::disk::{Access, Disk, File, Kind, Lock};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

#[derive(Debug, Clone)]
enum Rename {
    Set(PathBuf, Node),
    Gone(PathBuf),
    Move(PathBuf, PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<Rename>,
    ops: u64,
    fail_at: Option<(u64, Fault)>,
    life: u64,
    off: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Everything fails from this operation on.
    PowerOff,
    /// A sync fails; its data reads back, and never reaches the disk unless it is written again.
    SyncKeeps,
    /// A sync fails; its data is gone.
    SyncDrops,
    /// A write is done by half and fails.
    HalfWrite,
}

#[derive(Debug, Clone, Copy)]
pub enum Survives {
    /// The process died, not the machine.
    Everything,
    OnlySynced,
    /// Any sectors of any write, any names.
    Some(u64),
}

#[derive(Debug, Clone, Default)]
pub struct MapDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct MapFile {
    disk: MapDisk,
    inode: usize,
    life: u64,
}

fn off() -> io::Error {
    io::Error::other("power is off")
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, data) => {
            let end = *at as usize + data.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[*at as usize..end].copy_from_slice(data);
        }
        Change::Len(len) => bytes.resize(*len as usize, 0),
    }
}

fn rename(names: &mut BTreeMap<PathBuf, Node>, change: &Rename) {
    match change {
        Rename::Set(path, node) => drop(names.insert(path.clone(), *node)),
        Rename::Gone(path) => drop(names.remove(path)),
        Rename::Move(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }
}

impl State {
    /// Counts a mutating operation, and returns the fault that hits it, if any.
    fn tick(&mut self) -> io::Result<Option<Fault>> {
        self.ops += 1;
        let fault = self.fail_at.filter(|&(at, _)| at == self.ops).map(|(_, fault)| fault);
        self.off |= fault == Some(Fault::PowerOff);
        if self.off { Err(off()) } else { Ok(fault) }
    }

    fn change(&mut self, inode: usize, change: Change) {
        apply(&mut self.inodes[inode].live, &change);
        self.inodes[inode].pending.push(change);
    }

    fn name(&mut self, change: Rename) {
        rename(&mut self.live, &change);
        self.pending.push(change);
    }
}

impl MapDisk {
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Returns an independent copy of the disk.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    pub fn ops(&self) -> u64 {
        self.0.lock().ops
    }

    pub fn fail_after(&self, ops: u64, fault: Fault) {
        let mut state = self.0.lock();
        state.fail_at = Some((state.ops + ops, fault));
    }

    /// Ends every handle, and keeps the data that `survives` names: durable then, but for `Everything`.
    pub fn crash(&self, survives: Survives) {
        let state = &mut *self.0.lock();
        (state.life, state.off, state.fail_at) = (state.life + 1, false, None);
        match survives {
            // The process was killed: pending data stays pending.
            Survives::Everything => return,
            Survives::OnlySynced => {}
            Survives::Some(seed) => {
                let mut random = Random(seed);
                state.pending.retain(|_| random.coin());
                state.pending.iter().for_each(|change| rename(&mut state.durable, change));
                for inode in &mut state.inodes {
                    survivors(inode, &mut random);
                }
            }
        }
        state.pending.clear();
        state.live = state.durable.clone();
        for inode in &mut state.inodes {
            inode.pending.clear();
            inode.live = inode.durable.clone();
        }
    }

    pub fn file(&self, path: &Path) -> Vec<u8> {
        let state = self.0.lock();
        match state.live[path] {
            Node::File(inode) => state.inodes[inode].live.clone(),
            Node::Dir => panic!("{path:?} is a directory"),
        }
    }

    /// Puts a file there, durable.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let state = &mut *self.0.lock();
        state.inodes.push(Inode { live: bytes.to_vec(), durable: bytes.to_vec(), pending: Vec::new() });
        let node = Node::File(state.inodes.len() - 1);
        state.live.insert(path.to_owned(), node);
        state.durable.insert(path.to_owned(), node);
    }

    pub fn put_dir(&self, path: &Path) {
        let state = &mut *self.0.lock();
        state.live.insert(path.to_owned(), Node::Dir);
        state.durable.insert(path.to_owned(), Node::Dir);
    }

    pub fn delete(&self, path: &Path) {
        let state = &mut *self.0.lock();
        state.live.remove(path);
        state.durable.remove(path);
    }

    pub fn flip(&self, path: &Path, byte: usize, bit: u8) {
        let mut bytes = self.file(path);
        bytes[byte] ^= 1 << bit;
        self.put(path, &bytes);
    }

    /// Flips a bit under the handles that are open.
    pub fn rot(&self, path: &Path, byte: usize, bit: u8) {
        let state = &mut *self.0.lock();
        let Node::File(inode) = state.live[path] else { panic!("{path:?} is a directory") };
        state.inodes[inode].live[byte] ^= 1 << bit;
    }

    /// Returns all files with their contents.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.0.lock();
        let file = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(inode) => Some((path.clone(), state.inodes[*inode].live.clone())),
            Node::Dir => None,
        };
        state.live.iter().filter_map(file).collect()
    }
}

/// Any sectors of any write, lengths or not.
fn survivors(inode: &mut Inode, random: &mut Random) {
    for change in std::mem::take(&mut inode.pending) {
        match change {
            Change::Len(_) if random.coin() => apply(&mut inode.durable, &change),
            Change::Len(_) => {}
            Change::Write(at, data) => {
                let mut from = 0;
                while from < data.len() {
                    let sector = (512 - (at as usize + from) % 512).min(data.len() - from);
                    if random.coin() {
                        let part = data[from..from + sector].to_vec();
                        apply(&mut inode.durable, &Change::Write(at + from as u64, part));
                    }
                    from += sector;
                }
            }
        }
    }
}

impl Disk for MapDisk {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        match self.0.lock().live.get(path) {
            Some(Node::Dir) => Ok(Kind::Dir),
            Some(Node::File(_)) => Ok(Kind::File),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        unreachable!("the log locks nothing itself")
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.tick()?;
        if state.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.name(Rename::Set(path.to_owned(), Node::Dir));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        if !state.live.contains_key(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.live.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut state = self.0.lock();
        state.tick()?;
        if state.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.name(Rename::Set(path.to_owned(), Node::File(inode)));
        Ok(Box::new(MapFile { disk: self.clone(), inode, life: state.life }))
    }

    fn open(&self, path: &Path, _: Access) -> io::Result<Box<dyn File>> {
        let state = self.0.lock();
        match state.live.get(path) {
            Some(&Node::File(inode)) => Ok(Box::new(MapFile { disk: self.clone(), inode, life: state.life })),
            Some(Node::Dir) => Err(io::ErrorKind::InvalidInput.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.tick()?;
        if state.live.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !state.live.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name(Rename::Move(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.tick()?;
        if !state.live.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name(Rename::Gone(path.to_owned()));
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.remove(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let state = &mut *self.0.lock();
        if let Some(Fault::SyncKeeps | Fault::SyncDrops) = state.tick()? {
            return Err(io::Error::other("sync failed"));
        }
        for change in std::mem::take(&mut state.pending) {
            rename(&mut state.durable, &change);
        }
        Ok(())
    }
}

impl MapFile {
    fn with<T>(
        &self,
        tick: bool,
        with: impl FnOnce(&mut State, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        if state.life != self.life {
            return Err(off());
        }
        let fault = if tick { state.tick()? } else { None };
        with(&mut state, fault)
    }
}

impl File for MapFile {
    fn len(&self) -> io::Result<u64> {
        self.with(false, |state, _| Ok(state.inodes[self.inode].live.len() as u64))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(false, |state, _| {
            let from = offset as usize;
            let bytes = state.inodes[self.inode].live.get(from..from + out.len());
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(true, |state, fault| {
            let half = fault == Some(Fault::HalfWrite);
            let len = if half { data.len() / 2 } else { data.len() };
            state.change(self.inode, Change::Write(offset, data[..len].to_vec()));
            if half { Err(io::Error::other("short write")) } else { Ok(()) }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(true, |state, _| {
            state.change(self.inode, Change::Len(len));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(true, |state, fault| {
            let inode = &mut state.inodes[self.inode];
            let pending = std::mem::take(&mut inode.pending);
            match fault {
                Some(Fault::SyncKeeps) => return Err(io::Error::other("sync failed")),
                Some(Fault::SyncDrops) => {
                    inode.live = inode.durable.clone();
                    return Err(io::Error::other("sync failed"));
                }
                _ => pending.iter().for_each(|change| apply(&mut inode.durable, change)),
            }
            Ok(())
        })
    }
}
