//! The parts of a segment file that are not groups: its header, its marks and its trailer. Grammar: `record.rs`.
//!
//! - A header repeats where the segment before ended; a trailer says where this one did. Where both stand, they agree.
//! - Marks are derived: damaged or missing ones are made again by walking the groups.

use super::group::{Found, array};
use super::{Hash, Head, StoreId};
use crate::order::{CommitNo, Position, Timestamp};

/// Size of a header; the first group starts here.
pub(crate) const HEADER: usize = 128;
/// Size of a trailer.
pub(crate) const TRAILER: usize = 104;
/// The format this version writes.
pub(crate) const FORMAT: u32 = 1;
/// Bytes between marks, at least.
const MARK_EVERY: u32 = 4096;
const MARK: usize = 12;
const MAGIC: &[u8; 8] = b"TALLYLOG";
pub(super) const END_MAGIC: &[u8; 8] = b"TALLYEND";

/// The head of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub store: StoreId,
    /// The head of the log before the segment's first commit.
    pub before: Head,
    /// The length that was durable before the file got its name. Only a finished segment may be shorter.
    pub size: u64,
}

/// Reason why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Foreign,
    Newer(u32),
    Damaged,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        header[16..32].copy_from_slice(&self.store.0);
        header[32..40].copy_from_slice(&self.before.commit.next().0.to_le_bytes());
        header[40..48].copy_from_slice(&self.before.position.next().0.to_le_bytes());
        header[48..56].copy_from_slice(&self.before.time.0.to_le_bytes());
        header[56..88].copy_from_slice(&self.before.hash.0);
        header[88..96].copy_from_slice(&self.size.to_le_bytes());
        put_header_crc(&mut header);
        header
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let header = bytes.first_chunk::<HEADER>().ok_or(HeaderFault::Damaged)?;
        if header[..8] != *MAGIC {
            return Err(HeaderFault::Foreign);
        }
        // Before the checksum: a later format may keep it elsewhere.
        let format = u32::from_le_bytes(array(&header[8..]));
        if format > FORMAT {
            return Err(HeaderFault::Newer(format));
        }
        let number = |at: usize| u64::from_le_bytes(array(&header[at..]));
        let firsts = number(32).checked_sub(1).zip(number(40).checked_sub(1));
        let crc_holds = header[12..16] == header_crc(header).to_le_bytes();
        let Some((commit, position)) = firsts.filter(|_| crc_holds && format == FORMAT) else {
            return Err(HeaderFault::Damaged);
        };
        let before = Head {
            commit: CommitNo(commit),
            position: Position(position),
            time: Timestamp(number(48)),
            hash: Hash(array(&header[56..])),
        };
        Ok(Self { store: StoreId(array(&header[16..])), before, size: number(88) })
    }
}

