//! An HTTP request of a guest and its response, as they pass through JavaScript.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use isola::{
    HostError,
    http::{Body, BodySender, Request, Response, StatusCode, fields, header_map},
};
use napi::bindgen_prelude::{Buffer, Either, FnArgs};
use napi_derive::napi;
use tokio::sync::{Mutex as AsyncMutex, oneshot, watch};

use crate::failure::Failure;

/// `(method, url, [name, value, ...], exchange)`
pub type HttpArgs = FnArgs<(String, String, Vec<String>, Exchange)>;

type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, HostError>> + Send>>;
type Upload = Arc<AsyncMutex<Option<BodyStream>>>;

/// The JavaScript side of a request: reads the request's body, sends the
/// response, and is notified when the guest no longer waits for it.
#[napi]
pub struct Exchange {
    /// Holds `None` if the request has no body or has ended.
    upload: Upload,
    has_body: bool,
    is_complete: bool,
    answer: Mutex<Option<oneshot::Sender<Result<Response, HostError>>>>,
    download: Mutex<Option<BodySender>>,
    /// Closed when the guest no longer waits for this exchange.
    waiting: watch::Receiver<()>,
}

/// The Rust side of an exchange, which waits for the response.
pub struct PendingResponse {
    receiver: oneshot::Receiver<Result<Response, HostError>>,
    guard: Guard,
}

/// Ends an exchange when it is dropped.
struct Guard {
    upload: Upload,
    _waiting: watch::Sender<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A read in progress holds the lock, and `waiting` ends it.
        if let Ok(mut upload) = self.upload.try_lock() {
            *upload = None;
        }
    }
}

impl PendingResponse {
    pub async fn response(self) -> Result<Response, HostError> {
        let Self { receiver, guard } = self;
        let response = receiver.await.map_err(|_| {
            HostError::new("the HTTP handler was dropped before it sent a response")
        })??;
        if response.body().length().is_some() {
            return Ok(response);
        }
        // The exchange lasts until the end of the response's body.
        Ok(response.map(|body| {
            Body::from_stream(body.into_stream().map(move |chunk| {
                let _ = &guard;
                chunk
            }))
        }))
    }
}

impl Exchange {
    pub fn start(request: Request) -> (HttpArgs, PendingResponse) {
        let (head, body) = request.into_parts();
        let headers = fields(&head.headers).into_iter().flat_map(|(name, value)| [name, value]);
        let has_body = !body.is_empty();
        let is_complete = body.length().is_some();
        let stream = has_body.then(|| Box::pin(body.into_stream()) as BodyStream);
        let upload = Arc::new(AsyncMutex::new(stream));
        let (answer, receiver) = oneshot::channel();
        let (guard, waiting) = watch::channel(());
        let exchange = Self {
            upload: Arc::clone(&upload),
            has_body,
            is_complete,
            answer: Mutex::new(Some(answer)),
            download: Mutex::new(None),
            waiting,
        };
        let args = (head.method.to_string(), head.uri.to_string(), headers.collect(), exchange);
        (args.into(), PendingResponse { receiver, guard: Guard { upload, _waiting: guard } })
    }
}

#[napi]
impl Exchange {
    /// Reports whether the request has a body.
    #[napi(getter)]
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// Reports whether the complete body is available already.
    #[napi(getter)]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Returns the next chunk of the request's body, or `null` at its end.
    #[napi]
    pub async fn read(&self) -> Either<Option<Buffer>, Failure> {
        let mut waiting = self.waiting.clone();
        let mut upload = self.upload.lock().await;
        let chunk = match upload.as_mut() {
            None if waiting.has_changed().is_ok() => return Either::A(None),
            None => Some(Err(HostError::new("the request has ended"))),
            Some(stream) => tokio::select! {
                biased;
                _ = waiting.changed() => Some(Err(HostError::new("the request has ended"))),
                chunk = stream.next() => chunk,
            },
        };
        match chunk {
            Some(Ok(chunk)) => Either::A(Some(Vec::from(chunk).into())),
            None => {
                *upload = None;
                Either::A(None)
            }
            Some(Err(error)) => {
                *upload = None;
                Either::B(request_failure(error))
            }
        }
    }

    /// Discards the rest of the request's body.
    #[napi]
    pub async fn discard(&self) {
        *self.upload.lock().await = None;
    }

    /// Sends the response's head, with a complete body or one that `write` sends.
    /// Returns an error message if the response is invalid.
    #[napi]
    pub fn respond(
        &self,
        status: u32,
        headers: Vec<String>,
        body: Option<Buffer>,
        streams: bool,
    ) -> Option<String> {
        match self.prepare(status, headers, body, streams) {
            Ok(response) => {
                self.send(Ok(response));
                None
            }
            Err(error) => {
                let message = error.message().to_owned();
                self.send(Err(error));
                Some(message)
            }
        }
    }

    /// Fails the request with a message for the guest, or aborts the response's
    /// body if its head was sent.
    #[napi]
    pub async fn fail(&self, message: String) {
        let error = HostError::new(message);
        let download = self.download();
        match download {
            Some(download) => download.fail(error).await,
            None => self.send(Err(error)),
        }
    }

    /// Writes a chunk of the response's body once there is room for it. Returns
    /// `false` if the guest no longer reads the body.
    #[napi]
    pub async fn write(&self, chunk: Buffer) -> bool {
        match self.download() {
            Some(download) => download.send(Bytes::from(Vec::from(chunk))).await,
            None => false,
        }
    }

    /// Ends the response's body.
    #[napi]
    pub async fn finish(&self) {
        if let Some(download) = self.download() {
            download.finish().await;
        }
    }

    /// Resolves when the guest no longer waits for this exchange.
    #[napi]
    pub async fn gone(&self) {
        let mut waiting = self.waiting.clone();
        while waiting.changed().await.is_ok() {}
    }
}

impl Exchange {
    fn prepare(
        &self,
        status: u32,
        headers: Vec<String>,
        body: Option<Buffer>,
        streams: bool,
    ) -> Result<Response, HostError> {
        let status =
            u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.ok_or_else(|| {
            HostError::new("the HTTP handler's status must be a number from 100 to 999")
        })?;
        let mut texts = headers.into_iter();
        let pairs = std::iter::from_fn(|| Some((texts.next()?, texts.next()?)));
        let headers = header_map(pairs)?;
        let body = match body {
            Some(bytes) => Body::from(Vec::from(bytes)),
            None if streams => {
                let (sender, body) = Body::channel();
                *self.download.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
                body
            }
            None => Body::empty(),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    fn send(&self, answer: Result<Response, HostError>) {
        let sender = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // The send fails if the guest no longer waits for the response.
            let _ = sender.send(answer);
        }
    }

    fn download(&self) -> Option<BodySender> {
        self.download.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn request_failure(error: HostError) -> Failure {
    Failure {
        code: "request".to_owned(),
        message: error.message().to_owned(),
        exception: None,
        file: None,
    }
}
