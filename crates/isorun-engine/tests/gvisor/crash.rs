//! Recovery after the process that owns the engine is killed at any moment: the next
//! process finds its sandboxes, or removes their remains.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use isorun_agent::client;
use isorun_engine::conformance::{CleanUpOnDrop, Sandbox, shell, spec};
use isorun_engine::gvisor::{Gvisor, GvisorConfig, group_name};
use isorun_engine::{Engine, Error};
use tempfile::TempDir;
use test_macros::timed_test;
use test_support::remains;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

/// The environment variable with the state directory of [`owner`].
const STATE_DIR_VARIABLE: &str = "ISORUN_TEST_CRASH_STATE_DIR";

#[timed_test(seconds = 300)]
async fn sandboxes_are_recovered_after_the_owner_is_killed() {
    let dir = StateDir::create();
    // From before the first sandbox exists until a third one is being created, with a
    // different offset in each run.
    let jitter = u64::from(std::process::id() % 97);
    for round in 0..8 {
        let mut owner = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "crash::owner"])
            .env(STATE_DIR_VARIABLE, dir.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
        while lines.next_line().await.unwrap().expect("the owner has exited") != "open" {}
        // The moment of the kill is what varies.
        tokio::time::sleep(Duration::from_millis(round * 110 + jitter)).await;
        owner.kill().await.unwrap();
        let mut created = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            created.extend(line.strip_prefix("created ").map(str::to_owned));
        }

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
        dir.assert_no_remains().await;
    }
}

/// The process that the test above kills; not a test itself.
#[tokio::test]
#[ignore = "started by sandboxes_are_recovered_after_the_owner_is_killed"]
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
        // Renamed, since the command may be killed with this process before it has written.
        sandbox.text("echo kept > /srv/new && mv /srv/new /srv/file").await;
    }
}

#[timed_test]
async fn sandboxes_survive_a_dropped_engine() {
    let dir = StateDir::create();
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
    dir.assert_no_remains().await;
}

/// The state directory of engines. What a failed test has left in it is destroyed when this
/// is dropped.
struct StateDir(TempDir);

impl StateDir {
    fn create() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Asserts that no process, control group, mount or file of a sandbox is left.
    async fn assert_no_remains(&self) {
        let group = group_name(&self.path().canonicalize().unwrap());
        remains::assert_none(self.path(), self.path(), &group).await;
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let cleaning = async {
            match try_open(self.path(), 0).await {
                Ok(engine) => drop(CleanUpOnDrop(engine)),
                Err(error) => eprintln!("clean-up: {error}"),
            }
        };
        block_in_place(|| Handle::current().block_on(cleaning));
    }
}

async fn open(dir: &Path, warm: usize) -> Gvisor {
    try_open(dir, warm).await.unwrap()
}

/// Opens an engine as soon as its state directory is not locked any more. The lock is
/// released with the engine, but not at once: processes that were just forked share it
/// until they call `exec`.
async fn try_open(dir: &Path, warm: usize) -> Result<Gvisor, Error> {
    let mut attempts_left = 200;
    loop {
        attempts_left -= 1;
        match Gvisor::open(GvisorConfig { warm, ..GvisorConfig::new(dir) }).await {
            Err(Error::Setup(_)) if attempts_left > 0 => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            outcome => return outcome,
        }
    }
}
