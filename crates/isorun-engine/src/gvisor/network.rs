//! The network of one sandbox: a namespace with two ends of a virtual cable.
//!
//! gVisor takes over the end `inside`; the end `outside` is ours, in the same
//! namespace, from which nothing leads to the machine.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use isorun_agent::protocol::PORT;
use tokio::net::TcpStream;

use super::Inner;
use crate::engine::{Error, Result};

/// What the agent sees as its own address, in every sandbox; from a range that
/// is for translators between a network and a host (RFC 7335), so that it is
/// nobody else's.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// The only address that reaches the agent.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);

/// The namespace; it lives as long as this, or a process in it.
#[derive(Debug)]
pub struct Network {
    namespace: Arc<OwnedFd>,
}

impl Network {
    /// A new one, of which only the sandbox's end has an address.
    pub async fn make(inner: &Inner, folder: &Path) -> Result<Self> {
        let namespace =
            inner.launcher.new_network().await.map_err(Error::io("cannot make a network"))?;
        let network = Self { namespace };
        let script = format!(
            "link set lo up\n\
             link add inside type veth peer name outside\n\
             link set inside addrgenmode none\n\
             link set outside addrgenmode none\n\
             addr add {INSIDE}/29 dev inside\n\
             link set inside up\n"
        );
        network.ip(inner, folder, &script).await?;
        Ok(network)
    }

    /// That of a process, which an earlier server has made.
    pub fn adopt(pid: i32) -> io::Result<Self> {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        Ok(Self { namespace: Arc::new(namespace.into()) })
    }

    /// Gives our end its address. Only when gVisor runs: it takes over every
    /// address that it finds, and this one is ours.
    pub async fn open(&self, inner: &Inner, folder: &Path) -> Result<()> {
        let script = format!("addr add {OUTSIDE}/29 dev outside\nlink set outside up\n");
        self.ip(inner, folder, &script).await
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

    async fn ip(&self, inner: &Inner, folder: &Path, script: &str) -> Result<()> {
        let path = folder.join("network");
        fs::write(&path, script).map_err(Error::io("cannot write the set-up of a network"))?;
        let mut command = Command::new("ip");
        command.arg("-batch").arg(&path);
        inner.run(Some(&self.namespace), command, "ip", folder).await
    }
}
