//! The proxy of one sandbox: every connection that it opens ends here.
//!
//! ```text
//! SYN to any address ─▶ our socket in its namespace ─▶ accepted
//!   port 53, TCP and UDP ─▶ our resolver
//!   first bytes ─▶ a name, if names can decide ─▶ policy ─┬─▶ reset, and on record
//!                                                         ├─▶ TLS ended, secret added
//!                                                         ├─▶ HTTP/1, request by request
//!                                                         └─▶ connected from outside
//! ```
//!
//! A name counts for a connection only if its protocol says it where we can read it:
//! TLS and clean HTTP/1. Any other protocol passes where its address or port is
//! allowed, or where everything is but some names.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use hickory_resolver::proto::rr::{Record, RecordType};

use super::budget::Share;
use super::dns::rate::Rate;
use super::gate::Gate;
use super::inside::{Handle, Inside};
use super::names::Names;
use super::policy::{Ask, Reason, Verdict};
use super::resolver::{Answer, Unanswered};
use super::sniff::{First, Host, Sniffer};
use super::{Blocked, Plan, dns, intercept, relay, wire};
use crate::engine::SandboxId;

/// Descriptors that a connection takes: an end inside, and one outside.
const DESCRIPTORS: u32 = 2;
/// How long its first bytes may take, when a name is needed and the protocol is
/// one in which the client speaks first.
const HEAD: Duration = Duration::from_secs(10);
/// How long they are waited for where the server may speak first: if it is let
/// speak then, and if it is not, since no rule lets its protocol through.
const SILENCE: Duration = Duration::from_millis(200);
const SILENCE_TO_BLOCK: Duration = Duration::from_secs(2);
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
    /// Descriptors of its connections.
    descriptors: Share,
    /// Questions outside that are under way, and how often it asks.
    questions: Share,
    rate: Mutex<Rate>,
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
        let (descriptors, questions) = (gate.descriptors.share(), gate.questions.share());
        Arc::new(Self {
            id,
            gate,
            descriptors,
            questions,
            rate: Mutex::default(),
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
            let Some(taken) = self.descriptors.take(DESCRIPTORS) else {
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
                drop(taken);
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
        let unread = unread(to, &known);
        if plan.policy.needs_first_bytes(unread) || with_secret {
            return self.named(inside, to, &plan, &known).await;
        }
        match plan.policy.decide(unread, &self.gate.permitted) {
            Verdict::Allow => self.pass(inside, to, Vec::new()).await,
            Verdict::Deny(reason) => self.report(known.first().cloned(), to, reason),
        }
    }

    /// A connection whose first bytes are read.
    async fn named(
        self: &Arc<Self>,
        inside: &Arc<Inside>,
        to: SocketAddrV4,
        plan: &Arc<Plan>,
        known: &[String],
    ) {
        let any = || known.first().cloned();
        let client_first =
            matches!(to.port(), 80 | 443) || plan.credentials.wants(known, to.port());
        // What happens to a protocol in which the server speaks first.
        let silent = self.decide(plan, unread(to, known));
        let mut sniffer = Sniffer::default();
        let first = if client_first {
            self.first_bytes(inside, &mut sniffer, HEAD, Reason::Malformed).await
        } else if let Err(reason) = silent {
            self.first_bytes(inside, &mut sniffer, SILENCE_TO_BLOCK, reason).await
        } else {
            match self.first_bytes(inside, &mut sniffer, SILENCE, Reason::Malformed).await {
                Err(Some(_)) if sniffer.is_empty() => {
                    match self.server_first(inside, to, plan, known).await {
                        // The server has nothing to say either.
                        Some(()) => {
                            self.first_bytes(inside, &mut sniffer, HEAD, Reason::Malformed).await
                        }
                        None => return,
                    }
                }
                first => first,
            }
        };
        let first = match first {
            Ok(first) => first,
            Err(Some(reason)) => return self.report(any(), to, reason),
            // It hung up before it said anything.
            Err(None) => return,
        };
        let head = sniffer.into_bytes();
        let said = match &first {
            First::Tls(name) => name.clone(),
            First::Http(Host::Name(name)) => Some(name.clone()),
            First::Http(Host::Address(address)) => {
                if address != to.ip() {
                    return self.report(any(), to, Reason::Forged);
                }
                None
            }
            First::Http(Host::None) | First::Other => None,
            First::Malformed | First::More => {
                return self.report(any(), to, Reason::Malformed);
            }
        };
        if matches!(first, First::Http(_)) {
            // Each request on it is judged, this one too.
            return intercept::plain(Arc::clone(self), to, Handle::new(inside, head)).await;
        }
        let is_tls = matches!(first, First::Tls(_));
        if let Err(reason) = self.judge(plan, to, said.as_deref(), known, is_tls).await {
            return self.report(said.or_else(any), to, reason);
        }
        if let Some(name) = said.as_deref().or(known.first().map(String::as_str))
            && plan.credentials.has(name, to.port())
            && is_tls
        {
            let (sandbox, plan, name) = (Arc::clone(self), Arc::clone(plan), name.to_owned());
            return intercept::tls(sandbox, plan, name, to, Handle::new(inside, head)).await;
        }
        self.pass(inside, to, head).await;
    }

    /// Decides about a connection of which this is known.
    fn decide(&self, plan: &Plan, ask: Ask<'_>) -> Result<(), Reason> {
        match plan.policy.decide(ask, &self.gate.permitted) {
            Verdict::Allow => Ok(()),
            Verdict::Deny(reason) => Err(reason),
        }
    }

    /// Decides about a name, after a look at what addresses it has. `readable` is
    /// whether a rule by name may let it through.
    pub(super) async fn judge(
        &self,
        plan: &Plan,
        to: SocketAddrV4,
        said: Option<&str>,
        known: &[String],
        readable: bool,
    ) -> Result<(), Reason> {
        let proved = match said {
            Some(said) if known.iter().any(|known| known == said) => true,
            Some(said) if plan.policy.resolves(said) || plan.credentials.has_host(said) => {
                self.addresses(said).await.is_ok_and(|answer| answer.addresses.contains(to.ip()))
            }
            _ => false,
        };
        let ask = Ask { address: *to.ip(), port: to.port(), said, proved, known, readable };
        // A secret opens its own host, unless a rule denies it.
        let own = said.or(known.first().map(String::as_str)).filter(|_| said.is_none() || proved);
        match self.decide(plan, ask) {
            Err(Reason::Unlisted | Reason::Nameless)
                if readable && own.is_some_and(|name| plan.credentials.has(name, to.port())) =>
            {
                Ok(())
            }
            verdict => verdict,
        }
    }

    /// Lets the server speak first, where any protocol may pass. Nothing: the
    /// connection is over. Otherwise the program has spoken before the server did, and
    /// is looked at as any other.
    async fn server_first(
        self: &Arc<Self>,
        inside: &Arc<Inside>,
        to: SocketAddrV4,
        plan: &Plan,
        known: &[String],
    ) -> Option<()> {
        let outside = self.connect(to).await.ok()?;
        let mut has_spoken = false;
        loop {
            tokio::select! {
                ready = inside.socket().readable() => {
                    ready.ok()?;
                    break;
                }
                moved = one_way(&outside, inside.socket()) => match moved {
                    Ok(Some(count)) => has_spoken |= count > 0,
                    _ => return None,
                },
            }
        }
        if !has_spoken {
            return Some(());
        }
        let mut sniffer = Sniffer::default();
        let any = || known.first().cloned();
        let first = self.first_bytes(inside, &mut sniffer, HEAD, Reason::Malformed).await;
        let said = match first {
            Ok(First::Tls(said)) => said,
            Ok(First::Other) => None,
            // A server of HTTP does not speak first.
            Ok(_) => {
                self.report(any(), to, Reason::Malformed);
                return None;
            }
            Err(reason) => {
                reason.into_iter().for_each(|reason| self.report(any(), to, reason));
                return None;
            }
        };
        if let Err(reason) = self.judge(plan, to, said.as_deref(), known, said.is_some()).await {
            self.report(said.or_else(any), to, reason);
            return None;
        }
        self.allowed.fetch_add(1, Ordering::Relaxed);
        relay::write(&outside, &sniffer.into_bytes()).await.ok()?;
        let _ = relay::sockets(inside, &outside, &self.descriptors).await;
        None
    }

    /// Reads until the first bytes say what they are. `late` is the reason if nothing
    /// comes for as long as `wait`; once something has come, its end has to come
    /// within the time for a head. No reason: the program hung up.
    async fn first_bytes(
        &self,
        inside: &Arc<Inside>,
        sniffer: &mut Sniffer,
        wait: Duration,
        late: Reason,
    ) -> Result<First, Option<Reason>> {
        let mut stream = Handle::new(inside, Vec::new());
        let begun = Instant::now();
        loop {
            let first = sniffer.look();
            if first != First::More {
                return Ok(first);
            }
            let (wait, late) =
                if sniffer.is_empty() { (wait, late) } else { (HEAD, Reason::Malformed) };
            match timeout_at(begun + wait, stream.read_buf(sniffer.buffer())).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(None),
                Err(_) => return Err(Some(late)),
            }
        }
    }

    /// Connects outside, and carries bytes.
    async fn pass(&self, inside: &Arc<Inside>, to: SocketAddrV4, head: Vec<u8>) {
        let Ok(outside) = self.connect(to).await else { return };
        self.allowed.fetch_add(1, Ordering::Relaxed);
        if relay::write(&outside, &head).await.is_err() {
            return;
        }
        drop(head);
        // An error is a reset, for both.
        let _ = relay::sockets(inside, &outside, &self.descriptors).await;
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
        wire::client(self.gate.upstream.to(to, name, self.descriptors.clone()))
    }

    /// How long a host may take to answer a request with a secret.
    pub(super) fn patience(&self) -> Duration {
        self.gate.patience
    }

    /// An address of a name that it may connect to.
    pub(super) async fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let answer = self.addresses(name).await.ok()?;
        answer.addresses.into_iter().find(|address| self.gate.may_be_told(*address))
    }

    /// Asks outside for the addresses of a name.
    pub(super) async fn addresses(&self, name: &str) -> Result<Answer, Unanswered> {
        self.asking(self.gate.resolver.addresses(name)).await
    }

    /// Asks outside for records of a name.
    pub(super) async fn records(
        &self,
        name: &str,
        kind: RecordType,
    ) -> Result<Vec<Record>, Unanswered> {
        self.asking(self.gate.resolver.records(name, kind)).await
    }

    /// Asks outside, as often as a sandbox may.
    async fn asking<T>(
        &self,
        question: impl Future<Output = Result<T, Unanswered>>,
    ) -> Result<T, Unanswered> {
        let may_ask = self
            .rate
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(std::time::Instant::now());
        let Some(_taken) = self.questions.take(1).filter(|_| may_ask) else {
            return Err(Unanswered::TooMany);
        };
        question.await
    }
}

/// What is known of a connection before it has said anything.
fn unread(to: SocketAddrV4, known: &[String]) -> Ask<'_> {
    let (address, port) = (*to.ip(), to.port());
    Ask { address, port, said: None, proved: false, known, readable: false }
}

/// Carries what is there from the server to the sandbox, and gives how much. Nothing:
/// the server has ended.
async fn one_way(from: &TcpStream, to: &TcpStream) -> io::Result<Option<usize>> {
    from.readable().await?;
    let mut buffer = [0; 4096];
    match from.try_read(&mut buffer) {
        Ok(0) => Ok(None),
        Ok(count) => {
            relay::write(to, buffer.get(..count).unwrap_or_default()).await?;
            Ok(Some(count))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(0)),
        Err(error) => Err(error),
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
