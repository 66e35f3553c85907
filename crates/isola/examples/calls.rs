//! What a call costs without a binding: 10,000 of them, in microseconds each.
//! `cargo xtask bench python` puts it beside the same calls from Python.

use std::time::Instant;

use isola::{Error, Runtime, Template, args};

const CALLS: u32 = 10_000;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let template = Template::builder(Runtime::Python).build().await?;
    let sandbox = template.sandbox().create().await?;
    sandbox.start().await?;
    sandbox.load_script("def add(a, b):\n    return a + b\n").await?;
    for _ in 0..1_000 {
        sandbox.run("add", args![2, 3]).await?;
    }
    let start = Instant::now();
    for _ in 0..CALLS {
        sandbox.run("add", args![2, 3]).await?;
    }
    println!("{:.1}", start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS));
    Ok(())
}
