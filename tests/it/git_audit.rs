//! The example that audits a git history, run as a program on real repositories, odd ones on purpose.
//!
//! - Each repository is made by git itself, in a directory of its own, with nobody's configuration.
//! - What is checked is what a caller sees: the last line, the exit status, and the files that are named.

use crate::support::example::example;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

// ---- a repository, and the audit of it ----

struct Repo {
    dir: TempDir,
}

/// What a run of the example left behind.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

/// The figures of the last line.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Figures {
    commits: u64,
    events: u64,
    replayed: u64,
    agree: u64,
    violations: u64,
}

fn figures(commits: u64, events: u64, replayed: u64, agree: u64, violations: u64) -> Figures {
    Figures { commits, events, replayed, agree, violations }
}

fn git_command(at: &Path) -> Command {
    let mut git = Command::new("git");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GIT_")) {
        git.env_remove(name);
    }
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    git.arg("-C").arg(at).args(["-c", "user.name=A U Thor", "-c", "user.email=author@example.com"]);
    git.args(["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", "-c", "gc.auto=0"]);
    git
}

impl Repo {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(options: &[&str]) -> Self {
        let repo = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(repo.path()).unwrap();
        repo.git([&["init", "--quiet"], options].concat());
        repo
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    fn file(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path().join(name.as_ref())
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// What git prints.
    fn git<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = git_command(&self.path()).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn write(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> &Self {
        let path = self.file(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    fn remove(&self, name: impl AsRef<OsStr>) -> &Self {
        std::fs::remove_file(self.file(name)).unwrap();
        self
    }

    /// Everything that is in the working tree.
    fn commit(&self) -> String {
        self.git(["add", "--all"]);
        self.git(["commit", "--quiet", "--allow-empty", "--message", "work"]);
        self.head()
    }

    fn head(&self) -> String {
        self.git(["rev-parse", "HEAD"])
    }

    fn fast_import(&self, stream: &[u8]) {
        let mut git = git_command(&self.path());
        let mut git = git.args(["fast-import", "--quiet", "--force"]).stdin(Stdio::piped()).spawn().unwrap();
        git.stdin.take().unwrap().write_all(stream).unwrap();
        assert!(git.wait().unwrap().success());
    }

    fn audit_command(&self) -> Command {
        let mut audit = Command::new(example("git_audit"));
        audit.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        audit.arg("--repo").arg(self.path());
        audit
    }

    /// An audit in a temporary store.
    fn audit(&self, args: &[&str]) -> Run {
        run(self.audit_command().args(args))
    }

    /// An audit in the store that is kept.
    fn audit_kept(&self) -> Run {
        run(self.audit_command().arg("--store").arg(self.store()))
    }
}

fn run(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Run {
    /// The last line, which is there once.
    fn figures(&self) -> Figures {
        let lines: Vec<_> = self.out.lines().filter(|line| line.starts_with("git_audit: ")).collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        assert_eq!(self.out.lines().last(), Some(lines[0]), "{self:?}");
        let numbers: Vec<u64> =
            lines[0].split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
        let [commits, events, replayed, agree, violations] = numbers[..] else { panic!("{self:?}") };
        assert_eq!(
            lines[0],
            format!(
                "git_audit: {commits} commits, {events} events, {replayed} replayed, {agree} files agree, \
                 {violations} violations"
            )
        );
        figures(commits, events, replayed, agree, violations)
    }

    #[track_caller]
    fn agrees(&self, expected: Figures) {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.figures(), expected, "{self:?}");
    }

    /// Neither a success nor a finding.
    #[track_caller]
    fn could_not_run(&self, why: &str) {
        assert_eq!(self.code, Some(2), "{self:?}");
        assert!(!self.out.contains("git_audit: "), "{self:?}");
        assert!(self.err.contains("could not run") && self.err.contains(why), "{self:?}");
    }
}

/// A file with so many lines.
fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|n| format!("line {n}\n").into_bytes()).collect()
}

fn bytes(name: &[u8]) -> OsString {
    OsString::from_vec(name.to_vec())
}

// ---- histories ----

#[test]
fn plain_history_agrees() {
    let repo = Repo::new();
    repo.write("a", lines(3)).write("b", lines(5)).commit();
    repo.write("a", lines(4)).commit();
    repo.remove("b").commit();
    repo.audit(&[]).agrees(figures(3, 3 + 4, 0, 1, 0));
}

#[test]
fn deleted_and_created_again() {
    let repo = Repo::new();
    repo.write("a", lines(3)).write("keep", "").commit();
    repo.remove("a").commit();
    repo.write("a", lines(7)).commit();
    repo.git(["mv", "a", "moved"]);
    repo.write("moved", lines(8)).commit();
    repo.audit(&[]).agrees(figures(4, 4 + 6, 0, 2, 0));
}

#[test]
fn mode_symlink_and_directory_changes_agree() {
    let repo = Repo::new();
    repo.write("x", lines(3)).commit();
    std::fs::set_permissions(repo.file("x"), std::fs::Permissions::from_mode(0o755)).unwrap();
    repo.commit();
    repo.remove("x");
    symlink("somewhere\nelse", repo.file("x")).unwrap();
    repo.commit();
    repo.remove("x").write("x/y", lines(2)).commit();
    repo.remove("x/y");
    std::fs::remove_dir(repo.file("x")).unwrap();
    repo.write("x", lines(9)).commit();
    repo.audit(&[]).agrees(figures(5, 5 + 7, 0, 1, 0));
}

#[test]
fn empty_files_and_missing_line_ends() {
    let repo = Repo::new();
    repo.write("empty", "").write("emptied", lines(2)).write("open", "a\nb").write("only", "\n").commit();
    repo.write("emptied", "").write("open", "a\nb\n").write("only", "x").write("crlf", "a\r\nb\r\n").commit();
    repo.write("open", "a\nb\nc").commit();
    repo.audit(&[]).agrees(figures(3, 3 + 9, 0, 5, 0));
}

#[test]
fn odd_names_are_bytes() {
    let repo = Repo::new();
    let names: [&[u8]; 9] = [
        b"new\nline",
        b"tab\t",
        b"\"quoted\" 'name'",
        b"-dash",
        b"\xff\xfe",
        b" ",
        b":100644",
        b"\xc3\xa9",
        b"*[a]?",
    ];
    for name in names {
        repo.write(bytes(name), lines(2));
    }
    repo.write(bytes(b"--/\x01\\n"), lines(1)).commit();
    for name in names {
        repo.write(bytes(name), lines(5));
    }
    repo.commit();
    repo.audit(&[]).agrees(figures(2, 2 + 19, 0, 10, 0));
    // Each name is one line of the report, and git is asked for exactly that file.
    let head = repo.head();
    for n in 11..=19 {
        let run = repo.audit(&["--drop", &n.to_string()]);
        assert_eq!((run.code, run.figures().violations), (Some(1), 1), "{run:?}");
        let named = run.out.lines().find(|line| line.starts_with("violation: ")).unwrap();
        assert!(named.contains(&format!("by git: {head} ")), "{run:?}");
    }
    let run = repo.audit(&["--drop", "19"]);
    assert!(run.out.contains(r"\xff\xfe: 2 lines by its events, 5 lines in the tree"), "{run:?}");
}

#[test]
fn empty_commits_are_one_event_each() {
    let repo = Repo::new();
    repo.commit();
    repo.write("a", lines(1)).commit();
    repo.commit();
    repo.audit(&[]).agrees(figures(3, 3 + 1, 0, 1, 0));
}

#[test]
fn binary_transitions_are_counted_from_blobs() {
    let repo = Repo::new();
    repo.write("a", lines(3)).write("b", b"\0\n\n").write("c", [0; 9000]).write("d", "").commit();
    repo.write("a", b"x\0\ny").write("b", lines(2)).write("d", b"\0").commit();
    repo.write("a", lines(8)).write("c", b"\0\n".repeat(100_000)).remove("d").commit();
    let run = repo.audit(&[]);
    run.agrees(figures(3, 3 + 10, 0, 3, 0));
    assert!(run.out.contains("3 files, 100010 lines"), "{run:?}");
}

#[test]
fn attributes_do_not_hide_lines() {
    let repo = Repo::new();
    repo.write(".gitattributes", "*.bin binary\n*.no -diff\n*.conv diff=conv\n*.crlf text eol=crlf\n");
    repo.write("a.bin", lines(3))
        .write("b.no", lines(4))
        .write("c.conv", lines(5))
        .write("d.crlf", "a\r\nb\r\n");
    repo.git(["config", "diff.conv.textconv", "false"]);
    repo.git(["config", "diff.conv.binary", "true"]);
    repo.git(["config", "diff.conv.command", "false"]);
    repo.commit();
    repo.write("a.bin", lines(6)).write("b.no", lines(1)).write("c.conv", lines(9)).commit();
    let expected = figures(2, 2 + 8, 0, 5, 0);
    repo.audit(&[]).agrees(expected);
    std::fs::create_dir_all(repo.file(".git/info")).unwrap();
    repo.write(".git/info/attributes", "* -diff\n");
    repo.audit(&[]).agrees(expected);
    // What is large to git is binary to it.
    repo.remove(".git/info/attributes").git(["config", "core.bigFileThreshold", "1"]);
    repo.audit(&[]).agrees(expected);
}

#[test]
fn submodules_are_one_line() {
    let (inner, repo) = (Repo::new(), Repo::new());
    inner.write("a", lines(3)).commit();
    let inner_path = inner.path();
    repo.git([
        OsStr::new("submodule"),
        "--quiet".as_ref(),
        "add".as_ref(),
        inner_path.as_ref(),
        "sub".as_ref(),
    ]);
    repo.write("a", lines(1)).commit();
    inner.write("a", lines(4)).commit();
    let moved = inner.head();
    repo.git(["update-index", "--cacheinfo", &format!("160000,{moved},sub")]);
    repo.git(["commit", "--quiet", "--message", "sub"]);
    repo.git(["config", "submodule.sub.ignore", "all"]);
    repo.git(["config", "diff.ignoreSubmodules", "all"]);
    repo.audit(&[]).agrees(figures(2, 2 + 4, 0, 3, 0));
    std::fs::write(repo.file(".git/info/attributes"), "sub -diff\n").unwrap();
    repo.audit(&[]).agrees(figures(2, 2 + 4, 0, 3, 0));
}

#[test]
fn merges_count_against_their_first_parent() {
    let repo = Repo::new();
    repo.write("a", lines(10)).commit();
    for side in ["one", "two", "three"] {
        repo.git(["checkout", "--quiet", "-b", side, "main"]);
        repo.write(side, lines(3)).commit();
        repo.write(side, lines(4)).commit();
    }
    repo.git(["checkout", "--quiet", "main"]);
    repo.write("a", lines(12)).commit();
    repo.git(["merge", "--quiet", "--no-edit", "one"]);
    repo.git(["merge", "--quiet", "--no-edit", "two", "three"]);
    repo.audit(&[]).agrees(figures(4, 4 + 5, 0, 4, 0));
    let run = repo.audit(&["--alter", "5"]);
    assert!(run.out.contains("violation: two: 5 lines by its events, 4 lines in the tree"), "{run:?}");
}

#[test]
fn merge_of_unrelated_history_agrees() {
    let repo = Repo::new();
    repo.write("a", lines(2)).commit();
    repo.git(["checkout", "--quiet", "--orphan", "other"]);
    repo.git(["rm", "--quiet", "-rf", "."]);
    repo.write("b", lines(3)).commit();
    repo.git(["checkout", "--quiet", "main"]);
    repo.git(["merge", "--quiet", "--no-edit", "--allow-unrelated-histories", "other"]);
    repo.audit(&[]).agrees(figures(2, 2 + 2, 0, 2, 0));
}

#[test]
fn commit_with_thousands_of_files_replays_whole() {
    let repo = Repo::new();
    let mut stream = b"commit refs/heads/main\ncommitter A <a@example.com> 0 +0000\ndata 0\n".to_vec();
    for n in 0..2500 {
        write!(stream, "M 100644 inline dir{}/file{n}\ndata 4\na\nb\n\n", n % 7).unwrap();
    }
    repo.fast_import(&stream);
    repo.audit_kept().agrees(figures(1, 1 + 2500, 0, 2500, 0));
    repo.audit_kept().agrees(figures(1, 1 + 2500, 3, 2500, 0));
}

#[test]
fn only_oversized_paths_are_refused() {
    let repo = Repo::new();
    let import = |len: usize| {
        let name = format!("{}/", "long".repeat(50)).repeat(len / 201);
        let head = "commit refs/heads/main\ncommitter A <a@example.com> 0 +0000\ndata 0\n";
        repo.fast_import(format!("{head}M 100644 inline {name}x\ndata 4\na\nb\n\n").as_bytes());
    };
    import(4000);
    repo.audit(&[]).agrees(figures(1, 2, 0, 1, 0));
    import(50_000);
    repo.audit(&[]).could_not_run("row key has");
}

// ---- repositories of other kinds ----

#[test]
fn shallow_history_is_refused_naming_first_commit() {
    let (origin, repo) = (Repo::new(), Repo::new());
    for n in 1..6 {
        origin.write("a", lines(n)).write(format!("f{n}"), lines(1)).commit();
    }
    let url = format!("file://{}", origin.path().display());
    repo.git(["pull", "--quiet", "--depth", "2", &url, "main"]);
    let cut = repo.git(["rev-list", "--max-parents=0", "HEAD"]);
    repo.audit_kept().could_not_run(&format!("shallow: it is cut off at commit {cut}"));
    repo.git(["fetch", "--quiet", "--unshallow", &url, "main"]);
    repo.audit_kept().agrees(figures(5, 5 + 10, 0, 6, 0));
}

/// Cut off on a side that a merge brought in: its first parents are all there.
#[test]
fn shallow_side_of_merge_is_accepted() {
    let (side, repo) = (Repo::new(), Repo::new());
    repo.write("a", lines(1)).commit();
    (1..4).for_each(|n| drop(side.write("b", lines(n)).commit()));
    let url = format!("file://{}", side.path().display());
    repo.git(["fetch", "--quiet", "--depth", "1", &url, "main"]);
    repo.git(["merge", "--quiet", "--allow-unrelated-histories", "--message", "both", "FETCH_HEAD"]);
    assert_eq!(repo.git(["rev-parse", "--is-shallow-repository"]), "true");
    repo.audit(&[]).agrees(figures(2, 2 + 2, 0, 2, 0));
}

#[test]
fn option_like_names_are_plain_names() {
    let repo = Repo::new();
    for name in ["--all", "-n1", "HEAD", "--", "-"] {
        repo.write(name, lines(2));
    }
    let first = repo.commit();
    // A file that is called as a commit is, and a branch as an option.
    repo.write(&first, lines(1)).commit();
    repo.git(["update-ref", "refs/heads/--exists", "HEAD"]);
    repo.git(["symbolic-ref", "HEAD", "refs/heads/--exists"]);
    repo.audit(&[]).agrees(figures(2, 2 + 6, 0, 6, 0));
    let run = repo.audit(&["--drop", "2"]);
    assert_eq!((run.code, run.figures().violations), (Some(1), 1), "{run:?}");
    assert!(run.out.contains(&format!("by git: {first}")), "{run:?}");
    repo.git(["symbolic-ref", "HEAD", "refs/heads/--unborn"]);
    repo.audit(&[]).agrees(figures(0, 0, 0, 0, 0));
}

#[test]
fn commits_around_a_gap_are_named() {
    let repo = Repo::new();
    let before = repo.write("a", lines(1)).commit();
    repo.write("a", lines(2)).commit();
    let after = repo.write("a", lines(3)).commit();
    let run = repo.audit(&["--drop", "2"]);
    let gap = format!("a change after commit {before} and before commit {after} is not in the events");
    assert!(run.code == Some(1) && run.out.contains(&gap), "{run:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn full_standard_output_is_no_success() {
    let repo = Repo::new();
    repo.write("a", lines(1)).commit();
    for args in [&["--help"][..], &[]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = repo.audit_command().args(args).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("standard output cannot be written: No space left on device"), "{said}");
    }
    for name in ["billing_audit", "three_parts"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(example(name)).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("No space left on device"), "{name}: {said}");
        assert!(!said.contains("panicked"), "{name}: {said}");
    }
}

#[test]
fn bare_detached_and_linked_repositories() {
    let repo = Repo::new();
    repo.write("dir/a", lines(3)).commit();
    let first = repo.head();
    repo.write("dir/a", lines(4)).write("b", b"\0\n").commit();
    let expected = figures(2, 2 + 3, 0, 2, 0);
    let audit = |path: &Path| run(Command::new(example("git_audit")).arg("--repo").arg(path));
    audit(&repo.file("dir")).agrees(expected);
    audit(&repo.file(".git")).agrees(expected);
    let bare = repo.dir.path().join("bare");
    let bare_text = bare.to_str().unwrap();
    repo.git(["clone", "--quiet", "--bare", ".", bare_text]);
    audit(&bare).agrees(expected);
    let linked = repo.dir.path().join("linked");
    repo.git(["worktree", "add", "--quiet", "--detach", linked.to_str().unwrap(), &first]);
    audit(&linked).agrees(figures(1, 1 + 1, 0, 1, 0));
    repo.git(["checkout", "--quiet", "--detach"]);
    audit(&repo.path()).agrees(expected);
}

#[test]
fn sha256_repository() {
    let repo = Repo::with(&["--object-format=sha256"]);
    repo.write("a", lines(3)).write("b", b"\0\n").commit();
    repo.write("a", lines(4)).write("b", b"\0\n\n").commit();
    repo.audit_kept().agrees(figures(2, 2 + 4, 0, 2, 0));
    repo.audit_kept().agrees(figures(2, 2 + 4, 1, 2, 0));
}

#[test]
fn nothing_committed_yet() {
    let repo = Repo::new();
    repo.audit_kept().agrees(figures(0, 0, 0, 0, 0));
    repo.write("a", lines(1)).commit();
    repo.audit_kept().agrees(figures(1, 2, 0, 1, 0));
    repo.git(["checkout", "--quiet", "--orphan", "nowhere"]);
    repo.audit_kept().could_not_run("nothing is committed");
}

// ---- configuration and environment ----

#[test]
fn configuration_and_environment_have_no_say() {
    let repo = Repo::new();
    repo.write("a", lines(30)).write("z", lines(2)).write("é", lines(1)).commit();
    repo.git(["mv", "a", "b"]);
    let middle = repo.commit();
    repo.write("b", "  ".to_owned() + &String::from_utf8(lines(30)).unwrap()).write("z", "x\r\n").commit();
    repo.git(["checkout", "--quiet", "-b", "side", &middle]);
    repo.write("side", lines(3)).commit();
    repo.git(["checkout", "--quiet", "main"]);
    repo.git(["merge", "--quiet", "--no-edit", "side"]);
    let expected = figures(4, 4 + 8, 0, 4, 0);
    for (name, value) in [
        ("diff.renames", "copies"),
        ("diff.noprefix", "true"),
        ("diff.relative", "true"),
        ("diff.algorithm", "histogram"),
        ("diff.orderFile", "order"),
        ("diff.external", "false"),
        ("diff.mnemonicPrefix", "true"),
        ("diff.wsErrorHighlight", "all"),
        ("log.showSignature", "true"),
        ("log.showRoot", "false"),
        ("log.follow", "true"),
        ("log.diffMerges", "off"),
        ("core.quotePath", "false"),
        ("core.autocrlf", "true"),
        ("core.whitespace", "cr-at-eol"),
        ("color.ui", "always"),
        ("core.pager", "false"),
    ] {
        repo.git(["config", name, value]);
    }
    repo.write("order", "z\n*\n");
    // A replaced commit, a graft, and a working tree that looks unchanged: git would take each for the truth.
    repo.git(["replace", "--graft", &repo.head()]);
    repo.write(".git/info/grafts", format!("{middle}\n"));
    let audit = |args: &[&str]| {
        run(repo
            .audit_command()
            .args(args)
            .env("GIT_DIR", "/nowhere")
            .env("GIT_EXTERNAL_DIFF", "false")
            .env("GIT_DIFF_OPTS", "-u0")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "core.bigFileThreshold")
            .env("GIT_CONFIG_VALUE_0", "1"))
    };
    audit(&[]).agrees(expected);
    let run = audit(&["--drop", "8"]);
    assert_eq!((run.code, run.figures().violations), (Some(1), 1), "{run:?}");
    assert!(run.out.contains(&format!("by git: {}", repo.head())), "{run:?}");
}

// ---- what must be caught ----

#[test]
fn each_dropped_or_altered_change_is_reported() {
    let repo = Repo::new();
    repo.write("a", lines(3)).write("b", "").write("c", b"\0").write("d", lines(2)).commit();
    // The lines of `d` stay as many, and come back.
    repo.write("d", "x\ny\n").remove("b").write("a", lines(4)).commit();
    repo.write("d", lines(2)).remove("a").write("c", "").commit();
    std::fs::set_permissions(repo.file("d"), std::fs::Permissions::from_mode(0o755)).unwrap();
    repo.write("a", lines(1)).write("b", "").remove("c").commit();
    let names = ["a", "b", "c", "d", "a", "b", "d", "a", "c", "d", "a", "b", "c", "d"];
    repo.audit(&[]).agrees(figures(4, 4 + 14, 0, 3, 0));
    for (index, name) in names.iter().enumerate() {
        for (tamper, events) in [("--drop", 4 + 13), ("--alter", 4 + 14)] {
            let run = repo.audit(&[tamper, &(index + 1).to_string()]);
            assert_eq!(run.code, Some(1), "{run:?}");
            let Figures { violations, events: are, .. } = run.figures();
            assert_eq!((violations, are), (1, events), "{tamper} {}: {run:?}", index + 1);
            let named: Vec<_> = run.out.lines().filter(|line| line.starts_with("violation: ")).collect();
            assert_eq!(named.len(), 1, "{run:?}");
            assert!(named[0].starts_with(&format!("violation: {name}: ")), "{tamper} {}: {run:?}", index + 1);
            assert!(named[0].contains("last touched, by git: "), "{run:?}");
        }
    }
    repo.audit(&["--drop", "15"]).could_not_run("no file change 15");
    repo.audit(&["--alter", "0"]).could_not_run("0 is no number");
}

#[test]
fn violation_persists_and_changed_retry_is_refused() {
    let repo = Repo::new();
    repo.write("a", lines(3)).commit();
    repo.write("a", lines(5)).commit();
    let kept = run(repo.audit_command().args(["--alter", "2", "--store"]).arg(repo.store()));
    assert_eq!((kept.code, kept.figures()), (Some(1), figures(2, 4, 0, 0, 1)), "{kept:?}");
    // Offered again as it is, the last commit is not the one that was imported.
    let again = repo.audit_kept();
    assert_eq!((again.code, again.figures()), (Some(1), figures(2, 4, 0, 0, 2)), "{again:?}");
    assert!(again.out.contains(&format!("violation: commit {}", repo.head())), "{again:?}");
    repo.write("b", lines(1)).commit();
    repo.audit_kept();
    let later = repo.audit_kept();
    assert_eq!((later.code, later.figures()), (Some(1), figures(3, 6, 1, 1, 1)), "{later:?}");
}

// ---- again, and after a crash ----

#[test]
fn second_run_appends_only_new_commits() {
    let repo = Repo::new();
    for n in 1..5 {
        repo.write("a", lines(n)).commit();
    }
    repo.audit_kept().agrees(figures(4, 8, 0, 1, 0));
    repo.audit_kept().agrees(figures(4, 8, 1, 1, 0));
    repo.write("b", lines(2)).commit();
    repo.write("b", lines(3)).commit();
    let run = repo.audit_kept();
    run.agrees(figures(6, 12, 1, 2, 0));
    assert!(run.out.contains("read        3 commits, 3 file changes"), "{run:?}");
}

#[test]
fn rewritten_history_is_refused_without_appending() {
    let repo = Repo::new();
    let first = repo.write("a", lines(1)).commit();
    repo.write("a", lines(2)).commit();
    repo.audit_kept().agrees(figures(2, 4, 0, 1, 0));
    repo.git(["branch", "before"]);
    repo.git(["reset", "--quiet", "--hard", &first]);
    repo.write("b", lines(2)).commit();
    repo.audit_kept().could_not_run("the history was rewritten");
    // It is an ancestor again, but by the second parent: other changes led here.
    repo.git(["merge", "--quiet", "--no-edit", "before"]);
    repo.audit_kept().could_not_run("the history was rewritten");
    repo.git(["reset", "--quiet", "--hard", &first]);
    repo.audit_kept().could_not_run("the history was rewritten");
    repo.git(["reset", "--quiet", "--hard", "before"]);
    repo.audit_kept().agrees(figures(2, 4, 1, 1, 0));
}

/// A git that lets `diff-tree --stdin` say only so many bytes, and then runs `then`.
fn cut_git(repo: &Repo, bytes: usize, then: &str) -> OsString {
    let bin = repo.dir.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let real = std::env::split_paths(&path).map(|dir| dir.join("git")).find(|git| git.exists()).unwrap();
    let real = real.display();
    // All of it is taken: a git that nobody listens to any more ends in its own time, and what is told first is chance.
    let cut = format!("{real} \"$@\" | {{ head -c {bytes}; cat > /dev/null; }}; {then}");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in\n*' --stdin --always '*) {cut};;\n*) exec {real} \"$@\";;\nesac\n"
    );
    std::fs::write(bin.join("git"), script).unwrap();
    std::fs::set_permissions(bin.join("git"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path))).unwrap()
}

