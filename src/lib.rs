//! An embedded, event-sourced consistency store: events are claims, and this store keeps proving them against the work.
//!
//! A service opens a store in its own process, and gets
//!
//! - **appends** of typed events with idempotency keys, under strictly serializable single-writer commits;
//! - **projections** that derive rows from events, in the same commit or catching up behind it;
//! - **views**: consistent reads of events and rows at one position, that never block the writer;
//! - **subscriptions**: all events from a position on, then those that come;
//! - **checks**: what must stay true of the events, judged behind the writer; violations are recorded, explained and followed up;
//! - **`verify`**: log, indexes, keys and rows compared with one another, and **`recover`** after the disk has failed.
//!
//! One commit makes the key, its answer, the events and the rows durable together. Everything but the log is derived, and can be
//! thrown away: it is folded from the log again.
//!
//! # A first store
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tallystone::prelude::*;
//!
//! // A serde enum (or struct) is a family of events. Names and layouts come from the derive.
//! #[derive(Serialize, Deserialize)]
//! enum Seat {
//!     Taken { seat: u32, by: String },
//!     Freed { seat: u32 },
//! }
//! impl Event for Seat {
//!     const FAMILY: &str = "seat";
//!     type Id = u32;
//!     fn id(&self) -> u32 {
//!         let (Seat::Taken { seat, .. } | Seat::Freed { seat }) = self;
//!         *seat
//!     }
//! }
//!
//! // Rows folded from them, in the same commit. A fold may refuse.
//! struct Plan;
//! impl Projection for Plan {
//!     const NAME: &str = "plan";
//!     type Event = Seat;
//!     type Key = u32;
//!     type Row = String;
//!     fn fold(event: &Seat, rows: &mut Rows<Self>) -> Folded {
//!         match event {
//!             Seat::Taken { seat, .. } if rows.get(seat)?.is_some() => Err(FoldError::refuse("taken")),
//!             Seat::Taken { seat, by } => rows.put(*seat, by.clone()),
//!             Seat::Freed { seat } => rows.remove(seat),
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Error> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("theatre");
//! let store = Store::open_or_create(&path, Setup::new().inline::<Plan>())?;
//! let take = |by: &str| Append::event(Seat::Taken { seat: 7, by: by.into() });
//!
//! // The client may ask again as often as it likes: it is done once.
//! let first = store.append(take("ana").key("ana", "request-1"))?;
//! let again = store.append(take("ana").key("ana", "request-1"))?;
//! assert!(again.replayed && again.receipt == first.receipt);
//!
//! // Example: the fold refuses, and nothing is written.
//! let refused = store.append(take("bo").key("bo", "request-1"));
//! assert!(matches!(refused, Err(AppendError::Fold { projection: "plan", .. })));
//!
//! let view = store.view()?;
//! assert_eq!(view.row::<Plan>(&7)?.as_deref(), Some("ana"));
//! for event in view.query::<Seat>(QueryItem::family::<Seat>().only(["Taken"])) {
//!     println!("position {}", event?.position);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it is not
//!
//! One process at a time, one writer, no server, no query language. Effects and processes come next and are not here yet; of the
//! checks, those over sequences of events are.
//!
//! # Features
//!
//! - `csv`, `sqlite`: outside evidence from such files.
//! - `json`: raw appends of JSON by type name, payloads shown as JSON; outside evidence from JSON lines.
//! - `rules`: checks in TOML files.
//! - `stream`: subscriptions are `futures_core::Stream`s.
//! - `tracing`: alerts as `tracing` events.
//! - `zones`: checks by the calendar of a time zone.
//! - `testing`: a simulated disk with power cuts and faults, a clock that tests move, a reference model.

// Values: what crosses the API.
pub mod order;
pub(crate) mod misfit;
pub(crate) mod reflect;
pub(crate) mod key;
pub(crate) mod codec;
pub(crate) mod canonical;
pub mod value;
pub mod layout;
pub(crate) mod upcast;
pub mod event;
pub mod query;
pub mod request;
pub(crate) mod options;
pub mod error;
pub(crate) mod own;
pub(crate) mod budget;

// The seams to everything outside.
pub(crate) mod sync;
#[cfg(feature = "testing")]
pub mod disk;
#[cfg(not(feature = "testing"))]
pub(crate) mod disk;
pub(crate) mod reentry;
pub(crate) mod wakers;

// Ground, and what is derived from it.
pub(crate) mod log;
pub(crate) mod state;

// Rules: what one commit must do or respect.
pub(crate) mod idempotency;
pub mod projection;
pub mod check;
pub(crate) mod guard;
pub(crate) mod episode;
pub(crate) mod evidence;
pub(crate) mod alerting;
pub(crate) mod routed;
pub(crate) mod rule_texts;
pub(crate) mod skip;
pub(crate) mod notification;

// The path of a commit.
pub mod setup;
pub(crate) mod commit;
pub(crate) mod writer;

// Behind it, and before it.
pub(crate) mod recovery;
pub(crate) mod behind;
pub mod view;
pub mod transaction;
pub(crate) mod verify;
pub mod audit;
pub mod subscription;
pub mod watch;
pub mod inspect;
pub mod store;
pub mod outside;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::Error;
pub use inspect::Inspect;
pub use options::Options;
pub use order::{CommitNo, Position, Timestamp};
pub use setup::Setup;
pub use store::Store;
pub use verify::{Bad, VerifyReport};

/// Types, traits and functions that most programs need.
pub mod prelude {
    pub use crate::error::{AppendError, Error, Fault, FoldError, OpenError, ReadError, TxError};
    pub use crate::event::{Event, EventSet, Raw, Sequenced, Tags};
    pub use crate::order::Position;
    pub use crate::projection::{Folded, Projection, Rows};
    pub use crate::query::{Query, QueryItem};
    pub use crate::request::{Append, Committed, Expected, Receipt, Request};
    pub use crate::setup::Setup;
    pub use crate::store::Store;
    pub use crate::subscription::Subscription;
    pub use crate::transaction::{Decision, Tx, refuse};
    pub use crate::view::View;
}

/// The README's example runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
