//! A text file of somebody else: all of it, or a reason.

use super::absolute;
use crate::check::PullError;
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Byte order mark that some programs write before UTF-8. It is no part of the text.
const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";
const UTF_16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// A file of lines.
#[derive(Debug, Clone)]
pub(super) struct TextFile {
    pub path: PathBuf,
    /// It is written by an export that takes no longer than this.
    pub export: Option<Duration>,
    /// Its last line need not end.
    pub is_loose: bool,
    pub may_be_empty: bool,
}

impl TextFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path: absolute(path), export: None, is_loose: false, may_be_empty: false }
    }

    /// All of it, and of which time it is if it is not of now.
    pub fn read(&self) -> Result<(Vec<u8>, Option<SystemTime>), PullError> {
        let unread = |error| PullError::Unreachable(format!("{}: {error}", self.path.display()));
        let mut file = File::open(&self.path).map_err(unread)?;
        let before = file.metadata().map_err(unread)?;
        if !before.is_file() {
            return Err(PullError::Unreachable(format!("{} is no file", self.path.display())));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(unread)?;
        let after = file.metadata().map_err(unread)?;
        if stamp(&before) != stamp(&after) || bytes.len() as u64 != after.len() {
            return Err(PullError::Unfinished("it was written while it was read".into()));
        }
        if bytes.starts_with(UTF_8_MARK) {
            bytes.drain(..UTF_8_MARK.len());
        }
        if UTF_16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
            let why = "it is UTF-16: have it written as UTF-8".to_owned();
            return Err(PullError::Row { place: "line 1".into(), why });
        }
        self.whole(&bytes)?;
        let as_of = match self.export {
            None => None,
            Some(takes) => after.modified().map_err(unread)?.checked_sub(takes),
        };
        Ok((bytes, as_of))
    }

    /// A file that is being written from its beginning ends anywhere.
    fn whole(&self, bytes: &[u8]) -> Result<(), PullError> {
        match bytes.last() {
            Some(last) if *last != b'\n' && !self.is_loose => {
                let line = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
                let why = "does not end, and may be half written: say `loose_end` if it never does";
                Err(PullError::Unfinished(format!("line {line} {why}")))
            }
            _ => Ok(()),
        }
    }
}

fn stamp(of: &Metadata) -> (u64, Option<SystemTime>) {
    (of.len(), of.modified().ok())
}

/// Options that all file sources have.
macro_rules! file_options {
    () => {
        /// The file is written by an export, which takes no longer than this: its rows are those of that long before it was
        /// written last. Without it, they are those of now. So an export that is not written any more is noticed: it gets old.
        pub fn export(mut self, takes: std::time::Duration) -> Self {
            self.file.export = Some(takes);
            self
        }

        /// Its last line need not end. Without it, one that does not is taken for half written.
        pub fn loose_end(mut self) -> Self {
            self.file.is_loose = true;
            self
        }

        /// It may have no rows at all. Without it, an empty file is taken for half written, and one that has no rows any more, or
        /// none at first where ours would disagree, for a mistake.
        pub fn may_be_empty(mut self) -> Self {
            self.file.may_be_empty = true;
            self
        }
    };
}
pub(super) use file_options;
