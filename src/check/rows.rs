//! Rows of projections with one kind of key, side by side, and what is wrong with them.
//!
//! A predicate over rows is erased here to one over bytes: callers have row keys and rows as they are stored.

use crate::codec;
use crate::error::DecodeError;
use crate::key::{self, Key};
use crate::layout::Layout;
use crate::projection::{Projection, Registered};
use crate::value::Value;
use std::fmt::{self, Display, Write};
use std::marker::PhantomData;
use std::sync::Arc;

/// Projections with one kind of key, whose rows are looked at side by side: a tuple of one, two or three.
#[diagnostic::on_unimplemented(
    message = "rows of `{Self}` cannot be looked at side by side",
    label = "here is a tuple of one, two or three projections with the same key",
    note = "for one, write `(Name,)`"
)]
pub trait Join: 'static {
    /// The key that they share.
    type Key: Key;
    /// The row of each under one key, if there is one.
    type Rows<'a>;

    #[doc(hidden)]
    fn sides() -> Sides;

    /// Reads the rows and shows them to `look`.
    #[doc(hidden)]
    fn show(
        key: &Self::Key,
        rows: &[Option<&[u8]>],
        look: &dyn for<'a> Fn(&Self::Key, Self::Rows<'a>) -> bool,
    ) -> Result<bool, DecodeError>;
}

macro_rules! join {
    ($($projection:ident $row:ident $index:tt),+; $first:ident $(, $other:ident)*) => {
        impl<$first: Projection, $($other: Projection<Key = $first::Key>),*> Join for ($first, $($other,)*) {
            type Key = $first::Key;
            type Rows<'a> = ($(Option<&'a $projection::Row>,)+);

            fn sides() -> Sides {
                Sides(vec![$(Side::of::<$projection>()),+])
            }

            fn show(
                key: &Self::Key,
                rows: &[Option<&[u8]>],
                look: &dyn for<'a> Fn(&Self::Key, Self::Rows<'a>) -> bool,
            ) -> Result<bool, DecodeError> {
                $(let $row = rows[$index].map(codec::decode::<$projection::Row>).transpose()?;)+
                Ok(look(key, ($($row.as_ref(),)+)))
            }
        }
    };
}

join!(A a 0; A);
join!(A a 0, B b 1; A, B);
join!(A a 0, B b 1, C c 2; A, B, C);

/// The projections of a join.
#[doc(hidden)]
#[derive(Debug)]
pub struct Sides(Vec<Side>);

#[derive(Debug)]
struct Side {
    projection: Registered,
    /// Type name, as the setup writes it.
    type_name: &'static str,
    /// `None`: the setup refuses it in any case.
    layout: Option<Arc<Layout>>,
}

impl Side {
    fn of<P: Projection>() -> Self {
        let type_name = std::any::type_name::<P>();
        let projection = Registered::of::<P>();
        Self { type_name, layout: projection.row.clone(), projection }
    }
}

/// A predicate over rows of several projections, its types erased. Row keys are without the id of their projection.
pub(crate) trait Rowed: Send + Sync {
    /// Returns the projections whose rows it looks at, in its order.
    fn projections(&self) -> Vec<&Registered>;

    /// Returns whether its tables are folded from system events, too.
    fn folds_own(&self) -> bool {
        false
    }

    /// Returns the type name of one of the projections, as a setup names it.
    fn type_name(&self, index: usize) -> &'static str;

    /// Returns whether the rows of a key, one for each projection, are wrong. Panics if the predicate does.
    fn wrong(&self, key: &[u8], rows: &[Option<&[u8]>]) -> Result<bool, DecodeError>;

    /// Returns a key as people read it.
    fn key_text(&self, key: &[u8]) -> Result<String, DecodeError>;

    /// Returns a row of one of the projections as text, by field name.
    fn row_text(&self, index: usize, row: &[u8]) -> String;
}

/// Erases a predicate.
pub(crate) fn rowed<J: Join>(
    wrong: impl for<'a> Fn(&J::Key, J::Rows<'a>) -> bool + Send + Sync + 'static,
) -> impl Rowed + 'static {
    Joined::<J, _> { sides: J::sides(), wrong, join: PhantomData }
}

struct Joined<J, F> {
    sides: Sides,
    wrong: F,
    join: PhantomData<fn(J)>,
}

impl<J: Join, F: for<'a> Fn(&J::Key, J::Rows<'a>) -> bool + Send + Sync> Rowed for Joined<J, F> {
    fn projections(&self) -> Vec<&Registered> {
        self.sides.0.iter().map(|side| &side.projection).collect()
    }

    fn type_name(&self, index: usize) -> &'static str {
        self.sides.0[index].type_name
    }

    fn wrong(&self, key: &[u8], rows: &[Option<&[u8]>]) -> Result<bool, DecodeError> {
        J::show(&key::decode(key)?, rows, &self.wrong)
    }

    fn key_text(&self, key: &[u8]) -> Result<String, DecodeError> {
        key::text(&key::decode::<J::Key>(key)?)
    }

    fn row_text(&self, index: usize, row: &[u8]) -> String {
        let layout =
            self.sides.0[index].layout.as_ref().ok_or_else(|| DecodeError::new("its row has no layout"));
        match layout.and_then(|layout| layout.read(row)) {
            Ok(value) => DisplayValue(&value).to_string(),
            Err(error) => format!("a row that cannot be read: {error}"),
        }
    }
}

