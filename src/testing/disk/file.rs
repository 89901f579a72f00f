//! A handle on a simulated file.
//!
//! - It belongs to one process and does nothing once that is gone.
//! - It leads to the file, not to its name.

use super::SimDisk;
use super::fault::{Fault, Op};
use super::state::{Call, State};
use super::tree::NodeId;
use crate::disk::{Access, File, Lock, LockState};
use crate::sync::atomic::{AtomicBool, Ordering};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// One open file of one process.
pub(super) struct SimFile {
    pub disk: SimDisk,
    /// As it was opened; the file may be called something else by now.
    pub name: String,
    pub node: NodeId,
    pub boot: u64,
    pub access: Access,
    /// Asked only to count what must not be done.
    pub sync_failed: AtomicBool,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile {{ {} }}", self.name)
    }
}

impl SimFile {
    fn look<T>(&self, op: Op, body: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        state.alive(self.boot)?;
        state.look(op, &self.name, body)
    }

    fn mutate<T>(
        &self,
        call: Call<'_>,
        body: impl FnOnce(&mut State, u64, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        state.alive(self.boot)?;
        state.mutate(call, body)
    }

    fn writable(&self, end: Option<u64>) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading"));
        }
        match end {
            Some(end) if i64::try_from(end).is_ok() => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "no file is that long")),
        }
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.look(Op::Len, |state| Ok(state.tree.file(self.node).data.live().len()))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.look(Op::Read, |state| {
            let data = &state.tree.file(self.node).data;
            let end = offset.checked_add(out.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
            if !out.is_empty() && end > data.live().len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !data.is_readable(offset..end) {
                state.stats.unreadable += 1;
                return Err(io::Error::other("bytes made unreadable"));
            }
            data.live().read(offset, out);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (len, digest) = (data.len() as u64, crc32c::crc32c(data).into());
        self.mutate(Call { op: Op::Write, path: &self.name, offset, len, digest }, |state, number, fault| {
            self.writable(offset.checked_add(len))?;
            state.write(self.node, number, offset, data, fault)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.mutate(Call { len, ..Call::of(Op::SetLen, &self.name) }, |state, number, _| {
            self.writable(Some(len))?;
            state.set_len(self.node, number, len)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.mutate(Call::of(Op::Sync, &self.name), |state, number, fault| {
            state.sync(self.node, number, fault)
        });
        let failed_before = self.sync_failed.fetch_or(result.is_err(), Ordering::Relaxed);
        if failed_before {
            self.disk.0.lock().stats.syncs_after_failed_sync += 1;
        }
        result
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.boot == self.boot {
            state.tree.file_mut(self.node).open -= 1;
        }
    }
}

/// A lock of one process on a file or directory.
pub(super) struct SimLock {
    pub disk: SimDisk,
    pub path: PathBuf,
    pub node: NodeId,
    pub boot: u64,
    pub process: u32,
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimLock {{ {} }}", self.path.display())
    }
}

impl Lock for SimLock {
    fn state(&self) -> io::Result<LockState> {
        let mut state = self.disk.0.lock();
        state.alive(self.boot)?;
        Ok(match state.tree.find(&self.path) {
            _ if state.process != self.process => LockState::Forked,
            Ok(node) if node == self.node => LockState::Held,
            _ => LockState::Gone,
        })
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.boot == self.boot {
            state.locks.remove(&self.node);
        }
    }
}
