//! Start and stop of the server.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::Duration,
};

use reqwest::{Certificate, Client};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fixture::{Server, answer, bounded, refused, write_key};

#[test]
fn it_says_that_it_is_well_and_writes_the_clients_configuration() {
    let server = Server::start();
    bounded(async {
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
        let mode =
            |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        for private in ["secret", "isorun.db"] {
            assert_eq!(mode(&server.data.path().join(private)), 0o600, "{private}");
        }
    });
}

#[test]
fn a_restart_keeps_the_key_and_moves_the_address() {
    let first = Server::start();
    let (url, key) = (first.url.clone(), first.key.clone());
    let (data, home) = first.stop(Signal::TERM);
    let second = Server::start_in(data, home, &[]);
    assert_eq!(second.key, key);
    assert_ne!(second.url, url, "the system chose another port");
    bounded(async { second.assert_healthy().await });
}

#[test]
fn what_cannot_be_served_is_said_before_anything_starts() {
    let server = Server::start();
    for (args, code, text) in [
        (vec!["--listen", "127.0.0.1:0"], 125, "another isorun server uses"),
        (vec!["--listen", "0.0.0.0:0"], 2, "without TLS"),
        (vec!["--listen", "127.0.0.1:0", "--tls-cert", "a.pem"], 2, "--tls-key"),
        (vec!["--listen", "nowhere"], 2, "nowhere"),
        (vec!["--region", "Up_per"], 2, "lower-case"),
        (vec!["--rate", "0"], 2, "0"),
    ] {
        let output = server.command().arg("serve").args(&args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(text), "{args:?}: {stderr}");
    }
    let address = server.url.strip_prefix("http://").unwrap();
    let other = tempfile::tempdir().unwrap();
    let mut taken = server.command();
    taken.env("ISORUN_DATA_DIR", other.path()).args(["serve", "--listen", address]);
    let output = taken.stdout(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot listen on"), "{output:?}");
    fs::set_permissions(other.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let output = taken.output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("other users can write"),
        "{output:?}"
    );
}

#[test]
fn tls_is_spoken() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
    fs::write(&chain, made.cert.pem()).unwrap();
    write_key(&key, &made.signing_key.serialize_pem());
    let paths = (chain.to_str().unwrap(), key.to_str().unwrap());
    let mut server = Server::start_with(&["--tls-cert", paths.0, "--tls-key", paths.1]);
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    let root = Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    server.http = Client::builder().tls_certs_only([root]).build().unwrap();
    bounded(async {
        let response = server.http.get(format!("{}/healthz", server.url)).send().await.unwrap();
        assert_eq!(response.version(), reqwest::Version::HTTP_2);
        server.assert_healthy().await;
        // It does not respond to HTTP without TLS.
        let plain = server.url.replace("https:", "http:");
        assert!(server.http.get(format!("{plain}/healthz")).send().await.is_err());
    });
    drop(server);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_isorun"))
        .args(["serve", "--no-pull", "--listen", "127.0.0.1:0"])
        .args(["--tls-cert", paths.0, "--tls-key", paths.1])
        .env("ISORUN_DATA_DIR", home.path().join("data"))
        .env("XDG_CONFIG_HOME", home.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("chmod 600"), "{output:?}");
}

#[test]
fn a_stop_lets_requests_end_and_leaves_no_sandbox() {
    let mut server = Server::start();
    bounded(async {
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
    });
    let status = server.wait();
    assert!(status.success(), "{status}");
    let data = std::mem::replace(&mut server.data, tempfile::tempdir().unwrap());
    let home = std::mem::replace(&mut server.home, tempfile::tempdir().unwrap());
    let next = Server::start_in(data, home, &[]);
    bounded(async {
        assert_eq!(next.get("/v1/runs").await.1, json!({ "runs": [] }));
        let past = next.get("/v1/runs/history").await.1;
        assert_eq!(past["sandboxes"][0]["reason"], "the server was stopped");
    });
}

#[test]
fn requests_beyond_the_grace_are_told() {
    let mut server = Server::start_with(&["--grace", "1s"]);
    bounded(async {
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
    });
    assert!(server.wait().success());
}

#[test]
fn sandboxes_can_live_on_while_the_server_does_not() {
    for (args, signal) in [(&["--keep-sandboxes"][..], Signal::TERM), (&[][..], Signal::KILL)] {
        let server = Server::start_with(args);
        let mut id = String::new();
        bounded(async {
            id = server.create_with(json!({ "env": { "NAME": "kept" } })).await;
            server.exec(&id, "echo data > /tmp/file; sleep 1000 >/dev/null 2>&1 &").await;
        });
        let (data, home) = server.stop(signal);
        let next = Server::start_in(data, home, &[]);
        bounded(async {
            let seen = next.exec(&id, "cat /tmp/file; echo $NAME; pgrep -c -x sleep").await;
            assert_eq!(seen["stdout"], "data\nkept\n1\n", "{signal:?}: {seen}");
            next.destroy(&id).await;
            let verified = next.run(&["audit", "verify"]);
            assert!(verified.status.success(), "the log was not continued: {verified:?}");
        });
    }
}

#[test]
fn a_slow_client_does_not_hold_a_connection_for_ever() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    let server = Server::start();
    bounded(async {
        let address = server.url.strip_prefix("http://").unwrap();
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(40), socket.read_to_end(&mut answer));
        let _ = closed.await.expect("the connection is still open");
        assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    });
}
