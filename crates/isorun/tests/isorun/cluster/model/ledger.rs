//! What the cluster has promised: the model that it is compared with.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// The image of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Linux,
    Python,
}

impl Kind {
    /// Returns the fields of a request that creates such a sandbox.
    pub fn body(self) -> Value {
        let image = match self {
            Self::Linux => "host",
            Self::Python => "isola:python",
        };
        json!({ "image": image, "timeout": 3600 })
    }
}

/// What was written to a sandbox, a word at a time.
#[derive(Clone, Debug, Default)]
pub struct Content {
    acknowledged: Vec<String>,
    /// Words whose writing was not acknowledged.
    uncertain: BTreeSet<String>,
    /// True if nothing is known of it.
    is_unknown: bool,
}

impl Content {
    /// Returns the content of something whose creation was not answered.
    pub fn unknown() -> Self {
        Self { is_unknown: true, ..Self::default() }
    }

    pub fn acknowledge(&mut self, word: String) {
        self.acknowledged.push(word);
    }

    pub fn suspect(&mut self, word: String) {
        self.uncertain.insert(word);
    }

    /// Fails unless every acknowledged word was found, once and in order, and no other one
    /// beside uncertain ones.
    pub fn check(&self, found: &[String]) -> Result<(), String> {
        let certain: Vec<&String> =
            found.iter().filter(|word| !self.uncertain.contains(*word)).collect();
        let is_complete = certain.iter().copied().eq(&self.acknowledged);
        let distinct: BTreeSet<&String> = found.iter().collect();
        if self.is_unknown || (is_complete && distinct.len() == found.len()) {
            return Ok(());
        }
        Err(format!(
            "its content is {found:?} instead of {:?} and some of {:?}",
            self.acknowledged, self.uncertain
        ))
    }
}

/// The state in which a run has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Running,
    Hibernated,
    /// Either: a request to change it was not answered with success.
    Either,
}

/// A run that was created, and not destroyed with success.
#[derive(Clone, Debug)]
pub struct ModelRun {
    pub id: String,
    pub kind: Kind,
    pub content: Content,
    pub expected: Expected,
    /// True after a request to destroy it that was not answered with success.
    pub may_be_destroyed: bool,
    /// The first answer that said that it does not exist.
    pub denied: Option<String>,
    /// True from an answer without success until the end of the round: the request may still
    /// take effect.
    pub is_unsettled: bool,
    pub events: Events,
}

impl ModelRun {
    pub fn new(id: String, kind: Kind, content: Content) -> Self {
        let mut events = Events::default();
        events.acknowledge("sandbox.created");
        Self {
            id,
            kind,
            content,
            expected: Expected::Running,
            may_be_destroyed: false,
            denied: None,
            is_unsettled: false,
            events,
        }
    }
}

/// The numbers of entries in an audit log, by their event.
#[derive(Clone, Debug, Default)]
pub struct Events(BTreeMap<&'static str, (usize, usize)>);

impl Events {
    pub fn acknowledge(&mut self, event: &'static str) {
        self.0.entry(event).or_default().0 += 1;
    }

    /// Records an event of an operation that was not answered with success.
    pub fn suspect(&mut self, event: &'static str) {
        self.0.entry(event).or_default().1 += 1;
    }

    /// Fails unless the log has an entry for each acknowledged event, and no others beside
    /// uncertain ones.
    pub fn check(&self, log: &[String]) -> Result<(), String> {
        for (event, (certain, uncertain)) in &self.0 {
            let found = log.iter().filter(|found| found == event).count();
            if !(*certain..=certain + uncertain).contains(&found) {
                return Err(format!(
                    "its audit log has {found} entries of {event} instead of {certain} and at \
                     most {uncertain} more: {log:?}"
                ));
            }
        }
        Ok(())
    }
}

/// A snapshot that was taken, and not deleted with success.
#[derive(Clone, Debug)]
pub struct ModelSnapshot {
    pub id: String,
    pub kind: Kind,
    pub content: Content,
    /// True after a request to delete it that was not answered with success.
    pub may_be_deleted: bool,
}

/// Everything of one client.
#[derive(Debug, Default)]
pub struct Ledger {
    pub runs: Vec<ModelRun>,
    pub snapshots: Vec<ModelSnapshot>,
    /// Runs that were destroyed with success, and their events.
    pub destroyed: Vec<ModelRun>,
    pub deleted: Vec<String>,
    /// The numbers of runs and snapshots that may exist without being known.
    pub uncertain_runs: usize,
    pub uncertain_snapshots: usize,
    /// What must not happen, and did.
    pub violations: Vec<String>,
}
