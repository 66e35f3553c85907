//! Outgoing HTTP: from `wasi:http` to the host's handler.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
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
}

type Io = Box<dyn Future<Output = Result<()>> + Send>;
type Answer = Result<(::http::Response<WasiBody>, Io)>;

impl Outgoing {
    pub(crate) fn new(host: Arc<dyn Host>, limits: &Limits) -> Self {
        let max_requests = limits.max_requests.min(Semaphore::MAX_PERMITS);
        Self { host, slots: Arc::new(Semaphore::new(max_requests)), max_requests }
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: ::http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _errors: Io,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            let max = self.max_requests;
            return Box::new(async move {
                Err(Error::InternalError(Some(format!("more than {max} requests are under way"))))
            });
        };
        let host = Arc::clone(&self.host);
        Box::new(async move {
            let timeout = options.and_then(|options| options.first_byte_timeout);
            let answer = ask(host, from_guest(request));
            let response = match timeout {
                Some(timeout) => tokio::time::timeout(timeout, answer)
                    .await
                    .map_err(|_| Error::ConnectionReadTimeout)?,
                None => answer.await,
            };
            // The slot is taken until the guest lets go of the body.
            let response = response.map_err(to_guest)?.map(|body| {
                body.into_inner()
                    .map_frame(move |frame| {
                        let _slot = &slot;
                        frame
                    })
                    .map_err(to_guest)
                    .boxed_unsync()
            });
            Ok((response, Box::new(async { Ok(()) }) as Io))
        })
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
        Body::from_inner(body.map_err(|error| HostError::new(error.to_string())).boxed_unsync())
    })
}

fn to_guest(error: HostError) -> Error {
    Error::InternalError(Some(error.message().to_owned()))
}
