//! A client that does operations at random nodes, and records what was promised.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{
    ledger::{Content, Expected, Kind, Ledger, ModelRun, ModelSnapshot},
    nodes::{Fleet, NODES},
    random::Random,
};

const MAX_RUNS: usize = 5;
const MAX_SNAPSHOTS: usize = 3;

/// What happened, for a person who reads it.
pub struct Trace {
    started: Instant,
    lines: Mutex<Vec<String>>,
    /// The numbers of answers, by operation and status.
    answers: Mutex<BTreeMap<String, usize>>,
}

impl Trace {
    pub fn start() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            lines: Mutex::default(),
            answers: Mutex::default(),
        })
    }

    pub fn add(&self, line: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.lines.lock().unwrap().push(format!("{seconds:8.3} {line}"));
    }

    fn count(&self, answer: String) {
        *self.answers.lock().unwrap().entry(answer).or_default() += 1;
    }

    pub fn print(&self) {
        for line in &*self.lines.lock().unwrap() {
            eprintln!("{line}");
        }
    }

    /// Returns the numbers of answers.
    pub fn summary(&self) -> String {
        let answers = self.answers.lock().unwrap();
        answers.iter().map(|(answer, count)| format!("{answer}: {count}\n")).collect()
    }
}

/// The answer to a request.
#[derive(Debug)]
pub enum Outcome {
    Done(Value),
    /// A status other than 200, or no answer.
    Failed(String),
}

/// A client with the key of a tenant.
pub struct Client {
    pub name: String,
    pub key: String,
    pub tenant: String,
    pub ledger: Ledger,
    pub fleet: Arc<Fleet>,
    pub trace: Arc<Trace>,
    /// The node that gets all requests, if it is not a random one.
    pub only_node: Option<usize>,
    random: Random,
    words: usize,
}

impl Client {
    pub fn new(
        name: String,
        (key, tenant): (String, String),
        fleet: &Arc<Fleet>,
        trace: &Arc<Trace>,
        random: Random,
    ) -> Self {
        let (fleet, trace) = (Arc::clone(fleet), Arc::clone(trace));
        Self {
            name,
            key,
            tenant,
            ledger: Ledger::default(),
            fleet,
            trace,
            only_node: None,
            random,
            words: 0,
        }
    }

    /// Does operations until it is told to stop.
    pub async fn work(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let runs = self.ledger.runs.len();
        if runs < 2 {
            return self.create().await;
        }
        let at = self.random.below(runs);
        let expected = self.ledger.runs[at].expected;
        let choice = self.random.below(20);
        match (choice, expected) {
            (0 | 1, _) if runs < MAX_RUNS => self.create().await,
            (2, _) if runs < MAX_RUNS => self.fork(at).await,
            (3 | 4, _) => self.snapshot(at).await,
            (5 | 6, _) if runs < MAX_RUNS => self.restore().await,
            (7, _) => self.delete_snapshot().await,
            (8, _) if runs > 2 => _ = self.destroy(at).await,
            (9..=13, Expected::Running | Expected::Either) => self.hibernate(at).await,
            (9..=11, Expected::Hibernated) => _ = self.resume(at, 1).await,
            (12..=15, Expected::Hibernated) | (14, Expected::Either) => {
                self.resume(at, NODES).await;
            }
            // A node that is not running answers at once.
            (_, Expected::Hibernated) => tokio::task::yield_now().await,
            (14..=16, _) => _ = self.read(at).await,
            _ => self.write(at).await,
        }
    }

    fn node(&mut self) -> usize {
        self.only_node.unwrap_or_else(|| self.random.below(NODES))
    }

    async fn send(&self, at: usize, what: &str, request: RequestBuilder) -> Outcome {
        let outcome = answer_of(request).await;
        let (short, shown) = match &outcome {
            Outcome::Done(_) => ("done".to_owned(), "done".to_owned()),
            Outcome::Failed(why) => (why.chars().take(70).collect(), why.clone()),
        };
        self.trace.add(&format!("{} {what} at node {at}: {shown}", self.name));
        let operation = what.split(' ').next().unwrap_or_default();
        self.trace.count(format!("{operation} {short}"));
        outcome
    }

    /// Sends a request with a JSON body to a random node.
    async fn post(&mut self, what: &str, path: &str, body: &Value) -> Outcome {
        let at = self.node();
        self.post_at(at, what, path, body).await
    }

