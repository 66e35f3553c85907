//! An S3 server on loopback, which can fail as a test wants.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub const ACCESS_KEY: &str = "AKIAEXAMPLE";
pub const SECRET_KEY: &str = "a-secret-access-key";
pub const BUCKET: &str = "bucket";

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It handles the request.
    None,
    /// It responds with this status and error code.
    Status(u16, &'static str),
    /// It closes the connection without a response, by a TCP reset.
    Reset,
    /// It handles the request when this has a permit.
    Hold(Arc<Semaphore>),
    /// It never responds.
    Stall,
    /// It sends half of the response's body, and closes the connection.
    Truncate,
    /// It sends half of the response's body, and no more.
    StallBody,
    /// It responds with an endless body.
    Endless,
}

/// A request that the server received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub method: Method,
    /// The path below the bucket.
    pub path: String,
}

type Plan = Box<dyn FnMut(&Received) -> Fault + Send>;
type ResponseBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

pub struct Server {
    pub endpoint: String,
    pub root: TempDir,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    service: S3Service,
    plan: Mutex<Plan>,
    received: Mutex<Vec<Received>>,
}

impl Server {
    pub async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let shared = Arc::new(Shared {
            service: builder.build(),
            plan: Mutex::new(Box::new(|_| Fault::None)),
            received: Mutex::default(),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(serve(listener, shared.clone()));
        Self { endpoint, root, shared, task }
    }

    /// Decides about each request from now on.
    pub fn plan(&self, plan: impl FnMut(&Received) -> Fault + Send + 'static) {
        *self.shared.plan.lock().unwrap() = Box::new(plan);
    }

    /// Returns the requests since the last call.
    pub fn received(&self) -> Vec<Received> {
        std::mem::take(&mut *self.shared.received.lock().unwrap())
    }

    /// Returns the directory of the bucket.
    pub fn bucket(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts the requests with this method below this path.
pub fn count(received: &[Received], method: &Method, path: &str) -> usize {
    received.iter().filter(|it| it.method == *method && it.path.contains(path)).count()
}

/// Returns all files below a directory.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        stream.set_nodelay(true).unwrap();
        let shared = shared.clone();
        connections.spawn(async move {
            let resets = Arc::new(Mutex::new(false));
            // A duplicate of the socket, to which the option applies as well.
            let socket = stream.into_std().unwrap();
            let control = tokio::net::TcpStream::from_std(socket.try_clone().unwrap()).unwrap();
            let stream = tokio::net::TcpStream::from_std(socket).unwrap();
            let service = service_fn(|request| {
                let (shared, resets) = (shared.clone(), resets.clone());
                async move {
                    let response = respond(&shared, request).await;
                    if response.is_err() {
                        *resets.lock().unwrap() = true;
                    }
                    response
                }
            });
            let builder = Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let ended = {
                let mut connection = std::pin::pin!(connection);
                std::future::poll_fn(|context| {
                    let polled = connection.as_mut().poll(context);
                    if *resets.lock().unwrap() {
                        let _ = control.set_zero_linger();
                    }
                    polled
                })
                .await
            };
            let _ = ended;
        });
    }
}

async fn respond(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, io::Error> {
    let path = request.uri().path();
    let path = path.strip_prefix(&format!("/{BUCKET}")).unwrap_or(path).to_owned();
    let path = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let received = Received { method: request.method().clone(), path };
    shared.received.lock().unwrap().push(received.clone());
    let fault = (shared.plan.lock().unwrap())(&received);
    let cut = match fault {
        Fault::Status(status, code) => {
            let is_head = request.method() == Method::HEAD;
            // As a real server does, the document names credentials and what was signed.
            let document = format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>wrong</Message>\
                 <Token-0>{SECRET_KEY}</Token-0><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId>\
                 </Error>"
            );
            let document = if is_head { String::new() } else { document };
            let body = Full::from(document).map_err(|error: Infallible| match error {});
            let response = Response::builder().status(status).body(body.boxed_unsync());
            return Ok(response.unwrap());
        }
        Fault::Reset => return Err(io::Error::other("reset")),
        Fault::Stall => std::future::pending().await,
        Fault::Hold(permits) => {
            permits.acquire().await.unwrap().forget();
            Cut::Never
        }
        Fault::None => Cut::Never,
        Fault::Truncate => Cut::Fail,
        Fault::StallBody => Cut::Stall,
        Fault::Endless => {
            let body = Response::new(Endless.boxed_unsync());
            return Ok(body);
        }
    };
    let response = shared
        .service
        .call(request.map(s3s::Body::from))
        .await
        .map_err(|_| io::Error::other("s3s"))?;
    let (parts, body) = response.into_parts();
    let left = match cut {
        Cut::Never => return Ok(Response::from_parts(parts, body.boxed_unsync())),
        _ => usize::try_from(body.size_hint().lower() / 2).unwrap(),
    };
    let bytes = body.collect().await.unwrap().to_bytes();
    let length = bytes.len() as u64;
    let left = if left == 0 { bytes.len() / 2 } else { left };
    let body = CutBody { half: Some(bytes.slice(..left)), length, cut };
    Ok(Response::from_parts(parts, body.boxed_unsync()))
}

#[derive(Clone, Copy)]
enum Cut {
    Never,
    Fail,
    Stall,
}

/// The first half of a body.
struct CutBody {
    half: Option<Bytes>,
    length: u64,
    cut: Cut,
}

impl Body for CutBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match (self.half.take(), self.cut) {
            (Some(half), _) => Poll::Ready(Some(Ok(Frame::data(half)))),
            (None, Cut::Stall) => Poll::Pending,
            (None, _) => Poll::Ready(Some(Err("truncated".into()))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// A body without an end.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 65536])))))
    }
}
