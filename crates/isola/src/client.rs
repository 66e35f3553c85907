//! An HTTP client for hosts that do not have their own.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    error::HostError,
    http::{Body, MAX_HEADER_FIELDS, Method, Request, Response},
};

/// The maximum number of hosts whose idle connections are kept. A guest may send
/// requests to any number of subdomains, and each connection takes a file
/// descriptor of the process.
const MAX_KEPT_HOSTS: usize = 32;

/// The maximum number of idle connections to each host.
const MAX_IDLE_PER_HOST: usize = 8;

/// The time after which an idle connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// An HTTP client that sends a guest's requests to the hosts on an allow-list,
/// and refuses all others.
///
/// Redirects are not followed: the guest receives them unchanged, and its next
/// request is checked like every other. Proxies set in the environment are not
/// used, and cookies are not stored.
#[derive(Clone)]
pub struct HttpClient {
    allowed: Allowed,
    /// The client that keeps idle connections.
    client: reqwest::Client,
    /// The client that closes each connection after its response.
    one_shot: reqwest::Client,
    kept: Arc<Mutex<KeptHosts>>,
}

/// The hosts whose idle connections are kept, and the time of the last request
/// to each.
#[derive(Default)]
struct KeptHosts(HashMap<String, Instant>);

#[derive(Clone, Debug)]
enum Allowed {
    All,
    Hosts(Vec<Pattern>),
}

/// A pattern of allowed hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// The name, in lower case.
    name: String,
    /// Matches the subdomains of `name` instead of `name` itself.
    subdomains: bool,
    /// The allowed port; `None` for all ports.
    port: Option<u16>,
}

impl HttpClient {
    /// Creates a client that allows these hosts: names such as `example.com`,
    /// `*.example.com` for all subdomains of a name, IP addresses, and each with a
    /// port, as in `localhost:8000`. A host without a port is allowed on all ports.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an invalid
    /// host.
    pub fn allow<I>(hosts: I) -> Result<Self, crate::Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let patterns = hosts.into_iter().map(|host| Pattern::parse(&host.into()));
        Self::new(Allowed::Hosts(patterns.collect::<Result<_, _>>()?))
    }

    /// Creates a client that allows every host, including those of the local
    /// network.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`](crate::Error::Internal) if TLS cannot be set up.
    pub fn allow_all() -> Result<Self, crate::Error> {
        Self::new(Allowed::All)
    }

    fn new(allowed: Allowed) -> Result<Self, crate::Error> {
        let client = |idle| {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .connect_timeout(Duration::from_secs(30))
                .pool_max_idle_per_host(idle)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .build()
                .map_err(|error| crate::Error::internal("setting up the HTTP client", error))
        };
        let (client, one_shot) = (client(MAX_IDLE_PER_HOST)?, client(0)?);
        Ok(Self { allowed, client, one_shot, kept: Arc::default() })
    }

    /// Sends a request, if its host is allowed.
    ///
    /// # Errors
    ///
    /// The host is not allowed, or the request failed.
    pub async fn send(&self, request: Request) -> Result<Response, HostError> {
        let target = request.uri().clone();
        let Some(authority) = target.authority() else {
            return Err(HostError::new(format!("{target} is not an absolute URL")));
        };
        if !self.allowed.contains(&target) {
            return Err(HostError::new(format!("requests to {authority} are not allowed")));
        }
        let (mut parts, body) = request.into_parts();
        // A few more fields are added below and by the client. Its table must not
        // overflow, even for a request that a handler created.
        if parts.headers.len() > MAX_HEADER_FIELDS + 1 {
            return Err(HostError::new(format!(
                "the request has {} header fields: at most {MAX_HEADER_FIELDS} are allowed",
                parts.headers.len()
            )));
        }
        // The client derives it from the URL, and HTTP/2 does not permit it.
        parts.headers.remove(::http::header::HOST);
        // It is meant for the host, not for the server.
        parts.headers.remove("x-isola-proxy");
        // A streamed body has no length of its own. Many servers require one, even
        // for an empty body if the method expects a body (RFC 9110, section 8.6).
        let expected = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
        if let Some(length) = body.length().filter(|length| *length > 0 || expected) {
            parts.headers.insert(::http::header::CONTENT_LENGTH, length.into());
        }
        let keeps = self.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(authority);
        let client = if keeps { &self.client } else { &self.one_shot };
        let request = client
            .request(parts.method, target.to_string())
            .headers(parts.headers)
            .body(outgoing(body))
            .build()
            .map_err(|error| request_error(&target, &error))?;
        let answer =
            client.execute(request).await.map_err(|error| request_error(&target, &error))?;
        let response: ::http::Response<reqwest::Body> = answer.into();
        Ok(response.map(|body| Body::wrap(body, move |error| request_error(&target, &error))))
    }
}

