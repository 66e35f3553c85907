//! A tour of both sandboxes: values, streamed results, output, a hostcall, a
//! limit, and a denied operation.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use isola::{Args, Event, Handlers, HostError, Runtime, Sandbox, Template, Value, args};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), isola::Error> {
    for (runtime, script, forbidden) in [
        (Runtime::Python, include_str!("../../../examples/demo.py"), "read_the_hosts_files"),
        (Runtime::JavaScript, include_str!("../../../examples/demo.js"), "callTheInternet"),
    ] {
        println!("\n== {runtime}");
        let start = Instant::now();
        let template = Template::builder(runtime)
            .on_compile(move || println!("compiling the {runtime} runtime, once on this machine"))
            .build()
            .await?;
        println!("template ready after {:.1?}", start.elapsed());

        let start = Instant::now();
        let sandbox = create(&template, script).await?;
        let first = sandbox.run("describe", args![[1.5, 2.5], unit = "km"]).await?;
        println!("a sandbox, a script and a first result after {:.2?}", start.elapsed());
        println!("  describe([1.5, 2.5], unit=\"km\") -> {first}");

        show(&sandbox, "countdown", args![3]).await?;
        show(&sandbox, "greet", args![7]).await?;
        show(&sandbox, forbidden, args![]).await?;

        println!("  spin(), with 0.2 s of CPU time:");
        let start = Instant::now();
        match sandbox.run("spin", args![]).cpu_timeout(Duration::from_millis(200)).await {
            Ok(value) => println!("    -> {value}"),
            Err(error) => println!("    stopped after {:.0?}: {error}", start.elapsed()),
        }
    }
    Ok(())
}

/// Creates and starts a sandbox whose host has one function.
async fn create(template: &Template, script: &str) -> Result<Sandbox, isola::Error> {
    let host = Handlers::new().hostcall("lookup_user", |payload: Value| async move {
        #[derive(serde::Deserialize)]
        struct Query {
            id: u64,
        }
        let query: Query = payload.to().map_err(|error| HostError::new(error.to_string()))?;
        Ok(Value::from(json!({ "id": query.id, "name": format!("user-{}", query.id) })))
    });
    let sandbox = template.sandbox().host(host).create().await?;
    sandbox.start().await?;
    sandbox.load_script(script).await?;
    Ok(sandbox)
}

/// Calls a function and prints its events as they happen.
async fn show(sandbox: &Sandbox, function: &str, args: Args) -> Result<(), isola::Error> {
    println!("  {function}():");
    let mut events = sandbox.run_stream(function, args)?;
    while let Some(event) = events.next().await {
        match event {
            Event::Result(value) => println!("    partial result {value}"),
            Event::End(value) => println!("    -> {value}"),
            Event::Stdout(text) => println!("    stdout {text:?}"),
            Event::Log(record) => println!("    log {} {:?}", record.level, record.message),
            Event::Error(error) => {
                let text = error.to_string();
                println!("    refused: {}", text.lines().next().unwrap_or_default());
            }
            other => println!("    {other:?}"),
        }
    }
    Ok(())
}
