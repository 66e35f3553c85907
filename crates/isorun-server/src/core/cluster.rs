//! This server as a node of a cluster: its lease, what it knows of the other nodes, and the
//! choice of a node for a new run.
//!
//! | module | subject |
//! |---|---|
//! | `member` | joining: the id of the node, the secrets of the cluster, its certificate |
//! | `report` | what a node reports of itself |
//! | `placement` | the choice of a node |
//! | `survey` | what a node does about the others after each renewal |
//!
//! A node holds a lease in the database, which it renews. Both sides measure its time by
//! their own clocks, and the node begins before the database does; so a node knows that its
//! lease has expired before any other node can, whatever their clocks show:
//!
//! ```text
//!  node      ├─ renews ──────── lease time ─────────┤ refuses changes of its runs
//!  database     ├──────────────── lease time ──────────┤── grace ──┤ declared dead
//! ```

mod member;
mod placement;
mod report;
mod survey;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use isorun_image::Reference;
use isorun_interpreter::InterpreterImage;
use isorun_peers::NodeId;
use tokio::{sync::Notify, time::timeout};

use self::placement::Known;
pub use self::{
    member::{Member, open_database},
    placement::{CANDIDATES, MAX_CREATE_ATTEMPTS, Needs},
    report::measure,
};
use super::images::HOST;
use crate::store::{NodeReport, NodeRow, Postgres, StoreError};

/// The part of the lease time that passes between two renewals.
pub const RENEWALS_PER_LEASE: u32 = 5;

/// The least time between two reads of the nodes after refusals.
const REREAD_INTERVAL: Duration = Duration::from_millis(100);

/// How often nodes are drawn for a run until one of them has room.
const MAX_DRAWS: usize = 3;

/// A server's membership in a cluster.
pub struct Cluster {
    pub node: NodeId,
    pub database: Postgres,
    /// The lease time.
    pub lease: Duration,
    state: RwLock<LeaseState>,
    /// The nodes when they were last read: at the last renewal, or after a refusal.
    nodes: RwLock<Vec<NodeRow>>,
    /// When they were read after a refusal. Held meanwhile.
    reread: tokio::sync::Mutex<Option<Instant>>,
    /// The open runs of nodes as they were read later, with those that this node has placed
    /// there since.
    runs: Mutex<HashMap<String, u64>>,
    /// Woken when something has changed in the cluster.
    pub news: Arc<Notify>,
    /// Held during a renewal. True after this node has left.
    left: tokio::sync::Mutex<bool>,
}

/// The state of a node's lease.
#[derive(Clone, Copy, Debug)]
struct LeaseState {
    /// The beginning of the last successful renewal.
    renewed: Instant,
    /// The beginning of the first renewal since which all were successful.
    unbroken_since: Option<Instant>,
    /// True after another node has declared this one dead.
    is_fenced: bool,
}

