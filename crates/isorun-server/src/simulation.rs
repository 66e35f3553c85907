//! A node of a cluster without sandboxes, for the benchmark `placement`. It holds a lease,
//! chooses nodes and records runs with the same code as a server.

use std::time::{Duration, Instant};

use anyhow::Result;
use isorun_api::{OnIdle, RunId, Status};
use isorun_peers::NodeId;
use serde_json::json;
use zeroize::Zeroizing;

pub use crate::core::cluster::{CANDIDATES, MAX_CREATE_ATTEMPTS, RENEWALS_PER_LEASE};
use crate::{
    clock,
    core::cluster::{Cluster, Needs},
    secret::Secret,
    store::{
        AuditLog, ClusterSecrets, Ending, Event, KeyRow, NodeReport, NodeRow, Postgres,
        PostgresUrl, RunRow, RunSettings, Store, StoreError,
    },
};

/// The largest number of checkpoints that a node looks for at a time.
const MAX_PENDING_UPLOADS: u32 = 1000;

/// A node without sandboxes.
pub struct SimulatedNode {
    cluster: Cluster,
    store: Store,
    secret: Secret,
}

/// A run without a sandbox.
pub struct SimulatedRun {
    log: AuditLog,
}

impl SimulatedNode {
    /// Joins a cluster under a number, with at most `max_connections` to its database beside
    /// that for the lease.
    pub async fn join(
        url: &PostgresUrl,
        number: usize,
        report: &NodeReport,
        lease: Duration,
        max_connections: usize,
    ) -> Result<Self> {
        let node: NodeId = id_of(number).parse()?;
        let database = Postgres::connect_with(url, None, max_connections).await?;
        let own = ClusterSecrets {
            secret: Secret::generate()?,
            authority_certificate: String::new(),
            authority_key: Zeroizing::default(),
        };
        let secrets = database.secrets_or(&own).await?;
        let secret = Secret::parse(&secrets.secret)?;
        let started = Instant::now();
        database.join(node.as_str(), report, lease).await?;
        let store = Store::from(database.clone());
        Ok(Self { cluster: Cluster::new(node, database, lease, started), store, secret })
    }

    /// Adds the API key of a tenant, which has the name of the tenant.
    pub async fn add_key(&self, tenant: &str) -> Result<(), StoreError> {
        self.store.add_key(KeyRow::new(tenant, tenant, tenant, false)).await
    }

    /// Checks the API key of a tenant, as every node does that handles a request.
    pub async fn check_key(&self, tenant: &str) -> Result<(), StoreError> {
        self.store.key(tenant).await.map(drop)
    }

    /// Renews the lease.
    pub async fn renew(&self, report: &NodeReport) -> Result<(), StoreError> {
        let limit = self.cluster.renewal_interval() * 2;
        self.cluster.renew(report, limit).await.unwrap_or(Ok(()))
    }

    /// Does what follows a renewal. Returns the number of lost runs that were recorded.
    pub async fn survey(&self) -> Result<u64, StoreError> {
        let mut lost = 0;
        self.cluster.survey(&self.secret, |_| lost += 1).await?;
        // As the server finds the runs that were claimed.
        self.store.open_runs().await?;
        Ok(lost)
    }

    /// Measures the stored data of the tenants.
    pub async fn measure_stored(&self) -> Result<(), StoreError> {
        self.store.stored_bytes().await?;
        self.store.pulled_images().await.map(drop)
    }

    /// Looks for checkpoints to upload.
    pub async fn look_for_uploads(&self) -> Result<(), StoreError> {
        self.cluster.database.pending_uploads(MAX_PENDING_UPLOADS).await.map(drop)
    }

    /// Reads the nodes from the database.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        self.cluster.database.nodes().await
    }

    /// Reads the nodes again, as after a refusal.
    pub async fn reread_nodes(&self) {
        self.cluster.reread_nodes().await;
    }

    /// Chooses a node for a new run, by what this one knows. Returns its number.
    pub async fn choose(
        &self,
        candidates: usize,
        mem_mib: u64,
        excluded: &[usize],
        random: impl FnMut(usize) -> usize,
    ) -> Option<usize> {
        let needs = Needs { interpreter: None, mem_bytes: mem_mib << 20, image_nodes: &[] };
        let excluded: Vec<String> = excluded.iter().map(|number| id_of(*number)).collect();
        let node = self.cluster.place_by(candidates, &needs, &excluded, random).await?;
        number_of(&node.id)
    }

    /// Records a new run of this node, as the server does before and after it creates the
    /// sandbox.
    pub async fn create(&self, tenant: &str, mem_mib: u64) -> Result<SimulatedRun, StoreError> {
        let id = RunId::random().map_err(|error| StoreError::Postgres(error.to_string()))?;
        let settings = RunSettings {
            tenant: tenant.to_owned(),
            image: "python:3.13".to_owned(),
            digest: format!("sha256:{}", "0".repeat(64)),
            vcpus: 1,
            mem_mib,
            disk_mib: 10_240,
            timeout_ms: 300_000,
            defaults: r#"{"env":{},"user":"","workdir":"/"}"#.to_owned(),
            network: "{}".to_owned(),
            on_idle: OnIdle::Destroy,
            auto_resume: false,
        };
        let row = RunRow::new(id.clone(), settings);
        debug_assert_eq!(row.status, Status::Creating);
        let details = json!({ "image": row.image, "digest": row.digest, "mem_mib": mem_mib });
        self.store.add_run(row).await?;
        self.store.run_started(&id, 100).await?;
        let log = AuditLog::new(id.clone(), self.store.clone(), self.secret.clone());
        log.append(Event::Created, details).await?;
        Ok(SimulatedRun { log })
    }

    /// Records the end of a run of this node.
    pub async fn end(&self, run: &SimulatedRun) -> Result<(), StoreError> {
        let ending = Ending {
            reason: "destroyed".to_owned(),
            destroyed_at: clock::now_ms(),
            cpu_ms: 1000,
            mem_peak_bytes: 1 << 28,
            disk_used_bytes: 1 << 20,
        };
        run.log.finish(Event::Destroyed, json!({ "reason": "destroyed" }), ending).await
    }
}

fn id_of(number: usize) -> String {
    format!("node{number:016x}")
}

/// Returns the number under which a node has joined.
#[must_use]
pub fn number_of(id: &str) -> Option<usize> {
    usize::from_str_radix(id.strip_prefix("node")?, 16).ok()
}
