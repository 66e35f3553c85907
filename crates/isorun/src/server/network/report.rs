//! What was blocked, on its way to the audit logs and the metrics.
//!
//! A guest can have a thousand connections blocked in a second, and must not fill
//! the database with them: the same thing is written once in a while, with how
//! often it happened, and of different things only so many.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use isorun_engine::{
    SandboxId,
    network::{Blocked, Observer},
};
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};

use crate::{audit::Event, server::App};

/// Reports that wait to be written; beyond them they are only counted.
const QUEUE: usize = 1024;
/// How often the same thing is written, at most.
const WINDOW: Duration = Duration::from_secs(10);
/// Different things of one run in a window.
const MOST: usize = 100;
/// Runs with something to remember.
const MOST_RUNS: usize = 4096;

type Report = (SandboxId, Blocked);

/// Takes reports of an engine.
#[derive(Clone)]
pub struct Blocks {
    sender: mpsc::Sender<Report>,
    receiver: Arc<Mutex<Option<mpsc::Receiver<Report>>>>,
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blocks")
    }
}

impl Default for Blocks {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { sender, receiver: Arc::new(Mutex::new(Some(receiver))) }
    }
}

impl Observer for Blocks {
    fn blocked(&self, sandbox: &SandboxId, blocked: Blocked) {
        // What does not fit is lost, and not waited for.
        let _ = self.sender.try_send((sandbox.clone(), blocked));
    }
}

impl Blocks {
    /// Writes reports down until the server is gone.
    pub fn record(&self, app: &App) {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut receiver) = receiver else { return };
        let app = Arc::downgrade(app);
        tokio::spawn(async move {
            let mut seen: HashMap<SandboxId, Seen> = HashMap::new();
            while let Some((sandbox, blocked)) = receiver.recv().await {
                let Some(app) = app.upgrade() else { return };
                app.metrics.blocked.inc();
                if seen.len() > MOST_RUNS {
                    seen.clear();
                }
                let seen = seen.entry(sandbox.clone()).or_default();
                let Some(count) = seen.worth(&blocked, Instant::now()) else { continue };
                let Some(run) = sandbox.as_str().parse().ok().and_then(|id| app.runs.get(&id))
                else {
                    continue;
                };
                let what = json!({
                    "name": blocked.name, "address": blocked.address.to_string(),
                    "port": blocked.port, "reason": blocked.reason.name(), "count": count,
                });
                if let Err(error) = run.log.append(Event::NetworkBlocked, what).await {
                    tracing::error!(%error, run = %run.id, "cannot record what was blocked");
                }
            }
        });
    }
}

type Key = (Option<String>, std::net::Ipv4Addr, u16, &'static str);

/// What of one run was written lately.
#[derive(Default)]
struct Seen {
    since: Option<Instant>,
    /// How often since it was written.
    things: HashMap<Key, u64>,
}

impl Seen {
    /// How often it happened since it was last written, if it is to be written.
    fn worth(&mut self, blocked: &Blocked, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) > WINDOW) {
            self.since = Some(now);
            self.things.retain(|_, count| *count > 0);
            if self.things.len() >= MOST {
                self.things.clear();
            }
            // What was held back is written the next time that it happens.
            let key = key(blocked);
            let held = self.things.remove(&key).unwrap_or_default();
            self.things.insert(key, 0);
            return Some(held + 1);
        }
        let full = self.things.len() >= MOST;
        match self.things.get_mut(&key(blocked)) {
            Some(count) => {
                *count += 1;
                None
            }
            None if full => None,
            None => {
                self.things.insert(key(blocked), 0);
                Some(1)
            }
        }
    }
}

fn key(blocked: &Blocked) -> Key {
    (blocked.name.clone(), blocked.address, blocked.port, blocked.reason.name())
}

#[cfg(test)]
mod tests {
    use isorun_engine::network::Reason;

    use super::*;

    #[test]
    fn a_flood_is_a_few_lines() {
        let mut seen = Seen::default();
        let now = Instant::now();
        let blocked = |port| Blocked {
            name: None,
            address: std::net::Ipv4Addr::LOCALHOST,
            port,
            reason: Reason::Private,
        };
        let first: Vec<_> = (0..1000).filter_map(|_| seen.worth(&blocked(1), now)).collect();
        assert_eq!(first, [1]);
        let different = (0..60_000).filter_map(|port| seen.worth(&blocked(port), now)).count();
        assert!(different < MOST, "{different}");
        let later = now + WINDOW * 2;
        assert_eq!(seen.worth(&blocked(1), later), Some(1001));
    }
}
