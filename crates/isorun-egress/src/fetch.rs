//! HTTP requests of a guest without sockets: an interpreter passes each request as a
//! value. The same rules, credentials and redaction apply as to the connections of a
//! sandbox with a network namespace.
//!
//! ```text
//! request ─▶ a name, resolved ─▶ policy ─┬─▶ refused and reported
//!                                        ├─▶ https: secret added, response redacted
//!                                        └─▶ forwarded
//! ```

use std::error::Error as StdError;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::budget::Permit;
use super::intercept::{failure_reason, outgoing_head};
use super::policy::{self, Reason};
use super::proxy::EgressProxy;
use super::redact::{RedactedBody, SecretPatterns};
use super::upstream::{Connector, client};
use super::{Plan, hop_by_hop};

/// The error of a body.
pub type BodyError = Box<dyn StdError + Send + Sync>;

/// The body of a request.
pub type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// A request that was not answered.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The request has no valid target.
    #[error("{0}")]
    Invalid(String),
    /// The network rules deny the target.
    #[error("the network rules of this sandbox deny {target}: {}", reason.name())]
    Denied {
        /// The host and port.
        target: String,
        /// The reason, as in the audit log.
        reason: Reason,
    },
    /// The target could not be reached, or did not respond.
    #[error("{host}: {why}")]
    Unreachable {
        /// The host.
        host: String,
        /// The part of the cause that the sandbox may learn.
        why: String,
    },
}

impl EgressProxy {
    /// Sends a request, if the rules allow its target. Redirects are not followed: the
    /// guest's next request is checked like every other.
    ///
    /// # Errors
    ///
    /// [`FetchError`]; denied requests are also reported to the observer.
    pub async fn fetch(
        self: &Arc<Self>,
        request: Request<RequestBody>,
    ) -> Result<Response<FetchedBody>, FetchError> {
        let mut resets = self.resets.subscribe();
        let fetching = self.fetch_once(request);
        tokio::select! {
            response = fetching => response.map(|(response, permit)| {
                let reset = Box::pin(async move {
                    // The proxy, which has the sender, may be gone: that ends the body, too.
                    let _ = resets.changed().await;
                });
                response.map(|body| FetchedBody { body, reset, _permit: permit })
            }),
            _ = resets.changed() => Err(FetchError::Unreachable {
                host: "the request".to_owned(),
                why: "its network rules were changed".to_owned(),
            }),
        }
    }

    async fn fetch_once(
        self: &Arc<Self>,
        request: Request<RequestBody>,
    ) -> Result<(Response<Fetched>, Permit), FetchError> {
        let plan = self.plan();
        let target = Target::of(request.uri())?;
        let to = self.resolve_target(&plan, &target).await?;
        let known = target.known();
        let (claimed, is_named) = (target.name(), target.name().is_some());
        let verdict = match self.check_name(&plan, to, claimed, known, is_named).await {
            // It can be any name of that server, so no rule by name can allow it.
            Err(Reason::Protocol) if !is_named => Err(Reason::Unlisted),
            verdict => verdict,
        };
        if let Err(reason) = verdict {
            return Err(self.deny(&target, to, reason));
        }
        let Some(permit) = self.descriptors.try_acquire(1) else {
            return Err(self.deny(&target, to, Reason::TooMany));
        };
        self.allowed.fetch_add(1, Ordering::Relaxed);
        let response = self.send(&plan, &target, to, request).await?;
        Ok((response, permit))
    }

    /// Returns the address of a target that rules can allow.
    async fn resolve_target(
        &self,
        plan: &Plan,
        target: &Target,
    ) -> Result<SocketAddrV4, FetchError> {
        let name = match &target.host {
            TargetHost::Address(address) => return Ok(SocketAddrV4::new(*address, target.port)),
            TargetHost::Name(name) => &name[0],
        };
        let deny = |address, reason| {
            Err(self.deny(target, SocketAddrV4::new(address, target.port), reason))
        };
        if name == "localhost" || name.ends_with(".localhost") {
            return deny(Ipv4Addr::LOCALHOST, Reason::Private);
        }
        if !plan.policy.resolves(name) && !plan.credentials.has_host(name) {
            let denied = plan.policy.denies(name);
            let reason = if denied { Reason::Rule } else { Reason::Unlisted };
            return deny(Ipv4Addr::UNSPECIFIED, reason);
        }
        let resolved = self.addresses(name).await.map_err(|error| {
            tracing::debug!(%error, "a DNS query of a sandbox failed");
            target.unreachable("the name cannot be resolved")
        })?;
        // A denied name must not be reachable through an alias.
        if resolved.aliases.iter().any(|alias| plan.policy.denies(alias)) {
            return deny(Ipv4Addr::UNSPECIFIED, Reason::Rule);
        }
        let reachable =
            resolved.addresses.iter().find(|address| self.context.is_reachable(**address));
        match (reachable, resolved.addresses.first()) {
            (Some(address), _) => Ok(SocketAddrV4::new(*address, target.port)),
            (None, Some(address)) => deny(*address, Reason::Private),
            (None, None) => Err(target.unreachable("the name has no address")),
        }
    }

