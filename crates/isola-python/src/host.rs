//! Hostcalls and HTTP requests of a guest, carried to the event loop of the
//! call that runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use isola::{
    Host, HostError, Value,
    http::{Body, Request, Response, StatusCode, header_map},
};
use pyo3::{intern, prelude::*, types::PyBytes};
use tokio::sync::oneshot;

use crate::{
    bodies::{BodyReader, BodyWriter, outgoing},
    bridge::{attach, post},
    sandbox::CurrentLoop,
};

/// A host whose functions are Python's: those of `dispatcher`, which is an
/// object of `python/isola/_dispatch.py`.
pub struct PythonHost {
    dispatcher: Py<PyAny>,
    current: CurrentLoop,
}

impl PythonHost {
    pub fn new(dispatcher: Py<PyAny>, current: CurrentLoop) -> Self {
        Self { dispatcher, current }
    }

    fn event_loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).bind(py).clone()
    }
}

/// An interpreter that is going away, or an event loop that is closed.
fn unreachable() -> HostError {
    HostError::new("the host is shutting down")
}

#[async_trait]
impl Host for PythonHost {
    async fn hostcall(&self, name: &str, payload: Value) -> Result<Value, HostError> {
        let (sender, receiver) = oneshot::channel();
        let guard = attach(|py| {
            let event_loop = self.event_loop(py);
            let guard = Guard::new(event_loop.clone().unbind());
            let reply = Reply { sender: Mutex::new(Some(sender)), link: Arc::clone(&guard.0) };
            let handle = self.dispatcher.bind(py).getattr(intern!(py, "hostcall"))?;
            post(&event_loop, &handle, (name, payload.as_str(), Bound::new(py, reply)?))?;
            Ok::<_, PyErr>(guard)
        });
        let Some(Ok(_guard)) = guard else { return Err(unreachable()) };
        let text = receiver.await.map_err(|_| unreachable())?.map_err(HostError::new)?;
        Value::from_json(text).map_err(|error| HostError::new(error.to_string()))
    }

    async fn http(&self, request: Request) -> Result<Response, HostError> {
        let (parts, body) = request.into_parts();
        let (sender, receiver) = oneshot::channel();
        let guard = attach(|py| {
            let event_loop = self.event_loop(py);
            let guard = Guard::new(event_loop.clone().unbind());
            let reply = HttpReply { sender: Mutex::new(Some(sender)), link: Arc::clone(&guard.0) };
            let headers: Vec<(&str, String)> = parts
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), latin1(value.as_bytes())))
                .collect();
            let length = body.length();
            let reader = (!body.is_empty()).then(|| BodyReader::new(body));
            let handle = self.dispatcher.bind(py).getattr(intern!(py, "http"))?;
            let arguments = (
                parts.method.as_str(),
                parts.uri.to_string(),
                headers,
                reader,
                length,
                Bound::new(py, reply)?,
            );
            post(&event_loop, &handle, arguments)?;
            Ok::<_, PyErr>(guard)
        });
        let Some(Ok(guard)) = guard else { return Err(unreachable()) };
        let (mut response, pieces) =
            receiver.await.map_err(|_| unreachable())?.map_err(HostError::new)?;
        if let Some(pieces) = pieces {
            // The handler goes on until its body is over, or nobody wants it.
            *response.body_mut() = outgoing(pieces, guard);
        }
        Ok(response)
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// What a handler's task and the guest's request know of each other.
struct Link {
    state: Mutex<LinkState>,
    event_loop: Py<PyAny>,
}

enum LinkState {
    Waiting,
    /// What stops the handler.
    Bound(Py<PyAny>),
    Over,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the request still wants its answer.
    fn bind(&self, cancel: Py<PyAny>) -> bool {
        let mut state = self.lock();
        let wanted = !matches!(*state, LinkState::Over);
        if wanted {
            *state = LinkState::Bound(cancel);
        }
        wanted
    }
}

/// Stops the handler when the request is dropped: its call has ended, or the
/// guest let go of it.
pub struct Guard(Arc<Link>);

impl Guard {
    fn new(event_loop: Py<PyAny>) -> Self {
        Self(Arc::new(Link { state: Mutex::new(LinkState::Waiting), event_loop }))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *self.0.lock(), LinkState::Over);
        if let LinkState::Bound(cancel) = before {
            attach(|py| {
                let _ = post(self.0.event_loop.bind(py), cancel.bind(py), ());
            });
        }
    }
}

/// The answer to a hostcall.
#[pyclass(frozen, module = "isola._native")]
pub struct Reply {
    sender: Mutex<Option<oneshot::Sender<Result<String, String>>>>,
    link: Arc<Link>,
}

#[pymethods]
impl Reply {
    /// Remembers what stops the handler. False: it need not begin.
    fn bind(&self, cancel: Py<PyAny>) -> bool {
        self.link.bind(cancel)
    }

    /// Answers with a JSON text.
    fn resolve(&self, text: String) {
        self.answer(Ok(text));
    }

    /// Fails. The guest sees the message.
    fn fail(&self, message: String) {
        self.answer(Err(message));
    }
}

impl Reply {
    fn answer(&self, answer: Result<String, String>) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(answer);
        }
    }
}

/// A response, and where the pieces of its body come from if it has any.
type Answer = (Response, Option<tokio::sync::mpsc::Receiver<Result<Option<Bytes>, HostError>>>);

/// The answer to an HTTP request.
#[pyclass(frozen, module = "isola._native")]
pub struct HttpReply {
    sender: Mutex<Option<oneshot::Sender<Result<Answer, String>>>>,
    link: Arc<Link>,
}

#[pymethods]
impl HttpReply {
    /// Remembers what stops the handler. False: it need not begin.
    fn bind(&self, cancel: Py<PyAny>) -> bool {
        self.link.bind(cancel)
    }

    /// Answers with a body that is there.
    fn respond(
        &self,
        status: u16,
        headers: Vec<(String, String)>,
        body: Option<Bound<'_, PyBytes>>,
    ) -> PyResult<()> {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.as_bytes().to_vec()));
        self.answer(Ok((response(status, headers, body)?, None)));
        Ok(())
    }

    /// Answers, and gives the writer of a body that comes in pieces.
    fn respond_stream(&self, status: u16, headers: Vec<(String, String)>) -> PyResult<BodyWriter> {
        let (writer, pieces) = BodyWriter::new();
        self.answer(Ok((response(status, headers, Body::empty())?, Some(pieces))));
        Ok(writer)
    }

    /// Fails. The guest sees the message.
    fn fail(&self, message: String) {
        self.answer(Err(message));
    }
}

impl HttpReply {
    fn answer(&self, answer: Result<Answer, String>) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(answer);
        }
    }
}

fn response(status: u16, headers: Vec<(String, String)>, body: Body) -> PyResult<Response> {
    let refuse = |what: String| crate::failure::raise("invalid_argument", &what);
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status)
        .map_err(|_| refuse(format!("the response's status is {status}: use 100 to 999")))?;
    *response.headers_mut() =
        header_map(headers).map_err(|error| refuse(error.message().to_owned()))?;
    Ok(response)
}
