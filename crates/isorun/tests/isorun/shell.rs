//! Shells over a WebSocket.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    fixture::{Server, bounded, refused},
    sockets::{Socket, open, send_json},
};

struct Shell {
    socket: Socket,
    session: String,
}

impl Shell {
    async fn open(server: &Server, id: &str, query: &str) -> Self {
        let mut socket = open(server, &format!("/v1/runs/{id}/shell{query}")).await.unwrap();
        let ready = next_message(&mut socket).await;
        assert_eq!(ready["type"], "ready", "{ready}");
        Self { socket, session: ready["session"].as_str().unwrap().to_owned() }
    }

    async fn run(&mut self, command: &str) -> (Value, String, String) {
        self.start(command, 30.0).await;
        self.read_outcome().await
    }

    async fn start(&mut self, command: &str, timeout: f64) {
        let message = json!({ "type": "run", "command": command, "timeout": timeout });
        send_json(&mut self.socket, message).await;
    }

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

async fn next_message(socket: &mut Socket) -> Value {
    loop {
        if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

fn result(code: i32) -> Value {
    json!({ "type": "result", "exit_code": code })
}

#[test]
fn a_shell_remembers_and_says_how_it_ended() {
    let server = Server::start();
    bounded(async {
        let id = server.create_with(json!({ "env": { "WHO": "me" } })).await;
        let mut shell = Shell::open(&server, &id, "").await;
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
        let mut other = Shell::open(&server, &id, "?cwd=/usr").await;
        assert_eq!(other.run("echo $FOO$PWD").await.1, "/usr\n");
        assert_eq!(shell.run("echo $FOO").await.1, "bar\n");
        let (end, ..) = shell.run("exit 42").await;
        assert_eq!(end, json!({ "type": "closed", "exit_code": 42 }));
        send_json(&mut other.socket, json!({ "type": "close" })).await;
        assert_eq!(other.read_outcome().await.0["type"], "closed");
        server.exec(&id, "while pgrep -x bash; do sleep 0.01; done").await;
    });
}

#[test]
fn a_shell_outlives_its_connection_a_fork_and_a_rest() {
    let server = Server::start();
    bounded(async {
        let id = server.create().await;
        let mut shell = Shell::open(&server, &id, "").await;
        shell.run("X=1; cd /tmp").await;
        let session = shell.session.clone();
        drop(shell);
        let query = format!("?session={session}");
        // The server may notice the loss of the connection later.
        let mut shell = loop {
            let mut socket = open(&server, &format!("/v1/runs/{id}/shell{query}")).await.unwrap();
            if next_message(&mut socket).await["type"] == "ready" {
                break Shell { socket, session: session.clone() };
            }
        };
        assert_eq!(shell.run("echo $X $PWD").await.1, "1 /tmp\n");
        // Fork while a command is running.
        shell.start("for i in 1 2 3 4 5; do echo $i; sleep 0.2; done; X=2", 30.0).await;
        let fork = format!("/v1/runs/{id}/fork");
        let ((status, body), outcome) =
            tokio::join!(server.post(&fork, json!({})), shell.read_outcome());
        assert_eq!(status, 200, "{body}");
        assert_eq!((outcome.0, &*outcome.1), (result(0), "1\n2\n3\n4\n5\n"));
        let child = body["forks"][0]["id"].as_str().unwrap();
        let mut copy = Shell::open(&server, child, &query).await;
        let (end, out, _) = copy.read_outcome().await;
        assert_eq!(end, result(0), "the command in the fork failed: {out}");
        let hostname = copy.run("hostname").await.1;
        assert_ne!(hostname, server.exec(&id, "hostname").await["stdout"].as_str().unwrap());
        assert_eq!(copy.run("echo $X").await.1, "2\n");
        // Hibernate.
        let (status, _) = server.post(&format!("/v1/runs/{id}/hibernate"), json!({})).await;
        assert_eq!(status, 200);
        assert_eq!(shell.read_outcome().await.0["code"], "run_hibernated");
        server.post(&format!("/v1/runs/{id}/resume"), json!({})).await;
        let mut shell = Shell::open(&server, &id, &query).await;
        assert_eq!(shell.run("echo $X").await.1, "2\n");
        server.destroy(&id).await;
        assert_eq!(shell.read_outcome().await.0["code"], "run_destroyed");
    });
}

#[test]
fn nonsense_over_a_shell_is_said_to_be_nonsense() {
    let server = Server::start();
    bounded(async {
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
            let mut shell = Shell::open(&server, &id, "").await;
            shell.socket.send(frame.clone()).await.unwrap();
            let (last, ..) = shell.read_outcome().await;
            assert_eq!(last["code"], "invalid_request", "{frame:?}: {last}");
        }
        let mut shell = Shell::open(&server, &id, "").await;
        shell.start("sleep 100", 0.0).await;
        shell.start("true", 0.0).await;
        assert_eq!(shell.read_outcome().await.0["code"], "invalid_request");
        let path = format!("/v1/runs/{id}/shell");
        let mut unknown = open(&server, &format!("{path}?session=nothing")).await.unwrap();
        assert_eq!(next_message(&mut unknown).await["code"], "not_found");
        refused(&server.get(&path).await, 400, "invalid_request", "WebSocket upgrade");
        server.assert_healthy().await;
    });
}
