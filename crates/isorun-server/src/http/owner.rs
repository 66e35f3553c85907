//! The node of the run that a request names.

use axum::extract::{MatchedPath, Request};
use isorun_api::RunId;
use isorun_peers::Peer;
use percent_encoding::percent_decode_str;

use super::{App, error::ApiError};
use crate::{core::cluster::Cluster, store::RunOwner};

/// The node of the run that a request names, if it is another one.
#[derive(Clone)]
pub struct FoundOwner(pub Option<RunOwner>);

/// Looks up the node of the run that a request names, unless the run is here.
pub async fn find_owner(app: &App, id: Option<RunId>) -> Result<Option<FoundOwner>, ApiError> {
    let (Some(cluster), Some(id)) = (&app.core.cluster, id) else { return Ok(None) };
    if app.core.runs.get(&id).is_some() {
        return Ok(None);
    }
    owner_elsewhere(cluster, &id).await.map(|owner| Some(FoundOwner(owner)))
}

/// Returns the node of a run that was not destroyed, if it is another one.
pub async fn owner_elsewhere(cluster: &Cluster, id: &RunId) -> Result<Option<RunOwner>, ApiError> {
    let owner = cluster.database.run_owner(id).await?;
    Ok(owner.filter(|owner| owner.node != cluster.node.as_str()))
}

/// Returns the run that a request of a client names. One for an audit log names none: the logs
/// of all runs are in the database.
pub fn run_of_client(request: &Request) -> Option<RunId> {
    // What another node forwards is not forwarded again.
    if request.extensions().get::<Peer>().is_some() {
        return None;
    }
    run_of(request)
}

/// Returns the run that a request names, like [`run_of_client`].
pub fn run_of(request: &Request) -> Option<RunId> {
    let route = request.extensions().get::<MatchedPath>()?.as_str();
    route.strip_prefix("/v1/runs/{id}").filter(|rest| *rest != "/audit")?;
    let id = request.uri().path().split('/').nth(3).unwrap_or_default();
    // Decoded, as the handlers get it.
    percent_decode_str(id).decode_utf8().ok()?.parse().ok()
}
