//! Validation of parameters that several operations have: timeouts, environment
//! variables and paths. Errors name the field.

use std::{collections::BTreeMap, time::Duration};

use super::error::Error;
use crate::config;

/// The longest path, in bytes.
const MAX_PATH_BYTES: usize = 4096;
/// The largest environment, in bytes.
const MAX_ENV_BYTES: usize = 128 << 10;

/// Converts a timeout in seconds, where 0 and -1 mean none.
pub fn timeout(name: &str, seconds: f64) -> Result<Duration, Error> {
    if seconds == 0.0 || seconds == -1.0 {
        return Ok(Duration::ZERO);
    }
    // NaN fails here as well.
    if !(0.001..=config::MAX_TIMEOUT_SECS).contains(&seconds) {
        return Err(Error::invalid(format!(
            "{name} is {seconds}: give seconds, at least 0.001 and at most a year, or 0 or -1 for never"
        )));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Validates environment variables.
pub fn env(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid(format!(
                "env: {name:?} is not a valid name of a variable: it is empty, or contains `=` or a NUL byte"
            )));
        }
        no_nul(&format!("env: the value of {name}"), value)?;
    }
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > MAX_ENV_BYTES {
        return Err(Error::invalid(format!(
            "env has {bytes} bytes: at most {MAX_ENV_BYTES} are allowed"
        )));
    }
    Ok(env)
}

/// Validates a path in a sandbox. It cannot reach files of this machine, since the agent
/// resolves it inside of the sandbox. `..` is refused nevertheless, since its meaning
/// depends on links that the guest controls.
pub fn path(name: &str, path: &str) -> Result<String, Error> {
    path_of_bytes(name, path.as_bytes())?;
    Ok(path.to_owned())
}

/// Validates a path that need not be UTF-8, since file names are bytes.
pub fn path_of_bytes(name: &str, path: &[u8]) -> Result<(), Error> {
    let text = || String::from_utf8_lossy(path);
    if let Some(at) = path.iter().position(|byte| *byte == 0) {
        return Err(nul_at(name, at));
    }
    if path.first() != Some(&b'/') {
        return Err(Error::invalid(format!(
            "{name} is {:?}: give an absolute path in the sandbox",
            text()
        )));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(Error::invalid(format!(
            "{name} has {} bytes: at most {MAX_PATH_BYTES} are allowed",
            path.len()
        )));
    }
    if path.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return Err(Error::invalid(format!("{name} is {:?}: `..` is not allowed in it", text())));
    }
    Ok(())
}

/// Validates that a text contains no NUL byte, which cannot be passed to a program.
pub fn no_nul(name: &str, text: &str) -> Result<(), Error> {
    text.find('\0').map_or(Ok(()), |at| Err(nul_at(name, at)))
}

fn nul_at(name: &str, at: usize) -> Error {
    Error::invalid(format!(
        "{name} has a NUL byte at offset {at}, which cannot be passed to a program"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::error::ErrorKind;

    #[test]
    fn only_absolute_paths_without_parent_components_are_accepted() {
        for good in ["/", "/a", "/a/b c/", "/a..b/..c", "/\u{e9}"] {
            assert_eq!(path("path", good).unwrap(), good);
        }
        for bad in
            ["", "a", "./a", "/..", "/a/../b", "../a", "/a\0b", &format!("/{}", "a".repeat(5000))]
        {
            assert_eq!(path("path", bad).unwrap_err().kind, ErrorKind::InvalidRequest, "{bad}");
        }
    }

    #[test]
    fn timeouts_out_of_range_are_rejected() {
        assert_eq!(timeout("t", 0.0).unwrap(), Duration::ZERO);
        assert_eq!(timeout("t", -1.0).unwrap(), Duration::ZERO);
        assert_eq!(timeout("t", 1.5).unwrap(), Duration::from_millis(1500));
        for bad in [-2.0, f64::NAN, f64::INFINITY, 1e300, 1e-9] {
            assert!(timeout("t", bad).is_err(), "{bad}");
        }
    }
}
