//! The same steps with a subprocess of the machine's own interpreter.
//!
//! The machine's `python3` is another version than the guest's, and `node` has a JIT
//! compiler, unlike the guests.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use isola::{Runtime, args};

use crate::{
    adding, loaded,
    table::{Column, Table},
    template,
};

const RUNS: usize = 15;

pub(crate) fn measure(table: &mut Table) {
    first_result(table);
    computation(table);
}

fn first_result(table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (column, guest, program, flag, call) in [
        (Column::Python, Runtime::Python, "python3", "-c", "print(add(1, 2))"),
        (Column::JavaScript, Runtime::JavaScript, "node", "-e", ";console.log(add(1, 2))"),
    ] {
        if !table.wants("subprocess") {
            continue;
        }
        let program = real_program(program, flag);
        let source = format!("{}{call}", adding(guest));
        let process = median(|| {
            let output = Command::new(&program).args([flag, &source]).output().unwrap();
            assert_eq!(output.stdout.trim_ascii(), b"3");
        });
        let template = runtime.block_on(template(guest));
        let sandbox = median(|| {
            runtime.block_on(async {
                let sandbox = loaded(&template, adding(guest)).await;
                assert_eq!(sandbox.run("add", args![1, 2]).await.unwrap().as_str(), "3");
            });
        });
        table.duration("first result of a python3 or node subprocess", column, process, None);
        let ratio = process.as_secs_f64() / sandbox.as_secs_f64();
        table.text(
            "a sandbox, closed again, is faster than that by",
            column,
            format!("{ratio:.0} ×"),
            "",
        );
    }
}

/// Measures a loop of five million additions, in a sandbox and in a native
/// interpreter, both without their start-up.
fn computation(table: &mut Table) {
    const PYTHON: &str = "
import time
def loop():
    start = time.perf_counter()
    total = 0
    for i in range(5_000_000):
        total += i
    return time.perf_counter() - start
";
    const JAVASCRIPT: &str = "
function loop() {
    const start = performance.now();
    let total = 0;
    for (let i = 0; i < 5_000_000; i++) total += i;
    return (performance.now() - start) / 1000 + total * 0;
}
";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (column, guest, program, flag, source, call) in [
        (Column::Python, Runtime::Python, "python3", "-c", PYTHON, "print(loop())"),
        (Column::JavaScript, Runtime::JavaScript, "node", "-e", JAVASCRIPT, "console.log(loop())"),
    ] {
        if !table.wants("5 million additions") {
            continue;
        }
        let program = real_program(program, flag);
        let native = median_of(3, || {
            let output = Command::new(&program).args([flag, &format!("{source}{call}")]).output();
            let text = String::from_utf8(output.unwrap().stdout).unwrap();
            Duration::from_secs_f64(text.trim().parse().unwrap())
        });
        let template = runtime.block_on(template(guest));
        let sandbox = runtime.block_on(loaded(&template, source));
        let isolated = median_of(3, || {
            let seconds = runtime.block_on(async { sandbox.run("loop", args![]).await });
            Duration::from_secs_f64(seconds.unwrap().to().unwrap())
        });
        table.duration("5 million additions in a loop", column, isolated, None);
        let ratio = isolated.as_secs_f64() / native.as_secs_f64();
        table.ratio("5 million additions, as a multiple of native", column, ratio, None);
    }
}

/// Returns the path of the interpreter itself: the one in the search path may be a
/// script of a version manager, whose duration is not to be included.
pub(crate) fn real_program(name: &str, flag: &str) -> String {
    let script = if name == "node" {
        "console.log(process.execPath)"
    } else {
        "import sys; print(sys.executable)"
    };
    let output = Command::new(name).args([flag, script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn median(mut step: impl FnMut()) -> Duration {
    step();
    median_of(RUNS, || {
        let start = Instant::now();
        step();
        start.elapsed()
    })
}

pub(crate) fn median_of(runs: usize, mut measure: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..runs).map(|_| measure()).collect();
    times.sort();
    times[runs / 2]
}
