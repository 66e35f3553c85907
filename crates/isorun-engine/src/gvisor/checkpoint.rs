//! Writing a container's state to disk.
//!
//! A connection that crosses the sandbox's border makes a checkpoint fail, even
//! one that was closed a moment ago. So before each one the border is closed:
//! no new connection is made, the agent detaches what can go on later, what
//! cannot gets a moment to end by itself, and the rest is reset.

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

/// How long transfers may still go on before they are cut off.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the agent may take to notice that.
const SETTLING: Duration = Duration::from_secs(10);
/// The file that a checkpoint always has.
const MAIN_FILE: &str = "checkpoint.img";

/// What `runsc` says of a connection that it cannot write.
const LINGERS: &str = "save rejected due to unsupported networking state";
/// Pauses double up to this one; they are 63 s together, and a connection lingers
/// for 60.
const LINGERING: Duration = Duration::from_secs(32);
/// There when a checkpoint that ended its sandbox is whole.
const LAST_FILE: &str = "whole";

/// Whether a folder has a checkpoint that ended its sandbox, all of it.
pub fn is_whole(folder: &Path) -> bool {
    folder.join(LAST_FILE).is_file()
}

/// Whether a folder has a checkpoint in it, as far as names tell.
pub fn is_one(folder: &Path) -> bool {
    folder.join(MAIN_FILE).is_file()
}

/// Writes the state of a container into an empty folder.
///
/// A connection to the outside that a program ended first, and that was ended
/// properly from outside, lingers inside for a minute, where nobody can find it.
/// So what is refused for that reason is tried again.
pub async fn write(
    inner: &Inner,
    container: &Container,
    into: &Path,
    leave_running: bool,
) -> Result<()> {
    let mut pause = Duration::from_millis(500);
    loop {
        match attempt(inner, container, into, leave_running).await {
            Err(Error::Failed(why)) if why.contains(LINGERS) && pause <= LINGERING => {
                tracing::debug!(container = container.name, "a connection lingers");
                sleep(pause).await;
                pause *= 2;
                empty(into).map_err(Error::io("cannot remove half a checkpoint"))?;
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
    let _quiet = container.network().quiet().await;
    let _closed = container.close_border().await;
    hang_up(inner, container).await?;
    let folder = inner.containers().join(&container.name);
    let mut command = inner.runsc(&folder);
    // Zeroes are not written: the memory of a sandbox is full of them.
    command.args(["checkpoint", "--compression=none", "--exclude-committed-zero-pages"]);
    command.arg("--image-path").arg(into);
    if leave_running {
        command.arg("--leave-running");
    }
    command.arg(&container.name);
    if !leave_running {
        command = with_mark(command, into);
    }
    inner.run(None, command, "runsc checkpoint", &folder).await
}

fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// The same, by a shell that leaves a mark when it went well: also when this
/// process is killed meanwhile, and the sandbox is nowhere but in there.
fn with_mark(command: Command, into: &Path) -> Command {
    let mut marking = Command::new("/bin/sh");
    marking.args(["-c", r#"mark=$1; shift; "$@" && : >"$mark""#, "sh"]);
    marking.arg(into.join(LAST_FILE)).arg(command.get_program()).args(command.get_args());
    marking.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            marking.env(name, value);
        }
    }
    if let Some(folder) = command.get_current_dir() {
        marking.current_dir(folder);
    }
    marking
}

/// Ends every connection across the border.
async fn hang_up(inner: &Inner, container: &Container) -> Result<()> {
    let stream = container
        .connect_at_border(inner)
        .await
        .map_err(Error::io("the sandbox's agent does not answer before a checkpoint"))?;
    let freezing = client::freeze(stream);
    tokio::pin!(freezing);
    let outcome = match timeout(PATIENCE, &mut freezing).await {
        Ok(outcome) => outcome,
        Err(_) => {
            container.reset_connections();
            timeout(SETTLING, freezing).await.map_err(|_| {
                Error::Timeout("ending the connections before a checkpoint".to_owned(), SETTLING)
            })?
        }
    };
    outcome.map_err(|error| {
        Error::Failed(format!("the agent does not get ready for a checkpoint: {error}"))
    })
}
