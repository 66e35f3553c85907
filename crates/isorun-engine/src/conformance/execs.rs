//! Running commands.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use isorun_agent::client::{self, ClientError, ExecEvent};
use isorun_agent::protocol::{Exec, FailureKind, Size, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Sandbox, argv, shell};
use crate::engine::Engine;

/// The output and the exit status of a program are returned unchanged.
pub async fn output_and_exit_status(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    for (command, status, stdout, stderr) in [
        ("true", Status::Code(0), &b""[..], &b""[..]),
        ("echo out; echo err >&2; exit 42", Status::Code(42), b"out\n", b"err\n"),
        ("printf 'no newline'", Status::Code(0), b"no newline", b""),
        ("printf '\\377\\000\\001'", Status::Code(0), b"\xff\x00\x01", b""),
        ("kill -9 $$", Status::Signal(9), b"", b""),
        ("kill -TERM $$", Status::Signal(15), b"", b""),
        ("cat <<'E'\n$x `y`\nE", Status::Code(0), b"$x `y`\n", b""),
    ] {
        let output = sandbox.sh(command).await;
        assert_eq!(output.status, status, "{command}");
        assert_eq!(output.stdout, stdout, "{command}");
        assert_eq!(output.stderr, stderr, "{command}");
    }
    // More than a pipe and all buffers hold.
    let output = sandbox.sh("head -c 20000000 /dev/zero | tr '\\0' x").await;
    assert_eq!(output.stdout.len(), 20_000_000);
    assert!(output.stdout.iter().all(|byte| *byte == b'x'));
    assert_eq!(sandbox.text("python3 -c 'print(6 * 7)'").await, "42\n");
    // A caller that keeps only a little of the output.
    let exec = sandbox.exec(shell("head -c 1000000 /dev/zero; echo end >&2")).await.unwrap();
    let output = exec.output(10).await.unwrap();
    assert!(output.truncated);
    assert_eq!((output.stdout.len(), &*output.stderr), (10, &b"end\n"[..]));
}

/// Output is available before the program exits.
pub async fn output_is_available_before_the_exit(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let program = Exec { stdin: true, ..shell("echo first; read line; echo \"then $line\"") };
    let mut exec = sandbox.exec(program).await.unwrap();
    assert_eq!(exec.events.next().await.unwrap(), ExecEvent::Stdout("first\n".into()));
    // The program waits for this input, so it has not exited yet.
    exec.control.stdin(Bytes::from_static(b"second\n")).await.unwrap();
    assert_eq!(exec.events.next().await.unwrap(), ExecEvent::Stdout("then second\n".into()));
    assert_eq!(exec.events.next().await.unwrap(), ExecEvent::Exited(Status::Code(0)));
    assert!(matches!(exec.events.next().await, Err(ClientError::Disconnected)));
}

/// A program that reads its input sees the end of file if no input is sent, and all of the
/// input otherwise.
pub async fn stdin_is_empty_or_sent(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    assert_eq!(sandbox.text("cat; echo done").await, "done\n");

    let sent = Bytes::from(vec![b'x'; 3_000_000]);
    let exec = sandbox.exec(Exec { stdin: true, ..argv(&["cat"]) }).await.unwrap();
    let control = exec.control.clone();
    let (_, output) = tokio::join!(
        async {
            control.stdin(sent.clone()).await.unwrap();
            control.stdin_end().await.unwrap();
        },
        exec.output(10_000_000)
    );
    assert_eq!(output.unwrap().stdout, sent);

    // A program that never reads its input delays neither its end nor its timeout.
    let program = Exec { stdin: true, timeout_ms: Some(500), ..shell("sleep 100") };
    let exec = sandbox.exec(program).await.unwrap();
    let control = exec.control.clone();
    let (fed, output) = tokio::join!(control.stdin(sent.clone()), exec.output(100));
    assert!(fed.is_err(), "three megabytes were accepted although the program does not read");
    assert_eq!(output.unwrap().status, Status::TimedOut);
}

/// A timeout kills all processes that the program has started, in time, and keeps its
/// output.
pub async fn timeout_kills_all_descendants(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let command = "echo partial; sleep 1001 & (setsid sleep 1002 &) ; \
                   (setsid sh -c 'trap \"\" TERM HUP; sleep 1003 & wait' &); wait; sleep 1004";
    let start = Instant::now();
    let exec = sandbox.exec(Exec { timeout_ms: Some(1000), ..shell(command) }).await.unwrap();
    let output = exec.output(1000).await.unwrap();
    assert_eq!(output.status, Status::TimedOut);
    assert_eq!(output.stdout, b"partial\n");
    let took = start.elapsed();
    assert!((Duration::from_millis(990)..Duration::from_secs(15)).contains(&took), "{took:?}");
    assert_eq!(sleepers(&sandbox).await, "");
    // A busy loop.
    let exec =
        sandbox.exec(Exec { timeout_ms: Some(300), ..shell("while :; do :; done") }).await.unwrap();
    assert_eq!(exec.output(10).await.unwrap().status, Status::TimedOut);
}

