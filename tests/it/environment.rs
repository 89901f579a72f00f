//! The world around a store: working directory, links, locks, other processes, file systems with habits of their own.
//!
//! A child is this binary again, told by `TALLY_CHILD` what to do. It speaks on its standard output.

use crate::support::*;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tallystone::Setup;
use tallystone::disk::{Access, Disk, File, Kind, Lock, Platform};
use tallystone::prelude::*;
use tallystone::testing::{Fault, Faults, SimDisk, refuse_thread};

const CHILD: &str = "TALLY_CHILD";
const DIR: &str = "TALLY_DIR";

/// Deposits of each account, folded behind the writer.
struct Deposits;

impl Projection for Deposits {
    const NAME: &str = "deposits";
    type Event = Bank;
    type Key = u32;
    type Row = u64;
    fn fold(event: &Bank, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Bank::Deposited { account, .. } => rows.update(*account, |count| *count += 1),
            _ => Ok(()),
        }
    }
}

/// Small segments, and every kind of file that a store keeps.
fn busy() -> Setup {
    setup().options(small()).behind::<Deposits>().alerts(|_| ())
}

fn room() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// All names below a directory, in order.
fn names(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("it is a directory") {
        let path = entry.expect("it can be read").path();
        all.push(path.clone());
        if path.is_dir() && !path.is_symlink() {
            all.extend(names(&path));
        }
    }
    all.sort();
    all
}

fn append_many(store: &Store, count: u64) {
    for n in 0..count {
        store.append(deposit(n as u32 % 7, 1)).expect("appended");
    }
}

// ---- children ----

fn say(line: &str) {
    // The harness may have begun a line.
    let _ = std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes());
}

#[test]
fn child() {
    let Ok(mode) = std::env::var(CHILD) else { return };
    let dir = PathBuf::from(std::env::var(DIR).expect("the parent says where"));
    match mode.as_str() {
        "chdir" => change_directory(&dir),
        "open" => match Store::open(&dir, busy()) {
            Ok(_) => say("said opened"),
            Err(OpenError::AlreadyOpen { .. }) => say("said open already"),
            Err(error) => say(&format!("said {error:?}")),
        },
        #[cfg(unix)]
        "fork" => fork_after_open(&dir),
        #[cfg(unix)]
        "fork-beside" => close_beside_a_fork(&dir),
        mode => panic!("no such child: {mode}"),
    }
    std::process::exit(0);
}

fn spawn(mode: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("a test has a binary"))
        .args(["--exact", "environment::child", "--nocapture", "--test-threads=1"])
        .envs([(CHILD, mode), (DIR, dir.to_str().expect("a plain path"))])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts")
}

/// Lines that a child says, until it ends.
fn said(mode: &str, dir: &Path) -> Vec<String> {
    let mut child = spawn(mode, dir);
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    let said = lines.filter_map(|line| line.strip_prefix("said ").map(str::to_owned)).collect();
    assert!(child.wait().expect("it ends").success());
    said
}

// ---- the working directory ----

const RULE: &str = r#"
    [check.opened-first]
    kind = "precedence"
    when = "bank.Opened"
    then = "bank.Withdrawn"
    owner = "bank"
    severity = "ticket"
    means = "Money left an account that was never opened."
    remedy = "1 ask the customer"
"#;

