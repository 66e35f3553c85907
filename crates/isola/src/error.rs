//! The errors of the crate, by cause: the guest, the caller, or isola and the machine;
//! and the error that the embedder's [`Host`](crate::Host) returns.

use std::{borrow::Cow, fmt, time::Duration};

pub use crate::file_failure::FileFailure;

/// The error of a failed operation.
///
/// [`Error::code`] is stable: bindings and scripts may depend on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// User code threw an exception.
    #[error("{0}")]
    Guest(GuestException),

    /// A hostcall failed and user code did not catch the error. The message is
    /// that of the host.
    #[error("{0}")]
    Hostcall(GuestException),

    /// A limit was exceeded.
    #[error("{0}")]
    Limit(LimitExceeded),

    /// The guest's interpreter crashed. The sandbox is closed.
    #[error("the guest interpreter crashed: {0}")]
    Crash(String),

    /// An argument, option or value that the caller passed is invalid.
    #[error("{0}")]
    InvalidArgument(String),

    /// An operation of the embedder on the sandbox's files failed.
    #[error("{0}")]
    File(FileError),

    /// A runtime could not be downloaded: a server or a connection failed.
    /// The next attempt continues where this one stopped.
    #[error("{0}")]
    DownloadFailed(String),

    /// A downloaded runtime was rejected: its digest does not match, or its
    /// archive is invalid. No part of it is kept.
    #[error("{0}")]
    DownloadRefused(String),

    /// A sandbox cannot be copied, because it has a handle of the host open, or a
    /// snapshot cannot be restored: it is damaged, or from a different build of
    /// the runtime.
    #[error("{0}")]
    SnapshotRefused(String),

    /// The sandbox is running another operation.
    #[error("sandbox is busy")]
    Busy,

    /// The sandbox has not been started.
    #[error("sandbox is not running")]
    NotRunning,

    /// The sandbox has already been started.
    #[error("sandbox is not in pending state")]
    NotPending,

    /// The sandbox is closed. The message contains the reason.
    #[error("sandbox is closed: {0}")]
    Closed(Closed),

    /// An error of isola or of the machine: a bug, a full disk, a damaged runtime.
    #[error("internal error: {0}")]
    Internal(#[source] Internal),
}

impl Error {
    /// Returns the stable name of the kind of error.
    ///
    /// One of `guest_exception`, `hostcall_failed`, `memory_limit`,
    /// `cpu_time_limit`, `wall_time_limit`, `value_size_limit`,
    /// `output_limit`, `recursion_limit`, `handle_limit`, `crash`,
    /// `invalid_argument`, `file`, `download_failed`, `download_refused`,
    /// `snapshot_refused`, `busy`, `not_running`, `not_pending`, `closed`,
    /// `internal`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Guest(_) => "guest_exception",
            Self::Hostcall(_) => "hostcall_failed",
            Self::Limit(exceeded) => exceeded.limit.code(),
            Self::Crash(_) => "crash",
            Self::InvalidArgument(_) => "invalid_argument",
            Self::File(_) => "file",
            Self::DownloadFailed(_) => "download_failed",
            Self::DownloadRefused(_) => "download_refused",
            Self::SnapshotRefused(_) => "snapshot_refused",
            Self::Busy => "busy",
            Self::NotRunning => "not_running",
            Self::NotPending => "not_pending",
            Self::Closed(_) => "closed",
            Self::Internal(_) => "internal",
        }
    }

    /// Returns the limit that was exceeded, if that is the cause.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::Limit(exceeded) => Some(exceeded.limit),
            _ => None,
        }
    }

    /// Returns the guest's exception, if one caused this error.
    #[must_use]
    pub fn exception(&self) -> Option<&GuestException> {
        match self {
            Self::Guest(exception) | Self::Hostcall(exception) => Some(exception),
            Self::Limit(exceeded) => exceeded.exception.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn message(&self) -> String {
        self.to_string()
    }

    pub(crate) fn internal(
        context: impl Into<Cow<'static, str>>,
        source: impl Into<Cause>,
    ) -> Self {
        Self::Internal(Internal { context: context.into(), source: Some(source.into()) })
    }

    pub(crate) fn bug(context: impl Into<Cow<'static, str>>) -> Self {
        Self::Internal(Internal { context: context.into(), source: None })
    }
}

/// A failed operation of the embedder on the files of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?}: {failure}")]
#[non_exhaustive]
pub struct FileError {
    /// The path as it was passed, in the sandbox.
    pub path: String,
    /// What failed.
    pub failure: FileFailure,
}

impl FileError {
    pub(crate) fn new(path: impl Into<String>, failure: FileFailure) -> Self {
        Self { path: path.into(), failure }
    }
}

/// An exception that user code did not catch.
///
/// Displays as `Type: message`, followed by the traceback or stack if there is
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GuestException {
    /// The name of its type, such as `ValueError`.
    pub name: String,
    /// Its message.
    pub message: String,
    /// The traceback (Python) or stack (JavaScript) of user code, or empty.
    pub traceback: String,
}

impl GuestException {
    pub(crate) fn new(name: String, message: String, traceback: String) -> Self {
        Self { name, message, traceback }
    }
}

impl fmt::Display for GuestException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if !self.traceback.is_empty() {
            write!(f, "\n\n{}", self.traceback.trim_end())?;
        }
        Ok(())
    }
}

