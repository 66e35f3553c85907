//! The figures that SPECIFICATION.md promises, in one table.
//!
//! Durations are medians measured by criterion. Memory and throughput, which it
//! cannot measure, are measured once. The table also has the same steps with a
//! subprocess of the machine's own `python3` and `node`, measured in the same run,
//! so that ratios can be compared across machines.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark stops at the first error"
)]

mod engines;
mod files;
mod forks;
mod imports;
mod latency;
mod requests;
mod scale;
mod subprocess;
mod table;

use isola::{Language, Runtime, Sandbox, Template};
use table::Table;

fn main() {
    // `cargo bench` adds `--bench`; the other argument is a part of a row's name.
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let mut table = Table::new(filter);
    latency::measure(&mut table);
    requests::measure(&mut table);
    imports::measure(&mut table);
    files::measure(&mut table);
    scale::measure(&mut table);
    forks::measure(&mut table);
    subprocess::measure(&mut table);
    engines::measure(&mut table);
    print!("\n{table}");
}

/// Returns the source of a function that adds.
fn adding(runtime: Runtime) -> &'static str {
    match runtime.language() {
        Language::Python => "def add(a, b):\n    return a + b\n",
        Language::JavaScript => "function add(a, b) { return a + b }",
    }
}

async fn template(runtime: Runtime) -> Template {
    Template::builder(runtime).build().await.unwrap()
}

/// Creates a sandbox with a script loaded.
async fn loaded(template: &Template, script: &str) -> Sandbox {
    let sandbox = template.sandbox().create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(script).await.unwrap();
    sandbox
}
