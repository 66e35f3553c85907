//! The intercepting HTTP proxy, which parses and forwards requests one by one: under TLS
//! that it terminates, for hosts of credentials; at the base URL of the proxy; and without
//! TLS where rules by name decide, since each request on a connection can be for another
//! host.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::uri::Scheme;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::policy::Reason;
use super::proxy::EgressProxy;
use super::redact::{RedactedBody, SecretPatterns};
use super::sniff::{self, Host, MAX_HEAD_BYTES, MAX_REQUEST_FIELDS};
use super::upstream::{Connector, HttpClient, client};
use super::{Plan, hop_by_hop, relay};

/// The address of the proxy itself, for base URLs.
pub const GATEWAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 0, 1), 80);

/// Maximum time for the head of a request of the guest, and for a TLS handshake with it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time until a server starts its response to a request without TLS.
const PLAIN_RESPONSE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Maximum size of the buffer for a request, in bytes.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// Maximum number of concurrent requests on one HTTP/2 connection.
const MAX_CONCURRENT_STREAMS: u32 = 100;
/// Maximum number of upstream clients of one connection to the proxy itself.
const MAX_GATEWAY_CLIENTS: usize = 64;

type Body = BoxBody<Bytes, hyper::Error>;

/// An error after which the guest's connection is reset instead of a response.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ResetConnection(&'static str);

/// The future that relays bytes after the protocol of a connection was upgraded.
type UpgradedRelay = Arc<Mutex<Option<BoxFuture<'static, ()>>>>;

/// The proxy of a connection, and the relay after an upgrade of that connection.
type ConnectionContext<'a> = (&'a EgressProxy, &'a UpgradedRelay);

/// The kind of a connection, which decides how its requests are forwarded.
enum ConnectionKind {
    /// Terminated TLS to a host of credentials.
    Tls { plan: Arc<Plan>, name: String, to: SocketAddrV4, client: HttpClient },
    /// To the proxy itself: the first segment of a path is the host.
    Gateway(Mutex<HashMap<(String, SocketAddrV4), HttpClient>>),
    /// Without TLS.
    Plain { to: SocketAddrV4, client: HttpClient },
}

/// Terminates the TLS of a connection to a host of credentials, and serves it.
pub async fn tls<S>(
    proxy: Arc<EgressProxy>,
    plan: Arc<Plan>,
    name: String,
    to: SocketAddrV4,
    stream: S,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(authority) = plan.credentials.authority() else { return };
    let config = match authority.server_config(&name) {
        Ok(config) => config,
        Err(error) => return tracing::error!(%error, "cannot terminate TLS for a sandbox"),
    };
    let accepting = TlsAcceptor::from(config).accept(stream);
    let Ok(Ok(stream)) = timeout(HEAD_TIMEOUT, accepting).await else { return };
    let client = proxy.tls_client(to, &name);
    serve(proxy, ConnectionKind::Tls { plan, name, to, client }, stream).await;
}

/// Serves a connection to the proxy itself.
pub async fn gateway<S>(proxy: Arc<EgressProxy>, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    serve(proxy, ConnectionKind::Gateway(Mutex::default()), stream).await;
}

/// Serves a connection without TLS. Each request is checked.
pub async fn plain<S>(proxy: Arc<EgressProxy>, to: SocketAddrV4, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    serve(proxy, ConnectionKind::Plain { to, client: client(Connector::Plain(to)) }, stream).await;
}

/// Serves a connection until it ends. On any error it is reset.
fn serve<S>(proxy: Arc<EgressProxy>, kind: ConnectionKind, stream: S) -> BoxFuture<'static, ()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let kind = Arc::new(kind);
    let upgraded = UpgradedRelay::default();
    let service = service_fn({
        let (proxy, kind, upgraded) = (proxy.clone(), kind.clone(), upgraded.clone());
        move |request| {
            let (proxy, kind) = (Arc::clone(&proxy), Arc::clone(&kind));
            let upgraded = Arc::clone(&upgraded);
            async move { kind.respond((&proxy, &upgraded), request).await }
        }
    });
    Box::pin(async move {
        let stream = TokioIo::new(stream);
        if let ConnectionKind::Plain { to, .. } = &*kind {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            builder
                .max_headers(MAX_REQUEST_FIELDS)
                .max_header_size(MAX_HEAD_BYTES)
                .max_buf_size(MAX_BUFFER_BYTES);
            let serving = builder.serve_connection(stream, service).with_upgrades();
            if let Err(error) = serving.await {
                tracing::debug!(?error, "the connection of a sandbox is reset");
                if error.is_parse() {
                    proxy.report(None, *to, Reason::Malformed);
                }
            }
        } else {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            builder.http1().max_headers(MAX_REQUEST_FIELDS).max_buf_size(MAX_BUFFER_BYTES);
            builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_CONCURRENT_STREAMS);
            let serving = builder.serve_connection_with_upgrades(stream, service);
            if let Err(error) = serving.await {
                tracing::debug!(?error, "the connection of a sandbox is reset");
            }
        }
        // The relay is part of this future, so it ends when the connection is reset.
        let upgraded = upgraded.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(upgraded) = upgraded {
            upgraded.await;
        }
    })
}

