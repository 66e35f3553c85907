//! The errors of the core. They say what went wrong; the HTTP layer decides on a status.

use std::{fmt::Display, time::Duration};

use isorun_api::Code;
use isorun_blobs::Error as BlobError;
use isorun_engine::Error as EngineError;
use isorun_image::Error as ImageError;

use crate::store::{ClusterLimit, StoreError};

/// The time after which a client may retry when the cluster could not do what it asked for.
const CLUSTER_RETRY_DELAY: Duration = Duration::from_secs(2);
/// The time after which a client may retry when the object store is not available.
const STORE_RETRY_DELAY: Duration = Duration::from_secs(5);

/// An error of an operation. It contains only what the caller may see; details for the
/// operator are logged where the error is created.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
    /// The time after which the caller may retry.
    pub retry_after: Option<Duration>,
}

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A parameter is not valid; the message names it.
    InvalidRequest,
    /// The engine does not support a parameter.
    NotSupported,
    /// The image of the run does not have what the request needs.
    ImageLacksFeature,
    RunDestroyed,
    RunHibernated,
    /// The run is changing its state.
    RunBusy,
    SandboxDied,
    SnapshotNotFound,
    SnapshotDamaged,
    /// The checkpoint was created by another version of the engine or its programs.
    SnapshotIncompatible,
    /// The disk has no space.
    ServerFull,
    ImageNotFound,
    /// The server does not pull from the registry.
    ImageNotAllowed,
    ImageUnusable,
    RegistryFailure,
    /// A tenant's share of a resource is in use.
    TooManyRequests,
    TooManyRuns,
    TooManyExecs,
    /// The server is stopping.
    Stopping,
    /// The server or the sandbox cannot do it at the moment.
    Unavailable,
    /// A failure of the server, whose cause is in its log.
    Internal,
}

