//! API keys in PostgreSQL. They do not belong to a node.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio_postgres::Row;

use super::{
    super::{KeyRow, KeyTable, StoreError},
    Postgres, column, params,
};
use crate::clock;

/// The maximum number of known keys.
const MAX_KNOWN_KEYS: usize = 10_000;
/// The time in which a key is known after it was last found in the database.
const KNOWN_KEY_LIFETIME: Duration = Duration::from_secs(600);

/// The keys that were looked up recently, for the time in which the server does not respond:
/// the runs of a node can still be read.
#[derive(Default)]
pub struct KnownKeys(Mutex<HashMap<String, (KeyRow, Instant)>>);

impl KnownKeys {
    fn update(&self, id: &str, key: Option<&KeyRow>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = key else {
            known.remove(id);
            return;
        };
        if known.len() >= MAX_KNOWN_KEYS && !known.contains_key(id) {
            known.retain(|_, (_, since)| since.elapsed() < KNOWN_KEY_LIFETIME / 2);
        }
        if known.len() < MAX_KNOWN_KEYS || known.contains_key(id) {
            known.insert(id.to_owned(), (key.clone(), Instant::now()));
        }
    }

    fn find(&self, id: &str) -> Option<KeyRow> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, since) = known.get(id)?;
        (since.elapsed() < KNOWN_KEY_LIFETIME).then(|| key.clone())
    }
}

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
            self.query_opt("SELECT * FROM keys WHERE id = $1", params![id.to_owned()]).await;
        let known = &self.shared.known_keys;
        match found {
            Ok(found) => {
                let key = found.map(|row| read(&row)).transpose()?;
                known.update(id, key.as_ref());
                Ok(key)
            }
            Err(error @ StoreError::Unavailable(_)) => known.find(id).map(Some).ok_or(error),
            Err(error) => Err(error),
        }
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
