//! The number of requests in progress on a connection.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

/// A counter of requests in progress.
#[derive(Clone, Debug)]
pub(crate) struct InFlight(watch::Sender<usize>);

impl Default for InFlight {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl InFlight {
    /// Counts a request until the result is dropped.
    pub(crate) fn start(&self) -> InFlightGuard {
        self.0.send_modify(|count| *count += 1);
        InFlightGuard(self.clone())
    }

    /// Waits until no request is in progress.
    pub(crate) async fn none(&self) {
        // The sender exists as long as `self`.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Waits until no request has been in progress for some time.
    pub(crate) async fn idle_for(&self, time: Duration) {
        let mut count = self.0.subscribe();
        loop {
            let _ = count.wait_for(|count| *count == 0).await;
            if timeout(time, count.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// A request in progress, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard(InFlight);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_some_time_after_its_last_request() {
        let requests = InFlight::default();
        let (first, second) = (requests.start(), requests.start());
        let start = Instant::now();
        let ends = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(first);
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(second);
            tokio::time::sleep(Duration::from_secs(1)).await;
            // A short one starts the time anew.
            drop(requests.start());
        };
        tokio::join!(ends, requests.idle_for(Duration::from_secs(2)));
        assert_eq!(start.elapsed().as_secs(), 7);
        requests.none().await;
    }
}
