//! What a git history claims, as events, and what follows from the claims, as rows.
//!
//! - A change says how many lines it adds and removes, and from which content to which: a claim left out shows even where
//!   the lines still add up.
//! - A row is what the events alone say of a file. Nothing in it was read from a tree.
//! - A file that is gone without a trace has no row; one whose claims left something behind keeps it.

use serde::{Deserialize, Serialize};
use tallystone::Options;
use tallystone::prelude::*;

/// One claim of a git history. All are in one stream, so its version counts them.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Claim {
    /// A commit; its changes follow. A commit that changes no file is this alone.
    Commit {
        /// Its id.
        commit: String,
    },
    /// What a commit did to one file.
    Change {
        /// The commit's id.
        commit: String,
        /// The file.
        change: Change,
    },
}

impl Event for Claim {
    const FAMILY: &str = "git";
    type Id = String;

    fn id(&self) -> String {
        HISTORY.to_owned()
    }
}

/// The one stream of a store.
pub const HISTORY: &str = "history";

/// What happened to one file.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Change {
    /// The name of the file: bytes, which need not be UTF-8.
    pub path: Vec<u8>,
    /// Lines added.
    pub added: u64,
    /// Lines removed.
    pub removed: u64,
    /// What the file was before; `None` if it was not there.
    pub before: Option<Content>,
    /// What it is now; `None` if it is gone.
    pub after: Option<Content>,
}

/// What git has under a file name.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Content {
    /// Plain, executable, symbolic link or submodule, as git's trees have it.
    pub mode: u32,
    /// The blob; for a submodule, its commit.
    pub object: String,
}

/// The lines and the content of each file, by [`name`].
pub struct Files;

/// A file name on one line, with nothing in it that a terminal would act on. No two files have the same.
pub fn name(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => path.escape_ascii().to_string(),
    }
}

/// What the events say of one file.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub struct File {
    /// Its name, as git has it.
    pub path: Vec<u8>,
    /// All lines added, less all removed.
    pub lines: i64,
    /// What the last change left; `None` if it took the file away.
    pub content: Option<Content>,
    /// The first commit that started from something else than the change before it had left, and the commit of that change.
    pub gap: Option<(String, Option<String>)>,
    /// The commits that touched it last, newest first.
    pub commits: Vec<String>,
}

/// Commits kept in a row, to be named with a violation.
pub const COMMITS_LEN: usize = 3;

impl Projection for Files {
    const NAME: &str = "files";
    const VERSION: u32 = 2;
    type Event = Claim;
    type Key = String;
    type Row = File;

    fn fold(claim: &Claim, rows: &mut Rows<Self>) -> Folded {
        let Claim::Change { commit, change } = claim else { return Ok(()) };
        let name = name(&change.path);
        let mut file = rows.get(&name)?.unwrap_or_default();
        file.apply(commit, change);
        if file.is_gone() { rows.remove(&name) } else { rows.put(name, file) }
    }
}

impl File {
    fn apply(&mut self, commit: &str, change: &Change) {
        self.path.clone_from(&change.path);
        if self.content != change.before {
            self.gap.get_or_insert_with(|| (commit.to_owned(), self.commits.first().cloned()));
        }
        self.lines += change.added as i64 - change.removed as i64;
        self.content = change.after.clone();
        self.commits.insert(0, commit.to_owned());
        self.commits.truncate(COMMITS_LEN);
    }

    /// Taken away, and its claims add up to nothing.
    fn is_gone(&self) -> bool {
        self.content.is_none() && self.lines == 0 && self.gap.is_none()
    }
}

/// How far the history was imported: one row.
pub struct Imported;

/// The commits in the store.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// How many.
    pub commits: u64,
    /// The last of them.
    pub tip: String,
}

impl Projection for Imported {
    const NAME: &str = "imported";
    type Event = Claim;
    type Key = ();
    type Row = Progress;

    fn fold(claim: &Claim, rows: &mut Rows<Self>) -> Folded {
        let Claim::Commit { commit } = claim else { return Ok(()) };
        rows.update((), |progress| {
            progress.commits += 1;
            progress.tip.clone_from(commit);
        })
    }
}

/// What the store is told, each time it is opened.
pub fn setup() -> Setup {
    let mut options = Options::default();
    // A file name of any length that a file system takes, and then some.
    options.row_key_bytes_max = 32 << 10;
    // Rows are read in one go, however many there are.
    options.view_age_ms_max = 3_600_000;
    Setup::new().inline::<Files>().inline::<Imported>().options(options)
}
