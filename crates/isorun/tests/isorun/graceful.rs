//! Requests in progress when the server is stopped.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    fixture::{Server, answer, bounded, refused},
    sockets::{Socket, open, send_json},
};

/// Reads output until the next text message, and returns both.
async fn next_message(socket: &mut Socket) -> (String, Value) {
    let mut output = String::new();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => output += &String::from_utf8_lossy(&bytes),
            Message::Text(text) => return (output, serde_json::from_str(&text).unwrap()),
            _ => {}
        }
    }
}

async fn open_shell(server: &Server, id: &str) -> Socket {
    let mut socket = open(server, &format!("/v1/runs/{id}/shell")).await.unwrap();
    assert_eq!(next_message(&mut socket).await.1["type"], "ready");
    socket
}

#[test]
fn what_is_under_way_has_its_grace() {
    let mut server = Server::start();
    let mut started = Instant::now();
    bounded(async {
        let id = server.create().await;
        let command = "touch /tmp/$0; until [ -e /tmp/go ]; do sleep 0.05; done; echo done";
        let command_for = |name: &str| command.replace("$0", name);
        let mut attached = open(&server, &format!("/v1/runs/{id}/exec/attach")).await.unwrap();
        send_json(&mut attached, json!({ "command": command_for("attached") })).await;
        let mut session = open_shell(&server, &id).await;
        send_json(&mut session, json!({ "type": "run", "command": command_for("session") })).await;
        let path = format!("/v1/runs/{id}/terminal?command=");
        let typed = command_for("terminal").replace(' ', "%20").replace(';', "%3B");
        let mut terminal = open(&server, &format!("{path}{typed}")).await.unwrap();
        let mut client = server.command();
        client.args(["exec", &id, "--", "sh", "-c", &command_for("client")]);
        let client = tokio::task::spawn_blocking(move || client.output().unwrap());
        server
            .exec(&id, "for f in attached session terminal client; do until [ -e /tmp/$f ]; do sleep 0.02; done; done")
            .await;
        started = Instant::now();
        server.signal(Signal::TERM);
        // It reports that it is stopping, and refuses new requests.
        loop {
            let fresh = reqwest::Client::new().get(format!("{}/readyz", server.url));
            let ready = answer(fresh).await;
            if ready.0 == 503 {
                assert_eq!(ready.1["status"], "stopping", "{}", ready.1);
                break;
            }
        }
        assert_eq!(answer(server.http.get(format!("{}/healthz", server.url))).await.0, 200);
        let more = server.post(&format!("/v1/runs/{id}/exec"), json!({ "command": "true" })).await;
        refused(&more, 503, "stopping", "stopping");
        refused(&server.post("/v1/runs", json!({ "image": "host" })).await, 503, "stopping", "");
        // The commands are released by an open shell, since a new request would be refused.
        send_json(&mut session, json!({ "type": "interrupt" })).await;
        assert_eq!(
            next_message(&mut session).await.1,
            json!({ "type": "result", "exit_code": 130 })
        );
        send_json(&mut session, json!({ "type": "run", "command": "touch /tmp/go; echo more" }))
            .await;
        let (out, end) = next_message(&mut session).await;
        assert_eq!(
            (out.as_str(), end),
            ("\u{1}more\n", json!({ "type": "result", "exit_code": 0 }))
        );
        for socket in [&mut attached, &mut terminal] {
            let (out, end) = next_message(socket).await;
            assert!(out.contains("done"), "{out}");
            assert_eq!(end, json!({ "type": "exit", "exit_code": 0 }));
        }
        let output = client.await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{output:?}");
        drop(session);
    });
    assert!(server.wait().success());
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "the server waited although no request was left"
    );
}

#[test]
fn who_takes_longer_is_told() {
    let mut server = Server::start_with(&["--grace", "1s"]);
    bounded(async {
        let id = server.create().await;
        let mut attached = open(&server, &format!("/v1/runs/{id}/exec/attach")).await.unwrap();
        send_json(&mut attached, json!({ "command": "echo begun; sleep 1000", "timeout": 0 }))
            .await;
        let mut session = open_shell(&server, &id).await;
        let mut silent = open_shell(&server, &id).await;
        send_json(
            &mut session,
            json!({ "type": "run", "command": "touch /tmp/begun; sleep 1000" }),
        )
        .await;
        server.exec(&id, "until [ -e /tmp/begun ]; do sleep 0.01; done").await;
        server.signal(Signal::TERM);
        for socket in [&mut attached, &mut session, &mut silent] {
            let end = next_message(socket).await.1;
            assert_eq!((&end["type"], &end["code"]), (&json!("error"), &json!("run_destroyed")));
            assert!(end["error"].as_str().unwrap().contains("the server was stopped"), "{end}");
        }
    });
    assert!(server.wait().success());
}

#[test]
fn an_idle_server_stops_at_once() {
    let mut server = Server::start_with(&["--grace", "1h"]);
    bounded(async {
        server.create().await;
    });
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}
