//! The identity of a node: its certificate and key, with which it connects to its peers and
//! accepts their connections.

use std::{
    fmt,
    fs::File,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use zeroize::{Zeroize, Zeroizing};

use crate::node::NodeId;

/// The names of the protocols in TLS.
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The maximum size of a PEM file, in bytes.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// A node's certificate and key, and the certificates of the authorities that it trusts.
///
/// Certificates are not checked for revocation. A node is excluded by a new authority for
/// all others.
#[derive(Clone)]
pub struct Identity {
    node: NodeId,
    server: Arc<ServerConfig>,
    http2_client: Arc<ClientConfig>,
    http1_client: Arc<ClientConfig>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("node", &self.node).finish_non_exhaustive()
    }
}

/// An error in creating an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read, or is not PEM.
    #[error("cannot read {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// Other users can access the file of the key.
    #[error(
        "other users can access the private key (mode {mode:04o}): run `chmod 600 {}`, and \
         replace the key if one of them may have read it",
        path.display(),
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The names in the certificate are not exactly one name of a node.
    #[error(
        "the certificate has the names [{}]: it must have exactly one, \
         <node id>.isorun.internal, such as node0123456789abcdef.isorun.internal",
        names.join(", ")
    )]
    InvalidNames {
        /// The DNS names in the certificate.
        names: Vec<String>,
    },
    /// The certificate or key cannot be used.
    #[error("cannot use the certificate with its key: {0}")]
    InvalidCertificate(String),
    /// The certificates of the authorities cannot be used.
    #[error("cannot use the certificates of the authorities: {0}")]
    InvalidRoots(String),
    /// The authorities did not issue the certificate, or it is not valid now, or not valid
    /// both for clients and for servers.
    #[error(
        "peers would refuse the certificate: {0}: it must be valid now, for both client and \
         server authentication, and issued by one of the given authorities"
    )]
    Untrusted(String),
}

impl Identity {
    /// Returns the node.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Reads an identity from PEM files: the node's certificate, followed by intermediate
    /// ones; its key, which other users must not be able to access; and the certificates of
    /// the authorities that the node trusts. Changes of the files have no effect later.
    ///
    /// # Errors
    ///
    /// The files cannot be read, or peers would refuse the certificate.
    pub fn from_files(certificate: &Path, key: &Path, roots: &Path) -> Result<Self, IdentityError> {
        let chain = read_certificates(certificate)?;
        let roots = read_certificates(roots)?;
        Self::new(chain, read_key(key)?, roots)
    }

    /// Creates an identity, and verifies its certificate as its peers do.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, IdentityError> {
        let key = ZeroizedKey(key);
        let (Some(leaf), intermediates) = (chain.first(), chain.get(1..).unwrap_or_default())
        else {
            return Err(IdentityError::InvalidCertificate("there is no certificate".to_owned()));
        };
        let node = node_of(leaf)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = root_store(roots)?;
        let invalid_roots = |error: rustls::server::VerifierBuilderError| {
            IdentityError::InvalidRoots(error.to_string())
        };
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(invalid_roots)?;
        let servers =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(invalid_roots)?;
        let name = ServerName::try_from(node.dns_name())
            .map_err(|error| IdentityError::InvalidCertificate(error.to_string()))?;
        let now = UnixTime::now();
        clients
            .verify_client_cert(leaf, intermediates, now)
            .map_err(|error| IdentityError::Untrusted(error.to_string()))?;
        servers
            .verify_server_cert(leaf, intermediates, &name, &[], now)
            .map_err(|error| IdentityError::Untrusted(error.to_string()))?;
        let server = server_config(&provider, clients, chain.clone(), &key)?;
        let client = |protocol| client_config(&provider, &roots, chain.clone(), &key, protocol);
        Ok(Self {
            node,
            server: Arc::new(server),
            http2_client: Arc::new(client(ALPN_HTTP2)?),
            http1_client: Arc::new(client(ALPN_HTTP1)?),
        })
    }

    /// Returns the TLS configuration of the listener.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Returns the TLS configuration of connections with HTTP/2.
    pub(crate) fn http2_client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.http2_client)
    }

    /// Returns the TLS configuration of connections with HTTP/1.1, for upgrades.
    pub(crate) fn http1_client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.http1_client)
    }
}

/// A key whose copy in this process's memory is erased when it is dropped. What rustls
/// derives from it for signatures remains.
struct ZeroizedKey(PrivateKeyDer<'static>);

impl Drop for ZeroizedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: &ZeroizedKey,
) -> Result<ServerConfig, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(invalid_certificate)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key.0.clone_key())
        .map_err(invalid_certificate)?;
    // Resumed sessions would not verify the certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
    Ok(config)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: &ZeroizedKey,
    protocol: &[u8],
) -> Result<ClientConfig, IdentityError> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(invalid_certificate)?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(chain, key.0.clone_key())
        .map_err(invalid_certificate)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

fn invalid_certificate(error: rustls::Error) -> IdentityError {
    IdentityError::InvalidCertificate(error.to_string())
}

fn root_store(roots: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(|error| IdentityError::InvalidRoots(error.to_string()))?;
    }
    Ok(Arc::new(store))
}

/// Returns the node that a certificate names. The caller has verified the certificate.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Result<NodeId, IdentityError> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| IdentityError::InvalidCertificate(error.to_string()))?;
    let names: Vec<&str> = parsed.valid_dns_names().collect();
    match names[..] {
        [name] => NodeId::from_dns_name(name),
        _ => None,
    }
    .ok_or_else(|| IdentityError::InvalidNames {
        names: names.into_iter().map(str::to_owned).collect(),
    })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let (pem, _) = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| file_error(path, error))?;
    if certificates.is_empty() {
        return Err(file_error(path, "the file contains no certificate"));
    }
    Ok(certificates)
}

/// Reads a key from a file that only its owner and group can access, and that only its
/// owner can change.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let (pem, mode) = read(path)?;
    if mode & 0o027 != 0 {
        return Err(IdentityError::Permissions { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| file_error(path, error))
}

/// Returns the content and the permissions of a file.
fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), IdentityError> {
    let file = File::open(path).map_err(|error| file_error(path, error))?;
    let metadata = file.metadata().map_err(|error| file_error(path, error))?;
    let mut pem = Zeroizing::new(Vec::new());
    file.take(MAX_PEM_BYTES + 1).read_to_end(&mut pem).map_err(|error| file_error(path, error))?;
    if pem.len() as u64 > MAX_PEM_BYTES {
        return Err(file_error(path, format!("it is larger than {MAX_PEM_BYTES} bytes")));
    }
    Ok((pem, metadata.permissions().mode() & 0o7777))
}

fn file_error(path: &Path, why: impl fmt::Display) -> IdentityError {
    IdentityError::File { path: path.to_owned(), why: why.to_string() }
}
