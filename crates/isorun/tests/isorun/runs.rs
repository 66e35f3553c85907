//! The lifecycle of a sandbox, over HTTP.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use test_macros::server_test;
use test_support::wait::wait_until;

use crate::support::{Server, answer, refused};

#[server_test]
async fn lifecycle_from_creation_to_history(server: &Server) {
    let body = json!({
        "image": "host", "vcpus": 2, "mem_mib": 512, "disk_mib": 100, "timeout": 60,
        "env": { "GREETING": "hello you" }, "network": null, "network_profile": "locked-down",
        "credentials": {},
    });
    let (status, run) = server.post("/v1/runs", body).await;
    assert_eq!(status, 200, "{run}");
    let id = run["id"].as_str().unwrap();
    assert!(id.starts_with("run") && id.len() == 19, "{id}");
    for (field, value) in [
        ("status", json!("running")),
        ("image", json!("host")),
        ("region", json!("local")),
        ("vcpus", json!(2)),
        ("mem_mib", json!(512)),
        ("disk_mib", json!(100)),
        ("timeout", json!(60.0)),
    ] {
        assert_eq!(run[field], value, "{field}");
    }
    assert!(run["create_ms"].as_u64().unwrap() > 0);
    assert!(run["created_at"].as_str().unwrap().ends_with('Z'));

    assert_eq!(server.get(&format!("/v1/runs/{id}")).await, (status, run.clone()));
    assert_eq!(server.get("/v1/runs").await.1, json!({ "runs": [run.clone()] }));
    let greeting = server.exec(id, "echo $GREETING").await;
    assert_eq!(greeting["stdout"], "hello you\n");

    let request = server.request(Method::PATCH, &format!("/v1/runs/{id}"));
    let (status, patched) = answer(request.json(&json!({ "timeout": -1 }))).await;
    assert_eq!((status.as_u16(), &patched["timeout"]), (200, &json!(0.0)));

    server.exec(id, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done").await;
    let stats = server.get(&format!("/v1/runs/{id}/stats")).await.1;
    assert!(stats["mem_bytes"].as_u64().unwrap() > 0, "{stats}");

    let end = server.destroy(id).await;
    assert_eq!((&end["status"], &end["cost_cents"]), (&json!("destroyed"), &json!(0.0)));
    for field in ["cpu_ms", "mem_peak_bytes", "uptime_ms"] {
        assert!(end[field].as_u64().unwrap() > 0, "{field}: {end}");
    }
    assert!(end["disk_used_bytes"].is_u64(), "{end}");

    let past = server.get("/v1/runs/history").await.1;
    let past = &past["sandboxes"][0];
    for (field, value) in [("id", json!(id)), ("image", json!("host")), ("vcpus", json!(2))] {
        assert_eq!(past[field], value, "{field}");
    }
    assert_eq!((&past["cpu_ms"], &past["uptime_ms"]), (&end["cpu_ms"], &end["uptime_ms"]));
    let usage = server.get("/v1/usage").await.1;
    assert_eq!((&usage["active_sandboxes"], &usage["history_sandboxes"]), (&json!(0), &json!(1)));
    assert!(usage["mem_seconds"].as_f64().unwrap() > 0.0, "{usage}");
    assert_eq!(server.get("/v1/runs").await.1, json!({ "runs": [] }));
    let gone = server.get(&format!("/v1/runs/{id}")).await;
    refused(&gone, 404, "run_destroyed", "a request destroyed it");
}

#[server_test]
async fn runs_are_isolated_from_each_other(server: &Server) {
    let (one, two) = (server.create().await, server.create().await);
    server.exec(&one, "echo mine > /tmp/secret").await;
    let seen = server.exec(&two, "cat /tmp/secret").await;
    assert_ne!(seen["exit_code"], 0, "{seen}");
    server.destroy(&one).await;
    assert_eq!(server.exec(&two, "echo alive").await["stdout"], "alive\n");
}

#[server_test]
async fn idle_timeout_spares_busy_runs(server: &Server) {
    let idle = server.create_with(json!({ "timeout": 1 })).await;
    let busy = server.create_with(json!({ "timeout": 1 })).await;
    let start = Instant::now();
    // Longer than the timeout, in one command: the time is what is tested.
    assert_eq!(server.exec(&busy, "sleep 3; echo done").await["stdout"], "done\n");
    assert!(start.elapsed() >= Duration::from_secs(3));
    let gone = server.get(&format!("/v1/runs/{idle}")).await;
    refused(&gone, 404, "run_destroyed", "idle for 1 s");
    assert_eq!(server.get(&format!("/v1/runs/{busy}")).await.0, 200);
    // Its last activity was the exit of the command.
    let path = format!("/v1/runs/{busy}");
    wait_until("the idle run is destroyed", async || {
        server.get(&path).await.1["code"] == "run_destroyed"
    })
    .await;
    assert!(start.elapsed() >= Duration::from_secs(4), "it was destroyed too early");
}

#[server_test(args = ["--max-runs", "1"])]
async fn run_limit_is_enforced(server: &Server) {
    let id = server.create().await;
    let more = server.post("/v1/runs", json!({ "image": "host" })).await;
    refused(&more, 429, "too_many_runs", "destroy one first");
    server.destroy(&id).await;
    // It no longer counts, and neither do failed attempts.
    for _ in 0..3 {
        let wrong = server.post("/v1/runs", json!({ "image": "nothing" })).await;
        refused(&wrong, 404, "image_not_found", "nothing");
    }
    server.assert_served().await;
}

#[server_test]
async fn concurrent_destroy_requests_succeed(server: &Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}");
    let destroy = || answer(server.request(Method::DELETE, &path));
    let answers = tokio::join!(destroy(), destroy(), destroy());
    for (status, body) in [answers.0, answers.1, answers.2] {
        // Each request either takes part in the destruction, or comes after it.
        assert!(status == 200 || body["code"] == "run_destroyed", "{body}");
    }
    refused(&destroy().await, 404, "run_destroyed", "");
}

