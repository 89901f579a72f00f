//! The operating system's files, clock and entropy: the only file that names them.
//!
//! - Never follows a symbolic link at the end of a path, and opens nothing but regular files.
//! - New files are readable by their owner only (0600), new directories too (0700), on unix.
//! - Reads and writes carry their offset: threads that share a handle share no cursor.
//! - A short read or write is continued; an error is returned unchanged and nothing is tried twice.

use super::{Access, Clock, Disk, Entropy, File, Kind, Lock, LockState};
use crate::order::Timestamp;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Files and directories of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let meta = fs::symlink_metadata(path).map_err(|cause| told(path, cause))?;
        Ok(kind_of(meta.file_type()))
    }

    /// Checks the path without reading metadata: on Linux a file whose times were read gets finer ones with the next write, and
    /// then each sync writes its inode too (measured: a third of the commits of a single client).
    #[cfg(unix)]
    fn stands(&self, path: &Path) -> io::Result<bool> {
        match fs::read_link(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    // It fails for an empty path, or without a working directory: then there is nothing better than the given path.
    fn absolute(&self, path: &Path) -> PathBuf {
        std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
    }

    fn real(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path).map_err(|cause| told(path, cause))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        if !matches!(self.kind(path)?, Kind::File | Kind::Dir) {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a directory");
            return Err(told(path, cause));
        }
        let locked = system::open_to_lock(path).and_then(|file| match system::try_lock(&file) {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(cause)) => Err(system::lock_fault(cause)),
        });
        let Some(file) = locked.map_err(|cause| told(path, cause))? else { return Ok(None) };
        let (meta, process) = (file.metadata().map_err(|cause| told(path, cause))?, std::process::id());
        let lock = RealLock { file, meta, path: path.to_owned(), process };
        // The file may have been removed between the opening and the lock: then another file stands there, or none.
        match lock.state()? {
            LockState::Held => Ok(Some(Box::new(lock))),
            LockState::Gone | LockState::Forked => Ok(None),
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        system::owner_only_dir(&mut builder);
        builder.create(path).map_err(|cause| told(path, cause))
    }

    // A name that is not UTF-8 comes with U+FFFD in it: it is none of ours, and no name of ours can be mistaken for it.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(dir).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()
        });
        let mut names = names.map_err(|cause| told(dir, cause))?;
        names.sort_unstable();
        Ok(names)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true);
        system::owner_only_file(&mut options);
        let file = options.open(path).map_err(|cause| told(path, cause))?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let file = open_regular(path, access).map_err(|cause| told(path, cause))?;
        Ok(Box::new(RealFile(file)))
    }

    // The operating system's rename replaces, so this looks first. Between the look and the rename another process could
    // put something there: the store's lock keeps other stores away, and a directory that is not empty is never replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match fs::symlink_metadata(to) {
            Ok(_) => Err(told(to, io::ErrorKind::AlreadyExists.into())),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => rename_unchecked(from, to),
            Err(cause) => Err(told(to, cause)),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(|cause| told(path, cause))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path).map_err(|cause| told(path, cause))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        system::sync_dir(dir).map_err(|cause| told(dir, cause))
    }
}

fn kind_of(file_type: fs::FileType) -> Kind {
    if file_type.is_symlink() {
        Kind::Symlink
    } else if file_type.is_dir() {
        Kind::Dir
    } else if file_type.is_file() {
        Kind::File
    } else {
        Kind::Other
    }
}

// The kind is checked before the file is opened, because opening a pipe waits for its other end, and again after, because
// the entry at the path may have been swapped in between.
fn open_regular(path: &Path, access: Access) -> io::Result<fs::File> {
    let seen = fs::symlink_metadata(path)?;
    if kind_of(seen.file_type()) != Kind::File {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut options = fs::OpenOptions::new();
    options.read(true).write(access == Access::Write);
    system::no_follow(&mut options);
    let file = options.open(path)?;
    let opened = file.metadata()?;
    if kind_of(opened.file_type()) != Kind::File || !system::same_file(&seen, &opened) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "replaced while it was being opened"));
    }
    Ok(file)
}

