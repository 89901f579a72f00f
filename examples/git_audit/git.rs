//! The repository, asked through git's plumbing.
//!
//! - Nothing of the caller's environment, index, working tree, caches or replace refs has a say: objects alone do.
//! - Output is read as it comes. What git said is believed when it ended well, and never half of it.
//! - Where git shows a file as binary, its lines are counted here from the blobs: nothing is guessed, nothing left out.
//! - Lines added less lines removed do not depend on the diff algorithm: it is always the difference of the two counts.
//! - A symbolic link has the lines of its target's name, a submodule has one, a file without a line end one for its tail.
//!
//! Needs git 2.31 (`--diff-merges`); before 2.43 a branch without commits is not told from one that is damaged.

use crate::Result;
use crate::claims::{Change, Content};
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

/// The options of every diff, of commits and of the tree alike.
const DIFF: [&str; 13] = [
    "diff-tree",
    "-r",
    "-z",
    "--raw",
    "--numstat",
    "--text",
    "--no-abbrev",
    "--no-renames",
    "--no-relative",
    "--no-ext-diff",
    "--no-textconv",
    "--ignore-submodules=none",
    "--root",
];

/// A repository on disk.
#[derive(Clone)]
pub struct Repository {
    place: PathBuf,
    dir: PathBuf,
}

impl Repository {
    /// The repository in `place`, or around it.
    pub fn open(place: &Path) -> Result<Self> {
        let mut repository = Self { place: place.to_owned(), dir: PathBuf::new() };
        let dir = ask(repository.git(["rev-parse", "--absolute-git-dir"]))?;
        repository.dir = dir.ok_or_else(|| format!("no git repository at {}", place.display()))?.into();
        Ok(repository)
    }

    /// The directory of its objects and refs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The commit that is checked out; `None` where nothing was committed yet.
    pub fn head(&self) -> Result<Option<String>> {
        let head = ask(self.git(["rev-parse", "--quiet", "--verify", "HEAD^{commit}"]))?;
        if head.is_none() && !self.is_unborn()? {
            return Err("HEAD leads to no commit".into());
        }
        Ok(head.map(into_text))
    }

    /// The commit at which the first-parent history of `tip` is cut off, in a shallow repository.
    pub fn shallow(&self, tip: &str) -> Result<Option<String>> {
        let is_shallow = ask(self.git(["rev-parse", "--is-shallow-repository"]))?;
        if is_shallow.is_none_or(|said| said != "true") {
            return Ok(None);
        }
        let file = ask(self.git(["rev-parse", "--path-format=absolute", "--git-path", "shallow"]))?;
        let file = file.ok_or("git does not say where its shallow commits are")?;
        let cut = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let root =
            ask(self.git(["rev-list", "--first-parent", "--max-parents=0", "--max-count=1", tip, "--"]))?;
        let root = root.map(into_text);
        // One that is cut off elsewhere only, behind a merge, is whole for an audit of first parents.
        Ok(root.filter(|root| cut.lines().any(|commit| commit == root)))
    }

    /// HEAD names a branch, and there is no such branch.
    fn is_unborn(&self) -> Result<bool> {
        let Some(branch) = ask(self.git(["symbolic-ref", "--quiet", "HEAD"]))? else { return Ok(false) };
        let exists =
            self.git([OsStr::new("show-ref"), OsStr::new("--exists"), OsStr::new("--"), &branch]).output()?;
        Ok(exists.status.code() == Some(2))
    }

    /// How many commits the first-parent history of `tip` has after `known`; `None` if `known` is not in it.
    pub fn count(&self, tip: &str, known: Option<&str>) -> Result<Option<u64>> {
        let mut commits = Output::of(self.git(["rev-list", "--first-parent", tip, "--"]))?;
        let (mut count, mut line) = (0, Vec::new());
        while commits.read(b'\n', &mut line)? {
            if known.is_some_and(|known| line == known.as_bytes()) {
                commits.stop();
                return Ok(Some(count));
            }
            count += 1;
        }
        commits.finish()?;
        Ok(known.is_none().then_some(count))
    }

