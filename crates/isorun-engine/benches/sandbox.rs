//! Benchmark of Linux sandboxes, as medians, in comparison with plain `runsc` in the same
//! run.
//!
//! It does not use criterion: creating a sandbox takes a tenth of a second, so there is time
//! for some dozens of samples only.
// A failure ends the benchmark.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use isorun_agent::client;
use isorun_agent::protocol::WriteFile;
use isorun_engine::conformance::{Sandbox, argv, clean_up, spec};
use isorun_engine::gvisor::{Gvisor, GvisorConfig, Tools};
use isorun_engine::{Engine, SandboxSpec};

/// Workloads with frequent system calls: a directory walk, small writes to a pipe, small
/// files.
const WORKLOADS: [(&str, &str); 3] = [
    ("find over /usr", "find /usr > /dev/null 2>&1 || true"),
    (
        "200 MB through a pipe, 4 kB a write",
        "dd if=/dev/zero bs=4k count=51200 2> /dev/null | cat > /dev/null",
    ),
    (
        "5,000 small files, written and read",
        "cd $(mktemp -d); i=0; while [ $i -lt 5000 ]; do echo $i > $i; read x < $i; i=$((i+1)); done",
    ),
];

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    if std::env::args().any(|word| word == "work") {
        return workloads(dir.path()).await;
    }
    let config = GvisorConfig { warm: 0, ..GvisorConfig::new(dir.path().join("cold")) };
    let cold = Gvisor::open(config).await.unwrap();
    let config = GvisorConfig { warm: 2, ..GvisorConfig::new(dir.path().join("warm")) };
    let warm = Gvisor::open(config).await.unwrap();
    let large_spec =
        || SandboxSpec { vcpus: 2, mem_mib: 512, disk_mib: 1024, pids: 1024, ..spec() };

    let sandbox = Sandbox::with_spec(&cold, large_spec()).await;
    let exec = median(60, async || run(&sandbox, &["/bin/true"]).await).await;
    row("exec of true", &millis(exec));
    let python = median(15, async || run(&sandbox, &["python3", "-c", "pass"]).await).await;
    row("exec of python3", &millis(python));
    let plain = median(15, async || runsc_exec(&dir.path().join("cold"))).await;
    row("the same exec of true by `runsc exec`", &millis(plain));
    row("exec, as a part of that", &ratio(exec, plain));
    cold.destroy(&sandbox.id).await.unwrap();

    let sandbox = Sandbox::with_spec(&cold, large_spec()).await;
    let start = Instant::now();
    join_all((0..100).map(|_| run(&sandbox, &["/bin/true"]))).await;
    row("100 concurrent execs, all", &millis(start.elapsed()));
    let size = 100 << 20;
    let bytes = vec![7u8; size];
    let up = median(5, async || {
        let request = WriteFile { path: "/srv/big".into(), ..WriteFile::default() };
        client::write_file(sandbox.connect().await, request, &bytes[..]).await.unwrap();
    })
    .await;
    row("upload of 100 MiB", &rate(size, up));
    let down = median(5, async || {
        let path = "/srv/big".into();
        let mut reader = client::read_file(sandbox.connect().await, path).await.unwrap();
        let mut count = 0;
        while let Some(part) = reader.next().await.unwrap() {
            count += part.len();
        }
        assert_eq!(count, size);
    })
    .await;
    row("download of 100 MiB", &rate(size, down));
    clean_up(&cold).await;

    let create = median(10, async || {
        let sandbox = Sandbox::with_spec(&cold, large_spec()).await;
        run(&sandbox, &["/bin/true"]).await;
        sandbox
    })
    .await;
    row("create and exec, cold", &millis(create));
    clean_up(&cold).await;
    let mut number = 0;
    let plain = median(5, async || {
        number += 1;
        plain_runsc(&dir.path().join(format!("plain{number}")))
    })
    .await;
    row("the same by plain `runsc`", &millis(plain));
    row("cold create, as a part of that", &ratio(create, plain));
    let mut samples = Vec::new();
    warm.warm(&large_spec());
    for _ in 0..10 {
        while warm.ready() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let start = Instant::now();
        let sandbox = Sandbox::with_spec(&warm, large_spec()).await;
        samples.push(start.elapsed());
        warm.destroy(&sandbox.id).await.unwrap();
    }
    samples.sort_unstable();
    row("create, from the pool", &millis(samples[samples.len() / 2]));
    clean_up(&warm).await;

    let start = Instant::now();
    let mut sandboxes = Vec::new();
    for _ in 0..25 {
        sandboxes.extend(join_all((0..2).map(|_| Sandbox::with_spec(&cold, spec()))).await);
    }
    row("50 alive: create all", &millis(start.elapsed()));
    let mut memory = 0;
    for sandbox in &sandboxes {
        run(sandbox, &["/bin/true"]).await;
        memory += cold.stats(&sandbox.id).await.unwrap().mem_bytes;
    }
    row("memory of one of them", &format!("{} MB", memory / 50 / 1_000_000));
    clean_up(&cold).await;
}