fn rename_unchecked(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).map_err(|cause| match cause.kind() {
        io::ErrorKind::DirectoryNotEmpty => told(to, io::ErrorKind::AlreadyExists.into()),
        _ => told(from, cause),
    })
}

// Adds the path: the operating system's messages do not have it.
fn told(path: &Path, cause: io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("{}: {cause}", path.display()))
}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        system::read_exact_at(&self.0, out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        system::write_all_at(&self.0, data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    // fdatasync: it also makes the length durable, which is needed to read the data back.
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// A lock of the operating system's.
struct RealLock {
    file: fs::File,
    /// Metadata of the locked file or directory.
    meta: fs::Metadata,
    path: PathBuf,
    process: u32,
}

impl std::fmt::Debug for RealLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} on {}", self.file, self.path.display())
    }
}

impl Lock for RealLock {
    fn state(&self) -> io::Result<LockState> {
        if std::process::id() != self.process {
            return Ok(LockState::Forked);
        }
        match fs::symlink_metadata(&self.path) {
            Ok(stands) if system::same_file(&self.meta, &stands) => Ok(LockState::Held),
            Ok(_) => Ok(LockState::Gone),
            Err(cause) if is_absent(&cause) => Ok(LockState::Gone),
            Err(cause) => Err(told(&self.path, cause)),
        }
    }
}

impl Drop for RealLock {
    /// Unlocks explicitly. Closing the file is not enough: a child that was forked and has not executed its program yet still has
    /// it open, and a process that starts programs beside a close would find the store open already. A forked process must not
    /// unlock: the lock is its parent's.
    fn drop(&mut self) {
        if std::process::id() == self.process {
            let _ = self.file.unlock();
        }
    }
}

fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    /// The fixed moment that `monotonic` counts from.
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The operating system's random bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        getrandom::fill(out).expect("an operating system that runs this gives random bytes");
    }
}

#[cfg(unix)]
mod system {
    use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
    use std::path::Path;

    pub fn owner_only_dir(builder: &mut DirBuilder) {
        builder.mode(0o700);
    }

    pub fn owner_only_file(options: &mut OpenOptions) {
        options.mode(0o600);
    }

    // The flag has another value on each unix and std names none: `same_file` notices a link put there in between.
    pub fn no_follow(_options: &mut OpenOptions) {}

    pub fn same_file(seen: &Metadata, opened: &Metadata) -> bool {
        (seen.dev(), seen.ino()) == (opened.dev(), opened.ino())
    }

    /// A directory can only be opened for reading; some network file systems lock a file only if it was opened for writing.
    pub fn open_to_lock(path: &Path) -> io::Result<File> {
        let is_dir = std::fs::symlink_metadata(path)?.is_dir();
        OpenOptions::new().read(true).write(!is_dir).open(path)
    }

    pub fn try_lock(file: &File) -> Result<(), TryLockError> {
        file.try_lock()
    }

    /// Maps all errors by which a file system says that it has no locks to `Unsupported`.
    pub fn lock_fault(cause: io::Error) -> io::Error {
        // ENOSYS is 38 on Linux and 78 on the BSDs and macOS; ENOLCK 37 and 77.
        let is_unsupported = cause.kind() == io::ErrorKind::Unsupported
            || matches!(cause.raw_os_error(), Some(37 | 38 | 77 | 78));
        match is_unsupported {
            true => io::Error::new(io::ErrorKind::Unsupported, cause),
            false => cause,
        }
    }

    pub fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
        file.read_exact_at(out, offset)
    }

    pub fn write_all_at(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(data, offset)
    }

    pub fn sync_dir(dir: &Path) -> io::Result<()> {
        if !std::fs::symlink_metadata(dir)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        File::open(dir)?.sync_all()
    }
}

#[cfg(windows)]
mod system {
    use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
    use std::io;
    use std::os::windows::fs::{FileExt, OpenOptionsExt};
    use std::path::Path;

