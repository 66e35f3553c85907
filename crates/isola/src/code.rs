//! Code that is run as in a notebook: in contexts that keep their state, with rich results.
//!
//! ```no_run
//! # async fn example(sandbox: isola::Sandbox) -> Result<(), isola::Error> {
//! sandbox.run_code("x = 20").await?;
//! let execution = sandbox.run_code("x + 1").await?;
//! assert_eq!(execution.text().as_deref(), Some("21"));
//!
//! let execution = sandbox.run_code("1 / 0").await?;
//! assert_eq!(execution.error.unwrap().name, "ZeroDivisionError");
//! # Ok(())
//! # }
//! ```
//!
//! A context has its own globals and working directory. Code without a context runs in
//! the context `default`, whose globals scripts and calls use as well. Contexts are part
//! of the guest's state: a fork or a snapshot has them, too.
//!
//! The guest is not trusted, and this module validates what it reports: names of contexts
//! and, in `code_event`, results.

use std::{
    collections::BTreeMap,
    fmt,
    future::IntoFuture,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};

use crate::{
    code_event::{MAX_CONTEXT_ID_BYTES, ParsedEvent, is_context_id},
    error::Error,
    event::{Event, Level},
    interrupt::Interrupt,
    output::OutputEvent,
    runtime::{Language, Runtime},
    sandbox::{Call, EventStream, Operation, Sandbox, SandboxShared},
    value::Value,
};

/// The id of the context in which code runs by default.
pub const DEFAULT_CONTEXT: &str = "default";

const TEXT: &str = "text/plain";

/// The type of a chart as data.
pub const CHART: &str = "application/vnd.isorun.chart+json";

/// The outcome of code that was run.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Execution {
    /// The values that were shown, in order.
    pub results: Vec<CodeResult>,
    /// The output.
    pub logs: Logs,
    /// The exception that ended the code.
    pub error: Option<CodeError>,
    /// The number of the code in its context, from 1.
    pub execution_count: u64,
}

impl Execution {
    /// Returns the text of the last expression's value.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        self.results.iter().find(|result| result.is_main_result)?.text()
    }

    /// Adds an event to the execution.
    pub fn add(&mut self, event: CodeEvent) {
        match event {
            CodeEvent::Stdout { text } => self.logs.stdout.push(text),
            CodeEvent::Stderr { text } => self.logs.stderr.push(text),
            CodeEvent::Result(result) => self.results.push(result),
            CodeEvent::Error(error) => self.error = Some(error),
            CodeEvent::End { execution_count } => self.execution_count = execution_count,
        }
    }
}

/// The output of code: texts in the order in which they were written, which may be parts
/// of lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Logs {
    /// The standard output.
    pub stdout: Vec<String>,
    /// The standard error.
    pub stderr: Vec<String>,
}

/// A value that code has shown, in one or more representations.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct CodeResult {
    /// The representations by MIME type. Binary types are base64, JSON types are JSON
    /// values, and all others are text.
    pub data: BTreeMap<String, Value>,
    /// What is known about the representations. `errors` has a message for each that
    /// failed, and `omitted` the size of each that exceeded a limit.
    pub metadata: BTreeMap<String, Value>,
    /// `true` for the value of the last expression.
    pub is_main_result: bool,
}

impl CodeResult {
    /// Returns the MIME types of the representations.
    pub fn formats(&self) -> impl Iterator<Item = &str> {
        self.data.keys().map(String::as_str)
    }

    /// Returns a representation that is a string: text, or base64.
    #[must_use]
    pub fn string(&self, mime: &str) -> Option<String> {
        self.data.get(mime)?.to().ok()
    }

    /// Returns the representation `text/plain`.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        self.string(TEXT)
    }

    /// Returns the representation `text/html`.
    #[must_use]
    pub fn html(&self) -> Option<String> {
        self.string("text/html")
    }

    /// Returns the representation `text/markdown`.
    #[must_use]
    pub fn markdown(&self) -> Option<String> {
        self.string("text/markdown")
    }

    /// Returns the representation `image/svg+xml`.
    #[must_use]
    pub fn svg(&self) -> Option<String> {
        self.string("image/svg+xml")
    }

    /// Returns the representation `image/png`, in base64.
    #[must_use]
    pub fn png(&self) -> Option<String> {
        self.string("image/png")
    }

    /// Returns the representation `image/jpeg`, in base64.
    #[must_use]
    pub fn jpeg(&self) -> Option<String> {
        self.string("image/jpeg")
    }

    /// Returns the representation `text/latex`.
    #[must_use]
    pub fn latex(&self) -> Option<String> {
        self.string("text/latex")
    }

    /// Returns the representation `application/json`.
    #[must_use]
    pub fn json(&self) -> Option<&Value> {
        self.data.get("application/json")
    }

    /// Returns the chart as data.
    #[must_use]
    pub fn chart(&self) -> Option<&Value> {
        self.data.get(CHART)
    }
}

