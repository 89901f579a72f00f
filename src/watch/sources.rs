//! Sources outside, as they are on record: the state of each, and its rows with the times at which they were seen.

use super::acts::{invalid as wrong, said, unread};
use super::{Checks, State};
use crate::check::columns::of_record;
use crate::check::outside::freshness_id;
use crate::check::{Column, Outside};
use crate::codec;
use crate::error::{AppendError, ReadError};
use crate::evidence::{Baselines, Evidence as Cache, Failed, Kept, Known, Snapshot, Sources};
use crate::key;
use crate::order::{Position, Timestamp};
use crate::own::{self, Bytes, Own};
use crate::request::{Append, Receipt};
use crate::view::View;
use std::any::TypeId;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

/// A source of a check, as far as it is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Source {
    /// Check that uses its evidence.
    pub check: String,
    /// A time before which the last complete snapshot shows nothing. `None`: there is none yet.
    pub as_of: Option<SystemTime>,
    /// Rows of it.
    pub rows: u64,
    /// Columns that the next snapshot must have, if the source says its columns.
    pub columns: Vec<Column>,
    /// Position of the last complete snapshot. `None` without one.
    pub pulled: Option<Position>,
    /// Failure of the pulls since then: position at which it is on record, and reason. `None` if there is no trouble.
    pub failed: Option<(Position, String)>,
    /// The snapshot is too old: what the check is about cannot be told.
    pub is_stale: bool,
}

