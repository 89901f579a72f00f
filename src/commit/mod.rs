//! One request, step by step: decide, then apply.
//!
//! - Every step that can refuse comes before any that changes: [`Group::decide`] only reads, and [`Group::take`] cannot
//!   refuse.
//! - Deterministic: a function of the published state, the group so far, the request and one clock reading. No threads, no
//!   files, no clock, no randomness in here.
//! - Later requests of a group see the earlier ones; a refused one leaves no trace.

pub(crate) mod prepare;
pub(crate) mod reads;
pub(crate) mod speculative;

use crate::error::{AppendError, Conflict, StorageError};
use crate::event::Codec;
use crate::guard::Guards;
use crate::idempotency::{self, Recalled};
use crate::log::record::{Commit, LayoutDecl, Payload, StoredEvent};
use crate::log::{Log, Seek};
use crate::order::{CommitNo, Position, Timestamp};
use crate::projection::{self, At, FoldFailure, Limits, Projections, Step};
use crate::request::{Committed, Durability, Receipt, Retention};
use crate::state::Published;
use crate::state::keys::{KeyIndex, KeyUse, Moment};
use crate::state::layer::{Direction, Layer, Layers, Span};
use crate::state::overlay::{Delta, InlineSet};
use prepare::Prepared;
use reads::Reads;
use std::mem;
use std::sync::Arc;

/// Rules of all decisions: fixed while the store is open.
#[derive(Debug)]
pub(crate) struct Rules {
    pub projections: Projections,
    pub guards: Guards,
    pub families: crate::setup::Families,
    pub limits: Limits,
    pub durability: Durability,
    /// Retention of keys whose request names none.
    pub retention: Retention,
}

/// Requests that share one write and one sync.
pub(crate) struct Group<'a> {
    rules: &'a Rules,
    log: &'a dyn Log,
    keys: &'a KeyIndex,
    /// Published state, one for the whole group: its base never moves under a decision.
    published: Arc<Published>,
    delta: Delta,
    commits: Vec<Commit>,
    position: Position,
    time: Timestamp,
    /// Number of commits with a key so far.
    keys_used: u64,
    /// The inline projections that the log has declared.
    inline: Option<InlineSet>,
}

/// Outcome of deciding a request. Nothing has changed yet.
pub(crate) enum Decision {
    /// An earlier commit answers it.
    Replay(Committed),
    /// The draft is to be committed.
    Commit(Box<Draft>),
}

/// Everything one request would change.
pub(crate) struct Draft {
    commit: Commit,
    delta: Delta,
}

impl<'a> Group<'a> {
    pub fn new(rules: &'a Rules, log: &'a dyn Log, keys: &'a KeyIndex, published: Arc<Published>) -> Self {
        let (position, time, keys_used) = (published.head.position, published.head.time, published.keys);
        let (delta, commits, inline) = (Delta::default(), Vec::new(), published.inline());
        Self { rules, log, keys, published, delta, commits, position, time, keys_used, inline }
    }

    /// Decides one request against the state and the group so far. Everything that can refuse happens here, in this order.
    ///
    /// The committed parts are moved out of the request; the rest of it stays, for the caller's thread to free.
    pub fn decide(&self, request: &mut Prepared, now: Timestamp) -> Result<Decision, AppendError> {
        let now = self.moment(now, &request.reads);
        if let Some(answer) = self.recall(request, now)? {
            return Ok(Decision::Replay(answer));
        }
        self.check_versions(request)?;
        self.check_reads(&request.reads)?;
        self.check_own_events(&request.reads, now)?;
        let mut draft = self.sequence(request, now)?;
        self.declare(&mut draft);
        self.fold(&mut draft, &request.reads)?;
        Ok(Decision::Commit(Box::new(draft)))
    }

    /// Takes a decided draft into the group. Cannot refuse.
    pub fn take(&mut self, draft: Draft) -> Committed {
        let Draft { commit, delta } = draft;
        assert_eq!(commit.commit, self.next_commit(), "commit numbers are gapless");
        assert_eq!(commit.first, self.position.next(), "positions are gapless");
        self.position = commit.last();
        self.time = commit.time;
        self.keys_used += delta.keys_used;
        if delta.inline.is_some() {
            self.inline.clone_from(&delta.inline);
        }
        self.delta.absorb(delta);
        let receipt =
            Receipt::new(commit.commit, commit.first, commit.last(), commit.time, self.rules.durability);
        let response = commit.response.as_ref().map_or_else(Vec::new, |response| response.bytes.clone());
        self.commits.push(commit);
        Committed { response, receipt, replayed: false }
    }

