//! A key is applied once, and answered the same for as long as it is kept.
//!
//! - The index says which commit used the key last; that commit's record, whole and checksummed, is the arbiter.
//! - Same fingerprint: the stored answer and the original receipt. Another one: `KeyReused`, naming the part.
//! - Whether it is still kept is judged here alone, from the record and the moment of the decision. A key that is not is a new
//!   request, wherever its old use may still be found.

use crate::error::{AppendError, StorageError};
use crate::log::record::{Commit, KeyPart};
use crate::log::{Log, Seek};
use crate::order::{CommitNo, Timestamp};
use crate::request::{Committed, Digest, Durability, Receipt, RequestKey, Retention};
use crate::state::Published;
use crate::state::keys::{KeyIndex, Moment};
use crate::state::term::Term;

/// A key with its fingerprint, as the caller's thread prepared it.
#[derive(Debug, Clone)]
pub(crate) struct Keyed {
    pub term: Term,
    pub key: RequestKey,
    pub parts: Vec<(String, Digest)>,
    /// How long it is kept, if this is its first use.
    pub retention: Retention,
}

impl Keyed {
    /// As it goes into the record of a commit at this moment.
    pub fn into_part(self, now: Moment) -> KeyPart {
        let kept = now.keep(self.retention);
        KeyPart { scope: self.key.scope, key: self.key.key, parts: self.parts, kept }
    }
}

/// What a commit says about a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recalled {
    /// The same request: answer it the same.
    Same(Committed),
    /// Another request under the same key.
    Reused { part: String, commit: CommitNo },
    /// It has used a key that is not kept any more.
    Expired,
    /// The commit used another key: two hashes met.
    Other,
}

/// Asks what is published: for a caller's thread. `None`: the writer decides, and has the last word.
///
/// The clock is read only where a commit used the key.
pub(crate) fn answered(
    log: &dyn Log,
    keys: &KeyIndex,
    published: &Published,
    keyed: &Keyed,
    durability: Durability,
    clock: impl FnOnce() -> Timestamp,
) -> Result<Option<Committed>, AppendError> {
    let Some(commit) = keys.get(keyed.term, published.head.commit) else { return Ok(None) };
    let now = Moment { time: clock().max(published.head.time), ..published.moment() };
    match recall(log, commit, keyed, now, durability)? {
        Recalled::Same(answer) => Ok(Some(answer)),
        Recalled::Reused { part, commit } => Err(AppendError::KeyReused { part, commit }),
        Recalled::Expired | Recalled::Other => Ok(None),
    }
}

/// Asks the log what `commit` says about the key.
pub(crate) fn recall(
    log: &dyn Log,
    commit: CommitNo,
    keyed: &Keyed,
    now: Moment,
    durability: Durability,
) -> Result<Recalled, StorageError> {
    let page = log.read(Seek::Commit(commit), commit, 0)?;
    match page.records().next() {
        Some(record) => Ok(judge(&record?.to_commit(), keyed, now, durability)),
        None => Ok(Recalled::Other),
    }
}

/// Compares a commit with the key.
pub(crate) fn judge(commit: &Commit, keyed: &Keyed, now: Moment, durability: Durability) -> Recalled {
    let Some(stored) = &commit.key else { return Recalled::Other };
    if stored.kept.is_over(now) {
        return Recalled::Expired;
    }
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
