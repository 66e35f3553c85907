//! The listening socket, plain or with TLS, and graceful shutdown.

use std::{
    fs::File,
    io::Read,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
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
use crate::config::Config;

/// The longest time that responses may take to be sent after the grace period.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// The interval of checks whether requests are still in progress.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A bound socket that is not served yet.
pub struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    pub address: SocketAddr,
}

impl Listener {
    pub async fn bind(config: &Config) -> Result<Self> {
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

    /// Returns the URL of the server.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until the server stops, then waits for requests in progress for the grace
    /// period. Meanwhile it accepts connections, to respond that it is stopping.
    pub async fn serve(self, app: &App) -> Result<()> {
        let (finishing, closing) = (CancellationToken::new(), CancellationToken::new());
        let stopping = tokio::spawn({
            let (app, finishing, closing) = (app.clone(), finishing.clone(), closing.clone());
            async move {
                app.core.stopping.cancelled().await;
                let _ = timeout(app.core.config.limits.grace, drained(&app)).await;
                finishing.cancel();
                // Requests that still wait for a sandbox get the error that it was destroyed.
                let ending_sandboxes = tokio::spawn({
                    let app = app.clone();
                    async move { app.core.end_sandboxes().await }
                });
                tokio::time::sleep(FLUSH_TIMEOUT).await;
                closing.cancel();
                let _ = ending_sandboxes.await;
            }
        });
        let rate_cleanup = tokio::spawn({
            let app = app.clone();
            async move { app.core.accounts.rates.forget_idle().await }
        });
        let peers = tokio::spawn({
            let (app, finishing) = (app.clone(), finishing.clone());
            async move {
                if let Some(peers) = &app.peers {
                    peers.serve(routes::service(&app), finishing).await;
                }
            }
        });
        let socket =
            tokio::net::TcpListener::from_std(self.socket).context("cannot serve the socket")?;
        let setup = connections::ServeOptions {
            connections: Arc::clone(&app.connections),
            limits: app.core.config.limits.server.clone(),
            tls: self.tls,
            service: routes::service(app),
            stopping: app.core.stopping.clone(),
            finishing,
            closing,
        };
        connections::accept(socket, setup).await;
        let _ = peers.await;
        rate_cleanup.abort();
        stopping.abort();
        Ok(())
    }
}

/// Waits until no request, command, shell or connection to a port is in progress.
async fn drained(app: &App) {
    while app.core.accounts.requests.used() > 0 || app.core.runs.are_in_use() {
        tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
    }
}

fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
    ensure!(!chain.is_empty(), "the file contains no certificate");
    let key = private_key(key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Reads the private key from a file that only its owner and group can access: a
/// group is how key files are shared with servers (`ssl-cert` of Debian).
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let mut file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    ensure!(
        mode & 0o027 == 0,
        "other users can access the private key (mode {mode:04o}): run `chmod 600 {}`, and \
         replace the key if one of them may have read it",
        path.display(),
    );
    let mut pem = Vec::new();
    file.read_to_end(&mut pem)?;
    Ok(PrivateKeyDer::from_pem_slice(&pem)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_that_others_can_access_is_refused() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        std::fs::write(&path, key).unwrap();
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o644, false),
            (0o660, false),
            (0o602, false),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match private_key(&path) {
                Ok(_) => assert!(good, "{mode:o}"),
                Err(error) => {
                    assert!(!good && error.to_string().contains("chmod 600"), "{mode:o}: {error}");
                }
            }
        }
    }
}