    /// Returns the commits that the group would write.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// Returns the changes to apply once the group is durable, and its spent commits.
    pub fn into_parts(self) -> (Delta, Vec<Commit>) {
        (self.delta, self.commits)
    }

    /// Returns the moment of a decision. A clock that runs backwards never takes the store's time with it.
    fn moment(&self, now: Timestamp, reads: &Reads) -> Moment {
        let time = reads.speculation.commit_time(self.time, now.max(self.time));
        Moment { time, keys: self.keys_used }
    }

    fn next_commit(&self) -> CommitNo {
        CommitNo(self.published.head.commit.0 + self.commits.len() as u64 + 1)
    }

    /// Reads the state as this group has changed it, with `scratch` on top.
    fn read<T>(&self, scratch: &Delta, read: impl FnOnce(Layers<'_>) -> T) -> T {
        let above: [&dyn Layer; 2] = [scratch, &self.delta];
        self.published.read(&above, |layers| {
            read(Layers { commit: CommitNo(u64::MAX), position: Position(u64::MAX), ..layers })
        })
    }

    // ---- the steps of `decide` ----

    /// Returns the answer of an earlier commit, if its key is still kept.
    fn recall(&self, request: &Prepared, now: Moment) -> Result<Option<Committed>, AppendError> {
        let Some(keyed) = &request.keyed else { return Ok(None) };
        let (durability, events) = (self.rules.durability, &request.append.events[..]);
        let recalled = if let Some(used) = self.delta.keys.get(&keyed.term) {
            idempotency::judge(self.in_group(used.commit).into(), keyed, events, now, durability)
        } else if let Some(commit) = self.keys.get(keyed.term, self.published.head.commit) {
            idempotency::recall(self.log, commit, keyed, events, now, durability)?
        } else {
            return Ok(None);
        };
        match recalled {
            Recalled::Same(answer) => Ok(Some(answer)),
            Recalled::Expired => Ok(None),
            Recalled::Reused { part, commit } => Err(AppendError::KeyReused { part, commit }),
            // Two hashes of 128 keyed bits met: never seen, and refusing is the only answer that keeps both keys' promises.
            Recalled::Other => Err(AppendError::Invalid { what: "key", why: "its hash is taken".into() }),
        }
    }

    fn in_group(&self, commit: CommitNo) -> &Commit {
        &self.commits[(commit.0 - self.published.head.commit.0 - 1) as usize]
    }

    fn check_versions(&self, request: &Prepared) -> Result<(), AppendError> {
        for expectation in &request.expected {
            let term = expectation.term;
            let is = self.read(&Delta::default(), |layers| layers.stream_version(term))?;
            if !expectation.version.holds(is) {
                let (stream, expected) = (expectation.stream.clone(), expectation.version);
                let last = self.read(&Delta::default(), |layers| {
                    layers.positions(term, Span::EVERYTHING, Direction::Backward, 1)
                })?;
                return Err(AppendError::WrongVersion { stream, expected, is, last: last.first().copied() });
            }
        }
        Ok(())
    }

    /// Describes the event at `position`, which this group may hold, for a conflict.
    fn event_at(&self, position: Position) -> Result<Conflict, StorageError> {
        let here = self.commits.iter().find(|commit| position <= commit.last() && position >= commit.first);
        match here {
            Some(commit) => {
                let event = &commit.events[(position.0 - commit.first.0) as usize];
                let (type_name, stream) = (event.type_name.clone(), event.stream.clone());
                Ok(Conflict::by(position, type_name, stream, commit.commit, commit.label.clone()))
            }
            None => event_at(self.log, position, self.published.head.commit),
        }
    }

    /// Assigns commit number, positions, stream versions and time, and indexes the events.
    fn sequence(&self, request: &mut Prepared, now: Moment) -> Result<Draft, StorageError> {
        let (append, keyed) = (&mut request.append, request.keyed.take());
        let mut delta = Delta::default();
        let first = self.position.next();
        let mut events = Vec::with_capacity(append.events.len());
        for (index, (raw, terms)) in append.events.drain(..).zip(&request.events).enumerate() {
            let position = Position(first.0 + index as u64);
            let stream_version = self.read(&delta, |layers| layers.stream_version(terms.stream))? + 1;
            delta.post(terms.stream, stream_version, position);
            terms.others.iter().for_each(|term| delta.post(*term, 0, position));
            events.push(StoredEvent::new(raw, stream_version));
        }
        let commit = self.next_commit();
        let key = keyed.map(|keyed| {
            let term = keyed.term;
            let part = keyed.into_part(now);
            delta.use_key(term, KeyUse::new(commit, part.kept, now));
            part
        });
        let commit = Commit {
            commit,
            first,
            time: now.time,
            label: mem::take(&mut append.label),
            layouts: Vec::new(),
            key,
            response: append.response.take().map(|bytes| Payload { codec: 0, bytes }),
            events,
            folds: Vec::new(),
            inline: None,
        };
        Ok(Draft { commit, delta })
    }

    /// Puts the layout of each type into the log before, or with, its first payload; and the inline projections, if they differ
    /// from those before.
    fn declare(&self, draft: &mut Draft) {
        for event in &draft.commit.events {
            let known = [&self.delta.layouts[..], &draft.commit.layouts];
            let codec = Codec::from_id(event.codec);
            let new = declaration(self.rules, &self.published, known, &event.type_name, event.schema, codec);
            draft.commit.layouts.extend(new);
        }
        draft.delta.layouts.clone_from(&draft.commit.layouts);
        let inline = self.rules.projections.ids();
        if self.inline.as_deref().unwrap_or_default() != &**inline {
            draft.commit.inline = Some(inline.to_vec());
            draft.delta.inline = Some(inline.clone());
        }
    }

    /// Folds the events into the inline projections and the guards' rows, compares the transaction's reads of its own events,
    /// checks the invariants, and digests the changed rows.
    fn fold(&self, draft: &mut Draft, reads: &Reads) -> Result<(), AppendError> {
        if self.rules.projections.is_empty() {
            return Ok(());
        }
        let stalls = &self.rules.projections.stalls;
        let mut speculative = reads.speculation.reads.as_slice();
        for index in 0..draft.commit.events.len() {
            let event = &draft.commit.events[index];
            let position = Position(draft.commit.first.0 + index as u64);
            let mut step = Step {
                at: At { commit: draft.commit.commit, position, time: draft.commit.time },
                limits: self.rules.limits,
                published: &self.published,
                group: &self.delta,
                scratch: &mut draft.delta,
            };
            let raw = event
                .borrowed()
                .map_err(|error| AppendError::Invalid { what: "event", why: error.to_string() })?;
            self.rules.projections.fold(&raw, &mut step).map_err(|failure| match failure {
                FoldFailure::Refused { projection, why } => AppendError::Fold { projection, index, why },
                FoldFailure::Storage(error) => AppendError::Storage(error),
            })?;
            self.rules.guards.fold(stalls, &raw, index, &mut step)?;
            self.check_own_rows(reads, &mut speculative, index + 1, draft)?;
        }
        self.rules.guards.check_rows(
            stalls,
            draft.commit.first,
            &self.published,
            &self.delta,
            &draft.delta,
        )?;
        draft.commit.folds = projection::digests(&draft.delta);
        Ok(())
    }
}

/// Returns the layout to declare with the first event of a type; `None` if it is declared already, in the log or in `known`.
pub(crate) fn declaration(
    rules: &Rules,
    published: &Published,
    known: [&[LayoutDecl]; 2],
    type_name: &str,
    schema: u16,
    codec: Option<Codec>,
) -> Option<LayoutDecl> {
    let layout = rules.families.layout(type_name, schema, codec)?;
    let logged = published.layouts.get(type_name).is_some_and(|all| all.contains_key(&schema));
    let declared = |decl: &LayoutDecl| decl.type_name == type_name && decl.schema == schema;
    if logged || known.into_iter().flatten().any(declared) {
        return None;
    }
    Some(LayoutDecl { type_name: type_name.to_owned(), schema, layout: layout.to_owned() })
}

/// Describes the event at `position`, for a conflict.
fn event_at(log: &dyn Log, position: Position, through: CommitNo) -> Result<Conflict, StorageError> {
    let page = log.read(Seek::Event(position), through, 0)?;
    let record = page.records().next().ok_or_else(|| crate::log::missing(position))??;
    let event = record.events().find(|event| event.position == position);
    let event = event.ok_or_else(|| crate::log::missing(position))?;
    let (type_name, stream) = (event.type_name.into(), event.stream.into());
    Ok(Conflict::by(position, type_name, stream, record.commit(), record.label().into()))
}
