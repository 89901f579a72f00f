//! Items ORed, types ORed within, tags ANDed; what cannot be asked is told.

use super::*;
use crate::event::Tags;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
enum Course {
    Defined {
        course: String,
    },
    #[serde(alias = "Enrolled")]
    Joined {
        course: String,
    },
    Left {
        course: String,
    },
}
impl Event for Course {
    const FAMILY: &str = "course";
    type Id = String;
    fn id(&self) -> String {
        let (Course::Defined { course } | Course::Joined { course } | Course::Left { course }) = self;
        course.clone()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    A { a: u8 },
}
impl Event for Untagged {
    const FAMILY: &str = "untagged";
    type Id = ();
    fn id(&self) {}
}

fn check(query: impl Into<Query>, (type_name, stream, tags): (&str, &str, &[&str]), expected: bool) {
    let query = query.into();
    let tags = tags.iter().fold(Tags::none(), |tags, tag| tags.and_text(*tag));
    assert_eq!(matches(&query, type_name, stream, tags.borrowed()), expected, "{query} of {type_name}");
}

const JOINED: (&str, &str, &[&str]) = ("course.Joined", "course/c1", &["course:c1", "student:bo"]);
const OLD: (&str, &str, &[&str]) = ("course.Enrolled", "course/c2", &["student:bo"]);
const OTHER: (&str, &str, &[&str]) = ("card.Signed", "card/1", &[]);

#[test]
fn query_matching_follows_dcb_specification() {
    let family = QueryItem::family::<Course>;
    for (event, expected) in [(JOINED, true), (OLD, true), (OTHER, false)] {
        check(family(), event, expected);
        check(Query::all(), event, true);
        check([], event, false);
        check(QueryItem::tag("student", "bo"), event, expected);
        check(QueryItem::tagged("student:bo"), event, expected);
    }
    check(family().and_tag("course", "c1"), JOINED, true);
    check(family().and_tag("course", "c1"), OLD, false);
    check(QueryItem::tag("student", "bo").and_tag("course", "c1"), OLD, false);
    check(QueryItem::stream::<Course>("c1"), JOINED, true);
    check(QueryItem::stream::<Course>("c1"), OLD, false);
    check(QueryItem::stream_named("card/1"), OTHER, true);
    check(QueryItem::types(["card.Signed", "x.Y"]), OTHER, true);
    check(Query::from(QueryItem::stream::<Course>("c1")).or(QueryItem::types(["card.Signed"])), OTHER, true);
    check(QueryItem::stream_named("course/c1").and_tagged("student:ana"), JOINED, false);
}

#[test]
fn only_selects_variants_by_any_name() {
    for name in ["Joined", "Enrolled"] {
        let joined = QueryItem::family::<Course>().only([name]);
        assert_eq!(joined.type_names().len(), 2);
        check(joined.clone(), JOINED, true);
        check(joined.clone(), OLD, true);
        check(joined, ("course.Left", "course/c1", &[]), false);
    }
}

#[test]
fn unknown_variant_error_lists_known_names() {
    let query = Query::from(QueryItem::family::<Course>().only(["Joined", "Joind"]));
    let Err(BadQuery::NoSuchType { name, known }) = query.check() else { panic!("not refused") };
    assert_eq!((name.as_str(), known.len()), ("Joind", 4));
    check(query, JOINED, false);
    for nothing in [
        QueryItem::tag("a", 1).only(["Joined"]),
        QueryItem::types::<String>([]),
        QueryItem::family::<Course>().only([]),
    ] {
        assert_eq!(Query::from(nothing.clone()).check(), Err(BadQuery::NoTypes));
        check(nothing, JOINED, false);
    }
    let untagged = Query::from(QueryItem::family::<Untagged>());
    assert!(untagged.check().unwrap_err().to_string().contains("untagged"));
    check(untagged, JOINED, false);
}

#[test]
fn query_keeps_range_limit_and_direction() {
    let query = Query::all().after(Position(2)).up_to(Position(4)).limit(9).backwards();
    assert_eq!(query.range(), (Position(2), Some(Position(4))));
    assert_eq!((query.limit_events(), query.is_backwards(), query.is_all()), (Some(9), true, true));
}