/// Measures the workloads natively, in a container of plain `runsc`, and in a sandbox.
async fn workloads(dir: &Path) {
    let config = GvisorConfig { warm: 0, ..GvisorConfig::new(dir.join("engine")) };
    let engine = Gvisor::open(config).await.unwrap();
    let spec = SandboxSpec { vcpus: 2, mem_mib: 512, disk_mib: 1024, pids: 1024, ..spec() };
    let sandbox = Sandbox::with_spec(&engine, spec).await;
    let plain = plain_runsc(&dir.join("plain"));
    for (name, script) in WORKLOADS {
        let native = median(5, async || {
            let status = Command::new("sh").args(["-c", script]).status().unwrap();
            assert!(status.success(), "{status}");
        })
        .await;
        let container = median(3, async || {
            plain.runsc(&["exec", "plain", "/bin/sh", "-c", script]);
        })
        .await;
        let ours = median(3, async || run(&sandbox, &["sh", "-c", script]).await).await;
        row(&format!("{name}: natively"), &millis(native));
        row("  plain `runsc`, in native times", &times(container, native));
        row("  a sandbox, in native times", &times(ours, native));
    }
    clean_up(&engine).await;
}

async fn run(sandbox: &Sandbox<'_>, words: &[&str]) {
    let output = sandbox.exec(argv(words)).await.unwrap().output(1000).await.unwrap();
    assert_eq!(output.status.shell_code(), 0, "{output:?}");
}

fn runsc_exec(state: &Path) {
    let name = std::fs::read_dir(state.join("containers")).unwrap().next().unwrap().unwrap();
    let tools = Tools::find(None, None).unwrap();
    let status = Command::new(tools.runsc)
        .arg("--root")
        .arg(state.join("runsc"))
        .arg("exec")
        .arg(name.file_name())
        .arg("/bin/true")
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// A container with the machine's own files, without a network, limits or an agent, created
/// and used with the command line.
struct Plain {
    state: PathBuf,
}

fn plain_runsc(dir: &Path) -> Plain {
    std::fs::create_dir(dir).unwrap();
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "root": { "path": "/", "readonly": true },
        "process": {
            "user": { "uid": 0, "gid": 0 }, "args": ["/bin/sleep", "1000"], "cwd": "/",
            "env": ["PATH=/usr/bin:/bin"],
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "dev", "source": "dev" },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
        ],
        "linux": { "namespaces": [
            { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
            { "type": "network" },
        ] },
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let plain = Plain { state: dir.join("state") };
    plain.runsc(&["run", "--detach", "--bundle", dir.to_str().unwrap(), "plain"]);
    plain.runsc(&["exec", "plain", "/bin/true"]);
    plain
}

impl Plain {
    fn runsc(&self, args: &[&str]) {
        let status = Command::new(Tools::find(None, None).unwrap().runsc)
            .args(["--network=none", "--platform=systrap", "--ignore-cgroups", "--root"])
            .arg(&self.state)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{args:?}: {status}");
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.runsc(&["delete", "--force", "plain"]);
    }
}

async fn median<T>(samples: usize, mut step: impl AsyncFnMut() -> T) -> Duration {
    step().await;
    let mut times = Vec::new();
    for _ in 0..samples {
        let start = Instant::now();
        let result = step().await;
        times.push(start.elapsed());
        // The clean-up is not measured.
        drop(result);
    }
    times.sort_unstable();
    times[times.len() / 2]
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn ratio(ours: Duration, theirs: Duration) -> String {
    format!("1/{:.1}", theirs.as_secs_f64() / ours.as_secs_f64())
}

fn times(ours: Duration, theirs: Duration) -> String {
    format!("{:.1} ×", ours.as_secs_f64() / theirs.as_secs_f64())
}

fn rate(bytes: usize, time: Duration) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / time.as_secs_f64())
}

fn row(name: &str, value: &str) {
    println!("{name:<42} {value}");
}