fn header_crc(header: &[u8; HEADER]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

/// Writes the checksum of a header into it.
pub(super) fn put_header_crc(header: &mut [u8; HEADER]) {
    let crc = header_crc(header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Writes the checksum of a trailer into it.
pub(super) fn put_trailer_crc(trailer: &mut [u8; TRAILER]) {
    let crc = crc32c::crc32c(&trailer[..92]);
    trailer[92..96].copy_from_slice(&crc.to_le_bytes());
}

/// The end of a finished segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub store: StoreId,
    pub first: CommitNo,
    /// The head of the log after the segment's last commit.
    pub end: Head,
    /// Offset at which the groups end and the marks start.
    pub groups_end: u32,
    pub marks: u32,
    pub marks_crc: u32,
}

impl Trailer {
    fn encode(&self) -> [u8; TRAILER] {
        let mut trailer = [0; TRAILER];
        trailer[..16].copy_from_slice(&self.store.0);
        trailer[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        trailer[24..32].copy_from_slice(&self.end.commit.0.to_le_bytes());
        trailer[32..40].copy_from_slice(&self.end.position.0.to_le_bytes());
        trailer[40..48].copy_from_slice(&self.end.time.0.to_le_bytes());
        trailer[48..80].copy_from_slice(&self.end.hash.0);
        trailer[80..84].copy_from_slice(&self.groups_end.to_le_bytes());
        trailer[84..88].copy_from_slice(&self.marks.to_le_bytes());
        trailer[88..92].copy_from_slice(&self.marks_crc.to_le_bytes());
        put_trailer_crc(&mut trailer);
        trailer[96..].copy_from_slice(END_MAGIC);
        trailer
    }

    /// Decodes the trailer at the end of a file of this length; `None` unless it is this segment's and everything fits.
    pub fn decode(bytes: &[u8], header: &Header, file_len: u64) -> Option<Self> {
        let trailer = bytes.first_chunk::<TRAILER>()?;
        if trailer[96..] != *END_MAGIC || trailer[92..96] != crc32c::crc32c(&trailer[..92]).to_le_bytes() {
            return None;
        }
        let number = |at: usize| u64::from_le_bytes(array(&trailer[at..]));
        let short = |at: usize| u32::from_le_bytes(array(&trailer[at..]));
        let decoded = Self {
            store: StoreId(array(trailer)),
            first: CommitNo(number(16)),
            end: Head {
                commit: CommitNo(number(24)),
                position: Position(number(32)),
                time: Timestamp(number(40)),
                hash: Hash(array(&trailer[48..])),
            },
            groups_end: short(80),
            marks: short(84),
            marks_crc: short(88),
        };
        let len = u64::from(decoded.groups_end) + u64::from(decoded.marks) * MARK as u64 + TRAILER as u64;
        let fits = len == file_len && decoded.groups_end as usize >= HEADER;
        let ours = decoded.store == header.store && decoded.first == header.before.commit.next();
        (fits && ours).then_some(decoded)
    }

    /// Bytes of the marks.
    pub fn marks_size(&self) -> usize {
        self.marks as usize * MARK
    }
}

/// A place where a record starts; numbers count from the segment's firsts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    commits: u32,
    positions: u32,
    pub offset: u32,
}

/// Offsets of records in a segment, one every few KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marks {
    before: Head,
    list: Vec<Mark>,
}

impl Marks {
    pub fn new(before: Head) -> Self {
        Self { before, list: Vec::new() }
    }

    /// Notes a record that starts at `offset`, if it is far enough from the last noted one.
    pub fn note(&mut self, commit: CommitNo, first: Position, offset: u32) {
        if self.list.last().is_none_or(|last| offset - last.offset >= MARK_EVERY) {
            let commits = (commit.0 - self.before.commit.0 - 1) as u32;
            let positions = (first.0 - self.before.position.0 - 1) as u32;
            self.list.push(Mark { commits, positions, offset });
        }
    }

    /// Notes a record found at `found.at` of bytes that start at `base`.
    pub fn note_found(&mut self, found: &Found, base: u64) {
        self.note(found.fixed.commit, found.fixed.first, (base + found.at as u64) as u32);
    }

    /// Forgets marks from `offset` on.
    pub fn truncate(&mut self, offset: u64) {
        self.list.truncate(self.list.partition_point(|mark| u64::from(mark.offset) < offset));
    }

    /// The last mark at or before a commit.
    pub fn at_commit(&self, commit: CommitNo) -> Option<usize> {
        self.list.partition_point(|mark| self.commit(mark) <= commit).checked_sub(1)
    }

    /// The last mark at or before the record that holds a position.
    pub fn at_position(&self, position: Position) -> Option<usize> {
        self.list.partition_point(|mark| self.first_position(mark) <= position).checked_sub(1)
    }

    /// The first mark after `index` that is after `through`, or at `offset` or later.
    pub fn stop_after(&self, index: usize, through: CommitNo, offset: u64) -> Option<Mark> {
        let rest = &self.list[index + 1..];
        let at = rest.partition_point(|mark| self.commit(mark) <= through && u64::from(mark.offset) < offset);
        rest.get(at).copied()
    }

    pub fn get(&self, index: usize) -> Mark {
        self.list[index]
    }

    pub fn commit(&self, mark: &Mark) -> CommitNo {
        CommitNo(self.before.commit.0 + 1 + u64::from(mark.commits))
    }

    pub fn first_position(&self, mark: &Mark) -> Position {
        Position(self.before.position.0 + 1 + u64::from(mark.positions))
    }

    /// Marks and trailer, as they end a finished file.
    pub fn encode(&self, store: StoreId, end: &Head, groups_end: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.list.len() * MARK + TRAILER);
        for mark in &self.list {
            out.extend_from_slice(&mark.commits.to_le_bytes());
            out.extend_from_slice(&mark.positions.to_le_bytes());
            out.extend_from_slice(&mark.offset.to_le_bytes());
        }
        let trailer = Trailer {
            store,
            first: self.before.commit.next(),
            end: *end,
            groups_end,
            marks: self.list.len() as u32,
            marks_crc: crc32c::crc32c(&out),
        };
        out.extend_from_slice(&trailer.encode());
        out
    }

    /// Reads the marks that a trailer names; `None` if they are damaged.
    pub fn decode(bytes: &[u8], header: &Header, trailer: &Trailer) -> Option<Self> {
        if bytes.len() != trailer.marks_size() || crc32c::crc32c(bytes) != trailer.marks_crc {
            return None;
        }
        let list: Vec<Mark> = bytes
            .chunks_exact(MARK)
            .map(|mark| Mark {
                commits: u32::from_le_bytes(array(mark)),
                positions: u32::from_le_bytes(array(&mark[4..])),
                offset: u32::from_le_bytes(array(&mark[8..])),
            })
            .collect();
        // The checksum is no secret: marks made on purpose must not lead outside the groups.
        let inside = |mark: &Mark| (HEADER..trailer.groups_end as usize).contains(&(mark.offset as usize));
        let rising = list.windows(2).all(|pair| {
            pair[0].offset < pair[1].offset
                && pair[0].commits < pair[1].commits
                && pair[0].positions <= pair[1].positions
        });
        let starts = list.first().is_some_and(|mark| (mark.commits, mark.offset) == (0, HEADER as u32));
        (starts && rising && list.iter().all(inside)).then_some(Self { before: header.before, list })
    }
}
