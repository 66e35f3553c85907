//! Text of a guest on a terminal, and the command's own complaints.
//!
//! A terminal obeys control characters: they can set its title, fill the
//! clipboard, or hide what was shown before. Nobody trusts a guest with that,
//! so on a terminal they are shown instead. Files and pipes get every byte.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

use crate::failure::Failure;

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
        let shown = if self.is_terminal { visible(text) } else { Cow::Borrowed(text) };
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
    match failure.advice() {
        Some(hint) => format!("error: {failure}\nhint: {hint}"),
        None => format!("error: {failure}"),
    }
}

/// Replaces control characters by pictures of them, except those that only
/// move within the text: tab, newline and carriage return.
fn visible(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if harmless(c) { c } else { picture(c) }).collect())
}

fn picture(control: char) -> char {
    match control {
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(control)),
        '\x7f' => Some('\u{2421}'),
        _ => None,
    }
    .unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        for (text, shown) in [
            ("plain\ttext\r\n", "plain\ttext\r\n"),
            ("\x1b[2J", "␛[2J"),
            ("\x1b]52;c;eA==\x07", "␛]52;c;eA==␇"),
            ("a\x7fb\u{9b}31m\0", "a␡b\u{fffd}31m␀"),
            ("héllo 🦀", "héllo 🦀"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }
}
