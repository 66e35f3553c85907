//! Logs and limits of the server's operator.

use std::io::Read;

use futures_util::future::select_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::wait::wait_until;

use crate::support::{Server, refused};

#[server_test]
async fn closed_log_pipe_does_not_stop_the_server() {
    let (mut server, log) = Server::start_logging();
    drop(log);
    server.create().await;
    server.signal(Signal::TERM);
    assert!(server.exited().await.success());
}

#[server_test]
async fn json_log_is_valid_and_contains_no_key() {
    let (mut server, mut log) = Server::start_logging();
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).map(|_| text)
    });
    let tenant = server.tenant().await;
    let missing = tenant.post("/v1/runs", json!({ "image": "no-such-image" })).await;
    assert_eq!(missing.0, 404, "{}", missing.1);
    server.signal(Signal::TERM);
    assert!(server.exited().await.success());
    let log = reading.await.unwrap().unwrap();
    let entries: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for entry in &entries {
        assert!(entry["timestamp"].is_string() && entry["level"].is_string(), "{entry}");
    }
    let request = entries.iter().find(|entry| entry["route"] == "/v1/runs").unwrap();
    assert_eq!((&request["status"], request["ms"].is_u64()), (&json!(404), true), "{request}");
    assert!(!log.contains(&tenant.key) && !log.contains(&server.key));
}

#[server_test(args = ["--max-requests", "2"])]
async fn concurrent_request_limit_is_enforced(server: &Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/exec");
    let go = "touch /tmp/begun; while [ ! -e /tmp/end ]; do sleep 0.02; done; echo done";
    let first = server.post(&path, json!({ "command": go }));
    let others = async {
        server.exec(&id, "while [ ! -e /tmp/begun ]; do sleep 0.02; done").await;
        // One of these takes the second place and waits, so the other is refused.
        let sleep = json!({ "command": "sleep 1000", "timeout": 0 });
        let more = [(); 2].map(|()| Box::pin(server.post(&path, sleep.clone())));
        let (refusal, _, waiting) = select_all(more).await;
        refused(&refusal, 503, "unavailable", "too many requests");
        // The place is free when the server has noticed that this client has disconnected.
        drop(waiting);
        let end = json!({ "command": "touch /tmp/end" });
        wait_until("a request is served again", async || {
            server.post(&path, end.clone()).await.0 == 200
        })
        .await;
    };
    let (outcome, ()) = tokio::join!(first, others);
    assert_eq!(outcome.1["stdout"], "done\n");
}
