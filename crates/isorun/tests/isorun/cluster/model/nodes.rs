//! A cluster of three nodes in which every link can fail, and every node can be killed.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use test_support::{PostgresServer, Tmpfs, ports, process::command_lines_with, wait::wait_until};

use super::{
    links::{Link, LinkState},
    store::{FaultyStore, StoreState},
};
use crate::support::{Server, Tenant};

pub const NODES: usize = 3;
/// The lease time of the nodes.
pub const LEASE: Duration = Duration::from_secs(5);
/// The node whose data directory is on a small disk.
pub const NODE_WITH_SMALL_DISK: usize = 2;
/// The size of that disk, in MiB.
const DISK_MIB: u32 = 2048;
/// The time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(25);

/// A node, with the links to everything else.
pub struct Node {
    pub database: Link,
    /// What other nodes reach it by.
    pub peers: Link,
    pub store: Link,
    peer_port: u16,
    process: Mutex<Process>,
    /// The URL of the last server.
    url: Mutex<String>,
    id: String,
}

enum Process {
    Up(Box<Server>),
    Down((TempDir, TempDir)),
    /// Being started or killed.
    Changing,
}

/// The nodes, the database and the object store.
pub struct Fleet {
    /// Before the database, so that they stop before it does.
    pub nodes: Vec<Node>,
    pub store: FaultyStore,
    postgres: Arc<PostgresServer>,
    pub disk: Tmpfs,
    database: String,
    http: reqwest::Client,
    _disk_dir: TempDir,
}

impl Fleet {
    pub async fn start() -> Self {
        let postgres = tokio::task::spawn_blocking(PostgresServer::start).await.unwrap();
        let postgres = Arc::new(postgres);
        let url = postgres.database();
        let database = url.rsplit_once('/').unwrap().1.to_owned();
        let store = FaultyStore::start().await;
        let disk_dir = tempfile::tempdir().unwrap();
        let disk = Tmpfs::mount(disk_dir.path().join("disk"), DISK_MIB);
        let http = reqwest::Client::builder().pool_idle_timeout(Duration::from_millis(800));
        let http = http.timeout(REQUEST_TIMEOUT).build().unwrap();
        let mut fleet =
            Self { nodes: Vec::new(), store, postgres, disk, database, http, _disk_dir: disk_dir };
        for at in 0..NODES {
            let data = match at {
                NODE_WITH_SMALL_DISK => tempfile::tempdir_in(fleet.disk.path()).unwrap(),
                _ => tempfile::tempdir().unwrap(),
            };
            let peer_port = ports::reserved();
            let mut node = Node {
                database: Link::start(fleet.postgres.port()).await,
                peers: Link::start(peer_port).await,
                store: Link::start(fleet.store.port).await,
                peer_port,
                process: Mutex::new(Process::Changing),
                url: Mutex::default(),
                id: String::new(),
            };
            let server = fleet.launch(&node, (data, tempfile::tempdir().unwrap()));
            let server = server.await.unwrap();
            node.id = std::fs::read_to_string(server.data.path().join("node")).unwrap();
            node.set(Process::Up(server));
            fleet.nodes.push(node);
        }
        fleet
    }

