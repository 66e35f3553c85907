//! Who is asking, and how often: the Bearer key, its tenant, its rate limit.

use std::{num::NonZeroU32, time::Duration};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::Response,
};
use governor::{DefaultKeyedRateLimiter, Quota, clock::Clock as _};

use super::{ApiError, App, Code, limits};

/// Who sent a request, proved by its key.
#[derive(Clone, Debug)]
pub struct Caller {
    pub key: String,
    pub tenant: String,
    pub admin: bool,
}

impl Caller {
    pub fn must_be_admin(&self) -> Result<(), ApiError> {
        if self.admin {
            return Ok(());
        }
        Err(ApiError::new(
            Code::Forbidden,
            "this is about the whole server: use a key that was made by `isorun keys create --admin`",
        ))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            ApiError::internal("cannot tell who is asking", "a route without authentication")
        })
    }
}

/// Lets genuine keys through that do not ask too often.
pub async fn require_key(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = authenticate(&app, request.headers()).await?;
    limits::attribute(&app, request.extensions(), &caller.tenant)?;
    app.rates.check(&caller.key)?;
    let mut request = limits::count_body(&app, request, &caller.tenant)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let refused = |message| ApiError::new(Code::Unauthorized, message);
    let header = headers.get(header::AUTHORIZATION).ok_or_else(|| {
        refused(
            "no API key: send `Authorization: Bearer isorun_live_...`, from `isorun keys create`",
        )
    })?;
    let key = header.to_str().ok().and_then(|text| {
        let (scheme, key) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let Some(key) = key else {
        return Err(refused("the Authorization header is not `Bearer` and an API key"));
    };
    // The same text for all that is wrong with a key: it helps nobody to guess.
    let wrong = || refused("this server does not know the API key, or it was revoked");
    let id = app.secret.verify_key(key).ok_or_else(wrong)?;
    let row = app.store.key(&id).await?.filter(|row| row.revoked_at.is_none()).ok_or_else(wrong)?;
    Ok(Caller { key: row.id, tenant: row.tenant, admin: row.admin })
}

/// How often each key may ask.
pub struct Rates(DefaultKeyedRateLimiter<String>);

impl Rates {
    /// So many requests a second over time, and twice as many at once.
    pub fn new(per_second: u32) -> Self {
        let rate = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        Self(DefaultKeyedRateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)))
    }

    fn check(&self, key: &String) -> Result<(), ApiError> {
        let Err(early) = self.0.check_key(key) else { return Ok(()) };
        let wait = early.wait_time_from(self.0.clock().now());
        Err(ApiError::new(
            Code::TooManyRequests,
            "too many requests with this key: wait, then try again",
        )
        .after(wait))
    }

    /// Forgets keys that have not asked for a while, now and then, for ever.
    pub async fn forget_idle(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
            self.0.retain_recent();
        }
    }
}
