//! Whether a piece of code is whole, as the language's own parser says.
//!
//! It is asked in a sandbox that has no other purpose: what is typed can
//! neither be changed by the session nor change it. Whatever goes wrong there,
//! the code counts as whole, and the session tells what is wrong with it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use isola::{Error, Runtime, Sandbox, Template, args};
use tokio::runtime::Handle;

/// More than any parser takes.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Syntax {
    runtime: Runtime,
    tokio: Handle,
    parser: Mutex<Option<Sandbox>>,
}

impl Syntax {
    pub fn new(runtime: Runtime, tokio: Handle) -> Self {
        Self { runtime, tokio, parser: Mutex::new(None) }
    }

    /// `false` if more lines have to follow.
    pub fn is_whole(&self, text: &str) -> bool {
        if text.trim().is_empty() || text.trim_start().starts_with(':') {
            return true;
        }
        let mut parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner);
        self.tokio.block_on(self.ask(&mut parser, text)).unwrap_or(true)
    }

    async fn ask(&self, parser: &mut Option<Sandbox>, text: &str) -> Result<bool, Error> {
        let sandbox = match parser {
            Some(sandbox) if !sandbox.is_closed() => sandbox,
            gone => gone.insert(self.start().await?),
        };
        let whole = sandbox.run("whole", args![text]).timeout(PATIENCE).await?;
        Ok(whole.as_str() != "false")
    }

    async fn start(&self) -> Result<Sandbox, Error> {
        let template = Template::builder(self.runtime).build().await?;
        let sandbox = template.sandbox().create().await?;
        sandbox.start().await?;
        let source = match self.runtime {
            Runtime::Python => include_str!("whole.py"),
            Runtime::JavaScript => include_str!("whole.js"),
        };
        sandbox.load_script(source).await?;
        Ok(sandbox)
    }
}

/// The name that ends here, and where it begins; `None` if there is none, or if
/// it is a part of something else's, as in `list.app`.
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
    fn words_are_found() {
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