/// In `a` there is all that was meant, in `b` all that must not be touched.
fn change_directory(dir: &Path) {
    use tallystone::check::Outside;
    use tallystone::outside::JsonLines;
    std::env::set_current_dir(dir.join("a")).expect("it is there");
    let rows = JsonLines::new("rows.jsonl", |row: &u64| *row);
    let store = Store::create("db", busy().check_folder("rules")).expect("created");
    append_many(&store, 5);
    std::env::set_current_dir(dir.join("b")).expect("it is there");
    let before = names(&dir.join("b"));
    append_many(&store, 500);
    store.wait_for::<Deposits>(store.stats().position, Duration::from_secs(60)).expect("it follows");
    assert_eq!(store.verify().expect("verified").first_bad, None);
    assert!(store.audit::<Balances>().expect("audited").is_clean());
    // A lost lock stops it, and a recovery opens everything again.
    fs::remove_file(dir.join("a/db/lock")).expect("removed");
    assert!(matches!(store.append(deposit(1, 1)), Err(AppendError::Poisoned { .. })));
    store.recover().expect("recovered");
    append_many(&store, 500);
    assert_eq!(rows.pull().expect("pulled").rows.len(), 2, "the rows of the directory in which it was made");
    let rules = store.checks().rules();
    assert_eq!((rules.len(), &*rules[0].checks), (1, &["opened-first".to_owned()][..]));
    assert!(rules[0].file.starts_with(dir.join("a")), "{:?}", rules[0].file);
    store.close();
    assert_eq!(names(&dir.join("b")), before);
    say("said done");
}

#[test]
fn open_store_ignores_working_directory_change() {
    let room = room();
    let dir = room.path().canonicalize().expect("a real path");
    for side in ["a", "b"] {
        fs::create_dir_all(dir.join(side).join("rules")).expect("created");
    }
    fs::write(dir.join("a/rules/a.toml"), RULE).expect("written");
    fs::write(dir.join("a/rows.jsonl"), "1\n2\n").expect("written");
    fs::write(dir.join("b/rows.jsonl"), "7\n").expect("written");
    Store::create(dir.join("b/db"), busy()).expect("created").close();
    assert_eq!(said("chdir", &dir), ["done"]);
    let store = Store::open(dir.join("a/db"), busy()).expect("opens");
    assert_eq!(events(&store).len(), 1005);
    assert!(store.stats().log_files > 3, "segments were rotated after the change");
    assert_eq!(store.verify().expect("verified").first_bad, None);
    assert_eq!(events(&Store::open(dir.join("b/db"), busy()).expect("opens")).len(), 0);
}

#[test]
fn relative_path_without_parent_creates_and_opens() {
    // The working directory of a test is that of the crate.
    let room = tempfile::tempdir_in(".").expect("a temporary directory");
    let path = Path::new(room.path().file_name().expect("it has a name"));
    Store::create(path, busy()).expect("created").close();
    Store::open(path.join("."), busy()).expect("opens").close();
    Store::open(path.join("log/.."), busy()).expect("opens");
}

// ---- links ----

#[cfg(unix)]
#[test]
fn symlinked_directory_and_target_are_same_store() {
    let room = room();
    let (real, link) = (room.path().join("releases-5"), room.path().join("current"));
    fs::create_dir(&real).expect("created");
    std::os::unix::fs::symlink("releases-5", &link).expect("linked");
    let store = Store::create(link.join("db"), busy()).expect("created");
    for path in [real.join("db"), link.join("db"), link.join("db/")] {
        assert!(matches!(Store::open(path, busy()), Err(OpenError::AlreadyOpen { .. })));
    }
    append_many(&store, 300);
    // The link goes elsewhere, the store stays.
    fs::remove_file(&link).expect("removed");
    fs::create_dir(room.path().join("releases-6")).expect("created");
    std::os::unix::fs::symlink("releases-6", &link).expect("linked");
    append_many(&store, 300);
    store.close();
    assert_eq!(names(&room.path().join("releases-6")), Vec::<PathBuf>::new());
    assert_eq!(events(&Store::open(real.join("db"), busy()).expect("opens")).len(), 600);
    assert!(matches!(Store::open(link.join("db"), busy()), Err(OpenError::NotFound { .. })));
}

#[cfg(unix)]
#[test]
fn symlinked_log_directory_is_refused() {
    let room = room();
    let path = room.path().join("db");
    Store::create(&path, busy()).expect("created").close();
    fs::rename(path.join("log"), room.path().join("elsewhere")).expect("moved");
    std::os::unix::fs::symlink("../elsewhere", path.join("log")).expect("linked");
    let Err(OpenError::NotAStore { why, .. }) = Store::open(&path, busy()) else { panic!("a linked log") };
    assert_eq!(why, "its `log` is no directory");
}

