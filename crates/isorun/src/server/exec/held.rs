//! Output of a command that is held in memory until its answer is sent, counted
//! against the server's limit for that.

use std::{collections::VecDeque, sync::Arc};

use crate::server::limits::ledger::{Hold, Ledger};

/// Bytes of the first piece of memory, so that short outputs take little.
const FIRST_CHUNK: usize = 4 << 10;

/// Bytes of each further piece.
const CHUNK: usize = 64 << 10;

/// The beginning of a stream of output, as much as there is room for.
pub struct HeldOutput {
    chunks: VecDeque<Vec<u8>>,
    bytes: usize,
    max_bytes: usize,
    /// None if there was no room even for the first piece.
    hold: Option<Hold>,
    truncated: bool,
}

impl HeldOutput {
    /// Creates an empty one, of which a tenant's memory is taken.
    pub fn new(memory: &Arc<Ledger>, tenant: &str, max_bytes: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            bytes: 0,
            max_bytes,
            hold: memory.take(tenant, 0).ok(),
            truncated: false,
        }
    }

    /// Adds output at the end. What is over the limit of one answer, or finds no
    /// memory, is left out, and so is all that follows.
    pub fn add(&mut self, mut more: &[u8]) {
        if self.truncated {
            return;
        }
        let room = self.max_bytes - self.bytes;
        if more.len() > room {
            self.truncated = true;
            more = more.get(..room).unwrap_or_default();
        }
        while !more.is_empty() {
            let Some(chunk) = self.chunk_with_room() else {
                self.truncated = true;
                return;
            };
            let count = more.len().min(chunk.capacity() - chunk.len());
            let (now, later) = more.split_at(count);
            chunk.extend_from_slice(now);
            self.bytes += count;
            more = later;
        }
    }

    /// Whether the end of the output is missing.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// How many bytes are held.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Takes the next bytes out. Their memory is given back.
    pub fn take_chunk(&mut self) -> Option<Vec<u8>> {
        let chunk = self.chunks.pop_front()?;
        if let Some(hold) = &mut self.hold {
            hold.shrink(size_of_chunk(&chunk));
        }
        self.bytes -= chunk.len();
        Some(chunk)
    }

    fn chunk_with_room(&mut self) -> Option<&mut Vec<u8>> {
        if self.chunks.back().is_none_or(|chunk| chunk.len() == chunk.capacity()) {
            let size = if self.chunks.is_empty() { FIRST_CHUNK } else { CHUNK };
            let chunk = Vec::with_capacity(size);
            self.hold.as_mut()?.grow(size_of_chunk(&chunk)).ok()?;
            self.chunks.push_back(chunk);
        }
        self.chunks.back_mut()
    }
}

fn size_of_chunk(chunk: &Vec<u8>) -> u64 {
    u64::try_from(chunk.capacity()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(total: u64) -> Arc<Ledger> {
        Ledger::new("bytes", "--bytes", total, 100)
    }

    fn content(mut held: HeldOutput) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(chunk) = held.take_chunk() {
            all.extend(chunk);
        }
        all
    }

    #[test]
    fn output_is_held_up_to_the_limit_of_an_answer() {
        let memory = memory(1 << 30);
        for (pieces, piece, max, truncated) in
            [(0, 1, 10, false), (10, 1, 10, false), (11, 1, 10, true), (50, 9_999, 300_000, true)]
        {
            let mut held = HeldOutput::new(&memory, "t", max);
            let mut all = Vec::new();
            for number in 0..pieces {
                let piece = vec![number; piece];
                held.add(&piece);
                all.extend(piece);
            }
            all.truncate(max);
            assert_eq!((held.len(), held.is_truncated()), (all.len(), truncated));
            assert!(memory.used() as usize <= all.len() + FIRST_CHUNK + CHUNK);
            assert_eq!(content(held), all);
            assert_eq!(memory.used(), 0);
        }
    }

    #[test]
    fn what_finds_no_memory_is_left_out() {
        let memory = memory(200_000);
        let mut first = HeldOutput::new(&memory, "a", 1 << 20);
        first.add(&[1; 100_000]);
        let mut second = HeldOutput::new(&memory, "b", 1 << 20);
        second.add(&[2; 100_000]);
        assert!(!first.is_truncated() && second.is_truncated());
        assert_eq!(second.len(), FIRST_CHUNK);
        drop(first);
        second.add(b"x");
        assert_eq!(second.len(), FIRST_CHUNK, "a gap would be worse than an early end");
        drop(second);
        assert_eq!(memory.used(), 0);
    }
}
