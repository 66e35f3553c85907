//! The socket: plain or with TLS, and how serving ends.

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
