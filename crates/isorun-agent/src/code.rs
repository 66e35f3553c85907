//! The messages about contexts: interpreters that keep their state between cells.
//!
//! ```text
//! client                                agent
//! ──────                                ─────
//! Request {code}             ─────▶
//!                            ◀─────  Started {pid}
//! Signal                     ─────▶               interrupts the cell
//!                            ◀─────  Stdout, Stderr, EventPart, Event
//!                            ◀─────  CellEnd            the last frame of the cell
//! Request {code}             ─────▶                      another cell, within 30 s
//! ```
//!
//! Events are JSON objects of the types `result` and `error`, which the agent passes
//! on as they are: the client has to check them.

use serde::{Deserialize, Serialize};

/// Code to run in a context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Code {
    /// The id of the context. Without one, the default context of the language is used,
    /// and created if it does not exist.
    pub context: Option<String>,
    /// The language, and the properties of a context that is created.
    pub new: NewContext,
    /// The text of the cell.
    pub code: String,
    /// The time in milliseconds after which the cell is interrupted; no limit by default.
    pub timeout_ms: Option<u64>,
    /// An unguessable token with which a client can attach to the cell after it was
    /// detached by a freeze.
    pub token: String,
}

/// The properties of a context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NewContext {
    /// The language; Python by default.
    pub language: Option<String>,
    /// Its working directory, as in [`Exec::cwd`](crate::protocol::Exec::cwd).
    pub cwd: Option<String>,
    /// Its environment, as in [`Exec::env`](crate::protocol::Exec::env).
    pub env: Vec<(String, String)>,
    /// The user that it runs as, as in [`Exec::user`](crate::protocol::Exec::user).
    pub user: Option<String>,
    /// The maximum number of contexts, with this one.
    pub max_contexts: u32,
}

/// The end of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CellEnd {
    /// The number of the cell in its context, from 1.
    pub execution_count: u64,
}

/// A context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContextInfo {
    /// Its id.
    pub id: String,
    /// Its language.
    pub language: String,
    /// Its initial working directory.
    pub cwd: String,
    /// Its status.
    pub status: ContextStatus,
    /// The number of cells that were started since the interpreter was.
    pub execution_count: u64,
    /// The program that runs the cells: `python` or `node` for isorun's own runners, or
    /// the name of a Jupyter kernel.
    pub kernel: String,
}

/// The status of a context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextStatus {
    /// It waits for a cell.
    #[default]
    Idle,
    /// It runs a cell, or starts.
    Busy,
    /// Its interpreter has exited. The next cell starts another one.
    Dead,
}

/// The language of a request without one.
pub const DEFAULT_LANGUAGE: &str = "python";

/// Returns the name under which a language is known, or `None` if the text cannot be a
/// language.
#[must_use]
pub fn language(name: &str) -> Option<String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "+-._#".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_valid) {
        return None;
    }
    let name = name.to_ascii_lowercase();
    Some(match name.as_str() {
        "js" | "node" => "javascript".to_owned(),
        "python3" | "py" => "python".to_owned(),
        _ => name,
    })
}

/// Returns the id of the default context of a language.
#[must_use]
pub fn default_context(language: &str) -> String {
    if language == DEFAULT_LANGUAGE { "default".to_owned() } else { format!("default-{language}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_have_one_name() {
        for (text, expected) in [
            ("python", Some("python")),
            ("Python", Some("python")),
            ("js", Some("javascript")),
            ("c++", Some("c++")),
            ("", None),
            ("a b", None),
            ("é", None),
        ] {
            assert_eq!(language(text).as_deref(), expected, "{text}");
        }
        assert_eq!(language(&"x".repeat(65)), None);
        assert_eq!(default_context("python"), "default");
        assert_eq!(default_context("r"), "default-r");
    }
}