    /// Forwards an allowed request, with the credentials of its host.
    async fn send(
        &self,
        plan: &Plan,
        target: &Target,
        to: SocketAddrV4,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Fetched>, FetchError> {
        if request.method() == Method::CONNECT {
            return Err(FetchError::Invalid("the method CONNECT is not supported".to_owned()));
        }
        let host = target.host();
        let is_tls = target.scheme == Scheme::HTTPS;
        let credentials: Vec<_> = plan
            .credentials
            .for_host(&host)
            .filter(|credential| is_tls && credential.port == to.port())
            .collect();
        if !credentials.is_empty() {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let usable = credentials.iter().filter(|one| one.permits(&method, &path));
            let usable: Vec<_> = usable.copied().collect();
            if usable.is_empty() {
                return Err(self.deny(target, to, Reason::Credential));
            }
            for credential in usable {
                credential.apply(request.headers_mut());
            }
            // Secrets cannot be found in a compressed body.
            let identity = HeaderValue::from_static("identity");
            request.headers_mut().insert(header::ACCEPT_ENCODING, identity);
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let (mut parts, body) = request.into_parts();
        // Other protocols could contain names that are not checked.
        hop_by_hop::strip(&mut parts.headers);
        parts.headers.remove("http2-settings");
        outgoing_head(&mut parts, (target.scheme.clone(), to, &host), &path)
            .map_err(|error| FetchError::Invalid(format!("cannot send the request: {error}")))?;
        let connector = match is_tls {
            true => self.context.upstream.connector(to, &host, self.descriptors.clone()),
            false => Connector::Plain(to),
        };
        // The connection is closed after the response, since the client is dropped.
        let sending = client::<RequestBody>(connector).request(Request::from_parts(parts, body));
        let mut response = match timeout(self.response_timeout(), sending).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(target.unreachable(&failure_reason(&error))),
            Err(_) => return Err(target.unreachable("it did not respond in time")),
        };
        hop_by_hop::strip(response.headers_mut());
        for credential in &credentials {
            credential.redact(response.headers_mut());
        }
        Ok(response.map(|body| match credentials.is_empty() || body.is_end_stream() {
            true => Fetched::Plain(body),
            false => {
                let secrets = credentials.iter().map(|one| one.secret.expose());
                Fetched::Redacted(Box::new(RedactedBody::new(body, SecretPatterns::new(secrets))))
            }
        }))
    }

    fn deny(&self, target: &Target, to: SocketAddrV4, reason: Reason) -> FetchError {
        self.report(target.name().map(str::to_owned), to, reason);
        FetchError::Denied { target: format!("{}:{}", target.host(), target.port), reason }
    }
}

/// The target of a request.
struct Target {
    scheme: Scheme,
    host: TargetHost,
    port: u16,
}

enum TargetHost {
    Address(Ipv4Addr),
    /// The name, in the form of the names that are known of an address.
    Name([String; 1]),
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, FetchError> {
        let invalid = |why: &str| Err(FetchError::Invalid(format!("the URL of the request {why}")));
        let scheme = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => scheme.clone(),
            _ => return invalid("is neither http nor https"),
        };
        let Some(authority) = uri.authority() else { return invalid("has no host") };
        if authority.as_str().contains('@') {
            return invalid("has a user name in it, which is not supported");
        }
        let usual = if scheme == Scheme::HTTPS { 443 } else { 80 };
        let host = match authority.host().parse::<Ipv4Addr>() {
            Ok(address) => TargetHost::Address(address),
            Err(_) if authority.host().starts_with('[') => {
                return invalid("has an IPv6 address, which sandboxes cannot reach");
            }
            Err(_) => match policy::name(authority.host()) {
                Ok(name) => TargetHost::Name([name]),
                Err(why) => return invalid(&format!("has a host that {why}")),
            },
        };
        let port = authority.port_u16().unwrap_or(usual);
        if port == 0 {
            return invalid("has port 0");
        }
        Ok(Self { scheme, host, port })
    }

    fn name(&self) -> Option<&str> {
        self.known().first().map(String::as_str)
    }

    fn known(&self) -> &[String] {
        match &self.host {
            TargetHost::Address(_) => &[],
            TargetHost::Name(name) => name,
        }
    }

    fn host(&self) -> String {
        match &self.host {
            TargetHost::Address(address) => address.to_string(),
            TargetHost::Name([name]) => name.clone(),
        }
    }

    fn unreachable(&self, why: &str) -> FetchError {
        FetchError::Unreachable { host: self.host(), why: why.to_owned() }
    }
}

/// The body of a response before a change of the rules can end it.
enum Fetched {
    Plain(Incoming),
    Redacted(Box<RedactedBody>),
}

/// The body of a response. It ends with an error when the network rules change.
pub struct FetchedBody {
    body: Fetched,
    reset: BoxFuture<'static, ()>,
    /// The descriptor of its connection.
    _permit: Permit,
}

impl Body for FetchedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.reset.as_mut().poll(cx).is_ready() {
            // Once ready, it must not be polled again.
            this.reset = Box::pin(std::future::pending());
            let why = "the connection was reset: the network rules were changed";
            return Poll::Ready(Some(Err(why.into())));
        }
        let frame = match &mut this.body {
            Fetched::Plain(body) => Pin::new(body).poll_frame(cx),
            Fetched::Redacted(body) => Pin::new(&mut **body).poll_frame(cx),
        };
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Fetched::Plain(body) => body.is_end_stream(),
            Fetched::Redacted(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Fetched::Plain(body) => body.size_hint(),
            Fetched::Redacted(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_checked() {
        let target = |url: &str| {
            Target::of(&url.parse().unwrap()).map(|target| (target.host(), target.port))
        };
        for (url, host, port) in [
            ("http://Example.COM./a?b", "example.com", 80),
            ("https://example.com/", "example.com", 443),
            ("https://example.com:8443/", "example.com", 8443),
            ("http://10.0.0.1:1/", "10.0.0.1", 1),
        ] {
            assert_eq!(target(url).unwrap(), (host.to_owned(), port), "{url}");
        }
        for url in [
            "/path",
            "ftp://example.com/",
            "http://user@example.com/",
            "http://[::1]/",
            "http://0x7f.1/",
            "http://127.1/",
            "http://example.com:0/",
        ] {
            assert!(matches!(target(url), Err(FetchError::Invalid(_))), "{url}");
        }
    }
}
