//! One HTTP request of a guest, and its response, on their way through
//! JavaScript.

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

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, HostError>> + Send>>;
type Upload = Arc<AsyncMutex<Option<Pieces>>>;

/// The border of a request: JavaScript reads its body here, answers it, and
/// hears when nobody waits for it any more.
#[napi]
pub struct Exchange {
    /// `None` in it: the request has no body, or it is over.
    upload: Upload,
    has_body: bool,
    is_whole: bool,
    answer: Mutex<Option<oneshot::Sender<Result<Response, HostError>>>>,
    download: Mutex<Option<BodySender>>,
    /// Closed when the guest waits for nothing of this any more.
    alive: watch::Receiver<()>,
}

/// The Rust side of an exchange, waiting for the response.
pub struct Answer {
    receiver: oneshot::Receiver<Result<Response, HostError>>,
    guard: Guard,
}

/// Ends an exchange when it is dropped.
struct Guard {
    upload: Upload,
    _alive: watch::Sender<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A read that is under way holds the lock, and ends by `alive`.
        if let Ok(mut upload) = self.upload.try_lock() {
            *upload = None;
        }
    }
}

impl Answer {
    pub async fn response(self) -> Result<Response, HostError> {
        let Self { receiver, guard } = self;
        let response = receiver
            .await
            .map_err(|_| HostError::new("the HTTP handler went away without a response"))??;
        if response.body().length().is_some() {
            return Ok(response);
        }
        // The exchange lasts until the end of the response's body.
        Ok(response.map(|body| {
            Body::from_stream(body.into_stream().map(move |piece| {
                let _ = &guard;
                piece
            }))
        }))
    }
}

impl Exchange {
    pub fn begin(request: Request) -> (HttpArgs, Answer) {
        let (head, body) = request.into_parts();
        let headers = fields(&head.headers).into_iter().flat_map(|(name, value)| [name, value]);
        let has_body = !body.is_empty();
        let is_whole = body.length().is_some();
        let pieces: Option<Pieces> = has_body.then(|| Box::pin(body.into_stream()) as Pieces);
        let upload = Arc::new(AsyncMutex::new(pieces));
        let (answer, receiver) = oneshot::channel();
        let (guard, alive) = watch::channel(());
        let exchange = Self {
            upload: Arc::clone(&upload),
            has_body,
            is_whole,
            answer: Mutex::new(Some(answer)),
            download: Mutex::new(None),
            alive,
        };
        let args = (head.method.to_string(), head.uri.to_string(), headers.collect(), exchange);
        (args.into(), Answer { receiver, guard: Guard { upload, _alive: guard } })
    }
}

#[napi]
impl Exchange {
    /// Whether the request has a body.
    #[napi(getter)]
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// Whether all of the body is there already.
    #[napi(getter)]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The next piece of the request's body; `null` at its end.
    #[napi]
    pub async fn read(&self) -> Either<Option<Buffer>, Failure> {
        let mut alive = self.alive.clone();
        let mut upload = self.upload.lock().await;
        let piece = match upload.as_mut() {
            None if alive.has_changed().is_ok() => return Either::A(None),
            None => Some(Err(HostError::new("the request is over"))),
            Some(pieces) => tokio::select! {
                biased;
                _ = alive.changed() => Some(Err(HostError::new("the request is over"))),
                piece = pieces.next() => piece,
            },
        };
        match piece {
            Some(Ok(piece)) => Either::A(Some(Vec::from(piece).into())),
            None => {
                *upload = None;
                Either::A(None)
            }
            Some(Err(error)) => {
                *upload = None;
                Either::B(refused(error))
            }
        }
    }

    /// Nobody will read more of the request's body.
    #[napi]
    pub async fn discard(&self) {
        *self.upload.lock().await = None;
    }

    /// Answers with a head, and a body that is whole, or will be written. What
    /// it gives is what was wrong with that.
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

    /// Answers that there is no response, with what the guest is told; or
    /// breaks its body off.
    #[napi]
    pub async fn fail(&self, message: String) {
        let error = HostError::new(message);
        let download = self.download();
        match download {
            Some(download) => download.fail(error).await,
            None => self.send(Err(error)),
        }
    }

    /// Writes a piece of the response's body, when there is room for it.
    /// `false`: nobody takes it any more.
    #[napi]
    pub async fn write(&self, piece: Buffer) -> bool {
        match self.download() {
            Some(download) => download.send(Bytes::from(Vec::from(piece))).await,
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

    /// Resolves when the guest waits for nothing of this any more.
    #[napi]
    pub async fn gone(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
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
            HostError::new("the HTTP handler's status is not a number from 100 to 999")
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
            // The guest may be gone; nobody waits then.
            let _ = sender.send(answer);
        }
    }

    fn download(&self) -> Option<BodySender> {
        self.download.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn refused(error: HostError) -> Failure {
    Failure { code: "request".to_owned(), message: error.message().to_owned(), exception: None }
}
