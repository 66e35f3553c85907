//! Logging and metrics of requests, and fallback responses.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, Uri},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    App,
    error::{ApiError, Code},
};

/// Logs and counts a request.
pub async fn record(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map(MatchedPath::as_str);
    let elapsed = started.elapsed();
    app.metrics.request(&method, route, response.status(), elapsed.as_secs_f64());
    let (route, status) = (route.unwrap_or("none"), response.status().as_u16());
    let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(%method, route, status, ms, "request");
    response
}

pub async fn no_such_route(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    ApiError::new(Code::NotFound, format!("{method} {path} does not exist"))
}

pub async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    ApiError::new(Code::MethodNotAllowed, format!("{path} does not allow {method}"))
}

/// Responds to a request whose handler panicked.
pub fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message");
    ApiError::internal("the request failed because of a bug", text).into_response()
}
