//! `isorun doctor`: tries on this machine what a server does, step by step, and
//! says what is missing. It leaves nothing behind.

use std::{fs, process::ExitCode, time::Instant};

use isorun_agent::{
    client::{self, ClientError},
    protocol::Exec,
};
use isorun_engine::{
    Engine, Error, Root, SandboxId, SandboxSpec, doctor,
    gvisor::{Gvisor, GvisorConfig},
};
use serde::Serialize;

use super::table;
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One thing that a server needs.
#[derive(Serialize)]
struct Step {
    name: &'static str,
    ok: bool,
    /// What was found, or what is missing and how to get it.
    found: String,
}

pub fn run(args: Args) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let steps = examine().await;
        let well = steps.iter().all(|step| step.ok);
        if args.json {
            table::json(&steps)?;
        } else {
            for step in &steps {
                let mark = if step.ok { "ok     " } else { "MISSING" };
                table::line(&format!("{mark}  {:<15}  {}", step.name, step.found))?;
            }
            table::line(if well {
                "This machine can run sandboxes: `isorun serve`."
            } else {
                "This machine cannot run sandboxes yet."
            })?;
        }
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// What is wanted, all of it; then what is done with it, up to what fails.
async fn examine() -> Vec<Step> {
    let mut steps = Vec::new();
    let _ = walk(&mut steps).await;
    steps
}

/// Notes a step, and stops at one that fails.
fn note<T>(
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

async fn walk(steps: &mut Vec<Step>) -> Option<()> {
    let wanted = doctor::gvisor(&GvisorConfig::new("."));
    let all = wanted.iter().all(|finding| finding.good);
    steps.extend(wanted.into_iter().map(|finding| Step {
        name: finding.what,
        ok: finding.good,
        found: finding.detail,
    }));
    if !all {
        return None;
    }
    let folder = note(steps, "folder", folder())?;
    let setup = GvisorConfig { warm: 0, ..GvisorConfig::new(folder.path()) };
    let opened = Gvisor::open(setup).await;
    let shown = |engine: Gvisor| {
        let can = engine.capabilities();
        let text = format!("limits on {}", can.limits.join(", "));
        (engine, text)
    };
    let engine = note(steps, "engine", opened.map(shown).map_err(|error| error.to_string()))?;
    let tried = try_sandbox(&engine).await;
    engine.shutdown().await;
    note(steps, "sandbox", tried.map(|text| ((), text)))?;
    let can = engine.capabilities();
    let more = match can.checkpoint {
        true => "",
        false => "; it cannot be written to disk",
    };
    note(steps, "isolation", Ok(((), format!("{}{more}", can.isolation))))
}

fn folder() -> Result<(tempfile::TempDir, String), String> {
    let made = tempfile::tempdir().and_then(|folder| {
        // Programs inside of sandboxes are not root outside: they pass through.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
        Ok(folder)
    });
    let folder = made.map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let text = folder.path().display().to_string();
    Ok((folder, text))
}

/// A sandbox from its beginning to its end, with a command in it.
async fn try_sandbox(engine: &Gvisor) -> Result<String, String> {
    let text = |error: Error| error.to_string();
    let id: SandboxId = "doctor".parse().map_err(text)?;
    let start = Instant::now();
    engine.create(SandboxSpec::new(id.clone(), Root::Host)).await.map_err(text)?;
    let created = start.elapsed();
    let said = hello(engine, &id).await;
    let destroyed = engine.destroy(&id).await;
    let said = said?;
    destroyed.map_err(text)?;
    Ok(format!("created in {} ms; a command in it said {said:?}", created.as_millis()))
}

async fn hello(engine: &Gvisor, id: &SandboxId) -> Result<String, String> {
    let stream = engine.connect(id).await.map_err(|error| error.to_string())?;
    let exec = Exec {
        argv: ["/bin/sh", "-c", "echo hello from $(uname -s)"].map(str::to_owned).into(),
        timeout_ms: Some(10_000),
        ..Exec::default()
    };
    let run = async { client::exec(stream, exec).await?.output(4096).await };
    let output = run.await.map_err(|error: ClientError| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.shell_code() {
        0 => Ok(said),
        code => Err(format!("a command in a sandbox failed with {code}: {said}")),
    }
}
