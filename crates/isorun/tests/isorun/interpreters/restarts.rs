//! Interpreters and restarts of the server.

use rustix::process::Signal;
use serde_json::json;
use test_macros::server_test;

use crate::support::{Server, refused};

#[server_test]
async fn interpreters_are_hibernated_with_keep_sandboxes() {
    let arguments = ["--keep-sandboxes"];
    let server = Server::start_with(&arguments);
    let kept = server.create_of("isola:python", json!({ "auto_resume": true })).await;
    server.value(&kept, "x = 7").await;
    let (data, home) = server.stop(Signal::TERM).await;
    let server = Server::start_in(data, home, &arguments);
    let (_, run) = server.get(&format!("/v1/runs/{kept}")).await;
    assert_eq!(run["status"], "hibernated", "{run}");
    assert_eq!(server.value(&kept, "x").await, "7");
    server.destroy(&kept).await;
}

#[server_test]
async fn interpreters_of_a_killed_server_are_recorded_as_destroyed() {
    let server = Server::start();
    let lost = server.create_of("isola:python", json!({})).await;
    let asleep = server.create_of("isola:js", json!({})).await;
    server.value(&asleep, "globalThis.x = 3").await;
    server.change(&asleep, "hibernate").await;
    let (data, home) = server.stop(Signal::KILL).await;
    let server = Server::start_in(data, home, &[]);
    let gone = server.get(&format!("/v1/runs/{lost}")).await;
    refused(&gone, 404, "run_destroyed", "without keeping its sandbox");
    server.change(&asleep, "resume").await;
    assert_eq!(server.value(&asleep, "x").await, "3");
}
