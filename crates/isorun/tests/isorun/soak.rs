//! Random operations, compared with a model of the expected state: no byte is lost, and
//! nothing is left at the end.
//!
//! `ISORUN_SOAK` sets the number of operations (default: 40). The random seed is printed;
//! `ISORUN_SOAK_SEED` sets it.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use reqwest::Method;
use serde_json::json;

use crate::fixture::{Server, answer};

/// The expected contents of a sandbox or a snapshot.
#[derive(Clone, Debug, Default)]
struct Contents {
    /// The size of the file of each write, in bytes, by its number.
    files: BTreeMap<u32, u32>,
    /// The value of the counter process.
    count: u32,
}

#[derive(Clone, Debug)]
struct Run {
    id: String,
    contents: Contents,
    hibernated: bool,
}

struct Model {
    server: Server,
    runs: Vec<Run>,
    snapshots: Vec<(String, Contents)>,
    random: u64,
    writes: u32,
}

/// Starts a process that counts the lines it receives, in memory only.
const COUNTER: &str = "mkfifo /tmp/in /tmp/out; nohup setsid sh -c 'n=0; while :; do read x < /tmp/in; \
    n=$((n + 1)); echo $n > /tmp/out; done' >/dev/null 2>&1 &";
const INCREMENT: &str = "echo x > /tmp/in; cat /tmp/out";

impl Model {
    fn draw(&mut self, bound: usize) -> usize {
        // Xorshift is random enough for this purpose.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % bound.max(1) as u64).unwrap()
    }

    async fn text(&self, id: &str, command: &str) -> String {
        let outcome = self.server.exec(id, command).await;
        assert_eq!(outcome["exit_code"], 0, "{command}: {outcome}");
        outcome["stdout"].as_str().unwrap().to_owned()
    }

    async fn step(&mut self) {
        let choice = self.draw(20);
        if self.runs.is_empty() || choice == 0 && self.runs.len() < 5 {
            let id = self.server.create_with(json!({ "mem_mib": 192, "timeout": 0 })).await;
            self.text(&id, COUNTER).await;
            self.runs.push(Run { id, contents: Contents::default(), hibernated: false });
            return;
        }
        let at = self.draw(self.runs.len());
        let run = self.runs[at].clone();
        let path = |what: &str| format!("/v1/runs/{}/{what}", run.id);
        match choice {
            1 | 2 if !run.hibernated && self.runs.len() < 5 => {
                let count = 1 + self.draw(2);
                let (status, body) =
                    self.server.post(&path("fork"), json!({ "count": count })).await;
                assert_eq!(status, 200, "{body}");
                for child in body["forks"].as_array().unwrap() {
                    let id = child["id"].as_str().unwrap().to_owned();
                    self.runs.push(Run { id, ..run.clone() });
                }
            }
            3..=6 => {
                let (status, body) = self.server.post(&path("hibernate"), json!({})).await;
                assert_eq!(status, 200, "{body}");
                self.runs[at].hibernated = true;
            }
            7..=10 => {
                let (status, body) = self.server.post(&path("resume"), json!({})).await;
                assert_eq!(status, 200, "{body}");
                self.runs[at].hibernated = false;
                self.check(at).await;
            }
            11 if self.snapshots.len() < 4 => {
                let (status, body) = self.server.post(&path("snapshot"), json!({})).await;
                assert_eq!(status, 200, "{body}");
                let id = body["snapshot_id"].as_str().unwrap().to_owned();
                self.snapshots.push((id, run.contents));
            }
            12 | 13 if !self.snapshots.is_empty() && self.runs.len() < 5 => {
                let from = self.draw(self.snapshots.len());
                let (snapshot, contents) = self.snapshots[from].clone();
                let ask = json!({ "snapshot_id": snapshot });
                let (status, body) = self.server.post("/v1/runs/restore", ask).await;
                assert_eq!(status, 200, "{body}");
                let id = body["id"].as_str().unwrap().to_owned();
                self.runs.push(Run { id, contents, hibernated: false });
                self.check(self.runs.len() - 1).await;
            }
            14 => {
                self.server.destroy(&run.id).await;
                self.runs.remove(at);
            }
            _ if run.hibernated => {
                let (status, body) =
                    self.server.post(&path("exec"), json!({ "command": "true" })).await;
                assert_eq!((status.as_u16(), &body["code"]), (409, &json!("run_hibernated")));
            }
            _ => {
                self.writes += 1;
                let (number, bytes) = (self.writes, 1 + self.draw(300_000) as u32);
                let write = format!("yes {number} | head -c {bytes} > /srv/{number}");
                self.text(&run.id, &write).await;
                let contents = &mut self.runs[at].contents;
                contents.files.insert(number, bytes);
                contents.count += 1;
                assert_eq!(
                    self.text(&run.id, INCREMENT).await,
                    format!("{}\n", self.runs[at].contents.count)
                );
            }
        }
    }

