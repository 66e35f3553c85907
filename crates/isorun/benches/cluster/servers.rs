//! The systems under test: a server of one machine, the nodes of a cluster, and their clients.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{PostgresServer, wait::wait_until};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
const UPLOAD_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// An `isorun serve` process.
pub struct Server {
    child: Child,
    client: Client,
    directory: TempDir,
}

impl Server {
    /// Starts a server of this build, with the default options and these.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_program(env!("CARGO_BIN_EXE_isorun").as_ref(), arguments)
    }

    pub fn start_program(program: &OsStr, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(["serve", "--no-pull", "--listen", "127.0.0.1:0", "--log", "error"]);
        command.args(["--rate", "100000"]).args(arguments);
        command.env("ISORUN_DATA_DIR", directory.path().join("data"));
        command.env("XDG_CONFIG_HOME", directory.path());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let key_line = lines.find(|line| line.as_ref().unwrap().contains("ISORUN_API_KEY="));
        key_line.expect("the server starts").unwrap();
        let written = std::fs::read(directory.path().join("isorun/client.json")).unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        let text = |name: &str| written[name].as_str().unwrap().to_owned();
        let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build().unwrap();
        let client = Client { url: text("api_url"), key: text("api_key"), http };
        Self { child, client, directory }
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Returns the id of a node.
    fn node(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("data/node")).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

/// Two nodes with a PostgreSQL server that writes to disk what it commits.
pub struct Cluster {
    /// Before the database, so that they stop before it does.
    pub nodes: Vec<Server>,
    url: String,
    postgres: PostgresServer,
}

impl Cluster {
    /// Starts a cluster whose nodes have these options, and one key at both.
    pub async fn start(arguments: &[&str]) -> Self {
        let postgres = PostgresServer::start_with(&["fsync=on"]);
        let url = postgres.database();
        let own = ["--cluster", &url, "--peer-listen", "127.0.0.1:0"];
        let arguments = [&own[..], arguments].concat();
        let mut nodes: Vec<Server> = (0..2).map(|_| Server::start(&arguments)).collect();
        nodes[1].client.key = nodes[0].client.key.clone();
        let cluster = Self { nodes, url, postgres };
        cluster.all_know(2).await;
        cluster
    }

    /// Makes a node accept new sandboxes or not, and waits until both nodes know. The other node
    /// accepts them.
    pub async fn drain(&self, at: usize, is_draining: bool) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isorun"));
        command.args(["node", "--cluster", &self.url, "drain", &self.nodes[at].node()]);
        if !is_draining {
            command.arg("--undo");
        }
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
        self.all_know(if is_draining { 1 } else { 2 }).await;
    }

    /// Waits until both nodes know how many of them accept new sandboxes.
    async fn all_know(&self, accepting: usize) {
        let line = format!("isorun_cluster_nodes_accepting {accepting}");
        for node in &self.nodes {
            wait_until("the node knows which nodes accept sandboxes", async || {
                let metrics = node.client.request(Method::GET, "/metrics").send().await.unwrap();
                metrics.text().await.unwrap().lines().any(|found| found == line)
            })
            .await;
        }
    }

    /// Asserts that all sandboxes were created on one node.
    pub fn assert_all_on(&self, at: usize) {
        let found = self.query("SELECT DISTINCT node FROM isorun.runs");
        assert_eq!(found, self.nodes[at].node(), "sandboxes were created elsewhere");
    }

    /// Asserts that a sandbox is one of this node.
    pub fn assert_on(&self, at: usize, run: &str) {
        let found = self.query(&format!("SELECT node FROM isorun.runs WHERE id = '{run}'"));
        assert_eq!(found, self.nodes[at].node());
    }

    /// Waits until every checkpoint is in the object store.
    pub async fn uploaded(&self) {
        let missing = "SELECT (SELECT COUNT(*) FROM isorun.runs WHERE status = 'hibernated'
            AND tree_generation IS DISTINCT FROM generation)
            + (SELECT COUNT(*) FROM isorun.snapshots WHERE tree IS NULL)";
        // Less often than `wait_until`: each look is a process.
        while self.query(missing) != "0" {
            tokio::time::sleep(UPLOAD_POLL_INTERVAL).await;
        }
    }

    fn query(&self, statement: &str) -> String {
        let database = self.url.rsplit_once('/').unwrap().1;
        self.postgres.psql(database, statement).unwrap()
    }
}

