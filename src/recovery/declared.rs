//! Types and inline projections that the log declares, compared with the code.
//!
//! - Types are compared before derived state is touched: an open that is refused has folded and flushed nothing.
//! - An inline projection that is declared and has no digest in a commit changed no row in it.

use super::Recovery;
use crate::error::OpenError;
use crate::log::record::{LayoutDecl, Record};
use crate::log::{Head, LogError, Seek};
use crate::order::Position;
use crate::state::layer::{Direction, Layer, Span};
use crate::state::overlay::InlineSet;
use crate::state::tables::{Base, ReadOnlyTables};
use crate::state::{self, Layouts};
use std::collections::HashMap;

/// Bytes of the log read at once.
const PAGE_BYTES: usize = 1 << 20;
/// Events of a missing type that are counted exactly.
const COUNTED: usize = 100_000;

// ---- types ----

impl Recovery<'_> {
    /// Refuses types that the code lacks or would misread, in the whole log. `known` spares reading what it has.
    ///
    /// # Errors
    ///
    /// `Missing`, `Setup`; or what keeps it from reading the log.
    pub fn check_families(&self, known: Option<&ReadOnlyTables>) -> Result<(), OpenError> {
        let known = known.filter(|tables| self.log.has(&tables.meta().head()).unwrap_or(false));
        let mut layouts = Layouts::new();
        let mut after = Head::empty(self.log.store());
        if let Some(tables) = known {
            state::declare(&mut layouts, tables.meta().layouts.iter().cloned().map(LayoutDecl::from));
            after = tables.meta().head();
        }
        self.each_record(&after, &mut |record| {
            state::declare(&mut layouts, record.layouts().map(LayoutDecl::from));
        })?;
        let families = &self.rules.families;
        let (missing, wrong) = families.compare(&layouts, |_| String::new());
        match (missing.is_empty(), wrong.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => Err(OpenError::Setup(wrong)),
            (false, _) => {
                let counts = self.count(known, &after)?;
                let counted = |type_name: &str| self.counted(known, &counts, type_name);
                Err(OpenError::Missing(families.compare(&layouts, counted).0))
            }
        }
    }

    /// Calls `each` with all commits after a head, without proving their chain.
    fn each_record(&self, after: &Head, each: &mut dyn FnMut(&Record<'_>)) -> Result<(), LogError> {
        let (end, mut next) = (self.log.head().commit, after.commit.next());
        while next <= end {
            let page = self.log.read(Seek::Commit(next), end, PAGE_BYTES)?;
            page.records().try_for_each(|record| record.map(|record| each(&record)))?;
            next = page.last().next();
        }
        Ok(())
    }

    /// Events of each type after a head: how many, and the first.
    fn count(
        &self,
        known: Option<&ReadOnlyTables>,
        after: &Head,
    ) -> Result<HashMap<String, (usize, Position)>, LogError> {
        let mut counts: HashMap<String, (usize, Position)> = HashMap::new();
        let after = known.map_or(Head::empty(self.log.store()), |_| *after);
        self.each_record(&after, &mut |record| {
            for event in record.events() {
                match counts.get_mut(event.type_name) {
                    Some((count, _)) => *count += 1,
                    None => drop(counts.insert(event.type_name.to_owned(), (1, event.position))),
                }
            }
        })?;
        Ok(counts)
    }

    /// The count of a type's events, in words.
    fn counted(
        &self,
        known: Option<&ReadOnlyTables>,
        counts: &HashMap<String, (usize, Position)>,
        type_name: &str,
    ) -> String {
        let mut found = Vec::new();
        if let Some(Ok(base)) = known.map(ReadOnlyTables::base) {
            let (term, span) = (self.terms.type_name(type_name), Span::EVERYTHING);
            // An index that cannot be read lists none: the log tells of the others.
            let _ = Base::positions(&base, term, span, Direction::Forward, COUNTED, &mut found);
        }
        let (more, first) = counts.get(type_name).copied().unwrap_or_default();
        match (found.len() + more, found.first().copied().unwrap_or(first)) {
            (0, _) => "no event that can be read".to_owned(),
            (COUNTED.., first) => format!("{COUNTED} events or more, the first at {first}"),
            (count, first) => format!("{count} events, the first at {first}"),
        }
    }
}

// ---- inline projections ----

/// The inline projections that the log has declared so far, on the way through it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared(pub Option<InlineSet>);

impl Declared {
    /// Takes over what a commit declares: from this commit on.
    pub fn follow(&mut self, record: &Record<'_>) {
        if let Some(inline) = record.inline() {
            self.0 = Some(inline.into());
        }
    }

    /// The digest that the log has of a projection's row changes in a commit, `None` if it changed none. Without a declaration the
    /// log says nothing of what changed no row.
    pub fn logged(&self, record: &Record<'_>, id: [u8; 4]) -> Option<Option<u64>> {
        let id = u32::from_be_bytes(id);
        let logged = record.folds().find(|fold| fold.projection == id).map(|fold| fold.digest);
        let is_declared = self.0.as_ref().is_some_and(|inline| inline.binary_search(&id).is_ok());
        (logged.is_some() || is_declared).then_some(logged)
    }
}
