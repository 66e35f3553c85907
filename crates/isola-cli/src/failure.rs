//! Failures of a command: the error message, the hint and the exit code.

use std::{fmt, io, time::Duration};

use isola::{Error, GuestException, Language, Limit, Runtime};

/// The reason why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// A user error: an invalid option, file or argument.
    Usage { message: String, hint: Option<String> },
    /// An error of the library: an error of the guest, an exceeded limit, or a bug.
    Run(Error),
    /// The script exited, as by `sys.exit`, with this exit code.
    Exit { status: u8, error: Error },
    /// The complete run took longer than `--timeout`.
    Timeout(Duration),
    /// Ctrl-C.
    Interrupted,
    /// The reader of standard output has closed it.
    StdoutClosed,
    /// An I/O error of this machine.
    Io { context: &'static str, error: io::Error },
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// Adds a hint on how to correct a usage error.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Usage { message, .. } => Self::Usage { message, hint: Some(hint.into()) },
            other => other,
        }
    }

    /// Creates the failure of a run, or `Exit` if the script has exited by itself.
    pub fn from_run(runtime: Runtime, error: Error) -> Self {
        match &error {
            Error::Guest(exception)
                if runtime.language() == Language::Python && exception.name == "SystemExit" =>
            {
                Self::Exit { status: exit_status(&exception.message), error }
            }
            _ => Self::Run(error),
        }
    }

    /// Creates the failure for an error of writing to standard output.
    pub fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::Io { context: "cannot write to standard output", error },
        }
    }

    /// Returns the stable error code that an `error` event contains.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Usage { .. } => "invalid_argument",
            Self::Run(error) | Self::Exit { error, .. } => error.code(),
            Self::Timeout(_) => Limit::WallTime.code(),
            Self::Interrupted => "interrupted",
            Self::StdoutClosed | Self::Io { .. } => "internal",
        }
    }

    /// Returns the exit code. Exit codes are part of the interface: see
    /// `docs/isola/command/README.md`.
    pub fn exit_code(&self) -> u8 {
        match self {
            _ if self.is_usage() => 2,
            Self::Run(Error::Limit(exceeded)) => match exceeded.limit {
                Limit::Memory => 137,
                Limit::CpuTime | Limit::WallTime => 124,
                _ => 1,
            },
            Self::Run(
                Error::Guest(_) | Error::Hostcall(_) | Error::Crash(_) | Error::SnapshotRefused(_),
            ) => 1,
            Self::Exit { status, .. } => *status,
            Self::Timeout(_) => 124,
            Self::Interrupted => 130,
            Self::StdoutClosed => 141,
            Self::Usage { .. } | Self::Run(_) | Self::Io { .. } => 70,
        }
    }

    /// Reports whether the command line is invalid.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage { .. } | Self::Run(Error::InvalidArgument(_)))
    }

    /// Reports whether no message is printed: the user has interrupted the command,
    /// or nothing reads its output.
    pub fn is_silent(&self) -> bool {
        match self {
            Self::Interrupted | Self::StdoutClosed => true,
            // A number is reported by the exit code alone.
            Self::Exit { error: Error::Guest(exception), .. } => is_number(&exception.message),
            _ => false,
        }
    }

    /// Returns the hint that is printed below the error message.
    pub fn advice(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } => hint.as_deref(),
            Self::Timeout(_) => Some("allow more with --timeout"),
            Self::Run(error) => match error.limit()? {
                Limit::Memory => Some("allow more with --max-memory"),
                Limit::CpuTime => Some("allow more with --cpu-timeout"),
                _ => None,
            },
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage { message, .. } => f.write_str(message),
            Self::Run(Error::Guest(exception) | Error::Hostcall(exception)) => {
                f.write_str(&format_exception(exception))
            }
            Self::Run(error) => error.fmt(f),
            // As `python3` does: only the text that the script passed to `sys.exit`.
            Self::Exit { error: Error::Guest(exception), .. } => f.write_str(&exception.message),
            Self::Exit { error, .. } => error.fmt(f),
            Self::Timeout(limit) => write!(
                f,
                "the run took more time than its limit of {}",
                humantime::format_duration(*limit)
            ),
            Self::Interrupted => f.write_str("interrupted"),
            Self::StdoutClosed => f.write_str("standard output is closed"),
            Self::Io { context, error } => write!(f, "{context}: {error}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Run(error)
    }
}

/// Returns the exit code of a `SystemExit` with this message: the lowest eight
/// bits of a number, or 1 for a text.
fn exit_status(message: &str) -> u8 {
    if message.is_empty() {
        return 0;
    }
    match message.parse::<i64>() {
        Ok(number) => number.to_le_bytes()[0],
        // CPython takes -1 for a number that is too large for C.
        Err(_) if is_number(message) => 255,
        Err(_) => 1,
    }
}

/// Reports whether a message is that of a `SystemExit` with a number or without an
/// argument.
fn is_number(message: &str) -> bool {
    let digits = message.strip_prefix('-').unwrap_or(message);
    message.is_empty() || !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the headline, then the traceback. A JavaScript stack already starts
/// with the headline.
fn format_exception(exception: &GuestException) -> String {
    let trace = exception.traceback.trim_end();
    let headline = match exception.message.as_str() {
        "" => exception.name.clone(),
        message => format!("{}: {message}", exception.name),
    };
    if trace.is_empty() || trace.starts_with(&headline) {
        return if trace.is_empty() { headline } else { trace.to_owned() };
    }
    format!("{headline}\n{trace}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_pipe_is_silent_unlike_other_errors() {
        let closed = Failure::output(io::ErrorKind::BrokenPipe.into());
        assert_eq!((closed.exit_code(), closed.is_silent()), (141, true));
        let full = Failure::output(io::ErrorKind::StorageFull.into());
        assert_eq!((full.exit_code(), full.is_silent()), (70, false));
    }

    #[test]
    fn exit_status_is_that_of_python() {
        let rows = [
            ("", 0),
            ("0", 0),
            ("3", 3),
            ("256", 0),
            ("-1", 255),
            ("wrong", 1),
            ("-", 1),
            ("1.5", 1),
        ];
        for (message, expected) in rows {
            assert_eq!(exit_status(message), expected, "{message:?}");
        }
        assert_eq!(exit_status("99999999999999999999"), 255);
    }

    #[test]
    fn timeout_message_contains_the_duration() {
        let timeout = Failure::Timeout(Duration::from_millis(1500));
        assert!(timeout.to_string().ends_with("1s 500ms"), "{timeout}");
        assert_eq!(timeout.code(), "wall_time_limit");
    }
}