impl Checks<'_> {
    /// The sources outside, by check.
    ///
    /// # Errors
    ///
    /// As reading rows.
    pub fn sources(&self) -> Result<Vec<Source>, ReadError> {
        let view = self.desk.view()?;
        let checks = self.desk.watch().checks();
        let compared = checks.iter().filter(|check| check.lens.evidence().is_some());
        compared
            .map(|check| {
                let check = check.id().to_owned();
                let Known { snapshot, failed, .. } = view.row::<Sources>(&check)?.unwrap_or_default();
                let is_stale =
                    self.of(&freshness_id(&check))?.iter().any(|violation| violation.state == State::Open);
                Ok(Source {
                    as_of: snapshot.as_ref().map(|snapshot| time(snapshot.as_of)),
                    rows: snapshot.as_ref().map_or(0, |snapshot| snapshot.rows),
                    columns: of_record(view.row::<Baselines>(&check)?.unwrap_or_default().columns),
                    pulled: snapshot.as_ref().map(|snapshot| Position::new(snapshot.at)),
                    failed: failed.map(|Failed { why, at, .. }| (Position::new(at), why)),
                    is_stale,
                    check,
                })
            })
            .collect()
    }

    /// Pulls the source of a check now, and waits until every check has judged what it shows. `None`: the time is over, and it goes on.
    ///
    /// For who does not wait for the next period: a command that audits and ends, a button at the desk. [`Source::failed`] says
    /// whether it could be read. Only a snapshot from after the window makes a violation; so a row that is seen for the first time
    /// is one with the second pull at the earliest.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tallystone::check::{About, Outside, PullError, Pulled, Severity};
    /// # use tallystone::prelude::*;
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Sold { cup: u32 }
    /// # impl Event for Sold {
    /// #     const FAMILY: &str = "sold";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 { self.cup }
    /// # }
    /// # struct Cups;
    /// # impl Projection for Cups {
    /// #     const NAME: &str = "cups";
    /// #     type Event = Sold;
    /// #     type Key = u32;
    /// #     type Row = ();
    /// #     fn fold(event: &Sold, rows: &mut Rows<Self>) -> Folded { rows.put(event.cup, ()) }
    /// # }
    /// # struct Shelf;
    /// # impl Outside for Shelf {
    /// #     type Key = u32;
    /// #     type Row = ();
    /// #     fn pull(&self) -> Result<Pulled<u32, ()>, PullError> { Ok(Pulled::new(vec![(8, ())])) }
    /// # }
    /// # fn main() -> Result<(), Error> {
    /// # let about = About { id: "sold-or-there", severity: Severity::Note, owner: "shop", means: "A cup is gone.", remedy: "1 look" };
    /// # let agree = about.outside::<Cups, _>(Shelf, |sold, there| sold.is_some() != there.is_some());
    /// # let check = agree.for_longer_than(Duration::ZERO);
    /// let store = Store::in_memory(Setup::new().inline::<Cups>().check(check))?;
    /// store.append(Append::event(Sold { cup: 8 }))?;
    /// let source = store.checks().pull("sold-or-there", Duration::from_secs(60))?.expect("within a minute");
    /// assert_eq!((source.rows, source.failed), (1, None));
    /// store.checks().pull("sold-or-there", Duration::from_secs(60))?;
    /// assert_eq!(store.checks().open()?[0].subject.as_deref(), Some("8"));
    ///
    /// // Nobody has a source of this name.
    /// assert!(store.checks().pull("paid", Duration::ZERO).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Invalid`: no check of this name has a source. As reading rows.
    pub fn pull(&self, check: &str, timeout: Duration) -> Result<Option<Source>, ReadError> {
        let is_in_time = self.desk.pull(check, timeout).ok_or_else(|| ReadError::Invalid {
            what: "pull",
            why: format!("no check `{check}` of the setup has a source"),
        })?;
        if !is_in_time {
            return Ok(None);
        }
        Ok(self.sources()?.into_iter().find(|source| source.check == check))
    }

    /// Accepts, on record, what the last snapshot of a source was refused for: its columns, or its number of rows. The next snapshot is
    /// compared with that one instead; what else it may be refused for still counts. Pass what [`sources`](Self::sources) returned.
    ///
    /// For a schema that was changed on purpose, and for a table that was emptied on purpose.
    ///
    /// ```
    /// # use std::sync::{Arc, Mutex};
    /// # use std::time::Duration;
    /// # use tallystone::check::{About, Column, Outside, PullError, Pulled, Severity};
    /// # use tallystone::prelude::*;
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Sold { cup: u32 }
    /// # impl Event for Sold {
    /// #     const FAMILY: &str = "sold";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 { self.cup }
    /// # }
    /// # struct Cups;
    /// # impl Projection for Cups {
    /// #     const NAME: &str = "cups";
    /// #     type Event = Sold;
    /// #     type Key = u32;
    /// #     type Row = ();
    /// #     fn fold(event: &Sold, rows: &mut Rows<Self>) -> Folded { rows.put(event.cup, ()) }
    /// # }
    /// # struct Shelf(Arc<Mutex<Vec<&'static str>>>);
    /// # impl Outside for Shelf {
    /// #     type Key = u32;
    /// #     type Row = ();
    /// #     fn pull(&self) -> Result<Pulled<u32, ()>, PullError> {
    /// #         let columns = self.0.lock().expect("nobody panics").clone();
    /// #         Ok(Pulled::new(vec![(8, ())]).columns(columns.into_iter().map(Column::new)))
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Error> {
    /// # let about = About { id: "sold-or-there", severity: Severity::Note, owner: "shop", means: "A cup is gone.", remedy: "1 look" };
    /// # let columns = Arc::new(Mutex::new(vec!["cup", "shelf"]));
    /// # let agree = about.outside::<Cups, _>(Shelf(columns.clone()), |sold, there| sold.is_some() != there.is_some());
    /// # let store = Store::in_memory(Setup::new().inline::<Cups>().check(agree.for_longer_than(Duration::ZERO)))?;
    /// let checks = store.checks();
    /// let source = checks.pull("sold-or-there", Duration::from_secs(60))?.expect("within a minute");
    /// assert_eq!(source.columns.len(), 2);
    /// // Example: nothing was refused.
    /// assert!(checks.accept_source(&source, "ann", "shelves are gone").is_err());
    ///
    /// # *columns.lock().expect("nobody panics") = vec!["cup"];
    /// // The other side drops the column `shelf`.
    /// let source = checks.pull("sold-or-there", Duration::from_secs(60))?.expect("within a minute");
    /// assert!(source.failed.as_ref().is_some_and(|(_, why)| why.contains("gone: `shelf`")));
    /// checks.accept_source(&source, "ann", "shelves are gone")?;
    /// let source = checks.pull("sold-or-there", Duration::from_secs(60))?.expect("within a minute");
    /// assert_eq!((source.failed, source.columns.len()), (None, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Invalid` if the source has not been refused, or again for another reason since then: ask for the sources again; or if `by` or
    /// the reason is empty. As [`Store::append`](crate::Store::append).
    pub fn accept_source(&self, source: &Source, by: &str, reason: &str) -> Result<Receipt, AppendError> {
        said(by, "the acceptance does not say who")?;
        said(reason, "the acceptance has no reason")?;
        let view = self.desk.view().map_err(unread)?;
        let baseline = view.row::<Baselines>(&source.check).map_err(unread)?.unwrap_or_default();
        let seen = source.failed.as_ref().map(|(at, _)| at.get());
        let refused = baseline.refused.map(|refused| refused.at).filter(|at| seen == Some(*at));
        let Some(refused) = refused else {
            let why = format!("no snapshot of `{}` is refused, or another one than this says", source.check);
            return Err(wrong("source", why));
        };
        let (source, by, reason) = (source.check.clone(), by.to_owned(), reason.to_owned());
        self.desk.append(Append::event(Own::Accepted { source, refused, by, reason }))
    }

    /// Returns the rows that were pulled for a check, as of now. `O` is the type of its source.
    ///
    /// # Errors
    ///
    /// `Invalid` if no check of this name has such a source. Else as for reading rows.
    pub fn evidence<O: Outside>(&self, check: &str) -> Result<Evidence<O>, ReadError> {
        let checks = self.desk.watch().checks();
        let evidence = checks.iter().find(|known| known.id() == check);
        let evidence = evidence.and_then(|known| known.lens.evidence());
        let evidence = evidence.filter(|evidence| evidence.type_id == TypeId::of::<O>());
        let shape = evidence.map(|evidence| evidence.shape).ok_or_else(|| ReadError::Invalid {
            what: "evidence",
            why: format!("no check `{check}` of the setup has a source of this type"),
        })?;
        let view = self.desk.view()?;
        let Known { snapshot, .. } = view.row::<Sources>(check)?.unwrap_or_default();
        Ok(Evidence { view, check: check.to_owned(), shape, snapshot, source: PhantomData })
    }
}

