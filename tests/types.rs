//! Types of events and rows at the boundary: two types under one name, values that a store could not keep apart, and names
//! that are the store's own.

use serde::{Deserialize, Serialize};
use tallystone::event::Upcasts;
use tallystone::prelude::*;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Money {
    Paid { from: u32, to: u32, cents: u64 },
}

impl Event for Money {
    const FAMILY: &str = "money";
    type Id = ();
    fn id(&self) {}
}

fn paid() -> Money {
    Money::Paid { from: 1, to: 2, cents: 500 }
}

/// Other types under the same family's name.
mod other {
    use super::*;

    macro_rules! money {
        ($name:ident { $($field:ident: $type:ty),+ }) => {
            pub mod $name {
                use super::*;
                #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
                pub enum Money {
                    Paid { $($field: $type),+ },
                }
                impl Event for Money {
                    const FAMILY: &str = "money";
                    type Id = ();
                    fn id(&self) {}
                }
            }
        };
    }
    money! { swapped { to: u32, from: u32, cents: u64 } }
    money! { shorter { from: u32, cents: u64 } }
    money! { same { from: u32, to: u32, cents: u64 } }

    /// The registered type, one version on.
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    pub enum Later {
        Paid { cents: u64 },
    }
    impl Event for Later {
        const FAMILY: &str = "money";
        type Id = ();
        fn id(&self) {}
        fn upcasts() -> Upcasts<Self> {
            #[derive(Serialize, Deserialize)]
            struct PaidV1 {
                #[allow(dead_code, reason = "it was written, and is read no more")]
                from: u32,
                #[allow(dead_code, reason = "it was written, and is read no more")]
                to: u32,
                cents: u64,
            }
            Upcasts::none().last("Paid", 1, |old: PaidV1| Later::Paid { cents: old.cents })
        }
    }
}

fn store_of_money() -> Store {
    let store = Store::in_memory(Setup::new().events::<Money>()).expect("the setup is right");
    store.append(Append::event(paid())).expect("it is registered");
    store
}

fn assert_names_both(missing: &tallystone::error::Missing, layout: &str) {
    let text = missing.to_string();
    assert!(text.contains("types::Money") && text.contains("other::"), "{text}");
    assert!(text.contains("{from:u32,to:u32,cents:u64}") && text.contains(layout), "{text}");
}

/// Was accepted, and read back with its fields swapped, or never again.
#[test]
fn an_append_of_another_type_under_a_familys_name_is_refused() {
    let store = store_of_money();
    let swapped = other::swapped::Money::Paid { to: 2, from: 1, cents: 500 };
    let shorter = other::shorter::Money::Paid { from: 1, cents: 500 };
    for (append, layout) in [
        (Append::event(swapped.clone()), "{to:u32,from:u32,cents:u64}"),
        (Append::event(shorter.clone()), "{from:u32,cents:u64}"),
        (
            Append::raw(tallystone::event::EventSet::encode(&shorter).expect("it is an event")),
            "{from:u32,cents:u64}",
        ),
    ] {
        match store.append(append) {
            Err(AppendError::Unregistered(missing)) => assert_names_both(&missing, layout),
            other => panic!("{other:?}"),
        }
    }
    let transacted = store.transact("pay", |tx| -> Decision { Ok(tx.append(swapped.clone())?) });
    match transacted {
        Err(TxError::Unregistered(missing)) => assert_names_both(&missing, "{to:u32,from:u32,cents:u64}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.view().expect("it is open").query::<Money>(Query::all()).count(), 1);
}

#[test]
fn a_read_as_another_type_under_a_familys_name_is_refused() {
    use other::swapped::Money as Swapped;
    let store = store_of_money();
    let view = store.view().expect("it is open");
    let refused = |next: Option<Result<Sequenced<Swapped>, ReadError>>| match next {
        Some(Err(ReadError::Unregistered(missing))) => {
            assert_names_both(&missing, "{to:u32,from:u32,cents:u64}")
        }
        other => panic!("{other:?}"),
    };
    refused(view.query::<Swapped>(Query::all()).next());
    refused(view.stream::<Swapped>(&()).next());
    refused(store.subscribe::<Swapped>(Query::all(), Position::START).next());
    let read =
        store.transact("read", |tx| -> Decision { tx.stream::<Swapped>(&()).map(drop).map_err(Into::into) });
    assert!(matches!(read, Err(TxError::Unregistered(_))), "{read:?}");
}

#[test]
fn another_type_with_the_same_layout_is_the_same_event() {
    let store = store_of_money();
    let same = other::same::Money::Paid { from: 1, to: 2, cents: 500 };
    store.append(Append::event(same.clone())).expect("its bytes mean the same");
    let view = store.view().expect("it is open");
    assert!(view.query::<Money>(Query::all()).all(|event| event.is_ok_and(|event| event.event == paid())));
    assert!(
        view.query::<other::same::Money>(Query::all())
            .all(|event| event.is_ok_and(|event| event.event == same))
    );
}

#[test]
fn an_older_type_with_a_step_from_it_is_appended_and_upcast() {
    let store = Store::in_memory(Setup::new().events::<other::Later>()).expect("the setup is right");
    store.append(Append::event(paid())).expect("there is a step from version 1");
    let read: Vec<_> = store.view().expect("it is open").query::<other::Later>(Query::all()).collect();
    assert!(matches!(&read[..], [Ok(event)] if event.event == other::Later::Paid { cents: 500 }), "{read:?}");
}
