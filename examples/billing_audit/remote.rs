//! The billing system of somebody else: a SQLite file, which they write and we read.

use crate::Result;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tallystone::outside::SqliteQuery;

/// What they bill for a product each month.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Invoice {
    pub product: u64,
    pub cents: i64,
}

/// Their side.
pub struct Remote {
    file: Connection,
    path: PathBuf,
}

impl Remote {
    pub fn create(path: &Path) -> Result<Self> {
        let file = Connection::open(path)?;
        // Theirs is to be read, not to outlive this machine.
        file.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
             CREATE TABLE billing (id INTEGER PRIMARY KEY, product INTEGER NOT NULL, cents INTEGER NOT NULL);
             CREATE INDEX by_product ON billing (product);",
        )?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// They know no idempotency keys: asked twice, they bill twice.
    pub fn start(&self, product: u64, cents: i64) -> Result<()> {
        let mut start = self.file.prepare("INSERT INTO billing (product, cents) VALUES (?1, ?2)")?;
        start.execute(params![product as i64, cents])?;
        Ok(())
    }

    pub fn end(&self, product: u64) -> Result<()> {
        self.file.prepare("DELETE FROM billing WHERE product = ?1")?.execute(params![product as i64])?;
        Ok(())
    }

    /// What we are allowed to read of it.
    pub fn evidence(&self) -> SqliteQuery<u64, Invoice> {
        let query = "SELECT product, SUM(cents) AS cents FROM billing GROUP BY product";
        SqliteQuery::new(&self.path, query, |invoice: &Invoice| invoice.product)
    }
}
