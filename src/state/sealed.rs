//! Rows of derived files as bytes, each with a checksum over its table, its key and itself.

use super::keys::KeyUse;
use super::layer::RowVersion;
use super::overlay::Postings;
use super::term::Term;
use super::varint;
use crate::error::{StorageError, TroubleKind};
use crate::log::record::Kept;
use crate::order::{CommitNo, Position, Timestamp};
use std::sync::Arc;

pub(super) fn damaged(what: impl Into<String>) -> StorageError {
    StorageError::new(TroubleKind::State, what)
}

fn seal_of(table: &str, key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(table.as_bytes()), key), body)
}

pub(super) fn seal(table: &str, key: &[u8], out: &mut [u8]) -> u32 {
    let (head, body) = out.split_at_mut(4);
    let seal = seal_of(table, key, body);
    head.copy_from_slice(&seal.to_le_bytes());
    seal
}

pub(super) fn unseal<'a>(table: &str, key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], StorageError> {
    match bytes.split_at_checked(4) {
        Some((head, body)) if head == seal_of(table, key, body).to_le_bytes() => Ok(body),
        _ => Err(damaged(format!("a row of table `{table}` is damaged"))),
    }
}

/// Returns the seal as written, for the sums. It is checked elsewhere.
pub(super) fn written_seal(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |head| u32::from_le_bytes(*head))
}

pub(super) fn posting_key(term: Term, first: Position) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&term.to_be_bytes());
    key[16..].copy_from_slice(&first.0.to_be_bytes());
    key
}

pub(super) fn encode_chunk(term: Term, first_version: u64, positions: &[Position]) -> ([u8; 24], Vec<u8>) {
    let key = posting_key(term, positions[0]);
    let mut out = vec![0; 4];
    out.extend(first_version.to_le_bytes());
    for pair in positions.windows(2) {
        varint::put(&mut out, pair[1].0 - pair[0].0);
    }
    seal("postings", &key, &mut out);
    (key, out)
}

pub(super) fn decode_chunk(key: &[u8; 24], bytes: &[u8]) -> Result<Postings, StorageError> {
    let malformed = || damaged("a posting chunk does not decode");
    let body = unseal("postings", key, bytes)?;
    let (version, mut gaps) = body.split_first_chunk().ok_or_else(malformed)?;
    let first = Position(u64::from_be_bytes(*key.last_chunk().expect("a posting key has 24 bytes")));
    let mut positions = vec![first];
    let mut last = first.0;
    while !gaps.is_empty() {
        last = last.checked_add(varint::take(&mut gaps).ok_or_else(malformed)?).ok_or_else(malformed)?;
        positions.push(Position(last));
    }
    Ok(Postings { first_version: u64::from_le_bytes(*version), positions })
}

pub(super) fn encode_row(key: &[u8], version: &RowVersion, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + value.len());
    out.extend([0; 4]);
    out.extend(version.commit.0.to_le_bytes());
    out.extend(version.position.0.to_le_bytes());
    out.extend(value);
    seal("rows", key, &mut out);
    out
}

pub(super) fn decode_row(key: &[u8], bytes: &[u8]) -> Result<RowVersion, StorageError> {
    let malformed = || damaged("a row does not decode");
    let body = unseal("rows", key, bytes)?;
    let (commit, rest) = body.split_first_chunk().ok_or_else(malformed)?;
    let (position, value) = rest.split_first_chunk().ok_or_else(malformed)?;
    Ok(RowVersion {
        commit: CommitNo(u64::from_le_bytes(*commit)),
        position: Position(u64::from_le_bytes(*position)),
        value: Some(Arc::from(value)),
    })
}

/// First lane of keys kept by time; the next constant is the first of keys kept by count. See `KeyUse`.
pub(super) const LANES_BY_TIME: u8 = 64;
pub(super) const LANES_BY_COUNT: u8 = 128;

fn chunk_key(lane: u8, number: u64) -> [u8; 9] {
    let mut key = [lane; 9];
    key[1..].copy_from_slice(&number.to_le_bytes());
    key
}

pub(super) fn encode_keys(lane: u8, number: u64, keys: &[(Term, KeyUse)]) -> Vec<u8> {
    let mut out = vec![0; 4];
    for (term, used) in keys {
        out.extend(term.to_le_bytes());
        out.extend(used.commit.0.to_le_bytes());
        match used.kept {
            Kept::Forever => {}
            Kept::UntilTime(Timestamp(until)) | Kept::UntilKeys(until) => out.extend(until.to_le_bytes()),
        }
    }
    seal("keys", &chunk_key(lane, number), &mut out);
    out
}

pub(super) fn decode_keys(
    lane: u8,
    number: u64,
    bytes: &[u8],
) -> Result<Vec<(Term, CommitNo, Kept)>, StorageError> {
    let body = unseal("keys", &chunk_key(lane, number), bytes)?;
    let entries = body.chunks_exact(if lane == 0 { 24 } else { 32 });
    if !entries.remainder().is_empty() {
        return Err(damaged("a key chunk does not decode"));
    }
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    let decode = |entry: &[u8]| {
        let term = Term::from_le_bytes(entry[..16].try_into().expect("16 bytes"));
        let kept = match lane {
            ..LANES_BY_TIME => Kept::Forever,
            LANES_BY_TIME..LANES_BY_COUNT => Kept::UntilTime(Timestamp(word(&entry[24..]))),
            LANES_BY_COUNT.. => Kept::UntilKeys(word(&entry[24..])),
        };
        (term, CommitNo(word(&entry[16..24])), kept)
    };
    Ok(entries.map(decode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip_with_any_gaps() {
        let mut last = 0;
        let positions: Vec<Position> = (0..62)
            .flat_map(|bits| [1 << bits, (1 << bits) + 1])
            .map(|gap: u64| {
                last += gap;
                Position(last)
            })
            .take_while(|position| position.0 < u64::MAX / 2)
            .collect();
        let (key, bytes) = encode_chunk(7, 3, &positions);
        let decoded = decode_chunk(&key, &bytes).unwrap();
        assert_eq!((decoded.first_version, decoded.positions), (3, positions));
    }
}
