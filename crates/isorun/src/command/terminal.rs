//! The user's side of a command in a sandbox: standard streams or a terminal.

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
    api::{Command, Encoding, ExecRequest},
    client::{Attached, Client, ClientError, Said},
    failure::Failure,
    id::RunId,
};

/// How a command is run.
#[derive(clap::Args)]
pub struct CommandArgs {
    /// Give it a terminal, for programs that people talk to
    #[arg(short, long)]
    pub tty: bool,

    /// Kill it, with all that it started, after so long [default: never]
    #[arg(long, value_name = "DURATION", value_parser = super::create::duration)]
    pub timeout: Option<std::time::Duration>,

    /// The folder that it starts in [default: the image's]
    #[arg(short = 'w', long, value_name = "PATH")]
    pub cwd: Option<String>,

    /// A program and its arguments; `sh -c LINE` for a line of shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Runs it until it ends; gives its exit code.
pub async fn converse(
    client: &Client,
    id: &RunId,
    args: &CommandArgs,
) -> Result<ExitCode, Failure> {
    if args.tty { on_terminal(client, id, args).await } else { on_pipes(client, id, args).await }
}

async fn on_pipes(client: &Client, id: &RunId, args: &CommandArgs) -> Result<ExitCode, Failure> {
    if args.command.is_empty() {
        return Err(Failure::usage("no command").hint("put it after two dashes: `-- COMMAND ARGS`"));
    }
    let request = ExecRequest {
        command: Command::Program(args.command.clone()),
        timeout: Some(args.timeout.map_or(0.0, |timeout| timeout.as_secs_f64())),
        env: None,
        cwd: args.cwd.clone(),
        stdin: None,
        encoding: Encoding::Text,
    };
    let attached = client.attach(id, &request).await?;
    relay(
        attached,
        |output| {
            // One byte tells the stream.
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

async fn on_terminal(client: &Client, id: &RunId, args: &CommandArgs) -> Result<ExitCode, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("--tty needs a terminal, and standard input is none"));
    }
    let line = (!args.command.is_empty()).then(|| quoted(&args.command));
    let attached = client.terminal(id, size(), line.as_deref()).await?;
    let _raw = Raw::enter()?;
    relay(attached, |output| Some((false, output)), Some(())).await
}

/// Carries bytes both ways until the command ends.
async fn relay(
    attached: Attached,
    split: impl Fn(Bytes) -> Option<(bool, Bytes)>,
    terminal: Option<()>,
) -> Result<ExitCode, Failure> {
    let Attached { mut events, mut input } = attached;
    let speak = async {
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
                            input.end().await?;
                        }
                    }
                    _ => input.bytes(buffer.freeze()).await?,
                },
                Some(()) = resized.recv(), if terminal.is_some() => input.resize(size()).await?,
                else => return Ok::<(), ClientError>(()),
            }
        }
    };
    let listen = async {
        let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
        loop {
            match events.next().await? {
                Said::Exit(code) => return Ok(code),
                Said::Output(bytes) => match split(bytes) {
                    Some((false, bytes)) => {
                        stdout.write_all(&bytes).await.map_err(Failure::output)?;
                        stdout.flush().await.map_err(Failure::output)?;
                    }
                    Some((true, bytes)) => {
                        stderr.write_all(&bytes).await.map_err(Failure::output)?;
                        stderr.flush().await.map_err(Failure::output)?;
                    }
                    None => {
                        let nonsense = "output of no stream".to_owned();
                        return Err(Failure::Client(ClientError::Broken(nonsense)));
                    }
                },
            }
        }
    };
    // What goes wrong with input shows in the command's end.
    let speak = async {
        let _ = speak.await;
        std::future::pending().await
    };
    let code = tokio::select! {
        code = listen => code?,
        never = speak => never,
    };
    Ok(ExitCode::from(u8::try_from(code.clamp(0, 255)).unwrap_or(255)))
}

/// A line that a shell reads as these words.
fn quoted(words: &[String]) -> String {
    let quote = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    let words: Vec<_> = words.iter().map(quote).collect();
    format!("exec {}", words.join(" "))
}

/// Of the terminal: characters in a line, lines.
fn size() -> (u16, u16) {
    match termios::tcgetwinsize(rustix::stdio::stdin()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}

/// A terminal that hands on every key, until this is dropped.
struct Raw(Termios);

impl Raw {
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
            Failure::Other(anyhow::Error::new(error).context("cannot set the terminal"))
        })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        let words = ["printf", "%s.", "a b", "it's", "", "$HOME", "*", "\n"].map(str::to_owned);
        let output =
            std::process::Command::new("sh").arg("-c").arg(quoted(&words)).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a b.it's..$HOME.*.\n.");
    }
}
