//! Two threads in other namespaces than the rest of the process, since the
//! namespaces of a child process or a socket are those of the thread that creates
//! it.
//!
//! The **launcher** has a mount namespace of its own and starts every program from
//! there:
//!
//! - the built-in image consists of bind mounts of directories of the machine,
//!   which are visible in this namespace only, and are gone when the last process
//!   that uses it has exited;
//! - an empty file system is mounted over `/proc/sys/net`. From Linux 6.11 on,
//!   runsc before October 2024 takes the files there as a sign that it runs in the
//!   machine's own network namespace, and refuses to run (google/gvisor#10704).
//!
//! The **connector** creates sockets in the network namespaces of the sandboxes,
//! one at a time.
// Entering a namespace is `unsafe` in rustix because it may separate a thread from
// state that it shares with other threads. These two threads run nothing but this
// module's tasks.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

/// The file in a container's directory with the output of the programs that the
/// launcher runs, and with that of the agent until it serves.
pub const OUTPUT_FILE: &str = "output";

type ThreadTask = Box<dyn FnOnce() + Send>;

/// A handle on both threads. They end when its last clone is dropped.
#[derive(Clone)]
pub struct Launcher {
    launcher: mpsc::Sender<ThreadTask>,
    connector: mpsc::Sender<ThreadTask>,
}

/// A directory of the machine that is mounted read-only at another path.
#[derive(Clone, Debug)]
pub struct BindMount {
    pub source: PathBuf,
    pub target: PathBuf,
}

/// A file or directory of the built-in image over which an empty one is mounted.
#[derive(Clone, Debug)]
pub struct Mask {
    pub with: PathBuf,
    pub target: PathBuf,
}

impl Launcher {
    /// Starts both threads. Fails if this process lacks the privileges that they need.
    pub fn start(binds: Vec<BindMount>) -> io::Result<Self> {
        Ok(Self {
            launcher: spawn_thread("isorun-launcher", move || unshare_mounts(&binds))?,
            connector: spawn_thread("isorun-connector", || Ok(()))?,
        })
    }

    /// Mounts masks over paths, for programs that are started from now on. Masks that
    /// are mounted already stay.
    pub async fn mask(&self, masks: Vec<Mask>) -> io::Result<()> {
        self.on_launcher(move || masks.iter().try_for_each(mask)).await?
    }

    /// Runs a program in a network namespace, with no input. `None` is the machine's
    /// own. Returns the output of the program if it fails.
    pub async fn run_in(
        &self,
        network: Option<Arc<OwnedFd>>,
        mut command: Command,
        dir: &Path,
    ) -> io::Result<Result<(), String>> {
        // Not a pipe: processes that the program leaves running would keep it open.
        let output =
            File::options().read(true).append(true).create(true).open(dir.join(OUTPUT_FILE))?;
        let start = output.metadata()?.len();
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        let mut child: Child = self
            .on_launcher(move || {
                let own = match &network {
                    Some(network) => {
                        let own = current_network()?;
                        enter_network(network)?;
                        Some(own)
                    }
                    None => None,
                };
                let child = command.spawn();
                if let Some(own) = own {
                    enter_network(&own)?;
                }
                child
            })
            .await??;
        let status =
            tokio::task::spawn_blocking(move || child.wait()).await.map_err(io::Error::other)??;
        if status.success() {
            return Ok(Ok(()));
        }
        Ok(Err(format!("{status}: {}", read_output(output, start)?)))
    }

    /// Creates an empty network namespace.
    pub async fn new_network(&self) -> io::Result<Arc<OwnedFd>> {
        self.on_launcher(|| {
            let own = current_network()?;
            // SAFETY: unshares the network namespace of this thread only, which shares
            // no state with others that the call could separate.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
            let new = current_network();
            enter_network(&own)?;
            new.map(Arc::new)
        })
        .await?
    }

    /// Creates a TCP socket in a network namespace.
    pub async fn socket_in(&self, network: Arc<OwnedFd>) -> io::Result<TcpSocket> {
        self.create_in(network, TcpSocket::new_v4).await
    }

    /// Creates something in a network namespace that belongs to it from then on, such
    /// as a socket.
    pub async fn create_in<T: Send + 'static>(
        &self,
        network: Arc<OwnedFd>,
        create: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.connector
            .send(Box::new(move || {
                // The caller may have been cancelled.
                let _ = sender.send(enter_network(&network).and_then(|()| create()));
            }))
            .map_err(|_| thread_ended())?;
        receiver.await.map_err(|_| thread_ended())?
    }

    async fn on_launcher<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.launcher
            .send(Box::new(move || {
                let _ = sender.send(job());
            }))
            .map_err(|_| thread_ended())?;
        receiver.await.map_err(|_| thread_ended())
    }
}

/// Starts a thread that runs tasks one after the other.
fn spawn_thread(
    name: &str,
    prepare: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<mpsc::Sender<ThreadTask>> {
    let (sender, jobs) = mpsc::channel::<ThreadTask>();
    let (ready, prepared) = mpsc::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let outcome = prepare();
        let good = outcome.is_ok();
        let _ = ready.send(outcome);
        if good {
            for job in jobs {
                job();
            }
        }
    })?;
    prepared.recv().map_err(|_| thread_ended())??;
    Ok(sender)
}

fn unshare_mounts(binds: &[BindMount]) -> io::Result<()> {
    // SAFETY: unshares the mount namespace, and with it the working directory, of this
    // thread only. The thread was just started, and uses absolute paths.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS)? };
    // Propagate unmounts from the machine into this namespace, and nothing the other
    // way.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave)?;
    if Path::new("/proc/sys/net").is_dir() {
        mount("none", "/proc/sys/net", "tmpfs", MountFlags::empty(), None)?;
    }
    for BindMount { source, target } in binds {
        mount_bind_recursive(source, target)?;
        mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    Ok(())
}

fn mask(Mask { with, target }: &Mask) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let ours = std::fs::symlink_metadata(with)?;
    match std::fs::symlink_metadata(target) {
        Ok(found) if (found.dev(), found.ino()) == (ours.dev(), ours.ino()) => return Ok(()),
        Ok(_) => {}
        // The target was removed since it was found.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match mount_bind(with, target) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount_remount(target, flags, "")?)
}

fn current_network() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

fn enter_network(network: impl AsFd) -> io::Result<()> {
    Ok(move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Returns the first bytes of the output from that offset on. `runsc` reports the
/// error first, and then a stack trace.
fn read_output(mut output: File, start: u64) -> io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    const MAX_REPORTED_BYTES: u64 = 2048;
    output.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    output.take(MAX_REPORTED_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn thread_ended() -> io::Error {
    io::Error::other("a thread of the engine has ended")
}
