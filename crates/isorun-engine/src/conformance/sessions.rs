//! Effects of commands on a persistent shell, and their isolation from later commands.

use std::sync::Arc;
use std::time::Duration;

use isorun_agent::client;
use isorun_agent::protocol::{self, FailureKind, Status};

use super::shells::{OpenShell, connect};
use super::{Sandbox, shell as sh};
use crate::engine::Engine;

/// Runs commands in a new shell, and checks their status and output.
async fn check(engine: &Arc<dyn Engine>, sandbox: &Sandbox<'_>, rows: &[(&str, i32, &str, &str)]) {
    let mut shell = OpenShell::new(engine, sandbox).await;
    for (command, code, out, err) in rows {
        let expected = (Status::Code(*code), (*out).to_owned(), (*err).to_owned());
        assert_eq!(shell.run(command).await, expected, "{command} of {rows:?}");
    }
}

/// Redirections of `exec` apply to later commands, and no form of it ends the shell.
pub async fn redirections_persist(engine: &Arc<dyn Engine>) {
    let sandbox = Sandbox::new(engine.as_ref()).await;
    for rows in [
        &[
            ("exec >/tmp/a", 0, "", ""),
            ("echo a; echo e >&2", 0, "", "e\n"),
            ("cat /tmp/a >&2", 0, "", "a\n"),
        ][..],
        &[("exec >>/tmp/a", 0, "", ""), ("echo b", 0, "", ""), ("cat /tmp/a >&2", 0, "", "a\nb\n")],
        &[
            ("exec 2>/tmp/b", 0, "", ""),
            ("echo e >&2; nothing_such", 127, "", ""),
            ("cat /tmp/b", 0, "e\nbash: nothing_such: command not found\n", ""),
        ],
        &[("exec &>/tmp/c", 0, "", ""), ("echo a; echo e >&2", 0, "", ""), ("exit 4", 4, "", "")],
        &[("exec >&/tmp/c", 0, "", ""), ("echo x", 0, "", "")],
        &[("exec &>>/tmp/c", 0, "", ""), ("echo y", 0, "", "")],
        &[("cat /tmp/c", 0, "x\ny\n", "")],
        &[
            ("exec {n}>/tmp/d", 0, "", ""),
            ("echo d >&$n; cat /tmp/d", 0, "d\n", ""),
            ("exec {n}>&-; echo still", 0, "still\n", ""),
        ],
        &[
            ("exec 3>&1 >/tmp/e", 0, "", ""),
            ("echo in", 0, "", ""),
            ("exec >&3 3>&-", 0, "", ""),
            ("cat /tmp/e", 0, "in\n", ""),
        ],
        &[
            (
                "exec 3>&1 4>&2 >/tmp/f 2>&1; echo a; echo b >&2; exec >&3 2>&4 3>&- 4>&-; cat /tmp/f",
                0,
                "a\nb\n",
                "",
            ),
            ("echo o; echo e >&2", 0, "o\n", "e\n"),
        ],
        &[
            ("printf '1\\n2\\n3\\n' >/tmp/g; exec </tmp/g", 0, "", ""),
            ("read a; echo $a", 0, "1\n", ""),
            ("cat", 0, "2\n3\n", ""),
            ("read a; echo $?", 0, "1\n", ""),
        ],
        &[("exec <<<'one'", 0, "", ""), ("cat", 0, "one\n", "")],
        &[("exec <<EOF\ntwo\nEOF", 0, "", ""), ("cat", 0, "two\n", "")],
        &[("exec <>/tmp/g", 0, "", ""), ("head -1", 0, "1\n", "")],
        &[
            ("exec <&-", 0, "", ""),
            ("read a 2>/dev/null; echo $?", 0, "1\n", ""),
            ("exec </dev/null; cat", 0, "", ""),
        ],
        &[
            ("exec >&-", 0, "", ""),
            ("echo e >&2", 0, "", "e\n"),
            ("exec >&2", 0, "", ""),
            ("echo o", 0, "", "o\n"),
        ],
        &[
            ("exec 2>&-", 0, "", ""),
            ("echo o", 0, "o\n", ""),
            ("exec 2>&1", 0, "", ""),
            ("echo e >&2", 0, "e\n", ""),
        ],
        &[("exec <&- >&- 2>&-", 0, "", ""), ("true", 0, "", ""), ("exit 6", 6, "", "")],
        &[
            ("exec > >(sed s/x/b/ >/tmp/k)", 0, "", ""),
            ("echo x", 0, "", ""),
            ("exec >&-", 0, "", ""),
            ("wait $!", 0, "", ""),
            ("cat /tmp/k >&2", 0, "", "b\n"),
        ],
        &[("exec 1>&2", 0, "", ""), ("echo both", 0, "", "both\n")],
        &[
            ("exec >/tmp/h; return 3", 3, "", ""),
            ("echo h", 0, "", ""),
            ("cat /tmp/h >&2", 0, "", "h\n"),
        ],
        &[
            ("set -e; exec >/tmp/i", 0, "", ""),
            ("echo i", 0, "", ""),
            ("cat /tmp/i >&2", 0, "", "i\n"),
        ],
        &[("exec /bin/echo replaced", 0, "replaced\n", "")],
    ] {
        check(engine, &sandbox, rows).await;
    }
    // After a new attachment the redirection still applies.
    let mut shell = OpenShell::new(engine, &sandbox).await;
    shell.text("exec >/tmp/j").await;
    let token = shell.token.clone();
    drop(shell);
    let mut shell = OpenShell::reattach(engine, &sandbox, &token).await;
    shell.text("echo j").await;
    assert_eq!(shell.run("cat /tmp/j >&2").await, (Status::Code(0), String::new(), "j\n".into()));
}

