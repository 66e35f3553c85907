//! The network of one sandbox: a namespace with two ends of a virtual cable.
//!
//! gVisor takes over the end `inside`; the end `outside` is ours, in the same
//! namespace, from which nothing leads to the machine. All addresses of the world
//! are local there, and every connection that comes in at `outside` is handed to
//! one socket of ours, whatever it was for (nftables, `tproxy`): the proxy's.
//!
//! ```text
//!  gVisor ── inside ═══ outside ──▶ tproxy ──▶ :3 the proxy ──▶ (other namespace)
//!  192.0.0.2            192.0.0.1   udp 53 ──▶ our resolver
//!                                   the rest ─▶ refused at once
//! ```

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use isorun_agent::protocol::PORT;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::Inner;
use super::launcher::{self, Launcher};
use super::link;
use crate::engine::{Error, Result, SandboxId};
use crate::network::Plan;
use crate::network::egress::{Quiet, Sandbox, Sockets};

/// What the agent sees as its own address, in every sandbox; from a range that
/// is for translators between a network and a host (RFC 7335), so that it is
/// nobody else's.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// The only address that reaches the agent.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);

/// Where the proxy listens. What connects to the agent's address comes from one of
/// these ports never.
const PROXY: u16 = 3;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 512;

/// The namespace; it lives as long as this, or a process in it.
#[derive(Debug)]
pub struct Network {
    namespace: Arc<OwnedFd>,
    proxy: OnceLock<Proxy>,
}

