//! Every way to go wrong, one after another, each in a shop of its own.

use crate::sales::{QUARTER, Sale};
use crate::world::{Fault, World};
use crate::{Result, say};
use tallystone::watch::Violation;

/// A fault, the rule that is to catch it, and the product it is about.
const ALL: [(Fault, &str); 13] = [
    (Fault::WrongEvent, "invoices-agree"),
    (Fault::WrongPrice, "price-agrees"),
    (Fault::EventWithoutWork, "invoices-agree"),
    (Fault::WorkWithoutEvent, "invoices-agree"),
    (Fault::WrongCode, "invoices-agree"),
    (Fault::SkippedEvent, "job-applies-all"),
    (Fault::LostMessage, "sold-is-billed"),
    (Fault::StillBilled, "cancelled-still-billed"),
    (Fault::DoubleBill, "billed-once"),
    (Fault::NeverSold, "sold-before-billed"),
    (Fault::WrongTotal, "charges-add-up"),
    (Fault::HalfAFlow, "flow-complete"),
    (Fault::DeadSource, "invoices-agree.fresh"),
];

/// Of which each shop has some that are well, too.
const WELL: u64 = 3;
const FAULTY: u64 = 7;

/// Faults injected, and caught.
pub fn run() -> Result<(usize, usize)> {
    let mut caught = 0;
    for (fault, rule) in ALL {
        say(&format!("\n== {fault:?}"))?;
        match inject(fault, rule)? {
            Some(world) => {
                caught += 1;
                tell(&world, rule)?;
            }
            None => say(&format!("NOT CAUGHT: no violation of {rule} names it"))?,
        }
    }
    Ok((ALL.len(), caught))
}

/// The shop in which it was caught: the rule names what was wrong, and nothing that was well.
fn inject(fault: Fault, rule: &str) -> Result<Option<World>> {
    let mut world = World::new()?;
    for product in 0..WELL {
        buy(&world, product, None)?;
        world.work(None)?;
        world.charge(product, 900, None)?;
    }
    world.pass(QUARTER / 3, QUARTER / 15);
    if fault == Fault::DeadSource {
        world.lose_the_source()?;
    }
    if fault == Fault::NeverSold {
        world.remote.start(FAULTY, 900)?;
        world.append(crate::sales::Billing::Started { product: FAULTY, cents: 900 })?;
    } else {
        buy(&world, FAULTY, Some(fault))?;
        world.work(Some(fault))?;
        world.charge(FAULTY, 900, Some(fault))?;
        if fault == Fault::StillBilled {
            world.append(Sale::Cancelled { product: FAULTY })?;
            world.work(Some(fault))?;
        }
    }
    world.pass(3 * QUARTER, QUARTER / 15);
    let found = world.store.checks().of(rule)?;
    let names_it =
        !found.is_empty() && found.iter().all(|found| is_about(&world, found, fault).unwrap_or(false));
    let is_told = world.alerts().iter().any(|alert| alert.check == rule && !alert.remedy.is_empty());
    Ok(Some(world).filter(|_| names_it && is_told))
}

/// A purchase from the first step to the last.
pub fn buy(world: &World, product: u64, fault: Option<Fault>) -> Result<()> {
    world.append(Sale::Asked { product, account: 1 })?;
    world.append(Sale::Authenticated { product })?;
    if fault == Some(Fault::HalfAFlow) {
        return Ok(());
    }
    world.append(Sale::Available { product })?;
    world.append(Sale::Sold { product, cents: 900 })?;
    world.append(Sale::Answered { product })?;
    Ok(())
}

/// Its key, as the explanation has it, is the product that was wrong: or the job, or the source.
fn is_about(world: &World, found: &Violation, fault: Fault) -> Result<bool> {
    let key = world.store.checks().explain(found)?.key;
    Ok(match fault {
        Fault::SkippedEvent => key == crate::sales::JOB,
        Fault::DeadSource => true,
        _ => key.ends_with(&FAULTY.to_string()),
    })
}

fn tell(world: &World, rule: &str) -> Result<()> {
    for alert in world.alerts().iter().filter(|alert| alert.check == rule).take(1) {
        say(&format!("alert: {alert}"))?;
    }
    for found in world.store.checks().of(rule)?.iter().take(1) {
        say(&world.store.checks().explain(found)?.to_string())?;
    }
    Ok(())
}
