//! What the events say, held against the tree: a check with evidence from outside.
//!
//! - The store pulls the tree, looks at every row of it and at every row of its own, and records each that differs. Both figures are
//!   named here once more, with who touched the file.
//! - Agreement is of lines and of content, and of each change with the one before it.

use crate::Result;
use crate::claims::{COMMITS_LEN, Content, File, Files, name};
use crate::git::Repository;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
use tallystone::check::{About, Check, Outside, PullError, Pulled, Severity};
use tallystone::prelude::*;
use tallystone::watch::State;

/// What the comparison found.
#[derive(Default)]
pub struct Report {
    /// Files on which events and tree agree.
    pub agree: u64,
    /// Lines in those files.
    pub lines: u64,
    /// The others, in the order of their names.
    pub violations: Vec<Violation>,
}

/// A file on which they do not.
pub struct Violation {
    name: String,
    /// What the events say.
    claimed: Option<File>,
    /// What the tree has.
    found: Option<Found>,
    /// The commits that touched it last, as git has it; not asked for all when there are many.
    touched: Vec<String>,
}

/// A file of the tree.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Found {
    path: Vec<u8>,
    lines: u64,
    content: Option<Content>,
}

/// The check.
const AGREE: &str = "files-agree";
/// Violations for which git is asked who touched the file: each takes a walk through the history.
const TOUCHED_MAX: usize = 20;
/// How long git may take for a tree.
const PATIENCE: Duration = Duration::from_secs(3600);
/// A time of the store is certain with a later snapshot; a clock that was set back makes it wait for another one.
const PULLS_MAX: usize = 10;

/// The tree of one commit; without one, nothing.
struct Tree {
    repository: Repository,
    tip: Option<String>,
}

impl Outside for Tree {
    type Key = String;
    type Row = Found;

    fn pull(&self) -> std::result::Result<Pulled<String, Found>, PullError> {
        let files = self.tip.as_ref().map(|tip| self.repository.tree(tip)?.read_to_end()).transpose();
        let files = files.map_err(|error| PullError::Unreachable(error.to_string()))?.unwrap_or_default();
        let found = files.into_iter().map(|file| {
            let found = Found { lines: file.added, content: file.after, path: file.path };
            (name(&found.path), found)
        });
        Ok(Pulled::new(found.collect()))
    }
}

/// That what the claims add up to is what the tree of `tip` has.
pub fn check(repository: &Repository, tip: Option<&str>) -> Check {
    let tree = Tree { repository: repository.clone(), tip: tip.map(str::to_owned) };
    About {
        id: AGREE,
        severity: Severity::Ticket,
        owner: "git_audit",
        means: "A file is not what the claims about it add up to.",
        remedy: "1 read the commits that are named; 2 import the history into a new store",
    }
    .outside::<Files, _>(tree, agree)
    .every(PATIENCE)
    .for_longer_than(Duration::ZERO)
}

fn agree(claimed: Option<&File>, found: Option<&Found>) -> bool {
    claimed.zip(found).is_some_and(|(claimed, found)| {
        claimed.lines == found.lines as i64 && claimed.content == found.content && claimed.gap.is_none()
    })
}

/// Has the store look at the tree, and tells what it found.
pub fn run(repository: &Repository, store: &Store, tip: Option<&str>) -> Result<Report> {
    pull(store)?;
    let of_check = store.checks().of(AGREE)?.into_iter();
    let open = of_check.filter(|violation| violation.state == State::Open);
    let open: BTreeSet<_> =
        open.filter_map(|violation| violation.subject).map(|text| name_of(&text)).collect();
    let (view, tree) = (store.view()?, store.checks().evidence::<Tree>(AGREE)?);
    let mut report = Report::default();
    for file in tree.rows() {
        let (name, file) = file?;
        if !open.contains(&name) {
            report.agree += 1;
            report.lines += file.row.lines;
        }
    }
    for name in open {
        let (claimed, found) = (view.row::<Files>(&name)?, tree.row(&name)?.map(|found| found.row));
        let mut touched = Vec::new();
        if report.violations.len() < TOUCHED_MAX
            && let Some(path) =
                claimed.as_ref().map(|file| &file.path).or(found.as_ref().map(|file| &file.path))
        {
            touched = repository.touched(tip.unwrap_or_default(), path, COMMITS_LEN)?;
        }
        report.violations.push(Violation { name, claimed, found, touched });
    }
    Ok(report)
}

/// The name of a row by its text, in which what separates the parts of a key is written as `%` and its number.
fn name_of(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [byte, after @ ..] = rest {
        let number = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = number.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (byte, after) = match (byte, number) {
            (b'%', Some(number)) => (number, &after[2..]),
            _ => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Pulls until every difference is certain: what is seen for the first time is confirmed by the next snapshot.
fn pull(store: &Store) -> Result<()> {
    for pull in 1..=PULLS_MAX {
        let source =
            store.checks().pull(AGREE, PATIENCE)?.ok_or("the tree was not compared within an hour")?;
        if let Some((_, why)) = source.failed {
            return Err(why.into());
        }
        let stats = store.checks().stats();
        let stats = stats.iter().find(|check| check.check == AGREE).ok_or("the check is gone")?;
        if stats.unread > 0 {
            return Err(
                format!("{} events cannot be read, the last {:?}", stats.unread, stats.last_unread).into()
            );
        }
        if pull > 1 && stats.pending == 0 {
            return Ok(());
        }
    }
    Err("the clock does not move: whether files agree cannot be told".into())
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match &self.claimed {
            None => f.write_str("no events")?,
            Some(File { lines, content: None, .. }) => write!(f, "{lines} lines and no file by its events")?,
            Some(File { lines, .. }) => write!(f, "{lines} lines by its events")?,
        }
        match &self.found {
            None => f.write_str(", not in the tree")?,
            Some(found) => write!(f, ", {} lines in the tree", found.lines)?,
        }
        let File { content, gap, commits, .. } = self.claimed.clone().unwrap_or_default();
        if let (Some(claimed), Some(found)) =
            (content, self.found.as_ref().and_then(|found| found.content.as_ref()))
            && claimed != *found
        {
            write!(f, "; content {:o} {} by its events", claimed.mode, claimed.object)?;
            write!(f, ", {:o} {} in the tree", found.mode, found.object)?;
        }
        match gap {
            Some((commit, Some(before))) => {
                write!(
                    f,
                    "; a change after commit {before} and before commit {commit} is not in the events"
                )?;
            }
            Some((commit, None)) => write!(f, "; a change before commit {commit} is not in the events")?,
            None => {}
        }
        touched(f, "events", &commits)?;
        touched(f, "git", &self.touched)
    }
}

fn touched(f: &mut fmt::Formatter<'_>, by: &str, commits: &[String]) -> fmt::Result {
    if commits.is_empty() { Ok(()) } else { write!(f, "; last touched, by {by}: {}", commits.join(" ")) }
}
