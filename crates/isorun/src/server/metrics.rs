//! What Prometheus can ask for. Nothing in it names a tenant or a run.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{ApiError, App, Caller};

pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    request_seconds: Histogram,
    pub created: Counter,
    pub failed_creates: Counter,
    pub destroyed: Counter,
    pub died: Counter,
    pub create_seconds: Histogram,
    pub execs: Counter,
    pub exec_timeouts: Counter,
    pub exec_seconds: Histogram,
    pub blocked: Counter,
    active: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: String,
    /// The route's pattern, never the path: that names runs.
    route: String,
    status: u16,
}

/// From a millisecond to a minute.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("isorun");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let created = counter("runs_created", "Runs that were created");
        let failed_creates = counter("run_creates_failed", "Runs that could not be created");
        let destroyed = counter("runs_destroyed", "Runs that were destroyed");
        let died = counter("sandboxes_died", "Sandboxes that died by themselves");
        let execs = counter("execs", "Commands that were run");
        let blocked =
            counter("connections_blocked", "Connections of sandboxes that were not let through");
        let exec_timeouts = counter("exec_timeouts", "Commands whose time was over");
        let mut histogram = |name: &str, help: &str| {
            let histogram = Histogram::new(SECONDS);
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
            histogram
        };
        let create_seconds = histogram("run_create", "Time to create a run");
        let exec_seconds = histogram("exec", "Time from the start of a command to its end");
        let request_seconds = histogram("http_request", "Time to the head of an answer");
        let requests = Family::default();
        registry.register("http_requests", "Requests that were answered", requests.clone());
        let active = Gauge::default();
        registry.register("runs_active", "Runs that are there", active.clone());
        Self {
            registry,
            requests,
            request_seconds,
            created,
            failed_creates,
            destroyed,
            died,
            create_seconds,
            execs,
            exec_timeouts,
            exec_seconds,
            blocked,
            active,
        }
    }

    pub fn request(&self, method: &str, route: &str, status: u16, seconds: f64) {
        let labels = Request { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.observe(seconds);
    }
}

/// The server's figures
///
/// In the text format of OpenMetrics, for Prometheus. The key has to be an admin's.
#[utoipa::path(
    get, path = "/metrics", tag = "server", operation_id = "metrics",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")),
)]
pub async fn show(State(app): State<App>, caller: Caller) -> Result<Response, ApiError> {
    caller.must_be_admin()?;
    app.metrics.active.set(i64::try_from(app.runs.list(None).len()).unwrap_or(i64::MAX));
    let mut body = String::new();
    text::encode(&mut body, &app.metrics.registry)
        .map_err(|error| ApiError::internal("cannot write the metrics", error))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}
