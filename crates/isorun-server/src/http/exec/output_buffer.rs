//! Output of a command that is held in memory until the response is sent, counted
//! against the server's memory limit for it.

use std::{collections::VecDeque, sync::Arc};

use crate::core::accounts::ledger::{Hold, Ledger};

/// The size of the first chunk in bytes: small, for short outputs.
const FIRST_CHUNK_BYTES: usize = 4 << 10;

/// The size of each further chunk in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// The start of an output stream, up to a size limit.
pub struct OutputBuffer {
    chunks: VecDeque<Vec<u8>>,
    bytes: usize,
    max_bytes: usize,
    /// The reserved memory; `None` if the limit was already reached.
    hold: Option<Hold>,
    truncated: bool,
}

impl OutputBuffer {
    /// Creates an empty buffer that counts against a tenant's memory.
    pub fn new(memory: &Arc<Ledger>, tenant: &str, max_bytes: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            bytes: 0,
            max_bytes,
            hold: memory.take(tenant, 0).ok(),
            truncated: false,
        }
    }

    /// Appends output. Output beyond the size limit, or for which no memory can be
    /// reserved, is dropped, and so is all that follows.
    pub fn add(&mut self, mut more: &[u8]) {
        if self.truncated {
            return;
        }
        let remaining = self.max_bytes - self.bytes;
        if more.len() > remaining {
            self.truncated = true;
            more = more.get(..remaining).unwrap_or_default();
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

    /// Reports whether output was dropped.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Returns the number of bytes in the buffer.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Removes and returns the next chunk, and releases its memory.
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
            let size = if self.chunks.is_empty() { FIRST_CHUNK_BYTES } else { CHUNK_BYTES };
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

    fn content(mut held: OutputBuffer) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(chunk) = held.take_chunk() {
            all.extend(chunk);
        }
        all
    }

    #[test]
    fn held_output_is_bounded() {
        let memory = memory(1 << 30);
        for (pieces, piece, max, truncated) in
            [(0, 1, 10, false), (10, 1, 10, false), (11, 1, 10, true), (50, 9_999, 300_000, true)]
        {
            let mut held = OutputBuffer::new(&memory, "t", max);
            let mut all = Vec::new();
            for number in 0..pieces {
                let piece = vec![number; piece];
                held.add(&piece);
                all.extend(piece);
            }
            all.truncate(max);
            assert_eq!((held.len(), held.is_truncated()), (all.len(), truncated));
            assert!(memory.used() as usize <= all.len() + FIRST_CHUNK_BYTES + CHUNK_BYTES);
            assert_eq!(content(held), all);
            assert_eq!(memory.used(), 0);
        }
    }

    #[test]
    fn output_beyond_the_available_memory_is_truncated() {
        let memory = memory(200_000);
        let mut first = OutputBuffer::new(&memory, "a", 1 << 20);
        first.add(&[1; 100_000]);
        let mut second = OutputBuffer::new(&memory, "b", 1 << 20);
        second.add(&[2; 100_000]);
        assert!(!first.is_truncated() && second.is_truncated());
        assert_eq!(second.len(), FIRST_CHUNK_BYTES);
        drop(first);
        second.add(b"x");
        assert_eq!(second.len(), FIRST_CHUNK_BYTES, "no output is added after a gap");
        drop(second);
        assert_eq!(memory.used(), 0);
    }
}
