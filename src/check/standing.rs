//! Conditions over rows: wrong for longer than a while.

use super::glance::Glance;
use super::lens::{Lens, Looked};
use super::rows::{Join, Rowed, rowed};
use super::word::Rule;
use super::{About, Check, Clocked, micros};
use crate::error::DecodeError;
use crate::event::Family;
use std::sync::Arc;
use std::time::Duration;

impl About {
    /// Requires that rows with one key are not wrong for longer than the time that is set next.
    ///
    /// The rows are folded again for the check, commit by commit, with the code of the projections: they need not be in the
    /// setup. The condition is called for each key that a commit has changed, and for no other; so it may look at the key and the
    /// rows only.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use std::time::Duration;
    /// use tallystone::check::{About, Severity};
    /// use tallystone::prelude::*;
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum Product { Sold { product: u32 }, Cancelled { product: u32 }, Billed { product: u32 }, Ended { product: u32 } }
    /// # impl Event for Product {
    /// #     const FAMILY: &str = "product";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 {
    /// #         let (Self::Sold { product } | Self::Cancelled { product } | Self::Billed { product } | Self::Ended { product }) = self;
    /// #         *product
    /// #     }
    /// # }
    ///
    /// struct Active;
    /// impl Projection for Active {
    ///     const NAME: &'static str = "active";
    ///     type Event = Product;
    ///     type Key = u32;
    ///     type Row = bool;
    ///     fn fold(event: &Product, rows: &mut Rows<'_, Self>) -> Folded {
    ///         match event {
    ///             Product::Sold { product } => rows.put(*product, true),
    ///             Product::Cancelled { product } => rows.put(*product, false),
    ///             _ => Ok(()),
    ///         }
    ///     }
    /// }
    /// struct Bills;
    /// impl Projection for Bills {
    ///     const NAME: &'static str = "bills";
    ///     type Event = Product;
    ///     type Key = u32;
    ///     type Row = ();
    ///     fn fold(event: &Product, rows: &mut Rows<'_, Self>) -> Folded {
    ///         match event {
    ///             Product::Billed { product } => rows.put(*product, ()),
    ///             Product::Ended { product } => rows.remove(product),
    ///             _ => Ok(()),
    ///         }
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Error> {
    /// let still_billed = About {
    ///     id: "cancelled-still-billed",
    ///     severity: Severity::Page,
    ///     owner: "payments",
    ///     means: "The customer cancelled, and we still bill.",
    ///     remedy: "1 end the billing; 2 refund what was billed since",
    /// }
    /// .standing::<(Active, Bills)>(|_product, (active, bill)| active == Some(&false) && bill.is_some())
    /// .for_longer_than(Duration::from_secs(15 * 60));
    /// let store = Store::in_memory(Setup::new().inline::<Active>().inline::<Bills>().check(still_billed))?;
    /// store.append(Append::event(Product::Cancelled { product: 1 }))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn standing<J: Join>(
        self,
        wrong: impl for<'a> Fn(&J::Key, J::Rows<'a>) -> bool + Send + Sync + 'static,
    ) -> Standing {
        Standing { about: self, rowed: Arc::new(rowed::<J>(wrong)) }
    }
}

/// A condition over rows that has no window yet.
#[must_use = "a check does nothing until it is in a setup"]
pub struct Standing {
    about: About,
    rowed: Arc<dyn Rowed>,
}

impl Standing {
    /// Sets how long rows may be wrong, inclusive: one microsecond more is a violation. It heals when they are right again.
    pub fn for_longer_than(self, window: Duration) -> Check {
        over(self.about, self.rowed, window, "")
    }
}

/// Returns a check over rows. `more` is text that its definition depends on besides the tables.
pub(super) fn over(about: About, rowed: Arc<dyn Rowed>, window: Duration, more: &str) -> Check {
    // A table's id covers its name, version and layouts.
    let tables = rowed.projections().into_iter().map(|table| format!("{} {:?};", table.name, table.id));
    let shape = tables.chain([more.to_owned()]).collect();
    Check::new(about.into(), Rule::standing(micros(window)), Clocked::Recorded, RowsMatcher(rowed), shape)
}

/// A lens of a check over rows: it sees nothing in an event by itself.
struct RowsMatcher(Arc<dyn Rowed>);

impl Lens for RowsMatcher {
    fn registers(&self) -> Vec<Family> {
        self.0.projections().iter().flat_map(|table| table.families.iter().copied()).collect()
    }

    fn families(&self) -> Vec<String> {
        if self.0.projections().iter().any(|table| table.families.is_empty()) {
            return Vec::new();
        }
        let mut families: Vec<_> = self.registers().iter().map(|family| family.name().to_owned()).collect();
        families.sort();
        families.dedup();
        families
    }

    fn look(&self, _: &mut Glance<'_>) -> Result<Looked, DecodeError> {
        Ok(Looked { time: None, seen: None })
    }

    fn rowed(&self) -> Option<Arc<dyn Rowed>> {
        Some(self.0.clone())
    }

    fn key_text(&self, glance: &mut Glance<'_>) -> Result<String, DecodeError> {
        Ok(glance.raw.stream().to_owned())
    }
}
