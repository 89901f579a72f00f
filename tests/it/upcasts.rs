//! Old events read by new code: steps from version to version, and what is refused instead of being misread.

use serde::{Deserialize, Serialize};
use std::path::Path;
use tallystone::error::{AppendError, OpenError, ReadError};
use tallystone::event::{Codec, Event, EventSet, Family, Raw, Tags, Upcasts};
use tallystone::prelude::{Append, FoldError, Folded, Projection, Query, QueryItem, Rows};
use tallystone::view::View;
use tallystone::{Setup, Store};

/// A family `course` with one stream; its steps, if it has any.
macro_rules! course {
    ($type:ty $(, $steps:expr)?) => {
        impl Event for $type {
            const FAMILY: &str = "course";
            type Id = ();
            fn id(&self) {}
            $(fn upcasts() -> Upcasts<Self> {
                $steps
            })?
        }
    };
}

// What a payload of `Defined` was, and is.

#[derive(Serialize, Deserialize)]
struct DefinedV1 {
    course: String,
}

#[derive(Serialize, Deserialize)]
struct DefinedV2 {
    course: String,
    seats: u32,
}

mod v1 {
    use super::*;
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub enum Course {
        Defined { course: String },
        Joined { student: String },
    }
    course!(Course);
}

mod v2 {
    use super::*;
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub enum Course {
        Joined { student: String },
        Defined { course: String, seats: u32 },
    }
    course!(
        Course,
        Upcasts::none()
            .last("Defined", 1, |old: DefinedV1| Course::Defined { course: old.course, seats: 30 })
    );
}

mod v3 {
    use super::*;
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub enum Course {
        Joined { student: String },
        Defined { course: String, capacity: u64, room: Option<String> },
    }
    course!(
        Course,
        Upcasts::none()
            .step("Defined", 1, |old: DefinedV1| DefinedV2 { course: old.course, seats: 30 })
            .last("Defined", 2, |old: DefinedV2| Course::Defined {
                course: old.course,
                capacity: old.seats.into(),
                room: None,
            })
    );
}

/// Seats by course, and students, as each version counts them.
macro_rules! seats {
    ($name:ident, $course:ty, $event:ident => $row:expr) => {
        struct $name;
        impl Projection for $name {
            const NAME: &str = "seats";
            type Event = $course;
            type Key = u32;
            type Row = u64;
            fn fold($event: &$course, rows: &mut Rows<'_, Self>) -> Folded {
                let (key, count): (u32, u64) = $row;
                rows.update(key, |seats| *seats += count)
            }
        }
    };
}
seats!(SeatsV1, v1::Course, event => match event {
    v1::Course::Defined { .. } => (0, 30),
    v1::Course::Joined { .. } => (1, 1),
});
seats!(SeatsV3, v3::Course, event => match event {
    v3::Course::Defined { capacity, .. } => (0, *capacity),
    v3::Course::Joined { .. } => (1, 1),
});

fn defined(course: &str) -> v1::Course {
    v1::Course::Defined { course: course.into() }
}

/// A directory with a store that holds these events, written with this setup.
fn written<E: EventSet>(setup: Setup, events: impl IntoIterator<Item = E>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::create(path(&dir), setup).expect("created");
    store.append(Append::events(events)).expect("appended");
    store.close();
    dir
}

fn path(dir: &tempfile::TempDir) -> std::path::PathBuf {
    dir.path().join("store")
}

fn by_v1() -> tempfile::TempDir {
    written(
        Setup::new().events::<v1::Course>(),
        [defined("knots"), v1::Course::Joined { student: "ana".into() }],
    )
}

fn open<E: EventSet>(path: &Path) -> Result<Store, OpenError> {
    Store::open(path, Setup::new().events::<E>())
}

fn all<E: EventSet>(view: &View) -> Vec<E> {
    view.query::<E>(Query::all()).map(|event| event.expect("readable").event).collect()
}

fn versions(view: &View) -> Vec<u16> {
    all::<Raw>(view).iter().map(Raw::schema).collect()
}

/// The sentences with which the code of `E` is refused.
fn refused<E: EventSet>(path: &Path) -> Vec<String> {
    match open::<E>(path) {
        Err(OpenError::Setup(wrong)) => wrong,
        Err(other) => panic!("refused otherwise: {other}"),
        Ok(_) => panic!("it was opened"),
    }
}

