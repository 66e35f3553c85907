//! Commands, with one response or as server-sent events.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all};
use reqwest::Method;
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::wait::wait_until;

use crate::support::{
    Server, refused,
    sockets::{next_message, open, read_until, send_json},
};

#[server_test]
async fn commands_return_output_and_exit_code(server: &Server) {
    let id = server.create_with(json!({ "env": { "A": "1", "B": "2" } })).await;
    let path = format!("/v1/runs/{id}/exec");
    let cases = [
        (json!({ "command": "echo out; echo err >&2; exit 3" }), 3, "out\n", "err\n"),
        (json!({ "command": ["printf", "%s.", "a b", "*", ""] }), 0, "a b.*..", ""),
        (json!({ "command": "kill -TERM $$" }), 143, "", ""),
        (json!({ "command": "echo $A$B$C", "env": { "B": "two", "C": "3" } }), 0, "1two3\n", ""),
        (json!({ "command": "pwd", "cwd": "/usr" }), 0, "/usr\n", ""),
        (json!({ "command": "cat", "stdin": "a\u{e9}\n" }), 0, "a\u{e9}\n", ""),
        // Without `stdin` standard input is empty.
        (json!({ "command": "cat; echo end" }), 0, "end\n", ""),
        (json!({ "command": "printf '\\377\\303\\251'" }), 0, "\u{fffd}\u{e9}", ""),
        (json!({ "command": "printf '\\377\\000'", "encoding": "base64" }), 0, "/wA=", ""),
        (json!({ "command": "cat <<'END'\nquoted $A `x` \"\nEND\n" }), 0, "quoted $A `x` \"\n", ""),
        (json!({ "command": "sleep 100 & echo on" }), 0, "on\n", ""),
        (json!({ "command": "true", "timeout": 0 }), 0, "", ""),
        (json!({ "command": "true", "timeout": -1 }), 0, "", ""),
    ];
    for (body, exit_code, stdout, stderr) in cases {
        let (status, answer) = server.post(&path, body.clone()).await;
        let expected = json!({
            "exit_code": exit_code, "stdout": stdout, "stderr": stderr,
            "stdout_truncated": false, "stderr_truncated": false,
        });
        assert_eq!((status.as_u16(), answer), (200, expected), "{body}");
    }
}

#[server_test]
async fn timeout_kills_all_processes_and_keeps_output(server: &Server) {
    let id = server.create().await;
    let command = "echo begun; echo oops >&2; (sleep 2; touch /tmp/late) & sleep 100";
    let start = Instant::now();
    let body = json!({ "command": command, "timeout": 0.5 });
    let late = server.post(&format!("/v1/runs/{id}/exec"), body).await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    refused(&late, 504, "exec_timeout", "0.5 s");
    assert_eq!((&late.1["stdout"], &late.1["stderr"]), (&json!("begun\n"), &json!("oops\n")));
    // The processes that it had started were killed, too. Whether something happens later can
    // only be seen by waiting for longer than that.
    let left = server.exec(&id, "sleep 3; ls /tmp/late; pgrep -c sleep").await;
    assert_eq!(left["stdout"], "0\n", "{left}");
}

#[server_test(args = ["--max-output", "100000"])]
async fn output_beyond_the_limit_is_truncated(server: &Server) {
    let id = server.create().await;
    let body = json!({ "command": "head -c 1073741824 /dev/zero; echo end >&2", "timeout": 100 });
    let (status, answer) = server.post(&format!("/v1/runs/{id}/exec"), body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["stdout"].as_str().unwrap().len(), 100_000);
    assert_eq!(answer["stdout_truncated"], true);
    assert_eq!((&answer["stderr"], &answer["stderr_truncated"]), (&json!("end\n"), &json!(false)));
    server.assert_served().await;
}

#[server_test]
async fn hundred_concurrent_commands_keep_their_output(server: &Server) {
    let id = server.create().await;
    let outcomes = join_all((0..100).map(|number| {
        let (server, id) = (server, &id);
        async move { server.exec(id, &format!("sleep 0.2; echo {number}")).await }
    }))
    .await;
    for (number, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome["stdout"], format!("{number}\n"), "{outcome}");
        assert_eq!(outcome["exit_code"], 0, "{outcome}");
    }
}

#[server_test(args = ["--max-execs", "2"])]
async fn concurrent_command_limit_is_enforced(server: &Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/exec");
    let mut running = Vec::new();
    for _ in 0..2 {
        let mut socket = open(server, &format!("{path}/attach")).await.unwrap();
        send_json(&mut socket, json!({ "command": "echo begun; cat" })).await;
        read_until(&mut socket, "begun").await;
        running.push(socket);
    }
    let more = join_all((0..4).map(|_| server.post(&path, json!({ "command": "true" })))).await;
    for answer in &more {
        refused(answer, 429, "too_many_execs", &id);
    }
    // The end of one of them makes room for another.
    send_json(&mut running[0], json!({ "type": "eof" })).await;
    let end = next_message(&mut running[0]).await.1;
    assert_eq!(end, json!({ "type": "exit", "exit_code": 0 }));
    server.exec(&id, "true").await;
}