/// As Kubernetes mounts a ConfigMap: a name that does not change, a link that is swapped, a directory for each version.
#[cfg(unix)]
#[test]
fn rule_folder_follows_swapped_config_map() {
    use std::os::unix::fs::symlink;
    let room = room();
    let (folder, clock) = (room.path().join("rules"), tallystone::testing::SimClock::default());
    let version = |name: &str, id: &str| {
        fs::create_dir_all(folder.join(name).join("hourly")).expect("created");
        fs::write(folder.join(name).join("a.toml"), RULE.replace("opened-first", id)).expect("written");
        let other = RULE.replace("opened-first", "also-first");
        fs::write(folder.join(name).join("hourly/b.toml"), other).expect("written");
    };
    version("..2026_01", "opened-first");
    symlink("..2026_01", folder.join("..data")).expect("linked");
    symlink("..data/a.toml", folder.join("a.toml")).expect("linked");
    symlink("..data/hourly", folder.join("hourly")).expect("linked");
    let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
    let setup = setup().platform(platform).lockstep().alerts(|_| ()).check_folder(&folder);
    let store = Store::in_memory(setup).expect("it opens");
    let checks = || -> Vec<String> {
        clock.advance(Duration::from_secs(10));
        (0..16).for_each(|_| store.step());
        store
            .checks()
            .rules()
            .into_iter()
            .flat_map(|file| {
                assert_eq!(file.error, None);
                file.checks
            })
            .collect()
    };
    assert_eq!(checks(), ["opened-first", "also-first"]);
    version("..2026_02", "opened-before");
    symlink("..2026_02", folder.join("..data_tmp")).expect("linked");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("swapped");
    fs::remove_dir_all(folder.join("..2026_01")).expect("removed");
    assert_eq!(checks(), ["opened-before", "also-first"]);
    // The name of a key that was taken away leads to nothing for a moment: what it said stands.
    fs::remove_file(folder.join("..2026_02/a.toml")).expect("removed");
    clock.advance(Duration::from_secs(10));
    (0..16).for_each(|_| store.step());
    let rules = store.checks().rules();
    assert_eq!(rules[0].checks, ["opened-before"]);
    assert!(rules[0].error.as_ref().is_some_and(|error| error.what.contains("leads to nothing")));
    fs::remove_file(folder.join("a.toml")).expect("removed");
    assert_eq!(checks(), ["also-first"]);
}

#[cfg(unix)]
#[test]
fn links_leaving_rule_folder_are_reported() {
    use std::os::unix::fs::symlink;
    let room = room();
    let (folder, outside) = (room.path().join("rules"), room.path().join("outside"));
    fs::create_dir_all(folder.join("sub")).expect("created");
    fs::create_dir(&outside).expect("created");
    fs::write(outside.join("a.toml"), RULE).expect("written");
    symlink("../outside/a.toml", folder.join("a.toml")).expect("linked");
    symlink("../outside", folder.join("all")).expect("linked");
    symlink("..", folder.join("sub/round")).expect("linked");
    let setup = setup().lockstep().alerts(|_| ()).check_folder(&folder);
    let store = Store::in_memory(setup).expect("it opens");
    (0..16).for_each(|_| store.step());
    let rules = store.checks().rules();
    let why = |name: &str| {
        let file = rules.iter().find(|file| file.file == folder.join(name));
        file.and_then(|file| file.error.clone()).unwrap_or_else(|| panic!("{name}: {rules:#?}")).what
    };
    assert!(why("a.toml").contains("leaves the folder of rules"), "{}", why("a.toml"));
    assert!(why("all").contains("leaves the folder of rules"), "{}", why("all"));
    assert!(why("sub/round").contains("a link to a folder that it is in"));
    assert!(rules.iter().all(|file| file.checks.is_empty()));
    // Each is a finding.
    let open = store.checks().open().expect("rows are read");
    assert_eq!(open.iter().filter(|violation| violation.check == "tallystone.rules").count(), 3);
}

// ---- creating ----

