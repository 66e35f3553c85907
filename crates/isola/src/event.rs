//! What a running call tells its host.

use std::fmt;

use crate::{error::Error, value::Value};

/// Something that happened during a call, in the order in which it happened.
///
/// A stream of events ends with exactly one [`Event::End`] or
/// [`Event::Error`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A partial result: an item that a generator yielded.
    Result(Value),
    /// The call ended well, with this result.
    End(Value),
    /// Text for standard output. Not necessarily a whole line.
    Stdout(String),
    /// Text for standard error. Not necessarily a whole line.
    Stderr(String),
    /// The call failed.
    Error(Error),
    /// A log record.
    Log(LogRecord),
}

/// A log record of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecord {
    /// How important it is.
    pub level: Level,
    /// What it says.
    pub message: String,
}

impl LogRecord {
    pub(crate) fn new(level: Level, message: String) -> Self {
        Self { level, message }
    }
}

/// How important a log record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// For whoever hunts a bug.
    Debug,
    /// All is well.
    Info,
    /// Something to look at.
    Warning,
    /// Something failed.
    Error,
}

impl Level {
    /// The name in lower case, as it stands in events: `debug`, `info`,
    /// `warning`, `error`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
