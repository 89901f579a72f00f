//! Records: one meaning, one spelling, and nothing else decodes.

use super::super::hostile;
use super::super::record::{
    Commit, Digests, Fold, Kept, KeyPart, LayoutDecl, Payload, Record, StoredEvent, check,
};
use super::STORE;
use crate::order::{CommitNo, Position, Timestamp};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z/:. é]{0,12}", any::<String>()]
}

fn event() -> impl Strategy<Value = StoredEvent> {
    let tags = vec(text(), 0..4);
    (text(), any::<u16>(), any::<u8>(), text(), any::<u64>(), tags, vec(any::<u8>(), 0..40)).prop_map(
        |(type_name, schema, codec, stream, stream_version, tags, data)| StoredEvent {
            type_name,
            schema,
            codec,
            stream,
            stream_version,
            tags,
            data,
        },
    )
}

fn key() -> impl Strategy<Value = KeyPart> {
    let kept = prop_oneof![
        Just(Kept::Forever),
        any::<u64>().prop_map(|time| Kept::UntilTime(Timestamp(time))),
        any::<u64>().prop_map(Kept::UntilKeys),
    ];
    let digests = prop_oneof![Just(Digests::ByBytes), Just(Digests::ByNames)];
    (text(), text(), vec((text(), any::<[u8; 16]>()), 0..3), digests, kept)
        .prop_map(|(scope, key, parts, digests, kept)| KeyPart { scope, key, parts, digests, kept })
}

fn layout() -> impl Strategy<Value = LayoutDecl> {
    (text(), any::<u16>(), text()).prop_map(|(type_name, schema, layout)| LayoutDecl {
        type_name,
        schema,
        layout,
    })
}

fn commit() -> impl Strategy<Value = Commit> {
    let numbers = (1..u64::MAX / 2, 1..u64::MAX / 2, any::<u64>());
    let response = option::of(
        (any::<u8>(), vec(any::<u8>(), 0..20)).prop_map(|(codec, bytes)| Payload { codec, bytes }),
    );
    let fold = (any::<u32>(), any::<u64>()).prop_map(|(projection, digest)| Fold { projection, digest });
    let inline = option::of(btree_set(any::<u32>(), 0..3).prop_map(Vec::from_iter));
    let folded = (vec(fold, 0..3), inline);
    let parts = (text(), vec(layout(), 0..3), option::of(key()), response, vec(event(), 0..4), folded);
    (numbers, parts).prop_map(|((commit, first, time), (label, layouts, key, response, events, folded))| {
        let (folds, inline) = folded;
        Commit {
            commit: CommitNo(commit),
            first: Position(first),
            time: Timestamp(time),
            label,
            layouts,
            key,
            response,
            events,
            folds,
            inline,
        }
    })
}

fn framed(commit: &Commit) -> Vec<u8> {
    let mut framed = Vec::new();
    commit.encode_into(STORE, &mut framed);
    framed
}

proptest! {
    #[test]
    fn a_commit_survives_its_encoding(commit in commit()) {
        let framed = framed(&commit);
        prop_assert_eq!(framed.len() % 8, 0);
        let (body, rest) = check(STORE, &framed).unwrap();
        prop_assert!(rest.is_empty());
        let record = Record::decode(body).unwrap();
        prop_assert_eq!((record.commit(), record.last()), (commit.commit, commit.last()));
        prop_assert_eq!(record.events().count(), record.fixed.events as usize);
        let positions: Vec<u64> = record.events().map(|event| event.position.0).collect();
        prop_assert_eq!(positions, (commit.first.0..=commit.last().0).collect::<Vec<_>>());
        prop_assert_eq!(record.to_commit(), commit);
    }

    #[test]
    fn damaged_body_is_refused_or_canonical(commit in commit(), at: prop::sample::Index, byte: u8, cut: bool) {
        let framed = framed(&commit);
        let mut body = check(STORE, &framed).unwrap().0.to_vec();
        let at = at.index(body.len());
        if cut { body.truncate(at) } else { body[at] = byte }
        hostile::canonical(&body);
    }

    #[test]
    fn any_bytes_are_refused_or_canonical(bytes in vec(any::<u8>(), 0..200)) {
        hostile::canonical(&bytes);
        let _ = check(STORE, &bytes);
    }

    #[test]
    fn arbitrary_sections_are_refused_or_canonical(
        events in 0u32..3,
        sections in vec((0u8..9, vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..30)), 0..5),
    ) {
        let mut body = [1u64, 1, 1].map(u64::to_le_bytes).concat();
        body.extend(events.to_le_bytes());
        for (kind, content) in sections {
            body.push(kind);
            body.extend((content.len() as u32).to_le_bytes());
            body.extend(content);
        }
        hostile::canonical(&body);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn flipped_bit_in_framed_record_is_refused(commit in commit()) {
        let framed = framed(&commit);
        for bit in 0..framed.len() * 8 {
            let mut flipped = framed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(check(STORE, &flipped).is_err(), "bit {}", bit);
        }
    }
}

