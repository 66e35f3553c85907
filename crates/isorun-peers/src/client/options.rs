//! The settings of the client.

use std::time::Duration;

/// Limits of a [`PeerClient`](crate::PeerClient).
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The maximum time until a connection is open, with its handshakes. Default: 3 s.
    pub connect_timeout: Duration,
    /// The interval at which a peer is asked for an answer, also while there are no
    /// requests. Default: 5 s.
    pub keep_alive_interval: Duration,
    /// The time without any data from the peer after which it is considered dead. Default:
    /// 5 s.
    pub keep_alive_timeout: Duration,
    /// The time after which a connection without requests is closed. Default: 60 s.
    pub idle_timeout: Duration,
    /// The maximum number of connections of each peer for ordinary requests. Another one is
    /// opened when the others have the maximum of requests. Default: 4.
    pub max_connections: usize,
    /// The maximum number of requests in progress on one connection. Default: 1,000.
    pub max_requests_per_connection: usize,
    /// The maximum number of requests that wait for a connection of each peer. Default:
    /// 4,000.
    pub max_waiting: usize,
    /// The maximum number of upgraded connections of each peer. Default: 256.
    pub max_upgrades: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            keep_alive_interval: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            max_connections: 4,
            max_requests_per_connection: 1_000,
            max_waiting: 4_000,
            max_upgrades: 256,
        }
    }
}
