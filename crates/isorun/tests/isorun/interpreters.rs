//! Interpreters as runs: what they share with Linux sandboxes, what they refuse, and a
//! server that has nothing else.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use test_macros::server_test;
use tokio::time::timeout;

use crate::support::{Server, Tenant, answer, refused};

mod conformance;
mod python_data;
mod restarts;
mod unprivileged;

const IMAGES: [&str; 2] = ["isola:python", "isola:js"];

impl Tenant {
    /// Creates a run of an image, with further fields of the request.
    async fn create_of(&self, image: &str, mut more: Value) -> String {
        more["image"] = image.into();
        self.create_with(more).await
    }

    /// Runs a cell, and returns the response.
    async fn try_cell(&self, id: &str, body: Value) -> (reqwest::StatusCode, Value) {
        self.post(&format!("/v1/runs/{id}/code"), body).await
    }

    /// Runs a cell, and returns its execution.
    async fn cell(&self, id: &str, code: &str) -> Value {
        let (status, body) = self.try_cell(id, json!({ "code": code })).await;
        assert_eq!(status, 200, "{code}: {body}");
        body
    }

    /// Returns the text of the value of a cell, which has to succeed.
    async fn value(&self, id: &str, code: &str) -> String {
        let execution = self.cell(id, code).await;
        assert_eq!(execution["error"], Value::Null, "{code}: {execution}");
        let results = execution["results"].as_array().unwrap();
        let main = results.iter().find(|result| result["is_main_result"] == true);
        let text = main.map(|main| main["data"]["text/plain"].as_str().unwrap().to_owned());
        text.unwrap_or_default()
    }
}

#[server_test]
async fn what_an_interpreter_lacks_is_refused(server: &Server) {
    for image in IMAGES {
        let id = server.create_of(image, json!({})).await;
        let exec = server.post(&format!("/v1/runs/{id}/exec"), json!({ "command": "true" })).await;
        refused(&exec, 409, "image_lacks_feature", "commands");
        assert!(exec.1["error"].as_str().unwrap().contains("OCI image"), "{}", exec.1);
        for (path, feature) in [
            ("exec/attach", "commands"),
            ("terminal", "terminals"),
            ("shell", "shells"),
            ("proxy/8000/", "ports"),
        ] {
            let refusal = server.get(&format!("/v1/runs/{id}/{path}")).await;
            refused(&refusal, 409, "image_lacks_feature", feature);
        }
        let (_, run) = server.get(&format!("/v1/runs/{id}")).await;
        assert_eq!(
            (&run["port_url"], &run["mem_mib"], &run["disk_mib"]),
            (&Value::Null, &json!(256), &json!(64))
        );
    }
    let create = async |body: Value| server.post("/v1/runs", body).await;
    let unknown = create(json!({ "image": "isola:ruby" })).await;
    refused(&unknown, 404, "image_not_found", "isola:python, isola:python-data, isola:js");
    for (field, value) in [
        ("vcpus", json!(2)),
        ("mem_mib", json!(31)),
        ("mem_mib", json!(4097)),
        ("disk_mib", json!(0)),
        ("urls", json!("open")),
    ] {
        let refusal = create(json!({ "image": "isola:python", field: value })).await;
        refused(&refusal, 400, "invalid_request", field);
    }
    let python = server.create_of("isola:python", json!({})).await;
    let other = server.try_cell(&python, json!({ "code": "1", "language": "javascript" })).await;
    refused(&other, 422, "language_not_available", "isola:js");
}

#[server_test(args = ["--no-interpreters"])]
async fn an_operator_can_disable_interpreters(server: &Server) {
    let refusal = server.post("/v1/runs", json!({ "image": "isola:js" })).await;
    refused(&refusal, 501, "not_supported", "--no-interpreters");
    let (_, ready) = answer(server.http.get(format!("{}/readyz", server.url))).await;
    assert_eq!(ready["offers"], json!(["linux"]));
}

/// A tenant whose interpreters compute delays neither requests nor another tenant's code.
#[server_test]
async fn busy_interpreters_delay_neither_requests_nor_other_tenants(server: &Server) {
    let neighbour = server.tenant().await;
    let quiet = neighbour.create_of("isola:python", json!({})).await;
    let mut busy = tokio::task::JoinSet::new();
    for image in IMAGES.into_iter().cycle().take(20) {
        let id = server.create_of(image, json!({})).await;
        let tenant = Tenant::clone(server);
        busy.spawn(async move {
            let code = if image == "isola:js" { "for (;;) {}" } else { "while True: pass" };
            tenant.try_cell(&id, json!({ "code": code, "timeout": 60 })).await
        });
    }
    // They have started when they have used CPU time.
    let used =
        async |tenant: &Tenant| tenant.get("/v1/usage").await.1["cpu_seconds"].as_f64().unwrap();
    while used(server).await < 1.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let limit = Duration::from_secs(30);
    let (status, _) = timeout(limit, answer(server.http.get(format!("{}/healthz", server.url))))
        .await
        .expect("the server responds");
    assert_eq!(status, 200);
    let (before, own_before) = (used(server).await, used(&neighbour).await);
    let work = "sum(i * i for i in range(3_000_000))";
    timeout(limit, neighbour.value(&quiet, work)).await.expect("the code of others runs");
    let (all, own) = (used(server).await - before, used(&neighbour).await - own_before);
    // Its single guest computes on one CPU, and the twenty share the others. Without turns
    // they would get twenty times as much.
    let cpus = std::thread::available_parallelism().unwrap().get() as f64;
    assert!(all < own * 2.0 * cpus, "the busy tenant used {all} s, and the other one {own} s");
    let id_list = server.get("/v1/runs").await.1;
    for run in id_list["runs"].as_array().unwrap() {
        server.destroy(run["id"].as_str().unwrap()).await;
    }
    while let Some(ended) = busy.join_next().await {
        let (status, body) = ended.unwrap();
        assert!(status != 200, "{body}");
    }
}

/// A run of each image at a time, in numbers that Linux sandboxes could not have.
#[server_test(args = ["--max-runs", "300"])]
async fn many_runs_take_little_memory(server: &Server) {
    let first = server.create_of("isola:python", json!({})).await;
    server.value(&first, "1 + 1").await;
    let before = server.own_memory_mib();
    for number in 0..200 {
        let id = server.create_of("isola:python", json!({})).await;
        assert_eq!(server.value(&id, &format!("{number} + 1")).await, (number + 1).to_string());
    }
    let grown = server.own_memory_mib() - before;
    assert!(grown < 400, "200 runs take {grown} MiB");
    let (_, runs) = server.get("/v1/runs").await;
    assert_eq!(runs["runs"].as_array().unwrap().len(), 201);
    let request = server.request(Method::GET, &format!("/v1/runs/{first}/stats"));
    let (_, stats) = answer(request).await;
    let used = stats["mem_bytes"].as_u64().unwrap();
    assert!((1 << 10..32 << 20).contains(&used), "{stats}");
}
