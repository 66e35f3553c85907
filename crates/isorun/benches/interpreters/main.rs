//! The costs of interpreters over HTTP: a run that is created, used once and destroyed, one
//! more cell of a run, and the memory of many runs at the same time.
//!
//! It has its own harness instead of criterion, because the last row is one measurement of a
//! server's process.
// A panic is how a benchmark fails.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The number of samples of each row about time.
const SAMPLES: usize = 300;
/// The number of runs that exist at the same time.
const ALIVE: usize = 1000;
const IMAGES: [&str; 2] = ["isola:python", "isola:js"];

#[tokio::main]
async fn main() {
    println!("| row | isola:python | isola:js |\n|---|---|---|");
    let server = Server::start().await;
    let mut lifecycle = Vec::new();
    let mut cells = Vec::new();
    for image in IMAGES {
        lifecycle.push(
            median(async || {
                let run = server.create(image).await;
                server.run_code(&run).await;
                server.destroy(&run).await;
            })
            .await,
        );
        let run = server.create(image).await;
        cells.push(median(async || server.run_code(&run).await).await);
        server.destroy(&run).await;
    }
    print_row("create a run, run code, destroy it, over HTTP", &lifecycle);
    print_row("run code in an existing run, over HTTP", &cells);
    drop(server);
    let mut memory = Vec::new();
    for image in IMAGES {
        memory.push(memory_of_many(image).await);
    }
    print_row(&format!("memory of the server with {ALIVE} runs, each used once"), &memory);
}

fn print_row(name: &str, values: &[String]) {
    println!("| {name} | {} |", values.join(" | "));
}

/// Returns the median time of an operation.
async fn median(operation: impl AsyncFn()) -> String {
    let mut times = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let started = Instant::now();
        operation().await;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    format!("{:.2} ms", times[SAMPLES / 2].as_secs_f64() * 1000.0)
}

/// Returns the memory of a server with many runs.
async fn memory_of_many(image: &str) -> String {
    let server = Server::start().await;
    for _ in 0..ALIVE {
        let run = server.create(image).await;
        server.run_code(&run).await;
    }
    format!("{} MiB", server.memory_kib() / 1024)
}

/// An `isorun serve` process.
struct Server {
    child: Child,
    url: String,
    key: String,
    http: reqwest::Client,
    _directory: TempDir,
}

impl Server {
    /// Starts a server, and waits until it has loaded the runtimes.
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_isorun"));
        command.args(["serve", "--no-pull", "--listen", "127.0.0.1:0", "--log", "error"]);
        command.args(["--warm", "0", "--max-runs", "2000", "--max-sandboxes", "2000"]);
        command.args(["--tenant-share", "100", "--rate", "100000"]);
        command.env("ISORUN_DATA_DIR", directory.path().join("data"));
        command.env("XDG_CONFIG_HOME", directory.path());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("ISORUN_API_KEY=")).unwrap().unwrap();
        let written = std::fs::read(directory.path().join("isorun/client.json")).unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        let text = |name: &str| written[name].as_str().unwrap().to_owned();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(300)).build().unwrap();
        let (url, key) = (text("api_url"), text("api_key"));
        let server = Self { child, url, key, http, _directory: directory };
        for image in IMAGES {
            let run = server.create(image).await;
            server.destroy(&run).await;
        }
        server
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.key);
        let answer = request.json(&body).send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{body}");
        body
    }

    async fn create(&self, image: &str) -> String {
        // Idle runs of this benchmark are not destroyed before its end.
        let body = json!({ "image": image, "timeout": 0 });
        self.post("/v1/runs", body).await["id"].as_str().unwrap().to_owned()
    }

    async fn run_code(&self, run: &str) {
        let body = json!({ "code": "1 + 1" });
        let execution = self.post(&format!("/v1/runs/{run}/code"), body).await;
        assert_eq!(execution["results"][0]["data"]["text/plain"], "2", "{execution}");
    }

    async fn destroy(&self, run: &str) {
        let url = format!("{}/v1/runs/{run}", self.url);
        let answer = self.http.delete(url).bearer_auth(&self.key).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    /// Returns the memory of the server's process, in KiB, in which pages that are mapped
    /// several times count once.
    fn memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let rollup = std::fs::read_to_string(path).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}
