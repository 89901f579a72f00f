//! Names on the simulated disk: as they are now, and as they would be after a power cut.
//!
//! - A change of names is durable once its directory was synced; a file's own sync does nothing for its name.
//! - A rename within a directory survives whole or not at all. Between directories it becomes two halves as soon as one of
//!   them is synced: the file may then be found under both names, or under none.
//! - Changes of the same name survive in their order, and so those of the same file; others in any.
//! - A node lives as long as a name leads to it, might lead to it after a cut, or a handle has it open.

use super::content::FileData;
use crate::disk::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

/// Number of a file or directory, whatever its name.
pub(super) type NodeId = u64;

pub(super) const ROOT: NodeId = 0;

#[derive(Debug, Clone)]
pub(super) enum Node {
    File(FileNode),
    Dir(Dir),
    /// Neither file nor directory: there only to be refused.
    Special(Kind),
}

#[derive(Debug, Clone, Default)]
pub(super) struct FileNode {
    pub data: FileData,
    /// Handles of the running process.
    pub open: u32,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Dir {
    live: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
    pending: Vec<NameChange>,
}

#[derive(Debug, Clone)]
struct NameChange {
    op: u64,
    name: String,
    node: NodeId,
    /// True if the change makes the name lead to the node, false if it ends that.
    links: bool,
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, NodeId>) {
        if self.links {
            names.insert(self.name.clone(), self.node);
        } else if names.get(&self.name) == Some(&self.node) {
            names.remove(&self.name);
        }
    }
}

/// All nodes, by number.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
}

