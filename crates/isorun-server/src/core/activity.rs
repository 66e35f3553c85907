//! The last activity of a run, and its idle timeout.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// The last activity and the idle timeout of a run.
pub struct Activity {
    inner: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    /// Zero for none.
    timeout: Duration,
    uses: usize,
    last: Instant,
}

impl Activity {
    pub fn new(timeout: Duration) -> Self {
        let inner = Inner { timeout, uses: 0, last: Instant::now() };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    pub fn timeout(&self) -> Duration {
        self.with(|inner| inner.timeout)
    }

    /// Sets the idle timeout. Counts as activity.
    pub fn set_timeout(&self, timeout: Duration) {
        self.with(|inner| {
            inner.timeout = timeout;
            inner.last = Instant::now();
        });
        self.changed.notify_one();
    }

    /// Records activity.
    pub fn touch(&self) {
        self.begin();
        self.end();
    }

    pub fn begin(&self) {
        self.with(|inner| inner.uses += 1);
    }

    pub fn end(&self) {
        self.with(|inner| {
            inner.uses -= 1;
            inner.last = Instant::now();
        });
        self.changed.notify_one();
    }

    /// Reports whether an operation is in progress.
    pub fn is_in_use(&self) -> bool {
        self.with(|inner| inner.uses > 0)
    }

    /// Waits until the idle timeout has expired.
    pub async fn expired(&self) {
        loop {
            let due = self.with(|inner| match inner {
                Inner { timeout: Duration::ZERO, .. } => None,
                Inner { uses: 0, timeout, last } => Some(*last + *timeout),
                _ => None,
            });
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_time_starts_when_the_last_use_ends() {
        let activity = Activity::new(Duration::from_millis(60));
        activity.begin();
        activity.begin();
        activity.end();
        let early = tokio::time::timeout(Duration::from_secs(3600), activity.expired()).await;
        assert!(early.is_err(), "it is in use");
        activity.end();
        tokio::time::timeout(Duration::from_secs(3600), activity.expired()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn zero_timeout_never_expires_until_it_is_changed() {
        let activity = Arc::new(Activity::new(Duration::ZERO));
        let waiting = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { activity.expired().await }
        });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!waiting.is_finished());
        activity.set_timeout(Duration::from_millis(1));
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
    }
}
