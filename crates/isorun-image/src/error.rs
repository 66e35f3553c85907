//! The errors of image operations.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of an image operation.
///
/// Messages name the image, the layer or the invalid entry and never a path of
/// the store, so that they can be returned to the client that requested the
/// image. [`Error::Io`] is a failure of this machine; its `source` is for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image reference is invalid.
    #[error("not a valid image reference: `{input}`: {reason}")]
    Reference {
        /// The invalid reference.
        input: String,
        /// The reason why it is invalid.
        reason: String,
    },
    /// The registry, or the store, does not have the image.
    #[error("there is no image {reference} in {location}")]
    NotFound {
        /// The reference of the image.
        reference: String,
        /// The registry or the store.
        location: String,
    },
    /// The registry is not in the list of allowed registries.
    #[error("images from {registry} are not allowed; allowed registries: {allowed}")]
    NotAllowed {
        /// The registry of the image.
        registry: String,
        /// The allowed registries.
        allowed: String,
    },
    /// The registry denies access.
    #[error("{registry} denies access to {repository}: {reason}")]
    Auth {
        /// The registry.
        registry: String,
        /// The requested repository.
        repository: String,
        /// The reason.
        reason: String,
    },
    /// The image is not available for the platform.
    #[error("{reference} has no image for {wanted}; it has: {available}")]
    Platform {
        /// The reference of the image.
        reference: String,
        /// The requested platform.
        wanted: String,
        /// The available platforms.
        available: String,
    },
    /// Content does not match its digest.
    #[error("{what} does not match its digest: expected {expected}, got {actual}")]
    Digest {
        /// The content.
        what: String,
        /// The expected digest.
        expected: String,
        /// The digest of the received content.
        actual: String,
    },
    /// A manifest, an index, a configuration or an option is malformed.
    #[error("{what} is invalid: {reason}")]
    Malformed {
        /// The document.
        what: String,
        /// The reason.
        reason: String,
    },
    /// A well-formed object is of an unsupported kind.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// The object.
        what: String,
        /// The reason, and the alternative.
        reason: String,
    },
    /// The registry responded with an error status.
    #[error("{registry} responded with status {status} to a request for {what}{message}")]
    Registry {
        /// The registry.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// The requested object.
        what: String,
        /// The error codes of the response, if any, after a colon.
        message: String,
    },
    /// The registry cannot be reached, or the connection failed.
    #[error("cannot fetch {what} from {registry}: {reason}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// The requested object.
        what: String,
        /// The cause.
        reason: String,
    },
    /// An operation timed out.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// The operation.
        what: String,
        /// The timeout.
        limit: Duration,
    },
    /// An object exceeds a limit.
    #[error("{what} is over the limit of {limit}")]
    TooLarge {
        /// The object.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// A layer is corrupt or malicious.
    #[error("{layer}: {entry}: {reason}")]
    Layer {
        /// The layer.
        layer: String,
        /// The entry of the archive, with control characters escaped.
        entry: String,
        /// The reason.
        reason: String,
    },
    /// The image's user or group does not exist in the image.
    #[error("the image has no user or group `{name}` in {file}")]
    NoSuchUser {
        /// The name of the user or group.
        name: String,
        /// The file that was searched.
        file: &'static str,
    },
    /// The store's own files are damaged.
    #[error("the image store is damaged: {what}")]
    Damaged {
        /// The damage, and what to do.
        what: String,
    },
    /// The operation was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// An operation of the host system failed: for example a full disk, or missing
    /// permissions.
    #[error("cannot {what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The path, for the log.
        path: Option<PathBuf>,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// A result with an image [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns the stable error code.
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

    /// Reports whether the host machine caused the failure, and not the image, its
    /// registry or the client.
    pub fn is_host_error(&self) -> bool {
        matches!(self, Error::Damaged { .. } | Error::Io { .. })
    }

    /// Returns a constructor of [`Error::Io`] without a path.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what: what.into(), path: None, source }
    }

    /// Returns a constructor of [`Error::Io`] with a path.
    pub(crate) fn at(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what: what.to_owned(), path: Some(path.into()), source }
    }
}
