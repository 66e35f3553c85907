//! The errors of interpreters.

use isorun_agent::SandboxId;

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// there is no interpreter {0}
    #[error("there is no interpreter {0}")]
    NotFound(SandboxId),
    /// there is an interpreter {0} already
    #[error("there is an interpreter {0} already")]
    AlreadyExists(SandboxId),
    /// A parameter or an argument is not valid.
    #[error("{0}")]
    Invalid(String),
    /// The runtime is not on this machine; the text says how to install it.
    #[error("{0}")]
    RuntimeMissing(String),
    /// The interpreter runs code, and the operation needs an idle one.
    #[error("{0}")]
    Busy(String),
    /// A file operation failed.
    #[error("{message}")]
    File {
        /// The kind of failure.
        kind: FileErrorKind,
        /// The path, and why it failed.
        message: String,
    },
    /// The context runs code.
    #[error("{0}")]
    ContextBusy(String),
    /// The context does not exist.
    #[error("{0}")]
    NoContext(String),
    /// The interpreter has another language.
    #[error("{0}")]
    LanguageMissing(String),
    /// The interpreter has ended.
    #[error("the interpreter has ended: {0}")]
    Ended(String),
    /// The state cannot be saved or restored; the text says why.
    #[error("{0}")]
    StateRefused(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The interpreter failed; the text is for the log.
    #[error("{0}")]
    Failed(String),
}

/// The kind of a failed file operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileErrorKind {
    /// The file does not exist.
    NotFound,
    /// The interpreter has no space for it.
    NoSpace,
    /// Another reason.
    Other,
}

impl Error {
    /// Adds the operation to an error of the system.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl From<isola::Error> for Error {
    fn from(error: isola::Error) -> Self {
        match error {
            isola::Error::InvalidArgument(why) => Self::Invalid(why),
            isola::Error::SnapshotRefused(why) => Self::StateRefused(why),
            isola::Error::Closed(why) => Self::Ended(why.to_string()),
            isola::Error::Busy => Self::Busy("the interpreter is running code".to_owned()),
            error => Self::Failed(error.to_string()),
        }
    }
}
