//! A server process for one test.

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

/// The time limit of a test.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs a test, and fails it if it exceeds its time limit.
pub fn bounded(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(TEST_TIMEOUT, test).await.expect("the test timed out")
    });
    runtime.shutdown_background();
}

/// Writes a private key to a file that only its owner can read.
pub fn write_key(path: &Path, pem: &str) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(pem.as_bytes()).unwrap();
}

/// A server with its own data and configuration directories.
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

    /// Starts a server that pulls images, from a registry in place of Docker Hub.
    pub fn start_pulling(registry: &str) -> Self {
        let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = command_in(&data, &home);
        command.arg("serve").env("ISORUN_REGISTRY", registry);
        Self::launch(command, data, home)
    }

    /// Starts a server with the resource limits that these `ulimit` commands set.
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
            // The last line.
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
        // Idle connections are closed before the shortest idle timeout of any test: a request
        // on a connection that the server has just closed would fail.
        let http = Client::builder().pool_idle_timeout(Duration::from_millis(800));
        let http = http.timeout(TEST_TIMEOUT).build().unwrap();
        Self { child: Some(child), url, key, data, home, http }
    }

    /// Returns a command that runs `isorun` as the server's own user.
    pub fn command(&self) -> Command {
        command_in(&self.data, &self.home)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Creates a key, by default with a new tenant.
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

    /// Creates a sandbox with the image `host`.
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

    /// Returns a client of this server with another key.
    pub fn as_tenant(&self, key: &str) -> Tenant {
        Tenant { url: self.url.clone(), key: key.to_owned(), http: self.http.clone() }
    }

    /// Creates a tenant.
    pub fn tenant(&self) -> Tenant {
        self.as_tenant(&self.new_key(&[]))
    }

    /// Returns a field of `/proc/PID/status` of the server, in KiB.
    pub fn status_kib(&self, field: &str) -> u64 {
        let pid = self.child.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Returns the resident memory of the server, in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.status_kib("VmRSS") / 1024
    }

    /// Returns the number of open file descriptors of the server.
    pub fn descriptors(&self) -> usize {
        let pid = self.child.as_ref().unwrap().id();
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    /// Returns `host:port`.
    pub fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    /// Asserts that the server creates sandboxes and runs commands.
    pub async fn assert_healthy(&self) {
        let id = self.create().await;
        assert_eq!(self.exec(&id, "echo well").await["stdout"], "well\n");
        self.destroy(&id).await;
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().unwrap();
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until the server has exited.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("the server did not exit");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the server, and returns its directories.
    pub fn stop(mut self, signal: rustix::process::Signal) -> (TempDir, TempDir) {
        self.signal(signal);
        self.wait();
        let empty = || tempfile::tempdir().unwrap();
        (std::mem::replace(&mut self.data, empty()), std::mem::replace(&mut self.home, empty()))
    }
}

/// A client of a server with the key of one tenant.
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

    /// Asserts that this tenant can create sandboxes and run commands.
    pub async fn assert_served(&self) {
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

/// Sends a request, and returns the status and the JSON body of the response.
pub async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{status}: the body is not JSON: {text}"));
    (status, body)
}

/// Asserts the status, the code and a part of the message of an error response.
#[track_caller]
pub fn refused(answer: &(StatusCode, Value), status: u16, code: &str, text: &str) {
    let (found, body) = answer;
    assert_eq!((found.as_u16(), body["code"].as_str().unwrap()), (status, code), "{body}");
    let message = body["error"].as_str().unwrap();
    assert!(message.contains(text), "{message:?} does not contain {text:?}");
}
