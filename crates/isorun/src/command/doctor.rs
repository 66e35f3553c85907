//! `isorun doctor`: performs the operations of a server on this machine, step by step, and
//! reports what is missing. It leaves nothing behind.

use std::{fs, process::ExitCode, time::Instant};

use isorun_agent::{
    InvalidSandboxId,
    client::{self, ClientError},
    protocol::Exec,
};
use isorun_engine::{
    Engine, Error, Root, SandboxId, SandboxSpec, doctor,
    gvisor::{Gvisor, GvisorConfig},
};
use isorun_interpreter::{InterpreterImage, Interpreters};
use serde::Serialize;

use super::table;
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The result of one step.
#[derive(Serialize)]
struct Step {
    name: &'static str,
    ok: bool,
    /// Details of what was found, or what is missing and how to get it.
    found: String,
}

pub fn run(args: DoctorArgs) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let linux = run_steps().await;
        let passed = linux.iter().all(|step| step.ok);
        let interpreters = check_interpreters();
        let can_interpret = interpreters.iter().any(|step| step.ok);
        let steps: Vec<_> = linux.into_iter().chain(interpreters).collect();
        if args.json {
            table::json(&steps)?;
        } else {
            for step in &steps {
                let mark = if step.ok { "ok     " } else { "MISSING" };
                table::line(&format!("{mark}  {:<17}  {}", step.name, step.found))?;
            }
            table::line(match (passed, can_interpret) {
                (true, _) => "This machine can run sandboxes: `isorun serve`.",
                (false, true) => {
                    "This machine can run interpreters, but no Linux sandboxes yet: `isorun serve` \
                     offers interpreters only."
                }
                (false, false) => "This machine cannot run sandboxes yet.",
            })?;
        }
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Checks all requirements, then runs the operations of a server until one fails.
async fn run_steps() -> Vec<Step> {
    let mut steps = Vec::new();
    let _ = run_until_failure(&mut steps).await;
    steps
}

/// Looks for the runtimes of interpreters, which need nothing else.
fn check_interpreters() -> Vec<Step> {
    let check = |image: InterpreterImage| {
        let (ok, found) = match Interpreters::find_runtime(image) {
            Ok(path) => (true, path.display().to_string()),
            Err(error) => (false, error.to_string()),
        };
        Step { name: image.name(), ok, found }
    };
    InterpreterImage::ALL.map(check).into()
}

/// Records a step. Returns its value if it succeeded.
fn record<T>(
    steps: &mut Vec<Step>,
    name: &'static str,
    outcome: Result<(T, String), String>,
) -> Option<T> {
    let (value, ok, found) = match outcome {
        Ok((value, found)) => (Some(value), true, found),
        Err(missing) => (None, false, missing),
    };
    steps.push(Step { name, ok, found });
    value
}

async fn run_until_failure(steps: &mut Vec<Step>) -> Option<()> {
    let findings = doctor::gvisor(&GvisorConfig::new("."));
    let all_good = findings.iter().all(|finding| finding.good);
    steps.extend(findings.into_iter().map(|finding| Step {
        name: finding.what,
        ok: finding.good,
        found: finding.detail,
    }));
    if !all_good {
        return None;
    }
    let directory = record(steps, "directory", temporary_directory())?;
    let config = GvisorConfig { warm: 0, ..GvisorConfig::new(directory.path()) };
    let opened = Gvisor::open(config).await;
    let describe = |engine: Gvisor| {
        let capabilities = engine.capabilities();
        let text = format!("limits on {}", capabilities.limits.join(", "));
        (engine, text)
    };
    let opened = opened.map(describe).map_err(|error| error.to_string());
    let engine = record(steps, "engine", opened)?;
    let outcome = try_sandbox(&engine).await;
    engine.shutdown().await;
    record(steps, "sandbox", outcome.map(|text| ((), text)))?;
    let capabilities = engine.capabilities();
    let suffix = match capabilities.checkpoint {
        true => "",
        false => "; checkpoints are not supported",
    };
    record(steps, "isolation", Ok(((), format!("{}{suffix}", capabilities.isolation))))
}

fn temporary_directory() -> Result<(tempfile::TempDir, String), String> {
    let created = tempfile::tempdir().and_then(|directory| {
        // Programs in sandboxes are not root on the host, and must be able to traverse it.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711))?;
        Ok(directory)
    });
    let directory =
        created.map_err(|error| format!("cannot create a temporary directory: {error}"))?;
    let text = directory.path().display().to_string();
    Ok((directory, text))
}

/// Creates a sandbox, runs a command in it, and destroys it.
async fn try_sandbox(engine: &Gvisor) -> Result<String, String> {
    let text = |error: Error| error.to_string();
    let id: SandboxId = "doctor".parse().map_err(|error: InvalidSandboxId| error.to_string())?;
    let start = Instant::now();
    engine.create(SandboxSpec::new(id.clone(), Root::Host)).await.map_err(text)?;
    let created = start.elapsed();
    let output = run_hello(engine, &id).await;
    let destroyed = engine.destroy(&id).await;
    let output = output?;
    destroyed.map_err(text)?;
    Ok(format!("created in {} ms; a command in it printed {output:?}", created.as_millis()))
}

/// Runs a command, and returns its output.
async fn run_hello(engine: &Gvisor, id: &SandboxId) -> Result<String, String> {
    let stream = engine.connect(id).await.map_err(|error| error.to_string())?;
    let exec = Exec {
        argv: ["/bin/sh", "-c", "echo hello from $(uname -s)"].map(str::to_owned).into(),
        timeout_ms: Some(10_000),
        ..Exec::default()
    };
    let run = async { client::exec(stream, exec).await?.output(4096).await };
    let output = run.await.map_err(|error: ClientError| error.to_string())?;
    let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.shell_code() {
        0 => Ok(stdout),
        code => Err(format!("a command in a sandbox exited with {code}: {stdout}")),
    }
}
