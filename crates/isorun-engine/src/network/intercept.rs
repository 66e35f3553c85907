//! HTTP that is read and sent on, request by request: under TLS that we end, for
//! hosts of secrets; over the base URL of the proxy; and without TLS where names
//! decide, since each request on a connection can be for another host.

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

use super::conceal::{Concealed, Needles};
use super::egress::Sandbox;
use super::policy::Reason;
use super::sniff::{self, Host, MAX_FIELDS, MAX_HEAD};
use super::wire::{Sender, Wire, client};
use super::{Plan, hop, relay};

/// Where programs inside find the proxy itself, for base URLs.
pub const GATEWAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 0, 1), 80);

/// How long a program may take for the head of a request, and for a handshake.
const SLOW: Duration = Duration::from_secs(10);
/// How long a server may take until its answer to a request without TLS begins.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// What of a request is read ahead of the server, in bytes.
const MAX_BUFFER: usize = 64 * 1024;
/// Requests on one connection of HTTP/2 at the same time.
const MAX_STREAMS: u32 = 100;
/// Hosts whose connections outside are kept for one connection to the proxy itself.
const MAX_CLIENTS: usize = 64;

type Body = BoxBody<Bytes, hyper::Error>;

/// Why a connection is reset instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(&'static str);

/// What carries bytes on a connection whose protocol has changed.
type Spliced = Arc<Mutex<Option<BoxFuture<'static, ()>>>>;

/// Whose connection it is, and what it has become.
type Here<'a> = (&'a Sandbox, &'a Spliced);

/// What a connection is, and so what becomes of its requests.
enum Kind {
    /// TLS to a host of secrets, ended by us.
    Secret { plan: Arc<Plan>, name: String, to: SocketAddrV4, client: Sender },
    /// To the proxy itself: the first part of a path is the host.
    Gateway(Mutex<HashMap<(String, SocketAddrV4), Sender>>),
    /// Without TLS.
    Plain { to: SocketAddrV4, client: Sender },
}

/// Ends the TLS of a connection to a host of secrets.
pub async fn tls<S>(
    sandbox: Arc<Sandbox>,
    plan: Arc<Plan>,
    name: String,
    to: SocketAddrV4,
    stream: S,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(authority) = plan.credentials.authority() else { return };
    let config = match authority.server(&name) {
        Ok(config) => config,
        Err(error) => return tracing::error!(%error, "cannot end TLS for a sandbox"),
    };
    let accepting = TlsAcceptor::from(config).accept(stream);
    let Ok(Ok(stream)) = timeout(SLOW, accepting).await else { return };
    let client = sandbox.secure(to, &name);
    serve(sandbox, Kind::Secret { plan, name, to, client }, stream).await;
}

/// A connection to the proxy itself.
pub async fn gateway<S>(sandbox: Arc<Sandbox>, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    serve(sandbox, Kind::Gateway(Mutex::default()), stream).await;
}

/// A connection without TLS: each request is looked at.
pub async fn plain<S>(sandbox: Arc<Sandbox>, to: SocketAddrV4, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    serve(sandbox, Kind::Plain { to, client: client(Wire::Plain(to)) }, stream).await;
}

