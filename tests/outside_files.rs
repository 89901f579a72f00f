//! Files of others as evidence: read whole, or not used and named.

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;
use tallystone::check::{Outside, PullError};
use tallystone::outside::{CsvFile, JsonLines, SqliteQuery};

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Invoice {
    product: String,
    cents: u64,
    note: Option<String>,
    paid: bool,
}

fn csv(path: &Path) -> CsvFile<String, Invoice> {
    CsvFile::new(path, |row: &Invoice| row.product.clone())
}

fn json(path: &Path) -> JsonLines<String, Invoice> {
    JsonLines::new(path, |row: &Invoice| row.product.clone())
}

fn invoice(product: &str, cents: u64, note: Option<&str>, paid: bool) -> (String, Invoice) {
    let (product, note) = (product.to_owned(), note.map(str::to_owned));
    (product.clone(), Invoice { product, cents, note, paid })
}

/// What pulling a file with these bytes comes to.
fn pulled<O: Outside<Row = Invoice, Key = String>>(
    of: impl Fn(&Path) -> O,
    bytes: &str,
) -> Result<Vec<(String, Invoice)>, String> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    std::fs::write(&path, bytes).expect("it is written");
    of(&path).pull().map(|pulled| pulled.rows).map_err(|error| error.to_string())
}

#[test]
fn a_csv_file_is_read_by_column_and_its_texts_stay_texts() {
    let text = "cents,product,paid,note,more\n500,NA,1,\"a \"\"quoted\"\"\nnote\",x\n200,straße 7,false,,\n";
    let rows = pulled(csv, text).expect("it is read");
    let expected =
        [invoice("NA", 500, Some("a \"quoted\"\nnote"), true), invoice("straße 7", 200, None, false)];
    assert_eq!(rows, expected);
    assert_eq!(pulled(csv, "product,cents,note,paid\n").expect("a header is enough"), []);
    let semicolons = |path: &Path| csv(path).delimiter(b';');
    let rows = pulled(semicolons, "product;cents;note;paid\r\nmug;5;;0\r\n").expect("it is read");
    assert_eq!(rows, [invoice("mug", 5, None, false)]);
}

#[test]
fn a_csv_file_that_is_not_well_is_not_used_and_says_where() {
    let head = "product,cents,note,paid\nmug,500,,1\n";
    for (bytes, why) in [
        (
            format!("{head}pen,2"),
            "it is not finished: line 3 does not end, and may be half written: say `loose_end` if it never does",
        ),
        (String::new(), "it is not finished: it is empty: say `may_be_empty` if it may be"),
        (format!("{head}pen,200\n"), "line 3: it has 2 fields, the first line has 4"),
        (
            format!("{head}pen,two,,1\n"),
            "line 3: field `cents` found text, expected a whole number of 64 bits, not below 0",
        ),
        (
            format!("{head}pen,,,1\n"),
            "line 3: field `cents` found text, expected a whole number of 64 bits, not below 0",
        ),
        (format!("{head}pen,2,,perhaps\n"), "line 3: field `paid` expected true or false, or 1 or 0"),
        ("product,cents,note\nmug,5,\n".into(), "line 2: field `paid` is missing"),
        ("product,cents,product,paid\nmug,5,pen,1\n".into(), "line 1: two columns are called `product`"),
    ] {
        assert_eq!(
            pulled(csv, &bytes).expect_err("it is not used").replace("`: ", "` "),
            why.replace("`: ", "` ")
        );
    }
    for open in
        [format!("{head}pen,2,\"a quote,1\n"), "note,product,paid,cents\n,mug,1,500\n,pen,1,\"2\n".into()]
    {
        assert_eq!(
            pulled(csv, &open).expect_err("it is not used"),
            "it is not finished: a quote does not end"
        );
    }
    let loose = |path: &Path| csv(path).loose_end();
    assert_eq!(pulled(loose, &format!("{head}pen,2,,0")).expect("it is read").len(), 2);
    let missing = csv(Path::new("no/such/file.csv")).pull();
    assert!(matches!(missing, Err(PullError::Unreachable(_))));
    let bytes = tempfile::tempdir().expect("a directory");
    assert!(matches!(csv(bytes.path()).pull(), Err(PullError::Unreachable(_))), "a directory is no file");
}

