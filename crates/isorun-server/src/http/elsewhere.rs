//! Requests that concern another node of the cluster, which are forwarded to it.
//!
//! ```text
//! request ──▶ from another node? ── yes ──▶ handled here
//!               │ no
//!               ▼
//!             concerns ── a run or snapshot of another node ──▶ forwarded to that node
//!               │ ├────── a new run ──▶ forwarded to the chosen node; refused there ──▶ another
//!               │ │
//!               ▼ ▼
//!             handled here
//! ```

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures_util::future::JoinAll;
use isorun_api::{RunId, Status, Usage};
use isorun_interpreter::InterpreterImage;
use isorun_peers::Peer;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    App,
    auth::Caller,
    body::WatchedBody,
    error::{ApiError, Code},
    json_body::{collect, is_json},
    owner::{FoundOwner, owner_elsewhere, run_of},
    peers::{Peers, peer_error},
};
use crate::{
    config::DEFAULT_MEM_MIB,
    core::{
        cluster::{Cluster, MAX_CREATE_ATTEMPTS, Needs},
        takeover,
    },
    store::RunOwner,
};

/// The longest time that another node may take to report its part of the usage.
const USAGE_TIMEOUT: Duration = Duration::from_secs(3);
/// The time after which a client may retry when the node of a run is dead.
const DEAD_NODE_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Forwards a request with an API key to the node that it concerns, if that is another one.
pub async fn forward(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (Some(cluster), Some(peers)) = (&app.core.cluster, &app.peers) else {
        return Ok(next.run(request).await);
    };
    let has_blobs = app.core.has_blobs() && !cluster.is_draining();
    let is_forwarded = request.extensions().get::<Peer>().is_some();
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let changes = request.method() != Method::GET || is_upgrade(&request);
    if let Some(id) = run_of(&request) {
        if app.core.runs.get(&id).is_some() {
            if changes {
                app.core.require_lease(cluster)?;
            }
            return Ok(next.run(request).await);
        }
        let tenant = request.extensions().get::<Caller>().map(|caller| caller.tenant.clone());
        let owner = match request.extensions().get::<FoundOwner>().cloned() {
            Some(FoundOwner(owner)) => owner,
            None if is_forwarded => None,
            // It was here when the key was looked up.
            None => owner_elsewhere(cluster, &id).await?,
        };
        // The handlers answer for a run of another tenant as for one that does not exist.
        let Some(owner) = owner.filter(|owner| Some(&owner.tenant) == tenant.as_ref()) else {
            // This node may be taking it over.
            app.core.take_overs.wait(&id).await;
            return Ok(next.run(request).await);
        };
        if let Some(owner) = adopted_or(&app, &id, owner).await? {
            return forward_to_owner(peers, &id, &owner, request).await;
        }
    } else if !is_forwarded {
        match (route, request.method().as_str()) {
            ("/v1/runs", "POST") => return create(&app, cluster, peers, request, next).await,
            ("/v1/runs/restore", "POST") => {
                return restore(has_blobs, cluster, peers, request, next).await;
            }
            ("/v1/snapshots/{id}", "DELETE") => {
                let id = request.uri().path().rsplit('/').next().unwrap_or_default();
                let id = percent_decode_str(id).decode_utf8_lossy().into_owned();
                return at_snapshot(has_blobs, cluster, peers, &id, request, next).await;
            }
            _ => {}
        }
    }
    Ok(next.run(request).await)
}

/// Returns the node of a run, if it is another one, for a request to a port of the run by a URL
/// without an API key. `is_forwarded`: the request is from another node.
pub async fn port_owner(
    app: &App,
    id: &RunId,
    is_forwarded: bool,
) -> Result<Option<RunOwner>, ApiError> {
    let Some(cluster) = &app.core.cluster else { return Ok(None) };
    if is_forwarded {
        app.core.take_overs.wait(id).await;
        return Ok(None);
    }
    owner_elsewhere(cluster, id).await
}

/// Forwards a request to a port of a run of another node, after its access was checked. Returns
/// the request if the run is one of this node by now.
pub async fn forward_to_port(
    app: &App,
    id: &RunId,
    owner: RunOwner,
    request: Request,
) -> Result<Result<Response, Request>, ApiError> {
    let Some(peers) = &app.peers else { return Ok(Err(request)) };
    match adopted_or(app, id, owner).await? {
        Some(owner) => Ok(Ok(forward_to_owner(peers, id, &owner, request).await?)),
        None => Ok(Err(request)),
    }
}

