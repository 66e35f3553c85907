//! Stopped processes: they do not end commands, and processes that no shell could continue
//! are continued.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use isorun_agent::client::{ExecEvent, ExecHandle as Running};
use isorun_agent::protocol::{Exec, Size, Status};
use tokio::time::timeout;

use super::{Sandbox, argv, shell};
use crate::engine::{AgentStream, Engine};

/// Shell commands that leave one of their processes stopped while others exit, and then
/// print `on`. Pauses let processes stop themselves before the others exit.
pub const STOPPING_COMMANDS: [&str; 20] = [
    "sleep 30 & kill -STOP $!; ls / >/dev/null; echo on",
    "sleep 30 & kill -TSTP $!; ls / >/dev/null; echo on",
    "sleep 30 & kill -TTIN $!; ls / >/dev/null; echo on",
    "sleep 30 & kill -TTOU $!; ls / >/dev/null; echo on",
    "for i in 1 2 3; do sleep 30 & kill -STOP $!; done; for i in 1 2 3; do /bin/true; done; echo on",
    "sleep 30 | sleep 30 & kill -STOP $!; ls / >/dev/null; echo on",
    "(sleep 30; :) & kill -STOP $!; ls / | cat >/dev/null; echo on",
    "sh -c 'kill -STOP $$; echo no' & sleep 0.2; /bin/true; echo on",
    "bash -c 'kill -STOP $BASHPID; echo no' & sleep 0.2; x=$(/bin/true); echo on",
    "(sleep 0.1 &); (sleep 0.1 &); sleep 30 & kill -STOP $!; sleep 0.3; /bin/true; echo on",
    "(sleep 30 & kill -STOP $!; ls / >/dev/null; :); /bin/true; echo on",
    "sleep 30 & kill -STOP $!; ls / >/dev/null; kill -KILL $!; wait $! 2>/dev/null; \
     [ $? = 137 ] && echo on",
    "sleep 0.3 & kill -STOP $!; ls / >/dev/null; kill -CONT $!; wait $! && echo on",
    "sleep 30 & kill -STOP $!; ls / >/dev/null; kill $!; kill -CONT $!; wait $! 2>/dev/null; echo on",
    "trap 'echo hangup' HUP; sleep 30 & kill -STOP $!; ls / >/dev/null; echo on",
    "setsid sleep 30 & sleep 0.1; kill -STOP $!; ls / >/dev/null; echo on",
    "bash -c 'coproc sleep 30; kill -STOP $COPROC_PID; ls / >/dev/null; echo on'",
    "bash -c 'exec 3< <(sleep 30); kill -STOP $!; ls / >/dev/null; echo on'",
    "python3 -c 'import subprocess as s, signal\np = s.Popen([\"sleep\", \"30\"])\n\
     p.send_signal(signal.SIGSTOP)\nfor i in range(3): s.run([\"true\"])\nprint(\"on\")'",
    "timeout 20 sh -c 'sleep 30 & kill -STOP $!; ls / >/dev/null; echo on'",
];

/// A stopped process neither ends nor blocks its command.
pub async fn stopped_process_does_not_end_its_command(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    for command in STOPPING_COMMANDS {
        let output = sandbox.sh(command).await;
        let result = (output.status, String::from_utf8_lossy(&output.stdout).into_owned());
        assert_eq!(result, (Status::Code(0), "on\n".to_owned()), "{command}: {output:?}");
        let output = on_terminal(&sandbox, shell(command)).await.output(1000).await.unwrap();
        let result = (output.status, String::from_utf8_lossy(&output.stdout).into_owned());
        assert_eq!(result, (Status::Code(0), "on\r\n".to_owned()), "{command}, on a terminal");
        sandbox.sh("pkill -KILL sleep").await;
    }
    // A process that another command has stopped.
    let waiting = sandbox.exec(shell("sleep 1001 & wait $!; /bin/true; echo on")).await.unwrap();
    sandbox.until("pgrep -x sleep").await;
    sandbox.text("pkill -STOP -x sleep; /bin/true; pkill -CONT -x sleep; pkill -x sleep").await;
    assert_eq!(waiting.output(100).await.unwrap().stdout, b"on\n");
}

