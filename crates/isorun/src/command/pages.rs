//! Output for other programs: completion scripts and the OpenAPI description.

use std::{io::Write, process::ExitCode};

use clap::CommandFactory as _;

use super::Cli;
use crate::failure::Failure;

pub fn completions(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "isorun", &mut script);
    std::io::stdout().write_all(&script).map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}

pub fn openapi() -> Result<ExitCode, Failure> {
    let mut text =
        isorun_server::openapi().to_pretty_json().map_err(|error| Failure::Other(error.into()))?;
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}
