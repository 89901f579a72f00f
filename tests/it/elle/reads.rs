//! Anomalies that show in a read by itself, or in the reads of one key, without a graph.

use super::history::{Op, Status, name, shown};
use super::versions::{Read, Versions};
use super::{Anomaly, Finding};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub fn findings(versions: &Versions) -> Vec<Finding> {
    let mut found = Vec::new();
    repeated_appends(versions, &mut found);
    strange_lists(versions, &mut found);
    cyclic_versions(versions, &mut found);
    internal(versions, &mut found);
    future_reads(versions, &mut found);
    aborted_reads(versions, &mut found);
    intermediate_reads(versions, &mut found);
    dirty_updates(versions, &mut found);
    found
}

fn finding(anomaly: Anomaly, witness: String) -> Finding {
    Finding { anomaly, witness }
}

/// `T3 read x = [1 2]`
fn saying(versions: &Versions, read: &Read) -> String {
    format!("{} read {} = {}", name(read.txn), versions.keys[read.key].name, shown(read.list))
}

fn repeated_appends(versions: &Versions, found: &mut Vec<Finding>) {
    for append in versions.repeated.iter().map(|append| &versions.appends[*append]) {
        let key = versions.keys[append.key].name;
        let first =
            versions.append_of(append.key, append.value).map(|first| name(versions.appends[first].txn));
        let witness = format!(
            "{} appended {} to {key}, and so did {}",
            name(append.txn),
            append.value,
            first.expect("a repeated append has a first")
        );
        found.push(finding(Anomaly::RepeatedAppend, witness));
    }
}

fn strange_lists(versions: &Versions, found: &mut Vec<Finding>) {
    for read in versions.distinct_reads() {
        let mut once = HashSet::new();
        if let Some(twice) = read.list.iter().find(|value| !once.insert(**value)) {
            let witness = format!("{}, which holds {twice} twice", saying(versions, read));
            found.push(finding(Anomaly::DuplicateElements, witness));
        }
        if let Some(value) = read.list.iter().find(|value| versions.append_of(read.key, **value).is_none()) {
            let witness = format!("{}, and nobody appended {value}", saying(versions, read));
            found.push(finding(Anomaly::UnwrittenRead, witness));
        }
        if !read.prefix {
            let longest = shown(versions.keys[read.key].longest);
            let witness = format!("{}, which is no prefix of {longest}", saying(versions, read));
            found.push(finding(Anomaly::IncompatibleOrder, witness));
        }
    }
}

fn cyclic_versions(versions: &Versions, found: &mut Vec<Finding>) {
    let mut lists: BTreeMap<usize, Vec<&[u64]>> = BTreeMap::new();
    for read in versions.distinct_reads().into_iter().filter(|read| !versions.keys[read.key].coherent) {
        // A list that holds a value twice is reported as that.
        let values: HashSet<u64> = read.list.iter().copied().collect();
        if values.len() == read.list.len() {
            lists.entry(read.key).or_default().push(read.list);
        }
    }
    for (key, lists) in lists {
        let stuck = never_first(&lists);
        if !stuck.is_empty() {
            let orders: Vec<String> = lists.iter().map(|list| shown(list)).collect();
            let key = versions.keys[key].name;
            let witness = format!("{key} was read as {}: no order of {stuck:?} agrees", orders.join(" and "));
            found.push(finding(Anomaly::CyclicVersions, witness));
        }
    }
}

/// Values that stand on a cycle of "comes right before", or behind one. Takes away what has nothing before it until nothing changes.
fn never_first(lists: &[&[u64]]) -> BTreeSet<u64> {
    let pairs: BTreeSet<(u64, u64)> =
        lists.iter().flat_map(|list| list.windows(2).map(|pair| (pair[0], pair[1]))).collect();
    let mut before: HashMap<u64, usize> = HashMap::new();
    for (first, then) in &pairs {
        before.entry(*first).or_default();
        *before.entry(*then).or_default() += 1;
    }
    let mut free: Vec<u64> =
        before.iter().filter(|(_, count)| **count == 0).map(|(value, _)| *value).collect();
    while let Some(value) = free.pop() {
        before.remove(&value);
        for (_, then) in pairs.range((value, 0)..=(value, u64::MAX)) {
            let count = before.get_mut(then).expect("what comes later is still there");
            *count -= 1;
            if *count == 0 {
                free.push(*then);
            }
        }
    }
    before.into_keys().collect()
}

/// What a transaction knows of a key from its own operations.
enum Known<'h> {
    /// Only what it appended, which must stand at the end.
    End(Vec<u64>),
    /// A list it read, and what it appended since.
    All(&'h [u64], Vec<u64>),
}

