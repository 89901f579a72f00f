//! Idempotency keys: a key is applied once, and answered the same for as long as it is kept.
//!
//! - The index names the commit that used the key last; that commit's record, whole and checksummed, decides.
//! - Same fingerprint: the stored answer and the original receipt. Another one: `KeyReused`, naming the part.
//! - Expiry is judged here alone, from the record and the moment of the decision. A request with an expired key is a new one,
//!   wherever the old use of the key may still be found.

use crate::error::{AppendError, StorageError};
use crate::event::Raw;
use crate::log::record::{Digests, KeyPart, StoredAnswer};
use crate::log::{Log, Seek};
use crate::order::{CommitNo, Timestamp};
use crate::request::{
    ByBytes, Committed, Digest, Durability, Print, Receipt, RequestKey, Retention, events_by_bytes,
};
use crate::state::Published;
use crate::state::keys::{KeyIndex, Moment};
use crate::state::term::Term;

/// A key with its fingerprint, as the caller's thread prepared it.
#[derive(Debug, Clone)]
pub(crate) struct Keyed {
    pub term: Term,
    pub key: RequestKey,
    pub parts: Vec<(String, Print)>,
    /// Retention of the key, if this is its first use.
    pub retention: Retention,
}

impl Keyed {
    /// Returns the key as the record of a commit at this moment has it.
    pub fn into_part(self, now: Moment) -> KeyPart {
        let kept = now.keep(self.retention);
        let parts = self.parts.into_iter().map(|(name, print)| (name, print.by_names)).collect();
        KeyPart { scope: self.key.scope, key: self.key.key, parts, digests: Digests::ByNames, kept }
    }
}

/// Result of comparing a commit with a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recalled {
    /// The same request: answer it the same.
    Same(Committed),
    /// Another request under the same key.
    Reused { part: String, commit: CommitNo },
    /// The commit used a key that is not kept any more.
    Expired,
    /// The commit used another key: two hashes met.
    Other,
}

/// Looks for the answer in the published state, on a caller's thread; `None` if the writer is to decide.
///
/// The clock is read only if a commit used the key.
pub(crate) fn answered(
    log: &dyn Log,
    keys: &KeyIndex,
    published: &Published,
    keyed: &Keyed,
    events: &[Raw],
    durability: Durability,
    clock: impl FnOnce() -> Timestamp,
) -> Result<Option<Committed>, AppendError> {
    let Some(commit) = keys.get(keyed.term, published.head.commit) else { return Ok(None) };
    let now = Moment { time: clock().max(published.head.time), ..published.moment() };
    match recall(log, commit, keyed, events, now, durability)? {
        Recalled::Same(answer) => Ok(Some(answer)),
        Recalled::Reused { part, commit } => Err(AppendError::KeyReused { part, commit }),
        Recalled::Expired | Recalled::Other => Ok(None),
    }
}

/// Reads `commit` from the log and compares it with the key.
pub(crate) fn recall(
    log: &dyn Log,
    commit: CommitNo,
    keyed: &Keyed,
    events: &[Raw],
    now: Moment,
    durability: Durability,
) -> Result<Recalled, StorageError> {
    let page = log.read(Seek::Commit(commit), commit, 0)?;
    match page.records().next() {
        Some(record) => Ok(judge(StoredAnswer::from(&record?), keyed, events, now, durability)),
        None => Ok(Recalled::Other),
    }
}

/// Compares what a commit has stored with the key. `events` are those of the request.
pub(crate) fn judge(
    stored: StoredAnswer,
    keyed: &Keyed,
    events: &[Raw],
    now: Moment,
    durability: Durability,
) -> Recalled {
    let StoredAnswer { commit, first, last, time, key, response } = stored;
    let Some(used) = key else { return Recalled::Other };
    if used.kept.is_over(now) {
        return Recalled::Expired;
    }
    if used.scope != keyed.key.scope || used.key != keyed.key.key {
        return Recalled::Other;
    }
    if let Some(part) = differing_part(&used, keyed, events) {
        return Recalled::Reused { part: part.to_owned(), commit };
    }
    let receipt = Receipt::new(commit, first, last, time, durability);
    Recalled::Same(Committed { response, receipt, replayed: true })
}

/// Returns the first part that differs, or stands on one side only.
fn differing_part<'a>(stored: &'a KeyPart, asked: &'a Keyed, events: &[Raw]) -> Option<&'a str> {
    let is = |name: &str| {
        let mut parts = stored.parts.iter();
        parts.find(|(part, _)| part == name).map(|(_, digest)| Some(*digest))
    };
    let wanted = |name: &str| {
        let mut parts = asked.parts.iter();
        parts.find(|(part, _)| part == name).map(|(_, print)| digest(*print, stored.digests, events))
    };
    let names = stored.parts.iter().map(|(name, _)| name);
    let mut names = names.chain(asked.parts.iter().map(|(name, _)| name)).map(String::as_str);
    names.find(|name| is(name) != wanted(name))
}

