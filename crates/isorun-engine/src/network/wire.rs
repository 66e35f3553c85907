//! Connections of HTTP to the world, kept for a while between requests.

use std::net::SocketAddrV4;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::provider;
use super::budget::{Share, Taken};

/// How long a handshake may take.
const SLOW: Duration = Duration::from_secs(10);
/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(15);

/// Header fields of an answer, at most.
const MAX_FIELDS: usize = 256;

/// How hosts of secrets are known to be themselves.
pub struct Upstream(Arc<rustls::ClientConfig>);

impl Upstream {
    /// By the authorities of the machine, and those in a file.
    pub fn open(extra: Option<&Path>) -> Result<Self, String> {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if let Some(path) = extra {
            let read = CertificateDer::pem_file_iter(path)
                .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
                .map_err(|error| {
                    format!("cannot read certificates of {}: {error}", path.display())
                })?;
            for certificate in read {
                roots.add(certificate).map_err(|error| {
                    format!("{} has a certificate that is none: {error}", path.display())
                })?;
            }
        }
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Connections to a host that has to prove who it is.
    pub fn to(&self, to: SocketAddrV4, name: &str, share: Share) -> Wire {
        Wire::Secure(to, name.to_owned(), Arc::clone(&self.0), share)
    }
}

/// Sends requests to one address, on connections that it keeps.
pub type Sender = Client<Wire, Incoming>;

/// A sender for that kind of connection.
pub fn client(wire: Wire) -> Sender {
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .http1_max_headers(MAX_FIELDS)
        .pool_max_idle_per_host(16)
        .pool_timer(TokioTimer::new())
        .set_host(false)
        .build(wire)
}

/// How connections are made.
#[derive(Clone)]
pub enum Wire {
    /// Without TLS.
    Plain(SocketAddrV4),
    /// With TLS, to a host of this name. A connection inside can need many of them.
    Secure(SocketAddrV4, String, Arc<rustls::ClientConfig>, Share),
}

impl tower_service::Service<Uri> for Wire {
    type Response = TokioIo<Stream>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let wire = self.clone();
        Box::pin(async move {
            let connecting = async {
                match wire {
                    Self::Plain(to) => Ok(Stream::new(connect(to).await?)),
                    Self::Secure(to, name, config, share) => {
                        let taken = share.take(1).ok_or(std::io::ErrorKind::QuotaExceeded)?;
                        let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
                        let stream = connect(to).await?;
                        let stream = TlsConnector::from(config).connect(name, stream).await?;
                        Ok(Stream::counted(stream, taken))
                    }
                }
            };
            let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
            tokio::time::timeout(SLOW, connecting).await.map_err(late)?.map(TokioIo::new)
        })
    }
}

async fn connect(to: SocketAddrV4) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection of any kind.
pub struct Stream {
    io: Box<dyn Io>,
    _counted: Option<Taken>,
}

impl Stream {
    /// This one.
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { io: Box::new(io), _counted: None }
    }

    /// This one, which is counted as long as it lives.
    fn counted(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, taken: Taken) -> Self {
        Self { io: Box::new(io), _counted: Some(taken) }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
