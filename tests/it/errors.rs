//! An error names the operating system's cause once, however it is printed.

use crate::support;
use crate::support::{deposit, events, fresh_disk, open, setup, simulated};
use std::error::Error as StdError;
use std::process::Command;
use tallystone::check::{Outside, PullError};
use tallystone::error::StorageError;
use tallystone::outside::{CsvFile, JsonLines, SqliteQuery};
use tallystone::prelude::*;
use tallystone::testing::{Fault, Faults, SimDisk};

/// The text in each failure of the simulated disk.
const INJECTED: &str = "injected: ";

/// Prints as `anyhow` does: the error, and each of its sources.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[track_caller]
fn assert_once(error: &dyn StdError, cause: &str) {
    for text in [error.to_string(), chain(error)] {
        assert_eq!(text.matches(cause).count(), 1, "`{cause}` in `{text}`");
    }
}

/// The same of what `?` makes of it in `main`, which is printed by `Debug`.
#[track_caller]
fn assert_each(error: impl StdError + Clone + Into<Error> + 'static, cause: &str) {
    assert_once(&error, cause);
    let umbrella: Error = error.into();
    assert_once(&umbrella, cause);
    assert_eq!(format!("{umbrella:?}"), umbrella.to_string());
}

fn fails_from_here(disk: &SimDisk, fault: Fault) {
    let number = if fault == Fault::ReadError { disk.read_count() } else { disk.op_count() };
    disk.plan(Faults::none().from(number, fault));
}

#[test]
fn failed_open_names_cause_once() {
    let disk = fresh_disk(1);
    drop(open(&disk).expect("created"));
    for fault in [Fault::ReadError, Fault::AnyError] {
        fails_from_here(&disk, fault);
        let error = open(&disk).expect_err("the disk fails");
        assert_once(&error, INJECTED);
        assert_once(&Error::from(error), INJECTED);
    }
    let (disk, error) = (fresh_disk(2), |disk: &SimDisk| open(disk).expect_err("the disk fails"));
    fails_from_here(&disk, Fault::NoSpace);
    assert_once(&error(&disk), INJECTED);
}

#[cfg(target_os = "linux")]
#[test]
fn read_only_create_names_its_cause() {
    // Nobody may make a directory there, root neither.
    let error = Store::create("/sys/tallystone", setup()).expect_err("it cannot be created");
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error:?}");
    assert_once(&error, "(os error");
}

#[test]
fn errors_after_failed_write_name_cause() {
    for fault in [Fault::WriteError, Fault::SyncError, Fault::NoSpace] {
        let disk = fresh_disk(3);
        let store = open(&disk).expect("created");
        fails_from_here(&disk, fault);
        let unknown = store.append(deposit(1, 5)).expect_err("its write fails");
        assert!(matches!(&unknown, AppendError::Unknown(cause) if cause.io_error().is_some()), "{unknown:?}");
        assert_each(unknown, INJECTED);
        let poisoned = store.append(deposit(1, 5)).expect_err("it is poisoned");
        assert!(matches!(poisoned, AppendError::Poisoned { .. }), "{poisoned:?}");
        assert_each(poisoned, INJECTED);
        let decided = store.transact("late", |tx| Ok(tx.append(support::Bank::Opened { account: 1 })?));
        let decided = decided.expect_err("it is poisoned");
        assert!(matches!(decided, TxError::Poisoned(_)), "{decided:?}");
        assert_each(decided, INJECTED);
        assert_once(&store.stats().poisoned.expect("it says why"), INJECTED);
        assert_once(&store.recover().expect_err("it still fails"), INJECTED);
    }
}

#[test]
fn failed_transaction_write_names_its_cause() {
    let disk = fresh_disk(4);
    let store = open(&disk).expect("created");
    fails_from_here(&disk, Fault::SyncError);
    let unknown = store.transact("pay", |tx| Ok(tx.append(support::Bank::Opened { account: 1 })?));
    let unknown = unknown.expect_err("its sync fails");
    assert!(matches!(unknown, TxError::Unknown(_)), "{unknown:?}");
    assert_each(unknown, INJECTED);
}

#[test]
fn failed_read_names_cause_once() {
    let disk = fresh_disk(5);
    // More rows than the cache of pages holds.
    let mut options = support::small();
    options.state_cache_bytes = 1 << 16;
    let store = Store::create("/store", simulated(&disk).options(options)).expect("created");
    for batch in 0..16 {
        let opened = (0..500).map(|account| support::Bank::Opened { account: batch * 500 + account });
        store.append(Append::events(opened)).expect("appended");
    }
    let view = store.view().expect("open");
    fails_from_here(&disk, Fault::ReadError);
    let event =
        view.query::<support::Bank>(Query::all()).find_map(Result::err).expect("the log cannot be read");
    assert_each(event, INJECTED);
    let row = (0..8000).find_map(|account| view.row::<support::Balances>(&account).err());
    assert_each(row.expect("most rows are on the disk"), INJECTED);
    let fault = store.transact("read", |tx| {
        let fault = (0..8000).find_map(|account| tx.row::<support::Balances>(&account).err());
        Err::<(), _>(fault.expect("the disk fails").into())
    });
    assert_each(fault.expect_err("it read nothing"), INJECTED);
}

#[test]
fn damage_has_no_call_that_failed() {
    let disk = fresh_disk(6);
    let store = open(&disk).expect("created");
    store.append(deposit(1, 5)).expect("appended");
    drop(store);
    let log = disk.files().into_iter().find(|file| file.extension().is_some_and(|ext| ext == "log"));
    disk.corrupt(log.expect("there is a log"), 0, &[7; 16]);
    let error = open(&disk).expect_err("the log is damaged");
    assert!(error.source().is_none() && !error.to_string().contains("os error"), "{error}");
}

