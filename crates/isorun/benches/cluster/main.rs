//! The costs of a cluster: each operation at a server of one machine, at the node of a sandbox,
//! and at another node, which forwards it. Then hibernated sandboxes and snapshots that are used
//! on another node.
//!
//! The places take turns, so that other work of the machine affects all of them. A ratio is the
//! median of the ratios of all rounds. It has its own harness instead of criterion, because a
//! sample of one place is compared with that of another.
// A panic is how a benchmark fails.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod builds;
mod moves;
mod operations;
mod servers;
mod table;

use servers::{Client, Cluster, Server};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo adds options; the first other word selects a group of rows.
    let group = arguments.iter().find(|word| !word.starts_with('-'));
    let group = group.map(String::as_str).unwrap_or_default();
    tokio::runtime::Runtime::new().unwrap().block_on(measure(group));
}

async fn measure(group: &str) {
    if let Some(before) = std::env::var_os("ISORUN_BENCH_BEFORE") {
        return builds::compare(before.as_ref()).await;
    }
    table::header(&["one server", "its node", "another node"], &["its node", "another node"]);
    if "operations".contains(group) {
        let (server, cluster) = (Server::start(&[]), Cluster::start(&[]).await);
        // All sandboxes of the cluster are created on the second node, by forwarding, too.
        cluster.drain(0, true).await;
        let [other, own] = [0, 1].map(|at| cluster.nodes[at].client());
        let clients: [Client; 3] = [server.client(), own, other];
        operations::measure(&clients).await;
        cluster.assert_all_on(1);
    }
    if "moves".contains(group) {
        moves::measure().await;
    }
}
