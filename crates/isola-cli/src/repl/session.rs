//! The interpreters that a user talks to: one, and the copies of it.
//!
//! Before each piece of code the interpreter is copied. If the code has to be
//! stopped half-way, by Ctrl-C, a limit or a crash, there is no interpreter to
//! go on with, and the copy takes its place.

use std::{
    io::{self, Stderr, Stdout},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use isola::{
    Call, Error, Event, Handlers, HttpClient, Level, Limits, Mount, Runtime, Sandbox, Snapshot,
    Template, args,
};

use super::{command::Command, exit_of};
use crate::{
    cli::ReplArgs,
    config,
    failure::Failure,
    progress::Compiling,
    screen::{Screen, complaint},
    snapshot,
};

/// More branches than anybody keeps in mind; each takes memory.
const MAX_BRANCHES: usize = 64;

/// So long may it take to list names.
const PATIENCE: Duration = Duration::from_secs(1);

/// The file name of the functions that the session loads.
const JAVASCRIPT_HELPER: &str = "isola_repl.js";

/// What the session's sandboxes get.
pub struct Settings {
    runtime: Runtime,
    limits: Limits,
    mounts: Vec<Mount>,
    env: Vec<(String, String)>,
    http: Option<HttpClient>,
}

impl Settings {
    pub fn check(args: &ReplArgs) -> Result<Self, Failure> {
        let runtime = config::named_runtime(&args.runtime)?;
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
        if let Some(folder) = &args.site_packages {
            config::show_packages(runtime, folder, &mut mounts, &mut env)?;
        }
        let http = config::http(&args.allow_http)?;
        Ok(Self { runtime, limits, mounts, env, http })
    }
}

/// Whether there is more to come.
pub enum End {
    Next,
    /// The guest has ended itself.
    Exit(u8),
}

pub struct Session {
    settings: Settings,
    template: Template,
    branches: Vec<Branch>,
    /// The one that is talked to, and the next one's number.
    current: usize,
    next: u32,
    shared: Current,
    out: Screen<Stdout>,
    err: Screen<Stderr>,
}

struct Branch {
    number: u32,
    sandbox: Arc<Sandbox>,
    /// The interpreter as it was before the last code, if it could be copied.
    kept: Option<Snapshot>,
    /// How much code has run since.
    since: usize,
    /// How much code has run in all, for file names.
    count: usize,
}

impl Session {
    pub async fn begin(settings: Settings, from: Option<PathBuf>) -> Result<Self, Failure> {
        let template = build(&settings).await?;
        let sandbox = match from {
            Some(path) => restored(&settings, &template, path).await?,
            None => fresh(&settings, &template).await?,
        };
        let branch = Branch::new(1, sandbox);
        let shared = Current(Arc::new(Mutex::new(Arc::clone(&branch.sandbox))));
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

    pub fn shared(&self) -> Current {
        self.shared.clone()
    }

    /// `py>`, and in a copy `py:2>`.
    pub fn prompt(&self) -> String {
        let name = match self.settings.runtime {
            Runtime::Python => "py",
            Runtime::JavaScript => "js",
        };
        match self.branches[self.current].number {
            1 => format!("{name}> "),
            number => format!("{name}:{number}> "),
        }
    }

    /// Says something that is the command's own.
    pub fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.out.line(text).map_err(Failure::output)
    }

    /// Runs a piece of code, until its end or until it is interrupted.
    pub async fn run(
        &mut self,
        source: &str,
        interrupted: impl Future<Output = ()>,
    ) -> Result<End, Failure> {
        let branch = &mut self.branches[self.current];
        branch.keep().await;
        branch.count += 1;
        let call = code(&branch.sandbox, source, branch.count);
        let outcome = tokio::select! {
            biased;
            () = interrupted => Err(Failure::Interrupted),
            outcome = follow(call, &mut self.out, &mut self.err) => outcome,
        };
        self.out.end_line().map_err(Failure::output)?;
        let failure = match outcome {
            Ok(()) => return Ok(End::Next),
            Err(failure @ Failure::Unread) => return Err(failure),
            Err(failure) => failure,
        };
        match &failure {
            Failure::Run(error) => {
                if let Some((code, last_words)) = exit_of(error) {
                    if let Some(words) = last_words {
                        let _ = self.err.line(&words);
                    }
                    return Ok(End::Exit(code));
                }
                let is_exception = matches!(error, Error::Guest(_) | Error::Hostcall(_));
                let text = if is_exception { failure.to_string() } else { complaint(&failure) };
                let _ = self.err.line(&without_helper(&text));
            }
            other => {
                let _ = self.err.line(&other.to_string());
            }
        }
        if self.branches[self.current].sandbox.is_closed() {
            self.recover().await?;
        }
        Ok(End::Next)
    }

    /// Does what a command says. `:help` and `:quit` are no concern of it.
    pub async fn obey(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Fork => self.fork().await,
            Command::Branches => self.list(),
            Command::Branch(number) => self.go(number),
            Command::Save(place) => self.save(&place).await,
            Command::Load(place) => {
                let path = snapshot::existing(&place)?;
                let sandbox = restored(&self.settings, &self.template, path).await?;
                self.replace(sandbox);
                Ok(())
            }
            Command::Reset => {
                let sandbox = fresh(&self.settings, &self.template).await?;
                self.replace(sandbox);
                Ok(())
            }
            Command::Help | Command::Quit => Ok(()),
        }
    }

    async fn fork(&mut self) -> Result<(), Failure> {
        if self.branches.len() >= MAX_BRANCHES {
            return Err(Failure::usage(format!("there are {MAX_BRANCHES} branches already"))
                .hint(":load and :reset begin anew in a branch that is there"));
        }
        let mut children = self.branches[self.current].sandbox.fork(1).await?;
        if let Some(child) = children.pop() {
            self.branches.push(Branch::new(self.next, child));
            self.next += 1;
            self.turn_to(self.branches.len() - 1);
        }
        Ok(())
    }

    fn list(&mut self) -> Result<(), Failure> {
        let mut text = String::new();
        for (index, branch) in self.branches.iter().enumerate() {
            let mark = if index == self.current { '*' } else { ' ' };
            text += &format!("{mark} {:>2}  {} inputs\n", branch.number, branch.count);
        }
        self.say(text.trim_end_matches('\n'))
    }

    fn go(&mut self, number: u32) -> Result<(), Failure> {
        match self.branches.iter().position(|branch| branch.number == number) {
            Some(index) => {
                self.turn_to(index);
                Ok(())
            }
            None => {
                Err(Failure::usage(format!("there is no branch {number}"))
                    .hint(":branches lists them"))
            }
        }
    }

    async fn save(&mut self, place: &str) -> Result<(), Failure> {
        let path = snapshot::new(place)?;
        let copy = self.branches[self.current].sandbox.snapshot().await?;
        let size = copy.save(&path).await?;
        self.say(&format!("saved to {}, {size} bytes", path.display()))
    }

    /// Puts something in the place of a guest that is gone.
    async fn recover(&mut self) -> Result<(), Failure> {
        let branch = &mut self.branches[self.current];
        let (sandbox, since) = match &branch.kept {
            Some(kept) => (kept.sandbox().host(host(&self.settings)).create().await?, branch.since),
            None => (fresh(&self.settings, &self.template).await?, 0),
        };
        let news = match (&branch.kept, since) {
            (None, _) => "the session begins anew: the interpreter could not be copied before",
            (_, 0 | 1) => "the session is as it was before that",
            _ => "the session goes back to before it could not be copied",
        };
        branch.sandbox = Arc::new(sandbox);
        branch.since = 0;
        self.turn_to(self.current);
        let _ = self.err.line(&format!("[{news}]"));
        Ok(())
    }

    fn replace(&mut self, sandbox: Sandbox) {
        let branch = &mut self.branches[self.current];
        *branch = Branch::new(branch.number, sandbox);
        self.turn_to(self.current);
    }

    fn turn_to(&mut self, index: usize) {
        self.current = index;
        *self.shared.lock() = Arc::clone(&self.branches[index].sandbox);
    }
}

