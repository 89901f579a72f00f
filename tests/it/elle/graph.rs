//! Who must come before whom: one node for each committed transaction, one edge for each reason.
//!
//! Real time would need an edge between any two transactions that do not overlap. Barriers keep it linear: each who completes points
//! to the barrier of that moment, barriers point to the next, and each who begins is pointed to by the latest barrier.

use super::versions::{Key, Versions};
use std::collections::{BTreeMap, HashMap};

/// The kind of a reason, from direct to loose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ww,
    Wr,
    Rw,
    Process,
    RealTime,
}

/// Why the first comes before the second. Numbers are appends of [`Versions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The first appended `earlier`, and the second appended `later` behind it.
    Ww { earlier: u32, later: u32 },
    /// The second read what the first appended.
    Wr { append: u32 },
    /// The first read a list that lacks what the second appended.
    Rw { next: u32 },
    /// One process ran both.
    Process,
    /// The first had returned when the second began.
    RealTime,
}

impl Why {
    pub fn kind(self) -> Kind {
        match self {
            Why::Ww { .. } => Kind::Ww,
            Why::Wr { .. } => Kind::Wr,
            Why::Rw { .. } => Kind::Rw,
            Why::Process => Kind::Process,
            Why::RealTime => Kind::RealTime,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Edge {
    pub to: u32,
    pub why: Why,
}

pub struct Graph {
    /// By node: first the transactions, as in the history, then the barriers.
    pub edges: Vec<Vec<Edge>>,
    txns: usize,
}

impl Graph {
    pub fn of(versions: &Versions) -> Graph {
        let txns = versions.history.txns.len();
        let mut graph = Graph { edges: vec![Vec::new(); txns], txns };
        graph.add_versions(versions);
        graph.add_processes(versions);
        graph.add_real_time(versions);
        graph
    }

    pub fn is_txn(&self, node: usize) -> bool {
        node < self.txns
    }

    fn add(&mut self, from: usize, to: usize, why: Why) {
        if from != to {
            self.edges[from].push(Edge { to: to as u32, why });
        }
    }

    fn add_versions(&mut self, versions: &Versions) {
        let chains: Vec<Chain> = versions.keys.iter().map(|key| Chain::of(versions, key)).collect();
        let txn = |append: u32| versions.appends[append as usize].txn;
        for chain in &chains {
            let seen = chain.seen.windows(2).map(|pair| (pair[0].1, pair[1].1));
            let last = chain.seen.last().map(|(_, append)| *append);
            let unseen = last.into_iter().flat_map(|last| chain.unseen.iter().map(move |next| (last, *next)));
            for (earlier, later) in seen.chain(unseen) {
                self.add(txn(earlier), txn(later), Why::Ww { earlier, later });
            }
        }
        for read in versions.reads.iter().filter(|read| read.prefix) {
            let chain = &chains[read.key];
            let split = chain.seen.partition_point(|(place, _)| *place < read.list.len());
            if let Some((_, append)) = chain.seen[..split].last() {
                self.add(txn(*append), read.txn, Why::Wr { append: *append });
            }
            match chain.seen.get(split) {
                Some((_, next)) => self.add(read.txn, txn(*next), Why::Rw { next: *next }),
                None => chain
                    .unseen
                    .iter()
                    .for_each(|next| self.add(read.txn, txn(*next), Why::Rw { next: *next })),
            }
        }
    }

    /// A transaction without a reply may take effect after the next one of its process did, so nothing follows from it.
    fn add_processes(&mut self, versions: &Versions) {
        let mut latest: HashMap<u64, usize> = HashMap::new();
        for index in versions.history.by_invocation().into_iter().filter(|index| versions.committed[*index]) {
            let txn = &versions.history.txns[index];
            let before = match txn.acknowledged() {
                Some(_) => latest.insert(txn.process, index),
                None => latest.get(&txn.process).copied(),
            };
            if let Some(before) = before {
                self.add(before, index, Why::Process);
            }
        }
    }

    fn add_real_time(&mut self, versions: &Versions) {
        #[derive(PartialEq, Eq, PartialOrd, Ord)]
        enum Moment {
            // First at the same instant: intervals are closed, so who ends as another begins overlaps it.
            Invoked,
            Completed,
        }
        let mut moments = Vec::new();
        for (index, txn) in
            versions.history.txns.iter().enumerate().filter(|(index, _)| versions.committed[*index])
        {
            moments.push((txn.invoked, Moment::Invoked, index));
            moments.extend(txn.acknowledged().map(|completed| (completed, Moment::Completed, index)));
        }
        moments.sort_unstable();
        let mut barrier: Option<usize> = None;
        // Whoever completes after an invocation that the barrier points to needs a later barrier.
        let mut sealed = true;
        for (_, moment, index) in moments {
            match moment {
                Moment::Invoked => {
                    if let Some(barrier) = barrier {
                        self.add(barrier, index, Why::RealTime);
                        sealed = true;
                    }
                }
                Moment::Completed => {
                    if sealed {
                        self.edges.push(Vec::new());
                        let next = self.edges.len() - 1;
                        if let Some(barrier) = barrier.replace(next) {
                            self.add(barrier, next, Why::RealTime);
                        }
                        sealed = false;
                    }
                    self.add(index, barrier.expect("it was just made"), Why::RealTime);
                }
            }
        }
    }
}

/// The committed appends of a key, as edges need them.
struct Chain {
    /// Place in the version order, and append.
    seen: Vec<(usize, u32)>,
    /// Appends that nobody read. They stand behind all that was read, in an order nobody knows; one for each transaction.
    unseen: Vec<u32>,
}

impl Chain {
    fn of(versions: &Versions, key: &Key) -> Chain {
        let mut seen = Vec::new();
        let mut unseen = BTreeMap::new();
        for id in key.appends.iter().copied().filter(|id| versions.is_committed(*id)) {
            let append = &versions.appends[id];
            match append.place {
                Some(place) => seen.push((place, id as u32)),
                None if key.coherent && !versions.repeated.contains(&id) => {
                    unseen.entry(append.txn).or_insert(id as u32);
                }
                None => {}
            }
        }
        seen.sort_unstable();
        Chain { seen, unseen: unseen.into_values().collect() }
    }
}