/// The exception that ended code. It displays as its traceback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CodeError {
    /// The name of its type, such as `ValueError`.
    pub name: String,
    /// Its message.
    pub value: String,
    /// The traceback, as a terminal shows it.
    pub traceback: String,
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.traceback.is_empty() {
            return write!(f, "{}: {}", self.name, self.value);
        }
        f.write_str(self.traceback.trim_end())
    }
}

/// An event of running code.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum CodeEvent {
    /// Text for standard output, which may be a part of a line.
    Stdout {
        /// The text.
        text: String,
    },
    /// Text for standard error, which may be a part of a line.
    Stderr {
        /// The text.
        text: String,
    },
    /// A value was shown.
    Result(CodeResult),
    /// The code ended in an exception.
    Error(CodeError),
    /// The code ended. This is the last event.
    End {
        /// The number of the code in its context, from 1.
        execution_count: u64,
    },
}

/// A context of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CodeContext {
    /// The id.
    pub id: String,
    /// The language of its code: that of the runtime.
    #[serde(default)]
    pub language: String,
    /// The working directory; empty if the runtime has none.
    pub cwd: String,
    /// The number of codes that it has run.
    pub execution_count: u64,
}

/// Code that has not started yet: await it for its [`Execution`], or
/// [`stream`](Self::stream) its events.
#[must_use = "code does nothing until it is awaited or streamed"]
pub struct RunCode {
    shared: Arc<SandboxShared>,
    code: String,
    language: Option<String>,
    context: String,
    timeout: Option<Duration>,
    cpu_timeout: Option<Duration>,
}

impl RunCode {
    /// Sets the language, which must be that of the sandbox's runtime.
    pub fn language(mut self, language: impl Into<String>) -> Self {
        self.language = Some(language.into());
        self
    }

    /// Sets the id of the context.
    pub fn context(mut self, id: impl Into<String>) -> Self {
        self.context = id.into();
        self
    }

    /// Limits the wall time. Python code that exceeds it is interrupted, and the execution
    /// has an error named `TimeoutError`; code that does not end then, and JavaScript, is
    /// stopped, which closes the sandbox.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Limits the CPU time. Time spent waiting for the host does not count.
    pub fn cpu_timeout(mut self, limit: Duration) -> Self {
        self.cpu_timeout = Some(limit);
        self
    }

    /// Starts the code and returns its events as they happen.
    ///
    /// The guest runs while the stream is polled, and waits while its events are not
    /// read. Dropping the stream before its end stops the guest and closes the sandbox.
    ///
    /// # Errors
    ///
    /// The sandbox is busy, closed or not running, or an argument is invalid. A later
    /// error is the stream's last item.
    pub fn stream(self) -> Result<CodeStream, Error> {
        let runtime = self.shared.runtime;
        if let Some(language) = self.language.filter(|it| !is_language(runtime, it)) {
            let own = language_of(runtime);
            return Err(Error::InvalidArgument(format!(
                "this sandbox runs {own}, not `{language}`: create a sandbox of another runtime"
            )));
        }
        check_id(&self.context)?;
        let interrupt = Arc::clone(&self.shared.interrupt);
        let operation = Operation::RunCode { code: self.code, context: self.context };
        let mut call = Call::new(self.shared, operation);
        if let Some(limit) = self.timeout {
            call = call.timeout(limit);
        }
        if let Some(limit) = self.cpu_timeout {
            call = call.cpu_timeout(limit);
        }
        Ok(CodeStream { events: call.stream()?, runtime, interrupt })
    }
}

impl IntoFuture for RunCode {
    type Output = Result<Execution, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut events = self.stream()?;
            let mut execution = Execution::default();
            while let Some(event) = events.next().await {
                execution.add(event?);
            }
            Ok(execution)
        })
    }
}

/// The events of running code. The last item is [`CodeEvent::End`] or an error.
#[must_use = "the guest runs only while its events are read"]
pub struct CodeStream {
    events: EventStream,
    runtime: Runtime,
    interrupt: Arc<Interrupt>,
}

impl Stream for CodeStream {
    type Item = Result<CodeEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let runtime = self.runtime;
        let event = std::task::ready!(self.events.poll_output(cx));
        let mut event = event.map(|event| converted(event, runtime));
        if let Some(Ok(CodeEvent::Error(error))) = &mut event
            && error.name == "KeyboardInterrupt"
            && let Some(limit) = self.interrupt.exceeded()
        {
            "TimeoutError".clone_into(&mut error.name);
            error.value = format!("the code ran longer than its limit of {limit:?}");
        }
        Poll::Ready(event)
    }
}

