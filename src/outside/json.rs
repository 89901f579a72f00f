//! JSON lines: a row on each line.

use super::KeyOf;
use super::file::{TextFile, file_options};
use crate::check::{Column, Outside, PullError, Pulled};
use crate::key::Key;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// A file with a JSON value on each line. It is read whole, into memory.
///
/// The names of its fields are on record with each snapshot: see [`may_lack`](JsonLines::may_lack).
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
    /// Fields that a snapshot may lack.
    may_lack: Vec<String>,
}

impl<K: Key, R> JsonLines<K, R> {
    /// A file, and the key of a row.
    pub fn new(path: impl Into<PathBuf>, key: impl Fn(&R) -> K + Send + Sync + 'static) -> Self {
        Self { file: TextFile::new(path.into()), key: Box::new(key), may_lack: Vec::new() }
    }

    file_options!();

    /// All rows may lack this field. Without it, a snapshot is refused if a field is gone that every row had in the one before.
    pub fn may_lack(mut self, field: impl Into<String>) -> Self {
        self.may_lack.push(field.into());
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
        // A file that is written from its beginning is empty first.
        if bytes.is_empty() && !self.file.may_be_empty {
            return Err(PullError::Unfinished(
                "it is empty: say `may_be_empty` of the file if it may be".into(),
            ));
        }
        let lines = bytes.split(|byte| *byte == b'\n').enumerate();
        let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
        let (mut rows, mut counts) = (Vec::new(), BTreeMap::new());
        for (index, line) in lines {
            let row: R = serde_json::from_slice(line).map_err(|error| misfit(index + 1, &error))?;
            rows.push(((self.key)(&row), row));
            names(line).into_iter().for_each(|name| *counts.entry(name).or_insert(0) += 1);
        }
        let column = |(name, count): (String, usize)| {
            let is_optional = count < rows.len() || self.may_lack.contains(&name);
            if is_optional { Column::new(name).optional() } else { Column::new(name) }
        };
        Ok(Pulled { as_of, columns: counts.into_iter().map(column).collect(), rows })
    }

    fn may_be_empty(&self) -> bool {
        self.file.may_be_empty
    }
}

/// Names of the fields of an object. A row that is none has no names.
fn names(line: &[u8]) -> Vec<String> {
    let fields = serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(line);
    fields.map(|fields| fields.into_keys().collect()).unwrap_or_default()
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
