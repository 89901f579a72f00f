//! What the DCB specification says a compliant store must do, each sentence a test.
//! Source: the Dynamic Consistency Boundary specification, dcb.events.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use tallystone::prelude::*;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Course {
    Defined { course: String },
    Joined { course: String, student: String },
    Left { course: String, student: String },
}

impl Event for Course {
    const FAMILY: &str = "course";
    type Id = String;

    fn id(&self) -> String {
        let (Course::Defined { course } | Course::Joined { course, .. } | Course::Left { course, .. }) = self;
        course.clone()
    }

    fn tags(&self) -> Tags {
        match self {
            Course::Defined { course } => Tags::of("course", course),
            Course::Joined { course, student } | Course::Left { course, student } => {
                Tags::of("course", course).and("student", student)
            }
        }
    }
}

fn joined(course: &str, student: &str) -> Course {
    Course::Joined { course: course.into(), student: student.into() }
}

fn left(course: &str, student: &str) -> Course {
    Course::Left { course: course.into(), student: student.into() }
}

fn store() -> Store {
    let store = Store::in_memory(Setup::new().events::<Course>()).expect("a store in memory opens");
    for event in [
        Course::Defined { course: "c1".into() },
        Course::Defined { course: "c2".into() },
        joined("c1", "ana"),
        joined("c1", "bo"),
        joined("c2", "ana"),
        left("c1", "ana"),
    ] {
        store.append(Append::event(event)).expect("nothing refuses it");
    }
    store
}

fn at(store: &Store, query: impl Into<Query>) -> Vec<u64> {
    let view = store.view().expect("the store is open");
    view.query::<Raw>(query).map(|event| event.expect("events can be read").position.get()).collect()
}

fn family() -> QueryItem {
    QueryItem::family::<Course>()
}

#[test]
fn query_filters_by_type_and_tags() {
    let store = store();
    assert_eq!(at(&store, family().only(["Joined"])), [3, 4, 5]);
    assert_eq!(at(&store, family().only(["Joined", "Left"])), [3, 4, 5, 6], "types are ORed");
    assert_eq!(at(&store, QueryItem::tag("student", "ana")), [3, 5, 6]);
    assert_eq!(
        at(&store, QueryItem::tag("student", "ana").and_tag("course", "c1")),
        [3, 6],
        "tags are ANDed"
    );
    assert_eq!(at(&store, family().only(["Joined"]).and_tag("student", "ana").and_tag("course", "c1")), [3]);
    assert_eq!(at(&store, QueryItem::types(["course.Left"])), [6]);
    assert_eq!(at(&store, QueryItem::stream::<Course>("c2")), [2, 5]);
    assert_eq!(at(&store, QueryItem::tag("student", "nobody")), [0; 0]);
}

#[test]
fn query_items_are_ored_without_duplicates() {
    let store = store();
    let query = Query::from(QueryItem::tag("student", "ana")).or(family().only(["Joined"]));
    assert_eq!(at(&store, query.clone()), [3, 4, 5, 6]);
    assert_eq!(at(&store, query.clone().backwards()), [6, 5, 4, 3]);
    assert_eq!(at(&store, query.clone().backwards().limit(2)), [6, 5]);
    assert_eq!(at(&store, query.clone().after(Position::new(3)).limit(2)), [4, 5]);
    assert_eq!(at(&store, query.up_to(Position::new(4))), [3, 4]);
    assert_eq!(at(&store, Query::all()), [1, 2, 3, 4, 5, 6]);
    assert_eq!(at(&store, Query::all().backwards().limit(1)), [6]);
    assert_eq!(at(&store, Query::from([])), [0; 0], "a query without an item matches nothing");
}

