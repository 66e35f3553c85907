//! Passes hostcalls and HTTP requests of a guest to the event loop of the running
//! call.

use std::sync::{Arc, Mutex, PoisonError};

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
    guard::{Cancellation, Guard},
};

/// The event loop of the running operation, which handles the guest's hostcalls.
pub type CurrentLoop = Arc<Mutex<Py<PyAny>>>;

/// A host that calls the functions of `dispatcher`, an object of
/// `python/isola/_dispatch.py`.
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

/// Creates the error for an interpreter that shuts down or a closed event loop.
fn shutting_down() -> HostError {
    HostError::new("the host is shutting down")
}

#[async_trait]
impl Host for PythonHost {
    async fn hostcall(&self, name: &str, payload: Value) -> Result<Value, HostError> {
        let (sender, receiver) = oneshot::channel();
        let guard = attach(|py| {
            let event_loop = self.event_loop(py);
            let guard = Guard::new(event_loop.clone().unbind());
            let reply =
                Reply { sender: Mutex::new(Some(sender)), cancellation: guard.cancellation() };
            let handle = self.dispatcher.bind(py).getattr(intern!(py, "hostcall"))?;
            post(&event_loop, &handle, (name, payload.as_str(), Bound::new(py, reply)?))?;
            Ok::<_, PyErr>(guard)
        });
        let Some(Ok(_guard)) = guard else { return Err(shutting_down()) };
        let text = receiver.await.map_err(|_| shutting_down())?.map_err(HostError::new)?;
        Value::from_json(text).map_err(|error| HostError::new(error.to_string()))
    }

    async fn http(&self, request: Request) -> Result<Response, HostError> {
        let (parts, body) = request.into_parts();
        let (sender, receiver) = oneshot::channel();
        let guard = attach(|py| {
            let event_loop = self.event_loop(py);
            let guard = Guard::new(event_loop.clone().unbind());
            let reply =
                HttpReply { sender: Mutex::new(Some(sender)), cancellation: guard.cancellation() };
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
        let Some(Ok(guard)) = guard else { return Err(shutting_down()) };
        let (mut response, chunks) =
            receiver.await.map_err(|_| shutting_down())?.map_err(HostError::new)?;
        if let Some(chunks) = chunks {
            // The handler runs until its body ends or the guest no longer reads it.
            *response.body_mut() = outgoing(chunks, guard);
        }
        Ok(response)
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The handle by which a handler replies to a hostcall.
#[pyclass(frozen, module = "isola._native")]
pub struct Reply {
    sender: Mutex<Option<oneshot::Sender<Result<String, String>>>>,
    cancellation: Arc<Cancellation>,
}

#[pymethods]
impl Reply {
    /// Sets the function that cancels the handler. Returns false if the handler need
    /// not start.
    fn bind(&self, cancel: Py<PyAny>) -> bool {
        self.cancellation.bind(cancel)
    }

    /// Replies with a JSON text.
    fn resolve(&self, text: String) {
        self.answer(Ok(text));
    }

    /// Fails the hostcall with a message for the guest.
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

/// A response, and the chunks of its body if that is streamed.
type ResponseParts =
    (Response, Option<tokio::sync::mpsc::Receiver<Result<Option<Bytes>, HostError>>>);

/// The handle by which a handler responds to an HTTP request.
#[pyclass(frozen, module = "isola._native")]
pub struct HttpReply {
    sender: Mutex<Option<oneshot::Sender<Result<ResponseParts, String>>>>,
    cancellation: Arc<Cancellation>,
}

#[pymethods]
impl HttpReply {
    /// Sets the function that cancels the handler. Returns false if the handler need
    /// not start.
    fn bind(&self, cancel: Py<PyAny>) -> bool {
        self.cancellation.bind(cancel)
    }

    /// Responds with a complete body.
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

    /// Responds, and returns the writer of the streamed body.
    fn respond_stream(&self, status: u16, headers: Vec<(String, String)>) -> PyResult<BodyWriter> {
        let (writer, chunks) = BodyWriter::new();
        self.answer(Ok((response(status, headers, Body::empty())?, Some(chunks))));
        Ok(writer)
    }

    /// Fails the request with a message for the guest.
    fn fail(&self, message: String) {
        self.answer(Err(message));
    }
}

impl HttpReply {
    fn answer(&self, answer: Result<ResponseParts, String>) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(answer);
        }
    }
}

fn response(status: u16, headers: Vec<(String, String)>, body: Body) -> PyResult<Response> {
    let invalid = |message: String| crate::failure::raise("invalid_argument", &message);
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status)
        .map_err(|_| invalid(format!("the response's status is {status}: use 100 to 999")))?;
    *response.headers_mut() =
        header_map(headers).map_err(|error| invalid(error.message().to_owned()))?;
    Ok(response)
}
