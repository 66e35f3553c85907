//! The stable error codes.

use http::StatusCode;

/// The stable error codes, listed in `docs/isorun/http-api.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request is malformed; the message names the field.
    InvalidRequest,
    /// There is no key, or it is unknown or revoked.
    Unauthorized,
    /// The key of an admin is required.
    Forbidden,
    /// The path does not exist.
    NotFound,
    /// The path does not support the method.
    MethodNotAllowed,
    /// The run does not exist or belongs to another tenant.
    RunNotFound,
    /// The run was destroyed.
    RunDestroyed,
    /// The run is hibernated.
    RunHibernated,
    /// The run is changing its state.
    RunBusy,
    /// The snapshot does not exist or belongs to another tenant.
    SnapshotNotFound,
    /// The files of the checkpoint are not those that were written.
    SnapshotDamaged,
    /// The checkpoint was created by another version of the engine or its programs.
    SnapshotIncompatible,
    /// The server's disk has no space for it.
    ServerFull,
    /// The sandbox terminated unexpectedly.
    SandboxDied,
    /// The image does not exist.
    ImageNotFound,
    /// The server does not pull from this registry.
    ImageNotAllowed,
    /// The image is damaged, malicious, or built for another platform.
    ImageUnusable,
    /// The registry failed or cannot be reached.
    RegistryFailure,
    /// The file does not exist.
    FileNotFound,
    /// The path is not a regular file, not a directory, or not writable.
    FileError,
    /// The program, directory or user does not exist in the sandbox.
    CommandNotFound,
    /// The sandbox's disk is full, or it has too many processes.
    SandboxFull,
    /// There is no such context in the run.
    ContextNotFound,
    /// The context runs a cell.
    ContextBusy,
    /// The limit of contexts of the run is reached.
    TooManyContexts,
    /// The image has no interpreter for the language.
    LanguageNotAvailable,
    /// The command took longer than its timeout.
    ExecTimeout,
    /// The body or file exceeds the server's limit.
    TooLarge,
    /// The body was sent too slowly.
    RequestTimeout,
    /// The body is not JSON in UTF-8.
    UnsupportedMediaType,
    /// A limit of requests, or the share of the tenant, is reached.
    TooManyRequests,
    /// A limit of runs, or the share of the tenant, is reached.
    TooManyRuns,
    /// The limit of commands of the run is reached.
    TooManyExecs,
    /// The server does not support the field.
    NotSupported,
    /// The image of the run does not have what the request needs, such as a shell.
    ImageLacksFeature,
    /// No server listens on the port of the run.
    ConnectionRefused,
    /// The server on the port does not speak HTTP.
    PortBroken,
    /// The server on the port does not respond.
    UpstreamTimeout,
    /// The server is stopping.
    Stopping,
    /// The server lacks a resource.
    Unavailable,
    /// The server failed.
    Internal,
}

impl Code {
    /// Returns the code as it is in the body of an error.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Returns the status of a response with this code.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.row().1
    }

    fn row(self) -> (&'static str, StatusCode) {
        match self {
            Self::InvalidRequest => ("invalid_request", StatusCode::BAD_REQUEST),
            Self::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN),
            Self::NotFound => ("not_found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::RunNotFound => ("run_not_found", StatusCode::NOT_FOUND),
            Self::RunDestroyed => ("run_destroyed", StatusCode::NOT_FOUND),
            Self::RunHibernated => ("run_hibernated", StatusCode::CONFLICT),
            Self::RunBusy => ("run_busy", StatusCode::CONFLICT),
            Self::SnapshotNotFound => ("snapshot_not_found", StatusCode::NOT_FOUND),
            Self::SnapshotDamaged => ("snapshot_damaged", StatusCode::UNPROCESSABLE_ENTITY),
            Self::SnapshotIncompatible => ("snapshot_incompatible", StatusCode::CONFLICT),
            Self::ServerFull => ("server_full", StatusCode::INSUFFICIENT_STORAGE),
            Self::SandboxDied => ("sandbox_died", StatusCode::GONE),
            Self::ImageNotFound => ("image_not_found", StatusCode::NOT_FOUND),
            Self::ImageNotAllowed => ("image_not_allowed", StatusCode::FORBIDDEN),
            Self::ImageUnusable => ("image_unusable", StatusCode::UNPROCESSABLE_ENTITY),
            Self::RegistryFailure => ("registry_failure", StatusCode::BAD_GATEWAY),
            Self::FileNotFound => ("file_not_found", StatusCode::NOT_FOUND),
            Self::FileError => ("file_error", StatusCode::BAD_REQUEST),
            Self::CommandNotFound => ("command_not_found", StatusCode::BAD_REQUEST),
            Self::SandboxFull => ("sandbox_full", StatusCode::INSUFFICIENT_STORAGE),
            Self::ContextNotFound => ("context_not_found", StatusCode::NOT_FOUND),
            Self::ContextBusy => ("context_busy", StatusCode::CONFLICT),
            Self::TooManyContexts => ("too_many_contexts", StatusCode::TOO_MANY_REQUESTS),
            Self::LanguageNotAvailable => {
                ("language_not_available", StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::ExecTimeout => ("exec_timeout", StatusCode::GATEWAY_TIMEOUT),
            Self::TooLarge => ("too_large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::RequestTimeout => ("request_timeout", StatusCode::REQUEST_TIMEOUT),
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            Self::TooManyRequests => ("too_many_requests", StatusCode::TOO_MANY_REQUESTS),
            Self::TooManyRuns => ("too_many_runs", StatusCode::TOO_MANY_REQUESTS),
            Self::TooManyExecs => ("too_many_execs", StatusCode::TOO_MANY_REQUESTS),
            Self::NotSupported => ("not_supported", StatusCode::NOT_IMPLEMENTED),
            Self::ImageLacksFeature => ("image_lacks_feature", StatusCode::CONFLICT),
            Self::ConnectionRefused => ("connection_refused", StatusCode::BAD_GATEWAY),
            Self::PortBroken => ("port_broken", StatusCode::BAD_GATEWAY),
            Self::UpstreamTimeout => ("upstream_timeout", StatusCode::GATEWAY_TIMEOUT),
            Self::Stopping => ("stopping", StatusCode::SERVICE_UNAVAILABLE),
            Self::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}
