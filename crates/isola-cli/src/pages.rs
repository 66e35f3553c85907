//! Shell completions and man pages, generated from the same definitions as
//! `--help`.

use std::io::{self, Write as _};

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{cli::Cli, failure::Failure};

/// Prints a completion script.
pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "isola", &mut script);
    print(&script)
}

/// Prints the main man page, or that of one command.
pub fn man(command: Option<&str>) -> Result<(), Failure> {
    let mut root = Cli::command();
    // Sets the full name of each command, which is the title of its page.
    root.build();
    let page = match command {
        None => root,
        Some(name) => subcommand(&root, name)?,
    };
    let mut roff = Vec::new();
    let source = concat!("isola ", env!("CARGO_PKG_VERSION"));
    Man::new(page)
        .source(source)
        .manual("isola manual")
        .render(&mut roff)
        .map_err(Failure::output)?;
    print(&roff)
}

fn subcommand(root: &Command, name: &str) -> Result<Command, Failure> {
    root.find_subcommand(name).cloned().ok_or_else(|| {
        let names: Vec<_> = root.get_subcommands().map(Command::get_name).collect();
        Failure::usage(format!("there is no command {name:?}"))
            .hint(format!("the commands are {}", names.join(", ")))
    })
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::output)
}
