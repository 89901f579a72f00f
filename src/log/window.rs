//! Reading a file from front to back in large pieces.

use crate::disk::File;
use std::io;

/// Minimum number of bytes read at once.
const PIECE: u64 = 1 << 20;

/// A piece of a file in memory, moved along as its reader goes on.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    file: &'a dyn File,
    /// Length up to which the file may be read.
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub fn new(file: &'a dyn File, len: u64) -> Self {
        Self { file, len, start: 0, bytes: Vec::new() }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns `len` bytes at `offset`; `None` if the file does not have them. Nothing is allocated for bytes it does not have.
    pub fn get(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let Some(end) = offset.checked_add(len as u64).filter(|&end| end <= self.len) else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let piece = (len as u64).max(PIECE).min(self.len - offset);
            self.bytes.resize(piece as usize, 0);
            self.start = offset;
            if let Err(error) = self.file.read_at(offset, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let at = (offset - self.start) as usize;
        Ok(Some(&self.bytes[at..at + len]))
    }

    /// Returns the bytes from `offset` on, up to one piece; empty at the end.
    pub fn piece(&mut self, offset: u64) -> io::Result<&[u8]> {
        let len = self.len.saturating_sub(offset).min(PIECE);
        Ok(self.get(offset, len as usize)?.expect("the length was asked for"))
    }
}
