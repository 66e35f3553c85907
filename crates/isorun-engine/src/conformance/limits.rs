//! Limits are enforced and reported, and the engine keeps working.

use std::time::Duration;

use isorun_agent::client::{self, ClientError};
use isorun_agent::protocol::{Exec, FailureKind, Status, WriteFile};

use super::{Sandbox, shell, spec};
use crate::engine::{Engine, Error, Exit};

/// A fork bomb is limited to its sandbox and can be killed.
pub async fn process_limit_is_enforced(engine: &dyn Engine) {
    let sandbox =
        Sandbox::with_spec(engine, crate::SandboxSpec { pids: 40, mem_mib: 1024, ..spec() }).await;
    let bomb = "import os, time\n\
                count = 0\n\
                while True:\n\
                \x20 try:\n\
                \x20   if os.fork() == 0: time.sleep(1000)\n\
                \x20   count += 1\n\
                \x20 except OSError as e: print(count, e.errno, flush=True); break\n\
                time.sleep(1000)\n";
    let exec = sandbox.exec(super::argv(&["python3", "-c", bomb])).await;
    let Ok(mut exec) = exec else { panic!("{:?}", engine.exited(&sandbox.id).await) };
    match exec.events.next().await.unwrap() {
        client::ExecEvent::Stdout(line) => {
            let line = String::from_utf8_lossy(&line).into_owned();
            // EAGAIN
            assert!(line.trim().ends_with(" 11"), "{line}");
            let count: u32 = line.split(' ').next().unwrap().parse().unwrap();
            // An engine may enforce the limit late: gVisor has allowed half more.
            assert!((30..=80).contains(&count), "{line}");
        }
        other => panic!("{other:?}"),
    }
    // File operations still work, and another program fails to start with the cause.
    client::list(sandbox.connect().await, "/".into()).await.unwrap();
    match sandbox.exec(shell("true")).await {
        Err(ClientError::Failed(failure)) => assert_eq!(failure.kind, FailureKind::NoResources),
        Ok(_) => panic!("a program started beyond the limit"),
        Err(error) => panic!("{error}"),
    }
    drop(exec);
    // It was killed with its client, so a program can start again.
    loop {
        if let Ok(exec) = sandbox.exec(shell("echo room")).await {
            assert_eq!(exec.output(100).await.unwrap().stdout, b"room\n");
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A fork bomb that runs until it is killed: its sandbox can be destroyed.
    let bomb = sandbox.exec(shell("echo lit; b() { b | b & }; b; sleep 1000")).await.unwrap();
    let mut events = bomb.events;
    assert_eq!(events.next().await.unwrap(), client::ExecEvent::Stdout("lit\n".into()));
    engine.destroy(&sandbox.id).await.unwrap();
    let other = Sandbox::new(engine).await;
    assert_eq!(other.text("echo well").await, "well\n");
}

/// Every fork beyond the limit fails, however often a program tries; unless the engine says
/// that it does not enforce this limit.
pub async fn forks_beyond_the_limit_fail(engine: &dyn Engine) {
    if !engine.capabilities().limits.iter().any(|limit| limit == "pids") {
        return;
    }
    let sandbox =
        Sandbox::with_spec(engine, crate::SandboxSpec { pids: 40, mem_mib: 1024, ..spec() }).await;
    let forks = "import os, time\n\
                 made = refused = 0\n\
                 for _ in range(300):\n\
                 \x20 try: child = os.fork()\n\
                 \x20 except OSError: refused += 1; continue\n\
                 \x20 if child == 0: time.sleep(1000)\n\
                 \x20 made += 1\n\
                 print(made, refused, flush=True)\n\
                 os.killpg(0, 9)\n";
    let mut exec = sandbox.exec(super::argv(&["python3", "-c", forks])).await.unwrap();
    // All but the program itself.
    assert_eq!(exec.events.next().await.unwrap(), client::ExecEvent::Stdout("39 261\n".into()));
}

/// Fork bombs whose processes leave their session are killed at their timeout, and the
/// sandbox can start as many processes as before.
pub async fn fork_bomb_is_killed_at_its_timeout(engine: &dyn Engine) {
    let sandbox =
        Sandbox::with_spec(engine, crate::SandboxSpec { pids: 100, mem_mib: 1024, ..spec() }).await;
    let bystander = sandbox.exec(shell("sleep 4; echo still here")).await.unwrap();
    for bomb in [
        "b() { b | b & }; b; sleep 1000",
        "b() { setsid sh -c 'sleep 0.01' & b & b & }; b; sleep 1000",
        "while :; do setsid sh -c 'while :; do :; done' & done",
    ] {
        let exec = Exec { timeout_ms: Some(700), ..shell(bomb) };
        let output = sandbox.exec(exec).await.unwrap().output(1 << 20).await.unwrap();
        assert_eq!(output.status, Status::TimedOut, "{bomb}");
        // This command, the two processes of the bystander, and the agent.
        let count = sandbox.text("ls -d /proc/[0-9]* | wc -l").await;
        assert!(count.trim().parse::<u32>().unwrap() <= 7, "{bomb}: {count}");
    }
    assert_eq!(bystander.output(100).await.unwrap().stdout, b"still here\n");
    // The limit is unchanged.
    sandbox.text("for i in $(seq 60); do sleep 0.2 & done; wait").await;
}

/// A full disk makes only the write fail.
pub async fn disk_limit_is_enforced(engine: &dyn Engine) {
    let sandbox = Sandbox::with_spec(engine, crate::SandboxSpec { disk_mib: 20, ..spec() }).await;
    for dir in ["/srv", "/tmp", "/usr/lib"] {
        let output = sandbox.sh(&format!("head -c 30000000 /dev/zero > {dir}/big")).await;
        assert_ne!(output.status, Status::Code(0), "{dir}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("No space left on device"), "{dir}: {message}");
        sandbox.text(&format!("rm {dir}/big")).await;
    }
    let big = vec![b'x'; 30_000_000];
    let request = WriteFile { path: "/up".into(), ..WriteFile::default() };
    match client::write_file(sandbox.connect().await, request, &big[..]).await {
        Err(ClientError::Failed(failure)) => assert_eq!(failure.kind, FailureKind::NoSpace),
        other => panic!("{other:?}"),
    }
    assert_eq!(sandbox.text("ls -A /up* 2>/dev/null || echo none").await, "none\n");
    sandbox.text("head -c 10000000 /dev/urandom > /srv/fits").await;
    let stats = engine.stats(&sandbox.id).await.unwrap();
    assert!((9_000_000..40_000_000).contains(&stats.disk_used_bytes), "{stats:?}");
}

/// A sandbox that exceeds its memory is killed, and the cause is reported.
pub async fn memory_limit_is_enforced(engine: &dyn Engine) {
    let sandbox = Sandbox::with_spec(engine, crate::SandboxSpec { mem_mib: 64, ..spec() }).await;
    let other = Sandbox::new(engine).await;
    let greedy = "b = []\nwhile True: b.append(bytearray(b'x') * 5000000)";
    let exec = sandbox.exec(super::argv(&["python3", "-c", greedy])).await.unwrap();
    let (output, exit) = tokio::join!(exec.output(1000), engine.exited(&sandbox.id));
    assert!(matches!(output, Err(ClientError::Disconnected)), "{output:?}");
    assert_eq!(exit.unwrap(), Exit::OutOfMemory);
    match engine.connect(&sandbox.id).await {
        Err(error @ Error::Dead { .. }) => assert_eq!(error.code(), "out_of_memory"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("connected to a dead sandbox"),
    }
    assert!(engine.stats(&sandbox.id).await.unwrap().mem_peak_bytes > 60 << 20);
    engine.destroy(&sandbox.id).await.unwrap();
    assert_eq!(other.text("echo well").await, "well\n");
}

/// Programs see the number of CPUs of the sandbox.
pub async fn cpu_count_matches_the_spec(engine: &dyn Engine) {
    let machine = std::thread::available_parallelism().unwrap().get() as u32;
    for vcpus in [1, machine] {
        let sandbox = Sandbox::with_spec(engine, crate::SandboxSpec { vcpus, ..spec() }).await;
        let seen = "nproc; python3 -c 'import os; print(len(os.sched_getaffinity(0)))'; \
                    sh -c 'nproc' | cat; setsid nproc";
        assert_eq!(sandbox.text(seen).await, format!("{vcpus}\n").repeat(4));
        engine.destroy(&sandbox.id).await.unwrap();
    }
}

/// The number of processes is that of the programs in the sandbox; exited ones are not
/// counted.
pub async fn processes_are_counted(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let pids = async || engine.stats(&sandbox.id).await.unwrap().pids;
    assert_eq!(pids().await, 0);
    let three = sandbox.exec(shell("sleep 1000 & sleep 1000 & wait")).await.unwrap();
    sandbox.until("[ $(pgrep -c -x sleep) = 2 ]").await;
    assert_eq!(pids().await, 3);
    sandbox.text("for i in $(seq 50); do /bin/true & done; wait").await;
    assert_eq!(pids().await, 3);
    let threads = "import threading, time\n\
                   for i in range(4): threading.Thread(target=time.sleep, args=(1000,)).start()\n\
                   print('ready', flush=True)\n";
    let mut more = sandbox.exec(super::argv(&["python3", "-c", threads])).await.unwrap();
    assert_eq!(more.events.next().await.unwrap(), client::ExecEvent::Stdout("ready\n".into()));
    assert_eq!(pids().await, 3 + 5);
    drop((three, more));
    while pids().await != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
