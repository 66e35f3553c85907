//! A run's audit log: appending to it, and proving that nobody changed it.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use crate::{
    api::AuditEntry,
    clock,
    id::RunId,
    secret::Secret,
    store::{AuditRow, LogState, Store, StoreError},
};

/// What happens to a run, as its log names it.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Created,
    ExecStart,
    ExecExit,
    NetworkBlocked,
    NetworkChanged,
    Forked,
    Hibernated,
    Resumed,
    Snapshot,
    Destroyed,
}

impl Event {
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "sandbox.created",
            Self::ExecStart => "exec.start",
            Self::ExecExit => "exec.exit",
            Self::NetworkBlocked => "network.blocked",
            Self::NetworkChanged => "network.changed",
            Self::Forked => "sandbox.forked",
            Self::Hibernated => "sandbox.hibernated",
            Self::Resumed => "sandbox.resumed",
            Self::Snapshot => "sandbox.snapshot",
            Self::Destroyed => "sandbox.destroyed",
        }
    }
}

/// The log of one run. One writer at a time: an entry is chained to the one
/// before.
pub struct AuditLog {
    run: RunId,
    store: Store,
    secret: Secret,
    end: Arc<Mutex<LogState>>,
}

impl AuditLog {
    pub fn new(run: RunId, store: Store, secret: Secret) -> Self {
        Self { run, store, secret, end: Arc::default() }
    }

    /// The log of a run that was there before this server was.
    pub async fn reopen(run: RunId, store: Store, secret: Secret) -> Result<Self, StoreError> {
        let end = Arc::new(Mutex::new(store.audit_end(&run).await?));
        Ok(Self { run, store, secret, end })
    }

    /// Adds an entry. One that was begun is finished, whether or not the caller
    /// waits for it: an entry that is written has to be the end of the chain.
    pub async fn append(&self, event: Event, data: impl Serialize) -> Result<(), StoreError> {
        let data = serde_json::to_string(&data).unwrap_or_else(|_| "null".to_owned());
        let (run_id, store) = (self.run.to_string(), self.store.clone());
        let (secret, end) = (self.secret.clone(), Arc::clone(&self.end));
        let adding = tokio::spawn(async move {
            let mut end = end.lock().await;
            let mut entry = AuditRow {
                run_id,
                seq: end.seq + 1,
                ts: clock::now_rfc3339_micros(),
                event: event.name().to_owned(),
                data,
                hmac: String::new(),
            };
            entry.hmac = mac(&secret, &end.hmac, &entry);
            let next = LogState { seq: entry.seq, hmac: entry.hmac.clone() };
            store.add_audit(entry).await?;
            *end = next;
            Ok(())
        });
        adding.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        // It was written by `append`; damaged data shows as null, and its hmac
        // no longer fits.
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

fn mac(secret: &Secret, previous: &str, entry: &AuditRow) -> String {
    let seq = entry.seq.to_string();
    secret.chain(previous, &[&seq, &entry.ts, &entry.run_id, &entry.event, &entry.data])
}

/// What does not hold of a log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("{run}: entry {expected} is missing; entry {found} follows")]
    Gap { run: String, expected: u64, found: u64 },
    #[error("{run}: entry {seq} was changed, or was not written by this server")]
    Forged { run: String, seq: u64 },
    #[error("{run}: the run is over, and the end of its log is missing")]
    CutOff { run: String },
}

/// Follows the chains of any number of logs, entry by entry.
pub struct Verifier {
    secret: Secret,
    ends: BTreeMap<String, (LogState, String)>,
}

impl Verifier {
    pub fn new(secret: Secret) -> Self {
        Self { secret, ends: BTreeMap::new() }
    }

