//! A server process for one test, and its clients.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr},
    ops::{Deref, DerefMut},
    os::unix::{
        fs::{chown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{ChildStderr, ExitStatus, Output, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

use reqwest::{ClientBuilder, Method, RequestBuilder, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{
    KillOnDrop,
    process::wait_timeout,
    wait::{EVENT_TIMEOUT, wait_for},
};
use tokio::{io::AsyncWriteExt, process::Command};

/// The user and group id of a user without privileges.
const UNPRIVILEGED_ID: u32 = 65_534;
/// The time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A server with its own data and configuration directories, and a client with the key in the
/// client configuration that it wrote. It is stopped when this is dropped.
pub struct Server {
    child: Option<KillOnDrop>,
    client: Tenant,
    pub data: TempDir,
    pub home: TempDir,
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
        command.args(["serve", "--no-pull", "--log", "warn"]).args(args);
        Self::launch(&mut command, data, home)
    }

    /// Starts a server with these additional variables in its environment.
    pub fn start_with_environment(
        data: TempDir,
        home: TempDir,
        args: &[&str],
        environment: &[(String, String)],
    ) -> Self {
        let mut command = command_in(&data, &home);
        command.args(["serve", "--no-pull", "--log", "warn"]).args(args);
        command.envs(environment.iter().cloned());
        Self::launch(&mut command, data, home)
    }

    /// Starts a server that has only these runtimes, by the names of their files.
    pub fn start_with_runtimes(files: &[&str]) -> Self {
        let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let runtimes = home.path().join("runtimes");
        std::fs::create_dir(&runtimes).unwrap();
        for file in files {
            symlink(built_runtimes().join(file), runtimes.join(file)).unwrap();
        }
        let mut command = command_in(&data, &home);
        command.args(["serve", "--no-pull", "--log", "error"]).env("ISOLA_RUNTIME_DIR", runtimes);
        Self::launch(&mut command, data, home)
    }

    /// Starts a server that logs as JSON. Returns the pipe with its log, too.
    pub fn start_logging() -> (Self, ChildStderr) {
        let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = command_in(&data, &home);
        command.args(["serve", "--no-pull", "--log", "debug", "--log-format", "json"]);
        let mut server = Self::launch(command.stderr(Stdio::piped()), data, home);
        let log = server.child.as_mut().unwrap().stderr.take().unwrap();
        (server, log)
    }

    /// Starts a server that pulls images, from a registry in place of Docker Hub.
    pub fn start_pulling(registry: &str) -> Self {
        let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = command_in(&data, &home);
        command.args(["serve", "--log", "warn"]).env("ISORUN_REGISTRY", registry);
        Self::launch(&mut command, data, home)
    }

    /// Starts a server with the resource limits that these `ulimit` commands set.
    pub fn start_limited(limits: &str, args: &[&str]) -> Self {
        let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let plain = command_in(&data, &home);
        let mut command = std::process::Command::new("sh");
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.arg("-c").arg(format!("{limits} && exec \"$0\" \"$@\"")).arg(plain.get_program());
        command.args(["serve", "--no-pull", "--log", "warn"]).args(args);
        Self::launch(&mut command, data, home)
    }

    /// Starts a server as an unprivileged user who has no `runsc` and no agent.
    pub fn start_unprivileged() -> Self {
        let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for directory in [data.path(), home.path()] {
            chown(directory, Some(UNPRIVILEGED_ID), Some(UNPRIVILEGED_ID)).unwrap();
        }
        // The user may not be able to reach what was built.
        let program = home.path().join("program");
        std::fs::copy(env!("CARGO_BIN_EXE_isorun"), &program).unwrap();
        let runtimes = home.path().join("runtimes");
        std::fs::create_dir(&runtimes).unwrap();
        for file in ["python.wasm", "python-data.wasm", "js.wasm"] {
            std::fs::copy(built_runtimes().join(file), runtimes.join(file)).unwrap();
        }
        let mut command = program_in(&program, &data, &home);
        command.args(["serve", "--no-pull", "--log", "error"]).env("ISOLA_RUNTIME_DIR", runtimes);
        command.uid(UNPRIVILEGED_ID).gid(UNPRIVILEGED_ID);
        command.env("HOME", home.path()).env("XDG_CACHE_HOME", home.path().join("cache"));
        command.env("PATH", "/nonexistent").env("ISORUN_TOOLS_DIR", "/nonexistent");
        Self::launch(&mut command, data, home)
    }

    fn launch(command: &mut std::process::Command, data: TempDir, home: TempDir) -> Self {
        command.args(["--listen", "127.0.0.1:0", "--warm", "0"]);
        let mut child = KillOnDrop(command.stdout(Stdio::piped()).spawn().unwrap());
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().try_for_each(|line| sender.send(line.unwrap())));
        let mut url = None;
        loop {
            let line = match lines.recv_timeout(EVENT_TIMEOUT) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the server did not start: {}", child.wait().unwrap())
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the server did not start within {EVENT_TIMEOUT:?}")
                }
            };
            if let Some((_, found)) = line.split_once("listens on ") {
                url = Some(found.to_owned());
            }
            // The last line.
            if line.contains("ISORUN_API_KEY=") {
                break;
            }
        }
        let url = url.expect("the server prints its address");
        let written = std::fs::read_to_string(home.path().join("isorun/client.json")).unwrap();
        let written: Value = serde_json::from_str(&written).unwrap();
        let key = written["api_key"].as_str().unwrap().to_owned();
        let http = http_client().build().unwrap();
        Self { child: Some(child), client: Tenant { url, key, http }, data, home }
    }

    /// Returns a command that runs `isorun` as the server's own user. Its process is killed
    /// when it is dropped.
    pub fn command(&self) -> Command {
        let mut command = Command::from(command_in(&self.data, &self.home));
        command.kill_on_drop(true);
        command
    }

    /// Runs `isorun` without standard input.
    pub async fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).stdin(Stdio::null()).output().await.unwrap()
    }

    /// Creates a key, by default with a new tenant.
    pub async fn new_key(&self, args: &[&str]) -> String {
        let output = self.run(&[&["keys", "create", "test"], args].concat()).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Creates a tenant.
    pub async fn tenant(&self) -> Tenant {
        Tenant { key: self.new_key(&[]).await, ..self.client.clone() }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// Returns a field of `/proc/PID/status` of the server, in KiB.
    pub fn status_kib(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Returns the resident memory of the server, in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.status_kib("VmRSS") / 1024
    }

    /// Returns the memory of the server, in MiB, in which pages that are mapped several times
    /// count once.
    pub fn own_memory_mib(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.pid().as_raw_nonzero());
        let rollup = std::fs::read_to_string(path).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Returns the number of open file descriptors of the server.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid().as_raw_nonzero())).unwrap().count()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until the server has exited.
    pub async fn exited(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let status = wait_for("the server has exited", async || child.try_wait().unwrap()).await;
        self.child = None;
        status
    }

    /// Reports whether the server has exited.
    pub fn has_exited(&mut self) -> bool {
        let has_exited =
            self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if has_exited {
            self.child = None;
        }
        has_exited
    }

    /// Stops the server, and returns its directories.
    pub async fn stop(mut self, signal: Signal) -> (TempDir, TempDir) {
        self.signal(signal);
        self.exited().await;
        self.take_directories()
    }

    /// Returns the directories of a server that has exited.
    pub fn take_directories(mut self) -> (TempDir, TempDir) {
        let empty = || tempfile::tempdir().unwrap();
        (std::mem::replace(&mut self.data, empty()), std::mem::replace(&mut self.home, empty()))
    }
}

