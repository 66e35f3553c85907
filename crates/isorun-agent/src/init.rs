//! The agent itself: one thread, one task for each connection.

mod agent;
mod cell;
mod cgroups;
mod conn;
mod context;
mod contexts;
mod exec;
mod files;
mod forward;
mod freezer;
mod hosts;
mod interpreter;
mod interrupt;
mod launch;
mod proc;
mod reaper;
mod remove;
mod requests;
mod root;
mod script;
mod session;
mod sessions;
mod shell;
mod spawn;
mod users;

use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::LocalSet;

use agent::Agent;
use cgroups::Cgroups;
use contexts::Contexts;
use sessions::Sessions;

/// The maximum number of open connections. Further ones wait in the listener's
/// queue.
const MAX_CONNECTIONS: usize = 4096;

/// Serves connections until the sandbox ends.
pub fn run(listen: SocketAddr, peer: IpAddr) -> io::Result<()> {
    let cgroups = Cgroups::mount().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot set up control groups: {error}"))
    })?;
    root::enter().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot enter the root file system: {error}"))
    })?;
    shared_memory().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot create /dev/shm: {error}"))
    })?;
    cgroups::drop_privileges()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let agent = Rc::new(Agent::new(cgroups));
        let sessions = Rc::new(Sessions::new(Rc::clone(&agent)));
        let contexts = Rc::new(Contexts::new(Rc::clone(&agent)));
        let listener = TcpListener::bind(listen).await?;
        // Until here the engine could read error messages. A guest must not be able to
        // write there.
        root::redirect_stdio()?;
        // Before the first connection, so that no exit of a child is missed.
        let mut children = reaper::signals()?;
        let reaping = Rc::clone(&agent);
        tokio::task::spawn_local(async move {
            loop {
                while reaping.reaper.reap_some() {
                    tokio::task::yield_now().await;
                }
                reaping.cgroups.sweep();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        let open = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = std::sync::Arc::clone(&open).acquire_owned().await else {
                return Ok(());
            };
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(_) => {
                    // Out of file descriptors, for example. That is temporary.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            // Programs inside can connect to this port too, and not all of them are
            // root.
            if from.ip() != peer {
                continue;
            }
            let (agent, sessions) = (Rc::clone(&agent), Rc::clone(&sessions));
            let contexts = Rc::clone(&contexts);
            tokio::task::spawn_local(async move {
                let open = agent.freezer.count_connection();
                requests::serve(&agent, &sessions, &contexts, stream).await;
                drop(open);
                drop(slot);
            });
        }
    })
}

/// Creates the directory of POSIX shared memory and semaphores, which every user
/// may write to, as to `/tmp`.
fn shared_memory() -> io::Result<()> {
    fs::create_dir_all("/dev/shm")?;
    fs::set_permissions("/dev/shm", Permissions::from_mode(0o1777))
}
