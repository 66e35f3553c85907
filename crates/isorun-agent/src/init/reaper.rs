//! Reaps processes: those that a connection waits for, and orphans. Continues
//! stopped processes that could not be continued by hand.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::oneshot;

use isorun_agent::protocol::Status;

use super::launch::is_terminal_stop;

/// The number of processes that are reaped before other tasks run.
const MAX_REAPED_AT_ONCE: usize = 4;

/// The processes whose exit is waited for.
///
/// Spawning and reaping happen on one thread, and a spawned process is watched
/// before anything else happens there. So the watcher exists before the exit is
/// reaped, and the process id cannot have been reused.
#[derive(Default)]
pub struct Reaper {
    watched: RefCell<HashMap<Pid, Watched>>,
}

struct Watched {
    end: oneshot::Sender<Status>,
    on_stop: OnStop,
}

/// The action when a watched process stops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// Continues its process group if the signal was one that a terminal sends. On
    /// Linux such a signal does not stop a program that was not started by a shell.
    ContinueGroup,
    /// Continues the process after any stop signal; otherwise the session would hang.
    Continue,
}

/// The exit of a process. `None` after its status was received.
pub struct Exit(Option<oneshot::Receiver<Status>>);

impl Exit {
    /// Resolves with the exit status when the process has exited, and never again after
    /// that. May be cancelled.
    pub async fn wait(&mut self) -> Status {
        let Some(receiver) = &mut self.0 else { return std::future::pending().await };
        let status = receiver.await.unwrap_or(Status::Signal(9));
        self.0 = None;
        status
    }

    /// Reports whether the exit status was received.
    pub fn is_received(&self) -> bool {
        self.0.is_none()
    }
}

/// Returns a stream that yields an item when children may have exited.
pub fn signals() -> io::Result<unix::Signal> {
    unix::signal(SignalKind::child())
}

impl Reaper {
    /// Returns the exit of a process that was just spawned.
    pub fn watch(&self, pid: Pid, on_stop: OnStop) -> Exit {
        let (end, receiver) = oneshot::channel();
        self.watched.borrow_mut().insert(pid, Watched { end, on_stop });
        Exit(Some(receiver))
    }

    /// Reaps processes that have exited. Returns whether there may be more.
    ///
    /// The orphans of a fork bomb exit as fast as they are reaped, so the caller lets other
    /// tasks run in between: one of them kills the bomb.
    pub fn reap_some(&self) -> bool {
        for _ in 0..MAX_REAPED_AT_ONCE {
            let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) else {
                return false;
            };
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Status::Code(code),
                (None, Some(signal)) => Status::Signal(signal),
                (None, None) => {
                    self.stopped(pid, status.stopping_signal());
                    continue;
                }
            };
            if let Some(watched) = self.watched.borrow_mut().remove(&pid) {
                // The connection may have ended.
                let _ = watched.end.send(status);
            }
        }
        true
    }

    fn stopped(&self, pid: Pid, signal: Option<i32>) {
        let on_stop = self.watched.borrow().get(&pid).map(|watched| watched.on_stop);
        // It may have been killed meanwhile.
        let _ = match on_stop {
            Some(OnStop::Continue) => kill_process(pid, Signal::CONT),
            Some(OnStop::ContinueGroup) if signal.is_some_and(is_terminal_stop) => {
                kill_process_group(pid, Signal::CONT)
            }
            _ => Ok(()),
        };
    }
}
