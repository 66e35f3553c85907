//! Measures the duration of a call without a language binding, in microseconds, as
//! the mean of 10,000 calls to each runtime. `cargo xtask bench node` and
//! `cargo xtask bench python` compare it with the same calls through the bindings.

use std::time::Instant;

use isola::{Error, Runtime, Template, args};

const CALLS: u32 = 10_000;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let javascript = "function add(a, b) { return a + b; }";
    println!("js {:.1}", micros_per_call(Runtime::JavaScript, javascript).await?);
    let python = "def add(a, b):\n    return a + b\n";
    println!("python {:.1}", micros_per_call(Runtime::Python, python).await?);
    Ok(())
}

async fn micros_per_call(runtime: Runtime, script: &str) -> Result<f64, Error> {
    let template = Template::builder(runtime).build().await?;
    let sandbox = template.sandbox().create().await?;
    sandbox.start().await?;
    sandbox.load_script(script).await?;
    for _ in 0..1_000 {
        sandbox.run("add", args![2, 3]).await?;
    }
    let start = Instant::now();
    for _ in 0..CALLS {
        sandbox.run("add", args![2, 3]).await?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS))
}
