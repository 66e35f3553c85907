//! Runs whose creator may go away before it knows of them.

use std::sync::Arc;

use super::{ApiError, App, lifecycle, runs::LiveRun};

/// Runs that were just made: they are destroyed unless somebody takes them,
/// since nobody would know their ids.
///
/// What is made in a task of its own is handed over as this, so that there is no
/// moment at which a caller that goes away leaves a run behind.
pub struct Newborn {
    app: App,
    runs: Vec<Arc<LiveRun>>,
}

impl Newborn {
    /// Makes runs in a task that ends in any case, and gives them to the caller
    /// if it is still there.
    pub async fn make(
        app: &App,
        what: &str,
        making: impl Future<Output = Result<Vec<Arc<LiveRun>>, ApiError>> + Send + 'static,
    ) -> Result<Vec<Arc<LiveRun>>, ApiError> {
        let owner = Arc::clone(app);
        let task = app.tasks.spawn(async move { Ok(Self { app: owner, runs: making.await? }) });
        task.await.map_err(|error| ApiError::internal(what, error))?.map(Self::take)
    }

    /// The same for a single run.
    pub async fn make_one(
        app: &App,
        what: &str,
        making: impl Future<Output = Result<Arc<LiveRun>, ApiError>> + Send + 'static,
    ) -> Result<Arc<LiveRun>, ApiError> {
        let runs = Self::make(app, what, async { Ok(vec![making.await?]) }).await?;
        runs.into_iter().next().ok_or_else(|| ApiError::internal(what, "no run was made"))
    }

    fn take(mut self) -> Vec<Arc<LiveRun>> {
        std::mem::take(&mut self.runs)
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        for run in self.runs.drain(..) {
            let app = Arc::clone(&self.app);
            self.app.tasks.spawn(async move {
                let why = "its creator went away before it was ready";
                if let Err(error) = lifecycle::destroy(&app, &run, why).await {
                    tracing::error!(error = error.message, run = %run.id, "cannot destroy a run");
                }
            });
        }
    }
}
