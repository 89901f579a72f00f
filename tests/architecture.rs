//! The import table of `ARCHITECTURE.md`, held against the sources: arrows point one way.
//!
//! A new arrow fails here. To propose one, change the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each room, and the rooms it may import from. Rooms are top-level modules.
#[rustfmt::skip]
const TABLE: &[(&str, &[&str])] = &[
    // values
    ("order", &[]),
    ("misfit", &[]),
    ("reflect", &["misfit"]),
    ("key", &["misfit"]),
    ("codec", &["key", "misfit", "reflect"]),
    ("canonical", &["codec", "misfit"]),
    ("value", &["canonical", "codec", "misfit"]),
    ("layout", &["canonical", "codec", "key", "misfit", "reflect", "value"]),
    ("upcast", &["codec", "layout", "misfit", "reflect"]),
    ("event", &["canonical", "codec", "key", "layout", "misfit", "order", "reflect", "upcast"]),
    ("query", &["event", "misfit", "order"]),
    ("request", &["canonical", "codec", "event", "key", "misfit", "order", "query", "value"]),
    ("options", &[]),
    ("error", &["misfit", "order", "query", "request"]),
    ("own", &["event"]),
    ("budget", &["error"]),
    // seams
    ("sync", &[]),
    ("disk", &["order"]),
    ("reentry", &["sync"]),
    ("wakers", &["sync"]),
    // ground and derived
    ("log", &["disk", "error", "event", "misfit", "order", "sync"]),
    ("state", &["codec", "disk", "error", "log", "order", "query", "request", "sync", "wakers"]),
    // rules: never one another
    ("idempotency", &["error", "event", "log", "order", "request", "state"]),
    ("projection", &["codec", "error", "event", "key", "layout", "log", "misfit", "order", "reentry", "state", "sync"]),
    ("check", &["canonical", "codec", "error", "event", "key", "layout", "misfit", "order", "own", "projection", "request", "state", "value"]),
    ("guard", &["check", "error", "event", "log", "misfit", "order", "own", "projection", "reentry", "state", "sync"]),
    ("episode", &["order", "own", "projection"]),
    ("evidence", &["own", "projection"]),
    ("alerting", &["check", "error", "order", "own", "projection"]),
    ("routed", &["own", "projection"]),
    ("rule_texts", &["own", "projection"]),
    ("skip", &["codec", "error", "key", "own", "projection", "state"]),
    ("notification", &["check", "episode", "own", "sync"]),
    // the path of a commit
    ("setup", &["alerting", "budget", "check", "disk", "episode", "error", "event", "evidence", "guard", "layout", "notification", "options", "order", "own",
        "projection", "request", "routed", "rule_texts", "skip", "state", "sync", "upcast"]),
    ("commit", &["error", "event", "guard", "idempotency", "log", "options", "order", "projection", "query", "request", "setup",
        "state"]),
    ("writer", &["commit", "disk", "error", "log", "options", "order", "reentry", "request", "state", "sync", "wakers"]),
    // before it and behind it
    ("recovery", &["commit", "error", "log", "order", "projection", "request", "setup", "state"]),
    ("behind", &["disk", "error", "log", "order", "projection", "recovery", "state", "sync", "wakers"]),
    ("view", &["behind", "codec", "commit", "disk", "error", "event", "key", "layout", "log", "order", "projection", "query",
        "request", "state", "sync", "value", "writer"]),
    ("transaction", &["budget", "codec", "commit", "disk", "error", "event", "idempotency", "key", "layout", "options",
        "order", "own", "projection", "query", "reentry", "request", "setup", "state", "sync", "view", "writer"]),
    ("verify", &["behind", "error", "event", "log", "order", "own", "projection", "recovery", "setup", "state", "view"]),
    ("audit", &["behind", "codec", "error", "key", "log", "order", "projection", "recovery", "setup", "state", "verify", "view"]),
    ("subscription", &["error", "event", "order", "query", "reentry", "state", "sync", "view", "writer"]),
    ("watch", &["alerting", "check", "codec", "commit", "disk", "episode", "error", "event", "evidence", "key", "log", "misfit", "notification", "options", "order", "own",
        "projection", "query", "request", "routed", "rule_texts", "state", "sync", "view", "writer"]),
    // a store from outside
    ("inspect", &["codec", "disk", "episode", "error", "event", "key", "layout", "log", "order", "projection", "query", "recovery", "request",
        "state", "value"]),
    ("store", &["audit", "behind", "check", "commit", "disk", "error", "event", "idempotency", "inspect", "log", "order", "own", "projection",
        "query", "recovery", "reentry", "request", "setup", "skip", "state", "subscription", "sync", "transaction", "verify", "view", "wakers", "watch",
        "writer"]),
    // beside it
    ("outside", &["check", "error", "event", "key", "order", "projection", "query", "store", "view"]),
];