    /// The last `count` commits of the first-parent history of `tip`, oldest first, each compared with its first parent.
    pub fn commits(&self, tip: &str, count: u64) -> Result<Commits<'_>> {
        let count = format!("--max-count={count}");
        let mut list = Output::of(self.git(["rev-list", "--first-parent", "--reverse", &count, tip, "--"]))?;
        let mut diff = self.git(DIFF);
        diff.args(["--stdin", "--always", "--diff-merges=first-parent"]).stdin(list.hand_over());
        Ok(Commits { changes: Changes::of(self, diff)?, list, next: None, started: false })
    }

    /// Every file in the tree of a commit, as its change from nothing.
    pub fn tree(&self, commit: &str) -> Result<Changes<'_>> {
        let nothing =
            ask(self.git(["hash-object", "-t", "tree", "--stdin"]))?.ok_or("git has no empty tree")?;
        let mut diff = self.git(DIFF);
        diff.arg(nothing).arg(commit).arg("--");
        Changes::of(self, diff)
    }

    /// The commits that touched a file last, newest first, as git has it.
    pub fn touched(&self, tip: &str, path: &[u8], count: usize) -> Result<Vec<String>> {
        let count = format!("--max-count={count}");
        let mut list = self.git(["rev-list", "--first-parent", &count, tip, "--"]);
        list.arg(os_bytes([b":(top,literal)", path].concat()));
        Ok(ask(list)?.map(into_text).unwrap_or_default().lines().map(str::to_owned).collect())
    }

    /// A git that reads the objects of this repository, and listens to nobody else.
    fn git<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut git = Command::new("git");
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(name)) {
            git.env_remove(name);
        }
        git.env("GIT_NO_REPLACE_OBJECTS", "1");
        git.env("GIT_GRAFT_FILE", self.dir.join("no-such-file"));
        // Without an index, no content is taken from the working tree.
        git.env("GIT_INDEX_FILE", self.dir.join("no-such-file"));
        git.arg("-C").arg(&self.place).args(["--no-pager", "-c", "core.commitGraph=false"]);
        git.args(args).stdin(Stdio::null());
        git
    }
}

/// Variables that tell git what to read and how. Those stay that say where git is, and whom it trusts.
fn is_foreign(name: &OsStr) -> bool {
    const KEPT: [&str; 5] = [
        "GIT_EXEC_PATH",
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_SYSTEM",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_CEILING_DIRECTORIES",
    ];
    name.as_encoded_bytes().starts_with(b"GIT_") && !KEPT.iter().any(|kept| name == *kept)
}

/// What a short-running git prints, without the end of its last line; `None` if it fails.
fn ask(mut git: Command) -> Result<Option<OsString>> {
    let mut output = git.stderr(Stdio::inherit()).output().map_err(not_started)?;
    if output.stdout.ends_with(b"\n") {
        output.stdout.pop();
    }
    Ok(output.status.success().then(|| os_bytes(output.stdout)))
}

fn not_started(error: std::io::Error) -> String {
    format!("git could not be started: {error}")
}

fn into_text(text: OsString) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(unix)]
fn os_bytes(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(not(unix))]
fn os_bytes(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

// ---- commits ----

/// A commit and its changes.
pub struct Commit {
    /// Its id.
    pub id: String,
    /// Its changes against its first parent, in the order of file names.
    pub changes: Vec<Change>,
}

/// A history, commit by commit. Only one commit is in memory.
pub struct Commits<'a> {
    list: Output,
    changes: Changes<'a>,
    /// The commit whose changes come next.
    next: Option<String>,
    started: bool,
}

impl Commits<'_> {
    /// The next commit; `None` when git has said everything and ended well.
    pub fn next(&mut self) -> Result<Option<Commit>> {
        if !std::mem::replace(&mut self.started, true) {
            self.look_ahead()?;
        }
        let Some(id) = self.next.take() else { return Ok(None) };
        let changes = self.changes.read_all()?;
        self.look_ahead()?;
        Ok(Some(Commit { id, changes }))
    }

    fn look_ahead(&mut self) -> Result<()> {
        self.next = self.changes.read_head()?;
        if self.next.is_none() {
            self.changes.output.finish()?;
            self.list.finish()?;
        }
        Ok(())
    }
}