/// Merges, deletions and a commit of several appends, in so many commits.
fn long_history(repo: &Repo, commits: usize, files: usize) {
    let mut stream = Vec::new();
    let dir = |file: usize| format!("d{}/e{}", file % 13, file / 13 % 211);
    for n in 1..=commits {
        writeln!(stream, "commit refs/heads/main\nmark :{n}\ncommitter A <a@example.com> {n} +0000\ndata 0")
            .unwrap();
        if n > 1 {
            writeln!(stream, "from :{}", n - 1).unwrap();
        }
        if n > 10 && n % 9 == 0 {
            writeln!(stream, "merge :{}", n - 7).unwrap();
        }
        for k in 0..if n == commits / 2 { 2200 } else { files } {
            let (file, len) = ((n * 31 + k * 7) % (commits * 2), (n * k + n) % 23);
            match (n + k) % 11 {
                0 => writeln!(stream, "D {}/f{file}", dir(file)).unwrap(),
                _ => writeln!(
                    stream,
                    "M 100644 inline {}/f{file}\ndata {}\n{}",
                    dir(file),
                    len * 2,
                    "x\n".repeat(len)
                )
                .unwrap(),
            }
        }
        writeln!(stream).unwrap();
    }
    repo.fast_import(&stream);
}

#[test]
fn killed_import_resumes_without_duplicates() {
    let repo = Repo::new();
    long_history(&repo, 400, 5);
    let whole = repo.audit(&[]).figures();
    assert_eq!((whole.commits, whole.violations), (400, 0));
    // Twice in the small commits, then inside the large one, then near the end: each time on the same store.
    for bytes in [20_000, 60_000, 150_000, 300_000, 400_000] {
        let path = cut_git(&repo, bytes, "kill -9 $PPID");
        let killed = run(repo.audit_command().arg("--store").arg(repo.store()).env("PATH", path));
        assert_eq!(killed.code, None, "killed by a signal: {killed:?}");
    }
    let run = repo.audit_kept();
    assert_eq!(run.code, Some(0), "{run:?}");
    let Figures { replayed, .. } = run.figures();
    assert!(replayed >= 1, "{run:?}");
    assert_eq!(run.figures(), Figures { replayed, ..whole });
}

