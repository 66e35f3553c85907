//! A cluster: several servers on one machine, with one PostgreSQL database.

mod failures;
mod model;
mod moves;

use std::{collections::BTreeSet, fs};

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use test_support::wait::{wait_for, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Tenant, answer,
    cluster::{Cluster, IMAGE, interpreter},
    refused,
    sockets::{next_message, open_shell, send_json},
};

/// A server in a sandbox that echoes the path and the host, and reads bodies of any size.
const ECHO: &str = r#"
import hashlib, http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, text):
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def do_GET(self):
        self.answer(f"{self.path} {self.headers['host']}".encode())
    def do_HEAD(self):
        self.send_response(200)
        for number in range(5):
            self.send_header(f"x-large-{number}", "v" * 60_000)
        self.end_headers()
    def do_POST(self):
        digest, left = hashlib.sha256(), int(self.headers["content-length"])
        while left:
            piece = self.rfile.read(min(left, 1 << 16))
            digest.update(piece)
            left -= len(piece)
        self.answer(digest.hexdigest().encode())
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// Everything that concerns a sandbox is answered by every node, in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn every_node_answers_for_every_sandbox() {
    let cluster = Cluster::start(3);
    let tenant = cluster.tenant().await;
    let clients = cluster.clients(&tenant);
    let id = clients[0].create_with(json!({ "timeout": 600 })).await;
    let stranger = cluster.tenant().await;
    for (at, client) in clients.iter().enumerate() {
        let (status, run) = client.get(&format!("/v1/runs/{id}")).await;
        assert_eq!((status.as_u16(), &run["status"]), (200, &json!("running")), "{at}");
        assert_eq!(
            client.text(&id, &format!("echo {at} >> /tmp/log; cat /tmp/log | wc -l")).await.trim(),
            (at + 1).to_string()
        );
        client.upload(&id, &format!("/tmp/file{at}"), vec![7; 3 << 20]).await;
        let path = format!("/v1/runs/{id}/files/download?path=/tmp/file{at}");
        let file = client.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(file.bytes().await.unwrap(), vec![7; 3 << 20], "{at}");
        let (mut shell, _) = open_shell(client, &id, "").await;
        send_json(&mut shell, json!({ "type": "run", "command": "echo in the shell; false" }))
            .await;
        let (output, end) = next_message(&mut shell).await;
        assert_eq!((output.as_slice(), &end["exit_code"]), (&b"\x01in the shell\n"[..], &json!(1)));
        shell.close(None).await.unwrap();
        let (status, stats) = client.get(&format!("/v1/runs/{id}/stats")).await;
        assert!(status == 200 && stats["mem_bytes"].as_u64().unwrap() > 0, "{at}: {stats}");
        let (_, list) = client.get("/v1/runs").await;
        assert_eq!(list["runs"].as_array().unwrap().len(), 1, "{at}");
        assert_eq!(list["runs"][0]["id"], id);
        let (_, patched) = answer(
            client
                .request(Method::PATCH, &format!("/v1/runs/{id}"))
                .json(&json!({ "timeout": 700 + at })),
        )
        .await;
        assert_eq!(patched["timeout"], json!(700.0 + at as f64));
        let other = Tenant { key: stranger.key.clone(), ..client.clone() };
        refused(
            &other.get(&format!("/v1/runs/{id}")).await,
            404,
            "run_not_found",
            "another tenant",
        );
        let wrong = Tenant { key: "isorun_live_local_a_b".to_owned(), ..client.clone() };
        refused(&wrong.get(&format!("/v1/runs/{id}")).await, 401, "unauthorized", "not valid");
        let invalid =
            client.post(&format!("/v1/runs/{id}/exec"), json!({ "comand": "true" })).await;
        refused(&invalid, 400, "invalid_request", "comand");
    }
    let fork = clients[1].fork(&id, 2).await;
    let snapshot = clients[2].snapshot(&id).await;
    let restored = clients[0].restore(&snapshot).await;
    for client in &clients {
        for id in fork.iter().chain([&restored]) {
            assert_eq!(client.text(id, "cat /tmp/log | wc -l").await, "3\n");
        }
    }
    for (at, client) in clients.iter().enumerate() {
        assert_eq!(client.change(&id, "hibernate").await["status"], "hibernated", "{at}");
        assert_eq!(client.change(&id, "resume").await["status"], "running", "{at}");
    }
    let (status, _) =
        answer(clients[1].request(Method::DELETE, &format!("/v1/snapshots/{snapshot}"))).await;
    assert_eq!(status, 200);
    clients[2].destroy(&id).await;
    for client in &clients {
        let gone = client.get(&format!("/v1/runs/{id}")).await;
        refused(&gone, 404, "run_destroyed", "a request destroyed it");
        let (_, history) = client.get("/v1/runs/history").await;
        assert_eq!(history["sandboxes"][0]["id"], id);
        let events: Vec<Value> =
            client.audit_log(&id).await.iter().map(|entry| entry["event"].clone()).collect();
        assert_eq!(events.last().unwrap(), "sandbox.destroyed");
    }
    let verified = cluster.nodes[0].run(&["audit", "--cluster", &cluster.url, "verify"]).await;
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_and_streams_are_reached_through_every_node() {
    let cluster = Cluster::start(2);
    let (own, foreign) = (&cluster.nodes[0], &cluster.nodes[1]);
    let id = cluster.create_on(0, json!({})).await;
    own.start_program(&id, ECHO, 8000).await;
    let digest = |bytes: &[u8]| {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(bytes);
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let body: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    for node in [own, foreign] {
        let url = format!("{}/sb/{id}/p/8000/a/b?c=d", node.url);
        let text = node.http.get(&url).send().await.unwrap().text().await.unwrap();
        assert_eq!(text, format!("/a/b?c=d {}", node.address()));
        let path = format!("/v1/runs/{id}/proxy/8000/x");
        let text = node.request(Method::GET, &path).send().await.unwrap().text().await.unwrap();
        assert_eq!(text, format!("/x {}", node.address()));
        let sent = node.request(Method::POST, &path).body(body.clone()).send().await.unwrap();
        assert_eq!(sent.text().await.unwrap(), digest(&body));
    }
    // Headers are those that the node of the sandbox sends: large ones too, and none is added
    // to a response without a body.
    let log = format!("/v1/runs/{id}/audit");
    let port = format!("/v1/runs/{id}/proxy/8000/x");
    let file = format!("/v1/runs/{id}/files/download?path=/etc/passwd");
    for path in [port, file, format!("/v1/runs/{id}"), log] {
        let mut headers = Vec::new();
        for node in [own, foreign] {
            let response = node.request(Method::HEAD, &path).send().await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            headers.push(response.headers().clone());
            headers.last_mut().unwrap().remove("date");
        }
        assert_eq!(headers[0], headers[1], "{path}");
        assert_eq!(headers[0].contains_key("x-large-4"), path.contains("proxy"), "{path}");
    }
    // What is missing for a WebSocket is said in the same way.
    let shell = format!("/v1/runs/{id}/shell");
    let answers = [own.get(&shell).await, foreign.get(&shell).await];
    refused(&answers[0], 400, "invalid_request", "Upgrade");
    assert_eq!(answers[0], answers[1]);
    // A stream of events arrives as it is written, and its end is seen.
    let path = format!("/v1/runs/{id}/exec/stream");
    let command = json!({ "command": "echo first; read line < /tmp/go; echo second" });
    foreign.text(&id, "mkfifo /tmp/go").await;
    let mut stream =
        foreign.request(Method::POST, &path).json(&command).send().await.unwrap().bytes_stream();
    let mut seen = String::new();
    while !seen.contains("first") {
        seen += &String::from_utf8_lossy(&stream.next().await.unwrap().unwrap());
    }
    assert!(!seen.contains("second"));
    own.text(&id, "echo > /tmp/go").await;
    while let Some(part) = stream.next().await {
        seen += &String::from_utf8_lossy(&part.unwrap());
    }
    assert!(seen.contains("second") && seen.contains("exit"), "{seen}");
    // An id is decoded as the node of the sandbox does it.
    let encoded = foreign.get(&format!("/v1/runs/%72{}", &id[1..])).await;
    assert_eq!((encoded.0.as_u16(), &encoded.1["id"]), (200, &json!(id)));
    // A request that the client breaks off is the client's fault at every node.
    for node in [own, foreign] {
        let mut stream = tokio::net::TcpStream::connect(node.address()).await.unwrap();
        let head = format!(
            "POST /v1/runs/{id}/exec HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"comm",
            node.key
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains("end of the body"),
            "{answer}"
        );
    }
    // A terminal of a sandbox of another node.
    let (mut shell, _) = open_shell(foreign, &id, "").await;
    send_json(&mut shell, json!({ "type": "run", "command": "sleep 600", "timeout": 600 })).await;
    own.destroy(&id).await;
    while let Some(Ok(message)) = shell.next().await {
        if let Message::Close(_) = message {
            break;
        }
    }
    let _ = shell.close(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_sandboxes_go_to_nodes_that_can_take_them() {
    let cluster = Cluster::start_with(3, &["--max-sandboxes", "4", "--max-runs", "9"]);
    let tenant = cluster.tenant().await;
    let clients = cluster.clients(&tenant);
    cluster.drain(&cluster.nodes[0], true).await;
    // A draining node forwards what it does not take.
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(clients[0].create_with(interpreter()).await);
    }
    let draining = Cluster::id(&cluster.nodes[0]);
    let owners: BTreeSet<String> = ids.iter().map(|id| cluster.owner(id)).collect();
    assert_eq!(owners.len(), 2, "each of the others has four");
    assert!(!owners.contains(&draining));
    let full = clients[1].post("/v1/runs", interpreter()).await;
    assert_eq!(full.0, 503, "{full:?}");
    cluster.drain(&cluster.nodes[0], false).await;
    ids.push(clients[2].create_with(interpreter()).await);
    assert_eq!(cluster.owner(ids.last().unwrap()), draining);
    // The limit of the tenant holds for all nodes together.
    let refusal = clients[1].post("/v1/runs", interpreter()).await;
    refused(&refusal, 429, "too_many_runs", "too many runs");
    let listed = cluster.list(&cluster.nodes[1]).await;
    let runs: Vec<u64> = listed.values().map(|node| node["runs"].as_u64().unwrap()).collect();
    assert_eq!(runs.iter().sum::<u64>(), 9, "{runs:?}");
    let last = ids.last().unwrap();
    let fork = clients[1].post(&format!("/v1/runs/{last}/fork"), json!({ "count": 1 })).await;
    refused(&fork, 429, "too_many_runs", "too many runs");
    for id in &ids {
        clients[1].destroy(id).await;
    }
    // Invalid requests are refused by the node that got them.
    let invalid = clients[0].post("/v1/runs", json!({ "image": "host", "vcpu": 1 })).await;
    refused(&invalid, 400, "invalid_request", "vcpu");
    let missing =
        clients[0].post("/v1/runs/restore", json!({ "snapshot_id": "snap0123456789abcdef" })).await;
    refused(&missing, 404, "snapshot_not_found", "does not exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_one_node_is_used_through_every_node() {
    let cluster = Cluster::start_with(3, &["--max-sandboxes", "4"]);
    cluster.import_image(&cluster.nodes[1]).await;
    let wanted = json!({ "image": IMAGE });
    let mut ids = Vec::new();
    for client in cluster.nodes.iter().chain([&cluster.nodes[0]]) {
        ids.push(client.create_with(wanted.clone()).await);
        assert_eq!(cluster.owner(ids.last().unwrap()), Cluster::id(&cluster.nodes[1]));
    }
    // It is full, and the others have no copy of the image.
    let refusal = cluster.nodes[0].post("/v1/runs", wanted.clone()).await;
    refused(&refusal, 503, "unavailable", IMAGE);
    let unknown = cluster.nodes[0].post("/v1/runs", json!({ "image": "no/image" })).await;
    refused(&unknown, 404, "image_not_found", "no/image");
    for id in &ids {
        cluster.nodes[2].destroy(id).await;
    }
    let removed = cluster.nodes[1].run(&["image", "rm", IMAGE]).await;
    assert!(removed.status.success(), "{removed:?}");
    wait_until("the others know that it is gone", async || {
        cluster.query("SELECT COUNT(*) FROM isorun.node_images") == "0"
    })
    .await;
    let refusal = cluster.nodes[1].post("/v1/runs", wanted).await;
    refused(&refusal, 404, "image_not_found", IMAGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_that_of_all_nodes() {
    let cluster = Cluster::start(2);
    let tenant = cluster.tenant().await;
    let clients = cluster.clients(&tenant);
    let mut ids = Vec::new();
    for (at, client) in clients.iter().enumerate() {
        let mut id = client.create_with(interpreter()).await;
        while cluster.owner(&id) != Cluster::id(&cluster.nodes[at]) {
            client.destroy(&id).await;
            id = client.create_with(interpreter()).await;
        }
        ids.push(id);
    }
    assert_ne!(cluster.owner(&ids[0]), cluster.owner(&ids[1]));
    let code = json!({ "code": "sum(range(3_000_000))" });
    for id in &ids {
        let (status, outcome) = clients[0].post(&format!("/v1/runs/{id}/code"), code.clone()).await;
        assert_eq!(status, 200, "{outcome}");
    }
    let mut seconds = Vec::new();
    for client in &clients {
        let (_, usage) = client.get("/v1/usage").await;
        assert_eq!(usage["active_sandboxes"], 2, "{usage}");
        seconds.push(usage["cpu_seconds"].as_f64().unwrap());
    }
    assert!((seconds[0] - seconds[1]).abs() < 0.05, "both count both: {seconds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_lists_and_checks_the_nodes() {
    let cluster = Cluster::start(2);
    let node = &cluster.nodes[0];
    let listed = cluster.list(node).await;
    assert_eq!(listed.len(), 2);
    assert!(listed.values().all(|node| node["state"] == "up"), "{listed:?}");
    let checked = node.run(&["cluster", "doctor", "--cluster", &cluster.url]).await;
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success() && text.contains("2 of 2 accept"), "{text}");
    assert!(text.contains("2 nodes use up to 32"), "{text}");
    let store = tempfile::tempdir().unwrap();
    fs::create_dir(store.path().join("store")).unwrap();
    for (directory, is_usable) in [("store", true), ("missing", false)] {
        let blobs = format!("file://{}", store.path().join(directory).display());
        let doctor = ["cluster", "doctor", "--cluster", &cluster.url, "--blobs", &blobs];
        let checked = node.run(&doctor).await;
        let text = String::from_utf8(checked.stdout).unwrap();
        assert_eq!(checked.status.success(), is_usable, "{text}");
        assert_eq!(text.contains("0 checkpoints and images are not in it"), is_usable, "{text}");
    }
    let id = Cluster::id(node);
    let removed = node.run(&["node", "--cluster", &cluster.url, "rm", &id]).await;
    let text = String::from_utf8_lossy(&removed.stderr).into_owned();
    assert!(!removed.status.success() && text.contains("is running"), "{text}");
    let without = node.run(&["node", "ls"]).await;
    let text = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(!without.status.success() && text.contains("ISORUN_CLUSTER"), "{text}");
    let wrong = "postgres://isorun:secret@127.0.0.1:9/isorun";
    let unreachable = node.run(&["node", "--cluster", wrong, "ls"]).await;
    let text = String::from_utf8_lossy(&unreachable.stderr).into_owned();
    assert!(!unreachable.status.success() && !text.contains("secret"), "{text}");
    assert!(text.contains("cannot use the database of the cluster"), "{text}");
    for invalid in
        ["postgres://me:hunter2@db.example/isorun?sslmode=disable", "postgres://a:hunter2@b"]
    {
        for arguments in [&["node", "ls"][..], &["serve"]] {
            let refused = node.command().args(arguments).env("ISORUN_CLUSTER", invalid).output();
            let text = String::from_utf8(refused.await.unwrap().stderr).unwrap();
            assert!(text.contains("ISORUN_CLUSTER") && !text.contains("hunter2"), "{text}");
        }
    }
    // A key that is created once is valid at each node until it is revoked.
    let tenant = cluster.tenant().await;
    let clients = cluster.clients(&tenant);
    for client in &clients {
        assert_eq!(client.get("/v1/runs").await.0, 200);
    }
    let id = tenant.key.split('_').nth(3).unwrap();
    let revoked = node.run(&["keys", "--cluster", &cluster.url, "revoke", id]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    for client in &clients {
        assert_eq!(client.get("/v1/runs").await.0, 401);
    }
}

/// The rate of a key holds for all nodes together: one that gets few requests refuses them, too,
/// while another admits as many as are allowed.
#[tokio::test(flavor = "multi_thread")]
async fn the_rate_of_a_key_holds_for_all_nodes() {
    let cluster = Cluster::start_with(2, &["--rate", "40"]);
    let tenant = cluster.tenant().await;
    let [one, two] = cluster.clients(&tenant).try_into().unwrap_or_else(|_| panic!("two nodes"));
    let busy = tokio::spawn(async move {
        loop {
            let _ = one.get("/v1/usage").await;
        }
    });
    let refusal = wait_for("the other node refuses a request", async || {
        // Much less than the rate.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let answer = two.get("/v1/usage").await;
        (answer.0 != 200).then_some(answer)
    })
    .await;
    refused(&refusal, 429, "too_many_requests", "too many requests with this key");
    busy.abort();
    wait_until("the key is admitted again", async || two.get("/v1/usage").await.0 == 200).await;
}