// ---- changes ----

/// What `diff-tree` prints: for each commit its id, its changes by content, and the same changes by lines.
///
/// ```text
/// [commit NUL] (':' mode mode object object status NUL path NUL)* (added TAB removed TAB path NUL)*
/// ```
pub struct Changes<'a> {
    output: Output,
    blobs: Blobs<'a>,
    /// The field that was read last and belongs to what comes next.
    field: Vec<u8>,
    held: bool,
}

impl<'a> Changes<'a> {
    fn of(repository: &'a Repository, diff: Command) -> Result<Self> {
        let blobs = Blobs { repository, process: None };
        Ok(Self { output: Output::of(diff)?, blobs, field: Vec::new(), held: false })
    }

    /// All changes of a diff that is about one commit alone.
    pub fn read_to_end(mut self) -> Result<Vec<Change>> {
        let changes = self.read_all()?;
        if self.advance()? {
            return Err(self.not_understood());
        }
        self.output.finish()?;
        Ok(changes)
    }

    /// The id of the next commit; `None` at the end.
    fn read_head(&mut self) -> Result<Option<String>> {
        if !self.advance()? {
            return Ok(None);
        }
        match std::str::from_utf8(&self.field) {
            Ok(id) if id.len() >= 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Ok(Some(id.to_owned()))
            }
            _ => Err(self.not_understood()),
        }
    }

    /// The changes of the commit at hand.
    fn read_all(&mut self) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        while self.advance()? {
            if !self.field.starts_with(b":") {
                self.held = true;
                break;
            }
            changes.push(self.read_content()?);
        }
        for change in &mut changes {
            self.read_lines(change)?;
        }
        Ok(changes)
    }

    fn read_content(&mut self) -> Result<Change> {
        let (before, after) =
            std::str::from_utf8(&self.field).ok().and_then(contents).ok_or_else(|| self.not_understood())?;
        if !self.advance()? {
            return Err(self.output.cut_off());
        }
        Ok(Change { path: self.field.clone(), added: 0, removed: 0, before, after })
    }

    fn read_lines(&mut self, change: &mut Change) -> Result<()> {
        if !self.advance()? {
            return Err(self.output.cut_off());
        }
        let mut parts = self.field.splitn(3, |byte| *byte == b'\t');
        let (added, removed, path) = (parts.next(), parts.next(), parts.next());
        if path != Some(&change.path) {
            return Err(self.not_understood());
        }
        if (added, removed) == (Some(b"-"), Some(b"-")) {
            change.added = self.blobs.lines(change.after.as_ref())?;
            change.removed = self.blobs.lines(change.before.as_ref())?;
            return Ok(());
        }
        let (Some(added), Some(removed)) = (number(added), number(removed)) else {
            return Err(self.not_understood());
        };
        (change.added, change.removed) = (added, removed);
        Ok(())
    }

    /// Moves on to the next field, or to the one that was put back.
    fn advance(&mut self) -> Result<bool> {
        if std::mem::take(&mut self.held) {
            return Ok(true);
        }
        self.output.read(0, &mut self.field)
    }

    fn not_understood(&self) -> Box<dyn Error> {
        format!("git said something unexpected: {}", self.field.escape_ascii()).into()
    }
}

fn number(digits: Option<&[u8]>) -> Option<u64> {
    std::str::from_utf8(digits?).ok()?.parse().ok()
}

/// `:mode mode object object status`; mode 0 stands for no file.
fn contents(field: &str) -> Option<(Option<Content>, Option<Content>)> {
    let mut parts = field.strip_prefix(':')?.split(' ');
    let mut modes = [0; 2];
    for mode in &mut modes {
        *mode = u32::from_str_radix(parts.next()?, 8).ok()?;
    }
    let mut content = |mode| {
        let object = parts.next()?.to_owned();
        Some((mode != 0).then_some(Content { mode, object }))
    };
    Some((content(modes[0])?, content(modes[1])?))
}

// ---- blobs ----

