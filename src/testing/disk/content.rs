//! Content of one simulated file: as a reader sees it, as it is durable, and the changes in between.
//!
//! - `durable` changes only by a sync that did it, by a cut, or by rot.
//! - Unless the file has `diverged`, every block in which `live` and `durable` differ is in `dirty`:
//!   a sync and a cut cost as much as was changed, not as much as the file is long.
//! - Bytes past the length are zero, so growing a file shows zeros.

use crate::testing::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

const BLOCK: u64 = 4096;
const SECTOR: u64 = 512;

/// Bytes in shared blocks. A block that is not there is zero.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    len: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK as usize]>>,
}

impl Content {
    pub fn of(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.write(0, bytes);
        content
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn read(&self, offset: u64, out: &mut [u8]) {
        for (index, within, piece) in pieces(offset, out.len()) {
            match self.blocks.get(&index) {
                Some(block) => out[piece].copy_from_slice(&block[within]),
                None => out[piece].fill(0),
            }
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; self.len as usize];
        self.read(0, &mut out);
        out
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, within, piece) in pieces(offset, data.len()) {
            let block = self.blocks.entry(index).or_insert_with(|| Arc::new([0; BLOCK as usize]));
            Arc::make_mut(block)[within].copy_from_slice(&data[piece]);
        }
        if !data.is_empty() {
            self.len = self.len.max(offset + data.len() as u64);
        }
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.blocks.split_off(&len.div_ceil(BLOCK));
            if let Some(block) = self.blocks.get_mut(&(len / BLOCK)) {
                Arc::make_mut(block)[(len % BLOCK) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    fn share(&mut self, from: &Content, index: u64) {
        match from.blocks.get(&index) {
            Some(block) => self.blocks.insert(index, Arc::clone(block)),
            None => self.blocks.remove(&index),
        };
    }
}

// (block, range within the block, range within the data)
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % BLOCK) as usize;
        let count = (BLOCK as usize - within).min(len - done);
        let piece = (at / BLOCK, within..within + count, done..done + count);
        done += count;
        Some(piece)
    })
}

/// One change that is not durable yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// The mutating call that made it: orders it among the changes of all files and directories.
    pub op: u64,
    change: FileChange,
}

#[derive(Debug, Clone)]
enum FileChange {
    Write { offset: u64, data: Arc<[u8]> },
    SetLen(u64),
}

/// Fate of one pending change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    Dropped,
    /// A write: cut at a random byte. Anything else: dropped.
    CutShort,
    /// A write: each sector kept or not. Anything else: kept or not.
    Sectors,
    /// A write: its length without its data. Anything else: kept.
    LengthOnly,
}

/// One file's content, in the page cache and on the medium.
#[derive(Debug, Clone, Default)]
pub(super) struct FileData {
    live: Content,
    durable: Content,
    pending: Vec<Pending>,
    dirty: BTreeSet<u64>,
    /// A failed sync marked changes clean that never reached the medium: `live` shows them, and no sync will write them.
    diverged: bool,
    /// Reads that touch these fail, until a write covers them whole.
    unreadable: Vec<Range<u64>>,
}

impl FileData {
    /// Returns content that is durable already.
    pub fn of(bytes: &[u8]) -> Self {
        let content = Content::of(bytes);
        Self { live: content.clone(), durable: content, ..Self::default() }
    }

    pub fn live(&self) -> &Content {
        &self.live
    }

    pub fn durable(&self) -> &Content {
        &self.durable
    }

    pub fn pending_ops(&self) -> impl Iterator<Item = u64> {
        self.pending.iter().map(|pending| pending.op)
    }

    pub fn write(&mut self, op: u64, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.live.write(offset, data);
        let end = offset + data.len() as u64;
        self.dirty.extend(offset / BLOCK..end.div_ceil(BLOCK));
        self.unreadable.retain(|bad| bad.start < offset || bad.end > end);
        self.pending.push(Pending { op, change: FileChange::Write { offset, data: data.into() } });
    }

    pub fn set_len(&mut self, op: u64, len: u64) {
        let first = len / BLOCK;
        if len < self.live.len() {
            // A durable block that `live` lacks was cut off before, and is dirty since.
            self.dirty.extend(self.live.blocks.range(first..).map(|(index, _)| index));
        }
        self.live.set_len(len);
        self.pending.push(Pending { op, change: FileChange::SetLen(len) });
    }

    /// Makes all changes durable: a sync that worked.
    pub fn sync(&mut self) {
        if self.diverged {
            let pending = std::mem::take(&mut self.pending);
            pending.iter().for_each(|pending| pending.change.apply(&mut self.durable));
        } else {
            self.durable.len = self.live.len;
            self.dirty.iter().for_each(|&index| self.durable.share(&self.live, index));
        }
        self.pending.clear();
        self.dirty.clear();
    }

    /// Marks all changes clean, as a kernel may after a failed sync: readable until a cut, never written again.
    pub fn mark_clean(&mut self) {
        self.diverged |= !self.pending.is_empty();
        self.pending.clear();
        self.dirty.clear();
    }

