//! The proxy of one sandbox: every connection that it opens ends here.
//!
//! ```text
//! SYN to any address ─▶ our socket in its namespace ─▶ accepted
//!   port 53, TCP and UDP ─▶ our resolver
//!   first bytes ─▶ a name, if names decide ─▶ policy ─┬─▶ reset, and on record
//!                                                     ├─▶ TLS ended, secret added
//!                                                     └─▶ connected from outside
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::gate::Gate;
use super::inside::{Handle, Inside};
use super::names::Names;
use super::policy::{Ask, Reason, Verdict};
use super::sniff::{self, First};
use super::{Blocked, Plan, dns, intercept, relay, wire};
use crate::engine::SandboxId;

/// Connections of one sandbox at the same time.
const MOST: usize = 1024;
/// How long its first bytes may take, when a name is needed and the protocol is
/// one in which the client speaks first.
const HEAD: Duration = Duration::from_secs(10);
/// How long they are waited for where the server may speak first.
const SILENCE: Duration = Duration::from_millis(200);
/// How long a server outside may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// The proxy of one sandbox.
pub struct Sandbox {
    id: SandboxId,
    gate: Arc<Gate>,
    plan: RwLock<Arc<Plan>>,
    names: Mutex<Names>,
    /// How often it was told to hang up. Connections of an earlier count end.
    hung_up: watch::Sender<u64>,
    /// Guards that want no connections now.
    quiet: watch::Sender<usize>,
    open: watch::Sender<usize>,
    blocked: AtomicU64,
    allowed: AtomicU64,
}

/// The sockets of a proxy, made in the sandbox's namespace.
pub struct Sockets {
    /// Where all connections end, with their destination as its own address.
    pub connections: TcpListener,
    /// Where all questions to resolvers end.
    pub questions: UdpSocket,
}

/// As long as this lives, the sandbox has no connections.
#[derive(Debug)]
pub struct Quiet(Arc<Sandbox>);

impl Drop for Quiet {
    fn drop(&mut self) {
        self.0.quiet.send_modify(|count| *count -= 1);
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sandbox({})", self.id)
    }
}

