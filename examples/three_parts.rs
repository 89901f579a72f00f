//! Why data goes wrong, how that is prevented, and how it is detected: a product is sold and has to be billed.
//!
//! ```sh
//! cargo run --example three_parts
//! ```
//!
//! - **Cause**: sold and billed are two commits. The power is cut at each call to the disk in turn; between the two, a product is
//!   there and its bill is not.
//! - **Prevention**: they are one commit. At no call is there one without the other.
//! - **Detection**: not everything fits one commit. A check waits for the bill as long as it may take, and tells.
//!
//! The three parts are those of Amy Unger, *Beyond validates_presence_of* (RailsConf 2017).

use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tallystone::check::{About, Check, Severity};
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::testing::{ImagePolicy, SimClock, SimDisk, SimEntropy};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Debug, Serialize, Deserialize)]
enum Product {
    Sold { product: u32 },
    Billed { product: u32, cents: i64 },
}

use Product::{Billed, Sold};

impl Event for Product {
    const FAMILY: &'static str = "product";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Sold { product } | Billed { product, .. }) = self;
        *product
    }
}

const QUARTER: Duration = Duration::from_secs(15 * 60);

fn main() -> ExitCode {
    match three_parts() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("three_parts: {error}");
            ExitCode::FAILURE
        }
    }
}

fn three_parts() -> Result<()> {
    let (half, cuts) = sell_at_every_cut(|store| {
        store.append(Append::event(Sold { product: 7 }))?;
        store.append(Append::event(Billed { product: 7, cents: 500 }))?;
        Ok(())
    })?;
    writeln!(
        io::stdout(),
        "cause: the power is cut at {cuts} calls; at {} of them, a product is sold and not billed",
        half.len()
    )?;

    let (none, cuts) = sell_at_every_cut(|store| {
        store.append(Append::events([Sold { product: 7 }, Billed { product: 7, cents: 500 }]))?;
        Ok(())
    })?;
    writeln!(
        io::stdout(),
        "prevention: as one commit, the power is cut at {cuts} calls; at {} of them",
        none.len()
    )?;

    let (disk, clock) = half.into_iter().next().ok_or("nothing was ever lost")?;
    let store = Store::open("/shop", setup(&disk, &clock).check(billed()))?;
    let found = |store: &Store| -> Result<usize> {
        while store.checks().stats().iter().any(|check| !check.is_settled()) {
            store.step();
        }
        Ok(store.checks().open()?.len())
    };
    clock.advance(QUARTER - Duration::from_secs(60));
    store.step();
    let in_time = found(&store)?;
    clock.advance(Duration::from_secs(61));
    store.step();
    let late = found(&store)?;
    // On record first, and then somebody is told.
    (0..4).for_each(|_| store.step());
    writeln!(
        io::stdout(),
        "detection: what is left of one cut; {in_time} violations while the bill may still come, {late} after that:"
    )?;
    for violation in store.checks().open()? {
        writeln!(io::stdout(), "{}", store.checks().explain(&violation)?)?;
    }
    if (none.len(), in_time, late) == (0, 0, 1) { Ok(()) } else { Err("it is not as it must be".into()) }
}

/// That what is sold is billed, in a quarter of an hour.
fn billed() -> Check {
    About {
        id: "sold-is-billed",
        severity: Severity::Page,
        owner: "billing",
        means: "A product is sold, and nobody pays for it.",
        remedy: "1 ask whether it was delivered; 2 bill it, or take it back",
    }
    .response(|event: &Product| matches!(event, Sold { .. }), |event| matches!(event, Billed { .. }))
    .within(QUARTER)
    .into()
}

/// Sells in a fresh shop, once for each call to the disk, which is the last one. Gives those that are left with half of it, and
/// the number of calls.
fn sell_at_every_cut(sell: impl Fn(&Store) -> Result<()>) -> Result<(Vec<(SimDisk, SimClock)>, u64)> {
    let mut half = Vec::new();
    for call in 1.. {
        let (disk, clock) = (SimDisk::new(call), SimClock::default());
        let store = Store::create("/shop", setup(&disk, &clock))?;
        disk.cut_at(disk.op_count() + call, ImagePolicy::DropAll);
        // Whoever sells is told nothing after the cut.
        let _ = sell(&store);
        let is_over = !disk.is_off();
        drop(store);
        disk.restart();
        if is_over {
            return Ok((half, call - 1));
        }
        let store = Store::open("/shop", setup(&disk, &clock))?;
        let events = store.stats().position.get();
        store.close();
        if events == 1 {
            half.push((disk, clock));
        }
    }
    unreachable!("a sale has an end")
}

/// On a disk and a clock of our own, without threads.
fn setup(disk: &SimDisk, clock: &SimClock) -> Setup {
    let platform = Platform {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SimEntropy::new(1)),
    };
    Setup::new()
        .events::<Product>()
        .platform(platform)
        .lockstep()
        .alerts(|alert| writeln!(io::stdout(), "alert: {alert}"))
}
