//! Logs and limits of the server's operator.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{Server, TEST_TIMEOUT, bounded, refused};

/// A process that is killed if the test fails.
struct KillOnDrop(Child);

impl KillOnDrop {
    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < TEST_TIMEOUT, "the process did not exit");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server that logs JSON to a pipe. Returns its process, its address and a key.
fn start_logging_server(other: &Server, data: &TempDir) -> (KillOnDrop, String, String) {
    let mut command = other.command();
    command.env("ISORUN_DATA_DIR", data.path()).args(["serve", "--no-pull", "--warm", "0"]);
    command.args(["--listen", "127.0.0.1:0", "--log", "debug", "--log-format", "json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = KillOnDrop(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let url = lines.find_map(|line| Some(line.split_once("listens on ")?.1.to_owned())).unwrap();
    // Read standard output up to its last line.
    lines.find(|line| line.contains("ISORUN_API_KEY=")).unwrap();
    let mut keys = other.command();
    keys.env("ISORUN_DATA_DIR", data.path()).args(["keys", "create", "test"]);
    let key = String::from_utf8(keys.output().unwrap().stdout).unwrap().trim().to_owned();
    assert!(key.starts_with("isorun_live_"), "{key}");
    (child, url, key)
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let other = Server::start();
    let data = tempfile::tempdir().unwrap();
    let (mut child, url, key) = start_logging_server(&other, &data);
    drop(child.0.stderr.take());
    bounded(async {
        let request = other.http.post(format!("{url}/v1/runs")).bearer_auth(&key);
        let made = request.json(&json!({ "image": "host" })).send().await.unwrap();
        assert_eq!(made.status(), 200);
    });
    kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
    assert!(child.wait().success());
}

#[test]
fn the_log_can_be_read_by_programs_and_has_no_key_in_it() {
    let other = Server::start();
    let data = tempfile::tempdir().unwrap();
    let (mut child, url, key) = start_logging_server(&other, &data);
    bounded(async {
        let request = other.http.post(format!("{url}/v1/runs")).bearer_auth(&key);
        let made = request.json(&json!({ "image": "no-such-image" })).send().await.unwrap();
        assert_eq!(made.status(), 404);
    });
    kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
    let mut log = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(child.wait().success());
    let entries: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for entry in &entries {
        assert!(entry["timestamp"].is_string() && entry["level"].is_string(), "{entry}");
    }
    let request = entries.iter().find(|entry| entry["route"] == "/v1/runs").unwrap();
    assert_eq!((&request["status"], request["ms"].is_u64()), (&json!(404), true), "{request}");
    assert!(!log.contains(&key));
}

#[test]
fn more_requests_at_once_than_there_are_places_are_turned_away() {
    let server = Server::start_with(&["--max-requests", "2"]);
    bounded(async {
        let id = server.create().await;
        let path = format!("/v1/runs/{id}/exec");
        let go = "touch /tmp/begun; while [ ! -e /tmp/end ]; do sleep 0.02; done; echo done";
        let first = server.post(&path, json!({ "command": go }));
        let others = async {
            server.exec(&id, "while [ ! -e /tmp/begun ]; do sleep 0.02; done").await;
            let (one, two) = tokio::join!(
                server.post(&path, json!({ "command": "sleep 1" })),
                server.post(&path, json!({ "command": "sleep 1" })),
            );
            let (turned_away, served) = if one.0 == 200 { (two, one) } else { (one, two) };
            assert_eq!(served.0, 200, "{}", served.1);
            refused(&turned_away, 503, "unavailable", "too many requests");
            server.exec(&id, "touch /tmp/end").await;
        };
        let (outcome, ()) = tokio::join!(first, others);
        assert_eq!(outcome.1["stdout"], "done\n");
    });
}