/// Converts an event of a call to one of code.
fn converted(event: OutputEvent, runtime: Runtime) -> Result<CodeEvent, Error> {
    Ok(match event {
        OutputEvent::Code(ParsedEvent::Result { data, metadata, is_main_result }) => {
            let values = |entries: BTreeMap<String, _>| {
                entries.into_iter().map(|(key, text)| (key, Value::from_raw(text))).collect()
            };
            CodeEvent::Result(CodeResult {
                data: values(data),
                metadata: values(metadata),
                is_main_result,
            })
        }
        OutputEvent::Code(ParsedEvent::Error { name, value, traceback }) => {
            CodeEvent::Error(CodeError { name, value, traceback })
        }
        OutputEvent::Call(Event::Stdout(text)) => CodeEvent::Stdout { text },
        OutputEvent::Call(Event::Stderr(text)) => CodeEvent::Stderr { text },
        OutputEvent::Call(Event::Log(record)) => {
            let text = format!("{}\n", record.message);
            match (runtime.language(), record.level) {
                // `console.log` writes to the standard output.
                (Language::JavaScript, Level::Debug | Level::Info) => CodeEvent::Stdout { text },
                _ => CodeEvent::Stderr { text },
            }
        }
        // A value that code passed to `emit`.
        OutputEvent::Call(Event::Result(value)) => CodeEvent::Result(CodeResult {
            data: BTreeMap::from([
                (TEXT.to_owned(), Value::new(value.as_str())?),
                ("application/json".to_owned(), value),
            ]),
            ..CodeResult::default()
        }),
        OutputEvent::Call(Event::End(count)) => CodeEvent::End { execution_count: count.to()? },
        OutputEvent::Call(Event::Error(error)) => return Err(error),
    })
}

impl Sandbox {
    /// Runs code in a context and returns what it shows: the value of its last
    /// expression, other rich results, output, and the exception that ended it.
    ///
    /// An exception is not an error of this call: [`Execution::error`] has it.
    pub fn run_code(&self, code: impl Into<String>) -> RunCode {
        RunCode {
            shared: Arc::clone(self.shared()),
            code: code.into(),
            language: None,
            context: DEFAULT_CONTEXT.to_owned(),
            timeout: None,
            cpu_timeout: None,
        }
    }

    /// Interrupts the code that [`run_code`](Self::run_code) runs, and reports whether
    /// there is any.
    ///
    /// Python code gets a `KeyboardInterrupt`, as from Ctrl-C, also in a loop or in a wait;
    /// its context keeps its state. A JavaScript guest is interrupted only while it waits.
    /// If the code does not end within two seconds, it is stopped and the sandbox is closed.
    pub fn interrupt(&self) -> bool {
        self.shared().interrupt.request(None)
    }

    /// Interrupts the code that runs, if it runs in this context, and reports whether it
    /// does. See [`interrupt`](Self::interrupt).
    pub fn interrupt_context(&self, id: &str) -> bool {
        self.shared().interrupt.request(Some(id))
    }

    /// Creates a context, with a working directory in the guest or that of the default
    /// context. A JavaScript guest has no working directory.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the directory does not exist or there are too many
    /// contexts, and the errors of a call.
    pub fn create_context(
        &self,
        cwd: Option<&str>,
    ) -> impl Future<Output = Result<CodeContext, Error>> + Send + use<> {
        let cwd = cwd.map(str::to_owned);
        let create = self.operate(Operation::CreateContext { cwd });
        let list = self.contexts();
        async move {
            let id: String = create.await?.to()?;
            let found = list.await?.into_iter().find(|context| context.id == id);
            let unlisted = || Error::Crash("the guest does not list a new context".to_owned());
            found.ok_or_else(unlisted)
        }
    }

    /// Returns the contexts, among them the context `default`.
    ///
    /// # Errors
    ///
    /// The errors of a call.
    pub fn contexts(&self) -> impl Future<Output = Result<Vec<CodeContext>, Error>> + Send + use<> {
        let list = self.operate(Operation::Contexts);
        let language = language_of(self.runtime());
        async move {
            let mut contexts: Vec<CodeContext> = list.await?.to()?;
            contexts.iter_mut().for_each(|context| language.clone_into(&mut context.language));
            Ok(contexts)
        }
    }

    /// Removes everything that code has defined in a context, and counts from 1 again.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the context does not exist, and the errors of a call.
    pub fn restart_context(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let checked = check_id(id);
        let restart = self.operate(Operation::RestartContext { id: id.to_owned() });
        async move {
            checked?;
            restart.await.map(drop)
        }
    }

    /// Removes a context. The context `default` cannot be removed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the context does not exist, and the errors of a call.
    pub fn remove_context(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let checked = check_id(id);
        let remove = self.operate(Operation::RemoveContext { id: id.to_owned() });
        async move {
            checked?;
            remove.await.map(drop)
        }
    }
}

fn language_of(runtime: Runtime) -> &'static str {
    match runtime.language() {
        Language::Python => "python",
        Language::JavaScript => "javascript",
    }
}

fn is_language(runtime: Runtime, language: &str) -> bool {
    language == language_of(runtime)
        || (runtime.language() == Language::JavaScript && language == "js")
}

fn check_id(id: &str) -> Result<(), Error> {
    if is_context_id(id) {
        return Ok(());
    }
    let shown: String = id.chars().take(100).collect();
    Err(Error::InvalidArgument(format!(
        "not an id of a context: `{shown}`; ids have 1 to {MAX_CONTEXT_ID_BYTES} letters, digits, `-`, \
         `_` and `.`"
    )))
}
