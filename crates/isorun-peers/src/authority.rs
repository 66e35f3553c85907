//! The certificate authority of a cluster. Each node has a copy, which it gets from what
//! the nodes share, and issues its own certificate with it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::{
    identity::{Identity, IdentityError},
    node::{DOMAIN, NodeId},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The maximum difference between the clocks of two nodes.
const MAX_CLOCK_SKEW: Duration = DAY;

/// The validity of an authority. It ends long after the cluster: there is no renewal.
const AUTHORITY_VALIDITY: Duration = YEAR.saturating_mul(50);

/// The validity of a node's certificate. Its key exists only in the memory of a process,
/// which issues a new one at each start, so a shorter validity would protect nothing that
/// the authority's own key does not give away; and no process runs for so long.
const IDENTITY_VALIDITY: Duration = YEAR.saturating_mul(10);

/// The common name of every authority. They differ by their keys.
const COMMON_NAME: &str = "isorun cluster";

/// A certificate authority with a key on the curve P-256, for names of nodes only.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: AuthorityPem,
}

/// The certificate and the key of an authority, as PEM.
#[derive(Clone)]
pub struct AuthorityPem {
    /// The certificate. It is public.
    pub certificate: String,
    /// The key. Whoever has it can act as any node.
    pub key: Zeroizing<String>,
}

impl fmt::Debug for AuthorityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityPem")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

/// An error in creating or using an authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// No key or certificate can be created.
    #[error("cannot create a certificate: {0}")]
    Create(String),
    /// The PEM of an authority is not valid.
    #[error(
        "not a valid authority of a cluster: {0}: restore both its certificate and its key, or \
         create a new authority for all nodes"
    )]
    Invalid(String),
}

fn create_error(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Create(error.to_string())
}

impl Authority {
    /// Creates a new authority.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn generate() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(create_error)?;
        let certificate = params().self_signed(&key).map_err(create_error)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            pem: AuthorityPem {
                certificate: certificate.pem(),
                key: Zeroizing::new(key.serialize_pem()),
            },
        })
    }

    /// Returns the authority as PEM.
    #[must_use]
    pub fn to_pem(&self) -> AuthorityPem {
        self.pem.clone()
    }

    /// Creates an authority from what [`Self::to_pem`] returned.
    ///
    /// # Errors
    ///
    /// The PEM is not valid, the key is not that of the certificate, or the certificate is
    /// not one of this type, or not valid now.
    pub fn from_pem(pem: AuthorityPem) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from_pem_slice(pem.certificate.as_bytes())
            .map_err(|error| AuthorityError::Invalid(format!("the certificate: {error}")))?;
        let authority = Self { certificate, pem };
        // A certificate that it issues is verified, so this finds a key of another authority.
        let probe = NodeId::random().map_err(|error| AuthorityError::Create(error.to_string()))?;
        match authority.issue(&probe) {
            Ok(_) => Ok(authority),
            Err(error @ AuthorityError::Invalid(_)) => Err(error),
            Err(AuthorityError::Create(why)) => Err(AuthorityError::Invalid(why)),
        }
    }

    /// Issues the certificate of a node, for TLS as a client and as a server.
    ///
    /// # Errors
    ///
    /// The system has no random numbers, or the authority has expired.
    pub fn issue(&self, node: &NodeId) -> Result<Identity, AuthorityError> {
        let key = KeyPair::from_pem(&self.pem.key)
            .map_err(|error| AuthorityError::Invalid(format!("the key: {error}")))?;
        let issuer = Issuer::new(params(), key);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(create_error)?;
        let mut params = CertificateParams::new(vec![node.dns_name()]).map_err(create_error)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, IDENTITY_VALIDITY);
        let leaf = params.signed_by(&key, &issuer).map_err(create_error)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|error| AuthorityError::Create(error.to_owned()))?;
        Identity::new(vec![leaf.der().clone()], key, vec![self.certificate.clone()]).map_err(
            |error| match error {
                IdentityError::Untrusted(why) | IdentityError::InvalidRoots(why) => {
                    AuthorityError::Invalid(why)
                }
                other => AuthorityError::Create(other.to_string()),
            },
        )
    }
}

/// Returns the certificate parameters of every authority.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(DOMAIN.to_owned())],
        excluded_subtrees: Vec::new(),
    });
    set_validity(&mut params, AUTHORITY_VALIDITY);
    params
}

fn set_validity(params: &mut CertificateParams, validity: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - MAX_CLOCK_SKEW).into();
    params.not_after = (now + validity).into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_is_restored_from_pem_and_issues_certificates() {
        let authority = Authority::generate().unwrap();
        let node = NodeId::random().unwrap();
        assert_eq!(authority.issue(&node).unwrap().node(), &node);
        let restored = Authority::from_pem(authority.to_pem()).unwrap();
        assert_eq!(restored.issue(&node).unwrap().node(), &node);
        assert_eq!(*restored.to_pem().key, *authority.to_pem().key);
    }

    #[test]
    fn pem_that_does_not_belong_together_is_refused() {
        let (one, two) = (Authority::generate().unwrap(), Authority::generate().unwrap());
        let other_key = AuthorityPem { key: two.to_pem().key, ..one.to_pem() };
        let no_key = AuthorityPem { key: Zeroizing::new("x".to_owned()), ..one.to_pem() };
        let no_certificate = AuthorityPem { certificate: "x".to_owned(), ..one.to_pem() };
        let leaf = {
            let key = KeyPair::from_pem(&one.to_pem().key).unwrap();
            let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            AuthorityPem { certificate: params.self_signed(&key).unwrap().pem(), ..one.to_pem() }
        };
        for pem in [other_key, no_key, no_certificate, leaf] {
            let error = Authority::from_pem(pem).unwrap_err();
            assert!(matches!(error, AuthorityError::Invalid(_)), "{error}");
            assert!(!error.to_string().contains("PRIVATE"), "{error}");
        }
    }

    #[test]
    fn keys_are_not_in_debug_output() {
        let authority = Authority::generate().unwrap();
        let identity = authority.issue(&NodeId::random().unwrap()).unwrap();
        let text = format!("{authority:?} {:?} {identity:?}", authority.to_pem());
        assert!(!text.contains("PRIVATE"), "{text}");
        assert!(text.contains("BEGIN CERTIFICATE"), "{text}");
    }
}
