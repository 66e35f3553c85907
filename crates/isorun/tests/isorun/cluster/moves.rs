//! Hibernated sandboxes and snapshots that move between nodes, through an object store.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::wait::wait_until;

use crate::support::{
    Tenant, answer,
    cluster::{Cluster, IMAGE, interpreter},
    refused,
};

/// A cluster whose nodes share a directory as their object store.
struct SharedCluster {
    cluster: Cluster,
    store: TempDir,
}

impl SharedCluster {
    fn start(count: usize) -> Self {
        let store = tempfile::tempdir().unwrap();
        let blobs = Self::url(store.path());
        let cluster = Cluster::start_with(count, &["--blobs", &blobs]);
        Self { cluster, store }
    }

    fn url(store: &Path) -> String {
        format!("file://{}", store.display())
    }

    /// Waits until every checkpoint and image is in the object store.
    async fn uploaded(&self) {
        wait_until("all checkpoints are in the object store", async || {
            let missing = self.cluster.query(
                "SELECT (SELECT COUNT(*) FROM isorun.runs WHERE status = 'hibernated'
                 AND tree_generation IS DISTINCT FROM generation)
                 + (SELECT COUNT(*) FROM isorun.snapshots WHERE tree IS NULL)
                 + (SELECT COUNT(*) FROM isorun.node_images AS image WHERE NOT EXISTS
                     (SELECT FROM isorun.image_copies WHERE digest = image.digest))",
            );
            missing == "0"
        })
        .await;
    }

    /// Kills a node, and waits until the others know.
    async fn kill_last(&mut self) -> crate::support::Server {
        let mut dead = self.cluster.nodes.pop().unwrap();
        let id = Cluster::id(&dead);
        dead.signal(Signal::KILL);
        dead.exited().await;
        wait_until("its lease has expired", async || {
            let nodes = self.cluster.list(&self.cluster.nodes[0]).await;
            nodes[&id]["state"] == "down"
        })
        .await;
        dead
    }
}

async fn run_code(client: &Tenant, id: &str, code: &str) -> String {
    let (status, outcome) =
        client.post(&format!("/v1/runs/{id}/code"), json!({ "code": code })).await;
    assert_eq!(status, 200, "{outcome}");
    outcome.to_string()
}

async fn file(client: &Tenant, id: &str, path: &str) -> String {
    let path = format!("/v1/runs/{id}/files/download?path={path}");
    let file = client.request(reqwest::Method::GET, &path).send().await.unwrap();
    file.text().await.unwrap()
}

