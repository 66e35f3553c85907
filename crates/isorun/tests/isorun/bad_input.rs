//! Invalid requests are refused with a specific message, and the server keeps running.

use reqwest::Method;
use serde_json::{Value, json};
use test_macros::server_test;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Server, answer, refused};

#[server_test]
async fn invalid_runs_are_refused(server: &Server) {
    let big = "x".repeat(200_000);
    let cases: Vec<(Value, u16, &str, &str)> = vec![
        (json!({}), 400, "invalid_request", "missing field `image`"),
        (json!(["host"]), 400, "invalid_request", "not a JSON object"),
        (json!({ "image": 1 }), 400, "invalid_request", "expected a string"),
        (json!({ "image": "" }), 400, "invalid_request", "image is empty"),
        (json!({ "image": "a b" }), 400, "invalid_request", "image"),
        (json!({ "image": "a\0b" }), 400, "invalid_request", "image"),
        (json!({ "image": big }), 400, "invalid_request", "image"),
        (json!({ "image": "no-such:image" }), 404, "image_not_found", "no-such:image"),
        (json!({ "image": "../../etc" }), 400, "invalid_request", "../../etc"),
        (json!({ "image": "host", "vcpus": 0 }), 400, "invalid_request", "vcpus is 0"),
        (json!({ "image": "host", "vcpus": -1 }), 400, "invalid_request", "vcpus is -1"),
        (json!({ "image": "host", "vcpus": 100_000 }), 400, "invalid_request", "vcpus is 100000"),
        (json!({ "image": "host", "vcpus": 1.5 }), 400, "invalid_request", "1.5"),
        (json!({ "image": "host", "mem_mib": 1 }), 400, "invalid_request", "mem_mib is 1"),
        (json!({ "image": "host", "mem_mib": 20 }), 400, "invalid_request", "allows 32 to"),
        (json!({ "image": "host", "mem_mib": 31 }), 400, "invalid_request", "mem_mib is 31"),
        (json!({ "image": "host", "mem_mib": i64::MAX }), 400, "invalid_request", "mem_mib"),
        (json!({ "image": "host", "disk_mib": i64::MAX }), 400, "invalid_request", "disk_mib"),
        (json!({ "image": "host", "mem_mib": 1e300 }), 400, "invalid_request", "invalid"),
        (json!({ "image": "host", "timeout": -5 }), 400, "invalid_request", "timeout is -5"),
        (json!({ "image": "host", "timeout": 1e300 }), 400, "invalid_request", "timeout"),
        (json!({ "image": "host", "timeout": "soon" }), 400, "invalid_request", "soon"),
        (json!({ "image": "host", "env": { "A=B": "c" } }), 400, "invalid_request", "A=B"),
        (json!({ "image": "host", "env": { "": "c" } }), 400, "invalid_request", "env"),
        (json!({ "image": "host", "env": { "A": "b\0" } }), 400, "invalid_request", "NUL"),
        (json!({ "image": "host", "env": { "A": big } }), 400, "invalid_request", "env has"),
        (
            json!({ "image": "host", "env": { "A": 1 } }),
            400,
            "invalid_request",
            "expected a string",
        ),
        (
            json!({ "image": "host", "network": { "allow": ["a b"] } }),
            400,
            "invalid_request",
            "network.allow[0]",
        ),
        (
            json!({ "image": "host", "network": { "deny": ["1.2.3.4/99"] } }),
            400,
            "invalid_request",
            "network.deny[0]",
        ),
        (json!({ "image": "host", "network_profile": "x" }), 400, "invalid_request", "locked-down"),
        (
            json!({ "image": "host", "network_profile": "internet",
                "network": { "allow": ["a.com"] } }),
            400,
            "invalid_request",
            "exclude",
        ),
        (
            json!({ "image": "host", "credentials": { "A": "b" } }),
            400,
            "invalid_request",
            "credentials.A",
        ),
    ];
    for (body, status, code, text) in cases {
        let shown: String = body.to_string().chars().take(100).collect();
        eprintln!("{shown}");
        refused(&server.post("/v1/runs", body).await, status, code, text);
    }
    for raw in ["", "{", "{\"image\": \"host\"", "{\"image\": \"host\"} x", "\u{0}", "[[[[[[[["] {
        let request = server.request(Method::POST, "/v1/runs").body(raw);
        refused(&answer(request).await, 400, "invalid_request", "not a valid request");
    }
    let deep = format!("{{\"credentials\":{{\"a\":{}", "[".repeat(500_000));
    let request = server.request(Method::POST, "/v1/runs").body(deep);
    refused(&answer(request).await, 400, "invalid_request", "recursion");
    let request = server.request(Method::POST, "/v1/runs").body("x".repeat(2 << 20));
    refused(&answer(request).await, 413, "too_large", "1048576");
    assert_eq!(server.get("/v1/runs").await.1, json!({ "runs": [] }), "nothing was made");
    server.assert_served().await;
}

