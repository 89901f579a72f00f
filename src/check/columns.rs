//! Columns of a source outside: a snapshot that lacks one reads as if its values were empty.
//!
//! - A snapshot is compared with the columns on record. One that is gone or has another type refuses it; an added one does not.
//! - A name that is a field of the row but for case or spaces is refused at once: serde would read the field as missing.

use super::outside::PullError;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use std::fmt;

/// A column of a source outside, as a snapshot shows it.
///
/// ```
/// use tallystone::check::{Column, Pulled};
///
/// let columns = [Column::new("product"), Column::new("cents").typed("INTEGER"), Column::new("note").optional()];
/// let pulled = Pulled::new(vec![(7_u32, 500_u64)]).columns(columns);
/// assert_eq!(pulled.columns[1].to_string(), "`cents` INTEGER");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// Name, exactly as the source has it.
    pub name: String,
    /// Declared type, if the source declares one.
    pub kind: Option<String>,
    /// True if a snapshot may lack it: some rows do not have it.
    pub is_optional: bool,
}

impl Column {
    /// Creates a column that every snapshot has.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: None, is_optional: false }
    }

    /// Adds the type that the source declares. A snapshot with another one is refused.
    pub fn typed(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Lets later snapshots lack it.
    pub fn optional(mut self) -> Self {
        self.is_optional = true;
        self
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.name)?;
        self.kind.as_ref().map_or(Ok(()), |kind| write!(f, " {kind}"))
    }
}

/// Columns as they are recorded: name, declared type, and true if a snapshot may lack it.
pub(crate) type Recorded = Vec<(String, Option<String>, bool)>;

pub(crate) fn to_record(columns: &[Column]) -> Recorded {
    columns.iter().map(|column| (column.name.clone(), column.kind.clone(), column.is_optional)).collect()
}

pub(crate) fn of_record(columns: Recorded) -> Vec<Column> {
    let column = |(name, kind, is_optional)| Column { name, kind, is_optional };
    columns.into_iter().map(column).collect()
}

/// Compares the columns of a snapshot with those on record. A snapshot that says none is not compared.
///
/// # Errors
///
/// `PullError::Columns` if one is gone or has another type.
pub(crate) fn compare(before: &[Column], now: &[Column]) -> Result<(), PullError> {
    if now.is_empty() {
        return Ok(());
    }
    let find = |among: &[Column], name: &str| among.iter().find(|column| column.name == name).cloned();
    let (mut gone, mut changed) = (Vec::new(), Vec::new());
    for was in before {
        match find(now, &was.name) {
            None if !was.is_optional => gone.push(was.name.clone()),
            Some(is) if was.kind.is_some() && is.kind != was.kind => {
                let kind = is.kind.unwrap_or_else(|| "none".to_owned());
                changed.push((was.name.clone(), was.kind.clone().unwrap_or_default(), kind));
            }
            _ => {}
        }
    }
    if gone.is_empty() && changed.is_empty() {
        return Ok(());
    }
    let added = now.iter().filter(|column| find(before, &column.name).is_none());
    Err(PullError::Columns { gone, changed, added: added.map(|column| column.name.clone()).collect() })
}

/// Returns a difference between columns as text.
pub(super) fn difference(gone: &[String], changed: &[(String, String, String)], added: &[String]) -> String {
    let named =
        |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let retyped = changed.iter().map(|(name, was, is)| format!("`{name}` from {was} to {is}"));
    let parts = [
        ("gone", named(gone)),
        ("of another type", retyped.collect::<Vec<_>>().join(", ")),
        ("added", named(added)),
    ];
    let said = parts.iter().filter(|(_, names)| !names.is_empty());
    said.map(|(what, names)| format!("{what}: {names}")).collect::<Vec<_>>().join("; ")
}

/// Compares the names of columns with the fields of a row.
///
/// # Errors
///
/// `PullError::Row` if a column is no field, but would be one with other case or without spaces, and that field has no column.
pub(crate) fn check_names<R: for<'de> Deserialize<'de>>(columns: &[Column]) -> Result<(), PullError> {
    if columns.is_empty() {
        return Ok(());
    }
    let fields = fields_of::<R>();
    let is_column = |field: &str| columns.iter().any(|column| column.name == field);
    for Column { name, .. } in columns.iter().filter(|column| !fields.contains(&column.name.as_str())) {
        let is_like = |field: &&&str| name.trim().to_lowercase() == field.to_lowercase() && !is_column(field);
        if let Some(field) = fields.iter().find(is_like) {
            let why = format!("`{name}` is not the field `{field}`: let one have the name of the other");
            return Err(PullError::Row { place: "its columns".into(), why });
        }
    }
    Ok(())
}

/// Names by which serde finds the fields of a struct, aliases too. None for any other type, and for a struct with flattened fields.
fn fields_of<R: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    R::deserialize(FieldProbe).err().map_or(&[], |Asked(fields)| fields)
}

/// Learns which fields a type asks for.
struct FieldProbe;

/// Fields that were asked for.
#[derive(Debug)]
struct Asked(&'static [&'static str]);

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields")
    }
}

impl std::error::Error for Asked {}

impl de::Error for Asked {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for FieldProbe {
    type Error = Asked;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Asked> {
        Err(Asked(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Asked> {
        Err(Asked(fields))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Asked> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(before: &[Column], now: &[Column]) -> String {
        compare(before, now).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn only_removed_or_retyped_columns_are_refused() {
        let before = [Column::new("a").typed("INTEGER"), Column::new("b"), Column::new("c").optional()];
        assert_eq!(compared(&before, &before), "");
        assert_eq!(compared(&before, &[]), "", "nothing is said");
        let [a, b, c] = before.clone();
        assert_eq!(compared(&before, &[b.clone(), Column::new("d"), a.clone()]), "");
        // A column without a type may get one later.
        assert_eq!(compared(&before, &[a.clone(), b.clone().typed("TEXT"), c.clone()]), "");
        let gone = compared(&before, &[a, Column::new(" b"), c.clone()]);
        assert!(gone.starts_with("its columns are not those on record: gone: `b`; added: ` b`: "), "{gone}");
        let retyped = compared(&before, &[Column::new("a").typed("TEXT"), b.clone()]);
        assert!(retyped.contains("of another type: `a` from INTEGER to TEXT: "), "{retyped}");
        let untyped = compared(&before, &[Column::new("a"), b]);
        assert!(untyped.contains("`a` from INTEGER to none: "), "{untyped}");
    }

    #[test]
    fn column_with_wrong_case_or_spaces_is_refused() {
        #[derive(Deserialize)]
        #[allow(dead_code, reason = "only its fields count")]
        struct Invoice {
            product: String,
            #[serde(alias = "Remark")]
            note: Option<String>,
        }
        let checked = |names: &[&str]| {
            let columns: Vec<_> = names.iter().map(|name| Column::new(*name)).collect();
            check_names::<Invoice>(&columns).err().map(|error| error.to_string())
        };
        assert_eq!(checked(&["product", "note", "NOTE", "more"]), None, "the field has its column");
        assert_eq!(checked(&["product", "Remark"]), None, "an alias is a name");
        for name in [" note", "Note", "NOTE\t"] {
            let why =
                format!("its columns: `{name}` is not the field `note`: let one have the name of the other");
            assert_eq!(checked(&["product", name]), Some(why));
        }
        assert!(check_names::<u64>(&[Column::new("Note")]).is_ok());
    }
}
