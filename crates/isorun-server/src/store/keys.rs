//! API keys: tenants, names and revocations. The keys themselves are not stored: they
//! are verified by their HMAC.

use rusqlite::{OptionalExtension, Row};

use super::{Store, StoreError};
use crate::clock;

/// The stored data of an API key.
#[derive(Clone, Debug)]
pub struct KeyRow {
    /// The id, which is part of the key.
    pub id: String,
    /// The tenant. All keys of a tenant have access to the same runs.
    pub tenant: String,
    /// A name for people.
    pub name: String,
    /// True if it has access to data of the server, such as metrics.
    pub admin: bool,
    /// The time of its creation, in milliseconds since 1970.
    pub created_at: i64,
    /// The time of its revocation, in milliseconds since 1970.
    pub revoked_at: Option<i64>,
}

impl KeyRow {
    /// Creates the row of a new key.
    pub fn new(id: &str, tenant: &str, name: &str, admin: bool) -> Self {
        Self {
            id: id.to_owned(),
            tenant: tenant.to_owned(),
            name: name.to_owned(),
            admin,
            created_at: clock::now_ms(),
            revoked_at: None,
        }
    }
}

impl Store {
    /// Adds a key.
    pub async fn add_key(&self, key: KeyRow) -> Result<(), StoreError> {
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

    /// Returns a key, which may be revoked.
    pub async fn key(&self, id: &str) -> Result<Option<KeyRow>, StoreError> {
        let id = id.to_owned();
        self.look_up(move |connection| {
            connection
                .prepare_cached("SELECT * FROM keys WHERE id = ?")?
                .query_row([id], read)
                .optional()
        })
        .await
    }

    /// Returns all keys.
    pub async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare_cached("SELECT * FROM keys ORDER BY created_at")?;
            query.query_map([], read)?.collect()
        })
        .await
    }

    /// Revokes a key. Returns true if it existed and was not revoked before.
    pub async fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
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
