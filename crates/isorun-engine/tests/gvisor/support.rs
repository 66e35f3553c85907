//! What the tests share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use isorun_agent::client::{self, Output};
use isorun_agent::protocol::Exec;
use isorun_engine::gvisor::{Config, Gvisor};
use isorun_engine::{AgentStream, Engine, Root, SandboxId, SandboxSpec};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// An engine in a folder of its own; nothing is left of it afterwards.
pub struct Bench {
    pub engine: Gvisor,
    pub folder: TempDir,
}

impl Bench {
    pub async fn new(warm: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = open(folder.path(), warm).await;
        Self { engine, folder }
    }

    /// A sandbox over the machine's own programs.
    pub async fn sandbox(&self) -> SandboxId {
        let spec = spec();
        let id = spec.id.clone();
        self.engine.create(spec).await.unwrap();
        id
    }

    pub async fn connect(&self, id: &SandboxId) -> AgentStream {
        self.engine.connect(id).await.unwrap()
    }

    /// Runs a shell command to its end.
    pub async fn sh(&self, id: &SandboxId, command: &str) -> Output {
        let exec = client::exec(self.connect(id).await, shell(command)).await.unwrap();
        tokio::time::timeout(LIMIT, exec.output(16 << 20)).await.unwrap().unwrap()
    }

    /// What it prints, if it succeeds.
    pub async fn text(&self, id: &SandboxId, command: &str) -> String {
        let output = self.sh(id, command).await;
        assert_eq!(output.status.shell_code(), 0, "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Ends everything.
    pub async fn close(self) {
        for id in self.engine.list().await.unwrap() {
            self.engine.destroy(&id).await.unwrap();
        }
        self.engine.shutdown().await;
    }
}

pub async fn open(folder: &std::path::Path, warm: usize) -> Gvisor {
    let mut config = Config::new(folder);
    config.warm = warm;
    Gvisor::open(config).await.unwrap()
}

pub fn spec() -> SandboxSpec {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let id = format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed)).parse().unwrap();
    let mut spec = SandboxSpec::new(id, Root::Host);
    spec.mem_mib = 256;
    spec.disk_mib = 256;
    spec
}

pub fn shell(command: &str) -> Exec {
    Exec { argv: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(), ..Exec::default() }
}
