//! Commit records: built, damaged, and taken from any bytes.

use super::{Oracle, two_bytes};
use crate::log::StoreId;
use crate::log::hostile;
use crate::log::record::{
    Commit, Digests, FRAME, Fold, Kept, KeyPart, LayoutDecl, Payload, Record, StoredEvent, check,
};
use crate::order::{CommitNo, Position, Timestamp};
use crate::testing::Random;

/// Checks that a record decodes to the commit it was encoded from, and that whatever decodes encodes to the same bytes again.
///
/// `bytes` are taken as a body, and as steps that build a commit and then damage its body.
pub fn record_decode(bytes: &[u8], oracle: Oracle) {
    hostile::canonical(bytes);
    let mut draws = Random::from_bytes(bytes);
    let (mut commit, mut damage) = (bare(), Vec::new());
    while !draws.is_used_up() {
        step(&mut commit, &mut damage, &mut draws);
    }
    let store = StoreId([7; 16]);
    let mut framed = Vec::new();
    commit.encode_into(store, &mut framed);
    let (body, rest) = check(store, &framed).expect("what was encoded checks");
    assert!(rest.is_empty(), "a record fills its frame");
    let mut decoded = Record::decode(body).expect("what was encoded decodes").to_commit();
    if oracle == Oracle::Canary {
        forget_rule_of_response(&mut decoded);
    }
    assert_eq!(decoded, commit, "a record decodes to its commit");
    let mut body = framed[FRAME..FRAME + body.len()].to_vec();
    damage.iter().for_each(|damage| damage.apply(&mut body));
    hostile::canonical(&body);
}

/// The canary: a decoder that forgets how long the key of a stored answer is kept.
fn forget_rule_of_response(commit: &mut Commit) {
    if let (Some(_), Some(key)) = (&commit.response, &mut commit.key) {
        key.kept = Kept::Forever;
    }
}

fn bare() -> Commit {
    Commit {
        commit: CommitNo(1),
        first: Position(1),
        time: Timestamp(0),
        label: String::new(),
        layouts: Vec::new(),
        key: None,
        response: None,
        events: Vec::new(),
        folds: Vec::new(),
        inline: None,
    }
}

/// A change of a body.
enum Damage {
    Byte { at: usize, is: u8 },
    Number { at: usize, is: u32 },
    Cut { at: usize },
    Repeat { from: usize, len: usize },
}

impl Damage {
    fn apply(&self, body: &mut Vec<u8>) {
        if body.is_empty() {
            return;
        }
        match *self {
            Self::Byte { at, is } => {
                let at = at % body.len();
                body[at] = is;
            }
            Self::Number { at, is } => {
                let at = at % body.len();
                body.iter_mut().skip(at).zip(is.to_le_bytes()).for_each(|(byte, is)| *byte = is);
            }
            Self::Cut { at } => body.truncate(at % body.len()),
            Self::Repeat { from, len } => {
                let from = from % body.len();
                let piece = body[from..(from + len).min(body.len())].to_vec();
                body.splice(from..from, piece);
            }
        }
    }
}

fn step(commit: &mut Commit, damage: &mut Vec<Damage>, draws: &mut Random) {
    match draws.below(32) {
        0 => commit.commit = CommitNo(1 + two_bytes(draws)),
        1 => commit.first = Position(1 + two_bytes(draws)),
        2 => commit.time = Timestamp(two_bytes(draws)),
        3 => commit.label = text(draws),
        4 => {
            let (type_name, layout) = (text(draws), text(draws));
            commit.layouts.push(LayoutDecl { type_name, schema: draws.below(256) as u16, layout });
        }
        5 => {
            let (scope, key) = (text(draws), text(draws));
            let (parts, kept) = (Vec::new(), Kept::Forever);
            commit.key = Some(KeyPart { scope, key, parts, digests: Digests::ByNames, kept });
        }
        6 => commit.response = Some(Payload { codec: draws.below(3) as u8, bytes: text(draws).into() }),
        7 => commit.folds.push(Fold { projection: draws.below(256) as u32, digest: two_bytes(draws) }),
        8 => {
            let inline = commit.inline.get_or_insert_default();
            inline.push(draws.below(256) as u32);
            inline.sort_unstable();
            inline.dedup();
        }
        9 => damage.push(Damage::Cut { at: two_bytes(draws) as usize }),
        10 => damage.push(Damage::Number { at: two_bytes(draws) as usize, is: two_bytes(draws) as u32 }),
        11 => {
            let (from, len) = (two_bytes(draws) as usize, draws.below(256) as usize);
            damage.push(Damage::Repeat { from, len });
        }
        12..16 => damage.push(Damage::Byte { at: two_bytes(draws) as usize, is: draws.below(256) as u8 }),
        16..20 => key_step(commit.key.as_mut(), draws),
        20..24 => event_step(commit.events.last_mut(), draws),
        _ => {
            let (type_name, stream) = (text(draws), text(draws));
            let (tags, data) = (Vec::new(), Vec::new());
            let event = StoredEvent { type_name, schema: 1, codec: 1, stream, stream_version: 1, tags, data };
            commit.events.push(event);
        }
    }
}

fn key_step(key: Option<&mut KeyPart>, draws: &mut Random) {
    let Some(key) = key else { return };
    match draws.below(4) {
        0 => key.digests = Digests::ByBytes,
        1 => key.kept = Kept::UntilTime(Timestamp(two_bytes(draws))),
        2 => key.kept = Kept::UntilKeys(two_bytes(draws)),
        _ => {
            let mut digest = [0; 16];
            draws.fill(&mut digest);
            key.parts.push((text(draws), digest));
        }
    }
}

fn event_step(event: Option<&mut StoredEvent>, draws: &mut Random) {
    let Some(event) = event else { return };
    match draws.below(4) {
        0 => event.tags.push(text(draws)),
        1 => (event.schema, event.codec) = (draws.below(256) as u16, draws.below(256) as u8),
        2 => event.stream_version = two_bytes(draws),
        _ => event.data.resize(draws.below(64) as usize, draws.below(256) as u8),
    }
}

/// Draws a name: empty, of several bytes for a character, or of 6 to 21 letters.
fn text(draws: &mut Random) -> String {
    match draws.below(8) {
        0 => String::new(),
        1 => "ü\u{10ffff}\0".to_owned(),
        letters => "family.Variant".chars().cycle().take(3 * letters as usize).collect(),
    }
}
