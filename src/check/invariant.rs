//! Invariants: conditions over rows that hold after every commit.

use super::rows::{Join, Rowed, rowed};
use super::{About, Described, Fault};
use std::sync::Arc;

/// A condition over inline rows that no commit may leave wrong: [`About::invariant`].
#[derive(Clone)]
#[must_use = "an invariant does nothing until it is in a setup"]
pub struct Invariant {
    pub(crate) about: Described,
    pub(crate) rows: Arc<dyn Rowed>,
}

impl About {
    /// Declares a condition, over the rows that projections have under one key, that no commit may leave wrong.
    ///
    /// After the folds of a commit it is called for every key whose row the commit changed in one of the projections, with the
    /// rows as the commit would leave them. `true` refuses the commit: [`Violated`](crate::error::AppendError::Violated) names
    /// the key, and the events that last changed its rows. If one event of an append breaks it and a later one of the same append
    /// mends it, the append is not refused.
    ///
    /// - Its projections must be inline. It may be called often, with rows that are never committed: it must be a pure function
    ///   of its arguments.
    /// - A key that was wrong already, because the invariant is newer than its rows, refuses the commits that touch it and do not
    ///   mend it. Nobody looks at the others: have a check that reports look at the same rows.
    /// - If it panics, or a row cannot be read, the commit is refused as well: [`CannotTell`](crate::error::AppendError::CannotTell).
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tallystone::check::{About, Severity};
    /// use tallystone::prelude::*;
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum Account {
    ///     Paid { account: u32, cents: i64 },
    ///     Drew { account: u32, cents: i64 },
    /// }
    /// # impl Event for Account {
    /// #     const FAMILY: &str = "account";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 { let (Self::Paid { account, .. } | Self::Drew { account, .. }) = self; *account }
    /// # }
    /// struct Balances;
    /// impl Projection for Balances {
    ///     const NAME: &str = "balances";
    ///     type Event = Account;
    ///     type Key = u32;
    ///     type Row = i64;
    ///     fn fold(event: &Account, rows: &mut Rows<Self>) -> Folded {
    ///         match event {
    ///             Account::Paid { account, cents } => rows.update(*account, |balance| *balance += cents),
    ///             Account::Drew { account, cents } => rows.update(*account, |balance| *balance -= cents),
    ///         }
    ///     }
    /// }
    /// # fn main() -> Result<(), Error> {
    /// let covered = About {
    ///     id: "covered",
    ///     severity: Severity::Page,
    ///     owner: "payments",
    ///     means: "An account is overdrawn.",
    ///     remedy: "1 find who let it; 2 ask for the money",
    /// }
    /// .invariant::<(Balances,)>(|_account, (balance,)| balance.is_some_and(|cents| *cents < 0));
    ///
    /// let store = Store::in_memory(Setup::new().inline::<Balances>().invariant(covered))?;
    /// store.append(Append::event(Account::Paid { account: 1, cents: 500 }))?;
    ///
    /// // Example: the draw that would overdraw it is refused, and nothing of it is written.
    /// let refused = store.append(Append::event(Account::Drew { account: 1, cents: 501 }));
    /// assert!(matches!(refused, Err(AppendError::Violated { check, key, .. }) if check == "covered" && key == "1"));
    /// store.append(Append::event(Account::Drew { account: 1, cents: 500 }))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn invariant<J: Join>(
        self,
        wrong: impl for<'a> Fn(&J::Key, J::Rows<'a>) -> bool + Send + Sync + 'static,
    ) -> Invariant {
        Invariant { about: self.into(), rows: Arc::new(rowed::<J>(wrong)) }
    }
}

impl Invariant {
    /// Returns its name.
    pub fn id(&self) -> &str {
        &self.about.id
    }

    /// Returns all of its faults. `is_inline` returns whether the setup folds a projection in the commit.
    pub(crate) fn faults(&self, is_inline: impl Fn(&str) -> bool) -> Vec<Fault> {
        let mut faults = self.about.faults();
        for (index, projection) in self.rows.projections().iter().enumerate() {
            if !is_inline(projection.name) {
                let line = self.rows.type_name(index).rsplit("::").next().unwrap_or_default();
                let why = format!(
                    "projection `{}` is not folded in the commit: add `.inline::<{line}>()` to the setup",
                    projection.name
                );
                faults.push(Fault::new(&self.about.id, "invariant", why));
            }
        }
        faults
    }
}

impl std::fmt::Debug for Invariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?}", self.about.id, self.rows.projections())
    }
}
