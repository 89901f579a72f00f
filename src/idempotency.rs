//! A key is applied once, and answered the same for as long as it is kept.
//!
//! - The index says which commit may have used the key; that commit's record, whole and checksummed, is the arbiter.
//! - Same fingerprint: the stored answer and the original receipt. Another one: `KeyReused`, naming the part.

use crate::error::StorageError;
use crate::log::record::Commit;
use crate::log::{Log, Seek};
use crate::order::CommitNo;
use crate::request::{Committed, Digest, Durability, Receipt, RequestKey};
use crate::state::term::Term;

/// A key with its fingerprint, as the caller's thread prepared it.
#[derive(Debug, Clone)]
pub(crate) struct Keyed {
    pub term: Term,
    pub key: RequestKey,
    pub parts: Vec<(String, Digest)>,
}

/// What a commit says about a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recalled {
    /// The same request: answer it the same.
    Same(Committed),
    /// Another request under the same key.
    Reused { part: String, commit: CommitNo },
    /// The commit used another key: two hashes met.
    Other,
}

/// Asks the log what `commit` says about the key.
pub(crate) fn recall(
    log: &dyn Log,
    commit: CommitNo,
    keyed: &Keyed,
    durability: Durability,
) -> Result<Recalled, StorageError> {
    let page = log.read(Seek::Commit(commit), commit, 0)?;
    match page.records().next() {
        Some(record) => Ok(judge(&record?.to_commit(), keyed, durability)),
        None => Ok(Recalled::Other),
    }
}

/// Compares a commit with the key.
pub(crate) fn judge(commit: &Commit, keyed: &Keyed, durability: Durability) -> Recalled {
    let Some(stored) = &commit.key else { return Recalled::Other };
    if stored.scope != keyed.key.scope || stored.key != keyed.key.key {
        return Recalled::Other;
    }
    if let Some(part) = differing_part(&stored.parts, &keyed.parts) {
        return Recalled::Reused { part: part.to_owned(), commit: commit.commit };
    }
    let receipt = Receipt::new(commit.commit, commit.first, commit.last(), commit.time, durability);
    let response = commit.response.as_ref().map_or_else(Vec::new, |response| response.bytes.clone());
    Recalled::Same(Committed { response, receipt, replayed: true })
}

/// The first part that differs, or stands on one side only.
fn differing_part<'a>(stored: &'a [(String, Digest)], asked: &'a [(String, Digest)]) -> Option<&'a str> {
    let find = |parts: &[(String, Digest)], name: &str| {
        parts.iter().find(|(part, _)| part == name).map(|(_, digest)| *digest)
    };
    let mut names = stored.iter().chain(asked).map(|(name, _)| name.as_str());
    names.find(|name| find(stored, name) != find(asked, name))
}
