//! Client connections: limits of their number and duration.
//!
//! ```text
//! accepted ──▶ unauthenticated ── sends a key, or requests a run's URL ──▶ a tenant's
//!                │                                                           │
//!                │ timeout of the head or of the key,                        │ idle, or does
//!                │ or the oldest of too many of its address                  │ not read a response
//!                ▼                                                           ▼
//!              closed                                                      closed
//! ```
//!
//! The number of unauthenticated connections is limited for each source address. At the
//! limit a new connection closes the oldest one, so that silent clients make room for
//! others. The connections of a tenant are limited by its share.

mod answer;
mod serve;
mod stream;

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

pub use self::serve::{ServeOptions, accept};
use super::error::ApiError;
use crate::{
    config::ServerLimits,
    core::accounts::ledger::{Hold, Ledger},
};

/// One in this many connections is reserved for unauthenticated clients.
const UNAUTHENTICATED_DIVISOR: u64 = 4;

/// All open connections.
pub struct Connections {
    max: usize,
    max_unauthenticated_per_source: usize,
    /// The account of the connections of tenants.
    ledger: Arc<Ledger>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    all: HashMap<u64, Arc<Connection>>,
    /// The numbers of unauthenticated connections by source, the oldest first.
    unauthenticated: HashMap<ClientNetwork, BTreeSet<u64>>,
}

/// The source whose connections are counted together: an IPv4 address, or the /64
/// network that one subscriber has with IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ClientNetwork(IpAddr);

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address => address,
        })
    }
}

/// One connection.
pub struct Connection {
    number: u64,
    source: ClientNetwork,
    opened: Instant,
    /// Cancelled to close the connection at once.
    evicted: CancellationToken,
    state: Mutex<ConnectionState>,
}

struct ConnectionState {
    /// The head of a request was received.
    has_request: bool,
    /// The number of requests whose responses have not ended.
    requests: usize,
    /// The end of the last response.
    idle_since: Instant,
    /// A stream was upgraded to another protocol.
    has_tunnel: bool,
    /// The times since when pieces of responses wait to be sent, by request.
    unread_pieces: HashMap<u64, Instant>,
    next_request: u64,
    /// The time since when writes are blocked.
    blocked_since: Option<Instant>,
    /// The share of the tenant that the connection belongs to.
    owner: Option<Hold>,
    /// The tenant has too many connections.
    is_refused: bool,
    /// The last response has started before its request was read to its end.
    has_unread_request: bool,
}

/// The action that a check of a connection requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Accept no more requests; requests in flight may end.
    Finish,
    Drop,
}

impl Connections {
    pub fn new(limits: &ServerLimits) -> Self {
        let total = limits.connections.max(2);
        Self {
            max: usize::try_from(total).unwrap_or(usize::MAX),
            max_unauthenticated_per_source: limits.connections_per_address.max(1),
            ledger: Ledger::new(
                "connections",
                "--max-connections",
                total - total / UNAUTHENTICATED_DIVISOR,
                limits.tenant_share,
            ),
            table: Mutex::default(),
        }
    }

    /// Registers a new connection, and closes an unauthenticated one for it if necessary.
    /// Returns `None` if there is none to close.
    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let source = ClientNetwork::from(address);
        let mut table = self.table();
        let of_source = table.unauthenticated.get(&source).map_or(0, BTreeSet::len);
        if of_source >= self.max_unauthenticated_per_source {
            table.evict(source);
        } else if table.all.len() >= self.max {
            // The source with the most unauthenticated connections.
            let (_, largest) = table
                .unauthenticated
                .iter()
                .map(|(source, of)| (of.len(), *source))
                .max_by_key(|(count, _)| *count)?;
            table.evict(largest);
        }
        table.next += 1;
        let connection = Arc::new(Connection::new(table.next, source));
        table.all.insert(connection.number, Arc::clone(&connection));
        table.unauthenticated.entry(source).or_default().insert(connection.number);
        Some(Slot { connections: Arc::clone(self), connection })
    }

    /// Returns the number of open connections.
    pub fn open_count(&self) -> usize {
        self.table().all.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Closes the oldest connection of a source that has no request in flight; if there is
    /// none, the oldest.
    fn evict(&mut self, source: ClientNetwork) {
        let Some(of_source) = self.unauthenticated.get(&source) else { return };
        let is_waiting = |number: &&u64| {
            self.all.get(*number).is_none_or(|connection| connection.state().requests == 0)
        };
        let oldest = of_source.iter().find(is_waiting).or_else(|| of_source.first()).copied();
        if let Some(number) = oldest {
            self.forget_unauthenticated(source, number);
            // The slot is free now, though the socket is closed a moment later.
            if let Some(connection) = self.all.remove(&number) {
                connection.evicted.cancel();
            }
        }
    }

    fn forget_unauthenticated(&mut self, source: ClientNetwork, number: u64) {
        if let Some(of_source) = self.unauthenticated.get_mut(&source) {
            of_source.remove(&number);
            if of_source.is_empty() {
                self.unauthenticated.remove(&source);
            }
        }
    }
}

