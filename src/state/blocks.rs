//! Checksummed blocks below redb: no byte that was changed, lost or moved on disk is handed up.
//!
//! ```text
//! file   head A · head B · group*                              each head and map has 4096 bytes of room
//! group  map A · map B · block 4096 * 1020
//! head   crc u32 · magic 8 · format u32 · role 16 · number u64 · length u64 · root u64 · header 1024
//! map    crc u32 · number u64 · checksum u32 * 1020            0: the block was never written
//! ```
//!
//! - The checksums form a tree: the head covers the maps by `root`, a map covers its blocks. So a block fails if it was
//!   changed, zeroed, moved, or put back as it was before, which includes a write that never reached the disk; and a map
//!   likewise. The head names the file's role, so that no file passes for another one.
//! - A sync writes the maps that changed and the head, each over the older of its two copies, with a number that rises. If a
//!   crash tears it, the head before it is still there with all of its maps, and is taken.
//! - Blocks are written in place, before their map. That is safe because redb never overwrites a page that its last commit
//!   needs, and makes the pages of a commit durable before it makes that commit its latest (two-phase commit).
//! - redb reads and writes whole pages, but for its own header, which it rewrites in place: that one is kept in our head.

use crate::disk::File;
use crate::sync::{Mutex, RwLock};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::io;
use std::ops::Range;

/// Bytes of a block: a page of redb.
const BLOCK: u64 = 4096;
/// Blocks that share a map.
const GROUP: u64 = 1020;
/// Bytes of redb's header that are kept: it uses 320.
const HEADER: usize = 1024;
const HEAD_BYTES: usize = 56 + HEADER;
const MAP_BYTES: usize = 12 + 4 * GROUP as usize;
const MAGIC: &[u8; 8] = b"tallyblk";
/// A file with another number is rebuilt.
const FORMAT: u32 = 1;

/// A file of checksummed blocks, addressed as redb sees it: one run of bytes from 0 on.
#[derive(Debug)]
pub(super) struct Blocks {
    file: Box<dyn File>,
    role: [u8; 16],
    ledger: RwLock<ChecksumTree>,
    damage: Mutex<Option<String>>,
}

/// Contents of the head and of all maps, with marks of the changes since the last sync.
#[derive(Debug)]
struct ChecksumTree {
    /// Number of the last sync.
    number: u64,
    len: u64,
    /// Sum of the groups' parts.
    root: u64,
    header: [u8; HEADER],
    groups: Vec<ChecksumGroup>,
    changed: bool,
    /// Length of the file on disk.
    extent: u64,
}

#[derive(Debug)]
struct ChecksumGroup {
    checksums: Vec<u32>,
    /// Copy of the map that is current: 0 or 1.
    copy: u64,
    /// Contribution of its map to the root; 0 if it has none.
    part: u64,
    changed: bool,
}

/// A map as one of its copies has it.
struct ChecksumMap {
    number: u64,
    crc: u32,
    checksums: Vec<u32>,
}

/// A head as one of its copies has it.
struct Superblock {
    number: u64,
    len: u64,
    root: u64,
    header: [u8; HEADER],
}

impl Blocks {
    /// Opens a file, or begins an empty one. The role is the file's name: a file that was written under another one is refused.
    ///
    /// Fails with `InvalidData` if it is damaged, or no file of blocks.
    pub fn open(role: &str, file: Box<dyn File>) -> io::Result<Self> {
        let role = *blake3::hash(role.as_bytes()).as_bytes().first_chunk().expect("16 of 32 bytes");
        let extent = file.len()?;
        let (ledger, damage) = (RwLock::new(ChecksumTree::empty()), Mutex::new(None));
        let mut blocks = Self { file, role, ledger, damage };
        if extent == 0 {
            return Ok(blocks);
        }
        let mut heads = Vec::new();
        heads.extend(blocks.read_head(0)?);
        heads.extend(blocks.read_head(1)?);
        heads.sort_by_key(|head| Reverse(head.number));
        for head in heads {
            if let Some(mut ledger) = blocks.load(head)? {
                ledger.extent = extent;
                // Leftovers of an interrupted sync behind the end must not be taken for maps later.
                ledger.trim(&*blocks.file)?;
                *blocks.ledger.get_mut() = ledger;
                return Ok(blocks);
            }
        }
        Err(damaged("no head is whole"))
    }