    async fn post_at(&self, at: usize, what: &str, path: &str, body: &Value) -> Outcome {
        let client = self.fleet.client(at, &self.key);
        self.send(at, what, client.request(Method::POST, path).json(body)).await
    }

    async fn delete(&mut self, what: &str, path: &str) -> Outcome {
        let at = self.node();
        let client = self.fleet.client(at, &self.key);
        self.send(at, what, client.request(Method::DELETE, path)).await
    }

    async fn create(&mut self) {
        let kind = self.random.pick(&[Kind::Linux, Kind::Python]);
        match self.post("create", "/v1/runs", &kind.body()).await {
            Outcome::Done(run) => {
                let id = id_of(&run, "id");
                self.trace.add(&format!("{} created {id}", self.name));
                self.ledger.runs.push(ModelRun::new(id, kind, Content::default()));
            }
            Outcome::Failed(_) => self.ledger.uncertain_runs += 1,
        }
    }

    /// Runs a command or a cell in a run, and returns its output.
    async fn run_in(&mut self, at: usize, what: &str, command: &str, code: &str) -> Option<String> {
        let run = &self.ledger.runs[at];
        let (kind, id) = (run.kind, run.id.clone());
        let what = format!("{what} {id}");
        let (path, body, events) = match kind {
            Kind::Linux => ("exec", json!({ "command": command }), ["exec.start", "exec.exit"]),
            Kind::Python => ("code", json!({ "code": code }), ["code.start", "code.end"]),
        };
        let outcome = self.post(&what, &format!("/v1/runs/{id}/{path}"), &body).await;
        let run = &mut self.ledger.runs[at];
        match outcome {
            Outcome::Done(value) => {
                for event in events {
                    // The answer to a cell does not wait until its end is recorded.
                    match event {
                        "code.end" => run.events.suspect(event),
                        _ => run.events.acknowledge(event),
                    }
                }
                Some(value.to_string())
            }
            Outcome::Failed(why) => {
                for event in events {
                    run.events.suspect(event);
                }
                self.note_failure(at, &why);
                None
            }
        }
    }

    async fn write(&mut self, at: usize) {
        self.words += 1;
        let word = format!("{}{}", self.name, self.words);
        // Synchronized, so that the word is in the file when the command has ended.
        let command = format!("echo {word} >> /tmp/log; echo written-{word}");
        let code = format!(
            "try: log\nexcept NameError: log = []\nlog.append('{word}')\nprint('written-{word}')"
        );
        let output = self.run_in(at, "write", &command, &code).await;
        let content = &mut self.ledger.runs[at].content;
        match output {
            Some(output) if output.contains(&format!("written-{word}")) => {
                content.acknowledge(word);
            }
            Some(output) => self.violation(format!("{word} was not written: {output}")),
            None => content.suspect(word),
        }
    }

    /// Reads the content of a run, and compares it. Returns whether there was an answer.
    pub async fn read(&mut self, at: usize) -> bool {
        let command = "touch /tmp/log; echo begin $(cat /tmp/log) end";
        let code = "try: log\nexcept NameError: log = []\nprint('begin', *log, 'end')";
        let Some(output) = self.run_in(at, "read", command, code).await else { return false };
        let run = &self.ledger.runs[at];
        match words_of(&output) {
            Some(words) => {
                if let Err(error) = run.content.check(&words) {
                    self.violation(format!("{}: {error}", self.ledger.runs[at].id));
                }
            }
            None => self.violation(format!("{}: no content in {output}", run.id)),
        }
        true
    }

    /// Notes a request whose effect is not known.
    fn note_failure(&mut self, at: usize, why: &str) {
        let run = &mut self.ledger.runs[at];
        if why.starts_with("404") && run.denied.is_none() {
            run.denied = Some(why.to_owned());
        }
        if why.contains("snapshot_damaged") {
            let violation = format!("{} is refused as damaged: {why}", run.id);
            self.violation(violation);
        }
    }

    fn violation(&mut self, what: String) {
        self.trace.add(&format!("VIOLATION {what}"));
        self.ledger.violations.push(what);
    }

