//! The floor of reads: the log's files as bytes, in order.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The log's files as bytes.
pub struct Log {
    files: Vec<(File, u64)>,
}

/// As long as a record of the bench, about.
const RECORD_BYTES: usize = 368;

impl Log {
    pub fn open(dir: &Path) -> Self {
        let entries = std::fs::read_dir(dir).expect("the log of the store");
        let segments = entries.map(|entry| entry.expect("the log of the store").path());
        let open = |path: PathBuf| {
            let file = File::open(path).expect("a segment of the log");
            let end = written(&file);
            (file, end)
        };
        Self {
            files: segments
                .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
                .map(open)
                .collect(),
        }
    }

    /// Reads all of it and checksums what it reads. It parses nothing.
    pub fn walk(&self) -> u32 {
        let mut page = vec![0; 1 << 20];
        let mut sum = 0;
        for (file, end) in &self.files {
            for at in (0..*end).step_by(page.len()) {
                let page = &mut page[..(*end - at).min(1 << 20) as usize];
                file.read_exact_at(page, at).expect("a segment of the log");
                sum ^= page.chunks(RECORD_BYTES).map(crc32c::crc32c).fold(0, |sum, crc| sum ^ crc);
            }
        }
        black_box(sum)
    }

    /// One record, somewhere.
    pub fn record(&self, random: u64) -> u32 {
        let (file, end) = &self.files[random as usize % self.files.len()];
        let mut record = [0; RECORD_BYTES];
        let at = random.rotate_left(32) % end.saturating_sub(RECORD_BYTES as u64).max(1);
        file.read_exact_at(&mut record, at).expect("a segment of the log");
        crc32c::crc32c(&record)
    }
}

/// Where the zeros begin that were written ahead.
fn written(file: &File) -> u64 {
    let mut end = file.metadata().expect("a segment of the log").len();
    let mut page = [0; 4096];
    while end >= 4096 {
        file.read_exact_at(&mut page, end - 4096).expect("a segment of the log");
        if page.iter().any(|byte| *byte != 0) {
            break;
        }
        end -= 4096;
    }
    end
}
