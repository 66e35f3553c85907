//! What a node does after each renewal for the cluster: it reads what the others report,
//! declares those dead whose leases have expired, and records the end of their runs.

use serde_json::json;

use super::Cluster;
use crate::{
    clock,
    secret::Secret,
    store::{Event, LostRun, StoreError, following_entry},
};

/// The number of lost runs that are recorded at a time.
const LOST_RUNS_PER_BATCH: u32 = 50;

impl Cluster {
    /// Reads what the other nodes report, and handles those that are dead. Calls `on_lost` for
    /// each run whose end this node has recorded.
    pub async fn survey(
        &self,
        secret: &Secret,
        mut on_lost: impl FnMut(&LostRun),
    ) -> Result<(), StoreError> {
        let database = &self.database;
        let nodes = database.nodes().await?;
        let (mut is_one_away, mut has_lost_runs) = (false, false);
        for node in nodes.iter().filter(|node| !node.is_alive) {
            is_one_away = true;
            has_lost_runs |= node.runs > 0;
        }
        self.set_nodes(nodes);
        // After the database was away, the leases of all nodes have expired. They get as much
        // time to renew them as they have without that.
        let grace = self.lease / 2;
        if !is_one_away || self.unbroken_time() <= self.lease + grace {
            return Ok(());
        }
        for node in database.declare_dead(grace).await? {
            tracing::warn!(node, "a node of the cluster is dead: its lease has expired");
        }
        // One node at a time, since all would find the same runs.
        if !has_lost_runs || !database.take_loss_turn(self.renewal_interval()).await? {
            return Ok(());
        }
        database.delete_unfinished_runs().await?;
        loop {
            let lost = database.lost_runs(LOST_RUNS_PER_BATCH).await?;
            for run in &lost {
                let reason = format!("lost: its node, {}, stopped responding", run.node);
                let data = json!({ "node": run.node, "reason": reason });
                let entry = following_entry(secret, &run.id, &run.log, Event::Lost, data);
                if database.end_lost_run(run, &reason, clock::now_ms(), entry).await? {
                    on_lost(run);
                }
            }
            if lost.len() < LOST_RUNS_PER_BATCH as usize {
                return Ok(());
            }
        }
    }
}
