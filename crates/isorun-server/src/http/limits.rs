//! The limits of requests, for all callers and for each tenant.
//!
//! There is a total for the server. A tenant can use at most its share of the total,
//! so that enough is left for the others; a caller without a key is refused at once,
//! and uses none:
//!
//! ```text
//! request ──▶ probe? ── yes ──▶ answered in any case
//!               │ no
//!               ▼
//!            counted ──▶ key or URL of a run ──▶ counted as its tenant's
//!               │ over the total      │ over its share
//!               ▼                     ▼
//!              503                   429, both with Retry-After
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{Extensions, HeaderValue, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;

use super::{
    App,
    body::{HeldBody, PacedBody},
    connections::Connection,
    error::{ApiError, Code},
};
use crate::core::accounts::ledger::Hold;

/// The owner of requests that are not authenticated yet.
const UNAUTHENTICATED: &str = "";

/// Routes that are answered regardless of the number of requests in flight. They read no
/// body and hold no resources.
const PROBE_ROUTES: [&str; 2] = ["/healthz", "/readyz"];

/// Routes for the operator.
const OPERATOR_ROUTES: [&str; 1] = ["/metrics"];

/// The share of a request in the limit of requests in flight.
#[derive(Clone)]
struct RequestHold(Arc<Mutex<Hold>>);

/// Counts a request and its connection against a tenant's share.
pub fn attribute(app: &App, extensions: &Extensions, tenant: &str) -> Result<(), ApiError> {
    if let Some(connection) = extensions.get::<Arc<Connection>>() {
        connection.attribute(&app.connections, tenant)?;
    }
    let Some(RequestHold(hold)) = extensions.get() else { return Ok(()) };
    let mut hold = hold.lock().unwrap_or_else(PoisonError::into_inner);
    let transferred = hold.transfer(tenant);
    transferred.map_err(|exhausted| hold.ledger().refusal(exhausted).into())
}

/// Counts the bytes of a request's body that are held in memory against the tenant's
/// share. Bodies that are forwarded as a stream are not held.
pub fn count_body(app: &App, request: Request, tenant: &str) -> Result<Request, ApiError> {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    if route.ends_with("/files/upload") || route.contains("/proxy/") {
        return Ok(request);
    }
    let memory = &app.core.accounts.memory;
    let hold = memory.take(tenant, 0).map_err(|exhausted| memory.refusal(exhausted))?;
    Ok(request.map(|body| Body::new(HeldBody::new(body, hold))))
}

/// Refuses requests above the limits, instead of queueing them for an unknown time,
/// and fails bodies that are too slow.
pub async fn limit_requests(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    if PROBE_ROUTES.contains(&route) {
        return Ok(next.run(request).await);
    }
    if app.core.stopping.is_cancelled() {
        let refused =
            ApiError::new(Code::Stopping, "the server is stopping and accepts no requests");
        let mut response = refused.into_response();
        if request.version() <= Version::HTTP_11 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        return Ok(response);
    }
    let is_operator_route = OPERATOR_ROUTES.contains(&route);
    let ledger =
        if is_operator_route { &app.core.accounts.operator } else { &app.core.accounts.requests };
    // Bodies for a sandbox's own server may pause, as in an interactive protocol.
    let is_proxied = route.starts_with("/sb/") || route.starts_with("/v1/runs/{id}/proxy/");
    let hold = ledger
        .take_within(UNAUTHENTICATED, 1, u64::MAX)
        .map_err(|exhausted| ledger.refusal(exhausted))?;
    let hold = RequestHold(Arc::new(Mutex::new(hold)));
    if !is_operator_route {
        request.extensions_mut().insert(hold.clone());
    }
    if !is_proxied {
        let pace = app.core.config.limits.server.body_pace;
        request = request.map(|body| Body::new(PacedBody::new(body, pace)));
    }
    let response = next.run(request).await;
    let is_unauthenticated =
        hold.0.lock().unwrap_or_else(PoisonError::into_inner).owner() == UNAUTHENTICATED;
    if is_unauthenticated && !is_operator_route {
        // A short refusal. A client that does not read it holds only a connection.
        return Ok(response);
    }
    // A streamed response is in flight until its last byte.
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &hold;
            frame
        }))
    }))
}
