//! API keys in PostgreSQL. They do not belong to a node.

use async_trait::async_trait;
use tokio_postgres::Row;

use super::{
    super::{KeyRow, KeyTable, StoreError},
    Postgres, column, params,
};
use crate::clock;

#[async_trait]
impl KeyTable for Postgres {
    async fn add_key(&self, key: KeyRow) -> Result<(), StoreError> {
        self.query(
            "INSERT INTO keys (id, tenant, name, admin, created_at) VALUES ($1, $2, $3, $4, $5)",
            params![key.id, key.tenant, key.name, key.admin, key.created_at],
        )
        .await
        .map(drop)
    }

    async fn key(&self, id: &str) -> Result<Option<KeyRow>, StoreError> {
        let found =
            self.query_opt("SELECT * FROM keys WHERE id = $1", params![id.to_owned()]).await?;
        found.map(|row| read(&row)).transpose()
    }

    async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        let rows = self.query("SELECT * FROM keys ORDER BY created_at, id", params![]).await?;
        rows.iter().map(read).collect()
    }

    async fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
        let revoked = self
            .query(
                "UPDATE keys SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL RETURNING id",
                params![clock::now_ms(), id.to_owned()],
            )
            .await?;
        Ok(!revoked.is_empty())
    }
}

fn read(row: &Row) -> Result<KeyRow, StoreError> {
    Ok(KeyRow {
        id: column(row, "id")?,
        tenant: column(row, "tenant")?,
        name: column(row, "name")?,
        admin: column(row, "admin")?,
        created_at: column(row, "created_at")?,
        revoked_at: column(row, "revoked_at")?,
    })
}