    /// Returns the bytes on disk.
    pub fn extent(&self) -> u64 {
        self.ledger.read().extent
    }

    /// Returns the first damage that a read met. Afterwards redb refuses everything, without naming the cause.
    pub fn damage(&self) -> Option<String> {
        self.damage.lock().clone()
    }

    // ---- calls of redb ----

    pub fn len(&self) -> u64 {
        self.ledger.read().len
    }

    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if is_header(offset, out.len()) {
            let start = offset as usize;
            out.copy_from_slice(&self.ledger.read().header[start..start + out.len()]);
            return Ok(());
        }
        for run in runs(offset, out.len())? {
            let expected: SmallVec<[u32; 8]> = self.ledger.read().checksums(run.clone())?.into();
            let start = ((run.start * BLOCK) - offset) as usize;
            let part = &mut out[start..][..expected.len() * BLOCK as usize];
            let read = self.file.read_at(place(run.start), part);
            if let Err(error) = read {
                // The file was cut off: as good as overwritten.
                let cut = error.kind() == io::ErrorKind::UnexpectedEof;
                return Err(if cut { self.note(run.start) } else { error });
            }
            for ((number, data), expected) in run.zip(part.chunks(BLOCK as usize)).zip(expected) {
                if self.checksum(number, data) != expected {
                    return Err(self.note(number));
                }
            }
        }
        Ok(())
    }

    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if is_header(offset, data.len()) {
            let (mut ledger, start) = (self.ledger.write(), offset as usize);
            ledger.header[start..start + data.len()].copy_from_slice(data);
            ledger.changed = true;
            return Ok(());
        }
        for run in runs(offset, data.len())? {
            self.ledger.read().checksums(run.clone())?;
            let start = (run.start * BLOCK - offset) as usize;
            let part = &data[start..][..(run.end - run.start) as usize * BLOCK as usize];
            let numbered = run.clone().zip(part.chunks(BLOCK as usize));
            let new: SmallVec<[u32; 8]> =
                numbered.map(|(number, data)| self.checksum(number, data)).collect();
            let written = self.file.write_at(place(run.start), part);
            let mut ledger = self.ledger.write();
            match written {
                Ok(()) => ledger.set(run, |index| new[index]),
                // The content of the blocks is unknown now: no checksum may hold.
                Err(_) => ledger.set(run, |_| 0),
            }
            written?;
        }
        Ok(())
    }

    pub fn set_len(&self, len: u64) -> io::Result<()> {
        let mut ledger = self.ledger.write();
        let (before, after) = (ledger.len.div_ceil(BLOCK), len.div_ceil(BLOCK));
        for run in group_runs(after..before.max(after)) {
            ledger.set(run, |_| 0);
        }
        (ledger.len, ledger.changed) = (len, true);
        while (ledger.groups.len() as u64) < after.div_ceil(GROUP) {
            ledger.groups.push(ChecksumGroup::empty());
        }
        // Never cut here: the head on disk still needs those blocks. The next sync cuts them off.
        let end = end_of(len);
        if end > ledger.extent {
            self.file.set_len(end)?;
            ledger.extent = end;
        }
        Ok(())
    }

    /// Makes all writes before it durable, and them alone visible to the next open.
    ///
    /// After an error nothing is known, and redb asks for nothing more.
    pub fn sync_data(&self) -> io::Result<()> {
        let writes = self.ledger.write().advance(&self.role);
        for (offset, bytes) in writes {
            self.file.write_at(offset, &bytes)?;
        }
        self.file.sync_data()?;
        self.ledger.write().trim(&*self.file)
    }

    // ---- on disk ----

    /// Checksum of a block, bound to the file's role and the block's number. Never 0.
    fn checksum(&self, number: u64, data: &[u8]) -> u32 {
        crc32c::crc32c_append(seed(&self.role, number), data).max(1)
    }

    fn note(&self, number: u64) -> io::Error {
        let what = format!("block {number} is damaged");
        self.damage.lock().get_or_insert_with(|| what.clone());
        damaged(what)
    }

    fn read_head(&self, copy: u64) -> io::Result<Option<Superblock>> {
        let mut bytes = [0; HEAD_BYTES];
        if !self.fill(copy * BLOCK, &mut bytes)? {
            return Ok(None);
        }
        let (crc, rest) = bytes.split_first_chunk().expect("longer than 4 bytes");
        let start = [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &self.role].concat();
        let Some(words) = rest.strip_prefix(start.as_slice()) else { return Ok(None) };
        if u32::from_le_bytes(*crc) != crc32c::crc32c(rest) {
            return Ok(None);
        }
        let (number, len, root) = (word(words, 0), word(words, 8), word(words, 16));
        let header = *words[24..].first_chunk().expect("the rest of a head");
        Ok(Some(Superblock { number, len, root, header }))
    }

    /// Loads all maps as this head covers them; `None` if one of them is not there.
    fn load(&self, head: Superblock) -> io::Result<Option<ChecksumTree>> {
        let (mut groups, mut root) = (Vec::new(), 0_u64);
        for index in 0..head.len.div_ceil(BLOCK).div_ceil(GROUP) {
            let mut both = [0; 2 * BLOCK as usize];
            let mut group = ChecksumGroup::empty();
            if self.fill(map_place(index, 0), &mut both)? {
                let mut newest = 0;
                for (copy, bytes) in (0..).zip(both.chunks(BLOCK as usize)) {
                    let Some(map) = ChecksumMap::decode(&self.role, index, bytes) else { continue };
                    if map.number > head.number {
                        // Of a sync that was torn: overwritten by the next one.
                        group.changed = true;
                    } else if map.number > newest {
                        newest = map.number;
                        (group.copy, group.part, group.checksums) =
                            (copy, part_of(index, map.crc), map.checksums);
                    }
                }
            }
            root = root.wrapping_add(group.part);
            groups.push(group);
        }
        let Superblock { number, len, header, .. } = head;
        let ledger = ChecksumTree { number, len, root, header, groups, changed: false, extent: 0 };
        Ok((root == head.root).then_some(ledger))
    }

    /// Fills `out` from the file. Returns `false` if the file ends before.
    fn fill(&self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        match self.file.read_at(offset, out) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| true),
        }
    }
}

