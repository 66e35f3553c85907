//! The task that monitors a run from its creation until it is destroyed: it handles an
//! exit of the sandbox and the idle timeout.

use std::{sync::Arc, time::Duration};

use isorun_api::OnIdle;
use isorun_engine::Error as EngineError;

use super::{
    Core,
    destroy::{expire, mark_failed},
    hibernation,
    live_run::{LiveRun, RunState},
};

/// The time after which a failed run without a timeout is destroyed.
const KEEP_FAILED: Duration = Duration::from_secs(3600);

/// Starts the task of a run.
pub fn start(core: &Arc<Core>, run: &Arc<LiveRun>) {
    core.tasks.spawn(monitor(Arc::clone(core), Arc::clone(run)));
}

async fn monitor(core: Arc<Core>, run: Arc<LiveRun>) {
    let mut changes = run.subscribe();
    loop {
        // Marks the state as seen, so that no later change is missed.
        let state = changes.borrow_and_update().clone();
        match state {
            RunState::Running => {
                let event = tokio::select! {
                    why = sandbox_exit(&core, &run) => RunEvent::Exited(why),
                    () = run.activity.expired() => RunEvent::Idle,
                    // `run` has the sender, so the channel is not closed.
                    _ = changes.changed() => continue,
                };
                handle(&core, &run, event).await;
            }
            // Whoever hibernates or resumes it sets the next state.
            RunState::Hibernating | RunState::Resuming => _ = changes.changed().await,
            RunState::Hibernated => tokio::select! {
                _ = changes.changed() => {}
                // It outlives the server, and nothing happens to it before the next start.
                () = core.stopping.cancelled() => return,
            },
            RunState::Failed(why, _) => return expire_failed(&core, &run, &why).await,
            RunState::Destroyed(_) | RunState::Moved => return,
        }
    }
}

/// An event of a running run.
enum RunEvent {
    /// Its sandbox has exited, for this reason.
    Exited(String),
    /// Its idle timeout has expired.
    Idle,
}

/// Waits until the sandbox has exited unexpectedly, and returns the reason.
async fn sandbox_exit(core: &Core, run: &LiveRun) -> String {
    match core.engines.exited(&run.sandbox).await {
        Ok(exit) => exit.to_string(),
        // It is being removed on purpose, which changes the state.
        Err(EngineError::NotFound(_)) => std::future::pending().await,
        Err(error) => error.to_string(),
    }
}

async fn handle(core: &Arc<Core>, run: &Arc<LiveRun>, event: RunEvent) {
    if let RunEvent::Exited(why) = event {
        return mark_failed(core, run, &why).await;
    }
    match run.row.on_idle {
        OnIdle::Destroy => {
            let seconds = run.activity.timeout().as_secs_f64();
            expire(core, run, &format!("it was idle for {seconds} s")).await;
        }
        OnIdle::Hibernate => {
            if let Err(error) = hibernation::hibernate(core, run).await {
                tracing::error!(error = error.message, run = %run.id, "cannot hibernate");
                // Retried after another idle timeout.
                run.activity.touch();
            }
        }
    }
}

/// Destroys a failed run after its timeout, unless it is destroyed before.
async fn expire_failed(core: &Arc<Core>, run: &Arc<LiveRun>, why: &str) {
    let timeout = async {
        match run.activity.timeout() {
            Duration::ZERO => tokio::time::sleep(KEEP_FAILED).await,
            _ => run.activity.expired().await,
        }
    };
    tokio::select! {
        () = timeout => expire(core, run, &format!("its sandbox died: {why}")).await,
        () = run.wait_destroyed() => {}
    }
}
