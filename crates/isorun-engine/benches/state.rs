//! Benchmark of shells, forks, hibernation and restores, as medians, and by the memory size
//! of a sandbox.
//!
//! It does not use criterion, as `sandbox.rs`. With `--chart FILE` the curve is also written
//! as an SVG image.
// A failure ends the benchmark.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use isorun_agent::client::{self, CellEvent, CellHandle};
use isorun_agent::code::{Code, NewContext};
use isorun_engine::conformance::shells::{OpenShell, connect};
use isorun_engine::conformance::{Sandbox, argv, clean_up, spec};
use isorun_engine::gvisor::{Gvisor, GvisorConfig};
use isorun_engine::{AgentStream, Engine, SandboxSpec};

/// Sizes of the memory of the program in the sandbox, in MB.
const SIZES_MB: [u64; 6] = [10, 50, 200, 500, 1000, 2000];
/// Number of forks.
const CHILDREN: usize = 10;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let chart = arguments.iter().position(|word| word == "--chart").map(|at| &arguments[at + 1]);
    let max_mb: u64 = std::env::var("ISORUN_BENCH_MB").map_or(2000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let config = GvisorConfig {
        warm: 0,
        warm_created: CHILDREN,
        ..GvisorConfig::new(dir.path().join("engine"))
    };
    let gvisor = Gvisor::open(config).await.unwrap();
    let engine: Arc<dyn Engine> = Arc::new(gvisor.clone());
    shells(&engine).await;

    let small = spec();
    forks(&gvisor, &small).await;
    hibernation(&gvisor, &small).await;
    disk_of_forks(&gvisor, dir.path()).await;
    let mut points = Vec::new();
    for size in SIZES_MB.into_iter().filter(|size| *size <= max_mb) {
        points.push(curve(&gvisor, size).await);
    }
    if let Some(path) = chart {
        std::fs::write(path, chart_svg(&points)).unwrap();
    }
    clean_up(&gvisor).await;
}

/// Returns the time of a cell in a context whose interpreter runs, over one connection.
async fn cells(engine: &Arc<dyn Engine>, sandbox: &Sandbox<'_>) -> Duration {
    let order = || Code {
        code: "1 + 1".to_owned(),
        new: NewContext { max_contexts: 1, ..NewContext::default() },
        token: "bench".to_owned(),
        ..Code::default()
    };
    let first = client::code(sandbox.connect().await, connect(engine, sandbox), order());
    let mut cell = first.await.unwrap();
    finish(&mut cell).await;
    let mut samples = Vec::new();
    for _ in 0..300 {
        let start = Instant::now();
        cell = cell.next_cell(connect(engine, sandbox), order()).await.unwrap();
        finish(&mut cell).await;
        samples.push(start.elapsed());
    }
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// Waits for the end of a cell, which shows one result.
async fn finish(cell: &mut CellHandle<AgentStream>) {
    let mut results = 0;
    loop {
        match cell.events.next().await.unwrap() {
            CellEvent::Part { is_last: true, .. } => results += 1,
            CellEvent::End(_) => return assert_eq!(results, 1),
            event => panic!("{event:?}"),
        }
    }
}

async fn shells(engine: &Arc<dyn Engine>) {
    let sandbox = Sandbox::new(&**engine).await;
    let mut shell = OpenShell::new(engine, &sandbox).await;
    let run = median(300, async || drop(shell.text("true").await)).await;
    row("shell: run of true", &millis(run));
    let cell = cells(engine, &sandbox).await;
    row("run_code of 1 + 1", &millis(cell));
    row(
        "run_code, as a part of a shell run",
        &format!("{:.1}", cell.as_secs_f64() / run.as_secs_f64()),
    );
    let exec = median(60, async || run_true(&sandbox).await).await;
    row("exec of true", &millis(exec));
    row("shell, as a part of that", &format!("1/{:.0}", exec.as_secs_f64() / run.as_secs_f64()));
    engine.destroy(&sandbox.id).await.unwrap();
}

/// Creates a sandbox with an idle Python that holds `mb` MB of random data.
async fn python<'a>(engine: &'a Gvisor, spec: SandboxSpec, mb: u64) -> Sandbox<'a> {
    let sandbox = Sandbox::with_spec(engine, spec).await;
    let program = format!(
        "import os, time; b = [os.urandom(1000000) for _ in range({mb})]; \
         open(\"/tmp/ready\", \"w\"); time.sleep(100000)"
    );
    sandbox.text(&format!("nohup setsid python3 -c '{program}' >/dev/null 2>&1 &")).await;
    sandbox.until("test -e /tmp/ready").await;
    sandbox
}

