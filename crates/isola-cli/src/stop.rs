//! Stops a run on Ctrl-C or at the wall time limit.
//!
//! The run is notified first, so that it can stop its guest and report the reason.
//! If it does not react, for instance because it is blocked in a write to a full
//! pipe, the process exits nevertheless.

use std::{future::Future, process, time::Duration};

use tokio::sync::mpsc;

use crate::failure::Failure;

/// The time that a run has to react before the process exits.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The channel over which a run is notified that it has to stop.
pub struct Stop {
    sender: mpsc::Sender<Failure>,
    receiver: mpsc::Receiver<Failure>,
}

impl Stop {
    /// Creates the channel, and starts to listen for Ctrl-C.
    pub fn on_interrupt() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let stop = Self { sender, receiver };
        stop.on(async {
            if tokio::signal::ctrl_c().await.is_err() {
                // Without a handler the signal has its default action: it ends the process.
                std::future::pending::<()>().await;
            }
            Failure::Interrupted
        });
        stop
    }

    /// Starts the timer of the wall time limit.
    pub fn after(&self, limit: Duration) {
        self.on(async move {
            tokio::time::sleep(limit).await;
            Failure::Timeout(limit)
        });
    }

    /// Waits until the run has to stop, and returns the reason.
    pub async fn wait(&mut self) -> Failure {
        match self.receiver.recv().await {
            Some(failure) => failure,
            // Unreachable: `self` holds a sender, so the channel is not closed.
            None => std::future::pending().await,
        }
    }

    fn on(&self, cause: impl Future<Output = Failure> + Send + 'static) {
        let sender = self.sender.clone();
        // A separate task, which runs on another thread than the run.
        tokio::spawn(async move {
            let failure = cause.await;
            let exit_code = failure.exit_code();
            let _ = sender.try_send(failure);
            tokio::time::sleep(STOP_GRACE).await;
            process::exit(exit_code.into());
        });
    }
}
