//! Tests of `isorun mcp`: its limits and its end, for any behaviour of a client. What the tools
//! do is tested with a real client, by `test_mcp.py` in `sdk/python`.

use std::{collections::HashMap, process::Stdio};

use serde_json::{Value, json};
use test_macros::server_test;
use test_support::wait::{wait_for, wait_until};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};

use crate::support::Server;

/// A client on pipes that can send arbitrary lines.
struct McpClient {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    answers: HashMap<u64, Value>,
    next: u64,
}

impl McpClient {
    async fn start(server: &Server, options: &[&str]) -> Self {
        let mut command = server.command();
        command.args(["mcp", "host"]).args(options);
        Self::launch(command).await
    }

    async fn launch(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let stdout = BufReader::new(stdout).lines();
        let mut client = Self { child, stdin, stdout, answers: HashMap::new(), next: 1 };
        let hello = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "0" },
        });
        let hello = client.send("initialize", &hello).await;
        assert_eq!(client.answer(hello).await["result"]["serverInfo"]["name"], "isorun");
        client.line("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}").await;
        client
    }

    async fn line(&mut self, line: &str) {
        self.stdin.write_all(line.as_bytes()).await.unwrap();
        self.stdin.write_all(b"\n").await.unwrap();
    }

    async fn send(&mut self, method: &str, params: &Value) -> u64 {
        let id = self.next;
        self.next += 1;
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.line(&message.to_string()).await;
        id
    }

    async fn start_call(&mut self, tool: &str, arguments: Value) -> u64 {
        self.send("tools/call", &json!({ "name": tool, "arguments": arguments })).await
    }

    async fn answer(&mut self, id: u64) -> Value {
        loop {
            if let Some(answer) = self.answers.remove(&id) {
                return answer;
            }
            let line = self.stdout.next_line().await.unwrap().expect("the server has ended");
            let answer: Value = serde_json::from_str(&line).unwrap();
            if let Some(id) = answer["id"].as_u64() {
                self.answers.insert(id, answer);
            }
        }
    }

    /// Calls a tool, and returns the fields of its result.
    async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let id = self.start_call(tool, arguments).await;
        self.answer(id).await["result"]["structuredContent"].take()
    }

    /// Runs a command, and returns its standard output.
    async fn run(&mut self, command: &str) -> String {
        let fields = self.call("run_command", json!({ "command": command })).await;
        assert_eq!(fields["exit_code"], 0, "{fields}");
        fields["stdout"].as_str().unwrap().to_owned()
    }

    async fn sandbox(&mut self) -> String {
        let listed = self.call("list_sessions", json!({})).await;
        listed["sessions"][0]["sandbox"].as_str().unwrap().to_owned()
    }

    /// Closes the connection, and waits until the server has ended.
    async fn close(mut self) {
        drop(self.stdin);
        assert!(self.child.wait().await.unwrap().success());
    }
}

async fn is_gone(server: &Server, id: &str) -> bool {
    server.get(&format!("/v1/runs/{id}")).await.0 == 404
}

#[server_test]
async fn idle_sessions_are_ended(server: &Server) {
    let mut client = McpClient::start(server, &["--idle", "500ms"]).await;
    client.run("true").await;
    let sandbox = client.sandbox().await;
    // A session in which a call runs is not idle.
    client.run("sleep 1.5").await;
    assert_eq!(client.sandbox().await, sandbox);
    wait_until("the sandbox is destroyed", async || is_gone(server, &sandbox).await).await;
    let listed = client.call("list_sessions", json!({})).await;
    assert_eq!(listed["sessions"], json!([]));
    client.run("true").await;
    client.close().await;
}

