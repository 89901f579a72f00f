//! The real logs and their oracles, which are not part of the project.
//!
//! They are looked for in `TALLYSTONE_DATA`, else in `../shared/data`. Where the variable is set they must be there.

use super::Event;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The folder of the data; `None`, and a word of it, where there is none.
pub fn folder() -> Option<PathBuf> {
    if let Some(told) = env::var_os("TALLYSTONE_DATA") {
        let told = PathBuf::from(told);
        assert!(told.is_dir(), "TALLYSTONE_DATA: no folder {}", told.display());
        return Some(told);
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if !beside.is_dir() {
        // Not `println`, which the runner shows of failed tests only.
        writeln!(io::stderr(), "skipped: no event logs in {}", beside.display()).expect("stderr");
        return None;
    }
    Some(beside)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "seq")]
    _seq: u64,
    case: String,
    idx: usize,
    #[serde(rename = "type")]
    kind: String,
    ts: String,
    attrs: Map<String, Value>,
}

/// The events of `name`.jsonl.gz.
pub fn log(folder: &Path, name: &str) -> Vec<Event> {
    let path = folder.join(name).with_extension("jsonl.gz");
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    lines
        .map(|line| {
            let line: Line = serde_json::from_str(&line.expect("lines of text")).expect("an event");
            let ts = milliseconds(&line.ts).unwrap_or_else(|| panic!("not a time: {}", line.ts));
            Event { case: line.case, idx: line.idx, kind: line.kind, ts, attrs: line.attrs }
        })
        .collect()
}

/// The log of fines, which is read once: several tests judge it.
pub fn fines(folder: &Path) -> &'static [Event] {
    static FINES: OnceLock<Vec<Event>> = OnceLock::new();
    FINES.get_or_init(|| log(folder, "rtfm"))
}

/// `name`.oracle.json.
pub fn oracle<T: DeserializeOwned>(folder: &Path, name: &str) -> T {
    let path = folder.join(name).with_extension("oracle.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Milliseconds since 1970 of `2012-12-13T10:13:18.000Z`.
pub fn milliseconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];
    if bytes.len() != 24 || marks.iter().any(|(at, mark)| bytes[*at] != *mark) {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Years begin in March, so that a leap day is the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let since_1970 = days - 719_468;
    Some((((since_1970 * 24 + hour) * 60 + minute) * 60 + second) * 1000 + number(20, 23)?)
}
