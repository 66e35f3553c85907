//! Collecting the ends of processes: those that a connection waits for, and
//! orphans. What stops and could never be continued by hand is continued.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::oneshot;

use isorun_agent::protocol::Status;

use super::launch::is_terminal_stop;

/// Who waits for which process.
///
/// Spawning and reaping happen on one thread, and a spawned process is watched
/// before anything else happens there. So an end cannot come before its watcher,
/// and a number cannot be that of another process.
#[derive(Default)]
pub struct Reaper {
    watched: RefCell<HashMap<Pid, Watched>>,
}

struct Watched {
    end: oneshot::Sender<Status>,
    on_stop: OnStop,
}

/// What is done when a watched process stops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// Its group is continued if it was stopped as by a terminal, which Linux
    /// does not do to a program that no shell has started.
    ContinueGroup,
    /// It is continued, whatever has stopped it: without it a session would stand
    /// still.
    Continue,
}

/// Arrives whenever children may have ended.
pub fn signals() -> io::Result<unix::Signal> {
    unix::signal(SignalKind::child())
}

impl Reaper {
    /// Resolves when a process that was just spawned ends.
    pub fn watch(&self, pid: Pid, on_stop: OnStop) -> oneshot::Receiver<Status> {
        let (end, receiver) = oneshot::channel();
        self.watched.borrow_mut().insert(pid, Watched { end, on_stop });
        receiver
    }

    /// Collects every process that has ended.
    pub fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Status::Code(code),
                (None, Some(signal)) => Status::Signal(signal),
                (None, None) => {
                    self.stopped(pid, status.stopping_signal());
                    continue;
                }
            };
            if let Some(watched) = self.watched.borrow_mut().remove(&pid) {
                // A connection that went away does not care any more.
                let _ = watched.end.send(status);
            }
        }
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
