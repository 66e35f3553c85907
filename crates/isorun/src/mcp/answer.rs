//! The result of a tool call: text and pictures for the model, and the same as JSON for
//! programs.

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Map, Value};

/// A result that is being built.
#[derive(Default)]
pub struct ToolAnswer {
    notes: Vec<String>,
    text: String,
    pictures: Vec<(String, &'static str)>,
    fields: Map<String, Value>,
    failed: bool,
}

impl ToolAnswer {
    /// Creates a result with this text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// Creates the result of a call that failed. `code` is a stable code for programs.
    pub fn failure(code: &str, message: &str) -> Self {
        let mut answer = Self::text(message).field("code", code).field("message", message);
        answer.failed = true;
        answer
    }

    /// Adds a line that starts the text.
    pub fn note(mut self, note: &str) -> Self {
        self.notes.push(note.to_owned());
        self
    }

    /// Adds text on lines of its own.
    pub fn line(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.push_str(text.trim_end_matches('\n'));
            self.text.push('\n');
        }
    }

    /// Adds a picture, as base64.
    pub fn picture(&mut self, data: String, mime: &'static str) {
        self.pictures.push((data, mime));
    }

    /// Adds a field for programs.
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Marks the result as that of a call that failed.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    pub fn finish(mut self) -> CallToolResult {
        let mut text = String::new();
        for note in &self.notes {
            text.push_str(&format!("[{note}]\n"));
        }
        text.push_str(&self.text);
        let mut content = vec![ContentBlock::text(text)];
        for (data, mime) in self.pictures {
            content.push(ContentBlock::image(data, mime));
        }
        if !self.notes.is_empty() {
            self.fields.insert("notes".to_owned(), self.notes.into());
        }
        let mut result = if self.failed {
            CallToolResult::error(content)
        } else {
            CallToolResult::success(content)
        };
        result.structured_content = Some(Value::Object(self.fields));
        result
    }
}
