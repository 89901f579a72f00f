//! Rows of another store.

use crate::check::{Outside, PullError, Pulled};
use crate::error::ReadError;
use crate::event::Raw;
use crate::order::Position;
use crate::projection::Projection;
use crate::query::Query;
use crate::store::Store;
use crate::view::View;
use std::fmt;
use std::marker::PhantomData;
use std::time::SystemTime;

/// The rows of a projection in another store: see [`rows_of`].
pub struct StoreRows<P> {
    store: Store,
    projection: PhantomData<fn() -> P>,
}

/// The rows of a projection in another store of this process, as evidence. That store stays open as long as this does.
pub fn rows_of<P: Projection>(store: &Store) -> StoreRows<P> {
    StoreRows { store: store.clone(), projection: PhantomData }
}

impl<P> fmt::Debug for StoreRows<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreRows").field(&self.store).finish()
    }
}

impl<P: Projection> Outside for StoreRows<P>
where
    P::Row: PartialEq,
{
    type Key = P::Key;
    type Row = P::Row;

    fn pull(&self) -> Result<Pulled<P::Key, P::Row>, PullError> {
        let view = self.store.view().map_err(unread)?;
        let as_of = folded_at::<P>(&view)?;
        let rows = view.rows::<P>(..).collect::<Result<Vec<_>, _>>().map_err(unread)?;
        let pulled = Pulled::new(rows);
        Ok(match as_of {
            None => pulled,
            Some(time) => pulled.as_of(time),
        })
    }

    fn again(&self, keys: &[P::Key]) -> Result<Pulled<P::Key, Option<P::Row>>, PullError> {
        let view = self.store.view().map_err(unread)?;
        let row = |key: &P::Key| Ok((key.clone(), view.row::<P>(key).map_err(unread)?));
        let rows: Result<Vec<_>, PullError> = keys.iter().map(row).collect();
        Ok(Pulled::new(rows?))
    }
}

/// Returns the time of the rows. `None` if they are current: folded in the commit, or caught up.
fn folded_at<P: Projection>(view: &View) -> Result<Option<SystemTime>, PullError> {
    let folded = view.folded_through::<P>().map_err(unread)?;
    if folded >= view.position() {
        return Ok(None);
    }
    if folded == Position::START {
        return Err(PullError::Unfinished(format!("`{}` has folded nothing yet", P::NAME)));
    }
    let last = Query::all().after(Position::new(folded.get() - 1)).limit(1);
    let last = view.query::<Raw>(last).next().transpose().map_err(unread)?;
    Ok(last.map(|event| event.recorded_at))
}

fn unread(error: ReadError) -> PullError {
    match error {
        ReadError::Rebuilding { .. } => PullError::Unfinished(error.to_string()),
        error => PullError::Unreachable(error.to_string()),
    }
}
