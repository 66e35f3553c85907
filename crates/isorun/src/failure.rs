//! How a command fails: what it says, what it hints at, and its exit code.

use std::io;

use crate::{client::ClientError, command::table::visible};

/// Why a command did not end well.
#[derive(Debug)]
pub enum Failure {
    /// The user's fault: an option or an argument that cannot be.
    Usage { message: String, hint: Option<String> },
    /// What a server answered, or that none did.
    Client(ClientError),
    /// Ctrl-C.
    Interrupted,
    /// Nobody reads standard output any more.
    Unread,
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Usage { message, .. } => Self::Usage { message, hint: Some(hint.into()) },
            other => other,
        }
    }

    /// What became of writing to standard output.
    pub fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Other(anyhow::Error::new(error).context("cannot write to standard output")),
        }
    }

    /// The exit codes are part of the interface: see `docs/isorun/command.md`.
    /// Those below 124 are left to the commands inside of sandboxes.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Client(error) if error.is("exec_timeout") => 124,
            Self::Client(_) | Self::Other(_) => 125,
            Self::Interrupted => 130,
            Self::Unread => 141,
        }
    }

    /// Says on standard error what went wrong.
    pub fn complain(&self) {
        match self {
            // The user knows already, or is not there to be told.
            Self::Interrupted | Self::Unread => {}
            Self::Usage { message, hint } => {
                eprintln!("error: {message}");
                if let Some(hint) = hint {
                    eprintln!("hint: {hint}");
                }
            }
            Self::Client(error) => {
                // It may repeat what a sandbox said.
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
