//! Two threads that live in other namespaces than the rest of the process, since
//! what a child or a socket belongs to is decided by the thread that makes it.
//!
//! The **launcher** has mounts of its own and starts every program from there:
//!
//! - the built-in image is put together from parts of the machine by mounts that
//!   nothing else sees, and that go with the last process that uses them;
//! - an empty file system lies over `/proc/sys/net`. From Linux 6.11 on, runsc
//!   before October 2024 takes what is there for a sign that it runs in the
//!   machine's own network, and refuses to (google/gvisor#10704).
//!
//! The **connector** makes sockets in the network of one sandbox after the
//! other.
// Entering a namespace is `unsafe` in rustix because it may part a thread from
// what others share with it; here they are threads that nobody else uses.
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

/// The file in a container's folder to which programs print, and the agent until
/// it serves.
pub const OUTPUT: &str = "output";

type Job = Box<dyn FnOnce() + Send>;

/// A handle on both threads; they end with its last clone.
#[derive(Clone)]
pub struct Launcher {
    launcher: mpsc::Sender<Job>,
    connector: mpsc::Sender<Job>,
}

/// A folder of the machine that is to appear in another place, read-only.
#[derive(Clone, Debug)]
pub struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
}

/// A file or folder of the built-in image over which something else is laid.
#[derive(Clone, Debug)]
pub struct Cover {
    pub with: PathBuf,
    pub target: PathBuf,
}

impl Launcher {
    /// Starts both threads. Fails if this process may not do what they need.
    pub fn start(binds: Vec<Bind>) -> io::Result<Self> {
        Ok(Self {
            launcher: thread("isorun-launcher", move || own_mounts(&binds))?,
            connector: thread("isorun-connector", || Ok(()))?,
        })
    }

    /// Lays covers over what programs that are started from now on are not to
    /// see. Those that lie there already stay.
    pub async fn cover(&self, covers: Vec<Cover>) -> io::Result<()> {
        self.on_launcher(move || covers.iter().try_for_each(cover)).await?
    }

    /// Runs a program in a network, with no input; `None` is the machine's own
    /// network. Gives what it printed if it fails.
    pub async fn run_in(
        &self,
        network: Option<Arc<OwnedFd>>,
        mut command: Command,
        folder: &Path,
    ) -> io::Result<Result<(), String>> {
        // Not a pipe: what a program leaves running would hold it open.
        let output =
            File::options().read(true).append(true).create(true).open(folder.join(OUTPUT))?;
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
        Ok(Err(format!("{status}: {}", said(output, start)?)))
    }

    /// A new network with nothing in it.
    pub async fn new_network(&self) -> io::Result<Arc<OwnedFd>> {
        self.on_launcher(|| {
            let own = current_network()?;
            // SAFETY: the network of this thread only; it shares none with others.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
            let new = current_network();
            enter_network(&own)?;
            new.map(Arc::new)
        })
        .await?
    }

    /// A socket in a network.
    pub async fn socket_in(&self, network: Arc<OwnedFd>) -> io::Result<TcpSocket> {
        self.make_in(network, TcpSocket::new_v4).await
    }

    /// Makes something in a network that belongs there from then on, such as a
    /// socket.
    pub async fn make_in<T: Send + 'static>(
        &self,
        network: Arc<OwnedFd>,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.connector
            .send(Box::new(move || {
                // A caller that went away does not want it any more.
                let _ = sender.send(enter_network(&network).and_then(|()| make()));
            }))
            .map_err(|_| ended())?;
        receiver.await.map_err(|_| ended())?
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
            .map_err(|_| ended())?;
        receiver.await.map_err(|_| ended())
    }
}

/// Starts a thread that does one job after the other.
fn thread(
    name: &str,
    prepare: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<mpsc::Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
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
    prepared.recv().map_err(|_| ended())??;
    Ok(sender)
}

fn own_mounts(binds: &[Bind]) -> io::Result<()> {
    // SAFETY: mounts, and the working directory that goes with them, of this
    // thread only. It was just started, and uses absolute paths.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS)? };
    // What is unmounted outside must go here, too; nothing goes the other way.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave)?;
    if Path::new("/proc/sys/net").is_dir() {
        mount("none", "/proc/sys/net", "tmpfs", MountFlags::empty(), None)?;
    }
    for Bind { source, target } in binds {
        mount_bind_recursive(source, target)?;
        mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    Ok(())
}

fn cover(Cover { with, target }: &Cover) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let ours = std::fs::symlink_metadata(with)?;
    match std::fs::symlink_metadata(target) {
        Ok(found) if (found.dev(), found.ino()) == (ours.dev(), ours.ino()) => return Ok(()),
        Ok(_) => {}
        // It went since it was found.
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

/// What was printed from there on. The beginning of it: that is where `runsc` says
/// what is wrong, and then it says where in its code.
fn said(mut output: File, start: u64) -> io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    const MOST: u64 = 2048;
    output.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    output.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn ended() -> io::Error {
    io::Error::other("a thread of the engine has ended")
}
