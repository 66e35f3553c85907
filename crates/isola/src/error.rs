//! What can go wrong, and whose fault it is.

use std::{borrow::Cow, fmt, time::Duration};

/// Why an operation failed.
///
/// [`Error::code`] is stable: bindings and scripts may depend on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The guest's fault: user code threw an exception.
    #[error("{0}")]
    Guest(GuestException),

    /// A hostcall failed and user code did not catch it. The message is the
    /// host's.
    #[error("{0}")]
    Hostcall(GuestException),

    /// A limit was hit.
    #[error("{0}")]
    Limit(LimitExceeded),

    /// The guest's fault: its interpreter crashed. The sandbox is closed.
    #[error("the guest interpreter crashed: {0}")]
    Crash(String),

    /// The caller's fault: an argument, option or value that cannot be.
    #[error("{0}")]
    InvalidArgument(String),

    /// A runtime could not be downloaded: a server or a connection failed.
    /// Another attempt goes on where this one ended.
    #[error("{0}")]
    DownloadFailed(String),

    /// A runtime was downloaded and not accepted: its digest is another, or its
    /// archive is not what it should be. Nothing of it is kept.
    #[error("{0}")]
    DownloadRefused(String),

    /// A sandbox that cannot be copied, since it has something of the host open,
    /// or a snapshot that cannot be restored here: damaged, or of another build
    /// of the runtime.
    #[error("{0}")]
    SnapshotRefused(String),

    /// The sandbox is running another operation.
    #[error("sandbox is busy")]
    Busy,

    /// The sandbox was not started yet.
    #[error("sandbox is not running")]
    NotRunning,

    /// The sandbox was started before.
    #[error("sandbox is not in pending state")]
    NotPending,

    /// The sandbox is closed; why, is in the message.
    #[error("sandbox is closed: {0}")]
    Closed(Closed),

    /// Our fault, or the machine's: a bug, a full disk, a damaged runtime.
    #[error("internal error: {0}")]
    Internal(#[source] Internal),
}

impl Error {
    /// A stable name for the kind of error.
    ///
    /// One of `guest_exception`, `hostcall_failed`, `memory_limit`,
    /// `cpu_time_limit`, `wall_time_limit`, `value_size_limit`,
    /// `output_limit`, `recursion_limit`, `handle_limit`, `crash`,
    /// `invalid_argument`, `download_failed`, `download_refused`,
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

    /// The limit that was hit, if that is what happened.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::Limit(exceeded) => Some(exceeded.limit),
            _ => None,
        }
    }

    /// The guest's exception, if there is one behind this error.
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

/// The limits of a sandbox, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// All linear memory of the sandbox.
    Memory,
    /// CPU time of a call.
    CpuTime,
    /// Wall time of a call.
    WallTime,
    /// The size of one value.
    ValueSize,
    /// All output of a call.
    Output,
    /// How deep calls nest.
    Recursion,
    /// Files, streams and requests that are open at once.
    Handles,
}

impl Limit {
    /// The stable name, as [`Error::code`] gives it.
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

/// A limit that was hit, and the guest's exception if it got to raise one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitExceeded {
    /// Which limit.
    pub limit: Limit,
    /// What was allowed, for people.
    pub allowed: String,
    /// What user code saw: a `MemoryError`, a `RecursionError`. If there is
    /// one, the interpreter unwound in good order and the sandbox lives on.
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
        let what = match self.limit {
            Limit::Memory => "the sandbox needs more memory than its limit",
            Limit::CpuTime => "the call took more CPU time than its limit",
            Limit::WallTime => "the call took more time than its limit",
            Limit::ValueSize => "a value is larger than the limit",
            Limit::Output => "the call's output is larger than the limit",
            Limit::Recursion => "calls nest deeper than the limit",
            Limit::Handles => "more files, streams and requests are open than the limit",
        };
        write!(f, "{what} of {}", self.allowed)?;
        if let Some(exception) = &self.exception {
            write!(f, "\n\n{exception}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LimitExceeded {}

/// Why a sandbox is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closed {
    /// Its owner closed it.
    ByOwner,
    /// A call was cancelled half-way: its future or stream was dropped.
    Cancelled,
    /// An earlier call ended in this error, which no guest survives.
    Broken(String),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByOwner => f.write_str("its owner closed it"),
            Self::Cancelled => f.write_str("a call was cancelled half-way"),
            Self::Broken(why) => write!(f, "an earlier call ended it: {why}"),
        }
    }
}

/// A failure inside isola or the machine under it.
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

/// A number of bytes as people write it.
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
    fn limits_say_what_was_allowed() {
        let shown = |bytes| LimitExceeded::bytes(Limit::Memory, bytes).to_string();
        assert!(shown(256 << 20).ends_with("256 MiB"));
        assert!(shown(1000).ends_with("1000 bytes"));
        let time = LimitExceeded::time(Limit::CpuTime, Duration::from_millis(500));
        assert!(time.to_string().ends_with("500ms"));
    }

    #[test]
    fn an_exception_starts_with_its_type_and_message() {
        let exception = GuestException::new("ValueError".into(), "no".into(), "line 1\n".into());
        assert_eq!(exception.to_string(), "ValueError: no\n\nline 1");
    }
}