/// The rows of a source, as they were pulled last.
pub struct Evidence<O> {
    view: View,
    check: String,
    shape: [u8; 4],
    snapshot: Option<Snapshot>,
    source: PhantomData<fn() -> O>,
}

/// A row of a source, and when it was seen.
///
/// The times are those of snapshots. A row was there at the latest when it was first seen, and at least until it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sighting<R> {
    /// The row.
    pub row: R,
    /// As of the snapshot that showed it first.
    pub first_seen: SystemTime,
    /// As of the snapshot that showed it first as it is.
    pub changed: SystemTime,
    /// As of the last one.
    pub last_seen: SystemTime,
}

/// Difference between a snapshot and the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change<K, R> {
    /// Position at which it is on record.
    pub position: Position,
    /// As of when it was read.
    pub as_of: SystemTime,
    /// Key of the row.
    pub key: K,
    /// The row from then on. `None` if it was not there any more.
    pub row: Option<R>,
}

impl<O: Outside> Evidence<O> {
    /// A time before which the last complete snapshot shows nothing. `None`: there is none yet.
    pub fn as_of(&self) -> Option<SystemTime> {
        self.snapshot.as_ref().map(|snapshot| time(snapshot.as_of))
    }

    /// The row under `key`, if the source has one.
    ///
    /// # Errors
    ///
    /// As reading rows.
    pub fn row(&self, key: &O::Key) -> Result<Option<Sighting<O::Row>>, ReadError> {
        let mut bytes = Vec::new();
        key::encode(key, &mut bytes).map_err(|error| invalid(&error))?;
        let kept = self.view.row_at::<Cache>(&(self.check.clone(), Bytes(bytes)))?;
        let sighting = kept.and_then(|kept| self.sighting(kept.row, kept.changed_at).transpose());
        sighting.transpose()
    }

