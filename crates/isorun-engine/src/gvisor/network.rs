//! The network of one sandbox: a network namespace with both ends of a veth pair.
//!
//! gVisor takes over the end `inside`. The end `outside` belongs to the engine and
//! is in the same namespace, which has no route to the machine. All IPv4 addresses
//! are local there, and every connection that arrives at `outside` is handed to the
//! listening socket of the proxy, regardless of its destination (nftables,
//! `tproxy`).
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

use isorun_agent::protocol::AGENT_PORT;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::Inner;
use super::launcher::{self, Launcher};
use super::link::{self, INSIDE_ADDRESS};
use crate::engine::{Error, Result, SandboxId};
use isorun_egress::Plan;
use isorun_egress::egress::Sockets;
use isorun_egress::proxy::{EgressProxy, QuiesceGuard};

/// The port on which the proxy listens. Connections to the agent's address never
/// come from this port.
const PROXY_PORT: u16 = 3;
/// The maximum number of connections that wait to be accepted.
const LISTEN_BACKLOG: i32 = 512;

/// The network namespace. It exists as long as this value, or a process in it.
#[derive(Debug)]
pub struct Network {
    namespace: Arc<OwnedFd>,
    proxy: OnceLock<Proxy>,
}

/// The proxy, and the task that serves it.
#[derive(Debug)]
struct Proxy {
    sandbox: Arc<EgressProxy>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the nftables rules for packets that arrive at `outside`. Frames for
/// gVisor pass through the kernel at `inside`, where they must be ignored.
fn filter() -> String {
    format!(
        "table ip isorun {{\n\
           chain ours {{ type filter hook prerouting priority raw; policy accept;\n\
             iifname \"inside\" drop\n\
           }}\n\
           chain proxy {{ type filter hook prerouting priority mangle; policy accept;\n\
             iifname \"outside\" meta l4proto tcp tproxy to :{PROXY_PORT} accept\n\
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

/// Returns the reason why connections cannot be redirected to the proxy on this
/// machine, or `None` if they can.
pub async fn unavailable_reason(launcher: &Launcher, dir: &Path) -> Option<String> {
    let attempt = async {
        let namespace = launcher.new_network().await.map_err(|error| error.to_string())?;
        let path = dir.join("filter");
        fs::write(&path, filter()).map_err(|error| error.to_string())?;
        let mut command = Command::new("nft");
        command.arg("-f").arg(&path);
        let ran = launcher.run_in(Some(namespace), command, dir).await;
        let _ = fs::remove_file(dir.join(launcher::OUTPUT_FILE));
        match ran {
            Ok(outcome) => outcome
                .map_err(|text| format!("the kernel lacks nf_tables or its tproxy module: {text}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err("there is no `nft`: install the package nftables".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    };
    attempt.await.err()
}

impl Network {
    /// Creates a network in which only the sandbox's end has an address.
    pub async fn create(inner: &Inner, dir: &Path) -> Result<Self> {
        let namespace = inner
            .launcher
            .new_network()
            .await
            .map_err(Error::io("cannot create a network namespace"))?;
        let network = Self { namespace, proxy: OnceLock::new() };
        link::create_veth(&inner.launcher, &network.namespace)
            .await
            .map_err(Error::io("cannot create the veth pair of a sandbox"))?;
        if inner.network_unavailable.is_none() {
            network.filter(inner, dir).await?;
        }
        Ok(network)
    }

    /// Returns the network of a process that an earlier server has started.
    pub fn adopt(pid: i32) -> io::Result<Self> {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        Ok(Self { namespace: Arc::new(namespace.into()), proxy: OnceLock::new() })
    }

    /// Adds the address and route of the `outside` end. Must be called after gVisor has
    /// started.
    pub async fn configure_outside(&self, inner: &Inner) -> Result<()> {
        link::configure_outside(&inner.launcher, &self.namespace)
            .await
            .map_err(Error::io("cannot configure the veth pair of a sandbox"))
    }

    pub fn namespace(&self) -> &Arc<OwnedFd> {
        &self.namespace
    }

    /// Returns a path of the namespace that is valid while this process runs.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    /// Connects to the agent.
    pub async fn connect(&self, inner: &Inner) -> io::Result<TcpStream> {
        let socket = inner.launcher.socket_in(Arc::clone(&self.namespace)).await?;
        let stream = socket.connect((INSIDE_ADDRESS, AGENT_PORT).into()).await?;
        stream.set_nodelay(true)?;
        // Close it by a reset: a connection that lingers inside would make a checkpoint
        // fail.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        Ok(stream)
    }

    /// Starts the proxy. Must be called once only.
    pub async fn start_proxy(&self, inner: &Inner, id: SandboxId, plan: Plan) -> Result<()> {
        if inner.network_unavailable.is_some() {
            return Ok(());
        }
        let made = inner.launcher.create_in(Arc::clone(&self.namespace), proxy_sockets).await;
        let (connections, questions) = made.map_err(Error::io("cannot listen for a sandbox"))?;
        let sockets = TcpListener::from_std(connections)
            .and_then(|connections| {
                let questions = UdpSocket::from_std(questions)?;
                Ok(Sockets { connections, questions })
            })
            .map_err(Error::io("cannot listen for a sandbox"))?;
        let sandbox = EgressProxy::new(id, Arc::clone(&inner.gate), plan);
        let task = tokio::spawn(Arc::clone(&sandbox).serve(sockets));
        let proxy = Proxy { sandbox, task };
        self.proxy
            .set(proxy)
            .map_err(|_| Error::Failed("a sandbox's proxy was started twice".to_owned()))
    }

    /// Changes the network policy.
    pub fn set_plan(&self, plan: Plan) -> Result<()> {
        match self.proxy.get() {
            Some(proxy) => proxy.sandbox.set_plan(plan),
            None if plan == Plan::default() => {}
            None => return Err(Error::Failed("a sandbox has no proxy".to_owned())),
        }
        Ok(())
    }

    /// Resets every connection between the sandbox and the outside, and refuses new
    /// ones until the guard is dropped: an open connection would make a checkpoint
    /// fail.
    pub async fn quiesce(&self) -> Option<QuiesceGuard> {
        match self.proxy.get() {
            Some(proxy) => Some(proxy.sandbox.quiesce().await),
            None => None,
        }
    }

    async fn filter(&self, inner: &Inner, dir: &Path) -> Result<()> {
        let path = dir.join("filter");
        fs::write(&path, filter()).map_err(Error::io("cannot write the filter of a network"))?;
        let mut command = Command::new("nft");
        command.arg("-f").arg(&path);
        inner.run(Some(&self.namespace), command, "nft", dir).await
    }
}

/// Creates the sockets of the proxy, in the network namespace of the calling
/// thread.
fn proxy_sockets() -> io::Result<(std::net::TcpListener, std::net::UdpSocket)> {
    use socket2::{Domain, Protocol, SockAddr, Socket, Type};
    let any = |port| SockAddr::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    let connections = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    connections.set_reuse_address(true)?;
    // The kernel delivers connections to other addresses only to a transparent socket.
    connections.set_ip_transparent_v4(true)?;
    connections.bind(&any(PROXY_PORT))?;
    connections.listen(LISTEN_BACKLOG)?;
    connections.set_nonblocking(true)?;
    let questions = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    questions.set_reuse_address(true)?;
    questions.bind(&any(isorun_egress::dns::PORT))?;
    questions.set_nonblocking(true)?;
    Ok((connections.into(), questions.into()))
}