#[server_test]
async fn waiting_client_is_told_of_the_destruction(server: &Server) {
    let id = server.create().await;
    let exec = format!("/v1/runs/{id}/exec");
    let body = json!({ "command": "echo begun; touch /tmp/begun; sleep 100", "timeout": 0 });
    let waiting = server.post(&exec, body);
    let destroying = async {
        server.exec(&id, "while [ ! -e /tmp/begun ]; do sleep 0.01; done").await;
        server.destroy(&id).await;
        Instant::now()
    };
    let (ended, destroyed) = tokio::join!(async { (waiting.await, Instant::now()) }, destroying);
    refused(&ended.0, 404, "run_destroyed", "a request destroyed it");
    assert_eq!(ended.0.1["stdout"], "begun\n", "the output before the destruction is missing");
    assert!(ended.1 < destroyed + Duration::from_secs(1), "the response was late");
}

#[server_test]
async fn waiting_client_is_told_that_the_sandbox_died(server: &Server) {
    let id = server.create_with(json!({ "mem_mib": 64 })).await;
    let waiting = async {
        let path = format!("/v1/runs/{id}/exec");
        server.post(&path, json!({ "command": "sleep 100", "timeout": 0 })).await
    };
    let exceeding = async {
        let path = format!("/v1/runs/{id}/exec");
        let eat = "python3 -c 'a = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): a[i] = 1'";
        server.post(&path, json!({ "command": eat, "timeout": 60 })).await
    };
    let (waited, exceeded) = tokio::join!(waiting, exceeding);
    refused(&waited, 410, "sandbox_died", "memory");
    refused(&exceeded, 410, "sandbox_died", "memory");
    let (_, run) = server.get(&format!("/v1/runs/{id}")).await;
    assert_eq!(run["status"], "failed", "{run}");
    let path = format!("/v1/runs/{id}/exec");
    let later = server.post(&path, json!({ "command": "true" })).await;
    refused(&later, 410, "sandbox_died", "memory");
    assert!(server.destroy(&id).await["cpu_ms"].is_u64());
    server.assert_served().await;
}

#[server_test(args = ["--pids", "64"])]
async fn fork_bomb_does_not_affect_other_runs(server: &Server) {
    let (bomb, other) = (server.create().await, server.create().await);
    let body = json!({ "command": "b() { b | b & }; b; sleep 1000", "timeout": 2 });
    let path = format!("/v1/runs/{bomb}/exec");
    let exploding = server.post(&path, body);
    let beside = async {
        for _ in 0..5 {
            assert_eq!(server.exec(&other, "echo well").await["stdout"], "well\n");
        }
    };
    let (end, ()) = tokio::join!(exploding, beside);
    assert!(end.0 == 200 || end.1["code"] == "exec_timeout", "{}", end.1);
    server.destroy(&bomb).await;
    server.assert_served().await;
}
