//! A request as the writer takes it: checked against the limits and hashed on the caller's thread.

use crate::commit::Rules;
use crate::commit::reads::{Read, Reads, What};
use crate::error::AppendError;
use crate::event::{self, BadText, Raw};
use crate::idempotency::Keyed;
use crate::options::Options;
use crate::order::Position;
use crate::request::{Append, Expected, Retention};
use crate::state::layer::Span;
use crate::state::search::Plan;
use crate::state::term::{Term, Terms};

/// An append with everything the writer would otherwise have to compute.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub append: Append,
    pub keyed: Option<Keyed>,
    pub events: Vec<EventTerms>,
    pub expected: Vec<Expectation>,
    /// Reads whose results must still be as the caller saw them.
    pub reads: Reads,
    /// Bytes that it counts for in the queue and in its group.
    pub bytes: usize,
}

/// An append within its limits, before its events are hashed: if its key is known, it needs no more.
#[derive(Debug)]
pub(crate) struct Checked {
    pub append: Append,
    pub keyed: Option<Keyed>,
    pub reads: Reads,
    bytes: usize,
}

/// Terms under which one event is indexed.
#[derive(Debug)]
pub(crate) struct EventTerms {
    pub stream: Term,
    /// Its type and tags, each once.
    pub others: Vec<Term>,
}

impl EventTerms {
    pub fn new<'a>(
        terms: &Terms,
        stream: &str,
        type_name: &str,
        tags: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut others = vec![terms.type_name(type_name)];
        for tag in tags {
            let term = terms.tag(tag);
            if !others.contains(&term) {
                others.push(term);
            }
        }
        Self { stream: terms.stream(stream), others }
    }
}

/// The version a stream must be at.
#[derive(Debug)]
pub(crate) struct Expectation {
    pub stream: String,
    pub term: Term,
    pub version: Expected,
}

/// Rules, options and terms that the preparation of a request needs.
pub(crate) struct Desk<'a> {
    pub rules: &'a Rules,
    pub options: &'a Options,
    pub terms: &'a Terms,
}

