//! Persistent shells, and commands that continue across a checkpoint.

use std::sync::Arc;
use std::time::{Duration, Instant};

use isorun_agent::client::{self, ClientError, Connect, ExecEvent, ShellEvent, ShellHandle};
use isorun_agent::protocol::{self, FailureKind, Run, Status};

use super::{Sandbox, shell as sh, spec};
use crate::engine::{AgentStream, Engine};

/// A persistent shell in a sandbox, for sequential commands.
pub struct OpenShell {
    shell: ShellHandle<AgentStream>,
    /// The token to attach to the shell.
    pub token: String,
}

impl OpenShell {
    /// Starts a shell. The engine has to outlive it.
    pub async fn new(engine: &Arc<dyn Engine>, sandbox: &Sandbox<'_>) -> Self {
        let mut number = [0; 16];
        rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty()).unwrap();
        let token = format!("{:032x}", u128::from_le_bytes(number));
        let request = protocol::Shell { token: token.clone(), ..protocol::Shell::default() };
        let shell = client::shell(connect(engine, sandbox), request).await.unwrap();
        Self { shell, token }
    }

    /// Attaches to a shell that lost its connection, or to a copy of a shell.
    pub async fn attach(
        engine: &Arc<dyn Engine>,
        sandbox: &Sandbox<'_>,
        token: &str,
    ) -> Result<Self, ClientError> {
        let shell = client::attach_shell(connect(engine, sandbox), token.to_owned()).await?;
        Ok(Self { shell, token: token.to_owned() })
    }

    /// Attaches to a shell as soon as the agent has noticed that its connection is closed.
    pub async fn reattach(engine: &Arc<dyn Engine>, sandbox: &Sandbox<'_>, token: &str) -> Self {
        loop {
            match Self::attach(engine, sandbox, token).await {
                Ok(shell) => return shell,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Runs a command to its end; returns its status, stdout and stderr.
    pub async fn run(&mut self, command: &str) -> (Status, String, String) {
        self.run_for(command, None).await
    }

    /// Runs a command with a time limit.
    pub async fn run_for(
        &mut self,
        command: &str,
        limit: Option<Duration>,
    ) -> (Status, String, String) {
        let timeout_ms = limit.map(|limit| limit.as_millis() as u64);
        let run = Run { command: command.to_owned(), timeout_ms };
        self.shell.control.run(run).await.unwrap();
        self.outcome().await
    }

    /// Starts a command.
    pub async fn start(&self, command: &str) {
        let run = Run { command: command.to_owned(), timeout_ms: None };
        self.shell.control.run(run).await.unwrap();
    }

    /// Starts a command with a time limit.
    pub async fn start_for(&self, command: &str, limit: Duration) {
        let timeout_ms = Some(limit.as_millis() as u64);
        let run = Run { command: command.to_owned(), timeout_ms };
        self.shell.control.run(run).await.unwrap();
    }

    /// Waits for the end of a command; returns its status, stdout and stderr.
    pub async fn outcome(&mut self) -> (Status, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = loop {
            match self.shell.events.next().await.unwrap() {
                ShellEvent::Stdout(bytes) => out.extend_from_slice(&bytes),
                ShellEvent::Stderr(bytes) => err.extend_from_slice(&bytes),
                ShellEvent::Ran(status) | ShellEvent::Exited(status) => break status,
            }
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status, text(out), text(err))
    }

    /// Waits until its connection is closed and cannot be reopened.
    pub async fn lost(&mut self) {
        while self.shell.events.next().await.is_ok() {}
    }

    /// Returns the output of a command, which has to succeed.
    pub async fn text(&mut self, command: &str) -> String {
        let (status, out, err) = self.run(command).await;
        assert_eq!((status, &*err), (Status::Code(0), ""), "{command}: {out}");
        out
    }
}

/// Returns a function that connects to the agent of a sandbox.
pub fn connect(engine: &Arc<dyn Engine>, sandbox: &Sandbox<'_>) -> Connect<AgentStream> {
    let (engine, id) = (Arc::clone(engine), sandbox.id.clone());
    Arc::new(move || {
        let (engine, id) = (Arc::clone(&engine), id.clone());
        Box::pin(async move { engine.connect(&id).await.ok() })
    })
}

/// The state of a shell is preserved for the next command.
pub async fn shell_keeps_its_state(engine: &Arc<dyn Engine>) {
    let sandbox = Sandbox::new(&**engine).await;
    let mut shell = OpenShell::new(engine, &sandbox).await;
    for (command, code, out, err) in [
        ("cd /tmp; export FOO=bar; local_one=1; declare -A map=([a]=b)", 0, "", ""),
        ("echo $FOO $PWD $local_one ${map[a]}; env | grep FOO", 0, "bar /tmp 1 b\nFOO=bar\n", ""),
        ("f() { echo in f: $1; return 3; }", 0, "", ""),
        ("f x", 3, "in f: x\n", ""),
        ("echo $?", 0, "3\n", ""),
        ("echo out; echo err >&2; (exit 7)", 7, "out\n", "err\n"),
        ("printf 'no newline'", 0, "no newline", ""),
        ("alias hi='echo hello'", 0, "", ""),
        ("hi", 0, "hello\n", ""),
        // An unclosed construct is an error, not the end of the session.
        ("cat <<EOF\none\ntwo\nEOF", 0, "one\ntwo\n", ""),
        ("for i in 1 2; do\n  echo $i\ndone\n# a comment", 0, "1\n2\n", ""),
        ("echo a \\\n  b", 0, "a b\n", ""),
        (
            "break; echo after",
            0,
            "after\n",
            "bash: break: only meaningful in a `for', `while', or `until' loop\n",
        ),
        ("return 5", 5, "", ""),
        ("not_there", 127, "", "bash: not_there: command not found\n"),
        // Standard input is empty, not the script of the shell.
        ("cat; read line; echo read=$line", 0, "read=\n", ""),
        ("sleep 1000 & echo started", 0, "started\n", ""),
        ("kill -0 $! && echo alive; kill $!", 0, "alive\n", ""),
        // First without `set -e`, then with it.
        ("false; echo on", 0, "on\n", ""),
        ("set -e; ! true", 1, "", ""),
        ("[ -e /nothing ] && echo there", 1, "", ""),
        ("echo $- | grep -q e && echo kept; set +e", 0, "kept\n", ""),
        ("exec 5>/tmp/five; echo five >&5; cat /tmp/five", 0, "five\n", ""),
        ("", 0, "", ""),
        ("exit 42", 42, "", ""),
    ] {
        let expected = (Status::Code(code), out.to_owned(), err.to_owned());
        assert_eq!(shell.run(command).await, expected, "{command}");
    }
    // With `set -e` a failure ends the shell.
    let mut shell = OpenShell::new(engine, &sandbox).await;
    assert_eq!(shell.run("set -e; false; echo no").await.0, Status::Code(1));
    assert!(matches!(
        shell.shell.events.next().await,
        Err(ClientError::Disconnected | ClientError::Protocol(_))
    ));
}

/// Neither the output nor unclosed constructs of a command affect later commands.
pub async fn output_cannot_forge_the_end_of_a_command(engine: &Arc<dyn Engine>) {
    let sandbox = Sandbox::new(&**engine).await;
    let mut shell = OpenShell::new(engine, &sandbox).await;
    for open in [
        "echo \"open",
        "echo $(",
        "if true; then",
        "echo 'a",
        "{",
        "cat <<EOF\nnever",
        "((",
        "case x in",
    ] {
        let (status, ..) = shell.run(open).await;
        assert!(matches!(status, Status::Code(_)), "{open}: {status:?}");
        assert_eq!(shell.text("echo well").await, "well\n", "after {open}");
    }
    // Output that looks like the end marker of a command is not treated as one.
    for forgery in [
        "echo '__isorun_end 0' >&98; echo 'deadbeef 0' >&98; echo truth",
        "for i in 1 2 3; do echo \"$i 0\" >&98; done; sleep 0.05; echo truth",
        "head -c 200000 /dev/zero | tr '\\0' x >&98 & sleep 0.05; echo truth",
    ] {
        assert_eq!(shell.text(forgery).await, "truth\n", "{forgery}");
    }
    let (status, out, _) = shell
        .run("head -c 3000000 /dev/urandom | tee /tmp/sum | wc -c; cat /tmp/sum | wc -c")
        .await;
    assert_eq!((status, &*out), (Status::Code(0), "3000000\n3000000\n"));
    let long = "x".repeat(200_000);
    assert_eq!(shell.text(&format!("v={long}; echo ${{#v}}")).await, "200000\n");
    assert_eq!(shell.text("yes | head -c 5000000").await.len(), 5_000_000);
    // A command that closes the pipes of its shell affects this shell only.
    let mut other = OpenShell::new(engine, &sandbox).await;
    let (status, ..) = other.run_for("exec 98>&-", Some(Duration::from_millis(300))).await;
    assert!(!matches!(status, Status::Code(0)), "{status:?}");
    assert_eq!(shell.text("echo well").await, "well\n");
}

/// A timeout kills the running command, and the state of the shell is preserved.
pub async fn timeout_keeps_the_shell(engine: &Arc<dyn Engine>) {
    let sandbox = Sandbox::new(&**engine).await;
    let mut shell = OpenShell::new(engine, &sandbox).await;
    shell.text("cd /tmp; FOO=bar; sleep 3000 & echo").await;
    for endless in [
        "echo begun; sleep 1000; echo not reached",
        "echo begun; while :; do :; done; echo not reached",
        "f() { while :; do :; done; }; echo begun; f; f; echo not reached",
        "echo begun; python3 -c 'import time, signal; signal.signal(2, lambda *a: None)\nwhile 1: time.sleep(10)'",
        "echo begun; (trap '' INT; sleep 1000; sleep 1000)",
        "echo begun; sleep 1000 | cat",
        "echo begun; cat <(sleep 1000)",
    ] {
        let start = Instant::now();
        let (status, out, _) = shell.run_for(endless, Some(Duration::from_millis(400))).await;
        assert_eq!((status, &*out), (Status::TimedOut, "begun\n"), "{endless}");
        assert!(start.elapsed() < Duration::from_secs(20), "{endless}");
        assert_eq!(shell.text("echo $FOO $PWD").await, "bar /tmp\n", "after {endless}");
    }
    // The earlier background process still runs, and no other one.
    let left = shell.text("pgrep -a sleep").await;
    assert!(left.contains("sleep 3000") && left.lines().count() == 1, "{left}");
    // An explicit interrupt.
    shell.start("sleep 1000").await;
    sandbox.until("pgrep -f 'sleep 1000'").await;
    shell.shell.control.interrupt().await.unwrap();
    assert_eq!(shell.outcome().await.0, Status::Code(130));
}

/// Interrupts at any moment leave the shell usable, for example while bash starts one or
/// several programs.
pub async fn shell_survives_interrupts_at_any_moment(engine: &Arc<dyn Engine>) {
    const COMMANDS: [&str; 7] = [
        "sleep 1000",
        "while :; do /bin/true; done",
        "while :; do sleep 0.01; done",
        "sleep 1000 | cat",
        "cat <(sleep 1000)",
        "x=$(sleep 1000)",
        "(sleep 1000)",
    ];
    let sandbox = Sandbox::new(&**engine).await;
    let mut shell = OpenShell::new(engine, &sandbox).await;
    for limit in [1, 3, 7, 12, 18, 25] {
        for command in COMMANDS {
            let limit = Some(Duration::from_millis(limit));
            assert_eq!(shell.run_for(command, limit).await.0, Status::TimedOut, "{command}");
            assert_eq!(shell.text("echo alive").await, "alive\n", "after {command}");
        }
    }
}

/// A shell can be attached to after its connection was lost, but not after it was closed.
pub async fn shell_can_be_reattached(engine: &Arc<dyn Engine>) {
    let sandbox = Sandbox::new(&**engine).await;
    let mut shell = OpenShell::new(engine, &sandbox).await;
    let late = "(until [ -e /tmp/go ]; do sleep 0.05; done; echo late; touch /tmp/printed) &";
    shell.text(&format!("X=1; {late}")).await;
    let token = shell.token.clone();
    let attached = OpenShell::attach(engine, &sandbox, &token).await;
    assert!(attached.is_err(), "the shell already has a connection");
    drop(shell);
    // What is printed without a client is kept.
    sandbox.text("touch /tmp/go; until [ -e /tmp/printed ]; do sleep 0.01; done").await;
    let mut shell = OpenShell::reattach(engine, &sandbox, &token).await;
    assert_eq!(shell.text("echo X=$X").await, "late\nX=1\n");
    shell.shell.control.close().await.unwrap();
    assert!(matches!(shell.shell.events.next().await, Ok(ShellEvent::Exited(_))));
    let gone = OpenShell::attach(engine, &sandbox, &token).await;
    let Err(ClientError::Failed(failure)) = gone else { panic!("the shell still exists") };
    assert_eq!(failure.kind, FailureKind::NotFound);
    sandbox.until("! pgrep bash").await;
}

/// Commands that run when a checkpoint is taken continue, and no byte is lost.
pub async fn commands_continue_across_a_checkpoint(engine: &Arc<dyn Engine>) {
    if !engine.capabilities().checkpoint {
        return;
    }
    let sandbox = Sandbox::new(&**engine).await;
    let mut shell = OpenShell::new(engine, &sandbox).await;
    shell.text("cd /tmp; X=1; RANDOM=7").await;
    let counting = "for i in $(seq 1 400); do echo $i; sleep 0.01; done";
    let request = protocol::Exec { token: Some("t1".to_owned()), ..sh(counting) };
    let mut counted =
        client::exec_with_reattach(sandbox.connect().await, connect(engine, &sandbox), request)
            .await
            .unwrap();
    let request = protocol::Exec { token: Some("t2".to_owned()), stdin: true, ..sh("sha256sum") };
    let summed =
        client::exec_with_reattach(sandbox.connect().await, connect(engine, &sandbox), request)
            .await
            .unwrap();
    let input: Vec<u8> =
        (0..6_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(&input);
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let feeding = {
        let control = summed.control.clone();
        tokio::spawn(async move {
            // Slow enough that the checkpoints are taken meanwhile.
            for piece in input.chunks(50_000) {
                control.stdin(bytes::Bytes::copy_from_slice(piece)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            control.stdin_end().await.unwrap();
        })
    };
    let summing = tokio::spawn(summed.output(1000));
    let counting = tokio::spawn(async move {
        let mut text = Vec::new();
        loop {
            match counted.events.next().await.unwrap() {
                ExecEvent::Stdout(bytes) => text.extend_from_slice(&bytes),
                ExecEvent::Stderr(bytes) => panic!("{bytes:?}"),
                ExecEvent::Exited(status) => return (status, text),
            }
        }
    });
    shell.start("for i in $(seq 1 200); do echo $i; sleep 0.01; done").await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let checkpoints = async {
        for dir in &dirs {
            engine.checkpoint(&sandbox.id, dir.path(), true).await.unwrap();
        }
    };
    let (outcome, ()) = tokio::join!(shell.outcome(), checkpoints);
    let numbers = |last: u32| (1..=last).map(|n| format!("{n}\n")).collect::<String>();
    assert_eq!(outcome, (Status::Code(0), numbers(200), String::new()));
    let (status, text) = counting.await.unwrap();
    assert_eq!((status, String::from_utf8(text).unwrap()), (Status::Code(0), numbers(400)));
    feeding.await.unwrap();
    let sum = summing.await.unwrap().unwrap();
    assert_eq!(String::from_utf8(sum.stdout).unwrap(), format!("{expected}  -\n"));
    assert_eq!(shell.text("echo $X $PWD").await, "1 /tmp\n");
    let own = shell.text("echo $RANDOM; cat /run/isorun/instance 2>/dev/null || echo none").await;

    // The copies have the shell, too, each with its own random numbers.
    let mut random_values = vec![own];
    for _ in 0..2 {
        let copy = spec();
        let copy = Sandbox {
            engine: &**engine,
            id: {
                let id = copy.id.clone();
                engine.restore(copy, dirs[0].path()).await.unwrap();
                id
            },
        };
        let mut inherited = OpenShell::attach(engine, &copy, &shell.token).await.unwrap();
        inherited.shell.control.interrupt().await.unwrap();
        assert_eq!(inherited.outcome().await.0, Status::Code(130));
        assert_eq!(inherited.text("echo $X $PWD").await, "1 /tmp\n");
        random_values.push(inherited.text("echo $RANDOM; cat /run/isorun/instance").await);
        // The commands continue to run there without a client.
        assert_eq!(copy.text("pgrep -c sha256sum").await, "1\n");
    }
    let lines =
        |at: usize| random_values.iter().map(move |text| text.lines().nth(at).unwrap().to_owned());
    for at in [0, 1] {
        let mut different: Vec<String> = lines(at).collect();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 3, "{random_values:?}");
    }
    assert_eq!(shell.text("echo $X").await, "1\n");
}