impl ChecksumTree {
    fn empty() -> Self {
        let (number, len, root, header) = (0, 0, 0, [0; HEADER]);
        Self { number, len, root, header, groups: Vec::new(), changed: false, extent: 0 }
    }

    /// Returns the checksums of a run of blocks of one group.
    fn checksums(&self, run: Range<u64>) -> io::Result<&[u32]> {
        if run.end > self.len.div_ceil(BLOCK) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = (run.start % GROUP) as usize;
        Ok(&self.groups[(run.start / GROUP) as usize].checksums[start..][..(run.end - run.start) as usize])
    }

    /// Sets the checksums of a run of blocks of one group.
    fn set(&mut self, run: Range<u64>, new: impl Fn(usize) -> u32) {
        let group = &mut self.groups[(run.start / GROUP) as usize];
        let (start, len) = ((run.start % GROUP) as usize, (run.end - run.start) as usize);
        group.checksums[start..][..len].iter_mut().enumerate().for_each(|(index, old)| *old = new(index));
        (group.changed, self.changed) = (true, true);
    }

    /// Takes the changes as synced, and returns the writes that make them so.
    fn advance(&mut self, role: &[u8; 16]) -> Vec<(u64, Vec<u8>)> {
        if !self.changed {
            return Vec::new();
        }
        let mut writes = Vec::new();
        (self.number, self.changed) = (self.number + 1, false);
        while self.groups.len() as u64 > self.len.div_ceil(BLOCK).div_ceil(GROUP) {
            let gone = self.groups.pop().expect("there is one more");
            self.root = self.root.wrapping_sub(gone.part);
        }
        for (index, group) in (0..).zip(&mut self.groups).filter(|(_, group)| group.changed) {
            let (crc, bytes) = ChecksumMap::encode(role, index, self.number, &group.checksums);
            self.root = self.root.wrapping_sub(group.part).wrapping_add(part_of(index, crc));
            (group.copy, group.part, group.changed) = (1 - group.copy, part_of(index, crc), false);
            writes.push((map_place(index, group.copy), bytes));
        }
        writes.push((self.number % 2 * BLOCK, self.encode_head(role)));
        writes
    }