/// Adds the resource usage of the caller's runs on the other nodes. Those that do not respond
/// in time are left out.
pub async fn add_usage(app: &App, headers: &HeaderMap, mut usage: Usage) -> Usage {
    let (Some(cluster), Some(peers)) = (&app.core.cluster, &app.peers) else { return usage };
    // Also those without runs when they last reported.
    let nodes = cluster.nodes().into_iter();
    let others = nodes.filter(|node| node.is_alive && node.id != cluster.node.as_str());
    let parts = others.map(|node| async move {
        let mut request = Request::builder().uri("/v1/usage");
        if let (Some(headers_of), Some(key)) =
            (request.headers_mut(), headers.get(header::AUTHORIZATION))
        {
            headers_of.insert(header::AUTHORIZATION, key.clone());
        }
        let request = request.body(Body::empty()).ok()?;
        let response = peers.send(&node.id, &node.report.url, request).await.ok()?;
        let body = collect(response.into_body()).await.ok()?;
        serde_json::from_slice::<Usage>(&body).ok()
    });
    for part in parts.map(|part| timeout(USAGE_TIMEOUT, part)).collect::<JoinAll<_>>().await {
        let Ok(Some(part)) = part else { continue };
        usage.active_sandboxes += part.active_sandboxes;
        usage.cpu_seconds += part.cpu_seconds;
        usage.mem_seconds += part.mem_seconds;
    }
    usage
}

fn is_upgrade(request: &Request) -> bool {
    request.headers().contains_key(header::UPGRADE)
}

/// Takes over a hibernated run of a node that is dead or draining. Returns the node of a run that
/// was not taken over.
async fn adopted_or(app: &App, id: &RunId, owner: RunOwner) -> Result<Option<RunOwner>, ApiError> {
    let (Some(cluster), true) = (&app.core.cluster, owner.is_replaceable) else {
        return Ok(Some(owner));
    };
    if takeover::adopt(&app.core, id).await? {
        return Ok(None);
    }
    // Another node may have taken it over meanwhile.
    owner_elsewhere(cluster, id).await
}

/// Forwards a request to the node of a run.
async fn forward_to_owner(
    peers: &Peers,
    id: &RunId,
    owner: &RunOwner,
    request: Request,
) -> Result<Response, ApiError> {
    let absence = || match owner.status {
        Some(Status::Hibernated) => format!(
            "{id} is hibernated on the server {}, which does not respond: it can be resumed when \
             that server is back",
            owner.node
        ),
        _ => format!(
            "the server of {id}, {}, does not respond: if it does not come back shortly, the \
             sandbox is lost",
            owner.node
        ),
    };
    send(peers, owner, absence, request).await
}

/// Sends a request to a node. `absence` returns the message for the client
/// if it does not respond.
async fn send(
    peers: &Peers,
    owner: &RunOwner,
    absence: impl Fn() -> String,
    request: Request,
) -> Result<Response, ApiError> {
    let absent = || ApiError::new(Code::Unavailable, absence()).after(DEAD_NODE_RETRY_DELAY);
    if owner.is_dead {
        return Err(absent());
    }
    let failure = Arc::new(Mutex::new(None));
    let request = request.map(|body| Body::new(WatchedBody::new(body, Arc::clone(&failure))));
    peers.send(&owner.node, &owner.url, request).await.map_err(|error| {
        // The fault may be the client's, which has not sent the request to its end.
        if let Some(failure) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return failure;
        }
        if error.is_retryable() {
            tracing::warn!(%error, node = owner.node, "cannot forward a request");
            return absent();
        }
        peer_error(&owner.node, &error)
    })
}

/// The fields of a request to create a run that decide where it can be created.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    image: String,
    mem_mib: Option<u64>,
}

