//! One HTTP request and its response, as a task.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderName, Method, Uri, header};
use tokio::sync::Notify;

use crate::{
    contract::{self, Outcome, RequestBody},
    host::{Host, HostError},
    http::{Body, Request, Response, fields, from_latin1},
};

/// The guest gets a body in pieces of this size at most.
const MAX_CHUNK: usize = 256 << 10;

/// A body of this length or less is short.
const SHORT: u64 = 64 << 10;

/// How often a short body is looked for before its head is handed on alone.
const PATIENCE: usize = 4;

/// A response's header fields may take this much.
const MAX_HEADERS: usize = 256 << 10;

/// Fields that belong to the connection, which is the host's, or that would
/// tell another target than the URL does.
const HOSTS_OWN: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// What the host holds for a request, in bytes.
pub(super) fn size(request: &contract::Request) -> usize {
    let headers: usize = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let body = match &request.body {
        RequestBody::Whole(bytes) => bytes.len(),
        RequestBody::None | RequestBody::Pieces(_) => 0,
    };
    request.url.len() + headers + body
}

/// Whether a body comes in pieces, and then its length as far as it is known.
pub(super) fn announced(body: &RequestBody) -> Option<Option<u64>> {
    match body {
        RequestBody::Pieces(length) => Some(*length),
        RequestBody::None | RequestBody::Whole(_) => None,
    }
}

/// Checks what the guest wants to send. The error is for the guest.
pub(super) fn prepare(request: contract::Request) -> Result<(Request, Option<Duration>), String> {
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| format!("{:?} is not an HTTP method", request.method))?;
    let url: Uri =
        request.url.parse().map_err(|error| format!("{:?} is not a URL: {error}", request.url))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
        return Err(format!("{:?} is not an absolute http or https URL", request.url));
    }
    let length = announced(&request.body).flatten();
    let body = match request.body {
        RequestBody::Whole(bytes) if !bytes.is_empty() => Body::from(bytes),
        _ => Body::empty(),
    };
    let mut prepared = ::http::Request::new(body);
    *prepared.method_mut() = method;
    *prepared.uri_mut() = url;
    for (name, value) in &request.headers {
        let field = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{name:?} is not the name of a header field"))?;
        if HOSTS_OWN.contains(&field) {
            return Err(format!("the header field {field} is the host's to set"));
        }
        // The body tells its length itself; see below for one in pieces.
        if field != header::CONTENT_LENGTH {
            let value = from_latin1(value)
                .ok_or_else(|| format!("the value of the header field {field} cannot be sent"))?;
            prepared.headers_mut().append(field, value);
        }
    }
    if let Some(length) = length {
        prepared.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    Ok((prepared, request.first_byte_timeout.map(Duration::from_nanos)))
}

/// Asks the host, and hands its response on piece by piece, each when the guest
/// asks for it; if `eager`, a short body comes with the head. Dropping this closes the connection.
pub(super) async fn run(
    host: Arc<dyn Host>,
    request: Request,
    timeout: Option<Duration>,
    eager: bool,
    asked: &Notify,
    put: impl Fn(Outcome),
) {
    let answer = ask(host, request);
    let answer = match timeout {
        None => answer.await,
        Some(timeout) => tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| {
            Err(HostError::new(format!("the response did not begin within {timeout:?}")))
        }),
    };
    let (mut head, body) = match answer.and_then(head) {
        Ok(parts) => parts,
        Err(error) => return put(Outcome::Failed(error.message().to_owned())),
    };
    let is_short = eager && body.length().is_some_and(|length| length <= SHORT);
    let mut pieces = std::pin::pin!(body.into_stream());
    let mut piece = Bytes::new();
    let mut broken = None;
    // A short body mostly comes with its head: then there is no need to ask.
    for _ in 0..if is_short { PATIENCE } else { 0 } {
        match pieces.next().now_or_never() {
            Some(Some(Ok(next))) => head.body.extend_from_slice(&next),
            Some(None) => {
                head.complete = true;
                break;
            }
            Some(Some(Err(error))) => {
                broken = Some(error);
                break;
            }
            // Whoever reads from the connection may be about to.
            None => tokio::task::yield_now().await,
        }
    }
    let complete = head.complete;
    put(Outcome::Response(head));
    if complete {
        return;
    }
    loop {
        asked.notified().await;
        if let Some(error) = broken {
            return put(Outcome::Failed(error.message().to_owned()));
        }
        while piece.is_empty() {
            piece = match pieces.next().await {
                Some(Ok(next)) => next,
                Some(Err(error)) => return put(Outcome::Failed(error.message().to_owned())),
                None => return put(Outcome::End),
            };
        }
        let chunk = piece.copy_to_bytes(piece.len().min(MAX_CHUNK));
        put(Outcome::Chunk(chunk.into()));
    }
}

/// A panic of the host's handler is a failure like any other.
async fn ask(host: Arc<dyn Host>, request: Request) -> Result<Response, HostError> {
    AssertUnwindSafe(host.http(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(HostError::new("the host's HTTP handler panicked")))
}

fn head(response: Response) -> Result<(contract::Response, Body), HostError> {
    let (parts, body) = response.into_parts();
    let headers = fields(&parts.headers);
    let size: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_HEADERS {
        return Err(HostError::new(format!("the response's headers exceed {MAX_HEADERS} bytes")));
    }
    let status = parts.status.as_u16();
    Ok((contract::Response { status, headers, body: Vec::new(), complete: false }, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str, header: (&str, &str)) -> contract::Request {
        contract::Request {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: vec![(header.0.to_owned(), header.1.to_owned())],
            body: RequestBody::None,
            first_byte_timeout: None,
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused_by_name() {
        for (url, header, why) in [
            ("example.test", ("a", "b"), "absolute"),
            ("/path", ("a", "b"), "absolute"),
            ("ftp://example.test/", ("a", "b"), "absolute"),
            ("http://", ("a", "b"), "not a URL"),
            ("http://example.test/ x", ("a", "b"), "not a URL"),
            ("http://example.test/", ("a b", "c"), "not the name"),
            ("http://example.test/", ("a", "b\r\nc: d"), "cannot be sent"),
            ("http://example.test/", ("a", "€"), "cannot be sent"),
            ("http://example.test/", ("Host", "other.test"), "host's to set"),
            ("http://example.test/", ("transfer-encoding", "chunked"), "host's to set"),
        ] {
            let error = prepare(request(url, header)).unwrap_err();
            assert!(error.contains(why), "{url} {header:?}: {error}");
        }
    }

    #[test]
    fn latin1_crosses_and_length_is_the_bodys() {
        let (sent, _) = prepare(request("http://example.test/", ("a", "é"))).unwrap();
        assert_eq!(sent.headers()["a"].as_bytes(), b"\xe9");
        assert_eq!(fields(sent.headers()), [("a".to_owned(), "é".to_owned())]);
        let (sent, _) = prepare(request("http://example.test/", ("content-length", "9"))).unwrap();
        assert!(sent.headers().is_empty());
    }
}