    pub fn check(&mut self, entry: &AuditRow) -> Result<(), Broken> {
        let (end, last) = self.ends.entry(entry.run_id.clone()).or_default();
        if entry.seq != end.seq + 1 {
            let (run, expected, found) = (entry.run_id.clone(), end.seq + 1, entry.seq);
            return Err(Broken::Gap { run, expected, found });
        }
        if mac(&self.secret, &end.hmac, entry) != entry.hmac {
            return Err(Broken::Forged { run: entry.run_id.clone(), seq: entry.seq });
        }
        *end = LogState { seq: entry.seq, hmac: entry.hmac.clone() };
        last.clone_from(&entry.event);
        Ok(())
    }

    /// The log of a run that is over has to end with its destruction.
    pub fn is_over(&self, run: &str) -> Result<(), Broken> {
        match self.ends.get(run) {
            Some((_, last)) if last == Event::Destroyed.name() => Ok(()),
            _ => Err(Broken::CutOff { run: run.to_owned() }),
        }
    }

    /// How many entries held.
    pub fn entries(&self) -> u64 {
        self.ends.values().map(|(end, _)| end.seq).sum()
    }

    /// How many logs.
    pub fn logs(&self) -> usize {
        self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn sample() -> (tempfile::TempDir, Secret, Vec<AuditRow>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let secret = Secret::open(folder.path()).unwrap();
        let run = RunId::random().unwrap();
        let log = AuditLog::new(run.clone(), store.clone(), secret.clone());
        log.append(Event::Created, json!({"image": "host"})).await.unwrap();
        let log = AuditLog::reopen(run.clone(), store.clone(), secret.clone()).await.unwrap();
        log.append(Event::ExecStart, json!({"command": "ls \u{1f600}\n"})).await.unwrap();
        log.append(Event::Destroyed, json!({})).await.unwrap();
        let rows = store.audit(&run, 0, 10).await.unwrap();
        (folder, secret, rows)
    }

    fn verify(secret: &Secret, rows: &[AuditRow]) -> Result<(), Broken> {
        let mut verifier = Verifier::new(secret.clone());
        rows.iter().try_for_each(|row| verifier.check(row))?;
        verifier.is_over(&rows[0].run_id)
    }

    #[tokio::test]
    async fn a_log_holds_also_after_a_trip_through_json() {
        let (_folder, secret, rows) = sample().await;
        verify(&secret, &rows).unwrap();
        let trip = |row: &AuditRow| {
            let line = serde_json::to_string(&AuditEntry::from(row.clone())).unwrap();
            serde_json::from_str::<AuditEntry>(&line).unwrap().into()
        };
        let rows: Vec<AuditRow> = rows.iter().map(trip).collect();
        verify(&secret, &rows).unwrap();
    }

    #[tokio::test]
    async fn an_entry_that_nobody_waits_for_breaks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let secret = Secret::open(folder.path()).unwrap();
        let run = RunId::random().unwrap();
        let log = AuditLog::new(run.clone(), store.clone(), secret.clone());
        for number in 0..50 {
            // It is begun, and given up at some point.
            let patience = std::time::Duration::from_micros(number * 7);
            let _ = tokio::time::timeout(patience, log.append(Event::ExecStart, number)).await;
        }
        log.append(Event::Destroyed, ()).await.unwrap();
        verify(&secret, &store.audit(&run, 0, 100).await.unwrap()).unwrap();
    }

    #[tokio::test]
    async fn any_change_is_found() {
        let (_folder, secret, rows) = sample().await;
        let run = rows[0].run_id.clone();
        for change in [
            (|row| row.ts.push('0')) as fn(&mut AuditRow),
            |row| row.event = "exec.exit".to_owned(),
            |row| row.data = "{}".to_owned(),
            |row| row.hmac = "0".repeat(64),
        ] {
            let mut rows = rows.clone();
            change(&mut rows[1]);
            assert_eq!(verify(&secret, &rows), Err(Broken::Forged { run: run.clone(), seq: 2 }));
        }
        let gap = [rows[0].clone(), rows[2].clone()];
        let missing = Broken::Gap { run: run.clone(), expected: 2, found: 3 };
        assert_eq!(verify(&secret, &gap), Err(missing));
        assert_eq!(verify(&secret, &rows[..2]), Err(Broken::CutOff { run }));
    }
}
