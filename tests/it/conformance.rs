//! The example that judges logs of other systems, run as a program: killed at any moment and started again it says the same, and
//! what it says is what brute force says, and the oracles of the real logs.
//!
//! - What is compared is the document on standard output. What it does meanwhile it says on standard error, line by line: a test
//!   kills it behind one of these lines.
//! - The real logs are not part of the project; see `naive::data`.

use crate::naive::random::{Random, Shape, random_def, random_log};
use crate::naive::{Cases, Def, Event, Mode, Selector, data, judge};
use crate::support::example::example;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

// ---- the program ----

/// How it is called, but for where its store is.
struct Call {
    log: PathBuf,
    spec: PathBuf,
    mode: Mode,
    live: bool,
}

impl Call {
    fn command(&self, store: Option<&Path>) -> Command {
        let mut command = Command::new(example("conformance"));
        let mode = if self.mode == Mode::Open { "open" } else { "closed" };
        command.arg("--log").arg(&self.log).arg("--spec").arg(&self.spec).args(["--mode", mode]);
        if self.live {
            command.arg("--live");
        }
        if let Some(store) = store {
            command.arg("--store").arg(store);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    fn document(&self, store: Option<&Path>) -> Value {
        let ended = self.command(store).output().expect("it starts");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{}\n{said}", ended.status);
        serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"))
    }

    /// Runs it until it has said so many lines that begin like this, and kills it. `false`: it came to its end before.
    fn killed(&self, store: &Path, says: &str, times: usize) -> bool {
        let mut child = self.command(Some(store)).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let heard = lines.by_ref().map_while(Result::ok).filter(|line| line.starts_with(says));
        let heard = heard.take(times).count();
        child.kill().expect("it is ours");
        // A pipe that nobody reads would hold it up, if it were not dead.
        drop(lines);
        let mut document = String::new();
        child.stdout.take().expect("it is piped").read_to_string(&mut document).expect("a pipe is read");
        let status = child.wait().expect("it ends");
        assert!(status.success() || status.signal() == Some(9), "{status} after {heard} times `{says}`");
        status.signal() == Some(9)
    }
}

// ---- what it is given, and must say ----

/// Figures of a constraint, from the document, brute force or an oracle.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Figures {
    activations: u64,
    satisfied: u64,
    violated: u64,
    pending: u64,
    cases_violated: u64,
    violations_sha256: String,
}

fn figures(document: &Value) -> Vec<Figures> {
    let constraints = document["constraints"].as_array().expect("a list");
    let figures = constraints.iter().map(|one| serde_json::from_value(one.clone()).expect("figures"));
    figures.collect()
}

/// Times of logs begin here: in 2001.
const BEGIN_MS: i64 = 1_000_000_000_000;

fn line((seq, event): (usize, &Event)) -> String {
    let ts = written(BEGIN_MS + event.ts);
    let Event { case, idx, kind, attrs, .. } = event;
    json!({ "seq": seq, "case": case, "idx": idx, "type": kind, "ts": ts, "attrs": attrs }).to_string()
}

/// A time as logs have it; read back to see that it is.
fn written(millis: i64) -> String {
    let (days, of_day) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (mut year, mut rest) = (1970, days);
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while rest >= 365 + i64::from(is_leap(year)) {
        rest -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for (index, days) in [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate() {
        let days = days + i64::from(index == 1 && is_leap(year));
        if rest < days {
            month = index + 1;
            break;
        }
        rest -= days;
    }
    let (seconds, part) = (of_day / 1000, of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let text = format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{part:03}Z", rest + 1);
    assert_eq!(data::milliseconds(&text), Some(millis), "{text}");
    text
}

fn selector(given: &Selector) -> Value {
    match given {
        Selector::Type(kind) => json!(kind),
        Selector::Any(all) => Value::Array(all.iter().map(selector).collect()),
        Selector::Where(of) => {
            let mut out = Map::from_iter([("attr".to_owned(), Value::Object(of.attr.clone()))]);
            out.extend(of.kind.as_ref().map(|kind| ("type".to_owned(), json!(kind))));
            Value::Object(out)
        }
    }
}

fn constraint(def: &Def) -> Value {
    let mut template = String::new();
    for character in format!("{:?}", def.template).chars() {
        if character.is_uppercase() && !template.is_empty() {
            template.push('_');
        }
        template.extend(character.to_lowercase());
    }
    let mut out = json!({ "id": def.id, "template": template, "corr": def.corr });
    let window = def.window.map(|window| json!([window.lo, window.hi]));
    let (a, b, c) = (def.a.as_ref(), def.b.as_ref(), def.c.as_ref());
    for (field, given) in [
        ("A", a.map(selector)),
        ("B", b.map(selector)),
        ("C", c.map(selector)),
        ("n", def.n.map(Value::from)),
        ("for", def.lasting.map(Value::from)),
        ("window", window),
    ] {
        if let Some(given) = given {
            out[field] = given;
        }
    }
    out
}

fn by_force(log: &[Event], defs: &[Def], mode: Mode) -> Vec<Figures> {
    let cases = Cases::of(log);
    let of = |def: &Def| {
        let verdicts = judge(&cases, def, mode);
        Figures {
            activations: verdicts.activations as u64,
            satisfied: verdicts.satisfied as u64,
            violated: verdicts.violated as u64,
            pending: verdicts.pending as u64,
            cases_violated: verdicts.cases_violated as u64,
            violations_sha256: verdicts.sha256(),
        }
    };
    defs.iter().map(of).collect()
}

/// A log and constraints by chance, in files.
fn generated(dir: &Path, seed: u64, events: usize) -> (PathBuf, PathBuf, Vec<Event>, Vec<Def>) {
    let mut random = Random::new(seed);
    let log = random_log(random.next(), Shape { events, cases: events / 25, late: 30 });
    let defs: Vec<Def> =
        (0..12).map(|index| Def { id: format!("C{index:02}"), ..random_def(random.next()) }).collect();
    let (log_file, spec_file) = (dir.join("log.jsonl"), dir.join("spec.json"));
    std::fs::write(&log_file, log.iter().enumerate().map(line).collect::<Vec<_>>().join("\n") + "\n")
        .expect("there is room");
    let constraints: Vec<_> = defs.iter().map(constraint).collect();
    let spec = json!({ "unbounded": true, "constraints": constraints });
    std::fs::write(&spec_file, spec.to_string()).expect("there is room");
    (log_file, spec_file, log, defs)
}

// ---- what is shown ----

/// A log of one event at this time, and a spec.
fn one_event(dir: &Path, name: &str, case: &str, ts: &str) -> Call {
    let (log, spec) = (dir.join(format!("{name}.jsonl")), dir.join("spec.json"));
    let line = json!({ "seq": 0, "case": case, "idx": 0, "type": "a", "ts": ts, "attrs": {} });
    std::fs::write(&log, format!("{line}\n")).expect("written");
    std::fs::write(&spec, r#"{"constraints":[{"id":"one","template":"absence","A":"a","n":2}]}"#)
        .expect("written");
    Call { log, spec, mode: Mode::Open, live: false }
}

fn could_not_run(command: &mut Command) -> String {
    let ended = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!((ended.status.code(), ended.stdout.len()), (Some(2), 0), "{said}");
    let last = said.lines().last().and_then(|line| line.strip_prefix("conformance: could not run: "));
    last.unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn impossible_date_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    for ts in ["2024-02-29T23:59:59.999Z", "2000-02-29T00:00:00Z", "1969-12-31T23:59:59.9Z"] {
        one_event(dir.path(), "log", "1", ts).document(None);
    }
    for ts in [
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2023-04-31T00:00:00Z",
        "2023-13-01T00:00:00Z",
        "2023-00-01T00:00:00Z",
        "2023-01-00T00:00:00Z",
        "2023-01-01T24:00:00Z",
        "2023-01-01T00:60:00Z",
        "2023-01-01T00:00:60Z",
        "2023-01-01T00:00:-1Z",
        "2023-01-01T+1:00:00Z",
        "2023-01-01T00:00:00.+1Z",
        "2023-01-01T00:00:00",
        "2023-01-01",
        "-2023-01-01T00:00:00Z",
        "",
    ] {
        let said = could_not_run(&mut one_event(dir.path(), "log", "1", ts).command(None));
        assert!(said.ends_with(&format!("log.jsonl, line 1: there is no such time: {ts}")), "{said}");
    }
}

#[test]
fn store_of_another_log_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, time) = (dir.path().join("store"), "2024-01-01T00:00:00Z");
    let first = one_event(dir.path(), "first", "1", time);
    let document = first.document(Some(&store));
    assert_eq!(first.document(Some(&store)), document, "it goes on from what is there");
    let said = could_not_run(&mut one_event(dir.path(), "other", "2", time).command(Some(&store)));
    assert!(said.contains("another log: line 1"), "{said}");
    let empty = one_event(dir.path(), "empty", "1", time);
    std::fs::write(&empty.log, "").expect("written");
    let said = could_not_run(&mut empty.command(Some(&store)));
    assert!(said.contains("more events than the log"), "{said}");
    let closed = Call { mode: Mode::Closed, ..one_event(dir.path(), "first", "1", time) };
    closed.document(Some(&store));
    closed.document(Some(&store));
    let said = could_not_run(&mut first.command(Some(&store)));
    assert!(said.contains("say --mode closed"), "{said}");
}

#[test]
fn startup_and_output_failures_are_reported() {
    let dir = tempfile::tempdir().expect("a directory");
    let call = one_event(dir.path(), "log", "1", "2024-01-01T00:00:00Z");
    let missing = Call { log: dir.path().join("none"), spec: call.spec.clone(), ..call };
    let said = could_not_run(&mut missing.command(None));
    assert!(said.ends_with("none: No such file or directory (os error 2)"), "{said}");
    let call = one_event(dir.path(), "log", "1", "2024-01-01T00:00:00Z");
    let said = could_not_run(call.command(None).arg("--mode"));
    assert_eq!(said, "--mode needs a value");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
    let ended = call.command(None).stdout(full).output().expect("it starts");
    assert_eq!(ended.status.code(), Some(2), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn resumed_run_matches_uninterrupted_and_brute_force() {
    let room = tempfile::tempdir().expect("room");
    let (log, spec, events, defs) = generated(room.path(), 4, 12_000);
    let mut killed = [0; 3];
    for (live, mode) in [(false, Mode::Open), (true, Mode::Open), (false, Mode::Closed), (true, Mode::Closed)]
    {
        let call = Call { log: log.clone(), spec: spec.clone(), mode, live };
        let whole = call.document(None);
        assert_eq!(figures(&whole), by_force(&events, &defs, mode), "{mode:?}, live: {live}");
        if live == (mode == Mode::Open) {
            continue;
        }
        let store = room.path().join(format!("{mode:?} {live}"));
        // Import, judging, recording, each more than once; what was said before is not said again for ever.
        for (phase, says, times) in [
            (0, "imported", 1),
            (0, "imported", 3),
            (0, "imported", 5),
            (2, "to record", 1),
            (1, "to judge", 1),
            (2, "to record", 1),
            (1, "to judge", 2),
            (2, "to record", 2),
            (1, "to judge", 1),
            (2, "to record", 1),
        ] {
            killed[phase] += usize::from(call.killed(&store, says, times));
        }
        assert_eq!(call.document(Some(&store)), whole, "{mode:?}, live: {live}");
        // And nothing is found again.
        assert_eq!(call.document(Some(&store)), whole, "{mode:?}, live: {live}, again");
    }
    println!("killed while importing, judging, recording: {killed:?}");
    assert!(killed.iter().all(|times| *times > 0), "{killed:?}");
}

#[derive(Deserialize)]
struct Oracle {
    constraints: Vec<Judged>,
}

#[derive(Deserialize)]
struct Judged {
    def: Value,
    open: Figures,
    closed: Figures,
}

#[test]
fn killed_hospital_log_run_matches_oracle() {
    let Some(folder) = data::folder() else { return };
    let Oracle { constraints } = data::oracle(&folder, "hospital_billing");
    let room = tempfile::tempdir().expect("room");
    let spec = room.path().join("spec.json");
    let defs: Vec<_> = constraints.iter().map(|judged| &judged.def).collect();
    std::fs::write(&spec, json!({ "unbounded": true, "constraints": defs }).to_string())
        .expect("there is room");
    let log = folder.join("hospital_billing.jsonl.gz");
    for (mode, live) in [(Mode::Open, false), (Mode::Open, true), (Mode::Closed, false), (Mode::Closed, true)]
    {
        let call = Call { log: log.clone(), spec: spec.clone(), mode, live };
        let store = room.path().join(format!("{mode:?} {live}"));
        if live == (mode == Mode::Closed) {
            for (says, times) in [("imported", 4), ("to judge", 1), ("to judge", 2), ("to record", 1)] {
                call.killed(&store, says, times);
            }
        }
        let document = call.document(Some(&store));
        for (judged, is) in constraints.iter().zip(figures(&document)) {
            let must = if mode == Mode::Open { &judged.open } else { &judged.closed };
            assert_eq!(is, *must, "{mode:?}, live: {live}: {}", judged.def);
        }
        assert_eq!(document["constraints"].as_array().map(Vec::len), Some(constraints.len()));
    }
}
