//! The cable of one sandbox, and its addresses and routes, over netlink.
//!
//! By messages and not by a program such as `ip`: starting one takes as long as
//! all of its work, in the path of every fork.

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
use super::network::{INSIDE, OUTSIDE};

const INSIDE_NAME: &str = "inside";
const OUTSIDE_NAME: &str = "outside";
/// Both addresses are in one network of this size.
const PREFIX: u8 = 29;

/// A conversation with the kernel about one network.
struct Link {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lays the cable. Our end has no address: gVisor takes over every one that it
/// finds when it starts, and that one is ours. But it is up, since a cable takes
/// its time to notice that both ends are, and loses what is sent meanwhile.
pub async fn lay(launcher: &Launcher, network: &Arc<OwnedFd>) -> io::Result<()> {
    let link = Link::open(launcher, network).await?;
    let veth = LinkVeth::new(INSIDE_NAME, OUTSIDE_NAME).build();
    link.handle.link().add(veth).execute().await.map_err(failed)?;
    for name in [INSIDE_NAME, OUTSIDE_NAME] {
        // No address is made up for it.
        let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message = LinkUnspec::new_with_name(name)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![quiet]))
            .build();
        // A kernel without IPv6 does not know of it, and does not need it.
        let _ = link.handle.link().set(message).execute().await;
    }
    let inside = link.index(INSIDE_NAME).await?;
    link.address(inside, INSIDE).await?;
    for name in ["lo", INSIDE_NAME, OUTSIDE_NAME] {
        link.up(name).await?;
    }
    let out = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(inside).gateway(OUTSIDE);
    link.handle.route().add(out.build()).execute().await.map_err(failed)
}

/// Gives our end its address, now that gVisor has the other one, and makes all
/// addresses of the world local here.
pub async fn connect(launcher: &Launcher, network: &Arc<OwnedFd>) -> io::Result<()> {
    let link = Link::open(launcher, network).await?;
    link.address(link.index(OUTSIDE_NAME).await?, OUTSIDE).await?;
    let all = RouteMessageBuilder::<Ipv4Addr>::new()
        .output_interface(link.index("lo").await?)
        .kind(RouteType::Local)
        .scope(RouteScope::Host);
    link.handle.route().add(all.build()).replace().execute().await.map_err(failed)
}

impl Link {
    async fn open(launcher: &Launcher, network: &Arc<OwnedFd>) -> io::Result<Self> {
        let runtime = runtime::Handle::current();
        let connect = move || {
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        };
        let (connection, handle, _) = launcher.make_in(Arc::clone(network), connect).await?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    async fn up(&self, name: &str) -> io::Result<()> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.handle.link().set(message).execute().await.map_err(failed)
    }

    async fn address(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        let addresses = self.handle.address();
        addresses.add(index, IpAddr::V4(address), PREFIX).execute().await.map_err(failed)
    }

    async fn index(&self, name: &str) -> io::Result<u32> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = found.try_next().await.map_err(failed)?;
        link.map(|link| link.header.index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn failed(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