/// A stopped process ends neither its command nor the shell, and a bash that stops itself
/// is continued.
pub async fn stopped_process_does_not_end_the_shell(engine: &Arc<dyn Engine>) {
    let sandbox = Sandbox::new(engine.as_ref()).await;
    let mut shell = OpenShell::new(engine, &sandbox).await;
    for command in super::stopped::STOPPING_COMMANDS {
        let (status, out, _) = shell.run(command).await;
        assert_eq!((status, &*out), (Status::Code(0), "on\n"), "{command}");
        assert_eq!(shell.text("ls / >/dev/null; echo alive").await, "alive\n", "after {command}");
        sandbox.sh("pkill -KILL sleep").await;
    }
    shell.text("sleep 31 & kill -STOP $!; stopped=$!").await;
    assert_eq!(shell.text("/bin/true; kill -0 $stopped && echo there").await, "there\n");
    for signal in ["STOP", "TSTP", "TTIN"] {
        assert_eq!(shell.text(&format!("kill -{signal} $$; echo on")).await, "on\n");
    }
    // A stopped process that is waited for is interrupted with its command.
    let limit = Some(Duration::from_millis(400));
    for stopped in ["sh -c 'kill -STOP $$'", "(kill -STOP $BASHPID)", "sh -c 'kill -TSTP $$' | cat"]
    {
        assert_eq!(shell.run_for(stopped, limit).await.0, Status::TimedOut, "{stopped}");
        assert_eq!(shell.text("/bin/true; echo alive").await, "alive\n", "after {stopped}");
    }
}