/// Serves a connection to its end. Whatever is wrong with it, it is reset.
fn serve<S>(sandbox: Arc<Sandbox>, kind: Kind, stream: S) -> BoxFuture<'static, ()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let kind = Arc::new(kind);
    let spliced = Spliced::default();
    let service = service_fn({
        let (sandbox, kind, spliced) = (sandbox.clone(), kind.clone(), spliced.clone());
        move |request| {
            let (sandbox, kind) = (Arc::clone(&sandbox), Arc::clone(&kind));
            let spliced = Arc::clone(&spliced);
            async move { kind.answer((&sandbox, &spliced), request).await }
        }
    });
    Box::pin(async move {
        let stream = TokioIo::new(stream);
        if let Kind::Plain { to, .. } = &*kind {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(SLOW);
            builder.max_headers(MAX_FIELDS).max_header_size(MAX_HEAD).max_buf_size(MAX_BUFFER);
            let serving = builder.serve_connection(stream, service).with_upgrades();
            if let Err(error) = serving.await {
                tracing::debug!(?error, "a connection of a sandbox ended by a reset");
                if error.is_parse() {
                    sandbox.report(None, *to, Reason::Malformed);
                }
            }
        } else {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(SLOW);
            builder.http1().max_headers(MAX_FIELDS).max_buf_size(MAX_BUFFER);
            builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
            let serving = builder.serve_connection_with_upgrades(stream, service);
            if let Err(error) = serving.await {
                tracing::debug!(?error, "a connection of a sandbox ended by a reset");
            }
        }
        // What it has become belongs to it, and is hung up on with it.
        let spliced = spliced.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(spliced) = spliced {
            spliced.await;
        }
    })
}

impl Kind {
    async fn answer(
        &self,
        here: Here<'_>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        match self {
            Self::Secret { plan, name, to, client } => {
                let host = match host(&request) {
                    Some(Host::Name(host)) => Some(host),
                    Some(Host::Address(_)) => None,
                    Some(Host::None) | None => {
                        let why = "the request names no host, or two";
                        return Ok(text(StatusCode::BAD_REQUEST, why));
                    }
                };
                if host.as_ref() != Some(name) {
                    here.0.report(host, *to, Reason::Forged);
                    let why = "the request is for another host than its connection";
                    return Ok(text(StatusCode::MISDIRECTED_REQUEST, why));
                }
                let path = path_of(request.uri());
                Ok(with_secret(here, plan, client, name, *to, request, path).await)
            }
            Self::Gateway(clients) => Ok(through_gateway(here, clients, request).await),
            Self::Plain { to, client } => without_tls(here, *to, client, request).await,
        }
    }
}

async fn through_gateway(
    (sandbox, spliced): Here<'_>,
    clients: &Mutex<HashMap<(String, SocketAddrV4), Sender>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let plan = sandbox.plan();
    let whole = path_of(request.uri());
    let (name, path) = split_target(&whole);
    let Some(credential) = plan.credentials.of(name).next() else {
        let why = "no credential of this sandbox is for that host: a path begins with one, as in \
                   /api.openai.com/v1/models";
        return text(StatusCode::NOT_FOUND, why);
    };
    let (name, port) = (credential.host.clone(), credential.port);
    let Some(address) = sandbox.address_of(&name).await else {
        return text(StatusCode::BAD_GATEWAY, &format!("{name} cannot be resolved"));
    };
    let to = SocketAddrV4::new(address, port);
    if let Err(reason) = sandbox.judge(&plan, to, Some(&name), &[], true).await {
        sandbox.report(Some(name), to, reason);
        return text(StatusCode::FORBIDDEN, "a rule of this sandbox denies that host");
    }
    let client = {
        let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), to);
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&key) {
            clients.clear();
        }
        clients.entry(key).or_insert_with(|| sandbox.secure(to, &name)).clone()
    };
    with_secret((sandbox, spliced), &plan, &client, &name, to, request, path).await
}