fn assert_says(wrong: &[String], expected: &[&str]) {
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    for part in expected {
        assert!(wrong[0].contains(part), "{part}: {}", wrong[0]);
    }
}

// ---- reading ----

#[test]
fn query_stream_fold_and_rebuild_apply_same_upcasts() {
    let dir = written(
        Setup::new().inline::<SeatsV1>(),
        [defined("knots"), v1::Course::Joined { student: "ana".into() }],
    );
    let store = open::<v2::Course>(&path(&dir)).expect("one step leads to it");
    store.append(Append::event(v2::Course::Defined { course: "sails".into(), seats: 8 })).expect("appended");
    store.close();

    let (knots, sails, ropes) = (
        v3::Course::Defined { course: "knots".into(), capacity: 30, room: None },
        v3::Course::Defined { course: "sails".into(), capacity: 8, room: None },
        v3::Course::Defined { course: "ropes".into(), capacity: 5, room: Some("2b".into()) },
    );
    let setup = || Setup::new().inline::<SeatsV3>();
    let store = Store::open(path(&dir), setup()).expect("two steps lead to it");
    store.append(Append::event(ropes.clone())).expect("appended");
    let joined = v3::Course::Joined { student: "ana".into() };
    let look = |store: &Store| {
        let view = store.view().expect("open");
        assert_eq!(all::<v3::Course>(&view), [knots.clone(), joined.clone(), sails.clone(), ropes.clone()]);
        let defined = view.query::<v3::Course>(QueryItem::family::<v3::Course>().only(["Defined"]));
        let defined: Vec<_> = defined.map(|event| event.expect("readable").event).collect();
        assert_eq!(defined, [knots.clone(), sails.clone(), ropes.clone()]);
        let stream: Vec<_> =
            view.stream::<v3::Course>(&()).map(|event| event.expect("readable").stream_version).collect();
        assert_eq!(stream, [1, 2, 3, 4], "one stream, whatever wrote it");
        assert_eq!(view.row::<SeatsV3>(&0).expect("a row"), Some(30 + 8 + 5));
        assert_eq!(view.row::<SeatsV3>(&1).expect("a row"), Some(1));
        assert_eq!(versions(&view), [1, 1, 2, 3], "the log keeps what was written");
        let report = store.verify().expect("verified");
        assert_eq!((report.first_bad, report.folded_otherwise), (None, None));
    };
    look(&store);
    store.close();

    std::fs::remove_file(path(&dir).join("state.redb")).expect("it is disposable");
    look(&Store::open(path(&dir), setup()).expect("rebuilt"));
}

#[test]
fn untyped_payload_is_shown_as_stored() {
    let dir = by_v1();
    let store = open::<v3::Course>(&path(&dir)).expect("opened");
    let course = v3::Course::Defined { course: "ropes".into(), capacity: 5, room: None };
    store.append(Append::event(course)).expect("appended");
    let view = store.view().expect("open");
    let shown: Vec<_> = view
        .query::<Raw>(QueryItem::family::<v3::Course>().only(["Defined"]))
        .map(|event| view.value(&event.expect("readable")).expect("it fits its own layout"))
        .map(|value| value.get("capacity").and_then(|capacity| capacity.as_u64()))
        .collect();
    assert_eq!(shown, [None, Some(5)]);
}

#[test]
fn type_version_is_last_step_plus_one() {
    let schemas: Vec<_> =
        Family::of::<v3::Course>().types().expect("sound").iter().map(|event| event.schema).collect();
    assert_eq!(schemas, [1, 3]);
    let event = v3::Course::Defined { course: "knots".into(), capacity: 1, room: None };
    assert_eq!(event.encode().expect("encoded").schema(), 3);
    assert_eq!(v3::Course::Joined { student: "bo".into() }.encode().expect("encoded").schema(), 1);
}

// ---- names that change with the payload ----

mod renamed {
    use super::*;
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub enum Course {
        #[serde(alias = "Defined")]
        Opened {
            course: String,
            capacity: u64,
        },
        Joined {
            student: String,
        },
    }
    course!(
        Course,
        Upcasts::none()
            .step("Defined", 1, |old: DefinedV1| DefinedV2 { course: old.course, seats: 30 })
            .last("Opened", 2, |old: DefinedV2| Course::Opened {
                course: old.course,
                capacity: old.seats.into()
            })
    );
}