/// The name of a limit of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// The linear memory of the sandbox.
    Memory,
    /// The CPU time of a call.
    CpuTime,
    /// The wall time of a call.
    WallTime,
    /// The size of one value.
    ValueSize,
    /// The total output of a call.
    Output,
    /// The depth of nested calls.
    Recursion,
    /// The number of files, streams and requests that are open at once.
    Handles,
}

impl Limit {
    /// Returns the stable name, which [`Error::code`] returns as well.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Memory => "memory_limit",
            Self::CpuTime => "cpu_time_limit",
            Self::WallTime => "wall_time_limit",
            Self::ValueSize => "value_size_limit",
            Self::Output => "output_limit",
            Self::Recursion => "recursion_limit",
            Self::Handles => "handle_limit",
        }
    }
}

/// A limit that was exceeded, and the guest's exception if it raised one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitExceeded {
    /// The limit.
    pub limit: Limit,
    /// The allowed value, as text for the user.
    pub allowed: String,
    /// The exception in user code: a `MemoryError` or a `RecursionError`. If there
    /// is one, the interpreter unwound normally and the sandbox can still be used.
    pub exception: Option<Box<GuestException>>,
}

impl LimitExceeded {
    pub(crate) fn new(limit: Limit, allowed: String) -> Self {
        Self { limit, allowed, exception: None }
    }

    pub(crate) fn time(limit: Limit, allowed: Duration) -> Self {
        Self::new(limit, format!("{allowed:?}"))
    }

    pub(crate) fn bytes(limit: Limit, allowed: usize) -> Self {
        Self::new(limit, Bytes(allowed).to_string())
    }

    pub(crate) fn raised(mut self, exception: GuestException) -> Self {
        self.exception = Some(Box::new(exception));
        self
    }
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = match self.limit {
            Limit::Memory => "the sandbox needs more memory than its limit",
            Limit::CpuTime => "the call took more CPU time than its limit",
            Limit::WallTime => "the call took more time than its limit",
            Limit::ValueSize => "a value is larger than the limit",
            Limit::Output => "the call's output is larger than the limit",
            Limit::Recursion => "calls nest deeper than the limit",
            Limit::Handles => "more files, streams and requests are open than the limit",
        };
        write!(f, "{message} of {}", self.allowed)?;
        if let Some(exception) = &self.exception {
            write!(f, "\n\n{exception}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LimitExceeded {}

/// The reason why a sandbox is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closed {
    /// Its owner closed it.
    ByOwner,
    /// A call was cancelled before its end: its future or stream was dropped.
    Cancelled,
    /// Its code was interrupted and did not end soon after.
    Interrupted,
    /// An earlier call ended in this error, after which a guest cannot be used.
    Broken(String),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByOwner => f.write_str("its owner closed it"),
            Self::Cancelled => f.write_str("a call was cancelled half-way"),
            Self::Interrupted => f.write_str("its code did not end after it was interrupted"),
            Self::Broken(why) => write!(f, "an earlier call ended it: {why}"),
        }
    }
}

/// An error of the host. The guest receives its message and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError {
    message: String,
}

impl HostError {
    /// Creates an error with a message for the guest.
    ///
    /// There is deliberately no conversion from other errors: their messages may
    /// contain paths and addresses of the host.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    /// Returns the message that the guest receives.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn http_disabled() -> Self {
        Self::new("HTTP is disabled for this sandbox")
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for HostError {}

/// An error inside isola or of the machine.
#[derive(Debug)]
pub struct Internal {
    context: Cow<'static, str>,
    source: Option<Cause>,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl fmt::Display for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Internal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// A number of bytes, displayed with a unit.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(usize, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        for (size, unit) in UNITS {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{} {unit}", self.0 / size);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_errors_contain_the_limit() {
        let shown = |bytes| LimitExceeded::bytes(Limit::Memory, bytes).to_string();
        assert!(shown(256 << 20).ends_with("256 MiB"));
        assert!(shown(1000).ends_with("1000 bytes"));
        let time = LimitExceeded::time(Limit::CpuTime, Duration::from_millis(500));
        assert!(time.to_string().ends_with("500ms"));
    }

    #[test]
    fn exception_starts_with_its_type_and_message() {
        let exception = GuestException::new("ValueError".into(), "no".into(), "line 1\n".into());
        assert_eq!(exception.to_string(), "ValueError: no\n\nline 1");
    }
}
