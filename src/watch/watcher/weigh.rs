//! Weighs a violation before it is put on record: one that is about much is told with a higher severity from the start.

use super::{Watcher, refused};
use crate::check::Raised;
use crate::check::glance::Glance;
use crate::check::word::Verdict;
use crate::error::StorageError;
use crate::log::{LogError, Seek};
use crate::order::Position;
use crate::watch::untold::Untold;

impl Watcher {
    /// Returns the severity of a violation and its reason; both empty where they are those of the check.
    pub(super) fn weigh(&self, index: usize, untold: &Untold) -> Result<(String, String), StorageError> {
        let escalations = &self.all[index].check.escalations;
        if untold.finding.verdict != Verdict::Violated || !escalations.has_amounts() {
            return Ok(Default::default());
        }
        let raised = self.weigh_event(index, Position::new(untold.finding.activation))?;
        Ok(raised.map(|Raised { severity, why }| (severity.to_string(), why)).unwrap_or_default())
    }

    fn weigh_event(&self, index: usize, position: Position) -> Result<Option<Raised>, StorageError> {
        let reader = &self.ground.reader;
        let head = reader.board.load().head.commit;
        let page = reader.log.read(Seek::Event(position), head, 0)?;
        for record in page.records() {
            let record = record.map_err(LogError::from)?;
            let mut events = record.events();
            let Some(event) = events.find(|event| event.position == position) else { continue };
            let raw = event.raw().map_err(|error| refused(&error.to_string()))?;
            let mut glance = Glance::new(raw, position, record.time(), &self.glasses);
            return Ok(self.all[index].check.escalations.weigh(&mut glance));
        }
        Ok(None)
    }
}
