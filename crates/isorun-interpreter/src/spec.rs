//! The parameters of an interpreter.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use isola::Limits;
use isorun_agent::SandboxId;
use isorun_egress::Plan;

use crate::{error::Error, image::InterpreterImage};

/// The parameters of an interpreter.
#[derive(Clone, Debug)]
pub struct InterpreterSpec {
    /// The id, chosen by the caller; unique among the existing interpreters.
    pub id: SandboxId,
    /// The tenant, among whose interpreters its turns are divided.
    pub tenant: Arc<str>,
    /// The image.
    pub image: InterpreterImage,
    /// The memory of the interpreter, in MiB. Beyond it allocations fail.
    pub mem_mib: u64,
    /// The size of its files, which are in memory, in MiB. Beyond it writing fails.
    pub disk_mib: u64,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The network configuration.
    pub network: Plan,
}

impl InterpreterSpec {
    /// The range of memory, in MiB: WebAssembly has addresses of 32 bits.
    pub const MEM_MIB: RangeInclusive<u64> = 32..=4096;
    /// The range of the size of files, in MiB.
    pub const DISK_MIB: RangeInclusive<u64> = 1..=4096;
    /// The default memory, in MiB.
    pub const DEFAULT_MEM_MIB: u64 = 256;
    /// The default size of files, in MiB.
    pub const DEFAULT_DISK_MIB: u64 = 64;

    /// Checks the limits.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the limit, its value and its range.
    pub fn validate(&self) -> Result<(), Error> {
        for (name, value, range) in
            [("mem_mib", self.mem_mib, Self::MEM_MIB), ("disk_mib", self.disk_mib, Self::DISK_MIB)]
        {
            if !range.contains(&value) {
                return Err(Error::Invalid(format!(
                    "{name} is {value}: give a value from {} to {} for {}",
                    range.start(),
                    range.end(),
                    self.image
                )));
            }
        }
        Ok(())
    }

    /// Returns the limits of the sandbox. The server limits the time of each call.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_memory: usize::try_from(self.mem_mib << 20).unwrap_or(usize::MAX),
            max_storage: usize::try_from(self.disk_mib << 20).unwrap_or(usize::MAX),
            cpu_timeout: None,
            timeout: None,
            ..Limits::default()
        }
    }
}
