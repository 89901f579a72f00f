//! SQLite files.

use super::KeyOf;
use super::absolute;
use super::cells::{Cell, Row};
use crate::check::{Column, Outside, PullError, Pulled};
use crate::key::Key;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A query of a SQLite file, which others may write meanwhile: it is opened for reading only, and read in one transaction.
///
/// The names of its columns and their declared types are on record with each snapshot; a later one without one of them, or with
/// another type, is refused.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tallystone::check::{Outside, PullError};
/// use tallystone::outside::SqliteQuery;
///
/// #[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
/// struct Invoice { product: u32, cents: u64, note: Option<String> }
///
/// let query = "SELECT product, cents, note FROM invoices WHERE paid IS NULL";
/// let invoices = SqliteQuery::new("no/such/file.db", query, |row: &Invoice| row.product);
///
/// // Example: it is never created.
/// assert!(matches!(invoices.pull(), Err(PullError::Unreachable(_))));
/// ```
pub struct SqliteQuery<K, R> {
    path: PathBuf,
    query: String,
    patience: Duration,
    key: KeyOf<K, R>,
}

impl<K: Key, R> SqliteQuery<K, R> {
    /// A file, a query whose columns are the fields of a row, and the key of a row.
    pub fn new(
        path: impl Into<PathBuf>,
        query: impl Into<String>,
        key: impl Fn(&R) -> K + Send + Sync + 'static,
    ) -> Self {
        let patience = Duration::from_secs(5);
        Self { path: absolute(path.into()), query: query.into(), patience, key: Box::new(key) }
    }

    /// Maximum time to wait for a lock that others hold. Default 5 seconds.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl<K, R> fmt::Debug for SqliteQuery<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteQuery").field(&self.path).field(&self.query).finish()
    }
}

impl<K: Key, R> Outside for SqliteQuery<K, R>
where
    R: Serialize + DeserializeOwned + PartialEq + Clone + Send + Sync + 'static,
{
    type Key = K;
    type Row = R;

    fn pull(&self) -> Result<Pulled<K, R>, PullError> {
        let unread = |error| self.unread(&error);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let file = Connection::open_with_flags(&self.path, flags).map_err(unread)?;
        file.busy_timeout(self.patience).map_err(unread)?;
        // The first statement pins the schema: columns that are asked for before the rows are read are those of the rows.
        let file = file.unchecked_transaction().map_err(unread)?;
        file.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(unread)?;
        let mut query = file.prepare(&self.query).map_err(unread)?;
        if !query.readonly() {
            return Err(PullError::Unreachable("the query writes".into()));
        }
        let columns: Vec<Column> = query.columns().map(|of| column(&of)).collect();
        let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        if let Some((_, twice)) =
            names.iter().enumerate().find(|(index, name)| names[..*index].contains(name))
        {
            let why = format!("two columns are called `{twice}`");
            return Err(PullError::Row { place: "its columns".into(), why });
        }
        let (mut answer, mut rows) = (query.query([]).map_err(unread)?, Vec::new());
        while let Some(found) = answer.next().map_err(unread)? {
            let row: R = read(&names, found)
                .map_err(|why| PullError::Row { place: format!("row {}", rows.len() + 1), why })?;
            rows.push(((self.key)(&row), row));
        }
        Ok(Pulled::new(rows).columns(columns))
    }
}

fn column(of: &rusqlite::Column<'_>) -> Column {
    let column = Column::new(of.name());
    match of.decl_type() {
        Some(kind) => column.typed(kind.to_uppercase()),
        None => column,
    }
}

impl<K, R> SqliteQuery<K, R> {
    fn unread(&self, error: &Error) -> PullError {
        let why = format!("{}: {error}", self.path.display());
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => PullError::Unfinished(why),
            _ => PullError::Unreachable(why),
        }
    }
}

fn read<R: DeserializeOwned>(names: &[String], row: &rusqlite::Row<'_>) -> Result<R, String> {
    let mut cells = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let cell = match row.get_ref(index).map_err(|error| error.to_string())? {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(value) => Cell::Int(value),
            ValueRef::Real(value) => Cell::Real(value),
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Cell::Text(text),
                Err(_) => return Err(format!("field `{name}`: it is not utf-8")),
            },
            ValueRef::Blob(bytes) => Cell::Blob(bytes),
        };
        cells.push((name.as_str(), cell));
    }
    R::deserialize(Row::new(&cells)).map_err(|error| error.to_string())
}
