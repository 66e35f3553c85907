//! The name of a sandbox.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a sandbox: 1 to 64 of `a-z`, `0-9` and `-`, not starting with
/// `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

/// A text that is not a [`SandboxId`].
#[derive(Debug, thiserror::Error)]
#[error(
    "invalid sandbox id {0:?}: give 1 to 64 characters of a-z, 0-9 and -, starting with a letter \
     or digit"
)]
pub struct InvalidSandboxId(String);

impl SandboxId {
    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = InvalidSandboxId;

    fn from_str(text: &str) -> Result<Self, InvalidSandboxId> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > 64 || text.starts_with('-') || !text.bytes().all(allowed)
        {
            return Err(InvalidSandboxId(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for SandboxId {
    type Error = InvalidSandboxId;

    fn try_from(text: String) -> Result<Self, InvalidSandboxId> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_ids_are_refused() {
        for (text, valid) in [
            ("run0123456789abcdef", true),
            ("a", true),
            ("a-b", true),
            ("", false),
            ("-a", false),
            ("..", false),
            ("a/b", false),
            ("A", false),
            (&"a".repeat(64), true),
            (&"a".repeat(65), false),
        ] {
            assert_eq!(text.parse::<SandboxId>().is_ok(), valid, "{text}");
        }
        assert!(serde_json::from_str::<SandboxId>("\"../x\"").is_err());
    }
}
