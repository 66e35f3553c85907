//! Forks, hibernation and snapshots, over HTTP.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use test_macros::server_test;
use test_support::{Tmpfs, wait::wait_until};

use crate::support::{Server, answer, refused, with_input};

/// Returns the names of the events in the audit log of a sandbox.
async fn events(server: &Server, id: &str) -> Vec<Value> {
    server.audit_log(id).await.iter().map(|entry| entry["event"].clone()).collect()
}

/// A counter that responds over a listening socket, so that memory, a process and a socket must
/// be preserved.
const COUNTER: &str = r#"cat > /tmp/counter.py <<'EOF'
import socketserver
class H(socketserver.BaseRequestHandler):
    n = 0
    def handle(self):
        H.n += 1
        self.request.sendall(b"%d\n" % H.n)
socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("127.0.0.1", 8000), H).serve_forever()
EOF
nohup setsid python3 /tmp/counter.py >/dev/null 2>&1 &
echo $! > /tmp/pid
"#;
const READ_COUNTER: &str = "python3 -c 'import socket, time
for _ in range(600):
    try: print(socket.create_connection((\"127.0.0.1\", 8000), 5).recv(9).decode().strip()); break
    except ConnectionRefusedError: time.sleep(0.05)'";

#[server_test]
async fn fork_copies_memory_files_and_processes(server: &Server) {
    let parent = server.create_with(json!({ "mem_mib": 300, "env": { "WHO": "me" } })).await;
    server.text(&parent, COUNTER).await;
    assert_eq!(server.text(&parent, READ_COUNTER).await, "1\n");
    let children = server.fork(&parent, 3).await;
    let ids: BTreeSet<_> = children.iter().chain([&parent]).collect();
    assert_eq!(ids.len(), 4);
    let mut drawn = BTreeSet::new();
    let mut hostnames = BTreeSet::from([server.text(&parent, "hostname").await]);
    for child in &children {
        let run = server.get(&format!("/v1/runs/{child}")).await.1;
        assert_eq!((&run["mem_mib"], &run["status"]), (&json!(300), &json!("running")));
        assert_eq!(server.text(child, READ_COUNTER).await, "2\n");
        let seen = server.text(child, "echo $WHO; kill -0 $(cat /tmp/pid) && cat /tmp/pid").await;
        let pid = server.text(&parent, "cat /tmp/pid").await;
        assert_eq!(seen, format!("me\n{pid}"));
        assert!(hostnames.insert(server.text(child, "hostname").await), "{hostnames:?}");
        server.text(child, &format!("echo {child} > /tmp/own")).await;
        drawn.insert(server.text(child, "head -c 16 /dev/urandom | od -An -tx1").await);
        // The clock has the current time, not that of the checkpoint.
        let now: i64 = server.text(child, "date +%s").await.trim().parse().unwrap();
        let here = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            .cast_signed();
        assert!((now - here).abs() <= 2, "{now} {here}");
    }
    assert_eq!(drawn.len(), 3, "{drawn:?}");
    assert_eq!(server.text(&parent, "ls /tmp/own 2>/dev/null || echo none").await, "none\n");
    assert_eq!(server.text(&parent, READ_COUNTER).await, "2\n");
    // A fork of a fork. Destroying the parent does not affect its forks.
    let grandchild = server.fork(&children[0], 1).await.remove(0);
    server.destroy(&parent).await;
    assert_eq!(server.text(&grandchild, "cat /tmp/own").await, format!("{}\n", children[0]));
    assert_eq!(server.text(&grandchild, READ_COUNTER).await, "3\n");
    assert!(events(server, &parent).await.contains(&json!("sandbox.forked")));
    assert_eq!(events(server, &grandchild).await[0], "sandbox.created");
    for id in children.iter().chain([&grandchild]) {
        server.destroy(id).await;
    }
    assert_nothing_left(server);
}

#[server_test]
async fn checkpoint_is_refused_without_disk_space() {
    // Removes what is left of the data directory when nothing is mounted in it any more.
    let parent = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir_in(&parent).unwrap();
    let _small = Tmpfs::mount(data.path().join("state"), 64);
    let server = Server::start_in(data, tempfile::tempdir().unwrap(), &[]);
    let id = server.create().await;
    for operation in ["fork", "snapshot", "hibernate"] {
        let answer = server.post(&format!("/v1/runs/{id}/{operation}"), json!({})).await;
        refused(&answer, 507, "server_full", "does not have enough free space");
        assert_eq!(server.text(&id, "echo alive").await, "alive\n", "after {operation}");
    }
    server.destroy(&id).await;
    assert_nothing_left(&server);
}

#[server_test(args = ["--max-runs", "3"])]
async fn invalid_forks_are_refused(server: &Server) {
    let id = server.create().await;
    let path = format!("/v1/runs/{id}/fork");
    for count in [0, -1, 101] {
        let bad = server.post(&path, json!({ "count": count })).await;
        refused(&bad, 400, "invalid_request", "count is");
    }
    let many = server.post(&path, json!({ "count": 3 })).await;
    refused(&many, 429, "too_many_runs", "cannot create 3 more runs");
    let unknown = server.post("/v1/runs/run0123456789abcdef/fork", json!({})).await;
    refused(&unknown, 404, "run_not_found", "");
    // A failed fork does not count.
    assert_eq!(server.fork(&id, 2).await.len(), 2);
    assert_no_checkpoints(server);
}

#[server_test]
async fn copies_have_the_current_settings_of_the_original(server: &Server) {
    let id = server.create().await;
    let change = json!({ "timeout": 1234, "network_profile": "locked-down" });
    let request = server.request(Method::PATCH, &format!("/v1/runs/{id}")).json(&change);
    assert_eq!(answer(request).await.0, 200);
    let snapshot = server.snapshot(&id).await;
    let mut copies = server.fork(&id, 2).await;
    copies.push(server.restore(&snapshot).await);
    for copy in copies {
        let run = server.get(&format!("/v1/runs/{copy}")).await.1;
        assert_eq!(run["timeout"], 1234.0, "{run}");
        let network = server.get(&format!("/v1/runs/{copy}/network")).await.1;
        assert_eq!(network["profile"], "locked-down", "{network}");
    }
}

#[server_test]
async fn fork_does_not_disturb_a_running_command(server: &Server) {
    let id = server.create().await;
    let exec = format!("/v1/runs/{id}/exec");
    // It prints until it is told to end.
    let command = "i=0; until [ -e /tmp/end ]; do i=$((i+1)); echo $i; touch /tmp/$i; sleep 0.01; \
                   done";
    let running = server.post(&exec, json!({ "command": command, "timeout": 100 }));
    let forking = async {
        server.text(&id, "until [ -e /tmp/20 ]; do sleep 0.01; done").await;
        let fork = server.fork(&id, 1).await.remove(0);
        // The command runs in the fork, too. The pattern does not match itself.
        server.text(&fork, "pgrep -f '[u]ntil . -e /tmp/end'").await;
        server.text(&id, "touch /tmp/end").await;
    };
    let ((status, outcome), ()) = tokio::join!(running, forking);
    assert_eq!(status, 200, "{outcome}");
    let stdout = outcome["stdout"].as_str().unwrap();
    let count = stdout.lines().count();
    assert!(count >= 20, "{count}");
    assert_eq!(stdout, (1..=count).map(|number| format!("{number}\n")).collect::<String>());
}

#[server_test]
async fn hibernation_can_be_repeated(server: &Server) {
    let id = server.create().await;
    server.text(&id, COUNTER).await;
    server
        .text(&id, "head -c 3000000 /dev/urandom > /srv/data; sha256sum /srv/data > /srv/sum")
        .await;
    for round in 1..=3 {
        assert_eq!(server.text(&id, READ_COUNTER).await, format!("{round}\n"));
        let run = server.change(&id, "hibernate").await;
        assert_eq!((&run["id"], &run["status"]), (&json!(id), &json!("hibernated")));
        // Its container is gone.
        assert_eq!(container_count(server), 0);
        let exec = format!("/v1/runs/{id}/exec");
        let hibernated = server.post(&exec, json!({ "command": "true" })).await;
        refused(&hibernated, 409, "run_hibernated", "resume it first");
        let again = server.change(&id, "hibernate").await;
        assert_eq!(again["status"], "hibernated");
        assert_eq!(server.change(&id, "resume").await["status"], "running");
        server.text(&id, "sha256sum -c /srv/sum; kill -0 $(cat /tmp/pid)").await;
    }
    assert_eq!(server.change(&id, "resume").await["status"], "running");
    let events = events(server, &id).await;
    for event in ["sandbox.hibernated", "sandbox.resumed"] {
        assert_eq!(events.iter().filter(|found| *found == event).count(), 3, "{events:?}");
    }
    // Destroying it while it is hibernated still returns its usage.
    server.change(&id, "hibernate").await;
    let stats = server.destroy(&id).await;
    assert!(stats["cpu_ms"].as_u64().unwrap() > 0, "{stats}");
    assert_nothing_left(server);
}

#[server_test]
async fn waiting_client_is_told_of_the_hibernation(server: &Server) {
    let id = server.create().await;
    let exec = format!("/v1/runs/{id}/exec");
    let body = json!({ "command": "touch /tmp/on; sleep 1000", "timeout": 0 });
    let (waiting, ()) = tokio::join!(server.post(&exec, body), async {
        server.text(&id, "while [ ! -e /tmp/on ]; do sleep 0.01; done").await;
        server.change(&id, "hibernate").await;
    });
    refused(&waiting, 409, "run_hibernated", "resume it first");
    server.change(&id, "resume").await;
    // The command continues to run.
    server.text(&id, "pgrep -f 'sleep 1000'").await;
}

#[server_test]
async fn auto_resume_wakes_a_hibernated_run(server: &Server) {
    let id = server
        .create_with(json!({ "auto_resume": true, "on_idle": "hibernate", "timeout": 1 }))
        .await;
    server.text(&id, "echo kept > /tmp/file").await;
    let path = format!("/v1/runs/{id}");
    wait_until("the idle run is hibernated", async || {
        server.get(&path).await.1["status"] == "hibernated"
    })
    .await;
    // Of several requests at the same time, one resumes it.
    let ask = || server.text(&id, "cat /tmp/file");
    let answers = tokio::join!(ask(), ask(), ask());
    assert_eq!(answers, ("kept\n".into(), "kept\n".into(), "kept\n".into()));
}

#[server_test(seconds = 360)]
async fn hibernated_runs_and_snapshots_survive_the_server(server: Server) {
    let id = server.create().await;
    server.text(&id, COUNTER).await;
    assert_eq!(server.text(&id, READ_COUNTER).await, "1\n");
    let snapshot = server.snapshot(&id).await;
    assert_eq!(server.text(&id, READ_COUNTER).await, "2\n");
    server.change(&id, "hibernate").await;
    let running = server.create().await;
    let (data, home) = server.stop(Signal::KILL).await;
    let server = Server::start_in(data, home, &[]);
    assert_eq!(server.get(&format!("/v1/runs/{id}")).await.1["status"], "hibernated");
    assert_eq!(server.text(&running, "echo on").await, "on\n");
    server.change(&id, "resume").await;
    assert_eq!(server.text(&id, READ_COUNTER).await, "3\n");
    server.destroy(&id).await;
    let copy = server.restore(&snapshot).await;
    assert_eq!(server.text(&copy, READ_COUNTER).await, "2\n");
    // The same after a graceful stop.
    let (data, home) = server.stop(Signal::TERM).await;
    let server = Server::start_in(data, home, &[]);
    let copy = server.restore(&snapshot).await;
    assert_eq!(server.text(&copy, READ_COUNTER).await, "2\n");
}

/// A sandbox survives if the server is killed while it hibernates.
#[server_test(seconds = 600)]
async fn hibernation_survives_a_server_crash(mut server: Server) {
    let id = server.create().await;
    server.text(&id, COUNTER).await;
    let mut hibernated = 0;
    for (round, ms) in [5, 20, 40, 60, 80, 110, 150].into_iter().enumerate() {
        assert_eq!(
            server.text(&id, READ_COUNTER).await,
            format!("{}\n", round + 1),
            "after {ms} ms"
        );
        let going = server.request(Method::POST, &format!("/v1/runs/{id}/hibernate"));
        let going = tokio::spawn(going.json(&json!({})).send());
        // The moment of the kill is what varies.
        tokio::time::sleep(Duration::from_millis(ms)).await;
        server.signal(Signal::KILL);
        let _ = going.await;
        let (data, home) = server.stop(Signal::KILL).await;
        server = Server::start_in(data, home, &[]);
        let status = server.get(&format!("/v1/runs/{id}")).await.1["status"].clone();
        hibernated += u32::from(status == "hibernated");
        server.change(&id, "resume").await;
    }
    assert!(hibernated > 0, "the server was always killed before the hibernation");
    server.destroy(&id).await;
    assert_nothing_left(&server);
}

#[server_test]
async fn snapshot_can_be_restored_repeatedly(server: &Server) {
    let id = server.create_with(json!({ "env": { "WHO": "me" } })).await;
    server.text(&id, COUNTER).await;
    assert_eq!(server.text(&id, READ_COUNTER).await, "1\n");
    let taken = server.change(&id, "snapshot").await;
    let snapshot = taken["snapshot_id"].as_str().unwrap();
    assert_eq!(taken["run_id"], json!(id));
    let bytes = taken["size_bytes"].as_u64().unwrap();
    assert!((1 << 20..500 << 20).contains(&bytes), "{bytes}");
    assert_eq!(server.text(&id, READ_COUNTER).await, "2\n");
    server.destroy(&id).await;
    for _ in 0..2 {
        let copy = server.restore(snapshot).await;
        assert_eq!(server.text(&copy, READ_COUNTER).await, "2\n");
        assert_eq!(server.text(&copy, "echo $WHO").await, "me\n");
        server.destroy(&copy).await;
    }
    // A snapshot of a hibernated sandbox takes no additional disk space.
    let sleeper = server.restore(snapshot).await;
    server.change(&sleeper, "hibernate").await;
    let second = server.snapshot(&sleeper).await;
    let second = second.as_str();
    let state = server.data.path().join("state");
    let inode = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path.join("pages.img")).unwrap().ino()
    };
    assert_eq!(
        inode(&state.join("hibernated").join(&sleeper)),
        inode(&state.join("snapshots").join(second))
    );
    server.destroy(&sleeper).await;
    let copy = server.restore(second).await;
    assert_eq!(server.text(&copy, READ_COUNTER).await, "2\n");
    server.destroy(&copy).await;

    // Only its tenant can access it.
    let list = server.get("/v1/snapshots").await.1;
    let ids: Vec<_> = list["snapshots"].as_array().unwrap().iter().map(|s| &s["id"]).collect();
    assert_eq!(ids, [&json!(snapshot), &json!(second)]);
    let foreign = server.new_key(&[]).await;
    let request = server.http.get(format!("{}/v1/snapshots", server.url));
    let (_, seen) = answer(request.bearer_auth(&foreign)).await;
    assert_eq!(seen, json!({ "snapshots": [] }));
    let request = server.http.delete(format!("{}/v1/snapshots/{snapshot}", server.url));
    refused(&answer(request.bearer_auth(&foreign)).await, 404, "snapshot_not_found", "");
    for id in [snapshot, second] {
        let path = format!("/v1/snapshots/{id}");
        let (status, body) = answer(server.request(Method::DELETE, &path)).await;
        assert_eq!((status.as_u16(), &body["status"]), (200, &json!("deleted")));
        let again = answer(server.request(Method::DELETE, &path)).await;
        refused(&again, 404, "snapshot_not_found", "does not exist");
    }
    assert_nothing_left(server);
}

#[server_test]
async fn damaged_and_incompatible_snapshots_are_refused(server: &Server) {
    let id = server.create().await;
    let snapshot = server.snapshot(&id).await;
    let directory = server.data.path().join("state/snapshots").join(&snapshot);
    let manifest = fs::read_to_string(directory.join("manifest.json")).unwrap();
    let ask = json!({ "snapshot_id": snapshot });
    // Change one bit of its memory.
    let pages = directory.join("pages.img");
    let good = fs::read(&pages).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 4;
    fs::write(&pages, &bad).unwrap();
    let refusal = server.post("/v1/runs/restore", ask.clone()).await;
    refused(&refusal, 422, "snapshot_damaged", "pages.img was changed");
    assert!(!refusal.1.to_string().contains(server.data.path().to_str().unwrap()));
    // Truncate it.
    fs::write(&pages, &good[..middle]).unwrap();
    let refusal = server.post("/v1/runs/restore", ask.clone()).await;
    refused(&refusal, 422, "snapshot_damaged", "pages.img has");
    fs::write(&pages, &good).unwrap();
    // Change the engine in its manifest.
    let envelope: Value = serde_json::from_str(&manifest).unwrap();
    let text = envelope["manifest"].to_string();
    fs::write(directory.join("manifest.json"), manifest.replace("systrap", "kvm")).unwrap();
    let refusal = server.post("/v1/runs/restore", ask.clone()).await;
    refused(&refusal, 422, "snapshot_damaged", "manifest was changed");
    assert!(text.contains("systrap"));
    fs::write(directory.join("manifest.json"), &manifest).unwrap();
    let copy = server.restore(&snapshot).await;
    assert_eq!(server.text(&copy, "echo well").await, "well\n");
    for bad in ["", "snap", "../../etc", "snap0123456789abcdef"] {
        let refusal = server.post("/v1/runs/restore", json!({ "snapshot_id": bad })).await;
        refused(&refusal, 404, "snapshot_not_found", "");
    }
    // A damaged hibernated sandbox is kept.
    server.change(&id, "hibernate").await;
    let pages = server.data.path().join("state/hibernated").join(&id).join("pages.img");
    let good = fs::read(&pages).unwrap();
    fs::write(&pages, &good[..good.len() - 1]).unwrap();
    let refusal = server.post(&format!("/v1/runs/{id}/resume"), json!({})).await;
    refused(&refusal, 422, "snapshot_damaged", "pages.img has");
    fs::write(&pages, &good).unwrap();
    server.change(&id, "resume").await;
    assert_eq!(server.text(&id, "echo well").await, "well\n");
    server.assert_served().await;
}

#[server_test]
async fn client_commands_fork_hibernate_and_restore(server: &Server) {
    let ok = async |args: &[&str]| {
        let output = server.run(args).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let id = ok(&["create", "host"]).await;
    let mut shell = server.command();
    shell.args(["shell", &id]);
    let script = b"cd /tmp; X=5\necho $X > file\necho $PWD $X\nexit 7\necho not reached\n";
    let output = with_input(shell, script).await;
    assert_eq!((output.status.code(), &*output.stdout), (Some(7), &b"/tmp 5\n"[..]));
    let children = ok(&["fork", &id, "--count", "2"]).await;
    let children: Vec<&str> = children.lines().collect();
    assert_eq!(children.len(), 2);
    assert_eq!(ok(&["exec", children[1], "--", "cat", "/tmp/file"]).await, "5");
    ok(&["hibernate", &id, children[0]]).await;
    assert!(ok(&["ps"]).await.lines().filter(|line| line.contains("hibernated")).count() == 2);
    assert_eq!(server.run(&["exec", &id, "--", "true"]).await.status.code(), Some(125));
    ok(&["resume", &id]).await;
    let snapshot = ok(&["snapshot", "take", &id]).await;
    assert!(ok(&["snapshot", "ls"]).await.contains(&snapshot));
    let restored = ok(&["restore", &snapshot]).await;
    assert_eq!(ok(&["exec", &restored, "--", "cat", "/tmp/file"]).await, "5");
    ok(&["snapshot", "rm", &snapshot]).await;
    assert_ne!(server.run(&["restore", &snapshot]).await.status.code(), Some(0));
    ok(&["rm", "--all"]).await;
    assert_nothing_left(server);
}

/// Forks a sandbox with 200 MiB of data in memory, of which every byte is verified, and with a
/// second process.
#[server_test]
async fn ten_forks_of_a_large_process_are_complete() {
    const HOLDER: &str = r#"cat > /tmp/holder.py <<'EOF'
import hashlib, random, socketserver
data = [random.Random(n).randbytes(1 << 20) for n in range(200)]
class H(socketserver.BaseRequestHandler):
    def handle(self):
        total = hashlib.sha256(b"".join(data)).hexdigest()
        data[0] = self.request.recv(100)
        self.request.sendall((total + " " + str(len(data))).encode())
socketserver.TCPServer(("127.0.0.1", 8001), H).serve_forever()
EOF
nohup setsid python3 /tmp/holder.py >/dev/null 2>&1 &
echo $! > /tmp/holder.pid"#;
    const HASH: &str = "python3 -c 'import socket, time
for _ in range(600):
    try:
        s = socket.create_connection((\"127.0.0.1\", 8001), 60); break
    except ConnectionRefusedError: time.sleep(0.1)
s.sendall(b\"own\"); print(s.recv(100).decode())'";
    let server = Server::start();
    let parent = server.create_with(json!({ "mem_mib": 700 })).await;
    server.text(&parent, COUNTER).await;
    assert_eq!(server.text(&parent, READ_COUNTER).await, "1\n");
    server.text(&parent, HOLDER).await;
    let hash = "python3 -c 'import random, hashlib
print(hashlib.sha256(b\"\".join(random.Random(n).randbytes(1 << 20) for n in range(200))).hexdigest())'";
    let expected = server.text(&parent, hash).await;
    // It listens when it has loaded the data.
    let listens = "until grep -q :1F41 /proc/net/tcp; do sleep 0.05; done";
    server.text(&parent, listens).await;
    let children = server.fork(&parent, 10).await;
    assert_eq!(children.len(), 10);
    for child in &children {
        server.text(child, "kill -0 $(cat /tmp/holder.pid)").await;
        assert_eq!(server.text(child, HASH).await, format!("{} 200\n", expected.trim()));
        assert_eq!(server.text(child, READ_COUNTER).await, "2\n");
        server.destroy(child).await;
    }
    // Changes in the forks do not affect the parent.
    assert_eq!(server.text(&parent, HASH).await, format!("{} 200\n", expected.trim()));
    server.destroy(&parent).await;
    assert_nothing_left(&server);
}

/// Counts the containers of sandboxes, without those created in advance.
fn container_count(server: &Server) -> usize {
    let directory = server.data.path().join("engine/containers");
    let all = fs::read_dir(directory).unwrap().flatten();
    all.filter(|entry| entry.path().join("record.json").exists()).count()
}

#[track_caller]
fn assert_nothing_left(server: &Server) {
    assert_eq!(container_count(server), 0);
    assert_no_checkpoints(server);
}

#[track_caller]
fn assert_no_checkpoints(server: &Server) {
    for name in ["drafts", "hibernated", "snapshots"] {
        let directory = server.data.path().join("state").join(name);
        let left: Vec<_> = fs::read_dir(directory).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
