//! `isola run`.

use std::process::ExitCode;

use futures_util::StreamExt as _;
use isola::{Error, Handlers, HttpClient, Runtime, Sandbox, Template, Value};

use crate::{
    cli::RunArgs, config::Config, failure::Failure, progress::Compiling, report::Report, stop::Stop,
};

/// Runs a script and prints what comes of it, also if that is a failure: only
/// what is wrong with the command line, and so no event of a run, is given back.
pub fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let events = args.events;
    let config = Config::check(args)?;
    // The guest runs on this thread, and so does what it prints. Its HTTP
    // requests, Ctrl-C and the clock are tasks of the other thread: a busy
    // guest, or a slow reader of its output, does not hold them up.
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::Io { doing: "cannot start the event loop", error })?;
    let mut report = Report::new(events);
    let outcome = tokio.block_on(until_stopped(config, &mut report));
    let outcome = match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(failure) if failure.is_usage() => Err(failure),
        Err(failure) => {
            report.failure(&failure);
            Ok(failure.exit_code().into())
        }
    };
    // The compiler may still be at work after Ctrl-C: nobody waits for it.
    tokio.shutdown_background();
    outcome
}

async fn until_stopped(config: Config, report: &mut Report) -> Result<(), Failure> {
    let mut stop = Stop::on_interrupt();
    let template = tokio::select! {
        biased;
        why = stop.wait() => return Err(why),
        template = build(&config) => template?,
    };
    if let Some(limit) = config.timeout {
        stop.after(limit);
    }
    tokio::select! {
        biased;
        why = stop.wait() => Err(why),
        outcome = execute(&template, config, report) => outcome,
    }
}

async fn build(config: &Config) -> Result<Template, Failure> {
    let compiling = Compiling::new(config.runtime);
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

async fn execute(
    template: &Template,
    mut config: Config,
    report: &mut Report,
) -> Result<(), Failure> {
    let save_snapshot = config.save_snapshot.take();
    let sandbox = sandbox(template, &mut config).await?;
    let outcome = match perform(&sandbox, config, report).await {
        Err(Failure::Run(error)) => Err(Failure::of_run(template.runtime(), error)),
        outcome => outcome,
    };
    let outcome = match outcome {
        Err(Failure::Exit { status: 0, .. }) => Ok(Value::null()),
        outcome => outcome,
    };
    if let (Some(path), Ok(_)) = (save_snapshot, &outcome) {
        sandbox.snapshot().await?.save(path).await?;
    }
    // As the end of a process: exit handlers run after a failure, too. It is
    // the first failure that counts.
    let finished = if sandbox.is_closed() {
        Ok(Value::null())
    } else {
        follow(sandbox.finish(), report).await
    };
    let end = outcome?;
    finished?;
    report.end(&end)
}

async fn sandbox(template: &Template, config: &mut Config) -> Result<Sandbox, Failure> {
    let host = host(config.http.take());
    let Some(path) = config.from_snapshot.take() else {
        let sandbox = template.sandbox().host(host).create().await?;
        sandbox.start().await?;
        return Ok(sandbox);
    };
    let snapshot = template.load_snapshot(path).await.map_err(usage)?;
    let mut builder = snapshot.sandbox().limits(config.limits.clone()).host(host);
    for mount in &config.mounts {
        builder = builder.mount(mount.clone());
    }
    for (name, value) in &config.env {
        builder = builder.env(name, value);
    }
    Ok(builder.create().await?)
}

/// Runs the scripts and the function that is to be called.
async fn perform(sandbox: &Sandbox, config: Config, report: &mut Report) -> Result<Value, Failure> {
    for script in config.prelude.into_iter().chain([config.script]) {
        follow(sandbox.load_script_as(script.name, script.source), report).await?;
    }
    let call = sandbox.run(config.call.function, config.call.args);
    match follow(call, report).await {
        Err(Failure::Run(error))
            if !config.call.is_wanted && has_no_main(sandbox.runtime(), &error) =>
        {
            Ok(Value::null())
        }
        outcome => outcome,
    }
}

/// A snapshot that cannot be restored is one that should not have been named.
fn usage(error: Error) -> Failure {
    match error {
        Error::SnapshotRefused(why) => Failure::usage(why),
        other => other.into(),
    }
}

/// Prints what happens during a call, and gives its end.
async fn follow(call: isola::Call, report: &mut Report) -> Result<Value, Failure> {
    let mut events = call.stream()?;
    while let Some(event) = events.next().await {
        if let Some(end) = report.event(event)? {
            return Ok(end);
        }
        // Events may come without end: Ctrl-C and the clock get their chance.
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

/// Whether a call failed because the script defines no `main`.
///
/// The runner says so with the exception that the language has for it. Such
/// an exception may come out of user code as well, but then with a traceback
/// that has a frame: nothing but the headline is the runner's own.
fn has_no_main(runtime: Runtime, error: &Error) -> bool {
    let Error::Guest(exception) = error else { return false };
    let (name, message) = match runtime {
        Runtime::Python => ("NameError", "name 'main' is not defined"),
        Runtime::JavaScript => ("ReferenceError", "main is not defined"),
    };
    // A module's failure goes on with what it exports instead.
    let rest = exception.message.strip_prefix(message);
    let trace = exception.traceback.trim_end();
    exception.name == name
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(": "))
        && (trace.is_empty() || trace == format!("{name}: {}", exception.message))
}
