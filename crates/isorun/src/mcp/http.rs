//! The protocol over HTTP, which its specification calls Streamable HTTP.
//!
//! Every request has an API key of the isorun server, which is verified there, and acts with
//! that key only: sessions belong to the key. A request from a page of a website, or for
//! another host name than those that are allowed, is refused.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode, body::Incoming, header, http, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::{
    model::Extensions,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{McpServer, Owner, Tools};
use crate::client::{Client, ClientError};

/// The path of the protocol.
pub const PATH: &str = "/mcp";
/// The maximum number of connections.
const MAX_CONNECTIONS: usize = 512;
/// The maximum size of a request. A file that is written is a part of one.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// The time that a client has to send the head of a request, also on an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The time that requests have to complete when this program is stopped.
const GRACE: Duration = Duration::from_secs(5);
/// The time to wait after a failure of accepting a connection, such as too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

type Service = StreamableHttpService<McpServer, NeverSessionManager>;
type Body = BoxBody<Bytes, Infallible>;

/// The settings of the transport.
pub struct HttpOptions {
    /// Names and addresses by which clients address this server, in addition to loopback.
    pub hosts: Vec<String>,
    /// Origins of websites whose pages may send requests.
    pub origins: Vec<String>,
}

/// Returns the owner of a request, which was attached to it when its key was verified.
pub fn owner(extensions: &Extensions) -> Option<Owner> {
    extensions.get::<http::request::Parts>()?.extensions.get::<Owner>().cloned()
}

/// Serves requests until `stop`.
pub async fn serve(
    listener: TcpListener,
    tools: Arc<Tools>,
    client: Client,
    options: HttpOptions,
    stop: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let server = McpServer::new(tools, None);
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_allowed_hosts(allowed_hosts(address, options.hosts))
        .with_allowed_origins(options.origins)
        .enforce_origin_validation()
        .with_max_request_body_bytes(MAX_REQUEST_BYTES);
    let service = StreamableHttpService::new(
        move || Ok(server.clone()),
        Arc::new(NeverSessionManager::default()),
        config,
    );
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        // Further clients wait in the queue of the listener.
        let permit = Arc::clone(&connections).acquire_owned();
        let accepted = tokio::select! {
            accepted = async { (permit.await, listener.accept().await) } => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            (Ok(permit), Ok((stream, _))) => {
                let (service, client, stop) = (service.clone(), client.clone(), stop.clone());
                tasks.spawn(async move {
                    connection(stream, service, client, stop).await;
                    drop(permit);
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
            (Err(_), _) => break,
        }
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Serves the requests of a connection, and those in progress after `stop` for a while.
async fn connection(stream: TcpStream, service: Service, client: Client, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let answer = service_fn(|request| {
        let (service, client) = (service.clone(), client.clone());
        async move { Ok::<_, Infallible>(answer(request, service, client).await) }
    });
    let mut serving = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer)
    );
    let ended = tokio::select! {
        result = serving.as_mut() => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            // Requests that take longer are cut off.
            tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection failed");
    }
}

async fn answer(
    mut request: Request<Incoming>,
    service: Service,
    client: Client,
) -> Response<Body> {
    if request.uri().path() != PATH {
        return refusal(StatusCode::NOT_FOUND, &format!("the path of this server is {PATH}"));
    }
    let Some(key) = bearer(request.headers()) else {
        return refusal(
            StatusCode::UNAUTHORIZED,
            "the request has no API key: send the header `Authorization: Bearer KEY` with a key of \
             the isorun server",
        );
    };
    let client = client.with_key(&key);
    // Only the server knows which keys are valid.
    match client.usage().await {
        Ok(_) => {}
        Err(ClientError::Refused { status, body }) => return refusal(status, &body.error),
        Err(error) => {
            tracing::warn!(%error, "the isorun server cannot be asked about a key");
            return refusal(StatusCode::BAD_GATEWAY, "the isorun server does not answer");
        }
    }
    request.extensions_mut().insert(Owner { client, key: key.into() });
    // A bug in a handler ends its request, and not the connection of other requests.
    std::panic::AssertUnwindSafe(service.handle(request)).catch_unwind().await.unwrap_or_else(
        |_| refusal(StatusCode::INTERNAL_SERVER_ERROR, "the server failed on this request"),
    )
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    let is_plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case("bearer") && is_plain).then(|| key.to_owned())
}

fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    let body = serde_json::json!({ "error": message }).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response
}

/// Returns the names for which requests are accepted: those of loopback, those that the user has
/// given, and the address on which it listens, if it is a certain one.
fn allowed_hosts(address: SocketAddr, given: Vec<String>) -> Vec<String> {
    let mut hosts = given;
    hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    if !address.ip().is_unspecified() {
        hosts.push(address.ip().to_string());
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_key_is_accepted() {
        for (value, key) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc_1.2", Some("abc_1.2")),
            ("Basic abc", None),
            ("Bearer ", None),
            ("Bearer a b", None),
            ("abc", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            assert_eq!(bearer(&headers).as_deref(), key, "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
