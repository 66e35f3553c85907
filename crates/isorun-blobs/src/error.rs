//! The errors of the crate.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::id::TreeId;

/// An error of an operation on stored trees.
///
/// Messages contain no credentials, no content, and nothing that the store has written
/// except for its error codes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store has no such tree.
    #[error("there is no tree {id} in the object store: it was deleted, or never stored there")]
    NotFound {
        /// The id of the tree.
        id: TreeId,
    },
    /// What is stored was changed or is incomplete. A retry does not help.
    #[error("the object store is damaged: {what}")]
    Damaged {
        /// The damaged object.
        what: String,
    },
    /// The store cannot be used now.
    #[error("the object store is not available: {why}")]
    Unavailable {
        /// The reason.
        why: String,
        /// Reports whether a later retry can succeed without a change by an operator.
        retry: bool,
    },
    /// The store denies access.
    #[error("the object store denies access: {why}")]
    Denied {
        /// The reason, and what to do.
        why: String,
    },
    /// An operation on a local file failed.
    #[error("cannot {what}: {source}")]
    Disk {
        /// The operation.
        what: String,
        /// The path, for the log.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// A directory cannot be stored.
    #[error("cannot store the directory: {what}")]
    Unsupported {
        /// The invalid entry and the rule for it.
        what: String,
    },
    /// An upload or a collection took longer than half of the grace period. Nothing that is
    /// in use was lost.
    #[error(
        "{what} took longer than {limit:?}, which is half of the grace period: repeat it, or use \
         a longer grace period on every node"
    )]
    TooSlow {
        /// The operation.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// A URL, a variable or an option is invalid.
    #[error("{what}")]
    Config {
        /// The invalid value, what is allowed, and what to do.
        what: String,
    },
}

/// A result with an [`Error`] of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns a constructor of [`Error::Disk`].
    pub(crate) fn disk(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk {
            what: what.to_owned(),
            path: path.into(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    /// Returns an error for a failure of the cryptographic library or of a task.
    pub(crate) fn internal(what: &str) -> Self {
        Self::Unavailable { why: format!("internal error: {what}"), retry: false }
    }

    /// Reports whether the same operation can succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { retry: true, .. } | Self::TooSlow { .. })
    }
}
