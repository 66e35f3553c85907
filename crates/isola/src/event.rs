//! The events of a running call.

use std::fmt;

use crate::{error::Error, value::Value};

/// An event of a call. Events are delivered in the order in which they happened.
///
/// A stream of events ends with exactly one [`Event::End`] or
/// [`Event::Error`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A partial result: an item that a generator yielded.
    Result(Value),
    /// The call succeeded with this result.
    End(Value),
    /// Text for standard output, which may be a part of a line.
    Stdout(String),
    /// Text for standard error, which may be a part of a line.
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
    /// The severity.
    pub level: Level,
    /// The message.
    pub message: String,
}

impl LogRecord {
    pub(crate) fn new(level: Level, message: String) -> Self {
        Self { level, message }
    }
}

/// The severity of a log record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Details for debugging.
    Debug,
    /// Normal operation.
    Info,
    /// An unexpected condition that is not an error.
    Warning,
    /// A failure.
    Error,
}

impl Level {
    /// Returns the name in lower case, as it is in events: `debug`, `info`,
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
