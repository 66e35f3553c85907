//! Deletion of destroyed runs and their audit logs after the retention period.

use std::{sync::Weak, time::Duration};

use super::Core;
use crate::{
    clock,
    config::ServerLimits,
    store::{Store, StoreError},
};

/// The interval between deletions.
const INTERVAL: Duration = Duration::from_secs(600);

/// The number of runs that are deleted in one transaction.
const MAX_RUNS_PER_BATCH: u32 = 100;

/// The pause between two transactions, so that other changes are not delayed.
const BATCH_PAUSE: Duration = Duration::from_millis(50);

/// Periodically deletes expired runs, until the server stops.
pub async fn run(core: Weak<Core>) {
    loop {
        let Some((store, limits, stopping)) = core.upgrade().map(|core| {
            (core.store.clone(), core.config.limits.server.clone(), core.stopping.clone())
        }) else {
            return;
        };
        if let Err(error) = take_turn(&store, &limits).await {
            tracing::error!(%error, "cannot delete expired runs");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stopping.cancelled() => return,
        }
    }
}

/// Deletes expired runs, unless another node of the cluster has begun to in this interval.
async fn take_turn(store: &Store, limits: &ServerLimits) -> Result<(), StoreError> {
    if store.take_history_turn(INTERVAL).await? {
        delete_expired(store, limits).await?;
    }
    Ok(())
}

async fn delete_expired(store: &Store, limits: &ServerLimits) -> Result<(), StoreError> {
    let age = i64::try_from(limits.history_age.as_millis()).unwrap_or(i64::MAX);
    let before = clock::now_ms().saturating_sub(age);
    while store.delete_runs_before(before, MAX_RUNS_PER_BATCH).await? > 0 {
        tokio::time::sleep(BATCH_PAUSE).await;
    }
    for tenant in store.tenants_with_history().await? {
        let delete_excess =
            || store.delete_runs_beyond(tenant.clone(), limits.history_runs, MAX_RUNS_PER_BATCH);
        while delete_excess().await? > 0 {
            tokio::time::sleep(BATCH_PAUSE).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        secret::Secret,
        store::{AuditLog, Ending, Event},
    };
    use isorun_api::RunId;

    #[tokio::test]
    async fn expired_runs_are_deleted_with_their_logs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let secret = Secret::open(dir.path()).unwrap();
        let now = clock::now_ms();
        let mut runs: Vec<(i64, RunId)> = Vec::new();
        for days in [400, 366, 364, 3, 2, 1] {
            let run = crate::store::sample_run("me");
            store.add_run(run.clone()).await.unwrap();
            let log = AuditLog::new(run.id.clone(), store.clone(), secret.clone());
            let ending = Ending {
                reason: String::new(),
                destroyed_at: now - days * 86_400_000,
                cpu_ms: 1000,
                mem_peak_bytes: 0,
                disk_used_bytes: 0,
            };
            log.finish(Event::Destroyed, "x".repeat(998), ending).await.unwrap();
            runs.push((days, run.id));
        }
        assert_eq!(store.stored_bytes().await.unwrap()["me"], 6 * 1256);
        let limits = ServerLimits { history_runs: 2, ..ServerLimits::default() };
        delete_expired(&store, &ServerLimits { history_runs: 100, ..limits.clone() })
            .await
            .unwrap();
        assert_eq!(store.history("me", None, 10).await.unwrap().len(), 4);
        delete_expired(&store, &limits).await.unwrap();
        let left = store.history("me", None, 10).await.unwrap();
        let left: Vec<_> = left.into_iter().map(|run| run.id).collect();
        assert_eq!(left, [runs[5].1.clone(), runs[4].1.clone()]);
        for (days, id) in runs {
            let logged = !store.audit(&id, 0, 10).await.unwrap().is_empty();
            assert_eq!(logged, days <= 2, "{days}");
        }
        assert_eq!(store.stored_bytes().await.unwrap()["me"], 2 * 1256);
        assert_eq!(store.past_usage("me").await.unwrap().cpu_seconds, 6.0);
    }
}
