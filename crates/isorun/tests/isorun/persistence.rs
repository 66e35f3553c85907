//! Rules, secrets and URLs persist when the server is killed and when a sandbox is hibernated.

use rustix::process::Signal;
use serde_json::json;
use test_macros::server_test;

use crate::support::{ExternalServices, Server, answer, refused, services::SECRET};

const HOST: &str = "api.openai.com";

/// Uses the secret, and connects to a host that is not allowed.
const PROBE: &str = "python3 - <<'EOF'
import json, os, socket, urllib.request
request = urllib.request.Request('https://api.openai.com/v1/models', headers={'Authorization': 'Bearer ' + os.environ['OPENAI_API_KEY']})
print(json.load(urllib.request.urlopen(request, timeout=20))['real'])
try: socket.create_connection(('denied.test', 443), 8).recv(1); print('open')
except ConnectionResetError: print('reset')
EOF";

async fn create(server: &Server, more: serde_json::Value) -> String {
    let mut body = json!({
        "credentials": { "OPENAI_API_KEY": SECRET },
        "network": { "allow": [HOST] },
        "urls": "token",
        "timeout": -1,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let id = server.create_with(body).await;
    let serve = "cd /srv && echo here > file && \
                 setsid python3 -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 &
                 until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8000))' \
                 2>/dev/null; do sleep 0.05; done";
    server.exec(&id, serve).await;
    id
}

/// Returns the URL of the file. Its path and its token never change.
async fn file_url(server: &Server, id: &str) -> String {
    let (_, run) = server.get(&format!("/v1/runs/{id}")).await;
    let template = run["port_url"].as_str().unwrap();
    let (path, token) = template.split_once('?').unwrap();
    format!("{}file?{token}", path.replace("{port}", "8000"))
}

/// Asserts that the rules, the secret and the URL work.
async fn assert_access(server: &Server, id: &str, url: &str) {
    let output = server.exec(id, PROBE).await;
    assert_eq!(output["stdout"], "True\nreset\n", "{output}");
    assert_reachable(server, url).await;
}

async fn assert_reachable(server: &Server, url: &str) {
    let (path, token) = url.split_once("?isorun_token=").unwrap();
    let request = server.http.get(format!("{}{path}", server.url));
    let response = request.header("x-isorun-token", token).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.text().await.unwrap().as_str()),
        (200, "here\n")
    );
    // The token is required.
    let without = answer(server.http.get(format!("{}{path}", server.url))).await;
    refused(&without, 403, "forbidden", "token");
}

#[server_test(seconds = 240)]
async fn rules_secrets_and_urls_survive_a_server_crash() {
    let services = ExternalServices::start(5, &[HOST]).await;
    let server = services.server(&[]);
    let id = create(&server, json!({})).await;
    // Other rules than those of its creation.
    let rules = ["net", "set", &id, "--allow", HOST, "--deny", "1.2.3.0/24"];
    assert!(server.run(&rules).await.status.success());
    let url = file_url(&server, &id).await;
    assert_access(&server, &id, &url).await;
    let (data, home) = server.stop(Signal::KILL).await;
    let arguments = services.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Server::start_in(data, home, &arguments);
    assert_eq!(file_url(&server, &id).await, url);
    assert_access(&server, &id, &url).await;
    let (_, network) = server.get(&format!("/v1/runs/{id}/network")).await;
    assert_eq!(network["deny"], json!(["1.2.3.0/24"]));
    assert_eq!(network["credentials"], json!(["OPENAI_API_KEY"]));
}

#[server_test]
async fn rules_secrets_and_urls_survive_hibernation() {
    let services = ExternalServices::start(6, &[HOST]).await;
    let server = services.server(&[]);
    let id = create(&server, json!({})).await;
    let url = file_url(&server, &id).await;
    for _ in 0..2 {
        server.change(&id, "hibernate").await;
        let (path, token) = url.split_once("?isorun_token=").unwrap();
        let hibernated = server.http.get(format!("{}{path}", server.url));
        let hibernated = answer(hibernated.header("x-isorun-token", token)).await;
        refused(&hibernated, 409, "run_hibernated", "resume it first");
        server.change(&id, "resume").await;
        assert_access(&server, &id, &url).await;
    }
    // A fork has the same rules and secret, and its own URL.
    let fork = server.fork(&id, 1).await.remove(0);
    let own = file_url(&server, &fork).await;
    assert_ne!(own, url);
    assert_access(&server, &fork, &own).await;
    assert_access(&server, &id, &url).await;
}

#[server_test]
async fn request_to_a_url_resumes_a_hibernated_run() {
    let services = ExternalServices::start(7, &[HOST]).await;
    let server = services.server(&[]);
    let id = create(&server, json!({ "auto_resume": true })).await;
    let url = file_url(&server, &id).await;
    server.change(&id, "hibernate").await;
    // Of several requests at the same time, one resumes it.
    tokio::join!(
        assert_reachable(&server, &url),
        assert_reachable(&server, &url),
        assert_reachable(&server, &url)
    );
    assert_access(&server, &id, &url).await;
}
