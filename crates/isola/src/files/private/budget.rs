//! The limit of what a private tree may take.

/// What an entry of a directory counts in addition to its name, in bytes.
const ENTRY_CHARGE: u64 = 64;

/// The bytes that a private tree takes, and their limit.
#[derive(Clone)]
pub(crate) struct Budget {
    used: u64,
    max: u64,
}

/// The limit would be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Budget {
    pub(super) fn new(used: u64, max: u64) -> Self {
        Self { used, max }
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// Sets another limit. It may be less than what is in use: then nothing can be added.
    pub(super) fn set_max(&mut self, max: u64) {
        self.max = max;
    }

    /// Replaces a charge by another.
    pub(super) fn change(&mut self, old: u64, new: u64) -> Result<(), Full> {
        let used = self.used.saturating_sub(old).saturating_add(new);
        if new > old && used > self.max {
            return Err(Full);
        }
        self.used = used;
        Ok(())
    }

    pub(super) fn release(&mut self, charge: u64) {
        self.used = self.used.saturating_sub(charge);
    }
}

/// Returns what an entry of a directory counts, in bytes.
pub(super) fn entry_charge(name: &str) -> u64 {
    ENTRY_CHARGE + name.len() as u64
}