/// The slot of a connection; dropped with its socket.
struct Slot {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        table.all.remove(&self.connection.number);
        table.forget_unauthenticated(self.connection.source, self.connection.number);
        drop(table);
        self.connection.state().owner = None;
    }
}

impl Connection {
    fn new(number: u64, source: ClientNetwork) -> Self {
        let now = Instant::now();
        Self {
            number,
            source,
            opened: now,
            evicted: CancellationToken::new(),
            state: Mutex::new(ConnectionState {
                has_request: false,
                requests: 0,
                idle_since: now,
                has_tunnel: false,
                unread_pieces: HashMap::new(),
                next_request: 0,
                blocked_since: None,
                owner: None,
                is_refused: false,
                has_unread_request: false,
            }),
        }
    }

    /// Counts the connection against a tenant's share. It stays with its first tenant.
    pub fn attribute(&self, connections: &Connections, tenant: &str) -> Result<(), ApiError> {
        let mut state = self.state();
        if state.owner.is_some() {
            return Ok(());
        }
        match connections.ledger.take(tenant, 1) {
            Ok(hold) => state.owner = Some(hold),
            Err(exhausted) => {
                state.is_refused = true;
                return Err(connections.ledger.refusal(exhausted).into());
            }
        }
        drop(state);
        connections.table().forget_unauthenticated(self.source, self.number);
        Ok(())
    }

    /// Records that the rest of a request is not read, and that the connection is therefore
    /// closed after the response.
    pub fn leave_request_unread(&self) {
        self.state().has_unread_request = true;
    }

