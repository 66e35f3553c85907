//! Shared fixtures: a template of each runtime, and a sandbox with a script.

use isola::{Args, Error, Event, EventStream, Host, Limits, Runtime, Sandbox, Template, Value};
use tokio::sync::OnceCell;

pub(crate) const BOTH: [Runtime; 2] = [Runtime::Python, Runtime::JavaScript];

/// Returns the template of a runtime with default settings.
pub(crate) async fn template(runtime: Runtime) -> &'static Template {
    static PYTHON: OnceCell<Template> = OnceCell::const_new();
    static JAVASCRIPT: OnceCell<Template> = OnceCell::const_new();
    let cell = match runtime {
        Runtime::Python => &PYTHON,
        Runtime::JavaScript => &JAVASCRIPT,
    };
    cell.get_or_init(|| async { Template::builder(runtime).build().await.unwrap() }).await
}

/// A script in both languages. The Python source must not be indented.
#[derive(Clone, Copy)]
pub(crate) struct Script {
    pub(crate) python: &'static str,
    pub(crate) javascript: &'static str,
}

impl Script {
    pub(crate) fn of(self, runtime: Runtime) -> &'static str {
        match runtime {
            Runtime::Python => self.python,
            Runtime::JavaScript => self.javascript,
        }
    }
}

/// Starts a sandbox with default limits and no host.
pub(crate) async fn started(runtime: Runtime) -> Sandbox {
    started_with(runtime, Limits::default(), isola::DenyAll).await
}

pub(crate) async fn started_with(runtime: Runtime, limits: Limits, host: impl Host) -> Sandbox {
    let template = template(runtime).await;
    let sandbox = template.sandbox().limits(limits).host(host).create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox
}

/// Starts a sandbox with default limits and loads a script.
pub(crate) async fn loaded(runtime: Runtime, script: Script) -> Sandbox {
    let sandbox = started(runtime).await;
    sandbox.load_script(script.of(runtime)).await.unwrap();
    sandbox
}

/// Runs `main` of a script in a sandbox of its own.
pub(crate) async fn run_main(runtime: Runtime, script: Script, args: Args) -> Result<Value, Error> {
    loaded(runtime, script).await.run("main", args).await
}

/// Collects all events of a call.
pub(crate) async fn events(mut stream: EventStream) -> Vec<Event> {
    use futures_util::StreamExt as _;
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    events
}

/// Returns the partial results, as JSON texts, and the final result.
pub(crate) fn results(events: &[Event]) -> (Vec<String>, Option<String>) {
    let partial = events.iter().filter_map(|event| match event {
        Event::Result(value) => Some(value.to_string()),
        _ => None,
    });
    let end = events.iter().find_map(|event| match event {
        Event::End(value) => Some(value.to_string()),
        _ => None,
    });
    (partial.collect(), end)
}
