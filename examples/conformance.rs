//! Judges a log of another system by rules of its own: appends its events to a store, declares the rules as checks, and prints what
//! they found as one JSON document.
//!
//! ```text
//! cargo run --release --example conformance -- --log FILE.jsonl[.gz] --spec SPEC.json
//!     [--mode open|closed]   open: what may still come is pending (default); closed: every case is complete
//!     [--live]               the checks run while events are appended; else afterwards, over all that is there
//!     [--store DIR]          where the store is; killed and started again, it goes on from there
//! ```
//!
//! A line of the log is `{"seq":n,"case":s,"idx":i,"type":s,"ts":"...Z","attrs":{..}}`; a spec is
//! `{"unbounded"?:true,"constraints":[{"id","template","A","B"?,"C"?,"n"?,"window"?,"corr"?}]}`.

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tallystone::Options;
use tallystone::check::{Check, Definition};
use tallystone::event::{Raw, Tags};
use tallystone::prelude::*;
use tallystone::watch::State;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Events in one append.
const BATCH: usize = 500;
const FAMILY: &str = "log";
/// The type that closes a case; no type of a log is called so.
const CLOSED: &str = "log.(case closed)";

const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    match judge() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conformance: could not run: {error}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Names the file that an error is about.
fn about<E: Display>(path: &Path) -> impl Fn(E) -> String {
    move |error| format!("{}: {error}", path.display())
}

fn judge() -> Result<()> {
    let arguments = Arguments::parse()?;
    let spec = File::open(&arguments.spec).map_err(about(&arguments.spec))?;
    let spec: Spec = serde_json::from_reader(BufReader::new(spec)).map_err(about(&arguments.spec))?;
    let shape = Shape::of(&arguments.log)?;
    eprintln!("{} events, told up to {} ms late", shape.events, shape.late_ms);
    let checks = spec.checks(&arguments, &shape)?;

    let scratch = tempfile::tempdir()?;
    let dir = arguments.store.clone().unwrap_or_else(|| scratch.path().join("store"));
    let mut options = Options::default();
    options.check_keys_max = 20_000_000;
    let watched = || checks.iter().cloned().fold(Setup::new().options(options.clone()), Setup::check);
    if !arguments.live {
        let store = Store::open_or_create(&dir, Setup::new())?;
        append_log(&store, &arguments, &shape)?;
        store.close();
    }
    let store = Store::open_or_create(&dir, watched())?;
    if arguments.live {
        append_log(&store, &arguments, &shape)?;
    }
    let began = Instant::now();
    settle(&store, &checks, &shape)?;
    if !arguments.live {
        eprintln!("{}", pace(&store, &shape, began.elapsed()));
    }
    let report = report(&store, &spec, &arguments)?;
    store.close();
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{}", serde_json::to_string_pretty(&report)?).and_then(|()| out.flush());
    Ok(written.map_err(|error| format!("standard output cannot be written: {error}"))?)
}

// ---- what it is asked ----