#[test]
fn failed_create_leaves_nothing_behind() {
    let rehearsal = SimDisk::new(1);
    drop(Store::create("/store", simulated(&rehearsal)).expect("created"));
    let ops = rehearsal.op_count();
    let (mut failed, mut reads) = (0, rehearsal.read_count());
    for op in 1..=ops {
        let disk = SimDisk::new(op);
        disk.plan(Faults::none().at(op, Fault::AnyError));
        match Store::create("/store", simulated(&disk)) {
            // At the close.
            Ok(store) => drop(store),
            Err(error) => {
                assert_eq!(disk.files(), Vec::<PathBuf>::new(), "op {op}: {error}");
                assert!(disk.kind(Path::new("/store")).is_err(), "op {op}: the directory");
                failed += 1;
                Store::create("/store", simulated(&disk)).expect("created at the second try");
            }
        }
    }
    assert!(failed > 15, "{failed} of {ops} operations");
    while reads > 0 {
        let disk = SimDisk::new(reads);
        disk.plan(Faults::none().at(reads, Fault::ReadError));
        if Store::create("/store", simulated(&disk)).is_err() {
            disk.plan(Faults::none());
            assert_eq!(disk.files(), Vec::<PathBuf>::new(), "read {reads}");
        }
        reads -= 1;
    }
}

#[test]
fn failed_create_keeps_foreign_files() {
    let disk = SimDisk::new(1);
    disk.write_file("/store/lost+found/inode-7", b"theirs");
    disk.plan(Faults::none().at(disk.op_count() + 12, Fault::AnyError));
    assert!(Store::create("/store", simulated(&disk)).is_err());
    assert_eq!(disk.files(), [Path::new("/store/lost+found/inode-7")]);
    let store =
        Store::create("/store", simulated(&disk)).expect("the root of a file system is room for a store");
    append_many(&store, 3);
    store.close();
    assert_eq!(events(&Store::open("/store", simulated(&disk)).expect("opens")).len(), 3);
    assert_eq!(disk.read_file("/store/lost+found/inode-7").expect("it is there"), b"theirs");
}

#[test]
fn failed_thread_start_leaves_nothing_running() {
    let disk = SimDisk::new(1);
    let on = || setup().options(small()).platform(platform(&disk)).behind::<Deposits>().alerts(|_| ());
    let on = || on().check_folder("/rules");
    disk.create_dir(Path::new("/rules")).expect("created");
    let mut refused = 0;
    loop {
        refuse_thread(Some(refused));
        let opened = Store::create("/store", on());
        if refuse_thread(None) {
            break opened.expect("no thread was refused").close();
        }
        let Err(OpenError::Storage(error)) = opened else { panic!("{opened:?}") };
        assert_eq!(error.to_string(), "a thread could not be started: no more threads, on purpose");
        assert_eq!(disk.open_files(), Vec::<PathBuf>::new(), "thread {refused}");
        assert_eq!(disk.files(), Vec::<PathBuf>::new(), "thread {refused}");
        refused += 1;
    }
    // Writer, flusher, scrub, a projection behind, the checks and their watchdog.
    assert_eq!(refused, 6);
    // The same with a store that has something to lose.
    let store = Store::open("/store", on()).expect("opens");
    append_many(&store, 50);
    drop(store);
    for after in 0..refused {
        refuse_thread(Some(after));
        assert!(Store::open("/store", on()).is_err(), "thread {after}");
        assert_eq!(disk.open_files(), Vec::<PathBuf>::new(), "thread {after}");
    }
    assert_eq!(events(&Store::open("/store", on()).expect("opens")).len(), 50);
}

// ---- crowds and long names ----

#[test]
fn thousands_of_foreign_files_are_ignored() {
    let disk = SimDisk::new(1);
    let store = Store::create("/store", simulated(&disk).behind::<Deposits>()).expect("created");
    append_many(&store, 20);
    store.close();
    for n in 0..5000 {
        disk.write_file(format!("/store/log/core.{n}"), b"");
        disk.write_file(format!("/store/backup.{n}"), b"");
    }
    let reads = disk.read_count();
    let store = Store::open("/store", simulated(&disk).behind::<Deposits>()).expect("opens");
    assert!(disk.read_count() - reads < 500, "none of them is looked at: {}", disk.read_count() - reads);
    append_many(&store, 20);
    assert_eq!(store.verify().expect("verified").first_bad, None);
    assert_eq!(events(&store).len(), 40);
}