/// Renamed before its payload changed: `Opened` is in the log at version 1 and 2 as well.
#[test]
fn renamed_variant_shares_chain_with_old_names() {
    #[derive(Serialize, Deserialize)]
    enum Renamed {
        #[serde(alias = "Defined")]
        Opened { course: String },
    }
    course!(Renamed);
    let dir = written(Setup::new().events::<v1::Course>(), [defined("knots")]);
    let store = open::<Renamed>(&path(&dir)).expect("an alias is no change");
    store.append(Append::event(Renamed::Opened { course: "sails".into() })).expect("appended");
    store.close();

    let store = open::<renamed::Course>(&path(&dir)).expect("opened");
    let last = renamed::Course::Opened { course: "ropes".into(), capacity: 5 };
    store.append(Append::event(last.clone())).expect("appended");
    let view = store.view().expect("open");
    let opened = |course: &str| renamed::Course::Opened { course: course.into(), capacity: 30 };
    assert_eq!(all::<renamed::Course>(&view), [opened("knots"), opened("sails"), last]);
    let stored: Vec<_> =
        all::<Raw>(&view).iter().map(|raw| format!("{} {}", raw.type_name(), raw.schema())).collect();
    assert_eq!(stored, ["course.Defined 1", "course.Opened 1", "course.Opened 3"]);
}

mod same {
    use super::*;
    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    pub enum Course {
        Defined { title: String, seats: u32 },
        Joined { student: String },
    }
    course!(
        Course,
        Upcasts::none()
            .step("Defined", 1, |old: DefinedV1| DefinedV2 { course: old.course, seats: 30 })
            .last("Defined", 2, |old: DefinedV2| Course::Defined { title: old.course, seats: old.seats })
            .same("Defined", 3)
            .same("Joined", 1)
    );
}

#[test]
fn renamed_fields_keep_their_bytes() {
    #[derive(Serialize, Deserialize)]
    enum Before {
        Defined { name: String, seats: u32 },
        Joined { student: String },
    }
    course!(
        Before,
        Upcasts::none()
            .last("Defined", 1, |old: DefinedV1| Before::Defined { name: old.course, seats: 30 })
            .last("Defined", 2, |old: DefinedV2| Before::Defined { name: old.course, seats: old.seats })
    );
    let dir = by_v1();
    let store = open::<Before>(&path(&dir)).expect("opened");
    store.append(Append::event(Before::Defined { name: "sails".into(), seats: 8 })).expect("appended");
    store.close();

    let store = open::<same::Course>(&path(&dir)).expect("opened");
    let found = all::<same::Course>(&store.view().expect("open"));
    let defined = |title: &str, seats| same::Course::Defined { title: title.into(), seats };
    let joined = same::Course::Joined { student: "ana".into() };
    assert_eq!(found, [defined("knots", 30), joined, defined("sails", 8)]);
}

/// Same bytes, and a name that moved: it would be read into the wrong field.
#[test]
fn same_step_refuses_swapped_fields() {
    #[derive(Serialize, Deserialize)]
    enum Before {
        Defined { from: String, to: String },
    }
    course!(Before);
    #[derive(Serialize, Deserialize)]
    enum Swapped {
        Defined { to: String, from: String },
    }
    course!(Swapped, Upcasts::none().same("Defined", 1));
    let event = Before::Defined { from: "a".into(), to: "b".into() };
    let dir = written(Setup::new().events::<Before>(), [event]);
    assert_says(&refused::<Swapped>(&path(&dir)), &["`course.Defined` (version 1)", "would misread it"]);
}

// ---- refused at open ----

#[test]
fn refusal_suggests_step_for_changed_field() {
    #[derive(Serialize, Deserialize)]
    enum Added {
        Defined {
            course: String,
            #[serde(default)]
            seats: u32,
        },
        Joined {
            student: String,
        },
    }
    course!(Added);
    let dir = by_v1();
    let line = "add an upcast step from 1: `.last(\"Defined\", 1, |old: DefinedV1| ..)`, where DefinedV1 is {course:str}";
    let wrong = refused::<Added>(&path(&dir));
    assert_says(&wrong, &["`course.Defined` (version 1)", line]);
    assert!(!wrong[0].contains(".same("), "a field more is not the same bytes: {}", wrong[0]);

    #[derive(Serialize, Deserialize)]
    enum Renamed {
        Defined { title: String },
        Joined { student: String },
    }
    course!(Renamed);
    assert_says(&refused::<Renamed>(&path(&dir)), &[".last(\"Defined\", 1,", "or `.same(\"Defined\", 1)`"]);
}