#[test]
fn truncated_git_output_is_an_error() {
    let repo = Repo::new();
    long_history(&repo, 60, 4);
    let all = repo.git(["rev-list", "--first-parent", "--count", "main"]);
    assert_eq!(all, "60");
    for bytes in [0, 1, 41, 5_000, 9_999] {
        for then in ["exit 0", "exit 1", "kill -9 $$"] {
            let audit = |path: &OsString| run(repo.audit_command().env("PATH", path));
            audit(&cut_git(&repo, bytes, then)).could_not_run("git");
        }
    }
    // Cut between two commits, and said to be well: the number of commits tells.
    let cut = git_command(&repo.path())
        .args([
            "diff-tree",
            "-r",
            "-z",
            "--raw",
            "--numstat",
            "--no-abbrev",
            "--no-renames",
            "--root",
            "--always",
        ])
        .args([&repo.git(["rev-list", "--max-parents=0", "main"])])
        .output()
        .unwrap();
    assert!(cut.stdout.len() > 50);
    let path = cut_git(&repo, cut.stdout.len(), "exit 0");
    run(repo.audit_command().env("PATH", path)).could_not_run("of 60 commits");
}

#[test]
fn missing_objects_are_no_success() {
    for missing in ["HEAD~1:a", "HEAD~1:b", "HEAD:a", "HEAD~1^{tree}", "HEAD^{tree}", "HEAD~1", "HEAD"] {
        let repo = Repo::new();
        for n in 1..4 {
            repo.write("a", lines(n)).write("b", b"\0\n".repeat(n)).commit();
        }
        let object = repo.git(["rev-parse", missing]);
        std::fs::remove_file(repo.file(format!(".git/objects/{}/{}", &object[..2], &object[2..]))).unwrap();
        let run = repo.audit_kept();
        run.could_not_run("");
    }
}

