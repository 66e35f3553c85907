//! The tests that every database has to pass.

use isorun_api::{OnIdle, RunId, Status};
use isorun_blobs::TreeId;
use serde_json::json;
use test_support::PostgresServer;

use super::{
    AuditLog, ClusterLimit, Ending, Event, KeyRow, News, NodeReport, Postgres, ResourceUsage,
    RunRow, SnapshotRow, Store, StoreError, Upload, Verifier, following_entry, sample_ending,
    sample_run,
};
use crate::secret::Secret;

/// Defines each test once for each database.
macro_rules! on_each_database {
    ($($name:ident)*) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    let dir = tempfile::tempdir().unwrap();
                    super::$name(super::Store::open(dir.path()).unwrap()).await;
                }
            )*
        }

        mod postgres {
            $(
                #[tokio::test]
                async fn $name() {
                    let server = super::PostgresServer::shared();
                    let node = super::joined(&server.database(), "node1").await;
                    super::$name(node.into()).await;
                }
            )*
        }
    };
}

on_each_database! {
    a_run_is_recorded_from_creation_to_end
    a_run_is_hibernated_and_resumed_in_generations
    settings_of_a_run_can_change
    an_unfinished_run_is_deleted
    history_is_paged_and_deleted_while_usage_is_kept
    keys_are_added_and_revoked_once
    snapshots_keep_the_settings_of_their_run
    audit_logs_are_chained_and_paged
    an_audit_entry_is_never_overwritten
    images_are_recorded_with_the_tenant_that_pulled_them_last
    unusual_texts_are_kept
    concurrent_changes_are_all_kept
    a_run_ends_once_with_the_last_entry_of_its_log
}

/// Joins a database as a node.
pub async fn joined(url: &str, node: &str) -> Postgres {
    let database = Postgres::connect(&url.parse().unwrap(), None).await.unwrap();
    let report = NodeReport {
        url: format!("https://{node}.example"),
        max_sandboxes: 1000,
        max_tenant_runs: 100,
        max_tenant_snapshots: 100,
        ..NodeReport::default()
    };
    database.join(node, &report, std::time::Duration::from_secs(60)).await.unwrap();
    database
}

/// Ends a run.
async fn end(store: &Store, id: &RunId, ending: Ending) {
    let secret = Secret::from_bytes([7; 32]);
    let log = store.audit_end(id).await.unwrap();
    let last_entry = following_entry(&secret, id, &log, Event::Destroyed, ());
    store.end_run(id, ending, last_entry).await.unwrap();
}

fn row(tenant: &str, status: Status) -> RunRow {
    RunRow { status, ..sample_run(tenant) }
}

async fn a_run_is_recorded_from_creation_to_end(store: Store) {
    let (mine, foreign) = (row("me", Status::Creating), row("them", Status::Running));
    store.add_run(mine.clone()).await.unwrap();
    store.add_run(foreign.clone()).await.unwrap();
    store.run_started(&mine.id, 25).await.unwrap();
    let found = store.run(&mine.id).await.unwrap().unwrap();
    assert_eq!((found.status, found.create_ms), (Status::Running, 25));
    assert_eq!(store.open_runs().await.unwrap().len(), 2);
    let ending = Ending {
        reason: "idle".to_owned(),
        destroyed_at: 3_000,
        cpu_ms: 500,
        mem_peak_bytes: 1 << 40,
        disk_used_bytes: 9,
    };
    end(&store, &mine.id, ending).await;
    assert_eq!(store.open_runs().await.unwrap().len(), 1);
    let past = store.history("me", None, 10).await.unwrap();
    assert_eq!((past[0].uptime_ms, past[0].mem_peak_bytes), (2_000, 1 << 40));
    assert!(store.history("them", None, 10).await.unwrap().is_empty());
    let usage = store.past_usage("me").await.unwrap();
    assert_eq!((usage.history_sandboxes, usage.cpu_seconds, usage.mem_seconds), (1, 0.5, 2.0));
}

/// A destruction whose outcome is not known is repeated, also by a later server process.
async fn a_run_ends_once_with_the_last_entry_of_its_log(store: Store) {
    let secret = Secret::from_bytes([7; 32]);
    let run = row("me", Status::Running);
    store.add_run(run.clone()).await.unwrap();
    let log = AuditLog::new(run.id.clone(), store.clone(), secret.clone());
    log.append(Event::Created, 0).await.unwrap();
    log.finish(Event::Destroyed, 1, sample_ending(1_000)).await.unwrap();
    log.finish(Event::Destroyed, 2, sample_ending(2_000)).await.unwrap();
    let reopened = AuditLog::reopen(run.id.clone(), store.clone(), secret.clone());
    reopened.finish(Event::Destroyed, 3, sample_ending(3_000)).await.unwrap();
    let entries = store.audit(&run.id, 0, 10).await.unwrap();
    assert_eq!(entries.iter().map(|entry| &*entry.data).collect::<Vec<_>>(), ["0", "1"]);
    let mut verifier = Verifier::new(secret);
    entries.iter().for_each(|entry| verifier.check(entry).unwrap());
    verifier.check_complete(run.id.as_str()).unwrap();
    assert_eq!(store.run(&run.id).await.unwrap().unwrap().destroyed_at, Some(1_000));
    assert_eq!(store.stored_bytes().await.unwrap()["me"], 2 * 257);
}

