//! A connection that can be replaced: before a checkpoint the agent detaches
//! what it serves, and the client attaches again on another connection.
//!
//! ```text
//! agent                     client
//!   Detach          ─────▶              what it said before has arrived
//!                   ◀─────  Detach      and so has what the client said
//!                   ◀─────  reset
//!                   ◀─────  Attach      on a new connection, after the checkpoint
//! ```

use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::Mutex;

use super::{Call, ClientError, unexpected};
use crate::codec::{Frame, FrameReader, FrameWriter};
use crate::protocol::Request;

/// Something to wait for.
pub type Future<T> = Pin<Box<dyn std::future::Future<Output = T> + Send>>;

/// Makes another connection to the same sandbox.
pub type Connect<S> = Arc<dyn Fn() -> Future<Option<S>> + Send + Sync>;

/// The way back to what was detached.
pub struct Return<S> {
    pub connect: Connect<S>,
    pub token: String,
}

impl<S> Clone for Return<S> {
    fn clone(&self) -> Self {
        Self { connect: Arc::clone(&self.connect), token: self.token.clone() }
    }
}

/// The half that reads.
pub struct LinkReader<S> {
    /// `None` while there is no connection.
    reader: Option<FrameReader<ReadHalf<S>>>,
    writer: LinkWriter<S>,
    way: Option<Return<S>>,
    /// The new connection, being made.
    returning: Option<Future<Result<FrameReader<ReadHalf<S>>, ClientError>>>,
}

/// The half that writes. Locked while there is no connection, and empty when
/// there will be none.
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

/// Both halves of a connection on which something runs.
pub fn link<S>(call: Call<S>, way: Option<Return<S>>) -> (LinkReader<S>, LinkWriter<S>) {
    let writer = LinkWriter(Arc::new(Mutex::new(Some(call.writer))));
    let reader =
        LinkReader { reader: Some(call.reader), writer: writer.clone(), way, returning: None };
    (reader, writer)
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> LinkReader<S> {
    /// The next frame. May be cancelled.
    pub async fn next(&mut self) -> Result<Frame, ClientError> {
        loop {
            if let Some(returning) = &mut self.returning {
                let reader = returning.as_mut().await;
                self.returning = None;
                self.reader = Some(reader?);
            }
            let Some(reader) = &mut self.reader else { return Err(ClientError::Disconnected) };
            match reader.next().await? {
                Some(Frame::Detach) => {
                    let way = self.way.clone().ok_or_else(|| unexpected(&Frame::Detach))?;
                    let reader = self.reader.take();
                    self.returning = Some(Box::pin(come_back(way, reader, self.writer.clone())));
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

async fn come_back<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    way: Return<S>,
    reader: Option<FrameReader<ReadHalf<S>>>,
    writer: LinkWriter<S>,
) -> Result<FrameReader<ReadHalf<S>>, ClientError> {
    // Nobody writes until there is somewhere to write to.
    let mut writer = writer.0.lock().await;
    if let Some(mut old) = writer.take() {
        old.send(&Frame::Detach).await?;
        // The agent hangs up when it has read that. Until then a reset could
        // take the word away from it.
        if let Some(mut reader) = reader {
            while let Ok(Some(_)) = reader.next().await {}
        }
    }
    let stream = (way.connect)().await.ok_or(ClientError::Disconnected)?;
    let mut call = Call::start(stream, &Request::Attach { token: way.token }).await?;
    match call.reader.next().await? {
        Some(Frame::Started { .. }) => {}
        Some(Frame::Failed(failure)) => return Err(failure.into()),
        Some(other) => return Err(unexpected(&other)),
        None => return Err(ClientError::Disconnected),
    }
    *writer = Some(call.writer);
    Ok(call.reader)
}