    /// Does the same as `mark_clean`, after some sectors reached the medium.
    pub fn mark_clean_partly(&mut self, random: &mut Random) {
        for pending in &self.pending {
            pending.change.apply_as(Fate::Sectors, &mut self.durable, random);
        }
        self.mark_clean();
    }

    /// Settles what survives: the changes of `fate`, in order, and nothing that is not durable after this.
    pub fn settle(&mut self, mut fate: impl FnMut(u64) -> Fate, random: &mut Random) {
        for pending in std::mem::take(&mut self.pending) {
            pending.change.apply_as(fate(pending.op), &mut self.durable, random);
        }
        if self.diverged {
            self.live = self.durable.clone();
        } else {
            self.live.len = self.durable.len;
            self.dirty.iter().for_each(|&index| self.live.share(&self.durable, index));
        }
        self.dirty.clear();
        self.diverged = false;
    }

    /// Changes bytes behind the kernel's back, on the medium and in the cache.
    pub fn rot(&mut self, range: Range<u64>, change: impl Fn(&mut [u8])) {
        for content in [&mut self.live, &mut self.durable] {
            let end = range.end.min(content.len());
            if range.start < end {
                let mut bytes = vec![0; (end - range.start) as usize];
                content.read(range.start, &mut bytes);
                change(&mut bytes);
                content.write(range.start, &bytes);
            }
        }
    }

    pub fn make_unreadable(&mut self, range: Range<u64>) {
        self.unreadable.push(range);
    }

    pub fn is_readable(&self, range: Range<u64>) -> bool {
        self.unreadable.iter().all(|bad| range.end <= bad.start || bad.end <= range.start)
    }
}

impl FileChange {
    fn apply(&self, to: &mut Content) {
        match self {
            Self::Write { offset, data } => to.write(*offset, data),
            Self::SetLen(len) => to.set_len(*len),
        }
    }

    fn apply_as(&self, fate: Fate, to: &mut Content, random: &mut Random) {
        match (self, fate) {
            (_, Fate::Kept) | (Self::SetLen(_), Fate::LengthOnly) => self.apply(to),
            (_, Fate::Dropped) | (Self::SetLen(_), Fate::CutShort) => {}
            (Self::SetLen(_), Fate::Sectors) => {
                if random.coin() {
                    self.apply(to);
                }
            }
            (Self::Write { offset, data }, Fate::CutShort) => {
                to.write(*offset, &data[..random.below(data.len() as u64) as usize]);
            }
            (Self::Write { offset, data }, Fate::Sectors) => write_sectors(to, *offset, data, random),
            (Self::Write { offset, data }, Fate::LengthOnly) => {
                to.set_len(to.len().max(offset + data.len() as u64));
            }
        }
    }
}

// Sectors are those of the medium: they start at multiples of their size in the file. The length may be kept without the
// last of them, and then shows zeros.
fn write_sectors(to: &mut Content, offset: u64, data: &[u8], random: &mut Random) {
    let end = offset + data.len() as u64;
    let mut start = offset;
    while start < end {
        let stop = ((start / SECTOR + 1) * SECTOR).min(end);
        if random.coin() {
            to.write(start, &data[(start - offset) as usize..(stop - offset) as usize]);
        }
        start = stop;
    }
    if random.coin() {
        to.set_len(to.len().max(end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A plain vector says what the blocks must hold.
    #[test]
    fn content_matches_vector_after_random_changes() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let (mut content, mut model) = (Content::default(), Vec::new());
            for _ in 0..40 {
                let at = random.below(20_000);
                if random.below(4) == 0 {
                    content.set_len(at);
                    model.resize(at as usize, 0);
                } else {
                    let data = vec![random.next() as u8; random.below(9000) as usize];
                    content.write(at, &data);
                    let end = at as usize + data.len();
                    if !data.is_empty() {
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].copy_from_slice(&data);
                    }
                }
                assert_eq!(content.bytes(), model, "seed {seed}");
            }
        }
    }

    // The short cuts over dirty blocks must never leave the two contents apart.
    #[test]
    fn live_equals_durable_once_nothing_is_pending() {
        for seed in 0..500 {
            let mut random = Random::new(seed);
            let mut file = FileData::default();
            for op in 0..60 {
                let at = random.below(30_000);
                match random.below(12) {
                    0 => file.sync(),
                    1 => file.settle(|_| Fate::Sectors, &mut random),
                    2 => file.settle(|op| if op % 2 == 0 { Fate::Kept } else { Fate::CutShort }, &mut random),
                    3 => file.settle(|_| Fate::LengthOnly, &mut random),
                    4..6 => file.set_len(op, at),
                    _ => file.write(op, at, &vec![op as u8 + 1; random.below(9000) as usize]),
                }
                if file.pending.is_empty() {
                    assert_eq!(file.live.bytes(), file.durable.bytes(), "seed {seed} op {op}");
                }
            }
        }
    }
}
