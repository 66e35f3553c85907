//! Routes of health checks, which need no key.

use std::time::Duration;

use axum::{Json as JsonResponse, extract::State, http::StatusCode};
use isorun_api::{Health, Readiness};
use tokio::time::timeout;

use super::App;

/// The longest time that the database may take to respond to the readiness check.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Check the server's health
#[utoipa::path(
    get, path = "/healthz", tag = "server", operation_id = "health",
    responses((status = 200, body = Health)),
    security(()),
)]
pub async fn health() -> JsonResponse<Health> {
    JsonResponse(Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Check the server's readiness for new runs
#[utoipa::path(
    get, path = "/readyz", tag = "server", operation_id = "ready",
    responses(
        (status = 200, body = Readiness),
        (status = 503, body = Readiness, description = "The server is stopping, its database does not respond, or a resource is exhausted"),
    ),
    security(()),
)]
pub async fn ready(State(app): State<App>) -> (StatusCode, JsonResponse<Readiness>) {
    let reachable = timeout(DATABASE_TIMEOUT, app.core.store.is_reachable()).await.unwrap_or(false);
    let problem = if app.core.stopping.is_cancelled() {
        Some("stopping".to_owned())
    } else if !reachable {
        Some("no database".to_owned())
    } else {
        app.core.guard.shortage().map(|what| format!("short of {what}"))
    };
    let code = if problem.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let status = problem.unwrap_or_else(|| "ready".to_owned());
    let can = app.core.engines.capabilities();
    let offers = app.core.engines.offers();
    let engine = format!("{} {}", can.name, can.version);
    (code, JsonResponse(Readiness { status, engine, isolation: can.isolation, offers }))
}
