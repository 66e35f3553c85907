//! The content of a file of the private tree: blocks that copies of the tree share
//! until one of them writes.

use std::{collections::BTreeMap, sync::Arc};

use super::budget::{Budget, Full};

/// The size of a block, in bytes.
const BLOCK_BYTES: u64 = 64 << 10;

/// The smallest allocation for a block, in bytes.
const MIN_ALLOCATION: usize = 256;

/// What a block counts in addition to its bytes: its place in the map and its pointers.
const BLOCK_OVERHEAD: u64 = 64;

/// The largest size of a file, in bytes: that of an offset in C.
pub(super) const MAX_SIZE: u64 = i64::MAX as u64;

/// The bytes of a file. What was never written is zero and takes no memory.
#[derive(Clone, Default)]
pub(super) struct Content {
    size: u64,
    /// The blocks by their number. Bytes beyond the end of a block are zero.
    blocks: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Content {
    /// Returns its size, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns what its blocks count against the budget, in bytes.
    pub(super) fn charged(&self) -> u64 {
        self.blocks.values().map(|block| charge(block.len())).sum()
    }

    /// Returns at most `length` bytes from `offset`; fewer only at the end of the file.
    pub(super) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let available = self.size.saturating_sub(offset).min(length as u64);
        let mut bytes = Vec::with_capacity(available as usize);
        let end = offset + available;
        let mut at = offset;
        while at < end {
            let (number, from) = (at / BLOCK_BYTES, (at % BLOCK_BYTES) as usize);
            let next = ((number + 1) * BLOCK_BYTES).min(end);
            let wanted = (next - at) as usize;
            let block = self.blocks.get(&number).map_or(&[][..], |block| block.as_slice());
            let part = block.get(from..).unwrap_or_default();
            let part = &part[..part.len().min(wanted)];
            bytes.extend_from_slice(part);
            bytes.resize(bytes.len() + wanted - part.len(), 0);
            at = next;
        }
        bytes
    }

    /// Writes bytes at `offset`, and returns how many: fewer if the budget is used up, but
    /// at least one.
    pub(super) fn write(
        &mut self,
        offset: u64,
        bytes: &[u8],
        budget: &mut Budget,
    ) -> Result<usize, Full> {
        let mut written = 0;
        while written < bytes.len() {
            let at = offset + written as u64;
            let (number, from) = (at / BLOCK_BYTES, (at % BLOCK_BYTES) as usize);
            let wanted = (bytes.len() - written).min(BLOCK_BYTES as usize - from);
            let part = &bytes[written..written + wanted];
            match self.write_block(number, from, part, budget) {
                Ok(()) => {}
                Err(full) if written == 0 => return Err(full),
                Err(_) => break,
            }
            written += wanted;
            self.size = self.size.max(at + wanted as u64);
        }
        Ok(written)
    }

    fn write_block(
        &mut self,
        number: u64,
        from: usize,
        part: &[u8],
        budget: &mut Budget,
    ) -> Result<(), Full> {
        let old = self.blocks.get(&number).map(|block| block.len());
        let len = old.unwrap_or(0).max(from + part.len());
        budget.change(old.map_or(0, charge), charge(len))?;
        let block = self.blocks.entry(number).or_default();
        let bytes = own(block, len);
        bytes.resize(len, 0);
        bytes[from..from + part.len()].copy_from_slice(part);
        Ok(())
    }

    /// Cuts the file, or extends it by zeros.
    pub(super) fn set_size(&mut self, size: u64, budget: &mut Budget) {
        if size < self.size {
            let (last, rest) = (size / BLOCK_BYTES, (size % BLOCK_BYTES) as usize);
            let removed = self.blocks.split_off(&(last + u64::from(rest > 0)));
            budget.release(removed.values().map(|block| charge(block.len())).sum());
            if rest > 0
                && let Some(block) = self.blocks.get_mut(&last)
                && block.len() > rest
            {
                budget.release(charge(block.len()) - charge(rest));
                let mut shorter = Vec::with_capacity(allocation(rest));
                shorter.extend_from_slice(&block[..rest]);
                *block = Arc::new(shorter);
            }
        }
        self.size = size;
    }

