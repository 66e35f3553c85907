//! The egress proxy of one sandbox, at which every connection that it opens terminates.
//!
//! ```text
//! SYN to any address ─▶ the proxy's socket in its namespace ─▶ accepted
//!   port 53, TCP and UDP ─▶ our resolver
//!   first bytes ─▶ a name, if names can decide ─▶ policy ─┬─▶ reset and reported
//!                                                         ├─▶ TLS terminated, secret added
//!                                                         ├─▶ HTTP/1, request by request
//!                                                         └─▶ relayed to the upstream server
//! ```
//!
//! A name allows a connection only if its protocol contains the name in plaintext: TLS and
//! clean HTTP/1. Any other protocol is allowed if a rule allows its address or port, or if
//! everything except some names is allowed.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::guest_socket::{GuestSocket, GuestStream};
use super::policy::{Connection, Reason, Verdict};
use super::proxy::EgressProxy;
use super::sniff::{Host, Sniffed, Sniffer};
use super::{Plan, dns, intercept, relay};

/// File descriptors of a connection: a socket to the guest and one upstream.
const DESCRIPTORS_PER_CONNECTION: u32 = 2;
/// Maximum time for the first bytes if a name is needed and the client sends first.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to wait for first bytes of the client, if other protocols are allowed, before the
/// upstream connection is opened for a protocol in which the server sends first.
const SERVER_FIRST_DELAY: Duration = Duration::from_millis(200);
/// Time to wait for first bytes of the client, if other protocols are denied, before the
/// connection is blocked.
const SERVER_FIRST_BLOCK_DELAY: Duration = Duration::from_secs(2);
/// The sockets of a proxy, created in the sandbox's network namespace.
pub struct Sockets {
    /// The listener that accepts all connections. The local address of an accepted socket
    /// is the destination.
    pub connections: TcpListener,
    /// The socket that receives all DNS queries.
    pub questions: UdpSocket,
}

impl EgressProxy {
    /// Handles connections and DNS queries until this future is dropped.
    pub async fn serve(self: Arc<Self>, sockets: Sockets) {
        let queries = dns::serve(Arc::clone(&self), sockets.questions);
        let connections = Arc::clone(&self).accept(sockets.connections);
        tokio::select! {
            result = queries => if let Err(error) = result {
                tracing::warn!(sandbox = %self.id, %error, "the DNS resolver of a sandbox failed");
            },
            () = connections => {}
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // A temporary error, such as no free file descriptors.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let Ok(SocketAddr::V4(to)) = stream.local_addr() else { continue };
            // From now on an early drop of the socket sends a RST.
            let Ok(guest) = GuestSocket::new(stream) else { continue };
            if *self.quiesced.borrow() > 0 {
                continue;
            }
            let Some(permit) = self.descriptors.try_acquire(DESCRIPTORS_PER_CONNECTION) else {
                self.report(None, to, Reason::TooMany);
                continue;
            };
            let connection = OpenConnection::new(Arc::clone(&self));
            tasks.spawn(async move {
                let mut resets = connection.0.resets.subscribe();
                let serving = async {
                    connection.0.serve_connection(&guest, to).await;
                    guest.drain().await;
                };
                tokio::select! {
                    () = serving => {}
                    _ = resets.changed() => {}
                }
                drop(connection);
                drop(permit);
            });
        }
    }

    async fn serve_connection(self: &Arc<Self>, guest: &Arc<GuestSocket>, to: SocketAddrV4) {
        if to.port() == dns::PORT {
            // An error only means that the client has closed the connection.
            let _ = dns::serve_stream(self, GuestStream::new(guest, Vec::new())).await;
            return;
        }
        if to == intercept::GATEWAY {
            intercept::gateway(Arc::clone(self), GuestStream::new(guest, Vec::new())).await;
            return;
        }
        if let Some((name, reason)) = self.names().sinkholed(*to.ip()) {
            self.report(Some(name), to, reason);
            return;
        }
        let plan = self.plan();
        let known = self.names().names_of(*to.ip());
        if !self.context.is_reachable(*to.ip()) {
            // No rule can allow this address, whatever the first bytes are.
            return self.report(known.first().cloned(), to, Reason::Private);
        }
        let may_use_secret = plan.credentials.has_any_host_port(&known, to.port());
        let unread = unread(to, &known);
        if plan.policy.needs_first_bytes(unread) || may_use_secret {
            return self.serve_by_name(guest, to, &plan, &known).await;
        }
        match plan.policy.decide(unread, &self.context.permitted) {
            Verdict::Allow => self.pass_through(guest, to, Vec::new()).await,
            Verdict::Deny(reason) => self.report(known.first().cloned(), to, reason),
        }
    }

