//! Metrics of requests and connections for Prometheus, and the route that shows all
//! metrics. They do not contain the names of tenants or runs.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use axum::{
    extract::State,
    http::{self, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{App, auth::Caller, error::ApiError};
use crate::core::metrics::BUCKET_BOUNDS_SECS;

/// The metrics of requests and connections.
pub struct RequestMetrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histogram,
    connections: Gauge,
    under_way: Gauge,
    held_bytes: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: MethodLabel,
    /// The pattern of the route, not the path, which contains run ids.
    route: RouteLabel,
    status: StatusLabel,
}

/// The distinguished methods. All others are `other`, since clients can send any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(clippy::upper_case_acronyms, reason = "label values")]
enum MethodLabel {
    GET,
    HEAD,
    POST,
    PUT,
    PATCH,
    DELETE,
    OPTIONS,
    CONNECT,
    #[allow(non_camel_case_types, reason = "label values")]
    other,
}

impl From<&http::Method> for MethodLabel {
    fn from(method: &http::Method) -> Self {
        match method.as_str() {
            "GET" => Self::GET,
            "HEAD" => Self::HEAD,
            "POST" => Self::POST,
            "PUT" => Self::PUT,
            "PATCH" => Self::PATCH,
            "DELETE" => Self::DELETE,
            "OPTIONS" => Self::OPTIONS,
            "CONNECT" => Self::CONNECT,
            _ => Self::other,
        }
    }
}

/// The pattern of one of the server's own routes, or `none`. Its cardinality is bounded
/// by the number of routes.
type RouteLabel = Arc<str>;

/// A registered status code, or `None` for all others, since a server in a sandbox can
/// send any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct StatusLabel(Option<http::StatusCode>);

impl From<http::StatusCode> for StatusLabel {
    fn from(status: http::StatusCode) -> Self {
        Self(status.canonical_reason().map(|_| status))
    }
}

impl EncodeLabelValue for StatusLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self.0 {
            Some(status) => encoder.write_str(status.as_str()),
            None => encoder.write_str("other"),
        }
    }
}

impl RequestMetrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("isorun");
        let request_seconds = Histogram::new(BUCKET_BOUNDS_SECS);
        let help = "Time to the head of the response";
        registry.register_with_unit("http_request", help, Unit::Seconds, request_seconds.clone());
        let requests = Family::default();
        registry.register("http_requests", "Completed requests", requests.clone());
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let connections = gauge("connections_open", "Open connections of clients");
        let under_way = gauge("http_requests_under_way", "Requests in progress");
        let held_bytes =
            gauge("held_bytes", "Bytes of memory for request bodies and output in responses");
        Self { registry, requests, request_seconds, connections, under_way, held_bytes }
    }

    /// Counts a request. `route` is the pattern that the router found, if any.
    pub fn request(
        &self,
        method: &http::Method,
        route: Option<&str>,
        status: http::StatusCode,
        seconds: f64,
    ) {
        let labels = RequestLabels {
            method: method.into(),
            route: Arc::from(route.unwrap_or("none")),
            status: status.into(),
        };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.observe(seconds);
    }
}

/// Get the server's metrics
///
/// In the text format of OpenMetrics, for Prometheus. Requires an admin key.
#[utoipa::path(
    get, path = "/metrics", tag = "server", operation_id = "metrics",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")),
)]
pub async fn show(State(app): State<App>, caller: Caller) -> Result<Response, ApiError> {
    caller.must_be_admin()?;
    let set = |gauge: &Gauge, value| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    let number = |count| u64::try_from(count).unwrap_or(u64::MAX);
    let metrics = &app.metrics;
    set(&metrics.connections, number(app.connections.open_count()));
    set(&metrics.under_way, app.core.accounts.requests.used());
    set(&metrics.held_bytes, app.core.accounts.memory.used());
    let mut body = String::new();
    app.core
        .metrics
        .encode(app.core.runs.list(None).len(), &mut body)
        .and_then(|()| text::encode_registry(&mut body, &metrics.registry))
        .and_then(|()| text::encode_eof(&mut body))
        .map_err(|error| ApiError::internal("cannot write the metrics", error))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(metrics: &RequestMetrics) -> usize {
        let mut text = String::new();
        text::encode(&mut text, &metrics.registry).unwrap();
        text.lines().filter(|line| line.starts_with("isorun_http_requests_total{")).count()
    }

    #[test]
    fn unknown_methods_and_statuses_create_no_series() {
        let metrics = RequestMetrics::new();
        for number in 0..10_000 {
            let method = http::Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
            metrics.request(&method, None, http::StatusCode::NOT_FOUND, 0.1);
        }
        assert_eq!(series(&metrics), 1);
        for code in 600..1000 {
            let status = http::StatusCode::from_u16(code).unwrap();
            metrics.request(&http::Method::GET, Some("/sb/{*place}"), status, 0.1);
        }
        assert_eq!(series(&metrics), 2);
        for method in ["get", "GETS", "TRACE", "Get"] {
            let method = http::Method::from_bytes(method.as_bytes()).unwrap();
            metrics.request(&method, None, http::StatusCode::OK, 0.1);
        }
        metrics.request(&http::Method::GET, None, http::StatusCode::OK, 0.1);
        assert_eq!(series(&metrics), 4);
        let mut text = String::new();
        text::encode(&mut text, &metrics.registry).unwrap();
        for line in [
            "method=\"other\",route=\"none\",status=\"404\"} 10000",
            "method=\"GET\",route=\"/sb/{*place}\",status=\"other\"} 400",
        ] {
            assert!(text.contains(line), "{line} is missing: {text}");
        }
    }
}
