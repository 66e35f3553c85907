//! Errors of requests: status, stable code and message.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};

use isorun_api::ErrorBody;

pub use isorun_api::Code;

use crate::{
    core::error::{Error, OperationError},
    store::StoreError,
};

/// An error response. It contains only what the client may see; details for the
/// operator are logged where the error is created.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub code: Code,
    pub message: String,
    /// The time after which the client may retry.
    pub retry_after: Option<Duration>,
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
        Error::internal(what, error).into()
    }

    /// Sets the time after which the client may retry.
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let Error { kind, message, retry_after } = error;
        Self { code: kind.code(), message, retry_after }
    }
}

impl OperationError for ApiError {
    fn is_connection_lost(&self) -> bool {
        self.code == Code::Unavailable
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