/// Prompts, traces and the history contain the user's commands, and none of the agent's.
pub async fn interactive_settings_do_not_change_output(engine: &Arc<dyn Engine>) {
    let sandbox = Sandbox::new(engine.as_ref()).await;
    for rows in [
        &[
            ("PS1='prompt$ ' PS2='more> ' PS0='now '", 0, "", ""),
            ("echo a; echo e >&2", 0, "a\n", "e\n"),
            ("echo $PS1", 0, "prompt$\n", ""),
            ("(exit 3)", 3, "", ""),
            ("echo $?", 0, "3\n", ""),
            ("${nothing?here}", 1, "", "bash: nothing: here\n"),
            ("echo b", 0, "b\n", ""),
        ][..],
        &[
            ("PROMPT_COMMAND='echo often; echo often >&2; often=1'", 0, "", ""),
            ("echo a", 0, "a\n", ""),
            ("PROMPT_COMMAND=('echo one' 'echo two')", 0, "", ""),
            ("echo b", 0, "b\n", ""),
        ],
        &[
            (
                "mkdir -p /tmp/venv; printf 'VIRTUAL_ENV=/tmp/venv; PS1=\"(venv) ${PS1-}\"; export PS1\\n' >/tmp/venv/activate",
                0,
                "",
                "",
            ),
            ("source /tmp/venv/activate", 0, "", ""),
            ("echo $VIRTUAL_ENV", 0, "/tmp/venv\n", ""),
            ("true", 0, "", ""),
        ],
        &[
            ("set -x", 0, "", ""),
            ("echo a", 0, "a\n", "++ echo a\n"),
            ("set +x", 0, "", "++ set +x\n"),
            ("echo b", 0, "b\n", ""),
        ],
        &[("set -x; echo a", 0, "a\n", "++ echo a\n"), ("cat <<E\nx\nE", 0, "x\n", "+++ cat\n")],
        &[
            ("PS4='trace '; set -x", 0, "", ""),
            ("${nothing?here}", 1, "", "bash: nothing: here\n"),
            ("echo a", 0, "a\n", "ttrace echo a\n"),
        ],
        &[
            ("set -o history", 0, "", ""),
            ("echo a", 0, "a\n", ""),
            ("cat <<E\n\nx\nE", 0, "\nx\n", ""),
            ("history", 0, "    1  echo a\n    2  cat <<E\n\nx\nE\n    3  history\n", ""),
        ],
        &[
            ("set -o history; echo a", 0, "a\n", ""),
            ("${nothing?here}", 1, "", "bash: nothing: here\n"),
            ("history", 0, "    1  ${nothing?here}\n    2  history\n", ""),
        ],
        &[("trap 'echo debug' DEBUG", 0, "", ""), ("echo a", 0, "a\n", "")],
        &[
            ("trap 'echo failed' ERR", 0, "", ""),
            ("true; false; true", 0, "failed\n", ""),
            ("echo a", 0, "a\n", ""),
        ],
        &[("IFS=0123456789", 0, "", ""), ("echo a; (exit 7)", 7, "a\n", "")],
        &[
            ("set -u; shopt -s failglob nullglob; set -f -o posix", 0, "", ""),
            ("echo a; echo b >&2", 0, "a\n", "b\n"),
        ],
    ] {
        check(engine, &sandbox, rows).await;
    }
    // The same holds for an interrupted command and the one after it.
    let mut shell = OpenShell::new(engine, &sandbox).await;
    shell.text("PS1='prompt$ ' PROMPT_COMMAND='echo often'").await;
    let (status, out, err) =
        shell.run_for("echo a; sleep 100", Some(Duration::from_millis(300))).await;
    assert_eq!((status, &*out, err.trim()), (Status::TimedOut, "a\n", ""));
    assert_eq!(shell.text("echo b").await, "b\n");
}