/// A program that is stopped by a terminal signal is continued, since no shell could
/// continue it; one that was stopped by SIGSTOP is not.
pub async fn programs_stopped_by_a_terminal_are_continued(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    for signal in ["TSTP", "TTIN", "TTOU"] {
        let command = format!("kill -{signal} $$; echo on");
        assert_eq!(sandbox.text(&command).await, "on\n", "{signal}");
        let output = on_terminal(&sandbox, shell(&command)).await.output(100).await.unwrap();
        assert_eq!(output.stdout, b"on\r\n", "{signal}, on a terminal");
    }
    // Ctrl-Z for programs with different process structures.
    let handled = "import signal, subprocess\n\
                   signal.signal(signal.SIGTSTP, lambda *a: None)\n\
                   print('ready', flush=True)\n\
                   subprocess.call(['cat'])\n";
    for program in [
        shell("echo ready; exec cat"),
        shell("echo ready; cat"),
        shell("echo ready; cat | cat"),
        shell("trap : TSTP; echo ready; cat"),
        argv(&["python3", "-c", "print('ready', flush=True)\nfor i in range(2): input()"]),
        argv(&["python3", "-c", handled]),
    ] {
        let mut exec = on_terminal(&sandbox, program.clone()).await;
        let mut seen = String::new();
        until(&mut exec, &mut seen, "ready").await;
        for round in 0..3 {
            exec.control.stdin(Bytes::from_static(b"\x1a")).await.unwrap();
            if round == 2 {
                break;
            }
            // That it was stopped and continued cannot be observed. Without a pause, the
            // next Ctrl-Z may come before it is continued, and have no effect.
            sandbox.sh("sleep 0.3").await;
        }
        exec.control.stdin(Bytes::from_static(b"typed\n")).await.unwrap();
        // The echo of the terminal, and the output of the program.
        while seen.matches("typed").count() < 1 {
            until(&mut exec, &mut seen, "typed").await;
        }
        exec.control.stdin(Bytes::from_static(b"\n\x04\x04")).await.unwrap();
        let end = timeout(Duration::from_secs(20), exec.output(1000)).await;
        let end = end.unwrap_or_else(|_| panic!("{:?} is still stopped: {seen:?}", program.argv));
        assert_eq!(end.unwrap().status, Status::Code(0), "{:?}", program.argv);
    }
    let exec = sandbox.exec(shell("kill -STOP $$; echo on")).await.unwrap();
    let pid = exec.pid;
    sandbox.until(&format!("grep -q ') T' /proc/{pid}/stat")).await;
    // It stays stopped for as long as a program that is continued takes, and longer.
    sandbox.text(&format!("sleep 0.3; grep -q ') T' /proc/{pid}/stat; kill -CONT {pid}")).await;
    assert_eq!(exec.output(100).await.unwrap().stdout, b"on\n");
}

