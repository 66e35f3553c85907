//! What can go wrong with an image, each with what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why an image could not be had.
///
/// Messages name the image, the layer or the entry at fault and never a path
/// of the store, so that they can be shown to whoever asked for the image.
/// [`Error::Io`] is about this machine; its `source` is for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name of an image cannot be understood.
    #[error("`{input}` is no name of an image: {reason}")]
    Reference {
        /// What was given.
        input: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry, or the store, has no such image.
    #[error("there is no image {reference} in {place}")]
    NotFound {
        /// The image.
        reference: String,
        /// Where it was looked for.
        place: String,
    },
    /// This registry may not be asked.
    #[error("images from {registry} are not allowed here; allowed are: {allowed}")]
    NotAllowed {
        /// The registry that the image names.
        registry: String,
        /// Those that may be asked.
        allowed: String,
    },
    /// The registry refused the credentials, or wants some.
    #[error("{registry} refuses access to {repository}: {reason}")]
    Auth {
        /// The registry.
        registry: String,
        /// What was asked for.
        repository: String,
        /// What it said.
        reason: String,
    },
    /// The image is not made for this machine.
    #[error("{reference} has no image for {wanted}; it has: {available}")]
    Platform {
        /// The image.
        reference: String,
        /// The platform that was asked for.
        wanted: String,
        /// The platforms that there are.
        available: String,
    },
    /// Content is not what its digest says.
    #[error("{what} is not what its digest says: expected {expected}, got {actual}")]
    Digest {
        /// What was checked.
        what: String,
        /// The digest that was promised.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// A manifest, an index or a configuration that makes no sense.
    #[error("{what} cannot be understood: {reason}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A well-formed thing of a kind that is not supported.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// Which thing.
        what: String,
        /// Why, and what would work.
        reason: String,
    },
    /// The registry answered with a failure.
    #[error("{registry} answered {status} when asked for {what}{message}")]
    Registry {
        /// The registry.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// The codes that the registry gave, if any, after a colon.
        message: String,
    },
    /// The registry cannot be reached, or the connection broke.
    #[error("cannot fetch {what} from {registry}: {reason}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What happened.
        reason: String,
    },
    /// It took too long.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What took too long.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// Larger than a limit allows.
    #[error("{what} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// A layer that is broken or hostile.
    #[error("{layer}: {entry}: {reason}")]
    Layer {
        /// Which layer.
        layer: String,
        /// The entry of the archive, its control characters shown.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image's user or group does not exist in the image.
    #[error("the image has no user or group `{name}` in {file}")]
    NoSuchUser {
        /// The name that was looked for.
        name: String,
        /// Where.
        file: &'static str,
    },
    /// The store's own files are damaged.
    #[error("the image store is damaged: {what}")]
    Damaged {
        /// What, and what to do.
        what: String,
    },
    /// Whoever wanted the image has gone.
    #[error("cancelled")]
    Cancelled,
    /// The machine failed: a full disk, missing rights.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The path, for the log.
        path: Option<PathBuf>,
        /// What the system said.
        source: io::Error,
    },
}

/// A result with an image [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A short, stable name of the kind of failure.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Reference { .. } => "image_name",
            Error::NotFound { .. } => "image_not_found",
            Error::NotAllowed { .. } => "image_not_allowed",
            Error::Auth { .. } => "image_auth",
            Error::Platform { .. } => "image_platform",
            Error::Digest { .. } => "image_digest",
            Error::Malformed { .. } => "image_malformed",
            Error::Unsupported { .. } => "image_unsupported",
            Error::Registry { .. } => "registry_failure",
            Error::Unreachable { .. } => "registry_unreachable",
            Error::Timeout { .. } => "image_timeout",
            Error::TooLarge { .. } => "image_too_large",
            Error::Layer { .. } => "image_layer",
            Error::NoSuchUser { .. } => "image_user",
            Error::Damaged { .. } => "image_store_damaged",
            Error::Cancelled => "cancelled",
            Error::Io { .. } => "image_io",
        }
    }

    /// Whether the failure is this machine's, not that of the image, of its
    /// registry or of whoever named it.
    pub fn is_ours(&self) -> bool {
        matches!(self, Error::Damaged { .. } | Error::Io { .. })
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what: what.into(), path: None, source }
    }

    pub(crate) fn at(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what: what.to_owned(), path: Some(path.into()), source }
    }
}
