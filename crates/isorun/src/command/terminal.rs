//! Runs a command in a sandbox with the standard streams or the terminal of this process.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use bytes::{Bytes, BytesMut};
use rustix::termios::{self, OptionalActions, Termios};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
};

use crate::{
    client::{AttachEvent, Attachment, Client, ClientError},
    failure::Failure,
};
use isorun_api::RunId;
use isorun_api::{Command, Encoding, ExecRequest};

/// The command, and the options for running it.
#[derive(clap::Args)]
pub struct CommandArgs {
    /// Run it on a terminal, for interactive programs
    #[arg(short, long)]
    pub tty: bool,

    /// Kill it and every process that it started after this time [default: never]
    #[arg(long, value_name = "DURATION", value_parser = super::create::duration)]
    pub timeout: Option<std::time::Duration>,

    /// The working directory [default: the image's]
    #[arg(short = 'w', long, value_name = "PATH")]
    pub cwd: Option<String>,

    /// A program and its arguments; use `sh -c LINE` for a shell command
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Runs a command until it exits, and returns its exit code.
pub async fn run_command(
    client: &Client,
    id: &RunId,
    args: &CommandArgs,
) -> Result<ExitCode, Failure> {
    if args.tty {
        run_on_terminal(client, id, args).await
    } else {
        run_on_pipes(client, id, args).await
    }
}

async fn run_on_pipes(
    client: &Client,
    id: &RunId,
    args: &CommandArgs,
) -> Result<ExitCode, Failure> {
    if args.command.is_empty() {
        return Err(Failure::usage("no command was specified")
            .hint("put it after two dashes: `-- COMMAND ARGS`"));
    }
    let request = ExecRequest {
        command: Command::Program(args.command.clone()),
        timeout: Some(args.timeout.map_or(0.0, |timeout| timeout.as_secs_f64())),
        env: None,
        cwd: args.cwd.clone(),
        stdin: None,
        encoding: Encoding::Text,
    };
    let attachment = client.attach(id, &request).await?;
    relay(
        attachment,
        |output| {
            // The first byte is the number of the stream.
            match output.first() {
                Some(2) => Some((true, output.slice(1..))),
                Some(1) => Some((false, output.slice(1..))),
                _ => None,
            }
        },
        None,
    )
    .await
}

async fn run_on_terminal(
    client: &Client,
    id: &RunId,
    args: &CommandArgs,
) -> Result<ExitCode, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("standard input is not a terminal, which --tty requires"));
    }
    let line = (!args.command.is_empty()).then(|| shell_line(&args.command));
    let attachment = client.terminal(id, size(), line.as_deref()).await?;
    let _raw = RawMode::enter()?;
    relay(attachment, |output| Some((false, output)), Some(())).await
}

/// Forwards bytes in both directions until the command exits.
async fn relay(
    attachment: Attachment,
    split: impl Fn(Bytes) -> Option<(bool, Bytes)>,
    terminal: Option<()>,
) -> Result<ExitCode, Failure> {
    let Attachment { mut events, mut input } = attachment;
    let send_input = async {
        let mut stdin = tokio::io::stdin();
        let mut resized = signal(SignalKind::window_change())?;
        let mut open = true;
        loop {
            let mut buffer = BytesMut::with_capacity(64 << 10);
            tokio::select! {
                read = stdin.read_buf(&mut buffer), if open => match read? {
                    0 => {
                        open = false;
                        if terminal.is_none() {
                            input.close().await?;
                        }
                    }
                    _ => input.write(buffer.freeze()).await?,
                },
                Some(()) = resized.recv(), if terminal.is_some() => input.resize(size()).await?,
                else => return Ok::<(), ClientError>(()),
            }
        }
    };
    let print_output = async {
        let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
        loop {
            match events.next().await? {
                AttachEvent::Exit(code) => return Ok(code),
                AttachEvent::Output(bytes) => match split(bytes) {
                    Some((false, bytes)) => {
                        stdout.write_all(&bytes).await.map_err(Failure::output)?;
                        stdout.flush().await.map_err(Failure::output)?;
                    }
                    Some((true, bytes)) => {
                        stderr.write_all(&bytes).await.map_err(Failure::output)?;
                        stderr.flush().await.map_err(Failure::output)?;
                    }
                    None => {
                        let message = "the server sent output of an unknown stream".to_owned();
                        return Err(Failure::Client(ClientError::Connection(message)));
                    }
                },
            }
        }
    };
    // An error of the input also ends the output.
    let send_input = async {
        let _ = send_input.await;
        std::future::pending().await
    };
    let code = tokio::select! {
        code = print_output => code?,
        never = send_input => never,
    };
    Ok(ExitCode::from(u8::try_from(code.clamp(0, 255)).unwrap_or(255)))
}

/// Quotes words for a shell, as a line that replaces the shell with the command.
fn shell_line(words: &[String]) -> String {
    let quote = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    let words: Vec<_> = words.iter().map(quote).collect();
    format!("exec {}", words.join(" "))
}

/// Returns the columns and rows of the terminal.
fn size() -> (u16, u16) {
    match termios::tcgetwinsize(rustix::stdio::stdin()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}

/// Sets the terminal to raw mode, and restores its previous mode when dropped.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Result<Self, Failure> {
        let stdin = rustix::stdio::stdin();
        let set = || {
            let before = termios::tcgetattr(stdin)?;
            let mut raw = before.clone();
            raw.make_raw();
            termios::tcsetattr(stdin, OptionalActions::Flush, &raw)?;
            Ok::<_, rustix::io::Errno>(Self(before))
        };
        set().map_err(|error| {
            Failure::Other(anyhow::Error::new(error).context("cannot set the terminal to raw mode"))
        })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_for_the_shell() {
        let words = ["printf", "%s.", "a b", "it's", "", "$HOME", "*", "\n"].map(str::to_owned);
        let output =
            std::process::Command::new("sh").arg("-c").arg(shell_line(&words)).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a b.it's..$HOME.*.\n.");
    }
}
