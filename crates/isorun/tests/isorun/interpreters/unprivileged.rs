//! A server that runs as an unprivileged user, on a machine without `runsc`.

use serde_json::json;
use test_macros::server_test;

use crate::support::{Server, answer, refused};

#[server_test(seconds = 300)]
async fn a_server_without_root_or_runsc_has_interpreters() {
    let server = Server::start_unprivileged();
    let (status, ready) = answer(server.http.get(format!("{}/readyz", server.url))).await;
    assert_eq!(status, 200);
    let images = json!(["isola:python", "isola:python-data", "isola:js"]);
    assert_eq!(ready["offers"], images, "{ready}");
    assert!(ready["engine"].as_str().unwrap().starts_with("isola "), "{ready}");
    let id = server.create_of("isola:js", json!({})).await;
    assert_eq!(server.value(&id, "6 * 7").await, "42");
    let fork = server.fork(&id, 1).await;
    assert_eq!(server.value(&fork[0], "40 + 2").await, "42");
    for image in ["host", "python:3.14"] {
        let refusal = server.post("/v1/runs", json!({ "image": image })).await;
        refused(&refusal, 501, "not_supported", "isola:python, isola:python-data, isola:js");
    }
}
