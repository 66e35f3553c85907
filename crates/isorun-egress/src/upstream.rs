//! HTTP clients for upstream servers, with connection pools.

use std::net::SocketAddrV4;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::provider;
use super::budget::{BudgetShare, Permit};

/// Maximum time for a TCP connection and its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that an idle connection stays in the pool.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum number of header fields of a response.
const MAX_RESPONSE_FIELDS: usize = 256;

/// The TLS configuration that verifies the hosts to which secrets are sent.
pub struct UpstreamTls(Arc<rustls::ClientConfig>);

impl UpstreamTls {
    /// Trusts the certificate authorities of the machine, and those in a PEM file.
    pub fn new(extra: Option<&Path>) -> Result<Self, String> {
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
                    format!("invalid certificate in {}: {error}", path.display())
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

    /// Returns a connector to an address that verifies the host's certificate.
    pub fn connector(&self, to: SocketAddrV4, name: &str, share: BudgetShare) -> Connector {
        Connector::Tls(to, name.to_owned(), Arc::clone(&self.0), share)
    }
}

/// An HTTP client for one address, with a connection pool.
pub type HttpClient = Client<Connector, Incoming>;

/// Creates a client that uses a connector.
pub fn client<B>(connector: Connector) -> Client<Connector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .http1_max_headers(MAX_RESPONSE_FIELDS)
        .pool_max_idle_per_host(16)
        .pool_timer(TokioTimer::new())
        .set_host(false)
        .build(connector)
}

/// A connector to one address.
#[derive(Clone)]
pub enum Connector {
    /// Without TLS.
    Plain(SocketAddrV4),
    /// With TLS, to a host of this name. Each connection is counted in the budget, since
    /// one connection of the guest can need many of them.
    Tls(SocketAddrV4, String, Arc<rustls::ClientConfig>, BudgetShare),
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<UpstreamStream>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let connecting = async {
                match connector {
                    Self::Plain(to) => Ok(UpstreamStream::new(connect(to).await?)),
                    Self::Tls(to, name, config, share) => {
                        let permit =
                            share.try_acquire(1).ok_or(std::io::ErrorKind::QuotaExceeded)?;
                        let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
                        let stream = connect(to).await?;
                        let stream = TlsConnector::from(config).connect(name, stream).await?;
                        Ok(UpstreamStream::counted(stream, permit))
                    }
                }
            };
            let timed_out = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
            tokio::time::timeout(CONNECT_TIMEOUT, connecting)
                .await
                .map_err(timed_out)?
                .map(TokioIo::new)
        })
    }
}

async fn connect(to: SocketAddrV4) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A byte stream to an upstream server, with or without TLS.
pub struct UpstreamStream {
    io: Box<dyn Io>,
    _permit: Option<Permit>,
}

impl UpstreamStream {
    /// Wraps a stream.
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { io: Box::new(io), _permit: None }
    }

    /// Wraps a stream that is counted in a budget until it is dropped.
    fn counted(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, permit: Permit) -> Self {
        Self { io: Box::new(io), _permit: Some(permit) }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Connection for UpstreamStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for UpstreamStream {
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
