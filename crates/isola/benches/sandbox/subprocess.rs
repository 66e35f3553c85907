//! The same steps with a subprocess of the machine's own interpreter.

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

/// The interpreter itself: what the search path has may be a script of a version
/// manager that starts it, and that is not what is compared here.
fn real_program(name: &str, flag: &str) -> String {
    let ask = if name == "node" {
        "console.log(process.execPath)"
    } else {
        "import sys; print(sys.executable)"
    };
    let output = Command::new(name).args([flag, ask]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn median(mut step: impl FnMut()) -> Duration {
    step();
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let begin = Instant::now();
            step();
            begin.elapsed()
        })
        .collect();
    times.sort();
    times[RUNS / 2]
}
