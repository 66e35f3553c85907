//! Bodies of HTTP messages, piece by piece in both directions.

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
    host::Guard,
};

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, HostError>> + Send>>;

/// The body of a guest's request.
#[pyclass(frozen, module = "isola._native")]
pub struct BodyReader(Arc<Mutex<Option<Pieces>>>);

impl BodyReader {
    pub fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(body.into_stream())))))
    }
}

#[pymethods]
impl BodyReader {
    /// Hands the next piece to `done`, or `None` at the end.
    fn next(&self, event_loop: Py<PyAny>, done: Py<PyAny>) -> PyResult<Task> {
        let pieces = Arc::clone(&self.0);
        let next = async move {
            let mut pieces = pieces.lock().await;
            let Some(stream) = &mut *pieces else { return Ok(None) };
            let piece = stream.next().await;
            if !matches!(piece, Some(Ok(_))) {
                *pieces = None;
            }
            Ok(piece)
        };
        spawn(next, Callback::new(event_loop, done), |py, piece| match piece {
            Some(Ok(bytes)) => Ok(PyBytes::new(py, &bytes).into_any()),
            Some(Err(error)) => Err(failure::raise("stream_closed", error.message())),
            None => Ok(py.None().into_bound(py)),
        })
    }
}

/// A piece; `None` is the end, which is said and never concluded.
type Piece = Result<Option<Bytes>, HostError>;

/// The body of a response, as a handler makes it.
#[pyclass(frozen, module = "isola._native")]
pub struct BodyWriter(Sender<Piece>);

impl BodyWriter {
    pub fn new() -> (Self, Receiver<Piece>) {
        let (sender, receiver) = channel(2);
        (Self(sender), receiver)
    }

    fn put(&self, piece: Piece, callback: Callback) -> PyResult<()> {
        let tell = |callback: Callback, taken: bool| {
            callback.send(move |py| Ok(taken.into_pyobject(py)?.to_owned().into_any()));
        };
        match self.0.try_send(piece) {
            Ok(()) => tell(callback, true),
            Err(TrySendError::Closed(_)) => tell(callback, false),
            Err(TrySendError::Full(piece)) => {
                let sender = self.0.clone();
                runtime()?.spawn(async move {
                    let taken = sender.send(piece).await.is_ok();
                    tell(callback, taken);
                });
            }
        }
        Ok(())
    }
}

#[pymethods]
impl BodyWriter {
    /// Sends a piece, and tells `done` when there is room for the next: false
    /// if nobody wants more.
    fn send(
        &self,
        piece: Bound<'_, PyBytes>,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
    ) -> PyResult<()> {
        let piece = Bytes::copy_from_slice(piece.as_bytes());
        self.put(Ok(Some(piece)), Callback::new(event_loop, done))
    }

    /// Says that the body is complete.
    fn end(&self, event_loop: Py<PyAny>, done: Py<PyAny>) -> PyResult<()> {
        self.put(Ok(None), Callback::new(event_loop, done))
    }

    /// Breaks the body off. The guest sees the message.
    fn fail(&self, message: String, event_loop: Py<PyAny>, done: Py<PyAny>) -> PyResult<()> {
        self.put(Err(HostError::new(message)), Callback::new(event_loop, done))
    }
}

/// The body that a guest gets. The handler is stopped when it is dropped.
pub fn outgoing(pieces: Receiver<Piece>, guard: Guard) -> Body {
    let state = Some((pieces, guard));
    Body::from_stream(futures_util::stream::unfold(state, |state| async move {
        let (mut pieces, guard) = state?;
        match pieces.recv().await {
            Some(Ok(Some(bytes))) => Some((Ok(bytes), Some((pieces, guard)))),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(HostError::new("the host broke off the response's body")), None)),
        }
    }))
}
