//! The log in memory: for tests, and for stores that live no longer than their process.
//!
//! - The same bytes as on a disk, verified in the same way; only durability is missing.
//! - Groups never change once appended.

use super::group::{self, Walk};
use super::record::Commit;
use super::{Head, Log, LogError, LogSize, Page, Seek, StoreId};
use crate::order::{CommitNo, Position};
use crate::sync::RwLock;
use std::fmt;
use std::sync::Arc;

/// The log in memory.
pub(crate) struct MemoryLog {
    store: StoreId,
    inner: RwLock<MemoryLogState>,
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log in memory at commit {}", self.head().commit)
    }
}

#[derive(Clone)]
struct MemoryLogState {
    head: Head,
    groups: Vec<Arc<MemoryGroup>>,
}

struct MemoryGroup {
    before: Head,
    bytes: Vec<u8>,
}

impl MemoryLog {
    pub fn new(store: StoreId) -> Self {
        Self { store, inner: RwLock::new(MemoryLogState { head: Head::empty(store), groups: Vec::new() }) }
    }
}

impl Log for MemoryLog {
    fn fork(&self) -> Option<Arc<dyn Log>> {
        // Groups never change: they are shared.
        let inner = RwLock::new(self.inner.read().clone());
        Some(Arc::new(Self { store: self.store, inner }))
    }

    fn store(&self) -> StoreId {
        self.store
    }

    fn head(&self) -> Head {
        self.inner.read().head
    }

    fn append(&self, expected: &Head, commits: &[Commit]) -> Result<Head, LogError> {
        let mut inner = self.inner.write();
        let before = inner.head;
        if before != *expected {
            return Err(LogError::NotAtHead { is: before.commit, expected: expected.commit });
        }
        if commits.is_empty() {
            return Ok(before);
        }
        let mut bytes = Vec::new();
        let after = group::encode(self.store, &before, commits, &mut bytes, |_, _| ())?;
        inner.groups.push(Arc::new(MemoryGroup { before, bytes }));
        inner.head = after;
        Ok(after)
    }

    fn read(&self, from: Seek, through: CommitNo, bytes: usize) -> Result<Page, LogError> {
        let inner = self.inner.read();
        let through = through.min(inner.head.commit);
        let (from, index) = match from {
            Seek::Commit(commit) => {
                let commit = commit.max(CommitNo(1));
                if commit > through {
                    return Ok(Page::default());
                }
                (Seek::Commit(commit), inner.groups.partition_point(|group| group.before.commit < commit))
            }
            Seek::Event(position) => {
                let position = position.max(Position(1));
                if position > inner.head.position {
                    return Ok(Page::default());
                }
                (
                    Seek::Event(position),
                    inner.groups.partition_point(|group| group.before.position < position),
                )
            }
        };
        let first = index - 1;
        let before = inner.groups[first].before;
        // As many groups as may be needed: the record may be the last of the first one.
        let mut page = inner.groups[first].bytes.clone();
        let enough = page.len().saturating_add(bytes);
        for group in &inner.groups[index..] {
            if page.len() >= enough || group.before.commit >= through {
                break;
            }
            page.extend_from_slice(&group.bytes);
        }
        drop(inner);
        let (records, bounds) = Page::from_walk(Walk::new(self.store, &page, before), from, through, bytes)?;
        Ok(Page { bytes: page, records, bounds })
    }

    fn walk(
        &self,
        after: &Head,
        step: &mut dyn FnMut(&Page, &Head) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let MemoryLogState { head: end, groups } = self.inner.read().clone();
        let from = groups.partition_point(|group| group.before.commit < after.commit);
        if groups.get(from).map_or(end, |group| group.before) != *after {
            return Err(LogError::NotAtHead { is: end.commit, expected: after.commit });
        }
        let mut head = *after;
        for group in &groups[from..] {
            let mut records = Vec::new();
            let after = group::verify(self.store, &head, &group.bytes, |found| records.push(found.body))
                .map_err(|fault| {
                    LogError::damaged(head.commit.next(), head.position.next(), &fault.to_string())
                })?;
            step(&Page { bytes: group.bytes.clone(), records, ..Page::default() }, &after)?;
            head = after;
        }
        assert_eq!(head, end, "the chain ends at the head");
        Ok(())
    }

    fn size(&self) -> LogSize {
        let inner = self.inner.read();
        LogSize { files: 0, bytes: inner.groups.iter().map(|group| group.bytes.len() as u64).sum() }
    }

    fn seal(&self) -> Result<(), LogError> {
        Ok(())
    }
}