impl ConnectionKind {
    /// Checks and forwards a request.
    async fn respond(
        &self,
        context: ConnectionContext<'_>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, ResetConnection> {
        match self {
            Self::Tls { plan, name, to, client } => {
                let host = match target_host(&request) {
                    Some(Host::Name(host)) => Some(host),
                    Some(Host::Address(_)) => None,
                    Some(Host::None) | None => {
                        let why = "the request names no host, or several: send one Host header";
                        return Ok(error_response(StatusCode::BAD_REQUEST, why));
                    }
                };
                if host.as_ref() != Some(name) {
                    context.0.report(host, *to, Reason::Forged);
                    let why = "the Host of the request is not that of the TLS connection";
                    return Ok(error_response(StatusCode::MISDIRECTED_REQUEST, why));
                }
                let path = path_of(request.uri());
                Ok(send_with_credentials(context, plan, client, name, *to, request, path).await)
            }
            Self::Gateway(clients) => Ok(serve_gateway(context, clients, request).await),
            Self::Plain { to, client } => serve_plain(context, *to, client, request).await,
        }
    }
}

/// Forwards a request to the host that the first segment of its path names.
async fn serve_gateway(
    (proxy, upgraded): ConnectionContext<'_>,
    clients: &Mutex<HashMap<(String, SocketAddrV4), HttpClient>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let plan = proxy.plan();
    let full_path = path_of(request.uri());
    let (name, path) = split_target(&full_path);
    let Some(credential) = plan.credentials.for_host(name).next() else {
        let why = "the sandbox has no credential for that host: a path starts with the host, as in \
                   /api.openai.com/v1/models";
        return error_response(StatusCode::NOT_FOUND, why);
    };
    let (name, port) = (credential.host.clone(), credential.port);
    let Some(address) = proxy.address_of(&name).await else {
        return error_response(StatusCode::BAD_GATEWAY, &format!("{name} cannot be resolved"));
    };
    let to = SocketAddrV4::new(address, port);
    if let Err(reason) = proxy.check_name(&plan, to, Some(&name), &[], true).await {
        proxy.report(Some(name), to, reason);
        return error_response(StatusCode::FORBIDDEN, "a rule of this sandbox denies that host");
    }
    let client = {
        let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), to);
        if clients.len() >= MAX_GATEWAY_CLIENTS && !clients.contains_key(&key) {
            clients.clear();
        }
        clients.entry(key).or_insert_with(|| proxy.tls_client(to, &name)).clone()
    };
    send_with_credentials((proxy, upgraded), &plan, &client, &name, to, request, path).await
}