impl KeptHosts {
    /// Records a request to this host, and reports whether its idle connection is
    /// kept.
    fn keep(&mut self, host: &::http::uri::Authority) -> bool {
        let now = Instant::now();
        if !self.0.contains_key(host.as_str()) && self.0.len() >= MAX_KEPT_HOSTS {
            self.0.retain(|_, last_used| now.duration_since(*last_used) < IDLE_TIMEOUT);
            if self.0.len() >= MAX_KEPT_HOSTS {
                return false;
            }
        }
        self.0.insert(host.as_str().to_owned(), now);
        true
    }
}

impl Allowed {
    fn contains(&self, target: &::http::Uri) -> bool {
        let Self::Hosts(patterns) = self else { return true };
        let host = target.host().unwrap_or_default().to_ascii_lowercase();
        let default = if target.scheme_str() == Some("https") { 443 } else { 80 };
        let port = target.port_u16().unwrap_or(default);
        patterns.iter().any(|pattern| {
            let named = if pattern.subdomains {
                host.strip_suffix(&pattern.name).is_some_and(|rest| rest.ends_with('.'))
            } else {
                host == pattern.name
            };
            named && pattern.port.is_none_or(|allowed| allowed == port)
        })
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, crate::Error> {
        let refuse = || {
            crate::Error::InvalidArgument(format!(
                "{text:?} is not a valid allowed host: use a name such as example.com, \
                 *.example.com, localhost:8000 or [::1]:8000"
            ))
        };
        let lower = text.to_ascii_lowercase();
        let (subdomains, rest) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, lower.as_str()),
        };
        // The URL parser defines what is a host and a port.
        let authority: ::http::uri::Authority = rest.parse().map_err(|_| refuse())?;
        let port = authority.port_u16();
        let host = authority.host();
        let written = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        if host.is_empty() || host.contains('*') || written != rest {
            return Err(refuse());
        }
        Ok(Self { name: host.to_owned(), subdomains, port })
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

/// Converts a body. An empty one becomes no body: a GET request must not announce
/// one.
fn outgoing(body: Body) -> reqwest::Body {
    if body.is_empty() {
        return reqwest::Body::default();
    }
    reqwest::Body::wrap_stream(body.into_stream())
}

/// Returns the error for the guest: the cause, without the address that the
/// host's name resolved to.
fn request_error(target: &::http::Uri, error: &reqwest::Error) -> HostError {
    let outcome = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "failed: cannot connect"
    } else if error.is_body() || error.is_decode() {
        "failed: the body is incomplete"
    } else {
        "failed"
    };
    // An error in the body that the guest sends is reported to the guest.
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(reason) = inner.downcast_ref::<HostError>() {
            return reason.clone();
        }
        cause = inner.source();
    }
    let authority = target.authority().map_or("", |authority| authority.as_str());
    HostError::new(format!("the request to {authority} {outcome}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_list_matches_hosts_and_ports() {
        let client = HttpClient::allow([
            "Example.com",
            "*.test.org",
            "localhost:8000",
            "secure.test:443",
            "[::1]:80",
        ])
        .unwrap();
        for (url, allowed) in [
            ("http://example.com/", true),
            ("https://EXAMPLE.COM:8443/", true),
            ("http://www.example.com/", false),
            ("http://example.com.evil.test/", false),
            ("http://a.test.org/", true),
            ("http://a.b.test.org/", true),
            ("http://test.org/", false),
            ("http://eviltest.org/", false),
            ("http://localhost:8000/", true),
            ("http://localhost:8001/", false),
            ("http://localhost/", false),
            ("https://secure.test/", true),
            ("http://secure.test/", false),
            ("http://secure.test:443/", true),
            ("http://[::1]/", true),
            ("http://[::1]:81/", false),
            ("http://example.com@evil.test/", false),
        ] {
            assert_eq!(client.allowed.contains(&url.parse().unwrap()), allowed, "{url}");
        }
    }

    #[test]
    fn number_of_hosts_with_kept_connections_is_limited() {
        let mut kept = KeptHosts::default();
        let host = |number: usize| format!("x{number}.a.test").parse().unwrap();
        for number in 0..MAX_KEPT_HOSTS {
            assert!(kept.keep(&host(number)));
        }
        for number in 0..100_000 {
            assert_eq!(kept.keep(&host(number)), number < MAX_KEPT_HOSTS);
        }
        assert_eq!(kept.0.len(), MAX_KEPT_HOSTS);
    }

    #[test]
    fn invalid_hosts_are_refused() {
        for host in [
            "",
            "http://example.com",
            "a b",
            "*",
            "*.",
            "a.*.b",
            "example.com:",
            "example.com:99999",
            "example.com:http",
            "user@example.com",
            "example.com/path",
        ] {
            match HttpClient::allow([host]) {
                Err(error) => assert!(error.to_string().contains("*.example.com"), "{error}"),
                Ok(client) => panic!("{host:?} is allowed as {client:?}"),
            }
        }
    }
}