    const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x0020_0000;

    // Access lists are inherited from the directory above.
    pub fn owner_only_dir(_builder: &mut DirBuilder) {}

    pub fn owner_only_file(_options: &mut OpenOptions) {}

    pub fn no_follow(options: &mut OpenOptions) {
        options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT);
    }

    // `no_follow` opened the link itself, if one was put there, and its kind was looked at again.
    pub fn same_file(_seen: &Metadata, _opened: &Metadata) -> bool {
        true
    }

    const FILE_SHARE_READ_WRITE: u32 = 0x0000_0003;
    const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;

    // Without the right to delete for others, it can neither be removed nor renamed while it is locked.
    pub fn open_to_lock(path: &Path) -> io::Result<File> {
        let is_dir = std::fs::symlink_metadata(path)?.is_dir();
        let mut options = OpenOptions::new();
        options.read(true).write(!is_dir).share_mode(FILE_SHARE_READ_WRITE);
        if is_dir {
            options.custom_flags(FILE_FLAG_BACKUP_SEMANTICS);
        }
        options.open(path)
    }

    // There is no lock on a directory here, and its open handle is enough to keep it where it is.
    pub fn try_lock(file: &File) -> Result<(), TryLockError> {
        match file.metadata().map_err(TryLockError::Error)?.is_dir() {
            true => Ok(()),
            false => file.try_lock(),
        }
    }

    pub fn lock_fault(cause: io::Error) -> io::Error {
        cause
    }

    pub fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !out.is_empty() {
            match file.seek_read(out, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    out = &mut out[count..];
                    offset += count as u64;
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }

    pub fn write_all_at(file: &File, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            match file.seek_write(data, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    data = &data[count..];
                    offset += count as u64;
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }

    // Directories cannot be synced here; the file system's own journal orders its names.
    pub fn sync_dir(dir: &Path) -> io::Result<()> {
        if std::fs::symlink_metadata(dir)?.is_dir() {
            Ok(())
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Platform;
    use tempfile::TempDir;

    fn room() -> TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn kind_of_error<T>(result: io::Result<T>) -> io::ErrorKind {
        result.err().expect("refused").kind()
    }

    #[test]
    fn writes_at_any_offset_read_back() {
        let room = room();
        let path = room.path().join("a");
        let file = RealDisk.create_new(&path).unwrap();
        file.write_at(10, b"world").unwrap();
        file.write_at(0, b"hello").unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 15);
        let mut out = [1; 15];
        RealDisk.open(&path, Access::Read).unwrap().read_at(0, &mut out).unwrap();
        assert_eq!(&out, b"hello\0\0\0\0\0world");
    }

    #[test]
    fn read_past_end_is_unexpected_eof() {
        let room = room();
        let file = RealDisk.create_new(&room.path().join("a")).unwrap();
        file.write_at(0, b"abc").unwrap();
        assert_eq!(kind_of_error(file.read_at(1, &mut [0; 3])), io::ErrorKind::UnexpectedEof);
        file.set_len(4).unwrap();
        let mut out = [9; 3];
        file.read_at(1, &mut out).unwrap();
        assert_eq!(&out, b"bc\0");
    }

    #[test]
    fn empty_write_past_end_keeps_length() {
        let room = room();
        let file = RealDisk.create_new(&room.path().join("a")).unwrap();
        file.write_at(100, b"").unwrap();
        assert_eq!(file.len().unwrap(), 0);
    }

    #[test]
    fn read_only_file_refuses_writes() {
        let room = room();
        let path = room.path().join("a");
        RealDisk.create_new(&path).unwrap();
        let file = RealDisk.open(&path, Access::Read).unwrap();
        assert!(file.write_at(0, b"x").is_err());
        assert!(file.set_len(1).is_err());
    }

    #[test]
    fn nothing_that_stands_is_created_over() {
        let room = room();
        let path = room.path().join("a");
        RealDisk.create_new(&path).unwrap();
        assert_eq!(kind_of_error(RealDisk.create_new(&path)), io::ErrorKind::AlreadyExists);
        assert_eq!(kind_of_error(RealDisk.create_dir(&path)), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn rename_moves_but_never_replaces() {
        let room = room();
        let at = |name: &str| room.path().join(name);
        RealDisk.create_new(&at("a")).unwrap().write_at(0, b"a").unwrap();
        RealDisk.create_new(&at("b")).unwrap().write_at(0, b"b").unwrap();
        RealDisk.create_dir(&at("d")).unwrap();
        RealDisk.create_dir(&at("e")).unwrap();
        for (from, to) in [("a", "b"), ("a", "d"), ("d", "a"), ("d", "e"), ("a", "a")] {
            assert_eq!(
                kind_of_error(RealDisk.rename(&at(from), &at(to))),
                io::ErrorKind::AlreadyExists,
                "{from} {to}"
            );
        }
        assert_eq!(kind_of_error(RealDisk.rename(&at("none"), &at("f"))), io::ErrorKind::NotFound);
        RealDisk.rename(&at("a"), &at("d/a")).unwrap();
        RealDisk.rename(&at("d"), &at("f")).unwrap();
        RealDisk.sync_dir(room.path()).unwrap();
        assert_eq!(RealDisk.list(room.path()).unwrap(), ["b", "e", "f"]);
        assert_eq!(RealDisk.list(&at("f")).unwrap(), ["a"]);
        assert_eq!(kind_of_error(RealDisk.remove_dir(&at("f"))), io::ErrorKind::DirectoryNotEmpty);
        RealDisk.remove(&at("f/a")).unwrap();
        RealDisk.remove_dir(&at("f")).unwrap();
        assert_eq!(kind_of_error(RealDisk.kind(&at("f"))), io::ErrorKind::NotFound);
    }

    #[test]
    fn open_error_names_its_path() {
        let room = room();
        let path = room.path().join("missing");
        let error = RealDisk.open(&path, Access::Read).err().unwrap();
        assert!(error.to_string().contains("missing"), "{error}");
    }

    #[test]
    fn lock_is_held_until_handle_drops() {
        let room = room();
        let path = room.path().join("lock");
        assert_eq!(
            kind_of_error(RealDisk.lock(&path)),
            io::ErrorKind::NotFound,
            "nothing is made to be locked"
        );
        RealDisk.create_new(&path).unwrap();
        for path in [&path, room.path()] {
            let first = RealDisk.lock(path).unwrap().expect("nobody has it");
            assert_eq!(first.state().unwrap(), LockState::Held);
            assert!(RealDisk.lock(path).unwrap().is_none());
            drop(first);
            assert!(RealDisk.lock(path).unwrap().is_some());
        }
    }

    #[test]
    fn lock_on_replaced_file_is_gone() {
        let room = room();
        let path = room.path().join("lock");
        RealDisk.create_new(&path).unwrap();
        let first = RealDisk.lock(&path).unwrap().unwrap();
        RealDisk.remove(&path).unwrap();
        assert_eq!(first.state().unwrap(), LockState::Gone);
        RealDisk.create_new(&path).unwrap();
        assert_eq!(first.state().unwrap(), LockState::Gone);
        assert!(RealDisk.lock(&path).unwrap().is_some(), "another file has another lock");
    }

    #[cfg(unix)]
    #[test]
    fn real_path_resolves_symlinks() {
        let room = room();
        let root = RealDisk.real(room.path()).unwrap();
        RealDisk.create_dir(&root.join("d")).unwrap();
        std::os::unix::fs::symlink("d", root.join("link")).unwrap();
        assert_eq!(RealDisk.real(&root.join("link")).unwrap(), root.join("d"));
        assert_eq!(kind_of_error(RealDisk.real(&root.join("none"))), io::ErrorKind::NotFound);
        assert!(RealDisk.absolute(Path::new("none/link")).is_absolute());
    }

    #[test]
    fn only_regular_files_are_opened() {
        let room = room();
        assert_eq!(kind_of_error(RealDisk.open(room.path(), Access::Read)), io::ErrorKind::InvalidInput);
        assert_eq!(RealDisk.kind(room.path()).unwrap(), Kind::Dir);
        let missing = room.path().join("missing");
        assert_eq!(kind_of_error(RealDisk.open(&missing, Access::Write)), io::ErrorKind::NotFound);
        assert_eq!(kind_of_error(RealDisk.kind(&missing)), io::ErrorKind::NotFound, "open makes nothing");
    }

    #[test]
    fn sync_dir_refuses_a_file() {
        let room = room();
        RealDisk.create_new(&room.path().join("a")).unwrap();
        assert_eq!(kind_of_error(RealDisk.sync_dir(&room.path().join("a"))), io::ErrorKind::NotADirectory);
    }

    #[cfg(unix)]
    #[test]
    fn symlinks_and_sockets_are_recognised_not_opened() {
        let room = room();
        let at = |name: &str| room.path().join(name);
        RealDisk.create_new(&at("a")).unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (name, kind) in [("a", Kind::File), ("link", Kind::Symlink), ("socket", Kind::Other)] {
            assert_eq!(RealDisk.kind(&at(name)).unwrap(), kind);
        }
        for name in ["link", "socket"] {
            assert_eq!(kind_of_error(RealDisk.open(&at(name), Access::Write)), io::ErrorKind::InvalidInput);
            assert_eq!(kind_of_error(RealDisk.create_new(&at(name))), io::ErrorKind::AlreadyExists);
            assert_eq!(kind_of_error(RealDisk.rename(&at("a"), &at(name))), io::ErrorKind::AlreadyExists);
        }
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
        assert_eq!(kind_of_error(RealDisk.create_new(&at("dangling"))), io::ErrorKind::AlreadyExists);
        assert_eq!(kind_of_error(RealDisk.rename(&at("a"), &at("dangling"))), io::ErrorKind::AlreadyExists);
        RealDisk.remove(&at("link")).unwrap();
        assert_eq!(RealDisk.kind(&at("a")).unwrap(), Kind::File, "the link went, not what it leads to");
    }

    #[cfg(unix)]
    #[test]
    fn same_file_detects_swapped_file() {
        let room = room();
        let (a, b) = (room.path().join("a"), room.path().join("b"));
        RealDisk.create_new(&a).unwrap();
        RealDisk.create_new(&b).unwrap();
        let meta = |path: &Path| fs::symlink_metadata(path).unwrap();
        assert!(system::same_file(&meta(&a), &meta(&a)));
        assert!(!system::same_file(&meta(&a), &meta(&b)));
    }

    #[cfg(unix)]
    #[test]
    fn new_files_and_directories_are_owner_only() {
        use std::os::unix::fs::MetadataExt;
        let room = room();
        let at = |name: &str| room.path().join(name);
        RealDisk.create_dir(&at("d")).unwrap();
        RealDisk.create_new(&at("f")).unwrap();
        let mode = |name: &str| fs::metadata(at(name)).unwrap().mode() & 0o777;
        assert_eq!((mode("d"), mode("f")), (0o700, 0o600));
    }

    #[cfg(unix)]
    #[test]
    fn a_handle_outlives_its_name() {
        let room = room();
        let path = room.path().join("a");
        let file = RealDisk.create_new(&path).unwrap();
        RealDisk.remove(&path).unwrap();
        file.write_at(0, b"still").unwrap();
        assert_eq!(file.len().unwrap(), 5);
    }

    #[test]
    fn the_clock_runs_and_entropy_differs() {
        let platform = Platform::real();
        let (now, ran) = (platform.clock.now(), platform.clock.monotonic());
        assert!(now > Timestamp::from_micros(1_700_000_000_000_000));
        assert!(platform.clock.monotonic() >= ran);
        let (mut one, mut other) = ([0; 16], [0; 16]);
        platform.entropy.fill(&mut one);
        platform.entropy.fill(&mut other);
        assert_ne!(one, other);
    }
}
