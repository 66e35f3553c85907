//! Writes the state of a container to disk.
//!
//! A checkpoint fails if a connection between the sandbox and the machine exists,
//! even one that was closed a moment ago. So connections are quiesced before each
//! checkpoint: no new connection is created, the agent detaches the programs and
//! shells that can be reattached to later, other transfers get a moment to finish,
//! and the remaining connections are reset.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use isorun_agent::client;
use tokio::time::{sleep, timeout};

use super::Inner;
use super::container::Container;
use crate::engine::{Error, Result};

/// The time that transfers get to finish before their connections are reset.
const TRANSFER_GRACE: Duration = Duration::from_secs(2);
/// The time that the agent gets to notice the reset of its connections.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// The file that is part of every checkpoint.
const MAIN_FILE: &str = "checkpoint.img";

/// The part of `runsc`'s error message that reports a connection that it cannot
/// save.
const LINGERING_CONNECTION_ERROR: &str = "save rejected due to unsupported networking state";
/// The longest pause between two attempts. Pauses double up to this one. Their sum
/// is 63 s, and a lingering connection is gone after 60 s.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(32);
/// The file that marks a checkpoint that ended its sandbox as complete.
const COMPLETE_MARKER: &str = "whole";

/// Reports whether a directory has a complete checkpoint that ended its sandbox.
pub fn is_complete(dir: &Path) -> bool {
    dir.join(COMPLETE_MARKER).is_file()
}

/// Reports whether a directory has a checkpoint in it, judged by its file names
/// only.
pub fn is_checkpoint(dir: &Path) -> bool {
    dir.join(MAIN_FILE).is_file()
}

/// Writes the state of a container into an empty directory.
///
/// A connection to the outside that a program closed first, and that the other end
/// then closed as well, lingers inside the sandbox for a minute, where the engine
/// cannot find it. So a checkpoint that was refused for that reason is attempted
/// again.
pub async fn write(
    inner: &Inner,
    container: &Container,
    into: &Path,
    leave_running: bool,
) -> Result<()> {
    let mut pause = Duration::from_millis(500);
    loop {
        match attempt(inner, container, into, leave_running).await {
            Err(Error::Failed(why))
                if why.contains(LINGERING_CONNECTION_ERROR) && pause <= MAX_RETRY_PAUSE =>
            {
                tracing::debug!(container = container.name, "a connection lingers");
                sleep(pause).await;
                pause *= 2;
                clear_dir(into).map_err(Error::io("cannot remove an incomplete checkpoint"))?;
            }
            outcome => return outcome,
        }
    }
}

async fn attempt(
    inner: &Inner,
    container: &Container,
    into: &Path,
    leave_running: bool,
) -> Result<()> {
    let _quiet = container.network().quiesce().await;
    let _quiesced = container.quiesce().await;
    end_connections(inner, container).await?;
    let dir = inner.containers().join(&container.name);
    let mut command = inner.runsc(&dir);
    // Pages of zeroes are not written: the memory of a sandbox is full of them.
    command.args(["checkpoint", "--compression=none", "--exclude-committed-zero-pages"]);
    command.arg("--image-path").arg(into);
    if leave_running {
        command.arg("--leave-running");
    }
    command.arg(&container.name);
    if !leave_running {
        command = with_complete_marker(command, into);
    }
    inner.run(None, command, "runsc checkpoint", &dir).await
}

fn clear_dir(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Wraps the command in a shell that creates the marker file if the command
/// succeeds. The shell does so even if this process is killed meanwhile, when the
/// checkpoint is the only copy of the sandbox.
fn with_complete_marker(command: Command, into: &Path) -> Command {
    let mut marking = Command::new("/bin/sh");
    marking.args(["-c", r#"mark=$1; shift; "$@" && : >"$mark""#, "sh"]);
    marking.arg(into.join(COMPLETE_MARKER)).arg(command.get_program()).args(command.get_args());
    marking.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            marking.env(name, value);
        }
    }
    if let Some(dir) = command.get_current_dir() {
        marking.current_dir(dir);
    }
    marking
}

/// Ends every connection between the sandbox and the machine.
async fn end_connections(inner: &Inner, container: &Container) -> Result<()> {
    let stream = container
        .connect_while_quiesced(inner)
        .await
        .map_err(Error::io("the sandbox's agent does not answer before a checkpoint"))?;
    let freezing = client::freeze(stream);
    tokio::pin!(freezing);
    let outcome = match timeout(TRANSFER_GRACE, &mut freezing).await {
        Ok(outcome) => outcome,
        Err(_) => {
            container.reset_connections();
            timeout(FREEZE_TIMEOUT, freezing).await.map_err(|_| {
                Error::Timeout(
                    "ending the connections before a checkpoint".to_owned(),
                    FREEZE_TIMEOUT,
                )
            })?
        }
    };
    outcome.map_err(|error| {
        Error::Failed(format!("the agent cannot prepare for a checkpoint: {error}"))
    })
}
