//! What an operator wants to know about the database of a cluster.

use super::{super::StoreError, Postgres, number, params};

/// The state of a database.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseHealth {
    /// The number of connections to the server, of all its users.
    pub connections: u64,
    /// The number that it permits.
    pub max_connections: u64,
    /// The number of hibernated runs, snapshots and images that are not in the object store.
    pub not_uploaded: u64,
}

impl Postgres {
    /// Returns the state of the database.
    pub async fn health(&self) -> Result<DatabaseHealth, StoreError> {
        let found = self
            .query_opt(
                "SELECT (SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
                         AS connections,
                     current_setting('max_connections')::BIGINT
                         - current_setting('superuser_reserved_connections')::BIGINT
                         AS max_connections,
                     (SELECT COUNT(*) FROM runs WHERE destroyed_at IS NULL
                         AND status = 'hibernated' AND tree_generation IS DISTINCT FROM generation)
                     + (SELECT COUNT(*) FROM snapshots WHERE tree IS NULL)
                     + (SELECT COUNT(DISTINCT digest) FROM node_images AS image WHERE NOT EXISTS (
                         SELECT FROM image_copies WHERE digest = image.digest)) AS not_uploaded",
                params![],
            )
            .await?;
        let Some(row) = found else {
            return Err(StoreError::Postgres("it reports nothing about itself".to_owned()));
        };
        Ok(DatabaseHealth {
            connections: number(&row, "connections")?,
            max_connections: number(&row, "max_connections")?,
            not_uploaded: number(&row, "not_uploaded")?,
        })
    }
}