impl Branch {
    fn new(number: u32, sandbox: Sandbox) -> Self {
        Self { number, sandbox: Arc::new(sandbox), kept: None, since: 0, count: 0 }
    }

    /// Copies the interpreter. One that cannot be copied, since it has a file
    /// open, keeps the copy of before.
    async fn keep(&mut self) {
        match self.sandbox.snapshot().await {
            Ok(copy) => (self.kept, self.since) = (Some(copy), 1),
            Err(_) => self.since += 1,
        }
    }
}

/// The sandbox that is talked to, for those who complete names.
#[derive(Clone)]
pub struct Current(Arc<Mutex<Arc<Sandbox>>>);

impl Current {
    /// The global names of the interpreter; none if it does not tell.
    pub async fn names(&self) -> Vec<String> {
        let sandbox = Arc::clone(&self.lock());
        let told = sandbox.run("__isola_names__", args![]).timeout(PATIENCE).await;
        told.ok().and_then(|names| names.to().ok()).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<Sandbox>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn build(settings: &Settings) -> Result<Template, Failure> {
    let compiling = Compiling::new(settings.runtime);
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

async fn fresh(settings: &Settings, template: &Template) -> Result<Sandbox, Failure> {
    let sandbox = template.sandbox().host(host(settings)).create().await?;
    sandbox.start().await?;
    prepare(settings, &sandbox).await?;
    Ok(sandbox)
}

async fn restored(
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
    // Python's tracebacks leave out frames of files in this folder.
    let (name, source) = match settings.runtime {
        Runtime::Python => ("/lib/python3.14/asyncio/isola_repl.py", include_str!("helper.py")),
        Runtime::JavaScript => (JAVASCRIPT_HELPER, include_str!("helper.js")),
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

/// A traceback without the frames of what runs the code.
fn without_helper(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.contains(JAVASCRIPT_HELPER)).collect();
    lines.join("\n")
}

/// A piece of code, with what it needs to be shown.
fn code(sandbox: &Sandbox, source: &str, number: usize) -> Call {
    // What JavaScript declares outlives only a script, and has no value.
    const DECLARE: [&str; 5] = ["let ", "const ", "class ", "import ", "export "];
    let declares = source.lines().any(|line| DECLARE.iter().any(|word| line.starts_with(word)));
    if sandbox.runtime() == Runtime::JavaScript && declares {
        return sandbox.load_script_as(format!("input-{number}.js"), source);
    }
    sandbox.run("__isola_repl__", args![source, number])
}

/// Shows what happens, as it happens.
async fn follow(
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
        // Events may come without end: Ctrl-C gets its chance.
        tokio::task::yield_now().await;
    }
    Ok(())
}