    fn encode_head(&self, role: &[u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(role);
        [self.number, self.len, self.root].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(self.header);
        let crc = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Cuts the file to the length that the synced head needs.
    fn trim(&mut self, file: &dyn File) -> io::Result<()> {
        let end = end_of(self.len);
        if self.extent > end {
            file.set_len(end)?;
            self.extent = end;
        }
        Ok(())
    }
}

impl ChecksumGroup {
    fn empty() -> Self {
        Self { checksums: vec![0; GROUP as usize], copy: 1, part: 0, changed: false }
    }
}

impl ChecksumMap {
    fn encode(role: &[u8; 16], index: u64, number: u64, checksums: &[u32]) -> (u32, Vec<u8>) {
        let mut bytes = Vec::with_capacity(MAP_BYTES);
        bytes.extend([0; 4]);
        bytes.extend(number.to_le_bytes());
        checksums.iter().for_each(|checksum| bytes.extend(checksum.to_le_bytes()));
        let crc = crc32c::crc32c_append(seed(role, !index), &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        (crc, bytes)
    }

    fn decode(role: &[u8; 16], index: u64, bytes: &[u8]) -> Option<Self> {
        let (crc, body) = bytes[..MAP_BYTES].split_first_chunk()?;
        let crc = u32::from_le_bytes(*crc);
        if crc != crc32c::crc32c_append(seed(role, !index), body) {
            return None;
        }
        let checksum = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("4 bytes"));
        let checksums = body[8..].chunks_exact(4).map(checksum).collect();
        Some(Self { number: word(body, 0), crc, checksums })
    }
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("8 bytes"))
}

/// Seed of a block's checksum. A map's seed takes the complement of its group's number.
fn seed(role: &[u8; 16], number: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(role), &number.to_le_bytes())
}

/// Returns the contribution of a map to the root. All bits depend on all bits (the finalizer of splitmix64), so that changes
/// do not cancel out.
fn part_of(index: u64, crc: u32) -> u64 {
    let mut mixed = (index << 32 | u64::from(crc)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

fn map_place(index: u64, copy: u64) -> u64 {
    (2 + index * (GROUP + 2) + copy) * BLOCK
}

fn place(number: u64) -> u64 {
    map_place(number / GROUP, 2) + number % GROUP * BLOCK
}

/// Returns the end on disk of a file of this many logical bytes.
fn end_of(len: u64) -> u64 {
    len.div_ceil(BLOCK).checked_sub(1).map_or(2 * BLOCK, |last| place(last) + BLOCK)
}

fn is_header(offset: u64, len: usize) -> bool {
    offset < HEADER as u64 && len <= HEADER - offset as usize
}

/// Returns the blocks of a run of bytes, split at the ends of groups.
fn runs(offset: u64, len: usize) -> io::Result<impl Iterator<Item = Range<u64>>> {
    let len = len as u64;
    if !offset.is_multiple_of(BLOCK) || !len.is_multiple_of(BLOCK) || offset == 0 {
        let what = format!("{len} bytes at {offset} are no whole pages");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(group_runs(offset / BLOCK..(offset + len) / BLOCK))
}

fn group_runs(blocks: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut next = blocks.start;
    std::iter::from_fn(move || {
        let start = next;
        next = blocks.end.min((start / GROUP + 1) * GROUP);
        (start < blocks.end).then_some(start..next)
    })
}

#[cfg(test)]
mod tests;