/// Dropping an exec kills its program.
pub async fn dropped_exec_kills_its_program(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let mut exec = sandbox.exec(shell("echo up; setsid sleep 1001 & sleep 1002")).await.unwrap();
    assert_eq!(exec.events.next().await.unwrap(), ExecEvent::Stdout("up\n".into()));
    drop(exec);
    sandbox
        .until("! cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -q 'sleep 100[0-9]'")
        .await;
}

/// A program that was started in the background continues to run, whatever it does with
/// its output, and the exec that started it ends.
pub async fn background_programs_keep_running(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let loud = "(while :; do echo noise; echo x >> /tmp/alive; sleep 0.05; done) & echo started";
    let output = sandbox.sh(loud).await;
    assert!(output.stdout.starts_with(b"started\n") || output.stdout.ends_with(b"started\n"));
    sandbox.until("[ $(wc -l < /tmp/alive) -gt 5 ]").await;
    let quiet = "nohup setsid python3 -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 &";
    sandbox.text(quiet).await;
    let fetch = "python3 -c 'import urllib.request as r; r.urlopen(\"http://127.0.0.1:8000/\")'";
    sandbox.until(&format!("{fetch} 2>/dev/null")).await;
}

/// A program that cannot be started is an error with the cause.
pub async fn start_failures_name_the_cause(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let program = || argv(&["true"]);
    for (exec, kind, part) in [
        (argv(&["/no/such"]), FailureKind::NotFound, "no such program"),
        (argv(&["no-such-program"]), FailureKind::NotFound, "no such program"),
        (argv(&["/etc/passwd"]), FailureKind::PermissionDenied, "may not be executed"),
        (argv(&[]), FailureKind::Invalid, "argv is empty"),
        (argv(&["echo", "a\0b"]), FailureKind::Invalid, "NUL"),
        (Exec { cwd: Some("/no/such".into()), ..program() }, FailureKind::NotFound, "/no/such"),
        (Exec { user: Some("nobody2".into()), ..program() }, FailureKind::NotFound, "nobody2"),
        (Exec { env: vec![("A=B".into(), "".into())], ..program() }, FailureKind::Invalid, "A=B"),
    ] {
        match sandbox.exec(exec.clone()).await {
            Err(ClientError::Failed(failure)) => {
                assert_eq!(failure.kind, kind, "{exec:?}: {failure}");
                assert!(failure.message.contains(part), "{exec:?}: {failure}");
            }
            Err(error) => panic!("{exec:?}: {error}"),
            Ok(_) => panic!("{exec:?} has started"),
        }
    }
    let long = "x".repeat(2 << 20);
    assert!(matches!(sandbox.exec(argv(&["echo", &long])).await, Err(ClientError::TooLong(_))));
    assert_eq!(sandbox.text("echo well").await, "well\n");
}

/// Environment, working directory and user are those of the request.
pub async fn environment_directory_and_user(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let run =
        |exec: Exec| async { sandbox.exec(exec).await.unwrap().output(10_000).await.unwrap() };
    let env = vec![("NAME".to_owned(), "a b\nc".to_owned()), ("HOME".into(), "/tmp".into())];
    let output = run(Exec { env, ..shell("printf %s \"$NAME,$HOME,$USER\"; pwd") }).await;
    assert_eq!(output.stdout, b"a b\nc,/tmp,root/root\n");
    let output = run(Exec { cwd: Some("/usr/lib".into()), ..argv(&["pwd"]) }).await;
    assert_eq!(output.stdout, b"/usr/lib\n");
    let output = run(Exec { user: Some("nobody".into()), ..shell("id -u; id -g; pwd; touch /x") });
    let output = output.await;
    assert_eq!(output.stdout, b"65534\n65534\n/\n");
    assert_ne!(output.status, Status::Code(0), "nobody may write to /");
    let output = run(Exec { user: Some("1234:99".into()), ..shell("id -u; id -G") }).await;
    assert_eq!(output.stdout, b"1234\n99\n");
    // No variable of the server's environment, and no leaked descriptor.
    let names = sandbox
        .text("env | cut -d= -f1 | grep -vE '^(PATH|HOME|USER|PWD|OLDPWD|_|SHLVL)$' || true");
    assert_eq!(names.await, "");
    assert_eq!(sandbox.text("ls /proc/self/fd").await, "0\n1\n2\n3\n", "3 is that of ls");
}

