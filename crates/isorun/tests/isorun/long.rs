//! Long commands and responses, and shells without output.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    fixture::{Server, bounded, refused},
    sockets::{Socket, open, send_json},
};

/// The maximum size of a request body and of a text frame, in bytes.
const MAX_BODY_BYTES: usize = 1 << 20;

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

/// Returns a command that contains a text of this length, and prints the length.
fn counting(length: usize) -> String {
    format!("v={}; printf %s \"$v\" | wc -c", "x".repeat(length))
}

#[test]
fn a_command_is_as_long_as_a_body() {
    let server = Server::start();
    bounded(async {
        let id = server.create().await;
        let path = format!("/v1/runs/{id}/exec");
        let attach = format!("{path}/attach");
        let mut shell = open(&server, &format!("/v1/runs/{id}/shell")).await.unwrap();
        next_message(&mut shell).await;
        for length in [100, 129 << 10, 500_000, MAX_BODY_BYTES - 200] {
            let expected = format!("{length}\n");
            let (status, answer) = server.post(&path, json!({ "command": counting(length) })).await;
            assert_eq!(
                (status.as_u16(), answer["stdout"].as_str().unwrap()),
                (200, &*expected),
                "{answer}"
            );
            let mut socket = open(&server, &attach).await.unwrap();
            send_json(&mut socket, json!({ "command": counting(length) })).await;
            assert!(next_message(&mut socket).await.0.contains(&expected), "{length}");
            send_json(&mut shell, json!({ "type": "run", "command": counting(length) })).await;
            assert!(next_message(&mut shell).await.0.contains(&expected), "{length}");
        }
        // The error of a longer one contains the limit.
        let named = MAX_BODY_BYTES.to_string();
        for length in [MAX_BODY_BYTES, MAX_BODY_BYTES + 100_000, 4 * MAX_BODY_BYTES] {
            let answer = server.post(&path, json!({ "command": counting(length) })).await;
            refused(&answer, 413, "too_large", &named);
            let mut socket = open(&server, &attach).await.unwrap();
            send_json(&mut socket, json!({ "command": counting(length) })).await;
            let end = next_message(&mut socket).await.1;
            assert_eq!(end["code"], "too_large", "{end}");
            assert!(end["error"].as_str().unwrap().contains(&named), "{end}");
        }
        let mut shell = open(&server, &format!("/v1/runs/{id}/shell")).await.unwrap();
        let session = next_message(&mut shell).await.1["session"].as_str().unwrap().to_owned();
        send_json(&mut shell, json!({ "type": "run", "command": "kept=yes" })).await;
        next_message(&mut shell).await;
        send_json(&mut shell, json!({ "type": "run", "command": counting(MAX_BODY_BYTES) })).await;
        let end = next_message(&mut shell).await.1;
        assert_eq!(end["code"], "too_large", "{end}");
        assert!(end["error"].as_str().unwrap().contains(&named), "{end}");
        // The session still exists.
        let again = format!("/v1/runs/{id}/shell?session={session}");
        let mut shell = loop {
            let mut shell = open(&server, &again).await.unwrap();
            if next_message(&mut shell).await.1["type"] == "ready" {
                break shell;
            }
        };
        send_json(&mut shell, json!({ "type": "run", "command": "echo $kept" })).await;
        assert_eq!(next_message(&mut shell).await.0, "\u{1}yes\n");
        // The error for an argument beyond the limit of Linux contains that limit.
        let answer = server.post(&path, json!({ "command": ["echo", "x".repeat(200_000)] })).await;
        refused(&answer, 400, "invalid_request", "131071");
    });
}

#[test]
fn an_answer_that_is_cut_off_ends_with_a_whole_character() {
    for (limit, letters) in
        [(5, "\u{e9}\u{e9}"), (7, "\u{20ac}\u{20ac}"), (11, "\u{1f600}\u{1f600}")]
    {
        let server = Server::start_with(&["--max-output", &limit.to_string()]);
        bounded(async {
            let id = server.create().await;
            let letter = letters.chars().next().unwrap();
            let command =
                format!("printf '{letter}%.0s' 1 2 3 4 5 6; printf '{letter}%.0s' 1 2 3 4 5 6 >&2");
            let answer = server.exec(&id, &command).await;
            for stream in ["stdout", "stderr"] {
                assert_eq!(answer[stream], letters, "{answer}");
                assert_eq!(answer[format!("{stream}_truncated")], true);
            }
        });
    }
}

#[test]
fn an_open_shell_keeps_a_run_alive() {
    let server = Server::start();
    bounded(async {
        for kind in ["shell", "terminal"] {
            let id = server.create_with(json!({ "timeout": 1 })).await;
            let socket = open(&server, &format!("/v1/runs/{id}/{kind}")).await.unwrap();
            // Longer than the idle timeout.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            let (status, run) = server.get(&format!("/v1/runs/{id}")).await;
            assert_eq!((status.as_u16(), &run["status"]), (200, &json!("running")), "{kind}");
            drop(socket);
            while server.get(&format!("/v1/runs/{id}")).await.0 == 200 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
}

#[test]
fn processes_are_counted() {
    let server = Server::start();
    bounded(async {
        let id = server.create().await;
        server.exec(&id, "sleep 1000 & sleep 1000 & sleep 1000 & for i in $(seq 50); do true & done; sleep 0.5")
            .await;
        let (_, stats) = server.get(&format!("/v1/runs/{id}/stats")).await;
        assert_eq!(stats["pids"], 3, "{stats}");
    });
}
