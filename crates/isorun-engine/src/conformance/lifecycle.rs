//! The lifecycle and the isolation of sandboxes.

use isorun_agent::client::{self, ClientError};
use isorun_agent::protocol::Status;

use super::{Sandbox, hostname, shell, spec};
use crate::engine::{Engine, Error, Root, SandboxId, SandboxSpec};

/// Checks the hostname of a sandbox, and that it resolves without a DNS query.
async fn check_hostname(sandbox: &Sandbox<'_>, hostname: &str) {
    let command = "hostname; python3 -c 'import socket; print(socket.gethostbyname(socket.gethostname()))'; \
               grep -c host-of- /etc/hosts; grep -c localhost /etc/hosts";
    let output = sandbox.text(command).await;
    assert!(output.starts_with(&format!("{hostname}\n127.0.0.1\n1\n")), "{output}");
    assert!(!output.ends_with("\n0\n"), "{output}");
}

/// An id belongs to one sandbox, from `create` to `destroy`.
pub async fn ids_are_unique_until_destroyed(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let again = SandboxSpec { id: sandbox.id.clone(), ..spec() };
    assert!(matches!(engine.create(again.clone()).await, Err(Error::AlreadyExists(_))));
    assert_eq!(engine.list().await.unwrap(), std::slice::from_ref(&sandbox.id));
    check_hostname(&sandbox, &hostname(&sandbox.id)).await;
    let waiting = sandbox.exec(shell("sleep 1000")).await.unwrap();
    let (stats, waited, exited) =
        tokio::join!(engine.destroy(&sandbox.id), waiting.output(10), engine.exited(&sandbox.id),);
    let stats = stats.unwrap();
    assert!(stats.cpu_ms > 0 && stats.mem_peak_bytes > 1 << 20, "{stats:?}");
    assert!(matches!(waited, Err(ClientError::Disconnected)), "{waited:?}");
    assert!(matches!(exited, Err(Error::NotFound(_))), "{exited:?}");
    assert!(engine.list().await.unwrap().is_empty());
    assert!(matches!(engine.connect(&sandbox.id).await.err(), Some(Error::NotFound(_))));
    assert!(matches!(engine.stats(&sandbox.id).await, Err(Error::NotFound(_))));
    assert!(matches!(engine.destroy(&sandbox.id).await, Err(Error::NotFound(_))));
    // The id is available again, and no data of the first sandbox is left.
    engine.create(again).await.unwrap();
    assert_eq!(sandbox.text("ls /srv").await, "");
}

/// An invalid spec is refused before anything is created.
pub async fn invalid_specs_are_refused(engine: &dyn Engine) {
    for wrong in [
        SandboxSpec { vcpus: 0, ..spec() },
        SandboxSpec { mem_mib: 1, ..spec() },
        SandboxSpec { mem_mib: u64::MAX, ..spec() },
        SandboxSpec { disk_mib: 0, ..spec() },
        SandboxSpec { disk_mib: u64::MAX, ..spec() },
        SandboxSpec { pids: 0, ..spec() },
        SandboxSpec { root: Root::Directory("/no/such/dir".into()), ..spec() },
    ] {
        let outcome = engine.create(wrong.clone()).await;
        assert!(matches!(outcome, Err(Error::InvalidSpec(_))), "{wrong:?}: {outcome:?}");
    }
    assert!(engine.list().await.unwrap().is_empty());
}

/// All waiting calls are notified as soon as a sandbox terminates.
pub async fn death_of_a_sandbox_is_reported(engine: &dyn Engine) {
    let sandbox = Sandbox::new(engine).await;
    let waiting = sandbox.exec(shell("sleep 1000")).await.unwrap();
    // Its own root user may kill it, if the engine allows that.
    let killing =
        sandbox.exec(shell("python3 -c 'import os; os.kill(1, 9)'; sleep 1")).await.unwrap();
    let killed = killing.output(100).await;
    if let Ok(output) = killed {
        // The first process is protected, which is acceptable, too.
        assert_ne!(output.status, Status::TimedOut);
        assert_eq!(sandbox.text("echo alive").await, "alive\n");
        return;
    }
    let (waited, exit) = tokio::join!(waiting.output(10), engine.exited(&sandbox.id));
    assert!(matches!(waited, Err(ClientError::Disconnected)), "{waited:?}");
    exit.unwrap();
    assert!(matches!(engine.connect(&sandbox.id).await.err(), Some(Error::Dead { .. })));
    assert_eq!(engine.list().await.unwrap(), std::slice::from_ref(&sandbox.id));
    engine.destroy(&sandbox.id).await.unwrap();
}

