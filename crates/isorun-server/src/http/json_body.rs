//! JSON bodies of requests: their headers, and reading them to their end.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderMap, header},
};
use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    body::body_error,
    error::{ApiError, Code},
};
use crate::{config::MAX_JSON_BYTES, strict_json::echo};

/// The largest part of a refused body that is discarded, in bytes.
const MAX_DRAINED_BYTES: usize = 256 << 20;
/// The longest time for discarding a refused body.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks that the headers allow a JSON body. A missing content type, and the default
/// types of `curl -d` and `fetch`, are accepted.
pub fn is_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let refused = |message| Err(ApiError::new(Code::UnsupportedMediaType, message));
    for value in headers.get_all(header::CONTENT_TYPE) {
        let text = value.to_str().unwrap_or("?").to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let json = matches!(
            kind,
            "application/json" | "text/json" | "text/plain" | "application/x-www-form-urlencoded"
        ) || kind.ends_with("+json");
        if !json {
            let message =
                format!("content-type is `{}`: send JSON, as application/json", echo(kind));
            return refused(message);
        }
        let charset = parts.find_map(|part| part.strip_prefix("charset="));
        let charset = charset.map(|name| name.trim_matches('"'));
        if let Some(name) = charset
            && !matches!(name, "utf-8" | "utf8" | "us-ascii")
        {
            return refused(format!(
                "content-type has the charset `{}`: send JSON in UTF-8",
                echo(name)
            ));
        }
    }
    for value in headers.get_all(header::CONTENT_ENCODING) {
        if !value.as_bytes().eq_ignore_ascii_case(b"identity") {
            let value = String::from_utf8_lossy(value.as_bytes());
            return refused(format!(
                "content-encoding is `{}`: send the body without one",
                echo(&value)
            ));
        }
    }
    Ok(())
}

/// Reads a JSON body to its end.
pub async fn collect(body: Body) -> Result<BytesMut, ApiError> {
    let mut body = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.map_err(body_error)?);
        if bytes.len() > MAX_JSON_BYTES {
            drain(&mut body).await;
            let message = format!("the body is larger than {MAX_JSON_BYTES} bytes");
            return Err(ApiError::new(Code::TooLarge, message));
        }
    }
    Ok(bytes)
}

/// Discards the rest of a body, up to a limit. If the connection was closed while the
/// client still sends, the client would not receive the response.
pub async fn drain(body: &mut BodyDataStream) {
    let mut remaining = MAX_DRAINED_BYTES;
    let reading = async {
        while let Some(Ok(piece)) = body.next().await
            && piece.len() < remaining
        {
            remaining -= piece.len();
        }
    };
    let _ = timeout(DRAIN_TIMEOUT, reading).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_and_encodings_are_checked() {
        let headers = |name: header::HeaderName, value: &str| {
            HeaderMap::from_iter([(name, value.parse().unwrap())])
        };
        assert!(is_json(&HeaderMap::new()).is_ok());
        for good in [
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON; Charset=\"UTF-8\"",
            "application/merge-patch+json",
            "text/plain;charset=UTF-8",
            "application/x-www-form-urlencoded",
        ] {
            assert!(is_json(&headers(header::CONTENT_TYPE, good)).is_ok(), "{good}");
        }
        for bad in [
            "application/xml",
            "multipart/form-data; boundary=x",
            "json",
            "",
            "application/json; charset=utf-16",
        ] {
            let error = is_json(&headers(header::CONTENT_TYPE, bad)).unwrap_err();
            assert_eq!(error.code, Code::UnsupportedMediaType, "{bad}");
        }
        assert!(is_json(&headers(header::CONTENT_ENCODING, "gzip")).is_err());
        assert!(is_json(&headers(header::CONTENT_ENCODING, "identity")).is_ok());
    }
}