struct Arguments {
    log: PathBuf,
    spec: PathBuf,
    closed: bool,
    live: bool,
    store: Option<PathBuf>,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let (mut log, mut spec, mut closed, mut live, mut store) = (None, None, false, false, None);
        let mut arguments = std::env::args_os().skip(1);
        while let Some(argument) = arguments.next() {
            let argument = argument.to_string_lossy().into_owned();
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--log" => log = Some(value()?.into()),
                "--spec" => spec = Some(value()?.into()),
                "--store" => store = Some(value()?.into()),
                "--live" => live = true,
                "--mode" => {
                    closed = match &*value()?.to_string_lossy() {
                        "open" => false,
                        "closed" => true,
                        other => return Err(format!("--mode is open or closed, not {other}").into()),
                    }
                }
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        Ok(Self {
            log: log.ok_or("--log is missing")?,
            spec: spec.ok_or("--spec is missing")?,
            closed,
            live,
            store,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    #[serde(default)]
    unbounded: bool,
    constraints: Vec<Constraint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Constraint {
    id: String,
    template: String,
    #[serde(rename = "A")]
    a: Value,
    #[serde(rename = "B")]
    b: Option<Value>,
    #[serde(rename = "C")]
    c: Option<Value>,
    n: Option<u32>,
    window: Option<(Option<i64>, Option<i64>)>,
    #[serde(rename = "for")]
    stands: Option<i64>,
    #[serde(default)]
    corr: Vec<String>,
    #[serde(default)]
    #[allow(dead_code, reason = "for readers of the spec")]
    note: Option<String>,
}

impl Spec {
    fn checks(&self, arguments: &Arguments, shape: &Shape) -> Result<Vec<Check>> {
        self.constraints.iter().map(|constraint| constraint.check(self.unbounded, arguments, shape)).collect()
    }
}

impl Constraint {
    fn is_of_case(&self) -> bool {
        let of_case = ["existence", "absence", "exactly", "init", "end", "not_coexistence"];
        of_case.contains(&self.template.as_str())
    }

    fn check(&self, unbounded: bool, arguments: &Arguments, shape: &Shape) -> Result<Check> {
        let counts = matches!(self.template.as_str(), "existence" | "absence" | "exactly");
        let millis = |bound: Option<i64>| bound.map(|bound| format!("{bound}ms"));
        let (from, to) = self.window.unwrap_or((None, self.stands));
        let mut definition = json!({
            "id": self.id,
            "kind": self.template,
            "when": selector(&self.a)?,
            "not_before": millis(from),
            "within": millis(to),
            "n": self.n.or(counts.then_some(1)),
            "tied": self.corr.iter().map(|name| attribute(name)).collect::<Vec<_>>(),
            "families": [FAMILY],
            "expects": [format!("{FAMILY}.*")],
            "time": "ts",
            "imported": true,
            "lateness": format!("{}ms", shape.late_ms),
            "unbounded": unbounded,
            "severity": "note",
            "owner": "conformance",
            "means": format!("{} does not hold.", self.template),
            "remedy": "look at the case",
        });
        for (field, given) in [("then", &self.b), ("until", &self.c)] {
            if let Some(given) = given {
                definition[field] = selector(given)?;
            }
        }
        if arguments.closed {
            definition["closed_by"] = json!(CLOSED);
        }
        let definition: Definition = serde_json::from_value(definition)
            .map_err(|error| format!("constraint `{}`: {error}", self.id))?;
        Ok(Check::try_from(definition)?)
    }
}

fn type_name(kind: &str) -> String {
    format!("{FAMILY}.{kind}")
}

/// The path of an attribute. A dot would lead into it.
fn attribute(name: &str) -> String {
    format!("attrs.{}", undotted(name))
}

fn undotted(name: &str) -> String {
    name.replace('.', "\u{2024}")
}

fn selector(given: &Value) -> Result<Value> {
    match given {
        Value::String(kind) => Ok(json!(type_name(kind))),
        Value::Array(any) => Ok(Value::Array(any.iter().map(selector).collect::<Result<_>>()?)),
        Value::Object(both) => {
            let mut out = Map::new();
            for (field, value) in both {
                match (field.as_str(), value) {
                    ("type", Value::String(kind)) => drop(out.insert("type".into(), json!(type_name(kind)))),
                    ("attr", Value::Object(attrs)) => {
                        let named = attrs.iter().map(|(name, value)| (attribute(name), value.clone()));
                        out.insert("where".into(), Value::Object(named.collect()));
                    }
                    _ => return Err(format!("a selector has no `{field}` like that").into()),
                }
            }
            Ok(Value::Object(out))
        }
        other => Err(format!("{other} selects nothing").into()),
    }
}

// ---- the log ----

#[derive(Deserialize)]
struct Line {
    seq: u64,
    case: String,
    idx: u64,
    #[serde(rename = "type")]
    kind: String,
    ts: String,
    #[serde(default)]
    attrs: Map<String, Value>,
}

impl Line {
    fn event(self, millis: i64) -> Raw {
        let attrs: Map<_, _> = self.attrs.into_iter().map(|(name, value)| (undotted(&name), value)).collect();
        let payload = json!({
            "seq": self.seq, "case": self.case, "idx": self.idx, "ts": millis, "attrs": attrs,
        });
        Raw::json(type_name(&self.kind), stream(&self.case), Tags::none(), &payload)
    }
}

fn stream(case: &str) -> String {
    format!("{FAMILY}/{case}")
}

fn lines(path: &Path) -> Result<impl Iterator<Item = Result<(Line, i64)>> + use<>> {
    let file = BufReader::with_capacity(1 << 20, File::open(path).map_err(about(path))?);
    let zipped = path.extension().is_some_and(|extension| extension == "gz");
    let read: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let (lines, path) = (BufReader::with_capacity(1 << 20, read).lines().zip(1..), path.to_owned());
    Ok(lines.map(move |(line, number)| {
        let at = |error: &dyn Display| format!("{}, line {number}: {error}", path.display());
        let line = line.map_err(|error| at(&error))?;
        let line: Line = serde_json::from_str(&line).map_err(|error| at(&error))?;
        let millis = millis_of(&line.ts).ok_or_else(|| at(&format!("there is no such time: {}", line.ts)))?;
        Ok((line, millis))
    }))
}

/// What must be known of a log before it is judged.
struct Shape {
    events: u64,
    horizon_ms: i64,
    /// By how much an event is behind the latest before it, at most.
    late_ms: i64,
    /// Every case, in order of appearance.
    cases: Vec<String>,
}

impl Shape {
    fn of(path: &Path) -> Result<Self> {
        let mut shape = Shape { events: 0, horizon_ms: i64::MIN, late_ms: 0, cases: Vec::new() };
        let mut known = std::collections::HashSet::new();
        for line in lines(path)? {
            let (line, millis) = line?;
            shape.events += 1;
            shape.horizon_ms = shape.horizon_ms.max(millis);
            shape.late_ms = shape.late_ms.max(shape.horizon_ms - millis);
            if known.insert(line.case.clone()) {
                shape.cases.push(line.case);
            }
        }
        Ok(shape)
    }
}

/// `2013-06-17T22:00:00.000Z` as milliseconds since 1970. `None` for what no calendar or clock has.
fn millis_of(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| number(part, 9999));
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (number(time.next()?, 23)?, number(time.next()?, 59)?);
    let (second, part) = time.next().map(|second| second.split_once('.').unwrap_or((second, "0")))?;
    let (second, _) = (number(second, 59)?, part.parse::<u64>().ok().filter(|_| !part.starts_with('+'))?);
    let millis = format!("{part:0<3}").get(..3)?.parse::<i64>().ok()?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = 28 + i64::from(is_leap);
    let days = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if day < 1 || day > *days.get(usize::try_from(month - 1).ok()?)? {
        return None;
    }
    // Days since 1970, by Howard Hinnant's `days_from_civil`.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + millis)
}

/// Digits alone, up to a limit.
fn number(text: &str, limit: i64) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= limit)
}

/// Appends what the store lacks of the log, and then that its cases are complete, if they are.
fn append_log(store: &Store, arguments: &Arguments, shape: &Shape) -> Result<()> {
    let view = store.view()?;
    let mut logged = view.query::<Raw>(Query::all()).filter(|event| match event {
        Ok(event) => event.event.family() == FAMILY,
        Err(_) => true,
    });
    let mut batch = Batch { store, events: Vec::new() };
    let said_every = (shape.events / 20).clamp(1, 100_000);
    let mut there = 0;
    for (number, read) in (1..).zip(lines(&arguments.log)?) {
        let (line, millis) = read?;
        let event = line.event(millis);
        match logged.next().transpose()? {
            Some(stored) => {
                is_the_same(&stored.event, &event, || format!("line {number} of the log"))?;
                there += 1;
            }
            None => batch.push(event)?,
        }
        if number == there + 1 {
            eprintln!("{there} events are there");
        }
        if number > there && number % said_every == 0 {
            eprintln!("imported {number} of {} events", shape.events);
        }
    }
    if there == shape.events {
        eprintln!("{there} events are there");
    }
    let payload = json!({ "ts": shape.horizon_ms });
    for case in &shape.cases {
        let closes = Raw::json(CLOSED, stream(case), Tags::none(), &payload);
        match logged.next().transpose()? {
            Some(stored) if arguments.closed => is_the_same(&stored.event, &closes, || format!("the end of case {case}"))?,
            Some(_) => return Err("the store is that of a log whose cases are closed: say --mode closed, or name another --store".into()),
            None if arguments.closed => batch.push(closes)?,
            None => break,
        }
    }
    if logged.next().is_some() {
        return Err("the store has more events than the log: it is that of another log".into());
    }
    batch.flush()
}

/// Refuses a store that was begun with another log.
fn is_the_same(stored: &Raw, event: &Raw, what: impl Fn() -> String) -> Result<()> {
    let parts = |raw: &Raw| (raw.type_name().to_owned(), raw.stream().to_owned(), raw.data().to_vec());
    match parts(stored) == parts(event) {
        true => Ok(()),
        false => Err(format!("the store is that of another log: {} is not what it has there", what()).into()),
    }
}

struct Batch<'s> {
    store: &'s Store,
    events: Vec<Raw>,
}