/// Returns a value as people read it.
pub(super) fn value_text(value: &Value) -> String {
    DisplayValue(value).to_string()
}

/// A value as people read it: `{cents: 500, to: "x"}`.
struct DisplayValue<'a>(&'a Value);

impl Display for DisplayValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("nothing"),
            Value::Bool(is) => is.fmt(f),
            Value::Int(number) => number.fmt(f),
            Value::UInt(number) => number.fmt(f),
            Value::Float(number) => number.fmt(f),
            Value::Text(text) => fmt::Debug::fmt(text, f),
            Value::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Value::List(list) => listed(f, '[', ']', list.iter().map(|item| (None, item))),
            Value::Map(entries) => listed(
                f,
                '{',
                '}',
                entries.iter().map(|(key, value)| (Some(DisplayValue(key).to_string()), value)),
            ),
            Value::Record(fields) => {
                listed(f, '{', '}', fields.iter().map(|(name, value)| (Some(name.to_string()), value)))
            }
            Value::Variant(name, content) if content.is_null() => f.write_str(name),
            Value::Variant(name, content) => write!(f, "{name} {}", DisplayValue(content)),
        }
    }
}

fn listed<'a>(
    f: &mut fmt::Formatter<'_>,
    open: char,
    close: char,
    items: impl Iterator<Item = (Option<String>, &'a Value)>,
) -> fmt::Result {
    f.write_char(open)?;
    for (index, (name, value)) in items.enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        if let Some(name) = name {
            write!(f, "{name}: ")?;
        }
        DisplayValue(value).fmt(f)?;
    }
    f.write_char(close)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::projection::{Folded, Rows};
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Nothing;

    impl Event for Nothing {
        const FAMILY: &'static str = "nothing";
        type Id = ();
        fn id(&self) {}
    }

    #[derive(Clone, Serialize, Deserialize)]
    struct Bill {
        cents: u64,
        to: Option<String>,
        lines: Vec<Line>,
    }

    #[derive(Clone, Serialize, Deserialize)]
    enum Line {
        Free,
        Paid { cents: u64 },
    }

    struct Bills;
    struct Active;

    impl Projection for Bills {
        const NAME: &'static str = "bills";
        type Event = Nothing;
        type Key = (u32, String);
        type Row = Bill;
        fn fold(_: &Nothing, _: &mut Rows<'_, Self>) -> Folded {
            Ok(())
        }
    }

    impl Projection for Active {
        const NAME: &'static str = "active";
        type Event = Nothing;
        type Key = (u32, String);
        type Row = bool;
        fn fold(_: &Nothing, _: &mut Rows<'_, Self>) -> Folded {
            Ok(())
        }
    }

    fn bytes(key: &(u32, String)) -> Vec<u8> {
        let mut out = Vec::new();
        key::encode(key, &mut out).expect("it is a key");
        out
    }

    #[test]
    fn predicate_gets_key_and_optional_rows() {
        let wrong = rowed::<(Active, Bills)>(|(number, _), (active, bill)| {
            *number == 7 && active == Some(&false) && bill.is_some_and(|bill| bill.cents > 3)
        });
        let (off, on) = (codec::encode(&false).expect("a row"), codec::encode(&true).expect("a row"));
        let bill = Bill { cents: 4, to: None, lines: Vec::new() };
        let bill = codec::encode(&bill).expect("a row");
        let key = bytes(&(7, "eu".into()));
        let ask = |rows: [Option<&[u8]>; 2]| wrong.wrong(&key, &rows).expect("rows are read");
        assert!(ask([Some(&off), Some(&bill)]));
        assert!(!ask([Some(&on), Some(&bill)]) && !ask([None, Some(&bill)]) && !ask([Some(&off), None]));
        assert!(!wrong.wrong(&bytes(&(8, "eu".into())), &[Some(&off), Some(&bill)]).expect("rows are read"));
        let names: Vec<_> = wrong.projections().iter().map(|projection| projection.name).collect();
        assert_eq!(names, ["active", "bills"]);
        assert_eq!(wrong.type_name(1).rsplit("::").next(), Some("Bills"));
    }

    #[test]
    fn malformed_row_or_key_is_reported() {
        let wrong = rowed::<(Bills,)>(|_, _| true);
        assert!(wrong.wrong(&bytes(&(7, "eu".into())), &[Some(&[9, 9, 9])]).is_err());
        assert!(wrong.wrong(&[1], &[None]).is_err());
        assert!(wrong.key_text(&[1]).is_err());
        assert!(wrong.row_text(0, &[9, 9, 9]).starts_with("a row that cannot be read: "));
    }

    #[test]
    fn row_text_names_its_fields() {
        let shown = rowed::<(Active, Bills)>(|_, _| false);
        let bill =
            Bill { cents: 12, to: Some("Ann".into()), lines: vec![Line::Free, Line::Paid { cents: 12 }] };
        let row = codec::encode(&bill).expect("a row");
        assert_eq!(shown.row_text(1, &row), r#"{cents: 12, to: "Ann", lines: [Free, Paid {cents: 12}]}"#);
        let nobody = codec::encode(&Bill { cents: 12, to: None, lines: Vec::new() }).expect("a row");
        assert_eq!(shown.row_text(1, &nobody), "{cents: 12, to: nothing, lines: []}");
        assert_eq!(shown.row_text(0, &codec::encode(&true).expect("a row")), "true");
        assert_eq!(shown.key_text(&bytes(&(7, "eu".into()))).expect("it is a key"), "7/eu");
    }
}