async fn without_tls(
    (sandbox, spliced): Here<'_>,
    to: SocketAddrV4,
    client: &Sender,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let plan = sandbox.plan();
    let known = sandbox.names().of(*to.ip());
    let host = host(&request).filter(|_| {
        // What becomes a tunnel says later, and to somebody else, where it leads.
        request.method() != Method::CONNECT
            && request.uri().scheme().is_none_or(|scheme| *scheme == Scheme::HTTP)
    });
    let Some(host) = host else {
        sandbox.report(known.first().cloned(), to, Reason::Malformed);
        return Err(Refusal("malformed"));
    };
    let verdict = match &host {
        Host::Name(name) => sandbox.judge(&plan, to, Some(name), &known, true).await,
        Host::None => sandbox.judge(&plan, to, None, &known, true).await,
        Host::Address(address) if address != to.ip() => Err(Reason::Forged),
        // It may stand for any name there: no rule by name lets it through.
        Host::Address(_) => match sandbox.judge(&plan, to, None, &known, false).await {
            Err(Reason::Protocol) => Err(Reason::Unlisted),
            verdict => verdict,
        },
    };
    let name = match host {
        Host::Name(name) => Some(name),
        Host::Address(address) => Some(address.to_string()),
        // The one that lets it through, so that it is for no other.
        Host::None => {
            let allowed = known.iter().find(|name| plan.policy.allows(name));
            allowed.or(known.first()).cloned()
        }
    };
    if let Err(reason) = verdict {
        let name = name.filter(|name| name.parse::<Ipv4Addr>().is_err());
        sandbox.report(name.or_else(|| known.first().cloned()), to, reason);
        // The connection is reset, as one that was denied at once.
        return Err(Refusal("denied"));
    }
    let path = path_of(request.uri());
    let name = name.unwrap_or_else(|| to.ip().to_string());
    let sending = forward(spliced, client, (Scheme::HTTP, to, &name), request, &path);
    match timeout(MAX_WAIT, sending).await {
        Ok(Ok(response)) => Ok(response.map(BodyExt::boxed)),
        Ok(Err(_)) => Err(Refusal("the server hung up")),
        Err(_) => Err(Refusal("the server did not answer")),
    }
}