/// Returns the digest of a part as a record has it; `None` if no record can have it. `events` are those of the request.
fn digest(print: Print, digests: Digests, events: &[Raw]) -> Option<Digest> {
    match (digests, print.by_bytes) {
        (Digests::ByNames, _) => Some(print.by_names),
        (Digests::ByBytes, ByBytes::Is(digest)) => Some(digest),
        (Digests::ByBytes, ByBytes::OfEvents) => Some(events_by_bytes(events)),
        (Digests::ByBytes, ByBytes::Never) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Codec, Tags};
    use crate::log::record::{Commit, Kept};
    use crate::order::Position;
    use crate::request::{Append, Request};

    /// A commit from before names counted: its digests are of these bytes.
    fn recorded(parts: &[(&str, &[u8])]) -> Commit {
        let digest = |bytes: &[u8]| {
            let mut digest = Digest::default();
            blake3::Hasher::new().update(bytes).finalize_xof().fill(&mut digest);
            digest
        };
        let parts = parts.iter().map(|(name, bytes)| ((*name).to_owned(), digest(bytes))).collect();
        let (scope, key, kept) = ("shop".to_owned(), "17".to_owned(), Kept::Forever);
        Commit {
            commit: CommitNo(1),
            first: Position(1),
            time: Timestamp(1),
            label: String::new(),
            layouts: Vec::new(),
            key: Some(KeyPart { scope, key, parts, digests: Digests::ByBytes, kept }),
            response: None,
            events: Vec::new(),
            folds: Vec::new(),
            inline: None,
        }
    }

    fn asked(commit: &Commit, parts: Vec<(String, Print)>, events: &[Raw]) -> Recalled {
        let key = RequestKey { scope: "shop".into(), key: "17".into() };
        let term = crate::state::term::Terms::of_no_store().key(&key);
        let keyed = Keyed { term, key, parts, retention: Retention::Forever };
        judge(commit.into(), &keyed, events, Moment { time: Timestamp(2), keys: 1 }, Durability::Sync)
    }

    #[test]
    fn request_recorded_by_byte_digest_is_recognised() {
        let commit = recorded(&[("input", b"\x07\0\0\0\x01\0\0\0"), ("method", b"\x04\0\0\0\0\0\0\0POST")]);
        let request = |input, method: &str| {
            Request::new("buy").key("shop", "17", &input).part("method", method).fingerprint()
        };
        assert!(matches!(asked(&commit, request((7_u32, 1_u32), "POST"), &[]), Recalled::Same(_)));
        let reused = |parts| match asked(&commit, parts, &[]) {
            Recalled::Reused { part, .. } => part,
            other => panic!("{other:?}"),
        };
        assert_eq!(reused(request((7_u32, 2_u32), "POST")), "input");
        assert_eq!(reused(request((7_u32, 1_u32), "PUT")), "method");
        assert_eq!(reused(Request::new("buy").key("shop", "17", &(7_u32, 1_u32)).fingerprint()), "method");
    }

    #[test]
    fn events_recorded_by_byte_digest_are_recognised() {
        let mut bytes = Vec::new();
        for part in [&b"acct.Paid"[..], b"acct/1", b"\x05\0\0\0"] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend(b"a:1");
        let commit = recorded(&[("input", &bytes)]);
        let paid = |cents: u8| {
            let tags = Tags::of("a", 1);
            Append::raw(Raw::new("acct.Paid", 1, Codec::Bincode, "acct/1", tags, vec![cents, 0, 0, 0]))
        };
        let ask = |append: Append| asked(&commit, append.fingerprint(|_| None), &append.events);
        assert!(matches!(ask(paid(5)), Recalled::Same(_)));
        assert!(matches!(ask(paid(6)), Recalled::Reused { part, .. } if part == "input"));
        assert!(matches!(ask(paid(5).input(&())), Recalled::Reused { part, .. } if part == "input"));
    }

    #[test]
    fn part_without_byte_digest_never_matches() {
        let print = Print { by_names: Digest::default(), by_bytes: ByBytes::Never };
        let commit = recorded(&[]);
        let recalled = asked(&commit, vec![("input".to_owned(), print)], &[]);
        assert!(matches!(recalled, Recalled::Reused { part, .. } if part == "input"));
    }
}