/// Checks and forwards a request without TLS.
async fn serve_plain(
    (proxy, upgraded): ConnectionContext<'_>,
    to: SocketAddrV4,
    client: &HttpClient,
    request: Request<Incoming>,
) -> Result<Response<Body>, ResetConnection> {
    let plan = proxy.plan();
    let known = proxy.names().names_of(*to.ip());
    let host = target_host(&request).filter(|_| {
        // Names that are sent through a tunnel would not be checked.
        request.method() != Method::CONNECT
            && request.uri().scheme().is_none_or(|scheme| *scheme == Scheme::HTTP)
    });
    let Some(host) = host else {
        proxy.report(known.first().cloned(), to, Reason::Malformed);
        return Err(ResetConnection("malformed"));
    };
    let verdict = match &host {
        Host::Name(name) => proxy.check_name(&plan, to, Some(name), &known, true).await,
        Host::None => proxy.check_name(&plan, to, None, &known, true).await,
        Host::Address(address) if address != to.ip() => Err(Reason::Forged),
        // It can be any name of that server, so no rule by name can allow it.
        Host::Address(_) => match proxy.check_name(&plan, to, None, &known, false).await {
            Err(Reason::Protocol) => Err(Reason::Unlisted),
            verdict => verdict,
        },
    };
    let name = match host {
        Host::Name(name) => Some(name),
        Host::Address(address) => Some(address.to_string()),
        // The name that a rule allows, so that the request is for no other one.
        Host::None => {
            let allowed = known.iter().find(|name| plan.policy.allows(name));
            allowed.or(known.first()).cloned()
        }
    };
    if let Err(reason) = verdict {
        let name = name.filter(|name| name.parse::<Ipv4Addr>().is_err());
        proxy.report(name.or_else(|| known.first().cloned()), to, reason);
        // The connection is reset, in the same way as one that is denied at the start.
        return Err(ResetConnection("denied"));
    }
    let path = path_of(request.uri());
    let name = name.unwrap_or_else(|| to.ip().to_string());
    let sending = forward(upgraded, client, (Scheme::HTTP, to, &name), request, &path);
    match timeout(PLAIN_RESPONSE_TIMEOUT, sending).await {
        Ok(Ok(response)) => Ok(response.map(BodyExt::boxed)),
        Ok(Err(_)) => Err(ResetConnection("the server closed the connection")),
        Err(_) => Err(ResetConnection("the server did not respond in time")),
    }
}

/// Forwards a request with the credentials of its host, if it may use them.
async fn send_with_credentials(
    (proxy, upgraded): ConnectionContext<'_>,
    plan: &Plan,
    client: &HttpClient,
    name: &str,
    to: SocketAddrV4,
    mut request: Request<Incoming>,
    path: String,
) -> Response<Body> {
    if request.method() == Method::CONNECT {
        return error_response(
            StatusCode::METHOD_NOT_ALLOWED,
            "the proxy does not support CONNECT",
        );
    }
    let bare_path = path.split('?').next().unwrap_or_default();
    let all: Vec<_> = plan.credentials.for_host(name).filter(|one| one.port == to.port()).collect();
    let usable: Vec<_> =
        all.iter().filter(|one| one.permits(request.method(), bare_path)).copied().collect();
    if usable.is_empty() {
        proxy.report(Some(name.to_owned()), to, Reason::Credential);
        let why = format!(
            "no credential of this sandbox for {name} permits {} {bare_path}",
            request.method()
        );
        return error_response(StatusCode::FORBIDDEN, &why);
    }
    for credential in &usable {
        credential.apply(request.headers_mut());
    }
    let patterns = SecretPatterns::new(all.iter().map(|one| one.secret.expose()));
    // Secrets cannot be found in a compressed body.
    request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let sending = forward(upgraded, client, (Scheme::HTTPS, to, name), request, &path);
    match timeout(proxy.response_timeout(), sending).await {
        Ok(Ok(mut response)) => {
            for credential in all {
                credential.redact(response.headers_mut());
            }
            response.map(|body| {
                if body.is_end_stream() {
                    body.boxed()
                } else {
                    RedactedBody::new(body, patterns).boxed()
                }
            })
        }
        Err(_) => {
            tracing::info!(host = name, "a request with a credential timed out");
            error_response(
                StatusCode::GATEWAY_TIMEOUT,
                &format!("{name}: it did not answer in time"),
            )
        }
        Ok(Err(ForwardError::Request(error))) => {
            let why = format!("cannot forward the request: {error}");
            error_response(StatusCode::BAD_REQUEST, &why)
        }
        Ok(Err(ForwardError::Upstream(error))) => {
            let why = failure_reason(&error);
            tracing::info!(host = name, why, "a request with a credential failed");
            error_response(StatusCode::BAD_GATEWAY, &format!("{name}: {why}"))
        }
    }
}

