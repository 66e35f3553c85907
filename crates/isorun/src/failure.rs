//! Failures of commands: message, hint and exit code.

use std::io;

use crate::{client::ClientError, visible::visible};

/// The reason why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// An invalid option or argument.
    Usage { message: String, hint: Option<String> },
    /// An error response of a server, or no response.
    Client(ClientError),
    /// Ctrl-C.
    Interrupted,
    /// The reader of standard output closed it.
    StdoutClosed,
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// Adds a hint to a usage error.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Usage { message, .. } => Self::Usage { message, hint: Some(hint.into()) },
            other => other,
        }
    }

    /// Converts an error of writing to standard output.
    pub fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::Other(anyhow::Error::new(error).context("cannot write to standard output")),
        }
    }

    /// Returns the exit code. The codes are part of the interface: see
    /// `docs/isorun/command.md`. Codes below 124 are those of commands in sandboxes.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Client(error) if error.has_code("exec_timeout") => 124,
            Self::Client(_) | Self::Other(_) => 125,
            Self::Interrupted => 130,
            Self::StdoutClosed => 141,
        }
    }

    /// Prints the error and its hint to standard error.
    pub fn report(&self) {
        match self {
            // The user caused it, or no longer reads the output.
            Self::Interrupted | Self::StdoutClosed => {}
            Self::Usage { message, hint } => {
                eprintln!("error: {message}");
                if let Some(hint) = hint {
                    eprintln!("hint: {hint}");
                }
            }
            Self::Client(error) => {
                // It may contain output of a sandbox.
                eprintln!("error: {}", visible(&error.to_string()));
                if let Some(hint) = error.hint() {
                    eprintln!("hint: {hint}");
                }
            }
            Self::Other(error) => eprintln!("error: {error:#}"),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}
