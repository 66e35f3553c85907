//! A registry that answers what a test wants, right or wrong.

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
pub type Answer = Response<Body>;

/// A request, and how many there were of its path before it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    pub before: usize,
}

pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// A registry with one image, `image:1`, in which `handler` has the first
    /// word; `None` leaves the answer to the registry.
    pub async fn start(
        bundle: Bundle,
        handler: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
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
                            let seen = Seen {
                                path,
                                range: field("range"),
                                authorization: field("authorization"),
                                before,
                            };
                            log.lock().unwrap().push(seen.clone());
                            let answer = handler(&seen).unwrap_or_else(|| serve(bundle, &seen));
                            Ok::<_, Infallible>(answer)
                        }
                    });
                    // A client that goes away is no matter of the server's.
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

    /// How often a path with this in it was asked for.
    pub fn count(&self, part: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path.contains(part)).count()
    }
}

/// What a registry answers that is in order.
pub fn serve(bundle: &Bundle, seen: &Seen) -> Answer {
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
    let mut answer = full(&blob[offset.min(blob.len())..]);
    if offset > 0 {
        *answer.status_mut() = hyper::StatusCode::PARTIAL_CONTENT;
    }
    if seen.path.contains("/manifests/") {
        answer.headers_mut().insert("content-type", MANIFEST.parse().unwrap());
    }
    answer
}

pub fn full(bytes: &[u8]) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {});
    Response::new(body.boxed_unsync())
}

pub fn status(code: u16, body: &str) -> Answer {
    let mut answer = full(body.as_bytes());
    *answer.status_mut() = hyper::StatusCode::from_u16(code).unwrap();
    answer
}

pub fn redirect(to: &str) -> Answer {
    let mut answer = status(307, "");
    answer.headers_mut().insert("location", to.parse().unwrap());
    answer
}

pub fn challenge(challenge: &str) -> Answer {
    let mut answer = status(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"psst"}]}"#);
    answer.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
    answer
}

/// A body that breaks off, although its length was announced.
pub fn cut(bytes: &[u8], length: usize) -> Answer {
    use futures_util::StreamExt as _;
    let first = Ok(Frame::data(Bytes::copy_from_slice(bytes)));
    let broken = futures_util::stream::once(async {
        // What was sent leaves the server before the connection breaks.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    });
    let body = StreamBody::new(futures_util::stream::iter([first]).chain(broken));
    let mut answer = Response::new(UnsyncBoxBody::new(body));
    answer.headers_mut().insert("content-length", length.into());
    answer
}

/// A body that never ends.
pub fn endless() -> Answer {
    let chunk = Bytes::from(vec![b' '; 64 << 10]);
    let body = StreamBody::new(futures_util::stream::repeat_with(move || {
        Ok::<_, std::io::Error>(Frame::data(chunk.clone()))
    }));
    Response::new(UnsyncBoxBody::new(body))
}

/// A body of which the first bytes come, and nothing more.
pub fn stuck(bytes: &[u8]) -> Answer {
    use futures_util::StreamExt as _;
    let first = Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(bytes)));
    let body =
        StreamBody::new(futures_util::stream::iter([first]).chain(futures_util::stream::pending()));
    Response::new(UnsyncBoxBody::new(body))
}