/// Around the longest path there may be: it works, or it is refused and leaves nothing.
#[cfg(unix)]
#[test]
fn path_near_length_limit_works_or_leaves_nothing() {
    let room = room();
    let mut deep = room.path().canonicalize().expect("a real path");
    while deep.as_os_str().len() < 3800 {
        deep.push("d".repeat(200));
    }
    fs::create_dir_all(&deep).expect("created");
    let (mut worked, mut refused) = (0, 0);
    for len in (3900..4100).step_by(9) {
        let path = deep.join("s".repeat((len - deep.as_os_str().len()).min(255)));
        if path.as_os_str().len() < len {
            continue;
        }
        let before = names(&deep).len();
        match Store::create(&path, busy()) {
            Ok(store) => {
                append_many(&store, 3);
                store.close();
                assert_eq!(events(&Store::open(&path, busy()).expect("opens")).len(), 3);
                worked += 1;
            }
            Err(error) => {
                assert!(matches!(error, OpenError::Storage(_)), "{error:?}");
                let left: Vec<_> = names(&deep)
                    .into_iter()
                    .map(|left| left.strip_prefix(&deep).map(|left| left.to_owned()))
                    .collect();
                assert!(
                    left.len() == before,
                    "{len}: {error} {:?} {left:?}",
                    std::error::Error::source(&error)
                );
                refused += 1;
            }
        }
    }
    assert!(worked > 2 && refused > 2, "{worked} worked, {refused} refused");
}

#[test]
fn byte_order_mark_is_ignored() {
    use tallystone::check::{Outside, PullError};
    use tallystone::outside::{CsvFile, JsonLines};
    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Paid {
        order: u64,
    }
    let room = room();
    let path = room.path().join("file");
    let json = JsonLines::new(&path, |row: &Paid| row.order);
    fs::write(&path, "\u{feff}{\"order\":7}\n").expect("written");
    assert_eq!(json.pull().expect("pulled").rows, [(7, Paid { order: 7 })]);
    fs::write(&path, "\u{feff}").expect("written");
    assert!(matches!(json.pull(), Err(PullError::Unfinished(_))), "it is empty");
    let csv = CsvFile::new(&path, |row: &Paid| row.order);
    fs::write(&path, "\u{feff}order\n7\n").expect("written");
    assert_eq!(csv.pull().expect("pulled").rows, [(7, Paid { order: 7 })]);
    let utf_16: Vec<u8> = "\u{feff}order\n7\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(&path, utf_16).expect("written");
    for error in [csv.pull().err(), json.pull().err()] {
        assert!(error.as_ref().is_some_and(|error| error.to_string().contains("UTF-16")), "{error:?}");
    }
    let disk = SimDisk::new(1);
    disk.write_file("/rules/a.toml", format!("\u{feff}{RULE}").as_bytes());
    let store = Store::in_memory(simulated(&disk).alerts(|_| ()).check_folder("/rules")).expect("it opens");
    store.step();
    assert_eq!(store.checks().rules()[0].error, None);
}

// ---- locks ----

#[test]
fn removed_lock_file_still_excludes_others() {
    let room = room();
    let path = room.path().join("db");
    let store = Store::create(&path, busy()).expect("created");
    append_many(&store, 3);
    fs::remove_file(path.join("lock")).expect("removed");
    assert!(matches!(Store::open(&path, busy()), Err(OpenError::AlreadyOpen { .. })));
    assert_eq!(said("open", &path), ["open already"]);
    // The holder stops: another version of this crate may go by that file alone.
    let refused = store.append(deposit(1, 1).key("client", "one"));
    assert!(matches!(refused, Err(AppendError::Poisoned { .. })), "{refused:?}");
    assert!(
        store
            .stats()
            .poisoned
            .is_some_and(|error| error.is_lock_lost() && error.to_string().contains("lock"))
    );
    assert_eq!(events(&store).len(), 3, "views stay readable");
    store.recover().expect("nobody else has it");
    assert!(!store.append(deposit(1, 1).key("client", "one")).expect("appended").replayed);
    assert!(matches!(Store::open(&path, busy()), Err(OpenError::AlreadyOpen { .. })));
    assert_eq!(said("open", &path), ["open already"]);
    store.close();
    assert_eq!(said("open", &path), ["opened"]);
    assert_eq!(events(&Store::open(&path, busy()).expect("opens")).len(), 4);
}

