//! A registry whose responses the test determines.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use crate::bundle::{Bundle, MANIFEST, sha256};

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub type RegistryResponse = Response<Body>;

/// A request, and the number of earlier requests of its path.
#[derive(Debug, Clone)]
pub struct RecordedRequest {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    pub before: usize,
}

pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<RecordedRequest>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts a registry with one image, `image:1`. `handler` is called first; if it
    /// returns `None`, the response is that of a correct registry.
    pub async fn start(
        bundle: Bundle,
        handler: impl Fn(&RecordedRequest) -> Option<RegistryResponse> + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<RecordedRequest>>> = Arc::default();
        let state = Arc::new((bundle, handler, seen.clone()));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let state = state.clone();
                        async move {
                            let (bundle, handler, log) = &*state;
                            let field = |name: &str| {
                                let value = request.headers().get(name)?;
                                Some(value.to_str().unwrap().to_owned())
                            };
                            let path = request.uri().to_string();
                            let before =
                                log.lock().unwrap().iter().filter(|seen| seen.path == path).count();
                            let seen = RecordedRequest {
                                path,
                                range: field("range"),
                                authorization: field("authorization"),
                                before,
                            };
                            log.lock().unwrap().push(seen.clone());
                            let response = handler(&seen).unwrap_or_else(|| serve(bundle, &seen));
                            Ok::<_, Infallible>(response)
                        }
                    });
                    // A client that disconnects is not an error.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, seen, task }
    }

    pub fn name(&self) -> String {
        format!("{}/image:1", self.address)
    }

    /// Returns the number of requests whose path contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path.contains(part)).count()
    }
}

/// Returns the response of a correct registry.
pub fn serve(bundle: &Bundle, seen: &RecordedRequest) -> RegistryResponse {
    let mut blobs: HashMap<String, &[u8]> =
        bundle.blobs.iter().map(|blob| (sha256(blob), blob.as_slice())).collect();
    blobs.insert("1".to_owned(), &bundle.manifest);
    blobs.insert(sha256(&bundle.manifest), &bundle.manifest);
    let name = seen.path.rsplit('/').next().unwrap();
    let Some(blob) = blobs.get(name) else { return status(404, "{}") };
    let offset: usize = seen
        .range
        .as_deref()
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let mut answer = ok(&blob[offset.min(blob.len())..]);
    if offset > 0 {
        *answer.status_mut() = hyper::StatusCode::PARTIAL_CONTENT;
    }
    if seen.path.contains("/manifests/") {
        answer.headers_mut().insert("content-type", MANIFEST.parse().unwrap());
    }
    answer
}

/// Creates a response with status 200.
pub fn ok(bytes: &[u8]) -> RegistryResponse {
    let body = Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {});
    Response::new(body.boxed_unsync())
}

pub fn status(code: u16, body: &str) -> RegistryResponse {
    let mut answer = ok(body.as_bytes());
    *answer.status_mut() = hyper::StatusCode::from_u16(code).unwrap();
    answer
}

pub fn redirect(to: &str) -> RegistryResponse {
    let mut answer = status(307, "");
    answer.headers_mut().insert("location", to.parse().unwrap());
    answer
}

pub fn challenge(challenge: &str) -> RegistryResponse {
    let mut answer = status(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"psst"}]}"#);
    answer.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
    answer
}

/// Creates a response whose body ends before the announced length.
pub fn truncated(bytes: &[u8], length: usize) -> RegistryResponse {
    use futures_util::StreamExt as _;
    let pieces: Vec<_> = bytes
        .chunks(64 << 10)
        .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let broken = futures_util::stream::once(async {
        // The bytes must be sent before the connection fails.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    });
    let body = StreamBody::new(futures_util::stream::iter(pieces).chain(broken));
    let mut answer = Response::new(UnsyncBoxBody::new(body));
    answer.headers_mut().insert("content-length", length.into());
    answer
}

/// Creates a response with an endless body.
pub fn endless() -> RegistryResponse {
    let chunk = Bytes::from(vec![b' '; 64 << 10]);
    let body = StreamBody::new(futures_util::stream::repeat_with(move || {
        Ok::<_, std::io::Error>(Frame::data(chunk.clone()))
    }));
    Response::new(UnsyncBoxBody::new(body))
}

/// Creates a response whose body stalls after its first bytes.
pub fn stalled(bytes: &[u8]) -> RegistryResponse {
    use futures_util::StreamExt as _;
    let first = Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(bytes)));
    let body =
        StreamBody::new(futures_util::stream::iter([first]).chain(futures_util::stream::pending()));
    Response::new(UnsyncBoxBody::new(body))
}
