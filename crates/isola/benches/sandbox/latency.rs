//! The durations of single steps.

use std::time::{Duration, Instant};

use criterion::{AsyncBencher, Criterion, measurement::WallTime};
use isola::{Handlers, Language, Runtime, Template, Value, args};
use tokio::{runtime, sync::OnceCell};

use crate::{
    adding, loaded,
    table::{Column, Table},
    template,
};

type Bencher<'a, 'b> = AsyncBencher<'a, 'b, &'static runtime::Runtime, WallTime>;

/// A step: its name, its goals, and the function that measures it.
struct Step {
    name: &'static str,
    goals: [Option<Duration>; 2],
    run: fn(&mut Bencher<'_, '_>, Runtime),
}

const fn micros(python: u64, javascript: u64) -> [Option<Duration>; 2] {
    [Some(Duration::from_micros(python)), Some(Duration::from_micros(javascript))]
}

const STEPS: [Step; 10] = [
    Step { name: "template from a warm cache", goals: micros(10_000, 10_000), run: warm_template },
    Step { name: "create", goals: micros(1_000, 200), run: create },
    Step { name: "create, load, first result", goals: micros(1_000, 1_000), run: first_result },
    Step { name: "later call, small arguments", goals: micros(25, 40), run: later_call },
    Step { name: "run_code of 1+1", goals: micros(85, 100), run: run_code },
    Step { name: "1 MiB string in and back", goals: micros(15_000, 15_000), run: mebibyte },
    Step { name: "hostcall there and back", goals: micros(60, 80), run: hostcall },
    Step { name: "1,000 hostcalls at once", goals: micros(40_000, 60_000), run: many_hostcalls },
    Step { name: "ten hostcalls of 100 ms at once", goals: micros(200_000, 200_000), run: gather },
    Step { name: "close", goals: [None, None], run: close },
];

pub(crate) fn measure(table: &mut Table) {
    let output = tempfile::tempdir().unwrap();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runtime: &'static runtime::Runtime = Box::leak(Box::new(runtime));
    let steps: Vec<&Step> = STEPS.iter().filter(|step| table.wants(step.name)).collect();
    let mut criterion = Criterion::default()
        .output_directory(output.path())
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    for (column, guest) in
        [(Column::Python, Runtime::Python), (Column::JavaScript, Runtime::JavaScript)]
    {
        let mut group = criterion.benchmark_group(guest.name());
        for step in &steps {
            group.bench_function(step.name, |bencher| {
                (step.run)(&mut bencher.to_async(runtime), guest);
            });
        }
        group.finish();
        for step in &steps {
            let dir = output.path().join(guest.name()).join(step.name);
            table.duration(step.name, column, median(&dir), step.goals[column as usize]);
        }
    }
}

/// Reads the median from criterion's output.
fn median(dir: &std::path::Path) -> Duration {
    let text = std::fs::read_to_string(dir.join("new/estimates.json")).unwrap();
    let estimates: serde_json::Value = serde_json::from_str(&text).unwrap();
    Duration::from_secs_f64(estimates["median"]["point_estimate"].as_f64().unwrap() / 1e9)
}

/// Measures `step` alone: `before` prepares its input, and its output is dropped
/// outside of the measurement.
fn timed<T, U>(
    bencher: &mut Bencher<'_, '_>,
    guest: Runtime,
    before: impl AsyncFn(&Template) -> T + Copy,
    step: impl AsyncFn(&Template, T) -> U + Copy,
) {
    // One for all samples, of which some have few iterations: later sandboxes of a template
    // are created faster than the first.
    let template = &OnceCell::new();
    bencher.iter_custom(|iterations| async move {
        let template = template.get_or_init(|| crate::template(guest)).await;
        let mut total = Duration::ZERO;
        for _ in 0..iterations {
            let input = before(template).await;
            let start = Instant::now();
            let output = step(template, input).await;
            total += start.elapsed();
            drop(output);
        }
        total
    });
}

fn warm_template(bencher: &mut Bencher<'_, '_>, guest: Runtime) {
    timed(bencher, guest, async |_| (), async |_, ()| template(guest).await);
}