/// A command may be as long as the body of a request.
pub async fn long_commands_are_accepted(engine: &Arc<dyn Engine>) {
    let sandbox = Sandbox::new(engine.as_ref()).await;
    let mut shell = OpenShell::new(engine, &sandbox).await;
    for length in [127 << 10, 129 << 10, 500_000, (1 << 20) - 200] {
        for filler in ["x", "\u{e9}", "\\n", "$"] {
            let text = filler.repeat(length / filler.len());
            let command = format!("v='{text}'; printf %s \"$v\" | wc -c; echo $0 $# >&2");
            let expected = format!("{}\n", text.len());
            assert_eq!(shell.run(&command).await.1.trim(), expected.trim(), "{filler} in a shell");
            let output = sandbox.sh(&command).await;
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(printed.trim(), expected.trim(), "{filler}: {output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stderr), "/bin/sh 0\n", "{filler}");
        }
    }
    let text = "x".repeat(200_000);
    for (command, code, out) in [
        (format!("# {text}\nexit 7"), 7, ""),
        (format!("# {text}\ncat <<E\na\nE"), 0, "a\n"),
        (format!("# {text}\ncat; ls /proc/self/fd | wc -l"), 0, "4\n"),
        (format!("# {text}\nset -e; false; echo no"), 1, ""),
    ] {
        let request = protocol::Exec { user: Some("1000".to_owned()), ..sh(&command) };
        let output = sandbox.exec(request).await.unwrap().output(1000).await.unwrap();
        let result = (output.status, String::from_utf8_lossy(&output.stdout).into_owned());
        assert_eq!(result, (Status::Code(code), out.to_owned()), "{output:?}");
    }
}

/// The time limits of commands and shells are paused while their sandbox is checkpointed;
/// its clocks continue.
pub async fn time_limits_are_paused_in_a_checkpoint(engine: &Arc<dyn Engine>) {
    if !engine.capabilities().checkpoint {
        return;
    }
    let sandbox = Sandbox::new(engine.as_ref()).await;
    let waiting = "until [ -e /tmp/go ]; do sleep 0.05; done; echo ended | tee -a /tmp/ended";
    let request =
        protocol::Exec { token: Some("limited".to_owned()), timeout_ms: Some(4000), ..sh(waiting) };
    let exec =
        client::exec_with_reattach(sandbox.connect().await, connect(engine, &sandbox), request)
            .await
            .unwrap();
    let mut shell = OpenShell::new(engine, &sandbox).await;
    shell.start_for(waiting, Duration::from_millis(4000)).await;
    let clocks = "python3 -c 'import time; print(time.time(), time.monotonic())'";
    let read = |text: String| -> Vec<f64> {
        text.split_whitespace().map(|number| number.parse().unwrap()).collect()
    };
    let before = read(sandbox.text(clocks).await);
    let token = shell.token.clone();
    let exec = tokio::spawn(exec.output(1000));
    let shell = tokio::spawn(async move { shell.lost().await });
    let dir = tempfile::tempdir().unwrap();
    engine.checkpoint(&sandbox.id, dir.path(), false).await.unwrap();
    // The clients were notified that the sandbox is gone.
    exec.await.unwrap().unwrap_err();
    shell.await.unwrap();
    // Longer than the limits, which must not apply meanwhile.
    tokio::time::sleep(Duration::from_millis(5000)).await;
    let spec = crate::SandboxSpec { id: sandbox.id.clone(), ..super::spec() };
    engine.restore(spec, dir.path()).await.unwrap();
    // As gVisor implements it and the documentation describes it: both clocks continued.
    let after = read(sandbox.text(clocks).await);
    for (before, after) in before.iter().zip(&after) {
        assert!((5.0..60.0).contains(&(after - before)), "{before} to {after}");
    }
    let mut shell = OpenShell::attach(engine, &sandbox, &token).await.unwrap();
    sandbox.text("touch /tmp/go").await;
    assert_eq!(shell.outcome().await, (Status::Code(0), "ended\n".to_owned(), String::new()));
    sandbox.until("[ $(wc -l </tmp/ended) = 2 ]").await;
    // Time limits still apply.
    let (status, ..) = shell.run_for("sleep 100", Some(Duration::from_millis(300))).await;
    assert_eq!(status, Status::TimedOut);
}

/// A program that reaches its time limit without a client is kept for a client only as
/// long as one that runs.
pub async fn killed_program_is_not_kept(engine: &Arc<dyn Engine>) {
    if !engine.capabilities().checkpoint {
        return;
    }
    let sandbox = Sandbox::new(engine.as_ref()).await;
    let request = protocol::Exec {
        token: Some("limited".to_owned()),
        timeout_ms: Some(2000),
        ..sh("sleep 1000")
    };
    let exec =
        client::exec_with_reattach(sandbox.connect().await, connect(engine, &sandbox), request)
            .await
            .unwrap();
    let exec = tokio::spawn(exec.output(1000));
    let dir = tempfile::tempdir().unwrap();
    engine.checkpoint(&sandbox.id, dir.path(), false).await.unwrap();
    exec.await.unwrap().unwrap_err();
    let spec = crate::SandboxSpec { id: sandbox.id.clone(), ..super::spec() };
    engine.restore(spec, dir.path()).await.unwrap();
    sandbox.until("! pgrep -x sleep").await;
    // More than the time within which a client has to attach: it must have passed.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let attached = client::attach_shell(connect(engine, &sandbox), "limited".to_owned()).await;
    let Err(client::ClientError::Failed(failure)) = attached else { panic!("it is still kept") };
    assert_eq!(failure.kind, FailureKind::NotFound, "{failure:?}");
}