impl Batch<'_> {
    fn push(&mut self, event: Raw) -> Result<()> {
        self.events.push(event);
        if self.events.len() == BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let mut events = self.events.drain(..);
        if let Some(first) = events.next() {
            self.store.append(events.fold(Append::raw(first), Append::and_raw))?;
        }
        Ok(())
    }
}

fn instant(millis: i64) -> SystemTime {
    match u64::try_from(millis) {
        Ok(since) => UNIX_EPOCH + Duration::from_millis(since),
        Err(_) => UNIX_EPOCH - Duration::from_millis(millis.unsigned_abs()),
    }
}

/// Waits until all is judged. That nothing older comes is on record, too: the log has ended.
fn settle(store: &Store, checks: &[Check], shape: &Shape) -> Result<()> {
    for check in checks {
        store.checks().complete(check.id(), instant(shape.horizon_ms))?;
    }
    // A short log is over soon, and a long one is reported on now and then.
    let mut patience = Duration::from_millis(1);
    while !store.checks().wait_for(store.stats().position, patience) {
        let stats = store.checks().stats();
        if let Some(trouble) = stats.iter().find_map(|check| check.trouble.as_ref()) {
            return Err(trouble.to_string().into());
        }
        let to_judge = stats.iter().map(|check| check.lag_len).max().unwrap_or(0);
        let to_record: u64 = stats.iter().map(|check| check.unrecorded).sum();
        for (what, count) in [("to judge: events", to_judge), ("to record: findings", to_record)] {
            if count > 0 {
                eprintln!("{what} {count}");
            }
        }
        patience = (2 * patience).min(Duration::from_secs(5));
    }
    Ok(())
}

