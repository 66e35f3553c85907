//! The audit log of a run: appending entries, and verifying the HMAC chain.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use isorun_api::{AuditEntry, RunId};

use super::{AuditRow, Ending, LogState, Store, StoreError};
use crate::{clock, secret::Secret};

/// The time for which the entry of something that has been done is tried again.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// An event of a run, as named in its audit log.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Created,
    ExecStart,
    ExecExit,
    CodeStart,
    CodeEnd,
    NetworkBlocked,
    NetworkChanged,
    Forked,
    Hibernated,
    Resumed,
    /// Another node has taken it over while it was hibernated.
    Moved,
    Snapshot,
    Destroyed,
    /// Its node died, and the sandbox with it.
    Lost,
}

impl Event {
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "sandbox.created",
            Self::ExecStart => "exec.start",
            Self::ExecExit => "exec.exit",
            Self::CodeStart => "code.start",
            Self::CodeEnd => "code.end",
            Self::NetworkBlocked => "network.blocked",
            Self::NetworkChanged => "network.changed",
            Self::Forked => "sandbox.forked",
            Self::Hibernated => "sandbox.hibernated",
            Self::Resumed => "sandbox.resumed",
            Self::Moved => "sandbox.moved",
            Self::Snapshot => "sandbox.snapshot",
            Self::Destroyed => "sandbox.destroyed",
            Self::Lost => "sandbox.lost",
        }
    }
}

/// The audit log of one run. Writers are serialized, since each entry is chained to
/// the previous one.
pub struct AuditLog {
    run: RunId,
    store: Store,
    secret: Secret,
    /// The last entry; `None` if it has to be read: of an earlier server process, or since it is
    /// not known whether an entry was written.
    end: Arc<Mutex<Option<LogState>>>,
}

impl AuditLog {
    pub fn new(run: RunId, store: Store, secret: Secret) -> Self {
        Self { run, store, secret, end: Arc::new(Mutex::new(Some(LogState::default()))) }
    }

    /// Opens the log of a run that an earlier server process created.
    pub fn reopen(run: RunId, store: Store, secret: Secret) -> Self {
        Self { run, store, secret, end: Arc::default() }
    }

    /// Appends an entry. Runs to completion even if the caller drops the future, so
    /// that the in-memory end of the chain always matches the last written entry.
    pub async fn append(&self, event: Event, data: impl Serialize) -> Result<(), StoreError> {
        self.append_entry(event, data, Duration::ZERO).await
    }

    /// Appends the entry of something that has been done already. While the database of a
    /// cluster does not respond, this is tried again for some seconds.
    pub async fn append_outcome(
        &self,
        event: Event,
        data: impl Serialize,
    ) -> Result<(), StoreError> {
        self.append_entry(event, data, OUTCOME_TIMEOUT).await
    }

