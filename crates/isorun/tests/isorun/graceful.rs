//! Requests in progress when the server is stopped.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use test_macros::server_test;
use test_support::wait::wait_for;

use crate::support::{
    Server, answer, refused,
    sockets::{next_message, open, open_shell, send_json},
};

#[server_test]
async fn requests_in_progress_have_a_grace_period(mut server: Server) {
    let id = server.create().await;
    let command = "touch /tmp/$0; until [ -e /tmp/go ]; do sleep 0.05; done; echo done";
    let command_for = |name: &str| command.replace("$0", name);
    let mut attached = open(&server, &format!("/v1/runs/{id}/exec/attach")).await.unwrap();
    send_json(&mut attached, json!({ "command": command_for("attached") })).await;
    let (mut session, _) = open_shell(&server, &id, "").await;
    send_json(&mut session, json!({ "type": "run", "command": command_for("session") })).await;
    let path = format!("/v1/runs/{id}/terminal?command=");
    let typed = command_for("terminal").replace(' ', "%20").replace(';', "%3B");
    let mut terminal = open(&server, &format!("{path}{typed}")).await.unwrap();
    let mut client = server.command();
    client.args(["exec", &id, "--", "sh", "-c", &command_for("client")]);
    let client = tokio::spawn(client.output());
    server
        .exec(&id, "for f in attached session terminal client; do until [ -e /tmp/$f ]; do sleep 0.02; done; done")
        .await;
    let started = Instant::now();
    server.signal(Signal::TERM);
    // It reports that it is stopping, and refuses new requests.
    let ready = wait_for("/readyz is 503", async || {
        let fresh = reqwest::Client::new().get(format!("{}/readyz", server.url));
        Some(answer(fresh).await).filter(|ready| ready.0 == 503)
    });
    let ready = ready.await.1;
    assert_eq!(ready["status"], "stopping", "{ready}");
    assert_eq!(answer(server.http.get(format!("{}/healthz", server.url))).await.0, 200);
    let more = server.post(&format!("/v1/runs/{id}/exec"), json!({ "command": "true" })).await;
    refused(&more, 503, "stopping", "stopping");
    refused(&server.post("/v1/runs", json!({ "image": "host" })).await, 503, "stopping", "");
    // The commands are released by an open shell, since a new request would be refused.
    send_json(&mut session, json!({ "type": "interrupt" })).await;
    assert_eq!(next_message(&mut session).await.1, json!({ "type": "result", "exit_code": 130 }));
    send_json(&mut session, json!({ "type": "run", "command": "touch /tmp/go; echo more" })).await;
    let (out, end) = next_message(&mut session).await;
    assert_eq!((out, end), (b"\x01more\n".to_vec(), json!({ "type": "result", "exit_code": 0 })));
    for socket in [&mut attached, &mut terminal] {
        let (out, end) = next_message(socket).await;
        assert!(String::from_utf8_lossy(&out).contains("done"), "{out:?}");
        assert_eq!(end, json!({ "type": "exit", "exit_code": 0 }));
    }
    let output = client.await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{output:?}");
    drop((attached, session, terminal));
    assert!(server.exited().await.success());
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "the server waited although no request was left"
    );
}

#[server_test(args = ["--grace", "1s"])]
async fn clients_are_told_of_the_end_of_the_grace_period(mut server: Server) {
    let id = server.create().await;
    let mut attached = open(&server, &format!("/v1/runs/{id}/exec/attach")).await.unwrap();
    send_json(&mut attached, json!({ "command": "echo begun; sleep 1000", "timeout": 0 })).await;
    let (mut session, _) = open_shell(&server, &id, "").await;
    let (mut silent, _) = open_shell(&server, &id, "").await;
    send_json(&mut session, json!({ "type": "run", "command": "touch /tmp/begun; sleep 1000" }))
        .await;
    server.exec(&id, "until [ -e /tmp/begun ]; do sleep 0.01; done").await;
    server.signal(Signal::TERM);
    for socket in [&mut attached, &mut session, &mut silent] {
        let end = next_message(socket).await.1;
        assert_eq!((&end["type"], &end["code"]), (&json!("error"), &json!("run_destroyed")));
        assert!(end["error"].as_str().unwrap().contains("the server was stopped"), "{end}");
    }
    drop((attached, session, silent));
    assert!(server.exited().await.success());
}

#[server_test(args = ["--grace", "1h"])]
async fn idle_server_stops_immediately(mut server: Server) {
    server.create().await;
    server.signal(Signal::TERM);
    assert!(server.exited().await.success());
}