/// Counts lines as git does, where git would not.
struct Blobs<'a> {
    repository: &'a Repository,
    /// Started when the first blob is asked for.
    process: Option<(Child, ChildStdin, BufReader<ChildStdout>)>,
}

/// The mode of a submodule. What git diffs of it is one line with its commit.
const SUBMODULE: u32 = 0o160000;

impl Blobs<'_> {
    /// The lines of a content; none where there is no file.
    fn lines(&mut self, content: Option<&Content>) -> Result<u64> {
        match content {
            None => Ok(0),
            Some(content) if content.mode == SUBMODULE => Ok(1),
            Some(content) => self.count(&content.object),
        }
    }

    fn count(&mut self, object: &str) -> Result<u64> {
        if self.process.is_none() {
            let mut git = self.repository.git(["cat-file", "--batch"]);
            let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(not_started)?;
            let (input, output) =
                (child.stdin.take().expect("it is piped"), child.stdout.take().expect("it is piped"));
            self.process = Some((child, input, BufReader::with_capacity(1 << 16, output)));
        }
        let (_, input, output) = self.process.as_mut().expect("it was just started");
        writeln!(input, "{object}")?;
        let mut head = String::new();
        output.read_line(&mut head)?;
        let size = head.trim_end().strip_prefix(object).and_then(|rest| rest.strip_prefix(" blob "));
        let size =
            size.and_then(|size| size.parse().ok()).ok_or_else(|| format!("blob {object} cannot be read"))?;
        let lines = count_lines(output.by_ref().take(size), size)?;
        output.read_exact(&mut [0])?;
        Ok(lines)
    }
}

/// Line ends, and one more for a last line that has none.
fn count_lines(mut bytes: impl BufRead, size: u64) -> Result<u64> {
    let (mut lines, mut last, mut left) = (0, b'\n', size);
    while left > 0 {
        let piece = bytes.fill_buf()?;
        let len = piece.len();
        last = *piece.last().ok_or("git stopped in the middle of a blob")?;
        lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        bytes.consume(len);
        left -= len as u64;
    }
    Ok(lines + u64::from(last != b'\n'))
}

impl Drop for Blobs<'_> {
    fn drop(&mut self) {
        if let Some((child, ..)) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

// ---- processes ----

/// A running git, and what it prints.
struct Output {
    name: String,
    child: Child,
    /// `None` once it was handed over to another process.
    stdout: Option<BufReader<ChildStdout>>,
}

impl Output {
    fn of(mut git: Command) -> Result<Self> {
        let name = git
            .get_args()
            .map(OsStr::to_string_lossy)
            .find(|arg| ["rev-list", "diff-tree"].contains(&&**arg));
        let name = format!("git {}", name.unwrap_or_default());
        let mut child = git.stdout(Stdio::piped()).spawn().map_err(not_started)?;
        let stdout = child.stdout.take().map(|stdout| BufReader::with_capacity(1 << 16, stdout));
        Ok(Self { name, child, stdout })
    }

    /// What it prints becomes the input of another.
    fn hand_over(&mut self) -> Stdio {
        let stdout = self.stdout.take().expect("it is handed over once, unread");
        stdout.into_inner().into()
    }

    /// Reads up to `end`, which is left off; false when there is nothing more.
    fn read(&mut self, end: u8, field: &mut Vec<u8>) -> Result<bool> {
        let stdout = self.stdout.as_mut().expect("only one that kept its output is read");
        field.clear();
        if stdout.read_until(end, field)? == 0 {
            return Ok(false);
        }
        match field.pop() {
            Some(last) if last == end => Ok(true),
            _ => Err(self.cut_off()),
        }
    }

    /// It ended too early: because it failed, or although it says that it did not.
    fn cut_off(&mut self) -> Box<dyn Error> {
        self.finish().err().unwrap_or_else(|| format!("{} stopped in the middle", self.name).into())
    }

    /// Waits for its end, which must be a good one.
    fn finish(&mut self) -> Result<()> {
        let status: ExitStatus = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", self.name).into()) }
    }

    /// Ends it: what it still has to say is not wanted.
    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