/// A sandbox sees no path, process, address or secret of the machine, and cannot change
/// anything of it.
pub async fn machine_is_not_visible(engine: &dyn Engine) {
    let marker = tempfile::NamedTempFile::new().unwrap();
    let name = marker.path().display().to_string();
    let sandbox = Sandbox::new(engine).await;
    assert_eq!(sandbox.text(&format!("ls {name} 2>/dev/null || echo none")).await, "none\n");
    // No directory of the machine, such as the engine's own state. The environment of the
    // first process may be unreadable.
    let shown = sandbox
        .text(
            "cat /proc/self/mountinfo /proc/mounts /proc/1/cmdline /proc/cmdline && \
             { cat /proc/1/environ 2>/dev/null || true; }",
        )
        .await;
    assert!(shown.contains("isorun-agent"), "{shown}");
    let state = std::env::temp_dir().display().to_string();
    for path in [&*format!("{state}/."), "/var/lib", "containers", "skeleton"] {
        assert!(!shown.contains(path), "{path} in {shown}");
    }
    // Only its own processes.
    let pids: Vec<u32> =
        sandbox.text("ls /proc").await.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(pids.len() < 8, "{pids:?}");
    // Mounts and devices are not available.
    for denied in [
        "mount -t tmpfs none /mnt",
        "mkdir -p /m && mount -t proc none /m",
        "mount --bind / /mnt",
        "umount /dev/.isorun",
        "ls -A /dev/.isorun/agent",
        "dd if=/dev/vda of=/dev/null count=1",
        "hostname other",
    ] {
        let output = sandbox.sh(&format!("({denied}) >/dev/null 2>&1")).await;
        assert_ne!(output.status, Status::Code(0), "{denied}");
    }
    // Its changes to the machine's programs are visible only to itself.
    sandbox.text("echo evil > /usr/bin/isorun-conformance; rm -f /usr/bin/env").await;
    assert!(!std::path::Path::new("/usr/bin/isorun-conformance").exists());
    assert!(std::path::Path::new("/usr/bin/env").exists());
    // No outgoing connections: they fail at once instead of timing out.
    let dial = |address: &str| {
        format!(
            "python3 -c 'import socket; s = socket.socket(); s.settimeout(20); \
             s.connect({address}); s.sendall(b\"x\"); print(s.recv(1))' 2>&1 | tail -1"
        )
    };
    for address in [r#"("1.1.1.1", 80)"#, r#"("10.0.0.1", 80)"#, r#"("169.254.169.254", 80)"#] {
        let answer = sandbox.text(&dial(address)).await;
        let refused =
            ["reset", "unreachable", "refused", "No route"].iter().any(|why| answer.contains(why));
        assert!(refused, "{address}: {answer}");
    }
    // The agent does not serve connections from the sandbox.
    let own = sandbox
        .text(
            "python3 -c 'import socket; s = socket.socket(); s.settimeout(20); \
             s.connect((\"192.0.0.2\", 1)); print(s.recv(1))' 2>&1 | tail -1",
        )
        .await;
    assert!(own.trim() == "b''" || own.contains("refused") || own.contains("reset"), "{own}");
}

/// Two sandboxes share no state that one of them can change.
pub async fn sandboxes_are_isolated_from_each_other(engine: &dyn Engine) {
    let (one, two) = (Sandbox::new(engine).await, Sandbox::new(engine).await);
    one.text("echo secret > /srv/file; echo x > /usr/bin/new; sleep 1000 >/dev/null 2>&1 &").await;
    assert_eq!(two.text("ls /srv /usr/bin/new 2>/dev/null; pgrep sleep || true").await, "/srv:\n");
    let server = "python3 -m http.server 8000 >/dev/null 2>&1 &";
    one.text(server).await;
    let dial = "python3 -c 'import socket; socket.create_connection((\"192.0.0.2\", 8000), 5)'";
    one.until(&format!("{dial} 2>/dev/null")).await;
    assert_ne!(two.sh(dial).await.status, Status::Code(0));
}

