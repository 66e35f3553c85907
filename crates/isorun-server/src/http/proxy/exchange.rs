//! Forwards one request through the proxy, and its response: heads are rewritten, bodies
//! are streamed, and an upgrade becomes a plain stream of bytes in both directions.

use std::time::Duration;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, Version, header},
    response::Response,
};
use hyper::{ext::Protocol, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use isorun_egress::hop_by_hop;
use tokio::time::timeout;

use super::{
    body::attach,
    inward, outward,
    port_client::{MAX_HEADER_BYTES, MAX_HEADER_FIELDS, PortClient, UpstreamError},
    port_url::PortUrl,
};
use crate::{
    core::live_run::ProxyRequest,
    http::error::{ApiError, Code},
};

/// The maximum time until the response of the server in a sandbox starts.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);

/// Forwards a request to the server in the sandbox, and returns its response.
pub async fn forward(
    ports: &PortClient,
    in_progress: ProxyRequest,
    url: &PortUrl,
    shared_origin: bool,
    mut request: Request,
) -> Result<Response, ApiError> {
    let names = inward::HostNames::of(request.uri(), request.headers());
    let policy = outward::ResponsePolicy::of(url, &names, request.headers(), shared_origin);
    if let Some(response) = outward::preflight(policy.is_isolated, &request) {
        return Ok(response);
    }
    // A WebSocket over HTTP/2 is a CONNECT; the sandbox gets the HTTP/1.1 upgrade.
    let is_http2_connect = request.method() == Method::CONNECT;
    let protocol = if is_http2_connect {
        let protocol = request.extensions_mut().remove::<Protocol>();
        let protocol = protocol.filter(|protocol| protocol.as_str() == "websocket");
        if protocol.is_none() {
            return Err(ApiError::invalid("CONNECT is supported for WebSockets only"));
        }
        Some(HeaderValue::from_static("websocket"))
    } else {
        hop_by_hop::upgrade(request.headers())
    };
    let client_upgrade = protocol.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let upstream_request =
        build_upstream_request(url, &names, request, protocol, is_http2_connect)?;
    let sending = ports.send(in_progress.sandbox(), url.port, upstream_request);
    let response = match timeout(RESPONSE_TIMEOUT, sending).await {
        Ok(response) => response.map_err(|error| upstream_error(url, error))?,
        Err(_) => {
            return Err(ApiError::new(
                Code::UpstreamTimeout,
                format!(
                    "the server on port {} did not respond within {} s",
                    url.port,
                    RESPONSE_TIMEOUT.as_secs()
                ),
            ));
        }
    };
    Ok(build_client_response(url, &policy, response, client_upgrade, is_http2_connect, in_progress))
}

fn upstream_error(url: &PortUrl, error: UpstreamError) -> ApiError {
    match error {
        UpstreamError::Refused(why) => ApiError::new(
            Code::ConnectionRefused,
            format!("{why} in {}: start a server there, then try again", url.run),
        ),
        UpstreamError::Busy(why) => {
            ApiError::new(Code::TooManyRequests, why).after(Duration::from_secs(1))
        }
        UpstreamError::Unreachable(why) => {
            tracing::warn!(run = %url.run, why, "cannot connect to a sandbox for its URL");
            ApiError::new(Code::Unavailable, "cannot connect to the sandbox: try again")
        }
        UpstreamError::TooLarge => ApiError::new(
            Code::PortBroken,
            format!(
                "the response header from port {} is too large: at most {MAX_HEADER_FIELDS} fields \
                 and {MAX_HEADER_BYTES} bytes are allowed",
                url.port
            ),
        ),
        UpstreamError::InvalidResponse(_) => ApiError::new(
            Code::PortBroken,
            format!(
                "the server on port {} closed the connection or sent an invalid HTTP response",
                url.port
            ),
        ),
    }
}

/// Builds the request to the server in the sandbox.
fn build_upstream_request(
    url: &PortUrl,
    names: &inward::HostNames,
    request: Request,
    upgrade: Option<HeaderValue>,
    is_http2_connect: bool,
) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    parts.uri = inward::target(url, parts.uri.query())?;
    let headers = &mut parts.headers;
    inward::rewrite(url, names, headers);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
        if is_http2_connect {
            parts.method = Method::GET;
            // The answer to the key is not verified: WebSockets over HTTP/2 have none.
            let key = HeaderValue::from_static("aXNvcnVuLXdlYnNvY2tldA==");
            headers.insert(header::SEC_WEBSOCKET_KEY, key);
        }
    }
    parts.version = Version::HTTP_11;
    Ok(Request::from_parts(parts, body))
}

/// Builds the response to the client.
fn build_client_response(
    url: &PortUrl,
    policy: &outward::ResponsePolicy,
    mut response: Response<hyper::body::Incoming>,
    client_upgrade: Option<OnUpgrade>,
    is_http2_connect: bool,
    in_progress: ProxyRequest,
) -> Response {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upstream_upgrade = hyper::upgrade::on(&mut response);
        let protocol = hop_by_hop::upgrade(response.headers());
        let (mut parts, _) = response.into_parts();
        outward::rewrite(url, policy, &mut parts.headers);
        if is_http2_connect {
            parts.status = StatusCode::OK;
            parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        } else if let Some(protocol) = protocol {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, protocol);
        }
        if let Some(client_upgrade) = client_upgrade {
            tokio::spawn(copy_both_ways(client_upgrade, upstream_upgrade, in_progress));
        }
        return Response::from_parts(parts, Body::empty());
    }
    let (mut parts, body) = response.into_parts();
    outward::rewrite(url, policy, &mut parts.headers);
    parts.version = Version::default();
    Response::from_parts(parts, attach(in_progress, body))
}

/// Copies bytes in both directions until both ends are closed, or the run ends.
async fn copy_both_ways(
    client_upgrade: OnUpgrade,
    upstream_upgrade: OnUpgrade,
    in_progress: ProxyRequest,
) {
    let work = async {
        let (Ok(client_upgrade), Ok(upstream_upgrade)) =
            tokio::join!(client_upgrade, upstream_upgrade)
        else {
            return;
        };
        let (mut client_upgrade, mut upstream_upgrade) =
            (TokioIo::new(client_upgrade), TokioIo::new(upstream_upgrade));
        // An error closes both ends.
        let _ = tokio::io::copy_bidirectional(&mut client_upgrade, &mut upstream_upgrade).await;
    };
    tokio::select! {
        () = work => {}
        _ = in_progress.ended() => {}
    }
}
