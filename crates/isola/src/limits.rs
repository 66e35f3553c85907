//! What a sandbox may use.

use std::time::Duration;

/// The limits of a sandbox and of each call in it.
///
/// Every limit has a safe default:
///
/// | limit | default |
/// |---|---|
/// | [`max_memory`](Self::max_memory) | 256 MiB |
/// | [`cpu_timeout`](Self::cpu_timeout) | 30 s |
/// | [`timeout`](Self::timeout) | none |
/// | [`max_value_size`](Self::max_value_size) | 16 MiB |
/// | [`max_output_size`](Self::max_output_size) | 16 MiB |
/// | [`max_recursion`](Self::max_recursion) | 1,000 |
/// | [`max_pending_hostcalls`](Self::max_pending_hostcalls) | 4,096 |
/// | [`max_held_memory`](Self::max_held_memory) | 64 MiB |
/// | [`max_handles`](Self::max_handles) | 1,024 |
/// | [`max_requests`](Self::max_requests) | 64 |
///
/// What happens at each is told by [`Error::Limit`](crate::Error::Limit), or,
/// for pending hostcalls, held memory and requests, by an exception in the
/// guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// All linear memory of the sandbox, in bytes. What the interpreter itself
    /// needs counts.
    pub max_memory: usize,
    /// CPU time of one call. Waiting for the host does not count. `None`: no
    /// limit.
    pub cpu_timeout: Option<Duration>,
    /// Wall time of one call, waiting included. `None`: no limit.
    pub timeout: Option<Duration>,
    /// The JSON text of one value, either way, in bytes.
    pub max_value_size: usize,
    /// Standard output, standard error, logs and partial results of one call
    /// together, in bytes.
    pub max_output_size: usize,
    /// How deep Python calls may nest. A JavaScript guest has its engine's own
    /// limit.
    pub max_recursion: u32,
    /// Hostcalls that are under way at once. One more fails in the guest.
    pub max_pending_hostcalls: usize,
    /// What the host holds for the guest, in bytes: payloads of hostcalls
    /// under way, and results that the guest did not fetch yet. A hostcall
    /// that would go over it fails in the guest. The buffers of file streams
    /// have as much again.
    pub max_held_memory: usize,
    /// Files, directories, streams and timers that are open at once. Of files
    /// and directories there are 256 at most, and fewer where the process may
    /// not have many descriptors; one more is an exception in the guest.
    pub max_handles: usize,
    /// HTTP requests under way at once, up to the end of the response's body.
    /// One more fails in the guest.
    pub max_requests: usize,
}

impl Limits {
    /// What a guest may hand over at once, in bytes. It is more than any value
    /// or output, so that those meet their own limits first.
    pub(crate) fn max_message(&self) -> usize {
        let largest = self.max_value_size.max(self.max_output_size).max(self.max_held_memory);
        largest.saturating_add(1 << 20)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_memory: 256 << 20,
            cpu_timeout: Some(Duration::from_secs(30)),
            timeout: None,
            max_value_size: 16 << 20,
            max_output_size: 16 << 20,
            max_recursion: 1_000,
            max_pending_hostcalls: 4_096,
            max_held_memory: 64 << 20,
            max_handles: 1_024,
            max_requests: 64,
        }
    }
}
