//! Sums of amounts in events: they must balance, or equal a recorded total.

use super::lens::Amounts;
use super::word::Word;
use super::{About, Check, Open, Sequence, Span};
use crate::event::EventSet;
use crate::key::Key;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

impl About {
    /// Requires that the amounts of a key add up to 0: debits and credits, goods taken and given back. Set a window for it.
    ///
    /// Amounts are whole numbers of the smallest unit; `None` adds nothing.
    pub fn balances<E: EventSet>(self, adds: impl Fn(&E) -> Option<i64> + Send + Sync + 'static) -> Open<E> {
        Open(self.amounts(Word::Balances, Arc::new(adds), None))
    }

    /// Requires that a total in an event is the sum over the events of its key, itself included.
    ///
    /// Amounts are whole numbers of the smallest unit. They are compared at once, or at the end of a [`bucket`](Equality::bucket).
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tallystone::check::{About, Severity};
    /// use tallystone::prelude::*;
    /// use std::time::Duration;
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Paid { fine: u32, cents: i64, total: i64 }
    /// # impl Event for Paid { const FAMILY: &str = "paid"; type Id = u32; fn id(&self) -> u32 { self.fine } }
    /// # fn main() -> Result<(), Error> {
    /// let total = About {
    ///     id: "total-paid",
    ///     severity: Severity::Ticket,
    ///     owner: "collections",
    ///     means: "The total on a payment is not the sum of the payments.",
    ///     remedy: "1 add the payments up by hand; 2 correct the total",
    /// }
    /// .equals(|e: &Paid| Some(e.cents), |e| Some(e.total));
    ///
    /// let store = Store::in_memory(Setup::new().events::<Paid>().check(total))?;
    /// store.append(Append::event(Paid { fine: 7, cents: 500, total: 500 }))?;
    /// let wrong = store.append(Append::event(Paid { fine: 7, cents: 500, total: 1500 }))?.receipt.last;
    /// assert!(store.checks().wait_for(wrong, Duration::from_secs(60)));
    /// let found = store.checks().open()?;
    /// assert_eq!(found[0].activation, wrong);
    /// assert_eq!(found[0].disagrees, "says 1500, the events add up to 1000");
    /// # Ok(())
    /// # }
    /// ```
    pub fn equals<E: EventSet>(
        self,
        adds: impl Fn(&E) -> Option<i64> + Send + Sync + 'static,
        says: impl Fn(&E) -> Option<i64> + Send + Sync + 'static,
    ) -> Equality<E> {
        Equality(self.amounts(Word::Equals, Arc::new(adds), Some(Arc::new(says))))
    }

    fn amounts<E: EventSet>(
        self,
        word: Word,
        adds: Arc<dyn Fn(&E) -> Option<i64> + Send + Sync>,
        says: Option<Arc<dyn Fn(&E) -> Option<i64> + Send + Sync>>,
    ) -> Sequence<E> {
        let mut sequence = self.word(word, Arc::new(|_: &E| false), None);
        sequence.lens.amounts = Some(Amounts { adds, says, rounded: None, bucket: None });
        sequence
    }
}

/// A comparison of totals in events with the sum.
#[must_use = "a check does nothing until it is in a setup"]
pub struct Equality<E>(Sequence<E>);

impl<E: EventSet> Equality<E> {
    /// As [`Sequence::by`].
    pub fn by<K: Key>(self, key: impl Fn(&E) -> K + Send + Sync + 'static) -> Self {
        Self(self.0.by(key))
    }

    /// As [`Sequence::at`].
    pub fn at(
        self,
        time: impl Fn(&E) -> Option<SystemTime> + Send + Sync + 'static,
        lateness: Duration,
    ) -> Self {
        Self(self.0.at(time, lateness))
    }

    /// As [`Sequence::skew`].
    pub fn skew(self, skew: Duration) -> Self {
        Self(self.0.skew(skew))
    }

    /// As [`Sequence::imported`].
    pub fn imported(self) -> Self {
        Self(self.0.imported())
    }

    /// As [`Sequence::closed_by`]: later events are added up anew.
    pub fn closed_by(self, close: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        Self(self.0.closed_by(close))
    }

    /// Sets the largest difference that is allowed.
    pub fn tolerance(mut self, units: u64) -> Self {
        self.0.rule.sums.tolerance = units;
        self
    }

    /// Allows the [`tolerance`](Self::tolerance) once for each event that added a rounded amount, and once if there is none.
    pub fn rounded(mut self, rounded: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.amounts().rounded = Some(Arc::new(rounded));
        self.0.shape.push_str("rounded;");
        self
    }

    /// Compares at the end of each bucket of this length: an hour, or with [`Span::in_zone`] a day of a calendar. Events of a
    /// bucket may be in any order, and one of its totals must be right. With [`at`](Self::at) a bucket is over when the watermark
    /// is after it: until then a late event counts in its own bucket. A total that is recorded later still cannot be compared,
    /// and is a finding.
    pub fn bucket(mut self, length: impl Into<Span>) -> Self {
        match length.into().bucket() {
            Ok(bucket) => {
                self.amounts().bucket = Some(bucket);
                let zone = bucket.zone().map(|zone| zone.rules());
                self.0.shape.push_str(&format!("bucket {bucket:?} {zone:?};"));
            }
            Err((field, why)) => self.0.wrong = Some((field.unwrap_or("bucket"), why)),
        }
        self
    }

    /// Adds later events to the stated total instead of to the sum: a wrong total is found once, and later ones are not wrong.
    pub fn carried(mut self) -> Self {
        self.0.rule.sums.carried = true;
        self
    }

    /// As [`Check::version`].
    pub fn version(self, version: u32) -> Check {
        Check::from(self).version(version)
    }

    fn amounts(&mut self) -> &mut Amounts<E> {
        self.0.lens.amounts.as_mut().expect("it was made with them")
    }
}

impl<E: EventSet> From<Equality<E>> for Check {
    fn from(equality: Equality<E>) -> Self {
        equality.0.into()
    }
}
