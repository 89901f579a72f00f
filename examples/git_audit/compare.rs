//! What the events say, held against the tree.
//!
//! - Every row and every file of the tree is looked at; each that differs is named once, with both figures.
//! - Agreement is of lines and of content, and of each change with the one before it.

use crate::Result;
use crate::claims::{COMMITS_LEN, Change, File, Files};
use crate::git::Repository;
use std::collections::HashMap;
use std::fmt;
use tallystone::prelude::*;

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
    path: Vec<u8>,
    /// What the events say.
    claimed: Option<File>,
    /// What the tree has.
    found: Option<Change>,
    /// The commits that touched it last, as git has it; not asked for all when there are many.
    touched: Vec<String>,
}

/// Violations for which git is asked who touched the file: each takes a walk through the history.
const TOUCHED_MAX: usize = 20;

/// Compares all rows with the tree of `tip`; without a tip, with nothing.
pub fn run(repository: &Repository, view: &View, tip: Option<&str>) -> Result<Report> {
    let tree = tip.map(|tip| repository.tree(tip)?.read_to_end()).transpose()?.unwrap_or_default();
    let mut tree: HashMap<_, _> = tree.into_iter().map(|file| (file.path.clone(), file)).collect();
    let mut report = Report::default();
    for row in view.rows::<Files>(..) {
        let (path, claimed) = row?;
        let found = tree.remove(&path);
        report.note(path, Some(claimed), found);
    }
    for (path, found) in tree {
        report.note(path, None, Some(found));
    }
    report.violations.sort_by(|a, b| a.path.cmp(&b.path));
    for violation in report.violations.iter_mut().take(TOUCHED_MAX) {
        violation.touched = repository.touched(tip.unwrap_or_default(), &violation.path, COMMITS_LEN)?;
    }
    Ok(report)
}

impl Report {
    fn note(&mut self, path: Vec<u8>, claimed: Option<File>, found: Option<Change>) {
        let violation = Violation { path, claimed, found, touched: Vec::new() };
        match violation.lines() {
            Some(lines) => {
                self.agree += 1;
                self.lines += lines;
            }
            None => self.violations.push(violation),
        }
    }
}

impl Violation {
    /// The lines, if there is no violation.
    fn lines(&self) -> Option<u64> {
        let (Some(claimed), Some(found)) = (&self.claimed, &self.found) else { return None };
        let agree =
            claimed.lines == found.added as i64 && claimed.content == found.after && claimed.gap.is_none();
        agree.then_some(found.added)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", readable(&self.path))?;
        match &self.claimed {
            None => f.write_str("no events")?,
            Some(File { lines, content: None, .. }) => write!(f, "{lines} lines and no file by its events")?,
            Some(File { lines, .. }) => write!(f, "{lines} lines by its events")?,
        }
        match &self.found {
            None => f.write_str(", not in the tree")?,
            Some(found) => write!(f, ", {} lines in the tree", found.added)?,
        }
        let File { content, gap, commits, .. } = self.claimed.clone().unwrap_or_default();
        if let (Some(claimed), Some(found)) =
            (content, self.found.as_ref().and_then(|found| found.after.as_ref()))
            && claimed != *found
        {
            write!(f, "; content {:o} {} by its events", claimed.mode, claimed.object)?;
            write!(f, ", {:o} {} in the tree", found.mode, found.object)?;
        }
        if let Some(commit) = gap {
            write!(f, "; a change before commit {commit} is not in the events")?;
        }
        touched(f, "events", &commits)?;
        touched(f, "git", &self.touched)
    }
}

fn touched(f: &mut fmt::Formatter<'_>, by: &str, commits: &[String]) -> fmt::Result {
    if commits.is_empty() { Ok(()) } else { write!(f, "; last touched, by {by}: {}", commits.join(" ")) }
}

/// A file name on one line, with nothing in it that a terminal would act on.
fn readable(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => path.escape_ascii().to_string(),
    }
}
