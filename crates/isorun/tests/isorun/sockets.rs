//! Commands with live input and terminals, over WebSockets.

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use test_macros::server_test;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{
    Server, refused,
    sockets::{next_message, open, read_until, send_json},
};

#[server_test]
async fn attached_input_is_live_and_binary(server: &Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/exec/attach");
    let mut socket = open(server, &path).await.unwrap();
    send_json(&mut socket, json!({ "command": "cat; echo end >&2; exit 5" })).await;
    for bytes in [&b"\x00\xff\n"[..], b"more"] {
        socket.send(Message::Binary(bytes::Bytes::copy_from_slice(bytes))).await.unwrap();
        let Message::Binary(echo) = socket.next().await.unwrap().unwrap() else { panic!() };
        assert_eq!(echo, [b"\x01", bytes].concat());
    }
    send_json(&mut socket, json!({ "type": "eof" })).await;
    let (output, last) = next_message(&mut socket).await;
    assert_eq!((output, last), (b"\x02end\n".to_vec(), json!({ "type": "exit", "exit_code": 5 })));

    let mut socket = open(server, &path).await.unwrap();
    let script = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.01; done";
    send_json(&mut socket, json!({ "command": script })).await;
    read_until(&mut socket, "ready").await;
    send_json(&mut socket, json!({ "type": "signal", "signal": 10 })).await;
    let (output, last) = next_message(&mut socket).await;
    assert!(String::from_utf8_lossy(&output).contains("caught"));
    assert_eq!(last["exit_code"], 9);
}

#[server_test]
async fn terminal_has_a_size_and_an_interrupt_key(server: &Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/terminal?cols=100&rows=30");
    let mut socket = open(server, &path).await.unwrap();
    let text = |text: &str| Message::Binary(text.to_owned().into());
    socket.send(text("tty && stty size; echo $((20 + 1))\n")).await.unwrap();
    let seen = read_until(&mut socket, "21\r\n").await;
    assert!(seen.contains("/dev/pts/") && seen.contains("30 100\r\n"), "{seen}");
    send_json(&mut socket, json!({ "type": "resize", "cols": 132, "rows": 50 })).await;
    socket.send(text("stty size; echo $((30 + 1))\n")).await.unwrap();
    let seen = read_until(&mut socket, "31\r\n").await;
    assert!(seen.contains("50 132\r\n"), "{seen}");
    // Ctrl-C interrupts the running command.
    socket.send(text("sleep 1000; echo $((40 + 1))\n")).await.unwrap();
    read_until(&mut socket, "sleep 1000").await;
    server.exec(&id, "while ! pgrep -x sleep; do sleep 0.01; done").await;
    socket.send(text("\x03")).await.unwrap();
    socket.send(text("exit 6\n")).await.unwrap();
    assert_eq!(next_message(&mut socket).await.1, json!({ "type": "exit", "exit_code": 6 }));
}

#[server_test]
async fn closed_terminal_ends_its_processes(server: &Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/terminal?command=sleep%201000");
    let socket = open(server, &path).await.unwrap();
    server.exec(&id, "while ! pgrep -x sleep; do sleep 0.01; done").await;
    drop(socket);
    server.exec(&id, "while pgrep -x sleep; do sleep 0.01; done").await;
}

#[server_test]
async fn open_terminal_is_told_of_the_destruction(server: &Server) {
    let id = server.create().await;
    let mut socket = open(server, &format!("/v1/runs/{id}/terminal")).await.unwrap();
    server.destroy(&id).await;
    let last = next_message(&mut socket).await.1;
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("run_destroyed")));
}

#[server_test]
async fn invalid_websocket_frames_are_refused(server: &Server) {
    let id = server.create().await;
    let attach = format!("/v1/runs/{id}/exec/attach");
    for first in [
        Message::Text("{}".into()),
        Message::Text("nonsense".into()),
        Message::Binary(vec![1, 2, 3].into()),
        Message::Text(json!({ "command": "true", "stdin": "a" }).to_string().into()),
        Message::Text(json!({ "command": "a\0b" }).to_string().into()),
    ] {
        let mut socket = open(server, &attach).await.unwrap();
        socket.send(first.clone()).await.unwrap();
        let last = next_message(&mut socket).await.1;
        assert_eq!(last["code"], "invalid_request", "{first:?}: {last}");
    }
    for message in [json!({ "type": "resize", "cols": 0, "rows": 1 }), json!({ "type": "eof" })] {
        let mut socket = open(server, &format!("/v1/runs/{id}/terminal")).await.unwrap();
        send_json(&mut socket, message.clone()).await;
        let last = next_message(&mut socket).await.1;
        assert_eq!(last["code"], "invalid_request", "{message}: {last}");
    }
    let plain = server.get(&attach).await;
    refused(&plain, 400, "invalid_request", "WebSocket upgrade");
    let unknown = open(server, "/v1/runs/run0123456789abcdef/terminal").await;
    let Err(error) = unknown else { panic!("the WebSocket was opened") };
    assert!(matches!(*error, Error::Http(ref answer) if answer.status() == 404), "{error}");
    server.assert_served().await;
}