#[test]
fn code_older_than_log_is_refused() {
    let dir = by_v1();
    let store = open::<v2::Course>(&path(&dir)).expect("opened");
    store.append(Append::event(v2::Course::Defined { course: "sails".into(), seats: 8 })).expect("appended");
    store.close();
    let said = "event type `course.Defined` (version 2): this code knows version 1 and no later one";
    assert_says(&refused::<v1::Course>(&path(&dir)), &[said]);
    drop(open::<v2::Course>(&path(&dir)).expect("and nothing was changed by it"));
}

#[test]
fn refused_version_without_chain_names_step() {
    #[derive(Serialize, Deserialize)]
    enum Late {
        Defined { course: String, capacity: u64 },
        Joined { student: String },
    }
    course!(
        Late,
        Upcasts::none().last("Defined", 2, |old: DefinedV2| Late::Defined {
            course: old.course,
            capacity: old.seats.into()
        })
    );
    let dir = by_v1();
    let said = "(version 1): add the upcast step from 1: `.step(\"Defined\", 1, |old: DefinedV1| ..)`, where DefinedV1 is {course:str}";
    assert_says(&refused::<Late>(&path(&dir)), &[said]);

    let fresh =
        written(Setup::new().events::<v2::Course>(), [v2::Course::Defined { course: "a".into(), seats: 1 }]);
    drop(open::<Late>(&path(&fresh)).expect("what no store holds needs no step"));
}

#[test]
fn step_with_wrong_payload_is_refused() {
    #[derive(Serialize, Deserialize)]
    enum Mistaken {
        Defined { course: String, capacity: u64 },
        Joined { student: String },
    }
    course!(
        Mistaken,
        Upcasts::none().last("Defined", 1, |old: DefinedV2| Mistaken::Defined {
            course: old.course,
            capacity: old.seats.into()
        })
    );
    let wrong = refused::<Mistaken>(&path(&by_v1()));
    assert_says(
        &wrong,
        &["is {course:str} in the log", "{course:str,seats:u32} to the upcast step from 1", "misread"],
    );
}

#[test]
fn all_mismatched_versions_are_reported_together() {
    #[derive(Serialize, Deserialize)]
    enum Both {
        Defined { course: u8 },
        Joined { student: u8 },
    }
    course!(
        Both,
        Upcasts::none().last("Joined", 2, |old: DefinedV1| Both::Joined { student: old.course.len() as u8 })
    );
    let wrong = refused::<Both>(&path(&by_v1()));
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].contains("course.Defined") && wrong[1].contains("course.Joined"), "{wrong:?}");
}

/// One contradiction each, with what is said about it before any log is looked at.
#[test]
fn contradictory_chains_are_refused_at_open() {
    macro_rules! check {
        ($steps:expr, $expected:literal) => {{
            #[derive(Serialize, Deserialize)]
            enum Course {
                Defined {
                    course: String,
                },
                #[serde(alias = "Named")]
                Called,
            }
            course!(Course, $steps);
            #[allow(dead_code, reason = "a step that only some of the chains take")]
            fn one(old: DefinedV1) -> DefinedV2 {
                DefinedV2 { course: old.course, seats: 1 }
            }
            #[allow(dead_code, reason = "a step that only some of the chains take")]
            fn two(old: DefinedV2) -> Course {
                Course::Defined { course: old.course }
            }
            #[allow(dead_code, reason = "a step that only some of the chains take")]
            fn straight(old: DefinedV1) -> Course {
                Course::Defined { course: old.course }
            }
            let wrong = match Store::in_memory(Setup::new().events::<Course>()) {
                Err(OpenError::Setup(wrong)) => wrong,
                other => panic!("not refused: {other:?}"),
            };
            assert_says(&wrong, &["family `course`", $expected]);
        }};
    }
    check!(Upcasts::none().last("Defined", 0, straight), "from 0, versions are 1 to 65534");
    check!(Upcasts::none().last("Defined", u16::MAX, straight), "from 65535, versions are 1 to 65534");
    check!(
        Upcasts::none().last("Opened", 1, straight),
        "an upcast step from 1 is for `Opened`, the family has Defined, Called, Named"
    );
    check!(
        Upcasts::none().last("Defined", 1, straight).last("Defined", 1, straight),
        "`Defined` has two upcast steps from 1"
    );
    check!(
        Upcasts::none().last("Named", 1, straight).same("Called", 1),
        "`Named` has two upcast steps from 1"
    );
    check!(
        Upcasts::none().last("Defined", 3, two).last("Defined", 1, straight),
        "`Defined` has an upcast step from 3 and none from 2: add it"
    );
    check!(
        Upcasts::none().step("Defined", 1, one).last("Defined", 2, straight),
        "DefinedV2, and the step from 2 takes it::upcasts::DefinedV1"
    );
    check!(
        Upcasts::none().step("Defined", 1, one).same("Defined", 2),
        "DefinedV2, and no step leads on from there: end with `.last(\"Defined\", ..)`"
    );
    check!(
        Upcasts::none()
            .last("Called", 1, |(): ()| Course::Called)
            .last("Defined", 1, |old: Untraced| { Course::Defined { course: old.course } }),
        "`#[serde(skip_serializing_if)]` cannot be carried"
    );
}

