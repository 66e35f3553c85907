//! Forgets runs that are long gone, and their audit logs.

use std::{sync::Weak, time::Duration};

use super::{Server, config::ServerLimits};
use crate::{
    clock,
    store::{Store, StoreError},
};

/// How often old runs are looked for.
const INTERVAL: Duration = Duration::from_secs(600);

/// Runs that are forgotten in one transaction.
const BATCH: u32 = 100;

/// Between two transactions, so that others get their turn.
const PAUSE: Duration = Duration::from_millis(50);

/// Forgets old runs now and then, for as long as the server lives.
pub async fn forget_old(server: Weak<Server>) {
    loop {
        let Some((store, limits, stopping)) = server
            .upgrade()
            .map(|app| (app.store.clone(), app.config.limits.server.clone(), app.stopping.clone()))
        else {
            return;
        };
        if let Err(error) = forget(&store, &limits).await {
            tracing::error!(%error, "cannot forget old runs");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stopping.cancelled() => return,
        }
    }
}

async fn forget(store: &Store, limits: &ServerLimits) -> Result<(), StoreError> {
    let age = i64::try_from(limits.history_age.as_millis()).unwrap_or(i64::MAX);
    let moment = clock::now_ms().saturating_sub(age);
    while store.forget_runs_before(moment, BATCH).await? > 0 {
        tokio::time::sleep(PAUSE).await;
    }
    for tenant in store.tenants_with_history().await? {
        let beyond = || store.forget_runs_beyond(tenant.clone(), limits.history_runs, BATCH);
        while beyond().await? > 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{AuditLog, Event},
        id::RunId,
        secret::Secret,
        store::Ending,
    };

    #[tokio::test]
    async fn old_runs_and_those_over_the_number_go_with_their_logs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let secret = Secret::open(folder.path()).unwrap();
        let now = clock::now_ms();
        let mut runs: Vec<(i64, RunId)> = Vec::new();
        for days in [400, 366, 364, 3, 2, 1] {
            let run = crate::store::sample_run("me");
            store.add_run(run.clone()).await.unwrap();
            let log = AuditLog::new(run.id.clone(), store.clone(), secret.clone());
            log.append(Event::Destroyed, "x".repeat(998)).await.unwrap();
            let ending = Ending {
                reason: String::new(),
                destroyed_at: now - days * 86_400_000,
                cpu_ms: 1000,
                mem_peak_bytes: 0,
                disk_used_bytes: 0,
            };
            store.end_run(&run.id, ending).await.unwrap();
            runs.push((days, run.id));
        }
        assert_eq!(store.stored_bytes().await.unwrap()["me"], 6 * 1256);
        let limits = ServerLimits { history_runs: 2, ..ServerLimits::default() };
        forget(&store, &ServerLimits { history_runs: 100, ..limits.clone() }).await.unwrap();
        assert_eq!(store.history("me", None, 10).await.unwrap().len(), 4);
        forget(&store, &limits).await.unwrap();
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
