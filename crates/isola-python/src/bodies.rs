//! Bodies of HTTP messages, streamed in chunks in both directions.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use isola::{HostError, http::Body};
use pyo3::{prelude::*, types::PyBytes};
use tokio::sync::{
    Mutex,
    mpsc::{Receiver, Sender, channel, error::TrySendError},
};

use crate::{
    bridge::{Callback, Task, runtime, spawn},
    failure,
    guard::Guard,
};

type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, HostError>> + Send>>;

/// The body of a guest's request.
#[pyclass(frozen, module = "isola._native")]
pub struct BodyReader(Arc<Mutex<Option<BodyStream>>>);

impl BodyReader {
    pub fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(body.into_stream())))))
    }
}

#[pymethods]
impl BodyReader {
    /// Passes the next chunk to `done`, or `None` at the end.
    fn next(&self, event_loop: Py<PyAny>, done: Py<PyAny>) -> PyResult<Task> {
        let body = Arc::clone(&self.0);
        let next = async move {
            let mut body = body.lock().await;
            let Some(stream) = &mut *body else { return Ok(None) };
            let chunk = stream.next().await;
            if !matches!(chunk, Some(Ok(_))) {
                *body = None;
            }
            Ok(chunk)
        };
        spawn(next, Callback::new(event_loop, done), |py, chunk| match chunk {
            Some(Ok(bytes)) => Ok(PyBytes::new(py, &bytes).into_any()),
            Some(Err(error)) => Err(failure::raise("stream_closed", error.message())),
            None => Ok(py.None().into_bound(py)),
        })
    }
}

/// A chunk. `None` is the end, which is always sent explicitly.
type Chunk = Result<Option<Bytes>, HostError>;

/// The writer of the body of a handler's response.
#[pyclass(frozen, module = "isola._native")]
pub struct BodyWriter(Sender<Chunk>);

impl BodyWriter {
    pub fn new() -> (Self, Receiver<Chunk>) {
        let (sender, receiver) = channel(2);
        (Self(sender), receiver)
    }

    fn enqueue(&self, chunk: Chunk, callback: Callback) -> PyResult<()> {
        let report = |callback: Callback, accepted: bool| {
            callback.send(move |py| Ok(accepted.into_pyobject(py)?.to_owned().into_any()));
        };
        match self.0.try_send(chunk) {
            Ok(()) => report(callback, true),
            Err(TrySendError::Closed(_)) => report(callback, false),
            Err(TrySendError::Full(chunk)) => {
                let sender = self.0.clone();
                runtime()?.spawn(async move {
                    let accepted = sender.send(chunk).await.is_ok();
                    report(callback, accepted);
                });
            }
        }
        Ok(())
    }
}

#[pymethods]
impl BodyWriter {
    /// Sends a chunk, and calls `done` when there is room for the next, with
    /// false if the guest no longer reads the body.
    fn send(
        &self,
        chunk: Bound<'_, PyBytes>,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
    ) -> PyResult<()> {
        let chunk = Bytes::copy_from_slice(chunk.as_bytes());
        self.enqueue(Ok(Some(chunk)), Callback::new(event_loop, done))
    }

    /// Ends the body.
    fn end(&self, event_loop: Py<PyAny>, done: Py<PyAny>) -> PyResult<()> {
        self.enqueue(Ok(None), Callback::new(event_loop, done))
    }

    /// Aborts the body with an error message for the guest.
    fn fail(&self, message: String, event_loop: Py<PyAny>, done: Py<PyAny>) -> PyResult<()> {
        self.enqueue(Err(HostError::new(message)), Callback::new(event_loop, done))
    }
}

/// Creates the body that the guest receives. Dropping it stops the handler.
pub fn outgoing(chunks: Receiver<Chunk>, guard: Guard) -> Body {
    let state = Some((chunks, guard));
    Body::from_stream(futures_util::stream::unfold(state, |state| async move {
        let (mut chunks, guard) = state?;
        match chunks.recv().await {
            Some(Ok(Some(bytes))) => Some((Ok(bytes), Some((chunks, guard)))),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(HostError::new("the host aborted the response's body")), None)),
        }
    }))
}