#[test]
fn restored_object_completes_import() {
    let repo = Repo::new();
    for n in 1..5 {
        repo.write("a", lines(n)).commit();
    }
    let object = repo.git(["rev-parse", "HEAD~1:a"]);
    let (file, aside) =
        (repo.file(format!(".git/objects/{}/{}", &object[..2], &object[2..])), repo.dir.path().join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    repo.audit_kept().could_not_run("git diff-tree");
    std::fs::rename(&aside, &file).unwrap();
    let run = repo.audit_kept();
    assert_eq!((run.code, run.figures().commits, run.figures().events), (Some(0), 4, 8), "{run:?}");
}

// ---- what it cannot run on ----

#[test]
fn invalid_repository_store_or_argument_is_refused() {
    let repo = Repo::new();
    repo.write("a", lines(1)).commit();
    let elsewhere = tempfile::tempdir().unwrap();
    let audit = |args: &[&OsStr]| {
        run(Command::new(example("git_audit"))
            .args(args)
            .env("GIT_CEILING_DIRECTORIES", elsewhere.path().parent().unwrap()))
    };
    audit(&["--repo".as_ref(), elsewhere.path().as_ref()]).could_not_run("no git repository");
    audit(&["--repo".as_ref(), elsewhere.path().join("none").as_ref()]).could_not_run("no git repository");
    audit(&["--repo".as_ref()]).could_not_run("needs a value");
    audit(&["--rope".as_ref(), "x".as_ref()]).could_not_run("no such argument");
    let path = repo.path();
    audit(&["--repo".as_ref(), path.as_ref(), "--store".as_ref(), path.as_ref()])
        .could_not_run("is not a store");
    run(repo.audit_command().env("PATH", "/nowhere")).could_not_run("git could not be started");
    let help = audit(&["--help".as_ref()]);
    assert!(help.code == Some(0) && help.out.contains("--repo"), "{help:?}");
}

#[test]
fn head_that_leads_nowhere() {
    let repo = Repo::new();
    repo.write("a", lines(1)).commit();
    repo.write(".git/refs/heads/main", "nonsense\n");
    repo.audit(&[]).could_not_run("HEAD leads to no commit");
    repo.write(".git/refs/heads/main", "1234567890123456789012345678901234567890\n");
    repo.audit(&[]).could_not_run("HEAD leads to no commit");
}

#[test]
fn default_repository_is_cargo_manifest_directory() {
    let repo = Repo::new();
    repo.write("a", lines(2)).commit();
    let expected = figures(1, 2, 0, 1, 0);
    run(Command::new(example("git_audit")).env("CARGO_MANIFEST_DIR", repo.path())).agrees(expected);
    run(Command::new(example("git_audit")).env_remove("CARGO_MANIFEST_DIR").current_dir(repo.path()))
        .agrees(expected);
}

// ---- large ----

#[test]
#[ignore = "takes its time: 20,000 commits, 60,000 file changes"]
fn large_history_agrees() {
    let repo = Repo::new();
    long_history(&repo, 20_000, 3);
    let first = repo.audit_kept();
    assert_eq!((first.code, first.figures().commits), (Some(0), 20_000), "{first:?}");
    let again = repo.audit_kept().figures();
    assert_eq!(again, Figures { replayed: 1, ..first.figures() });
}
