//! Output of guests, and messages of the command.
//!
//! On a terminal, control characters in the output of a guest are replaced by
//! visible characters. Files and pipes get every byte of the output unchanged.
//! Messages of the command contain names and texts from other sources, and so
//! their control characters are replaced on every kind of output.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

use crate::{failure::Failure, visible};

/// Standard output or standard error.
pub struct Screen<W> {
    stream: W,
    is_terminal: bool,
    /// True if the last line has not been ended yet.
    in_line: bool,
}

impl<W: Write + IsTerminal> Screen<W> {
    pub fn new(stream: W) -> Self {
        let is_terminal = stream.is_terminal();
        Self { stream, is_terminal, in_line: false }
    }

    /// Writes text, and flushes the stream.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        let Some(last) = text.chars().next_back() else { return Ok(()) };
        let shown = if self.is_terminal { visible::output(text) } else { Cow::Borrowed(text) };
        self.stream.write_all(shown.as_bytes())?;
        self.in_line = last != '\n';
        self.stream.flush()
    }

    /// Ends the last line, unless it has ended already.
    pub fn end_line(&mut self) -> io::Result<()> {
        if self.in_line { self.text("\n") } else { Ok(()) }
    }

    /// Writes a separate line, also after text that did not end its line.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        let start = if self.in_line { "\n" } else { "" };
        self.text(&format!("{start}{line}\n"))
    }
}

/// Prints the error message of a failed command to standard error.
pub fn print_error(failure: &Failure) {
    if failure.is_silent() {
        return;
    }
    let mut screen = Screen::new(io::stderr().lock());
    // An error of writing the error message cannot be reported.
    let _ = screen.line(&error_text(failure));
}

/// Returns the error message, and the hint if there is one.
pub fn error_text(failure: &Failure) -> String {
    let text = match failure.advice() {
        _ if matches!(failure, Failure::Exit { .. }) => failure.to_string(),
        Some(hint) => format!("error: {failure}\nhint: {hint}"),
        None => format!("error: {failure}"),
    };
    visible::message(&text).into_owned()
}

/// Writes a message of the command to standard output, and ends its line.
pub fn print_text(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{}", visible::message(text)).map_err(Failure::output)
}

/// Writes a value to standard output as one line of JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string(value).map_err(|error| Failure::output(io::Error::other(error)))?;
    writeln!(io::stdout(), "{}", visible::json(&text)).map_err(Failure::output)
}