#[test]
fn unreadable_source_names_cause_once() {
    fn missing<O: Outside>(source: &O) -> PullError {
        let error = source.pull().err().expect("it is not there");
        assert!(matches!(error, PullError::Unreachable(_)), "{error:?}");
        error
    }
    #[derive(serde::Serialize, serde::Deserialize, Clone, PartialEq)]
    struct Row {
        id: u32,
    }
    assert_once(&missing(&CsvFile::new("no/such/file", |row: &Row| row.id)), "(os error");
    assert_once(&missing(&JsonLines::new("no/such/file", |row: &Row| row.id)), "(os error");
    let query = SqliteQuery::new("no/such/file", "SELECT 1 AS id", |row: &Row| row.id);
    assert_once(&missing(&query), "unable to open");
}

#[test]
fn a_refusal_shows_its_reason() {
    #[derive(Debug, Clone, PartialEq)]
    struct TooLittle {
        has: u64,
    }
    let store = Store::in_memory(setup()).expect("opens");
    let refused = store.transact("pay", |_| tallystone::transaction::refuse::<(), _>(TooLittle { has: 7 }));
    let refused = refused.expect_err("it says no");
    assert_eq!(refused.to_string(), "refused: TooLittle { has: 7 }");
    let error = refused.into_error();
    assert_eq!(
        (format!("{error:?}"), error.to_string()),
        (error.to_string(), "refused: TooLittle { has: 7 }".into())
    );
}

/// No annotation: a decision that refuses nothing has one type only.
#[test]
fn decision_without_refusal_needs_no_annotation() -> Result<(), Error> {
    let store = Store::in_memory(setup())?;
    store.transact("open", |tx| {
        tx.append(support::Bank::Opened { account: 1 })?;
        Ok(())
    })?;
    let has = store.transact("read", |tx| Ok(tx.row::<support::Balances>(&1)?.unwrap_or(7)))?;
    assert_eq!((has.response, events(&store).len()), (0, 1));
    Ok(())
}

const AS_MAIN: &str = "TALLYSTONE_ERRORS_AS_MAIN";

/// Run by the next test in a process of its own: the harness prints an error as the runtime does for `main`.
#[test]
fn as_main() -> Result<(), Error> {
    if std::env::var_os(AS_MAIN).is_some() {
        Store::open("no/such/store", Setup::new())?;
    }
    Ok(())
}

#[test]
fn main_prints_error_message() {
    let tests = std::env::current_exe().expect("a test has a binary");
    let run =
        Command::new(tests).args(["errors::as_main", "--exact", "--nocapture"]).env(AS_MAIN, "1").output();
    let run = run.expect("it runs");
    let said = String::from_utf8_lossy(&run.stderr) + String::from_utf8_lossy(&run.stdout);
    assert!(!run.status.success() && said.contains("Error: no store at no/such/store\n"), "{said}");
}

#[test]
fn storage_error_exposes_io_error() {
    let disk = fresh_disk(8);
    let store = Store::create("/store", simulated(&disk)).expect("created");
    fails_from_here(&disk, Fault::NoSpace);
    let Err(AppendError::Unknown(cause)) = store.append(deposit(1, 5)) else {
        panic!("it cannot be written")
    };
    assert_eq!(cause.io_error().map(std::io::Error::kind), Some(std::io::ErrorKind::StorageFull));
    assert!(cause.is_no_space() && StdError::source(&cause as &StorageError).is_none());
}

/// Words that a message tells the reader to write: `say` or `call` before it, or a call between backticks.
fn advised(line: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let mut words: Vec<String> = Vec::new();
    for lead in ["say `", "call `"] {
        words.extend(line.split(lead).skip(1).map(name));
    }
    let called = line.split("call ").skip(1).map(|rest| (name(rest), rest));
    words.extend(called.filter(|(word, rest)| rest[word.len()..].starts_with("()")).map(|(word, _)| word));
    // `.inline::<..>()`, `store.checks().sources()`, `Store::recover`
    for chunk in
        line.split('`').skip(1).step_by(2).filter(|chunk| chunk.contains("()") || chunk.contains("::"))
    {
        let calls = chunk.split(['.', ':']).filter(|part| part.ends_with("()") || part.ends_with("(..)"));
        words.extend(calls.map(name));
        if let Some((_, method)) =
            chunk.split_once("::").filter(|(of, _)| matches!(*of, "Store" | "Setup" | "Checks"))
        {
            words.push(name(method));
        }
    }
    words.retain(|word| !word.is_empty() && word.chars().all(|c| c.is_lowercase() || c == '_'));
    words
}

#[test]
fn what_a_message_advises_exists() {
    fn sources(dir: &std::path::Path, into: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("sources are there") {
            let path = entry.expect("it is listed").path();
            match path.is_dir() {
                true => sources(&path, into),
                false if path.extension().is_some_and(|extension| extension == "rs") => {
                    into.push(std::fs::read_to_string(path).expect("sources are text"));
                }
                false => {}
            }
        }
    }
    let mut all = Vec::new();
    sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"), &mut all);
    let code: String = all.join("\n");
    let exists = |word: &str| {
        let is = |of: String| code.contains(&of);
        is(format!("fn {word}(")) || is(format!("fn {word}<")) || is(format!("pub {word}: "))
    };
    let (mut seen, mut missing) = (0, Vec::new());
    for line in code.lines().filter(|line| line.contains('"') && !line.trim_start().starts_with("//")) {
        for word in advised(line) {
            seen += 1;
            if !exists(&word) {
                missing.push(format!("`{word}` in {}", line.trim()));
            }
        }
    }
    assert!(seen > 20, "only {seen} words were found");
    assert_eq!(missing, [""; 0]);
}
