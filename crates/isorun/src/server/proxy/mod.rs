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
mod place;
mod reach;

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
    mut request: Request,
) -> Result<Response, ApiError> {
    let place = Place::of_key(request.uri().path()).map_err(ApiError::invalid)?;
    let run = app.runs.get(&place.run).filter(|run| run.tenant == caller.tenant);
    let run = run.ok_or_else(|| no_such_run(&place))?;
    // The key is the server's business, and the sandbox must not learn it.
    request.headers_mut().remove(header::AUTHORIZATION);
    visit(&app, &run, place, request).await
}

/// A request of anybody who knows the id of the run.
pub async fn anonymous(
    State(app): State<App>,
    mut request: Request,
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
    match access::enter(&run.defaults.urls, &place, &mut request)? {
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
        answer = exchange::pass(&app.ports, visit, &place, request) => answer,
        why = run.ended() => Err(why),
    }
}

fn no_such_run(place: &Place) -> ApiError {
    ApiError::new(Code::RunNotFound, format!("there is no run {}", place.run))
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