impl Cluster {
    pub fn new(node: NodeId, database: Postgres, lease: Duration, joined: Instant) -> Self {
        let state = LeaseState { renewed: joined, unbroken_since: Some(joined), is_fenced: false };
        Self {
            node,
            database,
            lease,
            state: RwLock::new(state),
            nodes: RwLock::default(),
            reread: tokio::sync::Mutex::default(),
            runs: Mutex::default(),
            news: Arc::default(),
            left: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the time between two renewals of the lease.
    pub fn renewal_interval(&self) -> Duration {
        self.lease / RENEWALS_PER_LEASE
    }

    fn state(&self) -> LeaseState {
        *self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_state(&self, change: impl FnOnce(&mut LeaseState)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns the time for which all renewals were successful.
    pub fn unbroken_time(&self) -> Duration {
        self.state().unbroken_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Sets what the nodes have reported.
    pub fn set_nodes(&self, nodes: Vec<NodeRow>) {
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = nodes;
        self.runs().clear();
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports whether the lease is valid: only then this node may change its runs.
    pub fn has_lease(&self) -> bool {
        let state = self.state();
        !state.is_fenced && state.renewed.elapsed() < self.lease
    }

    /// Reports whether another node has declared this one dead.
    pub fn is_fenced(&self) -> bool {
        self.state().is_fenced
    }

    /// Reports whether the operator has asked this node to accept no new runs.
    pub fn is_draining(&self) -> bool {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().any(|node| node.id == self.node.as_str() && node.is_draining)
    }

    /// Returns the nodes at the last renewal.
    pub fn nodes(&self) -> Vec<NodeRow> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Renews the lease within a time limit. Returns `None` if this node has left.
    pub async fn renew(
        &self,
        report: &NodeReport,
        limit: Duration,
    ) -> Option<Result<(), StoreError>> {
        let left = self.left.lock().await;
        if *left {
            return None;
        }
        let started = Instant::now();
        let renewing = self.database.renew(report, self.lease);
        let renewed = timeout(limit, renewing).await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable("it did not respond in time".to_owned()))
        });
        self.database.set_down(matches!(renewed, Err(StoreError::Unavailable(_))));
        self.change_state(|state| match renewed {
            Ok(()) => {
                state.renewed = started;
                state.unbroken_since.get_or_insert(started);
            }
            Err(StoreError::Fenced) => state.is_fenced = true,
            Err(_) => state.unbroken_since = None,
        });
        Some(renewed)
    }

    /// Ends the lease, which is not renewed any more.
    pub async fn leave(&self) -> Result<(), StoreError> {
        *self.left.lock().await = true;
        self.database.leave().await
    }

    /// Returns the nodes that have an image of this name.
    pub async fn nodes_with_image(&self, name: &str) -> Result<Vec<String>, StoreError> {
        // The built-in images are on every node, and an invalid name is refused later.
        if name == HOST || InterpreterImage::named(name).is_some() {
            return Ok(Vec::new());
        }
        let Ok(reference) = name.parse::<Reference>() else { return Ok(Vec::new()) };
        self.database.nodes_with_image(&reference.to_string()).await
    }

    /// Reads the nodes again after one has refused a run: others may have filled it since the last
    /// renewal, and more nodes with it.
    pub async fn reread_nodes(&self) {
        let mut reread = self.reread.lock().await;
        if reread.is_some_and(|at| at.elapsed() < REREAD_INTERVAL) {
            return;
        }
        match self.database.nodes().await {
            Ok(nodes) => self.set_nodes(nodes),
            Err(error) => tracing::warn!(%error, "cannot read the nodes of the cluster"),
        }
        *reread = Some(Instant::now());
    }

    /// Chooses a node for a new run, among those that are not excluded.
    pub async fn place(&self, needs: &Needs<'_>, excluded: &[String]) -> Option<NodeRow> {
        let random = |below: usize| {
            let mut bytes = [0; 8];
            // Without random numbers the first nodes are compared.
            let _ = getrandom::fill(&mut bytes);
            usize::try_from(u64::from_ne_bytes(bytes) % below.max(1) as u64).unwrap_or(0)
        };
        self.place_by(CANDIDATES, needs, excluded, random).await
    }

    /// Chooses a node as [`Self::place`] does, the best of `count` nodes. `random` returns a number
    /// below its argument.
    pub async fn place_by(
        &self,
        count: usize,
        needs: &Needs<'_>,
        excluded: &[String],
        mut random: impl FnMut(usize) -> usize,
    ) -> Option<NodeRow> {
        for _ in 0..MAX_DRAWS {
            let drawn = self.draw(count, needs, excluded, &mut random);
            if drawn.is_empty() {
                return None;
            }
            // Between two renewals others have placed runs there, too. One node needs no
            // comparison.
            if drawn.len() > 1 {
                match self.database.open_runs_of(&drawn).await {
                    Ok(runs) => self.runs().extend(runs),
                    Err(error) => tracing::debug!(%error, "cannot read the runs of nodes"),
                }
            }
            if let Some(chosen) = self.best_of(&drawn, needs) {
                return Some(chosen);
            }
        }
        None
    }

    fn draw(
        &self,
        count: usize,
        needs: &Needs<'_>,
        excluded: &[String],
        random: impl FnMut(usize) -> usize,
    ) -> Vec<String> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let known = Known { nodes: &nodes, runs: &self.runs(), own: self.node.as_str() };
        let drawn = placement::draw(known, count, needs, excluded, random);
        drawn.into_iter().map(str::to_owned).collect()
    }

    /// Returns the best of some nodes, and counts a run that is placed there.
    fn best_of(&self, drawn: &[String], needs: &Needs<'_>) -> Option<NodeRow> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let mut runs = self.runs();
        let known = Known { nodes: &nodes, runs: &runs, own: self.node.as_str() };
        let best = placement::best_of(known, drawn, needs)?.clone();
        *runs.entry(best.id.clone()).or_insert(best.runs) += 1;
        Some(best)
    }
}
