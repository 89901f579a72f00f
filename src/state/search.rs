//! Search for the positions that answer a query: items are ORed, types ORed within an item, tags ANDed (the DCB specification).
//!
//! Each term is a rising list of positions, read in pages. An item leaps from one list to the next until all agree.

use super::layer::{Direction, Layers, Span};
use super::term::{Term, Terms};
use crate::error::StorageError;
use crate::order::Position;
use crate::query::{Query, QueryItem};

/// A query, its names turned into terms. An item without terms matches every event.
#[derive(Debug)]
pub(crate) struct Plan {
    items: Vec<Vec<AnyOf>>,
}

/// One conjunct of an item: the event has one of these terms.
type AnyOf = Vec<Term>;

impl Plan {
    pub fn new(query: &Query, terms: &Terms) -> Self {
        match query.is_all() {
            true => Self { items: vec![Vec::new()] },
            false => Self { items: query.items().iter().map(|item| conjuncts(item, terms)).collect() },
        }
    }

    /// Returns whether every event matches: reading the log is cheaper than asking any index.
    pub fn is_everything(&self) -> bool {
        self.items.iter().any(Vec::is_empty)
    }

    /// Returns up to `limit` positions in the span, in the scan's order.
    pub fn positions(
        &self,
        layers: Layers<'_>,
        span: Span,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Position>, StorageError> {
        let span = Span { after: span.after, through: span.through.min(layers.position) };
        let scan = SearchContext { layers, span, direction, page: limit.clamp(16, 1024) };
        let mut items: Vec<ItemScan<'_>> = self.items.iter().map(|item| ItemScan::new(scan, item)).collect();
        let mut found = Vec::new();
        while found.len() < limit {
            // The nearest of the items' next matches; all that stand on it move on.
            let mut nearest = None;
            for item in &mut items {
                nearest = scan.nearer(nearest, item.peek()?);
            }
            let Some(position) = nearest else { break };
            found.push(position);
            for item in &mut items {
                item.step_past(position);
            }
        }
        Ok(found)
    }
}

fn conjuncts(item: &QueryItem, terms: &Terms) -> Vec<AnyOf> {
    let mut all = Vec::new();
    all.extend(item.stream_name().map(|stream| vec![terms.stream(stream)]));
    all.extend(item.tags().iter().map(|tag| vec![terms.tag(tag)]));
    if !item.type_names().is_empty() {
        all.push(item.type_names().iter().map(|name| terms.type_name(name)).collect());
    }
    all
}

/// State shared by all lists of one search.
#[derive(Clone, Copy)]
struct SearchContext<'a> {
    layers: Layers<'a>,
    span: Span,
    direction: Direction,
    page: usize,
}

impl SearchContext<'_> {
    fn nearer(&self, a: Option<Position>, b: Option<Position>) -> Option<Position> {
        match self.direction {
            Direction::Forward => a.into_iter().chain(b).min(),
            Direction::Backward => a.into_iter().chain(b).max(),
        }
    }

    /// Returns whether `a` lies before `b` in the order of the scan.
    fn before(&self, a: Position, b: Position) -> bool {
        match self.direction {
            Direction::Forward => a < b,
            Direction::Backward => a > b,
        }
    }

    /// Returns the rest of the span from `position` on.
    fn from(&self, position: Position) -> Span {
        match self.direction {
            Direction::Forward => Span { after: Position(position.0 - 1), through: self.span.through },
            Direction::Backward => Span { after: self.span.after, through: position },
        }
    }
}

struct ItemScan<'a> {
    scan: SearchContext<'a>,
    lists: Vec<Vec<PostingsCursor<'a>>>,
    /// Rest of the span, if the item has no conjunct: every position matches.
    every: Option<Span>,
    next: Option<Position>,
    done: bool,
}

impl<'a> ItemScan<'a> {
    fn new(scan: SearchContext<'a>, item: &[AnyOf]) -> Self {
        let lists = item
            .iter()
            .map(|terms| terms.iter().map(|term| PostingsCursor::new(scan, *term)).collect())
            .collect();
        Self { scan, lists, every: item.is_empty().then_some(scan.span), next: None, done: false }
    }

    /// Returns the next position on which all conjuncts agree.
    fn peek(&mut self) -> Result<Option<Position>, StorageError> {
        if self.next.is_some() || self.done {
            return Ok(self.next);
        }
        self.next = match self.every {
            Some(span) if span.is_empty() => None,
            Some(span) if self.scan.direction == Direction::Forward => Some(span.after.next()),
            Some(span) => Some(span.through),
            None => self.leap()?,
        };
        self.done = self.next.is_none();
        Ok(self.next)
    }

    fn leap(&mut self) -> Result<Option<Position>, StorageError> {
        let mut candidate = None;
        loop {
            let mut moved = false;
            for any_of in &mut self.lists {
                let mut nearest = None;
                for list in any_of {
                    nearest = self.scan.nearer(nearest, list.seek(candidate)?);
                }
                let Some(position) = nearest else { return Ok(None) };
                if candidate.is_none_or(|candidate| self.scan.before(candidate, position)) {
                    (candidate, moved) = (Some(position), true);
                }
            }
            if !moved {
                return Ok(candidate);
            }
        }
    }

    fn step_past(&mut self, position: Position) {
        if self.next == Some(position) {
            self.next = None;
            match (&mut self.every, self.scan.direction) {
                (Some(span), Direction::Forward) => span.after = position,
                (Some(span), Direction::Backward) => span.through = Position(position.0 - 1),
                (None, _) => self.lists.iter_mut().flatten().for_each(|list| list.step_past(position)),
            }
        }
    }
}

/// One term's positions, a page at a time.
struct PostingsCursor<'a> {
    scan: SearchContext<'a>,
    term: Term,
    page: Vec<Position>,
    at: usize,
    /// Part of the span that was not read yet.
    rest: Span,
}

impl<'a> PostingsCursor<'a> {
    fn new(scan: SearchContext<'a>, term: Term) -> Self {
        Self { scan, term, page: Vec::new(), at: 0, rest: scan.span }
    }

    /// Returns the first position at `from` or past it, in the order of the scan.
    fn seek(&mut self, from: Option<Position>) -> Result<Option<Position>, StorageError> {
        loop {
            let page = &self.page[self.at..];
            self.at +=
                from.map_or(0, |from| page.partition_point(|position| self.scan.before(*position, from)));
            if let Some(position) = self.page.get(self.at) {
                return Ok(Some(*position));
            }
            if let Some(from) = from {
                self.leave_behind(from);
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            let (scan, rest) = (self.scan, self.rest);
            self.page = scan.layers.positions(self.term, rest, scan.direction, scan.page)?;
            self.at = 0;
            match (self.page.last(), self.page.len() >= scan.page) {
                (Some(last), true) => self.exclude(*last),
                _ => self.rest = Span { after: rest.through, through: rest.through },
            }
        }
    }

    fn step_past(&mut self, position: Position) {
        if self.page.get(self.at) == Some(&position) {
            self.at += 1;
        }
    }

    fn leave_behind(&mut self, from: Position) {
        let ahead = self.scan.from(from);
        self.rest.after = self.rest.after.max(ahead.after);
        self.rest.through = self.rest.through.min(ahead.through);
    }

    fn exclude(&mut self, position: Position) {
        match self.scan.direction {
            Direction::Forward => self.rest.after = position,
            Direction::Backward => self.rest.through = Position(position.0 - 1),
        }
    }
}
