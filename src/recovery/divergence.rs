//! Rows that are folded otherwise than the log says, and by which code.
//!
//! Code may be corrected without another `VERSION`: then its rows are folded from the first commit, and are not those that the
//! digests in the log speak of. Opened by the code of before, nothing would show it: all is folded already. So the state keeps the
//! first commit at which they differ, some rows that it changes, as they were before it, and the digest of what the code makes of
//! them. Every open folds that commit again on these rows; code that makes something else of them did not make the rows.

use super::{Declared, Recovery, refold};
use crate::error::StorageError;
use crate::log::record::{LayoutDecl, Record};
use crate::log::{Head, Seek};
use crate::order::{CommitNo, Position};
use crate::projection::{self, Registered};
use crate::state::layer::RowVersion;
use crate::state::overlay::Delta;
use crate::state::tables::{Base, Divergence, StoredRow, Tables};
use crate::state::{self, Layouts, Published};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows kept of one divergence, in bytes: they are part of the head that every flush writes.
const ROWS_BYTES: usize = 16 << 10;

/// Projections by id, with the first commit that they fold otherwise than the log says.
pub(crate) type Divergences = BTreeMap<[u8; 4], Divergence>;

/// Projections whose rows this code changes otherwise than the code that committed.
pub(super) fn mismatch(
    record: &Record<'_>,
    projections: &[&Registered],
    scratch: &Delta,
    declared: &Declared,
) -> Vec<[u8; 4]> {
    let now = projection::digests(scratch);
    let digest = |id: [u8; 4]| {
        now.iter().find(|fold| fold.projection == u32::from_be_bytes(id)).map(|fold| fold.digest)
    };
    let ids = projections.iter().map(|projection| projection.id);
    ids.filter(|id| declared.logged(record, *id).is_some_and(|logged| logged != digest(*id))).collect()
}

impl Recovery<'_> {
    /// Notes the first divergence of each of these projections; `scratch` is what the commit changes.
    pub(super) fn note_divergences(
        &self,
        ids: &[[u8; 4]],
        record: &Record<'_>,
        (published, group, scratch): (&Published, &Delta, &Delta),
        into: &mut Divergences,
    ) -> Result<(), StorageError> {
        for projection in self.rules.projections.all.iter().filter(|projection| ids.contains(&projection.id))
        {
            if into.contains_key(&projection.id) {
                continue;
            }
            let (mut rows, mut bytes) = (Vec::new(), 0);
            for key in scratch.rows.keys().filter(|key| key.starts_with(&projection.id)) {
                if let Some(before) = published.read(&[group], |layers| layers.row(key))? {
                    let value = before.value.as_deref().unwrap_or_default().to_vec();
                    bytes += key.len() + value.len();
                    if bytes > ROWS_BYTES {
                        break;
                    }
                    let (commit, position) = (before.commit.0, before.position.0);
                    rows.push(StoredRow { key: key.to_vec(), commit, position, value });
                }
            }
            let digest = self.replay(projection, record, &rows, published.layouts.clone())?;
            into.insert(projection.id, Divergence { commit: record.commit().0, digest, rows });
        }
        Ok(())
    }

    /// Digest of what this code makes of a commit on these rows.
    fn replay(
        &self,
        projection: &Registered,
        record: &Record<'_>,
        rows: &[StoredRow],
        layouts: Arc<Layouts>,
    ) -> Result<Option<u64>, StorageError> {
        let before = Head {
            commit: CommitNo(record.commit().0 - 1),
            position: Position(record.first().0 - 1),
            ..Head::empty(self.log.store())
        };
        let published = Published::on(Arc::new(Base::Empty), before, layouts);
        let mut delta = Delta::default();
        for row in rows {
            let (commit, position) = (CommitNo(row.commit), Position(row.position));
            let version = RowVersion { commit, position, value: Some(Arc::from(&*row.value)) };
            delta.put_row(row.key.as_slice().into(), version);
        }
        published.active.apply(delta);
        let layouts = record.layouts().map(LayoutDecl::from).collect();
        let mut scratch = Delta { layouts, ..Delta::default() };
        refold(record, &[projection], &self.rules.limits, &published, &Delta::default(), &mut scratch)?;
        Ok(projection::digests(&scratch).first().map(|fold| fold.digest))
    }

    /// Stored projections that diverge from the log: those whose rows this code made, and those whose rows other code made.
    pub(super) fn divergences(
        &self,
        tables: &Tables,
    ) -> Result<(Divergences, BTreeSet<[u8; 4]>), StorageError> {
        let (mut ours, mut others) = (Divergences::new(), BTreeSet::new());
        let mut layouts = Layouts::new();
        state::declare(&mut layouts, tables.meta().layouts.iter().cloned().map(LayoutDecl::from));
        let layouts = Arc::new(layouts);
        for projection in &self.rules.projections.all {
            let mut stored = tables.meta().projections.iter();
            let stored = stored.find(|stored| stored.id == projection.id);
            let Some(divergence) = stored.and_then(|stored| stored.divergence.clone()) else { continue };
            let commit = CommitNo(divergence.commit);
            let page = self.log.read(Seek::Commit(commit), commit, 0)?;
            let Some(record) = page.records().next().transpose()? else { continue };
            match self.replay(projection, &record, &divergence.rows, layouts.clone())? == divergence.digest {
                true => drop(ours.insert(projection.id, divergence)),
                false => drop(others.insert(projection.id)),
            }
        }
        Ok((ours, others))
    }
}
