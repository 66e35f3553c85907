//! The result of a tool call: a text for the model, and the same content as JSON
//! for programs.

use isola::{Error, Event, Value};
use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Value as Json, json};

/// The output of one piece of code, collected for the result of a tool call.
#[derive(Default)]
pub struct ToolOutput {
    notes: Vec<String>,
    stdout: String,
    stderr: String,
    logs: Vec<(String, String)>,
    results: Vec<Value>,
    value: Option<Value>,
    error: Option<(String, String)>,
}

impl ToolOutput {
    /// Adds a note about the session for the model.
    pub fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// Adds an event of the run.
    pub fn event(&mut self, event: Event) {
        match event {
            Event::Stdout(text) => self.stdout.push_str(&text),
            Event::Stderr(text) => self.stderr.push_str(&text),
            Event::Log(record) => {
                self.logs.push((record.level.as_str().to_owned(), record.message));
            }
            Event::Result(value) => self.results.push(value),
            Event::End(value) => self.value = Some(value),
            Event::Error(error) => self.fail(&error),
            _ => {}
        }
    }

    /// Records the error that ended the run.
    pub fn fail(&mut self, error: &Error) {
        self.error = Some((error.code().to_owned(), error.to_string()));
    }

    /// Records that the code did not run, because its sandbox was not created.
    pub fn not_started(&mut self, error: &Error) {
        let message = format!("the session could not be started: {error}");
        self.error = Some((error.code().to_owned(), message));
    }

    /// Records that the code did not run, because the server is overloaded.
    pub fn busy(&mut self, message: String) {
        self.error = Some((Error::Busy.code().to_owned(), message));
    }

    /// Creates the result of the tool call.
    pub fn finish(self) -> CallToolResult {
        let text = self.text();
        let failed = self.error.is_some();
        let raw = |value: &Value| value.to::<Json>().unwrap_or(Json::Null);
        let logs: Vec<_> = self
            .logs
            .iter()
            .map(|(level, message)| json!({ "level": level, "message": message }))
            .collect();
        let mut parts = json!({
            "stdout": self.stdout,
            "stderr": self.stderr,
            "logs": logs,
            "results": self.results.iter().map(raw).collect::<Vec<_>>(),
            "value": self.value.as_ref().map_or(Json::Null, raw),
        });
        if let Some((code, message)) = &self.error {
            parts["error"] = json!({ "code": code, "message": message });
        }
        let content = vec![ContentBlock::text(text)];
        let mut output =
            if failed { CallToolResult::error(content) } else { CallToolResult::success(content) };
        output.structured_content = Some(parts);
        output
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |part: &str| {
            if !part.is_empty() {
                text.push_str(part.trim_end_matches('\n'));
                text.push('\n');
            }
        };
        for note in &self.notes {
            add(&format!("[{note}]"));
        }
        add(&self.stdout);
        add(&self.stderr);
        for (level, message) in &self.logs {
            add(&format!("{level}: {message}"));
        }
        for value in &self.results {
            add(value.as_str());
        }
        if let Some(value) = self.value.as_ref().filter(|value| !value.is_null()) {
            add(value.as_str());
        }
        if let Some((_, message)) = &self.error {
            add(message);
        }
        text
    }
}
