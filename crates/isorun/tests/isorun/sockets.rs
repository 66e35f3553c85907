//! Commands with live input and terminals, over WebSockets.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

use crate::fixture::{Server, bounded, refused};

pub type Socket = WebSocketStream<TcpStream>;

pub async fn open(server: &Server, path: &str) -> Result<Socket, Box<Error>> {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    let key = format!("Bearer {}", server.key);
    request.headers_mut().insert("authorization", key.parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    Ok(client_async(request, stream).await?.0)
}

pub async fn send_json(socket: &mut Socket, message: Value) {
    socket.send(Message::Text(message.to_string().into())).await.unwrap();
}

/// Reads all output, with the number of the stream before each piece, and the final message.
async fn read_to_exit(socket: &mut Socket) -> (Vec<u8>, Value) {
    let mut output = Vec::new();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => output.extend_from_slice(&bytes),
            Message::Text(text) => return (output, serde_json::from_str(&text).unwrap()),
            _ => {}
        }
    }
}

/// Reads output until it contains a text.
async fn read_until(socket: &mut Socket, text: &str) -> String {
    let mut output = String::new();
    while !output.contains(text) {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => output += &String::from_utf8_lossy(&bytes),
            Message::Text(text) => panic!("the command exited: {text} after {output}"),
            _ => {}
        }
    }
    output
}

#[test]
fn input_is_live_and_binary() {
    let server = Server::start();
    bounded(async {
        let id = server.create().await;
        let path = format!("/v1/runs/{id}/exec/attach");
        let mut socket = open(&server, &path).await.unwrap();
        send_json(&mut socket, json!({ "command": "cat; echo end >&2; exit 5" })).await;
        for bytes in [&b"\x00\xff\n"[..], b"more"] {
            socket.send(Message::Binary(bytes::Bytes::copy_from_slice(bytes))).await.unwrap();
            let Message::Binary(echo) = socket.next().await.unwrap().unwrap() else { panic!() };
            assert_eq!(echo, [b"\x01", bytes].concat());
        }
        send_json(&mut socket, json!({ "type": "eof" })).await;
        let (output, last) = read_to_exit(&mut socket).await;
        assert_eq!(
            (output, last),
            (b"\x02end\n".to_vec(), json!({ "type": "exit", "exit_code": 5 }))
        );

        let mut socket = open(&server, &path).await.unwrap();
        let script = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.01; done";
        send_json(&mut socket, json!({ "command": script })).await;
        read_until(&mut socket, "ready").await;
        send_json(&mut socket, json!({ "type": "signal", "signal": 10 })).await;
        let (output, last) = read_to_exit(&mut socket).await;
        assert!(String::from_utf8_lossy(&output).contains("caught"));
        assert_eq!(last["exit_code"], 9);
    });
}

#[test]
fn a_terminal_is_one() {
    let server = Server::start();
    bounded(async {
        let id = server.create().await;
        let path = format!("/v1/runs/{id}/terminal?cols=100&rows=30");
        let mut socket = open(&server, &path).await.unwrap();
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
        assert_eq!(read_to_exit(&mut socket).await.1, json!({ "type": "exit", "exit_code": 6 }));
    });
}

#[test]
fn closing_a_terminal_ends_what_runs_in_it() {
    let server = Server::start();
    bounded(async {
        let id = server.create().await;
        let path = format!("/v1/runs/{id}/terminal?command=sleep%201000");
        let socket = open(&server, &path).await.unwrap();
        server.exec(&id, "while ! pgrep -x sleep; do sleep 0.01; done").await;
        drop(socket);
        server.exec(&id, "while pgrep -x sleep; do sleep 0.01; done").await;
    });
}

#[test]
fn who_has_a_terminal_open_is_told_that_the_run_ended() {
    let server = Server::start();
    bounded(async {
        let id = server.create().await;
        let mut socket = open(&server, &format!("/v1/runs/{id}/terminal")).await.unwrap();
        server.destroy(&id).await;
        let last = read_to_exit(&mut socket).await.1;
        assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("run_destroyed")));
    });
}

#[test]
fn nonsense_over_a_socket_is_said_to_be_nonsense() {
    let server = Server::start();
    bounded(async {
        let id = server.create().await;
        let attach = format!("/v1/runs/{id}/exec/attach");
        for first in [
            Message::Text("{}".into()),
            Message::Text("nonsense".into()),
            Message::Binary(vec![1, 2, 3].into()),
            Message::Text(json!({ "command": "true", "stdin": "a" }).to_string().into()),
            Message::Text(json!({ "command": "a\0b" }).to_string().into()),
        ] {
            let mut socket = open(&server, &attach).await.unwrap();
            socket.send(first.clone()).await.unwrap();
            let last = read_to_exit(&mut socket).await.1;
            assert_eq!(last["code"], "invalid_request", "{first:?}: {last}");
        }
        for message in [json!({ "type": "resize", "cols": 0, "rows": 1 }), json!({ "type": "eof" })]
        {
            let mut socket = open(&server, &format!("/v1/runs/{id}/terminal")).await.unwrap();
            send_json(&mut socket, message.clone()).await;
            let last = read_to_exit(&mut socket).await.1;
            assert_eq!(last["code"], "invalid_request", "{message}: {last}");
        }
        let plain = server.get(&attach).await;
        refused(&plain, 400, "invalid_request", "WebSocket upgrade");
        let unknown = open(&server, "/v1/runs/run0123456789abcdef/terminal").await;
        let Err(error) = unknown else { panic!("the WebSocket was opened") };
        assert!(matches!(*error, Error::Http(ref answer) if answer.status() == 404), "{error}");
        server.assert_healthy().await;
    });
}
