//! Where code comes from: a terminal with a line editor, or a pipe.

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
    session::Current,
    syntax::{Syntax, word_before},
    unreadable,
};
use crate::failure::Failure;

/// So much may one piece of code be, which is what a guest takes at most.
const MAX_SIZE: u64 = 16 << 20;

/// The number of lines that are remembered.
const MAX_HISTORY: usize = 10_000;

/// The largest size in bytes of a file of lines that is read.
const MAX_HISTORY_SIZE: u64 = 64 << 20;

/// The number of names that are offered for completion, and the length of each
/// in bytes.
const MAX_NAMES: usize = 1_000;
const MAX_NAME: usize = 200;

pub enum Input {
    Terminal { editor: Box<Editor<Assistant, FileHistory>>, history: Option<PathBuf> },
    Pipe { syntax: Syntax, ended: bool },
}

/// What came of waiting for an input.
pub enum Read {
    Text(String),
    /// The line was given up.
    Again,
    End,
}

impl Input {
    pub fn new(runtime: Runtime, tokio: &Handle, current: Current) -> Result<Self, Failure> {
        let syntax = Syntax::new(runtime, tokio.clone());
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(Self::Pipe { syntax, ended: false });
        }
        let config = Config::builder()
            .max_history_size(MAX_HISTORY)
            .map_err(trouble)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .bell_style(BellStyle::None)
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(trouble)?;
        editor.set_helper(Some(Assistant { syntax, current, tokio: tokio.clone() }));
        let history = history(runtime);
        if let Some(path) = &history {
            // The first time there is none. It is read as a whole.
            if fs::metadata(path)
                .is_ok_and(|found| found.is_file() && found.len() <= MAX_HISTORY_SIZE)
            {
                let _ = editor.load_history(path);
            }
        }
        Ok(Self::Terminal { editor: Box::new(editor), history })
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// Waits for a command, or for code that is whole.
    pub fn read(&mut self, prompt: &str) -> Result<Read, Failure> {
        match self {
            Self::Terminal { editor, .. } => match editor.readline(prompt) {
                Ok(text) => Ok(Read::Text(text)),
                Err(ReadlineError::Interrupted) => Ok(Read::Again),
                Err(ReadlineError::Eof) => Ok(Read::End),
                Err(error) => Err(trouble(error)),
            },
            Self::Pipe { ended: true, .. } => Ok(Read::End),
            Self::Pipe { syntax, ended } => {
                let mut text = String::new();
                loop {
                    let room = MAX_SIZE.saturating_sub(text.len() as u64);
                    let read = io::stdin().lock().take(room).read_line(&mut text);
                    let read = read.map_err(|error| match error.kind() {
                        io::ErrorKind::InvalidData => {
                            Failure::usage("what was read from standard input is not UTF-8 text")
                        }
                        _ => unreadable(error),
                    })?;
                    if room == 0 {
                        return Err(Failure::usage(format!(
                            "a piece of code is longer than {MAX_SIZE} bytes"
                        )));
                    }
                    *ended = read == 0;
                    let code = text.strip_suffix('\n').unwrap_or(&text);
                    if *ended && code.is_empty() {
                        return Ok(Read::End);
                    }
                    if *ended || syntax.is_whole(code) {
                        return Ok(Read::Text(code.to_owned()));
                    }
                }
            }
        }
    }

    /// Remembers what was typed for the next time.
    pub fn keep_history(&mut self) {
        if let Self::Terminal { editor, history: Some(path) } = self {
            if let Some(folder) = path.parent() {
                let _ = private_dir(folder);
            }
            // Nobody wants to hear of it at the end of a session.
            let _ = editor.append_history(path);
        }
    }
}

/// Beside the snapshots that have a name. Only its owner can read it.
fn history(runtime: Runtime) -> Option<PathBuf> {
    let folder = default_snapshot_dir().ok()?;
    Some(folder.parent()?.join(format!("history-{runtime}.txt")))
}

/// Whether a text is the name of a variable, in either language.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'))
}

fn trouble(error: ReadlineError) -> Failure {
    match error {
        ReadlineError::Io(error) => unreadable(error),
        other => unreadable(io::Error::other(other)),
    }
}

/// What the editor asks for: names, and whether an input is whole.
pub struct Assistant {
    syntax: Syntax,
    current: Current,
    tokio: Handle,
}

impl Helper for Assistant {}

impl Highlighter for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

impl Completer for Assistant {
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
        // The guest says what it likes, and the editor writes it to the terminal.
        found.retain(|name| name.starts_with(word) && is_name(name));
        found.sort();
        found.dedup();
        found.truncate(MAX_NAMES);
        Ok((start, found))
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        if self.syntax.is_whole(context.input()) {
            return Ok(ValidationResult::Valid(None));
        }
        Ok(ValidationResult::Incomplete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_completed() {
        for name in ["print", "_x1", "$a", "größe", ""] {
            assert!(is_name(name), "{name:?}");
        }
        let long = "x".repeat(MAX_NAME + 1);
        for text in ["a\x1b]0;x\x07", "a b", "a\u{9b}J", "a\u{202e}", "a\nb", long.as_str()] {
            assert!(!is_name(text), "{text:?}");
        }
    }
}
