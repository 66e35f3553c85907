//! A connection that can be replaced: before a checkpoint the agent detaches the
//! programs that it serves, and the client attaches again on another connection.
//!
//! ```text
//! agent                     client
//!   Detach          ─────▶              all earlier frames of the agent have arrived
//!                   ◀─────  Detach      all earlier frames of the client have arrived
//!                   ◀─────  reset
//!                   ◀─────  Attach      on a new connection, after the checkpoint
//! ```

use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::Mutex;

use super::call::Call;
use super::error::{ClientError, unexpected};
use crate::codec::{Frame, FrameReader, FrameWriter};
use crate::protocol::Request;

/// A boxed future.
pub type Future<T> = Pin<Box<dyn std::future::Future<Output = T> + Send>>;

/// A function that connects to the same sandbox again.
pub type Connect<S> = Arc<dyn Fn() -> Future<Option<S>> + Send + Sync>;

/// The means to attach again after a detach.
pub struct Reattach<S> {
    pub connect: Connect<S>,
    pub token: String,
}

impl<S> Clone for Reattach<S> {
    fn clone(&self) -> Self {
        Self { connect: Arc::clone(&self.connect), token: self.token.clone() }
    }
}

/// The half that reads frames.
pub struct LinkReader<S> {
    /// `None` while there is no connection.
    reader: Option<FrameReader<ReadHalf<S>>>,
    writer: LinkWriter<S>,
    reattach: Option<Reattach<S>>,
    /// The attempt to attach again, while it is in progress.
    reattaching: Option<Future<Result<FrameReader<ReadHalf<S>>, ClientError>>>,
}

/// The half that writes frames. Locked while there is no connection, and `None` if
/// attaching again has failed.
pub struct LinkWriter<S>(Arc<Mutex<Option<FrameWriter<WriteHalf<S>>>>>);

impl<S> Clone for LinkWriter<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> std::fmt::Debug for LinkReader<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkReader")
    }
}

impl<S> std::fmt::Debug for LinkWriter<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkWriter")
    }
}

/// A connection with a program or shell that has started.
pub struct Link<S> {
    /// The process id inside the sandbox.
    pub pid: u32,
    pub reader: LinkReader<S>,
    pub writer: LinkWriter<S>,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Link<S> {
    /// Sends a request that starts a program or shell, or attaches to one, and waits
    /// until it has started.
    pub async fn open(
        stream: S,
        request: &Request,
        reattach: Option<Reattach<S>>,
    ) -> Result<Self, ClientError> {
        let call = Call::start(stream, request).await?;
        let writer = LinkWriter(Arc::new(Mutex::new(Some(call.writer))));
        let mut reader = LinkReader {
            reader: Some(call.reader),
            writer: writer.clone(),
            reattach,
            reattaching: None,
        };
        match reader.next().await? {
            Frame::Started { pid } => Ok(Self { pid, reader, writer }),
            other => Err(unexpected(&other)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> LinkReader<S> {
    /// Sends another request on the connection of one that has ended, and waits until it
    /// has started. Returns the process id.
    pub async fn restart(
        &mut self,
        request: &Request,
        reattach: Reattach<S>,
    ) -> Result<u32, ClientError> {
        self.writer.send(&Frame::Request(request.clone())).await?;
        self.reattach = Some(reattach);
        match self.next().await? {
            Frame::Started { pid } => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns the next frame. May be cancelled.
    pub async fn next(&mut self) -> Result<Frame, ClientError> {
        loop {
            if let Some(reattaching) = &mut self.reattaching {
                let reader = reattaching.as_mut().await;
                self.reattaching = None;
                self.reader = Some(reader?);
            }
            let Some(reader) = &mut self.reader else { return Err(ClientError::Disconnected) };
            match reader.next().await? {
                Some(Frame::Detach) => {
                    let target = self.reattach.clone().ok_or_else(|| unexpected(&Frame::Detach))?;
                    let reader = self.reader.take();
                    self.reattaching =
                        Some(Box::pin(reattach(target, reader, self.writer.clone())));
                }
                Some(Frame::Failed(failure)) => return Err(failure.into()),
                Some(frame) => return Ok(frame),
                None => return Err(ClientError::Disconnected),
            }
        }
    }
}

impl<S: AsyncWrite> LinkWriter<S> {
    pub async fn send(&self, frame: &Frame) -> Result<(), ClientError> {
        match &mut *self.0.lock().await {
            Some(writer) => Ok(writer.send(frame).await?),
            None => Err(ClientError::Disconnected),
        }
    }
}

async fn reattach<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    target: Reattach<S>,
    reader: Option<FrameReader<ReadHalf<S>>>,
    writer: LinkWriter<S>,
) -> Result<FrameReader<ReadHalf<S>>, ClientError> {
    // Writers wait until there is a connection again.
    let mut writer = writer.0.lock().await;
    if let Some(mut old) = writer.take() {
        old.send(&Frame::Detach).await?;
        // The agent closes the connection when it has read that. An earlier reset could
        // discard the frame before the agent reads it.
        if let Some(mut reader) = reader {
            while let Ok(Some(_)) = reader.next().await {}
        }
    }
    let stream = (target.connect)().await.ok_or(ClientError::Disconnected)?;
    let mut call = Call::start(stream, &Request::Attach { token: target.token }).await?;
    match call.reader.next().await? {
        Some(Frame::Started { .. }) => {}
        Some(Frame::Failed(failure)) => return Err(failure.into()),
        Some(other) => return Err(unexpected(&other)),
        None => return Err(ClientError::Disconnected),
    }
    *writer = Some(call.writer);
    Ok(call.reader)
}