    /// Records the end of the run, with the last entry of its log. Does nothing if it has ended
    /// already, so that this can be repeated.
    pub async fn finish(
        &self,
        event: Event,
        data: impl Serialize,
        ending: Ending,
    ) -> Result<(), StoreError> {
        let data = raw(data);
        let (run, store) = (self.run.clone(), self.store.clone());
        let (secret, end) = (self.secret.clone(), Arc::clone(&self.end));
        let task = tokio::spawn(async move {
            let mut end = end.lock().await;
            let last = taken_or_read(&mut end, &store, &run).await?;
            let entry = following_entry(&secret, &run, &last, event, data);
            store.end_run(&run, ending, entry).await
        });
        task.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn append_entry(
        &self,
        event: Event,
        data: impl Serialize,
        retry_for: Duration,
    ) -> Result<(), StoreError> {
        let data = raw(data);
        let (run, store) = (self.run.clone(), self.store.clone());
        let (secret, end) = (self.secret.clone(), Arc::clone(&self.end));
        let task = tokio::spawn(async move {
            let mut end = end.lock().await;
            let last = taken_or_read(&mut end, &store, &run).await?;
            let entry = following_entry(&secret, &run, &last, event, data);
            let next = LogState { seq: entry.seq, hmac: entry.hmac.clone() };
            let deadline = Instant::now() + retry_for;
            while let Err(error) = store.add_audit(entry.clone()).await {
                let may_pass =
                    matches!(error, StoreError::Unavailable(_) | StoreError::Postgres(_));
                if !may_pass || Instant::now() >= deadline {
                    return Err(error);
                }
                tokio::time::sleep(RETRY_DELAY).await;
                // It may have been written.
                if store.audit_end(&run).await.is_ok_and(|found| found == next) {
                    break;
                }
            }
            *end = Some(next);
            Ok(())
        });
        task.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Takes the end of a log, which is unknown from now on, or reads it.
async fn taken_or_read(
    end: &mut Option<LogState>,
    store: &Store,
    run: &RunId,
) -> Result<LogState, StoreError> {
    match end.take() {
        Some(last) => Ok(last),
        None => store.audit_end(run).await,
    }
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        // Written by `append`. Corrupted data is returned as null, so that its HMAC
        // does not match.
        let data = RawValue::from_string(row.data).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self {
            seq: row.seq,
            ts: row.ts,
            sandbox_id: row.run_id,
            event: row.event,
            data,
            hmac: row.hmac,
        }
    }
}

impl From<AuditEntry> for AuditRow {
    fn from(entry: AuditEntry) -> Self {
        Self {
            run_id: entry.sandbox_id,
            seq: entry.seq,
            ts: entry.ts,
            event: entry.event,
            data: entry.data.get().to_owned(),
            hmac: entry.hmac,
        }
    }
}

/// Returns the entry that follows the end of a log, of a run that another node has lost.
pub fn following_entry(
    secret: &Secret,
    run: &RunId,
    end: &LogState,
    event: Event,
    data: impl Serialize,
) -> AuditRow {
    let mut entry = AuditRow {
        run_id: run.to_string(),
        seq: end.seq + 1,
        ts: clock::now_rfc3339_micros(),
        event: event.name().to_owned(),
        data: raw(data).get().to_owned(),
        hmac: String::new(),
    };
    entry.hmac = mac(secret, &end.hmac, &entry);
    entry
}

fn raw(data: impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(&data).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn mac(secret: &Secret, previous: &str, entry: &AuditRow) -> String {
    let seq = entry.seq.to_string();
    secret.chain(previous, &[&seq, &entry.ts, &entry.run_id, &entry.event, &entry.data])
}

/// A violation found in an audit log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An entry is missing.
    #[error("{run}: entry {expected} is missing; entry {found} follows")]
    Gap {
        /// The id of the run.
        run: String,
        /// The number of the missing entry.
        expected: u64,
        /// The number of the entry that follows.
        found: u64,
    },
    /// An entry does not match its HMAC.
    #[error("{run}: entry {seq} was modified, or was not written by this server")]
    Forged {
        /// The id of the run.
        run: String,
        /// The number of the entry.
        seq: u64,
    },
    /// The last entries are missing.
    #[error("{run}: the run was destroyed, but the end of its log is missing")]
    Truncated {
        /// The id of the run.
        run: String,
    },
}

/// Verifies the chains of any number of logs, entry by entry.
pub struct Verifier {
    secret: Secret,
    ends: BTreeMap<String, (LogState, String)>,
}

impl Verifier {
    /// Creates a verifier with the secret of the server that wrote the logs.
    pub fn new(secret: Secret) -> Self {
        Self { secret, ends: BTreeMap::new() }
    }

    /// Checks that an entry follows the previous one of its log.
    pub fn check(&mut self, entry: &AuditRow) -> Result<(), ChainError> {
        let (end, last) = self.ends.entry(entry.run_id.clone()).or_default();
        if entry.seq != end.seq + 1 {
            let (run, expected, found) = (entry.run_id.clone(), end.seq + 1, entry.seq);
            return Err(ChainError::Gap { run, expected, found });
        }
        if mac(&self.secret, &end.hmac, entry) != entry.hmac {
            return Err(ChainError::Forged { run: entry.run_id.clone(), seq: entry.seq });
        }
        *end = LogState { seq: entry.seq, hmac: entry.hmac.clone() };
        last.clone_from(&entry.event);
        Ok(())
    }

    /// Checks that the log of a destroyed run ends with its destruction or loss.
    pub fn check_complete(&self, run: &str) -> Result<(), ChainError> {
        match self.ends.get(run) {
            Some((_, last))
                if [Event::Destroyed, Event::Lost].map(Event::name).contains(&&**last) =>
            {
                Ok(())
            }
            _ => Err(ChainError::Truncated { run: run.to_owned() }),
        }
    }

    /// Returns the number of valid entries.
    pub fn entries(&self) -> u64 {
        self.ends.values().map(|(end, _)| end.seq).sum()
    }

    /// Returns the number of logs.
    pub fn logs(&self) -> usize {
        self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn sample() -> (tempfile::TempDir, Secret, Vec<AuditRow>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let secret = Secret::open(dir.path()).unwrap();
        let run = RunId::random().unwrap();
        let log = AuditLog::new(run.clone(), store.clone(), secret.clone());
        log.append(Event::Created, json!({"image": "host"})).await.unwrap();
        let log = AuditLog::reopen(run.clone(), store.clone(), secret.clone());
        log.append(Event::ExecStart, json!({"command": "ls \u{1f600}\n"})).await.unwrap();
        log.append(Event::Destroyed, json!({})).await.unwrap();
        let rows = store.audit(&run, 0, 10).await.unwrap();
        (dir, secret, rows)
    }

    fn verify(secret: &Secret, rows: &[AuditRow]) -> Result<(), ChainError> {
        let mut verifier = Verifier::new(secret.clone());
        rows.iter().try_for_each(|row| verifier.check(row))?;
        verifier.check_complete(&rows[0].run_id)
    }

    #[tokio::test]
    async fn a_log_verifies_after_a_json_round_trip() {
        let (_dir, secret, rows) = sample().await;
        verify(&secret, &rows).unwrap();
        let round_trip = |row: &AuditRow| {
            let line = serde_json::to_string(&AuditEntry::from(row.clone())).unwrap();
            serde_json::from_str::<AuditEntry>(&line).unwrap().into()
        };
        let rows: Vec<AuditRow> = rows.iter().map(round_trip).collect();
        verify(&secret, &rows).unwrap();
    }

    #[tokio::test]
    async fn cancelled_appends_keep_the_chain_valid() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let secret = Secret::open(dir.path()).unwrap();
        let run = RunId::random().unwrap();
        let log = AuditLog::new(run.clone(), store.clone(), secret.clone());
        for number in 0..50 {
            // The future is dropped at some point after the append started.
            let timeout = std::time::Duration::from_micros(number * 7);
            let _ = tokio::time::timeout(timeout, log.append(Event::ExecStart, number)).await;
        }
        log.append(Event::Destroyed, ()).await.unwrap();
        verify(&secret, &store.audit(&run, 0, 100).await.unwrap()).unwrap();
    }

    #[tokio::test]
    async fn changed_and_missing_entries_are_detected() {
        let (_dir, secret, rows) = sample().await;
        let run = rows[0].run_id.clone();
        for change in [
            (|row| row.ts.push('0')) as fn(&mut AuditRow),
            |row| row.event = "exec.exit".to_owned(),
            |row| row.data = "{}".to_owned(),
            |row| row.hmac = "0".repeat(64),
        ] {
            let mut rows = rows.clone();
            change(&mut rows[1]);
            assert_eq!(
                verify(&secret, &rows),
                Err(ChainError::Forged { run: run.clone(), seq: 2 })
            );
        }
        let gap = [rows[0].clone(), rows[2].clone()];
        let missing = ChainError::Gap { run: run.clone(), expected: 2, found: 3 };
        assert_eq!(verify(&secret, &gap), Err(missing));
        assert_eq!(verify(&secret, &rows[..2]), Err(ChainError::Truncated { run }));
    }
}