#[test]
fn json_lines_are_read_and_the_line_that_is_wrong_is_named() {
    let good = "{\"product\":\"mug\",\"cents\":500,\"note\":null,\"paid\":true}\n\n{\"paid\":false,\"product\":\"é\",\"cents\":1}\n";
    let rows = pulled(json, good).expect("it is read");
    assert_eq!(rows, [invoice("mug", 500, None, true), invoice("é", 1, None, false)]);
    for (bytes, why) in [
        (
            format!("{good}{{\"product\":\"pen\""),
            "it is not finished: line 4 does not end, and may be half written: say `loose_end` if it never does",
        ),
        (format!("{good}{{\"product\":\"pen\"\n"), "line 4: it ends early at column 16"),
        (format!("{good}nonsense\n"), "line 4: it is not json at column 2"),
        (
            format!("{good}{{\"product\":\"pen\",\"cents\":\"secret\",\"paid\":true}}\n"),
            "line 4: it does not fit the type at column 33",
        ),
        (String::new(), "it is not finished: it is empty: say `may_be_empty` if it may be"),
    ] {
        assert_eq!(pulled(json, &bytes).expect_err("it is not used"), why);
    }
    assert_eq!(pulled(|path: &Path| json(path).may_be_empty(), "").expect("it may be empty"), []);
}

#[test]
fn a_file_that_an_export_writes_is_as_old_as_that_and_gets_older_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("invoices.jsonl");
    std::fs::write(&path, "{\"product\":\"mug\",\"cents\":500,\"paid\":true}\n").expect("it is written");
    let written = std::fs::metadata(&path).and_then(|file| file.modified()).expect("it has a time");
    assert_eq!(json(&path).pull().expect("it is read").as_of, None);
    let export = json(&path).export(5 * MINUTE).pull().expect("it is read");
    assert_eq!(export.as_of, Some(written - 5 * MINUTE));
}

fn sqlite(path: &Path, query: &str) -> SqliteQuery<String, Invoice> {
    SqliteQuery::new(path, query, |row: &Invoice| row.product.clone()).patience(Duration::ZERO)
}

const INVOICES: &str = "SELECT product, cents, note, paid FROM invoices";

#[test]
fn a_sqlite_file_is_read_while_another_connection_writes_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("invoices.db");
    assert!(matches!(sqlite(&path, INVOICES).pull(), Err(PullError::Unreachable(_))), "it is not created");
    assert!(!path.exists());
    let theirs = rusqlite::Connection::open(&path).expect("it opens");
    let mode: String =
        theirs.query_row("PRAGMA journal_mode = wal", [], |row| row.get(0)).expect("it is set");
    assert_eq!(mode, "wal");
    theirs
        .execute_batch(
            "CREATE TABLE invoices (product TEXT, cents INTEGER, note TEXT, paid INTEGER);
             INSERT INTO invoices VALUES ('mug', 500, NULL, 1), ('straße', 200, 'late', 0);",
        )
        .expect("it is written");
    let before = [invoice("mug", 500, None, true), invoice("straße", 200, Some("late"), false)];
    assert_eq!(sqlite(&path, INVOICES).pull().expect("it is read").rows, before);
    // In the middle of their transaction: what is committed is read, and nothing else.
    theirs.execute_batch("BEGIN IMMEDIATE; UPDATE invoices SET cents = 1;").expect("it begins");
    assert_eq!(sqlite(&path, INVOICES).pull().expect("it is read").rows, before);
    theirs.execute_batch("COMMIT").expect("it ends");
    let after = sqlite(&path, INVOICES).pull().expect("it is read").rows;
    assert_eq!(after.iter().map(|(_, row)| row.cents).collect::<Vec<_>>(), [1, 1]);
    // Without a log beside it, a writer that is about to write keeps readers out.
    theirs.execute_batch("PRAGMA journal_mode = delete; BEGIN EXCLUSIVE").expect("it begins");
    assert!(matches!(sqlite(&path, INVOICES).pull(), Err(PullError::Unfinished(_))));
    theirs.execute_batch("COMMIT").expect("it ends");
}

#[test]
fn what_a_sqlite_query_cannot_give_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("invoices.db");
    let theirs = rusqlite::Connection::open(&path).expect("it opens");
    theirs
        .execute_batch(
            "CREATE TABLE invoices (product TEXT, cents, note TEXT, paid INTEGER);
             INSERT INTO invoices VALUES ('mug', 500, NULL, 1), ('pen', 'secret', NULL, 0);",
        )
        .expect("it is written");
    let why = |query| sqlite(&path, query).pull().expect_err("it is not used").to_string();
    let wrong = why(INVOICES);
    assert!(wrong.starts_with("row 2: field `cents`: "), "{wrong}");
    assert!(!wrong.contains("secret"), "{wrong}");
    for (query, part) in [
        ("SELECT neither FROM invoices", "no such column: neither"),
        ("SELECT", "incomplete input"),
        ("DELETE FROM invoices", "it cannot be read: the query writes"),
    ] {
        let why = why(query);
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(why("SELECT product, cents FROM invoices LIMIT 1"), "row 1: field `paid` is missing");
    let left: i64 =
        theirs.query_row("SELECT count(*) FROM invoices", [], |row| row.get(0)).expect("it is read");
    assert_eq!(left, 2);
}
