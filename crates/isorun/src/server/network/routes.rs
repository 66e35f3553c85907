//! The network of a run over HTTP: look, and change.

use axum::{Json as Answer, extract::State};

use super::{Settings, order};
use crate::{
    api::{ErrorBody, Network, NetworkChange, Profile},
    audit::Event,
    server::{
        ApiError, App,
        extract::{Json, OwnRun},
        lifecycle::engine_error,
        runs::LiveRun,
    },
};

/// The network profiles
#[utoipa::path(
    get, path = "/v1/network-profiles", tag = "network", operation_id = "network_profiles",
    responses((status = 200, body = Vec<Profile>)),
)]
pub async fn profile_list() -> Answer<Vec<Profile>> {
    Answer(super::order::shown())
}

/// What a run may reach
#[utoipa::path(
    get, path = "/v1/runs/{id}/network", tag = "network", operation_id = "get_network",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = Network),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
    ),
)]
pub async fn show(OwnRun(run): OwnRun) -> Answer<Network> {
    Answer(describe(&run.network()))
}

/// Change what a run may reach
///
/// Takes effect at once; connections that are open are reset. Credentials stay as they are. A body
/// that `GET` answered changes nothing; one without rules or with unknown fields is refused.
#[utoipa::path(
    put, path = "/v1/runs/{id}/network", tag = "network", operation_id = "set_network",
    params(("id" = String, Path, description = "The run")),
    request_body = NetworkChange,
    responses(
        (status = 200, body = Network),
        (status = 400, body = ErrorBody, description = "A rule that is none; the text names it"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
    ),
)]
pub async fn change(
    State(app): State<App>,
    OwnRun(run): OwnRun,
    Json(change): Json<NetworkChange>,
) -> Result<Answer<Network>, ApiError> {
    apply(&app, &run, change).await.map(Answer)
}

pub async fn apply(app: &App, run: &LiveRun, change: NetworkChange) -> Result<Network, ApiError> {
    // One change at a time, so that what is kept is what holds.
    let _change = run.change.lock().await;
    let now = run.network();
    let settings = now.with(order::change(&change, &describe(&now))?);
    app.store.set_run_network(&run.id, settings.store(&app.secret)?).await?;
    // One that is on disk has it when it comes back.
    if !run.is_asleep() {
        let changed = app.engine.set_network(&run.sandbox, settings.plan()).await;
        changed.map_err(|error| engine_error("cannot change the network", error))?;
    }
    let network = describe(&settings);
    run.set_network(settings);
    let what = serde_json::json!({
        "profile": network.profile, "allow": network.allow, "deny": network.deny,
    });
    run.log.append(Event::NetworkChanged, what).await?;
    Ok(network)
}

pub fn describe(settings: &Settings) -> Network {
    let (allow, deny) = settings.policy.lists();
    Network {
        profile: settings.profile.clone(),
        rest: order::rest_name(settings.policy.rest()).to_owned(),
        allow,
        deny,
        credentials: settings.credentials.list().iter().map(|one| one.name.clone()).collect(),
    }
}
