//! Several servers that form a cluster on one machine, with a PostgreSQL server of their own.

use std::{collections::BTreeMap, fs, sync::RwLockReadGuard};

use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{
    PostgresServer, turns,
    wait::{wait_for, wait_until},
};

use super::server::{Server, Tenant};

/// The lease time of the nodes.
///
/// On a machine that is busy with other tests, a node must not miss its renewals.
const LEASE: &str = "5s";

/// The name of an image whose file `/etc/hello` says `from the image`.
pub const IMAGE: &str = "my/root";

/// The nodes of a cluster. The same key is valid at each of them.
pub struct Cluster {
    /// Before the database, so that they stop before it does.
    pub nodes: Vec<Server>,
    pub url: String,
    pub postgres: PostgresServer,
    /// Nodes miss their renewals beside a test that uses all CPUs, and disturb it.
    _turn: RwLockReadGuard<'static, ()>,
}

impl Cluster {
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    pub fn start_with(count: usize, args: &[&str]) -> Self {
        let _turn = turns::shared();
        let postgres = PostgresServer::start();
        let url = postgres.database();
        let mut cluster = Self { nodes: Vec::new(), url, postgres, _turn };
        for _ in 0..count {
            let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let node = cluster.node(dirs, args);
            cluster.nodes.push(node);
        }
        cluster
    }

    /// Starts a node with these data and configuration directories.
    pub fn node(&self, (data, home): (TempDir, TempDir), args: &[&str]) -> Server {
        let own = ["--cluster", &self.url, "--peer-listen", "127.0.0.1:0", "--lease", LEASE];
        Server::start_in(data, home, &[&own, args].concat())
    }

    /// Returns a client of one node with the key of a new tenant.
    pub async fn tenant(&self) -> Tenant {
        let cluster = ["--cluster", self.url.as_str()];
        let created =
            self.nodes[0].run(&[&["keys", "create", "test"], &cluster[..]].concat()).await;
        assert!(created.status.success(), "{created:?}");
        let key = String::from_utf8(created.stdout).unwrap().trim().to_owned();
        Tenant { key, ..Tenant::clone(&self.nodes[0]) }
    }

    /// Returns clients of all nodes with the key of one.
    pub fn clients(&self, tenant: &Tenant) -> Vec<Tenant> {
        let client = |node: &Server| Tenant { key: tenant.key.clone(), ..Tenant::clone(node) };
        self.nodes.iter().map(client).collect()
    }

    /// Returns the nodes as `isorun node ls` lists them, by id.
    pub async fn list(&self, by: &Server) -> BTreeMap<String, Value> {
        let listed = by.run(&["node", "--cluster", &self.url, "ls", "--json"]).await;
        assert!(listed.status.success(), "{listed:?}");
        let nodes: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
        nodes.into_iter().map(|node| (node["id"].as_str().unwrap().to_owned(), node)).collect()
    }

    /// Returns the id of a node.
    pub fn id(node: &Server) -> String {
        fs::read_to_string(node.data.path().join("node")).unwrap()
    }

    /// Makes a node accept new sandboxes or not, and waits until all nodes know.
    pub async fn drain(&self, node: &Server, is_draining: bool) {
        let id = Self::id(node);
        let undo: &[&str] = if is_draining { &[] } else { &["--undo"] };
        let arguments = [&["node", "--cluster", &self.url, "drain", &id], undo].concat();
        let drained = node.run(&arguments).await;
        assert!(drained.status.success(), "{drained:?}");
        self.all_know().await;
    }

    /// Waits until every node knows how many nodes accept new sandboxes.
    async fn all_know(&self) {
        let listed = self.list(&self.nodes[0]).await;
        let accepting = listed.values().filter(|node| node["state"] == "up").count();
        let line = format!("isorun_cluster_nodes_accepting {accepting}");
        for node in &self.nodes {
            wait_until("the node knows which nodes accept sandboxes", async || {
                let metrics = node.request(reqwest::Method::GET, "/metrics").send().await.unwrap();
                metrics.text().await.unwrap().lines().any(|found| found == line)
            })
            .await;
        }
    }

    /// Creates a sandbox on this node, which it prefers while all nodes have as much to do.
    pub async fn create_on(&self, at: usize, more: Value) -> String {
        self.all_know().await;
        let wanted = Self::id(&self.nodes[at]);
        for _ in 0..10 {
            let id = self.nodes[at].create_with(more.clone()).await;
            if self.owner(&id) == wanted {
                return id;
            }
            self.nodes[at].destroy(&id).await;
        }
        panic!("every sandbox was placed on another node than {wanted}");
    }

    /// Adds [`IMAGE`] to the images of one node, and waits until the others know.
    pub async fn import_image(&self, node: &Server) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/hello"), "from the image").unwrap();
        let path = root.path().to_str().unwrap();
        let imported = node.run(&["image", "import", "-q", path, IMAGE]).await;
        assert!(imported.status.success(), "{imported:?}");
        let known = format!(
            "SELECT COUNT(*) FROM isorun.node_images
             WHERE node = '{}' AND reference LIKE '%{IMAGE}%'",
            Self::id(node)
        );
        wait_until("the others know of the image", async || self.query(&known) == "1").await;
    }

    /// Returns the node of a sandbox, as the database has it.
    pub fn owner(&self, id: &str) -> String {
        self.query(&format!("SELECT node FROM isorun.runs WHERE id = '{id}'"))
    }

    pub fn query(&self, statement: &str) -> String {
        let database = self.url.rsplit_once('/').unwrap().1;
        self.postgres.psql(database, statement).unwrap()
    }

    /// Waits until a sandbox is recorded as lost.
    pub async fn lost(&self, by: &Tenant, id: &str) -> Value {
        wait_for("the sandbox is recorded as lost", async || {
            let (status, body) = by.get(&format!("/v1/runs/{id}")).await;
            (status == 404).then_some(body)
        })
        .await
    }
}

/// Fields of a sandbox that is quickly created.
pub fn interpreter() -> Value {
    json!({ "image": "isola:python" })
}
