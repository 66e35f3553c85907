//! HTTP that is read and sent on, request by request: under TLS that we end, for
//! hosts of secrets; over the base URL of the proxy; and without TLS where names
//! decide, since each request on a connection can be for another host.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::conceal::{Concealed, Needles};
use super::egress::Sandbox;
use super::policy::{self, Reason};
use super::wire::{Sender, Wire, client};
use super::{Plan, hop, relay};

/// Where programs inside find the proxy itself, for base URLs.
pub const GATEWAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 0, 1), 80);

/// How long a program may take for the head of a request, and for a handshake.
const SLOW: Duration = Duration::from_secs(10);

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
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(SLOW);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(100);
    let kind = Arc::new(kind);
    let spliced = Spliced::default();
    let service = service_fn({
        let spliced = Arc::clone(&spliced);
        move |request| {
            let (sandbox, kind) = (Arc::clone(&sandbox), Arc::clone(&kind));
            let spliced = Arc::clone(&spliced);
            async move { kind.answer((&sandbox, &spliced), request).await }
        }
    });
    Box::pin(async move {
        let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        if let Err(error) = serving.await {
            tracing::debug!(?error, "a connection of a sandbox ended by a reset");
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
                let Some(host) = host(&request) else {
                    return Ok(text(StatusCode::BAD_REQUEST, "the request names no host, or two"));
                };
                if host != *name {
                    here.0.report(Some(host), *to, Reason::Forged);
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
    let rest = whole.strip_prefix('/').unwrap_or(&whole);
    let (name, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let Some(credential) = plan.credentials.of(name).next() else {
        let why = "no credential of this sandbox is for that host: a path begins with one, as in \
                   /api.openai.com/v1/models";
        return text(StatusCode::NOT_FOUND, why);
    };
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let (name, port) = (credential.host.clone(), credential.port);
    let Some(address) = sandbox.address_of(&name).await else {
        return text(StatusCode::BAD_GATEWAY, &format!("{name} cannot be resolved"));
    };
    let to = SocketAddrV4::new(address, port);
    if let Err(reason) = sandbox.judge(&plan, to, Some(&name), &[]).await {
        sandbox.report(Some(name), to, reason);
        return text(StatusCode::FORBIDDEN, "a rule of this sandbox denies that host");
    }
    let client = {
        let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), to);
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
    let said = match request.headers().get(header::HOST) {
        None => None,
        Some(_) => match host(&request) {
            Some(host) if host.parse::<Ipv4Addr>().is_ok() => None,
            Some(host) => Some(host),
            None => {
                sandbox.report(None, to, Reason::Malformed);
                return Err(Refusal("malformed"));
            }
        },
    };
    if let Err(reason) = sandbox.judge(&plan, to, said.as_deref(), &known).await {
        sandbox.report(said.or_else(|| known.first().cloned()), to, reason);
        // The connection is reset, as one that was denied at once.
        return Err(Refusal("denied"));
    }
    let path = path_of(request.uri());
    match forward(spliced, client, "http", to, None, request, &path).await {
        Ok(response) => Ok(response.map(BodyExt::boxed)),
        Err(_) => Err(Refusal("the server hung up")),
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
    let sending = forward(spliced, client, "https", to, Some(name), request, &path);
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
        Ok(Err(error)) => {
            let why = reason(&error);
            tracing::info!(host = name, why, "a request with a credential failed");
            text(StatusCode::BAD_GATEWAY, &format!("{name}: {why}"))
        }
    }
}

/// Sends a request to an address, and gives the answer as it comes.
async fn forward(
    spliced: &Spliced,
    client: &Sender,
    scheme: &str,
    to: SocketAddrV4,
    name: Option<&str>,
    request: Request<Incoming>,
    path: &str,
) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
    let mut request = request;
    let upgrading = hop::upgrade(request.headers());
    let ours = upgrading.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    hop::strip(&mut parts.headers);
    if let Some(protocol) = upgrading {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol);
    }
    if let Some(name) = name {
        let host = if to.port() == 443 { name.to_owned() } else { format!("{name}:{}", to.port()) };
        if let Ok(host) = HeaderValue::from_str(&host) {
            parts.headers.insert(header::HOST, host);
        }
    }
    parts.version = http::Version::HTTP_11;
    // Where it goes is decided by the client; this names its one connection.
    parts.uri = Uri::builder()
        .scheme(scheme)
        .authority(to.to_string())
        .path_and_query(path)
        .build()
        .unwrap_or_default();
    let mut response = client.request(Request::from_parts(parts, body)).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(ours) = ours
    {
        let protocol = hop::upgrade(response.headers());
        let theirs = hyper::upgrade::on(&mut response);
        hop::strip(response.headers_mut());
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            response.headers_mut().insert(header::UPGRADE, protocol);
        }
        let carry = async move {
            let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
            let _ = relay::run(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await;
        };
        *spliced.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(carry));
    } else {
        hop::strip(response.headers_mut());
    }
    Ok(response)
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

/// The one host that a request is for, in the form in which all are compared.
fn host(request: &Request<Incoming>) -> Option<String> {
    let mut headers = request.headers().get_all(header::HOST).iter();
    let (first, more) = (headers.next(), headers.next());
    let plain = |text: &str| {
        let authority: http::uri::Authority = text.parse().ok()?;
        let host = authority.host();
        policy::name(host).ok().or_else(|| host.parse::<Ipv4Addr>().ok().map(|ip| ip.to_string()))
    };
    let said = first.and_then(|value| plain(value.to_str().ok()?));
    let target = request.uri().authority().map(|authority| plain(authority.as_str()));
    match (first, said, target, more) {
        (_, _, _, Some(_)) => None,
        (None, _, Some(target), None) => target,
        (_, said, None, None) => said,
        (Some(_), said, Some(target), None) if said == target => said,
        _ => None,
    }
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