#[test]
fn record_of_other_store_is_refused() {
    let framed = framed(&super::commit(&super::Head::empty(STORE), 2, 4));
    assert!(check(super::StoreId([1; 16]), &framed).is_err());
}

fn refused(change: impl FnOnce(&mut Vec<u8>)) -> &'static str {
    let framed = framed(&super::commit(&super::Head::empty(STORE), 1, 12));
    let mut body = check(STORE, &framed).unwrap().0.to_vec();
    change(&mut body);
    Record::decode(&body).unwrap_err().what
}

#[test]
fn unknown_section_is_refused_not_skipped() {
    let what = refused(|body| body.extend([10, 1, 0, 0, 0, 42]));
    assert_eq!(what, "unknown section, of a later version");
    let what = refused(|body| body.extend([9, 1, 0, 0, 0, 42]));
    assert_eq!(what, "unknown digests, of a later version");
}

#[test]
fn inline_projections_have_one_spelling() {
    let inline = |content: &[u8]| {
        refused(|body| {
            body.extend([8, content.len() as u8, 0, 0, 0]);
            body.extend(content);
        })
    };
    for wrong in [&[2, 0, 1, 0, 0, 0, 1, 0, 0, 0][..], &[2, 0, 2, 0, 0, 0, 1, 0, 0, 0], &[0, 0, 7]] {
        assert_eq!(inline(wrong), "no rising list of projections");
    }
    assert_eq!(inline(&[1, 0, 7]), "ends too early");
}

#[test]
fn key_retention_rule_has_one_encoding() {
    let rule = |rule: u8, more: &[u8]| {
        let content = [&[rule][..], &[9, 0, 0, 0, 0, 0, 0, 0], more].concat();
        [&[7, content.len() as u8, 0, 0, 0][..], &content].concat()
    };
    assert_eq!(refused(|body| body.extend(rule(0, &[]))), "unknown rule for a key, of a later version");
    assert_eq!(refused(|body| body.extend(rule(3, &[]))), "unknown rule for a key, of a later version");
    assert_eq!(refused(|body| body.extend(rule(1, &[0]))), "more than a rule");
    let keyless = [&[1u64, 1, 1].map(u64::to_le_bytes).concat()[..], &[0; 4], &rule(1, &[])].concat();
    assert_eq!(Record::decode(&keyless).unwrap_err().what, "no key to be kept");
}

#[test]
fn section_out_of_order_is_refused() {
    assert_eq!(refused(|body| body.extend([6, 1, 0, 0, 0, 42])), "section out of order");
}

#[test]
fn trailing_bytes_are_refused() {
    assert_eq!(refused(|body| body.push(9)), "ends too early");
    assert_eq!(refused(|body| body.extend([9, 0, 0, 0, 0])), "empty section");
}

#[test]
fn hostile_length_is_refused_without_allocating() {
    assert_eq!(refused(|body| body[29..33].copy_from_slice(&[0xff; 4])), "length past the end");
    assert_eq!(refused(|body| body[24..28].copy_from_slice(&[0xff; 4])), "ends too early");
}
