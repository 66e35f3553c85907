//! Unknown fields, parameters and frames, and invalid changes of rules are refused. A misspelt
//! name never results in a default.

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use test_macros::server_test;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{DENIED_PROBE, Server, answer, refused, sockets::open};

#[server_test]
async fn misspelt_fields_are_refused_with_a_suggestion(server: &Server) {
    let host = |more: Value| {
        let mut body = json!({ "image": "host" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (more, field, meant) in [
        (json!({ "netwrok": { "allow": [] } }), "netwrok", "network"),
        (json!({ "network_profil": "locked-down" }), "network_profil", "network_profile"),
        (json!({ "networkProfile": "locked-down" }), "networkProfile", "network_profile"),
        (json!({ "timout": 5 }), "timout", "timeout"),
        (json!({ "memory": 128 }), "memory", "mem_mib"),
        (json!({ "mem_mb": 128 }), "mem_mb", "mem_mib"),
        (json!({ "cpus": 1 }), "cpus", "vcpus"),
        (json!({ "envs": { "A": "b" } }), "envs", "env"),
        (json!({ "url": "off" }), "url", "urls"),
        (json!({ "onIdle": "hibernate" }), "onIdle", "on_idle"),
        (json!({ "network": { "alow": ["a.com"] } }), "alow", "allow"),
        (json!({ "network": { "allow": [], "denied": [] } }), "denied", "deny"),
        (json!({ "user": "nobody" }), "user", ""),
        (json!({ "n": 3 }), "n", ""),
        (json!({ "credentials": { "M": { "value": "s", "hots": "a.com" } } }), "hots", "host"),
    ] {
        let response = server.post("/v1/runs", host(more)).await;
        refused(&response, 400, "invalid_request", &format!("`{field}`"));
        if !meant.is_empty() {
            refused(&response, 400, "invalid_request", &format!("did you mean `{meant}`?"));
        }
    }
    // A `network` without rules.
    for network in [json!({}), json!({ "allow": null }), json!({ "allow": null, "deny": null })] {
        let response = server.post("/v1/runs", host(json!({ "network": network }))).await;
        refused(&response, 400, "invalid_request", "no rules");
    }
    for (text, field) in [
        (
            r#"{"image":"host","network_profile":"locked-down","network_profile":"internet"}"#,
            "network_profile",
        ),
        (r#"{"image":"host","network":{"allow":[],"allow":["0.0.0.0/0"]}}"#, "network.allow"),
        (r#"{"image":"host","env":{"A":"1","A":"2"}}"#, "env.A"),
    ] {
        let request = server.request(Method::POST, "/v1/runs").body(text);
        refused(
            &answer(request).await,
            400,
            "invalid_request",
            &format!("duplicate field `{field}`"),
        );
    }
    assert_eq!(server.get("/v1/runs").await.1, json!({ "runs": [] }), "nothing was made");

    let id = server.create().await;
    let run = format!("/v1/runs/{id}");
    for (method, path, body, meant) in [
        (Method::PATCH, run.clone(), json!({ "timout": 1 }), "timeout"),
        (
            Method::PATCH,
            run.clone(),
            json!({ "timeout": 1, "network": {}, "netwrok": {} }),
            "network",
        ),
        (Method::POST, format!("{run}/exec"), json!({ "command": "true", "timout": 1 }), "timeout"),
        (Method::POST, format!("{run}/exec"), json!({ "command": "true", "workdir": "/" }), "cwd"),
        (Method::POST, format!("{run}/exec/stream"), json!({ "cmd": "true" }), "command"),
        (Method::POST, format!("{run}/fork"), json!({ "n": 3 }), "count"),
        (Method::POST, format!("{run}/fork"), json!({ "counts": 3 }), "count"),
        (Method::POST, "/v1/runs/restore".to_owned(), json!({ "id": "x" }), "snapshot_id"),
        (Method::PUT, format!("{run}/network"), json!({ "netwrok": {} }), "network"),
    ] {
        let response = answer(server.request(method, &path).json(&body)).await;
        refused(&response, 400, "invalid_request", &format!("did you mean `{meant}`?"));
    }
    assert_eq!(server.get("/v1/runs").await.1["runs"].as_array().unwrap().len(), 1);
    assert_eq!(server.get(&run).await.1["timeout"], 300.0, "nothing was changed");
}

/// Requests of published clients are accepted.
#[server_test]
async fn requests_of_published_clients_are_accepted(server: &Server) {
    let all = json!({
        "image": "host", "vcpus": 1, "mem_mib": 256, "disk_mib": 512, "timeout": -1,
        "env": { "A": "b" }, "network": { "allow": ["a.test"], "deny": [] },
        "credentials": { "OPENAI_API_KEY": "sk-1" },
    });
    let (status, run) = server.post("/v1/runs", all).await;
    assert_eq!(status, 200, "{run}");
    let id = run["id"].as_str().unwrap();
    let run = format!("/v1/runs/{id}");
    let nulls = json!({ "image": "host", "network": null, "env": null,
        "network_profile": "locked-down", "credentials": {} });
    assert_eq!(server.post("/v1/runs", nulls).await.0, 200);
    for (method, path, body) in [
        (Method::PATCH, run.clone(), json!({ "timeout": 0 })),
        (Method::POST, format!("{run}/exec"), json!({ "command": "true", "timeout": 5 })),
        (Method::POST, format!("{run}/hibernate"), json!({})),
        (Method::POST, format!("{run}/resume"), json!({})),
        (Method::POST, format!("{run}/fork"), json!({ "count": 1 })),
    ] {
        let response = answer(server.request(method, &path).json(&body)).await;
        assert_eq!(response.0, 200, "{path}: {}", response.1);
    }
    // The content types of `curl -d` and `fetch`, and JSON with a charset.
    for kind in [
        "application/x-www-form-urlencoded",
        "text/plain;charset=UTF-8",
        "application/json; charset=utf-8",
    ] {
        let exec = server.request(Method::POST, &format!("{run}/exec"));
        let exec = exec.header("content-type", kind).body(r#"{"command":"true"}"#);
        assert_eq!(answer(exec).await.0, 200, "{kind}");
    }
    for (name, value) in [
        ("content-type", "application/xml"),
        ("content-type", "multipart/form-data; boundary=x"),
        ("content-type", "application/json; charset=utf-16"),
        ("content-encoding", "gzip"),
    ] {
        let exec = server.request(Method::POST, &format!("{run}/exec"));
        let exec = exec.header(name, value).body(r#"{"command":"true"}"#);
        refused(
            &answer(exec).await,
            415,
            "unsupported_media_type",
            name.split('-').next_back().unwrap(),
        );
    }
}

/// Sends an unknown parameter, and an unexpected body, to each operation of the OpenAPI
/// description.
#[server_test]
async fn unknown_parameters_and_unexpected_bodies_are_refused(server: &Server) {
    let id = server.create().await;
    let (_, document) = server.get("/openapi.json").await;
    let mut checked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["security"] == json!([{}]) {
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let url = path.replace("{id}", &id);
            let request = || server.request(method.clone(), &format!("{url}?nonsense=1"));
            let response = answer(request()).await;
            refused(&response, 400, "invalid_request", "unknown parameter `nonsense` in the query");
            if operation["requestBody"].is_null() && method != Method::GET {
                let request = server.request(method.clone(), &url);
                let response = answer(request.json(&json!({ "nonsense": 1 }))).await;
                refused(&response, 400, "invalid_request", "unknown field `nonsense`");
            }
            checked += 1;
        }
    }
    assert!(checked > 25, "{checked}");
    let run = format!("/v1/runs/{id}");
    for (path, message) in [
        ("/v1/runs/history?limti=1".to_owned(), "did you mean `limit`?"),
        ("/v1/runs/history?limit=1&limit=2".to_owned(), "duplicate parameter `limit`"),
        (format!("{run}/files?path=/&pat=/"), "did you mean `path`?"),
        (format!("{run}/terminal?col=1"), "did you mean `cols`?"),
        (format!("{run}/shell?sesion=1"), "did you mean `session`?"),
        ("/v1/runs/history?limit=-1".to_owned(), "limit"),
    ] {
        refused(&server.get(&path).await, 400, "invalid_request", message);
    }
    assert_eq!(server.get(&run).await.1["status"], "running", "it was not destroyed");
}

#[server_test]
async fn unknown_fields_of_frames_are_refused(server: &Server) {
    let id = server.create().await;
    let exec = r#"{"command":"cat"}"#;
    for (path, before, frame, expected) in [
        ("shell", None, r#"{"type":"run","command":"a","timout":1}"#, "did you mean `timeout`?"),
        ("shell", None, r#"{"type":"runn","command":"a"}"#, "did you mean `run`?"),
        ("shell", None, r#"{"type":"close","now":1}"#, "`now`"),
        (
            "shell",
            None,
            r#"{"type":"run","command":"a","command":"b"}"#,
            "duplicate field `command`",
        ),
        ("shell", None, "[]", "not a JSON object"),
        ("exec/attach", None, r#"{"command":"cat","envs":{}}"#, "did you mean `env`?"),
        ("exec/attach", None, r#"{"command":"cat","type":"run"}"#, "`type`"),
        ("exec/attach", Some(exec), r#"{"type":"eof","x":1}"#, "`x`"),
        ("exec/attach", Some(exec), r#"{"type":"signal","sig":9}"#, "did you mean `signal`?"),
        ("exec/attach", Some(exec), "", "empty"),
        ("terminal", None, r#"{"type":"resize","cols":1,"row":1}"#, "did you mean `rows`?"),
        ("terminal", None, r#"{"type":"resize","cols":"1","rows":1}"#, "string"),
    ] {
        let mut socket = open(server, &format!("/v1/runs/{id}/{path}")).await.unwrap();
        for text in before.into_iter().chain([frame]) {
            socket.send(Message::Text(text.into())).await.unwrap();
        }
        let error = loop {
            let message = socket.next().await.expect("no error was received").unwrap();
            let Message::Text(text) = message else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["type"] == "error" {
                break message;
            }
        };
        assert_eq!(error["code"], "invalid_request", "{frame}");
        let text = error["error"].as_str().unwrap();
        assert!(text.contains(expected), "{frame}: {text}");
    }
    server.assert_served().await;
}

#[server_test]
async fn network_rules_round_trip_through_get_and_put(server: &Server) {
    let lists = |allow: Value, deny: Value| json!({ "network": { "allow": allow, "deny": deny } });
    for rules in [
        json!({ "network_profile": "locked-down" }),
        json!({ "network_profile": "default" }),
        json!({ "network_profile": "internet" }),
        json!({}),
        lists(json!([]), json!([])),
        lists(json!(["a.com", "*.b.com", "203.0.113.5", "10.0.0.0/8"]), json!([])),
        lists(json!([]), json!(["evil.test", "203.0.113.0/24"])),
        lists(json!(["a.com"]), json!(["*.a.com"])),
        json!({ "network": { "deny": ["a.com"] } }),
        json!({ "network_profile": "locked-down", "credentials": { "OPENAI_API_KEY": "s" } }),
    ] {
        let id = server.create_with(rules.clone()).await;
        let path = format!("/v1/runs/{id}/network");
        let put = |body: &Value| server.request(Method::PUT, &path).json(body);
        let (status, before) = server.get(&path).await;
        assert_eq!(status, 200);
        let (status, after) = answer(put(&before)).await;
        assert_eq!((status, &after), (StatusCode::OK, &before), "{rules}");
        assert_eq!(server.get(&path).await.1, before, "{rules}");
        // An invalid request changes nothing.
        for body in [
            json!({}),
            json!({ "network": {} }),
            json!({ "network": null, "network_profile": null }),
            json!({ "netwrok": { "allow": ["a.com"] } }),
            json!({ "network": { "alow": ["a.com"] } }),
            json!({ "network": { "allow": ["a b"] } }),
            json!({ "network": { "allow": "a.com" } }),
            json!({ "network": [] }),
            json!({ "network_profile": "intrenet" }),
            json!({ "network_profile": 1 }),
            json!({ "profile": "internet", "rest": "denied" }),
            json!({ "rest": "allowed" }),
            json!({ "rest": "open", "allow": [] }),
            json!({ "profile": "locked-down", "allow": ["a.com"] }),
            json!({ "profile": "internet", "credentials": ["NONE"] }),
            json!({ "timeout": 5 }),
        ] {
            refused(&answer(put(&body)).await, 400, "invalid_request", "");
            assert_eq!(server.get(&path).await.1, before, "{rules}: {body}");
        }
        for text in ["", "[]", "null", "{", "{}{}", "\"locked-down\""] {
            let request = server.request(Method::PUT, &path).body(text);
            refused(&answer(request).await, 400, "invalid_request", "");
            assert_eq!(server.get(&path).await.1, before, "{rules}: {text}");
        }
        server.destroy(&id).await;
    }
}

#[server_test]
async fn refused_rule_changes_keep_the_network_locked_down(server: &Server) {
    let id = server.create_with(json!({ "network_profile": "locked-down" })).await;
    let path = format!("/v1/runs/{id}/network");
    let (_, before) = server.get(&path).await;
    for body in [before.clone(), json!({}), json!({ "network": {} }), json!({ "netwrok": {} })] {
        let _ = answer(server.request(Method::PUT, &path).json(&body)).await;
        let patch = json!({ "network": body["network"].clone() });
        let run = format!("/v1/runs/{id}");
        refused(
            &answer(server.request(Method::PATCH, &run).json(&patch)).await,
            400,
            "invalid_request",
            "",
        );
        let output = server.exec(&id, DENIED_PROBE).await;
        assert_eq!(output["stdout"], "ConnectionResetError\n", "{body}");
    }
    assert_eq!(server.get(&path).await.1, before);
}
