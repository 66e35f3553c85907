//! Sets bits in the linear memory of a guest while it is suspended: the only unsafe step
//! of an interrupt.
//!
//! The epoch callback of a store has no access to the memory of a component's guest, so
//! its address is kept. The invariants, and what upholds them:
//!
//! 1. *The range stays the memory of this guest.* It is the slice that wasmtime returned for
//!    the list `(0, memory.size)` of our accessor. wasmtime reserves 4 GiB of addresses for
//!    each memory, within which it grows, so it never moves or shrinks (`state/map.rs`
//!    depends on that, too). The value is a part of the store's data, and is used only from
//!    within calls of that store: so the store exists, and with it its memory.
//! 2. *No other code accesses the bytes meanwhile.* The epoch callback and host functions
//!    run on the guest's thread, while the guest is suspended in a check of the epoch or in
//!    a call. There is no shared memory and no reference to these bytes: host functions
//!    borrow the memory only to copy arguments.
//! 3. *The word is within the range*: each use is checked. Its value is the guest's own
//!    affair, as if it had written it itself.

/// The linear memory of a guest.
pub(crate) struct GuestMemory {
    address: usize,
    len: usize,
}

/// The size of a word in bytes.
const WORD_BYTES: usize = size_of::<u32>();

impl GuestMemory {
    /// Keeps the address of a guest's memory.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { address: bytes.as_ptr().cast_mut().expose_provenance(), len: bytes.len() }
    }

    /// Keeps the address of bytes of a test.
    #[cfg(test)]
    pub(crate) fn of_cells(bytes: &[std::sync::atomic::AtomicU8]) -> Self {
        Self { address: bytes.as_ptr().cast_mut().expose_provenance(), len: bytes.len() }
    }

    /// Reports whether the word at an address is within the memory.
    pub(crate) fn contains(&self, address: u32) -> bool {
        (address as usize).checked_add(WORD_BYTES).is_some_and(|end| end <= self.len)
    }

    /// Sets bits of the word at an address of the guest, if it is within the memory.
    #[allow(unsafe_code, reason = "writing to a memory that wasmtime owns")]
    pub(crate) fn set_bits(&mut self, address: u32, mask: u32) {
        if !self.contains(address) {
            return;
        }
        let word = std::ptr::with_exposed_provenance_mut::<[u8; WORD_BYTES]>(
            self.address + address as usize,
        );
        // SAFETY: the word is within the memory of the guest (3), which exists (1) and which
        // no other code accesses now (2). Arrays of bytes have no alignment, and every value
        // is valid.
        unsafe {
            let value = u32::from_le_bytes(word.read());
            word.write((value | mask).to_le_bytes());
        }
    }
}
