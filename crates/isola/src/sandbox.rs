//! A sandbox: an isolated interpreter with its own state.
//!
//! ```text
//!            create            start             call, script
//!  Template ────────▶ pending ───────▶ idle ◀──────────────────▶ busy
//!                        │               │                        │
//!                        └───────────────┴──── close, cancel, ────┘
//!                                        ▼     a limit, a crash
//!                                     closed
//! ```
//!
//! `lifecycle` is this state machine and `instance` the guest that it owns. An
//! operation takes the guest with a `lease`; `call` runs the operation. The handle,
//! in this file, and `builder` are above them. `Sandbox::snapshot` and
//! `Sandbox::fork` are in `snapshot.rs`, which depends on this module.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub use self::{
    builder::SandboxBuilder,
    call::{Answer, Call, EventStream},
};
pub(crate) use self::{
    call::Operation,
    lease::{Lease, SandboxShared},
};
use crate::{
    args::Args,
    error::{Closed, Error},
    files::SandboxFiles,
    limits::Limits,
    runtime::Runtime,
};

mod builder;
mod call;
#[cfg(test)]
mod idle;
mod instance;
mod lease;
mod lifecycle;
#[cfg(test)]
mod reuse;

/// An isolated interpreter.
///
/// Calls run one at a time: a second one fails with [`Error::Busy`]. Dropping a
/// call's future or stream before its end stops the guest and closes the
/// sandbox.
pub struct Sandbox {
    shared: Arc<SandboxShared>,
}

impl Sandbox {
    /// Prepares the interpreter and runs the template's prelude. Must be called
    /// once, before any other call; a second start fails with
    /// [`Error::NotPending`]. If the prelude fails, the sandbox is closed.
    ///
    /// The result of the call is `null`.
    pub fn start(&self) -> Call {
        self.operate(Operation::Start)
    }

    /// Runs source code at the top level. Scripts share their globals, and
    /// may be loaded one after another.
    ///
    /// The result of the call is `null`.
    pub fn load_script(&self, source: impl Into<String>) -> Call {
        self.load_script_as(self.shared.runtime.script_name(), source)
    }

    /// Runs source code as [`load_script`](Self::load_script) does, with a file name for
    /// tracebacks.
    pub fn load_script_as(&self, name: impl Into<String>, source: impl Into<String>) -> Call {
        self.operate(Operation::Load { name: name.into(), source: source.into() })
    }

    /// Calls a function that a script defined.
    ///
    /// Awaiting the call returns the function's result and discards its output and
    /// partial results. [`Call::stream`] returns all of them.
    pub fn run(&self, function: impl Into<String>, args: Args) -> Call {
        self.operate(Operation::Call { function: function.into(), args })
    }

    /// Runs source code at the top level and returns the value of its last
    /// expression, or `null` if it does not end in an expression. A value that
    /// JSON cannot represent is returned as a string.
    ///
    /// All evaluated code and all scripts share their globals. In Python the
    /// code may use `await` at the top level.
    pub fn evaluate(&self, source: impl Into<String>) -> Call {
        self.operate(Operation::Evaluate { source: source.into() })
    }

    /// Calls a function and returns its events: [`run`](Self::run) with
    /// [`Call::stream`].
    ///
    /// # Errors
    ///
    /// The sandbox is busy, closed or not running, or an argument is invalid.
    pub fn run_stream(
        &self,
        function: impl Into<String>,
        args: Args,
    ) -> Result<EventStream, Error> {
        self.run(function, args).stream()
    }

    /// Shuts the interpreter down and closes the sandbox.
    ///
    /// A Python guest runs the functions registered with `atexit`, finalizers and
    /// `__del__`, as `python3` does when it exits, and flushes its buffers;
    /// [`Call::stream`] returns the output. [`close`](Self::close) and dropping the
    /// sandbox run no code of the guest.
    ///
    /// The result of the call is `null`.
    pub fn finish(&self) -> Call {
        self.operate(Operation::Finish)
    }

    /// Closes the sandbox and frees its memory and its files. A running call is stopped.
    /// Closing a closed sandbox has no effect.
    pub fn close(&self) {
        self.shared.lifecycle.close(Closed::ByOwner);
        self.shared.files.clear();
    }

    /// Returns access to the sandbox's own files, also while a call runs, and also after
    /// a limit or a crash has closed the sandbox. [`close`](Self::close) removes them.
    #[must_use]
    pub fn files(&self) -> SandboxFiles {
        SandboxFiles::new(self.shared.files.clone())
    }

    /// Reports whether the sandbox is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.lifecycle.is_closed()
    }

    /// Returns the runtime.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.shared.runtime
    }

    /// Returns the limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Returns the CPU time of all calls so far. That of a running call is counted up to
    /// its last pause, a few milliseconds ago.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.shared.cpu.finished()
    }

    /// Returns the size of the interpreter's memory, in bytes: an upper bound of what the
    /// sandbox takes, since copies share the pages that they have not written.
    #[must_use]
    pub fn memory_size(&self) -> u64 {
        self.shared.memory_size.load(Ordering::Relaxed) as u64
    }

    /// Measures the memory that only this sandbox takes: the pages that it has written,
    /// in bytes. Where the machine does not tell, this is
    /// [`memory_size`](Self::memory_size).
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] during a call, [`Error::NotRunning`] before the start, and
    /// [`Error::Closed`] after the end.
    pub async fn measure_memory(&self) -> Result<u64, Error> {
        let mut lease = self.shared.lease(false)?;
        let written = lease.written_bytes().await?;
        lease.release();
        Ok(written.unwrap_or_else(|| self.memory_size()))
    }

    pub(crate) fn shared(&self) -> &Arc<SandboxShared> {
        &self.shared
    }

    /// Reports whether the last call has written no output.
    pub(crate) fn is_silent(&self) -> bool {
        self.shared.output.is_silent()
    }

    pub(crate) fn operate(&self, operation: Operation) -> Call {
        Call::new(Arc::clone(&self.shared), operation)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A running call may outlive this handle: its owner decides when it ends.
        if self.shared.lifecycle.has_guest() {
            self.shared.lifecycle.close(Closed::ByOwner);
        }
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("runtime", &self.shared.runtime)
            .field("state", &self.shared.lifecycle)
            .finish_non_exhaustive()
    }
}
