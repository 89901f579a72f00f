//! The history of a repository goes into the store, a git commit at a time.
//!
//! - The key of an append is the commit's id: offered again, a commit is recognised and not written twice.
//! - Each append expects the version that the one before it leaves: if one is refused, so is everything behind it.
//! - The last imported commit is always offered again, so one that was cut off half-way is completed.
//! - A history that does not contain the last imported commit is refused before anything is appended.

use crate::Result;
use crate::claims::{Change, Claim, HISTORY, Imported, Progress};
use crate::git::{self, Repository};
use indicatif::ProgressBar;
use std::collections::VecDeque;
use tallystone::prelude::*;

/// A git commit with more changes than this takes several appends, keyed `ID`, `ID/1`, `ID/2`, and so on. Never change
/// them: a commit that is offered again must be cut in the same places.
const CHANGES_PER_APPEND: usize = 1000;
const PATH_BYTES_PER_APPEND: usize = 1 << 20;

/// Appends that wait for the disk at one time: they share its syncs.
const WAITING_MAX: usize = 512;
const WAITING_BYTES_MAX: usize = 8 << 20;

/// What to do to one file change on its way into the store, to show that it is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tamper {
    /// Leave out the n-th that is read.
    Drop(u64),
    /// Let the n-th that is read claim one more line.
    Alter(u64),
}

/// What an import did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The commit up to which everything is in the store.
    pub tip: Option<String>,
    /// Commits that git gave.
    pub read: u64,
    /// File changes in them.
    pub changes: u64,
    /// Appends that their key recognised.
    pub replayed: u64,
    /// Commits that are in the store with other changes than git has.
    pub disagree: Vec<String>,
}

/// Brings the store up to the head of the repository.
pub fn run(
    repository: &Repository,
    store: &Store,
    tamper: Option<Tamper>,
    bar: &ProgressBar,
) -> Result<Outcome> {
    let known = store.view()?.row::<Imported>(&())?;
    let Some(tip) = repository.head()? else { return nothing_committed(known) };
    if let Some(commit) = repository.shallow(&tip)? {
        return Err(format!(
            "the history is shallow: it is cut off at commit {commit}, and what came before cannot be audited; fetch it all \
             (git fetch --unshallow), then run this again"
        )
        .into());
    }
    let count = offered(repository, &tip, known.as_ref())?;
    bar.set_length(count);
    let mut import = Import::new(store, tamper)?;
    let mut commits = repository.commits(&tip, count)?;
    let mut last = None;
    while let Some(mut commit) = commits.next()? {
        import.tamper_with(&mut commit.changes);
        import.offer(&commit)?;
        last = Some(commit.id);
        bar.inc(1);
    }
    import.settle(0)?;
    let read = import.outcome.read;
    if read != count || last.as_deref() != Some(&*tip) {
        return Err(format!("git gave {read} of {count} commits").into());
    }
    import.finish(tip)
}

fn nothing_committed(known: Option<Progress>) -> Result<Outcome> {
    match known {
        None => Ok(Outcome::default()),
        Some(known) => {
            Err(format!("nothing is committed here, but the store has commit {}", known.tip).into())
        }
    }
}

/// How many commits to offer: the new ones and, where there is one, the last that was imported.
fn offered(repository: &Repository, tip: &str, known: Option<&Progress>) -> Result<u64> {
    let known = known.map(|known| &*known.tip);
    match (repository.count(tip, known)?, known) {
        (Some(new), known) => Ok(new + u64::from(known.is_some())),
        (None, known) => Err(format!(
            "the history was rewritten, or this is another repository: commit {}, the last that was imported, is not in the \
             first-parent history of {tip}; nothing was appended",
            known.unwrap_or_default()
        )
        .into()),
    }
}

struct Import<'a> {
    store: &'a Store,
    tamper: Option<Tamper>,
    /// Events in the store when everything that waits is there.
    version: u64,
    /// Nothing new was met yet: what is offered may be there already.
    again: bool,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    outcome: Outcome,
}

/// An append that was handed over and not answered yet.
struct Waiting {
    answer: tallystone::store::Commit,
    key: String,
    bytes: usize,
}

impl<'a> Import<'a> {
    fn new(store: &'a Store, tamper: Option<Tamper>) -> Result<Self> {
        let version = store.view()?.stream_version::<Claim>(HISTORY)?;
        let (again, waiting, outcome) = (version > 0, VecDeque::new(), Outcome::default());
        Ok(Self { store, tamper, version, again, waiting, waiting_bytes: 0, outcome })
    }

