//! The interpreters of an interactive session: the original and its copies.
//!
//! Before each piece of code the interpreter is copied. Code that is stopped by
//! Ctrl-C, a limit or a crash leaves an interpreter that is not usable, which is
//! then replaced by the copy.

use std::{
    io::{self, Stderr, Stdout},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use isola::{
    Call, Error, Event, Handlers, HttpClient, Language, Level, Limits, Mount, Runtime, Sandbox,
    Snapshot, Template, args,
};

use super::{command::ReplCommand, exit_status};
use crate::{
    cli::ReplArgs,
    config,
    failure::Failure,
    progress::CompileProgress,
    screen::{Screen, error_text},
    snapshot,
};

/// The maximum number of branches. Each one uses memory.
const MAX_BRANCHES: usize = 64;

/// The maximum time to list the names for completion.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(1);

/// The file name of the functions that the session loads.
const JAVASCRIPT_HELPER: &str = "isola_repl.js";

/// The settings of the session's sandboxes.
pub struct Settings {
    runtime: Runtime,
    limits: Limits,
    mounts: Vec<Mount>,
    env: Vec<(String, String)>,
    http: Option<HttpClient>,
}

impl Settings {
    pub fn check(args: &ReplArgs) -> Result<Self, Failure> {
        let runtime = config::parse_runtime(&args.runtime)?;
        let mut limits = Limits { timeout: args.timeout, ..Limits::default() };
        if let Some(bytes) = args.max_memory {
            limits.max_memory = bytes;
        }
        if let Some(time) = args.cpu_timeout {
            limits.cpu_timeout = Some(time);
        }
        let mut mounts =
            args.mounts.iter().map(|text| config::mount(text)).collect::<Result<Vec<_>, _>>()?;
        let mut env =
            args.env.iter().map(|text| config::variable(text)).collect::<Result<Vec<_>, _>>()?;
        if let Some(dir) = &args.site_packages {
            config::mount_site_packages(runtime, dir, &mut mounts, &mut env)?;
        }
        let http = config::http(&args.allow_http)?;
        Ok(Self { runtime, limits, mounts, env, http })
    }
}

/// The action after an input.
pub enum Flow {
    Continue,
    /// The guest has exited, with this exit code.
    Exit(u8),
}

pub struct ReplSession {
    settings: Settings,
    template: Template,
    branches: Vec<Branch>,
    /// The index of the active branch.
    current: usize,
    /// The number of the next branch.
    next: u32,
    shared: CurrentSandbox,
    out: Screen<Stdout>,
    err: Screen<Stderr>,
}

struct Branch {
    number: u32,
    sandbox: Arc<Sandbox>,
    /// The interpreter before the last piece of code, if it could be copied.
    backup: Option<Snapshot>,
    /// The number of inputs since the backup, the current one included.
    inputs_since_backup: usize,
    /// The number of all inputs, for file names.
    inputs: usize,
}

impl ReplSession {
    pub async fn start(settings: Settings, from: Option<PathBuf>) -> Result<Self, Failure> {
        let template = build(&settings).await?;
        let sandbox = match from {
            Some(path) => restore_sandbox(&settings, &template, path).await?,
            None => create_sandbox(&settings, &template).await?,
        };
        let branch = Branch::new(1, sandbox);
        let shared = CurrentSandbox(Arc::new(Mutex::new(Arc::clone(&branch.sandbox))));
        Ok(Self {
            settings,
            template,
            branches: vec![branch],
            current: 0,
            next: 2,
            shared,
            out: Screen::new(io::stdout()),
            err: Screen::new(io::stderr()),
        })
    }

    pub fn runtime(&self) -> Runtime {
        self.settings.runtime
    }

    pub fn shared(&self) -> CurrentSandbox {
        self.shared.clone()
    }

    /// Returns the prompt: `py>`, and in a copy `py:2>`.
    pub fn prompt(&self) -> String {
        let name = match self.settings.runtime.language() {
            Language::Python => "py",
            Language::JavaScript => "js",
        };
        match self.branches[self.current].number {
            1 => format!("{name}> "),
            number => format!("{name}:{number}> "),
        }
    }

    /// Prints a message of the command.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.out.line(text).map_err(Failure::output)
    }

    /// Runs a piece of code, until its end or until it is interrupted.
    pub async fn run(
        &mut self,
        source: &str,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Flow, Failure> {
        let branch = &mut self.branches[self.current];
        branch.back_up().await;
        branch.inputs += 1;
        let call = code(&branch.sandbox, source, branch.inputs);
        let outcome = tokio::select! {
            biased;
            () = interrupted => Err(Failure::Interrupted),
            outcome = print_events(call, &mut self.out, &mut self.err) => outcome,
        };
        self.out.end_line().map_err(Failure::output)?;
        let failure = match outcome {
            Ok(()) => return Ok(Flow::Continue),
            Err(failure @ Failure::StdoutClosed) => return Err(failure),
            Err(failure) => failure,
        };
        match &failure {
            Failure::Run(error) => {
                if let Some((code, exit_message)) = exit_status(error) {
                    if let Some(text) = exit_message {
                        let _ = self.err.line(&text);
                    }
                    return Ok(Flow::Exit(code));
                }
                let is_exception = matches!(error, Error::Guest(_) | Error::Hostcall(_));
                let text = if is_exception { failure.to_string() } else { error_text(&failure) };
                let _ = self.err.line(&without_helper(&text));
            }
            other => {
                let _ = self.err.line(&other.to_string());
            }
        }
        if self.branches[self.current].sandbox.is_closed() {
            self.recover().await?;
        }
        Ok(Flow::Continue)
    }

    /// Executes a command, except `:help` and `:quit`, which the caller handles.
    pub async fn execute(&mut self, command: ReplCommand) -> Result<(), Failure> {
        match command {
            ReplCommand::Fork => self.fork().await,
            ReplCommand::Branches => self.list(),
            ReplCommand::Branch(number) => self.switch(number),
            ReplCommand::Save(target) => self.save(&target).await,
            ReplCommand::Load(source) => {
                let path = snapshot::existing_path(&source)?;
                let sandbox = restore_sandbox(&self.settings, &self.template, path).await?;
                self.replace(sandbox);
                Ok(())
            }
            ReplCommand::Reset => {
                let sandbox = create_sandbox(&self.settings, &self.template).await?;
                self.replace(sandbox);
                Ok(())
            }
            ReplCommand::Help | ReplCommand::Quit => Ok(()),
        }
    }

    async fn fork(&mut self) -> Result<(), Failure> {
        if self.branches.len() >= MAX_BRANCHES {
            return Err(Failure::usage(format!("there are {MAX_BRANCHES} branches already"))
                .hint(":load and :reset replace the interpreter of an existing branch"));
        }
        let mut children = self.branches[self.current].sandbox.fork(1).await?;
        if let Some(child) = children.pop() {
            self.branches.push(Branch::new(self.next, child));
            self.next += 1;
            self.select(self.branches.len() - 1);
        }
        Ok(())
    }

    fn list(&mut self) -> Result<(), Failure> {
        let mut text = String::new();
        for (index, branch) in self.branches.iter().enumerate() {
            let mark = if index == self.current { '*' } else { ' ' };
            text += &format!("{mark} {:>2}  {} inputs\n", branch.number, branch.inputs);
        }
        self.print(text.trim_end_matches('\n'))
    }

    fn switch(&mut self, number: u32) -> Result<(), Failure> {
        match self.branches.iter().position(|branch| branch.number == number) {
            Some(index) => {
                self.select(index);
                Ok(())
            }
            None => {
                Err(Failure::usage(format!("there is no branch {number}"))
                    .hint(":branches lists them"))
            }
        }
    }

    async fn save(&mut self, target: &str) -> Result<(), Failure> {
        let path = snapshot::new_path(target)?;
        let copy = self.branches[self.current].sandbox.snapshot().await?;
        let size = copy.save(&path).await?;
        self.print(&format!("saved to {}, {size} bytes", path.display()))
    }

    /// Replaces the interpreter of a guest that has terminated.
    async fn recover(&mut self) -> Result<(), Failure> {
        let branch = &mut self.branches[self.current];
        let (sandbox, inputs_since_backup) = match &branch.backup {
            Some(backup) => (
                backup.sandbox().host(host(&self.settings)).create().await?,
                branch.inputs_since_backup,
            ),
            None => (create_sandbox(&self.settings, &self.template).await?, 0),
        };
        let notice = match (&branch.backup, inputs_since_backup) {
            (None, _) => "the session was reset: the interpreter could not be copied before",
            (_, 0 | 1) => "the session was restored to its state before that input",
            _ => "the session was restored to the last state that could be copied",
        };
        branch.sandbox = Arc::new(sandbox);
        branch.inputs_since_backup = 0;
        self.select(self.current);
        let _ = self.err.line(&format!("[{notice}]"));
        Ok(())
    }

    fn replace(&mut self, sandbox: Sandbox) {
        let branch = &mut self.branches[self.current];
        *branch = Branch::new(branch.number, sandbox);
        self.select(self.current);
    }

    fn select(&mut self, index: usize) {
        self.current = index;
        *self.shared.lock() = Arc::clone(&self.branches[index].sandbox);
    }
}

impl Branch {
    fn new(number: u32, sandbox: Sandbox) -> Self {
        Self { number, sandbox: Arc::new(sandbox), backup: None, inputs_since_backup: 0, inputs: 0 }
    }

    /// Copies the interpreter. If it cannot be copied, because it has a file open,
    /// the previous copy is kept.
    async fn back_up(&mut self) {
        match self.sandbox.snapshot().await {
            Ok(copy) => (self.backup, self.inputs_since_backup) = (Some(copy), 1),
            Err(_) => self.inputs_since_backup += 1,
        }
    }
}

/// The sandbox of the active branch, shared with the completion of names.
#[derive(Clone)]
pub struct CurrentSandbox(Arc<Mutex<Arc<Sandbox>>>);

impl CurrentSandbox {
    /// Returns the global names of the interpreter, or none if the call fails.
    pub async fn names(&self) -> Vec<String> {
        let sandbox = Arc::clone(&self.lock());
        let names = sandbox.run("__isola_names__", args![]).timeout(COMPLETION_TIMEOUT).await;
        names.ok().and_then(|names| names.to().ok()).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<Sandbox>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn build(settings: &Settings) -> Result<Template, Failure> {
    let compiling = CompileProgress::new(settings.runtime);
    let mut builder = Template::builder(settings.runtime)
        .limits(settings.limits.clone())
        .on_compile(compiling.callback());
    for mount in &settings.mounts {
        builder = builder.mount(mount.clone());
    }
    for (name, value) in &settings.env {
        builder = builder.env(name, value);
    }
    Ok(builder.build().await?)
}

async fn create_sandbox(settings: &Settings, template: &Template) -> Result<Sandbox, Failure> {
    let sandbox = template.sandbox().host(host(settings)).create().await?;
    sandbox.start().await?;
    prepare(settings, &sandbox).await?;
    Ok(sandbox)
}

async fn restore_sandbox(
    settings: &Settings,
    template: &Template,
    path: PathBuf,
) -> Result<Sandbox, Failure> {
    let copy = template.load_snapshot(path).await.map_err(|error| match error {
        Error::SnapshotRefused(why) => Failure::usage(why),
        other => other.into(),
    })?;
    let sandbox = copy.sandbox().host(host(settings)).create().await?;
    prepare(settings, &sandbox).await?;
    Ok(sandbox)
}

/// Loads the functions that show values and list names.
async fn prepare(settings: &Settings, sandbox: &Sandbox) -> Result<(), Error> {
    // Python's tracebacks omit frames of files in this directory.
    let (name, source) = match settings.runtime.language() {
        Language::Python => ("/lib/python3.14/asyncio/isola_repl.py", include_str!("helper.py")),
        Language::JavaScript => (JAVASCRIPT_HELPER, include_str!("helper.js")),
    };
    sandbox.load_script_as(name, source).await?;
    Ok(())
}

fn host(settings: &Settings) -> Handlers {
    let Some(client) = settings.http.clone() else { return Handlers::new() };
    Handlers::new().http(move |request| {
        let client = client.clone();
        async move { client.send(request).await }
    })
}

/// Removes the frames of the helper functions from a traceback.
fn without_helper(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.contains(JAVASCRIPT_HELPER)).collect();
    lines.join("\n")
}

/// Creates the call that runs a piece of code and shows its value.
fn code(sandbox: &Sandbox, source: &str, number: usize) -> Call {
    // Declarations of JavaScript persist only if they are loaded as a script, which
    // has no value.
    const DECLARE: [&str; 5] = ["let ", "const ", "class ", "import ", "export "];
    let declares = source.lines().any(|line| DECLARE.iter().any(|word| line.starts_with(word)));
    if sandbox.runtime() == Runtime::JavaScript && declares {
        return sandbox.load_script_as(format!("input-{number}.js"), source);
    }
    sandbox.run("__isola_repl__", args![source, number])
}

/// Prints the events of a call as they arrive.
async fn print_events(
    call: Call,
    out: &mut Screen<Stdout>,
    err: &mut Screen<Stderr>,
) -> Result<(), Failure> {
    let mut events = call.stream()?;
    while let Some(event) = events.next().await {
        match event {
            Event::Stdout(text) => out.text(&text).map_err(Failure::output)?,
            Event::Stderr(text) => drop(err.text(&text)),
            Event::Log(record) => match record.level {
                Level::Warning | Level::Error => drop(err.line(&record.message)),
                _ => out.line(&record.message).map_err(Failure::output)?,
            },
            Event::Result(value) => out.line(value.as_str()).map_err(Failure::output)?,
            Event::Error(error) => return Err(error.into()),
            _ => {}
        }
        // The stream of events may be endless: let Ctrl-C be noticed.
        tokio::task::yield_now().await;
    }
    Ok(())
}