#[server_test]
async fn output_is_streamed_while_the_command_runs(server: &Server) {
    let id = server.create().await;
    // The command continues only after this test has received the first line.
    let command = "echo first; while [ ! -e /tmp/go ]; do sleep 0.01; done; \
                   printf '\\303'; sleep 0.1; printf '\\251'; echo err >&2; exit 7";
    let mut events = Events::open(server, &id, command, 30.0).await;
    assert_eq!(events.next().await.unwrap(), json!({ "type": "stdout", "data": "first\n" }));
    server.exec(&id, "touch /tmp/go").await;
    let (mut stdout, mut stderr, mut last) = (String::new(), String::new(), Value::Null);
    while let Some(event) = events.next().await {
        match event["type"].as_str().unwrap() {
            "stdout" => stdout += event["data"].as_str().unwrap(),
            "stderr" => stderr += event["data"].as_str().unwrap(),
            _ => last = event,
        }
    }
    assert_eq!((stdout.as_str(), stderr.as_str()), ("\u{e9}", "err\n"));
    assert_eq!(last, json!({ "type": "exit", "exit_code": 7 }));
}

#[server_test]
async fn stream_ends_with_the_error(server: &Server) {
    let id = server.create().await;
    let mut events = Events::open(server, &id, "echo a; sleep 100", 0.3).await;
    assert_eq!(events.next().await.unwrap()["data"], "a\n");
    let last = events.next().await.unwrap();
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("exec_timeout")));
    assert_eq!((&last["status"], events.next().await), (&json!(504), None));

    let mut events = Events::open(server, &id, "echo a; sleep 100", 0.0).await;
    assert_eq!(events.next().await.unwrap()["data"], "a\n");
    server.destroy(&id).await;
    let last = events.next().await.unwrap();
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("run_destroyed")));
    assert_eq!(events.next().await, None);
}

#[server_test]
async fn unread_stream_blocks_only_its_command(server: &Server) {
    let id = server.create().await;
    // This stream is not read, so the command blocks.
    let endless = Events::open(server, &id, "yes; touch /tmp/done", 0.0).await;
    server.exec(&id, "head -c 10000000 /dev/zero | wc -c").await;
    server.assert_served().await;
    drop(endless);
    wait_until_none_runs(server, &id, "yes").await;
}

#[server_test]
async fn disconnected_client_ends_its_command(server: &Server) {
    let id = server.create().await;
    for path in ["exec", "exec/stream"] {
        let body = json!({ "command": "touch /tmp/begun; exec sleep 1000", "timeout": 0 });
        let request = server.request(Method::POST, &format!("/v1/runs/{id}/{path}")).json(&body);
        let client = tokio::spawn(async move {
            // The response of the stream starts immediately, and must be kept open.
            let mut answer = request.send().await.unwrap();
            while answer.chunk().await.unwrap().is_some() {}
        });
        server.exec(&id, "while [ ! -e /tmp/begun ]; do sleep 0.01; done; rm /tmp/begun").await;
        client.abort();
        wait_until_none_runs(server, &id, "sleep").await;
    }
    let log = json!(server.audit_log(&id).await).to_string();
    assert_eq!(log.matches("the client disconnected").count(), 2, "{log}");
    server.assert_served().await;
}

/// Waits until no process of this program is running.
async fn wait_until_none_runs(server: &Server, id: &str, program: &str) {
    wait_until(&format!("no process of {program} is running"), async || {
        let running = server.exec(id, &format!("pgrep -c -x {program}")).await;
        assert_eq!(running["stderr"], "", "pgrep is required");
        running["stdout"] == "0\n"
    })
    .await;
}

/// A decoder of server-sent events.
struct Events {
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>>>>,
    buffer: String,
}

impl Events {
    async fn open(server: &Server, id: &str, command: &str, timeout: f64) -> Self {
        let request = server.request(Method::POST, &format!("/v1/runs/{id}/exec/stream"));
        let body = json!({ "command": command, "timeout": timeout });
        let response = request.json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: Box::pin(response.bytes_stream()), buffer: String::new() }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.buffer = rest;
                let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) else {
                    // A keep-alive comment.
                    continue;
                };
                let data: Value = serde_json::from_str(data).unwrap();
                let name = event.lines().find_map(|line| line.strip_prefix("event: ")).unwrap();
                assert_eq!(data["type"], name);
                return Some(data);
            }
            let piece = self.body.next().await?.unwrap();
            self.buffer += std::str::from_utf8(&piece).unwrap();
        }
    }
}
