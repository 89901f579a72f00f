//! The floor: a raw log in a file whose bytes are there already, and nothing else.
//!
//! ```text
//! frame := len u32 · crc32c u32 · record 168        176 bytes for one event
//! ```
//!
//! - The same hand-over as the store's: a bounded channel to one writer thread, a group is whatever is queued, and each
//!   answer goes back through a slot with a condition variable.
//! - One write and one sync for a group.

use super::drive::Engine;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Stream, key, version and payload of one event.
pub const RECORD_BYTES: usize = 168;
pub const FRAME_BYTES: usize = RECORD_BYTES + 8;
/// As the store's defaults.
const QUEUE_LEN: usize = 4096;
const GROUP_LEN: usize = 1024;
/// The file is written around and around, always over bytes that are there.
const FILE_BYTES: u64 = 256 << 20;

pub struct RawLog {
    send: Option<Sender<Message>>,
    writer: Option<JoinHandle<()>>,
    syncs: Arc<AtomicU64>,
}

struct Message {
    records: Vec<u8>,
    slot: Arc<Slot>,
}

/// As the store's reply: filled once, waited for by one.
#[derive(Default)]
pub struct Slot {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    answer: Option<u64>,
    sleeping: bool,
}

impl Slot {
    fn fill(&self, answer: u64) {
        let mut state = self.state.lock();
        state.answer = Some(answer);
        let sleeping = state.sleeping;
        drop(state);
        if sleeping {
            self.filled.notify_one();
        }
    }

    fn wait(&self) -> u64 {
        let mut state = self.state.lock();
        loop {
            if let Some(answer) = state.answer.take() {
                return answer;
            }
            state.sleeping = true;
            self.filled.wait(&mut state);
            state.sleeping = false;
        }
    }
}

impl RawLog {
    pub fn create(path: &Path) -> Self {
        let file = File::options().create_new(true).read(true).write(true).open(path).expect("a fresh file");
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at).expect("room on the disk");
        }
        file.sync_all().expect("a disk that works");
        let (send, receive) = bounded(QUEUE_LEN);
        let syncs = Arc::new(AtomicU64::new(0));
        let count = syncs.clone();
        let writer = std::thread::spawn(move || write(&file, &receive, &count));
        Self { send: Some(send), writer: Some(writer), syncs }
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

impl Drop for RawLog {
    fn drop(&mut self) {
        self.send = None;
        self.writer.take().expect("dropped once").join().expect("the floor's writer does not panic");
    }
}

fn write(file: &File, receive: &Receiver<Message>, syncs: &AtomicU64) {
    let (mut end, mut number) = (0, 0);
    let mut buffer = Vec::new();
    while let Ok(first) = receive.recv() {
        buffer.clear();
        let mut slots = Vec::with_capacity(GROUP_LEN);
        let mut next = Some(first);
        while let Some(Message { records, slot }) = next {
            for record in records.chunks(RECORD_BYTES) {
                buffer.extend_from_slice(&(record.len() as u32).to_le_bytes());
                buffer.extend_from_slice(&crc32c::crc32c(record).to_le_bytes());
                buffer.extend_from_slice(record);
            }
            slots.push(slot);
            next = if slots.len() < GROUP_LEN { receive.try_recv().ok() } else { None };
        }
        if end + buffer.len() as u64 > FILE_BYTES {
            end = 0;
        }
        file.write_all_at(&buffer, end).expect("room on the disk");
        file.sync_data().expect("a disk that works");
        syncs.fetch_add(1, Ordering::Relaxed);
        end += buffer.len() as u64;
        for slot in slots {
            number += 1;
            slot.fill(number);
        }
    }
}

impl Engine for RawLog {
    type Ticket = Arc<Slot>;

    fn submit(&self, numbers: Range<u64>) -> Arc<Slot> {
        let mut records = Vec::with_capacity(RECORD_BYTES * (numbers.end - numbers.start) as usize);
        for number in numbers {
            let start = records.len();
            records.extend_from_slice(&super::workload::spread(number).to_le_bytes());
            records.resize(start + RECORD_BYTES, number as u8);
        }
        let slot = Arc::<Slot>::default();
        let message = Message { records, slot: slot.clone() };
        self.send.as_ref().expect("open until dropped").send(message).expect("the floor's writer runs");
        slot
    }

    fn wait(&self, ticket: Arc<Slot>) {
        ticket.wait();
    }
}