impl Tree {
    pub fn new() -> Self {
        Self { nodes: BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]), next: ROOT + 1 }
    }

    pub fn find(&self, path: &Path) -> io::Result<NodeId> {
        parts(path)?.into_iter().try_fold(ROOT, |dir, name| self.child(dir, name))
    }

    /// Returns the directory that holds the last name of `path`, and that name.
    pub fn parent<'p>(&self, path: &'p Path) -> io::Result<(NodeId, &'p str)> {
        let mut parts = parts(path)?;
        let name = parts.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = parts.into_iter().try_fold(ROOT, |dir, name| self.child(dir, name))?;
        self.dir(dir)?;
        Ok((dir, name))
    }

    pub fn child(&self, dir: NodeId, name: &str) -> io::Result<NodeId> {
        self.dir(dir)?.live.get(name).copied().ok_or(io::ErrorKind::NotFound.into())
    }

    pub fn durable_find(&self, path: &Path) -> Option<NodeId> {
        parts(path)
            .ok()?
            .into_iter()
            .try_fold(ROOT, |dir, name| self.dir(dir).ok()?.durable.get(name).copied())
    }

    pub fn kind(&self, node: NodeId) -> Kind {
        match self.nodes[&node] {
            Node::File(_) => Kind::File,
            Node::Dir(_) => Kind::Dir,
            Node::Special(kind) => kind,
        }
    }

    pub fn names(&self, dir: NodeId) -> io::Result<Vec<String>> {
        Ok(self.dir(dir)?.live.keys().cloned().collect())
    }

    pub fn file(&self, node: NodeId) -> &FileNode {
        match &self.nodes[&node] {
            Node::File(file) => file,
            other => panic!("node {node} is no file: {other:?}"),
        }
    }

    pub fn file_mut(&mut self, node: NodeId) -> &mut FileNode {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => file,
            other => panic!("node {node} is no file: {other:?}"),
        }
    }

    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut FileNode> {
        self.nodes.values_mut().filter_map(|node| match node {
            Node::File(file) => Some(file),
            _ => None,
        })
    }

    fn dir(&self, node: NodeId) -> io::Result<&Dir> {
        match &self.nodes[&node] {
            Node::Dir(dir) => Ok(dir),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn dir_mut(&mut self, node: NodeId) -> &mut Dir {
        match self.nodes.get_mut(&node) {
            Some(Node::Dir(dir)) => dir,
            other => panic!("node {node} is no directory: {other:?}"),
        }
    }

    /// Puts a new node at a free name.
    pub fn make(&mut self, op: u64, path: &Path, node: Node) -> io::Result<NodeId> {
        let (dir, name) = self.free(path)?;
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.change(op, dir, name, id, true);
        Ok(id)
    }

    /// Does the same as `make`, with the directories on the way.
    pub fn make_all(&mut self, path: &Path, node: Node) -> io::Result<NodeId> {
        if let Some(above) = path.parent()
            && self.find(above).is_err()
        {
            self.make_all(above, Node::Dir(Dir::default()))?;
        }
        self.make(0, path, node)
    }

    /// Makes every name on this path durable.
    pub fn sync_path(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for name in parts(path)? {
            let node = self.child(at, name)?;
            let dir = self.dir_mut(at);
            dir.pending.retain(|change| change.name != name);
            dir.durable.insert(name.to_owned(), node);
            at = node;
        }
        Ok(())
    }

    fn free<'p>(&self, path: &'p Path) -> io::Result<(NodeId, &'p str)> {
        if parts(path)?.is_empty() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (dir, name) = self.parent(path)?;
        match self.child(dir, name) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => Ok((dir, name)),
        }
    }

    pub fn rename(&mut self, op: u64, from: &Path, to: &Path) -> io::Result<()> {
        let (to_dir, to_name) = self.free(to)?;
        let (from_dir, from_name) = self.parent(from)?;
        let node = self.child(from_dir, from_name)?;
        if from_dir != to_dir && self.kind(node) == Kind::Dir {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "moving a directory into another is not simulated",
            ));
        }
        self.change(op, from_dir, from_name, node, false);
        self.change(op, to_dir, to_name, node, true);
        Ok(())
    }

    pub fn remove(&mut self, op: u64, path: &Path) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let node = self.child(dir, name)?;
        if self.kind(node) == Kind::Dir {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        self.change(op, dir, name, node, false);
        Ok(())
    }

    pub fn remove_dir(&mut self, op: u64, path: &Path) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let node = self.child(dir, name)?;
        if !self.dir(node)?.live.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(op, dir, name, node, false);
        Ok(())
    }

    fn change(&mut self, op: u64, dir: NodeId, name: &str, node: NodeId, links: bool) {
        let dir = self.dir_mut(dir);
        let change = NameChange { op, name: name.to_owned(), node, links };
        change.apply(&mut dir.live);
        dir.pending.push(change);
    }

    /// Makes the names in `dir` durable, if `honest`.
    pub fn sync_dir(&mut self, dir: NodeId, honest: bool) -> io::Result<()> {
        self.dir(dir)?;
        if honest {
            let dir = self.dir_mut(dir);
            std::mem::take(&mut dir.pending).iter().for_each(|change| change.apply(&mut dir.durable));
            self.forget_unreachable();
        }
        Ok(())
    }

    /// Bytes in files that a name leads to or a handle has open.
    pub fn bytes_used(&self) -> u64 {
        let named: BTreeSet<NodeId> = self.dirs().flat_map(|(_, dir)| dir.live.values().copied()).collect();
        let used = self.nodes.iter().filter_map(|(id, node)| match node {
            Node::File(file) if file.open > 0 || named.contains(id) => Some(file.data.live().len()),
            _ => None,
        });
        used.sum()
    }

    fn dirs(&self) -> impl Iterator<Item = (NodeId, &Dir)> {
        self.nodes.iter().filter_map(|(&id, node)| match node {
            Node::Dir(dir) => Some((id, dir)),
            _ => None,
        })
    }

    /// Returns every mutating call of which something is not durable.
    pub fn pending_ops(&self) -> BTreeSet<u64> {
        let names = self.dirs().flat_map(|(_, dir)| dir.pending.iter().map(|change| change.op));
        let data = self.nodes.values().filter_map(|node| match node {
            Node::File(file) => Some(file.data.pending_ops()),
            _ => None,
        });
        names.chain(data.flatten()).collect()
    }

    /// Returns the pending calls on names, each with whether it is kept: the `wanted` ones, but none that needs a lost one.
    pub fn keep_names(&self, mut wanted: impl FnMut(u64) -> bool) -> BTreeMap<u64, bool> {
        let mut calls: BTreeMap<u64, BTreeSet<(NodeId, &str)>> = BTreeMap::new();
        for (id, dir) in self.dirs() {
            for change in &dir.pending {
                calls.entry(change.op).or_default().insert((id, &change.name));
            }
        }
        // A change of a file starts at the name that the change before it gave: names alone carry the order.
        let mut lost = BTreeSet::new();
        let keep = calls.into_iter().map(|(op, names)| {
            let kept = wanted(op) && names.is_disjoint(&lost);
            if !kept {
                lost.extend(names);
            }
            (op, kept)
        });
        keep.collect()
    }

    /// Settles the names that survive a cut.
    pub fn settle_names(&mut self, kept: &BTreeMap<u64, bool>) {
        for node in self.nodes.values_mut() {
            let Node::Dir(dir) = node else { continue };
            for change in std::mem::take(&mut dir.pending) {
                if kept[&change.op] {
                    change.apply(&mut dir.durable);
                }
            }
            dir.live = dir.durable.clone();
        }
    }

    /// Closes all files.
    pub fn close_all(&mut self) {
        self.files_mut().for_each(|file| file.open = 0);
        self.forget_unreachable();
    }

    fn forget_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut ahead = vec![ROOT];
        while let Some(id) = ahead.pop() {
            let Node::Dir(dir) = &self.nodes[&id] else { continue };
            // A durable name that is not live has its change pending.
            let below = dir.live.values().chain(dir.pending.iter().map(|change| &change.node));
            ahead.extend(below.filter(|&&node| reached.insert(node)));
        }
        self.nodes
            .retain(|id, node| reached.contains(id) || matches!(node, Node::File(file) if file.open > 0));
    }

    /// Visits every file that a name leads to, with its path, in the order of paths.
    pub fn walk(&self, dir: NodeId, at: &Path, visit: &mut impl FnMut(&Path, &FileNode)) {
        let Node::Dir(names) = &self.nodes[&dir] else { return };
        for (name, id) in &names.live {
            let path = at.join(name);
            match &self.nodes[id] {
                Node::File(file) => visit(&path, file),
                Node::Dir(_) => self.walk(*id, &path, visit),
                Node::Special(_) => {}
            }
        }
    }
}

// Every path is taken from the root, relative ones too.
fn parts(path: &Path) -> io::Result<Vec<&str>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name.to_str().ok_or(io::ErrorKind::InvalidInput)?),
            Component::ParentDir => return Err(io::ErrorKind::InvalidInput.into()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    Ok(parts)
}
