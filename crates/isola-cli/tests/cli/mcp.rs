//! Tests of `isola mcp`: the limits of its sessions, for any behaviour of a client.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use serde_json::{Value, json};

use crate::{
    data,
    fixture::{TestDir, compile_data_once, wait_until},
};

/// A client that can send arbitrary lines.
struct Client {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    answers: HashMap<u64, Value>,
    next: u64,
}

impl Client {
    fn new(options: &[&str]) -> Self {
        Self::within(&TestDir::new(), options)
    }

    fn within(dir: &TestDir, options: &[&str]) -> Self {
        let args: Vec<_> = ["mcp"].into_iter().chain(options.iter().copied()).collect();
        let mut command = dir.command(&args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let stdout = BufReader::new(stdout);
        let mut client = Self { child, stdin, stdout, answers: HashMap::new(), next: 1 };
        let hello = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "0" },
        });
        let hello = client.send("initialize", &hello);
        assert_eq!(client.answer(hello)["result"]["serverInfo"]["name"], "isola");
        client.line(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        client
    }

    fn line(&mut self, message: &Value) {
        writeln!(self.stdin, "{message}").unwrap();
    }

    fn send(&mut self, method: &str, params: &Value) -> u64 {
        let id = self.next;
        self.next += 1;
        self.line(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        id
    }

    /// Sends a call that runs Python in a session.
    fn start(&mut self, session: &str, source: &str) -> u64 {
        let arguments = json!({ "source": source, "session": session });
        self.send("tools/call", &json!({ "name": "run_python", "arguments": arguments }))
    }

    fn cancel(&mut self, id: u64) {
        let params = json!({ "requestId": id, "reason": "test" });
        self.line(
            &json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params }),
        );
    }

    /// Waits until the server has received all messages so far, by a request that it
    /// answers at once.
    fn ping(&mut self) {
        let id = self.send("ping", &json!({}));
        self.answer(id);
    }

    /// Waits for the answer to a request.
    fn answer(&mut self, id: u64) -> Value {
        loop {
            if let Some(answer) = self.answers.remove(&id) {
                return answer;
            }
            self.receive();
        }
    }

    /// Reads the next message of the server, and keeps it if it is an answer.
    fn receive(&mut self) {
        let mut line = String::new();
        assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the server has exited");
        let answer: Value = serde_json::from_str(&line).unwrap();
        if let Some(id) = answer["id"].as_u64() {
            self.answers.insert(id, answer);
        }
    }

    /// Waits for the result of a call, and returns its text.
    fn text(&mut self, id: u64) -> String {
        let answer = self.answer(id);
        answer["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned()
    }

    fn run(&mut self, session: &str, source: &str) -> String {
        let id = self.start(session, source);
        self.text(id)
    }

    /// Returns the size of the process's address space in GiB. Each sandbox reserves
    /// four for its memory.
    fn address_space(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmSize:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 20
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the address space is at most this many GiB, because a guest was
/// freed.
#[track_caller]
fn wait_for_memory(client: &Client, max_gib: u64) {
    wait_until("the memory of a guest is freed", || client.address_space() <= max_gib);
}

#[test]
fn number_of_sessions_is_limited() {
    let mut client = Client::new(&["--max-sessions", "2", "--timeout", "300s"]);
    assert_eq!(client.run("a", "1 + 1"), "2\n");
    let one = client.address_space();
    assert_eq!(client.run("b", "1 + 1"), "2\n");
    let two = client.address_space();
    // Each sandbox reserves a little more than four GiB.
    assert!(two - one >= 4 && two - one <= 5, "{one} {two}");

    // Concurrent calls wait for a free slot. The address space is checked while they
    // run.
    let source = "import time\nfor _ in range(5): time.sleep(0.02)\n'done'";
    let calls: Vec<_> = (0..20).map(|number| client.start(&format!("s{number}"), source)).collect();
    let mut peak = 0;
    for id in calls {
        peak = peak.max(client.address_space());
        assert_eq!(client.text(id), "\"done\"\n");
    }
    assert!(peak <= two + 2, "{peak} GiB, of {two} with two sessions");

    // Calls that fail, are cancelled, or end their guest.
    for round in 0..5 {
        let id = client.start(&format!("c{round}"), "while True: pass");
        client.cancel(id);
        let text = client.run(&format!("e{round}"), "raise SystemExit(3)");
        assert!(text.contains("SystemExit"), "{text}");
        let bad = client.send("tools/call", &json!({ "name": "run_python", "arguments": {} }));
        client.answer(bad);
        assert!(client.address_space() <= two + 2, "{} GiB", client.address_space());
    }
    assert_eq!(client.run("z", "1"), "1\n");
    wait_for_memory(&client, two + 1);
}

/// Code that creates the file `begun`, and ends when there is a file `end`.
const UNTIL_END: &str = "\
import os, time
kept = 1
open('/data/begun', 'w').close()
while not os.path.exists('/data/end'): time.sleep(0.01)
kept";

/// Code that creates the file `begun`, and runs for 1.5 s.
const SLOW: &str = "import time\nopen('/data/begun', 'w').close()\ntime.sleep(1.5)\n1";

/// A directory that is mounted at `/data`, for code that creates the file `begun`.
struct Data(TestDir);

impl Data {
    fn new() -> Self {
        Self(TestDir::new())
    }

    /// Starts a client with one session.
    fn client(&self, timeout: &str) -> Client {
        let options = ["--mount", ".:/data:rw", "--max-sessions", "1", "--timeout", timeout];
        Client::within(&self.0, &options)
    }

    #[track_caller]
    fn wait_for_begin(&self) {
        let begun = self.0.path().join("begun");
        wait_until("the start of the code", || begun.exists());
        fs::remove_file(begun).unwrap();
    }

    /// Lets the code end.
    fn end(&self) {
        fs::write(self.0.path().join("end"), "").unwrap();
    }
}

#[test]
fn session_in_use_is_not_closed_for_another() {
    let data = Data::new();
    let mut client = data.client("100s");
    let first = client.start("a", UNTIL_END);
    data.wait_for_begin();
    // The first call ends after the server has received the second one.
    let second = client.start("b", "2");
    client.ping();
    data.end();
    assert_eq!(client.text(first), "1\n");
    assert_eq!(client.text(second), "2\n");
    // The next call in the closed session reports why it was restarted.
    let text = client.run("a", "'kept' in globals()");
    assert_eq!(
        text,
        "[the session was restarted: its slot was needed for another session]\nfalse\n"
    );
}

/// Each call takes less time than the limit, and all together take more.
#[test]
fn call_fails_if_no_session_becomes_idle_in_time() {
    let data = Data::new();
    let mut client = data.client("4s");
    let calls: Vec<_> = (0..6).map(|_| client.start("a", SLOW)).collect();
    data.wait_for_begin();
    let refused = client.start("b", "2");
    let answer = client.answer(refused);
    let parts = &answer["result"]["structuredContent"];
    assert_eq!(parts["error"]["code"], "busy", "{answer}");
    let message = parts["error"]["message"].as_str().unwrap();
    assert!(message.contains("all 1 sessions are running code"), "{message}");
    for id in calls {
        assert_eq!(client.text(id), "1\n");
    }
    assert_eq!(client.run("b", "2"), "2\n");
}

#[test]
fn idle_sessions_are_closed() {
    let mut client = Client::new(&["--idle-timeout", "500ms"]);
    assert_eq!(client.run("a", "kept = 1\nkept"), "1\n");
    let one = client.address_space();
    client.run("b", "1");
    client.run("c", "1");
    assert!(client.address_space() >= one + 8);
    wait_for_memory(&client, one - 3);
    let text = client.run("a", "'kept' in globals()");
    assert_eq!(text, "[the session was restarted: it was idle for too long]\nfalse\n");
    // A session that runs code for longer than the timeout is not idle.
    assert_eq!(client.run("a", "import time\nx = 5\ntime.sleep(2)\nx"), "5\n");
    assert_eq!(client.run("a", "x"), "5\n");
}

#[test]
fn number_of_waiting_calls_is_limited() {
    let data = Data::new();
    let mut client = data.client("60s");
    assert_eq!(client.run("a", "1"), "1\n");
    let first = client.start("a", UNTIL_END);
    data.wait_for_begin();
    let calls: Vec<_> = (0..300).map(|_| client.start("a", "1")).collect();
    // While the first call runs, only refused ones are answered.
    while client.answers.is_empty() {
        client.receive();
    }
    data.end();
    let answers: Vec<_> = calls.into_iter().map(|id| client.answer(id)).collect();
    let busy = |answer: &&Value| answer["result"]["structuredContent"]["error"]["code"] == "busy";
    let refused = answers.iter().filter(busy).count();
    // The calls that waited ran one after another.
    assert!((1..=60).contains(&refused), "{refused}");
    assert_eq!(client.text(first), "1\n");
    assert_eq!(client.run("a", "2"), "2\n");
}

#[test]
fn python_runtime_is_the_one_of_the_option() {
    compile_data_once();
    let mut client = Client::new(&["--python-runtime", "python-data"]);
    let listed = client.send("tools/list", &json!({}));
    let answer = client.answer(listed);
    let python = &answer["result"]["tools"][0];
    assert_eq!(python["name"], "run_python");
    let description = python["description"].as_str().unwrap().to_lowercase();
    for package in data::packages() {
        // The native part of pydantic.
        let package = package.trim_end_matches("_core");
        assert!(description.contains(package), "{package} is not in {description:?}");
    }
    assert_eq!(client.run("a", "import numpy as np\nint(np.arange(10).sum())"), "45\n");
    assert_eq!(client.run("a", "int(np.full(3, 2**40).sum())"), format!("{}\n", 3_u64 << 40));

    let mut plain = Client::new(&[]);
    let text = plain.run("a", "import numpy");
    assert!(text.contains("ModuleNotFoundError"), "{text}");
}

#[test]
fn invalid_messages_do_not_stop_the_server() {
    let mut client = Client::new(&[]);
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for line in [
        String::new(),
        "nonsense".to_owned(),
        "\u{0}\u{1b}]0;x\u{7}".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        nested.clone(),
        format!(r#"{{"jsonrpc":"2.0","id":99,"method":"tools/call","params":{nested}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":1e999,"method":"{}"}}"#, "x".repeat(1 << 20)),
        // Longer than the limit of a line.
        "x".repeat(17 << 20),
    ] {
        writeln!(client.stdin, "{line}").unwrap();
    }
    for arguments in [
        json!(null),
        json!({ "source": "1", "session": "x".repeat(101) }),
        json!({ "source": "1", "session": 5 }),
        json!({ "source": ["1"] }),
        json!({ "source": "1", ("x".repeat(1 << 20)): 1 }),
        json!({ "source": "1", "restart": 1 }),
    ] {
        let params = json!({ "name": "run_python", "arguments": arguments });
        let id = client.send("tools/call", &params);
        let answer = client.answer(id);
        assert!(answer.get("error").is_some() || answer["result"]["isError"] == true, "{answer}");
        assert!(answer.to_string().len() < 10_000);
    }
    assert_eq!(client.run("a", "1 + 1"), "2\n");
}