/// A client of one server.
#[derive(Clone)]
pub struct Client {
    url: String,
    key: String,
    http: reqwest::Client,
}

impl Client {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.request(Method::POST, path).json(&body).send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{path}: {body}");
        body
    }

    /// Creates a sandbox, by default of the machine's own files.
    pub async fn create(&self, mut parameters: Value) -> String {
        // Idle sandboxes of this benchmark are not destroyed before its end.
        parameters["timeout"] = json!(0);
        if parameters["image"].is_null() {
            parameters["image"] = json!("host");
        }
        self.post("/v1/runs", parameters).await["id"].as_str().unwrap().to_owned()
    }

    pub async fn destroy(&self, run: &str) {
        let answer = self.request(Method::DELETE, &format!("/v1/runs/{run}")).send().await.unwrap();
        assert!(answer.status().is_success());
        answer.bytes().await.unwrap();
    }

    pub async fn exec(&self, run: &str, command: &str) {
        let body = json!({ "command": command, "timeout": 120 });
        let output = self.post(&format!("/v1/runs/{run}/exec"), body).await;
        assert_eq!(output["exit_code"], 0, "{output}");
    }

    pub async fn run_code(&self, run: &str) {
        let body = json!({ "code": "1 + 1" });
        let execution = self.post(&format!("/v1/runs/{run}/code"), body).await;
        assert_eq!(execution["results"][0]["data"]["text/plain"], "2", "{execution}");
    }

    pub async fn upload(&self, run: &str, path: &str, content: Vec<u8>) {
        let path = format!("/v1/runs/{run}/files/upload?path={path}");
        let answer = self.request(Method::POST, &path).body(content).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    /// Reads a file of a sandbox, and returns its size.
    pub async fn download(&self, run: &str, path: &str) -> usize {
        let path = format!("/v1/runs/{run}/files/download?path={path}");
        let mut answer = self.request(Method::GET, &path).send().await.unwrap();
        assert!(answer.status().is_success());
        let mut size = 0;
        while let Some(chunk) = answer.chunk().await.unwrap() {
            size += chunk.len();
        }
        size
    }

    pub async fn delete_snapshot(&self, id: &str) {
        let path = format!("/v1/snapshots/{id}");
        assert!(self.request(Method::DELETE, &path).send().await.unwrap().status().is_success());
    }
}

/// A shell session in a sandbox.
pub struct Shell(WebSocketStream<TcpStream>);

impl Shell {
    pub async fn open(client: &Client, run: &str) -> Self {
        let address = client.url.strip_prefix("http://").unwrap();
        let url = format!("ws://{address}/v1/runs/{run}/shell");
        let mut request = url.into_client_request().unwrap();
        let key = format!("Bearer {}", client.key);
        request.headers_mut().insert("authorization", key.parse().unwrap());
        let stream = TcpStream::connect(address).await.unwrap();
        // As the clients of the SDK set it.
        stream.set_nodelay(true).unwrap();
        let mut shell = Self(client_async(request, stream).await.unwrap().0);
        assert_eq!(shell.next_text().await["type"], "ready");
        shell
    }

    /// Runs a command, which has to succeed.
    pub async fn run(&mut self, command: &str) {
        let message = json!({ "type": "run", "command": command, "timeout": 30 });
        self.0.send(Message::Text(message.to_string().into())).await.unwrap();
        let result = self.next_text().await;
        assert_eq!(result, json!({ "type": "result", "exit_code": 0 }));
    }

    async fn next_text(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.0.next().await.unwrap().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }
}
