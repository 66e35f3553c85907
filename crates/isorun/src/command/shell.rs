//! `isorun shell`: one bash for all lines that come.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::{ServerArgs, connect};
use crate::{
    client::{Client, Conversation, Told},
    failure::Failure,
    id::RunId,
};

#[derive(clap::Args)]
pub struct Args {
    /// The sandbox
    #[arg(value_parser = super::run_id)]
    id: RunId,

    /// Go on with this session: one that lost its connection, or that the original of a fork had
    #[arg(long, value_name = "NAME")]
    session: Option<String>,

    /// Leave the shell running at the end, and print its session to standard error
    #[arg(long)]
    keep: bool,

    /// Interrupt a line that takes so long [default: never]
    #[arg(long, value_name = "DURATION", value_parser = super::create::duration)]
    timeout: Option<std::time::Duration>,
}

pub const NOTES: &str = "\
Each line of standard input is a command for one bash, which remembers folder,
variables, functions and background jobs from line to line. The exit code is
that of the last line, or of the shell if a line ends it. For programs that
want a terminal, use `isorun exec --tty`.

Examples:
  isorun shell run0123456789abcdef
  printf 'cd /job\\nmake\\n' | isorun shell run0123456789abcdef";

pub fn run(args: Args, server: ServerArgs) -> Result<ExitCode, Failure> {
    let client = connect(server)?;
    super::block_on(async move { converse(args, client).await })
}

async fn converse(args: Args, client: Client) -> Result<ExitCode, Failure> {
    let mut shell = client.shell(&args.id, args.session.as_deref()).await?;
    let limit = args.timeout.map_or(0.0, |timeout| timeout.as_secs_f64());
    let asks = io::stdin().is_terminal();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut code = 0;
    loop {
        if asks {
            let mut stderr = io::stderr();
            let _ = write!(stderr, "$ ").and_then(|()| stderr.flush());
        }
        let next = lines.next_line().await.map_err(|error| Failure::Other(error.into()))?;
        let Some(line) = next else { break };
        shell.run(&line, limit).await?;
        match outcome(&mut shell).await? {
            Told::Result(ended) => code = ended,
            Told::Closed(ended) => return Ok(exit(ended)),
            Told::Timeout(why) => {
                let _ = writeln!(io::stderr(), "isorun: {why}");
                code = 124;
            }
            Told::Output(..) => {}
        }
    }
    if args.keep {
        let _ = writeln!(io::stderr(), "session {}", shell.session);
    } else {
        shell.close().await?;
    }
    Ok(exit(code))
}

/// Prints what a command prints, until it ends.
async fn outcome(shell: &mut Conversation) -> Result<Told, Failure> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        match shell.next().await? {
            Told::Output(false, bytes) => {
                stdout.write_all(&bytes).await.map_err(Failure::output)?;
                stdout.flush().await.map_err(Failure::output)?;
            }
            Told::Output(true, bytes) => {
                stderr.write_all(&bytes).await.map_err(Failure::output)?;
                stderr.flush().await.map_err(Failure::output)?;
            }
            told => return Ok(told),
        }
    }
}

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}
