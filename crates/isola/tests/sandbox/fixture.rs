//! The fixtures that tests share: a template of each runtime, a sandbox with a script,
//! hosts, files, and the events of a call.

use std::{future::IntoFuture, path::Path, time::Duration};

use futures_util::StreamExt as _;
use isola::{
    Args, Error, Event, EventStream, Handlers, Host, Language, Level, Limits, Mount, Permission,
    Runtime, Sandbox, Template, Value, http::Body,
};
use tokio::sync::OnceCell;

/// The maximum time until an event that a test waits for.
const EVENT_TIMEOUT: Duration = Duration::from_secs(10);

/// All runtimes, for tests that cannot use `each_runtime`: they measure the process, or
/// use the results of all runtimes together.
pub(crate) const RUNTIMES: [Runtime; 2] = [Runtime::Python, Runtime::JavaScript];

/// Returns the template of a runtime with default settings. It is built once, for all
/// tests.
pub(crate) async fn template(runtime: Runtime) -> &'static Template {
    static PYTHON: OnceCell<Template> = OnceCell::const_new();
    static PYTHON_DATA: OnceCell<Template> = OnceCell::const_new();
    static JAVASCRIPT: OnceCell<Template> = OnceCell::const_new();
    let cell = match runtime {
        Runtime::Python => &PYTHON,
        Runtime::PythonData => &PYTHON_DATA,
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
        match runtime.language() {
            Language::Python => self.python,
            Language::JavaScript => self.javascript,
        }
    }
}

/// Starts a sandbox with default limits and no host.
pub(crate) async fn started(runtime: Runtime) -> Sandbox {
    started_with(runtime, Limits::default(), isola::DenyAll).await
}

/// Starts a sandbox with these limits and this host.
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

/// Starts a Python sandbox with a writable mount of a directory at `/data`, and loads a
/// script.
pub(crate) async fn loaded_with_data(dir: &Path, script: &str) -> Sandbox {
    let builder = template(Runtime::Python).await.sandbox().mount(writable_mount(dir, "/data"));
    let sandbox = builder.create().await.unwrap();
    sandbox.start().await.unwrap();
    sandbox.load_script(script).await.unwrap();
    sandbox
}

/// Runs `main` of a script in a separate sandbox.
pub(crate) async fn run_main(runtime: Runtime, script: Script, args: Args) -> Result<Value, Error> {
    loaded(runtime, script).await.run("main", args).await
}

/// Creates a host that returns the body of each request, with the content encoding that
/// the request names in `x-encoding`.
pub(crate) fn echo_host() -> Handlers {
    Handlers::new().http(|request| async move {
        let encoding = request.headers().get("x-encoding").cloned();
        let body = request.into_body().collect(1 << 20).await?;
        let mut response = ::http::Response::new(Body::from(body));
        if let Some(encoding) = encoding {
            response.headers_mut().insert("content-encoding", encoding);
        }
        Ok(response)
    })
}

/// Creates a mount of a directory that the guest can change.
pub(crate) fn writable_mount(host: impl AsRef<Path>, guest: &str) -> Mount {
    Mount::new(host.as_ref(), guest)
        .dir_perms(Permission::ReadWrite)
        .file_perms(Permission::ReadWrite)
}

/// Creates a named pipe.
#[cfg(unix)]
pub(crate) fn create_fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// Waits for an event. Panics if it does not happen in time.
pub(crate) async fn wait_for<F: IntoFuture>(what: &str, event: F) -> F::Output {
    let happened = tokio::time::timeout(EVENT_TIMEOUT, event).await;
    happened.unwrap_or_else(|_| panic!("{what}: it did not happen within {EVENT_TIMEOUT:?}"))
}

/// Collects all events of a call.
pub(crate) async fn events(stream: EventStream) -> Vec<Event> {
    stream.collect().await
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

/// Returns the text that was written to standard output.
pub(crate) fn stdout(events: &[Event]) -> String {
    let texts = events.iter().filter_map(|event| match event {
        Event::Stdout(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

/// Returns the level and message of each log record.
pub(crate) fn log_records(events: &[Event]) -> Vec<(Level, &str)> {
    let records = events.iter().filter_map(|event| match event {
        Event::Log(record) => Some((record.level, record.message.as_str())),
        _ => None,
    });
    records.collect()
}