    fn tamper_with(&mut self, changes: &mut Vec<Change>) {
        let before = self.outcome.changes;
        self.outcome.changes += changes.len() as u64;
        let index = |n: u64| (before < n && n <= self.outcome.changes).then(|| (n - before - 1) as usize);
        match self.tamper {
            Some(Tamper::Drop(n)) => drop(index(n).map(|index| changes.remove(index))),
            Some(Tamper::Alter(n)) => index(n).into_iter().for_each(|index| changes[index].added += 1),
            None => {}
        }
    }

    /// Hands a commit to the store, in as many appends as it takes.
    fn offer(&mut self, commit: &git::Commit) -> Result<()> {
        for (number, part) in parts(&commit.changes).into_iter().enumerate() {
            let key = if number == 0 { commit.id.clone() } else { format!("{}/{number}", commit.id) };
            let claims = claims(&commit.id, number == 0, part);
            let events = claims.len() as u64;
            let append = Append::events(claims)
                .key("git", key.as_str())
                .expect::<Claim>(HISTORY, Expected::Exact(self.version));
            let new = match self.again {
                true => self.offer_again(append, &commit.id, &key)?,
                false => self.submit(append, key, part)?,
            };
            if new {
                self.again = false;
                self.version += events;
            }
        }
        // What comes after a commit that was known is new.
        self.again = false;
        self.outcome.read += 1;
        Ok(())
    }

    /// Appends what may be there already. True if it is new.
    fn offer_again(&mut self, append: Append, commit: &str, key: &str) -> Result<bool> {
        match self.store.append(append) {
            Ok(committed) => {
                self.outcome.replayed += u64::from(committed.replayed);
                Ok(!committed.replayed)
            }
            Err(AppendError::KeyReused { .. }) => {
                if self.outcome.disagree.last().is_none_or(|last| last != commit) {
                    self.outcome.disagree.push(commit.to_owned());
                }
                Ok(false)
            }
            Err(error) => Err(refused(key, error)),
        }
    }

    /// Appends what is new, and waits only when enough is under way.
    fn submit(&mut self, append: Append, key: String, changes: &[Change]) -> Result<bool> {
        // What a change takes, about.
        let bytes = changes.iter().map(|change| 300 + change.path.len()).sum();
        self.waiting.push_back(Waiting { answer: self.store.submit(append), key, bytes });
        self.waiting_bytes += bytes;
        self.settle(WAITING_MAX)?;
        Ok(true)
    }

    /// Waits until no more than so many wait for the disk. The first that is refused ends the import.
    fn settle(&mut self, waiting_max: usize) -> Result<()> {
        while self.waiting.len() > waiting_max || self.waiting_bytes > WAITING_BYTES_MAX {
            let Some(Waiting { answer, key, bytes }) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= bytes;
            answer.wait().map_err(|error| refused(&key, error))?;
        }
        Ok(())
    }

    fn finish(mut self, tip: String) -> Result<Outcome> {
        if let Some(Tamper::Drop(n) | Tamper::Alter(n)) = self.tamper
            && !(1..=self.outcome.changes).contains(&n)
        {
            return Err(format!("there is no file change {n}: {} were read", self.outcome.changes).into());
        }
        self.outcome.tip = Some(tip);
        Ok(self.outcome)
    }
}

fn refused(key: &str, error: AppendError) -> Box<dyn std::error::Error> {
    format!("the store refused {key}: {error}").into()
}

/// The events of one append; the commit itself stands in the first.
fn claims(commit: &str, first: bool, changes: &[Change]) -> Vec<Claim> {
    let head = first.then(|| Claim::Commit { commit: commit.to_owned() });
    let changes =
        changes.iter().map(|change| Claim::Change { commit: commit.to_owned(), change: change.clone() });
    head.into_iter().chain(changes).collect()
}

/// Cuts the changes of a commit; a commit without changes is one part that has none.
fn parts(changes: &[Change]) -> Vec<&[Change]> {
    let (mut parts, mut rest) = (Vec::new(), changes);
    loop {
        let mut bytes = 0;
        let fits = rest.iter().take(CHANGES_PER_APPEND).take_while(|change| {
            bytes += change.path.len();
            bytes <= PATH_BYTES_PER_APPEND
        });
        let (part, more) = rest.split_at(fits.count().max(1).min(rest.len()));
        parts.push(part);
        rest = more;
        if rest.is_empty() {
            return parts;
        }
    }
}
