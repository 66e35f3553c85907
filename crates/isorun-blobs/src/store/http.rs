//! The HTTP client of S3: bounds every response, and keeps of an error response nothing but
//! its status and its error code. The rest can contain credentials.

use async_trait::async_trait;
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};

/// The maximum size of a response, in bytes: the largest object is that of a tree.
const MAX_RESPONSE_BYTES: usize = 40 << 20;
/// The maximum size of an error response that is read for its code, in bytes.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// The maximum length of an error code, in bytes.
const MAX_CODE_BYTES: usize = 64;

/// Creates the clients of a store.
#[derive(Debug)]
pub(super) struct BoundedConnector;

/// A client with bounded responses.
#[derive(Debug)]
struct BoundedClient(HttpClient);

/// An error response.
#[derive(Debug, thiserror::Error)]
#[error("status {}{}", .status.as_u16(), .code.as_ref().map(|code| format!(", code {code}")).unwrap_or_default())]
pub(super) struct ErrorResponse {
    pub(super) status: StatusCode,
    /// The error code, such as `AccessDenied`.
    pub(super) code: Option<String>,
}

impl HttpConnector for BoundedConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(BoundedClient(ReqwestConnector::default().connect(options)?)))
    }
}

#[async_trait]
impl HttpService for BoundedClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = self.0.execute(request).await.map_err(retryable)?.into_parts();
        let status = parts.status;
        if !status.is_success() {
            let error = ErrorResponse { status, code: read_code(body).await };
            // The client retries errors of this kind, and no unknown ones.
            let kind =
                if is_temporary(status) { HttpErrorKind::Request } else { HttpErrorKind::Unknown };
            return Err(HttpError::new(kind, error));
        }
        let body = Limited::new(body, MAX_RESPONSE_BYTES).map_err(|error| {
            match error.downcast::<HttpError>() {
                Ok(error) => *error,
                Err(error) => HttpError::new_boxed(HttpErrorKind::Decode, error),
            }
        });
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

/// Returns an error that the client retries if a timeout or a broken connection was the cause.
/// The client itself does not retry deletions then, which are sent with `POST`; but every
/// request of this crate can be repeated.
fn retryable(error: HttpError) -> HttpError {
    match error.kind() {
        HttpErrorKind::Timeout | HttpErrorKind::Interrupted => {
            HttpError::new(HttpErrorKind::Request, error)
        }
        _ => error,
    }
}

/// Reports whether a request with this response can succeed later.
pub(super) fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || status == StatusCode::CONFLICT
}

async fn read_code(body: HttpResponseBody) -> Option<String> {
    let body = Limited::new(body, MAX_ERROR_BYTES).collect().await.ok()?.to_bytes();
    parse_code(&body)
}

/// Returns the error code of an error document.
fn parse_code(document: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(document).ok()?;
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    is_plain_code(code).then(|| code.to_owned())
}

/// Reports whether a text can be an error code, so that it may be shown.
pub(super) fn is_plain_code(text: &str) -> bool {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    is_plain && (1..=MAX_CODE_BYTES).contains(&text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_error_code_is_kept() {
        let parsed = |text: &str| parse_code(text.as_bytes());
        assert_eq!(parsed("<Error><Code>SlowDown</Code></Error>").as_deref(), Some("SlowDown"));
        for other in ["", "<Code>", "<Code></Code>", "<Code>a b</Code>", "<Code>\u{1b}[0m</Code>"] {
            assert_eq!(parsed(other), None, "{other}");
        }
        assert_eq!(parsed(&format!("<Code>{}</Code>", "a".repeat(65))), None);
    }
}
