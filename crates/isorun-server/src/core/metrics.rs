//! Metrics of sandboxes for Prometheus. They do not contain the names of tenants or runs.

use std::fmt;

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// The bounds of the histogram buckets, in seconds.
pub const BUCKET_BOUNDS_SECS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// The metrics of sandboxes.
pub struct Metrics {
    registry: Registry,
    pub created: Counter,
    pub failed_creates: Counter,
    pub destroyed: Counter,
    pub died: Counter,
    /// Runs of dead nodes of the cluster whose end this server has recorded.
    pub lost: Counter,
    /// Hibernated runs of other nodes that this one has taken over.
    pub adopted: Counter,
    pub uploads: Counter,
    pub failed_uploads: Counter,
    pub uploaded_bytes: Counter,
    pub create_seconds: Histogram,
    pub execs: Counter,
    pub exec_timeouts: Counter,
    pub exec_seconds: Histogram,
    pub blocked: Counter,
    active: Gauge,
    /// The nodes of the cluster that accept new runs, as this one knows them.
    pub accepting_nodes: Gauge,
}

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
        let died = counter("sandboxes_died", "Sandboxes that exited unexpectedly");
        let lost = counter("runs_lost", "Runs of dead nodes whose loss this server recorded");
        let adopted = counter("runs_adopted", "Hibernated runs that were taken over from others");
        let uploads =
            counter("uploads", "Images and checkpoints that were copied to the object store");
        let failed_uploads = counter("uploads_failed", "Failed copies to the object store");
        let uploaded_bytes = counter("uploaded_bytes", "Bytes that were sent to the object store");
        let execs = counter("execs", "Commands that were run");
        let blocked = counter("connections_blocked", "Connections of sandboxes that were blocked");
        let exec_timeouts = counter("exec_timeouts", "Commands that exceeded their timeout");
        let mut histogram = |name: &str, help: &str| {
            let histogram = Histogram::new(BUCKET_BOUNDS_SECS);
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
            histogram
        };
        let create_seconds = histogram("run_create", "Time to create a run");
        let exec_seconds = histogram("exec", "Time from the start of a command to its end");
        let active = Gauge::default();
        registry.register("runs_active", "Runs that were not destroyed", active.clone());
        let accepting_nodes = Gauge::default();
        let help = "Nodes of the cluster that accept new runs, as this one knows them";
        registry.register("cluster_nodes_accepting", help, accepting_nodes.clone());
        Self {
            registry,
            created,
            failed_creates,
            destroyed,
            died,
            lost,
            adopted,
            uploads,
            failed_uploads,
            uploaded_bytes,
            create_seconds,
            execs,
            exec_timeouts,
            exec_seconds,
            blocked,
            active,
            accepting_nodes,
        }
    }

    /// Writes the metrics in the text format of OpenMetrics, without its end mark.
    /// `active` is the number of runs.
    pub fn encode(&self, active: usize, text: &mut String) -> fmt::Result {
        self.active.set(i64::try_from(active).unwrap_or(i64::MAX));
        text::encode_registry(text, &self.registry)
    }
}
