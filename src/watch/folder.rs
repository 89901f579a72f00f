//! Folders of rules: a file that is put in is a check that runs, and nothing else need be done.
//!
//! - A sub-folder is a group. Its `folder.toml` says how often its files are read, and what its rules may leave out; what it
//!   leaves out itself, the folder above says.
//! - Contents are compared, not times. What cannot be read changes nothing: the rules that were read before stand.
//! - No rule goes unread and unsaid: a file is read, or named with what is wrong. Only names that begin with a dot are passed over.
//! - A text that runs is on record, so that it stands over restarts, too, until its file is removed or says something else that can be read.
//! - A link is followed if it stays below the folder of the setup, also to a sub-folder: volumes of Kubernetes are made of such links.
//!   One that leaves is named.
//! - Names are looked at in all groups at once, so that a file that is moved is in one of them.

use super::source::{KEEPER, Known, Origin, Unread};
use crate::check::rules::{self, Defaults, FILE_BYTES_MAX, FolderRules, RuleError};
use crate::check::vocabulary::Vocabulary;
use crate::check::{Check, Severity};
use crate::disk::{Access, Clock, Disk, Kind};
use crate::order::Timestamp;
use crate::projection::Registered;
use crate::rule_texts::RuleText;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// File with the settings of a group.
const SETTINGS: &str = "folder.toml";
/// Default period at which the files of a folder are read.
const PERIOD: Duration = Duration::from_secs(10);
/// A path that is longer is no key of a row: the text of such a file is not recorded.
const NAME_BYTES_MAX: usize = 512;

/// A file of rules, and what became of it: of [`Checks::rules`](super::Checks::rules).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleFile {
    /// Path of the file, or of a folder that cannot be looked into.
    pub file: PathBuf,
    /// Its folder, below the one that the setup names: `hourly`. Empty: that one itself.
    pub group: String,
    /// The checks of it that run: of what it said when it could be read last.
    pub checks: Vec<String>,
    /// Period at which it is read. A check of it that has not moved for two periods, with something to judge, is a violation of
    /// `tallystone.freshness`.
    pub period: Duration,
    /// Time of the last read.
    pub last_read: SystemTime,
    /// Reason for which its present text does not run.
    pub error: Option<RuleError>,
}

pub(crate) struct Folders {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    /// Absolute. Links above them are followed at each look: their files belong to others, who may replace them by a link.
    roots: Vec<PathBuf>,
    /// Checks of the setup. Their names are taken.
    fixed: Vec<Check>,
    projections: Vec<Registered>,
    /// Names that the store knows: those in a rule are compared with them.
    vocabulary: Vocabulary,
    groups: BTreeMap<PathBuf, RuleGroup>,
    files: BTreeMap<PathBuf, TrackedFile>,
    /// Texts of rules on record, by file.
    recorded: BTreeMap<String, RuleText>,
    /// Time of the next look, by the monotonic clock.
    due: Duration,
}

#[derive(Debug, Clone, Default)]
struct RuleGroup {
    name: String,
    /// Settings of its `folder.toml`, as far as it could be read.
    says: FolderRules,
    /// Error in `folder.toml`.
    error: Option<RuleError>,
    /// Time at which its files were read, by the monotonic clock and by the other.
    read: Option<(Duration, Timestamp)>,
}

#[derive(Debug, Clone, Default)]
struct TrackedFile {
    group: PathBuf,
    /// Present text.
    text: LoadedText,
    /// Checks of it that run, and the reason for which its present text does not.
    stand: Vec<Check>,
    error: Option<RuleError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LoadedText(Result<Arc<str>, RuleError>);

impl Default for LoadedText {
    fn default() -> Self {
        Self(Ok("".into()))
    }
}

/// Entries of the folders.
#[derive(Default, PartialEq)]
struct FolderEntries {
    /// Groups by path; the name, and why one cannot be looked into.
    groups: BTreeMap<PathBuf, (String, Option<RuleError>)>,
    /// Files, and the group of each.
    files: BTreeMap<PathBuf, PathBuf>,
    /// Links, and where they lead.
    links: BTreeMap<PathBuf, Option<PathBuf>>,
}

impl Folders {
    /// `projections` are those of the setup, whose rows a rule may name.
    pub fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        roots: &[PathBuf],
        fixed: &[Check],
        projections: Vec<Registered>,
        vocabulary: Vocabulary,
    ) -> Self {
        let (groups, files, recorded, due) = Default::default();
        let (roots, fixed) = (roots.iter().map(|root| disk.absolute(root)).collect(), fixed.to_vec());
        Self { disk, clock, roots, fixed, projections, vocabulary, groups, files, recorded, due }
    }

