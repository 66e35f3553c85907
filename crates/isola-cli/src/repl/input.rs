//! The input of the session: a terminal with a line editor, or a pipe.

use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Read as _},
    path::PathBuf,
};

use isola::{Runtime, default_snapshot_dir, private_dir};
use rustyline::{
    CompletionType, Config, Context, Editor, Helper,
    completion::Completer,
    config::BellStyle,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};
use tokio::runtime::Handle;

use super::{
    command::NAMES,
    session::CurrentSandbox,
    stdin_error,
    syntax::{Syntax, word_before},
};
use crate::failure::Failure;

/// The maximum size of one piece of code in bytes, which is the limit of guests.
const MAX_INPUT_BYTES: u64 = 16 << 20;

/// The maximum number of lines in the history.
const MAX_HISTORY_LINES: usize = 10_000;

/// The maximum size of a history file in bytes. A larger one is not loaded.
const MAX_HISTORY_BYTES: u64 = 64 << 20;

/// The maximum number of names that are offered for completion.
const MAX_COMPLETIONS: usize = 1_000;
/// The maximum length of a name that is offered for completion, in bytes.
const MAX_NAME_BYTES: usize = 200;

/// The source of the input.
pub enum Input {
    Terminal { editor: Box<Editor<EditorHelper, FileHistory>>, history: Option<PathBuf> },
    Pipe { syntax: Syntax, ended: bool },
}

/// The result of waiting for an input.
pub enum InputEvent {
    Text(String),
    /// The line was cancelled with Ctrl-C.
    Cancelled,
    End,
}

impl Input {
    pub fn new(runtime: Runtime, tokio: &Handle, current: CurrentSandbox) -> Result<Self, Failure> {
        let syntax = Syntax::new(runtime, tokio.clone());
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(Self::Pipe { syntax, ended: false });
        }
        let config = Config::builder()
            .max_history_size(MAX_HISTORY_LINES)
            .map_err(readline_error)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .bell_style(BellStyle::None)
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(readline_error)?;
        editor.set_helper(Some(EditorHelper { syntax, current, tokio: tokio.clone() }));
        let history = history(runtime);
        if let Some(path) = &history {
            // The file may not exist yet. It is loaded into memory completely.
            if fs::metadata(path)
                .is_ok_and(|found| found.is_file() && found.len() <= MAX_HISTORY_BYTES)
            {
                let _ = editor.load_history(path);
            }
        }
        Ok(Self::Terminal { editor: Box::new(editor), history })
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// Waits for a command or for complete code.
    pub fn read(&mut self, prompt: &str) -> Result<InputEvent, Failure> {
        match self {
            Self::Terminal { editor, .. } => match editor.readline(prompt) {
                Ok(text) => Ok(InputEvent::Text(text)),
                Err(ReadlineError::Interrupted) => Ok(InputEvent::Cancelled),
                Err(ReadlineError::Eof) => Ok(InputEvent::End),
                Err(error) => Err(readline_error(error)),
            },
            Self::Pipe { ended: true, .. } => Ok(InputEvent::End),
            Self::Pipe { syntax, ended } => {
                let mut text = String::new();
                loop {
                    let remaining = MAX_INPUT_BYTES.saturating_sub(text.len() as u64);
                    let read = io::stdin().lock().take(remaining).read_line(&mut text);
                    let read = read.map_err(|error| match error.kind() {
                        io::ErrorKind::InvalidData => {
                            Failure::usage("standard input is not UTF-8 text")
                        }
                        _ => stdin_error(error),
                    })?;
                    if remaining == 0 {
                        return Err(Failure::usage(format!(
                            "a piece of code is longer than {MAX_INPUT_BYTES} bytes"
                        )));
                    }
                    *ended = read == 0;
                    let code = text.strip_suffix('\n').unwrap_or(&text);
                    if *ended && code.is_empty() {
                        return Ok(InputEvent::End);
                    }
                    if *ended || syntax.is_complete(code) {
                        return Ok(InputEvent::Text(code.to_owned()));
                    }
                }
            }
        }
    }

    /// Appends the lines of this session to the history file.
    pub fn save_history(&mut self) {
        if let Self::Terminal { editor, history: Some(path) } = self {
            if let Some(dir) = path.parent() {
                let _ = private_dir(dir);
            }
            // An error is not reported: the history is not essential.
            let _ = editor.append_history(path);
        }
    }
}

/// Returns the path of the history file, beside the directory of the named
/// snapshots. Only its owner can read it.
fn history(runtime: Runtime) -> Option<PathBuf> {
    let dir = default_snapshot_dir().ok()?;
    Some(dir.parent()?.join(format!("history-{runtime}.txt")))
}

/// Reports whether a text may be the name of a variable, in either language.
fn is_identifier(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'))
}

fn readline_error(error: ReadlineError) -> Failure {
    match error {
        ReadlineError::Io(error) => stdin_error(error),
        other => stdin_error(io::Error::other(other)),
    }
}

/// The helper of the line editor: completes names, and detects complete input.
pub struct EditorHelper {
    syntax: Syntax,
    current: CurrentSandbox,
    tokio: Handle,
}

impl Helper for EditorHelper {}

impl Highlighter for EditorHelper {}

impl Hinter for EditorHelper {
    type Hint = String;
}

impl Completer for EditorHelper {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..pos).unwrap_or(line);
        if before.starts_with(':') {
            let found = NAMES.iter().filter(|name| name.starts_with(before));
            return Ok((0, found.map(|name| (*name).to_owned()).collect()));
        }
        let Some((start, word)) = word_before(before) else { return Ok((pos, Vec::new())) };
        let mut found = self.tokio.block_on(self.current.names());
        // Names from the guest are untrusted, and the editor writes them to the terminal.
        found.retain(|name| name.starts_with(word) && is_identifier(name));
        found.sort();
        found.dedup();
        found.truncate(MAX_COMPLETIONS);
        Ok((start, found))
    }
}

impl Validator for EditorHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        if self.syntax.is_complete(context.input()) {
            return Ok(ValidationResult::Valid(None));
        }
        Ok(ValidationResult::Incomplete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_identifiers_are_completed() {
        for name in ["print", "_x1", "$a", "größe", ""] {
            assert!(is_identifier(name), "{name:?}");
        }
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for text in ["a\x1b]0;x\x07", "a b", "a\u{9b}J", "a\u{202e}", "a\nb", long.as_str()] {
            assert!(!is_identifier(text), "{text:?}");
        }
    }
}