/// How fast history was judged. What was found is on record by then, and that takes a part of the time.
fn pace(store: &Store, shape: &Shape, took: Duration) -> String {
    let stats = store.checks().stats();
    let found: u64 = stats.iter().map(|check| check.violated + check.healed + check.retracted).sum();
    let (events, checks) = (shape.events, stats.len());
    let judged = events as f64 * checks as f64 / took.as_secs_f64() / 1e6;
    format!(
        "{events} events judged by {checks} checks, {found} findings recorded, in {:.1} s: {judged:.2} million event-checks a second",
        took.as_secs_f64()
    )
}

// ---- what was found ----

fn report(store: &Store, spec: &Spec, arguments: &Arguments) -> Result<Value> {
    let mut found: Vec<Vec<u64>> = Vec::new();
    for constraint in &spec.constraints {
        let all = store.checks().of(&constraint.id)?;
        let stands = all.iter().filter(|violation| !matches!(violation.state, State::Retracted { .. }));
        found.push(stands.map(|violation| violation.activation.get()).collect());
    }
    let wanted: BTreeSet<u64> = found.iter().flatten().copied().collect();
    let names = names(store, &wanted)?;
    let stats = store.checks().stats();
    let mut constraints = Vec::new();
    for ((constraint, found), stats) in spec.constraints.iter().zip(found).zip(stats) {
        if stats.unread > 0 {
            return Err(format!(
                "`{}` could not read {} events: {:?}",
                stats.check, stats.unread, stats.last_unread
            )
            .into());
        }
        let ids: BTreeSet<String> = found
            .iter()
            .map(|position| {
                let (case, idx) = &names[position];
                if constraint.is_of_case() { format!("{case}:-") } else { format!("{case}:{idx}") }
            })
            .collect();
        constraints.push(json!({
            "id": constraint.id,
            "activations": stats.activations,
            "satisfied": stats.satisfied,
            "violated": stats.violated,
            "pending": stats.pending,
            "cases_violated": stats.keys_violated,
            "violations_sha256": hash_of(&ids),
        }));
    }
    Ok(json!({ "mode": if arguments.closed { "closed" } else { "open" }, "constraints": constraints }))
}

/// Case and number in it, by position.
fn names(store: &Store, wanted: &BTreeSet<u64>) -> Result<HashMap<u64, (String, u64)>> {
    let view = store.view()?;
    let mut names = HashMap::new();
    for event in view.query::<Raw>(Query::all()) {
        let event = event?;
        if wanted.contains(&event.position.get()) {
            let value = view.value(&event)?;
            let case = value.get("case").and_then(|case| case.as_str()).unwrap_or_default().to_owned();
            let idx = value.get("idx").and_then(|idx| idx.as_u64()).unwrap_or_default();
            names.insert(event.position.get(), (case, idx));
        }
    }
    Ok(names)
}

fn hash_of(ids: &BTreeSet<String>) -> String {
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    Sha256::digest(ids.join("\n")).iter().map(|byte| format!("{byte:02x}")).collect()
}
