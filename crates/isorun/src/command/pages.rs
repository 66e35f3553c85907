//! Output for other programs: completion scripts, man pages and the OpenAPI description.

use std::{io::Write, process::ExitCode};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::Cli;
use crate::failure::Failure;

pub fn completions(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "isorun", &mut script);
    std::io::stdout().write_all(&script).map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the main man page, or that of one command.
pub fn man(command: Option<&str>) -> Result<ExitCode, Failure> {
    let mut root = Cli::command();
    // Sets the full name of each command, which is the title of its page.
    root.build();
    let page = match command {
        None => root,
        Some(name) => subcommand(&root, name)?,
    };
    let mut roff = Vec::new();
    Man::new(page)
        .source(concat!("isorun ", env!("CARGO_PKG_VERSION")))
        .manual("isorun manual")
        .render(&mut roff)
        .map_err(Failure::output)?;
    std::io::stdout().write_all(&roff).map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}

fn subcommand(root: &Command, name: &str) -> Result<Command, Failure> {
    root.find_subcommand(name).cloned().ok_or_else(|| {
        let visible = root.get_subcommands().filter(|command| !command.is_hide_set());
        let names: Vec<_> = visible.map(Command::get_name).collect();
        Failure::usage(format!("there is no command {name:?}"))
            .hint(format!("the commands are {}", names.join(", ")))
    })
}

pub fn openapi() -> Result<ExitCode, Failure> {
    let mut text =
        isorun_server::openapi().to_pretty_json().map_err(|error| Failure::Other(error.into()))?;
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}