async fn ended(store: &Store, tenant: &str, at: i64) -> RunId {
    let run = row(tenant, Status::Running);
    store.add_run(run.clone()).await.unwrap();
    let ending = Ending {
        reason: "idle".to_owned(),
        destroyed_at: at,
        cpu_ms: 2_000,
        mem_peak_bytes: 0,
        disk_used_bytes: 0,
    };
    end(store, &run.id, ending).await;
    run.id
}

async fn history_is_paged_and_deleted_while_usage_is_kept(store: Store) {
    let mut ids = Vec::new();
    for number in 0..10_i64 {
        // Several end at the same time.
        ids.push((2_000 + number / 3, ended(&store, "me", 2_000 + number / 3).await));
    }
    ended(&store, "them", 1_500).await;
    ids.sort();
    ids.reverse();
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = store.history("me", before.clone(), 4).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id.clone());
        seen.extend(page.into_iter().map(|run| run.id));
    }
    assert_eq!(seen, ids.iter().map(|(_, id)| id.clone()).collect::<Vec<_>>());
    let foreign = store.history("me", Some(ended(&store, "them", 9_000).await), 4).await;
    assert!(foreign.unwrap().is_empty(), "a page cannot start at a run of another tenant");

    let usage = store.past_usage("me").await.unwrap();
    assert_eq!((usage.history_sandboxes, usage.cpu_seconds), (10, 20.0));
    assert_eq!(store.delete_runs_before(2_001, 2).await.unwrap(), 2);
    assert_eq!(store.delete_runs_before(2_001, 100).await.unwrap(), 2, "one was of `them`");
    assert_eq!(store.delete_runs_beyond("me".to_owned(), 4, 100).await.unwrap(), 3);
    assert_eq!(store.delete_runs_beyond("me".to_owned(), 4, 100).await.unwrap(), 0);
    let left = store.history("me", None, 100).await.unwrap();
    assert_eq!(
        left.iter().map(|run| &run.id).collect::<Vec<_>>(),
        seen[..4].iter().collect::<Vec<_>>()
    );
    assert_eq!(store.stored_bytes().await.unwrap().get("me"), Some(&(4 * 260)));
    let after = store.past_usage("me").await.unwrap();
    assert_eq!((after.history_sandboxes, after.cpu_seconds), (10, 20.0));
}

async fn a_run_is_hibernated_and_resumed_in_generations(store: Store) {
    let run = row("me", Status::Creating);
    store.add_run(run.clone()).await.unwrap();
    store.run_started(&run.id, 5).await.unwrap();
    assert_eq!(store.generation(&run.id).await.unwrap(), 0);
    assert_eq!(store.next_generation(&run.id).await.unwrap(), 1);
    let used = ResourceUsage { cpu_ms: 3, mem_peak_bytes: 1 << 40, disk_used_bytes: 9 };
    store.run_hibernated(&run.id, None, used).await.unwrap();
    let found = store.run(&run.id).await.unwrap().unwrap();
    assert_eq!((found.status, found.used), (Status::Hibernated, used));
    store.run_resumed(&run.id).await.unwrap();
    assert_eq!(store.generation(&run.id).await.unwrap(), 2);
    // The resume may have failed after it was recorded.
    store.run_hibernated(&run.id, Some(1), used).await.unwrap();
    assert_eq!(store.generation(&run.id).await.unwrap(), 1);
    store.run_resumed(&run.id).await.unwrap();
    assert_eq!(store.next_generation(&run.id).await.unwrap(), 3);
    store.set_run_status(&run.id, Status::Failed).await.unwrap();
    assert_eq!(store.run(&run.id).await.unwrap().unwrap().status, Status::Failed);
}

async fn settings_of_a_run_can_change(store: Store) {
    let run = RunRow { on_idle: OnIdle::Hibernate, auto_resume: true, ..sample_run("me") };
    store.add_run(run.clone()).await.unwrap();
    store.set_run_timeout(&run.id, 1 << 40).await.unwrap();
    store.set_run_network(&run.id, "{}".to_owned()).await.unwrap();
    let found = store.run(&run.id).await.unwrap().unwrap();
    assert_eq!((found.timeout_ms, found.network.as_str()), (1 << 40, "{}"));
    assert_eq!((found.on_idle, found.auto_resume), (OnIdle::Hibernate, true));
    assert_eq!((found.image, found.disk_mib, found.create_ms), (run.image, 10240, 7));
    assert!(store.run(&RunId::random().unwrap()).await.unwrap().is_none());
    assert!(store.runs_elsewhere("me").await.unwrap().is_empty());
    assert!(store.is_reachable().await);
}