async fn assert_logs_hold(cluster: &Cluster) {
    let verified = cluster.nodes[0].run(&["audit", "--cluster", &cluster.url, "verify"]).await;
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_had_hibernated_goes_on_elsewhere() {
    let mut shared = SharedCluster::start(3);
    let cluster = &shared.cluster;
    let linux = cluster.create_on(2, json!({ "timeout": 600, "urls": "token" })).await;
    let python = cluster.create_on(2, interpreter()).await;
    let lost = cluster.create_on(2, interpreter()).await;
    let one = Tenant::clone(&cluster.nodes[0]);
    one.text(&linux, "echo kept > /tmp/file; (while sleep 0.1; do date +%N > /tmp/alive; done) >/dev/null 2>&1 &").await;
    run_code(&one, &python, "x = 41").await;
    let snapshot = one.snapshot(&linux).await;
    one.change(&linux, "hibernate").await;
    one.change(&python, "hibernate").await;
    shared.uploaded().await;
    let dead = shared.kill_last().await;
    let cluster = &shared.cluster;
    // A URL without the token is refused, and moves nothing.
    let url = format!("{}/sb/{linux}/p/8000/", one.url);
    assert_eq!(one.http.get(url).send().await.unwrap().status(), 403);
    assert_eq!(cluster.owner(&linux), Cluster::id(&dead));
    // Nor does a key of another tenant.
    let stranger = cluster.tenant().await;
    let seen = stranger.get(&format!("/v1/runs/{linux}")).await;
    refused(&seen, 404, "run_not_found", "another tenant");
    assert_eq!(cluster.owner(&linux), Cluster::id(&dead));
    // All nodes are asked at the same time; one takes each over.
    let clients: Vec<Tenant> = cluster.nodes.iter().map(|node| Tenant::clone(node)).collect();
    for id in [&linux, &python] {
        let path = format!("/v1/runs/{id}/resume");
        let resuming = clients.iter().map(|client| client.post(&path, json!({})));
        for (status, run) in futures_util::future::join_all(resuming).await {
            assert_eq!((status.as_u16(), &run["status"]), (200, &json!("running")), "{run}");
        }
        let owners = cluster.query(&format!("SELECT COUNT(*) FROM isorun.runs WHERE id = '{id}'"));
        assert_eq!(owners, "1");
    }
    for client in &clients {
        assert_eq!(client.text(&linux, "cat /tmp/file").await, "kept\n");
        assert!(run_code(client, &python, "x + 1").await.contains("42"));
    }
    let first = one.text(&linux, "cat /tmp/alive").await;
    wait_until("its processes go on", async || one.text(&linux, "cat /tmp/alive").await != first)
        .await;
    let events: Vec<Value> =
        one.audit_log(&linux).await.iter().map(|entry| entry["event"].clone()).collect();
    assert!(events.contains(&json!("sandbox.moved")), "{events:?}");
    cluster.lost(&one, &lost).await;
    for client in &clients {
        let copy = client.restore(&snapshot).await;
        assert_eq!(client.text(&copy, "cat /tmp/file").await, "kept\n");
        client.destroy(&copy).await;
    }
    // The node is back, and has none of them.
    let back = cluster
        .node(dead.take_directories(), &["--blobs", &SharedCluster::url(shared.store.path())]);
    assert_eq!(back.text(&linux, "cat /tmp/file").await, "kept\n");
    assert!(fs::read_dir(back.data.path().join("state/hibernated")).unwrap().next().is_none());
    // Hibernated again, it stays where it is now.
    one.change(&linux, "hibernate").await;
    one.change(&linux, "resume").await;
    assert_eq!(back.text(&linux, "cat /tmp/file").await, "kept\n");
    let (status, _) =
        answer(back.request(reqwest::Method::DELETE, &format!("/v1/snapshots/{snapshot}"))).await;
    assert_eq!(status, 200);
    for id in [&linux, &python] {
        back.destroy(id).await;
    }
    assert_logs_hold(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_node_hands_over_what_may_be_hibernated() {
    let shared = SharedCluster::start(2);
    let cluster = &shared.cluster;
    let (leaving, staying) = (&cluster.nodes[0], &cluster.nodes[1]);
    let wanted = json!({
        "image": "isola:python", "on_idle": "hibernate", "auto_resume": true, "timeout": 600
    });
    let id = cluster.create_on(0, wanted).await;
    let stays = cluster.create_on(0, interpreter()).await;
    run_code(leaving, &id, "x = 41").await;
    run_code(leaving, &stays, "y = 1").await;
    cluster.drain(leaving, true).await;
    wait_until("it is hibernated", async || {
        staying.get("/v1/runs").await.1["runs"]
            .as_array()
            .unwrap()
            .iter()
            .any(|run| run["id"] == id && run["status"] == "hibernated")
    })
    .await;
    shared.uploaded().await;
    // Asked at the draining node, too, since another one has to take it.
    assert!(run_code(staying, &id, "x + 1").await.contains("42"));
    assert_eq!(cluster.owner(&id), Cluster::id(staying));
    wait_until("the draining node has forgotten it", async || {
        fs::read_dir(leaving.data.path().join("state/hibernated")).unwrap().next().is_none()
    })
    .await;
    assert!(run_code(leaving, &id, "x + 2").await.contains("43"));
    assert!(run_code(staying, &stays, "y + 1").await.contains('2'), "it is waited for");
    assert_eq!(cluster.owner(&stays), Cluster::id(leaving));
    assert_logs_hold(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_moves_with_its_sandboxes() {
    let mut shared = SharedCluster::start(3);
    let cluster = &shared.cluster;
    cluster.import_image(&cluster.nodes[2]).await;
    let client = Tenant::clone(&cluster.nodes[0]);
    let id = client.create_with(json!({ "image": IMAGE })).await;
    assert_eq!(cluster.owner(&id), Cluster::id(&cluster.nodes[2]));
    client.upload(&id, "/written", "by a client").await;
    let snapshot = client.snapshot(&id).await;
    client.change(&id, "hibernate").await;
    shared.uploaded().await;
    let dead = shared.kill_last().await;
    let cluster = &shared.cluster;
    let resume = format!("/v1/runs/{id}/resume");
    // Without the image it is not taken over.
    let copy = cluster.query("DELETE FROM isorun.image_copies RETURNING tree");
    let (status, body) = client.post(&resume, json!({})).await;
    assert_eq!(status, 404, "{body}");
    assert!(body["error"].as_str().unwrap().contains(IMAGE), "{body}");
    assert_eq!(cluster.owner(&id), Cluster::id(&dead));
    let tree = copy.lines().next().unwrap();
    cluster.query(&format!(
        "INSERT INTO isorun.image_copies SELECT DISTINCT digest, '{tree}' FROM isorun.node_images"
    ));
    assert_eq!(client.post(&resume, json!({})).await.0, 200);
    assert_eq!(file(&client, &id, "/etc/hello").await, "from the image");
    assert_eq!(file(&client, &id, "/written").await, "by a client");
    // Restored several times at once, each copy has the image, and none the machine's own files.
    let other = Tenant::clone(&cluster.nodes[1]);
    let restoring = (0..4).map(|_| other.restore(&snapshot));
    let mut created = futures_util::future::join_all(restoring).await;
    // So has a new one, on any node.
    for client in [&client, &other] {
        created.push(client.create_with(json!({ "image": IMAGE })).await);
    }
    created.push(id);
    for id in &created {
        assert_eq!(file(&client, id, "/etc/hello").await, "from the image");
        client.destroy(id).await;
    }
    // It removes the containers that it had created in advance.
    let blobs = SharedCluster::url(shared.store.path());
    drop(shared.cluster.node(dead.take_directories(), &["--blobs", &blobs]));
}

/// While the object store is away, sandboxes are hibernated and resumed on their own node, and
/// are uploaded later; a damaged checkpoint is refused, not restored.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_that_fails_loses_nothing() {
    let mut shared = SharedCluster::start(2);
    let id = shared.cluster.create_on(1, interpreter()).await;
    let client = Tenant::clone(&shared.cluster.nodes[0]);
    run_code(&client, &id, "x = 41").await;
    let (store, away) =
        (shared.store.path().to_owned(), shared.store.path().with_extension("away"));
    fs::rename(&store, &away).unwrap();
    fs::write(&store, "no directory").unwrap();
    client.change(&id, "hibernate").await;
    client.change(&id, "resume").await;
    assert!(run_code(&client, &id, "x + 1").await.contains("42"));
    client.change(&id, "hibernate").await;
    fs::remove_file(&store).unwrap();
    fs::rename(&away, &store).unwrap();
    shared.uploaded().await;
    let dead = shared.kill_last().await;
    // Every object is shortened.
    let mut directories = vec![store];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => directories.push(entry.path()),
                false => {
                    let file = fs::OpenOptions::new().write(true).open(entry.path()).unwrap();
                    file.set_len(entry.metadata().unwrap().len() / 2).unwrap();
                }
            }
        }
    }
    let resume = format!("/v1/runs/{id}/resume");
    refused(&client.post(&resume, json!({})).await, 422, "snapshot_damaged", "object store");
    // Its node has a good copy, which is not given up.
    assert_eq!(shared.cluster.owner(&id), Cluster::id(&dead));
    let blobs = SharedCluster::url(shared.store.path());
    let back = shared.cluster.node(dead.take_directories(), &["--blobs", &blobs]);
    assert_eq!(client.post(&resume, json!({})).await.0, 200);
    assert!(run_code(&client, &id, "x + 2").await.contains("43"));
    client.destroy(&id).await;
    drop(back);
}
