//! API keys: tenants, names and revocations. The keys themselves are not stored: they
//! are verified by their HMAC.

use async_trait::async_trait;

use super::StoreError;
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

/// The API keys of a database.
#[async_trait]
pub trait KeyTable: Send + Sync {
    /// Adds a key.
    async fn add_key(&self, key: KeyRow) -> Result<(), StoreError>;

    /// Returns a key, which may be revoked.
    async fn key(&self, id: &str) -> Result<Option<KeyRow>, StoreError>;

    /// Returns all keys.
    async fn keys(&self) -> Result<Vec<KeyRow>, StoreError>;

    /// Revokes a key. Returns true if it existed and was not revoked before.
    async fn revoke_key(&self, id: &str) -> Result<bool, StoreError>;
}
