//! Network rules, the log of blocked connections, and secrets that never enter a sandbox.

use reqwest::Method;
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::wait::wait_for;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};

use crate::support::{DENIED_PROBE, ExternalServices, Server, answer, refused};

#[server_test]
async fn credential_is_used_but_never_enters_the_sandbox() {
    let services = ExternalServices::start(0, &["api.openai.com", "other.test"]).await;
    let server = services.server(&[]);
    let id = server
        .create_with(json!({
            "credentials": {
                "OPENAI_API_KEY": "sk-the-real-one",
                "MINE": { "value": "sk-the-real-one", "host": "other.test",
                    "methods": ["GET"], "paths": ["/allowed/*"] },
            },
            "network": { "allow": ["api.openai.com", "other.test", "wrong.test"] },
        }))
        .await;
    let python = |code: &str| format!("python3 - <<'EOF'\n{code}\nEOF");
    // Over HTTPS and over the base URL, with an ordinary HTTP client.
    let https = python(
        "import json, os, urllib.request
def ask(url, method='GET'):
    key = os.environ['OPENAI_API_KEY']
    request = urllib.request.Request(url, headers={'Authorization': 'Bearer ' + key}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer: return json.load(answer)['real'], answer.headers['x-echo']
    except urllib.error.HTTPError as e: return e.code, e.read().decode()
print(ask('https://api.openai.com/v1/models'))
print(ask(os.environ['OPENAI_BASE_URL'] + '/models'))
print(ask('https://other.test/allowed/x')[0], ask('https://other.test/not')[0], ask('https://other.test/allowed/x', 'POST')[0])
",
    );
    let output = server.exec(&id, &https).await;
    let expected =
        "(True, 'sk-isorun-proxy-managed')\n(True, 'sk-isorun-proxy-managed')\nTrue 403 403\n";
    assert_eq!(output["stdout"], expected, "{output}");
    let output = server.exec(&id, "curl -sS -H \"Authorization: Bearer $OPENAI_API_KEY\" https://api.openai.com/v1/models").await;
    assert!(output["stdout"].as_str().unwrap().contains("\"real\":true"), "{output}");
    // The `Host` field differs from the host of the connection.
    let output = server
        .exec(
            &id,
            "curl -sS -o /dev/null -w '%{http_code}' -H 'Host: evil.test' https://api.openai.com/",
        )
        .await;
    assert_eq!(output["stdout"], "421", "{output}");
    // The secret is nowhere in the sandbox.
    let search = "env | grep -c the-real; grep -rls the-real /etc /root /tmp /run /srv /proc/[0-9]*/environ; cat /etc/isorun/ca.pem | grep -c KEY";
    assert_eq!(server.exec(&id, search).await["stdout"], "0\n0\n");
    let (_, network) = server.get(&format!("/v1/runs/{id}/network")).await;
    assert_eq!(network["credentials"], json!(["MINE", "OPENAI_API_KEY"]));
    // Nor is it in a snapshot of its memory and files, or in plain text in the server's data.
    server.exec(&id, "setsid sleep 1000 >/dev/null 2>&1 &").await;
    server.snapshot(&id).await;
    let files_with = async |text: &str| {
        let words = ["-rlaF", text, server.data.path().to_str().unwrap()];
        let output = Command::new("grep").args(words).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(files_with("sk-the-real-one").await, "");
    // The search covers the snapshot: it finds the placeholder.
    let found = files_with("sk-isorun-proxy-managed").await;
    assert!(found.contains("snap"), "{found}");
}

/// A closed connection does not make a checkpoint fail, however it was closed. The last one
/// here remains in TIME_WAIT for a minute, which the checkpoint waits for.
#[server_test]
async fn closed_connections_do_not_prevent_a_fork() {
    let services = ExternalServices::start(10, &["echo.test"]).await;
    let server = services.server(&[]);
    // Echoes its input when that has ended.
    let echo = TcpListener::bind((services.address(), 7000)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let mut input = Vec::new();
                let _ = stream.read_to_end(&mut input).await;
                let _ = stream.write_all(&input).await;
            });
        }
    });
    let allow = json!({ "allow": [services.address().to_string()] });
    let id = server.create_with(json!({ "network": allow })).await;
    for (end, expected) in [
        ("s.close(); print(0)", "0\n"),
        ("print(0, flush=True); import os; os._exit(0)", "0\n"),
        ("s.shutdown(1); print(len(s.recv(99)), len(s.recv(99)))", "3 0\n"),
    ] {
        let address = services.address();
        let program = format!(
            "python3 -c \"import socket
s = socket.create_connection(('{address}', 7000), 8)
s.send(b'abc')
{end}\""
        );
        let output = server.exec(&id, &program).await;
        assert_eq!(output["stdout"], expected, "{end}: {output}");
        let (status, body) = server.post(&format!("/v1/runs/{id}/fork"), json!({})).await;
        assert_eq!(status, 200, "after {end}: {body}");
        server.destroy(body["forks"][0]["id"].as_str().unwrap()).await;
    }
}

#[server_test]
async fn blocked_connections_are_logged_and_rules_can_change(server: &Server) {
    let id = server.create_with(json!({ "network_profile": "locked-down" })).await;
    assert_eq!(server.exec(&id, DENIED_PROBE).await["stdout"], "ConnectionResetError\n");
    let blocked = wait_for("the blocked connection is in the audit log", async || {
        let log = server.audit_log(&id).await;
        log.into_iter().find(|entry| entry["event"] == "network.blocked")
    })
    .await;
    let data = &blocked["data"];
    assert_eq!(
        (&data["name"], &data["port"], &data["reason"]),
        (&json!("denied.example"), &json!(443), &json!("unlisted"))
    );
    let output =
        server.run(&["net", "set", &id, "--allow", "*.example", "--deny", "1.2.3.0/24"]).await;
    assert!(output.status.success(), "{output:?}");
    let (_, network) = server.get(&format!("/v1/runs/{id}/network")).await;
    let expected = json!({ "profile": null, "rest": "denied", "allow": ["*.example"],
        "deny": ["1.2.3.0/24"], "credentials": [] });
    assert_eq!(network, expected);
    let patch = |body: Value| server.request(Method::PATCH, &format!("/v1/runs/{id}")).json(&body);
    let profile = json!({ "network_profile": "internet" });
    assert_eq!(answer(patch(profile)).await.0, 200);
    let (_, network) = server.get(&format!("/v1/runs/{id}/network")).await;
    assert_eq!(network["profile"], "internet");
    for (body, text) in [
        (json!({}), "nothing to change"),
        (json!({ "network": { "allow": ["a b"] } }), "network.allow[0]"),
        (json!({ "network": { "deny": ["a.com:80"] } }), "network.deny[0]"),
        (json!({ "network_profile": "open" }), "network_profile"),
        (json!({ "network": { "alow": [] } }), "alow"),
    ] {
        refused(&answer(patch(body)).await, 400, "invalid_request", text);
    }
    let (_, profiles) = server.get("/v1/network-profiles").await;
    let names: Vec<_> =
        profiles.as_array().unwrap().iter().map(|profile| profile["name"].clone()).collect();
    assert_eq!(names, ["default", "locked-down", "internet"]);
}