async fn forks(engine: &Gvisor, spec_of: &SandboxSpec) {
    let parent = python(engine, spec_of.clone(), 1).await;
    let mut snapshots = Vec::new();
    for _ in 0..7 {
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        engine.checkpoint(&parent.id, dir.path(), true).await.unwrap();
        snapshots.push(start.elapsed());
    }
    row("fork: snapshot of an idle Python", &millis(median_of(&mut snapshots)));
    let dir = tempfile::tempdir().unwrap();
    engine.checkpoint(&parent.id, dir.path(), true).await.unwrap();
    let (mut one_by_one, mut at_once) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        wait_for_created(engine, CHILDREN).await;
        let specs: Vec<_> = (0..CHILDREN).map(|_| copy_of(spec_of)).collect();
        let start = Instant::now();
        for spec in &specs {
            engine.restore(spec.clone(), dir.path()).await.unwrap();
        }
        one_by_one.push(start.elapsed() / CHILDREN as u32);
        destroy(engine, &specs).await;
        wait_for_created(engine, CHILDREN).await;
        let specs: Vec<_> = (0..CHILDREN).map(|_| copy_of(spec_of)).collect();
        let start = Instant::now();
        for made in join_all(specs.iter().map(|s| engine.restore(s.clone(), dir.path()))).await {
            made.unwrap();
        }
        at_once.push(start.elapsed() / CHILDREN as u32);
        destroy(engine, &specs).await;
    }
    row("fork: a child, one after the other", &millis(median_of(&mut one_by_one)));
    row("fork: a child, ten at once", &millis(median_of(&mut at_once)));
    engine.destroy(&parent.id).await.unwrap();
}

async fn hibernation(engine: &Gvisor, spec: &SandboxSpec) {
    let sandbox = python(engine, spec.clone(), 1).await;
    let (mut down, mut up) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        wait_for_created(engine, 1).await;
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        engine.checkpoint(&sandbox.id, dir.path(), false).await.unwrap();
        down.push(start.elapsed());
        let start = Instant::now();
        engine.restore(spec.clone(), dir.path()).await.unwrap();
        up.push(start.elapsed());
    }
    row("hibernate, small", &millis(median_of(&mut down)));
    row("resume, small", &millis(median_of(&mut up)));
    engine.destroy(&sandbox.id).await.unwrap();
}

/// Measures the disk usage of ten forks of a sandbox with 500 MB of memory, in comparison
/// with one.
async fn disk_of_forks(engine: &Gvisor, dir: &Path) {
    let spec = SandboxSpec { mem_mib: 900, ..spec() };
    let parent = python(engine, spec.clone(), 500).await;
    let before = disk(dir);
    let image = tempfile::tempdir_in(dir).unwrap();
    engine.checkpoint(&parent.id, image.path(), true).await.unwrap();
    let mut specs = Vec::new();
    let mut sizes = Vec::new();
    for _ in 0..CHILDREN {
        let copy = copy_of(&spec);
        engine.restore(copy.clone(), image.path()).await.unwrap();
        specs.push(copy);
        sizes.push(disk(dir).saturating_sub(before));
    }
    let (one, ten) = (sizes[0], sizes[CHILDREN - 1]);
    row("ten forks of 500 MB of memory, disk", &format!("{} MB", ten / 1_000_000));
    row("ten forks, disk beside one", &format!("{:.2} x", ten as f64 / one as f64));
    destroy(engine, &specs).await;
    engine.destroy(&parent.id).await.unwrap();
}

struct Point {
    mb: u64,
    save: Duration,
    load: Duration,
}

