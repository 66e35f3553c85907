//! What a packager or a shell wants from the command: completions and man
//! pages, made from the same definitions as `--help`.

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

/// Prints the man page of the whole, or of one command.
pub fn man(command: Option<&str>) -> Result<(), Failure> {
    let mut whole = Cli::command();
    // Completes each command: its full name is the title of its page.
    whole.build();
    let page = match command {
        None => whole,
        Some(name) => subcommand(&whole, name)?,
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

fn subcommand(whole: &Command, name: &str) -> Result<Command, Failure> {
    whole.find_subcommand(name).cloned().ok_or_else(|| {
        let names: Vec<_> = whole.get_subcommands().map(Command::get_name).collect();
        Failure::usage(format!("there is no command {name:?}"))
            .hint(format!("the commands are {}", names.join(", ")))
    })
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::output)
}
