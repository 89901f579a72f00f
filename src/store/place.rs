//! A store's directory: what stands at a path, who has it, how one is made.
//!
//! - The path is resolved once, when the store is opened: neither the working directory nor a link that changes later moves it.
//! - Links above the store's own directory are followed; the directory itself is never a link.
//! - Two locks keep others out: one on the file `lock`, and one on the directory `log`, which nobody removes because it is empty.

use crate::disk::{Kind, Lock, LockState, Platform};
use crate::error::{OpenError, StorageError};
use crate::log::StoreId;
use crate::log::segments::{LogOptions, SegmentLog};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

pub(super) const LOG: &str = "log";
const LOG_CREATING: &str = "log.creating";
const LOCK: &str = "lock";
/// Everything else that an open store makes in its directory.
const DERIVED: [&str; 4] = [super::STATE, super::VERIFY, "checks.redb", "behind"];
/// Names that file systems and desktops make in a directory by themselves: they leave room for a store.
const NOT_OURS: [&str; 6] =
    ["lost+found", ".DS_Store", ".Trashes", ".fseventsd", ".Spotlight-V100", "System Volume Information"];

/// A store's directory, and the locks that keep others out of it until they are given up.
pub(super) struct Place {
    /// Absolute, without any link in it.
    pub path: PathBuf,
    pub platform: Platform,
    /// Empty once the store is closed.
    locks: Mutex<Vec<Arc<dyn Lock>>>,
}

/// Kind of what is at a path.
#[derive(Debug, PartialEq, Eq)]
enum PathKind {
    Nothing,
    /// A directory that is empty but for names of file systems, or for what a crash inside `create` left.
    Room,
    Store,
}

impl Place {
    /// Takes the store in the directory `path`. `NotFound` if there is none.
    pub fn lock(platform: &Platform, path: &Path) -> Result<Self, OpenError> {
        let path = find(platform, path)?;
        let place = Self::locked(platform, path)?;
        place.take(LOG)?;
        Ok(place)
    }

    fn locked(platform: &Platform, path: PathBuf) -> Result<Self, OpenError> {
        let place = Self { path, platform: platform.clone(), locks: Mutex::default() };
        place.take(LOCK)?;
        Ok(place)
    }

