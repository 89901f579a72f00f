//! The work of one commit: a key looked up and stored, an answer stored, an event of 128 bytes in one of 10,000 streams
//! with two tags (of 10,000 and 5,000), and one of 10,000 rows read, changed and written.
//!
//! - Everything about a commit follows from its number, so both engines and all threads can be given the same work.
//! - Keys are spread at random and never repeat.

use serde::{Deserialize, Serialize};
use std::ops::Range;
use tallystone::Options;
use tallystone::prelude::*;

pub const STREAMS: u64 = 10_000;
pub const ROWS: u64 = 10_000;
/// Of a `Moved`, encoded: two ids, the amount, and the note with its length.
pub const PAYLOAD_BYTES: usize = 128;
const NOTE_BYTES: usize = PAYLOAD_BYTES - 4 - 4 - 8 - 8;
const NOTE: &str = "moved by the bench, which has nothing more to say about it than what it takes to fill \
                    the bytes that are left over here for it";
const SCOPE: &str = "bench";

/// The family of the bench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Stock {
    Moved { bin: u32, product: u32, amount: i64, note: String },
    Counted { bin: u32, amount: i64 },
}

impl Event for Stock {
    const FAMILY: &'static str = "stock";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Stock::Moved { bin, .. } | Stock::Counted { bin, .. }) = self;
        *bin
    }

    fn tags(&self) -> Tags {
        match self {
            Stock::Moved { bin, product, .. } => {
                Tags::of("product", product).and("carrier", u64::from(*bin) / 2)
            }
            Stock::Counted { .. } => Tags::none(),
        }
    }
}

/// What each product has moved.
pub struct Totals;

/// A row of `Totals`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    pub amount: i64,
    pub moves: u64,
}

impl Projection for Totals {
    const NAME: &'static str = "totals";
    type Event = Stock;
    type Key = u32;
    type Row = Total;

    fn fold(event: &Stock, rows: &mut Rows<'_, Self>) -> Folded {
        let Stock::Moved { product, amount, .. } = event else { return Ok(()) };
        rows.update(*product, |total| {
            total.amount += amount;
            total.moves += 1;
        })
    }
}

pub fn setup() -> Setup {
    Setup::new().inline::<Totals>().options(options())
}

pub fn options() -> Options {
    let raw = event(0).encode().expect("the event is plain data");
    assert_eq!(raw.data().len(), PAYLOAD_BYTES, "the workload is what it says it is");
    let mut options = Options::default();
    options.state_cache_bytes = super::state_cache_bytes();
    options
}

/// Spreads numbers over 64 bits; one to one.
pub fn spread(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

pub fn event(number: u64) -> Stock {
    event_in(number, STREAMS)
}

/// An event in one of so many streams.
pub fn event_in(number: u64, streams: u64) -> Stock {
    let bits = spread(number);
    Stock::Moved {
        bin: (bits % streams) as u32,
        product: ((bits >> 20) % ROWS) as u32,
        amount: (bits >> 48) as i64,
        note: NOTE[..NOTE_BYTES].to_owned(),
    }
}

/// One keyed commit with these events.
pub fn append(numbers: Range<u64>) -> Append {
    keyed(numbers.start, Append::events(numbers.map(event)))
}

/// The same append under the key and with the answer of a number.
pub fn keyed(number: u64, append: Append) -> Append {
    let first = spread(number);
    append.key(SCOPE, format!("{first:016x}")).response(first.to_le_bytes())
}