#[test]
fn append_fails_on_match_after_position() {
    let store = store();
    let bo = || QueryItem::tag("student", "bo");
    let append = |after| store.append(Append::event(joined("c2", "bo")).fail_if_events_match(bo(), after));
    for (after, refused) in
        [(None, true), (Some(0), true), (Some(3), true), (Some(4), false), (Some(7), false)]
    {
        let answer = append(after.map(Position::new));
        match refused {
            true => {
                let named = |position: &Position, stream: &str| position.get() == 4 && stream == "course/c1";
                let conflict = matches!(&answer, Err(AppendError::Conflict(by))
                    if named(&by.position, &by.stream) && by.type_name == "course.Joined");
                assert!(conflict, "after {after:?}: {answer:?}");
            }
            false => drop(answer.unwrap_or_else(|error| panic!("after {after:?}: {error}"))),
        }
    }
    let beyond = append(Some(Position::new(1000)));
    assert!(matches!(beyond, Err(AppendError::BeyondHead { .. })), "{beyond:?}");
    assert_eq!(at(&store, bo()), [4, 7, 8], "refused appends left nothing");
}

#[test]
fn positions_are_unique_rising_and_gapless() {
    let store = store();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..50 {
                    let append = Append::event(joined("c1", &format!("{thread}-{n}"))).and(left("c1", "x"));
                    store.append(append).expect("nothing refuses it");
                }
            });
        }
    });
    let all = at(&store, Query::all());
    assert_eq!(all, (1..=6 + 8 * 50 * 2).collect::<Vec<u64>>());
}

#[test]
fn an_append_is_atomic() {
    let store = store();
    let two = Append::event(joined("c1", "cy")).and(Course::Defined { course: "c3".into() });
    let refused = store.append(two.fail_if_events_match(QueryItem::tag("student", "bo"), None));
    assert!(matches!(refused, Err(AppendError::Conflict(_))));
    assert_eq!(at(&store, Query::all()).len(), 6);
    assert!(matches!(store.append(Append::events(Vec::<Course>::new())), Err(AppendError::Invalid { .. })));
}

#[test]
fn condition_sees_events_of_same_group() {
    // Many threads claim one of few names: whatever groups they fall into, each name has one owner.
    let store = Store::in_memory(Setup::new().events::<Course>()).expect("a store in memory opens");
    let owners = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (store, owners) = (&store, &owners);
            scope.spawn(move || {
                for name in 0..50 {
                    let claim = Append::event(joined(&format!("c{name}"), &format!("{thread}")));
                    let taken = QueryItem::tag("course", format!("c{name}"));
                    match store.append(claim.fail_if_events_match(taken, None)) {
                        Ok(_) => drop(owners.fetch_add(1, Ordering::Relaxed)),
                        Err(AppendError::Conflict(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert_eq!(owners.into_inner(), 50);
    assert_eq!(at(&store, Query::all()).len(), 50);
}

#[test]
fn no_event_appears_below_one_seen() {
    let store = Store::in_memory(Setup::new().events::<Course>()).expect("a store in memory opens");
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..200 {
                        store
                            .append(Append::event(joined("c1", &format!("{thread}-{n}"))))
                            .expect("appended");
                    }
                })
            })
            .collect();
        let mut seen = Vec::new();
        while !writers.iter().all(|writer| writer.is_finished()) || seen.len() < 800 {
            let now = at(&store, QueryItem::tag("course", "c1"));
            assert!(now.starts_with(&seen), "what was seen stays where it was");
            seen = now;
        }
    });
}

#[test]
fn unknown_type_in_family_is_refused() {
    let store = store();
    let view = store.view().expect("the store is open");
    let mut misspelt = view.query::<Course>(family().only(["Join"]));
    let error = misspelt.next().expect("an answer").expect_err("no such type");
    assert!(matches!(&error, ReadError::NoSuchType { name, .. } if name == "Join"), "{error}");
    assert!(misspelt.next().is_none(), "after an error there is no further item");
    let refused =
        store.append(Append::event(joined("c1", "x")).fail_if_events_match(family().only(["Join"]), None));
    assert!(matches!(refused, Err(AppendError::Invalid { what: "condition", .. })), "{refused:?}");
}

#[test]
fn all_events_condition_holds_until_next_append() {
    let store = Store::in_memory(Setup::new().events::<Course>()).unwrap();
    for count in 0..3 {
        let after = store.view().unwrap().position();
        let append = || Append::event(joined("c1", "ana")).fail_if_events_match(Query::all(), Some(after));
        store.append(append()).unwrap_or_else(|error| panic!("{count}: {error}"));
        assert!(matches!(store.append(append()), Err(AppendError::Conflict(_))), "something came since");
    }
}