impl Sandbox {
    /// One whose proxy is not served yet.
    #[must_use]
    pub fn new(id: SandboxId, gate: Arc<Gate>, plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            id,
            gate,
            plan: RwLock::new(Arc::new(plan)),
            names: Mutex::default(),
            hung_up: watch::Sender::default(),
            quiet: watch::Sender::default(),
            open: watch::Sender::default(),
            blocked: AtomicU64::new(0),
            allowed: AtomicU64::new(0),
        })
    }

    /// What decides, now.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what decides. Connections that are open end: they were allowed by
    /// other rules.
    pub fn set_plan(&self, plan: Plan) {
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
        *self.names() = Names::default();
        self.hung_up.send_modify(|count| *count += 1);
    }

    /// How many connections were let through, and how many were not.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.allowed.load(Ordering::Relaxed), self.blocked.load(Ordering::Relaxed))
    }

    /// Resets all connections, and refuses new ones until the guard is dropped.
    pub async fn quiet(self: &Arc<Self>) -> Quiet {
        self.quiet.send_modify(|count| *count += 1);
        let guard = Quiet(Arc::clone(self));
        self.hung_up.send_modify(|count| *count += 1);
        let mut open = self.open.subscribe();
        // The sender is here; it cannot be closed.
        let _ = open.wait_for(|open| *open == 0).await;
        guard
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self, name: Option<String>, to: SocketAddrV4, reason: Reason) {
        self.blocked.fetch_add(1, Ordering::Relaxed);
        if let Some(observer) = &self.gate.observer {
            let blocked = Blocked { name, address: *to.ip(), port: to.port(), reason };
            observer.blocked(&self.id, blocked);
        }
    }

    /// Serves until this future is dropped.
    pub async fn serve(self: Arc<Self>, sockets: Sockets) {
        let questions = dns::serve(Arc::clone(&self), sockets.questions);
        let connections = Arc::clone(&self).accept(sockets.connections);
        tokio::select! {
            ended = questions => if let Err(error) = ended {
                tracing::warn!(sandbox = %self.id, %error, "its resolver ended");
            },
            () = connections => {}
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MOST));
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of file descriptors, for one. It passes.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let Ok(SocketAddr::V4(to)) = stream.local_addr() else { continue };
            // Whatever ends it unexpectedly ends it by a reset.
            let Ok(inside) = Inside::new(stream) else { continue };
            if *self.quiet.borrow() > 0 {
                continue;
            }
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.report(None, to, Reason::TooMany);
                continue;
            };
            let connection = Counted::new(Arc::clone(&self));
            tasks.spawn(async move {
                let mut hung_up = connection.0.hung_up.subscribe();
                let serving = async {
                    connection.0.connection(&inside, to).await;
                    inside.settle().await;
                };
                tokio::select! {
                    () = serving => {}
                    _ = hung_up.changed() => {}
                }
                drop(connection);
                drop(place);
            });
        }
    }

    async fn connection(self: &Arc<Self>, inside: &Arc<Inside>, to: SocketAddrV4) {
        if to.port() == dns::PORT {
            // Who hangs up has no more questions.
            let _ = dns::serve_stream(self, Handle::new(inside, Vec::new())).await;
            return;
        }
        if to == intercept::GATEWAY {
            intercept::gateway(Arc::clone(self), Handle::new(inside, Vec::new())).await;
            return;
        }
        if let Some((name, reason)) = self.names().sunk(*to.ip()) {
            self.report(Some(name), to, reason);
            return;
        }
        let plan = self.plan();
        let known = self.names().of(*to.ip());
        if !self.gate.may_be_told(*to.ip()) {
            // Whatever it says: no rule leads there.
            return self.report(known.first().cloned(), to, Reason::Private);
        }
        let with_secret = plan.credentials.wants(&known, to.port());
        if !plan.policy.asks_names() && !with_secret {
            let ask = Ask {
                address: *to.ip(),
                port: to.port(),
                said: None,
                proved: false,
                known: &known,
            };
            match plan.policy.decide(ask, &self.gate.permitted) {
                Verdict::Allow => self.pass(inside, to, Vec::new(), None).await,
                Verdict::Deny(reason) => self.report(known.first().cloned(), to, reason),
            }
            return;
        }
        self.named(inside, to, &plan, &known).await;
    }

    /// A connection for which a name is needed.
    async fn named(
        self: &Arc<Self>,
        inside: &Arc<Inside>,
        to: SocketAddrV4,
        plan: &Arc<Plan>,
        known: &[String],
    ) {
        let client_first =
            matches!(to.port(), 80 | 443) || plan.credentials.wants(known, to.port());
        let wait = if client_first { HEAD } else { SILENCE };
        let mut head = Vec::new();
        let first = read_head(inside, &mut head, wait).await;
        let (said, silent) = match &first {
            // The server speaks first, perhaps; what the client says then is
            // looked at all the same.
            Ok(First::More) if head.is_empty() && !client_first => (None, true),
            Ok(First::Tls(said) | First::Http(said)) => (said.clone(), false),
            Ok(First::Other) => (None, false),
            Ok(First::More | First::Malformed) => {
                return self.report(known.first().cloned(), to, Reason::Malformed);
            }
            // It hung up before it said anything.
            Err(_) => return,
        };
        if let Err(reason) = self.judge(plan, to, said.as_deref(), known).await {
            return self.report(said.or_else(|| known.first().cloned()), to, reason);
        }
        let name = said.as_deref().or(known.first().map(String::as_str));
        let is_tls = matches!(first, Ok(First::Tls(_)));
        let is_http = matches!(first, Ok(First::Http(_)));
        if let Some(name) = name
            && plan.credentials.has(name, to.port())
            && is_tls
        {
            let (sandbox, plan, name) = (Arc::clone(self), Arc::clone(plan), name.to_owned());
            return intercept::tls(sandbox, plan, name, to, Handle::new(inside, head)).await;
        }
        if is_http && plan.policy.asks_names() {
            // More requests may follow on it, for other hosts.
            let stream = Handle::new(inside, head);
            return intercept::plain(Arc::clone(self), to, stream).await;
        }
        self.pass(inside, to, head, silent.then_some((&**plan, known))).await;
    }

    /// Decides about a name, after a look at what addresses it has.
    pub(super) async fn judge(
        &self,
        plan: &Plan,
        to: SocketAddrV4,
        said: Option<&str>,
        known: &[String],
    ) -> Result<(), Reason> {
        let proved = match said {
            Some(said) if known.iter().any(|known| known == said) => true,
            Some(said) if plan.policy.resolves(said) || plan.credentials.has_host(said) => {
                self.gate.resolver.has(said, *to.ip()).await
            }
            _ => false,
        };
        let ask = Ask { address: *to.ip(), port: to.port(), said, proved, known };
        let verdict = plan.policy.decide(ask, &self.gate.permitted);
        // A secret opens its own host, unless a rule denies it.
        let own = said.or(known.first().map(String::as_str)).filter(|_| said.is_none() || proved);
        match verdict {
            Verdict::Deny(Reason::Unlisted | Reason::Nameless)
                if own.is_some_and(|name| plan.credentials.has(name, to.port())) =>
            {
                Ok(())
            }
            Verdict::Allow => Ok(()),
            Verdict::Deny(reason) => Err(reason),
        }
    }

    /// Connects outside, and carries bytes. With a plan, what the sandbox says
    /// first is still to be looked at.
    async fn pass(
        &self,
        inside: &Arc<Inside>,
        to: SocketAddrV4,
        head: Vec<u8>,
        pending: Option<(&Plan, &[String])>,
    ) {
        let Ok(outside) = self.connect(to).await else { return };
        self.allowed.fetch_add(1, Ordering::Relaxed);
        if relay::write(&outside, &head).await.is_err() {
            return;
        }
        if let Some((plan, known)) = pending {
            let mut first = Vec::new();
            loop {
                // Until the sandbox speaks, only the server does.
                tokio::select! {
                    ready = inside.socket().readable() => if ready.is_err() { return } else { break },
                    moved = one_way(&outside, inside.socket()) => match moved {
                        Ok(true) => {}
                        _ => return,
                    },
                }
            }
            let said = match read_head(inside, &mut first, HEAD).await {
                Ok(First::Tls(said) | First::Http(said)) => said,
                Ok(First::Other) => None,
                Ok(_) => return self.report(known.first().cloned(), to, Reason::Malformed),
                Err(_) => return,
            };
            if said.is_some()
                && let Err(reason) = self.judge(plan, to, said.as_deref(), known).await
            {
                return self.report(said, to, reason);
            }
            if relay::write(&outside, &first).await.is_err() {
                return;
            }
        }
        // An error is a reset, for both.
        let _ = relay::sockets(inside, &outside).await;
    }

    /// A connection to where it was allowed to go, from outside.
    pub(super) async fn connect(&self, to: SocketAddrV4) -> io::Result<TcpStream> {
        let stream = timeout(CONNECT, TcpStream::connect(to))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends requests to a host that has to prove who it is.
    pub(super) fn secure(&self, to: SocketAddrV4, name: &str) -> wire::Sender {
        wire::client(self.gate.upstream.to(to, name))
    }

    /// How long a host may take to answer a request with a secret.
    pub(super) fn patience(&self) -> Duration {
        self.gate.patience
    }

    /// An address of a name that it may connect to.
    pub(super) async fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let answer = self.gate.resolver.addresses(name).await.ok()?;
        answer.addresses.into_iter().find(|address| self.gate.may_be_told(*address))
    }
}

/// Carries what is there from the server to the sandbox. False: the server has
/// ended.
async fn one_way(from: &TcpStream, to: &TcpStream) -> io::Result<bool> {
    from.readable().await?;
    let mut buffer = [0; 4096];
    match from.try_read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(count) => {
            relay::write(to, buffer.get(..count).unwrap_or_default()).await?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// Reads until the first bytes say something, or the time is over.
async fn read_head(inside: &Arc<Inside>, head: &mut Vec<u8>, wait: Duration) -> io::Result<First> {
    let mut stream = Handle::new(inside, Vec::new());
    let deadline = Instant::now() + wait;
    loop {
        let first = sniff::look(head);
        if first != First::More {
            return Ok(first);
        }
        match timeout_at(deadline, stream.read_buf(head)).await {
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read?,
            Err(_) => return Ok(First::More),
        };
    }
}

/// A connection that is counted as open.
struct Counted(Arc<Sandbox>);

impl Counted {
    fn new(sandbox: Arc<Sandbox>) -> Self {
        sandbox.open.send_modify(|open| *open += 1);
        Self(sandbox)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}