/// Sends a request on with the secrets of its host, if it may use them.
async fn with_secret(
    (sandbox, spliced): Here<'_>,
    plan: &Plan,
    client: &Sender,
    name: &str,
    to: SocketAddrV4,
    mut request: Request<Incoming>,
    path: String,
) -> Response<Body> {
    if request.method() == Method::CONNECT {
        return text(StatusCode::METHOD_NOT_ALLOWED, "the proxy makes no tunnels");
    }
    let bare = path.split('?').next().unwrap_or_default();
    let all: Vec<_> = plan.credentials.of(name).filter(|one| one.port == to.port()).collect();
    let usable: Vec<_> =
        all.iter().filter(|one| one.serves(request.method(), bare)).copied().collect();
    if usable.is_empty() {
        sandbox.report(Some(name.to_owned()), to, Reason::Credential);
        let why = format!(
            "no credential of this sandbox for {name} may be used for {} {bare}",
            request.method()
        );
        return text(StatusCode::FORBIDDEN, &why);
    }
    for credential in &usable {
        credential.apply(request.headers_mut());
    }
    let needles = Needles::new(all.iter().map(|one| one.secret.text()));
    // Nothing is found in what is compressed.
    request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let sending = forward(spliced, client, (Scheme::HTTPS, to, name), request, &path);
    match timeout(sandbox.patience(), sending).await {
        Ok(Ok(mut response)) => {
            for credential in all {
                credential.hide(response.headers_mut());
            }
            response.map(|body| {
                if body.is_end_stream() {
                    body.boxed()
                } else {
                    Concealed::new(body, needles).boxed()
                }
            })
        }
        Err(_) => {
            tracing::info!(host = name, "a request with a credential was not answered in time");
            text(StatusCode::GATEWAY_TIMEOUT, &format!("{name}: it did not answer in time"))
        }
        Ok(Err(Failed::Request(error))) => {
            text(StatusCode::BAD_REQUEST, &format!("the request cannot be sent on: {error}"))
        }
        Ok(Err(Failed::Upstream(error))) => {
            let why = reason(&error);
            tracing::info!(host = name, why, "a request with a credential failed");
            text(StatusCode::BAD_GATEWAY, &format!("{name}: {why}"))
        }
    }
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the request cannot be sent on: {0}")]
    Request(#[from] http::Error),
    #[error(transparent)]
    Upstream(#[from] hyper_util::client::legacy::Error),
}

/// Sends a request to an address, as one for a host of this name, and gives the
/// answer as it comes. The head is written anew.
async fn forward(
    spliced: &Spliced,
    client: &Sender,
    (scheme, to, name): (Scheme, SocketAddrV4, &str),
    mut request: Request<Incoming>,
    path: &str,
) -> Result<Response<Incoming>, Failed> {
    // Any other protocol could say other names.
    let upgrading = hop::upgrade(request.headers())
        .filter(|protocol| is_websocket(protocol) && request.method() == Method::GET);
    let ours = upgrading.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    hop::strip(&mut parts.headers);
    // What an upgrade to HTTP/2 would go by.
    parts.headers.remove("http2-settings");
    if let Some(protocol) = upgrading {
        set(&mut parts.headers, header::CONNECTION, HeaderValue::from_static("upgrade"))?;
        set(&mut parts.headers, header::UPGRADE, protocol)?;
    }
    let usual = if scheme == Scheme::HTTPS { 443 } else { 80 };
    let host = if to.port() == usual { name.to_owned() } else { format!("{name}:{}", to.port()) };
    set(&mut parts.headers, header::HOST, host.parse().map_err(http::Error::from)?)?;
    parts.version = http::Version::HTTP_11;
    // Where it goes is decided by the client; this names its one connection.
    parts.uri =
        Uri::builder().scheme(scheme).authority(to.to_string()).path_and_query(path).build()?;
    let mut response = client.request(Request::from_parts(parts, body)).await?;
    let theirs = hop::upgrade(response.headers()).filter(is_websocket);
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    hop::strip(response.headers_mut());
    if !switched {
        return Ok(response);
    }
    if let (Some(ours), Some(protocol)) = (ours, theirs) {
        let theirs = hyper::upgrade::on(&mut response);
        let headers = response.headers_mut();
        set(headers, header::CONNECTION, HeaderValue::from_static("upgrade"))?;
        set(headers, header::UPGRADE, protocol)?;
        let carry = async move {
            let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
            let _ = relay::run(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await;
        };
        *spliced.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(carry));
    } else {
        // It was not asked for that.
        *response.status_mut() = StatusCode::BAD_GATEWAY;
    }
    Ok(response)
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// Sets a header field, of which there can be too many.
fn set(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<(), http::Error> {
    headers.try_insert(name, value)?;
    Ok(())
}

/// What a client may tell a program about an upstream that failed.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    let inner = deepest.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    if let Some(rustls::Error::InvalidCertificate(why)) = inner.and_then(|e| e.downcast_ref()) {
        return format!("its certificate does not verify: {why}");
    }
    match deepest.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::InvalidData) => format!("its TLS is not good: {deepest}"),
        Some(std::io::ErrorKind::TimedOut) => "it does not answer".to_owned(),
        Some(kind) => format!("it cannot be reached: {kind}"),
        None => "it hung up".to_owned(),
    }
}

/// The one host that a request is for. Nothing: there are several, or it is none.
pub(crate) fn host<B>(request: &Request<B>) -> Option<Host> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let said = fields.next().map(|value| sniff::host(value.to_str().ok()?));
    let target = request.uri().authority().map(|authority| sniff::host(authority.as_str()));
    match (said, target, fields.next()) {
        (_, _, Some(_)) | (Some(None), ..) | (_, Some(None), _) => None,
        (None, Some(host), None) | (Some(host), None, None) => host,
        (None, None, None) if request.version() == http::Version::HTTP_10 => Some(Host::None),
        (Some(said), Some(target), None) if said == target => said,
        _ => None,
    }
}

/// Takes the host out of a path of the proxy's own base URL.
pub(crate) fn split_target(whole: &str) -> (&str, String) {
    let rest = whole.strip_prefix('/').unwrap_or(whole);
    let (name, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (name, if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

fn path_of(uri: &Uri) -> String {
    uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()
}

fn text(status: StatusCode, why: &str) -> Response<Body> {
    let body = serde_json::json!({ "error": { "message": why, "type": "isorun_proxy" } });
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
