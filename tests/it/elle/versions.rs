//! Per key, in which order values came to be: the longest read is the order, and every other read must be a prefix of it.

use super::history::{History, Op, Status};
use std::collections::{BTreeSet, HashMap, HashSet};

/// One append of the history.
pub struct Append {
    pub txn: usize,
    pub key: usize,
    pub value: u64,
    /// It is the last that its transaction appends to this key.
    pub last: bool,
    /// Where it stands in the version order of its key, if a committed transaction read it there.
    pub place: Option<usize>,
}

/// One read with a known answer, of a transaction that committed.
pub struct Read<'h> {
    pub txn: usize,
    /// Which operation of the transaction.
    pub op: usize,
    pub key: usize,
    pub list: &'h [u64],
    /// Its transaction had not yet appended to the key: what was read came from others.
    pub external: bool,
    /// It agrees with the version order.
    pub prefix: bool,
}

pub struct Key<'h> {
    pub name: &'h str,
    /// The longest read.
    pub longest: &'h [u64],
    /// The same as appends; `None` for what nobody appended.
    pub order: Vec<Option<usize>>,
    /// All appends to the key, in the order of the history.
    pub appends: Vec<usize>,
    /// Every read is a prefix of the longest.
    pub coherent: bool,
}

pub struct Versions<'h> {
    pub history: &'h History,
    pub keys: Vec<Key<'h>>,
    pub appends: Vec<Append>,
    pub reads: Vec<Read<'h>>,
    /// By transaction: it is known to have committed.
    pub committed: Vec<bool>,
    /// Appends whose value was appended to the key before.
    pub repeated: BTreeSet<usize>,
    by_name: HashMap<&'h str, usize>,
    by_value: HashMap<(usize, u64), usize>,
}

impl<'h> Versions<'h> {
    pub fn of(history: &'h History) -> Versions<'h> {
        let mut versions = Versions {
            history,
            keys: Vec::new(),
            appends: Vec::new(),
            reads: Vec::new(),
            committed: history.txns.iter().map(|txn| txn.status == Status::Ok).collect(),
            repeated: BTreeSet::new(),
            by_name: HashMap::new(),
            by_value: HashMap::new(),
        };
        versions.index_appends();
        versions.collect_reads();
        while versions.resolve_unknown_outcomes() {
            versions.collect_reads();
        }
        versions.place_appends();
        versions
    }

    /// Who appended the value to the key.
    pub fn append_of(&self, key: usize, value: u64) -> Option<usize> {
        self.by_value.get(&(key, value)).copied()
    }

    pub fn status(&self, append: usize) -> Status {
        self.history.txns[self.appends[append].txn].status
    }

    pub fn is_committed(&self, append: usize) -> bool {
        self.committed[self.appends[append].txn]
    }

    fn index_appends(&mut self) {
        for (txn, transaction) in self.history.txns.iter().enumerate() {
            let mut own: Vec<usize> = Vec::new();
            for op in &transaction.ops {
                let key = self.key(op.key());
                if let Op::Append { value, .. } = op {
                    let id = self.appends.len();
                    if let Some(earlier) = own.iter_mut().find(|earlier| self.appends[**earlier].key == key) {
                        self.appends[*earlier].last = false;
                        *earlier = id;
                    } else {
                        own.push(id);
                    }
                    self.appends.push(Append { txn, key, value: *value, last: true, place: None });
                    self.keys[key].appends.push(id);
                    if *self.by_value.entry((key, *value)).or_insert(id) != id {
                        self.repeated.insert(id);
                    }
                }
            }
        }
    }

    fn key(&mut self, name: &'h str) -> usize {
        *self.by_name.entry(name).or_insert_with(|| {
            self.keys.push(Key {
                name,
                longest: &[],
                order: Vec::new(),
                appends: Vec::new(),
                coherent: true,
            });
            self.keys.len() - 1
        })
    }

    /// Reads of committed transactions, and what they say about the order of versions.
    fn collect_reads(&mut self) {
        self.reads.clear();
        for (txn, transaction) in self.history.txns.iter().enumerate() {
            if !self.committed[txn] {
                continue;
            }
            let mut appended: Vec<usize> = Vec::new();
            for (op, operation) in transaction.ops.iter().enumerate() {
                let key = self.by_name[operation.key()];
                match operation {
                    Op::Append { .. } => appended.push(key),
                    Op::Read { list: None, .. } => {}
                    Op::Read { list: Some(list), .. } => {
                        let external = !appended.contains(&key);
                        self.reads.push(Read { txn, op, key, list, external, prefix: true });
                        if list.len() > self.keys[key].longest.len() {
                            self.keys[key].longest = list;
                        }
                    }
                }
            }
        }
        for read in &mut self.reads {
            read.prefix = self.keys[read.key].longest.starts_with(read.list);
            self.keys[read.key].coherent &= read.prefix;
        }
    }

    /// A transaction of unknown outcome has committed if a committed one saw what it appended. Answers whether any is new.
    fn resolve_unknown_outcomes(&mut self) -> bool {
        let longest = self.keys.iter().enumerate().map(|(key, it)| (key, it.longest));
        let others = self.reads.iter().filter(|read| !read.prefix).map(|read| (read.key, read.list));
        let seen: BTreeSet<usize> = longest
            .chain(others)
            .flat_map(|(key, list)| list.iter().map(move |value| (key, *value)))
            .filter_map(|(key, value)| self.append_of(key, value))
            .filter(|append| self.status(*append) == Status::Info && !self.is_committed(*append))
            .map(|append| self.appends[append].txn)
            .collect();
        for txn in &seen {
            self.committed[*txn] = true;
        }
        !seen.is_empty()
    }

    fn place_appends(&mut self) {
        for key in 0..self.keys.len() {
            let longest = self.keys[key].longest;
            self.keys[key].order = longest.iter().map(|value| self.append_of(key, *value)).collect();
            for (place, append) in self.keys[key].order.iter().enumerate() {
                if let Some(append) = append {
                    self.appends[*append].place.get_or_insert(place);
                }
            }
        }
    }

    /// The lists that say all: of each key the longest, and every read that disagrees with it, each with one who read it.
    pub fn distinct_reads(&self) -> Vec<&Read<'h>> {
        let mut shown = HashSet::new();
        let telling = |read: &&Read<'h>| !read.prefix || read.list.len() == self.keys[read.key].longest.len();
        self.reads
            .iter()
            .filter(telling)
            .filter(|read| shown.insert((read.key, (!read.prefix).then_some(read.list))))
            .collect()
    }
}
