//! Sources of evidence for [`About::outside`](crate::check::About::outside): files of others, and the rows of another store.
//!
//! - A source gives a whole snapshot or a named error. Half a file, a row that does not fit, two rows with one key: nothing of
//!   it is used.
//! - Rows are serde structs, their fields the columns; the key is a function of the row.

#[cfg(any(feature = "csv", feature = "sqlite"))]
mod cells;
#[cfg(feature = "csv")]
mod csv;
#[cfg(any(feature = "csv", feature = "json"))]
mod file;
#[cfg(feature = "json")]
mod json;
mod rows;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "csv")]
pub use csv::CsvFile;
#[cfg(feature = "json")]
pub use json::JsonLines;
pub use rows::{StoreRows, rows_of};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteQuery;

/// The key of a row.
#[cfg(any(feature = "csv", feature = "json", feature = "sqlite"))]
type KeyOf<K, R> = Box<dyn Fn(&R) -> K + Send + Sync>;