#[derive(Serialize, Deserialize)]
struct Untraced {
    #[serde(skip_serializing_if = "String::is_empty")]
    course: String,
}

// ---- steps that fail ----

mod fragile {
    use super::*;
    #[derive(Serialize, Deserialize, Debug)]
    pub enum Course {
        Defined { course: String, long: bool },
        Joined { student: String },
    }
    course!(
        Course,
        Upcasts::none().last("Defined", 1, |old: DefinedV1| {
            assert!(old.course != "knots", "{} is not for us", old.course);
            Course::Defined { course: old.course, long: false }
        })
    );
}
seats!(SeatsFragile, fragile::Course, event => match event {
    fragile::Course::Defined { .. } => (0, 1),
    fragile::Course::Joined { .. } => (1, 1),
});

#[test]
fn panicking_step_makes_event_unreadable_and_stalls_projection() {
    let dir = written(Setup::new().events::<v1::Course>(), [defined("sails"), defined("knots")]);
    let setup = Setup::new().inline::<SeatsFragile>();
    let store = Store::open(path(&dir), setup).expect("a stalled projection never refuses the open");
    let view = store.view().expect("open");
    let why = "course.Defined: a panic on the way from version 1 to 2";
    let row = view.row::<SeatsFragile>(&0);
    assert!(
        matches!(&row, Err(ReadError::Stalled { projection: "seats", position, why: told }) if position.get() == 2 && told == why),
        "{row:?}"
    );
    let mut events = view.query::<fragile::Course>(Query::all());
    let error = loop {
        match events.next().expect("the second is not readable") {
            Ok(event) => assert_eq!(event.position.get(), 1),
            Err(error) => break error,
        }
    };
    let ReadError::Decode { position, cause } = &error else { panic!("{error:?}") };
    assert_eq!((position.get(), cause.to_string().as_str()), (2, why));
    assert_eq!(cause.said(), Some("knots is not for us"), "beside the message, which shows no payload");
    assert!(events.next().is_none());
    assert_eq!(all::<Raw>(&view).len(), 2, "the log is as readable as ever");

    let new = Append::event(fragile::Course::Joined { student: "bo".into() });
    assert!(matches!(store.append(new), Err(AppendError::Fold { projection: "seats", .. })));
    store.close();
    drop(Store::open(path(&dir), Setup::new().inline::<SeatsV3>()).expect("mended code goes through"));
}

/// A fold that refuses what a step made of an old event is a fold that fails.
#[test]
fn fold_refusing_upcast_event_stalls_projection() {
    struct Picky;
    impl Projection for Picky {
        const NAME: &str = "picky";
        type Event = v2::Course;
        type Key = ();
        type Row = u32;
        fn fold(event: &v2::Course, _: &mut Rows<'_, Self>) -> Folded {
            match event {
                v2::Course::Defined { seats: 30, .. } => Err(FoldError::refuse("thirty is a guess")),
                _ => Ok(()),
            }
        }
    }
    let dir = by_v1();
    let store = Store::open(path(&dir), Setup::new().inline::<Picky>()).expect("opened");
    let row = store.view().expect("open").row::<Picky>(&());
    assert!(
        matches!(&row, Err(ReadError::Stalled { position, why, .. }) if position.get() == 1 && why == "thirty is a guess"),
        "{row:?}"
    );
}

