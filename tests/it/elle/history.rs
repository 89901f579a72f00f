//! What was observed: transactions of appends and reads, how they ended, and when.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Append {
        key: String,
        value: u64,
    },
    /// `None` when the answer never arrived: it implies nothing.
    Read {
        key: String,
        list: Option<Vec<u64>>,
    },
}

pub fn append(key: impl ToString, value: u64) -> Op {
    Op::Append { key: key.to_string(), value }
}

pub fn read(key: impl ToString, list: &[u64]) -> Op {
    Op::Read { key: key.to_string(), list: Some(list.to_vec()) }
}

pub fn unread(key: impl ToString) -> Op {
    Op::Read { key: key.to_string(), list: None }
}

impl Op {
    pub fn key(&self) -> &str {
        match self {
            Op::Append { key, .. } | Op::Read { key, .. } => key,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Append { key, value } => write!(f, "append {value} to {key}"),
            Op::Read { key, list: Some(list) } => write!(f, "read {key} = {}", shown(list)),
            Op::Read { key, list: None } => write!(f, "read {key} = ?"),
        }
    }
}

/// A list in words; of a long one, the end, where the news is.
pub fn shown(list: &[u64]) -> String {
    const TAIL: usize = 12;
    let words: Vec<String> = list.iter().rev().take(TAIL).rev().map(u64::to_string).collect();
    let dots = if list.len() > TAIL { "… " } else { "" };
    format!("[{dots}{}]", words.join(" "))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Committed.
    Ok,
    /// Aborted: it certainly did nothing.
    Fail,
    /// Nobody knows. It counts as committed if a committed transaction read something it appended.
    Info,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// Who ran it. A process waits for one transaction before it starts the next.
    pub process: u64,
    pub status: Status,
    /// The instant before the store was called.
    pub invoked: u64,
    /// The instant after the store replied; `None` if it never did. Of an unknown outcome, it implies nothing.
    pub completed: Option<u64>,
    pub ops: Vec<Op>,
}

impl Txn {
    pub fn ok(process: u64, during: RangeInclusive<u64>, ops: Vec<Op>) -> Txn {
        Txn { process, status: Status::Ok, invoked: *during.start(), completed: Some(*during.end()), ops }
    }

    pub fn fail(process: u64, during: RangeInclusive<u64>, ops: Vec<Op>) -> Txn {
        Txn { status: Status::Fail, ..Txn::ok(process, during, ops) }
    }

    pub fn info(process: u64, invoked: u64, ops: Vec<Op>) -> Txn {
        Txn { process, status: Status::Info, invoked, completed: None, ops }
    }

    /// When it had certainly taken effect.
    pub fn acknowledged(&self) -> Option<u64> {
        self.completed.filter(|_| self.status == Status::Ok)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub txns: Vec<Txn>,
}

impl History {
    pub fn push(&mut self, txn: Txn) {
        self.txns.push(txn);
    }

    /// Reads the notation of the literature, transactions apart by `/`:
    ///
    /// ```text
    /// history := txn ("/" txn)*
    /// txn     := ("fail" | "info")? process? time? op*    process := "p" number
    /// op      := "a" key digit | "r" key (digit* | "?")    time := number ".." number?
    /// ```
    ///
    /// `ax1ry23` appends 1 to x and reads y = [2 3]. Without a time, a transaction overlaps every other; without a process it has
    /// one of its own.
    ///
    /// # Panics
    ///
    /// If the text is not of this form.
    pub fn parse(text: &str) -> History {
        History { txns: text.split('/').enumerate().map(|(index, txn)| parse_txn(index, txn)).collect() }
    }

    /// # Panics
    ///
    /// If a transaction ends before it began, or a process runs two at once.
    pub(super) fn assert_well_formed(&self) {
        let mut latest: HashMap<u64, u64> = HashMap::new();
        for index in self.by_invocation() {
            let txn = &self.txns[index];
            let name = name(index);
            let end = txn.completed.unwrap_or(txn.invoked);
            assert!(
                txn.invoked <= end,
                "{name} completed at {end}, before it was invoked at {}",
                txn.invoked
            );
            assert!(
                txn.completed.is_some() || txn.status == Status::Info,
                "{name} has no completion, and yet its outcome is known"
            );
            if let Some(before) = latest.insert(txn.process, end) {
                assert!(before <= txn.invoked, "{name} starts while process {} is busy", txn.process);
            }
        }
    }

    pub(super) fn by_invocation(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.txns.len()).collect();
        order.sort_by_key(|index| self.txns[*index].invoked);
        order
    }
}

/// `T1` is the first of the history.
pub fn name(index: usize) -> String {
    format!("T{}", index + 1)
}

fn parse_txn(index: usize, text: &str) -> Txn {
    let mut txn = Txn::ok(index as u64, 0..=u64::MAX, Vec::new());
    for word in text.split_whitespace() {
        if word == "fail" {
            txn.status = Status::Fail;
        } else if word == "info" {
            (txn.status, txn.completed) = (Status::Info, None);
        } else if let Some(process) = word.strip_prefix('p') {
            txn.process = process.parse().expect("a process is a number");
        } else if let Some((invoked, completed)) = word.split_once("..") {
            txn.invoked = invoked.parse().expect("an instant is a number");
            txn.completed =
                (!completed.is_empty()).then(|| completed.parse().expect("an instant is a number"));
        } else {
            txn.ops.extend(parse_ops(word));
        }
    }
    txn
}

fn parse_ops(word: &str) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut rest = word.chars().peekable();
    while let Some(verb) = rest.next() {
        let key = rest.next().unwrap_or_else(|| panic!("`{word}` ends without a key"));
        let mut digits = Vec::new();
        while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
            digits.push(u64::from(digit));
            rest.next();
        }
        ops.push(match (verb, &digits[..]) {
            ('a', [value]) => append(key, *value),
            ('r', []) if rest.next_if_eq(&'?').is_some() => unread(key),
            ('r', list) => read(key, list),
            _ => panic!("`{word}`: an operation is `a`, a key and a digit, or `r`, a key and digits"),
        });
    }
    ops
}