/// A terminal is a pseudoterminal with a size that can change, and supports Ctrl-C.
pub async fn terminal_has_a_size_and_an_interrupt_key(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let program = Exec {
        pty: Some(Size { rows: 30, cols: 100 }),
        stdin: true,
        ..shell(
            "tty; stty size; trap 'stty size; echo resized' WINCH; echo ready; \
                 while :; do sleep 0.05; done",
        )
    };
    let mut exec = sandbox.exec(program).await.unwrap();
    let mut seen = String::new();
    wait_for(&mut exec.events, &mut seen, "ready").await;
    assert!(seen.contains("/dev/pts/") && seen.contains("30 100"), "{seen:?}");
    exec.control.resize(Size { rows: 50, cols: 132 }).await.unwrap();
    wait_for(&mut exec.events, &mut seen, "resized").await;
    assert!(seen.contains("50 132"), "{seen:?}");
    exec.control.stdin(Bytes::from_static(b"\x03")).await.unwrap();
    loop {
        if let ExecEvent::Exited(status) = exec.events.next().await.unwrap() {
            assert_eq!(status, Status::Signal(2));
            break;
        }
    }
    // Input is echoed, and Ctrl-D ends the program.
    let program = Exec { pty: Some(Size { rows: 24, cols: 80 }), stdin: true, ..argv(&["cat"]) };
    let exec = sandbox.exec(program).await.unwrap();
    exec.control.stdin(Bytes::from_static(b"hello\n")).await.unwrap();
    exec.control.stdin_end().await.unwrap();
    let output = exec.output(1000).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\r\nhello\r\n");
    assert_eq!(output.status, Status::Code(0));
}

/// Signals reach the program and the processes that it waits for.
pub async fn signals_reach_the_program(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let trapping = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.02; done";
    let mut exec = sandbox.exec(shell(trapping)).await.unwrap();
    let mut seen = String::new();
    wait_for(&mut exec.events, &mut seen, "ready").await;
    // Invalid signal numbers are ignored.
    exec.control.signal(4000).await.unwrap();
    exec.control.signal(15).await.unwrap();
    let output = exec.output(1000).await.unwrap();
    assert_eq!((output.status, &*output.stdout), (Status::Code(7), &b"caught\n"[..]));
}

/// Many commands run concurrently, each with its own output.
pub async fn hundred_concurrent_commands_keep_their_output(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let runs = (0..100).map(|number| {
        let sandbox = &sandbox;
        async move { (number, sandbox.text(&format!("echo {number}")).await) }
    });
    for (number, text) in join_all(runs).await {
        assert_eq!(text, format!("{number}\n"));
    }
    let info = client::info(sandbox.connect().await).await.unwrap();
    assert_eq!(info.execs, 0);
}

/// Output that is not read is neither buffered without bound nor lost.
pub async fn unread_output_blocks_the_program(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let total = 30_000_000;
    let command = format!("head -c {total} /dev/zero; echo end > /tmp/end");
    let mut exec = sandbox.exec(shell(&command)).await.unwrap();
    // Other commands are not delayed, and the program has not exited.
    for _ in 0..20 {
        assert_eq!(sandbox.text("ls /tmp/end 2>/dev/null || true").await, "");
    }
    let mut count = 0;
    loop {
        match exec.events.next().await.unwrap() {
            ExecEvent::Stdout(bytes) => count += bytes.len(),
            ExecEvent::Stderr(bytes) => panic!("{bytes:?}"),
            ExecEvent::Exited(status) => {
                assert_eq!((status, count), (Status::Code(0), total));
                return;
            }
        }
    }
}