#[test]
fn imports_point_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in fs::read_dir(&src).expect("src is there") {
        let path = entry.expect("src can be read").path();
        let room = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
        if room != "lib" && room != "testing" {
            imports(&path, found.entry(room).or_default());
        }
    }
    let table: BTreeMap<&str, BTreeSet<&str>> =
        TABLE.iter().map(|(room, may)| (*room, may.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    for (room, imported) in &found {
        let Some(may) = table.get(room.as_str()) else {
            wrong.push(format!("room `{room}` is not in the table"));
            continue;
        };
        for other in imported.iter().filter(|other| *other != room && !may.contains(other.as_str())) {
            wrong.push(format!("new arrow: `{room}` imports `{other}`"));
        }
        for unused in may.iter().filter(|may| !imported.contains(**may)) {
            wrong.push(format!("the table lets `{room}` import `{unused}`, and it does not"));
        }
    }
    for (index, (room, may)) in TABLE.iter().enumerate() {
        for below in may.iter().filter(|may| !TABLE[..index].iter().any(|(above, _)| above == *may)) {
            wrong.push(format!("`{room}` may not import `{below}`: it stands below it"));
        }
    }
    for room in table.keys().filter(|room| !found.contains_key(**room)) {
        wrong.push(format!("room `{room}` is in the table and not in src"));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Rooms of the crate that the product code of a file or folder names.
fn imports(path: &Path, into: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("it is a directory") {
            let path = entry.expect("it can be read").path();
            let tests = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "schedules");
            if !tests && (path.is_dir() || path.extension().is_some_and(|extension| extension == "rs")) {
                imports(&path, into);
            }
        }
        return;
    }
    let text = fs::read_to_string(path).expect("sources are text");
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    // Doc comments and the bodies of exported macros name the crate from outside.
    let code = product.lines().filter(|line| !line.trim_start().starts_with("//"));
    for line in code {
        for piece in line.replace("$crate::", "").split("crate::").skip(1) {
            let name: String = piece.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.chars().next().is_some_and(char::is_lowercase) && name != "any_of" {
                into.insert(name);
            }
        }
    }
}

#[test]
fn only_seam_uses_files_clock_and_threads() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let mut wrong = Vec::new();
    each_source(&src, &mut |path, text| {
        let place = path.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
        for (name, homes) in [
            // What is outside is no file of the store's.
            ("std::fs", &["disk/real.rs", "outside/file.rs"][..]),
            ("SystemTime::now", &["disk/real.rs"]),
            ("Instant::now", &["disk/real.rs", "sync.rs"]),
            ("crossbeam_channel", &["sync.rs"]),
            ("parking_lot", &["sync.rs"]),
            ("std::sync::atomic", &["sync.rs"]),
            ("thread::Builder", &["sync.rs"]),
            ("redb::", &["state/tables.rs"]),
            ("bincode::", &["codec.rs", "codec/read.rs", "codec/write.rs"]),
            ("jiff::", &["check/zone.rs"]),
            ("thread::sleep", &[]),
            ("env::", &[]),
        ] {
            let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let code = product.lines().filter(|line| !line.trim_start().starts_with("//"));
            let named = code.filter(|line| line.contains(name)).count() > 0;
            // What stands in for the seam in tests of schedules.
            let is_double = place.starts_with("sync/simulated");
            if named && !homes.contains(&place.as_str()) && !place.contains("tests") && !is_double {
                wrong.push(format!("{place} names {name}, which lives in {}", homes.join(", ")));
            }
        }
    });
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn each_source(path: &Path, each: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(path).expect("it is a directory") {
        let path = entry.expect("it can be read").path();
        match path.is_dir() {
            true => each_source(&path, each),
            false if path.extension().is_some_and(|extension| extension == "rs") => {
                each(&path, &fs::read_to_string(&path).expect("sources are text"));
            }
            false => {}
        }
    }
}

/// An advice once named a method that did not exist. `say`, `call` and `with` come before names of methods, or of fields of a rule.
#[test]
fn advice_names_what_exists() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let mut code = String::new();
    each_source(&src, &mut |_, text| {
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in product.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            // A text may go on in the next line.
            code.push_str(line.strip_suffix('\\').unwrap_or(line));
            if !line.ends_with('\\') {
                code.push('\n');
            }
        }
    });
    let named: BTreeSet<&str> =
        ["say `", "call `", "with `"].iter().flat_map(|verb| advised(&code, verb)).collect();
    assert!(named.contains("may_be_empty") && named.contains("accept_source"), "nothing is found: {named:?}");
    let exists = |name: &str| {
        let forms =
            [format!("fn {name}("), format!("fn {name}<"), format!("pub {name}: "), format!("\"{name}\"")];
        forms.iter().any(|form| code.contains(form.as_str()))
    };
    let missing: Vec<_> = named.into_iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "an advice names what there is not: {missing:?}");
}

