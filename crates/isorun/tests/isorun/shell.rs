//! Shells over a WebSocket.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use test_macros::server_test;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Server, refused,
    sockets::{Socket, next_message, open, open_shell, reopen_shell, send_json},
};

struct Shell {
    socket: Socket,
    session: String,
}

impl Shell {
    async fn open(server: &Server, id: &str) -> Self {
        let (socket, session) = open_shell(server, id, "").await;
        Self { socket, session }
    }

    async fn run(&mut self, command: &str) -> (Value, String, String) {
        self.start(command, 30.0).await;
        self.read_outcome().await
    }

    async fn start(&mut self, command: &str, timeout: f64) {
        let message = json!({ "type": "run", "command": command, "timeout": timeout });
        send_json(&mut self.socket, message).await;
    }

    /// Reads until the end of a command. Returns it, the standard output and the standard error.
    async fn read_outcome(&mut self) -> (Value, String, String) {
        let mut output = [String::new(), String::new()];
        loop {
            match self.socket.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => {
                    output[usize::from(bytes[0]) - 1] += &String::from_utf8_lossy(&bytes[1..]);
                }
                Message::Text(text) => {
                    let [out, err] = output;
                    return (serde_json::from_str(&text).unwrap(), out, err);
                }
                _ => {}
            }
        }
    }
}

fn result(code: i32) -> Value {
    json!({ "type": "result", "exit_code": code })
}

#[server_test]
async fn shell_keeps_state_and_reports_exit_codes(server: &Server) {
    let id = server.create_with(json!({ "env": { "WHO": "me" } })).await;
    let mut shell = Shell::open(server, &id).await;
    assert_eq!(shell.run("cd /tmp && export FOO=bar").await.0, result(0));
    let (end, out, err) = shell.run("echo $FOO $PWD $WHO; echo err >&2; (exit 3)").await;
    assert_eq!((end, &*out, &*err), (result(3), "bar /tmp me\n", "err\n"));
    shell.start("echo begun; sleep 1000", 0.3).await;
    let (end, out, _) = shell.read_outcome().await;
    assert_eq!((&end["type"], &*out), (&json!("timeout"), "begun\n"));
    shell.start("sleep 1000", 0.0).await;
    server.exec(&id, "while ! pgrep -x sleep; do sleep 0.01; done").await;
    send_json(&mut shell.socket, json!({ "type": "interrupt" })).await;
    assert_eq!(shell.read_outcome().await.0, result(130));
    let (socket, session) = open_shell(server, &id, "?cwd=/usr").await;
    let mut other = Shell { socket, session };
    assert_eq!(other.run("echo $FOO$PWD").await.1, "/usr\n");
    assert_eq!(shell.run("echo $FOO").await.1, "bar\n");
    let (end, ..) = shell.run("exit 42").await;
    assert_eq!(end, json!({ "type": "closed", "exit_code": 42 }));
    send_json(&mut other.socket, json!({ "type": "close" })).await;
    assert_eq!(other.read_outcome().await.0["type"], "closed");
    server.exec(&id, "while pgrep -x bash; do sleep 0.01; done").await;
}

#[server_test]
async fn shell_survives_reconnection_fork_and_hibernation(server: &Server) {
    let id = server.create().await;
    let mut shell = Shell::open(server, &id).await;
    shell.run("X=1; cd /tmp").await;
    let session = shell.session.clone();
    drop(shell);
    let mut shell = Shell { socket: reopen_shell(server, &id, &session).await, session };
    assert_eq!(shell.run("echo $X $PWD").await.1, "1 /tmp\n");
    // Fork while a command is running, which prints until it is told to end.
    let command = "i=0; until [ -e /tmp/end ]; do i=$((i+1)); echo $i; touch /tmp/$i; sleep 0.02; \
                   done; X=2";
    shell.start(command, 30.0).await;
    let reading = async {
        server.text(&id, "until [ -e /tmp/5 ]; do sleep 0.01; done").await;
        let fork = server.fork(&id, 1).await.remove(0);
        for id in [&id, &fork] {
            server.text(id, "touch /tmp/end").await;
        }
        fork
    };
    let (fork, outcome) = tokio::join!(reading, shell.read_outcome());
    assert_eq!(outcome.0, result(0));
    let count = outcome.1.lines().count();
    let expected: String = (1..=count).map(|number| format!("{number}\n")).collect();
    assert_eq!(outcome.1, expected);
    assert!(count >= 5, "{count}");
    let session = shell.session.clone();
    let mut copy = Shell { socket: reopen_shell(server, &fork, &session).await, session };
    let (end, out, _) = copy.read_outcome().await;
    assert_eq!(end, result(0), "the command in the fork failed: {out}");
    let hostname = copy.run("hostname").await.1;
    assert_ne!(hostname, server.text(&id, "hostname").await);
    assert_eq!(copy.run("echo $X").await.1, "2\n");
    // Hibernate.
    server.change(&id, "hibernate").await;
    assert_eq!(shell.read_outcome().await.0["code"], "run_hibernated");
    server.change(&id, "resume").await;
    shell.socket = reopen_shell(server, &id, &shell.session).await;
    assert_eq!(shell.run("echo $X").await.1, "2\n");
    server.destroy(&id).await;
    assert_eq!(shell.read_outcome().await.0["code"], "run_destroyed");
}

#[server_test]
async fn invalid_shell_frames_are_refused(server: &Server) {
    let id = server.create().await;
    for frame in [
        Message::Text("nonsense".into()),
        Message::Text("{}".into()),
        Message::Binary(vec![1, 2].into()),
        Message::Text(json!({ "type": "run", "command": "a\0b" }).to_string().into()),
        Message::Text(
            json!({ "type": "run", "command": "true", "timeout": -7 }).to_string().into(),
        ),
    ] {
        let mut shell = Shell::open(server, &id).await;
        shell.socket.send(frame.clone()).await.unwrap();
        let (last, ..) = shell.read_outcome().await;
        assert_eq!(last["code"], "invalid_request", "{frame:?}: {last}");
    }
    let mut shell = Shell::open(server, &id).await;
    shell.start("sleep 100", 0.0).await;
    shell.start("true", 0.0).await;
    assert_eq!(shell.read_outcome().await.0["code"], "invalid_request");
    let path = format!("/v1/runs/{id}/shell");
    let mut unknown = open(server, &format!("{path}?session=nothing")).await.unwrap();
    assert_eq!(next_message(&mut unknown).await.1["code"], "not_found");
    refused(&server.get(&path).await, 400, "invalid_request", "WebSocket upgrade");
    server.assert_served().await;
}
