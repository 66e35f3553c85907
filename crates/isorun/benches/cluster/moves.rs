//! Hibernated sandboxes and snapshots, on their node and on another one that has to download
//! them.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    servers::{Client, Cluster, Server},
    table::{Samples, print_row},
};

/// The random data in the memory of the sandbox.
const MEMORY_MB: usize = 200;
const ROUNDS: usize = 5;
/// The first rounds, which do not count: in them each node creates the containers in advance in
/// which it restores.
const WARM_UP_ROUNDS: usize = 2;
/// The time in which a container for the next restore is created in advance.
const CONTAINER_REFILL_TIME: Duration = Duration::from_millis(1500);

/// The index of each place in the rows: a server of one machine, the node of the sandbox, and
/// another one.
const ONE_SERVER: usize = 0;
const ITS_NODE: usize = 1;
const ANOTHER_NODE: usize = 2;

struct Rows {
    hibernate: Samples<3>,
    upload: Samples<3>,
    resume: Samples<3>,
    restore: Samples<3>,
    restore_again: Samples<3>,
}

impl Rows {
    fn new() -> Self {
        let new = Samples::new;
        Self {
            hibernate: new(),
            upload: new(),
            resume: new(),
            restore: new(),
            restore_again: new(),
        }
    }
}

pub async fn measure() {
    let store = tempfile::tempdir().unwrap();
    let blobs = format!("file://{}", store.path().display());
    let (server, cluster) = (Server::start(&[]), Cluster::start(&["--blobs", &blobs]).await);
    let server = server.client();
    let parameters = json!({ "mem_mib": MEMORY_MB + MEMORY_MB / 4 + 256 });
    let alone = server.create(parameters.clone()).await;
    // The sandbox moves to the other node in each round.
    cluster.drain(1, true).await;
    let moving = cluster.nodes[0].client().create(parameters).await;
    cluster.drain(1, false).await;
    let mut rows = Rows::new();
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        if round == WARM_UP_ROUNDS {
            rows = Rows::new();
        }
        let at = round % 2;
        let (own, other) = (&cluster.nodes[at].client(), &cluster.nodes[1 - at].client());
        on_one_server(&server, &alone, &mut rows).await;
        cluster.assert_on(at, &moving);
        let snapshot = on_its_node(&cluster, own, &moving, &mut rows).await;
        cluster.drain(at, true).await;
        elsewhere(other, &moving, &snapshot, &mut rows).await;
        cluster.assert_on(1 - at, &moving);
        cluster.drain(at, false).await;
        other.delete_snapshot(&snapshot).await;
    }
    let memory = format!("with {MEMORY_MB} MB of memory");
    print_row(&format!("hibernate a sandbox {memory}"), &rows.hibernate);
    print_row("its upload, in the background, with up to 2 s until it begins", &rows.upload);
    print_row("resume it", &rows.resume);
    print_row(&format!("restore a snapshot {memory}"), &rows.restore);
    print_row("restore it again", &rows.restore_again);
}

async fn on_one_server(server: &Client, run: &str, rows: &mut Rows) {
    fill_memory(server, run).await;
    let snapshot = snapshot(server, run).await;
    for row in [&mut rows.restore, &mut rows.restore_again] {
        row.add(ONE_SERVER, restore(server, &snapshot).await);
    }
    server.delete_snapshot(&snapshot).await;
    rows.hibernate.add(ONE_SERVER, change(server, run, "hibernate").await);
    rows.resume.add(ONE_SERVER, change(server, run, "resume").await);
}

/// Uses a sandbox and a snapshot of it on their node. Returns the snapshot, and leaves the
/// sandbox hibernated.
async fn on_its_node(cluster: &Cluster, own: &Client, run: &str, rows: &mut Rows) -> String {
    fill_memory(own, run).await;
    rows.hibernate.add(ITS_NODE, change(own, run, "hibernate").await);
    let start = Instant::now();
    cluster.uploaded().await;
    rows.upload.add(ITS_NODE, start.elapsed());
    rows.resume.add(ITS_NODE, change(own, run, "resume").await);
    let snapshot = snapshot(own, run).await;
    cluster.uploaded().await;
    for row in [&mut rows.restore, &mut rows.restore_again] {
        row.add(ITS_NODE, restore(own, &snapshot).await);
    }
    change(own, run, "hibernate").await;
    cluster.uploaded().await;
    snapshot
}

/// Uses them on another node, to which the sandbox moves.
async fn elsewhere(other: &Client, run: &str, snapshot: &str, rows: &mut Rows) {
    for row in [&mut rows.restore, &mut rows.restore_again] {
        row.add(ANOTHER_NODE, restore(other, snapshot).await);
    }
    rows.resume.add(ANOTHER_NODE, change(other, run, "resume").await);
}

/// Starts an idle Python that holds random data, in place of the last one.
async fn fill_memory(client: &Client, run: &str) {
    let program = format!(
        "import os, time; b = [os.urandom(1000000) for _ in range({MEMORY_MB})]; \
         open(\"/tmp/ready\", \"w\"); time.sleep(100000)"
    );
    let command = format!(
        "test ! -e /tmp/ready || kill $(cat /tmp/pid); rm -f /tmp/ready; \
         nohup setsid python3 -c '{program}' >/dev/null 2>&1 & echo $! > /tmp/pid; \
         until test -e /tmp/ready; do sleep 0.1; done"
    );
    client.exec(run, &command).await;
}

async fn snapshot(client: &Client, run: &str) -> String {
    let taken = client.post(&format!("/v1/runs/{run}/snapshot"), json!({})).await;
    taken["snapshot_id"].as_str().unwrap().to_owned()
}

/// Restores a snapshot, and destroys the copy. Returns the time to restore it.
async fn restore(client: &Client, snapshot: &str) -> Duration {
    tokio::time::sleep(CONTAINER_REFILL_TIME).await;
    let start = Instant::now();
    let copy = client.post("/v1/runs/restore", json!({ "snapshot_id": snapshot })).await;
    let time = start.elapsed();
    client.exec(copy["id"].as_str().unwrap(), "test -e /tmp/ready").await;
    client.destroy(copy["id"].as_str().unwrap()).await;
    time
}

/// Hibernates or resumes a sandbox. Returns the time that it took.
async fn change(client: &Client, run: &str, operation: &str) -> Duration {
    tokio::time::sleep(CONTAINER_REFILL_TIME).await;
    let start = Instant::now();
    client.post(&format!("/v1/runs/{run}/{operation}"), json!({})).await;
    start.elapsed()
}
