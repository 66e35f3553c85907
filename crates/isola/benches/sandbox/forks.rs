//! Copies of interpreters: durations and memory.

use std::{
    ffi::OsStr,
    process::Command,
    time::{Duration, Instant},
};

use isola::{Language, Limits, Runtime, Sandbox, Template, args};

use crate::{
    adding,
    scale::private_memory,
    table::{Column, Table},
    template,
};

const FORKS: usize = 1_000;
const SAMPLES: usize = 60;

pub(crate) fn measure(table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (column, guest) in
        [(Column::Python, Runtime::Python), (Column::JavaScript, Runtime::JavaScript)]
    {
        if table.wants("prelude") {
            runtime.block_on(preludes(table, column, guest));
        }
        if table.wants("snapshot") {
            runtime.block_on(large(table, column, guest));
            runtime.block_on(disk(table, column, guest));
        }
        if table.wants("1,000 forks") {
            runtime.block_on(many_forks(table, column, guest));
        }
    }
    if table.wants("os.fork") {
        table.duration("os.fork of a native python3 with 200 MB", Column::Python, os_fork(), None);
    }
    if table.wants("Pyodide")
        && let Some(packages) = std::env::var_os("ISOLA_BENCH_PYODIDE")
    {
        let took = pyodide(&packages);
        let name = "Pyodide in Node.js: a memory snapshot restored, first result";
        table.duration(name, Column::Python, took, None);
    }
}

async fn preludes(table: &mut Table, column: Column, guest: Runtime) {
    let prelude = match guest.language() {
        Language::Python => "import json, re, dataclasses, datetime, collections, asyncio\n",
        Language::JavaScript => "const table = Array.from({ length: 1000 }, (_, n) => n * n);\n",
    };
    let template = Template::builder(guest).prelude(prelude).build().await.unwrap();
    let (mut created, mut answered) = (Vec::new(), Vec::new());
    for _ in 0..10 * SAMPLES {
        let start = Instant::now();
        let sandbox = template.sandbox().create().await.unwrap();
        created.push(start.elapsed());
        sandbox.start().await.unwrap();
        sandbox.load_script(adding(guest)).await.unwrap();
        assert_eq!(sandbox.run("add", args![1, 2]).await.unwrap().as_str(), "3");
        answered.push(start.elapsed());
    }
    let goals = match guest.language() {
        Language::Python => [400, 1_200],
        Language::JavaScript => [150, 600],
    };
    let [create, answer] = goals.map(|micros| Some(Duration::from_micros(micros)));
    table.duration("create from a template with a prelude", column, median(created), create);
    let name = "create with a prelude, load, first result";
    table.duration(name, column, median(answered), answer);
}

/// Creates a sandbox that holds `megabytes` of data.
async fn holding(guest: Runtime, megabytes: usize) -> Sandbox {
    let limits = Limits { max_memory: 1 << 30, ..Limits::default() };
    let sandbox = template(guest).await.sandbox().limits(limits).create().await.unwrap();
    sandbox.start().await.unwrap();
    let source = match guest.language() {
        Language::Python => {
            format!(
                "kept = bytearray(range(250)) * ({megabytes} * 4000)\ndef size(): return len(kept)"
            )
        }
        Language::JavaScript => format!(
            "const some = new Uint8Array(1000000).map((_, n) => n);\n\
             const kept = new Uint8Array({megabytes} * 1000000);\n\
             for (let at = 0; at < kept.length; at += some.length) kept.set(some, at);\n\
             const size = () => kept.length;"
        ),
    };
    sandbox.load_script(source).await.unwrap();
    sandbox
}

