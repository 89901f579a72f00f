//! Events that a projection behind the writer passes over, because somebody decided so: rows of the store's own events.

use crate::codec;
use crate::error::{DecodeError, StorageError, TroubleKind};
use crate::key;
use crate::own::Own;
use crate::projection::{Folded, Projection, Projections, Registered, Rows, Skipped, key_range};
use crate::state::Published;
use crate::state::layer::Direction;

/// Reasons, by name and version of the projection, and position of the event. Another version is other code, and folds it again.
pub(crate) struct Skips;

impl Projection for Skips {
    const NAME: &'static str = "tallystone.skips";
    type Event = Own;
    type Key = (String, u32, u64);
    type Row = String;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Own::Skipped { projection, version, position, reason } => {
                rows.put((projection.clone(), *version, *position), reason.clone())
            }
            _ => Ok(()),
        }
    }
}

/// Returns what is on record for each of the projections `behind`.
pub(crate) fn on_record(
    published: &Published,
    projections: &Projections,
    behind: &[Registered],
) -> Result<Vec<Skipped>, StorageError> {
    behind.iter().map(|one| on_record_of(published, projections, one)).collect()
}

fn on_record_of(
    published: &Published,
    projections: &Projections,
    one: &Registered,
) -> Result<Skipped, StorageError> {
    let Some(registered) = projections.get::<Skips>() else { return Ok(Skipped::new()) };
    let key = |position| (one.name.to_owned(), one.version, position);
    let range = key_range::<Skips>(registered.id, key(0)..=key(u64::MAX)).map_err(unreadable)?;
    let rows = published.read(&[], |layers| layers.rows(&range, Direction::Forward, usize::MAX))?;
    let decoded = rows.iter().map(|(key, row)| {
        let (_, _, position) = key::decode::<<Skips as Projection>::Key>(&key[4..])?;
        Ok((position, codec::decode(row.value.as_deref().unwrap_or_default())?))
    });
    decoded.collect::<Result<_, DecodeError>>().map_err(unreadable)
}

fn unreadable(error: DecodeError) -> StorageError {
    StorageError::caused(TroubleKind::State, "events that are passed over could not be read", error)
}