async fn an_unfinished_run_is_deleted(store: Store) {
    let run = row("me", Status::Creating);
    store.add_run(run.clone()).await.unwrap();
    assert!(store.add_run(run.clone()).await.is_err(), "an id is used once");
    store.delete_run(&run.id).await.unwrap();
    assert!(store.run(&run.id).await.unwrap().is_none());
    assert_eq!(store.past_usage("me").await.unwrap().history_sandboxes, 0);
}

async fn keys_are_added_and_revoked_once(store: Store) {
    store.add_key(KeyRow::new("k1", "t1", "mine", false)).await.unwrap();
    store.add_key(KeyRow::new("k2", "t1", "operator", true)).await.unwrap();
    assert!(store.add_key(KeyRow::new("k1", "t2", "other", false)).await.is_err());
    let key = store.key("k1").await.unwrap().unwrap();
    assert_eq!((key.tenant.as_str(), key.name.as_str(), key.admin), ("t1", "mine", false));
    assert!(store.revoke_key("k1").await.unwrap());
    assert!(!store.revoke_key("k1").await.unwrap(), "it was revoked before");
    assert!(!store.revoke_key("k3").await.unwrap(), "it does not exist");
    assert!(store.key("k1").await.unwrap().unwrap().revoked_at.is_some());
    assert!(store.key("k3").await.unwrap().is_none());
    let keys = store.keys().await.unwrap();
    assert_eq!(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["k1", "k2"]);
}

fn snapshot(id: &str, run: &RunRow, size_bytes: u64) -> SnapshotRow {
    let (run_id, settings) = (run.id.to_string(), run.settings());
    SnapshotRow { id: id.to_owned(), run_id, settings, size_bytes, created_at: 5 }
}

async fn snapshots_keep_the_settings_of_their_run(store: Store) {
    let run = row("me", Status::Running);
    for (id, run) in [("snap1", &run), ("snap2", &run), ("snap3", &row("you", Status::Running))] {
        store.add_snapshot(snapshot(id, run, 1 << 33)).await.unwrap();
    }
    let found = store.snapshot("snap1").await.unwrap().unwrap();
    assert_eq!((found.run_id, found.size_bytes), (run.id.to_string(), 1 << 33));
    assert_eq!((found.settings.mem_mib, found.settings.defaults.as_str()), (1024, "{}"));
    let ids = async |tenant| {
        let found = store.snapshots(tenant).await.unwrap();
        found.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(Some("me")).await, ["snap1", "snap2"]);
    assert_eq!(ids(None).await.len(), 3);
    assert_eq!(store.snapshots_here().await.unwrap().len(), 3);
    assert_eq!(store.stored_bytes().await.unwrap()["me"], 1 << 34);
    store.delete_snapshot("snap1").await.unwrap();
    assert!(store.snapshot("snap1").await.unwrap().is_none());
    assert_eq!(ids(Some("me")).await, ["snap2"]);
}