#[server_test]
async fn a_cancelled_call_ends_its_command(server: &Server) {
    let mut client = McpClient::start(server, &[]).await;
    client.run("true").await;
    let sandbox = client.sandbox().await;
    let command = json!({ "command": "touch /tmp/begun; sleep 1000", "timeout": 1000 });
    let call = client.start_call("run_command", command).await;
    wait_until("the command runs", async || {
        server.exec(&sandbox, "ls /tmp/begun").await["exit_code"] == 0
    })
    .await;
    let cancel = json!({
        "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": call },
    });
    client.line(&cancel.to_string()).await;
    wait_until("the command is gone", async || {
        server.exec(&sandbox, "pgrep -x sleep").await["exit_code"] == 1
    })
    .await;
    // The session is still usable.
    assert_eq!(client.run("ls /tmp/begun").await, "/tmp/begun\n");
    client.close().await;
}

#[server_test]
async fn going_back_does_not_wait_for_a_command(server: &Server) {
    let mut client = McpClient::start(server, &[]).await;
    client.call("checkpoint", json!({ "name": "start" })).await;
    let first = client.sandbox().await;
    let command = json!({ "command": "sleep 1000", "timeout": 1000 });
    let hanging = client.start_call("run_command", command).await;
    // Otherwise it could begin in the new sandbox.
    wait_until("the command runs", async || {
        server.exec(&first, "pgrep -x sleep").await["exit_code"] == 0
    })
    .await;
    let back = client.start_call("go_back", json!({ "name": "start" })).await;
    assert_eq!(client.answer(back).await["result"]["isError"], false);
    // It is not repeated in the new sandbox.
    assert_eq!(client.answer(hanging).await["result"]["isError"], true);
    assert!(is_gone(server, &first).await);
    let id = client.start_call("run_command", json!({ "command": "pgrep -x sleep" })).await;
    assert_eq!(client.answer(id).await["result"]["structuredContent"]["exit_code"], 1);
    client.close().await;
}

#[server_test]
async fn invalid_messages_do_not_stop_it(server: &Server) {
    let mut client = McpClient::start(server, &[]).await;
    for line in [
        "",
        "x",
        "[]",
        "{}",
        "{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"tools/call\"}",
        "{\"jsonrpc\":\"2.0\",\"method\":\"tools/call\",\"params\":[]}",
        &"[".repeat(100_000),
    ] {
        client.line(line).await;
    }
    for (tool, arguments, part) in [
        ("run_command", json!({ "command": 1 }), "string"),
        ("run_command", json!({ "command": "", "session": "a".repeat(101) }), "1 to 100 bytes"),
        ("port_url", json!({ "port": 99_999 }), "99999"),
        ("drop_everything", json!({}), "run_command"),
    ] {
        let id = client.start_call(tool, arguments).await;
        let answer = client.answer(id).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{tool}: {message}");
    }
    client.run("true").await;
    client.close().await;
}

#[server_test]
async fn many_calls_at_once_share_the_sandbox(server: &Server) {
    let mut client = McpClient::start(server, &[]).await;
    let mut calls = Vec::new();
    for number in 0..40 {
        let command = json!({ "command": format!("echo {number} >> /tmp/all") });
        calls.push(client.start_call("run_command", command).await);
    }
    for id in calls {
        assert_eq!(client.answer(id).await["result"]["isError"], false);
    }
    assert_eq!(client.run("wc -l < /tmp/all").await.trim(), "40");
    assert_eq!(server.get("/v1/runs").await.1["runs"].as_array().unwrap().len(), 1);
    client.close().await;
    assert_eq!(server.get("/v1/runs").await.1["runs"], json!([]));
}

