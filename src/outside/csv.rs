//! CSV files with a header.

use super::KeyOf;
use super::cells::{Cell, Row};
use super::file::{TextFile, file_options};
use crate::check::{Column, Outside, PullError, Pulled};
use crate::key::Key;
use csv::{ByteRecord, ReaderBuilder, StringRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::path::PathBuf;

/// A CSV file whose first line names the columns. It is read whole, into memory.
///
/// What is between two commas is text, and a number where the field is one; a field that may be missing (`Option`) is missing
/// where nothing is between them. Nothing else stands for nothing: `NA` is a text.
///
/// Its header is on record with each snapshot. A later one without one of those columns is refused, and not read as missing fields.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tallystone::check::{Outside, PullError};
/// use tallystone::outside::CsvFile;
///
/// #[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
/// struct Invoice { product: u32, cents: u64 }
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("invoices.csv");
/// std::fs::write(&path, "product,cents\n7,500\n8,9").unwrap();
/// let invoices = CsvFile::new(&path, |row: &Invoice| row.product);
///
/// // Example: the last line does not end, so somebody may be writing it.
/// assert!(matches!(invoices.pull(), Err(PullError::Unfinished(_))));
/// ```
pub struct CsvFile<K, R> {
    file: TextFile,
    delimiter: u8,
    key: KeyOf<K, R>,
}

impl<K: Key, R> CsvFile<K, R> {
    /// A file, and the key of a row.
    pub fn new(path: impl Into<PathBuf>, key: impl Fn(&R) -> K + Send + Sync + 'static) -> Self {
        Self { file: TextFile::new(path.into()), delimiter: b',', key: Box::new(key) }
    }

    file_options!();

    /// Separator between two fields. Default a comma.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }
}

impl<K, R> fmt::Debug for CsvFile<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CsvFile").field(&self.file.path).finish()
    }
}

impl<K: Key, R> Outside for CsvFile<K, R>
where
    R: Serialize + DeserializeOwned + PartialEq + Clone + Send + Sync + 'static,
{
    type Key = K;
    type Row = R;

    fn pull(&self) -> Result<Pulled<K, R>, PullError> {
        let (mut bytes, as_of) = self.file.read()?;
        if bytes.is_empty() {
            return Err(PullError::Unfinished("it is empty, and has no header".into()));
        }
        if !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        let columns = self.columns(&bytes)?;
        // A quote that does not end would swallow this line, too.
        let mut end = vec![self.delimiter; columns.len() - 1];
        end.splice(0..0, *END);
        bytes.extend_from_slice(&end);
        bytes.push(b'\n');
        let mut reader =
            ReaderBuilder::new().delimiter(self.delimiter).flexible(true).from_reader(&bytes[..]);
        let (mut rows, mut record, mut has_ended, mut wrong) = (Vec::new(), ByteRecord::new(), false, None);
        while reader.read_byte_record(&mut record).map_err(|error| misread(&error))? {
            has_ended = record.as_slice() == END;
            if has_ended || wrong.is_some() {
                continue;
            }
            match read::<R>(&columns, &record) {
                Ok(row) => rows.push(((self.key)(&row), row)),
                Err(why) => wrong = Some((record.position().map_or(0, csv::Position::line), why)),
            }
        }
        match wrong {
            _ if !has_ended => Err(PullError::Unfinished("a quote does not end".into())),
            Some((line, why)) => Err(PullError::Row { place: at(line), why }),
            None => Ok(Pulled { as_of, rows, columns: columns.iter().map(Column::new).collect() }),
        }
    }

    fn may_be_empty(&self) -> bool {
        self.file.may_be_empty
    }
}

/// No field of a text file is this.
const END: &[u8; 2] = b"\x00\x17";

impl<K, R> CsvFile<K, R> {
    fn columns(&self, bytes: &[u8]) -> Result<StringRecord, PullError> {
        let mut reader = ReaderBuilder::new().delimiter(self.delimiter).from_reader(bytes);
        let columns = reader.headers().map_err(|error| misread(&error))?.clone();
        match columns.iter().enumerate().find(|(index, name)| columns.iter().take(*index).any(|n| n == *name))
        {
            Some((_, twice)) => {
                Err(PullError::Row { place: at(1), why: format!("two columns are called `{twice}`") })
            }
            None if columns.is_empty() => {
                Err(PullError::Row { place: at(1), why: "there are no columns".into() })
            }
            None => Ok(columns),
        }
    }
}

fn read<R: DeserializeOwned>(columns: &StringRecord, record: &ByteRecord) -> Result<R, String> {
    if record.len() != columns.len() {
        return Err(format!("it has {} fields, the first line has {}", record.len(), columns.len()));
    }
    let mut cells = Vec::with_capacity(record.len());
    for (name, bytes) in columns.iter().zip(record) {
        let text = std::str::from_utf8(bytes).map_err(|_| format!("field `{name}`: it is not utf-8"))?;
        cells.push((name, Cell::Plain(text)));
    }
    R::deserialize(Row::new(&cells)).map_err(|error| error.to_string())
}

fn misread(error: &csv::Error) -> PullError {
    let line = error.position().map_or(0, csv::Position::line);
    let is_text = !matches!(error.kind(), csv::ErrorKind::Utf8 { .. });
    let why = if is_text { "it is not csv" } else { "it is not utf-8" }.to_owned();
    PullError::Row { place: at(line), why }
}

fn at(line: u64) -> String {
    format!("line {line}")
}
