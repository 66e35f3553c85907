//! Outgoing HTTP: from `wasi:http` to the host's handler.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use tokio::{runtime::Handle, sync::Semaphore};
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

use crate::{
    host::{Host, HostError},
    http::{Body, Request, Response},
    limits::Limits,
};

/// Hands each request of a guest to its host.
pub(crate) struct Outgoing {
    host: Arc<dyn Host>,
    slots: Arc<Semaphore>,
    max_requests: usize,
    reasons: Reasons,
}

type Io = Box<dyn Future<Output = Result<()>> + Send>;
type Answer = Result<(::http::Response<WasiBody>, Io)>;

/// Why requests failed, for guests whose engine does not tell them.
#[derive(Clone, Default)]
struct Reasons(Arc<Mutex<VecDeque<String>>>);

/// So many reasons are kept; a guest that does not ask loses the oldest.
const MAX_REASONS: usize = 16;

impl Outgoing {
    pub(crate) fn new(host: Arc<dyn Host>, limits: &Limits) -> Self {
        let max_requests = limits.max_requests.min(Semaphore::MAX_PERMITS);
        let slots = Arc::new(Semaphore::new(max_requests));
        Self { host, slots, max_requests, reasons: Reasons::default() }
    }

    /// The oldest reason that was not taken yet.
    pub(crate) fn take_reason(&self) -> Option<String> {
        self.reasons.lock().pop_front()
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: ::http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _errors: Io,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let request = from_guest(request);
        let host = Arc::clone(&self.host);
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let max_requests = self.max_requests;
        let reasons = self.reasons.clone();
        let timeout = options.and_then(|options| options.first_byte_timeout);
        Box::new(async move {
            let Ok(slot) = slot else {
                let why = format!("more than {max_requests} requests are under way");
                return Err(reasons.tell(&HostError::new(why)));
            };
            let answer = ask(host, request);
            let response = match timeout {
                Some(timeout) => tokio::time::timeout(timeout, answer).await.map_err(|_| {
                    reasons.tell(&HostError::new("the first byte took longer than the timeout"));
                    Error::ConnectionReadTimeout
                })?,
                None => answer.await,
            };
            // The slot is taken until the guest lets go of the body.
            let response = response.map_err(|error| reasons.tell(&error))?.map(|body| {
                body.into_inner()
                    .map_frame(move |frame| {
                        let _slot = &slot;
                        frame
                    })
                    .map_err(move |error| reasons.tell(&error))
                    .boxed_unsync()
            });
            Ok((response, Box::new(async { Ok(()) }) as Io))
        })
    }
}

impl Reasons {
    fn tell(&self, error: &HostError) -> Error {
        let mut reasons = self.lock();
        if reasons.len() >= MAX_REASONS {
            reasons.pop_front();
        }
        reasons.push_back(error.message().to_owned());
        Error::InternalError(Some(error.message().to_owned()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(host: Arc<dyn Host>, request: Request) -> Result<Response, HostError> {
    AssertUnwindSafe(host.http(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(HostError::new("the host's HTTP handler panicked")))
}

fn from_guest(request: ::http::Request<WasiBody>) -> Request {
    request.map(|body| {
        let body = Drained { body: Some(body) };
        Body::from_inner(body.map_err(|error| HostError::new(error.to_string())).boxed_unsync())
    })
}

/// A request's body that is read to its end even if the host is not interested:
/// a guest's engine may take a body that nobody reads for a broken connection,
/// and crash over it.
struct Drained {
    body: Option<WasiBody>,
}

impl ::http_body::Body for Drained {
    type Data = bytes::Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<::http_body::Frame<bytes::Bytes>>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if frame.is_none() {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(::http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> ::http_body::SizeHint {
        self.body.as_ref().map_or_else(Default::default, ::http_body::Body::size_hint)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let (Some(mut body), Ok(runtime)) = (self.body.take(), Handle::try_current()) else {
            return;
        };
        if !::http_body::Body::is_end_stream(&body) {
            // It ends when the guest ends it, or is gone.
            runtime.spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
        }
    }
}