/// A shell on a terminal has job control: Ctrl-Z stops jobs, `fg` continues them, and they
/// are notified of a new terminal size.
pub async fn shell_on_a_terminal_has_job_control(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let mut exec = on_terminal(&sandbox, argv(&["bash", "--norc", "--noprofile", "-i"])).await;
    let mut seen = String::new();
    let typed = async |exec: &Running<AgentStream>, text: &'static str| {
        exec.control.stdin(Bytes::from_static(text.as_bytes())).await.unwrap();
    };
    // The words are split by quotes so that their echo does not match.
    typed(&exec, "PS1=; echo be''gun\n").await;
    until(&mut exec, &mut seen, "begun").await;
    typed(&exec, "sh -c 'trap \"stty size; echo si\"\"zed\" WINCH; echo wa\"\"iting; while :; do sleep 0.05; done'\n")
        .await;
    until(&mut exec, &mut seen, "waiting").await;
    exec.control.resize(Size { rows: 33, cols: 99 }).await.unwrap();
    until(&mut exec, &mut seen, "sized").await;
    assert!(seen.contains("33 99"), "{seen:?}");
    typed(&exec, "\x1a").await;
    until(&mut exec, &mut seen, "Stopped").await;
    seen.clear();
    typed(&exec, "ls / >/dev/null; jobs; echo li''sted\n").await;
    until(&mut exec, &mut seen, "listed").await;
    assert!(seen.contains("Stopped"), "{seen:?}");
    typed(&exec, "fg\n").await;
    // The pattern does not match itself.
    sandbox.until("! grep -q ') T' /proc/$(pgrep -o -f '[t]rap')/stat").await;
    exec.control.resize(Size { rows: 44, cols: 99 }).await.unwrap();
    until(&mut exec, &mut seen, "44 99").await;
    typed(&exec, "\x03").await;
    typed(&exec, "echo al''ive; exit 3\n").await;
    until(&mut exec, &mut seen, "alive").await;
    assert_eq!(exec.output(1000).await.unwrap().status, Status::Code(3));
}

/// Killing many processes at a timeout does not stop, continue or delay other commands.
pub async fn timeout_does_not_affect_other_commands(engine: &dyn Engine) {
    let sandbox = Sandbox::with_spec(
        engine,
        crate::SandboxSpec { pids: 200, mem_mib: 1024, ..super::spec() },
    )
    .await;
    // A stopped worker, and a parent that records all state changes of its child.
    let paused = sandbox.exec(shell("echo $$; kill -STOP $$; echo continued")).await.unwrap();
    let pid = paused.pid;
    sandbox.until(&format!("grep -q ') T' /proc/{pid}/stat")).await;
    let parent = "import os, signal, subprocess, time\n\
                  child = subprocess.Popen(['sleep', '1000'])\n\
                  print('ready', flush=True)\n\
                  seen = []\n\
                  while not os.path.exists('/tmp/over'):\n\
                  \x20 if (news := os.waitpid(child.pid, os.WUNTRACED | os.WCONTINUED | os.WNOHANG))[0]:\n\
                  \x20   seen.append(news)\n\
                  \x20 subprocess.run(['true'])\n\
                  print(seen)\n";
    let mut watching = sandbox.exec(argv(&["python3", "-c", parent])).await.unwrap();
    let mut seen = String::new();
    until(&mut watching, &mut seen, "ready").await;
    let crowds = [
        "for i in $(seq 60); do sleep 1000 & done; wait",
        "for i in $(seq 40); do setsid sh -c 'while :; do :; done' & done; wait",
        "for i in $(seq 30); do sleep 1000 & kill -STOP $!; done; wait",
    ];
    let ends = join_all(crowds.map(|crowd| {
        let sandbox = &sandbox;
        async move {
            let exec = Exec { timeout_ms: Some(1500), ..shell(crowd) };
            sandbox.exec(exec).await.unwrap().output(1000).await.unwrap().status
        }
    }));
    assert_eq!(ends.await, [Status::TimedOut; 3]);
    sandbox.text("touch /tmp/over").await;
    let output = watching.output(1000).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[]\n", "{output:?}");
    sandbox.text(&format!("grep -q ') T' /proc/{pid}/stat; kill -CONT {pid}")).await;
    let output = paused.output(100).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("continued\n"), "{output:?}");
}

async fn on_terminal(sandbox: &Sandbox<'_>, program: Exec) -> Running<AgentStream> {
    let size = Some(Size { rows: 24, cols: 80 });
    sandbox.exec(Exec { pty: size, stdin: true, ..program }).await.unwrap()
}

async fn until(exec: &mut Running<AgentStream>, seen: &mut String, text: &str) {
    let already = seen.matches(text).count();
    while seen.matches(text).count() == already {
        let event = timeout(Duration::from_secs(20), exec.events.next()).await;
        match event.unwrap_or_else(|_| panic!("no {text:?} after {seen:?}")).unwrap() {
            ExecEvent::Stdout(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} before {text:?}, after {seen:?}"),
        }
    }
}
