//! A file that is read and not changed: writes are kept in memory, and gone when it is closed.
//!
//! Opening a redb file may repair it, which writes. An open of the store that is about to be refused must write nothing.

use super::tables::ReadOnlyTables;
use crate::disk::File;
use crate::error::StorageError;
use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::io;

const PAGE: usize = 4096;
/// Size of the cache: only the head of the file is read.
const CACHE_BYTES: usize = 1 << 20;

/// Opens a file of derived state without changing it; `None` if it is not usable.
pub(crate) fn peek(name: &str, file: Box<dyn File>) -> Result<Option<ReadOnlyTables>, StorageError> {
    let len = file.len().map_err(|error| StorageError::io("could not be read", error).of(name))?;
    // An empty file would be begun anew, in memory.
    if len == 0 {
        return Ok(None);
    }
    let changes = Mutex::new(Changes { len, file_len: len, pages: BTreeMap::new() });
    ReadOnlyTables::open(name, Box::new(Peeked { file, changes }), CACHE_BYTES)
}

#[derive(Debug)]
struct Peeked {
    file: Box<dyn File>,
    changes: Mutex<Changes>,
}

#[derive(Debug)]
struct Changes {
    len: u64,
    /// Length of the file below that is still seen.
    file_len: u64,
    /// Changed pages, whole, by their number.
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Peeked {
    /// Reads a page of the file below, with zeros past its end.
    fn below(&self, changes: &Changes, page: u64) -> io::Result<Vec<u8>> {
        let (start, mut bytes) = (page * PAGE as u64, vec![0; PAGE]);
        let len = changes.file_len.saturating_sub(start).min(PAGE as u64) as usize;
        if len > 0 {
            self.file.read_at(start, &mut bytes[..len])?;
        }
        Ok(bytes)
    }
}

impl File for Peeked {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes.lock().len)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changes = self.changes.lock();
        if offset + out.len() as u64 > changes.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (page, from) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let len = (PAGE - from).min(out.len() - done);
            let piece = &mut out[done..done + len];
            match changes.pages.get(&page) {
                Some(bytes) => piece.copy_from_slice(&bytes[from..from + len]),
                None => piece.copy_from_slice(&self.below(&changes, page)?[from..from + len]),
            }
            done += len;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changes = self.changes.lock();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (page, from) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let len = (PAGE - from).min(data.len() - done);
            if !changes.pages.contains_key(&page) {
                let bytes = self.below(&changes, page)?;
                changes.pages.insert(page, bytes);
            }
            let bytes = changes.pages.get_mut(&page).expect("it was put there");
            bytes[from..from + len].copy_from_slice(&data[done..done + len]);
            done += len;
        }
        changes.len = changes.len.max(offset + data.len() as u64);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changes = self.changes.lock();
        let (page, from) = (len / PAGE as u64, (len % PAGE as u64) as usize);
        changes.pages.retain(|number, _| *number <= page);
        if let Some(bytes) = changes.pages.get_mut(&page) {
            bytes[from..].fill(0);
        }
        changes.file_len = changes.file_len.min(len);
        changes.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::testing::{Random, SimDisk};
    use std::path::Path;

    #[test]
    fn changes_read_back_without_touching_file() {
        let mut random = Random::new(7);
        for round in 0..50 {
            let (disk, path) = (SimDisk::new(round), Path::new("/file"));
            let mut expected: Vec<u8> = (0..random.below(20_000) + 1).map(|n| n as u8 | 1).collect();
            disk.write_file(path, &expected);
            let before = (expected.clone(), disk.op_count());
            let file = disk.open(path, crate::disk::Access::Read).unwrap();
            let len = file.len().unwrap();
            let changes = Mutex::new(Changes { len, file_len: len, pages: BTreeMap::new() });
            let peeked = Peeked { file, changes };
            for _ in 0..30 {
                let at = random.below(expected.len() as u64 + 5000) as usize;
                match random.below(3) {
                    0 => {
                        peeked.set_len(at as u64).unwrap();
                        expected.resize(at, 0);
                    }
                    _ => {
                        let data = vec![random.below(255) as u8 + 1; random.below(9000) as usize];
                        peeked.write_at(at as u64, &data).unwrap();
                        expected.resize(expected.len().max(at + data.len()), 0);
                        expected[at..at + data.len()].copy_from_slice(&data);
                    }
                }
                let mut is = vec![0; peeked.len().unwrap() as usize];
                peeked.read_at(0, &mut is).unwrap();
                assert!(is == expected, "round {round}");
            }
            assert_eq!((disk.read_file(path).unwrap(), disk.op_count()), before, "round {round}");
        }
    }
}
