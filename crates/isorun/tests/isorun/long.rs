//! Long commands and responses, and shells without output.

use std::time::Duration;

use serde_json::json;
use test_macros::server_test;
use test_support::wait::wait_until;

use crate::support::{
    Server, refused,
    sockets::{Socket, next_message, open, open_shell, reopen_shell, send_json},
};

/// The maximum size of a request body and of a text frame, in bytes.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Returns the output until the next text message, with the number of the stream before each part.
async fn printed(socket: &mut Socket) -> String {
    String::from_utf8_lossy(&next_message(socket).await.0).into_owned()
}

/// Returns a command that contains a text of this length, and prints the length.
fn counting(length: usize) -> String {
    format!("v={}; printf %s \"$v\" | wc -c", "x".repeat(length))
}

#[server_test]
async fn command_length_is_limited_by_the_body_size(server: &Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/exec");
    let attach = format!("{path}/attach");
    let (mut shell, _) = open_shell(server, &id, "").await;
    for length in [100, 129 << 10, 500_000, MAX_BODY_BYTES - 200] {
        let expected = format!("{length}\n");
        let (status, answer) = server.post(&path, json!({ "command": counting(length) })).await;
        assert_eq!(
            (status.as_u16(), answer["stdout"].as_str().unwrap()),
            (200, &*expected),
            "{answer}"
        );
        let mut socket = open(server, &attach).await.unwrap();
        send_json(&mut socket, json!({ "command": counting(length) })).await;
        assert!(printed(&mut socket).await.contains(&expected), "{length}");
        send_json(&mut shell, json!({ "type": "run", "command": counting(length) })).await;
        assert!(printed(&mut shell).await.contains(&expected), "{length}");
    }
    // The error of a longer one contains the limit.
    let named = MAX_BODY_BYTES.to_string();
    for length in [MAX_BODY_BYTES, MAX_BODY_BYTES + 100_000, 4 * MAX_BODY_BYTES] {
        let answer = server.post(&path, json!({ "command": counting(length) })).await;
        refused(&answer, 413, "too_large", &named);
        let mut socket = open(server, &attach).await.unwrap();
        send_json(&mut socket, json!({ "command": counting(length) })).await;
        let end = next_message(&mut socket).await.1;
        assert_eq!(end["code"], "too_large", "{end}");
        assert!(end["error"].as_str().unwrap().contains(&named), "{end}");
    }
    let (mut shell, session) = open_shell(server, &id, "").await;
    send_json(&mut shell, json!({ "type": "run", "command": "kept=yes" })).await;
    next_message(&mut shell).await;
    send_json(&mut shell, json!({ "type": "run", "command": counting(MAX_BODY_BYTES) })).await;
    let end = next_message(&mut shell).await.1;
    assert_eq!(end["code"], "too_large", "{end}");
    assert!(end["error"].as_str().unwrap().contains(&named), "{end}");
    // The session still exists.
    let mut shell = reopen_shell(server, &id, &session).await;
    send_json(&mut shell, json!({ "type": "run", "command": "echo $kept" })).await;
    assert_eq!(printed(&mut shell).await, "\u{1}yes\n");
    // The error for an argument beyond the limit of Linux contains that limit.
    let answer = server.post(&path, json!({ "command": ["echo", "x".repeat(200_000)] })).await;
    refused(&answer, 400, "invalid_request", "131071");
}

#[server_test(seconds = 360)]
async fn truncated_output_ends_with_a_complete_character() {
    for (limit, letters) in
        [(5, "\u{e9}\u{e9}"), (7, "\u{20ac}\u{20ac}"), (11, "\u{1f600}\u{1f600}")]
    {
        let server = Server::start_with(&["--max-output", &limit.to_string()]);
        let id = server.create().await;
        let letter = letters.chars().next().unwrap();
        let command =
            format!("printf '{letter}%.0s' 1 2 3 4 5 6; printf '{letter}%.0s' 1 2 3 4 5 6 >&2");
        let answer = server.exec(&id, &command).await;
        for stream in ["stdout", "stderr"] {
            assert_eq!(answer[stream], letters, "{answer}");
            assert_eq!(answer[format!("{stream}_truncated")], true);
        }
    }
}

#[server_test]
async fn open_shell_prevents_the_idle_timeout(server: &Server) {
    for kind in ["shell", "terminal"] {
        let id = server.create_with(json!({ "timeout": 1 })).await;
        let socket = open(server, &format!("/v1/runs/{id}/{kind}")).await.unwrap();
        // Longer than the idle timeout, which must not apply.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let (status, run) = server.get(&format!("/v1/runs/{id}")).await;
        assert_eq!((status.as_u16(), &run["status"]), (200, &json!("running")), "{kind}");
        drop(socket);
        wait_until("the idle run is destroyed", async || {
            server.get(&format!("/v1/runs/{id}")).await.0 != 200
        })
        .await;
    }
}

#[server_test]
async fn processes_are_counted(server: &Server) {
    let id = server.create().await;
    // The programs that have exited are not counted.
    let command = "sleep 1000 & sleep 1000 & sleep 1000 & \
                   for i in $(seq 50); do true & exited=\"$exited $!\"; done; wait $exited";
    server.text(&id, command).await;
    let (_, stats) = server.get(&format!("/v1/runs/{id}/stats")).await;
    assert_eq!(stats["pids"], 3, "{stats}");
}
