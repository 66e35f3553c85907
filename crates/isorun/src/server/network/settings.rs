//! What is kept of a run's network, in its row: rules in plain, secrets sealed
//! with the server's own.

use std::sync::Arc;

use isorun_engine::network::{Authority, Credentials, Plan, Policy, credentials::Credential};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::order::Order;
use crate::{secret::Secret, server::ApiError};

/// The network of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The name of a profile; nothing for lists.
    pub profile: Option<String>,
    pub policy: Policy,
    pub credentials: Arc<Credentials>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    profile: Option<String>,
    policy: Policy,
    /// Hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    credentials: Vec<Credential>,
    certificate: String,
    key: String,
}

impl Settings {
    pub fn new(order: Order, credentials: Vec<Credential>) -> Result<Self, ApiError> {
        let credentials = if credentials.is_empty() {
            Credentials::default()
        } else {
            let authority = Authority::new()
                .map_err(|error| ApiError::internal("cannot make the run's certificates", error))?;
            Credentials::new(credentials, Arc::new(authority))
        };
        let credentials = Arc::new(credentials);
        Ok(Self { profile: order.profile, policy: order.policy, credentials })
    }

    /// Other rules; the secrets stay.
    pub fn with(&self, order: Order) -> Self {
        let credentials = Arc::clone(&self.credentials);
        Self { profile: order.profile, policy: order.policy, credentials }
    }

    pub fn plan(&self) -> Plan {
        Plan { policy: self.policy.clone(), credentials: Arc::clone(&self.credentials) }
    }

    /// As it is kept. `run` is whose it is: a sealed text is good for that one.
    pub fn store(&self, secret: &Secret) -> Result<String, ApiError> {
        let failed = |error: String| ApiError::internal("cannot keep the run's network", error);
        let sealed = match self.credentials.authority() {
            None => None,
            Some(authority) => {
                let plain = Sealed {
                    credentials: self.credentials.list().to_vec(),
                    certificate: authority.certificate().to_owned(),
                    key: authority.key().to_owned(),
                };
                let plain =
                    serde_json::to_vec(&plain).map_err(|error| failed(error.to_string()))?;
                Some(hex::encode(secret.seal(&Zeroizing::new(plain)).map_err(failed)?))
            }
        };
        let row = Row { profile: self.profile.clone(), policy: self.policy.clone(), sealed };
        serde_json::to_string(&row).map_err(|error| failed(error.to_string()))
    }

    /// What was kept. Damaged: nothing is reached.
    pub fn load(text: &str, secret: &Secret) -> Self {
        let Ok(row) = serde_json::from_str::<Row>(text) else { return Self::default() };
        let opened = row.sealed.and_then(|sealed| {
            let plain = secret.open_sealed(&hex::decode(sealed).ok()?)?;
            let sealed: Sealed = serde_json::from_slice(&plain).ok()?;
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
        let folder = tempfile::tempdir().unwrap();
        let secret = Secret::open(folder.path()).unwrap();
        let order = super::super::order(Some("internet"), None).unwrap();
        let key = "sk-very-secret".to_owned().into();
        let credential = Credential::known("OPENAI_API_KEY", key).unwrap();
        let settings = Settings::new(order, vec![credential]).unwrap();
        let text = settings.store(&secret).unwrap();
        assert!(!text.contains("sk-very") && !text.contains("PRIVATE"), "{text}");
        assert_eq!(Settings::load(&text, &secret), settings);
        // With another secret nothing is opened, and the rules hold.
        let other = tempfile::tempdir().unwrap();
        let other = Secret::open(other.path()).unwrap();
        let loaded = Settings::load(&text, &other);
        assert_eq!(loaded.policy, settings.policy);
        assert!(loaded.credentials.list().is_empty());
        assert_eq!(Settings::load("nonsense", &secret), Settings::default());
    }
}
