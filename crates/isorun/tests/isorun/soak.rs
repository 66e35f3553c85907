//! Random operations, compared with a model of the expected state: no byte is lost, and
//! nothing is left at the end.
//!
//! `ISORUN_SOAK` sets the number of operations (default: 40). The random seed is printed;
//! `ISORUN_SOAK_SEED` sets it.

use std::{collections::BTreeMap, fs};

use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use test_macros::server_test;
use test_support::remains;

use crate::support::{Server, answer};

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

    async fn step(&mut self) {
        let choice = self.draw(20);
        if self.runs.is_empty() || choice == 0 && self.runs.len() < 5 {
            let id = self.server.create_with(json!({ "mem_mib": 192, "timeout": 0 })).await;
            self.server.text(&id, COUNTER).await;
            self.runs.push(Run { id, contents: Contents::default(), hibernated: false });
            return;
        }
        let at = self.draw(self.runs.len());
        let run = self.runs[at].clone();
        match choice {
            1 | 2 if !run.hibernated && self.runs.len() < 5 => {
                let count = 1 + self.draw(2);
                for id in self.server.fork(&run.id, count).await {
                    self.runs.push(Run { id, ..run.clone() });
                }
            }
            3..=6 => {
                self.server.change(&run.id, "hibernate").await;
                self.runs[at].hibernated = true;
            }
            7..=10 => {
                self.server.change(&run.id, "resume").await;
                self.runs[at].hibernated = false;
                self.check(at).await;
            }
            11 if self.snapshots.len() < 4 => {
                let id = self.server.snapshot(&run.id).await;
                self.snapshots.push((id, run.contents));
            }
            12 | 13 if !self.snapshots.is_empty() && self.runs.len() < 5 => {
                let from = self.draw(self.snapshots.len());
                let (snapshot, contents) = self.snapshots[from].clone();
                let id = self.server.restore(&snapshot).await;
                self.runs.push(Run { id, contents, hibernated: false });
                self.check(self.runs.len() - 1).await;
            }
            14 => {
                self.server.destroy(&run.id).await;
                self.runs.remove(at);
            }
            _ if run.hibernated => {
                let path = format!("/v1/runs/{}/exec", run.id);
                let (status, body) = self.server.post(&path, json!({ "command": "true" })).await;
                assert_eq!((status.as_u16(), &body["code"]), (409, &json!("run_hibernated")));
            }
            _ => {
                self.writes += 1;
                let (number, bytes) = (self.writes, 1 + self.draw(300_000) as u32);
                let write = format!("yes {number} | head -c {bytes} > /srv/{number}");
                self.server.text(&run.id, &write).await;
                let contents = &mut self.runs[at].contents;
                contents.files.insert(number, bytes);
                contents.count += 1;
                assert_eq!(
                    self.server.text(&run.id, INCREMENT).await,
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
        assert_eq!(self.server.text(&id, &script).await, format!("{}\n", contents.files.len()));
        self.runs[at].contents.count += 1;
        assert_eq!(self.server.text(&id, INCREMENT).await, format!("{}\n", contents.count + 1));
    }
}

/// Returns the number of operations.
fn operations() -> u64 {
    std::env::var("ISORUN_SOAK").map_or(40, |text| text.parse().unwrap())
}

#[server_test(seconds = 60 + 10 * operations())]
async fn random_operations_lose_no_data_and_leave_nothing(server: Server) {
    let operations = operations();
    let seed = std::env::var("ISORUN_SOAK_SEED").map_or_else(
        |_| u64::from(std::process::id()) * 2_654_435_761,
        |text| text.parse().unwrap(),
    );
    println!("{operations} operations with seed {seed}");
    let mut model =
        Model { server, runs: Vec::new(), snapshots: Vec::new(), random: seed | 1, writes: 0 };
    for operation in 0..operations {
        model.step().await;
        println!("{operation}: {} runs", model.runs.len());
    }
    for at in 0..model.runs.len() {
        if model.runs[at].hibernated {
            model.server.change(&model.runs[at].id, "resume").await;
        }
        model.check(at).await;
        model.server.destroy(&model.runs[at].id).await;
    }
    for (id, _) in &model.snapshots {
        let request = model.server.request(Method::DELETE, &format!("/v1/snapshots/{id}"));
        assert_eq!(answer(request).await.0, 200);
    }
    let state = model.server.data.path().join("state");
    for name in ["drafts", "hibernated", "snapshots"] {
        let left: Vec<_> = fs::read_dir(state.join(name)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let (data, _home) = model.server.stop(Signal::TERM).await;
    let engine = data.path().join("engine");
    let group = isorun_engine::gvisor::group_name(&engine.canonicalize().unwrap());
    remains::assert_none(data.path(), &engine, &group).await;
}