    /// Starts the server of a node in a task.
    fn launch(
        &self,
        node: &Node,
        (data, home): (TempDir, TempDir),
    ) -> tokio::task::JoinHandle<Box<Server>> {
        let database =
            format!("postgres://isorun@127.0.0.1:{}/{}", node.database.port(), self.database);
        let args = [
            "--cluster".to_owned(),
            database,
            "--peer-listen".to_owned(),
            format!("127.0.0.1:{}", node.peer_port),
            "--advertise".to_owned(),
            format!("https://127.0.0.1:{}", node.peers.port()),
            "--lease".to_owned(),
            format!("{}s", LEASE.as_secs()),
            "--disk-reserve-mib".to_owned(),
            "64".to_owned(),
        ];
        let environment = FaultyStore::environment(node.store.port());
        tokio::task::spawn_blocking(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            Box::new(Server::start_with_environment(data, home, &args, &environment))
        })
    }

    /// Starts a node that is not running.
    pub async fn revive(&self, at: usize) {
        let node = &self.nodes[at];
        node.notice_exit();
        let dirs = match node.take() {
            Process::Down(dirs) => dirs,
            other => return node.set(other),
        };
        let server = self.launch(node, dirs).await.unwrap();
        node.set(Process::Up(server));
    }

    /// Kills a node that is running.
    pub async fn kill(&self, at: usize) {
        let node = &self.nodes[at];
        match node.take() {
            Process::Up(mut server) => {
                server.signal(Signal::KILL);
                server.exited().await;
                node.set(Process::Down(server.take_directories()));
            }
            other => node.set(other),
        }
    }

    /// Returns a client of a node with this key.
    pub fn client(&self, at: usize, key: &str) -> Tenant {
        let url = self.nodes[at].url.lock().unwrap().clone();
        Tenant { url, key: key.to_owned(), http: self.http.clone() }
    }

    /// Creates a key of a new tenant. Returns it with the id of the tenant.
    pub async fn tenant(&self) -> (String, String) {
        let created = self.run(&["keys", "create", "test"]).await;
        let key = created.trim().to_owned();
        let id = key.split('_').nth(3).unwrap();
        let tenant = self.query(&format!("SELECT tenant FROM isorun.keys WHERE id = '{id}'"));
        (key, tenant)
    }

    /// Deletes from the object store what nothing refers to, as if it had been there for long.
    /// Nothing may be in progress.
    pub async fn collect_garbage(&self) {
        // Marks data, deletes it, and forgets that it was marked.
        for _ in 0..3 {
            self.store.age();
            eprint!("{}", self.run(&["cluster", "collect"]).await);
        }
    }

    /// Runs `isorun` with the database and the store, and returns its output. It has to succeed.
    pub async fn run(&self, args: &[&str]) -> String {
        let url = format!("postgres://isorun@127.0.0.1:{}/{}", self.postgres.port(), self.database);
        let home = tempfile::tempdir().unwrap();
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_isorun"))
            .args(args)
            .env("ISORUN_CLUSTER", url)
            .envs(FaultyStore::environment(self.store.port))
            .env("XDG_CONFIG_HOME", home.path())
            .stdin(std::process::Stdio::null())
            .output();
        let output = output.await.unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a statement, and returns its rows with columns separated by `|`.
    pub fn query(&self, statement: &str) -> String {
        self.postgres.psql(&self.database, statement).unwrap()
    }

    /// Waits until nodes are recorded as dead.
    pub async fn wait_until_dead(&self, nodes: &[usize]) {
        let ids: Vec<String> =
            nodes.iter().map(|at| format!("'{}'", self.nodes[*at].id())).collect();
        let statement = format!(
            "SELECT COUNT(*) FROM isorun.nodes WHERE state = 'dead' AND id IN ({})",
            ids.join(",")
        );
        wait_until("the nodes are declared dead", async || {
            self.query(&statement) == nodes.len().to_string()
        })
        .await;
    }

    /// Stops the database at once, and starts it again after a time.
    pub async fn restart_database(&self, away: Duration) {
        let postgres = Arc::clone(&self.postgres);
        let restarting = tokio::task::spawn_blocking(move || {
            postgres.stop();
            std::thread::sleep(away);
            postgres.restart();
        });
        restarting.await.unwrap();
    }

    /// Restores every link, and starts the nodes that are not running.
    pub async fn heal(&self) {
        self.store.set(StoreState::Whole);
        for node in &self.nodes {
            for link in [&node.database, &node.peers, &node.store] {
                link.set(LinkState::Whole);
            }
        }
        for at in 0..NODES {
            self.nodes[at].signal(Signal::CONT);
            self.revive(at).await;
        }
    }
}

impl Node {
    pub fn id(&self) -> &str {
        &self.id
    }

    fn set(&self, process: Process) {
        if let Process::Up(server) = &process {
            self.url.lock().unwrap().clone_from(&server.url);
        }
        *self.process.lock().unwrap() = process;
    }

    fn take(&self) -> Process {
        std::mem::replace(&mut self.process.lock().unwrap(), Process::Changing)
    }

    /// Sends a signal to the server, if it is running.
    pub fn signal(&self, signal: Signal) {
        if let Process::Up(server) = &*self.process.lock().unwrap() {
            server.signal(signal);
        }
    }

    /// Reports whether the server is running. One that has exited by itself, since it was
    /// declared dead, can then be started again.
    pub fn notice_exit(&self) -> bool {
        let mut process = self.process.lock().unwrap();
        if let Process::Up(server) = &mut *process
            && server.has_exited()
        {
            let Process::Up(server) = std::mem::replace(&mut *process, Process::Changing) else {
                unreachable!()
            };
            *process = Process::Down(server.take_directories());
        }
        matches!(*process, Process::Up(_))
    }

    /// Returns the data directory.
    pub fn data(&self) -> Option<PathBuf> {
        match &*self.process.lock().unwrap() {
            Process::Up(server) => Some(server.data.path().to_owned()),
            Process::Down((data, _)) => Some(data.path().to_owned()),
            Process::Changing => None,
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // What a node that is not running has left.
        for node in &self.nodes {
            let Process::Down((data, _)) = &*node.process.lock().unwrap() else { continue };
            let path = data.path().to_str().unwrap().to_owned();
            let left = command_lines_with(&path);
            if !left.is_empty() {
                eprintln!("left by a node that was killed: {left:#?}");
            }
        }
    }
}
