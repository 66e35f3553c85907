//! Certificates that no authority of a cluster would issue, and TLS without this crate's
//! client and listener.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use isorun_peers::{Identity, IdentityError, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer},
};

/// An authority of the operator.
pub struct OperatorAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate and its key.
pub struct Leaf {
    pub certificate: rcgen::Certificate,
    pub key: KeyPair,
}

impl Leaf {
    fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        (vec![self.certificate.der().clone()], key)
    }
}

impl OperatorAuthority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the operator");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, directory: tempfile::tempdir().unwrap() }
    }

    /// Issues a valid certificate with these names.
    pub fn leaf(&self, names: &[String]) -> Leaf {
        self.leaf_with(names, |_| {})
    }

    pub fn leaf_with(&self, names: &[String], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.to_vec()).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        Leaf { certificate: params.signed_by(&key, &self.issuer).unwrap(), key }
    }

    pub fn expired_leaf(&self, node: &NodeId) -> Leaf {
        self.leaf_with(&[node.dns_name()], |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    /// Writes a certificate to files. Returns those of the certificate, key and authority.
    pub fn files(&self, leaf: &Leaf) -> [PathBuf; 3] {
        let files = ["certificate", "key", "roots"].map(|name| self.directory.path().join(name));
        fs::write(&files[0], leaf.certificate.pem()).unwrap();
        fs::write(&files[1], leaf.key.serialize_pem()).unwrap();
        fs::set_permissions(&files[1], fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&files[2], self.issuer.pem()).unwrap();
        files
    }

    /// Reads an identity from files with a certificate.
    pub fn identity(&self, leaf: &Leaf) -> Result<Identity, IdentityError> {
        let [certificate, key, roots] = self.files(leaf);
        Identity::from_files(&certificate, &key, &roots)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// Returns the configuration of a client that trusts this authority.
    pub fn client_config(
        &self,
        leaf: Option<&Leaf>,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots());
        Arc::new(match leaf {
            None => config.with_no_client_auth(),
            Some(leaf) => {
                let (chain, key) = leaf.chain();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }

    /// Returns the configuration of a server that accepts any client.
    pub fn server_config(&self, leaf: &Leaf) -> Arc<ServerConfig> {
        let (chain, key) = leaf.chain();
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}
