//! Many sandboxes: throughput and memory.

use std::time::{Duration, Instant};

use isola::{Language, Runtime, Sandbox, args};
use tokio::task::JoinSet;

use crate::{
    adding, loaded,
    table::{Column, Table},
    template,
};

const SANDBOXES: usize = 1_000;

pub(crate) fn measure(table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (column, guest) in
        [(Column::Python, Runtime::Python), (Column::JavaScript, Runtime::JavaScript)]
    {
        if table.wants("per second") {
            let rate = runtime.block_on(rate(guest));
            table.text(
                "create, load, first result, per second, all cores",
                column,
                format!("{rate:.0}"),
                "",
            );
        }
        if table.wants("running") || table.wants("memory") {
            let (took, private) = runtime.block_on(many_running(guest));
            let text = format!("{:.2} s", took.as_secs_f64());
            table.text("1,000 running sandboxes: create all, call each", column, text, "");
            let text = format!("{:.2} MB", private as f64 / 1e6);
            let verdict = if private <= 4_000_000 { "≤ 4 MB" } else { "≤ 4 MB, MISSED" };
            table.text("private memory of an idle sandbox", column, text, verdict);
        }
    }
}

/// Returns the number of first results per second, with a task for each core.
async fn rate(guest: Runtime) -> f64 {
    let template = template(guest).await;
    let start = Instant::now();
    let end = start + Duration::from_secs(3);
    let mut tasks = JoinSet::new();
    for _ in 0..std::thread::available_parallelism().unwrap().get() {
        let template = template.clone();
        tasks.spawn(async move {
            let mut created = 0_u32;
            while Instant::now() < end {
                let sandbox = loaded(&template, adding(guest)).await;
                sandbox.run("add", args![1, 2]).await.unwrap();
                created += 1;
            }
            created
        });
    }
    let created: u32 = tasks.join_all().await.into_iter().sum();
    f64::from(created) / start.elapsed().as_secs_f64()
}

/// Runs a thousand sandboxes at once, each with a state of its own. Returns the time to
/// create and call all of them, and the private memory of each.
async fn many_running(guest: Runtime) -> (Duration, usize) {
    let template = template(guest).await;
    let script = match guest.language() {
        Language::Python => {
            "def put(n):\n    global state\n    state = n\ndef get():\n    return state\n"
        }
        Language::JavaScript => {
            "let state; function put(n) { state = n } function get() { return state }"
        }
    };
    // The pages that the first sandbox loads are shared by all.
    drop(loaded(&template, script).await);
    let before = private_memory();
    let start = Instant::now();
    let mut sandboxes: Vec<Sandbox> = Vec::with_capacity(SANDBOXES);
    for number in 0..SANDBOXES {
        let sandbox = loaded(&template, script).await;
        sandbox.run("put", args![number]).await.unwrap();
        sandboxes.push(sandbox);
    }
    for (number, sandbox) in sandboxes.iter().enumerate() {
        let state: usize = sandbox.run("get", args![]).await.unwrap().to().unwrap();
        assert_eq!(state, number);
    }
    let took = start.elapsed();
    (took, private_memory().saturating_sub(before) / SANDBOXES)
}

/// Returns the private memory of this process in bytes.
pub(crate) fn private_memory() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kib: usize =
        lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()).sum();
    kib * 1024
}