    fn named(&self, name: &str) -> Option<Registered> {
        self.projections.iter().find(|projection| projection.name == name).cloned()
    }

    // ---- looking ----

    fn names(&self) -> FolderEntries {
        let mut names = FolderEntries::default();
        for root in &self.roots {
            let inside = self.disk.real(root).into_iter().collect();
            self.names_in(root, String::new(), inside, &mut names);
        }
        names
    }

    /// `inside` are the real paths of the folders that were entered to get here: a link to one of them leads round in a circle.
    fn names_in(&self, dir: &Path, name: String, inside: Vec<PathBuf>, into: &mut FolderEntries) {
        let children = match self.list(dir) {
            Ok(children) => children,
            Err(error) => {
                // A folder that cannot be reached has not been emptied.
                let below = |path: &Path| path.starts_with(dir);
                let groups = self.groups.iter().filter(|(path, _)| below(path));
                let error = whole(dir, error);
                let unreached = |(path, group): (&PathBuf, &RuleGroup)| {
                    (path.clone(), (group.name.clone(), Some(error.clone())))
                };
                into.groups.extend(groups.map(unreached));
                let files = self.files.iter().filter(|(path, _)| below(path));
                into.files.extend(files.map(|(path, file)| (path.clone(), file.group.clone())));
                into.groups.insert(dir.to_owned(), (name, Some(error)));
                return;
            }
        };
        for (child, mut kind) in children {
            let path = dir.join(&child);
            let target = self.target(&path).ok();
            if kind == Kind::Symlink {
                kind = target.as_ref().and_then(|target| self.disk.kind(target).ok()).unwrap_or(kind);
                into.links.insert(path.clone(), target.clone());
            }
            let name = if name.is_empty() { child } else { format!("{name}/{child}") };
            match (kind, target) {
                (Kind::Dir, Some(target)) if inside.contains(&target) => {
                    let error = whole(&path, "it is a link to a folder that it is in");
                    into.groups.insert(path, (name, Some(error)));
                }
                (Kind::Dir, target) => {
                    let inside = inside.iter().cloned().chain(target).collect();
                    self.names_in(&path, name, inside, into);
                }
                _ => drop(into.files.insert(path, dir.to_owned())),
            }
        }
        into.groups.insert(dir.to_owned(), (name, None));
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, Kind)>> {
        let mut children = Vec::new();
        for name in self.disk.list(dir)?.into_iter().filter(|name| !name.starts_with('.')) {
            match self.disk.kind(&dir.join(&name)) {
                Ok(kind) => children.push((name, kind)),
                // What no text can name, a list names with this in place of it. It is there, and cannot be reached.
                Err(error) if error.kind() == io::ErrorKind::NotFound && name.contains('\u{fffd}') => {
                    children.push((name, Kind::Other));
                }
                // It went just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(children)
    }

    /// Resolves a path. A link of it, or of a folder above it, may stay below the folder of the setup, and not leave it.
    fn target(&self, path: &Path) -> io::Result<PathBuf> {
        let root = self.roots.iter().find(|root| path.starts_with(root));
        let root = self.disk.real(root.expect("every path is below a folder of the setup"))?;
        match self.disk.real(path) {
            Ok(target) if target.starts_with(&root) => Ok(target),
            Ok(target) => {
                let what = format!("it is a link that leaves the folder of rules: to {}", target.display());
                Err(io::Error::other(what))
            }
            Err(error) => Err(error),
        }
    }

    fn is_link(&self, path: &Path) -> bool {
        self.disk.kind(path).is_ok_and(|kind| kind == Kind::Symlink)
    }

    /// `None`: it is not there any more.
    fn read(&self, path: &Path) -> Option<LoadedText> {
        let target = match self.target(path) {
            Ok(target) => target,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path.to_string_lossy().contains('\u{fffd}') =>
            {
                return Some(LoadedText(Err(whole(path, "its name is not UTF-8: give it another"))));
            }
            // The name of a link stands also where what it leads to does not.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self
                    .is_link(path)
                    .then(|| LoadedText(Err(whole(path, "it is a link that leads to nothing"))));
            }
            Err(error) => return Some(LoadedText(Err(whole(path, error)))),
        };
        if path.extension().is_none_or(|extension| extension != "toml") {
            let what = "a file of rules ends in `.toml`; only a name that begins with a dot is passed over";
            return Some(LoadedText(Err(whole(path, what))));
        }
        match self.bytes(&target) {
            Ok(bytes) => Some(LoadedText(rules::text(bytes, &shown(path)).map(Arc::from))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_link(path) => None,
            Err(error) => Some(LoadedText(Err(whole(path, error)))),
        }
    }

    fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.disk.open(path, Access::Read)?;
        let len = file.len()?;
        if len > FILE_BYTES_MAX as u64 {
            return Err(io::Error::other(format!(
                "the file is {len} bytes, limit is {FILE_BYTES_MAX} bytes"
            )));
        }
        let mut bytes = vec![0; len as usize];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Takes what there is now for what is known. `false`: it is as it was.
    fn take(&mut self, now: Duration) -> bool {
        let mut names = self.names();
        if self.files.keys().any(|path| !names.files.contains_key(path)) {
            // It may have been moved behind our back, to where we had looked already.
            names = self.names();
        }
        let (mut groups, mut files) = self.found(&names, now);
        // A link that was replaced while files were read: some would be of before, and some of after.
        for _ in 0..3 {
            if names.links.is_empty() {
                break;
            }
            let later = self.names();
            if later == names {
                break;
            }
            names = later;
            (groups, files) = self.found(&names, now);
        }
        let said = |groups: &BTreeMap<PathBuf, RuleGroup>| -> Vec<_> {
            groups.iter().map(|(dir, group)| (dir.clone(), group.says.clone(), group.error.clone())).collect()
        };
        let text = |files: &BTreeMap<PathBuf, TrackedFile>| -> Vec<_> {
            files.iter().map(|(path, file)| (path.clone(), file.text.clone())).collect()
        };
        let is_new = said(&groups) != said(&self.groups) || text(&files) != text(&self.files);
        (self.groups, self.files) = (groups, files);
        is_new
    }

    fn found(
        &self,
        names: &FolderEntries,
        now: Duration,
    ) -> (BTreeMap<PathBuf, RuleGroup>, BTreeMap<PathBuf, TrackedFile>) {
        let due: BTreeSet<PathBuf> =
            names.groups.keys().filter(|dir| self.is_due(dir, now)).cloned().collect();
        (self.found_groups(names, &due, now), self.found_files(names, &due))
    }

    /// Returns whether it is time to read a folder. One with an error is read again each time: it may be right by now.
    fn is_due(&self, dir: &Path, now: Duration) -> bool {
        let known = self.groups.get(dir).filter(|group| group.error.is_none());
        let read = known.and_then(|group| group.read);
        read.is_none_or(|(read, _)| now >= read + self.says(dir).period.unwrap_or(PERIOD))
    }

    fn found_groups(
        &self,
        names: &FolderEntries,
        due: &BTreeSet<PathBuf>,
        now: Duration,
    ) -> BTreeMap<PathBuf, RuleGroup> {
        let found = names.groups.iter().map(|(dir, (name, error))| {
            let mut group = self.groups.get(dir).cloned().unwrap_or_default();
            group.name.clone_from(name);
            if error.is_some() {
                group.error.clone_from(error);
            } else if due.contains(dir) {
                let settings = dir.join(SETTINGS);
                group.take(self.read(&settings), &settings);
                group.read = Some((now, self.clock.now()));
            }
            (dir.clone(), group)
        });
        found.collect()
    }

    fn found_files(&self, names: &FolderEntries, due: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, TrackedFile> {
        let files = names.files.iter().filter(|(path, _)| !path.ends_with(SETTINGS));
        let found = files.filter_map(|(path, group)| {
            let known = self.files.get(path);
            let is_reached = names.groups[group].1.is_none();
            let is_read =
                |known: &TrackedFile| !is_reached || (known.error.is_none() && !due.contains(group));
            let text = match known.filter(|known| is_read(known)) {
                Some(known) => known.text.clone(),
                None => self.read(path)?,
            };
            let known = known.cloned().unwrap_or_default();
            Some((path.clone(), TrackedFile { group: group.clone(), text, ..known }))
        });
        found.collect()
    }

    /// Returns the settings of a group. Each one that it does not have is taken from the groups above it.
    fn says(&self, dir: &Path) -> FolderRules {
        let of = |dir: &Path| self.groups.get(dir).map(|group| group.says.clone());
        dir.ancestors().map_while(of).fold(FolderRules::default(), |says, above| FolderRules {
            period: says.period.or(above.period),
            defaults: Defaults {
                owner: says.defaults.owner.or(above.defaults.owner),
                severity: says.defaults.severity.or(above.defaults.severity),
            },
        })
    }

    // ---- judging what was found ----

    /// Applies each file that can be read and defines no check that is defined elsewhere. The others keep their older rules.
    fn settle(&mut self) {
        self.stand_as_recorded();
        let mut new: BTreeMap<PathBuf, Result<Vec<Check>, RuleError>> = BTreeMap::new();
        for (path, file) in &self.files {
            let defaults = self.says(&file.group).defaults;
            let parsed = file.text.0.clone().and_then(|text| self.parse(path, &defaults, &text));
            new.insert(path.clone(), parsed);
        }
        // Refusing a file brings its older rules back, which may be in the way of others: until nobody is in anybody's way.
        while let Some((path, error)) = self.conflict(&new) {
            new.insert(path, Err(error));
        }
        for (path, file) in &mut self.files {
            match new.remove(path).expect("each was parsed") {
                Ok(checks) => (file.stand, file.error) = (checks, None),
                Err(error) => file.error = Some(error),
            }
        }
    }

    fn parse(&self, path: &Path, defaults: &Defaults, text: &str) -> Result<Vec<Check>, RuleError> {
        let checks = rules::parse_in(defaults, text, &shown(path))?;
        for check in &checks {
            let wrong = |what: String| rules::error_at(text, &shown(path), check.id(), what);
            // A guard is part of every commit, and these come and go.
            if check.guard {
                return Err(wrong("a guard is declared in the setup: leave `guard` out".into()));
            }
            let compared = check.lens.compare(&self.vocabulary);
            compared.map_err(|wrong| rules::misnamed(text, &shown(path), check.id(), &wrong))?;
            check.lens.find(&|name| self.named(name)).map_err(wrong)?;
        }
        if checks.is_empty() {
            // An editor that fails leaves an empty file, and nothing would be checked any more.
            return Err(whole(path, "there is no rule in it: remove the file if that is meant"));
        }
        Ok(checks)
    }

    /// Has files of which nothing is known yet stand as they are on record: they are found in the state in which they were left.
    fn stand_as_recorded(&mut self) {
        let parse = |(path, file): (&PathBuf, &TrackedFile)| {
            let RuleText { text, owner, severity } = self.recorded.get(&shown(path))?;
            let severity = severity.as_deref().and_then(Severity::named);
            let defaults = Defaults { owner: owner.clone(), severity };
            // A name in it may be gone from the program: then it stands no more.
            let checks = self.parse(path, &defaults, text).ok()?;
            file.is_new().then(|| (path.clone(), checks))
        };
        let standing: Vec<_> = self.files.iter().filter_map(parse).collect();
        for (path, checks) in standing {
            self.files.entry(path).or_default().stand = checks;
        }
    }

    /// The text of a file that runs, with what its folder says.
    fn standing(&self, file: &TrackedFile) -> Option<RuleText> {
        let text = file.text.0.as_ref().ok().filter(|_| file.error.is_none())?.to_string();
        let Defaults { owner, severity } = self.says(&file.group).defaults;
        Some(RuleText { text, owner, severity: severity.map(|severity| severity.to_string()) })
    }

    /// A file that defines what is defined elsewhere, and by more right: by the setup, or by what stood before, or by a name that
    /// comes first.
    fn conflict(
        &self,
        new: &BTreeMap<PathBuf, Result<Vec<Check>, RuleError>>,
    ) -> Option<(PathBuf, RuleError)> {
        let stands = |path: &Path, id: &str| self.files[path].stand.iter().any(|check| check.id() == id);
        let checks = |path: &PathBuf| match &new[path] {
            Ok(checks) => checks.clone(),
            Err(_) => self.files[path].stand.clone(),
        };
        let mut defined: BTreeMap<String, Option<PathBuf>> =
            self.fixed.iter().map(|check| (check.id().to_owned(), None)).collect();
        for path in new.keys() {
            for check in checks(path) {
                let id = check.id();
                let Some(other) = defined.get(id).cloned() else {
                    defined.insert(id.to_owned(), Some(path.clone()));
                    continue;
                };
                let (refused, by) = match &other {
                    Some(first) if stands(path, id) => (first, shown(path)),
                    Some(first) => (path, shown(first)),
                    None => (path, "the setup".to_owned()),
                };
                let Ok(text) = &self.files[refused].text.0 else { continue };
                let what = format!("`{id}` is defined by {by} already");
                return Some((refused.clone(), rules::error_at(text, &shown(refused), id, what)));
            }
        }
        None
    }
}

impl TrackedFile {
    /// Nothing was read of it since the store was opened, or nothing good.
    fn is_new(&self) -> bool {
        self.stand.is_empty()
    }
}

impl RuleGroup {
    fn take(&mut self, settings: Option<LoadedText>, path: &Path) {
        let read = match settings {
            None => Ok(FolderRules::default()),
            Some(LoadedText(text)) => text.and_then(|text| rules::parse_folder(&text, &shown(path))),
        };
        match read {
            Ok(says) => (self.says, self.error) = (says, None),
            Err(error) => self.error = Some(error),
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// An error of no place in the file.
fn whole(path: &Path, what: impl ToString) -> RuleError {
    RuleError { file: shown(path), line: 1, column: 1, what: what.to_string() }
}

impl Origin for Folders {
    fn look(&mut self, now: Duration) -> Option<Known> {
        if now < self.due {
            return None;
        }
        if self.take(now) {
            self.settle();
        }
        let periods = self.groups.keys().map(|dir| self.says(dir).period.unwrap_or(PERIOD));
        self.due = now + periods.min().unwrap_or(PERIOD);
        Some(self.known())
    }

    fn recall(&mut self, recorded: BTreeMap<String, RuleText>) {
        self.recorded = recorded;
    }

    fn unrecorded(&self, bytes_max: usize) -> BTreeMap<String, Option<RuleText>> {
        let fits = |name: &str, text: &RuleText| {
            let owner = text.owner.as_ref().map_or(0, String::len);
            name.len() < NAME_BYTES_MAX && text.text.len() + owner + 2 * NAME_BYTES_MAX <= bytes_max
        };
        let of_file = |(path, file): (&PathBuf, &TrackedFile)| {
            let (name, text) = (shown(path), self.standing(file)?);
            let is_new = self.recorded.get(&name) != Some(&text) && fits(&name, &text);
            is_new.then_some((name, Some(text)))
        };
        let here: BTreeSet<String> = self.files.keys().map(|path| shown(path)).collect();
        // A folder that cannot be reached has not been emptied.
        let unreached = |name: &str| {
            let mut wrong = self.groups.iter().filter(|(_, group)| group.error.is_some());
            wrong.any(|(dir, _)| Path::new(name).starts_with(dir))
        };
        let gone = self.recorded.keys().filter(|name| !here.contains(*name) && !unreached(name));
        let gone = gone.map(|name| (name.clone(), None));
        self.files.iter().filter_map(of_file).chain(gone).collect()
    }

    fn note_recorded(&mut self, texts: BTreeMap<String, Option<RuleText>>) {
        for (name, text) in texts {
            match text {
                Some(text) => drop(self.recorded.insert(name, text)),
                None => drop(self.recorded.remove(&name)),
            }
        }
    }

    fn known(&self) -> Known {
        let mut known = Known::default();
        let stands = |path: &Path| {
            let mut below = self.files.iter().filter(|(file, _)| file.starts_with(path));
            below.any(|(_, file)| !file.stand.is_empty())
        };
        let mut list = |file: &Path, dir: &Path, checks: &[Check], error: &Option<RuleError>| {
            let says = self.says(dir);
            let group = &self.groups[dir];
            let names: Vec<_> = checks.iter().map(|check| check.id().to_owned()).collect();
            let period = says.period.unwrap_or(PERIOD);
            if let Some(period) = says.period {
                known.periods.extend(names.iter().map(|name| (name.clone(), period)));
            }
            if let Some(error) = error {
                let (severity, stands) = match stands(file) || file.ends_with(SETTINGS) {
                    true => (Severity::Ticket, "what it said before stands"),
                    false => (Severity::Page, "nothing of it is checked"),
                };
                let owner = says.defaults.owner.unwrap_or_else(|| KEEPER.to_owned());
                let why = format!("{error}; {stands}");
                known.unread.insert(shown(file), Unread { owner, severity, why });
            }
            let last_read = group.read.map_or(Timestamp(0), |(_, at)| at).into();
            let (file, group) = (file.to_owned(), group.name.clone());
            known.files.push(RuleFile {
                file,
                group,
                checks: names,
                period,
                last_read,
                error: error.clone(),
            });
        };
        for (dir, group) in self.groups.iter().filter(|(_, group)| group.error.is_some()) {
            let is_settings =
                group.error.as_ref().is_some_and(|error| error.file == shown(&dir.join(SETTINGS)));
            let path = if is_settings { dir.join(SETTINGS) } else { dir.clone() };
            list(&path, dir, &[], &group.error);
        }
        for (path, file) in &self.files {
            list(path, &file.group, &file.stand, &file.error);
        }
        known
    }

    fn checks(&self) -> Vec<Check> {
        let read = self.files.values().flat_map(|file| &file.stand);
        self.fixed.iter().chain(read).cloned().collect()
    }

    fn due(&self) -> Duration {
        self.due
    }
}
