//! Files of segments, opened when they are read: few descriptors are held, however many segments there are.
//!
//! A segment that is written to is held open. Of the others, those opened last are; the one that was opened first is closed when
//! there are too many. A reader keeps its file meanwhile.

use crate::disk::{Access, Disk, File};
use crate::sync::{Mutex, RwLock};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// Maximum number of finished segments that are open at once.
pub(super) const OPEN_MAX: usize = 64;

/// The files that are open and may be closed.
#[derive(Debug)]
pub(super) struct Descriptors {
    disk: Arc<dyn Disk>,
    /// Open files, in the order in which they were opened.
    open: Mutex<VecDeque<Weak<SegmentFile>>>,
}

/// The file of one segment.
pub(super) struct SegmentFile {
    path: PathBuf,
    of: Arc<Descriptors>,
    open: RwLock<Option<Arc<dyn File>>>,
}

impl fmt::Debug for SegmentFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl Descriptors {
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Self> {
        Arc::new(Self { disk, open: Mutex::default() })
    }

    /// Makes a file that is opened when it is read.
    pub fn on_demand(self: &Arc<Self>, path: PathBuf) -> Arc<SegmentFile> {
        Arc::new(SegmentFile { path, of: self.clone(), open: RwLock::default() })
    }

    /// Makes a file that stays open until it is [let go](SegmentFile::let_go).
    pub fn held(self: &Arc<Self>, path: PathBuf, file: Box<dyn File>) -> Arc<SegmentFile> {
        Arc::new(SegmentFile { path, of: self.clone(), open: RwLock::new(Some(file.into())) })
    }
}

impl SegmentFile {
    /// Returns the open file.
    ///
    /// # Errors
    ///
    /// The error of opening it.
    pub fn get(self: &Arc<Self>) -> io::Result<Arc<dyn File>> {
        if let Some(file) = &*self.open.read() {
            return Ok(file.clone());
        }
        let file: Arc<dyn File> = self.of.disk.open(&self.path, Access::Read)?.into();
        *self.open.write() = Some(file.clone());
        self.let_go();
        Ok(file)
    }

    /// Allows it to be closed, and opened again when it is read.
    pub fn let_go(self: &Arc<Self>) {
        let mut open = self.of.open.lock();
        open.push_back(Arc::downgrade(self));
        if open.len() > OPEN_MAX
            && let Some(first) = open.pop_front().and_then(|first| first.upgrade())
        {
            drop(open);
            *first.open.write() = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SimDisk;

    #[test]
    fn open_files_are_bounded_and_all_readable() {
        let disk = SimDisk::new(1);
        let descriptors = Descriptors::new(Arc::new(disk.clone()));
        let files: Vec<_> = (0..200_u8)
            .map(|n| {
                let path = PathBuf::from(format!("/{n}"));
                disk.write_file(&path, &[n]);
                descriptors.on_demand(path)
            })
            .collect();
        let held = descriptors.held("/held".into(), disk.open("/0".as_ref(), Access::Read).unwrap());
        for _ in 0..2 {
            for (n, file) in files.iter().enumerate() {
                let mut byte = [0];
                file.get().unwrap().read_at(0, &mut byte).unwrap();
                assert_eq!(usize::from(byte[0]), n);
                let open = files.iter().filter(|file| file.open.read().is_some()).count();
                assert!(open <= OPEN_MAX, "{open} files are open");
            }
        }
        assert!(held.open.read().is_some(), "one that is written to stays open");
        held.let_go();
        files.iter().take(OPEN_MAX).for_each(|file| drop(file.get().unwrap()));
        assert!(held.open.read().is_none(), "one that is finished does not");
    }
}
