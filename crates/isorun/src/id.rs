//! The name of a run: `run` and 16 hex digits.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The name of a run. Whoever knows it can reach the run's anonymous URLs, so
/// it is drawn from the system's secure random numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// A new one that nobody can guess.
    pub fn random() -> Result<Self, getrandom::Error> {
        Ok(Self(format!("run{}", random_hex::<8>()?)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a snapshot: `snap` and 16 hex digits.
pub fn random_snapshot() -> Result<String, getrandom::Error> {
    Ok(format!("snap{}", random_hex::<8>()?))
}

/// Whether a text can be the name of a snapshot. It is also that of a folder.
pub fn is_snapshot(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("snap").is_some_and(|rest| rest.len() == 16 && rest.bytes().all(plain))
}

/// Secure random bytes, as hex digits.
pub fn random_hex<const BYTES: usize>() -> Result<String, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// A text that names no run.
#[derive(Debug, thiserror::Error)]
#[error("a run id is `run` and 16 hex digits, such as run0123456789abcdef")]
pub struct NotARunId;

impl FromStr for RunId {
    type Err = NotARunId;

    fn from_str(text: &str) -> Result<Self, NotARunId> {
        let digits = text.strip_prefix("run").ok_or(NotARunId)?;
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == 16 && digits.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotARunId)
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = NotARunId;

    fn try_from(text: String) -> Result<Self, NotARunId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_ids_are_ids() {
        assert!("run0123456789abcdef".parse::<RunId>().is_ok());
        for text in [
            "",
            "run",
            "0123456789abcdef",
            "run0123456789ABCDEF",
            "run0123456789abcde",
            "run../../../../etc/",
        ] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_whole_names_are_snapshots() {
        assert!(is_snapshot(&random_snapshot().unwrap()));
        for text in
            ["", "snap", "snap../../../../etc/", "snap0123456789ABCDEF", "run0123456789abcdef"]
        {
            assert!(!is_snapshot(text), "{text}");
        }
    }

    #[test]
    fn random_ids_are_ids_and_differ() {
        let (one, two) = (RunId::random().unwrap(), RunId::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.to_string().parse::<RunId>().unwrap(), one);
    }
}