/// Files, memory and processes of a checkpoint are restored in any number of copies, while
/// the original continues to run.
pub async fn checkpoint_can_be_restored_repeatedly(engine: &dyn Engine) {
    if !engine.capabilities().checkpoint {
        let sandbox = Sandbox::new(engine).await;
        let dir = tempfile::tempdir().unwrap();
        let refused = engine.checkpoint(&sandbox.id, dir.path(), true).await;
        assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
        return;
    }
    let sandbox = Sandbox::new(engine).await;
    let counter = "import http.server\n\
        class H(http.server.BaseHTTPRequestHandler):\n\
        \x20 n = 0\n\
        \x20 def do_GET(self):\n\
        \x20   H.n += 1; b = str(H.n).encode()\n\
        \x20   self.send_response(200); self.send_header('content-length', str(len(b)))\n\
        \x20   self.end_headers(); self.wfile.write(b)\n\
        \x20 def log_message(self, *a): pass\n\
        http.server.HTTPServer(('127.0.0.1', 8000), H).serve_forever()\n";
    let request =
        isorun_agent::protocol::WriteFile { path: "/srv/s.py".into(), ..Default::default() };
    client::write_file(sandbox.connect().await, request, counter.as_bytes()).await.unwrap();
    sandbox.text("python3 /srv/s.py >/dev/null 2>&1 & echo $! > /srv/pid").await;
    let ask = "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:8000\").read().decode())'";
    sandbox.until(&format!("{ask} 2>/dev/null")).await;
    assert_eq!(sandbox.text(ask).await, "2\n");
    sandbox.text("head -c 5000000 /dev/urandom > /srv/data; sha256sum /srv/data > /srv/sum").await;
    let dir = tempfile::tempdir().unwrap();
    engine.checkpoint(&sandbox.id, dir.path(), true).await.unwrap();
    assert_eq!(sandbox.text(ask).await, "3\n");
    for round in 0..2 {
        let copy = Sandbox::restore(engine, spec(), dir.path()).await;
        assert_eq!(copy.text(ask).await, "3\n", "copy {round}");
        check_hostname(&copy, &hostname(&copy.id)).await;
        copy.text("sha256sum -c /srv/sum; kill -0 $(cat /srv/pid); echo own > /srv/own").await;
        engine.destroy(&copy.id).await.unwrap();
    }
    assert_eq!(sandbox.text("ls /srv/own 2>/dev/null || echo none").await, "none\n");
    // Without `leave_running` the sandbox is gone; a second checkpoint works as well.
    let second = tempfile::tempdir().unwrap();
    engine.checkpoint(&sandbox.id, second.path(), false).await.unwrap();
    assert!(engine.list().await.unwrap().is_empty());
    engine.restore(SandboxSpec { id: sandbox.id.clone(), ..spec() }, second.path()).await.unwrap();
    assert_eq!(sandbox.text(ask).await, "4\n");
    let empty = tempfile::tempdir().unwrap();
    let refused = engine.restore(spec(), empty.path()).await;
    assert!(matches!(refused, Err(Error::InvalidSpec(_))), "{refused:?}");
}

/// A sandbox with much memory that was restored a moment ago, from files that are gone, can be
/// saved and ended: its memory may still be read in the background.
pub async fn restored_sandbox_can_be_saved_at_once(engine: &dyn Engine) {
    if !engine.capabilities().checkpoint {
        return;
    }
    let large = || SandboxSpec { mem_mib: 768, disk_mib: 400, ..spec() };
    let sandbox = Sandbox::with_spec(engine, large()).await;
    sandbox
        .text("head -c 200000000 /dev/urandom > /srv/data; sha256sum /srv/data > /srv/sum")
        .await;
    let checkpoint = |from: SandboxId, leave_running| async move {
        let dir = tempfile::tempdir().unwrap();
        engine.checkpoint(&from, dir.path(), leave_running).await.unwrap();
        dir
    };
    let first = checkpoint(sandbox.id.clone(), true).await;
    let ended = Sandbox::restore(engine, large(), first.path()).await;
    engine.destroy(&ended.id).await.unwrap();
    let copy = Sandbox::restore(engine, large(), first.path()).await;
    drop(first);
    let second = checkpoint(copy.id.clone(), false).await;
    let copy = Sandbox::restore(engine, large(), second.path()).await;
    drop(second);
    assert_eq!(copy.text("sha256sum -c /srv/sum").await, "/srv/data: OK\n");
}
