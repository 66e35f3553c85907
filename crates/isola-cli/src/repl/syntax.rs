//! Detects complete pieces of code with the language's own parser.
//!
//! The parser runs in a separate sandbox, so that the session and the parser
//! cannot affect each other. If the parser fails, the code counts as complete, and
//! the session reports the error.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use isola::{Error, Language, Runtime, Sandbox, Template, args};
use tokio::runtime::Handle;

/// The maximum time to parse one input. Parsers take much less.
const PARSE_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Syntax {
    runtime: Runtime,
    tokio: Handle,
    parser: Mutex<Option<Sandbox>>,
}

impl Syntax {
    pub fn new(runtime: Runtime, tokio: Handle) -> Self {
        Self { runtime, tokio, parser: Mutex::new(None) }
    }

    /// Reports whether code is complete. `false` means that more lines have to follow.
    pub fn is_complete(&self, text: &str) -> bool {
        if text.trim().is_empty() || text.trim_start().starts_with(':') {
            return true;
        }
        let mut parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner);
        self.tokio.block_on(self.parse(&mut parser, text)).unwrap_or(true)
    }

    async fn parse(&self, parser: &mut Option<Sandbox>, text: &str) -> Result<bool, Error> {
        let sandbox = match parser {
            Some(sandbox) if !sandbox.is_closed() => sandbox,
            missing => missing.insert(self.start().await?),
        };
        let complete = sandbox.run("is_complete", args![text]).timeout(PARSE_TIMEOUT).await?;
        Ok(complete.as_str() != "false")
    }

    async fn start(&self) -> Result<Sandbox, Error> {
        let template = Template::builder(self.runtime).build().await?;
        let sandbox = template.sandbox().create().await?;
        sandbox.start().await?;
        let source = match self.runtime.language() {
            Language::Python => include_str!("whole.py"),
            Language::JavaScript => include_str!("whole.js"),
        };
        sandbox.load_script(source).await?;
        Ok(sandbox)
    }
}

/// Returns the start and the text of the name at the end of `text`, or `None` if
/// there is none, or if it is an attribute, as in `list.app`.
pub fn word_before(text: &str) -> Option<(usize, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let start = text.char_indices().rev().take_while(|(_, c)| is_part(*c)).last()?.0;
    let (before, word) = text.split_at(start);
    if before.ends_with('.') || word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Some((start, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_before_the_cursor_is_found() {
        for (text, word) in [
            ("pri", Some((0, "pri"))),
            ("x = len(wor", Some((8, "wor"))),
            ("größe", Some((0, "größe"))),
            ("a + $b", Some((4, "$b"))),
            ("list.app", None),
            ("12", None),
            ("x ", None),
            ("", None),
        ] {
            assert_eq!(word_before(text), word, "{text}");
        }
    }
}