/// The proxy, and the task that serves it.
#[derive(Debug)]
struct Proxy {
    sandbox: Arc<Sandbox>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What comes in at `outside`. Frames for gVisor pass the kernel at `inside`, which
/// must not look at them.
fn filter() -> String {
    format!(
        "table ip isorun {{\n\
           chain ours {{ type filter hook prerouting priority raw; policy accept;\n\
             iifname \"inside\" drop\n\
           }}\n\
           chain proxy {{ type filter hook prerouting priority mangle; policy accept;\n\
             iifname \"outside\" meta l4proto tcp tproxy to :{PROXY} accept\n\
           }}\n\
           chain rest {{ type filter hook input priority filter; policy accept;\n\
             iifname \"outside\" meta l4proto tcp accept\n\
             iifname \"outside\" udp dport 53 accept\n\
             iifname \"outside\" meta l4proto udp reject\n\
             iifname \"outside\" icmp type echo-request reject with icmp type admin-prohibited\n\
             iifname \"outside\" drop\n\
           }}\n\
         }}\n"
    )
}

/// Why this machine cannot take connections to the proxy, if so.
pub async fn trouble(launcher: &Launcher, folder: &Path) -> Option<String> {
    let attempt = async {
        let namespace = launcher.new_network().await.map_err(|error| error.to_string())?;
        let path = folder.join("filter");
        fs::write(&path, filter()).map_err(|error| error.to_string())?;
        let mut command = Command::new("nft");
        command.arg("-f").arg(&path);
        let ran = launcher.run_in(Some(namespace), command, folder).await;
        let _ = fs::remove_file(folder.join(launcher::OUTPUT));
        match ran {
            Ok(outcome) => outcome.map_err(|text| {
                format!("the kernel lacks a part of nf_tables with tproxy: {text}")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err("there is no `nft`: install the package nftables".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    };
    attempt.await.err()
}

impl Network {
    /// A new one, of which only the sandbox's end has an address.
    pub async fn make(inner: &Inner, folder: &Path) -> Result<Self> {
        let namespace =
            inner.launcher.new_network().await.map_err(Error::io("cannot make a network"))?;
        let network = Self { namespace, proxy: OnceLock::new() };
        link::lay(&inner.launcher, &network.namespace)
            .await
            .map_err(Error::io("cannot make the cable of a sandbox"))?;
        if inner.no_network.is_none() {
            network.filter(inner, folder).await?;
        }
        Ok(network)
    }

    /// That of a process, which an earlier server has made.
    pub fn adopt(pid: i32) -> io::Result<Self> {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        Ok(Self { namespace: Arc::new(namespace.into()), proxy: OnceLock::new() })
    }

    /// Connects it. Only when gVisor runs.
    pub async fn open(&self, inner: &Inner) -> Result<()> {
        link::connect(&inner.launcher, &self.namespace)
            .await
            .map_err(Error::io("cannot connect the cable of a sandbox"))
    }

    pub fn namespace(&self) -> &Arc<OwnedFd> {
        &self.namespace
    }

    /// A file that stands for it while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    /// A connection to the agent.
    pub async fn connect(&self, inner: &Inner) -> io::Result<TcpStream> {
        let socket = inner.launcher.socket_in(Arc::clone(&self.namespace)).await?;
        let stream = socket.connect((INSIDE, PORT).into()).await?;
        stream.set_nodelay(true)?;
        // It ends by a reset: a connection that lingers on, inside, would make a
        // checkpoint fail.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        Ok(stream)
    }

    /// Starts the proxy, once.
    pub async fn guard(&self, inner: &Inner, id: SandboxId, plan: Plan) -> Result<()> {
        if inner.no_network.is_some() {
            return Ok(());
        }
        let made = inner.launcher.make_in(Arc::clone(&self.namespace), sockets).await;
        let (connections, questions) = made.map_err(Error::io("cannot listen for a sandbox"))?;
        let sockets = TcpListener::from_std(connections)
            .and_then(|connections| {
                let questions = UdpSocket::from_std(questions)?;
                Ok(Sockets { connections, questions })
            })
            .map_err(Error::io("cannot listen for a sandbox"))?;
        let sandbox = Sandbox::new(id, Arc::clone(&inner.gate), plan);
        let task = tokio::spawn(Arc::clone(&sandbox).serve(sockets));
        let proxy = Proxy { sandbox, task };
        self.proxy
            .set(proxy)
            .map_err(|_| Error::Failed("a sandbox's proxy was started twice".to_owned()))
    }

    /// Changes what is let through.
    pub fn set_plan(&self, plan: Plan) -> Result<()> {
        match self.proxy.get() {
            Some(proxy) => proxy.sandbox.set_plan(plan),
            None if plan == Plan::default() => {}
            None => return Err(Error::Failed("a sandbox has no proxy".to_owned())),
        }
        Ok(())
    }

    /// Resets every connection between the sandbox and the world, and refuses new
    /// ones until the guard is dropped: one that crosses the border makes a
    /// checkpoint fail.
    pub async fn quiet(&self) -> Option<Quiet> {
        match self.proxy.get() {
            Some(proxy) => Some(proxy.sandbox.quiet().await),
            None => None,
        }
    }

    async fn filter(&self, inner: &Inner, folder: &Path) -> Result<()> {
        let path = folder.join("filter");
        fs::write(&path, filter()).map_err(Error::io("cannot write the filter of a network"))?;
        let mut command = Command::new("nft");
        command.arg("-f").arg(&path);
        inner.run(Some(&self.namespace), command, "nft", folder).await
    }
}

/// Those of the proxy, in the namespace of the thread that runs this.
fn sockets() -> io::Result<(std::net::TcpListener, std::net::UdpSocket)> {
    use socket2::{Domain, Protocol, SockAddr, Socket, Type};
    let any = |port| SockAddr::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    let connections = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    connections.set_reuse_address(true)?;
    // The kernel hands connections that are for others to such a socket only.
    connections.set_ip_transparent_v4(true)?;
    connections.bind(&any(PROXY))?;
    connections.listen(BACKLOG)?;
    connections.set_nonblocking(true)?;
    let questions = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    questions.set_reuse_address(true)?;
    questions.bind(&any(crate::network::dns::PORT))?;
    questions.set_nonblocking(true)?;
    Ok((connections.into(), questions.into()))
}
