//! What the server divides among its callers, and how it turns away what is too
//! much.
//!
//! Each resource has a total for the server. A tenant holds its share of it at
//! most, so that it cannot take what the others need; a caller without a key is
//! refused at once, and holds nothing:
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

pub mod body;
mod cpu;
pub mod descriptors;
pub mod guard;
pub mod ledger;
mod snapshots;

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{Extensions, HeaderValue, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;

use self::{
    body::{HeldBody, PacedBody},
    ledger::{Hold, Ledger},
    snapshots::Snapshots,
};
use super::{ApiError, App, Code, config, connections::Connection};

/// The owner of what is held for callers that have not shown a key.
const UNKNOWN: &str = "";

/// Requests for figures of the server under way at the same time. They have their
/// own limit, so that its operator can see what is wrong when all others are taken.
const MAX_OPERATOR_REQUESTS: u64 = 32;

/// Routes that are answered however many requests are under way. They read no
/// body and hold nothing.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Routes of the operator.
const OPERATOR: [&str; 1] = ["/metrics"];

/// The accounts of what callers hold while a request of theirs is under way.
pub struct Accounts {
    pub requests: Arc<Ledger>,
    operator: Arc<Ledger>,
    /// Bytes of request bodies and of answers that are held in memory.
    pub memory: Arc<Ledger>,
    /// Images that are being pulled.
    pub pulls: Arc<Ledger>,
    pub snapshots: Snapshots,
    /// Descriptors of connections into sandboxes.
    pub descriptors: Arc<Ledger>,
}

impl Accounts {
    pub fn new(limits: &config::Limits) -> Self {
        let share = limits.server.tenant_share;
        let requests = u64::try_from(limits.in_flight).unwrap_or(u64::MAX);
        Self {
            requests: Ledger::new("requests under way", "--max-requests", requests, share),
            operator: Ledger::new(
                "requests for figures of the server under way",
                "a fixed limit",
                MAX_OPERATOR_REQUESTS,
                100,
            ),
            memory: Ledger::new(
                "bytes of bodies and answers in memory",
                "--max-held-memory-mib",
                limits.server.held_memory,
                share,
            ),
            pulls: Ledger::new("image pulls under way", "--max-pulls", limits.server.pulls, share),
            snapshots: Snapshots::new(limits.server.snapshots, share),
            descriptors: limits.server.division.agent_ledger(share),
        }
    }
}

/// What a request holds of the limit of requests under way.
#[derive(Clone)]
struct RequestHold(Arc<Mutex<Hold>>);

/// Counts a request and its connection as a tenant's.
pub fn attribute(app: &App, extensions: &Extensions, tenant: &str) -> Result<(), ApiError> {
    if let Some(connection) = extensions.get::<Arc<Connection>>() {
        connection.attribute(&app.connections, tenant)?;
    }
    let Some(RequestHold(hold)) = extensions.get() else { return Ok(()) };
    let mut hold = hold.lock().unwrap_or_else(PoisonError::into_inner);
    let transferred = hold.transfer(tenant);
    transferred.map_err(|exhausted| hold.ledger().refusal(exhausted))
}

/// Counts what is held of the body of a tenant's request. Bodies that are passed on
/// while they come are not held.
pub fn count_body(app: &App, request: Request, tenant: &str) -> Result<Request, ApiError> {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    if route.ends_with("/files/upload") || route.contains("/proxy/") {
        return Ok(request);
    }
    let memory = &app.accounts.memory;
    let hold = memory.take(tenant, 0).map_err(|exhausted| memory.refusal(exhausted))?;
    Ok(request.map(|body| Body::new(HeldBody::new(body, hold))))
}

/// Turns away what is too much, instead of letting it wait for an unknown time,
/// and ends bodies that make no progress.
pub async fn bound(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    if PROBES.contains(&route) {
        return Ok(next.run(request).await);
    }
    if app.stopping.is_cancelled() {
        let refused = ApiError::new(Code::Stopping, "the server is stopping: it takes no requests");
        let mut response = refused.into_response();
        if request.version() <= Version::HTTP_11 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        return Ok(response);
    }
    let is_operators = OPERATOR.contains(&route);
    let ledger = if is_operators { &app.accounts.operator } else { &app.accounts.requests };
    // What a sandbox's own server reads may pause, as in a conversation.
    let is_proxied = route.starts_with("/sb/") || route.starts_with("/v1/runs/{id}/proxy/");
    let hold =
        ledger.take_within(UNKNOWN, 1, u64::MAX).map_err(|exhausted| ledger.refusal(exhausted))?;
    let hold = RequestHold(Arc::new(Mutex::new(hold)));
    if !is_operators {
        request.extensions_mut().insert(hold.clone());
    }
    if !is_proxied {
        let pace = app.config.limits.server.body_pace;
        request = request.map(|body| Body::new(PacedBody::new(body, pace)));
    }
    let response = next.run(request).await;
    let is_unknown = hold.0.lock().unwrap_or_else(PoisonError::into_inner).owner() == UNKNOWN;
    if is_unknown && !is_operators {
        // A short refusal. Who does not take it holds a connection, and nothing else.
        return Ok(response);
    }
    // A stream is under way until its last byte.
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &hold;
            frame
        }))
    }))
}

/// What the caller is told when the body of a request was not read to its end.
pub fn broken_body(error: impl std::error::Error + 'static) -> ApiError {
    if let Some(body::NoMemory(refusal)) = body::find(&error) {
        return refusal.clone();
    }
    match body::too_slow(&error) {
        Some(slow) => ApiError::new(
            Code::RequestTimeout,
            format!("{slow}: send it without pauses (--body-timeout, --min-body-rate)"),
        ),
        None => ApiError::invalid("the body broke off"),
    }
}
