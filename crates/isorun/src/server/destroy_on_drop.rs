//! New runs whose client may disconnect before it learns their ids.

use std::sync::Arc;

use super::{ApiError, App, lifecycle, runs::LiveRun};

/// New runs that are destroyed on drop unless they are taken, since no client would
/// know their ids.
///
/// A task that creates runs returns them as this type, so that no run is leaked if the
/// caller is cancelled at any point.
pub struct DestroyOnDrop {
    app: App,
    runs: Vec<Arc<LiveRun>>,
}

impl DestroyOnDrop {
    /// Creates runs in a task that runs to completion, and returns them to the caller if
    /// it was not cancelled.
    pub async fn create(
        app: &App,
        context: &str,
        creation: impl Future<Output = Result<Vec<Arc<LiveRun>>, ApiError>> + Send + 'static,
    ) -> Result<Vec<Arc<LiveRun>>, ApiError> {
        let task_app = Arc::clone(app);
        let task =
            app.tasks.spawn(async move { Ok(Self { app: task_app, runs: creation.await? }) });
        task.await.map_err(|error| ApiError::internal(context, error))?.map(Self::take)
    }

    /// Creates a single run, like [`Self::create`].
    pub async fn create_one(
        app: &App,
        context: &str,
        creation: impl Future<Output = Result<Arc<LiveRun>, ApiError>> + Send + 'static,
    ) -> Result<Arc<LiveRun>, ApiError> {
        let runs = Self::create(app, context, async { Ok(vec![creation.await?]) }).await?;
        runs.into_iter().next().ok_or_else(|| ApiError::internal(context, "no run was created"))
    }

    fn take(mut self) -> Vec<Arc<LiveRun>> {
        std::mem::take(&mut self.runs)
    }
}

impl Drop for DestroyOnDrop {
    fn drop(&mut self) {
        for run in self.runs.drain(..) {
            let app = Arc::clone(&self.app);
            self.app.tasks.spawn(async move {
                let why = "the client disconnected before it was ready";
                if let Err(error) = lifecycle::destroy(&app, &run, why).await {
                    tracing::error!(error = error.message, run = %run.id, "cannot destroy a run");
                }
            });
        }
    }
}