impl Deref for Server {
    type Target = Tenant;

    fn deref(&self) -> &Tenant {
        &self.client
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Tenant {
        &mut self.client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // A graceful stop destroys the sandboxes.
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        let exited = wait_timeout(&mut child, EVENT_TIMEOUT).is_some();
        assert!(exited || std::thread::panicking(), "the server did not exit");
    }
}

fn http_client() -> ClientBuilder {
    // Idle connections are closed before the shortest idle timeout of any test: a request on a
    // connection that the server has just closed would fail.
    let builder = reqwest::Client::builder().pool_idle_timeout(Duration::from_millis(800));
    builder.timeout(REQUEST_TIMEOUT)
}

/// A client of a server with the key of one tenant.
#[derive(Clone)]
pub struct Tenant {
    pub url: String,
    pub key: String,
    pub http: reqwest::Client,
}

impl Tenant {
    /// Returns a client of the tenant that connects from that address.
    pub fn at(self, address: Ipv4Addr) -> Self {
        let http = http_client().local_address(IpAddr::from(address)).build().unwrap();
        Self { http, ..self }
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

    /// Returns the standard output of a command, which has to succeed.
    pub async fn text(&self, id: &str, command: &str) -> String {
        let outcome = self.exec(id, command).await;
        assert_eq!(outcome["exit_code"], 0, "{command}: {outcome}");
        outcome["stdout"].as_str().unwrap().to_owned()
    }

    /// Writes a file in a sandbox.
    pub async fn upload(&self, id: &str, path: &str, content: impl Into<reqwest::Body>) {
        let path = format!("/v1/runs/{id}/files/upload?path={path}");
        let (status, body) = answer(self.request(Method::POST, &path).body(content)).await;
        assert_eq!(status, 200, "{body}");
    }

    /// Starts a Python program in a sandbox, and waits until it accepts connections at this
    /// port of the loopback address. The port is its argument.
    pub async fn start_program(&self, id: &str, program: &str, port: u16) {
        self.upload(id, &format!("/srv/{port}.py"), program.to_owned()).await;
        let command = format!(
            "setsid python3 /srv/{port}.py {port} >/srv/{port}.log 2>&1 & \
             until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))' \
             2>/dev/null; do sleep 0.05; done"
        );
        self.text(id, &command).await;
    }

    /// Changes the state of a sandbox: `hibernate`, `resume`, or `snapshot`.
    pub async fn change(&self, id: &str, operation: &str) -> Value {
        let (status, body) = self.post(&format!("/v1/runs/{id}/{operation}"), json!({})).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub async fn fork(&self, id: &str, count: usize) -> Vec<String> {
        let path = format!("/v1/runs/{id}/fork");
        let (status, body) = self.post(&path, json!({ "count": count })).await;
        assert_eq!(status, 200, "{body}");
        let forks = body["forks"].as_array().unwrap();
        forks.iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Creates a snapshot, and returns its id.
    pub async fn snapshot(&self, id: &str) -> String {
        self.change(id, "snapshot").await["snapshot_id"].as_str().unwrap().to_owned()
    }

    pub async fn restore(&self, snapshot: &str) -> String {
        let (status, run) = self.post("/v1/runs/restore", json!({ "snapshot_id": snapshot })).await;
        assert_eq!(status, 200, "{run}");
        run["id"].as_str().unwrap().to_owned()
    }

    pub async fn destroy(&self, id: &str) -> Value {
        let (status, body) = answer(self.request(Method::DELETE, &format!("/v1/runs/{id}"))).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Returns the entries of the audit log of a sandbox.
    pub async fn audit_log(&self, id: &str) -> Vec<Value> {
        let request = self.request(Method::GET, &format!("/v1/runs/{id}/audit"));
        let text = request.send().await.unwrap().text().await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns `host:port` of the server.
    pub fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    /// Asserts that the server creates sandboxes and runs commands for this tenant.
    pub async fn assert_served(&self) {
        let id = self.create().await;
        assert_eq!(self.exec(&id, "echo well").await["stdout"], "well\n");
        self.destroy(&id).await;
    }
}

fn command_in(data: &TempDir, home: &TempDir) -> std::process::Command {
    program_in(Path::new(env!("CARGO_BIN_EXE_isorun")), data, home)
}

/// Returns the directory of the runtimes that were built from this tree.
fn built_runtimes() -> PathBuf {
    std::env::var_os("ISOLA_RUNTIME_DIR").expect("cargo sets ISOLA_RUNTIME_DIR").into()
}

fn program_in(program: &Path, data: &TempDir, home: &TempDir) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    for name in ["ISORUN_API_URL", "ISORUN_API_KEY", "ISORUN_CLUSTER", "ISORUN_LOG"] {
        command.env_remove(name);
    }
    command.env("ISORUN_DATA_DIR", data.path()).env("XDG_CONFIG_HOME", home.path());
    command
}

/// Runs a command with this standard input.
pub async fn with_input(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The pipe is closed at the end.
    let writing = async move { stdin.write_all(input).await };
    let (written, output) = tokio::join!(writing, child.wait_with_output());
    written.unwrap();
    output.unwrap()
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
