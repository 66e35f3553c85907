//! Errors of requests: status, stable code and message.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{api::ErrorBody, store::StoreError};

/// An error response. It contains only what the client may see; details for the
/// operator are logged where the error is created.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub code: Code,
    pub message: String,
    /// The time after which the client may retry.
    pub retry_after: Option<Duration>,
}

/// The stable error codes, listed in `docs/isorun/http-api.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RunNotFound,
    RunDestroyed,
    RunHibernated,
    RunBusy,
    SnapshotNotFound,
    SnapshotDamaged,
    SnapshotIncompatible,
    ServerFull,
    SandboxDied,
    ImageNotFound,
    ImageNotAllowed,
    ImageUnusable,
    RegistryFailure,
    FileNotFound,
    FileError,
    CommandNotFound,
    SandboxFull,
    ExecTimeout,
    TooLarge,
    RequestTimeout,
    UnsupportedMediaType,
    TooManyRequests,
    TooManyRuns,
    TooManyExecs,
    NotSupported,
    ConnectionRefused,
    PortBroken,
    UpstreamTimeout,
    Stopping,
    Unavailable,
    Internal,
}

impl Code {
    pub fn name(self) -> &'static str {
        self.row().0
    }

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
            Self::ConnectionRefused => ("connection_refused", StatusCode::BAD_GATEWAY),
            Self::PortBroken => ("port_broken", StatusCode::BAD_GATEWAY),
            Self::UpstreamTimeout => ("upstream_timeout", StatusCode::GATEWAY_TIMEOUT),
            Self::Stopping => ("stopping", StatusCode::SERVICE_UNAVAILABLE),
            Self::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

impl ApiError {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// Creates an error for a failure of the server, and logs its cause.
    pub fn internal(what: &str, error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "{what}");
        Self::new(Code::Internal, format!("{what}: this is an error of the server; see its log"))
    }

    /// Sets the time after which the client may retry.
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::internal("cannot reach the database", error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: self.message,
            code: self.code.name().to_owned(),
            stdout: None,
            stderr: None,
        };
        let mut response = (self.code.status(), Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            // Rounded up to seconds, so that the retry is not too early.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
        }
        if self.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