/// Invalid protocol data closes its own connection only.
pub async fn invalid_data_ends_only_its_connection(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let mut running = sandbox.exec(Exec { stdin: true, ..shell("echo up; cat") }).await.unwrap();
    assert_eq!(running.events.next().await.unwrap(), ExecEvent::Stdout("up\n".into()));
    let hello = br#"{"oldest":1,"newest":1}"#;
    let mut greeted = vec![hello.len() as u8, 0, 0, 0, 1];
    greeted.extend_from_slice(hello);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        &[0; 4096],
        &[1, 0, 0, 0, 1, b'{'],
        &[greeted.as_slice(), b"\xff\xff\xff\x7f\x03"].concat(),
        &[greeted.as_slice(), b"\x02\x00\x00\x00\x03{}"].concat(),
        &[greeted.as_slice(), b"\x00\x00\x00\x00\x63"].concat(),
        &greeted[..7],
    ] {
        let mut stream = sandbox.connect().await;
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        if garbage.len() > 7 {
            // The agent closes the connection, with a FIN or a RST.
            let _ = stream.read_to_end(&mut answer).await;
        }
    }
    running.control.stdin(Bytes::from_static(b"still\n")).await.unwrap();
    assert_eq!(running.events.next().await.unwrap(), ExecEvent::Stdout("still\n".into()));
    // An unsupported version gets an error that names it.
    let mut stream = sandbox.connect().await;
    let hello = br#"{"oldest":900,"newest":901}"#;
    stream.write_all(&[hello.len() as u8, 0, 0, 0, 1]).await.unwrap();
    stream.write_all(hello).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(String::from_utf8_lossy(&answer).contains("version"), "{answer:?}");
}

async fn wait_for(
    events: &mut client::ExecEvents<crate::engine::AgentStream>,
    seen: &mut String,
    text: &str,
) {
    while !seen.contains(text) {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
        match event.unwrap_or_else(|_| panic!("no {text:?} after {seen:?}")).unwrap() {
            ExecEvent::Stdout(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} before {text:?}, after {seen:?}"),
        }
    }
}

async fn sleepers(sandbox: &Sandbox<'_>) -> String {
    sandbox
        .text("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep 100[0-9]' || true")
        .await
}

/// Shared memory and the directories for temporary files are available to every user.
pub async fn shared_memory_is_available_to_every_user(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let program = "import multiprocessing as m\n\
                   from multiprocessing import shared_memory as s\n\
                   if __name__ == '__main__':\n\
                   \x20 memory = s.SharedMemory(create=True, size=5000)\n\
                   \x20 memory.buf[:2] = b'ok'\n\
                   \x20 lock, value = m.get_context('fork').Lock(), m.get_context('fork').Value('i', 0)\n\
                   \x20 def add():\n\
                   \x20   with value.get_lock(): value.value += 1\n\
                   \x20 all = [m.get_context('fork').Process(target=add) for i in range(3)]\n\
                   \x20 [p.start() for p in all]; [p.join() for p in all]\n\
                   \x20 print(bytes(memory.buf[:2]).decode(), value.value)\n\
                   \x20 memory.close(); memory.unlink()\n";
    for user in ["root", "1000", "nobody"] {
        let run = |exec: Exec| sandbox.exec(Exec { user: Some(user.to_owned()), ..exec });
        let output =
            run(argv(&["python3", "-c", program])).await.unwrap().output(2000).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ok 3\n", "{user}: {output:?}");
        let touch = "stat -c %a /dev/shm /tmp; touch /dev/shm/$$ /tmp/$$ && rm /dev/shm/$$ /tmp/$$; \
                     echo >/dev/null; head -c1 /dev/zero /dev/urandom >/dev/null && echo well";
        let output = run(shell(touch)).await.unwrap().output(2000).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1777\n1777\nwell\n", "{output:?}");
    }
    // A user cannot remove the files of another.
    sandbox.text("touch /dev/shm/mine").await;
    let other = Exec { user: Some("1000".to_owned()), ..shell("rm -f /dev/shm/mine") };
    let output = sandbox.exec(other).await.unwrap().output(1000).await.unwrap();
    assert_ne!(output.status, Status::Code(0), "{output:?}");
}

/// Arguments may be as long as Linux allows; the error for longer ones contains the limit.
pub async fn argument_length_limit_is_enforced(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let max_bytes = 131_071;
    for (count, length) in [(1, max_bytes), (6, 100_000)] {
        let words = vec!["x".repeat(length); count];
        let mut all = vec!["sh", "-c", "printf %s \"$@\" | wc -c", "sh"];
        all.extend(words.iter().map(String::as_str));
        let output = sandbox.exec(argv(&all)).await.unwrap().output(1000).await.unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(printed.trim(), (count * length).to_string(), "{output:?}");
    }
    let long = "x".repeat(max_bytes + 1);
    for exec in [
        argv(&["echo", &long]),
        argv(&["python3", "-c", &long]),
        Exec { env: vec![("LONG".to_owned(), long.clone())], ..shell("true") },
    ] {
        let Err(ClientError::Failed(failure)) = sandbox.exec(exec).await else {
            panic!("a program started with arguments that are too long")
        };
        assert_eq!(failure.kind, FailureKind::Invalid);
        assert!(failure.message.contains("131071"), "{failure}");
        assert!(failure.message.len() < 300, "{failure}");
    }
}
