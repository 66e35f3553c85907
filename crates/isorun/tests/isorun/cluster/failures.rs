//! What happens when a node, or the database, fails.

use std::time::Duration;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use test_support::wait::{wait_for, wait_until};

use crate::support::{
    Server, Tenant, answer,
    cluster::{Cluster, interpreter},
    refused,
};

/// Returns the names of the events in the audit log of a sandbox.
async fn events(by: &Tenant, id: &str) -> Vec<Value> {
    by.audit_log(id).await.iter().map(|entry| entry["event"].clone()).collect()
}

async fn assert_logs_hold(cluster: &Cluster, by: &Server) {
    let verified = by.run(&["audit", "--cluster", &cluster.url, "verify"]).await;
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_loses_its_running_sandboxes_and_nothing_else() {
    let mut cluster = Cluster::start(3);
    let linux = cluster.create_on(2, json!({})).await;
    let python = cluster.create_on(2, interpreter()).await;
    let hibernated = cluster.create_on(2, json!({})).await;
    let elsewhere = cluster.create_on(1, json!({})).await;
    cluster.nodes[0].text(&hibernated, "echo kept > /tmp/file").await;
    cluster.nodes[0].change(&hibernated, "hibernate").await;
    let snapshot = cluster.nodes[0].snapshot(&linux).await;
    // A client waits for a command, through another node.
    let waiting = tokio::spawn({
        let (client, id) = (Tenant::clone(&cluster.nodes[0]), linux.clone());
        async move {
            let command = json!({ "command": "sleep 600", "timeout": 600 });
            client.post(&format!("/v1/runs/{id}/exec"), command).await
        }
    });
    wait_for("the command runs", async || {
        let log = events(&cluster.nodes[0], &linux).await;
        log.contains(&json!("exec.start")).then_some(())
    })
    .await;
    let mut dead = cluster.nodes.pop().unwrap();
    dead.signal(Signal::KILL);
    dead.exited().await;
    let told = waiting.await.unwrap();
    refused(&told, 503, "unavailable", "are lost");
    let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
    for id in [&linux, &python] {
        let body = cluster.lost(one, id).await;
        assert!(body["error"].as_str().unwrap().contains("lost"), "{body}");
        let log = events(two, id).await;
        assert_eq!(log.last().unwrap(), "sandbox.lost", "{log:?}");
        refused(&two.get(&format!("/v1/runs/{id}")).await, 404, "run_destroyed", "lost");
    }
    for path in [format!("/v1/runs/{hibernated}"), format!("/v1/runs/{hibernated}/stats")] {
        refused(&two.get(&path).await, 503, "unavailable", "hibernated on the server");
    }
    let restored = one.post("/v1/runs/restore", json!({ "snapshot_id": snapshot })).await;
    refused(&restored, 503, "unavailable", "when that server is back");
    assert_eq!(two.text(&elsewhere, "echo well").await, "well\n");
    assert_logs_hold(&cluster, one).await;
    // It comes back, and has what was on its disk.
    let back = cluster.node(dead.take_directories(), &[]);
    assert_eq!(one.change(&hibernated, "resume").await["status"], "running");
    assert_eq!(one.text(&hibernated, "cat /tmp/file").await, "kept\n");
    let copy = two.restore(&snapshot).await;
    assert_eq!(two.text(&copy, "echo restored").await, "restored\n");
    for id in [&hibernated, &copy, &elsewhere] {
        one.destroy(id).await;
    }
    assert_logs_hold(&cluster, one).await;
    drop(back);
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_go_on_while_the_database_is_away() {
    let cluster = Cluster::start(2);
    let id = cluster.create_on(0, json!({})).await;
    let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
    one.text(&id, "(while sleep 0.1; do date +%s.%N > /tmp/alive; done) >/dev/null 2>&1 &").await;
    cluster.postgres.stop();
    let path = format!("/v1/runs/{id}");
    // Longer than the lease, and its grace period.
    for _ in 0..16 {
        let (status, run) = one.get(&path).await;
        assert_eq!((status.as_u16(), &run["status"]), (200, &json!("running")));
        for refusal in [
            one.post(&format!("{path}/exec"), json!({ "command": "true" })).await,
            one.post("/v1/runs", interpreter()).await,
            two.post("/v1/runs", interpreter()).await,
            two.get(&path).await,
        ] {
            refused(&refusal, 503, "unavailable", "database");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let response = one.request(Method::POST, "/v1/runs").json(&interpreter()).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    cluster.postgres.restart();
    wait_until("the database is used again by both", async || {
        let exec = json!({ "command": "true" });
        two.post("/v1/runs", interpreter()).await.0 == 200
            && two.post(&format!("{path}/exec"), exec).await.0 == 200
    })
    .await;
    let first = two.text(&id, "cat /tmp/alive").await;
    wait_until("it still runs", async || two.text(&id, "cat /tmp/alive").await != first).await;
    assert_eq!(one.text(&id, "echo well").await, "well\n");
    assert_logs_hold(&cluster, one).await;
}

/// A hibernated sandbox is still there after a crash, until its end is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_that_is_not_recorded_denies_nothing() {
    let mut cluster = Cluster::start(2);
    let id = cluster.create_on(1, interpreter()).await;
    let path = format!("/v1/runs/{id}");
    let destroy = async |by: &Server| answer(by.request(Method::DELETE, &path)).await;
    cluster.nodes[1].change(&id, "hibernate").await;
    cluster.postgres.stop();
    refused(&destroy(&cluster.nodes[1]).await, 503, "unavailable", "does not know whether");
    let (status, run) = cluster.nodes[1].get(&path).await;
    assert_eq!((status.as_u16(), &run["status"]), (200, &json!("hibernated")));
    let mut dead = cluster.nodes.pop().unwrap();
    dead.signal(Signal::KILL);
    dead.exited().await;
    cluster.postgres.restart();
    let (one, node) = (&cluster.nodes[0], Cluster::id(&dead));
    wait_until("its lease has expired", async || cluster.list(one).await[&node]["state"] == "down")
        .await;
    let back = cluster.node(dead.take_directories(), &[]);
    assert_eq!(back.change(&id, "resume").await["status"], "running");
    back.change(&id, "hibernate").await;

    // What was begun is completed when the database is back.
    cluster.postgres.stop();
    refused(&destroy(&back).await, 503, "unavailable", "does not know whether");
    cluster.postgres.restart();
    let gone = wait_for("it is destroyed", async || {
        let gone = back.get(&path).await;
        (gone.0 == 404).then_some(gone)
    })
    .await;
    refused(&gone, 404, "run_destroyed", "a request destroyed it");
    let log = events(&back, &id).await;
    let ends = log.iter().filter(|event| *event == "sandbox.destroyed").count();
    assert!(ends == 1 && log.last().unwrap() == "sandbox.destroyed", "{log:?}");
    assert_logs_hold(&cluster, &back).await;
}

/// A node that is suspended longer than its lease finds that it was declared dead: it stops,
/// with its sandboxes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_declared_dead_stops_with_its_sandboxes() {
    let mut cluster = Cluster::start(2);
    let linux = cluster.create_on(1, json!({})).await;
    let python = cluster.create_on(1, interpreter()).await;
    let mut suspended = cluster.nodes.pop().unwrap();
    suspended.signal(Signal::STOP);
    let one = &cluster.nodes[0];
    for id in [&linux, &python] {
        cluster.lost(one, id).await;
    }
    suspended.signal(Signal::CONT);
    let status = suspended.exited().await;
    assert!(!status.success(), "{status}");
    assert_eq!(
        test_support::process::command_lines_with(&linux),
        Vec::<String>::new(),
        "its sandbox is gone"
    );
    assert_logs_hold(&cluster, one).await;
    let again = cluster.node(suspended.take_directories(), &[]);
    let (status, body) = again.get(&format!("/v1/runs/{linux}")).await;
    assert_eq!((status.as_u16(), body["code"].as_str().unwrap()), (404, "run_destroyed"));
    again.assert_served().await;
}

/// A node whose disk is lost can be removed, with what only its disk had.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_is_lost_can_be_removed() {
    let mut cluster = Cluster::start(2);
    let id = cluster.create_on(1, interpreter()).await;
    let snapshot = cluster.nodes[0].snapshot(&id).await;
    cluster.nodes[0].change(&id, "hibernate").await;
    let mut dead = cluster.nodes.pop().unwrap();
    let node = Cluster::id(&dead);
    dead.signal(Signal::KILL);
    dead.exited().await;
    let one = &cluster.nodes[0];
    let rm = ["node", "--cluster", &cluster.url, "rm", &node];
    assert!(!one.run(&rm).await.status.success(), "it has a hibernated sandbox");
    wait_until("its lease has expired", async || cluster.list(one).await[&node]["state"] == "down")
        .await;
    let removed = one.run(&[&rm[..], &["--lost-disk"]].concat()).await;
    let text = String::from_utf8_lossy(&removed.stdout).into_owned();
    assert!(
        removed.status.success() && text.contains("1 hibernated sandboxes and 1"),
        "{removed:?}"
    );
    assert_eq!(cluster.list(one).await.len(), 1);
    refused(&one.get(&format!("/v1/runs/{id}")).await, 404, "run_destroyed", "lost");
    let restored = one.post("/v1/runs/restore", json!({ "snapshot_id": snapshot })).await;
    refused(&restored, 404, "snapshot_not_found", "does not exist");
    let drained = one.run(&["node", "--cluster", &cluster.url, "drain", &node]).await;
    assert!(!drained.status.success(), "it was removed");
    assert_logs_hold(&cluster, one).await;
}

/// A stopped node leaves: its hibernated sandboxes stay its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_and_started_keeps_its_hibernated_sandboxes() {
    let mut cluster = Cluster::start(2);
    let id = cluster.create_on(1, interpreter()).await;
    let code = |code: &str| json!({ "code": code });
    let path = format!("/v1/runs/{id}/code");
    assert_eq!(cluster.nodes[0].post(&path, code("x = 41")).await.0, 200);
    cluster.nodes[0].change(&id, "hibernate").await;
    let directories = cluster.nodes.pop().unwrap().stop(Signal::TERM).await;
    refused(
        &cluster.nodes[0].get(&format!("/v1/runs/{id}")).await,
        503,
        "unavailable",
        "hibernated on the server",
    );
    let back = cluster.node(directories, &[]);
    cluster.nodes[0].change(&id, "resume").await;
    let (status, outcome) = cluster.nodes[0].post(&path, code("x + 1")).await;
    assert_eq!(status, 200);
    assert!(outcome.to_string().contains("42"), "{outcome}");
    drop(back);
}
