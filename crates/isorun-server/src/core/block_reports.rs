//! Reports of blocked connections to the audit logs and the metrics.
//!
//! A guest can cause a thousand blocked connections per second, and must not fill the
//! database with them: equal blocks are written once per window with their count, and
//! the number of different blocks per window is limited.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use isorun_egress::{Blocked, Observer};
use isorun_engine::SandboxId;
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};

use super::Core;
use crate::store::Event;

/// The maximum number of reports that wait to be written; further ones are dropped.
const MAX_QUEUED_REPORTS: usize = 1024;
/// The window in which equal blocks are written once.
const REPORT_WINDOW: Duration = Duration::from_secs(10);
/// The maximum number of different blocks of one run that are written in a window.
const MAX_REPORTS_PER_WINDOW: usize = 100;
/// The maximum number of runs whose recent blocks are remembered.
const MAX_TRACKED_RUNS: usize = 4096;

type Report = (SandboxId, Blocked);

/// The receiver of the engine's reports of blocked connections.
#[derive(Clone)]
pub struct BlockReporter {
    sender: mpsc::Sender<Report>,
    receiver: Arc<Mutex<Option<mpsc::Receiver<Report>>>>,
}

impl std::fmt::Debug for BlockReporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockReporter")
    }
}

impl Default for BlockReporter {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_REPORTS);
        Self { sender, receiver: Arc::new(Mutex::new(Some(receiver))) }
    }
}

impl Observer for BlockReporter {
    fn blocked(&self, sandbox: &SandboxId, blocked: Blocked) {
        // Reports that do not fit in the queue are dropped, so that the engine never waits.
        let _ = self.sender.try_send((sandbox.clone(), blocked));
    }
}

impl BlockReporter {
    /// Writes the reports to the audit logs, until the server stops.
    pub fn start(&self, core: &Arc<Core>) {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut receiver) = receiver else { return };
        let core = Arc::downgrade(core);
        tokio::spawn(async move {
            let mut recent: HashMap<SandboxId, RecentBlocks> = HashMap::new();
            while let Some((sandbox, blocked)) = receiver.recv().await {
                let Some(core) = core.upgrade() else { return };
                core.metrics.blocked.inc();
                if recent.len() > MAX_TRACKED_RUNS {
                    recent.clear();
                }
                let recent = recent.entry(sandbox.clone()).or_default();
                let Some(count) = recent.count_to_report(&blocked, Instant::now()) else {
                    continue;
                };
                let Some(run) = sandbox.as_str().parse().ok().and_then(|id| core.runs.get(&id))
                else {
                    continue;
                };
                let details = json!({
                    "name": blocked.name, "address": blocked.address.to_string(),
                    "port": blocked.port, "reason": blocked.reason.name(), "count": count,
                });
                if let Err(error) = run.log.append(Event::NetworkBlocked, details).await {
                    tracing::error!(%error, run = %run.id, "cannot record a blocked connection");
                }
            }
        });
    }
}

type BlockKey = (Option<String>, std::net::Ipv4Addr, u16, &'static str);

/// The blocks of one run that were written recently.
#[derive(Default)]
struct RecentBlocks {
    since: Option<Instant>,
    /// The number of occurrences since the last write.
    counts: HashMap<BlockKey, u64>,
}

impl RecentBlocks {
    /// Counts a block. Returns the number of occurrences since the last write, if it is to be
    /// written now.
    fn count_to_report(&mut self, blocked: &Blocked, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) > REPORT_WINDOW) {
            self.since = Some(now);
            self.counts.retain(|_, count| *count > 0);
            if self.counts.len() >= MAX_REPORTS_PER_WINDOW {
                self.counts.clear();
            }
            // Withheld occurrences are written with the next one.
            let key = key(blocked);
            let withheld = self.counts.remove(&key).unwrap_or_default();
            self.counts.insert(key, 0);
            return Some(withheld + 1);
        }
        let full = self.counts.len() >= MAX_REPORTS_PER_WINDOW;
        match self.counts.get_mut(&key(blocked)) {
            Some(count) => {
                *count += 1;
                None
            }
            None if full => None,
            None => {
                self.counts.insert(key(blocked), 0);
                Some(1)
            }
        }
    }
}

fn key(blocked: &Blocked) -> BlockKey {
    (blocked.name.clone(), blocked.address, blocked.port, blocked.reason.name())
}

#[cfg(test)]
mod tests {
    use isorun_egress::Reason;

    use super::*;

    #[test]
    fn reports_of_blocked_connections_are_rate_limited() {
        let mut recent = RecentBlocks::default();
        let now = Instant::now();
        let blocked = |port| Blocked {
            name: None,
            address: std::net::Ipv4Addr::LOCALHOST,
            port,
            reason: Reason::Private,
        };
        let first: Vec<_> =
            (0..1000).filter_map(|_| recent.count_to_report(&blocked(1), now)).collect();
        assert_eq!(first, [1]);
        let different =
            (0..60_000).filter_map(|port| recent.count_to_report(&blocked(port), now)).count();
        assert!(different < MAX_REPORTS_PER_WINDOW, "{different}");
        let later = now + REPORT_WINDOW * 2;
        assert_eq!(recent.count_to_report(&blocked(1), later), Some(1001));
    }
}
