//! Files of others as evidence: read whole, or not used and named.

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tallystone::check::{About, Compared, Outside, PullError, Severity};
use tallystone::disk::Platform;
use tallystone::outside::{CsvFile, JsonLines, SqliteQuery};
use tallystone::prelude::*;
use tallystone::testing::SimClock;

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
fn csv_is_read_by_column_preserving_text() {
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
fn malformed_csv_is_rejected_with_line() {
    let head = "product,cents,note,paid\nmug,500,,1\n";
    for (bytes, why) in [
        (
            format!("{head}pen,2"),
            "it is not finished: line 3 does not end, and may be half written: say `loose_end` if it never does",
        ),
        (String::new(), "it is not finished: it is empty, and has no header"),
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
fn json_lines_are_read_or_bad_line_named() {
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
        (String::new(), "it is not finished: it is empty: say `may_be_empty` of the file if it may be"),
    ] {
        assert_eq!(pulled(json, &bytes).expect_err("it is not used"), why);
    }
    assert_eq!(pulled(|path: &Path| json(path).may_be_empty(), "").expect("it may be empty"), []);
}

#[test]
fn exported_file_is_dated_by_modification_time() {
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
fn sqlite_file_is_read_during_concurrent_write() {
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
fn invalid_sqlite_query_or_row_is_named() {
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

// ---- in a store ----

#[derive(Serialize, Deserialize)]
struct Noted {
    product: String,
    note: String,
}

impl Event for Noted {
    const FAMILY: &'static str = "noted";
    type Id = String;

    fn id(&self) -> String {
        self.product.clone()
    }
}

struct Notes;

impl Projection for Notes {
    const NAME: &'static str = "notes";
    type Event = Noted;
    type Key = String;
    type Row = String;

    fn fold(event: &Noted, rows: &mut Rows<Self>) -> Folded {
        rows.put(event.product.clone(), event.note.clone())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Loose {
    product: String,
    note: Option<String>,
}

fn of_product(row: &Loose) -> String {
    row.product.clone()
}

fn comparing(source: impl Outside<Key = String, Row = Loose>) -> Compared {
    About {
        id: "notes-agree",
        severity: Severity::Ticket,
        owner: "shop",
        means: "Notes differ.",
        remedy: "1 ask",
    }
    .outside::<Notes, _>(source, |ours, theirs| ours == theirs.and_then(|row| row.note.as_ref()))
    .every(MINUTE)
}

/// Number of violations and why the source is not used, some minutes after each version of it.
fn told(compared: Compared, versions: &mut [&mut dyn FnMut()]) -> Vec<(usize, String)> {
    let clock = SimClock::default();
    let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
    let setup = Setup::new().inline::<Notes>().platform(platform).lockstep().alerts(|_| {});
    let store = Store::in_memory(setup.check(compared.for_longer_than(MINUTE))).expect("it opens");
    for product in ["cup", "mug", "pen"] {
        let noted = Noted { product: product.into(), note: "late".into() };
        store.append(Append::event(noted)).expect("it is taken");
    }
    let mut told = Vec::new();
    for change in versions {
        change();
        for _ in 0..4 {
            clock.advance(MINUTE);
            (0..8).for_each(|_| store.step());
        }
        let open = store.checks().of("notes-agree").expect("rows are read").len();
        let source = store.checks().sources().expect("rows are read").remove(0);
        told.push((open, source.failed.map(|(_, why)| why).unwrap_or_default()));
    }
    told
}

#[test]
fn csv_missing_column_or_rows_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notes.csv");
    let source = |path: &Path| CsvFile::new(path, of_product);
    let write = |text: &'static str| {
        let path = path.clone();
        move || std::fs::write(&path, text).expect("it is written")
    };
    let good = "product,note\ncup,late\nmug,late\npen,late\n";
    let refused = |text: &'static str| {
        let told =
            told(comparing(source(&path)), &mut [&mut write(good), &mut write(text), &mut write(good)]);
        assert_eq!((&told[0], &told[2]), (&(0, String::new()), &(0, String::new())), "it is well again");
        assert_eq!(told[1].0, 0, "{text}");
        told[1].1.clone()
    };
    for (text, part) in [
        ("product\ncup\nmug\npen\n", "gone: `note`: "),
        ("product,remark\ncup,late\nmug,late\npen,late\n", "gone: `note`; added: `remark`: "),
        ("product, note\ncup,late\nmug,late\npen,late\n", "its columns: ` note` is not the field `note`: "),
        ("product,NOTE\ncup,late\nmug,late\npen,late\n", "its columns: `NOTE` is not the field `note`: "),
        ("product;note\ncup;late\nmug;late\npen;late\n", "line 2: field `product`"),
        ("product,note,note\ncup,late,late\n", "line 1: two columns are called `note`"),
        ("product,note\n", "it shrank from 3 rows to 0: "),
        ("product\n", "gone: `note`: "),
    ] {
        let why = refused(text);
        assert!(why.contains(part), "{text:?}: {why}");
    }
    // One with a header alone from the first on.
    let only_header = &mut [&mut write("product,note\n") as &mut dyn FnMut()];
    let [(0, why)] = &told(comparing(source(&path)), only_header)[..] else { panic!("it proves nothing") };
    assert!(why.starts_with("it has no rows, and that disagrees with ours: "), "{why}");
    let may_be_empty = comparing(source(&path).may_be_empty());
    assert_eq!(told(may_be_empty, only_header), [(3, String::new())], "it may be empty");
    // Another column beside them is as good.
    let mut more = write("more,product,note\n1,cup,late\n1,mug,late\n1,pen,late\n");
    let told = told(comparing(source(&path)), &mut [&mut write(good), &mut more]);
    assert_eq!(told[1], (0, String::new()));
}

#[test]
fn json_lines_missing_field_or_end_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notes.jsonl");
    let source = |path: &Path| JsonLines::new(path, of_product);
    let line = |product: &str, rest: &str| format!("{{\"product\":\"{product}\"{rest}}}\n");
    let text = |cup, mug, pen| [("cup", cup), ("mug", mug), ("pen", pen)];
    let write = |lines: [(&str, &str); 3]| {
        let (path, text) = (path.clone(), lines.map(|(product, rest)| line(product, rest)).concat());
        move || std::fs::write(&path, &text).expect("it is written")
    };
    let late = ",\"note\":\"late\"";
    let good = text(late, late, late);
    let mut first = write(good);
    let told_of =
        |next: &mut dyn FnMut()| told(comparing(source(&path)), &mut [&mut write(good), next]).remove(1);
    let (open, why) = told_of(&mut write(text("", "", "")));
    assert!(open == 0 && why.contains("gone: `note`: "), "{why}");
    assert_eq!(told_of(&mut write(text(late, late, ""))), (1, String::new()), "one may have none");
    let (open, why) = told_of(&mut write(text(",\"Note\":\"late\"", "", "")));
    assert!(open == 0 && why.starts_with("its columns: `Note` is not the field `note`: "), "{why}");
    let truncated = &mut || {
        write(good)();
        let bytes = std::fs::read(&path).expect("it is read");
        std::fs::write(&path, &bytes[..bytes.len() - 9]).expect("it is written");
    };
    let (open, why) = told_of(truncated);
    assert!(open == 0 && why.contains("line 3 does not end"), "{why}");
    let (open, why) = told_of(&mut || std::fs::write(&path, "").expect("it is written"));
    assert!(open == 0 && why.contains("say `may_be_empty` of the file"), "{why}");
    // Cut between two lines, it is a file of fewer rows.
    let loose = comparing(source(&path).may_be_empty().may_lack("note"));
    let mut lacking = write(text("", "", ""));
    assert_eq!(told(loose, &mut [&mut first, &mut lacking])[1], (3, String::new()), "it may lack it");
}

#[test]
fn replaced_sqlite_table_or_narrowed_view_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notes.db");
    let run = |sql: &'static str| {
        let path = path.clone();
        move || rusqlite::Connection::open(&path).and_then(|file| file.execute_batch(sql)).expect("it runs")
    };
    let good = "DROP VIEW IF EXISTS shown; DROP TABLE IF EXISTS notes;
        CREATE TABLE notes (product TEXT, note TEXT);
        INSERT INTO notes VALUES ('cup', 'late'), ('mug', 'late'), ('pen', 'late');
        CREATE VIEW shown AS SELECT product, note FROM notes;";
    let refused = |query: &str, sql: &'static str| {
        let source = SqliteQuery::new(&path, query, of_product);
        let told = told(comparing(source), &mut [&mut run(good), &mut run(sql), &mut run(good)]);
        assert_eq!((&told[0], &told[2]), (&(0, String::new()), &(0, String::new())), "it is well again");
        assert_eq!(told[1].0, 0, "{sql}");
        told[1].1.clone()
    };
    let without = "DROP VIEW shown; CREATE VIEW shown AS SELECT product FROM notes";
    for (query, sql, part) in [
        ("SELECT * FROM shown", without, "gone: `note`: "),
        ("SELECT product, note FROM shown", without, "no such column: note"),
        // In double quotes a name that is no column is a text to SQLite.
        ("SELECT product, \"note\" FROM shown", without, "gone: `note`; added: `\"note\"`: "),
        (
            "SELECT product, \"note\" AS note FROM shown",
            without,
            "of another type: `note` from TEXT to none: ",
        ),
        ("SELECT * FROM notes", "DELETE FROM notes", "it shrank from 3 rows to 0: "),
        (
            "SELECT * FROM notes",
            "DROP TABLE notes; CREATE TABLE notes (product TEXT, note TEXT)",
            "it shrank from 3 rows to 0: ",
        ),
        (
            "SELECT * FROM notes",
            "DROP TABLE notes; CREATE TABLE notes (product TEXT, note BLOB)",
            "of another type: `note` from TEXT to BLOB: ",
        ),
        (
            "SELECT product, note FROM notes",
            "ALTER TABLE notes RENAME note TO remark",
            "no such column: note",
        ),
        ("SELECT * FROM notes", "ALTER TABLE notes RENAME note TO remark", "gone: `note`; added: `remark`: "),
    ] {
        let why = refused(query, sql);
        assert!(why.contains(part), "{query}, {sql}: {why}");
    }
    let twice = SqliteQuery::new(&path, "SELECT product, note, note FROM notes", of_product);
    assert_eq!(
        twice.pull().expect_err("it is not used").to_string(),
        "its columns: two columns are called `note`"
    );
}
