//! Real servers on loopback, and a host whose guests can connect to them.

use std::{convert::Infallible, future::Future, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use isola::{Handlers, HttpClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub(crate) type Request = hyper::Request<Incoming>;
pub(crate) type Response = hyper::Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// A server. Dropping it closes its connections.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server that answers HTTP requests with `answer`.
    pub(crate) async fn http<F, R>(answer: F) -> Self
    where
        F: Fn(Request) -> R + Clone + Send + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        Self::tcp(move |stream| {
            let answer = answer.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        })
        .await
    }

    /// Starts a server that reads the head of each request, and answers with these
    /// bytes.
    pub(crate) async fn raw(answer: &'static [u8]) -> Self {
        Self::tcp(move |mut stream| async move {
            if read_head(&mut stream).await {
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        })
        .await
    }

    /// Starts a server that passes each connection to `serve`.
    pub(crate) async fn tcp<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { address, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Creates a host whose guests can connect only to this server.
    pub(crate) fn host(&self) -> Handlers {
        let client = HttpClient::allow([self.address.to_string()]).unwrap();
        Handlers::new().http(move |request| {
            let client = client.clone();
            async move { client.send(request).await }
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads the head of a request. Returns false if the connection is closed before its
/// end.
pub(crate) async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

/// Creates a response with a complete body.
pub(crate) fn complete_response(bytes: impl Into<Bytes>) -> Response {
    Response::new(Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync())
}

/// Creates a response with a streamed body, which ends when the sender is dropped.
pub(crate) fn streamed_response(pieces: tokio::sync::mpsc::Receiver<Bytes>) -> Response {
    let pieces = futures_util::stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((Ok(::http_body::Frame::data(piece)), pieces))
    });
    Response::new(http_body_util::StreamBody::new(pieces).boxed_unsync())
}
