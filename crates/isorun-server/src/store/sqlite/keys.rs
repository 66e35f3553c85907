//! API keys in SQLite.

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row};

use super::{
    super::{KeyRow, KeyTable, StoreError},
    Sqlite,
};
use crate::clock;

#[async_trait]
impl KeyTable for Sqlite {
    async fn add_key(&self, key: KeyRow) -> Result<(), StoreError> {
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO keys (id, tenant, name, admin, created_at) VALUES (?, ?, ?, ?, ?)",
                )?
                .execute((key.id, key.tenant, key.name, key.admin, key.created_at))?;
            Ok(())
        })
        .await
    }

    async fn key(&self, id: &str) -> Result<Option<KeyRow>, StoreError> {
        let id = id.to_owned();
        self.look_up(move |connection| {
            connection
                .prepare_cached("SELECT * FROM keys WHERE id = ?")?
                .query_row([id], read)
                .optional()
        })
        .await
    }

    async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare_cached("SELECT * FROM keys ORDER BY created_at")?;
            query.query_map([], read)?.collect()
        })
        .await
    }

    async fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            let changed = connection
                .prepare_cached(
                    "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
                )?
                .execute((clock::now_ms(), id))?;
            Ok(changed > 0)
        })
        .await
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    Ok(KeyRow {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        name: row.get("name")?,
        admin: row.get("admin")?,
        created_at: row.get("created_at")?,
        revoked_at: row.get("revoked_at")?,
    })
}