#[server_test]
async fn invalid_commands_and_paths_are_refused(server: &Server) {
    let id = server.create().await;
    let run = format!("/v1/runs/{id}");
    let long = format!("/{}", "a".repeat(5000));
    for (body, code, text) in [
        (json!({}), "invalid_request", "missing field `command`"),
        (json!({ "command": 1 }), "invalid_request", "a string for the shell, or a list"),
        (json!({ "command": "" }), "invalid_request", "command is empty"),
        (json!({ "command": [] }), "invalid_request", "names no program"),
        (json!({ "command": [""] }), "invalid_request", "names no program"),
        (json!({ "command": "echo a\0b" }), "invalid_request", "NUL byte at offset 6"),
        (json!({ "command": ["a", "b\0"] }), "invalid_request", "command[1]"),
        (json!({ "command": ["/no/such/program"] }), "command_not_found", "/no/such/program"),
        (json!({ "command": "true", "timeout": -7 }), "invalid_request", "timeout"),
        (json!({ "command": "true", "env": { "A=": "" } }), "invalid_request", "env"),
        (json!({ "command": "true", "cwd": "work" }), "invalid_request", "absolute"),
        (json!({ "command": "true", "cwd": "/a/../b" }), "invalid_request", "`..`"),
        (json!({ "command": "true", "encoding": "rot13" }), "invalid_request", "rot13"),
    ] {
        refused(&server.post(&format!("{run}/exec"), body.clone()).await, 400, code, text);
        let stream = server.request(Method::POST, &format!("{run}/exec/stream")).json(&body);
        if code == "invalid_request" {
            refused(&answer(stream).await, 400, code, text);
        }
    }
    for path in ["", "relative", "../../etc/passwd", "/tmp/../../etc/passwd", "/..", "/a\0b", &long]
    {
        let files = format!("{run}/files");
        let with = |method, path_: &str| server.request(method, path_).query(&[("path", path)]);
        for request in [
            with(Method::GET, &files),
            with(Method::GET, &format!("{files}/download")),
            with(Method::POST, &format!("{files}/upload")).body("x"),
        ] {
            refused(&answer(request).await, 400, "invalid_request", "path");
        }
    }
    refused(&server.get(&format!("{run}/files")).await, 400, "invalid_request", "no `path`");
    let mode = server.request(Method::POST, &format!("{run}/files/upload?path=/tmp/a&mode=rw"));
    refused(&answer(mode).await, 400, "invalid_request", "octal");
    for timeout in [json!({}), json!({ "timeout": "x" }), json!({ "timeout": -2 })] {
        let request = server.request(Method::PATCH, &run).json(&timeout);
        refused(&answer(request).await, 400, "invalid_request", "timeout");
    }
    assert_eq!(server.exec(&id, "echo well").await["stdout"], "well\n");
    server.destroy(&id).await;
    let dead = server.post(&format!("{run}/exec"), json!({ "command": "true" })).await;
    refused(&dead, 404, "run_destroyed", "a request destroyed it");
    server.assert_served().await;
}

#[server_test]
async fn unknown_routes_and_ids_are_not_found(server: &Server) {
    refused(&server.get("/v2/runs").await, 404, "not_found", "GET /v2/runs");
    refused(&server.get("/").await, 404, "not_found", "GET /");
    refused(&server.get("/v1/runs/..").await, 404, "not_found", "");
    for id in ["run", "run0123456789ABCDEF", "run0123456789abcdef0", "x%2e%2e%2fy", "%00"] {
        refused(
            &server.get(&format!("/v1/runs/{id}")).await,
            404,
            "run_not_found",
            "16 hex digits",
        );
    }
    let unknown = server.get("/v1/runs/run0123456789abcdef").await;
    refused(&unknown, 404, "run_not_found", "does not exist");
    let put = answer(server.request(Method::PUT, "/v1/runs")).await;
    refused(&put, 405, "method_not_allowed", "PUT");
    let limit = server.get("/v1/runs/history?limit=many").await;
    refused(&limit, 400, "invalid_request", "limit");
}

#[server_test]
async fn malformed_http_ends_only_its_connection(server: &Server) {
    let address = server.address();
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/runs HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/runs HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
        &[0xff; 100_000],
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        // The server may close the connection before everything is sent.
        let _ = socket.write_all(garbage).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    server.assert_served().await;
}
