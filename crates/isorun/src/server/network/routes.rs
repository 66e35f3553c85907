//! HTTP routes that show and change the network of a run.

use axum::{Json as Answer, extract::State};

use super::{Settings, order};
use crate::{
    audit::Event,
    server::{
        ApiError, App,
        extract::{Json, OwnedRun},
        lifecycle::engine_error,
        runs::LiveRun,
    },
};
use isorun_api::{ErrorBody, Network, NetworkChange, Profile};

/// The network profiles
#[utoipa::path(
    get, path = "/v1/network-profiles", tag = "network", operation_id = "network_profiles",
    responses((status = 200, body = Vec<Profile>)),
)]
pub async fn profile_list() -> Answer<Vec<Profile>> {
    Answer(super::order::described_profiles())
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
    apply(&app, &run, change).await.map(Answer)
}

/// Checks and applies a change of a run's network.
pub async fn apply(app: &App, run: &LiveRun, change: NetworkChange) -> Result<Network, ApiError> {
    // One change at a time, so that the stored settings are those in effect.
    let _change = run.lifecycle_lock.lock().await;
    let now = run.network();
    let settings = now.with(order::change(&change, &describe(&now))?);
    app.store.set_run_network(&run.id, settings.store(&app.secret)?).await?;
    // A hibernated run gets the settings when it is resumed.
    if !run.is_suspended() {
        let changed = app.engine.set_network(&run.sandbox, settings.plan()).await;
        changed.map_err(|error| engine_error("cannot change the network", error))?;
    }
    let network = describe(&settings);
    run.set_network(settings);
    let details = serde_json::json!({
        "profile": network.profile, "allow": network.allow, "deny": network.deny,
    });
    run.log.append(Event::NetworkChanged, details).await?;
    Ok(network)
}

/// Returns the settings in the form of the API.
pub fn describe(settings: &Settings) -> Network {
    let (allow, deny) = settings.policy.lists();
    Network {
        profile: settings.profile.clone(),
        rest: order::rest_name(settings.policy.default_action()).to_owned(),
        allow,
        deny,
        credentials: settings.credentials.list().iter().map(|one| one.name.clone()).collect(),
    }
}
