//! The account of connections into sandboxes, in file descriptors of this process.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ledger::{Hold, Ledger};
use crate::{config::DescriptorBudget, core::error::Error};

/// The descriptors of a connection into a sandbox.
const PER_CONNECTION: u64 = 2;

/// Creates the account of connections into sandboxes.
pub fn ledger(budget: &DescriptorBudget, percent: u8) -> Arc<Ledger> {
    Ledger::new(
        "descriptors of connections into sandboxes",
        "a quarter of the process's limit of open files",
        budget.agent_connections,
        percent,
    )
}

/// Takes the descriptors of a connection into a sandbox from its tenant's share.
pub fn take(ledger: &Arc<Ledger>, tenant: &str) -> Result<Hold, Error> {
    ledger.take(tenant, PER_CONNECTION).map_err(|exhausted| ledger.refusal(exhausted))
}

/// A connection whose descriptors are counted in an account until it is dropped.
pub struct CountedStream<S> {
    inner: S,
    _hold: Hold,
}

impl<S> CountedStream<S> {
    pub fn new(inner: S, hold: Hold) -> Self {
        Self { inner, _hold: hold }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
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