    /// All rows, in the order of their keys.
    ///
    /// # Errors
    ///
    /// As reading rows.
    #[allow(clippy::type_complexity, reason = "it is what it says")]
    pub fn rows(&self) -> impl Iterator<Item = Result<(O::Key, Sighting<O::Row>), ReadError>> {
        let first = (self.check.clone(), Bytes(Vec::new()));
        let next = (format!("{}\0", self.check), Bytes(Vec::new()));
        self.view.rows::<Cache>(first..next).with_positions().filter_map(|entry| {
            entry
                .and_then(|((_, key), kept)| {
                    let sighting = self.sighting(kept.row, kept.changed_at)?;
                    let decode = |cause| ReadError::Decode { position: kept.changed_at, cause };
                    let key = || key::decode(&key.0).map_err(decode);
                    sighting.map(|sighting| Ok((key()?, sighting))).transpose()
                })
                .transpose()
        })
    }

    /// Everything that snapshots showed otherwise than those before them, oldest first: each change once.
    ///
    /// # Errors
    ///
    /// As reading events.
    #[allow(clippy::type_complexity, reason = "it is what it says")]
    pub fn changes(&self) -> impl Iterator<Item = Result<Change<O::Key, O::Row>, ReadError>> {
        let shape = self.shape;
        self.view.stream::<Own>(&own::of_source(&self.check)).flat_map(move |event| {
            let (position, event) = match event {
                Ok(event) => (event.position, event.event),
                Err(error) => return vec![Err(error)],
            };
            let Own::Evidence { shape: of, as_of, changed, .. } = event else { return Vec::new() };
            // Rows of another type say nothing in this one.
            let changed = changed.into_iter().filter(|_| of == shape);
            let read = |(key, row): (Bytes, Option<Bytes>)| {
                let row = row.map(|row| codec::decode(&row.0)).transpose();
                let read = row.and_then(|row| Ok((key::decode(&key.0)?, row)));
                let (key, row) = read.map_err(|cause| ReadError::Decode { position, cause })?;
                Ok(Change { position, as_of: time(as_of), key, row })
            };
            changed.map(read).collect()
        })
    }

    /// `None`: it was recorded as another type.
    fn sighting(&self, kept: Kept, position: Position) -> Result<Option<Sighting<O::Row>>, ReadError> {
        if kept.shape != self.shape {
            return Ok(None);
        }
        let row = codec::decode(&kept.row.0).map_err(|cause| ReadError::Decode { position, cause })?;
        // What a snapshot that is not complete showed is seen all the same.
        let last_seen = self.snapshot.as_ref().map_or(kept.changed, |seen| seen.as_of.max(kept.changed));
        let (first_seen, changed) = (time(kept.first_seen), time(kept.changed));
        Ok(Some(Sighting { row, first_seen, changed, last_seen: time(last_seen) }))
    }
}

impl<O> std::fmt::Debug for Evidence<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence").field("check", &self.check).finish_non_exhaustive()
    }
}

fn time(micros: i64) -> SystemTime {
    Timestamp::from_micros(u64::try_from(micros).unwrap_or(0)).into()
}

fn invalid(error: &crate::error::DecodeError) -> ReadError {
    ReadError::Invalid { what: "row key", why: error.to_string() }
}
