//! The seam to everything outside the process: files, directories, the clock, entropy.
//!
//! - Nothing else in the crate names `std::fs`, `SystemTime::now` or `Instant::now`.
//! - The log and redb both stand on it, so that one simulated disk (`testing::SimDisk`) shows both to a power cut.

mod real;

pub use real::{RealDisk, SystemClock, SystemEntropy};

use crate::order::Timestamp;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Kind of a directory entry. Symbolic links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link, dangling or not.
    Symlink,
    /// A pipe, socket or device.
    Other,
}

/// Mode of opening a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// Files and directories.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Returns the kind of the entry at `path`; `NotFound` if there is none.
    fn kind(&self, path: &Path) -> io::Result<Kind>;
    /// Returns whether anything stands at `path`. Called after every sync, so it must not cost one.
    fn stands(&self, path: &Path) -> io::Result<bool> {
        match self.kind(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
    /// Returns `path` from the root of the file system, as the working directory is now. Links are not resolved; `path` need not
    /// exist.
    ///
    /// The default is for a disk without a working directory.
    #[cfg_attr(
        not(feature = "rules"),
        allow(dead_code, reason = "folders of rules alone are named by relative paths")
    )]
    fn absolute(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
    /// Returns the absolute path, without any link in it, of the file or directory that `path` leads to; `NotFound` if there is
    /// none.
    ///
    /// The default is for a disk without links.
    fn real(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
    /// Takes the exclusive lock on the file or directory at `path`, held until it is dropped. `None` if another handle has it, in
    /// this process or in another; `Unsupported` if the file system has no locks.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
    /// Makes one directory; `AlreadyExists` if anything stands there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Returns the names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes an empty file, readable and writable; `AlreadyExists` if anything stands there.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens a regular file that exists. Refuses symbolic links and other kinds with `InvalidInput`.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>>;
    /// Renames a file or a directory; `AlreadyExists` if anything stands at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// One open file.
#[allow(clippy::len_without_is_empty, reason = "nobody asks a file on disk whether it is empty")]
pub trait File: Send + Sync + fmt::Debug + 'static {
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `out` from `offset`; `UnexpectedEof` past the end.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` at `offset`, growing the file if needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Cuts the file, or grows it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes data and length durable. After an error nothing is known, and it is never called again on this handle.
    fn sync_data(&self) -> io::Result<()>;
}

/// A lock on a file or directory, held until it is dropped.
pub trait Lock: Send + Sync + fmt::Debug + 'static {
    /// Returns the state of the lock. Called before every sync, so it must not cost one.
    fn state(&self) -> io::Result<LockState>;
}

/// State of a lock: if it still keeps others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockState {
    /// It keeps others out.
    Held,
    /// The locked file or directory no longer stands at its path: another process can lock the one that stands there now.
    Gone,
    /// This process is a fork of the one that took the lock, and both have it.
    Forked,
}

/// The time, taken from outside.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Returns the time of the wall clock. It may jump.
    fn now(&self) -> Timestamp;
    /// Returns the time since some fixed moment of this run. It never jumps.
    fn monotonic(&self) -> Duration;
    /// Keeps `wake`, and calls it each time the clock was moved by hand, as long as its owner lives. A clock that runs by itself
    /// needs none: the store's threads sleep until the next deadline.
    fn wake_on_move(&self, _wake: Weak<dyn Fn() + Send + Sync>) {}
}

/// Random bytes, taken from outside.
pub trait Entropy: Send + Sync + fmt::Debug + 'static {
    /// Fills `out` with random bytes.
    fn fill(&self, out: &mut [u8]);
}

/// All that a store takes from outside.
#[derive(Debug, Clone)]
pub struct Platform {
    /// Files and directories.
    pub disk: Arc<dyn Disk>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
}

impl Platform {
    /// Returns the operating system's disk, clock and entropy.
    pub fn real() -> Self {
        Self {
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(SystemEntropy),
        }
    }
}
