//! Waits for the exit of a process that is not a child.
// Registering a descriptor is `unsafe` in tokio, for types that may change or
// close theirs.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process that is watched.
pub struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// Opens a process. The error `ESRCH` means that it does not exist.
    pub fn open(pid: Pid) -> io::Result<Self> {
        let process = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` stays open and the same until it is dropped, and
        // nothing takes it out of the `AsyncFd`.
        let process = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?;
        Ok(Self(process))
    }

    /// Resolves when the process has exited.
    pub async fn exited(&self) {
        // An error means that the runtime shuts down; then the result does not matter.
        let _ = self.0.readable().await;
    }
}
