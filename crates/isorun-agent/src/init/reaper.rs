//! Collecting the ends of processes: those that a connection waits for, and
//! orphans.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

use rustix::process::{Pid, WaitOptions, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use isorun_agent::protocol::Status;

/// Who waits for which process.
///
/// Spawning and reaping happen on one thread, and a spawned process is watched
/// before anything else happens there. So an end cannot come before its watcher,
/// and a number cannot be that of another process.
#[derive(Default)]
pub struct Reaper {
    watched: RefCell<HashMap<Pid, oneshot::Sender<Status>>>,
}

/// Arrives whenever children may have ended.
pub fn signals() -> io::Result<Signal> {
    signal(SignalKind::child())
}

impl Reaper {
    /// Resolves when a process that was just spawned ends.
    pub fn watch(&self, pid: Pid) -> oneshot::Receiver<Status> {
        let (sender, receiver) = oneshot::channel();
        self.watched.borrow_mut().insert(pid, sender);
        receiver
    }

    /// Collects every process that has ended.
    pub fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Status::Code(code),
                (None, Some(signal)) => Status::Signal(signal),
                // Stopped or continued, which was not asked for.
                (None, None) => continue,
            };
            if let Some(sender) = self.watched.borrow_mut().remove(&pid) {
                // A connection that went away does not care any more.
                let _ = sender.send(status);
            }
        }
    }
}
