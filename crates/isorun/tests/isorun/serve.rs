//! Start and stop of the server.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::{ports, wait::wait_until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use crate::support::{Server, TlsFiles, answer, refused};

#[server_test]
async fn probes_succeed_and_client_configuration_is_written(server: &Server) {
    let health = answer(server.http.get(format!("{}/healthz", server.url))).await;
    assert_eq!((health.0.as_u16(), &health.1["status"]), (200, &json!("ok")));
    let ready = answer(server.http.get(format!("{}/readyz", server.url))).await;
    assert_eq!((ready.0.as_u16(), &ready.1["status"]), (200, &json!("ready")));
    assert!(!ready.1["isolation"].as_str().unwrap().is_empty());
    let described = answer(server.http.get(format!("{}/openapi.json", server.url))).await;
    assert_eq!(described.1["info"]["title"], "isorun");
    let file = server.home.path().join("isorun/client.json");
    let written: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(written, json!({ "api_url": server.url, "api_key": server.key }));
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    for private in ["secret", "isorun.db"] {
        assert_eq!(mode(&server.data.path().join(private)), 0o600, "{private}");
    }
}

#[server_test]
async fn restart_keeps_the_key_and_updates_the_address(first: Server) {
    let (url, key) = (first.url.clone(), first.key.clone());
    let (data, home) = first.stop(Signal::TERM).await;
    let second = Server::start_in(data, home, &[]);
    assert_eq!(second.key, key);
    assert_ne!(second.url, url, "the system chose another port");
    second.assert_served().await;
}

#[server_test]
async fn invalid_configurations_are_refused_at_startup(server: &Server) {
    for (args, code, text) in [
        (vec!["--listen", "127.0.0.1:0"], 125, "another isorun server uses"),
        (vec!["--listen", "0.0.0.0:0"], 2, "without TLS"),
        (vec!["--listen", "127.0.0.1:0", "--tls-cert", "a.pem"], 2, "--tls-key"),
        (vec!["--listen", "nowhere"], 2, "nowhere"),
        (vec!["--region", "Up_per"], 2, "lower-case"),
        (vec!["--rate", "0"], 2, "0"),
    ] {
        let output = server.run(&[&["serve"], &*args].concat()).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(text), "{args:?}: {stderr}");
    }
    let address = server.address();
    let other = tempfile::tempdir().unwrap();
    let mut taken = server.command();
    taken.env("ISORUN_DATA_DIR", other.path()).args(["serve", "--listen", address]);
    let output = taken.output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot listen on"), "{output:?}");
    fs::set_permissions(other.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let output = taken.output().await.unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("other users can write"),
        "{output:?}"
    );
}

#[server_test]
async fn tls_is_served() {
    let files = TlsFiles::create();
    let server = files.server(&[]);
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    let response = server.http.get(format!("{}/healthz", server.url)).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    server.assert_served().await;
    // It does not respond to HTTP without TLS.
    let plain = server.url.replace("https:", "http:");
    assert!(server.http.get(format!("{plain}/healthz")).send().await.is_err());
    drop(server);
    fs::set_permissions(files.key(), fs::Permissions::from_mode(0o644)).unwrap();
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_isorun"))
        .args(["serve", "--no-pull", "--listen", "127.0.0.1:0"])
        .args(files.arguments())
        .env("ISORUN_DATA_DIR", home.path().join("data"))
        .env("XDG_CONFIG_HOME", home.path())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("chmod 600"), "{output:?}");
}

#[server_test(seconds = 240)]
async fn graceful_stop_finishes_requests_and_leaves_no_sandbox(mut server: Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/exec");
    let body = json!({ "command": "touch /tmp/begun; sleep 1; echo done" });
    let waiting = server.post(&path, body);
    let stopping = async {
        server.exec(&id, "while [ ! -e /tmp/begun ]; do sleep 0.01; done").await;
        server.signal(Signal::TERM);
    };
    let (outcome, ()) = tokio::join!(waiting, stopping);
    assert_eq!(outcome.1["stdout"], "done\n", "{}", outcome.1);
    let status = server.exited().await;
    assert!(status.success(), "{status}");
    let (data, home) = server.take_directories();
    let next = Server::start_in(data, home, &[]);
    assert_eq!(next.get("/v1/runs").await.1, json!({ "runs": [] }));
    let past = next.get("/v1/runs/history").await.1;
    assert_eq!(past["sandboxes"][0]["reason"], "the server was stopped");
}

#[server_test]
async fn a_server_continues_when_its_output_is_closed(mut server: Server) {
    server.signal(Signal::TERM);
    assert!(server.exited().await.success());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let address = format!("127.0.0.1:{}", ports::reserved());
    let mut again = server.command();
    again.args(["serve", "--no-pull", "--warm", "0", "--listen", &address]).stdout(writer);
    let _child = again.stderr(std::process::Stdio::null()).spawn().unwrap();
    let url = format!("http://{address}/readyz");
    wait_until("the server is ready", async || {
        server.http.get(&url).send().await.is_ok_and(|response| response.status() == 200)
    })
    .await;
}

#[server_test(args = ["--grace", "1s"])]
async fn requests_beyond_the_grace_period_are_ended(mut server: Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/exec");
    let waiting =
        server.post(&path, json!({ "command": "touch /tmp/begun; sleep 1000", "timeout": 0 }));
    let stopping = async {
        server.exec(&id, "while [ ! -e /tmp/begun ]; do sleep 0.01; done").await;
        server.signal(Signal::TERM);
    };
    let (outcome, ()) = tokio::join!(waiting, stopping);
    refused(&outcome, 404, "run_destroyed", "the server was stopped");
    assert!(server.exited().await.success());
}

#[server_test(seconds = 480)]
async fn sandboxes_can_outlive_the_server() {
    for (args, signal) in [(&["--keep-sandboxes"][..], Signal::TERM), (&[][..], Signal::KILL)] {
        let server = Server::start_with(args);
        let id = server.create_with(json!({ "env": { "NAME": "kept" } })).await;
        server.exec(&id, "echo data > /tmp/file; sleep 1000 >/dev/null 2>&1 &").await;
        let (data, home) = server.stop(signal).await;
        let next = Server::start_in(data, home, &[]);
        let seen = next.exec(&id, "cat /tmp/file; echo $NAME; pgrep -c -x sleep").await;
        assert_eq!(seen["stdout"], "data\nkept\n1\n", "{signal:?}: {seen}");
        next.destroy(&id).await;
        let verified = next.run(&["audit", "verify"]).await;
        assert!(verified.status.success(), "the log was not continued: {verified:?}");
    }
}

#[server_test]
async fn incomplete_request_head_times_out(server: &Server) {
    let address = server.address();
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(40), socket.read_to_end(&mut answer));
    let _ = closed.await.expect("the connection is still open");
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
}
