//! Sources of evidence for [`About::outside`](crate::check::About::outside): the rows of another store.

mod rows;

pub use rows::{StoreRows, rows_of};