impl ErrorKind {
    /// Returns the stable code that clients and audit logs see.
    pub fn code(self) -> Code {
        match self {
            Self::InvalidRequest => Code::InvalidRequest,
            Self::NotSupported => Code::NotSupported,
            Self::ImageLacksFeature => Code::ImageLacksFeature,
            Self::RunDestroyed => Code::RunDestroyed,
            Self::RunHibernated => Code::RunHibernated,
            Self::RunBusy => Code::RunBusy,
            Self::SandboxDied => Code::SandboxDied,
            Self::SnapshotNotFound => Code::SnapshotNotFound,
            Self::SnapshotDamaged => Code::SnapshotDamaged,
            Self::SnapshotIncompatible => Code::SnapshotIncompatible,
            Self::ServerFull => Code::ServerFull,
            Self::ImageNotFound => Code::ImageNotFound,
            Self::ImageNotAllowed => Code::ImageNotAllowed,
            Self::ImageUnusable => Code::ImageUnusable,
            Self::RegistryFailure => Code::RegistryFailure,
            Self::TooManyRequests => Code::TooManyRequests,
            Self::TooManyRuns => Code::TooManyRuns,
            Self::TooManyExecs => Code::TooManyExecs,
            Self::Stopping => Code::Stopping,
            Self::Unavailable => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// Creates an error for a failure of the server, and logs its cause.
    pub fn internal(what: &str, error: impl Display) -> Self {
        tracing::error!(%error, "{what}");
        let message = format!("{what}: this is an error of the server; see its log");
        Self::new(ErrorKind::Internal, message)
    }

    /// Converts an error of the engine. Messages that may contain paths of the machine are
    /// only logged.
    pub fn engine(what: &str, error: EngineError) -> Self {
        match error {
            EngineError::InvalidSpec(why) => Self::invalid(why),
            EngineError::Unsupported(why) => Self::new(ErrorKind::NotSupported, why),
            EngineError::Dead { exit, .. } => {
                Self::new(ErrorKind::SandboxDied, format!("the sandbox died: {exit}"))
            }
            EngineError::Setup(ref why) => {
                tracing::error!(why, "{what}");
                Self::new(
                    ErrorKind::Unavailable,
                    format!(
                        "{what}: the machine does not meet the requirements; run `isorun doctor` \
                         there"
                    ),
                )
            }
            EngineError::Busy(why) => {
                Self::new(ErrorKind::RunBusy, why).after(Duration::from_secs(1))
            }
            EngineError::Incompatible(why) => Self::new(ErrorKind::SnapshotIncompatible, why),
            EngineError::NotFound(_) => {
                Self::new(ErrorKind::Unavailable, "the sandbox does not exist")
            }
            error => Self::internal(what, error),
        }
    }

    /// Converts an error of the object store. `what` is to be taken from it: a checkpoint or an
    /// image.
    pub fn object_store(what: &str, error: BlobError) -> Self {
        tracing::error!(%error, "cannot take the {what} from the object store");
        match error {
            BlobError::Unavailable { .. } | BlobError::TooSlow { .. } => Self::new(
                ErrorKind::Unavailable,
                format!(
                    "the {what} is in the object store of the cluster, which is not available: \
                     try again later"
                ),
            )
            .after(STORE_RETRY_DELAY),
            BlobError::NotFound { .. } | BlobError::Damaged { .. } => Self::new(
                ErrorKind::SnapshotDamaged,
                format!(
                    "the {what} in the object store of the cluster is damaged or missing, and was \
                     not restored"
                ),
            ),
            error => Self::internal("cannot read the object store", error),
        }
    }

    /// Converts an error of the image store.
    pub fn image(error: ImageError) -> Self {
        let kind = match &error {
            error if error.is_host_error() => return Self::internal("cannot use the image", error),
            ImageError::Reference { .. } => ErrorKind::InvalidRequest,
            ImageError::NotFound { .. } => ErrorKind::ImageNotFound,
            ImageError::NotAllowed { .. } => ErrorKind::ImageNotAllowed,
            ImageError::Registry { .. }
            | ImageError::Unreachable { .. }
            | ImageError::Timeout { .. } => ErrorKind::RegistryFailure,
            _ => ErrorKind::ImageUnusable,
        };
        Self::new(kind, error.to_string())
    }

    /// Sets the time after which the caller may retry.
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let later = |message: &str| {
            tracing::warn!(%error, "the cluster");
            Self::new(ErrorKind::Unavailable, message).after(CLUSTER_RETRY_DELAY)
        };
        match &error {
            StoreError::Unavailable(_) => later(
                "the server cannot reach the database of its cluster, and does not know whether \
                 the operation took effect: sandboxes keep running; try again later",
            ),
            StoreError::Fenced => later(
                "this server was cut off from its cluster, and its sandboxes are lost: try again \
                 later",
            ),
            StoreError::Moved => Self::new(
                ErrorKind::RunBusy,
                "the run was moved to another server of the cluster meanwhile: try again",
            )
            .after(CLUSTER_RETRY_DELAY),
            StoreError::Limit(ClusterLimit::TenantRuns) => {
                Self::new(ErrorKind::TooManyRuns, error.to_string()).after(Duration::from_secs(1))
            }
            StoreError::Limit(ClusterLimit::TenantSnapshots) => {
                Self::new(ErrorKind::TooManyRequests, error.to_string())
            }
            StoreError::Limit(ClusterLimit::NodeRuns) => {
                Self::new(ErrorKind::Unavailable, error.to_string()).after(CLUSTER_RETRY_DELAY)
            }
            _ => Self::internal("cannot reach the database", error),
        }
    }
}

/// An error of an operation in a sandbox, which may be caused by the end of the sandbox.
pub trait OperationError: From<Error> {
    /// Reports whether the connection to the sandbox was lost.
    fn is_connection_lost(&self) -> bool;
}

impl OperationError for Error {
    fn is_connection_lost(&self) -> bool {
        self.kind == ErrorKind::Unavailable
    }
}