    /// Asserts that the sandbox contains exactly the expected files.
    async fn check(&mut self, at: usize) {
        let Run { id, contents, .. } = self.runs[at].clone();
        let mut script = String::from("cd /srv; ls | wc -l\n");
        for (number, bytes) in &contents.files {
            script += &format!("yes {number} | head -c {bytes} | cmp - {number} || exit 9\n");
        }
        assert_eq!(self.text(&id, &script).await, format!("{}\n", contents.files.len()));
        self.runs[at].contents.count += 1;
        assert_eq!(self.text(&id, INCREMENT).await, format!("{}\n", contents.count + 1));
    }
}

#[test]
fn random_operations_lose_nothing_and_leave_nothing() {
    let operations = std::env::var("ISORUN_SOAK").map_or(40, |text| text.parse().unwrap());
    let seed = std::env::var("ISORUN_SOAK_SEED").map_or_else(
        |_| u64::from(std::process::id()) * 2_654_435_761,
        |text| text.parse().unwrap(),
    );
    println!("{operations} operations with seed {seed}");
    let server = Server::start();
    let mut model =
        Model { server, runs: Vec::new(), snapshots: Vec::new(), random: seed | 1, writes: 0 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let limit = Duration::from_secs(60 + 10 * operations);
        let work = async {
            for operation in 0..operations {
                model.step().await;
                println!("{operation}: {} runs", model.runs.len());
            }
            for at in 0..model.runs.len() {
                if model.runs[at].hibernated {
                    let path = format!("/v1/runs/{}/resume", model.runs[at].id);
                    assert_eq!(model.server.post(&path, json!({})).await.0, 200);
                }
                model.check(at).await;
                model.server.destroy(&model.runs[at].id).await;
            }
            for (id, _) in &model.snapshots {
                let request = model.server.request(Method::DELETE, &format!("/v1/snapshots/{id}"));
                assert_eq!(answer(request).await.0, 200);
            }
        };
        tokio::time::timeout(limit, work).await.expect("the test timed out");
    });
    let state = model.server.data.path().join("state");
    for name in ["drafts", "hibernated", "snapshots"] {
        let left: Vec<_> = fs::read_dir(state.join(name)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let (data, _home) = model.server.stop(rustix::process::Signal::TERM);
    assert_nothing_left(data.path());
}

/// Asserts that no process, control group, mount or container of a sandbox is left.
fn assert_nothing_left(data: &Path) {
    let engine = data.join("engine");
    for part in ["containers", "runsc"] {
        let left: Vec<_> = fs::read_dir(engine.join(part)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let name = data.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(name), "{mounts}");
    let group = isorun_engine::gvisor::group_name(&engine.canonicalize().unwrap());
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        assert!(!hierarchy.path().join(&group).exists(), "{hierarchy:?}");
    }
    assert!(!Path::new("/sys/fs/cgroup").join(&group).exists());
    // Processes that were just killed may take a moment to exit.
    for attempt in 0.. {
        let left: Vec<_> = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
            .filter(|line| line.contains(name))
            .collect();
        if left.is_empty() {
            return;
        }
        assert!(attempt < 250, "{left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