async fn large(table: &mut Table, column: Column, guest: Runtime) {
    let parent = holding(guest, 200).await;
    let start = Instant::now();
    let snapshot = parent.snapshot().await.unwrap();
    table.duration("snapshot of an interpreter with 200 MB", column, start.elapsed(), None);
    drop(snapshot.create_sandbox().await.unwrap());
    let before = private_memory();
    let (mut children, mut times) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let start = Instant::now();
        children.push(snapshot.create_sandbox().await.unwrap());
        times.push(start.elapsed());
    }
    let private = private_memory().saturating_sub(before) / SAMPLES;
    let goal = Some(Duration::from_millis(1));
    table.duration("a sandbox from that snapshot", column, median(times), goal);
    let verdict = if private <= 2_000_000 { "≤ 2 MB" } else { "≤ 2 MB, MISSED" };
    let text = format!("{:.2} MB", private as f64 / 1e6);
    table.text("private memory of a sandbox from that snapshot", column, text, verdict);
    let size = children[SAMPLES - 1].run("size", args![]).await.unwrap();
    assert_eq!(size.as_str(), "200000000");
}

async fn disk(table: &mut Table, column: Column, guest: Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.snapshot");
    // Together with the interpreter's own memory this is about 50 MB.
    let megabytes = if guest.language() == Language::Python { 20 } else { 40 };
    let parent = holding(guest, megabytes).await;
    let snapshot = parent.snapshot().await.unwrap();
    let template = template(guest).await;
    let (mut saved, mut loaded) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let start = Instant::now();
        snapshot.save(&path).await.unwrap();
        saved.push(start.elapsed());
        let start = Instant::now();
        let snapshot = template.load_snapshot(&path).await.unwrap();
        let sandbox = snapshot.create_sandbox().await.unwrap();
        loaded.push(start.elapsed());
        drop(sandbox);
    }
    let goals = [60, 5].map(|millis| Some(Duration::from_millis(millis)));
    table.duration("snapshot of 50 MB to disk", column, median(saved), goals[0]);
    table.duration("snapshot of 50 MB from disk, to a sandbox", column, median(loaded), goals[1]);
}

async fn many_forks(table: &mut Table, column: Column, guest: Runtime) {
    let parent = holding(guest, 1).await;
    drop(parent.fork(1).await.unwrap());
    let before = private_memory();
    let start = Instant::now();
    let children = parent.fork(FORKS).await.unwrap();
    let took = start.elapsed();
    let each = private_memory().saturating_sub(before) / FORKS;
    table.duration("1,000 forks of one parent", column, took, Some(Duration::from_secs(1)));
    let verdict = if each <= 1_000_000 { "≤ 1 MB" } else { "≤ 1 MB, MISSED" };
    let text = format!("{:.2} MB", each as f64 / 1e6);
    table.text("1,000 forks: private memory of each", column, text, verdict);
    assert_eq!(children[FORKS - 1].run("size", args![]).await.unwrap().as_str(), "1000000");
}

/// Returns the time in which the machine's own interpreter forks itself.
fn os_fork() -> Duration {
    let source = "
import os, time
kept = bytearray(range(250)) * 800_000
times = []
for _ in range(15):
    start = time.perf_counter()
    child = os.fork()
    if child == 0: os._exit(0)
    times.append(time.perf_counter() - start)
    os.waitpid(child, 0)
print(sorted(times)[7])
";
    let output = Command::new("python3").args(["-c", source]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    Duration::from_secs_f64(text.trim().parse().unwrap())
}

/// Returns the time in which Pyodide restores its own kind of snapshot, with the same
/// imports as in the prelude. `packages` is a directory `node_modules`.
fn pyodide(packages: &OsStr) -> Duration {
    let source = "
const { loadPyodide } = await import(process.argv[1] + '/pyodide/pyodide.mjs');
const first = await loadPyodide({ _makeSnapshot: true });
first.runPython('import json, re, dataclasses, datetime, collections, asyncio');
const snapshot = first.makeMemorySnapshot();
const times = [];
for (let i = 0; i < 9; i++) {
    const start = performance.now();
    const pyodide = await loadPyodide({ _loadSnapshot: snapshot });
    pyodide.runPython('def add(a, b):\\n    return a + b\\n');
    if (pyodide.runPython('add(1, 2)') !== 3) throw new Error('wrong');
    times.push((performance.now() - start) / 1000);
}
console.log(times.sort((a, b) => a - b)[4]);
";
    let mut node = Command::new("node");
    node.args(["--input-type=module", "-e", source]).arg(packages);
    let output = node.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Duration::from_secs_f64(text.trim().parse().unwrap())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
