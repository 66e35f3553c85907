//! A stop of the server, and what is under way then.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    fixture::{Server, answer, bounded, refused},
    sockets::{Socket, open, say},
};

/// All that is printed, and the last word.
async fn last(socket: &mut Socket) -> (String, Value) {
    let mut output = String::new();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => output += &String::from_utf8_lossy(&bytes),
            Message::Text(text) => return (output, serde_json::from_str(&text).unwrap()),
            _ => {}
        }
    }
}

async fn shell(server: &Server, id: &str) -> Socket {
    let mut socket = open(server, &format!("/v1/runs/{id}/shell")).await.unwrap();
    assert_eq!(last(&mut socket).await.1["type"], "ready");
    socket
}

#[test]
fn what_is_under_way_has_its_grace() {
    let mut server = Server::start();
    let mut started = Instant::now();
    bounded(async {
        let id = server.create().await;
        let command = "touch /tmp/$0; until [ -e /tmp/go ]; do sleep 0.05; done; echo done";
        let begin = |name: &str| command.replace("$0", name);
        let mut attached = open(&server, &format!("/v1/runs/{id}/exec/attach")).await.unwrap();
        say(&mut attached, json!({ "command": begin("attached") })).await;
        let mut session = shell(&server, &id).await;
        say(&mut session, json!({ "type": "run", "command": begin("session") })).await;
        let path = format!("/v1/runs/{id}/terminal?command=");
        let typed = begin("terminal").replace(' ', "%20").replace(';', "%3B");
        let mut terminal = open(&server, &format!("{path}{typed}")).await.unwrap();
        let mut client = server.command();
        client.args(["exec", &id, "--", "sh", "-c", &begin("client")]);
        let client = tokio::task::spawn_blocking(move || client.output().unwrap());
        server
            .exec(&id, "for f in attached session terminal client; do until [ -e /tmp/$f ]; do sleep 0.02; done; done")
            .await;
        started = Instant::now();
        server.signal(Signal::TERM);
        // It says so, to old and new connections, and takes nothing new.
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
        // Without a new request: one of those that are open does it.
        say(&mut session, json!({ "type": "interrupt" })).await;
        assert_eq!(last(&mut session).await.1, json!({ "type": "result", "exit_code": 130 }));
        say(&mut session, json!({ "type": "run", "command": "touch /tmp/go; echo more" })).await;
        let (out, end) = last(&mut session).await;
        assert_eq!(
            (out.as_str(), end),
            ("\u{1}more\n", json!({ "type": "result", "exit_code": 0 }))
        );
        for socket in [&mut attached, &mut terminal] {
            let (out, end) = last(socket).await;
            assert!(out.contains("done"), "{out}");
            assert_eq!(end, json!({ "type": "exit", "exit_code": 0 }));
        }
        let output = client.await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{output:?}");
        drop(session);
    });
    assert!(server.wait().success());
    assert!(started.elapsed() < Duration::from_secs(10), "it waited although nothing was left");
}

#[test]
fn who_takes_longer_is_told() {
    let mut server = Server::start_with(&["--grace", "1s"]);
    bounded(async {
        let id = server.create().await;
        let mut attached = open(&server, &format!("/v1/runs/{id}/exec/attach")).await.unwrap();
        say(&mut attached, json!({ "command": "echo begun; sleep 1000", "timeout": 0 })).await;
        let mut session = shell(&server, &id).await;
        let mut silent = shell(&server, &id).await;
        say(&mut session, json!({ "type": "run", "command": "touch /tmp/begun; sleep 1000" }))
            .await;
        server.exec(&id, "until [ -e /tmp/begun ]; do sleep 0.01; done").await;
        server.signal(Signal::TERM);
        for socket in [&mut attached, &mut session, &mut silent] {
            let end = last(socket).await.1;
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