// ---- raw events ----

fn raw(type_name: &str, schema: u16, codec: Codec, data: &[u8]) -> Raw {
    Raw::new(type_name, schema, codec, "course/", Tags::none(), data.to_vec())
}

#[test]
fn raw_event_is_accepted_in_readable_versions_only() {
    let old = defined("knots").encode().expect("encoded");
    let store = Store::in_memory(Setup::new().events::<v3::Course>()).expect("opened");
    store.append(Append::raw(old)).expect("an import of what an older version wrote");
    let view = store.view().expect("open");
    assert_eq!(
        all::<v3::Course>(&view),
        [v3::Course::Defined { course: "knots".into(), capacity: 30, room: None }]
    );
    let layout = view.layout("course.Defined", 1).expect("declared as it was written");
    assert_eq!(layout.to_string(), "{course:str}");

    for codec in [Codec::Bincode, Codec::Json] {
        let error = store.append(Append::raw(raw("course.Defined", 4, codec, b"{}"))).expect_err("unknown");
        let AppendError::Unregistered(missing) = &error else { panic!("{error:?}") };
        assert_eq!(missing.what, "event type `course.Defined` (version 4)");
        assert!(missing.add.starts_with("this code knows version 3"), "{missing}");
    }
}

mod json {
    use super::*;
    use serde_json::json;

    fn imported(payload: &serde_json::Value) -> Raw {
        Raw::json("course.Defined", "course/", Tags::none(), payload)
    }

    /// Read as version 1, the seats that were said would be lost.
    #[test]
    fn json_is_upcast_from_recorded_version() {
        let dir = by_v1();
        let store = open::<v1::Course>(&path(&dir)).expect("opened");
        store.append(Append::raw(imported(&json!({"course": "first"})))).expect("appended");
        store.close();
        let store = open::<v2::Course>(&path(&dir)).expect("opened");
        let second = json!({"course": "second", "seats": 8});
        store.append(Append::raw(imported(&second))).expect("appended");
        let told = raw("course.Defined", 1, Codec::Json, br#"{"course": "told"}"#);
        store.append(Append::raw(told)).expect("its version was said");
        store.close();

        let store = open::<v3::Course>(&path(&dir)).expect("opened");
        let view = store.view().expect("open");
        let course = |name: &str, capacity| v3::Course::Defined { course: name.into(), capacity, room: None };
        let found: Vec<_> = all::<v3::Course>(&view).into_iter().skip(2).collect();
        assert_eq!(found, [course("first", 30), course("second", 8), course("told", 30)]);
        assert_eq!(versions(&view)[2..], [1, 2, 1]);
        let stored = view.query::<Raw>(Query::all()).nth(3).expect("the second").expect("readable");
        assert_eq!(view.value(&stored).expect("json").to_json(), second);
    }

    #[test]
    fn json_of_later_version_is_unreadable() {
        let dir = by_v1();
        let store = open::<v2::Course>(&path(&dir)).expect("opened");
        store.append(Append::raw(imported(&json!({"course": "second", "seats": 8})))).expect("appended");
        store.close();
        let store = open::<v1::Course>(&path(&dir)).expect("no layout in the log says otherwise");
        let view = store.view().expect("open");
        let error = view.query::<v1::Course>(Query::all()).find_map(Result::err).expect("it is not read");
        let ReadError::Decode { position, cause } = &error else { panic!("{error:?}") };
        assert_eq!(position.get(), 3);
        assert_eq!(cause.to_string(), "course.Defined: written with schema 2, this code knows 1");
    }

    #[test]
    fn json_step_mismatch_error_hides_content() {
        let event = raw("course.Defined", 1, Codec::Json, br#"{"curse": "secret"}"#);
        let error = v3::Course::decode(&event.borrowed()).expect_err("no course");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.to_string().starts_with("course.Defined: the json does not fit the type"), "{error}");
    }

    #[test]
    fn json_of_unregistered_family_has_version_one() {
        let store = Store::in_memory(Setup::new()).expect("opened");
        let event = Raw::json("other.Thing", "other/1", Tags::none(), &json!(null));
        assert_eq!(event.schema(), 0);
        store.append(Append::raw(event)).expect("it describes itself");
        assert_eq!(versions(&store.view().expect("open")), [1]);
    }
}
