//! The network settings of a run, and their stored form: rules in plain text, secrets
//! encrypted with the server's secret.

use std::sync::Arc;

use isorun_egress::{Authority, Credentials, Plan, Policy, credentials::Credential};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::params::NetworkParams;
use crate::{core::error::Error, secret::Secret};

/// The network settings of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The name of the profile; `None` for lists.
    pub profile: Option<String>,
    pub policy: Policy,
    pub credentials: Arc<Credentials>,
}

#[derive(Serialize, Deserialize)]
struct StoredSettings {
    profile: Option<String>,
    policy: Policy,
    /// The encrypted [`SealedSecrets`], in hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct SealedSecrets {
    credentials: Vec<Credential>,
    certificate: String,
    key: String,
}

impl Settings {
    /// Creates the settings of a new run, with a certificate authority if it has credentials.
    pub fn new(params: NetworkParams, credentials: Vec<Credential>) -> Result<Self, Error> {
        let credentials = if credentials.is_empty() {
            Credentials::default()
        } else {
            let authority = Authority::new().map_err(|error| {
                Error::internal("cannot create the run's certificate authority", error)
            })?;
            Credentials::new(credentials, Arc::new(authority))
        };
        let credentials = Arc::new(credentials);
        Ok(Self { profile: params.profile, policy: params.policy, credentials })
    }

    /// Returns the settings with other rules and the same secrets.
    pub fn with(&self, params: NetworkParams) -> Self {
        let credentials = Arc::clone(&self.credentials);
        Self { profile: params.profile, policy: params.policy, credentials }
    }

    pub fn plan(&self) -> Plan {
        Plan { policy: self.policy.clone(), credentials: Arc::clone(&self.credentials) }
    }

    /// Returns the stored form.
    pub fn store(&self, secret: &Secret) -> Result<String, Error> {
        let failed =
            |error: String| Error::internal("cannot store the run's network settings", error);
        let sealed = match self.credentials.authority() {
            None => None,
            Some(authority) => {
                let plain = SealedSecrets {
                    credentials: self.credentials.list().to_vec(),
                    certificate: authority.certificate().to_owned(),
                    key: authority.key().to_owned(),
                };
                let plain =
                    serde_json::to_vec(&plain).map_err(|error| failed(error.to_string()))?;
                Some(hex::encode(secret.seal(&Zeroizing::new(plain)).map_err(failed)?))
            }
        };
        let row =
            StoredSettings { profile: self.profile.clone(), policy: self.policy.clone(), sealed };
        serde_json::to_string(&row).map_err(|error| failed(error.to_string()))
    }

    /// Parses the stored form. If it is damaged, all connections are denied.
    pub fn load(text: &str, secret: &Secret) -> Self {
        let Ok(row) = serde_json::from_str::<StoredSettings>(text) else { return Self::default() };
        let opened = row.sealed.and_then(|sealed| {
            let plain = secret.open_sealed(&hex::decode(sealed).ok()?)?;
            let sealed: SealedSecrets = serde_json::from_slice(&plain).ok()?;
            let authority = Authority::from_parts(sealed.certificate, Zeroizing::new(sealed.key));
            Some(Credentials::new(sealed.credentials, Arc::new(authority)))
        });
        let credentials = Arc::new(opened.unwrap_or_default());
        Self { profile: row.profile, policy: row.policy, credentials }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_kept_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::open(dir.path()).unwrap();
        let params = super::super::network_params(Some("internet"), None).unwrap();
        let key = "sk-very-secret".to_owned().into();
        let credential = Credential::known("OPENAI_API_KEY", key).unwrap();
        let settings = Settings::new(params, vec![credential]).unwrap();
        let text = settings.store(&secret).unwrap();
        assert!(!text.contains("sk-very") && !text.contains("PRIVATE"), "{text}");
        assert_eq!(Settings::load(&text, &secret), settings);
        // With another secret the credentials are lost, and the rules are kept.
        let other = tempfile::tempdir().unwrap();
        let other = Secret::open(other.path()).unwrap();
        let loaded = Settings::load(&text, &other);
        assert_eq!(loaded.policy, settings.policy);
        assert!(loaded.credentials.list().is_empty());
        assert_eq!(Settings::load("nonsense", &secret), Settings::default());
    }
}
