//! A way to look at a store that does not open it.

use super::{Store, place};
use crate::disk::Platform;
use crate::error::{OpenError, StorageError, TroubleKind};
use crate::inspect::Inspect;
use std::path::Path;

impl Store {
    /// Looks at the store in the directory `path` without opening it: beside a process that has it open, on a medium that cannot
    /// be written, and without the types of its program. Takes no lock, makes and changes no file.
    ///
    /// Events are shown up to the last that is known to be durable; of a store whose writer runs or was killed, that may leave
    /// out the last group of commits ([`End::unproven_commits`](crate::inspect::End::unproven_commits)).
    ///
    /// # Errors
    ///
    /// - `NotFound`, `NotAStore`: about the path.
    /// - `Corrupt`: the log is damaged at its end or between two segments. Other damage shows where it is read, and in
    ///   [`Inspect::verify`].
    /// - `NewerFormat`: use a later version of this crate.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Deposited { account: u32, cents: i64 }
    /// # impl Event for Deposited { const FAMILY: &str = "account"; type Id = u32; fn id(&self) -> u32 { self.account } }
    /// # fn main() -> Result<(), Error> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let path = dir.path().join("bank");
    /// let store = Store::create(&path, Setup::new().events::<Deposited>())?;
    /// store.append(Append::event(Deposited { account: 7, cents: 500 }))?;
    /// let mut inspect = Store::inspect(&path)?; // The store is open meanwhile.
    /// assert_eq!((inspect.end().position.get(), inspect.end().unproven_commits), (0, 1));
    ///
    /// store.close();
    /// inspect.refresh()?;
    /// let layouts = inspect.layouts()?;
    /// for event in inspect.events(QueryItem::types(["account.Deposited"])) {
    ///     let event = event?;
    ///     let value = layouts.value(&event)?;
    ///     assert_eq!(value.get("cents").and_then(|cents| cents.as_i64()), Some(500));
    /// }
    ///
    /// // Example: it never creates anything.
    /// assert!(matches!(Store::inspect(dir.path().join("none")), Err(OpenError::NotFound { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn inspect(path: impl AsRef<Path>) -> Result<Inspect, OpenError> {
        Self::inspect_on(&Platform::real(), path)
    }

    /// [`inspect`](Self::inspect) on another platform.
    #[cfg(feature = "testing")]
    pub fn inspect_with(path: impl AsRef<Path>, platform: &Platform) -> Result<Inspect, OpenError> {
        Self::inspect_on(platform, path)
    }

    fn inspect_on(platform: &Platform, path: impl AsRef<Path>) -> Result<Inspect, OpenError> {
        let unread = |error| match error {
            OpenError::ReadOnly { path, why } => {
                let what = format!("the store at {} may not be read: {why}", path.display());
                StorageError::new(TroubleKind::Io, what).into()
            }
            error => error,
        };
        Inspect::open(platform, place::find(platform, path.as_ref()).map_err(unread)?)
    }
}
