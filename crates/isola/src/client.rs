//! A ready HTTP client for hosts that have none of their own.

use std::{fmt, time::Duration};

use futures_util::StreamExt as _;

use crate::{
    host::HostError,
    http::{Body, Request, Response},
};

/// Sends a guest's requests to the hosts on an allow-list, and refuses all
/// others.
///
/// Redirects are handed to the guest, which follows them through here again:
/// so a redirect cannot lead to a host that is not allowed. Proxies of the
/// environment are not used, and no cookies are kept.
#[derive(Clone)]
pub struct HttpClient {
    allowed: Allowed,
    client: reqwest::Client,
}

#[derive(Clone, Debug)]
enum Allowed {
    All,
    Hosts(Vec<String>),
}

impl HttpClient {
    /// Allows these hosts: names such as `example.com`, `*.example.com` for
    /// everything below a name, and either with a port, as in
    /// `localhost:8000`. A host without a port is allowed on all ports.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a name
    /// that cannot be.
    pub fn allow<I>(hosts: I) -> Result<Self, crate::Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let mut list = Vec::new();
        for host in hosts {
            let host = host.into().to_ascii_lowercase();
            let name = host.strip_prefix("*.").unwrap_or(&host);
            if name.is_empty() || name.contains(['/', '*', '@', ' ']) {
                return Err(crate::Error::InvalidArgument(format!(
                    "allowed host {host:?}: give a name such as example.com, *.example.com or \
                     localhost:8000"
                )));
            }
            list.push(host);
        }
        Self::new(Allowed::Hosts(list))
    }

    /// Allows every host, those of the local network among them.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`](crate::Error::Internal) if TLS cannot be set up.
    pub fn allow_all() -> Result<Self, crate::Error> {
        Self::new(Allowed::All)
    }

    fn new(allowed: Allowed) -> Result<Self, crate::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(30))
            .build()
            .map_err(|error| crate::Error::internal("setting up the HTTP client", error))?;
        Ok(Self { allowed, client })
    }

    /// Sends a request, if its host is allowed.
    ///
    /// # Errors
    ///
    /// The host is not allowed or cannot be reached.
    pub async fn send(&self, request: Request) -> Result<Response, HostError> {
        let target = request.uri().clone();
        let (Some(host), Some(authority)) = (target.host(), target.authority()) else {
            return Err(HostError::new(format!("{target} is not an absolute URL")));
        };
        if !self.allowed.contains(host, authority.port_u16()) {
            return Err(HostError::new(format!("requests to {authority} are not allowed")));
        }
        let (mut parts, body) = request.into_parts();
        // The client derives it from the URL, and for HTTP/2 it must not be
        // there.
        parts.headers.remove(::http::header::HOST);
        let request = self
            .client
            .request(parts.method, target.to_string())
            .headers(parts.headers)
            .body(outgoing(body))
            .build()
            .map_err(|error| failed(&target, &error))?;
        let answer = self.client.execute(request).await.map_err(|error| failed(&target, &error))?;
        let response: ::http::Response<reqwest::Body> = answer.into();
        Ok(response.map(|body| {
            let pieces = http_body_util::BodyDataStream::new(body);
            Body::from_stream(
                pieces.map(move |piece| piece.map_err(|error| failed(&target, &error))),
            )
        }))
    }
}

impl Allowed {
    fn contains(&self, host: &str, port: Option<u16>) -> bool {
        let Self::Hosts(list) = self else { return true };
        let host = host.to_ascii_lowercase();
        list.iter().any(|allowed| {
            let (name, allowed_port) = match allowed.rsplit_once(':') {
                Some((name, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                    (name, digits.parse::<u16>().ok())
                }
                _ => (allowed.as_str(), None),
            };
            let named = match name.strip_prefix("*.") {
                Some(suffix) => host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')),
                None => host == name,
            };
            named && (allowed_port.is_none() || allowed_port == port)
        })
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

/// A body without bytes is no body: a GET must not announce one.
fn outgoing(body: Body) -> reqwest::Body {
    if body.is_empty() {
        return reqwest::Body::default();
    }
    reqwest::Body::wrap_stream(body.into_stream())
}

/// What the guest is told: the cause, but no address that a name stands for.
fn failed(target: &::http::Uri, error: &reqwest::Error) -> HostError {
    let what = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "cannot be reached"
    } else if error.is_body() || error.is_decode() {
        "broke off"
    } else {
        "failed"
    };
    let place = target.authority().map_or("", |authority| authority.as_str());
    HostError::new(format!("the request to {place} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_decides() {
        let client = HttpClient::allow(["Example.com", "*.test.org", "localhost:8000"]).unwrap();
        for (host, port, allowed) in [
            ("example.com", None, true),
            ("EXAMPLE.COM", Some(8443), true),
            ("www.example.com", None, false),
            ("a.test.org", None, true),
            ("a.b.test.org", None, true),
            ("test.org", None, false),
            ("eviltest.org", None, false),
            ("localhost", Some(8000), true),
            ("localhost", Some(8001), false),
            ("localhost", None, false),
        ] {
            assert_eq!(client.allowed.contains(host, port), allowed, "{host} {port:?}");
        }
    }

    #[test]
    fn refuses_names_that_cannot_be() {
        for host in ["", "http://example.com", "a b", "*"] {
            let error = HttpClient::allow([host]).unwrap_err().to_string();
            assert!(error.contains("example.com"), "{error}");
        }
    }
}
