//! The secrets that all nodes of a cluster share. Whoever can read them in the database can
//! create keys and join the cluster.

use std::fmt;

use zeroize::Zeroizing;

use super::{Postgres, StoreError, column, params};

/// The secrets of a cluster.
#[derive(Clone)]
pub struct ClusterSecrets {
    /// The secret that API keys, audit logs and checkpoints are verified with, in hex digits.
    pub secret: Zeroizing<String>,
    /// The certificate of the authority that certifies the nodes, as PEM.
    pub authority_certificate: String,
    /// Its private key, as PEM.
    pub authority_key: Zeroizing<String>,
}

impl fmt::Debug for ClusterSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecrets(..)")
    }
}

impl Postgres {
    /// Returns the secrets of the cluster. Those of its first node are stored.
    pub async fn secrets_or(&self, own: &ClusterSecrets) -> Result<ClusterSecrets, StoreError> {
        self.query(
            "INSERT INTO cluster (secret, authority_certificate, authority_key)
             VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            params![
                own.secret.to_string(),
                own.authority_certificate.clone(),
                own.authority_key.to_string(),
            ],
        )
        .await?;
        self.secrets().await?.ok_or_else(|| {
            StoreError::Postgres("the secrets of the cluster were removed meanwhile".to_owned())
        })
    }

    /// Returns the secrets of the cluster, if a node has joined it.
    pub async fn secrets(&self) -> Result<Option<ClusterSecrets>, StoreError> {
        let found = self.query_opt("SELECT * FROM cluster", params![]).await?;
        let Some(row) = found else { return Ok(None) };
        Ok(Some(ClusterSecrets {
            secret: Zeroizing::new(column(&row, "secret")?),
            authority_certificate: column(&row, "authority_certificate")?,
            authority_key: Zeroizing::new(column(&row, "authority_key")?),
        }))
    }
}
