//! Evidence pulled from outside, as the store's own events say it: a cache that a restart has for free.
//!
//! - Events hold the differences of a snapshot to the one before it. A crash between two of them leaves rows that were all
//!   read, some of them in the snapshot that is not complete; the next pull goes on from there.
//! - A source need not report times: the snapshots give the times at which a row was first seen, changed, and last seen.

use crate::own::{Bytes, Own};
use crate::projection::{Folded, Projection, Rows};
use serde::{Deserialize, Serialize};

/// A row of a source, as it was read last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Shape of the row: bytes of another one are recorded again.
    pub shape: [u8; 4],
    pub row: Bytes,
    /// As of which snapshot it was there first, and as of which it became what it is.
    pub first_seen: i64,
    pub changed: i64,
}

/// Rows of sources, by the check they are pulled for and the bytes of their key.
pub(crate) struct Evidence;

impl Projection for Evidence {
    const NAME: &'static str = "tallystone.evidence";
    type Event = Own;
    type Key = (String, Bytes);
    type Row = Kept;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        let Own::Evidence { source, shape, as_of, changed, .. } = event else { return Ok(()) };
        for (key, row) in changed {
            let key = (source.clone(), key.clone());
            match row {
                None => rows.remove(&key)?,
                Some(row) => {
                    let first_seen = rows.get(&key)?.map_or(*as_of, |kept| kept.first_seen);
                    let kept = Kept { shape: *shape, row: row.clone(), first_seen, changed: *as_of };
                    rows.put(key, kept)?;
                }
            }
        }
        Ok(())
    }
}

/// State of a source as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub shape: [u8; 4],
    /// The last snapshot that is complete.
    pub snapshot: Option<Snapshot>,
    /// Failure of the pulls since then.
    pub failed: Option<Failed>,
}

/// A complete snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub as_of: i64,
    pub rows: u64,
    /// Position at which it is on record.
    pub at: u64,
}

/// Failure to read a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub kind: String,
    pub why: String,
    /// Position at which that is on record.
    pub at: u64,
}

/// Hashes of the ranges of sources that have them: those of the rows that are on record, and of no others.
pub(crate) struct Hashes;

impl Projection for Hashes {
    const NAME: &'static str = "tallystone.ranges";
    type Event = Own;
    type Key = String;
    type Row = Vec<(Bytes, Option<u64>)>;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            // What a snapshot changes that is not completed has another hash.
            Own::Evidence { source, .. } => rows.remove(source),
            Own::Hashed { source, ranges } => rows.put(source.clone(), ranges.clone()),
            _ => Ok(()),
        }
    }
}

/// Sources, by the check they are pulled for.
pub(crate) struct Sources;

impl Projection for Sources {
    const NAME: &'static str = "tallystone.sources";
    type Event = Own;
    type Key = String;
    type Row = Known;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        let at = rows.position().get();
        match event {
            // What was read as another type is of no use.
            Own::Sourced { source, shape } => rows.update(source.clone(), |known| {
                if known.shape != *shape {
                    *known = Known { shape: *shape, ..Known::default() };
                }
            }),
            Own::Pulled { source, as_of, rows: len, .. } => {
                let snapshot = Snapshot { as_of: *as_of, rows: *len, at };
                rows.modify(source, |known| (known.snapshot, known.failed) = (Some(snapshot), None))
            }
            Own::Accepted { source, refused, .. } => {
                let is_it = |failed: &Failed| failed.at == *refused;
                rows.modify(source, |known| {
                    known.failed = known.failed.take().filter(|failed| !is_it(failed))
                })
            }
            Own::Unreachable { source, kind, why } | Own::Refused { source, kind, why, .. } => {
                let failed = Failed { kind: kind.clone(), why: why.clone(), at };
                rows.modify(source, |known| known.failed = Some(failed))
            }
            _ => Ok(()),
        }
    }
}

/// State of a source that its next snapshot is compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    pub shape: [u8; 4],
    /// Rows of the last snapshot that counted, or was accepted. `None`: there was none.
    pub rows: Option<u64>,
    /// Columns of the same.
    pub columns: Vec<(String, Option<String>, bool)>,
    /// Ranges may shrink this time: somebody accepted that.
    pub accepts_ranges: bool,
    /// A snapshot since then that was not believed.
    pub refused: Option<Refused>,
}

/// A snapshot that was not believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// Kind of its trouble: `columns`, or its number of rows.
    pub kind: String,
    pub columns: Vec<(String, Option<String>, bool)>,
    pub rows: u64,
    /// Position at which that is on record.
    pub at: u64,
}

impl Baseline {
    /// Takes over what the snapshot was refused for, and nothing else of it.
    fn accept(&mut self, at: u64) {
        let Some(refused) = self.refused.take_if(|refused| refused.at == at) else { return };
        match refused.kind.as_str() {
            "columns" => self.columns = refused.columns,
            _ => (self.rows, self.accepts_ranges) = (Some(refused.rows), true),
        }
    }
}

/// Baselines of sources, by the check they are pulled for.
pub(crate) struct Baselines;

impl Projection for Baselines {
    const NAME: &'static str = "tallystone.baselines";
    type Event = Own;
    type Key = String;
    type Row = Baseline;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        let at = rows.position().get();
        match event {
            // Another row type is another reading of the source: it begins anew.
            Own::Sourced { source, shape } => rows.update(source.clone(), |baseline| {
                if baseline.shape != *shape {
                    *baseline = Baseline { shape: *shape, ..Baseline::default() };
                }
            }),
            Own::Columns { source, columns } => {
                rows.modify(source, |baseline| baseline.columns.clone_from(columns))
            }
            Own::Pulled { source, rows: len, .. } => rows.modify(source, |baseline| {
                (baseline.rows, baseline.accepts_ranges, baseline.refused) = (Some(*len), false, None);
            }),
            Own::Refused { source, kind, columns, rows: len, .. } => {
                let refused = Refused { kind: kind.clone(), columns: columns.clone(), rows: *len, at };
                rows.modify(source, |baseline| baseline.refused = Some(refused))
            }
            Own::Accepted { source, refused, .. } => {
                rows.modify(source, |baseline| baseline.accept(*refused))
            }
            _ => Ok(()),
        }
    }
}
