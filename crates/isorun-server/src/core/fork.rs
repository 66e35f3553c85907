//! Forks of a running sandbox: one checkpoint, and any number of children restored
//! from it. The parent keeps running.

use std::{path::Path, sync::Arc, time::Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::{
    Core,
    destroy::expire,
    destroy_on_drop::DestroyOnDrop,
    error::Error,
    live_run::LiveRun,
    new_sandbox::{self, Origin},
    runs::Reservation,
};
use crate::{clock::millis, store::Event};

/// The maximum number of children of one fork.
const MAX_CHILDREN: i64 = 100;
/// The maximum number of children of one fork that are restored at the same time.
const MAX_CONCURRENT_RESTORES: usize = 4;

/// Copies a running run. Either all copies are created or none; none if the caller is
/// cancelled.
pub async fn fork(
    core: &Arc<Core>,
    run: &Arc<LiveRun>,
    count: i64,
) -> Result<Vec<Arc<LiveRun>>, Error> {
    if !(1..=MAX_CHILDREN).contains(&count) {
        return Err(Error::invalid(format!(
            "count is {count}: this server allows 1 to {MAX_CHILDREN}"
        )));
    }
    let count = usize::try_from(count).unwrap_or(1);
    let creating = {
        let (core, run) = (Arc::clone(core), Arc::clone(run));
        async move { create_children(&core, &run, count).await }
    };
    DestroyOnDrop::create(core, "cannot copy the run", creating).await
}

async fn create_children(
    core: &Arc<Core>,
    parent: &Arc<LiveRun>,
    count: usize,
) -> Result<Vec<Arc<LiveRun>>, Error> {
    core.admit_run(&parent.tenant)?;
    let _change = parent.begin_change().await?;
    let _use = parent.begin()?;
    let reservation = core.runs.reserve(&parent.tenant, count)?;
    let draft = core.state_dirs.draft_dir()?;
    core.ensure_room_for_checkpoint(parent).await?;
    let started = Instant::now();
    core.engines
        .checkpoint(&parent.sandbox, draft.path(), true)
        .await
        .map_err(|error| Error::engine("cannot copy the sandbox", error))?;
    let snapshot_ms = millis(started.elapsed());
    let creations = (0..count).map(|_| {
        let (dir, reservation) = (draft.path(), &reservation);
        // All creations end before a failed one is reported, so that the others are known.
        async move { Ok::<_, Error>(create_child(core, reservation, parent, dir).await) }
    });
    let outcomes: Vec<_> =
        stream::iter(creations).buffered(MAX_CONCURRENT_RESTORES).try_collect().await?;
    let (created, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    let children: Vec<_> = created.into_iter().flatten().collect();
    if let Some(error) = failed.into_iter().find_map(Result::err) {
        for child in &children {
            expire(core, child, "another copy could not be created").await;
        }
        return Err(error);
    }
    let ids: Vec<&str> = children.iter().map(|child| child.id.as_str()).collect();
    parent
        .log
        .append_outcome(Event::Forked, json!({ "children": ids, "snapshot_ms": snapshot_ms }))
        .await?;
    tracing::info!(run = %parent.id, count, ms = millis(started.elapsed()), "forked");
    Ok(children)
}

async fn create_child(
    core: &Arc<Core>,
    reservation: &Reservation<'_>,
    parent: &LiveRun,
    dir: &Path,
) -> Result<Arc<LiveRun>, Error> {
    let started = Instant::now();
    let settings = parent.settings(&core.secret)?;
    let origin = Origin::Checkpoint {
        dir,
        image_holder: parent.sandbox.as_str(),
        pids: None,
        details: json!({ "forked_from": parent.id }),
    };
    new_sandbox::make(core, reservation, settings, origin, started).await
}