fn create(bencher: &mut Bencher<'_, '_>, guest: Runtime) {
    timed(
        bencher,
        guest,
        async |_| (),
        async |template, ()| template.sandbox().create().await.unwrap(),
    );
}

fn first_result(bencher: &mut Bencher<'_, '_>, guest: Runtime) {
    timed(
        bencher,
        guest,
        async |_| (),
        async |template, ()| {
            let sandbox = loaded(template, adding(guest)).await;
            let sum = sandbox.run("add", args![1, 2]).await.unwrap();
            assert_eq!(sum.as_str(), "3");
            sandbox
        },
    );
}

fn close(bencher: &mut Bencher<'_, '_>, guest: Runtime) {
    timed(
        bencher,
        guest,
        async |template| loaded(template, adding(guest)).await,
        async |_, sandbox| sandbox.close(),
    );
}

/// Measures calls of one function in one sandbox.
fn calls(
    bencher: &mut Bencher<'_, '_>,
    guest: Runtime,
    sources: [&'static str; 2],
    argument: &serde_json::Value,
) {
    bencher.iter_custom(|iterations| async move {
        let host = Handlers::new()
            .hostcall("echo", |payload: Value| async move { Ok(payload) })
            .hostcall("slow", |payload: Value| async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(payload)
            });
        let sandbox = template(guest).await.sandbox().host(host).create().await.unwrap();
        sandbox.start().await.unwrap();
        let [python, javascript] = sources;
        let source = match guest.language() {
            Language::Python => python,
            Language::JavaScript => javascript,
        };
        sandbox.load_script(source).await.unwrap();
        sandbox.run("main", args![argument]).await.unwrap();
        let start = Instant::now();
        for _ in 0..iterations {
            sandbox.run("main", args![argument]).await.unwrap();
        }
        start.elapsed()
    });
}

fn later_call(bencher: &mut Bencher<'_, '_>, guest: Runtime) {
    let sources = ["def main(a):\n    return a + 1\n", "function main(a) { return a + 1 }"];
    calls(bencher, guest, sources, &serde_json::json!(1));
}

fn run_code(bencher: &mut Bencher<'_, '_>, guest: Runtime) {
    bencher.iter_custom(|iterations| async move {
        let sandbox = loaded(&template(guest).await, "").await;
        sandbox.run_code("1+1").await.unwrap();
        let start = Instant::now();
        for _ in 0..iterations {
            let execution = sandbox.run_code("1+1").await.unwrap();
            assert_eq!(execution.text().as_deref(), Some("2"));
        }
        start.elapsed()
    });
}

fn mebibyte(bencher: &mut Bencher<'_, '_>, guest: Runtime) {
    let sources = ["def main(a):\n    return a\n", "function main(a) { return a }"];
    calls(bencher, guest, sources, &serde_json::json!("x".repeat(1 << 20)));
}

fn hostcall(bencher: &mut Bencher<'_, '_>, guest: Runtime) {
    let sources = [
        "from sandbox.asyncio import hostcall\nasync def main(a):\n    return await hostcall('echo', a)\n",
        "async function main(a) { return await hostcall('echo', a) }",
    ];
    calls(bencher, guest, sources, &serde_json::json!(1));
}

fn many_hostcalls(bencher: &mut Bencher<'_, '_>, guest: Runtime) {
    let sources = [
        "import asyncio\nfrom sandbox.asyncio import hostcall\n\
         async def main(a):\n    await asyncio.gather(*(hostcall('echo', i) for i in range(1000)))\n",
        "async function main(a) {\n    await Promise.all(Array.from({length: 1000}, (_, i) => hostcall('echo', i)));\n}",
    ];
    calls(bencher, guest, sources, &serde_json::json!(1));
}

fn gather(bencher: &mut Bencher<'_, '_>, guest: Runtime) {
    let sources = [
        "import asyncio\nfrom sandbox.asyncio import hostcall\n\
         async def main(a):\n    await asyncio.gather(*(hostcall('slow', a) for _ in range(10)))\n",
        "async function main(a) {\n    await Promise.all(Array.from({length: 10}, () => hostcall('slow', a)));\n}",
    ];
    calls(bencher, guest, sources, &serde_json::json!(1));
}
