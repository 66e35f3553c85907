//! The limits of a sandbox.

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
/// | [`max_storage`](Self::max_storage) | 64 MiB |
/// | [`max_handles`](Self::max_handles) | 1,024 |
/// | [`max_requests`](Self::max_requests) | 64 |
///
/// Exceeding a limit is reported as [`Error::Limit`](crate::Error::Limit), or,
/// for pending hostcalls, held memory, storage and requests, as an exception in the
/// guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The linear memory of the sandbox in bytes, including the memory of the
    /// interpreter itself.
    pub max_memory: usize,
    /// The CPU time of one call, without the time spent waiting for the host.
    /// `None`: no limit.
    pub cpu_timeout: Option<Duration>,
    /// The wall time of one call, including the time spent waiting. `None`: no limit.
    pub timeout: Option<Duration>,
    /// The size of the JSON text of one value, in both directions, in bytes.
    pub max_value_size: usize,
    /// The total size of standard output, standard error, logs and partial
    /// results of one call, in bytes.
    pub max_output_size: usize,
    /// The largest depth of nested Python calls. A JavaScript guest has the limit
    /// of its engine.
    pub max_recursion: u32,
    /// The number of concurrent hostcalls. Another one fails in the guest.
    pub max_pending_hostcalls: usize,
    /// The memory that the host holds for the guest, in bytes: payloads of
    /// pending hostcalls, and results that the guest has not fetched. A hostcall
    /// that would exceed it fails in the guest. The buffers of file streams have
    /// a separate limit of the same size.
    pub max_held_memory: usize,
    /// The size of the sandbox's own files, in bytes, with what the names and the empty
    /// files take. Writing more fails in the guest, as on a full disk. 0: the sandbox has
    /// no files of its own, and its root directory, which leads to its mounts, cannot be
    /// changed.
    pub max_storage: usize,
    /// The number of files, directories, streams and timers that are open at
    /// once. At most 256 of them are files and directories, or fewer if the
    /// process has a low limit of file descriptors; opening another one raises an
    /// exception in the guest.
    pub max_handles: usize,
    /// The number of concurrent HTTP requests, each up to the end of the
    /// response's body. Another one fails in the guest.
    pub max_requests: usize,
}

impl Limits {
    /// Returns the largest size of one message of a guest, in bytes. It is more
    /// than that of any value or output, so that their own limits apply first.
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
            max_storage: 64 << 20,
            max_handles: 1_024,
            max_requests: 64,
        }
    }
}