    async fn hibernate(&mut self, at: usize) {
        let id = self.ledger.runs[at].id.clone();
        let (what, path) = (format!("hibernate {id}"), format!("/v1/runs/{id}/hibernate"));
        let outcome = self.post(&what, &path, &json!({})).await;
        let run = &mut self.ledger.runs[at];
        match outcome {
            Outcome::Done(_) => {
                // It may have been hibernated by an earlier request.
                let was_certain = run.expected == Expected::Running && !run.is_unsettled;
                match was_certain {
                    true => run.events.acknowledge("sandbox.hibernated"),
                    false => run.events.suspect("sandbox.hibernated"),
                }
                run.expected = Expected::Hibernated;
            }
            Outcome::Failed(why) => {
                run.events.suspect("sandbox.hibernated");
                run.expected = Expected::Either;
                run.is_unsettled = true;
                self.note_failure(at, &why);
            }
        }
    }

    /// Hibernates all runs that are running.
    pub async fn hibernate_all(&mut self) {
        for at in 0..self.ledger.runs.len() {
            if self.ledger.runs[at].expected == Expected::Running {
                self.hibernate(at).await;
            }
        }
    }

    /// Resumes a run, by requests to this many nodes at the same time.
    pub async fn resume(&mut self, at: usize, nodes: usize) -> bool {
        let id = self.ledger.runs[at].id.clone();
        let first = self.node();
        let (path, what) = (format!("/v1/runs/{id}/resume"), format!("resume {id}"));
        let body = json!({});
        let requests =
            (0..nodes).map(|next| self.post_at((first + next) % NODES, &what, &path, &body));
        let outcomes = futures_util::future::join_all(requests).await;
        let run = &mut self.ledger.runs[at];
        let is_done = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Done(_)));
        // One that was not answered may have resumed it for the others.
        let are_done = outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_)));
        if are_done && run.expected == Expected::Hibernated && !run.is_unsettled {
            run.events.acknowledge("sandbox.resumed");
        } else {
            run.events.suspect("sandbox.resumed");
        }
        run.expected = if is_done { Expected::Running } else { Expected::Either };
        for outcome in outcomes {
            let Outcome::Failed(why) = outcome else { continue };
            self.ledger.runs[at].events.suspect("sandbox.resumed");
            self.ledger.runs[at].is_unsettled = true;
            self.note_failure(at, &why);
        }
        is_done
    }

    async fn snapshot(&mut self, at: usize) {
        if self.ledger.snapshots.len() >= MAX_SNAPSHOTS {
            return;
        }
        let run = &self.ledger.runs[at];
        let (id, kind, content) = (run.id.clone(), run.kind, run.content.clone());
        let what = format!("snapshot {id}");
        let outcome = self.post(&what, &format!("/v1/runs/{id}/snapshot"), &json!({})).await;
        let run = &mut self.ledger.runs[at];
        match outcome {
            Outcome::Done(answer) => {
                run.events.acknowledge("sandbox.snapshot");
                let id = id_of(&answer, "snapshot_id");
                self.trace.add(&format!("{} has the snapshot {id}", self.name));
                let snapshot = ModelSnapshot { id, kind, content, may_be_deleted: false };
                self.ledger.snapshots.push(snapshot);
            }
            Outcome::Failed(why) => {
                run.events.suspect("sandbox.snapshot");
                self.ledger.uncertain_snapshots += 1;
                self.note_failure(at, &why);
            }
        }
    }

    async fn fork(&mut self, at: usize) {
        let run = &self.ledger.runs[at];
        let (id, kind, content) = (run.id.clone(), run.kind, run.content.clone());
        let what = format!("fork {id}");
        let path = format!("/v1/runs/{id}/fork");
        let outcome = self.post(&what, &path, &json!({ "count": 1 })).await;
        let run = &mut self.ledger.runs[at];
        match outcome {
            Outcome::Done(answer) => {
                run.events.acknowledge("sandbox.forked");
                let id = id_of(&answer["forks"][0], "id");
                self.trace.add(&format!("{} forked {id}", self.name));
                self.ledger.runs.push(ModelRun::new(id, kind, content));
            }
            Outcome::Failed(why) => {
                run.events.suspect("sandbox.forked");
                self.ledger.uncertain_runs += 1;
                self.note_failure(at, &why);
            }
        }
    }

    async fn restore(&mut self) {
        let count = self.ledger.snapshots.len();
        if count == 0 {
            return;
        }
        let at = self.random.below(count);
        self.restore_snapshot(at).await;
    }

    /// Restores a snapshot. Returns whether it has become a run, which is then the last one.
    pub async fn restore_snapshot(&mut self, at: usize) -> bool {
        let snapshot = self.ledger.snapshots[at].clone();
        let body = json!({ "snapshot_id": snapshot.id });
        let what = format!("restore {}", snapshot.id);
        match self.post(&what, "/v1/runs/restore", &body).await {
            Outcome::Done(run) => {
                let id = id_of(&run, "id");
                self.trace.add(&format!("{} restored {id}", self.name));
                self.ledger.runs.push(ModelRun::new(id, snapshot.kind, snapshot.content));
                true
            }
            Outcome::Failed(why) => {
                self.ledger.uncertain_runs += 1;
                let is_denied = why.starts_with("404") && !snapshot.may_be_deleted;
                if is_denied || why.contains("snapshot_damaged") {
                    self.violation(format!("snapshot {}: {why}", snapshot.id));
                }
                false
            }
        }
    }

    async fn delete_snapshot(&mut self) {
        let count = self.ledger.snapshots.len();
        if count > 0 {
            let at = self.random.below(count);
            self.delete_snapshot_at(at).await;
        }
    }

    /// Deletes a snapshot. Returns whether that was acknowledged.
    pub async fn delete_snapshot_at(&mut self, at: usize) -> bool {
        let id = self.ledger.snapshots[at].id.clone();
        let path = format!("/v1/snapshots/{id}");
        let outcome = self.delete(&format!("delete {id}"), &path).await;
        match outcome {
            Outcome::Done(_) => {
                self.ledger.snapshots.remove(at);
                self.ledger.deleted.push(id);
                true
            }
            Outcome::Failed(_) => {
                self.ledger.snapshots[at].may_be_deleted = true;
                false
            }
        }
    }

    /// Destroys a run. Returns whether that was acknowledged.
    pub async fn destroy(&mut self, at: usize) -> bool {
        let id = self.ledger.runs[at].id.clone();
        let outcome = self.delete(&format!("destroy {id}"), &format!("/v1/runs/{id}")).await;
        match outcome {
            Outcome::Done(_) => {
                let mut run = self.ledger.runs.remove(at);
                run.events.acknowledge("sandbox.destroyed");
                self.ledger.destroyed.push(run);
                true
            }
            Outcome::Failed(why) => {
                self.ledger.runs[at].events.suspect("sandbox.destroyed");
                self.ledger.runs[at].may_be_destroyed = true;
                self.ledger.runs[at].is_unsettled = true;
                self.note_failure(at, &why);
                false
            }
        }
    }

    /// Returns the events in the audit log of a run.
    pub async fn events(&mut self, id: &str) -> Result<Vec<String>, String> {
        let at = self.node();
        let client = self.fleet.client(at, &self.key);
        let request = client.request(Method::GET, &format!("/v1/runs/{id}/audit"));
        let response = request.send().await.map_err(|error| error.to_string())?;
        let status = response.status();
        let text = response.text().await.map_err(|error| error.to_string())?;
        if status != 200 {
            return Err(format!("{status}: {text}"));
        }
        let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        Ok(entries.map(|entry| entry["event"].as_str().unwrap().to_owned()).collect())
    }
}

async fn answer_of(request: RequestBuilder) -> Outcome {
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Outcome::Failed(format!("no answer: {error}")),
    };
    let status = response.status();
    let text = match response.text().await {
        Ok(text) => text,
        Err(error) => return Outcome::Failed(format!("{status}, no body: {error}")),
    };
    let Ok(body) = serde_json::from_str::<Value>(&text) else {
        return Outcome::Failed(format!("{status}, no JSON: {text}"));
    };
    if status == 200 {
        return Outcome::Done(body);
    }
    let code = body["code"].as_str().unwrap_or_default();
    Outcome::Failed(format!(
        "{} {code}: {}",
        status.as_u16(),
        body["error"].as_str().unwrap_or_default()
    ))
}

fn id_of(answer: &Value, field: &str) -> String {
    answer[field].as_str().unwrap_or_else(|| panic!("no {field} in {answer}")).to_owned()
}

/// Returns the words between the marks in an output.
fn words_of(output: &str) -> Option<Vec<String>> {
    let (_, rest) = output.split_once("begin")?;
    let (words, _) = rest.split_once("end")?;
    Some(words.split_whitespace().map(str::to_owned).collect())
}
