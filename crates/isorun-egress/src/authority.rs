//! The certificate authority of one sandbox: it issues the certificates of the hosts
//! whose TLS the proxy terminates. Only programs of that sandbox trust it.
//!
//! Its key stays outside the sandbox. Forks and restored copies have the same
//! certificate in their files, so they continue to use the same authority.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// A certificate authority: its certificate and its key.
pub struct Authority {
    certificate: String,
    key: Zeroizing<String>,
    leaves: Mutex<HashMap<String, Arc<rustls::ServerConfig>>>,
}

/// An error in creating or using an authority.
#[derive(Debug, thiserror::Error)]
#[error("cannot create a certificate for a sandbox: {0}")]
pub struct AuthorityError(String);

fn failed(error: impl std::fmt::Display) -> AuthorityError {
    AuthorityError(error.to_string())
}

impl Authority {
    /// Creates a new authority.
    ///
    /// # Errors
    ///
    /// The system returns no random numbers.
    pub fn new() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = ca_params().self_signed(&key).map_err(failed)?;
        Ok(Self::from_parts(certificate.pem(), Zeroizing::new(key.serialize_pem())))
    }

    /// Creates an authority from a stored certificate and key.
    #[must_use]
    pub fn from_parts(certificate: String, key: Zeroizing<String>) -> Self {
        Self { certificate, key, leaves: Mutex::default() }
    }

    /// Returns the certificate as PEM. It is public.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Returns the key as PEM. It must not reach the sandbox.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the TLS server configuration to impersonate a host towards this sandbox.
    ///
    /// # Errors
    ///
    /// The name is not valid in a certificate.
    pub fn server_config(&self, name: &str) -> Result<Arc<rustls::ServerConfig>, AuthorityError> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = leaves.get(name) {
            return Ok(Arc::clone(config));
        }
        let key = KeyPair::from_pem(&self.key).map_err(failed)?;
        let issuer = Issuer::new(ca_params(), key);
        let own = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        validity(&mut params);
        let leaf = params.signed_by(&own, &issuer).map_err(failed)?;
        let key = PrivateKeyDer::try_from(own.serialize_der()).map_err(failed)?;
        let chain = vec![CertificateDer::from(leaf.der().to_vec())];
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(failed)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        leaves.insert(name.to_owned(), Arc::clone(&config));
        Ok(config)
    }
}

/// Returns the cryptography provider of all TLS configurations.
pub(super) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Returns the certificate parameters of every authority; they differ by their keys.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "isorun: this sandbox's own proxy");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params);
    params
}

/// Sets a validity that is longer than the lifetime of any sandbox.
fn validity(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.certificate == other.certificate
    }
}

impl Eq for Authority {}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_issues_certificates_and_can_be_stored() {
        let authority = Authority::new().unwrap();
        assert!(authority.server_config("api.example.com").is_ok());
        let restored = Authority::from_parts(
            authority.certificate().to_owned(),
            Zeroizing::new(authority.key().to_owned()),
        );
        assert!(restored.server_config("other.example.com").is_ok());
        assert_eq!(restored, authority);
        assert!(!format!("{authority:?}").contains("KEY"));
    }
}
