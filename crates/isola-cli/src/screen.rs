//! Text of a guest on a terminal, and the command's own complaints.
//!
//! On a terminal control characters of a guest are shown and not obeyed. Files
//! and pipes get every byte of its output. What the command says itself has
//! none, wherever it goes: names and messages of others are only parts of it.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

use crate::{failure::Failure, visible};

/// One of the standard streams.
pub struct Screen<W> {
    stream: W,
    is_terminal: bool,
    /// Whether the last line was not ended yet.
    in_line: bool,
}

impl<W: Write + IsTerminal> Screen<W> {
    pub fn new(stream: W) -> Self {
        let is_terminal = stream.is_terminal();
        Self { stream, is_terminal, in_line: false }
    }

    /// Writes text, and has it seen.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        let Some(last) = text.chars().next_back() else { return Ok(()) };
        let shown = if self.is_terminal { visible::output(text) } else { Cow::Borrowed(text) };
        self.stream.write_all(shown.as_bytes())?;
        self.in_line = last != '\n';
        self.stream.flush()
    }

    /// Ends the last line, if it was not.
    pub fn end_line(&mut self) -> io::Result<()> {
        if self.in_line { self.text("\n") } else { Ok(()) }
    }

    /// Writes a line of its own, also after text that did not end its line.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        let start = if self.in_line { "\n" } else { "" };
        self.text(&format!("{start}{line}\n"))
    }
}

/// Says on standard error why a command failed.
pub fn complain(failure: &Failure) {
    if failure.is_silent() {
        return;
    }
    let mut screen = Screen::new(io::stderr().lock());
    // Where would one complain about this?
    let _ = screen.line(&complaint(failure));
}

/// The complaint, and what can be done.
pub fn complaint(failure: &Failure) -> String {
    let text = match failure.advice() {
        _ if matches!(failure, Failure::Exit { .. }) => failure.to_string(),
        Some(hint) => format!("error: {failure}\nhint: {hint}"),
        None => format!("error: {failure}"),
    };
    visible::message(&text).into_owned()
}

/// Writes a text of the command's own to standard output, and ends its line.
pub fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{}", visible::message(text)).map_err(Failure::output)
}

/// Writes JSON to standard output, in a line of its own.
pub fn say_json(value: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string(value).map_err(|error| Failure::output(io::Error::other(error)))?;
    writeln!(io::stdout(), "{}", visible::json(&text)).map_err(Failure::output)
}
