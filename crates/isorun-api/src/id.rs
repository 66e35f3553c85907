//! Ids of runs and snapshots: `run` or `snap`, and 16 hex digits.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The id of a run. It grants access to the run's anonymous URLs, so it comes from
/// the system's secure random number generator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// Creates an id that cannot be guessed.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        Ok(Self(format!("run{}", random_hex::<8>()?)))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Creates the id of a snapshot: `snap` and 16 hex digits.
///
/// # Errors
///
/// The system has no random numbers.
pub fn random_snapshot_id() -> Result<String, getrandom::Error> {
    Ok(format!("snap{}", random_hex::<8>()?))
}

/// Reports whether a text is a valid snapshot id. It is also used as a directory name.
#[must_use]
pub fn is_snapshot_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("snap").is_some_and(|rest| rest.len() == 16 && rest.bytes().all(plain))
}

/// Returns secure random bytes as hex digits.
///
/// # Errors
///
/// The system has no random numbers.
pub fn random_hex<const BYTES: usize>() -> Result<String, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// An error for a text that is not a valid run id.
#[derive(Debug, thiserror::Error)]
#[error("a run id is `run` and 16 hex digits, such as run0123456789abcdef")]
pub struct InvalidRunId;

impl FromStr for RunId {
    type Err = InvalidRunId;

    fn from_str(text: &str) -> Result<Self, InvalidRunId> {
        let digits = text.strip_prefix("run").ok_or(InvalidRunId)?;
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == 16 && digits.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidRunId)
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidRunId;

    fn try_from(text: String) -> Result<Self, InvalidRunId> {
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
    fn malformed_run_ids_are_rejected() {
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
    fn malformed_snapshot_ids_are_rejected() {
        assert!(is_snapshot_id(&random_snapshot_id().unwrap()));
        for text in
            ["", "snap", "snap../../../../etc/", "snap0123456789ABCDEF", "run0123456789abcdef"]
        {
            assert!(!is_snapshot_id(text), "{text}");
        }
    }

    #[test]
    fn random_run_ids_are_valid_and_differ() {
        let (one, two) = (RunId::random().unwrap(), RunId::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.to_string().parse::<RunId>().unwrap(), one);
    }
}
