//! How many requests there may be at once.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use super::{ApiError, App, Code};

/// Places for requests of all callers together.
pub struct InFlight(Arc<Semaphore>);

impl InFlight {
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))))
    }
}

/// Turns away what is too much, instead of letting it wait for an unknown time.
pub async fn bound(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let permit = Arc::clone(&app.in_flight.0).try_acquire_owned().map_err(|_| {
        ApiError::new(Code::Unavailable, "the server has too many requests at once: try again")
            .after(Duration::from_secs(1))
    })?;
    let response = next.run(request).await;
    // A stream is under way until its last byte.
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &permit;
            frame
        }))
    }))
}
