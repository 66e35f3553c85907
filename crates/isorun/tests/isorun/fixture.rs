//! A real server, for one test.

use std::{
    future::Future,
    io::{BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a test may take.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a test, and fails it when it takes too long.
pub fn bounded(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it takes too long") });
    runtime.shutdown_background();
}

/// Writes the file of a private key, for its owner only.
pub fn write_key(path: &Path, pem: &str) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(pem.as_bytes()).unwrap();
}

/// A server with folders of its own.
pub struct Server {
    child: Option<Child>,
    pub url: String,
    /// The key in the client configuration that the server wrote.
    pub key: String,
    pub data: TempDir,
    pub home: TempDir,
    pub http: Client,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), args)
    }

    pub fn start_in(data: TempDir, home: TempDir, args: &[&str]) -> Self {
        let mut command = command_in(&data, &home);
        command.arg("serve").arg("--no-pull").args(args);
        Self::launch(command, data, home)
    }

    /// A server that pulls images, from a registry in place of Docker Hub.
    pub fn start_pulling(registry: &str) -> Self {
        let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = command_in(&data, &home);
        command.arg("serve").env("ISORUN_REGISTRY", registry);
        Self::launch(command, data, home)
    }

    /// A server whose process has limits, as `ulimit` of a shell sets them.
    pub fn start_limited(limits: &str, args: &[&str]) -> Self {
        let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let plain = command_in(&data, &home);
        let mut command = Command::new("sh");
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.arg("-c").arg(format!("{limits} && exec \"$0\" \"$@\"")).arg(plain.get_program());
        command.arg("serve").arg("--no-pull").args(args);
        Self::launch(command, data, home)
    }

    fn launch(mut command: Command, data: TempDir, home: TempDir) -> Self {
        command.args(["--listen", "127.0.0.1:0", "--warm", "0", "--log", "warn"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut url = None;
        for line in stdout.lines() {
            let line = line.unwrap();
            if let Some((_, found)) = line.split_once("listens on ") {
                url = Some(found.to_owned());
            }
            // Its last line.
            if line.contains("ISORUN_API_KEY=") {
                break;
            }
        }
        let Some(url) = url else {
            let status = child.wait().unwrap();
            panic!("the server did not start: {status}");
        };
        let written = std::fs::read_to_string(home.path().join("isorun/client.json")).unwrap();
        let written: Value = serde_json::from_str(&written).unwrap();
        let key = written["api_key"].as_str().unwrap().to_owned();
        // Connections are not kept for longer than the shortest limit of any test: one
        // that the server has just closed would fail a request.
        let http = Client::builder().pool_idle_timeout(Duration::from_millis(800));
        let http = http.timeout(PATIENCE).build().unwrap();
        Self { child: Some(child), url, key, data, home, http }
    }

    /// The command, as the server's own user would run it.
    pub fn command(&self) -> Command {
        command_in(&self.data, &self.home)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// A new key, with a tenant of its own.
    pub fn new_key(&self, args: &[&str]) -> String {
        let output = self.command().args(["keys", "create", "test"]).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(&body)).await
    }

    /// A run over the machine's own files.
    pub async fn create(&self) -> String {
        self.create_with(json!({})).await
    }

    pub async fn create_with(&self, more: Value) -> String {
        let mut body = json!({ "image": "host" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, run) = self.post("/v1/runs", body).await;
        assert_eq!(status, 200, "{run}");
        run["id"].as_str().unwrap().to_owned()
    }

    pub async fn exec(&self, id: &str, command: &str) -> Value {
        let (status, body) =
            self.post(&format!("/v1/runs/{id}/exec"), json!({ "command": command })).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub async fn destroy(&self, id: &str) -> Value {
        let (status, body) = answer(self.request(Method::DELETE, &format!("/v1/runs/{id}"))).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The same server for the holder of another key.
    pub fn as_tenant(&self, key: &str) -> Tenant {
        Tenant { url: self.url.clone(), key: key.to_owned(), http: self.http.clone() }
    }

    /// A new tenant of it.
    pub fn tenant(&self) -> Tenant {
        self.as_tenant(&self.new_key(&[]))
    }

    /// A field of the status that the kernel keeps of the process, in KiB.
    pub fn status_kib(&self, field: &str) -> u64 {
        let pid = self.child.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The memory of the process, in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.status_kib("VmRSS") / 1024
    }

    /// How many descriptors the process has open.
    pub fn descriptors(&self) -> usize {
        let pid = self.child.as_ref().unwrap().id();
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    /// It still makes sandboxes and runs commands.
    pub async fn is_well(&self) {
        let id = self.create().await;
        assert_eq!(self.exec(&id, "echo well").await["stdout"], "well\n");
        self.destroy(&id).await;
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().unwrap();
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("the server does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, and gives its folders.
    pub fn stop(mut self, signal: rustix::process::Signal) -> (TempDir, TempDir) {
        self.signal(signal);
        self.wait();
        let empty = || tempfile::tempdir().unwrap();
        (std::mem::replace(&mut self.data, empty()), std::mem::replace(&mut self.home, empty()))
    }
}

/// What one tenant does at a server.
#[derive(Clone)]
pub struct Tenant {
    pub url: String,
    pub key: String,
    pub http: Client,
}

impl Tenant {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn create(&self, more: Value) -> String {
        let mut body = json!({ "image": "host" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, run) = self.post("/v1/runs", body).await;
        assert_eq!(status, 200, "{run}");
        run["id"].as_str().unwrap().to_owned()
    }

    pub async fn exec(&self, id: &str, command: &str) -> Value {
        let (status, body) =
            self.post(&format!("/v1/runs/{id}/exec"), json!({ "command": command })).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub async fn destroy(&self, id: &str) {
        let (status, body) = answer(self.request(Method::DELETE, &format!("/v1/runs/{id}"))).await;
        assert_eq!(status, 200, "{body}");
    }

    /// It has sandboxes and commands.
    pub async fn is_served(&self) {
        let id = self.create(json!({})).await;
        assert_eq!(self.exec(&id, "echo well").await["stdout"], "well\n");
        self.destroy(&id).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal(rustix::process::Signal::TERM);
            self.wait();
        }
    }
}

fn command_in(data: &TempDir, home: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isorun"));
    for name in ["ISORUN_API_URL", "ISORUN_API_KEY", "ISORUN_LOG"] {
        command.env_remove(name);
    }
    command.env("ISORUN_DATA_DIR", data.path()).env("XDG_CONFIG_HOME", home.path());
    command
}

pub async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: no JSON: {text}"));
    (status, body)
}

/// Asserts that a request failed as it should.
#[track_caller]
pub fn refused(answer: &(StatusCode, Value), status: u16, code: &str, text: &str) {
    let (found, body) = answer;
    assert_eq!((found.as_u16(), body["code"].as_str().unwrap()), (status, code), "{body}");
    let message = body["error"].as_str().unwrap();
    assert!(message.contains(text), "{message:?} does not say {text:?}");
}
