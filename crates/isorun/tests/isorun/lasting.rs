//! What outlives a server that dies, and a run that is put away: rules, secrets
//! and URLs.

use rustix::process::Signal;
use serde_json::json;

use crate::{
    fixture::{Server, answer, bounded, refused},
    world::{SECRET, World},
};

const HOST: &str = "api.openai.com";

/// Uses the secret, and tries a host that is not allowed.
const TRY: &str = "python3 - <<'EOF'
import json, os, socket, urllib.request
request = urllib.request.Request('https://api.openai.com/v1/models', headers={'Authorization': 'Bearer ' + os.environ['OPENAI_API_KEY']})
print(json.load(urllib.request.urlopen(request, timeout=20))['real'])
try: socket.create_connection(('denied.test', 443), 8).recv(1); print('open')
except ConnectionResetError: print('reset')
EOF";

async fn create(server: &Server, more: serde_json::Value) -> String {
    let mut order = json!({
        "credentials": { "OPENAI_API_KEY": SECRET },
        "network": { "allow": [HOST] },
        "urls": "token",
        "timeout": -1,
    });
    order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let id = server.create_with(order).await;
    let serve = "cd /srv && echo here > file && \
                 setsid python3 -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 &
                 until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8000))' \
                 2>/dev/null; do sleep 0.05; done";
    server.exec(&id, serve).await;
    id
}

/// Its URL of that file; the path and the token are the same for ever.
async fn url(server: &Server, id: &str) -> String {
    let (_, run) = server.get(&format!("/v1/runs/{id}")).await;
    let template = run["port_url"].as_str().unwrap();
    let (path, token) = template.split_once('?').unwrap();
    format!("{}file?{token}", path.replace("{port}", "8000"))
}

async fn all_holds(server: &Server, id: &str, url: &str) {
    let said = server.exec(id, TRY).await;
    assert_eq!(said["stdout"], "True\nreset\n", "{said}");
    reached(server, url).await;
}

async fn reached(server: &Server, url: &str) {
    let (path, token) = url.split_once("?isorun_token=").unwrap();
    let request = server.http.get(format!("{}{path}", server.url));
    let said = request.header("x-isorun-token", token).send().await.unwrap();
    assert_eq!((said.status().as_u16(), said.text().await.unwrap().as_str()), (200, "here\n"));
    // The token is still wanted.
    let without = answer(server.http.get(format!("{}{path}", server.url))).await;
    refused(&without, 403, "forbidden", "token");
}

#[test]
fn rules_secrets_and_urls_outlive_the_server() {
    let world = World::new(5, &[HOST]);
    let server = world.server(&[]);
    let (id, place) = {
        let mut made = None;
        bounded(async {
            let id = create(&server, json!({})).await;
            // Not those of its creation.
            let rules = ["net", "set", &id, "--allow", HOST, "--deny", "1.2.3.0/24"];
            assert!(server.run(&rules).status.success());
            let place = url(&server, &id).await;
            all_holds(&server, &id, &place).await;
            made = Some((id, place));
        });
        made.unwrap()
    };
    let (data, home) = server.stop(Signal::KILL);
    let arguments = world.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Server::start_in(data, home, &arguments);
    bounded(async {
        assert_eq!(url(&server, &id).await, place);
        all_holds(&server, &id, &place).await;
        let (_, network) = server.get(&format!("/v1/runs/{id}/network")).await;
        assert_eq!(network["deny"], json!(["1.2.3.0/24"]));
        assert_eq!(network["credentials"], json!(["OPENAI_API_KEY"]));
    });
}

#[test]
fn rules_secrets_and_urls_outlive_hibernation() {
    let world = World::new(6, &[HOST]);
    let server = world.server(&[]);
    bounded(async {
        let id = create(&server, json!({})).await;
        let place = url(&server, &id).await;
        for _ in 0..2 {
            let (status, _) = server.post(&format!("/v1/runs/{id}/hibernate"), json!({})).await;
            assert_eq!(status, 200);
            let (path, token) = place.split_once("?isorun_token=").unwrap();
            let asleep = server.http.get(format!("{}{path}", server.url));
            let asleep = answer(asleep.header("x-isorun-token", token)).await;
            refused(&asleep, 409, "run_hibernated", "resume it first");
            let (status, _) = server.post(&format!("/v1/runs/{id}/resume"), json!({})).await;
            assert_eq!(status, 200);
            all_holds(&server, &id, &place).await;
        }
        // A fork has the same, and a URL of its own.
        let (_, forks) = server.post(&format!("/v1/runs/{id}/fork"), json!({ "count": 1 })).await;
        let fork = forks["forks"][0]["id"].as_str().unwrap();
        let own = url(&server, fork).await;
        assert_ne!(own, place);
        all_holds(&server, fork, &own).await;
        all_holds(&server, &id, &place).await;
    });
}

#[test]
fn a_url_wakes_a_run_that_may_be_woken() {
    let world = World::new(7, &[HOST]);
    let server = world.server(&[]);
    bounded(async {
        let id = create(&server, json!({ "auto_resume": true })).await;
        let place = url(&server, &id).await;
        let (status, _) = server.post(&format!("/v1/runs/{id}/hibernate"), json!({})).await;
        assert_eq!(status, 200);
        // Several at once: one of them wakes it.
        tokio::join!(reached(&server, &place), reached(&server, &place), reached(&server, &place));
        all_holds(&server, &id, &place).await;
    });
}
