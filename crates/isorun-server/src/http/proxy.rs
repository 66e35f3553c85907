//! Port URLs: a reverse proxy to the HTTP servers in sandboxes.
//!
//! ```text
//! https://<run>.<domain>/sb/p/<port>/<path>      anonymous, on the run's own host name
//! http://<host>/sb/<run>/p/<port>/<path>         anonymous, on the server's host name
//! http://<host>/v1/runs/<run>/proxy/<port>/<path>     with an API key
//! ```
//!
//! The anonymous URLs are as secret as the id of the run. A run can also require a
//! token, or disable them.

mod access;
mod body;
mod exchange;
mod inward;
mod outward;
mod port_client;
mod port_url;
mod secrets;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, header},
    response::Response,
};

pub use access::TOKEN_NAME;
use isorun_peers::Peer;
pub use port_client::PortClient;
pub use port_url::PortUrl;

use self::access::AccessDecision;
use super::{
    App,
    auth::Caller,
    elsewhere,
    error::{ApiError, Code},
    limits,
};
use crate::core::{
    hibernation,
    live_run::{Defaults, LiveRun},
};

/// Handles a request with an API key.
pub async fn keyed(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let url = PortUrl::parse_keyed(request.uri().path()).map_err(ApiError::invalid)?;
    let run = app.core.runs.get(&url.run).filter(|run| run.tenant == caller.tenant);
    let run = run.ok_or_else(|| no_such_run(&url))?;
    forward(&app, &run, url, request).await
}

/// Handles a request without an API key, by the id of the run.
pub async fn anonymous(
    State(app): State<App>,
    request: Request,
) -> Result<Response<Body>, ApiError> {
    let host = host(&request);
    let domain = app.core.config.urls.domain.as_deref();
    let url = PortUrl::parse_anonymous(host.as_deref(), domain, request.uri().path())
        .map_err(|why| ApiError::new(Code::NotFound, why))?;
    if !app.core.config.urls.anonymous {
        return Err(ApiError::new(
            Code::Forbidden,
            "anonymous URLs are disabled on this server: use /v1/runs/{id}/proxy/{port}/ with an \
             API key",
        ));
    }
    let (mut run, mut owner) = (app.core.runs.get(&url.run), None);
    if run.is_none() {
        let is_forwarded = request.extensions().get::<Peer>().is_some();
        owner = elsewhere::port_owner(&app, &url.run, is_forwarded).await?;
        // Another node may have forwarded it while this one took the run over.
        run = app.core.runs.get(&url.run);
    }
    let (tenant, urls) = match (&run, &owner) {
        (Some(run), _) => (run.tenant.clone(), run.defaults.urls.clone()),
        (None, Some(owner)) => (owner.tenant.clone(), Defaults::parse(&owner.defaults).urls),
        (None, None) => return Err(no_such_run(&url)),
    };
    if let AccessDecision::Redirect(response) = access::check_access(&urls, &url, &request)? {
        return Ok(*response);
    }
    limits::attribute(&app, request.extensions(), &tenant)?;
    let request = match owner.filter(|_| run.is_none()) {
        None => request,
        Some(owner) => match elsewhere::forward_to_port(&app, &url.run, owner, request).await? {
            Ok(response) => return Ok(response),
            Err(request) => request,
        },
    };
    let run = app.core.runs.get(&url.run).ok_or_else(|| no_such_run(&url))?;
    forward(&app, &run, url, request).await
}

/// Forwards a request to the run, which is resumed if it is hibernated and has `auto_resume`.
async fn forward(
    app: &App,
    run: &Arc<LiveRun>,
    url: PortUrl,
    request: Request,
) -> Result<Response, ApiError> {
    run.require_linux("ports")?;
    hibernation::resume_if_automatic(&app.core, run).await?;
    let in_progress = run.begin_proxy_request()?;
    let shared_origin = app.core.config.urls.shared_origin;
    tokio::select! {
        biased;
        response = exchange::forward(&app.ports, in_progress, &url, shared_origin, request) => response,
        why = run.ended() => Err(why.into()),
    }
}

fn no_such_run(url: &PortUrl) -> ApiError {
    ApiError::new(Code::RunNotFound, format!("run {} does not exist", url.run))
}

/// Parses a fuzzed URL, rewrites fuzzed headers, and checks the invariants of both.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_urls(kind: u8, uri: &axum::http::Uri, mut headers: HeaderMap) {
    let host = host_of(&headers);
    let domain = if kind & 1 == 0 { None } else { Some("sb.test") };
    let url = if kind & 2 == 0 {
        PortUrl::parse_anonymous(host.as_deref(), domain, uri.path())
    } else {
        PortUrl::parse_keyed(uri.path())
    };
    let Ok(url) = url else { return };
    let full_path = format!("{}{}", url.prefix, url.path);
    assert!(full_path == uri.path() || full_path == format!("{}/", uri.path()), "{full_path}");
    assert!(url.port > 1 && url.path.starts_with('/'));
    let token = crate::core::live_run::UrlAccess::Token("0011223344556677".to_owned());
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers.clone();
    if let Ok(AccessDecision::Redirect(response)) = access::check_access(&token, &url, &request) {
        let to = &response.headers()[header::LOCATION];
        assert!(to.as_bytes().starts_with(url.prefix.as_bytes()));
    }
    let names = inward::HostNames::of(uri, &headers);
    let policy = outward::ResponsePolicy::of(&url, &names, &headers, kind & 4 != 0);
    // The same headers as those of a response.
    let mut response = headers.clone();
    inward::rewrite(&url, &names, &mut headers);
    for (name, value) in &headers {
        let value = value.as_bytes();
        assert!(!secrets::contains_api_key(value), "{name}: {value:?}");
        assert!(
            !secrets::contains_ignore_case(value, url.run.as_str().as_bytes()),
            "{name}: {value:?}"
        );
        assert!(!name.as_str().starts_with("x-isorun-"));
    }
    assert!(
        access::cookies(&headers)
            .all(|(name, _)| !name.eq_ignore_ascii_case(TOKEN_NAME.as_bytes()))
    );
    if let Ok(target) = inward::target(&url, uri.query()) {
        assert_eq!(target.path(), url.path);
        assert!(!secrets::contains_api_key(target.to_string().as_bytes()), "{target}");
    }
    outward::rewrite(&url, &policy, &mut response);
    for name in ["service-worker-allowed", "clear-site-data", "strict-transport-security"] {
        assert!(!response.contains_key(name));
    }
    for cookie in response.get_all(header::SET_COOKIE) {
        let cookie = cookie.as_bytes();
        let attributes = || {
            let parts = cookie.split(|byte| *byte == b';').skip(1).map(<[u8]>::trim_ascii);
            parts.map(|part| {
                part.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
            })
        };
        assert!(!attributes().any(|name| name.eq_ignore_ascii_case(b"domain")), "{cookie:?}");
        assert_eq!(attributes().filter(|name| name.eq_ignore_ascii_case(b"path")).count(), 1);
        let own_path = format!("; Path={}/", url.prefix);
        assert!(
            secrets::contains_ignore_case(cookie, own_path.as_bytes())
                || cookie.ends_with(b"; Path=/")
        );
    }
}

/// Returns the host name of a request.
fn host(request: &Request) -> Option<String> {
    let from_uri = request.uri().authority().map(|authority| authority.host().to_owned());
    from_uri.or_else(|| host_of(request.headers()))
}

fn host_of(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::HOST)?.to_str().ok()?;
    let authority: axum::http::uri::Authority = text.parse().ok()?;
    Some(authority.host().to_owned())
}
