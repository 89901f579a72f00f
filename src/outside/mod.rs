//! Sources of evidence for [`About::outside`](crate::check::About::outside): files of others, and the rows of another store.
//!
//! - A source gives a whole snapshot or a named error. Half a file, a row that does not fit, two rows with one key: nothing of
//!   it is used.
//! - A relative path is taken from the working directory in which its source is made, once.
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

/// The path as it is meant now: a later change of the working directory does not change it.
#[cfg(any(feature = "csv", feature = "json", feature = "sqlite"))]
fn absolute(path: std::path::PathBuf) -> std::path::PathBuf {
    // It fails for an empty path, or without a working directory: then there is nothing better than what was said.
    std::path::absolute(&path).unwrap_or(path)
}