#[tokio::test]
async fn without_a_server_one_is_started() {
    let (data, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_isorun"));
    command.args(["mcp", "isola:python"]).kill_on_drop(true);
    command.env_remove("ISORUN_API_KEY").env_remove("ISORUN_API_URL");
    command.env("ISORUN_DATA_DIR", data.path()).env("XDG_CONFIG_HOME", home.path());
    let mut client = McpClient::launch(command).await;
    let fields = client.call("run_code", json!({ "code": "6 * 7" })).await;
    assert_eq!(fields["results"], "42\n", "{fields}");
    client.close().await;
}

/// `isorun mcp` over HTTP, which is stopped when it is dropped.
struct HttpMcp {
    child: Child,
    stderr: Lines<BufReader<ChildStderr>>,
    url: String,
}

impl HttpMcp {
    async fn start(server: &Server, options: &[&str]) -> Self {
        let mut command = server.command();
        command.args(["mcp", "host", "--listen", "127.0.0.1:0"]).args(options);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = stderr.next_line().await.unwrap().expect("it says where it listens");
        let url = line.split(' ').next_back().unwrap().to_owned();
        Self { child, stderr, url }
    }

    fn request(&self, server: &Server, tool: &str, arguments: Value) -> reqwest::RequestBuilder {
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": { "name": tool, "arguments": arguments },
        });
        server
            .http
            .post(&self.url)
            .bearer_auth(&server.key)
            .header("accept", "application/json, text/event-stream")
            .json(&body)
    }

    async fn call(&self, server: &Server, tool: &str, arguments: Value) -> Value {
        let answer = self.request(server, tool, arguments).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().await.unwrap()["result"]["structuredContent"].take()
    }
}

#[server_test]
async fn a_client_that_disconnects_ends_its_command(server: &Server) {
    let mcp = HttpMcp::start(server, &[]).await;
    mcp.call(server, "run_command", json!({ "command": "true" })).await;
    let listed = mcp.call(server, "list_sessions", json!({})).await;
    let sandbox = listed["sessions"][0]["sandbox"].as_str().unwrap().to_owned();
    let command = json!({ "command": "sleep 1000", "timeout": 1000 });
    let request = mcp.request(server, "run_command", command);
    let waiting = tokio::spawn(request.send());
    wait_until("the command runs", async || {
        server.exec(&sandbox, "pgrep -x sleep").await["exit_code"] == 0
    })
    .await;
    waiting.abort();
    wait_until("the command is gone", async || {
        server.exec(&sandbox, "pgrep -x sleep").await["exit_code"] == 1
    })
    .await;
}

#[server_test]
async fn requests_over_http_are_bounded(server: &Server) {
    let mcp = HttpMcp::start(server, &["--max-output", "1024"]).await;
    let content = "a".repeat(17 << 20);
    let file = json!({ "path": "/tmp/large", "content": content });
    let answer = mcp.request(server, "write_file", file).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    let file = json!({ "path": "/tmp/large", "content": "a".repeat(1 << 20) });
    let written = mcp.call(server, "write_file", file).await;
    assert_eq!(written["size"], 1 << 20, "{written}");
    let read = mcp.call(server, "read_file", json!({ "path": "/tmp/large" })).await;
    assert_eq!(read["content"].as_str().unwrap().len(), 1024);
    assert_eq!(read["next_offset"], 1024);
    // Connections that send nothing do not keep others out.
    let address = mcp.url.trim_start_matches("http://").trim_end_matches("/mcp");
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    mcp.call(server, "run_command", json!({ "command": "true" })).await;
}

#[server_test]
async fn its_end_destroys_the_sandboxes(server: &Server) {
    let mut mcp = HttpMcp::start(server, &[]).await;
    mcp.call(server, "checkpoint", json!({ "name": "one" })).await;
    mcp.call(server, "run_command", json!({ "command": "true", "session": "other" })).await;
    assert_eq!(server.get("/v1/runs").await.1["runs"].as_array().unwrap().len(), 2);
    let pid = rustix::process::Pid::from_raw(mcp.child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = wait_for("it has ended", async || mcp.child.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
    assert_eq!(mcp.stderr.next_line().await.unwrap(), None);
    assert_eq!(server.get("/v1/runs").await.1["runs"], json!([]));
    assert_eq!(server.get("/v1/snapshots").await.1["snapshots"], json!([]));
}

#[server_test]
async fn other_addresses_than_loopback_need_a_confirmation(server: &Server) {
    let refused = server.run(&["mcp", "host", "--listen", "0.0.0.0:0"]).await;
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("--allow-plain-http"), "{message}");
    let too_long = server.run(&["mcp", "host", "--timeout", "2h"]).await;
    assert_eq!(too_long.status.code(), Some(2));
}
