//! JSON lines: a row on each line.

use super::KeyOf;
use super::file::{TextFile, file_options};
use crate::check::{Outside, PullError, Pulled};
use crate::key::Key;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use std::fmt;
use std::path::PathBuf;

/// A file with a JSON value on each line. It is read whole, into memory.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tallystone::check::{Outside, PullError};
/// use tallystone::outside::JsonLines;
///
/// #[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
/// struct Invoice { product: u32, cents: u64 }
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("invoices.jsonl");
/// std::fs::write(&path, "{\"product\":7,\"cents\":500}\n{\"product\":8,\"cents\":\"many\"}\n").unwrap();
/// let invoices = JsonLines::new(&path, |row: &Invoice| row.product);
///
/// // Example: a row that does not fit refuses the file, and is named.
/// let Err(PullError::Row { place, .. }) = invoices.pull() else { panic!("it must not be used") };
/// assert_eq!(place, "line 2");
/// ```
pub struct JsonLines<K, R> {
    file: TextFile,
    key: KeyOf<K, R>,
}

impl<K: Key, R> JsonLines<K, R> {
    /// A file, and the key of a row.
    pub fn new(path: impl Into<PathBuf>, key: impl Fn(&R) -> K + Send + Sync + 'static) -> Self {
        Self { file: TextFile::new(path.into()), key: Box::new(key) }
    }

    file_options!();

    /// It may have no rows at all. Without it, an empty file is taken for half written.
    pub fn may_be_empty(mut self) -> Self {
        self.file.may_be_empty = true;
        self
    }
}

impl<K, R> fmt::Debug for JsonLines<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JsonLines").field(&self.file.path).finish()
    }
}

impl<K: Key, R> Outside for JsonLines<K, R>
where
    R: Serialize + DeserializeOwned + PartialEq + Clone + Send + Sync + 'static,
{
    type Key = K;
    type Row = R;

    fn pull(&self) -> Result<Pulled<K, R>, PullError> {
        let (bytes, as_of) = self.file.read()?;
        let lines = bytes.split(|byte| *byte == b'\n').enumerate();
        let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
        let row = |(index, line)| {
            let row: R = serde_json::from_slice(line).map_err(|error| misfit(index + 1, &error))?;
            Ok(((self.key)(&row), row))
        };
        let rows: Result<Vec<_>, PullError> = lines.map(row).collect();
        Ok(Pulled { as_of, rows: rows? })
    }
}

/// Its own words may quote the row.
fn misfit(line: usize, error: &serde_json::Error) -> PullError {
    let what = match error.classify() {
        Category::Data => "does not fit the type",
        Category::Eof => "ends early",
        Category::Syntax | Category::Io => "is not json",
    };
    PullError::Row { place: format!("line {line}"), why: format!("it {what} at column {}", error.column()) }
}