/// Names after a verb: the one that follows it, and those that are joined to it by commas or `or`.
fn advised<'a>(code: &'a str, verb: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for mut rest in code.split(verb).skip(1) {
        while let Some((name, next)) = rest.split_once('`') {
            let last = name.rsplit("::").next().unwrap_or(name).trim_start_matches('.');
            let last = last.split('(').next().unwrap_or(last);
            if !last.is_empty() && last.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                names.push(last);
            }
            let joined =
                [", or `", ", `", " or `", " and `"].iter().find_map(|joint| next.strip_prefix(joint));
            let Some(joined) = joined else { break };
            rest = joined;
        }
    }
    names
}

/// Words that begin a relative clause: a doc comment that opens with one says only at its end what it is about.
const RELATIVE: [&str; 16] = [
    "What",
    "Who",
    "Whoever",
    "Whose",
    "Whom",
    "Which",
    "Those",
    "How",
    "Where",
    "Wherever",
    "Whether",
    "Until",
    "That",
    "When",
    "Why",
    "Themselves",
];

#[test]
fn docs_open_with_noun_or_verb() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let (mut blocks, mut relative) = (0, Vec::new());
    each_source(&src, &mut |path, text| {
        let mut is_inside = false;
        for (line, number) in text.lines().map(str::trim_start).zip(1..) {
            let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
            if let Some(doc) = doc.filter(|_| !is_inside) {
                blocks += 1;
                let first = doc.trim_start().split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
                if RELATIVE.contains(&first) {
                    relative.push(format!("{}:{number}: {line}", path.display()));
                }
            }
            is_inside = doc.is_some();
        }
    });
    assert!(relative.len() * 100 <= blocks * 3, "{} of {blocks}:\n{}", relative.len(), relative.join("\n"));
}

/// Names of tests are read in lists: subject, condition, result. Numbers of acceptance rows and risks before them do not count.
#[test]
fn test_names_have_at_most_ten_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut names: Vec<(usize, String)> = Vec::new();
    for dir in ["src", "tests", "examples"] {
        each_source(&root.join(dir), &mut |path, text| {
            let mut is_test = false;
            for line in text.lines().map(str::trim_start) {
                is_test |= line == "#[test]";
                let Some(signature) = line.strip_prefix("fn ").filter(|_| is_test) else { continue };
                is_test = false;
                let name = signature.split('(').next().unwrap_or_default();
                let counts =
                    |word: &&str| !["row", "risk"].contains(word) && !word.starts_with(char::is_numeric);
                let words = name.split('_').filter(counts).count();
                names.push((words, format!("{}: {name}", path.display())));
            }
        });
    }
    names.sort();
    let (median, ninetieth) = (names[names.len() / 2].0, names[names.len() * 9 / 10].0);
    assert!(
        median <= 6 && ninetieth <= 9,
        "median {median}, nine of ten {ninetieth}: {:#?}",
        &names[names.len() - 20..]
    );
    let longest = &names[names.len() - 1];
    assert!(longest.0 <= 10, "{longest:?}");
}
