//! The connections to one peer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

use super::{
    PeerAddress,
    connect::{connect, unreachable},
    connection::{Connection, Runtime, Slot},
};
use crate::{error::PeerError, identity::Identity};

/// The number of connections that a request may find broken before it fails.
const MAX_BROKEN_CONNECTIONS: usize = 3;

/// The delay after a failed attempt to watch a peer.
const WATCH_RETRY_DELAY: Duration = Duration::from_secs(5);

/// A connection that is being opened, for which any number of requests wait. It is
/// cancelled when none of them waits any longer.
type Opening = BoxFuture<'static, Result<(), PeerError>>;

/// The connections to one peer.
pub(super) struct Pool {
    address: PeerAddress,
    identity: Identity,
    runtime: Runtime,
    state: Mutex<PoolState>,
    waiting: Arc<Semaphore>,
    upgrades: Arc<Semaphore>,
}

#[derive(Default)]
struct PoolState {
    connections: Vec<Connection>,
    opening: Option<WeakShared<Opening>>,
}

impl Pool {
    pub(super) fn new(address: PeerAddress, identity: Identity, runtime: Runtime) -> Self {
        let waiting = Arc::new(Semaphore::new(runtime.options.max_waiting));
        let upgrades = Arc::new(Semaphore::new(runtime.options.max_upgrades));
        Self { address, identity, runtime, state: Mutex::default(), waiting, upgrades }
    }

    /// Reports whether there is no connection, and none that is being opened or upgraded.
    pub(super) fn is_unused(&self) -> bool {
        let mut state = self.state();
        state.connections.retain(|connection| !connection.is_retired());
        state.connections.is_empty()
            && state.opening.as_ref().is_none_or(|opening| opening.upgrade().is_none())
            && self.upgrades.available_permits() == self.runtime.options.max_upgrades
    }

    /// Returns the right to send a request on one of the connections. Opens one if all have
    /// the maximum of requests, or waits for the one that is being opened.
    pub(super) async fn slot(self: &Arc<Self>) -> Result<Slot, PeerError> {
        let mut waiting = None;
        for _ in 0..self.runtime.options.max_connections + MAX_BROKEN_CONNECTIONS {
            let opening = match self.slot_or_opening()? {
                Ok(slot) => return Ok(slot),
                Err(opening) => opening,
            };
            if waiting.is_none() {
                let permit = Arc::clone(&self.waiting).try_acquire_owned();
                waiting = Some(permit.map_err(|_| {
                    let max = self.runtime.options.max_waiting;
                    self.busy(format!("{max} requests wait for a connection, which is the limit"))
                })?);
            }
            opening.await?;
        }
        Err(unreachable(&self.address, "its connections end at once".to_owned()))
    }

    fn slot_or_opening(self: &Arc<Self>) -> Result<Result<Slot, Shared<Opening>>, PeerError> {
        let mut state = self.state();
        state.connections.retain(|connection| !connection.is_retired());
        if let Some(slot) = state.connections.iter().find_map(Connection::slot) {
            return Ok(Ok(slot));
        }
        if let Some(opening) = state.opening.as_ref().and_then(WeakShared::upgrade) {
            return Ok(Err(opening));
        }
        let options = &self.runtime.options;
        if state.connections.len() >= options.max_connections {
            let max = options.max_connections * options.max_requests_per_connection;
            return Err(self.busy(format!("{max} requests are in progress, which is the limit")));
        }
        let opening = Arc::clone(self).open().boxed().shared();
        state.opening = opening.downgrade();
        Ok(Err(opening))
    }

    /// Opens another connection.
    async fn open(self: Arc<Self>) -> Result<(), PeerError> {
        let options = &self.runtime.options;
        let opening = async {
            let tls = self.identity.http2_client();
            let stream = connect(&self.address, tls, options.connect_timeout).await?;
            Connection::open(self.address.clone(), stream, &self.runtime).await
        };
        let opened = tokio::select! {
            opened = timeout(options.connect_timeout, opening) => opened,
            () = self.runtime.closing.cancelled() => return Err(self.closed()),
        };
        let result = opened.unwrap_or_else(|_| Err(self.timed_out()));
        let mut state = self.state();
        state.opening = None;
        state.connections.push(result?);
        Ok(())
    }

    /// Opens a connection with HTTP/1.1 for one request, which asks for an upgrade.
    pub(super) async fn open_for_upgrade(
        &self,
    ) -> Result<(TlsStream<TcpStream>, OwnedSemaphorePermit), PeerError> {
        let options = &self.runtime.options;
        let permit = Arc::clone(&self.upgrades).try_acquire_owned().map_err(|_| {
            let max = options.max_upgrades;
            self.busy(format!("{max} upgraded connections are open, which is the limit"))
        })?;
        let opening = connect(&self.address, self.identity.http1_client(), options.connect_timeout);
        let opened = tokio::select! {
            opened = timeout(options.connect_timeout, opening) => opened,
            () = self.runtime.closing.cancelled() => return Err(self.closed()),
        };
        Ok((opened.unwrap_or_else(|_| Err(self.timed_out()))?, permit))
    }

    /// Waits until the peer no longer answers on a connection for ordinary requests. Another
    /// one is opened when it is closed for another reason.
    ///
    /// An upgraded connection is watched in this way, since TCP does not tell a peer that is
    /// dead from one that does not read.
    pub(super) async fn death(self: Arc<Self>, mut slot: Slot) -> PeerError {
        loop {
            if let Some(error) = slot.state.ended().await {
                return error;
            }
            slot = loop {
                match self.slot().await {
                    Ok(next) => break next,
                    // It may be shutting down, or have the maximum of requests.
                    Err(_) => sleep(WATCH_RETRY_DELAY).await,
                }
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(&self, why: String) -> PeerError {
        PeerError::Busy { node: self.address.node().clone(), why }
    }

    fn timed_out(&self) -> PeerError {
        let time = self.runtime.options.connect_timeout;
        unreachable(&self.address, format!("no connection within {time:?}"))
    }

    fn closed(&self) -> PeerError {
        unreachable(&self.address, "this node has closed its connections".to_owned())
    }
}
