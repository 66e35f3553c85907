//! `isola run`: runs a script.

use std::process::ExitCode;

use futures_util::StreamExt as _;
use isola::{
    Error, Handlers, HttpClient, Language, Runtime, Sandbox, SandboxFiles, Template, Value,
};

use crate::{
    cli::RunArgs, config::RunConfig, failure::Failure, progress::CompileProgress, report::Report,
    stop::Stop,
};

/// Runs a script and prints its output and its failure. Only errors of the command
/// line, which are not events of a run, are returned.
pub fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let events = args.events;
    let config = RunConfig::check(args)?;
    // The guest and the printing of its output run on this thread. Its HTTP
    // requests, Ctrl-C and the timer are tasks of the other thread, so that a busy
    // guest, or a slow reader of its output, does not delay them.
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::Io { context: "cannot start the event loop", error })?;
    let mut report = Report::new(events);
    let outcome = tokio.block_on(run_until_stopped(config, &mut report));
    let outcome = match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(failure) if failure.is_usage() => Err(failure),
        Err(failure) => {
            report.failure(&failure);
            Ok(failure.exit_code().into())
        }
    };
    // Do not wait for the compiler, which may still be running after Ctrl-C.
    tokio.shutdown_background();
    outcome
}

async fn run_until_stopped(mut config: RunConfig, report: &mut Report) -> Result<(), Failure> {
    let mut stop = Stop::on_interrupt();
    let template = tokio::select! {
        biased;
        why = stop.wait() => return Err(why),
        template = build(&config) => template?,
    };
    if let Some(limit) = config.timeout {
        stop.after(limit);
    }
    let (output, max_storage) = (config.output.take(), config.limits.max_storage);
    let mut files = None;
    let outcome = tokio::select! {
        biased;
        why = stop.wait() => Err(why),
        outcome = execute(&template, config, report, &mut files) => outcome,
    };
    let written = match (output, files) {
        (Some(output), Some(files)) => output.write(&files, max_storage).map(|skipped| {
            skipped.iter().for_each(|message| report.warning(message));
        }),
        _ => Ok(()),
    };
    match (outcome, written) {
        (Ok(end), Ok(())) => report.end(&end),
        (Ok(_), Err(failure)) => Err(failure),
        (Err(failure), written) => {
            if let Err(unwritten) = written {
                report.warning(&unwritten.to_string());
            }
            Err(failure)
        }
    }
}

async fn build(config: &RunConfig) -> Result<Template, Failure> {
    let compiling = CompileProgress::new(config.runtime);
    let mut builder = Template::builder(config.runtime)
        .limits(config.limits.clone())
        .on_compile(compiling.callback());
    for mount in &config.mounts {
        builder = builder.mount(mount.clone());
    }
    for (name, value) in &config.env {
        builder = builder.env(name, value);
    }
    Ok(builder.build().await?)
}

/// Runs the scripts and returns the final value. `files` is set to the files of the sandbox
/// before any code runs.
async fn execute(
    template: &Template,
    mut config: RunConfig,
    report: &mut Report,
    files: &mut Option<SandboxFiles>,
) -> Result<Value, Failure> {
    let save_snapshot = config.save_snapshot.take();
    let sandbox = sandbox(template, &mut config).await?;
    *files = Some(sandbox.files());
    let outcome = match run_scripts(&sandbox, config, report).await {
        Err(Failure::Run(error)) => Err(Failure::from_run(template.runtime(), error)),
        outcome => outcome,
    };
    let outcome = match outcome {
        Err(Failure::Exit { status: 0, .. }) => Ok(Value::null()),
        outcome => outcome,
    };
    if let (Some(path), Ok(_)) = (save_snapshot, &outcome) {
        sandbox.snapshot().await?.save(path).await?;
    }
    // As at the end of a process, exit handlers run after a failure, too. The
    // first failure is the one that is reported.
    let finished = if sandbox.is_closed() {
        Ok(Value::null())
    } else {
        print_events(sandbox.finish(), report).await
    };
    let end = outcome?;
    finished?;
    Ok(end)
}

async fn sandbox(template: &Template, config: &mut RunConfig) -> Result<Sandbox, Failure> {
    let host = host(config.http.take());
    let Some(path) = config.from_snapshot.take() else {
        let builder = template.sandbox().host(host).arguments(config.arguments.clone());
        let sandbox = builder.create().await?;
        sandbox.start().await?;
        return Ok(sandbox);
    };
    let snapshot = template.load_snapshot(path).await.map_err(snapshot_error)?;
    let mut builder = snapshot.sandbox().limits(config.limits.clone()).host(host);
    for mount in &config.mounts {
        builder = builder.mount(mount.clone());
    }
    for (name, value) in &config.env {
        builder = builder.env(name, value);
    }
    if !config.arguments.is_empty() {
        builder = builder.arguments(config.arguments.clone());
    }
    Ok(builder.create().await?)
}

/// Runs the scripts, then calls the requested function.
async fn run_scripts(
    sandbox: &Sandbox,
    config: RunConfig,
    report: &mut Report,
) -> Result<Value, Failure> {
    for script in config.prelude.into_iter().chain([config.script]) {
        print_events(sandbox.load_script_as(script.name, script.source), report).await?;
    }
    let call = sandbox.run(config.call.function, config.call.args);
    match print_events(call, report).await {
        Err(Failure::Run(error))
            if !config.call.is_requested && has_no_main(sandbox.runtime(), &error) =>
        {
            Ok(Value::null())
        }
        outcome => outcome,
    }
}

/// Converts the error of a snapshot that cannot be restored to a usage error.
fn snapshot_error(error: Error) -> Failure {
    match error {
        Error::SnapshotRefused(why) => Failure::usage(why),
        other => other.into(),
    }
}

/// Prints the events of a call, and returns its final value.
async fn print_events(call: isola::Call, report: &mut Report) -> Result<Value, Failure> {
    let mut events = call.stream()?;
    while let Some(event) = events.next().await {
        if let Some(end) = report.event(event)? {
            return Ok(end);
        }
        // The stream of events may be endless: let Ctrl-C and the timer be noticed.
        tokio::task::yield_now().await;
    }
    Ok(Value::null())
}

fn host(http: Option<HttpClient>) -> Handlers {
    let Some(client) = http else { return Handlers::new() };
    Handlers::new().http(move |request| {
        let client = client.clone();
        async move { client.send(request).await }
    })
}

/// Reports whether a call failed because the script defines no `main`.
///
/// The runner raises the language's own exception for an undefined name. User code
/// may raise such an exception as well, but then its traceback has a frame: only
/// the exception of the runner consists of nothing but the headline.
fn has_no_main(runtime: Runtime, error: &Error) -> bool {
    let Error::Guest(exception) = error else { return false };
    let (name, message) = match runtime.language() {
        Language::Python => ("NameError", "name 'main' is not defined"),
        Language::JavaScript => ("ReferenceError", "main is not defined"),
    };
    // For a module, the list of its exports follows the message.
    let rest = exception.message.strip_prefix(message);
    let trace = exception.traceback.trim_end();
    exception.name == name
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(": "))
        && (trace.is_empty() || trace == format!("{name}: {}", exception.message))
}