    /// Returns content that replaces this one, for which the budget is changed.
    pub(super) fn replaced(&self, bytes: &[u8], budget: &mut Budget) -> Result<Self, Full> {
        let blocks = bytes.chunks(BLOCK_BYTES as usize);
        let new = blocks.clone().map(|block| charge(block.len())).sum();
        budget.change(self.charged(), new)?;
        let copy = |block: &[u8]| {
            let mut copy = Vec::with_capacity(allocation(block.len()));
            copy.extend_from_slice(block);
            Arc::new(copy)
        };
        Ok(Self { size: bytes.len() as u64, blocks: (0..).zip(blocks.map(copy)).collect() })
    }

    /// Returns the blocks: the offset and the bytes of each.
    pub(super) fn blocks(&self) -> impl ExactSizeIterator<Item = (u64, &[u8])> {
        self.blocks.iter().map(|(number, block)| (number * BLOCK_BYTES, block.as_slice()))
    }
}

/// Returns the bytes of a block for a change, with an allocation for `len` of them. A
/// shared block is copied.
fn own(block: &mut Arc<Vec<u8>>, len: usize) -> &mut Vec<u8> {
    let shared = Arc::get_mut(block).is_none();
    if shared || block.capacity() < len {
        let mut copy = Vec::with_capacity(allocation(len));
        copy.extend_from_slice(block);
        *block = Arc::new(copy);
    }
    Arc::make_mut(block)
}

/// Returns the size of the allocation for a block of `len` bytes. It doubles, so that a
/// file that grows byte by byte is copied only a few times.
fn allocation(len: usize) -> usize {
    len.next_power_of_two().clamp(MIN_ALLOCATION, BLOCK_BYTES as usize)
}

/// Returns what a block of `len` bytes counts.
fn charge(len: usize) -> u64 {
    allocation(len) as u64 + BLOCK_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares a sequence of changes with the same changes of a vector.
    #[test]
    fn content_is_that_of_a_vector() {
        let mut budget = Budget::new(0, 64 << 20);
        let (mut content, mut expected) = (Content::default(), Vec::<u8>::new());
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut copies: Vec<(Content, Vec<u8>)> = Vec::new();
        for round in 0..2_000_u32 {
            let offset = random(300_000) as usize;
            match random(10) {
                0 => {
                    content.set_size(offset as u64, &mut budget);
                    expected.resize(offset, 0);
                }
                1 => copies.push((content.clone(), expected.clone())),
                _ => {
                    let bytes = vec![round as u8; random(100_000) as usize];
                    let end = offset + bytes.len();
                    let written = content.write(offset as u64, &bytes, &mut budget).unwrap();
                    assert_eq!(written, bytes.len());
                    if !bytes.is_empty() {
                        expected.resize(expected.len().max(end), 0);
                        expected[offset..end].copy_from_slice(&bytes);
                    }
                }
            }
            assert_eq!(content.size(), expected.len() as u64);
            assert_eq!(budget.used(), content.charged());
            let (from, length) = (random(300_000) as usize, random(200_000) as usize);
            let range = from.min(expected.len())
                ..(from + length).min(expected.len()).max(from.min(expected.len()));
            assert_eq!(content.read(from as u64, length), expected[range]);
            if copies.len() > 4 {
                copies.remove(0);
            }
        }
        for (copy, expected) in copies {
            assert!(copy.read(0, 1 << 20) == expected, "a copy was changed");
        }
    }

    #[test]
    fn holes_take_no_memory() {
        let mut budget = Budget::new(0, 1 << 20);
        let mut content = Content::default();
        content.set_size(MAX_SIZE, &mut budget);
        assert_eq!(budget.used(), 0);
        content.write(1 << 40, b"x", &mut budget).unwrap();
        assert!(budget.used() < 4 << 10 << 10);
        assert_eq!(content.read((1 << 40) - 1, 3), b"\0x\0");
        content.set_size(0, &mut budget);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn write_beyond_the_budget_is_partial_or_an_error() {
        let mut budget = Budget::new(0, 100_000);
        let mut content = Content::default();
        assert_eq!(content.write(0, &[1; 200_000], &mut budget).unwrap(), 65_536);
        assert!(content.write(65_536, &[1; 65_536], &mut budget).is_err());
        assert_eq!(content.size(), 65_536);
        assert_eq!(budget.used(), content.charged());
        // What exists can be overwritten.
        assert_eq!(content.write(10, &[2; 100], &mut budget).unwrap(), 100);
    }
}
