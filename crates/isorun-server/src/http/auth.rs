//! Authentication and rate limits: the bearer key, its tenant, and its request rate.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::Response,
};
use isorun_peers::Peer;

use super::{
    App,
    error::{ApiError, Code},
    limits,
    owner::{find_owner, run_of_client},
};

/// The authenticated sender of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    pub key: String,
    pub tenant: String,
    pub admin: bool,
}

impl Caller {
    /// Fails unless the key is an admin's.
    pub fn must_be_admin(&self) -> Result<(), ApiError> {
        if self.admin {
            return Ok(());
        }
        Err(ApiError::new(
            Code::Forbidden,
            "this requires an admin key: create one with `isorun keys create --admin`",
        ))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            ApiError::internal("cannot authenticate the request", "a route without authentication")
        })
    }
}

/// Authenticates requests, and enforces the rate limit of their keys.
pub async fn require_key(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let key = key_id(&app, request.headers())?;
    // Both are round trips to the database of a cluster.
    let (caller, owner) =
        tokio::join!(caller(&app, &key), find_owner(&app, run_of_client(&request)));
    let caller = caller?;
    limits::attribute(&app, request.extensions(), &caller.tenant)?;
    // A request of another node was counted there.
    if request.extensions().get::<Peer>().is_none() {
        app.core.accounts.rates.check(&caller.key)?;
    }
    let mut request = limits::count_body(&app, request, &caller.tenant)?;
    request.extensions_mut().insert(caller);
    if let Some(owner) = owner? {
        request.extensions_mut().insert(owner);
    }
    Ok(next.run(request).await)
}

/// Returns the sender of requests with a key, unless it was revoked.
async fn caller(app: &App, key: &str) -> Result<Caller, ApiError> {
    let row = app.core.store.key(key).await?;
    let row = row.filter(|row| row.revoked_at.is_none()).ok_or_else(invalid_key)?;
    Ok(Caller { key: row.id, tenant: row.tenant, admin: row.admin })
}

/// Returns the id of a key that this server or cluster has created. It may have been revoked.
fn key_id(app: &App, headers: &HeaderMap) -> Result<String, ApiError> {
    let unauthorized = |message| ApiError::new(Code::Unauthorized, message);
    let header = headers.get(header::AUTHORIZATION).ok_or_else(|| {
        unauthorized(
            "no API key: send `Authorization: Bearer isorun_live_...`, from `isorun keys create`",
        )
    })?;
    let key = header.to_str().ok().and_then(|text| {
        let (scheme, key) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let Some(key) = key else {
        return Err(unauthorized("the Authorization header is not `Bearer` and an API key"));
    };
    app.core.secret.verify_key(key).ok_or_else(invalid_key)
}

/// Returns the error for every invalid key: the same, so that it reveals nothing.
fn invalid_key() -> ApiError {
    ApiError::new(Code::Unauthorized, "the API key is not valid on this server, or was revoked")
}
