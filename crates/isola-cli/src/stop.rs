//! What stops a run from outside: Ctrl-C and the wall time limit.
//!
//! The run is told first, so that it can stop its guest and say why. If it
//! does not react, because it writes to a pipe that nobody empties, the process
//! ends all the same.

use std::{future::Future, process, time::Duration};

use tokio::sync::mpsc;

use crate::failure::Failure;

/// How long a run may take to react.
const GRACE: Duration = Duration::from_secs(1);

pub struct Stop {
    sender: mpsc::Sender<Failure>,
    receiver: mpsc::Receiver<Failure>,
}

impl Stop {
    /// Listens for Ctrl-C from now on.
    pub fn on_interrupt() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let stop = Self { sender, receiver };
        stop.on(async {
            if tokio::signal::ctrl_c().await.is_err() {
                // Then the signal has its usual effect, which is to end us.
                std::future::pending::<()>().await;
            }
            Failure::Interrupted
        });
        stop
    }

    /// Starts the clock.
    pub fn after(&self, limit: Duration) {
        self.on(async move {
            tokio::time::sleep(limit).await;
            Failure::Timeout(limit)
        });
    }

    /// Waits until the run has to stop, and says why.
    pub async fn wait(&mut self) -> Failure {
        match self.receiver.recv().await {
            Some(why) => why,
            // It cannot be closed: one sender is here.
            None => std::future::pending().await,
        }
    }

    fn on(&self, cause: impl Future<Output = Failure> + Send + 'static) {
        let sender = self.sender.clone();
        // A task of its own, and so on another thread than the run.
        tokio::spawn(async move {
            let why = cause.await;
            let exit_code = why.exit_code();
            let _ = sender.try_send(why);
            tokio::time::sleep(GRACE).await;
            process::exit(exit_code.into());
        });
    }
}