#[test]
fn replaced_store_directory_stops_open_store() {
    let room = room();
    let (path, aside) = (room.path().join("db"), room.path().join("aside"));
    let store = Store::create(&path, busy()).expect("created");
    append_many(&store, 3);
    fs::rename(&path, &aside).expect("moved");
    let other = Store::create(&path, busy()).expect("another store");
    let before = names(&path);
    let refused = store.append(deposit(1, 1));
    assert!(matches!(refused, Err(AppendError::Poisoned { .. })), "{refused:?}");
    assert!(matches!(store.recover(), Err(OpenError::AlreadyOpen { .. })));
    assert_eq!(names(&path), before);
    append_many(&other, 2);
    // Moved back, it goes on.
    other.close();
    fs::remove_dir_all(&path).expect("removed");
    fs::rename(&aside, &path).expect("moved");
    store.recover().expect("it is there again");
    append_many(&store, 1);
    assert_eq!(events(&store).len(), 4);
}

/// A disk that has no locks, or may not be written.
#[derive(Debug, Clone)]
struct Odd {
    disk: SimDisk,
    refuses: Arc<AtomicU8>,
}

const NOTHING: u8 = 0;
const LOCKS: u8 = 1;
const WRITES: u8 = 2;

impl Odd {
    fn new() -> Self {
        Self { disk: SimDisk::new(1), refuses: Arc::new(AtomicU8::new(NOTHING)) }
    }

    fn refuse(&self, what: u8) {
        self.refuses.store(what, Ordering::Relaxed);
    }

    fn setup(&self) -> Setup {
        simulated(&self.disk).platform(Platform { disk: Arc::new(self.clone()), ..platform(&self.disk) })
    }