    /// Serves a connection whose first bytes decide.
    async fn serve_by_name(
        self: &Arc<Self>,
        guest: &Arc<GuestSocket>,
        to: SocketAddrV4,
        plan: &Arc<Plan>,
        known: &[String],
    ) {
        let any_name = || known.first().cloned();
        let client_first =
            matches!(to.port(), 80 | 443) || plan.credentials.has_any_host_port(known, to.port());
        // The decision about a protocol in which the server sends first.
        let server_first = self.decide(plan, unread(to, known));
        let mut sniffer = Sniffer::default();
        let first = if client_first {
            self.first_bytes(guest, &mut sniffer, FIRST_BYTES_TIMEOUT, Reason::Malformed).await
        } else if let Err(reason) = server_first {
            self.first_bytes(guest, &mut sniffer, SERVER_FIRST_BLOCK_DELAY, reason).await
        } else {
            match self.first_bytes(guest, &mut sniffer, SERVER_FIRST_DELAY, Reason::Malformed).await
            {
                Err(Some(_)) if sniffer.is_empty() => {
                    match self.server_first(guest, to, plan, known).await {
                        // The client has sent first, after all.
                        Some(()) => {
                            self.first_bytes(
                                guest,
                                &mut sniffer,
                                FIRST_BYTES_TIMEOUT,
                                Reason::Malformed,
                            )
                            .await
                        }
                        None => return,
                    }
                }
                first => first,
            }
        };
        let first = match first {
            Ok(first) => first,
            Err(Some(reason)) => return self.report(any_name(), to, reason),
            // The client closed the connection before it had sent enough.
            Err(None) => return,
        };
        let head = sniffer.into_bytes();
        let claimed = match &first {
            Sniffed::Tls(name) => name.clone(),
            Sniffed::Http(Host::Name(name)) => Some(name.clone()),
            Sniffed::Http(Host::Address(address)) => {
                if address != to.ip() {
                    return self.report(any_name(), to, Reason::Forged);
                }
                None
            }
            Sniffed::Http(Host::None) | Sniffed::Other => None,
            Sniffed::Malformed | Sniffed::Incomplete => {
                return self.report(any_name(), to, Reason::Malformed);
            }
        };
        if matches!(first, Sniffed::Http(_)) {
            // Each request on the connection is checked, this one too.
            return intercept::plain(Arc::clone(self), to, GuestStream::new(guest, head)).await;
        }
        let is_tls = matches!(first, Sniffed::Tls(_));
        if let Err(reason) = self.check_name(plan, to, claimed.as_deref(), known, is_tls).await {
            return self.report(claimed.or_else(any_name), to, reason);
        }
        if let Some(name) = claimed.as_deref().or(known.first().map(String::as_str))
            && plan.credentials.has_host_port(name, to.port())
            && is_tls
        {
            let (proxy, plan, name) = (Arc::clone(self), Arc::clone(plan), name.to_owned());
            return intercept::tls(proxy, plan, name, to, GuestStream::new(guest, head)).await;
        }
        self.pass_through(guest, to, head).await;
    }