    /// Locks the file or directory of this name. The file `lock` is made if it is missing.
    fn take(&self, name: &str) -> Result<(), OpenError> {
        let (disk, path) = (&self.platform.disk, self.path.join(name));
        let (mut locked, mut has_made) = (disk.lock(&path), false);
        if name == LOCK && locked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            match disk.create_new(&path) {
                Ok(_) => has_made = true,
                // Another opener made it in between.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(trouble(&self.path, error)),
            }
            locked = disk.lock(&path);
        }
        if has_made && locked.is_err() {
            let _ = disk.remove(&path);
        }
        match locked {
            Ok(Some(lock)) => self.locks.lock().push(lock.into()),
            Ok(None) => return Err(OpenError::AlreadyOpen { path: self.path.clone() }),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let what =
                    "has no locks, and nothing would keep a second process out: put the store on another one";
                let what = format!("the file system of {} {what}", path.display());
                return Err(StorageError::io(what, error).into());
            }
            Err(error) => return Err(trouble(&self.path, error)),
        }
        Ok(())
    }

    /// Gives the directory up: others may open the store as soon as nobody has a share of the locks any more.
    pub fn unlock(&self) {
        self.locks.lock().clear();
    }

    /// The locks, which keep others out as long as somebody has them. Empty: the directory was given up.
    pub fn share(&self) -> Vec<Arc<dyn Lock>> {
        self.locks.lock().clone()
    }

    /// The locks, for the log to ask before it writes.
    pub fn locks(&self) -> Vec<Weak<dyn Lock>> {
        self.locks.lock().iter().map(Arc::downgrade).collect()
    }

    /// Takes again the locks that were lost. Those that are held stay held meanwhile.
    pub fn relock(&self) -> Result<(), OpenError> {
        let mut is_lost = false;
        for lock in self.locks.lock().iter() {
            match lock.state().map_err(|error| trouble(&self.path, error))? {
                LockState::Held => {}
                LockState::Gone => is_lost = true,
                LockState::Forked => return Err(crate::log::forked().into()),
            }
        }
        if !is_lost {
            return Ok(());
        }
        let held = std::mem::take(&mut *self.locks.lock());
        for (name, lock) in [LOCK, LOG].into_iter().zip(&held) {
            match lock.state() {
                Ok(LockState::Held) => self.locks.lock().push(lock.clone()),
                _ => {
                    if let Err(error) = self.take(name) {
                        *self.locks.lock() = held;
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns whether this process is a fork of the one that opened the store. If so, all threads and files are its parent's.
    pub fn is_forked(&self) -> bool {
        self.locks.lock().iter().any(|lock| matches!(lock.state(), Ok(LockState::Forked)))
    }

    /// Makes the store's own name durable before anything is served: whoever made it may have been killed before that.
    pub fn sync_names(&self) -> Result<(), OpenError> {
        let (disk, path) = (&self.platform.disk, &self.path);
        disk.sync_dir(path).map_err(|error| trouble(path, error))?;
        let Some(parent) = path.parent() else { return Ok(()) };
        match disk.sync_dir(parent) {
            // Not ours to look into: then the directory in it was not made by us either.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced.map_err(|error| trouble(path, error)),
        }
    }

    fn is_free(&self) -> Result<(), OpenError> {
        match look(&self.platform, &self.path).map_err(|error| exists(error, &self.path))? {
            PathKind::Store => Err(OpenError::AlreadyExists { path: self.path.clone() }),
            PathKind::Nothing | PathKind::Room => Ok(()),
        }
    }

    /// Makes an empty log under another name, and renames it when it is whole: a store is there when its log is.
    fn make_log(&self, options: &LogOptions) -> Result<(), OpenError> {
        let (disk, trouble) = (&self.platform.disk, |error| trouble(&self.path, error));
        let creating = self.path.join(LOG_CREATING);
        self.clear(LOG_CREATING).map_err(trouble)?;
        SegmentLog::create(disk, &creating, new_id(&self.platform), options)?;
        disk.sync_dir(&self.path).map_err(trouble)?;
        disk.rename(&creating, &self.path.join(LOG)).map_err(trouble)
    }

    /// Removes a file, or a directory with the files in it, if it is there.
    fn clear(&self, name: &str) -> io::Result<()> {
        let (disk, path) = (&self.platform.disk, self.path.join(name));
        match disk.kind(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(Kind::Dir) => {
                for name in disk.list(&path)? {
                    disk.remove(&path.join(name))?;
                }
                disk.remove_dir(&path)
            }
            kind => kind.and_then(|_| disk.remove(&path)),
        }
    }
}

/// A store that was made just now. Unless it is kept, dropping it removes it.
pub(super) struct New {
    place: Arc<Place>,
    /// The directory was made, too.
    has_made_dir: bool,
    is_kept: AtomicBool,
}

impl New {
    /// Makes an empty store in the directory `path`, which must be empty or missing.
    pub fn create(platform: &Platform, path: &Path, options: &LogOptions) -> Result<Self, OpenError> {
        let path = resolve(platform, path).map_err(|error| trouble(path, error))?;
        let mut place = Place { path, platform: platform.clone(), locks: Mutex::default() };
        place.is_free()?;
        let has_made_dir = match platform.disk.create_dir(&place.path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(trouble(&place.path, error)),
        };
        place = Place::locked(platform, place.path.clone()).inspect_err(|_| {
            if has_made_dir {
                // Not empty, if another has the lock: then it stays.
                let _ = platform.disk.remove_dir(&place.path);
            }
        })?;
        // Looked at again under the lock: another may have created it meanwhile, and then it stays.
        place.is_free().inspect_err(|error| {
            if has_made_dir && !matches!(error, OpenError::AlreadyExists { .. }) {
                let _ = platform.disk.remove(&place.path.join(LOCK));
                let _ = platform.disk.remove_dir(&place.path);
            }
        })?;
        let new = Self { place: Arc::new(place), has_made_dir, is_kept: AtomicBool::new(false) };
        new.place.make_log(options)?;
        new.place.take(LOG)?;
        Ok(new)
    }

    pub fn place(&self) -> Arc<Place> {
        self.place.clone()
    }

    pub fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }
}

impl Drop for New {
    /// Removes what was made, as far as the disk lets it. What is left, a later `create` takes for what a crash left.
    fn drop(&mut self) {
        if self.is_kept.load(Ordering::Relaxed) {
            return;
        }
        let Place { path, platform, .. } = &*self.place;
        // Without its name it is no store, whatever else cannot be removed.
        let _ = platform.disk.rename(&path.join(LOG), &path.join(LOG_CREATING));
        let names = DERIVED.into_iter().chain([LOG_CREATING, LOG, LOCK]);
        for name in names {
            let _ = self.place.clear(name);
        }
        if self.has_made_dir {
            let _ = platform.disk.remove_dir(path);
        }
    }
}

pub(super) fn new_id(platform: &Platform) -> StoreId {
    let mut id = [0; 16];
    platform.entropy.fill(&mut id);
    StoreId(id)
}

/// The absolute path of the store in the directory `path`. `NotFound` if there is none.
pub(super) fn find(platform: &Platform, path: &Path) -> Result<PathBuf, OpenError> {
    let path = match resolve(platform, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::NotFound { path: path.to_owned() });
        }
        resolved => resolved.map_err(|error| trouble(path, error))?,
    };
    match look(platform, &path)? {
        PathKind::Store => Ok(path),
        PathKind::Nothing | PathKind::Room => Err(OpenError::NotFound { path }),
    }
}

/// The absolute path of a store, with the links above its last name resolved. A slash at the end changes nothing.
fn resolve(platform: &Platform, path: &Path) -> io::Result<PathBuf> {
    let disk = &platform.disk;
    let Some(name) = path.file_name() else { return disk.real(path) };
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    Ok(disk.real(above.unwrap_or(Path::new(".")))?.join(name))
}

fn look(platform: &Platform, path: &Path) -> Result<PathKind, OpenError> {
    let not_a_store = |why: &str| OpenError::NotAStore { path: path.to_owned(), why: why.to_owned() };
    match platform.disk.kind(path) {
        Ok(Kind::Dir) => {}
        Ok(Kind::File) => return Err(not_a_store("it is a file")),
        Ok(Kind::Symlink) => return Err(not_a_store("it is a symbolic link")),
        Ok(Kind::Other) => return Err(not_a_store("it is neither a file nor a directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(PathKind::Nothing),
        Err(error) => return Err(trouble(path, error)),
    }
    let names = platform.disk.list(path).map_err(|error| trouble(path, error))?;
    if names.iter().any(|name| name == LOG) {
        return match platform.disk.kind(&path.join(LOG)).map_err(|error| trouble(path, error))? {
            Kind::Dir => Ok(PathKind::Store),
            _ => Err(not_a_store("its `log` is no directory")),
        };
    }
    let is_room = |name: &str| name == LOCK || name == LOG_CREATING || NOT_OURS.contains(&name);
    match names.iter().find(|name| !is_room(name)) {
        Some(name) => Err(not_a_store(&format!("it has no `{LOG}`, but `{name}`"))),
        None => Ok(PathKind::Room),
    }
}

fn exists(error: OpenError, path: &Path) -> OpenError {
    match error {
        OpenError::NotAStore { .. } => OpenError::AlreadyExists { path: path.to_owned() },
        error => error,
    }
}

pub(super) fn trouble(path: &Path, error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::ReadOnly { path: path.to_owned(), why: error.to_string() }
        }
        _ => StorageError::io(format!("{} could not be read or written", path.display()), error).into(),
    }
}