/// Creates a run on the chosen node, or on another if that one refuses it.
async fn create(
    app: &App,
    cluster: &Cluster,
    peers: &Peers,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (parts, body) = buffered(request).await?;
    // A request that is not valid is refused here.
    let Ok(wanted) = serde_json::from_slice::<Wanted>(&body) else {
        return Ok(next.run(Request::from_parts(parts, Body::from(body))).await);
    };
    let image_nodes = cluster.nodes_with_image(&wanted.image).await?;
    let needs = Needs {
        interpreter: InterpreterImage::named(&wanted.image).map(InterpreterImage::name),
        image_nodes: &image_nodes,
        mem_bytes: wanted.mem_mib.unwrap_or(DEFAULT_MEM_MIB).saturating_mul(1 << 20),
    };
    let (mut excluded, mut refused, mut lacks_image) = (Vec::new(), None, false);
    for _ in 0..MAX_CREATE_ATTEMPTS {
        if refused.is_some() {
            cluster.reread_nodes().await;
        }
        let Some(node) = cluster.place(&needs, &excluded).await else { break };
        let mut again = Request::builder().method(Method::POST).uri(parts.uri.clone());
        if let Some(headers) = again.headers_mut() {
            headers.clone_from(&parts.headers);
        }
        let Ok(mut again) = again.body(Body::from(body.clone())) else { break };
        let response = if node.id == cluster.node.as_str() {
            again.extensions_mut().clone_from(&parts.extensions);
            next.clone().run(again).await
        } else {
            match peers.send(&node.id, &node.report.url, again).await {
                Ok(response) => response,
                Err(error) if error.is_retryable() => {
                    refused = Some(Err(peer_error(&node.id, &error)));
                    excluded.push(node.id);
                    continue;
                }
                Err(error) => return Err(peer_error(&node.id, &error)),
            }
        };
        let status = response.status();
        let is_full =
            [StatusCode::SERVICE_UNAVAILABLE, StatusCode::INSUFFICIENT_STORAGE].contains(&status);
        // Another node has the image that this one has not.
        if status == StatusCode::NOT_FOUND && !image_nodes.is_empty() {
            lacks_image = true;
        } else if is_full {
            refused = Some(Ok(response));
        } else {
            return Ok(response);
        }
        tracing::debug!(node = node.id, %status, "a node refused a run");
        excluded.push(node.id);
    }
    // Without a suitable node, this one says what is missing.
    match refused {
        // Some have not the image, and the others have refused the run.
        _ if lacks_image => Err(ApiError::new(
            Code::Unavailable,
            format!(
                "the servers that have the image {} are full or do not respond: try again later, \
                 or add the image to other servers",
                wanted.image
            ),
        )
        .after(DEAD_NODE_RETRY_DELAY)),
        Some(refused) => refused,
        None => {
            app.core.require_lease(cluster)?;
            Ok(next.run(Request::from_parts(parts, Body::from(body))).await)
        }
    }
}

/// The field of a request to restore a snapshot that decides where its files are.
#[derive(Deserialize)]
struct WantedSnapshot {
    snapshot_id: String,
}

async fn restore(
    has_blobs: bool,
    cluster: &Cluster,
    peers: &Peers,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (parts, body) = buffered(request).await?;
    let wanted = serde_json::from_slice::<WantedSnapshot>(&body);
    let request = Request::from_parts(parts, Body::from(body));
    match wanted {
        Ok(wanted) => {
            at_snapshot(has_blobs, cluster, peers, &wanted.snapshot_id, request, next).await
        }
        Err(_) => Ok(next.run(request).await),
    }
}

/// Handles a request where the files of a snapshot are, or here if they are in the object store
/// and its node is dead or draining.
async fn at_snapshot(
    has_blobs: bool,
    cluster: &Cluster,
    peers: &Peers,
    id: &str,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let tenant = request.extensions().get::<Caller>().map(|caller| caller.tenant.clone());
    let owner = match tenant.filter(|_| isorun_api::is_snapshot_id(id)) {
        Some(tenant) => cluster.database.snapshot_owner(&tenant, id).await?,
        None => None,
    };
    let is_elsewhere = |owner: &RunOwner| {
        owner.node != cluster.node.as_str() && !(owner.is_replaceable && has_blobs)
    };
    let Some(owner) = owner.filter(is_elsewhere) else {
        return Ok(next.run(request).await);
    };
    let absence = || {
        format!(
            "the snapshot {id} is on the server {}, which does not respond: it can be used when \
             that server is back",
            owner.node
        )
    };
    send(peers, &owner, absence, request).await
}

/// Reads the JSON body of a request.
async fn buffered(request: Request) -> Result<(axum::http::request::Parts, Bytes), ApiError> {
    let (parts, body) = request.into_parts();
    is_json(&parts.headers)?;
    Ok((parts, collect(body).await?.freeze()))
}