    fn write(&self) -> std::io::Result<&SimDisk> {
        match self.refuses.load(Ordering::Relaxed) {
            WRITES => Err(std::io::ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(&self.disk),
        }
    }
}

impl Disk for Odd {
    fn kind(&self, path: &Path) -> std::io::Result<Kind> {
        self.disk.kind(path)
    }
    fn lock(&self, path: &Path) -> std::io::Result<Option<Box<dyn Lock>>> {
        match self.refuses.load(Ordering::Relaxed) {
            LOCKS => Err(std::io::ErrorKind::Unsupported.into()),
            _ => self.write()?.lock(path),
        }
    }
    fn create_dir(&self, path: &Path) -> std::io::Result<()> {
        self.write()?.create_dir(path)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_new(&self, path: &Path) -> std::io::Result<Box<dyn File>> {
        self.write()?.create_new(path)
    }
    fn open(&self, path: &Path, access: Access) -> std::io::Result<Box<dyn File>> {
        match access {
            Access::Read => self.disk.open(path, access),
            Access::Write => self.write()?.open(path, access),
        }
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.write()?.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.write()?.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> std::io::Result<()> {
        self.write()?.remove_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        self.write()?.sync_dir(dir)
    }
}

#[test]
fn file_system_without_locks_is_refused() {
    let odd = Odd::new();
    odd.refuse(LOCKS);
    let Err(OpenError::Storage(error)) = Store::create("/store", odd.setup()) else { panic!("no lock") };
    assert!(error.to_string().contains("has no locks"), "{error}");
    assert_eq!(odd.disk.files(), Vec::<PathBuf>::new());
    odd.refuse(NOTHING);
    Store::create("/store", odd.setup()).expect("created").close();
    odd.refuse(LOCKS);
    assert!(matches!(Store::open("/store", odd.setup()), Err(OpenError::Storage(_))));
}

#[test]
fn read_only_error_points_to_inspect() {
    let odd = Odd::new();
    let store = Store::create("/store", odd.setup()).expect("created");
    append_many(&store, 3);
    store.close();
    odd.refuse(WRITES);
    let Err(error @ OpenError::ReadOnly { .. }) = Store::open("/store", odd.setup()) else {
        panic!("it writes")
    };
    assert!(error.to_string().contains("Store::inspect"), "{error}");
    assert!(matches!(Store::create("/other", odd.setup()), Err(OpenError::ReadOnly { .. })));
    let on = Platform { disk: Arc::new(odd.clone()), ..platform(&odd.disk) };
    let inspect = Store::inspect_with("/store", &on).expect("reading is enough");
    assert_eq!(inspect.events(Query::all()).map(Result::unwrap).count(), 3);
}

// ---- forks ----

fn hash_of(bytes: &[u8]) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn forked_process_writes_nothing() {
    let disk = SimDisk::new(1);
    let store = Store::create("/store", simulated(&disk)).expect("created");
    append_many(&store, 3);
    let content = || -> Vec<_> {
        disk.files()
            .into_iter()
            .map(|file| (hash_of(&disk.read_file(&file).expect("it is there")), file))
            .collect()
    };
    let before = content();
    disk.run_as(1);
    let refused = store.append(deposit(1, 1));
    assert!(matches!(refused, Err(AppendError::Poisoned { .. })), "{refused:?}");
    let poisoned = store.stats().poisoned.expect("it has stopped");
    assert!(poisoned.is_lock_lost() && poisoned.to_string().contains("fork"), "{poisoned}");
    assert!(store.recover().is_err());
    assert_eq!(events(&store).len(), 3);
    store.close();
    assert_eq!(content(), before);
}

#[cfg(unix)]
fn fork_after_open(dir: &Path) {
    let store = Store::create(dir, setup()).expect("created");
    append_many(&store, 3);
    match fork::fork().expect("forked") {
        fork::Fork::Child => {
            let refused = store.append(deposit(1, 1));
            let lost = store.stats().poisoned.is_some_and(|error| error.is_lock_lost());
            let recovered = store.recover();
            // Neither waits for threads that are its parent's.
            drop(store);
            let is_right = matches!(refused, Err(AppendError::Poisoned { .. })) && lost && recovered.is_err();
            say(&format!("said child {is_right} {refused:?} {recovered:?}"));
            std::process::exit(0);
        }
        fork::Fork::Parent(child) => {
            fork::waitpid(child).expect("the child ends");
            append_many(&store, 3);
            store.close();
            say("said parent");
        }
    }
}

#[cfg(unix)]
#[test]
fn forked_child_refuses_and_parent_continues() {
    let room = room();
    let path = room.path().join("db");
    let said = said("fork", &path);
    assert!(said[0].starts_with("child true"), "{said:?}");
    assert_eq!(said[1..], ["parent"]);
    let store = Store::open(&path, setup()).expect("opens");
    assert_eq!(events(&store).len(), 6);
    assert_eq!(store.verify().expect("verified").first_bad, None);
}

/// Another process has every file of the store open while it is closed, as a program has that is just being started.
#[cfg(unix)]
fn close_beside_a_fork(dir: &Path) {
    use std::io::Read;
    let store = Store::create(dir, setup()).expect("created");
    let (mut until, hold) = std::io::pipe().expect("a pipe");
    match fork::fork().expect("forked") {
        fork::Fork::Child => {
            drop(hold);
            let _ = until.read(&mut [0]);
            // Nothing is dropped.
            std::process::exit(0);
        }
        fork::Fork::Parent(child) => {
            store.close();
            say(&format!("said {:?}", Store::open(dir, setup()).err()));
            drop(hold);
            fork::waitpid(child).expect("the child ends");
        }
    }
}

#[cfg(unix)]
#[test]
fn closed_store_opens_while_fork_holds_files() {
    let room = room();
    assert_eq!(said("fork-beside", &room.path().join("db")), ["None"]);
}