async fn audit_logs_are_chained_and_paged(store: Store) {
    let secret = Secret::from_bytes([7; 32]);
    let run = row("me", Status::Running);
    store.add_run(run.clone()).await.unwrap();
    let log = AuditLog::new(run.id.clone(), store.clone(), secret.clone());
    for number in 0..5 {
        log.append(Event::ExecStart, json!({ "number": number })).await.unwrap();
    }
    let reopened = AuditLog::reopen(run.id.clone(), store.clone(), secret.clone());
    reopened.append(Event::Destroyed, json!({})).await.unwrap();
    let mut verifier = Verifier::new(secret);
    let mut after = 0;
    loop {
        let page = store.audit(&run.id, after, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.seq;
        page.iter().for_each(|row| verifier.check(row).unwrap());
    }
    verifier.check_complete(run.id.as_str()).unwrap();
    assert_eq!(verifier.entries(), 6);
    let audited = store.audited_runs().await.unwrap();
    assert_eq!(audited, [(run.id.to_string(), false)]);
    let bytes = store.stored_bytes().await.unwrap()["me"];
    assert_eq!(bytes, 6 * 256 + 5 * 12 + 2);
}

async fn an_audit_entry_is_never_overwritten(store: Store) {
    let run = row("me", Status::Running);
    store.add_run(run.clone()).await.unwrap();
    let secret = Secret::from_bytes([7; 32]);
    let one = AuditLog::new(run.id.clone(), store.clone(), secret.clone());
    let other = AuditLog::new(run.id.clone(), store.clone(), secret);
    one.append(Event::Created, 1).await.unwrap();
    assert!(other.append(Event::Created, 2).await.is_err(), "the number is in use");
    // Its end is read again after the failure.
    other.append(Event::Created, 3).await.unwrap();
    let data: Vec<_> = store.audit(&run.id, 0, 9).await.unwrap();
    let data: Vec<_> = data.iter().map(|row| (row.seq, row.data.as_str())).collect();
    assert_eq!(data, [(1, "1"), (2, "3")]);
}

async fn images_are_recorded_with_the_tenant_that_pulled_them_last(store: Store) {
    store.add_pulled_image("me", "sha256:1", 10).await.unwrap();
    store.add_pulled_image("you", "sha256:2", 1 << 40).await.unwrap();
    store.add_pulled_image("you", "sha256:1", 10).await.unwrap();
    let mut images = store.pulled_images().await.unwrap();
    images.sort();
    let image = |digest: &str, bytes| ("you".to_owned(), digest.to_owned(), bytes);
    assert_eq!(images, [image("sha256:1", 10), image("sha256:2", 1 << 40)]);
}

async fn unusual_texts_are_kept(store: Store) {
    let text = "'; DROP TABLE runs; -- \u{1f600} \\ \" \n $1 \u{ffff}";
    let mut run = row(text, Status::Running);
    run.image = text.to_owned();
    store.add_run(run.clone()).await.unwrap();
    let found = store.run(&run.id).await.unwrap().unwrap();
    assert_eq!((found.image.as_str(), found.tenant.as_str()), (text, text));
    store.add_key(KeyRow::new(text, text, text, false)).await.unwrap();
    assert_eq!(store.key(text).await.unwrap().unwrap().name, text);
    let huge = RunRow { timeout_ms: i64::MAX as u64, ..row("me", Status::Running) };
    store.add_run(huge.clone()).await.unwrap();
    assert_eq!(store.run(&huge.id).await.unwrap().unwrap().timeout_ms, i64::MAX as u64);
}

async fn concurrent_changes_are_all_kept(store: Store) {
    let secret = Secret::from_bytes([7; 32]);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..60_u64 {
        let (store, secret) = (store.clone(), secret.clone());
        tasks.spawn(async move {
            let run = row(["a", "b", "c"][number as usize % 3], Status::Creating);
            store.add_run(run.clone()).await.unwrap();
            store.run_started(&run.id, number).await.unwrap();
            let log = AuditLog::new(run.id.clone(), store.clone(), secret);
            log.append(Event::Created, number).await.unwrap();
            if number % 2 == 0 {
                log.finish(Event::Destroyed, number, sample_ending(2_000)).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(store.open_runs().await.unwrap().len(), 30);
    for tenant in ["a", "b", "c"] {
        assert_eq!(store.past_usage(tenant).await.unwrap().history_sandboxes, 10, "{tenant}");
        assert_eq!(store.stored_bytes().await.unwrap()[tenant], 30 * 256 + count(tenant));
    }
}

/// Returns the bytes of the numbers in the logs of `concurrent_changes_are_all_kept`.
fn count(tenant: &str) -> u64 {
    let at = ["a", "b", "c"].iter().position(|name| *name == tenant).unwrap() as u64;
    let numbers = (0..60_u64).filter(|number| number % 3 == at);
    numbers.map(|number| number.to_string().len() as u64 * (2 - number % 2)).sum()
}

/// What only a database of several nodes has.
mod cluster {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn changes_of_a_node_that_was_declared_dead_have_no_effect() {
        let server = PostgresServer::shared();
        let url = server.database();
        let (one, two) = (joined(&url, "node1").await, joined(&url, "node2").await);
        let (store, run) = (Store::from(one.clone()), row("me", Status::Running));
        store.add_run(run.clone()).await.unwrap();
        assert!(two.declare_dead(Duration::ZERO).await.unwrap().is_empty(), "its lease is valid");
        one.renew(&NodeReport::default(), Duration::ZERO).await.unwrap();
        assert_eq!(two.declare_dead(Duration::ZERO).await.unwrap(), ["node1"]);
        let fenced = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Fenced));
        assert!(fenced(one.renew(&NodeReport::default(), Duration::from_secs(9)).await));
        assert!(fenced(store.set_run_status(&run.id, Status::Failed).await));
        assert!(fenced(store.add_run(row("me", Status::Creating)).await));
        assert!(fenced(store.add_snapshot(snapshot("snap1", &run, 1)).await));
        let log = AuditLog::new(run.id.clone(), store.clone(), Secret::from_bytes([7; 32]));
        assert!(fenced(log.append(Event::ExecStart, ()).await));
        assert_eq!(store.run(&run.id).await.unwrap().unwrap().status, Status::Running);
        assert!(store.audit(&run.id, 0, 9).await.unwrap().is_empty());
        // It joins again, with a new epoch.
        let again = joined(&url, "node1").await;
        Store::from(again).set_run_status(&run.id, Status::Failed).await.unwrap();
    }

    #[tokio::test]
    async fn a_run_is_changed_by_its_node_only() {
        let server = PostgresServer::shared();
        let url = server.database();
        let one = Store::from(joined(&url, "node1").await);
        let two = Store::from(joined(&url, "node2").await);
        let run = row("me", Status::Running);
        one.add_run(run.clone()).await.unwrap();
        let moved = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Moved));
        assert!(moved(two.set_run_timeout(&run.id, 5).await));
        assert!(moved(two.run_resumed(&run.id).await));
        let log = AuditLog::new(run.id.clone(), two.clone(), Secret::from_bytes([7; 32]));
        assert!(moved(log.append(Event::ExecStart, ()).await));
        two.delete_run(&run.id).await.unwrap();
        assert!(two.run(&run.id).await.unwrap().is_some());
        assert!(two.open_runs().await.unwrap().is_empty());
        assert_eq!(two.runs_elsewhere("me").await.unwrap().len(), 1);
        assert!(two.runs_elsewhere("you").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn limits_hold_for_all_nodes_together() {
        let server = PostgresServer::shared();
        let url = server.database();
        let mut nodes = Vec::new();
        for name in ["node1", "node2", "node3"] {
            let node = Postgres::connect(&url.parse().unwrap(), None).await.unwrap();
            let report = NodeReport {
                max_sandboxes: 8,
                max_tenant_runs: 10,
                max_tenant_snapshots: 2,
                ..NodeReport::default()
            };
            node.join(name, &report, Duration::from_secs(60)).await.unwrap();
            nodes.push(Store::from(node));
        }
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..60 {
            let store = nodes[number % 3].clone();
            let tenant = ["a", "b"][number / 3 % 2];
            tasks.spawn(async move { store.add_run(row(tenant, Status::Creating)).await });
        }
        let (mut added, mut limits) = (0, Vec::new());
        for outcome in tasks.join_all().await {
            match outcome {
                Ok(()) => added += 1,
                Err(StoreError::Limit(limit)) => limits.push(limit),
                Err(error) => panic!("{error}"),
            }
        }
        // Two tenants have 10 runs each at most, and three nodes 8 each.
        assert_eq!(added, 20);
        let counter = Postgres::connect(&url.parse().unwrap(), None).await.unwrap();
        assert_eq!(open_runs_of_nodes(&server, &url, &counter).await.iter().sum::<u64>(), 20);
        assert!(limits.contains(&ClusterLimit::TenantRuns));
        for (at, node) in nodes.iter().enumerate() {
            assert!(node.open_runs().await.unwrap().len() <= 8, "{at}");
        }
        let run = row("a", Status::Running);
        for (id, node) in [("snap1", &nodes[0]), ("snap2", &nodes[1])] {
            node.add_snapshot(snapshot(id, &run, 1)).await.unwrap();
        }
        let refused = nodes[2].add_snapshot(snapshot("snap3", &run, 1)).await;
        assert!(matches!(refused, Err(StoreError::Limit(ClusterLimit::TenantSnapshots))));
    }

    #[tokio::test]
    async fn runs_of_a_dead_node_end_once_and_hibernated_ones_stay() {
        let server = PostgresServer::shared();
        let url = server.database();
        let secret = Secret::from_bytes([7; 32]);
        let one = joined(&url, "node1").await;
        let store = Store::from(one.clone());
        let mut runs = Vec::new();
        for status in [Status::Running, Status::Failed, Status::Hibernated, Status::Creating] {
            let run = row("me", status);
            store.add_run(run.clone()).await.unwrap();
            let log = AuditLog::new(run.id.clone(), store.clone(), secret.clone());
            log.append(Event::Created, ()).await.unwrap();
            runs.push(run.id);
        }
        let others = [joined(&url, "node2").await, joined(&url, "node3").await];
        one.renew(&NodeReport::default(), Duration::ZERO).await.unwrap();
        assert!(others[0].lost_runs(9).await.unwrap().is_empty());
        others[0].declare_dead(Duration::ZERO).await.unwrap();
        others[0].delete_unfinished_runs().await.unwrap();
        let lost = [others[0].lost_runs(9).await.unwrap(), others[1].lost_runs(9).await.unwrap()];
        assert_eq!(lost[0].len(), 2);
        let mut ended = 0;
        for (node, lost) in others.iter().zip(lost) {
            for run in lost {
                let entry = following_entry(
                    &secret,
                    &run.id,
                    &run.log,
                    Event::Lost,
                    json!({ "node": run.node }),
                );
                ended += i32::from(node.end_lost_run(&run, "lost", 9_000, entry).await.unwrap());
            }
        }
        assert_eq!(ended, 2, "each once");
        for (id, status, entries) in [
            (&runs[0], Some(Status::Destroyed), 2),
            (&runs[1], Some(Status::Destroyed), 2),
            (&runs[2], Some(Status::Hibernated), 1),
            (&runs[3], None, 0),
        ] {
            assert_eq!(store.run(id).await.unwrap().map(|run| run.status), status);
            let log = store.audit(id, 0, 9).await.unwrap();
            assert_eq!(log.len(), entries);
            let mut verifier = Verifier::new(secret.clone());
            log.iter().for_each(|row| verifier.check(row).unwrap());
            let complete = verifier.check_complete(id.as_str()).is_ok();
            assert_eq!(complete, status == Some(Status::Destroyed));
        }
        assert_eq!(store.past_usage("me").await.unwrap().history_sandboxes, 2);
        assert!(!others[1].remove_node("node1").await.unwrap(), "it has a hibernated run");
        assert!(!others[1].remove_node("node2").await.unwrap(), "it is alive");
        let owner = others[0].run_owner(&runs[2]).await.unwrap().unwrap();
        assert_eq!((owner.node.as_str(), owner.is_dead), ("node1", true));
        assert_eq!(owner.status, Some(Status::Hibernated));
    }

    /// The numbers of open runs that are wrong.
    const WRONG_COUNTERS: &str = "
        SET search_path = isorun;
        SELECT node, open, counted FROM node_runs FULL JOIN (
            SELECT node, COUNT(*) AS counted FROM runs WHERE destroyed_at IS NULL GROUP BY node
        ) AS counts USING (node) WHERE COALESCE(open, 0) <> COALESCE(counted, 0)
        UNION ALL SELECT tenant, open, counted FROM tenant_runs FULL JOIN (
            SELECT tenant, COUNT(*) AS counted FROM runs WHERE destroyed_at IS NULL GROUP BY tenant
        ) AS counts USING (tenant) WHERE COALESCE(open, 0) <> COALESCE(counted, 0)";

    /// Checks the numbers of open runs that the database keeps, of nodes and of tenants. Returns
    /// those of the nodes.
    async fn open_runs_of_nodes(server: &PostgresServer, url: &str, node: &Postgres) -> Vec<u64> {
        let wrong = server.psql(url.rsplit_once('/').unwrap().1, WRONG_COUNTERS).unwrap();
        assert_eq!(wrong, "", "the number that is kept, and that of the rows");
        node.nodes().await.unwrap().iter().map(|node| node.runs).collect()
    }

    async fn added(store: &Store, tenant: &str, status: Status) -> RunId {
        let run = row(tenant, status);
        store.add_run(run.clone()).await.unwrap();
        run.id
    }

    #[tokio::test]
    async fn open_runs_are_counted_through_every_change() {
        let server = PostgresServer::shared();
        let url = server.database();
        let (one, two) = (joined(&url, "node1").await, joined(&url, "node2").await);
        let (here, there) = (Store::from(one.clone()), Store::from(two.clone()));
        let open = || open_runs_of_nodes(&server, &url, &two);
        assert_eq!(open().await, [0, 0]);
        let mut runs = Vec::new();
        for tenant in ["a", "b", "c", "a"] {
            runs.push(added(&here, tenant, Status::Running).await);
        }
        runs.push(added(&there, "b", Status::Running).await);
        assert_eq!(open().await, [4, 1]);
        // What is refused does not count: an id that is in use, and what another node adds.
        let again = RunRow { id: runs[0].clone(), ..row("z", Status::Creating) };
        assert!(here.add_run(again).await.is_err());
        there.delete_run(&runs[0]).await.unwrap();
        assert_eq!(open().await, [4, 1]);
        here.delete_run(&runs[0]).await.unwrap();
        end(&here, &runs[1], sample_ending(2_000)).await;
        assert_eq!(open().await, [2, 1]);
        // It ends once, and is deleted from the history.
        end(&here, &runs[1], sample_ending(3_000)).await;
        assert_eq!(there.delete_runs_before(9_000, 9).await.unwrap(), 1);
        here.set_run_status(&runs[2], Status::Failed).await.unwrap();
        assert_eq!(open().await, [2, 1]);

        // A node takes over a hibernated run.
        let tree: TreeId = format!("tree{}", "7".repeat(32)).parse().unwrap();
        let generation = here.next_generation(&runs[3]).await.unwrap();
        here.run_hibernated(&runs[3], None, ResourceUsage::default()).await.unwrap();
        let checkpoint = Upload::Run { id: runs[3].clone(), generation };
        let pending = one.pending_uploads(9).await.unwrap();
        assert_eq!(pending, [(checkpoint.clone(), "a".to_owned())]);
        assert!(one.record_tree(&checkpoint, tree).await.unwrap());
        assert!(one.pending_uploads(9).await.unwrap().is_empty());
        assert!(!two.claim_run(&runs[3], tree).await.unwrap(), "its node is up");
        assert!(one.set_draining("node1", true).await.unwrap());
        assert!(two.claim_run(&runs[3], tree).await.unwrap());
        assert_eq!(open().await, [1, 2]);

        // A node dies, with runs of several tenants that were not created yet.
        for tenant in ["c", "a", "b", "a"] {
            added(&here, tenant, Status::Creating).await;
        }
        assert_eq!(open().await, [5, 2]);
        one.renew(&NodeReport::default(), Duration::ZERO).await.unwrap();
        assert_eq!(two.declare_dead(Duration::ZERO).await.unwrap(), ["node1"]);
        two.delete_unfinished_runs().await.unwrap();
        assert_eq!(open().await, [1, 2]);
        let secret = Secret::from_bytes([7; 32]);
        for lost in two.lost_runs(9).await.unwrap() {
            let entry = following_entry(&secret, &lost.id, &lost.log, Event::Lost, ());
            assert!(two.end_lost_run(&lost, "lost", 9_000, entry).await.unwrap());
        }
        assert_eq!(open().await, [0, 2]);
    }

    #[tokio::test]
    async fn open_runs_are_counted_when_all_nodes_change_them_at_once() {
        let server = PostgresServer::shared();
        let url = server.database();
        let mut nodes = Vec::new();
        for name in ["node1", "node2", "node3"] {
            nodes.push(joined(&url, name).await);
        }
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..90 {
            let store = Store::from(nodes[number % 3].clone());
            tasks.spawn(async move {
                let id = added(&store, ["a", "b"][number / 3 % 2], Status::Creating).await;
                match number % 5 {
                    0 => store.delete_run(&id).await.unwrap(),
                    1 | 2 => end(&store, &id, sample_ending(2_000)).await,
                    _ => {}
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(open_runs_of_nodes(&server, &url, &nodes[0]).await, [12, 12, 12]);
    }

    #[tokio::test]
    async fn the_history_is_deleted_by_one_node_at_a_time() {
        let server = PostgresServer::shared();
        let url = server.database();
        let node = joined(&url, "node1").await;
        let text = || "text".to_owned();
        let secrets = super::super::ClusterSecrets {
            secret: text().into(),
            authority_certificate: text(),
            authority_key: text().into(),
        };
        node.secrets_or(&secrets).await.unwrap();
        let nodes = [Store::from(node), joined(&url, "node2").await.into()];
        let hour = Duration::from_secs(3600);
        assert!(nodes[0].take_history_turn(hour).await.unwrap(), "nothing was deleted yet");
        assert!(!nodes[1].take_history_turn(hour).await.unwrap());
        assert!(!nodes[0].take_history_turn(hour).await.unwrap());
        assert!(nodes[1].take_history_turn(Duration::ZERO).await.unwrap());
    }

    #[tokio::test]
    async fn a_copied_node_cannot_join_while_the_original_lives() {
        let server = PostgresServer::shared();
        let url = server.database();
        let one = joined(&url, "node1").await;
        let copy = Postgres::connect(&url.parse().unwrap(), None).await.unwrap();
        let report = NodeReport { url: "https://copy.example".to_owned(), ..NodeReport::default() };
        let refused = copy.join("node1", &report, Duration::from_secs(60)).await.unwrap_err();
        assert!(refused.to_string().contains("node1"), "{refused}");
        one.leave().await.unwrap();
        copy.join("node1", &report, Duration::from_secs(60)).await.unwrap();
        let renewed = one.renew(&NodeReport::default(), Duration::from_secs(60)).await;
        assert!(matches!(renewed, Err(StoreError::Fenced)));
        let nodes = copy.nodes().await.unwrap();
        assert_eq!(nodes.len(), 1);
        assert!(nodes[0].is_alive && !nodes[0].is_draining);
        assert!(copy.set_draining("node1", true).await.unwrap());
        assert!(copy.nodes().await.unwrap()[0].is_draining);
    }

    #[tokio::test]
    async fn nodes_that_start_together_share_one_schema_and_one_secret() {
        let server = PostgresServer::shared();
        let url = server.database();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8 {
            let url = url.clone();
            tasks.spawn(async move {
                let node = Postgres::connect(&url.parse().unwrap(), None).await.unwrap();
                let text = |name: &str| format!("{name} {number}").into();
                let own = super::super::ClusterSecrets {
                    secret: text("secret"),
                    authority_certificate: format!("certificate {number}"),
                    authority_key: text("key"),
                };
                node.secrets_or(&own).await.unwrap().secret.to_string()
            });
        }
        let mut secrets = tasks.join_all().await;
        secrets.dedup();
        assert_eq!(secrets.len(), 1, "{secrets:?}");
        let later = "UPDATE isorun.format SET version = 9999";
        server.psql(url.rsplit_once('/').unwrap().1, later).unwrap();
        let refused = Postgres::connect(&url.parse().unwrap(), None).await.err().unwrap();
        assert!(matches!(refused, StoreError::TooNew { found: 9999, .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_server_that_stops_is_unavailable_and_reached_again() {
        let server = PostgresServer::start();
        let url = server.database();
        let node = joined(&url, "node1").await;
        let (store, run) = (Store::from(node.clone()), row("me", Status::Running));
        store.add_run(run.clone()).await.unwrap();
        server.stop();
        for result in [
            store.set_run_timeout(&run.id, 5).await,
            store.run(&run.id).await.map(drop),
            node.renew(&NodeReport::default(), Duration::from_secs(9)).await,
        ] {
            assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
        }
        server.restart();
        store.set_run_timeout(&run.id, 5).await.unwrap();
        assert_eq!(store.run(&run.id).await.unwrap().unwrap().timeout_ms, 5);
    }

    #[tokio::test]
    async fn images_of_nodes_are_found_by_name_and_by_digest() {
        let server = PostgresServer::shared();
        let url = server.database();
        let (one, two) = (joined(&url, "node1").await, joined(&url, "node2").await);
        let images = |digests: &[(&str, &str)]| {
            digests
                .iter()
                .map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned()))
                .collect()
        };
        one.set_node_images(&images(&[("a", "sha256:1"), ("b", "sha256:2")])).await.unwrap();
        two.set_node_images(&images(&[("a", "sha256:3"), ("c", "sha256:2")])).await.unwrap();
        assert_eq!(one.nodes_with_image("b").await.unwrap(), ["node1"]);
        assert_eq!(one.nodes_with_image("a").await.unwrap().len(), 2);
        assert_eq!(one.images_without_copy().await.unwrap().len(), 2);
        assert_eq!(one.named_image_copy("a").await.unwrap(), None);
        let trees: Vec<isorun_blobs::TreeId> =
            (1..=3).map(|number| format!("tree{number:032}").parse().unwrap()).collect();
        for (at, tree) in trees.iter().enumerate() {
            let upload = Upload::Image { digest: format!("sha256:{}", at + 1) };
            assert!(one.record_tree(&upload, *tree).await.unwrap());
            // Another copy of the same image is not needed.
            assert!(!two.record_tree(&upload, trees[0]).await.unwrap());
        }
        assert!(one.images_without_copy().await.unwrap().is_empty());
        assert_eq!(two.image_copy("sha256:1").await.unwrap(), Some(trees[0]));
        // Of two images with one name it is the newer one.
        let found = one.named_image_copy("a").await.unwrap();
        assert_eq!(found, Some(("sha256:3".to_owned(), trees[2])));
        one.set_node_images(&images(&[("a", "sha256:2")])).await.unwrap();
        let found = one.named_image_copy("a").await.unwrap();
        assert_eq!(found, Some(("sha256:2".to_owned(), trees[1])));
        assert!(one.nodes_with_image("b").await.unwrap().is_empty());
        // Copies are kept for an hour, and as long as a node, a run or a snapshot needs them.
        let run = RunRow { digest: "sha256:1".to_owned(), ..row("me", Status::Running) };
        Store::from(one.clone()).add_run(run.clone()).await.unwrap();
        two.set_node_images(&images(&[])).await.unwrap();
        one.delete_unused_image_copies().await.unwrap();
        assert!(one.image_copy("sha256:3").await.unwrap().is_some());
        let older = "UPDATE isorun.image_copies SET copied_at = now() - INTERVAL '2 hours'";
        server.psql(url.rsplit_once('/').unwrap().1, older).unwrap();
        one.delete_unused_image_copies().await.unwrap();
        assert_eq!(one.image_copy("sha256:3").await.unwrap(), None);
        assert!(one.image_copy("sha256:2").await.unwrap().is_some());
        assert!(one.image_copy("sha256:1").await.unwrap().is_some());
        assert_eq!(one.referenced_trees().await.unwrap().len(), 2);
        // A node that is removed has no images.
        one.set_node_images(&images(&[])).await.unwrap();
        two.renew(&NodeReport::default(), Duration::ZERO).await.unwrap();
        two.set_node_images(&images(&[("d", "sha256:1")])).await.unwrap();
        assert!(one.remove_node("node2").await.unwrap());
        assert!(one.nodes_with_image("d").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn nodes_hear_of_changes_that_concern_them() {
        let server = PostgresServer::shared();
        let url = server.database();
        let (one, two) = (joined(&url, "node1").await, joined(&url, "node2").await);
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let listening = tokio::spawn({
            let one = one.clone();
            async move { one.listen(|news| told.send(news).unwrap()).await }
        });
        let mut next = async || {
            tokio::time::timeout(Duration::from_secs(30), heard.recv()).await.unwrap().unwrap()
        };
        assert_eq!(next().await, News::Change);
        two.set_draining("node2", true).await.unwrap();
        assert_eq!(next().await, News::Change);
        let three = joined(&url, "node3").await;
        assert_eq!(next().await, News::Change);
        two.set_draining("node1", true).await.unwrap();
        assert_eq!(next().await, News::Change);
        let run = row("me", Status::Hibernated);
        Store::from(one.clone()).add_run(run.clone()).await.unwrap();
        let tree: isorun_blobs::TreeId = format!("tree{:032}", 1).parse().unwrap();
        let upload = Upload::Run { id: run.id.clone(), generation: 0 };
        assert!(one.record_tree(&upload, tree).await.unwrap());
        assert!(three.claim_run(&run.id, tree).await.unwrap());
        assert_eq!(next().await, News::Change);
        // What a node tells of its own requests is for the others.
        one.tell_requests(vec![("mine".to_owned(), 1)]).await.unwrap();
        let requests = vec![("key \"a\"".to_owned(), u32::MAX), ("b".to_owned(), 1)];
        two.tell_requests(requests.clone()).await.unwrap();
        assert_eq!(next().await, News::Requests(requests));
        // More keys than fit into a notification.
        let many: Vec<_> = (0..5_000).map(|key| (format!("key{key}"), key)).collect();
        three.tell_requests(many.clone()).await.unwrap();
        let News::Requests(some) = next().await else { panic!("no requests") };
        assert!(some.len() > 300 && many.starts_with(&some), "{}", some.len());
        listening.abort();
    }
}
