//! HTTP routes that show and change the network of a run.

use axum::{Json as Answer, extract::State};

use super::{
    App,
    error::ApiError,
    extract::{Json, OwnedRun},
};
use crate::core::{
    network::{describe, described_profiles},
    network_change,
};
use isorun_api::{ErrorBody, Network, NetworkChange, Profile};

/// The network profiles
#[utoipa::path(
    get, path = "/v1/network-profiles", tag = "network", operation_id = "network_profiles",
    responses((status = 200, body = Vec<Profile>)),
)]
pub async fn profile_list() -> Answer<Vec<Profile>> {
    Answer(described_profiles())
}

/// The network rules of a run
#[utoipa::path(
    get, path = "/v1/runs/{id}/network", tag = "network", operation_id = "get_network",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = Network),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
    ),
)]
pub async fn show(OwnedRun(run): OwnedRun) -> Answer<Network> {
    Answer(describe(&run.network()))
}

/// Change the network rules of a run
///
/// Takes effect at once; open connections are reset. Credentials do not change. The body of a `GET`
/// response changes nothing; a body without rules or with unknown fields is refused.
#[utoipa::path(
    put, path = "/v1/runs/{id}/network", tag = "network", operation_id = "set_network",
    params(("id" = String, Path, description = "The run")),
    request_body = NetworkChange,
    responses(
        (status = 200, body = Network),
        (status = 400, body = ErrorBody, description = "An invalid rule; the message names it"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
    ),
)]
pub async fn change(
    State(app): State<App>,
    OwnedRun(run): OwnedRun,
    Json(change): Json<NetworkChange>,
) -> Result<Answer<Network>, ApiError> {
    Ok(Answer(network_change::apply(&app.core, &run, change).await?))
}
