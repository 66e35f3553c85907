//! Recovery after the process that owns the engine is killed at any moment: the next
//! process finds its sandboxes, or removes their remains.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use isorun_agent::client;
use isorun_engine::conformance::{Sandbox, shell, spec};
use isorun_engine::gvisor::{Gvisor, GvisorConfig};
use isorun_engine::{Engine, Error};

/// The environment variable with the state directory of [`owner`].
const STATE_DIR_VARIABLE: &str = "ISORUN_TEST_CRASH_STATE_DIR";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_left_when_the_owner_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    // From before the first sandbox exists until a third one is being created, with a
    // different offset in each run.
    let jitter = u64::from(std::process::id() % 97);
    for round in 0..8 {
        let mut owner = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "crash::owner"])
            .env(STATE_DIR_VARIABLE, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.find(|line| line == "open").unwrap();
        std::thread::sleep(Duration::from_millis(round * 110 + jitter));
        owner.kill().unwrap();
        owner.wait().unwrap();
        let created: Vec<String> =
            lines.filter_map(|line| line.strip_prefix("created ").map(str::to_owned)).collect();

        let engine = open(dir.path(), 0).await;
        let found = engine.list().await.unwrap();
        for id in &created {
            assert!(found.iter().any(|found| found.as_str() == id), "{id} is lost");
        }
        for id in found {
            let sandbox = Sandbox { engine: &engine, id };
            assert_eq!(sandbox.text("cat /srv/file || echo new").await.lines().count(), 1);
            engine.destroy(&sandbox.id).await.unwrap();
        }
        engine.shutdown().await;
        drop(engine);
        assert_nothing_left(dir.path()).await;
    }
}

/// The process that the test above kills; not a test itself.
#[tokio::test]
#[ignore = "started by nothing_is_lost_or_left_when_the_owner_is_killed"]
async fn owner() {
    let dir = std::env::var_os(STATE_DIR_VARIABLE).unwrap();
    let engine = open(Path::new(&dir), 1).await;
    println!("open");
    loop {
        let spec = spec();
        let id = spec.id.clone();
        engine.create(spec).await.unwrap();
        println!("created {id}");
        let sandbox = Sandbox { engine: &engine, id };
        sandbox.text("echo kept > /srv/file").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_outlives_its_engine() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), 0).await;
    let sandbox = Sandbox::new(&engine).await;
    sandbox.text("echo kept > /srv/file").await;
    let (id, second) = (sandbox.id, Sandbox::new(&engine).await.id);
    // Two engines at once would remove each other's sandboxes as remains.
    let refused = Gvisor::open(GvisorConfig::new(dir.path())).await;
    assert!(matches!(refused.err(), Some(Error::Setup(_))));
    drop(engine);

    let engine = open(dir.path(), 0).await;
    assert_eq!(engine.list().await.unwrap(), [id.clone(), second.clone()]);
    let sandbox = Sandbox { engine: &engine, id };
    assert_eq!(sandbox.text("cat /srv/file").await, "kept\n");
    let running = sandbox.exec(shell("sleep 1000")).await.unwrap();
    engine.destroy(&sandbox.id).await.unwrap();
    assert!(matches!(running.output(1).await, Err(client::ClientError::Disconnected)));
    engine.destroy(&second).await.unwrap();
    engine.shutdown().await;
    drop(engine);
    assert_nothing_left(dir.path()).await;
}

async fn open(dir: &Path, warm: usize) -> Gvisor {
    // The lock is released with the engine, but not at once: processes that were just
    // forked share it until they call `exec`.
    for _ in 0..200 {
        match Gvisor::open(GvisorConfig { warm, ..GvisorConfig::new(dir) }).await {
            Err(Error::Setup(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return other.unwrap(),
        }
    }
    panic!("the state directory is still locked");
}

/// Checks that no process, cgroup, mount, network namespace or file of a sandbox is left.
async fn assert_nothing_left(dir: &Path) {
    let name = dir.to_str().unwrap();
    for part in ["containers", "runsc"] {
        let left: Vec<_> = fs::read_dir(dir.join(part)).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(name), "{mounts}");
    // Killed processes may need a moment to exit.
    for attempt in 0.. {
        let left = processes_of(name);
        if left.is_empty() {
            break;
        }
        assert!(attempt < 250, "{left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let group = isorun_engine::gvisor::group_name(&dir.canonicalize().unwrap());
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        assert!(!hierarchy.path().join(&group).exists(), "{hierarchy:?}");
    }
    assert!(!Path::new("/sys/fs/cgroup").join(&group).exists());
}

/// Returns the command lines that contain the state directory.
fn processes_of(name: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(name))
        .collect()
}
