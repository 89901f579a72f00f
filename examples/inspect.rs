//! Shows a store as text, without its program's types, beside its writer or on a medium that cannot be written.
//!
//! ```sh
//! cargo run --example inspect -- PATH                        # head, files, types, open violations
//! cargo run --example inspect -- PATH events 100 20          # 20 events after position 100
//! cargo run --example inspect -- PATH events 0 20 stream account/7
//! cargo run --example inspect -- PATH events 0 20 type account.Deposited
//! cargo run --example inspect -- PATH events 0 20 tag branch:3
//! cargo run --example inspect -- PATH streams | types | tags | violations | verify
//! cargo run --example inspect -- PATH key SCOPE KEY          # whether it was used, and by which commit
//! ```

use humantime::format_rfc3339_micros as at;
use std::io::{self, Write};
use std::process::ExitCode;
use tallystone::event::{Raw, Sequenced};
use tallystone::inspect::{Inspect, Layouts, TypeUse};
use tallystone::prelude::*;
use tallystone::watch::{State, Violation};

const USAGE: &str = "usage: inspect PATH [head | events AFTER LIMIT [stream|type|tag NAME] | streams | types | tags | violations | verify | \
                     key SCOPE KEY]";

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words, &mut io::stdout().lock()) {
        Ok(is_well) if is_well => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether nothing that was looked at is damaged.
fn run(words: &[&str], out: &mut impl Write) -> Result<bool, Failure> {
    let (path, what) = words.split_first().ok_or(USAGE)?;
    let inspect = Store::inspect(path)?;
    match what {
        [] => {
            head(&inspect, out)?;
            types(&inspect.types()?, out)?;
            let violations = inspect.violations()?;
            for violation in violations.iter().filter(|violation| violation.state == State::Open) {
                show_violation(violation, out)?;
            }
        }
        ["head"] => head(&inspect, out)?,
        ["events", after, limit, which @ ..] => {
            let query = match which {
                [] => Query::all(),
                ["stream", name] => QueryItem::stream_named(*name).into(),
                ["type", name] => QueryItem::types([*name]).into(),
                ["tag", name] => QueryItem::tagged(*name).into(),
                _ => return Err(USAGE.into()),
            };
            let layouts = inspect.layouts()?;
            for event in inspect.events(query.after(Position::new(number(after)?)).limit(number(limit)?)) {
                show_event(&event?, &layouts, out)?;
            }
        }
        ["streams"] => {
            for (name, version) in inspect.streams()? {
                writeln!(out, "{name} {version}")?;
            }
        }
        ["types"] => types(&inspect.types()?, out)?,
        ["tags"] => {
            for (tag, events) in inspect.tags()? {
                writeln!(out, "{tag} {events}")?;
            }
        }
        ["violations"] => {
            for violation in inspect.violations()? {
                show_violation(&violation, out)?;
            }
        }
        ["verify"] => return verify(&inspect, out),
        ["key", scope, key] => match inspect.key(scope, key)? {
            None => writeln!(out, "not used")?,
            Some(used) => {
                let tallystone::request::Receipt { commit, first, last, committed_at, .. } = used.receipt;
                let (time, label) = (at(committed_at), used.label);
                writeln!(out, "used by commit {commit}, positions {first} to {last}, {time} {label}")?;
                writeln!(out, "answer of {} bytes, kept: {:?}", used.response.len(), used.kept)?;
            }
        },
        _ => return Err(USAGE.into()),
    }
    Ok(true)
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("`{word}` is no number; {USAGE}"))
}

fn head(inspect: &Inspect, out: &mut impl Write) -> io::Result<()> {
    let end = inspect.end();
    let time = end.committed_at.map_or_else(|| "empty".to_owned(), |time| at(time).to_string());
    writeln!(out, "position {}, commit {}, {time}", end.position, end.commit)?;
    if end.unproven_commits > 0 {
        writeln!(out, "{} commits after it are not known to be synced yet", end.unproven_commits)?;
    }
    if end.torn_bytes > 0 {
        writeln!(out, "{} bytes at the end are torn, and no commit", end.torn_bytes)?;
    }
    match inspect.stats() {
        Err(error) => writeln!(out, "sizes are not known: {error}"),
        Ok(stats) => {
            writeln!(out, "log: {} files, {} bytes", stats.log_files, stats.log_bytes)?;
            stats.derived.iter().try_for_each(|(name, bytes)| writeln!(out, "{name}: {bytes} bytes"))
        }
    }
}

fn types(types: &[TypeUse], out: &mut impl Write) -> io::Result<()> {
    for TypeUse { name, schema, layout, events, first, last, .. } in types {
        let layout = layout.as_ref().map_or_else(|| "json".to_owned(), ToString::to_string);
        writeln!(out, "{name} version {schema}: {events} events, positions {first} to {last}, {layout}")?;
    }
    Ok(())
}

fn show_event(event: &Sequenced<Raw>, layouts: &Layouts, out: &mut impl Write) -> io::Result<()> {
    let Sequenced { event: raw, position, stream_version, recorded_at, .. } = event;
    let payload = match layouts.value(event) {
        Ok(value) => value.to_json().to_string(),
        Err(error) => format!("unreadable: {error}"),
    };
    let tags: Vec<&str> = raw.tags().iter().collect();
    let (time, name, stream) = (at(*recorded_at), raw.type_name(), raw.stream());
    writeln!(out, "{position} {time} {name} {stream}@{stream_version} [{}] {payload}", tags.join(" "))
}

fn show_violation(violation: &Violation, out: &mut impl Write) -> io::Result<()> {
    let Violation { check, activation, decided_at, recorded, state, .. } = violation;
    let subject = violation.subject.as_deref().unwrap_or_default();
    writeln!(
        out,
        "{check} at {activation} {subject}: {state:?}, decided {}, on record at {recorded}",
        at(*decided_at)
    )
}

fn verify(inspect: &Inspect, out: &mut impl Write) -> Result<bool, Failure> {
    let report = inspect.verify()?;
    writeln!(out, "{} commits, {} events", report.commits, report.events)?;
    if let Some((position, what)) = &report.damage {
        writeln!(out, "damaged at position {position}: {what}")?;
    }
    Ok(report.damage.is_none())
}