    /// Checks the limits of the connection.
    fn check(&self, now: Instant, limits: &ServerLimits) -> Verdict {
        let state = self.state();
        let exceeds = |since: Instant, limit: Duration| now.duration_since(since) > limit;
        if !state.has_request {
            return if exceeds(self.opened, limits.head_timeout) {
                Verdict::Drop
            } else {
                Verdict::Keep
            };
        }
        let is_stuck = |since: &Instant| exceeds(*since, limits.write_stall);
        if state.blocked_since.as_ref().is_some_and(is_stuck)
            || state.unread_pieces.values().any(is_stuck)
        {
            return Verdict::Drop;
        }
        let is_idle = state.requests == 0
            && !state.has_tunnel
            && state.blocked_since.is_none()
            && exceeds(state.idle_since, limits.idle_timeout);
        let has_expired =
            state.owner.is_none() && exceeds(self.opened, limits.unauthenticated_lifetime);
        if is_idle || has_expired || state.is_refused { Verdict::Finish } else { Verdict::Keep }
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn limits() -> ServerLimits {
        ServerLimits { connections_per_address: 3, ..ServerLimits::default() }
    }

    fn connections(max: u64) -> Arc<Connections> {
        Arc::new(Connections::new(&ServerLimits { connections: max, ..limits() }))
    }

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn new_connections_evict_silent_ones_of_the_same_address() {
        let connections = connections(100);
        let silent: Vec<_> = (0..3).map(|_| connections.admit(address(1)).unwrap()).collect();
        silent[0].connection.state().requests = 1;
        let other = connections.admit(address(2)).unwrap();
        let next = connections.admit(address(1)).unwrap();
        let evicted = |slot: &Slot| slot.connection.evicted.is_cancelled();
        let all: Vec<bool> = silent.iter().chain([&other, &next]).map(evicted).collect();
        assert_eq!(all, [false, true, false, false, false], "the oldest that waits for its client");
        drop((silent, other, next));
        assert!(
            connections.table().all.is_empty() && connections.table().unauthenticated.is_empty()
        );
    }

    #[test]
    fn a_full_server_evicts_from_the_largest_source_and_never_from_tenants() {
        let connections = connections(4);
        let owned = connections.admit(address(1)).unwrap();
        owned.connection.attribute(&connections, "tenant").unwrap();
        let few = connections.admit(address(2)).unwrap();
        let many: Vec<_> = (0..2).map(|_| connections.admit(address(3)).unwrap()).collect();
        let new = connections.admit(address(4)).unwrap();
        assert!(many[0].connection.evicted.is_cancelled());
        for kept in [&owned, &few, &many[1], &new] {
            assert!(!kept.connection.evicted.is_cancelled());
        }
    }

    #[test]
    fn connections_of_a_tenant_are_limited_to_its_share() {
        let connections = connections(200);
        let slots: Vec<_> =
            (0..76_u8).map(|number| connections.admit(address(number)).unwrap()).collect();
        for slot in &slots[..75] {
            slot.connection.attribute(&connections, "a").unwrap();
        }
        let error = slots[75].connection.attribute(&connections, "a").unwrap_err();
        assert!(error.message.contains("75 of the server's 150"), "{}", error.message);
        assert_eq!(slots[75].connection.check(Instant::now(), &limits()), Verdict::Keep);
        slots[75].connection.state().has_request = true;
        assert_eq!(slots[75].connection.check(Instant::now(), &limits()), Verdict::Finish);
        let other = connections.admit(address(100)).unwrap();
        other.connection.attribute(&connections, "b").unwrap();
        drop(slots);
        connections.admit(address(1)).unwrap().connection.attribute(&connections, "a").unwrap();
    }

    #[test]
    fn timeouts_depend_on_the_phase_of_a_connection() {
        let limits = limits();
        let now = Instant::now();
        let check = |change: &dyn Fn(&mut ConnectionState), after: Duration| {
            let connection = Connection::new(1, ClientNetwork::from(address(1)));
            change(&mut connection.state());
            connection.check(now + after, &limits)
        };
        let ledger = Ledger::new("connections", "--max-connections", 9, 100);
        let owner = || ledger.take("t", 1).ok();
        type Change<'a> = &'a dyn Fn(&mut ConnectionState);
        let cases: [(&str, Change<'_>, Duration, Verdict); 8] = [
            ("silent", &|_| {}, limits.head_timeout, Verdict::Keep),
            ("silent", &|_| {}, limits.head_timeout * 2, Verdict::Drop),
            (
                "request",
                &|s| {
                    s.has_request = true;
                    s.requests = 1;
                },
                limits.idle_timeout * 2 - MINUTE / 2,
                Verdict::Keep,
            ),
            (
                "no key",
                &|s| {
                    s.has_request = true;
                    s.requests = 1;
                },
                limits.unauthenticated_lifetime * 2,
                Verdict::Finish,
            ),
            (
                "a tenant's",
                &|s| {
                    s.has_request = true;
                    s.requests = 1;
                    s.owner = owner();
                },
                MINUTE * 600,
                Verdict::Keep,
            ),
            (
                "idle",
                &|s| {
                    s.has_request = true;
                    s.owner = owner();
                },
                limits.idle_timeout * 2,
                Verdict::Finish,
            ),
            (
                "tunnel",
                &|s| {
                    s.has_request = true;
                    s.has_tunnel = true;
                    s.owner = owner();
                },
                MINUTE * 600,
                Verdict::Keep,
            ),
            (
                "response not read",
                &|s| {
                    s.has_request = true;
                    s.requests = 1;
                    s.owner = owner();
                    s.unread_pieces.insert(1, Instant::now());
                },
                limits.write_stall * 2,
                Verdict::Drop,
            ),
        ];
        for (what, change, after, verdict) in cases {
            assert_eq!(check(change, after), verdict, "{what} after {after:?}");
        }
    }

    #[test]
    fn ipv6_addresses_with_the_same_prefix_are_one_source() {
        let source = |text: &str| ClientNetwork::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }
}
