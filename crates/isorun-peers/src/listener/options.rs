//! The settings of the listener.

use std::time::Duration;

/// Limits of a [`PeerListener`](crate::PeerListener).
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The maximum number of connections of each peer. Default: 512. A peer uses at most 4
    /// for ordinary requests and 256 that are upgraded, and all of them again after it
    /// restarts.
    pub max_connections_per_peer: usize,
    /// The maximum number of handshakes in progress. Default: 256.
    pub max_handshakes: usize,
    /// The maximum number of handshakes in progress with one IP address. Default: 64.
    pub max_handshakes_per_address: usize,
    /// The maximum time of a handshake. Default: 5 s.
    pub handshake_timeout: Duration,
    /// The time after which a connection without requests is closed. It is longer than that
    /// of the client, which closes them without a race. Default: 120 s.
    pub idle_timeout: Duration,
    /// The maximum number of requests in progress on one connection. Default: 1,000.
    pub max_concurrent_streams: u32,
    /// The time without traffic after which the peer is asked for an answer. Default: 5 s.
    pub keep_alive_interval: Duration,
    /// The time until the peer must have answered. Default: 10 s.
    pub keep_alive_timeout: Duration,
    /// The maximum time that requests in progress may take after the listener is told to
    /// shut down. Default: 30 s.
    pub shutdown_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_connections_per_peer: 512,
            max_handshakes: 256,
            max_handshakes_per_address: 64,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(120),
            max_concurrent_streams: 1_000,
            keep_alive_interval: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}