/// An error in forwarding a request.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("cannot forward the request: {0}")]
    Request(#[from] http::Error),
    #[error(transparent)]
    Upstream(#[from] hyper_util::client::legacy::Error),
}

/// Forwards a request to an address, with the given name as its host, and returns the
/// response with a streamed body. The head is written anew.
async fn forward(
    upgraded: &UpgradedRelay,
    client: &HttpClient,
    (scheme, to, name): (Scheme, SocketAddrV4, &str),
    mut request: Request<Incoming>,
    path: &str,
) -> Result<Response<Incoming>, ForwardError> {
    // Other protocols could contain names that are not checked.
    let upgrading = hop_by_hop::upgrade(request.headers())
        .filter(|protocol| is_websocket(protocol) && request.method() == Method::GET);
    let guest = upgrading.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    hop_by_hop::strip(&mut parts.headers);
    // Only used with an upgrade to HTTP/2.
    parts.headers.remove("http2-settings");
    if let Some(protocol) = upgrading {
        set_field(&mut parts.headers, header::CONNECTION, HeaderValue::from_static("upgrade"))?;
        set_field(&mut parts.headers, header::UPGRADE, protocol)?;
    }
    outgoing_head(&mut parts, (scheme, to, name), path)?;
    let mut response = client.request(Request::from_parts(parts, body)).await?;
    let protocol = hop_by_hop::upgrade(response.headers()).filter(is_websocket);
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    hop_by_hop::strip(response.headers_mut());
    if !switched {
        return Ok(response);
    }
    if let (Some(guest), Some(protocol)) = (guest, protocol) {
        let upstream = hyper::upgrade::on(&mut response);
        let headers = response.headers_mut();
        set_field(headers, header::CONNECTION, HeaderValue::from_static("upgrade"))?;
        set_field(headers, header::UPGRADE, protocol)?;
        let relaying = async move {
            let (Ok(guest), Ok(upstream)) = tokio::join!(guest, upstream) else { return };
            let _ = relay::run(&mut TokioIo::new(guest), &mut TokioIo::new(upstream)).await;
        };
        *upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(relaying));
    } else {
        // The server upgrades without a request to do so.
        *response.status_mut() = StatusCode::BAD_GATEWAY;
    }
    Ok(response)
}

/// Sets the host, version and target of a request to an address.
pub(crate) fn outgoing_head(
    parts: &mut http::request::Parts,
    (scheme, to, name): (Scheme, SocketAddrV4, &str),
    path: &str,
) -> Result<(), http::Error> {
    let usual = if scheme == Scheme::HTTPS { 443 } else { 80 };
    let host = if to.port() == usual { name.to_owned() } else { format!("{name}:{}", to.port()) };
    set_field(&mut parts.headers, header::HOST, host.parse().map_err(http::Error::from)?)?;
    parts.version = http::Version::HTTP_11;
    // The client connects to its own address; this is only the key in its pool.
    parts.uri =
        Uri::builder().scheme(scheme).authority(to.to_string()).path_and_query(path).build()?;
    Ok(())
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// Sets a header field. Fails if there are too many fields.
fn set_field(
    headers: &mut HeaderMap,
    name: HeaderName,
    value: HeaderValue,
) -> Result<(), http::Error> {
    headers.try_insert(name, value)?;
    Ok(())
}

/// Returns the part of an upstream error that the sandbox may learn.
pub(crate) fn failure_reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    let inner = deepest.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    if let Some(rustls::Error::InvalidCertificate(why)) = inner.and_then(|e| e.downcast_ref()) {
        return format!("its certificate does not verify: {why}");
    }
    match deepest.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::InvalidData) => format!("TLS error: {deepest}"),
        Some(std::io::ErrorKind::TimedOut) => "connection timed out".to_owned(),
        Some(kind) => format!("cannot connect: {kind}"),
        None => "it closed the connection".to_owned(),
    }
}

/// Returns the target host of a request; `None` if it is ambiguous or invalid.
pub(crate) fn target_host<B>(request: &Request<B>) -> Option<Host> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = fields.next().map(|value| sniff::parse_host(value.to_str().ok()?));
    let target = request.uri().authority().map(|authority| sniff::parse_host(authority.as_str()));
    match (field, target, fields.next()) {
        (_, _, Some(_)) | (Some(None), ..) | (_, Some(None), _) => None,
        (None, Some(host), None) | (Some(host), None, None) => host,
        (None, None, None) if request.version() == http::Version::HTTP_10 => Some(Host::None),
        (Some(field), Some(target), None) if field == target => field,
        _ => None,
    }
}

/// Splits a path at the proxy's base URL into the host and the path at that host.
pub(crate) fn split_target(path: &str) -> (&str, String) {
    let rest = path.strip_prefix('/').unwrap_or(path);
    let (name, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (name, if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

fn path_of(uri: &Uri) -> String {
    uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()
}

/// Creates the JSON response to a request that was not forwarded.
fn error_response(status: StatusCode, why: &str) -> Response<Body> {
    let body = serde_json::json!({ "error": { "message": why, "type": "isorun_proxy" } });
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
