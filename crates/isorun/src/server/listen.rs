//! The socket: plain or with TLS, and how serving ends.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tokio_util::sync::CancellationToken;

use super::{App, connections, routes};

/// How long answers may take to leave, once the grace is over.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How often it is looked whether something is still under way.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// A socket that is bound, and not served yet.
pub struct Listening {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    pub address: SocketAddr,
}

impl Listening {
    pub async fn bind(config: &super::Config) -> Result<Self> {
        let socket = TcpListener::bind(config.listen)
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        socket.set_nonblocking(true)?;
        let tls = match &config.tls {
            None => None,
            Some((chain, key)) => Some(acceptor(chain, key).with_context(|| {
                format!("cannot use the certificate {} with {}", chain.display(), key.display())
            })?),
        };
        Ok(Self { address: socket.local_addr()?, socket, tls })
    }

    /// Where clients reach it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until the server stops, then lets what is under way end for a while.
    /// Meanwhile it takes connections, to say that it is stopping.
    pub async fn serve(self, app: &App) -> Result<()> {
        let (finishing, closing) = (CancellationToken::new(), CancellationToken::new());
        let stopping = tokio::spawn({
            let (app, finishing, closing) = (app.clone(), finishing.clone(), closing.clone());
            async move {
                app.stopping.cancelled().await;
                let _ = timeout(app.config.limits.grace, drained(&app)).await;
                finishing.cancel();
                // Who still waits for a sandbox is told that it is gone.
                let ending = tokio::spawn({
                    let app = app.clone();
                    async move { app.end_sandboxes().await }
                });
                tokio::time::sleep(LAST_WORDS).await;
                closing.cancel();
                let _ = ending.await;
            }
        });
        let forget = tokio::spawn({
            let app = app.clone();
            async move { app.rates.forget_idle().await }
        });
        let socket =
            tokio::net::TcpListener::from_std(self.socket).context("cannot serve the socket")?;
        let setup = connections::Setup {
            connections: Arc::clone(&app.connections),
            limits: app.config.limits.server.clone(),
            tls: self.tls,
            service: routes::service(app),
            stopping: app.stopping.clone(),
            finishing,
            closing,
        };
        connections::accept(socket, setup).await;
        forget.abort();
        stopping.abort();
        Ok(())
    }
}

/// Waits until nothing is under way: no request, and no command, shell or
/// connection to a port in any run.
async fn drained(app: &App) {
    while app.accounts.requests.used() > 0 || app.runs.are_in_use() {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
    ensure!(!chain.is_empty(), "there is no certificate in it");
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
