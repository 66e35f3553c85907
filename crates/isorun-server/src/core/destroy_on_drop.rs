//! New runs whose client may disconnect before it learns their ids.

use std::sync::Arc;

use super::{Core, destroy::destroy, error::Error, live_run::LiveRun};

/// New runs that are destroyed on drop unless they are taken, since no client would
/// know their ids.
///
/// A task that creates runs returns them as this type, so that no run is leaked if the
/// caller is cancelled at any point.
pub struct DestroyOnDrop {
    core: Arc<Core>,
    runs: Vec<Arc<LiveRun>>,
}

impl DestroyOnDrop {
    /// Creates runs in a task that runs to completion, and returns them to the caller if
    /// it was not cancelled.
    pub async fn create(
        core: &Arc<Core>,
        context: &str,
        creation: impl Future<Output = Result<Vec<Arc<LiveRun>>, Error>> + Send + 'static,
    ) -> Result<Vec<Arc<LiveRun>>, Error> {
        let owner = Arc::clone(core);
        let task = core.tasks.spawn(async move { Ok(Self { core: owner, runs: creation.await? }) });
        task.await.map_err(|error| Error::internal(context, error))?.map(Self::take)
    }

    /// Creates a single run, like [`Self::create`].
    pub async fn create_one(
        core: &Arc<Core>,
        context: &str,
        creation: impl Future<Output = Result<Arc<LiveRun>, Error>> + Send + 'static,
    ) -> Result<Arc<LiveRun>, Error> {
        let runs = Self::create(core, context, async { Ok(vec![creation.await?]) }).await?;
        runs.into_iter().next().ok_or_else(|| Error::internal(context, "no run was created"))
    }

    fn take(mut self) -> Vec<Arc<LiveRun>> {
        std::mem::take(&mut self.runs)
    }
}

impl Drop for DestroyOnDrop {
    fn drop(&mut self) {
        for run in self.runs.drain(..) {
            let core = Arc::clone(&self.core);
            self.core.tasks.spawn(async move {
                let why = "the client disconnected before it was ready";
                if let Err(error) = destroy(&core, &run, why).await {
                    tracing::error!(error = error.message, run = %run.id, "cannot destroy a run");
                }
            });
        }
    }
}