impl Known<'_> {
    fn allows(&self, list: &[u64]) -> bool {
        match self {
            Known::End(end) => list.ends_with(end),
            Known::All(start, end) => {
                list.len() == start.len() + end.len() && list.starts_with(start) && list.ends_with(end)
            }
        }
    }

    fn words(&self) -> String {
        match self {
            Known::End(end) => format!("a list that ends with {}", shown(end)),
            Known::All(start, end) => shown(&[start, &end[..]].concat()),
        }
    }
}

fn internal(versions: &Versions, found: &mut Vec<Finding>) {
    for (txn, transaction) in
        versions.history.txns.iter().enumerate().filter(|(txn, _)| versions.committed[*txn])
    {
        let mut known: BTreeMap<&str, Known> = BTreeMap::new();
        for op in &transaction.ops {
            match op {
                Op::Append { key, value } => match known.entry(key).or_insert(Known::End(Vec::new())) {
                    Known::End(end) | Known::All(_, end) => end.push(*value),
                },
                Op::Read { list: None, .. } => {}
                Op::Read { key, list: Some(list) } => {
                    if let Some(expected) = known.get(key.as_str()).filter(|known| !known.allows(list)) {
                        let words = expected.words();
                        let witness = format!("{}: {op}, where its own operations say {words}", name(txn));
                        found.push(finding(Anomaly::Internal, witness));
                    }
                    known.insert(key, Known::All(list, Vec::new()));
                }
            }
        }
    }
}

fn future_reads(versions: &Versions, found: &mut Vec<Finding>) {
    for read in &versions.reads {
        for later in &versions.history.txns[read.txn].ops[read.op + 1..] {
            let Op::Append { key, value } = later else { continue };
            if versions.keys[read.key].name == key && holds(versions, read, *value) {
                let witness = format!("{}, and appended {value} only later", saying(versions, read));
                found.push(finding(Anomaly::FutureRead, witness));
            }
        }
    }
}

/// Whether a read holds a value, without a look at the whole list where it is a prefix of the version order.
fn holds(versions: &Versions, read: &Read, value: u64) -> bool {
    let append = versions.append_of(read.key, value).filter(|_| read.prefix);
    match append {
        Some(append) => versions.appends[append].place.is_some_and(|place| place < read.list.len()),
        None => read.list.contains(&value),
    }
}

fn aborted_reads(versions: &Versions, found: &mut Vec<Finding>) {
    let aborted = |append: &usize| versions.status(*append) == Status::Fail;
    let firsts: Vec<Option<usize>> = versions
        .keys
        .iter()
        .map(|key| key.order.iter().position(|append| append.as_ref().is_some_and(aborted)))
        .collect();
    for read in &versions.reads {
        let of_value = |value: &u64| versions.append_of(read.key, *value).filter(aborted);
        let seen = match read.prefix {
            true => firsts[read.key]
                .filter(|place| *place < read.list.len())
                .and_then(|place| of_value(&read.list[place])),
            false => read.list.iter().find_map(of_value),
        };
        if let Some(append) = seen.map(|append| &versions.appends[append]) {
            let says = saying(versions, read);
            let witness =
                format!("{says}, and {}, who appended {}, was aborted", name(append.txn), append.value);
            found.push(finding(Anomaly::AbortedRead, witness));
        }
    }
}

fn intermediate_reads(versions: &Versions, found: &mut Vec<Finding>) {
    for read in versions.reads.iter().filter(|read| read.external) {
        let last = read.list.last().and_then(|value| versions.append_of(read.key, *value));
        let Some(append) = last.filter(|append| versions.is_committed(*append)) else { continue };
        let append = &versions.appends[append];
        if append.txn != read.txn && !append.last {
            let says = saying(versions, read);
            let witness = format!("{says}, and {} appended more behind {}", name(append.txn), append.value);
            found.push(finding(Anomaly::IntermediateRead, witness));
        }
    }
}

fn dirty_updates(versions: &Versions, found: &mut Vec<Finding>) {
    for key in &versions.keys {
        let mut order = key.order.iter().flatten();
        let aborted = order.find(|append| versions.status(**append) == Status::Fail);
        let behind = order.find(|append| versions.is_committed(**append));
        if let (Some(aborted), Some(behind)) = (aborted, behind) {
            let (aborted, behind) = (&versions.appends[*aborted], &versions.appends[*behind]);
            let witness = format!(
                "{}: {} appended {} and was aborted, and the {} of {}, which committed, stands behind it",
                key.name,
                name(aborted.txn),
                aborted.value,
                behind.value,
                name(behind.txn)
            );
            found.push(finding(Anomaly::DirtyUpdate, witness));
        }
    }
}
