//! `isorun run`: creates a sandbox, runs a command in it, and destroys the sandbox.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;

use super::{
    ServerArgs, create,
    embedded::{Embedded, connect_or_start},
    terminal,
};
use crate::{client::Client, failure::Failure};

#[derive(clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    sandbox: create::SandboxArgs,

    #[command(flatten)]
    command: terminal::CommandArgs,
}

pub const NOTES: &str = "\
Standard input is passed to the command, byte for byte; its output is printed
as it arrives. The exit code is the command's own; 124 if it exceeded its
timeout, 125 if it could not be run. Ctrl-C interrupts it. The sandbox is
destroyed in every case.

If no server was specified and none runs on this machine, one is started for
this command.

Examples:
  isorun run host -- python3 -c 'print(2 + 2)'
  isorun run host --mem 256M --timeout 10s -- sh -c 'sort | uniq -c' < words.txt
  isorun run host --tty";

pub fn run(args: RunArgs, server: ServerArgs) -> Result<ExitCode, Failure> {
    // A server in this process runs beside the task that waits for the command's streams.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let outcome = runtime.block_on(async move {
        let (client, embedded) = tokio::select! {
            found = connect_or_start(server) => found?,
            () = super::interrupted() => return Err(Failure::Interrupted),
        };
        let outcome = in_sandbox(&args, &client).await;
        match (outcome, stop(embedded).await) {
            (Ok(code), Ok(())) => Ok(code),
            (Ok(_), Err(failure)) | (Err(failure), _) => Err(failure),
        }
    });
    // A read of standard input cannot be cancelled, so do not wait for it.
    runtime.shutdown_background();
    outcome
}

async fn in_sandbox(args: &RunArgs, client: &Client) -> Result<ExitCode, Failure> {
    // This command destroys the sandbox. If it is killed, the idle timeout does.
    let request = args.sandbox.request(Duration::from_secs(60));
    let run = tokio::select! {
        run = client.create(&request) => run?,
        // The server destroys a sandbox whose request was cancelled.
        () = super::interrupted() => return Err(Failure::Interrupted),
    };
    let outcome = tokio::select! {
        outcome = terminal::run_command(client, &run.id, &args.command) => outcome,
        () = super::interrupted() => Err(Failure::Interrupted),
    };
    match client.destroy(&run.id).await {
        // If the sandbox failed, the outcome already reports it.
        Ok(_) => outcome,
        Err(error) if error.has_code("run_destroyed") => outcome,
        Err(error) => outcome.and(Err(error.into())),
    }
}

async fn stop(embedded: Option<Embedded>) -> Result<(), Failure> {
    match embedded {
        Some(embedded) => embedded.stop().await,
        None => Ok(()),
    }
}