impl Desk<'_> {
    /// Checks an append and hashes its names.
    pub fn prepare(&self, append: Append) -> Result<Prepared, AppendError> {
        Ok(self.index(self.checked(append)?))
    }

    /// Checks limits and names, and hashes the key.
    pub fn checked(&self, mut append: Append) -> Result<Checked, AppendError> {
        if let Some((what, why)) = append.fault {
            return Err(AppendError::Invalid { what, why });
        }
        let bytes = self.check(&append)?;
        let reads = self.conditions(&append)?;
        append.events.iter_mut().for_each(|event| self.rules.families.settle(event));
        let keyed = append.key.clone().map(|key| Keyed {
            term: self.terms.key(&key),
            parts: append.fingerprint(|family| self.rules.families.get(family)),
            retention: append.retention.unwrap_or(self.rules.retention),
            key,
        });
        Ok(Checked { append, keyed, reads, bytes })
    }

    /// Hashes the names that events are indexed by.
    pub fn index(&self, checked: Checked) -> Prepared {
        let Checked { append, keyed, reads, bytes } = checked;
        let events = append
            .events
            .iter()
            .map(|event| EventTerms::new(self.terms, event.stream(), event.type_name(), event.tags().iter()));
        let expected = append.expected.iter().map(|(stream, version)| Expectation {
            stream: stream.clone(),
            term: self.terms.stream(stream),
            version: *version,
        });
        let (events, expected) = (events.collect(), expected.collect());
        Prepared { append, keyed, events, expected, reads, bytes }
    }

    /// The conditions of a plain append: queries that must find nothing new.
    fn conditions(&self, append: &Append) -> Result<Reads, AppendError> {
        let mut reads = Reads::default();
        for condition in &append.conditions {
            let query = &condition.fail_if_events_match;
            query
                .check()
                .map_err(|unknown| AppendError::Invalid { what: "condition", why: unknown.to_string() })?;
            if query.limit_events().is_some()
                || query.is_backwards()
                || query.range() != (Position::START, None)
            {
                let why = "it has an order, a limit or a range of its own; say `after` beside it".to_owned();
                return Err(AppendError::Invalid { what: "condition", why });
            }
            let what = What::Events(Plan::new(query, self.terms), None);
            let within = Span { after: condition.after.unwrap_or_default(), ..Span::EVERYTHING };
            reads.all.push(Read { what, at: None, within });
        }
        Ok(reads)
    }

    fn check(&self, append: &Append) -> Result<usize, AppendError> {
        let options = self.options;
        within("append (events)", append.events.len(), options.append_events_max)?;
        if append.events.is_empty() && !append.decided {
            return Err(AppendError::Invalid { what: "append", why: "it has no event".into() });
        }
        let mut bytes = 64 + append.label.len();
        text_or_empty("label", &append.label, options.key_bytes_max)?;
        for event in &append.events {
            bytes += self.check_event(event)?;
        }
        if let Some(key) = &append.key {
            text(event::check_text("key", &key.key, options.key_bytes_max))?;
            if key.key.len() < options.key_bytes_min {
                let why = format!(
                    "key is {} bytes, at least {} are asked for",
                    key.key.len(),
                    options.key_bytes_min
                );
                return Err(AppendError::Invalid { what: "key", why });
            }
            text_or_empty("scope", &key.scope, options.key_bytes_max)?;
            if let Some(fault) = append.retention.and_then(Retention::fault) {
                return Err(AppendError::Invalid { what: "retention", why: fault.to_owned() });
            }
            within("fingerprint (parts)", 1 + append.parts.len(), options.fingerprint_parts_max)?;
            for (part, _) in &append.parts {
                text(event::check_text("fingerprint part", part, options.key_bytes_max))?;
            }
            let mut names: Vec<_> = append.parts.iter().map(|(part, _)| part.as_str()).collect();
            names.push(crate::request::INPUT);
            names.sort_unstable();
            if names.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(AppendError::Invalid {
                    what: "fingerprint",
                    why: "two parts have one name".into(),
                });
            }
            bytes += key.key.len() + key.scope.len() + 32 * (1 + append.parts.len());
        }
        for (stream, _) in &append.expected {
            text(event::check_stream(stream, options.stream_bytes_max))?;
        }
        let response = append.response.as_ref().map_or(0, Vec::len);
        within("response (bytes)", response, options.response_bytes_max)?;
        bytes += response;
        within("append (bytes)", bytes, options.append_bytes_max)?;
        Ok(bytes)
    }

    pub fn check_event(&self, event: &Raw) -> Result<usize, AppendError> {
        let options = self.options;
        text(event::check_type_name(event.type_name(), options.type_bytes_max))?;
        text(event::check_stream(event.stream(), options.stream_bytes_max))?;
        within("event (tags)", event.tags().len(), options.tags_len_max)?;
        for tag in event.tags().iter() {
            text(event::check_tag(tag, options.tag_bytes_max))?;
        }
        within("event (bytes)", event.data().len(), options.event_bytes_max)?;
        if let Some(why) = self.rules.families.forged(event) {
            return Err(AppendError::Invalid { what: "event", why });
        }
        if let Some(missing) = self.rules.families.missing(event) {
            return Err(AppendError::Unregistered(missing));
        }
        let tags: usize = event.tags().iter().map(|tag| 4 + tag.len()).sum();
        Ok(48 + event.type_name().len() + event.stream().len() + tags + event.data().len())
    }
}

fn text(checked: Result<(), BadText>) -> Result<(), AppendError> {
    checked.map_err(|bad| match bad {
        BadText::TooLong { what, bytes, limit_bytes } => {
            AppendError::TooLarge { what, size: bytes as u64, limit: limit_bytes as u64 }
        }
        BadText::Empty { what } | BadText::Control { what } | BadText::Form { what, .. } => {
            AppendError::Invalid { what, why: bad.to_string() }
        }
    })
}

fn text_or_empty(what: &'static str, given: &str, limit: usize) -> Result<(), AppendError> {
    if given.is_empty() { Ok(()) } else { text(event::check_text(what, given, limit)) }
}

fn within(what: &'static str, size: usize, limit: usize) -> Result<(), AppendError> {
    if size > limit {
        return Err(AppendError::TooLarge { what, size: size as u64, limit: limit as u64 });
    }
    Ok(())
}