    /// Connects upstream and relays data of the server, if any protocol is allowed. Once the
    /// server has sent data, the rest of the connection is handled here, and the result is
    /// `None`. The result is `Some` if the client has sent data first: its first bytes are
    /// then to be parsed as usual.
    async fn server_first(
        self: &Arc<Self>,
        guest: &Arc<GuestSocket>,
        to: SocketAddrV4,
        plan: &Plan,
        known: &[String],
    ) -> Option<()> {
        let upstream = self.connect(to).await.ok()?;
        let mut has_sent = false;
        loop {
            tokio::select! {
                ready = guest.socket().readable() => {
                    ready.ok()?;
                    break;
                }
                copied = copy_available(&upstream, guest.socket()) => match copied {
                    Ok(Some(count)) => has_sent |= count > 0,
                    _ => return None,
                },
            }
        }
        if !has_sent {
            return Some(());
        }
        let mut sniffer = Sniffer::default();
        let any_name = || known.first().cloned();
        let first =
            self.first_bytes(guest, &mut sniffer, FIRST_BYTES_TIMEOUT, Reason::Malformed).await;
        let claimed = match first {
            Ok(Sniffed::Tls(claimed)) => claimed,
            Ok(Sniffed::Other) => None,
            // In HTTP the server does not send first.
            Ok(_) => {
                self.report(any_name(), to, Reason::Malformed);
                return None;
            }
            Err(reason) => {
                reason.into_iter().for_each(|reason| self.report(any_name(), to, reason));
                return None;
            }
        };
        let is_tls = claimed.is_some();
        if let Err(reason) = self.check_name(plan, to, claimed.as_deref(), known, is_tls).await {
            self.report(claimed.or_else(any_name), to, reason);
            return None;
        }
        self.allowed.fetch_add(1, Ordering::Relaxed);
        relay::write_all(&upstream, &sniffer.into_bytes()).await.ok()?;
        let _ = relay::sockets(guest, &upstream, &self.descriptors).await;
        None
    }

    /// Reads until the protocol of the first bytes is determined. The error is
    /// `timeout_reason` if no bytes arrive for `wait`; once some have arrived, the rest has
    /// to arrive within `FIRST_BYTES_TIMEOUT`. The error is `None` if the client has closed
    /// the connection.
    async fn first_bytes(
        &self,
        guest: &Arc<GuestSocket>,
        sniffer: &mut Sniffer,
        wait: Duration,
        timeout_reason: Reason,
    ) -> Result<Sniffed, Option<Reason>> {
        let mut stream = GuestStream::new(guest, Vec::new());
        let start = Instant::now();
        loop {
            let first = sniffer.parse();
            if first != Sniffed::Incomplete {
                return Ok(first);
            }
            let (wait, timeout_reason) = if sniffer.is_empty() {
                (wait, timeout_reason)
            } else {
                (FIRST_BYTES_TIMEOUT, Reason::Malformed)
            };
            match timeout_at(start + wait, stream.read_buf(sniffer.buffer())).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(None),
                Err(_) => return Err(Some(timeout_reason)),
            }
        }
    }

    /// Connects upstream, and relays `head` and all further bytes.
    async fn pass_through(&self, guest: &Arc<GuestSocket>, to: SocketAddrV4, head: Vec<u8>) {
        let Ok(upstream) = self.connect(to).await else { return };
        self.allowed.fetch_add(1, Ordering::Relaxed);
        if relay::write_all(&upstream, &head).await.is_err() {
            return;
        }
        drop(head);
        // On an error both connections are reset.
        let _ = relay::sockets(guest, &upstream, &self.descriptors).await;
    }
}

/// Returns the properties of a connection before its first bytes are read.
fn unread(to: SocketAddrV4, known: &[String]) -> Connection<'_> {
    let (address, port) = (*to.ip(), to.port());
    Connection { address, port, claimed: None, verified: false, known, is_tls_or_http: false }
}

/// Copies the bytes that are available in one direction, and returns their number. Returns
/// `None` if the source has ended.
async fn copy_available(from: &TcpStream, to: &TcpStream) -> io::Result<Option<usize>> {
    from.readable().await?;
    let mut buffer = [0; 4096];
    match from.try_read(&mut buffer) {
        Ok(0) => Ok(None),
        Ok(count) => {
            relay::write_all(to, buffer.get(..count).unwrap_or_default()).await?;
            Ok(Some(count))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(0)),
        Err(error) => Err(error),
    }
}

/// A connection that is counted as open until this is dropped.
struct OpenConnection(Arc<EgressProxy>);

impl OpenConnection {
    fn new(proxy: Arc<EgressProxy>) -> Self {
        proxy.open.send_modify(|open| *open += 1);
        Self(proxy)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}
