//! What the errors of a store mean.

use std::error::Error as StdError;
use std::io;

use http::StatusCode;
use object_store::client::{HttpError, HttpErrorKind};

use super::http::{ErrorResponse, is_plain_code, is_temporary};
use crate::error::Error;

/// The reason why an operation on an object failed.
pub(super) enum Failure {
    /// The object does not exist.
    NotFound,
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// Classifies an error of the client. `what` is the failed operation, and `hint` is added
    /// if the store cannot be reached.
    pub(super) fn new(what: &str, hint: &str, error: &object_store::Error) -> Self {
        tracing::debug!(%error, "{what}");
        let mut next: Option<&(dyn StdError + 'static)> = Some(error);
        let mut http = None;
        while let Some(cause) = next {
            if let Some(response) = cause.downcast_ref::<ErrorResponse>() {
                let code = response.code.as_deref().unwrap_or_default();
                return from_code(&format!("{what}: {response}"), response.status, code);
            }
            if let Some(code) = deletion_code(&cause.to_string()) {
                return from_code(&format!("{what}: code {code}"), deletion_status(code), code);
            }
            if let Some(error) = cause.downcast_ref::<io::Error>()
                && http.is_none()
            {
                return from_io(what, error);
            }
            http = cause.downcast_ref::<HttpError>().map(HttpError::kind).or(http);
            next = cause.source();
        }
        if let Some(kind) = http {
            let reason = match kind {
                HttpErrorKind::Connect => "cannot connect to the endpoint",
                HttpErrorKind::Timeout => "the request timed out",
                HttpErrorKind::Request | HttpErrorKind::Interrupted => "the connection was closed",
                HttpErrorKind::Decode => "the response is not valid or too large",
                _ => "the request failed",
            };
            // The innermost cause is that of the operating system or of TLS.
            let why = format!("{what}: {reason} ({}){hint}", innermost(error));
            return Error::Unavailable { why, retry: true }.into();
        }
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound,
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => {
                Error::Denied { why: what.to_owned() }.into()
            }
            _ => Error::Unavailable {
                why: format!("{what}: {}{hint}", innermost(error)),
                retry: false,
            }
            .into(),
        }
    }
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Returns the code of an object that could not be deleted, from the text of an error of the
/// client: the answer to a request that deletes many objects has a code for each. The rest of the
/// text is the store's.
fn deletion_code(text: &str) -> Option<&str> {
    let text = text.strip_prefix("DeleteObjects request failed")?.strip_suffix(')')?;
    text.rsplit_once("(code: ").map(|(_, code)| code).filter(|code| is_plain_code(code))
}

/// Returns the status that a request for one object has with this code.
fn deletion_status(code: &str) -> StatusCode {
    match code {
        "AccessDenied" => StatusCode::FORBIDDEN,
        "InternalError" => StatusCode::INTERNAL_SERVER_ERROR,
        "ServiceUnavailable" | "SlowDown" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Returns the failure that a status and an error code of a store mean.
fn from_code(why: &str, status: StatusCode, code: &str) -> Failure {
    let denied = |advice: &str| Error::Denied { why: format!("{why}; {advice}") };
    let config = |advice: &str| Error::Config {
        what: format!("the configuration of the object store is wrong: {why}; {advice}"),
    };
    let error = match (status, code) {
        (_, "NoSuchBucket") => config("create the bucket, or change the URL"),
        (_, "InvalidBucketName") => config("change the name of the bucket in the URL"),
        (_, "ExpiredToken" | "TokenRefreshRequired") => {
            denied("the session token has expired: set AWS_SESSION_TOKEN and its keys to new ones")
        }
        (_, "InvalidToken") => denied("AWS_SESSION_TOKEN does not belong to the other keys"),
        (_, "InvalidAccessKeyId") => denied("AWS_ACCESS_KEY_ID is unknown to the store"),
        (_, "SignatureDoesNotMatch") => denied("check AWS_SECRET_ACCESS_KEY"),
        (_, "RequestTimeTooSkewed") => denied("set the clock of this machine"),
        (
            _,
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "IllegalLocationConstraintException",
        ) => config("set AWS_REGION to the region of the bucket"),
        (StatusCode::NOT_FOUND, _) => return Failure::NotFound,
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => denied(
            "allow the credentials to list the bucket and to read, write and delete its objects",
        ),
        (status, _) if status.is_redirection() => {
            config("set AWS_REGION and AWS_ENDPOINT_URL to those of the bucket")
        }
        (status, _) => Error::Unavailable { why: why.to_owned(), retry: is_temporary(status) },
    };
    error.into()
}

fn from_io(what: &str, error: &io::Error) -> Failure {
    let why = format!("{what}: {error}");
    match error.kind() {
        io::ErrorKind::NotFound => Failure::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::Denied { why: format!("{why}; allow this user to read and write the directory") }
                .into()
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Unavailable {
            why: format!("{why}; free space in the directory, or enlarge it"),
            retry: false,
        }
        .into(),
        _ => Error::Unavailable { why, retry: true }.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_a_failed_deletion_is_kept() {
        let text = "DeleteObjects request failed for key a/b: for (code: key) 7 (code: SlowDown)";
        assert_eq!(deletion_code(text), Some("SlowDown"));
        for other in [
            "DeleteObjects request failed for key a/b: Access Denied",
            "DeleteObjects request failed for key a: b (code: a secret)",
            "Error performing list request: (code: SlowDown)",
        ] {
            assert_eq!(deletion_code(other), None, "{other}");
        }
        assert!(is_temporary(deletion_status("SlowDown")));
        assert!(!is_temporary(deletion_status("AccessDenied")));
    }
}
