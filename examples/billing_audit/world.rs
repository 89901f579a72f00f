//! A shop with its billing system, its background job, and a clock that only the audit moves.

use crate::Result;
use crate::remote::Remote;
use crate::sales::{Billing, JOB, Sale, setup};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tallystone::check::Digest;
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::testing::SimClock;
use tallystone::watch::Notification;

/// A way in which the job, or who calls the shop, goes wrong. Each is injected below the checks, into what they watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It says that the billing has ended, when it has started.
    WrongEvent,
    /// It bills, and says another price.
    WrongPrice,
    /// It says that it bills, and does not.
    EventWithoutWork,
    /// It bills, and does not say so: it was killed between the two.
    WorkWithoutEvent,
    /// Its code bills half of what was sold.
    WrongCode,
    /// Its code passes over every seventh event.
    SkippedEvent,
    /// Its queue loses a sale.
    LostMessage,
    /// It leaves a cancelled product in billing.
    StillBilled,
    /// It was not sure whether it had billed, and did it again.
    DoubleBill,
    /// It bills what was never sold.
    NeverSold,
    /// It tells a wrong total.
    WrongTotal,
    /// The purchase stops half way.
    HalfAFlow,
    /// The billing system cannot be read: the check that compares it is blind.
    DeadSource,
}

/// The background job: a plain loop over the events of sales.
#[derive(Default)]
struct Job {
    at: Position,
    seen: u64,
    applied: Digest,
}

pub struct World {
    pub clock: SimClock,
    pub store: Store,
    pub remote: Remote,
    alerts: Arc<Mutex<Vec<Notification>>>,
    alerted: Arc<AtomicU64>,
    job: Job,
    totals: std::collections::HashMap<u64, i64>,
    dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Result<Self> {
        let (clock, dir) = (SimClock::default(), tempfile::tempdir()?);
        let remote = Remote::create(&dir.path().join("billing.db"))?;
        let (alerts, alerted) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (told, counted) = (alerts.clone(), alerted.clone());
        let setup = setup(remote.evidence())
            .platform(Platform { clock: Arc::new(clock.clone()), ..Platform::real() })
            .lockstep()
            .alerts(move |alert| {
                counted.fetch_add(1, Ordering::Relaxed);
                told.lock().expect("nobody panics while telling").push(alert.clone());
            });
        let store = Store::in_memory(setup)?;
        Ok(Self {
            clock,
            store,
            remote,
            alerts,
            alerted,
            job: Job::default(),
            totals: Default::default(),
            dir,
        })
    }

    pub fn append(&self, event: impl tallystone::event::EventSet) -> Result<Position> {
        Ok(self.store.append(Append::event(event))?.receipt.last)
    }

    /// Lets the job apply what is new, as `fault` has it.
    pub fn work(&mut self, fault: Option<Fault>) -> Result<()> {
        let view = self.store.view()?;
        let new: Vec<_> = view
            .query::<Sale>(Query::all().after(self.job.at))
            .filter(|sale| sale.as_ref().map_or(true, |_| true))
            .collect::<std::result::Result<_, _>>()?;
        drop(view);
        for sale in &new {
            self.job.at = sale.position;
            self.job.seen += 1;
            match fault {
                Some(Fault::SkippedEvent) if self.job.seen % 7 == 3 => continue,
                Some(Fault::LostMessage) if matches!(sale.event, Sale::Sold { .. }) => continue,
                _ => self.job.applied.add(sale.position),
            }
            match sale.event {
                Sale::Sold { product, cents } => self.start(product, cents, fault)?,
                Sale::Cancelled { .. } if fault == Some(Fault::StillBilled) => {}
                Sale::Cancelled { product } => {
                    self.remote.end(product)?;
                    self.append(Billing::Ended { product })?;
                }
                _ => {}
            }
        }
        if !new.is_empty() {
            self.store.checks().applied(JOB, self.job.applied)?;
        }
        Ok(())
    }

    fn start(&self, product: u64, cents: i64, fault: Option<Fault>) -> Result<()> {
        let billed = if fault == Some(Fault::WrongCode) { cents / 2 } else { cents };
        if fault != Some(Fault::EventWithoutWork) {
            self.remote.start(product, billed)?;
        }
        match fault {
            Some(Fault::WorkWithoutEvent) => {}
            Some(Fault::WrongEvent) => drop(self.append(Billing::Ended { product })?),
            Some(Fault::WrongPrice) => drop(self.append(Billing::Started { product, cents: cents + 100 })?),
            _ => drop(self.append(Billing::Started { product, cents })?),
        }
        if fault == Some(Fault::DoubleBill) {
            self.remote.start(product, billed)?;
            self.append(Billing::Started { product, cents })?;
        }
        Ok(())
    }

    /// Charges a month.
    pub fn charge(&mut self, product: u64, cents: i64, fault: Option<Fault>) -> Result<()> {
        let total = self.totals.entry(product).or_default();
        *total += cents;
        let total = if fault == Some(Fault::WrongTotal) { *total + 1 } else { *total };
        self.append(Billing::Charged { product, cents, total })?;
        Ok(())
    }

    /// Makes the billing system unreadable.
    pub fn lose_the_source(&self) -> Result<()> {
        let path = self.dir.path().join("billing.db");
        std::fs::rename(&path, path.with_extension("gone"))?;
        Ok(())
    }

    /// Lets time pass, in steps in which sources are pulled and checks look.
    pub fn pass(&self, time: Duration, step: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let now = step.min(left);
            self.clock.advance(now);
            left -= now;
            self.settle();
        }
    }

    pub fn settle(&self) {
        for _ in 0..4 {
            self.store.step();
            self.store.checks().wait_for(self.store.stats().position, Duration::ZERO);
        }
    }

    pub fn alerts(&self) -> Vec<Notification> {
        self.alerts.lock().expect("nobody panics while telling").clone()
    }

    pub fn alerted(&self) -> u64 {
        self.alerted.load(Ordering::Relaxed)
    }
}
