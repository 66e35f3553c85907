//! URLs of ports: what listens inside a sandbox, reached from outside.
//!
//! ```text
//! https://<run>.<domain>/sb/p/<port>/<path>      anonymous, on a name of its own
//! http://<host>/sb/<run>/p/<port>/<path>         anonymous, on this server's name
//! http://<host>/v1/runs/<run>/proxy/<port>/<path>     with an API key
//! ```
//!
//! The anonymous ones are as secret as the id of the run. A run can want a token
//! on top, or none of them at all.

mod access;
mod exchange;
mod inward;
mod outward;
mod place;
mod reach;
mod secrets;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, header},
    response::Response,
};

pub use access::{TOKEN, UrlAccess};
pub use place::Place;
pub use reach::Ports;

use super::{ApiError, App, Caller, Code, limits, runs::LiveRun, state};
use access::Entry;

/// A request with an API key.
pub async fn keyed(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let place = Place::of_key(request.uri().path()).map_err(ApiError::invalid)?;
    let run = app.runs.get(&place.run).filter(|run| run.tenant == caller.tenant);
    let run = run.ok_or_else(|| no_such_run(&place))?;
    visit(&app, &run, place, request).await
}

/// A request of anybody who knows the id of the run.
pub async fn anonymous(
    State(app): State<App>,
    request: Request,
) -> Result<Response<Body>, ApiError> {
    let host = host(&request);
    let domain = app.config.urls.domain.as_deref();
    let place = Place::of_name(host.as_deref(), domain, request.uri().path())
        .map_err(|why| ApiError::new(Code::NotFound, why))?;
    if !app.config.urls.anonymous {
        return Err(ApiError::new(
            Code::Forbidden,
            "this server has no anonymous URLs: use /v1/runs/{id}/proxy/{port}/ with an API key",
        ));
    }
    let run = app.runs.get(&place.run).ok_or_else(|| no_such_run(&place))?;
    match access::enter(&run.defaults.urls, &place, &request)? {
        Entry::Open => {
            limits::attribute(&app, request.extensions(), &run.tenant)?;
            visit(&app, &run, place, request).await
        }
        Entry::Redirect(response) => Ok(*response),
    }
}

async fn visit(
    app: &App,
    run: &Arc<LiveRun>,
    place: Place,
    request: Request,
) -> Result<Response, ApiError> {
    state::hibernation::wake_if_asked(app, run).await?;
    let visit = run.visit()?;
    tokio::select! {
        biased;
        answer = exchange::pass(&app.ports, visit, &place, app.config.urls.shared_origin, request) => answer,
        why = run.ended() => Err(why),
    }
}

fn no_such_run(place: &Place) -> ApiError {
    ApiError::new(Code::RunNotFound, format!("there is no run {}", place.run))
}

/// Splits a URL and rewrites heads that the fuzzer made, and checks what has to
/// hold of them.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_urls(kind: u8, uri: &axum::http::Uri, mut headers: HeaderMap) {
    let host = host_of(&headers);
    let domain = if kind & 1 == 0 { None } else { Some("sb.test") };
    let place = if kind & 2 == 0 {
        Place::of_name(host.as_deref(), domain, uri.path())
    } else {
        Place::of_key(uri.path())
    };
    let Ok(place) = place else { return };
    let whole = format!("{}{}", place.prefix, place.path);
    assert!(whole == uri.path() || whole == format!("{}/", uri.path()), "{whole}");
    assert!(place.port > 1 && place.path.starts_with('/'));
    let token = UrlAccess::Token("0011223344556677".to_owned());
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers.clone();
    if let Ok(Entry::Redirect(response)) = access::enter(&token, &place, &request) {
        let to = &response.headers()[header::LOCATION];
        assert!(to.as_bytes().starts_with(place.prefix.as_bytes()));
    }
    let names = inward::Names::of(uri, &headers);
    let shown = outward::Shown::of(&place, &names, &headers, kind & 4 != 0);
    // The same bytes as the head of an answer.
    let mut answer = headers.clone();
    inward::rewrite(&place, &names, &mut headers);
    for (name, value) in &headers {
        let value = value.as_bytes();
        assert!(!secrets::has_key(value), "{name}: {value:?}");
        assert!(!secrets::contains(value, place.run.as_str().as_bytes()), "{name}: {value:?}");
        assert!(!name.as_str().starts_with("x-isorun-"));
    }
    assert!(
        access::cookies(&headers).all(|(name, _)| !name.eq_ignore_ascii_case(TOKEN.as_bytes()))
    );
    if let Ok(target) = inward::target(&place, uri.query()) {
        assert_eq!(target.path(), place.path);
        assert!(!secrets::has_key(target.to_string().as_bytes()), "{target}");
    }
    outward::rewrite(&place, &shown, &mut answer);
    for name in ["service-worker-allowed", "clear-site-data", "strict-transport-security"] {
        assert!(!answer.contains_key(name));
    }
    for cookie in answer.get_all(header::SET_COOKIE) {
        let cookie = cookie.as_bytes();
        let attributes = || {
            let parts = cookie.split(|byte| *byte == b';').skip(1).map(<[u8]>::trim_ascii);
            parts.map(|part| {
                part.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
            })
        };
        assert!(!attributes().any(|name| name.eq_ignore_ascii_case(b"domain")), "{cookie:?}");
        assert_eq!(attributes().filter(|name| name.eq_ignore_ascii_case(b"path")).count(), 1);
        let own = format!("; Path={}/", place.prefix);
        assert!(secrets::contains(cookie, own.as_bytes()) || cookie.ends_with(b"; Path=/"));
    }
}

/// Which name the client asked for.
fn host(request: &Request) -> Option<String> {
    let from_uri = request.uri().authority().map(|authority| authority.host().to_owned());
    from_uri.or_else(|| host_of(request.headers()))
}

fn host_of(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::HOST)?.to_str().ok()?;
    let authority: axum::http::uri::Authority = text.parse().ok()?;
    Some(authority.host().to_owned())
}
