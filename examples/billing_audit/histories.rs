//! Shops in which nothing goes wrong: no check may say otherwise.

use crate::Result;
use crate::sales::{QUARTER, Sale};
use crate::world::World;
use std::time::Duration;

/// Products of one shop, whose histories run beside each other.
const BESIDE: u64 = 500;

/// A small generator, so that a seed is a history.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What one product does next, and when.
#[derive(Clone, Copy)]
enum Step {
    Ask,
    Authenticate,
    Offer,
    Sell,
    Answer,
    Charge,
    Cancel,
}

/// Violations, alerts and unread events of `count` histories.
pub fn run(count: u64, mut tell: impl FnMut(u64)) -> Result<u64> {
    let (mut done, mut wrong) = (0, 0);
    while done < count {
        let beside = BESIDE.min(count - done);
        wrong += shop(done + 1, beside)?;
        done += beside;
        tell(done);
    }
    Ok(wrong)
}

fn shop(seed: u64, products: u64) -> Result<u64> {
    let (mut world, mut random) = (World::new()?, Random(seed));
    // Seconds from the start at which each product takes its next step.
    let mut due: Vec<(u64, u64, Step)> =
        (0..products).map(|product| (random.below(7200), product, Step::Ask)).collect();
    let (mut now, mut next_work, mut next_look) = (0, 60, 0);
    while let Some(index) = (0..due.len()).min_by_key(|index| due[*index].0) {
        let (at, product, step) = due.swap_remove(index);
        // The job runs at least every few minutes, and checks look whenever.
        while next_work <= at || next_look <= at {
            let to = next_work.min(next_look);
            world.clock.advance(Duration::from_secs(to - now));
            now = to;
            if next_work == to {
                world.work(None)?;
                next_work = to + 1 + random.below(600);
            }
            if next_look <= to {
                world.settle();
                next_look = to + 1 + random.below(400);
            }
        }
        world.clock.advance(Duration::from_secs(at - now));
        now = at;
        if let Some((wait, step)) = take(&mut world, &mut random, product, step)? {
            due.push((at + wait, product, step));
        }
    }
    world.work(None)?;
    world.pass(3 * QUARTER, QUARTER / 5);
    let unread: u64 = world.store.checks().stats().iter().map(|check| check.unread).sum();
    let found = world.store.checks().all()?;
    for found in found.iter().take(3) {
        eprintln!("in a history without a fault: {}", world.store.checks().explain(found)?);
    }
    // What stands wrong for a moment only is exercised by chance; what each sale goes through is not.
    let always = ["flow-complete", "sold-is-billed", "billed-once", "sold-before-billed", "charges-add-up"];
    for check in world.store.checks().stats() {
        if check.activations == 0 && products >= BESIDE && always.contains(&&*check.check) {
            return Err(format!("`{}` was never exercised", check.check).into());
        }
    }
    Ok(found.len() as u64 + unread + world.alerted())
}

/// Takes a step, and says which comes next and how long after it.
fn take(world: &mut World, random: &mut Random, product: u64, step: Step) -> Result<Option<(u64, Step)>> {
    let cents = 100 + (product % 9) as i64 * 100;
    let mut wait = |most: u64| random.below(most);
    Ok(match step {
        Step::Ask => {
            world.append(Sale::Asked { product, account: product as u32 })?;
            Some((wait(200), Step::Authenticate))
        }
        Step::Authenticate => {
            world.append(Sale::Authenticated { product })?;
            Some((wait(200), Step::Offer))
        }
        Step::Offer => {
            world.append(Sale::Available { product })?;
            Some((wait(200), Step::Sell))
        }
        Step::Sell => {
            world.append(Sale::Sold { product, cents })?;
            Some((wait(200), Step::Answer))
        }
        Step::Answer => {
            world.append(Sale::Answered { product })?;
            let next = if wait(3) == 0 { Step::Cancel } else { Step::Charge };
            Some((wait(7200), next))
        }
        Step::Charge => {
            world.charge(product, cents, None)?;
            match wait(3) {
                0 => Some((wait(3600), Step::Charge)),
                1 => Some((wait(3600), Step::Cancel)),
                _ => None,
            }
        }
        Step::Cancel => {
            world.append(Sale::Cancelled { product })?;
            None
        }
    })
}
