//! The options of a store, and the limits of the crate.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

/// The size of a chunk, in bytes. A change makes stored trees unreadable.
pub(crate) const CHUNK_BYTES: usize = 4 << 20;
/// The maximum number of files in a tree.
pub(crate) const MAX_FILES: usize = 1000;
/// The maximum length of a file's name, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 255;
/// The maximum number of chunks in a tree: 1 TiB.
pub(crate) const MAX_CHUNKS: u64 = 1 << 18;
/// The maximum number of chunks that are transferred at the same time.
pub(crate) const MAX_CHUNKS_IN_FLIGHT: usize = 8;
/// The shortest grace period: the store's clock has a resolution of one second.
const MIN_GRACE: Duration = Duration::from_secs(10);

/// The options of [`Blobs::open`](crate::Blobs::open).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BlobOptions {
    /// The directory of the cache, which is created. No other process may use it.
    pub cache_dir: PathBuf,
    /// The disk space of the cache, in bytes; 32 GiB by default. Trees that are in use are
    /// not removed even if they take more.
    pub max_cache_bytes: u64,
    /// The grace period of garbage collection; 6 hours by default. All nodes that use a
    /// store must have the same. An upload fails if it takes longer than half of it, and
    /// nothing is deleted that is younger. At least 10 seconds.
    pub grace: Duration,
    /// The timeout of a connection attempt; 5 seconds by default.
    pub connect_timeout: Duration,
    /// The time in which a response must begin, a read of it must make progress, and the
    /// 4 MiB of a request must be sent; 30 seconds by default.
    pub stall_timeout: Duration,
    /// The timeout of one HTTP request with its response; 2 minutes by default.
    pub request_timeout: Duration,
    /// The timeout of an operation on an object with all retries; 4 minutes by default.
    pub operation_timeout: Duration,
    /// The maximum number of retries of a request; 6 by default, with delays from 0.1 to
    /// 10 seconds.
    pub max_retries: usize,
    /// The variables that configure the access to S3; those of the process by default.
    pub variables: AwsVariables,
}

impl BlobOptions {
    /// Creates options with the default values and this directory for the cache.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            max_cache_bytes: 32 << 30,
            grace: Duration::from_secs(6 * 3600),
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(120),
            operation_timeout: Duration::from_secs(240),
            max_retries: 6,
            variables: AwsVariables::from_env(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.grace < MIN_GRACE {
            let what = format!(
                "the grace period of {:?} is too short: use at least {MIN_GRACE:?}",
                self.grace
            );
            return Err(Error::Config { what });
        }
        let timeouts = [
            ("connect_timeout", self.connect_timeout),
            ("stall_timeout", self.stall_timeout),
            ("request_timeout", self.request_timeout),
            ("operation_timeout", self.operation_timeout),
        ];
        if let Some((name, _)) = timeouts.iter().find(|(_, timeout)| timeout.is_zero()) {
            let what = format!("the option {name} is zero: use a positive duration");
            return Err(Error::Config { what });
        }
        Ok(())
    }

    /// Returns the longest duration of an upload or a collection.
    pub(crate) fn half_grace(&self) -> Duration {
        self.grace / 2
    }
}

/// The variables `AWS_...` that configure the access to S3, such as `AWS_ACCESS_KEY_ID` and
/// `AWS_ENDPOINT_URL`. Their values are not in the output of `Debug`.
#[derive(Clone, Default)]
pub struct AwsVariables(BTreeMap<String, String>);

impl AwsVariables {
    /// Returns the variables of this process.
    pub fn from_env() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// Returns the value of a variable that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl FromIterator<(String, String)> for AwsVariables {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        let belongs =
            |(name, value): &(String, String)| name.starts_with("AWS_") && !value.is_empty();
        Self(variables.into_iter().filter(belongs).collect())
    }
}

impl fmt::Debug for AwsVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_has_names_but_no_values() {
        let mut options = BlobOptions::new("/cache");
        options.variables = [("AWS_SECRET_ACCESS_KEY", "hunter2"), ("HOME", "/home")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        let text = format!("{options:?}");
        assert!(text.contains("AWS_SECRET_ACCESS_KEY"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("HOME"), "{text}");
    }

    #[test]
    fn a_short_grace_period_is_refused() {
        let mut options = BlobOptions::new("/cache");
        assert!(options.check().is_ok());
        options.grace = Duration::from_secs(9);
        let text = options.check().unwrap_err().to_string();
        assert_eq!(text, "the grace period of 9s is too short: use at least 10s");
    }
}
