//! Joining a cluster: the id of the node, the secrets of the cluster, and its certificate.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use isorun_peers::{Authority, AuthorityPem, Identity, NodeId};
use zeroize::Zeroizing;

use super::Cluster;
use crate::{
    config::ClusterConfig,
    secret::Secret,
    store::{ClusterSecrets, NodeReport, Postgres, PostgresUrl, StoreError},
};

/// The file of a data directory that has the id of its node.
const NODE_FILE: &str = "node";

/// The longest time that a server waits at its start for a database that is not available.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(500);

/// A server that has the secrets of a cluster, and has not joined it yet.
pub struct Member {
    database: Postgres,
    pub secret: Secret,
    /// The certificate of this node.
    pub identity: Identity,
    lease: Duration,
}

impl Member {
    /// Connects to the database of a cluster. The first server creates its secrets.
    pub async fn connect(config: &ClusterConfig, data_dir: &Path) -> Result<Self> {
        let (database, secrets) =
            open_database(&config.database, config.database_roots.as_deref(), START_TIMEOUT)
                .await?;
        let authority = Authority::from_pem(AuthorityPem {
            certificate: secrets.authority_certificate,
            key: secrets.authority_key,
        })
        .context("cannot use the certificate authority of the cluster")?;
        let node = node_id(data_dir)?;
        let identity = authority.issue(&node).context("cannot create the node's certificate")?;
        let secret = Secret::parse(&secrets.secret)?;
        Ok(Self { database, secret, identity, lease: config.lease })
    }

    /// Joins the cluster.
    pub async fn join(self, report: &NodeReport) -> Result<Cluster> {
        let node = self.identity.node().clone();
        let started = Instant::now();
        self.database.join(node.as_str(), report, self.lease).await?;
        Ok(Cluster::new(node, self.database, self.lease, started))
    }
}

/// Opens the database of a cluster, which may become available only within the time
/// `retry_for`. Creates the secrets of the cluster if there are none.
pub async fn open_database(
    url: &PostgresUrl,
    roots: Option<&Path>,
    retry_for: Duration,
) -> Result<(Postgres, ClusterSecrets)> {
    let context = || format!("cannot use the database of the cluster, {url}");
    let deadline = Instant::now() + retry_for;
    let database = loop {
        match Postgres::connect(url, roots).await {
            Err(StoreError::Unavailable(why)) if Instant::now() < deadline => {
                tracing::warn!(why, "the database of the cluster is not available yet");
                tokio::time::sleep(CONNECT_RETRY_DELAY).await;
            }
            connected => break connected.with_context(context)?,
        }
    };
    let secrets = match database.secrets().await.with_context(context)? {
        Some(secrets) => secrets,
        None => database.secrets_or(&new_secrets()?).await.with_context(context)?,
    };
    Ok((database, secrets))
}

fn new_secrets() -> Result<ClusterSecrets> {
    let pem = Authority::generate().context("cannot create a certificate authority")?.to_pem();
    Ok(ClusterSecrets {
        secret: Secret::generate()?,
        authority_certificate: pem.certificate.clone(),
        authority_key: Zeroizing::new(pem.key.to_string()),
    })
}

/// Reads the id of a data directory's node, creating it if there is none. The directory's
/// lock is held.
fn node_id(data_dir: &Path) -> Result<NodeId> {
    let path = data_dir.join(NODE_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .with_context(|| format!("{} is corrupted: restore it from a backup", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let node = NodeId::random().context("cannot get random numbers from the system")?;
            let draft = data_dir.join(format!(".{NODE_FILE}"));
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)
                .with_context(|| format!("cannot write {}", draft.display()))?;
            file.write_all(node.as_str().as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            Ok(node)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_keeps_the_id_of_its_node() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let first = node_id(dirs[0].path()).unwrap();
        assert_eq!(node_id(dirs[0].path()).unwrap(), first);
        assert_ne!(node_id(dirs[1].path()).unwrap(), first);
        fs::write(dirs[0].path().join(NODE_FILE), "node1").unwrap();
        let error = node_id(dirs[0].path()).unwrap_err().to_string();
        assert!(error.contains("corrupted"), "{error}");
    }
}
