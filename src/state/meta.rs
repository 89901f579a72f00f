//! The head of a derived file: its position, its contents, and the sums of its tables.

use super::keys::Moment;
use super::sealed::written_seal;
use crate::log::record::LayoutDecl;
use crate::log::{Hash, Head, StoreId};
use crate::order::{CommitNo, Position, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Format number. A file with another number is rebuilt from the log.
const FORMAT: u32 = 4;

/// Position and contents of derived state. Written with every flush, in the same redb transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateMeta {
    format: u32,
    pub store: [u8; 16],
    pub commit: u64,
    pub position: u64,
    pub time: u64,
    pub hash: [u8; 32],
    /// Number of commits with a key, up to this one.
    pub keys_used: u64,
    pub lanes: BTreeMap<u8, Lane>,
    pub postings: Sum,
    pub rows: Sum,
    pub layouts: Vec<StoredLayout>,
    pub projections: Vec<StoredProjection>,
    /// The inline projections that the log declared last, up to the commit.
    pub inline: Option<Vec<u32>>,
}

/// Chunks of keys that a lane has: a missing one is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lane {
    /// Number of its first chunk; `next` is the number of the one that is written next.
    pub first: u64,
    pub next: u64,
    /// Number of keys in its chunks.
    pub keys: u64,
    /// Bytes of its chunks.
    pub bytes: u64,
}

/// The layout of one event type, as the log declared it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredLayout {
    pub type_name: String,
    pub schema: u16,
    pub layout: String,
}

/// A projection whose rows are in here, up to the commit of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredProjection {
    pub name: String,
    pub version: u32,
    /// First bytes of all its row keys.
    pub id: [u8; 4],
    /// Set if its rows differ from those that the log describes.
    pub divergence: Option<Divergence>,
}

/// The first commit that the code of some rows folds otherwise than the log says, and the result of that fold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Divergence {
    pub commit: u64,
    /// Digest of the code's changes in `rows`; `None` if it changes nothing.
    pub digest: Option<u64>,
    /// Some of the rows that it changes, as they were before the commit.
    pub rows: Vec<StoredRow>,
}

/// A row as it was at some commit, with its full key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredRow {
    pub key: Vec<u8>,
    pub commit: u64,
    pub position: u64,
    pub value: Vec<u8>,
}

/// Number of rows in a table, their length, and an order-free sum of their seals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub rows: u64,
    /// Length of keys and values.
    pub bytes: u64,
    pub seals: u64,
}

impl Sum {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.bytes += (key.len() + value.len()) as u64;
        self.seals = self.seals.wrapping_add(spread(written_seal(value)));
    }

    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub((key.len() + value.len()) as u64);
        self.seals = self.seals.wrapping_sub(spread(written_seal(value)));
    }
}

/// Spreads 32 bits over 64, so that sums of different rows seldom meet.
fn spread(seal: u32) -> u64 {
    (u64::from(seal) + 1)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(29)
        .wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

impl StateMeta {
    pub fn empty(store: StoreId) -> Self {
        let head = Head::empty(store);
        Self {
            format: FORMAT,
            store: store.0,
            commit: head.commit.0,
            position: head.position.0,
            time: head.time.0,
            hash: head.hash.0,
            keys_used: 0,
            lanes: BTreeMap::new(),
            postings: Sum::default(),
            rows: Sum::default(),
            layouts: Vec::new(),
            projections: Vec::new(),
            inline: None,
        }
    }

    pub fn is_of_this_format(&self) -> bool {
        self.format == FORMAT
    }

    pub fn head(&self) -> Head {
        Head {
            commit: CommitNo(self.commit),
            position: Position(self.position),
            time: Timestamp(self.time),
            hash: Hash(self.hash),
        }
    }

    /// Returns the bytes of all keys and values.
    pub fn rows_bytes(&self) -> u64 {
        let lanes: u64 = self.lanes.values().map(|lane| lane.bytes).sum();
        self.postings.bytes + self.rows.bytes + lanes
    }

    /// Takes over layouts. A refold declares again those that the log declared before.
    pub fn declare(&mut self, declared: &[LayoutDecl]) {
        for layout in declared.iter().map(StoredLayout::from) {
            if !self.layouts.contains(&layout) {
                self.layouts.push(layout);
            }
        }
    }

    pub fn moment(&self) -> Moment {
        Moment { time: Timestamp(self.time), keys: self.keys_used }
    }

    pub fn move_to(&mut self, head: &Head) {
        (self.commit, self.position) = (head.commit.0, head.position.0);
        (self.time, self.hash) = (head.time.0, head.hash.0);
    }
}

impl From<StoredLayout> for LayoutDecl {
    fn from(stored: StoredLayout) -> Self {
        Self { type_name: stored.type_name, schema: stored.schema, layout: stored.layout }
    }
}

impl From<&LayoutDecl> for StoredLayout {
    fn from(decl: &LayoutDecl) -> Self {
        Self { type_name: decl.type_name.to_string(), schema: decl.schema, layout: decl.layout.to_string() }
    }
}
