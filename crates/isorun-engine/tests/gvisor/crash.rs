//! The process that owns the engine is killed at any moment: the next one finds
//! its sandboxes, or removes what is left of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use isorun_agent::client;
use isorun_engine::conformance::{Sandbox, shell, spec};
use isorun_engine::gvisor::{Config, Gvisor};
use isorun_engine::{Engine, Error};

const FOLDER: &str = "ISORUN_TEST_CRASH_FOLDER";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_left_when_the_owner_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    // From before the first sandbox is there to amid the making of a third, and
    // not the same in every run.
    let jitter = u64::from(std::process::id() % 97);
    for round in 0..8 {
        let mut owner = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "crash::owner"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.find(|line| line == "open").unwrap();
        std::thread::sleep(Duration::from_millis(round * 110 + jitter));
        owner.kill().unwrap();
        owner.wait().unwrap();
        let made: Vec<String> =
            lines.filter_map(|line| line.strip_prefix("made ").map(str::to_owned)).collect();

        let engine = open(folder.path(), 0).await;
        let found = engine.list().await.unwrap();
        for id in &made {
            assert!(found.iter().any(|found| found.as_str() == id), "{id} is lost");
        }
        for id in found {
            let sandbox = Sandbox { engine: &engine, id };
            assert_eq!(sandbox.text("cat /srv/file || echo new").await.lines().count(), 1);
            engine.destroy(&sandbox.id).await.unwrap();
        }
        engine.shutdown().await;
        drop(engine);
        nothing_is_left(folder.path()).await;
    }
}

/// Not a test, but the process that the test above kills.
#[tokio::test]
#[ignore = "started by nothing_is_lost_or_left_when_the_owner_is_killed"]
async fn owner() {
    let folder = std::env::var_os(FOLDER).unwrap();
    let engine = open(Path::new(&folder), 1).await;
    println!("open");
    loop {
        let spec = spec();
        let id = spec.id.clone();
        engine.create(spec).await.unwrap();
        println!("made {id}");
        let sandbox = Sandbox { engine: &engine, id };
        sandbox.text("echo kept > /srv/file").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_outlives_its_engine() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), 0).await;
    let sandbox = Sandbox::new(&engine).await;
    sandbox.text("echo kept > /srv/file").await;
    let (id, second) = (sandbox.id, Sandbox::new(&engine).await.id);
    // Two at once would take each other's sandboxes for leftovers.
    let refused = Gvisor::open(Config::new(folder.path())).await;
    assert!(matches!(refused.err(), Some(Error::Setup(_))));
    drop(engine);

    let engine = open(folder.path(), 0).await;
    assert_eq!(engine.list().await.unwrap(), [id.clone(), second.clone()]);
    let sandbox = Sandbox { engine: &engine, id };
    assert_eq!(sandbox.text("cat /srv/file").await, "kept\n");
    let running = sandbox.exec(shell("sleep 1000")).await.unwrap();
    engine.destroy(&sandbox.id).await.unwrap();
    assert!(matches!(running.output(1).await, Err(client::ClientError::Disconnected)));
    engine.destroy(&second).await.unwrap();
    engine.shutdown().await;
    drop(engine);
    nothing_is_left(folder.path()).await;
}

async fn open(folder: &Path, warm: usize) -> Gvisor {
    // A lock goes with the engine that held it, but not at once: processes that
    // were just started share it until they are programs of their own.
    for _ in 0..200 {
        match Gvisor::open(Config { warm, ..Config::new(folder) }).await {
            Err(Error::Setup(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return other.unwrap(),
        }
    }
    panic!("the state folder stays locked");
}

/// No process, control group, mount, network or file of any sandbox.
async fn nothing_is_left(folder: &Path) {
    let name = folder.to_str().unwrap();
    for part in ["containers", "runsc"] {
        let left: Vec<_> = fs::read_dir(folder.join(part)).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(name), "{mounts}");
    // What was just killed may need a moment to be gone.
    for attempt in 0.. {
        let left = processes_of(name);
        if left.is_empty() {
            break;
        }
        assert!(attempt < 250, "{left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let group = isorun_engine::gvisor::group_name(&folder.canonicalize().unwrap());
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        assert!(!hierarchy.path().join(&group).exists(), "{hierarchy:?}");
    }
    assert!(!Path::new("/sys/fs/cgroup").join(&group).exists());
}

/// Processes that have the folder in their command line, or as part of their
/// files.
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
