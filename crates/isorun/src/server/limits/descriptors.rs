//! File descriptors of the process, and how they are divided. A process without
//! one can neither accept a connection nor open its database.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ledger::{Hold, Ledger};
use crate::server::ApiError;

/// Parts of sixteen: of clients, of connections into sandboxes (commands,
/// transfers, URLs), of connections that sandboxes open, and of sandboxes
/// themselves. The rest is the server's own.
const CLIENT_PARTS: u64 = 4;
const AGENT_PARTS: u64 = 4;
const NETWORK_PARTS: u64 = 4;
const SANDBOX_PARTS: u64 = 3;
const PARTS: u64 = 16;

/// Descriptors that a sandbox takes by being there.
const PER_SANDBOX: u64 = 6;

/// Descriptors that a connection into a sandbox takes.
pub const PER_AGENT_CONNECTION: u64 = 2;

/// The most connections of clients that are allowed unless told otherwise.
const MAX_CLIENTS: u64 = 16_384;

/// Descriptors of the network of one sandbox, at most.
const MAX_PER_NETWORK: u64 = 2048;

/// How the descriptors are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// All that the process may have.
    pub limit: u64,
    pub clients: u64,
    pub agent_connections: u64,
    pub networks: u64,
    pub per_network: u64,
    /// Sandboxes, not descriptors.
    pub sandboxes: u64,
}

/// Raises the process's limit as far as it is allowed to, and returns it.
pub fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current.unwrap_or(u64::MAX);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            current.unwrap_or(u64::MAX)
        }
    }
}

impl Division {
    /// Divides a number of descriptors.
    pub fn new(limit: u64) -> Self {
        let part = |parts| limit / PARTS * parts;
        let networks = part(NETWORK_PARTS);
        Self {
            limit,
            clients: part(CLIENT_PARTS).min(MAX_CLIENTS),
            agent_connections: part(AGENT_PARTS),
            networks,
            per_network: (networks / 8).clamp(16, MAX_PER_NETWORK),
            sandboxes: part(SANDBOX_PARTS) / PER_SANDBOX,
        }
    }

    /// Whether so many open descriptors leave too few for the server itself.
    pub fn is_short(&self, open: u64) -> bool {
        let reserve = self.limit / PARTS;
        self.limit.saturating_sub(open) < reserve / 2
    }

    /// The account of connections into sandboxes.
    pub fn agent_ledger(&self, percent: u8) -> Arc<Ledger> {
        Ledger::new(
            "descriptors of connections into sandboxes",
            "a quarter of the process's limit of open files",
            self.agent_connections,
            percent,
        )
    }
}

/// Takes the descriptors of a connection into a sandbox from its tenant's share.
pub fn agent_connection(ledger: &Arc<Ledger>, tenant: &str) -> Result<Hold, ApiError> {
    ledger.take(tenant, PER_AGENT_CONNECTION).map_err(|exhausted| ledger.refusal(exhausted))
}

/// A connection that holds its descriptors in an account.
pub struct Counted<S> {
    inner: S,
    _hold: Hold,
}

impl<S> Counted<S> {
    pub fn new(inner: S, hold: Hold) -> Self {
        Self { inner, _hold: hold }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// How many descriptors the process has open.
pub fn open() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    u64::try_from(entries.count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_less_than_the_whole() {
        for limit in [256, 1024, 20_000, 1 << 20, 1 << 40] {
            let division = Division::new(limit);
            let parts = division.clients
                + division.agent_connections
                + division.networks
                + division.sandboxes * PER_SANDBOX;
            assert!(parts <= limit - limit / 16, "{division:?}");
            assert!(division.per_network <= division.networks / 2, "{division:?}");
            assert!(division.is_short(limit) && !division.is_short(parts), "{division:?}");
        }
    }

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        let raised = raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!((current, current.unwrap_or(u64::MAX)), (maximum, raised));
        assert!(open().unwrap() < raised);
    }
}
