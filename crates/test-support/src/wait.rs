//! Waiting for events.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The time within which an awaited event must occur, also on a busy machine.
pub const EVENT_TIMEOUT: Duration = Duration::from_secs(60);
/// The interval at which a condition is evaluated.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Evaluates a condition until it holds. Panics with the name of the event after
/// [`EVENT_TIMEOUT`].
pub async fn wait_until(event: &str, mut condition: impl AsyncFnMut() -> bool) {
    wait_for(event, async || condition().await.then_some(())).await;
}

/// Evaluates a function until it returns a value. Panics with the name of the event after
/// [`EVENT_TIMEOUT`].
pub async fn wait_for<T>(event: &str, mut value: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + EVENT_TIMEOUT;
    loop {
        if let Some(value) = value().await {
            return value;
        }
        assert!(Instant::now() < end, "after {EVENT_TIMEOUT:?} not yet: {event}");
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn value_is_returned_when_there_is_one() {
        let mut calls = 0;
        let value = wait_for("the third call", async || {
            calls += 1;
            (calls == 3).then_some("value")
        });
        assert_eq!(value.await, "value");
        assert_eq!(calls, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not yet: it happens")]
    async fn event_that_does_not_happen_is_named() {
        wait_until("it happens", async || false).await;
    }
}