async fn curve(engine: &Gvisor, mb: u64) -> Point {
    let spec = SandboxSpec { mem_mib: mb + mb / 4 + 256, ..spec() };
    let sandbox = python(engine, spec.clone(), mb).await;
    engine.warm_created(&spec);
    let (mut save, mut load, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..3 {
        wait_for_created(engine, 1).await;
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        engine.checkpoint(&sandbox.id, dir.path(), true).await.unwrap();
        save.push(start.elapsed());
        bytes = disk(dir.path());
        let copy = copy_of(&spec);
        let start = Instant::now();
        engine.restore(copy.clone(), dir.path()).await.unwrap();
        load.push(start.elapsed());
        engine.destroy(&copy.id).await.unwrap();
    }
    engine.destroy(&sandbox.id).await.unwrap();
    let point = Point { mb, save: median_of(&mut save), load: median_of(&mut load) };
    row(
        &format!("{mb} MB of memory: save, load, on disk"),
        &format!("{}, {}, {} MB", millis(point.save), millis(point.load), bytes / 1_000_000),
    );
    point
}

fn copy_of(spec_of: &SandboxSpec) -> SandboxSpec {
    SandboxSpec { id: spec().id, ..spec_of.clone() }
}

async fn destroy(engine: &Gvisor, specs: &[SandboxSpec]) {
    for spec in specs {
        engine.destroy(&spec.id).await.unwrap();
    }
}

async fn wait_for_created(engine: &Gvisor, count: usize) {
    while engine.ready_created() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn run_true(sandbox: &Sandbox<'_>) {
    let output = sandbox.exec(argv(&["/bin/true"])).await.unwrap().output(1000).await.unwrap();
    assert_eq!(output.status.shell_code(), 0, "{output:?}");
}

fn disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => disk(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

async fn median(samples: usize, mut step: impl AsyncFnMut()) -> Duration {
    step().await;
    let mut times = Vec::new();
    for _ in 0..samples {
        let start = Instant::now();
        step().await;
        times.push(start.elapsed());
    }
    median_of(&mut times)
}

fn median_of(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn row(name: &str, value: &str) {
    println!("{name:<42} {value}");
}

/// Returns the curve as SVG, both axes logarithmic.
fn chart_svg(points: &[Point]) -> String {
    const W: f64 = 640.0;
    const H: f64 = 400.0;
    let x = |mb: f64| 70.0 + (mb / 10.0).log10() / 2.5 * (W - 100.0);
    let y = |ms: f64| H - 50.0 - (ms / 10.0).max(1.0).log10() / 3.3 * (H - 90.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {W} {H}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{W}\" height=\"{H}\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"20\">time to save and to load a sandbox, by the memory in it</text>\n",
        70
    );
    for ms in [10.0, 100.0, 1000.0, 10_000.0] {
        let at = y(ms);
        let _ = writeln!(
            svg,
            "<line x1=\"70\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"62\" y=\"{:.1}\" text-anchor=\"end\">{ms} ms</text>",
            W - 30.0,
            at + 4.0
        );
    }
    type Line = (&'static str, &'static str, fn(&Point) -> Duration);
    let lines: [Line; 2] =
        [("save", "#1f6feb", |point| point.save), ("load", "#d29922", |point| point.load)];
    for (name, colour, time) in lines {
        let coordinates: Vec<String> = points
            .iter()
            .map(|point| {
                format!("{:.1},{:.1}", x(point.mb as f64), y(time(point).as_secs_f64() * 1000.0))
            })
            .collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            coordinates.join(" ")
        );
        if let Some((left, top)) = coordinates.last().and_then(|point| point.split_once(',')) {
            let _ = writeln!(
                svg,
                "<text x=\"{left}\" y=\"{top}\" dy=\"-6\" fill=\"{colour}\" \
                 text-anchor=\"end\">{name}</text>"
            );
        }
    }
    for point in points {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"median_of\">{} MB</text>",
            x(point.mb as f64),
            H - 30.0,
            point.mb
        );
    }
    svg + "</svg>\n"
}
