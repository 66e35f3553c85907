//! `isorun shell`: runs the lines of standard input in one bash.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::{ServerArgs, connect};
use crate::{
    client::{Client, ShellEvent, ShellSession},
    failure::Failure,
};
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct ShellArgs {
    /// The sandbox
    #[arg(value_parser = super::run_id)]
    id: RunId,

    /// Reattach to this session, after a lost connection or in a fork
    #[arg(long, value_name = "NAME")]
    session: Option<String>,

    /// Leave the shell running at the end, and print its session to standard error
    #[arg(long)]
    keep: bool,

    /// Interrupt a line that takes longer [default: never]
    #[arg(long, value_name = "DURATION", value_parser = super::create::duration)]
    timeout: Option<std::time::Duration>,
}

pub const NOTES: &str = "\
Each line of standard input is a command for one bash, which keeps its working
directory, variables, functions and background jobs from line to line. The exit
code is that of the last line, or of the shell if a line exits it. For programs
that need a terminal, use `isorun exec --tty`.

Examples:
  isorun shell run0123456789abcdef
  printf 'cd /job\\nmake\\n' | isorun shell run0123456789abcdef";

pub fn run(args: ShellArgs, server: ServerArgs) -> Result<ExitCode, Failure> {
    let client = connect(server)?;
    super::block_on(async move { run_lines(args, client).await })
}

async fn run_lines(args: ShellArgs, client: Client) -> Result<ExitCode, Failure> {
    let mut shell = client.shell(&args.id, args.session.as_deref()).await?;
    let limit = args.timeout.map_or(0.0, |timeout| timeout.as_secs_f64());
    let interactive = io::stdin().is_terminal();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut code = 0;
    loop {
        if interactive {
            let mut stderr = io::stderr();
            let _ = write!(stderr, "$ ").and_then(|()| stderr.flush());
        }
        let next = lines.next_line().await.map_err(|error| Failure::Other(error.into()))?;
        let Some(line) = next else { break };
        shell.run(&line, limit).await?;
        match print_output(&mut shell).await? {
            ShellEvent::Result(exit_code) => code = exit_code,
            ShellEvent::Closed(exit_code) => return Ok(to_exit_code(exit_code)),
            ShellEvent::Timeout(message) => {
                let _ = writeln!(io::stderr(), "isorun: {message}");
                code = 124;
            }
            ShellEvent::Output(..) => {}
        }
    }
    if args.keep {
        let _ = writeln!(io::stderr(), "session {}", shell.session);
    } else {
        shell.close().await?;
    }
    Ok(to_exit_code(code))
}

/// Prints the output of a command until another event is received, and returns that event.
async fn print_output(shell: &mut ShellSession) -> Result<ShellEvent, Failure> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        match shell.next().await? {
            ShellEvent::Output(false, bytes) => {
                stdout.write_all(&bytes).await.map_err(Failure::output)?;
                stdout.flush().await.map_err(Failure::output)?;
            }
            ShellEvent::Output(true, bytes) => {
                stderr.write_all(&bytes).await.map_err(Failure::output)?;
                stderr.flush().await.map_err(Failure::output)?;
            }
            event => return Ok(event),
        }
    }
}

fn to_exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}
