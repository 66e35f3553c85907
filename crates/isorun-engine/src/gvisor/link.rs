//! The veth pair of one sandbox, with its addresses and routes, configured over
//! netlink.
//!
//! Netlink messages are used instead of a program such as `ip`: starting a program
//! takes as long as all of this work, and it is on the path of every fork.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime;
use tokio::task::JoinHandle;

use super::launcher::Launcher;

/// The address of the agent, in every sandbox. It is from a range for translators
/// between a network and a host (RFC 7335), so that it is no other server's.
pub const INSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// The only address from which the agent accepts connections.
pub const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);

const INSIDE_NAME: &str = "inside";
const OUTSIDE_NAME: &str = "outside";
/// The prefix length of the network that has both addresses in it.
const PREFIX_LENGTH: u8 = 29;

/// A netlink connection to the kernel for one network namespace.
struct Netlink {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Creates the veth pair. The `outside` end has no address yet: gVisor takes over
/// every address that it finds when it starts. But it is up, since a veth pair
/// takes time to detect that both ends are up, and loses the packets that are sent
/// meanwhile.
pub async fn create_veth(launcher: &Launcher, network: &Arc<OwnedFd>) -> io::Result<()> {
    let netlink = Netlink::open(launcher, network).await?;
    let veth = LinkVeth::new(INSIDE_NAME, OUTSIDE_NAME).build();
    netlink.handle.link().add(veth).execute().await.map_err(to_io)?;
    for name in [INSIDE_NAME, OUTSIDE_NAME] {
        // Generate no link-local address.
        let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message = LinkUnspec::new_with_name(name)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![quiet]))
            .build();
        // A kernel without IPv6 rejects this, and does not need it.
        let _ = netlink.handle.link().set(message).execute().await;
    }
    let inside = netlink.index(INSIDE_NAME).await?;
    netlink.address(inside, INSIDE_ADDRESS).await?;
    for name in ["lo", INSIDE_NAME, OUTSIDE_NAME] {
        netlink.up(name).await?;
    }
    let out =
        RouteMessageBuilder::<Ipv4Addr>::new().output_interface(inside).gateway(OUTSIDE_ADDRESS);
    netlink.handle.route().add(out.build()).execute().await.map_err(to_io)
}

/// Adds the address of the `outside` end, now that gVisor has taken over the other
/// one, and makes all IPv4 addresses local in this namespace.
pub async fn configure_outside(launcher: &Launcher, network: &Arc<OwnedFd>) -> io::Result<()> {
    let netlink = Netlink::open(launcher, network).await?;
    netlink.address(netlink.index(OUTSIDE_NAME).await?, OUTSIDE_ADDRESS).await?;
    let all = RouteMessageBuilder::<Ipv4Addr>::new()
        .output_interface(netlink.index("lo").await?)
        .kind(RouteType::Local)
        .scope(RouteScope::Host);
    netlink.handle.route().add(all.build()).replace().execute().await.map_err(to_io)
}

impl Netlink {
    async fn open(launcher: &Launcher, network: &Arc<OwnedFd>) -> io::Result<Self> {
        let runtime = runtime::Handle::current();
        let connect = move || {
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        };
        let (connection, handle, _) = launcher.create_in(Arc::clone(network), connect).await?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    async fn up(&self, name: &str) -> io::Result<()> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.handle.link().set(message).execute().await.map_err(to_io)
    }

    async fn address(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        let addresses = self.handle.address();
        addresses.add(index, IpAddr::V4(address), PREFIX_LENGTH).execute().await.map_err(to_io)
    }

    async fn index(&self, name: &str) -> io::Result<u32> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = found.try_next().await.map_err(to_io)?;
        link.map(|link| link.header.index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
